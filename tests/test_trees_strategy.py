"""Trees: an honest spread, joint draws, and what the search finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_cherrypick import ask, search, table

from recommender.models import measured
from recommender.models.trees import BaggedTrees
from recommender.search.stopping import Never
from recommender.strategies import strategy


class TestTheSpread:
    @pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
    def test_is_never_zero_and_more_than_a_runs_noise_where_unmeasured(self, count: int) -> None:
        source = table()
        problem, runs = ask(source.iloc[np.linspace(0, 29, count).astype(int)], source)
        found = BaggedTrees().predict(problem, runs)
        unmeasured = measured(problem, runs).count == 0
        assert np.isfinite(found.log_runtime).all()
        assert found.latent[unmeasured].min() > 0.05
        assert found.latent[~unmeasured].max() < found.latent[unmeasured].max()

    def test_covers_the_truth_about_as_often_as_it_says(self) -> None:
        source = table()
        truth = np.log(source.sort_values(["instance_type", "node_count"])["runtime_s"].to_numpy())
        inside = []
        for seed in range(12):
            problem, runs = ask(source.sample(10, random_state=seed), source)
            found = BaggedTrees().predict(problem, runs)
            unmeasured = measured(problem, runs).count == 0
            z = (truth - found.log_runtime) / found.spread
            inside.extend(np.abs(z[unmeasured]) < 1.2816)
        assert 0.65 < np.mean(inside) < 0.97, "80 % intervals"

    def test_narrows_with_runs(self) -> None:
        source = table()
        few, many = (BaggedTrees().predict(*ask(source.iloc[::k], source)) for k in (10, 2))
        assert np.median(many.latent) < np.median(few.latent)


def test_joint_draws_have_the_predictions_mean_and_spread() -> None:
    source = table()
    problem, runs = ask(source.iloc[::4], source)
    found = BaggedTrees().predict(problem, runs)
    assert found.draws is not None
    rows = np.arange(len(found.log_runtime))
    drawn = found.draws(rows, 40_000, np.random.default_rng(0))
    assert drawn.mean(axis=0) == pytest.approx(found.log_runtime, abs=0.03)
    assert drawn.std(axis=0) == pytest.approx(found.latent, rel=0.05)


def test_finds_a_planted_optimum() -> None:
    made, source = replace(strategy("trees"), stop=Never()), table()  # type: ignore[type-var]
    best = []
    for seed in range(3):
        rows = search(made, source, 12, seed=seed)
        best.append((rows["runtime_s"] * rows["usd_per_hour"] * rows["node_count"] / 3600.0).min())
    assert sorted(best)[1] < 2.0 * 1.31, "at most one doubling from the optimum"


def test_is_reproducible_and_independent_of_failed_runs() -> None:
    source = table()
    problem, runs = ask(source.iloc[::4], source)
    first, second = (BaggedTrees().predict(problem, runs).log_runtime for _ in range(2))
    assert (first == second).all()
    frame = runs.frame.assign(status=["failed", *["completed"] * (len(runs) - 1)])
    other = BaggedTrees().predict(problem, type(runs).from_frame(frame)).log_runtime
    kept = BaggedTrees().predict(problem, type(runs).from_frame(frame.iloc[1:].reset_index(drop=True))).log_runtime
    assert (other == kept).all()
