"""PARIS: a random forest from the fingerprint of a workload and the features of a configuration to its relative runtime.

Notation
--------
y[u, i]  ln(runtime in s) of context u of the archive on configuration i      S   fingerprint: configurations measured
b[u]     mean of y[u, s] over s in S, the level            f[u]  (y[u, s] − b[u])_s in S, b[u], counters of u on S
h[i]     features of configuration i                       r[u, i] = y[u, i] − b[u], the relative runtime
t        a tree, grown on a bootstrap of whole applications; it is out of bag for those it did not draw
c_t[i]   mean of r[., i] over the tree's bag, what the typical workload takes            g_t  the tree's leaf for r − c_t
v[u, i]  variance over trees of c_t + g_t + mean over trees of the variance in the leaf
z[u, i]  (r[u, i] − mean over out-of-bag trees of c_t + g_t)/√v[u, i], the error on a program that was not learnt from

    ln T_i ~ N(b + mean_t (c_t[i] + g_t), scale² v_i),   scale = (80 % quantile of |z|)/1.28 x (t quantile/normal quantile)

so that the 10th and 90th percentile are those that held-out applications had (t: degrees of freedom are applications less
one). A configuration of a type that the archive never ran has no c_t: a second forest learns r itself, each tree without a
third of the types, and its z are of types and applications that the trees did not see.

Yadwadkar et al. (SoCC 2017): forest, fingerprint on reference types, relative performance, 90th percentile. Our choices:
c_t, the bootstrap of applications, the calibration, references chosen by the archive (`search.references`), any measured
configurations as fingerprint, and a warning where the forest out of bag chooses worse than c_t alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri, stdtrit

from recommender.models import (
    TRANSFERRED,
    Array,
    Prediction,
    configuration_rows,
    measured,
    nothing_known,
    with_measurements,
)
from recommender.models.archive import CONTRADICTION, Archived, archived, nothing_comparable
from recommender.models.completing import completing
from recommender.models.features import features
from recommender.models.fold_in import FEWEST_WORKLOADS, UNKNOWN_SHAPE, scatter
from recommender.models.held_out import FOLDS, WORTH, asked, log_price
from recommender.models.kept import kept
from recommender.models.memory import MemoryLimit
from recommender.models.unusual import SCATTER
from recommender.models.yardsticks import LEVEL_SPREAD
from recommender.problem import Problem
from recommender.runs import Runs
from recommender.units import counted

LEAST = 1e-4
"""Least variance of ln(runtime) that a forest is believed to leave."""
FEWEST_TYPES = 3
"""Instance types from which on the archive says anything of a type it never ran."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees, and what was out of their bags."""

    trees: tuple[Any, ...]
    held: Array
    """Mean, √v and mean of c_t over the trees that left a cell out, (3, cells); NaN where none did."""

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean of g_t and √v, both (rows,)."""
        leaves = np.stack([leaf(tree, x) for tree in self.trees])
        variance = leaves[:, 0].var(axis=0) + leaves[:, 1].mean(axis=0)
        return leaves[:, 0].mean(axis=0), np.sqrt(np.maximum(variance, LEAST))


@dataclass(frozen=True, eq=False)
class Taught:
    """What an archive says to one fingerprint."""

    near: Forest | None
    """For configurations that the archive ran; None: too few workloads."""
    typical: Array
    """c of each of the archive's columns; 0 where the trees learn r itself."""
    spread: float
    """Standard deviation about c where there is no forest."""
    scale: float
    """What the standard deviation must be multiplied with."""
    far: Forest | None
    """For types that it did not run; None: there are none, or too few to tell."""
    far_scale: float
    regret: tuple[float, float]
    """Mean ln regret out of bag: the forest's, and that of c alone; NaN without a forest."""
    worse: bool
    """Whether the first is larger by more than a standard error over contexts and WORTH."""


def leaf(tree: Any, x: Array) -> Array:
    """Mean and variance in the leaf that each row falls into, (2, rows)."""
    at = tree.apply(x)
    return np.stack([tree.tree_.value[at, 0, 0], tree.tree_.impurity[at]])


@dataclass(frozen=True, eq=False)
class Cells:
    """The archive's measured cells, in the eyes of one fingerprint; arrays of shape (cells,)."""

    u: Rows
    i: Rows
    """Context and column."""
    x: Array
    """f[u] and h[i], (cells, features)."""
    r: Array
    group: Rows
    """Application, or workload where there are few applications."""
    kind: Rows
    """Instance type."""
    judged: npt.NDArray[np.bool_]
    """Whether the column is not part of the fingerprint."""


@dataclass(frozen=True)
class Paris:
    """Random forest on fingerprints; share and leaf size are Breiman's for regression, not tuned."""

    trees: int = 100
    share: float = 1 / 3
    """Of the features, those a split chooses from."""
    smallest: int = 3
    """Cells in a leaf, at least."""
    counters: bool = True
    """Whether activity counters are part of the fingerprint."""
    offset: bool = True
    """Whether trees learn the difference from the typical workload, c_t; the paper's forest learns r itself."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration that the archive ran, and of others by their features where it can tell.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of completed runs on the candidates.
        """
        a = archived(problem)
        seen = measured(problem, runs)
        s = np.flatnonzero(seen.count[a.columns] > 0)
        own = seen.log_runtime[a.columns[s]]
        x, names = self._counters(problem, runs, a)
        taught = kept(
            problem, (self, tuple(s), names, problem.seed, *asked(problem)), lambda: self._teach(problem, a, s, names)
        )
        level = float(own.mean()) if len(s) else float(np.mean(a.level))
        n = len(problem.configurations)
        known = np.isin(np.arange(n), a.columns)
        cells = np.hstack([np.tile([*(own - level), level, *x], (n, 1)), hardware(problem)])
        mean, spread = np.full(n, np.nan), np.full(n, np.nan)
        mean[known], spread[known] = taught.typical, taught.spread
        if taught.near is not None:
            more, spread[known] = taught.near.predict(cells[known])
            mean[known] += more
        spread *= taught.scale
        if taught.far is not None:
            mean[~known], spread[~known] = taught.far.predict(cells[~known])
            spread[~known] *= taught.far_scale
        if not len(s):
            spread = np.hypot(spread, max(LEVEL_SPREAD, float(np.std(a.level))))
        memory = MemoryLimit.of(problem, runs)
        said = f"{'forest on' if taught.near else 'mean of'} {a.workloads} other workloads, fingerprint of {len(s)} "
        said += f"configuration{'' if len(s) == 1 else 's'}" + (f" and {len(names)} counters" if names else "")
        prediction = replace(
            nothing_known(problem),
            log_runtime=mean + level,
            spread=np.hypot(spread, seen.noise),
            evidence=np.full(n, TRANSFERRED, dtype=np.int8),
            completing=a.cells.completing * completing(problem, seen),
            excluded=memory.excluded,
            reasons=memory.reasons,
            warnings=(*a.warnings, *remarks(a, taught, runs, len(s), names)),
            binding=lambda i: said + ("" if known[i] else "; by its features alone") + memory.remark(i),
        )
        return doubted(with_measurements(prediction, problem, runs), a, s, own)

    def _counters(self, problem: Problem, runs: Runs, a: Archived) -> tuple[Array, tuple[str, ...]]:
        """The workload's counters, and the names of those that it and the archive's contexts have on its configurations."""
        frame = runs.completed
        if not self.counters or not len(frame) or not a.counters.names:
            return np.zeros(0), ()
        place = np.full(len(problem.configurations) + 1, -1, dtype=np.intp)
        place[a.columns] = np.arange(len(a.columns))
        row = place[configuration_rows(problem, frame)]
        x = a.counters.new(frame, row)
        there = np.isfinite(a.counters.value[np.isin(a.counters.configuration, row)]).any(axis=0)
        use = np.isfinite(x) & there
        return x[use], tuple(np.array(a.counters.names, dtype=object)[use])

    def _teach(self, problem: Problem, a: Archived, s: Rows, names: tuple[str, ...]) -> Taught:
        """Everything that depends on the archive and on which configurations (and counters) the fingerprint has."""
        typical = a.column - (a.column[s].mean() if len(s) else 0.0)
        if a.workloads < FEWEST_WORKLOADS:
            return Taught(None, typical, UNKNOWN_SHAPE, 1.0, None, 1.0, (np.nan, np.nan), worse=False)
        cells, rng = _cells(problem, a, s, names), np.random.default_rng(problem.seed)
        free = int(cells.group.max())
        widen = float(stdtrit(free, 0.9) / ndtri(0.9))
        near = self._bag(cells, np.zeros_like(cells.kind), rng, offset=self.offset)
        mean, spread, c = near.held
        price = log_price(problem)[a.columns]
        regret = [_regret(cells, v, price) for v in (mean, c)]
        worse = regret[0] - regret[1]
        scale = _scale(((cells.r - mean) / spread)[cells.judged]) * widen
        far, far_scale = None, 1.0
        if len(a.columns) < len(problem.configurations) and cells.kind.max() + 1 >= FEWEST_TYPES:
            far = replace(self, trees=self.trees // 3)._bag(cells, cells.kind, rng, offset=False)
            far_scale = _scale(((cells.r - far.held[0]) / far.held[1])[cells.judged]) * widen
        return Taught(
            near=near,
            typical=typical if self.offset else np.zeros_like(typical),
            spread=np.nan,
            scale=scale,
            far=far,
            far_scale=far_scale,
            regret=(float(regret[0].mean()), float(regret[1].mean())),
            worse=bool(worse.mean() > WORTH + worse.std() / np.sqrt(len(worse))),
        )

    def _bag(self, cells: Cells, kind: Rows, rng: np.random.Generator, *, offset: bool) -> Forest:
        """Trees on bootstraps of groups, each without a third of the kinds where there are several."""
        from sklearn.tree import DecisionTreeRegressor  # type: ignore[import-untyped]

        trees, total = [], np.zeros((4, len(cells.r)))
        groups, kinds, columns = int(cells.group.max()) + 1, int(kind.max()) + 1, int(cells.i.max()) + 1
        for _ in range(self.trees):
            drawn = np.bincount(rng.integers(groups, size=groups), minlength=groups)[cells.group].astype(float)
            lacking = (
                np.isin(kind, rng.permutation(kinds)[: -(-kinds // 3)]) if kinds > 1 else np.zeros(len(kind), bool)
            )
            weight = np.where(lacking, 0.0, drawn)
            inside, out = weight > 0, (drawn == 0) & (lacking | (kinds == 1))
            column = np.bincount(cells.i, weight, columns)
            c = np.bincount(cells.i, weight * cells.r, columns) / np.maximum(column, 1.0)
            c = np.where(column > 0, c, c.sum() / max(int((column > 0).sum()), 1))[cells.i]
            tree = DecisionTreeRegressor(
                max_features=self.share, min_samples_leaf=self.smallest, random_state=int(rng.integers(2**31))
            )
            target = cells.r - c if offset else cells.r
            trees.append(tree.fit(cells.x[inside], target[inside], sample_weight=weight[inside]))
            if out.any():
                g, inner = leaf(tree, cells.x[out])
                g = g + c[out] if offset else g
                total[:, out] += np.stack([g, g**2 + inner, c[out], np.ones(len(g))])
        mean, square, c = np.where(total[3] > 0, total[:3] / np.maximum(total[3], 1.0), np.nan)
        return Forest(tuple(trees), np.stack([mean, np.sqrt(np.maximum(square - mean**2, LEAST)), c]))


def _cells(problem: Problem, a: Archived, s: Rows, names: tuple[str, ...]) -> Cells:
    """What the archive measured; a context that lacks a part of the fingerprint has there what the typical one takes."""
    u, i = np.nonzero(np.isfinite(a.filled))
    shape = np.where(np.isfinite(a.filled), a.filled, a.level[:, None] + a.column)[:, s]
    level = shape.mean(axis=1) if len(s) else a.level
    use = np.isin(np.array(a.counters.names, dtype=object), names)
    x = np.stack([a.counters.of(context, s)[use] for context in range(len(level))])
    f = np.hstack([shape - level[:, None], level[:, None], x])
    group = a.application if len(set(a.application)) >= FOLDS else a.workload
    kinds = problem.configurations["instance_type"].to_numpy(str)[a.columns]
    return Cells(
        u=u,
        i=i,
        x=np.hstack([f[u], hardware(problem)[a.columns][i]]),
        r=a.filled[u, i] - level[u],
        group=pd.factorize(group)[0][u],
        kind=np.unique(kinds, return_inverse=True)[1][i],
        judged=~np.isin(i, s),
    )


def _regret(cells: Cells, predicted: Array, price: Array) -> Array:
    """ln regret of choosing each context's least prediction, what the fingerprint measured being known; (contexts,)."""
    v = cells.r + price[cells.i]
    guess = np.where(cells.judged, predicted + price[cells.i], v)
    table = pd.DataFrame({"u": cells.u, "v": v, "guess": np.round(guess, 9)})[np.isfinite(guess) & np.isfinite(v)]
    chosen = table.sort_values(["u", "guess"], kind="stable").groupby("u")["v"].agg(["first", "min"])
    return (chosen["first"] - chosen["min"]).to_numpy(float)


def _scale(z: Array) -> float:
    """80 % quantile of |z| over that of a standard normal; 1 where nothing was out of bag."""
    z = z[np.isfinite(z)]
    return float(np.quantile(np.abs(z), 0.8) / ndtri(0.9)) if len(z) else 1.0


def hardware(problem: Problem) -> Array:
    """h of every configuration: features, and the size of the whole cluster, which a tree cannot read off its factors."""
    space = features(problem)
    return np.column_stack([space.x, space.work])


def remarks(a: Archived, taught: Taught, runs: Runs, k: int, names: tuple[str, ...]) -> list[str]:
    """What the reader must know of the archive and the fingerprint."""
    said = []
    if a.workloads < FEWEST_WORKLOADS:
        said.append(
            f"the archive holds {counted(a.workloads, 'workload')}: nothing says how workloads differ, "
            "so the new one is taken to be like the average of them, and the spread is assumed"
        )
    elif taught.worse:
        forest, mean = np.exp(taught.regret)
        said.append(
            f"on held-out workloads the forest chose worse ({forest:.2f} times the best) than the column mean ({mean:.2f}): "
            "compare with --strategy column-mean"
        )
    if not k:
        said.append(nothing_comparable(runs))
    elif taught.near is not None and not names:
        said.append(
            "the runs of the workload, or the archive's on the same configurations, have no activity counters (metric.*): "
            "the fingerprint is of runtimes only"
        )
    return said


def doubted(prediction: Prediction, a: Archived, s: Rows, own: Array) -> Prediction:
    """Widen everything where the workload's runs contradict each other: one is tenfold off what the others lead to expect.

    Which of them is wrong is not known, so also what was measured is doubted, by as much as they disagree.
    """
    if len(s) < 2:
        return prediction
    apart = float(np.ptp(own - a.column[s]))
    if not apart > max(CONTRADICTION, SCATTER * float(np.sqrt(scatter(a)))):
        return prediction
    said = (
        f"the workload's runs contradict each other: one is {np.exp(apart):,.0f} x off what the others lead to expect of its "
        "configuration (seconds are expected: was another unit noted?); every interval is widened by as much"
    )
    return replace(prediction, spread=np.hypot(prediction.spread, apart), warnings=(*prediction.warnings, said))
