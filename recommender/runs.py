"""The runs table: what was measured. The only state of a study, and the archive other workloads are asked about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.table_files import locked, replace_table, write_table
from recommender.tables import RUNS, read_table

TWOFOLD = 2.0
"""Ratio of runtimes on the same configurations from which on two sources' workloads of one name seem to be different jobs."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Measured executions, one row each. Nothing modifies it: every method returns new runs.

    Make one with `read_runs` or `Runs.from_frame`, which validate.
    """

    frame: pd.DataFrame
    """All columns of the runs contract, in its order, then `input.*`, `param.*` and `metric.*` as given. `status` and
    `application` are filled (`completed`, the workload); other missing cells are NaN, None or NaT. Do not modify it."""

    @staticmethod
    def from_frame(df: pd.DataFrame, source: str = "data frame") -> Runs:
        """Return the validated runs of a data frame; `source` names it in messages. Raises RecommenderError."""
        return Runs.from_table(read_table(df, RUNS, name=source))

    @staticmethod
    def from_table(table: pd.DataFrame) -> Runs:
        """Return the runs of a table that `read_table` validated already; columns beside the contract's are left out."""
        canonical = [column.name for column in RUNS.columns]
        families = [name for family in RUNS.prefixes for name in table if str(name).startswith(family.prefix)]
        frame = table.reindex(columns=[*canonical, *families])
        for column in RUNS.columns:
            if column.name not in table:
                kind = {"number": "float64", "timestamp": "datetime64[us, UTC]"}.get(column.kind, "object")
                frame[column.name] = pd.Series([None] * len(table), index=table.index, dtype=kind)
        frame["status"] = frame["status"].where(frame["status"].notna(), "completed")
        frame["application"] = frame["application"].where(frame["application"].notna(), frame["workload"])
        return Runs(frame)

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.frame)

    @property
    def completed(self) -> pd.DataFrame:
        """The rows that ran to the end."""
        return self.frame[self.frame["status"] == "completed"].reset_index(drop=True)

    @property
    def workloads(self) -> list[str]:
        """The workloads, in the order of their first run."""
        return list(self.frame["workload"].unique())

    @property
    def inputs(self) -> list[str]:
        """The columns that describe the job's input, `input.<name>`."""
        return self._family("input.")

    @property
    def params(self) -> list[str]:
        """The columns of application parameters, `param.<name>`."""
        return self._family("param.")

    @property
    def metrics(self) -> list[str]:
        """The columns of utilisation counters, `metric.<name>`."""
        return self._family("metric.")

    def of(self, workload: str) -> Runs:
        """Return the runs of one workload; none where it was never run."""
        return Runs(self.frame[self.frame["workload"] == workload].reset_index(drop=True))

    def without(self, workload: str, *, application: str | None = None) -> Runs:
        """Return the runs of all other workloads, also without those of `application` where it is given."""
        kept = self.frame["workload"] != workload
        if application is not None:
            kept &= self.frame["application"] != application
        return Runs(self.frame[kept].reset_index(drop=True))

    def _family(self, prefix: str) -> list[str]:
        return [str(name) for name in self.frame if str(name).startswith(prefix)]


def shared_names(sources: Sequence[Runs]) -> list[str]:
    """Workloads of one name in several sources that took other times in each, or ran nothing in common, in words."""
    frames = [runs.completed.assign(source=i) for i, runs in enumerate(sources) if len(runs.completed)]
    if len(frames) < 2:
        return []
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[frame.groupby("workload")["source"].transform("nunique") > 1]
    cell = ["workload", "instance_type", "node_count", *(c for c in frame if str(c).startswith(("input.", "param.")))]
    log_t = pd.Series(np.log(frame["runtime_s"].to_numpy(float)), index=frame.index)
    log_t = log_t.groupby([frame[c] for c in [*cell, "source"]], dropna=False).mean()
    by = log_t.groupby(level=cell, dropna=False)
    apart = (by.max() - by.min()).where(by.size() > 1).groupby(level="workload").median()
    differ, nothing = apart[apart > np.log(TWOFOLD)], apart[apart.isna()]
    job = "taken for one workload; if these are different jobs, rename them in one of the sources"
    found = []
    if len(differ):
        found.append(
            f"{some(differ.index)} are in several of the sources given, with runtimes on the same configurations that differ up "
            f"to {np.exp(differ.max()):.1f} x in the median: each is {job}"
        )
    if len(nothing):
        found.append(
            f"{some(nothing.index)} are in several of the sources given, which ran nothing in common: each is {job}"
        )
    return found


def some(names: Iterable[str], most: int = 5) -> str:
    """Names, `most` of them in full."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def ranks(frame: pd.DataFrame, columns: list[str]) -> npt.NDArray[np.intp]:
    """Rank of each cell among its column's different values, (rows, columns); what is missing is one value, the last."""
    found = np.empty((len(frame), len(columns)), dtype=np.intp)
    for i, name in enumerate(columns):
        rank, values = pd.factorize(frame[name].to_numpy(), sort=True)
        found[:, i] = np.where(rank < 0, len(values), rank)
    return found


def read_runs(source: str | Path | pd.DataFrame) -> Runs:
    """Return the validated runs of a CSV file, a Parquet file or a data frame. Raises RecommenderError."""
    return Runs.from_table(read_table(source, RUNS))


def write_runs(runs: Runs, path: str | Path) -> None:
    """Write `runs` to `path` (.csv or .parquet), atomically, without optional columns that are empty throughout.

    Raises InputError where the file cannot be written.
    """
    optional = [column.name for column in RUNS.columns if not column.required]
    empty = [name for name in optional if runs.frame[name].isna().all()]
    write_table(runs.frame.drop(columns=empty), path)


def append_run(path: str | Path, row: Mapping[str, object]) -> None:
    """Add one run to the table at `path`, which is created where there is none. New columns are added.

    The row and the table are validated first. A process killed at any instant leaves the old table or the new one.
    Raises RecommenderError, and leaves the table as it was.
    """
    new = read_table(pd.DataFrame([dict(row)], dtype=object), RUNS, name="new run")
    with locked(path):
        if Path(path).exists():
            old = read_table(path, RUNS)
            names = [*old, *(name for name in new if name not in old)]
            parts = [part.reindex(columns=names).astype(object) for part in (old, new)]
            new = read_table(pd.concat(parts, ignore_index=True), RUNS, name=str(path))
        replace_table(new, path)
