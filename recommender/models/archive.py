"""The archive, looked through once: what is believable in it.

Notation
--------
y[u, i]  ln(runtime in s) of context u (a workload at one input) on configuration i, mean over its completed runs
y[u, i] ≈ level[u] + column[i] + residual[u, i]     (`additive`)
x[u, c]  activity counter c of context u: mean over runs of (ln(1 + counter) − its mean on that configuration)/deviation

What contradicts the rest is left out and said, so that it cannot bend the answer: repetitions that differ tenfold, cells
tenfold off the additive model where the archive's own scatter is far smaller, and workloads whose level or scatter is
out of all proportion (seconds noted as milliseconds, most likely). Where another workload deviates alike on the same
configurations, neither a cell nor a scatter contradicts anything: so do memory cliffs look. Before that, of parts of the
archive that nothing links one is kept (`contexts`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InsufficientEvidenceError
from recommender.models import Array, Measured, configuration_rows, measured
from recommender.models.contexts import apart, contexts
from recommender.models.counters import Counters, out_of_proportion, proportion
from recommender.models.kept import kept
from recommender.models.unusual import FEWEST, MAD, SCATTER, lonely, unusual
from recommender.models.yardsticks import ArchiveCells, additive, archive_cells
from recommender.problem import Problem
from recommender.runs import Runs, some
from recommender.units import counted

CONTRADICTION = float(np.log(10.0))
"""Least difference of ln(runtime) between repetitions, or of a cell from the additive model, that is left out."""
UNLIKELY = 0.1
"""ε: chance that a workload fares otherwise on a configuration than one like it."""
NOTHING_LEFT = "nothing believable is left of the archive"


@dataclass(frozen=True, eq=False)
class Archived:
    """The archive's believable part; arrays over (contexts, columns)."""

    columns: npt.NDArray[np.intp]
    """The problem's configurations that the archive ran; "column" and "configuration" below count these."""
    y: Array
    """NaN unmeasured or left out."""
    filled: Array
    """y, and where every run was stopped what the additive model says, but the time limit at least."""
    level: Array
    column: Array
    """NaN for a configuration that no context ran."""
    residual: Array
    workload: npt.NDArray[np.object_]
    """Name of each context's workload."""
    application: npt.NDArray[np.object_]
    inputs: Array
    """Input of each context, (contexts, inputs of the archive); where they jitter, that of most configurations."""
    context: npt.NDArray[np.intp]
    """Number of each context in `cells` and `contexts`."""
    counters: Counters
    cells: ArchiveCells
    """Everything, but that `completed` and `runs` count no run that was left out."""
    out: npt.NDArray[np.bool_]
    """What was left out, (contexts, configurations) of `cells`."""
    warnings: tuple[str, ...]
    """What was left out, and why."""

    @property
    def workloads(self) -> int:
        """Different workloads."""
        return len(set(self.workload))

    def part(self, contexts: npt.NDArray[np.intp]) -> Archived:
        """The archive without all other contexts."""
        level, column, _ = additive(self.filled[contexts])
        place = np.full(len(self.y), -1, dtype=np.intp)
        place[contexts] = np.arange(len(contexts))
        c = self.counters
        in_ = place[c.context] >= 0
        return replace(
            self,
            y=self.y[contexts],
            filled=self.filled[contexts],
            level=level,
            column=column,
            residual=self.y[contexts] - level[:, None] - column,
            workload=self.workload[contexts],
            application=self.application[contexts],
            inputs=self.inputs[contexts],
            context=self.context[contexts],
            counters=replace(c, context=place[c.context[in_]], configuration=c.configuration[in_], value=c.value[in_]),
        )


def archived(problem: Problem) -> Archived:
    """The believable part of a problem's archive, contexts in the order of `archive_cells`; computed once.

    Raises
    ------
    InsufficientEvidenceError
        Without an archive, or when none of its completed runs is of a candidate.
    """
    cells = archive_cells(problem)
    return kept(problem, "archived", lambda: _look_through(problem, cells))


def nothing_comparable(runs: Runs) -> str:
    """That no run of the workload can be compared with the archive's, in words."""
    done = len(runs.completed)
    where = (
        f"none of the workload's {done} completed runs is of a configuration that the archive ran, at this input"
        if done
        else "the workload itself has no completed run"
    )
    return f"{where}: runtimes are those of the archive's typical workload, and only their order means anything"


def believable(problem: Problem, runs: Runs | None = None) -> tuple[Problem, tuple[str, ...]]:
    """The problem with what contradicts the rest left out of its archive, and what was left out and why.

    Of parts that nothing links it keeps the one that the workload's own `runs` are of, and else the largest (`contexts`).

    Every strategy enters through here, so that a model, a count or a choice sees nothing else. What is left is looked
    through again, as it would be if it had been given alone. An archive that says nothing of the candidates, of which
    nothing would be left or in which nothing can be compared stays as it is: who needs it refuses it, and it is said.
    """
    said: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    while problem.archive is not None and len(problem.archive):
        try:
            problem, parts = _own_part(problem, runs)
            said = tuple(dict.fromkeys((*said, *parts)))
            a = archived(problem)
        except InsufficientEvidenceError as error:
            return problem, (*said, str(error))
        not_compared = a.cells.said
        if not a.warnings:
            break
        said = (*said, *a.warnings)
        problem = replace(problem, archive=kept(problem, "believable", partial(_left, problem, a)))
    return problem, (*said, *not_compared)


def _own_part(problem: Problem, runs: Runs | None) -> tuple[Problem, tuple[str, ...]]:
    """The problem with one part of its archive alone: the largest of those that the workload's own runs are of, or of all.

    Parts that inputs keep apart stay, where the largest is kept: who models inputs learns from them.
    """
    assert problem.archive is not None
    if not len(problem.archive.completed):
        return problem, ()
    found = contexts(problem)
    own = np.unique(found.part[measured(problem, runs).count > 0]) if runs is not None else found.part[:0]
    own = own[(own >= 0) & (own < found.comparing)]
    k = int(own[0]) if len(own) else 0
    several = (
        f"the workload's own runs are of {len(own)} parts of the archive that cannot be compared: those outside of the "
        f"{int((found.part == k).sum())} configurations that are used say nothing of other configurations"
    )
    said = (several,) if len(own) > 1 else ()
    if found.part.max() < 1 or (k == 0 and found.by_inputs):
        return problem, said
    archive = kept(problem, ("part", k), partial(_part, problem, found.part, k))
    return replace(problem, archive=archive), (*said, apart(problem, found.part, k, by_inputs=found.by_inputs))


def _part(problem: Problem, part: npt.NDArray[np.intp], k: int) -> Runs:
    """The archive's runs but those of configurations of other parts."""
    assert problem.archive is not None
    row = configuration_rows(problem, problem.archive.frame)
    of = np.where(row >= 0, part[row], -1)
    return Runs(problem.archive.frame[(of == k) | (of < 0)].reset_index(drop=True))


def _left(problem: Problem, a: Archived) -> Runs:
    """The archive's runs but those left out; none at all of a workload of which nothing on the candidates is left."""
    assert problem.archive is not None
    frame, n = problem.archive.frame, len(a.cells.names)
    there, row, context = comparable_runs(problem)
    out = a.out[context, row]
    of = a.cells.workload[context]
    gone = a.cells.names[(np.bincount(of, minlength=n) > 0) & (np.bincount(of[~out], minlength=n) == 0)]
    use = ~frame.index.isin(there.index[out]) & ~frame["workload"].isin(gone)
    return Runs(frame[use].reset_index(drop=True))


def _look_through(problem: Problem, cells: ArchiveCells) -> Archived:
    out = np.zeros(cells.log_runtime.shape, dtype=bool)
    columns = np.flatnonzero((np.isfinite(cells.log_runtime) | np.isfinite(cells.bound)).any(axis=0))
    y, bound, said = cells.log_runtime[:, columns], cells.bound[:, columns], list[str]()
    names = cells.names[cells.workload]
    twice = _contradictions(problem, cells, columns)
    if twice.any():
        y[twice] = np.nan
        out[:, columns] |= twice
        said.append(
            f"repetitions in the archive of {listed(np.sort(names[twice.any(axis=1)]))} differ more than tenfold on "
            f"{counted(int(twice.sum()), 'cell')} (a workload on a configuration), which {'is' if twice.sum() == 1 else 'are'} left out"
        )
    keep = np.asarray(np.isfinite(y).any(axis=1))
    level_off, scattered = (keep & found for found in unusual(y, names))
    odd = np.asarray(level_off | scattered)
    if level_off.any():
        level, _, _ = additive(y, bound)
        ratio = np.exp(np.abs(level[level_off] - np.median(level[keep & ~odd])))
        said.append(
            f"{_left_out(names[level_off])}: runtimes {ratio.max():,.0f} x off the typical workload (seconds are expected: was "
            "another unit noted?)"
        )
    if scattered.any():
        said.append(
            f"{_left_out(names[scattered])}: runtimes scattered over the configurations out of proportion to the others, and no "
            "other workload's alike (seconds are expected: were units mixed?)"
        )
    keep &= ~odd
    out[odd] = True
    if not keep.any():
        raise InsufficientEvidenceError(f"{NOTHING_LEFT}: {'; '.join(said)}")
    part = y[keep]
    residual = additive(part, bound[keep])[2]
    scatter = np.nanmedian(np.abs(residual)) / MAD
    far = lonely(np.nan_to_num(residual), max(CONTRADICTION, SCATTER * scatter), names[keep])
    if far.any() and len(part) >= FEWEST:
        said.append(
            f"left out: {counted(int(far.sum()), 'cell')} of {listed(np.sort(names[keep][far.any(axis=1)]))}, more than tenfold off what "
            "workload and configuration take otherwise"
        )
        out[np.ix_(keep, columns)] |= far
        part = np.where(far, np.nan, part)
        rest = np.isfinite(part).any(axis=1)
        keep[np.flatnonzero(keep)[~rest]] = False
        part = part[rest]
    left = (np.isfinite(part) | np.isfinite(bound[keep])).any(axis=0)
    part, bound, columns = part[:, left], bound[keep][:, left], columns[left]
    level, column, residual = additive(part, bound)
    censored = np.isnan(part) & np.isfinite(bound)
    filled = np.where(censored, np.fmax(bound, level[:, None] + column), part)
    place = np.full(len(keep), -1, dtype=np.intp)
    place[keep] = np.arange(int(keep.sum()))
    return Archived(
        columns=columns,
        y=part,
        filled=filled,
        level=level,
        column=column,
        residual=residual,
        workload=names[keep],
        application=cells.application[keep],
        inputs=_inputs(problem, cells)[keep],
        context=np.flatnonzero(keep),
        counters=_counters(problem, cells, place, columns),
        cells=_without(problem, cells, out) if out.any() else cells,
        out=out,
        warnings=tuple(said),
    )


def _without(problem: Problem, cells: ArchiveCells, out: npt.NDArray[np.bool_]) -> ArchiveCells:
    """The cells with no run of the cells `out` counted: what is not believed says nothing of completing either."""
    frame, row, context = comparable_runs(problem)
    lost, done = out[context, row], (frame["status"] == "completed").to_numpy()
    count = partial(np.bincount, minlength=len(cells.runs))
    return replace(cells, completed=cells.completed - count(row[lost & done]), runs=cells.runs - count(row[lost]))


def _completed(problem: Problem) -> tuple[pd.DataFrame, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Completed runs of candidates, their configurations and contexts."""
    frame, row, context = comparable_runs(problem)
    done = (frame["status"] == "completed").to_numpy()
    return frame[done], row[done], context[done]


def comparable_runs(problem: Problem) -> tuple[pd.DataFrame, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Comparable runs of candidates, their configurations and their contexts as `archive_cells` numbers them."""
    return contexts(problem)[:3]


def completing_likewise(problem: Problem, seen: Measured) -> Array:
    """P(a run completes) by what the archive's workloads lost that lost and completed the same as this one, (configurations,).

    (Σ w_u completed + 1)/(Σ w_u ran + 1) over contexts u, w_u the product over own configurations that u ran too of 1 − ε where
    it fared alike and of ε where not. All weigh the same while nothing failed. A run stopped at a limit did not complete, but
    tells no two workloads apart.
    """
    done, lost, ran = kept(problem, "fared", lambda: _fared(problem))
    own_done = (seen.count > 0).astype(float)
    own_lost = ((seen.count == 0) & (seen.failures > 0)).astype(float)
    alike = done @ own_done + lost @ own_lost
    other = done @ own_lost + lost @ own_done
    log_w = alike * np.log1p(-UNLIKELY) + other * np.log(UNLIKELY)
    w = np.exp(log_w - log_w.max()) if own_lost.any() else np.ones(len(done))
    result: Array = (w @ done + 1.0) / (w @ ran + 1.0)
    return result


def _fared(problem: Problem) -> tuple[Array, Array, Array]:
    """Whether each context completed, failed and never completed, or ran at all, on each configuration, (contexts, configurations)."""
    frame, row, context = comparable_runs(problem)
    shape = (int(context.max(initial=-1)) + 1, len(problem.configurations))
    done, lost, ran = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    ran[context, row] = 1.0
    status = frame["status"].to_numpy(object)
    done[context[status == "completed"], row[status == "completed"]] = 1.0
    lost[context[status == "failed"], row[status == "failed"]] = 1.0
    return done, lost * (1.0 - done), ran


def _contradictions(problem: Problem, cells: ArchiveCells, columns: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    frame, row, context = _completed(problem)
    row, shape = np.searchsorted(columns, row), (len(cells.workload), len(columns))
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    log_t = np.log(frame["runtime_s"].to_numpy(float))
    np.minimum.at(low, (context, row), log_t)
    np.maximum.at(high, (context, row), log_t)
    return np.asarray(high - low > CONTRADICTION)


def _left_out(names: npt.NDArray[np.object_]) -> str:
    several = len(set(map(str, names))) > 1
    return f"{listed(np.sort(names))} of the archive {'are' if several else 'is'} left out"


def _inputs(problem: Problem, cells: ArchiveCells) -> Array:
    """Input of each context, (contexts, inputs): of several that of most configurations, the largest among equals."""
    assert problem.archive is not None
    names, (frame, row, context) = problem.archive.inputs, _completed(problem)
    found = np.full((len(cells.workload), len(names)), np.nan)
    if names:
        ran = frame[names].assign(_context=context, _row=row).drop_duplicates()
        count = ran.groupby(["_context", *names], dropna=False).size().rename("_count").reset_index()
        last = count.sort_values(["_count", *names], kind="stable", na_position="first").drop_duplicates(
            "_context", keep="last"
        )
        found[last["_context"].to_numpy()] = last[names].to_numpy(float)
    return found


def _counters(
    problem: Problem, cells: ArchiveCells, place: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> Counters:
    n = len(columns)
    frame, row, context = _completed(problem)
    use = (place[context] >= 0) & np.isin(row, columns)
    workload = cells.workload[context[use]]
    frame, row, context = frame[use], np.searchsorted(columns, row[use]), place[context[use]]
    names = tuple(sorted(c for c in map(str, frame) if c.startswith("metric.") and frame[c].notna().any()))
    value = np.log1p(np.maximum(frame[list(names)].to_numpy(float), 0.0))
    far = out_of_proportion(value, row, workload)
    said = tuple(
        f"{names[c]} of {listed(np.sort(cells.names[workload[far[:, c]]]))} is far off the rest of the archive's: another unit? "
        "it is not used"
        for c in np.flatnonzero(far.any(axis=0))
    )
    value[far] = np.nan
    table = pd.DataFrame(value).groupby(row).mean().reindex(range(n))
    centre = table.to_numpy(float).reshape(n, len(names))
    apart = value - centre[row]
    deviation = np.sqrt(np.nanmean(apart**2, axis=0)) if len(names) else np.zeros(0)
    use = deviation > 0
    names = tuple(np.array(names, dtype=object)[use])
    apart, centre, deviation = apart[:, use] / deviation[use], centre[:, use], deviation[use]
    have = np.isfinite(apart).any(axis=1)
    pairs = pd.DataFrame(apart[have]).groupby([context[have], row[have]]).mean()
    index = np.array(list(pairs.index), dtype=np.intp).reshape(-1, 2)
    value = pairs.to_numpy(float).reshape(len(index), len(names))
    mean = pd.DataFrame(apart).groupby(workload).mean().abs().max().to_numpy(float)
    return Counters(index[:, 0], index[:, 1], value, names, centre, deviation, proportion(mean), said)


def listed(names: npt.NDArray[np.object_], most: int = 5) -> str:
    """Different names, `most` of them in full."""
    return some(dict.fromkeys(map(str, names)), most)
