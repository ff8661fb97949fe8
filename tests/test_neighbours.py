"""Neighbours: the library's own formula, without fitting it anew, and workloads named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from strategy_contract import StrategyContract
from test_selecta import POOL, ask, planted, some

from recommender.models._surprise import trainset
from recommender.models.archive import archived
from recommender.models.neighbours import SHRINKAGE, Nearest, Neighbourhood, neighbours
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
    use = np.isfinite(a.y[:, s]).all(axis=1)  # of all alike, so that shrinking does not change the order
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
    assert folded.similarities(y) * (2 + SHRINKAGE) / 2 == pytest.approx(knn.sim[-1, :-1], abs=1e-9)
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


def shapes(kinds: list[list[float]], copies: int, *, names: str = "w") -> pd.DataFrame:
    """`copies` workloads of each kind, which is ln(runtime) by configuration of POOL, NaN where it was not run."""
    rows = [
        POOL[["instance_type", "node_count"]]
        .assign(workload=f"{names}{kind}{copy}", runtime_s=np.exp(np.array(shape) + 0.3 * copy))
        .iloc[np.flatnonzero(np.isfinite(shape))]
        for kind, shape in enumerate(kinds)
        for copy in range(copies)
    ]
    return pd.concat(rows, ignore_index=True)


def folded_in(
    frame: pd.DataFrame, own: dict[int, float], size: int = 5
) -> tuple[Neighbourhood, np.ndarray, np.ndarray]:
    """The neighbourhood, what the workload's own ln(runtime) is on its columns, and the mean that it answers."""
    problem, _ = ask(frame)
    a = archived(problem)
    folded = Nearest(size)(problem, a)
    assert isinstance(folded, Neighbourhood)
    y = np.full(len(a.columns), np.nan)
    y[np.searchsorted(a.columns, list(own))] = list(own.values())
    return folded, y, folded.fold_in(y, np.zeros(0))[0]


KINDS = [list(row) for row in np.random.default_rng(1).normal(6, 0.5, (3, len(POOL)))]


class TestWhatWorkloadsAreCalled:
    @pytest.mark.parametrize("own", [{3: 6.0}, {3: 6.0, 12: 6.4}, {3: 6.0, 12: 6.4, 17: 5.1}])
    @pytest.mark.parametrize("frame", [planted(workloads=30, noise=0.1, keep=0.6), shapes(KINDS, 6)])
    def test_changes_nothing_that_is_answered(self, frame: pd.DataFrame, own: dict[int, float]) -> None:
        names = sorted(set(frame["workload"]))
        renamed = frame.assign(workload=frame["workload"].map(dict(zip(names, reversed(names), strict=True))))
        one, _, first = folded_in(frame, own)
        other, _, second = folded_in(renamed, own)
        assert second == pytest.approx(first, abs=1e-6)
        assert other.deviation == pytest.approx(one.deviation)

    def test_changes_no_estimate_after_one_run(self) -> None:
        frame = shapes(KINDS, 6)
        own = some(frame, "w00", [3]).assign(workload="new")
        found = []
        for names in (frame["workload"], frame["workload"].str.translate(str.maketrans("012", "201"))):
            answer = strategy("neighbours").recommend(*ask(frame.assign(workload=names), own, objective="runtime"))
            found.append([(row.label, row.runtime_s.p50) for row in answer.rows if row.runtime_s is not None])
        assert [label for label, _ in found[0]] == [label for label, _ in found[1]]
        assert [p50 for _, p50 in found[0]] == pytest.approx([p50 for _, p50 in found[1]], rel=1e-6)


class TestOneCommonConfiguration:
    def test_tells_no_workloads_apart_so_the_column_mean_answers_and_nobody_is_named(self) -> None:
        folded, y, mean = folded_in(planted(workloads=30), {3: 6.0})
        assert (folded.similarities(y) == 0).all()
        assert mean == pytest.approx(folded.average.fold_in(y, np.zeros(0))[0])
        assert folded.remark(y, np.zeros(0)) == ""

    def test_leaves_no_loose_end_in_the_reason(self) -> None:
        frame = planted(workloads=30)
        answer = strategy("neighbours").recommend(*ask(frame, some(frame, "w004", [3]).assign(workload="new")))
        assert all("most like" not in row.reason and "; ;" not in row.reason for row in answer.rows)

    def test_does_not_outdo_three(self) -> None:
        slope, few = np.linspace(0, 2, len(POOL)), np.full(len(POOL), np.nan)
        few[[0, *range(9, len(POOL))]] = (7 - slope)[[0, *range(9, len(POOL))]]
        frame = pd.concat([shapes([list(5 + slope)], 4, names="twin"), shapes([list(few)], 6, names="other")])
        own = {i: 5 + slope[i] for i in (0, 4, 8)}
        folded, y, mean = folded_in(frame.reset_index(drop=True), own, size=4)
        likeness = dict(zip(folded.archive.workload, folded.similarities(y), strict=True))
        assert max(v for name, v in likeness.items() if name.startswith("other")) == 0.0
        assert "other" not in folded.remark(y, np.zeros(0))
        average = folded.average.fold_in(y, np.zeros(0))[0]
        assert np.abs(mean - 5 - slope).mean() < np.abs(average - 5 - slope).mean()


def test_more_common_configurations_count_more_at_the_same_distance() -> None:
    frame = shapes(KINDS, 4)
    fewer = (frame["workload"] == "w00") & (frame.groupby("workload").cumcount() == 17)
    own = {i: KINDS[0][i] for i in (3, 12, 17)}
    folded, y, _ = folded_in(frame[~fewer].reset_index(drop=True), own)
    likeness = dict(zip(folded.archive.workload, folded.similarities(y), strict=True))
    assert likeness["w00"] == pytest.approx(2 / (2 + SHRINKAGE))
    assert likeness["w01"] == pytest.approx(3 / (3 + SHRINKAGE))


def test_those_that_tie_for_the_last_place_count_alike() -> None:
    own = {i: KINDS[0][i] for i in (3, 12, 17)}
    _, _, all_twins = folded_in(shapes(KINDS, 6), own, size=6)
    folded, y, some_twins = folded_in(shapes(KINDS, 6), own, size=2)
    assert some_twins == pytest.approx(all_twins, abs=1e-6)
    assert folded.remark(y, np.zeros(0)) == "most like 6 workloads that are equally alike"
