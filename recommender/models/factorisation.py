"""Collaborative filtering: what other workloads already paid for, for a workload that was run once or twice.

Notation: as in `fold_in`; k own configurations measured. ln T_i ~ N(mean_i, (scale_k spread_i)²) with mean and spread
from the fold-in, and scale_k the root mean square of the standardised errors that k fold-in runs (as many of those judged as k is not
below) left on workloads held out of the archive.

Selecta (Klimovic et al. 2018): users are workloads, items are configurations, a rating is ln(runtime) less the
workload's level, activity counters are further items. The rank, and whether counters are used, are chosen for k on held-out
workloads (`Judged.choice`); where none beats the column mean, the column mean is used and the answer says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from recommender.models import (
    TRANSFERRED,
    Array,
    Measured,
    Prediction,
    configuration_rows,
    measured,
    nothing_known,
    with_measurements,
)
from recommender.models.archive import Archived, archived, completing_likewise, nothing_comparable
from recommender.models.completing import NEWS, completing, truncated_normal
from recommender.models.fold_in import FEWEST_WORKLOADS, Factorised, Fit, Folded
from recommender.models.held_out import REFERENCES, Judged, column_mean, judge
from recommender.models.kept import kept
from recommender.models.memory import MemoryLimit
from recommender.problem import Problem
from recommender.runs import Runs
from recommender.units import counted

RANKS = (1, 2, 4, 8)
"""Ranks that are tried."""
PRIOR_DOF = 4.0
"""ν: degrees of freedom that the archive's own spread counts for beside the workload's runs."""
UNLIKE = 1.5
"""Widening from which on it is said."""
UNLIKE_SAID = (
    "the workload's own runs differ from each other otherwise than the archive's workloads do on the same configurations: it is "
    "unlike them, or a run is odd; every interval is widened {:.1f} x"
)


@dataclass(frozen=True, eq=False)
class Taught:
    """What an archive taught: a fit chosen on held-out workloads."""

    name: str
    folded: Folded
    judged: Judged
    archive: Archived


class Describes(Protocol):
    """Says which neighbours an estimate rests on; a `Folded` may have it."""

    def remark(self, y: Array, x: Array) -> str:
        """What the estimate rests on, in words; '' for nothing in particular."""
        ...


@dataclass(frozen=True)
class Collaborative:
    """A model chosen among `fits` and the column mean by held-out regret, folding the workload's own runs in."""

    label: str
    """What the fits are called in messages."""
    fits: tuple[tuple[str, Fit], ...]
    """Name -> fit, in order of preference among equals. The column mean is added, last."""

    def taught(self, problem: Problem, runs: int = 0) -> Taught:
        """The fit chosen for so many own runs, on the whole archive; computed once.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of completed runs on the candidates.
        """
        a = archived(problem)
        fits = {n: f for n, f in self.fits if not getattr(f, "counters", False) or a.counters.names}
        judged = judge(problem, {**fits, **dict([column_mean()])})
        name = judged.choice(runs) if judged.counts else column_mean()[0]
        fitted = kept(problem, ("fitted", judged.fits[name]), lambda: judged.fits[name](problem, a))
        return Taught(name, fitted, judged, a)

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of configurations that the archive ran; NaN elsewhere.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of completed runs on the candidates.
        """
        a, seen = archived(problem), measured(problem, runs)
        y = np.where(seen.count > 0, seen.log_runtime, np.nan)[a.columns]
        x, counters = self._counters(problem, runs, a)
        k = int(np.isfinite(y).sum())
        taught = self.taught(problem, k)
        stopped = np.where(np.isnan(y), seen.censored_log[a.columns], -np.inf)
        mean, spread = _at_least(taught.folded, y, x, stopped)
        unlike = _unlike(taught, y, x, mean)
        if k:
            spread = spread * taught.judged.spread(taught.name, k) * unlike
        odd = (UNLIKE_SAID.format(unlike),) if unlike > UNLIKE else ()
        n = len(problem.configurations)
        wide, wide_spread = np.full(n, np.nan), np.full(n, np.nan)
        wide[a.columns], wide_spread[a.columns] = mean, np.where(np.isfinite(mean), spread, np.nan)
        memory = MemoryLimit.of(problem, runs)
        held = int(np.isfinite(stopped).sum())
        remark = self._remark(taught, y, x, k, held)
        base = nothing_known(problem)
        prediction = replace(
            base,
            log_runtime=wide,
            spread=wide_spread,
            evidence=np.full(n, TRANSFERRED, dtype=np.int8),
            completing=_completing(problem, seen, a),
            excluded=memory.excluded,
            reasons=memory.reasons,
            warnings=(*self._warnings(problem, runs, taught, k, held), *odd, *counters),
            binding=lambda i: remark + memory.remark(i),
        )
        return with_measurements(prediction, problem, runs)

    def _counters(self, problem: Problem, runs: Runs, a: Archived) -> tuple[Array, tuple[str, ...]]:
        frame = runs.completed
        if not len(frame) or not a.counters.names:
            return np.full(len(a.counters.names), np.nan), ()
        row = configuration_rows(problem, frame)
        place = np.full(len(problem.configurations) + 1, -1, dtype=np.intp)
        place[a.columns] = np.arange(len(a.columns))
        return a.counters.new(frame, place[row]), a.counters.unlike(frame, place[row])

    def _remark(self, taught: Taught, y: Array, x: Array, k: int, stopped: int) -> str:
        runs = f"folded in by {counted(k, 'configuration')} measured" if k else "none of its own runs used"
        if stopped:
            runs = f"{f'{runs}, at' if k else 'at'} least what {stopped} stopped at a time limit say{'s' if stopped == 1 else ''}"
        said = f"{taught.name} of {counted(taught.archive.workloads, 'other workload')}, {runs}"
        described = getattr(taught.folded, "remark", None)
        more = described(y, x) if described is not None and k else ""
        return f"{said}; {more}" if more else said

    def _warnings(self, problem: Problem, runs: Runs, taught: Taught, k: int, stopped: int) -> tuple[str, ...]:
        said = [*taught.archive.warnings, *taught.archive.counters.said]
        nothing = f"the workload itself has no completed run: its level is what {stopped} stopped at a time limit say at least"
        unknown = () if k else (nothing if stopped and not len(runs.completed) else nothing_comparable(runs),)
        judged, mean = taught.judged, column_mean()[0]
        if not judged.counts:
            count = taught.archive.workloads
            few = f"the archive holds {counted(count, 'workload')}"
            if count >= FEWEST_WORKLOADS:
                few += f", too few of which ran {REFERENCES + 1} configurations or more"
            said.append(
                f"{few}: nothing says how workloads differ, so the new one is taken to be like the average of them, and the "
                "spread is assumed"
            )
            return (*said, *unknown)
        shown = _shown(judged.counts[judged.at(k)])
        if taught.name == mean and self.fits:
            best = judged.choice(k, [name for name, _ in self.fits])
            regret, off = ([f(name, k) for name in (best, mean)] for f in (judged.regret, judged.off))
            said.append(
                f"on {judged.workloads(k)} held-out workloads with {shown} {self.label} chose no better than the column mean beyond chance "
                f"(value over the best {np.exp(regret[0]):.2f}, column mean {np.exp(regret[1]):.2f}; a runtime is off by "
                f"{np.expm1(off[0]):.0%}, column mean {np.expm1(off[1]):.0%}): the column mean is used"
            )
        if not k:
            return (*said, *unknown)
        left = judged.regret(taught.name, k)
        said.append(
            f"on {judged.workloads(k)} held-out workloads {shown} led to {np.expm1(left):.0%} over the best on average"
            + (
                ""
                if left < 0.1
                else ": they do not settle the choice; a search goes on (+ei behind the strategy's name)"
            )
        )
        return tuple(said)


def _completing(problem: Problem, seen: Measured, a: Archived) -> Array:
    """P(completing): the archive's share, after own failures that of the workloads that fared alike, and own memory limits."""
    if not seen.failures.any():
        return a.cells.completing
    return completing_likewise(problem, seen) * completing(problem, seen)


def _unlike(taught: Taught, y: Array, x: Array, expected: Array) -> float:
    """What a standard deviation is multiplied with where own runs contradict what the archive makes of each other; 1 where not.

    With z_s the standardised error of run s as predicted from the others, √((ν + (k − 1) mean z²)/(ν + k − 1)): the scale of
    a multivariate t given k runs, of which the level takes one (Shah, Wilson and Ghahramani 2014, eq. 6).
    """
    s = np.flatnonzero(np.isfinite(y) & np.isfinite(expected))
    if len(s) < 2:
        return 1.0
    z = np.empty(len(s))
    for place, i in enumerate(s):
        others = y.copy()
        others[i] = np.nan
        mean, spread = taught.folded.fold_in(others, x)
        z[place] = (y[i] - mean[i]) / (spread[i] * taught.judged.spread(taught.name, len(s) - 1))
    free = len(s) - 1.0
    return max(float(np.sqrt((PRIOR_DOF + free * np.mean(z**2)) / (PRIOR_DOF + free))), 1.0)


def _at_least(folded: Folded, y: Array, x: Array, stopped: Array) -> tuple[Array, Array]:
    """What the fold-in says, given also that ln(runtime) is above `stopped` (-inf: nothing stopped), (columns,).

    One after the other, the least expected first: each takes what such a run takes on average, given those before. Where
    nothing completed it is the level that is learnt, which is every column's, so what it narrows is narrowed everywhere.
    """
    mean, spread = folded.fold_in(y, x)
    completed = bool(np.isfinite(y).any())
    open_ = np.isfinite(stopped) & np.isfinite(mean)
    while open_.any():
        rows = np.flatnonzero(open_)
        c = rows[[((stopped - mean)[rows] / spread[rows]).argmax()]]
        open_[c] = False
        beyond, variance, above = truncated_normal(mean[c], spread[c], stopped[c])
        if above[0] >= NEWS:
            break  # nor do those that were more expected say anything
        y = y.copy()
        y[c] = beyond
        slower, known = folded.fold_in(y, x)
        mean = np.fmax(mean, slower)
        if not completed:
            spread = np.sqrt(np.fmax(spread**2 - (spread[c] ** 2 - variance), known**2))
    return mean, spread


def _shown(runs: int) -> str:
    """What held-out workloads were shown, in words: the references first, then the best on average."""
    reference = min(runs, REFERENCES)
    more = f" and {runs - reference} more" if runs > reference else ""
    return f"{reference} reference run{'s' if reference > 1 else ''}{more}"


def selecta() -> Collaborative:
    """Selecta's model: factorisations of several ranks, with and without activity counters."""
    ranks: Mapping[str, Fit] = {f"factorisation of rank {r}": Factorised(r) for r in RANKS}
    with_counters: Mapping[str, Fit] = {
        f"factorisation of rank {r} with activity counters": Factorised(r, counters=True) for r in RANKS
    }
    return Collaborative("the factorisation", tuple({**ranks, **with_counters}.items()))
