"""Pictures of a recommendation, with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from recommender.recommendation import Recommendation

MARKERS = {"on-demand": "o", "spot": "^"}


def time_against_cost(answer: Recommendation, axes: Axes | None = None, *, label: int = 5) -> Axes:
    """Plot runtime (minutes) against USD per run of the ranked rows, with bars from p10 to p90; logarithmic axes.

    A colour an evidence kind, a shape a way to pay; the first `label` rows are named. Rows without a known runtime are
    left out.

    Returns
    -------
    The axes, new ones unless given.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    axes = axes if axes is not None else plt.subplots(figsize=(8, 5), layout="constrained")[1]
    colours = dict(zip(("measured", "modelled", "transferred", "assumed"), ("C2", "C0", "C1", "C7"), strict=True))
    seen: set[str] = set()
    for row in answer.rows:
        if row.runtime_s is None or row.cost_usd is None:
            continue
        kind = (
            "on-demand"
            if row.purchase_option == "on-demand"
            else "spot"
            if row.purchase_option == "spot"
            else "commitment"
        )
        name = f"{row.evidence}, {kind}"
        time, usd = row.runtime_s, row.cost_usd
        axes.errorbar(
            [time.p50 / 60],
            [usd.p50],
            xerr=[[(time.p50 - time.p10) / 60], [(time.p90 - time.p50) / 60]],
            yerr=[[max(0.0, usd.p50 - usd.p10)], [max(0.0, usd.p90 - usd.p50)]],
            fmt=MARKERS.get(kind, "s"),
            color=colours[row.evidence],
            alpha=0.8,
            linewidth=0.6,
            label=name if name not in seen else None,
        )
        seen.add(name)
        if row.rank <= label:
            text = f"{row.instance_type} x{row.node_count}"
            axes.annotate(text, (time.p50 / 60, usd.p50), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="runtime of a run, minutes", ylabel="USD per run")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.set_minor_formatter("{x:g}")
    axes.set_title(f"{answer.problem['workload'] or 'unmeasured workload'}: time against cost (bars: p10 to p90)")
    if seen:
        axes.legend(fontsize=8)
    return axes
