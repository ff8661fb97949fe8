"""Stopping rules: when nothing more is worth measuring. Each is asked about the run that would be next.

Notation: m the incumbent's objective, EI its expected relative improvement by the next run, p a probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from recommender.candidates import Configuration
from recommender.errors import InputError, InsufficientEvidenceError
from recommender.models import Array, Prediction, configuration_rows, measured
from recommender.models.bagging import SURELY
from recommender.models.completing import tried
from recommender.pricing import BY_NAME, price_option
from recommender.problem import Objective, Problem
from recommender.runs import Runs
from recommender.search.acquisition import Scores, incumbent, log_objective, run_cost_usd
from recommender.units import format_usd

DRAWS = 2000
"""Joint draws from which a guarantee is computed."""
MOST_JOINT = 400
"""Candidates drawn jointly: the likeliest to be better. The others enter by a bound."""


class StoppingRule(Protocol):
    """Why to stop before measuring configuration `row`, in words; '' to go on. A pure function of the evidence."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Return the sentence, or ''."""
        ...


@dataclass(frozen=True)
class Never:
    """Go on while a candidate is left."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Return ''."""
        return ""


@dataclass(frozen=True)
class SmallImprovement:
    """CherryPick's rule: the expected improvement is below a share of the incumbent, after enough configurations.

    Without an incumbent there is nothing to improve on, and the search goes on.
    """

    share: float = 0.10
    """Paper: 0.10; released code: 0.06."""
    at_least: int = 6
    """Configurations tried before the rule may fire (paper and released code: 6)."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Stop when EI of the next run, already weighted by its chance to be feasible, is below `share`."""
        if scores.improvement is None or int(tried(measured(problem, runs)).sum()) < self.at_least:
            return ""
        gain = float(scores.improvement[row])
        return (
            f"the best next run is expected to improve on the best so far by {gain:.1%}, below {self.share:.0%}"
            if gain < self.share
            else ""
        )


@dataclass(frozen=True)
class SearchBudget:
    """The money for measuring is gone, or would be with the next run."""

    usd: float
    """USD for all runs of the workload, failed ones included."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Stop when what was spent and the next run's expected cost pass the budget.

        While nothing is believed of the next run (a start of the search), when all of the budget is spent.

        Raises
        ------
        InputError
            When a run's or the next one's cost is not known: an unknown cost is not 0.
        """
        spent = spent_usd(problem, runs)
        gone = f"{format_usd(spent)} of {format_usd(self.usd)} were spent"
        if not np.isfinite(prediction.log_runtime[row]):
            return gone if spent >= self.usd else ""
        following = expected_run_usd(problem, prediction, row)
        return (
            f"{gone} and the next run is expected to cost {format_usd(following)}"
            if spent + following > self.usd
            else ""
        )


@dataclass(frozen=True)
class WithinBudget:
    """The problem's search budget bears no more run with enough probability; without one, another rule."""

    otherwise: StoppingRule = field(default_factory=SmallImprovement)
    """Asked where the problem has no search budget."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Stop when the run at hand, which is one that fits best, does not fit what is left."""
        if problem.search_budget_usd is None:
            return self.otherwise.reason(problem, runs, prediction, scores, row)
        if bearable(problem, runs, prediction)[row]:
            return ""
        most = np.exp(largest_log_usd(problem, prediction)[row])
        spent = f"{format_usd(spent_usd(problem, runs))} of {format_usd(problem.search_budget_usd)} were spent"
        return f"{spent}, and no run is sure to fit the rest (the next one may cost {format_usd(most)})"


@dataclass(frozen=True)
class WorthIt:
    """The next run costs more than it is expected to save over the runs that are planned."""

    runs_planned: float
    """Runs of the workload to come."""
    at_least: int = 0
    """Configurations tried before the rule may fire."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Stop when EI x m x planned runs is below the expected cost of the next run.

        Raises
        ------
        InputError
            When the objective is runtime: seconds saved have no price.
        """
        if problem.objective != "cost":
            raise InputError("whether a run is worth its cost can be told for the objective cost only, not for runtime")
        if scores.improvement is None or scores.incumbent is None:
            return ""
        if int(tried(measured(problem, runs)).sum()) < self.at_least:
            return ""
        saved = float(scores.improvement[row]) * scores.incumbent * self.runs_planned
        cost = expected_run_usd(problem, prediction, row)
        return (
            f"the best next run would cost {format_usd(cost)} and is expected to save {format_usd(saved)} over "
            f"{self.runs_planned:g} planned runs"
            if saved < cost
            else ""
        )


@dataclass(frozen=True)
class Guaranteed:
    """No candidate is more than `percent` % cheaper (or faster) than the best measured, with enough probability."""

    percent: float = 10.0
    probability: float = 0.9
    at_least: int = 6
    """Configurations tried before the rule may fire."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Stop when `no_candidate_cheaper` reaches `probability`."""
        if scores.incumbent is None or int(tried(measured(problem, runs)).sum()) < self.at_least:
            return ""
        sure = no_candidate_cheaper(problem, runs, prediction, percent=self.percent)
        word = "cheaper" if problem.objective == "cost" else "faster"
        return (
            f"with probability {sure:.0%} no candidate is more than {self.percent:g} % {word} than the best measured"
            if sure >= self.probability
            else ""
        )


def no_candidate_cheaper(
    problem: Problem, runs: Runs, prediction: Prediction, *, percent: float, draws: int = DRAWS
) -> float:
    """P(no feasible candidate's objective is more than `percent` % below that of the best feasible measured one).

    From `draws` joint draws of the noiseless ln(runtime): the incumbent's own value is drawn too, not taken as measured.
    A candidate counts in a draw when it meets deadline and budget there and completes (independently, with
    `Prediction.completing`). The MOST_JOINT candidates likeliest to be better are drawn jointly; of the others the sum of
    their marginal probabilities is taken off (Boole's inequality), so the result is never too high on their account.

    Raises
    ------
    InsufficientEvidenceError
        When nothing feasible was measured, or the model offers no joint draws.
    """
    if not 0 <= percent < 100:
        raise InputError(f"percent is {percent}; a number from 0 to below 100 is needed")
    best = incumbent(problem, runs)
    if best is None or prediction.draws is None:
        raise InsufficientEvidenceError(
            "a guarantee needs a measured configuration that meets the constraints"
            if best is None
            else "a guarantee needs a model that offers joint draws, such as cherrypick's; this one does not"
        )
    holder = best[1]
    mean, slope = _line(problem, prediction, problem.objective)
    room = np.log1p(-percent / 100.0)
    latent = prediction.latent * slope
    rivals = np.isfinite(mean) & (prediction.excluded == 0)
    rivals[holder] = False
    # The incumbent's and a rival's errors add at most: an upper bound on the spread of their difference.
    marginal = ndtr((mean[holder] + room - mean) / np.maximum(latent + latent[holder], 1e-12))
    order = np.flatnonzero(rivals)[np.argsort(-marginal[rivals], kind="stable")]
    chosen, others = order[:MOST_JOINT], order[MOST_JOINT:]
    rng = np.random.default_rng([problem.seed, len(runs), draws])
    rows = np.concatenate([[holder], chosen]).astype(np.intp)
    error = prediction.draws(rows, draws, rng) - prediction.log_runtime[rows]
    ok = rng.random(error.shape) < prediction.completing[rows]
    if problem.deadline_s is not None:
        ok &= prediction.log_runtime[rows] + error <= np.log(problem.deadline_s)
    if problem.budget_usd is not None:
        cost, steepness = _line(problem, prediction, "cost")
        ok &= cost[rows] + steepness[rows] * error <= np.log(problem.budget_usd)
    value = mean[rows] + slope[rows] * error
    better = ok[:, 1:] & (value[:, 1:] < value[:, :1] + room)
    return float(max(0.0, 1.0 - better.any(axis=1).mean() - marginal[others].sum()))


def _line(problem: Problem, prediction: Prediction, objective: Objective) -> tuple[Array, Array]:
    """ln objective at the mean of ln(runtime), and its slope there (1 on demand, 0 within a billing minimum)."""
    steps = np.array([[-1.0], [0.0], [1.0]]) * prediction.latent
    low, mean, high = log_objective(problem, prediction.log_runtime + steps, objective=objective)
    return mean, (high - low) / (2.0 * np.maximum(prediction.latent, 1e-12))


def spent_usd(problem: Problem, runs: Runs) -> float:
    """USD of all runs of the workload: as billed, else on demand for as long as they ran; failed and stopped ones count.

    Raises
    ------
    InputError
        When a run's cost is neither recorded nor can be computed.
    """
    frame, offers = runs.frame, problem.candidates.offers
    prices = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
    order = np.lexsort((np.nan_to_num(prices.usd_per_hour, nan=np.inf), offers.configuration))
    cheapest = order[np.unique(offers.configuration[order], return_index=True)[1]]
    row = configuration_rows(problem, frame)
    offer = np.full(len(problem.configurations), -1)
    offer[offers.configuration[cheapest]] = cheapest
    at = np.where(row >= 0, offer[row], -1)
    usd = prices.cost(frame["runtime_s"].to_numpy(float), offers, problem.usage, np.maximum(at, 0))
    usd = np.where(at >= 0, usd, np.nan)
    billed = frame["cost_usd"].to_numpy(float)
    paid = np.where(np.isnan(billed), usd, billed)
    if np.isnan(paid).any():
        run = frame.iloc[int(np.flatnonzero(np.isnan(paid))[0])]
        raise InputError(
            f"the cost of the run on {run['instance_type']} x{run['node_count']:g} is not known (no cost_usd, and no candidate "
            "with a price), so what was spent cannot be told; fill its cost_usd"
        )
    return float(paid.sum())


def over_budget(problem: Problem, runs: Runs, wanted: Configuration | None) -> str:
    """Why the run `wanted` does not fit what is left of the search budget, at the cost expected of it; '' when it may.

    What strategies that plan no budget end by: while no cost is expected of the run, they end when all is spent.
    """
    if wanted is None or problem.search_budget_usd is None:
        return ""
    spent, expected = spent_usd(problem, runs), getattr(wanted, "expected_cost_usd", None)
    if spent < problem.search_budget_usd and spent + (expected or 0.0) <= problem.search_budget_usd:
        return ""
    following = f" and the next run is expected to cost {format_usd(expected)}" if expected else ""
    return f"{format_usd(spent)} of {format_usd(problem.search_budget_usd)} were spent{following}"


def bearable(problem: Problem, runs: Runs, prediction: Prediction) -> npt.NDArray[np.bool_]:
    """Which configurations' next run fits what is left of the search budget, (configurations,); all without a budget.

    Lynceus' filter (Casimiro et al. 2020): μ + 2.326 σ <= what is left, the cost's 99th percentile, σ being the spread of a
    single run. Of a configuration of which no runtime is believed the least that a run is billed is all that is known.

    Raises
    ------
    InputError
        When the cost of a run made or of every candidate is not known.
    """
    if problem.search_budget_usd is None:
        return np.ones(len(problem.configurations), dtype=bool)
    most, left = largest_log_usd(problem, prediction), problem.search_budget_usd - spent_usd(problem, runs)
    if np.isnan(most).all():
        raise InputError(
            "no candidate's price on demand is known, and a search that counts money needs it; give --prices"
        )
    return np.asarray(np.exp(most) <= left)


def largest_log_usd(problem: Problem, prediction: Prediction) -> Array:
    """ln of the 99th percentile of a run's on-demand USD, (configurations,); where nothing is believed the least bill."""
    most = prediction.log_runtime + SURELY * prediction.spread
    if prediction.longest_s is not None:
        most = np.log(prediction.longest_s)
    most = np.nan_to_num(most, nan=np.log(1e-9))
    result: Array = log_objective(problem, most[None], objective="cost", options=(BY_NAME["on-demand"],))[0]
    return result


def expected_run_usd(problem: Problem, prediction: Prediction, row: int) -> float:
    """Expected on-demand USD of a run of one configuration, at the median of its runtime."""
    usd = float(run_cost_usd(problem, prediction.log_runtime)[row])
    if not np.isfinite(usd):
        label = problem.candidates.configuration(row).label
        raise InputError(
            f"the cost of a run of {label} is not known, and a search that counts money needs it; give --prices"
        )
    return usd
