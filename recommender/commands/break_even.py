"""`recommender break-even`: at which price, runtime or usage the answer flips."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from recommender.commands.options import Asked, Format, FormatOption, StrategyName, asks
from recommender.errors import InputError, InsufficientEvidenceError


@asks
def break_even(asked: Asked, strategy: StrategyName = "auto", form: FormatOption = Format.TABLE) -> None:
    """Say at which price, runtime or number of runs a month another answer is better, everything else being equal.

    Against the runner-up and, with the objective cost, the first's other ways to pay (--purchase, --runs-per-month).

    Example: recommender break-even runs.csv --runs-per-month 300
    """
    from recommender.report.tables import flips_as_text
    from recommender.strategies import strategy as named

    if form is Format.CSV:
        raise InputError("break-even prints a table or JSON (--format table|json)")
    problem, runs = asked.build()
    answer = named(strategy).recommend(problem, runs)
    why = answer.explanation
    if why is None or not why.flips:
        raise InsufficientEvidenceError(
            "there is nothing to break even with: no runtime is believed, or there is one candidate and one way to pay; measure "
            "some runs, or ask about more (--purchase all)"
        )
    if form is Format.JSON:
        first = answer.rows[0].to_dict()
        typer.echo(json.dumps({"first": first, "flips": [asdict(f) for f in why.flips]}, indent=2, ensure_ascii=False))
    else:
        typer.echo(flips_as_text(answer), nl=False)
