"""Time scoring the whole catalogue: every priced type x region x purchase option x 1 to 32 nodes.

Prints a Markdown row: candidates, median seconds of 5 repetitions and their spread, seconds per million rows, peak memory.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time

import numpy as np
import pandas as pd

from recommender import TypeFilter, build_problem, parse_purchase, strategy


def runs() -> pd.DataFrame:
    """Runs of a cluster job on m5.xlarge with planted scaling, 3 % noise."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "workload": "bench",
            "instance_type": "m5.xlarge",
            "node_count": m,
            "runtime_s": (30 + 4000 * s / m + 5 * np.log(m) + 2 * m) * np.exp(rng.normal(0, 0.03)),
            "input.scale": s,
        }
        for m in (1, 2, 4, 8)
        for s in (0.1, 0.3, 1.0)
    )


def main() -> None:
    """Measure and print."""
    table, chosen = runs(), strategy("ernest")
    building, scoring = [], []
    for _ in range(5):
        start = time.perf_counter()
        problem, mine = build_problem(
            table,
            regions=["all"],
            node_counts=range(1, 33),
            purchase=parse_purchase("all"),
            architecture="any",
            include_burstable=True,
            include_accelerators=True,
            types=TypeFilter(retired=None),
            deadline_s=7200,
        )
        middle = time.perf_counter()
        answer = chosen.recommend(problem, mine)
        building.append(middle - start)
        scoring.append(time.perf_counter() - middle)
    rows = len(problem.candidates.offers) * len(problem.options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = [b + s for b, s in zip(building, scoring, strict=True)]
    sys.stdout.write(
        f"| {rows:,} | {statistics.median(total):.2f} ({min(total):.2f}-{max(total):.2f}) | {statistics.median(building):.2f} | "
        f"{statistics.median(scoring):.2f} | {statistics.median(total) / rows * 1e6:.3f} | {peak:.2f} | {answer.rows[0].instance_type} |\n"
    )


if __name__ == "__main__":
    main()
