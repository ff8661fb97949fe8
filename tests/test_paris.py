"""PARIS: what a forest finds in fingerprints, how sure it says it is, and what it does with bad tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from strategy_contract import StrategyContract

from recommender.datasets import fetch_dataset
from recommender.errors import InsufficientEvidenceError
from recommender.models import Prediction, measured
from recommender.models.paris import Paris
from recommender.models.yardsticks import ColumnMean
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import Strategy, strategy

POOL = pd.DataFrame(
    [(f"{provider}{vcpus}x{ratio}", 1, vcpus, float(vcpus * ratio), provider)
     for provider in "ab" for vcpus in (2, 4, 8) for ratio in (2, 4, 8)],
    columns=["instance_type", "node_count", "vcpus", "memory_gib", "feature.provider"],
)  # fmt: skip
POOL["usd_per_hour"] = 0.05 * POOL["vcpus"]


def planted(workloads: int = 40, noise: float = 0.02, seed: int = 0, pool: pd.DataFrame = POOL) -> pd.DataFrame:
    """Workloads of two kinds: half are bound by vCPUs, half by memory per vCPU; the counter `metric.swap` tells which."""
    rng = np.random.default_rng(seed)
    rows = []
    for w in range(workloads):
        level, bound = rng.normal(6, 1), w % 2
        shape = -np.log(pool["vcpus"]) if bound else -np.log(pool["memory_gib"] / pool["vcpus"])
        y = level + shape + 0.2 * (pool["feature.provider"] == "b") + rng.normal(0, noise, len(pool))
        part = pool[["instance_type", "node_count"]].assign(workload=f"w{w:02}", runtime_s=np.exp(y))
        rows.append(part.assign(**{"metric.swap": 100.0 * (1 - bound) + rng.uniform(0, 5, len(pool))}))
    return pd.concat(rows, ignore_index=True)


def ask(
    frame: pd.DataFrame, mine: pd.DataFrame | None, candidates: pd.DataFrame = POOL, **options: Any
) -> tuple[Problem, Runs]:
    """The problem of workload w00 (memory-bound) with the others as archive."""
    archive = frame[frame["workload"] != "w00"]
    return build_problem(
        mine, workload="w00", archive=[archive], candidates=candidates, **{"objective": "runtime", **options}
    )


def truth(frame: pd.DataFrame, problem: Problem, workload: str = "w00") -> np.ndarray:
    """ln runtime of a workload by configuration."""
    by_type = frame[frame["workload"] == workload].set_index("instance_type")["runtime_s"]
    return np.asarray(np.log(by_type.reindex(problem.configurations["instance_type"]).to_numpy(float)))


def on(frame: pd.DataFrame, *types: str, workload: str = "w00") -> pd.DataFrame:
    """Runs of one workload on some types."""
    return frame[(frame["workload"] == workload) & frame["instance_type"].isin(types)].reset_index(drop=True)


def plain(found: Any) -> dict[str, Any]:
    return dict(vars(found))


def error(frame: pd.DataFrame, problem: Problem, found: Prediction) -> np.ndarray:
    return np.asarray(np.abs(found.log_runtime - truth(frame, problem)))


class TestContract(StrategyContract):
    @pytest.fixture
    def make(self) -> Callable[[], Strategy]:
        return lambda: strategy("paris")


class TestTheForest:
    def test_tells_kinds_of_workload_apart_by_two_runs(self) -> None:
        frame = planted().drop(columns="metric.swap")
        problem, runs = ask(frame, on(frame, "a2x2", "a8x8", "a8x2"))
        assert error(frame, problem, Paris().predict(problem, runs)).max() < 0.25
        assert np.median(error(frame, problem, Paris().predict(problem, runs))) < 0.05
        assert np.median(error(frame, problem, ColumnMean().predict(problem, runs))) > 0.2

    def test_tells_them_apart_by_counters_after_one_run(self) -> None:
        frame = planted()
        problem, runs = ask(frame, on(frame, "a4x4"))
        with_counters, without = (Paris(counters=c).predict(problem, runs) for c in (True, False))
        assert np.median(error(frame, problem, with_counters)) < 0.2
        assert np.median(error(frame, problem, without)) > 0.4
        assert np.median(with_counters.spread) < np.median(without.spread)
        assert "1 counters" in with_counters.binding(0)
        assert not any("metric" in w for w in with_counters.warnings)

    def test_falls_back_to_runtimes_and_says_so_when_the_workload_has_no_counters(self) -> None:
        frame = planted()
        mine = on(frame, "a2x2", "a8x8").drop(columns="metric.swap")
        problem, runs = ask(frame, mine)
        found = Paris().predict(problem, runs)
        assert (found.log_runtime == Paris(counters=False).predict(problem, runs).log_runtime).all()
        assert any("fingerprint is of runtimes only" in w for w in found.warnings)

    def test_eighty_percent_intervals_hold_eighty_percent_of_new_workloads(self) -> None:
        frame, inside = planted(noise=0.2).drop(columns="metric.swap"), []
        problem, _ = ask(frame, None)
        new = planted(12, noise=0.2, seed=1)
        for name in new["workload"].unique():
            runs = Runs.from_frame(on(new, "a2x2", "b8x8", workload=name).drop(columns="metric.swap"))
            found = Paris().predict(problem, runs)
            there = measured(problem, runs).count == 0
            off = np.abs(found.log_runtime - truth(new, problem, name)) / found.spread
            inside.extend(off[there] < 1.2816)
        assert 0.7 < np.mean(inside) < 0.92

    def test_a_type_that_the_archive_never_ran_is_predicted_by_its_features_and_with_a_wider_spread(self) -> None:
        frame = planted()
        known = frame[~frame["instance_type"].isin(["b8x4", "b2x8"])]
        problem, runs = ask(known, on(frame, "a2x2", "a8x8"))
        found = Paris().predict(problem, runs)
        new = problem.configurations["instance_type"].isin(["b8x4", "b2x8"]).to_numpy()
        seen = measured(problem, runs).count > 0
        assert (error(frame, problem, found)[new] < 1.2816 * 1.5 * found.spread[new]).all()
        assert np.isfinite(found.log_runtime).all()
        assert found.spread[new].min() > np.median(found.spread[~new & ~seen])
        assert "by its features alone" in found.binding(int(np.flatnonzero(new)[0]))

    def test_nothing_is_said_of_other_types_where_the_archive_has_one(self) -> None:
        frame = on(planted(), "a2x2", workload="w01")
        one = pd.concat([frame.assign(workload=f"w{w:02}", runtime_s=100.0 + w) for w in range(1, 9)])
        problem, runs = ask(one, frame.assign(workload="w00"))
        found = Paris().predict(problem, runs)
        assert list(problem.configurations["instance_type"][np.isfinite(found.log_runtime)]) == ["a2x2"]

    def test_a_forest_that_chooses_worse_than_the_column_mean_says_so(self) -> None:
        frame = planted().drop(columns="metric.swap")
        rng = np.random.default_rng(0)  # fingerprints that mean nothing, and one type that is always best
        noise = frame.assign(
            runtime_s=np.exp(5 + rng.normal(0, 0.3, len(frame)) - 2.0 * (frame["instance_type"] == "a4x4"))
        )
        problem, runs = ask(noise, on(noise, "a2x2", "a8x8"))
        blunt, good = (m.predict(problem, runs) for m in (Paris(offset=False, smallest=250), Paris()))
        assert any("chose worse" in w and "--strategy column-mean" in w for w in blunt.warnings)
        assert not any("chose worse" in w for w in good.warnings)
        assert good.log_runtime.argmin() == ColumnMean().predict(problem, runs).log_runtime.argmin()


def test_what_is_kept_of_an_archive_does_not_mix_seeds() -> None:
    frame = planted().drop(columns="metric.swap")
    problem, runs = ask(frame, on(frame, "a2x2", "a8x8"))
    other = replace(problem, seed=3)
    first = Paris().predict(problem, runs).log_runtime
    assert (Paris().predict(other, runs).log_runtime != first).any()
    fresh, mine = ask(frame, on(frame, "a2x2", "a8x8"), seed=3)
    assert (Paris().predict(fresh, mine).log_runtime == Paris().predict(other, runs).log_runtime).all()


class TestTheReferences:
    def test_are_proposed_until_there_are_two_and_depend_on_the_archive(self) -> None:
        pool = POOL[
            POOL["memory_gib"] == 16.0
        ]  # 2 vCPUs x 8 GiB to 8 vCPUs x 2 GiB: each kind of workload has its best
        frame, chosen = planted(pool=pool), strategy("paris")
        first = chosen.suggest(*ask(frame, None, pool))
        assert first is not None
        second = chosen.suggest(*ask(frame, on(frame, first.instance_type), pool))
        assert second is not None
        assert "reference 2 of 2" in str(plain(second)["why"])
        assert first.instance_type[1:] != second.instance_type[1:], (
            "one shape tells the kinds of workload apart by nothing"
        )
        best = chosen.recommend(*ask(frame, on(frame, first.instance_type, second.instance_type), pool)).rows[0]
        assert best.instance_type == "a2x8"


class TestBadTables:
    def test_no_archive_is_an_error_that_says_what_to_give(self) -> None:
        frame = planted()
        problem, runs = build_problem(on(frame, "a2x2"), workload="w00", candidates=POOL)
        with pytest.raises(InsufficientEvidenceError, match="--archive"):
            Paris().predict(problem, runs)

    def test_an_archive_without_overlap_is_an_error(self) -> None:
        frame = planted()
        with pytest.raises(InsufficientEvidenceError, match=r"nothing is learnt from the archive: it ran c5\.large"):
            Paris().predict(*ask(frame.assign(instance_type="c5.large"), on(frame, "a2x2")))

    @pytest.mark.parametrize("factor", [0.01, 100.0])
    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_a_run_that_is_100_x_off_is_flagged_and_widens_every_interval(self, factor: float, count: int) -> None:
        frame = planted().drop(columns="metric.swap")
        mine = on(frame, "a2x2", "a8x8", "b4x2", "b8x2").head(count)
        mine["runtime_s"] *= np.where(mine.index == 0, factor, 1.0)
        problem, runs = ask(frame, mine)
        found = Paris().predict(problem, runs)
        assert any("contradict each other" in w for w in found.warnings)
        assert found.spread.min() > 1.0
        assert (error(frame, problem, found) < 2.5 * found.spread).all()

    def test_an_archive_whose_times_are_100_x_off_in_one_workload_does_not_bend_the_answer(self) -> None:
        frame = planted().drop(columns="metric.swap")
        bent = frame.assign(runtime_s=frame["runtime_s"] * np.where(frame["workload"] == "w07", 1e5, 1.0))
        problem, runs = ask(bent, on(frame, "a2x2", "a8x8", "a8x2"))
        found = Paris().predict(problem, runs)
        assert np.median(error(frame, problem, found)) < 0.05
        assert any("w07" in w for w in found.warnings)

    def test_two_workloads_leave_the_spread_assumed(self) -> None:
        frame = planted(3)
        problem, runs = ask(frame, on(frame, "a2x2"))
        found = Paris().predict(problem, runs)
        unmeasured = measured(problem, runs).count == 0
        assert found.spread[unmeasured].min() >= 0.5
        assert any("the spread is assumed" in w for w in found.warnings)

    def test_equal_runtimes_everywhere_are_no_trouble(self) -> None:
        frame = planted().assign(runtime_s=60.0)
        problem, runs = ask(frame, on(frame, "a2x2"))
        found = Paris().predict(problem, runs)
        assert np.exp(found.log_runtime) == pytest.approx(60.0)
        assert found.spread.min() > 0.01


def test_clusters_without_counters_are_predicted_too(mirror: Path, tmp_path: Path) -> None:
    scout = fetch_dataset("scout", mirror=mirror, cache=tmp_path)
    assert scout.runs is not None
    workload = scout.runs.workloads[3]
    mine = scout.runs.of(workload)
    done = mine.completed.iloc[[5, 40]].reset_index(drop=True)
    told = done[[c for c in done if not str(c).startswith("metric.")]]
    problem, runs = build_problem(
        told, workload=workload, archive=[scout.runs.without(workload)], candidates=scout.candidates
    )
    found = replace(Paris(), trees=30).predict(problem, runs)
    table = problem.configurations.merge(mine.completed, how="left", on=["instance_type", "node_count"])
    off = np.abs(found.log_runtime - np.log(table["runtime_s"].to_numpy(float)))
    assert np.nanmedian(off) < 0.35
    assert problem.configurations["node_count"].max() > 1
