"""Extra-trees on pairs of configurations: the surrogate of Arrow (Hsu et al., ICDCS 2018).

Notation
--------
y_i  ln(runtime in s) of configuration i, mean of its completed runs      b_i  ln capacity, nodes x vCPUs x speed
x_i  features of configuration i, b_i among them                          z_i  = y_i + b_i, how slow for its capacity
c_i  counters of configuration i, mean of its completed runs              σ_ε  noise of ln(runtime) of one run

For all ordered pairs i ≠ k of measured configurations of the workload, a forest of trees t learns

    (x_i, x_k, x_k − x_i, z_i, c_i) -> z_k − z_i

and for any j, over the n measured sources i and T trees,

    g_t(i, j) = z_i + f_t(i, j),    mean_j = avg_it g − b_j
    latent²_j = var_t(avg_i g) + var_i(avg_t g) + max(e² − σ_ε², 10⁻⁴),    spread² = latent² + σ_ε²

The counters of a source can only steer how the trees generalise: between measured runs z_k − z_i is a sum of a part of k and
a part of i, and z_i is an input already. docs/benchmarks.md says what they are worth on recorded runs. e² is the mean squared error on
configurations left out of forests of their own, shrunk to a prior. From the paper (body recalled, not quoted): the pairs,
the counters of the source, extra-trees, the average over sources, and that only the workload's own runs are used. Our
choice: the target is the difference (how much faster k is than i is what the counters of i can say; k's own runtime does
not depend on i), about perfect scaling over capacity as in the Gaussian process, so that a single run is a belief; z_i and
x_k − x_i as inputs; the spread. A run stopped at its time limit is a k, at the mean of the normal above the limit, and never an
i: counters are those of completed runs. A counter that some sources lack takes their median, and a column says so; one that
all lack, or that is constant, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from recommender.models import MODELLED, Array, Measured, Prediction, measured, with_measurements
from recommender.models.bagging import PRIOR_DOF, PRIOR_SPREAD
from recommender.models.completing import NEWS, search_base, truncated_normal
from recommender.models.features import features, number_columns
from recommender.problem import Problem
from recommender.runs import Runs

MOST_ROWS = 200_000
"""Pairs that are predicted at once."""
NO_COUNTERS = "no completed run recorded metric.* counters: sources are told apart by their runtimes and hardware alone"


class Target(Enum):
    """What the trees learn of a pair (i, k)."""

    DIFFERENCE = "difference"
    """z_k − z_i."""
    VALUE = "value"
    """z_k itself."""


@dataclass(frozen=True)
class Beliefs:
    """z of every configuration as the forest sees it."""

    by_tree: Array
    """avg_i g_t(i, j), shape (trees, configurations)."""
    disagreement: Array
    """var_i of avg_t g_t(i, j), shape (configurations,)."""


@dataclass(frozen=True)
class PairwiseTrees:
    """Arrow's surrogate: what one configuration was measured to do says what another will."""

    trees: int = 100
    folds: int = 5
    """Groups of configurations left out in turn to measure the error."""
    counters: bool = True
    """Whether `metric.*` is used."""
    target: Target = Target.DIFFERENCE

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration; NaN while nothing completed at the input asked about."""
        seen = measured(problem, runs)
        base = search_base(problem, runs, seen)
        done = np.flatnonzero(seen.count > 0)
        if not len(done):
            return with_measurements(base, problem, runs)
        space = features(problem)
        x = np.column_stack([space.x, space.work])
        z = np.fmax(seen.log_runtime, seen.censored_log) + space.work
        notes = (NO_COUNTERS,) if self.counters and not runs.metrics else ()
        facts = np.column_stack([z[done], *(source_counters(runs, seen, done) if self.counters else ())])

        found = self._believe(x, z, facts, done, done, problem.seed)
        unfitted2 = max(self._error(x, z, facts, done, problem.seed) - seen.noise**2, 1e-4)
        stopped = np.flatnonzero(np.isfinite(seen.censored_log) & (seen.count == 0))
        if len(stopped):
            spread2 = found.by_tree.var(axis=0) + found.disagreement + unfitted2 + seen.noise**2
            middle = found.by_tree.mean(axis=0)
            above, _, sure = truncated_normal(middle[stopped], np.sqrt(spread2[stopped]), z[stopped])
            if (news := sure < NEWS).any():
                z[stopped] = above
                found = self._believe(x, z, facts, done, np.concatenate([done, stopped[news]]), problem.seed)
        own2 = found.disagreement + unfitted2
        whole2 = found.by_tree.var(axis=0) + own2
        prediction = replace(
            base,
            log_runtime=found.by_tree.mean(axis=0) - space.work,
            spread=np.sqrt(whole2 + seen.noise**2),
            evidence=np.full(len(x), MODELLED, dtype=np.int8),
            warnings=notes,
        )
        joined = with_measurements(prediction, problem, runs)

        def draws(rows: npt.NDArray[np.intp], count: int, rng: np.random.Generator) -> Array:
            # Trees' deviations, scaled row by row to the joined spread so that measured rows move as little as they should.
            tree = (found.by_tree[:, rows] - found.by_tree[:, rows].mean(axis=0))[rng.integers(self.trees, size=count)]
            own = rng.standard_normal(tree.shape) * np.sqrt(own2[rows])
            drawn: Array = joined.log_runtime[rows] + (tree + own) * joined.latent[rows] / np.sqrt(whole2[rows])
            return drawn

        return replace(joined, draws=draws)

    def _believe(
        self,
        x: Array,
        z: Array,
        facts: Array,
        sources: npt.NDArray[np.intp],
        ends: npt.NDArray[np.intp],
        seed: int,
        *,
        trees: int | None = None,
        at: npt.NDArray[np.intp] | None = None,
    ) -> Beliefs:
        """Fit to the pairs sources x ends, `facts` (sources, z and counters), and predict the rows `at` (default: all).

        Without a pair, one source alone, every configuration scales perfectly: f = 0.
        """
        from sklearn.tree import ExtraTreeRegressor  # type: ignore[import-untyped]

        trees, at = trees or self.trees, np.arange(len(x)) if at is None else at
        first, second = (index.ravel() for index in np.meshgrid(np.arange(len(sources)), ends, indexing="ij"))
        differ = sources[first] != second
        first, second = first[differ], second[differ]
        level = z[sources] if self.target is Target.DIFFERENCE else np.zeros(len(sources))
        if not len(first):
            return Beliefs(np.full((trees, len(at)), z[sources].mean()), np.zeros(len(at)))
        # ExtraTreesRegressor tree by tree, which spares half of the time of so small a forest.
        rows, target = _pairs(x, facts, sources, first, second), (z[second] - level[first])[:, None]
        forest: list[Any] = [
            ExtraTreeRegressor(random_state=int(state)).fit(rows, target, check_input=False)
            for state in np.random.default_rng([seed, len(sources)]).integers(2**31, size=trees)
        ]
        step = max(MOST_ROWS // len(sources), 1)
        by_tree, disagreement = np.empty((trees, len(at))), np.empty(len(at))
        for begin in range(0, len(at), step):
            part = slice(begin, begin + step)
            size = len(at[part])
            first, second = np.repeat(np.arange(len(sources)), size), np.tile(at[part], len(sources))
            rows, by_source = _pairs(x, facts, sources, first, second), np.zeros((len(sources), size))
            for t, tree in enumerate(forest):
                g = tree.predict(rows, check_input=False).reshape(by_source.shape) + level[:, None]
                by_tree[t, part] = g.mean(axis=0)
                by_source += g / trees
            disagreement[part] = by_source.var(axis=0)
        return Beliefs(by_tree, disagreement)

    def _error(self, x: Array, z: Array, facts: Array, sources: npt.NDArray[np.intp], seed: int) -> float:
        """e²: mean squared error on sources left out, a fold of them at a time; with one source, the prior's."""
        n = len(sources)
        if n < 2:
            return PRIOR_SPREAD**2
        fold = np.random.default_rng([seed, n]).permutation(n) % min(self.folds, n)
        squares = 0.0
        for out in (fold == k for k in range(int(fold.max()) + 1)):
            kept, held = sources[~out], sources[out]
            trees = -(-self.trees // self.folds)
            found = self._believe(x, z, facts[~out], kept, kept, seed, trees=trees, at=held)
            squares += float(((z[held] - found.by_tree.mean(axis=0)) ** 2).sum())
        return (squares + PRIOR_DOF * PRIOR_SPREAD**2) / (n + PRIOR_DOF)


def source_counters(runs: Runs, seen: Measured, done: npt.NDArray[np.intp]) -> list[Array]:
    """`metric.*` of the configurations `done`, mean of their completed runs, in columns of shape (done,) within [0, 1]."""
    at = np.isin(seen.row, done)
    mean = runs.frame.loc[at, runs.metrics].astype(float).groupby(seen.row[at]).mean().reindex(done)
    columns = [c for name in runs.metrics for _, c in number_columns(name, mean[name].to_numpy())]
    return list(np.unique(columns, axis=0)) if columns else []


def _pairs(
    x: Array, facts: Array, sources: npt.NDArray[np.intp], first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """Rows (x_i, x_k, x_k − x_i, z_i, c_i), in the type that scikit-learn's trees store; i = sources[first], k = second."""
    a, b = x[sources[first]], x[second]
    return np.column_stack([a, b, b - a, facts[first]]).astype(np.float32)
