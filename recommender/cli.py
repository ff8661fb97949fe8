"""The command line: parse, call the library, print."""

from __future__ import annotations

import sys

import typer

from recommender.errors import RecommenderError

app = typer.Typer(
    name="recommender",
    help="From a few profiling runs to what to rent, how to pay, how sure it is and what to measure next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Run the command line: exit 0 done, 1 a `RecommenderError` in one line on stderr, 2 usage."""
    try:
        app()
    except RecommenderError as error:
        sys.stderr.write(f"recommender: {' '.join(str(error).split())}\n")
        sys.exit(1)
