"""`recommender recommend`, `recommender suggest` and `recommender strategies`."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from recommender.commands.options import Asked, Calibrate, Format, FormatOption, StrategyName, WhatIf, asks
from recommender.commands.progress import Bar

if TYPE_CHECKING:
    from pathlib import Path

    from recommender.problem import Problem
    from recommender.recommendation import Recommendation


LEFT_OUT = "workloads left out"
"""What calibration counts."""


class DesignCriterion(StrEnum):
    """How the runs of a design are chosen."""

    MISFIT = "misfit"
    PAPER = "paper"


def other_prices(
    answer: Recommendation,
    problem: Problem,
    changes: list[str] | None,
    again: Callable[[Problem], Recommendation],
    *,
    prices: Path | None = None,
) -> Recommendation:
    """The answer at other prices; `again` asks the strategy anew where its order was made with the old ones."""
    from recommender.errors import InsufficientEvidenceError
    from recommender.repricing import changed_prices, reprice, told_apart

    other = changed_prices(problem, prices=prices, changes=changes or ())
    try:
        new = reprice(answer, other)
    except InsufficientEvidenceError:
        new = again(other)
    return told_apart(new, answer, [*(changes or ()), *([f"--prices {prices}"] if prices else [])])


@asks
def recommend(
    asked: Asked,
    strategy: StrategyName = "auto",
    calibrate: Calibrate = False,
    what_if: WhatIf = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say what to rent and how to pay for it: ranked, priced and explained.

    Example: recommender recommend runs.csv --deadline 2h --purchase on-demand,spot
    """
    from recommender.report.tables import as_csv, as_json, as_text
    from recommender.strategies import calibrated
    from recommender.strategies import strategy as named

    with Bar(LEFT_OUT) as bar:
        chosen = calibrated(named(strategy), progress=bar.progress) if calibrate else named(strategy)
        problem, runs = asked.build()
        answer = chosen.recommend(problem, runs)
        if what_if:
            answer = other_prices(answer, problem, what_if, lambda other: chosen.recommend(other, runs))
    if form is Format.CSV:
        for warning in answer.warnings:
            typer.echo(f"note: {warning}", err=True)
    typer.echo({"json": as_json, "csv": as_csv, "table": as_text}[form.value](answer), nl=False)


@asks
def suggest(
    asked: Asked,
    strategy: StrategyName = "auto",
    count: Annotated[int, typer.Option(min=1, help="How many configurations to name at most.")] = 4,
    design_budget: Annotated[
        str | None,
        typer.Option(help="With --strategy ernest: small runs to make for this much, e.g. 5usd (or 5), 2h."),
    ] = None,
    design_criterion: Annotated[
        DesignCriterion,
        typer.Option(help="With --design-budget: misfit allows for terms that are wrong; paper is Ernest's own."),
    ] = DesignCriterion.MISFIT,
    calibrate: Calibrate = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Name the configurations to measure next; nothing is worth measuring when none would change the answer.

    Example: recommender suggest runs.csv --count 2
    """
    if design_budget is not None:
        _design(asked, strategy, design_budget, design_criterion, form)
        return
    from recommender.automatic import Auto
    from recommender.composition import evidence
    from recommender.errors import InfeasibleError, InsufficientEvidenceError
    from recommender.pending import batch
    from recommender.report.tables import suggestions_as_csv, suggestions_as_text
    from recommender.strategies import ModelBased, calibrated
    from recommender.strategies import strategy as named

    problem, runs = asked.build()
    with Bar(LEFT_OUT) as bar:
        chosen = calibrated(named(strategy), progress=bar.progress) if calibrate else named(strategy)
        next_runs = batch(chosen, problem, runs, count)
        remarks = (
            chosen.remarks(problem, runs)
            if isinstance(chosen, ModelBased | Auto)
            else evidence(problem, runs, adapts=False).said
        )
        if problem.deadline_s is not None or problem.budget_usd is not None or not next_runs:
            try:
                chosen.recommend(problem, runs)
            except InfeasibleError as error:
                remarks = (*remarks, f"as far as is believed now, {error}")
            except InsufficientEvidenceError:
                pass  # said above, where there is anything to say
    for said in remarks:
        typer.echo(f"note: {said}", err=True)
    if form is Format.JSON:
        typer.echo(json.dumps([run.to_dict() for run in next_runs], indent=2))
    else:
        typer.echo({"csv": suggestions_as_csv, "table": suggestions_as_text}[form.value](next_runs), nl=False)


def _design(asked: Asked, strategy: str, budget: str, criterion: DesignCriterion, form: Format) -> None:
    """Print the small runs that teach Ernest's model most for a budget."""
    from recommender.errors import InputError
    from recommender.report.designs import design_as_csv, design_as_json, design_as_text
    from recommender.search.experiment_criteria import a_optimal_with_misfit, as_published
    from recommender.search.experiment_design import parse_budget, plan

    if strategy != "ernest":
        raise InputError(f"--design-budget designs runs for Ernest's model: give --strategy ernest (got {strategy})")
    problem, runs = asked.build()
    money = parse_budget(budget)
    how = as_published if criterion is DesignCriterion.PAPER else a_optimal_with_misfit
    found = plan(problem, runs, budget_usd=money.get("budget_usd"), budget_s=money.get("budget_s"), criterion=how)
    show = {"json": design_as_json, "csv": design_as_csv, "table": design_as_text}[form.value]
    typer.echo(show(found), nl=False)


def strategies() -> None:
    """List the strategies and what each one does."""
    from recommender.strategies import strategies as known

    for name, make in known().items():
        made = make()
        why = getattr(made, "why", None) or (made.__doc__ or "").strip().splitlines()[0].rstrip(".")
        typer.echo(f"{name:<19}  {why}")
