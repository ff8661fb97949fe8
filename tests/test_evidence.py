"""What runs say beyond their own configuration and input, and how candidates follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recommender.catalogue import TypeFilter, load_catalogue
from recommender.errors import InfeasibleError, InputError, UnknownNameError
from recommender.inputs import scale_column
from recommender.models import EVIDENCE, measured
from recommender.models.ernest import Ernest
from recommender.models.memory import MemoryLimit
from recommender.models.points import run_points
from recommender.models.yardsticks import ColumnMean, MeasuredOnly, additive
from recommender.problem import Problem, build_problem
from recommender.recommendation import Recommendation
from recommender.runs import Runs
from recommender.strategies import strategy


def run(kind: str, nodes: int = 1, seconds: float = 100.0, status: str = "completed", **more: Any) -> dict[str, Any]:
    """One run of workload w."""
    return {
        "workload": "w",
        "instance_type": kind,
        "node_count": nodes,
        "runtime_s": seconds,
        "status": status,
        **{name.replace("__", "."): value for name, value in more.items()},
    }


def ask(rows: list[dict[str, Any]], **options: Any) -> tuple[Problem, Runs]:
    """The problem of those runs."""
    return build_problem(pd.DataFrame(rows), **options)


POOL = pd.DataFrame(
    {"instance_type": ["a", "b"], "node_count": [1, 1], "usd_per_hour": [1.0, 2.0], "vcpus": [4.0, 8.0]}
)


class TestFailuresAtOtherInputs:
    def test_a_failure_at_a_smaller_input_excludes_at_the_larger(self) -> None:
        rows = [run("a", status="failed", input__scale=0.5), run("b", input__scale=1.0)]
        answer = strategy("random").recommend(*ask(rows, candidates=POOL, inputs={"scale": 1.0}))
        assert [row.instance_type for row in answer.rows] == ["b"]
        assert [(e.reason, e.count) for e in answer.excluded] == [("failed", 1)]

    def test_a_failure_at_a_larger_input_does_not(self) -> None:
        rows = [run("a", status="failed", input__scale=2.0), run("a", input__scale=1.0)]
        seen = measured(*ask(rows, candidates=POOL, inputs={"scale": 1.0}))
        assert seen.lost.tolist() == [0, 0]

    def test_what_completed_a_larger_input_since_is_not_excluded_but_may_fail(self) -> None:
        rows = [
            run("a", status="failed", input__scale=0.5),
            run("a", input__scale=0.7),
            run("a", 1, 90.0, input__scale=1.0),
        ]
        answer = strategy("random").recommend(*ask(rows, candidates=POOL, inputs={"scale": 1.0}))
        first = answer.rows[0]
        # (2 survived + 1)/(2 + 1 lost + 1)
        assert "1 run failed or was stopped: P(completing) 75%" in first.reason
        assert first.cost_usd is not None
        assert f"${first.cost_usd.p50 / 0.75:.4f}"[:6] in first.reason

    def test_a_time_out_at_a_smaller_input_bounds_the_larger(self) -> None:
        rows = [
            *(run("a", 1, 20.0 * s, input__scale=s) for s in (0.1, 0.2, 0.3, 0.4)),
            run("b", 1, 5000.0, "timed_out", input__scale=0.5),
            run("b", 1, 6000.0, input__scale=1.0),
        ]
        prediction = Ernest().predict(*ask(rows, candidates=POOL, inputs={"scale": 1.0}))
        assert np.exp(prediction.log_runtime[1]) >= 5000.0
        assert prediction.lost is not None
        assert prediction.lost.tolist() == [0, 1]


class TestTheArchive:
    def test_a_stopped_run_of_the_archive_makes_its_configuration_slow(self) -> None:
        y = np.array([[2.0, 1.0, np.nan], [4.0, 3.0, np.nan], [3.0, 2.0, 2.5]])
        bound = np.full_like(y, -np.inf)
        _, without, _ = additive(y)
        bound[0, 2] = 6.0
        level, column, _ = additive(y, bound, sweeps=5000)
        assert column[2] > without[2] + 0.5
        assert level[0] + column[2] <= 6.0 + 1e-6, "raised towards the bound, by least squares"
        bound[0, 2] = -3.0
        low = additive(y, bound, sweeps=5000)[1]
        assert np.diff(low) == pytest.approx(np.diff(without), abs=1e-4), "a bound that the fit exceeds says nothing"

    def test_levels_are_of_a_workload_at_one_input(self) -> None:
        archive = pd.DataFrame(
            [
                {**run(kind, 1, t * s, input__size=s), "workload": w}
                for w, t0 in (("x", 10.0), ("y", 30.0))
                for kind, t in (("a", t0), ("b", t0 / 2))
                for s in ((1.0, 100.0) if kind == "a" else (100.0, 1.0))
            ]
        )
        lone = archive[
            ~((archive["instance_type"] == "b") & (archive["input.size"] == 1.0) & (archive["workload"] == "x"))
        ]
        prediction = ColumnMean().predict(*build_problem(None, workload="w", archive=[lone], candidates=POOL))
        assert prediction.log_runtime[1] - prediction.log_runtime[0] == pytest.approx(-np.log(2), abs=1e-6)

    def test_the_row_says_what_its_column_rests_on(self) -> None:
        archive = pd.DataFrame(
            [
                {**run("a"), "workload": "x"},
                {**run("b"), "workload": "x"},
                {**run("a"), "workload": "y"},
                {**run("b", 1, 7200.0, "timed_out"), "workload": "y"},
            ]
        )
        answer = strategy("column-mean").recommend(
            *build_problem(None, workload="w", archive=[archive], candidates=POOL)
        )
        reasons = {row.instance_type: row.reason for row in answer.rows}
        assert "mean of 2 other workloads" in reasons["a"]
        assert (
            "mean of 1 other workload, and 1 stopped at a time limit; 1 of their 2 runs did not complete"
            in reasons["b"]
        )


class TestMemoryOfClusters:
    def test_a_node_needs_memory_for_its_share_of_the_input(self) -> None:
        peaks = {n: 1.0 + 32.0 / n for n in (2, 4, 8)}
        rows = [run("m5.xlarge", n, 100.0 / n, metric__peak_memory_gib=g) for n, g in peaks.items()]
        problem, mine = ask(rows, max_nodes=16, types=TypeFilter(families=("m5",)))
        limit = MemoryLimit.of(problem, mine)
        need = limit.share * problem.configurations["memory_gib"].to_numpy()
        nodes = problem.configurations["node_count"].to_numpy()
        for n in (1, 2, 4, 8):
            assert need[nodes == n] == pytest.approx((1.0 + 32.0 / n) * 1.15 + 0.5)
        assert need[nodes == 16] == pytest.approx(need[nodes == 8][0]), "nothing says that it divides further"

    def test_one_machine_says_nothing_of_dividing(self) -> None:
        problem, mine = ask([run("m5.xlarge", metric__peak_memory_gib=10.0)], max_nodes=4)
        need = MemoryLimit.of(problem, mine).share * problem.configurations["memory_gib"].to_numpy()
        assert need == pytest.approx(np.full(len(need), 12.0))


class TestMachinesThatWereMeasured:
    @pytest.mark.parametrize("kind", ["g5.xlarge", "t3.large", "m3.xlarge"])
    def test_are_candidates_whatever_is_left_out_by_default(self, kind: str) -> None:
        problem, _ = ask([run(kind)])
        assert kind in set(problem.configurations["instance_type"])

    def test_on_accelerators_leave_machines_without_out(self) -> None:
        problem, _ = ask([run("g5.xlarge")])
        models = load_catalogue().types.loc[problem.configurations["instance_type"], "gpu_model"].unique()
        assert list(models) == list(load_catalogue().types.loc[["g5.xlarge"], "gpu_model"])
        assert {e.reason: e.sentence for e in problem.candidates.exclusions}["accelerator"].count("or none")

    def test_the_architecture_asked_for_is_not_said_to_be_measured(self) -> None:
        problem, _ = ask([run("m5.large")], architecture="arm64")
        sentence = {e.reason: e.sentence for e in problem.candidates.exclusions}["architecture"]
        assert "as was asked" in sentence
        assert "measured" not in sentence


class TestUnknownMachines:
    def test_one_candidate_without_vcpus_is_excluded_and_the_others_keep_theirs(self) -> None:
        rows = [run("a", n, 100.0 / n) for n in (1, 2, 4)]
        pool = pd.concat([POOL, POOL.assign(node_count=2), pd.DataFrame([{**POOL.iloc[0], "instance_type": "odd"}])])
        pool.loc[pool["instance_type"] == "odd", "vcpus"] = np.nan
        answer = strategy("ernest").recommend(*ask(rows, candidates=pool))
        assert {row.instance_type for row in answer.rows} == {"a", "b"}
        assert {e.reason: e.count for e in answer.excluded} == {"no_evidence": 1}

    def test_a_family_without_a_speed_figure_borrows_that_of_its_processor(self) -> None:
        catalogue = load_catalogue()
        rated = catalogue.rated
        assert bool(rated.loc["m5n", "borrowed"])
        assert "m5n" not in catalogue.speed.index
        cpu = catalogue.types.drop_duplicates("family").set_index("family")["cpu_model"]
        same = [f for f in catalogue.speed.index if cpu[f] == cpu["m5n"]]
        assert rated.loc["m5n", "coremark_per_vcpu"] == catalogue.speed.loc[same, "coremark_per_vcpu"].median()


class TestParameters:
    ROWS = tuple(
        run("a", n, base / n + 5, param__batch=batch) for batch, base in ((32, 100.0), (64, 50.0)) for n in (1, 2, 4)
    )
    TABLE = pd.concat([POOL.head(1).assign(node_count=n) for n in (1, 2, 4, 8)], ignore_index=True)

    def test_numbers_match_whether_a_table_holds_them_as_numbers_or_text(self) -> None:
        pool = pd.concat([self.TABLE.assign(**{"param.batch": b}) for b in ("32", "64", "auto")], ignore_index=True)
        problem, mine = ask(list(self.ROWS), candidates=pool)
        assert measured(problem, mine).count.sum() == len(self.ROWS)

    def test_candidates_without_the_parameter_get_those_that_were_run(self) -> None:
        problem, mine = ask(list(self.ROWS), candidates=self.TABLE)
        assert len(problem.configurations) == 8
        prediction = Ernest().predict(problem, mine)
        times = pd.Series(
            np.exp(prediction.log_runtime),
            pd.MultiIndex.from_frame(problem.configurations[["node_count", "param.batch"]]),
        )
        assert times[1, 32] == pytest.approx(105.0, rel=0.02)
        assert times[1, 64] == pytest.approx(55.0, rel=0.02), "not the average of both"
        answer = strategy("ernest").recommend(problem, mine)
        assert answer.rows[0].params == {"param.batch": 64}
        assert "batch=64" in answer.rows[0].label
        assert "64.0" not in answer.rows[0].label

    def test_a_value_never_run_is_assumed(self) -> None:
        pool = pd.concat([self.TABLE.assign(**{"param.batch": b}) for b in (32, 999)], ignore_index=True)
        problem, mine = ask(list(self.ROWS), candidates=pool)
        prediction = Ernest().predict(problem, mine)
        new = (problem.configurations["param.batch"] == 999).to_numpy()
        assert {EVIDENCE[e] for e in prediction.evidence[new]} == {"assumed"}
        assert prediction.spread[new].min() > 1.0 > prediction.spread[~new].max()

    def test_too_many_combinations_are_refused_with_the_way_out(self) -> None:
        rows = [run("a", param__x=float(i)) for i in range(201)]
        with pytest.raises(InputError, match="--candidates"):
            ask(rows, candidates=self.TABLE)


class TestInputs:
    def test_one_that_was_never_varied_widens_the_answer_and_is_said(self) -> None:
        rows = [run("a", n, 100.0 / n, input__size=10.0, input__k=3.0) for n in (1, 2, 4)]
        near = Ernest().predict(*ask(rows, candidates=POOL))
        far = Ernest().predict(*ask(rows, candidates=POOL, inputs={"k": 900.0}))
        assert far.spread[1] == pytest.approx(np.hypot(near.spread[1], np.log(300) / 2))
        assert any("input.k = 900" in w for w in far.warnings)
        assert EVIDENCE[far.evidence[1]] == "assumed"

    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            (["input.k", "input.scale", "input.size"], "input.scale"),
            (["input.batch_size", "input.data_size"], "input.data_size"),
            (["input.lines", "input.size_gib"], "input.size_gib"),
            (["input.k", "input.rows"], "input.rows"),
            (["input.z", "input.a"], "input.a"),
            ([], None),
        ],
    )
    def test_the_amount_of_work_does_not_depend_on_the_order_of_columns(
        self, columns: list[str], expected: str | None
    ) -> None:
        assert scale_column(columns) == expected == scale_column(columns[::-1])

    def test_the_largest_input_is_one_that_was_completed(self) -> None:
        problem, _ = ask([run("a", input__size=5.0), run("a", status="failed", input__size=50.0)], candidates=POOL)
        assert problem.inputs == {"input.size": 5.0}

    def test_scales_that_are_all_zero_are_refused(self) -> None:
        rows = [run("a", n, 100.0 / n, input__scale=0.0) for n in (1, 2, 4)]
        with pytest.raises(Exception, match="every run"):
            Ernest().predict(*ask(rows, candidates=POOL))


class TestVcpusOfARun:
    def test_more_than_a_node_has_are_those_of_the_cluster(self) -> None:
        total = ask([run("m5.xlarge", 4, vcpus=16)])
        each = ask([run("m5.xlarge", 4, vcpus=4)])
        assert run_points(*total, []).points.vcpus == run_points(*each, []).points.vcpus == 4.0
        assert measured(*total).count.sum() == measured(*each).count.sum() == 1

    def test_more_than_the_cluster_has_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"m5\.xlarge x4 is said to have used 17 vCPUs, but 4 of them have 16"):
            ask([run("m5.xlarge", 4, vcpus=17)])


class TestFiltersOfACandidatesTable:
    TABLE = pd.DataFrame(
        {
            "instance_type": ["m5.large", "c5.large", "mine"],
            "node_count": 1,
            "usd_per_hour": [np.nan, np.nan, 0.01],
            "vcpus": [np.nan, np.nan, 64.0],
        }
    )

    def types(self, **options: Any) -> list[str]:
        problem, _ = build_problem(None, candidates=self.TABLE, **options)
        rows = problem.candidates.offers.configuration
        return sorted(set(problem.configurations["instance_type"].to_numpy()[rows]))

    def test_apply_by_the_catalogues_facts_and_the_tables_own(self) -> None:
        assert self.types(types=TypeFilter(min_vcpus=4)) == ["mine"]
        assert self.types(types=TypeFilter(families=("m5",))) == ["m5.large"]
        assert self.types(types=TypeFilter(max_usd_per_hour=0.09)) == ["c5.large", "mine"]
        assert self.types(types=TypeFilter(instance_types=("mine",))) == ["mine"]
        with pytest.raises(UnknownNameError, match="did you mean 'mine'"):
            self.types(types=TypeFilter(instance_types=("minee",)))
        with pytest.raises(InputError, match="leaves no candidate"):
            self.types(types=TypeFilter(min_vcpus=1000))

    def test_every_region_prices_what_the_table_leaves_open(self) -> None:
        problem, _ = build_problem(None, candidates=self.TABLE, regions=["us-east-1", "eu-west-1"])
        offers = problem.candidates.offers
        places = [
            (problem.configurations["instance_type"][c], offers.regions[r])
            for c, r in zip(offers.configuration, offers.region, strict=True)
        ]
        expected = [(kind, region) for kind in ("c5.large", "m5.large") for region in ("us-east-1", "eu-west-1")]
        assert sorted(places) == sorted([*expected, ("mine", "")])
        catalogue = load_catalogue()
        for c, r, usd in zip(offers.configuration, offers.region, offers.usd_per_hour, strict=True):
            if offers.regions[r]:
                assert usd == catalogue.price_of(problem.configurations["instance_type"][c], offers.regions[r])


class TestTheHighestPrice:
    def test_is_held_against_the_users_own_price(self, tmp_path: Path) -> None:
        prices = pd.DataFrame(
            {
                "instance_type": ["m5.large"],
                "region": ["us-east-1"],
                "purchase_option": ["on-demand"],
                "usd_per_hour": [0.01],
            }
        )
        problem, _ = build_problem(None, prices=prices, types=TypeFilter(max_usd_per_hour=0.0101, families=("m5",)))
        assert set(problem.configurations["instance_type"]) == {"m5.large"}

    def test_of_another_region_does_not_count(self) -> None:
        catalogue = load_catalogue()
        here, there = catalogue.price_of("m5.large", "sa-east-1"), catalogue.price_of("m5.large", "us-east-1")
        assert here is not None
        assert there is not None
        between = TypeFilter(max_usd_per_hour=(here + there) / 2, families=("m5",), max_vcpus=2)
        with pytest.raises(InputError, match="no instance type is left"):
            build_problem(None, types=between, regions=["sa-east-1"])

    def test_filters_that_leave_nothing_say_which_one_to_drop(self) -> None:
        with pytest.raises(InputError, match=r"without min vcpus 500 \d+ types would be left, at most \d+"):
            build_problem(None, types=TypeFilter(min_vcpus=500, families=("m5",)))


class TestWhatWouldHelp:
    def test_an_answer_too_unsure_of_completing_hints_at_the_confidence(self) -> None:
        rows = [run("a"), run("a"), run("a", status="failed")]
        with pytest.raises(InfeasibleError, match=r"--confidence 0\.7"):
            strategy("random").recommend(*ask(rows, candidates=POOL.head(1), deadline_s=1e6))

    def test_before_any_run_auto_proposes_a_cheap_one(self) -> None:
        problem, mine = build_problem(None, candidates=POOL)
        proposed = strategy("auto").suggest(problem, mine)
        assert proposed is not None
        assert proposed.instance_type == "a"
        answer: Recommendation = strategy("auto").recommend(problem, mine)
        assert answer.next_run == proposed


def test_repetitions_that_disagree_widen_what_was_measured() -> None:
    def spread(*seconds: float) -> float:
        problem, mine = ask([run("a", 1, t) for t in seconds], candidates=POOL)
        return float(MeasuredOnly().predict(problem, mine).spread[0])

    assert spread(60.0, 100.0, 160.0) > 0.45, "the sample's own standard deviation is 0.49, of two degrees of freedom"
    assert spread(100.0) > 0.1, "nothing repeated: not just the prior"
    assert spread(*np.linspace(100.0, 101.0, 40)) < 0.02
