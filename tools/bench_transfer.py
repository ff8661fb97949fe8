"""Transfer against training from scratch at equal samples, across C3O's machine types, as a markdown table.

    python tools/bench_transfer.py [--mirror DIR] [--cache DIR] [--draws 10]

A target is one job on one machine type with MOST + 16 points or more (a point: node count and inputs; its truth the mean
ln(runtime) of its repetitions). k of its points are drawn, the rest is predicted. Scratch is the same network with the same
settings, averaged over as many seeds, trained on the k points alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from recommender.datasets import Dataset, fetch_dataset
from recommender.models.transfer import MEMBERS, Points, network, points, refit, teach
from recommender.problem import build_problem
from recommender.runs import Runs

SAMPLES = (1, 2, 3, 4, 6, 8, 10, 15, 20)
MOST = max(SAMPLES)
SOURCES = ("the same job on other types", "all other jobs and types")


def evaluate(data: Dataset, draws: int) -> pd.DataFrame:
    """One row a target, source, k and draw: `target, model, k, mape, covered`."""
    assert data.runs is not None
    frame, found = data.runs.frame, []
    contexts = frame.assign(workload=frame["workload"] + " on " + frame["instance_type"], job=frame["workload"])
    for target, mine in contexts.groupby("workload"):
        inputs = tuple(c for c in data.runs.inputs if mine[c].notna().any())
        if len(mine.groupby(["node_count", *inputs])) < MOST + 16:
            continue
        job = mine["job"].iloc[0]
        others = contexts[contexts["workload"] != target]
        taught = {}
        for name, part in zip(SOURCES, (others[others["job"] == job], others), strict=True):
            archive = Runs(part.drop(columns="job").dropna(axis="columns", how="all").reset_index(drop=True))
            lacking = [c for c in archive.inputs if c not in inputs]
            archive = Runs(archive.frame.drop(columns=lacking))
            own = Runs(
                mine.drop(columns=["job", *(c for c in data.runs.inputs if c not in inputs)]).reset_index(drop=True)
            )
            problem, _ = build_problem(own, workload=str(target), archive=[archive], candidates=data.candidates)
            taught[name] = teach(problem, inputs)
        every = points(problem, own, inputs)
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(len(every.y))
            rest = every.x[order[MOST:]], every.y[order[MOST:]]
            for k in SAMPLES:
                some = order[:k]
                sample = Points(every.x[some], every.y[some], every.workload[some])
                row = {"target": target, "k": k, "draw": draw}
                for name, source in taught.items():
                    mean, spread, _ = refit(source, sample, rest[0])
                    inside = np.abs(rest[1] - mean) < 1.6448536269514722 * spread
                    found.append(
                        {**row, "model": f"transfer from {name}", **error(mean, rest[1]), "covered": inside.mean()}
                    )
                found.append({**row, "model": "scratch", **error(scratch(sample, rest[0]), rest[1]), "covered": np.nan})
    return pd.DataFrame(found)


def scratch(sample: Points, x: np.ndarray) -> np.ndarray:
    """The network trained on the target's points alone, (rows,)."""
    centre, deviation = sample.x.mean(axis=0), sample.x.std(axis=0)
    varied = deviation > 1e-9
    at, to = (((v - centre) / np.where(varied, deviation, 1.0))[:, varied] for v in (sample.x, x))
    level = float(sample.y.mean())
    if not varied.any():
        return np.full(len(x), level)
    return np.asarray(
        level + np.mean([network(at, sample.y - level, seed).predict(to) for seed in range(MEMBERS)], axis=0)
    )


def error(mean: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean of |predicted/true − 1|."""
    return {"mape": float(np.abs(np.expm1(mean - truth)).mean())}


def needed(mape: pd.Series, goal: float) -> float:
    """Fewest samples from which on the error stays at or below `goal`; inf if never."""
    good = (mape <= goal)[::-1].cummin()[::-1]
    return float(good.index[good][0]) if good.any() else np.inf


def factor_text(factor: float) -> str:
    """How many times fewer samples; 0 stands for not by MOST, so for fewer than once."""
    return f"{factor:.1f} x" if factor >= 1 else "< 1 x"


def markdown(found: pd.DataFrame) -> str:
    """Errors by k, then samples needed."""
    lines = [
        "| target | model | " + " | ".join(f"k = {k}" for k in SAMPLES) + " |",
        "|---|---|" + "---:|" * len(SAMPLES),
    ]
    mape = found.groupby(["target", "model", "k"])["mape"].median().unstack("k")
    for row in mape.reset_index().itertuples(index=False):
        lines.append(f"| {row[0]} | {row[1]} | " + " | ".join(f"{value:.1%}" for value in row[2:]) + " |")
    lines += [
        "",
        "| target | scratch's error at 20 | " + " | ".join(f"samples from {s}: factor" for s in SOURCES) + " |",
    ]
    lines += ["|---|---:|" + "---:|" * len(SOURCES)]
    factors: dict[str, list[float]] = {s: [] for s in SOURCES}
    for target in mape.index.get_level_values(0).unique():
        goal, cells = float(mape.loc[(target, "scratch"), MOST]), []
        for s in SOURCES:
            k = needed(mape.loc[(target, f"transfer from {s}")], goal)
            factors[s].append(MOST / k)
            cells.append(f"{k:g}: {MOST / k:.1f} x" if np.isfinite(k) else "not by 20")
        lines.append(f"| {target} | {goal:.1%} | " + " | ".join(cells) + " |")
    lines.append("| median | | " + " | ".join(factor_text(float(np.median(factors[s]))) for s in SOURCES) + " |")
    covered = found.dropna(subset="covered").groupby("model")["covered"].mean()
    lines += [
        "",
        "Truth inside the nominal 90 % interval, all targets and k: "
        + ", ".join(f"{m} {c:.0%}" for m, c in covered.items())
        + ".",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="directory of the data sets (default: RECOMMENDER_DATASETS_MIRROR)")
    parser.add_argument("--cache", type=Path, help="where the normalised tables are kept")
    parser.add_argument("--draws", type=int, default=10)
    given = parser.parse_args()
    print(
        "Mean absolute percentage error on the points of a target that were not drawn, median over draws. The factor is 20\n"
        "over the fewest samples from which on transfer's error stays at or below scratch's at 20.\n"
    )
    print(markdown(evaluate(fetch_dataset("c3o", mirror=given.mirror, cache=given.cache), given.draws)))


if __name__ == "__main__":
    main()
