"""Strategies: one table from name to composition, and the automatic choice among them.

A strategy is two pure functions of the evidence. Third parties add theirs through the entry-point group
`recommender.strategies`: a factory without arguments that returns a `Strategy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np

from recommender.candidates import Configuration
from recommender.errors import RecommenderError, UnknownNameError, did_you_mean
from recommender.models import PerformanceModel, configuration_rows, measured
from recommender.models.ernest import MINIMUM_POINTS, Ernest, distinct_points
from recommender.models.yardsticks import BestFixed, ColumnMean, MeasuredOnly, PriceOnly
from recommender.problem import Problem
from recommender.ranking import rank
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs

ENTRY_POINT_GROUP = "recommender.strategies"


class Strategy(Protocol):
    """Two pure functions of the evidence: the same runs in any order give the same answer."""

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return the configuration to measure next, or None when nothing is worth measuring."""
        ...

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return ranked candidates, with what was excluded and why."""
        ...


class InitialDesign(Protocol):
    """What to measure, given what was measured."""

    def propose(
        self, problem: Problem, runs: Runs, rng: np.random.Generator, best: Recommendation | None
    ) -> Configuration | None:
        """Return the configuration to measure next, or None."""
        ...


@dataclass(frozen=True)
class ConfirmBest:
    """Measure what is recommended until it is measured and no unmeasured rival can be mistaken for it."""

    def propose(
        self, problem: Problem, runs: Runs, rng: np.random.Generator, best: Recommendation | None
    ) -> Configuration | None:
        """Return the recommendation's own next run."""
        return best.next_run if best else None


@dataclass(frozen=True)
class Uniform:
    """Measure unmeasured candidates in random order until none is left."""

    def propose(
        self, problem: Problem, runs: Runs, rng: np.random.Generator, best: Recommendation | None
    ) -> Configuration | None:
        """Return an unmeasured configuration, each with equal probability."""
        configurations = problem.configurations
        tried = np.zeros(len(configurations), dtype=bool)
        rows = configuration_rows(problem, runs.frame)
        tried[rows[rows >= 0]] = True
        left = np.flatnonzero(~tried)
        if not len(left):
            return None
        i = int(rng.choice(left))
        return NextRun(why="chosen at random", **vars(problem.candidates.configuration(i)))


@dataclass(frozen=True)
class ModelBased:
    """A model that believes, and a design that says what to measure."""

    name: str
    """The strategy's name."""
    why: str
    """What it does, in one sentence."""
    model: PerformanceModel
    """(problem, runs) -> prediction."""
    design: InitialDesign | None = ConfirmBest()
    """What to measure; None: nothing ever is."""

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return the ranked answer; `next_run` is empty for a strategy that measures nothing."""
        runs = canonical(runs)
        return rank(
            problem,
            self.model.predict(problem, runs),
            strategy=self.name,
            why=self.why,
            measure=self.design is not None,
        )

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return what the design proposes; randomness derives from (seed, number of runs) unless `rng` is given."""
        if self.design is None:
            return None
        best = None if isinstance(self.design, Uniform) else self.recommend(problem, runs)
        return self.design.propose(problem, canonical(runs), rng or problem.random(runs), best)


def canonical(runs: Runs) -> Runs:
    """The same runs in an order that does not depend on how they were given."""
    frame = runs.frame
    keys = ["workload", "instance_type", "node_count", "vcpus", *runs.inputs, *runs.params, "status", "runtime_s"]
    return replace(runs, frame=frame.sort_values(keys, kind="stable", ignore_index=True))


@dataclass(frozen=True)
class Choice:
    """What `auto` would do, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Auto:
    """Picks a strategy by what evidence there is, and says which and why.

    | completed runs of the workload itself     | archive on the candidates | strategy    |
    |-------------------------------------------|---------------------------|-------------|
    | at 3 or more distinct (scale, vCPUs)      | any                       | ernest      |
    | fewer                                     | yes                       | column-mean |
    | fewer, some on a candidate                | no                        | random      |
    | none on a candidate                       | no                        | price-only  |

    (`random` recommends the best that was measured.)
    """

    def choose(self, problem: Problem, runs: Runs) -> Choice:
        """Return the strategy's name and the reason, by the table above."""
        points, lacking = distinct_points(problem, runs)
        seen = f"completed runs at {points} distinct points of scale and vCPUs"
        if not len(runs):
            seen = f"no runs were given: {seen}"
        elif not len(runs.completed):
            seen = f"none of the {len(runs)} runs completed: {seen}"
        elif lacking:
            seen = f"{lacking}: {seen}"
        if points >= MINIMUM_POINTS:
            return Choice("ernest", f"{seen} are enough to fit how the workload scales")
        short = f"{seen} are fewer than the {MINIMUM_POINTS} a scaling model needs"
        if problem.archive is not None and (configuration_rows(problem, problem.archive.completed) >= 0).any():
            return Choice("column-mean", f"{short}, but other workloads were run on the candidates")
        if (measured(problem, runs).count > 0).any():
            return Choice(
                "random", f"{short} and there is no archive, so the best configuration measured is all that is known"
            )
        return Choice("price-only", f"{short}, and neither the candidates nor an archive on them were run")

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return the chosen strategy's answer, which says that it was chosen and why."""
        choice = self.choose(problem, runs)
        answer = strategy(choice.name).recommend(problem, runs)
        name = "random (recommend the best measured)" if choice.name == "random" else choice.name
        return replace(answer, why=f"auto chose {name}: {choice.why}")

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return the chosen strategy's suggestion."""
        return strategy(self.choose(problem, runs).name).suggest(problem, runs, rng=rng)


TABLE: dict[str, Callable[[], Strategy]] = {
    "auto": Auto,
    "ernest": lambda: ModelBased(
        "ernest", "scaling terms fitted to the workload's own runs (Venkataraman et al. 2016)", Ernest()
    ),
    "price-only": lambda: ModelBased(
        "price-only", "cheapest per hour among the candidates; runtimes are not considered", PriceOnly(), None
    ),
    "random": lambda: ModelBased(
        "random", "yardstick: recommends the best measured; measures at random", MeasuredOnly(shuffle=True), Uniform()
    ),
    "column-mean": lambda: ModelBased(
        "column-mean", "yardstick: what is fast for other workloads on average", ColumnMean()
    ),
    "best-fixed": lambda: ModelBased(
        "best-fixed", "yardstick: the configuration best for other workloads on average", BestFixed(), None
    ),
}


def strategies() -> dict[str, Callable[[], Strategy]]:
    """Every known strategy: the table's and those that installed packages add.

    Raises
    ------
    RecommenderError
        When a package adds a name that is taken.
    """
    found = dict(TABLE)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in found:
            raise RecommenderError(
                f"two strategies are named {point.name!r}; the one from {point.value} must be renamed or uninstalled"
            )
        found[point.name] = point.load()
    return found


def strategy(name: str) -> Strategy:
    """Return the strategy called `name`.

    Raises
    ------
    UnknownNameError
        With the nearest known name.
    """
    known = strategies()
    if name not in known:
        raise UnknownNameError(f"unknown strategy {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return known[name]()
