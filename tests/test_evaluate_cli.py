"""`recommender evaluate` through a real process: what is printed where, what is written, what a kill leaves."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from replay_table import CANDIDATES, table

from recommender.commands import progress as module
from recommender.datasets import fetch_dataset
from recommender.replay import COLUMNS
from recommender.runs import Runs, write_runs

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = ("terasort_huge_hadoop", "join_huge_spark", "kmeans_bigdata_spark15")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "recommender", "evaluate", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The finished process, output piped."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def folder(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three workloads of Scout and the hand-made table, as files."""
    data = fetch_dataset("scout", mirror=mirror, cache=tmp_path_factory.mktemp("cache"))
    assert data.runs is not None
    assert data.candidates is not None
    folder = tmp_path_factory.mktemp("evaluate")
    frame = data.runs.frame
    write_runs(Runs(frame[frame["workload"].isin(WORKLOADS)].reset_index(drop=True)), folder / "scout.csv")
    data.candidates.to_csv(folder / "scout-candidates.csv", index=False)
    table().assign(application=lambda t: "app " + t["workload"]).to_csv(folder / "runs.csv", index=False)
    CANDIDATES.to_csv(folder / "candidates.csv", index=False)
    return folder


def workers_of(pid: int) -> list[int]:
    """Worker processes of the process group `pid`."""
    lines = subprocess.run(["ps", "-eo", "pid=,pgid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in lines.splitlines()]
    return [int(one) for one, group, line in rows if int(group) == pid and "popen_loky" in line]


SMALL = ("runs.csv", "--candidates", "candidates.csv", "--steps", "2", "--seeds", "2", "--jobs", "1")


def test_what_gives_no_answer_says_why(folder: Path, tmp_path: Path) -> None:
    rows = table()
    rows[rows["workload"] == "one"].to_csv(tmp_path / "one.csv", index=False)
    alone = (str(tmp_path / "one.csv"), *SMALL[1:], "--strategies", "selecta", "--format", "json")
    done = run(*alone, cwd=folder)
    assert done.returncode == 0, done.stderr
    notes = json.loads(done.stdout)["notes"]
    (said,) = (note for note in notes if note.startswith("selecta"))
    assert said.startswith("selecta recommends nothing in 2 of 2 episodes; of one: this strategy reads runs of other")
    assert f"note: {said}" in done.stderr
    assert not [note for note in notes if note.startswith("random")]


def test_a_table_on_stdout_and_what_was_written_on_stderr(folder: Path, tmp_path: Path) -> None:
    done = run(*SMALL, "--out", str(tmp_path / "r.csv"), "--plots", str(tmp_path / "plots"), cwd=folder)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[3:6]] == ["random", "column-mean", "best-fixed"]
    assert done.stderr.splitlines()[-1] == f"wrote {tmp_path / 'r.csv'}"
    assert len(done.stderr.splitlines()) == 4
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == [
        *("r.csv", "regret-runs.png", "regret-usd.png", "regret-workloads.png")
    ]
    assert list(pd.read_csv(tmp_path / "r.csv")) == list(COLUMNS)


def test_json_and_csv_are_the_same_summary(folder: Path) -> None:
    options = (
        "--strategies",
        "price-only",
        "--objective",
        "runtime",
        "--deadline-quantile",
        "0.5",
        "--workloads",
        "two",
    )
    document, text = (run(*SMALL, *options, "--format", form, cwd=folder) for form in ("json", "csv"))
    assert (document.returncode, text.returncode) == (0, 0)
    strategies = json.loads(document.stdout)["strategies"]
    rows = list(csv.DictReader(io.StringIO(text.stdout)))
    assert [r["strategy"] for r in rows] == [s["strategy"] for s in strategies]
    assert rows[0]["strategy"] == "price-only"
    for row, other in zip(rows, strategies, strict=True):
        assert float(row["within_10_percent"]) == other["within_10_percent"]
        assert [w["workload"] for w in other["workloads"]] == ["two"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*SMALL, "--strategies", "arow"), "unknown strategy 'arow'"),
        ((*SMALL, "--purchase", "on-demand,spot"), "names 2 purchase options"),
        ((*SMALL, "--dask-address", "tcp://host:1"), "for --backend dask only"),
        ((*SMALL, "--deadline-quantile", "2"), "a number from 0 to 1"),
        ((*SMALL, "--out", "x.txt"), "ending in .csv or .parquet"),
        (("runs.csv",), "give a candidates table with usd_per_hour"),
        (("absent.csv",), "cannot be read"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("recommender: ")
    assert words in line


def test_an_unknown_choice_is_a_usage_error(folder: Path) -> None:
    assert run(*SMALL, "--group-by", "program", cwd=folder).returncode == 2


def test_help_names_the_options(folder: Path) -> None:
    done = run("--help", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    names = ("--strategies", "--candidates", "--objective", "--deadline-quantile", "--steps", "--seeds", "--group-by")
    assert not [n for n in (*names, "--jobs", "--out", "--format", "--restart", "--plots") if n not in done.stdout]


def test_a_bar_is_drawn_only_for_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    for quiet_s, drawn in ((1e9, False), (-1.0, True)):
        monkeypatch.setattr(module, "QUIET_S", quiet_s)
        with module.Bar("episodes") as bar:
            bar.update(3, 12)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert ("3/12" in shown.err) == drawn
        assert drawn or shown.err == ""


def test_a_killed_evaluation_continues_to_the_same_results(folder: Path, tmp_path: Path) -> None:
    grid = ("scout.csv", "--candidates", "scout-candidates.csv", "--steps", "4", "--seeds", "6", "--jobs")
    assert run(*grid, "1", "--out", str(tmp_path / "whole.csv"), cwd=folder).returncode == 0
    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    arguments = (*grid, "2", "--out", str(out))
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") > 1):
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not out.exists(), "it was killed midway"
    gone = time.monotonic() + 30.0
    while workers_of(process.pid) and time.monotonic() < gone:
        time.sleep(0.1)
    assert not workers_of(process.pid), "workers end with the process that was killed"
    lines = partial.read_bytes().count(b"\n")
    assert 1 < lines < 1 + 3 * 3 * 6
    refused = run(*arguments, "--objective", "runtime", cwd=folder)
    assert refused.returncode == 1
    assert "differs in: options" in refused.stderr
    done = run(*arguments, cwd=folder)
    assert done.returncode == 0
    assert not partial.exists()
    a, b = (pd.read_csv(path).drop(columns="ask_seconds").to_csv() for path in (tmp_path / "whole.csv", out))
    assert a == b


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(folder: Path, tmp_path: Path, backend: str) -> None:
    arguments = ("scout.csv", "--candidates", "scout-candidates.csv", "--steps", "9", "--seeds", "60", "--jobs", "2")
    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    process = subprocess.Popen(
        command(*arguments, "--backend", backend, "--out", str(out)),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also from a background job
    )
    try:
        while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") > 1):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes of the command
        said, errors = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers too, where it did not end by itself
        process.wait()
    assert (process.returncode, said) == (130, "")
    assert errors == f"interrupted; finished episodes are in {partial}; the same command goes on from there\n"
    assert partial.read_bytes().count(b"\n") > 1
    assert not workers_of(process.pid)
