"""Which of many experiments to make for a budget: two criteria.

Notation
--------
a_j  Ernest's first four terms of experiment j, divided by their means             c_j  its cost
λ_j  in [0, 1], how much of experiment j is made                                   B    budget
M0   Σ a aᵀ of what was measured already
x̃    terms over runtime, divided by their largest value: what a relative error sees
θ    coefficients, a priori N(0, PRIOR² I)                                         σ    noise of ln t between repetitions
δ    misfit of ln t: a Gaussian process over u = (log2 scale, log2 vCPUs in all)

A-optimal (Venkataraman et al., NSDI 2016, section 4), the paper's:

    minimise tr (M0 + Σ λ_j a_j a_jᵀ)⁻¹   subject to   Σ λ_j c_j ≤ B,   Σ λ_j ≤ MOST_RUNS,   then make the experiments of λ_j > 0.3

which is convex; d/dλ_j = −‖(M0 + Σ λ a aᵀ)⁻¹ a_j‖². It minimises the variance of the coefficients if the terms hold. Where they
do not, most of the error is bias, so ours is the Bayesian A-optimal design (Chaloner and Verdinelli 1995, section 2.2) of the
runtimes asked about under a model that may be wrong (Sacks and Ylvisaker 1978; Kennedy and O'Hagan 2001):

    minimise Σ_asked Var[ln t | made],   ln t = x̃·θ + δ + N(0, σ²),   Var[δ(u) − δ(u')] = MISFIT² ‖u − u'‖₁ near, at most RANGE doublings

by adding the experiment that lowers it most, or most for its cost, while the budget lasts, then by leaving each out in turn and
filling up the budget anew while that helps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import LinearConstraint, minimize

from recommender.models import Array
from recommender.models.ernest import SCALE_SPREAD
from recommender.models.scaling import BASE, At, features

MOST_RUNS = 12
"""Experiments chosen at most: each run has its own trouble."""
KEEP = 0.3
"""An experiment is made when λ is above this, as in the paper's code."""
RIDGE = 1e-6
"""Added to the diagonal, so that an undetermined design has a large trace and not an infinite one."""
PRIOR = 10.0
"""Standard deviation of a coefficient before any run: in ln t, of its largest share in a run."""
MISFIT, RANGE = SCALE_SPREAD, 10.0
"""Standard deviation of the misfit over one doubling, as predictions beyond the range are widened; doublings over which it is
forgotten."""
MOST_EXCHANGES = 50
LEAST_GAIN = 0.01
"""An experiment that lowers the variance asked about by less is not worth its run."""


@dataclass(frozen=True)
class Rows:
    """Runs made, to be made or asked about."""

    terms: Array
    """Ernest's first four terms, (n, 4)."""
    runtime_s: Array
    """Seconds measured or expected, (n,)."""
    doublings: Array
    """log2 of scale and of vCPUs in all, (n, 2)."""

    @staticmethod
    def of(at: At, runtime_s: Array) -> Rows:
        """Runs at (scale, machines, vCPUs of one, units), each (n,)."""
        scale, machines, vcpus, _ = at
        return Rows(features(*at)[:, :BASE], runtime_s, np.log2(np.stack([scale, machines * vcpus], axis=1)))


Criterion = Callable[[Rows, Rows, Rows, Array, float, float], npt.NDArray[np.intp]]
"""(experiments, runs made, runs asked about, cost of the experiments, budget, noise of ln t) -> which experiments to make."""


def a_optimal(a: Array, cost: Array, budget: float, *, known: Array | None = None, most: float = MOST_RUNS) -> Array:
    """λ of each experiment; `a` (n, p) and `known` (k, p) are terms, `cost` (n,) in the budget's unit.

    At most `most` experiments in all, since each run has its own trouble. One that alone costs more than the budget gets 0.
    """
    p = a.shape[1]
    rows = a if known is None else np.concatenate([a, known])
    mean = np.abs(rows).mean(axis=0)
    mean[mean == 0] = 1.0
    a = a / mean
    base = RIDGE * np.eye(p)
    if known is not None and len(known):
        base = base + (known / mean).T @ (known / mean)
    usable = cost <= budget
    share = np.where(usable, cost, budget) / budget

    def trace(x: Array) -> tuple[float, Array]:
        inverse = np.linalg.inv(base + (a * x[:, None]).T @ a)
        value = float(np.trace(inverse))
        gradient = -((a @ inverse) ** 2).sum(axis=1)
        return np.log(value), gradient / value  # the logarithm has the same minimum and an even slope

    limits = np.stack([share, np.full(len(a), 1.0 / most)])
    start = np.where(usable, min(1.0, 1.0 / max(float(limits[:, usable].sum(axis=1).max(initial=0.0)), 1e-12)), 0.0)
    found = minimize(
        trace,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0 if u else 0.0) for u in usable],
        constraints=LinearConstraint(limits, -np.inf, 1.0),
        options={"maxiter": 200, "ftol": 1e-8},
    )
    result: Array = np.clip(found.x, 0.0, 1.0)
    return result


def chosen(weight: Array, cost: Array, budget: float, *, most: float = MOST_RUNS) -> npt.NDArray[np.intp]:
    """The experiments to make: λ > KEEP, by λ while budget and `most` last; indices in ascending order."""
    order = np.lexsort((cost, -np.round(weight, 6)))
    kept: list[int] = []
    spent = 0.0
    for j in order:
        if weight[j] > KEEP and spent + cost[j] <= budget * (1 + 1e-9) and len(kept) < most:
            kept.append(int(j))
            spent += float(cost[j])
    return np.array(sorted(kept), dtype=np.intp)


def as_published(
    could: Rows, made: Rows, asked: Rows, cost: Array, budget: float, noise: float
) -> npt.NDArray[np.intp]:
    """The paper's criterion, which needs neither what is asked about nor the noise: indices of `could`, ascending."""
    return chosen(a_optimal(could.terms, cost, budget, known=made.terms), cost, budget)


def a_optimal_with_misfit(
    could: Rows, made: Rows, asked: Rows, cost: Array, budget: float, noise: float, *, most: int = MOST_RUNS
) -> npt.NDArray[np.intp]:
    """Ours: indices of `could`, ascending; `cost` (n,) in the budget's unit, `noise` of ln t between repetitions."""
    n, k = len(cost), len(made.runtime_s)
    every = (could, made, asked)
    x = np.concatenate([r.terms / r.runtime_s[:, None] for r in every])
    x = x / np.maximum(x.max(axis=0), 1e-300)
    u = np.concatenate([r.doublings for r in every])
    apart = np.abs(u[:, None] - u).sum(axis=2)
    prior = PRIOR**2 * x @ x.T + MISFIT**2 * RANGE / 2 * np.exp(-apart / RANGE)
    target = slice(n + k, None)
    before = _given(prior, np.arange(n, n + k), noise)

    def left(kept: list[int]) -> tuple[float, Array]:
        """The variance asked about once `kept` are made, and by how much each experiment would lower it."""
        after = _given(before, np.array(kept, dtype=np.intp), noise)
        return float(np.trace(after[target, target])), (after[target, :n] ** 2).sum(axis=0) / (
            np.diagonal(after)[:n] + noise**2
        )

    def filled(kept: list[int], by: Array) -> tuple[float, list[int]]:
        """Experiments added while they help and the budget lasts, the most gain over `by` first; and the variance then."""
        while True:
            now, gain = left(kept)
            open_ = (cost <= (budget - float(cost[kept].sum())) * (1 + 1e-9)) & (gain > LEAST_GAIN * now)
            open_[kept] = False
            if len(kept) >= most or not open_.any():
                return now, kept
            # Rounded, so that of equals it is the first.
            kept = [*kept, int(np.argmax(np.where(open_, np.round(gain / now / by, 9), -1.0)))]

    ways = (np.ones(n), np.where(np.isfinite(cost), np.maximum(cost / budget, 1e-9), 1.0))
    found = [filled([], by) for by in ways]
    least, kept = min(found, key=lambda f: round(f[0], 12))
    for _ in range(MOST_EXCHANGES):
        others = [filled(kept[:i] + kept[i + 1 :], by) for i in range(len(kept)) for by in ways]
        other, changed = min(others, key=lambda f: round(f[0], 12), default=(np.inf, kept))
        if other > least * (1 - 1e-6):
            break
        least, kept = other, changed
    return np.array(sorted(kept), dtype=np.intp)


def _given(covariance: Array, rows: npt.NDArray[np.intp], noise: float) -> Array:
    """Covariance once `rows` are observed with `noise`."""
    if not len(rows):
        return covariance
    cross = covariance[:, rows]
    seen = covariance[np.ix_(rows, rows)] + noise**2 * np.eye(len(rows))
    return np.asarray(covariance - cross @ np.linalg.solve(seen, cross.T))
