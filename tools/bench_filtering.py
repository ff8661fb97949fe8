"""Collaborative filtering on Lumos, as markdown: how close to the best after 1, 2, 3 runs; intervals; sparse archives; speed.

    python tools/bench_filtering.py [--mirror DIR] [--quick]

Workloads are held out by application (19 folds of one application each) or one by one in folds of four that leave their
applications in the archive (23 folds). In each fold the archive is the other workloads; the references are chosen from it
alone; a fold-in run is one recorded run of the reference. A choice is judged by the workload's own mean runtimes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm

from recommender.archives import Archives
from recommender.datasets import fetch_dataset
from recommender.models import PerformanceModel, configuration_rows
from recommender.models.archive import believable
from recommender.models.factorisation import Collaborative, selecta
from recommender.models.held_out import log_price, next_reference
from recommender.models.neighbours import neighbours
from recommender.models.quasar import Quasar
from recommender.models.yardsticks import ColumnMean
from recommender.problem import Objective, Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import strategy

COUNTS = (1, 2, 3)
Array = npt.NDArray[np.float64]
Losses = dict[tuple[str, int], list[float]]


def models() -> dict[str, PerformanceModel]:
    """The strategies' models, and the column mean."""
    return {"selecta": selecta(), "quasar": Quasar(), "neighbours": neighbours(), "column mean": ColumnMean()}


def folds(frame: pd.DataFrame, by: str) -> list[list[str]]:
    """Workloads held out together."""
    table = frame.drop_duplicates("workload").sort_values(["application", "workload"])
    if by == "application":
        return [list(part["workload"]) for _, part in table.groupby("application", sort=True)]
    names, count = list(table["workload"]), -(-len(table) // 4)
    return [names[i::count] for i in range(count)]


def references(problem: Problem, own: npt.NDArray[np.bool_]) -> list[int]:
    """The first three references among the configurations that the workload ran."""
    chosen: list[int] = []
    for _ in COUNTS:
        found = next_reference(problem, tuple(sorted(chosen)), own & ~np.isin(np.arange(len(own)), chosen))
        if found is not None:
            chosen.append(found)
    return chosen


def measure(
    frame: pd.DataFrame, pool: pd.DataFrame, by: str, objective: Objective, *, keep: float = 1.0, use: int | None = None
) -> tuple[Losses, dict[str, float], Losses]:
    """Regret and share of runs within the 80 % interval by (strategy, fold-in runs), over `use` folds (None: all).

    Between them how often each model was switched off. Intervals are judged on the workload's runs of what was not folded in.
    """
    found: Losses = defaultdict(list)
    covered: Losses = defaultdict(list)
    off: dict[str, float] = defaultdict(float)
    rng = np.random.default_rng(0)
    cells = frame[["workload", "instance_type"]].drop_duplicates()
    cells = cells[rng.random(len(cells)) < keep]
    archive = frame.merge(cells)
    for held in folds(frame, by)[:use]:
        others = Runs(archive[~archive["workload"].isin(held)].reset_index(drop=True))
        problem, _ = build_problem(None, workload="new", archive=[others], candidates=pool, objective=objective)
        price = log_price(problem)
        made = models()
        for name, model in made.items():
            if isinstance(model, Collaborative):
                off[name] += sum(model.taught(problem, k).name == "column mean" for k in COUNTS) / len(COUNTS)
        for workload in held:
            mine = frame[frame["workload"] == workload]
            row = configuration_rows(problem, mine)
            mine, row = mine[row >= 0], row[row >= 0]
            log_t = np.log(mine["runtime_s"].to_numpy())
            count = np.bincount(row, minlength=len(price))
            truth = np.where(count > 0, np.bincount(row, log_t, len(price)) / np.maximum(count, 1), np.inf) + price
            if np.isfinite(truth).sum() < 5:
                continue
            inputs = {"input.size_gib": float(mine["input.size_gib"].iloc[0])}
            asked = replace(problem, inputs=inputs if np.isfinite(inputs["input.size_gib"]) else {})
            order = references(problem, count > 0)
            drawn = list(rng.permutation(np.flatnonzero(count > 0))[: max(COUNTS)])
            for label, chosen in (("", order), (", runs at random", drawn)):
                first = mine.iloc[[int(np.flatnonzero(row == c)[0]) for c in chosen]]
                for k in COUNTS:
                    told = Runs(first.head(k).reset_index(drop=True))
                    if not asked.inputs:
                        told = Runs(told.frame.drop(columns="input.size_gib"))
                    for name, model in made.items():
                        if label and name != "column mean":
                            continue
                        belief = model.predict(asked, told)
                        value = belief.log_runtime + price
                        other = ~np.isin(row, chosen[:k])
                        off_by = (log_t - belief.log_runtime[row])[other] / belief.spread[row[other]]
                        off_by = off_by[np.isfinite(off_by)]
                        covered[name + label, k].append(float(np.mean(np.abs(off_by) < norm.ppf(0.9))))
                        best = int(np.where(np.isfinite(truth) & np.isfinite(value), value, np.inf).argmin())
                        found[name + label, k].append(float(truth[best] - truth.min()))
                    seen = np.log(told.frame["runtime_s"].to_numpy()) + price[chosen[:k]]
                    best = chosen[int(seen.argmin())]  # by the runs it was told of, as everybody
                    found["best measured" + label, k].append(float(truth[best] - truth.min()))
    return found, off, covered


def row(label: str, found: Losses, name: str) -> str:
    """One row: share within 10 %, and mean regret, by fold-in runs."""
    cells = []
    for k in COUNTS:
        x = np.array(found[name, k])
        cells.append(f"{np.mean(x <= np.log(1.1)):.0%} / {np.mean(np.expm1(np.minimum(x, np.log(10)))):.1%}")
    return f"| {label} | {name} | {len(found[name, 1])} | {' | '.join(cells)} |"


def table(label: str, found: Losses, off: dict[str, float], covered: Losses, folds_: int) -> list[str]:
    """Rows of all strategies of one pool."""
    names = list(dict.fromkeys(name for name, _ in found))
    order = [*models(), "best measured", "column mean, runs at random", "best measured, runs at random"]
    lines = [row(label, found, name) for name in order if name in names]
    switched = ", ".join(f"{name} {off[name]:.1f} of {folds_}" for name in ("selecta", "quasar", "neighbours"))
    lines.append(f"| {label} | *switched off in favour of the column mean* | | {switched} | | |")
    within = [", ".join(f"{name} {np.mean(covered[name, k]):.0%}" for name in models()) for k in COUNTS]
    return [*lines, f"| {label} | *runs within the 80 % interval* | | {' | '.join(within)} |"]


HEAD = [
    "| pool | strategy | workloads | 1 run: within 10 % / mean regret | 2 runs | 3 runs |",
    "|---|---|---:|---:|---:|---:|",
]


def speed(frame: pd.DataFrame, pool: pd.DataFrame) -> list[str]:
    """Training, fold-in and ranking, and memory."""
    workload = "spark_sort_large"
    mine = frame[frame["workload"] == workload]
    lines = ["| what | CPU s |", "|---|---:|"]
    for name in ("selecta", "quasar", "neighbours"):
        archive = Runs(frame[frame["workload"] != workload].reset_index(drop=True))
        problem, _ = build_problem(None, workload=workload, archive=[archive], candidates=pool, objective="runtime")
        made = strategy(name)
        begun = time.process_time()
        first = made.suggest(problem, Runs(mine.head(0)))
        made.recommend(problem, Runs(mine.head(0)))
        trained = time.process_time() - begun
        assert first is not None
        told = Runs(mine[mine["instance_type"] == first.instance_type].reset_index(drop=True))
        asked = replace(problem, inputs={"input.size_gib": float(told.frame["input.size_gib"].iloc[0])})
        seconds = []
        for _ in range(11):
            begun = time.process_time()
            made.recommend(asked, told)
            seconds.append(time.process_time() - begun)
        lines.append(f"| {name}: training on Lumos (folds, references, ranks, fit), once an archive | {trained:.2f} |")
        lines.append(f"| {name}: fold-in and ranking of 55 types, median of 11 | {statistics.median(seconds):.3f} |")
    return lines


def synthetic(workloads: int = 5000, types: int = 1000, density: float = 0.05) -> list[str]:
    """A large archive: reading it into cells apart from training on it."""
    rng = np.random.default_rng(0)
    factors = rng.normal(0, 1, (workloads, 3)) @ rng.normal(0, 0.3, (3, types))
    y = rng.normal(5, 1, (workloads, 1)) + rng.normal(0, 0.3, types) + factors + rng.normal(0, 0.05, factors.shape)
    u, i = np.nonzero(rng.random(y.shape) < density)
    names, kinds = np.array([f"w{k:04}" for k in range(workloads)]), np.array([f"t{k:04}" for k in range(types)])
    frame = pd.DataFrame(
        {"workload": names[u], "instance_type": kinds[i], "node_count": 1, "runtime_s": np.exp(y[u, i])}
    )
    pool = pd.DataFrame(
        {"instance_type": kinds, "node_count": 1, "usd_per_hour": rng.uniform(0.1, 2, types), "vcpus": 4}
    )
    problem, runs = build_problem(
        None, workload="new", archive=[Runs.from_frame(frame)], candidates=pool, objective="runtime"
    )
    begun = time.process_time()
    problem, _ = believable(problem, runs)
    read = time.process_time() - begun
    begun = time.process_time()
    taught = selecta().taught(problem)
    trained = time.process_time() - begun
    begun = time.process_time()
    strategy("selecta").suggest(problem, runs)
    suggested = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = (
        f"A synthetic archive of {workloads:,} workloads x {types:,} configurations at {density:.0%} density ({len(frame):,} "
        f"runs): looked through in {read:.1f} s, trained in {trained:.1f} s ({taught.name}), first reference after "
        f"{suggested:.1f} s more (CPU time); peak memory of the process {peak:,.0f} MiB."
    )
    return ["", said]


def opening(runs: int = 100_000, counters: int = 36) -> list[str]:
    """Opening a kept archive of many runs, every optional column filled, without and with activity counters."""
    rng, number, said = np.random.default_rng(0), np.arange(runs), []
    frame = pd.DataFrame(
        {
            "workload": [f"w{i % 2000:04}" for i in number],
            "application": [f"a{i % 50}" for i in number],
            "instance_type": [f"t{i % 500:03}" for i in number],
            "node_count": 1 + number % 7,
            "runtime_s": np.exp(rng.normal(5, 1, runs)),
            "status": np.where(rng.random(runs) < 0.9, "completed", "failed"),
            "region": "us-east-1",
            "purchase_option": "spot",
            "cost_usd": rng.uniform(0, 1, runs),
            "started_at": pd.date_range("2024-01-01", periods=runs, freq="97s", tz="UTC"),
            "input.size_gib": rng.uniform(1, 100, runs),
        }
    )
    more = {
        f"metric.c{k}": np.where(rng.random(runs) < 0.9, rng.uniform(0, 100, runs), np.nan) for k in range(counters)
    }
    with tempfile.TemporaryDirectory() as directory:
        archives = Archives(directory)
        for name, table in (("slim", frame), ("wide", frame.assign(**more))):
            file = Path(directory) / f"{name}.source"
            file.write_bytes(table.to_parquet())
            archives.add(name, file, licence="MIT")
            seconds = []
            for _ in range(11):
                begun = time.process_time()
                archives.open(name)
                seconds.append(time.process_time() - begun)
            said.append(f"{statistics.median(seconds):.2f} s with {len(table.columns) - len(frame.columns)} counters")
    return [
        "",
        f"Opening a kept archive of {runs:,} runs, validated whole, median of 11 (CPU time): {', '.join(said)}.",
    ]


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="directory of the data sets (default: RECOMMENDER_DATASETS_MIRROR)")
    parser.add_argument("--cache", type=Path, help="where the normalised tables are kept")
    parser.add_argument(
        "--quick", action="store_true", help="two folds of each split, AWS only, a small synthetic archive"
    )
    given = parser.parse_args()
    use = 2 if given.quick else None
    data = fetch_dataset("lumos", mirror=given.mirror, cache=given.cache)
    frame, pool = data.runs.frame, data.candidates
    provider = pool["feature.provider"]
    print("\n".join(speed(frame, pool)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nPeak memory of the process after all three: {peak:,.0f} MiB.")
    print("\n".join(synthetic(500, 100) if given.quick else synthetic()))
    print("\n".join(opening(1000) if given.quick else opening()))
    parts = {"aws": pool[provider == "aws"]}
    if not given.quick:
        parts = {"all 55": pool, **{name: pool[provider == name] for name in sorted(set(provider))}}
    for by in ("application", "workload"):
        count = len(folds(frame, by)[:use])
        print(f"\n### Runtime, held out by {by}\n\n" + "\n".join(HEAD))
        for label, part in parts.items():
            begun = time.process_time()
            print("\n".join(table(label, *measure(frame, part, by, "runtime", use=use), count)), flush=True)
            sys.stderr.write(f"{by} {label}: {time.process_time() - begun:.0f} CPU s\n")
        print(f"\n### Cost, AWS types at today's on-demand prices, held out by {by}\n\n" + "\n".join(HEAD))
        print("\n".join(table("aws", *measure(frame, parts["aws"], by, "cost", use=use), count)), flush=True)
    sparse = parts["aws"] if given.quick else pool
    print("\n### Sparse archives: runtime, held out by application\n\n" + "\n".join(HEAD))
    for keep in (0.1, 0.2, 0.4):
        measured = measure(frame, sparse, "application", "runtime", keep=keep, use=use)
        count = len(folds(frame, "application")[:use])
        print("\n".join(table(f"{keep:.0%} of the cells", *measured, count)), flush=True)


if __name__ == "__main__":
    main()
