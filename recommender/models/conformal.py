"""Conformal calibration (Vovk, Gammerman, Shafer 2005): intervals that hold the truth as often as they say.

Notation
--------
μ, σ   a model's mean and spread of ln t        u = |ln t − μ|/σ   score of a run that the model did not see
G      groups (workloads) that were left out    α = 1 − LEVEL      z = Φ⁻¹(1 − α/2), the normal's half width

    factor = Q/z,   Q the weighted quantile of the scores, a score of group k weighing 1/((G + 1) n_k) and +∞ 1/(G + 1)

A score of one group says little about its own neighbours, so a new workload is exchangeable with groups, not with runs
(hierarchical conformal prediction: Dunn, Wasserman, Ramdas 2022). Below G = 1/α − 1 the quantile is infinite: the largest
score is then raised by t_G(1 − α/2)/z, which is our choice. σ times the factor has intervals that cover 1 − α.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri, stdtrit

from recommender.errors import InsufficientEvidenceError
from recommender.inputs import at_inputs, scale_column
from recommender.models import MEASURED, Array, PerformanceModel, Prediction, configuration_rows, measured
from recommender.models.contexts import by_content
from recommender.problem import Problem
from recommender.runs import Runs

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

LEVEL = 0.9
"""Coverage that is calibrated: that of the central interval in which a run ends with this probability."""
MOST_GROUPS = 40
"""Workloads of the archive that are asked about in turn; of more, as many, evenly spaced in the order of their names."""
MOST_SHOWN = 200
"""Runs at other inputs of which a like one is looked for; of more, as many, evenly spaced."""
FEWEST_SCORES = 2
"""A workload with fewer runs left to predict says too little."""


def quantile(scores: Array, groups: npt.NDArray[np.intp], level: float = LEVEL) -> float:
    """Q: what a score of a new group does not exceed with probability `level`; shapes (n,) and (n,).

    Raises
    ------
    InsufficientEvidenceError
        Without scores.
    """
    if not len(scores):
        raise InsufficientEvidenceError("there is no run left out to calibrate an interval on")
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    count = len(size)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum((1.0 / size[group])[order]) / (count + 1)
    at = int(np.searchsorted(reached, level - 1e-12))
    if at < len(scores):
        return float(scores[order[at]])
    tail = 0.5 + level / 2
    return float(scores.max() * stdtrit(count, tail) / ndtri(tail))


def spread_of(errors: Array, groups: npt.NDArray[np.intp], level: float = LEVEL) -> float:
    """σ whose normal interval of `level` holds an error of a new group: the finite-sample quantile of |errors| over z."""
    return quantile(np.abs(errors), groups, level) / float(ndtri(0.5 + level / 2))


@dataclass(frozen=True)
class Calibration:
    """How often a model's intervals held what it did not see."""

    factor: float
    """What the spread is multiplied by; 1 where there was nothing to calibrate on."""
    groups: int
    """Workloads left out."""
    scores: int
    """Runs predicted."""
    covered: float
    """Share of those inside the uncalibrated interval of LEVEL; NaN without any."""


@dataclass(frozen=True)
class Conformal:
    """A model whose spread is scaled until its intervals held what was left out of the archive, by workload."""

    model: PerformanceModel
    level: float = LEVEL
    progress: Progress | None = field(default=None, repr=False, compare=False)
    """Called with the number of workloads asked about, and of all of them."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """The model's prediction with a calibrated spread; measured configurations keep theirs.

        Each workload of the archive is asked about as this one is, without the others and from its own runs at the same
        configurations and relative inputs, where it has them. Raises what the model raises.
        """
        prediction = self.model.predict(problem, runs)
        found = calibrate(self.model, problem, runs, self.level, progress=self.progress)
        if not found.groups:
            nothing = (
                "nothing to calibrate on: intervals are the model's own (--archive FILE with runs of other workloads)"
            )
            return replace(prediction, warnings=(*prediction.warnings, nothing))
        factor = np.where(prediction.evidence == MEASURED, 1.0, found.factor)
        said = (
            f"intervals are scaled by {found.factor:.2g}: of {found.scores} runs of {found.groups} other workloads left out in "
            f"turn, {found.covered:.0%} were inside the {self.level:.0%} interval before"
        )
        few = found.groups + 1 < 1 / (1 - self.level)
        said += "; so few workloads say little of the tail, so it is counted wider than what they show" if few else ""
        return replace(
            prediction,
            spread=np.maximum(prediction.spread * factor, prediction.noise),  # a run's own noise is known
            family_spread=prediction.family_spread * factor,
            longest_s=None,  # of the spread that was
            warnings=(*prediction.warnings, said),
        )


def calibrate(
    model: PerformanceModel,
    problem: Problem,
    runs: Runs,
    level: float = LEVEL,
    *,
    progress: Progress | None = None,
) -> Calibration:
    """Scores of the archive's workloads, each predicted from runs of its own like those of the workload asked about."""
    half = float(ndtri(0.5 + level / 2))
    nothing = Calibration(1.0, 0, 0, float("nan"))
    if problem.archive is None or not len(problem.archive):
        return nothing
    _, first = np.unique(by_content(problem.archive), return_index=True)
    every = problem.archive.frame["workload"].to_numpy(object)[first]
    names = [str(every[i]) for i in np.unique(np.linspace(0, len(every) - 1, MOST_GROUPS).astype(int))]
    here = shown(problem, runs)
    scores, groups = [], []
    for k, name in enumerate(names):
        own = held_out_scores(model, problem, name, here)
        if progress is not None:
            progress(k + 1, len(names))
        if len(own) >= FEWEST_SCORES:
            scores.append(own)
            groups.append(np.full(len(own), k))
    if not scores:
        return nothing
    u = np.concatenate(scores)
    factor = quantile(u, np.concatenate(groups), level) / half
    return Calibration(max(factor, 1e-3), len(scores), len(u), float(np.mean(u <= half)))


@dataclass(frozen=True)
class Shown:
    """What is known of the workload asked about: of another, no more may be shown."""

    here: frozenset[int]
    """Configurations that completed at the input asked about."""
    elsewhere: tuple[tuple[int, float], ...]
    """(configuration, ln of the amount of work over that asked about) of every run at another input; configuration −1: none
    of the candidates."""


def shown(problem: Problem, runs: Runs) -> Shown:
    """What the runs of a workload say about which of its cells."""
    frame = runs.completed
    row = configuration_rows(problem, frame)
    at = at_inputs(frame, problem.inputs) & (row >= 0)
    size = _sizes(frame, problem.inputs)
    other = np.flatnonzero(~at)
    other = other[np.unique(np.linspace(0, len(other) - 1, min(MOST_SHOWN, len(other))).astype(int))]
    return Shown(frozenset(row[at].tolist()), tuple(zip(row[other].tolist(), size[other].tolist(), strict=True)))


def _sizes(frame: pd.DataFrame, inputs: Mapping[str, float]) -> Array:
    """ln of each run's amount of work over that of `inputs`; 0 where nothing says it."""
    column = scale_column([c for c in inputs if c in frame])
    if column is None:
        return np.zeros(len(frame))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(frame[column].to_numpy(float) / inputs[column])
    return np.asarray(np.nan_to_num(ratio, nan=0.0, posinf=50.0, neginf=-50.0))


def _like(problem: Problem, frame: pd.DataFrame, inputs: Mapping[str, float], like: Shown) -> npt.NDArray[np.bool_]:
    """Runs of another workload to show: those of the same configurations at the input asked about, and for each run at another
    input one of the same configuration there, the nearest in relative size."""
    row, at, size = configuration_rows(problem, frame), at_inputs(frame, inputs), _sizes(frame, inputs)
    given = at & np.isin(row, list(like.here))
    free = (~at | (row < 0)) & (frame["status"] == "completed").to_numpy()
    for configuration, wanted in like.elsewhere:
        among = np.flatnonzero(free & (row == configuration))
        if len(among):
            nearest = among[np.argmin(np.abs(size[among] - wanted))]
            given[nearest], free[nearest] = True, False
    return np.asarray(given)


def held_out_scores(model: PerformanceModel, problem: Problem, name: str, like: Shown) -> Array:
    """u of the runs of one workload of the archive at its input, predicted from runs like those shown of the one asked about."""
    archive = problem.archive
    if archive is None:
        return np.empty(0)
    mine = archive.of(name)
    inputs = _commonest_input(mine)
    given, at = _like(problem, mine.frame, inputs, like), at_inputs(mine.frame, inputs)
    keep = mine.frame[given]
    known = Runs(
        keep.drop(columns=[c for c in (*mine.inputs, *mine.metrics) if keep[c].isna().all()]).reset_index(drop=True)
    )
    asked = replace(
        problem, workload=name, archive=archive.without(name), inputs=inputs, deadline_s=None, budget_usd=None
    )
    rest = mine.frame[~given & at & (mine.frame["status"] == "completed").to_numpy()].reset_index(drop=True)
    if not len(rest):
        return np.empty(0)
    try:
        prediction = model.predict(asked, known)
    except InsufficientEvidenceError:
        return np.empty(0)
    log_t = measured(asked, Runs(rest)).log_runtime
    has = np.isfinite(log_t) & np.isfinite(prediction.log_runtime) & (prediction.evidence != MEASURED)
    result: Array = np.abs(log_t[has] - prediction.log_runtime[has]) / prediction.spread[has]
    return result


def _commonest_input(runs: Runs) -> dict[str, float]:
    """The input with most completed runs of a workload; the largest of those."""
    frame = runs.completed
    columns = [c for c in runs.inputs if frame[c].notna().any()]
    if not columns or not len(frame):
        return {}
    counted = frame.groupby(columns).size().reset_index(name="n").sort_values(["n", *columns]).iloc[-1]
    return {c: float(counted[c]) for c in columns}
