"""`recommender study`: ask what to measure, tell what was measured, recommend; kept between calls."""

from __future__ import annotations

import csv
import inspect
import io
import json
import shlex
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommender.commands.options import Asked, Format, FormatOption, Prices, StrategyName, WhatIf, asks, pairs
from recommender.errors import InputError
from recommender.units import format_duration, format_usd, parse_duration

if TYPE_CHECKING:
    from recommender.candidates import Configuration

app = typer.Typer(help="Searches that are kept: ask what to measure, tell what was measured.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the study.")]
StoreFile = Annotated[
    Path | None, typer.Option("--store", help="The studies' file; default: the user's (or set RECOMMENDER_STORE).")
]
RunId = Annotated[str | None, typer.Option("--id", help="Name of the run, as asked.")]


class Status(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


def named(name: str, store: Path | None) -> str:
    """A study as the words of a command name it."""
    return shlex.join([name, *(["--store", str(store)] if store else [])])


def name_first(command: Callable[..., None]) -> Callable[..., None]:
    """Put the argument `name` before the others on the command line."""
    signature = inspect.signature(command)
    ordered = sorted(signature.parameters.values(), key=lambda parameter: parameter.name != "name")
    command.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    return command


@app.command("create")
@name_first
@asks
def create(asked: Asked, name: Name, strategy: StrategyName = "auto", store: StoreFile = None) -> None:
    """Make a study: what is asked, with copies of the tables, and what is known already.

    Example: recommender study create nightly --candidates pool.csv --deadline 2h --strategy random
    """
    from recommender.question import Question
    from recommender.study import Study

    study = Study.create(name, asked.give(Question), strategy_name=strategy, store=store)
    problem, runs = study.evidence()
    typer.echo(
        f"study {name} in {study.store.path}: {len(problem.configurations):,} configurations, {len(runs)} runs known, "
        f"strategy {strategy}; next: recommender study ask {named(name, store)}"
    )


@app.command("ask")
def ask(
    name: Name,
    count: Annotated[int, typer.Option(min=1, help="How many configurations to give at most.")] = 1,
    worker: Annotated[str | None, typer.Option(help="Who will measure; default: host/process.")] = None,
    lease: Annotated[str, typer.Option(help="For how long they are kept for the worker.")] = "2h",
    store: StoreFile = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Give what to measure next; others are given something else until it is told, or until the lease ends.

    Example: recommender study ask nightly --count 4 --format json
    """
    from recommender.study import Study, pending_values

    study = Study.open(name, store=store)
    given = [pending_values(p) for p in study.ask(count, worker=worker, lease_s=parse_duration(lease))]
    if form is Format.JSON:
        typer.echo(json.dumps(given, indent=2, ensure_ascii=False))
    elif form is Format.CSV:
        columns = ["id", "instance_type", "node_count", "expected_runtime_s", "expected_cost_usd", "why"]
        columns[3:3] = list(dict.fromkeys(c for run in given for c in (*run["params"], *run["inputs"])))
        typer.echo(_csv(columns, [{**run, **run["params"], **run["inputs"]} for run in given]), nl=False)
    elif given:
        for run in given:
            typer.echo(f"{run['id']}  {run_label(run)}{_at(run['inputs'])}: {run['why']}")
        typer.echo(f"then: recommender study tell {name} --id {given[0]['id']} --runtime SECONDS", err=True)
    if not given:
        live = len(study.snapshot().live)
        until = f" until the {live} pending {'run is' if live == 1 else 'runs are'} told" if live else ""
        typer.echo(f"nothing is worth measuring{until}", err=form is not Format.TABLE)


@app.command("tell")
def tell(
    name: Name,
    runtime: Annotated[str, typer.Option(help="How long it ran: seconds, or 12m30s.")],
    run_id: RunId = None,
    status: Annotated[Status, typer.Option(help="How it ended.")] = Status.COMPLETED,
    cost: Annotated[float | None, typer.Option(help="USD, as billed.")] = None,
    instance_type: Annotated[str | None, typer.Option(help="Of a run that was never asked for.")] = None,
    node_count: Annotated[int, typer.Option(min=1, help="Of a run that was never asked for.")] = 1,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of a run that was never asked for.")
    ] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="The job's input; default: as asked.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A counter, e.g. peak_memory_gib=3.")
    ] = None,
    started_at: Annotated[str | None, typer.Option(help="When it started, ISO 8601.")] = None,
    store: StoreFile = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Tell one run: failed and stopped ones too. Once this returns no crash loses it; telling it again is harmless.

    Example: recommender study tell nightly --id r3 --runtime 12m30s
    """
    from recommender.candidates import Configuration
    from recommender.study import Study

    if instance_type is None and param:
        raise InputError("--param belongs to a run that was never asked for, which needs --instance-type too")
    configuration: Configuration | None = None
    if instance_type is not None:
        params = dict(_pair(text) for text in param or ())
        configuration = Configuration(instance_type=instance_type, node_count=node_count, params=params)
    study = Study.open(name, store=store)
    told = study.tell(
        run_id,
        runtime_s=_seconds(runtime),
        status=status.value,
        configuration=configuration,
        cost_usd=cost,
        inputs=pairs(input_) if input_ else None,
        metrics=pairs(metric),
        started_at=started_at,
    )
    if form is Format.JSON:
        typer.echo(json.dumps({"id": told}))
    else:
        typer.echo(told)


@app.command("release")
def release(
    name: Name, run_id: Annotated[str, typer.Argument(help="Name of the run, as asked.")], store: StoreFile = None
) -> None:
    """Give back a run that was asked for and will not be made."""
    from recommender.study import Study

    found = Study.open(name, store=store).release(run_id)
    typer.echo(f"{run_id} is free again" if found else f"{run_id} was not pending")


@app.command("show")
def show(name: Name, store: StoreFile = None, form: FormatOption = Format.TABLE) -> None:
    """Show the runs, the best one so far, what they cost and what is pending."""
    from recommender.study import Study

    facts = Study.open(name, store=store).summary()
    if form is Format.JSON:
        typer.echo(json.dumps(facts, indent=2, allow_nan=False, ensure_ascii=False))
        return
    runs = facts["runs"]
    if form is Format.CSV:
        columns = list(dict.fromkeys(c for run in runs for c in run)) or ["id"]
        typer.echo(_csv(columns, runs), nl=False)
        return
    typer.echo(in_words(facts))


@app.command("list")
def list_command(store: StoreFile = None, form: FormatOption = Format.TABLE) -> None:
    """List the studies of a store."""
    from recommender.study import Study, studies

    rows = []
    for name in studies(store):
        study = Study.open(name, store=store)
        snapshot = study.snapshot()
        rows.append(
            {
                "name": name,
                "strategy": study.strategy_name,
                "workload": study.stored.settings["workload"],
                "runs": len(snapshot.told),
                "pending": len(snapshot.live),
            }
        )
    if form is Format.JSON:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif form is Format.CSV:
        typer.echo(_csv(["name", "strategy", "workload", "runs", "pending"], rows), nl=False)
    else:
        for row in rows:
            typer.echo(f"{row['name']}: {row['runs']} runs, {row['pending']} pending, strategy {row['strategy']}")


@app.command("export")
def export(
    name: Name,
    out: Annotated[Path, typer.Option(help="Runs table to write, .csv or .parquet.")],
    store: StoreFile = None,
) -> None:
    """Write the runs table: what the study was told, and what it knew before."""
    from recommender.runs import write_runs
    from recommender.study import Study

    _, runs = Study.open(name, store=store).evidence()
    write_runs(runs, out)
    typer.echo(f"{len(runs)} runs in {out}", err=True)


@app.command("recommend")
def recommend(
    name: Name,
    store: StoreFile = None,
    what_if: WhatIf = None,
    prices: Prices = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say what to rent, by what was told so far; with --what-if or --prices, at other prices than it was asked with."""
    from recommender.commands.recommend import other_prices
    from recommender.report.tables import as_csv, as_json, as_text
    from recommender.strategies import strategy as named
    from recommender.study import Study

    study = Study.open(name, store=store)
    answer = study.recommend()
    if what_if or prices:
        problem, runs = study.evidence()
        answer = other_prices(
            answer, problem, what_if, lambda other: named(study.strategy_name).recommend(other, runs), prices=prices
        )
    if form is Format.CSV:
        for warning in answer.warnings:
            typer.echo(f"note: {warning}", err=True)
    typer.echo({"json": as_json, "csv": as_csv, "table": as_text}[form.value](answer), nl=False)


def in_words(facts: dict[str, Any]) -> str:
    """A study's summary for reading."""
    best = facts["incumbent"]
    unknown = facts["runs_of_unknown_cost"]
    known = f", {facts['runs_given']} known before" if facts["runs_given"] else ""
    lines = [
        f"study {facts['name']} of {facts['problem']['workload']}, strategy {facts['strategy']}, created {facts['created_at'][:10]}",
        f"runs told: {len(facts['runs'])}{known}",
        f"spent: {format_usd(facts['spent_usd'])}" + (f", and {unknown} runs of unknown cost" if unknown else ""),
        f"best measured: {_best(best)}" if best else "best measured: none that meets the constraints",
    ]
    for run in facts["runs"]:
        usd = "cost unknown" if run["spent_usd"] is None else format_usd(run["spent_usd"])
        took = format_duration(run["runtime_s"])
        lines.append(f"  {run['id']}  {run_label(run)}: {run['status'].replace('_', ' ')} after {took}, {usd}")
    for run in facts["pending"]:
        until = f"until {run['expires_at'][:19]}Z" if run["live"] else "lease ended"
        lines.append(f"  {run['id']}  {run_label(run)}: pending, {run['worker']}, {until}")
    return "\n".join(lines)


def run_label(values: dict[str, Any]) -> str:
    """A configuration in words."""
    from recommender.candidates import Configuration

    params = values.get("params") or {k: v for k, v in values.items() if k.startswith("param.")}
    return Configuration(instance_type=values["instance_type"], node_count=values["node_count"], params=params).label


def _best(row: dict[str, Any]) -> str:
    cost = f"{format_usd(row['cost_usd']['p50'])} a run" if row["cost_usd"] else "at a cost that is not known"
    return f"{run_label(row)}, {format_duration(row['runtime_s']['p50'])}, {cost}"


def _at(inputs: dict[str, float]) -> str:
    return " at " + ", ".join(f"{k.removeprefix('input.')}={v:g}" for k, v in inputs.items()) if inputs else ""


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"--param {text!r} is not NAME=VALUE, such as threads=4")
    return name.strip(), value.strip()


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return parse_duration(text)


def _csv(columns: list[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
