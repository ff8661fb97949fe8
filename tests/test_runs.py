"""The runs table as one object: defaults filled, selections by workload, and rows added without tearing the file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recommender.errors import InputError, RecommenderError, UnknownNameError
from recommender.problem import build_problem
from recommender.runs import Runs, append_run, read_runs, shared_names, write_runs
from recommender.tables import RUNS

FRAME = pd.DataFrame(
    {
        "metric.cpu": [0.5, None, 0.7],
        "workload": ["sort-10", "sort-20", "join"],
        "instance_type": ["m5.large", "m5.large", "local"],
        "node_count": [2, 2, 1],
        "runtime_s": [10.25, 20.5, 5.0],
        "application": ["sort", "sort", None],
        "status": [None, "failed", None],
        "param.codec": ["gzip", None, "lz4"],
        "input.size_gib": [10, 20, None],
    }
)
ROW = {"workload": "sort", "instance_type": "m5.large", "node_count": 1, "runtime_s": 9.5}


@pytest.fixture
def runs() -> Runs:
    return Runs.from_frame(FRAME)


def test_every_optional_column_is_there_and_the_defaults_are_filled(runs: Runs) -> None:
    canonical = [column.name for column in RUNS.columns]
    assert list(runs.frame) == [*canonical, "input.size_gib", "param.codec", "metric.cpu"]
    assert list(runs.frame["status"]) == ["completed", "failed", "completed"]
    assert list(runs.frame["application"]) == ["sort", "sort", "join"]
    assert list(runs.frame["region"]) == [None, None, None]
    assert runs.frame["cost_usd"].isna().all()
    dtypes = {name: str(dtype) for name, dtype in runs.frame.dtypes.items()}
    assert dtypes["cost_usd"] == dtypes["vcpus"] == dtypes["input.size_gib"] == "float64"
    assert dtypes["started_at"] == "datetime64[us, UTC]"
    assert {dtypes[name] for name in ("workload", "status", "region", "cpu_model", "param.codec")} == {"object"}


def test_types_do_not_depend_on_what_is_missing_or_how_many_rows_there_are(runs: Runs) -> None:
    empty = Runs.from_frame(FRAME.iloc[:0])
    full = Runs.from_frame(FRAME.assign(vcpus=4, region="eu-west-1", started_at="2024-05-01", cost_usd=1))
    assert len(empty) == 0
    for name in (column.name for column in RUNS.columns):
        assert empty.frame[name].dtype == runs.frame[name].dtype == full.frame[name].dtype


def test_runs_are_selected_by_workload_and_application(runs: Runs) -> None:
    assert len(runs) == 3
    assert runs.workloads == ["sort-10", "sort-20", "join"]
    assert list(runs.completed["runtime_s"]) == [10.25, 5.0]
    assert list(runs.of("join").frame.index) == [0]
    assert len(runs.of("never run")) == 0
    assert runs.without("join").workloads == ["sort-10", "sort-20"]
    assert runs.without("sort-10", application="sort").workloads == ["join"]
    assert (runs.inputs, runs.params, runs.metrics) == (["input.size_gib"], ["param.codec"], ["metric.cpu"])


def test_selections_do_not_change_the_runs_they_come_from(runs: Runs) -> None:
    before = runs.frame.copy(deep=True)
    for part in (runs.of("join").frame, runs.without("join").frame, runs.completed):
        part.loc[:, "runtime_s"] = 1.0
    pd.testing.assert_frame_equal(runs.frame, before)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_runs_written_and_read_back_are_identical(tmp_path: Path, runs: Runs, suffix: str) -> None:
    for number, each in enumerate((runs, runs.of("never run"))):
        path = tmp_path / f"runs{number}{suffix}"
        write_runs(each, path)
        again = read_runs(path).frame
        if len(each):
            pd.testing.assert_frame_equal(again, each.frame, check_exact=True)
        assert len(again) == len(each)
    assert "region" not in read_header(tmp_path / "runs0.csv") if suffix == ".csv" else True


def read_header(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split(",")


def test_an_error_names_the_source_it_was_given() -> None:
    with pytest.raises(InputError, match=r"profile of today, row 1, column 'runtime_s': found '0\.0'"):
        Runs.from_frame(FRAME.assign(runtime_s=0.0), source="profile of today")


# Appending


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_appending_creates_the_table_and_unites_the_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"runs{suffix}"
    append_run(path, {**ROW, "input.size_gib": 10})
    append_run(path, {**ROW, "runtime_s": 1 / 3, "status": "failed", "param.codec": "gzip", "region": None})
    append_run(
        path, {**ROW, "node_count": np.int64(4), "started_at": pd.Timestamp("2024-05-01T12:00Z"), "param.codec": 3}
    )
    frame = read_runs(path).frame
    assert list(frame["node_count"]) == [1, 1, 4]
    assert list(frame["runtime_s"]) == [9.5, 1 / 3, 9.5]
    assert list(frame["status"]) == ["completed", "failed", "completed"]
    assert list(frame["param.codec"]) == [None, "gzip", "3"]
    np.testing.assert_array_equal(frame["input.size_gib"], [10, np.nan, np.nan])
    assert frame["started_at"].iloc[2] == pd.Timestamp("2024-05-01T12:00Z")
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_appending_keeps_what_was_empty_empty(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("workload,instance_type,node_count,runtime_s,status,param.level\nsort,m5.large,2,9.5,,1\n")
    append_run(path, ROW)
    assert path.read_text() == (
        "workload,instance_type,node_count,runtime_s,status,param.level\nsort,m5.large,2,9.5,,1.0\nsort,m5.large,1,9.5,,\n"
    )


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ({**ROW, "runtime_s": 0}, InputError, "new run, row 1, column 'runtime_s': found '0.0'"),
        ({**ROW, "runtime_s": float("nan")}, InputError, "'runtime_s': found an empty cell"),
        ({**ROW, "node_count": 1e9}, InputError, "column 'node_count'"),
        ({**ROW, "runtime": 3}, UnknownNameError, "did you mean 'runtime_s'"),
        ({"workload": "sort"}, InputError, "column 'instance_type': missing"),
        ({}, RecommenderError, "new run"),
    ],
)
def test_a_bad_row_leaves_the_table_as_it_was(
    tmp_path: Path, row: dict[str, object], error: type[RecommenderError], words: str
) -> None:
    path = tmp_path / "runs.csv"
    with pytest.raises(error, match=words):
        append_run(path, row)
    assert not path.exists()
    append_run(path, ROW)
    before = path.read_bytes()
    with pytest.raises(error, match=words):
        append_run(path, row)
    assert path.read_bytes() == before


def test_nothing_is_appended_to_a_table_that_is_not_valid(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("workload,instance_type,node_count,runtime_s\nsort,m5.large,0,9\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"runs\.csv, line 2, column 'node_count'"):
        append_run(path, ROW)
    assert path.read_bytes() == before


def test_rows_appended_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_run(path, {**ROW, "runtime_s": number}), range(1, 41)))
    assert sorted(read_runs(path).frame["runtime_s"]) == list(range(1, 41))


APPEND_FOR_EVER = """
import itertools, sys
from recommender.runs import append_run
for number in itertools.count(1):
    append_run(sys.argv[1], {"workload": "w", "instance_type": "m5.large", "node_count": 1, "runtime_s": number})
    print(number, flush=True)
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_writer_killed_at_any_instant_leaves_a_whole_table(tmp_path: Path, suffix: str) -> None:
    path, dice, kept = tmp_path / f"runs{suffix}", random.Random(0), 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", APPEND_FOR_EVER, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(dice.uniform(0, 0.15))
            os.kill(process.pid, signal.SIGKILL)
            reported = 1 + len(process.stdout.readlines())
        runtimes = list(read_runs(path).frame["runtime_s"].iloc[kept:])
        assert runtimes == list(range(1, len(runtimes) + 1))
        assert reported <= len(runtimes) <= reported + 1
        kept += len(runtimes)


class TestAWorkloadThatSeveralSourcesName:
    def source(self, seconds: dict[str, float], name: str = "sort", **columns: object) -> pd.DataFrame:
        """One run on each type."""
        rows = [{"workload": name, "instance_type": kind, "runtime_s": t} for kind, t in seconds.items()]
        return pd.DataFrame(rows).assign(node_count=1, **columns)

    def said(self, *sources: pd.DataFrame) -> list[str]:
        return shared_names([Runs.from_frame(source) for source in sources])

    def test_is_asked_about_where_the_median_configuration_differs_more_than_twofold(self) -> None:
        one = self.source({"a": 10.0, "b": 20.0, "c": 30.0})
        (said,) = self.said(one, self.source({"a": 60.0, "b": 120.0, "c": 30.0, "d": 1.0}))
        assert said.startswith("sort are in several of the sources given")
        assert "differ up to 6.0 x in the median" in said
        assert "rename them in one of the sources" in said
        assert self.said(one, self.source({"a": 60.0, "b": 30.0, "c": 45.0})) == []

    def test_is_asked_about_where_there_is_nothing_to_compare(self) -> None:
        (said,) = self.said(self.source({"a": 10.0}), self.source({"b": 10.0}))
        assert "ran nothing in common: each is taken for one workload" in said

    def test_is_compared_at_one_input_and_by_completed_runs(self) -> None:
        small, large = (self.source({"a": t}, **{"input.size_gib": size}) for t, size in ((10.0, 1.0), (80.0, 8.0)))
        (said,) = self.said(small, large)
        assert "ran nothing in common" in said
        both = pd.concat([small, large], ignore_index=True)
        assert self.said(both, large) == []
        assert self.said(small, self.source({"a": 900.0}, status="failed", **{"input.size_gib": 1.0})) == []

    def test_is_said_in_no_answer_where_a_table_is_given_twice_or_names_differ(self) -> None:
        one = self.source({"a": 10.0, "b": 20.0})
        assert self.said(one, one) == []
        assert self.said(one, self.source({"a": 90.0, "b": 90.0}, name="join")) == []

    def test_is_named_with_every_answer_but_for_the_workload_asked_about(self) -> None:
        kinds = {"m5.large": 10.0, "m5.xlarge": 20.0}
        slow = {kind: 6 * t for kind, t in kinds.items()}
        mine = pd.concat([self.source(kinds), self.source(kinds, name="new")], ignore_index=True)
        other = pd.concat([self.source(slow), self.source(slow, name="new")], ignore_index=True)
        problem, _ = build_problem(mine, workload="new", archive=[other])
        (said,) = (note for note in problem.notes if "in several of the sources" in note)
        assert said.startswith("sort are")
