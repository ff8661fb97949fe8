"""Quasar: three classifications that add up, and the greedy allocation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from strategy_contract import StrategyContract

from recommender.models import Prediction, nothing_known
from recommender.models.archive import archived
from recommender.models.fold_in import Average
from recommender.models.quasar import Classified, Quasar, allocate, axes, effects
from recommender.problem import Problem, build_problem
from recommender.strategies import Strategy, strategy

SIZES, NODES = {"a.s": 2, "a.m": 4, "a.l": 8, "b.s": 2, "b.m": 4, "b.l": 8, "c.s": 2, "c.m": 4, "c.l": 8}, (1, 2, 4)
POOL = pd.DataFrame(itertools.product(sorted(SIZES), NODES), columns=["instance_type", "node_count"])
POOL["vcpus"] = POOL["instance_type"].map(SIZES)
POOL["memory_gib"] = POOL["vcpus"] * POOL["instance_type"].str[0].map({"a": 2, "b": 4, "c": 8})
POOL["usd_per_hour"] = POOL["vcpus"] * 0.05


def planted(workloads: int = 40, noise: float = 0.01) -> pd.DataFrame:
    """Workloads with their own benefit of size and of nodes, and their own best line: no interactions."""
    rng = np.random.default_rng(2)
    rows = []
    line = POOL["instance_type"].str[0].map({"a": 0, "b": 1, "c": 2}).to_numpy()
    for w in range(workloads):
        up, out, best = rng.uniform(0.1, 1.0), rng.uniform(0.0, 1.0), rng.normal(0, 0.3, 3)
        y = rng.normal(6, 1) - up * np.log(POOL["vcpus"]) - out * np.log(POOL["node_count"]) + best[line]
        rows.append(
            POOL[["instance_type", "node_count"]].assign(
                workload=f"w{w:03}", runtime_s=np.exp(y + rng.normal(0, noise, len(POOL)))
            )
        )
    return pd.concat(rows, ignore_index=True)


def ask(frame: pd.DataFrame, **options: object) -> Problem:
    return build_problem(None, workload="new", archive=[frame], candidates=POOL, **options)[0]  # type: ignore[arg-type]


class TestContract(StrategyContract):
    @pytest.fixture
    def make(self) -> Callable[[], Strategy]:
        return lambda: strategy("quasar")


def test_effects_are_recovered_where_nothing_interacts() -> None:
    rng = np.random.default_rng(0)
    codes = (np.repeat([0, 1, 2], 6), np.tile(np.repeat([0, 1], 3), 3), np.tile([0, 1, 2], 6))
    e = [rng.normal(size=(5, c.max() + 1)) for c in codes]
    e = [part - part.mean(axis=1, keepdims=True) for part in e]
    y = sum(part[:, code] for part, code in zip(e, codes, strict=True))
    y[rng.random(y.shape) < 0.2] = np.nan
    found, left = effects(y, codes)
    fitted = sum(part[:, code] for part, code in zip(found, codes, strict=True))
    assert np.nanmax(np.abs(fitted - y)) < 0.02
    assert np.nanmax(np.abs(left)) < 0.02


def test_three_runs_teach_lines_sizes_and_nodes_that_were_not_run() -> None:
    frame = planted()
    problem = ask(frame[frame["workload"] >= "w010"])
    a = archived(problem)
    folded, errors = Classified(2)(problem, a), []
    truth = np.log(frame["runtime_s"].to_numpy()).reshape(-1, len(POOL))
    s = [0, 5, 13, 19, 26]
    for y in truth[:10]:
        mean, spread = folded.fold_in(np.where(np.isin(np.arange(len(POOL)), s), y, np.nan), np.zeros(0))
        average, _ = Average()(problem, a).fold_in(np.where(np.isin(np.arange(len(POOL)), s), y, np.nan), np.zeros(0))
        errors.append((np.std(mean - y), np.std(average - y)))
        assert (spread > 0).all()
    mine, averages = np.mean(errors, axis=0)
    assert mine < 0.5 * averages


def test_a_line_is_a_family_with_its_memory_per_vcpu() -> None:
    line, size, nodes = axes(ask(planted(5)), np.arange(len(POOL)))
    assert [len(set(code)) for code in (line, size, nodes)] == [3, 3, 3]
    assert line[0] == line[8]


class TestGreedyAllocation:
    @pytest.fixture
    def problem(self) -> Problem:
        return ask(planted(10), deadline_s=100.0)

    def believed(self, problem: Problem, seconds: np.ndarray) -> Prediction:
        from dataclasses import replace

        n = len(problem.configurations)
        return replace(nothing_known(problem), log_runtime=np.log(seconds), spread=np.full(n, 1e-6))

    def test_takes_the_best_line_goes_up_before_out_and_stops_at_the_deadline(self, problem: Problem) -> None:
        line = POOL["instance_type"].str[0].map({"a": 1.0, "b": 0.7, "c": 1.2}).to_numpy()
        work = 900.0 * line / (POOL["vcpus"] * POOL["node_count"]).to_numpy() ** 0.8
        found = allocate(problem, self.believed(problem, work))
        assert found is not None
        # b alone: 2, 4 and 8 vCPUs on one node take 362, 208 and 119 s; two nodes of 8 take 69 s.
        assert found.steps == ("b.s x1", "b.m x1", "b.l x1", "b.l x2")
        assert found.meets

    def test_says_when_the_end_of_the_way_is_still_late(self, problem: Problem) -> None:
        found = allocate(problem, self.believed(problem, np.full(len(POOL), 1e4)))
        assert found is not None
        assert not found.meets
        assert found.steps[-1].endswith("l x4")

    def test_goes_past_what_is_in_time_but_seldom_completes(self, problem: Problem) -> None:
        from dataclasses import replace

        believed = self.believed(problem, np.full(len(POOL), 50.0))
        small = POOL["instance_type"].str.endswith(".s").to_numpy()
        found = allocate(problem, replace(believed, completing=np.where(small, 0.27, 1.0)))
        assert found is not None
        assert found.meets
        assert [step.split(".")[1] for step in found.steps] == ["s x1", "m x1"]
        never = allocate(problem, replace(believed, completing=np.full(len(POOL), 0.27)))
        assert never is not None
        assert not never.meets

    def test_leaves_out_what_the_ranking_excludes(self, problem: Problem) -> None:
        from dataclasses import replace

        believed = self.believed(problem, np.full(len(POOL), 50.0))
        small = POOL["instance_type"].str.endswith(".s").to_numpy()
        lost = replace(believed, excluded=small.astype(np.int8), reasons=(("failed", "it failed"),))
        found = allocate(problem, lost)
        assert found is not None
        assert len(found.steps) == 1
        assert ".m x1" in found.steps[0]

    def test_says_of_nothing_that_the_ranking_excludes_that_it_meets_the_deadline(self) -> None:
        pool = POOL[(POOL["instance_type"].str[0] == "a") & (POOL["node_count"] == 1)].reset_index(drop=True)
        often = [
            pool[["instance_type", "node_count"]].assign(
                workload=f"w{u}",
                runtime_s=(90.0 - 5.0 * pool["vcpus"]) * (1 + 0.1 * u),
                status=np.where((pool["vcpus"] == 2) & (u < 8), "failed", "completed"),
            )
            for u in range(10)
        ]
        own = pool[pool["vcpus"] == 4][["instance_type", "node_count"]].assign(workload="new", runtime_s=85.0)
        question = build_problem(
            own, workload="new", archive=[pd.concat(often, ignore_index=True)], candidates=pool, deadline_s=200.0
        )
        answer = strategy("quasar").recommend(*question)
        (said,) = (w for w in answer.warnings if "greedy allocation" in w)
        assert "which meets the deadline" in said
        reached = said.split("): ")[1].split(",")[0].split(" -> ")[-1]
        assert reached in {row.label for row in answer.rows}

    def test_is_told_with_the_answer_and_only_where_there_is_a_target(self) -> None:
        frame = planted()
        new = frame[frame["workload"] == "w000"].iloc[[0, 13, 26]].assign(workload="new")
        for deadline_s in (None, float(new["runtime_s"].max())):
            problem, runs = build_problem(
                new,
                workload="new",
                archive=[frame[frame["workload"] != "w000"]],
                candidates=POOL,
                deadline_s=deadline_s,
            )
            said = [w for w in Quasar().predict(problem, runs).warnings if "greedy allocation" in w]
            assert bool(said) == (deadline_s is not None)
