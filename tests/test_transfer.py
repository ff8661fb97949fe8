"""Transfer: the re-fitted layer equals its closed form, a source saves samples, and bad runs are flagged."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from strategy_contract import StrategyContract

from recommender.errors import InsufficientEvidenceError
from recommender.models import EVIDENCE, measured
from recommender.models.fold_in import UNKNOWN_SHAPE
from recommender.models.transfer import (
    LEVEL_VARIANCE,
    PRIOR_DOF,
    SIGMAS,
    TAUS,
    Points,
    Transfer,
    network,
    points,
    refit,
    teach,
)
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import Strategy, strategy

POOL = pd.DataFrame(
    [(f"t{vcpus}", nodes, vcpus, 4.0 * vcpus, 0.05 * vcpus) for vcpus in (2, 4, 8) for nodes in (1, 2, 3, 4, 6, 8)],
    columns=["instance_type", "node_count", "vcpus", "memory_gib", "usd_per_hour"],
)
SIZES = (1.0, 2.0, 4.0, 8.0)


def seconds(nodes: np.ndarray, vcpus: np.ndarray, size: np.ndarray, level: float, serial: float) -> np.ndarray:
    """A curve with a serial part and a cost per node, alike in all workloads but for its level and serial part."""
    return np.asarray(level * (serial + size * 40.0 / (nodes * vcpus) + 0.3 * nodes))


def planted(workloads: int = 8, noise: float = 0.02, seed: int = 0, sizes: tuple[float, ...] = SIZES) -> pd.DataFrame:
    """Runs of workloads on the whole pool at every size."""
    rng, parts = np.random.default_rng(seed), []
    for w in range(workloads):
        level, serial = float(np.exp(rng.normal(2, 0.7))), float(rng.uniform(0.5, 3))
        for size in sizes:
            y = seconds(POOL["node_count"].to_numpy(), POOL["vcpus"].to_numpy(), np.array(size), level, serial)
            part = POOL[["instance_type", "node_count"]].assign(workload=f"w{w}", runtime_s=y)
            parts.append(part.assign(**{"input.size_gib": size}))
    frame = pd.concat(parts, ignore_index=True)
    frame["runtime_s"] = frame["runtime_s"] * np.exp(rng.normal(0, noise, len(frame)))
    return frame


def ask(frame: pd.DataFrame, mine: pd.DataFrame | None, **options: Any) -> tuple[Problem, Runs]:
    """The problem of workload w0, the others being the archive."""
    archive = frame[frame["workload"] != "w0"]
    return build_problem(mine, workload="w0", archive=[archive], candidates=POOL, **options)


def own(frame: pd.DataFrame, count: int, seed: int = 0) -> pd.DataFrame:
    """Some runs of w0, the largest size among them."""
    mine = frame[frame["workload"] == "w0"]
    last = mine[mine["input.size_gib"] == mine["input.size_gib"].max()].head(1)
    return pd.concat([last, mine.drop(last.index).sample(count - 1, random_state=seed)], ignore_index=True)


def truth(frame: pd.DataFrame, problem: Problem) -> np.ndarray:
    """ln runtime of w0 by configuration at the input asked about."""
    at = frame[(frame["workload"] == "w0") & (frame["input.size_gib"] == problem.inputs["input.size_gib"])]
    table = problem.configurations.merge(at, how="left", on=["instance_type", "node_count"])
    return np.asarray(np.log(table["runtime_s"].to_numpy(float)))


class TestContract(StrategyContract):
    @pytest.fixture
    def make(self) -> Callable[[], Strategy]:
        return lambda: strategy("transfer")


class TestTheLastLayer:
    def test_is_bayesian_linear_regression_on_the_frozen_layers(self) -> None:
        frame = planted()
        problem, runs = ask(frame, own(frame, 4))
        inputs = ("input.size_gib",)
        source, p = teach(problem, inputs), points(problem, runs, inputs)
        one = source.members[0]
        only = type(source)(**{**vars(source), "members": (one,)})
        x = p.x[:1] + 0.1
        got_mean, got_spread, _ = refit(only, p, x)
        at, to = source.standardised(p.x), source.standardised(x)
        e = p.y - source.level - one.source(at)
        i, j = np.unravel_index(int((one.likelihood + one.judge(at, e)).argmax()), one.likelihood.shape)
        tau, sigma = TAUS[i], SIGMAS[j]
        h, free = one.learnt(at)
        assert free.shape[1] == (~one.varied).sum()
        # Weights (level, w, those of x_n) with prior N(0, diag(V, τ², 1)): the posterior by the normal equations.
        design, new = (np.hstack([np.ones((len(v), 1)), *one.learnt(v)]) for v in (at, to))
        prior = np.diag([1 / LEVEL_VARIANCE, *np.full(h.shape[1], tau**-2), *np.ones(free.shape[1])])
        precision = design.T @ design / sigma**2 + prior
        weights = np.linalg.solve(precision, design.T @ e / sigma**2)
        assert got_mean[0] == pytest.approx(source.level + one.source(to)[0] + (new @ weights)[0], abs=1e-6)
        left = e - design @ weights
        quadratic = left @ left / sigma**2 + weights @ prior @ weights
        variance = (new @ np.linalg.solve(precision, new.T))[0, 0] + sigma**2
        scale = (PRIOR_DOF + quadratic) / (PRIOR_DOF + len(e) - 1)
        assert got_spread[0] == pytest.approx(np.sqrt(scale * variance), rel=1e-4)

    def test_the_likelihood_is_that_of_the_normal(self) -> None:
        from scipy.stats import multivariate_normal

        frame = planted()
        problem, runs = ask(frame, own(frame, 5))
        source, p = teach(problem, ("input.size_gib",)), points(problem, runs, ("input.size_gib",))
        one, x, e = source.members[0], source.standardised(p.x), np.array([0.3, -0.2, 0.1, 0.0, 0.4])
        h, free = one.learnt(x)
        k = TAUS[2] ** 2 * h @ h.T + free @ free.T + LEVEL_VARIANCE + SIGMAS[3] ** 2 * np.eye(5)
        expected = multivariate_normal(np.zeros(5), k).logpdf(e) + 2.5 * np.log(2 * np.pi)
        assert one.judge(x, e)[2, 3] == pytest.approx(expected, abs=1e-6)

    def test_hidden_layers_are_those_of_the_network(self) -> None:
        frame = planted()
        problem, runs = ask(frame, own(frame, 4))
        source = teach(problem, ("input.size_gib",))
        x = source.standardised(points(problem, runs, ("input.size_gib",)).x)
        for one in source.members:
            out = one.hidden(x) @ one.network.coefs_[-1] + one.network.intercepts_[-1]
            assert out[:, 0] == pytest.approx(one.source(x), abs=1e-9)


class TestWhatASourceIsWorth:
    def test_four_samples_with_a_source_beat_twelve_from_scratch(self) -> None:
        frame = planted()
        problem, runs = ask(frame, frame[frame["workload"] == "w0"])
        inputs = ("input.size_gib",)
        source, every = teach(problem, inputs), points(problem, runs, inputs)
        order = np.random.default_rng(0).permutation(len(every.y))

        def part(rows: np.ndarray) -> Points:
            return Points(every.x[rows], every.y[rows], every.workload[rows])

        few, many, rest = part(order[:4]), part(order[:12]), part(order[12:])
        mean, spread, _ = refit(source, few, rest.x)
        centre, deviation = many.x.mean(axis=0), np.where(many.x.std(axis=0) > 1e-9, many.x.std(axis=0), 1.0)
        level = many.y.mean()
        scratch = level + network((many.x - centre) / deviation, many.y - level, 0).predict(
            (rest.x - centre) / deviation
        )
        assert np.abs(mean - rest.y).mean() < 0.12
        assert np.abs(mean - rest.y).mean() < np.abs(scratch - rest.y).mean()
        assert (np.abs(mean - rest.y) < 1.645 * spread).mean() > 0.7

    def test_more_samples_narrow_the_spread(self) -> None:
        frame = planted()
        spreads = []
        for count in (1, 3, 12):
            problem, runs = ask(frame, own(frame, count))
            found = Transfer().predict(problem, runs)
            spreads.append(np.median(found.spread[measured(problem, runs).count == 0]))
        assert spreads[0] > spreads[1] > spreads[2]

    def test_without_own_runs_the_level_is_unknown_and_said_to_be(self) -> None:
        found = Transfer().predict(*ask(planted(), None))
        assert found.spread.min() >= 1.0
        assert any("only their order means anything" in w for w in found.warnings)


class TestBadTables:
    def test_no_archive_and_an_archive_elsewhere_are_errors_that_say_so(self) -> None:
        frame = planted()
        problem, runs = build_problem(own(frame, 3), workload="w0", candidates=POOL)
        with pytest.raises(InsufficientEvidenceError, match="--archive"):
            Transfer().predict(problem, runs)
        with pytest.raises(InsufficientEvidenceError, match=r"nothing is learnt from the archive: it ran c5\.large"):
            Transfer().predict(*ask(frame.assign(instance_type="c5.large"), own(frame, 3)))

    @pytest.mark.parametrize("factor", [0.01, 100.0])
    @pytest.mark.parametrize("count", [2, 3, 5, 8])
    def test_a_run_that_is_100_x_off_is_flagged_and_widens_every_interval(self, factor: float, count: int) -> None:
        frame = planted()
        mine = own(frame, count)
        mine["runtime_s"] *= np.where(mine.index == 0, factor, 1.0)
        problem, runs = ask(frame, mine)
        found = Transfer().predict(problem, runs)
        assert any("contradict each other" in w for w in found.warnings)
        assert found.spread.min() > 1.0
        assert (np.abs(found.log_runtime - truth(frame, problem)) < 2.5 * found.spread).all()

    def test_an_outlier_in_the_archive_is_left_out_and_said(self) -> None:
        frame = planted()
        bent = frame.assign(runtime_s=frame["runtime_s"] * np.where(frame.index == 200, 1000.0, 1.0))
        a, b = (Transfer().predict(*ask(f, own(frame, 4))) for f in (frame, bent))
        assert any("1 runs of the archive are left out" in w for w in b.warnings)
        assert np.abs(a.log_runtime - b.log_runtime).max() < 0.2

    def test_constant_inputs_and_one_workload_as_source_leave_a_wide_spread(self) -> None:
        frame = planted(2, sizes=(4.0,))
        problem, runs = ask(frame, own(frame, 2))
        found = Transfer().predict(problem, runs)
        assert np.isfinite(found.log_runtime).all()
        assert any("1 workload" in w for w in found.warnings)
        unmeasured = measured(problem, runs).count == 0
        assert (np.abs(found.log_runtime - truth(frame, problem)) < 2.5 * found.spread)[unmeasured].all()

    def test_one_machine_type_says_nothing_certain_of_others(self) -> None:
        frame = planted()
        one = frame[frame["instance_type"] == "t2"]
        problem, runs = ask(one, own(one, 4))
        found = Transfer().predict(problem, runs)
        other = (problem.configurations["instance_type"] != "t2").to_numpy()
        assert found.spread[other].min() > 2 * np.median(found.spread[~other])
        assert any("outside the hardware" in w for w in found.warnings)
        assert (np.abs(found.log_runtime - truth(frame, problem)) < 2.5 * found.spread).all()

    def test_an_archive_of_one_configuration_is_an_error_that_says_so(self) -> None:
        frame = planted(sizes=(4.0,))
        one = frame[(frame["instance_type"] == "t2") & (frame["node_count"] == 1)]
        with pytest.raises(InsufficientEvidenceError, match="all of one of each"):
            Transfer().predict(*ask(one, own(one, 1)))

    def test_one_workload_as_source_widens_by_an_assumed_spread_between_workloads(self) -> None:
        frame = planted(2)
        found = Transfer().predict(*ask(frame, own(frame, 4), inputs={"size_gib": 4.0}))
        assert found.spread[found.evidence != EVIDENCE.index("measured")].min() >= UNKNOWN_SHAPE

    def test_an_input_beyond_all_that_was_measured_widens_and_is_flagged(self) -> None:
        frame = planted()
        inside, beyond = (
            Transfer().predict(*ask(frame, own(frame, 4), inputs={"size_gib": size})) for size in (8.0, 80.0)
        )
        assert beyond.spread.min() > max(1.0, float(np.median(inside.spread)))
        assert any("lies outside what was measured" in w for w in beyond.warnings)
        assert not any("lies outside" in w for w in inside.warnings)


def test_the_benchmark_says_less_than_once_where_a_source_never_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    text = importlib.import_module("bench_transfer").factor_text
    assert [text(f) for f in (0.0, 1.0, 2.5)] == ["< 1 x", "1.0 x", "2.5 x"]


def test_what_the_archive_was_only_ever_stopped_on_is_not_fast() -> None:
    rng = np.random.default_rng(0)
    kinds = [f"t{i}" for i in range(6)]
    pool = pd.DataFrame(
        {
            "instance_type": kinds,
            "node_count": 1,
            "usd_per_hour": 0.1,
            "vcpus": [2, 4, 8, 2, 4, 8],
            "memory_gib": [4.0, 8.0, 16.0, 32.0, 64.0, 128.0],
        }
    )
    rows = [
        (f"w{u}", kind, 1, 2000.0, "timed_out")
        if kind == "t2" and u
        else (f"w{u}", kind, 1, seconds * np.exp(0.02 * rng.normal()), "completed")
        for u in range(10)
        for kind, seconds in zip(kinds, (200.0, 150.0, 100.0, 190.0, 140.0, 110.0), strict=True)
    ]
    archive = pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s", "status"])
    mine = pd.DataFrame({"workload": "new", "instance_type": ["t1"], "node_count": 1, "runtime_s": 150.0})
    problem, runs = build_problem(mine, workload="new", archive=[archive], candidates=pool, objective="runtime")
    found = Transfer().predict(problem, runs)
    assert np.exp(found.log_runtime[2]) > 500.0, "nine of ten were stopped at 2,000 s, one took 100 s"
    assert np.exp(found.log_runtime[5]) < 200.0
