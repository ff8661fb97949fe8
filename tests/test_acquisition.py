"""Acquisition functions against closed forms, simulation and pricing done by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from recommender.models import MODELLED, Array, Prediction, measured, nothing_known
from recommender.models._skopt import expected_improvement
from recommender.pricing import BY_NAME
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.search.acquisition import (
    ConstrainedImprovement,
    Scores,
    feasible_values,
    incumbent,
    log_objective,
    proposal,
    run_cost_usd,
    values,
)

USD = {"a": 0.36, "b": 0.72, "c": 1.44}


def ask(*rows: tuple[str, float], **options: Any) -> tuple[Problem, Runs]:
    """Three types x 1 and 2 nodes at own prices (no billing minimum), the rows' types measured on one node."""
    frame = pd.DataFrame(rows, columns=["instance_type", "runtime_s"]).assign(workload="w", node_count=1)
    candidates = pd.DataFrame(
        [(t, n, USD[t]) for t in USD for n in (1, 2)], columns=["instance_type", "node_count", "usd_per_hour"]
    )
    return build_problem(frame if rows else None, workload="w", candidates=candidates, **options)


def belief(problem: Problem, mean: Array, latent: float = 0.3, noise: float = 0.1) -> Prediction:
    """A modelled prediction with the same spread everywhere."""
    n = len(problem.configurations)
    return replace(
        nothing_known(problem),
        log_runtime=mean,
        spread=np.full(n, math.hypot(latent, noise)),
        noise=noise,
        evidence=np.full(n, MODELLED, dtype=np.int8),
    )


def score(problem: Problem, runs: Runs, prediction: Prediction, acquisition: ConstrainedImprovement) -> Scores:
    """The acquisition asked without a model, which it does not need."""

    class NoModel:
        def predict(self, problem: Problem, runs: Runs) -> Prediction:
            raise AssertionError("expected improvement does not look ahead")

    return acquisition.scores(problem, runs, prediction, NoModel())


class TestExpectedImprovement:
    def test_is_its_closed_form(self) -> None:
        mean, spread, best = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.5, 3.0]), 0.4
        z = (best - mean) / spread
        expected = (best - mean) * norm.cdf(z) + spread * norm.pdf(z)
        assert expected_improvement(mean, spread, best) == pytest.approx(expected, rel=1e-12)

    def test_is_what_simulation_says(self) -> None:
        rng = np.random.default_rng(0)
        mean, spread, best = np.array([0.3, -0.5, 2.0]), np.array([0.7, 0.2, 1.5]), 0.1
        drawn = mean + spread * rng.standard_normal((400_000, 3))
        simulated = np.maximum(best - drawn, 0.0)
        error = 5 * simulated.std(axis=0) / math.sqrt(len(drawn))
        assert (np.abs(expected_improvement(mean, spread, best) - simulated.mean(axis=0)) < error).all()

    def test_without_spread_nothing_is_expected_and_nothing_is_ever_negative(self) -> None:
        assert expected_improvement(np.array([5.0, 900.0]), np.array([0.0, 1e-6]), 0.0).tolist() == [0.0, 0.0]


class TestTheObjective:
    def test_cost_is_runtime_times_price_times_nodes(self) -> None:
        problem, _ = ask()
        mean = np.log(np.arange(100.0, 700.0, 100.0))
        believed = values(problem, belief(problem, mean))
        hourly = problem.configurations["instance_type"].map(USD) * problem.configurations["node_count"]
        assert believed.mean == pytest.approx(np.log(np.exp(mean) * hourly / 3600.0), abs=1e-12)
        assert believed.spread == pytest.approx(np.full(6, 0.3), abs=1e-9), "the noise of a single run is left out"

    def test_runtime_ignores_prices(self) -> None:
        problem, _ = ask(objective="runtime")
        mean = np.linspace(3.0, 5.0, 6)
        assert values(problem, belief(problem, mean)).mean == pytest.approx(mean, abs=1e-12)

    def test_within_the_billing_minimum_nothing_is_gained_by_speed(self) -> None:
        candidates = pd.DataFrame({"instance_type": ["m5.large", "m5.2xlarge"], "node_count": [1, 1]})
        problem, _ = build_problem(None, workload="w", candidates=candidates, regions=["us-east-1"])
        believed = values(problem, belief(problem, np.log([5.0, 5000.0])))
        assert sorted(believed.spread) == pytest.approx([0.0, 0.3], abs=1e-9)

    def test_is_that_of_the_cheapest_way_to_pay(self) -> None:
        candidates = pd.DataFrame({"instance_type": ["m5.large", "c5.large"], "node_count": [2, 1]})
        options = [BY_NAME["on-demand"], BY_NAME["spot"]]
        problem, _ = build_problem(None, workload="w", candidates=candidates, purchase=options)
        ln_t = np.log([[3600.0, 3600.0]])
        each = [log_objective(problem, ln_t, objective="cost", options=(o,)) for o in options]
        assert log_objective(problem, ln_t, objective="cost") == pytest.approx(np.minimum(*each), abs=1e-12)

    def test_an_unpriced_candidate_has_no_cost_rather_than_none_to_pay(self) -> None:
        candidates = pd.DataFrame(
            {"instance_type": ["a", "nobody-sells-this"], "node_count": [1, 1], "usd_per_hour": [1.0, np.nan]}
        )
        problem, _ = build_problem(None, workload="w", candidates=candidates)
        assert np.isnan(run_cost_usd(problem, np.log([9.0, 9.0]))).tolist() == [False, True]


class TestConstraints:
    def test_the_incumbent_is_the_best_that_was_measured_to_meet_them(self) -> None:
        runs = (("a", 1000.0), ("b", 600.0), ("c", 100.0))
        cost = {t: USD[t] * s / 3600 for t, s in runs}
        for options, best in (
            ({}, "c"),
            ({"deadline_s": 700.0}, "c"),
            ({"objective": "runtime", "budget_usd": 0.11}, "c"),
        ):
            problem, mine = ask(*runs, **options)
            found = incumbent(problem, mine)
            assert found is not None
            assert problem.configurations["instance_type"][found[1]] == best
        slow = (("a", 1000.0), ("b", 600.0), ("c", 900.0))
        problem, mine = ask(*slow, deadline_s=700.0)
        found = incumbent(problem, mine)
        assert found is not None
        assert found[0] == pytest.approx(math.log(0.72 * 600 / 3600)), f"the cheaper one ({cost['a']:.2f} USD) is late"
        assert incumbent(*ask(*slow, deadline_s=500.0)) is None
        assert incumbent(*ask(("a", 1000.0), budget_usd=0.05)) is None

    def test_a_failed_run_is_no_incumbent(self) -> None:
        problem, mine = ask(("a", 1000.0), ("c", 1.0))
        frame = mine.frame.assign(status=["completed", "failed"])
        found = incumbent(problem, Runs.from_frame(frame))
        assert found is not None
        assert found[0] == pytest.approx(math.log(0.1))

    def test_the_score_is_the_improvement_expected_from_runtimes_within_the_deadline(self) -> None:
        problem, mine = ask(("a", 1000.0), deadline_s=1200.0)
        prediction = replace(belief(problem, np.log(np.linspace(300.0, 2000.0, 6))), completing=np.linspace(0.5, 1, 6))
        found = score(problem, mine, prediction, ConstrainedImprovement())
        mean, best = values(problem, prediction).mean, math.log(0.1)
        z = np.minimum(best - mean, math.log(1200.0) - prediction.log_runtime) / 0.3
        expected = ((best - mean) * norm.cdf(z) + 0.3 * norm.pdf(z)) * prediction.completing
        assert found.score == pytest.approx(expected, rel=1e-9)
        assert found.improvement == pytest.approx(1 - np.exp(-expected), rel=1e-9)
        assert found.incumbent == pytest.approx(0.1)

    @pytest.mark.parametrize(
        "constraint", [{"deadline_s": 900.0}, {"budget_usd": 0.07}, {"deadline_s": 900.0, "budget_usd": 0.07}]
    )
    @pytest.mark.parametrize("objective", ["cost", "runtime"])
    def test_constrained_improvement_is_what_simulation_says(
        self, constraint: dict[str, float], objective: str
    ) -> None:
        problem, mine = ask(("a", 650.0), objective=objective, **constraint)
        prediction = belief(problem, np.log(np.linspace(200.0, 1500.0, 6)))
        best = math.log(0.065 if objective == "cost" else 650.0)
        log_t = prediction.log_runtime + 0.3 * np.random.default_rng(1).standard_normal((200_000, 6))
        cost = log_t + np.log(run_cost_usd(problem, np.zeros(6)))
        ok = (log_t <= math.log(constraint.get("deadline_s", math.inf))) & (
            cost <= math.log(constraint.get("budget_usd", math.inf))
        )
        gain = ok * np.maximum(best - (cost if objective == "cost" else log_t), 0.0)
        found = score(problem, mine, prediction, ConstrainedImprovement()).score
        error = 5 * gain.std(axis=0) / math.sqrt(len(gain))
        assert (np.abs(found - gain.mean(axis=0)) <= error + 1e-6).all()

    def test_a_deadline_that_never_binds_changes_nothing(self) -> None:
        problem, mine = ask(("a", 1000.0))
        prediction = belief(problem, np.log(np.linspace(300.0, 2000.0, 6)))
        free = score(problem, mine, prediction, ConstrainedImprovement()).score
        loose = score(replace(problem, deadline_s=1e9), mine, prediction, ConstrainedImprovement()).score
        assert loose == pytest.approx(free, rel=1e-12)
        believed = values(problem, prediction)
        assert free == pytest.approx(expected_improvement(believed.mean, believed.spread, math.log(0.1)), rel=1e-12)

    def test_within_a_billing_minimum_the_sure_saving_counts_as_often_as_the_deadline_is_met(self) -> None:
        candidates = pd.DataFrame({"instance_type": ["m5.large", "m5.2xlarge"], "node_count": [1, 1]})
        rows = pd.DataFrame({"workload": ["w"], "instance_type": "m5.2xlarge", "node_count": 1, "runtime_s": [9.0]})
        problem, mine = build_problem(rows, workload="w", candidates=candidates, regions=["us-east-1"], deadline_s=10.0)
        found = score(problem, mine, belief(problem, np.log([8.0, 9.0])), ConstrainedImprovement())
        row = int(problem.configurations["instance_type"].eq("m5.large").to_numpy().argmax())
        saving = math.log(0.384 / 0.096)
        share = norm.cdf((math.log(10.0) - math.log([8.0, 9.0][row])) / 0.3)
        assert found.score[row] == pytest.approx(saving * share, rel=1e-6)

    def test_a_budget_counts_like_a_deadline(self) -> None:
        problem, _ = ask(("a", 100.0), budget_usd=0.05)
        mean = np.full(6, math.log(200.0))
        cost = (
            np.exp(mean)
            * problem.configurations["instance_type"].map(USD)
            * problem.configurations["node_count"]
            / 3600
        )
        expected = norm.cdf((math.log(0.05) - np.log(cost)) / math.hypot(0.3, 0.1))
        assert values(problem, belief(problem, mean)).feasible == pytest.approx(expected, abs=1e-9)

    def test_while_nothing_is_feasible_the_likeliest_to_be_is_sought(self) -> None:
        problem, mine = ask(("a", 1000.0), deadline_s=100.0)
        found = score(problem, mine, belief(problem, np.linspace(5.0, 8.0, 6)), ConstrainedImprovement())
        assert found.improvement is None
        assert found.incumbent is None
        assert (np.diff(found.score) < 0).all()

    def test_the_released_code_has_no_deadline_term(self) -> None:
        problem, mine = ask(("a", 1000.0), deadline_s=100.0)
        prediction = belief(problem, np.linspace(5.0, 8.0, 6))
        free = replace(problem, deadline_s=None)
        got = score(problem, mine, prediction, ConstrainedImprovement(constrained=False))
        assert got.score == pytest.approx(score(free, mine, prediction, ConstrainedImprovement()).score)

    def test_feasible_values_are_infinite_where_a_constraint_breaks(self) -> None:
        problem, mine = ask(("a", 50.0), ("b", 500.0), deadline_s=100.0)
        value = feasible_values(problem, measured(problem, mine).log_runtime)
        assert np.isfinite(value).tolist() == [True, False, False, False, False, False]


def test_a_proposal_says_what_it_would_take_and_cost() -> None:
    problem, _ = ask()
    run = proposal(problem, belief(problem, np.full(6, math.log(1800.0))), 3, "because")
    assert (run.instance_type, run.node_count, run.why) == ("b", 2, "because")
    assert run.expected_runtime_s == pytest.approx(1800.0)
    assert run.expected_cost_usd == pytest.approx(0.72)
    blank = proposal(problem, nothing_known(problem), 0, "a start")
    assert blank.expected_runtime_s is None
    assert blank.expected_cost_usd is None
