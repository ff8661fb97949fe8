"""Pending runs: those asked for and not yet told, believed in until they are, so that several can be made at once.

Kriging believer: a pending run counts as completed in the median time expected of it. Constant liar: where nothing was
expected, as completed in the longest time measured of any configuration, so that it spreads the next choices and never
passes for the best. (Ginsbourger, Le Riche and Carraro 2010, "Kriging is well-suited to parallelize optimization", 3.2.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from recommender.candidates import Configuration
from recommender.models import measured
from recommender.problem import Problem
from recommender.recommendation import NextRun
from recommender.runs import Runs
from recommender.search.stopping import over_budget
from recommender.strategies import Strategy

TRIED_S = 1.0
"""Length of a failed run that stands for "tried", where no run completed from which a time could be taken."""


def with_pending(problem: Problem, runs: Runs, pending: Sequence[NextRun]) -> Runs:
    """Return `runs` and one believed run for each of `pending`, at the input asked about.

    Only for choosing what to measure next: a recommendation must not rest on them.
    """
    if not pending:
        return runs
    seen = measured(problem, runs).log_runtime
    lie_s = float(np.exp(np.nanmax(seen))) if np.isfinite(seen).any() else None
    # Runs that all say when they started are put in order: pending ones come last.
    started, rows = runs.frame["started_at"], []
    for run in pending:
        believed_s = run.expected_runtime_s or lie_s
        rows.append(
            {
                "workload": problem.workload or "unmeasured",
                "instance_type": run.instance_type,
                "node_count": run.node_count,
                # Where nothing was ever measured, the configuration counts as tried and nothing else.
                "runtime_s": believed_s or TRIED_S,
                "status": "completed" if believed_s else "failed",
                **(
                    {"started_at": started.max() + pd.Timedelta(seconds=1)}
                    if len(started) and started.notna().all()
                    else {}
                ),
                **problem.inputs,
                **run.params,
            }
        )
    known = runs.frame.dropna(axis="columns", how="all").astype(object)
    return Runs.from_frame(pd.concat([known, pd.DataFrame(rows, dtype=object)], ignore_index=True))


def batch(
    chosen: Strategy, problem: Problem, runs: Runs, count: int, *, pending: Sequence[NextRun] = ()
) -> list[NextRun]:
    """Up to `count` different configurations to measure at once, best first; empty when none is worth it.

    Each is suggested as if the `pending` ones and those before it had been run. None is pending already: a strategy that
    insists on one has nothing else worth measuring until that is told.
    """
    found: list[NextRun] = []
    for _ in range(count):
        believed = with_pending(problem, runs, [*pending, *found])
        proposed = chosen.suggest(problem, believed)
        if over_budget(problem, believed, proposed):
            break
        if proposed is None or any(same(proposed, run) for run in (*pending, *found)):
            break
        plain = {"why": "proposed by the strategy", **vars(proposed)}
        found.append(NextRun(**plain))
    return found


def same(one: Configuration, other: Configuration) -> bool:
    """Whether two are one configuration, in whatever order their parameters are."""
    return (one.instance_type, one.node_count, dict(one.params)) == (
        other.instance_type,
        other.node_count,
        dict(other.params),
    )
