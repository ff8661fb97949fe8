"""One posterior from all the evidence: scaling laws, other workloads and the workload's own runs.

A mixture (models/mixture.py) of two kinds of belief about ln T, less the workload's level:

laws       f = a scaling law (models/laws.py),  K = s² M(h) M(z) + ℓ² hᵀh + ℓ² M(z) + p² M(u) + (p²/9 + s²) M(u) M(h)
archive    f = column means of other workloads, K = the same + c Σ_w e_w e_wᵀ/W, e_w what workload w strays from them

h  ln nodes, ln vCPUs and ln memory per vCPU      z  other hardware, `feature.*`      u  `param.*`      M  Matérn 5/2

Components run over every s, p, noise and c below; there is nothing to fit for one workload, so nothing is over-fitted by
three runs. How much each is believed beforehand is what the archive's own workloads say: each is predicted from those of
other applications and from the laws, and the prior weight is the mean of the components' posteriors by marginal likelihood
(one step of EM from equal weights, which count for one workload more); without an archive weights are equal.
Afterwards the workload's own runs decide: an archive that does not predict them loses its weight.

The laws know capacity and memory, not the workload; the covariance of the archive is low-rank plus M, as in the shrinkage of
Ledoit and Wolf (2004) but towards M. The composition is our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logsumexp, ndtr

from recommender.candidates import Candidates
from recommender.errors import InsufficientEvidenceError
from recommender.models import MODELLED, TRANSFERRED, Array, Measured, Prediction, measured, with_measurements
from recommender.models.completing import level_above, search_base
from recommender.models.features import Features, features
from recommender.models.held_out import log_price
from recommender.models.kept import kept
from recommender.models.laws import Laws, draw_laws
from recommender.models.mixture import Bases, Component, Evidence, Rows, condition, log_evidence, matern
from recommender.models.yardsticks import ArchiveCells, additive, archive_cells
from recommender.problem import Problem
from recommender.runs import Runs
from recommender.units import counted

LAWS = 512
ROUGH = (0.05, 0.12, 0.3)
"""s: how far ln T strays from the laws between unlike machines."""
TILT = 0.1
"""ℓ: how far it strays steadily along a doubling (in ln 2) of any of h."""
PARAMETERS = (0.2, 0.6, 1.5)
"""p: how much application parameters matter."""
NOISE = (0.03, 0.07, 0.15, 0.3)
"""σ: standard deviation of ln T of a single run; what is too rough for K counts as noise too."""
SHARED = (0.0, 0.3, 1.0)
"""c: how much of what the archive's workloads stray from its column means this one does; 1: as much as they do."""
LENGTH_HARDWARE, LENGTH_OTHER = 1.5, 0.7
"""Length scales of h (in ln) and of z and u (1 = the range of the candidates)."""
COLUMN_PRIOR = 0.5
"""Runs of the archive that the average law counts for in a column's mean."""
CONTEXTS, CELLS, FOLDS = 256, 64, 10
"""Most workloads of the archive that enter the covariance, most runs of each that are predicted, and folds of that."""
FEWEST_ODD, ODD = 3, float(np.log(20.0))
"""Fewest configurations of which one can be odd, and how far from the others it then is."""
LIMITS = (
    "work that divides over vCPUs",
    "work that does not divide",
    "what each node adds",
    "spilling for lack of memory",
)
"""What may bind a configuration, in the order of `Laws.shares`."""
UNRUN = (
    "the workload itself has no completed run on any candidate at this input: runtimes are those of the archive's typical "
    "workload, and only their order means anything"
)
HARDWARE = ("node_count", "vcpus", "memory per vCPU")


class _Space(NamedTuple):
    """Inputs of the bases, scaled to unit length; one row a configuration."""

    hardware: Array
    tilt: Array
    other: Array
    params: Array


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed of a workload before it is run."""

    bases: Bases
    components: tuple[Component, ...]
    level: float
    """Mean ln T of the archive's workloads; NaN without an archive."""
    spread: float
    """Standard deviation of that between workloads."""
    workloads: int
    """Of the archive on the candidates."""
    trust: float
    """Weight of the archive before the workload is run."""
    laws: Laws
    completing: Array
    """P(a run completes) by the archive's runs of each configuration; 1 without an archive."""


def belief(problem: Problem) -> Belief:
    """Build, or take from those built, what is believed about `problem`'s candidates given its archive."""
    if problem.archive is not None:
        return kept(problem, "belief", lambda: _build(problem))
    for candidates, made in _COLD:
        if candidates is problem.candidates:
            return made
    made = _build(problem)
    _COLD.append((problem.candidates, made))
    del _COLD[:-4]
    return made


_COLD: list[tuple[Candidates, Belief]] = []


def _build(problem: Problem) -> Belief:
    space = features(problem)
    laws = draw_laws(problem, space, LAWS)
    inputs = _space(problem, space)
    try:
        cells: ArchiveCells | None = archive_cells(problem)
    except InsufficientEvidenceError:
        cells = None
    amounts = PARAMETERS if inputs.params.shape[1] else (0.0,)
    grid = [(s, p, noise) for s in ROUGH for p in amounts for noise in NOISE]

    def by_laws(rows: Rows, which: Rows | slice) -> Array:
        return laws.at(rows, which)

    equal = np.full(len(laws), -np.log(len(laws)))
    cold = [Component(_amounts(s, p, 0.0), noise, by_laws, equal, "scaling laws") for s, p, noise in grid]
    if cells is None:
        alone = _weighed(cold, np.full(len(grid), 1.0 / len(grid)))
        return Belief(
            _bases(inputs, np.zeros((0, len(inputs.hardware)))),
            alone,
            np.nan,
            np.nan,
            0,
            0.0,
            laws,
            np.ones(len(inputs.hardware)),
        )

    average = laws.mean()
    known = np.flatnonzero(np.isfinite(cells.log_runtime).any(axis=1))
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(CONTEXTS, len(known))).astype(int))]
    y, bound = cells.log_runtime[chosen], cells.bound[chosen]
    fold = _folds(cells, chosen)
    votes = np.full((1 + len(SHARED), len(grid)), 1.0 / ((1 + len(SHARED)) * len(grid)))
    for f in np.unique(fold):
        others = fold != f
        if not others.any():
            continue
        mean, strays = _columns(y[others], bound[others], average)
        bases, among = _bases(inputs, strays), [*cold, *_warm(grid, mean)]
        for row in y[~others]:
            votes += _vote(bases, among, row).reshape(votes.shape)
    share = votes / votes.sum()
    mean, strays = _columns(y, bound, average)
    components = _weighed([*cold, *_warm(grid, mean)], share.ravel())
    level = np.nanmean(y, axis=1)
    return Belief(
        _bases(inputs, strays),
        components,
        float(level.mean()),
        float(max(1.0, level.std())),
        cells.workloads,
        float(1.0 - share[0].sum()),
        laws,
        cells.completing,
    )


def _amounts(s: float, p: float, c: float) -> Array:
    """a_gb of the bases of `_bases`, in their order."""
    return np.array([s**2, TILT**2, TILT**2, p**2, p**2 / 9.0 + s**2 if p else 0.0, c])


def _warm(grid: list[tuple[float, float, float]], mean: Array) -> list[Component]:
    """The archive's components: for each amount of SHARED one of each of the grid."""

    def by_archive(rows: Rows, which: Rows | slice) -> Array:
        return mean[None, rows][which]

    return [Component(_amounts(s, p, c), n, by_archive, np.zeros(1), "archive") for c in SHARED for s, p, n in grid]


def _weighed(components: list[Component], weight: Array) -> tuple[Component, ...]:
    """The components with the prior weight that each is to have in all."""
    return tuple(replace(c, log_prior=c.log_prior + w) for c, w in zip(components, np.log(weight), strict=True))


def _columns(y: Array, bound: Array, average: Array) -> tuple[Array, Array]:
    """Column means about 0, towards the average law where few ran, and what every row strays from them, 0 unmeasured."""
    _, column, residual = additive(y, bound)
    count = np.isfinite(y).sum(axis=0)
    known = np.isfinite(column)
    offset = float((column[known] - average[known]).mean())
    mean = (np.where(known, column, 0.0) * count + (average + offset) * COLUMN_PRIOR) / (count + COLUMN_PRIOR)
    return mean - mean.mean(), np.nan_to_num(residual)


def _vote(bases: Bases, components: list[Component], row: Array) -> Array:
    """Posterior of equally weighed components given one workload of the archive, (components,)."""
    have = np.flatnonzero(np.isfinite(row))
    have = have[np.unique(np.linspace(0, len(have) - 1, min(CELLS, len(have))).astype(int))]
    none = np.zeros(0, dtype=np.intp)
    evidence = Evidence(have, row[have], np.ones(len(have)), none, np.zeros(0))
    among = bases.cross(have, have)
    found = log_evidence(components, among, evidence, evidence.centre)
    scores = [logsumexp(c.log_prior + score) for c, (score, _, _) in zip(components, found, strict=True)]
    result: Array = np.exp(np.array(scores) - logsumexp(scores))
    return result


def _folds(cells: ArchiveCells, chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Fold of each chosen context: those of one application (or, where that is not said, workload) stay together."""
    named = cells.application[chosen]
    label = np.where(pd.isna(named), cells.names[cells.workload[chosen]], named).astype(str)
    return np.asarray(pd.factorize(label)[0] % FOLDS, dtype=np.intp)


def _space(problem: Problem, space: Features) -> _Space:
    table = problem.configurations
    nodes, vcpus, memory = (table[c].to_numpy(float) for c in ("node_count", "vcpus", "memory_gib"))
    h = np.stack([np.log(nodes), np.log(vcpus), np.log(memory / vcpus)], axis=1)
    h = np.where(np.isfinite(h), h, np.nanmean(np.where(np.isfinite(h).any(axis=0), h, 0.0), axis=0))
    h = h - h.mean(axis=0)
    names = np.array(space.names)
    params = np.char.startswith(names, "param.")
    other = ~params & ~np.isin(names, HARDWARE)
    return _Space(h / LENGTH_HARDWARE, h, space.x[:, other] / LENGTH_OTHER, space.x[:, params] / LENGTH_OTHER)


def _bases(at: _Space, strays: Array) -> Bases:
    """The K_b; `strays` are the e_w, shape (workloads, configurations)."""
    scale = 1.0 / max(len(strays), 1)

    def cross(a: Rows, b: Rows) -> Array:
        hardware = matern(at.hardware[a], at.hardware[b])
        other = matern(at.other[a], at.other[b]) if at.other.shape[1] else np.ones(hardware.shape)
        params = matern(at.params[a], at.params[b]) if at.params.shape[1] else np.zeros(hardware.shape)
        shared = scale * strays[:, a].T @ strays[:, b]
        return np.stack([hardware * other, at.tilt[a] @ at.tilt[b].T, other, params, params * hardware, shared])

    def diagonal(a: Rows) -> Array:
        one = np.ones(len(a))
        params = one if at.params.shape[1] else 0.0 * one
        return np.stack(
            [one, (at.tilt[a] ** 2).sum(axis=1), one, params, params, scale * (strays[:, a] ** 2).sum(axis=0)]
        )

    return Bases(cross, diagonal, len(at.hardware))


@dataclass(frozen=True)
class LearnedPrior:
    """Scaling laws and archive, weighed by the workload's own runs."""

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration, and the mixture it comes from.

        Without a completed run at the input asked about, runtimes are those of the archive's typical workload; without an
        archive too no runtime is believed, and `preference` is the order by the average law.
        """
        seen = measured(problem, runs)
        base, prior = search_base(problem, runs, seen, always=True), belief(problem)
        evidence = _evidence(seen)
        mixture = condition(prior.bases, prior.components, evidence, level=prior.level)
        n, unknown = len(problem.configurations), prior.spread
        if not len(evidence.rows) and len(evidence.stopped) and np.isfinite(prior.level):
            expected, scatter, single = mixture.moments
            off, around = expected[evidence.stopped] - mixture.level, np.hypot(scatter, single)[evidence.stopped]
            level, unknown = level_above(prior.level, unknown, off, around, evidence.bound)
            mixture = replace(mixture, level=level)
        mean, latent, noise = mixture.moments
        # Repetitions that scatter more than any component believes say so of every run, and of the means they make.
        more = float(np.sqrt(max(seen.noise**2 - noise**2, 0.0)))
        latent, noise = np.hypot(latent, more / np.sqrt(max(seen.count.sum(), 1.0))), float(np.hypot(noise, more))
        share = mixture.share().get("archive", 0.0)
        if not len(evidence.rows) and np.isnan(prior.level):
            joined = with_measurements(base, problem, runs)
            lost = {name: getattr(joined, name) for name in ("completing", "excluded", "reasons", "lost")}
            return replace(base, preference=mean + log_price(problem), mixture=mixture, **lost)
        odd, doubt = _odd(problem, prior, evidence)
        warnings = (doubt,) if doubt else ()
        if not len(evidence.rows):
            latent = np.hypot(latent, unknown)
            warnings = (UNRUN,)
        says = f"weighed: scaling laws {1 - share:.0%}" + (
            f", archive of {counted(prior.workloads, 'workload')} {share:.0%}" if prior.workloads else ""
        )
        remark, plausible = base.binding, _plausible(prior, evidence)

        def binding(i: int) -> str:
            return "; ".join(part for part in (_limit(prior.laws, plausible(), i), remark(i), says) if part)

        # The archive's failures count as much as the archive does.
        completing = base.completing * (1.0 - share * (1.0 - prior.completing))
        limit = seen.censored_log.max(initial=-np.inf)
        if np.isfinite(limit) and limit >= evidence.value.max(initial=-np.inf):
            # Nothing was let run for longer: what takes longer would be stopped too.
            within = ndtr((limit - mean) / np.hypot(latent, noise))
            completing = completing * (mixture.below(np.full(n, limit)) if len(evidence.rows) else within)
        known = replace(
            base,
            completing=completing,
            log_runtime=mean,
            spread=np.hypot(latent, noise),
            evidence=np.full(n, TRANSFERRED if share > 0.5 else MODELLED, dtype=np.int8),
            binding=binding,
            warnings=warnings,
            mixture=mixture,
        )
        # A component's noise is also what strays from it for good: where a configuration was run, its runs say more.
        joined = with_measurements(known, problem, runs)
        wide = np.where(seen.count > 0, joined.spread, known.spread)  # the mixture has a noise of its own
        return replace(
            joined,
            spread=np.hypot(wide, odd),
            noise=min(joined.noise, noise),
            draws=mixture.draws if len(evidence.rows) and not doubt and seen.noise <= NOISE[-1] else None,
        )


def _evidence(seen: Measured) -> Evidence:
    rows = np.flatnonzero(seen.count > 0)
    stopped = np.flatnonzero(np.isfinite(seen.censored_log) & (seen.count == 0))
    value = np.fmax(seen.log_runtime, seen.censored_log)[rows]
    return Evidence(rows, value, seen.count[rows], stopped, seen.censored_log[stopped])


def _odd(problem: Problem, prior: Belief, evidence: Evidence) -> tuple[Array, str]:
    """By how much one of three or more measured configurations is off what the others lead to expect (ln), at every configuration
    that is thereby in doubt, (configurations,), and the sentence; 0 and '' below a factor of ODD, and where there are application
    parameters, of which the laws know nothing.

    It must be off the average law at the others' median level, and off what laws and archive believe without it. In doubt is
    then what was not measured, and the run itself, unless it was repeated or another is off alike.
    """
    none: Array = np.zeros(len(problem.configurations))
    if len(evidence.rows) < FEWEST_ODD or problem.candidates.params:
        return none, ""
    rest = evidence.value - prior.laws.at(evidence.rows).mean(axis=0)
    far = np.array([r - np.median(np.delete(rest, k)) for k, r in enumerate(rest)])
    k = int(np.abs(far).argmax())
    if abs(far[k]) < ODD:
        return none, ""
    others = np.arange(len(rest)) != k
    without = replace(evidence, rows=evidence.rows[others], value=evidence.value[others], count=evidence.count[others])
    expected = condition(prior.bases, prior.components, without, level=prior.level).moments[0][evidence.rows[k]]
    gap = float(evidence.value[k] - expected)
    if abs(gap) < ODD:
        return none, ""
    repeated = evidence.count[k] > 1 or bool((np.sign(far[k]) * far[others] > abs(far[k]) / 2).any())
    doubted = np.ones(len(none), dtype=bool)
    doubted[evidence.rows if repeated else without.rows] = False
    label = problem.candidates.configuration(int(evidence.rows[k])).label
    times = f"{np.exp(abs(gap)):,.0f} x {'slower' if gap > 0 else 'faster'}"
    said = (
        f"the run of {label} is {times} than the others lead to expect, and not alone in it: machines differ in what neither "
        "scaling laws nor the archive tell (or units do), so every interval of what was not measured is widened as much"
        if repeated
        else f"outlier: the run of {label} is {times} than the others lead to expect (another unit, another input, or an error?); "
        "one of them is wrong, so its interval and every one of what was not measured is widened by as much: run it again"
    )
    return np.where(doubted, abs(gap), 0.0), said


def _plausible(prior: Belief, evidence: Evidence) -> Callable[[], Array]:
    """Posterior weight of each law, archive or not, given what completed; computed once, when first asked for."""

    @cache
    def weight() -> Array:
        cold = [c for c in prior.components if c.label == "scaling laws"]
        scores = np.stack([c.log_prior for c in cold])
        if len(evidence.rows):
            among = prior.bases.cross(evidence.rows, evidence.rows)
            scores = scores + np.stack([f[0] for f in log_evidence(cold, among, evidence, evidence.centre)])
        result: Array = np.exp(logsumexp(scores, axis=0) - logsumexp(scores))
        return result

    return weight


def _limit(laws: Laws, weight: Array, row: int) -> str:
    """What takes most of a configuration's time by the laws, in words."""
    share = laws.shares(row, weight)
    most = int(share.argmax())
    return f"by the scaling laws that fit, {LIMITS[most]} takes {share[most]:.0%} of the time"
