"""Replay of Scout: how good is what a search strategy found, and recommends, after n runs.

python tools/bench_search.py [--strategies cherrypick,trees,random] [--steps 10] [--seeds 20] [--deadline] [--stop]

An episode is a workload x seed. Every ask is answered by the recorded run, whatever became of it. Without --stop the
stopping rule is switched off and every episode lasts `steps` runs. --deadline: each workload's median runtime, over its
completed runs. "Within 10 %" compares with the best completed configuration of the table that meets the deadline.
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
from recommender.errors import InfeasibleError
from recommender.problem import build_problem
from recommender.runs import Runs
from recommender.search.stopping import Never
from recommender.strategies import ModelBased, strategy


@dataclass(frozen=True)
class Task:
    """One workload under one strategy."""

    name: str
    made: Any
    workload: str
    table: pd.DataFrame
    candidates: pd.DataFrame
    steps: int
    seeds: int
    objective: str
    deadline: bool
    stop: bool


def replay(task: Task) -> list[dict[str, Any]]:
    """One row an episode."""
    table = task.table.reset_index(drop=True)
    done = table[table["status"] == "completed"]
    deadline = float(done["runtime_s"].median()) if task.deadline else None
    price = task.candidates.set_index(["instance_type", "node_count"])["usd_per_hour"]
    hourly = price.reindex(list(zip(table["instance_type"], table["node_count"], strict=True))).to_numpy()
    usd = hourly * table["node_count"].to_numpy(float) * table["runtime_s"].to_numpy(float) / 3600.0
    value = usd if task.objective == "cost" else table["runtime_s"].to_numpy(float)
    feasible = (table["status"] == "completed").to_numpy()
    if deadline is not None:
        feasible = feasible & (table["runtime_s"].to_numpy(float) <= deadline)
    optimum = value[feasible].min()
    where = {key: i for i, key in enumerate(zip(table["instance_type"], table["node_count"], strict=True))}
    blank, _ = build_problem(None, workload=task.workload, candidates=task.candidates, objective=task.objective)
    made = replace(task.made, stop=Never()) if isinstance(task.made, ModelBased) and not task.stop else task.made
    found = []
    for seed in range(task.seeds):
        problem = replace(blank, seed=seed, deadline_s=deadline)
        rows: list[int] = []
        asked: list[float] = []
        started = time.process_time()
        while len(rows) < task.steps:
            runs = Runs(table.iloc[rows].reset_index(drop=True))
            begun = time.perf_counter()
            wanted = made.suggest(problem, runs)
            asked.append(time.perf_counter() - begun)
            if wanted is None:
                break
            rows.append(where[wanted.instance_type, wanted.node_count])
        seen = [value[r] / optimum for r in rows if feasible[r]]
        try:
            first = made.recommend(problem, Runs(table.iloc[rows].reset_index(drop=True))).rows[0]
            r = where[first.instance_type, first.node_count]
            recommended = value[r] / optimum if feasible[r] else np.inf
        except InfeasibleError:
            recommended = np.nan
        found.append(
            {
                "strategy": task.name,
                "workload": task.workload,
                "runs": len(rows),
                "measured": min(seen, default=np.inf),
                "recommended": recommended,
                "usd": usd[rows].sum(),
                "late": np.mean([not feasible[r] for r in rows]),
                "ask_s": np.median(asked),
                "cpu_s": time.process_time() - started,
            }
        )
    return found


def report(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a strategy."""
    groups = rows.groupby("strategy", sort=False)
    return pd.DataFrame(
        {
            "runs": groups["runs"].mean(),
            "measured <= 1.1": groups["measured"].agg(lambda x: (x <= 1.1).mean()),
            "recommended <= 1.1": groups["recommended"].agg(lambda x: (x <= 1.1).mean()),
            "median regret": groups["measured"].median() - 1.0,
            "recommended infeasible": groups["recommended"].agg(lambda x: np.isinf(x).mean()),
            "no answer": groups["recommended"].agg(lambda x: x.isna().mean()),
            "runs infeasible": groups["late"].mean(),
            "search USD": groups["usd"].mean(),
            "ask s": groups["ask_s"].median(),
            "CPU s": groups["cpu_s"].sum(),
            "wall s": groups["wall_s"].first(),
        }
    ).round(3)


def compare(made: dict[str, Any], given: argparse.Namespace) -> pd.DataFrame:
    """Replay each strategy on each workload."""
    data = fetch_dataset("scout", mirror=given.mirror, cache=given.cache)
    frame = data.runs.frame
    tasks = [
        Task(
            n,
            m,
            w,
            frame[frame["workload"] == w],
            data.candidates,
            given.steps,
            given.seeds,
            given.objective,
            given.deadline,
            given.stop,
        )
        for n, m in made.items()
        for w in data.runs.workloads
    ]
    found = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for name in made:  # one after the other, so that each has a wall time of its own
            begun = time.perf_counter()
            rows = [row for rows in pool.map(replay, [t for t in tasks if t.name == name]) for row in rows]
            found.append(pd.DataFrame(rows).assign(wall_s=time.perf_counter() - begun))
    return pd.concat(found, ignore_index=True)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default="cherrypick,random")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--objective", choices=("cost", "runtime"), default="cost")
    parser.add_argument("--deadline", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--cache", type=Path)
    return parser


def main() -> None:
    """Print one row a strategy."""
    given = options().parse_args()
    begun = time.perf_counter()
    rows = compare({name: strategy(name) for name in given.strategies.split(",")}, given)
    print(report(rows).to_string())
    print(f"{len(rows)} episodes in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
