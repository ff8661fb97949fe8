"""What people would pick instead, as strategies of a replay: general optimisers of other projects, each in its own way.

A peer searches over the same features of the candidates as the project's own Gaussian process: the distinct values of a
feature, in order, are a whole-number dimension, a text feature is a categorical one. A proposal means the nearest
candidate. Where that was measured already the optimiser is told its value again, which costs it nothing and is no step,
up to FREE times in a row; then the nearest candidate not yet measured is taken. Values are ln(objective).

Failed runs: to Optuna's TPE they are pruned trials, which its documentation lets the sampler learn from; to SMAC crashed
trials; scikit-optimize and Optuna's Gaussian process know none. Those three are told the largest value so far.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from recommender.candidates import Configuration
from recommender.models import Array, configuration_rows
from recommender.models.features import features
from recommender.problem import Problem
from recommender.recommendation import Recommendation
from recommender.runs import Runs
from recommender.search.acquisition import log_objective
from recommender.strategies import strategy

FREE = 5
"""Proposals of what was measured already, in a row, that are answered before the nearest other candidate is taken."""
Levels = tuple[int, ...]


@dataclass(frozen=True)
class Dimension:
    """One thing that tells candidates apart."""

    size: int
    """Its values are 0 to size - 1."""
    ordered: bool


class Optimiser(Protocol):
    """A peer."""

    def ask(self) -> Levels:
        """What to measure."""
        ...

    def tell(self, at: Levels, value: float, *, failed: bool) -> None:
        """ln(objective) at a proposal or anywhere else; of a failed run, the largest so far."""
        ...


Make = Callable[[list[Dimension], int, int], Optimiser]
"""(dimensions, seed, most runs) -> a peer that knows nothing."""


class Skopt:
    """scikit-optimize's `Optimizer`, its defaults but for the starts."""

    def __init__(self, dimensions: list[Dimension], seed: int, steps: int, *, starts: int | None = None) -> None:
        from skopt import Optimizer
        from skopt.space import Categorical, Integer

        space = [Integer(0, d.size - 1) if d.ordered else Categorical(list(range(d.size))) for d in dimensions]
        more = {} if starts is None else {"n_initial_points": starts}
        self._it = Optimizer(space, random_state=seed, **more)

    def ask(self) -> Levels:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a proposal was evaluated before: here it is free
            return tuple(int(v) for v in self._it.ask())

    def tell(self, at: Levels, value: float, *, failed: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lengths at the bounds of scikit-learn's fit
            self._it.tell(list(at), value)


class Optuna:
    """A sampler of Optuna, its defaults but for the starts."""

    def __init__(
        self, dimensions: list[Dimension], seed: int, steps: int, *, kind: str, starts: int | None = None
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        more = {} if starts is None else {"n_startup_trials": starts}
        self._optuna, self._gp = optuna, kind == "GPSampler"
        self._it = optuna.create_study(sampler=getattr(optuna.samplers, kind)(seed=seed, **more))
        self._space: dict[str, Any] = {
            f"x{i:03}": optuna.distributions.IntDistribution(0, d.size - 1)
            if d.ordered
            else optuna.distributions.CategoricalDistribution(list(range(d.size)))
            for i, d in enumerate(dimensions)
        }
        self._asked: tuple[Any, Levels] | None = None

    def ask(self) -> Levels:
        trial = self._it.ask(self._space)
        at = tuple(int(trial.params[name]) for name in self._space)
        self._asked = (trial, at)
        return at

    def tell(self, at: Levels, value: float, *, failed: bool) -> None:
        states = self._optuna.trial.TrialState
        pruned = failed and not self._gp
        if self._asked is not None and self._asked[1] == at:
            trial, self._asked = self._asked[0], None
            self._it.tell(trial, state=states.PRUNED) if pruned else self._it.tell(trial, value)
            return
        params = dict(zip(self._space, at, strict=True))
        state = {"state": states.PRUNED} if pruned else {"value": value}
        self._it.add_trial(self._optuna.trial.create_trial(params=params, distributions=self._space, **state))


class Smac:
    """A facade of SMAC3, its defaults."""

    def __init__(self, dimensions: list[Dimension], seed: int, steps: int, *, facade: str) -> None:
        import smac
        from ConfigSpace import Categorical, ConfigurationSpace, Integer
        from smac.runhistory.dataclasses import TrialInfo, TrialValue
        from smac.runhistory.enumerations import StatusType

        self._info, self._value, self._status = TrialInfo, TrialValue, StatusType
        self._folder = tempfile.TemporaryDirectory(prefix="smac-")
        self._space = ConfigurationSpace(seed=seed)
        self._names = [f"x{i:03}" for i in range(len(dimensions))]
        self._space.add(
            [
                Integer(name, (0, d.size - 1)) if d.ordered else Categorical(name, list(range(d.size)))
                for name, d in zip(self._names, dimensions, strict=True)
            ]
        )
        scenario = smac.Scenario(
            self._space, deterministic=True, n_trials=steps, seed=seed, output_directory=self._folder.name
        )
        logging.getLogger("smac").setLevel(logging.ERROR)
        made = getattr(smac, facade)
        self._it = made(scenario, lambda config, seed=0: 0.0, overwrite=True, logging_level=logging.ERROR)
        self._seed: int | None = None

    def ask(self) -> Levels:
        info = self._it.ask()
        self._seed = info.seed
        return tuple(int(info.config[name]) for name in self._names)

    def tell(self, at: Levels, value: float, *, failed: bool) -> None:
        from ConfigSpace import Configuration as Point

        point = Point(self._space, values=dict(zip(self._names, at, strict=True)))
        status = self._status.CRASHED if failed else self._status.SUCCESS
        self._it.tell(self._info(point, seed=self._seed), self._value(cost=value, status=status), save=False)


PEERS: dict[str, Make] = {
    "optuna gp": partial(Optuna, kind="GPSampler"),
    "optuna gp, 3 starts": partial(Optuna, kind="GPSampler", starts=3),
    "optuna tpe": partial(Optuna, kind="TPESampler"),
    "scikit-optimize": Skopt,
    "scikit-optimize, 3 starts": partial(Skopt, starts=3),
    "smac": partial(Smac, facade="HyperparameterOptimizationFacade"),
    "smac gp": partial(Smac, facade="BlackBoxFacade"),
}
"""With the starts that each takes by default (10 random ones, of SMAC a quarter of the runs), and with 3 where that can
be asked for."""


@dataclass
class Peer:
    """A peer as a strategy; its own state follows one episode, which begins when it is told of no runs."""

    make: Make
    steps: int
    _state: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """The best measured."""
        return strategy("random").recommend(problem, runs)

    def suggest(self, problem: Problem, runs: Runs, *, rng: object = None) -> Configuration | None:
        """Tell of the last run and ask until an unmeasured candidate is proposed."""
        if not len(runs):
            space = Space.of(problem)
            self._state = {"space": space, "it": self.make(space.dimensions, problem.seed, self.steps), "known": {}}
        space, it, known = self._state["space"], self._state["it"], self._state["known"]
        if len(runs):
            value, failed = _outcome(problem, runs, [v for v, _ in known.values()])
            known[self._state["row"]] = (value, failed)
            it.tell(self._state["at"], value, failed=failed)
        if len(known) == len(space.x):
            return None
        open_ = np.ones(len(space.x), dtype=bool)
        open_[list(known)] = False
        for _ in range(FREE + 1):
            at = it.ask()
            row = space.nearest(at, open_, also_known=True)
            if row not in known:
                break
            value, failed = known[row]
            it.tell(at, value, failed=failed)
        else:
            row = space.nearest(at, open_, also_known=False)
            at = space.levels[row]
        self._state |= {"row": row, "at": at}
        return problem.candidates.configuration(row)


@dataclass(frozen=True)
class Space:
    """The dimensions, and where candidates are on them."""

    x: Array
    """Features, (candidates, features)."""
    dimensions: list[Dimension]
    values: list[Array]
    """Per dimension, what its values are in x, (size, columns)."""
    columns: list[list[int]]
    """Per dimension, its columns of x."""
    levels: list[Levels]
    """Per candidate."""

    @classmethod
    def of(cls, problem: Problem) -> Space:
        """Dimensions of a problem's candidates."""
        space = features(problem)
        columns: list[list[int]] = []
        for group in dict.fromkeys(space.group.tolist()):
            mine = np.flatnonzero(space.group == group).tolist()
            text = all("=" in space.names[j] for j in mine)
            columns += [mine] if text else [[j] for j in mine]
        dimensions, values, at = [], [], []
        for mine in columns:
            found, level = np.unique(space.x[:, mine].round(9), axis=0, return_inverse=True)
            dimensions.append(Dimension(len(found), len(mine) == 1))
            values.append(found)
            at.append(level.ravel())
        levels = [tuple(map(int, row)) for row in np.stack(at, axis=1)]
        return cls(space.x, dimensions, values, columns, levels)

    def nearest(self, at: Levels, open_: Array, *, also_known: bool) -> int:
        """The nearest candidate, among equals an unmeasured one; or the nearest unmeasured."""
        point = np.zeros(self.x.shape[1])
        for mine, value, level in zip(self.columns, self.values, at, strict=True):
            point[mine] = value[level]
        distance = ((self.x - point) ** 2).sum(axis=1).round(9)
        if not also_known:
            distance = np.where(open_, distance, np.inf)
        return int(np.lexsort((~open_, distance))[0])


def _outcome(problem: Problem, runs: Runs, before: list[float]) -> tuple[float, bool]:
    """ln(objective) of the last run, and whether it failed, was stopped or is late; then no less than any before."""
    last = runs.frame.iloc[-1:]
    runtime_s, billed = float(last["runtime_s"].iloc[0]), float(last["cost_usd"].iloc[0])
    row = int(configuration_rows(problem, last)[0])
    log_t = np.full((1, len(problem.configurations)), np.log(runtime_s))
    value = float(log_objective(problem, log_t, objective=problem.objective)[0, row])
    if problem.objective == "cost" and np.isfinite(billed):
        value = float(np.log(billed))
    late = problem.deadline_s is not None and runtime_s > problem.deadline_s
    failed = bool(last["status"].iloc[0] != "completed" or late)
    return (max([value, *before]) if failed else value), failed
