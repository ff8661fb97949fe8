"""Strategies: one table from name to composition, and the automatic choice among them.

A strategy is two pure functions of the evidence. Third parties add theirs through the entry-point group
`recommender.strategies`: a factory without arguments that returns a `Strategy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import numpy as np

from recommender.candidates import Configuration
from recommender.composition import ModelBased, Strategy
from recommender.errors import InputError, RecommenderError, UnknownNameError, did_you_mean
from recommender.models import configuration_rows, measured
from recommender.models.bagging import RandomTrees
from recommender.models.c3o import C3O
from recommender.models.conformal import Conformal
from recommender.models.ernest import MINIMUM_POINTS, Ernest, distinct_points
from recommender.models.factorisation import selecta
from recommender.models.gaussian_process import GaussianProcess
from recommender.models.neighbours import neighbours
from recommender.models.pairwise import PairwiseTrees
from recommender.models.paris import Paris
from recommender.models.prior import LearnedPrior
from recommender.models.quasar import Quasar
from recommender.models.transfer import Transfer
from recommender.models.trees import BaggedTrees
from recommender.models.yardsticks import BestFixed, ColumnMean, MeasuredOnly, PriceOnly
from recommender.pricing import BY_NAME, price_option
from recommender.problem import Problem
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs
from recommender.search.acquisition import (
    ConstrainedImprovement,
    MixtureImprovement,
)
from recommender.search.bandit import CloudBandit
from recommender.search.designs import LatinHypercube, QuasiRandom, Uniform
from recommender.search.lookahead import LookAhead
from recommender.search.predicted import PredictedBest, PredictedWorse
from recommender.search.references import References
from recommender.search.stopping import (
    Never,
    SmallImprovement,
    WithinBudget,
)

__all__ = ["TABLE", "Auto", "Choice", "ModelBased", "Strategy", "calibrated", "strategies", "strategy"]
ENTRY_POINT_GROUP = "recommender.strategies"
SEARCHING = "+ei"
"""Behind the name of a strategy that only recommends: go on as a search by expected improvement."""


@dataclass(frozen=True)
class Choice:
    """What `auto` would do, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Auto:
    """Picks a strategy by what evidence there is, and says which and why.

    | completed runs of the workload itself     | archive on the candidates | strategy    |
    |-------------------------------------------|---------------------------|-------------|
    | at 3 or more distinct (scale, vCPUs)      | any                       | ernest      |
    | fewer                                     | yes                       | column-mean |
    | fewer, some on a candidate                | no                        | random      |
    | none on a candidate                       | no                        | price-only  |

    (`random` recommends the best that was measured. Under it and price-only the next run is the cheapest candidate with
    another number of vCPUs than those run, until there are three points to fit.)
    """

    def choose(self, problem: Problem, runs: Runs) -> Choice:
        """Return the strategy's name and the reason, by the table above."""
        points, lacking = distinct_points(problem, runs)
        seen = f"completed runs at {points} distinct points of scale and vCPUs"
        if not len(runs):
            seen = f"no runs were given: {seen}"
        elif not len(runs.completed):
            seen = f"none of the {len(runs)} runs completed: {seen}"
        elif lacking:
            seen = f"{lacking}: {seen}"
        if points >= MINIMUM_POINTS:
            return Choice("ernest", f"{seen} are enough to fit how the workload scales")
        short = f"{seen} are fewer than the {MINIMUM_POINTS} a scaling model needs"
        if problem.archive is not None and (configuration_rows(problem, problem.archive.completed) >= 0).any():
            return Choice("column-mean", f"{short}, but other workloads were run on the candidates")
        if (measured(problem, runs).count > 0).any():
            return Choice(
                "random", f"{short} and there is no archive, so the best configuration measured is all that is known"
            )
        return Choice("price-only", f"{short}, and neither the candidates nor an archive on them were run")

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return the chosen strategy's answer, which says that it was chosen and why."""
        choice = self.choose(problem, runs)
        answer = strategy(choice.name).recommend(problem, runs)
        if choice.name in ("random", "price-only"):
            answer = replace(answer, next_run=_scaling_run(problem, runs))
        name = "random (recommend the best measured)" if choice.name == "random" else choice.name
        return replace(answer, why=f"auto chose {name}: {choice.why}")

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return the chosen strategy's suggestion, or what a scaling model needs."""
        choice = self.choose(problem, runs)
        if choice.name in ("random", "price-only"):
            return _scaling_run(problem, runs)
        return strategy(choice.name).suggest(problem, runs, rng=rng)


def _scaling_run(problem: Problem, runs: Runs) -> NextRun | None:
    """The cheapest untried candidate per hour with another number of vCPUs in all than those tried."""
    configurations, offers = problem.configurations, problem.candidates.offers
    prices = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
    hourly = np.full(len(configurations), np.inf)
    np.fmin.at(hourly, offers.configuration, prices.usd_per_hour * offers.nodes)
    total = (configurations["vcpus"].fillna(1.0) * configurations["node_count"]).to_numpy(float)
    tried = configuration_rows(problem, runs.frame)
    left = np.zeros(len(configurations), dtype=bool)
    left[offers.configuration[problem.rankable(prices)]] = True
    left &= PriceOnly().predict(problem, runs).excluded == 0
    left &= ~np.isin(total, total[tried[tried >= 0]])
    if not left.any():
        return None
    i = int(np.lexsort((np.arange(len(hourly)), hourly, ~left))[0])
    why = f"the cheapest with another number of vCPUs than those run; {MINIMUM_POINTS} such points show how the workload scales"
    return NextRun(why=why, **vars(problem.candidates.configuration(i)))


def calibrated(chosen: Strategy) -> ModelBased:
    """The same strategy with its spread scaled until the archive's workloads, left out in turn, are covered.

    Raises
    ------
    InputError
        For a strategy that is not one model (auto, cloudbandit).
    """
    if not isinstance(chosen, ModelBased):
        raise InputError("only a strategy with one model can be calibrated: name one, such as --strategy ernest")
    return replace(chosen, model=Conformal(chosen.model))


def trees() -> ModelBased:
    """Expected improvement on bagged gradient-boosted trees; the stop is CherryPick's."""
    return ModelBased(
        "trees",
        "expected improvement on bagged gradient-boosted trees (Bilal et al. 2020)",
        BaggedTrees(),
        QuasiRandom(3),
        ConstrainedImprovement(),
        SmallImprovement(0.10),
    )


TABLE: dict[str, Callable[[], Strategy]] = {
    "auto": Auto,
    "ernest": lambda: ModelBased(
        "ernest", "scaling terms fitted to the workload's own runs (Venkataraman et al. 2016)", Ernest()
    ),
    "c3o": lambda: ModelBased(
        "c3o",
        "the model that predicts left-out runs best, of Ernest, boosting and factored ones (Will et al. 2021)",
        C3O(),
    ),
    "cherrypick": lambda: ModelBased(
        "cherrypick",
        "Bayesian optimisation with a Gaussian process, the paper's settings (Alipourfard et al. 2017)",
        GaussianProcess(),
        QuasiRandom(3),
        ConstrainedImprovement(),
        SmallImprovement(0.10),
    ),
    "cherrypick-artifact": lambda: ModelBased(
        "cherrypick-artifact",
        "Bayesian optimisation with a Gaussian process, the settings of CherryPick's released code",
        GaussianProcess(noise=0.02, slices=10),
        QuasiRandom(2),
        ConstrainedImprovement(constrained=False),
        SmallImprovement(0.06),
    ),
    "arrow": lambda: ModelBased(
        "arrow",
        "extra-trees on pairs of configurations, with the counters of what was run (Hsu et al. 2018)",
        PairwiseTrees(),
        QuasiRandom(3),
        PredictedBest(),
        PredictedWorse(1.1),
    ),
    "lynceus": lambda: ModelBased(
        "lynceus",
        "gain per dollar of a run and of those it leads to, within a search budget (Casimiro et al. 2020)",
        RandomTrees(),
        LatinHypercube(RandomTrees()),
        LookAhead(),
        WithinBudget(),
    ),
    "trees": trees,
    "cloudbandit": lambda: CloudBandit(
        "cloudbandit",
        "a bandit over providers (or instance families), searching with trees in each (Lazuka et al. 2022)",
        replace(trees(), stop=Never()),
    ),
    "prior": lambda: ModelBased(
        "prior",
        "scaling laws, other workloads and the workload's own runs in one posterior",
        LearnedPrior(),
        None,
        MixtureImprovement(),
        SmallImprovement(0.001, at_least=4),
    ),
    "selecta": lambda: ModelBased(
        "selecta",
        "collaborative filtering: a factorisation of other workloads' runs (Klimovic et al. 2018)",
        selecta(),
        References(),
    ),
    "quasar": lambda: ModelBased(
        "quasar",
        "collaborative filtering: scale-up, scale-out and type classified apart (Delimitrou and Kozyrakis 2014)",
        Quasar(),
        References(),
    ),
    "neighbours": lambda: ModelBased(
        "neighbours",
        "collaborative filtering: the workloads that ran most alike (Koren 2010)",
        neighbours(),
        References(),
    ),
    "paris": lambda: ModelBased(
        "paris",
        "a forest on fingerprints of other workloads' runs (Yadwadkar et al. 2017)",
        Paris(),
        References(),
    ),
    "transfer": lambda: ModelBased(
        "transfer",
        "a network learnt on other workloads, its last layer fitted to the workload's own runs (Moradi et al. 2019)",
        Transfer(),
        References(),
    ),
    "price-only": lambda: ModelBased(
        "price-only", "cheapest per hour among the candidates; runtimes are not considered", PriceOnly(), None
    ),
    "random": lambda: ModelBased(
        "random", "yardstick: recommends the best measured; measures at random", MeasuredOnly(shuffle=True), Uniform()
    ),
    "column-mean": lambda: ModelBased(
        "column-mean", "yardstick: what is fast for other workloads on average", ColumnMean()
    ),
    "best-fixed": lambda: ModelBased(
        "best-fixed", "yardstick: the configuration best for other workloads on average", BestFixed(), None
    ),
}


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """What installed packages add; looked for once, since it reads the metadata of every package."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def strategies() -> dict[str, Callable[[], Strategy]]:
    """Every known strategy: the table's and those that installed packages add.

    Raises
    ------
    RecommenderError
        When a package adds a name that is taken.
    """
    found = dict(TABLE)
    for point in _installed():
        if point.name in found:
            raise RecommenderError(
                f"two strategies are named {point.name!r}; the one from {point.value} must be renamed or uninstalled"
            )
        found[point.name] = point.load()
    return found


def strategy(name: str) -> Strategy:
    """Return the strategy called `name`; with `+ei` behind it, one that goes on as a search by expected improvement.

    Raises
    ------
    UnknownNameError
        With the nearest known name.
    """
    known = strategies()
    base, plus, _ = name.rpartition(SEARCHING)
    if plus and name.endswith(SEARCHING) and base in known:
        return _searching(known[base](), name)
    if name not in known:
        raise UnknownNameError(f"unknown strategy {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return known[name]()


def _searching(made: Strategy, name: str) -> ModelBased:
    """A model that recommends, gone on with as a search once its design is exhausted."""
    if not isinstance(made, ModelBased) or made.acquisition is not None or isinstance(made.design, Uniform | None):
        raise RecommenderError(
            f"{name!r}: only a strategy with a model and without a search of its own can go on with {SEARCHING}, such as "
            f"selecta{SEARCHING}"
        )
    why = f"{made.why}, then expected improvement"
    return replace(made, name=name, why=why, acquisition=ConstrainedImprovement(), stop=SmallImprovement(0.10))
