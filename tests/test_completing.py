"""The chance to complete, and what a stopped run says, against values worked by hand and simulation."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.errors import InfeasibleError
from recommender.models import Measured, measured
from recommender.models.completing import completing, level_above, tried, truncated_normal
from recommender.models.gaussian_process import GaussianProcess
from recommender.models.pairwise import PairwiseTrees
from recommender.models.trees import BaggedTrees
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import strategy

MEMORY = (2.0, 4.0, 8.0, 16.0)
NODES = (1, 2, 4)


def ask(*rows: tuple[float, int, str], seconds: float = 100.0) -> tuple[Problem, Runs]:
    """4 sizes of memory x 3 cluster sizes; a run a row: memory in GiB, nodes, status."""
    cells = [(f"g{m:g}", n, m, 2.0, 0.1 * m) for m in MEMORY for n in NODES]
    candidates = pd.DataFrame(cells, columns=["instance_type", "node_count", "memory_gib", "vcpus", "usd_per_hour"])
    runs = [
        {"workload": "w", "instance_type": f"g{m:g}", "node_count": n, "runtime_s": seconds, "status": s}
        for m, n, s in rows
    ]
    return build_problem(pd.DataFrame(runs) if runs else None, workload="w", candidates=candidates)


@cache
def blank() -> Problem:
    """The problem before any run."""
    return ask()[0]


def chance(*rows: tuple[float, int, str]) -> dict[tuple[float, int], float]:
    """P(completing) by (memory, nodes)."""
    table = blank().configurations
    cells = list(zip(table["memory_gib"], table["node_count"], strict=True))
    count, failures, censored = np.zeros(12), np.zeros(12), np.full(12, -np.inf)
    for m, n, status in rows:
        i = cells.index((m, n))
        count[i] += status == "completed"
        failures[i] += status == "failed"
        censored[i] = math.log(100.0) if status == "timed_out" else censored[i]
    seen = Measured(
        row=np.empty(0, dtype=np.intp),
        count=count,
        log_runtime=np.where(count > 0, math.log(100.0), np.nan),
        failures=failures,
        stopped=np.isfinite(censored).astype(float),
        survived=np.zeros(12),
        censored_log=censored,
        noise=0.05,
    )
    return dict(zip(cells, map(float, completing(blank(), seen)), strict=True))


class TestTheChanceToComplete:
    def test_is_one_while_nothing_failed(self) -> None:
        assert set(chance().values()) == {1.0}
        assert set(chance((4, 1, "completed"), (8, 2, "completed")).values()) == {1.0}

    def test_a_stopped_run_is_slow_and_not_failed(self) -> None:
        assert set(chance((4, 1, "completed"), (2, 1, "timed_out")).values()) == {1.0}

    def test_less_memory_than_what_failed_fails_likelier_and_more_than_what_completed_does_not(self) -> None:
        p = chance((4, 1, "failed"), (8, 2, "completed"))
        # (S + 1)/(S + F + 1): S completed with no more memory, F failed with at least as much.
        assert p[2, 1] == pytest.approx(1 / 2)
        assert p[16, 2] == pytest.approx(1.0)
        assert p[4, 1] == pytest.approx(1 / 2)
        assert p[4, 2] == 1.0, "neither below what failed nor above what completed"

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(MEMORY), st.sampled_from(NODES), st.booleans()), max_size=10))
    def test_is_monotone_in_memory_and_a_probability(self, rows: Any) -> None:
        p = chance(*((m, n, "completed" if ok else "failed") for m, n, ok in rows))
        assert all(0 < value <= 1 for value in p.values())
        for (m, n), value in p.items():
            for (m2, n2), other in p.items():
                if m2 >= m and m2 * n2 >= m * n:
                    assert other >= value - 1e-12

    def test_where_more_memory_failed_and_less_completed_memory_is_not_the_reason(self) -> None:
        p = chance((16, 4, "failed"), (2, 1, "completed"), (4, 1, "completed"))
        assert list(p.values()) == pytest.approx([3 / 4] * 12)

    def test_a_configuration_that_also_completed_failed_by_bad_luck(self) -> None:
        p = chance((4, 2, "failed"), (4, 2, "completed"), (8, 2, "completed"))
        assert list(p.values()) == pytest.approx([3 / 4] * 12)

    def test_whatever_was_run_was_tried(self) -> None:
        problem, runs = ask((2, 1, "failed"), (4, 1, "timed_out"), (8, 1, "completed"))
        assert int(tried(measured(problem, runs)).sum()) == 3


class TestTheNormalAboveALimit:
    @pytest.mark.parametrize("bound", [-3.0, 0.0, 1.0, 2.5])
    def test_is_what_simulation_says(self, bound: float) -> None:
        drawn = 0.5 + 0.8 * np.random.default_rng(0).standard_normal(2_000_000)
        drawn = drawn[drawn > bound]
        mean, variance, above = truncated_normal(np.array([0.5]), np.array([0.8]), np.array([bound]))
        assert mean[0] == pytest.approx(drawn.mean(), abs=0.01)
        assert variance[0] == pytest.approx(drawn.var(), rel=0.03)
        assert above[0] == pytest.approx(len(drawn) / 2_000_000, abs=0.002)

    def test_holds_far_in_the_tails(self) -> None:
        mean, variance, above = truncated_normal(np.zeros(3), np.ones(3), np.array([-1e3, 40.0, 500.0]))
        assert mean == pytest.approx([0.0, 40.0, 500.0], abs=0.03)
        assert (mean >= [-1e3, 40.0, 500.0]).all()
        assert (variance > 0).all()
        assert above[0] == 1.0


@pytest.mark.parametrize(
    "model",
    [GaussianProcess(), GaussianProcess(slices=4), BaggedTrees(), PairwiseTrees()],
    ids=["map", "slices", "trees", "pairs"],
)
class TestStoppedRuns:
    def test_make_their_neighbourhood_slow_and_never_fast(self, model: Any) -> None:
        rows = [(m, n, "completed") for m in (4, 16) for n in NODES]
        without = model.predict(*ask(*rows))
        problem, runs = ask(*rows, (8, 1, "timed_out"))
        late = runs.frame["runtime_s"].where(runs.frame["status"] == "completed", 5000.0)
        after = model.predict(problem, Runs.from_frame(runs.frame.assign(runtime_s=late)))
        at = ((problem.configurations["memory_gib"] == 8) & (problem.configurations["node_count"] == 1)).to_numpy()
        assert (after.log_runtime[at] >= math.log(5000.0)).all()
        assert after.excluded[at].all()
        near = ((problem.configurations["memory_gib"] == 8) & (problem.configurations["node_count"] == 2)).to_numpy()
        assert after.log_runtime[near] > without.log_runtime[near]

    def test_after_a_moment_say_nothing(self, model: Any) -> None:
        rows = [(m, n, "completed") for m in (4, 16) for n in NODES]
        without = model.predict(*ask(*rows))
        problem, runs = ask(*rows, (8, 1, "timed_out"))
        short = runs.frame["runtime_s"].where(runs.frame["status"] == "completed", 0.01)
        after = model.predict(problem, Runs.from_frame(runs.frame.assign(runtime_s=short)))
        assert after.log_runtime == pytest.approx(without.log_runtime, abs=1e-9)


@pytest.mark.parametrize("name", ["cherrypick", "cherrypick-artifact", "trees", "arrow", "cloudbandit"])
def test_what_failed_is_not_proposed_again(name: str) -> None:
    rows = [(2, 1, "failed"), (4, 1, "failed"), (16, 4, "completed"), (16, 2, "completed"), (8, 4, "completed")]
    problem, runs = ask(*rows)
    wanted = strategy(name).suggest(problem, runs)
    assert wanted is not None
    assert (wanted.instance_type, wanted.node_count) not in {(f"g{m}", n) for m, n, _ in rows}
    if name != "cloudbandit":  # whose arms do not hear of each other's failures
        memory = float(wanted.instance_type[1:])
        assert not (memory <= 4 and memory * wanted.node_count <= 4), "no more memory than what failed"


def test_the_level_above_stops_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    expected, scatter, bound = np.array([0.0, -0.5]), np.array([0.3, 0.2]), np.array([6.0, 5.0])
    drawn = 5.0 + 1.2 * rng.standard_normal(2_000_000)
    ran = drawn[:, None] + expected + scatter * rng.standard_normal((len(drawn), 2))
    left = drawn[(ran > bound).all(axis=1)]
    level, spread = level_above(5.0, 1.2, expected, scatter, bound)
    assert level == pytest.approx(left.mean(), abs=0.06)
    assert spread == pytest.approx(left.std(), abs=0.06)


@pytest.mark.parametrize("name", ["prior", "column-mean", "selecta", "auto"])
def test_a_deadline_below_what_the_fastest_were_stopped_at_is_not_promised(name: str) -> None:
    pool = pd.DataFrame(
        {"instance_type": list("abcdef"), "node_count": 1, "usd_per_hour": 1.0, "vcpus": [32, 16, 8, 4, 2, 1]}
    ).assign(memory_gib=64.0)
    took = np.array([100.0, 190.0, 370.0, 720.0, 1400.0, 2700.0])
    archive = [
        pool[["instance_type", "node_count"]].assign(workload=f"w{k}", runtime_s=took * f)
        for k, f in enumerate((0.5, 1.0, 2.0, 3.0, 6.0))
    ]
    mine = pool[["instance_type", "node_count"]].head(2).assign(workload="mine", runtime_s=7200.0, status="timed_out")
    problem, runs = build_problem(
        pd.concat([*archive, mine], ignore_index=True),
        workload="mine",
        candidates=pool,
        objective="runtime",
        deadline_s=3600.0,
        confidence=0.6,
    )
    with pytest.raises(InfeasibleError):
        strategy(name).recommend(problem, runs)
