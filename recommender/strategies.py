"""Strategies: one table from name to composition, and the automatic choice among them.

A strategy is two pure functions of the evidence. Third parties add theirs through the entry-point group
`recommender.strategies`: a factory without arguments that returns a `Strategy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from recommender.automatic import Auto
from recommender.composition import ModelBased, Strategy
from recommender.errors import InputError, RecommenderError, UnknownNameError, did_you_mean
from recommender.models.bagging import RandomTrees
from recommender.models.c3o import C3O
from recommender.models.conformal import Conformal, Progress
from recommender.models.ernest import Ernest
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

__all__ = ["TABLE", "ModelBased", "Strategy", "auto", "calibrated", "strategies", "strategy"]
ENTRY_POINT_GROUP = "recommender.strategies"
SEARCHING = "+ei"
"""Behind the name of a strategy that only recommends: go on as a search by expected improvement."""


def auto() -> Auto:
    """The automatic choice, which can be asked what it would pick."""
    return Auto(strategy)


def calibrated(chosen: Strategy, *, progress: Progress | None = None) -> ModelBased:
    """The same strategy with its spread scaled until the archive's workloads, left out in turn, are covered; `progress`
    is called with how many were.

    Raises
    ------
    InputError
        For a strategy that is not one model (auto, cloudbandit).
    """
    if not isinstance(chosen, ModelBased):
        raise InputError("only a strategy with one model can be calibrated: name one, such as --strategy ernest")
    return replace(chosen, model=Conformal(chosen.model, progress=progress))


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
    "auto": auto,
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
