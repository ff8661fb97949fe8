"""Stopping rules on planted values, and the guarantee against what simulation and closed forms say."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from recommender.errors import InputError, InsufficientEvidenceError
from recommender.models import MODELLED, Array, Prediction, nothing_known
from recommender.problem import Problem, build_problem
from recommender.report.tables import as_text
from recommender.runs import Runs
from recommender.search.acquisition import Scores
from recommender.search.guarantee import MOST_JOINT, guarantee, no_candidate_cheaper, savings
from recommender.search.stopping import (
    Either,
    Guaranteed,
    Never,
    SearchBudget,
    SmallImprovement,
    StoppingRule,
    WorthIt,
    rule_of,
    spent_usd,
)
from recommender.strategies import strategy


def ask(tried: int = 6, count: int = 12, **options: Any) -> tuple[Problem, Runs]:
    """`count` types at 3.6 USD an hour (0.001 USD a second), the first `tried` of them measured at 100 s (0.1 USD)."""
    names = [f"t{i:03d}" for i in range(count)]
    candidates = pd.DataFrame({"instance_type": names, "node_count": 1, "usd_per_hour": 3.6})
    mine = pd.DataFrame({"workload": "w", "instance_type": names[:tried], "node_count": 1, "runtime_s": 100.0})
    return build_problem(mine if tried else None, workload="w", candidates=candidates, **options)


def belief(problem: Problem, mean: Array, latent: Array) -> Prediction:
    """Independent normals as a prediction with joint draws."""
    return replace(
        nothing_known(problem),
        log_runtime=mean,
        spread=np.hypot(latent, 0.05),
        noise=0.05,
        evidence=np.full(len(mean), MODELLED, dtype=np.int8),
        draws=lambda rows, k, rng: mean[rows] + latent[rows] * rng.standard_normal((k, len(rows))),
    )


def reason(rule: StoppingRule, problem: Problem, runs: Runs, improvement: float | None, seconds: float = 100.0) -> str:
    """Ask a rule about row 7, of which `improvement` is expected and which takes `seconds`."""
    n = len(problem.configurations)
    gain = None if improvement is None else np.full(n, improvement)
    scores = Scores(np.zeros(n), gain, None if improvement is None else 0.1, "planted")
    return rule.reason(problem, runs, belief(problem, np.full(n, math.log(seconds)), np.full(n, 0.3)), scores, 7)


def curve() -> pd.DataFrame:
    """15 configurations of the catalogue whose runtimes follow Ernest's terms."""
    cells = list(itertools.product(("c4.large", "m4.large", "r4.large"), (1, 2, 4, 8, 16)))
    frame = pd.DataFrame(cells, columns=["instance_type", "node_count"]).assign(workload="w")
    return frame.assign(runtime_s=100.0 + 3000.0 / frame["node_count"] + 10.0 * frame["node_count"])


class TestSmallImprovement:
    @pytest.mark.parametrize(
        ("tried", "improvement", "stops"),
        [(6, 0.099, True), (6, 0.101, False), (5, 0.0, False), (9, 0.05, True), (9, None, False)],
    )
    def test_fires_below_the_share_and_not_before_its_guard(
        self, tried: int, improvement: float | None, stops: bool
    ) -> None:
        assert bool(reason(SmallImprovement(0.10, 6), *ask(tried), improvement)) is stops

    def test_failed_configurations_count_as_tried(self) -> None:
        problem, runs = ask(6)
        frame = runs.frame.assign(status=["failed"] * 3 + ["completed"] * 3)
        assert reason(SmallImprovement(0.10, 6), problem, Runs.from_frame(frame), 0.01)

    def test_the_presets_are_the_papers_and_the_artifacts(self) -> None:
        rules = [strategy(name).stop for name in ("cherrypick", "cherrypick-artifact")]  # type: ignore[attr-defined]
        assert rules == [SmallImprovement(0.10, 6), SmallImprovement(0.06, 6)]

    def test_never_is_never(self) -> None:
        assert reason(Never(), *ask(), 0.0) == ""


class TestMoney:
    @pytest.mark.parametrize(("budget", "stops"), [(0.69, True), (0.71, False)])
    def test_the_search_budget_counts_what_was_spent_and_the_next_run(self, budget: float, stops: bool) -> None:
        # 6 runs of 0.1 USD were made and the next is expected to cost 0.1 USD.
        assert bool(reason(SearchBudget(budget), *ask(6), 0.5)) is stops

    @pytest.mark.parametrize(("budget", "starts"), [(0.19, False), (0.21, True)])
    def test_the_starts_of_a_search_end_with_the_budget_too(self, budget: float, starts: bool) -> None:
        made = replace(strategy("cherrypick"), stop=SearchBudget(budget))  # type: ignore[type-var]
        problem, runs = ask(2)
        assert (made.suggest(problem, runs) is not None) is starts  # type: ignore[attr-defined]
        assert any("were spent" in w for w in made.recommend(problem, runs).warnings) is not starts  # type: ignore[attr-defined]

    def test_failed_and_stopped_runs_were_paid_too_and_a_bill_counts_as_billed(self) -> None:
        problem, runs = ask(3)
        frame = runs.frame.assign(status=["failed", "timed_out", "completed"], cost_usd=[np.nan, np.nan, 5.0])
        assert spent_usd(problem, Runs.from_frame(frame)) == pytest.approx(5.2)

    def test_an_unknown_cost_is_an_error_and_not_free(self) -> None:
        problem, runs = ask(2)
        frame = runs.frame.assign(instance_type=["t000", "elsewhere"])
        with pytest.raises(InputError, match="elsewhere x1 is not known"):
            spent_usd(problem, Runs.from_frame(frame))

    @pytest.mark.parametrize(("runs_planned", "stops"), [(9.0, True), (11.0, False)])
    def test_a_run_is_worth_it_when_the_planned_runs_save_more_than_it_costs(
        self, runs_planned: float, stops: bool
    ) -> None:
        # 10 % of 0.1 USD is saved a run, and the next run costs 0.1 USD: even after 10 runs.
        assert bool(reason(WorthIt(runs_planned), *ask(6), 0.1)) is stops

    def test_what_is_weighed_is_said_in_words_either_way(self) -> None:
        # 10 % of 0.1 USD is 0.01 USD a run.
        dear = reason(WorthIt(4), *ask(6), 0.1)
        assert (
            "is expected to save $0.0100 a run on the best measured, times 4 planned runs $0.0400, less than the $0.100"
            in dear
        )
        problem, _ = ask(6)
        scores = Scores(np.zeros(12), np.full(12, 0.1), 0.1, "planted")
        believed = belief(problem, np.full(12, math.log(100.0)), np.full(12, 0.3))
        favour = WorthIt(40).favour(problem, believed, scores, 7)
        assert favour == (
            "is expected to save $0.0100 a run on the best measured, times 40 planned runs $0.400, no less than the $0.100 it is expected to cost"
        )
        assert WorthIt(40).favour(problem, believed, replace(scores, improvement=None), 7) == ""

    def test_worth_it_replaces_rules_of_improvement_and_stands_beside_a_budget(self) -> None:
        problem, _ = ask(6)
        planned = replace(problem, runs_planned=40.0)
        assert rule_of(problem, SmallImprovement()) == SmallImprovement()
        assert rule_of(planned, SmallImprovement()) == rule_of(planned, Never()) == WorthIt(40.0)
        both = rule_of(planned, SearchBudget(0.69))
        assert both == Either(SearchBudget(0.69), WorthIt(40.0))
        assert "were spent" in reason(both, *ask(6), 0.1)
        assert "planned runs" in reason(replace(both, first=SearchBudget(9.0)), *ask(6), 0.001)  # type: ignore[type-var]
        assert reason(replace(both, first=SearchBudget(9.0)), *ask(6), 0.1) == ""  # type: ignore[type-var]

    def test_a_search_goes_on_for_many_planned_runs_and_ends_for_few(self) -> None:
        frame = curve()
        told, pool = frame.iloc[[0, 4, 7, 10, 14]], frame[["instance_type", "node_count"]]
        answers = {}
        for planned in (0.01, 1e6):
            problem, runs = build_problem(told, workload="w", candidates=pool, runs_planned=planned)
            answers[planned] = strategy("cherrypick").recommend(problem, runs)
        assert answers[0.01].next_run is None
        assert any("times 0.01 planned runs" in w and "less than" in w for w in answers[0.01].warnings)
        wanted = answers[1e6].next_run
        assert wanted is not None
        assert "times 1e+06 planned runs" in wanted.why
        assert answers[1e6].problem["runs_planned"] == 1e6

    def test_the_starts_are_made_however_few_runs_are_planned(self) -> None:
        problem, runs = ask(2, runs_planned=1e-6)
        assert strategy("cherrypick").suggest(problem, runs) is not None

    def test_a_strategy_that_does_not_search_says_that_nothing_was_weighed(self) -> None:
        answer = strategy("price-only").recommend(*ask(2, runs_planned=10))
        assert any("planned runs were not weighed: price-only does not search" in w for w in answer.warnings)
        assert not any("planned" in w for w in strategy("price-only").recommend(*ask(2)).warnings)

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"runs_planned": 0}, "runs planned is 0"),
            ({"runs_planned": float("nan")}, "runs planned is nan"),
            ({"runs_planned": 10, "objective": "runtime"}, "seconds saved cannot be weighed"),
        ],
    )
    def test_planned_runs_that_cannot_be_weighed_are_refused(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(InputError, match=named):
            ask(2, **options)

    def test_seconds_have_no_price(self) -> None:
        with pytest.raises(InputError, match="objective cost only"):
            reason(WorthIt(10), *ask(6, objective="runtime"), 0.1)


class TestTheGuarantee:
    def test_is_the_closed_form_for_one_rival(self) -> None:
        problem, runs = ask(1, 2)
        mean, latent = np.log([100.0, 110.0]), np.array([0.04, 0.3])
        sure = no_candidate_cheaper(problem, runs, belief(problem, mean, latent), percent=10, draws=40_000)
        expected = 1 - norm.cdf((math.log(100) + math.log(0.9) - math.log(110)) / math.hypot(0.04, 0.3))
        assert sure == pytest.approx(expected, abs=0.01)

    def test_is_the_product_for_independent_rivals_of_a_sure_incumbent(self) -> None:
        problem, runs = ask(1, 8)
        mean = np.log([100.0, *np.linspace(95.0, 200.0, 7)])
        latent = np.array([1e-9, *np.full(7, 0.2)])
        each = 1 - norm.cdf((math.log(90.0) - mean[1:]) / 0.2)
        sure = no_candidate_cheaper(problem, runs, belief(problem, mean, latent), percent=10, draws=40_000)
        assert sure == pytest.approx(each.prod(), abs=0.01)

    def test_rivals_that_move_together_are_one_rival(self) -> None:
        problem, runs = ask(1, 40)
        mean, latent = np.full(40, math.log(100.0)), np.array([1e-9, *np.full(39, 0.2)])

        def together(rows: Any, k: int, rng: np.random.Generator) -> Array:
            return mean[rows] + latent[rows] * rng.standard_normal((k, 1))

        joint = replace(belief(problem, mean, latent), draws=together)
        one = 1 - norm.cdf(math.log(0.9) / 0.2)
        assert no_candidate_cheaper(problem, runs, joint, percent=10, draws=40_000) == pytest.approx(one, abs=0.01)
        assert no_candidate_cheaper(problem, runs, belief(problem, mean, latent), percent=10) < 0.1

    def test_a_late_or_failing_rival_is_none(self) -> None:
        mean, latent = np.log([100.0, 50.0]), np.array([0.01, 0.01])
        problem, runs = ask(1, 2, objective="runtime")
        assert no_candidate_cheaper(problem, runs, belief(problem, mean, latent), percent=10) == 0.0
        failing = replace(belief(problem, mean, latent), completing=np.array([1.0, 0.25]))
        assert no_candidate_cheaper(problem, runs, failing, percent=10) == pytest.approx(0.75, abs=0.04)
        pools = {"instance_type": ["t000", "t001"], "node_count": 1, "usd_per_hour": [3.6, 0.36]}
        late, runs = build_problem(runs, workload="w", candidates=pd.DataFrame(pools), deadline_s=150.0)
        slow = belief(late, np.log([100.0, 300.0]), latent)
        assert no_candidate_cheaper(late, runs, slow, percent=10) == 1.0
        assert no_candidate_cheaper(replace(late, deadline_s=None), runs, slow, percent=10) == 0.0

    def test_candidates_beyond_those_drawn_jointly_lower_it(self) -> None:
        many = MOST_JOINT + 200
        problem, runs = ask(1, many)
        mean = np.array([math.log(100.0), *np.full(many - 1, math.log(100.0) + 0.75)])
        latent = np.array([1e-9, *np.full(many - 1, 0.25)])
        sure = no_candidate_cheaper(problem, runs, belief(problem, mean, latent), percent=10)
        exact = (1 - norm.cdf((math.log(0.9) - 0.75) / 0.25)) ** (many - 1)
        assert sure <= exact + 0.02
        assert sure == pytest.approx(exact, abs=0.06)

    def test_the_rule_fires_when_sure_enough(self) -> None:
        problem, runs = ask(6)
        scores = Scores(np.zeros(12), np.full(12, 0.3), 0.1, "planted")
        far = belief(problem, np.array([math.log(100.0)] * 6 + [math.log(300.0)] * 6), np.full(12, 0.02))
        near = belief(problem, np.full(12, math.log(100.0)), np.full(12, 0.4))
        assert "no candidate is more than 10 % cheaper" in Guaranteed().reason(problem, runs, far, scores, 7)
        assert Guaranteed().reason(problem, runs, near, scores, 7) == ""
        assert Guaranteed(at_least=7).reason(problem, runs, far, scores, 7) == ""

    def test_needs_an_incumbent_and_joint_draws(self) -> None:
        problem, runs = ask(0)
        with pytest.raises(InsufficientEvidenceError, match="a measured configuration"):
            no_candidate_cheaper(problem, runs, belief(problem, np.zeros(12), np.ones(12)), percent=10)
        problem, runs = ask(2)
        without = replace(belief(problem, np.zeros(12), np.ones(12)), draws=None)
        with pytest.raises(InsufficientEvidenceError, match="joint draws"):
            no_candidate_cheaper(problem, runs, without, percent=10)
        with pytest.raises(InputError, match="from 0 to below 100"):
            no_candidate_cheaper(problem, runs, without, percent=100)

    @pytest.mark.parametrize("name", ["cherrypick", "trees"])
    def test_grows_as_everything_is_measured(self, name: str) -> None:
        frame = curve()
        model = strategy(name).model  # type: ignore[attr-defined]
        sure = []
        for count in (3, 15):
            rows = frame.iloc[np.linspace(0, 14, count).astype(int)]
            problem, runs = build_problem(rows, workload="w", candidates=frame[["instance_type", "node_count"]])
            sure.append(no_candidate_cheaper(problem, runs, model.predict(problem, runs), percent=10))
        assert sure[1] > sure[0]
        assert sure[1] > 0.75, "each was measured once, and nothing says how noisy that is"


class TestThePromise:
    """What a recommendation states about its first row, measured or not."""

    def test_is_the_closed_form_quantile_for_one_rival(self) -> None:
        problem, runs = ask(1, 2)
        mean, latent = np.log([100.0, 110.0]), np.array([0.04, 0.3])
        found = savings(problem, runs, belief(problem, mean, latent), 0, draws=40_000)
        # S = 1 - exp(-max(0, D)), D = ln v_0 - ln v_1 ~ N(ln(100/110), 0.04² + 0.3²)
        for p in (0.5, 0.8, 0.9, 0.99):
            beyond = norm.ppf(p, math.log(100 / 110), math.hypot(0.04, 0.3))
            assert found.quantile(p) == pytest.approx(1 - math.exp(-max(0.0, beyond)), abs=0.02)
        assert found.quantile(1.0 + 1e-9) is None
        assert found.probability(0.10) == no_candidate_cheaper(
            problem, runs, belief(problem, mean, latent), percent=10, draws=40_000
        )

    def test_is_of_the_recommended_one_and_not_of_the_best_measured(self) -> None:
        problem, runs = ask(4, 6)
        # t000 to t003 were measured; t004 is believed at half their cost, t005 a little below t004.
        believed = belief(problem, np.log([100.0] * 4 + [50.0, 48.0]), np.full(6, 0.01))
        first = guarantee(problem, runs, believed, problem.candidates.configuration(4))
        other = guarantee(problem, runs, believed, problem.candidates.configuration(0))
        assert first is not None
        assert other is not None
        assert first.at_most_cheaper == pytest.approx(0.05, abs=0.02)
        assert other.at_most_cheaper == pytest.approx(0.53, abs=0.02)
        assert first.sentence.startswith("With probability 90% no candidate is more than 6% cheaper than t004 x1")
        assert "was not measured" in first.sentence
        assert (
            "kept sometimes"
            in guarantee(  # type: ignore[union-attr]
                problem, runs, replace(believed, kept="kept sometimes"), problem.candidates.configuration(4)
            ).sentence
        )

    def test_a_surer_promise_promises_less(self) -> None:
        problem, runs = ask(4)
        believed = belief(problem, np.full(12, math.log(100.0)), np.full(12, 0.3))
        chosen = problem.candidates.configuration(0)
        shares = [guarantee(replace(problem, confidence=p), runs, believed, chosen) for p in (0.5, 0.8, 0.95)]
        values = [g.at_most_cheaper for g in shares if g is not None]
        assert len(values) == 3
        assert values == sorted(set(values))

    def test_is_in_the_table_and_the_json_of_a_search_and_absent_where_candidates_are_not_believed_jointly(
        self,
    ) -> None:
        frame = curve()
        problem, runs = build_problem(
            frame.iloc[[0, 4, 7, 10, 14]], workload="w", candidates=frame[["instance_type", "node_count"]]
        )
        answer = strategy("cherrypick").recommend(problem, runs)
        assert answer.guarantee is not None
        said = answer.to_dict()["guarantee"]
        assert said == {
            "probability": 0.9,
            "at_most_cheaper": answer.guarantee.at_most_cheaper,
            "sentence": answer.guarantee.sentence,
        }
        assert f"{answer.guarantee.sentence}.\n" in as_text(answer)
        assert "guarantee" not in "".join(answer.to_frame().columns)
        silent = strategy("price-only").recommend(problem, runs)
        assert silent.to_dict()["guarantee"] is None
        assert "With probability" not in as_text(silent)

    @pytest.mark.parametrize(("tried", "promised"), [(0, False), (3, False), (4, True)])
    def test_nothing_is_promised_from_fewer_than_four_configurations(self, tried: int, promised: bool) -> None:
        assert (strategy("cherrypick").recommend(*ask(tried)).guarantee is not None) is promised

    def test_is_kept_about_as_often_as_it_says_where_costs_are_drawn_from_the_models_own_prior(self) -> None:
        """16 types in a row, ln cost a random walk smoothed over 3 neighbours; 6 of them measured."""
        kept = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            log_cost = 0.5 * np.convolve(rng.standard_normal(18), np.ones(3) / math.sqrt(3), "valid")
            nodes = np.arange(1, 17)
            frame = pd.DataFrame({"workload": "w", "instance_type": "c4.large", "node_count": nodes})
            frame["runtime_s"] = 3600.0 * np.exp(log_cost) / nodes
            measured = frame.iloc[rng.choice(16, 6, replace=False)]
            pool = frame[["instance_type", "node_count"]].assign(usd_per_hour=1.0)
            problem, runs = build_problem(measured, workload="w", candidates=pool, seed=seed)
            answer = strategy("cherrypick").recommend(problem, runs)
            assert answer.guarantee is not None
            true = 1.0 - math.exp(log_cost.min() - log_cost[answer.rows[0].node_count - 1])
            kept.append(true <= answer.guarantee.at_most_cheaper)
        # 36 of 40 are expected; 30 or fewer would come about once in 200 times.
        assert sum(kept) > 30
