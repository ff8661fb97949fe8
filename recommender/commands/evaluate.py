"""`recommender evaluate`: strategies replayed on a recorded table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from recommender.commands.options import (
    CandidatesFile,
    Format,
    FormatOption,
    Objective,
    ObjectiveOption,
    Prices,
    RunsPlanned,
    words,
)
from recommender.commands.progress import Bar
from recommender.errors import InputError

PARALLEL, OUTPUT = "How it is computed", "What comes out"


class GroupBy(StrEnum):
    """Whose runs are kept out of a workload's archive."""

    APPLICATION = "application"
    WORKLOAD = "workload"


class Backend(StrEnum):
    """What runs the jobs."""

    LOKY = "loky"
    DASK = "dask"


def evaluate(
    runs: Annotated[Path, typer.Argument(help="Runs table (CSV or Parquet) of several workloads.", show_default=False)],
    strategies: Annotated[
        str, typer.Option(help="Names, comma-separated; random, column-mean and best-fixed are always added.")
    ] = "",
    candidates: CandidatesFile = None,
    objective: ObjectiveOption = Objective.COST,
    deadline_quantile: Annotated[
        float | None,
        typer.Option(help="Each workload's deadline: this quantile of its completed runtimes, 0 to 1; default: none."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most runs of an episode.")] = 15,
    seeds: Annotated[int, typer.Option(min=1, help="Episodes of each strategy on each workload.")] = 20,
    group_by: Annotated[
        GroupBy,
        typer.Option(help="Keep runs of the same application, or only of the workload itself, out of the archive."),
    ] = GroupBy.APPLICATION,
    workloads: Annotated[
        str | None, typer.Option(help="Ask about these only, comma-separated; the others still are archive.")
    ] = None,
    purchase: Annotated[str | None, typer.Option(help="How runs are paid: one option; default on-demand.")] = None,
    prices: Prices = None,
    runs_planned: RunsPlanned = None,
    region: Annotated[
        str | None, typer.Option(help="Region of the catalogue's prices; default: the runs' own.")
    ] = None,
    search_budget: Annotated[
        float | None,
        typer.Option(
            help="What an episode may spend on measuring, USD; no run that passes it is seen by any strategy."
        ),
    ] = None,
    search_budget_runs: Annotated[
        float | None, typer.Option(help="The same, in mean costs of a recorded run of each workload.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.", rich_help_panel=PARALLEL)] = 2,
    backend: Annotated[Backend, typer.Option(help="What runs them.", rich_help_panel=PARALLEL)] = Backend.LOKY,
    dask_address: Annotated[
        str | None,
        typer.Option(help="Scheduler of a dask cluster; default: a local one.", rich_help_panel=PARALLEL),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write every step (.csv or .parquet). Interrupted, the same command continues.", rich_help_panel=OUTPUT
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw an interrupted evaluation's episodes away.", rich_help_panel=OUTPUT)
    ] = False,
    plots: Annotated[
        Path | None, typer.Option(help="Write plots of regret into this directory.", rich_help_panel=OUTPUT)
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Replay strategies on recorded runs: how good is what they recommend, after how many runs, at what cost.

    Each workload is asked about as if it were new; what a strategy wants measured is looked up.

    Example: recommender evaluate runs.csv --candidates candidates.csv --strategies random --seeds 5 --out results.csv
    """
    from recommender.evaluation import plan, run, unanswered
    from recommender.pricing import parse_purchase
    from recommender.report.evaluation import as_csv, as_json, as_text

    options = parse_purchase(purchase) if purchase else ()
    if len(options) > 1:
        raise InputError(
            f"--purchase {purchase} names {len(options)} purchase options; an evaluation compares configurations paid in "
            f"one way: name one, such as {options[0].name}"
        )
    if dask_address and backend is not Backend.DASK:
        raise InputError("--dask-address is for --backend dask only; give both or neither")
    planned = plan(
        runs,
        strategies=words(strategies),
        candidates=candidates,
        objective="cost" if objective is Objective.COST else "runtime",
        deadline_quantile=deadline_quantile,
        steps=steps,
        seeds=seeds,
        group_by="application" if group_by is GroupBy.APPLICATION else "workload",
        workloads=words(workloads) or None,
        prices=prices,
        purchase=options[0] if options else None,
        region=region,
        runs_planned=runs_planned,
        search_budget_usd=search_budget,
        search_budget_runs=search_budget_runs,
    )
    for note in planned.notes:
        typer.echo(f"note: {note}", err=True)
    try:
        with Bar("episodes") as bar:
            results = run(
                planned,
                jobs=jobs,
                backend="dask" if backend is Backend.DASK else "loky",
                dask_address=dask_address,
                out=out,
                restart=restart,
                progress=bar.progress,
            )
    except KeyboardInterrupt:
        kept = f"finished episodes are in {out}.partial; the same command goes on from there"
        typer.echo(f"interrupted; {kept if out else 'nothing is kept without --out'}", err=True)
        raise typer.Exit(130) from None
    missing = unanswered(planned, results)
    for note in missing:
        typer.echo(f"note: {note}", err=True)
    if form is Format.JSON:
        typer.echo(as_json(results, (*planned.notes, *missing)), nl=False)
    else:
        typer.echo(as_csv(results) if form is Format.CSV else as_text(results), nl=False)
    if plots is not None:
        from recommender.report.regret_plots import write_plots

        for path in write_plots(results, plots):
            typer.echo(f"wrote {path}", err=True)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)
