"""A grid of episodes: strategies x workloads x seeds, in parallel, resumed where it was interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from recommender.checkpoint import Checkpoint, Key, Row
from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.leakage import leakage
from recommender.pricing import PurchaseOption
from recommender.problem import Objective, check_runs_planned
from recommender.replay import (
    COLUMNS,
    Environment,
    GroupBy,
    Memory,
    environment,
    episode,
    recorded_configurations,
    why_unanswered,
)
from recommender.runs import Runs, read_runs
from recommender.strategies import Strategy, strategy
from recommender.table_files import write_table
from recommender.tables import CANDIDATES, PRICES, read_table
from recommender.workers import Task, on_dask, on_loky

Backend = Literal["loky", "dask"]
Progress = Callable[[int, int], None]
"""Called with the number of finished episodes and of all of them."""

YARDSTICKS = ("random", "column-mean", "best-fixed")
"""What must be beaten: part of every evaluation."""
SEED_FREE = ("column-mean", "best-fixed", "price-only", "prior", "selecta", "quasar", "neighbours")
"""Strategies whose replies do not depend on the seed: the same runs are not asked about twice."""
SEEDS_PER_TASK = 5
"""Episodes that a worker computes before it reports, and that an interruption may cost."""
ALONE = (
    "applications are not named, or as workloads are, so each workload is one of its own: archives hold every other workload, sizes "
    "of the same program too if there are any"
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What will be replayed; make one with `plan`, and `run` it."""

    worlds: tuple[Environment, ...]
    """One a workload, sorted by name."""
    strategies: Mapping[str, Strategy]
    """By name, in the order of the results; the yardsticks are among them."""
    seeds: int
    """Every strategy meets every workload with seeds 0 to `seeds` - 1."""
    steps: int
    """Most runs of an episode."""
    identity: Mapping[str, str]
    """What decides the results: options, digests of the tables, the package's version. The number of jobs does not."""
    notes: tuple[str, ...]
    """What was left out and where an archive leaks, to be printed with every answer."""

    @property
    def keys(self) -> list[Key]:
        """Every episode, in the order of the results."""
        names = [str(world.problem.workload) for world in self.worlds]
        return [(name, workload, seed) for name in self.strategies for workload in names for seed in range(self.seeds)]


def evaluate(
    runs: Runs | pd.DataFrame | str | Path,
    *,
    strategies: Sequence[str] | Mapping[str, Strategy] = (),
    candidates: pd.DataFrame | str | Path | None = None,
    objective: Objective = "cost",
    deadline_quantile: float | None = None,
    steps: int = 15,
    seeds: int = 20,
    group_by: GroupBy = "application",
    workloads: Sequence[str] | None = None,
    prices: pd.DataFrame | str | Path | None = None,
    purchase: PurchaseOption | None = None,
    region: str | None = None,
    runs_planned: float | None = None,
    search_budget_usd: float | None = None,
    search_budget_runs: float | None = None,
    jobs: int = 1,
    out: str | Path | None = None,
) -> pd.DataFrame:
    """Replay strategies, and the yardsticks, on a recorded table; `plan` and `run` in one call, which document the rest.

    Returns
    -------
    One row a step, in the columns of `recommender.replay.COLUMNS`; missing cells are NaN, None or NA.
    """
    planned = plan(
        runs,
        strategies=strategies,
        candidates=candidates,
        objective=objective,
        deadline_quantile=deadline_quantile,
        steps=steps,
        seeds=seeds,
        group_by=group_by,
        workloads=workloads,
        prices=prices,
        purchase=purchase,
        region=region,
        runs_planned=runs_planned,
        search_budget_usd=search_budget_usd,
        search_budget_runs=search_budget_runs,
    )
    return run(planned, jobs=jobs, out=out)


def plan(
    runs: Runs | pd.DataFrame | str | Path,
    *,
    strategies: Sequence[str] | Mapping[str, Strategy] = (),
    candidates: pd.DataFrame | str | Path | None = None,
    objective: Objective = "cost",
    deadline_quantile: float | None = None,
    steps: int = 15,
    seeds: int = 20,
    group_by: GroupBy = "application",
    workloads: Sequence[str] | None = None,
    prices: pd.DataFrame | str | Path | None = None,
    purchase: PurchaseOption | None = None,
    region: str | None = None,
    runs_planned: float | None = None,
    search_budget_usd: float | None = None,
    search_budget_runs: float | None = None,
) -> Evaluation:
    """Read the tables and ask about every workload as if it were new.

    Parameters
    ----------
    strategies
        Names, or name -> strategy for one that is not installed. The yardsticks are added.
    candidates
        Candidates table; None: the configurations that occur in the runs, at the prices of the catalogue.
    deadline_quantile
        Each workload's deadline is this quantile of its completed runs' runtimes; None: there is none.
    group_by
        `application`: no run of the same application is in a workload's archive. `workload`: only its own are not.
    workloads
        Those asked about, by default all; the others still are archive.
    purchase
        How runs are paid that the table bills nothing for, and what strategies optimise; default on-demand.
    runs_planned
        Searches end when their next run is not worth its cost over this many runs, as in `build_problem`.

    search_budget_usd, search_budget_runs
        What an episode may spend on measuring: USD, or so many times the mean cost of a recorded run of the workload. No
        strategy gets the result of a run that would pass it: see `recommender.replay.episode`.

    Raises
    ------
    RecommenderError
        For unreadable tables, unknown names, values outside their range, and when no workload can be asked about.
    """
    _check(steps, seeds, deadline_quantile)
    check_runs_planned(runs_planned, objective)
    _check_search_budget(search_budget_usd, search_budget_runs)
    runs = runs if isinstance(runs, Runs) else read_runs(runs)
    table = recorded_configurations(runs) if candidates is None else candidates
    table = read_table(table, CANDIDATES)
    price_table = None if prices is None else read_table(prices, PRICES)
    for name in workloads or ():
        if name not in runs.workloads:
            raise UnknownNameError(f"workload {name!r} is not in the runs table{did_you_mean(name, runs.workloads)}")
    worlds, skipped = [], []
    for name in sorted(set(workloads or runs.workloads)):
        try:
            world = environment(
                runs,
                name,
                candidates=table,
                objective=objective,
                deadline_quantile=deadline_quantile,
                group_by=group_by,
                prices=price_table,
                purchase=purchase,
                region=region,
            )
        except InputError as error:
            if workloads:
                raise
            skipped.append(error)
        else:
            usd = search_budget_usd
            if (search_budget_usd or search_budget_runs) and np.isnan(world.cost_usd).any():
                raise InputError(
                    f"a search budget was given, but what some runs of {name} cost is not known; give prices, or no budget"
                )
            if search_budget_runs is not None:
                usd = search_budget_runs * float(world.cost_usd.mean())
            asked = replace(world.problem, runs_planned=runs_planned, search_budget_usd=usd)
            worlds.append(replace(world, problem=asked))
    if not worlds:
        raise skipped[0] if skipped else InputError("the runs table has no rows: there is nothing to replay")
    chosen = _with_yardsticks(strategies)
    identity = {
        "version": version("cloud-configuration-recommender"),
        **{name: _digest(f) for name, f in (("runs", runs.frame), ("candidates", table), ("prices", price_table))},
        # Without addresses in memory, which differ from process to process.
        "strategies": re.sub(" at 0x[0-9a-f]+", "", json.dumps({n: repr(s) for n, s in chosen.items()})),
        "workloads": json.dumps([world.problem.workload for world in worlds]),
        "options": json.dumps(
            [
                *(objective, deadline_quantile, group_by, purchase and purchase.name, region),
                *(runs_planned, search_budget_usd, search_budget_runs),
            ]
        ),
        "steps": str(steps),
        "seeds": str(seeds),
    }
    sentences = dict.fromkeys(s for world in worlds for s in world.left_out)
    counts = {s: [world.left_out[s] for world in worlds if s in world.left_out] for s in sentences}
    left_out = [f"{sum(n)} {s} (in {len(n)} of {len(worlds)} workloads)" for s, n in counts.items()]
    alone = group_by == "application" and bool((runs.frame["application"] == runs.frame["workload"]).all())
    grouped = (ALONE,) if alone and len(worlds) > 1 else ()
    notes = (*(f"left out: {error}" for error in skipped), *left_out, *grouped, *leakage(worlds))
    return Evaluation(tuple(worlds), chosen, seeds, steps, identity, notes)


def _check(steps: int, seeds: int, deadline_quantile: float | None) -> None:
    for name, value in (("steps", steps), ("seeds", seeds)):
        if not 1 <= value <= 1_000_000:
            raise InputError(f"{name} is {value}; a whole number from 1 to 1000000 is needed")
    if deadline_quantile is not None and not 0 <= deadline_quantile <= 1:
        raise InputError(f"the deadline quantile is {deadline_quantile}; a number from 0 to 1 is needed")


def _check_search_budget(usd: float | None, runs: float | None) -> None:
    if usd is not None and runs is not None:
        raise InputError(f"the search budget is given as {usd} USD and as {runs} mean runs; give one of them")
    for name, value in (("search budget in USD", usd), ("search budget in mean runs", runs)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"the {name} is {value}; a positive finite number is needed")


def _with_yardsticks(strategies: Sequence[str] | Mapping[str, Strategy]) -> dict[str, Strategy]:
    if isinstance(strategies, str):
        raise InputError(f"strategies is the text {strategies!r}; a list of names is needed")
    given = dict(strategies) if isinstance(strategies, Mapping) else {name: strategy(name) for name in strategies}
    return given | {name: strategy(name) for name in YARDSTICKS if name not in given}


def _digest(frame: pd.DataFrame | None) -> str:
    return "" if frame is None else hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


def run(
    evaluation: Evaluation,
    *,
    jobs: int = 1,
    backend: Backend = "loky",
    dask_address: str | None = None,
    out: str | Path | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Compute every episode; the same results for any number of jobs, backend and interruption, but for `ask_seconds`.

    Parameters
    ----------
    jobs
        Processes; 1 computes in this one.
    dask_address
        Scheduler of an existing cluster for backend `dask`; None starts one of `jobs` processes on this machine.
    out
        Results table to write (.csv or .parquet). Finished episodes are kept beside it in `OUT.partial` until then: the
        same evaluation continues there, and another one is refused unless `restart` throws them away.

    Raises
    ------
    RecommenderError
        When `out` cannot be written or holds another evaluation's episodes, and when the backend is not available.
    """
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; at least 1 is needed")
    keys = evaluation.keys
    with contextlib.ExitStack() as stack:
        kept = None
        if out is not None:
            kept = stack.enter_context(Checkpoint(Path(out), evaluation.identity, restart=restart))
        done = dict(kept.finished) if kept is not None else {}
        computed = stack.enter_context(
            contextlib.closing(_computed(evaluation, set(done), jobs, backend, dask_address))
        )
        for batch in computed:
            done |= batch
            if kept is not None:
                kept.append(batch)
            if progress is not None:
                progress(len(done), len(keys))
        results = _frame([row for key in keys for row in done[key]])
        if out is not None and kept is not None:
            write_table(results, out)
            kept.path.unlink()
    return results


def unanswered(evaluation: Evaluation, results: pd.DataFrame) -> list[str]:
    """For each strategy with episodes that end without a recommendation: how many, and why the first of them does."""
    said = []
    worlds = {str(world.problem.workload): world for world in evaluation.worlds}
    episodes = results.groupby(["strategy", "workload", "seed"], sort=False)
    last = results[episodes.cumcount(ascending=False) == 0]
    for name, made in evaluation.strategies.items():
        mine = last[last["strategy"] == name]
        silent = mine[mine["recommended_instance_type"].isna()]
        if not len(silent):
            continue
        workload, seed = str(silent["workload"].iloc[0]), int(silent["seed"].iloc[0])
        why = why_unanswered(made, worlds[workload], episodes.get_group((name, workload, seed)))
        said.append(f"{name} recommends nothing in {len(silent)} of {len(mine)} episodes; of {workload}: {why}")
    return said


def _frame(rows: list[Row]) -> pd.DataFrame:
    extra = sorted({c for row in rows for c in row} - set(COLUMNS))
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *extra])
    for name in ("node_count", "recommended_node_count"):
        frame[name] = frame[name].astype("Int64")
    amounts = ("runtime_s", "cost_usd", "search_cost_usd")
    for name in (*amounts, "incumbent_value", "normalised_incumbent", "normalised_recommendation"):
        frame[name] = frame[name].astype(float)
    return frame


def _task(name: str, chosen: Strategy, world: Environment, seeds: Sequence[int], steps: int) -> dict[Key, list[Row]]:
    """Compute some episodes of one strategy on one workload, in whatever process this is."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # One thread: sums of several threads round differently, and processes side by side would fight for the cores.
    with threadpool_limits(1):
        workload, memory = str(world.problem.workload), Memory() if _seed_free(name, chosen) else None
        return {
            (name, workload, seed): episode(name, chosen, world, seed=seed, steps=steps, memory=memory)
            for seed in seeds
        }


def _seed_free(name: str, chosen: Strategy) -> bool:
    return name in SEED_FREE and chosen == strategy(name)


def _tasks(evaluation: Evaluation, done: set[Key]) -> Iterator[Task]:
    for name, chosen in evaluation.strategies.items():
        for world in evaluation.worlds:
            seeds = [s for s in range(evaluation.seeds) if (name, str(world.problem.workload), s) not in done]
            size = len(seeds) if _seed_free(name, chosen) else SEEDS_PER_TASK
            for first in range(0, len(seeds), size or 1):
                yield name, chosen, world, seeds[first : first + size], evaluation.steps


def _computed(
    evaluation: Evaluation, done: set[Key], jobs: int, backend: Backend, address: str | None
) -> Generator[dict[Key, list[Row]]]:
    """Yield what each task computed, as it finishes."""
    tasks = list(_tasks(evaluation, done))
    if not tasks:
        return
    if backend == "dask":
        yield from on_dask(_task, tasks, jobs, address)
    elif jobs == 1:
        for task in tasks:
            yield _task(*task)
    else:
        yield from on_loky(_task, tasks, jobs)
