"""Runs and candidates as points a scaling model can be fitted to: scale, machines, vCPUs, speed.

Notation as in `recommender.models.ernest`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.catalogue.cpu import identify
from recommender.errors import InsufficientEvidenceError
from recommender.inputs import scale_column
from recommender.models import Array
from recommender.problem import Problem
from recommender.runs import Runs

MOST_FITTED = 50_000
"""Of more runs than this, every k-th is fitted: a handful of coefficients is known long before."""
SUBSET_POINTS = 6
"""Runs at exactly the other inputs asked about are fitted alone where they have this many distinct points."""


@dataclass(frozen=True)
class Points:
    """Runs as arrays, shape (runs,)."""

    scale: Array
    machines: Array
    vcpus: Array
    units: Array
    speed: Array
    runtime_s: Array
    censored: npt.NDArray[np.bool_]
    key: npt.NDArray[np.intp]
    """Equal for repetitions of one point (type, nodes, vCPUs, all inputs and parameters, also those the model does not
    use)."""
    instance_type: npt.NDArray[np.object_]
    family: npt.NDArray[np.object_]

    @property
    def distinct(self) -> int:
        """Number of distinct (scale, total vCPUs) among the completed runs: what a scaling law can be fitted to."""
        done = ~self.censored
        return len(set(zip(self.scale[done], (self.machines * self.vcpus)[done], strict=True)))

    @property
    def completed_at(self) -> tuple[Array, Array, Array, Array]:
        """(s, m, c, q) of the runs that completed."""
        done = ~self.censored
        return self.scale[done], self.machines[done], self.vcpus[done], self.units[done]

    def take(self, rows: npt.NDArray[np.bool_]) -> Points:
        """Return the points where `rows` is true."""
        return Points(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Evidence:
    """The points of a workload, and how they are to be read."""

    points: Points
    unknown_cpu: bool
    """The profiling machine's CPU is not recognised."""
    by_vcpu: bool
    """Parallelism is counted in vCPUs, else in nodes."""
    other_inputs: float
    """Further spread of ln(runtime), because an input other than the scale is asked about outside what was measured."""
    frame: pd.DataFrame
    """The rows of the runs table that the points stand for, in their order."""


def target_points(
    problem: Problem, configurations: pd.DataFrame, evidence: Evidence
) -> tuple[Array, Array, Array, Array]:
    """(s, m, c, q) of every configuration at the input asked about; NaN where its vCPUs are needed and not known."""
    column = scale_column(list(problem.inputs))
    machines = configurations["node_count"].to_numpy(float)
    vcpus = configurations["vcpus"].to_numpy(float) if evidence.by_vcpu else np.ones(len(machines))
    scale = np.full(len(machines), problem.inputs[column] if column else 1.0)
    return scale, machines, vcpus, machines if (evidence.points.machines > 1).any() else machines * vcpus


def relative_speed(problem: Problem, family: pd.Series | npt.NDArray[np.object_]) -> Array:
    """CoreMark per vCPU of families over the catalogue's median; 1 where there is no figure."""
    figures = problem.catalogue.rated["coremark_per_vcpu"]
    speed: Array = figures.reindex(family).to_numpy(float) / float(figures.median())
    return np.where(np.isnan(speed), 1.0, speed)


def run_points(problem: Problem, runs: Runs, warnings: list[str], *, every_input: bool = False) -> Evidence:
    """Completed and stopped runs as arrays: those at the other inputs asked about where they are enough, unless
    `every_input` (for a model that uses all inputs).

    Raises
    ------
    InsufficientEvidenceError
        For negative scales, scales that are all 0, and local runs without vCPUs.
    """
    column = scale_column(runs.inputs)
    usable = runs.frame["status"].isin(["completed", "timed_out"])
    if column is not None and (lost := int((usable & runs.frame[column].isna()).sum())):
        warnings.append(f"{lost} runs have no {column} and are left out of the fit")
        usable &= runs.frame[column].notna()
    rows = np.flatnonzero(usable)
    step = -(-len(rows) // MOST_FITTED)
    if step > 1:
        warnings.append(f"fitted to every {step}th of the {len(rows):,} runs")
        rows = rows[::step]
    frame = runs.frame.iloc[rows].reset_index(drop=True)
    scale = frame[column].to_numpy(float) if column is not None else np.ones(len(frame))
    if len(scale) and ((scale < 0).any() or not scale.any()):
        raise InsufficientEvidenceError(
            f"{column} is {scale.min():g} in {'a run' if scale.any() else 'every run'}; ernest needs input scales of 0 "
            "or more, some of them above 0"
        )
    vcpus = _vcpus_per_node(problem, frame)
    total = frame["node_count"].to_numpy(float) * np.nan_to_num(vcpus, nan=1.0)
    chosen, other_inputs = np.ones(len(frame), dtype=bool), 0.0
    if not every_input:
        chosen, other_inputs = _at_inputs(problem, runs, frame, scale, total, warnings)
    frame, scale, vcpus = frame[chosen].reset_index(drop=True), scale[chosen], vcpus[chosen]
    names = frame["instance_type"].to_numpy(object)
    local = names == "local"
    family, unknown = _families(problem, frame, warnings)
    if local.any() and np.isnan(vcpus).any():
        raise InsufficientEvidenceError(
            "runs on instance_type local need the column vcpus: how many the run was allowed to use"
        )
    by_vcpu = bool(local.any()) or not (np.isnan(vcpus).any() or problem.configurations["vcpus"].isna().all())
    if not by_vcpu:
        vcpus = np.ones(len(frame))
        warnings.append(
            "some of the types that were run have no known vCPUs: parallelism is counted in nodes, and types are told "
            "apart by their runs alone"
        )
    machines = frame["node_count"].to_numpy(float)
    single = bool((machines == 1).all())
    point = frame[[*runs.inputs, *runs.params]].assign(t=names, m=machines, c=vcpus)
    key = point.groupby(list(point), sort=True, dropna=False).ngroup()
    points = Points(
        scale=scale,
        machines=machines,
        vcpus=vcpus,
        units=machines * vcpus if single else machines,
        speed=relative_speed(problem, family),
        runtime_s=frame["runtime_s"].to_numpy(float),
        censored=(frame["status"] == "timed_out").to_numpy(),
        key=np.asarray(key, dtype=np.intp),
        instance_type=names,
        family=np.where(pd.isna(family), names, family),
    )
    return Evidence(points, unknown, by_vcpu, other_inputs, frame)


def proposals(points: Points) -> str:
    """What to measure so that a scaling model is determined, in words: runs whose scale and vCPUs are not all alike.

    Says which of the two never varied, and names runs next to those there are.
    """
    done = ~points.censored
    if not done.any():
        return "measure, for example, scales 0.1, 0.2 and 0.4 of the input on one small machine"
    scale, nodes, vcpus = points.scale[done], points.machines[done], points.vcpus[done]
    total = nodes * vcpus
    constant = [n for n, v in (("input scale", scale), ("number of vCPUs", total)) if len(np.unique(v)) == 1]
    s, m, c = scale.max(), nodes.max(), vcpus[nodes.argmax()]
    said = f"every run has the same {' and the same '.join(constant)}: " if constant else ""
    other = f"{2 * m:g} nodes" if m > 1 else f"{2 * c:g} vCPUs"
    return f"{said}measure also, for example, scale {s / 2:g} on {m * c:g} vCPUs, scale {s / 4:g} there, and scale {s / 2:g} on {other}"


def _vcpus_per_node(problem: Problem, frame: pd.DataFrame) -> Array:
    """vCPUs each node could use: as recorded (a number above one node's own is the cluster's total), else the type's."""
    own = problem.configurations.drop_duplicates("instance_type").set_index("instance_type")["vcpus"]
    names = frame["instance_type"]
    known = names.map(own).astype(float).fillna(names.map(problem.catalogue.types["vcpus"]).astype(float))
    used, nodes = frame["vcpus"].to_numpy(float), frame["node_count"].to_numpy(float)
    used = np.where(used > known.to_numpy(float), used / nodes, used)
    return np.where(np.isnan(used), known.to_numpy(float), used)


def _at_inputs(
    problem: Problem, runs: Runs, frame: pd.DataFrame, scale: Array, total: Array, warnings: list[str]
) -> tuple[npt.NDArray[np.bool_], float]:
    """The runs to fit: those at the other inputs asked about where they are enough, else all; and the further spread.

    The spread is half the logarithm of how far outside the measured range an input lies: a runtime anywhere between
    independent of it and proportional to it. An input that grew with the scale says nothing that the scale does not.
    """
    column = scale_column(runs.inputs)
    match, spread, varied = np.ones(len(frame), dtype=bool), 0.0, []
    for other in runs.inputs:
        values = frame[other].to_numpy(float)
        if other == column or other not in problem.inputs or not np.isfinite(values).any():
            continue
        asked, low, high = problem.inputs[other], np.nanmin(values), np.nanmax(values)
        same = np.isclose(values, asked, rtol=1e-9)
        if not same.all():
            varied.append(other)
        if not low * (1 - 1e-9) <= asked <= high * (1 + 1e-9) and not _restates(values, scale):
            nearest = low if asked < low else high
            distance = abs(np.log(asked / nearest)) if asked > 0 and nearest > 0 else 2.0
            spread = float(np.hypot(spread, distance / 2))
            warnings.append(
                f"{other} = {asked:g} is asked about and was measured from {low:g} to {high:g} only: how it changes the "
                "runtime is not known, so the spread is wider"
            )
        match &= same
    done = match & (frame["status"] == "completed").to_numpy()
    if varied and len(set(zip(scale[done], total[done], strict=True))) >= SUBSET_POINTS:
        return match, spread
    for other in varied:
        if frame[other].nunique() > 1:
            warnings.append(f"ernest does not use {other}, which varies between the runs: they are mixed")
    return np.ones(len(frame), dtype=bool), spread


def _restates(values: Array, scale: Array) -> bool:
    """Whether an input only says again how much work there is: it grows with the scale in the runs."""
    both = np.isfinite(values) & (values > 0) & (scale > 0)
    x, y = np.log(values[both]), np.log(scale[both])
    return bool(both.sum() > 2 and np.ptp(x) > 0 and np.ptp(y) > 0 and np.corrcoef(x, y)[0, 1] > 0.9)


def _families(problem: Problem, frame: pd.DataFrame, warnings: list[str]) -> tuple[npt.NDArray[np.object_], bool]:
    """The catalogue family each run's machine belongs to or resembles; whether a profiling machine's is not known."""
    names = frame["instance_type"]
    local = (names == "local").to_numpy()
    family = names.map(problem.catalogue.types["family"]).astype(object).to_numpy(object, copy=True)
    unknown = False
    for cpu in sorted({c if isinstance(c, str) else "" for c in frame.loc[local, "cpu_model"]}):
        match = identify(cpu)
        here = local & (frame["cpu_model"].fillna("").to_numpy(object) == cpu)
        family[here] = problem.local_like or (match.family if match else None)
        if problem.local_like is not None or match is not None:
            how = "--local-like" if problem.local_like is not None or match is None else match.how
            warnings.append(f"the profiling machine is taken to be as fast as {family[here][0]} ({how})")
        else:
            unknown = True
            warnings.append(
                f"the profiling machine's CPU ({cpu or 'not recorded'}) is not recognised; it is assumed to be as fast "
                "as the catalogue's median family (--local-like FAMILY)"
            )
    return family, unknown
