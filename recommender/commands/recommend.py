"""`recommender recommend`, `recommender suggest` and `recommender strategies`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommender.commands import options as o

if TYPE_CHECKING:
    from recommender.problem import Problem
    from recommender.runs import Runs


def recommend(
    runs: o.RunsArgument = None,
    workload: o.Workload = None,
    archive: o.Archive = None,
    candidates: o.CandidatesFile = None,
    strategy: o.StrategyName = "auto",
    objective: o.ObjectiveOption = o.Objective.COST,
    deadline: o.Deadline = None,
    budget: o.Budget = None,
    confidence: o.Confidence = 0.9,
    purchase: o.Purchase = None,
    region: o.Region = None,
    max_nodes: o.MaxNodes = None,
    inputs: o.Inputs = None,
    prices: o.Prices = None,
    top: o.Top = 10,
    seed: o.Seed = 0,
    form: o.FormatOption = o.Format.TABLE,
    runs_per_month: o.RunsPerMonth = 30.0,
    checkpoint_interval: o.CheckpointInterval = None,
    local_like: o.LocalLike = None,
    min_vcpus: o.MinVcpus = None,
    max_vcpus: o.MaxVcpus = None,
    min_memory: o.MinMemory = None,
    max_memory: o.MaxMemory = None,
    family: o.Family = None,
    instance_type: o.InstanceType = None,
    architecture: o.Architecture = None,
    min_generation: o.MinGeneration = None,
    max_price: o.MaxPrice = None,
    local_disk: o.LocalDisk = None,
    burstable: o.Burstable = False,
    accelerators: o.Accelerators = False,
) -> None:
    """Say what to rent and how to pay for it: ranked, priced and explained.

    Example: recommender recommend runs.csv --deadline 2h --purchase on-demand,spot
    """
    from recommender.report.tables import as_csv, as_json, as_text
    from recommender.strategies import strategy as named

    problem, mine = _ask(locals())
    answer = named(strategy).recommend(problem, mine)
    typer.echo({"json": as_json, "csv": as_csv, "table": as_text}[form.value](answer), nl=False)


def suggest(
    runs: o.RunsArgument = None,
    workload: o.Workload = None,
    archive: o.Archive = None,
    candidates: o.CandidatesFile = None,
    strategy: o.StrategyName = "auto",
    count: Annotated[int, typer.Option(min=1, help="How many configurations to name at most.")] = 4,
    objective: o.ObjectiveOption = o.Objective.COST,
    deadline: o.Deadline = None,
    budget: o.Budget = None,
    confidence: o.Confidence = 0.9,
    purchase: o.Purchase = None,
    region: o.Region = None,
    max_nodes: o.MaxNodes = None,
    inputs: o.Inputs = None,
    prices: o.Prices = None,
    top: o.Top = 10,
    seed: o.Seed = 0,
    form: o.FormatOption = o.Format.TABLE,
    runs_per_month: o.RunsPerMonth = 30.0,
    checkpoint_interval: o.CheckpointInterval = None,
    local_like: o.LocalLike = None,
    min_vcpus: o.MinVcpus = None,
    max_vcpus: o.MaxVcpus = None,
    min_memory: o.MinMemory = None,
    max_memory: o.MaxMemory = None,
    family: o.Family = None,
    instance_type: o.InstanceType = None,
    architecture: o.Architecture = None,
    min_generation: o.MinGeneration = None,
    max_price: o.MaxPrice = None,
    local_disk: o.LocalDisk = None,
    burstable: o.Burstable = False,
    accelerators: o.Accelerators = False,
) -> None:
    """Name the configurations to measure next; nothing is worth measuring when none would change the answer.

    Example: recommender suggest runs.csv --count 2
    """
    from recommender.report.tables import suggestions_as_text
    from recommender.strategies import batch
    from recommender.strategies import strategy as named

    problem, mine = _ask(locals())
    runs_to_make = batch(named(strategy), problem, mine, count)
    if form is o.Format.JSON:
        typer.echo(json.dumps([run.to_dict() for run in runs_to_make], indent=2))
    elif form is o.Format.CSV:
        import pandas as pd

        rows = [{k: v for k, v in run.to_dict().items() if k != "params"} | dict(run.params) for run in runs_to_make]
        header = ["instance_type", "node_count", "expected_runtime_s", "expected_cost_usd", "why"]
        typer.echo(
            (pd.DataFrame(rows) if rows else pd.DataFrame(columns=header)).to_csv(index=False, lineterminator="\n"),
            nl=False,
        )
    else:
        typer.echo(suggestions_as_text(runs_to_make), nl=False)


def strategies() -> None:
    """List the strategies and what each one does."""
    from recommender.strategies import strategies as known

    for name, make in known().items():
        made = make()
        why = getattr(made, "why", None) or (made.__doc__ or "").strip().splitlines()[0].rstrip(".")
        typer.echo(f"{name:<12}  {why}")


def _ask(given: dict[str, Any]) -> tuple[Problem, Runs]:
    """Build the problem from a command's parameters."""
    filters = {
        "min_vcpus": given["min_vcpus"],
        "max_vcpus": given["max_vcpus"],
        "min_memory_gib": given["min_memory"],
        "max_memory_gib": given["max_memory"],
        "families": o.words(given["family"]),
        "instance_types": o.words(given["instance_type"]),
        "min_generation": given["min_generation"],
        "max_usd_per_hour": given["max_price"],
        "local_disk": given["local_disk"],
    }
    names = [
        "workload",
        "archive",
        "candidates",
        "objective",
        "deadline",
        "budget",
        "confidence",
        "purchase",
        "region",
        "max_nodes",
        "inputs",
        "prices",
        "top",
        "seed",
        "local_like",
        "runs_per_month",
        "checkpoint_interval",
        "architecture",
        "burstable",
        "accelerators",
    ]
    return o.ask(given["runs"], filters=filters, **{name: given[name] for name in names})
