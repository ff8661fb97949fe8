"""Lynceus' acquisition (Casimiro et al., ICDCS 2020): the gain per dollar of the runs that a run would lead to.

Notation
--------
μ_i, σ_i  mean and spread of ln T_i by the trees       c_i  ln(USD per second on demand): ln cost_i = ln T_i + c_i
v_i       objective of configuration i (USD or s)      y*   the best feasible measured objective
p_i       P(a run completes, within deadline and budget of a run)
B         what is left of the search budget            γ    discount of what later runs gain and cost

    EIc(x) = E[max(y* − v_x, 0)] p_x = (y* Φ(z) − E[v_x] Φ(z − σ)) p_x,    z = (ln y* − ln v_x)/σ_x     (v lognormal)
    U(x) = EIc(x) + γ Σ_k w_k U(x'_k),    C(x) = E[cost_x] + γ Σ_k w_k C(x'_k),    measured next: argmax U/C
    x'_k = argmax EIc/E[cost] of those whose cost's 99th percentile is <= B_k, given ln T_x = μ_x + √2 σ_x h_k, w_k = ω_k/√π

h_k, ω_k are the nodes and weights of Gauss-Hermite quadrature for exp(−h²), so that Σ w = 1 and the first moments of the
normal are exact. Without a feasible run ln y* is the largest ln v seen + 3 x the largest σ.

Our choices. (1) All is in logarithms, as the house's predictions are: v is lognormal, and y* + 3 σ a factor. (2) A
fantasised run changes the mean of the leaf it falls in, m -> m + (v − m)/(n + 1) with n the runs there, in every tree; trees
are not grown again, which would take seconds an ask. (3) Only the `beam` candidates of the largest EIc/E[cost] are looked
ahead from; x' is the greedy choice among all. (4) Set-up costs nothing beyond the run, since recorded prices and times
hold it. (5) A fantasised run that is infeasible leaves y* as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from recommender.errors import InputError
from recommender.models import Array, PerformanceModel, Prediction, measured
from recommender.models.bagging import SURELY, Forest
from recommender.models.completing import tried
from recommender.pricing import BY_NAME
from recommender.problem import Problem
from recommender.runs import Runs
from recommender.search.acquisition import Scores, incumbent, log_objective, values
from recommender.search.stopping import spent_usd

CELLS = 3_000_000
"""Numbers held at once, about: members x candidates x fantasies."""
SECOND = np.log(1e-9)
"""ln of a runtime short enough to be billed the minimum."""


@runtime_checkable
class Grows(Protocol):
    """A model that shows its trees."""

    def grown(self, problem: Problem, runs: Runs) -> tuple[Prediction, Forest | None]:
        """Return the prediction and the trees it comes from."""
        ...


def quadrature(nodes: int) -> tuple[Array, Array]:
    """Points h' and weights w with E[f(μ + σ Z)] ≈ Σ w f(μ + σ h'), Z standard normal: h' = √2 h, w = ω/√π.

    Exact for polynomials up to degree 2 nodes − 1.
    """
    h, omega = np.polynomial.hermite.hermgauss(nodes)
    return np.sqrt(2.0) * h, omega / np.sqrt(np.pi)


def lognormal_improvement(mean: Array, spread: Array, best: Array) -> Array:
    """E[max(y* − v, 0)] of ln v ~ N(mean, spread²), with `best` = ln y*; in the units of v."""
    z = (best - mean) / spread
    result: Array = np.exp(best) * ndtr(z) - np.exp(mean + spread**2 / 2.0) * ndtr(z - spread)
    return np.maximum(result, 0.0)


@dataclass(frozen=True)
class Known:
    """What no fantasy changes, of the m candidates that may be measured; arrays of shape (m,)."""

    leaf: npt.NDArray[np.intp]
    """(members, m)."""
    log_price: Array
    """c."""
    least: Array
    """ln of the least that a run is billed."""
    slope: Array
    """Of ln v in ln T, and"""
    level: Array
    """its value at ln T = 0."""
    completing: Array
    reach: Array
    """ln of the 99th percentile of a run's time over its mean; fantasies leave it as it is."""
    error: float
    """Out-of-bag error of the trees, part of σ."""
    noise: float
    """Of a single run, in ln T."""
    log_deadline: float
    """inf without one."""
    log_budget: float
    """ln of what one run may cost, inf without a limit."""


@dataclass(frozen=True)
class States:
    """S states of the search, real or fantasised."""

    member: Array
    """ln T by each tree, (S, members, m)."""
    weight: Array
    """Runs in the leaf, (S, members, m)."""
    open: npt.NDArray[np.bool_]
    """Not measured yet, (S, m)."""
    left: Array
    """B in USD, (S,)."""
    best: Array
    """ln y*, (S,)."""


@dataclass(frozen=True)
class Greedy:
    """What each candidate is worth by itself; arrays of shape (S, m)."""

    mean: Array
    spread: Array
    """Of a single run, noise included."""
    gain: Array
    """EIc."""
    cost: Array
    """Expected USD of the run."""
    ratio: Array
    """EIc/E[cost]; −inf where it cannot be measured."""


def greedy(known: Known, states: States) -> Greedy:
    """EIc and expected cost of every candidate in every state."""
    mean = states.member.mean(axis=1)
    latent = np.sqrt(states.member.var(axis=1) + known.error**2)
    spread = np.sqrt(latent**2 + known.noise**2)
    value = known.level + known.slope * mean
    gain = lognormal_improvement(value, np.maximum(known.slope * latent, 1e-9), states.best[:, None]) * known.completing
    if np.isfinite(known.log_deadline):
        gain *= ndtr((known.log_deadline - mean) / spread)
    if np.isfinite(known.log_budget):
        gain *= ndtr((known.log_budget - mean - known.log_price) / spread)
    cost = np.exp(np.maximum(mean + known.log_price + spread**2 / 2.0, known.least))
    with np.errstate(divide="ignore"):
        left = np.log(np.maximum(states.left, 0.0))[:, None]
    fits = np.maximum(mean + known.log_price + known.reach, known.least) <= left
    return Greedy(mean, spread, gain, cost, np.where(states.open & fits, gain / cost, -np.inf))


def fantasies(known: Known, states: States, found: Greedy, x: npt.NDArray[np.intp], points: Array) -> States:
    """The states after measuring x[s] in state s and finding each of the quadrature's points; (S x points) states."""
    s, k = np.arange(len(x)), len(points)
    t = (found.mean[s, x][:, None] + found.spread[s, x][:, None] * points).ravel()  # ln T, state by state
    again, at = np.repeat(s, k), np.repeat(x, k)
    member, weight = states.member[again], states.weight[again]
    same = known.leaf[:, at].T[:, :, None] == known.leaf
    n = np.arange(len(at))
    step = (t[:, None] - member[n, :, at]) / (weight[n, :, at] + 1.0)
    left_open = states.open[again]
    left_open[n, at] = False
    value = known.level[at] + known.slope[at] * t
    feasible = (t <= known.log_deadline) & (t + known.log_price[at] <= known.log_budget)
    best = states.best[again]
    return States(
        member=member + np.where(same, step[:, :, None], 0.0),
        weight=weight + same,
        open=left_open,
        left=states.left[again] - np.exp(np.maximum(t + known.log_price[at], known.least[at])),
        best=np.where(feasible, np.minimum(best, value), best),
    )


def paths(
    known: Known, states: States, found: Greedy, x: npt.NDArray[np.intp], *, horizon: int, discount: float, nodes: int
) -> tuple[Array, Array]:
    """U and C of measuring x[s] in state s, each (S,), with `horizon` further runs fantasised."""
    s = np.arange(len(x))
    gain, cost = found.gain[s, x], found.cost[s, x]
    if horizon == 0:
        return gain, cost
    points, weights = quadrature(nodes)
    following = fantasies(known, states, found, x, points)
    after = greedy(known, following)
    chosen = after.ratio.argmax(axis=1)
    u, c = paths(known, following, after, chosen, horizon=horizon - 1, discount=discount, nodes=nodes)
    goes_on = np.isfinite(after.ratio[np.arange(len(chosen)), chosen])  # else nothing fits the budget any more
    u, c = (np.where(goes_on, value, 0.0).reshape(len(x), len(points)) for value in (u, c))
    return gain + discount * u @ weights, cost + discount * c @ weights


@dataclass(frozen=True)
class LookAhead:
    """U/C of the candidates that the search budget bears; −inf for the others."""

    horizon: int = 2
    """Further runs fantasised; 0: greedy, EIc per dollar."""
    discount: float = 0.9
    """γ."""
    nodes: int = 3
    """Of the quadrature."""
    beam: int = 32
    """Candidates looked ahead from."""

    def scores(self, problem: Problem, runs: Runs, prediction: Prediction, model: PerformanceModel) -> Scores:
        """Return U/C.

        Raises
        ------
        InputError
            When no candidate has a price on demand, or the cost of a run made is not known.
        """
        score = np.full(len(problem.configurations), np.nan)
        forest = model.grown(problem, runs)[1] if isinstance(model, Grows) else None
        if forest is None:
            raise InputError("the look-ahead needs a model that shows its trees, such as RandomTrees")
        rows, known, state, best = start(problem, runs, prediction, forest)
        if not len(rows):
            return Scores(score, None, best, "nothing is left to measure")
        found = greedy(known, state)
        score[rows] = -np.inf
        order = np.argsort(-found.ratio[0], kind="stable")[: self.beam]
        top = order[np.isfinite(found.ratio[0, order])]
        size = max(1, CELLS // (state.member.size * self.nodes**self.horizon))
        for first in range(0, len(top), size):
            x = top[first : first + size]
            many = States(*(np.repeat(a, len(x), axis=0) for a in vars(state).values()))
            each = Greedy(*(np.repeat(a, len(x), axis=0) for a in vars(found).values()))
            u, c = paths(known, many, each, x, horizon=self.horizon, discount=self.discount, nodes=self.nodes)
            score[rows[x]] = u / c
        if best is None:
            return Scores(
                score, None, None, "most likely for its cost to meet the constraints, which nothing measured does"
            )
        gain = np.zeros(len(score))
        gain[rows] = np.clip(found.gain[0] / best, 0.0, 1.0)
        return Scores(score, gain, best, "largest expected improvement per dollar of it and of the runs it leads to")


def start(
    problem: Problem, runs: Runs, prediction: Prediction, forest: Forest
) -> tuple[npt.NDArray[np.intp], Known, States, float | None]:
    """The untried candidates of known price, what is known of them, the state (S = 1), and the incumbent."""
    seen, n = measured(problem, runs), len(problem.configurations)
    on_demand = (BY_NAME["on-demand"],)
    price, least = log_objective(
        problem, np.stack([np.full(n, np.log(3600.0)), np.full(n, SECOND)]), objective="cost", options=on_demand
    )
    if np.isnan(price).all():
        raise InputError(
            "no candidate's price on demand is known, and a search that counts money needs it; give --prices"
        )
    believed = values(problem, prediction)
    usable = ~tried(seen) & (prediction.excluded == 0) & np.isfinite(believed.mean) & np.isfinite(price)
    rows = np.flatnonzero(usable)
    slope = believed.spread[rows] / prediction.latent[rows]
    left = np.inf if problem.search_budget_usd is None else problem.search_budget_usd - spent_usd(problem, runs)
    best = incumbent(problem, runs)
    if best is None:
        longest_seen = np.fmax(seen.log_runtime, np.where(np.isfinite(seen.censored_log), seen.censored_log, np.nan))
        worst = log_objective(problem, longest_seen[None], objective=problem.objective)[0]
        worst = worst[np.isfinite(worst)]
        log_best = float(worst.max(initial=-np.inf) + 3.0 * believed.spread[rows].max(initial=0.0))
    else:
        log_best = best[0]
    longest = prediction.longest_s
    if longest is None:
        longest = np.exp(prediction.log_runtime + SURELY * prediction.spread)
    known = Known(
        leaf=forest.leaf[:, rows],
        log_price=price[rows] - np.log(3600.0),
        least=least[rows],
        slope=slope,
        level=believed.mean[rows] - slope * prediction.log_runtime[rows],
        completing=prediction.completing[rows],
        reach=np.log(longest[rows]) - prediction.log_runtime[rows],
        error=forest.error,
        noise=prediction.noise,
        log_deadline=np.inf if problem.deadline_s is None else float(np.log(problem.deadline_s)),
        log_budget=np.inf if problem.budget_usd is None else float(np.log(problem.budget_usd)),
    )
    state = States(
        member=forest.log_runtime[None][:, :, rows],
        weight=forest.weight[None][:, :, rows],
        open=np.ones((1, len(rows)), dtype=bool),
        left=np.array([left]),
        best=np.array([log_best]),
    )
    return rows, known, state, None if best is None else float(np.exp(best[0]))


def run_limit_s(
    problem: Problem, runs: Runs, row: int, *, left_usd: float | None = None, past_incumbent: bool = True
) -> float:
    """Seconds after which a run of configuration `row` should be stopped; inf for never, and where it has no price.

    When what it cost so far, on demand, passes `left_usd` or, for the objective cost, the incumbent's cost: from there on
    it can only lose. It then is a run stopped at its time limit, a lower bound.
    """
    n = len(problem.configurations)
    hourly = log_objective(problem, np.full((1, n), np.log(3600.0)), objective="cost", options=(BY_NAME["on-demand"],))
    usd_per_s = float(np.exp(hourly[0, row])) / 3600.0
    limits = [np.inf if left_usd is None else left_usd]
    on_demand = replace(problem, options=(BY_NAME["on-demand"],))
    if past_incumbent and problem.objective == "cost" and (best := incumbent(on_demand, runs)) is not None:
        limits.append(float(np.exp(best[0])))
    limit = min(limits) / usd_per_s
    return float(max(limit, 0.0)) if np.isfinite(limit) else np.inf
