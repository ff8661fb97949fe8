"""`recommender explain`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from recommender.commands.options import Asked, Calibrate, StrategyName, asks
from recommender.commands.progress import Bar


class Form(StrEnum):
    """How an explanation is printed."""

    TABLE = "table"
    JSON = "json"


@asks
def explain(
    asked: Asked,
    candidate: Annotated[
        str, typer.Option(help="Instance type, or a candidate as printed: 'm6i.xlarge x4'.", show_default=False)
    ],
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Its number of nodes; default: the candidate's, else 1.")
    ] = None,
    strategy: StrategyName = "auto",
    calibrate: Calibrate = False,
    form: Annotated[Form, typer.Option("--format", help="Form of the answer.")] = Form.TABLE,
) -> None:
    """Say what one candidate's prediction is made of, which runs it rests on, and what would change the answer.

    Example: recommender explain runs.csv --candidate m6i.xlarge --nodes 4
    """
    from recommender.explanation import explain as explained
    from recommender.report.explanations import explanation_as_text

    problem, runs = asked.build()
    with Bar("left out in turn") as bar:
        found = explained(
            problem,
            runs,
            instance_type=candidate,
            node_count=nodes,
            strategy_name=strategy,
            calibrate=calibrate,
            progress=bar.progress,
        )
    if form is Form.JSON:
        typer.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False, ensure_ascii=False))
    else:
        typer.echo(explanation_as_text(found), nl=False)
