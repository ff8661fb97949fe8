"""When to stop, through a real process: --runs-planned on every command that measures, and what is promised."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from test_cli import run


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs.csv with five of the fifteen candidates in pool.csv; all of them in all.csv, under two workloads."""
    folder = tmp_path_factory.mktemp("tables")
    pool = pd.MultiIndex.from_product(
        [["c4.large", "m4.large", "r4.large"], [1, 2, 4, 8, 16]], names=["instance_type", "node_count"]
    ).to_frame(index=False)
    pool.to_csv(folder / "pool.csv", index=False)
    every = pool.assign(runtime_s=100 + 3000 / pool["node_count"] + 10 * pool["node_count"])
    every.iloc[[0, 4, 7, 10, 14]].assign(workload="w").to_csv(folder / "runs.csv", index=False)
    both = [every.assign(workload=name, application=name) for name in ("a", "b")]
    pd.concat(both).to_csv(folder / "all.csv", index=False)
    return folder


ASKED = ("--candidates", "pool.csv", "--strategy", "cherrypick")


def test_few_planned_runs_end_the_search_and_many_go_on_and_both_say_why(tables: Path) -> None:
    few = run("recommend", "runs.csv", *ASKED, "--runs-planned", "0.01", cwd=tables)
    assert few.code == 0, few.err
    assert "nothing more is worth measuring: the best next run is expected to save $" in few.out
    assert "times 0.01 planned runs" in few.out
    assert "Measure next" not in few.out
    assert "With probability 90% no candidate is" in few.out
    many = run("recommend", "runs.csv", *ASKED, "--runs-planned", "1000000", "--format", "json", cwd=tables)
    assert many.code == 0, many.err
    answer = json.loads(many.out)
    assert "planned runs $" in answer["next_run"]["why"]
    assert answer["problem"]["runs_planned"] == 1e6
    assert set(answer["guarantee"]) == {"probability", "at_most_cheaper", "sentence"}
    assert 0 <= answer["guarantee"]["at_most_cheaper"] < 1
    none = run("suggest", "runs.csv", *ASKED, "--runs-planned", "0.01", cwd=tables)
    assert (none.code, none.out) == (0, "nothing is worth measuring\n")


def test_a_study_keeps_the_planned_runs(tables: Path) -> None:
    create = ("study", "create", "planned", "runs.csv", "--store", "s.db", *ASKED, "--runs-planned", "0.01")
    assert run(*create, cwd=tables).code == 0
    assert run("study", "ask", "planned", "--store", "s.db", cwd=tables).out == "nothing is worth measuring\n"


def test_an_evaluation_ends_its_searches_by_the_planned_runs(tables: Path) -> None:
    command = ("evaluate", "all.csv", "--candidates", "pool.csv", "--strategies", "cherrypick", "--seeds", "1")
    done = run(*command, "--steps", "8", "--jobs", "1", "--out", "out.csv", "--runs-planned", "0.01", cwd=tables)
    assert done.code == 0, done.err
    steps = pd.read_csv(tables / "out.csv").query("strategy == 'cherrypick'")
    assert (steps.groupby("workload")["step"].max() == 3).all(), "three starts, and nothing more is worth it"
    assert steps.groupby("workload")["stopped"].last().all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--runs-planned", "-3"), "runs planned is -3.0"),
        (("--runs-planned", "5", "--objective", "runtime"), "seconds saved cannot be weighed"),
    ],
)
def test_planned_runs_that_cannot_be_weighed_are_refused_in_one_line(
    tables: Path, options: tuple[str, ...], named: str
) -> None:
    refused = run("recommend", "runs.csv", *ASKED, *options, cwd=tables)
    assert (refused.code, refused.out) == (1, "")
    assert named in refused.err
    assert refused.err.count("\n") == 1


def test_suggest_says_that_nothing_can_meet_a_deadline_or_complete(tables: Path) -> None:
    late = run("suggest", "runs.csv", "--candidates", "pool.csv", "--strategy", "prior", "--deadline", "1s", cwd=tables)
    assert late.code == 0
    assert "note: as far as is believed now, no candidate meets every constraint" in late.err
    failed = pd.read_csv(tables / "pool.csv").assign(workload="w", runtime_s=10.0, status="failed")
    failed.to_csv(tables / "failed.csv", index=False)
    none = run("suggest", "failed.csv", "--candidates", "pool.csv", "--strategy", "prior", cwd=tables)
    assert (none.code, none.out) == (0, "nothing is worth measuring\n")
    assert "note: as far as is believed now, no candidate meets every constraint" in none.err
