"""Explanations: terms that add up, the runs that matter, and changes that would change the answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recommender.cli import app
from recommender.errors import InputError, UnknownNameError
from recommender.explanation import Explanation, _changes, explain
from recommender.models.ernest import Ernest
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.strategies import strategy

NODES = (1, 2, 4, 8)


def frame() -> pd.DataFrame:
    """20 s fixed, 400 s of divisible work at scale 1, 2 s a node; four scales on four clusters."""
    rows = [("job", "box", n, 20 + 400 * s / n + 2 * n, s) for s in (0.1, 0.2, 0.4) for n in NODES]
    return pd.DataFrame(rows, columns=["workload", "instance_type", "node_count", "runtime_s", "input.scale"])


def pool() -> pd.DataFrame:
    """One type, up to 16 nodes; and a dear one."""
    rows = [("box", n, 0.36, 1) for n in (*NODES, 16)] + [("gold", n, 36.0, 1) for n in NODES]
    return pd.DataFrame(rows, columns=["instance_type", "node_count", "usd_per_hour", "vcpus"])


def ask(runs: pd.DataFrame | None = None, **options: Any) -> tuple[Problem, Runs]:
    """The problem at full scale."""
    return build_problem(frame() if runs is None else runs, candidates=pool(), inputs={"scale": 1.0}, **options)


def about(kind: str = "box", nodes: int | None = 4, name: str = "ernest", **options: Any) -> Explanation:
    """Explain one candidate."""
    problem, runs = ask(**options)
    return explain(problem, runs, instance_type=kind, node_count=nodes, strategy_name=name)


def test_terms_are_the_planted_ones_and_add_up_to_the_median() -> None:
    found = about()
    assert found.row is not None
    assert found.row.runtime_s is not None
    assert sum(found.terms.values()) == pytest.approx(found.row.runtime_s.p50, rel=1e-6)
    assert found.terms["fixed time"] == pytest.approx(20.0, rel=1e-3)
    assert found.terms["work that divides over vCPUs"] == pytest.approx(100.0, rel=1e-3)
    assert found.terms["coordination"] == pytest.approx(8.0, rel=1e-3)


def test_the_row_is_the_strategys_own() -> None:
    problem, runs = ask(top=100)
    ranked = {(r.instance_type, r.node_count): r for r in strategy("ernest").recommend(problem, runs).rows}
    for nodes in (1, 16):
        row = about(nodes=nodes).row
        assert row is not None
        twin = ranked["box", nodes]
        assert row.runtime_s is not None
        assert row.cost_usd is not None
        assert twin.runtime_s is not None
        assert twin.cost_usd is not None
        assert row.runtime_s.to_dict() == pytest.approx(twin.runtime_s.to_dict(), rel=1e-9)
        assert row.cost_usd.to_dict() == pytest.approx(twin.cost_usd.to_dict(), rel=1e-9)


def test_leaving_out_a_point_is_what_it_says() -> None:
    runs = frame()
    runs["runtime_s"] *= np.exp(np.random.default_rng(0).normal(0, 0.1, len(runs)))
    problem, mine = ask(runs)
    found = explain(problem, mine, instance_type="box", node_count=8, strategy_name="ernest")
    top = found.supports[0]
    assert found.points == 12
    assert top.change is not None
    label = f"box x{top.label.split(' x')[1].split(' ')[0]}"
    nodes, scale = int(label.split("x")[-1]), float(top.label.split("scale=")[1].split(",")[0])
    without = runs[(runs["node_count"] != nodes) | (runs["input.scale"] != scale)].reset_index(drop=True)
    row = int(
        np.flatnonzero(
            (problem.configurations["instance_type"] == "box") & (problem.configurations["node_count"] == 8)
        )[0]
    )
    before, after = (float(Ernest().predict(*ask(r)).log_runtime[row]) for r in (runs, without))
    assert top.change == pytest.approx(math.expm1(after - before), rel=1e-6)
    assert all(abs(s.change or 0) <= abs(top.change) for s in found.supports)


def test_progress_counts_the_points_left_out() -> None:
    problem, runs = ask()
    counted: list[tuple[int, int]] = []
    explain(
        problem,
        runs,
        instance_type="box",
        strategy_name="ernest",
        progress=lambda done, total: counted.append((done, total)),
    )
    assert counted == [(k, 12) for k in range(12)]


def test_with_three_points_every_one_is_needed() -> None:
    runs = frame().iloc[[0, 5, 10]].reset_index(drop=True)
    problem, mine = ask(runs)
    found = explain(problem, mine, instance_type="box", node_count=4, strategy_name="ernest")
    assert {s.change for s in found.supports} == {None}
    assert any("nothing could be predicted" in c for c in found.changes)


def test_what_would_change_the_answer_names_the_first_and_the_gap() -> None:
    problem, runs = ask()
    dear = about("gold", 2)
    assert dear.row is not None
    assert any("box x" in c and "is recommended" in c and "lower by" in c for c in dear.changes)
    (gap,) = (c for c in dear.changes if "lower by" in c)
    best = strategy("ernest").recommend(problem, runs).rows[0]
    assert best.cost_usd is not None
    assert dear.row.cost_usd is not None
    assert f"lower by {1 - best.cost_usd.p50 / dear.row.cost_usd.p50:.0%}" in gap
    first = about(nodes=best.node_count)
    assert any("it is what is recommended" in c for c in first.changes)
    assert any("measuring box x" in c for c in first.changes)


def test_measuring_is_offered_only_where_it_would_narrow_the_interval() -> None:
    problem, runs = ask()
    said = Ernest().predict(problem, runs)
    i = int(np.flatnonzero(problem.configurations["node_count"] == 16)[0])
    for factor, offered in ((2.0, True), (1.0, False), (0.9, False)):
        same = replace(said, spread=np.full(len(said.spread), factor * math.sqrt(2.0) * said.noise))
        sentences = _changes(problem, same, i, None, "", None, ())
        assert any("would narrow" in s for s in sentences) == offered


def test_an_excluded_candidate_says_why() -> None:
    found = about(nodes=1, deadline_s=150.0)
    assert found.row is None
    assert "deadline" in found.excluded
    assert found.to_dict()["candidate"] is None
    assert found.terms


def test_auto_explains_what_it_chose_and_c3o_its_model() -> None:
    assert about(name="auto").strategy == "ernest"
    found = about(name="c3o")
    assert found.strategy == "c3o"
    assert sum(found.terms.values()) == pytest.approx(128.0, rel=1e-6), (
        "20 s, 100 s of work that divides, 8 s of coordination"
    )
    assert "left out in turn" in found.limits


def test_unknown_candidates_and_strategies_without_one_model_are_refused() -> None:
    problem, runs = ask()
    with pytest.raises(UnknownNameError, match=r"'bx' is not among the 2 types.*did you mean 'box'"):
        explain(problem, runs, instance_type="bx")
    with pytest.raises(UnknownNameError, match="box x3 is not considered; with this type: 1, 2, 4, 8, 16 nodes"):
        explain(problem, runs, instance_type="box", node_count=3)
    with pytest.raises(InputError, match="not one model"):
        explain(problem, runs, instance_type="box", strategy_name="cloudbandit")


def test_a_candidate_is_named_by_its_label_too() -> None:
    by_label, by_parts = about("box x4", None), about("box", 4)
    assert by_label.row is not None
    assert by_parts.row is not None
    assert by_label.row.label == by_parts.row.label == "box x4"
    other = about("box x4", 8).row
    assert other is not None
    assert other.label == "box x8", "a node count that is given goes first"
    with pytest.raises(UnknownNameError, match="box x3 is not considered; with this type"):
        about("box x3", None)


def test_a_label_with_parameters_is_that_very_candidate() -> None:
    both = pd.concat([pool().head(2).assign(**{"param.batch": b}) for b in (64, 256)], ignore_index=True)
    problem, runs = build_problem(None, candidates=both)
    found = explain(problem, runs, instance_type="box x1 batch=256", strategy_name="price-only")
    assert found.row is not None
    assert found.row.label == "box x1 batch=256"
    with pytest.raises(UnknownNameError, match=r"box x1 batch=25 is not considered; did you mean 'box x1 batch=256'"):
        explain(problem, runs, instance_type="box x1 batch=25", strategy_name="price-only")


def test_the_command_prints_text_and_json(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "runs.csv", index=False)
    pool().to_csv(tmp_path / "pool.csv", index=False)
    words = ["explain", str(tmp_path / "runs.csv"), "--candidates", str(tmp_path / "pool.csv"), "--input", "scale=1"]
    words += ["--candidate", "box", "--nodes", "4"]
    text = CliRunner().invoke(app, words)
    assert text.exit_code == 0, text.output
    for heading in ("What the median is made of", "What it rests on", "What would change the answer"):
        assert heading in text.stdout
    plain = json.loads(CliRunner().invoke(app, [*words, "--format", "json"]).stdout)
    assert plain["schema"] == "recommender/explanation/1"
    assert plain["candidate"]["instance_type"] == "box"
    assert "rank" not in plain["candidate"], "it is ranked among no others"
    assert sum(plain["terms_s"].values()) == pytest.approx(plain["candidate"]["runtime_s"]["p50"], rel=1e-6)
