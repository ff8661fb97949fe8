"""Whether runtimes are noted in seconds, which no table says of itself: by the archive, by each other, by what was billed.

Everything here is a question, since a job may be as large as another unit makes it look: the runs are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from recommender.errors import InsufficientEvidenceError
from recommender.models import configuration_rows, measured
from recommender.models.archive import Archived, archived, listed
from recommender.models.kept import kept
from recommender.models.unusual import FEWEST, MAD
from recommender.pricing import BY_NAME, price_option
from recommender.problem import Problem
from recommender.runs import Runs

UNITS = {60.0: "minutes", 1000.0: "milliseconds", 3600.0: "hours"}
"""Ratio of runtimes -> the unit that was noted for seconds, or seconds for it."""
SMALLER = {1000.0: UNITS[1000.0]}
"""Those that make one workload look longer than the others: minutes and hours make it look shorter."""
APART = 30.0
"""Ratio of a workload's runtimes to the archive's typical ones, or of bills to prices, from which on another unit is asked
about: sizes, and what spot saves, stay below."""
NEAR = 3.0
"""Factor within which a ratio is called that of two units."""
FAR = 3.0
"""Robust standard deviations of the levels that a workload must be off to be asked about its unit."""
SPLIT = 5.0
"""Standard deviations within two groups of workloads that their mean levels must be apart for that."""
LEAST_BILLED_S = 60.0
"""Clouds bill so long at least: what was billed for no longer does not say how long a run took."""
USUAL_S = (1.0, 86400.0)
"""Seconds between which an archive's median runtime is expected."""


def own_units(problem: Problem, runs: Runs) -> tuple[str, ...]:
    """Of the workload's own runs, in words: what they are against a looked-through archive, and against their bills."""
    against = _against_archive(problem, runs)
    return (*((against,) if against else ()), *billed(problem, runs))


def archive_units(problem: Problem) -> tuple[str, ...]:
    """Of the archive's runs, in words: what they are against each other, what jobs take, and against their bills."""
    runs = problem.archive
    if runs is None or not len(runs.completed):
        return ()
    return (*kept(problem, "units", lambda: _compared(problem, runs)), *billed(problem, runs, "of the archive "))


def _compared(problem: Problem, runs: Runs) -> tuple[str, ...]:
    try:
        said = _among(archived(problem))
    except InsufficientEvidenceError:  # what there is to say of such an archive is said where it is looked through
        said = []
    return (*said, *_usual(runs))


def _against_archive(problem: Problem, runs: Runs) -> str:
    seen = measured(problem, runs)
    if problem.archive is None or not (seen.count > 0).any():
        return ""
    try:
        a = archived(problem)
    except InsufficientEvidenceError:  # what there is to say of such an archive is said where it is looked through
        return ""
    both = (seen.count > 0)[a.columns] & np.isfinite(a.column)
    if not both.any():
        return ""
    apart = float(np.mean((seen.log_runtime[a.columns] - a.column)[both]) - np.median(a.level))
    if abs(apart) <= np.log(APART):
        return ""
    near = unit_near(apart, NEAR)
    return (
        f"the workload's own runs take {np.exp(abs(apart)):,.0f} x {'longer' if apart > 0 else 'shorter'} than the archive's "
        f"typical workload{f' (near {near})' if near else ''}: unless it is so much "
        f"{'larger' if apart > 0 else 'smaller'}, one of the two is not noted in seconds, and what is not in seconds is "
        "priced wrongly"
    )


def billed(problem: Problem, runs: Runs, whose: str = "") -> list[str]:
    """Workloads that were billed what their machines do not cost on demand for as long as they are said to have run."""
    if not (runs.frame["cost_usd"].to_numpy(float) > 0).any():
        return []
    frame = runs.completed
    offers, row = problem.candidates.offers, configuration_rows(problem, frame)
    usd_per_hour = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot).usd_per_hour * offers.nodes
    price = np.full(len(problem.configurations) + 1, np.nan)  # the last: no candidate
    np.fmin.at(price, offers.configuration, usd_per_hour)
    bought_s = 3600.0 * frame["cost_usd"] / price[row]
    says = bought_s > LEAST_BILLED_S
    off = np.log(bought_s / frame["runtime_s"])[says].groupby(frame["workload"][says]).median()
    off = off[off.abs() > np.log(APART)]
    found = []
    for part, how in ((off[off > 0], "more"), (off[off < 0], "less")):
        if len(part):
            apart = float(part.median())
            near = unit_near(apart, NEAR)
            found.append(
                f"the runs of {listed(part.index.to_numpy(object))} {whose}were billed {np.exp(abs(apart)):,.0f} x {how} (cost_usd) than "
                "their machines cost on demand for as long as they are said to have run"
                f"{f' (near {near})' if near else ''}: runtime_s is not in seconds, or cost_usd not in USD a run"
            )
    return found


def _among(looked: Archived) -> list[str]:
    """Workloads whose level is off the others' by about the ratio of two units, and by more than levels differ here."""
    level = pd.Series(looked.level).groupby(looked.workload).median()
    if len(level) < FEWEST:
        return []
    return _groups(level) or _single(level)


def _groups(level: pd.Series) -> list[str]:
    """Two groups of workloads, split where levels within them vary least; none of one workload, which `_single` tells better."""
    level = level.sort_values(kind="stable")
    y, n = level.to_numpy(float), len(level)
    k = np.arange(2, n - 1)
    apart = (y.sum() - y.cumsum()[k - 1]) / (n - k) - y.cumsum()[k - 1] / k
    between = k * (n - k) / n * apart**2
    at = int(between.argmax())
    within = np.sqrt(max(float(((y - y.mean()) ** 2).sum() - between[at]), 0.0) / (n - 2))
    near = unit_near(float(apart[at]), NEAR)
    if apart[at] <= SPLIT * within or not near:
        return []
    names, few = level.index.to_numpy(object), int(k[at])
    short = few <= n - few
    group = names[:few] if short else names[few:]
    said = (
        f"{listed(group)} of the archive took {np.exp(apart[at]):,.0f} x {'less' if short else 'longer'} than the other {n - len(group)} "
        f"workloads (near {near}), and neither group's differ as much among themselves: they are kept"
    )
    return [said]


def _single(level: pd.Series) -> list[str]:
    off = level - level.median()
    usual = float(off.abs().median()) / MAD
    factor = float(np.exp(np.clip(FAR * usual, np.log(1.5), np.log(4.0))))  # a workload has a size of its own too
    return [
        f"{name} of the archive took {np.exp(abs(apart)):,.0f} x {'longer' if apart > 0 else 'less'} than the typical workload "
        f"(near {near}): it is kept"
        for name, apart in off.items()
        if abs(apart) > max(FAR * usual, np.log(10.0))
        and (near := unit_near(float(apart), factor, SMALLER if apart > 0 else UNITS))
    ]


def _usual(runs: Runs) -> list[str]:
    """Of runs that are out of the range of jobs as a whole."""
    median = float(runs.completed["runtime_s"].median())
    if USUAL_S[0] <= median <= USUAL_S[1]:
        return []
    return [
        f"the median runtime of the archive is {median:,.3g} s: seconds are expected, was another unit noted throughout?"
    ]


def unit_near(apart: float, factor: float, units: Mapping[float, str] = UNITS) -> str:
    """The unit ratio within `factor` of exp(|apart|), and its unit; '' for none."""
    ratio = min(units, key=lambda r: abs(abs(apart) - np.log(r)))
    return f"{ratio:,.0f}: {units[ratio]} for seconds?" if abs(abs(apart) - np.log(ratio)) <= np.log(factor) else ""
