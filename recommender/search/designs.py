"""Initial designs: what to measure before anything is believed, or, for strategies that do not search, at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recommender.candidates import Configuration
from recommender.models import Array, configuration_rows, measured
from recommender.models.completing import completing, tried
from recommender.models.features import features
from recommender.models.memory import MemoryLimit
from recommender.problem import Problem
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs

HOPEFUL = 0.5
"""A design's point is passed over while its chance to complete is below this share of the best untried one's."""


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
        unmeasured = np.ones(len(configurations), dtype=bool)
        rows = configuration_rows(problem, runs.frame)
        unmeasured[rows[rows >= 0]] = False
        left = np.flatnonzero(unmeasured)
        if not len(left):
            return None
        i = int(rng.choice(left))
        return NextRun(why="chosen at random", **vars(problem.candidates.configuration(i)))


@dataclass(frozen=True)
class QuasiRandom:
    """A Sobol sequence (scrambled by the problem's seed) mapped onto the nearest candidates, each taken once.

    The sequence depends on the problem alone, so that a resumed search goes on with it. It goes on until `starts`
    configurations completed, whoever chose them: a failed start is replaced by the next.
    """

    starts: int = 3
    """Configurations that complete before a model is asked."""

    def propose(
        self, problem: Problem, runs: Runs, rng: np.random.Generator, best: Recommendation | None
    ) -> Configuration | None:
        """Return the sequence's next untried configuration that may complete; None when there were enough."""
        seen = measured(problem, runs)
        open_ = ~tried(seen) & (MemoryLimit.of(problem, runs).excluded == 0)
        have = int((seen.count > 0).sum())
        if have >= self.starts or not open_.any():
            return None
        chance = completing(problem, seen)
        open_ &= chance >= HOPEFUL * chance[open_].max()
        row = next(i for i in sobol_order(features(problem).x, problem.seed) if open_[i])
        return NextRun(
            why=f"start {have + 1} of {self.starts}: spread over the candidates before a model is asked",
            **vars(problem.candidates.configuration(row)),
        )


def sobol_order(x: Array, seed: int) -> Iterator[int]:
    """Rows of `x` (candidates in the unit cube, (n, d)), each once: nearest to the points of a scrambled Sobol sequence.

    Among equally near ones the first row; a point takes the nearest row that is not taken yet.
    """
    from scipy.stats import qmc

    sequence = qmc.Sobol(x.shape[1], scramble=True, rng=np.random.default_rng(seed))
    # Features differ in reach, and what spans little deserves few of the points' differences: the cube is the hull's.
    reach = x.max(axis=0)
    left = np.ones(len(x), dtype=bool)
    while left.any():
        for point in sequence.random(8) * reach:
            distance = np.where(left, ((x - point) ** 2).sum(axis=1), np.inf)
            row = int(distance.argmin())
            left[row] = False
            yield row
            if not left.any():
                return
