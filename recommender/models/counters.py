"""Activity counters of the archive's runs, for telling workloads apart.

Notation: x of a run = (ln(1 + counter) − its mean on that configuration)/its standard deviation over the archive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.models import Array


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
        """Mean x of a new workload's completed runs on the configurations `row` (-1: another), (counters,); NaN unmeasured."""
        value = np.log1p(np.maximum(frame.reindex(columns=list(self.names)).to_numpy(float), 0.0))
        return _mean(((value - self.centre[row]) / self.deviation)[row >= 0])


def _mean(rows: Array) -> Array:
    have = np.isfinite(rows)
    count = have.sum(axis=0)
    total = np.where(have, rows, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
