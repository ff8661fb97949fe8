"""Where studies are kept, as rows: what was asked, what was told, what is pending.

Every transaction is short: what takes time, a strategy's choice, is made on a snapshot before and then claimed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from recommender.candidates import Configuration
from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.recommendation import NextRun
from recommender.store_file import PENDING, RUN, STUDY, TABLES, StoreFile

NAME = r"[\w][\w .:@+-]{0,99}"
"""What a study, and a run told under a name of its own, may be called."""


@dataclass(frozen=True, kw_only=True)
class StoredStudy:
    """What a study is, as it was created."""

    key: int
    """Its row in the store."""
    name: str
    strategy: str
    settings: Mapping[str, Any]
    """What is asked, in plain values."""
    tables: Mapping[str, pd.DataFrame]
    """The tables it was created with, by kind."""
    created_at: float
    """Seconds since 1970."""
    command: Mapping[str, Any] | None = None
    """What measures a configuration, in plain values; None when nothing was ever run from here."""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A configuration that a worker was given to measure."""

    id: str
    """Name of the run, under which it is told."""
    run: NextRun
    """What to measure, and what was expected of it when it was asked for."""
    inputs: Mapping[str, float]
    """The job's input to measure it at, by column name."""
    worker: str
    asked_at: float
    """Seconds since 1970."""
    expires_at: float
    """Seconds since 1970; from then on the configuration may be given to somebody else."""


@dataclass(frozen=True)
class Snapshot:
    """Everything a study has learnt, at one instant."""

    told: Mapping[str, Mapping[str, Any]]
    """Run name -> row of the runs table, in the order told."""
    pending: tuple[Pending, ...]
    """In the order asked, those whose lease has expired included."""
    at: float
    """Seconds since 1970."""

    @property
    def live(self) -> tuple[Pending, ...]:
        """The pending runs whose lease has not expired."""
        return tuple(p for p in self.pending if p.expires_at > self.at)


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def configuration_key(configuration: Configuration) -> str:
    """One text for one configuration, whatever it was proposed by."""
    return plain_json([configuration.instance_type, configuration.node_count, dict(configuration.params)])


def plain_json(value: object) -> str:
    """Canonical JSON; NaN is refused."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


class Store:
    """The studies of one file."""

    def __init__(self, path: str | Path | None = None, *, create: bool = False) -> None:
        """Open the store at `path` as `StoreFile` does, which says what is refused."""
        self._file = StoreFile(path, create=create)
        self.path = self._file.path

    def names(self) -> list[str]:
        """Return the names of all studies, in the order of their creation."""
        with self._file.transaction("BEGIN") as connection:
            return list(connection.scalars(sa.select(STUDY.c.name).order_by(STUDY.c.id)))

    def add(
        self, name: str, *, strategy: str, settings: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
    ) -> StoredStudy:
        """Keep a new study. Raises InputError when the name is taken."""
        packed = {kind: _packed(frame) for kind, frame in tables.items()}
        with self._file.transaction() as connection:
            if connection.scalar(sa.select(STUDY.c.id).where(STUDY.c.name == name)) is not None:
                raise InputError(
                    f"the store {self.path} has a study {name!r} already; choose another name, or go on with that one "
                    f"(recommender study show {name})"
                )
            values = {
                "name": name,
                "created_at": now(),
                "strategy": strategy,
                "settings": plain_json(settings),
                "counter": 0,
            }
            key = connection.execute(sa.insert(STUDY).values(values)).inserted_primary_key
            assert key is not None
            for kind, data in packed.items():
                row = {
                    "study_id": key[0],
                    "kind": kind,
                    "parquet": data,
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
                connection.execute(sa.insert(TABLES).values(row))
        return self.find(name)

    def find(self, name: str) -> StoredStudy:
        """Return a study. Raises UnknownNameError with the nearest name."""
        with self._file.transaction("BEGIN") as connection:
            row = connection.execute(sa.select(STUDY).where(STUDY.c.name == name)).one_or_none()
            known = list(connection.scalars(sa.select(STUDY.c.name).order_by(STUDY.c.id)))
            tables = connection.execute(sa.select(TABLES).where(TABLES.c.study_id == (row.id if row else -1))).all()
        if row is None:
            some = ", ".join(known[:5]) + (" ..." if len(known) > 5 else "")
            found = f"it holds {some}" if known else "it holds none"
            raise UnknownNameError(f"no study {name!r} in {self.path}{did_you_mean(name, known)} ({found})")
        for table in tables:
            if hashlib.sha256(table.parquet).hexdigest() != table.sha256:
                raise InputError(
                    f"the {table.kind} table of study {name!r} in {self.path} is damaged: its hash differs"
                )
        return StoredStudy(
            key=row.id,
            name=row.name,
            strategy=row.strategy,
            settings=json.loads(row.settings),
            tables={table.kind: pd.read_parquet(io.BytesIO(table.parquet)) for table in tables},
            created_at=row.created_at,
            command=json.loads(row.command) if row.command else None,
        )

    def keep_command(self, key: int, command: Mapping[str, Any]) -> None:
        """Keep what measures a configuration."""
        with self._file.transaction() as connection:
            connection.execute(sa.update(STUDY).where(STUDY.c.id == key).values(command=plain_json(command)))

    def snapshot(self, key: int) -> Snapshot:
        """Return what was told and what is pending."""
        with self._file.transaction("BEGIN") as connection:
            runs = connection.execute(
                sa.select(RUN.c.id, RUN.c.row).where(RUN.c.study_id == key).order_by(RUN.c.position)
            ).all()
            pending = connection.execute(
                sa.select(PENDING).where(PENDING.c.study_id == key).order_by(PENDING.c.number)
            ).all()
            at = now()
        return Snapshot({run.id: json.loads(run.row) for run in runs}, tuple(map(_pending, pending)), at)

    def claim(
        self,
        key: int,
        wanted: Sequence[NextRun],
        *,
        count: int,
        seen: int,
        strict: bool,
        inputs: Mapping[str, float],
        worker: str,
        lease_s: float,
    ) -> list[Pending] | None:
        """Give the first `count` of `wanted` that are free to `worker`, or return None when that would be wrong by now.

        Taken is what somebody else was given, or what was told after the first `seen` runs. With `strict` nothing wanted
        may be taken and nothing at all told since, which might change the choice; without, one free one is enough.
        """
        with self._file.transaction() as connection:
            mine, later = RUN.c.study_id == key, RUN.c.position > seen
            told = set(connection.scalars(sa.select(RUN.c.configuration).where(mine, later)))
            at = now()
            live = (PENDING.c.study_id == key) & (PENDING.c.expires_at > at)
            taken = told | set(connection.scalars(sa.select(PENDING.c.configuration).where(live)))
            free = [run for run in wanted if configuration_key(run) not in taken]
            if not free or (strict and (told or len(free) < len(wanted))):
                return None
            wanted = free[:count]
            number = _count_on(connection, key, len(wanted))
            rows = []
            for i, run in enumerate(wanted):
                ask = {"run": {**vars(run), "params": dict(run.params)}, "inputs": dict(inputs)}
                row = {
                    "study_id": key,
                    "id": f"r{number + i}",
                    "number": number + i,
                    "configuration": configuration_key(run),
                    "ask": json.dumps(ask, allow_nan=False, ensure_ascii=False),  # parameters keep their order
                    "worker": worker,
                    "asked_at": at,
                    "expires_at": at + lease_s,
                }
                connection.execute(sa.insert(PENDING).values(row))
                rows.append(f"r{number + i}")
            found = connection.execute(
                sa.select(PENDING).where(PENDING.c.study_id == key, PENDING.c.id.in_(rows)).order_by(PENDING.c.number)
            ).all()
        return [_pending(row) for row in found]

    def tell(self, key: int, name: str | None, *, configuration: Configuration, row: Mapping[str, Any]) -> str:
        """Keep one run, which is no longer pending, and return its name once it is on the disk.

        The same run told again changes nothing.

        Raises
        ------
        RecommenderError
            When another run was told under that name, or it is one that a later ask will give.
        """
        text = json.dumps(row, allow_nan=False, ensure_ascii=False)  # parameters keep their order
        with self._file.transaction() as connection:
            name = name or f"r{_count_on(connection, key, 1)}"
            if re.fullmatch("r[0-9]+", name) and int(name[1:]) > _count_on(connection, key, 0) - 1:
                raise UnknownNameError(f"nothing was asked under the name {name!r} yet; give the run a name of its own")
            this = (RUN.c.study_id == key) & (RUN.c.id == name)
            known = connection.scalar(sa.select(RUN.c.row).where(this))
            if known is not None and (old := json.loads(known)) != row:
                other = [k for k in sorted({*old, *row}) if old.get(k) != row.get(k)]
                differ = ", ".join(f"{k} was {old.get(k)!r} and is now {row.get(k)!r}" for k in other)
                raise InputError(f"run {name!r} was told already, and differently: {differ}; a run is told once")
            if known is None:
                last = connection.scalar(sa.select(sa.func.max(RUN.c.position)).where(RUN.c.study_id == key))
                values = {
                    "study_id": key,
                    "id": name,
                    "position": (last or 0) + 1,
                    "configuration": configuration_key(configuration),
                    "row": text,
                    "told_at": now(),
                }
                connection.execute(sa.insert(RUN).values(values))
            connection.execute(sa.delete(PENDING).where(PENDING.c.study_id == key, PENDING.c.id == name))
        return name

    def release(self, key: int, name: str) -> bool:
        """Forget that a run was asked for; False when it was not pending."""
        with self._file.transaction() as connection:
            gone = connection.execute(sa.delete(PENDING).where(PENDING.c.study_id == key, PENDING.c.id == name))
        return gone.rowcount > 0

    def renew(self, key: int, name: str, lease_s: float) -> bool:
        """Let a lease last `lease_s` from now; False when the run is not pending."""
        with self._file.transaction() as connection:
            this = sa.update(PENDING).where(PENDING.c.study_id == key, PENDING.c.id == name)
            done = connection.execute(this.values(expires_at=now() + lease_s))
        return done.rowcount > 0


def check_name(name: str, what: str) -> str:
    """Return `name`, or raise InputError when it is no name for a `what`."""
    if not re.fullmatch(NAME, name):
        raise InputError(
            f"{name[:100]!r} is no name for a {what}: at most 100 letters, digits, spaces and . : @ + - _ are allowed, "
            "the first a letter or digit"
        )
    return name


def _count_on(connection: sa.Connection, key: int, by: int) -> int:
    """Return the first of the next `by` numbers of a study."""
    this = STUDY.c.id == key
    connection.execute(sa.update(STUDY).where(this).values(counter=STUDY.c.counter + by))
    return int(connection.execute(sa.select(STUDY.c.counter).where(this)).scalar_one()) - by + 1


def _pending(row: Any) -> Pending:
    ask = json.loads(row.ask)
    return Pending(
        id=row.id,
        run=NextRun(**ask["run"]),
        inputs=ask["inputs"],
        worker=row.worker,
        asked_at=row.asked_at,
        expires_at=row.expires_at,
    )


def _packed(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
