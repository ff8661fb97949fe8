"""The command line: parse, call the library, print. The commands themselves are in `recommender.commands`."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from recommender.commands import (
    archive,
    break_even,
    catalogue,
    datasets,
    evaluate,
    explain,
    profile,
    recommend,
    study,
    tune,
)
from recommender.errors import RecommenderError

app = typer.Typer(
    name="recommender",
    help="From a few profiling runs to what to rent, how to pay, how sure it is and what to measure next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("recommend")(recommend.recommend)
app.command("break-even")(break_even.break_even)
app.command("suggest")(recommend.suggest)
app.command("explain")(explain.explain)
app.command("evaluate")(evaluate.evaluate)
app.command("profile")(profile.profile)
app.command("tune")(tune.tune)
app.add_typer(study.app, name="study")
app.add_typer(catalogue.app, name="catalogue")
app.add_typer(datasets.app, name="datasets")
app.add_typer(archive.app, name="archive")
app.command("strategies")(recommend.strategies)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("cloud-configuration-recommender"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: exit 0 done, 1 a `RecommenderError` in one line on stderr, 2 usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows ? instead of failing
    try:
        app()
    except RecommenderError as error:
        sys.stderr.write(f"recommender: {' '.join(str(error).split())}\n")
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
