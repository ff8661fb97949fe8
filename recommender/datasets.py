"""Public data sets: where they come from, how they are verified, how they become this project's tables.

None is part of the project. A descriptor (`datasets/<name>.toml`) says where the upstream files are and what the
normalised tables hash to; `fetch_dataset` brings the files (from the public address, or offline from a mirror
directory laid out as `OWNER/REPO/COMMIT/PATH` and `OWNER/REPO/COMMIT.tar.gz`), normalises them, verifies the tables
and keeps them in a cache. The tables are what is hashed, because archives are re-compressed upstream.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import tempfile
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from recommender.errors import InputError, MissingDataError, UnknownNameError, did_you_mean
from recommender.normalise import NORMALISERS, Files, table_csv
from recommender.resources import resource_dir

if TYPE_CHECKING:
    import pandas as pd

    from recommender.runs import Runs

MIRROR_VARIABLE = "RECOMMENDER_DATASETS_MIRROR"
CACHE_VARIABLE = "RECOMMENDER_CACHE"
MAX_ARCHIVE_BYTES = 2**30
"""No archive may unpack to more than this."""

_RAW_URL = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
_ARCHIVE_URL = "https://github.com/{repository}/archive/{commit}.tar.gz"


@dataclass(frozen=True)
class TableFacts:
    """What a normalised table must be."""

    rows: int
    """Number of rows."""
    sha256: str
    """SHA-256 of the table's CSV (see `normalise.table_csv`)."""


@dataclass(frozen=True)
class Descriptor:
    """One data set: where it is, whose it is, what to watch, and what it must normalise to."""

    name: str
    title: str
    repository: str
    """`OWNER/REPO` on GitHub."""
    commit: str
    """The upstream commit: 40 hexadecimal digits."""
    licence: str
    citation: str
    notes: tuple[str, ...]
    """What to watch when using it."""
    tables: Mapping[str, TableFacts]
    """`runs`, `candidates` or `figures` -> what it must be."""
    files: Mapping[str, str]
    """Upstream path -> SHA-256 of that file; empty where the data set is taken from the archive."""
    members: tuple[str, ...] = ()
    """Patterns of the paths taken from the commit's archive; empty where plain files are taken."""

    @property
    def urls(self) -> dict[str, str]:
        """Path in a mirror directory -> public address, of each file or of the archive."""
        where = {"repository": self.repository, "commit": self.commit}
        if self.members:
            return {f"{self.repository}/{self.commit}.tar.gz": _ARCHIVE_URL.format(**where)}
        top = f"{self.repository}/{self.commit}"
        return {f"{top}/{path}": _RAW_URL.format(**where, path=path) for path in sorted(self.files)}


@dataclass(frozen=True)
class Dataset:
    """A fetched data set; a table it does not have is `None`."""

    name: str
    runs: Runs | None
    candidates: pd.DataFrame | None
    figures: pd.DataFrame | None
    """Facts that are neither runs nor candidates (benchmark scores, spot statistics)."""
    files: Mapping[str, Path]
    """`runs`, `candidates` or `figures` -> its verified CSV in the cache."""


def descriptors() -> tuple[Descriptor, ...]:
    """Return the known data sets, by name."""
    return tuple(_read_descriptor(path) for path in sorted(resource_dir("datasets").glob("*.toml")))


def descriptor(name: str) -> Descriptor:
    """Return the data set called `name`; raises `UnknownNameError` with the nearest known name."""
    known = {entry.name: entry for entry in descriptors()}
    if name not in known:
        raise UnknownNameError(f"unknown data set '{name}'{did_you_mean(name, known)} (known: {', '.join(known)})")
    return known[name]


def _read_descriptor(path: Path) -> Descriptor:
    try:
        fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        fields["notes"] = tuple(fields["notes"])
        fields["tables"] = {name: TableFacts(**facts) for name, facts in fields["tables"].items()}
        fields.setdefault("files", {})
        fields["members"] = tuple(fields.get("members", ()))
        entry = Descriptor(**fields)
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise MissingDataError(f"the descriptor {path} cannot be used: {error!r}; reinstall the package") from error
    if bool(entry.files) == bool(entry.members) or entry.name not in NORMALISERS:
        raise MissingDataError(
            f"the descriptor {path} cannot be used: it needs either files or members, and a normaliser"
        )
    return entry


def fetch_dataset(
    name: str, *, mirror: str | Path | None = None, cache: str | Path | None = None, progress: bool = False
) -> Dataset:
    """Bring a data set, normalise it, verify it, and return its tables.

    Tables that are in the cache and verify are used as they are. Otherwise the upstream files come from `mirror` (or
    the environment's `RECOMMENDER_DATASETS_MIRROR`; the network is then never tried) or from the public address.
    `cache` (or `RECOMMENDER_CACHE`) replaces the user's cache directory; `progress` draws a bar on stderr while
    downloading. Two fetches at the same time are safe: every file appears whole or not at all.

    Raises `UnknownNameError` for an unknown name and `MissingDataError` when it cannot be found, read or verified.
    """
    entry = descriptor(name)
    mirror_dir = _mirror_dir(mirror)
    folder = cache_dir(cache) / "datasets" / entry.name / entry.commit[:12]
    files = {table: folder / f"{table}.csv" for table in entry.tables}
    try:
        if not all(_verifies(files[table], facts) for table, facts in entry.tables.items()):
            if mirror_dir is not None:
                sources = {relative: mirror_dir / relative for relative in entry.urls}
            else:
                sources = _download(entry, folder / "upstream", progress=progress)
            try:
                tables = _normalised(entry, sources)
            except MissingDataError:
                for path in sources.values() if mirror_dir is None else ():
                    path.unlink(missing_ok=True)
                raise
            for table, content in tables.items():
                write_atomic(files[table], content)
    except OSError as error:
        raise MissingDataError(f"data set '{name}' could not be brought to {folder}: {error}") from error
    return _load(entry.name, files)


def cache_dir(cache: str | Path | None = None) -> Path:
    """Return the cache directory: `cache`, else `RECOMMENDER_CACHE`, else the user's cache directory."""
    chosen = cache or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("recommender")


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def export_tables(dataset: Dataset, folder: str | Path) -> dict[str, Path]:
    """Copy the tables into `folder` (made if need be), each whole or not at all; return table name -> path."""
    copies = {table: Path(folder) / f"{table}.csv" for table in dataset.files}
    try:
        for table, path in copies.items():
            write_atomic(path, dataset.files[table].read_bytes())
    except OSError as error:
        raise InputError(f"the tables of '{dataset.name}' could not be written to {folder}: {error}") from error
    return copies


def _mirror_dir(mirror: str | Path | None) -> Path | None:
    chosen = mirror or os.environ.get(MIRROR_VARIABLE)
    if not chosen:
        return None
    path = Path(chosen).expanduser()
    if not path.is_dir():
        raise MissingDataError(
            f"the mirror {path} is not a directory: correct --mirror or {MIRROR_VARIABLE}, or unset it"
        )
    return path


def _verifies(path: Path, facts: TableFacts) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == facts.sha256
    except FileNotFoundError:
        return False


def _load(name: str, files: Mapping[str, Path]) -> Dataset:
    import pandas as pd

    from recommender.runs import read_runs
    from recommender.tables import CANDIDATES, read_table

    return Dataset(
        name=name,
        runs=read_runs(files["runs"]) if "runs" in files else None,
        candidates=read_table(files["candidates"], CANDIDATES) if "candidates" in files else None,
        figures=pd.read_csv(files["figures"]) if "figures" in files else None,
        files=files,
    )


def _normalised(entry: Descriptor, sources: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the verified CSV of each table; `sources` maps mirror paths to files on disk."""
    upstream = _archive_files(entry, sources) if entry.members else _plain_files(entry, sources)
    try:
        tables = {table: table_csv(rows) for table, rows in NORMALISERS[entry.name](upstream).items()}
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise _unusable(entry, sources, f"it does not have the expected layout ({error!r})") from error
    for table, facts in entry.tables.items():
        found = hashlib.sha256(tables[table]).hexdigest()
        if found != facts.sha256:
            wrong = f"its table '{table}' has SHA-256 {found[:12]}..., expected {facts.sha256[:12]}..."
            raise _unusable(entry, sources, wrong)
    return {table: tables[table] for table in entry.tables}


def _unusable(entry: Descriptor, sources: Mapping[str, Path], reason: str) -> MissingDataError:
    """Return the error for upstream files that are there but cannot be trusted, and what to do."""
    first = next(iter(sources.values()))
    where = first if len(sources) == 1 else first.parent
    mend = "fetch it again, from the public address or from a mirror that holds the commit's own files"
    return MissingDataError(f"data set '{entry.name}' from {where} was refused: {reason}; {mend}")


def _plain_files(entry: Descriptor, sources: Mapping[str, Path]) -> Iterator[tuple[str, bytes]]:
    for path, sha256 in sorted(entry.files.items()):
        source = sources[f"{entry.repository}/{entry.commit}/{path}"]
        content = _open(entry, source).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _unusable(entry, {path: source}, f"the SHA-256 of {path} is not the expected {sha256[:12]}...")
        yield path, content


def _open(entry: Descriptor, source: Path) -> Path:
    if not source.is_file():
        raise MissingDataError(
            f"data set '{entry.name}' needs {source}, which is not there: complete the mirror, or fetch without one"
        )
    return source


def _archive_files(entry: Descriptor, sources: Mapping[str, Path]) -> Files:
    (source,) = sources.values()
    try:
        with gzip.open(_open(entry, source)) as stream:
            yield from archive_members(stream, *entry.members)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _unusable(entry, sources, f"it is not a whole archive ({error})") from error
    except UnsafeArchiveError as error:
        raise _unusable(entry, sources, str(error)) from error


class UnsafeArchiveError(ValueError):
    """An archive has an entry that no data set needs and an attacker might want."""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes."""


class _Bounded:
    """A byte stream which refuses to yield more than `limit` bytes, headers and padding included."""

    def __init__(self, stream: Readable, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        content = self._stream.read(self._left + 1 if size < 0 else size)
        self._left -= len(content)
        if self._left < 0:
            raise UnsafeArchiveError("it unpacks to more than 1 GiB")
        return content


def archive_members(stream: Readable, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """Yield `(path, content)` of the files of an uncompressed tar that match a pattern, unpacking nothing to disk.

    A pattern's `*` stands for one part of a path, or for some of it. Paths are without the archive's top directory. The whole archive is refused (`UnsafeArchiveError`) at the first
    absolute path, `..`, symbolic or hard link, device, pipe or sparse file, or when its entries exceed 1 GiB.
    """
    depths = {pattern: len(PurePosixPath(pattern).parts) for pattern in patterns}
    total = 0
    bounded: Any = _Bounded(stream, MAX_ARCHIVE_BYTES)
    with tarfile.open(fileobj=bounded, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in member.name.split("/")[0]:
                raise UnsafeArchiveError(f"the path of its entry '{member.name}' leaves the archive")
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise UnsafeArchiveError(f"its entry '{member.name}' is neither a plain file nor a directory")
            total += member.size
            if member.size < 0 or total > MAX_ARCHIVE_BYTES:
                raise UnsafeArchiveError("it unpacks to more than 1 GiB")
            inner = PurePosixPath(*path.parts[1:])
            wanted = any(len(inner.parts) == depth and inner.match(pattern) for pattern, depth in depths.items())
            if member.isreg() and wanted:
                content = archive.extractfile(member)
                yield str(inner), content.read() if content is not None else b""


def _download(entry: Descriptor, folder: Path, *, progress: bool) -> dict[str, Path]:
    """Download what is not in `folder` yet; return mirror path -> file."""
    import pooch
    import requests

    downloader = pooch.HTTPDownloader(progressbar=_Bar(entry.name) if progress else False, timeout=60)
    hashes = {f"{entry.repository}/{entry.commit}/{path}": sha256 for path, sha256 in entry.files.items()}
    found: dict[str, Path] = {}
    for relative, url in entry.urls.items():
        name = PurePosixPath(relative).name
        try:
            with _quiet(pooch.get_logger()):
                path = pooch.retrieve(url, hashes.get(relative), fname=name, path=folder, downloader=downloader)
        except (requests.RequestException, ValueError) as error:
            raise MissingDataError(
                f"data set '{entry.name}' could not be downloaded from {url} ({error}): check the network, or fetch"
                f" from a mirror directory with --mirror or {MIRROR_VARIABLE}"
            ) from error
        found[relative] = Path(path)
    return found


@contextmanager
def _quiet(logger: Any) -> Iterator[None]:
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


class _Bar:
    """The progress bar `pooch` drives (`total`, `update`, `reset`, `close`), drawn on stderr."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

        self._progress = Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(),
                                  console=Console(stderr=True))  # fmt: skip
        self._name = name
        self._task = self._progress.add_task(name, total=None)
        self.total = 0

    def update(self, size: int) -> None:
        """Advance by `size` bytes."""
        self._progress.start()
        self._progress.update(self._task, total=self.total or None, advance=size)

    def reset(self) -> None:
        """Start again from nothing."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()
