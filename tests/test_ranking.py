"""Ranked answers obey the laws of the question: constraints, money, order, counts and words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

from recommender.catalogue import TypeFilter, load_catalogue
from recommender.errors import InfeasibleError, InputError, UnknownNameError
from recommender.pricing import ALL_OPTIONS, BY_NAME, PurchaseOption, Usage, parse_purchase
from recommender.pricing.cost import commitment_cost, on_demand_cost, spot_cost, spot_survival
from recommender.problem import Problem, build_problem
from recommender.recommendation import Recommendation, Row
from recommender.report.tables import as_text
from recommender.runs import Runs
from recommender.strategies import strategy
from recommender.units import parse_duration

ON_DEMAND, SPOT, EVERY = parse_purchase("on-demand"), parse_purchase("spot"), ALL_OPTIONS
FOUR = (*ON_DEMAND, *SPOT, *parse_purchase("reserved-1y-no-upfront,savings-plan-compute-1y-no-upfront"))
CLASSES = TypeFilter(families=("m5", "c5"))
ALL_ROWS = 100_000


def measured(slower: float = 1.0, types: tuple[str, ...] = ("m5.xlarge", "c5.xlarge")) -> pd.DataFrame:
    """Runs of t = 10 + 400 s/(4 m) + 2 m on clusters of 1, 2 and 4 nodes with 4 vCPUs, c5 a tenth faster."""
    rows = [
        {
            "workload": "sort",
            "instance_type": name,
            "node_count": m,
            "runtime_s": slower * (10 + 400 * s / (4 * m) + 2 * m) * (0.9 if name.startswith("c5") else 1.0),
            "input.scale": s,
        }
        for name in types
        for m in (1, 2, 4)
        for s in (0.25, 0.5, 1.0)
    ]
    return pd.DataFrame(rows)


def on_a_laptop() -> pd.DataFrame:
    """Runs of t = 10 + 400 s/c on 1, 2 and 4 cores of the profiling machine."""
    cases = [(c, s) for c in (1, 2, 4) for s in (0.25, 0.5, 1.0)]
    return pd.DataFrame(
        {
            "workload": "sort",
            "instance_type": "local",
            "node_count": 1,
            "runtime_s": [10 + 400 * s / c for c, s in cases],
            "vcpus": [c for c, _ in cases],
            "cpu_model": "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz",
            "input.scale": [s for _, s in cases],
        }
    )


def pool(c: float = 1.0) -> pd.DataFrame:
    """A candidates table of machines outside the catalogue, with a price that grows faster than its vCPUs."""
    cases = [(v, m) for v in (2, 4, 8, 16) for m in (1, 2, 3, 4)]
    return pd.DataFrame(
        {
            "instance_type": [f"rack-{v:02d}" for v, _ in cases],
            "node_count": [m for _, m in cases],
            "usd_per_hour": [c * 0.05 * v**1.2 for v, _ in cases],
            "vcpus": [v for v, _ in cases],
            "memory_gib": [4.0 * v for v, _ in cases],
        }
    )


def ask(runs: pd.DataFrame | None = None, **options: Any) -> tuple[Problem, Runs]:
    if "candidates" not in options:
        options.setdefault("types", CLASSES)
    options.setdefault("top", ALL_ROWS)
    return build_problem(measured() if runs is None else runs, **options)


def answer(runs: pd.DataFrame | None = None, name: str = "ernest", **options: Any) -> Recommendation:
    return strategy(name).recommend(*ask(runs, **options))


def identity(row: Row) -> tuple[str, int, str, str]:
    return row.instance_type, row.node_count, row.region, row.purchase_option


def identities(found: Recommendation) -> list[tuple[str, int, str, str]]:
    return [identity(row) for row in found.rows]


def same_order(one: Recommendation, other: Recommendation) -> bool:
    """Whether both rank the same candidates alike, up to those whose costs differ by rounding only."""
    cost = {identity(row): row.cost_usd.p50 for row in one.rows if row.cost_usd}
    sequence = np.array([cost[i] for i in identities(other)])
    return len(cost) == len(other.rows) and bool((np.diff(sequence) >= -1e-9 * sequence[1:]).all())


def costs(found: Recommendation) -> list[float]:
    return [row.cost_usd.p50 for row in found.rows if row.cost_usd is not None]


@pytest.fixture(scope="module")
def four() -> tuple[Problem, Runs]:
    """Four purchase options over clusters of two families."""
    return ask(purchase=FOUR)


@pytest.fixture(scope="module")
def free(four: tuple[Problem, Runs]) -> Recommendation:
    """The answer without constraints."""
    return strategy("ernest").recommend(*four)


# Order


def test_rows_are_ordered_by_cost_and_numbered_from_one(free: Recommendation) -> None:
    assert len(free.rows) > 100
    assert costs(free) == sorted(costs(free))
    assert [row.rank for row in free.rows] == list(range(1, len(free.rows) + 1))
    assert len(set(identities(free))) == len(free.rows) == free.candidates


def test_the_objective_runtime_orders_by_runtime_and_equal_runtimes_by_cost() -> None:
    options = (*ON_DEMAND, *parse_purchase("reserved-1y,savings-plan-compute-1y-no-upfront"))
    found = answer(purchase=options, objective="runtime", usage=Usage(runs_per_month=2000.0))
    keys = [(row.runtime_s.p50, row.cost_usd.p50) for row in found.rows if row.runtime_s and row.cost_usd]
    assert keys == sorted(keys)
    machines = [(row.label, row.region) for row in found.rows]
    assert len(machines) == len(set(machines)), "equally fast ways to pay for one machine are one row, the cheapest"
    everything = answer(purchase=options, usage=Usage(runs_per_month=2000.0))
    for row in found.rows:
        ways = [
            r.cost_usd.p50 for r in everything.rows if (r.label, r.region) == (row.label, row.region) and r.cost_usd
        ]
        assert row.cost_usd is not None
        assert row.cost_usd.p50 == min(ways)
    assert found.rows[0].instance_type != answer(purchase=options).rows[0].instance_type


def test_spot_counts_as_slower_than_on_demand_by_its_expected_interruptions() -> None:
    found = answer(measured(1000.0), purchase=(*ON_DEMAND, *SPOT), objective="runtime")
    place = {identity(row): row.rank for row in found.rows}
    for (name, nodes, region, option), rank in place.items():
        if option == "spot":
            assert place[name, nodes, region, "on-demand"] < rank


def test_a_configuration_that_sometimes_fails_pays_for_its_failures() -> None:
    candidates = pool().iloc[[4]].assign(instance_type="good")
    candidates = pd.concat(
        [candidates, candidates.assign(instance_type="flaky", usd_per_hour=0.7 * candidates["usd_per_hour"])]
    )
    runs = pd.concat([measured(types=("good",)), measured(types=("flaky",))], ignore_index=True)
    cheap = answer(runs, candidates=candidates)
    assert [row.instance_type for row in cheap.rows] == ["flaky", "good"]
    one = runs[(runs["instance_type"] == "flaky") & (runs["node_count"] == 1) & (runs["input.scale"] == 1.0)]
    failed = pd.concat([runs.assign(status="completed"), one.assign(status="failed")], ignore_index=True)
    # One of two runs failed: P(completing) = 2/3, so what is paid for a result is 1.5 x 0.7 = 1.05 of the good one's.
    found = answer(failed, candidates=candidates)
    assert [row.instance_type for row in found.rows] == ["good", "flaky"]
    # And it may not be promised with more certainty than it completes.
    with_deadline = answer(failed, candidates=candidates, deadline_s=1e6, confidence=0.7)
    assert [row.instance_type for row in with_deadline.rows] == ["good"]
    lax = answer(failed, candidates=candidates, deadline_s=1e6, confidence=0.6)
    assert {row.instance_type: row.deadline_probability for row in lax.rows}["flaky"] == pytest.approx(2 / 3, rel=1e-6)


def test_a_configuration_whose_every_run_failed_is_excluded_and_a_failure_is_never_a_fast_run() -> None:
    crash = {"workload": "sort", "instance_type": "m5.2xlarge", "node_count": 1, "runtime_s": 1.0, "input.scale": 1.0}
    runs = pd.concat([measured().assign(status="completed"), pd.DataFrame([{**crash, "status": "failed"}])])
    found = answer(runs.reset_index(drop=True), purchase=FOUR)
    assert ("m5.2xlarge", 1) not in {(row.instance_type, row.node_count) for row in found.rows}
    assert {e.reason: e.count for e in found.excluded}["failed"] == len(FOUR)
    assert all(row.runtime_s is not None and row.runtime_s.p50 > 5.0 for row in found.rows)


def test_equal_candidates_are_ordered_by_name_however_they_are_given() -> None:
    twins = pd.concat([pool().assign(instance_type=[f"{k}-{n}" for n in pool()["instance_type"]]) for k in "cab"])
    found = answer(candidates=twins)
    assert identities(answer(candidates=twins.iloc[::-1])) == identities(found)
    assert [row.instance_type for row in found.rows[:3]] == sorted(row.instance_type for row in found.rows[:3])
    assert costs(found)[0] == costs(found)[2]


def test_equal_prices_in_several_regions_are_ordered_by_region() -> None:
    found = answer(purchase=ON_DEMAND, regions=["us-west-2", "us-east-2", "us-east-1"])
    assert [row.region for row in found.rows[:3]] == ["us-east-1", "us-east-2", "us-west-2"]
    assert len({(row.instance_type, row.node_count) for row in found.rows[:3]}) == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_runs_and_of_candidates_does_not_matter(seed: int) -> None:
    plain = answer(candidates=pool(), deadline_s=200.0)
    shuffled = answer(
        measured().sample(frac=1.0, random_state=seed),
        candidates=pool().sample(frac=1.0, random_state=seed),
        deadline_s=200.0,
    )
    assert shuffled.to_dict() == plain.to_dict()


def test_asking_twice_gives_the_same_answer(four: tuple[Problem, Runs], free: Recommendation) -> None:
    assert strategy("ernest").recommend(*four).to_dict() == free.to_dict()


def test_fewer_rows_are_the_first_of_many(four: tuple[Problem, Runs], free: Recommendation) -> None:
    problem, runs = four
    for top in (1, 2, 7, 50):
        found = strategy("ernest").recommend(replace(problem, top=top), runs)
        assert identities(found) == identities(free)[:top]
        assert found.candidates == free.candidates
        assert found.excluded == free.excluded
        assert (found.warnings, found.next_run) == (free.warnings, free.next_run)


def test_what_is_too_close_to_call_does_not_depend_on_how_many_rows_are_shown() -> None:
    problem, runs = ask(purchase=ON_DEMAND, regions=["us-east-1", "us-east-2", "us-west-2"])
    many, one = (strategy("ernest").recommend(replace(problem, top=top), runs) for top in (50, 1))
    assert any("cannot be told apart" in w for w in many.warnings)
    assert one.warnings == many.warnings


def test_a_purchase_option_given_twice_counts_once() -> None:
    found = answer(purchase=[*ON_DEMAND, *ON_DEMAND])
    assert len(set(identities(found))) == len(found.rows)


# Constraints


@pytest.mark.parametrize("purchase", [ON_DEMAND, SPOT, FOUR], ids=["on-demand", "spot", "four"])
def test_a_looser_deadline_is_never_dearer_and_admits_no_fewer(purchase: tuple[PurchaseOption, ...]) -> None:
    problem, runs = ask(measured(300.0), purchase=purchase)
    best, admitted, met = np.inf, 0, set[tuple[str, int, str, str]]()
    for deadline in (9000.0, 12_000.0, 20_000.0, 30_000.0, 60_000.0, 1e6, 1e9):
        found = strategy("ernest").recommend(replace(problem, deadline_s=deadline), runs)
        assert costs(found)[0] <= best * (1 + 1e-12)
        assert found.candidates >= admitted
        assert set(identities(found)) >= met
        best, admitted, met = costs(found)[0], found.candidates, set(identities(found))
    unconstrained = strategy("ernest").recommend(problem, runs)
    assert best == costs(unconstrained)[0]


def test_a_tighter_budget_never_admits_more(four: tuple[Problem, Runs], free: Recommendation) -> None:
    problem, runs = four
    admitted = set(identities(free))
    for budget in np.quantile(costs(free), [0.9, 0.6, 0.3, 0.1, 0.02]):
        found = strategy("ernest").recommend(replace(problem, budget_usd=float(budget)), runs)
        assert set(identities(found)) < admitted
        admitted = set(identities(found))


def test_a_higher_confidence_never_admits_more(four: tuple[Problem, Runs], free: Recommendation) -> None:
    problem, runs = four
    admitted = set(identities(free))
    for confidence in (0.5, 0.7, 0.9, 0.99):
        asked = replace(
            problem, deadline_s=100.0, budget_usd=float(np.quantile(costs(free), 0.5)), confidence=confidence
        )
        found = strategy("ernest").recommend(asked, runs)
        assert set(identities(found)) <= admitted
        admitted = set(identities(found))


def spread(row: Row) -> float:
    """Standard deviation of ln runtime, from the row's own quantiles."""
    assert row.runtime_s is not None
    return float(np.log(row.runtime_s.p90 / row.runtime_s.p10) / (2 * ndtri(0.9)))


@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.99])
def test_every_row_meets_deadline_and_budget_with_the_confidence_asked_for(
    four: tuple[Problem, Runs], free: Recommendation, confidence: float
) -> None:
    problem, runs = four
    deadline, budget = 90.0, float(np.quantile(costs(free), 0.5))
    asked = replace(problem, deadline_s=deadline, budget_usd=budget, confidence=confidence)
    found = strategy("ernest").recommend(asked, runs)
    assert 0 < found.candidates < free.candidates
    figures = problem.catalogue.spot["interruption_per_month"]
    for row in found.rows:
        assert row.runtime_s is not None
        assert row.deadline_probability is not None
        within = float(ndtr(np.log(deadline / row.runtime_s.p50) / spread(row)))
        assert confidence <= row.deadline_probability <= within * (1 + 1e-9)
        if row.purchase_option != "spot":
            assert row.deadline_probability == pytest.approx(within, rel=1e-6)
        late = row.runtime_s.p50 * float(np.exp(ndtri(confidence) * spread(row)))
        if row.purchase_option == "spot":
            month = figures[row.instance_type.split(".")[0]]
            paid = spot_cost(late, row.usd_per_hour, row.node_count, month, problem.usage)
        elif row.purchase_option == "on-demand":
            paid = on_demand_cost(late, row.usd_per_hour, row.node_count)
        else:
            paid = commitment_cost(late, row.usd_per_hour, row.node_count, runs_per_month=problem.usage.runs_per_month)
        assert paid <= budget * (1 + 1e-6)


def test_the_probability_of_a_deadline_on_spot_counts_the_interruptions() -> None:
    # Ten-hour runs: the deadline leaves no time for a second attempt, and each spot node is taken back now and then.
    found = answer(measured(300.0), purchase=(*ON_DEMAND, *SPOT), deadline_s=40_000.0, confidence=0.5)
    on_demand = {
        (r.instance_type, r.node_count): r.deadline_probability for r in found.rows if r.purchase_option != "spot"
    }
    spot = [r for r in found.rows if r.purchase_option == "spot"]
    months = load_catalogue().spot["interruption_per_month"]
    assert len(spot) > 50
    for row in spot:
        assert row.runtime_s is not None
        month = months[row.instance_type.split(".")[0]]
        spared = spot_survival(row.runtime_s.p90, 40_000.0, row.node_count, month, Usage())
        within = on_demand[row.instance_type, row.node_count]
        assert within is not None
        assert row.deadline_probability == pytest.approx(within * float(spared), rel=1e-9)
    assert min((r.deadline_probability or 0.0) for r in spot) < 0.995 * min(p or 0.0 for p in on_demand.values())


def test_nothing_that_would_meet_the_constraints_is_left_out(four: tuple[Problem, Runs], free: Recommendation) -> None:
    problem, runs = four
    deadline, budget = 90.0, float(np.quantile(costs(free), 0.5))
    found = strategy("ernest").recommend(replace(problem, deadline_s=deadline, budget_usd=budget), runs)
    met = {
        identity(row)
        for row in free.rows
        if row.runtime_s and row.cost_usd and row.purchase_option != "spot"
        if ndtr(np.log(deadline / row.runtime_s.p50) / spread(row)) >= 0.9 and row.cost_usd.p90 <= budget
    }
    assert {i for i in identities(found) if i[3] != "spot"} == met


def test_quantiles_are_ordered_and_cost_follows_runtime(free: Recommendation) -> None:
    for row in free.rows:
        assert row.runtime_s is not None
        assert row.cost_usd is not None
        assert 0 < row.runtime_s.p10 < row.runtime_s.p50 < row.runtime_s.p90
        assert 0 < row.cost_usd.p10 <= row.cost_usd.p50 <= row.cost_usd.p90
        assert row.deadline_probability is None
        if row.purchase_option == "on-demand":
            expected = on_demand_cost(row.runtime_s.p50, row.usd_per_hour, row.node_count)
            assert row.cost_usd.p50 == pytest.approx(float(expected), rel=1e-12)


def suggestions(message: str) -> dict[str, float]:
    """The relaxations that an error names."""
    found: dict[str, float] = {}
    if m := re.search(r"--deadline (\S+)", message):
        found["deadline_s"] = parse_duration(m[1])
    if m := re.search(r"--budget (\S+)", message):
        found["budget_usd"] = float(m[1])
    return found


def impossible(problem: Problem, runs: Runs, **constraints: float) -> dict[str, float]:
    """The relaxations named when a question cannot be met; all on one line."""
    with pytest.raises(InfeasibleError) as caught:
        strategy("ernest").recommend(replace(problem, **constraints), runs)
    assert "\n" not in str(caught.value)
    return suggestions(str(caught.value))


@pytest.mark.parametrize("slower", [0.01, 300.0])
@pytest.mark.parametrize("purchase", [ON_DEMAND, SPOT, FOUR], ids=["on-demand", "spot", "four"])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_an_impossible_constraint_says_what_would_be_possible(
    confidence: float, purchase: tuple[PurchaseOption, ...], slower: float
) -> None:
    problem, runs = ask(measured(slower), purchase=purchase, confidence=confidence)
    for name in ("deadline_s", "budget_usd"):
        hints = impossible(problem, runs, **{name: 1e-6})
        assert list(hints) == [name]
        assert strategy("ernest").recommend(replace(problem, **hints), runs).candidates >= 1


@pytest.mark.parametrize(
    "purchase",
    [
        ON_DEMAND,
        FOUR,
        SPOT,
    ],
    ids=["on-demand", "four", "spot"],
)
def test_the_relaxation_that_is_named_is_the_nearest(purchase: tuple[PurchaseOption, ...]) -> None:
    problem, runs = ask(purchase=purchase)
    budget = impossible(problem, runs, budget_usd=1e-6)["budget_usd"]
    impossible(problem, runs, budget_usd=0.998 * budget)
    deadline = impossible(problem, runs, deadline_s=1e-6)["deadline_s"]
    impossible(problem, runs, deadline_s=deadline - 3.0)


def test_with_two_constraints_that_fail_together_the_relaxation_names_both() -> None:
    problem, runs = ask(purchase=ON_DEMAND)
    asked = replace(problem, deadline_s=15.0, budget_usd=0.005)
    hints = impossible(problem, runs, deadline_s=15.0, budget_usd=0.005)
    assert hints
    assert set(hints) == {"deadline_s", "budget_usd"}, "neither alone would do"
    assert strategy("ernest").recommend(replace(asked, **hints), runs).candidates >= 1


@pytest.mark.parametrize("options", [{"deadline_s": 0.0}, {"budget_usd": -1.0}, {"confidence": 1.0}, {"top": 0}])
def test_a_question_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        ask(**options)


# Prices


@pytest.mark.parametrize("c", [0.001, 1000.0])
def test_prices_times_c_in_a_candidates_table_are_costs_times_c_in_the_same_order(c: float) -> None:
    one, scaled = answer(candidates=pool()), answer(candidates=pool(c))
    assert same_order(one, scaled)
    assert costs(scaled) == pytest.approx([c * x for x in costs(one)], rel=1e-9)


@pytest.mark.parametrize("c", [0.5, 20.0])
def test_prices_times_c_in_a_price_table_are_costs_times_c_in_the_same_order(c: float, free: Recommendation) -> None:
    catalogue = load_catalogue()
    listed = catalogue.prices
    mine = listed[(listed["region"] == "us-east-1") & listed["instance_type"].str.match(r"[mc]5\.")]
    prices = mine[["instance_type", "region"]].assign(
        purchase_option="on-demand", usd_per_hour=c * mine["usd_per_hour"]
    )
    scaled = answer(purchase=FOUR, prices=prices)
    assert same_order(free, scaled)
    assert costs(scaled) == pytest.approx([c * x for x in costs(free)], rel=1e-9)
    budget = float(np.quantile(costs(free), 0.3))
    within = answer(purchase=FOUR, budget_usd=budget)
    assert same_order(within, answer(purchase=FOUR, prices=prices, budget_usd=c * budget))


def test_an_own_price_reaches_the_answer_and_is_called_listed() -> None:
    prices = pd.DataFrame(
        {"instance_type": ["m5.8xlarge"], "region": [None], "purchase_option": ["spot"], "usd_per_hour": [1e-4]}
    )
    best = answer(purchase=FOUR, prices=prices).rows[0]
    assert identity(best) == ("m5.8xlarge", 1, "us-east-1", "spot")
    assert (best.usd_per_hour, best.price_quality) == (1e-4, "listed")


def test_the_next_run_is_priced_by_the_users_own_price() -> None:
    prices = pd.DataFrame(
        {"instance_type": ["c5.2xlarge"], "region": [None], "purchase_option": [None], "usd_per_hour": [0.01]}
    )
    found = answer(purchase=ON_DEMAND, prices=prices)
    assert found.next_run is not None
    assert found.next_run.instance_type == found.rows[0].instance_type == "c5.2xlarge"
    assert found.rows[0].cost_usd is not None
    assert found.next_run.expected_cost_usd == pytest.approx(found.rows[0].cost_usd.p50, rel=1e-9)


def test_a_spot_price_without_interruption_figures_is_not_ranked_as_never_interrupted() -> None:
    prices = pd.DataFrame(
        {"instance_type": ["rack-04"], "region": [None], "purchase_option": ["spot"], "usd_per_hour": [0.01]}
    )
    found = answer(candidates=pool(), prices=prices, purchase=[*ON_DEMAND, *SPOT], deadline_s=500.0)
    assert {row.purchase_option for row in found.rows} == {"on-demand"}
    json.dumps(found.to_dict(), allow_nan=False)


# Ways to pay


ONE = TypeFilter(instance_types=("m5.xlarge",))


def hourly(runs_per_month: float, runtime_s: float = 3600.0, **options: Any) -> Recommendation:
    """One m5.xlarge whose full job takes `runtime_s`, on demand or reserved for a year."""
    slower = runtime_s / (10 + 400 / 4 + 2)
    runs = measured(slower, types=("m5.xlarge",))
    two = (*ON_DEMAND, *parse_purchase("reserved-1y-no-upfront"))
    usage = Usage(runs_per_month=runs_per_month)
    return answer(runs, **({"types": ONE, "node_counts": [1], "purchase": two, "usage": usage} | options))


@pytest.mark.parametrize(
    ("runs_per_month", "first"),
    [(1, "on-demand"), (440, "on-demand"), (480, "reserved-1y-no-upfront"), (700, "reserved-1y-no-upfront")],
)
def test_a_commitment_is_chosen_where_it_is_used_enough(runs_per_month: float, first: str) -> None:
    # An hour's job breaks even at 730 x .63 = 459.9 runs a month.
    found = hourly(runs_per_month)
    assert found.rows[0].purchase_option == first
    cost = {row.purchase_option: row.cost_usd.p50 for row in found.rows if row.cost_usd}
    price = found.ways_to_pay[0].usd_per_hour / (0.63 if first != "on-demand" else 1.0)
    assert cost["on-demand"] == pytest.approx(price, rel=1e-3)
    assert cost["reserved-1y-no-upfront"] == pytest.approx(price * 0.63 * 730 / runs_per_month, rel=1e-9)


def test_one_run_a_month_never_calls_for_a_commitment() -> None:
    found = answer(purchase=EVERY, usage=Usage(runs_per_month=1.0), top=50)
    assert {row.purchase_option for row in found.rows} == {"spot", "on-demand"}


def test_a_busy_month_never_calls_for_on_demand() -> None:
    options = [o for o in EVERY if o.kind != "spot"]
    assert hourly(725.0, purchase=options).rows[0].purchase_option == "reserved-3y-all-upfront"


def test_the_ways_to_pay_are_those_of_the_first_machine_cheapest_first() -> None:
    found = hourly(700.0, purchase=EVERY)
    assert {way.purchase_option for way in found.ways_to_pay} == set(BY_NAME)
    cost = [way.cost_usd for way in found.ways_to_pay]
    assert None not in cost
    assert cost == sorted(c for c in cost if c is not None)
    first = found.rows[0]
    assert first.cost_usd is not None
    assert (found.ways_to_pay[0].purchase_option, cost[0]) == (first.purchase_option, pytest.approx(first.cost_usd.p50))


def test_spot_is_chosen_for_short_runs_and_not_for_very_long_ones_without_checkpoints() -> None:
    both = (*ON_DEMAND, *SPOT)
    long = 200 * 24 * 3600.0
    assert hourly(1.0, purchase=both).rows[0].purchase_option == "spot"
    assert hourly(1.0, long, purchase=both).rows[0].purchase_option == "on-demand"
    usage = Usage(runs_per_month=1.0, checkpoint_interval_s=3600.0)
    assert hourly(1.0, long, purchase=both, usage=usage).rows[0].purchase_option == "spot"


def test_a_run_that_would_never_finish_on_spot_is_excluded_and_the_reason_names_the_remedy() -> None:
    century = {"inputs": {"scale": 1e6}, "purchase": (*ON_DEMAND, *SPOT)}
    found = hourly(1.0, 36_000.0, **century)
    assert [row.purchase_option for row in found.rows] == ["on-demand"]
    reasons = {e.reason: e for e in found.excluded}
    assert reasons["never_finishes"].count == 1
    assert "--checkpoint-interval" in reasons["never_finishes"].sentence
    with pytest.raises(InfeasibleError, match="--checkpoint-interval"):
        hourly(1.0, 36_000.0, **(century | {"purchase": SPOT}))
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_deadline_on_a_run_that_would_never_finish_on_spot_is_no_numerical_accident() -> None:
    found = hourly(1.0, 36_000.0, inputs={"scale": 1e6}, purchase=(*ON_DEMAND, *SPOT), deadline_s=1e12)
    assert [row.purchase_option for row in found.rows] == ["on-demand"]


def test_a_run_that_would_take_longer_than_the_universe_on_spot_is_not_recommended() -> None:
    with pytest.raises(InfeasibleError, match="never_finishes"):
        hourly(1.0, 36_000.0, inputs={"scale": 3e4}, purchase=SPOT)


def test_a_run_that_would_hardly_finish_on_spot_is_still_json() -> None:
    # The hazard of m5 is 0.000394 an hour; λT = 693 at the median, e^693 is a number still, and e^739 (7 % more) is not.
    found = hourly(1.0, 36_000.0, inputs={"scale": 1.97e5}, purchase=(*ON_DEMAND, *SPOT))
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_deadline_counts_the_time_that_checkpoints_take() -> None:
    # An hour of work that is saved every minute for half a minute takes an hour and a half.
    usage = Usage(checkpoint_interval_s=60.0, checkpoint_cost_s=30.0)
    with pytest.raises(InfeasibleError):
        hourly(1.0, purchase=SPOT, usage=usage, deadline_s=4200.0)


# Counts and words


@pytest.mark.parametrize(
    "options",
    [
        {"purchase": EVERY},
        {"purchase": FOUR, "deadline_s": 60.0},
        {"purchase": FOUR, "deadline_s": 60.0, "budget_usd": 0.02, "top": 3},
        {"purchase": FOUR, "regions": ["us-east-1", "eu-west-1", "ap-south-1"], "max_nodes": 3, "deadline_s": 60.0},
        {"purchase": SPOT, "node_counts": [4, 2, 2, 1]},
        {"purchase": FOUR, "types": TypeFilter(min_vcpus=4), "include_burstable": True, "budget_usd": 0.05},
        {"candidates": pool(), "max_nodes": 2, "deadline_s": 60.0, "purchase": FOUR},
    ],
    ids=["every option", "deadline", "both", "regions", "node counts", "catalogue", "table"],
)
@pytest.mark.parametrize("memory", [False, True])
def test_ranked_and_excluded_add_up_to_all_candidates(options: dict[str, Any], memory: bool) -> None:
    runs = measured()
    if memory:
        runs["metric.peak_memory_gib"] = 20.0 * runs["input.scale"]
    found = answer(runs, **options)
    reasons = [e.reason for e in found.excluded]
    assert len(reasons) == len(set(reasons))
    assert all(e.count > 0 and e.sentence for e in found.excluded)
    assert ("memory" in reasons) == memory
    assert found.candidates + sum(e.count for e in found.excluded) == found.problem["candidates"]
    assert len(found.rows) == min(found.candidates, options.get("top", ALL_ROWS))


def test_candidates_are_counted_by_type_region_size_and_purchase_option() -> None:
    def total(**options: Any) -> int:
        return int(answer(top=1, **options).problem["candidates"])

    catalogue = load_catalogue()
    priced = catalogue.prices.loc[catalogue.prices["region"] == "us-east-1", "instance_type"]
    offered = catalogue.offered.index[catalogue.offered["us-east-1"].to_numpy(bool)]
    pairs = len(set(priced) | set(offered))
    assert total(purchase=ON_DEMAND, node_counts=[1]) == pairs
    assert total(purchase=EVERY, node_counts=[1]) == 26 * pairs
    assert total(purchase=FOUR, node_counts=[1, 4, 16]) == 12 * pairs
    assert total(candidates=pool(), purchase=FOUR) == total(candidates=pool(), purchase=FOUR, max_nodes=1) == 64


def test_a_node_count_given_twice_counts_once() -> None:
    once, twice = answer(node_counts=[1, 2]), answer(node_counts=[1, 2, 2])
    assert identities(twice) == identities(once)
    assert twice.problem["candidates"] == once.problem["candidates"]


def test_machines_too_small_for_the_job_are_never_ranked() -> None:
    runs = measured().assign(**{"metric.peak_memory_gib": 20.0})
    specs = load_catalogue().types["memory_gib"]
    unmeasured = [row for row in answer(runs, purchase=FOUR).rows if row.evidence != "measured"]
    assert all(specs[row.instance_type] >= 20.0 for row in unmeasured)


def test_the_json_holds_plain_finite_values_and_says_what_was_asked(four: tuple[Problem, Runs]) -> None:
    problem, runs = four
    found = strategy("ernest").recommend(replace(problem, deadline_s=90.0, budget_usd=0.05), runs)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["problem"]["deadline_s"] == 90.0
    assert data["problem"]["budget_usd"] == 0.05
    assert data["problem"]["inputs"] == {"scale": 1.0}
    assert data["problem"]["purchase_options"] == [o.name for o in FOUR]
    assert len(data["recommendations"]) == len(found.rows)
    for row in data["recommendations"]:
        assert row["evidence"] in ("measured", "modelled", "transferred", "assumed")
        assert row["price_quality"] in ("listed", "repaired", "estimated")
        assert row["reason"]
        assert set(row["runtime_s"]) == set(row["cost_usd"]) == {"p10", "p50", "p90"}
    assert found.to_frame()["cost_usd_p50"].tolist() == costs(found)


def test_what_was_measured_is_called_so_and_what_was_not_is_never(free: Recommendation) -> None:
    ran = {(name, m) for name in ("m5.xlarge", "c5.xlarge") for m in (1, 2, 4)}
    assert {(row.instance_type, row.node_count) for row in free.rows if row.evidence == "measured"} == ran


def test_runs_on_the_profiling_machine_rank_the_catalogue() -> None:
    found = answer(on_a_laptop(), purchase=FOUR, deadline_s=200.0)
    assert {row.node_count for row in found.rows} == {1}
    assert all(row.evidence != "measured" for row in found.rows)
    assert all((row.deadline_probability or 0.0) >= 0.9 for row in found.rows)
    assert found.candidates + sum(e.count for e in found.excluded) == found.problem["candidates"]
    # Laws hold there too: twice the vCPUs are never slower.
    time = {row.instance_type: row.runtime_s.p50 for row in found.rows if row.runtime_s}
    sizes = [time[f"m5.{size}"] for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge") if f"m5.{size}" in time]
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True)


# Nothing known


def test_without_a_runtime_there_is_neither_runtime_nor_cost_and_never_zero() -> None:
    found = answer(name="price-only", runs=measured().iloc[:0], workload="sort", purchase=FOUR, deadline_s=60.0)
    assert found.candidates == len(found.rows) > 50
    for row in found.rows:
        assert row.runtime_s is row.cost_usd is row.deadline_probability is None
        assert row.usd_per_hour > 0
        assert row.evidence == "assumed"
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["recommendations"][0]["runtime_s"] is None
    assert {way["cost_usd"] for way in data["ways_to_pay"]} == {None}
    frame = found.to_frame()
    assert frame[["runtime_s_p50", "cost_usd_p50", "cost_usd_p90", "deadline_probability"]].isna().all(axis=None)
    hour = [row.usd_per_hour * row.node_count for row in found.rows]
    assert hour == sorted(hour)
    assert any("no runtime is known" in warning for warning in found.warnings)


def test_an_unknown_runtime_among_known_ones_is_excluded_not_ranked_as_fast() -> None:
    found = answer(name="random", runs=measured(), purchase=ON_DEMAND)
    assert {(row.instance_type, row.node_count) for row in found.rows} == {
        (name, m) for name in ("m5.xlarge", "c5.xlarge") for m in (1, 2, 4)
    }
    assert {e.reason for e in found.excluded} >= {"no_evidence"}
    assert found.candidates + sum(e.count for e in found.excluded) == found.problem["candidates"]


# What the reader is told


def told(**asked: Any) -> str:
    """Everything an answer warns of, in one text."""
    return "\n".join(answer(**asked).warnings)


def test_without_measured_memory_the_answer_says_that_nothing_was_excluded_for_it() -> None:
    assert "peak memory was not measured" in told()


def test_an_input_beyond_what_was_measured_is_called_an_extrapolation() -> None:
    assert "10 x the largest measured" in told(inputs={"scale": 10.0 * float(measured()["input.scale"].max())})
    assert "the largest measured: an extrapolation" not in told(
        inputs={"scale": float(measured()["input.scale"].max())}
    )


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e300])
def test_an_input_that_cannot_be_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="allowed"):
        ask(inputs={"scale": scale})


def test_a_run_on_a_type_nobody_knows_is_refused_with_the_nearest() -> None:
    frame = measured().assign(instance_type="m5.xlarg")
    with pytest.raises(UnknownNameError, match=r"m5\.xlarg'.*did you mean"):
        ask(frame)


def test_what_is_billed_at_the_minimum_is_compared_as_billed() -> None:
    # Two machines that both run for far less than 60 s cost what 60 s cost: which is cheaper is certain.
    found = answer(inputs={"scale": 0.01}, purchase=ON_DEMAND)
    first, second = found.rows[:2]
    assert first.runtime_s is not None
    assert first.runtime_s.p90 < 60.0
    assert first.cost_usd is not None
    assert second.cost_usd is not None
    assert second.cost_usd.p50 > first.cost_usd.p50 * 1.02
    assert "cannot be told apart" not in "\n".join(found.warnings)
    assert "billed as 60 s" in first.reason


def test_a_commitment_says_how_many_machines_it_binds_and_what_is_due() -> None:
    # 1 h a run, 1,000 runs a month = 1,000 h: two clusters of 730 h. 3 years, all upfront.
    three = parse_purchase("reserved-3y-all-upfront")
    found = hourly(1000.0, 3600.0, purchase=three)
    row, way = found.rows[0], found.ways_to_pay[0]
    assert way.machines_committed == 2 * row.node_count
    assert way.usd_per_month == pytest.approx(way.usd_per_hour * 730 * way.machines_committed)
    assert way.upfront_usd == pytest.approx(way.usd_per_month * 36)
    assert f"commits to {way.machines_committed} machines for 3 years" in row.reason


class TestWithoutAPrice:
    """Machines of the user's own table that nobody prices."""

    def runs(self) -> pd.DataFrame:
        kinds, seconds = ("rack-02", "rack-04", "rack-08"), (40.0, 25.0, 16.0)
        return pd.DataFrame({"workload": "sort", "instance_type": kinds, "node_count": 1, "runtime_s": seconds})

    def answer(self, table: pd.DataFrame, **options: Any) -> Recommendation:
        return strategy("random").recommend(*build_problem(self.runs(), candidates=table, **options))

    def test_by_runtime_they_are_ranked_and_their_cost_is_not_known(self) -> None:
        table = pool().assign(usd_per_hour=lambda t: t["usd_per_hour"].where(t["instance_type"] != "rack-08"))
        answer = self.answer(table, objective="runtime")
        assert [row.label for row in answer.rows] == ["rack-08 x1", "rack-04 x1", "rack-02 x1"]
        first, second = (row.to_dict() for row in answer.rows[:2])
        assert [first[name] for name in ("region", "cost_usd", "usd_per_hour", "price_quality")] == [None] * 4
        assert first["runtime_s"]["p50"] == pytest.approx(16.0)
        assert second["cost_usd"]["p50"] > 0
        assert "56% slower, hourly prices not all known" in first["reason"]
        assert answer.ways_to_pay == ()
        assert "no_price" not in [e.reason for e in answer.excluded]
        json.dumps(answer.to_dict(), allow_nan=False)
        assert answer.to_frame()["usd_per_hour"].isna().tolist() == [True, False, False]
        line = next(line for line in as_text(answer).splitlines() if line.startswith("1 "))
        assert re.search(r"on-demand +16.* unknown +measured +unknown$", line)

    def test_without_any_price_there_is_one_offer_a_machine_however_many_regions(self) -> None:
        bare = pool().drop(columns="usd_per_hour")
        problem, _ = build_problem(
            self.runs(), candidates=bare, objective="runtime", regions=("eu-west-1", "us-east-1")
        )
        assert len(problem.candidates.offers) == len(bare)

    @pytest.mark.parametrize("options", [{}, {"objective": "runtime", "budget_usd": 1.0}])
    def test_where_money_counts_they_are_excluded(self, options: dict[str, Any]) -> None:
        with pytest.raises(InfeasibleError, match="no_price 16"):
            self.answer(pool().drop(columns="usd_per_hour"), **options)

    def test_what_the_user_prices_is_not_ranked_by_an_option_without_a_price(self) -> None:
        with pytest.raises(InfeasibleError, match="no_price"):
            self.answer(pool().drop(columns="usd_per_hour"), objective="runtime", purchase=SPOT)

    @pytest.mark.parametrize("name", ["cherrypick", "trees", "auto", "random"])
    def test_they_are_searched_by_runtime(self, name: str) -> None:
        bare = pool().drop(columns="usd_per_hour")
        problem, runs = build_problem(self.runs(), candidates=bare, objective="runtime")
        wanted = strategy(name).suggest(problem, runs)
        assert wanted is not None
        assert getattr(wanted, "expected_cost_usd", None) is None
