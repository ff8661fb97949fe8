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
from recommender.models.noted import archive_units, own_units
from recommender.problem import Problem
from recommender.ranking import rank
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs, ranks
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


@dataclass(frozen=True)
class Evidence:
    """What a strategy rests on, looked through where the strategy enters and nowhere else."""

    problem: Problem
    """Its archive is without what is not believable."""
    runs: Runs
    """All of the workload's: they were paid for, so a search budget counts them."""
    now: Runs
    """Those of the workload as it now is: what was measured before a change is evidence of another workload, and no belief,
    incumbent or count may rest on it."""
    said: tuple[str, ...]
    """What was left out or says nothing, and which unit is asked about, in words."""


def evidence(problem: Problem, runs: Runs, *, adapts: bool) -> Evidence:
    """Look archive and runs through; `adapts`: leave out what was run before the workload changed."""
    runs = canonical(runs)
    problem, said = believable(problem, runs)
    now, changed = since_change(problem, runs) if adapts else (runs, ())
    now = now if now is runs else canonical(now)
    alone = (
        f"the archive holds runs of {problem.workload} alone, the workload asked about: an archive is runs of other workloads, "
        "and nothing is learnt from these; to use them, add them to the runs table"
    )
    said = (*((alone,) if problem.only_own else ()), *said, *archive_units(problem), *changed, *own_units(problem, now))
    return Evidence(problem, runs, now, said)


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
    adapts: bool = False
    """Whether runs from before a change of the workload are left out; who asks for references always leaves them out."""

    @single_threaded
    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return the ranked answer; `next_run` is what `suggest` proposes, None for a strategy that measures nothing."""
        return self.answer(self.evidence(problem, runs))

    def answer(self, known: Evidence) -> Recommendation:
        """`recommend` from evidence that was looked through."""
        problem, runs, now = known.problem, known.runs, known.now
        prediction = self.model.predict(problem, now)
        prediction = replace(prediction, warnings=(*known.said, *prediction.warnings))
        searches = self.acquisition is not None
        measure = self.design is not None and not searches
        answer = rank(problem, prediction, strategy=self.name, why=self.why, measure=measure, runs=now)
        if not searches:
            if isinstance(self.design, References):
                wanted = self.design.propose(problem, now, problem.random(now), answer, earlier=runs)
                answer = replace(answer, next_run=wanted)
            ended = over_budget(problem, runs, answer.next_run)
            unweighed = f"the planned runs were not weighed: {self.name} does not search"
            notes = (*((unweighed,) if problem.runs_planned is not None else ()), *((ended,) if ended else ()))
            return replace(answer, next_run=None if ended else answer.next_run, warnings=(*answer.warnings, *notes))
        found, stopped = self._search(known, prediction, problem.random(now))
        found = replace(found, saves_usd=answer.saves_usd(row_of(problem, found))) if found else None
        notes = (f"nothing more is worth measuring: {stopped}",) if stopped else ()
        promise = partial(guarantee, problem, now, prediction, answer.rows[0])
        return replace(answer, next_run=found, warnings=(*answer.warnings, *notes), promise=promise)

    @single_threaded
    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return what to measure next; randomness derives from (seed, number of runs) unless `rng` is given."""
        return self.ask(self.evidence(problem, runs), rng)

    def ask(self, known: Evidence, rng: np.random.Generator | None = None) -> Configuration | None:
        """`suggest` from evidence that was looked through."""
        problem, runs = known.problem, known.runs
        rng = rng or problem.random(known.now)
        if self.acquisition is not None:
            return self._search(known, None, rng)[0]
        if self.design is None:
            return None
        if isinstance(self.design, References) and (start := self._designed(known, rng, None)):
            return None if over_budget(problem, runs, start) else start  # also where nothing can be recommended
        best = None if isinstance(self.design, Uniform) else self.answer(known)
        wanted = self._designed(known, rng, best)
        return None if over_budget(problem, runs, wanted) else wanted

    @single_threaded
    def remarks(self, problem: Problem, runs: Runs) -> tuple[str, ...]:
        """What the reader must know before following `suggest`: of the archive, of a change, and what the model has to say
        where references are asked for or the workload itself has no completed run."""
        return self.notes(self.evidence(problem, runs))

    def notes(self, known: Evidence) -> tuple[str, ...]:
        """`remarks` from evidence that was looked through."""
        if not isinstance(self.design, References) and (measured(known.problem, known.now).count > 0).any():
            return known.said
        try:
            return (*known.said, *self.model.predict(known.problem, known.now).warnings)
        except InsufficientEvidenceError:  # references are asked for before anything can be believed
            return known.said

    def evidence(self, problem: Problem, runs: Runs) -> Evidence:
        """What the strategy rests on."""
        return evidence(problem, runs, adapts=self.adapts or isinstance(self.design, References))

    def _designed(
        self, known: Evidence, rng: np.random.Generator, best: Recommendation | None
    ) -> Configuration | NextRun | None:
        """What the design proposes."""
        if isinstance(self.design, References):
            return self.design.propose(known.problem, known.now, rng, best, earlier=known.runs)
        return self.design.propose(known.problem, known.now, rng, best) if self.design is not None else None

    def _search(
        self, known: Evidence, prediction: Prediction | None, rng: np.random.Generator
    ) -> tuple[NextRun | None, str]:
        """The design's next configuration; else the best by the acquisition; or None and why the search stops."""
        problem, runs, now = known.problem, known.runs, known.now
        stop, start = rule_of(problem, self.stop), self._designed(known, rng, None)
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
        stopped = stopped or over_budget(problem, runs, wanted)
        return (None, stopped) if stopped else (wanted, "")


def canonical(runs: Runs) -> Runs:
    """The same runs in an order that does not depend on how they were given."""
    frame = runs.frame
    keys = ["workload", "instance_type", "node_count", "vcpus", *runs.inputs, *runs.params, "status", "runtime_s"]
    order = np.lexsort(ranks(frame, keys[::-1]).T)
    if (np.diff(order) == 1).all():
        return runs
    return replace(runs, frame=frame.take(order).reset_index(drop=True))
