"""The yardsticks are what they say: arithmetic that can be done by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.errors import InsufficientEvidenceError
from recommender.models import EVIDENCE, yardsticks
from recommender.models.yardsticks import (
    UNKNOWN_CELLS,
    UNKNOWN_SPREAD,
    BestFixed,
    ColumnMean,
    MeasuredOnly,
    additive,
    archive_cells,
    pooled_spread,
)
from recommender.problem import Problem, build_problem
from recommender.recommendation import Recommendation
from recommender.runs import Runs
from recommender.strategies import Uniform, strategy

KINDS = ("a", "b", "c", "d")
USD = {"a": 0.1, "b": 0.2, "c": 0.4, "d": 0.3}
EFFECT = {"a": 0.9, "b": 0.3, "c": -0.5, "d": 0.1}
"""ln of the runtime on each type over a workload's level."""
LEVEL = {"w1": 4.0, "w2": 6.0, "w3": 5.0}


def candidates(*kinds: str) -> pd.DataFrame:
    """One node each."""
    names = kinds or KINDS
    return pd.DataFrame({"instance_type": names, "node_count": 1, "usd_per_hour": [USD[k] for k in names]})


def table(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """Runs of one node: workload, type, seconds[, status]."""
    full = [(*row, "completed") if len(row) == 3 else row for row in rows]
    frame = pd.DataFrame(full, columns=["workload", "instance_type", "runtime_s", "status"])
    return frame.assign(node_count=1)


def archive(noise: float = 0.0, skip: tuple[tuple[str, str], ...] = ()) -> pd.DataFrame:
    """An exactly additive archive, some cells left out."""
    rng = np.random.default_rng(0)
    cells = [(w, k) for w, k in itertools.product(LEVEL, KINDS) if (w, k) not in skip]
    return table(*((w, k, math.exp(LEVEL[w] + EFFECT[k] + rng.normal(0, noise))) for w, k in cells))


def ask(mine: pd.DataFrame | None = None, others: pd.DataFrame | None = None, **options: Any) -> tuple[Problem, Runs]:
    """Ask about workload `new`."""
    return build_problem(
        mine,
        workload="new",
        archive=[archive() if others is None else others],
        **{"candidates": candidates(), **options},
    )


def order(answer: Recommendation) -> list[str]:
    """Types, best first."""
    return [row.instance_type for row in answer.rows]


class TestColumnMean:
    @pytest.mark.parametrize("skip", [(), (("w1", "a"), ("w2", "c"), ("w3", "b"))])
    def test_folds_a_new_workload_in_exactly_where_the_archive_is_additive(self, skip: Any) -> None:
        problem, mine = ask(table(("new", "b", math.exp(7.0 + EFFECT["b"]))), archive(skip=skip))
        prediction = ColumnMean().predict(problem, mine)
        assert prediction.log_runtime == pytest.approx([7.0 + EFFECT[k] for k in KINDS], abs=1e-6)
        assert [EVIDENCE[e] for e in prediction.evidence] == ["transferred", "measured", "transferred", "transferred"]
        assert (prediction.spread > 0).all()

    def test_the_archive_is_fitted_once_for_all_asks_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fits: list[int] = []
        fitted = yardsticks._fitted
        monkeypatch.setattr(yardsticks, "_fitted", lambda cells: fits.append(1) or fitted(cells))
        problem, mine = ask(table(("new", "b", 1000.0), ("new", "c", 900.0)), archive())
        for k in range(3):
            ColumnMean().predict(problem, Runs(mine.frame.head(k)))
        assert fits == [1]
        ColumnMean().predict(*ask(others=archive(skip=(("w1", "a"),))))
        assert fits == [1, 1]

    def test_without_a_run_only_the_order_means_anything_and_it_says_so(self) -> None:
        problem, mine = ask()
        prediction = ColumnMean().predict(problem, mine)
        assert np.diff(prediction.log_runtime) == pytest.approx(np.diff([EFFECT[k] for k in KINDS]), abs=1e-6)
        assert any("only their order means anything" in w for w in prediction.warnings)
        assert prediction.spread.min() >= 1.0, "a factor of e either way"

    def test_a_fold_in_run_narrows(self) -> None:
        problem, none = ask(others=archive(noise=0.1))
        one_problem, one = ask(table(("new", "b", 100.0)), archive(noise=0.1))
        wide, narrow = ColumnMean().predict(problem, none), ColumnMean().predict(one_problem, one)
        assert (narrow.spread < wide.spread).all()

    def test_a_slow_workload_run_only_on_a_fast_machine_does_not_make_the_machine_slow(self) -> None:
        others = pd.concat([archive(), table(("slow", "c", math.exp(14.0)), ("quick", "a", 0.5))], ignore_index=True)
        prediction = ColumnMean().predict(*ask(others=others))
        assert np.argsort(prediction.log_runtime).tolist() == [2, 3, 1, 0]

    def test_a_configuration_without_a_column_is_excluded_not_guessed(self) -> None:
        others = archive(skip=tuple((w, "d") for w in LEVEL))
        answer = strategy("column-mean").recommend(*ask(table(("new", "a", 90.0)), others))
        assert "d" not in order(answer)
        assert [(e.reason, e.count) for e in answer.excluded] == [("no_evidence", 1)]

    def test_a_measured_configuration_without_a_column_counts(self) -> None:
        others = archive(skip=tuple((w, "d") for w in LEVEL))
        answer = strategy("column-mean").recommend(*ask(table(("new", "d", 1.0)), others))
        assert order(answer)[0] == "d"
        assert answer.rows[0].evidence == "measured"

    def test_failed_archive_runs_are_no_columns(self) -> None:
        bad = table(*((w, "c", 0.01, "failed") for w in LEVEL))
        skip = tuple((w, "c") for w in LEVEL)
        others = pd.concat([archive(skip=skip), bad], ignore_index=True)
        assert "c" not in order(strategy("column-mean").recommend(*ask(others=others)))


class TestTheAdditiveModel:
    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6))
    def test_recovers_planted_levels_and_columns_up_to_a_shift(self, seed: int, rows: int, columns: int) -> None:
        rng = np.random.default_rng(seed)
        y = rng.normal(0, 3, (rows, 1)) + rng.normal(0, 3, (1, columns))
        mask = rng.random(y.shape) < 0.3
        mask[0], mask[:, 0] = False, False
        level, column, residual = additive(np.where(mask, np.nan, y), sweeps=5000)
        assert level[:, None] + column == pytest.approx(y, abs=1e-5)
        assert np.nanmax(np.abs(residual)) < 1e-5

    def test_residuals_are_least_squares(self) -> None:
        rng = np.random.default_rng(1)
        y = rng.normal(size=(4, 5))
        _, _, residual = additive(y)
        assert residual.sum(axis=0) == pytest.approx(np.zeros(5), abs=1e-8)
        assert residual.sum(axis=1) == pytest.approx(np.zeros(4), abs=1e-8)

    def test_an_empty_column_stays_unknown(self) -> None:
        _, column, _ = additive(np.array([[1.0, np.nan], [2.0, np.nan]]))
        assert np.isnan(column).tolist() == [False, True]

    def test_the_matrix_averages_repetitions_in_the_logarithm(self) -> None:
        others = table(("w1", "a", 10.0), ("w1", "a", 1000.0), ("w2", "a", 7.0), ("w2", "b", 5.0))
        y = archive_cells(ask(others=others)[0]).log_runtime
        assert y.shape == (2, 4)
        assert np.nanmax(y) == pytest.approx(math.log(100.0))
        assert np.isnan(y).sum() == 5


class TestTheSpreadAboutLevelAndColumn:
    def test_is_that_of_the_free_cells_pooled_with_the_usual(self) -> None:
        y = np.random.default_rng(2).normal(size=(4, 5))
        residual = additive(y)[2]
        free = 4 * 5 - 4 - 5 + 1
        squares = (residual**2).sum() + UNKNOWN_CELLS * UNKNOWN_SPREAD**2
        assert pooled_spread(residual) == pytest.approx(math.sqrt(squares / (free + UNKNOWN_CELLS)))

    def test_of_two_runs_a_workload_in_a_chain_is_not_known_though_all_residuals_are_zero(self) -> None:
        chain = np.full((4, 5), np.nan)
        for w in range(4):
            chain[w, [w, w + 1]] = 0.0
        assert pooled_spread(chain) == pytest.approx(UNKNOWN_SPREAD)
        chain[2] = np.nan  # in two parts neither
        assert pooled_spread(chain) == pytest.approx(UNKNOWN_SPREAD)

    @pytest.mark.parametrize("runs", [2, 3, 4, 6, 20])
    def test_makes_the_column_mean_s_intervals_hold_however_few_runs_a_workload_has(self, runs: int) -> None:
        """Forty workloads on forty types; 80 % intervals of a new workload's, measured on two."""
        rng, inside, n = np.random.default_rng(runs), [], 40
        pool = pd.DataFrame({"instance_type": [f"t{i:02}" for i in range(n)], "node_count": 1, "usd_per_hour": 0.1})
        column = rng.normal(0, 0.7, n)
        for _ in range(20):
            truth = rng.normal(5, 1, (n + 1, 1)) + column + rng.normal(0, 0.3, (n + 1, n))
            cells = [(w, i) for w in range(n) for i in rng.permutation(n)[:runs]]
            mine = [(n, i) for _, i in cells[:2]]

            def rows(which: list[tuple[int, int]], y: np.ndarray = truth) -> pd.DataFrame:
                return table(*((f"w{w}", f"t{i:02}", math.exp(y[w, i])) for w, i in which))

            problem, own = build_problem(rows(mine), archive=[rows(cells)], candidates=pool)
            found = ColumnMean().predict(problem, own)
            known = np.isfinite(found.log_runtime) & ~np.isin(np.arange(n), [i for _, i in mine])
            inside += list(np.abs(truth[n] - found.log_runtime)[known] < 1.2816 * found.spread[known])
        assert 0.75 <= np.mean(inside) <= 0.95

    def test_is_wider_where_few_ran_a_configuration(self) -> None:
        others = archive(noise=0.2, skip=(("w1", "d"), ("w2", "d")))
        spread = ColumnMean().predict(*ask(table(("new", "a", 90.0)), others)).spread
        assert spread[KINDS.index("d")] > spread[KINDS.index("c")] == pytest.approx(spread[KINDS.index("b")])


class TestBestFixed:
    @pytest.mark.parametrize("objective", ["cost", "runtime"])
    def test_is_the_best_on_average_by_brute_force(self, objective: str) -> None:
        others = archive(noise=0.4)
        mean = {}
        for kind in KINDS:
            runtimes = others.loc[others["instance_type"] == kind, "runtime_s"]
            mean[kind] = np.log(runtimes * (USD[kind] if objective == "cost" else 1.0)).mean()
        answer = strategy("best-fixed").recommend(*ask(others=others, objective=objective))
        assert order(answer) == sorted(KINDS, key=lambda k: mean[k])

    def test_is_the_same_whatever_the_workload_did(self) -> None:
        first = order(strategy("best-fixed").recommend(*ask()))
        mine = table(("new", first[-1], 1e-3), ("new", first[0], 1e5))
        assert order(strategy("best-fixed").recommend(*ask(mine))) == first

    def test_a_configuration_most_workloads_did_not_complete_comes_last(self) -> None:
        skip = (("w1", "c"), ("w2", "c"))
        assert order(strategy("best-fixed").recommend(*ask(others=archive(skip=skip), objective="runtime")))[-1] == "c"

    def test_measures_nothing(self) -> None:
        problem, mine = ask()
        assert strategy("best-fixed").suggest(problem, mine) is None
        assert strategy("best-fixed").recommend(problem, mine).next_run is None
        assert BestFixed().predict(problem, mine).preference is not None


class TestRandom:
    def test_recommends_the_best_it_measured_and_nothing_else(self) -> None:
        mine = table(("new", "a", 100.0), ("new", "b", 40.0), ("new", "c", 10.0, "failed"))
        answer = strategy("random").recommend(*ask(mine))
        assert order(answer) == ["b", "a"]
        assert {row.evidence for row in answer.rows} == {"measured"}
        assert {e.reason: e.count for e in answer.excluded} == {"failed": 1, "no_evidence": 1}

    def test_repetitions_are_averaged(self) -> None:
        mine = table(*(("new", "a", t) for t in (90.0, 100.0, 110.0)))
        prediction = MeasuredOnly().predict(*ask(mine))
        assert math.exp(prediction.log_runtime[0]) == pytest.approx((90 * 100 * 110) ** (1 / 3))
        single = MeasuredOnly().predict(*ask(table(("new", "a", 100.0))))
        assert prediction.spread[0] != single.spread[0]

    def test_proposes_every_configuration_equally_often(self) -> None:
        problem, mine = ask()
        rng = np.random.default_rng(0)
        chosen = [Uniform().propose(problem, mine, rng, None) for _ in range(200)]
        counts = pd.Series([c.instance_type for c in chosen if c is not None]).value_counts()
        assert set(counts.index) == set(KINDS)
        assert counts.between(30, 70).all()

    def test_before_any_run_its_order_follows_the_seed(self) -> None:
        orders = {tuple(order(strategy("random").recommend(*ask(seed=s)))) for s in range(12)}
        assert len(orders) > 4
        assert all(sorted(o) == sorted(KINDS) for o in orders)


class TestPriceOnly:
    def test_orders_by_price_per_hour_and_promises_no_runtime(self) -> None:
        answer = strategy("price-only").recommend(*ask(table(("new", "c", 1.0), ("new", "a", 1e6))))
        assert order(answer) == sorted(KINDS, key=lambda k: USD[k])
        assert all(row.runtime_s is None and row.cost_usd is None for row in answer.rows)
        assert {row.evidence for row in answer.rows} == {"assumed"}
        assert any("no runtime is known" in w for w in answer.warnings)

    def test_needs_neither_runs_nor_an_archive_and_measures_nothing(self) -> None:
        problem, mine = build_problem(None, candidates=candidates())
        assert order(strategy("price-only").recommend(problem, mine))[0] == "a"
        assert strategy("price-only").suggest(problem, mine) is None

    def test_more_nodes_cost_more(self) -> None:
        many = pd.concat([candidates("a").assign(node_count=n) for n in (4, 1, 2)], ignore_index=True)
        answer = strategy("price-only").recommend(*build_problem(None, candidates=many))
        assert [row.node_count for row in answer.rows] == [1, 2, 4]


@pytest.mark.parametrize("name", ["column-mean", "best-fixed"])
def test_without_an_archive_they_say_how_to_give_one(name: str) -> None:
    with pytest.raises(InsufficientEvidenceError, match="--archive RUNS"):
        strategy(name).recommend(*build_problem(table(("new", "a", 5.0)), candidates=candidates()))


def test_what_often_failed_for_other_workloads_is_less_likely_to_complete() -> None:
    rows = [
        {"workload": f"w{w}", "instance_type": kind, "node_count": 1, "runtime_s": 100.0, "status": status}
        for w in range(3)
        for kind, status in (("a", "completed"), ("b", "completed" if w == 0 else "failed"))
    ]
    pool = pd.DataFrame(
        {"instance_type": ["a", "b"], "node_count": [1, 1], "usd_per_hour": [1.0, 1.0], "vcpus": [4, 4]}
    )
    problem, _ = build_problem(None, workload="new", archive=[pd.DataFrame(rows)], candidates=pool)
    # (completed + 1)/(runs + 1): 4/4 and 2/4.
    assert list(archive_cells(problem).completing) == [1.0, 0.5]


@pytest.mark.parametrize("name", ["prior", "auto", "best-fixed", "column-mean"])
def test_what_most_workloads_could_not_complete_is_not_recommended_under_a_deadline(name: str) -> None:
    kinds = ["t00", "t01", "t02", "t03"]
    pool = pd.DataFrame({"instance_type": kinds, "node_count": 1, "usd_per_hour": 0.1})
    rows = [
        (f"w{u}", kind, 1, 90.0 + 10 * (kind != "t00") + u, "failed" if kind == "t00" and u < 8 else "completed")
        for u in range(10)
        for kind in kinds
    ]
    archive = pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s", "status"])
    mine = pd.DataFrame({"workload": "new", "instance_type": ["t02"], "node_count": 1, "runtime_s": 105.0})
    problem, runs = build_problem(
        mine, workload="new", archive=[archive], candidates=pool, objective="runtime", deadline_s=200.0
    )
    answer = strategy(name).recommend(problem, runs)
    assert answer.rows[0].instance_type != "t00", "the fastest where it completed, which was 2 times in 10"
    assert answer.prediction is not None
    assert answer.prediction.completing[0] < 0.6


def test_columns_that_nobody_ran_change_nothing_of_the_additive_model() -> None:
    y = np.array([[1.0, 2.0, np.nan], [2.0, np.nan, 4.0], [0.5, 1.0, np.nan]])
    bound = np.full_like(y, -np.inf)
    bound[2, 2] = 3.0
    wide, wide_bound = np.full((3, 7), np.nan), np.full((3, 7), -np.inf)
    wide[:, [1, 3, 6]], wide_bound[:, [1, 3, 6]] = y, bound
    level, column, residual = additive(y, bound)
    more_level, more_column, more_residual = additive(wide, wide_bound)
    assert more_level == pytest.approx(level, abs=1e-12)
    assert more_column[[1, 3, 6]] == pytest.approx(column, abs=1e-12)
    assert np.isnan(more_column[[0, 2, 4, 5]]).all()
    assert more_residual[:, [1, 3, 6]] == pytest.approx(residual, abs=1e-12, nan_ok=True)


def test_an_archive_of_many_columns_is_not_solved_but_says_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"workload": f"w{w}", "instance_type": f"t{i}", "node_count": 1, "runtime_s": 100.0 * np.exp(0.3 * z)}
        for w in range(20)
        for i, z in zip(rng.permutation(12)[:8], rng.standard_normal(8), strict=True)
    ]
    mine = [{"workload": "mine", "instance_type": "t0", "node_count": 1, "runtime_s": 100.0}]
    pool = pd.DataFrame({"instance_type": [f"t{i}" for i in range(12)], "node_count": 1, "usd_per_hour": 1.0})
    problem, runs = build_problem(pd.DataFrame(rows + mine), workload="mine", candidates=pool, objective="runtime")
    solved = ColumnMean().predict(problem, runs)
    monkeypatch.setattr("recommender.models.yardsticks.SOLVED", 5)
    rough = ColumnMean().predict(problem, runs)
    assert rough.log_runtime == pytest.approx(solved.log_runtime)
    assert rough.spread == pytest.approx(solved.spread, rel=0.02)
