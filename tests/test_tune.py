"""The closed loop on real commands: arguments, results, limits, interruptions, and the study left behind."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from recommender import run_command
from recommender.candidates import Configuration
from recommender.errors import InputError, RecommenderError, UnknownNameError
from recommender.problem import build_problem
from recommender.question import Question
from recommender.run_command import TAIL_BYTES, Outcome, RunCommand, execute
from recommender.store import Pending
from recommender.study import Study
from recommender.tuning import tune

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
POOL = pd.DataFrame(
    [("desk", 1, 0.36, a, b) for a in (1, 2, 3) for b in ("x", "y; touch gone")],
    columns=["instance_type", "node_count", "usd_per_hour", "param.a", "param.b"],
)
SAY = f"{shlex.quote(PYTHON)} -c 'import sys; print(sys.argv[1])' '{{\"runtime_s\": {{param.a}}.5}}'"
"""A run that says that it took a.5 seconds."""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create("s", Question(candidates=POOL), strategy_name="random", store=tmp_path / "studies.db")


def python(code: str) -> list[str]:
    return [PYTHON, "-c", code]


def run(arguments: list[str], **limits: float) -> Outcome:
    """Execute to the end."""
    return execute(
        arguments,
        time_limit_s=limits.get("time_limit_s"),
        stop=threading.Event(),
        alive=lambda: None,
        alive_every_s=60.0,
    )


def line(code: str) -> str:
    """The command line that runs a piece of Python."""
    return shlex.join(python(code))


class TestArguments:
    """What is put where."""

    configuration = Configuration(
        instance_type="m5.large",
        node_count=4,
        params={"param.a": 2.0, "param.b": "y; 'touch' \"gone\"", "param.c": 0.1},
    )

    def arguments(self, text: str, *, shell: bool = False) -> list[str]:
        return RunCommand(line=text, shell=shell).arguments(self.configuration, run_id="r7", inputs={"input.gib": 3.0})

    def test_a_value_stays_one_argument_whatever_it_holds(self) -> None:
        assert self.arguments("job --b {param.b} '{param.b} {node_count}'") == [
            *("job", "--b", "y; 'touch' \"gone\""),
            "y; 'touch' \"gone\" 4",
        ]

    def test_whole_numbers_have_no_decimal_point_and_others_all_their_digits(self) -> None:
        assert self.arguments("job {param.a} {param.c} {input.gib} {instance_type} {run_id}") == [
            *("job", "2", "0.1", "3", "m5.large", "r7")
        ]

    def test_doubled_braces_are_braces_and_a_shell_variable_is_left_alone(self) -> None:
        assert self.arguments("awk '{print $1}' {{param.a}} '{\"a\": 1}' ${HOME}") == [
            *("awk", "{print $1}", "{param.a}", '{"a": 1}', "${HOME}")
        ]

    def test_the_shell_gets_values_quoted(self, tmp_path: Path) -> None:
        words = self.arguments(f"cd {tmp_path} && printf %s {{param.b}} > out", shell=True)
        assert words[:2] == ["/bin/sh", "-c"]
        subprocess.run(words, check=True)
        assert (tmp_path / "out").read_text() == "y; 'touch' \"gone\""
        assert [file.name for file in tmp_path.iterdir()] == ["out"]

    def test_a_placeholder_without_a_value_is_refused_before_anything_runs(self) -> None:
        problem, _ = build_problem(None, workload="w", candidates=POOL)
        with pytest.raises(UnknownNameError, match=r"\{param.aa\}.*did you mean 'param.a'"):
            RunCommand(line="echo {param.aa}").check(problem, {})
        with pytest.raises(UnknownNameError, match=r"\{input.gib\}"):
            RunCommand(line="echo {input.gib}").check(problem, {})
        assert RunCommand(line="echo {input.gib} {param.b}").check(problem, {"input.gib": 1.0}) == ("param.a",)

    @pytest.mark.parametrize(
        ("text", "message"),
        [("", "no command"), ("job 'x", "cannot be split"), ("nosuch-program x", "'nosuch-program' is not found")],
    )
    def test_what_is_no_command_is_refused(self, text: str, message: str) -> None:
        problem, _ = build_problem(None, workload="w", candidates=POOL)
        with pytest.raises(InputError, match=message):
            RunCommand(line=text).check(problem, {})


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class TestResults:
    """What a run comes to."""

    def test_without_a_word_from_the_command_it_is_the_wall_time(self) -> None:
        outcome = run(python("import time; time.sleep(0.3); print('done {')"))
        assert outcome.status == "completed"
        assert outcome.runtime_s >= 0.3

    def test_the_last_line_that_is_json_says_it(self) -> None:
        said = {"runtime_s": 1234.5, "cost_usd": 0.25, "metric.cpu_s": 7, "status": "completed", "note": "ignored"}
        outcome = run(python(f"print('{{}}'); print('x'); print({json.dumps(said)!r}); print()"))
        assert outcome == Outcome(status="completed", runtime_s=1234.5, cost_usd=0.25, metrics={"metric.cpu_s": 7.0})

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            ("{'runtime_s': 3}", "no valid JSON"),
            ('{"runtime_s": 3', "no valid JSON"),
            ('{"a":' * 9000 + "1" + "}" * 9000, "no valid JSON"),
            ('{"runtime_s": 1' + "0" * 400 + "}", "runtime_s = inf"),
            ('{"runtime_s": NaN}', "runtime_s = nan"),
            ('{"runtime_s": -1}', "runtime_s = -1"),
            ('{"runtime_s": "3"}', "runtime_s = '3'"),
            ('{"runtime_s": true}', "runtime_s = True"),
            ('{"cost_usd": -0.5}', "cost_usd = -0.5"),
            ('{"metric.x": 1e999}', "metric.x = inf"),
            ('{"runtime_s": 3, "metric.": 2}', "a counter without a name"),
            ('{"status": "ok"}', "status = 'ok'"),
        ],
    )
    def test_what_cannot_be_believed_is_a_failed_run_of_the_wall_time(self, said: str, why: str) -> None:
        outcome = run(python(f"print({said!r})"))
        assert outcome.status == "failed"
        assert why in outcome.why
        assert 0 < outcome.runtime_s < 60
        assert outcome.cost_usd is None

    @pytest.mark.parametrize("status", ["failed", "timed_out"])
    def test_a_command_may_say_that_its_job_failed(self, status: str) -> None:
        outcome = run(python(f'print(\'{{"runtime_s": 9, "status": "{status}"}}\')'))
        assert (outcome.status, outcome.runtime_s) == (status, 9.0)

    def test_an_exit_code_is_a_failed_run_with_its_last_words_and_its_bill(self) -> None:
        code = "import sys; print('{\"runtime_s\": 5, \"cost_usd\": 2}'); sys.exit('out of luck')"
        assert run(python(code)) == Outcome(
            status="failed", runtime_s=5.0, cost_usd=2.0, why="exit code 1: out of luck"
        )
        assert "exit code -9" in run(python("import os; os.kill(os.getpid(), 9)")).why

    def test_a_flood_of_output_is_read_to_its_end_and_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[run_command._Tail] = []
        start = run_command._Tail.start
        monkeypatch.setattr(run_command._Tail, "start", lambda self: (made.append(self), start(self))[1])
        code = "for _ in range(300): print('y' * 99_999)\nprint('{\"runtime_s\": 2}')"
        assert run(python(code)).runtime_s == 2.0
        assert len(made[0].text) == TAIL_BYTES

    def test_a_run_over_the_limit_is_stopped_and_timed_out_at_the_time_it_had_run(self) -> None:
        outcome = run(python("import time; time.sleep(60)"), time_limit_s=0.3)
        assert outcome.status == "timed_out"
        assert 0.3 <= outcome.runtime_s < 30

    def test_a_command_that_takes_no_hint_is_killed_with_its_children(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_command, "GRACE_S", 0.3)
        code = (
            "import os, signal, subprocess, sys, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
            "time.sleep(60)"
        )
        assert run(python(code), time_limit_s=3.0).status == "timed_out"
        for pid in map(int, (tmp_path / "pids").read_text().split()):
            deadline = time.monotonic() + 20.0  # a killed process is gone when the system gets round to it
            while _lives(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not _lives(pid)

    def test_a_child_that_outlives_its_parent_holds_nothing_up(self) -> None:
        code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
        assert run(python(code)).status == "completed"


class TestTuning:
    """The loop, in this process."""

    def test_it_measures_everything_a_strategy_wants_once(self, study: Study) -> None:
        tuned = tune(study, RunCommand(line=SAY), workers=3)
        assert (tuned.reason, tuned.runs, tuned.completed) == ("nothing is worth measuring", 6, 6)
        facts = study.summary()
        assert sorted(run["runtime_s"] for run in facts["runs"]) == [1.5, 1.5, 2.5, 2.5, 3.5, 3.5]
        assert len({(run["param.a"], run["param.b"]) for run in facts["runs"]}) == 6
        assert facts["pending"] == []
        assert facts["spent_usd"] == pytest.approx(15 * 0.0001)
        assert all(run["started_at"] for run in facts["runs"])

    def test_it_goes_on_where_it_stopped_as_if_it_never_had(self, study: Study, tmp_path: Path) -> None:
        for runs in (2, 3, 5):
            again = Study.open("s", store=study.store.path)
            assert tune(again, RunCommand(line=SAY), max_runs=runs).reason == f"{runs} runs were asked for"
        whole = Study.create("s", Question(candidates=POOL), strategy_name="random", store=tmp_path / "other.db")
        tune(whole, RunCommand(line=SAY), max_runs=5)

        def told(of: Study) -> list[dict[str, object]]:
            return [{k: v for k, v in row.items() if k != "started_at"} for row in of.snapshot().told.values()]

        assert told(study) == told(whole)

    def test_each_failed_attempt_is_told_and_paid(self, study: Study, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        code = (
            f"import os,sys; n = os.path.getsize({str(mark)!r}); open({str(mark)!r}, 'a').write('x'); sys.exit(n < 2)"
        )
        mark.touch()
        tuned = tune(study, RunCommand(line=line(code), retries=3), max_runs=3)
        told = study.snapshot().told
        assert [(name, row["status"]) for name, row in told.items()] == [
            *(("r1.1", "failed"), ("r1.2", "failed"), ("r1", "completed"))
        ]
        assert (tuned.runs, tuned.completed) == (1, 1)
        assert len({(row["param.a"], row["param.b"]) for row in told.values()}) == 1

    def test_it_ends_after_some_failures_in_a_row(self, study: Study) -> None:
        tuned = tune(study, RunCommand(line=line("import sys; sys.exit('no luck')")), max_failures=2)
        assert tuned.reason == "2 runs failed in a row"
        assert "no luck" in tuned.last_failure
        assert [row["status"] for row in study.snapshot().told.values()] == ["failed", "failed"]

    def test_it_ends_when_the_money_is_spent(self, study: Study) -> None:
        tuned = tune(study, RunCommand(line=line("print('{\"cost_usd\": 0.4}')")), search_budget_usd=1.0)
        assert tuned.reason == "$1.20 of $1.00 are spent"
        assert tuned.runs == 3

    def test_a_run_expected_to_pass_the_budget_is_not_started(self, tmp_path: Path) -> None:
        table = pd.DataFrame({"instance_type": "desk", "node_count": [1, 2, 4, 8, 16], "usd_per_hour": 3600.0})
        known = table.head(3).assign(workload="w", runtime_s=[80.0, 40.0, 20.0]).drop(columns="usd_per_hour")
        asked = Question(known, candidates=table, objective="runtime")
        study = Study.create("s", asked, strategy_name="ernest", store=tmp_path / "studies.db")
        tuned = tune(study, RunCommand(line="false"), search_budget_usd=5.0)
        assert "the next run is expected to pass the rest" in tuned.reason
        assert study.snapshot().told == {}
        assert study.snapshot().pending == ()

    @pytest.mark.parametrize("retries", [0, 2])
    def test_workers_beside_each_other_keep_the_budget(self, tmp_path: Path, retries: int) -> None:
        table = pd.DataFrame({"instance_type": "desk", "node_count": 1, "usd_per_hour": 3600.0, "param.a": range(8)})
        study = Study.create("s", Question(candidates=table), strategy_name="random", store=tmp_path / "studies.db")
        slow = RunCommand(line=line("import time, sys; time.sleep(0.4); sys.exit(1)"), retries=retries)
        tuned = tune(study, slow, search_budget_usd=1.5, workers=3, max_failures=50)
        told = study.snapshot().told.values()
        assert tuned.runs >= 3
        assert sum(row["runtime_s"] for row in told) <= 1.5 + 0.1 * len(told), (
            "a USD a second, and a moment to end each"
        )

    def test_a_command_that_is_not_there_is_an_error_and_no_failed_run(self, study: Study) -> None:
        with pytest.raises(InputError, match="cannot be started"):
            tune(study, RunCommand(line="/no/such/{param.b}"))
        assert study.snapshot().told == {}
        assert study.snapshot().pending == ()

    def test_a_result_that_cannot_be_kept_is_shown_with_how_to_tell_it(self, study: Study) -> None:
        def tell_it_first(pending: Pending) -> None:
            study.tell(pending.id, runtime_s=99.0)

        with pytest.raises(RecommenderError, match=r"is not kept .*then: recommender study tell s --id r1 .*--runtime"):
            tune(study, RunCommand(line=SAY), on_start=tell_it_first)

    def test_leases_are_renewed_while_a_run_lasts(self, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        renewed: list[str] = []
        monkeypatch.setattr(Study, "renew", lambda self, run_id, lease_s: renewed.append(run_id) or True)
        monkeypatch.setattr("recommender.tuning.LEASE_S", 0.3)
        tune(study, RunCommand(line=line("import time; time.sleep(1)")), max_runs=1)
        assert len(renewed) >= 2
        assert set(renewed) == {"r1"}


def command(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """`recommender ARGUMENTS` in a process of its own, its store in `cwd`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RECOMMENDER_STORE": str(cwd / "studies.db")}
    words = [PYTHON, "-m", "recommender", *arguments]
    return subprocess.Popen(words, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = command(*arguments, cwd=cwd)
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    POOL.to_csv(tmp_path / "pool.csv", index=False)
    return tmp_path


def test_a_dry_run_prints_the_commands_and_makes_nothing(pool: Path) -> None:
    asked = ["--study", "s", "--candidates", "pool.csv", "--strategy", "random", "--run", "echo {param.a} {param.b}"]
    code, out, errors = finished("tune", *asked, "--dry-run", "--workers", "2", cwd=pool)
    assert (code, errors) == (0, "")
    assert not (pool / "studies.db").exists()
    would = [shlex.split(line) for line in out.splitlines()]
    study = Study.create("s", Question(candidates=POOL), strategy_name="random", store=pool / "other.db")
    given = [p.run.params for p in study.ask(2)]
    assert would == [["echo", f"{p['param.a']:.0f}", p["param.b"]] for p in given]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_ended_released_and_told_as_nothing(
    pool: Path, number: signal.Signals, code: int
) -> None:
    mark = pool / "pids"
    job = (
        f"import os, sys, time; open({str(mark)!r}, 'a').write(str(os.getpid()) + chr(10))\n"
        f"len(open({str(mark)!r}).readlines()) > 2 and time.sleep(60)"
    )
    asked = ["--study", "s", "--candidates", "pool.csv", "--strategy", "random", "--workers", "2"]
    process = command("tune", *asked, "--run", line(job), cwd=pool)
    while not (mark.exists() and mark.read_text().count("\n") == 4):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    study = Study.open("s", store=pool / "studies.db")
    assert {row["status"] for row in study.snapshot().told.values()} == {"completed"}
    assert len(study.snapshot().told) == 2
    assert study.snapshot().pending == ()
    for pid in map(int, mark.read_text().split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    if number == signal.SIGINT:
        assert "go on with: recommender tune --study s" in errors
    # The study remembers what it runs, and is gone on with by its name alone.
    code, out, errors = finished("tune", "--study", "s", "--max-runs", "2", "--format", "json", cwd=pool)
    assert code == 0, errors
    assert (json.loads(out)["stopped"], len(json.loads(out)["runs"])) == ("2 runs were asked for", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--study", "s"), "no study 's' to go on with"),
        (("--candidates", "pool.csv", "--run", "no-such-program"), "'no-such-program' is not found"),
        (("--candidates", "pool.csv", "--run", "echo {param.aa}"), "did you mean 'param.a'"),
        (("--candidates", "pool.csv", "--run", "echo", "--time-limit", "soon"), "'soon' is not a duration"),
        (("--candidates", "none.csv", "--run", "echo"), "none.csv"),
        (("--candidates", "pool.csv", "--run", "echo", "--strategy", "rndom"), "did you mean 'random'"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line_and_leaves_no_store(
    pool: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, errors = finished("tune", *arguments, cwd=pool)
    assert (code, out) == (1, "")
    assert errors.count("\n") == 1
    assert message in errors
    assert not (pool / "studies.db").exists()


def test_an_existing_study_asks_what_it_was_made_for(pool: Path) -> None:
    Study.create("s", Question(candidates=POOL), strategy_name="random", store=pool / "studies.db")
    for other, why in (
        (("--deadline", "2h"), "differs in deadline_s"),
        (("--strategy", "ernest"), "its strategy is random"),
    ):
        code, _, errors = finished("tune", "--study", "s", "--run", "echo", *other, cwd=pool)
        assert code == 1
        assert why in errors
    code, _, errors = finished("tune", "--study", "s", cwd=pool)
    assert (code, "say what to run" in errors) == (1, True)


def test_the_same_command_goes_on_with_a_study_that_was_interrupted(pool: Path) -> None:
    POOL.to_csv(pool / "pool.csv", index=False)
    asked = ["--study", "again", "--candidates", "pool.csv", "--objective", "runtime", "--deadline", "1h"]
    for most in ("1", "2"):
        code, _, errors = finished("tune", *asked, "--max-runs", most, "--run", "true", cwd=pool)
        assert code == 0, errors
    assert len(Study.open("again", store=pool / "studies.db").snapshot().told) == 2


def test_without_any_price_cost_is_refused_before_anything_is_run(pool: Path) -> None:
    POOL.drop(columns="usd_per_hour", errors="ignore").to_csv(pool / "free.csv", index=False)
    code, _, errors = finished("tune", "--study", "free", "--candidates", "free.csv", "--run", "true", cwd=pool)
    assert (code, "or take --objective runtime" in errors) == (1, True)


def test_the_example_runs_as_its_text_says(tmp_path: Path) -> None:
    example = ROOT / "examples" / "tune_local.py"
    with (ROOT / "examples" / "tune_local.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["param.threads"], row["param.batch_kib"]) for row in rows}) == len(rows) == 16
    job = f"{shlex.quote(PYTHON)} {example} --mib 1 --threads {{param.threads}} --batch-kib {{param.batch_kib}}"
    asked = ["--study", "local", "--candidates", str(ROOT / "examples" / "tune_local.csv"), "--strategy", "random"]
    code, out, errors = finished(
        "tune", *asked, "--objective", "runtime", "--max-runs", "3", "--run", job, "--format", "json", cwd=tmp_path
    )
    assert code == 0, errors
    said = json.loads(out)
    assert said["stopped"] == "3 runs were asked for"
    assert {run["status"] for run in said["runs"]} == {"completed"}
    assert all(run["metric.compression_ratio"] > 1 for run in said["runs"])
    best = min(said["runs"], key=lambda run: run["runtime_s"])
    assert said["incumbent"]["params"] == {k: v for k, v in best.items() if k.startswith("param.")}
    assert errors.count("completed after") == 3


def test_runs_that_all_fail_end_in_an_error_with_the_last_words(pool: Path) -> None:
    asked = ["--study", "s", "--candidates", "pool.csv", "--strategy", "random", "--max-failures", "2"]
    job = line("import sys; sys.exit('out of luck')")
    code, out, errors = finished("tune", *asked, "--run", job, cwd=pool)
    assert code == 1
    assert "stopped: 2 runs failed in a row" in out
    assert errors.splitlines()[-1].endswith(
        "none of the 2 runs made now completed; the last one: exit code 1: out of luck"
    )
