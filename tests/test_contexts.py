"""Runs of the archive are compared at one input, and what inputs and machines did together is nobody's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recommender.errors import InsufficientEvidenceError
from recommender.models.archive import archived, believable
from recommender.models.contexts import CONFOUNDED
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
