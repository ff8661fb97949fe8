"""A change of a workload is told from noise: two runs must agree, and a noisy workload teaches its noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recommender.datasets import fetch_dataset
from recommender.models.drift import doubtful, since_change
from recommender.problem import Problem, build_problem
from recommender.runs import Runs

POOL = pd.DataFrame(
    {"instance_type": ["a", "b", "c"], "node_count": 1, "usd_per_hour": 0.1, "vcpus": 4, "memory_gib": 16.0}
)


def asked(runtime_s: Sequence[float], types: str | None = None) -> tuple[Problem, Runs]:
    """One workload, a run a day on the named types; all on the first without."""
    frame = pd.DataFrame({"workload": "w", "instance_type": list(types or "a" * len(runtime_s)), "node_count": 1})
    days = pd.date_range("2026-01-01", periods=len(frame), freq="D", tz="UTC").astype(str)
    return build_problem(frame.assign(runtime_s=np.array(runtime_s, float), started_at=days), candidates=POOL)


def left(runtime_s: Sequence[float], types: str | None = None) -> int:
    """How many runs are left."""
    return len(since_change(*asked(runtime_s, types))[0])


def words(runtime_s: Sequence[float], types: str | None = None) -> str:
    """What is said."""
    return " ".join(since_change(*asked(runtime_s, types))[1])


STEADY = [100.0, 101.0, 99.0, 100.0, 102.0, 98.0]


class TestNoise:
    @pytest.mark.parametrize("types", ["a" * 20, "abc" * 7])
    @pytest.mark.parametrize("noise", [0.05, 0.1, 0.15, 0.2, 0.3])
    def test_of_a_constant_workload_is_called_a_change_in_fewer_than_one_of_twenty_sequences(
        self, noise: float, types: str
    ) -> None:
        rng = np.random.default_rng(0)
        made = [100.0 * np.exp(rng.normal(0.0, noise, len(types))) for _ in range(40)]
        assert sum(left(times.tolist(), types) < len(types) for times in made) <= 1

    def test_that_is_large_hides_what_would_be_a_change_under_little(self) -> None:
        noisy = [100.0, 160.0, 70.0, 130.0, 60.0, 110.0, 150.0, 80.0]
        assert left([*noisy, 180.0, 185.0]) == 10
        assert left([*STEADY, 180.0, 185.0]) == 2

    def test_that_shows_after_a_false_alarm_takes_it_back(self) -> None:
        early = [100.0, 101.0, 180.0, 182.0]
        assert left(early) == 2
        assert left([*early, 100.0, 170.0, 90.0, 140.0, 105.0, 110.0]) == 10


class TestAnOutlier:
    def test_among_runs_at_the_old_level_is_no_change(self) -> None:
        times = [*STEADY, 250.0, 100.0, 101.0, 99.0]
        assert left(times) == len(times)
        assert words(times) == ""

    def test_that_comes_last_is_said_and_leaves_nothing_out(self) -> None:
        times = [*STEADY, 250.0]
        assert left(times) == len(times)
        assert "may have changed: its run of 2026-01-07 00:00 on a x1 took 2.5 x longer" in words(times)
        assert doubtful(*asked(times)) == 0
        assert doubtful(*asked([*times, 100.0])) is None

    def test_followed_by_another_that_does_not_agree_is_no_change(self) -> None:
        assert left([*STEADY, 250.0, 20.0]) == len(STEADY) + 2
        assert left([*STEADY, 250.0, 105.0]) == len(STEADY) + 2

    def test_after_a_change_does_not_take_it_back(self) -> None:
        assert left([*STEADY, 200.0, 201.0, 600.0]) == 3

    def test_may_be_the_only_run_before(self) -> None:
        assert left([160.0, 100.0, 101.0]) == 3, "which of them is the odd one is not known"


class TestAChange:
    @pytest.mark.parametrize("factor", [1.5, 2.0, 3.0, 1 / 1.5, 1 / 3.0])
    @pytest.mark.parametrize("before", [2, 3, 6])
    def test_is_found_as_soon_as_two_runs_agree(self, factor: float, before: int) -> None:
        times = [*STEADY[:before], 100.0 * factor, 101.0 * factor]
        assert left(times) == 2
        assert "the workload changed" in words(times)

    def test_is_found_by_one_run_each_of_two_configurations(self) -> None:
        assert left([100.0, 200.0, 50.0, 200.0, 400.0], "abcab") == 2
        assert left([100.0, 200.0, 50.0, 150.0, 300.0], "abcab") == 5, "1.5 x of what ran once each may be noise"
        assert left([100.0, 200.0, 101.0, 198.0, 150.0, 300.0], "ababab") == 2
        assert left([100.0, 200.0, 50.0, 150.0, 200.0], "abcab") == 5, "the second did not change"

    def test_of_little_is_not_worth_the_runs_before_it(self) -> None:
        assert left([*STEADY, 115.0, 116.0, 115.0, 114.0]) == len(STEADY) + 4

    def test_is_the_last_of_several(self) -> None:
        assert left([*STEADY, *(2 * t for t in STEADY), 100.0, 101.0]) == 2

    def test_is_found_whatever_was_run_on_new_configurations_in_between(self) -> None:
        assert left([100.0, 101.0, 200.0, 80.0, 201.0], "aaaba") == 3


def test_of_public_workloads_hardly_any_is_called_changed(mirror: Path) -> None:
    for name, most in (("lumos", 3), ("scout", 0)):
        data = fetch_dataset(name, mirror=mirror)
        called = 0
        for workload in data.runs.workloads:
            problem, runs = build_problem(data.runs.of(workload), candidates=data.candidates, objective="runtime")
            called += len(since_change(problem, runs)[0]) < len(runs)
        assert called <= most, name
