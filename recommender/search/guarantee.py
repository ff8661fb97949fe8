"""What can be promised of a configuration: how much cheaper another candidate may be.

Notation: r the configuration in question, v_i the objective of configuration i in a joint draw of the noiseless
ln(runtime), S = max(0, 1 − min_i v_i/v_r) the share that the best other would save in that draw, over the i that complete
and meet deadline and budget in it. P(S <= s) is the probability that no candidate is more than 100 s % cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recommender.candidates import Configuration
from recommender.errors import InputError, InsufficientEvidenceError
from recommender.models import Array, Prediction, measured
from recommender.problem import Objective, Problem
from recommender.recommendation import Guarantee
from recommender.runs import Runs
from recommender.search.acquisition import incumbent, log_objective, row_of

DRAWS = 2000
"""Joint draws from which a guarantee is computed."""
MOST_JOINT = 400
"""Candidates drawn jointly: the likeliest to be better. The others enter by a bound."""
FEWEST = 4
"""Configurations that completed before anything is promised: after 3, promises were too sure and next to empty
(docs/benchmarks.md)."""
SHARES = np.arange(100) / 100.0
"""Savings that a guarantee may name."""


@dataclass(frozen=True)
class Savings:
    """The distribution of S."""

    drawn: Array
    """S over the candidates drawn jointly, (draws,)."""
    gap: Array
    """ln v_i − ln v_r of the others at their means, in units of `reach`, (others,)."""
    reach: Array
    """Upper bound on the standard deviation of ln v_i − ln v_r of the others, (others,)."""
    errors: Array
    """Standardised errors of the joint draws, sorted: what the others' are taken from."""

    def probability(self, share: float) -> float:
        """P(S <= share), from below.

        Of the others the sum of their marginal probabilities is taken off (Boole's inequality), so the result is never
        too high on their account.
        """
        z = np.log1p(-share) / self.reach - self.gap
        others = np.searchsorted(self.errors, z).sum() / len(self.errors) if len(z) else 0.0
        return float(max(0.0, (self.drawn <= share).mean() - others))

    def quantile(self, probability: float) -> float | None:
        """The least of SHARES with P(S <= share) >= probability; None when none is."""
        return next((float(s) for s in SHARES if self.probability(s) >= probability), None)


def savings(problem: Problem, runs: Runs, prediction: Prediction, row: int, *, draws: int = DRAWS) -> Savings:
    """Draw what another candidate than configuration `row` would save. Its own value is drawn too, not taken as measured.

    The MOST_JOINT candidates likeliest to be better are drawn jointly. A candidate completes in a draw independently,
    with `Prediction.completing`.

    Raises
    ------
    InsufficientEvidenceError
        When the model offers no joint draws.
    """
    if prediction.draws is None:
        raise InsufficientEvidenceError(
            "a guarantee needs a model that offers joint draws, such as cherrypick's; this one does not"
        )
    mean, slope = _line(problem, prediction, problem.objective)
    latent = prediction.latent * slope
    rivals = np.isfinite(mean) & (prediction.excluded == 0)
    rivals[row] = False
    # The errors of the two add at most: an upper bound on the spread of their difference.
    reach = np.maximum(latent + latent[row], 1e-12)
    gap = (mean - mean[row]) / reach
    order = np.flatnonzero(rivals)[np.argsort(gap[rivals], kind="stable")]
    chosen, others = order[:MOST_JOINT], order[MOST_JOINT:]
    rng = np.random.default_rng([problem.seed, len(runs), draws])
    rows = np.concatenate([[row], chosen]).astype(np.intp)
    error = prediction.draws(rows, draws, rng) - prediction.log_runtime[rows]
    ok = rng.random(error.shape) < prediction.completing[rows]
    if problem.deadline_s is not None:
        ok &= prediction.log_runtime[rows] + error <= np.log(problem.deadline_s)
    if problem.budget_usd is not None:
        cost, steepness = _line(problem, prediction, "cost")
        ok &= cost[rows] + steepness[rows] * error <= np.log(problem.budget_usd)
    value = mean[rows] + slope[rows] * error
    best = np.where(ok[:, 1:], value[:, 1:], np.inf).min(axis=1, initial=np.inf)
    return Savings(
        drawn=np.maximum(-np.expm1(best - value[:, 0]), 0.0),
        gap=gap[others],
        reach=reach[others],
        errors=np.sort((error / np.maximum(prediction.latent[rows], 1e-12)).ravel()) if len(others) else np.empty(0),
    )


def guarantee(problem: Problem, runs: Runs, prediction: Prediction, chosen: Configuration) -> Guarantee | None:
    """What can be promised of the configuration recommended, with the problem's `confidence`.

    None where the model offers no joint draws, while fewer than FEWEST configurations completed, and where no saving below
    100 % can be ruled out.
    """
    row = row_of(problem, chosen)
    if prediction.draws is None or (measured(problem, runs).count > 0).sum() < FEWEST:
        return None
    share = savings(problem, runs, prediction, row).quantile(problem.confidence)
    if share is None:
        return None
    word = "cheaper" if problem.objective == "cost" else "faster"
    more = f"more than {share:.0%} {word}" if share else word
    checked = prediction.kept or "how often such promises of this model are kept was not measured"
    return Guarantee(
        probability=problem.confidence,
        at_most_cheaper=share,
        sentence=f"With probability {problem.confidence:.0%} no candidate is {more} than {chosen.label} ({checked})",
    )


def no_candidate_cheaper(
    problem: Problem, runs: Runs, prediction: Prediction, *, percent: float, draws: int = DRAWS
) -> float:
    """P(no feasible candidate's objective is more than `percent` % below that of the best feasible measured one).

    Raises
    ------
    InsufficientEvidenceError
        When nothing feasible was measured, or the model offers no joint draws.
    """
    if not 0 <= percent < 100:
        raise InputError(f"percent is {percent}; a number from 0 to below 100 is needed")
    best = incumbent(problem, runs)
    if best is None:
        raise InsufficientEvidenceError("a guarantee needs a measured configuration that meets the constraints")
    return savings(problem, runs, prediction, best[1], draws=draws).probability(percent / 100.0)


def _line(problem: Problem, prediction: Prediction, objective: Objective) -> tuple[Array, Array]:
    """ln objective at the mean of ln(runtime), and its slope there (1 on demand, 0 within a billing minimum)."""
    steps = np.array([[-1.0], [0.0], [1.0]]) * prediction.latent
    low, mean, high = log_objective(problem, prediction.log_runtime + steps, objective=objective)
    return mean, (high - low) / (2.0 * np.maximum(prediction.latent, 1e-12))
