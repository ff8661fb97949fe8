"""Measure the workloads again on this machine: `python profiles/measure.py [NAME ...]`.

Each workload is profiled by `recommender profile` at 1 and 2 cores and three scales, three times, into
`profiles/NAME.csv`, and `profiles/NAME.md` says how. Runs that a table already holds from this CPU are skipped, so an
interrupted measurement goes on where it stopped; delete a table to measure it anew. Takes about eight minutes on two
cores of an AMD EPYC 9004. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil

from recommender.catalogue.cpu import local_cpu_model
from recommender.measurement import available_cpus
from recommender.runs import read_runs

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ROOT / "profiles"
RECOMMENDER = (sys.executable, "-c", "from recommender.cli import main; main()")
PACKAGES = {  # workload -> what its speed depends on, besides Python
    "compression": (),
    "gradient_boosting": ("numpy", "scikit-learn"),
    "image_resize": ("numpy", "pillow"),
    "kmeans": ("numpy", "scikit-learn"),
    "sort_lines": ("numpy",),
    "sql_analytics": ("duckdb",),
}


def main() -> int:
    """Measure the workloads named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}; default all")
    parser.add_argument("--out", type=Path, default=PROFILES, help="directory of the tables (default: profiles/)")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--scales", default="0.0125,0.025,0.05")
    parser.add_argument("--repeat", default="3")
    options = parser.parse_args()
    names = options.names or list(PACKAGES)
    if unknown := sorted(set(names) - PACKAGES.keys()):
        parser.error(f"unknown workload {', '.join(unknown)}; known are {', '.join(PACKAGES)}")
    if os.getloadavg()[0] > 0.5:
        print(f"warning: the load of this machine is {os.getloadavg()[0]:.1f}; times will be too long", file=sys.stderr)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        table = options.out.resolve() / f"{name}.csv"
        shown = table.relative_to(ROOT) if table.is_relative_to(ROOT) else table
        arguments = [
            *("profile", "--workload", name, "--out", str(shown), "--cores", options.cores),
            *("--scales", options.scales, "--repeat", options.repeat),
            *("--warmup", "1", "--time-limit", "5m", "--resume"),
            *("--", "python", f"profiles/workloads/{name}.py", "{scale}"),
        ]
        before = table.read_bytes() if table.exists() else b""
        done = subprocess.run([*RECOMMENDER, *arguments], cwd=ROOT, env=environment, check=False)
        if done.returncode:
            return done.returncode
        page = table.with_suffix(".md")
        if table.read_bytes() != before or not page.exists():  # else it would name versions that did not run
            command = shlex.join(["recommender", *arguments])
            page.write_text(describe(name, read_runs(table).frame, command), encoding="utf-8")
    return 0


def describe(name: str, frame: pd.DataFrame, command: str) -> str:
    """Return the page that says what was measured, how, where and when."""
    script = (PROFILES / "workloads" / f"{name}.py").read_text(encoding="utf-8")
    first, last = frame["started_at"].min(), frame["started_at"].max()
    versions = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES[name])]
    if name == "sort_lines":
        told = subprocess.run(["sort", "--version"], capture_output=True, text=True, check=True)
        versions.append(told.stdout.splitlines()[0])
    statuses = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    completed = frame[frame["status"] == "completed"]
    rows = [
        f"| {cores:g} | {scale:g} | {len(cell)} | {cell['runtime_s'].median():.2f} | {cell['runtime_s'].min():.2f} | "
        f"{cell['runtime_s'].max():.2f} | {cell['metric.cpu_s'].median():.2f} | "
        f"{cell['metric.peak_memory_gib'].max():.3f} |"
        for (cores, scale), cell in completed.groupby(["vcpus", "input.scale"])
    ]
    cpu_model = local_cpu_model()
    others = sorted(set(frame["cpu_model"]) - {cpu_model})
    return "\n".join(
        [
            f"# {name}",
            "",
            ast.get_docstring(ast.parse(script)) or "",
            "",
            "## How it was measured",
            "",
            f"- Command, at the root of the checkout: `{command}`",
            f"- Machine: {cpu_model}, {len(available_cpus())} CPUs, "
            f"{psutil.virtual_memory().total / 1024**3:.0f} GiB of memory"
            + (f"; the table also holds runs on {', '.join(others)}" if others else ""),
            f"- System: {platform.system()} {re.split('[-+]', platform.release())[0]}",
            f"- Versions: {', '.join(versions)}",
            f"- When: {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
            f"- Runs: {len(frame)} ({statuses}), after one unrecorded warm-up of each scale (inputs made, pages cached)",
            "- Network bytes are those of the whole machine; all others are those of the command",
            "",
            "## Result",
            "",
            "| cores | scale | completed | runtime (s), median | min | max | CPU (s), median | peak memory (GiB) |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
