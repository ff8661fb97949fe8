"""The learned prior: its mixture against closed forms, what it takes from the archive, and how far its word holds."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm

from recommender.datasets import fetch_dataset
from recommender.errors import InfeasibleError
from recommender.models import Array, measured
from recommender.models.features import features
from recommender.models.laws import draw_laws
from recommender.models.mixture import LEVEL, Bases, Component, Evidence, Mixture, condition, matern
from recommender.models.prior import LearnedPrior, belief
from recommender.problem import Problem, build_problem
from recommender.replay import Environment, environment
from recommender.report.tables import as_text
from recommender.runs import Runs
from recommender.search.acquisition import MixtureImprovement
from recommender.strategies import strategy

X = np.linspace(0.0, 2.0, 9)[:, None]
BASES = Bases(lambda a, b: matern(X[a], X[b])[None], lambda a: np.ones((1, len(a))), len(X))
SLOPES = np.array([-1.0, 0.0, 1.5])


def component(amplitude: float, noise: float, slopes: Array = SLOPES) -> Component:
    """Straight lines through the middle with equal prior weight, strayed from by a Matérn process."""
    return Component(
        np.array([amplitude**2]),
        noise,
        lambda rows, which: slopes[which][:, None] * (X[rows, 0] - 1.0),
        np.full(len(slopes), -np.log(2 * len(slopes))),
        "lines",
    )


def evidence(rows: list[int], value: list[float], stopped: list[int] = [], bound: list[float] = []) -> Evidence:  # noqa: B006
    """Evidence from plain lists, each configuration run once."""
    return Evidence(
        np.array(rows, dtype=np.intp),
        np.array(value),
        np.ones(len(rows)),
        np.array(stopped, dtype=np.intp),
        np.array(bound),
    )


def gaussian(amplitude: float, noise: float, slope: float, seen: Evidence) -> tuple[Array, Array, float]:
    """Posterior mean and covariance of one line, and its log evidence, by the textbook."""
    k = amplitude**2 * matern(X, X) + LEVEL**2
    mean = seen.centre + slope * (X[:, 0] - 1.0)
    o = seen.rows
    noisy = k[np.ix_(o, o)] + noise**2 * np.eye(len(o))
    gain = k[:, o] @ np.linalg.inv(noisy)
    log_p = multivariate_normal(mean[o], noisy).logpdf(seen.value)
    return mean + gain @ (seen.value - mean[o]), k - gain @ k[o], float(log_p)


def test_every_part_is_the_textbook_process_and_weighs_as_its_evidence() -> None:
    seen = evidence([0, 3, 8], [5.0, 5.8, 8.1])
    mixture = condition(BASES, (component(0.3, 0.1), component(1.0, 0.2)), seen, level=np.nan)
    expected = {(a, s): gaussian(a, e, s, seen) for a, e in ((0.3, 0.1), (1.0, 0.2)) for s in SLOPES}
    log_p = np.array([p for *_, p in expected.values()])
    weights = np.exp(log_p - np.logaddexp.reduce(log_p))
    mean = sum(w * m for w, (m, _, _) in zip(weights, expected.values(), strict=True))
    second = sum(w * (np.diag(c) + m**2) for w, (m, c, _) in zip(weights, expected.values(), strict=True))
    got, spread, _ = mixture.moments
    assert got == pytest.approx(mean, abs=0.02), "at most KEPT of the weight is left out"
    assert spread == pytest.approx(np.sqrt(second - mean**2), abs=0.05)
    found = {
        (float(np.sqrt(p.component.weights[0])), float(SLOPES[j])): w
        for p in mixture.parts
        for j, w in zip(p.which, p.weight, strict=True)
    }
    for key, weight in zip(expected, weights, strict=True):
        assert found.get(key, 0.0) == pytest.approx(weight, abs=0.006)


def test_joint_draws_have_the_moments_of_the_mixture() -> None:
    mixture = condition(BASES, (component(0.3, 0.1), component(1.0, 0.2)), evidence([0, 8], [5.0, 6.0]), level=np.nan)
    mean, spread, _ = mixture.moments
    drawn = mixture.draws(np.arange(9), 40_000, np.random.default_rng(1))
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=4 * spread.max() / 200)
    assert drawn.std(axis=0) == pytest.approx(spread, rel=0.03)


def test_a_stopped_run_counts_as_much_as_its_chance_to_be_that_long() -> None:
    lines = component(1e-3, 0.1)
    seen = evidence([4], [5.0], stopped=[8], bound=[5.5])
    mixture = condition(BASES, (lines,), seen, level=np.nan)
    above = np.array([norm.sf(5.5, 5.0 + s, np.sqrt(0.1**2 + 0.1**2)) for s in SLOPES])
    assert {int(j): w for p in mixture.parts for j, w in zip(p.which, p.weight, strict=True)}[2] == pytest.approx(
        above[2] / above.sum(), abs=0.02
    )


def test_sampling_down_many_mean_functions_keeps_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    many = component(0.3, 0.1, np.linspace(-2.0, 2.0, 500))
    seen = evidence([4], [5.0])
    whole = condition(BASES, (many,), seen, level=np.nan).moments
    monkeypatch.setattr("recommender.models.mixture.MOST", 60)
    few = condition(BASES, (many,), seen, level=np.nan)
    assert sum(len(p.which) for p in few.parts) <= 60
    assert few.moments[0] == pytest.approx(whole[0], abs=0.02)
    assert few.moments[1] == pytest.approx(whole[1], rel=0.03)


def test_blocks_of_configurations_and_of_parts_join_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = evidence([0, 8], [5.0, 6.0])
    components = (component(0.3, 0.1), component(0.5, 0.2), component(0.8, 0.1))
    whole = condition(BASES, components, seen, level=np.nan)
    assert len(whole.parts) == 3
    bound = np.full(9, 5.5)
    expected = whole.moments, whole.below(bound)
    monkeypatch.setattr("recommender.models.mixture.CELLS", 5)
    parts = Mixture(whole.bases, whole.rows, whole.level, whole.parts, whole.size)
    assert [len(range(*b.indices(9))) for b, *_ in parts.blocks(np.arange(9))] != [9]
    assert parts.moments[0] == pytest.approx(expected[0][0])
    assert parts.below(bound) == pytest.approx(expected[1])


def cluster(runtime: dict[tuple[str, int], float] | None = None) -> pd.DataFrame:
    """3 types x 6 cluster sizes."""
    kinds = {"small": (2, 8.0, 0.1), "tall": (2, 32.0, 0.13), "wide": (8, 32.0, 0.4)}
    rows = [(k, n, v, g, usd) for k, (v, g, usd) in kinds.items() for n in (1, 2, 4, 8, 16, 32)]
    return pd.DataFrame(rows, columns=["instance_type", "node_count", "vcpus", "memory_gib", "usd_per_hour"])


def asked(runs: pd.DataFrame | None = None, **options: object) -> tuple[Problem, Runs]:
    """The problem over `cluster()`."""
    return build_problem(runs, workload="w", candidates=cluster(), **options)  # type: ignore[arg-type]


def told(runtimes: dict[tuple[str, int], float], **more: object) -> pd.DataFrame:
    """Runs of workload w."""
    rows = [{"workload": "w", "instance_type": k, "node_count": n, "runtime_s": t} for (k, n), t in runtimes.items()]
    return pd.DataFrame(rows).assign(**more)


def test_a_law_is_its_formula() -> None:
    problem, _ = asked()
    laws = draw_laws(problem, features(problem), 64)
    table = problem.configurations
    j, i, first = 40, 11, 0
    small = table["node_count"] * table["vcpus"]
    raw = []
    for row in (i, first):
        c = np.log(small[row] / small.min())
        tau = np.log(table["memory_gib"][row] * table["node_count"][row])
        spill = min(laws.slope[j] * max(laws.nu[j] - tau, 0.0), laws.zeta[j])
        raw.append(np.log(np.exp(-c) + laws.alpha[j] + laws.beta[j] * (table["node_count"][row] - 1)) + spill)
    got = laws.at(np.array([i, first]), np.array([j]))[0]
    assert got[0] - got[1] == pytest.approx(raw[0] - raw[1])
    assert laws.at(slice(None)).mean(axis=1) == pytest.approx(0.0, abs=1e-12)
    assert laws.mean() == pytest.approx(laws.at(slice(None)).mean(axis=0))


def test_workloads_of_the_archive_that_no_candidate_was_run_by_change_nothing(scout: dict[str, Environment]) -> None:
    problem = scout["join_bigdata_spark"].problem
    assert problem.archive is not None
    strange = pd.DataFrame(
        {"workload": "a stranger", "application": "a", "instance_type": "m5.large", "node_count": 1, "runtime_s": [9.0]}
    )
    both = pd.concat([strange, problem.archive.frame], ignore_index=True).dropna(axis="columns", how="all")
    wider = belief(replace(problem, archive=Runs.from_frame(both)))
    assert wider.trust == pytest.approx(belief(problem).trust)


def test_without_runs_and_archive_no_runtime_is_made_up() -> None:
    problem, runs = asked()
    answer = strategy("prior").recommend(problem, runs)
    assert all(row.runtime_s is None for row in answer.rows)
    assert any("no runtime is known" in w for w in answer.warnings)
    assert answer.next_run is not None


def test_runs_at_another_input_are_said_not_to_be_used_and_no_deadline_is_promised() -> None:
    runs = told({("small", 1): 300.0, ("small", 2): 160.0}, **{"input.gb": 20.0})
    problem, mine = asked(runs, inputs={"gb": 200.0}, deadline_s=3600.0)
    answer = strategy("prior").recommend(problem, mine)
    said = " ".join(answer.warnings)
    assert "none of the workload's 2 completed runs is of a candidate at the input asked about" in said
    assert "prior uses no others" in said
    title = as_text(answer).splitlines()[0]
    assert "within 1 h 00 min (not checked: no runtime is known)" in title
    assert "90%" not in title


def test_a_cliff_in_memory_is_learned_from_a_few_runs() -> None:
    # 64 GiB are needed: without them ten times the time.
    def runtime(v: int, g: float, n: int) -> float:
        return 4000.0 / (v * n) * (10.0 if g * n < 64 else 1.0)

    table = cluster()
    truth = {
        (k, n): runtime(v, g, n)
        for k, n, v, g in zip(*(table[c] for c in ("instance_type", "node_count", "vcpus", "memory_gib")), strict=True)
    }
    seen = {k: truth[k] for k in (("small", 2), ("tall", 1), ("tall", 4), ("wide", 8))}
    problem, runs = asked(told(seen))
    prediction = LearnedPrior().predict(problem, runs)
    index = {(k, n): i for i, (k, n) in enumerate(zip(table["instance_type"], table["node_count"], strict=True))}
    order = problem.configurations.reset_index().set_index(["instance_type", "node_count"])["index"]
    dry, wet = order["small", 4], order["tall", 16]
    assert np.exp(prediction.log_runtime[dry]) > 3 * 4000.0 / 8
    assert np.exp(prediction.log_runtime[wet]) < 3 * 4000.0 / 32
    assert len(index) == len(order)


def test_repetitions_and_one_more_run_narrow_the_spread() -> None:
    once = LearnedPrior().predict(*asked(told({("small", 2): 500.0, ("wide", 4): 90.0})))
    more = LearnedPrior().predict(*asked(told({("small", 2): 500.0, ("wide", 4): 90.0, ("tall", 8): 160.0})))
    assert more.spread.mean() < once.spread.mean()
    assert (once.spread > 0).all()


def test_all_candidates_failing_is_a_clear_outcome() -> None:
    table = cluster()
    keys = list(zip(table["instance_type"], table["node_count"], strict=True))
    problem, runs = asked(told(dict.fromkeys(keys, 5.0), status="failed"))
    assert strategy("prior").suggest(problem, runs) is None


def test_a_single_candidate_is_measured_once() -> None:
    one = cluster().iloc[[0]]
    problem, runs = build_problem(None, workload="w", candidates=one)
    first = strategy("prior").suggest(problem, runs)
    assert first is not None
    problem, runs = build_problem(told({("small", 1): 50.0}), workload="w", candidates=one)
    assert strategy("prior").suggest(problem, runs) is None


@pytest.fixture(scope="module")
def scout(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Environment]:
    """Some workloads of Scout, other applications as archive."""
    data = fetch_dataset("scout", mirror=mirror, cache=tmp_path_factory.mktemp("scout"))
    assert data.runs is not None
    names = ("join_bigdata_spark", "pagerank_huge_hadoop", "naive-bayes_bigdata_spark15", "terasort_huge_hadoop")
    return {n: environment(data.runs, n, candidates=data.candidates, group_by="application") for n in names}


def test_the_archive_is_believed_before_the_workload_is_run_and_judged_after(scout: dict[str, Environment]) -> None:
    world = scout["join_bigdata_spark"]
    prior = belief(world.problem)
    assert 0.02 < prior.trust < 0.5
    assert prior is belief(replace(world.problem, seed=3)), "not built twice for one archive"
    # Permuted configurations: as consistent with each other as before, and wrong about this workload.
    assert world.problem.archive is not None
    frame = world.problem.archive.frame
    table = world.problem.configurations[["instance_type", "node_count"]]
    mixed = table.sample(frac=1, random_state=0).reset_index(drop=True)
    to = dict(zip(map(tuple, table.to_numpy()), map(tuple, mixed.to_numpy()), strict=True))
    pairs = [to[k] for k in zip(frame["instance_type"], frame["node_count"], strict=True)]
    wrong = frame.assign(instance_type=[p[0] for p in pairs], node_count=[p[1] for p in pairs])
    done = np.flatnonzero(np.isfinite(world.truth))
    taken = [world.draw(int(i), seed=0, earlier=0) for i in done[:: len(done) // 10]]
    unrelated = replace(world.problem, archive=Runs(wrong))
    runs = world.told(taken)
    mixture = LearnedPrior().predict(unrelated, runs).mixture
    assert mixture is not None
    assert belief(unrelated).trust > 0.5, "consistent with itself"
    assert mixture.share().get("archive", 0.0) < 0.01, "and dropped after ten runs"
    cold = LearnedPrior().predict(replace(world.problem, archive=None), runs)
    assert LearnedPrior().predict(unrelated, runs).log_runtime == pytest.approx(cold.log_runtime, abs=0.1)


@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_the_noise_of_the_archives_workloads_is_what_is_expected_of_a_new_one(noise: float) -> None:
    rng = np.random.default_rng(0)
    candidates = cluster()
    work = candidates["vcpus"] * candidates["node_count"]
    parts = []
    for w in range(12):
        runtime = rng.uniform(500, 5000) * (1.0 / work + rng.uniform(0.01, 0.05))
        table = candidates[["instance_type", "node_count"]]
        parts.append(
            table.assign(workload=f"w{w}", runtime_s=runtime * np.exp(noise * rng.standard_normal(len(table))))
        )
    problem, _ = asked(archive=[Runs.from_frame(pd.concat(parts, ignore_index=True))])
    found = belief(problem).components
    weight = np.array([np.exp(np.logaddexp.reduce(c.log_prior)) for c in found])
    assert weight.sum() == pytest.approx(1.0)
    level = np.array([c.noise for c in found])
    assert weight[np.isclose(level, noise)].sum() > 2 * 0.25, "a quarter by equal weights"


def test_90_percent_intervals_of_unmeasured_candidates_hold_about_90_percent(scout: dict[str, Environment]) -> None:
    held = []
    for world in scout.values():
        order = np.random.default_rng(1).permutation(np.flatnonzero(np.isfinite(world.truth)))
        for k in (4, 10):
            taken = [world.draw(int(i), seed=0, earlier=0) for i in order[:k]]
            prediction = LearnedPrior().predict(world.problem, world.told(taken))
            frame = world.recorded.frame
            left = np.isin(world.configuration, order[k:]) & (frame["status"] == "completed").to_numpy()
            z = np.log(frame["runtime_s"].to_numpy(float)[left]) - prediction.log_runtime[world.configuration[left]]
            held += list(np.abs(z / prediction.spread[world.configuration[left]]) < norm.ppf(0.95))
    assert 0.85 <= np.mean(held) <= 0.98, np.mean(held)


def test_a_search_with_it_is_near_the_optimum_after_six_runs(scout: dict[str, Environment]) -> None:
    made = strategy("prior")
    for name, world in scout.items():
        taken: list[int] = []
        for _ in range(6):
            wanted = made.suggest(world.problem, world.told(taken))
            if wanted is None:
                break
            taken.append(world.draw(world.row(wanted), seed=0, earlier=0))
        best = min(world.value[t] for t in taken if world.feasible[t])
        assert best <= 1.25 * world.optimum, name


def test_the_improvement_of_a_mixture_is_the_mean_over_its_parts() -> None:
    problem, runs = asked(told({("small", 2): 500.0, ("wide", 4): 90.0}))
    prediction = LearnedPrior().predict(problem, runs)
    scores = MixtureImprovement().scores(problem, runs, prediction, LearnedPrior())
    assert prediction.mixture is not None
    row = int(np.nanargmax(scores.score))
    drawn = np.exp(prediction.mixture.draws(np.array([row]), 200_000, np.random.default_rng(0))[:, 0])
    table = problem.configurations.iloc[row]
    price = cluster().set_index(["instance_type", "node_count"])["usd_per_hour"][
        table["instance_type"], table["node_count"]
    ]
    value = np.log(np.maximum(drawn, 0.0) * price * table["node_count"] / 3600.0)
    gain = np.maximum(np.log(scores.incumbent) - value, 0.0).mean()
    assert scores.score[row] == pytest.approx(gain, rel=0.03)


class TestARunThatCannotBe:
    SECONDS = (("m5.xlarge", 4, 1033.1), ("r5.xlarge", 4, 1006.8), ("m5.2xlarge", 4, 522.3), ("c5.2xlarge", 2, 1147.9))

    def ask(self, last: float, **more: Any) -> tuple[Problem, Runs]:
        rows = [*self.SECONDS, ("c5.2xlarge", 4, last)]
        mine = pd.DataFrame(rows, columns=["instance_type", "node_count", "runtime_s"]).assign(workload="als")
        kinds = [f"{family}.{size}" for family in ("m5", "c5", "r5") for size in ("xlarge", "2xlarge")]
        pool = pd.DataFrame(itertools.product(kinds, (2, 4, 8)), columns=["instance_type", "node_count"])
        return build_problem(mine, candidates=pool, **more)

    @pytest.mark.parametrize("last", [4.83, 48_300.0])
    def test_a_hundredfold_off_is_named_and_nothing_is_promised_on_it(self, last: float) -> None:
        problem, runs = self.ask(last)
        answer = strategy("prior").recommend(problem, runs)
        assert any("the run of c5.2xlarge x4 is" in w and "run it again" in w for w in answer.warnings)
        assert answer.prediction is not None
        others = np.isin(np.arange(len(problem.configurations)), measured(problem, Runs(runs.frame[:4])).row)
        assert answer.prediction.spread[~others].min() > math.log(20.0)
        assert answer.prediction.spread[others].max() < 0.2

    def test_a_deadline_that_only_that_run_met_is_not_met(self) -> None:
        problem, runs = self.ask(4.83, deadline_s=30.0)
        with pytest.raises(InfeasibleError):
            strategy("prior").recommend(problem, runs)

    def test_repeated_it_is_believed_but_tells_nothing_of_what_was_not_measured(self) -> None:
        problem, runs = self.ask(4.83, deadline_s=30.0)
        twice = Runs(pd.concat([runs.frame, runs.frame.tail(1)], ignore_index=True))
        answer = strategy("prior").recommend(problem, twice)
        assert [row.label for row in answer.rows] == ["c5.2xlarge x4"]
        assert any("neither scaling laws nor the archive tell" in w for w in answer.warnings)

    def test_what_the_archive_says_too_is_no_outlier(self) -> None:
        problem, runs = self.ask(4.83)
        other = runs.frame.drop(columns="application")
        pool = [other.assign(workload=f"w{i}", runtime_s=other["runtime_s"] * f) for i, f in enumerate((0.5, 2, 3, 4))]
        told = replace(problem, archive=Runs.from_frame(pd.concat(pool, ignore_index=True)))
        answer = strategy("prior").recommend(told, runs)
        assert not any("lead to expect" in w for w in answer.warnings)

    def test_ten_times_is_what_memory_can_do_and_is_believed(self) -> None:
        problem, runs = self.ask(60.0)
        answer = strategy("prior").recommend(problem, runs)
        assert not any("outlier" in w for w in answer.warnings)


def test_own_repetitions_that_contradict_each_other_widen_everything_and_promise_nothing() -> None:
    once = told({("small", 2): 500.0, ("wide", 4): 90.0, ("tall", 4): 260.0})
    calm = strategy("prior").recommend(*asked(pd.concat([once, once])))
    torn = strategy("prior").recommend(*asked(pd.concat([once, once.assign(runtime_s=20.0 * once["runtime_s"])])))
    assert calm.prediction is not None
    assert torn.prediction is not None
    assert torn.prediction.spread.min() > 1.0 > 0.5 > np.median(calm.prediction.spread)
    assert calm.prediction.draws is not None
    assert torn.prediction.draws is None, "nothing can be promised on them"


def test_what_one_more_run_saves_is_less_than_what_is_recommended_costs() -> None:
    problem, runs = asked(told({("wide", 8): 400.0, ("wide", 16): 390.0, ("tall", 32): 420.0}))
    answer = strategy("prior").recommend(problem, runs)
    first, wanted = answer.rows[0], answer.next_run
    assert first.evidence != "measured"
    assert first.cost_usd is not None
    assert wanted is not None
    assert wanted.saves_usd is not None
    assert 0.0 <= wanted.saves_usd < first.cost_usd.p50


def test_without_a_run_of_its_own_what_is_not_known_is_said_beside_the_suggestion() -> None:
    archive = pd.concat(
        [told({("small", 1): 100.0 * k, ("wide", 1): 30.0 * k}).assign(workload=f"o{k}") for k in (1, 2)]
    )
    problem, runs = asked(None, archive=[Runs.from_frame(archive)])
    for name in ("prior", "auto"):
        assert any("only their order means anything" in said for said in strategy(name).remarks(problem, runs))
