"""Archives: runs of past workloads under a name, one Parquet file each, with where every row came from.

A file holds the runs table and, for each row, `source` (what it was read from), `licence` (under which it may be used) and
`added_at`. Files are replaced atomically, one writer at a time.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from recommender.errors import InputError, InsufficientEvidenceError, RecommenderError, UnknownNameError, did_you_mean
from recommender.models.archive import NOTHING_LEFT, Archived, archived, listed
from recommender.problem import Problem, build_problem, empty_runs
from recommender.runs import Runs, read_runs
from recommender.table_files import locked, replace_table, write_table
from recommender.tables import RUNS, Column, read_table
from recommender.units import counted

ARCHIVES_VARIABLE = "RECOMMENDER_ARCHIVES"
NAME = r"[\w][\w.+-]{0,99}"
PROVENANCE = ("source", "licence", "added_at")
SCHEMA = replace(
    RUNS,
    what="archive",
    columns=(
        *RUNS.columns,
        Column("source", "text", required=True),
        Column("licence", "text", required=True, blank=True),
        Column("added_at", "timestamp", required=True),
    ),
)
LONGEST_HEADER = 2**20
"""Bytes of a CSV's first line that are looked at."""


def archives_path(path: str | Path | None = None) -> Path:
    """Return the store's directory: `path`, else `RECOMMENDER_ARCHIVES`, else one in the user's data directory."""
    if path is not None or os.environ.get(ARCHIVES_VARIABLE):
        return Path(path if path is not None else os.environ[ARCHIVES_VARIABLE])
    import platformdirs

    return platformdirs.user_data_path("recommender") / "archives"


@dataclass(frozen=True, eq=False)
class Archive:
    """One archive, as it is kept."""

    name: str
    runs: Runs
    provenance: pd.DataFrame
    """source, licence and added_at of each run."""

    def sources(self) -> pd.DataFrame:
        """One row a source: source, licence, added_at, runs, workloads."""
        table = self.provenance.assign(workload=self.runs.frame["workload"])
        groups = table.groupby(list(PROVENANCE), dropna=False, sort=True)["workload"]
        return groups.agg(runs="size", workloads="nunique").reset_index()

    def table(self) -> pd.DataFrame:
        """The runs with their provenance; optional columns that are empty throughout left out."""
        frame = pd.concat([self.runs.frame, self.provenance], axis=1)
        needed = {column.name for column in SCHEMA.columns if column.required}
        return frame.drop(columns=[c for c in frame if c not in needed and frame[c].isna().all()])


class Archives:
    """The archives of one directory."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Name the directory (default: `archives_path()`); it is made when the first archive is added."""
        self.path = archives_path(path)

    def names(self) -> list[str]:
        """Return the names of all archives, sorted."""
        return sorted(file.stem for file in self.path.glob("*.parquet") if file.is_file()) if self.path.is_dir() else []

    def open(self, name: str) -> Archive:
        """Return an archive. Raises UnknownNameError, and InputError for a file that cannot be read."""
        if name not in self.names():
            known = self.names()
            have = ", ".join(known) or "none"
            raise UnknownNameError(
                f"there is no archive {name!r} in {self.path}{did_you_mean(name, known)} (it holds: {have})"
            )
        try:
            return read_archive(self._file(name))
        except RecommenderError as error:
            raise InputError(
                f"archive {name} cannot be read: {error}; put a copy in its place, or remove it: recommender archive remove {name}"
            ) from error

    def add(
        self,
        name: str,
        source: str | Path,
        *,
        licence: str | None = None,
        label: str | None = None,
        again: bool = False,
    ) -> Archive:
        """Add the runs of a table to an archive, which is made where there is none; return the archive.

        The rows of an archive that was exported keep where they came from: `label` and, where none is stated, `licence`
        take its place.

        Parameters
        ----------
        licence
            Under which the runs may be used; None: not stated.
        label
            What the source is called; None: its file's name.
        again
            Replace the runs that came from this source before, instead of refusing.

        Raises
        ------
        InputError
            For a name that is none, an unreadable table, a source that is there already, and runs of which nothing
            believable would be left beside those that are there. The archive then stays as it was.
        """
        if not re.fullmatch(NAME, name):
            raise InputError(f"{name!r} cannot name an archive; letters, digits and . _ + - are allowed, at most 100")
        exported = read_archive(Path(source)) if _has_provenance(Path(source)) else None
        runs = exported.runs if exported else read_runs(source)
        if not len(runs):
            raise InputError(f"{source} holds no runs: there is nothing to add")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the archives' directory {self.path} cannot be made ({error.strerror})") from error
        now = pd.Timestamp(datetime.now(UTC)).floor("s")
        new = runs.frame.assign(source=label or Path(source).name, licence=licence, added_at=now)
        if exported:
            kept = exported.provenance
            stated = kept["licence"].where(kept["licence"].notna(), licence)
            new = new.assign(source=label or kept["source"], licence=stated, added_at=kept["added_at"])
        with locked(self._file(name)):
            if name in self.names():
                old = self.open(name).table()
                known = old["source"].isin(new["source"])
                if known.any() and not again:
                    again_from = ", ".join(map(repr, old.loc[known, "source"].unique()))
                    raise InputError(
                        f"archive {name} already holds {counted(int(known.sum()), 'run')} from {again_from}; replace them with --replace, or "
                        "name this source otherwise with --source"
                    )
                columns = [*old, *(c for c in new if c not in old)]
                parts = [part.reindex(columns=columns).astype(object) for part in (old[~known], new)]
                new = pd.concat(parts, ignore_index=True)
            made = _split(read_table(new, SCHEMA, name=f"archive {name}"), name)
            if not len(made.runs.completed):
                raise InputError(
                    f"{source} was not added to archive {name}, in which no run would have completed: nothing can be learnt from "
                    "failures alone; add them with runs that completed"
                )
            _, unusable = looked_through(of_all(made.runs))
            if unusable.startswith(NOTHING_LEFT):
                raise InputError(
                    f"{source} was not added to archive {name}, which would be of no use ({unusable}); are both in seconds, and "
                    "of the same jobs? Mend the table, add it under another name, or see: recommender archive remove"
                )
            replace_table(made.table(), self._file(name))
        return self.open(name)

    def remove(self, name: str, *, source: str | None = None, workload: str | None = None) -> Runs:
        """Remove an archive, or its runs from one source, or of one workload, or both; return the runs removed.

        An archive of which no run is left is gone. One whose file cannot be read goes as a whole, and returns no runs.

        Raises
        ------
        UnknownNameError
            For an archive, a source or a workload that is not there.
        InputError
            For a part of an archive whose file cannot be read.
        """
        with locked(self._file(name)) if self.path.is_dir() else contextlib.nullcontext():
            try:
                archive = self.open(name)
            except InputError:
                if source is not None or workload is not None:
                    raise
                self._file(name).unlink()
                return empty_runs()
            gone = np.ones(len(archive.runs), dtype=bool)
            for what, wanted, column in (
                ("source", source, archive.provenance["source"]),
                ("workload", workload, archive.runs.frame["workload"]),
            ):
                if wanted is None:
                    continue
                if wanted not in (known := list(map(str, column.unique()))):
                    near = did_you_mean(wanted, known)
                    raise UnknownNameError(
                        f"archive {name} has no {what} {wanted!r}{near} (it holds {listed(np.array(known, dtype=object))})"
                    )
                gone &= (column == wanted).to_numpy()
            if not gone.any():
                raise UnknownNameError(f"archive {name} has no runs of workload {workload!r} from source {source!r}")
            if gone.all():
                self._file(name).unlink()
            else:
                left = archive.table()[~gone].reset_index(drop=True)
                replace_table(_split(read_table(left, SCHEMA, name=f"archive {name}"), name).table(), self._file(name))
        return Runs(archive.runs.frame[gone].reset_index(drop=True))

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.parquet"


def read_archive(path: Path) -> Archive:
    """Return the archive of a file that `Archives.add` or `export` wrote. Raises RecommenderError."""
    return _split(read_table(path, SCHEMA), path.stem)


def _split(frame: pd.DataFrame, name: str) -> Archive:
    return Archive(name, Runs.from_table(frame), frame[list(PROVENANCE)])


def named_or_table(source: str | Path, store: str | Path | None = None) -> Runs | Path:
    """What `--archive` means: a runs table, the file of an archive, or the name of one in the store.

    Raises UnknownNameError for what is none of them.
    """
    path = Path(source)
    archives = Archives(store)
    known = archives.names()
    # A data set that was fetched leaves a directory of its name, which is no table.
    if path.exists() and not (path.is_dir() and str(source) in known):
        return read_archive(path).runs if _has_provenance(path) else path
    if str(source) in known:
        return archives.open(str(source)).runs
    raise UnknownNameError(
        f"--archive {source}: there is no such file, and no archive of that name in {archives.path}"
        f"{did_you_mean(str(source), known)} (it holds: {', '.join(known) or 'none'})"
    )


def _has_provenance(path: Path) -> bool:
    """Whether a file has the columns of an exported archive; what cannot be read has none."""
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():  # a pipe can be read once only
        return False
    try:
        with path.open("rb") as file:
            first = file.readline(LONGEST_HEADER)
        if first.startswith(b"PAR1"):
            return set(PROVENANCE) <= set(pq.read_schema(path).names)
        header = next(csv.reader([first.decode("utf-8-sig")]), [])
        return set(PROVENANCE) <= {name.strip() for name in header}
    except (OSError, UnicodeError, csv.Error, pa.ArrowException):
        return False


def export(archive: Archive, path: str | Path, *, plain: bool = False) -> None:
    """Write an archive as CSV or Parquet; `plain`: as a runs table, without the provenance of its rows."""
    frame = archive.table()
    write_table(frame.drop(columns=list(PROVENANCE)) if plain else frame, path)


def of_all(runs: Runs) -> Problem:
    """The problem whose archive these runs are, and whose candidates all configurations that were ever run."""
    ran = runs.frame[["instance_type", "node_count", *runs.params]].drop_duplicates(ignore_index=True)
    return build_problem(None, archive=[runs], candidates=ran, objective="runtime")[0]


def looked_through(problem: Problem) -> tuple[Archived | None, str]:
    """What is believable of a problem's archive; None where nothing is, and why ('': no run completed)."""
    if problem.archive is None or not len(problem.archive.completed):
        return None, ""
    try:
        return archived(problem), ""
    except InsufficientEvidenceError as error:
        return None, str(error)
