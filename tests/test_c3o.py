"""C3O: planted shapes are chosen and come back, inputs count, and what is not known is wide and said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from c3o_selection import Job, jobs, judge, random_splits, unseen_contexts
from strategy_contract import StrategyContract

from recommender.datasets import Dataset, fetch_dataset
from recommender.errors import InsufficientEvidenceError, UnknownNameError
from recommender.models import EVIDENCE, Prediction
from recommender.models.c3o import C3O, MODELS, Table, choose, factored, held_out, tables
from recommender.models.descriptions import edges
from recommender.models.points import run_points
from recommender.problem import Problem, build_problem
from recommender.strategies import Strategy, strategy


def law(size: float, k: float, nodes: float) -> float:
    """A planted runtime: (fixed + divided work + coordination) x a power of the input k."""
    return (20.0 + 800.0 * size / nodes + 3.0 * nodes) * k**0.7


def table(
    *,
    sizes: tuple[float, ...] = (1.0, 2.0, 4.0),
    ks: tuple[float, ...] = (1.0, 3.0, 9.0),
    nodes: tuple[int, ...] = (1, 2, 4, 8),
    noise: float = 0.0,
    kind: str = "box",
    speed: float = 1.0,
) -> pd.DataFrame:
    """Runs of one type outside the catalogue."""
    rng = np.random.default_rng(0)
    rows = [
        ("job", kind, n, law(s, k, n) / speed * math.exp(rng.normal(0.0, noise)), s, k)
        for s, k, n in itertools.product(sizes, ks, nodes)
    ]
    return pd.DataFrame(
        rows, columns=["workload", "instance_type", "node_count", "runtime_s", "input.scale", "input.k"]
    )


def pool(*kinds: str, nodes: tuple[int, ...] = (1, 2, 4, 8, 12, 64)) -> pd.DataFrame:
    """A candidates table of types outside the catalogue, 4 vCPUs each."""
    rows = [(kind, n, 0.2, 4) for kind in kinds or ("box",) for n in nodes]
    return pd.DataFrame(rows, columns=["instance_type", "node_count", "usd_per_hour", "vcpus"])


def ask(runs: pd.DataFrame, candidates: pd.DataFrame | None = None, **inputs: float) -> tuple[Problem, Any]:
    """Build the problem of `runs` at an input."""
    return build_problem(runs, candidates=pool() if candidates is None else candidates, inputs=inputs)


def believe(runs: pd.DataFrame, candidates: pd.DataFrame | None = None, **inputs: float) -> tuple[Problem, Prediction]:
    """Ask C3O."""
    problem, mine = ask(runs, candidates, **inputs)
    return problem, C3O().predict(problem, mine)


def points(runs: pd.DataFrame) -> tuple[Table, Any]:
    """The points of a table of runs."""
    problem, mine = ask(runs)
    found, stopped, _ = tables(problem, run_points(problem, mine, [], every_input=True), [])
    return found, stopped


class TestTheContract(StrategyContract):
    @pytest.fixture
    def make(self) -> Callable[[], Strategy]:
        return lambda: strategy("c3o")


class TestPlantedShapes:
    def test_a_factored_law_comes_back_at_inputs_that_were_never_run(self) -> None:
        problem, prediction = believe(table(), scale=3.0, k=5.0)
        nodes = problem.configurations["node_count"].to_numpy(float)
        inside = nodes <= 8
        truth = np.log([law(3.0, 5.0, n) for n in nodes])
        assert np.abs(prediction.log_runtime - truth)[inside].max() < 0.12
        assert (np.abs(prediction.log_runtime - truth) < 3 * prediction.spread).all()

    def test_the_factored_fit_of_one_input_is_exact_without_noise(self) -> None:
        found, _ = points(table(sizes=(2.0,)))
        believed = factored(found)(found)
        assert np.abs(believed - found.y).max() < 0.02, "k^0.7 x (a + b/m + c m), but for the ridge"

    def test_the_model_chosen_has_the_least_error_of_all_left_out(self) -> None:
        found, stopped = points(table(noise=0.03))
        choice = choose(found, stopped)
        errors = {name: float(np.mean(np.abs(e))) for name, e in choice.errors.items()}
        assert set(errors) == set(MODELS)
        assert errors[choice.name] == min(errors.values())
        assert choice.name != "ernest", "it knows nothing of k"

    def test_ernest_is_chosen_where_nothing_but_scale_and_nodes_matters(self) -> None:
        runs = table(ks=(1.0,), sizes=(1.0, 2.0)).drop(columns="input.k")
        found, stopped = points(runs)
        assert choose(found, stopped).name == "ernest"

    def test_groups_are_left_out_whole(self) -> None:
        found, _ = points(table())
        group = np.arange(len(found.y)) // 4
        seen: list[set[int]] = []

        def spy(part: Table) -> Callable[[Table], np.ndarray[Any, Any]]:
            seen.append({int(g) for g, y in zip(group, found.y, strict=True) if y in part.y})
            return lambda other: np.zeros(len(other.y))

        held_out(spy, found, group)
        assert len(seen) == 9
        assert all(len(kept) == 8 for kept in seen)

    def test_repetitions_are_one_point_with_their_median(self) -> None:
        once = table()
        often = pd.concat([once, once, once.assign(runtime_s=once["runtime_s"] * 100)], ignore_index=True)
        assert points(often)[0].y == pytest.approx(points(once)[0].y)


class TestTheTerms:
    def test_they_add_up_to_the_median_and_name_what_takes_most(self) -> None:
        problem, prediction = believe(table(noise=0.02), scale=2.0, k=5.0)
        assert prediction.terms is not None
        for i in range(len(problem.configurations)):
            terms = prediction.terms(i)
            assert sum(terms.values()) == pytest.approx(math.exp(prediction.log_runtime[i]), rel=1e-9)
            assert min(terms.values()) >= 0
        one = int(np.flatnonzero(problem.configurations["node_count"] == 1)[0])
        assert prediction.terms(one)["work that divides over vCPUs"] > 0.8 * math.exp(prediction.log_runtime[one])
        assert "work that divides over vCPUs takes" in prediction.binding(one)


class TestEdges:
    def test_the_outermost_values_are_left_out_until_the_question_is_twice_as_far_at_most_or_half_are(self) -> None:
        values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 2.0])
        (near,) = edges(values, np.array([16.0, 32.0]))
        assert near.left.tolist() == [False, False, False, False, True, False]
        assert near.beyond == pytest.approx([0.0, 1.0], abs=1e-6)
        (far,) = edges(values, np.array([512.0, np.nan]))
        assert far.left.tolist() == [False, False, False, True, True, False]
        assert far.away == pytest.approx(math.sqrt((1 + 4) / 2))
        (low,) = edges(values, np.array([0.5]))
        assert low.left.tolist() == [True, False, False, False, False, False]

    def test_inside_or_never_varied_there_is_none(self) -> None:
        assert not edges(np.array([1.0, 3.0]), np.array([2.0]))
        assert not edges(np.array([3.0, 3.0]), np.array([6.0]))

    def test_a_spread_grows_as_distance_to_three_halves(self) -> None:
        (edge,) = edges(np.array([1.0, 2.0, 4.0]), np.array([8.0, 64.0]))
        assert edge.varies
        assert edge.further(0.1) == pytest.approx([0.1 * (1 / edge.away) ** 1.5, 0.1 * (4 / edge.away) ** 1.5])


class TestWhatIsNotKnown:
    def test_spread_grows_beyond_the_range_of_every_input_and_of_the_nodes(self) -> None:
        runs = table(noise=0.03)
        at = {}
        for k in (3.0, 18.0, 72.0):
            problem, prediction = believe(runs, scale=2.0, k=k)
            at[k] = prediction.spread
            assert any("k = " in w for w in prediction.warnings) == (k > 9.0)
        assert (at[18.0] > at[3.0]).all()
        assert (at[72.0] > at[18.0]).all()
        nodes = problem.configurations["node_count"].to_numpy()
        assert at[3.0][nodes == 64] > at[3.0][nodes == 8]

    @pytest.mark.parametrize(
        ("ks", "shape"),
        [
            ((1.0, 2.0, 3.0, 4.0), lambda k: k),
            ((1.0, 2.0, 3.0, 4.0), lambda k: 1 + k * k / 20),
            ((1.0, 4.0), lambda k: k),
            ((3.0, 9.0), lambda k: 1 + 0.05 * k),
            ((10.0, 20.0), lambda k: 1.0),
        ],
        ids=["proportional", "curved", "two values", "two values where it matters little yet", "no effect"],
    )
    def test_ten_times_the_largest_input_is_as_wide_as_extrapolating_from_the_smaller_ones_was_wrong(
        self, ks: tuple[float, ...], shape: Callable[[float], float]
    ) -> None:
        runs = table(ks=ks, noise=0.03)
        k = runs["input.k"].to_numpy()
        runs["runtime_s"] *= np.array([shape(x) for x in k]) / k**0.7
        far = 10 * ks[-1]
        problem, prediction = believe(runs, scale=2.0, k=far)
        nodes = problem.configurations["node_count"].to_numpy(float)
        truth = np.log([law(2.0, 1.0, n) * shape(far) for n in nodes])
        gap = np.abs(prediction.log_runtime - truth)[nodes <= 8]
        assert (gap < 2.0 * prediction.spread[nodes <= 8]).all()
        assert any("k = " in w for w in prediction.warnings)

    def test_an_input_that_never_varied_is_an_assumption_at_another_value(self) -> None:
        problem, mine = ask(table(ks=(1.0,)), scale=2.0, k=8.0)
        prediction = C3O().predict(problem, mine)
        assert {EVIDENCE[e] for e in prediction.evidence} == {"assumed"}
        assert prediction.spread.min() >= math.log(8.0) / 2
        assert any("k = 8" in w for w in prediction.warnings)

    def test_an_input_that_no_run_has_is_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="no input 'iterations'"):
            ask(table(), iterations=3.0)

    def test_a_type_that_was_not_run_is_assumed_and_wide(self) -> None:
        problem, prediction = believe(table(noise=0.02), pool("box", "other"), scale=2.0, k=3.0)
        kind = problem.configurations["instance_type"].to_numpy()
        assert {EVIDENCE[e] for e in prediction.evidence[kind == "other"]} == {"assumed"}
        assert prediction.spread[kind == "other"].min() > 0.4

    def test_several_types_are_told_apart_by_their_runs(self) -> None:
        both = pd.concat([table(noise=0.02), table(noise=0.02, kind="quick", speed=2.0)], ignore_index=True)
        problem, prediction = believe(both, pool("box", "quick"), scale=2.0, k=3.0)
        t = dict(
            zip(
                zip(problem.configurations["instance_type"], problem.configurations["node_count"], strict=True),
                np.exp(prediction.log_runtime),
                strict=True,
            )
        )
        assert t["box", 4] / t["quick", 4] == pytest.approx(2.0, rel=0.1)

    def test_an_outlier_of_a_hundred_times_is_wide_and_flagged(self) -> None:
        runs = table(sizes=(1.0, 2.0), ks=(1.0,), nodes=(1, 2, 4, 8))
        runs.loc[3, "runtime_s"] *= 100.0
        _, prediction = believe(runs, scale=2.0)
        assert any(w.startswith("outlier: 1 of 8 points") for w in prediction.warnings)
        assert prediction.spread[prediction.evidence != 0].min() > 0.5

    @pytest.mark.parametrize("rows", [0, 1, 2])
    def test_too_few_points_say_what_to_measure(self, rows: int) -> None:
        runs = table().head(rows) if rows else None
        with pytest.raises(InsufficientEvidenceError, match=rf"3 distinct points.*found {rows}; .*measure"):
            strategy("c3o").recommend(*build_problem(runs, candidates=pool()))

    def test_runs_that_differ_in_nothing_say_what_never_varied(self) -> None:
        same = pd.concat([table().head(1)] * 4, ignore_index=True)
        with pytest.raises(InsufficientEvidenceError, match="same input scale and the same number of vCPUs"):
            strategy("c3o").recommend(*build_problem(same, candidates=pool()))

    def test_a_long_stopped_run_raises_the_prediction(self) -> None:
        runs = table(noise=0.02).assign(status="completed")
        at = (runs["node_count"] == 8) & (runs["input.scale"] == 4.0) & (runs["input.k"] == 9.0)
        stopped = runs[at].assign(status="timed_out", runtime_s=20_000.0)
        problem, before = believe(runs[~at].reset_index(drop=True), scale=4.0, k=9.0)
        _, after = believe(pd.concat([runs[~at], stopped], ignore_index=True), scale=4.0, k=9.0)
        i = int(np.flatnonzero(problem.configurations["node_count"] == 8)[0])
        assert math.exp(before.log_runtime[i]) < 4_000.0
        assert math.exp(after.log_runtime[i]) >= 20_000.0 * (1 - 1e-9)


@pytest.fixture(scope="module")
def data(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The public data set."""
    return fetch_dataset("c3o", mirror=mirror, cache=tmp_path_factory.mktemp("c3o"))


@pytest.fixture(scope="module")
def selected(data: Dataset) -> list[Job]:
    """The points of the authors' protocol."""
    return list(jobs(data))


class TestMeasuredJobs:
    """All figures are in `tools/bench_c3o.py`; here one split of each job."""

    def test_a_random_tenth_is_predicted_within_4_percent_on_average_over_jobs(self, selected: list[Job]) -> None:
        splits = [judge(job, next(random_splits(job, 1))) for job in selected]
        assert len(splits) == 5
        assert np.mean([s.mape["c3o"] for s in splits]) <= 0.04
        assert np.mean([s.mape["ernest"] for s in splits]) > 0.15, "the selection is what helps"

    def test_intervals_hold_at_inputs_that_were_not_run(self, selected: list[Job]) -> None:
        (grep,) = (job for job in selected if job.name == "grep")
        splits = [judge(grep, rows, new_inputs=True) for rows in unseen_contexts(grep)]
        covered = np.average([s.covered for s in splits], weights=[s.held_out for s in splits])
        assert 0.8 <= covered <= 0.99
