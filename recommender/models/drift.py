"""Has a recurring workload changed? Its runs in the order of time, the latest held against earlier ones of their configurations.

Notation
--------
x_t    ln T_t of run t; only runs of configurations that ran before since the last change ("again") say anything
e_t    x_t less its configuration's mean before the last w runs again, of those for each w in WINDOWS
δ      what more than half of these e_t (of two: both) reach, and of their configurations' means too, all to one side
W      Σ n m/(n + m) over configurations with n runs before and m after
s²     of σ²: squared residuals, outliers cut, of x = (mean of the configuration) + (one shift for all after) and of all segments
       before the last change, with PRIOR_DOF more of PRIOR²; ν its degrees of freedom, TAILS at most in P
change |δ| > LEAST and √K P(|t_ν| > |δ| √W/s) < ALPHA, K being the tests so far; it is taken back when later runs no longer bear
       it out (K = 1)

So one run never is a change: the last one again, where it deviates by itself (|e| > LEAST and P(|t_ν| > |e|/(s √(1 + 1/n))) <
ALPHA_ALONE), is said and nothing is left out. An outlier among runs at the old level is no change, and what a noisy workload shows of its noise is kept. Runs of configurations not run before say nothing: how those differ is what is asked.

So a workload that changed and was since run on new configurations alone is not noticed. An archive predicts those only to
the spread between workloads (about 10 % on the best covered of public tables, 20 % over all), the errors of one workload's
configurations are correlated, and an unusual workload would pass for one that changed: run one configuration again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr

from recommender.inputs import at_inputs, scale_column
from recommender.models import Array, configuration_rows
from recommender.models.archive import listed
from recommender.models.unusual import MAD
from recommender.problem import Problem
from recommender.runs import Runs

ALPHA = 0.0025
"""P(noise alone would look like what is called a change) in the first test; 1/√K of it in the K-th. Tests share runs: 1/K would
be too much, and would make the first ones, which know least of the noise, the most lenient."""
ALPHA_ALONE = 0.01
"""The same of one run that deviates by itself, of which only a warning comes."""
PRIOR, PRIOR_DOF = 0.06, 3.0
"""Deviation of ln(runtime) that is believed before any repetition, and the degrees of freedom that it counts for. More than
typical noise (2.5 %, median of Lumos): two pairs that happen to agree do not show that a noisy workload is quiet."""
LEAST = float(np.log(1.25))
"""Least change of ln(runtime): less is not worth the runs before it."""
LEAST_ALONE = float(np.log(1.75))
"""The same against a single run before, which is as likely to be the odd one."""
TAILS = 6.0
"""Most degrees of freedom ever believed: runtimes have heavier tails than the normal."""
OUTLIER = 3.0
"""Robust standard deviations to which a residual is cut where the noise is estimated."""
WINDOWS = (2, 3, 5, 8, 13)
"""Numbers of latest runs again that are held against those before them."""
DIFFERS = float(np.log(2.0))
"""Difference of ln(runtime) of repetitions from which on they are called different where no order can tell why."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Change:
    """What happened last; positions in the order of time."""

    start: int = 0
    """First run since the last change; 0: none."""
    apart: float = 0.0
    """δ of it."""
    doubt: int | None = None
    """The last run again, where it deviates and no other agrees yet."""
    doubt_apart: float = 0.0
    """e of it."""


@dataclass(frozen=True)
class _Segment:
    """Runs between two changes."""

    start: int
    squares: float
    """Of the residuals in all segments before it, and of the prior."""
    dof: float
    """Degrees of freedom of those."""
    apart: float
    """δ by which it differs from the one before."""


@dataclass(frozen=True, eq=False)
class _Sums:
    """Cumulative sums by configuration, (runs + 1, configurations): what a window holds is a difference of two rows."""

    group: Rows
    run: Array
    """x of each run, about its configuration's mean."""
    count: Array
    x: Array
    x2: Array

    @staticmethod
    def of(group: Rows, x: Array) -> _Sums:
        """Of runs in the order of time."""
        one = np.zeros((len(x) + 1, int(group.max(initial=-1)) + 1))
        one[np.arange(1, len(x) + 1), group] = 1.0
        run = x - (np.bincount(group, x) / np.maximum(np.bincount(group), 1))[group]  # what is added up stays small
        each = np.concatenate([[0.0], run])[:, None]
        return _Sums(group, run, *(np.cumsum(part, axis=0) for part in (one, one * each, one * each**2)))

    def squares(self, start: int, stop: int) -> float:
        """Sum of squares of x in [start, stop) about the means of configurations."""
        n, x, x2 = (part[stop] - part[start] for part in (self.count, self.x, self.x2))
        return max(float((x2 - x**2 / np.maximum(n, 1.0)).sum()), 0.0)


def since_change(problem: Problem, runs: Runs) -> tuple[Runs, tuple[str, ...]]:
    """The runs since the workload last changed, and what happened in words; all of them and () where nothing did.

    Only runs that all say when they started can be put in order; where repetitions of others differ, that is said.
    """
    frame = _ordered(runs)
    if frame is None:
        return runs, _said(_unordered(problem, runs.frame), _other_inputs(problem, runs.frame))
    row, other = _whole(problem, frame), _other_inputs(problem, frame)
    found = _last_change(row.tobytes(), np.log(frame["runtime_s"].to_numpy(float)).tobytes())
    maybe = "" if found.doubt is None else _doubt(problem, frame.iloc[found.doubt], row[found.doubt], found.doubt_apart)
    if not found.start:
        return runs, _said(maybe, other)
    start = found.start
    earlier = [i for i in dict.fromkeys(map(int, row[:start])) if i >= 0 and i not in row[start:]]
    said = _sentence(problem, frame.iloc[start], int(row[start]), found.apart, earlier)
    return Runs(frame.iloc[start:].reset_index(drop=True)), _said(said, maybe, other)


def doubtful(problem: Problem, runs: Runs) -> int | None:
    """The configuration whose last run deviates so that the workload may have changed; None where nothing is in doubt."""
    frame = _ordered(runs)
    if frame is None:
        return None
    row = _whole(problem, frame)
    found = _last_change(row.tobytes(), np.log(frame["runtime_s"].to_numpy(float)).tobytes())
    return None if found.doubt is None else int(row[found.doubt])


def _ordered(runs: Runs) -> pd.DataFrame | None:
    """The runs in the order of time; None where there is none, or nothing to order."""
    frame = runs.frame
    if len(frame) < 2 or frame["started_at"].isna().any():
        return None
    return frame.iloc[np.argsort(frame["started_at"].to_numpy(), kind="stable")].reset_index(drop=True)


@lru_cache(maxsize=8)
def _last_change(rows: bytes, log_runtimes: bytes) -> Change:
    """The last change of runs in the order of time, by the bytes of their configurations (-1: says nothing) and x.

    Kept: design, model and answer each ask.
    """
    row, log_t = np.frombuffer(rows, dtype=np.intp), np.frombuffer(log_runtimes)
    place = np.flatnonzero(row >= 0)
    _, group = np.unique(row[place], return_inverse=True)
    x = log_t[place]
    sums = _Sums.of(group, x)
    found = [_Segment(0, PRIOR_DOF * PRIOR**2, PRIOR_DOF, 0.0)]
    again, tests = list[int](), 0  # since the last change
    for t in _again(group, 0, len(x)):
        now = found[-1]
        if sums.count[t, group[t]] == sums.count[now.start, group[t]]:
            continue
        again.append(t)
        for w in (w for w in WINDOWS if w <= len(again)):
            s, tests = again[-w], tests + 1
            moved = _shift(sums, now, s, t + 1, ALPHA / np.sqrt(tests))
            if moved is not None:
                residual, free = _within(group[now.start : s], x[now.start : s])
                found.append(_Segment(s, now.squares + residual, now.dof + free, moved))
                again = _again(group, s, t + 1)
                break
        else:
            while len(found) > 1 and _shift(sums, found[-2], found[-1].start, t + 1, ALPHA) is None:  # in hindsight
                found.pop()
                again = _again(group, found[-1].start, t + 1)
    now = found[-1]
    first = int(place[now.start]) if now.start else 0
    if not again:
        return Change(first, now.apart)
    last = again[-1]
    rest = np.delete(np.arange(now.start, len(x)), last - now.start)
    residual, free = _within(group[rest], x[rest])
    before = x[now.start : last][group[now.start : last] == group[last]]
    e, dof = float(x[last] - before.mean()), now.dof + free
    deviation = np.sqrt((now.squares + residual) / dof * (1.0 + 1.0 / len(before)))
    if abs(e) <= LEAST or _chance(e / deviation, dof) >= ALPHA_ALONE:
        return Change(first, now.apart)
    return Change(first, now.apart, int(place[last]), e)


def _again(group: Rows, start: int, stop: int) -> list[int]:
    """Runs in [start, stop) of a group that ran before in it."""
    first = set(np.unique(group[start:stop], return_index=True)[1].tolist())
    return [start + i for i in range(stop - start) if i not in first]


def _shift(sums: _Sums, now: _Segment, s: int, stop: int, alpha: float) -> float | None:
    """δ of the runs from s to `stop` against those of `now` before; None where noise looks so with P of `alpha` or more."""
    after = sums.group[s:stop]
    ran = sums.count[s, after] - sums.count[now.start, after]
    e = (sums.run[s:stop] - (sums.x[s, after] - sums.x[now.start, after]) / np.maximum(ran, 1.0))[ran > 0]
    if len(e) < 2:
        return None
    sign = float(np.sign(e.sum()))
    delta = _most(sign * e)
    if delta <= LEAST:
        return None
    n, m = sums.count[s] - sums.count[now.start], sums.count[stop] - sums.count[s]
    both = (n > 0) & (m > 0)
    n, m = n[both], m[both]
    moved = (sums.x[stop] - sums.x[s])[both] / m - (sums.x[s] - sums.x[now.start])[both] / n
    delta = min(delta, _most(sign * moved))
    if delta <= (LEAST if n.sum() > 1 else LEAST_ALONE):
        return None
    weight = n * m / (n + m)
    total, level_shift = float(weight.sum()), float(weight @ moved) / float(weight.sum())
    # Most changes are clear even by residuals that are not cut, and those need no look at every run.
    within = sums.squares(now.start, s) + sums.squares(s, stop) + float(weight @ (moved - level_shift) ** 2)
    dof = now.dof + stop - now.start - int((sums.count[stop] > sums.count[now.start]).sum()) - 1
    if _chance(delta * np.sqrt(total * dof / (now.squares + within)), dof) >= alpha:
        x = np.concatenate([sums.run[now.start : s], sums.run[s:stop] - level_shift])
        within, _ = _within(sums.group[now.start : stop], x)
        if _chance(delta * np.sqrt(total * dof / (now.squares + within)), dof) >= alpha:
            return None
    return sign * delta


def _most(e: Array) -> float:
    """What more than half, and two at least of two, reach."""
    return float(np.sort(e)[::-1][len(e) // 2])


def _within(group: Rows, x: Array) -> tuple[float, int]:
    """Sum of squares about the means of groups, outliers cut to OUTLIER robust deviations, and its degrees of freedom."""
    count = np.bincount(group)
    dof = len(x) - int((count > 0).sum())
    if dof <= 0:
        return 0.0, 0
    residual = np.abs(x - (np.bincount(group, x) / np.maximum(count, 1))[group])[count[group] > 1]
    robust = float(np.median(residual)) / MAD * np.sqrt(len(residual) / dof)
    return float((np.minimum(residual, OUTLIER * max(robust, PRIOR)) ** 2).sum()), dof


def _chance(t: float, dof: float) -> float:
    """P(|t_dof| > |t|)."""
    return 2.0 * float(stdtr(min(dof, TAILS), -abs(t)))


def _said(*sentences: str) -> tuple[str, ...]:
    return tuple(s for s in sentences if s)


def _other_inputs(problem: Problem, frame: pd.DataFrame) -> str:
    """That the recorded input grew (or shrank) between runs of one configuration, in words; '' where none did.

    Only a configuration that completed at both inputs tells a recurring workload from a profile, whose inputs differ on
    purpose. `started_at`, where all runs have it, must put one input after the other.
    """
    column = scale_column([c for c in problem.inputs if c in frame])
    if column is None:
        return ""
    asked, size = problem.inputs[column], frame[column].to_numpy(float)
    row = configuration_rows(problem, frame)
    done = (row >= 0) & (frame["status"] == "completed").to_numpy() & np.isfinite(size)
    here = done & np.isclose(size, asked, rtol=1e-9)
    other = done & ~here
    started = frame["started_at"]
    if not (set(row[here]) & set(row[other])) or started.isna().any() or started[other].max() >= started[here].min():
        return ""
    before = float(size[other][started[other].to_numpy().argmax()])
    return (
        f"the workload's {column} {'grew' if asked > before else 'shrank'} from {before:g} to {asked:g} with its run of "
        f"{started[here].min():%Y-%m-%d %H:%M}: its {int(other.sum())} runs before it are not of what is asked about"
    )


def _unordered(problem: Problem, frame: pd.DataFrame) -> str:
    """That a change cannot be seen though repetitions differ as after one; '' where they agree."""
    row, log_t = _whole(problem, frame), np.log(frame["runtime_s"].to_numpy(float))
    apart = pd.Series(log_t[row >= 0]).groupby(row[row >= 0]).agg(np.ptp)
    if not len(apart) or apart.max() <= DIFFERS:
        return ""
    missing = int(frame["started_at"].isna().sum())
    return (
        f"the workload's own repetitions on {problem.candidates.configuration(int(apart.index.to_numpy()[apart.to_numpy().argmax()])).label} differ "
        f"{np.exp(apart.max()):.1f} x, and {missing} of its {len(frame)} runs do not say when they started: add started_at so "
        "that a change can be seen; their mean may be of two different workloads"
    )


def _whole(problem: Problem, frame: pd.DataFrame) -> Rows:
    """Configuration of each completed run of all its vCPUs at the input asked about; -1 for other runs."""
    row = configuration_rows(problem, frame)
    vcpus, used = problem.configurations["vcpus"].to_numpy(float)[row], frame["vcpus"].to_numpy(float)
    whole = (row >= 0) & (np.isnan(used) | np.isnan(vcpus) | (used >= vcpus)) & (frame["status"] == "completed")
    return np.where(whole & at_inputs(frame, problem.inputs), row, -1)


def _sentence(problem: Problem, run: pd.Series, row: int, apart: float, earlier: list[int]) -> str:
    label = np.array([problem.candidates.configuration(i).label for i in (row, *earlier)], dtype=object)
    again = f", and its reference configurations should be run again: {listed(label[1:])}" if earlier else ""
    return (
        f"the workload changed: its run of {run['started_at']:%Y-%m-%d %H:%M} on {label[0]} took "
        f"{np.exp(abs(apart)):.1f} x {'longer' if apart > 0 else 'shorter'} than those before it (its input "
        f"{'grew' if apart > 0 else 'shrank'}?); runs before it are left out{again}"
    )


def _doubt(problem: Problem, run: pd.Series, row: int, apart: float) -> str:
    return (
        f"the workload may have changed: its run of {run['started_at']:%Y-%m-%d %H:%M} on "
        f"{problem.candidates.configuration(int(row)).label} took {np.exp(abs(apart)):.1f} x "
        f"{'longer' if apart > 0 else 'shorter'} than those before it (its input {'grew' if apart > 0 else 'shrank'}?); run it or "
        "a reference configuration once more to tell: nothing is left out until a second run agrees"
    )
