"""Finished episodes of an evaluation kept on disk, so that an interrupted one continues."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from recommender.errors import InputError

Row = dict[str, Any]
Key = tuple[str, str, int]
"""Strategy, workload and seed of an episode."""

SYNC_S = 1.0
"""Finished episodes reach the disk at least this often; the operating system has them at once."""
_HEADER = "evaluation"


class Checkpoint:
    """Finished episodes beside a results file: a line that says of which evaluation, then a JSON line an episode.

    A process killed at any instant leaves whole lines and at most one torn one at the end, which is dropped.
    """

    def __init__(self, out: Path, identity: Mapping[str, str], *, restart: bool = False) -> None:
        if out.suffix.lower() not in (".csv", ".parquet", ".pq"):
            raise InputError(f"{str(out)!r}: cannot be written; allowed: a path ending in .csv or .parquet")
        self.path = out.with_name(f"{out.name}.partial")
        self.finished: dict[Key, list[Row]] = {}
        self._identity, self._restart = dict(identity), restart
        self._synced = time.monotonic()

    def __enter__(self) -> Checkpoint:
        """Open, lock, and read what is there."""
        try:
            self._file: IO[bytes] = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            raise InputError(
                f"{str(self.path)!r}: cannot be written ({error.strerror}); finished episodes are kept there"
            ) from error
        try:
            self._lock()
            whole = 0 if self._restart else self._read()
            self._file.seek(whole)
            self._file.truncate()
            if not whole:
                self._write({_HEADER: self._identity})
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close; what was appended stays."""
        self._file.close()

    def append(self, episodes: Mapping[Key, list[Row]]) -> None:
        """Keep finished episodes."""
        for key, rows in episodes.items():
            self._write({"key": key, "rows": rows})

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, allow_nan=False).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _lock(self) -> None:
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"{str(self.path)!r} is in use: another process is running an evaluation with this --out"
                ) from error

    def _read(self) -> int:
        """Take over the finished episodes; return the length in bytes of what is whole, 0 for no header or a torn one."""
        start = json.dumps({_HEADER: 0}).encode()[:-2]
        header = self._file.readline()
        if start.startswith(header[: len(start)]) and not header.endswith(b"\n"):
            return 0
        self._compare(_parsed(header))
        whole = len(header)
        for line in self._file:
            content = _parsed(line)
            if content is None:
                break
            name, workload, seed = content["key"]
            self.finished[name, workload, seed] = content["rows"]
            whole += len(line)
        return whole

    def _compare(self, header: dict[str, Any] | None) -> None:
        known = (header or {}).get(_HEADER) or {}
        if differing := [name for name in self._identity if known.get(name) != self._identity[name]]:
            raise InputError(
                f"{str(self.path)!r} holds finished episodes of another evaluation (it differs in: {', '.join(differing)}); "
                "give the same tables and options to continue it, another --out, or --restart to throw them away"
            )


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a whole line; None for a torn or damaged one."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
