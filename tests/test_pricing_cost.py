"""From runtime to money: every formula against numbers worked by hand, a simulation, and the laws it must obey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from recommender.errors import InputError
from recommender.pricing import HOURS_PER_MONTH, Usage
from recommender.pricing.cost import (
    _mean_below,
    commitment_cost,
    elapsed_with_checkpoints_s,
    expected_time_h,
    hazard_per_hour,
    on_demand_cost,
    spot_cost,
    spot_survival,
    spot_wall_time_h,
    work_within_s,
)

Array = npt.NDArray[np.float64]

HOUR = 3600.0
SCRATCH = Usage(restart_s=360.0)
SAVED = Usage(checkpoint_interval_s=600.0, checkpoint_cost_s=30.0)
USAGES = pytest.mark.parametrize("usage", [SCRATCH, SAVED], ids=["from scratch", "with checkpoints"])

law = settings(deadline=None, max_examples=40)
runtimes = st.floats(1.0, 1e6)
usd = st.floats(1e-3, 100.0)
node_counts = st.integers(1, 64)
months = st.floats(1e-6, 0.9) | st.just(0.0)
usages = st.builds(
    Usage,
    runs_per_month=st.floats(0.1, 1e5),
    checkpoint_interval_s=st.none() | st.floats(10.0, 1e5),
    checkpoint_cost_s=st.floats(0.0, 300.0),
    restart_s=st.floats(0.0, 3600.0),
)


def per_month(hazard: float) -> float:
    """P(interrupted within a month) of a hazard in 1/h."""
    return float(-np.expm1(-HOURS_PER_MONTH * hazard))


# On demand


@pytest.mark.parametrize(
    ("runtime_s", "usd_per_hour", "nodes", "usd"),
    [
        (7200.0, 0.10, 3, 0.60),  # 2 h x 10 c x 3 = 60 c
        (90.0, 0.36, 1, 0.009),  # 90 s x 0.01 c/s = 0.9 c: by the second, not by the hour
        (3601.0, 0.36, 1, 0.3601),  # the 3,601st second costs 0.01 c, not another hour
        (10.0, 0.36, 1, 0.006),  # 60 s at least: 0.6 c
        (10.0, 0.36, 5, 0.03),  # 60 s at least on each of five: 3 c
        (60.0, 0.36, 1, 0.006),  # exactly the minimum
        (61.0, 0.36, 1, 0.0061),
    ],
)
def test_on_demand_is_billed_by_the_second_with_a_minimum_of_sixty(
    runtime_s: float, usd_per_hour: float, nodes: int, usd: float
) -> None:
    assert on_demand_cost(runtime_s, usd_per_hour, nodes) == pytest.approx(usd, rel=1e-12)


def test_the_minimum_can_differ_by_candidate() -> None:
    # 10 s at 36 c/h: 0.1 c without a minimum, 0.6 c with one of a minute.
    cost = on_demand_cost(10.0, 0.36, 1, minimum_s=np.array([0.0, 60.0]))
    assert cost == pytest.approx([0.001, 0.006], rel=1e-12)


# Commitments


@pytest.mark.parametrize(
    ("runtime_h", "runs_per_month", "nodes", "cents"),
    [
        (1.0, 10.0, 1, 4599.0),  # idle 720 of 730 h: 730 x 63 c / 10
        (0.01, 10.0, 1, 4599.0),  # a shorter run saves nothing
        (1.0, 10.0, 2, 9198.0),  # two nodes committed
        (1.0, 730.0, 1, 63.0),  # exactly full: the rate itself
        (2.0, 365.0, 1, 126.0),
        (73.0, 10.0, 1, 4599.0),
        (1.0, 731.0, 1, 91980.0 / 731.0),  # an hour too much: a second commitment, 125.83 c a run
        (1.0, 1460.0, 1, 63.0),  # two, both full
        (1.0, 1461.0, 1, 137970.0 / 1461.0),  # three: 94.44 c a run
        (800.0, 1.0, 1, 91980.0),  # one run longer than a month needs two at once
    ],
)
def test_a_commitment_is_paid_around_the_clock_and_shared_by_the_runs(
    runtime_h: float, runs_per_month: float, nodes: int, cents: float
) -> None:
    cost = commitment_cost(runtime_h * HOUR, 0.63, nodes, runs_per_month=runs_per_month)
    assert 100.0 * cost == pytest.approx(cents, rel=1e-12)


@pytest.mark.parametrize("runs", [3.0, 7.0, 11.0, 30.0, 49.0, 97.0, 700.0])
def test_a_month_filled_to_the_last_second_needs_one_commitment_whatever_the_rounding(runs: float) -> None:
    cost = commitment_cost(HOURS_PER_MONTH / runs * HOUR, 1.0, 1, runs_per_month=runs)
    assert cost == pytest.approx(HOURS_PER_MONTH / runs, rel=1e-12)


def test_a_commitment_that_is_always_busy_tends_to_its_rate() -> None:
    # 1,000.5 months of work need 1,001 commitments: 0.05 % idle.
    cost = commitment_cost(1000.5 * HOURS_PER_MONTH * HOUR, 1.0, 1, runs_per_month=1.0)
    assert cost / (1000.5 * HOURS_PER_MONTH) == pytest.approx(1001 / 1000.5, rel=1e-12)


# Hazard and expected time


def test_a_hazard_gives_back_the_monthly_probability() -> None:
    # P = 1 − exp(−0.73) means a hazard of 0.001 per hour; 25 % a month is −ln 0.75 / 730 = 0.00039409 per hour.
    assert hazard_per_hour(1.0 - np.exp(-0.73)) == pytest.approx(0.001, rel=1e-12)
    assert hazard_per_hour(0.25) == pytest.approx(0.00039408503, rel=1e-7)
    assert hazard_per_hour(0.0) == 0.0
    probability = np.array([1e-12, 0.05, 0.5, 0.99])
    assert 1.0 - np.exp(-730.0 * hazard_per_hour(probability)) == pytest.approx(probability, rel=1e-3)
    assert hazard_per_hour(1e-12) == pytest.approx(1e-12 / 730.0, rel=1e-9)


def test_expected_time_counts_lost_work_and_restarts() -> None:
    # λ = 1/h and ln 2 h of work: exp(λL) − 1 = 1, so (1/λ + R)·1 = 1 h + 0.1 h.
    assert expected_time_h(np.log(2.0), 1.0, 0.1) == pytest.approx(1.1, rel=1e-12)
    # 2 ln 2 h of work: exp(λL) − 1 = 3, so 3.3 h.
    assert expected_time_h(2.0 * np.log(2.0), 1.0, 0.1) == pytest.approx(3.3, rel=1e-12)
    assert expected_time_h(5.0, 0.0, 0.1) == 5.0


def test_wall_time_from_scratch_is_one_piece() -> None:
    assert spot_wall_time_h(np.log(2.0) * HOUR, 1.0, SCRATCH) == pytest.approx(1.1, rel=1e-12)


@pytest.mark.parametrize(
    ("runtime_h", "hours"),
    [
        (3.0, 3.02),  # after the 1st and the 2nd hour, not after the last: 2 x 36 s = 0.02 h
        (2.5, 2.52),
        (1.0, 1.0),
        (0.5, 0.5),
        (1.001, 1.011),
    ],
)
def test_checkpoints_cost_time_even_without_interruptions(runtime_h: float, hours: float) -> None:
    usage = Usage(checkpoint_interval_s=HOUR, checkpoint_cost_s=36.0)
    assert spot_wall_time_h(runtime_h * HOUR, 0.0, usage) == pytest.approx(hours, rel=1e-12)


def test_wall_time_with_checkpoints_is_that_of_its_pieces() -> None:
    # c = ln 2 h − 36 s and δ = 36 s: two pieces of ln 2 h take 1.1 h each; the remainder c takes
    # 1.1 (exp(ln 2 − 0.01) − 1) = 1.1 x 0.9800997 = 1.0781096 h. Together 3.2781096 h.
    interval = np.log(2.0) * HOUR - 36.0
    usage = Usage(checkpoint_interval_s=interval, checkpoint_cost_s=36.0, restart_s=360.0)
    assert spot_wall_time_h(3.0 * interval, 1.0, usage) == pytest.approx(3.2781096, rel=1e-7)


def test_a_long_run_with_checkpoints_tends_to_the_pace_of_one_piece() -> None:
    piece = expected_time_h((600.0 + 30.0) / HOUR, 0.5, SAVED.restart_s / HOUR)
    assert spot_wall_time_h(1e9, 0.5, SAVED) / (1e9 / 600.0) == pytest.approx(piece, rel=1e-5)


def test_checkpoints_pay_off_where_interruptions_are_frequent_and_not_where_they_are_rare() -> None:
    often, rarely = 0.5, 1e-5
    assert spot_wall_time_h(6 * HOUR, often, SAVED) < 0.5 * spot_wall_time_h(6 * HOUR, often, SCRATCH)
    assert spot_wall_time_h(6 * HOUR, rarely, SAVED) > spot_wall_time_h(6 * HOUR, rarely, SCRATCH)


# Spot


def test_a_single_spot_node_pays_nothing_for_what_is_lost_in_its_first_hour() -> None:
    # Every attempt lost is younger than an hour: 30 min at 10 c/h is 5 c however often it is interrupted.
    assert spot_cost(1800.0, 0.10, 1, 0.999999, SCRATCH) == pytest.approx(0.05, rel=1e-12)
    assert spot_cost(3600.0, 0.10, 1, 0.999999, SCRATCH) == pytest.approx(0.10, rel=1e-12)


def test_a_long_run_on_one_spot_node_pays_for_attempts_lost_after_the_first_hour() -> None:
    # λ = ln 2 / 20 per h and T = 20 h, so exp(λT) = 2: two attempts on average. With M(x) the mean of λx exp(−λx) dx:
    # M(20) = (1 − 0.5 (1 + ln 2)) / λ = 0.15342641 x 28.853901 = 4.4269505 h, M(1) = 0.0169335 h.
    # Lost and paid: 2 (4.4269505 − 0.0169335) = 8.8200340 h. (20 + 8.8200340) h x 10 c = 288.20034 c.
    cost = spot_cost(20 * HOUR, 0.10, 1, per_month(np.log(2.0) / 20.0), SCRATCH)
    assert 100.0 * cost == pytest.approx(288.20034, rel=1e-6)


def test_on_a_cluster_the_companions_of_the_interrupted_node_are_paid() -> None:
    # Two nodes of hazard ln 2 / 40 each: λ = ln 2 / 20. T = 1 h: exp(λT) = 1.0352649, M(1) = 0.0169335 h, one companion:
    # 2 x 1 h + 1.0352649 x 0.0169335 h = 2.0175307 node-hours at 10 c = 20.175307 c.
    cost = spot_cost(HOUR, 0.10, 2, per_month(np.log(2.0) / 40.0), SCRATCH)
    assert 100.0 * cost == pytest.approx(20.175307, rel=1e-6)


def test_spot_with_checkpoints_pays_every_node_for_every_second_on_the_clock() -> None:
    # As in the wall time above, λ = 4 nodes x 0.01/h; pieces of exp(0.04 L) = 1.02 take (25 + 0.1)(0.02) = 0.502 h.
    # T = 3 c with δ = 0: 1.506 h x 4 nodes x 10 c = 60.24 c.
    interval = np.log(1.02) / 0.04 * HOUR
    usage = Usage(checkpoint_interval_s=interval, checkpoint_cost_s=0.0, restart_s=360.0)
    cost = spot_cost(3 * interval, 0.10, 4, per_month(0.01), usage)
    assert 100.0 * cost == pytest.approx(60.24, rel=1e-6)


@USAGES
def test_spot_too_bills_sixty_seconds_at_least(usage: Usage) -> None:
    assert spot_cost(6.0, 0.36, 2, 0.0, usage) == pytest.approx(0.012, rel=1e-12)  # 2 x 0.6 c


@pytest.mark.parametrize(("nodes", "runtime_h", "hazard"), [(1, 0.5, 0.03), (8, 6.0, 0.03), (3, 200.0, 0.001)])
def test_the_free_first_hour_is_the_only_thing_not_paid(nodes: int, runtime_h: float, hazard: float) -> None:
    # All attempts paid: n (exp(λT) − 1)/λ node-hours. Free of that: one node's time in attempts that end within 1 h.
    lam = nodes * hazard_per_hour(per_month(hazard))
    young = integrate.quad(lambda x: x * lam * np.exp(-lam * x), 0.0, min(runtime_h, 1.0))[0]
    hours = nodes * np.expm1(lam * runtime_h) / lam - np.exp(lam * runtime_h) * young
    assert spot_cost(runtime_h * HOUR, 1.0, nodes, per_month(hazard), SCRATCH) == pytest.approx(hours, rel=1e-9)


@USAGES
def test_an_unknown_interruption_probability_is_not_taken_for_none(usage: Usage) -> None:
    cost = spot_cost(HOUR, 1.0, 4, np.array([0.1, np.nan]), usage)
    assert np.isnan(cost).tolist() == [False, True]
    assert np.isnan(spot_wall_time_h(HOUR, np.array([0.1, np.nan]), usage)).tolist() == [False, True]
    assert np.isnan(spot_survival(HOUR, 2 * HOUR, 4, np.nan, usage))


def test_an_unknown_price_stays_unknown() -> None:
    for cost in (
        on_demand_cost(HOUR, np.nan, 1),
        commitment_cost(HOUR, np.nan, 1, runs_per_month=30.0),
        spot_cost(HOUR, np.nan, 1, 0.1, SCRATCH),
        spot_cost(HOUR, np.nan, 1, 0.1, SAVED),
    ):
        assert np.isnan(cost)


# Closed forms against simulation


def attempts(runtime_h: float, nodes: int, hazard: float, restart_h: float, runs: int) -> tuple[Array, Array]:
    """Node-hours paid and hours taken by simulated runs that start again from scratch, one exponential a node."""
    rng = np.random.default_rng([int(1000 * runtime_h), nodes])
    paid, taken, left = np.zeros(runs), np.zeros(runs), np.arange(runs)
    while len(left):
        first = rng.exponential(1.0 / hazard, (len(left), nodes)).min(axis=1)
        done = first >= runtime_h
        paid[left] += np.where(done, nodes * runtime_h, (nodes - (first < 1.0)) * first)
        taken[left] += np.where(done, runtime_h, first + restart_h)
        left = left[~done]
    return paid, taken


def error(sample: Array) -> float:
    return float(sample.std() / np.sqrt(len(sample)))


@pytest.mark.parametrize("nodes", [1, 8])
@pytest.mark.parametrize("runtime_h", [0.5, 6.0, 24.0])
def test_spot_cost_and_wall_time_from_scratch_are_the_means_of_simulated_runs(nodes: int, runtime_h: float) -> None:
    hazard = 0.03 if nodes * runtime_h < 100 else 0.01
    paid, taken = attempts(runtime_h, nodes, hazard, SCRATCH.restart_s / HOUR, runs=60_000)
    cost = float(spot_cost(runtime_h * HOUR, 1.0, nodes, per_month(hazard), SCRATCH))
    wall = float(spot_wall_time_h(runtime_h * HOUR, nodes * hazard, SCRATCH))
    assert abs(cost - paid.mean()) <= 4.0 * error(paid) + 1e-9
    assert abs(wall - taken.mean()) <= 4.0 * error(taken)
    # The test can tell: the interruptions add many standard errors to the undisturbed run.
    assert wall - runtime_h > 10.0 * error(taken)
    assert (nodes == 1 and runtime_h < 1.0) or cost - nodes * runtime_h > 10.0 * error(paid)


@pytest.mark.parametrize("runtime_h", [0.1, 0.5, 6.0])
def test_wall_time_with_checkpoints_is_the_mean_of_simulated_runs(runtime_h: float) -> None:
    usage, hazard, runs = Usage(checkpoint_interval_s=1000.0, checkpoint_cost_s=60.0, restart_s=300.0), 1.5, 20_000
    rng = np.random.default_rng(4)
    work = np.full(runs, runtime_h * HOUR)
    clock, left = np.zeros(runs), np.arange(runs)
    while len(left):
        more = work[left] > 1000.0 + 1e-6
        piece = np.where(more, 1060.0, work[left])
        first = rng.exponential(HOUR / hazard, len(left))
        done = first >= piece
        clock[left] += np.where(done, piece, first + 300.0)
        work[left] -= np.where(done, np.where(more, 1000.0, work[left]), 0.0)
        left = left[work[left] > 0]
    wall = float(spot_wall_time_h(runtime_h * HOUR, hazard, usage)) * HOUR
    assert abs(wall - clock.mean()) <= 4.0 * error(clock)
    assert wall - runtime_h * HOUR > 10.0 * error(clock)


@pytest.mark.parametrize("nodes", [1, 8])
@pytest.mark.parametrize("slack", [1.0, 1.2, 1.6, 2.2, 4.0])
@pytest.mark.parametrize("hazard", [0.001, 0.03])
def test_spot_survival_is_a_lower_bound_and_close_where_interruptions_are_rare(
    nodes: int, slack: float, hazard: float
) -> None:
    runtime_h = 4.0
    _, taken = attempts(runtime_h, nodes, hazard, SCRATCH.restart_s / HOUR, runs=40_000)
    truth = float((taken <= slack * runtime_h + 1e-12).mean())
    noise = 4.0 * np.sqrt(max(truth * (1.0 - truth), 1e-4) / len(taken))
    bound = float(spot_survival(runtime_h * HOUR, slack * runtime_h * HOUR, nodes, per_month(hazard), SCRATCH))
    assert 0.0 < bound <= truth + noise
    # What it leaves out are runs that finish after two interruptions or more.
    assert truth - bound <= (nodes * hazard * runtime_h) ** 2 + noise


def test_survival_by_hand() -> None:
    # λT = ln 2: half of the runs are never interrupted. D = T: 0.5. D = 2T + R: every one interrupted once may retry,
    # 0.5 (2 − 0.5) = 0.75. D = 1.5 T + R: 0.5 (2 − 2^−0.5) = 0.64645.
    runtime, month = 20 * HOUR, per_month(np.log(2.0) / 20.0)
    deadlines = [runtime, runtime + 360.0, 1.5 * runtime + 360.0, 2 * runtime + 360.0, 9 * runtime, np.inf]
    survival = [float(spot_survival(runtime, d, 1, month, SCRATCH)) for d in deadlines]
    assert survival == pytest.approx([0.5, 0.5, 0.6464466, 0.75, 0.75, 0.75], rel=1e-6)


def test_checkpoints_take_time_even_when_nothing_happens() -> None:
    # 1 h of work with 59 checkpoints of 30 s takes 1 h 29 min 30 s = 5,370 s undisturbed.
    usage = Usage(checkpoint_interval_s=60.0, checkpoint_cost_s=30.0)
    assert elapsed_with_checkpoints_s(HOUR, usage) == pytest.approx(5370.0)
    assert spot_wall_time_h(HOUR, 0.0, usage) == pytest.approx(5370.0 / 3600.0)
    # Within 100 s: one minute of work, a checkpoint, ten seconds of work. Within 85 s: the first minute only.
    assert work_within_s(100.0, usage) == pytest.approx(70.0)
    assert work_within_s(85.0, usage) == pytest.approx(60.0)
    assert work_within_s(85.0, Usage()) == 85.0


@law
@given(t=runtimes, interval=st.floats(1.0, 1e5), cost=st.floats(0.0, 1e4))
def test_the_work_that_fits_a_deadline_is_the_inverse_of_the_time_it_takes(
    t: float, interval: float, cost: float
) -> None:
    usage = Usage(checkpoint_interval_s=interval, checkpoint_cost_s=cost)
    elapsed = float(elapsed_with_checkpoints_s(t, usage))
    assert work_within_s(elapsed * (1 + 1e-9), usage) >= t * (1 - 1e-6)
    fits = work_within_s(t, usage)
    assert elapsed_with_checkpoints_s(fits * (1 - 1e-9), usage) <= t * (1 + 1e-6)


# Laws

LAWS: dict[str, Callable[..., Array]] = {
    "on-demand": lambda t, p, n, month, usage: on_demand_cost(t, p, n),
    "commitment": lambda t, p, n, month, usage: commitment_cost(t, p, n, runs_per_month=usage.runs_per_month),
    "spot": spot_cost,
}
EVERY_COST = pytest.mark.parametrize("cost", LAWS.values(), ids=LAWS)


@EVERY_COST
@law
@given(t=runtimes, longer=st.floats(1.0, 100.0), p=usd, n=node_counts, month=months, usage=usages)
def test_a_longer_run_is_never_cheaper(
    cost: Callable[..., Array], t: float, longer: float, p: float, n: int, month: float, usage: Usage
) -> None:
    short, long = cost(t, p, n, month, usage), cost(t * longer, p, n, month, usage)
    assert long >= short * (1.0 - 1e-9)


@EVERY_COST
@law
@given(t=runtimes, p=usd, c=st.floats(0.01, 100.0), n=node_counts, month=months, usage=usages)
def test_prices_times_c_are_costs_times_c(
    cost: Callable[..., Array], t: float, p: float, c: float, n: int, month: float, usage: Usage
) -> None:
    assert cost(t, c * p, n, month, usage) == pytest.approx(c * cost(t, p, n, month, usage), rel=1e-9)


@EVERY_COST
@law
@given(t=runtimes, p=usd, n=node_counts, month=months, usage=usages)
def test_a_cost_is_positive_and_at_least_that_of_the_undisturbed_run(
    cost: Callable[..., Array], t: float, p: float, n: int, month: float, usage: Usage
) -> None:
    assert cost(t, p, n, month, usage) >= p * n * t / 3600.0 * (1.0 - 1e-9) > 0.0


@law
@given(t=runtimes, p=usd, n=node_counts)
def test_spot_that_is_never_interrupted_costs_what_on_demand_does_at_its_price(t: float, p: float, n: int) -> None:
    assert spot_cost(t, p, n, 0.0, SCRATCH) == pytest.approx(on_demand_cost(t, p, n), rel=1e-12)
    free = Usage(checkpoint_interval_s=600.0, checkpoint_cost_s=0.0)
    assert spot_cost(t, p, n, 0.0, free) == pytest.approx(on_demand_cost(t, p, n), rel=1e-9)


@law
@given(t=runtimes, p=usd, n=node_counts, month=months, riskier=st.floats(1.0, 10.0), usage=usages)
def test_a_riskier_spot_market_is_never_cheaper_nor_faster_nor_safer(
    t: float, p: float, n: int, month: float, riskier: float, usage: Usage
) -> None:
    worse = 1.0 - (1.0 - month) ** riskier
    assert spot_cost(t, p, n, worse, usage) >= spot_cost(t, p, n, month, usage) * (1.0 - 1e-9)
    hazard = hazard_per_hour(month)
    assert spot_wall_time_h(t, riskier * hazard, usage) >= spot_wall_time_h(t, hazard, usage) * (1.0 - 1e-9)
    assert spot_survival(t, 2 * t, n, worse, usage) <= spot_survival(t, 2 * t, n, month, usage) * (1.0 + 1e-9)


@law
@given(t=runtimes, deadlines=st.tuples(st.floats(1.0, 1e7), st.floats(1.0, 1e7)), n=node_counts, month=months)
def test_survival_is_a_probability_that_grows_with_the_deadline(
    t: float, deadlines: tuple[float, float], n: int, month: float
) -> None:
    sooner, later = (float(spot_survival(t, d, n, month, SCRATCH)) for d in sorted(deadlines))
    assert 0.0 <= sooner <= later <= 1.0


@law
@given(x=st.floats(0.01, 1e3), z=st.floats(1e-7, 1e-2))
def test_the_series_for_small_hazards_agrees_with_the_integral(x: float, z: float) -> None:
    lam = z / x
    exact = integrate.quad(lambda y: y * lam * np.exp(-lam * y), 0.0, x)[0]
    assert _mean_below(np.asarray(x), np.asarray(lam)) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("hazard", [1e-5, 1e-8, 1e-12, 1e-15])
@USAGES
def test_a_vanishing_hazard_tends_to_no_interruptions(hazard: float, usage: Usage) -> None:
    t = np.array([60.0, 3599.0, 3601.0, 1e5])
    month = per_month(hazard)
    assert spot_cost(t, 1.0, 4, month, usage) == pytest.approx(spot_cost(t, 1.0, 4, 0.0, usage), rel=1e4 * hazard)
    wall = spot_wall_time_h(t, hazard, usage)
    assert wall == pytest.approx(spot_wall_time_h(t, 0.0, usage), rel=1e3 * hazard)


@pytest.mark.parametrize("interval", [None, 600.0, 1e12])
@pytest.mark.parametrize("runtime_s", [1e9, 1e12, 1e30, 1e100])
def test_a_run_that_would_never_end_costs_infinity_without_warning(runtime_s: float, interval: float | None) -> None:
    usage = Usage(checkpoint_interval_s=interval)
    cost = spot_cost(runtime_s, 1.0, 64, 0.9, usage)
    assert cost >= 64 * runtime_s / 3600.0
    assert np.isinf(cost) or interval == 600.0
    assert spot_survival(runtime_s, 2 * runtime_s, 64, 0.9, usage) == 0.0
    assert np.isfinite(on_demand_cost(runtime_s, 1.0, 64))
    assert np.isfinite(commitment_cost(runtime_s, 1.0, 64, runs_per_month=1.0))


def test_a_checkpoint_interval_far_beyond_the_run_is_as_none() -> None:
    rare = Usage(checkpoint_interval_s=1e12, restart_s=SCRATCH.restart_s)
    t = np.array([10.0, HOUR, 9 * HOUR])
    assert spot_wall_time_h(t, 0.3, rare) == pytest.approx(spot_wall_time_h(t, 0.3, SCRATCH), rel=1e-12)


@USAGES
def test_shapes_broadcast(usage: Usage) -> None:
    t = np.array([[60.0], [600.0], [6000.0]])
    p, n, month = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 2, 4, 8]), np.array([0.0, 0.1, 0.2, 0.3])
    assert on_demand_cost(t, p, n).shape == (3, 4)
    assert commitment_cost(t, p, n, runs_per_month=30.0).shape == (3, 4)
    table = spot_cost(t, p, n, month, usage)
    assert table.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert table[i, j] == pytest.approx(float(spot_cost(t[i, 0], p[j], n[j], month[j], usage)), rel=1e-12)
    hazard = n * hazard_per_hour(month)
    assert spot_wall_time_h(t, hazard, usage).shape == (3, 4)
    assert spot_survival(t, 9000.0, n, month, usage).shape == (3, 4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("runs_per_month", v) for v in (0.0, -1.0, np.nan, np.inf)],
        *[("checkpoint_interval_s", v) for v in (0.0, -1.0, np.nan, np.inf)],
        *[(f, v) for f in ("checkpoint_cost_s", "restart_s") for v in (-1.0, np.nan, np.inf)],
    ],
)
def test_a_usage_that_makes_no_sense_is_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        Usage(**{field: value})


def test_free_checkpoints_and_instant_restarts_are_allowed() -> None:
    assert Usage(checkpoint_interval_s=1.0, checkpoint_cost_s=0.0, restart_s=0.0).restart_s == 0.0
