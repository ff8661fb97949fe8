"""`recommender profile`: measure the user's own command on this machine."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from recommender.commands.options import pairs
from recommender.errors import InputError, RecommenderError
from recommender.units import format_duration, parse_duration

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress

    from recommender.measurement import Measurement
    from recommender.profiling import PlannedRun, ProfiledRun


class SummaryFormat(StrEnum):
    """How the summary is written to stdout."""

    TABLE = "table"
    JSON = "json"


_HEADINGS = {  # column of the summary -> its heading
    "cores": "cores",
    "scale": "scale",
    "runs": "runs",
    "completed": "completed",
    "runtime_s": "runtime (s), median",
    "runtime_s_min": "min",
    "runtime_s_max": "max",
    "cpu_s": "CPU (s), median",
    "peak_memory_gib": "peak memory (GiB)",
}


def profile(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="The command, after '--'; {scale} and {cores} are replaced."),
    ],
    workload: Annotated[str, typer.Option(help="Name of the workload in the runs table.")],
    out: Annotated[Path, typer.Option(help="Runs table to add to, CSV or Parquet; made when it is not there.")],
    cores: Annotated[str | None, typer.Option(help="Core counts, such as 1,2. Default: 1, 2, 4 ... all.")] = None,
    scales: Annotated[
        str | None, typer.Option(help="Shares of the whole input for {scale}, such as 0.05,0.1,0.2.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Measured runs of each core count and scale.")] = 3,
    warmup: Annotated[int, typer.Option(min=0, help="Unrecorded runs of each scale before everything else.")] = 0,
    application: Annotated[str | None, typer.Option(help="Groups workloads that are the same program.")] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="A number recorded as input.NAME.")
    ] = None,
    instance_type: Annotated[
        str, typer.Option(help="The instance type this machine was rented as, to measure a candidate itself.")
    ] = "local",
    time_limit: Annotated[str | None, typer.Option(help="Kill a run after this time, such as 30m.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip the runs the table already holds.")] = False,
    shell: Annotated[bool, typer.Option("--shell", help="Give COMMAND to /bin/sh as one line.")] = False,
    thread_env: Annotated[
        bool, typer.Option("--thread-env/--no-thread-env", help="Set OMP_NUM_THREADS and its like to the core count.")
    ] = True,
    show_output: Annotated[bool, typer.Option("--show-output", help="Show the command's output, on stderr.")] = False,
    form: Annotated[SummaryFormat, typer.Option("--format", help="Summary on stdout.")] = SummaryFormat.TABLE,
) -> None:
    """Measure your own command on this machine, at several core counts and input scales.

    Wall time, CPU time, peak memory and disk bytes are those of the command and the processes it starts; network bytes
    are those of the whole machine meanwhile. Each run is added to the table as soon as it ends. The size to recommend
    for is then --input scale=1.

        recommender profile --workload sort --out runs.csv --cores 1,2 --scales 0.05,0.1,0.2 -- python sort.py {scale}
    """
    from recommender.catalogue.cpu import identify, local_cpu_model
    from recommender.measurement import available_cpus
    from recommender.profiling import ProfilePlan, default_cores, execute

    plan = ProfilePlan(
        command=tuple(command),
        workload=workload,
        cores=_integers(cores) if cores is not None else default_cores(len(available_cpus())),
        scales=_numbers(scales) if scales is not None else (),
        repeat=repeat,
        warmup=warmup,
        time_limit_s=parse_duration(time_limit) if time_limit is not None else None,
        application=application,
        instance_type=instance_type,
        inputs=pairs(input_),
        shell=shell,
        thread_env=thread_env,
        show_output=show_output,
    )
    made: list[ProfiledRun] = []
    try:
        with _ended_by_sigterm(), _progress(live=sys.stderr.isatty() and not show_output, made=made) as reporter:
            runs = execute(plan, out=out, resume=resume, on_start=reporter.started, on_run=reporter.ended)
    except KeyboardInterrupt:
        told = sum(run.planned.repetition > 0 for run in made)
        _note(f"interrupted; the runs made so far ({told}) are in {out}; --resume goes on from there")
        raise typer.Exit(130) from None
    cpu_model = local_cpu_model()
    match = identify(cpu_model)
    how = match.how if match else "not a CPU known on EC2; its family will be assumed (--local-like names one)"
    _note(f"CPU {cpu_model}: {how}")
    if not made:
        _note(f"nothing left to run: {out} holds every run asked for")
    frame = runs.frame
    summary = _summary(frame[(frame["workload"] == workload) & (frame["instance_type"] == instance_type)])
    sys.stdout.write(json.dumps(summary, indent=2) + "\n" if form is SummaryFormat.JSON else _table(summary))
    measured = [run.measurement for run in made if run.planned.repetition]
    if measured and all(measurement.status != "completed" for measurement in measured):
        raise RecommenderError(f"none of the {len(measured)} runs completed; the last one {_failure(measured[-1])}")


class _Reporter:
    """Tells each run on stderr: as a live line on a terminal, else failures only."""

    def __init__(self, progress: Progress | None, made: list[ProfiledRun]) -> None:
        self._progress = progress
        self._made = made
        self._task = progress.add_task("", total=None, left="") if progress else None

    def started(self, run: PlannedRun, number: int, total: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=_described(run), completed=number - 1, total=total)

    def ended(self, run: ProfiledRun) -> None:
        self._made.append(run)
        if self._progress is not None and self._task is not None:
            left = "" if run.remaining_s is None else f"about {format_duration(run.remaining_s)} left"
            self._progress.update(self._task, completed=run.number, left=left)
        if run.measurement.status != "completed":
            line = f"run {run.number} of {run.total} ({_described(run.planned)}) {_failure(run.measurement)}"
            if self._progress is not None:
                self._progress.console.print(line, markup=False, highlight=False)
            else:
                _note(line)


@contextmanager
def _progress(*, live: bool, made: list[ProfiledRun]) -> Iterator[_Reporter]:
    if not live:
        yield _Reporter(None, made)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("{task.fields[left]}"), console=Console(stderr=True), transient=True
    ) as progress:
        yield _Reporter(progress, made)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that the command under measurement is ended too."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _described(run: PlannedRun) -> str:
    what = f"{run.cores} core{'s' if run.cores > 1 else ''}"
    scale = "" if run.scale is None else f", scale {run.scale:g}"
    return f"{what}{scale}, {f'repetition {run.repetition}' if run.repetition else 'warm-up'}"


def _failure(measurement: Measurement) -> str:
    if measurement.status == "timed_out":
        return f"was stopped at the time limit, after {format_duration(measurement.runtime_s)}"
    line = f": {measurement.last_error_line}" if measurement.last_error_line else ""
    return f"failed with exit code {measurement.exit_code}{line}"


def _summary(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row for each core count and scale: how many runs, and the medians of those that completed."""
    keys = [column for column in ("vcpus", "input.scale") if column in frame]
    rows = []
    for _, cell in frame.groupby(keys, dropna=False, sort=True):
        completed = cell[cell["status"] == "completed"] if "status" in cell else cell
        runtime = completed["runtime_s"]
        values = {
            "runtime_s": runtime.median(),
            "runtime_s_min": runtime.min(),
            "runtime_s_max": runtime.max(),
            "cpu_s": completed["metric.cpu_s"].median() if "metric.cpu_s" in completed else math.nan,
            "peak_memory_gib": completed["metric.peak_memory_gib"].max()
            if "metric.peak_memory_gib" in completed
            else math.nan,
        }
        scale = float(cell["input.scale"].iloc[0]) if "input.scale" in cell else math.nan
        cores = cell["vcpus"].iloc[0]
        rows.append(
            {
                "cores": None if math.isnan(cores) else int(cores),
                "scale": None if math.isnan(scale) else scale,
                "runs": len(cell),
                "completed": len(completed),
                **{name: None if math.isnan(value) else float(value) for name, value in values.items()},
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [list(_HEADINGS.values()), *([text(row[name]) for name in _HEADINGS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(map(str.rjust, line, widths)) + "\n" for line in lines)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--cores {text!r} is not a list of whole numbers; write for example --cores 1,2") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--scales {text!r} is not a list of numbers; write for example --scales 0.05,0.1") from None


def _note(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
