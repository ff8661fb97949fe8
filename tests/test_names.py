"""What workloads and applications are called changes no answer: only what they ran is evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_selecta import POOL, planted, some
from test_selecta import ask as ask_planted

from recommender.datasets import fetch_dataset
from recommender.models.conformal import calibrate
from recommender.models.contexts import by_content
from recommender.models.yardsticks import ColumnMean
from recommender.problem import build_problem
from recommender.runs import Runs
from recommender.strategies import strategy


def renamed(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Workloads and applications under other names, in another order of the alphabet."""
    rng = np.random.default_rng(seed)
    for column in ("workload", "application"):
        names = frame[column].unique()
        other = [f"{column} {i:03}" for i in rng.permutation(len(names))]
        frame = frame.assign(**{column: frame[column].map(dict(zip(names, other, strict=True)))})
    return frame


@pytest.mark.parametrize(
    "name", ["column-mean", "selecta", "quasar", "neighbours", "prior", "paris", "transfer", "c3o"]
)
def test_of_a_public_table_change_neither_answer_nor_proposal(name: str, mirror: Path) -> None:
    data = fetch_dataset("scout", mirror=mirror)
    workload = data.runs.workloads[0]
    own, archive = data.runs.of(workload).frame.iloc[2:42:8], data.runs.without(workload).frame
    candidates = data.candidates.iloc[::2]
    found = []
    for mine, others in ((own, archive), *((own.assign(workload="x"), renamed(archive, seed)) for seed in (0, 1))):
        problem, runs = build_problem(mine, archive=[others], candidates=candidates, objective="runtime", top=100)
        answer = strategy(name).recommend(problem, runs)
        wanted = strategy(name).suggest(problem, runs)
        times = {row.label: row.runtime_s.to_dict() for row in answer.rows if row.runtime_s}
        found.append((times, wanted and wanted.label))
    assert len(found[0][0]) > 20
    for times, wanted in found[1:]:
        assert wanted == found[0][1]
        assert list(times) == list(found[0][0])
        for label, expected in found[0][0].items():
            assert times[label] == pytest.approx(expected, rel=1e-9)


def test_change_no_calibration_of_more_workloads_than_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.models.conformal.MOST_GROUPS", 4)
    frame = planted(workloads=12, noise=0.1).assign(application=lambda f: f["workload"])
    own = some(frame, "w000", [1, 8]).assign(workload="new")
    archive = frame[frame["workload"] != "w000"]
    first, *rest = (
        calibrate(ColumnMean(), *ask_planted(f, own)).factor for f in (archive, *(renamed(archive, s) for s in (0, 1)))
    )
    assert rest == pytest.approx([first, first], rel=1e-9)


class TestTheOrderOfWorkloads:
    def test_is_that_of_their_runs_on_what_they_ran(self) -> None:
        rows = [
            ("b", "small", 20.0),
            ("b", "large", 5.0),
            ("a", "small", 9.0),
            ("c", "large", 4.0),
            ("a", "large", 5.0),
        ]
        frame = pd.DataFrame(rows, columns=["workload", "instance_type", "runtime_s"]).assign(node_count=1)
        assert by_content(Runs.from_frame(frame)).tolist() == [2, 2, 1, 0, 1]

    def test_does_not_depend_on_names_or_on_the_order_of_rows(self) -> None:
        frame = planted(workloads=12, keep=0.5).assign(application=lambda f: f["workload"].str[-1])
        number = by_content(Runs.from_frame(frame))
        assert (by_content(Runs.from_frame(renamed(frame, 0))) == number).all()
        order = np.random.default_rng(0).permutation(len(frame))
        shuffled = by_content(Runs.from_frame(frame.iloc[order].reset_index(drop=True)))
        assert (shuffled == number[order]).all()

    def test_tells_copies_apart_by_their_applications(self) -> None:
        one = POOL.head(3)[["instance_type", "node_count"]].assign(runtime_s=[1.0, 2.0, 3.0])
        other = one.assign(runtime_s=[4.0, 5.0, 6.0])
        parts = [("w", "p", one), ("v", "q", one), ("u", "q", other)]
        for names in ("wvu", "vwu", "uwv"):
            called = dict(zip("wvu", names, strict=True))
            frame = pd.concat([t.assign(workload=called[w], application=a) for w, a, t in parts], ignore_index=True)
            assert by_content(Runs.from_frame(frame))[::3].tolist() == [1, 0, 2]

    def test_is_none_of_no_runs(self) -> None:
        assert not len(by_content(Runs.from_frame(planted(workloads=1).iloc[:0])))
