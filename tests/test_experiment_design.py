"""Experiment design: the optimum is the optimum, the budget holds, and the error it promises is the one that is left."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recommender.cli import app
from recommender.errors import InfeasibleError, InputError, InsufficientEvidenceError
from recommender.models.scaling import BASE, features, solve
from recommender.problem import Problem, build_problem
from recommender.report.designs import design_as_text
from recommender.runs import Runs
from recommender.search.experiment_criteria import (
    MISFIT,
    PRIOR,
    RANGE,
    Rows,
    a_optimal,
    a_optimal_with_misfit,
    as_published,
    chosen,
)
from recommender.search.experiment_design import _error, parse_budget, plan

THETA = np.array([10.0, 400.0, 2.0, 1.0])
NODES, SCALES = (1, 2, 4, 8, 16), (0.1, 0.2, 0.4)


def terms(scale: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Ernest's four terms on machines of one vCPU."""
    return features(scale, nodes, np.ones_like(nodes), nodes)[:, :BASE]


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Every scale on every number of nodes."""
    s, m = np.array(list(itertools.product(SCALES, NODES)), dtype=float).T
    return s, m


def trace(a: np.ndarray, weight: np.ndarray) -> float:
    """tr (Σ λ a aᵀ)⁻¹ with columns divided by their means."""
    a = a / a.mean(axis=0)
    return float(np.trace(np.linalg.inv((a * weight[:, None]).T @ a + 1e-6 * np.eye(a.shape[1]))))


def runs_frame(points: list[tuple[float, int]], noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Runs of the planted law."""
    rng = np.random.default_rng(seed)
    s, m = np.array(points, dtype=float).T
    t = terms(s, m) @ THETA * np.exp(rng.normal(0.0, noise, len(s)))
    return pd.DataFrame(
        {"workload": "job", "instance_type": "box", "node_count": m.astype(int), "runtime_s": t, "input.scale": s}
    )


def ask(frame: pd.DataFrame) -> tuple[Problem, Runs]:
    """The problem of these runs at full scale."""
    pool = pd.DataFrame({"instance_type": "box", "node_count": NODES, "usd_per_hour": 0.36, "vcpus": 1})
    return build_problem(frame, candidates=pool, inputs={"scale": 1.0})


class TestTheOptimum:
    def test_two_orthogonal_terms_share_the_budget_by_the_root_of_their_cost(self) -> None:
        """Minimise 1/λ1 + 1/λ2 with c1 λ1 + c2 λ2 = B: λ_i is proportional to 1/√c_i."""
        a, cost = np.tile(np.eye(2), (10, 1)), np.tile([1.0, 4.0], 10)
        weight = a_optimal(a, cost, 6.0)
        assert weight[::2].sum() == pytest.approx(2.0, rel=1e-2)
        assert weight[1::2].sum() == pytest.approx(1.0, rel=1e-2)

    def test_no_random_design_of_the_same_cost_has_a_smaller_trace(self) -> None:
        s, m = grid()
        a, cost = terms(s, m), s * 10
        budget = 0.3 * float(cost.sum())
        weight = a_optimal(a, cost, budget)
        assert (weight >= 0).all()
        assert (weight <= 1).all()
        assert weight @ cost <= budget * (1 + 1e-6)
        best = trace(a, weight)
        rng = np.random.default_rng(0)
        for _ in range(300):
            other = rng.uniform(size=len(s)) ** 3
            other = np.minimum(other * budget / (other @ cost), 1.0)
            assert trace(a, other) >= best * (1 - 1e-3)

    def test_what_was_measured_need_not_be_measured_again(self) -> None:
        a = np.eye(3)
        weight = a_optimal(a, np.ones(3), 2.0, known=np.array([[5.0, 0.0, 0.0]]))
        assert weight[0] < 0.2
        assert weight[1:].min() > 0.8

    def test_the_experiments_made_stay_within_the_budget_and_the_number(self) -> None:
        weight, cost = np.array([0.9, 0.31, 0.2, 0.8, 1.0]), np.array([1.0, 1.0, 1.0, 5.0, 2.0])
        assert chosen(weight, cost, 3.5).tolist() == [0, 4]
        assert chosen(weight, cost, 100.0).tolist() == [0, 1, 3, 4]
        assert chosen(weight, cost, 100.0, most=2).tolist() == [0, 4]

    def test_more_budget_is_never_worse(self) -> None:
        s, m = grid()
        a, cost = terms(s, m), s
        traces = [trace(a, a_optimal(a, cost, share * float(cost.sum()), most=1e9)) for share in (0.2, 0.4, 0.8)]
        assert traces == sorted(traces, reverse=True)

    def test_it_fits_better_than_as_many_random_runs_on_planted_data(self) -> None:
        s, m = grid()
        a, cost = terms(s, m), np.ones(len(s))
        kept = chosen(a_optimal(a, cost, 6.0), cost, 6.0)
        full = terms(np.ones(len(NODES)), np.array(NODES, dtype=float))
        rng = np.random.default_rng(1)

        def error(rows: np.ndarray) -> float:
            t = a[rows] @ THETA * np.exp(rng.normal(0.0, 0.05, len(rows)))
            return float(np.mean(np.abs(full @ solve(a[rows], t) / (full @ THETA) - 1)))

        mine = np.mean([error(kept) for _ in range(200)])
        others = np.mean([error(rng.choice(len(s), len(kept), replace=False)) for _ in range(200)])
        assert len(kept) >= 4
        assert mine < 0.9 * others


def rows(s: np.ndarray, m: np.ndarray) -> Rows:
    """Runs of the planted law."""
    one = np.ones_like(m)
    return Rows.of((s, m, one, m), terms(s, m) @ THETA)


def variance(kept: list[int], could: Rows, made: Rows, asked: Rows, noise: float) -> float:
    """Mean Var[ln t asked | made and kept] from its definition: coefficients and misfit jointly normal, by inverse covariance."""
    every = [could, made, asked]
    x = np.concatenate([r.terms / r.runtime_s[:, None] for r in every])
    x = x / x.max(axis=0)
    u = np.concatenate([r.doublings for r in every])
    n, k = len(could.runtime_s), len(made.runtime_s)
    delta = MISFIT**2 * RANGE / 2 * np.exp(-np.abs(u[:, None] - u).sum(axis=2) / RANGE)
    p = x.shape[1]
    joint = np.zeros((p + len(x), p + len(x)))
    joint[:p, :p], joint[p:, p:] = PRIOR**2 * np.eye(p), delta
    both = np.column_stack([x, np.eye(len(x))])
    seen = both[[*kept, *range(n, n + k)]]
    posterior = np.linalg.inv(np.linalg.inv(joint) + seen.T @ seen / noise**2)
    wanted = both[n + k :]
    return float(np.mean(np.diagonal(wanted @ posterior @ wanted.T)))


class TestTheOptimumOfAModelThatMayBeWrong:
    s, m = grid()
    could, made = rows(s, m), rows(np.array([0.02, 0.03, 0.05]), np.array([1.0, 4.0, 2.0]))
    asked = rows(np.ones(len(NODES)), np.array(NODES, dtype=float))
    cost = s / np.sqrt(m)

    def kept(self, share: float, noise: float = 0.05, most: int = 12) -> list[int]:
        budget = share * float(self.cost.sum())
        found = a_optimal_with_misfit(self.could, self.made, self.asked, self.cost, budget, noise, most=most)
        assert self.cost[found].sum() <= budget * (1 + 1e-9)
        return [int(j) for j in found]

    def test_no_design_within_the_budget_leaves_much_less_variance(self) -> None:
        found = self.kept(0.3, most=4)
        mine = variance(found, self.could, self.made, self.asked, 0.05)
        budget = 0.3 * float(self.cost.sum())
        every = [
            list(other)
            for size in (1, 2, 3, 4)
            for other in itertools.combinations(range(len(self.s)), size)
            if self.cost[list(other)].sum() <= budget
        ]
        least = min(variance(other, self.could, self.made, self.asked, 0.05) for other in every)
        assert least <= mine <= 1.02 * least

    def test_a_larger_budget_leaves_less(self) -> None:
        left = [variance(self.kept(b), self.could, self.made, self.asked, 0.05) for b in (0.1, 0.3, 0.9)]
        assert left[0] > left[1] > left[2]

    def test_the_order_of_experiments_is_irrelevant_and_none_is_made_twice(self) -> None:
        here = self.kept(0.4)
        assert len(set(here)) == len(here)
        turned = np.random.default_rng(0).permutation(len(self.s))
        budget = 0.4 * float(self.cost.sum())
        other = a_optimal_with_misfit(
            rows(self.s[turned], self.m[turned]), self.made, self.asked, self.cost[turned], budget, 0.05
        )
        assert sorted(turned[other].tolist()) == here

    def test_it_goes_nearer_to_what_is_asked_than_the_papers(self) -> None:
        budget = 0.4 * float(self.cost.sum())
        paper = as_published(self.could, self.made, self.asked, self.cost, budget, 0.05)
        assert self.s[self.kept(0.4)].mean() > self.s[paper].mean()


class TestThePlan:
    START: tuple[tuple[float, int], ...] = ((0.02, 1), (0.02, 2), (0.04, 4), (0.01, 8))

    def test_costs_are_runtimes_times_prices_and_stay_within_the_budget(self) -> None:
        problem, runs = ask(runs_frame(list(self.START)))
        found = plan(problem, runs, budget_usd=0.5)
        assert found.experiments
        assert found.cost_usd is not None
        assert found.cost_usd <= 0.5
        for e in found.experiments:
            t = float((terms(np.array([e.inputs["input.scale"]]), np.array([float(e.node_count)])) @ THETA)[0])
            assert e.expected_runtime_s == pytest.approx(t, rel=1e-3)
            assert e.expected_cost_usd == pytest.approx(t * e.node_count * 0.36 / 3600, rel=1e-3)
        assert found.runtime_s == pytest.approx(sum(e.expected_runtime_s or 0.0 for e in found.experiments))

    def test_a_budget_of_time_holds_and_a_larger_one_leaves_less_error(self) -> None:
        problem, runs = ask(runs_frame(list(self.START), noise=0.05))
        small, large = (plan(problem, runs, budget_s=b) for b in (200.0, 2000.0))
        assert small.runtime_s <= 200.0
        assert large.runtime_s <= 2000.0
        assert small.error_before is not None
        assert large.error_after < small.error_after < small.error_before

    def test_the_error_left_is_about_what_repeating_it_leaves(self) -> None:
        problem, runs = ask(runs_frame(list(self.START), noise=0.05, seed=3))
        found = plan(problem, runs, budget_s=2000.0)
        wanted = [(e.inputs["input.scale"], e.node_count) for e in found.experiments]
        full = terms(np.ones(len(NODES)), np.array(NODES, dtype=float))
        gaps = []
        for seed in range(60):
            frame = runs_frame([*self.START, *wanted], noise=0.05, seed=seed)
            a = terms(frame["input.scale"].to_numpy(), frame["node_count"].to_numpy(float))
            theta = solve(a, frame["runtime_s"].to_numpy())
            gaps.append(np.log(full @ theta) - np.log(full @ THETA))
        left = float(np.median(np.std(gaps, axis=0)))
        assert left / 3 < found.error_after < 8 * left, "wider, by what lies beyond the range and a few runs cannot say"

    def test_one_run_is_enough_to_start_and_its_costs_are_upper_bounds(self) -> None:
        problem, runs = ask(runs_frame([(0.05, 2)]))
        found = plan(problem, runs, budget_s=3000.0)
        assert found.error_before is None
        assert any("longest to be expected" in w for w in found.warnings)
        for e in found.experiments:
            t = float((terms(np.array([e.inputs["input.scale"]]), np.array([float(e.node_count)])) @ THETA)[0])
            assert (e.expected_runtime_s or 0.0) >= 0.8 * t or e.node_count > 2, "coordination may add a little"
        points = {(e.inputs["input.scale"], e.node_count) for e in found.experiments}
        assert len({s for s, _ in points}) > 1
        assert len({m for _, m in points}) > 1, "collinear runs would determine nothing"

    def test_runs_whose_scale_and_nodes_varied_together_determine_no_error(self) -> None:
        problem, runs = ask(runs_frame([(0.01 * m, m) for m in NODES], noise=0.02))
        found = plan(problem, runs, budget_s=3000.0)
        assert found.error_before is None
        assert found.error_after is not None
        assert found.error_after < 1.0
        assert "now not determined" in design_as_text(found)

    def test_a_budget_that_does_not_determine_the_model_says_so(self) -> None:
        problem, runs = ask(runs_frame([(0.01 * m, m) for m in NODES], noise=0.02))
        same = plan(problem, runs, budget_s=3000.0)
        assert "not determined after these runs" in design_as_text(replace(same, error_after=None))
        m = np.array(NODES, dtype=float)
        one, s = np.ones_like(m), 0.01 * m
        assert _error(terms(one, m), [terms(s, m)], 0.05, (s, m, one, m), (one, m, one, m)) is None

    def test_every_input_to_run_at_is_named(self) -> None:
        frame = runs_frame(list(itertools.product((0.1, 0.2), (1, 2, 4)))).assign(**{"input.k": 3.0})
        found = plan(*ask(frame), budget_s=5000.0)
        assert {e.inputs["input.k"] for e in found.experiments} == {3.0}
        assert len({e.inputs["input.scale"] for e in found.experiments}) > 1
        assert ", k=3" in design_as_text(found)
        assert {e["inputs"]["k"] for e in found.to_dict()["experiments"]} == {3.0}

    def test_what_was_run_is_not_proposed_again(self) -> None:
        problem, runs = ask(runs_frame([(1 / 32, n) for n in NODES] + [(1 / 16, n) for n in NODES]))
        found = plan(problem, runs, budget_s=1e5)
        assert found.considered == 2 * len(NODES)
        assert all(e.inputs["input.scale"] > 1 / 16 for e in found.experiments)

    def test_without_a_run_or_with_too_little_it_says_what_is_missing(self) -> None:
        problem, runs = ask(runs_frame(list(self.START)))
        none = Runs(runs.frame.head(0))
        with pytest.raises(InsufficientEvidenceError, match="one completed run"):
            plan(problem, none, budget_usd=1.0)
        with pytest.raises(InfeasibleError, match=r"does not pay for 3 runs.*cheapest 3 are expected to cost \$"):
            plan(problem, runs, budget_usd=0.001)
        with pytest.raises(InputError, match="one budget"):
            plan(problem, runs, budget_usd=1.0, budget_s=1.0)

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("5usd", {"budget_usd": 5.0}),
            ("$0.5", {"budget_usd": 0.5}),
            ("7", {"budget_usd": 7.0}),
            ("2h", {"budget_s": 7200.0}),
        ],
    )
    def test_budgets_are_money_or_time(self, text: str, meant: dict[str, float]) -> None:
        assert parse_budget(text) == meant

    @pytest.mark.parametrize("text", ["0", "-1usd", "cheap", ""])
    def test_other_budgets_are_refused(self, text: str) -> None:
        with pytest.raises(InputError):
            parse_budget(text)


class TestTheCommand:
    def call(self, tmp_path: Path, *more: str) -> str:
        frame = runs_frame(list(TestThePlan.START))
        frame.to_csv(tmp_path / "runs.csv", index=False)
        pd.DataFrame({"instance_type": "box", "node_count": NODES, "usd_per_hour": 0.36, "vcpus": 1}).to_csv(
            tmp_path / "pool.csv", index=False
        )
        words = [
            "suggest",
            str(tmp_path / "runs.csv"),
            "--candidates",
            str(tmp_path / "pool.csv"),
            "--input",
            "scale=1",
        ]
        done = CliRunner().invoke(app, [*words, "--strategy", "ernest", "--design-budget", "0.5usd", *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    def test_lists_runs_costs_and_the_error_expected(self, tmp_path: Path) -> None:
        text = self.call(tmp_path)
        assert "box x" in text
        assert "on demand" in text
        assert "Expected error" in text

    def test_json_and_csv_say_the_same(self, tmp_path: Path) -> None:
        plain = json.loads(self.call(tmp_path, "--format", "json"))
        lines = self.call(tmp_path, "--format", "csv").splitlines()
        assert len(lines) == len(plain["experiments"]) + 1
        assert "input.scale" in lines[0]
        assert math.isclose(plain["runtime_s"], sum(e["expected_runtime_s"] for e in plain["experiments"]))

    def test_the_papers_criterion_can_be_asked_for(self, tmp_path: Path) -> None:
        ours, paper = (
            json.loads(self.call(tmp_path, "--format", "json", "--design-criterion", name))
            for name in ("misfit", "paper")
        )
        assert ours["experiments"] != paper["experiments"]
        assert paper["cost_usd"] <= 0.5

    def test_another_strategy_is_told_that_designs_are_ernests(self, tmp_path: Path) -> None:
        runs_frame(list(TestThePlan.START)).to_csv(tmp_path / "runs.csv", index=False)
        done = CliRunner().invoke(
            app, ["suggest", str(tmp_path / "runs.csv"), "--strategy", "cherrypick", "--design-budget", "5"]
        )
        assert isinstance(done.exception, InputError)
