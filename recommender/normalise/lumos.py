"""Lumos: 92 workloads on 55 single VMs of four clouds, with the system activity counters of the AWS part."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from recommender.normalise.rows import BYTES_PER_GIB, Files, Row, Tables

VCPUS: Mapping[str, int] = {"large": 2, "xlarge": 4, "2xlarge": 8}
"""Size in the type's name -> vCPUs on AWS, Alibaba and Huawei."""

TENCENT_VCPUS: Mapping[str, int] = {"medium": 2, "large": 4, "2xlarge": 8}

GIB_PER_VCPU: Mapping[str, int] = {"c": 2, "g": 4, "m": 4, "r": 8}
"""Last letter of the family's name -> GiB per vCPU on AWS and Alibaba; the others' names end in it or in the GiB."""

SAR: Mapping[str, tuple[str, float, tuple[str, ...]]] = {
    "cpu_user_percent": ("%user", 1, ("mean", "p90")),
    "cpu_system_percent": ("%system", 1, ("mean", "p90")),
    "cpu_iowait_percent": ("%iowait", 1, ("mean", "p90")),
    "cpu_idle_percent": ("%idle", 1, ("mean",)),
    "run_queue_tasks": ("runq-sz", 1, ("mean", "p90", "max")),
    "blocked_tasks": ("blocked", 1, ("mean", "max")),
    "all_tasks": ("plist-sz", 1, ("mean",)),
    "memory_commit_percent": ("%commit", 1, ("mean", "max")),
    "page_cache_gib": ("kbcached", 1 / 2**20, ("mean", "max")),
    "page_faults_per_s": ("fault/s", 1, ("mean",)),
    "major_faults_per_s": ("majflt/s", 1, ("mean",)),
    "disk_read_mib_per_s": ("bread/s", 512 / 2**20, ("mean", "p90", "max")),
    "disk_write_mib_per_s": ("bwrtn/s", 512 / 2**20, ("mean", "p90", "max")),
    "disk_busy_percent": ("%util", 1, ("mean", "p90")),
    "disk_wait_ms": ("await", 1, ("mean", "p90")),
    "loopback_mib_per_s": ("rxkB/s", 1 / 2**10, ("mean", "p90", "max")),
    "context_switches_per_s": ("cswch/s", 1, ("mean",)),
}
"""Counter -> its column of `sar.csv`, what turns the column's unit into the counter's, and what is kept of its samples.
`bread/s` and `bwrtn/s` count blocks of 512 bytes. Only the loopback interface was recorded, over which the daemons of
one machine talk to each other; both its directions are equal."""

USED_MEMORY = "memory_used_gib", ("mean", "max")
"""Used memory without buffers and page cache; what the whole machine used, daemons included, and a JVM uses what
there is: not the memory a run needs (`metric.peak_memory_gib`), which Lumos does not tell."""

METRICS = tuple(
    f"metric.{counter}_{statistic}"
    for counter, kept in (*((counter, kept) for counter, (_, _, kept) in SAR.items()), USED_MEMORY)
    for statistic in kept
)


def lumos(files: Files) -> Tables:
    """92 workloads (HiBench and BigDataBench on Hadoop, Spark, Hive) on 55 types, mostly three repetitions, completed.

    `workload` is framework, program and size of the upstream directory, `application` the program whatever its
    framework; Hive's five aggregations count as one program. Other clouds' types are named `<provider>-<type>`.

    Outside AWS there are two campaigns, in directories `1 second` and `5 second`: two months apart, with runtimes
    that differ by up to a factor of two. They are never pooled: a workload that is in both is taken from `5 second`,
    which has all its sizes; `1 second` gives the Hive workloads, which no other has.

    `input.size_gib` is the median of the sizes that a workload's runs report, given to each since it describes the
    job; empty for Hive, whose reports give none. `metric.*` are summaries of AWS's `sar.csv`, one sample a second.
    `started_at` is the end that reports of HiBench state less the runtime; no time zone is stated.
    """
    runs: list[Row] = []
    counters: dict[tuple[str, str], Row] = {}
    sizes: defaultdict[str, list[float]] = defaultdict(list)
    types: dict[str, Row] = {}
    for path, content in files:
        provider, *campaign, upstream_type, directory, name = PurePosixPath(path).parts
        instance_type = upstream_type if provider == "aws" else f"{provider}-{upstream_type}"
        if name == "sar.csv":
            counters[instance_type, directory] = sar_summary(content)
            continue
        report = json.loads(content)
        framework, program, size, *repetition = directory.split("_")
        workload, runtime_s = f"{framework}_{program}_{size}", float(report["elapsed_time"])
        if "input_size" in report:
            sizes[workload].append(float(report["input_size"]))
        runs.append(
            {
                "workload": workload,
                "application": "aggregation" if program.startswith("aggregation") else program,
                "instance_type": instance_type,
                "node_count": 1,
                "runtime_s": runtime_s,
                "status": "completed" if report["completed"] else "failed",
                "started_at": _started_at(report, runtime_s),
                "directory": directory,
                "repetition": [int(number) for number in repetition],
                "campaign": campaign,
            }
        )
        types[instance_type] = _candidate(provider, upstream_type, instance_type)
    repeated = {run["workload"] for run in runs if run["campaign"] == ["5 second"]}
    runs = [run for run in runs if run["campaign"] != ["1 second"] or run["workload"] not in repeated]
    runs.sort(key=lambda run: (run["workload"], run["instance_type"], run["repetition"]))
    nothing: Row = dict.fromkeys(METRICS)
    for run in runs:
        known = sizes.get(run["workload"])
        run["input.size_gib"] = statistics.median(known) / BYTES_PER_GIB if known else None
        run |= nothing | counters.get((run["instance_type"], run["directory"]), {})
        for name in ("directory", "repetition", "campaign"):
            del run[name]
    return {"runs": runs, "candidates": [types[name] for name in sorted(types)]}


def _started_at(report: Row, runtime_s: float) -> str:
    if "begin_time" in report:
        return str(report["begin_time"]).replace(" ", "T")
    ended_at = datetime.fromisoformat(report["timestamp"])
    return (ended_at - timedelta(seconds=round(runtime_s))).isoformat()


def _candidate(provider: str, upstream_type: str, instance_type: str) -> Row:
    """What the type's name says of it; `feature.provider` sets the clouds apart."""
    family, size, *ratio = upstream_type.split(".")
    if provider == "tencent":
        size, gib = re.findall(r"^(\d?\D+)(\d+)$", size)[0]
        vcpus, memory_gib = TENCENT_VCPUS[size], int(gib)
    else:
        vcpus = VCPUS[size]
        memory_gib = vcpus * (int(ratio[0]) if provider == "huawei" else GIB_PER_VCPU[family.rstrip("0123456789")[-1]])
    return {
        "instance_type": instance_type,
        "node_count": 1,
        "vcpus": vcpus,
        "memory_gib": memory_gib,
        "feature.provider": provider,
    }


def sar_summary(content: bytes) -> Row:
    """Return the `metric.*` of one `sar.csv`: mean, 90th percentile and maximum of its samples, to four decimals.

    The percentile is the smallest sample that at least 90 % do not exceed, and the mean is of an exact sum, so that
    every machine gives the same bytes.
    """
    header, *samples = csv.reader(io.StringIO(content.decode()))
    columns = dict(zip(header, zip(*samples, strict=True), strict=True))
    summary: Row = {}
    for counter, (column, factor, kept) in SAR.items():
        _summarise(summary, counter, [factor * float(cell) for cell in columns[column]], kept)
    memory_kib = (map(float, columns[name]) for name in ("kbmemused", "kbbuffers", "kbcached"))
    used_gib = [(used - buffers - cached) / 2**20 for used, buffers, cached in zip(*memory_kib, strict=True)]
    counter, kept = USED_MEMORY
    _summarise(summary, counter, used_gib, kept)
    return summary


def _summarise(summary: Row, counter: str, values: Sequence[float], kept: tuple[str, ...]) -> None:
    ordered = sorted(values)
    every = {
        "mean": statistics.fmean(values),
        "p90": ordered[math.ceil(0.9 * len(ordered)) - 1],
        "max": ordered[-1],
    }
    for statistic in kept:
        summary[f"metric.{counter}_{statistic}"] = round(every[statistic], 4)
