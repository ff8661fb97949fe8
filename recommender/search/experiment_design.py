"""Which small runs teach Ernest's model most for a budget, what they will cost and the error they leave.

The criteria that choose are `recommender.search.experiment_criteria`. The paper's cost of an experiment is (s/s_min)/m; here it is USD
or seconds as expected from the runs there are. The error left is the leverage of the full-scale run, over all terms of the fit, as
in `recommender.models.ernest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InfeasibleError, InputError, InsufficientEvidenceError
from recommender.inputs import scale_column
from recommender.models import Array
from recommender.models.ernest import Ernest, outside
from recommender.models.noise import repetition_noise
from recommender.models.points import Evidence, Points, run_points, target_points
from recommender.models.scaling import BASE, MINIMUM_POINTS, At, features, fit, lies_in, null_space, undetermined
from recommender.pricing import BY_NAME, price_option
from recommender.problem import Problem
from recommender.recommendation import NextRun
from recommender.runs import Runs
from recommender.search.experiment_criteria import RIDGE, Criterion, Rows, a_optimal_with_misfit
from recommender.units import format_duration, format_usd, parse_duration

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)
"""Shares of the input asked about that experiments are made at."""
MOST_MACHINES = 16
"""Configurations that experiments are chosen from."""
MOST_MADE = 200
"""Points already run that the choice considers; of more, as many, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class Experiment(NextRun):
    """One small run to make."""

    inputs: Mapping[str, float]
    """The input to run it at: a share of the scale, the others as asked about; empty where the runs name none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the run in the JSON contract's shape, with its inputs."""
        return {**super().to_dict(), "inputs": {k.removeprefix("input."): v for k, v in self.inputs.items()}}


@dataclass(frozen=True)
class Plan:
    """The experiments a budget pays for."""

    experiments: tuple[Experiment, ...]
    """Cheapest first."""
    runtime_s: float
    """Seconds that all of them are expected to take, one after the other."""
    cost_usd: float | None
    """USD on demand that all of them are expected to cost; None without prices."""
    error_before: float | None
    """Standard deviation of ln(runtime) at the input asked about as it is now (of the family's median configuration);
    None while the runs determine no model."""
    error_after: float | None
    """The same once the experiments are made, if Ernest's terms hold; what a misfit adds is not in it. None where the
    experiments leave it undetermined."""
    considered: int
    """Experiments chosen from."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "experiments": [e.to_dict() for e in self.experiments],
            "runtime_s": self.runtime_s,
            "cost_usd": self.cost_usd,
            "error_before": self.error_before,
            "error_after": self.error_after,
            "considered": self.considered,
            "warnings": list(self.warnings),
        }


def plan(
    problem: Problem,
    runs: Runs,
    *,
    budget_usd: float | None = None,
    budget_s: float | None = None,
    shares: Sequence[float] = SHARES,
    criterion: Criterion = a_optimal_with_misfit,
) -> Plan:
    """Choose small runs for Ernest under a budget in USD, or in seconds of run time.

    Experiments are `shares` of the input asked about on up to MOST_MACHINES configurations of one instance family: that
    of the runs, else the cheapest. Their runtimes are Ernest's where the runs determine it; until then the longest that
    a run of the same work can be expected to take, so that the budget holds.

    Raises
    ------
    InsufficientEvidenceError
        Without a completed run: nothing then says what a run costs.
    InfeasibleError
        When the budget does not pay for three runs at different points.
    """
    if (budget_usd is None) == (budget_s is None):
        raise InputError("a design needs one budget: in USD (5usd) or in run time (2h)")
    if not len(runs.completed):
        raise InsufficientEvidenceError(
            "a design needs one completed run to know what runs cost; make one at a small scale, on the smallest machine"
        )
    warnings: list[str] = []
    evidence = run_points(problem, runs, warnings)
    column = scale_column(list(problem.inputs))
    rows = _family_rows(problem, evidence)
    table = problem.configurations.iloc[rows].reset_index(drop=True)
    full = problem.inputs[column] if column else 1.0
    scales = full * np.asarray(sorted(shares)) if column else np.ones(1)
    target = target_points(problem, table, evidence)
    s, at = np.repeat(scales, len(rows)), np.tile(np.arange(len(rows)), len(scales))
    m, c, q = (v[at] for v in target[1:])
    fitted = evidence.points.distinct >= MINIMUM_POINTS
    seconds = np.concatenate([_expected(problem, runs, evidence, column, float(x), rows, fitted) for x in scales])
    usd = _cost(problem, rows[at], seconds)
    if budget_usd is not None:
        if not np.isfinite(usd).any():
            raise InfeasibleError("no candidate of the family has a price; give a budget in run time, or --prices FILE")
        cost, budget = np.where(np.isfinite(usd), usd, np.inf), budget_usd
    else:
        cost, budget = seconds, float(budget_s or 0.0)
    points = evidence.points
    made = _made(points, s, m, c)
    cost = np.where(made, np.inf, cost)
    _affordable(cost, budget, budget_usd is not None)
    full_t = _expected(problem, runs, evidence, column, float(full), rows, fitted)
    kept = criterion(
        Rows.of((s, m, c, q), seconds),
        _rows_made(points),
        Rows.of(target, full_t),
        cost,
        budget,
        repetition_noise(runs)[0],
    )
    order = kept[np.argsort(cost[kept], kind="stable")]
    model = fit(points) if fitted else None
    noise = max(model.spread if model else 0.0, repetition_noise(runs)[0])
    terms = model.active if model else np.arange(BASE)
    done = ~points.censored
    everything = [(features(*points.completed_at) / (points.runtime_s * points.speed)[done, None])[:, terms]]
    asked = (features(*target) / full_t[:, None])[:, terms]
    at_runs = points.completed_at
    before = _error(asked, everything, noise, at_runs, target) if fitted else None
    everything.append((features(s, m, c, q)[kept] / seconds[kept, None])[:, terms])
    at_both = [np.concatenate(pair) for pair in zip(at_runs, (v[kept] for v in (s, m, c, q)), strict=True)]
    if not fitted:
        warnings.append(
            "runtimes of the experiments are the longest to be expected from the runs there are: the first results may show "
            "that the budget pays for more"
        )
    return Plan(
        experiments=tuple(
            Experiment(
                why=f"{s[j] / full:.3g} of the input" if column else "at the full input",
                expected_runtime_s=float(seconds[j]),
                expected_cost_usd=float(usd[j]) if np.isfinite(usd[j]) else None,
                inputs={**problem.inputs, column: float(s[j])} if column else {},
                **vars(problem.candidates.configuration(int(rows[at[j]]))),
            )
            for j in order
        ),
        runtime_s=float(seconds[kept].sum()),
        cost_usd=float(usd[kept].sum()) if np.isfinite(usd[kept]).all() else None,
        error_before=before,
        error_after=_error(asked, everything, noise, (at_both[0], at_both[1], at_both[2], at_both[3]), target),
        considered=int(np.isfinite(cost).sum()),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def parse_budget(text: str) -> dict[str, float]:
    """`5usd`, `$5` or `5` as {"budget_usd": 5.0}; `2h` or `90m` as {"budget_s": ...}.

    Raises
    ------
    InputError
        When it is neither, or not more than zero.
    """
    plain = text.strip().lower().removeprefix("$").removesuffix("usd").strip()
    try:
        usd = float(plain)
    except ValueError:
        try:
            return {"budget_s": parse_duration(text)}
        except InputError:
            raise InputError(
                f"--design-budget {text!r} is neither USD nor a duration; write for example 5usd (or 5) or 2h"
            ) from None
    if not 0 < usd < np.inf:
        raise InputError(f"--design-budget {text!r} is not more than zero and finite; write for example 5usd or 2h")
    return {"budget_usd": usd}


def _family_rows(problem: Problem, evidence: Evidence) -> npt.NDArray[np.intp]:
    """Up to MOST_MACHINES configurations of the runs' family (else of the cheapest type), spread over their vCPUs."""
    table = problem.configurations
    family = table["family"].where(table["family"] != "", table["instance_type"]).to_numpy(object)
    usd = _hourly(problem)
    for name in pd.Series(evidence.points.family).value_counts().index:
        if (family == name).any():
            break
    else:
        name = family[int(np.lexsort((np.arange(len(usd)), np.nan_to_num(usd, nan=np.inf)))[0])]
    rows = np.flatnonzero(family == name)
    total = (table["vcpus"].fillna(1.0) * table["node_count"]).to_numpy(float)[rows]
    rows = rows[np.lexsort((np.nan_to_num(usd[rows], nan=np.inf), total))]
    first = rows[np.unique(np.sort(total), return_index=True)[1]]
    return np.asarray(first[np.unique(np.linspace(0, len(first) - 1, MOST_MACHINES).astype(int))], dtype=np.intp)


def _hourly(problem: Problem) -> Array:
    """USD an hour on demand of every configuration, its cheapest offer; NaN without a price."""
    offers = problem.candidates.offers
    prices = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
    usd = np.full(len(problem.configurations), np.nan)
    np.fmin.at(usd, offers.configuration, prices.usd_per_hour * offers.nodes)
    return usd


def _cost(problem: Problem, row: npt.NDArray[np.intp], seconds: Array) -> Array:
    """What a run costs on demand on each configuration's cheapest offer; NaN without a price."""
    offers = problem.candidates.offers
    prices = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
    hourly = np.nan_to_num(prices.usd_per_hour * offers.nodes, nan=np.inf)
    order = np.lexsort((hourly, offers.configuration))
    configuration, first = np.unique(offers.configuration[order], return_index=True)
    offer = order[first][np.searchsorted(configuration, row)]
    return np.asarray(prices.cost(seconds, offers, problem.usage, offer), dtype=np.float64)


def _expected(
    problem: Problem,
    runs: Runs,
    evidence: Evidence,
    column: str | None,
    scale: float,
    rows: npt.NDArray[np.intp],
    fitted: bool,
) -> Array:
    """Seconds of a run of `scale` on the configurations `rows`: Ernest's median, else the longest to be expected."""
    if fitted:
        asked = replace(problem, inputs={**problem.inputs, column: scale}) if column else problem
        return np.exp(Ernest().predict(asked, runs).log_runtime[rows])
    points = evidence.points
    done = points.take(~points.censored)
    _, m, c, _ = target_points(problem, problem.configurations.iloc[rows], evidence)
    work = np.maximum(scale / done.scale, 1.0)[:, None]
    fewer = np.maximum((done.machines * done.vcpus)[:, None] / (m * c), 1.0)
    return np.asarray((done.runtime_s[:, None] * work * fewer).min(axis=0))


def _rows_made(points: Points) -> Rows:
    """The distinct points that completed, with the mean of their logarithmic runtimes."""
    at, of = np.unique(np.stack(points.completed_at, axis=1), axis=0, return_inverse=True)
    log_t = np.log((points.runtime_s * points.speed)[~points.censored])
    mean = np.bincount(of.ravel(), weights=log_t) / np.bincount(of.ravel())
    some = np.unique(np.linspace(0, len(at) - 1, MOST_MADE).astype(int))
    scale, machines, vcpus, units = at[some].T
    return Rows.of((scale, machines, vcpus, units), np.exp(mean[some]))


def _made(points: Points, s: Array, m: Array, c: Array) -> npt.NDArray[np.bool_]:
    """Whether an experiment repeats a point that was completed."""
    done = {(round(float(x), 12), float(y)) for x, y in zip(points.scale, points.machines * points.vcpus, strict=True)}
    return np.array([(round(float(x), 12), float(y)) in done for x, y in zip(s, m * c, strict=True)])


def _affordable(cost: Array, budget: float, usd: bool) -> None:
    """Refuse a budget that does not pay for the three cheapest experiments."""
    cheapest = np.sort(cost[np.isfinite(cost)])[:MINIMUM_POINTS]
    if len(cheapest) < MINIMUM_POINTS:
        raise InfeasibleError(
            f"only {len(cheapest)} experiments are left that were not made; consider more machines (--max-nodes) or other scales"
        )
    if (need := float(cheapest.sum())) > budget:
        show = format_usd if usd else format_duration
        raise InfeasibleError(
            f"a budget of {show(budget)} does not pay for {MINIMUM_POINTS} runs: the cheapest {MINIMUM_POINTS} are expected to "
            f"{'cost' if usd else 'take'} {show(need)}"
        )


def _error(asked: Array, made: list[Array], noise: float, known: At, target: At) -> float | None:
    """Median over configurations of √(σ² x̃ᵀ(X̃ᵀX̃)⁻¹x̃ + what lies beyond the range): x̃ terms over runtime.

    None where the runs at `known` leave half of the configurations undetermined.
    """
    x = np.concatenate(made)
    null, size = null_space(x)
    part = lies_in(asked / size, null)
    if np.median(part | undetermined(known, target)) > 0:
        return None
    leverage = np.einsum("ij,jk,ik->i", asked, np.linalg.inv(x.T @ x + RIDGE * np.eye(x.shape[1])), asked)
    beyond = outside(known[1] * known[2], known[0], target)
    return float(np.median(np.sqrt(noise**2 * np.maximum(leverage, 0.0) + beyond**2)))
