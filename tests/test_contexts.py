"""Runs of the archive are compared at one input, and what inputs and machines did together is nobody's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recommender.archive_report import check
from recommender.archives import Archive
from recommender.errors import InsufficientEvidenceError
from recommender.models.archive import archived, believable
from recommender.models.contexts import CONFOUNDED, UNLINKED
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import strategy

TYPES = 6
POOL = pd.DataFrame(
    {
        "instance_type": [f"t{i:02}" for i in range(TYPES)],
        "node_count": 1,
        "usd_per_hour": 0.1,
        "vcpus": 4,
        "memory_gib": 16,
    }
)
READERS = ("selecta", "quasar", "neighbours", "paris", "transfer", "column-mean", "best-fixed")


def table(cells: list[tuple[int, float]], workloads: int = 8) -> pd.DataFrame:
    """Each workload ran each (type, size): runtimes are proportional to size, and the last type is the fastest."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "workload": f"w{u}",
                "instance_type": f"t{i:02}",
                "node_count": 1,
                "runtime_s": float(np.exp(4 + 0.3 * u - 0.1 * i + 0.02 * rng.normal()) * size),
                "input.size_gib": size,
            }
            for u in range(workloads)
            for i, size in cells
        ]
    )


def ask(archive: pd.DataFrame | None) -> tuple[Problem, Runs]:
    own = table([(2, 8.0)], 1).assign(workload="new")
    return build_problem(
        own,
        workload="new",
        candidates=POOL,
        archive=[] if archive is None else [archive],
        inputs={"size_gib": 8},
        objective="runtime",
        top=TYPES,
    )


def steps(archive: pd.DataFrame) -> np.ndarray:
    """How the archive's columns follow each other; the truth is -0.1 each."""
    return np.diff(archived(ask(archive)[0]).column)


APART = [(i, 2.0**i) for i in range(TYPES)]
"""Every type at a size of its own."""


class TestWhereEveryTypeRanAtASizeOfItsOwn:
    @pytest.mark.parametrize("name", READERS)
    def test_who_needs_the_archive_says_why_it_is_of_no_use(self, name: str) -> None:
        with pytest.raises(InsufficientEvidenceError, match=CONFOUNDED):
            strategy(name).recommend(*ask(table(APART)))

    @pytest.mark.parametrize("name", ["prior", "auto"])
    def test_who_does_not_answers_as_without_it_and_says_so(self, name: str) -> None:
        answer, alone = (strategy(name).recommend(*ask(archive)) for archive in (table(APART), None))
        assert [(row.label, row.runtime_s) for row in answer.rows] == [(row.label, row.runtime_s) for row in alone.rows]
        assert any(said.startswith(CONFOUNDED) for said in answer.warnings)

    def test_the_type_with_the_small_inputs_is_not_called_fast(self) -> None:
        answer = strategy("prior").recommend(*ask(table(APART)))
        (row,) = (row for row in answer.rows if row.instance_type == "t00")
        assert row.runtime_s is not None
        assert row.evidence != "transferred"
        assert row.runtime_s.p50 >= min(other.runtime_s.p50 for other in answer.rows if other.runtime_s is not None)


class TestWhereSizesLinkOnlySomeTypes:
    CELLS = ((0, 1.0), (1, 1.0), (2, 8.0), (3, 8.0), (4, 8.0), (5, 8.0))

    def test_those_of_the_most_types_are_compared_and_the_others_are_not_known(self) -> None:
        problem, _ = ask(table(list(self.CELLS)))
        a = archived(problem)
        assert a.columns.tolist() == [2, 3, 4, 5]
        assert np.diff(a.column) == pytest.approx([-0.1] * 3, abs=0.03)
        (said,) = believable(problem)[1]
        assert said.startswith(CONFOUNDED)
        assert "2 configurations (t00 x1 ...)" in said

    def test_the_answer_ranks_the_comparable_ones_and_says_so(self) -> None:
        answer = strategy("column-mean").recommend(*ask(table(list(self.CELLS))))
        assert [row.instance_type for row in answer.rows] == ["t05", "t04", "t03", "t02"]
        assert any(said.startswith(CONFOUNDED) for said in answer.warnings)

    def test_one_workload_that_ran_both_at_one_size_links_them(self) -> None:
        link = table([(1, 8.0), (2, 8.0)], 1)
        archive = pd.concat([table(list(self.CELLS)), link], ignore_index=True)
        assert steps(archive) == pytest.approx([-0.1] * 5, abs=0.05)
        assert believable(ask(archive)[0])[1] == ()


def test_sizes_that_merely_jitter_are_one_input() -> None:
    rng = np.random.default_rng(1)
    plain = table([(i, 8.0) for i in range(TYPES)])
    noted = plain.assign(**{"input.size_gib": 8.0 * np.exp(rng.uniform(-0.05, 0.05, len(plain)))})
    assert steps(noted) == pytest.approx(steps(plain))
    assert believable(ask(noted)[0])[1] == ()


def test_a_type_that_was_run_at_many_sizes_is_compared_where_the_others_ran() -> None:
    often = table([*((i, 8.0) for i in range(TYPES)), *((0, 2.0**k) for k in range(-8, 2))])
    assert steps(often) == pytest.approx([-0.1] * 5, abs=0.03)
    assert archived(ask(often)[0]).y.shape == (8, TYPES)
    assert "not used" in believable(ask(often)[0])[1][0]


def test_failures_count_wherever_they_happened() -> None:
    cells = list(TestWhereSizesLinkOnlySomeTypes.CELLS)
    lost = table([(5, 1.0)]).assign(status="failed")
    problem, _ = ask(pd.concat([table(cells), lost], ignore_index=True))
    assert archived(problem).cells.completing[5] == pytest.approx(9 / 17)


class TestWhereNoWorkloadLinksTwoGroupsOfTypes:
    """Twelve workloads on t00 to t03, eight others, fifty times smaller, on t04 and t05 alone."""

    FAST, SMALL = 4, 50.0

    def archive(self) -> pd.DataFrame:
        large = table([(i, 8.0) for i in range(self.FAST)], 12)
        small = table([(i, 8.0) for i in range(self.FAST, TYPES)]).assign(workload=lambda f: "s" + f["workload"])
        return pd.concat([large, small.assign(runtime_s=small["runtime_s"] / self.SMALL)], ignore_index=True)

    def asked(self, *types: int, archive: pd.DataFrame | None = None) -> tuple[Problem, Runs]:
        """The job at its own level, measured on `types`."""
        mine = table([(i, 8.0) for i in types], 1).assign(workload="new") if types else None
        given = self.archive() if archive is None else archive
        return build_problem(mine, candidates=POOL, archive=[given], objective="runtime", top=TYPES)

    @pytest.mark.parametrize("name", [*(name for name in READERS if name != "transfer"), "prior", "auto"])
    def test_no_strategy_lays_what_the_jobs_take_to_the_types_and_all_say_so(self, name: str) -> None:
        answer = strategy(name).recommend(*self.asked(0, 2))
        (said,) = (said for said in answer.warnings if said.startswith(UNLINKED))
        assert "2 configurations (t04 x1 ...) were run only by workloads that ran none of the other 4" in said
        assert "run a workload on both" in said
        truth = 8 * np.exp(4 - 0.1 * np.arange(TYPES))
        for row in answer.rows:
            if row.runtime_s is not None and row.evidence != "extrapolated":
                assert row.runtime_s.p50 == pytest.approx(truth[int(row.instance_type[1:])], rel=0.5)

    @pytest.mark.parametrize(("types", "columns"), [((), [0, 1, 2, 3]), ((0,), [0, 1, 2, 3]), ((4, 5), [4, 5])])
    def test_the_part_is_kept_that_the_workload_s_own_runs_are_of_and_else_the_largest(
        self, types: tuple[int, ...], columns: list[int]
    ) -> None:
        problem, said = believable(*self.asked(*types))
        assert archived(problem).columns.tolist() == columns
        assert len(said) == 1
        assert f"only those {len(columns)} are used" in said[0]

    def test_own_runs_of_both_parts_keep_the_largest_and_it_is_said(self) -> None:
        problem, (said, left) = believable(*self.asked(0, 4))
        assert archived(problem).columns.tolist() == [0, 1, 2, 3]
        assert said.startswith("the workload's own runs are of 2 parts of the archive that cannot be compared")
        assert left.startswith(UNLINKED)
        rows = strategy("column-mean").recommend(*self.asked(0, 4)).rows
        assert {row.instance_type for row in rows} == {"t00", "t01", "t02", "t03", "t04"}

    @pytest.mark.parametrize("types", [(0,), (5,)])
    def test_the_archive_that_strategies_see_is_of_that_part_alone(self, types: tuple[int, ...]) -> None:
        archive = believable(*self.asked(*types))[0].archive
        assert archive is not None
        assert {str(name)[0] for name in archive.workloads} == {"w" if types == (0,) else "s"}

    def test_the_part_is_taken_out_once(self) -> None:
        problem, runs = self.asked(5)
        assert believable(problem, runs)[0].archive is believable(problem, runs)[0].archive

    def test_the_other_part_is_answered_as_if_it_were_all(self) -> None:
        small = self.archive()[lambda f: f["workload"].str.startswith("s")].reset_index(drop=True)
        whole, alone = (strategy("selecta").recommend(*self.asked(4, archive=given)) for given in (None, small))
        assert whole.rows == alone.rows

    def test_one_workload_that_ran_both_links_them(self) -> None:
        link = table([(0, 8.0), (5, 8.0)], 1).assign(workload="link")
        problem, runs = self.asked(0, 2, archive=pd.concat([self.archive(), link], ignore_index=True))
        assert believable(problem, runs) == (problem, ())
        assert np.diff(archived(problem).column) == pytest.approx([-0.1] * 5, abs=0.08)

    def test_a_run_that_did_not_complete_links_nothing(self) -> None:
        lost = table([(5, 8.0)], 1).assign(status="failed")
        _, said = believable(*self.asked(0, archive=pd.concat([self.archive(), lost], ignore_index=True)))
        assert [sentence.startswith(UNLINKED) for sentence in said] == [True]

    def test_a_check_of_the_archive_says_so(self) -> None:
        runs = Runs.from_frame(self.archive())
        provenance = pd.DataFrame(
            {"source": "a", "licence": "MIT", "added_at": pd.Timestamp("2026-01-01", tz="UTC")}, runs.frame.index
        )
        (said,) = (said for said in check(Archive("jobs", runs, provenance)).problems if UNLINKED in said)
        assert "run a workload on both" in said

    @pytest.mark.parametrize("name", READERS)
    def test_where_every_workload_ran_one_type_alone_nothing_is_transferred(self, name: str) -> None:
        lone = table([(i, 8.0) for i in range(TYPES)], TYPES)
        lone = lone[lone["workload"].str[1:].astype(int) == lone["instance_type"].str[1:].astype(int)]
        with pytest.raises(InsufficientEvidenceError, match=f"{UNLINKED}: no workload ran two candidates"):
            strategy(name).recommend(*self.asked(0, archive=lone.reset_index(drop=True)))
