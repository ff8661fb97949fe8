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
from recommender.models import Array
from recommender.problem import Problem, scale_column
from recommender.runs import Runs


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
    """Equal for repetitions of one point (type, nodes, vCPUs and all inputs, also those the model does not use)."""
    instance_type: npt.NDArray[np.object_]
    family: npt.NDArray[np.object_]

    @property
    def distinct(self) -> int:
        """Number of distinct (scale, total vCPUs) among the completed runs: what a scaling law can be fitted to."""
        done = ~self.censored
        return len(set(zip(self.scale[done], (self.machines * self.vcpus)[done], strict=True)))

    def take(self, rows: npt.NDArray[np.bool_]) -> Points:
        """Return the points where `rows` is true."""
        return Points(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def target_points(problem: Problem, points: Points, *, by_vcpu: bool) -> tuple[Array, Array, Array, Array]:
    """(s, m, c, q) of every configuration at the input asked about."""
    column = scale_column(list(problem.inputs))
    machines = problem.configurations["node_count"].to_numpy(float)
    vcpus = problem.configurations["vcpus"].to_numpy(float) if by_vcpu else np.ones(len(machines))
    scale = np.full(len(machines), problem.inputs[column] if column else 1.0)
    return scale, machines, vcpus, machines if (points.machines > 1).any() else machines * vcpus


def run_points(problem: Problem, runs: Runs, warnings: list[str]) -> tuple[Points, Array, bool, bool]:
    """Completed and stopped runs as arrays; the speed of every configuration; whether the local CPU is unrecognised;
    whether parallelism is counted in vCPUs (else in nodes)."""
    column = scale_column(runs.inputs)
    usable = runs.frame["status"].isin(["completed", "timed_out"])
    if column is not None and (lost := int((usable & runs.frame[column].isna()).sum())):
        warnings.append(f"{lost} runs have no {column} and are left out of the fit")
        usable &= runs.frame[column].notna()
    frame = runs.frame[usable].reset_index(drop=True)
    scale = frame[column].to_numpy(float) if column is not None else np.ones(len(frame))
    if (scale < 0).any():
        raise InsufficientEvidenceError(
            f"{column} is {scale.min():g} in a run; ernest needs an input scale of 0 or more"
        )
    specs, speed = problem.catalogue.types, problem.catalogue.speed["coremark_per_vcpu"]
    names = frame["instance_type"].to_numpy(object)
    local = names == "local"
    family = pd.Series(names).map(specs["family"]).astype(object).to_numpy(object, copy=True)
    unknown = False
    for cpu in sorted({c if isinstance(c, str) else "" for c in frame.loc[local, "cpu_model"]}):
        match = identify(cpu)
        here = local & (frame["cpu_model"].fillna("").to_numpy(object) == cpu)
        family[here] = problem.local_like or (match.family if match else None)
        if problem.local_like is not None or match is not None:
            warnings.append(
                f"the profiling machine is taken to be as fast as {family[here][0]} ({(problem.local_like and '--local-like') or (match and match.how)})"
            )
        if problem.local_like is None and match is None:
            unknown = True
            warnings.append(
                f"the profiling machine's CPU ({cpu or 'not recorded'}) is not recognised; it is assumed to be as fast "
                "as the catalogue's median family (--local-like FAMILY)"
            )
    run_speed = speed.reindex(family).to_numpy(float)
    configurations = problem.configurations
    candidate_speed = speed.reindex(configurations["family"]).to_numpy(float)
    reference = float(np.nanmedian(speed))
    run_speed = np.where(np.isnan(run_speed), reference, run_speed)
    candidate_speed = np.where(np.isnan(candidate_speed), reference, candidate_speed)
    own = configurations.drop_duplicates("instance_type").set_index("instance_type")["vcpus"]
    known = (
        pd.Series(names)
        .map(own)
        .astype(float)
        .fillna(pd.Series(names).map(specs["vcpus"]).astype(float))
        .to_numpy(float)
    )
    vcpus = np.where(np.isnan(frame["vcpus"].to_numpy(float)), known, frame["vcpus"].to_numpy(float))
    if local.any() and np.isnan(vcpus).any():
        raise InsufficientEvidenceError(
            "runs on instance_type local need the column vcpus: how many the run was allowed to use"
        )
    by_vcpu = bool(local.any()) or not (np.isnan(vcpus).any() or configurations["vcpus"].isna().any())
    if not by_vcpu:
        vcpus = np.ones(len(frame))
        warnings.append(
            "some instance types have no known vCPUs: parallelism is counted in nodes, and types are told apart by "
            "their runs alone"
        )
    for other in (*runs.inputs, *runs.params):
        if other != column and frame[other].nunique() > 1:
            warnings.append(f"ernest does not use {other}, which varies between the runs: they are mixed")
    machines = frame["node_count"].to_numpy(float)
    single = bool((machines == 1).all())
    point = frame[runs.inputs].assign(t=names, m=machines, c=vcpus)
    key = point.groupby(list(point), sort=True, dropna=False).ngroup()
    points = Points(
        scale=scale,
        machines=machines,
        vcpus=vcpus,
        units=machines * vcpus if single else machines,
        speed=run_speed / reference,
        runtime_s=frame["runtime_s"].to_numpy(float),
        censored=(frame["status"] == "timed_out").to_numpy(),
        key=np.asarray(key, dtype=np.intp),
        instance_type=names,
        family=np.where(pd.isna(family), names, family),
    )
    return points, candidate_speed / reference, unknown, by_vcpu
