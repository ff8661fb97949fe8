"""Experiment designs as text, JSON and CSV."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from recommender.units import format_duration, format_usd

if TYPE_CHECKING:
    from recommender.search.experiment_design import Plan


def design_as_json(plan: Plan) -> str:
    """Return the plan as JSON, indented, with a final newline."""
    return json.dumps(plan.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def design_as_csv(plan: Plan) -> str:
    """Return the runs to make as CSV with a header; missing values are empty."""
    import pandas as pd

    rows = []
    for run in plan.experiments:
        cells = run.to_dict()
        inputs = {f"input.{name}": value for name, value in cells.pop("inputs").items()}
        params = cells.pop("params", {})
        rows.append({**cells, **inputs, **params})
    text: str = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    return text


def design_as_text(plan: Plan) -> str:
    """Return one line a run to make, what all cost, and the error they are expected to leave."""
    cells = [
        (
            run.label,
            ", ".join(f"{k.removeprefix('input.')}={v:.4g}" for k, v in run.inputs.items()) or "-",
            format_duration(run.expected_runtime_s) if run.expected_runtime_s is not None else "-",
            format_usd(run.expected_cost_usd) if run.expected_cost_usd is not None else "-",
        )
        for run in plan.experiments
    ]
    heads = ("measure", "at", "expected", "USD on demand")
    widths = [max(len(row[i]) for row in (heads, *cells)) for i in range(len(heads))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (heads, *cells)]
    usd = f", {format_usd(plan.cost_usd)} on demand" if plan.cost_usd is not None else ""
    lines += ["", f"{len(cells)} of {plan.considered} experiments: {format_duration(plan.runtime_s)} of run time{usd}."]
    now = "now not determined" if plan.error_before is None else f"now about {plan.error_before:.0%}"
    after = "not determined" if plan.error_after is None else f"{plan.error_after:.0%}"
    lines.append(
        f"Expected error at the input asked about (one standard deviation, median over machines): {after} after "
        f"these runs, {now}. What Ernest's terms cannot describe comes on top: see *misfit* after measuring."
    )
    if plan.warnings:
        lines += ["", "Before you trust this:", *(f"  - {w}" for w in plan.warnings)]
    return "\n".join(lines) + "\n"
