"""A study is killed in mid-work and shared by many workers: nothing told is lost, nothing is given twice.

The long measurement is `tools/bench_study.py`; this is a short one with the same code.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return importlib.import_module("bench_study")


def test_a_tuning_killed_at_random_instants_loses_no_told_run_and_corrupts_nothing(
    bench: ModuleType, tmp_path: Path
) -> None:
    found = bench.kills(10, tmp_path, seed=1)
    assert (found["lost"], found["corrupt"]) == (0, 0)
    assert found["held"] >= found["logged"] > 0


def test_workers_that_ask_and_tell_at_once_share_the_work_and_lose_nothing(bench: ModuleType, tmp_path: Path) -> None:
    found = bench.crowd(4, 80, tmp_path)
    assert (found["runs"], found["held"], found["lost"]) == (80, 80, 0)
    assert (found["in flight twice"], found["measured again"], found["corrupt"]) == (0, 0, 0)


def test_the_check_finds_a_run_that_was_lost(bench: ModuleType, tmp_path: Path) -> None:
    bench.make(tmp_path / "s.db")
    study = bench.Study.open("s", store=tmp_path / "s.db")
    study.ask(2)
    study.tell("r1", runtime_s=3.0)
    told = [{"id": "r1", "runtime_s": 3.0}, {"id": "r1", "runtime_s": 4.0}, {"id": "r2", "runtime_s": 1.0}]
    assert bench.missing(tmp_path / "s.db", told) == 2
    assert bench.intact(tmp_path / "s.db")
