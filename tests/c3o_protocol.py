"""How Ernest is judged on C3O: trained on the smaller half of what was measured, asked about the larger half.

A point is one (node count, inputs) of one job on one machine type; its truth is the median of its repetitions. Ernest
gets every repetition of the training points and a candidates table restricted to the type, so each fit is the paper's:
one model per instance type. A fit's error is the mean over held-out points of |predicted/truth − 1|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from recommender.datasets import Dataset
from recommender.models.ernest import Ernest
from recommender.problem import build_problem
from recommender.runs import Runs

SIZE = "input.size_gib"
PROTOCOLS = {"smaller half by input size": SIZE, "smaller half by node count": "node_count"}
MINIMUM_TRAINING_POINTS = 4


@dataclass(frozen=True)
class TypeFit:
    """One fit: a job on one machine type."""

    job: str
    instance_type: str
    training_points: int
    held_out_points: int
    mape: float
    """Mean of |predicted/truth − 1| over the held-out points."""
    within_80: float
    """Share of held-out truths inside the predicted 10th to 90th percentile."""
    misfit: bool
    """The fit itself said, from its training runs alone, that its terms do not describe the workload."""


@dataclass(frozen=True)
class Protocol:
    """Every fit of one protocol, and how many types had to be left out."""

    fits: tuple[TypeFit, ...]
    left_out: tuple[tuple[str, str, str], ...]
    """(job, machine type, why)."""

    def of(self, job: str) -> list[TypeFit]:
        """Return the fits of one job."""
        return [fit for fit in self.fits if fit.job == job]


def evaluate(c3o: Dataset, by: str, jobs: tuple[str, ...] = ()) -> Protocol:
    """Fit and score every job and machine type; `by` is the column whose smaller half is trained on."""
    assert c3o.runs is not None
    assert c3o.candidates is not None
    fits, left_out = [], []
    for (job, kind), frame in c3o.runs.frame.groupby(["workload", "instance_type"], sort=True):
        if jobs and job not in jobs:
            continue
        inputs = [c for c in c3o.runs.inputs if frame[c].notna().any()]
        points = frame.groupby(["node_count", *inputs], as_index=False)["runtime_s"].median()
        small = smaller_half(points[by])
        if int(small.sum()) < MINIMUM_TRAINING_POINTS or small.all():
            why = f"{int(small.sum())} training and {int((~small).sum())} held-out points"
            left_out.append((str(job), str(kind), why))
            continue
        limit = points.loc[small, by].max()
        train = Runs(frame[frame[by] <= limit].reset_index(drop=True))
        table = c3o.candidates[c3o.candidates["instance_type"] == kind]
        fits.append(_score(str(job), str(kind), train, points[small], points[~small], table))
    return Protocol(tuple(fits), tuple(left_out))


def smaller_half(values: pd.Series) -> pd.Series:
    """Whether each point is at or below the median; strictly below it where all of them are at or below."""
    median = values.median()
    small = values <= median
    return values < median if small.all() else small


def _score(job: str, kind: str, train: Runs, seen: pd.DataFrame, unseen: pd.DataFrame, table: pd.DataFrame) -> TypeFit:
    errors, inside, misfit = [], [], False
    inputs = [c for c in unseen if str(c).startswith("input.")]
    for values, group in unseen.groupby(inputs):
        asked = {str(name): float(value) for name, value in zip(inputs, values, strict=True)}
        problem, mine = build_problem(train, workload=job, candidates=table, inputs=asked)
        prediction = Ernest().predict(problem, mine)
        misfit |= any(w.startswith("misfit") for w in prediction.warnings)
        row = problem.configurations.set_index("node_count").index.get_indexer(group["node_count"])
        gap = prediction.log_runtime[row] - np.log(group["runtime_s"].to_numpy())
        errors.extend(np.abs(np.expm1(gap)))
        inside.extend(np.abs(gap) <= 1.2815515655446004 * prediction.spread[row])
    return TypeFit(job, kind, len(seen), len(unseen), float(np.mean(errors)), float(np.mean(inside)), misfit)
