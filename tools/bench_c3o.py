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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from c3o_selection import (
    Answers,
    Job,
    Rows,
    Split,
    answers,
    average,
    jobs,
    judge,
    larger_scale_out,
    random_splits,
    unseen_contexts,
    unseen_types,
)

from recommender.datasets import Dataset, fetch_dataset

WHOLE = 5
"""Splits of whole jobs at most: there are up to 1,300 points."""
COLUMNS = {
    "mean": "mean",
    "ernest": "ernest",
    "boosting": "boosting",
    "factored": "factored",
    "ernest, corrected by boosting": "ernest + b.",
    "factored, corrected by boosting": "factored + b.",
    "c3o": "**c3o**",
}


@dataclass(frozen=True)
class Judged:
    """One job under one protocol."""

    splits: list[Split]
    answers: list[Answers]
    """The strategy's own predictions, where they were asked for."""


def table(title: str, found: dict[str, Judged]) -> str:
    """One table: a row per job, then their mean."""
    asked = any(judged.answers for judged in found.values())
    more = " asked | its error | inside 90 % |" if asked else ""
    lines = [
        f"### {title}",
        "",
        f"| job | splits | held-out points | {' | '.join(COLUMNS.values())} | chosen | left-out errors' 90 % |{more}",
        "|---|---:|---:|" + "---:|" * len(COLUMNS) + "---|---:|" + ("---:|---:|---:|" if asked else ""),
    ]
    rows, own = [], []
    for job, judged in found.items():
        splits = judged.splits
        means = average(splits).reindex(list(COLUMNS))
        held = sum(s.held_out for s in splits)
        covered = float(np.average([s.covered for s in splits], weights=[s.held_out for s in splits]))
        chosen = Counter(COLUMNS[s.chosen] for s in splits).most_common()
        rows.append((means, covered))
        cells = " | ".join("-" if np.isnan(v) else f"{v:.1%}" for v in means)
        last = ""
        if asked:
            error, inside = (np.concatenate([getattr(a, name) for a in judged.answers]) for name in ("error", "inside"))
            own.append((float(error.mean()), float(inside.mean())))
            last = f" {len(error)} | {error.mean():.1%} | {inside.mean():.0%} |"
        lines.append(
            f"| {job} | {len(splits)} | {held} | {cells} | {', '.join(f'{n} {k}' for k, n in chosen)} | {covered:.0%} |{last}"
        )
    mean = pd.DataFrame([m for m, _ in rows]).mean()
    cells = " | ".join(f"{v:.1%}" for v in mean)
    last = f" | {np.mean([e for e, _ in own]):.1%} | {np.mean([c for _, c in own]):.0%} |" if asked else ""
    lines.append(f"| mean of jobs | | | {cells} | | {np.mean([c for _, c in rows]):.0%} |{last}")
    return "\n".join(lines) + "\n"


def sections(data: Dataset, count: int, most: int) -> dict[str, dict[str, Judged]]:
    """Every protocol: title -> job -> what was found; the strategy itself is asked about `most` inputs of a harder split."""
    own, whole = list(jobs(data)), list(jobs(data, whole=True))

    def each(
        chosen: list[Job], rows: Callable[[Job], Iterable[Rows]], *, new: bool = False, ask: bool = True
    ) -> dict[str, Judged]:
        found = {}
        for job in chosen:
            held = list(rows(job))
            found[job.name] = Judged(
                [judge(job, r, new_inputs=new) for r in held],
                [answers(data, job, r, max(1, most // len(held))) for r in held] if ask else [],
            )
        return found

    return {
        f"The authors' protocol: a random tenth held out, {count} times": each(
            own, lambda j: random_splits(j, count), ask=False
        ),
        f"The same with every point (all machine types, 2 nodes, all inputs), {min(count, WHOLE)} times": each(
            whole, lambda j: random_splits(j, min(count, WHOLE)), ask=False
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
    parser.add_argument(
        "--asked", type=int, default=10, help="inputs of each job that the strategy itself is asked about"
    )
    parser.add_argument("--mirror", type=Path, help="directory of the data sets (default: RECOMMENDER_DATASETS_MIRROR)")
    parser.add_argument("--cache", type=Path, help="where the normalised tables are kept")
    given = parser.parse_args()
    start = time.perf_counter()
    data = fetch_dataset("c3o", mirror=given.mirror, cache=given.cache)
    print(
        "Mean of |predicted/truth − 1| over held-out points, then over splits; truth is the median of 5 repetitions. `ernest`\n"
        "takes the input's size for its scale, as everywhere; `+ b.`: its residuals boosted; `c3o`: the one that leaving\n"
        "training points out in turn chose. *Left-out errors' 90 %*: truths in the chosen model's interval from those errors\n"
        "alone, without what a prediction adds outside the measured range. *Asked*: points that the strategy itself was asked\n"
        "about, its error there, and the truths in its own 90 % interval.\n"
    )
    for title, found in sections(data, given.splits, given.asked).items():
        print(table(title, found))
    print(f"All of it took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
