"""The file of a store: an SQLite database that several processes may use at once and that survives a kill at any instant.

A transaction that changes something begins with BEGIN IMMEDIATE, so writers come one after another, and ends with a
commit that has reached the disk (write-ahead log, synchronous=FULL). What is in the file is `recommender.store`'s.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from recommender.errors import InputError

STORE_VARIABLE = "RECOMMENDER_STORE"
APPLICATION = 0x52434D44
"""Marks an SQLite file as a store of this program (`PRAGMA application_id`)."""
VERSION = 2
"""Version of the schema below (`PRAGMA user_version`)."""
MIGRATIONS = {1: ("ALTER TABLE study ADD COLUMN command TEXT",)}
"""Version -> the statements that bring a store from it to the next, all in one transaction."""
BUSY_TIMEOUT_S = 60.0
"""Longest wait for another writer."""

SCHEMA = sa.MetaData()
STUDY = sa.Table(
    "study",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("strategy", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("counter", sa.Integer, nullable=False),
    sa.Column("command", sa.Text),  # since version 2: what `tune` runs
)
TABLES = sa.Table(
    "study_table",
    SCHEMA,
    sa.Column("study_id", sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("parquet", sa.LargeBinary, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
)
RUN = sa.Table(
    "run",
    SCHEMA,
    sa.Column("study_id", sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("configuration", sa.Text, nullable=False),
    sa.Column("row", sa.Text, nullable=False),
    sa.Column("told_at", sa.Float, nullable=False),
    sa.UniqueConstraint("study_id", "position"),
)
PENDING = sa.Table(
    "pending",
    SCHEMA,
    sa.Column("study_id", sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("configuration", sa.Text, nullable=False),
    sa.Column("ask", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)

_REASONS = {  # primary result code of SQLite -> what is the matter, and what to do
    sqlite3.SQLITE_BUSY: f"another process has been writing to it for {BUSY_TIMEOUT_S:g} s; try again",
    sqlite3.SQLITE_LOCKED: "another connection has it locked; try again",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its directory writable, or name another with --store",
    sqlite3.SQLITE_PERM: "it is read-only; make the file and its directory writable, or name another with --store",
    sqlite3.SQLITE_FULL: "the disk is full; free some space, then repeat: nothing was changed",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written (full, failing or over a quota?); nothing was changed",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its directory exists and is writable",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; name a store, or a file that does not exist yet",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a copy",
}


def store_path(path: str | Path | None = None) -> Path:
    """Return the store's file: `path`, else `RECOMMENDER_STORE`, else one in the user's data directory."""
    if path is not None or os.environ.get(STORE_VARIABLE):
        return Path(path if path is not None else os.environ[STORE_VARIABLE])
    import platformdirs

    return platformdirs.user_data_path("recommender") / "studies.db"


class StoreFile:
    """One SQLite file, opened for as long as a transaction lasts."""

    def __init__(self, path: str | Path | None = None, *, create: bool = False) -> None:
        """Open the store at `path` (default: `store_path()`); make it where there is none only if `create`.

        A store of an earlier version is brought to this one.

        Raises
        ------
        InputError
            For a file that is no store, is a store of a later version, or cannot be used; it is left as it was.
        """
        self.path = store_path(path)
        if not create and not self.path.exists():
            raise InputError(f"there is no store {self.path}; make one with: recommender study create")
        if create and path is None:
            with contextlib.suppress(OSError):  # opening will say what is the matter
                self.path.parent.mkdir(parents=True, exist_ok=True)
        # A connection is opened for each transaction: none outlives it, so threads and forks need no care.
        self._engine = sa.create_engine(sa.URL.create("sqlite", database=str(self.path)), poolclass=NullPool)
        sa.event.listen(self._engine, "connect", _configure)
        sa.event.listen(self._engine, "begin", _begin)
        self._prepare(create)

    def _prepare(self, create: bool) -> None:
        with self.transaction("BEGIN") as connection:
            application, version, empty = _identity(connection)
        if application != APPLICATION and not empty:
            raise InputError(f"{self.path} is an SQLite database of another program; name a store, or a new file")
        if empty and not create:
            raise InputError(f"the store {self.path} is empty; make a study with: recommender study create")
        if version > VERSION:
            raise InputError(
                f"the store {self.path} was written by a later version of this program (schema {version}; this one "
                f"reads up to {VERSION}); upgrade it, or name another file with --store"
            )
        if empty or version < VERSION:
            with self.transaction() as connection:
                _, version, empty = _identity(connection)  # another process may have been faster
                if empty:
                    SCHEMA.create_all(connection)
                    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION}")
                for step in range(VERSION if empty else version, VERSION):
                    for statement in MIGRATIONS[step]:
                        connection.exec_driver_sql(statement)
                connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
            # Kept in the file. Where another process reads at this instant it stays off, which is slower and as safe.
            with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(self.path)) as raw:
                raw.execute("PRAGMA journal_mode = WAL")

    @contextlib.contextmanager
    def transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sa.Connection]:
        """One transaction, committed on the disk when the block ends; errors of the store become one line."""
        try:
            with self._engine.connect().execution_options(begin=begin) as connection, connection.begin():
                yield connection
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            cause = getattr(error, "orig", None) or error
            code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            reason = _REASONS.get(code, str(cause))
            raise InputError(f"the store {self.path} cannot be used: {reason}") from error


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says, and nowhere else
    for pragma in (f"busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}", "foreign_keys = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options()["begin"])


def _identity(connection: sa.Connection) -> tuple[int, int, bool]:
    """Application, version of the schema, and whether the database is empty."""
    application, version, tables = (
        int(connection.exec_driver_sql(query).scalar_one())
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    return application, version, not (application or version or tables)
