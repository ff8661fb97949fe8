"""Measure everything docs/benchmarks.md states, and write it: `make bench`.

Each section is measured in one go on one machine; timings are medians with their range. `--only NAME` measures one
section and keeps the others as they stand.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from recommender.catalogue.cpu import local_cpu_model

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("numpy", "pandas", "scipy", "typer")


def startup() -> str:
    """Cold-ish start of the command line and of the import, and a whole recommendation, in fresh processes."""
    python = sys.executable
    commands = {
        "`python -c pass` (the floor)": [python, "-c", "pass"],
        "`import recommender`": [python, "-c", "import recommender"],
        "`recommender --help`": [python, "-m", "recommender", "--help"],
        "`recommender recommend profile:sql_analytics`": [
            python,
            "-m",
            "recommender",
            "recommend",
            "profile:sql_analytics",
        ],
    }
    lines = ["| what | median s | range s |", "|---|---:|---:|"]
    for name, command in commands.items():
        seconds = []
        for _ in range(11):
            start = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        seconds = seconds[1:]
        lines.append(f"| {name} | {statistics.median(seconds):.3f} | {min(seconds):.3f}-{max(seconds):.3f} |")
    return "Ten fresh processes each, after one to warm the disk cache.\n\n" + "\n".join(lines)


def catalogue() -> str:
    """Score the whole catalogue."""
    row = subprocess.run(
        [sys.executable, "tools/bench_catalogue.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return (
        "Every priced type x region x purchase option x 1 to 32 nodes, with a deadline, by a fitted `ernest`; five "
        "repetitions in one process.\n\n"
        "| candidates | total s, median (range) | enumerating s | fitting, scoring, ranking s | s per million | peak GiB | first |\n"
        "|---:|---:|---:|---:|---:|---:|---|\n" + row.stdout.rstrip()
    )


def fetching() -> str:
    """Bring the largest public data set whole, from the mirror, in a fresh process."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "recommender", "datasets", "fetch", "lumos", "--cache", cache]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = len(next(Path(cache).rglob("runs.csv")).read_text(encoding="utf-8").splitlines()) - 1
    return (
        "`recommender datasets fetch lumos` with an empty cache: the archive is streamed, not unpacked to disk.\n\n"
        "| runs | wall s | CPU s | peak MiB |\n|---:|---:|---:|---:|\n"
        f"| {rows:,} | {wall:.0f} | {used.ru_utime + used.ru_stime:.0f} | {used.ru_maxrss / 1024:.0f} |"
    )


def ernest() -> str:
    """Judge Ernest on C3O."""
    table = subprocess.run(
        [sys.executable, "tools/bench_ernest.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return table.stdout.rstrip()


def arrow() -> str:
    """Judge Arrow on the AWS part of Lumos."""
    table = subprocess.run(
        [sys.executable, "tools/bench_arrow.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return table.stdout.rstrip()


def guarantee() -> str:
    """Judge the promises of a search, and its stopping rules, on Scout."""
    tables = subprocess.run(
        [sys.executable, "tools/bench_guarantee.py", "--seeds", "5"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    promises, stops = tables.stdout.strip().split("\n\n")
    return (
        "`cherrypick` on Scout, 18 workloads x 5 seeds, objective cost, without a deadline (`tools/bench_guarantee.py`).\n\n"
        '"With probability p no candidate is more than x cheaper than the recommended one": how often that was so in the '
        "table, with its 95 % interval over workloads, and the x promised; for given x, the probability said and the share "
        "of searches in which it was true.\n\n"
        f"{promises}\n\n"
        "When to stop: *worth it* ends a search when the expected saving of a run times the planned runs is below the "
        "expected cost of the next measurement; `its own` is the paper's rule. Paid in all is the search and the planned "
        "runs of what is then recommended; the least is the planned runs at the optimum.\n\n"
        f"{stops}"
    )


def lookahead() -> str:
    """Replay the lynceus data set at one search budget."""
    table = subprocess.run(
        [sys.executable, "tools/bench_lookahead.py", "--markdown"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return table.stdout.rstrip()


def filtering() -> str:
    """Judge collaborative filtering on Lumos."""
    table = subprocess.run(
        [sys.executable, "tools/bench_filtering.py"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return table.stdout.rstrip()


def c3o() -> str:
    """Judge C3O's selection of a model on its own data."""
    table = subprocess.run([sys.executable, "tools/bench_c3o.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    return table.stdout.rstrip()


def paris() -> str:
    """Judge fingerprints on Lumos."""
    table = subprocess.run(
        [sys.executable, "tools/bench_paris.py"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return table.stdout.rstrip()


def transfer() -> str:
    """Judge transfer across C3O's machine types."""
    table = subprocess.run(
        [sys.executable, "tools/bench_transfer.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return table.stdout.rstrip()


def regression() -> str:
    """Measure designs, intervals, deadlines and speed of the regression strategies."""
    found = subprocess.run(
        [sys.executable, "tools/bench_regression.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return found.stdout.rstrip()


def peers() -> str:
    """Strategies beside other projects' optimisers; without their environment, what was measured before."""
    made = subprocess.run(["make", "--silent", ".venv-peers/.installed"], cwd=ROOT, check=False)
    python = ROOT / ".venv-peers" / "bin" / "python" if made.returncode == 0 else Path(sys.executable)
    if made.returncode:
        sys.stderr.write(
            "the peers' environment cannot be made: only strategies are measured, peers are kept as they stand\n"
        )
    options = ["--plots"] if made.returncode == 0 else ["--plots", "--peers", "none"]
    commands = [["tools/bench_peers.py", *options], ["tools/bench_prior.py", "--out", "docs/peers"]]
    return "\n\n".join(
        subprocess.run([str(python), *c], cwd=ROOT, check=True, capture_output=True, text=True).stdout.rstrip()
        for c in commands
    )


def ask() -> str:
    """Time one ask of the search strategies."""
    table = subprocess.run([sys.executable, "tools/bench_ask.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    words = "15 runs known, made-up candidates (types x 1 to 20 nodes), 8 asks each with other runs: median CPU s and range."
    return f"{words}\n\n{table.stdout.rstrip()}"


def study() -> str:
    """Kill a tuning, and crowd a study."""
    rows = subprocess.run(
        [sys.executable, "tools/bench_study.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return rows.stdout.rstrip()


def search() -> str:
    """Replay Scout with the search strategies, without and with a deadline."""
    parts = []
    for extra in ([], ["--deadline"]):
        names = "cherrypick,cherrypick-artifact,trees,cloudbandit,random"
        command = [sys.executable, "tools/bench_search.py", "--strategies", names, *extra]
        found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        title = "With a deadline at each workload's median runtime" if extra else "Without a deadline"
        parts.append(f"{title}, 20 seeds, 10 runs:\n\n```\n{found.stdout.rstrip()}\n```")
    words = (
        "Objective cost, 18 workloads; the stopping rules are off. Measured and recommended: share of episodes within 10 % "
        "of the best completed configuration of the table that meets the deadline. Infeasible: failed, stopped or late. "
        "The replay ran in two processes; CPU s is its processor time, wall s what it took beside other work, the first "
        "strategy's with loading the libraries."
    )
    return "\n\n".join([words, *parts])


SECTIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "startup": ("Start-up", startup),
    "catalogue": ("Scoring the whole catalogue", catalogue),
    "fetching": ("Fetching Lumos", fetching),
    "ernest": ("Ernest on C3O", ernest),
    "filtering": ("Collaborative filtering on Lumos", filtering),
    "arrow": ("Arrow on the AWS part of Lumos", arrow),
    "search": ("Search on Scout", search),
    "ask": ("One ask", ask),
    "study": ("Kills and crowds: the study's store", study),
    "guarantee": ("Promises and stopping on Scout", guarantee),
    "peers": ("The strategies beside other projects' optimisers", peers),
    "lookahead": ("Search within a budget: Lynceus on its three jobs", lookahead),
    "regression": ("Designs, intervals and deadlines of the regression strategies", regression),
    "c3o": ("C3O's selection on its own data", c3o),
    "paris": ("PARIS on Lumos, one application left out", paris),
    "transfer": ("Transfer across C3O's machine types", transfer),
}


def machine() -> str:
    """Where and with what it was measured."""
    gib = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores of {local_cpu_model()}, {gib:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}, {packages}."
    )


def main() -> None:
    """Measure the sections asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append")
    wanted = parser.parse_args().only or list(SECTIONS)
    page = PAGE.read_text(encoding="utf-8")
    for name in wanted:
        sys.stderr.write(f"measuring {name} ...\n")
        title, measure = SECTIONS[name]
        text = f"<!-- {name} -->\n## {title}\n\n{machine()}\n\n{measure()}\n<!-- /{name} -->"
        pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
        if not pattern.search(page):
            page = f"{page.rstrip()}\n\n{text}\n"
        page = pattern.sub(lambda _, text=text: text, page)
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
