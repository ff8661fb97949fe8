"""Bagged gradient-boosted trees over configurations: the surrogate of the strategy `trees`.

Notation
--------
y_i  ln(runtime in s) of configuration i, mean of its completed runs      b_i  ln capacity, nodes x vCPUs x speed
B    members, each boosted on a bootstrap of the measured configurations  g_b(x)  prediction of member b
e_i  out-of-bag residual: y_i + b_i less the mean of the members that did not see i

    mean = avg_b g_b(x) − b,    latent² = var_b g_b(x) + max(avg_i e_i² − σ_ε², 0),    spread² = latent² + σ_ε²

Members alone agree where there are no data (trees are flat there), so the out-of-bag error is added everywhere: the
spread is never 0 and honest about what the trees cannot fit. Boosted trees are often the best surrogate for cloud
configurations (Bilal et al., VLDB 2020); bagging them for a spread is our choice. A run stopped at its time limit enters,
as in the Gaussian process, at the mean of the normal above the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recommender.models import MODELLED, Array, Prediction, measured, with_measurements
from recommender.models.completing import NEWS, search_base, truncated_normal
from recommender.models.features import features
from recommender.problem import Problem
from recommender.runs import Runs

PRIOR_SPREAD, PRIOR_DOF = 0.5, 2.0
"""Prior of the out-of-bag error, in ln(runtime), and its weight in residuals: with 3 runs there are next to none."""

KEPT = (
    "by the model, in which most of the error of each candidate is its own, so that it promises less than it could; on a "
    "public table, promises of 80% and 90% were kept in 78 to 94% and 83 to 100% of 18 searches after 4 to 15 runs"
)
"""docs/benchmarks.md, 18 workloads of Scout x 1 seed."""


@dataclass(frozen=True)
class BaggedTrees:
    """Bootstrap of gradient-boosted regression trees."""

    members: int = 12
    stages: int = 30
    """Boosting stages of a member."""
    rate: float = 0.2
    depth: int = 2

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration; NaN while nothing completed at the input asked about."""
        seen = measured(problem, runs)
        base = search_base(problem, runs, seen)
        done = np.flatnonzero(seen.count > 0)
        if not len(done):
            return with_measurements(base, problem, runs)
        space = features(problem)
        # The size of the whole cluster, which a tree cannot read off nodes and vCPUs apart.
        x = np.column_stack([space.x, space.work])
        target = np.fmax(seen.log_runtime, seen.censored_log)[done] + space.work[done]
        values, error = self._bag(problem, x, done, target, seen.noise)
        stopped = np.flatnonzero(np.isfinite(seen.censored_log) & (seen.count == 0))
        if len(stopped):
            spread = np.sqrt(values[:, stopped].var(axis=0) + error**2 + seen.noise**2)
            bound = seen.censored_log[stopped] + space.work[stopped]
            above, _, sure = truncated_normal(values[:, stopped].mean(axis=0), spread, bound)
            news = sure < NEWS
            rows, targets = np.concatenate([done, stopped[news]]), np.concatenate([target, above[news]])
            values, error = self._bag(problem, x, rows, targets, seen.noise) if news.any() else (values, error)
        mean = values.mean(axis=0) - space.work
        prediction = replace(
            base,
            log_runtime=mean,
            spread=np.sqrt(values.var(axis=0) + error**2 + seen.noise**2),
            evidence=np.full(len(mean), MODELLED, dtype=np.int8),
        )
        joined = with_measurements(prediction, problem, runs)

        def draws(rows: npt.NDArray[np.intp], count: int, rng: np.random.Generator) -> Array:
            # Members' deviations, scaled row by row to the joined spread so that measured rows move as little as they should.
            member = values[rng.integers(len(values), size=count)][:, rows] - values[:, rows].mean(axis=0)
            own = rng.standard_normal(member.shape) * error
            whole = np.sqrt(values[:, rows].var(axis=0) + error**2)
            drawn: Array = joined.log_runtime[rows] + (member + own) * joined.latent[rows] / whole
            return drawn

        return replace(joined, draws=draws, kept=KEPT)

    def _bag(
        self, problem: Problem, x: Array, rows: npt.NDArray[np.intp], target: Array, noise: float
    ) -> tuple[Array, float]:
        """Members' predictions of every configuration, (members, configurations), and the error beyond noise."""
        from sklearn.ensemble import GradientBoostingRegressor  # type: ignore[import-untyped]

        rng = np.random.default_rng([problem.seed, len(rows)])
        values, out = np.empty((self.members, len(x))), np.zeros((self.members, len(rows)), dtype=bool)
        for b in range(self.members):
            bag = np.sort(rng.integers(len(rows), size=len(rows)))
            out[b, np.setdiff1d(np.arange(len(rows)), bag)] = True
            tree: Any = GradientBoostingRegressor(
                n_estimators=self.stages,
                learning_rate=self.rate,
                max_depth=self.depth,
                random_state=int(rng.integers(2**31)),
            )
            values[b] = tree.fit(x[rows[bag]], target[bag]).predict(x)
        unseen = out.any(axis=0)
        held = (values[:, rows] * out).sum(axis=0)[unseen] / out.sum(axis=0)[unseen]
        squares = float(((target[unseen] - held) ** 2).sum())
        mean_square = (squares + PRIOR_DOF * PRIOR_SPREAD**2) / (int(unseen.sum()) + PRIOR_DOF)
        return values, float(np.sqrt(max(mean_square - noise**2, 1e-4)))
