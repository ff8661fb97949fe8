"""Where another offer would come first, everything else being equal: at which price, runtime or number of runs a month.

Notation
--------
a, b    the first and its rival: an offer under one purchase option, at the median of its runtime T
v       value: USD of a run (or seconds) divided by P(completing)       p  USD per hour of one node       u  runs a month

Cost is proportional to p under every purchase option, so v_a = v_b at p_a v_b/v_a, or at p_b v_a/v_b; where one price is
p_a and p_b there is none. It never falls with T: the break-even is the longest T with v_a(T) <= v_b, found by bisection. A commitment costs k p n 730/u with
k = ceil(u T/730) clusters, the others the same at every u: between the points k 730/T and k p_b n 730/v_a the order of the
two does not change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recommender.models import Array, Prediction
from recommender.pricing import OptionPrices
from recommender.pricing.cost import HOURS_PER_MONTH, commitment_cost, hazard_per_hour, spot_wall_time_h
from recommender.problem import Problem
from recommender.recommendation import Flip
from recommender.units import format_duration, format_usd

SHORTEST_S, LONGEST_S = 1e-3, 1e9
"""Runtimes between which a break-even is looked for."""
CLUSTERS = 50
"""Committed clusters more than now, up to which a break-even is looked for."""


@dataclass(frozen=True)
class Side:
    """One offer under one purchase option."""

    problem: Problem
    prediction: Prediction
    prices: OptionPrices
    offer: int

    @property
    def row(self) -> int:
        """Its configuration."""
        return int(self.problem.candidates.offers.configuration[self.offer])

    @property
    def runtime_s(self) -> float:
        """T."""
        return float(np.exp(self.prediction.log_runtime[self.row]))

    @property
    def usd_per_hour(self) -> float:
        """p."""
        return float(self.prices.usd_per_hour[self.offer])

    def value(self, runtime_s: float) -> float:
        """v at a runtime."""
        problem, offers, t = self.problem, self.problem.candidates.offers, np.array([runtime_s])
        if problem.objective == "cost":
            value = self.prices.cost(t, offers, problem.usage, np.array([self.offer]))
        elif self.prices.interruption_per_month is None:
            value = t
        else:
            hazard = offers.nodes[self.offer] * hazard_per_hour(self.prices.interruption_per_month[self.offer])
            value = spot_wall_time_h(t, hazard, problem.usage) * 3600.0
        return float(value[0]) / float(self.prediction.completing[self.row])

    def by_usage(self, runs_per_month: Array) -> Array:
        """v at each number of runs a month."""
        if not self.prices.option.committed:
            return np.full(len(runs_per_month), self.value(self.runtime_s))
        nodes = self.problem.candidates.offers.nodes[self.offer]
        usd = commitment_cost(self.runtime_s, self.usd_per_hour, nodes, runs_per_month=runs_per_month)  # type: ignore[arg-type]
        return np.asarray(usd / self.prediction.completing[self.row])

    @property
    def instance_type(self) -> str:
        """Of its configuration."""
        return str(self.problem.configurations["instance_type"].iloc[self.row])

    def shares_price(self, other: Side) -> bool:
        """Whether one price is paid for a node of both: no change of it tells them apart."""
        region, option = self.problem.candidates.offers.region, self.prices.option.name
        mine, theirs = (self.instance_type, region[self.offer]), (other.instance_type, region[other.offer])
        return mine == theirs and option == other.prices.option.name and self.usd_per_hour == other.usd_per_hour

    @property
    def label(self) -> str:
        """In words."""
        offers = self.problem.candidates.offers
        where = offers.regions[offers.region[self.offer]]
        name = f"{self.problem.candidates.configuration(self.row).label} {self.prices.option.name}"
        return f"{name} in {where}" if where and len(offers.regions) > 1 else name


def flip(first: Side, rival: Side, role: str) -> Flip:
    """Where `rival` would be as good as `first`; None for what would never make it so."""
    cost = first.problem.objective == "cost"
    a, b = first.value(first.runtime_s), rival.value(rival.runtime_s)
    priced = cost and not first.shares_price(rival)
    same = first.row == rival.row  # one runtime for both: it is no way to tell them apart
    made = Flip(
        rival=rival.label,
        role=role,
        first_usd_per_hour=first.usd_per_hour * b / a if priced else None,
        rival_usd_per_hour=rival.usd_per_hour * a / b if priced else None,
        first_runtime_s=None if same else _longest(first, b),
        rival_runtime_s=None if same else _longest(rival, a),
        runs_per_month=_usage(first, rival) if cost else None,
        sentence="",
    )
    return replace(made, sentence=_sentence(first, rival, made))


def _longest(side: Side, value: float) -> float | None:
    """The longest runtime of `side` whose value is at most `value`; None where every or no runtime has."""
    low, high = np.log(SHORTEST_S), np.log(LONGEST_S)
    if side.value(SHORTEST_S) > value or side.value(LONGEST_S) <= value:
        return None
    while high - low > 1e-12 * max(abs(high), 1.0):
        middle = (low + high) / 2.0
        low, high = (middle, high) if side.value(float(np.exp(middle))) <= value else (low, middle)
    return float(np.exp(low))


def _usage(first: Side, rival: Side) -> float | None:
    """The number of runs a month nearest to what is planned, by ratio, at which the order of the two changes."""
    now = first.problem.usage.runs_per_month
    points: list[Array] = []
    most = np.inf  # above which more than CLUSTERS would have to be looked at
    for mine, other in ((first, rival), (rival, first)):
        if mine.prices.option.committed:
            busy_h = mine.runtime_s / 3600.0
            k = np.arange(1, np.ceil(now * busy_h / HOURS_PER_MONTH) + CLUSTERS)
            points.append(k * HOURS_PER_MONTH / busy_h)
            most = min(most, float(points[-1].max()))
            if not other.prices.option.committed:
                once = float(mine.by_usage(np.array([1e-9]))[0]) * 1e-9  # USD a month of one cluster
                points.append(k * once / other.value(other.runtime_s))
    if not points:
        return None
    at = np.unique(np.concatenate(points))
    edges = np.concatenate([[min(at[0], now) / 2.0], at[at <= most]])
    middle: Array = np.sqrt(edges[:-1] * edges[1:])
    here = float((first.by_usage(np.array([now])) - rival.by_usage(np.array([now])))[0]) <= 0.0
    other_way = ((first.by_usage(middle) - rival.by_usage(middle)) <= 0.0) != here
    above, below = np.flatnonzero(other_way & (middle > now)), np.flatnonzero(other_way & (middle < now))
    found = [float(edges[above[0]])] if len(above) else []
    found += [float(edges[below[-1] + 1])] if len(below) else []
    return min(found, key=lambda u: abs(np.log(u / now)), default=None)


def _sentence(first: Side, rival: Side, at: Flip) -> str:
    mine, theirs = (side.problem.candidates.configuration(side.row).label for side in (first, rival))
    if mine == theirs:
        mine, theirs = first.label, rival.label
    ways = []
    if at.first_usd_per_hour is not None and at.rival_usd_per_hour is not None:
        ways.append(f"{mine} costs more than {_apart(at.first_usd_per_hour, first.usd_per_hour, 'per node-hour ')}")
        ways.append(f"{theirs} less than {_apart(at.rival_usd_per_hour, rival.usd_per_hour)}")
    if at.first_runtime_s is not None:
        ways.append(
            f"{mine} takes more than {format_duration(at.first_runtime_s)} (expected {format_duration(first.runtime_s)})"
        )
    if at.rival_runtime_s is not None:
        ways.append(
            f"{theirs} less than {format_duration(at.rival_runtime_s)} (expected {format_duration(rival.runtime_s)})"
        )
    if at.runs_per_month is not None:
        now = first.problem.usage.runs_per_month
        word = "more" if at.runs_per_month > now else "fewer"
        ways.append(f"it runs {word} than {at.runs_per_month:,.1f} times a month (now {now:,.1f})")
    alike = (
        f"; a price of {first.instance_type} moves both alike"
        if at.first_usd_per_hour is None and first.problem.objective == "cost"
        else ""
    )
    found = f"{rival.label} comes first if {', or '.join(ways)}" if ways else f"nothing puts {rival.label} first"
    return found + alike


def _apart(flips: float, now: float, per: str = "") -> str:
    """A price, and what it is now, in as many digits as tell them apart."""
    shown = format_usd(flips), format_usd(now)
    if shown[0] == shown[1] and flips != now:
        digits = 2 - int(np.floor(np.log10(abs(flips - now))))
        shown = f"${flips:,.{digits}f}", f"${now:,.{digits}f}"
    return f"{shown[0]} {per}(now {shown[1]})"
