"""Durations and amounts of money are read as people write them and shown as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.errors import InputError
from recommender.units import format_duration, format_usd, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("90s", 90),
        ("30m", 1800),
        ("1.5h", 5400),
        ("120", 120),
        ("1h30m", 5400),
        (" 2 Min ", 120),
        ("1d", 86400),
    ],
)
def test_durations_people_write_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2x", "1h30", "-5s", "0", "1e3", "nan", "inf", "2h;", "١s", "1" * 400])
def test_what_is_not_a_duration_is_refused_with_the_text_and_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"duration.*1\.5h") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@given(st.floats(min_value=1e-3, max_value=1e7))
def test_a_formatted_duration_reads_back_as_nearly_itself(seconds: float) -> None:
    text = format_duration(seconds).replace(",", "")
    assert math.isclose(parse_duration(text), seconds, rel_tol=0.05, abs_tol=0.0)


@given(st.integers(1, 10**6), st.sampled_from("smhd"))
def test_a_whole_number_of_a_unit_is_read_exactly(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7500, "2 h 05 min"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (0.1254, "0.125 s"),
        (0, "0.0 s"),
    ],
)
def test_durations_are_shown_for_reading(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0.01234, "$0.0123"),
        (1234.5, "$1,234.50"),
        (0.5, "$0.500"),
        (-1.2, "-$1.20"),
        (0, "$0.00"),
        (1.2e-5, "$0.0000120"),
    ],
)
def test_amounts_keep_three_significant_digits(usd: float, text: str) -> None:
    assert format_usd(usd) == text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_absent_number_is_not_formatted(value: float) -> None:
    with pytest.raises(InputError):
        format_duration(value)
    with pytest.raises(InputError):
        format_usd(value)
