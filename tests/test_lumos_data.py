"""The Lumos data set: 92 workloads on single VMs of four clouds, with AWS's activity counters. From the mirror."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recommender.catalogue import load_catalogue
from recommender.datasets import Dataset, descriptor, fetch_dataset
from recommender.normalise import NORMALISERS, table_csv
from recommender.problem import build_problem
from recommender.runs import Runs
from recommender.strategies import strategy

pytestmark = pytest.mark.usefixtures("offline")

AWS_TYPES = {f"{family}5.{size}" for family in "cmr" for size in ("large", "xlarge", "2xlarge")}
SAMPLE = "aws/c5.2xlarge/hadoop_aggregation_small_1"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def lumos(mirror: Path, cache: Path) -> Dataset:
    return fetch_dataset("lumos", mirror=mirror, cache=cache)


@pytest.fixture(scope="module")
def runs(lumos: Dataset) -> pd.DataFrame:
    assert lumos.runs is not None
    frame = lumos.runs.frame
    return frame.assign(
        provider=np.where(frame["instance_type"].isin(AWS_TYPES), "aws", frame["instance_type"].str.split("-").str[0])
    )


@pytest.fixture(scope="module")
def candidates(lumos: Dataset) -> pd.DataFrame:
    assert lumos.candidates is not None
    return lumos.candidates


@pytest.fixture(scope="module")
def upstream(mirror: Path) -> dict[str, bytes]:
    """Every report, and the counters of one type, read with `tarfile` alone."""
    (relative,) = descriptor("lumos").urls
    found: dict[str, bytes] = {}
    with tarfile.open(mirror / relative) as archive:
        for member in archive:
            path = member.name.split("/", 1)[1]
            if path.endswith("report.json") or path.startswith("aws/c5.2xlarge/"):
                content = archive.extractfile(member)
                assert content is not None
                found[path] = content.read()
    return found


@pytest.fixture(scope="module")
def reports(upstream: dict[str, bytes]) -> pd.DataFrame:
    """One row a report: where it lay and what it says."""
    rows: list[dict[str, Any]] = []
    for path, content in upstream.items():
        if path.endswith("report.json"):
            *where, kind, directory, _ = PurePosixPath(path).parts
            provider, campaign = where if len(where) == 2 else (where[0], "")
            name = kind if provider == "aws" else f"{provider}-{kind}"
            workload = "_".join(directory.split("_")[:3])
            place = {"provider": provider, "campaign": campaign, "type": name, "workload_directory": workload}
            rows.append({**place, **json.loads(content)})
    return pd.DataFrame(rows)


def key(frame: pd.DataFrame, *columns: str) -> Counter[tuple[Any, ...]]:
    return Counter(frame[list(columns)].itertuples(index=False, name=None))


# What is there


def test_92_workloads_ran_on_55_types_of_four_clouds(runs: pd.DataFrame, candidates: pd.DataFrame) -> None:
    assert len(runs) == 12_149
    assert runs["workload"].nunique() == 92
    assert runs["application"].nunique() == 19
    assert runs["provider"].value_counts().to_dict() == {"alibaba": 4041, "huawei": 3320, "tencent": 2906, "aws": 1882}
    assert candidates["feature.provider"].value_counts().to_dict() == {
        "alibaba": 18,
        "huawei": 15,
        "tencent": 13,
        "aws": 9,
    }
    assert set(runs["instance_type"]) == set(candidates["instance_type"])
    assert (runs["node_count"] == 1).all()
    assert runs.groupby(["workload", "instance_type"]).ngroups == 92 * 55 - 94
    huge = {"hadoop_dfsioe-read_huge", "hadoop_dfsioe-write_huge", "hadoop_pagerank_huge"}
    assert set(runs["workload"]) - set(runs.loc[runs["provider"] == "aws", "workload"]) == huge


def test_repetitions_are_rows_and_no_run_is_there_twice(runs: pd.DataFrame) -> None:
    assert not runs.duplicated(["workload", "instance_type", "started_at", "runtime_s"]).any()
    repetitions = runs.groupby(["workload", "instance_type"]).size().value_counts().to_dict()
    assert repetitions == {3: 3558, 1: 1381, 2: 14, 6: 5, 5: 4, 4: 4}
    hive = runs["workload"].str.startswith("hive_")
    assert runs[hive].groupby(["workload", "instance_type"]).size().max() == 1


def test_upstream_has_completed_runs_only_and_an_incomplete_one_would_not_count_as_completed(
    runs: pd.DataFrame, reports: pd.DataFrame, upstream: dict[str, bytes]
) -> None:
    assert reports["completed"].all()
    assert set(runs["status"]) == {"completed"}
    whole = upstream[f"{SAMPLE}/report.json"]
    crashed = whole.replace(b'"completed": true', b'"completed": false')
    assert crashed != whole
    (run,) = NORMALISERS["lumos"]([(f"{SAMPLE}/report.json", crashed)])["runs"]
    assert run["status"] == "failed"


def test_the_two_campaigns_are_never_pooled(runs: pd.DataFrame, reports: pd.DataFrame) -> None:
    """Each upstream run is in the table once, but those of `1 second` whose workload `5 second` has."""
    assert len(reports) == 17_026
    five = set(reports.loc[reports["campaign"] == "5 second", "workload_directory"])
    left_out = (reports["campaign"] == "1 second") & reports["workload_directory"].isin(five)
    assert left_out.sum() == 4877
    kept = reports[~left_out].assign(runtime_s=lambda rows: rows["elapsed_time"].astype(float))
    assert key(runs, "workload", "instance_type", "runtime_s") == key(kept, "workload_directory", "type", "runtime_s")
    campaigns = kept.groupby(["workload_directory", "type"])["campaign"].nunique()
    assert (campaigns == 1).all()
    assert set(kept.loc[kept["campaign"] == "1 second", "framework"].dropna()) <= {"hive"}
    assert kept.loc[kept["campaign"] == "1 second", "workload_directory"].str.startswith("hive_").all()


def test_rows_read_by_hand(runs: pd.DataFrame) -> None:
    def rows(workload: str, instance_type: str) -> pd.DataFrame:
        return runs[(runs["workload"] == workload) & (runs["instance_type"] == instance_type)]

    assert 30.123 in rows("hadoop_sort_tiny", "alibaba-c6.2xlarge")["runtime_s"].to_list()
    assert 28.416 not in rows("hadoop_sort_tiny", "alibaba-c6.2xlarge")["runtime_s"].to_list()
    assert 356.793 in rows("spark_pagerank_large", "huawei-m6.large.8")["runtime_s"].to_list()
    hive = rows("hive_join_large", "tencent-s5.medium4").iloc[0]
    assert (hive["runtime_s"], hive["application"]) == (741.0, "join")
    assert hive["started_at"] == pd.Timestamp("2020-11-28 15:40:42", tz="UTC")
    aws = rows("hadoop_aggregation_small", "c5.2xlarge").iloc[0]
    assert (aws["runtime_s"], aws["application"]) == (40.324, "aggregation")
    assert aws["started_at"] == pd.Timestamp("2020-12-05 13:36:57", tz="UTC")
    assert aws["input.size_gib"] == 3729493 / 2**30


def test_programs_are_grouped_whatever_their_framework_and_size(runs: pd.DataFrame) -> None:
    of = runs.groupby("application")["workload"].unique().map(sorted).to_dict()
    assert of["wordcount"] == ["spark_wordcount_large", "spark_wordcount_small", "spark_wordcount_tiny"]
    assert {"hadoop_join_huge", "spark_join_tiny", "hive_join_small"} <= set(of["join"])
    assert {"hive_aggregationMAX_small", "hive_aggregation_large", "spark_aggregation_tiny"} <= set(of["aggregation"])
    assert set(of["dfsioe-read"]).isdisjoint(of["dfsioe-write"])


def test_sizes_describe_the_workload_and_follow_the_directory(runs: pd.DataFrame, reports: pd.DataFrame) -> None:
    sizes = runs.groupby("workload")["input.size_gib"].agg(["nunique", "first"])
    assert (sizes["nunique"] == np.where(sizes.index.str.startswith("hive_"), 0, 1)).all()
    assert sizes["first"].drop([w for w in sizes.index if w.startswith("hive_")]).between(1e-6, 30).all()
    for program in ("hadoop_sort", "spark_als", "spark_scan"):
        tiny, small, large, huge = (
            sizes.loc[f"{program}_{size}", "first"] for size in ("tiny", "small", "large", "huge")
        )
        assert tiny < small < large < huge
    mislabelled = reports[reports["workload_directory"].str.split("_").str[2] != reports["datasize"]]
    assert set(mislabelled["workload_directory"]) == {"spark_als_huge"}
    assert len(mislabelled) == 45
    of_the_label = mislabelled["input_size"].astype(float) / 2**30
    assert np.allclose(of_the_label, sizes.loc["spark_als_huge", "first"], rtol=0.01)


# Machines


def test_aws_machines_are_the_catalogues_and_the_others_collide_with_none(candidates: pd.DataFrame) -> None:
    catalogue = load_catalogue().types
    table = candidates.set_index("instance_type")
    aws = table[table["feature.provider"] == "aws"]
    assert set(aws.index) == AWS_TYPES
    assert aws["vcpus"].equals(catalogue.loc[aws.index, "vcpus"].astype(float))
    assert aws["memory_gib"].equals(catalogue.loc[aws.index, "memory_gib"].astype(float))
    assert not set(table.index[table["feature.provider"] != "aws"]) & set(catalogue.index)
    assert "usd_per_hour" not in table
    assert (table["node_count"] == 1).all()


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_gib"),
    [
        ("alibaba-hfc6.large", 2, 4),
        ("alibaba-g6.xlarge", 4, 16),
        ("alibaba-hfr6.2xlarge", 8, 64),
        ("huawei-s6.large.2", 2, 4),
        ("huawei-c6.xlarge.4", 4, 16),
        ("huawei-m6.2xlarge.8", 8, 64),
        ("tencent-s5.medium4", 2, 4),
        ("tencent-c3.large16", 4, 16),
        ("tencent-m5.2xlarge64", 8, 64),
    ],
)
def test_machines_of_the_other_clouds_are_as_sold(
    name: str, vcpus: int, memory_gib: int, candidates: pd.DataFrame
) -> None:
    row = candidates.set_index("instance_type").loc[name]
    assert (row["vcpus"], row["memory_gib"]) == (vcpus, memory_gib)


# Counters


def test_counters_are_there_for_every_run_on_aws_and_for_no_other(lumos: Dataset, runs: pd.DataFrame) -> None:
    assert lumos.runs is not None
    metrics = runs[lumos.runs.metrics]
    assert metrics.shape[1] == 35
    on_aws = runs["provider"] == "aws"
    assert metrics[on_aws].notna().all(axis=None)
    assert metrics[~on_aws].isna().all(axis=None)


def test_counters_are_summaries_of_the_samples(runs: pd.DataFrame, upstream: dict[str, bytes]) -> None:
    samples = pd.read_csv(io.BytesIO(upstream[f"{SAMPLE}/sar.csv"]))
    same = (runs["workload"] == "hadoop_aggregation_small") & (runs["instance_type"] == "c5.2xlarge")
    run = runs[same & (runs["runtime_s"] == 40.324)].iloc[0]
    used_gib = (samples["kbmemused"] - samples["kbbuffers"] - samples["kbcached"]) / 2**20
    by_hand = {
        "cpu_user_percent_mean": samples["%user"].mean(),
        "cpu_user_percent_p90": samples["%user"].quantile(0.9, interpolation="higher"),
        "disk_write_mib_per_s_mean": samples["wr_sec/s"].mean() / 2048,
        "disk_write_mib_per_s_max": samples["bwrtn/s"].max() / 2048,
        "loopback_mib_per_s_p90": samples["txkB/s"].quantile(0.9, interpolation="higher") / 1024,
        "run_queue_tasks_mean": samples["runq-sz"].mean(),
        "memory_commit_percent_max": samples["%commit"].max(),
        "memory_used_gib_mean": used_gib.mean(),
        "memory_used_gib_max": used_gib.max(),
    }
    assert samples["timestamp"].iloc[[0, -1]].to_list() == ["13:36:56", "13:37:37"]
    assert run[[f"metric.{name}" for name in by_hand]].to_list() == pytest.approx(list(by_hand.values()), abs=6e-5)


def test_counters_are_plausible_in_their_units(runs: pd.DataFrame, candidates: pd.DataFrame) -> None:
    aws = runs[runs["provider"] == "aws"].merge(candidates, on="instance_type", suffixes=("", "_sold"))
    counter = aws.filter(like="metric.").rename(columns=lambda name: name.removeprefix("metric."))
    assert (counter >= 0).all(axis=None)
    assert (counter.filter(like="cpu_") <= 100).all(axis=None)
    assert (counter.filter(like="disk_busy_percent") <= 101).all(axis=None)
    parts = counter[[f"cpu_{part}_percent_mean" for part in ("user", "system", "iowait", "idle")]].sum(axis=1)
    assert parts.between(97, 100.1).all()
    for name in counter:
        stem, statistic = str(name).rsplit("_", 1)
        if statistic in ("mean", "p90") and f"{stem}_max" in counter:
            assert (counter[name] <= counter[f"{stem}_max"]).all()
    assert (counter["memory_used_gib_max"] + counter["page_cache_gib_mean"] < aws["memory_gib"] * 1.1).all()
    assert (counter["memory_used_gib_max"] < aws["memory_gib"]).all()
    assert counter["memory_used_gib_mean"].min() > 1
    busy = aws["workload"].str.startswith("hadoop_dfsioe-write_large")
    assert counter.loc[busy, "disk_write_mib_per_s_mean"].median() > counter["disk_write_mib_per_s_mean"].median()


def test_runs_take_plausible_times(runs: pd.DataFrame) -> None:
    assert runs["runtime_s"].between(5, 7200).all()
    median = runs.groupby(["application", "workload"])["runtime_s"].median()
    assert median["terasort", "spark_terasort_large"] > 2 * median["terasort", "spark_terasort_tiny"]
    assert runs["started_at"].between("2020-07-13", "2020-12-07").all()


# The mechanism


def test_fetching_again_gives_the_same_bytes_and_leaves_nothing_unpacked(
    lumos: Dataset, mirror: Path, cache: Path, tmp_path: Path
) -> None:
    again = fetch_dataset("lumos", mirror=mirror, cache=tmp_path)
    for table, path in lumos.files.items():
        assert path.read_bytes() == again.files[table].read_bytes()
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["candidates.csv", "runs.csv"]


def test_the_order_of_the_archive_does_not_change_the_bytes(upstream: dict[str, bytes]) -> None:
    part = [(path, content) for path, content in sorted(upstream.items()) if "c5.2xlarge" in path or "c6.2xl" in path]
    one, other = NORMALISERS["lumos"](part), NORMALISERS["lumos"](reversed(part))
    assert len(one["runs"]) > 500
    for table in ("runs", "candidates"):
        assert table_csv(one[table]) == table_csv(other[table])


def test_a_type_whose_name_does_not_say_its_size_is_refused(upstream: dict[str, bytes]) -> None:
    report = upstream[f"{SAMPLE}/report.json"]
    for kind in ("aws/c5.9xlarge", "tencent/5 second/s5.large", "huawei/5 second/c6.large"):
        with pytest.raises((KeyError, IndexError)):
            NORMALISERS["lumos"]([(f"{kind}/hadoop_aggregation_small_1/report.json", report)])


# In use


@pytest.mark.parametrize("clouds", ["aws", "all"])
def test_a_workload_measured_twice_is_recommended_for_from_the_others(
    clouds: str, lumos: Dataset, runs: pd.DataFrame, candidates: pd.DataFrame
) -> None:
    workload = "spark_sort_large"
    table = candidates if clouds == "all" else candidates[candidates["feature.provider"] == "aws"]
    frame = runs.drop(columns="provider")
    mine = frame[(frame["workload"] == workload) & frame["instance_type"].isin(["c5.large", "r5.2xlarge"])]
    others = frame[(frame["application"] != "sort") & frame["instance_type"].isin(table["instance_type"])]
    problem, asked = build_problem(
        Runs.from_frame(mine), archive=[Runs.from_frame(others)], candidates=table, regions=["us-east-1"]
    )
    answer = strategy("column-mean").recommend(problem, asked)
    assert {row.instance_type for row in answer.rows} == AWS_TYPES
    assert {row.evidence for row in answer.rows} == {"measured", "transferred"}
    unpriced = sum(exclusion.count for exclusion in answer.excluded if exclusion.reason == "no_price")
    assert unpriced == (46 if clouds == "all" else 0)
    truth = frame[(frame["workload"] == workload)].groupby("instance_type")["runtime_s"].median()
    for row in answer.rows:
        assert row.runtime_s is not None
        assert row.runtime_s.p50 == pytest.approx(truth[row.instance_type], rel=0.35)


def test_with_prices_of_ones_own_the_other_clouds_are_ranked_too(runs: pd.DataFrame, candidates: pd.DataFrame) -> None:
    frame = runs.drop(columns="provider")
    priced = candidates.assign(usd_per_hour=0.05 * candidates["vcpus"])
    problem, asked = build_problem(Runs.from_frame(frame), workload="hadoop_join_huge", candidates=priced, top=55)
    answer = strategy("column-mean").recommend(problem, asked)
    assert len(answer.rows) == 55
    truth = frame[frame["workload"] == "hadoop_join_huge"].groupby("instance_type")["runtime_s"].median()
    cost = truth * priced.set_index("instance_type")["usd_per_hour"]
    assert cost[answer.rows[0].instance_type] <= 1.1 * cost.min()
