"""One execution of the user's command on one configuration: its arguments, its processes, what it says.

The line is split into arguments before values are put in, so no value can be taken for another word or for a line of the
shell; where a shell is asked for, values are quoted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from recommender.candidates import Configuration
from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.problem import Problem

GRACE_S = 10.0
"""How long a process told to stop has before it is killed."""
TAIL_BYTES = 65_536
"""How much of the end of a command's output is kept."""
_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}|(?<!\$)\{([A-Za-z_][^{}\s]*)\}")


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """How a configuration is measured. Raises InputError on construction when `line` is no command."""

    line: str
    """With {instance_type}, {node_count}, {param.NAME}, {input.NAME} and {run_id}; {{x}} is {x} itself."""
    shell: bool = False
    """Give the line to `/bin/sh -c`; otherwise it is split into arguments as the shell would, and no shell is used."""
    time_limit_s: float | None = None
    """Seconds after which a run is ended and told as timed out."""
    retries: int = 0
    """How often a run that failed is made again. Each attempt is told: it is evidence and was paid for."""

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.line) if not self.shell else self.line.split()
        except ValueError as error:
            raise InputError(f"the command {self.line!r} cannot be split into words: {error}") from None
        if not words:
            raise InputError("there is no command to run; give one, such as --run 'python job.py {instance_type}'")
        if self.time_limit_s is not None and not 0 < self.time_limit_s < math.inf:
            raise InputError(f"a time limit of {self.time_limit_s} s given; it must be more than 0 and finite")
        if self.retries < 0:
            raise InputError(f"{self.retries} retries given; 0 or more are allowed")

    def check(self, problem: Problem, inputs: Mapping[str, float]) -> tuple[str, ...]:
        """Return the parameters that the command does not use.

        Raises
        ------
        RecommenderError
            For a placeholder that no value belongs to, and a program that is not there.
        """
        known = ["instance_type", "node_count", "run_id", *problem.candidates.params, *inputs]
        used = [match[2] for match in _PLACEHOLDER.finditer(self.line) if match[2]]
        for name in used:
            if name not in known:
                raise UnknownNameError(
                    f"the command has {{{name}}}, which no value belongs to{did_you_mean(name, known)} "
                    f"(there are: {', '.join(known)}; write {{{{{name}}}}} for the braces themselves)"
                )
        program = "/bin/sh" if self.shell else shlex.split(self.line)[0]
        if not _PLACEHOLDER.search(program) and shutil.which(program) is None:
            raise InputError(
                f"the command {program!r} is not found or not executable; check its spelling and PATH "
                "(a line for the shell needs --shell)"
            )
        return tuple(name for name in problem.candidates.params if name not in used)

    def arguments(self, run: Configuration, *, run_id: str, inputs: Mapping[str, float]) -> list[str]:
        """Return the argument vector for one configuration."""
        values = {
            "instance_type": run.instance_type,
            "node_count": run.node_count,
            "run_id": run_id,
            **inputs,
            **run.params,
        }

        def fill(text: str, quote: Callable[[str], str]) -> str:
            def value(match: re.Match[str]) -> str:
                if match[2] is None:
                    return f"{{{match[1]}}}"
                if match[2] not in values:
                    raise InputError(f"{run.label} has no {match[2]}, which the command needs")
                return quote(_shown(values[match[2]]))

            return _PLACEHOLDER.sub(value, text)

        if self.shell:
            return ["/bin/sh", "-c", fill(self.line, shlex.quote)]
        return [fill(word, str) for word in shlex.split(self.line)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one execution came to."""

    status: str
    """`completed`, `failed`, `timed_out`, or `interrupted`: ended from here, which says nothing about the run."""
    runtime_s: float
    """As the command says, else wall time from start to exit, or to the time limit."""
    cost_usd: float | None = None
    """As the command says; None when it does not."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """`metric.NAME` as the command says."""
    why: str = ""
    """Why it failed, or its last word."""


def execute(
    arguments: list[str],
    *,
    time_limit_s: float | None,
    stop: threading.Event,
    alive: Callable[[], object],
    alive_every_s: float,
) -> Outcome:
    """Run a command to its end, its time limit or `stop`, and end whatever it left running.

    `alive` is called now and then meanwhile, `alive_every_s` apart. Raises InputError when it cannot be started.
    """
    start = time.perf_counter()
    try:
        process = subprocess.Popen(  # noqa: S603 - running the user's command is what this is for
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"the command {arguments[0]!r} cannot be started: {error}") from error
    ending = _Ending(process)
    limit = math.inf if time_limit_s is None else start + time_limit_s
    status, decided, renewed = "", math.inf, start
    try:
        output, errors = _Tail(process.stdout), _Tail(process.stderr)
        while not ending.done.wait(max(0.0, min(0.05, limit - time.perf_counter()))):
            decided = time.perf_counter()
            if stop.is_set() or decided >= limit:
                status = "interrupted" if stop.is_set() else "timed_out"
                break
            if decided - renewed > alive_every_s:
                alive()
                renewed = decided
    finally:
        _end(process, ending)
    for tail in (output, errors):
        tail.join(1.0)  # not for ever: a child that left the group may hold the pipe
    if status and ending.at > decided:  # not when it ended just before
        return Outcome(status=status, runtime_s=decided - start, why="stopped")
    return _outcome(process.returncode, ending.at - start, output.text, errors.text)


def _outcome(code: int, wall_s: float, output: str, errors: str) -> Outcome:
    """What the last line of stdout says, where that is a JSON object, else what was seen.

    What is not understood is not believed: the run counts as failed, never as a fast one.
    """
    said, problem = _said(output)
    metrics = {name: float(value) for name, value in said.items() if name.startswith("metric.")}
    status = said.get("status", "completed")
    if code:
        status, last = "failed", _last_line(errors)
        problem = f"exit code {code}" + (f": {last}" if last else "")
    elif problem:
        status = "failed"
    return Outcome(
        status=status,
        runtime_s=float(said.get("runtime_s", wall_s)),
        cost_usd=said.get("cost_usd"),
        metrics=metrics,
        why=problem or ("" if status == "completed" else f"the command says {status}"),
    )


def _said(output: str) -> tuple[dict[str, Any], str]:
    """The result on the last line, and what is wrong with it: then there is none."""
    line = _last_line(output)
    if not line.startswith("{"):
        return {}, ""
    try:
        said = json.loads(line, parse_int=float)  # a number too large for a float is refused as inf
    except (ValueError, RecursionError) as error:
        return {}, f"the last line of its output is no valid JSON ({error})"
    for name, value in said.items():
        if name == "status":
            if value not in ("completed", "failed", "timed_out"):
                return {}, f"its output says status = {value!r}; completed, failed or timed_out is allowed"
        elif name == "metric.":
            return {}, "its output has a counter without a name; metric.NAME is needed"
        elif name in ("runtime_s", "cost_usd") or name.startswith("metric."):
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or (name == "runtime_s" and value <= 0) or (name == "cost_usd" and value < 0):
                allowed = {"runtime_s": "seconds above 0", "cost_usd": "0 or more"}.get(name, "a finite number")
                return {}, f"its output says {name} = {value!r}; allowed: {allowed}"
    return said, ""


class _Ending(threading.Thread):
    """Waits for a process, so that its end is timed at once."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.at = math.inf
        self._process = process
        self.start()

    def run(self) -> None:
        self._process.wait()
        self.at = time.perf_counter()
        self.done.set()


class _Tail(threading.Thread):
    """Reads a pipe to its end and keeps the last TAIL_BYTES."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        self._pipe, self._kept = pipe, b""
        self.start()

    @property
    def text(self) -> str:
        """What was kept."""
        return self._kept.decode(errors="replace")

    def run(self) -> None:
        assert self._pipe is not None
        with self._pipe as pipe:
            while chunk := os.read(pipe.fileno(), TAIL_BYTES):
                self._kept = (self._kept + chunk)[-TAIL_BYTES:]


def _end(process: subprocess.Popen[bytes], ending: _Ending) -> None:
    """End the command's process group: ask, wait a while, then kill; what it left running is killed at once."""
    if not ending.done.is_set():
        _signal(process, signal.SIGTERM)
        ending.done.wait(GRACE_S)
    _signal(process, signal.SIGKILL)
    ending.done.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _shown(value: object) -> str:
    """A value as an argument: whole numbers without a decimal point, others with all their digits."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
