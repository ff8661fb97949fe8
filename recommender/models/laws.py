"""Scaling laws as a prior: how ln(runtime) may fall with capacity, before anything of a workload is known.

Notation, for a configuration of m nodes with v vCPUs and g GiB each, relative to the smallest of the candidates
--------
c  = ln(m v speed) ≥ 0, capacity          τ = ln(m g), memory in all          m₀ the fewest nodes

    ln T = level + ln(e^−c + α + β (m/m₀ − 1)) + min(κ max(ν − τ, 0)/w, ζ)

α  work that does not divide (Amdahl 1967; Ernest's θ₀), β what each node adds (Ernest's θ₃ m; Venkataraman et al. 2016),
both as shares of the work of the smallest candidate; ν the memory below which the job spills, κ/w how fast it slows down
below, ζ where that ends. A law is one draw of (α, β, ν, κ, w, ζ) from the priors below, one setting for every problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recommender.models import Array
from recommender.models.features import Features
from recommender.problem import Problem

SERIAL = (0.01, 1.0)
"""Range of α, log-uniform."""
PER_NODE = (1e-4, 0.3)
"""Range of β, log-uniform."""
NO_SPILL = 0.5
"""Share of laws that memory does not slow down (κ = 0)."""
STEEPNESS = 0.8
"""Mean of κ where memory does, exponential."""
WIDTH = (0.2, 1.5)
"""Range of w, log-uniform."""
CEILING = (0.3, 2.3)
"""Range of ζ, uniform, for half of the laws; the others have none."""
BEYOND = 0.3
"""ν is uniform over the candidates' memory in all and this much beyond either end, in ln GiB."""
REFERENCE = 512
"""Most candidates that a law's mean is taken over."""
BLOCK = 4096
"""Candidates looked at together: bounds the memory."""


@dataclass(frozen=True, eq=False)
class Laws:
    """Draws of the laws' parameters, and the hardware they are about."""

    alpha: Array
    beta: Array
    nu: Array
    slope: Array
    """κ/w."""
    zeta: Array
    capacity: Array
    """c, shape (configurations,)."""
    memory: Array
    """τ, shape (configurations,); inf where it is not known, so that no law slows it down."""
    nodes: Array
    """m/m₀ − 1, shape (configurations,): what more than the fewest nodes add."""
    centre: Array
    """Mean of each law over the candidates, shape (laws,)."""

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, rows: npt.NDArray[np.intp] | slice, which: npt.NDArray[np.intp] | slice = slice(None)) -> Array:
        """ln T less the level of the laws `which` at configurations `rows`, shape (laws, rows); mean 0 over candidates."""
        return self._raw(rows, which) - self.centre[which, None]

    def mean(self) -> Array:
        """Mean over the laws at every configuration, shape (configurations,)."""
        rows = np.arange(len(self.capacity))
        parts = np.array_split(rows, -(-len(rows) // BLOCK))
        return np.concatenate([self.at(part).mean(axis=0) for part in parts])

    def shares(self, row: int, weight: Array) -> Array:
        """Mean shares of the time of configuration `row` over the laws, weighed: capacity, α, β and spilling; shape (4,).

        A law's time is its work times exp(min(κ max(ν − τ, 0)/w, ζ)); what that factor adds is spilling.
        """
        parts = np.stack([np.full(len(self), np.exp(-self.capacity[row])), self.alpha, self.beta * self.nodes[row]])
        spilled = np.exp(-np.minimum(self.slope * np.maximum(self.nu - self.memory[row], 0.0), self.zeta))
        split = np.concatenate([parts / parts.sum(axis=0) * spilled, 1.0 - spilled[None]])
        result: Array = split @ weight / weight.sum()
        return result

    def _raw(self, rows: npt.NDArray[np.intp] | slice, which: npt.NDArray[np.intp] | slice) -> Array:
        work = np.exp(-self.capacity[rows]) + self.alpha[which, None] + self.beta[which, None] * self.nodes[rows]
        short = np.maximum(self.nu[which, None] - self.memory[rows], 0.0)
        result: Array = np.log(work) + np.minimum(self.slope[which, None] * short, self.zeta[which, None])
        return result


def draw_laws(problem: Problem, space: Features, count: int) -> Laws:
    """Draw `count` laws by a Sobol sequence: the same for every seed, since they are a quadrature of the prior."""
    from scipy.stats import qmc

    table = problem.configurations
    nodes = table["node_count"].to_numpy(float)
    memory = np.log(table["memory_gib"].to_numpy(float) * nodes)
    known = np.isfinite(memory)
    low, high = (memory[known].min(), memory[known].max()) if known.any() else (0.0, 0.0)
    u = qmc.Sobol(6, scramble=True, rng=np.random.default_rng(0)).random(count).T
    spill = np.clip((u[3] - NO_SPILL) / (1.0 - NO_SPILL), 0.0, 0.999)
    laws = Laws(
        alpha=_log_uniform(u[0], SERIAL),
        beta=_log_uniform(u[1], PER_NODE),
        nu=low - BEYOND + u[2] * (high - low + 2.0 * BEYOND),
        slope=-STEEPNESS * np.log1p(-spill) / _log_uniform(u[4], WIDTH),
        zeta=np.where(u[5] < 0.5, np.inf, CEILING[0] + (CEILING[1] - CEILING[0]) * (2.0 * u[5] - 1.0)),
        capacity=space.work - space.work.min(),
        memory=np.where(known, memory, np.inf),
        nodes=nodes / nodes.min() - 1.0,
        centre=np.zeros(count),
    )
    step = -(-len(table) // REFERENCE)
    laws.centre[:] = laws._raw(slice(None, None, step), slice(None)).mean(axis=1)
    return laws


def _log_uniform(u: Array, ends: tuple[float, float]) -> Array:
    result: Array = np.exp(np.log(ends[0]) + u * np.log(ends[1] / ends[0]))
    return result
