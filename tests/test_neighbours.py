"""Neighbours: the library's own formula, without fitting it anew, and workloads named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from strategy_contract import StrategyContract
from test_selecta import POOL, ask, planted, some

from recommender.models._surprise import trainset
from recommender.models.archive import archived
from recommender.models.neighbours import Nearest, Neighbourhood, neighbours
from recommender.strategies import Strategy, strategy


class TestContract(StrategyContract):
    @pytest.fixture
    def make(self) -> Callable[[], Strategy]:
        return lambda: strategy("neighbours")


@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_is_the_librarys_knn_with_baselines_but_for_the_level(keep: float) -> None:
    from surprise import KNNBaseline  # type: ignore[import-untyped]

    frame = planted(workloads=150, noise=0.1, keep=keep)
    problem, _ = ask(frame)
    a = archived(problem)
    folded = Nearest(10)(problem, a)
    assert isinstance(folded, Neighbourhood)
    s, y = np.array([3, 12]), np.full(len(POOL), np.nan)
    y[s] = [5.0, 5.4]
    use = np.isfinite(a.y[:, s]).all(axis=1)  # the library cannot normalise a workload that ran none of them
    part = a.part(np.flatnonzero(use))
    folded = Nearest(10)(problem, part)
    rows = np.vstack([part.y, y])
    ratings = (rows - np.nanmean(rows[:, s], axis=1, keepdims=True)) / folded.deviation
    options = {"method": "als", "n_epochs": 100, "reg_u": 0, "reg_i": 0}
    knn = KNNBaseline(k=10, sim_options={"name": "msd"}, bsl_options=options, verbose=False)
    knn.fit(trainset(ratings))
    unmeasured = [i for i in range(len(POOL)) if i not in s]
    theirs = np.array([knn.estimate(len(rows) - 1, i)[0] for i in unmeasured]) * folded.deviation
    mine = folded.fold_in(y, np.zeros(0))[0][unmeasured]
    assert folded.similarities(y) == pytest.approx(knn.sim[-1, :-1], abs=1e-9)
    apart = mine - theirs
    assert np.std(apart) < 0.01, "the library lets the new workload move the baselines a little"
    assert np.std(mine) > 0.2


def test_the_most_similar_workload_is_named_in_the_reason() -> None:
    frame = planted(workloads=30)
    twin = frame[frame["workload"] == "w004"].assign(workload="twin", runtime_s=lambda f: f["runtime_s"] * 7)
    mine = some(twin, "twin", [0, 6, 11, 17]).assign(workload="new")
    problem, runs = ask(frame, mine)
    answer = strategy("neighbours").recommend(problem, runs)
    assert neighbours().taught(problem).name != "column mean"
    modelled = next(row for row in answer.rows if row.evidence == "transferred")
    assert "most like w004" in modelled.reason


def test_without_a_run_nobody_is_similar() -> None:
    problem, runs = ask(planted(workloads=30))
    answer = strategy("neighbours").recommend(problem, runs)
    assert "most like" not in answer.rows[0].reason
    assert "none of its own runs used" in answer.rows[0].reason
