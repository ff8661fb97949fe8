"""The plan of a profile: which runs, in which order, with which arguments and environment."""

from __future__ import annotations

import math

import pytest

from recommender.errors import InputError
from recommender.measurement import can_limit_cores
from recommender.profiling import (
    THREAD_VARIABLES,
    PlannedRun,
    ProfilePlan,
    arguments_of,
    default_cores,
    environment_of,
    estimate_remaining_s,
    planned_runs,
)


def _plan(**fields: object) -> ProfilePlan:
    defaults: dict[str, object] = {
        "command": ("job", "{scale}"),
        "workload": "w",
        "cores": (1, 2),
        "scales": (0.1, 0.2),
    }
    return ProfilePlan(**{**defaults, **fields})  # type: ignore[arg-type]


def test_every_core_count_and_scale_is_run_as_often_as_asked() -> None:
    runs = planned_runs(_plan(repeat=3))
    cells = [(run.cores, run.scale) for run in runs]
    assert len(runs) == 12
    assert all(cells.count(cell) == 3 for cell in cells)


def test_a_repetition_begins_when_the_one_before_has_been_through_all_cells() -> None:
    repetitions = [run.repetition for run in planned_runs(_plan(repeat=3))]
    assert repetitions == sorted(repetitions)


def test_warm_ups_come_first_on_the_most_cores() -> None:
    runs = planned_runs(_plan(warmup=1))
    assert [(run.cores, run.scale, run.repetition) for run in runs[:3]] == [(2, 0.1, 0), (2, 0.2, 0), (2, 0.1, 1)]


def test_the_plan_is_the_same_every_time() -> None:
    assert planned_runs(_plan()) == planned_runs(_plan())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scales": ()}, r"no scales are given"),
        ({"command": ("job",)}, r"no \{scale\}"),
        ({"command": ()}, r"no command"),
        ({"cores": (0,)}, r"core counts \[0\]"),
        ({"cores": ()}, r"at least one"),
        ({"scales": (0.1, 0.1)}, r"once"),
        ({"scales": (-1.0,)}, r"more than 0"),
        ({"scales": (math.nan,)}, r"more than 0"),
        ({"repeat": 0}, r"repeat 0"),
        ({"time_limit_s": 0.0}, r"time limit"),
        ({"inputs": {"scale": 1.0}}, r"both"),
        ({"inputs": {"size": math.nan}}, r"finite"),
        ({"workload": " "}, r"name"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _plan(**fields)


def test_placeholders_are_replaced_and_other_braces_are_left_alone() -> None:
    plan = _plan(command=("job", "--n={scale}", "{cores}", "{'a': {}}"))
    assert arguments_of(plan, PlannedRun(cores=2, scale=1.0, repetition=1)) == ["job", "--n=1", "2", "{'a': {}}"]


def test_a_shell_command_becomes_one_line() -> None:
    plan = _plan(command=("echo {scale} | wc", "-c"), shell=True)
    assert arguments_of(plan, PlannedRun(cores=1, scale=0.1, repetition=1)) == ["/bin/sh", "-c", "echo 0.1 | wc -c"]


def test_thread_counts_are_set_where_the_user_has_not() -> None:
    run = PlannedRun(cores=2, scale=0.1, repetition=1)
    environment = environment_of(_plan(), run, inherited={"OMP_NUM_THREADS": "7", "HOME": "/"})
    assert environment["OMP_NUM_THREADS"] == "7"
    assert {environment[name] for name in THREAD_VARIABLES if name != "OMP_NUM_THREADS"} == {"2"}
    assert environment_of(_plan(thread_env=False), run, inherited={"HOME": "/"}) == {"HOME": "/"}


def test_the_default_core_counts_double_up_to_all() -> None:
    if can_limit_cores():
        assert [default_cores(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_remaining_time_comes_from_like_runs_and_else_from_the_scale() -> None:
    done_run, unseen = (PlannedRun(cores=1, scale=s, repetition=1) for s in (0.1, 0.2))
    assert estimate_remaining_s([], [unseen]) is None
    assert estimate_remaining_s([(done_run, 3.0)], [done_run, unseen]) == pytest.approx(9.0)
