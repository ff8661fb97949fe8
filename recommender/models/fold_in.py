"""Taking a new workload into what an archive taught, without fitting the archive again.

Notation
--------
m_i   ln(runtime) of the typical workload on configuration i, about its level         b   the new workload's level
q_i   factors of configuration i (rows of Q)      p ~ N(p̄, Σ) factors of a workload, as the archive's are scattered
K     = Q Σ Qᵀ, how workloads differ from the typical one              σ_i²  what the factors leave of a cell
S     configurations that were measured: the fold-in runs
N     [u, i] = 1 where context u ran configuration i; R its row sums (a diagonal), D its column sums; s² scatter of the archive
C     = ((D − Nᵀ R⁻¹ N)/s² + I/v)⁻¹, how little m is known: a configuration that nothing links to the rest by √v

Fold-in is a ridge on the new workload's own numbers, the archive's being fixed:

    (b, p) = argmin Σ_{i in S} (y_i − b − m_i − q_i·(p − p̄))²/σ_i² + (p − p̄)ᵀ Σ⁻¹ (p − p̄) + b²/V,   V large

which is the mean of the normal with covariance K + V given y_S, computed as such (k x k for k runs); so it also has a
spread. With W its weights, (I − W) m has covariance (I − W) C (I − W)ᵀ, which widens it: little in a full archive, most of it in
one of a few runs a workload. It moves no estimate. The prior N(p̄, Σ) in the place of the library's λ|p|² is our choice: with two runs λ decides everything, and
the archive knows it. Activity counters are further items with a level of zero.

Refitting, which this spares, is to fit m, Q, p̄, Σ and σ² anew to the archive with the new workload's k runs as one more row,
and then to ask about that workload as above; not to take the row's own p of the factorisation, which with k runs is
decided by λ. On Lumos' AWS types the two differ by 2 % at most after two or three references (tested), where the estimates
themselves are off by 9 %; over all 55 types by 0.4 to 2 % (root mean square), where a type that few ran may move by a third.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from recommender.models import Array
from recommender.models._surprise import factorise
from recommender.models.archive import Archived
from recommender.models.yardsticks import LEVEL_SPREAD, UNKNOWN_SPREAD, pooled_spread
from recommender.problem import Problem

LEVEL_VARIANCE = 1e4
"""V: nothing is known of a workload's level before its first run."""
FEWEST_WORKLOADS = 3
"""Workloads from which on their differences say anything of a new one's."""
UNKNOWN_SHAPE = UNKNOWN_SPREAD
"""Standard deviation of ln(runtime) about the typical workload's where fewer workloads leave it unknown."""


class Folded(Protocol):
    """What was fitted to an archive, ready to take in a new workload."""

    def fold_in(self, y: Array, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of ln(runtime) on every column, from y (columns,) and x (counters,), NaN unmeasured."""
        ...


class Fit(Protocol):
    """(problem, archive) -> what takes a new workload in. The problem tells what the configurations are, and no runs."""

    def __call__(self, problem: Problem, archive: Archived) -> Folded:
        """Fit to the archive's believable part."""
        ...


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal over a new workload's cells: items are the columns, then the counters."""

    mean: Array
    """m, (items,); NaN where the archive has nothing."""
    covariance: Array
    """K, (items, items), without the level."""
    noise: Array
    """σ_i², (items,)."""
    columns: int
    """Items that are columns; the level is theirs alone."""
    level: float
    """Mean level of the archive's workloads, for a workload without runs."""
    level_spread: float
    doubt: Array
    """C, (columns, columns)."""
    unit: float = 1.0
    """What a counter's x is multiplied with to be an item: it brings counters to the scatter of the cells."""

    def fold_in(self, y: Array, x: Array) -> tuple[Array, Array]:
        """The normal given what was measured; the archive's typical level where no column was."""
        n = self.columns
        items = len(self.mean)
        seen = np.concatenate([y, self.unit * x[: items - n]])
        s = np.flatnonzero(np.isfinite(seen) & np.isfinite(self.mean))
        levelled = np.zeros(items)
        levelled[:n] = 1.0
        k_s = self.covariance[s] + LEVEL_VARIANCE * np.outer(levelled[s], levelled)
        a = k_s[:, s] + np.diag(self.noise[s])
        weight = np.linalg.solve(a, k_s[:, :n]) if len(s) else k_s[:, :n]
        mean = self.mean[:n] + weight.T @ (seen[s] - self.mean[s])
        variance = np.diag(self.covariance)[:n] + LEVEL_VARIANCE - np.einsum("ki,ki->i", weight, k_s[:, :n])
        t = s[s < n]
        w = weight[: len(t)]
        variance += np.diag(self.doubt) - 2.0 * (w * self.doubt[t]).sum(axis=0)
        variance += (w * (self.doubt[np.ix_(t, t)] @ w)).sum(axis=0)
        if not len(t):
            mean = mean + self.level
            variance = variance - LEVEL_VARIANCE + self.level_spread**2
        return mean, np.sqrt(np.maximum(variance, 0.0) + self.noise[:n])


def gaussian(archive: Archived, mean: Array, covariance: Array, noise: Array) -> Gaussian:
    """A normal over the archive's columns (and counters), with its workloads' levels."""
    spread = max(LEVEL_SPREAD, float(np.std(archive.level)))
    level = float(np.mean(archive.level))
    return Gaussian(mean, covariance, noise, len(archive.columns), level, spread, doubt(archive))


def scatter(archive: Archived) -> float:
    """s², mean square of the archive's residuals about its additive model; the usual one where too few cells tell it."""
    if archive.workloads < FEWEST_WORKLOADS:
        return UNKNOWN_SHAPE**2
    return pooled_spread(archive.residual) ** 2


def doubt(archive: Archived) -> Array:
    """C of the typical workload's columns, v being the square of LEVEL_SPREAD."""
    n = np.isfinite(archive.filled).astype(float)
    linked = np.diag(n.sum(axis=0)) - n.T @ (n / np.maximum(n.sum(axis=1, keepdims=True), 1.0))
    result: Array = np.linalg.inv(linked / scatter(archive) + np.eye(n.shape[1]) / LEVEL_SPREAD**2)
    return result


@dataclass(frozen=True)
class Average:
    """The column mean as a fold-in: no workload differs from the typical one but in its level."""

    def __call__(self, problem: Problem, archive: Archived) -> Gaussian:
        """Fit: K = 0."""
        n = len(archive.columns)
        return gaussian(archive, archive.column, np.zeros((n, n)), np.full(n, scatter(archive)))


@dataclass(frozen=True)
class Factorised:
    """Biased matrix factorisation of what remains when each workload's level is taken off."""

    rank: int
    counters: bool = False
    """Whether activity counters are further items, scaled to the scatter of the cells."""

    def __call__(self, problem: Problem, archive: Archived) -> Gaussian:
        """Fit; with fewer than three workloads it is the column mean."""
        if archive.workloads < FEWEST_WORKLOADS:
            return Average()(problem, archive)
        n = len(archive.columns)
        ratings, unit = archive.filled - archive.level[:, None], float(np.sqrt(scatter(archive)))
        if self.counters:
            ratings = np.hstack([ratings, unit * archive.counters.contexts(len(ratings))])
        ratings = ratings[np.isfinite(ratings).sum(axis=1) > 1]  # one cell is its own level and says nothing else
        if not len(ratings):
            return Average()(problem, archive)
        return replace(gaussian(archive, *prior(ratings, self.rank, n)), unit=unit)


def prior(ratings: Array, rank: int, columns: int) -> tuple[Array, Array, Array]:
    """m, K and σ² of the items of a matrix of ratings (workloads, items), the first `columns` of which share σ²."""
    known = np.isfinite(ratings)
    f = factorise(ratings, rank)
    error = np.where(known, ratings - f.fitted, 0.0)
    noise = np.empty(ratings.shape[1])
    for part in (slice(0, columns), slice(columns, None)):
        cells = int(known[:, part].sum())
        free = cells - (rank + 1) * (len(ratings) + int(known[:, part].any(axis=0).sum()))
        # The penalty leaves fewer parameters free than there are: a quarter of the cells at least.
        noise[part] = float((error[:, part] ** 2).sum()) / max(free, cells / 4, 1)
    mean = f.mean + f.item_bias + f.user_bias.mean() + f.item @ f.user.mean(axis=0)
    covariance = f.item @ np.atleast_2d(np.cov(f.user.T, bias=True)) @ f.item.T
    return np.where(known.any(axis=0), mean, np.nan), covariance, np.maximum(noise, 1e-6)
