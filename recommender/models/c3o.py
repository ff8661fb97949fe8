"""C3O (Will, Thamsen, Bader, Bilal, Kao 2021): of several models, the one that predicts left-out runs best.

Notation
--------
s, m, c, q, v, θ   as in `recommender.models.ernest`; x(s, m, c, q) its terms to θ4      t  runtime in s, median of repetitions
z  what else describes a run: inputs, application parameters, family; logarithms where positive
y = ln(t v)        e_i  ln(predicted/observed) of point i while it is left out      g  stochastic gradient boosting

    ernest     y = ln θ·x(s, m, c, q)
    factored   y = ln θ·x(1, m, c, q) + b·z        scale-out x inputs: the paper's "optimistic" model
    boosting   y = g(ln m, ln c, z)
    and the first two corrected by boosting their residuals

The paper takes a cubic in m for the scale-out and adds a boosted pair; here the scale-out term is Ernest's, which stays
sane beyond what was measured, and residuals are boosted. Errors are those of ln t, because noise is multiplicative. The
spread is the finite-sample quantile of |e_i| (`recommender.models.conformal`), so a biased model is a wide one: the
paper's tolerance adds the mean of predicted − observed, which has the wrong sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InsufficientEvidenceError
from recommender.models import ASSUMED, MODELLED, Array, Prediction, with_measurements
from recommender.models.conformal import spread_of
from recommender.models.descriptions import Edge, describe, edges
from recommender.models.ernest import (
    CLUSTER_FAMILY_SPREAD,
    FAMILY_SPREAD,
    LOCAL_SPREAD,
    MISFIT,
    UNKNOWN_CPU_SPREAD,
    UNRATED_SPREAD,
    UNSEEN_PARALLEL_SPREAD,
    extrapolations,
    never_scaled,
    never_told_apart,
    outliers,
    outside,
    untold,
)
from recommender.models.memory import MemoryLimit
from recommender.models.noise import repetition_noise
from recommender.models.points import Evidence, proposals, relative_speed, run_points, target_points
from recommender.models.scaling import BASE, MINIMUM_POINTS, MOST_ERROR, SERIAL, by_name, features, solve
from recommender.problem import Problem
from recommender.runs import Runs

MOST_LEFT_OUT, FOLDS = 20, 10
"""Points left out one at a time; of more, a tenth at a time."""
BOOSTED_POINTS, MOST_POINTS = 10, 2000
"""Fewest points that are boosted, and most that are fitted: of more, every k-th."""
RIDGE, SWEEPS = 0.1, 20
"""Weight of the prior b ~ 0 per standardised column, and sweeps of the alternating fit of `factored`."""


@dataclass(frozen=True)
class Table:
    """Points or candidates as numbers, shape (n, ...)."""

    work: Array
    """x(s, m, c, q), (n, 5)."""
    parallel: Array
    """x(1, m, c, q) without its last column, (n, 4)."""
    size: Array
    """ln m, ln c, (n, 2)."""
    z: Array
    """(n, k)."""
    y: Array
    """ln(t v), (n,); NaN of candidates."""

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Table:
        """Return some rows."""
        return Table(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Believer:
    """A fitted model: what it says of ln t v, (n,), and what that is made of."""

    says: Callable[[Table], Array]
    terms: Callable[[Table], Array] | None = None
    """Seconds of its scaling terms, (n, p), up to a factor; None where it has none."""
    correction: Callable[[Table], Array] | None = None
    """What boosting adds to ln t, (n,)."""

    def __call__(self, table: Table) -> Array:
        """ln t v of points or candidates."""
        return self.says(table)


Fitter = Callable[[Table], Believer]


def ernest(table: Table) -> Believer:
    """y = ln θ·x, θ ≥ 0, least squares of relative residuals."""
    theta = solve(table.work, np.exp(table.y))
    return Believer(lambda other: np.log(np.maximum(other.work @ theta, 1e-9)), lambda other: other.work * theta)


def factored(table: Table) -> Believer:
    """y = ln θ·x(1, ·) + b·z: each factor fitted in turn to what the other leaves, b by ridge regression."""
    mean, spread = table.z.mean(axis=0), table.z.std(axis=0)
    size = np.where(spread > 1e-9, spread, np.inf)  # a column that does not vary here teaches nothing
    z = (table.z - mean) / size
    gram = z.T @ z + RIDGE * np.eye(z.shape[1])
    b = np.zeros(z.shape[1])
    for _ in range(SWEEPS):
        theta = solve(table.parallel, np.exp(table.y - z @ b))
        b = np.linalg.solve(gram, z.T @ (table.y - np.log(np.maximum(table.parallel @ theta, 1e-9))))
    return Believer(
        lambda other: np.log(np.maximum(other.parallel @ theta, 1e-9)) + (other.z - mean) / size @ b,
        lambda other: other.parallel * theta,
    )


def boosting(table: Table) -> Believer:
    """y = g(ln m, ln c, z): 100 trees of depth 3, each on half of the points (Friedman 2002)."""
    from sklearn.ensemble import GradientBoostingRegressor  # type: ignore[import-untyped]

    trees = GradientBoostingRegressor(n_estimators=100, learning_rate=0.1, max_depth=3, subsample=0.5, random_state=0)
    trees.fit(np.column_stack([table.size, table.z]), table.y)
    return Believer(lambda other: np.asarray(trees.predict(np.column_stack([other.size, other.z]))))


def corrected(base: Fitter) -> Fitter:
    """`base`, and boosting of what it leaves."""

    def fit(table: Table) -> Believer:
        first = base(table)
        rest = boosting(replace(table, y=table.y - first(table)))
        return Believer(lambda other: first(other) + rest(other), first.terms, rest.says)

    return fit


MODELS: dict[str, Fitter] = {
    "ernest": ernest,
    "factored": factored,
    "boosting": boosting,
    "ernest, corrected by boosting": corrected(ernest),
    "factored, corrected by boosting": corrected(factored),
}


def held_out(fitter: Fitter, table: Table, group: npt.NDArray[np.intp]) -> Array:
    """e_i of every point, its group (or its tenth of the groups) left out; clipped to a factor of e³ either way."""
    _, of = np.unique(group, return_inverse=True)
    n = int(of.max()) + 1
    fold = (np.arange(n) if n <= MOST_LEFT_OUT else np.random.default_rng(0).permutation(n) % FOLDS)[of]
    error = np.empty(len(table.y))
    for f in np.unique(fold):
        out = fold == f
        error[out] = _without(fitter, table, out)
    return error


def at_edge(fitter: Fitter, table: Table, out: npt.NDArray[np.bool_]) -> Array:
    """e of the points `out`, all left out at once; empty where the others are too few."""
    return _without(fitter, table, out) if (~out).sum() >= MINIMUM_POINTS and out.any() else np.empty(0)


def _without(fitter: Fitter, table: Table, out: npt.NDArray[np.bool_]) -> Array:
    """e of the points `out`, predicted from the others."""
    error = fitter(table.take(~out))(table.take(out)) - table.y[out]
    return np.asarray(np.clip(error, -MOST_ERROR, MOST_ERROR))


@dataclass(frozen=True)
class Choice:
    """The model chosen, fitted to all points, and how all of them did."""

    name: str
    believer: Believer
    errors: dict[str, Array]
    """Model -> e of every point."""
    group: npt.NDArray[np.intp]
    """What was left out together, one number a point."""
    outer: tuple[float, ...]
    """Of each edge, the chosen model's e at its points, fitted to the others; root mean square, 0 where those are too few."""

    @property
    def error(self) -> Array:
        """e of the chosen model."""
        return self.errors[self.name]

    @property
    def spread(self) -> float:
        """Spread of ln t of a point like those left out."""
        return spread_of(self.error, self.group)


def choose(
    table: Table,
    stopped: npt.NDArray[np.bool_],
    group: npt.NDArray[np.intp] | None = None,
    edges: Sequence[Edge] = (),
) -> Choice:
    """Fit the model of the least mean |e|; boosting takes part from BOOSTED_POINTS points on.

    `group`: points to be left out together (all of one input, where a new one is asked about); None: each alone. Where
    everything asked about lies beyond an edge, the model is that which predicts the points at such edges best.
    A point that was only ever stopped joins the fit at its limit where the model says less.
    """
    done = table.take(~stopped)
    left = (np.arange(len(table.y)) if group is None else group)[~stopped]
    names = [n for n in MODELS if "boosting" not in n or len(done.y) >= BOOSTED_POINTS]
    errors = {name: held_out(MODELS[name], done, left) for name in names}
    outer = {name: [at_edge(MODELS[name], done, e.left[~stopped]) for e in edges] for name in names}
    told = [k for k, e in enumerate(edges) if e.varies and (e.beyond > 0).all() and len(outer[names[0]][k])]
    judged = {n: np.concatenate([outer[n][k] for k in told]) for n in names} if told else errors
    best = min(names, key=lambda name: (round(float(np.mean(np.abs(judged[name]))), 9), names.index(name)))
    believer = MODELS[best](done)
    news = stopped & (believer(table) < table.y)
    return Choice(
        best,
        MODELS[best](table.take(~stopped | news)) if news.any() else believer,
        errors,
        left,
        tuple(float(np.sqrt(np.mean(e**2))) if len(e) else 0.0 for e in outer[best]),
    )


@dataclass(frozen=True)
class C3O:
    """Predicts every configuration by the model that predicts left-out runs of the workload best."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration at the input asked about.

        Raises
        ------
        InsufficientEvidenceError
            With completed runs at fewer than three distinct points.
        """
        warnings: list[str] = []
        memory = MemoryLimit.of(problem, runs)
        evidence = run_points(problem, runs, warnings, every_input=True)
        table, stopped, asked = tables(problem, evidence, warnings)
        choice = choose(table, stopped, asked.group, asked.edges)
        points, table_c = evidence.points, problem.configurations
        target = target_points(problem, table_c, evidence)
        families = table_c["family"].where(table_c["family"] != "", table_c["instance_type"]).to_numpy(object)
        cluster = bool((points.machines > 1).any())
        seen = np.isin(families, np.unique(points.family.astype(str))) & (not evidence.unknown_cpu)
        effect = _family_spread(problem, evidence, families, seen)
        beyond = np.hypot(outside(points.machines * points.vcpus, points.scale, target), asked.further)
        alone = (target[1] > 1) & (not cluster)  # nothing says that the program can use more than one machine
        beyond = np.where(alone, np.hypot(beyond, UNSEEN_PARALLEL_SPREAD * np.log2(target[1])), beyond)
        for edge, far in zip(asked.edges, choice.outer, strict=True):
            beyond = np.hypot(beyond, edge.further(far))
        shift, wide = untold(points, target, _divides(choice.believer, asked.table))
        beyond = np.hypot(beyond, wide)
        warnings.extend(extrapolations(points, target) + never_told_apart(points, wide))
        error = float(np.mean(np.abs(np.expm1(choice.error))))
        if error > MISFIT:
            warnings.append(
                f"misfit: held-out runs are predicted with {error:.0%} mean error by the best of {len(choice.errors)} models "
                f"({choice.name}), so measure the configuration you intend to use"
            )
        warnings.extend(outliers(choice.error))
        own = max(choice.spread, repetition_noise(runs)[0])
        log_t = choice.believer(asked.table) + shift - np.log(relative_speed(problem, table_c["family"]))
        known = seen & ~alone & ~asked.assumed & (wide == 0) & ~never_scaled(points, target)
        said = f"by {choice.name}: {error:.1%} mean error on {len(choice.error)} points left out in turn"
        prediction = Prediction(
            log_runtime=log_t,
            spread=np.sqrt(own**2 + effect**2 + beyond**2),
            evidence=np.where(known, MODELLED, ASSUMED).astype(np.int8),
            family_spread=effect,
            completing=np.ones(len(log_t)),
            excluded=memory.excluded,
            reasons=memory.reasons,
            warnings=tuple(dict.fromkeys(warnings)),
            binding=lambda i: _limits(choice.believer, asked.table, i) + said + memory.remark(i),
            terms=lambda i: _terms(choice, asked.table, i, float(np.exp(log_t[i]))),
        )
        result = with_measurements(prediction, problem, runs)
        return replace(result, family_spread=np.minimum(result.family_spread, result.spread))


def _terms(choice: Choice, candidates: Table, i: int, seconds: float) -> dict[str, float]:
    """Seconds of candidate `i` by scaling term, whatever multiplies them shared out; by the model alone where it has none."""
    if choice.believer.terms is None:
        return {f"what {choice.name} says": seconds}
    share = choice.believer.terms(candidates.take(np.array([i])))[0]
    return by_name(share * seconds / max(float(share.sum()), 1e-300))


def _divides(believer: Believer, candidates: Table) -> Array:
    """Share of each candidate's time that is work that divides over vCPUs; 0 where the model has no terms."""
    if believer.terms is None:
        return np.zeros(len(candidates.size))
    terms = believer.terms(candidates)
    return np.asarray(terms[:, 1] / np.maximum(terms.sum(axis=1), 1e-300))


def _limits(believer: Believer, candidates: Table, i: int) -> str:
    """What takes most of the time of candidate `i`, and how much boosting corrects."""
    row, said = candidates.take(np.array([i])), ""
    if believer.terms is not None:
        share = by_name(believer.terms(row)[0])
        largest = max(share, key=lambda name: share[name])
        said = f"{largest} takes {share[largest] / max(sum(share.values()), 1e-300):.0%} of the time; "
    if believer.correction is not None:
        said += f"boosting corrects it by {np.expm1(float(believer.correction(row)[0])):+.1%}; "
    return said


def _family_spread(
    problem: Problem, evidence: Evidence, families: npt.NDArray[np.object_], seen: npt.NDArray[np.bool_]
) -> Array:
    """Spread of ln t because a candidate's family was not run, or only on a profiling machine like it."""
    points = evidence.points
    prior = CLUSTER_FAMILY_SPREAD if (points.machines > 1).any() else FAMILY_SPREAD
    unrated = ~np.isin(families, problem.catalogue.rated.index)
    unseen = UNKNOWN_CPU_SPREAD if evidence.unknown_cpu else np.hypot(prior, np.where(unrated, UNRATED_SPREAD, 0.0))
    local = LOCAL_SPREAD if (points.instance_type == "local").all() else 0.0
    return np.asarray(np.where(seen, local, unseen), dtype=float)


def tables(problem: Problem, evidence: Evidence, warnings: list[str]) -> tuple[Table, npt.NDArray[np.bool_], Asked]:
    """The distinct points; which of them were only ever stopped (their y is the longest limit); the candidates.

    Raises
    ------
    InsufficientEvidenceError
        With fewer than three distinct points that completed.
    """
    points = evidence.points
    key, first, at = np.unique(points.key, return_index=True, return_inverse=True)
    log_t = pd.Series(np.log(points.runtime_s * points.speed))
    done = log_t.where(~points.censored).groupby(at).median().to_numpy(float)
    stopped = np.isnan(done)
    if int((~stopped).sum()) < MINIMUM_POINTS:
        raise InsufficientEvidenceError(
            f"c3o needs completed runs at {MINIMUM_POINTS} distinct points at least (type x nodes x inputs); found "
            f"{int((~stopped).sum())}; {proposals(points)}"
        )
    y = np.where(stopped, log_t.groupby(at).max().to_numpy(float), done)
    if len(key) > MOST_POINTS:
        step = -(-len(key) // MOST_POINTS)
        warnings.append(f"fitted to every {step}th of the {len(key):,} points")
        first, y, stopped = first[::step], y[::step], stopped[::step]
    said = describe(problem, evidence, first, warnings)
    own = (points.scale[first], points.machines[first], points.vcpus[first], points.units[first])
    target = target_points(problem, problem.configurations, evidence)
    candidates = _table(target, said.asked, np.full(len(said.asked), np.nan, dtype=np.float64))
    group = _inputs_of(problem, evidence.frame.iloc[first])
    known = np.isfinite(target[2])
    outer = (
        *said.edges,
        *edges(own[0], target[0]),
        *(edges(own[1] * own[2], np.where(known, target[1] * target[2], np.nan)) if known.any() else ()),
    )
    return _table(own, said.run, y), stopped, Asked(candidates, said.further, said.assumed, group, outer)


def _inputs_of(problem: Problem, frame: pd.DataFrame) -> npt.NDArray[np.intp] | None:
    """A number for the input of each run; None where the one asked about was run, or they are fewer than three."""
    columns = [c for c in problem.inputs if c in frame]
    if not columns:
        return None
    group = np.asarray(frame.groupby(columns, dropna=False).ngroup(), dtype=np.intp)
    asked = np.array([problem.inputs[c] for c in columns])
    run = np.isclose(frame[columns].to_numpy(float), asked, rtol=1e-9).all(axis=1).any()
    return None if run or group.max() < MINIMUM_POINTS - 1 else group


@dataclass(frozen=True)
class Asked:
    """The candidates, and what is asked of them that the runs do not say; arrays of shape (configurations,)."""

    table: Table
    further: Array
    """Spread of ln t because a value outside those of the runs is asked about."""
    assumed: npt.NDArray[np.bool_]
    """Whether the runs say nothing of a value asked about."""
    group: npt.NDArray[np.intp] | None
    """Of each point, its input, where the input asked about was not run and there are several; else None."""
    edges: tuple[Edge, ...]
    """One for each side of an input, of the scale or of the vCPUs in all that is asked about beyond the runs."""


def _table(at: tuple[Array, Array, Array, Array], z: Array, y: Array) -> Table:
    scale, machines, vcpus, units = at
    return Table(
        work=features(scale, machines, vcpus, units)[:, : SERIAL + 1],
        parallel=features(np.ones_like(machines), machines, vcpus, units)[:, :BASE],
        size=np.log(np.stack([machines, vcpus], axis=1)),
        z=z,
        y=y,
    )
