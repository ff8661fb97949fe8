"""From a prediction to a ranked answer: price every candidate, test the constraints, order, explain.

Notation: ln T ~ N(μ, σ²) per configuration; z the standard normal quantile of the confidence. Cost is an increasing
function of T, so quantiles of T become quantiles of cost, and P(cost ≤ budget) ≥ confidence is cost(exp(μ + zσ)) ≤ budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from recommender.candidates import Exclusion
from recommender.errors import InfeasibleError
from recommender.models import EVIDENCE, MEASURED, Array, Prediction
from recommender.pricing import PRICE_QUALITIES, OptionPrices, price_option
from recommender.problem import Problem
from recommender.recommendation import NextRun, Quantiles, Recommendation, Row, WayToPay
from recommender.units import format_duration, format_usd

Z10 = float(ndtri(0.1))


@dataclass(frozen=True)
class Scored:
    """The best candidates under one purchase option."""

    prices: OptionPrices
    offer: npt.NDArray[np.intp]
    value: Array
    """What is minimised, divided by P(completing): a run that fails is paid and run again."""
    tie: Array
    """Broken ties: USD per run, or per hour where runtimes are not known."""


def rank(problem: Problem, prediction: Prediction, *, strategy: str, why: str, measure: bool = True) -> Recommendation:
    """Rank all candidates of `problem` by the objective among those that meet the constraints.

    Where no runtime is believed at all, candidates are ordered by the prediction's preference, else by price per hour,
    and constraints on runtime and cost are reported as unknown.

    Raises
    ------
    InfeasibleError
        When no candidate is left; says which constraint excluded how many and the nearest relaxation.
    """
    tally = _Tally(problem, prediction)
    scored = [
        _score(problem, prediction, price_option(o, problem.candidates.offers, problem.catalogue.spot), tally)
        for o in problem.options
    ]
    excluded = tally.exclusions()
    merged = [(s.value[i], s.tie[i], int(s.offer[i]), j, s) for j, s in enumerate(scored) for i in range(len(s.offer))]
    merged.sort(key=lambda m: m[:4])
    if not merged:
        raise InfeasibleError(tally.infeasible(excluded))
    warnings = [*problem.notes, *prediction.warnings]
    if not tally.known:
        warnings.append(
            "no runtime is known: candidates are ranked without it, and neither cost nor deadline can be promised; measure some runs (recommender profile)"
        )
    rows = _rows(problem, prediction, merged[: problem.top])
    close, rival = _too_close(problem, prediction, merged)
    if close:
        warnings.append(close)
    return Recommendation(
        problem=describe(problem),
        strategy=strategy,
        why=why,
        rows=tuple(rows),
        ways_to_pay=tuple(_ways_to_pay(problem, prediction, [s.prices for s in scored], merged[0][2])),
        excluded=tuple(excluded),
        next_run=_next_run(problem, prediction, merged, rival) if measure else None,
        warnings=tuple(dict.fromkeys(warnings)),
        candidates=tally.ranked,
    )


def describe(problem: Problem) -> dict[str, Any]:
    """What was asked, in plain values."""
    usage = problem.usage
    return {
        "workload": problem.workload,
        "objective": problem.objective,
        "deadline_s": problem.deadline_s,
        "budget_usd": problem.budget_usd,
        "confidence": problem.confidence,
        "regions": [r for r in problem.candidates.offers.regions if r],
        "purchase_options": [o.name for o in problem.options],
        "inputs": {k.removeprefix("input."): v for k, v in problem.inputs.items()},
        "runs_per_month": usage.runs_per_month,
        "checkpoint_interval_s": usage.checkpoint_interval_s,
        "seed": problem.seed,
        "configurations": len(problem.configurations),
        "candidates": len(problem.candidates.offers) * len(problem.options)
        + sum(e.count for e in problem.candidates.exclusions),
    }


class _Tally:
    """Counts exclusions by reason over purchase options, and remembers the nearest miss of each constraint."""

    def __init__(self, problem: Problem, prediction: Prediction) -> None:
        self.problem, self.prediction = problem, prediction
        self.known = (
            bool((np.isfinite(prediction.log_runtime) & (prediction.excluded == 0)).any())
            and prediction.preference is None
        )
        self.counts: dict[str, int] = {}
        self.nearest: dict[str, float] = {}
        self.ranked = 0

    def drop(
        self, alive: npt.NDArray[np.bool_], reason: str, out: npt.NDArray[np.bool_], needs: Array | None = None
    ) -> None:
        """Take `out` from `alive` in place, for `reason`; `needs` is what each would have needed of the constraint."""
        gone = alive & out
        count = int(gone.sum())
        if not count:
            return
        self.counts[reason] = self.counts.get(reason, 0) + count
        if needs is not None:
            self.nearest[reason] = min(self.nearest.get(reason, np.inf), float(needs[gone].min()))
        alive &= ~out

    def exclusions(self) -> list[Exclusion]:
        """Return what was excluded before and during ranking, most first."""
        p = self.problem
        words = dict(self.prediction.reasons) | {
            "no_price": "no price is known for this purchase option",
            "never_finishes": "on spot, interruptions would practically never let it finish without checkpoints (--checkpoint-interval)",
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
        p, hints = self.problem, []
        if np.isfinite(needed := self.nearest.get("deadline", np.inf)):
            hints.append(f"--deadline {int(np.ceil(needed)) + 1}s ({format_duration(needed)})")
        if np.isfinite(needed := self.nearest.get("budget", np.inf)):
            hints.append(f"--budget {needed * 1.0005:.4g}")
        if not hints and "memory" in self.counts:
            hints.append(
                f"a smaller --input, or machines with more memory than {p.configurations['memory_gib'].max():g} GiB"
            )
        elif not hints:
            hints.append("runs of more configurations, another --region or --purchase, or your own --prices")
        asked = ("deadline", "budget", "memory", "failed", "never_finishes", "no_evidence")
        first = [
            f"{e.reason} excludes {e.count} ({e.sentence})" for name in asked for e in excluded if e.reason == name
        ]
        rest = [f"{e.reason} {e.count}" for e in excluded if e.reason not in asked]
        others = f"; others: {', '.join(rest)}" if rest else ""
        return f"no candidate meets every constraint: {'; '.join(first)}{others}; the nearest relaxation that admits one: {' or '.join(hints)}"


def _score(problem: Problem, prediction: Prediction, prices: OptionPrices, tally: _Tally) -> Scored:
    """Score all offers under one purchase option and keep the best `problem.top` (and a rival configuration)."""
    offers, usage, at = problem.candidates.offers, problem.usage, problem.candidates.offers.configuration
    alive = np.ones(len(offers), dtype=bool)
    tally.drop(alive, "no_price", np.isnan(prices.usd_per_hour))
    for code, (reason, _) in enumerate(prediction.reasons, 1):
        tally.drop(alive, reason, (prediction.excluded == code)[at])
    hourly = prices.usd_per_hour * offers.nodes
    if not tally.known:
        value = prediction.preference[at] if prediction.preference is not None else hourly
        tally.drop(alive, "no_evidence", ~np.isfinite(value) & ~np.isnan(hourly))
        tally.ranked += int(alive.sum())
        return _keep(problem, prices, alive, value, hourly)
    tally.drop(alive, "no_evidence", ~np.isfinite(prediction.log_runtime)[at])
    z = float(ndtri(problem.confidence))
    runtime = np.exp(prediction.log_runtime)[at]
    cost = prices.cost(runtime, offers, usage)
    tally.drop(alive, "no_price", np.isnan(cost))
    tally.drop(alive, "never_finishes", ~np.isfinite(cost))
    if problem.deadline_s is not None:
        late = _deadline_probability(problem, prediction, prices) < problem.confidence
        tally.drop(alive, "deadline", late, _deadline_needed(problem, prediction, prices))
    if problem.budget_usd is not None:
        upper = prices.cost(np.exp(prediction.log_runtime + z * prediction.spread)[at], offers, usage)
        tally.drop(alive, "budget", upper > problem.budget_usd, upper)
    value = cost if problem.objective == "cost" else prices.wall_time_s(runtime, offers, usage)
    tally.ranked += int(alive.sum())
    return _keep(problem, prices, alive, value / prediction.completing[at], cost)


def _keep(problem: Problem, prices: OptionPrices, alive: npt.NDArray[np.bool_], value: Array, tie: Array) -> Scored:
    """The best `top` offers, and the best of another configuration than the very best; ties by price, then order."""
    rows = np.flatnonzero(alive)
    if len(rows) > problem.top:
        threshold = np.partition(value[rows], problem.top - 1)[problem.top - 1]
        at = problem.candidates.offers.configuration
        best = (
            rows[np.lexsort((rows, tie[rows], value[rows]))[0]] if len(rows) < 10_000 else rows[np.argmin(value[rows])]
        )
        others = rows[at[rows] != at[best]]
        rival = others[[np.argmin(value[others])]] if len(others) else others
        rows = np.union1d(rows[value[rows] <= threshold], rival)
        rows = rows[np.lexsort((rows, tie[rows], value[rows]))][: problem.top + 1]
    return Scored(prices, rows, value[rows], tie[rows])


def _deadline_probability(problem: Problem, prediction: Prediction, prices: OptionPrices) -> Array:
    """P(T ≤ D) times, on spot, a lower bound on P(no interruption spoils it) at the 90th percentile of T."""
    assert problem.deadline_s is not None
    offers, at = problem.candidates.offers, problem.candidates.offers.configuration
    with np.errstate(invalid="ignore"):
        within = ndtr((np.log(problem.deadline_s) - prediction.log_runtime) / prediction.spread)[at]
    slow = np.exp(prediction.log_runtime - Z10 * prediction.spread)[at]
    result: Array = (
        within * prediction.completing[at] * prices.survival(slow, problem.deadline_s, offers, problem.usage)
    )
    return result


def _deadline_needed(problem: Problem, prediction: Prediction, prices: OptionPrices) -> Array:
    """Seconds of a deadline that each offer would meet; inf where it would meet none with the confidence asked for."""
    offers, at = problem.candidates.offers, problem.candidates.offers.configuration
    slow = np.exp(prediction.log_runtime - Z10 * prediction.spread)[at]
    spared = prices.survival(slow, np.inf, offers, problem.usage)
    share = problem.confidence / (prediction.completing[at] * spared)
    with np.errstate(invalid="ignore"):
        needed = np.exp(prediction.log_runtime[at] + ndtri(np.minimum(share, 1.0)) * prediction.spread[at])
    if prices.interruption_per_month is not None:
        needed = np.maximum(needed, 2.0 * slow + problem.usage.restart_s)
    return np.where(share < 1.0, needed, np.inf)


Merged = list[tuple[float, float, int, int, Scored]]


def _rows(problem: Problem, prediction: Prediction, best: Merged) -> list[Row]:
    offers = problem.candidates.offers
    probability = (
        {id(s): _deadline_probability(problem, prediction, s.prices) for *_, s in best}
        if problem.deadline_s is not None
        else {}
    )
    rows: list[Row] = []
    for position, (_, _, offer, _, s) in enumerate(best):
        i = int(offers.configuration[offer])
        mean, spread = prediction.log_runtime[i], prediction.spread[i]
        runtime = cost = None
        if np.isfinite(mean):
            quantiles = np.exp(mean + spread * np.array([Z10, 0.0, -Z10]))
            runtime = Quantiles(*map(float, quantiles))
            cost = Quantiles(*map(float, s.prices.cost(quantiles, offers, problem.usage, np.full(3, offer))))
        rows.append(
            Row(
                rank=position + 1,
                region=offers.regions[offers.region[offer]],
                purchase_option=s.prices.option.name,
                runtime_s=runtime,
                cost_usd=cost,
                usd_per_hour=float(s.prices.usd_per_hour[offer]),
                deadline_probability=float(probability[id(s)][offer]) if probability and runtime else None,
                evidence=EVIDENCE[prediction.evidence[i]],
                price_quality=PRICE_QUALITIES[s.prices.quality[offer]],
                reason="",
                **problem.candidates.identity(i),
            )
        )
    index = [int(offers.configuration[m[2]]) for m in best]
    return [_explained(problem, prediction, rows, position, index[position]) for position in range(len(rows))]


def _ways_to_pay(problem: Problem, prediction: Prediction, prices: list[OptionPrices], offer: int) -> list[WayToPay]:
    """Every purchase option of one offer with a known price, cheapest run first."""
    offers = problem.candidates.offers
    mean = prediction.log_runtime[offers.configuration[offer]]
    ways = []
    for p in prices:
        usd = float(p.usd_per_hour[offer])
        if np.isnan(usd):
            continue
        cost = float(p.cost(np.exp([mean]), offers, problem.usage, np.array([offer]))[0]) if np.isfinite(mean) else None
        ways.append(
            WayToPay(
                p.option.name,
                usd,
                cost if cost is not None and np.isfinite(cost) else None,
                PRICE_QUALITIES[p.quality[offer]],
            )
        )
    return sorted(ways, key=lambda w: (w.cost_usd is None, w.cost_usd or 0.0, w.usd_per_hour))


def _explained(problem: Problem, prediction: Prediction, rows: list[Row], position: int, index: int) -> Row:
    """The row with its one line why: the first against the runner-up, the others against the first."""
    row, parts = rows[position], []
    if binding := prediction.binding(index):
        parts.append(binding)
    other = rows[1] if position == 0 and len(rows) > 1 else rows[0] if position else None
    if other is not None:
        mine, theirs = (row, other) if position else (other, row)
        name = (
            f"runner-up {other.instance_type} x{other.node_count} {other.purchase_option} is"
            if position == 0
            else "against the first:"
        )
        parts.append(f"{name} {_difference(mine, theirs)}")
    return Row(**{**{f: getattr(row, f) for f in row.__dataclass_fields__}, "reason": "; ".join(parts)})


def _difference(row: Row, best: Row) -> str:
    """How `row` differs from `best`, in words."""

    def compare(mine: float, theirs: float, more: str, less: str, same: str, noun: str) -> str:
        ratio = mine / theirs
        if abs(ratio - 1.0) < 0.005:
            return same
        return f"{ratio:.1f} x the {noun}" if ratio > 2 else f"{abs(ratio - 1.0):.0%} {more if ratio > 1 else less}"

    hourly = (row.usd_per_hour * row.node_count, best.usd_per_hour * best.node_count)
    price = compare(*hourly, "higher hourly price", "lower hourly price", "same hourly price", "hourly price")
    if row.runtime_s is None or best.runtime_s is None or row.cost_usd is None or best.cost_usd is None:
        return price
    cost = compare(row.cost_usd.p50, best.cost_usd.p50, "dearer", "cheaper", "as dear", "cost")
    time = compare(row.runtime_s.p50, best.runtime_s.p50, "slower", "faster", "as fast", "time")
    return f"{cost}, {time}, {price}"


def _probability_first_better(
    problem: Problem, prediction: Prediction, a: int, b: int, value_a: float, value_b: float
) -> float:
    """P(value_a < value_b): ln value_b − ln value_a ~ N(difference of medians, σa² + σb² less what a family shares twice)."""
    shared = 0.0
    family = problem.configurations["family"].to_numpy(object)
    if family[a] == family[b] != "":
        shared = min(prediction.family_spread[a], prediction.family_spread[b]) ** 2
    variance = prediction.spread[a] ** 2 + prediction.spread[b] ** 2 - 2 * shared
    return float(ndtr((np.log(value_b) - np.log(value_a)) / np.sqrt(max(variance, 1e-12))))


def _too_close(problem: Problem, prediction: Prediction, merged: Merged) -> tuple[str, int | None]:
    """Say so when the best two configurations cannot be told apart; the rival's offer, if there is one."""
    at = problem.candidates.offers.configuration
    first = merged[0]
    rival = next((m for m in merged[1:] if at[m[2]] != at[first[2]]), None)
    a = int(at[first[2]])
    if rival is None or not np.isfinite(prediction.log_runtime[a]) or prediction.preference is not None:
        return "", None
    b = int(at[rival[2]])
    sure = _probability_first_better(problem, prediction, a, b, first[0], rival[0])
    if sure >= problem.confidence:
        return "", None
    names = [problem.candidates.label(i) for i in (a, b)]
    word = "cheaper" if problem.objective == "cost" else "faster"
    return (
        f"the two best cannot be told apart: P({names[0]} is {word} than {names[1]}) is {sure:.0%}, below {problem.confidence:.0%}",
        rival[2],
    )


def _next_run(problem: Problem, prediction: Prediction, merged: Merged, rival: int | None) -> NextRun | None:
    """What to measure: the best while it is unmeasured; then a rival it cannot be told from; else nothing."""
    offers = problem.candidates.offers
    for offer, why in (
        (merged[0][2], "it is the best by what is believed, and was not measured at this input"),
        (rival, "it cannot be told apart from the best, and was not measured at this input"),
    ):
        if offer is None:
            continue
        i = int(offers.configuration[offer])
        if prediction.evidence[i] == MEASURED:
            continue
        runtime = float(np.exp(prediction.log_runtime[i])) if np.isfinite(prediction.log_runtime[i]) else None
        usd = float(offers.usd_per_hour[offer] * offers.nodes[offer])
        return NextRun(
            **problem.candidates.identity(i),
            why=why,
            expected_runtime_s=runtime,
            expected_cost_usd=usd * max(runtime, float(offers.minimum_s[offer])) / 3600.0
            if runtime is not None and np.isfinite(usd)
            else None,
        )
    return None
