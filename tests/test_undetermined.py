"""What the runs leave undetermined is wide, said to be assumed, and named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recommender.models import EVIDENCE, PerformanceModel, Prediction, nothing_known, with_measurements
from recommender.models.c3o import C3O
from recommender.models.ernest import UNSEEN_SCALE_SPREAD, UNTOLD_SPREAD, Ernest, untold
from recommender.models.points import run_points, target_points
from recommender.models.scaling import undetermined
from recommender.problem import Problem, build_problem
from recommender.runs import Runs

VCPUS = 4
BOTH = pytest.mark.parametrize("model", [Ernest(), C3O()], ids=["ernest", "c3o"])


def seconds(scale: float, nodes: int) -> float:
    """The planted runtime."""
    return 20.0 + 4000.0 * scale / (nodes * VCPUS) + 3.0 * nodes


def ask(points: list[tuple[float, int]], *, scale: float, **options: Any) -> tuple[Problem, Runs]:
    """The problem of runs of one type at those (scale, nodes)."""
    rows = [("w", "box", m, seconds(s, m), s) for s, m in points]
    runs = pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s", "input.scale"])
    pool = pd.DataFrame({"instance_type": "box", "node_count": [1, 2, 4, 8], "usd_per_hour": 0.2, "vcpus": VCPUS})
    return build_problem(runs, candidates=pool, inputs={"scale": scale}, **options)


def unknown(points: list[tuple[float, int]], *, scale: float) -> list[bool]:
    """Of 1, 2, 4 and 8 nodes, whether the runs leave the runtime undetermined."""
    problem, runs = ask(points, scale=scale)
    evidence = run_points(problem, runs, [])
    return list(undetermined(evidence.points.completed_at, target_points(problem, problem.configurations, evidence)))


def holds(prediction: Prediction, truth: list[float]) -> bool:
    """Whether every truth lies inside its 80 % interval."""
    return bool((np.abs(prediction.log_runtime - np.log(truth)) <= 1.2816 * prediction.spread).all())


TOGETHER = [(0.1 * m, m) for m in (1, 2, 4, 6, 8)]
GRID = [(s, m) for s in (0.1, 0.2, 0.5) for m in (1, 2, 4)]


class TestScaleAndMachinesThatVariedTogether:
    @BOTH
    def test_leave_another_share_for_each_machine_wide_assumed_and_named(self, model: PerformanceModel) -> None:
        problem, runs = ask(TOGETHER, scale=1.0)
        prediction = model.predict(problem, runs)
        assert holds(prediction, [seconds(1.0, m) for m in (1, 2, 4, 8)])
        assert {EVIDENCE[i] for i in prediction.evidence} == {"assumed"}
        assert (prediction.spread >= UNTOLD_SPREAD).all()
        (said,) = [w for w in prediction.warnings if w.startswith("undetermined")]
        assert "4 configurations" in said
        assert "measure also" in said

    def test_determine_the_same_share_for_each_machine(self) -> None:
        assert unknown(TOGETHER, scale=0.4) == [True, True, False, True]

    @BOTH
    def test_are_not_told_of_where_each_scale_had_each_number_of_machines(self, model: PerformanceModel) -> None:
        problem, runs = ask(GRID, scale=1.0)
        assert not any(w.startswith("undetermined") for w in model.predict(problem, runs).warnings)

    @pytest.mark.parametrize(
        "points",
        [
            [(1.0, m) for m in (1, 2, 4)],
            [(s, 2) for s in (0.1, 0.2, 0.4)],
            [(s, m) for s in (0.1, 0.2, 0.4) for m in (1, 2)],
            [(0.1, 1), (0.2, 1), (0.4, 1), (0.4, 2)],
        ],
    )
    def test_are_another_matter_than_one_of_them_that_hardly_varied(self, points: list[tuple[float, int]]) -> None:
        assert unknown(points, scale=1.0) == [False] * 4


class TestAScaleThatNeverVaried:
    @BOTH
    def test_leaves_another_anywhere_between_as_long_and_proportional(self, model: PerformanceModel) -> None:
        points = [(1.0, m) for m in (1, 2, 4, 8)]
        near, far = (model.predict(*ask(points, scale=s)) for s in (1.0, 4.0))
        added = np.sqrt(far.spread**2 - 0.05**2)
        assert (added > 2 * UNSEEN_SCALE_SPREAD - 1e-9).all(), "two doublings"
        assert (far.spread > near.spread).all()
        assert {EVIDENCE[i] for i in far.evidence} == {"assumed"}
        assert math.isclose(UNSEEN_SCALE_SPREAD, math.log(2) / math.sqrt(12))


class TestWorkThatNeverVaried:
    """Scale and machines grew alike, so that every vCPU had the same work: is it fixed time, or does it divide?"""

    @BOTH
    def test_the_median_is_half_way_and_the_interval_holds_most_of_both(self, model: PerformanceModel) -> None:
        problem, runs = ask(TOGETHER, scale=1.0)
        one = int(np.flatnonzero(problem.configurations["node_count"] == 1)[0])
        found = model.predict(problem, runs)
        fixed, divides = math.log(120.0), math.log(10 * 120.0)  # 120 to 140 s; on one node ten times the work of a vCPU
        assert found.log_runtime[one] == pytest.approx((fixed + divides) / 2, abs=0.35)
        for extreme in (fixed, divides):
            assert abs(found.log_runtime[one] - extreme) < 1.2816 * found.spread[one]

    def test_whichever_term_the_fit_took_the_answer_is_the_same(self) -> None:
        problem, runs = ask(TOGETHER, scale=1.0)
        evidence = run_points(problem, runs, [])
        target = target_points(problem, problem.configurations, evidence)
        all_fixed, all_divides = (untold(evidence.points, target, np.full(4, share)) for share in (0.0, 1.0))
        far = np.log(target[0] / (target[1] * target[2])) - np.log(0.1 / VCPUS)
        assert all_fixed[0] - all_divides[0] == pytest.approx(far), "added to fits that differ by as much"
        assert all_fixed[0] == pytest.approx(far / 2)
        assert all_fixed[1] == pytest.approx(np.hypot(UNTOLD_SPREAD, far / math.sqrt(12)))


class TestAnOutlier:
    @BOTH
    @pytest.mark.parametrize("factor", [100.0, 0.01])
    def test_is_named(self, model: PerformanceModel, factor: float) -> None:
        problem, runs = ask([(s, m) for s in (0.1, 0.2, 0.5, 1.0) for m in (1, 2, 4, 6)], scale=1.0)
        frame = runs.frame.copy()
        frame.loc[5, "runtime_s"] *= factor
        assert any(w.startswith("outlier") for w in model.predict(problem, Runs(frame)).warnings)
        assert not any(w.startswith("outlier") for w in model.predict(problem, runs).warnings)


class TestAMeasurementFarFromTheModel:
    @staticmethod
    def join(measured_s: list[float], spread: float = 0.2) -> tuple[Prediction, Prediction]:
        """Of one box expected to take 100 s: what the model says, and that joined with runs of it."""
        runs = pd.DataFrame(
            {"workload": "w", "instance_type": "box", "node_count": 1, "runtime_s": measured_s, "input.scale": 1.0}
        )
        pool = pd.DataFrame({"instance_type": ["box"], "node_count": [1], "usd_per_hour": [0.2], "vcpus": [VCPUS]})
        problem, mine = build_problem(runs, candidates=pool, inputs={"scale": 1.0})
        said = replace(nothing_known(problem), log_runtime=np.log([100.0]), spread=np.array([spread]))
        return said, with_measurements(said, problem, mine)

    def test_widens_its_mean_by_their_distance_in_standard_deviations(self) -> None:
        _, near = self.join([100.0])
        said, far = self.join([10_000.0])
        distance2 = (far.log_runtime[0] - said.log_runtime[0]) ** 2
        assert distance2 == pytest.approx(math.log(100) ** 2, rel=0.2)
        ratio2 = math.log(100) ** 2 / (said.spread[0] ** 2 - 0.05**2 + 0.05**2)
        of_mean = [p.spread[0] ** 2 - p.noise**2 for p in (near, far)]
        assert of_mean[1] == pytest.approx(of_mean[0] * ratio2)
        assert far.spread[0] > 1.0

    def test_is_named_with_both_figures(self) -> None:
        (said,) = self.join([10_000.0])[1].warnings
        assert said.startswith("contradiction: box x1 measured 2 h 47 min, expected 1 min 40 s")
        assert "run it again" in said

    @pytest.mark.parametrize(("measured_s", "spread"), [(120.0, 0.2), (250.0, 0.1), (1000.0, 1.0)])
    def test_is_not_one_within_three_deviations_or_threefold(self, measured_s: float, spread: float) -> None:
        assert self.join([measured_s], spread)[1].warnings == ()
