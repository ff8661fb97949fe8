"""`recommender profile` on real commands: what goes to stdout, to stderr and to the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import typer
from typer.testing import CliRunner, Result

from recommender.commands.profile import profile
from recommender.errors import InputError, RecommenderError
from recommender.measurement import available_cpus
from recommender.runs import read_runs

PYTHON = sys.executable
ALL = str(len(available_cpus()))


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()

    @application.callback()
    def root() -> None:
        pass

    application.command("profile")(profile)
    return application


def _invoke(app: typer.Typer, out: Path, *arguments: str, code: str = "pass", scale: bool = False) -> Result:
    command = ["profile", "--workload", "job", "--out", str(out), "--cores", ALL, *arguments, "--", PYTHON, "-c", code]
    return CliRunner().invoke(app, [*command, "{scale}"] if scale else command)


def _error(result: Result) -> str:
    assert isinstance(result.exception, RecommenderError), result.output
    return str(result.exception)


def test_a_profile_fills_the_table_and_sums_up_on_stdout(app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    result = _invoke(app, out, "--scales", "0.1,0.2", "--repeat", "2", "--input", "gib=3", scale=True)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["cores", "scale", "runs", "completed"]
    assert [line.split()[:4] for line in lines[1:]] == [[ALL, "0.1", "2", "2"], [ALL, "0.2", "2", "2"]]
    assert "CPU " in result.stderr
    frame = read_runs(out).frame
    assert sorted(frame["input.scale"]) == [0.1, 0.1, 0.2, 0.2]
    assert set(frame["input.gib"]) == {3.0}


def test_the_summary_as_json_is_nothing_but_json(app: typer.Typer, tmp_path: Path) -> None:
    result = _invoke(app, tmp_path / "r.csv", "--repeat", "1", "--format", "json")
    (row,) = json.loads(result.stdout)
    assert (row["cores"], row["scale"], row["runs"], row["completed"]) == (int(ALL), None, 1, 1)
    assert row["runtime_s"] > 0


def test_runs_that_all_fail_are_recorded_and_end_in_an_error_with_the_last_words(
    app: typer.Typer, tmp_path: Path
) -> None:
    out = tmp_path / "r.csv"
    result = _invoke(app, out, "--repeat", "2", code="import sys; sys.exit('out of luck')")
    assert "none of the 2 runs completed" in _error(result)
    assert "out of luck" in _error(result)
    assert result.stderr.count("failed with exit code 1: out of luck") == 2
    assert list(read_runs(out).frame["status"]) == ["failed", "failed"]


def test_one_failure_among_successes_is_told_and_is_no_error(app: typer.Typer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import pathlib,sys; p = pathlib.Path({str(mark)!r}); found = p.exists(); p.touch(); sys.exit(found)"
    result = _invoke(app, tmp_path / "r.csv", "--repeat", "2", code=code)
    assert result.exit_code == 0
    assert "run 2 of 2" in result.stderr
    assert result.stdout.splitlines()[1].split()[2:4] == ["2", "1"]


def test_a_time_limit_is_told_and_recorded(app: typer.Typer, tmp_path: Path) -> None:
    result = _invoke(
        app, tmp_path / "r.csv", "--repeat", "1", "--time-limit", "0.2s", code="import time; time.sleep(60)"
    )
    assert "stopped at the time limit" in _error(result)
    assert list(read_runs(tmp_path / "r.csv").frame["status"]) == ["timed_out"]


def test_resuming_a_full_table_runs_nothing(app: typer.Typer, tmp_path: Path) -> None:
    for _ in range(2):
        result = _invoke(app, tmp_path / "r.csv", "--repeat", "1", "--resume")
        assert result.exit_code == 0
    assert "nothing left to run" in result.stderr
    assert len(read_runs(tmp_path / "r.csv")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no shell")
def test_a_shell_line_is_run_by_the_shell_only_when_asked(app: typer.Typer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = ["profile", "--workload", "w", "--out", str(tmp_path / "r.csv"), "--cores", ALL, "--repeat", "1"]
    line = f"echo {{cores}} | cat > {mark}"
    with pytest.raises(InputError, match="--shell"):
        CliRunner().invoke(app, [*command, "--", line], catch_exceptions=False)
    assert CliRunner().invoke(app, [*command, "--shell", "--", line]).exit_code == 0
    assert mark.read_text().strip() == ALL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cores", "two"], "--cores 'two'"),
        (["--cores", ""], "--cores ''"),
        (["--cores", "100000"], "100000 cores were asked for"),
        (["--scales", "0.1,x"], "--scales"),
        (["--scales", "0.1"], "no {scale}"),
        (["--input", "gib"], "NAME=VALUE"),
        (["--input", "gib=big"], "NAME=VALUE"),
        (["--input", "gib=1", "--input", "gib=2"], "given twice"),
        (["--time-limit", "soon"], "'soon' is not a duration"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(
    app: typer.Typer, tmp_path: Path, arguments: list[str], message: str
) -> None:
    error = _error(_invoke(app, tmp_path / "r.csv", *arguments))
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "r.csv").exists()


def test_a_placeholder_without_scales_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    assert "--scales" in _error(_invoke(app, tmp_path / "r.csv", scale=True))


def test_usage_errors_exit_with_2(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["profile", "--workload", "w", "--", "true"]).exit_code == 2
    assert CliRunner().invoke(app, ["profile", "--workload", "w", "--out", "r.csv"]).exit_code == 2


SHIM = (
    "import typer; from recommender.commands.profile import profile; app = typer.Typer();app.command()(profile); app()"
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_ends_the_command_keeps_the_runs_and_tells_by_the_exit_code(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out, mark = tmp_path / "r.csv", tmp_path / "mark"
    job = (
        f"import os,time; first = not os.path.exists({str(mark)!r})\n"
        f"with open({str(mark)!r}, 'a') as file: print(os.getpid(), file=file)\n"
        "first or time.sleep(60)"
    )
    arguments = ["--workload", "w", "--out", str(out), "--cores", ALL, "--repeat", "2", "--", PYTHON, "-c", job]
    with subprocess.Popen([PYTHON, "-c", SHIM, *arguments], stderr=subprocess.PIPE, text=True) as process:
        while not (mark.exists() and mark.read_text().count("\n") == 2):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert len(read_runs(out)) == 1
    last = int(mark.read_text().split()[-1])
    assert not psutil.pid_exists(last) or psutil.Process(last).status() == psutil.STATUS_ZOMBIE
    if number == signal.SIGINT:
        assert "the runs made so far (1) are in" in errors


def test_the_output_of_the_command_is_hidden_unless_asked_for_and_never_on_stdout(tmp_path: Path) -> None:
    job = "import sys; print('to out'); print('to err', file=sys.stderr)"
    arguments = ["--workload", "w", "--out", str(tmp_path / "r.csv"), "--cores", ALL, "--repeat", "1"]
    for shown in (False, True):
        command = [PYTHON, "-c", SHIM, *arguments, *(["--show-output"] if shown else []), "--", PYTHON, "-c", job]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "TERM": "dumb"})
        assert ("to out" in done.stderr, "to err" in done.stderr) == (shown, shown)
        assert "to out" not in done.stdout


def test_no_heavy_library_is_needed_for_help() -> None:
    code = (
        "import sys, recommender.commands.profile\n"
        "heavy = {'pandas', 'numpy', 'psutil', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    subprocess.run([PYTHON, "-c", code], check=True)
