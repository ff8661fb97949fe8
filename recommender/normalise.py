"""Upstream files of the public data sets -> rows of this project's tables. Pure: bytes in, rows out.

Every function takes `(path, content)` pairs, the path relative to the upstream repository's root, and returns
`{table name: rows}`, the table names being `runs`, `candidates` and `figures`. Rows are sorted, so the order in
which an archive lists its files does not matter. A missing value is `None`, never 0.
"""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

Row = dict[str, Any]
Files = Iterable[tuple[str, bytes]]
Tables = dict[str, list[Row]]

BYTES_PER_GIB = 2**30

SCOUT_LIMIT_S = 7200.0
"""Scout stopped every run after two hours."""

SCOUT_TYPES: Mapping[str, tuple[float, int, float]] = {
    "c4.large": (0.100, 2, 3.75),
    "c4.xlarge": (0.199, 4, 7.5),
    "c4.2xlarge": (0.398, 8, 15.0),
    "m4.large": (0.100, 2, 8.0),
    "m4.xlarge": (0.200, 4, 16.0),
    "m4.2xlarge": (0.400, 8, 32.0),
    "r4.large": (0.133, 2, 15.25),
    "r4.xlarge": (0.266, 4, 30.5),
    "r4.2xlarge": (0.532, 8, 61.0),
}
"""Instance type -> USD an hour on demand when Scout was measured (January 2018), vCPUs, memory in GiB."""

C3O_BYTES_PER_MB: Mapping[str, int] = {"grep.tsv": 10**6}
"""What `data_size_MB` counts, where it is not 2**20 bytes. The column's unit is not stated: in `grep.tsv` it equals
lines x (line length + 1) / 10**6 on every row, in `sort.tsv` the same / 2**20; the other jobs do not tell."""


def scout(files: Files) -> Tables:
    """18 workloads x 69 configurations of Hadoop and Spark on EC2, one run each.

    `workload` is the upstream directory (program, input, framework), `application` the program. A run that did not
    complete is `timed_out` when it reached the two-hour limit and `failed` otherwise: its time is how long it ran,
    not how long the job takes. `input.size_gib` is the median of the sizes its workload's completed runs report
    (they agree within 0.02 %), given to every run of the workload since it describes the job; empty for the
    workloads that never report one.
    """
    runs: list[Row] = []
    sizes: defaultdict[str, list[float]] = defaultdict(list)
    for path, content in files:
        report = json.loads(content)
        workload, directory = PurePosixPath(path).parts[-3:-1]
        node_count, instance_type = directory.split("_")[:2]
        elapsed_s = float(report["elapsed_time"])
        size = float(report["input_size"])
        if report["completed"] and size > 0:
            sizes[workload].append(size)
        runs.append(
            {
                "workload": workload,
                "application": report["workload"],
                "instance_type": instance_type,
                "node_count": int(node_count),
                "runtime_s": elapsed_s,
                "status": _scout_status(bool(report["completed"]), elapsed_s),
                "started_at": report["timestamp"].replace(" ", "T"),
            }
        )
    for run in runs:
        known = sizes.get(run["workload"])
        run["input.size_gib"] = statistics.median(known) / BYTES_PER_GIB if known else None
    configurations = {(run["instance_type"], run["node_count"]) for run in runs}
    candidates = [
        dict(zip(("instance_type", "node_count", "usd_per_hour", "vcpus", "memory_gib"), row, strict=True))
        for row in sorted((kind, count, *SCOUT_TYPES[kind]) for kind, count in configurations)
    ]
    runs.sort(key=lambda run: (run["workload"], run["instance_type"], run["node_count"]))
    return {"runs": runs, "candidates": candidates}


def _scout_status(completed: bool, elapsed_s: float) -> str:
    if completed:
        return "completed"
    return "timed_out" if elapsed_s >= SCOUT_LIMIT_S else "failed"


def c3o(files: Files) -> Tables:
    """5 Spark jobs, 930 points x 5 repetitions on 2 to 12 nodes, all completed, with the inputs of each job.

    `slots` and `memory` are totals of the cluster; per node they become the candidates' `vcpus` and `memory_gib`
    (upstream counts 1,000 MB to the GiB: 30,000 MB for two c4.2xlarge of 15 GiB). No prices: the catalogue has them.
    """
    constant = {"instance_count", "machine_type", "slots", "memory", "data_size_MB", "gross_runtime"}
    tables = [(path, list(csv.DictReader(io.StringIO(content.decode()), delimiter="\t"))) for path, content in files]
    tables.sort(key=lambda table: table[0])
    inputs = sorted({name for _, rows in tables for name in rows[0]} - constant)
    runs: list[Row] = []
    candidates: dict[tuple[str, int], Row] = {}
    for path, rows in tables:
        job = PurePosixPath(path).stem
        for row in rows:
            instance_type, node_count = row["machine_type"], int(row["instance_count"])
            size_bytes = float(row["data_size_MB"]) * C3O_BYTES_PER_MB.get(path, 2**20)
            runs.append(
                {
                    "workload": job,
                    "application": job,
                    "instance_type": instance_type,
                    "node_count": node_count,
                    "runtime_s": float(row["gross_runtime"]),
                    "input.size_gib": size_bytes / BYTES_PER_GIB,
                    **{f"input.{name}": float(row[name]) if name in row else None for name in inputs},
                }
            )
            candidates[instance_type, node_count] = {
                "instance_type": instance_type,
                "node_count": node_count,
                "vcpus": int(row["slots"]) // node_count,
                "memory_gib": float(row["memory"]) / 1000 / node_count,
            }
    return {"runs": runs, "candidates": [candidates[key] for key in sorted(candidates)]}


def coremark(files: Files) -> Tables:
    """CoreMark and a video encoding on each EC2 type: scores of the whole machine; divide by `vcpus` to compare."""
    figures: list[Row] = []
    for _, content in files:
        for instance_type, record in json.loads(content).items():
            encoding = record["ffmpeg"] or {}
            figures.append(
                {
                    "instance_type": instance_type,
                    "vcpus": record["cpu"]["threads"],
                    "coremark_iterations_s": record["coremark"]["iterations_second"],
                    "coremark_time_s": record["coremark"]["total_time_seconds"],
                    "ffmpeg_frames_s": encoding.get("fps"),
                    "memory_mib": record["memory"]["total_mb"],
                    "cpu_model": record["cpu"].get("model"),
                    "ran_at": re.sub(r"\.\d+Z$", "Z", record["ran_at"]),
                }
            )
    return {"figures": sorted(figures, key=lambda row: row["instance_type"])}


def spot_advisor(files: Files) -> Tables:
    """Saving against on-demand (percent; negative = dearer) and interruption band (0 to 4) of each spot offering."""
    figures = [
        {"region": region, "instance_type": kind, "os": system, "saving_percent": entry["s"], "band": entry["r"]}
        for _, content in files
        for region, systems in json.loads(content)["spot_advisor"].items()
        for system, kinds in systems.items()
        for kind, entry in kinds.items()
    ]
    return {"figures": sorted(figures, key=lambda row: (row["region"], row["instance_type"], row["os"]))}


NORMALISERS: Mapping[str, Callable[[Files], Tables]] = {
    "scout": scout,
    "c3o": c3o,
    "coremark": coremark,
    "spot-advisor": spot_advisor,
}
"""Name of a data set -> what turns its upstream files into tables."""


def table_csv(rows: list[Row]) -> bytes:
    """Return `rows` as the CSV whose SHA-256 a descriptor states: UTF-8, LF, shortest exact floats, empty = missing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
