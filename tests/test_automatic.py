"""`auto`: its table row by row, what it weighs on the archive, and what it does with bad evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from strategy_contract import Case, plain, runs_of, synthetic

from recommender.automatic import SURE, Auto
from recommender.errors import InfeasibleError, InsufficientEvidenceError
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import auto, strategy

COLUMNS = ["workload", "instance_type", "node_count", "runtime_s", "status"]


@cache
def case() -> Case:
    """The contract's synthetic table, made once."""
    return synthetic()


@cache
def asked(nodes: tuple[int, ...], archive: bool) -> tuple[Problem, Runs]:
    """The synthetic workload measured on `medium` with these node counts, with or without the other workloads."""
    table = case()
    medium = table.table[table.table["instance_type"] == "medium"].set_index("node_count", drop=False)
    runs = table.runs if archive else table.runs.of(table.workload)
    mine = medium.loc[list(nodes)].reset_index(drop=True)[COLUMNS]
    return Case("auto", runs, table.candidates, table.workload).ask(mine)


def profile(points: int) -> pd.DataFrame:
    """Runs of a local profile at so many (scale, vCPUs), 100 s of work a unit of scale and vCPU."""
    scales = [0.1, 0.2, 0.4, 0.8][:points]
    return pd.DataFrame(
        {
            "workload": case().workload,
            "instance_type": "local",
            "node_count": 1,
            "runtime_s": [10.0 + 3000.0 * s for s in scales],
            "vcpus": 2,
            "cpu_model": "Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz",
            "input.scale": scales,
        }
    )


class TestTheTable:
    @pytest.mark.parametrize(
        ("nodes", "archive", "measures"),
        [
            ((1, 2, 4), False, "prior"),
            ((1, 1, 4), False, "prior"),
            ((), False, "prior"),
            ((1, 2, 4), True, "prior"),
            ((1, 1, 4), True, "prior"),
            ((), True, "prior"),
        ],
    )
    def test_where_candidates_were_or_can_be_measured_prior_searches(
        self, nodes: tuple[int, ...], archive: bool, measures: str
    ) -> None:
        problem, runs = asked(nodes, archive)
        choice = auto().choose(problem, runs)
        assert choice.measures == measures
        if not archive:
            assert (choice.name, choice.considered) == ("prior", ())
        assert str(len(set(nodes))) in choice.why
        answer = auto().recommend(problem, runs)
        chosen = strategy(choice.name).recommend(problem, runs)
        assert (answer.strategy, answer.rows) == (choice.name, chosen.rows)
        assert answer.why == f"auto chose {choice.name}: {choice.why}"
        assert auto().suggest(problem, runs) == strategy("prior").suggest(problem, runs) == answer.next_run

    @pytest.mark.parametrize("points", [3, 4])
    @pytest.mark.parametrize("archive", [True, False])
    def test_a_profile_of_three_points_goes_to_ernest_whatever_the_archive(self, points: int, archive: bool) -> None:
        others = [case().runs.without(case().workload)] if archive else []
        problem, runs = build_problem(
            profile(points), workload=case().workload, archive=others, candidates=case().candidates
        )
        choice = auto().choose(problem, runs)
        assert (choice.name, choice.measures) == ("ernest", "ernest")
        assert f"{points} distinct points" in choice.why
        assert auto().recommend(problem, runs).rows == strategy("ernest").recommend(problem, runs).rows

    def test_a_profile_too_short_is_ranked_by_price_and_asks_for_another_number_of_vcpus(self) -> None:
        problem, runs = build_problem(profile(2), candidates=case().candidates)
        choice = auto().choose(problem, runs)
        assert (choice.name, choice.measures) == ("price-only", "scaling")
        wanted = auto().suggest(problem, runs)
        assert wanted is not None
        assert (wanted.instance_type, wanted.node_count) == ("small", 1)
        assert auto().recommend(problem, runs).next_run == wanted

    def test_a_profile_is_left_for_prior_once_three_candidates_were_measured(self) -> None:
        table = case().table[case().table["status"] == "completed"][COLUMNS].assign(**{"input.scale": 1.0})
        for count, name in ((2, "ernest"), (3, "prior")):
            runs = pd.concat([profile(3), table.iloc[[0, 8, 15][:count]]], ignore_index=True)
            problem, mine = build_problem(runs, candidates=case().candidates, inputs={"scale": 1.0})
            assert auto().choose(problem, mine).name == name

    def test_failed_runs_are_no_points(self) -> None:
        problem, runs = build_problem(profile(3).assign(status="failed"), candidates=case().candidates)
        choice = auto().choose(problem, runs)
        assert (choice.name, choice.measures) == ("prior", "prior")
        assert choice.why.startswith("none of the 3 runs completed")

    def test_an_archive_of_other_machines_is_no_archive(self) -> None:
        frame = case().runs.without(case().workload).frame.assign(instance_type="another")
        other = replace(
            case(), runs=Runs(pd.concat([case().table, frame], ignore_index=True)), workload="job0", built={}
        )
        problem, runs = other.ask(case().start.head(1))
        choice = auto().choose(problem, runs)
        assert (choice.name, choice.considered) == ("prior", ())
        with pytest.raises(
            InsufficientEvidenceError, match="nothing is learnt from the archive: it ran another, and none"
        ):
            strategy("column-mean").recommend(problem, runs)

    @pytest.mark.parametrize("name", ["auto", "prior"])
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"instance_type": "g9.xlarge"}, "it ran g9.xlarge, and none of these types is a candidate"),
            ({"node_count": 77}, "none of its completed runs is of a candidate"),
        ],
    )
    def test_an_archive_of_other_machines_is_said_to_teach_nothing(
        self, name: str, change: dict[str, object], said: str
    ) -> None:
        others = case().runs.without(case().workload).frame.assign(**change)
        problem, runs = build_problem(
            asked((1, 2, 4), False)[1], archive=[Runs.from_frame(others)], candidates=case().candidates
        )
        answer = strategy(name).recommend(problem, runs)
        assert f"nothing is learnt from the archive: {said}" in " ".join(answer.warnings)

    def test_an_archive_of_the_workloads_own_runs_is_said_to_be_none(self) -> None:
        runs = asked((1, 2, 4), False)[1]
        problem, mine = build_problem(runs, archive=[runs], candidates=case().candidates)
        answer = strategy("auto").recommend(problem, mine)
        assert f"the archive holds runs of {case().workload} alone" in " ".join(answer.warnings)
        with pytest.raises(InsufficientEvidenceError, match=f"there are none .those of {case().workload}"):
            strategy("selecta").recommend(problem, mine)


class TestWeighing:
    def test_every_considered_strategy_comes_with_its_regret_and_one_is_chosen(self) -> None:
        answer = auto().recommend(*asked((1, 2, 4), True))
        names = {c.strategy for c in answer.considered}
        assert names == {"prior", "column-mean", "best-fixed", "ernest"}
        regrets = [c.held_out_regret for c in answer.considered]
        assert regrets == sorted(regrets)
        assert all(r >= 0 for r in regrets)
        assert [c.strategy for c in answer.considered if c.chosen] == [answer.strategy]
        assert all(c.strategy in answer.why for c in answer.considered)
        assert plain(answer)["considered"][0].keys() == {"strategy", "held_out_regret", "workloads", "chosen"}

    def test_ernest_is_not_considered_with_fewer_runs_than_it_needs(self) -> None:
        names = {c.strategy for c in auto().choose(*asked((1, 1, 4), True)).considered}
        assert names == {"prior", "column-mean", "best-fixed"}

    def test_what_believes_no_runtime_is_not_considered_where_a_deadline_must_be_met(self) -> None:
        problem, runs = asked((1, 1, 4), True)
        names = {c.strategy for c in auto().choose(replace(problem, deadline_s=4000.0), runs).considered}
        assert names == {"prior", "column-mean"}

    def test_regret_is_looked_up_in_the_held_out_workloads_own_runs(self) -> None:
        """Six workloads whose order is one and the same, none of them told: best-fixed and column-mean are never wrong."""
        found = {c.strategy: c.held_out_regret for c in auto().choose(*_same_order(noise=0.0)).considered}
        assert found["best-fixed"] == pytest.approx(0.0, abs=1e-9)
        assert found["column-mean"] == pytest.approx(0.0, abs=1e-9)

    def test_the_default_is_left_only_for_one_that_is_clearly_ahead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        problem, runs = asked((1, 2), True)
        for gain, chosen in ((0.05, "prior"), (0.5, "best-fixed")):
            wobble = np.array([-0.2, 0.2, -0.1, 0.1])
            made = {"prior": tuple(0.6 + 0.0 * wobble), "best-fixed": tuple(0.6 - gain + wobble)}
            monkeypatch.setattr(Auto, "_regrets", lambda *_, made=made: made)
            # A key of its own: what was weighed is kept.
            choice = Auto(strategy, ("prior", f"best-fixed{gain}")).choose(problem, runs)
            error = wobble.std(ddof=1) / 2.0
            assert (gain > SURE * error) == (chosen == "best-fixed")
            assert choice.name == chosen
            assert ("is ahead by less than 2 standard errors" in choice.why) == (chosen == "prior")

    def test_two_workloads_are_too_few_to_weigh_on(self) -> None:
        few = case().runs.frame[case().runs.frame["workload"].isin(["job0", "job1", "job2"])]
        problem, runs = replace(case(), runs=Runs(few.reset_index(drop=True)), built={}).ask(case().start.head(2))
        choice = auto().choose(problem, runs)
        assert (choice.name, choice.considered) == ("prior", ())
        assert "too few to weigh" in choice.why


def _same_order(noise: float, kinds: int = 6) -> tuple[Problem, Runs]:
    rng = np.random.default_rng(0)
    pool = pd.DataFrame(
        {"instance_type": [f"k{i}" for i in range(kinds)], "node_count": 1, "usd_per_hour": 1.0, "vcpus": 4}
    )
    frame = pd.concat(
        [
            pool[["instance_type", "node_count"]].assign(
                workload=f"w{w}",
                runtime_s=(100.0 + w) * (1.0 + np.arange(kinds)) * np.exp(noise * rng.standard_normal(kinds)),
            )
            for w in range(6)
        ],
        ignore_index=True,
    )
    return build_problem(None, workload="new", archive=[frame], candidates=pool)


class TestBadEvidence:
    """A clear outcome: an answer that says what it rests on, or one sentence that says why there is none."""

    @pytest.mark.parametrize("name", ["auto", "prior"])
    def test_a_constant_archive_leaves_the_order_to_prices(self, name: str) -> None:
        frame = case().runs.frame.assign(runtime_s=100.0, status="completed")
        constant = replace(case(), runs=Runs.from_frame(frame[COLUMNS]), built={})
        for mine in (constant.table.head(0), constant.table.iloc[[3, 9, 20]]):
            answer = strategy(name).recommend(*constant.ask(mine.reset_index(drop=True)))
            assert (answer.rows[0].instance_type, answer.rows[0].node_count) == ("small", 1)
            json.dumps(answer.to_dict(), allow_nan=False)

    @pytest.mark.parametrize("name", ["auto", "prior"])
    def test_a_contradictory_archive_is_answered_from_and_its_weight_falls(self, name: str) -> None:
        """Every configuration at once fast and ten thousand times slower: nothing in it predicts the runs."""
        rng = np.random.default_rng(3)
        frame = case().runs.without("job0").frame[COLUMNS]
        noisy = [frame.assign(runtime_s=10.0 ** rng.uniform(0, 4, len(frame)), status="completed") for _ in range(2)]
        mixed = Runs.from_frame(pd.concat([case().table[COLUMNS], *noisy], ignore_index=True))
        problem, runs = replace(case(), runs=mixed, built={}).ask(case().start)
        answer = strategy(name).recommend(problem, runs)
        alone = case().runs.of("job0")
        cold = strategy("prior").recommend(*replace(case(), runs=alone, built={}).ask(case().start))
        table = case().table.set_index(["instance_type", "node_count"])["runtime_s"]
        price = case().candidates.set_index(["instance_type", "node_count"])["usd_per_hour"]

        def paid(row: object) -> float:
            key = (row.instance_type, row.node_count)  # type: ignore[attr-defined]
            return float(table[key] * price[key] * key[1])

        assert paid(answer.rows[0]) <= 1.1 * paid(cold.rows[0])

    @pytest.mark.parametrize("name", ["auto", "prior"])
    @pytest.mark.parametrize("measured", [True, False])
    def test_a_single_candidate_is_recommended_and_measured_once(self, name: str, measured: bool) -> None:
        one = case().candidates.iloc[[8]].reset_index(drop=True)
        kind, nodes = one["instance_type"][0], int(one["node_count"][0])
        mine = case().table[(case().table["instance_type"] == kind) & (case().table["node_count"] == nodes)]
        mine = (mine if measured else mine.head(0)).reset_index(drop=True)
        problem, runs = case().ask(mine, candidates=one)
        answer = strategy(name).recommend(problem, runs)
        assert [(row.instance_type, row.node_count) for row in answer.rows] == [(kind, nodes)]
        wanted = strategy(name).suggest(problem, runs)
        assert (wanted is None) == measured

    @pytest.mark.parametrize("name", ["auto", "prior"])
    @pytest.mark.parametrize("archive", [True, False])
    def test_where_every_candidate_failed_there_is_no_recommendation_and_nothing_to_measure(
        self, name: str, archive: bool
    ) -> None:
        failed = runs_of(case().table.assign(status="failed", runtime_s=9.0)[COLUMNS]).frame
        rest = case().runs.without("job0").frame if archive else case().table.head(0)
        table = replace(case(), runs=Runs.from_frame(pd.concat([failed, rest[COLUMNS]], ignore_index=True)), built={})
        problem, runs = table.ask(failed)
        with pytest.raises(InfeasibleError, match=r"no candidate meets every constraint.*failed 24 \(every run of 24"):
            strategy(name).recommend(problem, runs)
        assert strategy(name).suggest(problem, runs) is None
