"""Selecta: the fold-in equals a refit, the archive is looked through, references are chosen, changes are noticed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from strategy_contract import StrategyContract

from recommender.datasets import fetch_dataset
from recommender.errors import InsufficientEvidenceError, RecommenderError, UnknownNameError
from recommender.explanation import explain
from recommender.models.archive import Archived, archived
from recommender.models.factorisation import Collaborative, selecta
from recommender.models.fold_in import Average, Factorised, Gaussian, doubt, scatter
from recommender.models.held_out import COUNTS, held_out_regret, judge, next_reference, reference_scores
from recommender.models.kept import kept
from recommender.models.neighbours import neighbours
from recommender.models.quasar import Quasar
from recommender.models.yardsticks import ColumnMean
from recommender.pending import batch
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.search.references import References
from recommender.search.stopping import spent_usd
from recommender.strategies import Strategy, auto, strategy

TYPES, NODES = ("large", "medium", "roomy", "small", "swift"), (1, 2, 4, 8)
PRICE = {"small": 0.1, "medium": 0.2, "large": 0.4, "swift": 0.3, "roomy": 0.25}
POOL = pd.DataFrame(itertools.product(TYPES, NODES), columns=["instance_type", "node_count"]).assign(
    vcpus=4, memory_gib=16.0
)
POOL["usd_per_hour"] = POOL["instance_type"].map(PRICE)


def planted(workloads: int = 40, rank: int = 2, noise: float = 0.02, keep: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Runs of workloads that differ in a level and `rank` factors of the configurations."""
    rng = np.random.default_rng(seed)
    column, items = rng.normal(0, 0.3, len(POOL)), rng.normal(0, 0.4, (len(POOL), rank))
    y = rng.normal(5, 1, (workloads, 1)) + column + rng.normal(0, 1, (workloads, rank)) @ items.T
    y += rng.normal(0, noise, y.shape)
    u, i = np.nonzero(rng.random(y.shape) < keep)
    frame = POOL.iloc[i][["instance_type", "node_count"]].reset_index(drop=True)
    return frame.assign(workload=[f"w{w:03}" for w in u], runtime_s=np.exp(y[u, i]))


def ask(
    frame: pd.DataFrame, mine: pd.DataFrame | None = None, workload: str = "new", **options: Any
) -> tuple[Problem, Runs]:
    """The problem of `workload`, with all others of `frame` as archive."""
    return build_problem(
        mine, workload=workload, archive=[frame], candidates=POOL, **{"objective": "runtime", **options}
    )


def some(frame: pd.DataFrame, workload: str, rows: list[int]) -> pd.DataFrame:
    """Runs of a workload on the configurations `rows` of the pool."""
    chosen = POOL.iloc[rows][["instance_type", "node_count"]]
    return frame[frame["workload"] == workload].merge(chosen)


class TestContract(StrategyContract):
    @pytest.fixture
    def make(self) -> Callable[[], Strategy]:
        return lambda: strategy("selecta")


class TestTheFoldIn:
    def test_is_the_ridge_of_its_docstring(self) -> None:
        problem, _ = ask(planted(keep=0.7))
        normal = Factorised(2)(problem, archived(problem))
        assert isinstance(normal, Gaussian)
        value, vector = np.linalg.eigh(normal.covariance)
        q = vector[:, -2:] * np.sqrt(value[-2:])  # K = Q Qᵀ: factors in which Σ is the identity
        s, y = np.array([1, 5, 11]), np.full(len(POOL), np.nan)
        y[s] = [4.0, 4.6, 3.9]
        design = np.column_stack([np.ones(3), q[s]]) / np.sqrt(normal.noise[s])[:, None]
        target = (y[s] - normal.mean[s]) / np.sqrt(normal.noise[s])
        b, *p = np.linalg.solve(design.T @ design + np.diag([1e-4, 1.0, 1.0]), design.T @ target)
        mean, _ = normal.fold_in(y, np.zeros(0))
        assert mean == pytest.approx(normal.mean + b + q @ p, abs=1e-6)

    @pytest.mark.parametrize(("measured", "tolerance"), [([0, 7], 0.05), ([0, 3, 7, 9, 12, 14, 18], 0.05)])
    def test_answers_as_a_refit_with_the_new_workload_would(self, measured: list[int], tolerance: float) -> None:
        frame = planted()
        mine = some(frame, "w000", measured).assign(workload="new")
        others = frame[frame["workload"] != "w000"]
        problem, runs = ask(others, mine)
        y = np.full(len(POOL), np.nan)
        y[measured] = np.log(runs.frame["runtime_s"])
        old, again = archived(problem), archived(ask(pd.concat([others, mine.assign(workload="again")]))[0])
        folded, _ = Factorised(2)(problem, old).fold_in(y, np.zeros(0))
        refitted, _ = Factorised(2)(problem, again).fold_in(y, np.zeros(0))
        assert folded == pytest.approx(refitted, abs=tolerance)
        assert folded[measured] == pytest.approx(y[measured], abs=0.1)

    def test_finds_a_planted_workload_from_a_few_runs(self) -> None:
        frame = planted(noise=0.001)
        truth = np.log(frame.loc[frame["workload"] == "w000", "runtime_s"].to_numpy())
        problem, _ = ask(frame[frame["workload"] != "w000"])
        y = np.where(np.isin(np.arange(len(POOL)), [0, 4, 9, 15, 19]), truth, np.nan)
        mean, spread = Factorised(2)(problem, archived(problem)).fold_in(y, np.zeros(0))
        assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.08
        average, _ = Average()(problem, archived(problem)).fold_in(y, np.zeros(0))
        assert np.sqrt(np.mean((average - truth) ** 2)) > 0.3
        assert (spread > 0).all()

    def test_of_rank_nothing_is_the_column_mean(self) -> None:
        frame = planted(keep=0.6)
        problem, runs = ask(frame[frame["workload"] != "w000"], some(frame, "w000", [2, 8, 13]).assign(workload="new"))
        a = archived(problem)
        y = np.full(len(POOL), np.nan)
        for kind, nodes, t in runs.frame[["instance_type", "node_count", "runtime_s"]].itertuples(index=False):
            y[(POOL["instance_type"] == kind) & (POOL["node_count"] == nodes)] = np.log(t)
        mean, _ = Average()(problem, a).fold_in(y, np.zeros(0))
        expected = ColumnMean().predict(problem, runs)
        unmeasured = expected.evidence != 0
        assert mean[unmeasured] == pytest.approx(expected.log_runtime[unmeasured], abs=1e-4)

    def test_spread_is_that_of_the_errors_on_held_out_workloads(self) -> None:
        frame = planted(workloads=30, noise=0.15)
        model, errors = selecta(), []
        for w in [f"w{i:03}" for i in range(0, 30, 3)]:
            problem, runs = ask(frame[frame["workload"] != w], some(frame, w, [0, 6, 13]).assign(workload="new"))
            prediction = model.predict(problem, runs)
            truth = np.log(frame.loc[frame["workload"] == w, "runtime_s"].to_numpy())
            far = prediction.evidence != 0
            errors.append(((truth - prediction.log_runtime) / prediction.spread)[far])
        assert 0.6 < np.sqrt(np.mean(np.concatenate(errors) ** 2)) < 1.5


class TestSparseArchives:
    @pytest.mark.parametrize("each", [2, 3, 4, 6])
    def test_have_intervals_that_hold(self, each: int) -> None:
        inside = []
        for seed in range(3):
            frame = planted(workloads=46, seed=seed)
            archive = frame[frame["workload"] < "w040"].groupby("workload").sample(each, random_state=seed)
            ran = archive.drop_duplicates(["instance_type", "node_count"])[["instance_type", "node_count"]].head(2)
            for w in [f"w{u:03}" for u in range(40, 46)]:
                mine = frame[frame["workload"] == w]
                prediction = selecta().predict(*ask(archive, mine.merge(ran).assign(workload="new")))
                rest = (prediction.evidence != 0) & np.isfinite(prediction.log_runtime)
                apart = np.log(mine["runtime_s"].to_numpy()) - prediction.log_runtime
                inside.append(np.mean(np.abs(apart / prediction.spread)[rest] < 1.2816))
        assert 0.7 < np.mean(inside) <= 0.97

    def test_leave_open_what_two_configurations_are_to_each_other_by_the_runs_that_link_them(self) -> None:
        frame = some(planted(), "w001", [0, 1, 2])
        several = pd.concat([frame.assign(workload=f"w{u}") for u in range(5)])
        a = archived(ask(several)[0])
        c, s2 = doubt(a), scatter(a)
        # 5 workloads of 3 configurations each: a difference of two columns has variance 2 s²/5, but for the prior's little.
        assert c[0, 0] + c[1, 1] - 2 * c[0, 1] == pytest.approx(1 / (1 / (2 * s2 / 5) + 1 / 2))
        y = np.array([5.0, np.nan, np.nan])
        mean, spread = Average()(ask(planted())[0], a).fold_in(y, np.zeros(0))
        assert mean == pytest.approx(a.column + 5.0 - a.column[0], abs=1e-3)
        assert spread[1] ** 2 == pytest.approx(2 * s2 + c[0, 0] + c[1, 1] - 2 * c[0, 1], rel=1e-3)

    def test_are_said_to_say_nothing_of_how_workloads_differ(self) -> None:
        archive = planted().groupby("workload").sample(2, random_state=0)
        prediction = selecta().predict(*ask(archive))
        assert any("workloads, too few of which ran 4 configurations or more" in w for w in prediction.warnings)

    def test_of_one_run_a_workload_are_refused(self) -> None:
        archive = planted().groupby("workload").sample(1, random_state=0)
        with pytest.raises(InsufficientEvidenceError, match="no workload ran two candidates"):
            selecta().predict(*ask(archive))


class TestActivityCounters:
    def test_tell_workloads_apart_that_one_run_cannot(self) -> None:
        frame = planted(workloads=60, rank=1, noise=0.01)
        y = np.log(frame["runtime_s"]).to_numpy().reshape(60, -1)
        apart = y - y.mean(axis=1, keepdims=True)
        apart -= apart.mean(axis=0)
        shape = apart[:, apart.std(axis=0).argmax()]
        rng = np.random.default_rng(1)
        frame["metric.cpu"] = np.expm1(5 + np.repeat(shape, len(POOL)) + rng.normal(0, 0.01, len(frame)))
        problem, _ = ask(frame[frame["workload"] >= "w010"])
        a = archived(problem)
        assert a.counters.names == ("metric.cpu",)
        errors = []
        for counters in (False, True):
            folded = Factorised(1, counters)(problem, a)
            for u in range(10):
                blind = np.where(np.arange(len(POOL)) == 0, y[u], np.nan)
                x = a.counters.new(frame.iloc[[u * len(POOL)]], np.array([0]))
                errors.append(folded.fold_in(blind, x)[0] - y[u])
        without, with_counter = np.sqrt(np.mean(np.square(errors).reshape(2, -1), axis=1))
        assert with_counter < without / 2

    def test_unrecorded_ones_are_not_zero(self) -> None:
        frame = planted()
        frame["metric.cpu"] = np.where(frame["workload"] < "w020", 50.0 + np.arange(len(frame)) % 7, np.nan)
        problem, _ = ask(frame)
        a = archived(problem)
        x = a.counters.contexts(40)
        assert np.isnan(x[a.workload >= "w020"]).all()
        assert np.isfinite(x[a.workload < "w020"]).all()


class TestCountersInAnotherUnit:
    @pytest.fixture
    def frame(self) -> pd.DataFrame:
        frame = planted(workloads=30, rank=1, noise=0.02)
        y = np.log(frame["runtime_s"]).to_numpy().reshape(30, -1)
        shape = (y - y.mean(axis=1, keepdims=True) - y.mean(axis=0)) @ np.linspace(-1, 1, len(POOL))
        rng = np.random.default_rng(1)
        shape = (shape - shape.mean()) / shape.std()
        return frame.assign(
            **{
                "metric.net_mb": np.exp(5 + 0.5 * np.repeat(shape, len(POOL)) + rng.normal(0, 0.02, len(frame))),
                "metric.cpu_pct": np.exp(3 + 0.3 * np.repeat(shape, len(POOL)) + rng.normal(0, 0.02, len(frame))),
            }
        )

    @pytest.mark.parametrize(("name", "factor"), [("metric.net_mb", 1024.0), ("metric.cpu_pct", 0.01)])
    def test_are_named_and_the_answer_is_the_one_without_them(
        self, frame: pd.DataFrame, name: str, factor: float
    ) -> None:
        own, others = some(frame, "w000", [2, 11]).assign(workload="new"), frame[frame["workload"] != "w000"]
        good = selecta().predict(*ask(others, own))
        odd = selecta().predict(*ask(others, own.assign(**{name: own[name] * factor})))
        without = selecta().predict(*ask(others, own.assign(**{name: np.nan})))
        assert any(f"{name} is far off the archive's" in w and "not used" in w for w in odd.warnings)
        assert not any("far off" in w for w in good.warnings)
        assert odd.log_runtime == pytest.approx(without.log_runtime, abs=1e-9)

    def test_of_a_workload_of_the_archive_are_left_out_and_said_once(self, frame: pd.DataFrame) -> None:
        own, others = some(frame, "w000", [2, 11]).assign(workload="new"), frame[frame["workload"] != "w000"]
        at, name = others["workload"] == "w005", "metric.net_mb"
        odd = selecta().predict(*ask(others.assign(**{name: others[name].where(~at, others[name] * 1e6)}), own))
        without = selecta().predict(*ask(others.assign(**{name: others[name].where(~at)}), own))
        (said,) = (w for w in odd.warnings if "far off" in w)
        assert said.startswith(f"{name} of w005 is far off the rest")
        assert odd.log_runtime == pytest.approx(without.log_runtime, abs=1e-9)

    def test_are_not_suspected_of_workloads_that_are_as_the_others(self, frame: pd.DataFrame) -> None:
        a = archived(ask(frame)[0])
        assert a.counters.said == ()
        assert a.counters.bound == pytest.approx(
            np.maximum(4.0, 3.0 * np.abs(a.counters.contexts(30)).max(axis=0)), rel=0.01
        )


class TestRunsStoppedBeforeAnyCompleted:
    def stopped(self, rows: list[int], seconds: list[float]) -> pd.DataFrame:
        return (
            POOL.iloc[rows][["instance_type", "node_count"]]
            .assign(workload="new", runtime_s=seconds, status="timed_out")
            .reset_index(drop=True)
        )

    @pytest.mark.parametrize("name", ["selecta", "quasar", "neighbours"])
    def test_lift_the_level_and_it_is_said(self, name: str) -> None:
        frame = planted()
        fastest = [int(i) for i in frame["runtime_s"].to_numpy().reshape(40, -1).mean(axis=0).argsort()[:5]]
        limit = 50 * float(frame["runtime_s"].median())
        made = {"selecta": selecta(), "quasar": Quasar(), "neighbours": neighbours()}[name]
        blind = made.predict(*ask(frame))
        told = made.predict(*ask(frame, self.stopped(fastest, [limit] * 5)))
        rest = np.setdiff1d(np.arange(len(POOL)), fastest)
        assert (told.log_runtime[rest] > np.log(limit)).mean() > 0.7
        assert (told.spread[rest] < blind.spread[rest]).all()
        assert (told.spread[rest] > 0.2).all()
        assert any("5 stopped at a time limit say at least" in w for w in told.warnings)

    def test_say_nothing_where_so_long_was_expected(self) -> None:
        frame = planted()
        blind = selecta().predict(*ask(frame))
        told = selecta().predict(*ask(frame, self.stopped([3, 4], [0.1, 0.2])))
        rest = np.setdiff1d(np.arange(len(POOL)), [3, 4])
        assert told.log_runtime[rest] == pytest.approx(blind.log_runtime[rest])

    def test_are_as_many_as_say_something_the_least_expected_first(self) -> None:
        frame = planted()
        limit = 50 * float(frame["runtime_s"].median())
        alone = selecta().predict(*ask(frame, self.stopped([3], [limit])))
        weak = selecta().predict(*ask(frame, self.stopped([3, 4, 7, 9], [limit, 1.0, 1.0, 1.0])))
        rest = np.setdiff1d(np.arange(len(POOL)), [3, 4, 7, 9])
        assert weak.log_runtime[rest] == pytest.approx(alone.log_runtime[rest])


class TestReferences:
    def test_are_listed_before_anything_is_measured_and_differ(self) -> None:
        problem, runs = ask(planted())
        listed = batch(strategy("selecta"), problem, runs, 4)
        assert [run.why.split(":")[0] for run in listed[:2]] == ["reference 1 of 2", "reference 2 of 2"]
        assert len({(r.instance_type, r.node_count) for r in listed}) == len(listed)
        assert all(run.expected_runtime_s for run in listed[:2])

    def test_beat_references_drawn_at_random_on_workloads_that_were_not_looked_at(self) -> None:
        frame = planted(workloads=60, noise=0.05)
        seen, unseen = frame[frame["workload"] < "w040"], frame[frame["workload"] >= "w040"]
        problem, _ = ask(seen)
        normal = Factorised(2)(problem, archived(problem))
        y = np.log(unseen["runtime_s"].to_numpy()).reshape(-1, len(POOL))

        def regret(rows: list[int]) -> float:
            lost = []
            for truth in y:
                shown = np.where(np.isin(np.arange(len(POOL)), rows), truth, np.nan)
                mean, _ = normal.fold_in(shown, np.zeros(0))
                mean[rows] = truth[rows]
                lost.append(truth[mean.argmin()] - truth.min())
            return float(np.mean(lost))

        chosen: list[int] = []
        open_ = np.ones(len(POOL), dtype=bool)
        for _ in range(2):
            found = next_reference(problem, tuple(chosen), open_)
            assert found is not None
            chosen.append(found)
            open_[found] = False
        rng = np.random.default_rng(0)
        drawn = [regret(list(rng.choice(len(POOL), 2, replace=False))) for _ in range(50)]
        assert regret(chosen) < np.median(drawn)

    def test_a_failed_one_is_replaced(self) -> None:
        problem, runs = ask(planted())
        first = strategy("selecta").suggest(problem, runs)
        assert first is not None
        failed = pd.DataFrame(
            [
                {
                    "workload": "new",
                    "instance_type": first.instance_type,
                    "node_count": first.node_count,
                    "runtime_s": 3.0,
                }
            ]
        ).assign(status="failed")
        problem, runs = ask(planted(), failed)
        second = strategy("selecta").suggest(problem, runs)
        assert second is not None
        assert "reference 1 of 2" in second.why
        assert second.label != first.label

    def test_the_recommendation_names_what_suggest_proposes(self) -> None:
        frame = planted()
        for rows in ([], [3], [3, 9]):
            mine = some(frame, "w000", rows).assign(workload="new") if rows else None
            problem, runs = ask(frame[frame["workload"] != "w000"], mine)
            made = strategy("selecta")
            assert made.recommend(problem, runs).next_run == made.suggest(problem, runs)

    def test_any_runs_of_archived_configurations_will_do(self) -> None:
        frame = planted()
        problem, runs = ask(frame[frame["workload"] != "w000"], some(frame, "w000", [1, 18]).assign(workload="new"))
        assert References().propose(problem, runs, np.random.default_rng(0), None) is None


class TestHeldOut:
    def test_a_shape_that_the_archive_holds_beats_the_column_mean(self) -> None:
        judged = selecta().taught(ask(planted(noise=0.03))[0]).judged
        for runs in (2, 3, 5, 8):
            best = judged.choice(runs)
            assert "factorisation" in best
            assert judged.regret(best, runs) < judged.regret("column mean", runs) / 2
            assert judged.workloads(runs) == 40

    def test_workloads_that_differ_by_their_level_alone_are_answered_as_by_the_column_mean(self) -> None:
        frame = planted(workloads=50, rank=0, noise=0.05, keep=0.5)
        mine = some(frame, "w000", [2, 9, 13]).assign(workload="new")
        problem, runs = ask(frame[frame["workload"] != "w000"], mine)
        expected = ColumnMean().predict(problem, runs)
        rest = expected.evidence != 0
        for model in (selecta(), neighbours(), Quasar()):
            found = model.predict(problem, runs).log_runtime[rest]
            assert found == pytest.approx(expected.log_runtime[rest], abs=0.03)

    def test_a_model_that_wins_with_more_runs_is_not_switched_off_for_losing_with_one(self) -> None:
        frame = planted(workloads=50, keep=0.6, noise=0.05, seed=3)
        names = {k: neighbours().taught(ask(frame)[0], k).name for k in (1, 2, 9)}
        assert "nearest neighbours" in names[9]
        problem, _ = ask(frame)
        judged = neighbours().taught(problem).judged
        assert judged.off(names[9], 9) < 0.8 * judged.off("column mean", 9)

    @pytest.mark.parametrize("model", [selecta(), Quasar(), neighbours()], ids=["selecta", "quasar", "neighbours"])
    def test_own_runs_that_contradict_the_archive_widen_every_interval_and_are_said(self, model: Collaborative) -> None:
        frame = planted(workloads=20)
        mine = some(frame, "w000", [2, 9]).assign(workload="new")
        odd = mine.assign(runtime_s=mine["runtime_s"] * [1.0, 30.0])
        usual, contradicted = (model.predict(*ask(frame[frame["workload"] != "w000"], runs)) for runs in (mine, odd))
        assert not [w for w in usual.warnings if "unlike them" in w]
        (said,) = [w for w in contradicted.warnings if "unlike them" in w]
        rest = usual.evidence != 0
        wider = contradicted.spread[rest] / usual.spread[rest]
        assert wider.min() > 2.0
        assert float(said.removesuffix(" x").rpartition(" ")[2]) == pytest.approx(wider.mean(), rel=0.1)

    def test_own_failures_count_for_machines_of_as_little_memory(self) -> None:
        frame, pool = planted(workloads=20), POOL.assign(memory_gib=2.0 ** POOL["node_count"])
        mine = some(frame, "w000", [0, 3]).assign(workload="new", status=["failed", "completed"])
        small, large = POOL["node_count"].iloc[[0, 3]]
        assert small < large
        problem, runs = build_problem(
            mine, workload="new", archive=[frame[frame["workload"] != "w000"]], candidates=pool, objective="runtime"
        )
        chance = selecta().predict(problem, runs).completing
        size = problem.configurations["node_count"].to_numpy()
        assert (chance[size == small] == 0.5).all()
        assert (chance[size >= large] == 1.0).all()

    def test_a_failure_speaks_against_what_the_archive_failed_on_together(self) -> None:
        frame = planted(workloads=20)
        hungry, small = frame["workload"] < "w010", frame["node_count"] == POOL["node_count"].min()
        frame["status"] = np.where(hungry & small, "failed", "completed")
        first = int(np.flatnonzero(POOL["node_count"] == POOL["node_count"].min())[0])
        archive = frame[frame["workload"] != "w000"]
        mine = some(frame, "w000", [first]).assign(workload="new", status="failed")
        problem, runs = build_problem(
            mine, workload="new", archive=[archive], candidates=POOL.drop(columns="memory_gib"), objective="runtime"
        )
        found = selecta().predict(problem, runs).completing
        alike = problem.configurations["node_count"].to_numpy() == POOL["node_count"].min()
        own = problem.configurations.index == first
        assert found[alike & ~own].max() < 0.3 * found[~alike].min()
        following = strategy("selecta").suggest(problem, runs)
        assert following is not None
        assert following.node_count > POOL["node_count"].min()

    def test_an_own_failure_makes_nothing_likelier_to_complete(self) -> None:
        frame = planted(workloads=20)
        late = (frame["workload"] == "w003") & (frame["node_count"] > POOL["node_count"].min())
        frame["status"] = np.where(late, "timed_out", "completed")
        archive, first = frame[frame["workload"] != "w000"], some(frame, "w000", [0]).assign(workload="new")
        chances = []
        for status in ("completed", "failed"):
            problem, runs = ask(archive, first.assign(status=status))
            chances.append(selecta().predict(problem, runs).completing[1:])
        assert chances[0].min() < 1.0
        assert (chances[1] <= chances[0] + 0.02).all()

    def test_what_others_were_stopped_at_is_not_proposed_again_under_another_name(self) -> None:
        frame = planted(workloads=20, rank=1)
        archive = frame[frame["workload"] != "w000"]
        typical = archive.groupby(["instance_type", "node_count"])["runtime_s"].median().sort_values()
        kind, nodes = typical.index[len(typical) // 2]
        stopped = pd.DataFrame(
            {"workload": ["new"], "instance_type": [kind], "node_count": [nodes], "runtime_s": [5000.0]}
        ).assign(status="timed_out")
        problem, runs = ask(archive, stopped)
        following = strategy("selecta").suggest(problem, runs)
        assert following is not None
        assert following.expected_runtime_s is not None
        assert following.expected_runtime_s < 5000.0
        assert typical[following.instance_type, following.node_count] < typical[kind, nodes]

    def test_where_the_model_loses_the_column_mean_answers_and_it_says_so(self) -> None:
        frame = planted()
        problem, runs = ask(frame[frame["workload"] != "w000"], some(frame, "w000", [2, 9]).assign(workload="new"))
        loser = Collaborative("the upside-down model", (("upside down", UpsideDown()),))
        prediction = loser.predict(problem, runs)
        assert loser.taught(problem).name == "column mean"
        assert any("the upside-down model chose no better" in w for w in prediction.warnings)
        expected = ColumnMean().predict(problem, runs)
        unmeasured = prediction.evidence != 0
        assert prediction.log_runtime[unmeasured] == pytest.approx(expected.log_runtime[unmeasured], abs=1e-4)

    def test_what_is_said_of_held_out_workloads_is_what_was_judged_there(self) -> None:
        frame = planted(workloads=20)
        said = {1: "19 held-out workloads 1 reference run led", 4: "workloads 3 reference runs led"}
        said[6] = "workloads 3 reference runs and 2 more led"
        for k, words in said.items():
            mine = some(frame, "w000", list(range(0, 3 * k, 3))).assign(workload="new")
            prediction = selecta().predict(*ask(frame[frame["workload"] != "w000"], mine))
            assert any(words in w for w in prediction.warnings), (k, prediction.warnings)

    def test_a_model_is_judged_on_the_same_folds_as_its_fit(self) -> None:
        problem, _ = ask(planted(workloads=12))
        by_model = held_out_regret(problem, ColumnMean())
        judged = judge(problem, {"column mean": Average()})
        by_fit = [judged.regret("column mean", k) for k in judged.counts]
        assert judged.counts == COUNTS
        assert by_model.groupby("fold_in_runs")["regret"].mean().to_numpy() == pytest.approx(by_fit, abs=1e-3)
        assert set(by_model["workload"]) == {f"w{i:03}" for i in range(12)}

    def test_the_archive_is_fitted_once(self) -> None:
        problem, _ = ask(planted())
        model = selecta()
        taught, again = model.taught(problem), selecta().taught(replace(problem, seed=7, deadline_s=5.0))
        assert taught.folded is again.folded
        assert taught.judged is again.judged
        other, _ = ask(planted())
        assert model.taught(other).folded is not taught.folded
        calls: list[int] = []
        for key in ("a", "a", "b"):
            kept(problem, key, lambda: calls.append(1))
        assert len(calls) == 2


@dataclass(frozen=True)
class UpsideDown:
    """Believes the opposite of the column mean."""

    def __call__(self, problem: Problem, archive: Archived) -> Gaussian:
        average = Average()(problem, archive)
        return replace(average, mean=-average.mean)


class TestBadArchives:
    def answer(self, frame: pd.DataFrame, mine: pd.DataFrame) -> tuple[np.ndarray, str]:
        problem, runs = ask(frame, mine)
        prediction = selecta().predict(problem, runs)
        return prediction.log_runtime, " ".join(prediction.warnings)

    @pytest.fixture
    def frame(self) -> pd.DataFrame:
        return planted(workloads=20)

    @pytest.fixture
    def mine(self, frame: pd.DataFrame) -> pd.DataFrame:
        return some(frame, "w000", [2, 11]).assign(workload="new")

    def others(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["workload"] != "w000"]

    def test_a_workload_in_other_units_is_named_and_left_out(self, frame: pd.DataFrame, mine: pd.DataFrame) -> None:
        good = self.others(frame)
        typical = good.groupby("workload")["runtime_s"].median().sort_values().index[9]
        assert typical == "w008"
        bad = good["workload"] == "w008"
        clean, quiet = self.answer(good[~bad], mine)
        poisoned, said = self.answer(
            good.assign(runtime_s=good["runtime_s"].where(~bad, good["runtime_s"] * 1000)), mine
        )
        assert poisoned == pytest.approx(clean, abs=1e-9)
        assert "w008" in said
        assert "left out" in said
        assert "left out" not in quiet

    def test_a_workload_half_of_whose_runs_are_in_other_units_too(
        self, frame: pd.DataFrame, mine: pd.DataFrame
    ) -> None:
        good = self.others(frame)
        bad = (good["workload"] == "w009") & (good["node_count"] > 2)
        clean, _ = self.answer(good[good["workload"] != "w009"], mine)
        poisoned, said = self.answer(
            good.assign(runtime_s=good["runtime_s"].where(~bad, good["runtime_s"] * 1000)), mine
        )
        assert poisoned == pytest.approx(clean, abs=1e-9)
        assert "w009" in said

    def test_one_cell_in_other_units_is_left_out_alone(self, frame: pd.DataFrame, mine: pd.DataFrame) -> None:
        good = self.others(frame).reset_index(drop=True)
        clean, _ = self.answer(good.drop(index=45), mine)
        poisoned, said = self.answer(good.assign(runtime_s=good["runtime_s"].where(good.index != 45, 1e6)), mine)
        assert poisoned == pytest.approx(clean, abs=1e-9)
        assert "1 cell of" in said

    def test_contradictory_repetitions_are_left_out(self, frame: pd.DataFrame, mine: pd.DataFrame) -> None:
        good = self.others(frame).reset_index(drop=True)
        again = good.iloc[[45]].assign(runtime_s=good["runtime_s"][45] * 30)
        clean, _ = self.answer(good.drop(index=45), mine)
        twice, said = self.answer(pd.concat([good, again], ignore_index=True), mine)
        assert twice == pytest.approx(clean, abs=1e-9)
        assert good["workload"][45] in said
        assert "tenfold" in said

    def test_an_archive_of_which_nothing_is_believable_is_refused(self, frame: pd.DataFrame) -> None:
        one = frame[frame["workload"] == "w001"]
        twice = pd.concat([one, one.assign(runtime_s=one["runtime_s"] * 50)], ignore_index=True)
        with pytest.raises(InsufficientEvidenceError, match="nothing believable is left"):
            strategy("selecta").suggest(*ask(twice))

    def test_one_workload_is_followed_with_a_wide_spread_and_a_warning(
        self, frame: pd.DataFrame, mine: pd.DataFrame
    ) -> None:
        problem, runs = ask(frame[frame["workload"] == "w001"], mine)
        prediction = selecta().predict(problem, runs)
        assert any("holds 1 workload:" in w for w in prediction.warnings)
        assert (prediction.spread[prediction.evidence != 0] > 0.4).all()
        suggested = strategy("selecta").suggest(*ask(frame[frame["workload"] == "w001"]))
        assert suggested is not None

    def test_runs_that_the_archive_never_made_say_nothing_and_it_says_so(self, frame: pd.DataFrame) -> None:
        few = self.others(frame)
        few = few[few["node_count"] < 8]
        alone = some(frame, "w000", [3, 7]).assign(workload="new")
        problem, runs = ask(few, alone)
        prediction = selecta().predict(problem, runs)
        assert any("none of the workload's 2 completed runs" in w for w in prediction.warnings)
        assert prediction.spread[0] >= 1.0
        with pytest.raises(InsufficientEvidenceError, match="--archive"):
            strategy("selecta").suggest(*build_problem(alone, candidates=POOL))


class TestARecurringWorkload:
    def timed(
        self, frame: pd.DataFrame, factors: list[float], rows: tuple[int, ...] = (2, 11, 17, 2, 11)
    ) -> tuple[Problem, Runs]:
        rows = rows[: len(factors)]
        parts = [some(frame, "w000", [r]) for r in rows]
        mine = pd.concat(parts, ignore_index=True).assign(workload="new")
        mine["runtime_s"] *= factors
        mine["started_at"] = [f"2024-01-{day:02}T00:00:00Z" for day in range(1, len(factors) + 1)]
        return ask(frame[frame["workload"] != "w000"], mine)

    def test_is_answered_from_all_its_runs_while_they_agree(self) -> None:
        problem, runs = self.timed(planted(), [1.0, 1.0, 1.0, 1.02, 0.99])
        answer = strategy("selecta").recommend(replace(problem, top=len(POOL)), runs)
        assert not any("changed" in w for w in answer.warnings)
        assert sum(row.evidence == "measured" for row in answer.rows) == 3

    def test_whose_input_grew_is_answered_from_its_new_runs_and_references_are_asked_for_again(self) -> None:
        frame = planted()
        problem, runs = self.timed(frame, [1.0, 1.0, 1.0, 3.0, 3.0], (2, 11, 17, 2, 2))
        answer = strategy("selecta").recommend(replace(problem, top=len(POOL)), runs)
        said = next(w for w in answer.warnings if "the workload changed" in w)
        assert "3.0 x longer" in said
        assert "run again" in said
        truth = frame[frame["workload"] == "w000"].set_index(["instance_type", "node_count"])["runtime_s"] * 3.0
        off = [np.log(row.runtime_s.p50 / truth[row.instance_type, row.node_count]) for row in answer.rows]
        assert len(off) == len(POOL)
        assert abs(np.mean(off)) < 0.4
        wanted = strategy("selecta").suggest(problem, runs)
        assert wanted is not None
        assert "reference 2 of 2" in wanted.why

    @pytest.mark.parametrize("name", ["selecta", "selecta+ei", "paris"])
    def test_of_which_one_run_deviates_may_have_changed_and_is_asked_for_another_reference_again(
        self, name: str
    ) -> None:
        problem, runs = self.timed(planted(workloads=12), [1.0, 1.0, 1.0, 3.0])
        answer = strategy(name).recommend(replace(problem, top=len(POOL)), runs)
        (said,) = [w for w in answer.warnings if "changed" in w]
        assert "may have changed" in said
        assert "3.0 x longer" in said
        assert "nothing is left out until a second run agrees" in said
        assert sum(row.evidence == "measured" for row in answer.rows) == 3
        wanted = strategy(name).suggest(problem, runs)
        assert wanted is not None
        assert wanted == answer.next_run
        assert wanted.label in {problem.candidates.configuration(i).label for i in (11, 17)}
        assert "a reference again" in wanted.to_dict()["why"]

    def test_of_which_the_only_configuration_deviates_is_asked_for_that_again(self) -> None:
        problem, runs = self.timed(planted(workloads=12), [1.0, 1.0, 3.0], (2, 2, 2))
        wanted = strategy("selecta").suggest(problem, runs)
        assert wanted is not None
        assert wanted.label == problem.candidates.configuration(2).label

    def test_of_which_one_run_deviated_and_the_next_did_not_goes_on_as_before(self) -> None:
        problem, runs = self.timed(planted(workloads=12), [1.0, 1.0, 1.0, 3.0, 1.0])
        answer = strategy("selecta").recommend(replace(problem, top=len(POOL)), runs)
        assert not any("changed" in w for w in answer.warnings)
        assert sum(row.evidence == "measured" for row in answer.rows) == 3

    @pytest.mark.parametrize("name", ["selecta", "selecta+ei", "neighbours+ei", "quasar+ei", "paris+ei"])
    def test_that_changed_is_answered_as_if_its_new_runs_were_all_there_are(self, name: str) -> None:
        frame = planted(workloads=12)
        problem, runs = self.timed(frame, [1.0, 1.0, 1.0, 3.0, 3.0])
        alone = Runs(runs.frame.iloc[3:].reset_index(drop=True))
        told, fresh = (strategy(name).recommend(problem, r) for r in (runs, alone))
        assert any("the workload changed" in w for w in told.warnings)
        assert told.rows == fresh.rows
        assert told.next_run == fresh.next_run
        assert told.explanation == fresh.explanation
        assert strategy(name).suggest(problem, runs) == strategy(name).suggest(problem, alone)

    def test_whose_references_are_due_again_is_asked_for_those_it_was_measured_on_before(self) -> None:
        problem, runs = self.timed(planted(), [1.0, 1.0, 1.0, 3.0, 3.0], (2, 11, 17, 2, 2))
        answer = strategy("selecta").recommend(problem, runs)
        said = next(w for w in answer.warnings if "the workload changed" in w)
        before = {problem.candidates.configuration(i).label for i in (11, 17)}
        assert all(label in said for label in before)
        assert any("1 reference run led to" in w for w in answer.warnings)
        listed = batch(strategy("selecta"), problem, runs, 4)
        assert listed[0].label in before
        assert "measured before the workload changed" in listed[0].why
        assert (POOL.loc[2, "instance_type"], POOL.loc[2, "node_count"]) not in {
            (run.instance_type, run.node_count) for run in listed
        }

    def test_whose_repetitions_differ_without_a_start_time_is_told_to_add_it(self) -> None:
        problem, runs = self.timed(planted(), [1.0, 1.0, 1.0, 3.0])
        blind = Runs.from_frame(runs.frame.drop(columns="started_at"))
        (said,) = [w for w in strategy("selecta+ei").recommend(problem, blind).warnings if "add started_at" in w]
        assert "3.0 x" in said
        same = self.timed(planted(), [1.0, 1.0, 1.0, 1.1])[1]
        blind = Runs.from_frame(same.frame.drop(columns="started_at"))
        assert not any("started_at" in w for w in strategy("selecta").recommend(problem, blind).warnings)

    def test_that_changed_is_answered_by_auto_from_its_new_runs_and_told_before_the_next_run(self) -> None:
        frame = planted(workloads=12)
        problem, runs = self.timed(frame, [1.0, 1.0, 1.0, 3.0, 3.0])
        alone = Runs(runs.frame.iloc[3:].reset_index(drop=True))
        told, fresh = (strategy("auto").recommend(problem, r) for r in (runs, alone))
        assert (told.rows, told.next_run, told.why) == (fresh.rows, fresh.next_run, fresh.why)
        (said,) = set(told.warnings) - set(fresh.warnings)
        assert "the workload changed" in said
        assert auto().remarks(problem, runs) == (said,)
        assert strategy("auto").suggest(problem, runs) == strategy("auto").suggest(problem, alone)
        where = {"instance_type": "large", "node_count": 2}
        old, new = (explain(problem, r, **where).to_dict() for r in (runs, alone))
        assert said in old.pop("warnings")
        assert said not in new.pop("warnings")
        assert old == new

    @pytest.mark.parametrize("name", ["selecta", "auto"])
    def test_whose_runs_before_a_change_were_paid_for_has_no_budget_left(self, name: str) -> None:
        frame = planted(workloads=12)
        problem, runs = self.timed(frame, [1.0, 1.0, 1.0, 3.0])
        spent = spent_usd(problem, runs)
        assert strategy(name).suggest(replace(problem, search_budget_usd=spent * 0.99), runs) is None
        assert strategy(name).suggest(replace(problem, search_budget_usd=spent * 1000), runs) is not None

    @pytest.mark.parametrize("name", ["selecta", "auto"])
    def test_whose_recorded_input_grew_is_told_so(self, name: str) -> None:
        frame = planted(workloads=12)
        _, runs = self.timed(frame, [1.0, 1.0, 1.0, 3.0])
        grown = runs.frame.dropna(axis="columns", how="all").assign(**{"input.size_gib": [10.0, 10.0, 10.0, 30.0]})
        problem, runs = ask(frame[frame["workload"] != "w000"], grown)
        (said,) = [w for w in strategy(name).recommend(problem, runs).warnings if "grew" in w]
        assert "input.size_gib grew from 10 to 30 with its run of 2024-01-04 00:00: its 3 runs before it" in said

    def test_whose_inputs_differ_on_purpose_has_not_grown(self) -> None:
        frame = planted(workloads=12)
        _, runs = self.timed(frame, [1.0, 1.0, 1.0])
        sizes = runs.frame.dropna(axis="columns", how="all").assign(**{"input.size_gib": [10.0, 20.0, 30.0]})
        problem, runs = ask(frame[frame["workload"] != "w000"], sizes)
        assert not any("grew" in w for w in strategy("selecta").recommend(problem, runs).warnings)


def test_lumos_is_answered_without_its_application_and_reproducibly(mirror: Path) -> None:
    data = fetch_dataset("lumos", mirror=mirror)
    frame = data.runs.frame
    own = frame["application"] == "sort"
    aws = data.candidates[data.candidates["feature.provider"] == "aws"]
    problem, runs = build_problem(
        None, workload="spark_sort_large", archive=[Runs(frame[~own].reset_index(drop=True))], candidates=aws
    )
    model = selecta()
    taught = model.taught(problem)
    assert taught.judged.workloads(1) > 60
    assert isinstance(model, Collaborative)
    again, _ = build_problem(
        None,
        workload="spark_sort_large",
        archive=[Runs(frame[~own].sample(frac=1, random_state=1).reset_index(drop=True))],
        candidates=aws,
    )
    assert model.taught(again).name == taught.name
    first, second = (strategy("selecta").suggest(p, runs) for p in (problem, again))
    assert first is not None
    assert second is not None
    assert first.label == second.label
    assert first.to_dict()["expected_runtime_s"] == pytest.approx(second.to_dict()["expected_runtime_s"])


@pytest.mark.parametrize("workload", ["spark_sort_large", "hadoop_terasort_large", "spark_als_huge"])
@pytest.mark.parametrize("count", [2, 3])
def test_on_lumos_folding_in_equals_refitting_with_the_new_runs(mirror: Path, workload: str, count: int) -> None:
    data = fetch_dataset("lumos", mirror=mirror)
    frame, aws = data.runs.frame, data.candidates[data.candidates["feature.provider"] == "aws"]
    mine = frame[frame["workload"] == workload]
    others = frame[frame["application"] != mine["application"].iloc[0]]

    def learnt_from(runs: pd.DataFrame) -> tuple[Problem, Archived]:
        archive = Runs(runs.reset_index(drop=True))
        problem, _ = build_problem(None, workload="new", archive=[archive], candidates=aws, objective="runtime")
        return problem, archived(problem)

    problem, archive = learnt_from(others)
    types, chosen = problem.configurations["instance_type"], list[int]()
    for _ in range(count):
        found = next_reference(problem, tuple(chosen), types.isin(mine["instance_type"]).to_numpy())
        assert found is not None
        chosen.append(found)
    told = mine[mine["instance_type"].isin(types[chosen])].drop_duplicates("instance_type")
    again, larger = learnt_from(pd.concat([others, told]))
    assert len(larger.y) == len(archive.y) + 1
    y = np.log(types.map(told.set_index("instance_type")["runtime_s"]).to_numpy(float))
    for rank in (1, 2, 4):
        folded, _ = Factorised(rank)(problem, archive).fold_in(y[archive.columns], np.zeros(0))
        refitted, _ = Factorised(rank)(again, larger).fold_in(y[larger.columns], np.zeros(0))
        assert folded == pytest.approx(refitted, abs=0.03)


class TestGoingOnAsASearch:
    def test_measures_the_references_and_then_by_expected_improvement_until_little_is_left(self) -> None:
        frame = planted(noise=0.05)
        truth = frame[frame["workload"] == "w000"].reset_index(drop=True)
        others, told, why = frame[frame["workload"] != "w000"], list[int](), list[str]()
        made = strategy("selecta+ei")
        for _ in range(len(POOL)):
            problem, runs = ask(others, some(frame, "w000", told).assign(workload="new") if told else None)
            wanted = made.suggest(problem, runs)
            if wanted is None:
                break
            why.append(wanted.to_dict()["why"])
            same = (POOL["instance_type"] == wanted.instance_type) & (POOL["node_count"] == wanted.node_count)
            told.append(int(np.flatnonzero(same)[0]))
        assert [w.split(" ")[0] for w in why[:2]] == ["reference", "reference"]
        assert any("expected improvement" in w for w in why[2:])
        assert 3 <= len(told) < len(POOL)
        assert truth["runtime_s"][told].min() <= truth["runtime_s"].min() * 1.1

    @pytest.mark.parametrize("name", ["random+ei", "auto+ei", "cherrypick+ei", "price-only+ei"])
    def test_is_refused_where_there_is_no_model_or_a_search_already(self, name: str) -> None:
        with pytest.raises(RecommenderError, match=r"selecta\+ei"):
            strategy(name)

    def test_an_unknown_name_is_still_unknown(self) -> None:
        with pytest.raises(UnknownNameError, match="selekta"):
            strategy("selekta+ei")


def test_a_reference_without_a_price_teaches_as_much_as_one_that_has_one() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(0, 0.4, (6, 2))
    normal = Gaussian(rng.normal(5, 0.3, 6), root @ root.T, np.full(6, 0.01), 6, 5.0, 1.0, np.zeros((6, 6)))
    z = normal.mean + rng.normal(0, 1, (30, 2)) @ root.T
    dear = np.array([50.0, 0.0, 0.1, 0.2, 0.3, 0.4])  # the first is never the answer
    unknown = np.where(np.arange(6) == 0, np.inf, dear)
    with np.errstate(invalid="raise"):
        scores = reference_scores([(normal, z)], [0], unknown, np.arange(len(unknown)))
    assert scores[1:] == pytest.approx(reference_scores([(normal, z)], [0], dear, np.arange(len(dear)))[1:])
    assert np.isfinite(scores[1:]).all()
