"""CherryPick: its Gaussian process against one computed by hand, its settings, and what it finds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from recommender.datasets import fetch_dataset
from recommender.models import measured
from recommender.models._skopt import AMPLITUDE, LENGTH, LEVEL, fit, slice_sample
from recommender.models.features import features
from recommender.models.gaussian_process import GaussianProcess, Offset
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.search.acquisition import ConstrainedImprovement, values
from recommender.search.designs import QuasiRandom
from recommender.search.stopping import Never
from recommender.strategies import ModelBased, strategy


def table(optimum: tuple[str, int] = ("mid", 8)) -> pd.DataFrame:
    """3 types x 10 cluster sizes, runtimes with one least cost at `optimum`: cost rises by 30 % a doubling of nodes and a
    size away from it."""
    kinds = {"low": (2, 0.1), "mid": (4, 0.2), "high": (8, 0.4)}
    rows = []
    for k, (kind, (vcpus, usd)) in enumerate(kinds.items()):
        for nodes in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
            away = abs(math.log2(nodes / optimum[1])) + 1.5 * abs(k - list(kinds).index(optimum[0]))
            cost = 2.0 * 1.3**away
            rows.append((kind, nodes, vcpus, 4.0 * vcpus, usd, cost / (usd * nodes) * 3600.0))
    columns = ["instance_type", "node_count", "vcpus", "memory_gib", "usd_per_hour", "runtime_s"]
    return pd.DataFrame(rows, columns=columns)


def ask(mine: pd.DataFrame | None, source: pd.DataFrame, **options: Any) -> tuple[Problem, Runs]:
    """The problem, some rows of the table being measured."""
    runs = mine[["instance_type", "node_count", "runtime_s"]].assign(workload="w") if mine is not None else None
    return build_problem(runs, workload="w", candidates=source.drop(columns="runtime_s"), **options)


def search(made: Any, source: pd.DataFrame, steps: int, **options: Any) -> pd.DataFrame:
    """Ask and tell; the rows measured."""
    problem, runs = ask(None, source, **options)
    at, told = {}, source.assign(workload="w")[["workload", "instance_type", "node_count", "runtime_s"]]
    for i, key in enumerate(zip(source["instance_type"], source["node_count"], strict=True)):
        at[key] = i
    rows: list[int] = []
    for _ in range(steps):
        wanted = made.suggest(problem, runs)
        if wanted is None:
            break
        rows.append(at[wanted.instance_type, wanted.node_count])
        runs = Runs.from_frame(told.iloc[rows].reset_index(drop=True))
    return source.iloc[rows]


def matern(a: np.ndarray, b: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Matérn 5/2 by its formula."""
    r = np.sqrt((((a[:, None] - b[None]) / length) ** 2).sum(axis=2))
    return (1 + math.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-math.sqrt(5) * r)


class TestTheGaussianProcess:
    x = np.array([[0.0, 0.1], [0.5, 0.9], [1.0, 0.4]])
    y = np.array([0.3, -0.5, 0.2])
    noise = np.array([0.01, 0.04, 0.01])
    new = np.array([[0.2, 0.2], [0.9, 0.9], [0.5, 0.9]])

    def test_is_the_closed_form_at_its_hyper_parameters(self) -> None:
        found = fit(self.x, self.y, self.noise, np.array([0, 1]), slices=0, rng=np.random.default_rng(0))
        theta = np.exp(found.members[0].kernel_.theta)
        scale, length = theta[0], theta[1:]

        def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return LEVEL**2 + scale * matern(a, b, length)

        inverse = np.linalg.inv(k(self.x, self.x) + np.diag(self.noise))
        mean = k(self.new, self.x) @ inverse @ self.y
        covariance = k(self.new, self.new) - k(self.new, self.x) @ inverse @ k(self.x, self.new)
        got_mean, got_spread = found.predict(self.new)
        assert got_mean == pytest.approx(mean, abs=1e-9)
        assert got_spread == pytest.approx(np.sqrt(np.diag(covariance)), abs=1e-9)
        error = found.draws(self.new, 100_000, np.random.default_rng(1)) - mean
        spread = np.sqrt(np.diag(covariance))
        for p in (0.1, 0.5, 0.9):  # a Student t: the amplitude is known from three targets only
            assert np.quantile(error / spread, p, axis=0) == pytest.approx(np.full(3, student.ppf(p, 3)), abs=0.03)
        # Of a pair with correlation ρ and elliptical contours, both are positive with probability 1/4 + arcsin(ρ)/2π.
        both = np.mean((error[:, :, None] > 0) & (error[:, None, :] > 0), axis=0)
        correlation = np.clip(covariance / np.outer(spread, spread), -1, 1)
        assert both == pytest.approx(0.25 + np.arcsin(correlation) / (2 * np.pi), abs=0.01)

    def test_its_hyper_parameters_are_the_posteriors_mode(self) -> None:
        found = fit(self.x, self.y, self.noise, np.array([0, 1]), slices=0, rng=np.random.default_rng(0))
        theta = found.members[0].kernel_.theta

        def log_posterior(t: np.ndarray) -> float:
            k = LEVEL**2 + math.exp(t[0]) * matern(self.x, self.x, np.exp(t[1:])) + np.diag(self.noise)
            likelihood = -0.5 * self.y @ np.linalg.solve(k, self.y) - 0.5 * np.linalg.slogdet(k)[1]
            z = np.array([(t[0] / 2 - math.log(AMPLITUDE)) / 0.7, *((t[1:] - math.log(LENGTH)) / 1.0)])
            return float(likelihood - 0.5 * z @ z)

        best = log_posterior(theta)
        for i in range(3):
            for step in (-0.05, 0.05):
                moved = theta.copy()
                moved[i] += step
                assert log_posterior(moved) < best

    def test_columns_of_one_group_share_a_length_scale(self) -> None:
        x = np.column_stack([self.x, self.x[::-1, 0]])
        found = fit(x, self.y, self.noise, np.array([0, 1, 0]), slices=0, rng=np.random.default_rng(0))
        theta = found.members[0].kernel_.theta
        assert theta[1] == theta[3] != theta[2]

    def test_repetitions_of_one_target_are_not_wild(self) -> None:
        same = fit(self.x, np.zeros(3), np.full(3, 1e-3), np.array([0, 1]), slices=0, rng=np.random.default_rng(0))
        _, spread = same.predict(self.new)
        assert (spread > 0.01).all(), "three equal targets do not make the rest certain"

    def test_slice_sampling_draws_from_the_density(self) -> None:
        centre, width = np.array([1.0, -2.0]), np.array([0.5, 2.0])
        draws = np.array(
            slice_sample(
                lambda p: float(-0.5 * (((p - centre) / width) ** 2).sum()),
                centre,
                np.ones(2),
                6000,
                np.random.default_rng(0),
            )
        )
        assert draws.mean(axis=0) == pytest.approx(centre, abs=0.15)
        assert draws.std(axis=0) == pytest.approx(width, rel=0.1)


class TestItsBeliefs:
    def test_measured_rows_are_nearly_as_measured_and_narrow(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::4], source)
        found, seen = GaussianProcess().predict(problem, runs), measured(problem, runs)
        at = seen.count > 0
        assert found.log_runtime[at] == pytest.approx(seen.log_runtime[at], abs=0.05)
        assert found.latent[at].max() < 0.06 < found.latent[~at].min()
        assert (found.spread > found.latent).all(), "a run's noise comes on top"

    def test_with_one_run_the_rest_is_wide_and_scales_with_capacity(self) -> None:
        source = table()
        problem, runs = ask(source[(source["instance_type"] == "mid") & (source["node_count"] == 4)], source)
        found = GaussianProcess().predict(problem, runs)
        assert np.median(found.spread) > 0.2
        capacity = features(problem).work
        assert np.corrcoef(found.log_runtime, capacity)[0, 1] < -0.9
        flat = GaussianProcess(Offset.NONE).predict(problem, runs)
        assert np.ptp(flat.log_runtime) < 1e-6

    def test_before_any_run_nothing_is_believed(self) -> None:
        problem, runs = ask(None, table())
        assert np.isnan(GaussianProcess().predict(problem, runs).log_runtime).all()
        answer = strategy("cherrypick").recommend(problem, runs)
        assert answer.rows[0].runtime_s is None
        assert answer.next_run == strategy("cherrypick").suggest(problem, runs)

    def test_the_wider_of_two_extra_repetitions_is_the_fewer(self) -> None:
        source = table()
        once = ask(source.iloc[::4], source)
        thrice = ask(pd.concat([source.iloc[::4]] * 3), source)
        at = measured(*once).count > 0
        model = GaussianProcess()
        assert (model.predict(*thrice).latent[at] < model.predict(*once).latent[at]).all()


class TestTheSearch:
    def test_presets(self) -> None:
        paper, code = strategy("cherrypick"), strategy("cherrypick-artifact")
        assert isinstance(paper, ModelBased)
        assert isinstance(code, ModelBased)
        assert (paper.design, code.design) == (QuasiRandom(3), QuasiRandom(2))
        assert (paper.acquisition, code.acquisition) == (
            ConstrainedImprovement(),
            ConstrainedImprovement(constrained=False),
        )
        assert (paper.model, code.model) == (GaussianProcess(), GaussianProcess(noise=0.02, slices=10))

    @pytest.mark.parametrize("optimum", [("mid", 8), ("low", 24), ("high", 2)])
    def test_finds_a_planted_optimum(self, optimum: tuple[str, int]) -> None:
        made, source = replace(strategy("cherrypick"), stop=Never()), table(optimum)  # type: ignore[type-var]
        hits = 0
        for seed in range(4):
            rows = search(made, source, 10, seed=seed)
            assert len(rows) == 10
            cost = rows["runtime_s"] * rows["usd_per_hour"] * rows["node_count"] / 3600.0
            hits += bool(cost.min() < 2.0 * 1.1)
        assert hits >= 3

    def test_stops_by_its_own_rule_not_before_six_and_says_why(self) -> None:
        source = table()
        rows = search(strategy("cherrypick"), source, 30)
        assert 6 <= len(rows) < 30
        answer = strategy("cherrypick").recommend(*ask(rows, source))
        assert answer.next_run is None
        assert any("nothing more is worth measuring" in w for w in answer.warnings)

    def test_the_recommendation_shows_what_would_be_suggested(self) -> None:
        source = table()
        for count in (1, 3, 5):
            problem, runs = ask(source.iloc[np.linspace(0, 29, count).astype(int)], source)
            made = strategy("cherrypick")
            shown = made.recommend(problem, runs).next_run
            assert shown == made.suggest(problem, runs)
            assert shown is not None
            assert (shown.expected_runtime_s is not None) == (count >= 3)

    def test_the_choice_is_the_largest_score_of_the_untried(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::6], source)
        made = replace(strategy("cherrypick"), stop=Never())  # type: ignore[type-var]
        prediction = made.model.predict(problem, runs)  # type: ignore[attr-defined]
        score = ConstrainedImprovement().scores(problem, runs, prediction, made.model).score  # type: ignore[attr-defined]
        score[measured(problem, runs).count > 0] = -1.0
        wanted = made.suggest(problem, runs)  # type: ignore[attr-defined]
        assert wanted.label == problem.candidates.configuration(int(score.argmax())).label

    def test_a_deadline_turns_the_search_to_fast_machines(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::6], source)
        made = replace(strategy("cherrypick"), stop=Never())  # type: ignore[type-var]
        tight = replace(problem, deadline_s=float(source["runtime_s"].quantile(0.1)))
        believed = values(tight, GaussianProcess().predict(tight, runs))
        at = {problem.candidates.configuration(i).label: p for i, p in enumerate(believed.feasible)}
        free, bound = made.suggest(problem, runs), made.suggest(tight, runs)  # type: ignore[attr-defined]
        assert at[bound.label] > at[free.label]

    def test_candidates_of_which_only_names_are_known_are_searched_too(self) -> None:
        source = table().drop(columns=["vcpus", "memory_gib"])
        made = replace(strategy("cherrypick"), stop=Never())  # type: ignore[type-var]
        rows = search(made, source, 12)
        cost = rows["runtime_s"] * rows["usd_per_hour"] * rows["node_count"] / 3600.0
        assert cost.min() < 2.0 * 1.3

    def test_the_catalogues_candidates_are_searched(self) -> None:
        problem, runs = build_problem(None, workload="w", regions=["us-east-1"], node_counts=[1, 2, 4, 8])
        assert len(problem.configurations) > 1000
        made, frame = strategy("cherrypick"), pd.DataFrame()
        for _ in range(4):
            wanted = made.suggest(problem, runs)
            assert wanted is not None
            row = {"workload": "w", "instance_type": wanted.instance_type, "node_count": wanted.node_count}
            vcpus = float(problem.catalogue.types["vcpus"][wanted.instance_type])
            frame = pd.concat([frame, pd.DataFrame([row | {"runtime_s": 60 + 4e4 / (vcpus * wanted.node_count)}])])
            runs = Runs.from_frame(frame.reset_index(drop=True))
        assert len(frame.drop_duplicates(["instance_type", "node_count"])) == 4


def test_on_scout_ten_runs_find_what_random_finds_rarely(mirror: Path, tmp_path: Path) -> None:
    """Within 10 % of the cheapest after 10 runs; drawing 10 of 69 at random does so in 14 to 38 % on these workloads."""
    data = fetch_dataset("scout", mirror=mirror, cache=tmp_path)
    assert data.runs is not None
    made = replace(strategy("cherrypick"), stop=Never())  # type: ignore[type-var]
    frame = data.runs.frame.merge(data.candidates, on=["instance_type", "node_count"])
    hits = []
    for workload in ("lr_huge_spark", "terasort_huge_hadoop", "kmeans_bigdata_spark15", "join_huge_spark"):
        source = frame[(frame["workload"] == workload) & (frame["status"] == "completed")].reset_index(drop=True)
        columns = ["instance_type", "node_count", "vcpus_y", "memory_gib", "usd_per_hour", "runtime_s"]
        source = source[columns].rename(columns={"vcpus_y": "vcpus"})
        cost = source["runtime_s"] * source["usd_per_hour"] * source["node_count"]
        for seed in range(3):
            rows = search(made, source, 10, seed=seed)
            hits.append((rows["runtime_s"] * rows["usd_per_hour"] * rows["node_count"]).min() <= 1.1 * cost.min())
    assert np.mean(hits) > 0.5
