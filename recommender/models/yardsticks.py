"""Yardsticks: what must be beaten. Column mean and best fixed read the archive, the others only the runs and prices.

Notation: y[w, i] = ln(runtime in s) of workload w on configuration i, averaged over its completed runs; NaN unmeasured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from recommender.errors import InsufficientEvidenceError
from recommender.models import (
    NOISE_PRIOR,
    TRANSFERRED,
    Array,
    Prediction,
    configuration_rows,
    measured,
    nothing_known,
    with_measurements,
)
from recommender.models.memory import MemoryLimit
from recommender.pricing import price_option
from recommender.problem import Problem
from recommender.runs import Runs

# Spread of ln(runtime) of a workload that was never run, about the level of the archive: a factor of e either way.
LEVEL_SPREAD = 1.0


def archive_matrix(problem: Problem) -> Array:
    """y of shape (archive workloads, configurations), workloads in sorted order.

    Raises
    ------
    InsufficientEvidenceError
        Without an archive, or when none of its completed runs is of a candidate.
    """
    if problem.archive is None or not len(problem.archive):
        raise InsufficientEvidenceError(
            "this strategy reads runs of other workloads and there are none; give --archive RUNS, or a runs table with "
            "several workloads"
        )
    frame = problem.archive.completed
    row = configuration_rows(problem, frame)
    frame, row = frame[row >= 0], row[row >= 0]
    if not len(frame):
        raise InsufficientEvidenceError(
            "no completed run of the archive is of a candidate (same instance type, node count and parameters); "
            "nothing can be transferred"
        )
    workload, names = pd.factorize(frame["workload"].to_numpy(object), sort=True)
    cell = workload * len(problem.configurations) + row
    size = len(names) * len(problem.configurations)
    count = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=np.log(frame["runtime_s"].to_numpy(float)), minlength=size)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(len(names), -1)


def archive_completing(problem: Problem) -> Array:
    """P(completing) of every configuration over the archive's runs: (completed + 1)/(runs + 1), 1 where none was run."""
    assert problem.archive is not None
    frame, n = problem.archive.frame, len(problem.configurations)
    row = configuration_rows(problem, frame)
    done = (frame["status"] == "completed").to_numpy()
    runs = np.bincount(row[row >= 0], minlength=n)
    completed = np.bincount(row[(row >= 0) & done], minlength=n)
    share: Array = (completed + 1.0) / (runs + 1.0)
    return share


@dataclass(frozen=True)
class PriceOnly:
    """Believes no runtime: leaves the order to the price per hour. Memory and failures that were seen still count."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """NaN for every runtime; excludes what would not fit in memory and what failed whenever it was run."""
        memory = MemoryLimit.of(problem, runs)
        blank = replace(nothing_known(problem), excluded=memory.excluded, reasons=memory.reasons)
        seen = with_measurements(blank, problem, runs)
        return replace(blank, excluded=seen.excluded, reasons=seen.reasons)


@dataclass(frozen=True)
class MeasuredOnly:
    """Believes what was measured, and nothing else. Before any run, prefers configurations at random if `shuffle`."""

    shuffle: bool = False

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of measured configurations; NaN elsewhere."""
        blank = nothing_known(problem)
        if self.shuffle and not (measured(problem, runs).count > 0).any():
            blank = replace(
                blank, preference=problem.random(runs).permutation(len(problem.configurations)).astype(float)
            )
        return with_measurements(blank, problem, runs)


@dataclass(frozen=True)
class ColumnMean:
    """ln T[i] = level of the workload + mean over the archive of (y[w, i] − level of w).

    The level of w is fitted together with the column means by alternating least squares over the measured cells (a
    two-way additive model), so a sparse archive does not confuse slow workloads with slow configurations.
    """

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of configurations with an archive column; NaN elsewhere.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of runs on the candidates.
        """
        y = archive_matrix(problem)
        level, column, residual = additive(y)
        seen = measured(problem, runs)
        has = (seen.count > 0) & np.isfinite(column)
        column_spread = float(np.sqrt(np.nanmean(residual**2) + NOISE_PRIOR**2))
        if has.any():
            own = float((seen.log_runtime[has] - column[has]).mean())
            spread = column_spread * np.sqrt(1.0 + 1.0 / has.sum())
            warnings: tuple[str, ...] = ()
        else:
            own, spread = float(np.mean(level)), float(np.hypot(column_spread, max(LEVEL_SPREAD, float(np.std(level)))))
            unrun = (
                "the workload itself was not run on any candidate: runtimes are those of the archive's typical "
                "workload, and only their order means anything"
            )
            warnings = (unrun,)
        known = np.isfinite(column)
        base = nothing_known(problem)
        prediction = replace(
            base,
            log_runtime=own + column,
            spread=np.where(known, spread, np.nan),
            evidence=np.full(len(column), TRANSFERRED, dtype=np.int8),
            completing=archive_completing(problem),
            warnings=warnings,
            binding=lambda _: f"mean of {len(y)} other workloads",
        )
        return with_measurements(prediction, problem, runs)


def additive(y: Array, sweeps: int = 100) -> tuple[Array, Array, Array]:
    """Level per row, mean per column (NaN for an empty one) and residuals of y ≈ level + column, by least squares."""
    have = np.isfinite(y)
    z = np.where(have, y, 0.0)
    rows, columns = have.sum(axis=1), have.sum(axis=0)
    level, column = np.zeros(len(y)), np.zeros(y.shape[1])
    for _ in range(sweeps):
        before = level
        column = np.where(columns > 0, (z - have * level[:, None]).sum(axis=0) / np.maximum(columns, 1), 0.0)
        level = (z - have * column).sum(axis=1) / np.maximum(rows, 1)
        if np.allclose(level, before, rtol=0, atol=1e-10):
            break
    column = np.where(columns > 0, column, np.nan)
    return level, column, y - level[:, None] - column


@dataclass(frozen=True)
class BestFixed:
    """The one configuration that would have been best for the archive on average, whatever the workload.

    The least mean over workloads of ln(value) less the workload's level wins, value being the runtime or the cost of a
    run under the first purchase option; configurations that fewer than half the workloads completed come last.
    """

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Column-mean runtimes, and the fixed order as preference.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of runs on the candidates.
        """
        y = archive_matrix(problem)
        offers = problem.candidates.offers
        value = y
        if problem.objective == "cost":
            prices = price_option(problem.options[0], offers, problem.catalogue.spot)
            usd = np.full(y.shape[1], np.inf)
            np.fmin.at(usd, offers.configuration, prices.usd_per_hour * offers.nodes)
            value = y + np.log(usd)
        level, _, _ = additive(y)
        normalised = np.where(np.isfinite(value), value - level[:, None], np.nan)
        seen = np.isfinite(normalised).sum(axis=0)
        mean = np.nansum(np.nan_to_num(normalised), axis=0) / np.maximum(seen, 1)
        preference = np.where(seen * 2 >= len(y), mean, np.where(seen > 0, mean + 1e3, np.inf))
        base = ColumnMean().predict(problem, runs)
        return replace(base, preference=preference, binding=lambda _: f"best on average over {len(y)} other workloads")
