"""The studies' file: what it survives, what it refuses, and how an older one is brought to today's schema."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pandas as pd
import pytest

from recommender import store_file
from recommender.candidates import Configuration
from recommender.errors import InputError, RecommenderError
from recommender.pending import same
from recommender.question import Question
from recommender.recommendation import NextRun
from recommender.store import Store
from recommender.store_file import APPLICATION, STORE_VARIABLE, VERSION, StoreFile, store_path
from recommender.study import Study

ROOT = Path(__file__).resolve().parents[1]
POOL = pd.DataFrame([("desk", n, 0.36) for n in range(1, 9)], columns=["instance_type", "node_count", "usd_per_hour"])
VERSION_1 = """
CREATE TABLE study (id INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at FLOAT NOT NULL,
                    strategy TEXT NOT NULL, settings TEXT NOT NULL, counter INTEGER NOT NULL);
CREATE TABLE study_table (study_id INTEGER NOT NULL REFERENCES study (id), kind TEXT NOT NULL, parquet BLOB NOT NULL,
                    sha256 TEXT NOT NULL, PRIMARY KEY (study_id, kind));
CREATE TABLE run (study_id INTEGER NOT NULL REFERENCES study (id), id TEXT NOT NULL, position INTEGER NOT NULL,
                    configuration TEXT NOT NULL, row TEXT NOT NULL, told_at FLOAT NOT NULL, PRIMARY KEY (study_id, id),
                    UNIQUE (study_id, position));
CREATE TABLE pending (study_id INTEGER NOT NULL REFERENCES study (id), id TEXT NOT NULL, number INTEGER NOT NULL,
                    configuration TEXT NOT NULL, ask TEXT NOT NULL, worker TEXT NOT NULL, asked_at FLOAT NOT NULL,
                    expires_at FLOAT NOT NULL, PRIMARY KEY (study_id, id));
PRAGMA application_id = 1380142404;
PRAGMA user_version = 1;
"""
"""The first schema, as it was: written out, so that it does not follow the code."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "studies.db"


@pytest.fixture
def study(path: Path) -> Study:
    made = Study.create("s", Question(candidates=POOL), strategy_name="random", store=path)
    for pending in made.ask(2):
        made.tell(pending.id, runtime_s=10.0)
    made.ask()
    return made


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def old(path: Path, study: Study) -> None:
    """Write the content of a study as version 1 of the schema would have."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
        connection.execute("ATTACH ? AS new", (str(study.store.path),))
        for table in ("study", "study_table", "run", "pending"):
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        connection.commit()


def test_a_new_store_is_marked_versioned_logged_ahead_and_durable(study: Study, path: Path) -> None:
    assert pragma(path, "application_id") == APPLICATION
    assert pragma(path, "user_version") == VERSION
    assert pragma(path, "journal_mode") == "wal"
    with StoreFile(path).transaction("BEGIN") as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {p}").scalar_one() for p in ("synchronous", "foreign_keys")]
    assert values == [2, 1]  # 2 is FULL


def test_a_store_of_version_1_is_brought_to_today_with_all_it_holds(study: Study, tmp_path: Path) -> None:
    before = tmp_path / "old.db"
    old(before, study)
    assert pragma(before, "user_version") == 1
    again = Study.open("s", store=before)
    assert pragma(before, "user_version") == VERSION
    assert again.stored.command is None
    assert again.snapshot().told == study.snapshot().told
    assert again.snapshot().pending == study.snapshot().pending
    assert again.ask()[0].run == study.ask()[0].run
    again.store.keep_command(again.stored.key, {"line": "true"})
    assert Study.open("s", store=before).stored.command == {"line": "true"}


def test_a_migration_that_fails_leaves_the_old_version(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "old.db"
    old(before, study)
    good = store_file.MIGRATIONS[1]
    monkeypatch.setitem(store_file.MIGRATIONS, 1, (*good, "ALTER TABLE nowhere ADD COLUMN x"))
    with pytest.raises(InputError, match="nowhere"):
        Store(before)
    assert pragma(before, "user_version") == 1
    monkeypatch.setitem(store_file.MIGRATIONS, 1, good)
    assert len(Study.open("s", store=before).snapshot().told) == 2


def test_a_store_of_a_later_version_is_refused_and_left_alone(study: Study, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(InputError, match=rf"later version .*schema {VERSION + 1}; this one reads up to {VERSION}"):
            Store(path, create=create)
    assert path.read_bytes() == before


def test_what_is_no_store_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("workload,instance_type\n" * 100)
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    empty = tmp_path / "empty.db"
    empty.touch()
    cases = [
        (text, "no SQLite database"),
        (foreign, "database of another program"),
        (tmp_path, "cannot be opened"),
        (tmp_path / "no" / "such.db", "cannot be opened"),
    ]
    for path, message in cases:
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(InputError, match=message) as raised:
            Study.create("s", Question(candidates=POOL), store=path)
        assert "\n" not in str(raised.value)
        assert (path.read_bytes() if path.is_file() else None) == before
    for path, message in ((tmp_path / "none.db", "there is no store"), (empty, "is empty; make a study")):
        with pytest.raises(InputError, match=message):
            Study.open("s", store=path)
    assert not (tmp_path / "none.db").exists()
    Study.create("s", Question(candidates=POOL), store=empty)


def test_a_table_whose_bytes_changed_is_not_believed(study: Study, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE study_table SET parquet = zeroblob(100)")
        connection.commit()
    with pytest.raises(InputError, match=r"candidates table of study 's' in .* is damaged: its hash differs"):
        Study.open("s", store=path)


def test_a_writer_that_does_not_let_go_ends_in_one_line(
    study: Study, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_file, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(study.snapshot().told) == 2  # reading goes on
        with pytest.raises(InputError, match="another process has been writing"):
            study.tell("r3", runtime_s=1.0)
        other.execute("ROLLBACK")
    assert study.tell("r3", runtime_s=1.0) == "r3"


TELL = "import sys; from recommender.cli import main; sys.argv[0] = 'recommender'; main()"


def _tell(path: Path, *, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """Tell r3 in a process that may not write files longer than that."""

    def restrict() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.run(
        [sys.executable, "-c", TELL, "study", "tell", "s", "--id", "r3", "--runtime", "7", "--store", str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=restrict,
    )


def test_a_full_disk_ends_in_one_line_and_loses_nothing(study: Study, path: Path) -> None:
    done = _tell(path, limit_bytes=4096)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "the store" in done.stderr
    assert "nothing was changed" in done.stderr
    assert list(study.snapshot().told) == ["r1", "r2"]
    assert pragma(path, "integrity_check") == "ok"
    assert _tell(path).returncode == 0
    assert list(study.snapshot().told) == ["r1", "r2", "r3"]


@contextmanager
def another_user() -> Iterator[None]:
    """To root nothing is read-only, so that a test run by root becomes nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_store_that_may_not_be_written_is_refused_in_one_line() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory, path = Path(name), Path(name) / "studies.db"
        study = Study.create("s", Question(candidates=POOL), strategy_name="random", store=path)
        study.ask(3)
        path.chmod(0o444)
        directory.chmod(0o555)
        with another_user(), pytest.raises(InputError, match=r"the store .* (is read-only|cannot be opened)") as raised:
            study.tell("r3", runtime_s=1.0)
        directory.chmod(0o755)
        path.chmod(0o644)
        assert "\n" not in str(raised.value)
        assert [p.id for p in study.snapshot().pending] == ["r1", "r2", "r3"]


def test_the_store_is_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "a.db"))
    assert store_path() == tmp_path / "a.db"
    assert store_path(tmp_path / "b.db") == tmp_path / "b.db"
    monkeypatch.delenv(STORE_VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_path().name == "studies.db"
    assert tmp_path in store_path().parents
    assert not store_path().parent.exists()
    Study.create("s", Question(candidates=POOL))
    assert Study.open("s").store.path == store_path()


def test_processes_that_make_one_store_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    code = (
        "import sys; from recommender.question import Question; from recommender.study import Study; import pandas as pd\n"
        "pool = pd.DataFrame({'instance_type': ['desk'], 'node_count': [1], 'usd_per_hour': [0.1]})\n"
        f"Study.create(sys.argv[1], Question(candidates=pool), store={str(path)!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([sys.executable, "-c", code, f"s{i}"], env=environment) for i in range(4)]
    assert [process.wait() for process in started] == [0, 0, 0, 0]
    assert sorted(Store(path).names()) == ["s0", "s1", "s2", "s3"]


def test_a_name_that_is_a_path_or_a_formula_is_no_name(path: Path) -> None:
    for name in ("", "a/b", "=1+1", "x" * 101, "a\nb"):
        with pytest.raises(RecommenderError, match="is no name for a study"):
            Study.create(name, Question(candidates=POOL), store=path)


def test_a_choice_made_on_older_evidence_is_claimed_only_where_it_is_still_free(study: Study) -> None:
    store, key = study.store, study.stored.key
    snapshot = study.snapshot()
    pending = snapshot.live[0].run
    problem, _ = study.evidence(snapshot)
    told = [Configuration(**{k: row[k] for k in ("instance_type", "node_count")}) for row in snapshot.told.values()]
    all_of_them = [problem.candidates.configuration(i) for i in range(len(POOL))]
    free = next(c for c in all_of_them if not any(same(c, other) for other in (*told, pending)))
    wanted = [pending, NextRun(why="", **vars(free))]
    plain = {"count": 1, "inputs": {}, "worker": "w", "lease_s": 60.0}
    assert store.claim(key, wanted, seen=2, strict=True, **plain) is None  # the first is taken
    assert store.claim(key, wanted[1:], seen=1, strict=True, **plain) is None  # something was told since
    assert store.claim(key, wanted[:1], seen=2, strict=False, **plain) is None  # nothing is free
    given = store.claim(key, wanted, seen=1, strict=False, **plain)
    assert given is not None
    assert [p.run.node_count for p in given] == [free.node_count]
