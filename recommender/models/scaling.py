"""Ernest's fit: which scaling terms a workload has, and their coefficients (Venkataraman et al., NSDI 2016).

Notation as in `recommender.models.ernest`; x(s, m, c, q) the terms of a run, X those of all runs, a row each.

    t v = θ0 + θ1 s/(m c) + θ2 ln q + θ3 q  [+ θ4 s]  [+ θ5 s ln q]  [+ θ6 q²]        all θ ≥ 0, residuals relative

The first four are the paper's and always there. It adds others, such as m², where cross-validation says so; so are those
in brackets chosen here, one after another:

θ4  work that does not divide.
θ5  messages as large as the input passed along a tree: partial results that are merged, a table that is broadcast. It is
    the interaction of scale and coordination that the others lack: in an all-to-all shuffle each machine sends s/m, which
    θ1 has already.
θ6  a message or connection for each pair of machines. Between the cores of one machine contention costs N² of capacity and
    so N of time (Gunther 2007, universal scalability law), which θ3 has already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.special import ndtri, stdtrit

from recommender.errors import InsufficientEvidenceError
from recommender.models import Array
from recommender.models.points import Points, proposals

TERMS = (
    "fixed time",
    "work that divides over vCPUs",
    "coordination",
    "coordination",
    "work that does not divide",
    "coordination that grows with the work",
    "coordination of all pairs of machines",
)
BASE, SERIAL, INTERACTION, QUADRATIC = 4, 4, 5, 6
"""Number of the paper's terms, and the columns of the further ones."""
WITH_SCALE = (1, SERIAL, INTERACTION)
"""Columns of the terms that the scale is in."""
MOST_ERROR = 3.0
"""|ln(predicted/observed)| of points left out is counted up to this."""
HELPS = 0.96
"""A further term is used where the squared held-out error falls below this share: 2 % of the error. It is not stricter,
because a term too many costs variance, which the spread mostly shows, and one too few a bias, which nothing shows."""
MINIMUM_POINTS = 3
MOST_LEFT_OUT, FOLDS = 60, 10
ALIKE, INVOLVED, ASKED = 1e-3, 0.1, 0.01
"""Of what the runs do not tell apart: its singular value relative to the largest at most, the part that terms with the scale
have in it at least, and the part of what is asked that lies in it at least."""

At = tuple[Array, Array, Array, Array]
"""(s, m, c, q) of runs or of candidates."""


@dataclass(frozen=True)
class Fit:
    """Fitted coefficients and what their residuals say."""

    theta: Array
    """(7,), θ4 to θ6 = 0 unless cross-validation chose them."""
    gram_inverse: Array
    """Inverse of X̃ᵀX̃ over the active terms, X̃ = features / runtime; for the leverage of a prediction."""
    active: npt.NDArray[np.intp]
    key: npt.NDArray[np.intp]
    """Distinct points, `Points.key`."""
    extra: tuple[int, ...]
    """Columns of the further terms in use."""
    held_out_log: Array
    """ln(predicted/observed) of each distinct point when it is left out."""
    spread: float
    """Root mean square of `held_out_log`, small-sample corrected."""


def by_name(seconds: Array) -> dict[str, float]:
    """Seconds of the first columns of `features`, (p,), summed by the name of their term."""
    found: dict[str, float] = {}
    for name, value in zip(TERMS, seconds, strict=False):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def features(scale: Array, machines: Array, vcpus: Array, units: Array) -> Array:
    """Columns 1, s/(m c), ln q, q (Ernest eq. 1) and s, s ln q, q²; shape (n, 7)."""
    log_q = np.log(units)
    one = np.ones_like(scale)
    return np.stack([one, scale / (machines * vcpus), log_q, units, scale, scale * log_q, units**2], axis=1)


def solve(x: Array, t: Array) -> Array:
    """Minimise Σ ((xθ − t)/t)² over θ ≥ 0, columns divided by their means as in the paper's code."""
    size = x.mean(axis=0)
    size[size == 0] = 1.0
    a, b = x / size / t[:, None], np.ones_like(t)
    if len(t) > 100:  # ‖Aθ − b‖ and ‖Rθ − Qᵀb‖ differ by a constant, and R is small
        q, a = np.linalg.qr(a)
        b = q.T @ b
    theta, _ = nnls(a, b)
    return np.asarray(theta / size)


def candidate_terms(points: Points) -> list[int]:
    """Columns of the further terms that the completed runs can tell from the others.

    s needs two scales and two parallelisms, s ln q three (with two, s/q and s say the same), q² four numbers of machines
    (with three, 1, ln q and q say the same).
    """
    done = ~points.censored
    scales, parallelisms, units, machines = (
        len(np.unique(v[done])) for v in (points.scale, points.machines * points.vcpus, points.units, points.machines)
    )
    enough = {
        SERIAL: scales > 1 and parallelisms > 1,
        INTERACTION: scales > 1 and units > 2,
        QUADRATIC: machines > 3,
    }
    return [k for k, can in enough.items() if can]


def undetermined(known: At, target: At, extra: Sequence[int] = ()) -> npt.NDArray[np.bool_]:
    """Whether completed runs that varied in scale and parallelism leave the runtime asked about undetermined, (targets,).

    That is where x has a part in the null space of X, columns divided by their norm: θ can move there and the runs fit as
    well. Null vectors without scale in them are no matter of this rule: they say that 1, ln q and q were not told apart,
    because few numbers of machines were run.
    """
    if len(np.unique(known[0])) < 2 or len(np.unique(known[1] * known[2])) < 2:
        return np.zeros(len(target[0]), dtype=bool)
    columns = [*range(BASE), *extra]
    null, size = null_space(np.unique(features(*known)[:, columns], axis=0))
    turn, involved, _ = np.linalg.svd(null[:, [i for i, k in enumerate(columns) if k in WITH_SCALE]])
    null = (turn.T @ null)[: len(involved)][involved > INVOLVED]
    return lies_in(features(*target)[:, columns] / size, null)


def null_space(x: Array) -> tuple[Array, Array]:
    """What the rows of x do not tell apart, columns divided by their norm: a direction a row; and those norms."""
    size = np.linalg.norm(x, axis=0)
    size[size == 0] = 1.0
    _, value, basis = np.linalg.svd(x / size, full_matrices=len(x) < x.shape[1])  # all directions either way
    return basis[int((value > ALIKE * value[0]).sum()) :], size


def lies_in(asked: Array, null: Array) -> npt.NDArray[np.bool_]:
    """Whether more than a part of ASKED of each row lies in the null space."""
    return np.asarray(np.linalg.norm(asked @ null.T, axis=1) > ASKED * np.linalg.norm(asked, axis=1))


def fit(points: Points, *, extra: Sequence[int] | None = None) -> Fit:
    """Fit θ; a run stopped at its time limit counts as at least that long (imputed by the fit where that says more).

    `extra` are the columns of the further terms to use; None: the one that lowers the error of points left out in turn
    most, if by more than 2 %; then the next. There must be more distinct points than terms, for s as many.

    Raises
    ------
    InsufficientEvidenceError
        With fewer than three distinct points.
    """
    keys = np.unique(points.key)
    done = np.unique(points.key[~points.censored])
    if points.distinct < MINIMUM_POINTS:
        raise InsufficientEvidenceError(
            f"ernest needs completed runs at {MINIMUM_POINTS} distinct points at least (input scale x total vCPUs); "
            f"found {points.distinct}; measure other scales or core counts, e.g. recommender profile --scales 0.1,0.2,0.4 --cores 1,2; {proposals(points)}"
        )
    x = features(points.scale, points.machines, points.vcpus, points.units)
    t = points.runtime_s * points.speed

    def held_out(columns: list[int]) -> Array:
        return _leave_out(x[:, columns], t, points.censored, points.key, done)

    columns = [*range(BASE), *(extra or ())]
    held = held_out(columns)
    left = candidate_terms(points) if extra is None else []
    while np.mean(held**2) > 1e-12:  # below, nothing is left for a further term but rounding
        left = [k for k in left if k not in columns and points.distinct > len(columns) + (k != SERIAL)]
        trials = {k: held_out([*columns, k]) for k in left}
        best = min(trials, key=lambda k: float(np.mean(trials[k] ** 2)), default=None)
        if best is None or np.mean(trials[best] ** 2) >= HELPS * np.mean(held**2):
            break
        columns, held = [*columns, best], trials[best]
    theta = np.zeros(x.shape[1])
    theta[columns], full_t = _censored_solve(x[:, columns], t, points.censored)
    active = np.flatnonzero(theta * x.mean(axis=0) > 1e-9 * full_t.mean())
    scaled = x[:, active] / full_t[:, None]
    gram = scaled.T @ scaled
    dof = max(1, len(done) - len(active))
    rms = float(np.sqrt(np.mean(held**2)))
    return Fit(
        theta=theta,
        gram_inverse=np.linalg.pinv(gram, hermitian=True) * len(t) / len(keys),
        active=active,
        key=done,
        extra=tuple(columns[BASE:]),
        held_out_log=held,
        spread=rms * float(stdtrit(dof, 0.9) / ndtri(0.9)),
    )


def _censored_solve(x: Array, t: Array, censored: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """θ and the runtimes used: censored ones raised to what the fit (first: of the others) predicts, until that settles."""
    theta, used = solve(x[~censored], t[~censored]), t
    for step in range(20 if censored.any() else 0):
        new = np.where(censored, np.maximum(t, x @ theta), t)
        if step and np.allclose(new, used, rtol=1e-6):
            break
        theta, used = solve(x, new), new
    return theta, used


def _leave_out(
    x: Array, t: Array, censored: npt.NDArray[np.bool_], key: npt.NDArray[np.intp], done: npt.NDArray[np.intp]
) -> Array:
    """ln(predicted/observed) of each completed distinct point, its repetitions left out together.

    One point at a time, or a tenth of them where there are more than MOST_LEFT_OUT.
    """
    fold = np.arange(len(done)) % (FOLDS if len(done) > MOST_LEFT_OUT else len(done))
    fold_of_row = np.full(int(key.max()) + 1, -1)
    fold_of_row[done] = fold
    position = np.zeros(int(key.max()) + 1, dtype=np.intp)
    position[done] = np.arange(len(done))
    seen = np.flatnonzero(~censored)
    at = position[key[seen]]
    count = np.bincount(at, minlength=len(done))
    observed = np.bincount(at, weights=np.log(t[seen]), minlength=len(done)) / count
    row = np.zeros(len(done), dtype=np.intp)
    row[at] = seen
    errors = np.empty(len(done))
    for f in np.unique(fold):
        out = fold_of_row[key] == f
        theta, _ = _censored_solve(x[~out], t[~out], censored[~out])
        errors[fold == f] = np.log(np.maximum(x[row[fold == f]] @ theta, 1e-9)) - observed[fold == f]
    return np.clip(errors, -MOST_ERROR, MOST_ERROR)
