"""`auto`: picks a strategy by what evidence there is, and says what it considered, what it picked and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from recommender.candidates import Configuration
from recommender.composition import Evidence, ModelBased, Strategy, evidence
from recommender.errors import InsufficientEvidenceError, RecommenderError
from recommender.models import configuration_rows, measured
from recommender.models.archive import archived
from recommender.models.ernest import distinct_points
from recommender.models.held_out import asked, held_out_regret, log_price
from recommender.models.kept import kept
from recommender.models.scaling import MINIMUM_POINTS
from recommender.models.yardsticks import PriceOnly
from recommender.pricing import BY_NAME, price_option
from recommender.problem import Problem
from recommender.recommendation import Considered, NextRun, Recommendation
from recommender.runs import Runs
from recommender.search.bandit import restricted
from recommender.threads import single_threaded
from recommender.units import counted

ARMS = ("prior", "column-mean", "best-fixed", "ernest")
"""What is weighed on the archive, the default first."""
WITHOUT_RUNTIMES = ("best-fixed",)
"""Of those, what believes no runtime, and so cannot promise a deadline or a budget."""
MOST_WORKLOADS, MOST_RUNS = 8, 8
"""Workloads of the archive held out, and runs of each that are told, at most: it must take no longer than a few seconds."""
SURE = 2.0
"""Standard errors by which another strategy must be ahead of the default."""


@dataclass(frozen=True)
class Choice:
    """What `auto` would do, and why."""

    name: str
    """The strategy that recommends."""
    why: str
    measures: str
    """What says what to measure next: `prior`, `ernest`, or `scaling`: what a scaling model lacks."""
    considered: tuple[Considered, ...] = ()
    """Strategies weighed by their held-out regret, best first; empty where nothing could be weighed."""


@dataclass(frozen=True)
class Auto:
    """Picks a strategy by what evidence there is, and says which and why.

    "Points" are the distinct (scale, total vCPUs) of the completed runs; "here" counts the candidates with a completed run
    at the input asked about; "archive": other workloads completed runs on the candidates, and they can be compared. The first row that holds counts:

    | evidence                                           | recommends        | measures next         |
    |----------------------------------------------------|-------------------|-----------------------|
    | a profile: here < 3, points >= 3                   | ernest            | as ernest says        |
    | a local profile: here 0, points 1 or 2, no archive | price-only        | what ernest lacks (1) |
    | no completed run, no archive                       | prior             | prior's search        |
    | measured here, no archive                          | prior             | prior's search        |
    | an archive, of less than 3 workloads               | prior             | prior's search        |
    | an archive, of 3 workloads or more                 | least regret (2)  | prior's search        |

    (1) The cheapest candidate with another number of vCPUs than those run.
    (2) Of `arms` that can be asked: each held out workload of the archive (MOST_WORKLOADS at most, whole applications
    held out) is asked about as if it were new, with as many runs as the user has here (MOST_RUNS at most), and the
    regret of the recommendation is looked up in its own runs. The first arm is left only for one whose mean ln(regret + 1)
    is lower by more than SURE standard errors of the paired difference: with eight workloads, less says nothing.

    The archive is looked through first, and what was run before the workload changed is left out of every count and belief
    (`composition.evidence`). Nothing else changes the choice. A deadline or a budget per run drops the arms that believe no
    runtime, and a search budget ends every search. Counters (`metric.*`) are read by arrow, paris and selecta, which are
    asked by name or weighed too when `arms` names them; selecta as a further arm never changed the choice on Lumos and made
    asking 1.1 to 1.4 times as dear (docs/benchmarks.md, "`auto`: selecta as a further arm").
    """

    named: Callable[[str], Strategy]
    """Strategy by name."""
    arms: tuple[str, ...] = ARMS

    @single_threaded
    def choose(self, problem: Problem, runs: Runs) -> Choice:
        """Return the strategy's name and the reason, by the table above."""
        known = evidence(problem, runs, adapts=True)
        return self._choose(known.problem, known.now)

    def _choose(self, problem: Problem, runs: Runs) -> Choice:
        choice = self._by_evidence(problem, runs)
        return choice if choice.measures != "prior" or not _archive(problem) else self._weighed(problem, runs, choice)

    @single_threaded
    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """Return the chosen strategy's answer, which says that it was chosen and why."""
        known = evidence(problem, runs, adapts=True)
        choice = self._choose(known.problem, known.now)
        chosen = self.named(choice.name)
        answer = chosen.answer(known) if isinstance(chosen, ModelBased) else chosen.recommend(known.problem, known.runs)
        if choice.measures != choice.name:
            wanted = self._next(known, choice, None)
            answer = replace(answer, next_run=NextRun(**{"why": "", **vars(wanted)}) if wanted is not None else None)
        why = f"auto chose {choice.name}: {choice.why}"
        return replace(
            answer,
            why=why,
            considered=choice.considered,
            warnings=tuple(dict.fromkeys((*known.said, *answer.warnings))),
        )

    @single_threaded
    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        """Return what to measure next, by the table above; nothing has to be weighed for it."""
        known = evidence(problem, runs, adapts=True)
        return self._next(known, self._by_evidence(known.problem, known.now), rng)

    def remarks(self, problem: Problem, runs: Runs) -> tuple[str, ...]:
        """What the reader must know before following `suggest`: of the archive, of a change, and what is not known yet."""
        known = evidence(problem, runs, adapts=True)
        choice = self._by_evidence(known.problem, known.now)
        asked = self.named(choice.measures) if choice.measures != "scaling" else None
        return asked.notes(known) if isinstance(asked, ModelBased) else known.said

    def adapting(self, name: str) -> Strategy:
        """The strategy called `name`, leaving out what was run before a change."""
        made = self.named(name)
        return replace(made, adapts=True) if isinstance(made, ModelBased) else made

    def _next(self, known: Evidence, choice: Choice, rng: np.random.Generator | None) -> Configuration | None:
        if choice.measures == "scaling":
            return _scaling_run(known.problem, known.runs)
        made = self.named(choice.measures)
        return (
            made.ask(known, rng) if isinstance(made, ModelBased) else made.suggest(known.problem, known.runs, rng=rng)
        )

    def _by_evidence(self, problem: Problem, runs: Runs) -> Choice:
        """The table without its last row."""
        here = int((measured(problem, runs).count > 0).sum())
        if here >= MINIMUM_POINTS:
            return Choice("prior", f"measured at the input asked about: {counted(here, 'candidate')}", "prior")
        points, lacking = distinct_points(problem, runs)
        seen = f"completed runs at {points} distinct points of scale and vCPUs"
        if not len(runs):
            seen = f"no runs were given: {seen}"
        elif not len(runs.completed):
            seen = f"none of the {len(runs)} runs completed: {seen}"
        elif lacking:
            seen = f"{lacking}: {seen}"
        if points >= MINIMUM_POINTS:
            where = "none of a candidate" if not here else f"{here} of a candidate"
            return Choice(
                "ernest",
                f"{seen}, {where} at the input asked about, are enough to fit how the workload scales",
                "ernest",
            )
        if here:
            return Choice("prior", f"measured at the input asked about: {counted(here, 'candidate')}", "prior")
        short = f"{seen} are fewer than the {MINIMUM_POINTS} a scaling model needs"
        if _archive(problem):
            return Choice("prior", f"{short}, but other workloads were run on the candidates", "prior")
        if len(runs.completed):
            return Choice(
                "price-only", f"{short}, and neither the candidates nor an archive on them were run", "scaling"
            )
        lacks = "there is no archive" if problem.archive is None else "the archive completed no run of a candidate"
        return Choice("prior", f"{short}, and {lacks}: scaling laws and prices are all that is known", "prior")

    def _weighed(self, problem: Problem, runs: Runs, default: Choice) -> Choice:
        """The table's last row."""
        count = min(int((measured(problem, runs).count > 0).sum()), MOST_RUNS)
        promise = problem.deadline_s is not None or problem.budget_usd is not None
        arms = tuple(a for a in self.arms if not (promise and a in WITHOUT_RUNTIMES))
        key = ("auto", arms, count, *asked(problem), log_price(problem).tobytes())
        regrets: dict[str, tuple[float, ...]] = kept(problem, key, lambda: self._regrets(problem, arms, count))
        if default.name not in regrets:
            few = "the archive's workloads are too few to weigh strategies on"
            return replace(default, why=f"{default.why}; {few}")
        own = np.array(regrets[default.name])
        name = default.name
        for arm, found in regrets.items():
            ahead = own - np.array(found)
            error = float(ahead.std(ddof=1)) / np.sqrt(len(ahead)) if len(ahead) > 1 else np.inf
            if ahead.mean() > SURE * error and np.mean(found) < np.mean(regrets[name]):
                name = arm
        considered = tuple(
            Considered(arm, float(np.expm1(np.mean(found))), len(found), arm == name)
            for arm, found in sorted(regrets.items(), key=lambda item: (round(float(np.mean(item[1])), 9), item[0]))
        )
        least = considered[0].strategy == name
        listed = ", ".join(f"{c.strategy} {c.held_out_regret:.0%}" for c in considered)
        how = f"regret on {len(own)} workloads of the archive, each asked about with {count} of its runs: {listed}"
        why = (
            f"the least {how}"
            if least
            else f"{how}; {considered[0].strategy} is ahead by less than {SURE:g} standard errors"
        )
        return Choice(name, f"{default.why}; {why}", default.measures, considered)

    def _regrets(self, problem: Problem, arms: tuple[str, ...], count: int) -> dict[str, tuple[float, ...]]:
        """ln regret of each arm on the same held-out workloads; an arm that cannot answer about them is left out."""
        ran = kept(problem, "what ran", lambda: restricted(problem, archived(problem).columns).candidates)
        world = replace(problem, candidates=ran, search_budget_usd=None)
        found = {}
        for arm in arms:
            model = getattr(self.named(arm), "model", None)
            if model is None:
                continue
            try:
                table = held_out_regret(world, model, (count,), most=MOST_WORKLOADS)
            except RecommenderError:
                continue
            if len(table):
                found[arm] = tuple(table["regret"])
        return found


def _archive(problem: Problem) -> bool:
    """Whether other workloads completed runs on the candidates that can be compared."""
    try:
        return problem.archive is not None and bool(len(archived(problem).y))
    except InsufficientEvidenceError:
        return False


def _scaling_run(problem: Problem, runs: Runs) -> NextRun | None:
    """The cheapest untried candidate per hour with another number of vCPUs in all than those tried."""
    configurations, offers = problem.configurations, problem.candidates.offers
    prices = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
    hourly = np.full(len(configurations), np.inf)
    np.fmin.at(hourly, offers.configuration, prices.usd_per_hour * offers.nodes)
    total = (configurations["vcpus"].fillna(1.0) * configurations["node_count"]).to_numpy(float)
    tried = configuration_rows(problem, runs.frame)
    left = np.zeros(len(configurations), dtype=bool)
    left[offers.configuration[problem.rankable(prices)]] = True
    left &= PriceOnly().predict(problem, runs).excluded == 0
    left &= ~np.isin(total, total[tried[tried >= 0]])
    if not left.any():
        return None
    i = int(np.lexsort((np.arange(len(hourly)), hourly, ~left))[0])
    why = f"the cheapest with another number of vCPUs than those run; {MINIMUM_POINTS} such points show how the workload scales"
    return NextRun(why=why, **vars(problem.candidates.configuration(i)))
