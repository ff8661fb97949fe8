"""Bagged gradient-boosted trees over configurations: the surrogate of the strategy `trees`.

Notation and spread are those of `bagging`; the target is y_i = ln(runtime in s) + b_i with b_i the ln capacity of
configuration i (nodes x vCPUs x speed).

Boosted trees are often the best surrogate for cloud configurations (Bilal et al., VLDB 2020); bagging them for a spread
is our choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recommender.models import Array, Prediction
from recommender.models.bagging import Bag, Rows, bag, believed
from recommender.models.features import features
from recommender.problem import Problem
from recommender.runs import Runs

KEPT = (
    "by the model, in which most of the error of each candidate is its own, so that it promises less than it could; on a "
    "public table, promises of 80% and 90% were kept in 78 to 94% and 83 to 100% of 18 searches after 4 to 15 runs"
)
"""docs/benchmarks.md, 18 workloads of Scout x 1 seed."""


@dataclass(frozen=True)
class BaggedTrees:
    """Bootstrap of gradient-boosted regression trees."""

    members: int = 12
    stages: int = 30
    """Boosting stages of a member."""
    rate: float = 0.2
    depth: int = 2

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration; NaN while nothing completed at the input asked about."""
        from sklearn.ensemble import GradientBoostingRegressor  # type: ignore[import-untyped]

        space = features(problem)
        # The size of the whole cluster, which a tree cannot read off nodes and vCPUs apart.
        x = np.column_stack([space.x, space.work])

        def make(seed: int) -> Any:
            return GradientBoostingRegressor(
                n_estimators=self.stages, learning_rate=self.rate, max_depth=self.depth, random_state=seed
            )

        def grow(rows: Rows, target: Array, noise: float) -> Bag:
            return bag(x, rows, target, noise, members=self.members, seed=problem.seed, make=make)

        return replace(believed(problem, runs, space.work, grow)[0], kept=KEPT)
