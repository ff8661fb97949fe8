"""How C3O's choice of a model is judged on its own data: whole jobs, split at random or harder.

A point is one (node count, inputs) of one job on one machine type; its truth is the median of its repetitions. The
protocol of the authors' code keeps one machine type per job, line length 100 of Sort, and more than 2 nodes of SGD and
K-means (which run out of memory on 2), and holds a random tenth of the points out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.datasets import Dataset
from recommender.models.c3o import C3O, MODELS, Table, choose, tables
from recommender.models.points import Points, run_points
from recommender.problem import build_problem
from recommender.runs import Runs

MAIN_TYPE = {
    "grep": "m4.2xlarge",
    "kmeans": "r4.2xlarge",
    "pagerank": "r4.2xlarge",
    "sgd": "r4.2xlarge",
    "sort": "c4.2xlarge",
}
Rows = npt.NDArray[np.bool_]
Z95 = 1.6448536269514722


@dataclass(frozen=True)
class Job:
    """All points of one job, and what a split may look at."""

    name: str
    table: Table
    nodes: npt.NDArray[np.float64]
    kind: npt.NDArray[np.object_]
    context: npt.NDArray[np.intp]
    """Equal for points that differ in the number of nodes alone."""
    frame: pd.DataFrame
    """The runs of all points."""
    point: npt.NDArray[np.intp]
    """Of each run, its point."""


@dataclass(frozen=True)
class Split:
    """What every model made of one split."""

    mape: dict[str, float]
    """Model, `c3o` (the one chosen) and `mean` -> mean of |predicted/truth − 1| over the held-out points."""
    chosen: str
    held_out: int
    covered: float
    """Share of held-out truths in the chosen model's 90 % interval, nothing added for what lies outside the range."""


def jobs(c3o: Dataset, *, whole: bool = False) -> Iterator[Job]:
    """The jobs, as the authors' code selects their points, or whole."""
    assert c3o.runs is not None
    for name, kind in MAIN_TYPE.items():
        frame = c3o.runs.of(name).frame
        if not whole:
            frame = frame[frame["instance_type"] == kind]
            frame = frame[frame["node_count"] > 2] if name in ("kmeans", "sgd") else frame
            frame = frame[frame["input.line_length"] == 100] if name == "sort" else frame
        runs = Runs(frame.reset_index(drop=True))
        problem, mine = build_problem(runs, candidates=c3o.candidates)
        evidence = run_points(problem, mine, [], every_input=True)
        table, stopped, _ = tables(problem, evidence, [])
        assert not stopped.any()
        points: Points = evidence.points
        first, point = np.unique(points.key, return_index=True, return_inverse=True)[1:]
        at = evidence.frame.iloc[first]
        context = at.groupby(["instance_type", *mine.inputs], dropna=False).ngroup().to_numpy()
        yield Job(name, table, points.machines[first], points.instance_type[first], context, evidence.frame, point)


def judge(job: Job, held_out: Rows, *, new_inputs: bool = False) -> Split:
    """Fit every model to the other points and score the held-out ones, which may be of inputs that were not run."""
    train, test = job.table.take(~held_out), job.table.take(held_out)
    choice = choose(train, np.zeros(len(train.y), dtype=bool), job.context[~held_out] if new_inputs else None)
    believed = {name: MODELS[name](train)(test) for name in choice.errors}
    believed["mean"] = np.full(len(test.y), np.log(np.mean(np.exp(train.y))))
    mape = {name: float(np.mean(np.abs(np.expm1(y - test.y)))) for name, y in believed.items()}
    gap = np.abs(choice.believer(test) - test.y)
    covered = float(np.mean(gap <= Z95 * choice.spread))
    return Split({**mape, "c3o": mape[choice.name]}, choice.name, int(held_out.sum()), covered)


@dataclass(frozen=True)
class Answers:
    """What the strategy's own predictions made of held-out points."""

    error: npt.NDArray[np.float64]
    """|predicted/truth − 1| of each."""
    inside: npt.NDArray[np.bool_]
    """Whether the truth is in the prediction's 90 % interval."""


def answers(c3o: Dataset, job: Job, held_out: Rows, most: int, seed: int = 0) -> Answers:
    """Ask the strategy about the inputs of held-out points, `most` of them drawn at random, from the other points' runs."""
    train = job.frame[~held_out[job.point]].reset_index(drop=True)
    inputs = [c for c in job.frame if str(c).startswith("input.") and job.frame[c].notna().all()]
    at = job.frame.assign(y=np.log(job.frame["runtime_s"])).groupby(job.point).first()
    at["y"] = np.log(job.frame.groupby(job.point)["runtime_s"].median())
    at = at[held_out]
    error, inside = [], []
    kinds = at.groupby(inputs).ngroup().to_numpy()
    for k in np.random.default_rng(seed).permutation(np.unique(kinds))[:most]:
        wanted = at[kinds == k]
        asked = {c.removeprefix("input."): float(wanted[c].iloc[0]) for c in inputs}
        problem, mine = build_problem(Runs(train), candidates=c3o.candidates, inputs=asked)
        found = C3O().predict(problem, mine)
        keys = ["instance_type", "node_count"]
        row = problem.configurations[keys].assign(row=range(len(found.spread))).merge(wanted[[*keys, "y"]], on=keys)
        gap = found.log_runtime[row["row"]] - row["y"].to_numpy(float)
        error.append(np.abs(np.expm1(gap)))
        inside.append(np.abs(gap) <= Z95 * found.spread[row["row"]])
    return Answers(np.concatenate(error), np.concatenate(inside))


def random_splits(job: Job, count: int, seed: int = 0) -> Iterator[Rows]:
    """A random tenth of the points, `count` times."""
    rng, n = np.random.default_rng(seed), len(job.nodes)
    for _ in range(count):
        rows = np.zeros(n, dtype=bool)
        rows[rng.choice(n, max(1, n // 10), replace=False)] = True
        yield rows


def larger_scale_out(job: Job, most: float) -> Rows:
    """Points of more nodes than were seen."""
    return np.asarray(job.nodes > most)


def unseen_types(job: Job) -> Iterator[tuple[str, Rows]]:
    """Each machine type in turn, where enough points of other types are left."""
    for kind in sorted(set(job.kind)):
        rows = np.asarray(job.kind == kind)
        if (~rows).sum() >= 10:
            yield kind, rows


def unseen_contexts(job: Job, folds: int = 5, seed: int = 0) -> Iterator[Rows]:
    """Every node count of a fifth of the inputs, in turn."""
    kinds = np.unique(job.context)
    fold = np.random.default_rng(seed).permutation(len(kinds)) % folds
    for f in range(folds):
        rows = np.isin(job.context, kinds[fold == f])
        if rows.any() and (~rows).any():
            yield rows


def average(splits: list[Split]) -> pd.Series:
    """Mean of each model's error over splits."""
    return pd.DataFrame([split.mape for split in splits]).mean()
