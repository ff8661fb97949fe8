"""Reference configurations: the few runs of a new workload that an archive makes most of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recommender.models import Array, Measured, measured
from recommender.models.archive import archived, completing_likewise
from recommender.models.completing import completing, tried
from recommender.models.drift import doubtful
from recommender.models.held_out import folds, next_reference
from recommender.models.memory import MemoryLimit
from recommender.models.yardsticks import ColumnMean
from recommender.problem import Problem
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs
from recommender.search.acquisition import run_cost_usd


@dataclass(frozen=True)
class References:
    """Measure the configurations by which held-out workloads of the archive were best judged, then what is recommended.

    Chosen greedily, each given those already measured, so a reference that failed is replaced by the next best: of those more
    likely to complete than not, and believed to finish within the limit that others were stopped at, while there are any. After a
    change of the workload those measured before it come first: what they took then is known. Where one run alone says that it
    changed, another reference is measured again to tell; the one that deviates where there is no other.
    """

    count: int = 2
    """Completed runs on configurations of the archive that are enough."""

    def propose(
        self,
        problem: Problem,
        runs: Runs,
        rng: np.random.Generator,
        best: Recommendation | None,
        *,
        earlier: Runs | None = None,
    ) -> NextRun | None:
        """Return the next reference; once there are enough, the recommendation's own next run.

        `earlier`: also what was run before the workload changed; None: it did not change.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of runs on the candidates.
        """
        before = measured(problem, earlier or runs).count > 0
        seen, a = measured(problem, runs), archived(problem)
        have = a.columns[seen.count[a.columns] > 0]
        doubt = doubtful(problem, earlier or runs)
        if doubt is not None:
            other = have[have != doubt]
            open_ = np.isin(np.arange(len(problem.configurations)), other)
            found = next_reference(problem, (), open_) if len(other) else None
            return self._again(problem, doubt if found is None else found, seen.log_runtime)
        if len(have) >= min(self.count, len(a.columns)):
            return best.next_run if best else None
        expected = ColumnMean().predict(problem, runs).log_runtime
        open_ = _worth_trying(problem, seen, expected) & (MemoryLimit.of(problem, runs).excluded == 0)
        chosen = tuple(int(i) for i in have)
        row = next_reference(problem, chosen, open_ & before)  # none without a change: those measured are not open
        again = row is not None
        row = row if again else next_reference(problem, chosen, open_)
        if row is None:
            return best.next_run if best else None
        cost = run_cost_usd(problem, expected)[row]
        why = (
            "it was measured before the workload changed"
            if again
            else "with it the archive's held-out workloads were judged best"
            if folds(problem)
            else "the archive's best on average"
        )
        return NextRun(
            why=f"reference {len(have) + 1} of {self.count}: {why}",
            expected_runtime_s=float(np.exp(expected[row])),
            expected_cost_usd=float(cost) if np.isfinite(cost) else None,
            **vars(problem.candidates.configuration(row)),
        )

    @staticmethod
    def _again(problem: Problem, row: int, log_runtime: Array) -> NextRun:
        """Measure a configuration again, to take what it took."""
        cost = run_cost_usd(problem, log_runtime)[row]
        return NextRun(
            why="a reference again: the workload may have changed, and a second run that agrees tells",
            expected_runtime_s=float(np.exp(log_runtime[row])),
            expected_cost_usd=float(cost) if np.isfinite(cost) else None,
            **vars(problem.candidates.configuration(row)),
        )


def _worth_trying(problem: Problem, seen: Measured, expected: Array) -> npt.NDArray[np.bool_]:
    """Configurations not tried; of them those that what failed or was stopped does not speak against, where there are any."""
    open_ = ~tried(seen)
    stopped = np.max(seen.censored_log, initial=-np.inf)
    limit = stopped if np.isfinite(stopped) else np.inf
    likely = (completing, completing_likewise) if seen.failures.any() else ()
    for sound in (~(expected > limit), *(chance(problem, seen) > 0.5 for chance in likely)):
        if (open_ & sound & np.isfinite(expected)).any():
            open_ = open_ & sound
    return open_
