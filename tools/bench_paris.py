"""PARIS on Lumos, one application left out at a time, as a markdown table; and how long an archive of 10,000 runs takes.

    python tools/bench_paris.py [--mirror DIR] [--cache DIR] [--cloud aws]... [--every K] [--speed]

A cloud is asked by itself: candidates and archive are its types alone. The workload asked about is run on the first k
references that the archive proposes (`search.references`); all its repetitions on them are told. Truth is the mean
ln(runtime) of a configuration's repetitions.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from recommender.datasets import Dataset, fetch_dataset
from recommender.models import PerformanceModel, configuration_rows
from recommender.models.paris import Paris
from recommender.models.yardsticks import ColumnMean
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.search.references import References

CLOUDS = ("aws", "alibaba", "huawei", "tencent")
INPUT = "input.size_gib"
"""Left out: a workload of Lumos has one size, and is asked about at that."""

FEWEST = 6
"""Types of a cloud that a workload ran on: with fewer, three references leave nothing to choose."""


def rows_for_cloud(data: Dataset, cloud: str, every: int) -> list[dict[str, object]]:
    """One row a workload, number of reference runs and model."""
    assert data.runs is not None
    assert data.candidates is not None
    table = data.candidates[data.candidates["feature.provider"] == cloud].reset_index(drop=True)
    frame = data.runs.frame[data.runs.frame["instance_type"].isin(table["instance_type"])].drop(columns=INPUT)
    frame["started_at"] = pd.NaT  # the order in which Lumos was measured is no part of the question
    found: list[dict[str, object]] = []
    for application in sorted(frame["application"].unique()):
        mine = frame["application"] == application
        archive = Runs(frame[~mine].reset_index(drop=True))
        base, _ = build_problem(None, workload="new", archive=[archive], candidates=table, objective="runtime")
        for workload in sorted(frame.loc[mine, "workload"].unique())[::every]:
            run = frame[frame["workload"] == workload].reset_index(drop=True)
            if run["instance_type"].nunique() < FEWEST:
                continue
            for row in rows_for_workload(replace(base, workload=workload), run):
                found.append({"cloud": cloud, "application": application, "workload": workload, **row})
    return found


def rows_for_workload(problem: Problem, run: pd.DataFrame) -> list[dict[str, object]]:
    """Run references one after the other, and score every model after each."""
    place = configuration_rows(problem, run)
    truth = np.full(len(problem.configurations), np.nan)
    mean = pd.Series(np.log(run["runtime_s"].to_numpy(float))).groupby(place).mean()
    truth[mean.index] = mean
    open_ = replace(problem, candidates=problem.candidates)
    taken: list[int] = []
    found: list[dict[str, object]] = []
    for k in (1, 2, 3):
        reference = next_row(open_, run, place, taken, k)
        if reference is None:
            break
        taken.append(reference)
        told = told_of(run, place, taken)
        models: dict[str, PerformanceModel] = {"paris": Paris(), "column mean": ColumnMean()}
        if k == 2:
            models["paris, runtimes alone"] = Paris(counters=False)
            models["paris, learning r itself (the paper's)"] = Paris(offset=False)
        for name, model in models.items():
            if name == "paris, runtimes alone" and not told.metrics:
                continue
            prediction = model.predict(problem, told)
            inside = np.abs(truth - prediction.log_runtime) < 1.2815515655446004 * prediction.spread
            found.append({"runs": k, "model": name, **score(truth, prediction.log_runtime, taken, inside)})
        if k == 2:
            guess = two_points(problem, truth, taken)
            found.append({"runs": 2, "model": "two points, the same references", **score(truth, guess, taken, None)})
    ends = smallest_and_largest(problem, truth)
    guess = two_points(problem, truth, ends)
    found.append({"runs": 2, "model": "two points, smallest and largest type", **score(truth, guess, ends, None)})
    return found


def told_of(run: pd.DataFrame, place: np.ndarray, taken: list[int]) -> Runs:
    """All repetitions on the configurations `taken`."""
    part = run[np.isin(place, taken)].reset_index(drop=True)
    return Runs(part.drop(columns=[c for c in part if str(c).startswith("metric.") and part[c].isna().all()]))


def next_row(problem: Problem, run: pd.DataFrame, place: np.ndarray, taken: list[int], k: int) -> int | None:
    """The next reference that the workload ran; one that it lacks is passed over as if it had failed."""
    told = told_of(run, place, taken).frame
    lacking: list[pd.DataFrame] = []
    for _ in range(len(problem.configurations)):
        seen = Runs(pd.concat([told, *lacking], ignore_index=True)) if lacking else Runs(told)
        wanted = References(count=k).propose(problem, seen, np.random.default_rng(0), None)
        if wanted is None:
            return None
        asked = pd.DataFrame([{"instance_type": wanted.instance_type, "node_count": wanted.node_count}])
        row = int(configuration_rows(problem, asked)[0])
        if (place == row).any():
            return row
        lacking.append(run.head(1).assign(**asked.iloc[0], status="failed")[told.columns])
    return None


def smallest_and_largest(problem: Problem, truth: np.ndarray) -> list[int]:
    """The types with the fewest and the most vCPUs, then memory, among those that the workload ran."""
    there = np.flatnonzero(np.isfinite(truth))
    order = problem.configurations.iloc[there].sort_values(["vcpus", "memory_gib", "instance_type"]).index
    return [int(order[0]), int(order[-1])]


def two_points(problem: Problem, truth: np.ndarray, taken: list[int]) -> np.ndarray:
    """Runtime linear in vCPUs through two measured types, held between them; their mean where vCPUs are equal."""
    vcpus = problem.configurations["vcpus"].to_numpy(float)
    at, seconds = vcpus[taken], np.exp(truth[taken])
    order = np.argsort(at)
    if at[0] == at[1]:
        return np.full(len(vcpus), np.log(seconds.mean()))
    return np.asarray(np.log(np.interp(vcpus, at[order], seconds[order])))


def score(truth: np.ndarray, guess: np.ndarray, taken: list[int], inside: np.ndarray | None) -> dict[str, float]:
    """Error and coverage over what was not measured; regret of the least prediction, what was measured being known."""
    there = np.isfinite(truth)
    rest = there.copy()
    rest[taken] = False
    off = np.abs(np.expm1(guess[rest] - truth[rest]))
    value = np.where(there, guess, np.inf)
    value[taken] = truth[taken]
    return {
        "mape": float(off.mean()),
        "p90": float(np.quantile(off, 0.9)),
        "regret": float(np.expm1(truth[value.argmin()] - np.nanmin(truth))),
        "covered": float(inside[rest].mean()) if inside is not None else np.nan,
    }


def markdown(found: pd.DataFrame) -> str:
    """One table: cloud, runs, model."""
    lines = [
        "| cloud | workloads | reference runs | model | MAPE | 90th percentile of the error | mean regret | within 10 % of the best | truth in p10-p90 |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for (cloud, k, model), part in found.groupby(["cloud", "runs", "model"], sort=False):
        covered = "" if part["covered"].isna().all() else f"{part['covered'].mean():.0%}"
        lines.append(
            f"| {cloud} | {part['workload'].nunique()} | {k} | {model} | {part['mape'].mean():.1%} | {part['p90'].mean():.1%} "
            f"| {part['regret'].mean():.1%} | {(part['regret'] <= 0.1).mean():.0%} | {covered} |"
        )
    return "\n".join(lines)


def speed(name: str) -> str:
    """CPU seconds to fit 10,000 archive rows (20 workloads x 500 configurations), and to recommend over 1,000 candidates."""
    from recommender.strategies import strategy

    rng = np.random.default_rng(0)
    names = [f"t{i}" for i in range(50)]
    table = pd.DataFrame([(t, m) for t in names for m in range(1, 21)], columns=["instance_type", "node_count"])
    kind = table["instance_type"].str[1:].astype(int)
    table = table.assign(vcpus=2.0 ** (kind % 5 + 1), memory_gib=2.0 ** (kind % 7 + 2), usd_per_hour=0.1 + 0.01 * kind)
    log_size = np.log(table["vcpus"] * table["node_count"])
    parts = []
    for w in range(20):
        rows = rng.permutation(len(table))[:500]
        y = 6 + rng.normal() - rng.uniform(0.3, 1) * log_size[rows] + rng.normal(0, 0.1, 500)
        parts.append(table.iloc[rows][["instance_type", "node_count"]].assign(workload=f"w{w}", runtime_s=np.exp(y)))
    mine = table.iloc[[3, 700]][["instance_type", "node_count"]].assign(workload="new", runtime_s=[500.0, 90.0])
    problem, runs = build_problem(
        mine, workload="new", archive=[pd.concat(parts, ignore_index=True)], candidates=table, objective="runtime"
    )
    seconds = []
    for _ in range(6):
        start = time.process_time()
        strategy(name).recommend(problem, runs)
        seconds.append(time.process_time() - start)
    return (
        f"`{name}` fits an archive of 10,000 runs (20 workloads x 500 of 1,000 configurations) in {seconds[0]:.1f} s of CPU; a "
        f"recommendation over the 1,000 candidates then takes {sorted(seconds[1:])[2]:.2f} s (median of five)."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="directory of the data sets (default: RECOMMENDER_DATASETS_MIRROR)")
    parser.add_argument("--cache", type=Path, help="where the normalised tables are kept")
    parser.add_argument("--cloud", action="append", choices=CLOUDS)
    parser.add_argument("--every", type=int, default=1, help="only every K-th workload of an application")
    parser.add_argument("--speed", action="store_true", help="only how long it takes")
    given = parser.parse_args()
    if not given.speed:
        data = fetch_dataset("lumos", mirror=given.mirror, cache=given.cache)
        found: list[dict[str, object]] = []
        for cloud in given.cloud or CLOUDS:
            sys.stderr.write(f"{cloud} ...\n")
            found += rows_for_cloud(data, cloud, given.every)
        print(
            "Lumos, each application left out in turn, each cloud by itself, objective runtime. Errors are over the\n"
            "configurations that were not measured, averaged over workloads (those on six types or more of the cloud);\n"
            "regret is runtime of the choice over the best less one.\n"
        )
        print(markdown(pd.DataFrame(found)) + "\n")
    print(speed("paris"), speed("transfer"), sep="\n")


if __name__ == "__main__":
    main()
