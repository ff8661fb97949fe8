"""What is not believable in an archive is left out before any strategy sees it, and said."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from test_selecta import ask, planted, some

from recommender.composition import evidence
from recommender.explanation import explain
from recommender.models.archive import believable
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import calibrated, strategy

ARCHIVED = (
    *("selecta", "quasar", "neighbours", "paris", "transfer", "prior", "auto", "column-mean", "best-fixed"),
    "selecta+ei",
)
"""Strategies that read an archive."""


def told(factor: float, rows: list[int], **options: object) -> tuple[tuple[Problem, Runs], tuple[Problem, Runs]]:
    """Asked with one workload's times multiplied, and without that workload; some of the archive's runs failed."""
    frame = planted(workloads=20)
    mine = some(frame, "w000", rows).assign(workload="new") if rows else None
    others = frame[frame["workload"] != "w000"].reset_index(drop=True)
    bad, rng = others["workload"] == "w008", np.random.default_rng(0)
    failed = rng.random(len(others)) < np.where(bad, 0.5, 0.1)
    others["status"] = np.where(failed, "failed", "completed")
    poisoned = others.assign(runtime_s=others["runtime_s"].where(~bad, others["runtime_s"] * factor))
    return ask(poisoned, mine, **options), ask(others[~bad], mine, **options)


class TestAPoisonedWorkload:
    @pytest.mark.parametrize("name", ARCHIVED)
    @pytest.mark.parametrize("rows", [[], [2, 11]])
    @pytest.mark.parametrize("objective", ["cost", "runtime"])
    def test_changes_nothing_in_the_answer_and_is_named(self, name: str, rows: list[int], objective: str) -> None:
        with_, without = told(1000.0, rows, objective=objective)
        poisoned, clean = (strategy(name).recommend(*question) for question in (with_, without))
        assert poisoned.rows == clean.rows
        assert poisoned.excluded == clean.excluded
        assert poisoned.next_run == clean.next_run
        assert poisoned.explanation == clean.explanation
        assert (poisoned.why, poisoned.considered) == (clean.why, clean.considered)
        (said,) = set(poisoned.warnings) - set(clean.warnings)
        assert "w008" in said
        assert "left out" in said
        assert strategy(name).suggest(*with_) == strategy(name).suggest(*without)

    def test_does_not_widen_calibrated_intervals(self) -> None:
        with_, without = told(1000.0, [2, 11])
        poisoned, clean = (calibrated(strategy("column-mean")).recommend(*q) for q in (with_, without))
        assert poisoned.rows == clean.rows

    @pytest.mark.parametrize("name", ["auto", "column-mean", "selecta"])
    def test_changes_nothing_in_an_explanation_and_is_named(self, name: str) -> None:
        poisoned, clean = (
            explain(*question, instance_type="large", node_count=2, strategy_name=name).to_dict()
            for question in told(1000.0, [2, 11])
        )
        assert any("w008" in said for said in poisoned.pop("warnings"))
        clean.pop("warnings")
        assert poisoned == clean


class TestWhatIsBelievable:
    def test_of_a_sound_archive_is_the_archive_itself(self) -> None:
        problem, _ = ask(planted())
        assert believable(problem) == (problem, ())

    def test_is_worked_out_once(self) -> None:
        (problem, _), _ = told(1000.0, [])
        assert believable(problem)[0].archive is believable(problem)[0].archive

    def test_keeps_the_other_cells_of_a_workload_with_one_bad_run(self) -> None:
        frame = planted(workloads=20)
        problem, _ = ask(frame.assign(runtime_s=frame["runtime_s"].where(frame.index != 45, 1e6)))
        clean, said = believable(problem)
        assert clean.archive is not None
        left = frame.drop(index=45)
        for column in ("workload", "runtime_s"):
            assert clean.archive.frame[column].tolist() == left[column].tolist()
        assert "1 cell of" in said[0]

    def test_of_an_archive_in_which_nothing_agrees_is_said_to_be_nothing(self) -> None:
        one = planted()[lambda f: f["workload"] == "w001"]
        twice = pd.concat([one, one.assign(runtime_s=one["runtime_s"] * 50)], ignore_index=True)
        answer = strategy("column-mean").recommend(*ask(twice))
        assert any("nothing believable is left of the archive" in said for said in answer.warnings)


class TestADeviationThatWorkloadsShare:
    """Memory cliffs: some workloads take 25 x as long wherever memory is small."""

    def cliffs(self, workloads: tuple[str, ...], factor: float = 25.0) -> pd.DataFrame:
        frame = planted(workloads=20)
        at = frame.groupby("workload").cumcount() < 5
        return frame.assign(
            runtime_s=frame["runtime_s"].where(~(at & frame["workload"].isin(workloads)), frame["runtime_s"] * factor)
        )

    @pytest.mark.parametrize("factor", [25.0, 100.0])
    def test_is_kept(self, factor: float) -> None:
        problem, _ = ask(self.cliffs(("w003", "w011"), factor))
        assert believable(problem) == (problem, ())

    def test_is_left_out_where_only_one_has_it_and_the_sentence_is_of_scatter(self) -> None:
        (said,) = believable(ask(self.cliffs(("w003",), 1000.0))[0])[1]
        assert said.startswith("w003 of the archive is left out: runtimes scattered")
        assert "off the typical workload" not in said

    def test_does_not_excuse_a_workload_in_another_unit(self) -> None:
        frame = self.cliffs(("w003", "w011"))
        bad = frame["workload"] == "w008"
        problem, _ = ask(frame.assign(runtime_s=frame["runtime_s"].where(~bad, frame["runtime_s"] * 1000.0)))
        clean, (said,) = believable(problem)
        assert clean.archive is not None
        assert set(frame["workload"]) - set(clean.archive.frame["workload"]) == {"w008"}
        assert said.startswith("w008 of the archive is left out")
        assert "x off the typical workload" in said
        assert "scattered" not in said

    def test_is_no_excuse_for_scatter_on_other_configurations(self) -> None:
        frame = self.cliffs(("w003", "w011"))
        mixed = (frame["workload"] == "w008") & (frame.groupby("workload").cumcount() % 2 == 1)
        problem, _ = ask(frame.assign(runtime_s=frame["runtime_s"].where(~mixed, frame["runtime_s"] * 1000.0)))
        (said,) = believable(problem)[1]
        assert said.startswith("w008 of the archive is left out: runtimes scattered")


class TestTwoUnitsInOneWorkload:
    """Every second run of one workload is noted in another unit, in an archive of few."""

    @pytest.mark.parametrize("workloads", [6, 8, 12])
    def test_are_noticed_among_few_workloads_as_among_many(self, workloads: int) -> None:
        frame = planted(workloads=workloads)
        mixed = (frame["workload"] == "w002") & (frame.groupby("workload").cumcount() % 2 == 1)
        problem, _ = ask(frame.assign(runtime_s=frame["runtime_s"].where(~mixed, frame["runtime_s"] * 1000.0)))
        clean, (said,) = believable(problem)
        assert said.startswith("w002 of the archive is left out")
        assert clean.archive is not None
        assert set(frame["workload"]) - set(clean.archive.workloads) == {"w002"}

    @pytest.mark.parametrize("workloads", [5, 6, 8, 12])
    def test_are_not_seen_where_all_is_in_one(self, workloads: int) -> None:
        problem, _ = ask(planted(workloads=workloads))
        assert believable(problem) == (problem, ())


class TestAnotherUnit:
    """The workload's own runs, or all of the archive, are not noted in seconds."""

    def asked(self, ratio: float, **columns: object) -> tuple[Problem, Runs]:
        """About a typical workload, its runtimes divided by `ratio`; `columns` of its runs."""
        frame = planted(workloads=20)
        typical = frame.groupby("workload")["runtime_s"].median().sort_values().index[10]
        mine = some(frame, typical, [2, 11, 17]).assign(workload="new", **columns)
        return ask(frame[frame["workload"] != typical], mine.assign(runtime_s=mine["runtime_s"] / ratio))

    @pytest.mark.parametrize("name", [*ARCHIVED, "random", "price-only", "cherrypick", "cloudbandit", "trees"])
    def test_is_said_once_by_every_strategy_that_is_given_an_archive(self, name: str) -> None:
        def said(ratio: float) -> list[str]:
            warnings = strategy(name).recommend(*self.asked(ratio)).warnings
            return [w for w in warnings if "not noted in seconds" in w]

        assert said(1.0) == []
        (sentence,) = said(60.0)
        assert "shorter than the archive's typical workload (near 60: minutes for seconds?)" in sentence

    @pytest.mark.parametrize(
        ("ratio", "said"),
        [
            (60.0, "shorter.*near 60: minutes"),
            (1e-3, "longer.*near 1,000: milliseconds"),
            (3600.0, "near 3,600: hours"),
        ],
    )
    def test_is_named_and_leaves_the_runs_in(self, ratio: float, said: str) -> None:
        problem, runs = self.asked(ratio)
        known = evidence(problem, runs, adapts=False)
        assert len(known.now) == len(runs)
        (sentence,) = known.said
        assert re.search(said, sentence)

    def test_of_an_archive_that_is_in_minutes_as_a_whole_is_said_too(self) -> None:
        frame = planted(workloads=20)
        typical = frame.groupby("workload")["runtime_s"].median().sort_values().index[10]
        others = frame[frame["workload"] != typical]
        mine = some(frame, typical, [2, 11]).assign(workload="new")
        problem, runs = ask(others.assign(runtime_s=others["runtime_s"] / 60), mine)
        (sentence,) = strategy("auto").remarks(problem, runs)
        assert "longer than the archive's typical workload (near 60: minutes for seconds?)" in sentence


class TestABill:
    """Runs of two hours that were billed at a tenth of the price, or by a cloud that bills a minute at least."""

    def said(self, runtime_s: float, cost_usd: float) -> tuple[str, ...]:
        pool = pd.DataFrame({"instance_type": ["t"], "node_count": [2], "usd_per_hour": [0.5]})
        mine = pool[["instance_type", "node_count"]].assign(workload="new", runtime_s=runtime_s, cost_usd=cost_usd)
        problem, runs = build_problem(mine, candidates=pool)
        return evidence(problem, runs, adapts=False).said

    @pytest.mark.parametrize("paid", [1.0, 0.1, 2.0])
    def test_of_seconds_says_nothing_whatever_the_discount(self, paid: float) -> None:
        assert self.said(7200.0, 2.0 * paid) == ()

    @pytest.mark.parametrize(
        ("runtime_s", "said"),
        [
            (120.0, "billed 60 x more .*near 60: minutes"),
            (2.0, "billed 3,600 x more .*near 3,600: hours"),
            (7.2e6, "billed 1,000 x less .*near 1,000: milliseconds"),
        ],
    )
    def test_shows_the_unit_without_any_other_workload(self, runtime_s: float, said: str) -> None:
        (sentence,) = self.said(runtime_s, 2.0)
        assert re.search(said, sentence)
        assert "runtime_s is not in seconds, or cost_usd not in USD a run" in sentence

    def test_of_the_least_that_is_billed_says_nothing(self) -> None:
        assert self.said(1.0, 60 / 3600) == ()
