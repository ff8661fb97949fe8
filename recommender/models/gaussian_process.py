"""Gaussian process over configurations, as CherryPick's (Alipourfard et al., NSDI 2017).

Notation
--------
y_i  ln(runtime in s) of configuration i, mean of its completed runs      b_i  offset, known
k_i  completed runs of i                                                  σ_ε  noise of ln(runtime) between repetitions

    y_i + b_i = level + f(x_i) + ε,  f ~ GP(0, s² Matérn 5/2 with a length scale per feature),  ε ~ N(0, σ_ε²/k_i)

The paper models ln(cost), b = ln(price x nodes). Runtime is modelled here (cost is arithmetic), about runtimes that
divide perfectly over the capacity: b = ln(nodes x vCPUs x speed). The two differ by how prices stray from
capacity; a constant ln(runtime), b = 0, expects one small machine to be as fast as a large cluster.
Only runs at the input asked about on a whole candidate count. The archive is not read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from recommender.models import MEASURED, MODELLED, Array, Measured, Prediction, measured, with_measurements
from recommender.models._skopt import Posterior, fit
from recommender.models.completing import NEWS, search_base, truncated_normal
from recommender.models.features import Features, features
from recommender.problem import Problem
from recommender.runs import Runs

DRAWN_SLICES = 10
"""Draws of the hyper-parameters behind joint draws: one set of them, as good as it fits, promises too much."""
KEPT = (
    "by the model; on a public table, promises of 80% and 90% were kept in 80 to 84% and 87 to 92% of the searches after 4 "
    "to 15 runs"
)
"""docs/benchmarks.md, 18 workloads of Scout x 10 seeds."""


class Offset(Enum):
    """What ln(runtime) is expected to follow before anything was measured."""

    NONE = "none"
    """The same everywhere."""
    CAPACITY = "capacity"
    """Work that divides perfectly over nodes x vCPUs x speed."""


@dataclass(frozen=True)
class GaussianProcess:
    """CherryPick's surrogate: Matérn 5/2 with automatic relevance determination."""

    offset: Offset = Offset.CAPACITY
    noise: float | None = None
    """Standard deviation of ln(runtime) between repetitions; None: pooled from the runs, about NOISE_PRIOR."""
    slices: int = 0
    """Draws of the hyper-parameters by slice sampling; 0: their posterior's mode."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration; NaN while nothing completed at the input asked about.

        Noiseless ln(runtime) ~ N(log_runtime, latent²); `draws` gives it jointly, about as wide or wider: over draws of
        the hyper-parameters, and with the tails of a Student t.
        """
        seen = measured(problem, runs)
        base = search_base(problem, runs, seen)
        if not (seen.count > 0).any():
            return with_measurements(base, problem, runs)
        space = features(problem)
        offset = space.work if self.offset is Offset.CAPACITY else np.zeros(len(space.work))
        noise = seen.noise if self.noise is None else self.noise
        posterior, centre = self._condition(problem, seen, space, offset, noise)
        mean, latent = posterior.predict(space.x)

        def draws(rows: npt.NDArray[np.intp], count: int, rng: np.random.Generator) -> Array:
            drawn = replace(self, slices=max(self.slices, DRAWN_SLICES))
            several, level = drawn._condition(problem, seen, space, offset, noise)
            return several.draws(space.x[rows], count, rng) + level - offset[rows]

        known = replace(
            base,
            log_runtime=mean + centre - offset,
            spread=np.hypot(latent, noise),
            evidence=np.full(len(mean), MODELLED, dtype=np.int8),
        )
        joined = with_measurements(known, problem, runs)
        # The process has counted what was measured already; a run that was stopped still bounds its configuration.
        held = joined.evidence == MEASURED
        return replace(
            joined,
            log_runtime=np.where(held, np.fmax(known.log_runtime, seen.censored_log), joined.log_runtime),
            spread=np.where(held, known.spread, joined.spread),
            noise=noise,
            draws=draws,
            kept=KEPT,
        )

    def _condition(
        self, problem: Problem, seen: Measured, space: Features, offset: Array, noise: float
    ) -> tuple[Posterior, float]:
        """The process given what completed and, by the mean of the truncated normal, what was stopped."""
        rows = np.flatnonzero(seen.count > 0)
        target = np.fmax(seen.log_runtime, seen.censored_log)[rows] + offset[rows]
        variance = noise**2 / seen.count[rows]
        centre = float(target.mean())

        def condition(rows: npt.NDArray[np.intp], target: Array, variance: Array) -> Posterior:
            rng = np.random.default_rng([problem.seed, len(rows)])
            return fit(space.x[rows], target - centre, variance, space.group, slices=self.slices, rng=rng)

        posterior = condition(rows, target, variance)
        stopped = np.flatnonzero(np.isfinite(seen.censored_log) & (seen.count == 0))
        if not len(stopped):
            return posterior, centre
        mean, latent = posterior.predict(space.x[stopped])
        bound = seen.censored_log[stopped] + offset[stopped] - centre
        above, left, sure = truncated_normal(mean, np.hypot(latent, noise), bound)
        news = sure < NEWS
        if not news.any():
            return posterior, centre
        rows = np.concatenate([rows, stopped[news]])
        target = np.concatenate([target, above[news] + centre])
        return condition(rows, target, np.concatenate([variance, left[news] + noise**2])), centre
