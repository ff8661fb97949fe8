"""What a study asks, as values that can be kept: the arguments of `build_problem`, with its files read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recommender.catalogue import TypeFilter
from recommender.errors import InputError
from recommender.pricing import BY_NAME, PurchaseOption, Usage, price_option
from recommender.problem import Objective, Problem, build_problem
from recommender.runs import Runs, read_runs
from recommender.tables import CANDIDATES, PRICES, read_table

Source = Runs | pd.DataFrame | str | Path


@dataclass(frozen=True)
class Question:
    """What a study asks: the arguments of `build_problem`, whose meaning they have, but for the catalogue."""

    runs: Source | None = None
    _: KW_ONLY
    workload: str | None = None
    archive: Sequence[Source] = ()
    candidates: pd.DataFrame | str | Path | None = None
    prices: pd.DataFrame | str | Path | None = None
    objective: Objective = "cost"
    deadline_s: float | None = None
    budget_usd: float | None = None
    search_budget_usd: float | None = None
    """What the study may spend on measuring; the runs it was made with are not counted."""
    confidence: float = 0.9
    purchase: Sequence[PurchaseOption] | None = None
    regions: Sequence[str] | None = None
    max_nodes: int | None = None
    node_counts: Sequence[int] | None = None
    types: TypeFilter | None = None
    architecture: str | None = None
    include_burstable: bool = False
    include_accelerators: bool = False
    inputs: Mapping[str, float] | None = None
    usage: Usage | None = None
    runs_planned: float | None = None
    local_like: str | None = None
    seed: int = 0
    top: int = 10

    def read(self) -> Question:
        """Return the same question with its files read, so that it no longer depends on them."""
        return replace(
            self,
            runs=read_runs(self.runs) if self.runs is not None and not isinstance(self.runs, Runs) else self.runs,
            archive=[source if isinstance(source, Runs) else read_runs(source) for source in self.archive],
            candidates=read_table(self.candidates, CANDIDATES) if self.candidates is not None else None,
            prices=read_table(self.prices, PRICES) if self.prices is not None else None,
        )

    def build(self) -> tuple[Problem, Runs]:
        """Build the problem. Before any run there is nothing whose input could be asked about."""
        measured = self.runs is not None and (not isinstance(self.runs, Runs) or len(self.runs) > 0)
        return build_problem(
            self.runs,
            workload=self.workload,
            archive=self.archive,
            candidates=self.candidates,
            prices=self.prices,
            objective=self.objective,
            deadline_s=self.deadline_s,
            budget_usd=self.budget_usd,
            search_budget_usd=self.search_budget_usd,
            confidence=self.confidence,
            purchase=self.purchase,
            regions=self.regions,
            max_nodes=self.max_nodes,
            node_counts=self.node_counts,
            types=self.types,
            architecture=self.architecture,
            include_burstable=self.include_burstable,
            include_accelerators=self.include_accelerators,
            inputs=self.inputs if measured else None,
            usage=self.usage,
            runs_planned=self.runs_planned,
            local_like=self.local_like,
            seed=self.seed,
            top=self.top,
        )

    def settings(self) -> dict[str, Any]:
        """All but the tables, in plain values."""
        tables = ("runs", "archive", "candidates", "prices", "_")
        plain = {name: value for name, value in vars(self).items() if name not in tables}
        return plain | {
            "purchase": [o.name for o in self.purchase] if self.purchase else None,
            "regions": list(self.regions) if self.regions else None,
            "node_counts": [int(n) for n in self.node_counts] if self.node_counts else None,
            "types": asdict(self.types) if self.types else None,
            "inputs": input_columns(self.inputs or {}),
            "usage": asdict(self.usage) if self.usage else None,
        }

    def differs(self, other: Question) -> list[str]:
        """What this question, its files read, asks otherwise than `other`: names of fields; empty when it asks the same.

        What is left at its default is not compared, nor are runs and archive, to which a study adds, and the search budget,
        of which it may be given another.
        """
        filled = [
            replace(q, types=q.types or TypeFilter(), usage=q.usage or Usage()) for q in (self, other, Question())
        ]
        mine, theirs, default = (question.settings() for question in filled)
        asked = [name for name in mine if name != "search_budget_usd" and mine[name] != default[name]]
        found = [name for name in asked if mine[name] != theirs[name]]
        for name in ("candidates", "prices"):
            tables = [getattr(question, name) for question in (self, other)]
            texts = [
                t.dropna(axis="columns", how="all").to_csv(index=False) if isinstance(t, pd.DataFrame) else ""
                for t in tables
            ]
            found += [name] if texts[0] and texts[0] != texts[1] else []
        return found

    @staticmethod
    def restored(settings: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Question:
        """Return the question of which these are the settings and tables."""
        known = {name: settings[name] for name in Question.__dataclass_fields__ if name in settings}
        types, usage = settings["types"], settings["usage"]
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in (types or {}).items()}
        return replace(
            Question(**known),
            runs=Runs.from_frame(tables["given"]) if "given" in tables else None,
            archive=[Runs.from_frame(tables["archive"])] if "archive" in tables else (),
            candidates=tables.get("candidates"),
            prices=tables.get("prices"),
            purchase=[BY_NAME[name] for name in settings["purchase"]] if settings["purchase"] else None,
            types=TypeFilter(**lists) if types else None,
            usage=Usage(**usage) if usage else None,
        )


def input_columns(inputs: Mapping[str, float]) -> dict[str, float]:
    """The inputs by column name, `input.<name>`, however they were named."""
    return {k if k.startswith("input.") else f"input.{k}": v for k, v in inputs.items()}


def check_priced(problem: Problem) -> None:
    """Refuse to minimise cost among candidates that all have none."""
    offers, spot = problem.candidates.offers, problem.catalogue.spot
    if problem.objective == "cost" and all(
        np.isnan(price_option(o, offers, spot).usd_per_hour).all() for o in problem.options
    ):
        raise InputError(
            "no candidate has a price, and the objective is cost: give usd_per_hour in the candidates table or --prices, or "
            "take --objective runtime"
        )
