"""Scoring every offer under one purchase option: constraints, exclusions by reason, the best few.

Notation: ln T ~ N(μ, σ²) per configuration; z the standard normal quantile of the confidence. Cost is an increasing
function of T, so P(cost ≤ budget) ≥ confidence is cost(exp(μ + zσ)) ≤ budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from recommender.candidates import Exclusion
from recommender.models import Array, Prediction
from recommender.models.completing import Z10, deadline_probability
from recommender.pricing import OptionPrices
from recommender.problem import Problem
from recommender.units import format_duration, format_usd

Mask = npt.NDArray[np.bool_]

NEVER = 10.0
"""A run on spot that is expected to take this many times its undisturbed length is not offered."""


@dataclass(frozen=True)
class Scored:
    """The best candidates under one purchase option."""

    prices: OptionPrices
    offer: npt.NDArray[np.intp]
    value: Array
    """What is minimised, divided by P(completing): a run that fails is paid and run again."""
    tie: Array
    """Broken ties: USD per run, or per hour where runtimes are not known; inf without a price."""


class Tally:
    """Counts exclusions by reason over purchase options, and remembers the nearest relaxation of the constraints."""

    def __init__(self, problem: Problem, prediction: Prediction) -> None:
        self.problem, self.prediction = problem, prediction
        self.known = bool((np.isfinite(prediction.log_runtime) & (prediction.excluded == 0)).any())
        self.counts: dict[str, int] = {}
        self.deadline_needed = self.budget_needed = np.inf
        self.both_needed = (np.inf, np.inf)
        self.surest = 0.0
        self.ranked = 0

    def drop(self, alive: Mask, reason: str, out: Mask) -> None:
        """Take `out` from `alive` in place, for `reason`."""
        if count := int((alive & out).sum()):
            self.counts[reason] = self.counts.get(reason, 0) + count
            alive &= ~out

    def near(self, late: Mask, dear: Mask, time_s: Array, usd: Array) -> None:
        """Remember what the candidates that fail only the deadline, only the budget, or both would have needed."""
        self.deadline_needed = min(self.deadline_needed, float(np.min(time_s[late & ~dear], initial=np.inf)))
        self.budget_needed = min(self.budget_needed, float(np.min(usd[dear & ~late], initial=np.inf)))
        both = np.flatnonzero(late & dear & np.isfinite(time_s))
        if len(both):
            best = both[np.argmin(usd[both])]
            self.both_needed = min(self.both_needed, (float(time_s[best]), float(usd[best])), key=lambda x: x[1])

    def exclusions(self) -> list[Exclusion]:
        """Return what was excluded before and during ranking, most first."""
        p = self.problem
        words = dict(self.prediction.reasons) | {
            "no_price": "others have no price (or, on spot, no interruption figure) for a purchase option",
            "never_finishes": f"on spot, interruptions would make it last more than {NEVER:g} times as long "
            "(--checkpoint-interval helps)",
            "no_evidence": "nothing is known of their runtime",
            "deadline": f"P(runtime <= {format_duration(p.deadline_s or 0)}) is below {p.confidence:.0%}",
            "budget": f"P(cost <= {format_usd(p.budget_usd or 0)}) is below {p.confidence:.0%}",
        }
        merged: dict[str, Exclusion] = {}
        for e in (*p.candidates.exclusions, *(Exclusion(r, n, words[r]) for r, n in self.counts.items())):
            old = merged.get(e.reason)
            merged[e.reason] = Exclusion(e.reason, e.count + old.count, f"{old.sentence}; {e.sentence}") if old else e
        return sorted(merged.values(), key=lambda e: (-e.count, e.reason))

    def infeasible(self, excluded: list[Exclusion]) -> str:
        """Return the sentence for a problem without a feasible candidate: what the user asked first."""
        hints = self._hints()
        asked = ("deadline", "budget", "memory", "failed", "never_finishes", "no_evidence")
        first = [f"{e.reason} {e.count} ({e.sentence})" for r in asked for e in excluded if e.reason == r]
        rest = [f"{e.reason} {e.count}" for e in excluded if e.reason not in asked]
        if not first and {e.reason for e in excluded} <= {"no_price"}:
            return (
                "no candidate has a price, and the objective is cost: give usd_per_hour in the candidates table or --prices, "
                f"or take --objective runtime (excluded: {'; '.join(rest)})"
            )
        parts = first + ([f"others: {', '.join(rest)}"] if rest else [])
        return (
            "no candidate meets every constraint; the nearest relaxation that admits one: "
            f"{' or '.join(hints)} (excluded: {'; '.join(parts)})"
        )

    def _hints(self) -> list[str]:
        def deadline(seconds: float) -> str:
            enough = int(np.ceil(seconds)) + 1
            return f"--deadline {enough}s ({format_duration(enough)})"

        hints = [deadline(self.deadline_needed)] if np.isfinite(self.deadline_needed) else []
        hints += [f"--budget {self.budget_needed * 1.0005:.4g}"] if np.isfinite(self.budget_needed) else []
        if not hints and np.isfinite(self.both_needed[0]):
            hints = [f"{deadline(self.both_needed[0])} and --budget {self.both_needed[1] * 1.0005:.4g}"]
        if not hints and 0.5 <= self.surest < self.problem.confidence:
            hints = [f"--confidence {np.floor(self.surest * 1000) / 1000:g}"]
        if not hints and "memory" in self.counts:
            most = self.problem.configurations["memory_gib"].max()
            hints = [f"a smaller --input, or machines with more memory than {most:g} GiB"]
        if not hints and "failed" in self.counts:
            hints = ["runs that complete: of other configurations, at a smaller --input, or with a longer time limit"]
        return hints or ["runs of more configurations, another --region or --purchase, or your own --prices"]


def score(problem: Problem, prediction: Prediction, prices: OptionPrices, tally: Tally) -> Scored:
    """Score all offers under one purchase option; keep the best `problem.top` and the best other configuration."""
    offers, usage, at = problem.candidates.offers, problem.usage, problem.candidates.offers.configuration
    alive = np.ones(len(offers), dtype=bool)
    rankable = problem.rankable(prices)
    tally.drop(alive, "no_price", ~rankable)
    for code, (reason, _) in enumerate(prediction.reasons, 1):
        tally.drop(alive, reason, (prediction.excluded == code)[at])
    hourly = prices.usd_per_hour * offers.nodes
    if not tally.known:
        value = prediction.preference[at] if prediction.preference is not None else hourly
        tally.drop(alive, "no_evidence", ~np.isfinite(value))
        tally.ranked += int(alive.sum())
        return _keep(problem, prices, alive, value, hourly)
    tally.drop(alive, "no_evidence", ~np.isfinite(prediction.log_runtime)[at])
    runtime = np.exp(prediction.log_runtime)[at]
    cost = prices.cost(runtime, offers, usage)
    tally.drop(alive, "no_price", np.isnan(cost) & ~np.isnan(prices.usd_per_hour))
    if prices.interruption_per_month is not None:
        slow = np.exp(prediction.log_runtime - Z10 * prediction.spread)[at]
        with np.errstate(invalid="ignore"):
            tally.drop(alive, "never_finishes", ~(prices.wall_time_s(slow, offers, usage) <= NEVER * slow))
    late, dear = np.zeros(len(offers), dtype=bool), np.zeros(len(offers), dtype=bool)
    upper = cost
    if problem.deadline_s is not None:
        probability = deadline_probability(problem, prediction, prices)
        late = probability < problem.confidence
        tally.surest = max(tally.surest, float(np.max(probability[alive], initial=0.0)))
    if problem.budget_usd is not None:
        z = float(ndtri(problem.confidence))
        upper = prices.cost(np.exp(prediction.log_runtime + z * prediction.spread)[at], offers, usage)
        dear = upper > problem.budget_usd
    if (late | dear).any():
        tally.near(alive & late, alive & dear, _deadline_needed(problem, prediction, prices), upper)
    tally.drop(alive, "deadline", late)
    tally.drop(alive, "budget", dear)
    if prediction.preference is not None:
        value = prediction.preference[at]
    else:
        value = cost if problem.objective == "cost" else prices.wall_time_s(runtime, offers, usage)
        value = value / prediction.completing[at]
    tally.drop(alive, "no_evidence", ~np.isfinite(value))
    tally.ranked += int(alive.sum())
    return _keep(problem, prices, alive, value, cost)


def _keep(problem: Problem, prices: OptionPrices, alive: Mask, value: Array, tie: Array) -> Scored:
    """The best `top` offers and the best of another configuration than the very best; ties by price, then order."""
    tie = np.where(np.isnan(tie), np.inf, tie)
    rows = np.flatnonzero(alive)
    if len(rows) > problem.top:
        at = problem.candidates.offers.configuration
        threshold = np.partition(value[rows], problem.top - 1)[problem.top - 1]
        close = rows[value[rows] <= threshold]
        best = close[np.lexsort((close, tie[close], value[close]))][: problem.top]
        others = rows[at[rows] != at[best[0]]]
        least = others[value[others] == value[others].min()] if len(others) else others
        rival = least[np.lexsort((least, tie[least]))][:1]
        rows = np.concatenate([best, rival[~np.isin(rival, best)]])
    return Scored(prices, rows, value[rows], tie[rows])


def _deadline_needed(problem: Problem, prediction: Prediction, prices: OptionPrices) -> Array:
    """Seconds of a deadline that each offer would meet; inf where it would meet none with the confidence asked for.

    On spot the lesser of two sufficient ones: without time for a second attempt, and with time for a whole one.
    """
    offers, at, usage = problem.candidates.offers, problem.candidates.offers.configuration, problem.usage
    mean, spread = prediction.log_runtime[at], prediction.spread[at]
    slow = np.exp(mean - Z10 * spread)

    def needed(spared: Array | float) -> Array:
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            share = problem.confidence / (prediction.completing[at] * spared)
            quantile = np.exp(mean + ndtri(np.minimum(share, 1.0)) * spread)
            return np.where(share < 1.0, prices.elapsed_s(quantile, usage), np.inf)

    once = needed(prices.survival(slow, 0.0, offers, usage))
    if prices.interruption_per_month is None:
        return once
    twice = needed(prices.survival(slow, np.inf, offers, usage))
    return np.minimum(once, np.maximum(twice, 2.0 * prices.elapsed_s(slow, usage) + usage.restart_s))
