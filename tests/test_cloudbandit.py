"""CloudBandit: whose turn it is, who is dropped, and that the history alone says so."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recommender.errors import UnknownNameError
from recommender.problem import Problem, build_problem
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs
from recommender.search.bandit import CloudBandit, restricted
from recommender.search.designs import Uniform
from recommender.strategies import strategy

ARMS = {"aws": 300.0, "azure": 200.0, "gcp": 400.0}
SIZES = range(20)


def table() -> pd.DataFrame:
    """3 providers x 20 types; runtimes around each provider's level."""
    rng = np.random.default_rng(5)
    rows = [
        (f"{arm}-{i:02d}", 1, 1.0, arm, ARMS[arm] * (1 + 0.3 * rng.random()))
        for arm, i in itertools.product(ARMS, SIZES)
    ]
    return pd.DataFrame(rows, columns=["instance_type", "node_count", "usd_per_hour", "feature.provider", "runtime_s"])


@dataclass(frozen=True)
class Random:
    """Searches an arm at random."""

    def suggest(self, problem: Problem, runs: Runs, *, rng: Any = None) -> NextRun | None:
        return Uniform().propose(problem, runs, rng or problem.random(runs), None)  # type: ignore[return-value]

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        return strategy("random").recommend(problem, runs)


BANDIT = CloudBandit("cloudbandit", "test", Random(), first=2)


def ask(mine: pd.DataFrame, **options: Any) -> tuple[Problem, Runs]:
    """The problem with some rows measured."""
    columns = [c for c in ("instance_type", "node_count", "runtime_s", "status") if c in mine]
    runs = mine[columns].assign(workload="w") if len(mine) else None
    if options:
        return build_problem(runs, workload="w", **{"candidates": table().drop(columns="runtime_s"), **options})
    problem, none = blank()
    return problem, Runs.from_frame(runs) if runs is not None else none


@cache
def blank() -> tuple[Problem, Runs]:
    """The problem before any run."""
    return build_problem(None, workload="w", candidates=table().drop(columns="runtime_s"))


def play(made: Any, steps: int, source: pd.DataFrame) -> list[str]:
    """The providers of the configurations asked for, in order."""
    rows, order = source.iloc[:0], []
    for _ in range(steps):
        wanted = made.suggest(*ask(rows))
        if wanted is None:
            break
        told = source[source["instance_type"] == wanted.instance_type]
        order.append(str(told["feature.provider"].iloc[0]))
        rows = pd.concat([rows, told]) if len(rows) else told
    return order


def test_rounds_double_and_the_worst_arm_is_dropped_after_each() -> None:
    order = play(BANDIT, 100, table())
    # K = 3 arms, b = 2, growth 2: 2 each; then 4 more for two; then 8 more for the last.
    assert len(order) == 11 * 2
    assert {arm: order[:6].count(arm) for arm in ARMS} == {"aws": 2, "azure": 2, "gcp": 2}
    assert {arm: order[6:14].count(arm) for arm in ARMS} == {"aws": 4, "azure": 4, "gcp": 0}
    assert set(order[14:]) == {"azure"}


def test_the_state_is_a_function_of_the_runs_in_any_order() -> None:
    source, rows = table(), table().iloc[:0]
    rng = np.random.default_rng(1)
    for _ in range(22):
        problem, runs = ask(rows)
        wanted = BANDIT.suggest(problem, runs)
        shuffled = ask(rows.iloc[rng.permutation(len(rows))])[1] if len(rows) else runs
        assert BANDIT.suggest(problem, shuffled) == wanted
        assert wanted is not None
        told = source[source["instance_type"] == wanted.instance_type]
        rows = pd.concat([rows, told]) if len(rows) else told
    assert BANDIT.suggest(*ask(rows)) is None


def test_an_arm_that_always_fails_is_dropped_first() -> None:
    source = table()
    source["status"] = np.where(source["feature.provider"] == "azure", "failed", "completed")
    order = play(BANDIT, 30, source)
    assert order.count("azure") == 2
    assert set(order[14:]) == {"aws"}


def test_with_a_deadline_an_arm_that_is_late_is_worst() -> None:
    source = table().assign(usd_per_hour=lambda t: np.where(t["feature.provider"] == "gcp", 0.01, 1.0))
    rows = source.groupby("feature.provider").head(2)
    candidates = source.drop(columns="runtime_s")
    late = ask(rows, candidates=candidates, deadline_s=350.0)
    turn = [BANDIT.suggest(*asked) for asked in (late, ask(rows, candidates=candidates))]
    kept = [BANDIT._turn(*asked, BANDIT.arms(asked[0]), set()) for asked in (late, ask(rows, candidates=candidates))]
    assert all(turn)
    assert "gcp" not in kept[0]
    assert "gcp" in kept[1]


def test_an_arm_cannot_have_more_runs_than_configurations() -> None:
    source = table()
    few = source[(source["feature.provider"] != "azure") | (source["instance_type"] < "azure-03")]
    rows, count = few.iloc[:0], 0
    while (wanted := BANDIT.suggest(*ask(rows, candidates=few.drop(columns="runtime_s")))) is not None:
        rows = (
            pd.concat([rows, few[few["instance_type"] == wanted.instance_type]])
            if count
            else few[few["instance_type"] == wanted.instance_type]
        )
        count += 1
    assert (rows["feature.provider"] == "azure").sum() == 3
    assert not rows["instance_type"].duplicated().any()


def test_arms_are_providers_else_families_else_types_or_a_column_of_your_own() -> None:
    assert sorted(BANDIT.arms(ask(table().iloc[:1])[0])) == ["aws", "azure", "gcp"]
    catalogue = pd.DataFrame(
        {
            "instance_type": ["m5.large", "m5.xlarge", "c5.large", "mine"],
            "node_count": 1,
            "usd_per_hour": 1.0,
            "feature.disk": ["a", "b", "a", "b"],
        }
    )
    problem, _ = build_problem(None, workload="w", candidates=catalogue)
    assert sorted(BANDIT.arms(problem)) == ["c5", "m5", "mine"]
    own = replace(BANDIT, column="feature.disk").arms(problem)
    assert {name: len(rows) for name, rows in own.items()} == {"a": 2, "b": 2}
    with pytest.raises(UnknownNameError, match=r"did you mean 'feature\.disk'"):
        replace(BANDIT, column="feature.disc").arms(problem)


def test_a_restricted_problem_has_the_same_prices() -> None:
    problem, _ = ask(table().iloc[:1])
    rows = BANDIT.arms(problem)["gcp"]
    part = restricted(problem, rows)
    whole = problem.candidates.offers
    kept = np.isin(whole.configuration, rows)
    assert (part.candidates.offers.usd_per_hour == whole.usd_per_hour[kept]).all()
    assert list(part.configurations["instance_type"]) == [f"gcp-{i:02d}" for i in SIZES]
    assert [part.candidates.configuration(int(c)).label for c in part.candidates.offers.configuration] == [
        problem.candidates.configuration(int(c)).label for c in whole.configuration[kept]
    ]


def test_the_recommendation_shows_what_would_be_suggested() -> None:
    problem, runs = ask(table().iloc[[0, 5, 22, 44]])
    made = strategy("cloudbandit")
    answer = made.recommend(problem, runs)
    assert answer.strategy == "cloudbandit"
    assert answer.next_run == made.suggest(problem, runs)
    assert answer.next_run is not None
    assert answer.next_run.why.startswith("arm ")
