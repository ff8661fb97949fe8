"""What `prior` promises beside its search: harm by an unrelated archive, coverage of its intervals, time and memory.

python tools/bench_prior.py                  all of it, as Markdown
python tools/bench_prior.py --only speed     permuted, unlike, coverage, speed
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from bench_peers import NEAR, TABLES, read
from made_tables import KINDS, made
from scipy.stats import norm

from recommender.evaluation import plan
from recommender.models import Array
from recommender.models.prior import LearnedPrior, belief
from recommender.problem import Objective, Problem, build_problem
from recommender.replay import Environment, environment, episode
from recommender.repricing import changed_prices, reprice
from recommender.runs import Runs
from recommender.search.stopping import Never
from recommender.strategies import ModelBased, strategy
from recommender.summary import quantile

SIZES = ((7, 20), (500, 20), (5000, 20))
"""Instance types x cluster sizes."""
TYPES = {"instance_type": object, "node_count": int}


def never() -> ModelBased:
    """`prior` that goes on."""
    one = strategy("prior")
    assert isinstance(one, ModelBased)
    return replace(one, stop=Never())


def worlds(name: str, every: int = 1, objective: Objective = "cost") -> list[Environment]:
    """Every n-th workload of a table, others of its application left out of its archive."""
    runs, candidates = read(TABLES[name])
    wanted = sorted(set(runs.workloads))[::every]
    return [environment(runs, w, candidates=candidates, objective=objective) for w in wanted]


def permuted(archive: Runs, seed: int) -> Runs:
    """Runs whose configurations are exchanged, for each workload in its own way: as good as unrelated, but as plausible."""
    rng, parts = np.random.default_rng(seed), []
    keys = [*TYPES, *archive.params]
    for _, frame in archive.frame.groupby("workload", sort=True):
        label = frame.groupby(keys, dropna=False, sort=True).ngroup().to_numpy()
        first = frame.iloc[np.unique(label, return_index=True)[1]][keys].reset_index(drop=True)
        moved = first.iloc[rng.permutation(len(first))[label]]
        parts.append(frame.assign(**{k: moved[k].to_numpy() for k in keys}))
    return Runs(pd.concat(parts, ignore_index=True))


def harm(steps: int = 10) -> str:
    """Median regret with the archive, with a permuted one and with none, on Scout by cost."""
    lines = ["| archive | n = 4 | n = 6 | n = 10 | p90 at n = 10 | mean at n = 10 |", "|---|---:|---:|---:|---:|---:|"]
    asked = worlds("scout-cost")

    def archives(world: Environment) -> dict[str, Runs | None]:
        held = world.problem.archive
        assert held is not None
        return {"none (cold)": None, "permuted, seed 0": permuted(held, 0), "permuted, seed 1": permuted(held, 1)}

    kinds = archives(asked[0])
    for kind in kinds:
        best = []
        for world in asked:
            other = replace(world, problem=replace(world.problem, archive=archives(world)[kind]))
            rows = episode("prior", never(), other, seed=0, steps=steps)
            best.append([np.inf if r["normalised_incumbent"] is None else r["normalised_incumbent"] for r in rows])
        table = np.array(best)
        cells = [f"{quantile(table[:, n], 0.5) - 1:.1%}" for n in (4, 6, 10)]
        cells += [f"{quantile(table[:, steps], 0.9) - 1:.1%}", f"{table[:, steps].mean() - 1:.1%}"]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
        sys.stderr.write(lines[-1] + "\n")
    return "\n".join(lines)


def coverage() -> str:
    """How often 50, 80 and 90 % intervals hold the runs of unmeasured candidates, with the intervals' median width."""
    lines = [
        "| data set | workloads | random runs | 50 % | 80 % | 90 % | 90 %, worst workload | upper/lower end of 90 %, median |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, every in (("scout-cost", 1), ("lumos-aws-runtime", 1)):
        asked = worlds(name, every)
        for k in (4, 6, 10) if name == "scout-cost" else (3, 4, 6):  # of 9 types at most
            z, spread, workload = [], [], []
            for number, world in enumerate(asked):
                order = np.random.default_rng(number).permutation(np.flatnonzero(np.isfinite(world.truth)))
                taken = [world.draw(int(i), seed=0, earlier=0) for i in order[:k]]
                found, wide = unmeasured(world, taken)
                z.append(found)
                spread.append(wide)
                workload.append(float((found <= norm.ppf(0.95)).mean()) if len(found) else np.nan)
            every_z, width = np.concatenate(z), np.exp(2 * norm.ppf(0.95) * np.concatenate(spread))
            held = [f"{(every_z <= norm.ppf(0.5 + p / 2)).mean():.1%}" for p in (0.5, 0.8, 0.9)]
            cells = [name, str(len(asked)), str(k), *held, f"{np.nanmin(workload):.0%}", f"{np.median(width):.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
            sys.stderr.write(lines[-1] + "\n")
    return "\n".join(lines)


def problem_of(types: int, sizes: int, workloads: int = 16, runs_each: int = 60, mine: int = 6) -> tuple[Problem, Runs]:
    """A made-up catalogue, an archive on it and some runs."""
    rng = np.random.default_rng(0)
    vcpus = 2.0 ** rng.integers(1, 6, types)
    per = rng.choice([2.0, 4.0, 8.0], types)
    usd = vcpus * (0.03 + 0.004 * per) * rng.uniform(0.9, 1.1, types)
    speed = rng.uniform(0.8, 1.3, types)
    kind, size = np.repeat(np.arange(types), sizes), np.tile(np.arange(1, sizes + 1), types)
    label = np.array([f"t{i}" for i in range(types)], dtype=object)
    columns = {"instance_type": label[kind], "node_count": size, "usd_per_hour": usd[kind], "vcpus": vcpus[kind]}
    candidates = pd.DataFrame(columns | {"memory_gib": (vcpus * per)[kind], "feature.speed": speed[kind]})

    def drawn(name: str, count: int) -> pd.DataFrame:
        at = rng.choice(len(candidates), min(count, len(candidates)), replace=False)
        work = size[at] * vcpus[kind[at]] * speed[kind[at]]
        runtime = 4e4 * (1 / work + rng.uniform(0, 0.01)) * np.exp(0.05 * rng.standard_normal(len(at)))
        frame = candidates.iloc[at][["instance_type", "node_count"]].reset_index(drop=True)
        return frame.assign(workload=name, runtime_s=runtime)

    archive = pd.concat([drawn(f"w{i}", runs_each) for i in range(workloads)], ignore_index=True)
    table = pd.concat([archive, drawn("asked", mine)], ignore_index=True)
    problem, runs = build_problem(table, workload="asked", candidates=candidates, objective="cost")
    return problem, runs


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds."""
    started = time.process_time()
    call()
    return time.process_time() - started


def one_size(types: int, sizes: int) -> None:
    """Print a row for one size; in a process of its own, so that its peak memory is its own."""
    problem, runs = problem_of(types, sizes)
    base_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fit = seconds(lambda: belief(problem))
    asked = strategy("prior")
    asks = [seconds(lambda k=k: asked.suggest(problem, Runs(runs.frame.iloc[:k]))) for k in (2, 3, 4, 5, 6)]  # type: ignore[misc]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer = asked.recommend(problem, runs)
    again = [seconds(lambda: reprice(answer, changed_prices(problem, changes=["on-demand=+10%"]))) for _ in range(11)]
    cells = [
        f"{types * sizes:,}",
        f"{fit:.2f}",
        f"{1e3 * np.median(asks):.0f} ({1e3 * min(asks):.0f}-{1e3 * max(asks):.0f})",
        f"{1e3 * np.median(again):.0f} ({1e3 * min(again):.0f}-{1e3 * max(again):.0f})",
    ]
    print(f"| {' | '.join([*cells, f'{peak_mib:.0f} ({base_mib:.0f} before)', *skopt(problem, runs)])} |")


def skopt(problem: Problem, runs: Runs) -> list[str]:
    """CPU of scikit-optimize's own `Optimizer`, told the same runs, and asked: `tell` fits, `ask` is nearly free."""
    from peers import PEERS, Space, _outcome

    from recommender.models import configuration_rows

    space = Space.of(problem)
    it, rows = PEERS["scikit-optimize, 3 starts"](space.dimensions, 0, 15), configuration_rows(problem, runs.frame)
    spent: list[float] = []
    for k in range(len(runs)):
        value, _ = _outcome(problem, Runs(runs.frame.iloc[: k + 1]), [])

        def turn(k: int = k, value: float = value) -> None:
            it.tell(space.levels[rows[k]], value, failed=False)
            it.ask()

        spent.append(seconds(turn))
    late: Array = 1e3 * np.array(spent[3:])
    return [f"{np.median(late):.0f} ({late.min():.0f}-{late.max():.0f})"]


def speed() -> str:
    """CPU time and memory at three sizes, and of believing Scout's archive."""
    lines = [
        "| candidates | belief from the archive, CPU s | one ask, CPU ms, median (range) | what-if, CPU ms | peak MiB | scikit-optimize, tell and ask, CPU ms |"
    ]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    for types, sizes in SIZES:
        row = subprocess.run(
            [sys.executable, __file__, "--size", str(types), str(sizes)], check=True, capture_output=True, text=True
        )
        lines.append(row.stdout.strip().splitlines()[-1])
        sys.stderr.write(lines[-1] + "\n")
    world = worlds("scout-cost", 18)[0]
    lines += ["", f"The belief from Scout's archive takes {seconds(lambda: belief(world.problem)):.2f} s of CPU."]
    return "\n".join(lines)


def unlike() -> str:
    """Search and coverage on made-up tables, other applications as archive, eight workloads of each of two draws."""
    head = "| table | candidates | mean runs to 5 % (11: not in 10) | recommended / optimum after 0, 1, 3, 6, 10 runs, geometric mean"
    lines = [f"{head} | 90 % intervals after 3, 6, 10 runs |", "|---|---:|---:|---:|---:|"]
    for kind in KINDS:
        near, told, held = list[int](), list[list[float]](), list[list[float]]()
        for seed in (0, 1):
            runs, pool = made(kind, seed)
            for world in plan(runs, candidates=pool, workloads=sorted(runs["workload"].unique())[:8]).worlds:
                rows = episode("prior", never(), world, seed=0, steps=10)
                best = [r["normalised_incumbent"] or np.inf for r in rows]
                near.append(next((k for k, value in enumerate(best) if value <= NEAR), 11))
                answer = [r["normalised_recommendation"] for r in rows]
                told.append([np.log(answer[min(k, len(answer) - 1)]) for k in (0, 1, 3, 6, 10)])
                held.append([searched(world, rows, k) for k in (3, 6, 10)])
        means = ", ".join(f"{np.exp(x):.2f}" for x in np.mean(told, axis=0))
        share = ", ".join(f"{x:.0%}" for x in np.mean(held, axis=0))
        lines.append(f"| {kind} | {len(pool)} | {np.mean(near):.1f} | {means} | {share} |")
        sys.stderr.write(lines[-1] + "\n")
    return "\n".join(lines)


def searched(world: Environment, rows: list[dict[str, object]], count: int) -> float:
    """Share of runs of unmeasured candidates inside 90 % intervals after the first runs of a search."""
    frame, taken = world.recorded.frame, list[int]()
    for row in rows[1 : count + 1]:
        same = (frame["instance_type"] == row["instance_type"]) & (frame["node_count"] == row["node_count"])
        taken.append(int(np.flatnonzero(same & (frame["runtime_s"] == row["runtime_s"]))[0]))
    return float((unmeasured(world, taken)[0] <= norm.ppf(0.95)).mean())


def unmeasured(world: Environment, taken: list[int]) -> tuple[Array, Array]:
    """Errors of completed runs of the candidates not in `taken`, in spreads, and the spreads."""
    told, frame = LearnedPrior().predict(world.problem, world.told(taken)), world.recorded.frame
    left = ~np.isin(world.configuration, world.configuration[taken]) & (frame["status"] == "completed").to_numpy()
    at = world.configuration[left]
    gap = np.log(frame["runtime_s"].to_numpy(float)[left]) - told.log_runtime[at]
    return np.abs(gap / told.spread[at]), told.spread[at]


PARTS = {"permuted": harm, "unlike": unlike, "coverage": coverage, "speed": speed}


def main() -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--size", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="keep each part in OUT/PART.md too")
    given = parser.parse_args()
    if given.size:
        one_size(*given.size)
        return
    for name in given.only or PARTS:
        text = PARTS[name]()
        if given.out:
            (given.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        print(f"### {name}\n\n{text}\n")


if __name__ == "__main__":
    main()
