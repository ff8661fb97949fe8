"""Studies: what is asked next depends on the runs alone; what is told is kept; pending runs are believed in."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from strategy_contract import Case, synthetic
from typer.testing import CliRunner

from recommender import store as store_module
from recommender import strategies as strategies_module
from recommender.candidates import Configuration
from recommender.catalogue import TypeFilter
from recommender.cli import app
from recommender.datasets import fetch_dataset
from recommender.errors import InputError, RecommenderError, UnknownNameError
from recommender.pending import batch, with_pending
from recommender.pricing import Usage, parse_purchase
from recommender.problem import Problem, build_problem
from recommender.question import Question
from recommender.recommendation import NextRun, Recommendation
from recommender.runs import Runs, read_runs
from recommender.strategies import strategy
from recommender.study import Study, studies

ROOT = Path(__file__).resolve().parents[1]
STEPS = 6


def pool() -> pd.DataFrame:
    """12 settings of two knobs on one machine of $0.36 an hour: a hundredth of a cent a second."""
    rows = [("desk", 1, 0.36, threads, mode) for threads in (1, 2, 4) for mode in ("a", "b", "c", "d")]
    return pd.DataFrame(rows, columns=["instance_type", "node_count", "usd_per_hour", "param.threads", "param.mode"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "studies.db"


@pytest.fixture
def study(path: Path) -> Study:
    return Study.create("s", Question(candidates=pool()), strategy_name="random", store=path)


def desk(threads: object, mode: object) -> Configuration:
    return Configuration(instance_type="desk", node_count=1, params={"threads": threads, "mode": mode})


@dataclass(frozen=True)
class Largest:
    """A strategy of a third party: the largest cluster that was not tried, and nothing after four runs."""

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        return strategy("random").recommend(problem, runs)

    def suggest(self, problem: Problem, runs: Runs, *, rng: np.random.Generator | None = None) -> Configuration | None:
        tried = set(zip(runs.frame["instance_type"], runs.frame["node_count"], strict=True))
        rows = problem.configurations.sort_values(["node_count", "instance_type"], ascending=False)
        left = [
            (t, int(n)) for t, n in zip(rows["instance_type"], rows["node_count"], strict=True) if (t, n) not in tried
        ]
        known = len(problem.configurations) - len(left)
        return Configuration(instance_type=left[0][0], node_count=left[0][1]) if left and known < 9 else None


@pytest.fixture(scope="session")
def scout(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One workload of Scout and an archive of others."""
    data = fetch_dataset("scout", mirror=mirror, cache=tmp_path_factory.mktemp("scout"))
    assert data.runs is not None
    assert data.candidates is not None
    workload = "kmeans_bigdata_spark15"
    others = [w for w in data.runs.workloads if w != workload][::5]
    frame = data.runs.frame[data.runs.frame["workload"].isin([workload, *others])].reset_index(drop=True)
    return Case("scout", Runs(frame), data.candidates, workload, first=8)


def question(case: Case) -> Question:
    archive = case.runs.without(case.workload)
    return Question(
        Runs.from_frame(case.start.dropna(axis="columns", how="all")),
        workload=case.workload,
        archive=[archive],
        candidates=case.candidates,
    )


def searched(case: Case, get: Callable[[], Study]) -> tuple[list[str], dict[str, object]]:
    """Ask and tell up to STEPS times, getting the study anew before each call: what was asked, and the answer."""
    asked = []
    for _ in range(STEPS):
        for pending in get().ask():
            run = case.look_up(pending.run).iloc[0]
            asked.append(pending.run.label)
            get().tell(pending.id, runtime_s=float(run["runtime_s"]), status=str(run["status"]))
    return asked, get().recommend().to_dict()


@pytest.mark.parametrize("name", ["random", "ernest", "column-mean", "largest"])
@pytest.mark.parametrize("data", ["synthetic", "scout"])
def test_a_study_opened_again_for_every_call_asks_as_one_that_never_stopped(
    name: str, data: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(strategies_module.TABLE, "largest", Largest)
    case = request.getfixturevalue("scout") if data == "scout" else replace(synthetic(), first=4, built={})
    one = Study.create("one", question(case), strategy_name=name, store=tmp_path / "a.db")
    Study.create("many", question(case), strategy_name=name, store=tmp_path / "b.db")
    asked, answer = searched(case, lambda: one)
    assert searched(case, lambda: Study.open("many", store=tmp_path / "b.db")) == (asked, answer)
    # And both ask what the pure strategy suggests of the same problem and runs.
    mine, wanted = case.start, []
    for _ in range(STEPS):
        found = strategy(name).suggest(*case.ask(mine))
        if found is not None:
            wanted.append(found.label)
            parts = [mine.astype(object), case.look_up(found).astype(object)]  # type: ignore[arg-type]
            mine = pd.concat(parts, ignore_index=True)
    assert asked == wanted
    assert asked or (data, name) in (("scout", "ernest"), ("scout", "column-mean"))


@pytest.mark.parametrize(
    ("store", "hint"), [(None, "next: recommender study ask s\n"), ("a b.db", "ask s --store 'a b.db'\n")]
)
def test_a_new_study_says_how_it_is_asked(
    tmp_path: Path, store: str | None, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECOMMENDER_STORE", "other.db")
    pool().to_csv("pool.csv", index=False)
    options = ["--store", store] if store else []
    said = CliRunner().invoke(
        app, ["study", "create", "s", "--candidates", "pool.csv", "--strategy", "random", *options]
    )
    assert said.stdout.endswith(hint)


def test_two_processes_ask_as_one_would(path: Path, tmp_path: Path) -> None:
    pool().to_csv(tmp_path / "pool.csv", index=False)

    def command(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RECOMMENDER_STORE": str(path)}
        words = [sys.executable, "-m", "recommender", "study", *arguments]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    command("create", "s", "--candidates", "pool.csv", "--strategy", "random", "--seed", "3")
    (tmp_path / "pool.csv").unlink()  # the study keeps a copy
    one = Study.create("t", Question(candidates=pool(), seed=3), strategy_name="random", store=tmp_path / "other.db")
    for _ in range(2):
        (said,) = json.loads(command("ask", "s", "--format", "json"))
        (pending,) = one.ask()
        assert (said["id"], said["params"]) == (pending.id, dict(pending.run.params))
        assert command("tell", "s", "--id", said["id"], "--runtime", "1m30s").strip() == pending.id
        one.tell(pending.id, runtime_s=90.0)
    assert json.loads(command("show", "s", "--format", "json"))["spent_usd"] == pytest.approx(2 * 90 * 0.0001)
    assert "2 runs, 0 pending" in command("list")
    command("export", "s", "--out", "runs.csv")
    exported = read_runs(tmp_path / "runs.csv").frame
    assert list(exported["runtime_s"]) == [90.0, 90.0]
    assert set(exported["workload"]) == {"s"}


def test_a_study_keeps_copies_of_its_tables(tmp_path: Path, path: Path) -> None:
    case = synthetic()
    files = {"runs": case.start, "archive": case.runs.without(case.workload).frame, "candidates": case.candidates}
    for name, frame in files.items():
        frame.dropna(axis="columns", how="all").to_csv(tmp_path / f"{name}.csv", index=False)
    asked = Question(tmp_path / "runs.csv", archive=[tmp_path / "archive.csv"], candidates=tmp_path / "candidates.csv")
    before = Study.create("s", asked, strategy_name="column-mean", store=path).recommend().to_dict()
    for name in files:
        (tmp_path / f"{name}.csv").unlink()
    after = Study.open("s", store=path).recommend().to_dict()
    assert after == before
    assert after["recommendations"] == strategy("column-mean").recommend(*case.ask()).to_dict()["recommendations"]


def test_every_option_of_the_question_comes_back_from_the_store(path: Path) -> None:
    asked = Question(
        workload="w",
        objective="runtime",
        deadline_s=3600.0,
        budget_usd=2.5,
        search_budget_usd=99.0,
        confidence=0.8,
        purchase=parse_purchase("on-demand,reserved-3y-all-upfront"),
        regions=("eu-west-1", "us-east-1"),
        max_nodes=3,
        node_counts=(1, 3),
        types=TypeFilter(families=("m7*",), min_vcpus=4, max_usd_per_hour=1.0),
        architecture="x86_64",
        include_burstable=True,
        include_accelerators=True,
        inputs={"size_gib": 3.0},
        usage=Usage(7.0, checkpoint_interval_s=60.0),
        local_like="m7i",
        seed=5,
        top=4,
    )
    untouched = [f for f, v in vars(Question()).items() if vars(asked)[f] == v and f not in ("runs", "prices", "_")]
    # Planned runs are for the objective cost, which is the default: they have a line of their own.
    assert untouched == ["archive", "candidates", "runs_planned"], "give the new option a value here"
    Study.create("planned", Question(workload="w", runs_planned=40.0), strategy_name="price-only", store=path)
    assert Study.open("planned", store=path).question.runs_planned == 40.0
    Study.create("s", asked, strategy_name="price-only", store=path)
    again = Study.open("s", store=path)
    assert again.question.settings() == asked.settings()
    first, second = replace(asked, runs=None).build()[0], again.evidence()[0]
    assert first.configurations.equals(second.configurations)
    assert (first.options, first.usage, first.seed) == (second.options, second.usage, second.seed)


def test_workers_that_ask_at_once_are_given_different_configurations(study: Study, path: Path) -> None:
    other = Study.open("s", store=path)
    given = [*study.ask(4, worker="a"), *other.ask(4, worker="b"), *study.ask(8, worker="a")]
    assert len({p.run.label for p in given}) == len(given) == len(pool())
    assert [p.id for p in given] == [f"r{i}" for i in range(1, 13)]
    assert study.ask() == []
    study.release("r5")
    (again,) = other.ask()
    assert again.run.label == given[4].run.label


def test_a_lease_that_ended_is_given_to_somebody_else_and_its_run_can_still_be_told(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1e9]
    monkeypatch.setattr(store_module, "now", lambda: clock[0])
    dead = study.ask(len(pool()), worker="dead", lease_s=100.0)
    clock[0] += 60.0
    assert study.renew("r2", 100.0)
    assert not study.renew("r99", 100.0)
    clock[0] += 60.0  # all but r2 have ended
    again = study.ask(len(pool()), worker="alive", lease_s=100.0)
    assert {p.run.label for p in again} == {p.run.label for p in dead} - {dead[1].run.label}
    study.tell("r1", runtime_s=5.0)
    study.tell(next(p.id for p in again if p.run.label == dead[0].run.label), runtime_s=6.0)
    assert len(study.snapshot().told) == 2


def test_a_pending_run_is_believed_to_take_the_median_expected_and_where_none_is_the_longest_measured() -> None:
    runs = pd.DataFrame([("w", "desk", 1, t, 1.0, m) for t, m in ((8.0, "a"), (20.0, "b"))])
    runs.columns = ["workload", "instance_type", "node_count", "runtime_s", "param.threads", "param.mode"]
    problem, mine = build_problem(runs, candidates=pool())
    plain = {"instance_type": "desk", "node_count": 1, "why": ""}
    believed = NextRun(**plain, params={"param.threads": 2.0, "param.mode": "a"}, expected_runtime_s=3.5)
    unknown = NextRun(**plain, params={"param.threads": 4.0, "param.mode": "a"})
    frame = with_pending(problem, mine, [believed, unknown]).frame
    assert list(frame["runtime_s"]) == [8.0, 20.0, 3.5, pytest.approx(20.0)]
    assert list(frame["status"]) == ["completed"] * 4
    # Before anything completed there is no time to believe in: tried, and nothing else.
    problem, nothing = build_problem(None, workload="w", candidates=pool())
    assert list(with_pending(problem, nothing, [unknown]).frame["status"]) == ["failed"]
    assert with_pending(problem, nothing, []) is nothing


def test_a_batch_beside_pending_runs_is_the_rest_of_a_larger_batch() -> None:
    case = synthetic()
    problem, mine = case.ask()
    for name in ("random", "ernest", "column-mean"):
        four = batch(strategy(name), problem, mine, 4)
        assert batch(strategy(name), problem, mine, 3, pending=four[:1]) == four[1:]


def test_a_recommendation_rests_on_nothing_pending(study: Study) -> None:
    study.tell(configuration=desk(1, "a"), runtime_s=10.0)
    before = study.recommend().to_dict()
    study.ask(5)
    assert study.recommend().to_dict() == before


def test_nothing_is_worth_measuring_is_an_answer(path: Path) -> None:
    study = Study.create("s", Question(candidates=pool()), strategy_name="price-only", store=path)
    assert study.ask(3) == []


def test_telling_the_same_run_again_changes_nothing_and_another_under_its_name_is_refused(study: Study) -> None:
    study.ask(2)
    said = {"runtime_s": 12.5, "cost_usd": 0.2, "metrics": {"cpu": 3.0}}
    assert study.tell("r1", **said) == study.tell("r1", **said) == "r1"
    assert len(study.snapshot().told) == 1
    for other in ({**said, "runtime_s": 12.6}, {**said, "status": "failed"}, {"runtime_s": 12.5}):
        with pytest.raises(InputError, match=r"'r1' was told already, and differently: (runtime_s|status|cost_usd)"):
            study.tell("r1", **other)
    assert len(study.snapshot().told) == 1
    assert [p.id for p in study.snapshot().pending] == ["r2"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"runtime_s": math.nan}, "'runtime_s': found nan"),
        ({"runtime_s": -1.0}, r"'runtime_s'.*'-1.0'.*above 0"),
        ({"runtime_s": 0.0}, r"'runtime_s'.*above 0"),
        ({"runtime_s": math.inf}, "'runtime_s': found inf"),
        ({"runtime_s": 1.0, "cost_usd": math.nan}, "'cost_usd': found nan"),
        ({"runtime_s": 1.0, "cost_usd": -0.1}, r"'cost_usd'.*US dollars from 0"),
        ({"runtime_s": 1.0, "status": "done"}, r"'status'.*'done'.*completed, failed, timed_out"),
        ({"runtime_s": 1.0, "metrics": {"cpu": math.inf}}, "'metric.cpu': found inf"),
        ({"runtime_s": 1.0, "started_at": "yesterday"}, "'started_at'"),
    ],
)
def test_a_run_that_the_contract_does_not_allow_is_refused_and_stays_pending(
    study: Study, said: dict[str, object], message: str
) -> None:
    study.ask()
    with pytest.raises(InputError, match=message):
        study.tell("r1", **said)  # type: ignore[arg-type]
    assert not study.snapshot().told
    assert [p.id for p in study.snapshot().live] == ["r1"]


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        (desk("3.6", "b"), "desk x1 threads=4 mode=b"),
        (replace(desk(2, "c"), instance_type="dusk"), "desk x1 threads=2 mode=c"),
        (replace(desk(1, "d"), node_count=4), "desk x1 threads=1 mode=d"),
    ],
)
def test_a_run_of_no_candidate_is_refused_with_the_nearest_one(
    study: Study, wanted: Configuration, nearest: str
) -> None:
    with pytest.raises(UnknownNameError, match=f"is no candidate of the study; the nearest is {nearest}"):
        study.tell(configuration=wanted, runtime_s=1.0)
    with pytest.raises(UnknownNameError, match=r"no parameter 'param.thread'; did you mean 'param.threads'"):
        study.tell(configuration=replace(wanted, params={"thread": 1}), runtime_s=1.0)


def test_a_run_that_was_never_asked_for_can_be_told_and_a_misspelt_name_cannot(study: Study) -> None:
    assert study.tell("mine", configuration=desk("2", "a"), runtime_s=4.0) == "mine"
    assert study.tell(configuration=desk(2, "a"), runtime_s=5.0) == "r1"
    study.ask()
    with pytest.raises(UnknownNameError, match=r"under the name 'r3'; did you mean 'r2'.*pending are r2"):
        study.tell("r3", runtime_s=1.0)
    with pytest.raises(UnknownNameError, match="under the name 'r3' yet"):
        study.tell("r3", configuration=desk(1, "a"), runtime_s=1.0)
    with pytest.raises(InputError, match="which run is told"):
        study.tell(runtime_s=1.0)
    asked = study.snapshot().pending[0].run
    other = next(m for m in "abcd" if m != asked.params["param.mode"])
    with pytest.raises(InputError, match="'r2' was asked for on"):
        study.tell("r2", configuration=desk(asked.params["param.threads"], other), runtime_s=1.0)
    study.release("r2")  # what was given back and measured all the same is still worth knowing
    assert study.tell("r2", configuration=asked, runtime_s=1.0) == "r2"
    assert [p.id for p in study.ask()] == ["r3"]


def test_failed_and_stopped_runs_cost_money_and_are_never_the_best(study: Study) -> None:
    study.tell("a", configuration=desk(1, "a"), runtime_s=100.0)
    study.tell("b", configuration=desk(2, "a"), runtime_s=1.0, status="failed")
    study.tell("c", configuration=desk(4, "a"), runtime_s=50.0, status="timed_out")
    study.tell("d", configuration=desk(4, "b"), runtime_s=50.0, cost_usd=0.75)
    facts = study.summary()
    # $0.36/h is $0.0001/s: 100 s + 1 s + 50 s by price, and what was billed.
    assert [run["spent_usd"] for run in facts["runs"]] == pytest.approx([0.01, 0.0001, 0.005, 0.75])
    assert facts["spent_usd"] == pytest.approx(0.7651)
    assert facts["incumbent"]["params"] == {"param.threads": 4.0, "param.mode": "b"}
    assert facts["incumbent"]["cost_usd"]["p50"] == pytest.approx(0.005)


def test_the_best_measured_meets_the_deadline_or_there_is_none(path: Path) -> None:
    asked = Question(candidates=pool(), deadline_s=60.0)
    study = Study.create("s", asked, strategy_name="random", store=path)
    assert study.summary()["incumbent"] is None
    study.tell(configuration=desk(1, "a"), runtime_s=90.0)
    assert study.incumbent() is None
    study.tell(configuration=desk(2, "a"), runtime_s=30.0)
    best = study.incumbent()
    assert best is not None
    assert best.params["param.threads"] == 2.0


def test_what_was_known_before_is_evidence_and_was_not_paid_by_the_study(path: Path) -> None:
    rows = [("w", "desk", 1, 40.0, 1.0, "a", 2.0), ("other", "desk", 1, 9.0, 2.0, "a", 2.0)]
    columns = ["workload", "instance_type", "node_count", "runtime_s", "param.threads", "param.mode", "input.gib"]
    known = pd.DataFrame(rows, columns=columns)
    study = Study.create("s", Question(known, workload="w", candidates=pool()), strategy_name="random", store=path)
    facts = study.summary()
    assert (facts["runs_given"], facts["runs"], facts["spent_usd"]) == (1, [], 0.0)
    assert facts["incumbent"]["params"]["param.threads"] == 1.0
    (pending,) = study.ask()
    assert pending.inputs == {"input.gib": 2.0}
    study.tell(pending.id, runtime_s=7.0)  # at the input that was asked for
    study.tell("own", configuration=desk(4, "d"), runtime_s=3.0, inputs={"gib": 1.0})  # at another: no rival
    assert list(study.evidence()[1].frame["input.gib"]) == [2.0, 2.0, 1.0]
    best = study.incumbent()
    assert best is not None
    assert best.runtime_s is not None
    assert best.runtime_s.p50 == pytest.approx(7.0)
    problem, _ = study.evidence()
    assert problem.archive is not None
    assert problem.archive.workloads == ["other"]


def test_inputs_asked_about_before_any_run_are_those_of_the_runs_told(path: Path) -> None:
    study = Study.create("s", Question(candidates=pool(), inputs={"gib": 8.0}), strategy_name="random", store=path)
    (pending,) = study.ask()
    assert pending.inputs == {"input.gib": 8.0}
    study.tell(pending.id, runtime_s=7.0)
    study.tell(configuration=desk(1, "a"), runtime_s=9.0)
    problem, runs = study.evidence()
    assert dict(problem.inputs) == {"input.gib": 8.0}
    assert list(runs.frame["input.gib"]) == [8.0, 8.0]


def test_names_are_checked_before_a_file_is_made(path: Path) -> None:
    with pytest.raises(InputError, match="is no name for a study"):
        Study.create("../x", Question(candidates=pool()), store=path)
    with pytest.raises(UnknownNameError, match="unknown strategy 'rndom'; did you mean 'random'"):
        Study.create("s", Question(candidates=pool()), strategy_name="rndom", store=path)
    with pytest.raises(RecommenderError, match="confidence is 2"):
        Study.create("s", Question(candidates=pool(), confidence=2.0), store=path)
    assert not path.exists()


def test_an_unknown_study_gets_did_you_mean_and_a_second_of_one_name_is_refused(study: Study, path: Path) -> None:
    Study.create("nightly", Question(candidates=pool()), store=path)
    assert studies(path) == ["s", "nightly"]
    with pytest.raises(
        UnknownNameError, match=r"no study 'nigtly' in .*did you mean 'nightly'\? \(it holds s, nightly\)"
    ):
        Study.open("nigtly", store=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="has a study 's' already"):
        Study.create("s", Question(candidates=pool()), store=path)
    assert path.read_bytes() == before


def test_a_question_as_large_as_the_catalogue_is_asked_of_the_catalogue(path: Path) -> None:
    asked = Question(workload="w", types=TypeFilter(families=("m7i",)), max_nodes=2)
    study = Study.create("s", asked, strategy_name="random", store=path)
    (pending,) = study.ask()
    assert pending.run.instance_type.startswith("m7i.")
    study.tell(pending.id, runtime_s=3600.0)
    problem, _ = study.evidence()
    price = problem.catalogue.price_of(pending.run.instance_type, "us-east-1")
    assert price is not None
    assert study.costs_usd() == pytest.approx([price * pending.run.node_count])


def test_a_search_budget_is_refused_beside_given_runs_of_unknown_cost(path: Path) -> None:
    mine = pd.DataFrame({"workload": "w", "instance_type": "local", "node_count": 1, "runtime_s": [9.0]})
    pool = pd.DataFrame({"instance_type": ["a", "b"], "node_count": 1, "usd_per_hour": 1.0})
    with pytest.raises(InputError, match=r"1 runs given is not known .*fill their cost_usd"):
        Study.create("s", Question(mine, candidates=pool, search_budget_usd=5.0), store=path)
    Study.create("s", Question(mine.assign(cost_usd=0.01), candidates=pool, search_budget_usd=5.0), store=path)
