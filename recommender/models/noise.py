"""How much repetitions of a workload scatter, given how much those of other workloads do.

Notation
--------
s²_w, d_w  sample variance of ln T within the repetitions of workload w, and its degrees of freedom
σ²_w       its variance, scattered over workloads as scaled inverse χ² with s²_0 and d_0 degrees of freedom

With e_w = ln s²_w − ψ(d_w/2) + ln(d_w/2) over W workloads, d_0 and s²_0 solve (Smyth 2004, section 6.2)

    ψ'(d_0/2) = Σ (e_w − ē)²/(W − 1) − mean ψ'(d_w/2)        ln s²_0 = ē + ψ(d_0/2) − ln(d_0/2)

and a workload's own repetitions give (d_0 s²_0 + d s²)/(d_0 + d) with d_0 + d degrees of freedom.
"""

from __future__ import annotations

import weakref

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import polygamma, psi

from recommender.runs import Runs, ranks

Array = npt.NDArray[np.float64]
NOISE_PRIOR, NOISE_PRIOR_DOF = 0.05, 2.0
"""s_0 and d_0 where no archive tells them. The public C3O runs (5 repetitions of 930 points) give 0.03 to 0.08 pooled per job;
the weight is less than their agreement would give it, because other machines may be noisier."""
FEWEST = 3
"""Workloads with repetitions from which on they tell s_0 and d_0."""
LEAST = 0.005
"""s_0 at least: what repeats itself more closely is rounded, or copied."""
FEWEST_DOF, MOST_DOF = 2.0, 10.0
"""d_0 at least, and what it counts for at most: a workload that is noisier than any of the archive must be able to show it."""

_TOLD: weakref.WeakKeyDictionary[Runs, tuple[float, float]] = weakref.WeakKeyDictionary()


def repetition_noise(runs: Runs, archive: Runs | None = None) -> tuple[float, float]:
    """Standard deviation of ln(runtime) between repetitions of one workload's runs, never zero, and its degrees of freedom."""
    known, weight = told_by(archive) if archive is not None else (NOISE_PRIOR, NOISE_PRIOR_DOF)
    squares, dof = _within(runs, [])
    total = weight + float(dof.sum())
    return float(np.sqrt((float(squares.sum()) + weight * known**2) / total)), total


def told_by(archive: Runs) -> tuple[float, float]:
    """s_0 and d_0 of an archive, kept with it; NOISE_PRIOR and its weight where too few of its workloads were repeated."""
    if archive not in _TOLD:
        _TOLD[archive] = _told(*_within(archive, ["workload"]))
    return _TOLD[archive]


def _within(runs: Runs, by: list[str]) -> tuple[Array, Array]:
    """Sum of squares of ln(runtime) about the means of repetitions, and degrees of freedom, of each of the groups `by`.

    Repetitions of one runtime to the last digit count once: such a row is a copy, or says as much as its rounding.
    """
    frame = runs.completed
    keys = ranks(frame, [*by, "instance_type", "node_count", "vcpus", *runs.inputs, *runs.params, "runtime_s"])
    keys, first = np.unique(keys, axis=0, return_index=True)
    log_t, keys = np.log(frame["runtime_s"].to_numpy(float)[first]), keys[:, :-1]
    cells, cell, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    residual = log_t - (np.bincount(cell, log_t) / count)[cell]
    group = (
        np.unique(cells[:, : len(by)], axis=0, return_inverse=True)[1] if by else np.zeros(len(cells), dtype=np.intp)
    )
    squares = np.bincount(group, np.bincount(cell, residual**2, minlength=len(cells)))
    return squares.astype(float), np.bincount(group, count - 1.0).astype(float)


def _told(squares: Array, dof: Array) -> tuple[float, float]:
    squares, dof = squares[dof > 0], dof[dof > 0]
    if len(dof) < FEWEST:
        return NOISE_PRIOR, NOISE_PRIOR_DOF
    e = np.log(np.maximum(squares / dof, 1e-8)) - psi(dof / 2) + np.log(dof / 2)
    apart = float(e.var(ddof=1) - polygamma(1, dof / 2).mean())
    low, high = FEWEST_DOF / 2, 1e4
    apart = float(np.clip(apart, polygamma(1, high), polygamma(1, low)))
    half = brentq(lambda d: float(polygamma(1, d)) - apart, low, high)
    known = float(np.exp((e.mean() + psi(half) - np.log(half)) / 2))
    return max(known, LEAST), min(2.0 * float(half), MOST_DOF)
