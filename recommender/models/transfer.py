"""Transfer: a small network learnt on other workloads, its hidden layers kept, its last layer fitted to a few own runs.

Notation
--------
x      features of a configuration and logarithms of the job's inputs, each with mean 0 and deviation 1 over the source
y      ln(runtime in s) of a point (workload, configuration, inputs), mean over its repetitions
b_u    level of workload u, so that y − b_u is about linear in x over all workloads (least squares)
h(x)   outputs of the last hidden layer, in (−1, 1)        f(x) = w0·h(x) + c, the network, fitted to y − b_u
e      y − b − f(x) of the target's k points, b the mean of the b_u

The last layer is re-fitted as Bayesian linear regression about the source's own, w ~ N(w0, τ²), level ~ N(b, V), and has
besides h the features x themselves: those that varied in the source (x_v) with weights ~ N(0, τ²), and those that the
source could not learn because they were constant there (x_n) with weights ~ N(0, 1), as elasticities are:

    K(x, x') = τ² (h(x)·h(x') + x_v·x'_v) + x_n·x'_n + V
    mean(x)  = b + f(x) + K(x, X) (K(X, X) + σ²)⁻¹ e

τ and σ are those under which workloads that the network did not see, and the target's runs, are most likely. The spread is
multiplied with √((ν + eᵀ(K + σ²)⁻¹e)/(ν + k − 1)): runs that fit worse (better) than that do widen (narrow) it.

Runs of the archive that were only ever stopped count as that long at least. Moradi et al. (IM 2019): source network, frozen lower layers, last layer re-trained on few target samples, compared with
training from scratch on as many. Our choices: the levels, the Bayesian last layer and with it the spread, x beside h, and
the average of MEMBERS networks from different starts, each judged by a twin that is kept from a part of the workloads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InsufficientEvidenceError
from recommender.models import (
    NOISE_PRIOR,
    TRANSFERRED,
    Array,
    Prediction,
    configuration_rows,
    measured,
    nothing_known,
    with_measurements,
)
from recommender.models.archive import CONTRADICTION, archived
from recommender.models.completing import completing
from recommender.models.contexts import by_content
from recommender.models.fold_in import UNKNOWN_SHAPE
from recommender.models.kept import kept
from recommender.models.memory import MemoryLimit
from recommender.models.paris import hardware
from recommender.models.unusual import MAD, SCATTER
from recommender.models.yardsticks import LEVEL_SPREAD
from recommender.problem import Problem
from recommender.runs import Runs

MEMBERS = 4
LAYERS = (24, 12)
"""Units of the hidden layers."""
DECAY = 1e-2
"""Weight decay of the network."""
FLAT, STEPS = 1e-3, 5000
"""Gradient at which the optimiser stops, well before it follows the noise, and the most steps it is given to get there."""
TAUS, SIGMAS = np.geomspace(0.01, 3.0, 8), np.geomspace(NOISE_PRIOR / 2, 1.0, 7)
LEVEL_VARIANCE = 100.0
"""V: nothing is known of a workload's level before its first run."""
PRIOR_DOF = 4.0
"""ν."""
SWEEPS = 10
"""Fits of the linear model in which stopped runs are raised to what it makes of them."""
MOST_POINTS, MOST_OF_ONE = 10_000, 60
"""Source points that are learnt from, and of one workload that judge τ and σ; evenly over more."""
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Points:
    """Completed runs as points, in an order that does not depend on how they were given."""

    x: Array
    """Before standardisation, (points, features); NaN for an input that the workload does not have."""
    y: Array
    workload: Rows  # its number, by content


@dataclass(frozen=True, eq=False)
class Member:
    """One network, and what the workloads that it did not see say of its last layer. x below is standardised."""

    network: Any
    varied: npt.NDArray[np.bool_]
    """Features that varied in the source: what the network sees."""
    likelihood: Array
    """ln likelihood of the workloads held out, (TAUS, SIGMAS); 0 where there were none."""

    def hidden(self, x: Array) -> Array:
        """h(x), (rows, units)."""
        h = x[:, self.varied]
        for weight, bias in zip(self.network.coefs_[:-1], self.network.intercepts_[:-1], strict=True):
            h = np.tanh(h @ weight + bias)
        return h

    def source(self, x: Array) -> Array:
        """f(x)."""
        result: Array = self.network.predict(x[:, self.varied])
        return result

    def learnt(self, x: Array) -> tuple[Array, Array]:
        """(h, x_v) and x_n, (rows, ...)."""
        return np.hstack([self.hidden(x), x[:, self.varied]]), x[:, ~self.varied]

    def judge(self, x: Array, e: Array) -> Array:
        """ln likelihood of residuals at every τ and σ, (TAUS, SIGMAS)."""
        rows = np.linspace(0, len(e) - 1, min(len(e), MOST_OF_ONE)).astype(np.intp)
        inner, other = self.learnt(x[rows])
        fixed, found = other @ other.T + LEVEL_VARIANCE, np.zeros((len(TAUS), len(SIGMAS)))
        for i, tau in enumerate(TAUS):
            # One decomposition serves every σ.
            value, vector = np.linalg.eigh(tau**2 * inner @ inner.T + fixed)
            z = (vector.T @ e[rows]) ** 2
            total = np.maximum(value, 0.0) + SIGMAS[:, None] ** 2
            found[i] = -0.5 * (z / total + np.log(total)).sum(axis=1)
        return found


@dataclass(frozen=True, eq=False)
class Source:
    """What the archive taught."""

    members: tuple[Member, ...]
    centre: Array
    deviation: Array
    """Of the features over the source; 1 for constant ones, which the networks do not see."""
    low: Array
    high: Array
    """Range of each feature over the source; NaN for an input that no source workload has."""
    level: float
    level_spread: float
    workloads: int
    warnings: tuple[str, ...]

    def standardised(self, x: Array) -> Array:
        """Features over the source's scatter; what is missing is at the mean."""
        result: Array = np.nan_to_num((x - self.centre) / self.deviation)
        return result


@dataclass(frozen=True)
class Transfer:
    """Networks from the archive, last layers from the workload's own runs."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration at the input asked about.

        Raises
        ------
        InsufficientEvidenceError
            Without an archive of completed runs on the candidates, or with one whose runs are all of one configuration and
            input.
        """
        cells = archived(problem).cells
        seen = measured(problem, runs)
        inputs = tuple(c for c in runs.inputs if c in problem.inputs)
        source = kept(problem, (self, inputs, problem.seed), lambda: teach(problem, inputs))
        own = points(problem, runs, inputs)
        asked = [logarithm(np.array([problem.inputs[c]])) for c in inputs]
        n = len(problem.configurations)
        x = np.column_stack([hardware(problem), *(np.full(n, value) for value in asked)])
        mean, spread, outlier = refit(source, own, x)
        if not len(own.y):
            spread = np.hypot(spread, source.level_spread)
        if source.workloads == 1:  # nothing was held out, so nothing says how workloads differ
            spread = np.hypot(spread, UNKNOWN_SHAPE)
        beyond, said = outside(source, own, x, problem, inputs)
        memory = MemoryLimit.of(problem, runs)
        remark = f"network of {source.workloads} other workloads, last layer fitted to {len(own.y)} own points"
        prediction = replace(
            nothing_known(problem),
            log_runtime=mean,
            spread=np.sqrt(spread**2 + beyond**2 + seen.noise**2),
            evidence=np.full(n, TRANSFERRED, dtype=np.int8),
            completing=cells.completing * completing(problem, seen),
            excluded=memory.excluded,
            reasons=memory.reasons,
            warnings=(*source.warnings, *said, *remarks(source, own)),
            binding=lambda i: remark + memory.remark(i),
        )
        joined = with_measurements(prediction, problem, runs)
        if not outlier:
            return joined
        doubt = (
            f"the workload's runs contradict each other: one is {np.exp(outlier):,.0f} x off what the others lead to expect "
            "(seconds are expected: was another unit noted?); every interval is widened by as much"
        )
        return replace(joined, spread=np.hypot(joined.spread, outlier), warnings=(*joined.warnings, doubt))


def logarithm(values: Array) -> Array:
    """ln of an input, so that doublings are alike; an input of 0 or less stays at its number, far below."""
    return np.where(values > 0, np.log(np.maximum(values, 1e-300)), values)


def points(problem: Problem, runs: Runs, inputs: tuple[str, ...], *, stopped: bool = False) -> Points:
    """The completed runs of candidates, repetitions averaged; or the longest limit of what was only ever stopped at one."""
    row = configuration_rows(problem, runs.frame)
    use = (row >= 0) & (runs.frame["status"] == ("timed_out" if stopped else "completed")).to_numpy()
    frame, row, workload = runs.frame[use], row[use], by_content(runs)[use]
    columns = {c: logarithm(frame[c].to_numpy(float)) if c in frame else np.full(len(frame), np.nan) for c in inputs}
    table = pd.DataFrame({"workload": workload, "row": row, **columns})
    table["y"] = np.log(frame["runtime_s"].to_numpy(float))
    key = ["workload", "row", *inputs]
    by = table.groupby(key, dropna=False, sort=True)["y"]
    found = (by.max() if stopped else by.mean()).reset_index()
    rows = found["row"].to_numpy(np.intp)
    x = np.column_stack([hardware(problem)[rows], *(found[c].to_numpy(float) for c in inputs)])
    return Points(x, found["y"].to_numpy(float), found["workload"].to_numpy(np.intp))


def teach(problem: Problem, inputs: tuple[str, ...]) -> Source:
    """Learn the networks from the archive."""
    assert problem.archive is not None
    p = points(problem, problem.archive, inputs)
    if len(p.y) > MOST_POINTS:
        some = np.linspace(0, len(p.y) - 1, MOST_POINTS).astype(np.intp)
        p = Points(p.x[some], p.y[some], p.workload[some])
    have = np.isfinite(p.x)
    count = np.maximum(have.sum(axis=0), 1)
    centre = np.where(have, p.x, 0.0).sum(axis=0) / count
    deviation = np.sqrt((np.where(have, p.x - centre, 0.0) ** 2).sum(axis=0) / count)
    varied = deviation > 1e-9
    if not varied.any():
        raise InsufficientEvidenceError(
            "transfer learns how runtimes differ between machines, cluster sizes and inputs, and the completed runs of the archive "
            "are all of one of each; add other workloads' runs on other machines to --archive, or use --strategy column-mean"
        )
    deviation = np.where(varied, deviation, 1.0)
    x = np.nan_to_num((p.x - centre) / deviation)
    names, u = np.unique(p.workload, return_inverse=True)
    level, off = levels(x, p.y, u)
    scatter = max(float(np.median(np.abs(off))) / MAD, NOISE_PRIOR)
    fit = np.abs(off) <= max(CONTRADICTION, SCATTER * scatter)
    said: tuple[str, ...] = ()
    if not fit.all():
        said = (
            f"{int((~fit).sum())} runs of the archive are left out: more than tenfold off what the others lead to expect",
        )
        x, u, y = x[fit], u[fit], p.y[fit]
        level, _ = levels(x, y, u)
    else:
        y = p.y
    q = points(problem, problem.archive, inputs, stopped=True)
    if len(q.y):
        at = Points(np.nan_to_num((q.x - centre) / deviation), q.y, q.workload)
        x, u, y, level = _with_stopped(at, Points(x, y, names[u]), u, names)
    rng = np.random.default_rng(problem.seed)
    part = rng.permutation(len(names)) % min(MEMBERS, len(names))
    seeds, members = rng.integers(2**31, size=MEMBERS), []
    for m, seed in enumerate(seeds):
        held = part[u] == m % (part.max() + 1) if len(names) > 1 else np.zeros(len(u), dtype=bool)
        members.append(member(x, y - level[u], u, held, varied, int(seed)))
    bounds = [
        np.where(have.any(axis=0), f(np.where(have, p.x, w), axis=0), np.nan)
        for f, w in ((np.min, np.inf), (np.max, -np.inf))
    ]
    return Source(
        members=tuple(members),
        centre=centre,
        deviation=deviation,
        low=bounds[0],
        high=bounds[1],
        level=float(level.mean()),
        level_spread=max(LEVEL_SPREAD, float(level.std())),
        workloads=len(names),
        warnings=said,
    )


def _with_stopped(q: Points, p: Points, u: Rows, names: Rows) -> tuple[Array, Rows, Array, Array]:
    """(x, u, y, level) of points p, and of q that were only ever stopped: at their limit, or the linear model's where it is more."""
    have = {(n, tuple(v)) for n, v in zip(names[u], np.round(p.x, 9).tolist(), strict=True)}
    each = zip(q.workload, np.round(q.x, 9).tolist(), strict=True)
    new = [k for k, (name, v) in enumerate(each) if name in names and (name, tuple(v)) not in have]
    bound, among = q.y[new], np.searchsorted(names, q.workload[new])
    x, u, z = np.vstack([p.x, q.x[new]]), np.concatenate([u, among]), bound
    for _ in range(SWEEPS):
        level, off = levels(x, np.concatenate([p.y, z]), u)
        z = np.maximum(bound, z - off[len(p.y) :])
    return x, u, np.concatenate([p.y, z]), level


def levels(x: Array, y: Array, u: Rows) -> tuple[Array, Array]:
    """b of each workload, and what a linear model with those levels leaves of y."""
    design = np.hstack([np.eye(int(u.max()) + 1)[u], x])
    penalty = np.diag(np.full(design.shape[1], 1e-3))
    coefficients = np.linalg.solve(design.T @ design + penalty, design.T @ y)
    return coefficients[: int(u.max()) + 1], y - design @ coefficients


def network(x: Array, z: Array, seed: int) -> Any:
    """A network fitted to z; the same for a source and, to compare, for a target's points alone."""
    from sklearn.neural_network import MLPRegressor  # type: ignore[import-untyped]

    made = MLPRegressor(
        hidden_layer_sizes=LAYERS,
        activation="tanh",
        solver="lbfgs",
        alpha=DECAY,
        tol=FLAT,
        max_iter=STEPS,
        random_state=seed,
    )
    return made.fit(x, z)


def member(
    x: Array, z: Array, u: Rows, held: npt.NDArray[np.bool_], varied: npt.NDArray[np.bool_], seed: int
) -> Member:
    """One network, and, from one that did not see the workloads `held`, how far other workloads are from such a network."""
    blind = Member(network(x[~held][:, varied], z[~held], seed), varied, np.zeros((len(TAUS), len(SIGMAS))))
    if not held.any():
        return blind
    off = z - blind.source(x)
    likelihood = sum(blind.judge(x[u == w], off[u == w]) for w in np.unique(u[held]))
    return Member(network(x[:, varied], z, seed), varied, np.asarray(likelihood))


def refit(source: Source, own: Points, x: Array) -> tuple[Array, Array, float]:
    """Mean and standard deviation of ln(runtime) at x, (rows,), and by how much an own run is an outlier (ln; 0: none)."""
    k = len(own.y)
    # An input that no source workload has is measured from the target's own.
    blank = np.isnan(source.low)
    source = replace(source, centre=np.where(blank, (own.x if k else x).mean(axis=0), source.centre))
    to, at = source.standardised(x), source.standardised(own.x)
    means, variances, apart = [], [], []
    for m in source.members:
        e = own.y - source.level - m.source(at) if k else np.zeros(0)
        best = np.unravel_index(int((m.likelihood + (m.judge(at, e) if k else 0.0)).argmax()), m.likelihood.shape)
        tau, sigma = float(TAUS[best[0]]), float(SIGMAS[best[1]])
        new, old = (np.hstack([tau * inner, other]) for inner, other in map(m.learnt, (to, at)))
        prior = (new**2).sum(axis=1)
        if not k:
            means.append(source.level + m.source(to))
            variances.append(prior + sigma**2)
            continue
        inverse = np.linalg.inv(old @ old.T + LEVEL_VARIANCE + sigma**2 * np.eye(k))
        cross = new @ old.T + LEVEL_VARIANCE
        scale = (PRIOR_DOF + e @ inverse @ e) / (PRIOR_DOF + k - 1)
        means.append(source.level + m.source(to) + cross @ inverse @ e)
        left = prior + LEVEL_VARIANCE - np.einsum("ij,jk,ik->i", cross, inverse, cross)
        variances.append(scale * (np.maximum(left, 0.0) + sigma**2))
        # How far each own run is off what the others lead to expect.
        apart.append(np.abs(inverse @ e) / np.diag(inverse))
    outlier = float(np.mean(apart, axis=0).max()) if k > 1 else 0.0
    spread = np.sqrt(np.mean(variances, axis=0) + np.var(means, axis=0))
    return np.mean(means, axis=0), spread, outlier if outlier > CONTRADICTION else 0.0


def outside(
    source: Source, own: Points, x: Array, problem: Problem, inputs: tuple[str, ...]
) -> tuple[Array, list[str]]:
    """Further spread of what lies beyond everything measured, here or in the archive: networks are flat there.

    Half the logarithm of how far an input lies outside, as in `points`; for hardware LEVEL_SPREAD times the share of the
    candidates' range.
    """
    low, high = source.low, source.high
    if len(own.y):
        low, high = np.fmin(low, own.x.min(axis=0)), np.fmax(high, own.x.max(axis=0))
    off = np.nan_to_num(np.maximum(np.maximum(low - x, x - high), 0.0))
    hard = x.shape[1] - len(inputs)
    reach = np.maximum(np.ptp(x[:, :hard], axis=0), 1.0)
    wide = LEVEL_SPREAD * (off[:, :hard] / reach).max(axis=1)
    further = off[:, hard:] / 2
    said = []
    if (wide > 1e-9).any():
        said.append(
            f"{int((wide > 1e-9).sum())} configurations lie outside the hardware that was measured, here or in the archive: "
            "their spread is wider"
        )
    for i, name in enumerate(inputs):
        if (further[:, i] > 1e-9).any():
            said.append(
                f"{name} = {problem.inputs[name]:g} is asked about and lies outside what was measured, here or in the archive: "
                "how it changes the runtime is not known, so the spread is wider"
            )
    return np.sqrt(wide**2 + (further**2).sum(axis=1)), said


def remarks(source: Source, own: Points) -> list[str]:
    """What the reader must know of source and target."""
    said = []
    if source.workloads == 1:
        said.append("the archive holds 1 workload: how far another differs from it is assumed")
    if not len(own.y):
        said.append(
            "the workload itself has no completed run on a candidate: runtimes are those of the archive's typical workload, and "
            "only their order means anything"
        )
    return said
