"""Break-evens in cents worked by hand, and other prices without another fit."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from recommender.errors import InputError, InsufficientEvidenceError, UnknownNameError
from recommender.pricing import BY_NAME, Usage
from recommender.problem import Problem, build_problem
from recommender.recommendation import Recommendation
from recommender.report.tables import as_text
from recommender.repricing import changed_prices, reprice, told_apart
from recommender.runs import Runs
from recommender.strategies import strategy

POOL = pd.DataFrame(
    {"instance_type": ["a", "b"], "node_count": [1, 2], "usd_per_hour": [0.36, 0.36], "vcpus": 4, "memory_gib": 16.0}
)
RUNS = pd.DataFrame({"workload": "w", "instance_type": ["a", "b"], "node_count": [1, 2], "runtime_s": [1000.0, 600.0]})
"""a: 1 node x 36 cents x 1000 s = 10 cents a run; b: 2 nodes x 36 cents x 600 s = 12 cents."""


def ask(**options: object) -> tuple[Problem, Runs, Recommendation]:
    """The two runs, by what was measured alone."""
    problem, runs = build_problem(RUNS, candidates=POOL)
    problem = replace(problem, **options)  # type: ignore[arg-type]
    return problem, runs, strategy("random").recommend(problem, runs)


def test_break_even_prices_and_runtimes_are_those_worked_by_hand() -> None:
    _, _, answer = ask()
    assert answer.explanation is not None
    flip = answer.explanation.runner_up
    assert flip is not None
    assert answer.rows[0].instance_type == "a"
    assert flip.first_usd_per_hour == pytest.approx(0.432), "12 cents at 1000 s"
    assert flip.rival_usd_per_hour == pytest.approx(0.30), "10 cents at 2 x 600 s"
    assert flip.first_runtime_s == pytest.approx(1200.0), "12 cents at 36 cents an hour"
    assert flip.rival_runtime_s == pytest.approx(500.0), "10 cents at 72 cents an hour"
    assert flip.runs_per_month is None


def test_the_objective_runtime_breaks_even_where_both_take_as_long() -> None:
    _, _, answer = ask(objective="runtime")
    assert answer.explanation is not None
    flip = answer.explanation.runner_up
    assert flip is not None
    assert (flip.first_usd_per_hour, flip.runs_per_month) == (None, None)
    assert (flip.first_runtime_s, flip.rival_runtime_s) == (pytest.approx(1000.0), pytest.approx(600.0))


def test_no_price_tells_two_sizes_of_one_type_apart() -> None:
    """b of 1 node: 36 cents x 1000 s = 10 cents a run; b of 2 nodes 12 cents, whatever b costs an hour."""
    pool = POOL.assign(instance_type="b")
    problem, runs = build_problem(RUNS.assign(instance_type="b"), candidates=pool)
    answer = strategy("random").recommend(problem, runs)
    assert answer.explanation is not None
    flip = answer.explanation.runner_up
    assert flip is not None
    assert (flip.first_usd_per_hour, flip.rival_usd_per_hour) == (None, None)
    assert flip.rival_runtime_s == pytest.approx(500.0)
    assert "costs more" not in flip.sentence
    assert flip.sentence.endswith("; a price of b moves both alike")
    again = reprice(answer, changed_prices(problem, changes=["b=+400%"]))
    assert again.rows[0].label == answer.rows[0].label
    dearer = pool.assign(usd_per_hour=[0.36, 0.40])  # a price of its own for each
    problem, runs = build_problem(RUNS.assign(instance_type="b"), candidates=dearer)
    apart = strategy("random").recommend(problem, runs).explanation
    assert apart is not None
    assert apart.runner_up is not None
    assert apart.runner_up.first_usd_per_hour is not None


@pytest.mark.parametrize(("runs_per_month", "first"), [(100.0, "on-demand"), (2000.0, "reserved-1y-no-upfront")])
def test_a_commitment_pays_from_the_number_of_runs_that_fills_its_price(runs_per_month: float, first: str) -> None:
    """On demand 10 cents a run; reserved at 18 cents an hour 131.40 USD a month: 1314 runs either way."""
    prices = pd.DataFrame(
        {
            "instance_type": ["a"],
            "region": [None],
            "purchase_option": ["reserved-1y-no-upfront"],
            "usd_per_hour": [0.18],
        }
    )
    problem, runs = build_problem(
        RUNS.head(1),
        candidates=POOL.head(1),
        prices=prices,
        purchase=[BY_NAME["on-demand"], BY_NAME["reserved-1y-no-upfront"]],
        usage=Usage(runs_per_month),
    )
    answer = strategy("random").recommend(problem, runs)
    assert answer.rows[0].purchase_option == first
    assert answer.explanation is not None
    (flip,) = answer.explanation.flips
    assert flip.role == "way to pay"
    assert flip.runs_per_month == pytest.approx(1314.0)
    for usage, other in ((1313.0, "on-demand"), (1315.0, "reserved-1y-no-upfront")):
        again = reprice(answer, replace(problem, usage=Usage(usage)))
        assert again.rows[0].purchase_option == other


def test_the_answer_flips_at_the_break_even_price_and_not_before() -> None:
    problem, _, answer = ask()
    for change, first in (("a=+19%", "a"), ("a=+21%", "b"), ("b=-16%", "a"), ("b=-17%", "b"), ("on-demand=-50%", "a")):
        again = told_apart(reprice(answer, changed_prices(problem, changes=[change])), answer, [change])
        assert again.rows[0].instance_type == first
        assert again.what_if is not None
        assert again.what_if["flipped"] == (first == "b")
        assert again.to_dict()["what_if"]["changes"] == [change]


def test_a_repriced_answer_is_the_one_asked_for_at_those_prices() -> None:
    problem, _, answer = ask()
    table = pd.DataFrame(
        {"instance_type": ["a"], "region": [None], "purchase_option": ["on-demand"], "usd_per_hour": [0.5]}
    )
    again = reprice(answer, changed_prices(problem, prices=table))
    fresh, mine = build_problem(RUNS, candidates=POOL, prices=table)
    assert again.rows == strategy("random").recommend(fresh, mine).rows
    assert answer.rows == ask()[2].rows, "the answer itself is left alone"


def test_a_price_of_a_region_holds_for_candidates_that_came_with_a_price_where_the_problem_asks() -> None:
    problem, _, answer = ask()
    rows = {"instance_type": ["a"], "purchase_option": ["on-demand"], "usd_per_hour": [0.5]}
    there = reprice(answer, changed_prices(problem, prices=pd.DataFrame(rows | {"region": ["us-east-1"]})))
    everywhere = reprice(answer, changed_prices(problem, prices=pd.DataFrame(rows | {"region": [None]})))
    assert there.rows == everywhere.rows != answer.rows
    with pytest.raises(InputError, match="prices none of the candidates, which are in us-east-1"):
        changed_prices(problem, prices=pd.DataFrame(rows | {"region": ["eu-west-1"]}))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ("spot", InputError, "NAME=.10% or NAME=-20% is needed"),
        ("a=-100%", InputError, "more than -100%"),
        ("a=3", InputError, "is needed"),
        ("spot=-20%", InputError, "spot is not among the ways to pay asked about"),
        ("c5.large=+1%", UnknownNameError, "'c5.large' is no way to pay, and no instance type or region"),
    ],
)
def test_a_change_that_cannot_be_meant_is_refused(change: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        changed_prices(ask()[0], changes=[change])


def test_an_order_made_with_the_old_prices_is_not_repriced() -> None:
    problem, runs = build_problem(None, candidates=POOL)
    answer = strategy("prior").recommend(problem, runs)
    with pytest.raises(InsufficientEvidenceError, match="ask the strategy again"):
        reprice(answer, problem)


def test_the_explanation_counts_the_runs_behind_each_row() -> None:
    _, _, answer = ask()
    assert answer.explanation is not None
    assert [(b.configuration, b.runs, b.runs_of_workload, b.other_workloads) for b in answer.explanation.evidence] == [
        ("a x1", 1, 2, 0),
        ("b x2", 1, 2, 0),
    ]
    assert set(answer.to_dict()["explanation"]) == {"binding", "evidence", "runner_up", "next_run"}


def test_what_one_more_run_is_worth_is_its_expected_improvement_times_the_planned_runs() -> None:
    three = pd.concat([POOL, POOL.head(1).assign(instance_type="c", usd_per_hour=0.3)], ignore_index=True)
    problem, runs = build_problem(RUNS, candidates=three, runs_planned=1000.0)
    answer = strategy("prior").recommend(problem, runs)
    worth = answer.next_run_worth
    assert worth is not None
    assert worth["saves_usd_per_run"] is not None
    assert 0 < worth["saves_usd_per_run"] < 0.10
    assert worth["saves_usd"] == pytest.approx(1000.0 * worth["saves_usd_per_run"])
    assert "takes" in answer.to_dict()["explanation"]["binding"]


@pytest.mark.parametrize(("saves_usd", "said"), [(0.01, True), (1e-9, False), (0.0, False)])
def test_a_saving_that_is_nothing_beside_the_runs_cost_is_not_named(saves_usd: float, said: bool) -> None:
    problem, runs = build_problem(RUNS.head(1), candidates=POOL)
    answer = strategy("prior").recommend(problem, runs)
    assert answer.next_run is not None
    worth = replace(answer, next_run=replace(answer.next_run, saves_usd=saves_usd))
    assert ("expected to save" in as_text(worth)) == said
