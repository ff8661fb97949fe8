"""Designs, intervals, deadlines and speed of the regression strategies on public data, as markdown.

    python tools/bench_regression.py [--only design] [--workloads 40] [--mirror DIR]

A C3O *context* is one job on one machine type with one set of inputs, run on 2 to 12 nodes: as a workload of its own it is
what a user has who runs one job, the other contexts being the archive.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from scipy.special import ndtri

from recommender.datasets import Dataset, fetch_dataset
from recommender.models import MEASURED, NOISE_PRIOR, measured
from recommender.models.c3o import C3O, choose
from recommender.models.conformal import LEVEL, Conformal
from recommender.models.ernest import Ernest
from recommender.models.paris import Paris
from recommender.models.scaling import BASE, MINIMUM_POINTS, features, fit, solve
from recommender.models.transfer import Transfer
from recommender.models.yardsticks import ColumnMean
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.search.experiment_criteria import Rows, a_optimal_with_misfit, as_published
from recommender.strategies import strategy

SAME_AS_SIZE = {"input.size_gib", "input.lines", "input.observations", "input.links", "input.pages"}
PRICES = {"c4.2xlarge": 0.398, "m4.2xlarge": 0.4, "r4.2xlarge": 0.532, "r4.xlarge": 0.266}
Z95 = float(ndtri(0.5 + LEVEL / 2))
SHARES = (0.15, 0.25, 0.4)


def design(c3o: Dataset) -> str:
    """Designs against evenly spaced and random runs of the smaller inputs, judged at the largest one."""
    assert c3o.runs is not None
    found: list[dict[str, object]] = []
    for (job, kind), frame in c3o.runs.frame.groupby(["workload", "instance_type"]):
        others = [c for c in c3o.runs.inputs if c not in SAME_AS_SIZE and frame[c].notna().any()]
        groups = [g for _, g in frame.groupby(others)] if others else [frame]
        for group in groups:
            point = group.groupby(["input.size_gib", "node_count"], as_index=False)["runtime_s"].median()
            if point["input.size_gib"].nunique() < 3:
                continue
            found += _designs(str(job), point, PRICES[str(kind)])
    table = pd.DataFrame(found)
    lines = [
        "Smaller inputs of one C3O context (same machine type and other inputs) are experiments; Ernest's four terms are fitted",
        "to those chosen and asked about the largest input on every number of nodes. Budgets are 15, 25 and 40 % of what all of",
        "the smaller inputs cost, with the cost of an experiment its USD, its run time, or the paper's (s/s_min)/m. *Misfit*: the",
        "default, which is told the runtimes that a fit to three cheap runs expects; *paper*: Ernest's own criterion. *Even*: as",
        "many runs, evenly spaced over the list by size and nodes; *same cost*: as many evenly spaced ones as the design's USD pay",
        "for; *random*: as many, mean of 20 draws. Mean |predicted/truth − 1|, and USD of the runs.",
        "",
        "| job | budget in | criterion | designs | runs | error | even | even, same cost | random | USD | USD even |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for keys, part in [
        *table.groupby(["job", "unit", "criterion"], sort=True),
        *[(("all", *keys), part) for keys, part in table.groupby(["unit", "criterion"], sort=True)],
    ]:
        mean = part.mean(numeric_only=True)
        lines.append(
            f"| {' | '.join(map(str, keys))} | {len(part)} | {mean['runs']:.1f} | {mean['error']:.1%} | {mean['even']:.1%} "
            f"| {mean['same']:.1%} | {mean['random']:.1%} | ${mean['usd']:.2f} | ${mean['usd even']:.2f} |"
        )
    return "\n".join(lines)


def _designs(job: str, point: pd.DataFrame, usd_per_hour: float) -> list[dict[str, object]]:
    size, nodes, t = (point[c].to_numpy(float) for c in ("input.size_gib", "node_count", "runtime_s"))
    one = np.ones_like(nodes)
    x = features(size, nodes, one, nodes)[:, :BASE]
    full = size == size.max()
    small = np.flatnonzero(~full)
    usd = t[small] * nodes[small] * usd_per_hour / 3600
    paper = size[small] / size.min() / nodes[small]
    cheap = small[np.argsort(usd, kind="stable")[[0, len(usd) // 8, len(usd) // 4]]]
    expected = x @ solve(x[cheap], t[cheap])
    expected = np.maximum(expected, 1e-3 * expected.max())

    def rows(which: np.ndarray) -> Rows:
        return Rows.of((size[which], nodes[which], one[which], nodes[which]), expected[which])

    def error(rows: np.ndarray) -> float:
        at = small[rows]
        return float(np.mean(np.abs(x[full] @ solve(x[at], t[at]) / t[full] - 1)))

    def even(count: int) -> np.ndarray:
        return np.unique(np.linspace(0, len(small) - 1, count).round().astype(int))

    found: list[dict[str, object]] = []
    none = rows(np.array([], dtype=int))
    for unit, cost in (("USD", usd), ("run time", t[small]), ("(s/s_min)/m", paper)):
        for share in SHARES:
            for name, criterion in (("misfit", a_optimal_with_misfit), ("paper", as_published)):
                kept = criterion(
                    rows(small), none, rows(np.flatnonzero(full)), cost, share * float(cost.sum()), NOISE_PRIOR
                )
                if len(kept) < MINIMUM_POINTS:
                    continue
                spent = float(usd[kept].sum())
                paid = [k for k in range(MINIMUM_POINTS, len(small) + 1) if usd[even(k)].sum() <= spent]
                rng = np.random.default_rng(0)
                random = np.mean([error(rng.choice(len(small), len(kept), replace=False)) for _ in range(20)])
                other = even(len(kept))
                found.append(
                    {
                        "job": job,
                        "unit": unit,
                        "criterion": name,
                        "runs": len(kept),
                        "error": error(kept),
                        "even": error(other),
                        "same": error(even(max(paid))) if paid else float("nan"),
                        "random": random,
                        "usd": spent,
                        "usd even": float(usd[other].sum()),
                    }
                )
    return found


def contexts(c3o: Dataset) -> Runs:
    """C3O with every context a workload of its own."""
    assert c3o.runs is not None
    frame = c3o.runs.frame.copy()
    number = frame.groupby(c3o.runs.inputs, dropna=False).ngroup().astype(str)
    frame["workload"] = frame["workload"] + " " + frame["instance_type"] + " " + number
    return Runs.from_frame(frame.drop(columns=c3o.runs.inputs))


def intervals(c3o: Dataset, lumos: Dataset, count: int, learnt: int) -> str:
    """Coverage on held-out workloads before and after calibration, and how often recommended deadlines are met."""
    assert lumos.runs is not None
    kinds = sorted(lumos.runs.frame["instance_type"].unique())
    reference = [kinds[i] for i in (5, len(kinds) // 2, len(kinds) - 5)]
    few = min(count, learnt)
    cases = [
        ("C3O contexts, 2 to 6 nodes given", contexts(c3o), c3o.candidates, "nodes", Ernest(), count),
        ("C3O contexts, 2 to 6 nodes given", contexts(c3o), c3o.candidates, "nodes", C3O(), count),
        ("Lumos, 3 machines given", lumos.runs, lumos.candidates, reference, ColumnMean(), count),
        ("Lumos, 3 machines given", lumos.runs, lumos.candidates, reference, Paris(), few),
        ("Lumos, 3 machines given", lumos.runs, lumos.candidates, reference, Transfer(), few),
    ]
    lines = [
        f"{count} workloads, drawn at random ({few} of the models that learn an archive, each 40 times to calibrate), are asked",
        "about in turn with the others as its archive; a run is inside when the",
        "central 90 % interval holds it. Deadlines: 0.9 to 1.5 x each true runtime; the cheapest configuration (of those not",
        "measured) whose 95 % quantile meets the deadline is taken; *met*: how often the truth did.",
        "",
        "| data | model | workloads | runs | inside, as the model says | inside, calibrated | below the 95 % quantile | deadlines answered | met |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, runs, candidates, given, model, wanted in (case for case in cases if case[-1]):
        assert candidates is not None
        plain, wrapped, below, answered, met, workloads = [], [], [], 0, 0, 0
        names = sorted(runs.workloads)
        for workload in [names[i] for i in np.random.default_rng(0).permutation(len(names))[:wanted]]:
            mine = runs.of(workload).frame
            seen = mine["node_count"] <= 6 if given == "nodes" else mine["instance_type"].isin(given)
            if seen.all() or not seen.any():
                continue
            archive = runs.without(workload)
            problem, own = build_problem(
                Runs(mine[seen].reset_index(drop=True)), workload=workload, archive=[archive], candidates=candidates
            )
            before, after = (m.predict(problem, own) for m in (model, Conformal(model)))
            truth = measured(problem, Runs(mine[~seen].reset_index(drop=True))).log_runtime
            has = np.isfinite(truth) & (after.evidence != MEASURED)
            gap = (truth - after.log_runtime)[has]
            plain += list(np.abs(gap) <= Z95 * before.spread[has])
            wrapped += list(np.abs(gap) <= Z95 * after.spread[has])
            below += list(gap <= Z95 * after.spread[has])
            workloads += 1
            usd = problem.candidates.configurations["node_count"].to_numpy(float)[has] * np.exp(after.log_runtime[has])
            upper = after.log_runtime[has] + Z95 * after.spread[has]
            for deadline in np.log(np.outer(np.exp(truth[has]), (0.9, 1.0, 1.2, 1.5)).ravel()):
                meets = upper <= deadline
                if meets.any():
                    pick = int(np.flatnonzero(meets)[np.argmin(usd[meets])])
                    answered, met = answered + 1, met + int(truth[has][pick] <= deadline)
        lines.append(
            f"| {name} | {type(model).__name__} | {workloads} | {len(plain)} | {np.mean(plain):.1%} | {np.mean(wrapped):.1%} "
            f"| {np.mean(below):.1%} | {answered} | {met / max(answered, 1):.1%} |"
        )
    return "\n".join(lines)


def speed(lumos: Dataset) -> str:
    """Fitting, and answering 1,000 candidates once it is fitted."""
    assert lumos.runs is not None
    rng = np.random.default_rng(0)
    n, count = 10_000, 1_000
    kinds = [f"type-{k}" for k in range(125)]
    pool = pd.DataFrame(
        [(kind, m, 0.1 + 0.01 * k, 2 ** (k % 5 + 1)) for k, kind in enumerate(kinds) for m in range(1, 9)],
        columns=["instance_type", "node_count", "usd_per_hour", "vcpus"],
    )
    assert len(pool) == count
    at = pool.iloc[rng.integers(0, count, n)].reset_index(drop=True)
    frame = pd.DataFrame(
        {
            "workload": "job",
            "instance_type": at["instance_type"],
            "node_count": at["node_count"],
            "input.scale": rng.uniform(0.1, 1.0, n).round(3),
            "input.k": rng.integers(1, 40, n).astype(float),
        }
    )
    work = 900 * frame["input.scale"] / (at["node_count"] * at["vcpus"])
    frame["runtime_s"] = (20 + work + at["node_count"]) * frame["input.k"] ** 0.5 * np.exp(rng.normal(0, 0.05, n))
    others = frame.drop(columns=["input.scale", "input.k"]).assign(workload=[f"w{k}" for k in rng.integers(0, 40, n)])
    lines = [
        "CPU seconds of one core. *Fit*: the first recommendation over 1,000 candidates, fitting included; *then*: another one",
        "without what fitting the runs takes (what an archive taught is kept), median of five.",
        "",
        "| strategy | fitted to | fit | then |",
        "|---|---|---:|---:|",
    ]
    for name in ("ernest", "c3o"):
        for rows in (60, n):
            first, then = _seconds(name, *build_problem(frame.head(rows), candidates=pool))
            lines.append(f"| {name} | {rows:,} runs of the workload | {first:.2f} | {then:.3f} |")
    for name in ("paris", "transfer"):
        new = others.head(3).assign(workload="new")
        first, then = _seconds(name, *build_problem(new, candidates=pool, archive=[others]))
        lines.append(f"| {name} | an archive of {n:,} runs | {first:.2f} | {then:.3f} |")
    workload = sorted(lumos.runs.workloads)[0]
    few, rest = Runs(lumos.runs.of(workload).frame.head(3)), lumos.runs.without(workload)
    for name in ("paris", "transfer"):
        first, then = _seconds(
            name, *build_problem(few, workload=workload, archive=[rest], candidates=lumos.candidates)
        )
        lines.append(f"| {name} | Lumos, {len(rest):,} runs, 55 types | {first:.2f} | {then:.3f} |")
    return "\n".join(lines)


def _seconds(name: str, problem: Problem, runs: Runs) -> tuple[float, float]:
    """CPU seconds of the first recommendation, and of the next without what fitting the runs takes (median of five)."""
    fitting: list[float] = []

    def timed(fitter: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            start = time.process_time()
            try:
                return fitter(*args, **kwargs)
            finally:
                fitting.append(time.process_time() - start)

        return call

    def recommend() -> tuple[float, float]:
        fitting.clear()
        start = time.process_time()
        strategy(name).recommend(problem, runs)
        return time.process_time() - start, sum(fitting)

    with (
        mock.patch("recommender.models.c3o.choose", timed(choose)),
        mock.patch("recommender.models.ernest.fit", timed(fit)),
    ):
        first, _ = recommend()
        then = [whole - part for whole, part in (recommend() for _ in range(5))]
    return first, float(np.median(then))


def main() -> None:
    """Print every section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["design", "intervals", "speed"], action="append")
    parser.add_argument("--workloads", type=int, default=40, help="held-out workloads of each data set")
    parser.add_argument(
        "--learnt", type=int, default=10, help="of them for models that learn an archive; 0: not at all"
    )
    parser.add_argument("--mirror", type=Path, help="directory of the data sets (default: RECOMMENDER_DATASETS_MIRROR)")
    parser.add_argument("--cache", type=Path, help="where the normalised tables are kept")
    given = parser.parse_args()
    wanted = given.only or ["design", "intervals", "speed"]
    c3o = fetch_dataset("c3o", mirror=given.mirror, cache=given.cache)
    if "design" in wanted:
        print("### Designs for Ernest\n\n" + design(c3o) + "\n")
    if "intervals" in wanted:
        lumos = fetch_dataset("lumos", mirror=given.mirror, cache=given.cache)
        print(
            "### Intervals and deadlines on held-out workloads\n\n"
            + intervals(c3o, lumos, given.workloads, given.learnt)
            + "\n"
        )
    if "speed" in wanted:
        lumos = fetch_dataset("lumos", mirror=given.mirror, cache=given.cache)
        print("### Speed\n\n" + speed(lumos))


if __name__ == "__main__":
    main()
