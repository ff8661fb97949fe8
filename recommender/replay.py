"""A strategy replayed on a recorded table: one workload is asked about as if it were new, and its runs are looked up.

Notation: the value of a run is its cost in USD (objective cost) or its runtime in seconds (objective runtime); a run is
feasible when it completed and, with a deadline, met it; the optimum is the least value of a workload's feasible runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.candidates import Configuration
from recommender.catalogue import load_catalogue
from recommender.composition import Strategy, canonical
from recommender.errors import InfeasibleError, InputError, InsufficientEvidenceError, RecommenderError
from recommender.inputs import at_inputs, scale_column
from recommender.models import Array, configuration_rows
from recommender.pricing import PurchaseOption, price_option
from recommender.problem import Objective, Problem, build_problem
from recommender.runs import Runs
from recommender.search.designs import Uniform

GroupBy = Literal["application", "workload"]
Rows = npt.NDArray[np.intp]
Key = tuple[str, int, tuple[tuple[str, object], ...]]
"""Instance type, node count and parameters of a configuration."""

COLUMNS = (
    *("strategy", "workload", "seed", "step", "instance_type", "node_count", "status", "runtime_s", "cost_usd"),
    *("incumbent_value", "normalised_incumbent", "recommended_instance_type", "recommended_node_count"),
    *("normalised_recommendation", "search_cost_usd", "stopped", "ask_seconds"),
)
"""The results contract; tables with application parameters add `param.<name>` and `recommended_param.<name>`."""


@dataclass(frozen=True, eq=False)
class Environment:
    """One workload of a recorded table, and what asking about it would have found."""

    problem: Problem
    """The question: candidates are the priced configurations that were recorded; the archive is other workloads."""
    recorded: Runs
    """Every run of a candidate at the input asked about, in canonical order."""
    configuration: Rows
    """Candidate that each recorded run executed."""
    cost_usd: Array
    """Of each recorded run: as billed, else price x runtime x nodes; NaN without a price. Failed and stopped runs cost too."""
    value: Array
    """Of each recorded run."""
    feasible: npt.NDArray[np.bool_]
    """Which recorded runs completed and met the deadline."""
    truth: Array
    """Per candidate: mean value of its completed runs; NaN without one, or where their mean misses the deadline."""
    rows: Mapping[Key, int]
    """Candidate by its key."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What was left out, in words -> how many."""

    @property
    def optimum(self) -> float:
        """The least value of a feasible run."""
        return float(self.value[self.feasible].min())

    def row(self, wanted: Configuration) -> int:
        """Return the candidate that a configuration names; -1 when it is none."""
        return self.rows.get(key_of(wanted), -1)

    def told(self, taken: list[int]) -> Runs:
        """Return the recorded runs `taken`, as a strategy is told of them."""
        return Runs(self.recorded.frame.take(taken).reset_index(drop=True))

    def draw(self, candidate: int, *, seed: int, earlier: int) -> int:
        """Return the recorded run that measuring `candidate` finds after `earlier` measurements of it.

        Repetitions come in an order drawn by (seed, candidate), so every strategy meets the same ones: each once, then
        again with replacement.
        """
        repetitions = np.flatnonzero(self.configuration == candidate)
        if earlier < len(repetitions):
            return int(np.random.default_rng([seed, candidate]).permutation(repetitions)[earlier])
        return int(np.random.default_rng([seed, candidate, earlier]).choice(repetitions))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the bundled catalogue out: each process has its own, and strategies may key caches by its identity."""
        return {**self.__dict__, "problem": {**self.problem.__dict__, "catalogue": None}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put this process's catalogue in."""
        problem = Problem(**{**state["problem"], "catalogue": load_catalogue()})
        self.__dict__.update({**state, "problem": problem})


def key_of(configuration: Configuration) -> Key:
    """Return what identifies a configuration."""
    return (configuration.instance_type, configuration.node_count, tuple(sorted(configuration.params.items())))


def recorded_configurations(runs: Runs) -> pd.DataFrame:
    """Return a candidates table of the configurations that occur in `runs`, without prices."""
    return runs.frame[["instance_type", "node_count", *runs.params]].drop_duplicates(ignore_index=True)


def environment(
    runs: Runs,
    workload: str,
    *,
    candidates: pd.DataFrame,
    objective: Objective = "cost",
    deadline_quantile: float | None = None,
    group_by: GroupBy = "application",
    prices: pd.DataFrame | None = None,
    purchase: PurchaseOption | None = None,
    region: str | None = None,
) -> Environment:
    """Ask about one workload of `runs`, with the others as archive.

    Parameters
    ----------
    candidates
        Validated candidates table. Kept are the configurations that have a recorded run (of any status) of the workload
        at its largest input, so whatever is proposed can be looked up, and that may be ranked: with objective cost those
        with a price.
    deadline_quantile
        The deadline is this quantile of the runtimes of the workload's completed runs; None: there is none.
    group_by
        `application` also takes the other workloads of the same application out of the archive.

    Raises
    ------
    InputError
        When no candidate is left, no run completed, or the parameters of runs and candidates differ.
    """
    mine = runs.of(workload)
    others = runs.frame["workload"] != workload
    if group_by == "application":
        others &= ~runs.frame["application"].isin(mine.frame["application"])
    archive, mine = filled(runs.frame[others]), filled(mine.frame)
    keys = ["instance_type", "node_count", *(c for c in map(str, candidates) if c.startswith("param."))]
    if unknown := set(mine.params) - set(keys):
        raise InputError(
            f"the runs of {workload} have {', '.join(sorted(unknown))}, which the candidates table has not; a parameter is "
            "part of the configuration: add the column to the candidates"
        )
    inputs = _largest_input(mine)
    at = at_inputs(mine.frame, inputs)
    known = canonical(Runs(mine.frame[at].reset_index(drop=True)))

    def ask(table: pd.DataFrame) -> tuple[Problem, Rows, Array, npt.NDArray[np.bool_]]:
        """The problem over `table`; for each run its candidate (-1 none: another machine, or a part of it), its cost, and
        whether the candidate may be ranked.
        """
        problem, _ = build_problem(
            known,
            workload=workload,
            candidates=table,
            prices=prices,
            objective=objective,
            purchase=(purchase,) if purchase else None,
            regions=(region,) if region else None,
            top=1,
        )
        problem = replace(problem, inputs=inputs)
        row = configuration_rows(problem, known.frame)
        used, has = known.frame["vcpus"].to_numpy(float), problem.configurations["vcpus"].to_numpy(float)
        row = np.where(used < has[row], -1, row)
        offers = problem.candidates.offers  # one a configuration: a candidates table names one price each
        price = price_option(problem.options[0], offers, problem.catalogue.spot)
        billed, runtime = (known.frame[c].to_numpy(float) for c in ("cost_usd", "runtime_s"))
        cost = np.where(np.isnan(billed), price.cost(runtime, offers, problem.usage, row), billed)
        rankable = (row >= 0) & problem.rankable(price)[row] & (np.isfinite(cost) | np.isnan(price.usd_per_hour[row]))
        return problem, row, np.where(row < 0, np.nan, cost), rankable

    table = candidates.sort_values(keys, kind="stable", ignore_index=True)
    problem, row, cost, rankable = ask(table)
    size, outside = len(table), int((row < 0).sum())
    ran = np.bincount(row[row >= 0], minlength=size)
    priced = np.bincount(row[rankable], minlength=size)
    keep = (ran > 0) & (ran == priced)
    if not keep.any():
        raise InputError(
            f"no candidate has both a price and a recorded run of {workload}: of {size} candidates {int((ran > 0).sum())} "
            "were run; give a candidates table with usd_per_hour for what was run, or --prices"
        )
    problem, row, cost, _ = ask(table[keep])
    kept = row >= 0
    recorded, row, cost = Runs(known.frame[kept].reset_index(drop=True)), row[kept], cost[kept]
    runtime, done = recorded.frame["runtime_s"].to_numpy(float), (recorded.frame["status"] == "completed").to_numpy()
    if not done.any():
        raise InputError(f"no recorded run of {workload} on a candidate completed: there is nothing to find")
    deadline = None if deadline_quantile is None else float(np.quantile(runtime[done], deadline_quantile))
    value = cost if objective == "cost" else runtime
    if not (value[done] > 0).all():
        raise InputError(f"a completed run of {workload} cost 0 USD: nothing can be compared with an optimum of 0")
    count = np.bincount(row[done], minlength=len(problem.configurations))
    mean_s, truth = (
        np.where(count > 0, np.bincount(row[done], x[done], len(count)) / np.maximum(count, 1), np.nan)
        for x in (runtime, value)
    )
    if deadline is not None:  # one part in 10^12: the mean of equal runtimes may be rounded up
        truth = np.where(mean_s <= deadline * (1 + 1e-12), truth, np.nan)
    return Environment(
        problem=replace(problem, deadline_s=deadline, archive=archive if len(archive) else None),
        recorded=recorded,
        configuration=row,
        cost_usd=cost,
        value=value,
        feasible=done & (runtime <= (np.inf if deadline is None else deadline)),
        truth=truth,
        rows={key_of(problem.candidates.configuration(i)): i for i in range(len(problem.configurations))},
        left_out=_left_out(len(mine) - len(known), outside, ran, priced),
    )


def filled(frame: pd.DataFrame) -> Runs:
    """Return runs without the input, parameter and metric columns that none of them fills."""
    families = [c for c in map(str, frame) if c.startswith(("input.", "param.", "metric."))]
    empty = [c for c in families if frame[c].isna().all()]
    return Runs(frame.drop(columns=empty).reset_index(drop=True))


def _largest_input(runs: Runs) -> dict[str, float]:
    """The input of the largest run, as far as it is known; none for runs without inputs."""
    scale = scale_column(runs.inputs)
    if scale is None:
        return {}
    order = [scale, *(c for c in runs.inputs if c != scale)]
    largest = runs.frame.sort_values(order, ascending=[False] + [True] * (len(order) - 1), kind="stable").iloc[0]
    return {c: float(largest[c]) for c in runs.inputs if not np.isnan(largest[c])}


def _left_out(elsewhere: int, other: int, ran: Rows, priced: Rows) -> dict[str, int]:
    counts = {
        "candidates were left out: the workload has no recorded run of them": int((ran == 0).sum()),
        "candidates were left out: they have no price": int(((ran > 0) & (ran != priced)).sum()),
        "runs were left out: they were made at another input than the largest": elsewhere,
        "runs were left out: they were made on no candidate, or on a part of one": other,
    }
    return {sentence: count for sentence, count in counts.items() if count}


@dataclass(frozen=True)
class Reply:
    """What a strategy said, given some runs."""

    best: Configuration | None
    """What it recommends; None: it cannot say, or nothing is feasible."""
    wanted: Configuration | None
    """What it wants measured; None: nothing, or it cannot say."""
    silent: bool
    """It cannot say what to measure."""
    seconds: float
    """How long it took to say what to measure."""


Memory = dict[tuple[int, ...], Reply]
"""Recorded runs that a strategy was told of -> what it replied."""


def episode(
    name: str, strategy: Strategy, world: Environment, *, seed: int, steps: int, memory: Memory | None = None
) -> list[dict[str, Any]]:
    """Ask, look up, tell and recommend, up to `steps` times; return a row of plain values a step, from step 0.

    Step 0 is the recommendation before any run. A strategy that cannot say what to measure (`InsufficientEvidenceError`,
    or `InfeasibleError`: the user goes on looking) measures an unmeasured candidate drawn by (seed, step), each with
    equal probability; one that cannot say what to recommend leaves the recommendation empty. The row after which the
    strategy asked for nothing more is `stopped` and the last. `ask_seconds` is the time of `suggest` alone, 0 at step 0
    unless it answered None there; everything else is the same whenever and wherever it is computed. `memory` is for a
    strategy whose replies do not depend on the seed: what it replied in other episodes of this world is not asked again.

    With a search budget the strategy is told of it, and the episode ends before the first run that passes it, whatever
    the strategy expected it to cost: the money ends while it runs, so what it found is never known. The same holds for all
    strategies, also those that plan no budget.

    Raises
    ------
    RecommenderError
        When the strategy proposes or recommends what is no candidate.
    """
    problem, taken, rows = replace(world.problem, seed=seed), list[int](), list[dict[str, Any]]()
    memory, asked_s = {} if memory is None else memory, 0.0
    try:
        for step in range(steps + 1):
            runs, state = world.told(taken), tuple(sorted(taken))
            if state not in memory:
                memory[state] = _reply(strategy, problem, runs, ask=step < steps)
            reply = memory[state]
            wanted = reply.wanted
            if reply.silent:
                wanted = Uniform().propose(problem, runs, problem.random(runs), None)
            stopped = step < steps and wanted is None
            rows.append(
                {"strategy": name, "workload": problem.workload, "seed": seed, "step": step}
                | _measured(world, taken)
                | _answer(world, reply.best)
                | {"search_cost_usd": _known(world.cost_usd[taken].sum()), "stopped": stopped}
                | {"ask_seconds": asked_s + reply.seconds if stopped else asked_s}
                | _params(world, taken, reply.best)
            )
            if wanted is None:
                break
            candidate = _candidate(world, wanted, "proposed")
            earlier = int((world.configuration[taken] == candidate).sum())
            drawn = world.draw(candidate, seed=seed, earlier=earlier)
            budget = problem.search_budget_usd
            if budget is not None and float(world.cost_usd[[*taken, drawn]].sum()) > budget * (1 + 1e-12):
                rows[-1] |= {"stopped": True, "ask_seconds": rows[-1]["ask_seconds"] + reply.seconds}
                break
            taken.append(drawn)
            asked_s = reply.seconds
    except Exception as error:
        error.add_note(f"while {name} was replayed on {problem.workload}, seed {seed}, step {len(rows)}")
        raise
    return rows


def why_unanswered(strategy: Strategy, world: Environment, rows: pd.DataFrame) -> str:
    """Why a strategy recommended nothing after the last step of an episode, whose `rows` these are, in its words."""
    taken, seed = list[int](), int(rows["seed"].iloc[0])
    for row in rows[rows["instance_type"].notna()].to_dict("records"):
        params = {c: row[c] for c in world.problem.candidates.params}
        made = Configuration(instance_type=str(row["instance_type"]), node_count=int(row["node_count"]), params=params)
        candidate = _candidate(world, made, "measured")
        taken.append(world.draw(candidate, seed=seed, earlier=int((world.configuration[taken] == candidate).sum())))
    try:
        ranked = strategy.recommend(replace(world.problem, seed=seed), world.told(taken)).rows
    except (InsufficientEvidenceError, InfeasibleError) as error:
        return str(error)
    return "" if ranked else "it ranks no candidate"


def _reply(strategy: Strategy, problem: Problem, runs: Runs, *, ask: bool) -> Reply:
    best = wanted = None
    silent = False
    with contextlib.suppress(InsufficientEvidenceError, InfeasibleError):
        ranked = strategy.recommend(problem, runs).rows
        best = ranked[0] if ranked else None
    started = time.perf_counter()
    if ask:
        try:
            wanted = strategy.suggest(problem, runs)
        except (InsufficientEvidenceError, InfeasibleError):
            silent = True
    return Reply(best, wanted, silent, time.perf_counter() - started if ask else 0.0)


def _candidate(world: Environment, wanted: Configuration, verb: str) -> int:
    row = world.row(wanted)
    if row < 0:
        raise RecommenderError(
            f"the strategy {verb} {wanted.label}, which is not among the {len(world.rows)} candidates; a strategy may "
            "name candidates only"
        )
    return row


def _measured(world: Environment, taken: list[int]) -> dict[str, Any]:
    """What the last run was, and the best feasible one so far; None where there is none."""
    names = ("instance_type", "node_count", "status", "runtime_s")
    found: dict[str, Any] = dict.fromkeys((*names, "cost_usd", "incumbent_value", "normalised_incumbent"))
    if taken:
        cells = world.recorded.frame.iloc[taken[-1]]
        plain = (str(cells[names[0]]), int(cells[names[1]]), str(cells[names[2]]), float(cells[names[3]]))
        found |= {**dict(zip(names, plain, strict=True)), "cost_usd": _known(world.cost_usd[taken[-1]])}
    values = world.value[taken][world.feasible[taken]]
    if len(values):
        found |= {"incumbent_value": float(values.min()), "normalised_incumbent": float(values.min()) / world.optimum}
    return found


def _known(usd: float) -> float | None:
    """A sum of money; None where a part of it is not known."""
    return None if np.isnan(usd) else float(usd)


def _answer(world: Environment, best: Configuration | None) -> dict[str, Any]:
    """What is recommended, and its true value over the optimum; None where there is none."""
    true = np.nan if best is None else world.truth[_candidate(world, best, "recommended")]
    return {
        "recommended_instance_type": best.instance_type if best else None,
        "recommended_node_count": best.node_count if best else None,
        "normalised_recommendation": float(true) / world.optimum if np.isfinite(true) else None,
    }


def _params(world: Environment, taken: list[int], best: Configuration | None) -> dict[str, Any]:
    names = world.problem.candidates.params
    candidate = world.problem.candidates.configuration(int(world.configuration[taken[-1]])) if taken and names else None
    return {c: candidate.params.get(c) if candidate else None for c in names} | {
        f"recommended_{c}": best.params.get(c) if best else None for c in names
    }
