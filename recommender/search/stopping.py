"""Stopping rules: when nothing more is worth measuring. Each is asked about the run that would be next.

Notation: m the incumbent's objective, EI its expected relative improvement by the next run, p a probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recommender.candidates import Configuration
from recommender.errors import InputError, InsufficientEvidenceError
from recommender.models import Array, Prediction, configuration_rows, measured
from recommender.models.bagging import SURELY
from recommender.models.completing import tried
from recommender.pricing import BY_NAME, price_option
from recommender.problem import Problem
from recommender.runs import Runs
from recommender.search.acquisition import Scores, log_objective, run_cost_usd
from recommender.search.guarantee import no_candidate_cheaper
from recommender.units import format_usd


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
    """The next run costs more than it is expected to save over the runs that are planned.

    The first runs, which a design asks for before a model is believed, are always made.
    """

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
        saved, cost = self.saved_usd(scores, row), expected_run_usd(problem, prediction, row)
        return f"the best next run {self._weighed(saved, cost)}" if saved * self.runs_planned < cost else ""

    def saved_usd(self, scores: Scores, row: int) -> float:
        """Expected saving of one planned run, EI x m: how much cheaper the best measured will be for the next run."""
        if scores.improvement is None or scores.incumbent is None:
            raise InsufficientEvidenceError("what a run saves is not known before one that meets the constraints")
        return float(scores.improvement[row]) * scores.incumbent

    def favour(self, problem: Problem, prediction: Prediction, scores: Scores, row: int) -> str:
        """What speaks for the next run, in words; '' while there is no incumbent to save on."""
        if scores.improvement is None or scores.incumbent is None:
            return ""
        return self._weighed(self.saved_usd(scores, row), expected_run_usd(problem, prediction, row))

    def _weighed(self, saved: float, cost: float) -> str:
        total = saved * self.runs_planned
        return (
            f"is expected to save {format_usd(saved)} a run on the best measured, times {self.runs_planned:g} planned runs "
            f"{format_usd(total)}, {'less' if total < cost else 'no less'} than the {format_usd(cost)} it is expected to cost"
        )


@dataclass(frozen=True)
class Either:
    """Stop when one of two rules says so."""

    first: StoppingRule
    second: StoppingRule

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Return the first rule's sentence, else the second's."""
        said = self.first.reason(problem, runs, prediction, scores, row)
        return said or self.second.reason(problem, runs, prediction, scores, row)


def rule_of(problem: Problem, own: StoppingRule) -> StoppingRule:
    """The rule a search of `problem` ends by: the strategy's own; with planned runs, worth-it.

    Worth-it takes the place of `SmallImprovement` (a share of the incumbent is no measure once the runs to come are
    known) and of `Never`; any other rule, such as a budget, holds beside it.
    """
    if problem.runs_planned is None:
        return own
    worth = WorthIt(problem.runs_planned)
    return worth if isinstance(own, SmallImprovement | Never) else Either(own, worth)


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
