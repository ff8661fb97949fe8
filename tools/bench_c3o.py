"""C3O's selection on its own data, as markdown: error by job of every model, in the authors' protocol and harder ones.

    python tools/bench_c3o.py [--splits 20] [--mirror DIR]

The protocols themselves are `tests/c3o_selection.py`, which the tests run too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from c3o_selection import (
    Job,
    Rows,
    Split,
    average,
    jobs,
    judge,
    larger_scale_out,
    random_splits,
    unseen_contexts,
    unseen_types,
)

from recommender.datasets import Dataset, fetch_dataset

COLUMNS = {
    "mean": "mean",
    "ernest": "ernest",
    "boosting": "boosting",
    "factored": "factored",
    "ernest, corrected by boosting": "ernest + b.",
    "factored, corrected by boosting": "factored + b.",
    "c3o": "**c3o**",
}


def table(title: str, found: dict[str, list[Split]]) -> str:
    """One table: a row per job, then their mean."""
    lines = [
        f"### {title}",
        "",
        f"| job | splits | held-out points | {' | '.join(COLUMNS.values())} | chosen | truth in 90 % interval |",
        "|---|---:|---:|" + "---:|" * len(COLUMNS) + "---|---:|",
    ]
    rows = []
    for job, splits in found.items():
        means = average(splits).reindex(list(COLUMNS))
        held = sum(s.held_out for s in splits)
        covered = float(np.average([s.covered for s in splits], weights=[s.held_out for s in splits]))
        chosen = Counter(COLUMNS[s.chosen] for s in splits).most_common()
        rows.append((means, covered))
        cells = " | ".join("-" if np.isnan(v) else f"{v:.1%}" for v in means)
        lines.append(
            f"| {job} | {len(splits)} | {held} | {cells} | {', '.join(f'{n} {k}' for k, n in chosen)} | {covered:.0%} |"
        )
    mean = pd.DataFrame([m for m, _ in rows]).mean()
    cells = " | ".join(f"{v:.1%}" for v in mean)
    lines.append(f"| mean of jobs | | | {cells} | | {np.mean([c for _, c in rows]):.0%} |")
    return "\n".join(lines) + "\n"


def sections(data: Dataset, count: int) -> dict[str, dict[str, list[Split]]]:
    """Every protocol: title -> job -> splits."""
    own, whole = list(jobs(data)), list(jobs(data, whole=True))

    def each(chosen: list[Job], rows: Callable[[Job], Iterable[Rows]], new: bool = False) -> dict[str, list[Split]]:
        return {job.name: [judge(job, held, new_inputs=new) for held in rows(job)] for job in chosen}

    return {
        f"The authors' protocol: a random tenth held out, {count} times": each(own, lambda j: random_splits(j, count)),
        "The same with every point (all machine types, 2 nodes, all inputs)": each(
            whole, lambda j: random_splits(j, count)
        ),
        "Unseen inputs: all node counts of a fifth of the input combinations": each(own, unseen_contexts, new=True),
        "Unseen larger scale-out: up to 8 nodes seen, 10 and 12 asked": each(own, lambda j: [larger_scale_out(j, 8)]),
        "Unseen larger scale-out: up to 6 nodes seen, 8, 10 and 12 asked": each(
            own, lambda j: [larger_scale_out(j, 6)]
        ),
        "Unseen machine type: each type in turn, all other types seen": each(
            whole, lambda j: [rows for _, rows in unseen_types(j)]
        ),
    }


def main() -> None:
    """Print every protocol."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--mirror", type=Path, help="directory of the data sets (default: RECOMMENDER_DATASETS_MIRROR)")
    parser.add_argument("--cache", type=Path, help="where the normalised tables are kept")
    given = parser.parse_args()
    start = time.perf_counter()
    data = fetch_dataset("c3o", mirror=given.mirror, cache=given.cache)
    print(
        "Mean of |predicted/truth − 1| over held-out points, then over splits; truth is the median of 5 repetitions. `ernest`\n"
        "takes the input's size for its scale, as everywhere; `+ b.`: its residuals boosted; `c3o`: the one that leaving\n"
        "training points out in turn chose. The last column is the chosen model's 90 % interval from the errors of left-out\n"
        "points alone, without what is added outside the measured range.\n"
    )
    for title, found in sections(data, given.splits).items():
        print(table(title, found))
    print(f"All of it took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
