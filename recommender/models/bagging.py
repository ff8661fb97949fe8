"""Bagged regression trees over configurations: what `trees` and `lynceus` share, and Lynceus' own surrogate.

Notation
--------
y_i  target of configuration i: ln(runtime in s) + s_i, mean of its completed runs      s_i  offset known beforehand
B    members, each grown on a bootstrap of the measured configurations                  g_b(x)  prediction of member b
e_i  out-of-bag residual: y_i less the mean of the members that did not see i           σ_ε  noise of a single run

    mean = avg_b g_b(x) − s,    latent² = var_b g_b(x) + max(avg_i e_i² − σ_ε², 0),    spread² = latent² + σ_ε²

Members alone agree where there are no data (trees are flat there), so the out-of-bag error is added everywhere: the
spread is never 0 and honest about what the trees cannot fit. A run stopped at its time limit enters, as in the Gaussian
process, at the mean of the normal above the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from recommender.models import MODELLED, Array, Prediction, measured, with_measurements
from recommender.models.completing import NEWS, search_base, truncated_normal
from recommender.models.features import Features, features
from recommender.pricing import BY_NAME, price_option
from recommender.problem import Problem
from recommender.runs import Runs

Rows = npt.NDArray[np.intp]
PRIOR_SPREAD, PRIOR_DOF = 0.5, 2.0
"""Prior of the out-of-bag error, in ln(runtime), and its weight in residuals: with 3 runs there are next to none."""
SURELY = float(ndtri(0.99))
"""Standard deviations to the 99th percentile, 2.326."""
GRID = 2.0**20
"""Random trees' targets are multiples of 1/GRID (one part in a million): sums of such numbers are exact, so which of two
equally good splits is taken depends neither on the order of the rows nor on the currency."""


@dataclass(frozen=True)
class Bag:
    """Members grown on some rows."""

    members: tuple[Any, ...]
    """Fitted scikit-learn regressors."""
    values: Array
    """g_b of every configuration, (members, configurations)."""
    error: float
    """Root of the mean square out-of-bag residual beyond noise."""
    rows: Rows
    """What they were grown on, and"""
    target: Array
    """its targets."""
    out: npt.NDArray[np.bool_]
    """Which of `rows` a member did not see, (members, len(rows))."""


def bag(
    x: npt.NDArray[Any], rows: Rows, target: Array, noise: float, *, members: int, seed: int, make: Callable[[int], Any]
) -> Bag:
    """Grow `members` regressors `make(seed)` on bootstraps of `rows` of `x` (configurations, features)."""
    rng = np.random.default_rng([seed, len(rows)])
    grown, values, out = [], np.empty((members, len(x))), np.zeros((members, len(rows)), dtype=bool)
    for b in range(members):
        drawn = np.sort(rng.integers(len(rows), size=len(rows)))
        out[b, np.setdiff1d(np.arange(len(rows)), drawn)] = True
        grown.append(make(int(rng.integers(2**31))).fit(x[rows[drawn]], target[drawn]))
        values[b] = grown[b].predict(x)
    error = np.sqrt(max(out_of_bag(values[:, rows], target, out, PRIOR_SPREAD) - noise**2, 1e-4))
    return Bag(tuple(grown), values, float(error), rows, target, out)


def out_of_bag(values: Array, target: Array, out: npt.NDArray[np.bool_], prior: float) -> float:
    """Mean square of y_i less the mean of the members that did not see i, PRIOR_DOF residuals of `prior` among them.

    `values` and `out` are (members, rows), `target` is (rows,).
    """
    unseen = out.any(axis=0)
    held = (values * out).sum(axis=0)[unseen] / out.sum(axis=0)[unseen]
    squares = float(((target[unseen] - held) ** 2).sum())
    return (squares + PRIOR_DOF * prior**2) / (int(unseen.sum()) + PRIOR_DOF)


def believed(
    problem: Problem, runs: Runs, offset: Array, grow: Callable[[Rows, Array, float], Bag]
) -> tuple[Prediction, Bag | None]:
    """Prediction of every configuration from a bag, and the bag; no runtime and None while nothing completed.

    `offset` is s, (configurations,); `grow` takes rows, their targets and the noise.
    """
    seen = measured(problem, runs)
    base = search_base(problem, runs, seen)
    done = np.flatnonzero(seen.count > 0)
    if not len(done):
        return with_measurements(base, problem, runs), None
    target = np.fmax(seen.log_runtime, seen.censored_log)[done] + offset[done]
    found = grow(done, target, seen.noise)
    stopped = np.flatnonzero(np.isfinite(seen.censored_log) & (seen.count == 0))
    if len(stopped):
        spread = np.sqrt(found.values[:, stopped].var(axis=0) + found.error**2 + seen.noise**2)
        bound = seen.censored_log[stopped] + offset[stopped]
        above, _, sure = truncated_normal(found.values[:, stopped].mean(axis=0), spread, bound)
        news = sure < NEWS
        if news.any():
            rows, targets = np.concatenate([done, stopped[news]]), np.concatenate([target, above[news]])
            found = grow(rows, targets, seen.noise)
    values, error = found.values, found.error
    mean = values.mean(axis=0) - offset
    prediction = replace(
        base,
        log_runtime=mean,
        spread=np.sqrt(values.var(axis=0) + error**2 + seen.noise**2),
        evidence=np.full(len(mean), MODELLED, dtype=np.int8),
    )
    joined = with_measurements(prediction, problem, runs)

    def draws(rows: Rows, count: int, rng: np.random.Generator) -> Array:
        # Members' deviations, scaled row by row to the joined spread so that measured rows move as little as they should.
        member = values[rng.integers(len(values), size=count)][:, rows] - values[:, rows].mean(axis=0)
        own = rng.standard_normal(member.shape) * error
        whole = np.sqrt(values[:, rows].var(axis=0) + error**2)
        drawn: Array = joined.log_runtime[rows] + (member + own) * joined.latent[rows] / whole
        return drawn

    return replace(joined, draws=draws), found


@dataclass(frozen=True)
class Forest:
    """Members with their leaves, so that what one more run would change can be worked out without growing them again."""

    log_runtime: Array
    """g_b − s: ln(runtime in s) by member b, (members, configurations)."""
    leaf: Rows
    """The leaf of member b that a configuration falls in, (members, configurations)."""
    weight: Array
    """Runs of member b's bootstrap in that leaf, (members, configurations)."""
    error: float
    """Root of the mean square out-of-bag residual beyond noise."""


@dataclass(frozen=True)
class RandomTrees:
    """Lynceus' surrogate (Casimiro et al. 2020): bagging of random regression trees on the cost of a run.

    A random tree tries 1 + log2(features) features at each split and is grown to single runs (Weka's RandomTree, which
    the paper uses). Our choices: the target is ln cost, on demand, so s = ln(USD per second), because noise is
    multiplicative; where a candidate has no such price s is ln capacity (nodes x vCPUs x speed) instead; and the spread
    holds the out-of-bag error beside the members' variance, which is the paper's alone.

    With few runs that error is a factor of ten, and a log-normal of it has no useful upper end. What a budget needs is the
    99th percentile of a run's time, and the paper's normal gives it: T + 2.326 σ in seconds, σ² the members' variance, the
    mean square out-of-bag residual in seconds, the noise and, while runs are few, the prior error of a configuration that
    takes much longer than those run; all at the price of the very configuration. The lower of this and the log-normal's is
    `longest_s`.
    """

    members: int = 10

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration; NaN while nothing completed at the input asked about."""
        return self.grown(problem, runs)[0]

    def grown(self, problem: Problem, runs: Runs) -> tuple[Prediction, Forest | None]:
        """The same, and the members it comes from; None while nothing completed."""
        from sklearn.tree import DecisionTreeRegressor  # type: ignore[import-untyped]

        space = features(problem)
        x, offset = space.x.astype(np.float32), log_price(problem, space)
        tried = 1 + int(np.log2(x.shape[1]))

        def make(seed: int) -> Any:
            return DecisionTreeRegressor(max_features=tried, random_state=seed)

        def grow(rows: Rows, target: Array, noise: float) -> Bag:
            exact = np.round(target * GRID) / GRID
            return bag(x, rows, exact, noise, members=self.members, seed=problem.seed, make=make)

        prediction, found = believed(problem, runs, offset, grow)
        if found is None:
            return prediction, None
        leaf = np.stack([tree.apply(x) for tree in found.members])
        weight = np.stack([t.tree_.n_node_samples[at] for t, at in zip(found.members, leaf, strict=True)])
        log_t = found.values - offset
        member, ran = np.exp(log_t), np.exp(found.target - offset[found.rows])
        prior = max(float(ran.std()), PRIOR_SPREAD * float(ran.mean()))
        square = out_of_bag(member[:, found.rows], ran, found.out, prior)
        mean = member.mean(axis=0)
        relative = prediction.noise**2 + PRIOR_SPREAD**2 * PRIOR_DOF / (len(ran) + PRIOR_DOF)
        spread = np.sqrt(member.var(axis=0) + square + relative * mean**2)
        log_most = prediction.log_runtime + SURELY * prediction.spread
        # What stopped is at least that slow, whatever the trees say.
        normal = np.fmax(mean + SURELY * spread, np.exp(prediction.log_runtime))
        prediction = replace(prediction, longest_s=np.minimum(normal, np.exp(log_most)))
        return prediction, Forest(log_t, leaf, weight.astype(float), found.error)


def log_price(problem: Problem, space: Features) -> Array:
    """s: ln of the whole cluster's price on demand about its mean, or of its capacity where a price is missing."""
    offers = problem.candidates.offers
    prices = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
    hourly = np.full(len(problem.configurations), np.inf)
    np.fmin.at(hourly, offers.configuration, prices.usd_per_hour * offers.nodes)
    if not np.isfinite(hourly).all() or (hourly <= 0).any():
        return space.work
    result = np.log(hourly / hourly.max())  # the ratio first: in another currency every bit stays the same
    return np.asarray(result - result.mean())
