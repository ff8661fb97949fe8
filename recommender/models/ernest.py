"""Ernest (Venkataraman et al., NSDI 2016): runtime as a non-negative sum of scaling terms.

Notation
--------
s   input scale of a run                m  machines (node_count)      c  vCPUs of one machine that the run may use
q   units that must coordinate: m for cluster runs; m·c when every run used one machine
v   CoreMark per vCPU of the instance family over the median of the catalogue
θ   coefficients, all ≥ 0               t  runtime in s

    t = (θ0 + θ1 s/(m c) + θ2 ln q + θ3 q [+ θ4 s] [+ θ5 s ln q] [+ θ6 q²]) / v · exp(family effect)

The fit and its terms in brackets are `recommender.models.scaling`. The paper's model has one machine type. Our choices:
types share one fit through v unless a type has runs enough for its own; a type's family effect is its shrunken mean
residual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InsufficientEvidenceError
from recommender.models import ASSUMED, MODELLED, Array, Prediction, comparable, with_measurements
from recommender.models.memory import MemoryLimit
from recommender.models.noise import repetition_noise
from recommender.models.points import Points, proposals, relative_speed, run_points, target_points
from recommender.models.scaling import MINIMUM_POINTS, MOST_ERROR, At, Fit, by_name, features, fit, undetermined
from recommender.problem import Problem
from recommender.runs import Runs

OWN_FIT_POINTS = 6
MISFIT = 0.2
OUTLIER = float(np.log(3.0))
"""|ln(predicted/observed)| of a point left out from which it is named as an outlier."""

# Spread of ln(runtime) between instance families at equal vCPUs after CoreMark scaling. Measured within one generation:
# 0.07 to 0.2 on the public Lumos set (single c5, m5, r5 machines), 0.33 to 0.5 on Scout (c4, m4, r4 clusters).
FAMILY_SPREAD, CLUSTER_FAMILY_SPREAD = 0.2, 0.4
# The profiling machine against the catalogue family its CPU belongs to, and an unrecognised CPU: assumptions.
LOCAL_SPREAD, UNKNOWN_CPU_SPREAD = 0.1, 0.35
# A family that was neither run nor has a speed figure: the spread of ln(CoreMark per vCPU) over families is 0.3.
UNRATED_SPREAD = 0.4
# A family with the speed figure of families that have the same CPU: what those differ by among themselves.
BORROWED_SPREAD = 0.07
# A combination of application parameters without runs enough: a factor of e either way, as for an unknown workload.
UNSEEN_PARAMETERS_SPREAD = 1.0
# Further spread at one doubling beyond the measured range: of parallelism, of scale, and of a parallelism never varied
# (speed-up anywhere between none and perfect: ln 2 / sqrt 12). With 0.15, 80 % intervals of fits to the smaller half of
# C3O hold 80 % (halves by size) and 89 % (by nodes) of the larger half's points (docs/benchmarks.md).
PARALLEL_SPREAD, SCALE_SPREAD, UNSEEN_PARALLEL_SPREAD = 0.15, 0.15, float(np.log(2) / np.sqrt(12))
# The same of a scale never varied: a runtime anywhere between independent of it and proportional to it.
UNSEEN_SCALE_SPREAD = UNSEEN_PARALLEL_SPREAD
# Terms that the runs never told apart: as for an unknown workload, a factor of e either way, for what is asked near them.
UNTOLD_SPREAD = 1.0


def distinct_points(problem: Problem, runs: Runs) -> tuple[int, str]:
    """Number of distinct (scale, total vCPUs) with a completed run, and why it is 0 where the runs cannot be used."""
    try:
        return run_points(problem, runs, []).points.distinct, ""
    except InsufficientEvidenceError as error:
        return 0, str(error)


@dataclass(frozen=True)
class Ernest:
    """Predicts every configuration from one non-negative fit, or a type's own where it has runs enough.

    Application parameters are part of a configuration: each combination of them that has runs enough is fitted alone;
    one that has not is assumed to be like all of them together, with the spread between combinations.
    """

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Runtime of every configuration at the input asked about.

        Raises
        ------
        InsufficientEvidenceError
            With fewer than three distinct completed points.
        """
        memory = MemoryLimit.of(problem, runs)
        warnings: list[str] = []
        parts = [
            (here, _believe(problem, problem.configurations[here], mine, said), said, alike)
            for here, mine, said, alike in _combinations(problem, runs)
        ]
        n = len(problem.configurations)
        fields = ("log_runtime", "spread", "evidence", "family_spread")
        whole = {name: np.empty(n, dtype=getattr(parts[0][1], name).dtype) for name in fields}
        part_of, position = np.empty((2, n), dtype=np.intp)
        for k, (here, belief, said, alike) in enumerate(parts):
            for name, values in whole.items():
                values[here] = getattr(belief, name)
            if not alike:
                whole["spread"][here] = np.hypot(belief.spread, UNSEEN_PARAMETERS_SPREAD)
                whole["evidence"][here] = ASSUMED
            part_of[here], position[here] = k, np.arange(int(here.sum()))
            warnings.extend(said)

        def binding(i: int) -> str:
            return str(parts[part_of[i]][1].binding(int(position[i])) + memory.remark(i))

        prediction = Prediction(
            log_runtime=whole["log_runtime"],
            spread=whole["spread"],
            evidence=whole["evidence"],
            family_spread=whole["family_spread"],
            completing=np.ones(n),
            excluded=memory.excluded,
            reasons=memory.reasons,
            warnings=tuple(dict.fromkeys(warnings)),
            binding=binding,
            terms=lambda i: parts[part_of[i]][1].terms(int(position[i])),
        )
        result = with_measurements(prediction, problem, runs)
        return replace(result, family_spread=np.minimum(result.family_spread, result.spread))


def _combinations(problem: Problem, runs: Runs) -> list[tuple[npt.NDArray[np.bool_], Runs, list[str], bool]]:
    """(configurations, the runs to fit for them, warnings, whether these have the same parameters) by parameters."""
    params = [c for c in problem.candidates.params if c in runs.frame]
    everything = np.ones(len(problem.configurations), dtype=bool)
    if not params:
        return [(everything, runs, [], True)]
    both = pd.concat([problem.configurations[params], runs.frame[params]], ignore_index=True).apply(comparable)
    group = both.groupby(params, dropna=False, sort=True).ngroup().to_numpy()
    of_candidate, of_run = group[: len(everything)], group[len(everything) :]
    found: list[tuple[npt.NDArray[np.bool_], Runs, list[str], bool]] = []
    rest = np.zeros(len(everything), dtype=bool)
    for k in np.unique(of_candidate):
        here = of_candidate == k
        mine = Runs(runs.frame[of_run == k].reset_index(drop=True))
        if distinct_points(problem, mine)[0] >= MINIMUM_POINTS:
            found.append((here, mine, [], True))
        else:
            rest |= here
    if rest.any():
        names = ", ".join(c.removeprefix("param.") for c in params)
        said = f"{int(rest.sum())} configurations have parameters ({names}) with too few runs of their own: they are assumed to be like all runs together"
        found.append((rest, runs, [said], len(np.unique(group)) == 1))
    return found


@dataclass(frozen=True)
class _Belief:
    """What the fit says of some configurations, before memory and measurements; arrays of shape (those,)."""

    log_runtime: Array
    spread: Array
    evidence: npt.NDArray[np.int8]
    family_spread: Array
    binding: Callable[[int], str]
    terms: Callable[[int], dict[str, float]]


def _believe(problem: Problem, configurations: pd.DataFrame, runs: Runs, warnings: list[str]) -> _Belief:
    """Fit the runs and predict `configurations`."""
    evidence = run_points(problem, runs, warnings)
    points, pooled, noise = evidence.points, fit(evidence.points), repetition_noise(runs)[0]
    cluster = bool((points.machines > 1).any())
    family = configurations["family"]
    families = family.where(family != "", configurations["instance_type"]).to_numpy(object)
    relative = relative_speed(problem, family)
    target = target_points(problem, configurations, evidence)
    shape = features(*target)
    effect, effect_sd, seen = _family_effects(points, pooled, families, cluster, evidence.unknown_cpu)
    work = shape @ pooled.theta
    seconds = work / relative * np.exp(effect)
    spread = _fit_spread(pooled, shape, work, noise)
    coefficients = np.broadcast_to(pooled.theta, shape.shape).copy()
    shift, wide = untold(points, target, _divides(shape, pooled.theta), pooled.extra)
    held_out = dict(zip(pooled.key, pooled.held_out_log, strict=True))
    types = np.unique(points.instance_type)
    for name in types if len(types) > 1 else ():
        mine = points.take(points.instance_type == name)
        here = (configurations["instance_type"] == name).to_numpy()
        if not here.any() or mine.distinct < OWN_FIT_POINTS:
            continue
        own = fit(mine)
        work = shape[here] @ own.theta
        seconds[here], spread[here] = work / relative[here], _fit_spread(own, shape[here], work, noise)
        coefficients[here], effect_sd[here] = own.theta, 0.0
        there = (target[0][here], target[1][here], target[2][here], target[3][here])
        shift[here], wide[here] = untold(mine, there, _divides(shape[here], own.theta), own.extra)
        held_out |= dict(zip(own.key, own.held_out_log, strict=True))
    borrowed = problem.catalogue.rated["borrowed"].reindex(family).to_numpy(object)
    unrated = pd.isna(borrowed)
    lent = pd.Series(borrowed).fillna(False).to_numpy(bool)
    effect_sd = np.where(
        ~seen, np.hypot(effect_sd, np.select([unrated, lent], [UNRATED_SPREAD, BORROWED_SPREAD])), effect_sd
    )
    beyond = np.hypot(outside(points.machines * points.vcpus, points.scale, target), evidence.other_inputs)
    warnings.extend(extrapolations(points, target))
    alone = (target[1] > 1) & (not cluster)  # nothing says that the program can use more than one machine
    beyond = np.where(alone, np.hypot(beyond, UNSEEN_PARALLEL_SPREAD * np.log2(target[1])), beyond)
    beyond, seconds = np.hypot(beyond, wide), seconds * np.exp(shift)
    warnings.extend(never_told_apart(points, wide))
    seen &= ~alone & (evidence.other_inputs == 0) & (wide == 0) & ~never_scaled(points, target)
    error = float(np.mean(np.abs(np.expm1(list(held_out.values())))))
    if error > MISFIT:
        warnings.append(
            f"misfit: held-out runs are predicted with {error:.0%} mean error; Ernest's scaling terms do not "
            "describe this workload well, so measure the configuration you intend to use"
        )

    warnings.extend(outliers(np.array(list(held_out.values()))))

    def terms(i: int) -> dict[str, float]:
        share = shape[i] * coefficients[i]
        return by_name(share * seconds[i] / max(float(share.sum()), 1e-300))

    def binding(i: int) -> str:
        named = terms(i)
        largest = max(named, key=lambda name: named[name])
        rated = "; no speed figure" if unrated[i] else "; speed figure of families with the same CPU" if lent[i] else ""
        said = "" if seen[i] else rated
        return f"{largest} takes {named[largest] / max(seconds[i], 1e-300):.0%} of the time{said}"

    return _Belief(
        log_runtime=np.log(np.maximum(seconds, 1e-3)),
        spread=np.sqrt(spread**2 + effect_sd**2 + beyond**2),
        evidence=np.where(seen, MODELLED, ASSUMED).astype(np.int8),
        family_spread=effect_sd,
        binding=binding,
        terms=terms,
    )


def _divides(shape: Array, theta: Array) -> Array:
    """Share of the fit's time that is work that divides over vCPUs, (targets,)."""
    return np.asarray(shape[:, 1] * theta[1] / np.maximum(shape @ theta, 1e-300))


def _fit_spread(model: Fit, shape: Array, seconds: Array, noise: float) -> Array:
    """Held-out spread grown by the leverage of each prediction: σ² (1 + x̃ᵀ(X̃ᵀX̃)⁻¹x̃), x̃ = x / prediction."""
    x = shape[:, model.active] / np.maximum(seconds, 1e-9)[:, None]
    leverage = np.einsum("ij,jk,ik->i", x, model.gram_inverse, x)
    return np.asarray(max(model.spread, noise) * np.sqrt(1.0 + np.maximum(leverage, 0.0)), dtype=np.float64)


def _family_effects(
    points: Points, pooled: Fit, families: npt.NDArray[np.object_], cluster: bool, unknown: bool
) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Shrunken mean ln residual of each candidate's family, its standard deviation, and whether the family was run.

    With prior effect ~ N(0, τ²) and k points of residual variance σ²: mean w·r̄, variance τ²(1 − w), w = τ²/(τ² + σ²/k).
    """
    prior = CLUSTER_FAMILY_SPREAD if cluster else FAMILY_SPREAD
    x = features(points.scale, points.machines, points.vcpus, points.units)
    residual = np.log(points.runtime_s * points.speed) - np.log(np.maximum(x @ pooled.theta, 1e-9))
    effect, sd = np.zeros(len(families)), np.full(len(families), UNKNOWN_CPU_SPREAD if unknown else prior)
    seen = np.zeros(len(families), dtype=bool)
    done = ~points.censored | (residual > 0)  # a stopped run says what it took at least
    alone = len(set(points.family)) == 1
    local = points.instance_type == "local"
    for family in sorted(set(points.family[done])):
        mine = done & (points.family == family)
        k = len(np.unique(points.key[mine]))
        weight = prior**2 / (prior**2 + max(pooled.spread, 0.02) ** 2 / k)
        here = families == family
        effect[here] = 0.0 if alone else weight * float(residual[mine].mean())
        left = UNKNOWN_CPU_SPREAD if unknown else LOCAL_SPREAD if local[mine].all() else 0.0
        sd[here] = np.hypot(0.0 if alone else prior * np.sqrt(1 - weight), left)
        seen |= here & (not unknown)
    return effect, sd, seen


def outliers(error: Array) -> list[str]:
    """Say how many points left out, of ln(predicted/observed) `error`, are far from what the others say of them."""
    far = int((np.abs(error) > OUTLIER).sum())
    if not far:
        return []
    or_more = " or more" if np.abs(error).max() >= MOST_ERROR else ""
    said = (
        f"outlier: {far} of {len(error)} points are {np.exp(OUTLIER):.0f} x or more from what the others say of "
        f"them (the farthest {np.exp(np.abs(error).max()):.0f} x{or_more}); the spread is wider for all, so check them"
    )
    return [said]


def extrapolations(points: Points, target: tuple[Array, Array, Array, Array]) -> list[str]:
    """Say how far the question lies beyond what was measured."""
    scale, machines, vcpus, _ = target
    most, used = points.scale.max(), (points.machines * points.vcpus).max()
    said = []
    if scale.size and scale[0] > 1.01 * most:
        said.append(
            f"the input asked about is {scale[0] / most:.3g} x the largest measured: an extrapolation, with a wider spread"
        )
    if np.nanmax(machines * vcpus) > used:
        said.append(
            f"runs used at most {used:g} vCPUs in all: what is said of more is extrapolated, with a wider spread"
        )
    return said


def outside(known: Array, scales: Array, target: tuple[Array, Array, Array, Array]) -> Array:
    """Further spread of predictions beyond the measured range of vCPUs in all and of scales: variance grows by a fixed amount per doubling, as a
    random walk would; for a parallelism or a scale never varied the spread itself does."""

    def doublings(at: Array, known: Array) -> Array:
        return np.asarray(np.maximum(0.0, np.maximum(np.log2(at / known.max()), np.log2(known.min() / at))))

    scale, machines, vcpus, _ = target
    wider = doublings(machines * vcpus, known)
    parallel = PARALLEL_SPREAD * np.sqrt(wider) if len(np.unique(known)) > 1 else UNSEEN_PARALLEL_SPREAD * wider
    larger = doublings(np.maximum(scale, 1e-12), np.maximum(scales, 1e-12))
    of_scale = SCALE_SPREAD * np.sqrt(larger) if len(np.unique(scales)) > 1 else UNSEEN_SCALE_SPREAD * larger
    return np.asarray(np.hypot(parallel, of_scale), dtype=np.float64)


def never_scaled(points: Points, target: At) -> npt.NDArray[np.bool_]:
    """Whether a scale is asked about that no run had, and all runs had the same."""
    return np.asarray((len(np.unique(points.scale)) == 1) & ~np.isclose(target[0], points.scale[0], rtol=1e-9))


def untold(points: Points, target: At, share: Array, extra: Sequence[int] = ()) -> tuple[Array, Array]:
    """What is added to ln t, and its further spread, where the runs do not tell apart the terms that the answer depends on;
    else 0 and 0.

    The fit puts all of the time in one of those terms. If work that divides, w = s/(m c), is among them, then beyond the runs
    t may be anything from independent of w to proportional to it: even over L = ln(w / nearest w of a run), so half of L
    with a deviation of |L|/√12, joined with UNTOLD_SPREAD. `share` of the fit's time divides, (targets,): its own position p
    between the two is ln(1 − share + share e^−L) / −L.
    """
    work = points.scale / (points.machines * points.vcpus)
    with np.errstate(divide="ignore", invalid="ignore"):
        asked = np.log(target[0] / (target[1] * target[2]))
        low, high = np.log(work[work > 0].min()), np.log(work.max())
        far = np.clip(np.nan_to_num(asked - np.clip(asked, low, high)), -50.0, 50.0)
        position = np.where(far == 0, 0.5, np.log(1.0 - share + share * np.exp(-far)) / -far)
    here = undetermined(points.completed_at, target, extra)
    shift = np.where(here, (0.5 - np.clip(position, 0.0, 1.0)) * far, 0.0)
    spread = np.where(here, np.hypot(UNTOLD_SPREAD, far / np.sqrt(12)), 0.0)
    return shift, spread


def never_told_apart(points: Points, wide: Array) -> list[str]:
    """Say what `untold` found, of which this is the spread."""
    if not wide.any():
        return []
    said = (
        "undetermined: scale and vCPUs varied together in the runs, which so never told work that divides over the vCPUs from "
        f"time that does not; what is said of {int((wide > 0).sum())} configurations is a guess, with a wide spread; "
    )
    return [said + proposals(points)]
