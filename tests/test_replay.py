"""Episodes are what they say: every number of a hand-made table by hand, and the closed form of random search."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from replay_table import CANDIDATES, Mute, Scripted, table

from recommender.catalogue import load_catalogue
from recommender.datasets import Dataset, fetch_dataset
from recommender.errors import InputError, RecommenderError
from recommender.pricing import BY_NAME
from recommender.replay import COLUMNS, Environment, environment, episode, recorded_configurations
from recommender.runs import Runs
from recommender.strategies import strategy


def world(workload: str = "one", *, runs: pd.DataFrame | None = None, **options: Any) -> Environment:
    """Ask about a workload of the hand-made table."""
    frame = table() if runs is None else runs
    return environment(Runs.from_frame(frame), workload, **{"candidates": CANDIDATES, **options})


def play(script: str, *, steps: int = 9, seed: int = 0, **options: Any) -> pd.DataFrame:
    """An episode that measures the types named."""
    return pd.DataFrame(episode("script", Scripted(tuple(script)), world(**options), seed=seed, steps=steps))


def column(frame: pd.DataFrame, name: str) -> list[Any]:
    """A column with None for missing."""
    return [None if pd.isna(value) else value for value in frame[name]]


@pytest.fixture(scope="module")
def scout(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Scout, normalised into a cache of this test run."""
    return fetch_dataset("scout", mirror=mirror, cache=tmp_path_factory.mktemp("scout"))


class TestAnEpisode:
    def test_every_column_by_hand(self) -> None:
        rows = play("cda", workload="one")
        assert list(rows)[: len(COLUMNS)] == list(COLUMNS)
        assert column(rows, "strategy") == ["script"] * 4
        assert column(rows, "workload") == ["one"] * 4
        assert column(rows, "step") == [0, 1, 2, 3]
        assert column(rows, "instance_type") == [None, "c", "d", "a"]
        assert column(rows, "node_count") == [None, 2, 1, 1]
        assert column(rows, "status") == [None, "failed", "completed", "completed"]
        assert column(rows, "runtime_s") == [None, 10.0, 300.0, 100.0]
        assert column(rows, "cost_usd") == [None, *(pytest.approx(usd) for usd in (0.2, 1.5, 1.0))]
        assert column(rows, "incumbent_value") == [None, None, pytest.approx(1.5), pytest.approx(1.0)]
        assert column(rows, "normalised_incumbent") == [None, None, pytest.approx(1.875), pytest.approx(1.25)]
        # After the failed run alone, random prefers anything that did not fail; true values are 1.25, 1.25 and 1.875.
        assert column(rows, "recommended_instance_type")[0] is None
        assert column(rows, "recommended_instance_type")[1] in "abd"
        assert column(rows, "recommended_instance_type")[2:] == ["d", "a"]
        assert column(rows, "recommended_node_count")[2:] == [1, 1]
        assert column(rows, "normalised_recommendation")[2:] == [pytest.approx(1.875), pytest.approx(1.25)]
        assert rows["search_cost_usd"].tolist() == pytest.approx([0.0, 0.2, 1.7, 2.7])
        assert rows["stopped"].tolist() == [False, False, False, True]
        assert rows["ask_seconds"][0] == 0
        assert (rows["ask_seconds"][1:] > 0).all()

    def test_a_run_costs_what_was_billed_and_a_stopped_one_its_time(self) -> None:
        rows = play("cd", workload="two")
        assert column(rows, "cost_usd") == [None, 1.25, pytest.approx(2.5)]
        assert column(rows, "status") == [None, "completed", "timed_out"]
        assert column(rows, "normalised_incumbent") == [None, 1.0, 1.0]

    def test_the_recommendation_is_worth_the_mean_of_its_runs_and_the_incumbent_the_best_of_them(self) -> None:
        rows = play("bb", workload="one")
        assert sorted(column(rows, "runtime_s")[1:]) == [40.0, 60.0]
        assert column(rows, "normalised_recommendation")[1:] == [pytest.approx(1.25)] * 2
        assert column(rows, "normalised_incumbent")[2] == pytest.approx(1.0)

    def test_repetitions_come_once_each_in_an_order_drawn_by_seed_then_again(self) -> None:
        firsts = set()
        for seed in range(8):
            runtimes = column(play("bbbb", seed=seed), "runtime_s")[1:]
            assert sorted(runtimes[:2]) == [40.0, 60.0]
            assert set(runtimes) == {40.0, 60.0}
            firsts.add(runtimes[0])
        assert firsts == {40.0, 60.0}
        assert column(play("bbbb", seed=3), "runtime_s") == column(play("bbbb", seed=3), "runtime_s")

    def test_objective_runtime_compares_seconds_and_still_counts_money(self) -> None:
        rows = play("ab", workload="two", objective="runtime")
        assert column(rows, "incumbent_value") == [None, 200.0, 80.0]
        assert column(rows, "normalised_incumbent") == [None, 2.5, 1.0]
        assert rows["search_cost_usd"].tolist() == pytest.approx([0.0, 2.0, 3.6])

    def test_it_ends_after_the_steps_asked_for_without_having_stopped(self) -> None:
        rows = play("abd", steps=2)
        assert rows["step"].tolist() == [0, 1, 2]
        assert not rows["stopped"].any()

    def test_a_strategy_that_measures_nothing_stops_before_any_run(self) -> None:
        rows = pd.DataFrame(episode("best-fixed", strategy("best-fixed"), world(), seed=0, steps=5))
        assert rows["step"].tolist() == [0]
        assert rows["stopped"].tolist() == [True]
        # b and c are level for the archive (80 s and 90 s at the same price): b, whose true value here is 1.00 USD.
        assert column(rows, "recommended_instance_type") == ["b"]
        assert column(rows, "normalised_recommendation") == [pytest.approx(1.25)]
        assert rows["search_cost_usd"].tolist() == [0.0]

    def test_a_strategy_without_evidence_measures_each_candidate_once_at_random_and_recommends_nothing(self) -> None:
        rows = pd.DataFrame(episode("mute", Mute(), world(), seed=4, steps=9))
        assert sorted(column(rows, "instance_type")[1:]) == ["a", "b", "c", "d"]
        assert rows["stopped"].tolist() == [False] * 4 + [True]
        assert column(rows, "recommended_instance_type") == [None] * 5
        assert column(rows, "normalised_recommendation") == [None] * 5
        orders = {
            tuple(pd.DataFrame(episode("m", Mute(), world(), seed=s, steps=1))["instance_type"]) for s in range(30)
        }
        assert len(orders) == 4, "every candidate may come first"

    @pytest.mark.parametrize(("kind", "nodes"), [("z", 1), ("a", 7)])
    def test_proposing_what_is_no_candidate_is_an_error_that_says_where(self, kind: str, nodes: int) -> None:
        with pytest.raises(RecommenderError, match=f"proposed {kind} x{nodes}, which is not among the 4") as caught:
            episode("bad", Scripted((kind,), nodes), world(), seed=3, steps=2)
        assert "bad was replayed on one, seed 3" in caught.value.__notes__[0]

    def test_a_world_is_the_same_in_another_process(self) -> None:
        here = world(deadline_quantile=0.5)
        there = pickle.loads(pickle.dumps(here))
        a, b = (
            pd.DataFrame(episode("random", strategy("random"), w, seed=5, steps=4)).drop(columns="ask_seconds")
            for w in (here, there)
        )
        pd.testing.assert_frame_equal(a, b)
        assert there.problem.catalogue is here.problem.catalogue
        assert len(pickle.dumps(here)) < 100_000, "the catalogue is not sent along"


class TestADeadline:
    """Completed runtimes of one: 40, 60, 100, 300 s. The median is 80 s, the 0.2-quantile 52 s, the 0.1-quantile 46 s."""

    def test_is_the_quantile_of_the_completed_runtimes(self) -> None:
        assert world(deadline_quantile=0.5).problem.deadline_s == 80.0
        assert world("two", deadline_quantile=1.0).problem.deadline_s == 200.0

    def test_a_late_run_is_no_incumbent_and_a_late_recommendation_is_empty(self) -> None:
        rows = play("adb", deadline_quantile=0.5)
        assert column(rows, "incumbent_value")[:3] == [None] * 3
        assert column(rows, "incumbent_value")[3] in (pytest.approx(0.8), pytest.approx(1.2))
        assert column(rows, "normalised_recommendation")[1:3] == [None, None], "a and d are late: nothing is feasible"

    def test_the_mean_runtime_of_the_recommended_must_meet_it(self) -> None:
        met, missed = (world(deadline_quantile=q) for q in (0.2, 0.1))
        assert [w.problem.deadline_s for w in (met, missed)] == [pytest.approx(52.0), pytest.approx(46.0)]
        assert met.truth[1] == pytest.approx(1.0), "40 and 60 s are 50 s on average"
        assert np.isnan(missed.truth).all()
        assert missed.optimum == pytest.approx(0.8), "one of the two runs was in time, and counts as an incumbent"

    def test_the_optimum_is_the_best_run_that_meets_it(self) -> None:
        assert world("two", deadline_quantile=0.0).optimum == pytest.approx(1.6), "80 s; the cheaper one takes 90 s"
        assert world("two").optimum == 1.25


class TestTheEnvironment:
    def test_candidates_without_a_recorded_run_are_left_out_and_counted(self) -> None:
        frame = table()
        without = frame[(frame["workload"] == "two") | (frame["instance_type"] != "d")]
        here = world(runs=without)
        assert here.problem.configurations["instance_type"].tolist() == ["a", "b", "c"]
        assert here.left_out == {"candidates were left out: the workload has no recorded run of them": 1}

    def test_candidates_without_a_price_are_left_out_and_counted(self) -> None:
        here = world(candidates=CANDIDATES.assign(usd_per_hour=[36.0, np.nan, 36.0, 18.0]))
        assert here.problem.configurations["instance_type"].tolist() == ["a", "c", "d"]
        assert here.left_out["candidates were left out: they have no price"] == 1
        assert here.optimum == pytest.approx(1.0), "b is not among what can be found"

    def test_by_runtime_a_candidate_without_a_price_is_found_at_a_cost_that_is_not_known(self) -> None:
        here = world(candidates=CANDIDATES.assign(usd_per_hour=[36.0, np.nan, 36.0, 18.0]), objective="runtime")
        assert here.problem.configurations["instance_type"].tolist() == ["a", "b", "c", "d"]
        assert (here.optimum, here.left_out) == (40.0, {})
        rows = episode("script", Scripted(("a", "b", "a")), here, seed=0, steps=3)
        assert [row["search_cost_usd"] for row in rows] == [0.0, 1.0, None, None], "never as if it were free"
        assert [row["cost_usd"] for row in rows] == [None, 1.0, None, 1.0]
        assert rows[2]["recommended_instance_type"] == "b"

    def test_a_type_of_the_catalogue_without_a_price_in_the_region_is_not_sold_there(self) -> None:
        frame = table(("one", "f2.48xlarge", 1, 1.0, "completed", None))
        more = pd.DataFrame({"instance_type": ["f2.48xlarge"], "node_count": [1]})
        assert "f2.48xlarge" in load_catalogue().types.index
        here = world(runs=frame, candidates=pd.concat([CANDIDATES, more]), objective="runtime", region="eu-west-1")
        assert here.left_out["candidates were left out: they have no price"] == 1

    def test_without_any_price_it_says_what_to_give(self) -> None:
        with pytest.raises(InputError, match=r"4 were run; give a candidates table with usd_per_hour"):
            world(candidates=CANDIDATES.drop(columns="usd_per_hour"))

    def test_without_a_completed_run_there_is_nothing_to_find(self) -> None:
        with pytest.raises(InputError, match="no recorded run of bad on a candidate completed"):
            world("bad", runs=table(("bad", "a", 1, 5.0, "failed", None)))

    def test_a_free_run_cannot_be_an_optimum(self) -> None:
        with pytest.raises(InputError, match="cost 0 USD"):
            world("free", runs=table(("free", "a", 1, 5.0, "completed", 0.0)))

    @pytest.mark.parametrize(("group_by", "archive"), [("application", {"two"}), ("workload", {"two", "sister"})])
    def test_runs_of_the_same_application_are_kept_out_of_the_archive(self, group_by: Any, archive: set[str]) -> None:
        frame = table(("sister", "a", 1, 90.0, "completed", None))
        frame["application"] = np.where(frame["workload"] == "two", "y", "x")
        here = world(runs=frame, group_by=group_by)
        assert here.problem.archive is not None
        assert set(here.problem.archive.workloads) == archive

    def test_an_archive_of_nothing_leaves_the_archive_strategies_without_an_answer(self) -> None:
        frame = table()
        rows = episode(
            "column-mean", strategy("column-mean"), world(runs=frame[frame["workload"] == "one"]), seed=0, steps=2
        )
        assert [row["recommended_instance_type"] for row in rows] == [None] * 3
        assert [row["instance_type"] is not None for row in rows] == [False, True, True]

    def test_only_runs_at_the_largest_input_and_on_whole_machines_are_looked_up(self) -> None:
        frame = table(("one", "a", 1, 7.0, "completed", None), ("one", "a", 1, 300.0, "completed", None))
        frame["input.size_gib"] = [*[8.0] * 9, 1.0, 8.0]
        frame["vcpus"] = [*[np.nan] * 10, 1.0]
        here = world(runs=frame, candidates=CANDIDATES.assign(vcpus=4.0))
        assert len(here.recorded) == 5
        assert here.problem.inputs == {"input.size_gib": 8.0}
        assert list(here.left_out.values()) == [1, 1]

    def test_parameters_are_part_of_the_configuration(self) -> None:
        runs = table().assign(**{"param.batch": 32.0})
        runs = pd.concat(
            [runs, runs.assign(**{"param.batch": 64.0}, runtime_s=runs["runtime_s"] * 2)], ignore_index=True
        )
        with pytest.raises(InputError, match=r"one have param\.batch"):
            world(runs=runs)
        both = pd.concat([CANDIDATES.assign(**{"param.batch": b}) for b in (32.0, 64.0)], ignore_index=True)
        here = world(runs=runs, candidates=both)
        assert len(here.rows) == 8
        rows = pd.DataFrame(episode("random", strategy("random"), here, seed=1, steps=3))
        assert list(rows)[len(COLUMNS) :] == ["param.batch", "recommended_param.batch"]
        assert column(rows, "param.batch")[0] is None
        assert set(rows["param.batch"][1:]) <= {32.0, 64.0}
        assert set(rows["recommended_param.batch"]) <= {32.0, 64.0}

    def test_the_order_of_rows_is_irrelevant(self) -> None:
        shuffled = table().sample(frac=1, random_state=3)
        a, b = (
            episode("random", strategy("random"), world(runs=frame), seed=2, steps=4) for frame in (table(), shuffled)
        )
        assert [{**row, "ask_seconds": 0} for row in a] == [{**row, "ask_seconds": 0} for row in b]

    def test_without_a_candidates_table_recorded_types_have_the_catalogues_price_and_minimum(self) -> None:
        frame = table().replace(
            {"instance_type": {"a": "m5.large", "b": "m5.xlarge", "c": "m5.2xlarge", "d": "c5.large"}}
        )
        runs = Runs.from_frame(frame)
        here = environment(runs, "one", candidates=recorded_configurations(runs), region="us-east-1")
        large = here.recorded.frame["instance_type"] == "m5.large"
        assert here.cost_usd[large] == pytest.approx(0.096 * 100 / 3600)
        quick = here.recorded.frame["runtime_s"] == 10.0
        price = here.problem.catalogue.prices.set_index(["instance_type", "region"])["usd_per_hour"]
        assert here.cost_usd[quick] == pytest.approx(2 * price["m5.2xlarge", "us-east-1"] * 60 / 3600), "60 s at least"

    def test_another_way_to_pay_scales_what_was_not_billed(self) -> None:
        reserved = BY_NAME["reserved-3y-all-upfront"]
        frame = table().replace(
            {"instance_type": {"a": "m5.large", "b": "m5.xlarge", "c": "m5.2xlarge", "d": "c5.large"}}
        )
        runs = Runs.from_frame(frame)
        here = environment(runs, "two", candidates=recorded_configurations(runs), purchase=reserved)
        assert here.problem.options == (reserved,)
        assert here.cost_usd[here.recorded.frame["instance_type"] == "m5.2xlarge"] == 1.25
        # A commitment is paid around the clock: 730 h at 0.63 x 0.68 x 0.8704 of 0.096 USD, over 30 runs a month.
        expected = 0.096 * 0.63 * 0.68 * 0.8704 * 730 / 30
        assert here.cost_usd[here.recorded.frame["instance_type"] == "m5.large"] == pytest.approx(expected, rel=1e-3)


class TestRandomOnScout:
    """n of N configurations without replacement: P(the best is the k-th best) = C(N − k, n − 1) / C(N, n)."""

    WORKLOAD, RUNS, SEEDS = "terasort_huge_hadoop", 4, 60

    def test_finds_as_good_an_incumbent_as_order_statistics_say(self, scout: Dataset) -> None:
        assert scout.runs is not None
        assert scout.candidates is not None
        here = environment(scout.runs, self.WORKLOAD, candidates=scout.candidates)
        value = np.sort(here.value[here.feasible]) / here.optimum
        size, done = len(here.recorded), len(value)
        assert (size, len(here.rows)) == (69, 69)
        ways = np.array([math.comb(size - k, self.RUNS - 1) for k in range(1, done + 1)]) / math.comb(size, self.RUNS)
        none = math.comb(size - done, self.RUNS) / math.comb(size, self.RUNS)
        assert ways.sum() + none == pytest.approx(1.0)
        mean = float((value * ways).sum() / ways.sum())
        deviation = math.sqrt(float(((value - mean) ** 2 * ways).sum() / ways.sum()) / self.SEEDS)
        found = []
        for seed in range(self.SEEDS):
            last = episode("random", strategy("random"), here, seed=seed, steps=self.RUNS)[-1]
            assert last["step"] == self.RUNS
            if last["normalised_incumbent"] is not None:
                assert last["normalised_recommendation"] == pytest.approx(last["normalised_incumbent"])
                found.append(last["normalised_incumbent"])
        assert len(found) >= self.SEEDS * (1 - none) - 4
        assert np.mean(found) == pytest.approx(mean, abs=4 * deviation)

    def test_every_optimum_is_the_least_of_the_tables_completed_runs(self, scout: Dataset) -> None:
        assert scout.runs is not None
        assert scout.candidates is not None
        price = scout.candidates.set_index(["instance_type", "node_count"])["usd_per_hour"]
        for workload in scout.runs.workloads[::4]:
            frame = scout.runs.of(workload).completed
            usd = price.loc[pd.MultiIndex.from_frame(frame[["instance_type", "node_count"]])].to_numpy()
            least = (usd * frame["node_count"] * frame["runtime_s"] / 3600).min()
            assert environment(scout.runs, workload, candidates=scout.candidates).optimum == pytest.approx(least)
