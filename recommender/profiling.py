"""Profile the user's own command: the runs to make, in which order, and the table they go to.

A run on `k` cores is the command with its CPU affinity set to `k` CPUs; a run at scale `x` is the command with
`{scale}` replaced by `x`, the share of the input to recommend for, which is `scale=1`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from recommender.catalogue.cpu import local_cpu_model
from recommender.errors import InputError
from recommender.measurement import Measurement, available_cpus, can_limit_cores, measure

if TYPE_CHECKING:
    import pandas as pd

    from recommender.runs import Runs

LOCAL = "local"
"""The `instance_type` of runs on a machine outside the catalogue."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "GOMAXPROCS",
    "JULIA_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "PYTHON_CPU_COUNT",
)
"""What sizes the thread pools of programs that count the machine's CPUs rather than those they may use."""


@dataclass(frozen=True, kw_only=True)
class ProfilePlan:
    """A command and the conditions to measure it under.

    Raises `InputError` on construction when a field is not what its description says.
    """

    command: tuple[str, ...]
    """The argument vector; `{scale}` and `{cores}` in it are replaced by their value in each run."""
    workload: str
    """The workload's name in the runs table."""
    cores: tuple[int, ...]
    """Core counts to allow, each at least 1."""
    scales: tuple[float, ...] = ()
    """Shares of the input, each more than 0; empty when the command has no `{scale}`."""
    repeat: int = 3
    """Measured runs of each core count and scale."""
    warmup: int = 0
    """Unrecorded runs of each scale on the most cores, before everything else."""
    time_limit_s: float | None = None
    """Seconds after which a run is killed and recorded as timed out."""
    application: str | None = None
    """Groups workloads that are the same program."""
    instance_type: str = LOCAL
    """What this machine is: `local`, or the instance type it was rented as."""
    inputs: Mapping[str, float] = field(default_factory=dict)
    """Constants that describe the input, recorded as `input.<name>`."""
    shell: bool = False
    """Join the command with spaces and give it to `/bin/sh -c`."""
    thread_env: bool = True
    """Set `THREAD_VARIABLES`, where the user has not, to the core count."""
    show_output: bool = False
    """Let the command write to stderr."""

    def __post_init__(self) -> None:
        if not self.command or not self.command[0].strip():
            raise InputError("there is no command to profile; write it after '--', as in: -- python job.py {scale}")
        if not self.workload.strip():
            raise InputError("the workload needs a name, which may not be empty")
        if not self.cores or min(self.cores) < 1:
            raise InputError(f"core counts {list(self.cores)} given; at least one is needed, each 1 or more")
        if any(not 0 < scale < math.inf for scale in self.scales):
            raise InputError(f"scales {list(self.scales)} given; each must be more than 0 (the whole input is 1)")
        for name, values in (("core counts", self.cores), ("scales", self.scales)):
            if len(set(values)) < len(values):
                raise InputError(f"{name} {list(values)} given; each may be named once (repeat is for repetitions)")
        if self.repeat < 1 or self.warmup < 0:
            raise InputError(f"repeat {self.repeat}, warmup {self.warmup} given; at least 1 and 0 are allowed")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise InputError(f"a time limit of {self.time_limit_s} s given; it must be more than 0")
        if any(not math.isfinite(value) for value in self.inputs.values()):
            raise InputError(f"inputs {dict(self.inputs)} given; each must be a finite number")
        if any("{scale}" in argument for argument in self.command):
            if not self.scales:
                raise InputError("the command has {scale}, but no scales are given; add, say, --scales 0.05,0.1,0.2")
        elif self.scales:
            raise InputError("scales are given, but the command has no {scale} to put them in, as in: job.py {scale}")
        if self.scales and "scale" in self.inputs:
            raise InputError("the input 'scale' is given both as a constant and as scales; keep one of them")


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One execution still to be made."""

    cores: int
    """CPUs it may use."""
    scale: float | None
    """Share of the input; `None` when the command has no `{scale}`."""
    repetition: int
    """1, 2, ...; 0 for a warm-up, which is not recorded."""


@dataclass(frozen=True, kw_only=True)
class ProfiledRun:
    """One execution made."""

    planned: PlannedRun
    """What it was."""
    measurement: Measurement
    """What it took."""
    number: int
    """Its place among all runs of this profile, from 1."""
    total: int
    """How many runs this profile makes."""
    remaining_s: float | None
    """Estimate of the time the runs after it will take."""


def default_cores(available: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... and `available`; only `available` where a process cannot be confined to some CPUs."""
    if not can_limit_cores():
        return (available,)
    return (*(1 << power for power in range(available.bit_length()) if 1 << power < available), available)


def planned_runs(plan: ProfilePlan) -> tuple[PlannedRun, ...]:
    """Return all runs of a plan in order.

    Each repetition goes through every core count and scale before the next begins, and every other one backwards, so
    that a machine that drifts (heat, neighbours) does so for all alike.
    """
    scales: tuple[float | None, ...] = tuple(sorted(plan.scales)) or (None,)
    cells = [(scale, cores) for scale in scales for cores in sorted(plan.cores, reverse=True)]
    warmups = [PlannedRun(cores=max(plan.cores), scale=s, repetition=0) for s in scales for _ in range(plan.warmup)]
    measured = [
        PlannedRun(cores=cores, scale=scale, repetition=repetition)
        for repetition in range(1, plan.repeat + 1)
        for scale, cores in (cells if repetition % 2 else reversed(cells))
    ]
    return (*warmups, *measured)


def still_to_run(plan: ProfilePlan, frame: pd.DataFrame, *, cpu_model: str) -> tuple[PlannedRun, ...]:
    """Return the planned runs that a runs table does not hold yet.

    A run counts, whatever its status, when its workload, CPU model, core count and inputs are the plan's.
    """
    held = frame[(frame["workload"] == plan.workload) & (frame["instance_type"] == plan.instance_type)]
    for column, value in {"cpu_model": cpu_model, **_input_columns(plan.inputs)}.items():
        held = held[held[column] == value] if column in held else held.iloc[:0]
    others = [c for c in map(str, held) if c.startswith("input.") and c[len("input.") :] not in {"scale", *plan.inputs}]
    held = held[held[others].isna().all(axis="columns")]
    count: dict[tuple[int, float | None], int] = {}
    if "vcpus" in held:
        scales = held["input.scale"] if "input.scale" in held and "scale" not in plan.inputs else [math.nan] * len(held)
        for cores, scale in zip(held["vcpus"], scales, strict=True):
            if not math.isnan(cores):
                cell = (int(cores), None if math.isnan(scale) else float(scale))
                count[cell] = count.get(cell, 0) + 1
    left = [r for r in planned_runs(plan) if r.repetition == 0 or r.repetition > count.get((r.cores, r.scale), 0)]
    return tuple(left) if any(run.repetition for run in left) else ()


def arguments_of(plan: ProfilePlan, run: PlannedRun) -> list[str]:
    """Return the argument vector of one run, its placeholders replaced."""
    scale = "" if run.scale is None else f"{run.scale:.12g}"
    filled = [part.replace("{scale}", scale).replace("{cores}", str(run.cores)) for part in plan.command]
    return ["/bin/sh", "-c", " ".join(filled)] if plan.shell else filled


def environment_of(plan: ProfilePlan, run: PlannedRun, *, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of one run: the inherited one, with thread counts where it says nothing about them."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(run.cores)) if plan.thread_env else {}
    return {**threads, **inherited}


def estimate_remaining_s(done: Sequence[tuple[PlannedRun, float]], remaining: Iterable[PlannedRun]) -> float | None:
    """Return the seconds the remaining runs will take, judged by the runtimes of those done; `None` before the first.

    A run like one done takes as long; another one in proportion to its scale, from the mean per scale of those done.
    """
    if not done:
        return None
    like: dict[tuple[int, float | None], list[float]] = {}
    for run, seconds in done:
        like.setdefault((run.cores, run.scale), []).append(seconds)
    per_scale = fmean(seconds / (run.scale or 1.0) for run, seconds in done)
    return sum(
        fmean(like[run.cores, run.scale]) if (run.cores, run.scale) in like else per_scale * (run.scale or 1.0)
        for run in remaining
    )


def profile_command(
    command: Sequence[str],
    *,
    workload: str,
    out: Path,
    cores: Sequence[int] | None = None,
    scales: Sequence[float] = (),
    repeat: int = 3,
    warmup: int = 0,
    time_limit_s: float | None = None,
    application: str | None = None,
    instance_type: str = LOCAL,
    inputs: Mapping[str, float] | None = None,
    shell: bool = False,
    thread_env: bool = True,
    show_output: bool = False,
    resume: bool = False,
    on_start: Callable[[PlannedRun, int, int], None] | None = None,
    on_run: Callable[[ProfiledRun], None] | None = None,
) -> Runs:
    """Measure a command: `execute` a `ProfilePlan` of these fields, its cores `default_cores` unless given."""
    plan = ProfilePlan(
        command=tuple(command),
        workload=workload,
        cores=default_cores(len(available_cpus())) if cores is None else tuple(cores),
        scales=tuple(scales),
        repeat=repeat,
        warmup=warmup,
        time_limit_s=time_limit_s,
        application=application,
        instance_type=instance_type,
        inputs=dict(inputs or {}),
        shell=shell,
        thread_env=thread_env,
        show_output=show_output,
    )
    return execute(plan, out=out, resume=resume, on_start=on_start, on_run=on_run)


def execute(
    plan: ProfilePlan,
    *,
    out: Path,
    resume: bool = False,
    on_start: Callable[[PlannedRun, int, int], None] | None = None,
    on_run: Callable[[ProfiledRun], None] | None = None,
) -> Runs:
    """Make the runs of a plan one after another, adding each to the runs table `out` as soon as it ends.

    Parameters
    ----------
    plan
        What to run.
    out
        A runs table, which may exist; a killed profile loses the run in flight and no other.
    resume
        Skip what `out` holds already, see `still_to_run`.
    on_start
        Called before each run, warm-ups included, with its number from 1 and how many there are.
    on_run
        Called after each run, once it is in the table.

    Returns
    -------
    Runs
        The whole table, with the runs it held before.

    Raises
    ------
    InputError
        Before the first run: more cores than there are, a command that is not found, a table that is not valid or
        cannot be written.
    """
    from recommender.runs import append_run, read_runs

    cpus = available_cpus()
    check_cores(plan.cores, available=len(cpus))
    todo = planned_runs(plan)
    for run in todo:
        _check_command(arguments_of(plan, run)[0])
    if not out.parent.is_dir():
        raise InputError(f"the runs table {out} cannot be written: there is no directory {out.parent}; create it first")
    cpu_model = local_cpu_model()
    _check_names(plan, cpu_model)
    if out.exists():
        held = read_runs(out)
        todo = still_to_run(plan, held.frame, cpu_model=cpu_model) if resume else todo
    done: list[tuple[PlannedRun, float]] = []
    for index, run in enumerate(todo):
        if on_start is not None:
            on_start(run, index + 1, len(todo))
        started_at = datetime.now(UTC)
        measurement = measure(
            arguments_of(plan, run),
            cpus=cpus[: run.cores],
            environment=environment_of(plan, run, inherited=os.environ),
            time_limit_s=plan.time_limit_s,
            show_output=plan.show_output,
        )
        if run.repetition:
            append_run(out, row_of(plan, run, measurement, started_at=started_at, cpu_model=cpu_model))
        done.append((run, measurement.runtime_s))
        if on_run is not None:
            left = estimate_remaining_s(done, todo[index + 1 :])
            on_run(
                ProfiledRun(planned=run, measurement=measurement, number=index + 1, total=len(todo), remaining_s=left)
            )
    return read_runs(out)


def row_of(
    plan: ProfilePlan, run: PlannedRun, measurement: Measurement, *, started_at: datetime, cpu_model: str
) -> dict[str, str | float | int]:
    """Return the row of the runs table for one run; what is unknown is left out."""
    row: dict[str, str | float | int | None] = {
        "workload": plan.workload,
        "application": plan.application,
        "instance_type": plan.instance_type,
        "node_count": 1,
        # A clock too coarse to see the run saw less than a microsecond.
        "runtime_s": max(round(measurement.runtime_s, 6), 1e-6),
        "status": measurement.status,
        "started_at": started_at.isoformat(timespec="seconds"),
        "input.scale": run.scale,
        **_input_columns(plan.inputs),
        "vcpus": run.cores,
        "cpu_model": cpu_model,
    }
    for name in ("cpu_s", "peak_memory_gib", "disk_read_gib", "disk_write_gib", "net_recv_gib", "net_sent_gib"):
        value: float | None = getattr(measurement, name)
        row[f"metric.{name}"] = None if value is None else round(value, 9)
    return {column: value for column, value in row.items() if value is not None}


def check_cores(cores: Iterable[int], *, available: int) -> None:
    """Raise `InputError` when this machine cannot run a command on these core counts."""
    asked = max(cores)
    if asked > available:
        raise InputError(
            f"{asked} cores were asked for, but this process may use {available}; allowed are 1 to {available}"
        )
    if not can_limit_cores() and any(count != available for count in cores):
        raise InputError(
            f"core counts {list(cores)} were asked for, but this system cannot confine a command to some cores; "
            f"use all of them (--cores {available}), or profile on Linux"
        )


def _check_command(program: str) -> None:
    if shutil.which(program) is None:
        raise InputError(
            f"the command {program!r} is not found or not executable; check its spelling and PATH "
            "(a line for the shell needs --shell)"
        )


def _check_names(plan: ProfilePlan, cpu_model: str) -> None:
    """Raise `RecommenderError` where the runs table would not take the plan's names, before an hour is spent."""
    import pandas as pd

    from recommender.runs import Runs

    names = {"workload": plan.workload, "application": plan.application, "cpu_model": cpu_model}
    row = {
        **names,
        "instance_type": plan.instance_type,
        "node_count": 1,
        "runtime_s": 1.0,
        **_input_columns(plan.inputs),
    }
    Runs.from_frame(pd.DataFrame([row]), "the profile to be made")


def _input_columns(inputs: Mapping[str, float]) -> dict[str, float]:
    return {f"input.{name}": value for name, value in inputs.items()}
