"""The bundled tables and the questions asked of them. pandas is imported on first use: importing this is cheap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from recommender.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_TEXT = ("cpu_model", "gpu_model", "local_disk_kind")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Facts about instance types, one table a kind. Missing numbers are NaN, never 0; treat the tables as read-only.

    Compared and hashed by identity, so a catalogue can key a cache.
    """

    types: pd.DataFrame
    """Hardware, index `instance_type` (sorted, unique).

    `provider` ('aws'), `family` ('m7g', 'u-6tb1'), `size`, `generation`, `vcpus`, `cores`, `memory_gib`, `architecture`
    ('x86_64' or 'arm64'), `cpu_maker`, `cpu_model` ('' unknown), `clock_ghz`, `gpus` (devices the system sees: a
    fraction of a card is one), `gpu_model`, `gpu_memory_gib` (total), `accelerators` (GPUs and all others),
    `local_disks`, `local_disk_gib` (total), `local_disk_kind` ('nvme-ssd', 'ssd', 'hdd', ''), `network_baseline_gbps`,
    `network_peak_gbps`, `ebs_baseline_gbps`, `ebs_peak_gbps`, `burstable`, `bare_metal`, `retired`,
    `current_generation` (AWS's flag), `source`.
    """

    prices: pd.DataFrame
    """On-demand Linux, one row a type and region: `provider`, `instance_type`, `region`, `usd_per_hour`,
    `price_quality` ('listed' or 'repaired'), `source`, `date` (ISO, of the price list). Sorted by type and region."""

    offered: pd.DataFrame
    """Index `instance_type`, a column a region: True where the type is known to be offered (unknown is False)."""

    speed: pd.DataFrame
    """Index `family`: `coremark_per_vcpu` (median over sizes), `measurements`, `date`, `source`, `quality`. No row when
    unmeasured."""

    spot: pd.DataFrame
    """Index `family`: `saving` (fraction of on-demand, median), `band` (0 to 4, median rounded up),
    `interruption_per_month` (probability, middle of the band), `measurements`, `source`, `quality` ('estimated').
    Linux, over regions and sizes."""

    places: pd.DataFrame
    """Index `region`: human `name`, `kind` ('commercial', 'government', 'local zone')."""

    @cached_property
    def rated(self) -> pd.DataFrame:
        """Index `family`: `coremark_per_vcpu`, and `borrowed`: no size of the family was measured, and the figure is the
        median of families with the same CPU model."""
        import pandas as pd

        cpu = self.types[self.types["cpu_model"] != ""].drop_duplicates("family").set_index("family")["cpu_model"]
        own = self.speed["coremark_per_vcpu"]
        lent = cpu[~cpu.index.isin(own.index)].map(own.groupby(cpu.reindex(own.index)).median()).dropna()
        table = own.to_frame().assign(borrowed=False)
        return pd.concat([table, lent.to_frame("coremark_per_vcpu").assign(borrowed=True)])

    def check_type(self, instance_type: str) -> str:
        """Return the name, or raise `UnknownNameError` naming the nearest one."""
        return _known("instance type", instance_type, self.types.index, "recommender catalogue list")

    def check_region(self, region: str) -> str:
        """Return the region's code, or raise `UnknownNameError` naming the nearest one."""
        return _known("region", region, self.places.index, "recommender catalogue regions")

    def check_family(self, family: str) -> str:
        """Return the family's name, or raise `UnknownNameError` naming the nearest one."""
        return _known("family", family, self.types["family"].unique(), "recommender catalogue families")

    def offered_in(self, instance_type: str) -> list[str]:
        """Regions known to offer the type, sorted; empty for one withdrawn everywhere."""
        row = self.offered.loc[self.check_type(instance_type)].to_numpy(dtype=bool)
        return sorted(str(region) for region in self.offered.columns[row])

    def price_of(self, instance_type: str, region: str) -> float | None:
        """On-demand USD per hour, or None when the list has no price."""
        self.check_type(instance_type)
        self.check_region(region)
        rows = self.prices[(self.prices["instance_type"] == instance_type) & (self.prices["region"] == region)]
        return float(rows["usd_per_hour"].iloc[0]) if len(rows) else None

    def with_prices(self, own: pd.DataFrame) -> Catalogue:
        """The catalogue with on-demand prices replaced by a price table's; a row without region holds everywhere."""
        import pandas as pd

        own = own[own["purchase_option"].fillna("on-demand").str.lower() == "on-demand"]
        for name in own["instance_type"]:
            self.check_type(name)
        for region in own["region"].dropna():
            self.check_region(region)
        keys = ["instance_type", "region"]
        everywhere = own.loc[own["region"].isna(), ["instance_type", "usd_per_hour"]]
        row, column = self.offered.to_numpy(dtype=bool).nonzero()
        offered = {"instance_type": self.offered.index[row], "region": self.offered.columns[column]}
        sold = pd.concat([pd.DataFrame(offered), self.prices[keys]]).drop_duplicates()
        wide = sold.merge(everywhere, on="instance_type")
        mine = pd.concat([own.loc[own["region"].notna(), [*keys, "usd_per_hour"]], wide]).drop_duplicates(keys)
        facts = {"provider": "aws", "price_quality": "listed", "source": "own price table", "date": ""}
        rest = self.prices[~pd.MultiIndex.from_frame(self.prices[keys]).isin(pd.MultiIndex.from_frame(mine[keys]))]
        prices = pd.concat([rest, mine.assign(**facts)]).sort_values(keys, ignore_index=True)
        return replace(self, prices=prices[self.prices.columns])

    def regions(self) -> pd.DataFrame:
        """One row a region: `region`, `name`, `kind`, `types_offered`, `prices` (types with a price)."""
        table = self.places.copy()
        table["types_offered"] = self.offered.sum().reindex(table.index).astype(int)
        table["prices"] = self.prices.groupby("region").size().reindex(table.index, fill_value=0)
        return table.reset_index()

    def families(self) -> pd.DataFrame:
        """One row a family: `family`, `generation`, `architecture`, `cpu_maker`, `sizes`, `min_vcpus`, `max_vcpus`,
        `memory_per_vcpu` (GiB, median), `gpu_model`, `local_disk_kind`, `burstable`, `retired` (all sizes),
        `priced_types`, `coremark_per_vcpu`, `spot_saving`, `spot_band`."""
        types = self.types.assign(
            memory_per_vcpu=self.types["memory_gib"] / self.types["vcpus"],
            priced=self.types.index.isin(self.prices["instance_type"]),
        )
        table = types.groupby("family").agg(
            generation=("generation", "first"),
            architecture=("architecture", "first"),
            cpu_maker=("cpu_maker", "first"),
            sizes=("size", "size"),
            min_vcpus=("vcpus", "min"),
            max_vcpus=("vcpus", "max"),
            memory_per_vcpu=("memory_per_vcpu", "median"),
            gpu_model=("gpu_model", "max"),
            local_disk_kind=("local_disk_kind", "max"),
            burstable=("burstable", "all"),
            retired=("retired", "all"),
            priced_types=("priced", "sum"),
        )
        table["coremark_per_vcpu"] = self.speed["coremark_per_vcpu"].reindex(table.index)
        table["spot_saving"] = self.spot["saving"].reindex(table.index)
        table["spot_band"] = self.spot["band"].reindex(table.index).astype("Int64")
        return table.reset_index()


def _known(what: str, name: str, known: Iterable[Any], where: str) -> str:
    """Return `name` when known, else raise with the nearest known name and where to look."""
    names = [str(item) for item in known]
    if name not in names:
        raise UnknownNameError(f"unknown {what} '{name}'{did_you_mean(name, names) or '.'} See `{where}`.")
    return name


@cache
def load_catalogue() -> Catalogue:
    """Read the bundled catalogue, once per process."""
    import pandas as pd

    def read(name: str, **options: Any) -> pd.DataFrame:
        with (files("recommender.catalogue") / "data" / name).open("rb") as stream:
            table: pd.DataFrame = pd.read_csv(stream, **options)
        return table

    types = read("types.csv", index_col="instance_type", dtype=dict.fromkeys(_TEXT, "str"))
    types = types.fillna(dict.fromkeys(_TEXT, ""))
    return Catalogue(
        types=types,
        prices=read("prices.csv"),
        offered=read("offered.csv", index_col="instance_type").eq(1),
        speed=read("speed.csv", index_col="family"),
        spot=read("spot.csv", index_col="family"),
        places=read("regions.csv", index_col="region"),
    )
