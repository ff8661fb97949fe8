"""Lynceus: its quadrature, the improvement in dollars, the look-ahead against one written out, and the budget it keeps."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import replay_table
from strategy_contract import Make, StrategyContract
from test_cherrypick import ask, search, table
from typer.testing import CliRunner

from recommender.cli import app
from recommender.datasets import fetch_dataset
from recommender.errors import InputError
from recommender.evaluation import plan, run
from recommender.models import measured
from recommender.models.bagging import RandomTrees
from recommender.models.features import features
from recommender.problem import Problem, build_problem
from recommender.question import Question
from recommender.replay import environment, episode, key_of
from recommender.run_command import RunCommand
from recommender.runs import Runs
from recommender.search.acquisition import row_of
from recommender.search.designs import LatinHypercube, hypercube_order
from recommender.search.lookahead import (
    Known,
    LookAhead,
    greedy,
    lognormal_improvement,
    paths,
    quadrature,
    run_limit_s,
    start,
)
from recommender.search.stopping import Never, bearable, largest_log_usd, spent_usd
from recommender.strategies import ModelBased, strategy
from recommender.study import Study
from recommender.tuning import tune


class TestContract(StrategyContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda: strategy("lynceus")


def lynceus() -> ModelBased:
    made = strategy("lynceus")
    assert isinstance(made, ModelBased)
    return made


def usd(rows: pd.DataFrame) -> pd.Series[float]:
    return rows["runtime_s"] * rows["usd_per_hour"] * rows["node_count"] / 3600.0


class TestQuadrature:
    @pytest.mark.parametrize("nodes", [2, 3, 5])
    def test_weights_sum_to_one_and_the_first_two_moments_are_exact(self, nodes: int) -> None:
        points, w = quadrature(nodes)
        v = 100.0 + 20.0 * points
        assert abs(w.sum() - 1.0) < 1e-12
        assert w @ v / 100.0 == pytest.approx(1.0, abs=1e-12)
        assert w @ v**2 / 10_400.0 == pytest.approx(1.0, abs=1e-12)

    def test_three_nodes_are_exact_up_to_the_fifth_power(self) -> None:
        points, w = quadrature(3)
        assert [w @ points**k for k in range(1, 6)] == pytest.approx([0, 1, 0, 3, 0], abs=1e-12)


class TestImprovement:
    @pytest.mark.parametrize(("mean", "spread", "best"), [(0.0, 0.5, 0.1), (-1.0, 1.5, -1.5), (2.0, 0.1, 1.7)])
    def test_is_the_mean_saving_in_dollars(self, mean: float, spread: float, best: float) -> None:
        drawn = np.exp(np.random.default_rng(0).normal(mean, spread, 2_000_000))
        saving = np.maximum(math.exp(best) - drawn, 0.0)
        got = lognormal_improvement(np.array(mean), np.array(spread), np.array(best))
        assert got == pytest.approx(saving.mean(), abs=5 * saving.std() / math.sqrt(len(drawn)))

    def test_is_the_whole_difference_when_nothing_is_uncertain(self) -> None:
        got = lognormal_improvement(np.array([0.0, 1.0]), np.full(2, 1e-9), np.full(2, math.log(3.0)))
        assert got == pytest.approx([2.0, 3.0 - math.e], rel=1e-6)


def brute(known: Known, member: Any, weight: Any, open_: Any, left: float, best: float, x: int, horizon: int) -> Any:
    """U and C by the formulas, one number at a time: three nodes, discount 0.9."""

    def phi(z: float) -> float:
        return 0.5 * math.erfc(-z / math.sqrt(2.0))

    def worth(i: int, member: Any, best: float) -> tuple[float, float, float, float]:
        g = [member[b][i] for b in range(len(member))]
        mean = sum(g) / len(g)
        latent2 = sum((v - mean) ** 2 for v in g) / len(g) + known.error**2
        spread = math.sqrt(latent2 + known.noise**2)
        mu, sigma = known.level[i] + known.slope[i] * mean, known.slope[i] * math.sqrt(latent2)
        z = (best - mu) / sigma
        gain = math.exp(best) * phi(z) - math.exp(mu + sigma**2 / 2) * phi(z - sigma)
        gain *= known.completing[i] * phi((known.log_deadline - mean) / spread)
        return mean, spread, gain, math.exp(max(mean + known.log_price[i] + spread**2 / 2, known.least[i]))

    mean, spread, u, c = worth(x, member, best)
    if horizon == 0:
        return u, c
    for h, w in ((-math.sqrt(1.5), 1 / 6), (0.0, 2 / 3), (math.sqrt(1.5), 1 / 6)):  # of the Hermite polynomial H3
        t = mean + math.sqrt(2.0) * spread * h
        after = [list(row) for row in member]
        count = [list(row) for row in weight]
        for b in range(len(member)):
            for i in range(len(open_)):
                if known.leaf[b][i] == known.leaf[b][x]:
                    after[b][i] = member[b][i] + (t - member[b][x]) / (weight[b][x] + 1)
                    count[b][i] += 1
        rest = left - math.exp(max(t + known.log_price[x], known.least[x]))
        y = min(best, known.level[x] + known.slope[x] * t) if t <= known.log_deadline else best
        chosen, ratio = -1, -math.inf
        for i in range(len(open_)):
            m, _, gain, cost = worth(i, after, y)
            most = math.exp(max(m + known.log_price[i] + known.reach[i], known.least[i]))
            if open_[i] and i != x and most <= rest and gain / cost > ratio:
                chosen, ratio = i, gain / cost
        if chosen >= 0:
            others = [o and i != x for i, o in enumerate(open_)]
            more, dear = brute(known, after, count, others, rest, y, chosen, horizon - 1)
            u, c = u + 0.9 * w * more, c + 0.9 * w * dear
    return u, c


class TestLookAhead:
    source = table()

    @pytest.mark.parametrize("left", [1e9, 8.0])
    @pytest.mark.parametrize("horizon", [0, 1, 2])
    def test_is_the_recursion_written_out(self, horizon: int, left: float) -> None:
        problem, runs = ask(self.source.iloc[::5], self.source, deadline_s=9000.0)
        prediction, forest = RandomTrees(members=4).grown(problem, runs)
        assert forest is not None
        rows, known, state, _ = start(problem, runs, prediction, forest)
        state = replace(state, left=np.array([left]))
        found = greedy(known, state)
        for x in np.flatnonzero(np.isfinite(found.ratio[0]))[::6]:
            got = paths(known, state, found, np.array([x]), horizon=horizon, discount=0.9, nodes=3)
            member, weight = state.member[0].tolist(), state.weight[0].tolist()
            wanted = brute(known, member, weight, [True] * len(rows), left, float(state.best[0]), int(x), horizon)
            assert [float(v[0]) for v in got] == pytest.approx(wanted, rel=1e-9)

    def test_scores_do_not_depend_on_how_candidates_are_split_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        problem, runs = ask(self.source.iloc[::5], self.source)
        model = RandomTrees()
        prediction = model.predict(problem, runs)
        whole = LookAhead().scores(problem, runs, prediction, model).score
        monkeypatch.setattr("recommender.search.lookahead.CELLS", 1)
        assert LookAhead().scores(problem, runs, prediction, model).score == pytest.approx(whole, nan_ok=True)

    def test_greedy_is_the_improvement_per_dollar(self) -> None:
        problem, runs = ask(self.source.iloc[::5], self.source)
        model = RandomTrees()
        prediction, forest = model.grown(problem, runs)
        assert forest is not None
        rows, known, state, _ = start(problem, runs, prediction, forest)
        got = LookAhead(horizon=0, beam=1000).scores(problem, runs, prediction, model).score[rows]
        assert got == pytest.approx(greedy(known, state).ratio[0])
        assert state.member[0].mean(axis=0) == pytest.approx(prediction.log_runtime[rows])

    def test_without_a_feasible_run_the_reference_is_dearer_than_all_seen(self) -> None:
        problem, runs = ask(self.source.iloc[::5], self.source, deadline_s=1.0)
        prediction, forest = RandomTrees().grown(problem, runs)
        assert forest is not None
        _, _, state, best = start(problem, runs, prediction, forest)
        assert best is None
        assert math.exp(state.best[0]) > usd(self.source.iloc[::5]).max()

    def test_a_model_without_trees_is_refused(self) -> None:
        problem, runs = ask(self.source.iloc[::5], self.source)
        other = strategy("cherrypick").model  # type: ignore[attr-defined]
        with pytest.raises(InputError, match="RandomTrees"):
            LookAhead().scores(problem, runs, other.predict(problem, runs), other)


class TestTheSurrogate:
    def test_a_stopped_run_is_at_least_that_slow(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::5], source)
        at = measured(problem, runs).count > 0
        limit = float(source["runtime_s"].max() * 5)
        extra = runs.frame.iloc[:1].assign(instance_type="high", node_count=12, runtime_s=limit, status="timed_out")
        both = Runs.from_frame(pd.concat([runs.frame.assign(status="completed"), extra], ignore_index=True))
        before, after = (RandomTrees().predict(problem, r) for r in (runs, both))
        row = row_of(problem, problem.candidates.configuration(int(np.flatnonzero(at)[0])))
        assert after.log_runtime[row] == pytest.approx(before.log_runtime[row], abs=0.1)
        stopped = np.flatnonzero(np.isfinite(measured(problem, both).censored_log))
        assert after.log_runtime[stopped] >= math.log(limit) - 1e-12
        assert after.longest_s is not None
        assert after.longest_s[stopped] >= limit * (1 - 1e-12)

    def test_members_are_single_runs_and_leaves_hold_their_own(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::3], source)
        _, forest = RandomTrees().grown(problem, runs)
        assert forest is not None
        assert forest.log_runtime.shape == (10, len(source))
        for b in range(10):  # candidates of one leaf differ in price alone
            cost = forest.log_runtime[b] + np.log(problem.configurations["node_count"].to_numpy())
            kind = problem.configurations["instance_type"].map({"low": 0.1, "mid": 0.2, "high": 0.4}).to_numpy(float)
            for leaf in np.unique(forest.leaf[b]):
                assert np.ptp((cost + np.log(kind))[forest.leaf[b] == leaf]) < 1e-9

    def test_what_a_run_may_cost_covers_the_truth_as_often_as_it_says(self) -> None:
        source, inside = table(), []
        ordered = source.sort_values(["instance_type", "node_count"])
        for seed in range(10):
            problem, runs = ask(source.sample(10, random_state=seed), source)
            most = np.exp(largest_log_usd(problem, RandomTrees().predict(problem, runs)))
            new = measured(problem, runs).count == 0
            inside.extend(usd(ordered).to_numpy()[new] <= most[new])
        assert np.mean(inside) > 0.95


class TestTheStart:
    def test_is_a_latin_hypercube_over_three_percent(self) -> None:
        source = table()
        problem, runs = ask(None, source)
        design = LatinHypercube(RandomTrees())
        order = list(hypercube_order(features(problem).x, 3, problem.seed))
        assert sorted(order) == list(range(30))
        wanted = design.propose(problem, runs, problem.random(runs), None)
        assert wanted is not None
        assert row_of(problem, wanted) == order[0]
        assert "start 1 of 3" in wanted.why  # type: ignore[attr-defined]
        assert design.propose(*ask(source.iloc[::10], source), np.random.default_rng(0), None) is None

    def test_goes_on_until_a_run_completed(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::10], source)
        failed = Runs.from_frame(runs.frame.assign(status="failed"))
        assert LatinHypercube(RandomTrees()).propose(problem, failed, np.random.default_rng(0), None) is not None

    def test_passes_over_what_the_budget_may_not_bear(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[[3]], source)
        spent = spent_usd(problem, runs)
        poor = replace(problem, search_budget_usd=spent * 1.5)
        assert not bearable(poor, runs, RandomTrees().predict(poor, runs)).any()
        made = lynceus()
        assert made.suggest(poor, runs) is None
        assert any("no run is sure to fit the rest" in w for w in made.recommend(poor, runs).warnings)


class TestTheBudget:
    @pytest.mark.parametrize("share", [0.5, 1.0, 3.0])
    def test_is_kept_on_a_planted_table(self, share: float) -> None:
        source = table()
        budget = share * 6 * float(usd(source).mean())
        for seed in range(2):
            rows = search(lynceus(), source, 30, seed=seed, search_budget_usd=budget)
            assert 0 < usd(rows).sum() <= budget

    def test_failed_and_stopped_runs_count_as_spent(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::5], source)
        frame = runs.frame.assign(status=["completed", "failed", "timed_out", *["completed"] * (len(runs) - 3)])
        assert spent_usd(problem, Runs.from_frame(frame)) == pytest.approx(usd(source.iloc[::5]).sum())
        assert spent_usd(problem, Runs.from_frame(frame.assign(cost_usd=0.5))) == pytest.approx(0.5 * len(runs))

    @pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
    def test_what_is_no_budget_is_refused(self, budget: float) -> None:
        with pytest.raises(InputError, match="search budget is"):
            ask(None, table(), search_budget_usd=budget)

    def test_a_budget_that_bears_no_run_says_so(self) -> None:
        with pytest.raises(InputError, match=r"search budget of .* bears no run"):
            build_problem(None, workload="w", regions=["us-east-1"], search_budget_usd=1e-6)

    def test_without_a_budget_it_stops_when_little_is_to_be_gained(self) -> None:
        source = table()
        rows = search(lynceus(), source, 30)
        assert 6 <= len(rows) < 30

    def test_other_strategies_end_with_it_too(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::5], source, search_budget_usd=float(usd(source.iloc[::5]).sum()) * 1.001)
        spent = replace(problem, search_budget_usd=spent_usd(problem, runs) * (1 - 1e-9))
        for name, poor in (("cherrypick", problem), ("trees", problem), ("cloudbandit", spent), ("random", spent)):
            assert strategy(name).suggest(replace(problem, search_budget_usd=None), runs) is not None
            assert strategy(name).suggest(poor, runs) is None
            assert strategy(name).recommend(poor, runs).next_run is None

    def test_a_run_is_stopped_when_it_passes_the_incumbent_or_what_is_left(self) -> None:
        source = table()
        problem, runs = ask(source.iloc[::5], source)
        best = float(usd(source.iloc[::5]).min())
        row = 7
        cells = problem.configurations.iloc[row]
        price = {"low": 0.1, "mid": 0.2, "high": 0.4}[cells["instance_type"]] * cells["node_count"] / 3600.0
        assert run_limit_s(problem, runs, row) == pytest.approx(best / price)
        assert run_limit_s(problem, runs, row, left_usd=best / 10) == pytest.approx(best / 10 / price)
        assert run_limit_s(problem, runs, row, past_incumbent=False) == math.inf


def test_finds_a_planted_optimum() -> None:
    made, source = replace(lynceus(), stop=Never()), table()
    best = [usd(search(made, source, 14, seed=seed)).min() for seed in range(3)]
    assert sorted(best)[1] < 2.0 * 1.31, "at most one doubling from the optimum"


@pytest.mark.parametrize("job", ["cnn", "rnn"])
def test_spends_no_more_than_its_budget_on_a_real_job(mirror: Path, tmp_path: Path, job: str) -> None:
    data = fetch_dataset("lynceus", mirror=mirror, cache=tmp_path)
    assert data.runs is not None
    frame = data.runs.of(job).frame.reset_index(drop=True)
    blank, _ = build_problem(None, workload=job, candidates=data.candidates)
    problem: Problem = replace(blank, search_budget_usd=8 * float(frame["cost_usd"].mean()), deadline_s=600.0)
    at = {
        key_of(blank.candidates.configuration(row_of(blank, c))): i for i, c in enumerate(configurations(blank, frame))
    }
    rows: list[int] = []
    while wanted := lynceus().suggest(problem, Runs(frame.iloc[rows].reset_index(drop=True))):
        rows.append(at[key_of(wanted)])
    assert len(rows) >= 5
    assert frame["cost_usd"].iloc[rows].sum() <= problem.search_budget_usd  # type: ignore[operator]


def configurations(problem: Problem, frame: pd.DataFrame) -> Any:
    """The configuration of each recorded run."""
    from recommender.models import configuration_rows

    return [problem.candidates.configuration(int(i)) for i in configuration_rows(problem, frame)]


class TestTheReplay:
    def test_no_strategy_sees_a_run_that_passes_the_budget(self) -> None:
        world = environment(Runs.from_frame(replay_table.table()), "one", candidates=replay_table.CANDIDATES)
        script = replay_table.Scripted(tuple("cda"))  # 0.20, 1.50 and 1.00 USD
        for usd, runs in ((5.0, 3), (2.7, 3), (2.69, 2), (1.7, 2), (1.69, 1), (0.1, 0)):
            limited = replace(world, problem=replace(world.problem, search_budget_usd=usd))
            rows = episode("script", script, limited, seed=0, steps=9)
            assert rows[-1]["step"] == runs
            assert rows[-1]["stopped"]
            assert rows[-1]["search_cost_usd"] <= usd * (1 + 1e-9)

    def test_a_budget_in_mean_runs_is_each_workloads_own(self) -> None:
        planned = plan(
            Runs.from_frame(replay_table.table()), candidates=replay_table.CANDIDATES, search_budget_runs=2.0, seeds=1
        )
        got = {w.problem.workload: w.problem.search_budget_usd for w in planned.worlds}
        assert got == {"one": pytest.approx(2 * 4.7 / 5), "two": pytest.approx(2 * 7.35 / 4)}
        results = run(planned)
        assert results["search_cost_usd"].max() <= max(got.values()) * (1 + 1e-9)

    def test_two_budgets_or_none_that_is_positive_are_refused(self) -> None:
        runs = Runs.from_frame(replay_table.table())
        with pytest.raises(InputError, match="give one of them"):
            plan(runs, candidates=replay_table.CANDIDATES, search_budget_runs=2.0, search_budget_usd=1.0)
        with pytest.raises(InputError, match="search budget in mean runs is 0"):
            plan(runs, candidates=replay_table.CANDIDATES, search_budget_runs=0.0)


class TestTheCommandLine:
    def files(self, tmp_path: Path) -> list[str]:
        source = table()
        source.drop(columns="runtime_s").to_csv(tmp_path / "pool.csv", index=False)
        runs = source.iloc[::5][["instance_type", "node_count", "runtime_s"]].assign(workload="w")
        runs.to_csv(tmp_path / "runs.csv", index=False)
        return [str(tmp_path / "runs.csv"), "--candidates", str(tmp_path / "pool.csv"), "--strategy", "lynceus"]

    @pytest.mark.parametrize("option", ["--budget", "--search-budget"])
    def test_with_lynceus_the_budget_is_the_searchs(self, tmp_path: Path, option: str) -> None:
        words = self.files(tmp_path)
        poor = CliRunner().invoke(app, ["suggest", *words, option, "21"])
        assert poor.exit_code == 0, poor.output
        assert "nothing is worth measuring" in poor.output
        rich = CliRunner().invoke(app, ["recommend", *words, option, "1000", "--format", "json"])
        answer = json.loads(rich.stdout)
        assert answer["problem"]["search_budget_usd"] == 1000.0
        assert answer["problem"]["budget_usd"] is None
        assert answer["next_run"] is not None

    def test_both_budgets_are_refused(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["suggest", *self.files(tmp_path), "--budget", "3", "--search-budget", "4"])
        assert isinstance(done.exception, InputError)


class TestTuning:
    def study(self, tmp_path: Path, **options: Any) -> Study:
        question = Question(candidates=table().drop(columns="runtime_s"), **options)
        return Study.create("s", question, strategy_name="random", store=tmp_path / "studies.db")

    def test_a_run_is_ended_when_the_search_budget_is(self, tmp_path: Path) -> None:
        study = self.study(tmp_path)
        sleep = RunCommand(line=f"{sys.executable} -c 'import time; time.sleep(60)'")
        tuned = tune(study, sleep, search_budget_usd=1e-5)
        assert tuned.runs >= 1
        assert {row["status"] for row in study.snapshot().told.values()} == {"timed_out"}

    def test_a_run_that_is_dearer_than_the_best_is_ended(self, tmp_path: Path) -> None:
        study = self.study(tmp_path)
        study.tell(configuration=study.ask()[0].run, runtime_s=0.5)
        sleep = RunCommand(line=f"{sys.executable} -c 'import time; time.sleep(60)'")
        tune(study, sleep, stop_dear=True, max_runs=2)
        assert [row["status"] for row in study.snapshot().told.values()] == ["completed", "timed_out"]

    def test_runs_a_study_was_given_are_not_paid_from_its_budget(self, tmp_path: Path) -> None:
        source = table()
        runs = source.iloc[::5][["instance_type", "node_count", "runtime_s"]].assign(workload="w")
        study = self.study(tmp_path, runs=runs, search_budget_usd=3.0)
        problem, mine = study.evidence()
        assert problem.search_budget_usd == pytest.approx(3.0 + spent_usd(problem, mine))
