"""Offers: configurations as sold in a region, and the hourly price of each under a purchase option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.pricing.cost import (
    HOURS_PER_MONTH,
    Array,
    Usage,
    commitment_cost,
    elapsed_with_checkpoints_s,
    hazard_per_hour,
    on_demand_cost,
    spot_cost,
    spot_survival,
    spot_wall_time_h,
    work_within_s,
)
from recommender.pricing.options import UPFRONT_SHARE, PurchaseOption, commitment_rate

PRICE_QUALITIES = ("listed", "repaired", "estimated")
ESTIMATED = np.int8(PRICE_QUALITIES.index("estimated"))


@dataclass(frozen=True)
class Offers:
    """Columns of equal length, one entry a (configuration, region) pair, in canonical order."""

    configuration: npt.NDArray[np.int32]
    """Row of the problem's configurations."""
    region: npt.NDArray[np.int16]
    """Index into `regions`."""
    regions: tuple[str, ...]
    """Region names; '' where a price is not tied to a region."""
    usd_per_hour: Array
    """On-demand price of one node; NaN where there is none."""
    quality: npt.NDArray[np.int8]
    """Index into PRICE_QUALITIES of the on-demand price."""
    nodes: Array
    """Node count."""
    minimum_s: Array
    """Seconds billed at least: 60 for catalogue prices, 0 where a candidates table names the price."""
    family: npt.NDArray[np.int16]
    """Index into `families`, -1 outside the catalogue."""
    families: tuple[str, ...]
    """Instance families of the catalogue that occur."""
    overrides: Mapping[str, Array] = field(default_factory=dict)
    """Purchase option name -> the user's own USD per hour per node, NaN where the user names none."""

    factors: Mapping[str, Array] = field(default_factory=dict)
    """Purchase option name -> what its price is multiplied with: a question about other prices."""

    def __len__(self) -> int:
        return len(self.configuration)


@dataclass(frozen=True)
class OptionPrices:
    """One purchase option over all offers; everything needed to turn runtimes into money."""

    option: PurchaseOption
    usd_per_hour: Array
    """Effective USD per node-hour, NaN where it is not known."""
    quality: npt.NDArray[np.int8]
    """Index into PRICE_QUALITIES."""
    interruption_per_month: Array | None
    """P(an instance is interrupted within a month), spot only."""

    def cost(
        self, runtime_s: Array, offers: Offers, usage: Usage, rows: slice | npt.NDArray[np.intp] = slice(None)
    ) -> Array:
        """Expected USD of one run that takes `runtime_s` undisturbed, for the offers `rows`. Increasing in runtime."""
        usd, nodes = self.usd_per_hour[rows], offers.nodes[rows]
        if self.interruption_per_month is not None:
            return spot_cost(
                runtime_s, usd, nodes, self.interruption_per_month[rows], usage, minimum_s=offers.minimum_s[rows]
            )
        if self.option.committed:
            return commitment_cost(runtime_s, usd, nodes, runs_per_month=usage.runs_per_month)
        return on_demand_cost(runtime_s, usd, nodes, minimum_s=offers.minimum_s[rows])

    def upfront_usd(self, offer: int, machines: int) -> float:
        """USD paid when `machines` nodes are committed: the upfront share of the whole term; 0 without a commitment."""
        share = UPFRONT_SHARE[self.option.payment] if self.option.committed else 0.0
        return share * float(self.usd_per_hour[offer]) * machines * 12 * HOURS_PER_MONTH * self.option.term_years

    def wall_time_s(self, runtime_s: Array, offers: Offers, usage: Usage) -> Array:
        """Expected seconds from start to finish, interruptions included."""
        if self.interruption_per_month is None:
            return runtime_s
        hazard = offers.nodes * hazard_per_hour(self.interruption_per_month)
        return spot_wall_time_h(runtime_s, hazard, usage) * 3600.0

    def elapsed_s(self, runtime_s: Array, usage: Usage) -> Array:
        """Undisturbed seconds from start to finish: on spot, checkpoints take time."""
        return runtime_s if self.interruption_per_month is None else elapsed_with_checkpoints_s(runtime_s, usage)

    def work_within_s(self, deadline_s: float, usage: Usage) -> float:
        """Seconds of work that fit a deadline when nothing happens; the inverse of `elapsed_s`."""
        return deadline_s if self.interruption_per_month is None else work_within_s(deadline_s, usage)

    def survival(self, runtime_s: Array, deadline_s: float, offers: Offers, usage: Usage) -> Array | float:
        """P(no interruption spoils the deadline), a lower bound; 1 for everything but spot."""
        if self.interruption_per_month is None:
            return 1.0
        return spot_survival(runtime_s, deadline_s, offers.nodes, self.interruption_per_month, usage)


def price_option(option: PurchaseOption, offers: Offers, spot: pd.DataFrame) -> OptionPrices:
    """Hourly prices of `option` for all offers.

    Commitments and spot are derived from the on-demand price (the user's own, where given) by family-level figures and
    are `estimated`; a price the user names for this very option replaces that and is `listed`. `spot` is the
    catalogue's figures per family: `saving` (fraction of on-demand) and `interruption_per_month`.
    """
    base, quality = offers.usd_per_hour, offers.quality
    if "on-demand" in offers.overrides:
        own = offers.overrides["on-demand"]
        base = np.where(np.isnan(own), base, own)
        quality = np.where(np.isnan(own), quality, 0).astype(np.int8)
    interruption = None
    if option.kind == "spot":
        figures = spot.reindex(list(offers.families))
        saving, month = (
            np.append(figures[c].to_numpy(float), np.nan)[offers.family] for c in ("saving", "interruption_per_month")
        )
        usd, quality, interruption = base * (1.0 - saving), np.full(len(base), ESTIMATED), month
    elif option.committed:
        rate = np.append(commitment_rate(option, offers.families), np.nan)[offers.family]
        usd, quality = base * rate, np.full(len(base), ESTIMATED)
    else:
        usd = base
    special = offers.overrides.get(option.name)
    if special is not None and option.name != "on-demand":
        usd = np.where(np.isnan(special), usd, special)
        quality = np.where(np.isnan(special), quality, 0).astype(np.int8)
    if option.name in offers.factors:
        usd = usd * offers.factors[option.name]
    return OptionPrices(option, usd, quality, interruption)
