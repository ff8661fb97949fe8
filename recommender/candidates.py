"""Candidates: what could be rented, enumerated as columns, with what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.catalogue import Catalogue, TypeFilter
from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.pricing import BY_NAME, PRICE_QUALITIES, Offers, PurchaseOption
from recommender.pricing.cost import MINIMUM_BILLED_S


@dataclass(frozen=True)
class Exclusion:
    """Candidates that were not ranked, for one reason."""

    reason: str
    """Machine-groupable, e.g. `memory`, `deadline`, `no_price`."""
    count: int
    """Candidates (configuration x region x purchase option) excluded for it."""
    sentence: str
    """The reason in words, with its numbers."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What is measured: instance type x node count (x application parameters)."""

    instance_type: str
    node_count: int
    params: Mapping[str, object] = field(default_factory=dict)
    """Application parameters, `param.<name>` -> value."""

    @property
    def label(self) -> str:
        """In words, e.g. `m5.xlarge x4 batch=256`."""
        params = "".join(f" {k.removeprefix('param.')}={v}" for k, v in self.params.items())
        return f"{self.instance_type} x{self.node_count}{params}"


@dataclass(frozen=True)
class Candidates:
    """Configurations (what models predict) and their offers (what pricing prices)."""

    configurations: pd.DataFrame
    """One row each, canonical order: instance_type, node_count, vcpus, memory_gib (per node, NaN unknown), family
    ('' outside the catalogue), param.*, feature.*."""
    offers: Offers
    """One entry per (configuration, region)."""
    exclusions: tuple[Exclusion, ...]
    """What was left out before any prediction."""

    @property
    def params(self) -> list[str]:
        """Names of the application-parameter columns, `param.<name>`."""
        return [c for c in map(str, self.configurations) if c.startswith("param.")]

    @property
    def key_columns(self) -> list[str]:
        """Columns that identify a configuration."""
        return ["instance_type", "node_count", *self.params]

    def configuration(self, row: int) -> Configuration:
        """One configuration, as plain values."""
        cells = self.configurations.iloc[row]
        values = {c: cells[c] for c in self.params if not pd.isna(cells[c])}
        params = {c: v.item() if isinstance(v, np.generic) else v for c, v in values.items()}
        return Configuration(
            instance_type=str(cells["instance_type"]), node_count=int(cells["node_count"]), params=params
        )


def catalogue_candidates(
    catalogue: Catalogue,
    *,
    types: TypeFilter,
    architectures: Sequence[str],
    include_burstable: bool,
    include_accelerators: bool,
    regions: Sequence[str],
    node_counts: Sequence[int],
    options: Sequence[PurchaseOption],
    prices: pd.DataFrame | None,
) -> Candidates:
    """Every type of the catalogue that passes the filters x region that prices it x node count.

    Exclusions count candidates, so an excluded type counts once per region, node count and purchase option.
    """
    specs = catalogue.types
    reasons = (
        ("filtered", ~replace(types, retired=None, regions=()).mask(catalogue), "are outside the filters given"),
        ("retired", specs["retired"], "are no longer sold to new customers"),
        (
            "architecture",
            ~specs["architecture"].isin(list(architectures)),
            f"are not {' or '.join(architectures)}, which the runs were measured on (--architecture any to consider them)",
        ),
        (
            "accelerator",
            (specs["accelerators"] > 0) & (not include_accelerators),
            "have accelerators, of which the runs say nothing (--accelerators to consider them)",
        ),
        (
            "burstable",
            specs["burstable"] & (not include_burstable),
            "are burstable: throttled or billed extra under sustained load (--burstable to consider them)",
        ),
    )
    pairs = _sold(catalogue, list(regions))
    own = _own_prices(prices, pairs, catalogue)
    have_price = pairs["usd_per_hour"].notna().to_numpy()
    for values in own.values():
        have_price = have_price | ~np.isnan(values)
    row = specs.index.get_indexer(pd.Index(pairs["instance_type"]))
    times = len(node_counts) * len(options)
    keep = np.ones(len(pairs), dtype=bool)
    exclusions = []
    for reason, mask, sentence in (*reasons, ("no_price", None, "have no price on record in the regions asked for")):
        out = keep & (~have_price if mask is None else mask.to_numpy(bool)[row])
        if out.any():
            kinds = pairs.loc[out, "instance_type"].nunique()
            exclusions.append(Exclusion(reason, int(out.sum()) * times, f"{kinds} instance types {sentence}"))
        keep &= ~out
    pairs, row = pairs[keep].reset_index(drop=True), row[keep]
    own = {k: v[keep] for k, v in own.items()}
    if not len(pairs):
        why = "; ".join(f"{e.sentence} ({e.reason})" for e in exclusions) or "no type is offered there"
        raise InputError(
            f"no instance type is left in {', '.join(regions[:3])}{' …' if len(regions) > 3 else ''}: {why}; relax a filter"
        )
    chosen = np.unique(row)
    counts = np.asarray(node_counts, dtype=np.int64)
    base = specs.iloc[np.repeat(chosen, len(counts))]
    configurations = pd.DataFrame(
        {
            "instance_type": base.index.to_numpy(object),
            "node_count": np.tile(counts, len(chosen)),
            "vcpus": base["vcpus"].to_numpy(float),
            "memory_gib": base["memory_gib"].to_numpy(float),
            "family": base["family"].to_numpy(object),
        }
    )
    position = np.searchsorted(chosen, row)
    index = (position[:, None] * len(counts) + np.arange(len(counts))).ravel()
    spread = np.repeat(np.arange(len(pairs)), len(counts))
    order = np.lexsort((spread, index))
    return Candidates(
        configurations,
        _offers(configurations, index[order], spread[order], pairs, own, MINIMUM_BILLED_S),
        tuple(exclusions),
    )


def _sold(catalogue: Catalogue, regions: list[str]) -> pd.DataFrame:
    """Pairs of type and region that are offered or priced: instance_type, region, usd_per_hour, price_quality; sorted."""
    prices = catalogue.prices
    listed = prices.loc[prices["region"].isin(regions), ["instance_type", "region", "usd_per_hour", "price_quality"]]
    wide = catalogue.offered[[r for r in regions if r in catalogue.offered]]
    row, column = np.nonzero(wide.to_numpy(bool))
    offered = pd.DataFrame(
        {"instance_type": wide.index.to_numpy(object)[row], "region": wide.columns.to_numpy(object)[column]}
    )
    pairs = offered.merge(listed, on=["instance_type", "region"], how="outer")
    return pairs.sort_values(["instance_type", "region"], kind="stable", ignore_index=True)


def table_candidates(
    table: pd.DataFrame,
    catalogue: Catalogue,
    region: str,
    options: Sequence[PurchaseOption],
    prices: pd.DataFrame | None,
    max_nodes: int | None,
) -> Candidates:
    """The rows of a candidates table; what it leaves empty comes from the catalogue where that knows the type."""
    exclusions: list[Exclusion] = []
    if max_nodes is not None:
        large = table["node_count"] > max_nodes
        if large.any():
            exclusions.append(
                Exclusion(
                    "max_nodes",
                    int(large.sum()) * len(options),
                    f"{int(large.sum())} configurations have more than {max_nodes} nodes",
                )
            )
            table = table[~large]
    if not len(table):
        raise InputError(
            "the candidates table leaves no candidate: it has no rows, or --max-nodes excludes all of them"
        )
    keys = ["instance_type", "node_count", *(c for c in map(str, table) if c.startswith("param."))]
    table = table.sort_values(keys, kind="stable", ignore_index=True)
    specs = catalogue.types.reindex(table["instance_type"])
    configurations = pd.DataFrame(
        {"instance_type": table["instance_type"].to_numpy(object), "node_count": table["node_count"].to_numpy(np.int64)}
    )
    for column in ("vcpus", "memory_gib"):
        known = specs[column].to_numpy(float)
        own = table[column].to_numpy(float) if column in table else np.full(len(table), np.nan)
        configurations[column] = np.where(np.isnan(own), known, own)
    configurations["family"] = specs["family"].fillna("").to_numpy(object)
    for column in map(str, table):
        if column.startswith(("param.", "feature.")):
            configurations[column] = table[column].to_numpy()
    listed = catalogue.prices[catalogue.prices["region"] == region].set_index("instance_type")
    usd = table["usd_per_hour"].to_numpy(float) if "usd_per_hour" in table else np.full(len(table), np.nan)
    bare = np.isnan(usd)
    pairs = pd.DataFrame({"instance_type": configurations["instance_type"], "region": np.where(bare, region, "")})
    from_catalogue = listed["usd_per_hour"].reindex(table["instance_type"]).to_numpy(float)
    quality = listed["price_quality"].astype(object).reindex(table["instance_type"]).to_numpy(object)
    pairs["usd_per_hour"] = np.where(bare, from_catalogue, usd)
    pairs["price_quality"] = np.where(bare, quality, "listed")
    own_prices = _own_prices(prices, pairs.assign(region=region), catalogue)
    rows = np.arange(len(table))
    minimum = np.where(bare, MINIMUM_BILLED_S, 0.0)
    return Candidates(
        configurations, _offers(configurations, rows, rows, pairs, own_prices, minimum), tuple(exclusions)
    )


def _offers(
    configurations: pd.DataFrame,
    index: npt.NDArray[np.intp],
    spread: npt.NDArray[np.intp],
    pairs: pd.DataFrame,
    own: dict[str, npt.NDArray[np.float64]],
    minimum_s: float | npt.NDArray[np.float64],
) -> Offers:
    """Offers whose configuration is `index` and whose type, region and price are rows `spread` of `pairs`."""
    codes, regions = pd.factorize(pairs["region"], sort=True)
    quality = pairs["price_quality"].map({q: i for i, q in enumerate(PRICE_QUALITIES)}).fillna(0).to_numpy(np.int8)
    families = sorted(set(configurations["family"]) - {""})
    family = pd.Index(families, dtype=object).get_indexer(configurations["family"]).astype(np.int16)
    return Offers(
        configuration=index.astype(np.int32),
        region=codes.astype(np.int16)[spread],
        regions=tuple(regions),
        usd_per_hour=pairs["usd_per_hour"].to_numpy(float)[spread],
        quality=quality[spread].astype(np.int8),
        nodes=configurations["node_count"].to_numpy(float)[index],
        minimum_s=np.broadcast_to(np.asarray(minimum_s, dtype=float), len(index))
        if np.ndim(minimum_s) == 0
        else np.asarray(minimum_s)[spread],
        family=family[index],
        families=tuple(families),
        overrides={name: values[spread] for name, values in own.items()},
    )


def _own_prices(
    prices: pd.DataFrame | None, pairs: pd.DataFrame, catalogue: Catalogue
) -> dict[str, npt.NDArray[np.float64]]:
    """The user's own prices by purchase option, aligned with `pairs`; a row without region holds in every region.

    Raises
    ------
    RecommenderError
        For a type that neither the catalogue nor a candidates table knows, an unknown region or purchase option, and
        two prices for one thing: a misspelt row must not be passed over in silence.
    """
    if prices is None:
        return {}
    result = {}
    known = {*catalogue.types.index, *pairs["instance_type"]}
    for name in prices["instance_type"].unique():
        if name not in known:
            raise UnknownNameError(
                f"the price table names instance type {name!r}, which neither the catalogue nor a candidates table "
                f"knows{did_you_mean(name, known)}; describe it in a candidates table"
            )
    for region in prices["region"].dropna().unique():
        catalogue.check_region(region)
    option_names = prices["purchase_option"].fillna("on-demand").str.lower()
    for name in sorted(option_names.unique()):
        if name not in BY_NAME:
            raise UnknownNameError(
                f"the price table names purchase option {name!r}{did_you_mean(name, BY_NAME)} (known: {', '.join(list(BY_NAME)[:3])} …)"
            )
        part = prices[option_names == name]
        everywhere = part[part["region"].isna()].set_index("instance_type")["usd_per_hour"]
        here = part[part["region"].notna()].set_index(["instance_type", "region"])["usd_per_hour"]
        for series in (everywhere, here):
            if series.index.has_duplicates:
                raise InputError(
                    f"the price table prices {series.index[series.index.duplicated()][0]} ({name}) twice; one row each is allowed"
                )
        values = everywhere.reindex(pairs["instance_type"]).to_numpy(float)
        if len(here):
            special = here.reindex(pd.MultiIndex.from_frame(pairs[["instance_type", "region"]])).to_numpy(float)
            values = np.where(np.isnan(special), values, special)
        result[name] = values
    return result
