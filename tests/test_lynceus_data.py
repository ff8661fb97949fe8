"""The Lynceus data set: 3 TensorFlow jobs, whose parameters are part of the configuration. From the mirror."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recommender.datasets import Dataset, archive_members, descriptor, fetch_dataset
from recommender.models import configuration_rows
from recommender.normalise import NORMALISERS, table_csv
from recommender.problem import build_problem
from recommender.strategies import strategy

pytestmark = pytest.mark.usefixtures("offline")

JOBS = {
    "cnn": "t2_cnn_intermediate_values.csv",
    "multilayer": "t2_multilayer_intermediate_values.csv",
    "rnn": "t2_rnn.csv",
}
CONFIGURATION = ["instance_type", "node_count", "param.learning_rate", "param.batch_size", "param.synchronism"]
PRICES = {"t2.small": 0.023, "t2.medium": 0.0464, "t2.xlarge": 0.1856, "t2.2xlarge": 0.3712}


@pytest.fixture(scope="module")
def lynceus(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return fetch_dataset("lynceus", mirror=mirror, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def runs(lynceus: Dataset) -> pd.DataFrame:
    assert lynceus.runs is not None
    return lynceus.runs.frame


@pytest.fixture(scope="module")
def candidates(lynceus: Dataset) -> pd.DataFrame:
    assert lynceus.candidates is not None
    return lynceus.candidates


@pytest.fixture(scope="module")
def upstream(mirror: Path) -> dict[str, bytes]:
    """The three files of the archive, as they are."""
    (relative,) = descriptor("lynceus").urls
    with gzip.open(mirror / relative) as stream:
        return {
            path.removeprefix("files/"): content
            for path, content in archive_members(stream, *descriptor("lynceus").members)
        }


@pytest.fixture(scope="module")
def records(upstream: dict[str, bytes]) -> pd.DataFrame:
    """The rows of the archive read independently of the normaliser, with the keys of the runs table."""
    parts = [pd.read_csv(io.BytesIO(upstream[file])).assign(workload=job) for job, file in JOBS.items()]
    return pd.concat(parts, ignore_index=True).rename(
        columns={
            "vm_flavor": "instance_type",
            "n_workers": "node_count",
            "learning_rate": "param.learning_rate",
            "batch_size": "param.batch_size",
            "synchronism": "param.synchronism",
        }
    )


def test_three_jobs_ran_once_on_each_of_384_configurations(
    runs: pd.DataFrame, candidates: pd.DataFrame, upstream: dict[str, bytes]
) -> None:
    assert set(upstream) == set(JOBS.values())
    assert len(runs) == 1152
    assert len(candidates) == 384
    assert not runs.duplicated(["workload", *CONFIGURATION]).any()
    space = set(candidates[CONFIGURATION].itertuples(index=False, name=None))
    assert len(space) == 384
    for job in JOBS:
        assert set(runs.loc[runs["workload"] == job, CONFIGURATION].itertuples(index=False, name=None)) == space
    cores = candidates["node_count"] * candidates["vcpus"]
    assert sorted(cores.unique()) == [8, 16, 32, 48, 64, 80, 96, 112]
    assert (runs["application"] == runs["workload"]).all()


def test_parameters_are_numbers_and_words_and_every_run_is_of_a_candidate(
    lynceus: Dataset, candidates: pd.DataFrame
) -> None:
    assert lynceus.runs is not None
    assert lynceus.runs.params == CONFIGURATION[2:]
    for frame in (lynceus.runs.frame, candidates):
        assert sorted(frame["param.learning_rate"].unique()) == [1e-5, 1e-4, 1e-3]
        assert sorted(frame["param.batch_size"].unique()) == [16, 256]
        assert sorted(frame["param.synchronism"].unique()) == ["async", "sync"]
    problem, mine = build_problem(lynceus.runs, workload="cnn", candidates=candidates)
    assert sorted(configuration_rows(problem, mine.frame)) == list(range(384))


def test_only_what_reached_the_accuracy_within_ten_minutes_is_completed(
    runs: pd.DataFrame, records: pd.DataFrame
) -> None:
    counts = runs.groupby(["workload", "status"]).size().to_dict()
    assert counts == {
        ("cnn", "completed"): 262,
        ("cnn", "timed_out"): 122,
        ("multilayer", "completed"): 237,
        ("multilayer", "timed_out"): 147,
        ("rnn", "completed"): 339,
        ("rnn", "timed_out"): 45,
    }
    both = runs.merge(records, on=["workload", *CONFIGURATION], validate="one_to_one")
    assert len(both) == 1152
    in_time = (both["acc"] >= 0.85) & (both["training_time"] <= 600)
    assert ((both["status"] == "completed") == in_time).all()
    assert (both["runtime_s"] == both["training_time"]).all()
    assert (both["metric.accuracy"] == both["acc"]).all()
    assert (both["metric.iterations"] == both["total_iterations"]).all()
    late = both[(both["acc"] >= 0.85) & ~in_time]
    assert late["workload"].value_counts().to_dict() == {"cnn": 10, "rnn": 2, "multilayer": 1}
    assert both.loc[~in_time, "runtime_s"].between(600, 702).all()
    assert both.loc[in_time, "runtime_s"].between(30, 600).all()


def test_a_run_is_billed_for_its_workers_and_two_more_machines(
    runs: pd.DataFrame, candidates: pd.DataFrame, records: pd.DataFrame
) -> None:
    assert (records["n_ps"] == 1).all()
    billed = runs.merge(candidates, on=CONFIGURATION, validate="many_to_one")
    assert len(billed) == 1152
    machines = billed["node_count"] + 2
    by_hand = billed["runtime_s"] / 3600 * machines * billed["instance_type"].map(PRICES)
    np.testing.assert_allclose(billed["cost_usd"], by_hand, rtol=1e-12)
    product = billed["runtime_s"] / 3600 * billed["usd_per_hour"] * billed["node_count"]
    np.testing.assert_allclose(billed["cost_usd"], product, rtol=1e-12)
    alone = candidates[(candidates["instance_type"] == "t2.2xlarge") & (candidates["node_count"] == 1)]
    assert alone["usd_per_hour"].unique() == pytest.approx([3 * 0.3712])


def test_rows_read_by_hand(runs: pd.DataFrame) -> None:
    def row(job: str, *configuration: object) -> pd.Series:
        same = (runs[CONFIGURATION] == list(configuration)).all(axis=1) & (runs["workload"] == job)
        (found,) = runs[same].index
        return runs.loc[found]

    slow = row("cnn", "t2.small", 8, 1e-5, 256, "sync")
    assert (slow["status"], slow["runtime_s"], slow["metric.accuracy"]) == ("timed_out", 609.510895, 0.6567999721)
    assert slow["cost_usd"] == pytest.approx(10 * 0.023 * 609.510895 / 3600)
    assert slow["started_at"] == pd.Timestamp("2018-09-24 10:45:32", tz="UTC")
    fast = row("rnn", "t2.2xlarge", 1, 1e-3, 256, "async")
    assert (fast["status"], fast["runtime_s"], fast["metric.iterations"]) == ("completed", 30.40092301, 407)
    late = row("cnn", "t2.small", 32, 1e-3, 256, "sync")
    assert (late["status"], late["runtime_s"], late["metric.accuracy"]) == ("timed_out", 651.4608212, 0.8592000008)
    just = row("multilayer", "t2.small", 8, 1e-5, 256, "async")
    assert (just["status"], just["runtime_s"], just["metric.accuracy"]) == ("completed", 332.9627349, 0.8519999981)


def test_runs_start_their_runtime_before_the_time_in_the_records_identifier(
    runs: pd.DataFrame, records: pd.DataFrame
) -> None:
    both = runs.merge(records, on=["workload", *CONFIGURATION], validate="one_to_one")
    for started_at, runtime_s, identifier in zip(both["started_at"], both["runtime_s"], both["_id/$oid"], strict=True):
        written_at = datetime.fromtimestamp(int(identifier[:8], 16), UTC)
        assert abs(started_at + timedelta(seconds=runtime_s) - written_at) <= timedelta(seconds=2)


def test_machines_are_as_sold(candidates: pd.DataFrame) -> None:
    machines = candidates.groupby("instance_type")[["vcpus", "memory_gib"]].agg(["min", "max"])
    assert machines.loc["t2.small"].tolist() == [1, 1, 2, 2]
    assert machines.loc["t2.2xlarge"].tolist() == [8, 8, 32, 32]


def test_the_order_of_the_archive_does_not_change_the_bytes(
    lynceus: Dataset, upstream: dict[str, bytes], mirror: Path, tmp_path: Path
) -> None:
    tables = NORMALISERS["lynceus"]((f"files/{name}", upstream[name]) for name in sorted(upstream, reverse=True))
    again = fetch_dataset("lynceus", mirror=mirror, cache=tmp_path)
    for table, path in lynceus.files.items():
        assert table_csv(tables[table]) == path.read_bytes() == again.files[table].read_bytes()


def test_an_unknown_machine_is_refused_not_priced(upstream: dict[str, bytes]) -> None:
    name = JOBS["rnn"]
    with pytest.raises(KeyError, match=r"t3\.nano"):
        NORMALISERS["lynceus"]([(f"files/{name}", upstream[name].replace(b"t2.2xlarge", b"t3.nano"))])


@pytest.mark.parametrize("job", sorted(JOBS))
def test_the_cheapest_completed_run_is_recommended_and_no_timed_out_one(
    job: str, lynceus: Dataset, candidates: pd.DataFrame
) -> None:
    problem, mine = build_problem(lynceus.runs, workload=job, candidates=candidates, deadline_s=600.0, top=384)
    answer = strategy("column-mean").recommend(problem, mine)
    ranked = [(r.instance_type, r.node_count, *(r.params[name] for name in CONFIGURATION[2:])) for r in answer.rows]
    frame = mine.frame.set_index(CONFIGURATION)
    assert len(ranked) > 200
    assert set(frame.loc[ranked, "status"]) == {"completed"}
    assert frame.loc[ranked[0], "cost_usd"] <= 1.05 * mine.completed["cost_usd"].min()


def test_the_table_has_a_header_the_csv_module_reads_as_the_library_does(lynceus: Dataset) -> None:
    with lynceus.files["runs"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["status"] in ("completed", "timed_out") for row in rows)
    assert all(value != "" for row in rows for value in row.values())
