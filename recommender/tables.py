"""Contract tables: a CSV file, a Parquet file or a data frame becomes a validated frame or one error, never a part.

Every cell is checked against its column before anything is returned. An error is one line that names the source, the
line (CSV, counted from 1 with the header) or row (Parquet and data frames, counted from 1), the column, the value and
what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.table_files import RawTable, read_raw, shown
from recommender.table_files import write_table as write_table

Kind = Literal["name", "text", "number", "integer", "choice", "timestamp", "number_or_text"]

MAX_CHARACTERS = 200
"""Longest name, text or column name."""

_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_TIMESTAMP = r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?)?"
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds from 1970 to the first and the last moment of the years 1 to 9999."""
_NOT_A_VALUE = frozenset({"nan", "inf", "infinity", "<na>", "nat"})
_TEXT = f"at most {MAX_CHARACTERS} printable characters that do not start with = + - @"
_ALLOWED: dict[str, str] = {
    "name": f"{_TEXT} and hold no / \\ or ..",
    "text": _TEXT,
    "number": "a finite number such as 93.5",
    "integer": "a whole number",
    "timestamp": "an ISO 8601 time such as 2024-05-01T12:00:00Z (UTC where no offset is given)",
    "number_or_text": f"a finite number, or {_TEXT}",
}


@dataclass(frozen=True)
class Column:
    """One column of a contract table: its name, what a cell may hold, and the sentence that says so."""

    name: str
    kind: Kind
    required: bool = False
    """The column must exist and, unless `blank`, every cell must be filled."""
    minimum: float | None = None
    """Smallest allowed number, inclusive."""
    maximum: float | None = None
    """Largest allowed number, inclusive."""
    above: float | None = None
    """Lower bound of the allowed numbers, exclusive."""
    choices: tuple[str, ...] = ()
    """The allowed words of a `choice`."""
    allowed: str = ""
    """What is allowed, with the unit, for the message; empty for the sentence of the kind."""
    blank: bool = False
    """Cells of a required column may be empty."""

    @property
    def sentence(self) -> str:
        """What is allowed in a cell."""
        return self.allowed or ", ".join(self.choices) or _ALLOWED[self.kind]


@dataclass(frozen=True)
class Prefix:
    """A family of columns: `input.` with kind number admits `input.size_gib` and any other `input.<name>`."""

    prefix: str
    kind: Kind


@dataclass(frozen=True)
class TableSchema:
    """A contract table: its columns, its families of columns and its key."""

    what: str
    """What the table is called in messages, e.g. `runs table`."""
    columns: tuple[Column, ...]
    prefixes: tuple[Prefix, ...] = ()
    key: tuple[str, ...] = ()
    """Columns whose combination is unique; `param.*` stands for every column of that family; empty for no key."""

    def column(self, name: str) -> Column | None:
        """Return the column called `name`, built from its prefix where it belongs to a family, or None."""
        for column in self.columns:
            if column.name == name:
                return column
        for family in self.prefixes:
            if name.startswith(family.prefix) and name != family.prefix and _is_text(name):
                return Column(name, family.kind)
        return None

    @property
    def sentence(self) -> str:
        """The allowed columns, required ones first."""
        ordered = sorted(self.columns, key=lambda column: not column.required)
        names = [f"{column.name} (required)" if column.required else column.name for column in ordered]
        return ", ".join([*names, *(f"{family.prefix}<name>" for family in self.prefixes)])


_NODES = Column(
    "node_count", "integer", required=True, minimum=1, maximum=100_000, allowed="a whole number from 1 to 100000"
)
_VCPUS = Column("vcpus", "number", above=0, maximum=10_000, allowed="a number of vCPUs above 0, at most 10000")
_PRICE = Column(
    "usd_per_hour", "number", above=0, maximum=100_000, allowed="US dollars an hour above 0, at most 100000"
)

RUNS = TableSchema(
    "runs table",
    (
        Column("workload", "name", required=True),
        Column("instance_type", "name", required=True),
        _NODES,
        Column(
            "runtime_s",
            "number",
            required=True,
            above=0,
            maximum=315_576_000,
            allowed="seconds above 0, at most 315576000 (ten years)",
        ),
        Column("status", "choice", choices=("completed", "failed", "timed_out")),
        Column("application", "name"),
        Column("region", "name"),
        Column("purchase_option", "name"),
        Column(
            "cost_usd",
            "number",
            minimum=0,
            maximum=1e9,
            allowed="US dollars from 0 to 1e9, empty where unknown",
        ),
        Column("started_at", "timestamp"),
        _VCPUS,
        Column("cpu_model", "text"),
    ),
    (Prefix("input.", "number"), Prefix("param.", "number_or_text"), Prefix("metric.", "number")),
)
"""One row a measured execution."""

CANDIDATES = TableSchema(
    "candidates table",
    (
        Column("instance_type", "name", required=True),
        _NODES,
        _PRICE,
        _VCPUS,
        Column("memory_gib", "number", above=0, maximum=1e6, allowed="GiB above 0, at most 1e6"),
    ),
    (Prefix("param.", "number_or_text"), Prefix("feature.", "number_or_text")),
    key=("instance_type", "node_count", "param.*"),
)
"""One row a configuration that may be rented; `usd_per_hour` is per node."""

PRICES = TableSchema(
    "prices table",
    (
        Column("instance_type", "name", required=True),
        Column("region", "name", required=True, blank=True),
        Column("purchase_option", "name", required=True, blank=True),
        Column(_PRICE.name, "number", required=True, above=0, maximum=_PRICE.maximum, allowed=_PRICE.allowed),
    ),
    key=("instance_type", "region", "purchase_option"),
)
"""One row a price per node; an empty region means every region, an empty purchase option means on-demand."""


def read_table(source: str | Path | pd.DataFrame, schema: TableSchema, *, name: str | None = None) -> pd.DataFrame:
    """Return the validated table of `source`, its columns in the order of the source.

    Names, texts and choices are `object` columns of str with None for missing; numbers float64 with NaN for missing;
    required integers int64; timestamps `datetime64[us, UTC]`; number-or-text columns are numbers if every filled cell
    is one, else text. Surrounding white space is dropped. `name` replaces the source's name in messages. The source
    is not modified.

    Raises InputError, or UnknownNameError for an unknown column.
    """
    raw = read_raw(source, schema.what, name)
    columns = _checked_header(raw, schema)
    data = {column.name: _converted(raw, cells, column) for column, cells in zip(columns, raw.columns, strict=True)}
    frame = pd.DataFrame(data, index=pd.RangeIndex(len(raw)))
    _check_key(raw, frame, schema)
    return frame


def _fail(raw: RawTable, row: int, column: Column, value: object) -> NoReturn:
    """Raise the error for one cell; `value` None is an empty cell."""
    found = "an empty cell" if value is None else shown(value)
    where = f"{raw.name}{raw.locate(row)}, column {shown(column.name)}"
    near = did_you_mean(str(value)[:60], column.choices)
    raise InputError(f"{where}: found {found}{near}; allowed: {column.sentence}")


def _checked_header(raw: RawTable, schema: TableSchema) -> list[Column]:
    """Return the schema's column of each header cell, or raise for unknown, repeated or missing columns."""
    found: dict[str, Column] = {}
    known = [column.name for column in schema.columns]
    for place, label in enumerate(raw.header, start=1):
        name = label.strip() if isinstance(label, str) else str(label)
        column = schema.column(name) if isinstance(label, str) else None
        if not name:
            where = f"{raw.name}{raw.heading}, column {place}"
            raise InputError(f"{where}: found no column name (a trailing comma, an index?); allowed: {schema.sentence}")
        where = f"{raw.name}{raw.heading}, column {shown(name)}"
        if column is None:
            start = name[:60]
            tail = start.split(".", 1)[-1]
            families = [f.prefix + tail for f in schema.prefixes if _is_text(name) and not name.startswith(f.prefix)]
            near = did_you_mean(start, [*known, *(families if "." in start else families[:1])])
            headed = any(isinstance(other, str) and schema.column(other.strip()) for other in raw.header)
            problem = f"unknown column of a {schema.what}{near}" if headed else "no known column in the header"
            raise UnknownNameError(f"{where}: {problem}; allowed: {schema.sentence}")
        if column.name in found:
            raise InputError(f"{where}: the column appears twice; allowed: each column once")
        found[column.name] = column
    for column in schema.columns:
        if column.required and column.name not in found:
            where = f"{raw.name}{raw.heading}, column {shown(column.name)}"
            raise InputError(f"{where}: missing from the header; allowed: {schema.sentence}")
    return list(found.values())


def _converted(raw: RawTable, cells: Any, column: Column) -> pd.Series[Any]:
    """Return one column in its canonical dtype, or raise for its first bad cell."""
    cells = _plain(raw, cells, column)
    if column.required and not column.blank and cells.null_count:
        _fail(raw, pc.index(pc.is_null(cells), True).as_py(), column, None)
    if column.kind in ("number", "integer") or pa.types.is_floating(cells.type):
        return _numbers(raw, cells, column)
    if column.kind == "timestamp":
        return _timestamps(raw, cells, column)
    if column.kind == "number_or_text" and pc.all(_matches_number(cells)).as_py() is not False:
        return _numbers(raw, cells, column)
    allows: Callable[[str], bool] = column.choices.__contains__ if column.choices else _RULES[column.kind]
    bad = next((value for value in cells.unique().to_pylist() if value is not None and not allows(value)), None)
    if bad is not None:
        _fail(raw, pc.index(cells, bad).as_py(), column, bad)
    return pd.Series(cells.to_numpy(), dtype=object)


def _plain(raw: RawTable, cells: Any, column: Column) -> Any:
    """Return cells of any Arrow type as trimmed strings; as float64, or UTC times, where both they and the column are."""
    kind = cells.type
    try:
        if pa.types.is_dictionary(kind):
            cells = cells.cast(kind.value_type)
            kind = cells.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            if column.kind in ("number", "integer", "number_or_text"):
                cells = cells.cast(pa.float64(), safe=False)
                return pc.if_else(pc.is_nan(cells), None, cells)
            if pa.types.is_floating(kind):
                cells = pc.if_else(pc.is_nan(cells), None, cells)
        elif pa.types.is_temporal(kind):
            cells = cells.cast(pa.timestamp("us"), safe=False) if pa.types.is_date(kind) else cells
            cells = cells.cast(pa.timestamp("us", "UTC"), safe=False)
            if column.kind == "timestamp" and _in_years(cells):
                return cells
        cells = pc.utf8_trim_whitespace(cells.cast(pa.string()))
    except (pa.ArrowException, ValueError) as error:
        where = f"{raw.name}{raw.heading}, column {shown(column.name)}"
        raise InputError(f"{where}: found cells of type {shown(str(kind))}; allowed: {column.sentence}") from error
    return pc.if_else(pc.equal(cells, ""), None, cells)


def _matches_number(cells: Any) -> Any:
    return pc.match_substring_regex(cells, _NUMBER)


def _numbers(raw: RawTable, cells: Any, column: Column) -> pd.Series[Any]:
    """Return numbers as float64, required integers as int64, within the column's limits."""
    if not pa.types.is_floating(cells.type):
        row = pc.index(_matches_number(cells), False).as_py()
        if row >= 0:
            _fail(raw, row, column, cells[row].as_py())
    values: npt.NDArray[np.float64] = np.array(cells.cast(pa.float64()).to_numpy(), dtype=np.float64)
    bad = np.isinf(values)
    if column.kind == "integer":
        bad |= ~np.isnan(values) & (values != np.floor(values))
    if column.minimum is not None:
        bad |= values < column.minimum
    if column.maximum is not None:
        bad |= values > column.maximum
    if column.above is not None:
        bad |= values <= column.above
    if bad.any():
        row = int(bad.argmax())
        _fail(raw, row, column, cells[row].as_py())
    return pd.Series(values.astype(np.int64) if column.kind == "integer" and column.required else values)


def _in_years(cells: Any) -> bool:
    """Whether all times, in microseconds, are of the years 1 to 9999, which have a text as ISO 8601 writes it."""
    ends = pc.min_max(cells.cast(pa.int64()))
    first, last = ends["min"].as_py(), ends["max"].as_py()
    return first is None or (first >= _FIRST_US and last <= _LAST_US)


def _timestamps(raw: RawTable, cells: Any, column: Column) -> pd.Series[Any]:
    """Return times, or ISO 8601 texts, as UTC times to the microsecond; a text without an offset is UTC."""
    if pa.types.is_timestamp(cells.type):
        return pd.Series(cells.to_numpy()).dt.tz_localize("UTC")
    parsed: dict[str | None, np.datetime64] = {None: np.datetime64("NaT", "us")}
    for value in cells.unique().to_pylist():
        if value is None:
            continue
        try:
            if not re.fullmatch(_TIMESTAMP, value, re.ASCII):
                raise ValueError(value)
            time = datetime.fromisoformat(value)
            time = time.astimezone(UTC) if time.tzinfo else time
        except (ValueError, OverflowError):
            _fail(raw, pc.index(cells, value).as_py(), column, value)
        parsed[value] = np.datetime64(time.replace(tzinfo=None), "us")
    times = np.array([parsed[value] for value in cells.to_pylist()], dtype="datetime64[us]")
    return pd.Series(times).dt.tz_localize("UTC")


def _is_text(value: str) -> bool:
    """Whether `value` is printable, short, and no formula in a spreadsheet."""
    printable = len(value) <= MAX_CHARACTERS and value.isprintable()
    return printable and value[:1] not in ("=", "+", "-", "@") and value.lower() not in _NOT_A_VALUE


def _is_name(value: str) -> bool:
    """Whether `value` is a text that no file system takes for a path."""
    return _is_text(value) and not any(part in value for part in ("/", "\\", "..")) and value != "."


def _is_number_or_text(value: str) -> bool:
    return math.isfinite(float(value)) if re.fullmatch(_NUMBER, value) else _is_text(value)


_RULES: dict[str, Callable[[str], bool]] = {"name": _is_name, "text": _is_text, "number_or_text": _is_number_or_text}


def _check_key(raw: RawTable, frame: pd.DataFrame, schema: TableSchema) -> None:
    """Raise where two rows share the schema's key."""
    names = [str(name) for name in frame]
    key = [name for name in names if name in schema.key or f"{name.split('.', 1)[0]}.*" in schema.key]
    repeated = frame.duplicated(key) if key else pd.Series(dtype=bool)
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        same = frame[key].iloc[: row + 1].duplicated(keep="last").to_numpy().nonzero()[0]
        values = ", ".join(str(value) for value in frame[key].iloc[row])
        where = f"{raw.name}{raw.locate(row)}, column {shown(' + '.join(key))}"
        first = raw.locate(int(same[-1])).removeprefix(", ")
        raise InputError(f"{where}: found {shown(values)} again, as in {first}; allowed: each combination once")
