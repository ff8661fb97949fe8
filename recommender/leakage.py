"""Leakage: an archive that holds the answer under another name makes every strategy that reads it look good.

Notation: d[i] = ln T_other(i) − ln T_asked(i) over the configurations i that both completed, T the geometric mean of the
repetitions. The other workload is a copy, up to a constant factor, where most d[i] equal their median.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recommender.models import Array, configuration_rows
from recommender.problem import Problem
from recommender.replay import Environment
from recommender.runs import Runs

EQUAL = ((1e-3, 4), (1e-2, 10))
"""Largest |d[i] − median d| of what counts as equal, and the fewest configurations, of as many different runtimes, that must
be: 0.1 % is below the noise of repeated runs; 1 % (a copy that was rounded, or blurred) is so on many at once."""
MOST = 0.5
"""More than this share of the shared configurations must be equal."""


def leakage(worlds: Iterable[Environment]) -> list[str]:
    """Return a sentence for each workload of an archive that is a copy of the one asked about."""
    return [sentence for world in worlds for sentence in _copies(world)]


def _copies(world: Environment) -> list[str]:
    problem, archive = world.problem, world.problem.archive
    if archive is None:
        return []
    (_, (mine, *_)), (names, others) = _contexts(problem, world.recorded), _contexts(problem, archive)
    found = dict[str, str]()
    for name, other in zip(names, others, strict=True):
        shared = np.flatnonzero(np.isfinite(other) & np.isfinite(mine))
        gap = other[shared] - mine[shared]
        factor = float(np.median(gap)) if len(gap) else 0.0
        for largest, fewest in EQUAL:
            equal = shared[np.abs(gap - factor) <= largest]
            different = np.unique((mine[equal] / largest).round()).size
            if len(equal) > MOST * len(shared) and different >= fewest:
                found[name] = (
                    f"leakage: the archive of {problem.workload} holds its answer under another name: the runtimes of {name} "
                    f"are {np.exp(factor):.4g} times its own on {len(equal)} of {len(shared)} shared configurations, to "
                    f"{largest:.1%}, so what reads the archive looks better here than it is; give both the same application, or "
                    "remove one"
                )
                break
    return list(found.values())


def _contexts(problem: Problem, runs: Runs) -> tuple[list[str], Array]:
    """Workloads, each at one input, and the mean ln(runtime) of their completed runs, (contexts, candidates); NaN: none."""
    frame, n = runs.completed, len(problem.configurations)
    row = configuration_rows(problem, frame)
    frame, row = frame[row >= 0], row[row >= 0]
    groups = frame.groupby(["workload", *runs.inputs], dropna=False, sort=True)
    cell = groups.ngroup().to_numpy() * n + row
    names = [str(key[0]) for key in groups.size().index.to_frame(index=False).itertuples(index=False)]
    count = np.bincount(cell, minlength=len(names) * n)
    total = np.bincount(cell, np.log(frame["runtime_s"].to_numpy(float)), minlength=len(names) * n)
    mean: Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return names, mean.reshape(len(names), n)
