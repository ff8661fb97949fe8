"""Pictures of an evaluation, with matplotlib: regret against runs and against money."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recommender.errors import InputError
from recommender.summary import EPISODE, checked, optimum_cost_usd, quantile, standing_still

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from recommender.models import Array

BUDGETS = 200
"""Points of the curve against money."""
PANELS_A_ROW = 4


def write_plots(results: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write regret-runs.png, regret-usd.png and regret-workloads.png into `folder`, which is made; return the paths.

    The same results give the same bytes. The curve against money is left out where the cost of an optimum or of a run is not known.

    Raises
    ------
    InputError
        When `folder` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = checked(results)
    workloads = list(results["workload"].unique())
    figures: dict[str, Figure] = {}
    figures["regret-runs"] = Figure(figsize=(8, 5), layout="constrained")
    against_runs(results, figures["regret-runs"].add_subplot())
    if all(np.isfinite([*optimum_cost_usd(results).values(), *results["search_cost_usd"]])):
        figures["regret-usd"] = Figure(figsize=(8, 5), layout="constrained")
        against_usd(results, figures["regret-usd"].add_subplot())
    down = -(-len(workloads) // PANELS_A_ROW)
    figures["regret-workloads"] = Figure(
        figsize=(4 * min(PANELS_A_ROW, len(workloads)), 3 * down), layout="constrained"
    )
    shape = (down, min(PANELS_A_ROW, len(workloads)))
    panels = figures["regret-workloads"].subplots(*shape, sharex=True, squeeze=False).ravel()
    for axes, workload in zip(panels, workloads, strict=False):
        against_runs(results[results["workload"] == workload], axes)
        axes.set_title(workload, fontsize=9)
        axes.set(xlabel="", ylabel="")
        if axes is not panels[0]:
            axes.get_legend().remove()
    for axes in panels[len(workloads) :]:
        axes.remove()
    figures["regret-workloads"].supxlabel("runs")
    figures["regret-workloads"].supylabel("regret of the recommendation, %")
    paths = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            FigureCanvasAgg(figure)
            paths.append(Path(folder) / f"{name}.png")
            figure.savefig(paths[-1], dpi=120, metadata={"Software": None})
    except OSError as error:
        raise InputError(
            f"plots cannot be written to {str(folder)!r} ({error.strerror}); name a writable directory"
        ) from error
    return paths


def against_runs(results: pd.DataFrame, axes: Axes) -> Axes:
    """Plot the median regret of the recommendation against runs, with the middle half of episodes shaded.

    An episode without a recommendation, or with one that fails or is late, has infinite regret: a curve starts where half
    the episodes have a finite one.
    """
    results = checked(results)
    steps = int(results["step"].max())
    for name, rows in results.groupby("strategy", sort=False):
        regret = _regret(standing_still(rows, ["normalised_recommendation"], steps)["normalised_recommendation"])
        _curve(axes, str(name), np.arange(regret.shape[1], dtype=float), regret)
    return _dressed(axes, "runs")


def against_usd(results: pd.DataFrame, axes: Axes) -> Axes:
    """Plot the median regret of the recommendation against USD spent searching, in units of the optimum's cost."""
    results = checked(results)
    optimum, steps = optimum_cost_usd(results), int(results["step"].max())
    most, curves = 0.0, []
    for name, rows in results.groupby("strategy", sort=False):
        wide = standing_still(rows, ["normalised_recommendation", "search_cost_usd"], steps)
        cost = rows.drop_duplicates(EPISODE)["workload"].map(optimum).to_numpy(float)
        spent = wide["search_cost_usd"] / cost[:, None]
        most = max(most, float(np.quantile(spent[:, -1], 0.9)))
        curves.append((str(name), spent, _regret(wide["normalised_recommendation"])))
    budget = np.linspace(0.0, most, BUDGETS)
    for name, spent, regret in curves:
        # After the last run that the budget pays: step 0 costs nothing.
        at = (spent[:, :, None] <= budget * (1 + 1e-12)).sum(axis=1) - 1
        _curve(axes, name, budget, np.take_along_axis(regret, at, axis=1))
    return _dressed(axes, "search cost over the cost of the workload's best run")


def _regret(normalised: Array) -> Array:
    """Percent above the optimum; infinite without a recommendation."""
    return np.where(np.isnan(normalised), np.inf, 100.0 * (normalised - 1.0))


def _curve(axes: Axes, name: str, x: Array, regret: Array) -> None:
    low, middle, high = (quantile(regret.T, q) for q in (0.25, 0.5, 0.75))
    finite = np.isfinite(middle)
    (line,) = axes.plot(x[finite], middle[finite], label=name, linewidth=1.5)
    shaded = np.isfinite(high)
    axes.fill_between(x[shaded], low[shaded], high[shaded], color=line.get_color(), alpha=0.12, linewidth=0)


def _dressed(axes: Axes, x: str) -> Axes:
    axes.set_yscale("symlog", linthresh=10.0)
    axes.set(xlabel=x, ylabel="regret of the recommendation, %")
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.axhline(10.0, color="0.8", linewidth=0.8, zorder=0)
    axes.legend(fontsize=8)
    axes.set_title("median over episodes; shaded: the middle half")
    return axes
