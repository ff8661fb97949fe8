"""Mixtures of Gaussian processes that share their data: several beliefs about one workload, weighed by its runs.

Notation
--------
o  configurations measured, (k,)      y  their mean ln(runtime), (k,)      q  completed runs of each, (k,)
g  a component: a covariance K_g = Σ_b a_gb K_b over shared bases and a noise σ_g      j  one of its mean functions f_gj

    y | g, j ~ N(level + f_gj(o), K_g(o, o) + λ² 11ᵀ + diag(σ_g²/q))          (level about the centre of y, λ = LEVEL)
    ln w_gj = ln prior_gj + ln p(y | g, j) + Σ_stopped ln P(ln T > bound | y, g, j)

With L Lᵀ the matrix above, R = L⁻¹(y − level − f(o)) and B = L⁻¹(K_g(o, i) + λ²): mean f(i) + Bᵀ R, variance
K_g(i, i) + λ² − Σ B² (Rasmussen and Williams 2006, alg. 2.1). Costs are linear in configurations: only columns of K
that were measured are made, and components of little weight are dropped before any configuration is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp, ndtr

from recommender.models import Array

Rows = npt.NDArray[np.intp]
LEVEL = 3.0
"""λ: standard deviation of a workload's level about the centre of what was measured; all but flat."""
KEPT = 0.995
"""Weight of the mean functions that are kept."""
FEWEST, MOST = 60, 600
"""Mean functions kept at most; more are sampled down to as many. MOST holds while they and the configurations make up no
more than CELLS, fewer beyond, but FEWEST."""
CELLS = 1_000_000
"""Mean functions x configurations looked at in one block, too: bounds time and memory."""


def matern(a: Array, b: Array) -> Array:
    """Matérn 5/2 with unit length, (len(a), len(b))."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    r = np.sqrt(5.0 * np.maximum(square, 0.0))
    result: Array = (1.0 + r + r**2 / 3.0) * np.exp(-r)
    return result


@dataclass(frozen=True, eq=False)
class Component:
    """One belief: mean functions that share a covariance and a noise."""

    weights: Array
    """a_gb, shape (bases,)."""
    noise: float
    """σ_g, standard deviation of one run."""
    means: Callable[[Rows, Rows | slice], Array]
    """(rows, which) -> f, shape (which, rows)."""
    log_prior: Array
    """ln prior of each mean function, shape (functions,)."""
    label: str
    """What it believes in."""


@dataclass(frozen=True, eq=False)
class Bases:
    """The K_b: functions of rows, never whole matrices."""

    cross: Callable[[Rows, Rows], Array]
    """(a, b) -> K_b(a, b), shape (bases, len(a), len(b))."""
    diagonal: Callable[[Rows], Array]
    """a -> K_b(a, a), shape (bases, len(a))."""
    size: int
    """Configurations."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured of one workload."""

    rows: Rows
    """o."""
    value: Array
    """y."""
    count: Array
    """q."""
    stopped: Rows
    """Configurations that were stopped and never completed."""
    bound: Array
    """ln of the longest time each of them was stopped at."""

    @property
    def centre(self) -> float:
        """Mean of y; NaN when nothing completed."""
        return float(self.value.mean()) if len(self.value) else np.nan


@dataclass(frozen=True, eq=False)
class Part:
    """A component that was kept, conditioned."""

    component: Component
    which: Rows
    """Its mean functions that were kept."""
    weight: Array
    """Of each of those; all parts together sum to 1."""
    inverse: Array
    """L⁻¹, (k, k)."""
    whitened: Array
    """R, (k, which)."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Beliefs about ln(runtime), relative to `level`, after what was measured."""

    bases: Bases
    rows: Rows
    """o."""
    level: float
    """What ln(runtime) is relative to; NaN while nothing is known of it."""
    parts: tuple[Part, ...]
    size: int
    """Configurations."""

    def blocks(self, rows: Rows) -> Iterator[tuple[slice, Array, Array, Array, Array]]:
        """(block of rows, weights (P,), means (P, r), latent spreads (P, r), noises (P,)); noise is of a single run."""
        weight = np.concatenate([part.weight for part in self.parts])
        noise = np.concatenate([np.full(len(part.weight), part.component.noise) for part in self.parts])
        size = max(1, CELLS // len(weight))
        for start in range(0, len(rows), size):
            block = slice(start, min(start + size, len(rows)))
            whole = size >= self.size == len(rows)
            mean, spread = self._everywhere if whole else self._at(rows[block])
            yield block, weight, mean, spread, noise

    @cached_property
    def _everywhere(self) -> tuple[Array, Array]:
        """Of few configurations: kept, since moments, constraints and acquisition each ask."""
        return self._at(np.arange(self.size))

    def _at(self, rows: Rows) -> tuple[Array, Array]:
        """Means and latent spreads of every mean function that was kept, each (P, rows)."""
        shared = groupby(self.parts, key=lambda part: part.component.means)  # looked at together
        mean = np.concatenate([means(rows, np.concatenate([p.which for p in parts])) for means, parts in shared])
        mean += 0.0 if np.isnan(self.level) else self.level
        weights, owner = np.stack([part.component.weights for part in self.parts]), self._owner
        variance = weights @ self.bases.diagonal(rows)
        if len(self.rows):
            cross, start = self.bases.cross(self.rows, rows), 0
            many = max(1, CELLS // max(1, len(self.rows) * len(rows)))
            for first in range(0, len(self.parts), many):
                parts = self.parts[first : first + many]
                inverse = np.stack([part.inverse for part in parts])
                b = inverse @ (np.tensordot(weights[first : first + many], cross, axes=1) + LEVEL**2)
                variance[first : first + many] += LEVEL**2 - (b**2).sum(axis=1)
                for part, its in zip(parts, b, strict=True):
                    mean[start : start + len(part.which)] += part.whitened.T @ its
                    start += len(part.which)
        return mean, np.sqrt(np.maximum(variance, 1e-8))[owner]

    @cached_property
    def _owner(self) -> Rows:
        """Part of each mean function that was kept."""
        return np.repeat(np.arange(len(self.parts)), [len(part.which) for part in self.parts])

    def _project(self, part: Part, cross: Array) -> Array:
        result: Array = part.inverse @ (np.tensordot(part.component.weights, cross, axes=1) + LEVEL**2)
        return result

    @cached_property
    def moments(self) -> tuple[Array, Array, float]:
        """Mean and standard deviation of the noiseless ln(runtime) of every configuration, and the noise of one run."""
        mean, spread, noise2 = np.empty(self.size), np.empty(self.size), 0.0
        for block, weight, m, s, noise in self.blocks(np.arange(self.size)):
            mean[block] = weight @ m
            spread[block] = np.sqrt(weight @ (s**2 + (m - mean[block]) ** 2))
            noise2 = float(weight @ noise**2)
        return mean, spread, float(np.sqrt(noise2))

    def below(self, bound: Array) -> Array:
        """P(ln T ≤ bound) of a single run of each configuration; `bound` has shape (configurations,)."""
        result = np.empty(len(bound))
        for block, weight, m, s, noise in self.blocks(np.arange(len(bound))):
            result[block] = weight @ ndtr((bound[block] - m) / np.hypot(s, noise[:, None]))
        return result

    def share(self) -> dict[str, float]:
        """Weight of each kind of belief."""
        found: dict[str, float] = {}
        for part in self.parts:
            found[part.component.label] = found.get(part.component.label, 0.0) + float(part.weight.sum())
        return found

    def draws(self, rows: Rows, count: int, rng: np.random.Generator) -> Array:
        """Joint draws of the noiseless ln(runtime), (count, len(rows))."""
        weight = np.concatenate([part.weight for part in self.parts])
        owner = self._owner
        picked = np.bincount(rng.choice(len(weight), size=count, p=weight / weight.sum()), minlength=len(weight))
        cross, among = self.bases.cross(self.rows, rows), self.bases.cross(rows, rows)
        mean, _ = self._at(rows)
        found = []
        for i, part in enumerate(self.parts):
            mine = picked[owner == i]
            if not mine.sum():
                continue
            covariance = np.tensordot(part.component.weights, among, axes=1)
            if len(self.rows):
                b = self._project(part, cross)
                covariance = covariance + LEVEL**2 - b.T @ b
            value, vector = np.linalg.eigh(covariance)
            root = vector * np.sqrt(np.maximum(value, 0.0))
            centre = np.repeat(mean[owner == i], mine, axis=0)
            found.append(centre + rng.standard_normal(centre.shape) @ root.T)
        return rng.permutation(np.concatenate(found))


def log_evidence(
    components: Sequence[Component], among: Array, evidence: Evidence, level: float
) -> list[tuple[Array, Array, Array]]:
    """Of each component ln p(y | g, j) of every mean function, L⁻¹ and R. `among` is K_b(o, o), shape (bases, k, k)."""
    weights, noise = np.stack([c.weights for c in components]), np.array([c.noise for c in components])
    scatter = noise[:, None, None] ** 2 * np.diag(1.0 / evidence.count)
    roots = np.linalg.cholesky(np.tensordot(weights, among, axes=1) + LEVEL**2 + scatter)
    inverses = np.linalg.inv(roots)  # applied to every configuration: cheaper than a substitution each time
    normal = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1) + 0.5 * roots.shape[1] * np.log(2.0 * np.pi)
    gaps: dict[Callable[..., Array], Array] = {}  # components that differ in covariance alone share their means
    found = []
    for component, inverse, part in zip(components, inverses, normal, strict=True):
        if component.means not in gaps:
            gaps[component.means] = (evidence.value - level - component.means(evidence.rows, slice(None))).T
        whitened: Array = inverse @ gaps[component.means]
        found.append((-0.5 * (whitened**2).sum(axis=0) - part, inverse, whitened))
    return found


def condition(bases: Bases, components: tuple[Component, ...], evidence: Evidence, *, level: float) -> Mixture:
    """Weigh the components by what was measured, and keep those that matter.

    `level` (NaN: not known) stands in while nothing completed; where it is not known but runs were stopped, they are taken
    to have been stopped on their way.
    """
    o, stopped = evidence.rows, evidence.stopped
    level = evidence.centre if len(o) else level
    if np.isnan(level) and len(stopped):
        level = float(evidence.bound.mean())
    among, aside, own = bases.cross(o, o), bases.cross(o, stopped), bases.diagonal(stopped)
    nothing = [(np.zeros(len(c.log_prior)), np.zeros((0, 0)), np.zeros((0, len(c.log_prior)))) for c in components]
    found = log_evidence(components, among, evidence, level) if len(o) else nothing
    scores = []
    for component, (score, inverse, white) in zip(components, found, strict=True):
        score = component.log_prior + score
        if len(stopped):
            mean = level + component.means(stopped, slice(None))
            variance = component.weights @ own + LEVEL**2 + component.noise**2
            if len(o):
                b = inverse @ (np.tensordot(component.weights, aside, axes=1) + LEVEL**2)
                mean, variance = mean + white.T @ b, variance - (b**2).sum(axis=0)
            score = score + log_ndtr((mean - evidence.bound) / np.sqrt(variance)).sum(axis=1)
        scores.append(score)
    flat = np.concatenate(scores)
    weight = np.exp(flat - logsumexp(flat))
    order = np.argsort(-weight, kind="stable")
    few = int(np.searchsorted(np.cumsum(weight[order]), KEPT)) + 1
    most = int(np.clip(CELLS // bases.size, FEWEST, MOST))
    if few <= most:
        weight[order[few:]] = 0.0
    else:  # too many to keep: the heaviest alone would be the flattest, so they are sampled evenly by weight instead
        hits = np.searchsorted(np.cumsum(weight), (np.arange(most) + 0.5) / most)
        weight = np.bincount(np.minimum(hits, len(weight) - 1), minlength=len(weight)).astype(float)
    weight = weight / weight.sum()
    parts, start = [], 0
    for component, (_, inverse, white) in zip(components, found, strict=True):
        mine = slice(start, start + len(component.log_prior))
        start = mine.stop
        which = np.flatnonzero(weight[mine])
        if len(which):
            parts.append(Part(component, which, weight[mine][which], inverse, white[:, which]))
    return Mixture(bases, o, level, tuple(parts), bases.size)
