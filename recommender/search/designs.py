"""Initial designs: what to measure before anything is believed, or, for strategies that do not search, at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recommender.candidates import Configuration
from recommender.models import Array, PerformanceModel, configuration_rows, measured
from recommender.models.completing import completing, tried
from recommender.models.features import features
from recommender.models.memory import MemoryLimit
from recommender.problem import Problem
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs
from recommender.search.stopping import bearable

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


@dataclass(frozen=True)
class LatinHypercube:
    """Lynceus' start: a Latin hypercube over a share of the space, mapped onto the nearest candidates, each taken once.

    The points depend on the problem alone. Our choices: a start that the search budget may not bear, by what `model`
    believes after the first runs, is passed over for the next point; further hypercubes follow until a run completed; and
    the share is bounded, since the paper's spaces have some hundred configurations.
    """

    model: PerformanceModel
    """Believes what a start costs, once a run completed."""
    share: float = 0.03
    """Share of the candidates that are tried before a model chooses."""
    least: int = 3
    """Starts at least."""
    most: int = 30
    """Starts at most."""

    def propose(
        self, problem: Problem, runs: Runs, rng: np.random.Generator, best: Recommendation | None
    ) -> Configuration | None:
        """Return the next untried point that may complete and that the search budget bears; None when there were enough."""
        seen, n = measured(problem, runs), len(problem.configurations)
        starts = min(self.most, max(self.least, round(self.share * n)))
        done = tried(seen)
        open_ = ~done & (MemoryLimit.of(problem, runs).excluded == 0)
        if not open_.any() or (done.sum() >= starts and (seen.count > 0).any()):
            return None
        chance = completing(problem, seen)
        open_ &= chance >= HOPEFUL * chance[open_].max()
        if problem.search_budget_usd is not None:
            able = open_ & bearable(problem, runs, self.model.predict(problem, runs))
            if not able.any() and (seen.count > 0).any():
                return None
            open_ = able if able.any() else open_  # then the stopping rule says why not
        row = next(i for i in hypercube_order(features(problem).x, starts, problem.seed) if open_[i])
        return NextRun(
            why=f"start {int(done.sum()) + 1} of {starts}: spread over the candidates before a model chooses",
            **vars(problem.candidates.configuration(row)),
        )


def sobol_order(x: Array, seed: int) -> Iterator[int]:
    """Rows of `x` (candidates in the unit cube, (n, d)), each once: nearest to the points of a scrambled Sobol sequence."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(x.shape[1], scramble=True, rng=np.random.default_rng(seed))
    return _nearest(x, lambda: sequence.random(8))


def hypercube_order(x: Array, points: int, seed: int) -> Iterator[int]:
    """Rows of `x`, each once: nearest to the points of Latin hypercubes of `points` points, one after the other."""
    from scipy.stats import qmc

    hypercube = qmc.LatinHypercube(x.shape[1], rng=np.random.default_rng(seed))
    return _nearest(x, lambda: hypercube.random(points))


def _nearest(x: Array, more: Callable[[], Array]) -> Iterator[int]:
    """The row nearest to each point that is not taken yet; among equally near ones the first."""
    # Features differ in reach, and what spans little deserves few of the points' differences: the cube is the hull's.
    reach = x.max(axis=0)
    left = np.ones(len(x), dtype=bool)
    while left.any():
        for point in more() * reach:
            distance = np.where(left, ((x - point) ** 2).sum(axis=1), np.inf)
            row = int(distance.argmin())
            left[row] = False
            yield row
            if not left.any():
                return
