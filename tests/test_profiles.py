"""The profiles shipped with the project: every program runs, every table reads and is explained."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recommender.catalogue.cpu import identify
from recommender.resources import resource_dir
from recommender.runs import read_runs

PROFILES = resource_dir("profiles")
SCRIPTS = sorted(path for path in (PROFILES / "workloads").glob("*.py") if path.name != "common.py")
TABLES = sorted(PROFILES.glob("*.csv"))


def test_there_are_at_least_six_workloads() -> None:
    assert len(SCRIPTS) >= 6


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_workload_runs_on_a_sliver_of_its_input(script: Path, tmp_path: Path) -> None:
    for library in ("sklearn", "duckdb", "PIL"):
        if library in script.read_text(encoding="utf-8"):
            pytest.importorskip(library)
    done = subprocess.run(
        [sys.executable, str(script), "0.001"],
        env={**os.environ, "RECOMMENDER_PROFILE_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.glob(f"{os.getpid()}-*"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_workload_says_what_its_full_input_is_and_is_in_the_list(script: Path) -> None:
    described = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert "full input" in described
    assert "memory" in described
    assert f"[{script.stem}]({script.stem}.md)" in (PROFILES / "README.md").read_text(encoding="utf-8")
    assert f'"{script.stem}": (' in (PROFILES / "measure.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_a_shipped_table_holds_three_completed_runs_of_every_cell_on_a_known_cpu(table: Path) -> None:
    frame = read_runs(table).frame
    assert set(frame["workload"]) == {table.stem}
    assert set(frame["instance_type"]) == {"local"}
    assert set(frame["status"]) == {"completed"}
    cells = frame.groupby(["vcpus", "input.scale"]).size()
    assert len(cells) >= 6
    assert (cells >= 3).all()
    assert all(identify(cpu_model) for cpu_model in set(frame["cpu_model"]))
    assert frame[["metric.cpu_s", "metric.peak_memory_gib"]].notna().all(axis=None)


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_a_shipped_table_comes_with_the_command_machine_versions_and_date(table: Path) -> None:
    page = table.with_suffix(".md").read_text(encoding="utf-8")
    assert f"profiles/workloads/{table.stem}.py" in page
    for heading in ("Command", "Machine", "Versions", "When", "Runs"):
        assert f"- {heading}" in page
    assert read_runs(table).frame["cpu_model"].iloc[0] in page
