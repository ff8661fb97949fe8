"""Processes that compute an evaluation's tasks, on this machine or a dask cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, as_completed
from typing import Any

from recommender.checkpoint import Key, Row
from recommender.composition import Strategy
from recommender.errors import RecommenderError
from recommender.replay import Environment

Task = tuple[str, Strategy, Environment, list[int], int]
"""Name, strategy, workload, seeds and steps of some episodes."""
Compute = Callable[[str, Strategy, Environment, list[int], int], dict[Key, list[Row]]]


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes of a command, to the one that ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(parent: int) -> None:
    """Ignore Ctrl-C, and end soon after the process `parent`: killed, it can tell nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)  # as the parent would have

    _ignore_interrupts()
    threading.Thread(target=watch, daemon=True).start()


def on_loky(compute: Compute, tasks: list[Task], jobs: int) -> Iterator[dict[Key, list[Row]]]:
    """Processes of this machine, killed when their results are no longer wanted.

    Raises
    ------
    RecommenderError
        When a process ends before its task does.
    """
    from joblib.externals.loky import ProcessPoolExecutor  # type: ignore[import-untyped]

    executor = ProcessPoolExecutor(min(jobs, len(tasks)), initializer=_end_with, initargs=(os.getpid(),))
    finished = False
    try:
        futures = [executor.submit(compute, *task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
        finished = True
    except BrokenExecutor as error:
        raise RecommenderError(
            f"a worker process ended before its task did ({error}): too little memory? Take fewer --jobs; with --out, what "
            "was finished is kept and the same command continues"
        ) from error
    finally:
        hook = threading.excepthook
        if not finished:  # loky's own thread may trip over the table that the kill clears; nobody needs its traceback
            threading.excepthook = lambda _: None
        try:
            executor.shutdown(kill_workers=not finished)
        finally:
            threading.excepthook = hook


def on_dask(compute: Compute, tasks: list[Task], jobs: int, address: str | None) -> Iterator[dict[Key, list[Row]]]:
    """Processes of a dask cluster: the one at `address`, or one of `jobs` processes on this machine.

    Raises
    ------
    RecommenderError
        When dask is not installed or no scheduler answers.
    """
    try:
        from distributed import Client, LocalCluster
        from distributed import as_completed as completed
    except ImportError as error:
        raise RecommenderError(
            "the dask backend needs dask.distributed, which is not installed: pip install "
            "'cloud-configuration-recommender[dask]', or use --backend loky"
        ) from error
    with contextlib.ExitStack() as stack:
        if address is None:
            one_thread = {"n_workers": jobs, "threads_per_worker": 1, "processes": True}
            # What a task raises comes back without the log, which warns of every worker that is stopped at its work. Any
            # free port will do for the page about the cluster: that of another evaluation may be there already.
            quiet = {"silence_logs": logging.CRITICAL, "dashboard_address": "127.0.0.1:0"}
            cluster = stack.enter_context(LocalCluster(**one_thread, **quiet))  # type: ignore[no-untyped-call]
        try:
            client = Client(cluster if address is None else address)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise RecommenderError(
                f"no dask scheduler answers at {address!r} ({error}); name one as tcp://HOST:PORT"
            ) from error
        stack.enter_context(client)
        if address is None:
            client.run(_ignore_interrupts)
        sent: dict[str | None, Any] = {}
        futures = []
        for name, chosen, world, seeds, steps in tasks:
            workload = world.problem.workload
            if workload not in sent:
                sent[workload] = client.scatter(world, hash=False)  # type: ignore[no-untyped-call]
            futures.append(client.submit(compute, name, chosen, sent[workload], seeds, steps, pure=False))
        for _, computed in completed(futures, with_results=True):  # type: ignore[no-untyped-call]
            yield computed
