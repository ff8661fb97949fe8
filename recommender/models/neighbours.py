"""Neighbours: the workloads that ran most alike, and what else took them.

Notation
--------
S        configurations that were measured
r[v, i]  rating: y[v, i] less the mean of y[v] on S (the fold-in runs), over the archive's scatter
b[v, i]  baseline μ + b_v + b_i         s(u, v) = 1/(1 + mean over S of (r[u, i] − r[v, i])²)     (mean squared difference)

    r̂[u, i] = b[u, i] + Σ_v s(u, v) (r[v, i] − b[v, i])/Σ_v s(u, v),   v the k most similar that ran i  (Koren 2010, eq. 3)

which is KNNBaseline of scikit-surprise with `msd`. It is computed here, because the library fits anew for every new
workload; a test holds the two together. Baselines are the archive's additive model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recommender.models import Array
from recommender.models.archive import Archived
from recommender.models.factorisation import Collaborative
from recommender.models.fold_in import FEWEST_WORKLOADS, Average, Folded, Gaussian, scatter
from recommender.problem import Problem

SIZES = (5, 10, 20, 40)
"""Numbers of neighbours that are tried."""
NAMED = 3
"""Neighbours that an explanation names."""


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """An archive, ready to be searched for workloads like a new one."""

    archive: Archived
    size: int
    average: Gaussian
    """What answers where nothing was measured."""
    deviation: float
    """Scatter of the archive about its additive model."""

    def similarities(self, y: Array) -> Array:
        """s(u, v) of every context, (contexts,); 0 where it ran none of the configurations measured."""
        z = self.archive.filled
        common = np.isfinite(y) & np.isfinite(z)
        count = common.sum(axis=1)
        apart = np.where(common, y - z, 0.0)
        apart -= np.where(common, (apart.sum(axis=1) / np.maximum(count, 1))[:, None], 0.0)
        distance = (apart**2).sum(axis=1) / np.maximum(count, 1) / self.deviation**2
        return np.where(count > 0, 1.0 / (1.0 + distance), 0.0)

    def fold_in(self, y: Array, x: Array) -> tuple[Array, Array]:
        """Baselines corrected by the neighbours; the spread is the archive's scatter about its additive model."""
        mean, spread = self.average.fold_in(y, x)
        if not np.isfinite(y).any():
            return mean, spread
        # s(u, v) is compared to nine digits, so that the order of rows cannot choose among equals.
        similar = np.round(self.similarities(y), 9)[:, None] * np.isfinite(self.archive.y)
        order = np.argsort(-similar, axis=0, kind="stable")[: self.size]
        weight = np.take_along_axis(similar, order, axis=0)
        residual = np.take_along_axis(np.nan_to_num(self.archive.residual), order, axis=0)
        total = weight.sum(axis=0)
        correction = (weight * residual).sum(axis=0) / np.where(total > 0, total, 1.0)
        s = np.isfinite(y) & np.isfinite(mean)
        correction = correction - (correction[s].mean() if s.any() else 0.0)  # the level of the new one is its runs'
        return mean + correction, spread

    def remark(self, y: Array, x: Array) -> str:
        """Name the most similar workloads."""
        similar = np.round(self.similarities(y), 9)
        names = dict.fromkeys(
            str(self.archive.workload[v]) for v in np.argsort(-similar, kind="stable") if similar[v] > 0
        )
        return f"most like {', '.join(list(names)[:NAMED])}" if names else ""


@dataclass(frozen=True)
class Nearest:
    """Neighbourhoods of a given size."""

    size: int

    def __call__(self, problem: Problem, archive: Archived) -> Folded:
        """Fit; with fewer than three workloads it is the column mean."""
        average = Average()(problem, archive)
        if archive.workloads < FEWEST_WORKLOADS:
            return average
        return Neighbourhood(archive, self.size, average, float(np.sqrt(scatter(archive))))


def neighbours() -> Collaborative:
    """The neighbours' model: several numbers of them."""
    return Collaborative("nearest neighbours", tuple((f"the {k} nearest neighbours", Nearest(k)) for k in SIZES))
