"""Quasar: scale-up, scale-out and heterogeneity classified apart, and combined (Delimitrou and Kozyrakis 2014).

Notation: a configuration i is a type line h (family and memory per vCPU), a size s (vCPUs) and a node count n.

    ln T[u, i] = level_u + e_h[u] + e_s[u] + e_n[u] + c_i + noise,   c_i common to all workloads

Each of the three matrices e (workloads x levels) is factorised on its own: e_h[u] ~ N(m_h, K_h), and so on. A new
workload is folded in under the sum of the three covariances, so a run on any line, size and node count teaches all
three. Quasar's fourth classification, interference, needs machines shared by several tenants and is not made.

Its greedy allocation takes the best line first, then goes up in size, and only then out in nodes, until the deadline holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.models import Array, Prediction
from recommender.models.archive import Archived
from recommender.models.completing import deadline_probability
from recommender.models.factorisation import Collaborative
from recommender.models.fold_in import FEWEST_WORKLOADS, Average, Fit, Gaussian, gaussian, prior
from recommender.pricing import price_option
from recommender.problem import Problem
from recommender.runs import Runs

RANKS = (1, 2, 4)
"""Ranks that are tried, of all three matrices alike."""
RIDGE = 1e-3
"""Pull of a workload's effects towards 0: effects that its runs cannot tell apart are shared out."""
SWEEPS = 30

Axis = npt.NDArray[np.intp]


def axes(problem: Problem, columns: npt.NDArray[np.intp]) -> tuple[Axis, Axis, Axis]:
    """Type line, size and node count of each column, as codes 0, 1 ...; each (columns,)."""
    table = problem.configurations.iloc[columns]
    vcpus, memory = (table[c].to_numpy(float) for c in ("vcpus", "memory_gib"))
    name = table["instance_type"].to_numpy(object)
    sized = np.isfinite(vcpus)
    # c5.large is line c5 with 2 GiB per vCPU; a type of unknown size is a line of its own.
    line = [
        f"{n.split('.')[0]} {np.round(m / v, 1)}" if known else n
        for n, v, m, known in zip(name, vcpus, memory, sized, strict=True)
    ]
    values = (pd.Series(line), pd.Series(np.where(sized, vcpus, 0.0)), table["node_count"].reset_index(drop=True))
    found = [pd.factorize(v, sort=True)[0].astype(np.intp) for v in values]
    return found[0], found[1], found[2]


def effects(y: Array, codes: tuple[Axis, ...]) -> tuple[list[Array], Array]:
    """Each workload's effect of each level of each axis, NaN where it never ran it, and the residuals.

    Ridge least squares of y[u] (already less its level and the columns' means), axis by axis until nothing moves.
    """
    known = np.isfinite(y)
    z = np.where(known, y, 0.0)
    one_hot = [np.eye(code.max() + 1)[code] for code in codes]
    count = [known.astype(float) @ h for h in one_hot]
    e = [np.zeros_like(c) for c in count]
    for _ in range(SWEEPS):
        for axis, h in enumerate(one_hot):
            rest = z - sum(e[other] @ one_hot[other].T for other in range(len(codes)) if other != axis)
            e[axis] = (np.where(known, rest, 0.0) @ h) / (count[axis] + RIDGE)
    fitted = sum(part @ h.T for part, h in zip(e, one_hot, strict=True))
    return [np.where(c > 0, part, np.nan) for part, c in zip(e, count, strict=True)], np.where(
        known, y - fitted, np.nan
    )


@dataclass(frozen=True)
class Classified:
    """Three factorisations of one rank."""

    rank: int

    def __call__(self, problem: Problem, archive: Archived) -> Gaussian:
        """Fit; with fewer than three workloads it is the column mean."""
        if archive.workloads < FEWEST_WORKLOADS:
            return Average()(problem, archive)
        n = len(archive.columns)
        codes = axes(problem, archive.columns)
        rows = np.isfinite(archive.filled).sum(axis=1) > 1
        ratings = (archive.filled - archive.level[:, None] - archive.column)[rows]
        parts, left = effects(ratings, codes)
        mean, covariance = archive.column.copy(), np.zeros((n, n))
        for e, code in zip(parts, codes, strict=True):
            if e.shape[1] > 1:
                m, k, noise = prior(e, min(self.rank, e.shape[1] - 1), e.shape[1])
                k = k + np.diag(noise)  # what the factors leave of an effect is still the effect of its level
                mean += np.nan_to_num(m)[code]
                covariance += k[np.ix_(code, code)]
        cells = int(np.isfinite(left).sum())
        free = max(cells - sum(int(np.isfinite(e).sum()) for e in parts), cells / 4, 1)
        noise2 = max(float(np.nansum(left**2)) / free, 1e-6)
        return gaussian(archive, mean, covariance, np.full(n, noise2))


@dataclass(frozen=True)
class Allocation:
    """What the greedy allocation arrives at."""

    row: int
    """The configuration."""
    meets: bool
    """Whether the deadline holds there with the confidence asked for."""
    steps: tuple[str, ...]
    """The way there, in words."""


def allocate(problem: Problem, prediction: Prediction) -> Allocation | None:
    """Quasar's greedy allocation: the line of least mean runtime, its smallest size and fewest nodes; up, then out.

    It holds where the ranking holds it to: P(completing within the deadline) is what is asked for under some purchase option.

    None without a deadline (there is no target), or where no runtime is believed.
    """
    if problem.deadline_s is None:
        return None
    probability = _in_time(problem, prediction)
    known = np.isfinite(prediction.log_runtime) & (prediction.excluded == 0) & np.isfinite(probability)
    if not known.any():
        return None
    rows = np.flatnonzero(known)
    line, size, nodes = (code[rows] for code in axes(problem, np.arange(len(known))))
    mean, holds = prediction.log_runtime[rows], probability[rows] >= problem.confidence
    # Lines are compared at like sizes and node counts: by their mean deviation from the others there.
    at = pd.Series(mean).groupby([size, nodes]).transform("mean").to_numpy()
    best = np.unique(line)[int(pd.Series(mean - at).groupby(line).mean().to_numpy().argmin())]
    here = np.flatnonzero(line == best)
    way = here[np.lexsort((nodes[here], size[here]))]
    up = way[nodes[way] == nodes[way].min()]
    out = way[(size[way] == size[up].max()) & (nodes[way] > nodes[way].min())]
    path = [*up, *out[np.argsort(nodes[out], kind="stable")]]
    end = next((p for p, i in enumerate(path) if holds[i]), len(path) - 1)
    steps = tuple(problem.candidates.configuration(int(rows[i])).label for i in path[: end + 1])
    return Allocation(int(rows[path[end]]), bool(holds[path[end]]), steps)


def _in_time(problem: Problem, prediction: Prediction) -> Array:
    """P(a run completes within the deadline) under the best purchase option, (configurations,); NaN where none is sold."""
    offers = problem.candidates.offers
    best = np.full(len(prediction.log_runtime), np.nan)
    for option in problem.options:
        prices = price_option(option, offers, problem.catalogue.spot)
        sold = problem.rankable(prices)
        np.fmax.at(best, offers.configuration[sold], deadline_probability(problem, prediction, prices)[sold])
    return best


@dataclass(frozen=True)
class Quasar(Collaborative):
    """The three classifications; with a deadline the answer also says what the greedy allocation takes.

    The ranking stays that of the objective: the greedy way ends at the first configuration that meets the deadline, which
    need not be the cheapest that does.
    """

    label: str = "the three classifications"
    fits: tuple[tuple[str, Fit], ...] = tuple((f"three factorisations of rank {r}", Classified(r)) for r in RANKS)

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """As `Collaborative.predict`."""
        prediction = super().predict(problem, runs)
        found = allocate(problem, prediction)
        if found is None:
            return prediction
        way = " -> ".join((*found.steps[:1], "...", *found.steps[-2:]) if len(found.steps) > 4 else found.steps)
        end = "which meets the deadline" if found.meets else "and the deadline is not met"
        said = f"greedy allocation (best type line first, up before out): {way}, {end}"
        return replace(prediction, warnings=(*prediction.warnings, said))
