"""How much memory a run needs: a straight line in the input scale.

Notation: g = a + b·s, g peak memory in GiB, s input scale, a and b ≥ 0 (Ernest's non-negativity: more input never
needs less memory).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from recommender.problem import Problem, scale_column
from recommender.runs import Runs

PEAK_MEMORY = "metric.peak_memory_gib"
HEADROOM = 1.15
SYSTEM_GIB = 0.5


@dataclass(frozen=True)
class MemoryNeed:
    """Memory a machine must have."""

    gib: float
    """GiB, headroom and operating system included."""
    sentence: str
    """Where the number comes from."""


def memory_need(runs: Runs, scale: str | None, inputs: Mapping[str, float]) -> MemoryNeed | None:
    """Memory needed at the scale asked about; None when no completed run recorded its peak memory.

    The line is fitted to the highest peak at each scale (all core counts), raised by twice its residuals' root mean
    square, and never below a peak seen at this scale or a smaller one. Headroom 15 % and 0.5 GiB for the system.
    """
    frame = runs.completed
    if PEAK_MEMORY not in frame or not frame[PEAK_MEMORY].notna().any():
        return None
    frame = frame[frame[PEAK_MEMORY].notna()]
    seen = frame.groupby(scale)[PEAK_MEMORY].max() if scale else None
    if scale is None or seen is None or not len(seen):
        peak, how = float(frame[PEAK_MEMORY].max()), "the highest peak measured"
    else:
        s, g, at = seen.index.to_numpy(float), seen.to_numpy(float), inputs.get(scale, 1.0)
        x = np.stack([np.ones_like(s), s], axis=1)
        (a, b), residual = nnls(x, g) if len(s) > 1 else ((0.0, g[0] / s[0]) if at > s[0] > 0 else (g[0], 0.0), 0.0)
        fitted = float(a + b * at + 2.0 * residual / np.sqrt(len(s)))
        peak = max([fitted, *g[s <= at]])
        how = (
            f"{a:.3g} + {b:.3g} x scale, fitted to {len(s)} scales"
            if len(s) > 1
            else "in proportion to the only scale measured"
        )
    lost = runs.frame[(runs.frame["status"] != "completed") & runs.frame[PEAK_MEMORY].notna()]
    if scale is not None:
        lost = lost[lost[scale] <= inputs.get(scale, 1.0)]
    if len(lost) and float(lost[PEAK_MEMORY].max()) > peak:
        peak, how = float(lost[PEAK_MEMORY].max()), "reached by a run that did not complete"
    need = peak * HEADROOM + SYSTEM_GIB
    return MemoryNeed(
        need,
        f"less than the {_gib(need)} GiB needed (peak {_gib(peak)} GiB = {how}; 15 % headroom, "
        f"{SYSTEM_GIB} GiB for the system)",
    )


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
        need = memory_need(runs, scale_column(runs.inputs), problem.inputs)
        if need is None:
            return cls(np.zeros(len(memory), dtype=np.int16), (), np.full(len(memory), np.nan))
        return cls((memory < need.gib).astype(np.int16), (("memory", need.sentence),), need.gib / memory)

    def remark(self, row: int) -> str:
        """Say when memory is nearly used up."""
        return f"; memory is {self.share[row]:.0%} used" if self.share[row] > 0.7 else ""
