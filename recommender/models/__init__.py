"""Performance models, one file each: what is believed about runtimes.

Notation: a configuration i has ln T_i ~ Normal(mean_i, spread_i²), T the runtime in seconds of a run that completes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri, stdtrit

from recommender.candidates import comparable as comparable
from recommender.inputs import at_inputs, scale_column
from recommender.models.noise import NOISE_PRIOR as NOISE_PRIOR
from recommender.models.noise import NOISE_PRIOR_DOF, repetition_noise
from recommender.problem import Problem
from recommender.runs import Runs, some
from recommender.units import counted, format_duration

if TYPE_CHECKING:
    from recommender.models.mixture import Mixture

Array = npt.NDArray[np.float64]
Draws = Callable[[npt.NDArray[np.intp], int, np.random.Generator], Array]
"""(rows, count, generator) -> joint draws of the noiseless ln(runtime) of those configurations, (count, len(rows))."""

EVIDENCE = ("measured", "modelled", "transferred", "assumed")
MEASURED, MODELLED, TRANSFERRED, ASSUMED = (np.int8(i) for i in range(4))

CONTRADICTS, CONTRADICTION_FACTOR, MOST_NAMED = 3.0, 3.0, 3
"""A measurement contradicts the model from so many standard deviations on, if it is so many times off as well; and how
many configurations are named. Searching models are often off by more than their spread, seldom threefold."""


@dataclass(frozen=True)
class Prediction:
    """What a model believes about every configuration of a problem; arrays of shape (configurations,)."""

    log_runtime: Array
    """Mean of ln(runtime in s); NaN where nothing is believed."""
    spread: Array
    """Standard deviation of ln(runtime), noise of a single run included; > 0."""
    evidence: npt.NDArray[np.int8]
    """Index into EVIDENCE: what the number rests on."""
    completing: Array
    """Probability that a run completes."""
    family_spread: Array
    """The part of `spread` that all candidates of one instance family share."""
    excluded: npt.NDArray[np.int16]
    """0, or 1 + index into `reasons`: the configuration is not to be recommended."""
    reasons: tuple[tuple[str, str], ...] = ()
    """(reason, sentence) of exclusions."""
    lost: Array | None = None
    """Runs of the workload that failed or were stopped at this input or a smaller one; None: not counted."""
    preference: Array | None = None
    """Order (lower first) of configurations when no runtime is believed at all."""
    warnings: tuple[str, ...] = ()
    """What the reader must know before trusting the numbers."""
    binding: Callable[[int], str] = field(default=lambda _: "")
    """Configuration -> what limits its runtime, in words."""
    terms: Callable[[int], Mapping[str, float]] | None = None
    """Configuration -> what the model's median runtime is made of, in seconds by name; None where it is not a sum."""
    noise: float = 0.0
    """The part of `spread` that is the noise of a single run; 0 where the model does not tell it apart."""
    longest_s: Array | None = None
    """99th percentile of a single run's runtime in s, where the model knows better than the log-normal; else None."""
    draws: Draws | None = None
    """Joint draws, for questions about several configurations at once; None where the model has none."""
    mixture: Mixture | None = None
    """The beliefs that `log_runtime` and `spread` are the moments of, where they are not one normal."""
    kept: str = ""
    """How often promises that rest on `draws` were kept where that was measured, in words; '': never measured."""

    @property
    def latent(self) -> Array:
        """Standard deviation of the noiseless ln(runtime): what measuring once more could teach."""
        result: Array = np.sqrt(np.maximum(self.spread**2 - self.noise**2, 0.0))
        return result


class PerformanceModel(Protocol):
    """(problem, runs) -> prediction, a pure function."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Return beliefs about every configuration of `problem`, given the runs of the workload asked about."""
        ...


@dataclass(frozen=True)
class Measured:
    """What was measured of each configuration; arrays of shape (configurations,) unless said.

    More input takes no less time and fails no less often: a run that failed or was stopped at a smaller input counts at
    the one asked about, and one that completed a larger input shows that this one can be completed.
    """

    row: npt.NDArray[np.intp]
    """(runs,): the configuration that the run completed whole at the input asked about, else -1."""
    count: Array
    """Runs completed at the input asked about."""
    log_runtime: Array
    """Mean ln(runtime in s) of those, NaN if none."""
    failures: Array
    """Runs that failed at this input or a smaller one."""
    stopped: Array
    """Runs that were stopped at this input or a smaller one."""
    survived: Array
    """Runs completed at inputs no smaller than the smallest at which one failed or was stopped; 0 where none did."""
    censored_log: Array
    """ln of the longest time a run was stopped at without having completed, -inf if none."""
    noise: float
    """Standard deviation of ln(runtime) between repetitions, by all runs and by how noisy the archive's workloads are."""
    noise_dof: float = NOISE_PRIOR_DOF
    """Degrees of freedom of `noise`."""

    @property
    def lost(self) -> Array:
        """Runs that did not complete."""
        return self.failures + self.stopped


_SEEN: weakref.WeakKeyDictionary[Runs, tuple[Callable[[], object], Runs | None, dict[str, float], Measured]] = (
    weakref.WeakKeyDictionary()
)


def measured(problem: Problem, runs: Runs) -> Measured:
    """Aggregate the runs that measured a candidate whole (all its vCPUs) at the input asked about, or bound it.

    The last answer about the same runs is kept: model, acquisition and stopping rule each ask.
    """
    if runs in _SEEN:
        table, archive, inputs, found = _SEEN[runs]
        if table() is problem.configurations and archive is problem.archive and inputs == dict(problem.inputs):
            return found
    found = _measured(problem, runs)
    _SEEN[runs] = (weakref.ref(problem.configurations), problem.archive, dict(problem.inputs), found)
    return found


def _measured(problem: Problem, runs: Runs) -> Measured:
    configurations, frame = problem.configurations, runs.frame
    row = configuration_rows(problem, frame)
    vcpus = configurations["vcpus"].to_numpy()[row]
    used = frame["vcpus"].to_numpy(float)
    scale = scale_column(runs.inputs)
    others = {column: value for column, value in problem.inputs.items() if column != scale}
    whole = (row >= 0) & (np.isnan(used) | np.isnan(vcpus) | (used >= vcpus)) & at_inputs(frame, others)
    size, asked = np.zeros(len(frame)), 0.0
    if scale is not None and scale in problem.inputs:
        size, asked = frame[scale].to_numpy(float), problem.inputs[scale]
    at = whole & np.isclose(size, asked, rtol=1e-9)
    below = at | (whole & (size < asked))
    status, log_t, n = frame["status"].to_numpy(object), np.log(frame["runtime_s"].to_numpy(float)), len(configurations)
    completed = status == "completed"
    done, failed, stopped = at & completed, below & (status == "failed"), below & (status == "timed_out")
    count = np.bincount(row[done], minlength=n).astype(float)
    total = np.bincount(row[done], weights=log_t[done], minlength=n)
    censored, least = np.full(n, -np.inf), np.full(n, np.inf)
    np.maximum.at(censored, row[stopped], log_t[stopped])
    np.minimum.at(least, row[failed | stopped], size[failed | stopped])
    noise, dof = repetition_noise(runs, problem.archive)
    beyond = whole & completed & (size >= least[row] * (1 - 1e-9))
    return Measured(
        row=np.where(done, row, -1),
        count=count,
        log_runtime=np.where(count > 0, total / np.maximum(count, 1), np.nan),
        failures=np.bincount(row[failed], minlength=n).astype(float),
        stopped=np.bincount(row[stopped], minlength=n).astype(float),
        survived=np.bincount(row[beyond], minlength=n).astype(float),
        censored_log=censored,
        noise=noise,
        noise_dof=dof,
    )


def configuration_rows(problem: Problem, frame: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Row of the problem's configurations that each run executed, -1 where it is no candidate."""
    keys = problem.candidates.key_columns
    if missing := [k for k in keys if k not in frame]:
        frame = frame.assign(**dict.fromkeys(missing, np.nan))
    return problem.candidates.rows(frame)


def with_measurements(prediction: Prediction, problem: Problem, runs: Runs) -> Prediction:
    """Join a model's belief with what was measured of the very configuration.

    Mean and variance are the product of two normals: the model's (its spread less the noise of one run) and that of
    the mean of k runs, noise²/k; the noise is then widened to the normal that has the 10th and 90th percentile of a Student
    t with its degrees of freedom. Where the two contradict each other (d > CONTRADICTS, d² = (their difference)²/(sum of
    their variances)), one of them is wrong and which is not known: the variance of the mean is multiplied by d² (Birge 1932),
    and the configuration is named in a warning. A run that was stopped makes the configuration at least that slow. A configuration of
    which runs were lost and none completed since is excluded; where any were lost, P(completing) is
    (survived + 1)/(survived + lost + 1).
    """
    seen = measured(problem, runs)
    noise2, k = seen.noise**2, seen.count
    model2 = np.maximum(prediction.spread**2 - noise2, 1e-6)
    know = np.isfinite(prediction.log_runtime)
    has = k > 0
    weight = np.where(know, model2 / (model2 + noise2 / np.maximum(k, 1)), 1.0)
    mean = np.where(
        has,
        weight * np.nan_to_num(seen.log_runtime) + (1 - weight) * np.nan_to_num(prediction.log_runtime),
        prediction.log_runtime,
    )
    wide2 = noise2 * float(stdtrit(seen.noise_dof, 0.9) / ndtri(0.9)) ** 2
    apart = np.where(has & know, seen.log_runtime - prediction.log_runtime, 0.0)
    ratio = np.abs(apart) / np.sqrt(model2 + noise2 / np.maximum(k, 1))  # Birge's, of two values
    wrong = (ratio > CONTRADICTS) & (np.abs(apart) > np.log(CONTRADICTION_FACTOR))
    joined2 = np.where(know, weight, 1.0) * wide2 / np.maximum(k, 1) * np.where(wrong, ratio**2, 1.0)
    variance = np.where(has, joined2, model2) + wide2
    mean = np.where(np.isfinite(seen.censored_log), np.fmax(mean, seen.censored_log), mean)
    bad = ~has & (seen.survived == 0) & (seen.lost > 0)
    code = np.int16(len(prediction.reasons) + 1)
    lost_ones = some([problem.candidates.configuration(int(i)).label for i in np.flatnonzero(bad)[:MOST_NAMED]])
    if bad.sum() > MOST_NAMED:
        lost_ones = counted(int(bad.sum()), "configuration")
    sentence = (
        f"every run of {lost_ones} at this input, or from some smaller one on, failed or was stopped at its time limit"
        if scale_column(runs.inputs)
        else f"every run of {lost_ones} failed or was stopped at its time limit"
    )
    share = (seen.survived + 1) / (seen.survived + seen.lost + 1)
    return Prediction(
        log_runtime=mean,
        spread=np.sqrt(variance),
        evidence=np.where(has, MEASURED, prediction.evidence).astype(np.int8),
        completing=np.where(seen.lost > 0, share, np.where(has, 1.0, prediction.completing)),
        lost=seen.lost,
        family_spread=np.where(has, 0.0, prediction.family_spread),
        # What completed at this input is not excluded by a model that says it could not.
        excluded=np.where(bad & (prediction.excluded == 0), code, np.where(has, 0, prediction.excluded)).astype(
            np.int16
        ),
        reasons=(*prediction.reasons, ("failed", sentence)) if bad.any() else prediction.reasons,
        preference=prediction.preference,
        warnings=(*prediction.warnings, *_contradictions(problem, apart, seen.log_runtime, wrong)),
        binding=prediction.binding,
        terms=prediction.terms,
        noise=float(np.sqrt(wide2)),
        draws=prediction.draws,
        mixture=prediction.mixture,
        kept=prediction.kept,
    )


def _contradictions(
    problem: Problem, apart: Array, measured_log: Array, wrong: npt.NDArray[np.bool_]
) -> tuple[str, ...]:
    """Name the configurations that measurement and model contradict each other on, the farthest first."""
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return ()
    rows = rows[np.argsort(-np.abs(apart[rows]), kind="stable")]
    named = [
        f"{problem.configurations['instance_type'].iloc[i]} x{problem.configurations['node_count'].iloc[i]} measured "
        f"{format_duration(float(np.exp(measured_log[i])))}, expected {format_duration(float(np.exp(measured_log[i] - apart[i])))}"
        for i in rows[:MOST_NAMED]
    ]
    more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    return (f"contradiction: {'; '.join(named)}{more}: one of the two is wrong, so the spread is wider; run it again",)


def nothing_known(problem: Problem) -> Prediction:
    """A prediction that believes nothing about any configuration."""
    n = len(problem.configurations)
    return Prediction(
        log_runtime=np.full(n, np.nan),
        spread=np.full(n, np.nan),
        evidence=np.full(n, ASSUMED, dtype=np.int8),
        completing=np.ones(n),
        family_spread=np.zeros(n),
        excluded=np.zeros(n, dtype=np.int16),
    )
