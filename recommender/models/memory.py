"""How much memory a node needs: a straight line in its share of the input.

Notation: g = a + b·x, g peak memory of a node in GiB, x = s/m its share of the input scale s over m machines, a and
b ≥ 0 (Ernest's non-negativity: more input never needs less memory). Runs on m machines say that the input divides over
up to m, and nothing of more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import nnls

from recommender.inputs import scale_column
from recommender.problem import Problem
from recommender.runs import Runs

PEAK_MEMORY = "metric.peak_memory_gib"
HEADROOM = 1.15
SYSTEM_GIB = 0.5


@dataclass(frozen=True)
class MemoryNeed:
    """Memory a machine must have, by node count."""

    peak_gib: npt.NDArray[np.float64]
    """Expected peak of one node; shape of the node counts asked about."""
    how: str
    """Where the number comes from."""

    @property
    def gib(self) -> npt.NDArray[np.float64]:
        """GiB, headroom and operating system included."""
        return self.peak_gib * HEADROOM + SYSTEM_GIB

    def sentence(self, short: npt.NDArray[np.bool_]) -> str:
        """Why the node counts in `short` were left out."""
        chosen = short if short.any() else np.ones(len(short), dtype=bool)
        return (
            f"less than the {_range(self.gib[chosen])} GiB needed (peak {_range(self.peak_gib[chosen])} GiB = {self.how}; "
            f"15 % headroom, {SYSTEM_GIB} GiB for the system)"
        )


def memory_need(runs: Runs, scale: str | None, at: float, nodes: npt.NDArray[np.float64]) -> MemoryNeed | None:
    """Memory a node needs at the scale `at`; None when no completed run recorded its peak memory.

    The line is fitted to the highest peak at each share (all core counts), raised by twice its residuals' root mean
    square, and never below a peak seen at no more input on no fewer machines. Headroom 15 % and 0.5 GiB for the system.
    """
    frame = runs.frame
    if PEAK_MEMORY not in frame:
        return None
    frame = frame[frame[PEAK_MEMORY].notna() & (frame[scale].notna() if scale else True)]
    done = frame[frame["status"] == "completed"]
    if not len(done):
        return None

    def columns(part: pd.DataFrame) -> tuple[npt.NDArray[np.float64], ...]:
        s = part[scale].to_numpy(float) if scale else np.ones(len(part))
        return s, part["node_count"].to_numpy(float), part[PEAK_MEMORY].to_numpy(float)

    s, m, g = columns(done)
    at = at if scale else 1.0
    machines = np.minimum(nodes, m.max())
    cluster = "/nodes" if m.max() > 1 else ""
    seen = pd.Series(g).groupby(s / m).max()
    x, top = seen.index.to_numpy(float), seen.to_numpy(float)
    wanted = at / machines
    if len(x) > 1:
        (a, b), residual = nnls(np.stack([np.ones_like(x), x], axis=1), top)
        peak = a + b * wanted + 2.0 * residual / np.sqrt(len(x))
        name = "scale" if scale else "input"
        how = f"{a:.3g} + {b:.3g} x {name}{cluster}, fitted to {len(x)} {'shares' if cluster else 'scales'}"
    else:
        peak = top[0] * np.maximum(wanted / x[0], 1.0) if x[0] > 0 else np.full(len(nodes), top[0])
        how = "the highest peak measured, in proportion above it"
    for counted in (columns(done), columns(frame[frame["status"] != "completed"])):
        for count in np.unique(machines):
            here = (counted[0] <= at * (1 + 1e-9)) & (counted[1] >= count)
            floor = float(np.max(counted[2][here], initial=0.0))
            peak = np.where(machines == count, np.maximum(peak, floor), peak)
    lost = frame.loc[frame["status"] != "completed", PEAK_MEMORY]
    if len(lost) and np.isin(peak, lost).all():
        how = "reached by a run that did not complete"
    return MemoryNeed(peak, how)


def _range(values: npt.NDArray[np.float64]) -> str:
    low, high = _gib(float(values.min())), _gib(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _gib(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class MemoryLimit:
    """The memory needed, held against every configuration of a problem."""

    excluded: npt.NDArray[np.int16]
    """1 where a node has less than is needed, else 0; shape (configurations,)."""
    reasons: tuple[tuple[str, str], ...]
    """(reason, sentence) of the exclusion; empty when no run recorded its memory."""
    share: npt.NDArray[np.float64]
    """Needed over available memory; NaN where either is unknown."""

    @classmethod
    def of(cls, problem: Problem, runs: Runs) -> MemoryLimit:
        """Compare the need at the input asked about with each configuration's memory per node."""
        memory = problem.configurations["memory_gib"].to_numpy(float)
        scale = scale_column(runs.inputs)
        nodes = problem.configurations["node_count"].to_numpy(float)
        need = memory_need(runs, scale, problem.inputs.get(scale, 1.0) if scale else 1.0, nodes)
        if need is None:
            return cls(np.zeros(len(memory), dtype=np.int16), (), np.full(len(memory), np.nan))
        short = memory < need.gib
        return cls(short.astype(np.int16), (("memory", need.sentence(short)),), need.gib / memory)

    def remark(self, row: int) -> str:
        """Say when memory is nearly used up."""
        return f"; memory is {self.share[row]:.0%} used" if self.share[row] > 0.7 else ""
