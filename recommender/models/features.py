"""Candidates as numbers: the feature matrix of surrogate models that learn over hardware.

Notation: x[i, j] in [0, 1] is feature j of configuration i. Multiplicative quantities enter as logarithms, size and shape
apart (vCPUs of a node, then memory, network and disk per vCPU), so that no two features say the same. Prices are no
feature: a price change needs no refit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.models import Array
from recommender.problem import Problem

NARROWEST = float(np.log(2.0))
"""A multiplicative feature that spans less than a doubling is scaled as if it spanned one: 5 % is not made the world."""
WIDE = 10.0
"""A positive numeric parameter that spans more than this factor is taken as its logarithm."""


@dataclass(frozen=True)
class Features:
    """Feature matrix of all configurations of a problem."""

    x: Array
    """(configurations, features), every value in [0, 1]; a constant feature is left out."""
    names: tuple[str, ...]
    """One per column."""
    group: npt.NDArray[np.intp]
    """(features,); the columns of one text feature share a number, and so share a length scale."""
    work: Array
    """ln of relative capacity, nodes x vCPUs x speed: the runtime of perfectly divisible work falls as exp(-work)."""


def features(problem: Problem) -> Features:
    """Columns for hardware, node count, `param.*` and `feature.*`.

    Missing cells take the column's median and an indicator column says so. Types of which neither vCPUs nor memory is
    known are told apart by a one-hot column each. Cost: linear in configurations.
    """
    table = problem.configurations
    nodes, vcpus, memory = (table[c].to_numpy(float) for c in ("node_count", "vcpus", "memory_gib"))
    specs = problem.catalogue.types.reindex(table["instance_type"])
    speed = problem.catalogue.speed["coremark_per_vcpu"].reindex(table["family"]).to_numpy(float)
    clock = specs["clock_ghz"].to_numpy(float)
    unknown = np.isnan(vcpus) & np.isnan(memory)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = {
            "node_count": np.log(nodes),
            "vcpus": np.log(vcpus),
            "memory per vCPU": np.log(memory / np.where(np.isnan(vcpus), 1.0, vcpus)),
            "speed": np.log(speed if np.isfinite(speed).any() else clock),
            "network per vCPU": np.log(specs["network_baseline_gbps"].to_numpy(float) / vcpus),
            "local disk per vCPU": np.log1p(specs["local_disk_gib"].fillna(0.0).to_numpy(float) / vcpus),
        }
    columns: list[tuple[str, Array, int]] = []
    group = 0
    for name, values in logs.items():
        columns += [(n, v, group) for n, v in _scaled(name, np.where(np.isfinite(values), values, np.nan), NARROWEST)]
        group += 1
    text = {"instance_type": table["instance_type"].where(unknown, "")} if unknown.any() else {}
    for name in map(str, table):
        if not name.startswith(("param.", "feature.")):
            continue
        numeric = pd.to_numeric(table[name], errors="coerce")
        if (numeric.notna() | table[name].isna()).all():
            columns += [(n, v, group) for n, v in number_columns(name, numeric.to_numpy(float))]
        else:
            text[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
        group += 1
    for name, cells in text.items():
        kinds = sorted(set(cells))
        if len(kinds) > 1:  # any two different texts are at distance 1
            columns += [(f"{name}={k}", (cells == k).to_numpy(float) / np.sqrt(2.0), group) for k in kinds]
        group += 1
    if not columns:  # a single candidate, or candidates that nothing tells apart
        columns = [("constant", np.zeros(len(table)), 0)]
    known = ~np.isnan(vcpus).any()
    work = np.log(nodes) + (np.log(vcpus) if known else 0.0)
    work = work + np.nan_to_num(logs["speed"] - np.nanmedian(logs["speed"]) if np.isfinite(speed).any() else 0.0)
    return Features(
        x=np.stack([v for _, v, _ in columns], axis=1),
        names=tuple(n for n, _, _ in columns),
        group=np.unique([g for _, _, g in columns], return_inverse=True)[1].astype(np.intp),
        work=work,
    )


def number_columns(name: str, values: Array) -> list[tuple[str, Array]]:
    """A number column in [0, 1], its logarithm when positive and spanning more than a factor WIDE; missing cells as above."""
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > WIDE * known.min():
        values = np.log(values)
    return _scaled(name, values, 0.0)


def _scaled(name: str, values: Array, narrowest: float) -> list[tuple[str, Array]]:
    """The column in [0, 1] and, where cells are missing, an indicator of them; nothing for a constant column."""
    known = np.isfinite(values)
    if not known.any():
        return []
    low, high = float(values[known].min()), float(values[known].max())
    result = []
    if high - low > 1e-12:
        filled = np.where(known, values, np.median(values[known]))
        result.append((name, (filled - low) / max(high - low, narrowest)))
    if not known.all():
        result.append((f"{name} unknown", (~known).astype(float)))
    return result
