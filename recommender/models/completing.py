"""Will a run complete? From the workload's own failed runs, shared by all search strategies.

Notation, over configurations that were run at the input asked about: S_j completed configurations with no more memory
than j, F_j configurations of which every run failed and that have at least as much memory as j ("memory": GiB per node and
GiB in all, both).

    P(j completes) = (S_j + 1)/(S_j + F_j + 1) x (C + 1)/(C + L + 1)

More memory never makes S smaller or F larger, so P is monotone in memory. C counts completed runs and L failed runs of
configurations that also completed: bad luck, which memory does not explain. The estimate is our choice; it is Laplace's
rule with the failing half of the prior left out, so that P = 1 while nothing failed. A run stopped at a time limit is not
a failure but a lower bound on a runtime (`Measured.censored_log`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, ndtr, ndtri

from recommender.models import Array, Measured, Prediction, nothing_known
from recommender.models.memory import MemoryLimit
from recommender.pricing import OptionPrices
from recommender.problem import Problem
from recommender.runs import Runs

Z10 = float(ndtri(0.1))
NEWS = 0.99
"""A stopped run whose limit was passed with at least this probability anyway says nothing."""


def completing(problem: Problem, seen: Measured, *, always: bool = False) -> Array:
    """P(a run completes) of every configuration, shape (configurations,); 1 where nothing ever failed.

    Unless `always`, where failures do not follow memory (as many failed with more than completed with less as the other way round, or
    memory is not known) the share of configurations that failed holds for all alike.
    """
    done = seen.count > 0
    lost = ~done & (seen.failures > 0)
    completed, luck = float(seen.count.sum()), float(seen.failures[done].sum())
    chance = (completed + 1.0) / (completed + luck + 1.0)
    everywhere = (done.sum() + 1.0) / (done.sum() + lost.sum() + 1.0)
    table = problem.configurations
    node = table["memory_gib"].to_numpy(float)
    memory = np.stack([node, node * table["node_count"].to_numpy(float)])
    fits, breaks = memory[:, done], memory[:, lost]
    concordant = _at_least(fits, breaks).sum()
    discordant = _at_least(breaks, fits).sum()
    if not lost.any() or not (always or concordant > discordant) or not np.isfinite(node).any():
        return np.full(len(table), chance * everywhere)
    s = _at_least(memory, fits).sum(axis=1)
    f = _at_least(breaks, memory).sum(axis=0)
    known = np.isfinite(node)
    result: Array = chance * np.where(known, (s + 1.0) / (s + f + 1.0), everywhere)
    return result


def _at_least(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Whether configuration i of `a` has at least the memory of j of `b`, per node and in all; shape (i, j)."""
    return np.asarray((a[:, :, None] >= b[:, None, :]).all(axis=0))


def deadline_probability(problem: Problem, prediction: Prediction, prices: OptionPrices) -> Array:
    """P(the run completes within the deadline D), shape (offers,).

    P(T ≤ t) with t the work that fits into D beside its checkpoints, times P(completing), times, on spot, a lower bound
    on P(no interruption spoils it) at the 90th percentile of T.
    """
    assert problem.deadline_s is not None
    offers, at = problem.candidates.offers, problem.candidates.offers.configuration
    work = prices.work_within_s(problem.deadline_s, problem.usage)
    with np.errstate(invalid="ignore"):
        within = ndtr((np.log(work) - prediction.log_runtime) / prediction.spread)[at]
    slow = np.exp(prediction.log_runtime - Z10 * prediction.spread)[at]
    result: Array = (
        within * prediction.completing[at] * prices.survival(slow, problem.deadline_s, offers, problem.usage)
    )
    return result


def tried(seen: Measured) -> npt.NDArray[np.bool_]:
    """Configurations with any run at the input asked about, whatever became of it; shape (configurations,)."""
    result: npt.NDArray[np.bool_] = (seen.count > 0) | (seen.failures > 0) | np.isfinite(seen.censored_log)
    return result


def truncated_normal(mean: Array, spread: Array, bound: Array) -> tuple[Array, Array, Array]:
    """Mean and variance of N(mean, spread²) above `bound`, and P(above): what a run stopped at `bound` says.

    With a = (bound − mean)/spread and h = φ(a)/(1 − Φ(a)): mean + spread h, spread² (1 + a h − h²). By the scaled
    complementary error function, so that it holds far in the tail.
    """
    a = (bound - mean) / spread
    with np.errstate(over="ignore"):
        h = np.where(a > -30.0, np.sqrt(2.0 / np.pi) / erfcx(np.maximum(a, -30.0) / np.sqrt(2.0)), 0.0)
    variance = spread**2 * np.clip(1.0 + a * h - h**2, 1e-6, 1.0)
    return mean + spread * h, variance, np.asarray(ndtr(-a))


def level_above(level: float, spread: float, expected: Array, scatter: Array, bound: Array) -> tuple[float, float]:
    """Mean and deviation of a workload's level N(level, spread²) given runs stopped at `bound`, where none completed.

    Configuration i takes N(level + expected_i, spread² + scatter_i²); the least expected stop is taken in first, each by the
    moments of the normal above its bound.
    """
    for i in np.argsort(-(bound - expected), kind="stable"):
        whole2 = spread**2 + scatter[i] ** 2
        mean, variance, _ = truncated_normal(
            np.array([level + expected[i]]), np.array([np.sqrt(whole2)]), bound[i : i + 1]
        )
        share = spread**2 / whole2
        level += share * float(mean[0] - level - expected[i])
        spread = float(np.sqrt(max(spread**2 - share**2 * (whole2 - float(variance[0])), 1e-8)))
    return level, spread


def search_base(problem: Problem, runs: Runs, seen: Measured, *, always: bool = False) -> Prediction:
    """What every search model starts from: no runtime believed, memory needed, and the chance of completing.

    `always` is that of `completing`.
    """
    memory = MemoryLimit.of(problem, runs)
    return replace(
        nothing_known(problem),
        completing=completing(problem, seen, always=always),
        excluded=memory.excluded,
        reasons=memory.reasons,
        binding=lambda i: memory.remark(i).removeprefix("; "),
    )
