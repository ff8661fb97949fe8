"""Activity counters of the archive's runs, for telling workloads apart.

Notation: x of a run = (ln(1 + counter) − its mean on that configuration)/its standard deviation over the archive; that of a
workload is the mean of its runs'.

A counter in another unit would be followed far beyond all that was learnt from. One is out of proportion, and not used, where
|x| of a workload is more than FAR and more than MORE times the largest of the archive's other workloads. For those of the
archive itself x is then by medians, which the odd one does not move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.models import Array
from recommender.models.unusual import MAD

FAR, MORE = 4.0, 3.0
"""Twice would leave out a counter of one Lumos workload, which reads from disk as no other does; thrice leaves out none."""


@dataclass(frozen=True, eq=False)
class Counters:
    """Activity counters of the archive's runs, one row a (context, configuration) pair; none: no rows and no columns."""

    context: npt.NDArray[np.intp]
    configuration: npt.NDArray[np.intp]
    value: Array
    """x of the pair, (pairs, counters); NaN unmeasured."""
    names: tuple[str, ...]
    centre: Array
    """Mean of ln(1 + counter) on each configuration, (configurations, counters); NaN where none was recorded."""
    deviation: Array
    """Standard deviation over the archive about those, (counters,)."""
    bound: Array
    """Largest |x| of a workload that is in proportion, (counters,)."""
    said: tuple[str, ...] = ()
    """What was left out, and why."""

    def of(self, context: int, rows: npt.NDArray[np.intp]) -> Array:
        """Mean x of one context over the configurations `rows`, (counters,); NaN unmeasured."""
        chosen = self.value[(self.context == context) & np.isin(self.configuration, rows)]
        return _mean(chosen)

    def contexts(self, count: int) -> Array:
        """Mean x of each context over all its configurations, (count, counters)."""
        have = np.isfinite(self.value)
        total = np.zeros((count, len(self.names)))
        number = np.zeros_like(total)
        np.add.at(total, self.context, np.where(have, self.value, 0.0))
        np.add.at(number, self.context, have)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def new(self, frame: pd.DataFrame, row: npt.NDArray[np.intp]) -> Array:
        """Mean x of a new workload's completed runs on the configurations `row` (-1: another), (counters,).

        NaN unmeasured, and out of proportion.
        """
        x = self._new(frame, row)
        return np.where(np.abs(x) <= self.bound, x, np.nan)

    def unlike(self, frame: pd.DataFrame, row: npt.NDArray[np.intp]) -> tuple[str, ...]:
        """What of the same is out of proportion, in words."""
        far = np.flatnonzero(np.abs(self._new(frame, row)) > self.bound)
        return tuple(f"{self.names[c]} is far off the archive's: another unit? it is not used" for c in far)

    def _new(self, frame: pd.DataFrame, row: npt.NDArray[np.intp]) -> Array:
        value = np.log1p(np.maximum(frame.reindex(columns=list(self.names)).to_numpy(float), 0.0))
        return _mean(((value - self.centre[row]) / self.deviation)[row >= 0])


def _mean(rows: Array) -> Array:
    have = np.isfinite(rows)
    count = have.sum(axis=0)
    total = np.where(have, rows, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def out_of_proportion(value: Array, row: npt.NDArray[np.intp], workload: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which of the archive's ln(1 + counter), (runs, counters), are of a workload far off all others."""
    _, of = np.unique(workload, return_inverse=True)
    if not value.shape[1] or of.max(initial=0) < 1:
        return np.zeros(value.shape, dtype=bool)
    table = pd.DataFrame(value)
    apart = table - table.groupby(row).transform("median")
    scale = (apart.abs().median() / MAD).to_numpy(float)
    scale = np.where(scale > 0, scale, np.sqrt((apart**2).mean().to_numpy(float)))
    size = np.nan_to_num(apart.groupby(of).median().abs().to_numpy(float) / np.where(scale > 0, scale, np.inf))
    ranked = np.sort(size, axis=0)
    others = np.where(size == ranked[-1], ranked[-2], ranked[-1])
    return np.asarray((size > proportion(others))[of])


def proportion(largest: Array) -> Array:
    """Largest |x| in proportion to the largest that there is."""
    result: Array = np.maximum(FAR, MORE * largest)
    return result
