"""How much repetitions scatter: learned from the archive, corrected by the workload's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recommender.models import measured
from recommender.models.noise import LEAST, MOST_DOF, NOISE_PRIOR, NOISE_PRIOR_DOF, repetition_noise, told_by
from recommender.problem import build_problem
from recommender.runs import Runs
from recommender.strategies import strategy


def repeated(noises: list[float], repeats: int, seed: int = 0, types: int = 4) -> pd.DataFrame:
    """Workloads w0, w1, ... run `repeats` times on each of a few types."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "workload": f"w{w}",
            "instance_type": f"t{i}",
            "node_count": 1,
            "runtime_s": 100.0 * (i + 1) * np.exp(noise * z),
        }
        for w, noise in enumerate(noises)
        for i in range(types)
        for z in rng.standard_normal(repeats)
    ]
    return pd.DataFrame(rows)


def test_noise_that_workloads_share_is_found_and_trusted() -> None:
    noise, dof = told_by(Runs.from_frame(repeated([0.2] * 60, 4)))
    assert noise == pytest.approx(0.2, rel=0.07)
    assert dof == MOST_DOF


def test_noise_that_differs_between_workloads_counts_for_little() -> None:
    rng = np.random.default_rng(1)
    each = 0.1 * np.sqrt(3.0 / rng.chisquare(3.0, 300))
    noise, dof = told_by(Runs.from_frame(repeated(list(each), 6)))
    assert noise == pytest.approx(0.1, rel=0.15)
    assert dof == pytest.approx(3.0, abs=1.0)


def test_without_repetitions_in_three_workloads_nothing_is_learnt() -> None:
    assert told_by(Runs.from_frame(repeated([0.3] * 20, 1))) == (NOISE_PRIOR, NOISE_PRIOR_DOF)
    assert told_by(Runs.from_frame(repeated([0.3] * 2, 5))) == (NOISE_PRIOR, NOISE_PRIOR_DOF)


def test_repetitions_that_never_differ_tell_nothing() -> None:
    assert told_by(Runs.from_frame(repeated([0.0] * 9, 3))) == (NOISE_PRIOR, NOISE_PRIOR_DOF)
    assert told_by(Runs.from_frame(repeated([1e-5] * 9, 3)))[0] == LEAST


def test_rows_that_occur_twice_make_nothing_look_steadier() -> None:
    once = repeated([0.2] * 9, 3)
    twice = pd.concat([once, once], ignore_index=True)
    assert told_by(Runs.from_frame(twice)) == told_by(Runs.from_frame(once))
    single = repeated([0.2] * 9, 1)
    assert told_by(Runs.from_frame(pd.concat([single, single], ignore_index=True))) == (NOISE_PRIOR, NOISE_PRIOR_DOF)


def test_own_repetitions_are_weighed_by_degrees_of_freedom() -> None:
    mine = Runs.from_frame(repeated([0.4], 3, types=2))
    log_t = np.log(mine.frame["runtime_s"].to_numpy()).reshape(2, 3)
    squares = float(((log_t - log_t.mean(axis=1, keepdims=True)) ** 2).sum())
    archive = Runs.from_frame(repeated([0.2] * 60, 4).assign(application="other"))
    known, weight = told_by(archive)
    found, dof = repetition_noise(mine, archive)
    assert found == pytest.approx(np.sqrt((squares + weight * known**2) / (4 + weight)))
    assert dof == 4 + weight


@pytest.mark.parametrize("name", ["prior", "column-mean", "cherrypick"])
def test_one_run_each_promises_no_more_than_a_noisy_archive_lets_it(name: str) -> None:
    table = repeated([0.3] * 12, 3, types=6)
    candidates = pd.DataFrame(
        {
            "instance_type": [f"t{i}" for i in range(6)],
            "node_count": 1,
            "usd_per_hour": 1.0,
            "vcpus": [2.0 ** (6 - i) for i in range(6)],
            "memory_gib": 16.0,
        }
    )
    inside = []
    for w in range(6):
        mine = table[table["workload"] == f"w{w}"]
        table_of = pd.concat(
            [table[table["workload"] != f"w{w}"], mine.groupby("instance_type").head(1)], ignore_index=True
        )
        problem, runs = build_problem(table_of, workload=f"w{w}", candidates=candidates, objective="runtime")
        assert measured(problem, runs).noise == pytest.approx(0.3, rel=0.15)
        rows = {r.instance_type: r for r in strategy(name).recommend(problem, runs).rows}
        for one in mine.groupby("instance_type").tail(2).itertuples():
            said = rows[one.instance_type].runtime_s
            inside.append(said.p10 <= one.runtime_s <= said.p90)
    assert 0.65 <= np.mean(inside) <= 0.95
