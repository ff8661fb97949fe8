"""Public data sets: descriptors, counts, hashes, statuses, units. From the mirror, never the network."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from recommender import normalise
from recommender.datasets import Dataset, descriptor, descriptors, fetch_dataset
from recommender.errors import UnknownNameError
from recommender.resources import resource_dir

pytestmark = pytest.mark.usefixtures("offline")

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("c3o", "coremark", "lumos", "lynceus", "scout", "spot-advisor")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def scout(mirror: Path, cache: Path) -> Dataset:
    return fetch_dataset("scout", mirror=mirror, cache=cache)


def rows(dataset: Dataset, table: str) -> list[dict[str, str]]:
    with dataset.files[table].open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Descriptors


def test_descriptors_are_complete() -> None:
    assert tuple(entry.name for entry in descriptors()) == NAMES
    for entry in descriptors():
        assert entry.title
        assert entry.licence
        assert entry.citation
        assert entry.notes
        assert entry.repository.count("/") == 1
        assert len(entry.commit) == 40
        int(entry.commit, 16)
        for sha256 in (*entry.files.values(), *(facts.sha256 for facts in entry.tables.values())):
            assert len(sha256) == 64
            int(sha256, 16)
        assert set(entry.tables) <= {"runs", "candidates", "figures"}
        assert entry.name in normalise.NORMALISERS


def test_addresses_are_the_public_ones_and_mirror_paths_follow_the_layout(mirror: Path) -> None:
    commit = descriptor("scout").commit
    assert descriptor("scout").urls == {
        f"marialcasimiro/Lynceus-ICDCS/{commit}.tar.gz": "https://github.com/marialcasimiro/Lynceus-ICDCS/archive/"
        f"{commit}.tar.gz"
    }
    assert all(url.startswith("https://raw.githubusercontent.com/") for url in descriptor("c3o").urls.values())
    assert all((mirror / relative).is_file() for entry in descriptors() for relative in entry.urls)


def test_no_third_party_file_is_in_the_repository(mirror: Path) -> None:
    assert {path.suffix for path in resource_dir("datasets").rglob("*") if path.is_file()} == {".toml"}
    upstream = {hashlib.sha256(path.read_bytes()).hexdigest() for path in mirror.rglob("*") if path.is_file()}
    upstream |= {facts.sha256 for entry in descriptors() for facts in entry.tables.values()}
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are committed")
    tracked = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = [ROOT / name for name in tracked.split("\0") if name]
    assert not [path for path in paths if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() in upstream]


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_a_missing_mirror_fails_ci_and_skips_elsewhere(ci: str, outcome: str, tmp_path: Path) -> None:
    environment = {**os.environ, "CI": ci, "RECOMMENDER_DATASETS_MIRROR": str(tmp_path / "none")}
    this = f"{Path(__file__)}::test_addresses_are_the_public_ones_and_mirror_paths_follow_the_layout"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert outcome in found.stdout
    assert "no data-set mirror at" in found.stdout


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'scout'"):
        fetch_dataset("scot")


# Scout


def test_scout_is_18_workloads_on_69_configurations(scout: Dataset) -> None:
    runs = rows(scout, "runs")
    configurations = {(row["instance_type"], row["node_count"]) for row in runs}
    assert len(runs) == 1242 == 18 * 69
    assert len({row["workload"] for row in runs}) == 18
    assert len({row["application"] for row in runs}) == 8
    assert len({(row["workload"], row["instance_type"], row["node_count"]) for row in runs}) == 1242
    assert configurations == {(row["instance_type"], row["node_count"]) for row in rows(scout, "candidates")}
    assert len(configurations) == 69
    assert scout.runs is not None
    assert scout.candidates is not None
    assert scout.figures is None
    assert len(scout.candidates) == 69


def test_scout_failures_are_never_completed_runs(scout: Dataset) -> None:
    runs = rows(scout, "runs")
    by_status = {name: [row for row in runs if row["status"] == name] for name in ("completed", "failed", "timed_out")}
    assert {name: len(found) for name, found in by_status.items()} == {"completed": 1167, "failed": 38, "timed_out": 37}
    assert sum(float(row["runtime_s"]) < 200 for row in by_status["failed"]) == 11
    assert all(float(row["runtime_s"]) >= 7200 for row in by_status["timed_out"])
    assert all(float(row["runtime_s"]) < 7200 for row in by_status["completed"])
    crashed = next(
        row
        for row in runs
        if (row["workload"], row["instance_type"], row["node_count"])
        == ("wordcount-large_bigdata_hadoop", "c4.xlarge", "20")
    )
    assert (crashed["status"], crashed["runtime_s"]) == ("failed", "8.387873927000328")


def test_scout_completed_runs_of_the_library_exclude_every_failure(scout: Dataset) -> None:
    assert scout.runs is not None
    assert scout.runs.frame["status"].value_counts().to_dict() == {"completed": 1167, "failed": 38, "timed_out": 37}
    assert len(scout.runs.completed) == 1167
    assert scout.runs.completed["runtime_s"].min() > 150
    assert scout.runs.frame["runtime_s"].min() < 9


def test_scout_statuses_agree_with_the_reports(scout: Dataset, mirror: Path) -> None:
    """Read the archive independently: every report not marked completed, and no other, is failed or timed out."""
    (relative,) = descriptor("scout").urls
    incomplete = set()
    with tarfile.open(mirror / relative) as archive:
        for member in archive:
            if "/scout/" in member.name and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                if not json.load(content)["completed"]:
                    workload, directory = member.name.split("/")[-3:-1]
                    incomplete.add((workload, *directory.split("_")[1::-1]))
    found = {
        (r["workload"], r["instance_type"], r["node_count"]) for r in rows(scout, "runs") if r["status"] != "completed"
    }
    assert len(incomplete) == 75
    assert found == incomplete


def test_scout_sizes_describe_the_workload_and_are_empty_where_unknown(scout: Dataset) -> None:
    sizes: dict[str, set[str]] = {}
    for row in rows(scout, "runs"):
        sizes.setdefault(row["workload"], set()).add(row["input.size_gib"])
    assert all(len(found) == 1 for found in sizes.values())
    unknown = {workload for workload, found in sizes.items() if found == {""}}
    assert {workload.split("_")[0] for workload in unknown} == {"kmeans", "naive-bayes", "regression"}
    assert float(sizes["terasort_huge_hadoop"].pop()) == pytest.approx(50e9 / 2**30)


def test_scout_prices_are_those_of_the_measurements(scout: Dataset) -> None:
    assert scout.candidates is not None
    prices = scout.candidates.groupby("instance_type")["usd_per_hour"].agg(["min", "max"])
    assert prices.loc["r4.2xlarge"].tolist() == [0.532, 0.532]
    assert prices.loc["c4.xlarge"].tolist() == [0.199, 0.199]
    per_size = scout.candidates.groupby("instance_type")[["vcpus", "memory_gib"]].first()
    assert per_size.loc["c4.large"].tolist() == [2, 3.75]
    assert per_size.loc["r4.2xlarge"].tolist() == [8, 61]


# The other sets


def test_c3o_is_930_points_of_5_repetitions(mirror: Path, cache: Path) -> None:
    c3o = fetch_dataset("c3o", mirror=mirror, cache=cache)
    runs = rows(c3o, "runs")
    points: dict[tuple[str, ...], int] = {}
    for row in runs:
        point = tuple(value for name, value in row.items() if name != "runtime_s")
        points[point] = points.get(point, 0) + 1
    assert len(runs) == 4650
    assert len(points) == 930
    assert set(points.values()) == {5}
    assert {row["workload"] for row in runs} == {"grep", "kmeans", "pagerank", "sgd", "sort"}
    sort = next(row for row in runs if row["workload"] == "sort")
    assert sort["input.k"] == ""
    assert c3o.candidates is not None
    assert "usd_per_hour" not in c3o.candidates or c3o.candidates["usd_per_hour"].isna().all()
    per_node = c3o.candidates.groupby("instance_type")[["vcpus", "memory_gib"]].agg(["min", "max"])
    assert per_node.loc["c4.2xlarge"].tolist() == [8, 8, 15, 15]
    assert per_node.loc["r4.xlarge"].tolist() == [4, 4, 30.5, 30.5]


@pytest.mark.parametrize("job", ["grep", "sort"])
def test_c3o_sizes_equal_lines_times_their_length(job: str, mirror: Path, cache: Path) -> None:
    runs = [row for row in rows(fetch_dataset("c3o", mirror=mirror, cache=cache), "runs") if row["workload"] == job]
    for row in runs:
        size_bytes = float(row["input.lines"]) * (float(row["input.line_length"]) + 1)
        assert float(row["input.size_gib"]) == pytest.approx(size_bytes / 2**30, rel=0.003)


def test_coremark_scores_every_type_once(mirror: Path, cache: Path) -> None:
    figures = fetch_dataset("coremark", mirror=mirror, cache=cache).figures
    assert figures is not None
    assert figures["instance_type"].is_unique
    assert len(figures) == 1093
    assert (figures["coremark_iterations_s"] > 0).all()
    assert (figures["vcpus"] >= 1).all()
    assert figures["ffmpeg_frames_s"].isna().sum() == 76


def test_spot_advisor_bands_and_savings(mirror: Path, cache: Path) -> None:
    figures = fetch_dataset("spot-advisor", mirror=mirror, cache=cache).figures
    assert figures is not None
    assert len(figures) == 25_323
    assert figures["region"].nunique() == 33
    assert set(figures["os"]) == {"Linux", "Windows"}
    assert set(figures["band"]) == {0, 1, 2, 3, 4}
    assert figures["saving_percent"].between(-100, 100).all()
    assert not figures.duplicated(["region", "instance_type", "os"]).any()


@pytest.mark.parametrize("name", NAMES)
def test_tables_hash_and_count_as_the_descriptor_says(name: str, mirror: Path, cache: Path) -> None:
    dataset = fetch_dataset(name, mirror=mirror, cache=cache)
    for table, facts in descriptor(name).tables.items():
        assert hashlib.sha256(dataset.files[table].read_bytes()).hexdigest() == facts.sha256
        assert len(rows(dataset, table)) == facts.rows
