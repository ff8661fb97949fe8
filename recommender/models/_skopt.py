"""The one door to scikit-optimize: Gaussian processes and expected improvement. Replace this file to replace it.

Notation
--------
x  inputs in [0, 1], (n, d)      y  centred targets, (n,)      a  noise variance of each target, (n,)
k  = level² + s² M(r), M(r) = (1 + √5 r + 5r²/3) exp(−√5 r), r² = Σ_j ((x_j − x'_j)/ℓ_j)²     (Matérn 5/2, ARD)
θ  = (ln s², ln ℓ_1 ... ln ℓ_d); columns of one group share ℓ

Hyper-parameters maximise ln p(y | θ) + ln p(θ) (MAP; with 3 to 15 targets maximum likelihood alone runs to its bounds),
or are sampled from that posterior by slice sampling. p(θ) is normal in ln s and ln ℓ; its medians and spreads are below,
one setting for every problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recommender.models import Array

if TYPE_CHECKING:
    from collections.abc import Callable

LEVEL = 1.0
"""Standard deviation of the mean of the process about the mean of the targets: ln(runtime) is not known to a factor e."""
AMPLITUDE, AMPLITUDE_SPREAD = 0.5, 0.7
"""Median of s (ln runtime between configurations) and standard deviation of ln s."""
LENGTH, LENGTH_SPREAD = 1.0, 1.0
"""Median of ℓ (1 = the whole range of a feature) and standard deviation of ln ℓ."""
STARTS = (0.0, -1.0)
"""Starts of the optimiser, in standard deviations of ln ℓ from its median."""
BOUND = 5.0
"""θ is sought within this many standard deviations of its median, where the prior alone forbids it to stay."""


@dataclass(frozen=True)
class Posterior:
    """Gaussian processes conditioned on data, one for each draw of the hyper-parameters (one when they are MAP)."""

    members: tuple[Any, ...]

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless function, each (n,); several members moment-matched."""
        parts = [m.predict(x, return_std=True) for m in self.members]
        means, spreads = (np.stack([part[i] for part in parts]) for i in (0, 1))
        return means.mean(axis=0), np.sqrt((spreads**2).mean(axis=0) + means.var(axis=0))

    def draws(self, x: Array, count: int, rng: np.random.Generator) -> Array:
        """Joint draws of the noiseless function, (count, n): of a Student t with as many degrees of freedom as targets.

        A member's amplitude is an estimate from few targets. Integrating the variance of a process out gives a
        multivariate t (Rasmussen and Williams 2006, ch. 9.9; O'Hagan 1978); the same factor widens a whole draw.
        """
        share = np.bincount(rng.integers(len(self.members), size=count), minlength=len(self.members))
        found = []
        for member, size in zip(self.members, share, strict=True):
            mean, covariance = member.predict(x, return_cov=True)
            value, vector = np.linalg.eigh(covariance)
            root = vector * np.sqrt(np.maximum(value, 0.0))
            dof = len(member.X_train_)
            factor = np.sqrt(dof / rng.chisquare(dof, size=(int(size), 1)))
            found.append(mean + factor * (rng.standard_normal((int(size), len(x))) @ root.T))
        return np.concatenate(found)


def fit(
    x: Array, y: Array, noise_variance: Array, group: npt.NDArray[np.intp], *, slices: int, rng: np.random.Generator
) -> Posterior:
    """Condition a process on data.

    `slices` 0: MAP hyper-parameters; else that many draws of them by slice sampling, started at the MAP.
    """
    from skopt.learning import GaussianProcessRegressor  # type: ignore[import-untyped]
    from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern  # type: ignore[import-untyped]

    # φ = (ln s², ln ℓ of each group) -> θ, linear.
    expand = np.zeros((1 + x.shape[1], 2 + int(group.max())))
    expand[0, 0] = 1.0
    expand[1 + np.arange(x.shape[1]), 1 + group] = 1.0
    centre = np.array([2.0 * np.log(AMPLITUDE)] + [np.log(LENGTH)] * (expand.shape[1] - 1))
    width = np.array([2.0 * AMPLITUDE_SPREAD] + [LENGTH_SPREAD] * (expand.shape[1] - 1))

    def regressor(phi: Array, optimizer: Callable[..., tuple[Array, float]] | None) -> Any:
        theta = expand @ phi
        kernel = ConstantKernel(LEVEL**2, "fixed") + ConstantKernel(np.exp(theta[0]), (1e-9, 1e9)) * Matern(
            np.exp(theta[1:]), (1e-9, 1e9), nu=2.5
        )
        return GaussianProcessRegressor(kernel, alpha=noise_variance, optimizer=optimizer).fit(x, y)

    def maximise(objective: Callable[..., tuple[float, Array]], _: Array, bounds: Array) -> tuple[Array, float]:
        from scipy.optimize import minimize

        def loss(phi: Array) -> tuple[float, Array]:
            value, gradient = objective(expand @ phi)
            z = (phi - centre) / width
            return float(value) + 0.5 * float(z @ z), expand.T @ gradient + z / width

        box = list(zip(centre - BOUND * width, centre + BOUND * width, strict=True))
        begin = [centre + np.concatenate([[0.0], step * width[1:]]) for step in STARTS]
        found = [minimize(loss, b, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 50}) for b in begin]
        best = min(found, key=lambda f: float(f.fun))
        return expand @ best.x, float(best.fun)

    best = regressor(centre, maximise)
    if not slices:
        return Posterior((best,))
    start = np.array(
        [best.kernel_.theta[0], *(best.kernel_.theta[1:][group == g][0] for g in range(expand.shape[1] - 1))]
    )

    def log_posterior(phi: Array) -> float:
        z = (phi - centre) / width
        return float(best.log_marginal_likelihood(expand @ phi)) - 0.5 * float(z @ z)

    return Posterior(tuple(regressor(phi, None) for phi in slice_sample(log_posterior, start, width, slices, rng)))


def slice_sample(
    log_density: Callable[[Array], float], start: Array, width: Array, count: int, rng: np.random.Generator
) -> list[Array]:
    """`count` draws of a density, one sweep over the coordinates between any two (Neal 2003, shrinkage, no stepping out).

    The slice's interval is `width` wide, placed at random about the point: exact for any width, since the interval is
    drawn without regard to where in it the point lies.
    """
    point, drawn = np.array(start, dtype=float), []
    level = log_density(point)
    for _ in range(count):
        for i in range(len(point)):
            height = level + np.log(1.0 - rng.random())
            low = point[i] - 2.0 * width[i] * rng.random()
            high = low + 2.0 * width[i]
            here = point[i]
            while True:
                trial = point.copy()
                trial[i] = low + (high - low) * rng.random()
                reached = log_density(trial)
                if reached >= height or high - low < 1e-9:
                    break
                low, high = (trial[i], high) if trial[i] < here else (low, trial[i])
            point, level = trial, reached
        drawn.append(point)
    return drawn


@dataclass(frozen=True)
class _Believed:
    """A normal belief in the shape scikit-optimize's acquisition functions ask for."""

    mean: Array
    spread: Array

    def predict(self, x: Array, return_std: bool = True) -> tuple[Array, Array]:
        return self.mean, self.spread


def expected_improvement(mean: Array, spread: Array, best: float) -> Array:
    """EI = (m − μ) Φ(z) + σ φ(z), z = (m − μ)/σ, of N(μ, σ²) below m (Jones et al. 1998, eq. 15); 0 where σ is 0."""
    from skopt.acquisition import gaussian_ei  # type: ignore[import-untyped]

    result: Array = gaussian_ei(np.zeros((len(mean), 1)), _Believed(mean, spread), y_opt=best, xi=0.0)
    return np.maximum(result, 0.0)
