"""What every strategy must do, whatever it believes. Inherit `StrategyContract` and give it your strategy:

    class TestMine(StrategyContract):
        @pytest.fixture
        def make(self) -> Callable[[], Strategy]:
            return MyStrategy

`case` (a recorded table to be asked about) can be overridden in the same way; `synthetic()` is the default.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recommender.errors import InfeasibleError, InsufficientEvidenceError
from recommender.problem import Problem, build_problem
from recommender.recommendation import SCHEMA, NextRun, Recommendation
from recommender.runs import Runs, read_runs, write_runs
from recommender.strategies import Strategy

EVIDENCE = {"measured", "modelled", "transferred", "assumed"}
PRICE_QUALITY = {"listed", "repaired", "estimated"}
PROBLEM_KEYS = {"workload", "objective", "deadline_s", "budget_usd", "confidence", "regions", "purchase_options"}
ROW_KEYS = {
    *("rank", "instance_type", "node_count", "region", "purchase_option", "runtime_s", "cost_usd"),
    *("deadline_probability", "evidence", "price_quality", "reason"),
}
QUANTILES = ["p10", "p50", "p90"]

Make = Callable[[], Strategy]


def runs_of(frame: pd.DataFrame) -> Runs:
    """Validated runs; columns that nothing fills are left out."""
    return Runs.from_frame(frame.dropna(axis="columns", how="all") if len(frame) else frame)


@dataclass(frozen=True)
class Case:
    """A recorded table: every configuration of one workload can be looked up, other workloads are its archive."""

    name: str
    runs: Runs
    """All workloads."""
    candidates: pd.DataFrame
    workload: str
    first: int = 5
    """Runs given before anything is asked, spread over the table: what a regression needs."""
    steps: int = 4
    """Most rounds of ask and tell."""
    built: dict[str, tuple[Problem, Runs]] = field(default_factory=dict, compare=False)
    """The problem of `start`, once it was asked for: building is slower than answering, and nothing may change it."""

    @property
    def table(self) -> pd.DataFrame:
        """The recorded runs of the workload."""
        return self.runs.of(self.workload).frame

    @property
    def start(self) -> pd.DataFrame:
        """Completed runs to start from, `first` of them."""
        done = self.table[self.table["status"] == "completed"]
        return done.iloc[np.linspace(0, len(done) - 1, self.first).astype(int)].reset_index(drop=True)

    def ask(
        self, mine: pd.DataFrame | None = None, *, candidates: pd.DataFrame | None = None, **options: Any
    ) -> tuple[Problem, Runs]:
        """The problem with `mine` as the workload's runs (default: `start`) and the other workloads as archive.

        `options` are fields of `Problem`.
        """
        if mine is None and candidates is None:
            if not self.built:
                self.built["start"] = self.ask(self.start)
            problem, runs = self.built["start"]
        else:
            archive = self.runs.without(self.workload)
            problem, runs = build_problem(
                runs_of(self.start if mine is None else mine),
                workload=self.workload,
                archive=[archive] if len(archive) else [],
                candidates=self.candidates if candidates is None else candidates,
            )
        return replace(problem, **options), runs

    def look_up(self, wanted: NextRun) -> pd.DataFrame:
        """The recorded run of a configuration."""
        same = (self.table["instance_type"] == wanted.instance_type) & (self.table["node_count"] == wanted.node_count)
        assert same.any(), f"proposed {wanted}, which is not recorded: not a candidate"
        return self.table[same].head(1)


def synthetic() -> Case:
    """4 types x 6 node counts x 5 workloads: 3 inputs' worth of scaling, 3 % noise, failures and a time limit."""
    rng = np.random.default_rng(7)
    rows, price = [], {"small": 0.11, "medium": 0.23, "large": 0.47, "swift": 0.31}
    vcpus = {"small": 2, "medium": 4, "large": 8, "swift": 4}
    for w, (serial, work, per_node) in enumerate(
        [(40, 9e3, 3), (20, 2e4, 1), (90, 4e3, 8), (10, 1e4, 4), (60, 3e4, 2)]
    ):
        for kind, nodes in itertools.product(price, (1, 2, 4, 6, 8, 12)):
            speed = 1.3 if kind == "swift" else 1.0
            t = (serial + work / (nodes * vcpus[kind]) + per_node * nodes) / speed * math.exp(rng.normal(0, 0.03))
            status = "completed"
            if kind == "small" and nodes < 2:
                status, t = "failed", 12.0 + w
            elif t > 3000.0:
                status, t = "timed_out", 3000.0
            rows.append((f"job{w}", kind, nodes, t, status))
    frame = pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s", "status"])
    table = frame[["instance_type", "node_count"]].drop_duplicates()
    table = table.assign(
        usd_per_hour=table["instance_type"].map(price), vcpus=table["instance_type"].map(vcpus), memory_gib=16.0
    )
    return Case("synthetic", Runs.from_frame(frame), table.reset_index(drop=True), "job0")


def ask_and_tell(
    case: Case, make: Make, mine: pd.DataFrame, steps: int, candidates: pd.DataFrame | None = None
) -> tuple[list[tuple[str, int]], list[pd.DataFrame]]:
    """Ask and tell up to `steps` times: the configurations proposed, and the runs before each and after the last."""
    proposed, states = [], [mine]
    for _ in range(steps):
        problem, runs = case.ask(states[-1], candidates=candidates)
        wanted = make().suggest(problem, runs)
        if wanted is None:
            break
        proposed.append((wanted.instance_type, wanted.node_count))
        told = [part.astype(object) for part in (states[-1], case.look_up(wanted))]
        states.append(pd.concat(told, ignore_index=True))
    return proposed, states


def plain(answer: Recommendation) -> dict[str, Any]:
    """The answer as JSON gives it back: fails for anything that is not plain, finite JSON."""
    result: dict[str, Any] = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    return result


def near(a: Any, b: Any) -> bool:
    """Equal, numbers to a relative 1e-9."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(near(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(near, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)


def run_of(case: Case, row: Any, status: str, runtime_s: float) -> pd.DataFrame:
    """One more run of the workload, of the configuration of a recorded row or a ranked one."""
    new = case.table.head(1).copy()
    new[["instance_type", "node_count", "status", "runtime_s"]] = [
        row.instance_type,
        row.node_count,
        status,
        runtime_s,
    ]
    return new


class StrategyContract:
    """The promises. Each test asks one strategy about one case."""

    @pytest.fixture
    def make(self) -> Make:
        """Return a factory of the strategy under test: override this."""
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def case(self) -> Case:
        """Return the recorded table to ask about."""
        return synthetic()

    def test_same_inputs_give_the_same_answer(self, make: Make, case: Case) -> None:
        answers, proposals = [], []
        for asked in (case, replace(case, built={})):
            problem, runs = asked.ask(seed=3)
            before = runs.frame.copy(deep=True), problem.configurations.copy(deep=True)
            answers.append(plain(make().recommend(problem, runs)))
            proposals += [make().suggest(problem, runs), make().suggest(problem, runs)]
            answers.append(plain(make().recommend(problem, runs)))
            pd.testing.assert_frame_equal(runs.frame, before[0])
            pd.testing.assert_frame_equal(problem.configurations, before[1])
        assert all(a == answers[0] for a in answers)
        assert all(p == proposals[0] for p in proposals)

    def test_the_answer_keeps_the_file_contract(self, make: Make, case: Case) -> None:
        problem, runs = case.ask(deadline_s=float(case.start["runtime_s"].max() * 3), confidence=0.6, top=1000)
        answer = make().recommend(problem, runs)
        d = plain(answer)
        assert d.keys() >= {"schema", "problem", "strategy", "recommendations", "excluded", "next_run", "warnings"}
        assert d["schema"] == SCHEMA
        assert d["problem"].keys() >= PROBLEM_KEYS
        assert set(d["strategy"]) == {"name", "why"}
        assert d["strategy"]["name"]
        assert d["strategy"]["why"]
        assert d["recommendations"]
        configurations = set(zip(case.candidates["instance_type"], case.candidates["node_count"], strict=True))
        measured = set(zip(runs.completed["instance_type"], runs.completed["node_count"], strict=True))
        for position, row in enumerate(d["recommendations"], 1):
            assert row.keys() >= ROW_KEYS
            assert row["rank"] == position
            assert (row["instance_type"], row["node_count"]) in configurations
            assert row["evidence"] in EVIDENCE
            assert row["price_quality"] in PRICE_QUALITY
            assert (row["runtime_s"] is None) == (row["cost_usd"] is None)
            if row["evidence"] == "measured":
                assert (row["instance_type"], row["node_count"]) in measured
            if row["runtime_s"] is not None:
                t, usd = ([row[name][q] for q in QUANTILES] for name in ("runtime_s", "cost_usd"))
                assert 0 < t[0] < t[1] < t[2] < math.inf, "quantiles ordered, and a spread that is never zero"
                assert 0 < usd[0] <= usd[1] <= usd[2] < math.inf
            if row["deadline_probability"] is not None:
                assert 0 <= row["deadline_probability"] <= 1
        assert len(d["recommendations"]) == answer.candidates
        assert answer.candidates + sum(e["count"] for e in d["excluded"]) == d["problem"]["candidates"]
        for excluded in d["excluded"]:
            assert set(excluded) == {"reason", "count", "sentence"}
            assert excluded["count"] > 0
            assert excluded["sentence"]
        if d["next_run"] is not None:
            assert (d["next_run"]["instance_type"], d["next_run"]["node_count"]) in configurations

    def test_it_proposes_only_candidates_that_were_not_measured(self, make: Make, case: Case) -> None:
        start = case.start
        proposed, _ = ask_and_tell(case, make, start, case.steps)
        tried = [*zip(start["instance_type"], start["node_count"], strict=True), *proposed]
        assert len(set(tried)) == len(tried)
        few = case.candidates.iloc[::3].reset_index(drop=True)
        allowed = set(zip(few["instance_type"], few["node_count"], strict=True))
        proposed, _ = ask_and_tell(case, make, start, 2, candidates=few)
        assert set(proposed) <= allowed

    def test_it_proposes_nothing_when_everything_is_measured(self, make: Make, case: Case) -> None:
        problem, runs = case.ask(case.table)
        assert make().suggest(problem, runs) is None

    def test_resuming_equals_never_stopping(self, make: Make, case: Case, tmp_path: Path) -> None:
        whole, states = ask_and_tell(case, make, case.start, case.steps)
        half = len(whole) // 2
        write_runs(runs_of(states[half]), tmp_path / "half.csv")
        rest, resumed = ask_and_tell(case, make, read_runs(tmp_path / "half.csv").frame, case.steps - half)
        assert whole[:half] + rest == whole
        write_runs(runs_of(resumed[-1]), tmp_path / "whole.parquet")
        read = read_runs(tmp_path / "whole.parquet").frame
        answers = [make().recommend(*case.ask(mine)) for mine in (states[-1], read)]
        assert plain(answers[0]) == plain(answers[1])

    def test_the_order_of_rows_is_irrelevant(self, make: Make, case: Case, seed: int = 1) -> None:
        mine = pd.concat([case.start, case.table[case.table["status"] != "completed"].head(2)], ignore_index=True)
        problem, runs = case.ask(mine)
        other = replace(
            case, built={}, runs=Runs(case.runs.frame.sample(frac=1, random_state=seed).reset_index(drop=True))
        )
        shuffled_problem, shuffled = other.ask(
            mine.sample(frac=1, random_state=seed).reset_index(drop=True),
            candidates=case.candidates.sample(frac=1, random_state=seed).reset_index(drop=True),
        )
        assert near(plain(make().recommend(problem, runs)), plain(make().recommend(shuffled_problem, shuffled))), (
            "the answer depends on the order of the rows"
        )
        a, b = make().suggest(problem, runs), make().suggest(shuffled_problem, shuffled)
        assert near(a and a.to_dict(), b and b.to_dict())

    def test_a_looser_deadline_is_never_dearer(self, make: Make, case: Case) -> None:
        cheapest = math.inf
        for deadline_s in np.geomspace(case.table["runtime_s"].min() / 4, case.table["runtime_s"].max() * 8, 9):
            try:
                answer = make().recommend(*case.ask(deadline_s=float(deadline_s)))
            except InfeasibleError:
                assert cheapest == math.inf, "a looser deadline became infeasible"
                continue
            first = answer.rows[0]
            if first.cost_usd is not None:
                assert first.cost_usd.p50 <= cheapest * (1 + 1e-9)
                cheapest = first.cost_usd.p50
                if first.deadline_probability is not None and "deadline" in {e.reason for e in answer.excluded}:
                    assert first.deadline_probability >= 0.9

    @pytest.mark.parametrize("c", [0.25, 3.7])
    def test_prices_times_c_scale_costs_and_keep_the_order(self, make: Make, case: Case, c: float) -> None:
        scaled = case.candidates.assign(usd_per_hour=case.candidates["usd_per_hour"] * c)
        a, b = (make().recommend(*case.ask(candidates=t, top=1000)) for t in (case.candidates, scaled))
        kinds = [(row.instance_type, row.node_count) for row in a.rows]
        assert len(a.rows) == len(b.rows)
        other = {(row.instance_type, row.node_count): row for row in b.rows}
        assert set(kinds) == set(other)
        for row in a.rows:
            twin = other[row.instance_type, row.node_count]
            assert twin.usd_per_hour == pytest.approx(row.usd_per_hour * c, rel=1e-9)
            assert near(row.runtime_s and row.runtime_s.to_dict(), twin.runtime_s and twin.runtime_s.to_dict())
            if row.cost_usd is not None and twin.cost_usd is not None:
                expected = [q * c for q in row.cost_usd.to_dict().values()]
                assert list(twin.cost_usd.to_dict().values()) == pytest.approx(expected, rel=1e-9)
        if math.frexp(c)[0] == 0.5:  # a power of two: no rounding, so ties stay ties
            assert kinds == [(row.instance_type, row.node_count) for row in b.rows]
        else:
            paid = [[r.cost_usd.p50 if r.cost_usd else r.usd_per_hour * r.node_count for r in x.rows] for x in (a, b)]
            assert paid[1] == pytest.approx([usd * c for usd in paid[0]], rel=1e-9), "the order changed beyond ties"

    @pytest.mark.parametrize(("position", "status"), [("first", "failed"), ("middle", "timed_out"), ("last", "failed")])
    def test_a_configuration_that_only_failed_is_never_recommended(
        self, make: Make, case: Case, position: str, status: str
    ) -> None:
        best = make().recommend(*case.ask()).rows
        measured = set(zip(case.start["instance_type"], case.start["node_count"], strict=True))
        victim = next((r for r in best if (r.instance_type, r.node_count) not in measured), best[0])
        start = case.start
        start = start[
            (start["instance_type"] != victim.instance_type) | (start["node_count"] != victim.node_count)
        ].reset_index(drop=True)
        at = {"first": 0, "middle": len(start) // 2, "last": len(start)}[position]
        bad = run_of(case, victim, status, 0.5 if status == "failed" else 3000.0)
        mine = pd.concat([part.astype(object) for part in (start[:at], bad, bad, start[at:])], ignore_index=True)
        problem, runs = case.ask(mine, top=1000)
        answer = make().recommend(problem, runs)
        gone = (victim.instance_type, victim.node_count)
        assert gone not in [(r.instance_type, r.node_count) for r in answer.rows]
        assert sum(e.count for e in answer.excluded) >= 1
        wanted = make().suggest(problem, runs)
        assert wanted is None or (wanted.instance_type, wanted.node_count) != gone
        plain(answer)

    @pytest.mark.parametrize("status", ["failed", "timed_out"])
    def test_a_short_incomplete_run_never_makes_its_configuration_look_fast(
        self, make: Make, case: Case, status: str
    ) -> None:
        before = make().recommend(*case.ask(top=1000)).rows
        known = {(r.instance_type, r.node_count): r.runtime_s.p50 for r in before if r.runtime_s}
        if not known:
            return
        extra = run_of(case, case.start.iloc[0], status, 0.01)
        after = make().recommend(*case.ask(pd.concat([case.start, extra], ignore_index=True), top=1000)).rows
        for row in after:
            assert row.runtime_s is not None
            assert row.runtime_s.p50 >= known[row.instance_type, row.node_count] * (1 - 1e-3)
        key = (case.start["instance_type"][0], case.start["node_count"][0])
        ranks = [{(r.instance_type, r.node_count): r.rank for r in rows} for rows in (before, after)]
        assert ranks[1].get(key, 10**9) >= ranks[0][key]

    def test_incomplete_runs_of_other_workloads_are_no_fast_runs(self, make: Make, case: Case) -> None:
        frame = case.runs.frame
        before = make().recommend(*case.ask(top=1000)).rows
        others = frame[frame["workload"] != case.workload].drop_duplicates(["workload", "instance_type"])
        bad = others.assign(status="failed", runtime_s=0.01)
        worse = replace(case, built={}, runs=Runs(pd.concat([frame, bad], ignore_index=True)))
        after = make().recommend(*worse.ask(top=1000)).rows
        known = {(r.instance_type, r.node_count): r.runtime_s and r.runtime_s.p50 for r in before}
        for row in after:
            was = known[row.instance_type, row.node_count]
            assert row.runtime_s is None or (was is not None and row.runtime_s.p50 >= was * (1 - 1e-9))

    @pytest.mark.parametrize("only", ["nothing", "failures"])
    def test_without_a_completed_run_it_answers_or_says_what_is_missing(
        self, make: Make, case: Case, only: str
    ) -> None:
        mine = case.start.head(2 if only == "failures" else 0).assign(status="failed", runtime_s=1.0)
        if only == "nothing":
            mine = mine[["workload", "instance_type", "node_count", "runtime_s"]]
        problem, runs = case.ask(mine, top=1000)
        try:
            answer = make().recommend(problem, runs)
        except InsufficientEvidenceError:
            return
        plain(answer)
        failed = set(zip(mine["instance_type"], mine["node_count"], strict=True))
        for row in answer.rows:
            assert row.evidence != "measured"
            assert (row.instance_type, row.node_count) not in failed
            assert row.runtime_s is None or row.runtime_s.p90 > 1.5 * row.runtime_s.p50, "no evidence is a wide prior"
