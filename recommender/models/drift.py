"""Has a recurring workload changed? Its runs in the order of time, each held against what those before it lead to expect.

Notation: run t on configuration i is expected as N(mean, spread²) of ln(runtime), by folding in the runs since the last
change; it is a change when |ln T_t − mean| > CHANGE x spread. An input that grew shifts all runs from one on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.models import NOISE_PRIOR, NOISE_PRIOR_DOF, Array, configuration_rows
from recommender.models.archive import archived, kept
from recommender.models.fold_in import Factorised
from recommender.problem import Problem
from recommender.runs import Runs

CHANGE = 4.0
"""Standard deviations from which on a run does not belong with those before it."""
RANK = 2
MOST_RUNS = 200
"""Runs looked at, the latest."""


def since_change(problem: Problem, runs: Runs) -> tuple[Runs, str]:
    """The runs since the workload last changed, and what happened in words; all of them and '' where nothing did.

    Only runs that say when they started can be put in order; without an archive there is nothing to hold them against.
    """
    frame = runs.frame
    if problem.archive is None or len(frame) < 2 or frame["started_at"].isna().any():
        return runs, ""
    frame = frame.iloc[np.argsort(frame["started_at"].to_numpy(), kind="stable")].reset_index(drop=True)
    row, log_t = _whole(problem, frame), np.log(frame["runtime_s"].to_numpy(float))
    a = archived(problem)
    normal = kept(problem, "drift", lambda: Factorised(RANK)(problem, a))
    place = np.full(len(problem.configurations), -1)
    place[a.columns] = np.arange(len(a.columns))
    start, said, blank = 0, "", np.full(len(a.counters.names), np.nan)
    for t in range(max(1, len(frame) - MOST_RUNS), len(frame)):
        i, before = row[t], np.arange(start, t)[row[start:t] >= 0]
        if i < 0 or not len(before):
            continue
        same = before[row[before] == i]
        if len(same):
            mean, spread = log_t[same].mean(), _noise(row[before], log_t[before]) * np.sqrt(1.0 + 1.0 / len(same))
        elif place[i] >= 0 and (place[row[before]] >= 0).any():
            use = before[place[row[before]] >= 0]
            at = place[row[use]]
            count = np.bincount(at, minlength=len(a.columns))
            y = np.where(count > 0, np.bincount(at, log_t[use], len(count)) / np.maximum(count, 1), np.nan)
            means, spreads = normal.fold_in(y, blank)
            mean, spread = means[place[i]], spreads[place[i]]
        else:
            continue
        if abs(log_t[t] - mean) > CHANGE * spread:
            start, said = t, _sentence(problem, frame.iloc[t], int(i), float(log_t[t] - mean), len(before))
    return (Runs(frame.iloc[start:].reset_index(drop=True)), said) if said else (runs, "")


def _noise(row: npt.NDArray[np.intp], log_t: Array) -> float:
    """Standard deviation between repetitions, pooled and shrunk to NOISE_PRIOR."""
    _, group = np.unique(row, return_inverse=True)
    count = np.bincount(group)
    squares = float(((log_t - (np.bincount(group, log_t) / count)[group]) ** 2).sum())
    return float(np.sqrt((squares + NOISE_PRIOR_DOF * NOISE_PRIOR**2) / (NOISE_PRIOR_DOF + len(row) - len(count))))


def _whole(problem: Problem, frame: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Configuration of each completed run of all its vCPUs at the input asked about; -1 for other runs."""
    row = configuration_rows(problem, frame)
    vcpus, used = problem.configurations["vcpus"].to_numpy(float)[row], frame["vcpus"].to_numpy(float)
    whole = (
        (row >= 0) & (np.isnan(used) | np.isnan(vcpus) | (used >= vcpus)) & (frame["status"] == "completed").to_numpy()
    )
    for column, value in problem.inputs.items():
        whole &= np.isclose(frame[column].to_numpy(float), value, rtol=1e-9)
    return np.where(whole, row, -1)


def _sentence(problem: Problem, run: pd.Series, row: int, apart: float, before: int) -> str:
    times = f"{np.exp(abs(apart)):.1f} x {'longer' if apart > 0 else 'shorter'}"
    return (
        f"the workload changed: its run of {run['started_at']:%Y-%m-%d %H:%M} on {problem.candidates.configuration(row).label} "
        f"took {times} than the {before} before it lead to expect ({'its input grew?' if apart > 0 else 'its input shrank?'}); "
        "they are left out, and the reference configurations should be run again"
    )
