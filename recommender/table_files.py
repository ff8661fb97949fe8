"""Tables as files: CSV, Parquet or a data frame to Arrow columns of unchecked cells, and frames to files, atomically.

Only the form is checked here (UTF-8, balanced quotes, as many cells as columns); `recommender.tables` checks the cells.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from recommender.errors import InputError

MAX_BYTES = 2 * 1024**3
"""Largest file read, in bytes."""
MAX_ROWS = 10_000_000
"""Most rows in one table."""
LOCK_TIMEOUT_S = 60.0
"""Longest wait for another writer, in seconds."""

_FOREIGN = {  # first bytes of files people hand over by mistake
    b"PK": "looks like a spreadsheet or zip archive; export it as CSV",
    b"\x1f\x8b": "is gzip compressed; unpack it first",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"SQLite": "is an SQLite database; export the table as CSV",
}


@dataclass(frozen=True)
class RawTable:
    """A table before its cells are checked."""

    name: str
    """What the source is called in messages."""
    header: list[object]
    columns: list[Any]
    """One `pyarrow.ChunkedArray` a column; a CSV's hold text, an empty string where the cell is empty."""
    heading: str
    """Where the header is: `, line 1`, or empty where it has no line."""
    locate: Callable[[int], str]
    """Data row, counted from 0 -> where it is: `, line 3` of a CSV or `, row 2`."""

    def __len__(self) -> int:
        """Return the number of data rows."""
        return len(self.columns[0])


def shown(value: object, limit: int = 60) -> str:
    """Return `value` as it appears in a message: quoted, escaped to one line, cut to about `limit` characters."""
    quoted = repr(value[: limit + 1] if isinstance(value, str) else repr(value)[: limit + 1])
    return quoted if len(quoted) <= limit + 2 else f"{quoted[:limit]}...'"


def read_raw(source: str | Path | pd.DataFrame, what: str, name: str | None = None) -> RawTable:
    """Return the unchecked columns of `source`; `what` it should hold and `name` go into messages.

    A Parquet file is known by its suffix or its first bytes; any other file is read as CSV. Raises InputError.
    """
    if isinstance(source, pd.DataFrame):
        raw = _from_frame(source, name or "data frame")
    else:
        label = name or repr(str(source))[1:-1]
        data = _bytes(Path(source), what, label)
        is_parquet = Path(source).suffix.lower() in (".parquet", ".pq") or data.startswith(b"PAR1")
        raw = (_from_parquet if is_parquet else _from_csv)(data, what, label)
    if len(raw) > MAX_ROWS:
        raise InputError(f"{raw.name}: found {len(raw)} rows; allowed: at most {MAX_ROWS}")
    return raw


def _row(row: int) -> str:
    return f", row {row + 1}"


def _bytes(path: Path, what: str, name: str) -> bytes:
    """Return the content of a regular file or pipe."""
    expected = f"allowed: a CSV (UTF-8) or Parquet file holding a {what}"
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            found = "a directory" if stat.S_ISDIR(mode) else "a special file"
            raise InputError(f"{name}: found {found}; {expected}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else shown(str(error))
        raise InputError(f"{name}: cannot be read ({reason}); {expected}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{name}: found more than {MAX_BYTES} bytes; allowed: files of at most that size")
    return data


# Data frames


def _from_frame(frame: pd.DataFrame, name: str) -> RawTable:
    """Return a data frame's columns; its index is ignored."""
    header: list[object] = list(frame.columns)
    if not header:
        raise InputError(f"{name}: found no columns; allowed: at least the required ones")
    return RawTable(name, header, [_arrow(frame.iloc[:, i], name) for i in range(len(header))], "", _row)


def _arrow(series: pd.Series[Any], name: str) -> Any:
    """Return a series as Arrow; objects of mixed types become text, one by one."""
    array = None
    mixed = series.dtype == object and {type(value) for value in series} & {
        bool,
        np.bool_,
        bytes,
        pd.Timestamp,
        datetime,
    }
    if not mixed:  # else Arrow would take True for 1, bytes for text, and any time zone for the first
        with contextlib.suppress(pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
            array = pa.array(series, from_pandas=True)
    if array is None:
        cells: list[str | None] = []
        for row, value in enumerate(series.astype(object).tolist()):
            try:
                cells.append(_text(value))
            except (TypeError, ValueError) as error:
                where = f"{name}{_row(row)}, column {shown(series.name)}"
                kind = type(value).__name__
                raise InputError(f"{where}: found {_safely(value)} ({kind}); allowed: text or a number") from error
        array = pa.array(cells, pa.string())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _safely(value: object) -> str:
    """Return `shown(value)`, or a placeholder where the value cannot be written out."""
    try:
        return shown(value)
    except ValueError:
        return "a value too long to show"


def _text(value: object) -> str | None:
    """Return one object as text, None for missing; raise TypeError or ValueError where it has no text form."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        value.encode()  # lone surrogates have no UTF-8 form
        return value
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if abs(number) < 2**53 and number.is_integer() else repr(number)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, int | np.integer | Decimal | np.datetime64):
        return str(value)
    raise TypeError(type(value).__name__)


# Parquet


def _from_parquet(data: bytes, what: str, name: str) -> RawTable:
    """Return the columns of a Parquet file, without the index pandas may have added."""
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(pa.BufferReader(data))
        rows = file.metadata.num_rows
        if rows > MAX_ROWS:
            raise InputError(f"{name}: found {rows} rows; allowed: at most {MAX_ROWS}")
        table = file.read(use_threads=False)
        table.validate(full=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise anything from the decoder
        reason = f"not a readable Parquet file ({shown(str(error))})"
        raise InputError(f"{name}: {reason}; allowed: a Parquet file holding a {what}") from error
    kept = [i for i, label in enumerate(table.column_names) if not re.fullmatch(r"__index_level_\d+__", label)]
    if not kept:
        raise InputError(f"{name}: found no columns; allowed: a Parquet file holding a {what}")
    header = [table.column_names[i] for i in kept]
    return RawTable(name, header, [table.column(i) for i in kept], "", _row)


# CSV


def _from_csv(data: bytes, what: str, name: str) -> RawTable:
    """Return the columns of a CSV file: by Arrow where no cell is quoted, else by the csv module, strictly."""
    for magic, sentence in _FOREIGN.items():
        if data.startswith(magic):
            raise InputError(f"{name}, line 1: the file {sentence}; allowed: a CSV (UTF-8) holding a {what}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        _fail_encoding(data, name)
    if b"\0" in data:
        _fail_encoding(data, name)
    rows = _rows(text, name)
    first, header = next(rows, (1, []))
    if not header:
        raise InputError(f"{name}, line 1: found an empty file; allowed: a header line and the rows of a {what}")
    if len(header) == 1 and (mark := re.search("[;\t|]", header[0])):
        found = f"{shown(header[0])}, which looks separated by {shown(mark[0])}"
        raise InputError(f"{name}, line {first}, column 1: found {found}; allowed: comma separated")

    def locate(row: int) -> str:
        for i, (line, _) in enumerate(_rows(text, name)):
            if i == row + 1:
                return f", line {line}"
        return _row(row)

    columns = _fast_columns(data, len(header)) or _strict_columns(rows, header, name)
    return RawTable(name, list(header), columns, f", line {first}", locate)


def _rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, with the line it starts on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            where = f"{name}, line {line}: unbalanced quotes or an oversized cell ({error})"
            raise InputError(f"{where}; allowed: comma separated, quoted as in RFC 4180") from error
        if row is None:
            return
        if len(row) > 1 or (row and row[0].strip()):
            yield line, row


def _fast_columns(data: bytes, width: int) -> list[Any] | None:
    """Return the text columns below the header, or None where the csv module has to decide (quotes, ragged rows)."""
    if b'"' in data:
        return None
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data.removeprefix(b"\xef\xbb\xbf")),
            # Reader threads may abort a process that ends soon (apache/arrow 34314).
            read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={f"f{i}": pa.string() for i in range(width)}, null_values=[]
            ),
        )
    except pa.ArrowException:
        return None
    return [column.slice(1) for column in table.columns] if table.num_columns == width else None


def _strict_columns(rows: Iterator[tuple[int, list[str]]], header: list[str], name: str) -> list[Any]:
    """Return the text columns below the header; a row with more or fewer cells than the header is an error."""
    width, block = len(header), 100_000
    chunks: list[list[Any]] = [[] for _ in header]
    pending: list[list[str]] = []

    def flush() -> None:
        for i, cells in enumerate(zip(*pending, strict=True)):
            chunks[i].append(pa.array(cells, pa.string()))
        pending.clear()

    for line, row in rows:
        if len(row) != width:
            short = len(row) < width
            column = shown(header[len(row)].strip()) if short else width + 1
            found = f"{len(row)} cells" if short else f"{len(row)} cells, the first too many being {shown(row[width])}"
            where = f"{name}, line {line}, column {column}: found {found}"
            raise InputError(f"{where}; allowed: {width} cells as in the header, commas in a cell quoted")
        pending.append(row)
        if len(pending) == block:
            flush()
    flush()
    return [pa.chunked_array(parts, pa.string()) for parts in chunks]


def _fail_encoding(data: bytes, name: str) -> NoReturn:
    """Raise the error for the first cell that is not UTF-8 text."""
    header: list[str] = []
    for line, row in _rows(data.decode("utf-8-sig", "surrogateescape"), name):
        place = next((i for i, cell in enumerate(row) if re.search("[\0\udc80-\udcff]", cell)), None)
        if place is not None:
            column = shown(header[place].strip()) if place < len(header) else place + 1
            found = repr(row[place][:60].encode(errors="surrogateescape"))[1:]
            raise InputError(f"{name}, line {line}, column {column}: found {found}; allowed: UTF-8 text without NUL")
        header = header or row
    raise InputError(f"{name}: found bytes that are not UTF-8 text without NUL; allowed: UTF-8 text")


# Writing


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write `frame` as CSV or Parquet by the suffix of `path`, atomically; floats survive the round trip exactly.

    Missing values become empty cells, times ISO 8601. The bytes go to a temporary file of the same directory, reach the
    disk, and then replace `path`. Raises InputError where the suffix is another or the file cannot be written.
    """
    with locked(path):
        replace_table(frame, path)


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Let one thread at a time write tables in the directory of `path`, where the system has file locks.

    The lock ends with the process that holds it and leaves no file. Raises InputError after `LOCK_TIMEOUT_S`.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError, ValueError):
            import fcntl

            directory = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY)
            stack.callback(os.close, directory)
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _acquired(lambda: fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)):
                if time.monotonic() > deadline:
                    found = f"another process has been writing for {LOCK_TIMEOUT_S:g} s"
                    raise InputError(f"{repr(str(path))[1:-1]}: {found}; allowed: one writer at a time, try again")
                time.sleep(0.02)
        yield


def _acquired(lock: Callable[[], None]) -> bool:
    try:
        lock()
    except BlockingIOError:
        return False
    return True


def replace_table(frame: pd.DataFrame, path: str | Path) -> None:
    """As `write_table`, for a caller that holds the lock."""
    label = repr(str(path))[1:-1]
    try:
        target = Path(os.path.realpath(path))
        if target.suffix.lower() not in (".csv", ".parquet", ".pq"):
            raise InputError(f"{label}: cannot be written; allowed: a path ending in .csv or .parquet")
        if target.exists() and not target.is_file():
            raise InputError(f"{label}: cannot be written, it is not a regular file; allowed: a file")
        _replace_bytes(target, _csv(frame) if target.suffix.lower() == ".csv" else _parquet(frame))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else shown(str(error))
        raise InputError(f"{label}: cannot be written ({reason}); allowed: a file in a writable directory") from error


def _csv(frame: pd.DataFrame) -> bytes:
    frame = frame.copy()
    for name in frame.select_dtypes("datetimetz"):
        frame[name] = frame[name].map(_iso, na_action="ignore")
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _iso(moment: pd.Timestamp) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _replace_bytes(target: Path, data: bytes) -> None:
    """Replace the content of `target` in one step, keeping its permissions."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
