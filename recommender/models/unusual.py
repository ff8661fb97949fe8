"""What in an archive is out of proportion to the rest: levels, scatter and single cells, unless workloads share it.

Notation: y ≈ level + column + residual, the additive model of `yardsticks`, or by medians among few; rows are contexts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recommender.models import Array
from recommender.models.yardsticks import additive

SCATTER = 5.0
"""A cell's residual, and a workload's, must also be this many times the archive's (robust) scatter."""
ROBUST_Z = 4.5
"""A workload is left out when its level is this many robust standard deviations off the median level."""
FEWEST = 5
"""Workloads from which on one of them can be called unusual."""
MANY = 20
"""Workloads from which on none of them bends the columns by much."""
SWEEPS = 10
"""Of medians over columns and rows."""
ALIKE = 0.8
"""Cosine of two workloads' deviations from the additive model from which on they deviate alike."""
MAD = 0.6745
"""Median absolute deviation of a standard normal."""


def unusual(y: Array, names: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Contexts whose level, and whose scatter, is out of proportion to all others; none among fewer than FEWEST."""
    some = np.isfinite(y).any(axis=1)
    level_off, scattered = np.zeros(len(y), dtype=bool), np.zeros(len(y), dtype=bool)
    for _ in range(3):  # what is found hides what is left
        use = np.flatnonzero(some & ~level_off & ~scattered)
        if len(use) < FEWEST:
            break
        level, _, residual = additive(y[use])
        if len(use) < MANY:
            residual = _by_medians(y[use], level)
        off = np.abs(level - np.median(level))
        scatter = np.sqrt(np.nanmean(residual**2, axis=1))
        # A factor e of deviation at least: workloads of one size would make any other look unusual.
        far = off > ROBUST_Z * max(float(np.median(off)) / MAD, 1.0)
        wide = scatter > max(1.0, SCATTER * float(np.median(scatter)))
        wide &= ~far
        wide[wide] = ~_alike(np.nan_to_num(residual), np.flatnonzero(wide), names[use])
        if not (far | wide).any():
            break
        level_off[use[far]], scattered[use[wide]] = True, True
    return level_off, scattered


def _by_medians(y: Array, level: Array) -> Array:
    """Residuals where columns and levels are medians, from these levels on.

    Among few workloads one in two units bends a column's mean so far that it hides behind it.
    """
    ran = np.isfinite(y).any(axis=0)
    residual = np.full_like(y, np.nan)
    z = y[:, ran]
    for _ in range(SWEEPS):
        column = np.nanmedian(z - level[:, None], axis=0)
        level = np.nanmedian(z - column, axis=1)
    residual[:, ran] = z - level[:, None] - column
    return residual


def _alike(residual: Array, rows: npt.NDArray[np.intp], names: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    """Whether another workload deviates like each of `rows`, on the same configurations and by half as much at least.

    A deviation that workloads share is how configurations are (a memory too small for some), and no unit.
    """
    length = np.sqrt((residual**2).sum(axis=1))
    found = [
        bool(
            np.any(
                (residual @ residual[u] >= ALIKE * length * length[u])
                & (2.0 * length >= length[u])
                & (names != names[u])
            )
        )
        for u in rows
    ]
    return np.array(found, dtype=bool)


def lonely(residual: Array, limit: float, names: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    """Cells beyond the limit where no other workload is off in the same direction by half as much."""
    far = np.abs(residual) > limit
    for u, i in zip(*np.nonzero(far), strict=True):
        like = residual[:, i] * np.sign(residual[u, i]) > limit / 2
        far[u, i] = not (like & (names != names[u])).any()
    return far
