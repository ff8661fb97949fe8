"""`recommender archive`: keep runs of past workloads under a name, with where they came from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from recommender.commands.options import Format, FormatOption

app = typer.Typer(help="Archives: runs of past workloads, for --archive NAME.", no_args_is_help=True)

Store = Annotated[Path | None, typer.Option("--store", help="Directory of the archives (or set RECOMMENDER_ARCHIVES).")]
Name = Annotated[str, typer.Argument(help="Name of the archive.")]


@app.command("add")
def add_command(
    name: Name,
    table: Annotated[Path, typer.Argument(help="Runs table (CSV or Parquet).")],
    licence: Annotated[str | None, typer.Option(help="Licence of these runs, kept with each of them.")] = None,
    source: Annotated[str | None, typer.Option(help="What the source is called; default: the file's name.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the runs added from this source before.")] = False,
    store: Store = None,
) -> None:
    """Add the runs of a table to an archive, and say what looks wrong.

    Example: recommender archive add spark scout/runs.csv --licence MIT
    """
    from recommender.archive_report import check
    from recommender.archives import Archives
    from recommender.units import counted

    archive = Archives(store).add(name, table, licence=licence, label=source, again=replace)
    typer.echo(f"{name}: {counted(len(archive.runs), 'run')} of {counted(len(archive.runs.workloads), 'workload')}")
    for sentence in check(archive).problems:
        typer.echo(f"note: {sentence}", err=True)


@app.command("remove")
def remove_command(
    name: Name,
    source: Annotated[str | None, typer.Option(help="Only the runs from this source.")] = None,
    workload: Annotated[str | None, typer.Option(help="Only the runs of this workload.")] = None,
    store: Store = None,
) -> None:
    """Remove an archive, or some of its runs, and say what was removed; as a whole also one that cannot be read.

    Example: recommender archive remove spark --source runs.csv
    """
    from recommender.archives import Archives
    from recommender.errors import InputError
    from recommender.units import counted

    archives, unread = Archives(store), ""
    try:
        archives.open(name)
    except InputError as error:
        unread = str(error.__cause__)
    gone = archives.remove(name, source=source, workload=workload)
    if unread:
        typer.echo(f"{name}: removed; what it held is not known, since its file could not be read: {unread}")
        return
    left = (
        f"left: {counted(len(archives.open(name).runs), 'run')}"
        if name in archives.names()
        else "nothing is left of it"
    )
    typer.echo(f"{name}: removed {counted(len(gone), 'run')} of {counted(len(gone.workloads), 'workload')}; {left}")


@app.command("list")
def list_command(form: FormatOption = Format.TABLE, store: Store = None) -> None:
    """List the archives; those that cannot be read are named on standard error."""
    from recommender.archives import Archives
    from recommender.errors import InputError

    archives, rows = Archives(store), list[dict[str, object]]()
    names = archives.names()
    for name in names:
        try:
            archive = archives.open(name)
        except InputError as error:
            typer.echo(f"note: {error}", err=True)
            continue
        rows.append(
            {
                "name": name,
                "runs": len(archive.runs),
                "workloads": len(archive.runs.workloads),
                "sources": archive.provenance["source"].nunique(),
                "licences": ", ".join(sorted(archive.provenance["licence"].dropna().unique())) or "not stated",
            }
        )
    if not names and form is Format.TABLE:
        typer.echo(f"no archives in {archives.path}; make one with: recommender archive add NAME RUNS", err=True)
        return
    _print(rows, ["name", "runs", "workloads", "sources", "licences"], form)


@app.command("show")
def show_command(name: Name, form: FormatOption = Format.TABLE, store: Store = None) -> None:
    """Show where the runs of an archive came from: source, licence, when they were added, how many."""
    from recommender.archives import Archives

    table = Archives(store).open(name).sources()
    table["added_at"] = table["added_at"].map(lambda t: t.isoformat().replace("+00:00", "Z"))
    table["licence"] = table["licence"].astype(object).where(table["licence"].notna(), None)
    rows = [{str(c): v for c, v in row.items()} for row in table.to_dict("records")]
    _print(rows, list(map(str, table)), form)


@app.command("check")
def check_command(name: Name, form: FormatOption = Format.TABLE, store: Store = None) -> None:
    """Report coverage, outliers, units that look wrong and workloads that occur twice."""
    from recommender.archive_report import check
    from recommender.archives import Archives
    from recommender.units import counted

    report = check(Archives(store).open(name))
    if form is Format.JSON:
        typer.echo(json.dumps(asdict(report), indent=2, ensure_ascii=False))
        return
    if form is Format.CSV:
        _print([{"problem": sentence} for sentence in report.problems], ["problem"], form)
        return
    typer.echo(
        f"{counted(report.runs, 'run')}, {report.incomplete} of them not completed; {counted(report.workloads, 'workload')} x "
        f"{counted(report.configurations, 'configuration')}, {report.coverage:.0%} of the cells filled"
    )
    if report.thin:
        thin = counted(report.thin, "workload")
        typer.echo(f"completed on fewer than two configurations, so that nothing is learnt from them: {thin}")
    for sentence in report.problems or ("nothing looks wrong",):
        typer.echo(f"- {sentence}")


@app.command("export")
def export_command(
    name: Name,
    out: Annotated[Path, typer.Argument(help="File to write (.csv or .parquet).")],
    plain: Annotated[bool, typer.Option("--plain", help="A runs table, without source, licence and date.")] = False,
    store: Store = None,
) -> None:
    """Write an archive to a file."""
    from recommender.archives import Archives, export
    from recommender.units import counted

    archive = Archives(store).open(name)
    export(archive, out, plain=plain)
    typer.echo(f"{counted(len(archive.runs), 'run')} written to {out}", err=True)


def _print(rows: list[dict[str, object]], columns: list[str], form: Format) -> None:
    if form is Format.JSON:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if form is Format.CSV:
        import csv
        import io

        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        typer.echo(text.getvalue(), nl=False)
        return
    cells = [[("-" if row[c] is None else str(row[c])) for c in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [columns, *cells]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
