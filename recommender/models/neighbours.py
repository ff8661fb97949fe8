"""Neighbours: the workloads that ran most alike, and what else took them.

Notation
--------
S        configurations that were measured; n of them v ran too
r[v, i]  rating: y[v, i] less the mean of y[v] on S (the fold-in runs), over the archive's scatter
b[v, i]  baseline μ + b_v + b_i
s(u, v)  n/(n + λ) · 1/(1 + mean over S of (r[u, i] − r[v, i])²)     (mean squared difference, shrunk: Koren 2010, eq. 2)

    r̂[u, i] = b[u, i] + Σ_v s(u, v) (r[v, i] − b[v, i])/Σ_v s(u, v),   v the k most similar that ran i  (Koren 2010, eq. 3)

which, but for the shrinking, is KNNBaseline of scikit-surprise with `msd`. It is computed here, because the library fits anew
for every new workload; a test holds the two together. Baselines are the archive's additive model.

One configuration in common is always alike, the levels being taken off: s = 0 below two. Workloads that tie at the k-th
place share the places left, so that nothing depends on what workloads are called; where nothing tells workloads apart, the
answer is the baseline and nobody is named.
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
FEWEST_COMMON = 2
"""Common configurations from which on a likeness can be told."""
SHRINKAGE = 2.0
"""λ: common configurations at which a likeness counts half."""


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
        """s(u, v) of every context, (contexts,); 0 where it ran fewer than two of the configurations measured."""
        z = self.archive.filled
        common = np.isfinite(y) & np.isfinite(z)
        count = common.sum(axis=1)
        apart = np.where(common, y - z, 0.0)
        apart -= np.where(common, (apart.sum(axis=1) / np.maximum(count, 1))[:, None], 0.0)
        distance = (apart**2).sum(axis=1) / np.maximum(count, 1) / self.deviation**2
        return np.where(count >= FEWEST_COMMON, count / (count + SHRINKAGE) / (1.0 + distance), 0.0)

    def fold_in(self, y: Array, x: Array) -> tuple[Array, Array]:
        """Baselines corrected by the neighbours; the spread is the archive's scatter about its additive model."""
        mean, spread = self.average.fold_in(y, x)
        # s(u, v) is compared to nine digits: equals must tie, whatever the order of summation.
        similar = np.round(self.similarities(y), 9)
        if not _tells_apart(similar):
            return mean, spread
        weight = _nearest(similar[:, None] * np.isfinite(self.archive.y), self.size)
        total = weight.sum(axis=0)
        correction = (weight * np.nan_to_num(self.archive.residual)).sum(axis=0) / np.where(total > 0, total, 1.0)
        s = np.isfinite(y) & np.isfinite(mean)
        correction = correction - (correction[s].mean() if s.any() else 0.0)  # the level of the new one is its runs'
        return mean + correction, spread

    def remark(self, y: Array, x: Array) -> str:
        """Name the most similar workloads, but none where more of them are equally similar than would be named."""
        similar = np.round(self.similarities(y), 9)
        if not _tells_apart(similar):
            return ""
        best: dict[str, float] = {}
        for name, value in zip(map(str, self.archive.workload), similar, strict=True):
            best[name] = max(best.get(name, 0.0), float(value))
        said: list[str] = []
        for value in sorted({v for v in best.values() if v > 0}, reverse=True):
            names = sorted(name for name, v in best.items() if v == value)
            if len(said) + len(names) > NAMED:
                said.append(f"{len(names)} {'others ' if said else 'workloads '}that are equally alike")
                break
            said += names
            if len(said) == NAMED:
                break
        return f"most like {', '.join(said)}"


def _tells_apart(similar: Array) -> bool:
    """Whether some workloads are more similar than others."""
    return bool(np.ptp(similar) > 0)


def _nearest(similar: Array, size: int) -> Array:
    """Weights of the `size` most similar contexts of each column, others 0; those that tie for the last places share them."""
    if len(similar) <= size:
        return similar
    last = -np.partition(-similar, size - 1, axis=0)[size - 1]
    above, tied = similar > last, similar == last
    share = (size - above.sum(axis=0)) / tied.sum(axis=0)
    result: Array = np.where(above, similar, np.where(tied, similar * share, 0.0))
    return result


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
