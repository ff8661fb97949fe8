"""Ernest: planted coefficients come back, what is not known is wide, and a shape it does not have is flagged."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from c3o_protocol import PROTOCOLS, Protocol, evaluate
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.catalogue import TypeFilter
from recommender.datasets import fetch_dataset
from recommender.errors import InsufficientEvidenceError, UnknownNameError
from recommender.models import EVIDENCE, Prediction
from recommender.models.ernest import Ernest
from recommender.models.points import Points, run_points
from recommender.models.scaling import BASE, INTERACTION, QUADRATIC, SERIAL, TERMS, Fit, features, fit
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import strategy

THETA = (12.0, 900.0, 4.0, 0.8, 0.0)
WITH_SERIAL = (12.0, 900.0, 4.0, 0.8, 6.0)
PAIRS = (12.0, 900.0, 4.0, 0.0, 0.0, 0.0, 1.5)
TREE = (12.0, 900.0, 4.0, 0.8, 0.0, 9.0, 0.0)
VCPUS = 4
KNOWN_CPU = "Intel(R) Xeon(R) Platinum 8488C"
UNKNOWN_CPU = "Imaginary RISC 9000"


def seconds(theta: tuple[float, ...], scale: float, nodes: float) -> float:
    """The planted runtime on a cluster of VCPUS-core machines: the formula, written out."""
    serial, tree, pairs = (*theta[BASE:], 0.0, 0.0, 0.0)[:3]
    paper = theta[0] + theta[1] * scale / (nodes * VCPUS) + theta[2] * math.log(nodes) + theta[3] * nodes
    return paper + serial * scale + tree * scale * math.log(nodes) + pairs * nodes**2


def table(
    theta: tuple[float, ...] = THETA,
    *,
    noise: float = 0.0,
    scales: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0),
    nodes: tuple[int, ...] = (1, 2, 4, 8),
    repeat: int = 1,
    kind: str = "box",
    seed: int = 0,
) -> pd.DataFrame:
    """Runs of one type outside the catalogue, with multiplicative noise."""
    rng = np.random.default_rng(seed)
    rows = [
        ("job", kind, n, seconds(theta, s, n) * math.exp(rng.normal(0.0, noise)), s)
        for s, n, _ in itertools.product(scales, nodes, range(repeat))
    ]
    return pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s", "input.scale"])


def pool(*kinds: str, nodes: tuple[int, ...] = (1, 2, 4, 8, 16), memory_gib: float = 16.0) -> pd.DataFrame:
    """A candidates table of types outside the catalogue, VCPUS vCPUs each."""
    rows = [(kind, n, 0.2, VCPUS, memory_gib) for kind in kinds or ("box",) for n in nodes]
    return pd.DataFrame(rows, columns=["instance_type", "node_count", "usd_per_hour", "vcpus", "memory_gib"])


def ask(
    runs: pd.DataFrame, *, candidates: pd.DataFrame | None = None, scale: float | None = None, **options: Any
) -> tuple[Problem, Runs]:
    """Build the problem of `runs` at one input scale."""
    inputs = {"scale": scale} if scale is not None else {}
    return build_problem(runs, candidates=pool() if candidates is None else candidates, inputs=inputs, **options)


def believe(runs: pd.DataFrame, **options: Any) -> tuple[Problem, Prediction]:
    """Ask Ernest."""
    problem, mine = ask(runs, **options)
    return problem, Ernest().predict(problem, mine)


def fitted(runs: pd.DataFrame, **options: Any) -> Fit:
    """Only the fit."""
    problem, mine = ask(runs)
    return fit(run_points(problem, mine, []).points, **options)


def at(problem: Problem, nodes: int, kind: str = "box") -> int:
    """Row of a configuration."""
    c = problem.configurations
    return int(np.flatnonzero((c["instance_type"] == kind) & (c["node_count"] == nodes))[0])


def flagged(prediction: Prediction) -> bool:
    """Whether the prediction says that Ernest does not fit."""
    return any(w.startswith("misfit") for w in prediction.warnings)


class TestPlantedCoefficients:
    @pytest.mark.parametrize("theta", [THETA, WITH_SERIAL, (0.0, 500.0, 0.0, 0.0, 0.0), (30.0, 0.0, 0.0, 2.0, 0.0)])
    def test_come_back_exactly_without_noise(self, theta: tuple[float, ...]) -> None:
        found = fitted(table(theta), extra=(SERIAL,)).theta
        assert found == pytest.approx((*theta, 0.0, 0.0), rel=1e-6, abs=1e-6)
        assert (found >= 0).all()

    @settings(max_examples=12, deadline=None)
    @given(st.tuples(*(st.floats(0.1, 100.0) for _ in range(4))))
    def test_predict_unmeasured_scales_and_clusters_exactly(self, theta: tuple[float, ...]) -> None:
        planted = (*theta, 0.0)
        problem, prediction = believe(table(planted), scale=16.0)
        truth = [seconds(planted, 16.0, n) for n in problem.configurations["node_count"]]
        assert np.exp(prediction.log_runtime) == pytest.approx(truth, rel=1e-6)

    @pytest.mark.parametrize("seed", range(4))
    def test_predict_within_tolerance_under_noise(self, seed: int) -> None:
        problem, prediction = believe(table(noise=0.05, repeat=3, seed=seed), scale=12.0)
        truth = np.log([seconds(THETA, 12.0, n) for n in problem.configurations["node_count"]])
        gap = np.abs(prediction.log_runtime - truth)
        inside = problem.configurations["node_count"].to_numpy() <= 8
        assert gap[inside].max() < 0.1
        assert (gap <= 3 * prediction.spread).all()
        assert not flagged(prediction)

    def test_intervals_hold_the_truth_about_as_often_as_they_say(self) -> None:
        hits = []
        for seed in range(10):
            problem, prediction = believe(
                table(noise=0.1, nodes=(1, 2, 4), scales=(1.0, 2.0, 4.0), seed=seed), scale=8.0
            )
            truth = np.log([seconds(THETA, 8.0, n) for n in problem.configurations["node_count"]])
            hits.extend(np.abs(prediction.log_runtime - truth) <= 1.2816 * prediction.spread)
        assert np.mean(hits) > 0.8

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.floats(1e-3, 1e6), min_size=9, max_size=9))
    def test_are_never_negative_whatever_was_measured(self, runtimes: list[float]) -> None:
        runs = table(scales=(1.0, 2.0, 4.0), nodes=(1, 2, 4)).assign(runtime_s=runtimes)
        assert (fitted(runs).theta >= 0).all()
        answer = strategy("ernest").recommend(*ask(runs, scale=4.0)).to_dict()
        for row in answer["recommendations"]:
            numbers = [*row["runtime_s"].values(), *row["cost_usd"].values(), row["usd_per_hour"]]
            assert all(math.isfinite(x) and x > 0 for x in numbers)

    @pytest.mark.parametrize("noise", [0.0, 0.02])
    def test_the_serial_term_is_chosen_when_planted(self, noise: float) -> None:
        heavy = (2.0, 300.0, 0.0, 0.0, 40.0)
        assert fitted(table(heavy, noise=noise)).theta[4] == pytest.approx(40.0, rel=0.1)

    @pytest.mark.parametrize("seed", range(5))
    def test_the_serial_term_is_left_out_when_absent(self, seed: int) -> None:
        share = fitted(table(noise=0.03, seed=seed)).theta[4] * 4.0 / seconds(THETA, 4.0, 4)
        assert share < 0.06, "no more than the noise can feign"

    def test_the_features_are_the_papers_and_the_further_ones(self) -> None:
        x = features(np.array([6.0]), np.array([3.0]), np.array([2.0]), np.array([3.0]))
        assert x[0] == pytest.approx([1.0, 1.0, math.log(3.0), 3.0, 6.0, 6.0 * math.log(3.0), 9.0])
        assert len(TERMS) == x.shape[1]


def chosen(found: Fit) -> set[int]:
    """Columns of the further terms that have a coefficient."""
    return {int(k) for k in found.active if k >= BASE}


class TestFurtherTerms:
    NODES = (1, 2, 3, 4, 6, 8)

    @pytest.mark.parametrize(("theta", "column"), [(PAIRS, QUADRATIC), (TREE, INTERACTION)])
    def test_planted_ones_are_chosen_and_come_back(self, theta: tuple[float, ...], column: int) -> None:
        found = fitted(table(theta, nodes=self.NODES))
        assert chosen(found) == {column}
        assert found.theta == pytest.approx((*theta, 0.0, 0.0)[:7], rel=1e-6, abs=1e-6)
        for seed in range(4):
            noisy = fitted(table(theta, nodes=self.NODES, noise=0.02, repeat=2, seed=seed))
            assert column in chosen(noisy)
            assert noisy.theta[column] == pytest.approx(theta[column], rel=0.25)

    def test_a_serial_and_a_quadratic_one_are_found_together(self) -> None:
        theta = (12.0, 900.0, 4.0, 0.0, 20.0, 0.0, 1.5)
        found = fitted(table(theta, nodes=self.NODES, noise=0.01))
        assert {SERIAL, QUADRATIC} <= chosen(found)
        assert found.theta[[SERIAL, QUADRATIC]] == pytest.approx([20.0, 1.5], rel=0.1)

    @pytest.mark.parametrize("theta", [PAIRS, TREE])
    @pytest.mark.parametrize("seed", range(3))
    def test_predict_far_larger_clusters_within_what_they_say(self, theta: tuple[float, ...], seed: int) -> None:
        runs = table(theta, nodes=self.NODES, noise=0.03, repeat=3, seed=seed)
        problem, prediction = believe(runs, scale=16.0, candidates=pool(nodes=(8, 16, 32, 64, 128)))
        truth = np.log([seconds(theta, 16.0, n) for n in problem.configurations["node_count"]])
        gap = np.abs(prediction.log_runtime - truth)
        assert gap.max() < 0.4
        assert (gap <= 2 * prediction.spread).all()
        without = fitted(runs, extra=())
        far = features(np.array([16.0]), np.array([128.0]), np.array([float(VCPUS)]), np.array([128.0]))
        assert np.log(far @ without.theta)[0] < truth[-1] - 0.4, "the first four terms miss it by a third or more"

    @pytest.mark.parametrize("theta", [THETA, (0.0, 500.0, 0.0, 0.0), (30.0, 900.0, 0.0, 0.0)])
    def test_are_seldom_chosen_where_there_are_none_and_then_take_little(self, theta: tuple[float, ...]) -> None:
        assert not chosen(fitted(table(theta)))
        found, x = [], features(np.array([8.0]), np.array([8.0]), np.array([float(VCPUS)]), np.array([8.0]))
        for seed in range(20):
            one = fitted(table(theta, nodes=self.NODES, noise=0.03, repeat=3, seed=seed))
            found.append(float((x[0] * one.theta)[BASE:].sum() / (x[0] @ one.theta)))
        assert np.mean(np.array(found) > 0) <= 0.35
        assert max(found) < 0.15, "no more than the noise can feign"

    def test_one_that_was_feigned_by_noise_is_not_taken_at_its_word(self) -> None:
        for seed in range(12):
            runs = table(nodes=self.NODES, noise=0.03, repeat=3, seed=seed)
            problem, prediction = believe(runs, scale=8.0, candidates=pool(nodes=(8, 16, 32)))
            truth = np.log([seconds(THETA, 8.0, n) for n in problem.configurations["node_count"]])
            assert (np.abs(prediction.log_runtime - truth) <= 2.5 * prediction.spread).all()

    def test_few_points_never_get_them(self) -> None:
        for seed in range(10):
            five = table(PAIRS, scales=(1.0,), nodes=(1, 2, 4, 8, 16), noise=0.05, seed=seed)
            assert not chosen(fitted(five)), "five points, and one scale"
            four = table(TREE, scales=(1.0, 2.0), nodes=(1, 8), noise=0.05, seed=seed)
            assert not chosen(fitted(four))
            often = table(TREE, scales=(1.0, 2.0), nodes=(1, 8), noise=0.05, repeat=9, seed=seed)
            assert not chosen(fitted(often)), "repetitions are no further points"

    def test_need_what_tells_them_from_the_others(self) -> None:
        for seed in range(10):
            two = table(TREE, scales=(1.0, 2.0, 3.0, 4.0, 5.0), nodes=(1, 8), noise=0.05, seed=seed)
            assert chosen(fitted(two)) <= {SERIAL}, "on two sizes of cluster s ln q is s - s/q"
            three = table(PAIRS, nodes=(1, 4, 8), noise=0.05, seed=seed)
            assert QUADRATIC not in chosen(fitted(three)), "on three sizes q² is made of 1, ln q and q"
            same = table(PAIRS, scales=(2.0,), nodes=(1, 2, 3, 4, 6, 8, 12), noise=0.05, seed=seed)
            assert chosen(fitted(same)) <= {QUADRATIC}, "one scale says nothing of s"

    def test_pairs_are_of_machines_and_not_of_cores(self) -> None:
        runs = table(PAIRS, nodes=self.NODES).rename(columns={"node_count": "vcpus"}).assign(node_count=1)
        assert QUADRATIC not in chosen(fitted(runs.assign(instance_type="local")))

    @pytest.mark.parametrize(("theta", "name"), [(PAIRS, TERMS[QUADRATIC]), (TREE, TERMS[INTERACTION])])
    def test_terms_have_names_and_add_up_to_the_prediction(self, theta: tuple[float, ...], name: str) -> None:
        problem, prediction = believe(table(theta, nodes=self.NODES), scale=16.0, candidates=pool(nodes=(64,)))
        assert prediction.terms is not None
        (i,) = range(len(problem.configurations))
        terms = prediction.terms(i)
        assert sum(terms.values()) == pytest.approx(math.exp(prediction.log_runtime[i]), rel=1e-9)
        expected = theta[QUADRATIC] * 64.0**2 if theta is PAIRS else theta[INTERACTION] * 16.0 * math.log(64.0)
        assert terms[name] == pytest.approx(expected, rel=1e-4)
        assert name in prediction.binding(i)


class TestRunsThatDidNotComplete:
    @settings(max_examples=12, deadline=None)
    @given(st.floats(1e-3, 1e5), st.sampled_from([1, 2, 4, 8, 16]))
    def test_a_stopped_run_pushes_its_own_prediction_up_never_down(self, limit_s: float, nodes: int) -> None:
        runs = table(noise=0.03)
        problem, before = believe(runs, scale=6.0)
        stopped = runs.head(1).assign(node_count=nodes, runtime_s=limit_s, status="timed_out", **{"input.scale": 6.0})
        _, after = believe(pd.concat([runs.assign(status="completed"), stopped], ignore_index=True), scale=6.0)
        i = at(problem, nodes)
        assert after.log_runtime[i] >= max(before.log_runtime[i] - 1e-3, math.log(limit_s) - 1e-9)

    def test_a_limit_below_what_is_predicted_says_nothing(self) -> None:
        runs = table(noise=0.03)
        without = fitted(runs)
        stopped = runs.assign(status="completed")
        short = runs.head(2).assign(status="timed_out", runtime_s=[0.01, 5.0])
        assert fitted(pd.concat([stopped, short], ignore_index=True)).theta == pytest.approx(
            without.theta, rel=1e-4, abs=1e-6
        )

    def test_a_long_stopped_run_raises_the_coefficients(self) -> None:
        runs = table()
        stopped = runs.head(1).assign(status="timed_out", node_count=2, runtime_s=9000.0, **{"input.scale": 16.0})
        _, before = believe(runs, scale=16.0)
        problem, after = believe(pd.concat([runs.assign(status="completed"), stopped], ignore_index=True), scale=16.0)
        assert after.log_runtime[at(problem, 4)] > before.log_runtime[at(problem, 4)]

    def test_failed_runs_leave_the_fit_alone(self) -> None:
        runs = table(noise=0.03)
        failed = runs.head(3).assign(status="failed", runtime_s=0.1)
        both = pd.concat([runs.assign(status="completed"), failed], ignore_index=True)
        assert fitted(both).theta == pytest.approx(fitted(runs).theta, rel=1e-12)


class TestHowSure:
    def test_repetitions_are_one_point_when_points_are_left_out(self) -> None:
        once, often = table(noise=0.0), table(noise=0.0, repeat=5)
        outlier = (often["node_count"] == 8) & (often["input.scale"] == 8.0)
        often.loc[outlier, "runtime_s"] *= 3.0
        once.loc[(once["node_count"] == 8) & (once["input.scale"] == 8.0), "runtime_s"] *= 3.0
        a, b = fitted(once), fitted(often)
        assert len(a.held_out_log) == len(b.held_out_log) == 16
        assert b.held_out_log == pytest.approx(a.held_out_log, abs=1e-6)
        assert abs(b.held_out_log).max() == pytest.approx(math.log(3.0), abs=0.3), "its twins must not vouch for it"

    def test_spread_grows_away_from_what_was_measured(self) -> None:
        runs = table(noise=0.05, repeat=2)
        spreads = []
        for scale in (4.0, 16.0, 64.0, 1024.0):
            problem, prediction = believe(runs, scale=scale, candidates=pool(nodes=(4, 16, 64, 256)))
            spreads.append([prediction.spread[at(problem, n)] for n in (4, 16)])
            by_nodes = prediction.spread[[at(problem, n) for n in (4, 16, 64, 256)]]
            assert (np.diff(by_nodes) > 0).all()
        assert (np.diff(np.array(spreads), axis=0) > 0).all()

    @pytest.mark.parametrize("noise", [0.0, 0.05])
    def test_planted_data_are_no_misfit(self, noise: float) -> None:
        assert not flagged(believe(table(WITH_SERIAL, noise=noise))[1])

    def test_a_saw_tooth_is_a_misfit(self) -> None:
        runs = table(nodes=(1, 2, 3, 4, 5, 6, 7, 8))
        runs["runtime_s"] *= np.where(runs["node_count"] % 2 == 0, 3.0, 1.0)
        problem, prediction = believe(runs)
        assert flagged(prediction)
        assert any("measure the configuration you intend to use" in w for w in prediction.warnings)
        assert prediction.spread[at(problem, 16)] > 0.3

    def test_growth_with_the_square_of_the_input_is_a_misfit(self) -> None:
        runs = table(scales=(1.0, 2.0, 4.0, 8.0, 16.0))
        runs["runtime_s"] *= runs["input.scale"] ** 1.5
        assert flagged(believe(runs)[1])

    @pytest.mark.parametrize("factor", [100.0, 0.01])
    def test_an_outlier_is_a_misfit_or_makes_everything_wide(self, factor: float) -> None:
        runs = table(noise=0.03)
        runs.loc[5, "runtime_s"] *= factor
        problem, prediction = believe(runs, scale=16.0)
        assert flagged(prediction) or prediction.spread[at(problem, 4)] > 0.7

    def test_one_core_count_only_leaves_other_core_counts_wide(self) -> None:
        one = table(noise=0.02, nodes=(2,), scales=(1.0, 2.0, 4.0, 8.0, 16.0))
        more = table(noise=0.02, nodes=(1, 2, 4, 8, 16), scales=(1.0, 2.0, 4.0, 8.0, 16.0))
        problem, narrow = believe(more, scale=8.0)
        _, wide = believe(one, scale=8.0)
        far = at(problem, 16)
        assert wide.spread[far] > 0.4
        assert wide.spread[far] > 3 * narrow.spread[far]
        assert wide.spread[at(problem, 2)] < 0.2

    def test_more_of_the_same_runs_never_widen(self) -> None:
        few, many = (believe(table(noise=0.05, repeat=k), scale=6.0)[1].spread.mean() for k in (1, 8))
        assert many < few * 1.2


class TestEvidence:
    def runs(self) -> pd.DataFrame:
        """m5 clusters of the catalogue."""
        return table(kind="m5.xlarge", nodes=(1, 2, 4), scales=(1.0, 2.0))

    def codes(self, prediction: Prediction, problem: Problem) -> dict[tuple[str, int], str]:
        c = problem.configurations
        keys = zip(c["instance_type"], c["node_count"], strict=True)
        return {key: EVIDENCE[e] for key, e in zip(keys, prediction.evidence, strict=True)}

    def problem(self, runs: pd.DataFrame, **options: Any) -> tuple[Problem, Runs]:
        types = TypeFilter(instance_types=("m5.xlarge", "m5.4xlarge", "c5.xlarge"))
        return build_problem(runs, types=types, **options)

    def test_measured_modelled_assumed(self) -> None:
        problem, mine = self.problem(self.runs(), inputs={"scale": 2.0})
        codes = self.codes(Ernest().predict(problem, mine), problem)
        assert codes["m5.xlarge", 4] == "measured"
        assert codes["m5.xlarge", 3] == "modelled"
        assert codes["m5.4xlarge", 1] == "modelled"
        assert codes["c5.xlarge", 4] == "assumed"

    def test_another_input_was_not_measured(self) -> None:
        problem, mine = self.problem(self.runs(), inputs={"scale": 3.0})
        codes = self.codes(Ernest().predict(problem, mine), problem)
        assert set(codes.values()) == {"modelled", "assumed"}

    def test_an_unseen_family_is_less_sure(self) -> None:
        problem, mine = self.problem(self.runs(), inputs={"scale": 2.0})
        prediction = Ernest().predict(problem, mine)
        assert prediction.spread[at(problem, 3, "c5.xlarge")] > prediction.spread[at(problem, 3, "m5.xlarge")] + 0.1

    def test_a_measured_configuration_follows_its_own_runs(self) -> None:
        runs = self.runs()
        mine = (runs["node_count"] == 4) & (runs["input.scale"] == 2.0)
        runs.loc[mine, "runtime_s"] *= 2.0
        often = pd.concat([runs, *[runs[mine]] * 5], ignore_index=True)
        problem, asked = self.problem(often, inputs={"scale": 2.0})
        p50 = math.exp(Ernest().predict(problem, asked).log_runtime[at(problem, 4, "m5.xlarge")])
        assert p50 == pytest.approx(float(runs.loc[mine, "runtime_s"].iloc[0]), rel=0.15)

    def test_the_family_that_ran_faster_is_predicted_faster(self) -> None:
        slow = table(kind="slow", noise=0.02)
        fast = table(kind="fast", noise=0.02, scales=(1.0, 2.0), nodes=(1, 4)).assign(
            runtime_s=lambda f: f["runtime_s"] / 2
        )
        problem, prediction = believe(
            pd.concat([slow, fast], ignore_index=True), candidates=pool("slow", "fast"), scale=8.0
        )
        ratio = math.exp(
            prediction.log_runtime[at(problem, 8, "slow")] - prediction.log_runtime[at(problem, 8, "fast")]
        )
        assert 1.4 < ratio < 2.2


class TestMemory:
    def runs(self) -> pd.DataFrame:
        """Peak memory 1 GiB + 2 GiB x scale."""
        runs = table(nodes=(1,), scales=(1.0, 2.0, 4.0), repeat=2)
        return runs.assign(**{"metric.peak_memory_gib": 1.0 + 2.0 * runs["input.scale"]})

    def test_exactly_the_machines_that_do_not_fit_are_excluded_with_the_number(self) -> None:
        need = (1.0 + 2.0 * 8.0) * 1.15 + 0.5
        sizes = {"tiny": 8.0, "short": 20.0, "just": 20.1, "huge": 64.0}
        candidates = pd.concat([pool(k, nodes=(1, 2), memory_gib=g) for k, g in sizes.items()], ignore_index=True)
        answer = strategy("ernest").recommend(*ask(self.runs(), candidates=candidates, scale=8.0))
        assert 20.0 < need < 20.1
        assert {row.instance_type for row in answer.rows} == {"just", "huge"}
        (excluded,) = [e for e in answer.excluded if e.reason == "memory"]
        assert excluded.count == 4
        assert f"{need:.3g} GiB" in excluded.sentence
        assert "1 + 2 x scale" in excluded.sentence

    def test_a_peak_seen_at_a_smaller_scale_is_the_least(self) -> None:
        runs = self.runs()
        runs.loc[0, "metric.peak_memory_gib"] = 30.0
        candidates = pd.concat([pool("small", memory_gib=34.0), pool("large", memory_gib=128.0)], ignore_index=True)
        answer = strategy("ernest").recommend(*ask(runs, candidates=candidates, scale=4.0))
        assert {row.instance_type for row in answer.rows} == {"large"}

    def test_unknown_memory_is_neither_small_nor_large(self) -> None:
        answer = strategy("ernest").recommend(
            *ask(self.runs(), candidates=pool(memory_gib=64.0).drop(columns="memory_gib"), scale=8.0)
        )
        assert answer.rows
        assert not [e for e in answer.excluded if e.reason == "memory"]

    def test_without_the_counter_nothing_is_excluded(self) -> None:
        answer = strategy("ernest").recommend(*ask(table(), candidates=pool(memory_gib=0.1)))
        assert not [e for e in answer.excluded if e.reason == "memory"]


class TestTheProfilingMachine:
    def runs(self, cpu: str | None = KNOWN_CPU) -> pd.DataFrame:
        """Runs of one machine outside the catalogue on 1, 2 and 4 cores."""
        rng = np.random.default_rng(5)
        rows = [
            ("job", "local", 1, (5 + 60 * s / c + 0.5 * c) * math.exp(rng.normal(0, 0.02)), s, c, cpu)
            for s, c in itertools.product((0.1, 0.2, 0.4), (1, 2, 4))
        ]
        columns = ["workload", "instance_type", "node_count", "runtime_s", "input.scale", "vcpus", "cpu_model"]
        return pd.DataFrame(rows, columns=columns)

    def ask(self, cpu: str | None = KNOWN_CPU, **options: Any) -> tuple[Problem, Prediction]:
        types = TypeFilter(instance_types=("m7i.xlarge", "m7i.4xlarge", "c5.xlarge"))
        problem, mine = build_problem(self.runs(cpu), types=types, **options)
        return problem, Ernest().predict(problem, mine)

    def test_a_recognised_cpu_models_its_family_and_assumes_the_others(self) -> None:
        problem, prediction = self.ask()
        kinds = problem.configurations["instance_type"]
        codes = dict(zip(kinds, (EVIDENCE[e] for e in prediction.evidence), strict=True))
        assert codes == {"m7i.xlarge": "modelled", "m7i.4xlarge": "modelled", "c5.xlarge": "assumed"}
        truth = 5 + 60 / 4 + 0.5 * 4
        assert math.exp(prediction.log_runtime[at(problem, 1, "m7i.xlarge")]) == pytest.approx(truth, rel=0.05)
        assert not any("not recognised" in w for w in prediction.warnings)

    @pytest.mark.parametrize("cpu", [UNKNOWN_CPU, None])
    def test_an_unrecognised_cpu_is_said_and_makes_everything_assumed(self, cpu: str | None) -> None:
        _, known = self.ask()
        _, unknown = self.ask(cpu)
        (warning,) = [w for w in unknown.warnings if "not recognised" in w]
        assert (cpu or "not recorded") in warning
        assert "--local-like" in warning
        assert {EVIDENCE[e] for e in unknown.evidence} == {"assumed"}
        assert (unknown.spread > known.spread - 1e-12).all()
        assert unknown.spread.min() > 0.3

    @pytest.mark.parametrize("cpu", [UNKNOWN_CPU, None, KNOWN_CPU])
    def test_local_like_names_the_family(self, cpu: str | None) -> None:
        problem, prediction = self.ask(cpu, local_like="c5")
        kinds = problem.configurations["instance_type"]
        codes = dict(zip(kinds, (EVIDENCE[e] for e in prediction.evidence), strict=True))
        assert codes == {"m7i.xlarge": "assumed", "m7i.4xlarge": "assumed", "c5.xlarge": "modelled"}
        assert not any("not recognised" in w for w in prediction.warnings)

    def test_an_unknown_family_gets_did_you_mean(self) -> None:
        with pytest.raises(UnknownNameError, match=r"--local-like 'm7j' is no family.*did you mean 'm7"):
            self.ask(local_like="m7j")

    def test_local_runs_must_say_how_many_cores_they_used(self) -> None:
        with pytest.raises(InsufficientEvidenceError, match="need the column vcpus"):
            strategy("ernest").recommend(*build_problem(self.runs().drop(columns="vcpus")))

    def test_the_whole_catalogue_is_ranked_with_finite_numbers(self) -> None:
        problem, mine = build_problem(self.runs(), top=10_000)
        answer = strategy("ernest").recommend(problem, mine)
        assert len(answer.rows) > 500
        frame = answer.to_frame()
        numbers = frame.filter(regex="runtime_s|cost_usd").to_numpy(float)
        assert np.isfinite(numbers).all()
        assert (numbers > 0).all()
        assert set(frame["evidence"]) == {"modelled", "assumed"}
        assert set(frame["price_quality"]) <= {"listed", "repaired", "estimated"}


class TestWhatIsRefused:
    @pytest.mark.parametrize("rows", [1, 2])
    def test_too_few_points_say_what_to_measure(self, rows: int) -> None:
        with pytest.raises(InsufficientEvidenceError, match=f"3 distinct points.*found {rows}.*measure other scales"):
            strategy("ernest").recommend(*ask(table().head(rows)))

    def test_collinear_runs_say_what_never_varied_and_propose_runs(self) -> None:
        same = pd.concat([table().head(1)] * 5, ignore_index=True)
        with pytest.raises(
            InsufficientEvidenceError, match=r"same input scale and the same number of vCPUs: measure also"
        ):
            strategy("ernest").recommend(*ask(same))
        with pytest.raises(InsufficientEvidenceError, match=r"every run has the same input scale: measure also.*nodes"):
            strategy("ernest").recommend(*ask(table(scales=(1.0,), nodes=(1, 2))))

    def test_no_runs_say_what_to_measure(self) -> None:
        with pytest.raises(InsufficientEvidenceError, match="measure"):
            strategy("ernest").recommend(*build_problem(None, candidates=pool()))

    @pytest.mark.parametrize("repeat", [2, 6])
    def test_repetitions_and_failures_are_no_further_points(self, repeat: int) -> None:
        runs = pd.concat([table().head(2)] * repeat, ignore_index=True)
        failed = table().iloc[4:8].assign(status="failed")
        stopped = table().iloc[8:12].assign(status="timed_out")
        with pytest.raises(InsufficientEvidenceError, match="found 2"):
            strategy("ernest").recommend(
                *ask(pd.concat([runs.assign(status="completed"), failed, stopped], ignore_index=True))
            )

    def test_an_input_it_does_not_use_makes_no_further_points(self) -> None:
        same = pd.concat([table().head(1)] * 4, ignore_index=True).assign(**{"input.k": [1.0, 2.0, 3.0, 4.0]})
        with pytest.raises(InsufficientEvidenceError):
            strategy("ernest").recommend(*ask(same))

    def test_an_unknown_input_gets_did_you_mean(self) -> None:
        with pytest.raises(UnknownNameError, match=r"no input 'scal'.*did you mean.*scale.*they have: scale"):
            build_problem(table(), candidates=pool(), inputs={"scal": 1.0})

    def test_a_type_run_only_at_one_point_with_many_inputs_joins_the_common_fit(self) -> None:
        wide = table(noise=0.02).assign(**{"input.k": 1.0})
        same = pd.concat([table(kind="other").head(1)] * 7, ignore_index=True).assign(
            **{"input.k": [float(k) for k in range(7)]}
        )
        _, prediction = believe(pd.concat([wide, same], ignore_index=True), candidates=pool("box", "other"), scale=8.0)
        assert np.isfinite(prediction.log_runtime).all()
        # Asked for k = 1, at which `box` has points enough: what was run at another k does not distort the fit.
        alone = believe(
            pd.concat([wide, same.iloc[[1]]], ignore_index=True), candidates=pool("box", "other"), scale=8.0
        )
        assert prediction.log_runtime == pytest.approx(alone[1].log_runtime)


def test_points_are_frozen_arrays_of_one_length() -> None:
    problem, mine = ask(table(repeat=2))
    points = run_points(problem, mine, []).points
    assert isinstance(points, Points)
    assert {len(getattr(points, name)) for name in points.__dataclass_fields__} == {32}
    assert len(set(points.key)) == 16
    assert (points.speed == points.speed[0]).all()


@pytest.fixture(scope="module")
def by_size(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """Grep and Sort of C3O, trained on the smaller half by input size."""
    data = fetch_dataset("c3o", mirror=mirror, cache=tmp_path_factory.mktemp("c3o"))
    return evaluate(data, PROTOCOLS["smaller half by input size"], ("grep", "sort"))


class TestC3O:
    """Measured Spark jobs; the numbers are in `tools/bench_ernest.py`."""

    def test_sort_is_predicted_within_8_percent_and_is_no_misfit(self, by_size: Protocol) -> None:
        fits = by_size.of("sort")
        assert len(fits) == 3
        assert np.mean([f.mape for f in fits]) <= 0.08
        assert not any(f.misfit for f in fits)

    def test_grep_is_flagged_as_a_misfit(self, by_size: Protocol) -> None:
        fits = by_size.of("grep")
        assert fits
        assert all(f.misfit for f in fits)
        assert [job for job, *_ in by_size.left_out] == ["grep", "grep"], "types without enough small points"
