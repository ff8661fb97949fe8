"""Which candidates there are: the catalogue's, or a candidates table's, through the filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.candidates import Candidates, Exclusion
from recommender.catalogue import Catalogue, TypeFilter
from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.pricing import BY_NAME, PRICE_QUALITIES, Offers, PurchaseOption
from recommender.pricing.cost import MINIMUM_BILLED_S


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Which of the catalogue's machines are considered unless filters say more: the kinds that were measured."""

    measured: frozenset[str]
    """Instance types that were run, or are asked for by name: never left out by default."""
    architectures: Sequence[str]
    architecture_asked: bool
    """The architectures were asked for, else they are those of the runs."""
    burstable: bool
    """Consider burstable types, measured or not."""
    accelerators: bool
    """Consider all types with and without accelerators."""

    def reasons(self, catalogue: Catalogue) -> tuple[tuple[str, pd.Series[bool], str], ...]:
        """(reason, which types, sentence)."""
        specs = catalogue.types
        own = specs.index.isin(list(self.measured))
        device = specs["gpu_model"].where(specs["gpus"] > 0, specs["family"]).where(specs["accelerators"] > 0, "")
        on = set(device[own]) | ({""} if "local" in self.measured or not own.any() else set())
        has = "have accelerators" if on == {""} else "have other accelerators, or none,"
        which = " or ".join(self.architectures)
        why = "as was asked" if self.architecture_asked else "which the runs were measured on"
        return (
            ("retired", specs["retired"] & ~own, "are no longer sold to new customers"),
            (
                "architecture",
                ~specs["architecture"].isin(list(self.architectures)),
                f"are not {which}, {why} (--architecture any to consider them)",
            ),
            (
                "accelerator",
                ~device.isin(on) & ~own & (not self.accelerators),
                f"{has} of which the runs say nothing (--accelerators to consider them)",
            ),
            (
                "burstable",
                specs["burstable"] & ~own & (not (self.burstable or bool(specs["burstable"][own].any()))),
                "are burstable: throttled or billed extra under sustained load (--burstable to consider them)",
            ),
        )


def catalogue_candidates(
    catalogue: Catalogue,
    *,
    types: TypeFilter,
    machines: Machines,
    regions: Sequence[str],
    node_counts: Sequence[int],
    options: Sequence[PurchaseOption],
    prices: pd.DataFrame | None,
) -> Candidates:
    """Every type of the catalogue that passes the filters x region that prices it x node count.

    Exclusions count candidates, so an excluded type counts once per region, node count and purchase option.
    """
    specs = catalogue.types
    types = replace(types, retired=None, regions=())
    hardware = replace(types, max_usd_per_hour=None)
    reasons = (
        ("filtered", ~hardware.mask(catalogue), "are outside the filters given"),
        *machines.reasons(catalogue),
    )
    pairs = _sold(catalogue, list(regions))
    own = own_prices(prices, pairs, catalogue)
    have_price = pairs["usd_per_hour"].notna().to_numpy()
    for values in own.values():
        have_price = have_price | ~np.isnan(values)
    dear = _dearer(pairs, own, types.max_usd_per_hour)
    offered = pairs.loc[have_price, "instance_type"].unique()
    row = specs.index.get_indexer(pd.Index(pairs["instance_type"]))
    times = len(node_counts) * len(options)
    keep = np.ones(len(pairs), dtype=bool)
    exclusions = []
    masks = [
        *((reason, mask.to_numpy(bool)[row], sentence) for reason, mask, sentence in reasons),
        ("no_price", ~have_price, "have no price on record in the regions asked for"),
        ("filtered", dear, f"cost more than {types.max_usd_per_hour} USD per hour on demand"),
    ]
    for reason, which, sentence in masks:
        out = keep & which
        if out.any():
            kinds = pairs.loc[out, "instance_type"].nunique()
            exclusions.append(Exclusion(reason, int(out.sum()) * times, f"{kinds} instance types {sentence}"))
        keep &= ~out
    pairs, row = pairs[keep].reset_index(drop=True), row[keep]
    own = {k: v[keep] for k, v in own.items()}
    if not len(pairs):
        why = "; ".join(f"{e.sentence} ({e.reason})" for e in exclusions) or "no type is offered there"
        others = np.ones(len(specs), dtype=bool)
        for _, mask, _ in machines.reasons(catalogue):
            others &= ~mask.to_numpy(bool)
        hints = _relaxations(types, catalogue, pd.Series(others & specs.index.isin(offered), specs.index))
        raise InputError(
            f"no instance type is left in {', '.join(regions[:3])}{' …' if len(regions) > 3 else ''}: {why}; {hints}"
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


def _dearer(
    pairs: pd.DataFrame, own: Mapping[str, npt.NDArray[np.float64]], most: float | None
) -> npt.NDArray[np.bool_]:
    """Which pairs cost more than `most` on demand, the user's own prices counting; without a price they do."""
    if most is None:
        return np.zeros(len(pairs), dtype=bool)
    if not most > 0:
        raise InputError(f"the highest price must be above 0 USD per hour, got {most}")
    listed = pairs["usd_per_hour"].to_numpy(float)
    mine = own.get("on-demand", np.full(len(pairs), np.nan))
    return ~(np.where(np.isnan(mine), listed, mine) <= most)


def _relaxations(types: TypeFilter, catalogue: Catalogue, sold: pd.Series[bool]) -> str:
    """Which single condition to drop, with how many of the types `sold` that leaves and the nearest value."""
    hints = []
    for name, value in vars(types).items():
        if value in (None, ()) or name == "retired":
            continue
        without: dict[str, Any] = {name: () if isinstance(value, tuple) else None}
        left = replace(replace(types, **without), max_usd_per_hour=None)
        found = catalogue.types[left.mask(catalogue) & sold]
        column = name.removeprefix("min_").removeprefix("max_")
        if not len(found):
            continue
        nearest = ""
        if column in found and name.startswith(("min_", "max_")):
            edge = found[column].max() if name.startswith("min_") else found[column].min()
            nearest = f", {'at most' if name.startswith('min_') else 'at least'} {edge:g}"
        hints.append(f"without {name.replace('_', ' ')} {value} {len(found)} types would be left{nearest}")
    return "; ".join(hints) or "relax a filter"


def table_candidates(
    table: pd.DataFrame,
    catalogue: Catalogue,
    *,
    types: TypeFilter,
    regions: Sequence[str],
    options: Sequence[PurchaseOption],
    prices: pd.DataFrame | None,
    max_nodes: int | None,
) -> Candidates:
    """The rows of a candidates table; what it leaves empty comes from the catalogue where that knows the type.

    A row whose price the catalogue must supply has one offer per region.
    """
    exclusions: list[Exclusion] = []

    def without(rows: npt.NDArray[np.bool_], reason: str, sentence: str) -> pd.DataFrame:
        if rows.any():
            exclusions.append(Exclusion(reason, int(rows.sum()) * len(options), f"{int(rows.sum())} {sentence}"))
        return table[~rows]

    if max_nodes is not None:
        large = (table["node_count"] > max_nodes).to_numpy(bool)
        table = without(large, "max_nodes", f"configurations have more than {max_nodes} nodes")
    table = without(
        ~_admitted(table, catalogue, types),
        "filtered",
        "configurations are outside the filters given, or what these ask is not known of them",
    )
    if not len(table):
        raise InputError(
            "the candidates table leaves no candidate: it has no rows, or --max-nodes or a filter excludes all of them"
            + "".join(f"; {e.sentence}" for e in exclusions)
        )
    keys = ["instance_type", "node_count", *(c for c in map(str, table) if c.startswith("param."))]
    table = table.sort_values(keys, kind="stable", ignore_index=True)
    specs = catalogue.types.reindex(table["instance_type"])
    configurations = pd.DataFrame(
        {"instance_type": table["instance_type"].to_numpy(object), "node_count": table["node_count"].to_numpy(np.int64)}
    )
    for column in ("vcpus", "memory_gib"):
        configurations[column] = _own_or_known(table, specs, column)
    configurations["family"] = specs["family"].fillna("").to_numpy(object)
    for column in map(str, table):
        if column.startswith(("param.", "feature.")):
            configurations[column] = table[column].to_numpy()
    usd = table["usd_per_hour"].to_numpy(float) if "usd_per_hour" in table else np.full(len(table), np.nan)
    # Where neither the table, the catalogue nor the user's prices know the type, nothing differs from region to region.
    priceable = {*catalogue.types.index, *(prices["instance_type"] if prices is not None else ())}
    bare = np.isnan(usd) & table["instance_type"].isin(priceable).to_numpy()
    row = np.repeat(np.arange(len(table)), np.where(bare, len(regions), 1))
    first = np.r_[0, np.flatnonzero(np.diff(row)) + 1]
    place = np.arange(len(row)) - np.repeat(first, np.diff(np.r_[first, len(row)]))
    where = np.asarray(list(regions), dtype=object)[place]
    kinds = configurations["instance_type"].to_numpy(object)[row]
    listed = catalogue.prices.set_index(["instance_type", "region"])
    known = listed.reindex(pd.MultiIndex.from_arrays([kinds, where]))
    pairs = pd.DataFrame(
        {
            "instance_type": kinds,
            "region": np.where(bare[row], where, ""),
            "usd_per_hour": np.where(bare[row], known["usd_per_hour"].to_numpy(float), usd[row]),
            "price_quality": np.where(bare[row], known["price_quality"].to_numpy(object), "listed"),
        }
    )
    mine = own_prices(prices, pairs.assign(region=where), catalogue)
    keep = ~_dearer(pairs, mine, types.max_usd_per_hour)
    if not keep.all():
        sentence = f"offers cost more than {types.max_usd_per_hour} USD per hour on demand"
        exclusions.append(Exclusion("filtered", int((~keep).sum()) * len(options), f"{int((~keep).sum())} {sentence}"))
    if not keep.any():
        raise InputError(f"the candidates table leaves no candidate: all {exclusions[-1].sentence}")
    minimum = np.where(bare[row], MINIMUM_BILLED_S, 0.0)
    return Candidates(
        configurations,
        _offers(configurations, row[keep], np.flatnonzero(keep), pairs, mine, minimum),
        tuple(exclusions),
    )


def _own_or_known(table: pd.DataFrame, specs: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """A column of the candidates table, the catalogue's figure where it is empty."""
    own = table[column].to_numpy(float) if column in table else np.full(len(table), np.nan)
    return np.where(np.isnan(own), specs[column].to_numpy(float), own)


def _admitted(table: pd.DataFrame, catalogue: Catalogue, types: TypeFilter) -> npt.NDArray[np.bool_]:
    """Rows of a candidates table that meet the filters (but that of price), by its own figures where it has them."""
    names = table["instance_type"]
    for name in types.instance_types:
        if name not in set(names):
            raise UnknownNameError(
                f"the candidates table has no instance type {name!r}{did_you_mean(name, set(names))}"
            )
    specs = catalogue.types.reindex(names)
    admitted = names.isin(types.instance_types).to_numpy() if types.instance_types else np.ones(len(table), dtype=bool)
    for column, low, high in (
        ("vcpus", types.min_vcpus, types.max_vcpus),
        ("memory_gib", types.min_memory_gib, types.max_memory_gib),
    ):
        value = _own_or_known(table, specs, column)
        if low is not None:
            admitted &= value >= low
        if high is not None:
            admitted &= value <= high
    rest = replace(types, retired=None, regions=(), instance_types=(), max_usd_per_hour=None)
    rest = replace(rest, min_vcpus=None, max_vcpus=None, min_memory_gib=None, max_memory_gib=None)
    if rest != TypeFilter(retired=None):
        admitted &= names.map(rest.mask(catalogue)).fillna(False).to_numpy(bool)
    return admitted


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


def own_prices(
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
