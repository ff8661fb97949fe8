"""What the results of a replay say about each strategy: regret, search cost and how sure, over workloads.

Notation: V of shape (workloads, seeds) holds one number an episode; an episode that stopped early stands still. A missing
number counts as infinite, never as good: a median is empty where half the episodes have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InputError
from recommender.models import Array
from recommender.replay import COLUMNS

RESAMPLES = 1000
"""Bootstrap resamples of the workloads."""
LEVEL = 0.95
"""Of the bootstrap intervals."""
NEAR, NEARER = 1.10, 1.05
"""Within 10 % and 5 % of the optimum."""
EPISODE = ["strategy", "workload", "seed"]

Statistic = Callable[[Array], Array]
"""Numbers of shape (..., episodes) -> one number for each leading index."""


def summarise(results: pd.DataFrame, *, by: Literal["strategy", "workload"] = "strategy") -> pd.DataFrame:
    """Return one row a strategy (or a strategy and workload) after the most runs of any episode, N.

    Columns
    -------
    strategy, workloads (or workload), episodes, steps
        N is `steps`.
    recommendation_median, recommendation_p90, incumbent_median, incumbent_p90
        True value over the optimum; empty where too many episodes have none. Quantiles interpolate linearly.
    within_5_percent, within_10_percent
        Share of episodes whose recommendation is.
    infeasible, unanswered
        Share of episodes whose recommendation fails or misses the deadline; that recommend nothing.
    runs
        Mean runs made.
    search_cost_usd, relative_search_cost
        Mean, in USD and in units of what the workload's optimal run cost; the latter is empty where it is not known
        (objective runtime, and no episode measured the optimum).
    runs_to_5_percent
        Median of the least n such that after n runs, and ever after, the recommendation is within 5 %; empty: more than N.

    With `by="strategy"` each has `_low` and `_high`, a 95 % percentile bootstrap interval over workloads (1000 resamples
    of workloads with all their seeds, the same for every strategy): what other workloads like these may show.

    Raises
    ------
    InputError
        When the columns are not those of results, or a strategy did not meet every workload with the same seeds.
    """
    grid = _grid(results)
    steps = int(results["step"].max())
    rows: list[dict[str, Any]] = []
    for name, cells in grid.items():
        first: dict[str, Any] = {"strategy": name}
        if by == "workload":
            for workload, one in cells.groupby("workload", sort=True):
                rows.append(first | {"workload": workload, "episodes": len(one), "steps": steps} | _point(one))
        else:
            shape = first | {"workloads": cells["workload"].nunique(), "episodes": len(cells), "steps": steps}
            rows.append(shape | _with_intervals(cells))
    return pd.DataFrame(rows)


def standing_still(results: pd.DataFrame, columns: list[str], steps: int) -> dict[str, Array]:
    """Return each column as an array of shape (episodes, steps + 1): its value after n runs, the last once stopped.

    `results` are `checked`; episodes are in their order.
    """
    episode = results.groupby(EPISODE, sort=False).ngroup().to_numpy()
    step = results["step"].to_numpy()
    where = np.zeros((episode.max() + 1, steps + 1), dtype=np.intp)
    where[episode, step] = np.arange(len(results))
    where = np.maximum.accumulate(where, axis=1)  # rows of an episode follow each other
    return {name: results[name].to_numpy(dtype=float, na_value=np.nan)[where] for name in columns}


def optimum_cost_usd(results: pd.DataFrame) -> dict[str, float]:
    """Return what each workload's optimal run cost; NaN where the results do not tell.

    The optimum is incumbent_value / normalised_incumbent. With objective cost it is the cost; with objective runtime the
    cost is that of the run which reached it, the cheapest where several did.
    """
    with_incumbent = results[results["incumbent_value"].notna()]
    firsts = with_incumbent.drop_duplicates(EPISODE)  # the first incumbent is the run of its own row
    by_cost = bool((firsts["incumbent_value"] == firsts["cost_usd"]).all())
    found = dict.fromkeys(map(str, results["workload"].unique()), np.nan)
    for workload, rows in with_incumbent.groupby("workload"):
        first = rows.iloc[0]
        if by_cost:
            found[str(workload)] = float(first["incumbent_value"] / first["normalised_incumbent"])
            continue
        best = rows[(rows["normalised_incumbent"] == 1.0) & (rows["runtime_s"] == rows["incumbent_value"])]
        found[str(workload)] = float(best["cost_usd"].min())
    return found


def checked(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results sorted by strategy, workload, seed and step. Raises InputError where they are no results."""
    if missing := [c for c in COLUMNS if c not in results]:
        raise InputError(
            f"these are no results of a replay: column {missing[0]!r} is missing; needed: {', '.join(COLUMNS)}"
        )
    if not len(results):
        raise InputError("the results have no rows: nothing can be summarised")
    results = results.sort_values([*EPISODE, "step"], kind="stable", ignore_index=True)
    if results.duplicated([*EPISODE, "step"]).any():
        raise InputError("the results hold one step of an episode twice; summarise one evaluation at a time")
    return results


def _grid(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Per strategy, in the order given, one row an episode, sorted by workload and seed: what statistics are over."""
    results, names = checked(results), results["strategy"].unique()
    last = results.drop_duplicates(EPISODE, keep="last").reset_index(drop=True)
    steps, wanted = int(results["step"].max()), "normalised_recommendation"
    after = standing_still(results, [wanted], steps)[wanted]
    far = ~(after <= NEARER)  # NaN is far
    optimum = last["workload"].map(optimum_cost_usd(results)).to_numpy(float)
    cells = pd.DataFrame(
        {
            **{name: last[name] for name in EPISODE},
            "recommendation": last["normalised_recommendation"].fillna(np.inf),
            "incumbent": last["normalised_incumbent"].fillna(np.inf),
            "infeasible": last["normalised_recommendation"].isna() & last["recommended_instance_type"].notna(),
            "unanswered": last["recommended_instance_type"].isna(),
            "runs": last["step"],
            "search_cost_usd": last["search_cost_usd"],
            "relative_search_cost": last["search_cost_usd"] / optimum,
            # One more than the last step that was far off; N + 1 is beyond the horizon.
            "runs_to_5_percent": np.where(far.any(axis=1), after.shape[1] - np.argmax(far[:, ::-1], axis=1), 0.0),
        }
    )
    cells["runs_to_5_percent"] = cells["runs_to_5_percent"].where(cells["runs_to_5_percent"] < after.shape[1], np.inf)
    grid = {}
    for name in names:
        mine = cells[cells["strategy"] == name]
        if len(set(mine.groupby("workload")["seed"].agg(tuple))) > 1:
            raise InputError(f"{name} did not meet every workload with the same seeds: the results are incomplete")
        grid[str(name)] = mine
    return grid


def quantile(values: Array, q: float) -> Array:
    """Return the q-quantile over the last axis, linear between neighbours; infinite where an infinite one has weight."""
    ordered = np.sort(values, axis=-1)
    position = q * (values.shape[-1] - 1)
    low, weight = int(position), position - int(position)
    if weight < 1e-9:
        exact: Array = ordered[..., low]
        return exact
    between: Array = ordered[..., low] * (1 - weight) + ordered[..., low + 1] * weight
    return between


_STATISTICS: dict[str, tuple[str, Statistic]] = {
    "recommendation_median": ("recommendation", lambda v: quantile(v, 0.5)),
    "recommendation_p90": ("recommendation", lambda v: quantile(v, 0.9)),
    "incumbent_median": ("incumbent", lambda v: quantile(v, 0.5)),
    "incumbent_p90": ("incumbent", lambda v: quantile(v, 0.9)),
    "within_5_percent": ("recommendation", lambda v: (v <= NEARER).mean(axis=-1)),
    "within_10_percent": ("recommendation", lambda v: (v <= NEAR).mean(axis=-1)),
    "infeasible": ("infeasible", lambda v: v.mean(axis=-1)),
    "unanswered": ("unanswered", lambda v: v.mean(axis=-1)),
    "runs": ("runs", lambda v: v.mean(axis=-1)),
    "search_cost_usd": ("search_cost_usd", lambda v: v.mean(axis=-1)),
    "relative_search_cost": ("relative_search_cost", lambda v: v.mean(axis=-1)),
    "runs_to_5_percent": ("runs_to_5_percent", lambda v: quantile(v, 0.5)),
}
"""Name -> the number of an episode it is over, and what it does with it."""


def _known(value: npt.ArrayLike) -> float:
    """Return a finite number, or NaN: what an infinite one stands for is missing."""
    number = float(np.asarray(value))
    return number if np.isfinite(number) else float("nan")


def _point(cells: pd.DataFrame) -> dict[str, float]:
    return {name: _known(of(cells[column].to_numpy(float))) for name, (column, of) in _STATISTICS.items()}


def _with_intervals(cells: pd.DataFrame) -> dict[str, float]:
    workloads = cells["workload"].nunique()
    sample = np.random.default_rng(0).integers(workloads, size=(RESAMPLES, workloads))
    point, found = _point(cells), dict[str, float]()
    for name, (column, of) in _STATISTICS.items():
        matrix = cells[column].to_numpy(float).reshape(workloads, -1)
        drawn = of(matrix[sample].reshape(RESAMPLES, -1))
        tail = (1.0 - LEVEL) / 2.0
        low, high = (quantile(drawn, q) for q in (tail, 1.0 - tail))
        found |= {name: point[name], f"{name}_low": _known(low), f"{name}_high": _known(high)}
    return found
