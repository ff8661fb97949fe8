"""An archive that holds the answer under another name is named; workloads that merely resemble each other are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recommender.cli import app
from recommender.datasets import fetch_dataset
from recommender.evaluation import plan
from recommender.leakage import leakage
from recommender.problem import Objective
from recommender.replay import environment
from recommender.runs import Runs

CANDIDATES = pd.DataFrame(
    {"instance_type": list("abcdefgh"), "node_count": 1, "usd_per_hour": 1.0, "vcpus": 2, "memory_gib": 8.0}
)
RUNTIMES = np.array([100.0, 70.0, 55.0, 300.0, 41.0, 90.0, 62.0, 120.0])


def workload(name: str, runtimes: Any, **columns: Any) -> pd.DataFrame:
    """One run of each candidate."""
    kinds = CANDIDATES["instance_type"].iloc[: len(runtimes)]
    return pd.DataFrame({"workload": name, "instance_type": kinds, "node_count": 1, "runtime_s": runtimes} | columns)


def said(*tables: pd.DataFrame, asked: str = "mine", **options: Any) -> list[str]:
    """What is said of the archive of one workload."""
    runs = Runs.from_frame(pd.concat(tables, ignore_index=True))
    return leakage([environment(runs, asked, candidates=CANDIDATES, **options)])


def test_a_copy_up_to_a_constant_factor_is_named_with_the_factor() -> None:
    (sentence,) = said(workload("mine", RUNTIMES), workload("copy", 1.7 * RUNTIMES), workload("other", RUNTIMES[::-1]))
    assert "the archive of mine" in sentence
    assert "the runtimes of copy are 1.7 times its own on 8 of 8 shared configurations" in sentence


def test_a_copy_of_most_configurations_is_named_and_of_half_is_not() -> None:
    noise = 1.0 + 0.2 * np.arange(1, 9)
    for changed, found in ((3, 1), (4, 0)):
        theirs = np.where(np.arange(8) < changed, RUNTIMES * noise, RUNTIMES)
        assert len(said(workload("mine", RUNTIMES), workload("copy", theirs))) == found


def test_the_mean_of_repetitions_and_one_input_among_several_count() -> None:
    split = [workload("mine", RUNTIMES * f) for f in (1.25, 0.8)]
    copy = [workload("copy", RUNTIMES * 3, **{"input.gib": 2.0}), workload("copy", RUNTIMES**0.5, **{"input.gib": 1.0})]
    (sentence,) = said(*split, *copy)
    assert "copy are 3 times" in sentence


def test_failed_runs_are_not_compared() -> None:
    status = ["failed"] * 5 + ["completed"] * 3
    assert said(workload("mine", RUNTIMES), workload("copy", RUNTIMES, status=status)) == []


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_repeated_measurements_of_the_same_program_are_no_copy(noise: float) -> None:
    again = RUNTIMES * np.exp(noise * np.random.default_rng(0).standard_normal(8))
    assert said(workload("mine", RUNTIMES), workload("again", again)) == []


@pytest.mark.parametrize("blur", [lambda t, z: t * np.exp(0.004 * z), lambda t, z: np.round(t)])
def test_a_copy_that_was_rounded_or_blurred_is_named_where_many_configurations_tell(blur: Any) -> None:
    rng = np.random.default_rng(0)
    kinds = [f"t{i}" for i in range(16)]
    pool = pd.DataFrame({"instance_type": kinds, "node_count": 1, "usd_per_hour": 1.0, "vcpus": 2, "memory_gib": 8.0})
    mine = pd.DataFrame(
        {"workload": "mine", "instance_type": kinds, "node_count": 1, "runtime_s": rng.uniform(60, 200, 16)}
    )
    copy = mine.assign(workload="copy", runtime_s=blur(mine["runtime_s"], rng.standard_normal(16)))
    runs = Runs.from_frame(pd.concat([mine, copy], ignore_index=True))
    (sentence,) = leakage([environment(runs, "mine", candidates=pool)])
    assert "copy" in sentence


def test_constant_runtimes_and_few_configurations_prove_nothing() -> None:
    assert said(workload("mine", np.full(8, 60.0)), workload("flat", np.full(8, 30.0))) == []
    assert said(workload("mine", RUNTIMES[:3]), workload("copy", RUNTIMES[:3])) == []


def test_a_copy_that_is_kept_out_of_the_archive_leaks_nothing() -> None:
    tables = [workload(n, RUNTIMES, application="same") for n in ("mine", "copy")]
    other = workload("other", RUNTIMES[::-1], application="other")
    assert said(*tables, other) == []
    assert len(said(*tables, other, group_by="workload")) == 1
    assert said(tables[0]) == []


def test_evaluate_says_so_on_stderr(tmp_path: Path) -> None:
    tables = [workload("mine", RUNTIMES), workload("copy", 2 * RUNTIMES), workload("other", RUNTIMES[::-1])]
    pd.concat(tables).to_csv(tmp_path / "runs.csv", index=False)
    CANDIDATES.to_csv(tmp_path / "candidates.csv", index=False)
    arguments = [
        "evaluate",
        "runs.csv",
        "--candidates",
        "candidates.csv",
        "--seeds",
        "1",
        "--steps",
        "1",
        "--jobs",
        "1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "note: leakage: the archive of mine holds its answer under another name: the runtimes of copy" in done.stderr
    assert "the archive of copy" in done.stderr
    assert "runtimes of other" not in done.stderr
    assert "archive of other" not in done.stderr


@pytest.mark.parametrize("name", ["scout", "lynceus", "c3o"])
def test_recorded_tables_do_not_leak_but_do_with_a_renamed_workload(name: str, mirror: Path, tmp_path: Path) -> None:
    data = fetch_dataset(name, mirror=mirror, cache=tmp_path)
    assert data.runs is not None
    objective: Objective = "runtime" if name == "c3o" else "cost"  # nobody prices the machines of C3O
    clean = plan(data.runs, candidates=data.candidates, objective=objective, group_by="workload", steps=1, seeds=1)
    assert not [note for note in clean.notes if "leakage" in note]
    first = data.runs.workloads[0]
    copy = data.runs.of(first).frame.assign(workload="x", application="x", cost_usd=np.nan)
    copy["runtime_s"] *= 0.3
    runs = Runs(pd.concat([data.runs.frame, copy], ignore_index=True))
    leaks = [
        n
        for n in plan(runs, candidates=data.candidates, objective=objective, steps=1, seeds=1, workloads=[first]).notes
        if "leakage" in n
    ]
    assert len(leaks) == 1
    assert "the runtimes of x are 0.3 times its own" in leaks[0]
    assert f"the archive of {first} " in leaks[0]
