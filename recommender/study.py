"""Studies: ask what to measure, tell what was measured, recommend. The only state is the list of runs.

Every answer is the strategy's pure function of (problem, runs told + believed pending runs), so a study that is killed
and opened again, by this process or another, goes on as if it had never stopped.
"""

from __future__ import annotations

import difflib
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.candidates import Configuration
from recommender.errors import InfeasibleError, InputError, RecommenderError, UnknownNameError, did_you_mean
from recommender.models import configuration_rows
from recommender.models.yardsticks import MeasuredOnly
from recommender.pending import batch, same
from recommender.pricing import BY_NAME, price_option
from recommender.pricing.cost import on_demand_cost
from recommender.problem import Problem
from recommender.question import Question, check_priced, input_columns
from recommender.ranking import describe, rank
from recommender.recommendation import Recommendation, Row
from recommender.runs import Runs
from recommender.store import Pending, Snapshot, Store, StoredStudy, check_name
from recommender.strategies import strategy

SCHEMA = "recommender/study/1"
LEASE_S = 7200.0
"""How long a configuration is kept for the worker it was given to, unless it says otherwise."""
STALE_ATTEMPTS = 3
"""Choices made again because others were faster; after that one on slightly older evidence, or the next best, stands."""
MOST_SPARE = 63
"""Most configurations chosen beside those asked for, so that one of them is free."""
MOST_ATTEMPTS = 1000


class Study:
    """One problem under study: made by `create`, gone on with by `open`; safe to use from several threads.

    Processes that work on one study at once open it each.
    """

    def __init__(self, store: Store, stored: StoredStudy) -> None:
        """Use `create` or `open`."""
        self.store, self.stored = store, stored
        self.name, self.strategy_name = stored.name, stored.strategy
        self.question = Question.restored(stored.settings, stored.tables)
        self._strategy = strategy(stored.strategy)
        self._built: tuple[int, Problem, Runs] | None = None

    @staticmethod
    def create(name: str, question: Question, *, strategy_name: str = "auto", store: str | Path | None = None) -> Study:
        """Keep a new study, with copies of all tables it names.

        The runs of the question are evidence, but were not paid for by the study. Without any, the workload is called
        as the question says, else as the study.

        Raises
        ------
        RecommenderError
            For a problem that cannot be built, an unknown strategy, or a name that is taken; nothing is kept.
        """
        check_name(name, "study")
        strategy(strategy_name)
        question = question.read()
        problem, mine = question.build()
        workload = problem.workload or question.workload or name
        named = replace(question, workload=workload, runs=mine if len(mine) else None)
        named.build()
        check_priced(problem)
        unknown = np.isnan(costs_usd(problem, mine.frame)) if problem.search_budget_usd is not None else np.zeros(0)
        if unknown.any():
            run = mine.frame.iloc[int(np.flatnonzero(unknown)[0])]
            raise InputError(
                f"a search budget counts what runs cost, and that of {int(unknown.sum())} runs given is not known (the first "
                f"on {run['instance_type']} x{run['node_count']:g}): fill their cost_usd, or leave --search-budget out"
            )
        tables = {
            "given": mine.frame if len(mine) else None,
            "archive": problem.archive.frame if problem.archive is not None else None,
            "candidates": named.candidates,
            "prices": named.prices,
        }
        opened = Store(store, create=True)
        stored = opened.add(
            name,
            strategy=strategy_name,
            settings=named.settings() | {"catalogue": catalogue_hash()},
            tables={k: v.dropna(axis="columns", how="all") for k, v in tables.items() if isinstance(v, pd.DataFrame)},
        )
        return Study(opened, stored)

    @staticmethod
    def open(name: str, *, store: str | Path | None = None) -> Study:
        """Go on with a study. Raises UnknownNameError with the nearest name."""
        opened = Store(store)
        return Study(opened, opened.find(name))

    def snapshot(self) -> Snapshot:
        """What was told and what is pending, now."""
        return self.store.snapshot(self.stored.key)

    def evidence(self, snapshot: Snapshot | None = None) -> tuple[Problem, Runs]:
        """The problem and the runs known, those it was created with first."""
        told = (snapshot or self.snapshot()).told
        built = self._built
        if built is not None and built[0] == len(told):
            return built[1:]
        given = self.question.runs
        parts = [given.frame.dropna(axis="columns", how="all").astype(object)] if isinstance(given, Runs) else []
        parts += [pd.DataFrame(list(told.values()), dtype=object)] if told else []
        runs = Runs.from_frame(pd.concat(parts, ignore_index=True)) if parts else None
        problem, mine = replace(self.question, runs=runs).build()
        if self.question.candidates is None and self.stored.settings["catalogue"] != catalogue_hash():
            note = "the study was created with another catalogue: candidates and prices are those of this version's"
            problem = replace(problem, notes=(*problem.notes, note))
        if problem.search_budget_usd is not None and isinstance(given, Runs):  # which the study has not paid for
            paid = float(np.nansum(costs_usd(problem, given.frame)))
            problem = replace(problem, search_budget_usd=problem.search_budget_usd + paid)
        self._built = (len(told), problem, mine)
        return problem, mine

    def ask(self, count: int = 1, *, worker: str | None = None, lease_s: float = LEASE_S) -> list[Pending]:
        """Give up to `count` different configurations to `worker` to measure; none when none is worth it now.

        They are kept for `lease_s` seconds: nobody else is given them, and others' choices count on them.
        """
        if count < 1 or not 0 < lease_s < math.inf:
            raise InputError(f"count {count}, lease {lease_s} s given; at least 1 and a finite time above 0 are needed")
        worker = worker or f"{platform.node()}/{os.getpid()}"
        for attempt in range(MOST_ATTEMPTS):
            snapshot = self.snapshot()
            problem, runs = self.evidence(snapshot)
            # Whoever keeps losing chooses among ever more: rather the next best than to lose the best one again.
            spare = min(2 ** max(0, attempt + 1 - STALE_ATTEMPTS) - 1, MOST_SPARE)
            wanted = batch(self._strategy, problem, runs, count + spare, pending=[p.run for p in snapshot.live])
            if not wanted:
                return []
            given = self.store.claim(
                self.stored.key,
                wanted,
                count=count,
                seen=len(snapshot.told),
                strict=attempt < STALE_ATTEMPTS,
                inputs={**self.stored.settings["inputs"], **problem.inputs},
                worker=worker,
                lease_s=lease_s,
            )
            if given is not None:
                return given
        raise RecommenderError(f"other workers were faster {MOST_ATTEMPTS} times in a row; ask again later")

    def tell(
        self,
        run_id: str | None = None,
        *,
        runtime_s: float,
        status: str = "completed",
        configuration: Configuration | None = None,
        cost_usd: float | None = None,
        inputs: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
        started_at: str | None = None,
    ) -> str:
        """Keep one run and return its name; when this returns, no crash loses it. Telling it again changes nothing.

        Parameters
        ----------
        run_id
            As asked; or a name of its own for a run that was never asked for, which needs a `configuration`; or None.
        runtime_s
            Seconds to completion, to the failure, or to the time limit, by `status`.
        cost_usd
            As billed; None when unknown.
        inputs
            The job's input; None: as asked for, else as the study asks about.

        Raises
        ------
        RecommenderError
            For a configuration that is no candidate, a value that the runs table does not allow, an unknown name, or
            a name under which another run was told; nothing is kept.
        """
        snapshot = self.snapshot()
        problem, _ = self.evidence(snapshot)
        asked = next((p for p in snapshot.pending if p.id == run_id), None)
        told = snapshot.told.get(run_id) if run_id is not None else None
        known = asked.run if asked else _configuration(told) if told else None
        chosen = self.candidate(problem, configuration) if configuration is not None else known
        if chosen is None:
            raise _unknown_run(run_id, [p.id for p in snapshot.pending])
        if asked is not None and not same(chosen, asked.run):
            raise InputError(f"run {run_id!r} was asked for on {asked.run.label}, not on {chosen.label}")
        if run_id is not None:
            check_name(run_id, "run")
        if inputs is None:
            ours = {**self.stored.settings["inputs"], **problem.inputs}
            inputs = asked.inputs if asked else {k: v for k, v in told.items() if k[:6] == "input."} if told else ours
        row: dict[str, Any] = {
            "workload": problem.workload,
            "instance_type": chosen.instance_type,
            "node_count": chosen.node_count,
            "runtime_s": runtime_s,
            "status": status,
            "cost_usd": cost_usd,
            "started_at": started_at,
            **chosen.params,
            **input_columns(inputs),
            **{k if k.startswith("metric.") else f"metric.{k}": v for k, v in (metrics or {}).items()},
        }
        row = {name: value for name, value in row.items() if value is not None}
        what = f"run {run_id!r}" if run_id else "the run told"
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{what}, column {name!r}: found {value}; allowed: a finite number, or nothing")
        Runs.from_frame(pd.DataFrame([row], dtype=object), what)
        row = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
        return self.store.tell(self.stored.key, run_id, configuration=chosen, row=row)

    def release(self, run_id: str) -> bool:
        """Forget that a run was asked for, as when it was interrupted; False when it was not pending."""
        return self.store.release(self.stored.key, run_id)

    def renew(self, run_id: str, lease_s: float) -> bool:
        """Let a lease last `lease_s` seconds from now; False when the run is not pending."""
        return self.store.renew(self.stored.key, run_id, lease_s)

    def recommend(self) -> Recommendation:
        """Return the strategy's ranked answer, which rests on what was told and on nothing pending."""
        return self._strategy.recommend(*self.evidence())

    def incumbent(self) -> Row | None:
        """The best configuration measured that meets the constraints; None when there is none."""
        problem, runs = self.evidence()
        try:
            answer = rank(problem, MeasuredOnly().predict(problem, runs), strategy="measured", why="", measure=False)
        except InfeasibleError:
            return None
        best = answer.rows[0]
        return best if best.runtime_s is not None else None

    def costs_usd(self, snapshot: Snapshot | None = None) -> npt.NDArray[np.float64]:
        """USD of each run told, shape (runs,): as billed, else its time at the on-demand price; NaN where unknown."""
        snapshot = snapshot or self.snapshot()
        problem, _ = self.evidence(snapshot)
        return costs_usd(problem, pd.DataFrame(list(snapshot.told.values())))

    def summary(self) -> dict[str, Any]:
        """What was asked, told and paid, the incumbent and what is pending, in plain values (schema `SCHEMA`)."""
        snapshot = self.snapshot()
        problem, runs = self.evidence(snapshot)
        costs = self.costs_usd(snapshot)
        incumbent = self.incumbent()
        paid = [None if math.isnan(cost) else float(cost) for cost in costs]
        return {
            "schema": SCHEMA,
            "name": self.name,
            "store": str(self.store.path),
            "strategy": self.strategy_name,
            "created_at": _iso(self.stored.created_at),
            "problem": describe(problem),
            "runs_given": len(runs) - len(snapshot.told),
            "runs": [
                {"id": name, **row, "spent_usd": usd}
                for (name, row), usd in zip(snapshot.told.items(), paid, strict=True)
            ],
            "incumbent": incumbent.to_dict() if incumbent else None,
            "spent_usd": float(np.nansum(costs)),
            "runs_of_unknown_cost": paid.count(None),
            "pending": [{**pending_values(p), "live": p.expires_at > snapshot.at} for p in snapshot.pending],
        }

    def candidate(self, problem: Problem, wanted: Configuration) -> Configuration:
        """The candidate that `wanted` is. Raises UnknownNameError naming the nearest one."""
        params = {k if k.startswith("param.") else f"param.{k}": v for k, v in wanted.params.items()}
        strange = sorted(set(params) - set(problem.candidates.params))
        if strange:
            have = ", ".join(problem.candidates.params) or "none"
            near = did_you_mean(strange[0], problem.candidates.params)
            raise UnknownNameError(f"the candidates have no parameter {strange[0]!r}{near} (they have: {have})")
        params = {name: _like(problem.configurations[name], value) for name, value in params.items()}
        row = {"instance_type": wanted.instance_type, "node_count": wanted.node_count, **params}
        at = int(configuration_rows(problem, pd.DataFrame([row], dtype=object))[0])
        if at >= 0:
            return problem.candidates.configuration(at)
        label = replace(wanted, params=params).label
        raise UnknownNameError(f"{label} is no candidate of the study; the nearest is {_nearest(problem, row)}")


def pending_values(pending: Pending) -> dict[str, Any]:
    """A pending run in plain values."""
    run = pending.run.to_dict()
    return {
        "id": pending.id,
        **{name: run[name] for name in ("instance_type", "node_count")},
        "params": dict(pending.run.params),
        "inputs": dict(pending.inputs),
        **{name: run[name] for name in ("expected_runtime_s", "expected_cost_usd", "why")},
        "worker": pending.worker,
        "asked_at": _iso(pending.asked_at),
        "expires_at": _iso(pending.expires_at),
    }


def studies(store: str | Path | None = None) -> list[str]:
    """The names of the studies in a store, in the order of their creation."""
    return Store(store).names()


def costs_usd(problem: Problem, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """USD of each row of a runs table, shape (rows,): as billed, else time x the least on-demand price; NaN unknown."""
    if not len(frame):
        return np.empty(0)
    offers, n = problem.candidates.offers, len(problem.configurations)
    usd_per_hour, minimum_s = np.full(n, np.nan), np.zeros(n)
    listed = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot).usd_per_hour
    np.fmin.at(usd_per_hour, offers.configuration, listed)
    minimum_s[offers.configuration] = offers.minimum_s
    row = configuration_rows(problem, frame)
    nodes, runtime_s = (frame[name].to_numpy(float) for name in ("node_count", "runtime_s"))
    cost = np.where(row >= 0, on_demand_cost(runtime_s, usd_per_hour[row], nodes, minimum_s=minimum_s[row]), np.nan)
    billed = frame["cost_usd"].to_numpy(float) if "cost_usd" in frame else np.full(len(frame), np.nan)
    return np.where(np.isnan(billed), cost, billed)


@cache
def catalogue_hash() -> str:
    """SHA-256 of the bundled catalogue's files."""
    data = sorted((files("recommender.catalogue") / "data").iterdir(), key=lambda file: file.name)
    return sha256(b"".join(file.read_bytes() for file in data if file.name.endswith(".csv"))).hexdigest()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _configuration(row: Mapping[str, Any]) -> Configuration:
    params = {name: value for name, value in row.items() if name.startswith("param.")}
    return Configuration(instance_type=row["instance_type"], node_count=row["node_count"], params=params)


def _like(column: pd.Series[Any], value: object) -> object:
    """`value` as the column holds it: a number, or text."""
    if not pd.api.types.is_numeric_dtype(column):
        return str(value)
    try:
        return float(str(value))
    except ValueError:
        return value


def _nearest(problem: Problem, row: Mapping[str, Any]) -> str:
    """The candidate nearest in instance type, then in parameters and ln(nodes) together."""
    table = problem.configurations
    kinds = list(table["instance_type"].unique())
    kind = difflib.get_close_matches(row["instance_type"], kinds, n=1, cutoff=0.0)[0]
    distance = np.where(table["instance_type"] == kind, 0.0, np.inf)
    distance += np.abs(np.log(table["node_count"].to_numpy(float) / max(row["node_count"], 1)))
    for name in problem.candidates.params:
        cells, wanted = table[name], row.get(name)
        if isinstance(wanted, float) and pd.api.types.is_numeric_dtype(cells):
            apart = np.abs(cells.to_numpy(float) - wanted)
            distance += np.nan_to_num(apart / np.maximum(np.abs(cells.to_numpy(float)) + abs(wanted), 1e-300), nan=1.0)
        else:
            distance += np.where(cells == wanted, 0.0, 1.0)
    return problem.candidates.configuration(int(np.argmin(distance))).label


def _unknown_run(run_id: str | None, pending: Sequence[str]) -> RecommenderError:
    if run_id is None:
        return InputError("which run is told? give the name it was asked under, or its configuration")
    found = f"pending are {', '.join(pending)}" if pending else "nothing is pending"
    return UnknownNameError(
        f"nothing was asked under the name {run_id!r}{did_you_mean(run_id, pending)} ({found}); for a run that was never "
        "asked for, give its configuration and a name of its own, or none"
    )
