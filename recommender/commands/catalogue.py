"""`recommender catalogue`: list, show, families, regions, similar."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommender.commands.options import Format, FormatOption
from recommender.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from recommender.catalogue import Catalogue

app = typer.Typer(help="Instance types: hardware, prices, regions, speed.", no_args_is_help=True)

TABLE_LIMIT = 50
"""Rows of `list` in a table unless `--limit` says otherwise; JSON and CSV are never cut short unasked."""

LIST_COLUMNS = (
    *("instance_type", "region", "vcpus", "memory_gib", "usd_per_hour", "price_quality", "architecture", "gpus"),
    *("gpu_model", "local_disk_gib", "network_baseline_gbps", "coremark_per_vcpu"),
)
"""What a table shows; JSON and CSV have every column."""


class Architecture(StrEnum):
    """Instruction sets."""

    X86_64 = "x86_64"
    ARM64 = "arm64"


LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, help=f"Most rows to print (default: {TABLE_LIMIT} in a table, else all).", show_default=False
    ),
]


@app.command("list")
def list_command(
    min_vcpus: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    max_vcpus: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    min_memory: Annotated[float | None, typer.Option(help="GiB.", min=0, show_default=False)] = None,
    max_memory: Annotated[float | None, typer.Option(help="GiB.", min=0, show_default=False)] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Glob over the family, e.g. 'c6*,m7g'; repeatable.", show_default=False)
    ] = None,
    instance_type: Annotated[
        list[str] | None, typer.Option("--type", help="Exact name; repeatable.", show_default=False)
    ] = None,
    architecture: Annotated[Architecture | None, typer.Option(show_default=False)] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="With / without GPUs.", show_default=False)] = None,
    accelerator: Annotated[
        bool | None,
        typer.Option(
            "--accelerator/--no-accelerator", help="GPU, inference, training, FPGA, media.", show_default=False
        ),
    ] = None,
    min_generation: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    max_generation: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    burstable: Annotated[bool | None, typer.Option("--burstable/--no-burstable", show_default=False)] = None,
    bare_metal: Annotated[bool | None, typer.Option("--bare-metal/--no-bare-metal", show_default=False)] = None,
    local_disk: Annotated[bool | None, typer.Option("--local-disk/--no-local-disk", show_default=False)] = None,
    min_network: Annotated[
        float | None, typer.Option(help="Baseline bandwidth, Gbit/s.", min=0, show_default=False)
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option(help="Region code(s), comma separated or repeated.", show_default=False)
    ] = None,
    max_price: Annotated[float | None, typer.Option(help="On-demand USD per hour.", min=0, show_default=False)] = None,
    prices: Annotated[
        Path | None, typer.Option(help="Your own prices, which replace the on-demand ones.", show_default=False)
    ] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Include retired types.")] = False,
    unpriced: Annotated[bool, typer.Option("--unpriced", help="Include offers the price list lacks.")] = False,
    limit: LimitOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """One row an instance type and region: hardware and on-demand Linux price."""
    from recommender.catalogue import TypeFilter, load_catalogue, offerings

    chosen = TypeFilter(
        min_vcpus=min_vcpus,
        max_vcpus=max_vcpus,
        min_memory_gib=min_memory,
        max_memory_gib=max_memory,
        families=_split(family),
        instance_types=_split(instance_type),
        architecture=architecture.value if architecture else None,
        gpu=gpu,
        accelerator=accelerator,
        min_generation=min_generation,
        max_generation=max_generation,
        burstable=burstable,
        bare_metal=bare_metal,
        local_disk=local_disk,
        min_network_gbps=min_network,
        regions=_split(region),
        max_usd_per_hour=max_price,
        retired=None if retired else False,
    )
    catalogue = load_catalogue()
    if prices is not None:
        from recommender.tables import PRICES, read_table

        catalogue = catalogue.with_prices(read_table(prices, PRICES))
    table = offerings(catalogue, chosen, unpriced=unpriced)
    if not len(table):
        typer.echo("no offer meets these conditions", err=True)
    if limit is None and form is Format.TABLE:
        limit = TABLE_LIMIT
    if limit is not None and len(table) > limit:
        typer.echo(f"{len(table) - limit} more rows; --limit {len(table)} prints all", err=True)
        table = table.head(limit)
    _print(table[list(LIST_COLUMNS)] if form is Format.TABLE else table, form)


@app.command("show")
def show_command(
    instance_type: Annotated[str, typer.Argument(help="For example m7g.large.")], form: FormatOption = Format.TABLE
) -> None:
    """Everything known of one type: hardware, price range, regions, speed and spot, each with its source."""
    from recommender.catalogue import load_catalogue

    facts = _facts(load_catalogue(), instance_type)
    if form is Format.JSON:
        typer.echo(json.dumps(facts, indent=2))
        return
    import pandas as pd

    flat: dict[str, Any] = {}
    for key, value in facts.items():
        nested = {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
        flat.update(nested)
    cells = {key: " ".join(value) if isinstance(value, list) else value for key, value in flat.items()}
    texts = ["" if value is None else str(value) for value in cells.values()]
    _print(pd.DataFrame({"field": list(cells), "value": pd.Series(texts, dtype="str")}), form)


@app.command("families")
def families_command(
    family: Annotated[
        list[str] | None, typer.Option(help="Glob over the family; repeatable.", show_default=False)
    ] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Include families retired in every size.")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """One row a family: generation, sizes, memory per vCPU, CoreMark per vCPU, spot saving and interruption band."""
    from recommender.catalogue import TypeFilter, load_catalogue

    catalogue = load_catalogue()
    mask = TypeFilter(families=_split(family), retired=None if retired else False).hardware_mask(catalogue)
    table = catalogue.families()
    _print(table[table["family"].isin(catalogue.types["family"][mask])], form)


@app.command("regions")
def regions_command(form: FormatOption = Format.TABLE) -> None:
    """One row a region: name, how many types are known to be offered, how many have a price."""
    from recommender.catalogue import load_catalogue

    _print(load_catalogue().regions(), form)


@app.command("similar")
def similar_command(
    instance_type: Annotated[str, typer.Argument(help="For example m5.xlarge.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 5,
    retired: Annotated[bool, typer.Option("--retired", help="Include retired types.")] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """The types with the most similar hardware, nearest first; distance 1 is about twice one of vCPUs or memory."""
    from recommender.catalogue import load_catalogue, similar

    _print(similar(load_catalogue(), instance_type, count, retired=retired).reset_index(), form)


def _facts(catalogue: Catalogue, instance_type: str) -> dict[str, Any]:
    """Facts about one type as plain values: `types` columns, then `on_demand`, `offered_in`, `speed`, `spot` (None if
    unknown)."""
    offered = catalogue.offered_in(instance_type)
    row = _records(catalogue.types.loc[[instance_type]].reset_index())[0]
    prices = catalogue.prices[catalogue.prices["instance_type"] == instance_type].sort_values(
        ["usd_per_hour", "region"]
    )
    on_demand = None
    if len(prices):
        low, high = prices.iloc[0], prices.iloc[-1]
        on_demand = {
            "regions": len(prices),
            "min_usd_per_hour": float(low["usd_per_hour"]),
            "min_region": str(low["region"]),
            "max_usd_per_hour": float(high["usd_per_hour"]),
            "max_region": str(high["region"]),
            "repaired": int((prices["price_quality"] == "repaired").sum()),
            "source": " ".join(sorted(prices["source"].unique())),
            "date": " ".join(sorted(prices["date"].unique())),
        }
    return {
        **row,
        "on_demand": on_demand,
        "offered_in": offered,
        "speed": _figure(catalogue.speed, row["family"]),
        "spot": _figure(catalogue.spot, row["family"]),
    }


def _figure(table: pd.DataFrame, family: str) -> dict[str, Any] | None:
    """A family's row of figures, or None when there is none."""
    return _records(table.loc[[family]])[0] if family in table.index else None


def _split(values: list[str] | None) -> tuple[str, ...]:
    """Flatten repeated, comma-separated option values."""
    parts = tuple(part.strip() for value in values or () for part in value.split(","))
    if not all(parts):
        raise InputError("an option that takes a comma-separated list has an empty part")
    return parts


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values; missing is None."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=10))
    return rows


def _print(table: pd.DataFrame, form: Format) -> None:
    """Write a table to stdout: aligned text, never cut to the screen's width; JSON records; or CSV."""
    if form is Format.JSON:
        typer.echo(json.dumps(_records(table), indent=2))
    elif form is Format.CSV:
        typer.echo(table.to_csv(index=False, lineterminator="\n"), nl=False)
    else:
        typer.echo(_aligned(table), nl=False)


def _aligned(table: pd.DataFrame) -> str:
    """Columns two spaces apart, numbers to the right; missing is a dash, booleans are yes and no."""
    lines = [[_cell(value) for value in row] for row in table.itertuples(index=False, name=None)]
    heads = [str(column) for column in table.columns]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    right = [table[column].dtype.kind in "iuf" for column in table.columns]
    return "".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        + "\n"
        for line in [heads, *lines]
    )


def _cell(value: Any) -> str:
    """One cell as text."""
    import pandas as pd

    if isinstance(value, bool):
        return "yes" if value else "no"
    if pd.isna(value) or value == "":
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
