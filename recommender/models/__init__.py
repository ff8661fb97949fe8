"""Performance models, one file each: what is believed about runtimes.

Notation: a configuration i has ln T_i ~ Normal(mean_i, spread_i²), T the runtime in seconds of a run that completes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.problem import Problem
from recommender.runs import Runs

Array = npt.NDArray[np.float64]
Draws = Callable[[npt.NDArray[np.intp], int, np.random.Generator], Array]
"""(rows, count, generator) -> joint draws of the noiseless ln(runtime) of those configurations, (count, len(rows))."""

EVIDENCE = ("measured", "modelled", "transferred", "assumed")
MEASURED, MODELLED, TRANSFERRED, ASSUMED = (np.int8(i) for i in range(4))

# Spread of ln(runtime) between repetitions of one configuration, where the runs hold no repetitions, and its weight in
# degrees of freedom against those they hold. The public C3O runs (5 repetitions of 930 points) give 0.03 to 0.08
# pooled per job.
NOISE_PRIOR, NOISE_PRIOR_DOF = 0.05, 4.0


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
    preference: Array | None = None
    """Order (lower first) of configurations when no runtime is believed at all."""
    warnings: tuple[str, ...] = ()
    """What the reader must know before trusting the numbers."""
    binding: Callable[[int], str] = field(default=lambda _: "")
    """Configuration -> what limits its runtime, in words."""
    noise: float = 0.0
    """The part of `spread` that is the noise of a single run; 0 where the model does not tell it apart."""
    draws: Draws | None = None
    """Joint draws, for questions about several configurations at once; None where the model has none."""

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
    """What was measured of each configuration at the input asked about; arrays of shape (configurations,)."""

    count: Array
    """Completed runs."""
    log_runtime: Array
    """Mean ln(runtime in s) of the completed runs, NaN if none."""
    failures: Array
    """Runs that failed."""
    censored_log: Array
    """ln of the longest time a run was stopped at without having completed, -inf if none."""
    noise: float
    """Standard deviation of ln(runtime) between repetitions, pooled over all runs."""


def measured(problem: Problem, runs: Runs) -> Measured:
    """Aggregate the runs that measured a candidate whole (all its vCPUs) at the input asked about."""
    configurations, frame = problem.configurations, runs.frame
    at = np.ones(len(frame), dtype=bool)
    for column, value in problem.inputs.items():
        at &= np.isclose(frame[column].to_numpy(float), value, rtol=1e-9)
    row = configuration_rows(problem, frame)
    vcpus = configurations["vcpus"].to_numpy()[row]
    used = frame["vcpus"].to_numpy(float)
    at &= (row >= 0) & (np.isnan(used) | np.isnan(vcpus) | (used >= vcpus))
    status, log_t, n = frame["status"].to_numpy(object), np.log(frame["runtime_s"].to_numpy(float)), len(configurations)
    done = at & (status == "completed")
    count = np.bincount(row[done], minlength=n).astype(float)
    total = np.bincount(row[done], weights=log_t[done], minlength=n)
    censored = np.full(n, -np.inf)
    stopped = at & (status == "timed_out")
    np.maximum.at(censored, row[stopped], log_t[stopped])
    return Measured(
        count=count,
        log_runtime=np.where(count > 0, total / np.maximum(count, 1), np.nan),
        failures=np.bincount(row[at & (status == "failed")], minlength=n).astype(float),
        censored_log=censored,
        noise=repetition_noise(runs),
    )


def configuration_rows(problem: Problem, frame: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Row of the problem's configurations that each run executed, -1 where it is no candidate."""
    keys = problem.candidates.key_columns
    if missing := [k for k in keys if k not in frame]:
        frame = frame.assign(**dict.fromkeys(missing, np.nan))
    index = pd.MultiIndex.from_frame(problem.configurations[keys].astype(object))
    return index.get_indexer(pd.MultiIndex.from_frame(frame[keys].astype(object)))


def repetition_noise(runs: Runs) -> float:
    """Pooled standard deviation of ln(runtime) between repetitions, shrunk to NOISE_PRIOR; never zero."""
    frame = runs.completed
    keys = ["instance_type", "node_count", "vcpus", *runs.inputs, *runs.params]
    log_t = pd.Series(np.log(frame["runtime_s"].to_numpy(float)), index=frame.index)
    groups = log_t.groupby([frame[k] for k in keys], dropna=False)
    squares = float(((log_t - groups.transform("mean")) ** 2).sum()) if len(frame) else 0.0
    dof = len(frame) - groups.ngroups if len(frame) else 0
    return float(np.sqrt((squares + NOISE_PRIOR_DOF * NOISE_PRIOR**2) / (dof + NOISE_PRIOR_DOF)))


def with_measurements(prediction: Prediction, problem: Problem, runs: Runs) -> Prediction:
    """Join a model's belief with what was measured of the very configuration.

    Mean and variance are the product of two normals: the model's (its spread less the noise of one run) and that of
    the mean of k runs, noise²/k. A run that was stopped makes the configuration at least that slow. A configuration
    whose every run failed or was stopped is excluded; P(completing) is (completed + 1)/(runs + 1) where there are runs.
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
    variance = np.where(has, np.where(know, weight, 1.0) * noise2 / np.maximum(k, 1) + noise2, prediction.spread**2)
    mean = np.where(np.isfinite(seen.censored_log), np.fmax(mean, seen.censored_log), mean)
    stopped = np.isfinite(seen.censored_log)
    bad = ~has & ((seen.failures > 0) | stopped)
    code = np.int16(len(prediction.reasons) + 1)
    sentence = f"every run of {int(bad.sum())} configurations failed or was stopped at its time limit"
    return Prediction(
        log_runtime=mean,
        spread=np.sqrt(variance),
        evidence=np.where(has, MEASURED, prediction.evidence).astype(np.int8),
        completing=np.where(has | bad, (k + 1) / (k + seen.failures + stopped + 1), prediction.completing),
        family_spread=np.where(has, 0.0, prediction.family_spread),
        # What completed at this input is not excluded by a model that says it could not.
        excluded=np.where(bad & (prediction.excluded == 0), code, np.where(has, 0, prediction.excluded)).astype(
            np.int16
        ),
        reasons=(*prediction.reasons, ("failed", sentence)) if bad.any() else prediction.reasons,
        preference=prediction.preference,
        warnings=prediction.warnings,
        binding=prediction.binding,
        noise=seen.noise,
        draws=prediction.draws,
    )


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
