"""What describes a run besides its size, as numbers: inputs, application parameters, family.

Notation: z (runs, k) of the points fitted and (configurations, k) of the candidates at the input asked about; positive
numbers as logarithms, text one-hot. What never varied in the runs teaches nothing and is left out; where it is asked
about at another value, the spread says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.inputs import scale_column
from recommender.models import Array, comparable
from recommender.models.ernest import SCALE_SPREAD, UNSEEN_PARAMETERS_SPREAD
from recommender.models.points import Evidence
from recommender.problem import Problem


@dataclass(frozen=True)
class Descriptions:
    """z of points and candidates."""

    names: tuple[str, ...]
    """One per column."""
    run: Array
    """(points, k)."""
    asked: Array
    """(configurations, k)."""
    further: Array
    """Spread of ln(runtime) because a value outside those of the runs is asked about, (configurations,)."""
    assumed: npt.NDArray[np.bool_]
    """Whether something is asked about of which the runs say nothing, (configurations,)."""
    edges: tuple[Edge, ...]
    """One for each side of a number that is asked about beyond the runs."""


@dataclass(frozen=True)
class Edge:
    """A number asked about beyond its range, and the runs near that side of it: what a model that has not seen those says of
    them is how well it extrapolates."""

    left: npt.NDArray[np.bool_]
    """The points to leave out, (points,)."""
    away: float
    """How far they are from those that are kept, root mean square, in the unit of `beyond`."""
    beyond: Array
    """How far the question is beyond all points: doublings, or ranges where a value is not positive; (configurations,)."""
    varies: bool
    """Whether the value still varies among the points that are kept."""

    def further(self, error: float) -> Array:
        """Spread of ln(runtime) for what is asked about, (configurations,), of a model whose root mean square error at the
        points left out is `error`.

        A slope that wanders as a random walk is off by distance^(3/2). Two values say nothing of how it bends: the error is then
        all of the slope, of which one that goes on anywhere between not at all and twice as steep has it as half width; and as of
        a value that never varied, the runtime may be anywhere from independent of it to proportional to it.
        """
        grown = (self.beyond / self.away) ** 1.5
        if self.varies:
            return np.asarray(grown * error)
        return np.asarray(np.maximum(grown * error / np.sqrt(3.0), self.beyond * np.log(2.0) / 2))


def edges(values: Array, wanted: Array) -> list[Edge]:
    """The sides of a number on which something is asked about beyond the runs; none where it never varied.

    Left out are the outermost of its distinct values until the question is at most twice as far beyond all as the outermost
    is beyond the rest, or half of them are.
    """
    both = np.concatenate([values, wanted[np.isfinite(wanted)]])
    unit = np.log2 if both.min() > 0 else lambda v: v / max(float(np.ptp(values)), 1e-300)
    u, w = unit(values), unit(np.where(np.isfinite(wanted), wanted, values[0]))
    found = []
    for side in (1.0, -1.0):
        distinct = np.unique(np.round(side * u, 9))
        beyond = np.maximum(0.0, side * w - distinct[-1] - 1e-9)
        if len(distinct) == 1 or not beyond.any():
            continue
        kept = len(distinct) - 1
        while kept > max(1, -(-len(distinct) // 2)) and distinct[-1] - distinct[kept - 1] < beyond.max() / 2:
            kept -= 1
        far = side * u - distinct[kept - 1]
        left = far > 1e-8
        found.append(Edge(left, float(np.sqrt(np.mean(far[left] ** 2))), beyond, varies=kept > 1))
    return found


def describe(problem: Problem, evidence: Evidence, rows: npt.NDArray[np.intp], warnings: list[str]) -> Descriptions:
    """Describe the runs `rows` of the evidence, and every configuration of the problem."""
    frame, configurations = evidence.frame.iloc[rows], problem.configurations
    n = len(configurations)
    scale = scale_column(list(problem.inputs))
    names: list[str] = []
    run: list[Array] = []
    asked: list[Array] = []
    beyond: list[Edge] = []
    further, assumed = np.zeros(n), np.zeros(n, dtype=bool)
    for column in (c for c in map(str, frame) if c.startswith("input.")):
        if column not in problem.inputs:
            continue
        values = frame[column].to_numpy(float)
        if np.isnan(values).any():
            warnings.append(f"{column} is missing in some runs and is not used")
            continue
        wanted = np.full(n, float(problem.inputs[column]))
        if column != scale:
            spread, unknown = distance(values, wanted)
            further, assumed = np.hypot(further, spread), assumed | unknown
            beyond += edges(values, wanted)
            if spread[0]:
                warnings.append(
                    f"{column} = {wanted[0]:g} is asked about and was measured from {values.min():g} to {values.max():g} "
                    "only: the spread is wider"
                )
        _add(names, run, asked, column, values, wanted)
    for column in problem.candidates.params:
        if column not in frame:
            continue
        both = comparable(pd.concat([frame[column], configurations[column]], ignore_index=True))
        numeric = pd.to_numeric(both, errors="coerce")
        if numeric.notna().all():
            values, wanted = numeric.to_numpy(float)[: len(frame)], numeric.to_numpy(float)[len(frame) :]
            spread, unknown = distance(values, wanted)
            further, assumed = np.hypot(further, spread), assumed | unknown
            beyond += edges(values, wanted)
            _add(names, run, asked, column, values, wanted)
        else:
            cells = both.astype(str).to_numpy(object)
            _one_hot(names, run, asked, column, cells[: len(frame)], cells[len(frame) :])
            unknown = ~np.isin(cells[len(frame) :], cells[: len(frame)])
            further = np.where(unknown, np.hypot(further, UNSEEN_PARAMETERS_SPREAD), further)
            assumed |= unknown
    families = configurations["family"].where(configurations["family"] != "", configurations["instance_type"])
    _one_hot(
        names, run, asked, "family", evidence.points.family[rows].astype(str), families.to_numpy(object).astype(str)
    )
    z, z_asked = (
        np.stack(part, axis=1) if part else np.empty((len(part_of), 0))
        for part, part_of in ((run, frame), (asked, configurations))
    )
    return Descriptions(tuple(names), z, z_asked, further, assumed, tuple(beyond))


def distance(values: Array, wanted: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Further spread of ln(runtime) for values outside those measured, and whether they never varied.

    SCALE_SPREAD times the root of the doublings beyond the range (of the ranges beyond it, where a value is not
    positive). Of a value that never varied, the runtime may be anywhere from independent of it to proportional to it:
    half of its logarithm, and a factor of e where that has no meaning.
    """
    low, high = float(values.min()), float(values.max())
    out = (wanted < low - 1e-9 * abs(low)) | (wanted > high + 1e-9 * abs(high))
    edge = np.where(wanted < low, low, high)
    positive = (wanted > 0) & (low > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(positive, np.abs(np.log(np.where(positive, wanted, 1.0) / np.where(edge > 0, edge, 1.0))), 2.0)
    if low == high:
        return np.where(out, ratio / 2, 0.0), np.asarray(out)
    steps = np.where(positive, ratio / np.log(2.0), np.abs(wanted - edge) / (high - low))
    return np.where(out, SCALE_SPREAD * np.sqrt(steps), 0.0), np.zeros(len(wanted), dtype=bool)


def _add(names: list[str], run: list[Array], asked: list[Array], name: str, values: Array, wanted: Array) -> None:
    """A number column: its logarithm where every value is positive; nothing where it never varied."""
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return
    positive = values.min() > 0 and wanted.min() > 0
    names.append(name)
    run.append(np.log(values) if positive else values)
    asked.append(np.log(wanted) if positive else wanted)


def _one_hot(
    names: list[str],
    run: list[Array],
    asked: list[Array],
    name: str,
    values: npt.NDArray[np.object_],
    wanted: npt.NDArray[np.object_],
) -> None:
    """A column for each text that was run, where there are several."""
    kinds = sorted(set(values))
    for kind in kinds if len(kinds) > 1 else ():
        names.append(f"{name} {kind}")
        run.append((values == kind).astype(float))
        asked.append((wanted == kind).astype(float))
