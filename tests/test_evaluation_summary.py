"""The grid, its resumption and its statistics: the same results however they are computed, and numbers by hand."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from replay_table import CANDIDATES, Scripted, table

from recommender import checkpoint, evaluation
from recommender.errors import InputError, RecommenderError, UnknownNameError
from recommender.evaluation import SEED_FREE, YARDSTICKS, Evaluation, evaluate, plan, run
from recommender.replay import COLUMNS, episode
from recommender.report.evaluation import as_csv, as_json, as_text
from recommender.report.regret_plots import against_runs, write_plots
from recommender.strategies import strategy
from recommender.summary import checked, optimum_cost_usd, quantile, standing_still, summarise

BACKENDS: tuple[evaluation.Backend, ...] = ("loky", "dask")


def planned(**options: Any) -> Evaluation:
    """An evaluation of the hand-made table."""
    return plan(table(), **{"candidates": CANDIDATES, "steps": 3, "seeds": 6, **options})


@cache
def whole() -> pd.DataFrame:
    """Its results, never interrupted."""
    return run(planned())


def same(frame: pd.DataFrame) -> str:
    """What must not differ."""
    return frame.drop(columns="ask_seconds").to_csv(index=False)


def results(*episodes: tuple[str, str, int, Sequence[float | None]], **columns: Any) -> pd.DataFrame:
    """Results with the given true values of recommendations: strategy, workload, seed, value after 0, 1, ... runs."""
    rows: list[dict[str, Any]] = []
    for name, workload, seed, values in episodes:
        for step, value in enumerate(values):
            answer = {"recommended_instance_type": "a", "recommended_node_count": 1, "normalised_recommendation": value}
            cost = {"cost_usd": 2.0 if step else None, "search_cost_usd": 2.0 * step}
            incumbent = {"incumbent_value": 2.0, "normalised_incumbent": 1.25} if step else {}
            rows.append(
                {"strategy": name, "workload": workload, "seed": seed, "step": step} | answer | cost | incumbent
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(**columns)


class TestTheGrid:
    def test_has_the_columns_and_types_of_the_contract_and_a_row_a_step(self, tmp_path: Path) -> None:
        frame = run(planned(), out=tmp_path / "results.csv")
        assert list(frame) == list(COLUMNS)
        read = pd.read_csv(tmp_path / "results.csv")
        assert list(read) == list(COLUMNS)
        for name in ("seed", "step"):
            assert read[name].dtype == np.int64
        assert read["stopped"].dtype == bool
        text = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
        assert text[1].startswith("random,one,0,0,,,,,,,,"), "missing is empty"
        assert (
            ",1,1.25," in text[2] or ",1,1.875," in text[2] or ",1,1.0," in text[2] or text[2].split(",")[6] == "failed"
        )
        assert set(read["strategy"]) == set(YARDSTICKS)
        assert list(dict.fromkeys(zip(read["strategy"], read["workload"], read["seed"], strict=True))) == planned().keys
        for _, rows in read.groupby(["strategy", "workload", "seed"]):
            assert rows["step"].tolist() == list(range(len(rows)))
            assert rows["search_cost_usd"].tolist() == pytest.approx(rows["cost_usd"].fillna(0).cumsum().tolist())
            assert (rows["normalised_incumbent"].dropna() >= 1).all()
            assert rows["incumbent_value"].dropna().is_monotonic_decreasing

    def test_is_the_same_for_any_number_of_jobs_and_backend(self) -> None:
        two, dask = (run(planned(), jobs=2, backend=backend) for backend in BACKENDS)
        assert same(whole()) == same(two) == same(dask)

    def test_an_own_strategy_is_replayed_beside_the_yardsticks(self) -> None:
        frame = evaluate(
            table(),
            strategies={"mine": Scripted(("b", "a"))},
            candidates=CANDIDATES,
            steps=3,
            seeds=2,
            workloads=["two"],
        )
        assert list(frame["strategy"].unique()) == ["mine", *YARDSTICKS]
        mine = frame[frame["strategy"] == "mine"]
        assert mine["search_cost_usd"].tolist() == pytest.approx([0.0, 1.6, 3.6] * 2)
        assert mine["normalised_recommendation"].tolist()[1:3] == pytest.approx([1.28, 1.28])

    @pytest.mark.parametrize("name", SEED_FREE)
    def test_strategies_that_are_asked_once_for_all_seeds_do_not_depend_on_the_seed(self, name: str) -> None:
        (world,) = planned(workloads=["one"], deadline_quantile=0.9).worlds
        memory: dict[Any, Any] = {}
        for seed in range(4):
            alone = episode(name, strategy(name), world, seed=seed, steps=4)
            shared = episode(name, strategy(name), world, seed=seed, steps=4, memory=memory)
            assert same(pd.DataFrame(alone)) == same(pd.DataFrame(shared))

    def test_skips_workloads_that_cannot_be_asked_about_and_says_so(self) -> None:
        frame = table(("bad", "a", 1, 5.0, "failed", None))
        made = plan(frame, candidates=CANDIDATES, steps=1, seeds=1)
        assert [w.problem.workload for w in made.worlds] == ["one", "two"]
        assert made.notes[0] == "left out: no recorded run of bad on a candidate completed: there is nothing to find"
        with pytest.raises(InputError, match="no recorded run of bad"):
            plan(frame, candidates=CANDIDATES, workloads=["bad"])

    def test_says_that_without_applications_archives_hold_other_sizes_of_a_program(self) -> None:
        def notes(frame: pd.DataFrame, **options: Any) -> tuple[str, ...]:
            return plan(frame, candidates=CANDIDATES, steps=1, seeds=1, **options).notes

        assert [note.startswith("applications are not named") for note in notes(table())] == [True]
        assert notes(table(), group_by="workload") == ()
        assert notes(table().assign(application="sort")) == ()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"strategies": ["rndom"]}, "did you mean 'random'"),
            ({"strategies": "random"}, "a list of names is needed"),
            ({"workloads": ["tow"]}, "did you mean 'two'"),
            ({"steps": 0}, "steps is 0"),
            ({"seeds": 0}, "seeds is 0"),
            ({"deadline_quantile": 1.5}, "deadline quantile is 1.5"),
            ({"region": "us-esat-1"}, "region 'us-esat-1' is not in the catalogue; did you mean"),
        ],
    )
    def test_refuses_what_it_does_not_know(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises((InputError, UnknownNameError), match=words):
            planned(**options)

    def test_refuses_an_empty_table_and_no_jobs(self) -> None:
        with pytest.raises(InputError, match="no rows"):
            plan(table().head(0), candidates=CANDIDATES)
        with pytest.raises(InputError, match="jobs is 0"):
            run(planned(), jobs=0)

    def test_an_unreachable_scheduler_is_one_sentence(self) -> None:
        import dask

        said = pytest.raises(RecommenderError, match=r"no dask scheduler answers at 'tcp://127\.0\.0\.1:9'")
        with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}), said:
            run(planned(), backend="dask", dask_address="tcp://127.0.0.1:9")


class TestResumption:
    class Stop(Exception):
        """Stands for a power cut."""

    def interrupted(self, out: Path, after: int, how: dict[str, Any] | None = None, **options: Any) -> None:
        """Compute some batches, then stop."""
        seen = []

        def progress(done: int, total: int) -> None:
            seen.append(done)
            if len(seen) == after:
                raise self.Stop

        with pytest.raises(self.Stop):
            run(planned(**options), out=out, progress=progress, **(how or {}))

    def test_continues_where_it_was_interrupted_to_the_same_results(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "results.csv"
        self.interrupted(out, 2)
        assert not out.exists()
        kept = (tmp_path / "results.csv.partial").read_bytes()
        assert kept.count(b"\n") == 1 + 6, "a header, five seeds of a task and the sixth"
        computed = []
        real = evaluation.episode

        def counting(*args: Any, **kwargs: Any) -> Any:
            computed.append(kwargs["seed"])
            return real(*args, **kwargs)

        monkeypatch.setattr(evaluation, "episode", counting)
        assert same(run(planned(), out=out)) == same(whole())
        assert len(computed) == len(planned().keys) - 6
        written = [line.rpartition(",")[0] for line in out.read_text(encoding="utf-8").splitlines()]
        assert written == same(whole()).splitlines()
        assert out.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
        assert list(tmp_path.iterdir()) == [out], "nothing is left beside it"

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_workers_are_stopped_and_what_they_finished_is_kept(self, tmp_path: Path, backend: str) -> None:
        out = tmp_path / "results.csv"
        self.interrupted(out, 2, {"jobs": 2, "backend": backend}, seeds=20)
        lines = (tmp_path / "results.csv.partial").read_bytes().count(b"\n")
        assert 1 + 2 <= lines < 1 + 2 * 3 * 20
        assert same(run(planned(seeds=20), out=out)) == same(run(planned(seeds=20)))

    @pytest.mark.parametrize("cut", [1, 700])
    def test_a_torn_last_line_is_dropped(self, tmp_path: Path, cut: int) -> None:
        out, partial = tmp_path / "results.csv", tmp_path / "results.csv.partial"
        self.interrupted(out, 1)
        partial.write_bytes(partial.read_bytes()[:-cut])
        assert same(run(planned(), out=out)) == same(whole())

    @pytest.mark.parametrize("torn", [b"", b'{"eval', b'{"evaluation": {"vers'])
    def test_a_torn_header_starts_anew(self, tmp_path: Path, torn: bytes) -> None:
        out, partial = tmp_path / "results.csv", tmp_path / "results.csv.partial"
        partial.write_bytes(torn)
        with checkpoint.Checkpoint(out, {"version": "1"}) as kept:
            assert kept.finished == {}
        assert json.loads(partial.read_bytes()) == {"evaluation": {"version": "1"}}

    @pytest.mark.parametrize(
        ("options", "differing"),
        [
            ({"steps": 2}, "steps"),
            ({"seeds": 7}, "seeds"),
            ({"objective": "runtime"}, "options"),
            ({"strategies": ["price-only"]}, "strategies"),
            ({"workloads": ["one"]}, "workloads"),
            ({"candidates": CANDIDATES.assign(usd_per_hour=1.0)}, "candidates"),
        ],
    )
    def test_does_not_mix_evaluations(self, tmp_path: Path, options: dict[str, Any], differing: str) -> None:
        out = tmp_path / "results.csv"
        self.interrupted(out, 1)
        before = (tmp_path / "results.csv.partial").read_bytes()
        with pytest.raises(InputError, match=rf"another evaluation \(it differs in: {differing}\).*--restart"):
            run(planned(**options), out=out)
        assert (tmp_path / "results.csv.partial").read_bytes() == before

    def test_restart_throws_another_evaluations_episodes_away(self, tmp_path: Path) -> None:
        out = tmp_path / "results.csv"
        self.interrupted(out, 1, steps=2)
        assert same(run(planned(), out=out, restart=True)) == same(whole())

    def test_another_version_does_not_continue(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = tmp_path / "results.csv"
        self.interrupted(out, 1)
        monkeypatch.setattr(evaluation, "version", lambda _: "99.0")
        with pytest.raises(InputError, match="differs in: version"):
            run(planned(), out=out)

    def test_a_foreign_file_is_not_overwritten(self, tmp_path: Path) -> None:
        partial = tmp_path / "results.csv.partial"
        partial.write_text("my notes\n", encoding="utf-8")
        with pytest.raises(InputError, match="another evaluation"):
            run(planned(), out=tmp_path / "results.csv")
        assert partial.read_text(encoding="utf-8") == "my notes\n"

    def test_two_processes_cannot_write_one_file(self, tmp_path: Path) -> None:
        with (tmp_path / "results.csv.partial").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(InputError, match="in use: another process"):
                run(planned(), out=tmp_path / "results.csv")

    @pytest.mark.parametrize(("name", "words"), [("x.txt", "ending in .csv"), ("no/such/x.csv", "cannot be written")])
    def test_what_cannot_be_written_is_refused_before_anything_is_computed(
        self, tmp_path: Path, name: str, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evaluation, "episode", None)
        with pytest.raises(InputError, match=words):
            run(planned(), out=tmp_path / name)

    def test_episodes_reach_the_disk_as_they_finish(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced = []
        monkeypatch.setattr(checkpoint, "SYNC_S", 0.0)
        monkeypatch.setattr(checkpoint.os, "fsync", synced.append)
        with checkpoint.Checkpoint(tmp_path / "r.csv", {"version": "1"}) as kept:
            kept.append({("s", "w", 0): [{"step": 0, "x": 0.1}], ("s", "w", 1): []})
            lines = kept.path.read_text(encoding="utf-8").splitlines()
        assert [json.loads(line).get("key") for line in lines] == [None, ["s", "w", 0], ["s", "w", 1]]
        assert len(synced) == 3


class TestTheSummary:
    """Two workloads, two seeds; values of the recommendation after 0, 1 and 2 runs."""

    FRAME = results(
        ("s", "v", 0, [2.0, 1.0, 1.0]),
        ("s", "v", 1, [1.04, 1.2, 1.05]),
        ("s", "w", 0, [1.5, None, None]),
        ("s", "w", 1, [1.1]),
    )

    def test_by_hand(self) -> None:
        (row,) = summarise(self.FRAME).to_dict("records")
        assert {k: row[k] for k in ("strategy", "workloads", "episodes", "steps")} == {
            "strategy": "s",
            "workloads": 2,
            "episodes": 4,
            "steps": 2,
        }
        # At the end 1, 1.05, none and 1.1 (which stopped at once and stands still).
        assert row["recommendation_median"] == pytest.approx((1.05 + 1.1) / 2)
        assert math.isnan(row["recommendation_p90"]), "more than a tenth have no value"
        assert (row["within_5_percent"], row["within_10_percent"]) == (0.5, 0.75)
        assert (row["infeasible"], row["unanswered"]) == (0.25, 0.0)
        assert row["runs"] == 6 / 4
        assert row["search_cost_usd"] == 12 / 4
        # Every first incumbent cost what it is worth, so the objective is cost and the optimum 2 / 1.25 USD.
        assert row["relative_search_cost"] == pytest.approx(3 / 1.6)
        # After 1 run, 2 (the early luck did not last), never, never.
        assert math.isnan(row["runs_to_5_percent"])
        (v, w) = summarise(self.FRAME, by="workload").to_dict("records")
        assert (v["workload"], v["episodes"], v["runs_to_5_percent"]) == ("v", 2, 1.5)
        assert (w["within_10_percent"], w["infeasible"], w["runs"]) == (0.5, 0.5, 1.0)

    def test_a_missing_answer_is_told_from_an_infeasible_one(self) -> None:
        silent = self.FRAME.assign(recommended_instance_type=None, normalised_recommendation=None)
        (row,) = summarise(silent).to_dict("records")
        assert (row["infeasible"], row["unanswered"], row["within_10_percent"]) == (0.0, 1.0, 0.0)
        assert math.isnan(row["recommendation_median"])

    def test_intervals_resample_workloads_not_episodes(self) -> None:
        """With two workloads, one all good and one all bad, a mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
        frame = results(*(("s", w, seed, [value]) for w, value in (("v", 1.0), ("w", 3.0)) for seed in range(50)))
        (row,) = summarise(frame).to_dict("records")
        found = [row[f"within_5_percent{end}"] for end in ("_low", "", "_high")]
        assert found == [0.0, 0.5, 1.0]
        alike = results(*(("s", w, seed, [1.0 + seed]) for w in "vw" for seed in range(50)))
        (row,) = summarise(alike).to_dict("records")
        assert row["within_5_percent_low"] == row["within_5_percent_high"] == 0.02

    def test_the_same_twice_and_whatever_the_order_of_rows(self) -> None:
        shuffled = self.FRAME.sample(frac=1, random_state=1)
        pd.testing.assert_frame_equal(summarise(self.FRAME), summarise(shuffled))

    def test_survives_a_round_trip_through_a_file(self, tmp_path: Path) -> None:
        whole().to_csv(tmp_path / "r.csv", index=False)
        pd.testing.assert_frame_equal(summarise(whole()), summarise(pd.read_csv(tmp_path / "r.csv")))

    def test_a_quantile_is_infinite_where_an_infinite_value_has_weight(self) -> None:
        values = np.array([[3.0, 1.0, 2.0], [1.0, math.inf, 2.0], [math.inf, 1.0, math.inf]])
        assert quantile(values, 0.5).tolist() == [2.0, 2.0, math.inf]
        assert quantile(values, 0.75).tolist() == [2.5, math.inf, math.inf]
        rng = np.random.default_rng(0).normal(size=(5, 8))
        assert quantile(rng, 0.9) == pytest.approx(np.quantile(rng, 0.9, axis=1))

    def test_a_stopped_episode_stands_still(self) -> None:
        wide = standing_still(checked(self.FRAME), ["search_cost_usd", "normalised_recommendation"], 3)
        assert wide["search_cost_usd"].tolist() == [[0, 2, 4, 4], [0, 2, 4, 4], [0, 2, 4, 4], [0, 0, 0, 0]]
        assert wide["normalised_recommendation"][3].tolist() == [1.1] * 4

    @pytest.mark.parametrize(("objective", "cost"), [("cost", 0.8), ("runtime", 0.8)])
    def test_the_optimums_cost_is_read_from_the_results(self, objective: Any, cost: float) -> None:
        frame = run(planned(objective=objective, workloads=["one"], steps=4))
        assert optimum_cost_usd(frame) == {"one": pytest.approx(cost)}

    def test_a_table_without_prices_is_judged_by_runtime_and_its_search_costs_nothing_that_is_known(
        self, tmp_path: Path
    ) -> None:
        bare = CANDIDATES.drop(columns="usd_per_hour")
        frame = table().drop(columns="cost_usd")
        results = evaluate(
            frame,
            candidates=bare,
            strategies=["cherrypick", "auto"],
            objective="runtime",
            steps=3,
            seeds=2,
            out=tmp_path / "r.csv",
        )
        assert results.loc[results["step"] > 0, "search_cost_usd"].isna().all()
        assert results["recommended_instance_type"].notna().any()
        summary = summarise(pd.read_csv(tmp_path / "r.csv")).set_index("strategy")
        assert summary["search_cost_usd"].drop(["column-mean", "best-fixed"]).isna().all()
        assert summary.loc["cherrypick", "within_10_percent"] > 0
        assert " 0 USD" not in as_text(results).split("cherrypick")[1].splitlines()[0]
        assert [path.name for path in write_plots(results, tmp_path)] == ["regret-runs.png", "regret-workloads.png"]

    def test_a_search_budget_needs_to_know_what_runs_cost(self) -> None:
        bare = CANDIDATES.drop(columns="usd_per_hour")
        with pytest.raises(InputError, match="a search budget was given, but what some runs of one cost is not known"):
            evaluate(table(), candidates=bare, objective="runtime", search_budget_runs=2.0)

    def test_an_unknown_cost_stays_unknown(self) -> None:
        frame = evaluate(table(), candidates=CANDIDATES, objective="runtime", steps=1, seeds=1, workloads=["two"])
        if not (frame["normalised_incumbent"] == 1.0).any():
            assert math.isnan(optimum_cost_usd(frame)["two"])
        nothing = frame[frame["step"] == 0]
        assert math.isnan(optimum_cost_usd(nothing)["two"])
        assert summarise(nothing)["relative_search_cost"].isna().all()

    @pytest.mark.parametrize(
        ("frame", "words"),
        [
            (FRAME.drop(columns="stopped"), "column 'stopped' is missing"),
            (FRAME.head(0), "no rows"),
            (FRAME[(FRAME["workload"] == "v") | (FRAME["seed"] == 0)], "incomplete"),
            (pd.concat([FRAME, FRAME]), "twice"),
        ],
    )
    def test_refuses_what_are_no_results(self, frame: pd.DataFrame, words: str) -> None:
        with pytest.raises(InputError, match=words):
            summarise(frame)


class TestReports:
    def test_text_names_every_strategy_and_says_beyond_where_it_was_not_reached(self) -> None:
        text = as_text(TestTheSummary.FRAME)
        assert "After at most 2 runs; 2 workloads, 4 episodes a strategy." in text
        assert [line.split()[:4] for line in text.splitlines() if line.startswith("s ")] == [
            ["s", "1.075", "[1.025,", "-]"]
        ]
        assert "> 2" in text
        assert "$3.00" in text
        assert not [line for line in text.splitlines() if line != line.rstrip()]

    def test_json_is_split_by_workload_and_plain(self) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        document = json.loads(as_json(TestTheSummary.FRAME, ["a note"]), parse_constant=refuse)
        assert document["schema"] == "recommender/evaluation/1"
        assert (document["steps"], document["notes"]) == (2, ["a note"])
        (row,) = document["strategies"]
        assert (row["strategy"], row["workload_count"], row["within_10_percent"]) == ("s", 2, 0.75)
        assert row["recommendation_p90"] is None
        assert [(w["workload"], w["within_10_percent"]) for w in row["workloads"]] == [("v", 1.0), ("w", 0.5)]

    def test_csv_is_the_summary(self) -> None:
        lines = as_csv(TestTheSummary.FRAME).splitlines()
        assert lines[0].startswith("strategy,workloads,episodes,steps,recommendation_median,recommendation_median_low")
        assert lines[1].startswith("s,2,4,2,1.075")
        assert len(lines) == 2

    def test_plots_are_written_and_the_same_bytes_twice(self, tmp_path: Path) -> None:
        frame = whole()
        first, second = (write_plots(frame, tmp_path / name) for name in ("a", "b"))
        assert [path.name for path in first] == ["regret-runs.png", "regret-usd.png", "regret-workloads.png"]
        assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in first)
        (tmp_path / "file").write_text("x", encoding="utf-8")
        with pytest.raises(InputError, match="name a writable directory"):
            write_plots(frame, tmp_path / "file")

    def test_a_curve_starts_where_half_the_episodes_have_a_value_and_stands_still(self) -> None:
        from matplotlib.figure import Figure

        frame = results(("s", "v", 0, [None, 1.5, 1.2, 1.2]), ("t", "v", 0, [1.1]))
        axes = against_runs(frame, Figure().add_subplot())
        curves = {
            line.get_label(): line.get_xydata().tolist() for line in axes.get_lines() if len(line.get_xydata()) > 2
        }
        assert curves["s"] == [[1.0, pytest.approx(50.0)], [2.0, pytest.approx(20.0)], [3.0, pytest.approx(20.0)]]
        assert curves["t"] == [[float(n), pytest.approx(10.0)] for n in range(4)]

    def test_ten_lines_of_the_library_are_enough(self) -> None:
        from recommender import evaluate, summarise

        results = evaluate(table(), candidates=CANDIDATES, strategies=["price-only"], steps=2, seeds=2)
        summary = summarise(results).set_index("strategy")
        assert list(summary.index) == ["price-only", *YARDSTICKS]
        assert summary.loc["price-only", "search_cost_usd"] == 0.0
