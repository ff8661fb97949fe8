"""Options that several commands share, and their conversion to what the library takes."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from recommender.errors import InputError
from recommender.resources import shipped_profile
from recommender.units import parse_duration

if TYPE_CHECKING:
    from recommender.problem import Problem
    from recommender.runs import Runs


class Format(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Objective(StrEnum):
    """What is minimised."""

    COST = "cost"
    RUNTIME = "runtime"


Given = TypeVar("Given")
FILTERS, MONEY, ASKED = "Which candidates", "How it is paid", "What is asked"

RunsArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Runs table (CSV or Parquet), or profile:NAME for a shipped one; none with --strategy price-only.",
        show_default=False,
    ),
]
Workload = Annotated[
    str | None,
    typer.Option(help="The workload asked about; the others in RUNS are its archive.", rich_help_panel=ASKED),
]
Archive = Annotated[
    list[Path] | None,
    typer.Option(
        help="Runs tables of other workloads, or names of archives (recommender archive).", rich_help_panel=ASKED
    ),
]
CandidatesFile = Annotated[
    Path | None, typer.Option("--candidates", help="Candidates table; default: the catalogue.", rich_help_panel=FILTERS)
]
StrategyName = Annotated[str, typer.Option("--strategy", help="See `recommender strategies`.", rich_help_panel=ASKED)]
ObjectiveOption = Annotated[Objective, typer.Option(help="What to minimise.", rich_help_panel=ASKED)]
Deadline = Annotated[
    str | None, typer.Option(help="A run must end within this time, e.g. 90s, 30m, 2h.", rich_help_panel=ASKED)
]
Budget = Annotated[
    float | None,
    typer.Option(
        help="A run must cost at most this, USD; with --strategy lynceus the same as --search-budget.",
        rich_help_panel=ASKED,
    ),
]
SearchBudget = Annotated[
    float | None,
    typer.Option(help="What all measuring may cost, USD; the runs known count as spent.", rich_help_panel=ASKED),
]
Confidence = Annotated[
    float, typer.Option(help="Probability with which deadline and budget must hold.", rich_help_panel=ASKED)
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="NAME=VALUE of the job to recommend for, e.g. scale=1.", rich_help_panel=ASKED),
]
LocalLike = Annotated[
    str | None, typer.Option(help="Catalogue family the profiling machine is like, e.g. m7i.", rich_help_panel=ASKED)
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", rich_help_panel=ASKED)]
Top = Annotated[int, typer.Option(min=1, help="Rows to show.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Form of the answer.")]
Purchase = Annotated[
    str | None,
    typer.Option(
        help="on-demand, spot, reserved, savings-plan (or a full name such as reserved-3y-all-upfront), all; comma-separated. "
        "Default: on-demand, spot and 1-year commitments without upfront; with --candidates on-demand.",
        rich_help_panel=MONEY,
    ),
]
RunsPerMonth = Annotated[
    float, typer.Option(help="How often the job runs; decides whether a commitment pays.", rich_help_panel=MONEY)
]
RunsPlanned = Annotated[
    float | None,
    typer.Option(
        help="Runs to come: stop measuring when a run costs more than it is expected to save over them; default: the "
        "strategy's own rule.",
        rich_help_panel=MONEY,
    ),
]
CheckpointCost = Annotated[str, typer.Option(help="Time that writing one checkpoint takes.", rich_help_panel=MONEY)]
CheckpointInterval = Annotated[
    str | None,
    typer.Option(help="Time between checkpoints on spot; default: restart from scratch.", rich_help_panel=MONEY),
]
Prices = Annotated[
    Path | None,
    typer.Option(help="Your own prices: instance_type, region, purchase_option, usd_per_hour.", rich_help_panel=MONEY),
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Scale the intervals until they hold on the archive's workloads.")
]
WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        "--what-if",
        help="Rank again with other prices, e.g. 'spot=-20%': a way to pay, an instance type or a region.",
        rich_help_panel=MONEY,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        help="Regions, comma-separated, or all; default: the runs' own, else us-east-1.", rich_help_panel=FILTERS
    ),
]
MaxNodes = Annotated[
    int | None, typer.Option(min=1, help="Largest cluster; default: the largest measured.", rich_help_panel=FILTERS)
]
MinVcpus = Annotated[
    int | None, typer.Option("--min-vcpus", "--vcpus", help="vCPUs of one node at least.", rich_help_panel=FILTERS)
]
MaxVcpus = Annotated[int | None, typer.Option(help="vCPUs of one node at most.", rich_help_panel=FILTERS)]
MinMemory = Annotated[
    float | None,
    typer.Option("--min-memory", "--memory", help="Memory of one node at least, GiB.", rich_help_panel=FILTERS),
]
MaxMemory = Annotated[float | None, typer.Option(help="Memory of one node at most, GiB.", rich_help_panel=FILTERS)]
Family = Annotated[
    str | None, typer.Option(help="Families, comma-separated globs, e.g. 'm7*,c7g'.", rich_help_panel=FILTERS)
]
InstanceType = Annotated[str | None, typer.Option(help="Instance types, comma-separated.", rich_help_panel=FILTERS)]
Architecture = Annotated[
    str | None,
    typer.Option(help="x86_64, arm64 or any; default: what the runs were measured on.", rich_help_panel=FILTERS),
]
MinGeneration = Annotated[int | None, typer.Option(help="Generation of the family at least.", rich_help_panel=FILTERS)]
MaxPrice = Annotated[
    float | None, typer.Option(help="On-demand USD per hour of one node at most.", rich_help_panel=FILTERS)
]
LocalDisk = Annotated[
    bool | None,
    typer.Option(
        "--local-disk/--no-local-disk", help="Only with, or only without, local disks.", rich_help_panel=FILTERS
    ),
]
Burstable = Annotated[bool, typer.Option("--burstable", help="Consider burstable types too.", rich_help_panel=FILTERS)]
Accelerators = Annotated[
    bool,
    typer.Option(
        "--accelerators", help="Consider types with GPUs and other accelerators too.", rich_help_panel=FILTERS
    ),
]


def words(text: str | None) -> tuple[str, ...]:
    """Split a comma-separated option."""
    return tuple(w.strip() for w in (text or "").split(",") if w.strip())


def pairs(items: Iterable[str] | None) -> dict[str, float]:
    """Read NAME=VALUE options.

    Raises
    ------
    InputError
        When one is not a name, an equals sign and a finite number, or a name is given twice.
    """
    result: dict[str, float] = {}
    for item in items or ():
        name, _, value = item.partition("=")
        name = name.strip().removeprefix("input.")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            raise InputError(f"--input {item!r} is not NAME=VALUE with a number, such as scale=1")
        if name in result:
            raise InputError(f"--input {name} is given twice ({result[name]:g} and {number:g}); give it once")
        result[name] = number
    return result


@dataclass(frozen=True)
class Asked:
    """The values of the options that describe a problem, as typed."""

    given: dict[str, Any]

    def build(self) -> tuple[Problem, Runs]:
        """Read the tables and build the problem; the runs are those of the workload asked about."""
        from recommender.problem import build_problem

        return self.give(build_problem)

    def give(self, to: Callable[..., Given]) -> Given:
        """Call `to`, which takes what `build_problem` takes, with the values as the library takes them."""
        from recommender.catalogue import TypeFilter
        from recommender.pricing import Usage, parse_purchase

        o = self.given
        runs, every = o["runs"], o["checkpoint_interval"]
        if runs is not None and str(runs).startswith("profile:"):
            runs = shipped_profile(str(runs).removeprefix("profile:"))
        types = TypeFilter(
            min_vcpus=o["min_vcpus"],
            max_vcpus=o["max_vcpus"],
            min_memory_gib=o["min_memory"],
            max_memory_gib=o["max_memory"],
            families=words(o["family"]),
            instance_types=words(o["instance_type"]),
            min_generation=o["min_generation"],
            max_usd_per_hour=o["max_price"],
            local_disk=o["local_disk"],
        )
        return to(
            runs,
            workload=o["workload"],
            archive=_archives(o["archive"] or ()),
            candidates=o["candidates"],
            prices=o["prices"],
            objective="cost" if o["objective"] is Objective.COST else "runtime",
            deadline_s=parse_duration(o["deadline"]) if o["deadline"] is not None else None,
            budget_usd=o["budget"],
            search_budget_usd=o["search_budget"],
            confidence=o["confidence"],
            purchase=parse_purchase(o["purchase"]) if o["purchase"] is not None else None,
            regions=words(o["region"]) or None,
            max_nodes=o["max_nodes"],
            types=types,
            architecture=o["architecture"],
            include_burstable=o["burstable"],
            include_accelerators=o["accelerators"],
            inputs=pairs(o["inputs"]),
            usage=Usage(
                o["runs_per_month"],
                checkpoint_interval_s=parse_duration(every) if every is not None else None,
                checkpoint_cost_s=parse_duration(o["checkpoint_cost"]),
            ),
            runs_planned=o["runs_planned"],
            local_like=o["local_like"],
            seed=o["seed"],
            top=o["top"],
        )


def _archives(given: Iterable[Path]) -> list[Path | Runs]:
    """Runs tables as they stand, names of archives opened."""
    if not given:
        return []
    from recommender.archives import named_or_table

    return [named_or_table(source) for source in given]


def _problem_options(
    runs: RunsArgument = None,
    workload: Workload = None,
    archive: Archive = None,
    candidates: CandidatesFile = None,
    objective: ObjectiveOption = Objective.COST,
    deadline: Deadline = None,
    budget: Budget = None,
    search_budget: SearchBudget = None,
    confidence: Confidence = 0.9,
    inputs: Inputs = None,
    local_like: LocalLike = None,
    seed: Seed = 0,
    purchase: Purchase = None,
    runs_per_month: RunsPerMonth = 30.0,
    runs_planned: RunsPlanned = None,
    checkpoint_interval: CheckpointInterval = None,
    checkpoint_cost: CheckpointCost = "30s",
    prices: Prices = None,
    region: Region = None,
    max_nodes: MaxNodes = None,
    min_vcpus: MinVcpus = None,
    max_vcpus: MaxVcpus = None,
    min_memory: MinMemory = None,
    max_memory: MaxMemory = None,
    family: Family = None,
    instance_type: InstanceType = None,
    architecture: Architecture = None,
    min_generation: MinGeneration = None,
    max_price: MaxPrice = None,
    local_disk: LocalDisk = None,
    burstable: Burstable = False,
    accelerators: Accelerators = False,
    top: Top = 10,
) -> None:
    """The signature that `asks` gives to a command."""


def _as_meant(given: dict[str, Any], strategy: str | None) -> dict[str, Any]:
    """The options as the strategy takes them: Lynceus' budget is that of the search."""
    if strategy != "lynceus" or given["budget"] is None:
        return given
    if given["search_budget"] is not None:
        raise InputError(
            "with --strategy lynceus --budget is the search budget; give --search-budget or --budget, not both"
        )
    return given | {"budget": None, "search_budget": given["budget"]}


PROBLEM_DEFAULTS = {name: p.default for name, p in inspect.signature(_problem_options).parameters.items()}
"""Option that describes a problem -> its value where it was not given."""


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that describe a problem; it gets them as its first argument, an `Asked`."""
    shared = inspect.signature(_problem_options, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        mine = {p.name: given.pop(p.name) for p in own}
        command(Asked(_as_meant(given, mine.get("strategy"))), **mine)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared.values(), *own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
