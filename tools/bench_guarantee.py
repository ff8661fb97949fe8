"""How often promises are kept, and when to stop: searches replayed on a public table, as Markdown.

python tools/bench_guarantee.py [--dataset scout] [--strategy cherrypick] [--seeds 10] [--no-stops]

A promise: "with probability p no candidate is more than x cheaper than the recommended one". It is kept when that is so in
the table, where each configuration was run once; it is broken when the recommended one failed there.

Stopping: one search a workload and seed, without a rule; each rule is asked at each step, and its search is the beginning
up to where it fires. Paid in all: the search, and N runs of what is then recommended. Where that fails in the table, the
failed run is paid and the best measured one is used.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recommender.datasets import fetch_dataset
from recommender.models import Prediction, measured
from recommender.models.completing import tried
from recommender.problem import Problem
from recommender.replay import Environment, environment
from recommender.runs import Runs
from recommender.search.acquisition import Scores
from recommender.search.guarantee import savings
from recommender.search.stopping import StoppingRule, WorthIt
from recommender.strategies import ModelBased, strategy

AFTER = (3, 4, 6, 8, 10, 15)
PROBABILITIES = (0.8, 0.9)
SHARES = (0.05, 0.10, 0.20)
PLANNED = (10, 100, 1000)
FIXED = 10


@dataclass(frozen=True)
class Recorder:
    """Notes after how many configurations each rule would have stopped; stops when all have."""

    rules: dict[str, StoppingRule]
    fired: dict[str, int] = field(default_factory=dict)

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Ask every rule that has not fired."""
        for name, rule in self.rules.items():
            if name not in self.fired and rule.reason(problem, runs, prediction, scores, row):
                self.fired[name] = len(runs)
        return "all rules have fired" if len(self.fired) == len(self.rules) else ""


@dataclass(frozen=True)
class After:
    """Stop after so many configurations."""

    count: int

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Return a sentence from `count` on."""
        return f"{self.count} were tried" if int(tried(measured(problem, runs)).sum()) >= self.count else ""


def world_of(name: str, workload: str, given: argparse.Namespace) -> Environment:
    """One workload of a data set, without archive: these searches do not read it."""
    data = fetch_dataset(name, mirror=given.mirror, cache=given.cache)
    world = environment(data.runs, workload, candidates=data.candidates)
    return replace(world, problem=replace(world.problem, archive=None))


def replayed(workload: str, given: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of promises, and rows of stops, of one workload's searches."""
    world = world_of(given.dataset, workload, given)
    plain = strategy(given.strategy)
    rules = {"its own": plain.stop, f"after {FIXED} runs": After(FIXED)}  # type: ignore[attr-defined]
    rules |= {f"worth it for {n:,} runs": WorthIt(n) for n in PLANNED} if given.stops else {}
    promised, stopped = [], []
    for seed in range(given.seeds):
        problem = replace(world.problem, seed=seed)
        recorder = Recorder(rules | {"the last promise": After(max(AFTER))})
        made = replace(plain, stop=recorder)  # type: ignore[type-var]
        taken = search(world, made, problem)
        known = [taken[:n] for n in AFTER if n <= len(taken)]
        promised += [row for mine in known for row in promise(world, made, problem, mine)]
        if given.stops:
            ends = {name: taken[: recorder.fired.get(name, len(taken))] for name in rules}
            stopped += [row for name, mine in ends.items() for row in paid(world, made, problem, name, mine)]
    return promised, stopped


def search(world: Environment, made: ModelBased, problem: Problem) -> list[int]:
    """Recorded runs in the order in which a search asks for them."""
    taken = list[int]()
    while (wanted := made.suggest(problem, world.told(taken))) is not None:
        taken.append(world.draw(world.row(wanted), seed=problem.seed, earlier=0))
    return taken


def promise(world: Environment, made: ModelBased, problem: Problem, taken: list[int]) -> list[dict[str, Any]]:
    """What is promised after some runs, and what is true; nothing where nothing completed."""
    runs = world.told(taken)
    prediction = made.model.predict(problem, runs)
    if not np.isfinite(prediction.log_runtime).any():
        return []
    row = world.row(made.recommend(problem, runs).rows[0])
    believed = savings(problem, runs, prediction, row)
    true = 1.0 - np.nanmin(world.truth) / world.truth[row]
    shares = {p: believed.quantile(p) for p in PROBABILITIES}
    return [
        {"workload": problem.workload, "after": len(taken), "failed": np.isnan(true)}
        | {f"share {p}": np.nan if s is None else s for p, s in shares.items()}
        | {f"kept {p}": np.nan if s is None else float(true <= s) for p, s in shares.items()}
        | {f"said {x}": believed.probability(x) for x in SHARES}
        | {f"true {x}": float(true <= x) for x in SHARES}
    ]


def paid(world: Environment, made: ModelBased, problem: Problem, name: str, taken: list[int]) -> list[dict[str, Any]]:
    """What a search that ended so costs, with the runs that follow; one row a number of planned runs."""
    row = world.row(made.recommend(problem, world.told(taken)).rows[0])
    best, least, spent = world.truth[row], np.nanmin(world.truth), float(world.cost_usd[taken].sum())
    if np.isnan(best):
        spent += float(world.cost_usd[world.configuration == row].mean())
        best = world.value[taken][world.feasible[taken]].min()
    return [
        {"workload": problem.workload, "planned": n, "rule": name, "runs": len(taken), "search USD": spent}
        | {"regret": best / least - 1.0, "paid USD": spent + n * best, "over": (spent + n * best) / (n * least)}
        for n in PLANNED
        if not name.startswith("worth") or name == f"worth it for {n:,} runs"
    ]


def interval(rows: pd.DataFrame, column: str) -> str:
    """Mean of a column in %, with its 95 % bootstrap interval over workloads."""
    each = rows.groupby("workload")[column].mean().dropna().to_numpy()
    drawn = np.random.default_rng(0).choice(each, (2000, len(each))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{rows[column].mean():.0%} ({low:.0%}-{high:.0%})"


def guarantee_table(rows: pd.DataFrame) -> str:
    """Promises as Markdown."""
    heads = [f"p = {p:.0%}: kept, median x" for p in PROBABILITIES]
    heads += [f"x = {x:.0%}: said, true" for x in SHARES]
    lines = [f"| runs | {' | '.join(heads)} | recommended failed |", "|---:" * (len(heads) + 2) + "|"]
    for after, of in rows.groupby("after"):
        cells = [f"{interval(of, f'kept {p}')}, {of[f'share {p}'].median():.0%}" for p in PROBABILITIES]
        cells += [f"{of[f'said {x}'].mean():.0%}, {of[f'true {x}'].mean():.0%}" for x in SHARES]
        lines.append(f"| {after} | {' | '.join(cells)} | {of['failed'].mean():.0%} |")
    return "\n".join(lines)


def worth_table(rows: pd.DataFrame) -> str:
    """Stopping rules as Markdown."""
    names = ["planned runs", "rule", "runs made", "search USD", "median regret", "p90 regret"]
    names += ["paid in all over the least, mean", "the same, p90", "paid in all, USD"]
    lines = [f"| {' | '.join(names)} |", "|---:|---|" + "---:|" * (len(names) - 2)]
    for (n, rule), of in rows.groupby(["planned", "rule"], sort=False):
        over = of["over"]
        lines.append(
            f"| {n:,} | {rule} | {of['runs'].mean():.1f} | {of['search USD'].mean():.2f} | {of['regret'].median():.1%} "
            f"| {of['regret'].quantile(0.9):.0%} | {over.mean():.3f} | {over.quantile(0.9):.3f} "
            f"| {of['paid USD'].mean():,.2f} |"
        )
    return "\n".join(lines)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="scout")
    parser.add_argument("--strategy", default="cherrypick")
    parser.add_argument("--no-stops", dest="stops", action="store_false", help="promises only")
    parser.add_argument("--workloads", type=int, help="the first so many only")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--cache", type=Path)
    return parser


def main() -> None:
    """Print the tables."""
    given = options().parse_args()
    data = fetch_dataset(given.dataset, mirror=given.mirror, cache=given.cache)
    workloads = data.runs.workloads[: given.workloads]
    with ProcessPoolExecutor(given.jobs) as pool:
        found = list(pool.map(partial(replayed, given=given), workloads))
    promised, stopped = (pd.DataFrame([row for parts in found for row in parts[i]]) for i in (0, 1))
    sys.stdout.write(guarantee_table(promised) + "\n")
    if given.stops:
        sys.stdout.write("\n" + worth_table(stopped) + "\n")


if __name__ == "__main__":
    main()
