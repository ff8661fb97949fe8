"""From a prediction to a ranked answer: price every candidate, test the constraints, order, explain.

Notation: ln T ~ N(μ, σ²) per configuration; z the standard normal quantile of the confidence. Cost is an increasing
function of T, so quantiles of T become quantiles of cost, and P(cost ≤ budget) ≥ confidence is cost(exp(μ + zσ)) ≤ budget.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from recommender.break_even import Side, flip
from recommender.errors import InfeasibleError
from recommender.models import EVIDENCE, MEASURED, Prediction, configuration_rows, measured
from recommender.models.completing import Z10, deadline_probability
from recommender.pricing import BY_NAME, PRICE_QUALITIES, OptionPrices, price_option
from recommender.pricing.cost import clusters_committed
from recommender.problem import Problem
from recommender.recommendation import Basis, Explanation, Flip, NextRun, Quantiles, Recommendation, Row, WayToPay
from recommender.runs import Runs
from recommender.scoring import Scored, Tally, score
from recommender.units import format_usd


def rank(
    problem: Problem, prediction: Prediction, *, strategy: str, why: str, measure: bool = True, runs: Runs | None = None
) -> Recommendation:
    """Rank all candidates of `problem` by the objective among those that meet the constraints.

    `runs` are those of the workload, for the explanation of what the answer rests on.

    Where no runtime is believed at all, candidates are ordered by the prediction's preference, else by price per hour,
    and constraints on runtime and cost are reported as unknown.

    Raises
    ------
    InfeasibleError
        When no candidate is left; says which constraint excluded how many and the nearest relaxation.
    """
    tally = Tally(problem, prediction)
    scored = [
        score(problem, prediction, price_option(o, problem.candidates.offers, problem.catalogue.spot), tally)
        for o in problem.options
    ]
    excluded = tally.exclusions()
    merged = [(s.value[i], s.tie[i], int(s.offer[i]), j, s) for j, s in enumerate(scored) for i in range(len(s.offer))]
    merged.sort(key=lambda m: m[:4])
    if (
        problem.objective == "runtime"
    ):  # one row for equally fast ways to pay for one machine: the cheapest, which is first
        cheapest: dict[tuple[float, int], Entry] = {}
        for entry in merged:
            cheapest.setdefault((entry[0], entry[2]), entry)
        merged = list(cheapest.values())
    if not merged:
        raise InfeasibleError(tally.infeasible(excluded))
    warnings = [*problem.notes, *prediction.warnings]
    if not tally.known:
        warnings.append(
            "no runtime is known: candidates are ranked without it, and neither cost nor deadline can be promised; "
            + _lacking(problem, runs, strategy)
        )
    rows = _rows(problem, prediction, merged[: max(problem.top, 2)])[: problem.top]
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
        prediction=prediction,
        runs=runs,
        explain=partial(_explain, problem, prediction, runs, merged, scored),
        saves_usd=partial(_saves_usd, problem, prediction, merged),
    )


def _lacking(problem: Problem, runs: Runs | None, strategy: str) -> str:
    """What would make runtimes known."""
    done = len(runs.completed) if runs is not None else 0
    if runs is None or not done:
        return "measure some runs (recommender profile)"
    if measured(problem, runs).count.any():
        return f"{strategy} uses none of the workload's {done} completed runs"
    return (
        f"none of the workload's {done} completed runs is of a candidate at the input asked about, and {strategy} uses no "
        "others: measure some there, or ask what scales runs to other inputs (--strategy ernest or c3o)"
    )


def describe(problem: Problem) -> dict[str, Any]:
    """What was asked, in plain values."""
    usage = problem.usage
    return {
        "workload": problem.workload,
        "objective": problem.objective,
        "deadline_s": problem.deadline_s,
        "budget_usd": problem.budget_usd,
        **({"search_budget_usd": problem.search_budget_usd} if problem.search_budget_usd is not None else {}),
        "confidence": problem.confidence,
        "regions": [r for r in problem.candidates.offers.regions if r],
        "purchase_options": [o.name for o in problem.options],
        "inputs": {k.removeprefix("input."): v for k, v in problem.inputs.items()},
        "runs_per_month": usage.runs_per_month,
        "runs_planned": problem.runs_planned,
        "checkpoint_interval_s": usage.checkpoint_interval_s,
        "seed": problem.seed,
        "configurations": len(problem.configurations),
        "candidates": len(problem.candidates.offers) * len(problem.options)
        + sum(e.count for e in problem.candidates.exclusions),
    }


Entry = tuple[float, float, int, int, Scored]
"""Value, tie-breaker, offer, position of the purchase option, its scores."""
Merged = list[Entry]


def _rows(problem: Problem, prediction: Prediction, best: Merged) -> list[Row]:
    offers = problem.candidates.offers
    probability = (
        {id(s): deadline_probability(problem, prediction, s.prices) for *_, s in best}
        if problem.deadline_s is not None
        else {}
    )
    rows: list[Row] = []
    for position, (_, _, offer, _, s) in enumerate(best):
        i = int(offers.configuration[offer])
        mean, spread = prediction.log_runtime[i], prediction.spread[i]
        runtime = cost = None
        priced = not np.isnan(s.prices.usd_per_hour[offer])
        if np.isfinite(mean):
            quantiles = np.exp(mean + spread * np.array([Z10, 0.0, -Z10]))
            runtime = Quantiles(*map(float, quantiles))
        if runtime is not None and priced:
            cost = Quantiles(*map(float, s.prices.cost(quantiles, offers, problem.usage, np.full(3, offer))))
        rows.append(
            Row(
                rank=position + 1,
                region=offers.regions[offers.region[offer]],
                purchase_option=s.prices.option.name,
                runtime_s=runtime,
                cost_usd=cost,
                usd_per_hour=float(s.prices.usd_per_hour[offer]) if priced else None,
                deadline_probability=float(probability[id(s)][offer]) if probability and runtime else None,
                evidence=EVIDENCE[prediction.evidence[i]],
                price_quality=PRICE_QUALITIES[s.prices.quality[offer]] if priced else None,
                reason="",
                **vars(problem.candidates.configuration(i)),
            )
        )
    index = [int(offers.configuration[m[2]]) for m in best]
    paid = [_billing(problem, prediction, s.prices, offer) for _, _, offer, _, s in best]
    return [_explained(prediction, rows, k, index[k], paid[k]) for k in range(len(rows))]


def _billing(problem: Problem, prediction: Prediction, prices: OptionPrices, offer: int) -> str:
    """What the bill is besides time x price: the billing minimum, or the machines of a commitment."""
    offers = problem.candidates.offers
    runtime = float(np.exp(prediction.log_runtime[offers.configuration[offer]]))
    if prices.option.committed:
        way = _way_to_pay(problem, prediction, prices, offer)
        upfront = f", {format_usd(way.upfront_usd)} for the term due at its start" if way.upfront_usd else ""
        monthly = (
            f", {format_usd(way.usd_per_month)} a month whether used or not" if way.usd_per_month is not None else ""
        )
        years = f"{prices.option.term_years} year{'s' if prices.option.term_years > 1 else ''}"
        return f"commits to {way.machines_committed} machine{'s' if way.machines_committed > 1 else ''} for {years}{monthly}{upfront}"
    return f"billed as {offers.minimum_s[offer]:.0f} s, the minimum" if runtime < offers.minimum_s[offer] else ""


def _ways_to_pay(problem: Problem, prediction: Prediction, prices: list[OptionPrices], offer: int) -> list[WayToPay]:
    """Every purchase option of one offer with a known price, cheapest run first."""
    ways = [_way_to_pay(problem, prediction, p, offer) for p in prices if not np.isnan(p.usd_per_hour[offer])]
    return sorted(ways, key=lambda w: (w.cost_usd is None, w.cost_usd or 0.0, w.usd_per_hour))


def _way_to_pay(problem: Problem, prediction: Prediction, prices: OptionPrices, offer: int) -> WayToPay:
    offers, per_month = problem.candidates.offers, problem.usage.runs_per_month
    runtime = np.exp(prediction.log_runtime[[offers.configuration[offer]]])
    cost = float(prices.cost(runtime, offers, problem.usage, np.array([offer]))[0])
    known, committed = bool(np.isfinite(cost)), prices.option.committed
    clusters = clusters_committed(runtime, per_month)[0] if known else 1.0
    machines = int(offers.nodes[offer] * clusters) if committed else 0
    return WayToPay(
        purchase_option=prices.option.name,
        usd_per_hour=float(prices.usd_per_hour[offer]),
        cost_usd=cost if known else None,
        usd_per_month=cost * per_month if known else None,
        machines_committed=machines,
        upfront_usd=prices.upfront_usd(offer, machines),
        price_quality=PRICE_QUALITIES[prices.quality[offer]],
    )


def _explained(prediction: Prediction, rows: list[Row], position: int, index: int, billing: str) -> Row:
    """The row with its one line why: the first against the runner-up, the others against the first."""
    row, parts = rows[position], []
    if binding := prediction.binding(index):
        parts.append(binding)
    if (share := float(prediction.completing[index])) < 1.0:
        count = int(prediction.lost[index]) if prediction.lost is not None else 0
        words = "1 run failed or was stopped" if count == 1 else f"{count} runs failed or were stopped"
        lost = f"{words}: " if count else ""
        repeats = f", {format_usd(row.cost_usd.p50 / share)} counting repeats" if row.cost_usd else ""
        parts.append(f"{lost}P(completing) {share:.0%}{repeats}")
    if billing:
        parts.append(billing)
    other = rows[1] if position == 0 and len(rows) > 1 else rows[0] if position else None
    if other is not None:
        mine, theirs = (row, other) if position else (other, row)
        where = f" in {other.region}" if other.region != row.region else ""
        name = f"runner-up {other.label} {other.purchase_option}{where} is" if position == 0 else "against the first:"
        parts.append(f"{name} {_difference(mine, theirs)}")
    return replace(row, reason="; ".join(parts))


def _difference(row: Row, best: Row) -> str:
    """How `row` differs from `best`, in words."""

    def compare(mine: float, theirs: float, more: str, less: str, same: str, noun: str) -> str:
        ratio = mine / theirs
        if abs(ratio - 1.0) < 0.005:
            return same
        return f"{ratio:.1f} x the {noun}" if ratio > 2 else f"{abs(ratio - 1.0):.0%} {more if ratio > 1 else less}"

    parts = []
    if row.cost_usd is not None and best.cost_usd is not None:
        parts.append(compare(row.cost_usd.p50, best.cost_usd.p50, "dearer", "cheaper", "as dear", "cost"))
    if row.runtime_s is not None and best.runtime_s is not None:
        parts.append(compare(row.runtime_s.p50, best.runtime_s.p50, "slower", "faster", "as fast", "time"))
    if row.usd_per_hour is None or best.usd_per_hour is None:
        parts.append("hourly prices not all known")
    else:
        hourly = (row.usd_per_hour * row.node_count, best.usd_per_hour * best.node_count)
        parts.append(compare(*hourly, "higher hourly price", "lower hourly price", "same hourly price", "hourly price"))
    return ", ".join(parts)


def _probability_first_better(problem: Problem, prediction: Prediction, first: Entry, second: Entry) -> float:
    """P(value of `first` < value of `second`) plus half the probability that they are equal, by quadrature.

    Values are those that are ranked (USD, with the billing minimum and whole commitments, or time). The spread that two
    types of one family share cancels and is left out.
    """
    offers, usage = problem.candidates.offers, problem.usage
    i, j = (int(offers.configuration[e[2]]) for e in (first, second))
    family = problem.configurations["family"].to_numpy(object)
    same = family[i] == family[j] != ""
    shared = min(prediction.family_spread[i], prediction.family_spread[j]) if same else 0.0
    z = ndtri((np.arange(201) + 0.5) / 201)

    def values(entry: Entry, row: int) -> npt.NDArray[np.float64]:
        own = np.sqrt(max(prediction.spread[row] ** 2 - shared**2, 1e-12))
        runtime = np.exp(prediction.log_runtime[row] + own * z)
        prices, offer = entry[4].prices, np.full(len(z), entry[2])
        return prices.cost(runtime, offers, usage, offer) if problem.objective == "cost" else runtime

    a, b = values(first, i)[:, None] / prediction.completing[i], values(second, j)[None, :] / prediction.completing[j]
    return float(np.mean(a < b) + 0.5 * np.mean(a == b))


def _too_close(problem: Problem, prediction: Prediction, merged: Merged) -> tuple[str, int | None]:
    """Say so when the best two configurations cannot be told apart; the rival's offer, if there is one."""
    offers, at = problem.candidates.offers, problem.candidates.offers.configuration
    first = merged[0]
    rival = next((m for m in merged[1:] if at[m[2]] != at[first[2]]), None)
    a = int(at[first[2]])
    if rival is None or not np.isfinite(prediction.log_runtime[a]) or prediction.preference is not None:
        return "", None
    b = int(at[rival[2]])
    sure = _probability_first_better(problem, prediction, first, rival)
    if sure >= problem.confidence:
        return "", None
    names = [problem.candidates.configuration(i).label for i in (a, b)]
    places = [offers.regions[offers.region[m[2]]] for m in (first, rival)]
    if places[0] != places[1]:
        names = [f"{name} in {place}" if place else name for name, place in zip(names, places, strict=True)]
    word = "cheaper" if problem.objective == "cost" else "faster"
    return (
        f"the two best cannot be told apart: P({names[0]} is {word} than {names[1]}) is {sure:.0%}, below {problem.confidence:.0%}",
        rival[2],
    )


def _explain(
    problem: Problem, prediction: Prediction, runs: Runs | None, merged: Merged, scored: list[Scored]
) -> Explanation:
    """What binds the first, what the first three rest on, and where the runner-up or another way to pay comes first."""
    at = problem.candidates.offers.configuration
    top = [int(at[m[2]]) for m in merged[: min(3, problem.top)]]
    count = measured(problem, runs).count if runs is not None else np.zeros(len(problem.configurations))
    archive = problem.archive.completed if problem.archive is not None else None
    row = configuration_rows(problem, archive) if archive is not None else np.zeros(0, dtype=np.intp)
    basis = [
        Basis(
            rank=position,
            configuration=problem.candidates.configuration(i).label,
            evidence=EVIDENCE[prediction.evidence[i]],
            runs=int(count[i]),
            runs_of_workload=len(runs.completed) if runs is not None else 0,
            other_workloads=int(archive["workload"][row == i].nunique()) if archive is not None else 0,
        )
        for position, i in enumerate(top, 1)
    ]
    return Explanation(prediction.binding(top[0]), tuple(basis), _flips(problem, prediction, merged, scored))


def _flips(problem: Problem, prediction: Prediction, merged: Merged, scored: list[Scored]) -> tuple[Flip, ...]:
    """Break-evens of the best other configuration and of the first's other ways to pay, in the order of their value."""
    at, (_, _, offer, j, _) = problem.candidates.offers.configuration, merged[0]
    if prediction.preference is not None or not np.isfinite(prediction.log_runtime[at[offer]]):
        return ()
    first = Side(problem, prediction, scored[j].prices, offer)
    rival = next((m for m in merged[1:] if at[m[2]] != at[offer]), None)
    found = [flip(first, Side(problem, prediction, rival[4].prices, rival[2]), "runner-up")] if rival else []
    ways = [Side(problem, prediction, s.prices, offer) for k, s in enumerate(scored) if k != j]
    ways = [way for way in ways if np.isfinite(way.value(way.runtime_s))]
    if problem.objective == "cost":
        found += [flip(first, way, "way to pay") for way in sorted(ways, key=lambda w: w.value(w.runtime_s))]
    return tuple(found)


def _saves_usd(problem: Problem, prediction: Prediction, merged: Merged, row: int) -> float | None:
    """USD a run by which measuring configuration `row` is expected to make the best cheaper: min(E V, a) − E min(V, a).

    V is its value, noise left out, and a that of the best other configuration at its median (knowledge gradient, Frazier et
    al. 2009): what is chosen with V known, against what is chosen without.
    """
    at = problem.candidates.offers.configuration
    mine = next((m for m in merged if at[m[2]] == row), None)
    other = next((m[0] for m in merged if at[m[2]] != row), None)
    if problem.objective != "cost" or mine is None or other is None or not np.isfinite(prediction.log_runtime[row]):
        return None
    z = ndtri((np.arange(201) + 0.5) / 201)
    runtime = np.exp(prediction.log_runtime[row] + prediction.latent[row] * z)
    cost = mine[4].prices.cost(runtime, problem.candidates.offers, problem.usage, np.full(len(z), mine[2]))
    value = cost / prediction.completing[row]
    return max(0.0, float(min(value.mean(), other) - np.minimum(value, other).mean()))


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
        on_demand = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
        cost = float(on_demand.cost(np.exp(prediction.log_runtime[[i]]), offers, problem.usage, np.array([offer]))[0])
        return NextRun(
            why=why,
            expected_runtime_s=runtime,
            expected_cost_usd=cost if np.isfinite(cost) else None,
            saves_usd=_saves_usd(problem, prediction, merged, i),
            **vars(problem.candidates.configuration(i)),
        )
    return None
