"""`recommender tune`: measure what a study asks for, with a command of the user's."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from recommender.commands.options import PROBLEM_DEFAULTS, Asked, Format, FormatOption, StrategyName, asks
from recommender.commands.study import StoreFile, in_words, named, run_label
from recommender.errors import InputError, RecommenderError, UnknownNameError
from recommender.units import format_duration, format_usd, parse_duration

if TYPE_CHECKING:
    from rich.progress import Progress

    from recommender.run_command import Outcome, RunCommand
    from recommender.store import Pending
    from recommender.study import Study


@asks
def tune(
    asked: Asked,
    run: Annotated[
        str | None,
        typer.Option(help="The command; {instance_type}, {node_count}, {param.NAME}, {input.NAME} are replaced."),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study: made, or gone on with.")] = None,
    strategy: StrategyName = "auto",
    max_runs: Annotated[int | None, typer.Option(min=1, help="End when the study holds this many runs.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs in progress at once.")] = 1,
    time_limit: Annotated[str | None, typer.Option(help="End a run after this time, such as 30m.")] = None,
    stop_dear: Annotated[
        bool, typer.Option("--stop-dear", help="End a run when it has cost more than the best so far (objective cost).")
    ] = False,
    retries: Annotated[int, typer.Option(min=0, help="How often to make a failed run again.")] = 0,
    max_failures: Annotated[int, typer.Option(min=1, help="End after this many failures in a row.")] = 5,
    shell: Annotated[bool, typer.Option("--shell", help="Give the command to /bin/sh as one line.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the first commands, and run nothing.")] = False,
    store: StoreFile = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Measure configurations with your own command until nothing more is worth it; Ctrl-C, and go on later.

    The result of a run is its wall time, or what the last line of its stdout says as a JSON object: runtime_s, cost_usd,
    status (completed, failed, timed_out) and metric.NAME. An exit code other than 0 is a failed run.

    Example: recommender tune --study job --candidates pool.csv --strategy random --max-runs 12 --run './job --threads {param.threads}'
    """
    from recommender.run_command import RunCommand
    from recommender.tuning import tune as measure

    limit_s = parse_duration(time_limit) if time_limit else None
    command = RunCommand(line=run, shell=shell, time_limit_s=limit_s, retries=retries) if run is not None else None
    if form is Format.CSV:
        raise InputError("tune prints a table or JSON; for the runs as CSV: recommender study export")
    if dry_run:
        _print_commands(asked, command, study, strategy, workers, store)
        return
    name = study or f"tune-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    opened, command = _open(asked, command, name, strategy, store)
    problem, _ = opened.evidence()
    unused = command.check(problem, opened.stored.settings["inputs"] | dict(problem.inputs))
    opened.store.keep_command(opened.stored.key, command.to_dict())
    for parameter in unused:
        _note(f"the command does not use {{{parameter}}}: configurations that differ in it alone are run alike")
    _note(f"study {name} in {opened.store.path}")
    try:
        with _ended_by_signals(), _progress(opened, live=sys.stderr.isatty()) as reporter:
            tuned = measure(
                opened,
                command,
                workers=workers,
                max_runs=max_runs,
                search_budget_usd=opened.question.search_budget_usd,
                stop_dear=stop_dear,
                max_failures=max_failures,
                on_start=reporter.started,
                on_end=reporter.ended,
            )
    except KeyboardInterrupt:
        _note(f"interrupted; what was told is kept; go on with: recommender tune --study {named(name, store)}")
        raise typer.Exit(130) from None
    facts = opened.summary()
    if form is Format.JSON:
        typer.echo(json.dumps({**facts, "stopped": tuned.reason}, indent=2, allow_nan=False, ensure_ascii=False))
    else:
        typer.echo(
            f"stopped: {tuned.reason}\n{in_words(facts)}\nnext: recommender study recommend {named(name, store)}"
        )
    if tuned.runs and not tuned.completed:
        why = f"; the last one: {tuned.last_failure}" if tuned.last_failure else ""
        raise RecommenderError(f"none of the {tuned.runs} runs made now completed{why}")


def _open(asked: Asked, command: RunCommand | None, name: str, strategy: str, store: Any) -> tuple[Study, RunCommand]:
    """The study of that name, made where there is none, and the command to run."""
    from recommender.question import Question
    from recommender.run_command import RunCommand
    from recommender.store_file import store_path
    from recommender.study import Study

    try:
        study = Study.open(name, store=store) if store_path(store).exists() else None
    except UnknownNameError:
        study = None
    if study is None:
        if command is None:
            raise InputError(f"there is no study {name!r} to go on with; to make it, say what to run: --run 'COMMAND'")
        question = asked.give(Question).read()
        command.check(*_names(question))
        return Study.create(name, question, strategy_name=strategy, store=store), command
    if asked.given["search_budget"] is not None:  # how much more may be spent can be said anew
        study.question = replace(study.question, search_budget_usd=asked.given["search_budget"])
    other = [k for k, v in asked.given.items() if v != PROBLEM_DEFAULTS[k] and k != "search_budget"]
    differing = asked.give(Question).read().differs(study.question) if other else []
    if differing or strategy not in ("auto", study.strategy_name):
        what = (
            f"what is given differs in {', '.join(differing)}"
            if differing
            else f"its strategy is {study.strategy_name}"
        )
        raise InputError(
            f"the study {name!r} exists and {what}: leave that out to go on with it, or make another one with --study"
        )
    if command is None and study.stored.command is None:
        raise InputError(f"nothing was run for the study {name!r} yet; say what to run: --run 'COMMAND'")
    return study, command or RunCommand(**(study.stored.command or {}))


def _names(question: Any) -> tuple[Any, dict[str, float]]:
    """The problem of a question, and the inputs a command may name."""
    from recommender.question import input_columns

    problem, _ = question.build()
    return problem, {**input_columns(question.inputs or {}), **problem.inputs}


def _print_commands(
    asked: Asked, command: RunCommand | None, name: str | None, strategy: str, count: int, store: Any
) -> None:
    """Print what would be run first, one line each; nothing is made, asked for or run."""
    from recommender.pending import batch
    from recommender.question import Question
    from recommender.run_command import RunCommand
    from recommender.store_file import store_path
    from recommender.strategies import strategy as named
    from recommender.study import Study, studies

    if name is not None and store_path(store).exists() and name in studies(store):
        study = Study.open(name, store=store)
        if command is None and study.stored.command:
            command = RunCommand(**study.stored.command)
        snapshot = study.snapshot()
        problem, runs = study.evidence(snapshot)
        inputs, strategy, pending = dict(study.stored.settings["inputs"]), study.strategy_name, snapshot.live
    else:
        question = asked.give(Question).read()
        problem, runs = question.build()
        inputs, pending = _names(question)[1], ()
    if command is None:
        raise InputError("which command would be run? give it with --run 'COMMAND'")
    inputs |= dict(problem.inputs)
    command.check(problem, inputs)
    wanted = batch(named(strategy), problem, runs, count, pending=[p.run for p in pending])
    for i, run in enumerate(wanted, 1):
        typer.echo(shlex.join(command.arguments(run, run_id=f"dry-run-{i}", inputs=inputs)))
    if not wanted:
        typer.echo("nothing is worth measuring")


class _Reporter:
    """Tells each run on stderr: as a live line on a terminal, else one line a run."""

    def __init__(self, study: Study, progress: Progress | None) -> None:
        self._study, self._progress = study, progress
        self._lines = [progress.add_task("", total=None) for _ in range(2)] if progress else []
        self._flying: dict[str, Pending] = {}
        self._refresh()

    def started(self, pending: Pending) -> None:
        self._flying[pending.id] = pending
        self._refresh()

    def ended(self, pending: Pending, outcome: Outcome) -> None:
        self._flying.pop(pending.id, None)
        why = f": {outcome.why}" if outcome.why and outcome.status != "completed" else ""
        took = format_duration(outcome.runtime_s)
        line = f"{pending.id}  {pending.run.label} {outcome.status.replace('_', ' ')} after {took}{why}"
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            _note(f"{line}; {self._standing()}")
        self._refresh()

    def _standing(self) -> str:
        facts = self._study.summary()
        best, unknown = facts["incumbent"], facts["runs_of_unknown_cost"]
        spent = format_usd(facts["spent_usd"]) + (f" and {unknown} of unknown cost" if unknown else "")
        found = (
            f"best {run_label(best)} in {format_duration(best['runtime_s']['p50'])}" if best else "none feasible yet"
        )
        runs = len(facts["runs"])
        return f"{runs} run{'' if runs == 1 else 's'}, {spent} spent, {found}"

    def _refresh(self) -> None:
        if self._progress is None:
            return
        flying = ", ".join(p.run.label for p in self._flying.values()) or "nothing"
        # What a strategy says of its choice holds what it expects to gain, where it says so.
        why = "".join(f" ({p.run.why})" for p in list(self._flying.values())[-1:])
        for task, text in zip(self._lines, (self._standing(), f"running {flying}{why}"), strict=True):
            self._progress.update(task, description=text)


@contextmanager
def _progress(study: Study, *, live: bool) -> Iterator[_Reporter]:
    if not live:
        yield _Reporter(study, None)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Reporter(study, progress)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that the runs in progress are ended too."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
