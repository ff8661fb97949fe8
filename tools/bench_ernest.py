"""Ernest's prediction error on C3O, as a markdown table: one fit per job and machine type, two protocols.

    python tools/bench_ernest.py [--mirror DIR]

The protocol itself is `tests/c3o_protocol.py`, which the tests run too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from c3o_protocol import MINIMUM_TRAINING_POINTS, PROTOCOLS, Protocol, evaluate

from recommender.datasets import fetch_dataset


def markdown(name: str, result: Protocol) -> str:
    """One table: a row per job, then all jobs."""
    lines = [
        f"### {name[0].upper()}{name[1:]}",
        "",
        "| job | fits | training points | held-out points | MAPE | worst fit | truth in p10-p90 | flagged as misfit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    jobs = sorted({fit.job for fit in result.fits})
    for job in [*jobs, "all"]:
        fits = [fit for fit in result.fits if job in ("all", fit.job)]
        lines.append(
            f"| {job} | {len(fits)} | {sum(f.training_points for f in fits)} | {sum(f.held_out_points for f in fits)} "
            f"| {np.mean([f.mape for f in fits]):.1%} | {max(f.mape for f in fits):.1%} "
            f"| {np.average([f.within_80 for f in fits], weights=[f.held_out_points for f in fits]):.0%} "
            f"| {sum(f.misfit for f in fits)} of {len(fits)} |"
        )
    types = len(result.left_out) + len(result.fits)
    why = f"with fewer than {MINIMUM_TRAINING_POINTS} training points or none held out"
    lines += ["", f"Left out, {why}: {len(result.left_out)} of {types} job x machine type.", ""]
    return "\n".join(lines)


def main() -> None:
    """Print both protocols."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="directory of the data sets (default: RECOMMENDER_DATASETS_MIRROR)")
    parser.add_argument("--cache", type=Path, help="where the normalised tables are kept")
    given = parser.parse_args()
    data = fetch_dataset("c3o", mirror=given.mirror, cache=given.cache)
    print(
        "Ernest on C3O, one fit per job and machine type; truth is the median of 5 repetitions; MAPE is averaged over a\n"
        "fit's held-out points, then over fits.\n"
    )
    for name, by in PROTOCOLS.items():
        print(markdown(name, evaluate(data, by)))


if __name__ == "__main__":
    main()
