"""Run one command on some CPUs of this machine, and measure what it and its descendants used.

Where each number comes from: runtime from a monotonic clock, stopped by a thread blocked in `wait4`; CPU time and the
largest single process from the kernel's accounts at exit; memory of the whole tree by sampling; disk bytes from the
kernel's I/O accounts, which a parent inherits from every child it waited for; network bytes from the counters of the
machine, since no system keeps them by process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from recommender.errors import InputError

_GIB = 1024.0**3
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_GRACE_S = 1.0
"""How long a process told to stop has before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one execution took. `None` is unknown, never zero."""

    status: str
    """`completed`, `failed` (the exit code is not 0) or `timed_out` (killed at the time limit)."""
    exit_code: int
    """The command's own, or minus the number of the signal that ended it."""
    runtime_s: float
    """Wall time from start to exit, or to the time limit."""
    cpu_s: float | None
    """User and system time of all processes."""
    peak_memory_gib: float | None
    """Largest sum of resident memory over the processes at one time; memory they share counts once (Linux)."""
    disk_read_gib: float | None
    """Read from storage, not from the page cache (Linux)."""
    disk_write_gib: float | None
    """Written towards storage (Linux)."""
    net_recv_gib: float | None
    """Received by the whole machine meanwhile, without the loopback."""
    net_sent_gib: float | None
    """Sent by the whole machine meanwhile, without the loopback."""
    last_error_line: str
    """The last line the command wrote to stderr; empty when its output is shown."""


def can_limit_cores() -> bool:
    """Return whether this system can confine a process to some CPUs."""
    return hasattr(os, "sched_setaffinity")


def available_cpus() -> tuple[int, ...]:
    """Return the CPUs this process may use; hardware threads of one core are neighbours, as in an instance's vCPUs."""
    if not can_limit_cores():
        return tuple(range(os.cpu_count() or 1))
    return tuple(sorted(os.sched_getaffinity(0), key=lambda cpu: (_first_sibling(cpu), cpu)))


def _first_sibling(cpu: int) -> int:
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return int(siblings.read_text(encoding="ascii").replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return cpu


def measure(
    arguments: Sequence[str],
    *,
    cpus: Sequence[int],
    environment: Mapping[str, str],
    time_limit_s: float | None,
    show_output: bool = False,
) -> Measurement:
    """Run `arguments` on `cpus` until it exits or `time_limit_s` is over, then end whatever it left running.

    Interrupted by any exception (Ctrl-C), all of its processes are killed before that goes on.

    Raises
    ------
    InputError
        When the command cannot be started.
    """
    with tempfile.TemporaryFile() as errors:
        disk, network = _disk_bytes(), _network_bytes()
        start = time.perf_counter()
        process = _start(arguments, cpus, environment, None if show_output else errors)
        own_peak = _own_peak_bytes()
        try:
            tree, waiter = _Tree(process.pid), _Waiter(process)
            waiter.start()
            try:
                expired_s = _watch(tree, waiter, start, time_limit_s)
            finally:
                tree.kill(waiter)
                waiter.join()
        except BaseException:  # interrupted before the watch began: nothing else would end the command
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        disk_after, network_after = _disk_bytes(), _network_bytes()
        line = "" if show_output else _last_line(errors)
    code = os.waitstatus_to_exitcode(waiter.status)
    timed_out = expired_s is not None and waiter.ended - start > expired_s  # not when it ended just before
    largest = waiter.usage.ru_maxrss * _MAXRSS_UNIT
    # Linux starts a process's account of its largest size at the size of the process that started it: this one.
    peak = max(tree.peak_bytes, largest if largest > own_peak else 0)
    return Measurement(
        status="timed_out" if timed_out else "failed" if code else "completed",
        exit_code=code,
        runtime_s=expired_s if timed_out and expired_s is not None else waiter.ended - start,
        cpu_s=max(waiter.usage.ru_utime + waiter.usage.ru_stime, tree.cpu_s),
        peak_memory_gib=peak / _GIB if peak else None,
        disk_read_gib=_gib_between(disk, disk_after, 0),
        disk_write_gib=_gib_between(disk, disk_after, 1),
        net_recv_gib=_gib_between(network, network_after, 0),
        net_sent_gib=_gib_between(network, network_after, 1),
        last_error_line=line,
    )


def _start(
    arguments: Sequence[str], cpus: Sequence[int], environment: Mapping[str, str], errors: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start in a session of its own; the affinity is inherited from this thread, which gets its own back."""
    own = os.sched_getaffinity(0) if can_limit_cores() else None
    try:
        if own is not None:
            os.sched_setaffinity(0, cpus)
        return subprocess.Popen(  # noqa: S603 - running the user's command is what this is for
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if errors is not None else _standard_error(),
            stderr=errors if errors is not None else _standard_error(),
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(f"the command {arguments[0]!r} cannot be started on CPUs {list(cpus)}: {error}") from error
    finally:
        if own is not None:
            os.sched_setaffinity(0, own)


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return 2


def _watch(tree: _Tree, waiter: _Waiter, start: float, time_limit_s: float | None) -> float | None:
    """Sample until the command exits: return `None`; or until the limit: return the seconds it had run."""
    while True:
        sampling = time.perf_counter()
        tree.sample()
        now = time.perf_counter()
        # Often at first, since short runs need it; sampling itself may take a twentieth of one CPU at most.
        pause = max(0.02, 20 * (now - sampling), min(0.5, (now - start) / 100))
        if time_limit_s is not None:
            pause = min(pause, max(0.0, start + time_limit_s - now))
        if waiter.done.wait(pause):
            return None
        elapsed = time.perf_counter() - start
        if time_limit_s is not None and elapsed >= time_limit_s:
            return elapsed


class _Waiter(threading.Thread):
    """Waits for the command, so that its end is timed at once and its resource usage is not lost."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self._process = process

    def run(self) -> None:
        _, self.status, self.usage = os.wait4(self._process.pid, 0)
        self.ended = time.perf_counter()
        self._process.returncode = os.waitstatus_to_exitcode(self.status)
        self.done.set()


class _Tree:
    """A command and its descendants: also those whose parent ended, once they have been seen."""

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)
        self.peak_bytes = 0
        self._cpu_s: dict[psutil.Process, float] = {}

    @property
    def cpu_s(self) -> float:
        """CPU time of all processes, when each was last seen."""
        return sum(self._cpu_s.values())

    def sample(self) -> None:
        """Note the CPU time and memory of every process."""
        processes = self._processes()
        total = largest = 0
        for process in processes:
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                self._cpu_s[process] = times.user + times.system
                own_peak = _high_water_bytes(process)
                largest = max(largest, own_peak)
                total += own_peak if len(processes) == 1 else _proportional_bytes(process)
        self.peak_bytes = max(self.peak_bytes, total, largest)

    def _processes(self) -> list[psutil.Process]:
        found: dict[psutil.Process, None] = {}
        for process in (self.root, *self._cpu_s):
            with contextlib.suppress(psutil.Error):
                if process not in found and _is_alive(process):
                    found[process] = None
                    found.update(dict.fromkeys(process.children(recursive=True)))
        return list(found)

    def kill(self, waiter: _Waiter) -> None:
        """End every process: ask, wait a moment, then kill."""
        for order in (signal.SIGTERM, signal.SIGKILL):
            alive = self._processes()
            if not alive and waiter.done.is_set():
                with contextlib.suppress(OSError):
                    os.killpg(self.root.pid, signal.SIGKILL)
                return
            with contextlib.suppress(OSError):
                os.killpg(self.root.pid, order)
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(order)
            deadline = time.perf_counter() + _GRACE_S
            while any(_is_alive(process) for process in alive) and time.perf_counter() < deadline:
                time.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _high_water_bytes(process: psutil.Process) -> int:
    """Return the most resident memory a process has had (Linux), else what it has."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return int(process.memory_info().rss)


def _proportional_bytes(process: psutil.Process) -> int:
    """Return the memory of a process, pages shared by n processes counting 1/n each where the system tells (Linux)."""
    with contextlib.suppress(psutil.AccessDenied):
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    return int(process.memory_info().rss)


def _own_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _disk_bytes() -> tuple[int, int] | None:
    """Return (read, written) bytes of this process and the children it waited for, where the system counts them."""
    try:
        counters = psutil.Process().io_counters()
    except (AttributeError, psutil.Error, OSError, NotImplementedError):
        return None
    return counters.read_bytes, counters.write_bytes


def _network_bytes() -> tuple[int, int] | None:
    """Return (received, sent) bytes of the machine's interfaces but the loopback."""
    try:
        interfaces = psutil.net_io_counters(pernic=True)
    except (psutil.Error, OSError):
        return None
    real = [counters for name, counters in interfaces.items() if not name.startswith("lo")]
    return (sum(c.bytes_recv for c in real), sum(c.bytes_sent for c in real)) if real else None


def _gib_between(before: tuple[int, int] | None, after: tuple[int, int] | None, which: int) -> float | None:
    return None if before is None or after is None else max(0, after[which] - before[which]) / _GIB


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4096))
    lines = errors.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
