"""`recommender datasets`: list, show and fetch public data sets."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommender.commands.options import Format, FormatOption

if TYPE_CHECKING:
    from recommender.datasets import Descriptor

app = typer.Typer(help="Public data sets: what there is, and bringing one as tables.", no_args_is_help=True)


@app.command("list")
def list_command(form: FormatOption = Format.TABLE) -> None:
    """List the data sets and the tables each one gives."""
    from recommender.datasets import descriptors

    rows = [
        {
            "name": entry.name,
            "tables": " ".join(f"{table}:{facts.rows}" for table, facts in entry.tables.items()),
            "licence": entry.licence,
            "title": entry.title,
        }
        for entry in descriptors()
    ]
    if form is Format.TABLE:
        shown = [{key: row[key] for key in ("name", "tables", "title")} for row in rows]
        widths = {key: max(len(key), *(len(row[key]) for row in shown)) for key in shown[0]}
        for line in [{key: key for key in widths}, *shown]:
            typer.echo("  ".join(line[key].ljust(width) for key, width in widths.items()).rstrip())
    else:
        typer.echo(_serialised(rows, form), nl=False)


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="Name of the data set.")], form: FormatOption = Format.TABLE
) -> None:
    """Show where a data set comes from, its licence, how to cite it and what to watch."""
    from recommender.datasets import descriptor

    facts = _facts(descriptor(name))
    if form is Format.JSON:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    rows = [
        {"field": field, "value": str(value)}
        for field, content in facts.items()
        for value in (content if isinstance(content, list) else [content])
    ]
    if form is Format.CSV:
        typer.echo(_serialised(rows, form), nl=False)
        return
    width = max(len(row["field"]) for row in rows)
    previous = ""
    for row in rows:
        typer.echo(f"{'' if row['field'] == previous else row['field']:<{width}}  {row['value']}")
        previous = row["field"]


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    mirror: Annotated[
        Path | None,
        typer.Option(help="Take the files from this directory, offline (or set RECOMMENDER_DATASETS_MIRROR)."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Cache directory, instead of the user's (or set RECOMMENDER_CACHE).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the tables into this directory.")] = None,
) -> None:
    """Bring a data set, verify it, and print the paths of its tables, one a line."""
    from recommender.datasets import export_tables, fetch_dataset

    dataset = fetch_dataset(name, mirror=mirror, cache=cache, progress=sys.stderr.isatty())
    files = dict(dataset.files) if out is None else export_tables(dataset, out)
    for path in files.values():
        typer.echo(path)
    hint = _next_command(files)
    if hint:
        typer.echo(f"next: {hint}", err=True)


def _facts(entry: Descriptor) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "repository": entry.repository,
        "commit": entry.commit,
        "licence": entry.licence,
        "citation": entry.citation,
        "tables": [f"{table}: {facts.rows} rows, SHA-256 {facts.sha256}" for table, facts in entry.tables.items()],
        "addresses": list(entry.urls.values()),
        "notes": list(entry.notes),
    }


def _serialised(rows: list[dict[str, str]], form: Format) -> str:
    if form is Format.JSON:
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _next_command(files: dict[str, Path]) -> str:
    """Return a command that uses the runs just fetched; empty when the data set has none."""
    import shlex

    if "runs" not in files:
        return ""
    words = ["recommender", "recommend", str(files["runs"])]
    if "candidates" in files:
        words += ["--candidates", str(files["candidates"])]
    with files["runs"].open(encoding="utf-8", newline="") as file:
        workload = next(csv.DictReader(file))["workload"]
    return shlex.join([*words, "--workload", workload])
