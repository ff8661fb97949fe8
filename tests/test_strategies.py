"""Every strategy keeps the contract; the table of strategies, plug-ins, the automatic choice and batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from strategy_contract import Case, Make, StrategyContract, synthetic

from recommender import strategies as module
from recommender.datasets import Dataset, fetch_dataset
from recommender.errors import RecommenderError, UnknownNameError
from recommender.pending import batch
from recommender.problem import Problem, build_problem
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs
from recommender.strategies import TABLE, strategies, strategy

SCOUT = ("kmeans_bigdata_spark15", "pagerank_bigdata_spark")
"""5 runs stopped at the time limit; 19 that crashed."""

RUN_COLUMNS = ("workload", "instance_type", "node_count", "runtime_s", "status")


@pytest.fixture(scope="session")
def scout_cases(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Scout, normalised into a cache of this test run, asked about two of its workloads."""
    data = fetch_dataset("scout", mirror=mirror, cache=tmp_path_factory.mktemp("scout"))
    return {workload: scout_case(data, workload) for workload in SCOUT}


@cache
def cached_synthetic() -> Case:
    """The synthetic table, made once."""
    return synthetic()


def scout_case(data: Dataset, workload: str) -> Case:
    """One Scout workload with four others as its archive."""
    assert data.runs is not None
    assert data.candidates is not None
    others = [w for w in data.runs.workloads if w != workload][::5]
    frame = data.runs.frame[data.runs.frame["workload"].isin([workload, *others])].reset_index(drop=True)
    return Case(workload, Runs(frame), data.candidates, workload, first=8, steps=3)


@pytest.mark.parametrize("name", sorted(TABLE))
class TestOnASyntheticTable(StrategyContract):
    """The contract, for every strategy of the table."""

    @pytest.fixture
    def make(self, name: str) -> Make:
        return TABLE[name]

    @pytest.fixture
    def case(self) -> Case:
        return cached_synthetic()


@pytest.mark.parametrize("name", sorted(TABLE))
@pytest.mark.parametrize("workload", SCOUT)
class TestOnScout(StrategyContract):
    """The contract, for every strategy of the table, on measured runs."""

    @pytest.fixture
    def make(self, name: str) -> Make:
        return TABLE[name]

    @pytest.fixture
    def case(self, scout_cases: dict[str, Case], workload: str) -> Case:
        return scout_cases[workload]


@dataclass(frozen=True)
class FavouriteFirst:
    """A third party's strategy, as one would be written: believes in one instance type and measures it once."""

    favourite: str = "swift"

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Rank by what was measured; before that by price."""
        return strategy("price-only").recommend(problem, runs)

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> NextRun | None:
        """Propose the favourite on every unmeasured cluster size, smallest first."""
        tried = set(zip(runs.frame["instance_type"], runs.frame["node_count"], strict=True))
        for kind, nodes in zip(
            problem.configurations["instance_type"], problem.configurations["node_count"], strict=True
        ):
            if kind == self.favourite and (kind, nodes) not in tried:
                return NextRun(instance_type=kind, node_count=int(nodes), why="my favourite")
        return None


class TestAThirdPartysStrategy(StrategyContract):
    """The suite is reusable: a plug-in's tests are this class."""

    @pytest.fixture
    def make(self) -> Make:
        return FavouriteFirst

    @pytest.fixture
    def case(self) -> Case:
        return cached_synthetic()


def plug_in(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Pretend that a package which adds a strategy is installed."""
    point = EntryPoint(name=name, value=f"{__name__}:FavouriteFirst", group=module.ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: FavouriteFirst)
    monkeypatch.setattr(module, "_installed", module._installed.__wrapped__)  # not what an earlier call found
    monkeypatch.setattr(module, "entry_points", lambda *, group: [point] if group == point.group else [])


def test_a_strategy_installed_by_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "favourite-first")
    assert list(strategies()) == [*TABLE, "favourite-first"]
    assert isinstance(strategy("favourite-first"), FavouriteFirst)


def test_a_plug_in_that_takes_a_known_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "ernest")
    with pytest.raises(RecommenderError, match=r"two strategies are named 'ernest'.*test_strategies.*renamed"):
        strategies()


@pytest.mark.parametrize(
    ("name", "meant"), [("ernst", "ernest"), ("colum-mean", "column-mean"), ("price", "price-only")]
)
def test_an_unknown_strategy_gets_did_you_mean(name: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown strategy '{name}'; did you mean '{meant}'"):
        strategy(name)


def test_every_strategy_has_its_own_name_and_a_reason() -> None:
    for name in TABLE:
        made = strategy(name)
        assert getattr(made, "name", "auto") == name
        assert getattr(made, "why", None) or made.__doc__


@pytest.mark.parametrize("name", ["random", "ernest", "column-mean"])
def test_a_batch_names_different_unmeasured_configurations(name: str) -> None:
    case = cached_synthetic()
    problem, mine = case.ask()
    runs = batch(strategy(name), problem, mine, 4)
    found = [(r.instance_type, r.node_count) for r in runs]
    assert len(set(found)) == len(found) <= 4
    assert not set(found) & set(zip(mine.frame["instance_type"], mine.frame["node_count"], strict=True))
    assert (runs[0] if runs else None) == strategy(name).suggest(problem, mine)
    if name == "random":
        assert len(found) == 4
    assert batch(strategy(name), problem, mine, 1) == runs[:1]


def test_a_batch_larger_than_what_is_left_names_what_is_left() -> None:
    case = cached_synthetic()
    few = case.candidates.iloc[[0, 5, 9]].reset_index(drop=True)
    problem, mine = case.ask(case.start.head(1), candidates=few)
    assert len(batch(strategy("random"), problem, mine, 10)) <= 3
    assert batch(strategy("price-only"), problem, mine, 10) == []


def test_a_random_search_visits_every_configuration_once_and_follows_its_seed() -> None:
    case = cached_synthetic()
    orders = []
    for seed in (0, 0, 1):
        mine, order = case.start.head(1)[list(RUN_COLUMNS)], []
        problem, _ = case.ask(mine, seed=seed)
        while (wanted := strategy("random").suggest(problem, Runs.from_frame(mine))) is not None:
            order.append((wanted.instance_type, wanted.node_count))
            mine = pd.concat([mine, case.look_up(wanted)], ignore_index=True)[list(RUN_COLUMNS)]
        assert len(order) == len(set(order)) == len(case.candidates) - 1
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("seed", range(3))
def test_the_input_recommended_for_does_not_depend_on_the_order_of_the_runs(seed: int) -> None:
    rows = [("w", "m5.large", 1, 10.0 * k + size, size, k) for size in (1.0, 2.0) for k in (3.0, 5.0, 9.0)]
    frame = pd.DataFrame(
        rows, columns=["workload", "instance_type", "node_count", "runtime_s", "input.size_gib", "input.k"]
    )
    shuffled = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    assert build_problem(shuffled)[0].inputs == build_problem(frame)[0].inputs
