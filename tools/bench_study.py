"""Kill a tuning again and again, and let many workers share one study: is a told run ever lost, a store ever corrupt?

    python tools/bench_study.py                     200 kills; 8 workers, 2,000 runs; rows of Markdown on stdout
    python tools/bench_study.py --kills 10 --workers 4 --runs 80

Told means that `tell` has returned. What was told is written to a log of its own, outside the store, and forced to the
disk after that; a run in the log and not in the store would be lost. SIGKILL ends the process, not the machine: what a
power cut leaves is not measured here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from recommender import Question, Study

KNOBS = 50
"""Candidates are KNOBS x KNOBS settings of two parameters."""


def make(path: Path) -> None:
    """Make the study, searched at random."""
    pairs = itertools.product(range(1, KNOBS + 1), repeat=2)
    rows = [("desk", 1, 0.1, a, b) for a, b in pairs]
    columns = ["instance_type", "node_count", "usd_per_hour", "param.a", "param.b"]
    Study.create("s", Question(candidates=pd.DataFrame(rows, columns=columns)), strategy_name="random", store=path)


def note(log: Path, entry: dict[str, Any]) -> None:
    """Add a line that is on the disk when this returns."""
    with log.open("ab") as file:
        file.write(json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def entries(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a kill may leave half of the last one."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


def tuning(path: Path, log: Path, workers: int) -> None:
    """Tune until killed; each line of the log is a run whose `tell` has returned."""
    from recommender.run_command import RunCommand
    from recommender.tuning import tune

    study = Study.open("s", store=path)
    note(log, {"ready": os.getpid()})
    tune(
        study,
        RunCommand(line="printf '{{\"runtime_s\": %s.%s}}' {param.a} {param.b}"),
        workers=workers,
        on_end=lambda pending, outcome: note(log, {"id": pending.id, "runtime_s": outcome.runtime_s}),
    )


def working(path: Path, log: Path, runs: int) -> None:
    """Ask and tell, `runs` times; each line is a run with when it was given and when its telling began, both monotonic."""
    study = Study.open("s", store=path)
    for _ in range(runs):
        began = time.monotonic()
        (pending,) = study.ask()
        given = time.monotonic()
        runtime_s = float(pending.run.params["param.a"]) + float(pending.run.params["param.b"]) / 100  # type: ignore[arg-type]
        telling = time.monotonic()
        study.tell(pending.id, runtime_s=runtime_s)
        entry = {"id": pending.id, "at": pending.run.label, "runtime_s": runtime_s, "given": given, "telling": telling}
        note(log, entry | {"ask_s": given - began, "tell_s": time.monotonic() - telling})


def intact(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with the store."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def missing(path: Path, told: list[dict[str, Any]]) -> int:
    """How many runs of a log the store does not hold, or holds with another runtime."""
    held = Study.open("s", store=path).snapshot().told
    return sum(run["id"] not in held or held[run["id"]]["runtime_s"] != run["runtime_s"] for run in told)


def child(*arguments: object) -> subprocess.Popen[bytes]:
    """This file, in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], start_new_session=True)


def children_cpu_s() -> float:
    """Processor time of all ended children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kills(count: int, directory: Path, seed: int) -> dict[str, float]:
    """Kill a tuning `count` times, each up to 2.5 s after it began to ask or first told; check the store and the log after each."""
    rng, path = random.Random(seed), directory / "kills.db"
    log, found = directory / "kills.log", {"kills": count, "corrupt": 0, "lost": 0}
    start, cpu_s = time.monotonic(), children_cpu_s()
    make(path)
    for turn in range(count):
        before = len(entries(log))
        process = child("--tuning", path, log)
        first = before + 1 + turn % 2  # every other time after the first tell, so that there is something to lose
        while len(entries(log)) < first:
            if process.poll() is not None:
                raise RuntimeError(f"the tuning ended by itself with {process.returncode}")
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 2.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found["corrupt"] += not intact(path)
        found["lost"] += missing(path, [e for e in entries(log) if "id" in e])
        if len(Study.open("s", store=path).snapshot().told) > KNOBS**2 - 100:
            path, log = directory / f"kills{turn}.db", directory / f"kills{turn}.log"
            make(path)
    logs = [e for file in directory.glob("kills*.log") for e in entries(file)]
    held = sum(len(Study.open("s", store=file).snapshot().told) for file in directory.glob("kills*.db"))
    spent = {"wall_s": time.monotonic() - start, "cpu_s": children_cpu_s() - cpu_s}
    return {**found, "logged": sum("id" in e for e in logs), "held": held, **spent}


def crowd(workers: int, runs: int, directory: Path) -> dict[str, float]:
    """Let `workers` processes ask and tell at once, `runs` runs together."""
    path = directory / "crowd.db"
    make(path)
    start, cpu_s = time.monotonic(), children_cpu_s()
    processes = [child("--working", path, directory / f"crowd{i}.log", runs // workers) for i in range(workers)]
    codes = [process.wait() for process in processes]
    wall_s = time.monotonic() - start
    if any(codes):
        raise RuntimeError(f"workers ended with {codes}")
    told = [e for i in range(workers) for e in entries(directory / f"crowd{i}.log")]
    told.sort(key=lambda e: (e["at"], e["given"]))
    twice = sum(a["at"] == b["at"] and b["given"] < a["telling"] for a, b in itertools.pairwise(told))
    again = len(told) - len({e["at"] for e in told})
    held = len(Study.open("s", store=path).snapshot().told)
    return {
        "workers": workers,
        "runs": len(told),
        "held": held,
        "lost": missing(path, told),
        "in flight twice": twice,
        "measured again": again,
        "corrupt": int(not intact(path)),
        "wall_s": wall_s,
        "cpu_s": children_cpu_s() - cpu_s,
        "ask_s median": statistics.median(e["ask_s"] for e in told),
        "tell_s median": statistics.median(e["tell_s"] for e in told),
        "ask_s largest": max(e["ask_s"] for e in told),
    }


def main() -> None:
    """Measure and print; exit 1 when anything was lost, doubled or corrupt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tuning", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--working", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tuning:
        tuning(*asked.tuning, workers=4)
        return
    if asked.working:
        working(Path(asked.working[0]), Path(asked.working[1]), int(asked.working[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        killed = kills(asked.kills, Path(name), asked.seed) if asked.kills else {}
        shared = crowd(asked.workers, asked.runs, Path(name)) if asked.runs else {}
    for measured in (killed, shared):
        for what, value in measured.items():
            print(f"| {what} | {value:.4g} |" if isinstance(value, float) else f"| {what} | {value} |")
    if any(measured.get(bad) for measured in (killed, shared) for bad in ("corrupt", "lost", "in flight twice")):
        sys.exit(1)


if __name__ == "__main__":
    main()
