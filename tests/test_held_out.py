"""Held-out workloads with several inputs are asked about, shown and judged at one input at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from recommender.models import Prediction, measured
from recommender.models.fold_in import Average
from recommender.models.held_out import COUNTS, Judged, held_out_regret, judge
from recommender.models.yardsticks import ColumnMean
from recommender.problem import Problem, build_problem
from recommender.runs import Runs

TYPES = [f"t{i}" for i in range(6)]
POOL = pd.DataFrame({"instance_type": TYPES, "node_count": 1, "usd_per_hour": 0.1, "vcpus": 4, "memory_gib": 16.0})
SMALL, LARGE = {"size_gib": 1.0, "iterations": 10.0}, {"size_gib": 100.0, "iterations": 1.0}


def time_s(i: int, size_gib: float) -> float:
    """At the small input the first type is best, at the large one the last."""
    return float(100.0 * size_gib * np.exp(0.3 * i if size_gib == SMALL["size_gib"] else -0.3 * i))


def ask(inputs: list[dict[str, float]]) -> Problem:
    """The problem of a new workload, with six that ran everything at each of the inputs as archive."""
    rows = [
        {
            "workload": f"w{u}",
            "instance_type": name,
            "node_count": 1,
            "runtime_s": time_s(i, at["size_gib"]),
            **{f"input.{column}": value for column, value in at.items()},
        }
        for u in range(6)
        for at in inputs
        for i, name in enumerate(TYPES)
    ]
    return build_problem(None, workload="new", archive=[pd.DataFrame(rows)], candidates=POOL, objective="runtime")[0]


@dataclass(frozen=True)
class Oracle:
    """Knows what everything takes at the input asked about, and keeps what it was asked."""

    asked: list[tuple[dict[str, float], int, int]] = field(default_factory=list)

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        self.asked.append((dict(problem.inputs), len(runs), int((measured(problem, runs).count > 0).sum())))
        truth = [np.log(time_s(i, problem.inputs["input.size_gib"])) for i in range(len(TYPES))]
        blank = ColumnMean().predict(problem, runs)
        return Prediction(**{**vars(blank), "log_runtime": np.array(truth)})


class TestAWorkloadOfSeveralInputs:
    def test_is_asked_about_at_those_that_it_ran_and_shown_runs_at_no_other(self) -> None:
        oracle = Oracle()
        held_out_regret(ask([SMALL, LARGE]), oracle, (1, 2))
        ran = [{f"input.{column}": value for column, value in at.items()} for at in (SMALL, LARGE)]
        assert len(oracle.asked) == 6 * 2 * 2
        for at in ran:
            assert sorted(runs for inputs, runs, _ in oracle.asked if inputs == at) == [1] * 6 + [2] * 6
        assert all(runs == seen for _, runs, seen in oracle.asked)

    @pytest.mark.parametrize("counts", [(0,), (1,), (3,)])
    def test_is_judged_by_its_runs_at_that_input(self, counts: tuple[int, ...]) -> None:
        table = held_out_regret(ask([SMALL, LARGE]), Oracle(), counts)
        assert len(table) == 12
        assert table["regret"].to_numpy() == pytest.approx(np.zeros(12))

    def test_costs_who_does_not_look_at_the_input_what_the_other_order_costs(self) -> None:
        blind = held_out_regret(ask([SMALL, LARGE]), ColumnMean(), (0,)).groupby("workload")["regret"].sum()
        assert blind.to_numpy() == pytest.approx(np.full(6, 0.3 * 5))

    def test_is_judged_at_each_as_if_it_had_no_other(self) -> None:
        both = held_out_regret(ask([SMALL, LARGE]), Oracle(), (2,))["regret"]
        alone = [held_out_regret(ask([at]), Oracle(), (2,))["regret"] for at in (SMALL, LARGE)]
        assert sorted(both) == pytest.approx(sorted(pd.concat(alone)))

    def test_whose_sizes_jitter_is_judged_by_all_its_runs(self) -> None:
        rows = [
            {
                "workload": f"w{u}",
                "instance_type": name,
                "node_count": 1,
                "runtime_s": time_s(i, LARGE["size_gib"]),
                "input.size_gib": LARGE["size_gib"] + 0.01 * i,
            }
            for u in range(6)
            for i, name in enumerate(TYPES)
        ]
        problem, _ = build_problem(
            None, workload="new", archive=[pd.DataFrame(rows)], candidates=POOL, objective="runtime"
        )
        table = held_out_regret(problem, ColumnMean(), (0, 1, 3))
        assert len(table) == 18
        assert table["regret"].to_numpy() == pytest.approx(np.zeros(18))


def test_a_workload_of_which_no_input_is_known_is_asked_about_without_one() -> None:
    frame = pd.concat([ask([SMALL]).archive.frame, ask([LARGE]).archive.frame])  # type: ignore[union-attr]
    unknown = frame[["workload", "instance_type", "node_count", "runtime_s"]].iloc[: len(TYPES)].assign(workload="x")
    known = frame.dropna(axis="columns", how="all")
    problem, _ = build_problem(
        None, workload="new", archive=[pd.concat([known, unknown])], candidates=POOL, objective="runtime"
    )
    table = held_out_regret(problem, ColumnMean(), (1,))
    assert set(table["workload"]) == {*(f"w{u}" for u in range(6)), "x"}


class TestTheChoiceOfAFit:
    """Eight workloads, judged after 1 and after 5 runs; "other" errs least."""

    ALTERNATING = np.array([0.3, -0.3] * 4)

    def judged(self, loss: np.ndarray) -> Judged:
        none, fits = np.zeros(8), {"first": Average(), "other": Average()}
        error = {"first": np.full((8, 2), np.log(0.2)), "other": np.full((8, 2), np.log(0.1))}
        losses = {"first": np.stack([none, none], axis=1), "other": np.stack([none, loss], axis=1)}
        return Judged((1, 5), losses, error, {name: np.array([2.0, 1.0]) for name in fits}, fits)

    def test_is_by_regret_where_that_differs_by_more_than_its_standard_error(self) -> None:
        judged = self.judged(0.12 + self.ALTERNATING)  # standard error: 0.3 √(8/7)/√8 = 0.113
        assert judged.choice(5) == "first"

    def test_is_by_the_error_of_prediction_where_it_does_not(self) -> None:
        judged = self.judged(0.11 + self.ALTERNATING)
        assert judged.choice(5) == "other"
        assert judged.off("other", 5) == pytest.approx(0.1)

    def test_is_of_the_first_among_equals(self) -> None:
        judged = self.judged(np.zeros(8))
        alike = Judged(judged.counts, judged.loss, dict.fromkeys(judged.fits, judged.error["first"]), {}, judged.fits)
        assert alike.choice(5) == "first"
        assert alike.choice(5, ["other"]) == "other"

    def test_is_made_for_the_largest_number_of_runs_judged_that_is_not_above(self) -> None:
        judged = self.judged(0.12 + self.ALTERNATING)
        assert [judged.choice(k) for k in (0, 1, 4, 5, 9)] == ["other", "other", "other", "first", "first"]
        assert [judged.spread("first", k) for k in (1, 4, 5, 16)] == [2.0, 2.0, 1.0, 1.0]


class TestWhatIsJudged:
    def test_are_workloads_whatever_the_number_of_their_inputs(self) -> None:
        judged = judge(ask([SMALL, LARGE]), {"column mean": Average()})
        assert judged.workloads(1) == 6
        one = judge(ask([SMALL]), {"column mean": Average()})
        assert one.workloads(1) == 6
        # blind to the input: at one of the two the wrong end is chosen, or the measured one
        assert judged.loss["column mean"].shape == (6, 3)

    def test_are_as_many_runs_as_half_the_workloads_have(self) -> None:
        few = ask([SMALL]).archive
        assert few is not None
        for count, judged_to in ((6, 3), (4, 2)):
            frame = few.frame.groupby("workload").head(count)
            problem, _ = build_problem(None, workload="new", archive=[frame], candidates=POOL, objective="runtime")
            assert max(judge(problem, {"column mean": Average()}).counts) == judged_to
        assert COUNTS[:3] == (1, 2, 3)
