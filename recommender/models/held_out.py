"""What a model that learns from an archive is worth there: workloads held out in turn, and asked about as if new.

Notation
--------
S      fold-in runs: the first k of the fold's reference configurations that the held-out workload has
v_i    ln of the objective of configuration i: ln(runtime) + price_i, price_i = ln(USD an hour of all nodes) or 0
c      argmin_i of the predicted v_i, with the measured v_i on S; only configurations the workload really ran
regret v_c − min_i v_i, by the workload's own runs: ln of how many times the best it costs, or takes

Folds are whole applications where there are three or more of them, else workloads: a new job is rarely an old program. They
are dealt in the order of size and then of what was run, never of names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.models import Array, PerformanceModel, configuration_rows, measured
from recommender.models.archive import Archived, archived, comparable_runs
from recommender.models.fold_in import FEWEST_WORKLOADS, Average, Factorised, Fit, Folded, Gaussian
from recommender.models.kept import kept
from recommender.pricing import price_option
from recommender.problem import Problem
from recommender.runs import Runs

FOLDS = 5
COUNTS = (1, 2, 3, 5, 8)
"""Numbers of fold-in runs that are judged."""
REFERENCES = 3
"""Reference configurations of a fold; further fold-in runs are of the best on average."""
FEWEST_JUDGED = 2
"""Held-out workloads from which on a difference has a standard error."""
MOST_CONTEXTS = 400
"""Contexts that are judged, evenly over the archive."""
MOST_REFERENCES = 100
"""Configurations considered as references: those that most workloads ran, and of them the best on average."""
REFERENCE_RANK = 2
"""Rank of the factorisation by which references are chosen."""
WORTH = 0.002
"""Regret (ln) that a cheaper reference run is worth."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Fold:
    """Workloads held out, what the others teach, and the references chosen by those others alone."""

    train: Archived
    test: Archived
    normal: Gaussian
    """Fitted to `train`."""
    completed: Array
    """`test`'s cells, the missing ones filled by `normal`, (contexts, columns)."""
    order: tuple[int, ...]
    """References, then the other columns, best on average first."""


def log_price(problem: Problem) -> Array:
    """price_i of every configuration under the first purchase option, (configurations,); inf where nothing prices it."""
    if problem.objective == "runtime":
        return np.zeros(len(problem.configurations))
    offers = problem.candidates.offers
    prices = price_option(problem.options[0], offers, problem.catalogue.spot)
    usd = np.full(len(problem.configurations), np.inf)
    np.fmin.at(usd, offers.configuration, prices.usd_per_hour * offers.nodes)
    result: Array = np.log(usd)
    return result


def asked(problem: Problem) -> tuple[object, ...]:
    """What decides the held-out regret besides the archive and the candidates."""
    return (problem.objective, problem.options[0])


def folds(problem: Problem) -> tuple[Fold, ...]:
    """The folds of a problem's archive; none with fewer than three workloads. Computed once."""
    return kept(problem, ("folds", *asked(problem)), lambda: _folds(problem))


def _folds(problem: Problem) -> tuple[Fold, ...]:
    a = archived(problem)
    if a.workloads < FEWEST_WORKLOADS:
        return ()
    if len(a.y) > MOST_CONTEXTS:
        a = a.part(np.linspace(0, len(a.y) - 1, MOST_CONTEXTS).astype(np.intp))
    group = a.application if len(set(a.application)) >= FEWEST_WORKLOADS else a.workload
    of, names = pd.factorize(group)  # contexts are in the order of what was run, which no name changes
    dealt = np.empty(len(names), dtype=np.intp)
    dealt[np.argsort(-np.bincount(of), kind="stable")] = np.arange(len(names)) % FOLDS  # the largest first
    fold = dealt[of]
    price, found = log_price(problem)[a.columns], []
    for number in range(min(FOLDS, len(names))):
        test = np.flatnonzero((fold == number) & (np.isfinite(a.y).sum(axis=1) > REFERENCES))
        train = np.flatnonzero(fold != number)
        if not len(test):
            continue
        learnt = a.part(train)
        normal = Factorised(REFERENCE_RANK)(problem, learnt)
        inside = (normal, completed(normal, learnt.y))
        chosen: list[int] = []
        for _ in range(min(REFERENCES, len(a.columns))):
            scores = reference_scores([inside], chosen, price, eligible(learnt))
            chosen.append(int(scores.argmin()))
        typical = np.where(np.isfinite(learnt.column), learnt.column + price, np.inf)
        rest = [int(i) for i in np.argsort(typical, kind="stable") if i not in chosen]
        held = a.part(test)
        found.append(Fold(learnt, held, normal, completed(normal, held.y), (*chosen, *rest)))
    return tuple(found)


def completed(normal: Folded, y: Array) -> Array:
    """Cells with the missing ones filled, each context folded in by all it has, (contexts, columns)."""
    none = np.zeros(0)
    return np.stack([np.where(np.isfinite(row), row, normal.fold_in(row, none)[0]) for row in y])


def eligible(a: Archived) -> Rows:
    """Columns considered as references: those that most contexts ran, and of them the best on average."""
    coverage = np.isfinite(a.y).sum(axis=0)
    order = np.lexsort((np.nan_to_num(a.column, nan=np.inf), -coverage))
    return np.sort(order[:MOST_REFERENCES])


def reference_scores(parts: list[tuple[Gaussian, Array]], chosen: list[int], price: Array, use: Rows) -> Array:
    """Mean regret if each column of `use` were measured after `chosen`, (columns,); inf for what is no reference.

    `parts` are normals and the completed cells of workloads on which they are judged. For one more measurement c the
    normal's mean moves along K[:, c]: mean + (z_c − mean_c) K[:, c]/(K[c, c] + σ_c²).
    """
    columns = len(price)
    total, count = np.zeros(columns), 0
    for normal, z in parts:
        total += _regret_after(normal, z, chosen, price, use).sum(axis=0)
        count += len(z)
    score = total / max(count, 1)
    score[chosen] = np.inf
    coverage = sum(np.isfinite(normal.mean[:columns]).astype(float) for normal, _ in parts)
    return np.where(np.isfinite(price) & (coverage > 0), np.round(score, 9), np.inf)


def _regret_after(normal: Gaussian, z: Array, chosen: list[int], price: Array, use: Rows) -> Array:
    """Regret of each context if each column of `use` were measured next, (contexts, columns); inf for the others."""
    n = len(price)
    known = np.isfinite(normal.mean[:n])
    k = normal.covariance[:n, :n] + 1e4
    noise = normal.noise[:n]
    mean = np.broadcast_to(normal.mean[:n], z.shape).copy()
    for c in chosen:
        if not known[c]:
            continue
        gain = k[:, c] / (k[c, c] + noise[c])
        mean += (z[:, c] - mean[:, c])[:, None] * gain  # what a run teaches does not depend on its price
        k = k - np.outer(gain, k[c])
    value = np.where(known, z, np.inf) + price
    best = value.min(axis=1)
    rows, regret = np.arange(len(z)), np.full(z.shape, np.inf)
    for c in map(int, use[(known & np.isfinite(price))[use]]):
        moved = (
            np.where(known, mean + (z[:, c] - mean[:, c])[:, None] * (k[:, c] / (k[c, c] + noise[c])), np.inf) + price
        )
        moved[:, [*chosen, c]] = value[:, [*chosen, c]]
        regret[:, c] = value[rows, moved.argmin(axis=1)] - best
    return regret


@dataclass(frozen=True, eq=False)
class Judged:
    """How fits did on held-out workloads, by name; arrays are (workloads, counts) or (counts,)."""

    counts: tuple[int, ...]
    """Numbers of fold-in runs that were judged: at least half the workloads have the runs. None: too few to hold any out."""
    loss: Mapping[str, Array]
    """Regret of each workload, mean over its inputs; NaN where it has too few runs."""
    error: Mapping[str, Array]
    """ln of the root mean square of truth − prediction over the cells of a workload that were not measured, likewise."""
    scale: Mapping[str, Array]
    """Root mean square of (truth − prediction)/its standard deviation, over the cells that were not measured."""
    fits: Mapping[str, Fit]

    def at(self, runs: int) -> int:
        """Place in `counts` of what is nearest to so many runs, but not above them."""
        return max(int(np.searchsorted(self.counts, runs, side="right")) - 1, 0)

    def workloads(self, runs: int) -> int:
        """Held-out workloads that were judged after so many runs."""
        return int(np.isfinite(next(iter(self.loss.values()))[:, self.at(runs)]).sum())

    def regret(self, name: str, runs: int) -> float:
        """Mean regret after so many runs."""
        return float(np.nanmean(self.loss[name][:, self.at(runs)]))

    def off(self, name: str, runs: int) -> float:
        """Typical error of ln(runtime) after so many runs."""
        return float(np.exp(pd.Series(self.error[name][:, self.at(runs)]).mean()))

    def choice(self, runs: int, names: Collection[str] | None = None) -> str:
        """Of `names` (None: all) the fit for so many runs: it predicts best of those that choose as well as any.

        Regret decides where it differs by more than its standard error, paired by workload: most of what lies within is
        chance, which an error over all cells tells apart far better. The first among equals.
        """
        use = [name for name in self.fits if names is None or name in names]
        least = min(use, key=lambda name: round(self.regret(name, runs), 6))

        def as_well(name: str) -> bool:
            d = (self.loss[name] - self.loss[least])[:, self.at(runs)]
            d = d[np.isfinite(d)]
            return bool(np.round(d.mean() - d.std(ddof=1) / np.sqrt(len(d)), 6) <= 0)

        return min(filter(as_well, use), key=lambda name: round(self.off(name, runs), 6))

    def spread(self, name: str, runs: int) -> float:
        """What a fit's standard deviation must be multiplied with after so many fold-in runs; 1 where nothing was judged."""
        return float(self.scale[name][self.at(runs)]) if self.counts else 1.0


def judge(problem: Problem, fits: Mapping[str, Fit]) -> Judged:
    """Hold workloads out and measure every fit; `fits` are frozen, so that what was measured can be kept."""
    return kept(problem, ("judged", tuple(fits.items()), *asked(problem)), lambda: _judge(problem, fits))


def _judge(problem: Problem, fits: Mapping[str, Fit]) -> Judged:
    parts, price = folds(problem), log_price(problem)[archived(problem).columns]
    of, names = pd.factorize(np.concatenate([part.test.workload for part in parts] or [np.empty(0, dtype=object)]))
    found = {name: _judged(problem, fit, parts, price) for name, fit in fits.items()}  # (contexts, counts, 4)

    def by_workload(value: Array) -> Array:
        return pd.DataFrame(value).groupby(of).mean().to_numpy(float).reshape(len(names), len(COUNTS))

    loss = {name: by_workload(value[:, :, 0]) for name, value in found.items()}
    have = np.isfinite(next(iter(loss.values()))).sum(axis=0)
    use = (have >= FEWEST_JUDGED) & (2 * have >= len(names))
    scale = {}
    for name, value in found.items():
        squares, cells = np.nansum(value[:, :, 2:], axis=0).T
        scale[name] = np.where(cells > 0, np.maximum(np.sqrt(squares / np.maximum(cells, 1)), 0.1), 1.0)[use]
    return Judged(
        counts=tuple(k for k, used in zip(COUNTS, use, strict=True) if used),
        loss={name: value[:, use] for name, value in loss.items()},
        error={name: by_workload(value[:, :, 1])[:, use] for name, value in found.items()},
        scale=scale,
        fits=fits,
    )


def _judged(problem: Problem, fit: Fit, parts: tuple[Fold, ...], price: Array) -> Array:
    """What `_held_out` finds for every held-out context and number of fold-in runs, (contexts, counts, 4)."""
    rows = []
    for part in parts:
        folded = fit(problem, part.train)
        rows += [[_held_out(part, folded, u, y, k, price) for k in COUNTS] for u, y in enumerate(part.test.y)]
    return np.array(rows, dtype=float).reshape(-1, len(COUNTS), 4)


def _held_out(part: Fold, folded: Folded, u: int, y: Array, k: int, price: Array) -> tuple[float, float, float, float]:
    """Of one held-out context after k fold-in runs: regret, ln(rms error), and the sum and number of squared standardised errors.

    NaN where it has too few cells.
    """
    v = y + price
    own = np.isfinite(v)
    s = np.array([i for i in part.order if own[i]][:k], dtype=np.intp)
    if own.sum() < k + 2:
        return np.nan, np.nan, np.nan, np.nan
    shown = np.full(len(y), np.nan)
    shown[s] = y[s]
    mean, spread = folded.fold_in(shown, part.test.counters.of(u, s))
    predicted = np.where(own & np.isfinite(mean), mean + price, np.inf)
    predicted[s] = v[s]
    rest = own & np.isfinite(mean)
    rest[s] = False
    chosen = int(np.round(predicted, 9).argmin())
    error = y[rest] - mean[rest]
    off = 0.5 * np.log(np.mean(error**2) + 1e-12) if rest.any() else np.nan
    return float(v[chosen] - v[own].min()), float(off), float(((error / spread[rest]) ** 2).sum()), float(rest.sum())


def held_out_regret(
    problem: Problem, model: PerformanceModel, counts: tuple[int, ...] = COUNTS, *, most: int | None = None
) -> pd.DataFrame:
    """Judge any model on the workloads of a problem's archive, by the same folds and references as everything here.

    A context is asked about at its own input, shown runs at that input alone and judged by those; where they jitter,
    they count as the one of most configurations. A model that believes no runtime is judged by its order. `most`: judge no more contexts than that, evenly over the folds.

    Returns
    -------
    One row a held-out context and number of fold-in runs: `workload`, `fold_in_runs`, `regret` (ln). Empty with fewer
    than three workloads.

    Raises
    ------
    InsufficientEvidenceError
        Without an archive, and what the model raises.
    """
    a, price, rows = archived(problem), log_price(problem), []
    pool = problem.archive
    assert pool is not None
    there, _, of = comparable_runs(problem)
    inputs, every = pool.inputs, [(part, u) for part in folds(problem) for u in range(len(part.test.y))]
    use = np.linspace(0, len(every) - 1, min(most or len(every), len(every))).astype(int)
    wanted = {every[i] for i in use}
    for part in folds(problem):
        out = pool.frame["workload"].isin(part.test.workload)
        others = kept(problem, ("others", *sorted(set(part.test.workload))), partial(_rows, pool, ~out))
        world = replace(problem, archive=others, deadline_s=None, budget_usd=None)
        for u, y in enumerate(part.test.y):
            if (part, u) not in wanted:
                continue
            at = part.test.inputs[u]
            mine = there[of == part.test.context[u]].assign(**dict(zip(inputs, at, strict=True)))
            mine = mine.drop(columns=[c for c, value in zip(inputs, at, strict=True) if np.isnan(value)])
            new = replace(
                world,
                workload=str(part.test.workload[u]),
                inputs={c: float(value) for c, value in zip(inputs, at, strict=True) if np.isfinite(value)},
            )
            truth = measured(new, Runs(mine.reset_index(drop=True))).log_runtime[a.columns]
            v = np.where(np.isfinite(y), truth, np.nan) + price[a.columns]
            own = np.isfinite(v)
            for k in counts:
                if own.sum() < k + 2:
                    continue
                s = [i for i in part.order if own[i]][:k]
                told = Runs(mine[np.isin(configuration_rows(problem, mine), a.columns[s])].reset_index(drop=True))
                believed, seen = model.predict(new, told), measured(new, told)
                mean = np.where(seen.count > 0, seen.log_runtime, believed.log_runtime) + price
                mean = (mean if believed.preference is None else believed.preference)[a.columns]
                chosen = int(np.where(own & np.isfinite(mean), np.round(mean, 9), np.inf).argmin())
                rows.append((part.test.workload[u], k, float(v[chosen] - v[own].min())))
    return pd.DataFrame(rows, columns=["workload", "fold_in_runs", "regret"])


def _rows(runs: Runs, use: pd.Series) -> Runs:
    return Runs(runs.frame[use].reset_index(drop=True))


def column_mean() -> tuple[str, Fit]:
    """The yardstick that every fit must beat."""
    return "column mean", Average()


def next_reference(problem: Problem, chosen: tuple[int, ...], open_: npt.NDArray[np.bool_]) -> int | None:
    """The configuration to measure after `chosen` (rows of the problem) to know most of a new workload; None: no archive says.

    Greedy by held-out regret: of the configurations whose mean regret is within WORTH of the least, the one that costs (or
    takes) least on the archive's typical workload. Computed once for each `chosen`. For the objective runtime the cheapest
    of them in USD was measured too: one run hardly tells references apart, so it is a slow machine, and its run, unlike
    the fast one's, is no answer (docs/benchmarks.md, "Collaborative filtering on Lumos: variants").
    """
    a = archived(problem)
    scores = kept(problem, ("references", chosen, *asked(problem)), lambda: _references(problem, a, chosen))
    score = np.where(open_[a.columns], scores, np.inf)
    if not np.isfinite(score).any():
        return None
    near = np.flatnonzero(score <= score.min() + WORTH)
    value = (a.column + log_price(problem)[a.columns])[near]
    return int(a.columns[near[np.lexsort((near, np.round(value, 9)))[0]]])


def _references(problem: Problem, a: Archived, chosen: tuple[int, ...]) -> Array:
    price = log_price(problem)[a.columns]
    parts = folds(problem)
    if not parts:  # nothing tells references apart: the archive's best on average is as good as any
        typical = a.column + price
        return np.where(np.isfinite(typical), np.round(typical - np.nanmin(typical), 9), np.inf)
    place = np.searchsorted(a.columns, np.array([c for c in chosen if c in a.columns], dtype=np.intp))
    inside = [(part.normal, part.completed) for part in parts]
    return reference_scores(inside, [int(p) for p in place], price, eligible(a))
