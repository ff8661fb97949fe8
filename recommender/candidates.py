"""Candidates: configurations and their offers as columns, with what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InputError
from recommender.pricing import Offers
from recommender.runs import Runs

MOST_COMBINATIONS = 200
"""Combinations of application parameters that runs alone may add to the candidates."""


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

    @cached_property
    def _numbered(self) -> tuple[tuple[pd.Index, ...], pd.Index]:
        """The values of each key column, and the configurations' numbers by them; kept: every question looks runs up."""
        number, values = np.zeros(len(self.configurations), dtype=np.int64), []
        for name in self.key_columns:
            code, found = pd.factorize(comparable(self.configurations[name]).to_numpy(), use_na_sentinel=False)
            number = number * len(found) + code
            values.append(pd.Index(found))
        return tuple(values), pd.Index(number)

    def rows(self, keys: pd.DataFrame) -> npt.NDArray[np.intp]:
        """Row of the configuration that has each row of `keys` (`key_columns`), -1 where none has."""
        values, numbers = self._numbered
        number, known = np.zeros(len(keys), dtype=np.int64), np.ones(len(keys), dtype=bool)
        for name, found in zip(self.key_columns, values, strict=True):
            code = found.get_indexer(pd.Index(comparable(keys[name]).to_numpy()))
            number, known = number * len(found) + code, known & (code >= 0)
        return np.where(known, numbers.get_indexer(pd.Index(number)), -1)

    def configuration(self, row: int) -> Configuration:
        """One configuration, as plain values."""
        cells = self.configurations.iloc[row]
        values = {c: cells[c] for c in self.params if not pd.isna(cells[c])}
        return Configuration(
            instance_type=str(cells["instance_type"]),
            node_count=int(cells["node_count"]),
            params={c: _plain(v) for c, v in values.items()},
        )


def _plain(value: object) -> object:
    """A parameter as plain Python: 32 for 32.0."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def comparable(keys: pd.Series) -> pd.Series:
    """Keys that are equal where their values are: one table may hold 32 as a number, the other as text beside `auto`."""

    def plain(value: object) -> object:
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return value

    if not str(keys.name).startswith("param.") or pd.api.types.is_numeric_dtype(keys):
        return keys
    return keys.map(plain).astype(object)


def with_parameters(candidates: Candidates, runs: Runs) -> Candidates:
    """The candidates x the combinations of those `param.*` that only the runs know; unchanged where there are none.

    Raises
    ------
    InputError
        With more combinations than could be meant: a candidates table must say which to consider.
    """
    missing = [c for c in runs.params if c not in candidates.configurations]
    if not missing or not len(runs):
        return candidates
    combinations = (
        runs.frame[missing].drop_duplicates().sort_values(missing, ignore_index=True, key=lambda c: c.astype(str))
    )
    times = len(combinations)
    if times > MOST_COMBINATIONS:
        raise InputError(
            f"the runs hold {times} combinations of {', '.join(missing)}; up to {MOST_COMBINATIONS} are considered: name those "
            "that are meant in a candidates table (--candidates) with these columns"
        )
    old, offers = candidates.configurations, candidates.offers
    n = len(old)
    wide = old.loc[np.repeat(np.arange(n), times)].reset_index(drop=True)
    for column in missing:
        wide[column] = np.tile(combinations[column].to_numpy(), n)
    again = np.repeat(np.arange(len(offers)), times)
    index = offers.configuration[again] * times + np.tile(np.arange(times), len(offers))
    order = np.argsort(index, kind="stable")
    again, index = again[order], index[order]
    return Candidates(
        wide,
        replace(
            offers,
            configuration=index.astype(np.int32),
            **{
                c: getattr(offers, c)[again]
                for c in ("region", "usd_per_hour", "quality", "nodes", "minimum_s", "family")
            },
            overrides={name: values[again] for name, values in offers.overrides.items()},
            factors={name: values[again] for name, values in offers.factors.items()},
        ),
        tuple(replace(e, count=e.count * times) for e in candidates.exclusions),
    )
