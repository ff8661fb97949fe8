"""Every strategy keeps the contract; the table of strategies, plug-ins, the automatic choice and batches."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from strategy_contract import Case, Make, StrategyContract, synthetic

from recommender.datasets import Dataset, fetch_dataset
from recommender.runs import Runs
from recommender.strategies import TABLE

SCOUT = ("kmeans_bigdata_spark15", "pagerank_bigdata_spark")
"""5 runs stopped at the time limit; 19 that crashed."""


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
