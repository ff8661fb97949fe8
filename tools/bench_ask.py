"""CPU time of one ask of each search strategy at 140 and 10,000 candidates and 15 runs, as rows of Markdown.

python tools/bench_ask.py [--strategies cherrypick,prior]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import pandas as pd

from recommender.problem import build_problem
from recommender.runs import Runs
from recommender.strategies import strategy

SIZES = (140, 10_000)
KNOWN, ASKS = 15, 8


def candidates(count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Made-up types x 1 to 20 nodes."""
    kinds = -(-count // 20)
    vcpus = 2.0 ** rng.integers(1, 7, kinds)
    columns = {"vcpus": vcpus, "memory_gib": vcpus * 2.0 ** rng.integers(0, 4, kinds)}
    columns["usd_per_hour"] = 0.04 * vcpus * rng.uniform(0.8, 1.3, kinds)
    table = pd.DataFrame({name: np.repeat(values, 20)[:count] for name, values in columns.items()})
    table.insert(0, "instance_type", np.repeat([f"t{i}" for i in range(kinds)], 20)[:count])
    table.insert(1, "node_count", np.tile(np.arange(1, 21), kinds)[:count])
    return table


def seconds(name: str, count: int) -> list[float]:
    """CPU s of ASKS asks, after one that warms up."""
    rng = np.random.default_rng(0)
    table = candidates(count, rng)
    runtime = 3600 * (1 / (table["vcpus"] * table["node_count"]) + 0.02) * np.exp(0.1 * rng.standard_normal(count))
    problem, _ = build_problem(None, workload="w", candidates=table)
    found = []
    for _ in range(ASKS + 1):
        rows = rng.choice(count, KNOWN, replace=False)
        known = table.iloc[rows][["instance_type", "node_count"]].assign(workload="w", runtime_s=runtime.iloc[rows])
        runs = Runs.from_frame(known.reset_index(drop=True))
        begun = time.process_time()
        strategy(name).suggest(problem, runs)
        found.append(time.process_time() - begun)
    return found[1:]


def main() -> None:
    """Print one row a strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default="cherrypick,trees,arrow,lynceus,prior")
    print(f"| strategy | {' | '.join(f'{n:,} candidates' for n in SIZES)} |")
    print("|---|---:|---:|")
    for name in parser.parse_args().strategies.split(","):
        cells = [seconds(name, count) for count in SIZES]
        words = [f"{statistics.median(c):.3f} ({min(c):.3f}-{max(c):.3f})" for c in cells]
        print(f"| `{name}` | {' | '.join(words)} |")


if __name__ == "__main__":
    main()
