"""The summary of an evaluation as text, JSON and CSV."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from recommender.summary import summarise
from recommender.units import format_usd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd

SCHEMA = "recommender/evaluation/1"


def as_csv(results: pd.DataFrame) -> str:
    """Return the summary, one row a strategy, with a header; missing values are empty."""
    text: str = summarise(results).to_csv(index=False, lineterminator="\n")
    return text


def as_json(results: pd.DataFrame, notes: Iterable[str] = ()) -> str:
    """Return {"schema", "steps", "strategies": [{..., "workloads": [...]}], "notes"}; missing values are null."""
    whole, parts = summarise(results), summarise(results, by="workload")
    strategies = []
    for row in _plain(whole):
        mine = _plain(parts[parts["strategy"] == row["strategy"]].drop(columns=["strategy", "steps"]))
        count, steps = row.pop("workloads"), row.pop("steps")
        strategies.append({**row, "workload_count": count, "workloads": mine})
    document = {"schema": SCHEMA, "steps": steps, "strategies": strategies, "notes": list(notes)}
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records = json.loads(frame.to_json(orient="records", double_precision=15))
    return [dict(record) for record in records]


def as_text(results: pd.DataFrame) -> str:
    """Return the summary for reading: each number with its 95 % interval over workloads, and what the columns mean."""
    rows = _plain(summarise(results))
    steps = rows[0]["steps"]
    beyond = f"> {steps}"
    columns: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
        ("strategy", lambda r: str(r["strategy"])),
        ("recommended/optimum", lambda r: _interval(r, "recommendation_median", _ratio)),
        ("p90", lambda r: _or(r["recommendation_p90"], _ratio)),
        ("within 5 %", lambda r: _interval(r, "within_5_percent", _percent)),
        ("within 10 %", lambda r: _interval(r, "within_10_percent", _percent)),
        ("infeasible", lambda r: _percent(r["infeasible"])),
        ("no answer", lambda r: _percent(r["unanswered"])),
        ("runs", lambda r: f"{r['runs']:.1f}"),
        ("runs to 5 %", lambda r: _interval(r, "runs_to_5_percent", lambda n: f"{n:g}", beyond)),
        ("search USD", lambda r: _interval(r, "search_cost_usd", format_usd)),
        ("x optimum", lambda r: _or(r["relative_search_cost"], lambda x: f"{x:.1f}")),
    )
    lines = [[heading for heading, _ in columns], *([show(row) for _, show in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    first = rows[0]
    title = f"After at most {steps} runs; {first['workloads']} workloads, {first['episodes']} episodes a strategy."
    table = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    legend = (
        "recommended/optimum: median true value of what is recommended over the best there is; p90 its 90th percentile",
        "within: share of episodes whose recommendation is; one that fails, is late or is missing counts as not",
        f"runs to 5 %: median runs until it is, and stays; {beyond}: not in half the episodes",
        "x optimum: search cost over the cost of the workload's best run; in brackets 95 % bootstrap intervals over workloads",
    )
    return "\n".join([title, "", *table, "", *legend]) + "\n"


def _or(value: float | None, show: Callable[[float], str], missing: str = "-") -> str:
    return missing if value is None or math.isnan(value) else show(value)


def _interval(row: dict[str, Any], name: str, show: Callable[[float], str], missing: str = "-") -> str:
    value, low, high = (_or(row[f"{name}{end}"], show, missing) for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.0%}"
