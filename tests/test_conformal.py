"""Conformal calibration: known quantiles, coverage that is what it says, and never confidence from too little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri, stdtrit

from recommender.datasets import fetch_dataset
from recommender.errors import InputError, InsufficientEvidenceError
from recommender.models import MEASURED, PerformanceModel, Prediction, measured, nothing_known
from recommender.models.conformal import Conformal, calibrate, quantile, spread_of
from recommender.models.ernest import Ernest
from recommender.models.yardsticks import ColumnMean
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import calibrated, strategy

Z95 = float(ndtri(0.95))


@dataclass(frozen=True)
class Boastful:
    """A model that understates its spread."""

    model: PerformanceModel
    by: float

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        found = self.model.predict(problem, runs)
        return replace(found, spread=found.spread * self.by, noise=found.noise * self.by)


def archive(workloads: int, seed: int = 0) -> pd.DataFrame:
    """Workloads x 6 types, ln t = workload + type + interaction of the workload with the type (spread 0.3)."""
    rng = np.random.default_rng(seed)
    kinds, rows = rng.normal(0, 0.5, 8), []
    for w in range(workloads):
        level = rng.normal(5, 1)
        rows += [(f"w{w:03}", f"t{k}", 1, float(np.exp(level + kinds[k] + rng.normal(0, 0.3)))) for k in range(8)]
    return pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s"])


def ask(frame: pd.DataFrame, workload: str, given: int = 2) -> tuple[Problem, Runs, Runs]:
    """The problem of one workload with its first runs; and the rest of them."""
    pool = pd.DataFrame({"instance_type": [f"t{k}" for k in range(8)], "node_count": 1, "usd_per_hour": 0.1})
    mine = frame[frame["workload"] == workload].reset_index(drop=True)
    others = Runs.from_frame(frame[frame["workload"] != workload])
    problem, runs = build_problem(mine.head(given), workload=workload, archive=[others], candidates=pool)
    return problem, runs, Runs.from_frame(mine.iloc[given:])


def inside(prediction: Prediction, problem: Problem, rest: Runs) -> list[bool]:
    """Whether the 90 % interval of each configuration holds what was measured."""
    truth = measured(problem, rest).log_runtime
    has = np.isfinite(truth)
    gap = np.abs(truth - prediction.log_runtime)[has]
    return list(gap <= Z95 * prediction.spread[has])


class TestTheQuantile:
    def test_of_single_runs_is_the_finite_sample_one(self) -> None:
        scores = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
        assert quantile(scores, np.arange(19)) == 18.0, "the ceil(20 x 0.9)-th of 19"

    def test_counts_groups_and_not_runs(self) -> None:
        scores = np.concatenate([np.full(1000, 1.0), np.arange(2.0, 20.0)])
        groups = np.concatenate([np.zeros(1000, dtype=int), np.arange(1, 19)])
        assert quantile(scores, groups) == 18.0

    @pytest.mark.parametrize("count", [1, 2, 5, 8])
    def test_of_too_few_groups_is_wider_than_anything_seen(self, count: int) -> None:
        scores = np.linspace(1.0, 0.5, count)
        assert quantile(scores, np.arange(count)) == pytest.approx(stdtrit(count, 0.95) / Z95)
        assert quantile(scores, np.arange(count)) > 1.05

    def test_of_nothing_is_an_error(self) -> None:
        with pytest.raises(InsufficientEvidenceError, match="no run left out"):
            quantile(np.empty(0), np.empty(0, dtype=np.intp))

    def test_holds_new_groups_as_often_as_it_says_where_runs_of_a_group_are_alike(self) -> None:
        rng, held, naive = np.random.default_rng(1), [], []
        for _ in range(400):
            effect = rng.lognormal(0.0, 0.7, 15)
            scores = np.abs(rng.normal(size=(15, 6)) * effect[:, None])
            groups = np.repeat(np.arange(14), 6)
            q = quantile(scores[:14].ravel(), groups)
            held.append(np.mean(scores[14] <= q))
            naive.append(np.mean(scores[14] <= np.quantile(scores[:14], 0.9)))
        assert 0.89 <= np.mean(held) <= 0.96
        assert np.mean(held) > np.mean(naive)

    def test_a_normal_error_gives_back_its_spread(self) -> None:
        errors = np.random.default_rng(2).normal(0.0, 0.2, 4000)
        assert spread_of(errors, np.arange(4000)) == pytest.approx(0.2, rel=0.06)

    def test_a_biased_model_is_a_wide_one(self) -> None:
        errors = -0.3 + np.random.default_rng(3).normal(0.0, 0.01, 50)
        assert Z95 * spread_of(errors, np.arange(50)) >= 0.3, "optimistic by 0.3: the upper bound must reach the truth"


class TestTheWrapper:
    @pytest.mark.parametrize("by", [0.2, 5.0])
    def test_covers_whatever_the_model_says_of_itself(self, by: float) -> None:
        frame, before, after = archive(16), [], []
        for w in range(0, 16, 2):
            problem, runs, rest = ask(frame, f"w{w:03}")
            model = Boastful(ColumnMean(), by)
            before += inside(model.predict(problem, runs), problem, rest)
            after += inside(Conformal(model).predict(problem, runs), problem, rest)
        assert 0.8 <= np.mean(after) <= 0.99
        assert abs(np.mean(before) - 0.9) > abs(np.mean(after) - 0.9)

    def test_scales_the_spread_alone_and_says_by_how_much(self) -> None:
        problem, runs, _ = ask(archive(12), "w003")
        plain, wide = (m.predict(problem, runs) for m in (ColumnMean(), Conformal(ColumnMean())))
        assert (plain.log_runtime == wide.log_runtime).all()
        at = plain.evidence == MEASURED
        assert at.sum() == 2
        assert (plain.spread[at] == wide.spread[at]).all()
        ratio = wide.spread[~at] / plain.spread[~at]
        assert ratio == pytest.approx(ratio[0])
        assert any("intervals are scaled by" in w and "11 other workloads" in w for w in wide.warnings)

    def test_few_workloads_widen_more_than_many_and_say_so(self) -> None:
        few, many = (calibrate(ColumnMean(), *ask(archive(n, seed=4), "w000")[:2]) for n in (4, 40))
        assert few.factor > many.factor
        assert (few.groups, many.groups) == (3, 39)
        problem, runs, _ = ask(archive(4, seed=4), "w000")
        assert any("say little of the tail" in w for w in Conformal(ColumnMean()).predict(problem, runs).warnings)

    def test_without_an_archive_nothing_changes_and_that_is_said(self) -> None:
        frame = pd.DataFrame(
            {
                "workload": "job",
                "instance_type": "box",
                "node_count": [1, 2, 4, 8],
                "runtime_s": [100.0, 55.0, 30.0, 19.0],
            }
        )
        pool = pd.DataFrame({"instance_type": "box", "node_count": [1, 2, 4, 8, 16], "usd_per_hour": 0.1, "vcpus": 1})
        problem, runs = build_problem(frame, candidates=pool)
        plain, wrapped = (m.predict(problem, runs) for m in (Ernest(), Conformal(Ernest())))
        assert (plain.spread == wrapped.spread).all()
        assert wrapped.warnings[:-1] == plain.warnings
        assert wrapped.warnings[-1].startswith("nothing to calibrate on: intervals are the model's own")

    def test_quantiles_of_runtime_and_cost_come_from_it(self) -> None:
        problem, runs, _ = ask(archive(30), "w001")
        problem = replace(problem, top=8)
        model = replace(strategy("column-mean"), model=Boastful(ColumnMean(), 0.2))  # type: ignore[type-var]
        plain, wide = (s.recommend(problem, runs) for s in (model, calibrated(model)))
        widths = [
            {r.instance_type: r.cost_usd.p90 / r.cost_usd.p50 for r in answer.rows if r.cost_usd}
            for answer in (plain, wide)
        ]
        unmeasured = [r.instance_type for r in plain.rows if r.evidence != "measured"]
        assert unmeasured
        assert all(widths[1][k] > widths[0][k] for k in unmeasured)

    def test_its_progress_counts_the_workloads_left_out(self) -> None:
        problem, runs, _ = ask(archive(6), "w000")
        counted: list[tuple[int, int]] = []
        calibrated(strategy("column-mean"), progress=lambda *of: counted.append(of)).recommend(problem, runs)
        assert counted == [(k, 5) for k in range(1, 6)]

    def test_a_strategy_without_one_model_is_refused(self) -> None:
        with pytest.raises(InputError, match="name one"):
            calibrated(strategy("auto"))


class TestHeldOutWorkloads:
    """The full figures are in `tools/bench_intervals.py`."""

    def test_single_machines_of_lumos_are_covered(self, mirror: Path, tmp_path: Path) -> None:
        data = fetch_dataset("lumos", mirror=mirror, cache=tmp_path)
        assert data.runs is not None
        assert data.candidates is not None
        names = sorted(data.runs.workloads)[::8]
        table = data.candidates[data.candidates["instance_type"].str.startswith(("c5", "m5", "r5", "alibaba"))]
        frame = data.runs.frame[
            data.runs.frame["workload"].isin(names) & data.runs.frame["instance_type"].isin(table["instance_type"])
        ].reset_index(drop=True)
        given = list(table["instance_type"].iloc[[0, 10]])
        held, spread = [], []
        for name in names[::4]:
            mine = frame[frame["workload"] == name]
            few = mine["instance_type"].isin(given)
            problem, runs = build_problem(
                Runs(mine[few].reset_index(drop=True)),
                workload=name,
                archive=[Runs(frame[frame["workload"] != name].reset_index(drop=True))],
                candidates=table,
            )
            found = Conformal(ColumnMean()).predict(problem, runs)
            held += inside(found, problem, Runs(mine[~few].reset_index(drop=True)))
            spread.append(float(np.median(found.spread)))
        assert len(held) > 50
        # A dozen workloads bound a 90 % quantile from above only: it may cover more, but not by being wide beyond use.
        assert np.mean(held) >= 0.8
        assert np.median(spread) < 0.5


class TestSeveralInputs:
    """The largest input is asked about; smaller ones were run, and at the largest every workload bends its own way."""

    NODES = (1, 2, 3, 4, 6, 8)

    def workload(self, name: str, rng: np.random.Generator) -> pd.DataFrame:
        level, bend = np.exp(rng.normal(4, 0.4)), np.exp(rng.normal(0, 0.8))
        rows = [
            (name, "box", k, level * (0.1 + s / k) * (bend if s == 8 else 1.0) * np.exp(rng.normal(0, 0.03)), s)
            for s in (1, 2, 4, 8)
            for k in self.NODES
        ]
        return pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s", "input.scale"])

    def ask(
        self, rng: np.random.Generator, nodes: tuple[int, ...]
    ) -> tuple[Problem, Runs, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        archive = pd.concat([self.workload(f"w{i:02d}", rng) for i in range(15)], ignore_index=True)
        pool = pd.DataFrame({"instance_type": "box", "node_count": self.NODES, "usd_per_hour": 0.1, "vcpus": 4})
        new = self.workload("new", rng)
        small = new[(new["input.scale"] < 8) & new["node_count"].isin(nodes)]
        problem, runs = build_problem(
            small, workload="new", archive=[archive], candidates=pool, inputs={"scale": 8.0}, objective="runtime"
        )
        return problem, runs, np.log(new[new["input.scale"] == 8]["runtime_s"].to_numpy())

    def test_what_only_happens_at_the_largest_input_is_in_the_intervals(self) -> None:
        rng = np.random.default_rng(0)
        inside = []
        for _ in range(10):
            problem, runs, truth = self.ask(rng, (1, 2, 4))
            found = Conformal(Ernest()).predict(problem, runs)
            inside.append(np.abs(truth - found.log_runtime) < 1.645 * found.spread)
        assert 0.85 <= np.mean(inside) <= 1.0

    def test_another_workload_shows_no_more_of_itself_than_this_one_does(self) -> None:
        shown: list[pd.DataFrame] = []

        class Spy:
            def predict(self, problem: Problem, runs: Runs) -> Prediction:
                shown.append(runs.frame)
                return nothing_known(problem)

        problem, runs, _ = self.ask(np.random.default_rng(0), (2, 8))
        calibrate(Spy(), problem, runs)
        assert len(shown) == 15
        want = sorted(zip(runs.frame["node_count"], runs.frame["input.scale"], strict=True))
        for frame in shown:
            assert sorted(zip(frame["node_count"], frame["input.scale"], strict=True)) == want

    def test_a_workload_profiled_small_everywhere_is_still_calibrated(self) -> None:
        problem, runs, _ = self.ask(np.random.default_rng(0), self.NODES)
        found = calibrate(Ernest(), problem, runs)
        assert (found.groups, found.scores) == (15, 15 * len(self.NODES))
