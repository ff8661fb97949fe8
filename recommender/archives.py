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
import numpy.typing as npt
import pandas as pd

from recommender.errors import InputError, InsufficientEvidenceError, RecommenderError, UnknownNameError, did_you_mean
from recommender.models import configuration_rows
from recommender.models.archive import CONTRADICTION, NOTHING_LEFT, Archived, archived, listed
from recommender.models.noted import among, billed, usual
from recommender.models.unusual import FEWEST
from recommender.problem import Problem, build_problem, empty_runs
from recommender.runs import Runs, read_runs, shared_names
from recommender.table_files import locked, replace_table, write_table
from recommender.tables import RUNS, Column, read_table

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
SAME = 3
"""Cells that two workloads must share, to the last digit, to be one workload under two names."""
SAME_SHARE = 0.8
"""Share of the cells both ran that must be the same for that."""
AGREEING = float(np.log(2.0))
"""Difference of ln(runtime) between repetitions from which on they are named."""


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
                        f"archive {name} already holds {int(known.sum())} runs from {again_from}; replace them with --replace, or "
                        "name this source otherwise with --source"
                    )
                columns = [*old, *(c for c in new if c not in old)]
                parts = [part.reindex(columns=columns).astype(object) for part in (old[~known], new)]
                new = pd.concat(parts, ignore_index=True)
            made = _split(read_table(new, SCHEMA, name=f"archive {name}"), name)
            _, unusable = _looked_through(made.runs)
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
    if path.exists():
        return read_archive(path).runs if _has_provenance(path) else path
    archives = Archives(store)
    known = archives.names()
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


@dataclass(frozen=True)
class Report:
    """What there is to know before trusting an archive."""

    runs: int
    incomplete: int
    """Runs that failed or were stopped."""
    workloads: int
    configurations: int
    coverage: float
    """Share of (workload at one input, configuration) cells with a completed run."""
    thin: int
    """Workloads, each at one input, that completed on fewer than two configurations: nothing can be learnt from them."""
    problems: tuple[str, ...]
    """Sentences: other units, outliers, contradictions, one workload under two names, no licence."""


def check(archive: Archive) -> Report:
    """Look an archive through, on all configurations that were ever run."""
    frame = archive.runs.frame
    recorded = _recorded(archive.runs)
    problems = list[str]()
    looked, unusable = _looked_through(archive.runs)
    if looked is not None:
        y = looked.cells.log_runtime
        problems += [*(sentence.replace("of the archive ", "") for sentence in looked.warnings), *looked.cells.said]
        if archive.runs.frame["workload"].nunique() < FEWEST:
            problems.append(
                f"fewer than {FEWEST} workloads: other units and outliers cannot be told from real differences"
            )
        names = looked.cells.names[looked.cells.workload]
        problems += [*among(looked), *_units(archive.runs), *_repetitions(archive.runs)]
    elif unusable:
        done = archive.runs.completed
        row, log_t = configuration_rows(_of_all(archive.runs), done), np.log(done["runtime_s"])
        table = pd.pivot_table(done.assign(row=row, log_t=log_t), "log_t", "workload", "row")
        y, names = table.reindex(columns=range(len(recorded))).to_numpy(float), table.index.to_numpy(object)
        problems += [f"{unusable}; recommender archive remove takes runs out", *_units(archive.runs)]
    else:
        y, names = np.full((1, len(recorded)), np.nan), np.array([], dtype=object)
        problems.append("no run completed: nothing can be learnt from it")
    filled = np.isfinite(y)
    problems += _twins(y, names)
    of = archive.provenance["source"].to_numpy()
    problems += shared_names([Runs(frame[of == source].reset_index(drop=True)) for source in dict.fromkeys(of)])
    unlicensed = archive.provenance["licence"].isna()
    if unlicensed.any():
        sources = ", ".join(map(str, archive.provenance.loc[unlicensed, "source"].unique()))
        problems.append(f"{int(unlicensed.sum())} runs state no licence (from {sources})")
    return Report(
        runs=len(frame),
        incomplete=int((frame["status"] != "completed").sum()),
        workloads=frame["workload"].nunique(),
        configurations=len(recorded),
        coverage=float(filled.mean()),
        thin=int((filled.sum(axis=1) < 2).sum()),
        problems=tuple(problems),
    )


def _recorded(runs: Runs) -> pd.DataFrame:
    """All configurations that were ever run."""
    return runs.frame[["instance_type", "node_count", *runs.params]].drop_duplicates(ignore_index=True)


def _of_all(runs: Runs) -> Problem:
    """The problem whose candidates are those."""
    return build_problem(None, archive=[runs], candidates=_recorded(runs), objective="runtime")[0]


def _looked_through(runs: Runs) -> tuple[Archived | None, str]:
    """What is believable of an archive on all its configurations; None where nothing is, and why ('': no run completed)."""
    if not len(runs.completed):
        return None, ""
    try:
        return archived(_of_all(runs)), ""
    except InsufficientEvidenceError as error:
        return None, str(error)


def _twins(y: npt.NDArray[np.float64], names: npt.NDArray[np.object_]) -> list[str]:
    """Workloads that took the same time, to the last digit, nearly wherever both ran."""
    u, i = np.nonzero(np.isfinite(y))
    cells = pd.DataFrame({"u": u, "cell": [f"{c} {v:.12g}" for c, v in zip(i, y[u, i], strict=True)]})
    often = cells["cell"].map(cells["cell"].value_counts())
    cells = cells[(often > 1) & (often <= 50)]
    both = cells.merge(cells, on="cell")
    both = both[both["u_x"] < both["u_y"]]
    pairs, shared = np.unique(both[["u_x", "u_y"]].to_numpy(), axis=0, return_counts=True)
    found = []
    for (a, b), same in zip(pairs[shared >= SAME], shared[shared >= SAME], strict=True):
        common = int((np.isfinite(y[a]) & np.isfinite(y[b])).sum())
        if same >= SAME_SHARE * common and names[a] != names[b]:
            where = f"all {common}" if same == common else f"{same} of the {common}"
            found.append(
                f"{names[a]} and {names[b]} took the same time on {where} configurations both ran: one workload?"
            )
    return found


def _units(runs: Runs) -> list[str]:
    """What shows another unit without a comparison of workloads."""
    return [*billed(_of_all(runs), runs), *usual(runs)]


def _repetitions(runs: Runs) -> list[str]:
    """Workloads with repetitions that differ more than twofold, and not so much that they are left out."""
    frame = runs.completed
    keys = ["workload", "instance_type", "node_count", "vcpus", *runs.inputs, *runs.params]
    log_t = pd.Series(np.log(frame["runtime_s"].to_numpy(float)), index=frame.index)
    groups = log_t.groupby([frame[k] for k in keys], dropna=False)
    apart = groups.max() - groups.min()
    apart = apart[(apart > AGREEING) & (apart <= CONTRADICTION)]
    if not len(apart):
        return []
    names = listed(apart.index.get_level_values(0).to_numpy(object))
    how = f"differ up to {np.exp(apart.max()):.1f} x: their mean is used; is an input missing that tells them apart?"
    return [f"{len(apart)} configurations of {names} have repetitions that {how}"]
