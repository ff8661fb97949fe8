"""Arrow against CherryPick on the AWS part of Lumos: do the counters of what was run help to choose the next run?

python tools/bench_arrow.py [--seeds 5] [--steps 6] [--workloads N] [--variants NAME,NAME] [--out episodes.csv]

Workloads come in an order shuffled once, so that the first N are a sample. Episodes are written to --out after each workload,
and those that it holds are not run again. An episode is a workload x objective x seed; every ask is answered by a recorded repetition, the same for all variants, and
the three starts of a seed are the same too. No stopping rule but where named. A model's beliefs depend on what it was told
alone, so they are computed once for all variants and objectives that share them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recommender.datasets import fetch_dataset
from recommender.models import PerformanceModel, Prediction
from recommender.models.gaussian_process import GaussianProcess
from recommender.models.pairwise import PairwiseTrees, Target
from recommender.problem import Objective, Problem
from recommender.replay import Environment, environment
from recommender.runs import Runs
from recommender.search.acquisition import ConstrainedImprovement
from recommender.search.designs import QuasiRandom
from recommender.search.predicted import PredictedBest, PredictedWorse
from recommender.search.stopping import Never
from recommender.strategies import ModelBased, strategy

LEAST_TYPES = 7
"""Workloads with fewer types have nothing left to choose after six runs."""
RIVAL = "cherrypick"
STARTS = 3
OBJECTIVES: tuple[Objective, ...] = ("runtime", "cost")


@dataclass
class Remembered:
    """A model whose beliefs are kept: all objectives and acquisitions of a workload ask for the same ones."""

    model: PerformanceModel
    kept: dict[Any, Prediction] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Return the belief given these runs, in whatever order."""
        told = tuple(zip(runs.frame["instance_type"], runs.frame["runtime_s"], strict=True))
        key = problem.workload, problem.seed, told
        if key not in self.kept:
            begun = time.process_time()
            self.kept[key] = self.model.predict(problem, runs)
            self.seconds.append(time.process_time() - begun)
        return self.kept[key]


def variants() -> dict[str, tuple[Any, tuple[Objective, ...]]]:
    """Name -> (strategy, objectives it is run on)."""
    both, fast = OBJECTIVES, OBJECTIVES[:1]
    process, pairs, blind, value, bare = map(
        Remembered,
        (
            GaussianProcess(),
            PairwiseTrees(),
            PairwiseTrees(counters=False),
            PairwiseTrees(target=Target.VALUE),
            PairwiseTrees(target=Target.VALUE, counters=False),
        ),
    )
    improvement = ModelBased("", "", process, None, ConstrainedImprovement(), Never())
    predicted = replace(improvement, acquisition=PredictedBest())
    return {
        RIVAL: (improvement, both),
        "arrow by EI": (replace(improvement, model=pairs), both),
        "arrow by EI without counters": (replace(improvement, model=blind), both),
        "arrow": (replace(predicted, model=pairs), both),
        "arrow without counters": (replace(predicted, model=blind), both),
        "arrow stop at 1.1": (replace(predicted, model=pairs, stop=PredictedWorse(1.1)), both),
        "arrow stop at 1.05": (replace(predicted, model=pairs, stop=PredictedWorse(1.05)), both),
        "arrow by EI learning z_k": (replace(improvement, model=value), fast),
        "arrow by EI learning z_k without counters": (replace(improvement, model=bare), fast),
        "random": (strategy("random"), both),
    }


def search(made: Any, world: Environment, seed: int, steps: int, taken: list[int]) -> list[int]:
    """Recorded runs made, `taken` first, until there are `steps` of them or the search stops."""
    problem, taken = replace(world.problem, seed=seed), list(taken)
    while len(taken) < steps:
        wanted = made.suggest(problem, world.told(taken))
        if wanted is None:
            break
        candidate = world.row(wanted)
        taken.append(world.draw(candidate, seed=seed, earlier=int((world.configuration[taken] == candidate).sum())))
    return taken


def judge(world: Environment, taken: list[int], steps: int) -> dict[str, float]:
    """Incumbents after 4 to `steps` runs, runs to 5 %, and runs made."""
    best = np.minimum.accumulate(world.value[taken]) / world.optimum
    near = world.truth[world.configuration[taken]] <= 1.05 * np.nanmin(world.truth)
    found = {f"n={n}": float(best[min(n, len(best)) - 1]) for n in range(4, steps + 1)}
    return found | {"to 5 %": float(near.argmax() + 1 if near.any() else steps + 1), "runs": float(len(taken))}


def compare(given: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, float]]:
    """One row an episode; and CPU seconds of computing a belief, median, by variant."""
    data = fetch_dataset("lumos", mirror=given.mirror, cache=given.cache)
    assert data.runs is not None
    assert data.candidates is not None
    table = data.candidates[data.candidates["feature.provider"] == "aws"].drop(columns="feature.provider")
    frame = data.runs.frame
    runs = Runs(frame[frame["instance_type"].isin(table["instance_type"])].reset_index(drop=True))
    types = runs.frame.groupby("workload")["instance_type"].nunique()
    order = np.random.default_rng(0).permutation(types.index[types >= LEAST_TYPES])[: given.workloads]
    made = {n: v for n, v in variants().items() if given.variants is None or n in given.variants.split(",")}
    rows = pd.read_csv(given.out) if given.out and given.out.exists() else pd.DataFrame(columns=["variant", "workload"])
    starts = ModelBased("", "", GaussianProcess(), QuasiRandom(STARTS))
    for workload in order:
        have = set(rows.loc[rows["workload"] == workload, "variant"])
        wanted, new = {n: v for n, v in made.items() if n not in have}, []
        if not wanted:
            continue
        worlds = {o: environment(runs, workload, candidates=table, objective=o) for o in OBJECTIVES}
        for seed in range(given.seeds):
            begun = search(replace(starts, acquisition=ConstrainedImprovement()), worlds["cost"], seed, STARTS, [])
            for name, (one, objectives) in wanted.items():
                for objective in objectives:
                    world, first = worlds[objective], [] if name == "random" else begun
                    found = judge(world, search(one, world, seed, given.steps, first), given.steps)
                    new.append({"variant": name, "objective": objective, "workload": workload, "seed": seed} | found)
        for one, _ in made.values():
            if isinstance(one.model, Remembered):
                one.model.kept.clear()
        rows = pd.concat([rows, pd.DataFrame(new)], ignore_index=True)
        if given.out:
            rows.to_csv(given.out, index=False)
    models = {name: one.model for name, (one, _) in made.items()}
    return rows, {n: float(np.median(m.seconds)) for n, m in models.items() if isinstance(m, Remembered) and m.seconds}


def tally(rows: pd.DataFrame, rival: str, columns: list[str], over_seeds: str = "median") -> pd.DataFrame:
    """Wins / losses / ties of each variant against `rival`, over workloads, on medians (or means) over seeds."""
    middle = rows.groupby(["variant", "workload"], sort=False)[columns].agg(over_seeds)
    lines = {}
    for name in dict.fromkeys(rows["variant"]):
        by = (middle.loc[name] - middle.loc[rival]).round(9)
        lines[name] = {c: f"{(by[c] < 0).sum()} / {(by[c] > 0).sum()} / {(by[c] == 0).sum()}" for c in columns}
    return pd.DataFrame.from_dict(lines, orient="index").drop(rival)


def markdown(table: pd.DataFrame) -> str:
    """A table, numbers to three decimals."""
    head = f"| variant | {' | '.join(table)} |\n|---|{'---:|' * len(table.columns)}\n"
    cells = table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else str(v))
    return head + "\n".join(
        f"| {name} | {' | '.join(row)} |" for name, row in zip(table.index, cells.to_numpy(), strict=True)
    )


def main() -> None:
    """Print the section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"seeds": 5, "steps": 6, "workloads": None}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--variants", help="default: all")
    for name in ("mirror", "cache", "out"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    rows, cpu = compare(given)
    columns = [c for c in rows if c.startswith("n=")]
    count, seeds = rows["workload"].nunique(), rows["seed"].nunique()
    print(
        f"{count} workloads of the AWS part of Lumos with {LEAST_TYPES} to 9 types, {seeds} seeds, {given.steps} runs an "
        "episode of which 3 are starts, the same for all. *n=*: the best measured run over the optimum after n runs, "
        "mean over episodes; *to 5 %*: runs until a type was measured whose mean is within 5 % of the best type's "
        f"({given.steps + 1} where none was); a search that stopped keeps what it had. Wins / losses / ties: workloads, on the "
        "median over seeds, or, where said, on the mean."
    )
    for objective in OBJECTIVES:
        part = rows[rows["objective"] == objective]
        means = part.groupby("variant", sort=False)[[*columns, "to 5 %", "runs"]].mean()
        means["workloads"] = part.groupby("variant")["workload"].nunique()
        means["within 5 % at the end"] = part.groupby("variant")["to 5 %"].agg(
            lambda x: float((x <= given.steps).mean())
        )
        print(f"\n### Objective {objective}\n\n{markdown(means)}")
        print(f"\nWins / losses / ties against {RIVAL}:\n\n{markdown(tally(part, RIVAL, [*columns, 'to 5 %']))}")
        print(f"\nOn the mean over seeds:\n\n{markdown(tally(part, RIVAL, [*columns, 'to 5 %'], 'mean'))}")
        ablation = [(n, f"{n} without counters") for n in ("arrow", "arrow by EI", "arrow by EI learning z_k")]
        kept = [
            tally(part, blind, [*columns, "to 5 %"], "mean").loc[[n]]
            for n, blind in ablation
            if blind in set(part["variant"])
        ]
        if kept:
            print(f"\nThe same with counters against without, on the mean over seeds:\n\n{markdown(pd.concat(kept))}")
    spent = [f"{name} {cpu[name]:.3f}" for name in (RIVAL, "arrow", "arrow without counters") if name in cpu]
    print(f"\nCPU seconds of one belief, median: {', '.join(spent) or 'not measured again'}.")


if __name__ == "__main__":
    main()
