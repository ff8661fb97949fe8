"""Contract tables: what is read is exactly what was written, and anything else is one line that says where and why."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from recommender import tables
from recommender.errors import InputError, RecommenderError, UnknownNameError
from recommender.tables import CANDIDATES, PRICES, RUNS, TableSchema, read_table, write_table

HEADER = "workload,instance_type,node_count,runtime_s"
GOOD = f"{HEADER}\nsort,m5.large,2,93.5\nsort,m5.xlarge,4,51\n"
FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)")
PATHS = ("../../etc/passwd", "/etc/passwd", "a\\b", "..", ".", "a/b")
CONTROL = ("a\x00b", "a\tb", "a\nb", "a\u202eb", "a\x1b[31mb", "a\x85b", "a\u2028b")

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(source: Path | pd.DataFrame, schema: TableSchema = RUNS, error: type[RecommenderError] = InputError) -> str:
    """Return the message of the error that reading `source` raises, after checking its form."""
    before = source.read_bytes() if isinstance(source, Path) and source.is_file() else None
    with pytest.raises(error) as caught:
        read_table(source, schema)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 1000
    if isinstance(source, Path):
        assert source.name in message
        assert (source.read_bytes() if before is not None else None) == before
    return message


# Examples


@pytest.mark.parametrize(
    ("moments", "kind"),
    [
        ([0, 2**60, None], pa.timestamp("ns", "Europe/Paris")),
        ([-62_135_596_800, 253_402_300_799, 0], pa.timestamp("s")),
        ([None, None, None], pa.timestamp("us")),
        ([-719_162, 0, None], pa.date32()),
    ],
)
def test_times_of_any_arrow_type_are_read_as_their_texts_are(tmp_path: Path, moments: list[int], kind: object) -> None:
    plain = pd.concat([frame_of(), frame_of().head(1)], ignore_index=True)
    cells = pa.array(moments, kind)
    pq.write_table(pa.Table.from_pandas(plain).append_column("started_at", cells), tmp_path / "runs.parquet")
    texts = cells.cast(pa.timestamp("us"), safe=False).cast(pa.string()).to_pylist()
    frame, said = read_table(tmp_path / "runs.parquet", RUNS), read_table(plain.assign(started_at=texts), RUNS)
    pd.testing.assert_frame_equal(frame, said)


@pytest.mark.parametrize("moment", [-62_135_596_801, 253_402_300_800])
def test_times_of_years_without_four_digits_are_refused(tmp_path: Path, moment: int) -> None:
    cells = pa.array([0, moment], pa.timestamp("s"))
    table = pa.Table.from_pandas(frame_of()).append_column("started_at", cells)
    pq.write_table(table, tmp_path / "runs.parquet")
    assert "row 2, column 'started_at': found" in refused(tmp_path / "runs.parquet")


def test_a_table_is_read_with_its_canonical_types(tmp_path: Path) -> None:
    content = f"\ufeff {HEADER} , started_at,param.codec,param.level,input.size_gib\r\n"
    content += ' sort ,m5.large,2.0,9.35e1,2024-05-01T12:00:00+02:00,"gzip, fast",+1,\r\n\r\n'
    content += "join,m5.large,3,51,2024-05-01,,2.5,-1e-3\r\n"
    frame = read_table(write(tmp_path / "runs.csv", content), RUNS)
    assert list(frame["workload"]) == ["sort", "join"]
    assert frame["workload"].dtype == object
    assert frame["node_count"].dtype == np.int64
    assert list(frame["runtime_s"]) == [93.5, 51.0]
    assert list(frame["started_at"]) == [
        pd.Timestamp("2024-05-01T10:00Z"),
        pd.Timestamp("2024-05-01T00:00Z"),
    ]
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"
    assert list(frame["param.codec"]) == ["gzip, fast", None]
    assert list(frame["param.level"]) == [1.0, 2.5]
    np.testing.assert_array_equal(frame["input.size_gib"], [np.nan, -1e-3])


def test_a_header_alone_is_an_empty_table(tmp_path: Path) -> None:
    for content in (HEADER, HEADER + "\n", HEADER.replace("workload", '"workload"')):
        frame = read_table(write(tmp_path / "runs.csv", content), RUNS)
        assert frame.shape == (0, 4)
        assert frame["node_count"].dtype == np.int64


BAD_CELLS = [
    *[("node_count", value) for value in ("0", "-1", "4.5", "1e9", "100001", "", "two", "nan", "inf", "1_000", "0x10")],
    *[
        ("runtime_s", value)
        for value in ("0", "-0", "-3", "1e400", "1e12", "", "nan", "-inf", "1 000", "12s", "True", "１２")
    ],
    *[(name, value) for name in ("workload", "instance_type", "region") for value in FORMULAS + PATHS + CONTROL],
    *[("cpu_model", value) for value in FORMULAS + CONTROL],
    *[("param.codec", value) for value in (*FORMULAS, *CONTROL, "nan", "-inf")],
    *[("metric.cpu", value) for value in ("nan", "infinity", "high", "1,5", "50%")],
    *[("started_at", value) for value in ("yesterday", "2024-13-01", "1714557600", "2024-05-01T25:00", "01/05/2024")],
    *[("status", value) for value in ("Completed", "complete", "ok", "0")],
    ("cost_usd", "-0.01"),
    ("vcpus", "0"),
    ("vcpus", "10001"),
    ("workload", ""),
    ("workload", "x" * 201),
    ("workload", "x" * 200_000),
]


@pytest.mark.parametrize(("column", "value"), BAD_CELLS, ids=lambda value: ascii(value)[:30])
def test_a_bad_cell_is_named_with_file_line_column_value_and_what_is_allowed(
    tmp_path: Path, column: str, value: str
) -> None:
    good = {"workload": "sort", "instance_type": "m5.large", "node_count": "2", "runtime_s": "9"}
    rows = [{**good, "param.codec": "gzip"}, {**good, column: value}]
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [*good, *({column, "param.codec"} - set(good))], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    message = refused(write(tmp_path / "runs.csv", buffer.getvalue()))
    assert "runs.csv, line 3" in message
    if len(value) < 1000:
        assert f"column '{column}'" in message
    assert "allowed: " in message
    if 0 < len(value) < 40 and value.isprintable():
        assert repr(value) in message
    if not value:
        assert "an empty cell" in message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("runtme_s", "runtime_s"), ("inputs.size", "input.size"), ("Region", "region"), ("vcpu", "vcpus")],
)
def test_an_unknown_column_names_the_nearest_known_one(tmp_path: Path, name: str, nearest: str) -> None:
    path = write(tmp_path / "runs.csv", f"{HEADER},{name}\n")
    message = refused(path, error=UnknownNameError)
    assert f"line 1, column '{name}'" in message
    assert f"did you mean '{nearest}'?" in message


def test_a_file_without_a_header_is_told_so(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.csv", GOOD.split("\n", 1)[1])
    assert "line 1, column 'sort': no known column in the header" in refused(path, error=UnknownNameError)


@pytest.mark.parametrize("name", ["input.", "param.\x1b", "metric." + "x" * 300, "=1", "\u202e", "x" * 100_000])
def test_a_hostile_column_name_is_refused(tmp_path: Path, name: str) -> None:
    refused(write(tmp_path / "runs.csv", f"{HEADER},{name}\n"), error=UnknownNameError)


# Keys


def test_candidates_are_unique_by_type_count_and_parameters(tmp_path: Path) -> None:
    content = "instance_type,node_count,param.executors,feature.disk\na,2,1,ssd\na,2,2,ssd\na,2.0,1,hdd\n"
    message = refused(write(tmp_path / "candidates.csv", content), CANDIDATES)
    assert "line 4" in message
    assert "again, as in line 2" in message
    assert len(read_table(write(tmp_path / "two.csv", content.rsplit("\n", 2)[0]), CANDIDATES)) == 2


def test_prices_may_leave_region_and_option_empty_but_not_the_price(tmp_path: Path) -> None:
    content = "instance_type,region,purchase_option,usd_per_hour\nm5.large,,,0.1\nm5.large,,spot,0.03\n"
    frame = read_table(write(tmp_path / "prices.csv", content), PRICES)
    assert list(frame["region"]) == [None, None]
    for value in ("", "0", "-1", "100001"):
        path = write(tmp_path / "bad.csv", content + f"c5.large,us-east-1,spot,{value}\n")
        assert "line 4, column 'usd_per_hour'" in refused(path, PRICES)
    assert "again" in refused(write(tmp_path / "twice.csv", content + "m5.large,,,0.2\n"), PRICES)


# Data frames and Parquet


def frame_of(**columns: object) -> pd.DataFrame:
    base = {"workload": ["sort", "sort"], "instance_type": ["a", "b"], "node_count": [1, 2], "runtime_s": [9.0, 8.0]}
    return pd.DataFrame({**base, **columns})


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("node_count", pd.Series([1, 2], dtype="Int64"), [1, 2]),
        ("node_count", [1.0, 2.0], [1, 2]),
        ("node_count", ["1", 2], [1, 2]),
        ("region", pd.Categorical(["eu", None]), ["eu", None]),
        ("region", pd.Series(["eu", pd.NA], dtype="string"), ["eu", None]),
        ("workload", [1, 2], ["1", "2"]),
        ("param.x", [1, "auto"], ["1", "auto"]),
        ("param.x", [1.0, "auto"], ["1", "auto"]),
        ("param.x", ["1", "2"], [1.0, 2.0]),
        (
            "started_at",
            pd.to_datetime(["2024-05-01", "2024-05-02"]),
            pd.to_datetime(["2024-05-01", "2024-05-02"], utc=True),
        ),
        (
            "started_at",
            [pd.Timestamp("2024-05-01T02:00+02:00"), "2024-05-02"],
            pd.to_datetime(["2024-05-01", "2024-05-02"], utc=True),
        ),
    ],
)
def test_a_data_frame_of_any_dtype_is_read_and_left_alone(column: str, values: object, expected: object) -> None:
    source = frame_of(**{column: values})
    source.index = pd.Index([7, 7])
    copy = source.copy(deep=True)
    result = read_table(source, RUNS)
    assert list(result[column]) == list(expected)
    assert list(result.index) == [0, 1]
    result.loc[0, "runtime_s"] = 1.0
    pd.testing.assert_frame_equal(source, copy)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("node_count", [1, 2.5]),
        ("node_count", [1, None]),
        ("runtime_s", [1.0, np.inf]),
        ("runtime_s", [1.0, np.nan]),
        ("runtime_s", [1.0, 0.0]),
        ("runtime_s", [1.0, True]),
        ("runtime_s", [1.0, b"\xff"]),
        ("workload", ["a", "\udc80"]),
        ("workload", ["a", ["b"]]),
        ("workload", ["a", 10**5000]),
        ("metric.x", [1.0, complex(1, 2)]),
        ("started_at", ["2024-05-01", 3]),
        ("status", ["completed", "running"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "cells",
)
def test_a_bad_cell_of_a_data_frame_is_named_by_row(column: str, values: list[object]) -> None:
    message = refused(frame_of(**{column: pd.Series(values, dtype=object)}))
    assert f"data frame, row 2, column '{column}'" in message


def test_a_column_of_a_type_that_is_no_cell_is_refused(tmp_path: Path) -> None:
    for array in (
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([True, False]),
        pa.array([1, 2], pa.duration("s")),
    ):
        table = pa.table(
            {"workload": ["a", "a"], "instance_type": ["a", "b"], "node_count": [1, 2], "runtime_s": array}
        )
        pq.write_table(table, tmp_path / "runs.parquet")
        assert "column 'runtime_s'" in refused(tmp_path / "runs.parquet")


def test_labels_that_are_no_column_names_are_refused() -> None:
    for label in (3, None, ("a", "b"), np.nan, pd.NA, b"region"):
        refused(frame_of().assign(extra=1).set_axis([*frame_of(), label], axis=1), error=UnknownNameError)
    refused(frame_of().set_axis(["workload", "workload", "node_count", "runtime_s"], axis=1))
    refused(pd.DataFrame())


# Properties

printable = st.characters(codec="utf-8", exclude_categories=["C", "Z"], include_characters=" ")
texts = st.text(printable, min_size=1, max_size=12).map(str.strip)
names = texts.filter(lambda value: value and tables._is_name(value))
words = texts.filter(lambda value: value and tables._is_text(value) and not re.match(tables._NUMBER, value))
numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.datetimes().map(lambda moment: pd.Timestamp(moment, tz="UTC"))
CELLS = {
    "workload": names,
    "instance_type": names,
    "node_count": st.integers(1, 100_000),
    "runtime_s": st.floats(0, 315_576_000, exclude_min=True),
    "status": st.none() | st.sampled_from(["completed", "failed", "timed_out"]),
    "region": st.none() | names,
    "cost_usd": st.none() | st.floats(0, 1e9),
    "started_at": st.none() | times,
    "cpu_model": st.none() | words,
    'input.size, "é"': st.none() | numbers,
    "param.codec": st.none() | words,
    "metric.cpu": numbers,
}
rows = st.lists(st.fixed_dictionaries(CELLS), max_size=6)


@relaxed
@given(rows, st.sampled_from([".csv", ".parquet"]))
def test_any_valid_table_written_and_read_back_is_identical(
    tmp_path: Path, cells: list[dict[str, object]], suffix: str
) -> None:
    frame = read_table(pd.DataFrame(cells, columns=list(CELLS)), RUNS)
    for name in CELLS:
        assert [None if pd.isna(value) else value for value in frame[name]] == [row[name] for row in cells]
    path = tmp_path / f"runs{suffix}"
    write_table(frame, path)
    content = path.read_bytes()
    again = read_table(path, RUNS)
    pd.testing.assert_frame_equal(again, frame, check_exact=True)
    write_table(again, path)
    assert path.read_bytes() == content


CORRUPTIONS = {
    "workload": st.sampled_from(["", *FORMULAS, *PATHS, *CONTROL]),
    "node_count": st.sampled_from(["", "0", "1.5", "1e9", "nan", "two", "-1"]) | words,
    "runtime_s": st.sampled_from(["", "0", "-1", "inf", "nan", "1e400"]) | words,
    "status": words,
    "cost_usd": st.sampled_from(["-1", "nan", "1e10"]) | words,
    "started_at": words,
    "cpu_model": st.sampled_from([*FORMULAS, *CONTROL]),
    "metric.cpu": words,
}


@relaxed
@given(st.data())
def test_any_single_corrupted_cell_is_found(tmp_path: Path, data: st.DataObject) -> None:
    cells = data.draw(st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=5))
    column = data.draw(st.sampled_from(sorted(CORRUPTIONS)))
    value = data.draw(CORRUPTIONS[column])
    place = data.draw(st.integers(0, len(cells) - 1))
    assume(value not in ("completed", "failed", "timed_out"))
    assume(not (column == "started_at" and re.fullmatch(tables._TIMESTAMP, value)))
    path = tmp_path / "runs.csv"
    write_table(read_table(pd.DataFrame(cells, columns=list(CELLS)), RUNS), path)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    lines[place + 1][lines[0].index(column)] = value
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    message = refused(path)
    assert f"runs.csv, line {place + 2}" in message
    assert f"column '{column}'" in message
