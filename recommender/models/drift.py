"""Has a recurring workload changed? Its runs in the order of time, each held against earlier ones of its configuration.

Notation: run t took T_t; its configuration ran k times since the last change, with mean ln T and standard deviation s
between repetitions, pooled over configurations and shrunk to NOISE_PRIOR. It is a change when
|ln T_t − mean| > CHANGE s √(1 + 1/k). Runs of other configurations say nothing: how those differ is what is asked.

So a workload that changed and was since run on new configurations alone is not noticed. An archive predicts those only to
the spread between workloads (about 10 % on the best covered of public tables, 20 % over all), the errors of one workload's
configurations are correlated, and an unusual workload would pass for one that changed: run one configuration again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.inputs import scale_column
from recommender.models import NOISE_PRIOR, NOISE_PRIOR_DOF, Array, configuration_rows
from recommender.models.archive import listed
from recommender.problem import Problem
from recommender.runs import Runs

CHANGE = 4.0
"""Standard deviations from which on a run does not belong with those before it."""
DIFFERS = float(np.log(2.0))
"""Difference of ln(runtime) of repetitions from which on they are called different where no order can tell why."""


def since_change(problem: Problem, runs: Runs) -> tuple[Runs, tuple[str, ...]]:
    """The runs since the workload last changed, and what happened in words; all of them and () where nothing did.

    Only runs that all say when they started can be put in order; where repetitions of others differ, that is said.
    """
    frame = runs.frame
    if len(frame) < 2 or frame["started_at"].isna().any():
        return runs, _said(_unordered(problem, frame), _other_inputs(problem, frame))
    frame = frame.iloc[np.argsort(frame["started_at"].to_numpy(), kind="stable")].reset_index(drop=True)
    row, log_t = _whole(problem, frame), np.log(frame["runtime_s"].to_numpy(float))
    start, at = 0, 0.0
    for t in np.flatnonzero(row >= 0):
        before = np.arange(start, t)[row[start:t] >= 0]
        same = before[row[before] == row[t]]
        if not len(same):
            continue
        apart = float(log_t[t] - log_t[same].mean())
        if abs(apart) > CHANGE * _noise(row[before], log_t[before]) * np.sqrt(1.0 + 1.0 / len(same)):
            start, at = int(t), apart
    other = _other_inputs(problem, frame)
    if not start:
        return runs, _said(other)
    earlier = [i for i in dict.fromkeys(map(int, row[:start])) if i >= 0 and i not in row[start:]]
    said = _sentence(problem, frame.iloc[start], int(row[start]), at, earlier)
    return Runs(frame.iloc[start:].reset_index(drop=True)), _said(said, other)


def _said(*sentences: str) -> tuple[str, ...]:
    return tuple(s for s in sentences if s)


def _other_inputs(problem: Problem, frame: pd.DataFrame) -> str:
    """That the recorded input grew (or shrank) between runs of one configuration, in words; '' where none did.

    Only a configuration that completed at both inputs tells a recurring workload from a profile, whose inputs differ on
    purpose. `started_at`, where all runs have it, must put one input after the other.
    """
    column = scale_column([c for c in problem.inputs if c in frame])
    if column is None:
        return ""
    asked, size = problem.inputs[column], frame[column].to_numpy(float)
    row = configuration_rows(problem, frame)
    done = (row >= 0) & (frame["status"] == "completed").to_numpy() & np.isfinite(size)
    here = done & np.isclose(size, asked, rtol=1e-9)
    other = done & ~here
    started = frame["started_at"]
    if not (set(row[here]) & set(row[other])) or started.isna().any() or started[other].max() >= started[here].min():
        return ""
    before = float(size[other][started[other].to_numpy().argmax()])
    return (
        f"the workload's {column} {'grew' if asked > before else 'shrank'} from {before:g} to {asked:g} with its run of "
        f"{started[here].min():%Y-%m-%d %H:%M}: its {int(other.sum())} runs before it are not of what is asked about"
    )


def _unordered(problem: Problem, frame: pd.DataFrame) -> str:
    """That a change cannot be seen though repetitions differ as after one; '' where they agree."""
    row, log_t = _whole(problem, frame), np.log(frame["runtime_s"].to_numpy(float))
    apart = pd.Series(log_t[row >= 0]).groupby(row[row >= 0]).agg(np.ptp)
    if not len(apart) or apart.max() <= DIFFERS:
        return ""
    missing = int(frame["started_at"].isna().sum())
    return (
        f"the workload's own repetitions on {problem.candidates.configuration(int(apart.index.to_numpy()[apart.to_numpy().argmax()])).label} differ "
        f"{np.exp(apart.max()):.1f} x, and {missing} of its {len(frame)} runs do not say when they started: add started_at so "
        "that a change can be seen; their mean may be of two different workloads"
    )


def _noise(row: npt.NDArray[np.intp], log_t: Array) -> float:
    """s."""
    _, group = np.unique(row, return_inverse=True)
    count = np.bincount(group)
    squares = float(((log_t - (np.bincount(group, log_t) / count)[group]) ** 2).sum())
    return float(np.sqrt((squares + NOISE_PRIOR_DOF * NOISE_PRIOR**2) / (NOISE_PRIOR_DOF + len(row) - len(count))))


def _whole(problem: Problem, frame: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Configuration of each completed run of all its vCPUs at the input asked about; -1 for other runs."""
    row = configuration_rows(problem, frame)
    vcpus, used = problem.configurations["vcpus"].to_numpy(float)[row], frame["vcpus"].to_numpy(float)
    whole = (row >= 0) & (np.isnan(used) | np.isnan(vcpus) | (used >= vcpus)) & (frame["status"] == "completed")
    for column, value in problem.inputs.items():
        whole &= np.isclose(frame[column].to_numpy(float), value, rtol=1e-9)
    return np.where(whole, row, -1)


def _sentence(problem: Problem, run: pd.Series, row: int, apart: float, earlier: list[int]) -> str:
    label = np.array([problem.candidates.configuration(i).label for i in (row, *earlier)], dtype=object)
    again = f", and its reference configurations should be run again: {listed(label[1:])}" if earlier else ""
    return (
        f"the workload changed: its run of {run['started_at']:%Y-%m-%d %H:%M} on {label[0]} took "
        f"{np.exp(abs(apart)):.1f} x {'longer' if apart > 0 else 'shorter'} than those before it (its input "
        f"{'grew' if apart > 0 else 'shrank'}?); runs before it are left out{again}"
    )
