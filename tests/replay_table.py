"""A recorded table small enough to work out by hand, for the tests of the replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recommender.candidates import Configuration
from recommender.errors import InsufficientEvidenceError
from recommender.problem import Problem
from recommender.recommendation import Recommendation
from recommender.runs import Runs
from recommender.strategies import strategy

CANDIDATES = pd.DataFrame(
    {"instance_type": list("abcd"), "node_count": [1, 1, 2, 1], "usd_per_hour": [36.0, 72.0, 36.0, 18.0]}
)
"""USD a second of the whole cluster: a .01, b .02, c .02, d .005."""

ROWS = (
    ("one", "a", 1, 100.0, "completed", None),  # 1.00 USD
    ("one", "b", 1, 40.0, "completed", None),  # 0.80, the cheapest: the optimum
    ("one", "b", 1, 60.0, "completed", None),  # 1.20, so b costs 1.00 on average: a tie with a
    ("one", "c", 2, 10.0, "failed", None),  # 0.20, and is paid
    ("one", "d", 1, 300.0, "completed", None),  # 1.50
    ("two", "a", 1, 200.0, "completed", None),  # 2.00
    ("two", "b", 1, 80.0, "completed", None),  # 1.60
    ("two", "c", 2, 90.0, "completed", 1.25),  # 1.80 by the list, but billed 1.25: the optimum
    ("two", "d", 1, 500.0, "timed_out", None),  # 2.50
)


def table(*more: tuple[Any, ...]) -> pd.DataFrame:
    """The recorded runs."""
    columns = ["workload", "instance_type", "node_count", "runtime_s", "status", "cost_usd"]
    return pd.DataFrame([*ROWS, *more], columns=columns).astype({"cost_usd": float})


@dataclass(frozen=True)
class Scripted:
    """Measures what it is told to, in order; recommends the best measured."""

    script: tuple[str, ...]
    nodes: int = 1

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        if len(runs) == len(self.script):
            return None
        kind = self.script[len(runs)]
        return Configuration(instance_type=kind, node_count=2 if kind == "c" else self.nodes)

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        if not len(runs):
            raise InsufficientEvidenceError("nothing was measured")
        return strategy("random").recommend(problem, runs)


@dataclass(frozen=True)
class Mute:
    """Never has enough evidence for anything."""

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        raise InsufficientEvidenceError("not enough")

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        raise InsufficientEvidenceError("not enough")
