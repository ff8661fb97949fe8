"""CloudBandit (Lazuka et al., IEEE CLOUD 2022): providers as the arms of a bandit, any search inside each.

Notation
--------
K  arms      b  runs an arm gets in the first round      η  growth of the budget from round to round

Round m = 1 ... K: every arm still active is searched for b η^(m−1) further runs; then the arm whose best feasible run is
worst is dropped. K b + (K − 1) b η + ... + b η^(K−1) runs in all (11 b for three arms and η = 2). Best-so-far only falls
as an arm is searched ("rising bandit"), so the dropped arm is still the worst when the history is read again, and the
state of the bandit is a function of the runs alone.

Our choices, the paper leaving them open or not applying: an arm that has no feasible run is worst, and among several of
those the one that failed most often; ties drop the last in sorted order; runs that the user made count; an arm
cannot be given more runs than it has configurations; the recommendation comes from one model over all arms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recommender.candidates import Candidates, Configuration
from recommender.errors import UnknownNameError, did_you_mean
from recommender.models import measured
from recommender.models.completing import tried
from recommender.problem import Problem
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs
from recommender.search.acquisition import feasible_values
from recommender.search.stopping import over_budget

Indices = npt.NDArray[np.intp]


class Search(Protocol):
    """The strategy inside an arm."""

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return the configuration to measure next, or None."""
        ...

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return ranked candidates."""
        ...


@dataclass(frozen=True)
class CloudBandit:
    """Successive elimination of arms, each searched by `inner`."""

    name: str
    """The strategy's name."""
    why: str
    """What it does, in one sentence."""
    inner: Search
    """Searches one arm's candidates; without a stopping rule, since the bandit says how many runs an arm gets."""
    first: int = 3
    """b."""
    growth: int = 2
    """η; the paper's value."""
    column: str | None = None
    """Column of the candidates that names the arm; None: `feature.provider`, else the instance family (the type outside
    the catalogue)."""

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return the next run of the arm whose turn it is; None when the last arm has had its last round."""
        arms = self.arms(problem)
        exhausted: set[str] = set()
        while waiting := self._turn(problem, runs, arms, exhausted):
            name = waiting[0]
            found = self.inner.suggest(restricted(problem, arms[name]), runs, rng=rng)
            if over_budget(problem, runs, found):
                return None
            if found is not None:
                plain = {"why": "proposed by the arm's search", **vars(found)}
                return NextRun(**plain | {"why": f"arm {name}: {plain['why']}"})
            exhausted.add(name)
        return None

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return the answer of the inner strategy's model over all arms."""
        following = self.suggest(problem, runs)
        answer = self.inner.recommend(problem, runs)
        said = tuple(w for w in answer.warnings if not w.startswith("nothing more is worth measuring"))
        shown = NextRun(**vars(following)) if following is not None else None
        return replace(answer, strategy=self.name, why=self.why, next_run=shown, warnings=said)

    def arms(self, problem: Problem) -> dict[str, Indices]:
        """Arm -> rows of its configurations, sorted by name.

        Raises
        ------
        UnknownNameError
            For a column that the candidates do not have.
        """
        table = problem.configurations
        if self.column is not None and self.column not in table:
            raise UnknownNameError(
                f"the candidates have no column {self.column!r}{did_you_mean(self.column, map(str, table))} to tell arms apart by"
            )
        column = self.column or ("feature.provider" if "feature.provider" in table else "family")
        cells = table[column].astype(object).where(table[column].notna(), "").astype(str)
        if column == "family":
            cells = cells.where(cells != "", table["instance_type"])
        names, first = np.unique(cells.to_numpy(str), return_inverse=True)
        return {str(name): np.flatnonzero(first == i) for i, name in enumerate(names)}

    def _turn(self, problem: Problem, runs: Runs, arms: dict[str, Indices], exhausted: set[str]) -> list[str]:
        """Active arms that have not had their runs of this round, fewest runs first; exhausted ones never wait."""
        seen = measured(problem, runs)
        value, had = feasible_values(problem, seen.log_runtime), tried(seen)
        best = {name: float(np.min(value[rows], initial=np.inf)) for name, rows in arms.items()}
        spent = {name: int(had[rows].sum()) for name, rows in arms.items()}
        failed = {name: int((had[rows] & ~np.isfinite(value[rows])).sum()) for name, rows in arms.items()}
        active, share = sorted(arms), 0
        for step in range(len(arms)):
            share += self.first * self.growth**step
            waiting = [n for n in active if n not in exhausted and spent[n] < min(share, len(arms[n]))]
            if waiting:
                return sorted(waiting, key=lambda name: (spent[name], name))
            active.remove(max(active, key=lambda name: (best[name], failed[name], name)))
        return []


def restricted(problem: Problem, rows: Indices) -> Problem:
    """The problem with only some of its configurations, and their offers."""
    candidates = problem.candidates
    position = np.full(len(candidates.configurations), -1)
    position[rows] = np.arange(len(rows))
    offers = candidates.offers
    kept = np.flatnonzero(position[offers.configuration] >= 0)
    return replace(
        problem,
        search_budget_usd=None,  # what other arms' runs cost could not be told here
        candidates=Candidates(
            candidates.configurations.iloc[rows].reset_index(drop=True),
            replace(
                offers,
                configuration=position[offers.configuration[kept]].astype(np.int32),
                region=offers.region[kept],
                usd_per_hour=offers.usd_per_hour[kept],
                quality=offers.quality[kept],
                nodes=offers.nodes[kept],
                minimum_s=offers.minimum_s[kept],
                family=offers.family[kept],
                overrides={name: values[kept] for name, values in offers.overrides.items()},
                factors={name: values[kept] for name, values in offers.factors.items()},
            ),
            candidates.exclusions,
        ),
    )
