"""Profiles of real commands: what is measured, what is recorded, and what survives."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recommender.errors import InputError, RecommenderError
from recommender.measurement import available_cpus, can_limit_cores, measure
from recommender.profiling import (
    ProfiledRun,
    default_cores,
    profile_command,
)
from recommender.runs import Runs, append_run, read_runs

PYTHON = sys.executable
limits_cores = pytest.mark.skipif(not can_limit_cores(), reason="this system cannot confine a process to some CPUs")
two_cpus = pytest.mark.skipif(len(available_cpus()) < 2, reason="one CPU only")


def _python(code: str, *arguments: str) -> list[str]:
    return [PYTHON, "-c", code, *arguments]


def _profile(code: str, out: Path, *arguments: str, **options: object) -> Runs:
    defaults: dict[str, object] = {"workload": "job", "cores": [len(available_cpus())], "repeat": 1}
    return profile_command(_python(code, *arguments), out=out, **{**defaults, **options})  # type: ignore[arg-type]


def test_a_run_is_recorded_with_its_conditions(tmp_path: Path) -> None:
    frame = _profile(
        "import sys, time; print(sys.argv); time.sleep(0.5)",
        tmp_path / "r.csv",
        "{scale}",
        scales=[0.25],
        application="app",
        inputs={"gib": 2.0},
    ).frame
    row = frame.iloc[0]
    assert len(frame) == 1
    assert (row["workload"], row["application"], row["instance_type"], row["status"]) == (
        "job",
        "app",
        "local",
        "completed",
    )
    assert (row["node_count"], row["input.scale"], row["input.gib"]) == (1, 0.25, 2.0)
    assert row["vcpus"] == len(available_cpus())
    assert row["runtime_s"] > 0
    assert row["cpu_model"]
    assert row["started_at"].tzinfo is not None
    assert row["metric.cpu_s"] > 0
    assert row["metric.peak_memory_gib"] > 0


def test_a_failing_command_is_recorded_as_failed_with_its_last_words(tmp_path: Path) -> None:
    told: list[ProfiledRun] = []
    runs = _profile("import sys; sys.exit('first\\nlast words\\n')", tmp_path / "r.csv", on_run=told.append)
    assert list(runs.frame["status"]) == ["failed"]
    assert told[0].measurement.exit_code == 1
    assert told[0].measurement.last_error_line == "last words"


def test_a_command_over_the_time_limit_is_recorded_as_timed_out_at_the_limit(tmp_path: Path) -> None:
    runs = _profile("import time; time.sleep(60)", tmp_path / "r.csv", time_limit_s=0.2)
    assert list(runs.frame["status"]) == ["timed_out"]
    assert 0.2 <= runs.frame["runtime_s"].iloc[0] < 30


def test_the_time_limit_ends_grandchildren_that_ignore_being_asked(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = (
        "import os,signal,time,pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    parent = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {child!r}])"
    _profile(parent, tmp_path / "r.csv", time_limit_s=1.5)
    assert not _runs(int(mark.read_text()))


def test_what_a_command_leaves_running_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "import subprocess,sys,pathlib; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(mark)!r}).write_text(str(p.pid))"
    )
    assert list(_profile(code, tmp_path / "r.csv").frame["status"]) == ["completed"]
    assert not _runs(int(mark.read_text()))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@limits_cores
@two_cpus
def test_the_command_may_use_as_many_cores_as_recorded(tmp_path: Path) -> None:
    mark = tmp_path / "cores"
    code = (
        "import os\n"
        f"with open({str(mark)!r}, 'a') as file:\n"
        "    print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], file=file)"
    )
    own = os.sched_getaffinity(0)
    frame = _profile(code, tmp_path / "r.csv", cores=[1, 2], repeat=2).frame
    assert mark.read_text().split("\n")[:-1] == [
        f"{n:.0f} {os.environ.get('OMP_NUM_THREADS', f'{n:.0f}')}" for n in frame["vcpus"]
    ]
    assert sorted(frame["vcpus"]) == [1, 1, 2, 2]
    assert os.sched_getaffinity(0) == own


def test_the_peak_of_memory_held_for_a_moment_is_seen(tmp_path: Path) -> None:
    code = (
        "import time; block = bytearray(200 << 20); block[::4096] = b'x' * len(block[::4096]); time.sleep(0.2);"
        "del block; time.sleep(0.2)"
    )
    assert 200 / 1024 <= _profile(code, tmp_path / "r.csv").frame["metric.peak_memory_gib"].iloc[0] < 1


def test_a_peak_between_samples_is_in_the_accounts_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.measurement._Tree.sample", lambda _: None)
    own_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)
    size = int(own_mib) + 100
    for code, seen in ((f"b = bytearray({size} << 20); b[::4096] = b'x' * len(b[::4096])", True), ("pass", False)):
        measured = measure(_python(code), cpus=available_cpus(), environment=os.environ, time_limit_s=None)
        if seen:
            assert measured.peak_memory_gib is not None
            assert measured.peak_memory_gib * 1024 >= size
        else:
            assert measured.peak_memory_gib is None, "what the kernel tells is the size of this process: unknown"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells shared memory apart")
def test_memory_of_several_processes_adds_up_and_what_they_share_counts_once(tmp_path: Path) -> None:
    code = (
        "import os,time; block = bytearray(150 << 20); block[::4096] = b'x' * len(block[::4096])\n"
        "children = []\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        own = bytearray(100 << 20); own[::4096] = b'x' * len(own[::4096]); time.sleep(3); os._exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children: os.waitpid(pid, 0)"
    )
    peak_mib = _profile(code, tmp_path / "r.csv").frame["metric.peak_memory_gib"].iloc[0] * 1024
    assert 350 <= peak_mib < 450


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux accounts I/O by process")
def test_bytes_written_by_a_child_of_the_command_are_counted(tmp_path: Path) -> None:
    write = (
        f"import os; f = open({str(tmp_path / 'big')!r}, 'wb'); f.write(bytes(20 << 20)); f.flush();"
        "os.fsync(f.fileno())"
    )
    code = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {write!r}])"
    written = _profile(code, tmp_path / "r.csv").frame["metric.disk_write_gib"].iloc[0]
    if written == 0:
        pytest.skip("the temporary directory is not on storage")
    assert written >= 19 / 1024


def test_cpu_time_of_processes_is_summed(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    code = (
        "import subprocess,sys\n"
        f"ps = [subprocess.Popen([sys.executable, '-c', {burn!r}]) for _ in range(2)]\n"
        "for p in ps: p.wait()"
    )
    assert _profile(code, tmp_path / "r.csv").frame["metric.cpu_s"].iloc[0] >= 0.6


def test_warm_ups_are_run_and_not_recorded(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    runs = _profile(f"open({str(mark)!r}, 'a').write('x')", tmp_path / "r.csv", warmup=2)
    assert len(runs) == 1
    assert mark.read_text() == "xxx"


def test_profiles_add_to_a_table_that_exists(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    append_run(out, {"workload": "other", "instance_type": "m5.large", "node_count": 2, "runtime_s": 9.0})
    runs = _profile("pass", out)
    assert list(runs.frame["workload"]) == ["other", "job"]


def test_resuming_makes_the_runs_that_are_missing_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    options = {"scales": [0.1, 0.2], "inputs": {"gib": 1.0}}
    _profile("pass", out, "{scale}", **options)
    told: list[ProfiledRun] = []
    runs = _profile("pass", out, "{scale}", resume=True, repeat=2, on_run=told.append, **options)
    assert len(runs) == 4
    assert [run.planned.repetition for run in told] == [2, 2]
    told.clear()
    _profile("pass", out, "{scale}", resume=True, repeat=2, warmup=1, on_run=told.append, **options)
    assert told == []
    _profile("pass", out, "{scale}", resume=True, on_run=told.append, **{**options, "inputs": {"gib": 2.0}})
    assert len(told) == 2, "other inputs are other runs"


def test_a_killed_profile_loses_the_run_in_flight_at_most(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    script = (
        "import sys; from pathlib import Path; from recommender.profiling import profile_command\n"
        "profile_command([sys.executable, '-c', 'import time; time.sleep(0.02)'], workload='w',"
        f" out=Path({str(out)!r}), repeat=10000, on_run=lambda run: print(run.number, flush=True))"
    )
    with subprocess.Popen(_python(script), stdout=subprocess.PIPE, text=True) as profiler:
        assert profiler.stdout is not None
        lines = [profiler.stdout.readline() for _ in range(5)]
        profiler.send_signal(signal.SIGKILL)
        lines += profiler.stdout.readlines()
    told = sum(line.endswith("\n") for line in lines)
    assert told <= len(read_runs(out)) <= told + 1
    assert told >= 5


# What is refused before anything runs


@pytest.mark.parametrize("cores", [10_000, 1_000_000])
def test_more_cores_than_the_machine_has_are_refused(tmp_path: Path, cores: int) -> None:
    with pytest.raises(
        InputError, match=f"{cores} cores were asked for, but this process may use {len(available_cpus())}"
    ):
        _profile("pass", tmp_path / "r.csv", cores=[1, cores])
    assert not (tmp_path / "r.csv").exists()


def test_where_cores_cannot_be_limited_only_all_of_them_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommender.profiling.can_limit_cores", lambda: False)
    monkeypatch.setattr("recommender.profiling.available_cpus", lambda: (0, 1, 2, 3))
    assert default_cores(4) == (4,)
    with pytest.raises(InputError, match="cannot confine"):
        _profile("pass", tmp_path / "r.csv", cores=[1, 4])


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "./no/such/file", "/"])
def test_a_command_that_is_not_found_is_refused(tmp_path: Path, program: str) -> None:
    with pytest.raises(InputError, match="not found"):
        profile_command([program], workload="w", out=tmp_path / "r.csv")


def test_a_program_that_cannot_be_started_is_an_error_and_not_a_run(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF but not really")
    program.chmod(0o755)
    with pytest.raises(InputError, match="cannot be started"):
        profile_command([str(program)], workload="w", out=tmp_path / "r.csv")


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        _profile("pass", tmp_path / "no" / "r.csv")


@pytest.mark.parametrize("options", [{"workload": "=1+1"}, {"inputs": {"": 1.0}}, {"application": "a/../b"}])
def test_names_that_the_table_would_not_take_are_refused_first(tmp_path: Path, options: dict[str, object]) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(RecommenderError):
        _profile(f"open({str(mark)!r}, 'w')", tmp_path / "r.csv", **options)
    assert not mark.exists()


def test_a_table_that_is_not_valid_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    out.write_text("workload,instance_type,node_count,runtime_s\nw,m5.large,1,-3\n")
    with pytest.raises(InputError, match="-3"):
        _profile("pass", out)
    assert out.read_text().endswith("-3\n")


# The interruption may fall between psutil's opening and closing of a file under /proc.
@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_ends_the_command_and_goes_on() -> None:
    pids: list[int] = []
    others = set(psutil.Process().children())  # of tests that ran before

    def interrupt(*_: object) -> None:
        pids.extend(child.pid for child in set(psutil.Process().children()) - others)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            measure(
                _python("import time; time.sleep(60)"), cpus=available_cpus(), environment=os.environ, time_limit_s=None
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pids
    assert not any(_runs(pid) for pid in pids)
    assert time.monotonic() - start < 30
