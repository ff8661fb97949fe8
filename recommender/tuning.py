"""The closed loop: ask the study, run the user's command on what it says, tell it what that took.

The main thread asks; one thread a run drives its process, renews its lease and tells the result as soon as there is one.
"""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from recommender.errors import InputError, RecommenderError
from recommender.run_command import Outcome, RunCommand, execute
from recommender.search.acquisition import row_of
from recommender.search.lookahead import run_limit_s
from recommender.store import Pending, now
from recommender.study import Study
from recommender.units import format_usd

LEASE_S = 60.0
"""Lease of a run in progress, renewed while it lasts, so that what a killed process held is soon free."""
NOTHING = "nothing is worth measuring"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How a tuning ended."""

    reason: str
    """Why no more was measured."""
    runs: int
    """Runs that this call made and told."""
    completed: int
    """Those of them that completed."""
    last_failure: str
    """Why the last one that failed did."""


def tune(
    study: Study,
    command: RunCommand,
    *,
    workers: int = 1,
    max_runs: int | None = None,
    search_budget_usd: float | None = None,
    stop_dear: bool = False,
    max_failures: int = 5,
    on_start: Callable[[Pending], None] | None = None,
    on_end: Callable[[Pending, Outcome], None] | None = None,
) -> Tuned:
    """Measure what the study asks for until nothing is worth it; any exception (Ctrl-C) ends the runs in progress.

    Those are told to stop (SIGTERM, then SIGKILL), released and told as nothing; the study can be gone on with.

    Parameters
    ----------
    workers
        Runs in progress at once.
    max_runs
        Ends when the study holds this many runs, those told before included.
    search_budget_usd
        Ends when all runs told have cost this much, or the next is expected to cost more than is left. A run of a
        candidate with a price is ended, as timed out, when what it cost passes what is left beside the runs in progress.
    stop_dear
        A run is ended, as timed out, when it has cost more than the best feasible one (objective cost; Lynceus' rule).
    max_failures
        Ends after this many failures in a row.

    Raises
    ------
    RecommenderError
        When the command cannot be started, or a result cannot be kept.
    """
    if workers < 1 or max_failures < 1:
        raise InputError(f"{workers} workers, at most {max_failures} failures given; each must be 1 or more")
    stop, flying = threading.Event(), dict[Future[Outcome], Pending]()
    reserved = dict[str, float]()  # run in progress -> USD that it may come to at most
    ended: list[Outcome] = []
    failed_in_a_row, reason = 0, ""
    idle: tuple[int, list[str]] | None = None  # what the study knew when nothing was worth measuring
    with ThreadPoolExecutor(workers) as pool:
        given: list[Pending] = []
        try:
            while True:
                while len(flying) < workers:
                    snapshot = study.snapshot()
                    state = (len(snapshot.told), [p.id for p in snapshot.live])
                    reason = f"{max_failures} runs failed in a row" if failed_in_a_row >= max_failures else ""
                    reason = reason or _enough(study, len(flying), max_runs, search_budget_usd)
                    reason = reason or (NOTHING if state == idle else "")
                    given = [] if reason else study.ask(lease_s=LEASE_S)
                    if not given:
                        idle, reason = (idle, reason) if reason else (state, NOTHING)
                        break
                    share = math.inf
                    if search_budget_usd is not None:
                        left = search_budget_usd - float(np.nansum(study.costs_usd()))
                        share, reason = _share(given[0], left, sum(reserved.values()), workers - len(flying))
                        if reason:
                            study.release(given[0].id)
                            break
                    whole_s, reserved[given[0].id] = _limits(study, command, given[0], share, stop_dear)
                    if on_start is not None:
                        on_start(given[0])
                    flying[pool.submit(_measure, study, command, given[0], stop, whole_s)] = given[0]
                if flying:
                    done = set[Future[Outcome]]()
                    while not done:  # now and then, since a signal that comes just before a wait would not end it
                        done = wait(flying, timeout=0.5, return_when=FIRST_COMPLETED).done
                    for future in done:
                        pending, outcome = flying.pop(future), future.result()
                        reserved.pop(pending.id, None)
                        ended.append(outcome)
                        failed_in_a_row = failed_in_a_row + 1 if outcome.status == "failed" else 0
                        if on_end is not None:
                            on_end(pending, outcome)
                elif reason == NOTHING and any(p.expires_at - now() <= LEASE_S for p in study.snapshot().live):
                    time.sleep(0.5)  # another tuning of this study is measuring: what it tells may change that
                else:
                    break
        except BaseException:
            stop.set()
            for pending in given:
                if pending not in flying.values():
                    study.release(pending.id)
            raise
    words = [outcome.why for outcome in ended if outcome.status == "failed"]
    completed = sum(outcome.status == "completed" for outcome in ended)
    return Tuned(reason=reason, runs=len(ended), completed=completed, last_failure=words[-1] if words else "")


def _enough(study: Study, flying: int, max_runs: int | None, budget_usd: float | None) -> str:
    """Why no more may be measured; empty when more may."""
    snapshot = study.snapshot()
    if max_runs is not None and len(snapshot.told) + flying >= max_runs:
        return f"{max_runs} runs were asked for"
    if budget_usd is not None and (spent := float(np.nansum(study.costs_usd(snapshot)))) >= budget_usd:
        return f"{format_usd(spent)} of {format_usd(budget_usd)} are spent"
    return ""


def _share(pending: Pending, left_usd: float, reserved_usd: float, free: int) -> tuple[float, str]:
    """USD that the run may come to, out of what is left beside the runs in progress; or why it may not start now.

    An equal part for each free worker, so that all of them together keep the budget, unless that is less than twice what
    the run is expected to cost: then all of what is left, and nothing beside it.
    """
    part = (left_usd - reserved_usd) / free
    expected = pending.run.expected_cost_usd
    if expected is None or part >= 2.0 * expected:
        return part, "" if part > 0 else "the runs in progress may come to all that is left"
    if reserved_usd > 0:
        return 0.0, "the next run is to have what is left for itself"
    if expected > left_usd:
        return (
            0.0,
            f"{format_usd(max(left_usd, 0.0))} of the budget are left, and the next run is expected to pass the rest",
        )
    return left_usd, ""


def _limits(study: Study, command: RunCommand, pending: Pending, share_usd: float, dear: bool) -> tuple[float, float]:
    """Seconds that all attempts at a run may take by what they cost, inf for no limit; and USD they may come to."""
    if not (dear or math.isfinite(share_usd)):
        return math.inf, 0.0
    problem, runs = study.evidence()
    row = row_of(problem, pending.run)
    by_share = run_limit_s(problem, runs, row, left_usd=share_usd, past_incumbent=False)
    whole_s = run_limit_s(problem, runs, row, left_usd=share_usd, past_incumbent=dear)
    if not math.isfinite(by_share):  # no budget, or no price
        return whole_s, 0.0
    most_s = min(whole_s, (command.time_limit_s or math.inf) * (command.retries + 1))
    return whole_s, share_usd * min(most_s / by_share, 1.0) if by_share > 0 else 0.0


def _measure(study: Study, command: RunCommand, pending: Pending, stop: threading.Event, whole_s: float) -> Outcome:
    """Run one configuration and tell what it came to; a failed attempt is told by itself and made again.

    All attempts together take at most `whole_s` seconds.
    """
    arguments = command.arguments(pending.run, run_id=pending.id, inputs=pending.inputs)
    for attempt in range(1, command.retries + 2):
        started = datetime.now(UTC).isoformat(timespec="seconds")
        limit = min(command.time_limit_s or math.inf, whole_s)
        try:
            outcome = execute(
                arguments,
                time_limit_s=max(limit, 1e-3) if math.isfinite(limit) else None,
                stop=stop,
                alive=lambda: study.renew(pending.id, LEASE_S),
                alive_every_s=LEASE_S / 3,
            )
        except BaseException:
            study.release(pending.id)
            raise
        if outcome.status == "interrupted":
            study.release(pending.id)
            return outcome
        whole_s -= outcome.runtime_s
        again = outcome.status == "failed" and attempt <= command.retries and whole_s > 0
        name = f"{pending.id}.{attempt}" if again else pending.id
        try:
            study.tell(
                name,
                runtime_s=max(round(outcome.runtime_s, 6), 1e-6),  # a clock too coarse saw less than a microsecond
                status=outcome.status,
                configuration=pending.run,
                cost_usd=outcome.cost_usd,
                inputs=pending.inputs,
                metrics=outcome.metrics,
                started_at=started,
            )
        except RecommenderError as error:
            where = ["--instance-type", pending.run.instance_type, "--node-count", str(pending.run.node_count)]
            where += [f"--param={k.removeprefix('param.')}={v}" for k, v in pending.run.params.items()]
            words = ["recommender", "study", "tell", study.name, "--id", name, "--status", outcome.status, *where]
            by_hand = shlex.join([*words, "--runtime", f"{outcome.runtime_s:.6f}"])
            raise RecommenderError(
                f"run {name} on {pending.run.label} is not kept ({error}); then: {by_hand}"
            ) from error
        if not again:
            break
    return outcome
