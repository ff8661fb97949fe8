"""What if prices were others: a finished answer ranked again, its prediction kept.

Models predict runtime, so nothing is fitted again: only pricing, constraints and order.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from recommender.enumeration import own_prices
from recommender.errors import InputError, InsufficientEvidenceError, UnknownNameError, did_you_mean
from recommender.pricing import ALL_OPTIONS
from recommender.problem import Problem
from recommender.ranking import rank
from recommender.recommendation import Recommendation
from recommender.tables import PRICES, read_table
from recommender.units import format_usd


def changed_prices(
    problem: Problem, *, prices: pd.DataFrame | str | Path | None = None, changes: Iterable[str] = ()
) -> Problem:
    """The problem with other prices.

    Parameters
    ----------
    prices
        Price table; what it names takes the place of earlier prices. Candidates without any price before stay excluded.
    changes
        `NAME=+10%` each: NAME is a way to pay (or what several begin with, such as `reserved`), an instance type or a glob
        of them, or a region. A change of on-demand prices leaves the other ways to pay as they are.

    Raises
    ------
    RecommenderError
        For a change that cannot be read, and for a name that no candidate has.
    """
    offers = problem.candidates.offers
    kinds = problem.configurations["instance_type"].to_numpy(object)[offers.configuration]
    places = np.array(offers.regions, dtype=object)[offers.region]
    if prices is not None:
        # Candidates that came with a price are of no region: they are taken to be where the problem asks.
        pairs = pd.DataFrame({"instance_type": kinds, "region": np.where(places == "", problem.regions[0], places)})
        own = own_prices(read_table(prices, PRICES), pairs, problem.catalogue)
        if not any(np.isfinite(values).any() for values in own.values()):
            raise InputError(
                f"the price table{'' if isinstance(prices, pd.DataFrame) else f' {prices}'} prices none of the candidates, which "
                f"are in {', '.join(sorted(set(pairs['region'])))}: nothing would change"
            )
        merged = dict(offers.overrides)
        for name, values in own.items():
            before = merged.get(name, np.full(len(values), np.nan))
            merged[name] = np.where(np.isnan(values), before, values)
        offers = replace(offers, overrides=merged)
    factors = dict(offers.factors)
    for text in changes:
        target, factor = _parsed(text)
        names = [o.name for o in ALL_OPTIONS if o.name == target] or [
            o.name for o in ALL_OPTIONS if o.name.startswith(f"{target}-")
        ]
        if names:
            considered = [o.name for o in problem.options if o.name in names]
            if not considered:
                asked = ", ".join(o.name for o in problem.options)
                raise InputError(
                    f"what if {text}: {target} is not among the ways to pay asked about ({asked}); see --purchase"
                )
            touched, names = np.ones(len(offers), dtype=bool), considered
        else:
            known = [*np.unique(kinds.astype(str)), *offers.regions]
            matching = [name for name in known if name and fnmatch.fnmatchcase(name, target)]
            if not matching:
                near = did_you_mean(target, [*known, *(o.name for o in problem.options)])
                raise UnknownNameError(
                    f"what if {text}: {target!r} is no way to pay, and no instance type or region of the candidates{near}"
                )
            touched, names = np.isin(kinds, matching) | np.isin(places, matching), [o.name for o in ALL_OPTIONS]
        for name in names:
            factors[name] = factors.get(name, np.ones(len(offers))) * np.where(touched, factor, 1.0)
    return replace(problem, candidates=replace(problem.candidates, offers=replace(offers, factors=factors)))


def told_apart(answer: Recommendation, before: Recommendation, changes: Iterable[str]) -> Recommendation:
    """The repriced answer, which says what was changed and what came first before."""
    was, now = before.rows[0], answer.rows[0]
    flipped = (was.label, was.purchase_option, was.region) != (now.label, now.purchase_option, now.region)
    paid = f" at {format_usd(was.cost_usd.p50)} a run" if was.cost_usd else ""
    said = (
        f"before, {was.label} {was.purchase_option}{paid} came first"
        if flipped
        else f"the first stays, before{paid or ' too'}"
    )
    listed = list(changes)
    what_if = {
        "changes": listed,
        "before": was.to_dict(),
        "flipped": flipped,
        "sentence": f"What if {', '.join(listed)}: {said}",
    }
    return replace(answer, what_if=what_if)


def _parsed(text: str) -> tuple[str, float]:
    target, equals, value = text.partition("=")
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)\s*%", value.strip())
    percent = float(match.group(1)) if match else np.nan
    if not target.strip() or not equals or not percent > -100.0:
        raise InputError(f"what if {text!r}: NAME=+10% or NAME=-20% is needed, more than -100%, such as spot=-20%")
    return target.strip(), 1.0 + percent / 100.0


def reprice(answer: Recommendation, problem: Problem) -> Recommendation:
    """Rank a finished answer again by the prices of `problem` (see `changed_prices`), without fitting anything.

    What to measure next is not asked again. `problem` must have the candidates the answer was about.

    Raises
    ------
    InsufficientEvidenceError
        When the answer does not rest on runtimes but on an order that was made with the old prices: ask the strategy again.
    InfeasibleError
        When no candidate meets the constraints at these prices.
    """
    prediction = answer.prediction
    if prediction is None or len(prediction.log_runtime) != len(problem.configurations):
        raise InsufficientEvidenceError("the answer holds no prediction about these candidates; ask the strategy again")
    if prediction.preference is not None:
        raise InsufficientEvidenceError(
            "no runtime is believed, and the order was made with the old prices; ask the strategy again with the new ones"
        )
    new = rank(problem, prediction, strategy=answer.strategy, why=answer.why, measure=False, runs=answer.runs)
    return replace(new, considered=answer.considered)
