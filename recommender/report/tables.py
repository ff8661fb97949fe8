"""Recommendations as text, JSON and CSV."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from recommender.units import format_duration, format_usd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recommender.recommendation import NextRun, Quantiles, Recommendation, Row, WayToPay

HEADINGS = (
    "#",
    "instance type",
    "nodes",
    "region",
    "pay by",
    "runtime p50 (p10-p90)",
    "USD/run p50 (p10-p90)",
    "P(deadline)",
    "evidence",
    "price",
)

NOTHING = 1e-6
"""Share of a run's cost below which a saving is none."""


def as_json(answer: Recommendation) -> str:
    """Return the JSON contract's text, indented, with a final newline."""
    return json.dumps(answer.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_csv(answer: Recommendation) -> str:
    """Return the ranked rows as CSV with a header; missing values are empty."""
    text: str = answer.to_frame().to_csv(index=False, lineterminator="\n")
    return text


def as_text(answer: Recommendation) -> str:
    """Return the answer for reading: rows, what each rests on and why, exclusions, what to measure next, warnings."""
    problem = answer.problem
    lines = [_title(answer), *([f"{answer.what_if['sentence']}."] if answer.what_if else []), ""]
    cells = [
        (
            str(row.rank),
            row.instance_type + "".join(f" {k.removeprefix('param.')}={v}" for k, v in row.params.items()),
            str(row.node_count),
            row.region or "-",
            row.purchase_option,
            _quantiles(row.runtime_s, format_duration),
            _cost(row),
            "-" if row.deadline_probability is None else f"{row.deadline_probability:.1%}",
            row.evidence,
            row.price_quality or "unknown",
        )
        for row in answer.rows
    ]
    show = [i for i, h in enumerate(HEADINGS) if h != "P(deadline)" or problem["deadline_s"] is not None]
    widths = {i: max(len(HEADINGS[i]), *(len(c[i]) for c in cells)) for i in show}
    lines.append("  ".join(HEADINGS[i].ljust(widths[i]) for i in show).rstrip())
    for row, c in zip(answer.rows, cells, strict=True):
        lines.append("  ".join(c[i].ljust(widths[i]) for i in show).rstrip())
        if row.reason:
            lines.append(" " * (widths[0] + 2) + row.reason)
    if len(answer.ways_to_pay) > 1:
        first = answer.rows[0]
        ways = [_way(w) for w in answer.ways_to_pay]
        unit = "USD/run p50" if first.cost_usd else "USD per node-hour"
        lines += ["", f"Ways to pay for {first.instance_type} x{first.node_count}, {unit}: {', '.join(ways)}."]
    lines += ["", f"Strategy {answer.strategy}: {answer.why}."]
    if answer.guarantee is not None:
        lines.append(f"{answer.guarantee.sentence}.")
    lines += _explained(answer)
    if answer.next_run is not None:
        lines.append(f"Measure next: {_run(answer.next_run)}{_worth(answer)}.")
    if answer.excluded:
        lines += [
            "",
            f"Excluded, of {problem['candidates']:,} candidates (type x nodes x region x purchase option), {answer.candidates:,} ranked:",
        ]
        width = max(len(f"{e.count:,}") for e in answer.excluded)
        name = max(len(e.reason) for e in answer.excluded)
        lines += [f"  {e.count:>{width},}  {e.reason.ljust(name)}  {e.sentence}" for e in answer.excluded]
    if answer.warnings:
        lines += ["", "Before you trust this:", *(f"  - {w}" for w in answer.warnings)]
    return "\n".join(lines) + "\n"


def _explained(answer: Recommendation) -> list[str]:
    """What the first rows rest on, and what would change the answer, a line each."""
    why = answer.explanation
    if why is None:
        return []
    lines = [f"Rests on: {'; '.join(b.sentence for b in why.evidence)}."]
    if why.runner_up is not None:
        lines.append(f"It would flip: {why.runner_up.sentence}.")
    return lines


def _worth(answer: Recommendation) -> str:
    """What the next run is expected to save, where that is known."""
    worth = answer.next_run_worth
    if worth is None or worth["saves_usd_per_run"] is None or answer.next_run is None:
        return ""
    cost = answer.next_run.expected_cost_usd
    if cost is not None and worth["saves_usd_per_run"] < NOTHING * cost:
        return ""
    total = ""
    if worth["saves_usd"] is not None:
        total = f", {format_usd(worth['saves_usd'])} over {worth['runs_planned']:g} planned runs"
    return f"; expected to save {format_usd(worth['saves_usd_per_run'])} a run{total}"


def flips_as_text(answer: Recommendation) -> str:
    """Return where each rival comes first as a table, and the nearest of them in words."""
    why, first = answer.explanation, answer.rows[0]
    usd = [f.first_usd_per_hour is not None for f in why.flips] if why else []
    headings = ["rival", "is", *(["first's USD/h above", "its USD/h below"] if any(usd) else [])]
    headings += ["first's runtime above", "its runtime below", "runs a month"]

    def cell(value: float | None, show: Callable[[float], str]) -> str:
        return "-" if value is None else show(value)

    rows = [headings]
    for f in why.flips if why else ():
        money = [cell(f.first_usd_per_hour, format_usd), cell(f.rival_usd_per_hour, format_usd)] if any(usd) else []
        times = [cell(f.first_runtime_s, format_duration), cell(f.rival_runtime_s, format_duration)]
        rows.append(
            [f.rival, f.role, *money, *times, cell(f.runs_per_month, lambda u: f"{u:,.0f}" if u >= 100 else f"{u:.3g}")]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    runtime = f"{format_duration(first.runtime_s.p50)}, " if first.runtime_s else ""
    price = "no price" if first.usd_per_hour is None else f"{format_usd(first.usd_per_hour)} per node-hour"
    title = (
        f"First: {first.label} {first.purchase_option}, {runtime}{price}, at "
        f"{answer.problem['runs_per_month']:g} runs a month. A rival comes first at any one of:"
    )
    return "\n".join([title, "", *table]) + "\n"


def _way(way: WayToPay) -> str:
    cost = f"{format_usd(way.usd_per_hour)}/h" if way.cost_usd is None else format_usd(way.cost_usd)
    details = ["estimated"] if way.price_quality == "estimated" else []
    if way.machines_committed and way.usd_per_month is not None:
        details.append(f"{format_usd(way.usd_per_month)} a month whether used or not")
    return f"{way.purchase_option} {cost}" + (f" ({', '.join(details)})" if details else "")


def _title(answer: Recommendation) -> str:
    problem = answer.problem
    parts = [
        f"{'Cheapest' if problem['objective'] == 'cost' else 'Fastest'} for {problem['workload'] or 'an unmeasured workload'}"
    ]
    if problem["deadline_s"] is not None:
        parts.append(f"within {format_duration(problem['deadline_s'])}")
    if problem["budget_usd"] is not None:
        parts.append(f"for at most {format_usd(problem['budget_usd'])} a run")
    if len(parts) > 1:
        known = any(row.runtime_s is not None for row in answer.rows)
        parts.append(f"with {problem['confidence']:.0%} probability" if known else "(not checked: no runtime is known)")
    inputs = ", ".join(f"{k}={v:g}" for k, v in problem["inputs"].items())
    return " ".join(parts) + (f" at {inputs}" if inputs else "") + f", {problem['runs_per_month']:g} runs a month"


def suggestions_as_text(runs: Sequence[NextRun]) -> str:
    """Return one line a run to make, or that nothing is worth measuring."""
    return "".join(f"{i}. {_run(run)}\n" for i, run in enumerate(runs, 1)) or "nothing is worth measuring\n"


def suggestions_as_csv(runs: Sequence[NextRun]) -> str:
    """Return the runs to make as CSV with a header; missing values are empty."""
    import pandas as pd

    columns = ["instance_type", "node_count", "expected_runtime_s", "expected_cost_usd", "why"]
    rows = [{**{c: v for c, v in run.to_dict().items() if c in columns}, **run.params} for run in runs]
    text: str = pd.DataFrame(rows, columns=None if rows else columns).to_csv(index=False, lineterminator="\n")
    return text


def _run(run: NextRun) -> str:
    expected = "" if run.expected_runtime_s is None else f", expected {format_duration(run.expected_runtime_s)}"
    expected += "" if run.expected_cost_usd is None else f" and {format_usd(run.expected_cost_usd)} on demand"
    return f"{run.label}{expected}: {run.why}"


def _cost(row: Row) -> str:
    if row.cost_usd is None and row.usd_per_hour is not None:
        return f"unknown ({format_usd(row.usd_per_hour)}/h)"
    return _quantiles(row.cost_usd, format_usd)


def _quantiles(q: Quantiles | None, show: Callable[[float], str]) -> str:
    if q is None:
        return "unknown"
    return f"{show(q.p50)} ({show(q.p10)}-{show(q.p90)})"
