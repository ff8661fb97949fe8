"""Yardsticks: what must be beaten. Column mean and best fixed read the archive, the others only the runs and prices.

Notation
--------
y[w, i]  ln(runtime in s) of workload w on configuration i, averaged over its completed runs; NaN unmeasured
y[w, i] ≈ level[w] + column[i] + residual[w, i]     (`additive`)
s        spread of the residuals (`pooled_spread`)
L        D − Nᵀ R⁻¹ N, N[w, i] = 1 where w ran i, R and D its row and column sums: s² L⁺ is the covariance of the columns
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
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
from recommender.models.completing import level_above
from recommender.models.contexts import components, contexts
from recommender.models.kept import kept
from recommender.models.memory import MemoryLimit
from recommender.pricing import price_option
from recommender.problem import Problem
from recommender.runs import Runs, some
from recommender.units import counted

# Spread of ln(runtime) of a workload that was never run, about the level of the archive: a factor of e either way.
LEVEL_SPREAD = 1.0
# Spread of ln(runtime) about level + column where an archive leaves it unknown, and how many free cells that counts for.
UNKNOWN_SPREAD, UNKNOWN_CELLS = 0.5, 2.0
# On the diagonal of L, so that it can be solved where nothing links two parts.
RIDGE = 1e-9
# Columns up to which a system of them is solved: beyond, that takes longer than all else.
SOLVED = 2000
# Difference of ln(runtime) from which on unfinished sweeps are far off: well below what noise leaves of any column.
FAR = 0.01


@dataclass(frozen=True)
class ArchiveCells:
    """The archive on the candidates; arrays of shape (contexts, configurations), a context being a workload at one input."""

    log_runtime: Array
    """y; NaN without a completed run."""
    bound: Array
    """ln of the longest time a run was stopped at, -inf if none: y is at least that."""
    workload: npt.NDArray[np.intp]
    """Index of each context's workload, shape (contexts,)."""
    workloads: int
    """Workloads with a run on a candidate."""
    completed: Array
    """Completed runs by configuration."""
    runs: Array
    """Runs by configuration."""
    names: npt.NDArray[np.object_]
    """Name of each workload, in the order of its contexts."""
    application: npt.NDArray[np.object_]
    """Application of each context."""
    said: tuple[str, ...] = ()
    """What of the archive is not compared, and why."""

    @property
    def completing(self) -> Array:
        """P(completing) by configuration: (completed + 1)/(runs + 1), 1 where none was run."""
        return (self.completed + 1.0) / (self.runs + 1.0)

    def remark(self, i: int) -> str:
        """What the column of configuration `i` rests on, in words."""
        has = np.isfinite(self.log_runtime[:, i])
        stopped = np.unique(self.workload[~has & np.isfinite(self.bound[:, i])]).size
        lost = int(self.runs[i] - self.completed[i])
        said = f"mean of {counted(np.unique(self.workload[has]).size, 'other workload')}"
        said += f", and {stopped} stopped at a time limit" if stopped else ""
        return said + (f"; {lost} of their {counted(int(self.runs[i]), 'run')} did not complete" if lost else "")


def archive_cells(problem: Problem) -> ArchiveCells:
    """The archive's runs of the candidates, workloads by what they ran, and their inputs in sorted order; computed once.

    Raises
    ------
    InsufficientEvidenceError
        Without an archive, when none of its completed runs is of a candidate, or when no two configurations can be compared
        (`contexts`).
    """
    return kept(problem, "cells", lambda: _archive_cells(problem))


def _archive_cells(problem: Problem) -> ArchiveCells:
    if problem.archive is None or not len(problem.archive):
        own = (
            f" (those of {problem.workload}, the one asked about, do not count)" if problem.workload is not None else ""
        )
        raise InsufficientEvidenceError(
            f"this strategy reads runs of other workloads and there are none{own}; give --archive RUNS, or a runs table with "
            "several workloads"
        )
    frame = problem.archive.frame
    row = configuration_rows(problem, frame)
    frame, row = frame[row >= 0], row[row >= 0]
    done = (frame["status"] == "completed").to_numpy()
    if not done.any():
        raise InsufficientEvidenceError(_elsewhere(problem))
    completed, every = (np.bincount(r, minlength=len(problem.configurations)).astype(float) for r in (row[done], row))
    frame, row, context, said, *_ = contexts(problem)
    done = (frame["status"] == "completed").to_numpy()
    _, first = np.unique(context, return_index=True)
    of_context, names = pd.factorize(frame["workload"].to_numpy(object)[first])
    n, shape = len(problem.configurations), (len(of_context), len(problem.configurations))
    cell, log_t = context * n + row, np.log(frame["runtime_s"].to_numpy(float))
    count = np.bincount(cell[done], minlength=shape[0] * n)
    total = np.bincount(cell[done], weights=log_t[done], minlength=shape[0] * n)
    bound = np.full(shape[0] * n, -np.inf)
    stopped = (frame["status"] == "timed_out").to_numpy()
    np.maximum.at(bound, cell[stopped], log_t[stopped])
    y = np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(shape)
    return ArchiveCells(
        log_runtime=y,
        bound=bound.reshape(shape),
        workload=of_context,
        workloads=len(names),
        completed=completed,
        runs=every,
        names=np.asarray(names, dtype=object),
        application=frame["application"].groupby(context).min().to_numpy(object),
        said=said,
    )


def _elsewhere(problem: Problem) -> str:
    """That the archive completed no run of a candidate, in words."""
    assert problem.archive is not None
    done = problem.archive.completed
    ran = done["instance_type"].unique()
    if not len(done):
        why = f"none of its {counted(len(problem.archive), 'run')} completed"
    elif set(problem.configurations["instance_type"]).isdisjoint(ran):
        why = f"it ran {some(ran)}, and none of these types is a candidate"
    else:
        why = "none of its completed runs is of a candidate (same instance type, node count and parameters)"
    return f"nothing is learnt from the archive: {why}"


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
        cells = archive_cells(problem)
        level, column, scatter, covariance = _typical(problem)
        seen = measured(problem, runs)
        known = np.isfinite(column)
        has = (seen.count > 0) & known
        if has.any():
            own = float((seen.log_runtime[has] - column[has]).mean())
            spread = scatter * np.sqrt(1.0 + 1.0 / has.sum() + _unsure(covariance, has, known))
            warnings: tuple[str, ...] = ()
        else:
            own, levels = float(np.mean(level)), max(LEVEL_SPREAD, float(np.std(level)))
            stopped = np.flatnonzero(np.isfinite(seen.censored_log) & np.isfinite(column))
            around = np.full(len(stopped), scatter)
            own, levels = level_above(own, levels, column[stopped], around, seen.censored_log[stopped])
            spread = np.hypot(scatter * np.sqrt(1.0 + _unsure(covariance, known, known)), levels)
            where = "on any candidate at this input" if len(runs.completed) else "on any candidate"
            unrun = (
                f"the workload itself has no completed run {where}: runtimes are those of the archive's typical "
                "workload, and only their order means anything"
            )
            warnings = (unrun,)
        base = nothing_known(problem)
        prediction = replace(
            base,
            log_runtime=own + column,
            spread=np.where(known, spread, np.nan),
            evidence=np.full(len(column), TRANSFERRED, dtype=np.int8),
            completing=cells.completing,
            warnings=warnings,
            binding=cells.remark,
        )
        return with_measurements(prediction, problem, runs)


def additive(y: Array, bound: Array | None = None, sweeps: int = 100) -> tuple[Array, Array, Array]:
    """Level per row, mean per column (NaN for an empty one) and residuals of y ≈ level + column, by least squares.

    A cell whose runs were all stopped counts as what the fit makes of it, but as `bound` at least.
    """
    have = np.isfinite(y)
    bound = np.full_like(y, -np.inf) if bound is None else bound
    # A row that never completed has no level to be held against.
    censored = ~have & np.isfinite(bound) & np.any(have, axis=1, keepdims=True)
    used = have | censored
    floor = np.where(censored, bound, 0.0)
    z = np.where(have, y, floor)
    ran = used.any(axis=0)  # a catalogue has many more columns than an archive ran
    z, used, censored, floor = z[:, ran], used[:, ran], censored[:, ran], floor[:, ran]
    rows, columns = used.sum(axis=1), used.sum(axis=0)
    level, mean = np.zeros(len(y)), np.zeros(z.shape[1])
    for _ in range(sweeps):
        before = level
        mean = (z - used * level[:, None]).sum(axis=0) / columns
        level = (z - used * mean).sum(axis=1) / np.maximum(rows, 1)
        if np.allclose(level, before, rtol=0, atol=1e-10):
            break
        z = np.where(censored, np.maximum(floor, level[:, None] + mean), z)
    else:
        if not censored.any() and len(mean) <= SOLVED:
            mean, level = _exact(z, used, mean, level)
    column = np.full(y.shape[1], np.nan)
    column[ran] = mean
    return level, column, y - level[:, None] - column


def _exact(z: Array, used: npt.NDArray[np.bool_], mean: Array, level: Array) -> tuple[Array, Array]:
    """The fit, solved for, where sweeps left it far off: few runs that link two groups take thousands of sweeps."""
    rows = np.maximum(used.sum(axis=1), 1)
    by_row, columns = z.sum(axis=1) / rows, used.sum(axis=0)
    found = np.linalg.solve(_laplacian(used) + RIDGE * np.diag(columns), z.sum(axis=0) - used.T @ by_row)
    found += (z.sum() - columns @ found) / columns.sum()  # levels about 0, as the sweeps leave them
    if np.abs(found - mean).max() <= FAR:
        return mean, level
    return found, by_row - used @ found / rows


def _laplacian(used: npt.NDArray[np.bool_]) -> Array:
    """L of the cells that were run."""
    n = used.astype(float)
    result: Array = np.diag(n.sum(axis=0)) - n.T @ (n / np.maximum(n.sum(axis=1, keepdims=True), 1.0))
    return result


def _typical(problem: Problem) -> tuple[Array, Array, float, Array]:
    cells = archive_cells(problem)
    return kept(problem, "column mean", lambda: _fitted(cells))


def _fitted(cells: ArchiveCells) -> tuple[Array, Array, float, Array]:
    """Levels, columns, scatter s of a cell, and L⁺, how little the columns are known, in s²: of the columns that were run.

    Of more than SOLVED columns L is taken for its diagonal, (columns,): what links them is then seldom one run.
    """
    level, column, residual = additive(cells.log_runtime, cells.bound)
    scatter = float(np.hypot(pooled_spread(residual), NOISE_PRIOR))
    have = np.isfinite(cells.log_runtime)
    used = (have | (np.isfinite(cells.bound) & have.any(axis=1, keepdims=True)))[:, np.isfinite(column)]
    if used.shape[1] > SOLVED:
        return level, column, scatter, 1.0 / used.sum(axis=0)
    laplacian = _laplacian(used)
    covariance = np.asarray(np.linalg.inv(laplacian + 1.0 / len(laplacian)), dtype=float)
    return level, column, scatter, covariance


def _unsure(covariance: Array, at: npt.NDArray[np.bool_], ran: npt.NDArray[np.bool_]) -> Array:
    """Variance of each column less the mean of the columns `at`, in s²: (e − w)ᵀ L⁺ (e − w); NaN for an empty column."""
    w, found = at[ran] / at.sum(), np.full(len(ran), np.nan)
    if covariance.ndim == 1:
        found[ran] = covariance * (1.0 - 2.0 * w) + (w**2 * covariance).sum()
    else:  # e − w sums to 0, and the archive is of one part
        found[ran] = np.diag(covariance) - 2.0 * covariance @ w + w @ covariance @ w
    return found


def pooled_spread(residual: Array) -> float:
    """s of the residuals of `additive`: s² = (Σ residual² + ν s₀²)/(free + ν), pooled with what is usual.

    Each context's level and each column takes a cell, less one a part of the archive that nothing links to the others: of
    two runs a workload next to nothing is free, and residuals near 0 are no knowledge.
    """
    context, column = np.nonzero(np.isfinite(residual))
    parts = components(column, context)[1]
    free = len(context) - len(np.unique(context)) - len(np.unique(column)) + parts
    squares = float((residual[context, column] ** 2).sum())
    return float(np.sqrt((squares + UNKNOWN_CELLS * UNKNOWN_SPREAD**2) / (free + UNKNOWN_CELLS)))


@dataclass(frozen=True)
class BestFixed:
    """The one configuration that would have been best for the archive on average, whatever the workload.

    The least mean over contexts of ln(value) less the context's level wins, value being the runtime or the cost of a
    run under the first purchase option, over the chance to complete (what fails is paid for and run again); configurations that
    fewer than half the contexts completed come last.
    """

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """The fixed order as preference, and no runtime: what it takes for this workload is not asked.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of runs on the candidates.
        """
        cells = archive_cells(problem)
        y, offers = cells.log_runtime, problem.candidates.offers
        value = y
        if problem.objective == "cost":
            prices = price_option(problem.options[0], offers, problem.catalogue.spot)
            usd = np.full(y.shape[1], np.inf)
            np.fmin.at(usd, offers.configuration, prices.usd_per_hour * offers.nodes)
            value = y + np.log(usd)
        level = _typical(problem)[0]
        normalised = np.where(np.isfinite(value), value - level[:, None], np.nan)
        seen = np.isfinite(normalised).sum(axis=0)
        mean = np.nansum(np.nan_to_num(normalised), axis=0) / np.maximum(seen, 1) - np.log(cells.completing)
        preference = np.where(seen * 2 >= len(y), mean, np.where(seen > 0, mean + 1e3, np.inf))
        blank = replace(nothing_known(problem), completing=cells.completing)
        lost = with_measurements(blank, problem, runs)
        return replace(
            blank,
            completing=lost.completing,
            excluded=lost.excluded,
            reasons=lost.reasons,
            preference=preference,
            binding=lambda i: f"best on average: {cells.remark(i)}",
        )
