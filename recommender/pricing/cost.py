"""From runtime, price and usage to USD per run, vectorised over candidates.

Notation
--------
T  runtime of an uninterrupted run, hours      p  price of one node, USD per hour     n  number of nodes
h  interruption hazard of one instance, 1/h    λ = n·h  hazard of the cluster, 1/h    R  time lost per restart, hours
u  runs per month                              730  hours in a month
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recommender.errors import InputError

Array = npt.NDArray[np.float64]

HOURS_PER_MONTH = 730.0
MINIMUM_BILLED_S = 60.0
FREE_FIRST_HOUR_H = 1.0


@dataclass(frozen=True)
class Usage:
    """How often the workload runs, and what an interruption costs it."""

    runs_per_month: float = 30.0
    """Runs a month, one after the other; decides how well a commitment is used."""
    checkpoint_interval_s: float | None = None
    """Seconds of work between checkpoints; None: an interrupted run starts again from scratch."""
    checkpoint_cost_s: float = 30.0
    """Seconds that writing one checkpoint takes (assumed unless given)."""
    restart_s: float = 120.0
    """Seconds to get a new instance and to load the last state (assumed unless given)."""

    def __post_init__(self) -> None:
        for name, value, ok in (
            ("runs_per_month", self.runs_per_month, self.runs_per_month > 0),
            (
                "checkpoint_interval_s",
                self.checkpoint_interval_s,
                self.checkpoint_interval_s is None or self.checkpoint_interval_s > 0,
            ),
            ("checkpoint_cost_s", self.checkpoint_cost_s, self.checkpoint_cost_s >= 0),
            ("restart_s", self.restart_s, self.restart_s >= 0),
        ):
            if not ok or not np.isfinite(value if value is not None else 1.0):
                raise InputError(f"{name} is {value}; a positive finite number is needed")


def hazard_per_hour(interruption_per_month: npt.ArrayLike) -> Array:
    """Constant hazard h with P(interrupted within a month) = 1 − exp(−730 h), so h = −ln(1 − P)/730, in 1/h."""
    result: Array = -np.log1p(-np.asarray(interruption_per_month, dtype=float)) / HOURS_PER_MONTH
    return result


def on_demand_cost(
    runtime_s: npt.ArrayLike,
    usd_per_hour: npt.ArrayLike,
    nodes: npt.ArrayLike,
    *,
    minimum_s: npt.ArrayLike = MINIMUM_BILLED_S,
) -> Array:
    """USD of one run billed by the second: n · p · max(runtime_s, minimum_s) / 3600.

    Source: EC2 bills Linux by the second with a minimum of 60 s. The last second's rounding (below one second of one
    node's price) is left out. Shapes broadcast.
    """
    billed_s = np.maximum(np.asarray(runtime_s, dtype=float), minimum_s)
    result: Array = np.asarray(usd_per_hour) * np.asarray(nodes) * billed_s / 3600.0
    return result


def commitment_cost(
    runtime_s: npt.ArrayLike, usd_per_hour: npt.ArrayLike, nodes: npt.ArrayLike, *, runs_per_month: float
) -> Array:
    """USD of one run on committed instances: n · p · 730 · k / u, with k = max(1, ceil(u · T / 730)) clusters committed.

    A commitment is paid around the clock whether used or not, so an idle one makes each run dearer; usage beyond one
    cluster's month needs another commitment. `usd_per_hour` is the committed rate. Source: AWS reserved instance and
    savings plan terms. Shapes broadcast.
    """
    clusters = clusters_committed(runtime_s, runs_per_month)
    result: Array = np.asarray(usd_per_hour) * np.asarray(nodes) * HOURS_PER_MONTH * clusters / runs_per_month
    return result


def clusters_committed(runtime_s: npt.ArrayLike, runs_per_month: float) -> Array:
    """Clusters that must be committed so that all runs of a month fit: k = max(1, ceil(u · T / 730))."""
    busy_h = runs_per_month * np.asarray(runtime_s, dtype=float) / 3600.0
    return np.maximum(1.0, np.ceil(busy_h / HOURS_PER_MONTH - 1e-9))


def expected_time_h(length_h: npt.ArrayLike, hazard: npt.ArrayLike, restart_h: npt.ArrayLike) -> Array:
    """Expected hours to finish an uninterruptible piece of `length_h`: (1/λ + R)(exp(λ·length) − 1).

    The length itself when λ = 0, NaN where λ is not known. Source: Daly (2006), eq. 13 without dump time: exponential
    interruptions, each losing the piece so far and R.
    """
    x, lam, r = np.broadcast_arrays(*(np.asarray(a, dtype=float) for a in (length_h, hazard, restart_h)))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        interrupted = np.expm1(lam * x) * (1.0 / lam + r)
    return np.where(lam == 0, x, interrupted)


def elapsed_with_checkpoints_s(runtime_s: npt.ArrayLike, usage: Usage) -> Array:
    """Undisturbed seconds from start to finish, T + (ceil(T/c) − 1) δ; T without checkpoints."""
    t = np.asarray(runtime_s, dtype=float)
    if usage.checkpoint_interval_s is None:
        return t
    return t + _pieces(t, usage.checkpoint_interval_s) * usage.checkpoint_cost_s


def work_within_s(deadline_s: float, usage: Usage) -> float:
    """The most work T whose undisturbed time with checkpoints fits a deadline: the inverse of the above.

    With k = floor(D/(c + δ)) checkpoints written, min((k + 1) c, D − k δ).
    """
    c, cost = usage.checkpoint_interval_s, usage.checkpoint_cost_s
    if c is None:
        return deadline_s
    written = np.floor(deadline_s / (c + cost))
    return float(min((written + 1.0) * c, deadline_s - written * cost))


def _pieces(runtime: Array, interval: float) -> Array:
    """Checkpoints written in a run, none at its very end: ceil(T/c) − 1, at least 0."""
    return np.maximum(np.ceil(runtime / interval - 1e-9) - 1.0, 0.0)


def spot_wall_time_h(runtime_s: npt.ArrayLike, hazard: npt.ArrayLike, usage: Usage) -> Array:
    """Expected hours from start to finish on spot, hazard = λ of the whole cluster in 1/h; inf if it never ends.

    From scratch: one piece of length T. With checkpoints every c seconds that take δ: ceil(T/c) − 1 pieces of c + δ
    and the remainder (nothing is written at the very end).
    """
    t_h = np.asarray(runtime_s, dtype=float) / 3600.0
    restart_h = usage.restart_s / 3600.0
    if usage.checkpoint_interval_s is None:
        return expected_time_h(t_h, hazard, restart_h)
    c_h = usage.checkpoint_interval_s / 3600.0
    pieces = _pieces(t_h, c_h)
    full = expected_time_h(c_h + usage.checkpoint_cost_s / 3600.0, hazard, restart_h)
    with np.errstate(over="ignore", invalid="ignore"):
        written = np.where(pieces > 0, pieces * full, 0.0)
    return written + expected_time_h(t_h - pieces * c_h, hazard, restart_h)


def spot_cost(
    runtime_s: npt.ArrayLike,
    usd_per_hour: npt.ArrayLike,
    nodes: npt.ArrayLike,
    interruption_per_month: npt.ArrayLike,
    usage: Usage,
    *,
    minimum_s: npt.ArrayLike = MINIMUM_BILLED_S,
) -> Array:
    """Expected USD of one run on spot, interruptions included.

    From scratch, with λ = n·h, the expected node-hours paid are those of the run that ends, n·T, plus those of the
    interrupted attempts: exp(λT) ∫₀ᵀ (n − 1[x < 1 h]) x λ exp(−λx) dx. The node the provider takes back in its first
    hour is free (EC2's rule); its n − 1 companions are paid. Time to restart is not paid, there is no instance yet.

    With checkpoints every second on the wall clock is paid, n · E[time], restarts included: an upper bound, because an
    instance's age is not followed across pieces.

    Returns
    -------
    USD, broadcast shape; inf where the run would practically never end, NaN where the interruption probability is not
    known. Source: renewal argument, tested by simulation.
    """
    t_h, p, n, month = np.broadcast_arrays(
        np.asarray(runtime_s, dtype=float) / 3600.0,
        *(np.asarray(a, dtype=float) for a in (usd_per_hour, nodes, interruption_per_month)),
    )
    lam = n * hazard_per_hour(month)
    minimum_h = np.asarray(minimum_s, dtype=float) / 3600.0
    if usage.checkpoint_interval_s is not None:
        with np.errstate(over="ignore"):
            paid: Array = p * n * np.maximum(spot_wall_time_h(t_h * 3600.0, lam, usage), minimum_h)
        return paid
    young = np.minimum(t_h, FREE_FIRST_HOUR_H)
    with np.errstate(over="ignore", invalid="ignore"):
        lost = n * _mean_below(t_h, lam) - _mean_below(young, lam)
        lost = np.where(lam == 0, 0.0, np.exp(lam * t_h) * lost)
        lost = np.where(np.isnan(lost) & ~np.isnan(lam), np.inf, lost)
        result: Array = p * (n * np.maximum(t_h, minimum_h) + lost)
    return result


def _mean_below(x: Array, lam: Array) -> Array:
    """∫₀ˣ y λ exp(−λy) dy = (1 − exp(−λx)(1 + λx))/λ, by its series x²λ/2 − x³λ²/3 where λx is small."""
    z = lam * x
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = (-np.expm1(-z) - z * np.exp(-z)) / lam
    result: Array = np.where(z < 1e-4, x * z / 2.0 - x * z * z / 3.0, exact)
    return result


def spot_survival(
    runtime_s: npt.ArrayLike,
    deadline_s: float,
    nodes: npt.ArrayLike,
    interruption_per_month: npt.ArrayLike,
    usage: Usage,
) -> Array:
    """Lower bound on P(no interruption spoils the deadline) for a run that takes `runtime_s` undisturbed.

    T is the elapsed time, checkpoints included; what they would save of an interrupted attempt is not counted.
    exp(−λT)·(2 − exp(−λ·s)), s = clip(D − T − R, 0, T): either nothing happens, or one interruption happens early
    enough (within the slack s) for a second attempt from scratch. Grows with the deadline.
    """
    t_h = elapsed_with_checkpoints_s(runtime_s, usage) / 3600.0
    lam = np.asarray(nodes) * hazard_per_hour(interruption_per_month)
    slack = np.clip(deadline_s / 3600.0 - t_h - usage.restart_s / 3600.0, 0.0, t_h)
    result: Array = np.exp(-lam * t_h) * (1.0 - np.expm1(-lam * slack))
    return result
