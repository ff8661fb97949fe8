"""What a strategy is, and the one composition that covers most: design, model, acquisition and stopping rule.

A strategy is two pure functions of the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np

from recommender.candidates import Configuration
from recommender.errors import InsufficientEvidenceError
from recommender.models import PerformanceModel, Prediction, measured, nothing_known
from recommender.models.archive import believable
from recommender.models.completing import tried
from recommender.models.drift import since_change
from recommender.problem import Problem
from recommender.ranking import rank
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs
from recommender.search.acquisition import (
    Acquisition,
    proposal,
    row_of,
    unscored,
)
from recommender.search.designs import ConfirmBest, InitialDesign, Uniform
from recommender.search.guarantee import guarantee
from recommender.search.references import References
from recommender.search.stopping import (
    Never,
    StoppingRule,
    WorthIt,
    over_budget,
    rule_of,
)
from recommender.threads import single_threaded


class Strategy(Protocol):
    """Two pure functions of the evidence: the same runs in any order give the same answer."""

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return the configuration to measure next, or None when nothing is worth measuring."""
        ...

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return ranked candidates, with what was excluded and why."""
        ...


@dataclass(frozen=True)
class ModelBased:
    """A model that believes, a design that says what to measure first, and, for a search, what to measure next and when
    to stop."""

    name: str
    """The strategy's name."""
    why: str
    """What it does, in one sentence."""
    model: PerformanceModel
    """(problem, runs) -> prediction."""
    design: InitialDesign | None = field(default_factory=ConfirmBest)
    """What to measure, before the acquisition is asked if there is one; None: nothing ever is."""
    acquisition: Acquisition | None = None
    """What to measure once the design is exhausted; None: nothing."""
    stop: StoppingRule = field(default_factory=Never)
    """When the acquisition's choice is not worth its run."""

    @single_threaded
    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return the ranked answer; `next_run` is what `suggest` proposes, None for a strategy that measures nothing."""
        (problem, left_out), runs = believable(problem), canonical(runs)
        now, changed = self.current(problem, runs)
        prediction = self.model.predict(problem, now)
        prediction = replace(prediction, warnings=_with((*left_out, *prediction.warnings), changed))
        searches = self.acquisition is not None
        measure = self.design is not None and not searches
        answer = rank(problem, prediction, strategy=self.name, why=self.why, measure=measure, runs=now)
        if not searches:
            if isinstance(self.design, References):
                answer = replace(answer, next_run=self.design.propose(problem, runs, problem.random(now), answer))
            ended = over_budget(problem, runs, answer.next_run)
            unweighed = f"the planned runs were not weighed: {self.name} does not search"
            notes = (*((unweighed,) if problem.runs_planned is not None else ()), *((ended,) if ended else ()))
            return replace(answer, next_run=None if ended else answer.next_run, warnings=(*answer.warnings, *notes))
        found, stopped = self._search(problem, runs, prediction, problem.random(now))
        notes = (f"nothing more is worth measuring: {stopped}",) if stopped else ()
        promise = partial(guarantee, problem, now, prediction, answer.rows[0])
        return replace(answer, next_run=found, warnings=(*answer.warnings, *notes), promise=promise)

    @single_threaded
    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return what to measure next; randomness derives from (seed, number of runs) unless `rng` is given."""
        (problem, _), runs = believable(problem), canonical(runs)
        rng = rng or problem.random(self.current(problem, runs)[0])
        if self.acquisition is not None:
            return self._search(problem, runs, None, rng)[0]
        if self.design is None:
            return None
        if isinstance(self.design, References) and (start := self.design.propose(problem, runs, rng, None)):
            return None if over_budget(problem, runs, start) else start  # also where nothing can be recommended
        best = None if isinstance(self.design, Uniform) else self.recommend(problem, runs)
        wanted = self.design.propose(problem, runs, rng, best)
        return None if over_budget(problem, runs, wanted) else wanted

    @single_threaded
    def remarks(self, problem: Problem, runs: Runs) -> tuple[str, ...]:
        """What the reader must know before following `suggest`: of the archive, of a change; () where no archive is asked."""
        if not isinstance(self.design, References):
            return ()
        problem, left_out = believable(problem)
        now, changed = self.current(problem, canonical(runs))
        try:
            said = self.model.predict(problem, now).warnings
        except InsufficientEvidenceError:  # references are asked for before anything can be believed
            said = ()
        return _with((*left_out, *said), changed)

    def current(self, problem: Problem, runs: Runs) -> tuple[Runs, str]:
        """The runs of the workload as it now is, and how it changed in words: who asks for references adapts to a change.

        What was measured before is evidence of another workload: no belief, incumbent or count may rest on it. It was paid
        for all the same, so a search budget counts all runs.
        """
        if not isinstance(self.design, References):
            return runs, ""
        now, said = since_change(problem, runs)
        return canonical(now), said

    def _search(
        self, problem: Problem, runs: Runs, prediction: Prediction | None, rng: np.random.Generator
    ) -> tuple[NextRun | None, str]:
        """The design's next configuration; else the best by the acquisition; or None and why the search stops."""
        stop, (now, _) = rule_of(problem, self.stop), self.current(problem, runs)
        start = self.design.propose(problem, runs, rng, None) if self.design is not None else None
        if start is not None:
            stopped = stop.reason(problem, now, nothing_known(problem), unscored(problem), row_of(problem, start))
            stopped = stopped or over_budget(problem, runs, start)
            return (None, stopped) if stopped else (NextRun(**{"why": "a start of the search", **vars(start)}), "")
        prediction = prediction or self.model.predict(problem, now)
        believed = prediction.mixture is not None or np.isfinite(prediction.log_runtime).any()
        if self.acquisition is None or not believed:
            return None, ""
        scores = self.acquisition.scores(problem, now, prediction, self.model)
        open_ = ~tried(measured(problem, now)) & (prediction.excluded == 0) & ~np.isnan(scores.score)
        rows = np.flatnonzero(open_)
        if not len(rows):
            return None, ""
        row = int(rows[np.lexsort((rows, prediction.log_runtime[rows], -scores.score[rows]))[0]])
        stopped = stop.reason(problem, now, prediction, scores, row)
        planned = problem.runs_planned
        favour = (
            WorthIt(planned).favour(problem, prediction, scores, row) if planned is not None and not stopped else ""
        )
        why = "; ".join(part for part in (scores.sentence(row), favour) if part)
        wanted = proposal(problem, prediction, row, why)
        if problem.objective == "cost" and scores.improvement is not None and scores.incumbent is not None:
            wanted = replace(wanted, saves_usd=float(scores.improvement[row]) * scores.incumbent)
        stopped = stopped or over_budget(problem, runs, wanted)
        return (None, stopped) if stopped else (wanted, "")


def _with(warnings: tuple[str, ...], said: str) -> tuple[str, ...]:
    return (*warnings, said) if said and said not in warnings else warnings


def canonical(runs: Runs) -> Runs:
    """The same runs in an order that does not depend on how they were given."""
    frame = runs.frame
    keys = ["workload", "instance_type", "node_count", "vcpus", *runs.inputs, *runs.params, "status", "runtime_s"]
    return replace(runs, frame=frame.sort_values(keys, kind="stable", ignore_index=True))
