"""Explanations as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recommender.units import format_duration, format_usd

if TYPE_CHECKING:
    from recommender.explanation import Explanation, Support

MOST_SHOWN = 6
"""Points listed."""


def explanation_as_text(found: Explanation) -> str:
    """Return the explanation for reading."""
    lines = []
    if found.row is not None:
        row = found.row
        lines.append(f"{row.label} {row.purchase_option} ({row.evidence}, price {row.price_quality})")
        if row.runtime_s is not None:
            t = row.runtime_s
            lines.append(
                f"  runtime  {format_duration(t.p50)}, 80 % between {format_duration(t.p10)} and {format_duration(t.p90)}"
            )
        if row.cost_usd is not None:
            c = row.cost_usd
            lines.append(f"  USD/run  {format_usd(c.p50)}, 80 % between {format_usd(c.p10)} and {format_usd(c.p90)}")
    else:
        lines.append("Excluded.")
    lines += ["", f"Strategy {found.strategy}: {found.why}."]
    if found.terms:
        whole = sum(found.terms.values())
        lines += ["", "What the median is made of:"]
        lines += [f"  {format_duration(s):>12}  {s / whole:4.0%}  {name}" for name, s in found.terms.items()]
    if found.limits:
        lines += ["", f"What limits it: {found.limits}."]
    if found.supports:
        lines += ["", f"What it rests on, of {found.points} points measured; without it, the prediction would be:"]
        lines += [f"  {_change(s):>12}  {s.label}: {_count(s)}" for s in found.supports[:MOST_SHOWN]]
    if found.changes:
        lines += ["", "What would change the answer:", *(f"  - {c}" for c in found.changes)]
    if found.warnings:
        lines += ["", "Before you trust this:", *(f"  - {w}" for w in found.warnings)]
    return "\n".join(lines) + "\n"


def _change(support: Support) -> str:
    if support.change is None:
        return "impossible"
    return "the same" if abs(support.change) < 0.005 else f"{support.change:+.0%}"


def _count(support: Support) -> str:
    runs = f"{support.runs} runs, median " if support.runs > 1 else ""
    return f"{runs}{format_duration(support.runtime_s)}"
