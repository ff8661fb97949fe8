"""Acquisition functions: how much each candidate is worth measuring. Higher is better; the search takes the largest.

Notation
--------
v_i  objective (USD of a run, or seconds) of configuration i under its cheapest way to pay
μ_i, σ_i  mean and standard deviation of the noiseless ln v_i       m  ln of the best feasible measured objective
p_i  P(a run completes, and within deadline and budget), noise of the run included
q_i  P(a run completes)
l_i  standard deviations by which the noiseless ln(runtime) may exceed its mean and still meet deadline and budget

    EI_i = (m − μ_i) Φ(z_i) + σ_i φ(z_i),  z_i = (m − μ_i)/σ_i        score_i = q_i E[max(m − ln v_i, 0); constraints hold]

CherryPick (sec. 3) takes EI_i p_i, as if cost and time were independent. On a known price they are one unknown, ε:
ln v = μ + σ ε meets the constraints where ε <= l, and below the cap c = min(m, μ + σ l) the expectation is exactly

    E[max(m − ln v, 0); ε <= l] = EI(c) + (m − c) Φ(l)                  (EI itself where no constraint binds)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.special import ndtr

from recommender.candidates import Configuration
from recommender.models import Array, Measured, PerformanceModel, Prediction, configuration_rows, measured
from recommender.models._skopt import expected_improvement
from recommender.pricing import BY_NAME, PurchaseOption, price_option
from recommender.problem import Objective, Problem
from recommender.recommendation import NextRun
from recommender.runs import Runs


@dataclass(frozen=True)
class Scores:
    """What measuring each configuration is worth; arrays of shape (configurations,)."""

    score: Array
    """What is maximised; NaN where nothing can be said, which is never proposed."""
    improvement: Array | None
    """Expected saving relative to the incumbent, between 0 and 1; None while there is no incumbent."""
    incumbent: float | None
    """Objective of the best feasible measured configuration; None while there is none."""
    why: str
    """What the score is, for the proposal's sentence."""

    def sentence(self, row: int) -> str:
        """Why this configuration is proposed."""
        if self.improvement is None:
            return self.why
        return f"{self.why} on the best so far, {self.improvement[row]:.1%} of it"


def unscored(problem: Problem) -> Scores:
    """What is known of the starts of a search: nothing."""
    return Scores(np.full(len(problem.configurations), np.nan), None, None, "a start of the search")


class Acquisition(Protocol):
    """(problem, runs, prediction) -> scores, a pure function. `model` made the prediction, for those that look ahead."""

    def scores(self, problem: Problem, runs: Runs, prediction: Prediction, model: PerformanceModel) -> Scores:
        """Return the worth of measuring each configuration."""
        ...


@dataclass(frozen=True)
class Values:
    """What a prediction says about the objective; arrays of shape (configurations,), NaN where nothing is known."""

    mean: Array
    """μ, of ln(USD) or ln(s)."""
    spread: Array
    """σ, the noise of a single run left out."""
    feasible: Array
    """p."""
    limit: Array
    """l; inf where nothing is constrained."""


def log_objective(
    problem: Problem, log_runtime: Array, *, objective: Objective, options: tuple[PurchaseOption, ...] | None = None
) -> Array:
    """ln of the objective of each configuration under the cheapest of `options` (default: the problem's).

    `log_runtime` has shape (k, configurations), and so has the result. Increasing in runtime; NaN where the price is not
    known, but for what `Problem.rankable` ranks by runtime without.
    """
    offers, at = problem.candidates.offers, problem.candidates.offers.configuration
    best = np.full(log_runtime.shape, np.inf)
    for option in options or problem.options:
        prices = price_option(option, offers, problem.catalogue.spot)
        rankable = problem.rankable(prices)
        for row, ln_t in zip(best, log_runtime, strict=True):
            runtime = np.exp(ln_t)[at]
            if objective == "cost":
                value = prices.cost(runtime, offers, problem.usage)
            else:
                value = prices.wall_time_s(runtime, offers, problem.usage)
            np.fmin.at(row, at, np.where(rankable, value, np.nan))
    return np.log(np.where(np.isfinite(best), best, np.nan))


def values(problem: Problem, prediction: Prediction) -> Values:
    """Turn beliefs about ln(runtime) into beliefs about ln(objective).

    On demand and by the second ln v = ln T + ln(price x nodes), exactly; in general (a billing minimum, spot, idle
    commitments) σ is half the difference of ln v one standard deviation either way.
    """
    ln_t, steps = prediction.log_runtime, np.array([[-1.0], [0.0], [1.0]])
    low, mean, high = log_objective(problem, ln_t + steps * prediction.latent, objective=problem.objective)
    feasible, limit = prediction.completing.copy(), np.full(len(ln_t), np.inf)
    latent = np.maximum(prediction.latent, 1e-9)
    if problem.deadline_s is not None:
        room = np.log(problem.deadline_s) - ln_t
        feasible *= ndtr(room / prediction.spread)
        limit = room / latent
    if problem.budget_usd is not None:
        cost = log_objective(problem, ln_t + steps * prediction.spread, objective="cost")
        spread = np.maximum((cost[2] - cost[0]) / 2.0, 1e-9)  # within a billing minimum cost does not move at all
        room = np.log(problem.budget_usd) - cost[1]
        feasible *= ndtr(room / spread)
        limit = np.minimum(limit, room / spread * (prediction.spread / latent))
    return Values(mean, (high - low) / 2.0, feasible, limit)


def feasible_values(problem: Problem, log_runtime: Array) -> Array:
    """ln of the objective where a run of exp(log_runtime) s meets deadline and budget, inf elsewhere and where NaN."""
    value = log_objective(problem, log_runtime[None], objective=problem.objective)[0]
    ok = np.isfinite(value)
    if problem.deadline_s is not None:
        ok &= np.nan_to_num(log_runtime, nan=np.inf) <= np.log(problem.deadline_s)
    if problem.budget_usd is not None:
        cost = log_objective(problem, log_runtime[None], objective="cost")[0]
        ok &= np.nan_to_num(cost, nan=np.inf) <= np.log(problem.budget_usd)
    return np.where(ok, value, np.inf)


def incumbent(problem: Problem, runs: Runs) -> tuple[float, int] | None:
    """ln of the best objective among configurations measured to meet the constraints, and its row; None if none does."""
    value = feasible_values(problem, measured(problem, runs).log_runtime)
    row = int(value.argmin())
    return (float(value[row]), row) if np.isfinite(value[row]) else None


@dataclass(frozen=True)
class ConstrainedImprovement:
    """Expected improvement of ln(objective) where the constraints hold; CherryPick's without constraints.

    While no feasible configuration was measured, P alone is maximised (Gelbart et al. 2014; the paper leaves it open).
    """

    constrained: bool = True
    """False: deadline and budget are left to the recommendation, as in CherryPick's released code."""

    def scores(self, problem: Problem, runs: Runs, prediction: Prediction, model: PerformanceModel) -> Scores:
        """Return the score above; `improvement` is 1 − exp(−score)."""
        if not self.constrained:
            problem = unconstrained(problem)
        believed, best = values(problem, prediction), incumbent(problem, runs)
        if best is None:
            score = np.where(np.isfinite(believed.mean), believed.feasible, np.nan)
            return Scores(score, None, None, "most likely to meet the constraints, which nothing measured does")
        known = np.isfinite(believed.mean)
        gain = np.full(len(known), np.nan)
        mean, spread, limit = believed.mean[known], believed.spread[known], believed.limit[known]
        cap = np.minimum(best[0], mean + np.maximum(spread, 1e-12) * limit)  # an infinite limit caps nothing
        gain[known] = expected_improvement(mean - cap, spread, 0.0) + (best[0] - cap) * ndtr(limit)
        score = gain * prediction.completing
        return Scores(score, -np.expm1(-score), float(np.exp(best[0])), "largest expected improvement")


@dataclass(frozen=True)
class MixtureImprovement:
    """Expected improvement x P(the constraints hold).

    Of a model that is a mixture the improvement is the mean over its parts, so that a small chance of a large saving is
    not averaged away first. While nothing measured is feasible, the least expected regret is measured: the least mean of
    ln(objective) less ln P(the constraints hold), as the recommendation ranks.
    """

    def scores(self, problem: Problem, runs: Runs, prediction: Prediction, model: PerformanceModel) -> Scores:
        """Return EI p; `improvement` is 1 − exp(−EI p). Without an incumbent p exp(−regret)."""
        mixture = prediction.mixture
        assert mixture is not None, "a model that is a mixture is needed"
        n, ln_t = len(prediction.log_runtime), prediction.log_runtime
        centre = mixture.moments[0]
        if not np.isfinite(ln_t).any():
            # Only the order is known. Without a level it is priced as if runs took an hour, beyond any billing minimum.
            ln_t = centre + (np.log(3600.0) if np.isnan(mixture.level) else 0.0)
        low, value, high = log_objective(problem, ln_t + np.array([[-0.1], [0.0], [0.1]]), objective=problem.objective)
        slope = (high - low) / 0.2
        best, seen = incumbent(problem, runs), measured(problem, runs)
        feasible = prediction.completing * self._constraints(problem, prediction, ln_t, seen)
        if best is None:
            return Scores(feasible * np.exp(np.nanmin(value) - value), None, None, "the least expected regret")
        gain = np.empty(n)
        for block, weight, mean, spread, _ in mixture.blocks(np.arange(n)):
            v = value[block] + slope[block] * (mean - centre[block])
            sigma = np.maximum(spread * slope[block], 1e-9)
            z = (best[0] - v) / sigma
            gain[block] = weight @ (sigma * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)))
        score = gain * feasible
        return Scores(score, -np.expm1(-score), float(np.exp(best[0])), "largest expected improvement")

    def _constraints(self, problem: Problem, prediction: Prediction, ln_t: Array, seen: Measured) -> Array:
        """P(deadline, budget and the longest limit met hold); shape (configurations,)."""
        mixture, result = prediction.mixture, np.ones(len(ln_t))
        if mixture is None or np.isnan(mixture.level):
            return result
        if problem.deadline_s is not None:
            result = mixture.below(np.full(len(ln_t), np.log(problem.deadline_s)))
        if problem.budget_usd is not None:
            steps = np.array([[-1.0], [0.0], [1.0]]) * prediction.spread
            low, cost, high = log_objective(problem, ln_t + steps, objective="cost")
            result = result * ndtr((np.log(problem.budget_usd) - cost) / np.maximum((high - low) / 2.0, 1e-9))
        return result


def unconstrained(problem: Problem) -> Problem:
    """The problem without deadline and budget."""
    return replace(problem, deadline_s=None, budget_usd=None)


def run_cost_usd(problem: Problem, log_runtime: Array) -> Array:
    """On-demand USD of a run of each configuration, (configurations,); NaN where nothing prices it."""
    result: Array = np.exp(
        log_objective(problem, log_runtime[None], objective="cost", options=(BY_NAME["on-demand"],))[0]
    )
    return result


def proposal(problem: Problem, prediction: Prediction, row: int, why: str) -> NextRun:
    """A configuration as the run to measure next, with what it is expected to take and to cost on demand."""
    mean = prediction.log_runtime[row]
    cost = run_cost_usd(problem, prediction.log_runtime)[row] if np.isfinite(mean) else np.nan
    return NextRun(
        why=why,
        expected_runtime_s=float(np.exp(mean)) if np.isfinite(mean) else None,
        expected_cost_usd=float(cost) if np.isfinite(cost) else None,
        **vars(problem.candidates.configuration(row)),
    )


def row_of(problem: Problem, configuration: Configuration) -> int:
    """Row of a configuration among the problem's; -1 where it is no candidate."""
    cells = {
        "instance_type": configuration.instance_type,
        "node_count": configuration.node_count,
        **configuration.params,
    }
    return int(configuration_rows(problem, pd.DataFrame([cells]))[0])
