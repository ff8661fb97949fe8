"""Jobs measured on clusters of EC2 machines: Scout, C3O, Lynceus."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from recommender.normalise.rows import BYTES_PER_GIB, Files, Row, Tables

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


LYNCEUS_LIMIT_S = 600.0
LYNCEUS_ACCURACY = 0.85
"""A training run succeeds when the network reaches this accuracy within the limit."""

LYNCEUS_TYPES: Mapping[str, tuple[float, int, float]] = {
    "t2.small": (0.023, 1, 2.0),
    "t2.medium": (0.0464, 2, 4.0),
    "t2.xlarge": (0.1856, 4, 16.0),
    "t2.2xlarge": (0.3712, 8, 32.0),
}
"""Instance type -> USD an hour on demand in Ohio when Lynceus was measured (2018), vCPUs, memory in GiB."""


def lynceus(files: Files) -> Tables:
    """3 TensorFlow jobs x 384 configurations of t2 workers and of the training itself, one run each.

    `node_count` is the number of workers w. A run rents two more machines of their type, a parameter server (`n_ps`,
    1 in every row) and one that measures the accuracy every 30 s. `usd_per_hour`, which is per node, therefore is
    price x (w + 2) / w, so that runtime x usd_per_hour x node_count is `cost_usd`, the whole bill.

    A run is `completed` when it reached the accuracy within the limit, `timed_out` otherwise: its time, 600 s and
    more, is how long it ran (upstream's own code extrapolates it by 0.85 / accuracy; nothing is extrapolated here).
    `metric.accuracy` is the accuracy when it ended. The timestamp is the end of the run in UTC (it equals the time
    in the record's identifier), `started_at` that less the runtime.
    """
    runs: list[Row] = []
    candidates: dict[tuple[object, ...], Row] = {}
    for path, content in files:
        job = PurePosixPath(path).stem.split("_")[1]
        for row in csv.DictReader(io.StringIO(content.decode())):
            instance_type, workers = row["vm_flavor"], int(row["n_workers"])
            usd_per_hour, vcpus, memory_gib = LYNCEUS_TYPES[instance_type]
            runtime_s, accuracy = float(row["training_time"]), float(row["acc"])
            machines = workers + int(row["n_ps"]) + 1
            in_time = accuracy >= LYNCEUS_ACCURACY and runtime_s <= LYNCEUS_LIMIT_S
            ended_at = datetime.strptime(row["timestamp"], "%Y-%m-%d %H:%M:%S")
            configuration = {
                "instance_type": instance_type,
                "node_count": workers,
                "param.learning_rate": float(row["learning_rate"]),
                "param.batch_size": int(row["batch_size"]),
                "param.synchronism": row["synchronism"],
            }
            runs.append(
                {
                    "workload": job,
                    "application": job,
                    **configuration,
                    "runtime_s": runtime_s,
                    "status": "completed" if in_time else "timed_out",
                    "cost_usd": runtime_s / 3600 * usd_per_hour * machines,
                    "started_at": f"{ended_at - timedelta(seconds=round(runtime_s)):%Y-%m-%dT%H:%M:%SZ}",
                    "metric.accuracy": accuracy,
                    "metric.iterations": int(row["total_iterations"]),
                }
            )
            candidates[tuple(configuration.values())] = {
                **configuration,
                "usd_per_hour": usd_per_hour * machines / workers,
                "vcpus": vcpus,
                "memory_gib": memory_gib,
            }
    runs.sort(key=lambda run: (run["workload"], *(run[name] for name in configuration)))
    return {"runs": runs, "candidates": [candidates[key] for key in sorted(candidates)]}
