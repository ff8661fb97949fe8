"""Neighbours of an instance type: what else has about the same hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recommender.catalogue.tables import Catalogue
from recommender.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SCALES = {
    "vcpus": 1.0,
    "memory_gib": 1.0,
    "coremark_per_vcpu": 2.0,
    "network_baseline_gbps": 0.25,
    "ebs_baseline_gbps": 0.25,
    "local_disk_gib": 0.25,
    "gpus": 2.0,
    "gpu_memory_gib": 1.0,
    "accelerators": 2.0,
}
"""Weight of one doubling of each quantity. Speed varies little between types but matters fully, bandwidths vary
much."""

_MAY_BE_NONE = ("local_disk_gib", "gpus", "gpu_memory_gib", "accelerators")

ONE_UNKNOWN = 0.5
"""Added (squared) for a quantity known of one type only."""
OTHER_ARCHITECTURE = 0.5
"""Added (squared) when the architecture differs: software must be rebuilt."""
OTHER_BURSTABLE = 1.0
"""Added (squared) when one of the two is burstable: its vCPUs are not there all the time."""


def similar(catalogue: Catalogue, instance_type: str, count: int = 5, *, retired: bool = False) -> pd.DataFrame:
    """The `count` types nearest to `instance_type`, nearest first; ties by name.

    distance^2 = sum_k (w_k log2(x_k / y_k))^2 + penalties, over the quantities k of `SCALES`. Quantities that may be
    absent are compared as log2(1 + x), so none against none is 0; an unknown on one side counts as one doubling, on
    both as none.

    Returns a table indexed by `instance_type`: `distance` (0 is identical hardware; 1 is, for instance, twice the
    memory), then `vcpus`, `memory_gib`, `architecture`, `coremark_per_vcpu`, `network_baseline_gbps`, `local_disk_gib`,
    `gpus`. Retired types are left out unless asked for.
    """
    import numpy as np

    catalogue.check_type(instance_type)
    if count < 1:
        raise InputError(f"the number of similar types must be at least 1, got {count}")
    table = catalogue.types.join(catalogue.speed["coremark_per_vcpu"], on="family")
    quantities = table[list(SCALES)].astype(float)
    quantities.loc[table["local_disks"] == 0, "local_disk_gib"] = 0.0
    quantities.loc[table["gpus"] == 0, "gpu_memory_gib"] = 0.0
    logs = np.log2(quantities.to_numpy() + quantities.columns.isin(_MAY_BE_NONE))
    own = logs[table.index.get_loc(instance_type)]
    gaps = np.nan_to_num(logs - own) * np.array(list(SCALES.values()))
    squared = (np.where(np.isnan(logs) == np.isnan(own), gaps, ONE_UNKNOWN) ** 2).sum(axis=1)
    here = table.loc[instance_type]
    squared += OTHER_ARCHITECTURE**2 * (table["architecture"] != here["architecture"])
    squared += OTHER_BURSTABLE**2 * (table["burstable"] != here["burstable"])
    table = table.assign(distance=np.sqrt(squared).round(4))
    keep = (table.index != instance_type) & (~table["retired"] | retired)
    columns = ["distance", "vcpus", "memory_gib", "architecture", "coremark_per_vcpu", "network_baseline_gbps"]
    ranked = table[keep].sort_index().sort_values("distance", kind="stable")
    return ranked[[*columns, "local_disk_gib", "gpus"]].head(count)
