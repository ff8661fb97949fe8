"""Replay of the lynceus data set at a fixed search budget: regret and spend of look-ahead, greedy, cherrypick and random.

python tools/bench_lookahead.py [--seeds 20] [--runs 12] [--strategies lynceus,lynceus-greedy,cherrypick,random] [--abort]

An episode is a job x seed, once without a deadline and once with one of 600 s. The search budget is `runs` times the
job's mean cost of a recorded run, failed and stopped ones included. Every ask is answered by the recorded run. The
strategy decides when to stop; those that plan no budget (cherrypick, random; their own stopping rules are switched off)
are stopped before the run whose expected cost, where they have one, does not fit what is left, and else when the budget is
spent. A run that would pass the budget is cut when it is used up, as by `tune`, counted, and finds nothing. --abort:
a run is stopped, and told as timed out, when its cost passes the incumbent's or what is left. Regret compares what is
recommended at the end, and the best that was measured, with the cheapest completed run of the job.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recommender.datasets import fetch_dataset
from recommender.errors import InfeasibleError, InsufficientEvidenceError
from recommender.problem import build_problem
from recommender.replay import key_of
from recommender.runs import Runs
from recommender.search.acquisition import row_of
from recommender.search.lookahead import LookAhead, run_limit_s
from recommender.search.stopping import Never, SearchBudget
from recommender.strategies import ModelBased, Strategy, strategy

DEADLINE_S = 600.0


def variants() -> dict[str, Strategy]:
    """Name -> strategy, all of which were run."""
    made = strategy("lynceus")
    assert isinstance(made, ModelBased)
    return {
        "lynceus": made,
        "lynceus-greedy": replace(made, acquisition=LookAhead(horizon=0)),
        "cherrypick": strategy("cherrypick"),
        "random": strategy("random"),
    }


@dataclass(frozen=True)
class Task:
    """One job under one strategy."""

    name: str
    job: str
    table: pd.DataFrame
    candidates: pd.DataFrame
    runs: float
    seeds: int
    deadline_s: float | None
    abort: bool


def replay(task: Task) -> list[dict[str, Any]]:
    """One row an episode."""
    table = task.table.reset_index(drop=True)
    blank, _ = build_problem(None, workload=task.job, candidates=task.candidates, deadline_s=task.deadline_s, top=1)
    usd = table["cost_usd"].to_numpy(float)
    budget = float(task.runs * usd.mean())
    names = [c for c in table if str(c).startswith("param.")]
    params = table[names].to_dict("records")
    shape = zip(table["instance_type"], table["node_count"], params, strict=True)
    where = {(t, int(n), tuple(sorted(p.items()))): i for i, (t, n, p) in enumerate(shape)}
    feasible = (table["status"] == "completed").to_numpy()
    if task.deadline_s is not None:
        feasible = feasible & (table["runtime_s"].to_numpy(float) <= task.deadline_s)
    optimum = usd[feasible].min()
    made = variants()[task.name]
    aware = task.name.startswith("lynceus")
    found = []
    for seed in range(task.seeds):
        problem = replace(blank, seed=seed, search_budget_usd=budget)
        chosen = made
        if isinstance(made, ModelBased) and not aware:
            chosen = replace(made, stop=SearchBudget(budget) if made.acquisition is not None else Never())
        told, seen, asked = table.iloc[:0], [], []
        over = aborted = False
        stopped = 0
        while True:
            runs = Runs(told.reset_index(drop=True))
            if not aware and told["cost_usd"].sum() >= budget:
                break
            begun = time.perf_counter()
            wanted = chosen.suggest(problem, runs)
            asked.append(time.perf_counter() - begun)
            if wanted is None:
                break
            i = where[key_of(wanted)]
            run = table.iloc[[i]].copy()
            if task.abort:
                left = budget - float(told["cost_usd"].sum())
                limit = run_limit_s(problem, runs, row_of(problem, wanted), left_usd=left)
                if limit < run["runtime_s"].iloc[0]:
                    run["cost_usd"] *= limit / run["runtime_s"].iloc[0]
                    run["runtime_s"], run["status"], aborted = limit, "timed_out", True
                    stopped += 1
            left = budget - float(told["cost_usd"].sum())
            if run["cost_usd"].iloc[0] > left * (1 + 1e-9):  # as `tune` does: the run ends with the money
                run["runtime_s"] *= left / run["cost_usd"]
                run["cost_usd"], run["status"], over = left, "timed_out", True
            told = pd.concat([told, run], ignore_index=True) if len(told) else run
            if over:
                break
            if feasible[i] and run["status"].iloc[0] == "completed":
                seen.append(usd[i] / optimum)
        spent = float(told["cost_usd"].sum())
        assert spent <= budget * (1 + 1e-9)
        known = told.iloc[:-1] if over else told
        try:
            first = chosen.recommend(replace(problem, search_budget_usd=None), Runs(known.reset_index(drop=True))).rows[
                0
            ]
            i = where[key_of(first)]
            recommended = usd[i] / optimum if feasible[i] else np.inf
        except (InfeasibleError, InsufficientEvidenceError):
            recommended = np.nan
        found.append(
            {
                "strategy": task.name + (" +abort" if task.abort else ""),
                "deadline": task.deadline_s is not None,
                "job": task.job,
                "seed": seed,
                "runs": len(known),
                "spent": spent / budget,
                "over": over,
                "aborted": stopped if aborted else 0,
                "measured": min(seen, default=np.inf),
                "recommended": recommended,
                "ask_s": float(np.median(asked)),
            }
        )
    return found


def report(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row a group of episodes."""
    groups = rows.groupby(by, sort=False)
    return pd.DataFrame(
        {
            "episodes": groups.size(),
            "runs": groups["runs"].mean().round(1),
            "spent": groups["spent"].mean().round(2),
            "cut at the budget": groups["over"].sum(),
            "median regret": (groups["measured"].median() - 1.0).round(3),
            "p90 regret": (groups["measured"].quantile(0.9, interpolation="higher") - 1.0).round(3),
            "measured <= 1.1": groups["measured"].agg(lambda x: (x <= 1.1).mean()).round(3),
            "recommended <= 1.1": groups["recommended"].agg(lambda x: (x <= 1.1).mean()).round(3),
            "recommended infeasible": groups["recommended"].agg(lambda x: np.isinf(x).mean()).round(3),
            "no answer": groups["recommended"].agg(lambda x: x.isna().mean()).round(3),
            "ask s": groups["ask_s"].median().round(3),
        }
    )


def markdown(table: pd.DataFrame) -> str:
    """A table as the documents hold it."""
    lines = [list(map(str, table)), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Print one row a strategy, and one a strategy and job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default=",".join(variants()))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs", type=float, default=12.0)
    parser.add_argument("--markdown", action="store_true", help="print tables for the documents")
    parser.add_argument("--abort", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    data = fetch_dataset("lynceus", mirror=given.mirror, cache=given.cache)
    assert data.runs is not None
    frame, begun = data.runs.frame, time.perf_counter()
    tasks = [
        Task(name, job, frame[frame["workload"] == job], data.candidates, given.runs, given.seeds, limit, given.abort)
        for limit in (None, DEADLINE_S)
        for name in given.strategies.split(",")
        for job in data.runs.workloads
    ]
    with ProcessPoolExecutor(given.jobs) as pool:
        rows = pd.DataFrame([row for rows in pool.map(replay, tasks) for row in rows])
    for by in (["deadline", "strategy"], ["deadline", "strategy", "job"]):
        table = report(rows, by).reset_index()
        print(markdown(table) if given.markdown else table.to_string(index=False), end="\n\n")
    print(f"{len(rows)} episodes of {given.runs:g} mean runs' budget in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
