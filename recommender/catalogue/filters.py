"""Choosing among instance types: one filter, used by the library and the command line alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from recommender.catalogue.tables import Catalogue
from recommender.errors import InputError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

ARCHITECTURES = ("x86_64", "arm64")


@dataclass(frozen=True, kw_only=True)
class TypeFilter:
    """Conditions an instance type must all meet. None, or an empty tuple, means no condition; bounds are inclusive."""

    min_vcpus: int | None = None
    max_vcpus: int | None = None
    min_memory_gib: float | None = None
    max_memory_gib: float | None = None
    families: tuple[str, ...] = ()
    """Glob patterns over the family, any of which must match: 'm7g', 'c6*', '[cmr]5'. A pattern that matches nothing is
    an error."""
    instance_types: tuple[str, ...] = ()
    """Exact names, any of which must match; an unknown one is an error."""
    architecture: str | None = None
    """'x86_64' or 'arm64'."""
    gpu: bool | None = None
    """True only with, False only without GPUs."""
    accelerator: bool | None = None
    """True only with, False only without accelerators of any kind (GPU, inference, training, FPGA, media)."""
    min_generation: int | None = None
    max_generation: int | None = None
    burstable: bool | None = None
    bare_metal: bool | None = None
    local_disk: bool | None = None
    retired: bool | None = False
    """False (the default) leaves retired types out, True keeps only them, None keeps both."""
    min_network_gbps: float | None = None
    """Baseline bandwidth, not peak."""
    regions: tuple[str, ...] = ()
    """Region codes: the type is offered or priced in at least one. An unknown code is an error."""
    max_usd_per_hour: float | None = None
    """On-demand price in at least one of `regions` (of any region when empty). A type without a price fails."""

    def hardware_mask(self, catalogue: Catalogue) -> pd.Series[bool]:
        """Which types meet every condition but those of region and price; indexed as `catalogue.types`."""
        import pandas as pd

        types = catalogue.types
        mask = pd.Series(True, index=types.index)
        for column, low, high in (
            ("vcpus", self.min_vcpus, self.max_vcpus),
            ("memory_gib", self.min_memory_gib, self.max_memory_gib),
            ("generation", self.min_generation, self.max_generation),
            ("network_baseline_gbps", self.min_network_gbps, None),
        ):
            if low is not None:
                mask &= types[column] >= low
            if high is not None:
                mask &= types[column] <= high
        for wanted, have in (
            (self.gpu, types["gpus"] > 0),
            (self.accelerator, types["accelerators"] > 0),
            (self.burstable, types["burstable"]),
            (self.bare_metal, types["bare_metal"]),
            (self.local_disk, types["local_disks"] > 0),
            (self.retired, types["retired"]),
        ):
            if wanted is not None:
                mask &= have == wanted
        if self.architecture is not None:
            if self.architecture not in ARCHITECTURES:
                raise UnknownNameError(
                    f"unknown architecture '{self.architecture}'{did_you_mean(self.architecture, ARCHITECTURES) or '.'}"
                    f" Allowed: {', '.join(ARCHITECTURES)}."
                )
            mask &= types["architecture"] == self.architecture
        if self.families:
            mask &= types["family"].isin(_matching(catalogue, self.families))
        if self.instance_types:
            mask &= types.index.isin([catalogue.check_type(name) for name in self.instance_types])
        return mask

    def mask(self, catalogue: Catalogue) -> pd.Series[bool]:
        """Which types meet every condition; boolean, indexed as `catalogue.types`."""
        mask = self.hardware_mask(catalogue)
        if self.max_usd_per_hour is not None:
            return mask & mask.index.isin(self._prices(catalogue)["instance_type"])
        if self.regions:
            priced = mask.index.isin(self._prices(catalogue)["instance_type"])
            mask &= catalogue.offered[list(self.regions)].any(axis=1) | priced
        return mask

    def _prices(self, catalogue: Catalogue) -> pd.DataFrame:
        """Rows of `catalogue.prices` in the wanted regions and within the wanted price."""
        prices = catalogue.prices
        if self.max_usd_per_hour is not None and not self.max_usd_per_hour > 0:
            raise InputError(f"the highest price must be above 0 USD per hour, got {self.max_usd_per_hour}")
        if self.regions:
            prices = prices[prices["region"].isin([catalogue.check_region(region) for region in self.regions])]
        if self.max_usd_per_hour is not None:
            prices = prices[prices["usd_per_hour"] <= self.max_usd_per_hour]
        return prices


def offerings(catalogue: Catalogue, chosen: TypeFilter, *, unpriced: bool = False) -> pd.DataFrame:
    """One row a type and region that `chosen` admits: what is offered where and at what on-demand price.

    Columns: `instance_type`, `region`, `vcpus`, `memory_gib`, `usd_per_hour`, `price_quality`, `price_source`,
    `price_date`, then the rest of `catalogue.types`, then `coremark_per_vcpu`. Sorted by type and region. With
    `unpriced`, also the offers the price list lacks: price NaN and quality ''; unless a highest price is asked for,
    which they cannot meet.
    """
    import numpy as np
    import pandas as pd

    mask = chosen.hardware_mask(catalogue)
    names = mask.index[mask]
    rows = chosen._prices(catalogue).drop(columns="provider")
    rows = rows[rows["instance_type"].isin(names)].rename(columns={"source": "price_source", "date": "price_date"})
    if unpriced and chosen.max_usd_per_hour is None:
        wide = catalogue.offered.loc[names, list(chosen.regions) or list(catalogue.offered.columns)]
        row, column = np.nonzero(wide.to_numpy(dtype=bool))
        extra = pd.DataFrame({"instance_type": wide.index[row], "region": wide.columns[column]})
        rows = extra.merge(rows, on=["instance_type", "region"], how="outer")
        text = ["price_quality", "price_source", "price_date"]
        rows[text] = rows[text].fillna("")
    facts = catalogue.types.join(catalogue.speed["coremark_per_vcpu"], on="family")
    table: pd.DataFrame = rows.join(facts, on="instance_type").sort_values(
        ["instance_type", "region"], ignore_index=True
    )
    first = [
        "instance_type",
        "region",
        "vcpus",
        "memory_gib",
        "usd_per_hour",
        "price_quality",
        "price_source",
        "price_date",
    ]
    return table[first + [column for column in table.columns if column not in first]]


def _matching(catalogue: Catalogue, patterns: tuple[str, ...]) -> set[str]:
    """Families matching any of the glob patterns; a pattern that matches none is an error."""
    from fnmatch import filter as glob

    known = [str(family) for family in catalogue.types["family"].unique()]
    found: set[str] = set()
    for pattern in patterns:
        hits = glob(known, pattern)
        if not hits:
            catalogue.check_family(pattern)
        found.update(hits)
    return found
