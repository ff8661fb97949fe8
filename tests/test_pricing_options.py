"""Purchase options: their names, their rates worked by hand, and the user's own prices in their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.catalogue import TypeFilter, load_catalogue
from recommender.errors import InputError, UnknownNameError
from recommender.pricing import (
    ALL_OPTIONS,
    BY_NAME,
    DEFAULT_OPTIONS,
    PRICE_QUALITIES,
    Offers,
    PurchaseOption,
    parse_purchase,
    price_option,
)
from recommender.pricing.options import commitment_rate, standard_rate
from recommender.problem import Problem, build_problem

COMMITTED = [option for option in ALL_OPTIONS if option.committed]
FAMILIES = sorted(set(load_catalogue().types["family"]))


def names(text: str) -> list[str]:
    return [option.name for option in parse_purchase(text)]


# Names


def test_there_are_26_options_and_their_names_are_unique() -> None:
    # on-demand, spot; and 3 payments x 2 terms of standard, convertible, EC2 and Compute savings plan.
    assert len(ALL_OPTIONS) == len(BY_NAME) == len(set(ALL_OPTIONS)) == 26


@pytest.mark.parametrize("option", ALL_OPTIONS, ids=lambda o: o.name)
def test_the_name_of_an_option_reads_back_as_that_option_alone(option: PurchaseOption) -> None:
    assert parse_purchase(option.name) == (option,)
    assert parse_purchase(f"  {option.name.upper()} ") == (option,)
    assert BY_NAME[option.name] is option


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("all", 26),
        ("reserved", 12),
        ("reserved-1y", 6),
        ("reserved-3y", 6),
        ("savings-plan", 12),
        ("savings-plan-ec2", 6),
        ("savings-plan-compute-3y", 3),
        ("spot,reserved-1y", 7),
        ("all,spot", 26),
        ("spot,spot", 1),
        ("reserved,reserved-1y-no-upfront", 12),
    ],
)
def test_a_name_that_begins_several_is_all_of_them_and_none_comes_twice(text: str, count: int) -> None:
    found = names(text)
    assert len(found) == len(set(found)) == count
    if "," not in text and text != "all":
        assert all(name.startswith(text) for name in found)


def test_the_order_of_the_answer_does_not_depend_on_the_order_asked_for() -> None:
    assert names("spot,on-demand") == names("on-demand, spot") == ["on-demand", "spot"]


def test_a_full_name_does_not_take_its_convertible_sister_along() -> None:
    assert names("reserved-1y-no-upfront") == ["reserved-1y-no-upfront"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("sopt", "spot"),
        ("ondemand", "on-demand"),
        ("spot,reserve", "reserved"),
        ("reserved-1y-no-upfrunt", "reserved-1y-no-upfront"),
        ("savings-plans", "savings-plan"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_meant(text: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{meant}'"):
        parse_purchase(text)


@pytest.mark.parametrize("text", ["", ",", "spot,", "on-demand,,spot", "reserved-", "s", "res", "reserved-2y", "all-"])
def test_half_a_word_or_none_is_not_a_name(text: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown purchase option"):
        parse_purchase(text)


def test_only_options_with_a_term_are_commitments() -> None:
    assert [o.name for o in ALL_OPTIONS if not o.committed] == ["on-demand", "spot"]
    assert {o.term_years for o in COMMITTED} == {1, 3}
    assert {o.name for o in DEFAULT_OPTIONS} >= {"on-demand", "spot"}


# Rates, in cents at an on-demand price of one dollar an hour


@pytest.mark.parametrize(
    ("family", "cents"),
    [
        *[(f, 63.0) for f in ("c5", "m5", "r5", "c6g", "m6g", "r6g", "g4dn", "g5", "inf1", "t3", "t4g", "m4")],
        *[
            (f, 66.1)
            for f in ("c6i", "m6i", "r6i", "m6a", "c6a", "c7g", "m7g", "r7g", "m7i", "c7i", "m7i-flex", "m7a", "c7a")
        ],
        *[(f, 61.6) for f in ("x1", "x1e", "x2idn", "x2gd", "p3dn", "p4d", "u-6tb1", "trn1")],
        *[(f, 64.9) for f in ("i4i", "i4g")],
        *[(f, 68.0) for f in ("i3en", "is4gen", "p2", "p3")],
        ("d2", 58.3),
        ("hpc7g", 78.7),
    ],
)
def test_a_standard_year_without_upfront_costs_what_was_measured_of_its_family(family: str, cents: float) -> None:
    assert 100.0 * standard_rate([family]) == pytest.approx([cents], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "family", "cents"),
    [
        ("reserved-1y-no-upfront", "c5", 63.0),
        ("reserved-1y-partial-upfront", "c5", 60.0012),  # 63 x .9524
        ("reserved-1y-all-upfront", "c5", 58.7979),  # 63 x .9333
        ("reserved-3y-no-upfront", "c5", 42.84),  # 63 x .68
        ("reserved-3y-partial-upfront", "c5", 39.665556),  # 42.84 x .9259
        ("reserved-3y-all-upfront", "c5", 37.287936),  # 42.84 x .8704
        ("reserved-1y-no-upfront-convertible", "c5", 72.45),  # 63 x 1.15
        ("reserved-1y-all-upfront-convertible", "c5", 67.617585),  # 58.7979 x 1.15
        ("reserved-3y-no-upfront-convertible", "c5", 49.266),  # 42.84 x 1.15
        ("reserved-3y-partial-upfront-convertible", "c5", 45.6153894),  # 39.665556 x 1.15
        ("reserved-1y-no-upfront", "m6i", 66.1),
        ("reserved-3y-no-upfront", "m6i", 44.948),  # 66.1 x .68
        ("reserved-1y-no-upfront", "x1", 61.6),
        ("reserved-3y-no-upfront", "x1", 32.032),  # memory: 61.6 x .52
        ("reserved-3y-all-upfront", "x2idn", 27.8806528),  # 32.032 x .8704
        ("reserved-3y-no-upfront", "u-6tb1", 32.032),
        ("reserved-3y-no-upfront", "p3dn", 41.888),  # .616 like the memory families, but x .68
        ("savings-plan-ec2-1y-no-upfront", "c5", 63.0),
        ("savings-plan-ec2-3y-all-upfront", "c5", 37.287936),
        ("savings-plan-ec2-3y-no-upfront", "x1", 32.032),
        ("savings-plan-compute-1y-no-upfront", "c5", 81.0),
        ("savings-plan-compute-1y-no-upfront", "d2", 81.0),  # the same for every family
        ("savings-plan-compute-1y-partial-upfront", "c5", 77.1444),  # 81 x .9524
        ("savings-plan-compute-1y-all-upfront", "c5", 75.5973),  # 81 x .9333
        ("savings-plan-compute-3y-no-upfront", "c5", 55.08),  # 81 x .68
        ("savings-plan-compute-3y-partial-upfront", "c5", 50.998572),  # 55.08 x .9259
        ("savings-plan-compute-3y-all-upfront", "c5", 47.941632),  # 55.08 x .8704
    ],
)
def test_the_rate_of_a_commitment_by_hand(name: str, family: str, cents: float) -> None:
    assert 100.0 * commitment_rate(BY_NAME[name], [family]) == pytest.approx([cents], rel=1e-9)


def test_every_family_of_the_catalogue_saves_by_committing_and_more_by_committing_more() -> None:
    rate = {option.name: commitment_rate(option, FAMILIES) for option in COMMITTED}
    for name, values in rate.items():
        assert values.shape == (len(FAMILIES),)
        assert ((values > 0.2) & (values < 1.0)).all(), name
    for kind in (
        "reserved-{}y-{}",
        "reserved-{}y-{}-convertible",
        "savings-plan-ec2-{}y-{}",
        "savings-plan-compute-{}y-{}",
    ):
        for years in (1, 3):
            none, partial, whole = (
                rate[kind.format(years, payment)] for payment in ("no-upfront", "partial-upfront", "all-upfront")
            )
            assert (none > partial).all()
            assert (partial > whole).all()
        assert (rate[kind.format(1, "all-upfront")] > rate[kind.format(3, "no-upfront")]).all()
    for name in [n for n in rate if n.endswith("-convertible")]:
        assert (rate[name] > rate[name.removesuffix("-convertible")]).all()


def test_a_rate_belongs_to_its_family_wherever_it_stands() -> None:
    option = BY_NAME["reserved-3y-all-upfront"]
    together = commitment_rate(option, FAMILIES)
    assert together[::-1] == pytest.approx(commitment_rate(option, FAMILIES[::-1]), rel=1e-12)
    assert [float(commitment_rate(option, [f])[0]) for f in FAMILIES] == pytest.approx(together, rel=1e-12)
    assert commitment_rate(option, []).shape == (0,)


@pytest.mark.parametrize("name", ["on-demand", "spot"])
def test_what_is_no_commitment_has_no_commitment_rate(name: str) -> None:
    with pytest.raises(ValueError, match="no commitment"):
        commitment_rate(BY_NAME[name], ["c5"])


# Prices of offers


def offers(usd: list[float], family: list[int], **overrides: list[float]) -> Offers:
    """Offers of one region; family is an index into (c5, x1)."""
    n = len(usd)
    return Offers(
        configuration=np.arange(n, dtype=np.int32),
        region=np.zeros(n, dtype=np.int16),
        regions=("us-east-1",),
        usd_per_hour=np.array(usd),
        quality=np.full(n, PRICE_QUALITIES.index("repaired"), dtype=np.int8),
        nodes=np.ones(n),
        minimum_s=np.full(n, 60.0),
        family=np.array(family, dtype=np.int16),
        families=("c5", "x1"),
        overrides={name.replace("_", "-"): np.array(values) for name, values in overrides.items()},
    )


SPOT = pd.DataFrame({"saving": [0.6], "interruption_per_month": [0.25]}, index=pd.Index(["c5"], name="family"))


def test_each_option_is_priced_by_its_family_and_absence_stays_absence() -> None:
    # c5 at $1 and at an unknown price, x1 without spot figures, and a machine outside the catalogue.
    four = offers([1.0, np.nan, 2.0, 3.0], [0, 0, 1, -1])
    nan = np.nan
    for name, expected in {
        "on-demand": [1.0, nan, 2.0, 3.0],
        "spot": [0.4, nan, nan, nan],
        "reserved-1y-no-upfront": [0.63, nan, 1.232, nan],  # 2 x .616
        "reserved-3y-no-upfront": [0.4284, nan, 0.64064, nan],  # 2 x .32032
    }.items():
        priced = price_option(BY_NAME[name], four, SPOT)
        assert priced.usd_per_hour == pytest.approx(expected, rel=1e-12, nan_ok=True), name
        quality = "repaired" if name == "on-demand" else "estimated"
        assert [PRICE_QUALITIES[q] for q in priced.quality] == [quality] * 4
        if name == "spot":
            assert priced.interruption_per_month == pytest.approx([0.25, 0.25, nan, nan], nan_ok=True)
        else:
            assert priced.interruption_per_month is None


def test_an_own_price_replaces_a_derived_one_and_the_rest_follow_the_own_on_demand_price() -> None:
    nan = np.nan
    two = offers([1.0, 1.0], [0, 0], on_demand=[0.5, nan], spot=[nan, 0.1])
    on_demand, spot, reserved = (
        price_option(BY_NAME[n], two, SPOT) for n in ("on-demand", "spot", "reserved-1y-no-upfront")
    )
    assert on_demand.usd_per_hour.tolist() == [0.5, 1.0]
    assert [PRICE_QUALITIES[q] for q in on_demand.quality] == ["listed", "repaired"]
    assert spot.usd_per_hour == pytest.approx([0.2, 0.1], rel=1e-12)  # 0.5 x (1 − .6), and the own price
    assert [PRICE_QUALITIES[q] for q in spot.quality] == ["estimated", "listed"]
    assert reserved.usd_per_hour == pytest.approx([0.315, 0.63], rel=1e-12)
    assert [PRICE_QUALITIES[q] for q in reserved.quality] == ["estimated", "estimated"]
    assert two.usd_per_hour.tolist() == [1.0, 1.0]


@settings(deadline=None, max_examples=30)
@given(c=st.floats(0.01, 100.0))
def test_every_option_scales_with_the_on_demand_price(c: float) -> None:
    for option in ALL_OPTIONS:
        one, scaled = (price_option(option, offers([k * 1.0, k * 2.0], [0, 1]), SPOT) for k in (1.0, c))
        assert scaled.usd_per_hour == pytest.approx(c * one.usd_per_hour, rel=1e-9, nan_ok=True)


# The user's own price table


def table(*rows: tuple[str, str | None, str | None, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["instance_type", "region", "purchase_option", "usd_per_hour"])


def asked(prices: pd.DataFrame | Path | None = None, **options: object) -> Problem:
    types = TypeFilter(instance_types=("m5.xlarge", "c5.xlarge"))
    arguments = {"types": types, "regions": ["us-east-1", "eu-west-1"], "purchase": ALL_OPTIONS} | options
    return build_problem(None, prices=prices, **arguments)[0]  # type: ignore[arg-type]


def prices_of(problem: Problem, option: str) -> dict[tuple[str, str], tuple[float, str]]:
    """(type, region) -> price and its quality."""
    offers = problem.candidates.offers
    priced = price_option(BY_NAME[option], offers, problem.catalogue.spot)
    return {
        (problem.configurations["instance_type"][c], offers.regions[r]): (float(usd), PRICE_QUALITIES[q])
        for c, r, usd, q in zip(offers.configuration, offers.region, priced.usd_per_hour, priced.quality, strict=True)
    }


EVERYWHERE = [(t, r) for t in ("c5.xlarge", "m5.xlarge") for r in ("eu-west-1", "us-east-1")]


def test_without_own_prices_those_of_the_catalogue_hold() -> None:
    catalogue = load_catalogue()
    found = prices_of(asked(), "on-demand")
    assert sorted(found) == EVERYWHERE
    for (name, region), (usd, _) in found.items():
        assert usd == catalogue.price_of(name, region)


def test_an_own_price_without_region_holds_in_every_region_and_is_listed() -> None:
    found = prices_of(asked(table(("m5.xlarge", None, None, 0.1))), "on-demand")
    assert found["m5.xlarge", "us-east-1"] == found["m5.xlarge", "eu-west-1"] == (0.1, "listed")
    assert found["c5.xlarge", "us-east-1"] == prices_of(asked(), "on-demand")["c5.xlarge", "us-east-1"]


def test_an_own_price_of_one_region_holds_there_alone_and_before_one_without_region() -> None:
    before = prices_of(asked(), "on-demand")
    here = prices_of(asked(table(("m5.xlarge", "eu-west-1", "on-demand", 0.1))), "on-demand")
    assert here == before | {("m5.xlarge", "eu-west-1"): (0.1, "listed")}
    both = table(("m5.xlarge", "eu-west-1", None, 0.1), ("m5.xlarge", None, None, 0.15))
    found = prices_of(asked(both), "on-demand")
    assert found["m5.xlarge", "eu-west-1"] == (0.1, "listed")
    assert found["m5.xlarge", "us-east-1"] == (0.15, "listed")


@pytest.mark.parametrize("written", ["reserved-1y-no-upfront", "Reserved-1Y-No-Upfront"])
def test_an_own_price_of_a_derived_option_replaces_that_option_only(written: str) -> None:
    before, after = asked(), asked(table(("m5.xlarge", None, written, 0.07)))
    found = prices_of(after, "reserved-1y-no-upfront")
    assert found["m5.xlarge", "us-east-1"] == (0.07, "listed")
    assert found["c5.xlarge", "us-east-1"][1] == "estimated"
    for option in ("on-demand", "spot", "reserved-3y-no-upfront", "savings-plan-ec2-1y-no-upfront"):
        assert prices_of(after, option) == prices_of(before, option)


def test_derived_options_follow_an_own_on_demand_price() -> None:
    catalogue = load_catalogue().price_of("m5.xlarge", "us-east-1")
    assert catalogue is not None
    before, halved = asked(), asked(table(("m5.xlarge", None, None, catalogue / 2.0)))
    for name in [option.name for option in ALL_OPTIONS[1:]]:
        old, new = (prices_of(problem, name)["m5.xlarge", "us-east-1"] for problem in (before, halved))
        assert new == (pytest.approx(old[0] / 2.0, rel=1e-9), "estimated"), name


def test_an_own_price_brings_in_a_type_that_the_catalogue_offers_without_a_price() -> None:
    catalogue = load_catalogue()
    offered = catalogue.offered["us-east-1"]
    priced = set(catalogue.prices.loc[catalogue.prices["region"] == "us-east-1", "instance_type"])
    usable = catalogue.types[~catalogue.types["retired"] & (catalogue.types["accelerators"] == 0)]
    bare = [t for t in usable.index if offered.get(t, False) and t not in priced]
    if not bare:
        pytest.skip("the catalogue prices everything it offers in us-east-1")
    options = {"types": TypeFilter(instance_types=(bare[0],)), "regions": ["us-east-1"], "include_burstable": True}
    with pytest.raises(InputError, match="no_price"):
        asked(**options)
    found = prices_of(asked(table((bare[0], None, None, 1.5)), **options), "on-demand")
    assert found == {(bare[0], "us-east-1"): (1.5, "listed")}


def test_own_prices_hold_for_a_candidates_table_too_and_before_its_own_column(tmp_path: Path) -> None:
    candidates = pd.DataFrame(
        {"instance_type": ["m5.xlarge", "rack"], "node_count": [2, 2], "usd_per_hour": [None, 3.0], "vcpus": [None, 8]}
    )
    file = tmp_path / "prices.csv"
    table(("m5.xlarge", "us-east-1", None, 0.1), ("rack", None, None, 2.0)).to_csv(file, index=False)
    problem = asked(file, candidates=candidates, regions=["us-east-1"], types=None)
    assert prices_of(problem, "on-demand") == {
        ("m5.xlarge", "us-east-1"): (0.1, "listed"),
        ("rack", ""): (2.0, "listed"),
    }


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ([("m5.xlarg", None, None, 1.0)], UnknownNameError, "did you mean 'm5.xlarge'"),
        ([("m5.xlarge", None, "sopt", 1.0)], UnknownNameError, "did you mean 'spot'"),
        ([("m5.xlarge", None, "reserved", 1.0)], UnknownNameError, "'reserved'"),
        ([("m5.xlarge", None, None, 1.0)] * 2, InputError, "m5.xlarge"),
        ([("m5.xlarge", None, None, 1.0), ("m5.xlarge", None, "on-demand", 2.0)], InputError, "twice"),
        ([("m5.xlarge", None, "spot", 1.0), ("m5.xlarge", None, "SPOT", 2.0)], InputError, "twice"),
        ([("m5.xlarge", "eu-west-1", None, 1.0), ("m5.xlarge", "eu-west-1", "on-demand", 2.0)], InputError, "twice"),
        ([("m5.xlarge", None, None, 0.0)], InputError, "usd_per_hour"),
        ([("m5.xlarge", None, None, -1.0)], InputError, "usd_per_hour"),
        ([("m5.xlarge", None, None, None)], InputError, "usd_per_hour"),
        ([(None, None, None, 1.0)], InputError, "instance_type"),
    ],
)
def test_a_price_table_with_a_mistake_is_refused(
    rows: list[tuple[str, str | None, str | None, float]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        asked(table(*rows))


def test_a_price_table_with_an_unknown_region_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        asked(table(("m5.xlarge", "us-est-1", None, 0.1)))


def test_a_price_table_that_names_no_row_of_the_candidates_table_is_refused() -> None:
    candidates = pd.DataFrame({"instance_type": ["rack"], "node_count": [1], "usd_per_hour": [3.0]})
    with pytest.raises(UnknownNameError, match="rack"):
        asked(table(("rakc", None, None, 2.0)), candidates=candidates, types=None)
