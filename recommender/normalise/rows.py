"""What a normaliser reads and returns, and the bytes that are hashed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
Files = Iterable[tuple[str, bytes]]
"""`(path, content)`, the path relative to the root of the upstream repository."""
Tables = dict[str, list[Row]]
"""`runs`, `candidates` or `figures` -> its rows, each with the same columns; None is a missing value."""

BYTES_PER_GIB = 2**30


def table_csv(rows: list[Row]) -> bytes:
    """Return `rows` as the CSV whose SHA-256 a descriptor states: UTF-8, LF, shortest exact floats, empty = missing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
