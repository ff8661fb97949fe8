"""Arrow's own search rules (Hsu et al., ICDCS 2018): measure what is predicted best, while it may be better.

Notation: v_i, μ_i, m and p_i as in `acquisition`; q the threshold on the predicted value over the incumbent's.

    score_i = exp(m − μ_i) p_i           stop when exp(μ_i − m) > q, i the next run

The paper (recalled) compares the prediction alone, q between 1.05 and 1.3; p, for constraints and failures, is our addition,
and where it is 1 the order is the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recommender.models import PerformanceModel, Prediction, measured
from recommender.models.completing import tried
from recommender.problem import Problem
from recommender.runs import Runs
from recommender.search.acquisition import Scores, incumbent, values


@dataclass(frozen=True)
class PredictedBest:
    """The best predicted value, weighted by the chance that it holds; the spread is not looked at."""

    def scores(self, problem: Problem, runs: Runs, prediction: Prediction, model: PerformanceModel) -> Scores:
        """Return exp(m − μ) p; `improvement` is 1 − exp(μ − m), 0 where none is predicted."""
        believed, best = values(problem, prediction), incumbent(problem, runs)
        if best is None:
            score = np.where(np.isfinite(believed.mean), believed.feasible, np.nan)
            return Scores(score, None, None, "most likely to meet the constraints, which nothing measured does")
        ratio = np.exp(believed.mean - best[0])
        gain = np.maximum(1.0 - ratio, 0.0)
        return Scores(believed.feasible / ratio, gain, float(np.exp(best[0])), "best predicted: its improvement")


@dataclass(frozen=True)
class PredictedWorse:
    """Arrow's rule: the next run is predicted to be worse than the incumbent by more than a threshold."""

    threshold: float = 1.1
    """Predicted value over the incumbent's; 1.1 is the paper's choice as recalled."""
    at_least: int = 4
    """Configurations tried before the rule may fire: the starts, and one that the model chose."""

    def reason(self, problem: Problem, runs: Runs, prediction: Prediction, scores: Scores, row: int) -> str:
        """Stop when exp(μ − m) is above `threshold`."""
        best = incumbent(problem, runs)
        if best is None or int(tried(measured(problem, runs)).sum()) < self.at_least:
            return ""
        ratio = float(np.exp(values(problem, prediction).mean[row] - best[0]))
        return (
            f"the best next run is predicted at {ratio:.2f} times the best so far, above {self.threshold:g}"
            if ratio > self.threshold
            else ""
        )
