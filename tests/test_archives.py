"""Archives: runs under a name, their provenance row by row, what looks wrong, and `--archive NAME`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_selecta import POOL, planted, some
from typer.testing import CliRunner

from recommender.archive_report import check
from recommender.archives import Archive, Archives, export, named_or_table, read_archive
from recommender.cli import app
from recommender.datasets import fetch_dataset
from recommender.errors import InputError, UnknownNameError
from recommender.problem import build_problem
from recommender.runs import Runs, read_runs, write_runs
from recommender.strategies import strategy


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default store of this test."""
    monkeypatch.setenv("RECOMMENDER_ARCHIVES", str(tmp_path / "archives"))
    return tmp_path / "archives"


def saved(path: Path, frame: pd.DataFrame) -> Path:
    """A runs table as a file."""
    write_runs(Runs.from_frame(frame), path)
    return path


class TestAdding:
    def test_rows_keep_their_source_licence_and_day_through_every_step(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=6)
        first = saved(tmp_path / "one.csv", frame[frame["workload"] < "w003"])
        more = frame[frame["workload"] >= "w003"].assign(**{"input.size_gib": 3.0, "status": "failed"})
        second = saved(tmp_path / "two.parquet", more)
        archives = Archives()
        archives.add("jobs", first, licence="MIT")
        archives.add("jobs", second, label="cluster B")
        archive = Archives().open("jobs")
        assert len(archive.runs) == len(frame)
        table = archive.table()
        assert set(table.loc[table["workload"] == "w000", "source"]) == {"one.csv"}
        assert set(table.loc[table["workload"] == "w000", "licence"]) == {"MIT"}
        assert set(table.loc[table["workload"] == "w005", "source"]) == {"cluster B"}
        assert table.loc[table["workload"] == "w005", "licence"].isna().all()
        assert table["added_at"].notna().all()
        assert np.isnan(table.loc[table["workload"] == "w000", "input.size_gib"]).all(), "missing is not 0"
        assert set(table.loc[table["workload"] == "w005", "status"]) == {"failed"}
        export(archive, tmp_path / "out.parquet")
        pd.testing.assert_frame_equal(read_archive(tmp_path / "out.parquet").table(), table)
        export(archive, tmp_path / "out.csv", plain=True)
        assert read_runs(tmp_path / "out.csv").frame["runtime_s"].tolist() == archive.runs.frame["runtime_s"].tolist()

    def test_a_source_is_added_once_unless_it_replaces_itself(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=4)
        path, archives = saved(tmp_path / "runs.csv", frame), Archives()
        archives.add("jobs", path)
        with pytest.raises(InputError, match=f"already holds {len(frame)} runs from 'runs.csv'.*--replace"):
            archives.add("jobs", path)
        saved(path, frame[frame["workload"] == "w001"])
        assert archives.add("jobs", path, again=True).runs.workloads == ["w001"]

    def test_a_bad_table_changes_nothing(self, store: Path, tmp_path: Path) -> None:
        archives, path = Archives(), saved(tmp_path / "runs.csv", planted(workloads=4))
        archives.add("jobs", path)
        before = (store / "jobs.parquet").read_bytes()
        (tmp_path / "bad.csv").write_text("workload,instance_type,node_count,runtime_s\nw,t,1,-3\n")
        with pytest.raises(InputError, match=r"line 2.*runtime_s"):
            archives.add("jobs", tmp_path / "bad.csv")
        assert (store / "jobs.parquet").read_bytes() == before

    def test_runs_that_would_leave_nothing_believable_are_refused_as_a_whole(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=6)
        archives, path = Archives(), saved(tmp_path / "runs.csv", frame)
        archives.add("jobs", path)
        before = (store / "jobs.parquet").read_bytes()
        minutes = saved(tmp_path / "minutes.csv", frame.assign(runtime_s=frame["runtime_s"] / 60))
        with pytest.raises(InputError, match=r"minutes\.csv was not added.*differ more than tenfold.*in seconds"):
            archives.add("jobs", minutes)
        assert (store / "jobs.parquet").read_bytes() == before

    @pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
    def test_a_name_is_no_path(self, store: Path, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="cannot name an archive"):
            Archives().add(name, saved(tmp_path / "runs.csv", planted(workloads=2)))

    def test_an_unknown_name_gets_a_hint(self, store: Path, tmp_path: Path) -> None:
        Archives().add("spark", saved(tmp_path / "runs.csv", planted(workloads=2)))
        with pytest.raises(UnknownNameError, match="spark"):
            Archives().open("sprak")


class TestExporting:
    @pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
    def test_what_was_exported_is_read_again_with_its_provenance(self, store: Path, tmp_path: Path, name: str) -> None:
        frame, archives = planted(workloads=4), Archives()
        archives.add("jobs", saved(tmp_path / "one.csv", frame[frame["workload"] < "w002"]), licence="MIT")
        archives.add("jobs", saved(tmp_path / "two.csv", frame[frame["workload"] >= "w002"]))
        there = archives.open("jobs")
        export(there, tmp_path / name)
        source = named_or_table(tmp_path / name)
        assert isinstance(source, Runs)
        pd.testing.assert_frame_equal(source.frame, there.runs.frame)
        pd.testing.assert_frame_equal(archives.add("again", tmp_path / name).table(), there.table())
        with pytest.raises(InputError, match=r"already holds 80 runs from 'one\.csv', 'two\.csv'"):
            archives.add("again", tmp_path / name)
        named = archives.add("named", tmp_path / name, label="export", licence="CC0").provenance
        assert set(named["source"]) == {"export"}
        assert list(named["licence"].unique()) == ["MIT", "CC0"], "a licence that is stated stays"


class TestRemoving:
    def two(self, tmp_path: Path) -> Archives:
        """An archive of six workloads, three from each of two sources."""
        frame, archives = planted(workloads=6), Archives()
        archives.add("jobs", saved(tmp_path / "one.csv", frame[frame["workload"] < "w003"]), licence="MIT")
        archives.add("jobs", saved(tmp_path / "two.csv", frame[frame["workload"] >= "w003"]))
        return archives

    def test_a_source_or_a_workload_goes_and_the_rest_keeps_its_provenance(self, store: Path, tmp_path: Path) -> None:
        archives = self.two(tmp_path)
        assert set(archives.remove("jobs", workload="w001").workloads) == {"w001"}
        assert archives.open("jobs").runs.workloads == ["w000", "w002", "w003", "w004", "w005"]
        assert set(archives.remove("jobs", source="two.csv").workloads) == {"w003", "w004", "w005"}
        left = archives.open("jobs")
        assert left.runs.workloads == ["w000", "w002"]
        assert set(left.provenance["licence"]) == {"MIT"}
        archives.remove("jobs", source="one.csv")
        assert archives.names() == [], "an archive without runs is none"

    def test_a_whole_archive_goes_at_once(self, store: Path, tmp_path: Path) -> None:
        assert len(self.two(tmp_path).remove("jobs")) == len(planted(workloads=6))
        assert Archives().names() == []

    @pytest.mark.parametrize(
        ("name", "chosen", "match"),
        [
            ("jbos", {}, "did you mean 'jobs'"),
            ("jobs", {"source": "tow.csv"}, "no source 'tow.csv'; did you mean 'two.csv'"),
            ("jobs", {"workload": "w9"}, "no workload 'w9'.*it holds w000"),
            ("jobs", {"workload": "w000", "source": "two.csv"}, "no runs of workload 'w000' from source 'two.csv'"),
        ],
    )
    def test_what_is_not_there_is_not_removed(
        self, store: Path, tmp_path: Path, name: str, chosen: dict[str, str], match: str
    ) -> None:
        archives = self.two(tmp_path)
        with pytest.raises(UnknownNameError, match=match):
            archives.remove(name, **chosen)
        assert len(archives.open("jobs").runs) == len(planted(workloads=6))

    def test_without_any_archive_it_says_that_there_is_none(self, store: Path) -> None:
        with pytest.raises(UnknownNameError, match="there is no archive 'jobs'"):
            Archives().remove("jobs")

    def test_refuses_runs_of_which_none_completed_where_there_are_no_others(self, store: Path, tmp_path: Path) -> None:
        failed = saved(tmp_path / "failed.csv", planted(workloads=3).assign(status="failed"))
        with pytest.raises(InputError, match=r"failed\.csv was not added to archive jobs.*from failures alone"):
            Archives().add("jobs", failed)
        assert Archives().names() == []
        Archives().add("jobs", saved(tmp_path / "a.parquet", planted(workloads=3)))
        assert len(Archives().add("jobs", failed).runs) == 2 * len(planted(workloads=3))

    def test_a_directory_of_an_archives_name_does_not_hide_it(
        self, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Archives().add("jobs", saved(tmp_path / "a.parquet", planted(workloads=3)))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "jobs").mkdir()
        (tmp_path / "other").mkdir()
        assert isinstance(named_or_table("jobs"), Runs)
        assert named_or_table("other") == Path("other"), "which is read, and refused, as what it is"


class TestChecking:
    def report(self, store: Path, tmp_path: Path, frame: pd.DataFrame) -> tuple[str, float]:
        found = check(Archives().add("jobs", saved(tmp_path / "runs.parquet", frame), licence="MIT"))
        return " ".join(found.problems), found.coverage

    def test_finds_nothing_where_nothing_is(self, store: Path, tmp_path: Path) -> None:
        said, coverage = self.report(store, tmp_path, planted(workloads=20))
        assert said == ""
        assert coverage == 1.0

    def test_names_other_units_twins_and_outliers(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        scale = np.where(frame["workload"] == "w008", 1000.0, 1.0)
        twin = frame[frame["workload"] == "w004"].assign(workload="w004-copy")
        frame = frame.assign(runtime_s=frame["runtime_s"] * scale)
        frame.loc[45, "runtime_s"] = 1e6
        said, _ = self.report(store, tmp_path, pd.concat([frame, twin], ignore_index=True))
        assert "w008" in said
        assert "another unit" in said
        assert "w004 and w004-copy" in said
        assert "1 cell of w002" in said

    def test_asks_about_a_workload_that_is_off_by_the_ratio_of_two_units(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        # Levels a factor of about 1.3 apart: sixtyfold is no size, and not enough to be left out.
        spread = frame.groupby("workload")["runtime_s"].transform("median") ** 0.75
        frame["runtime_s"] /= spread / spread.median()
        typical = frame.groupby("workload")["runtime_s"].median().sort_values().index[10]
        assert self.report(store, tmp_path, frame)[0] == ""
        minutes = frame["runtime_s"].where(frame["workload"] != typical, frame["runtime_s"] / 60)
        archive = Archives().add(
            "minutes", saved(tmp_path / "m.parquet", frame.assign(runtime_s=minutes)), licence="MIT"
        )
        (said,) = check(archive).problems
        assert said.startswith(typical)
        assert "near 60: minutes" in said
        assert "it is kept" in said

    @pytest.mark.parametrize("bad", [2, 3])
    def test_asks_about_a_group_of_workloads_that_is_off_by_it(self, store: Path, tmp_path: Path, bad: int) -> None:
        frame = planted(workloads=6)
        spread = frame.groupby("workload")["runtime_s"].transform("median") ** 0.75  # sizes less apart
        frame["runtime_s"] /= spread / spread.median()
        assert self.report(store, tmp_path, frame)[0] == ""
        minutes = frame["workload"].isin([f"w{i:03}" for i in range(bad)])
        frame["runtime_s"] = frame["runtime_s"].where(~minutes, frame["runtime_s"] / 60)
        archive = Archives().add("mixed", saved(tmp_path / "m.parquet", frame), licence="MIT")
        (said,) = check(archive).problems
        assert all(f"w{i:03}" in said for i in range(bad))
        assert f"less than the other {6 - bad} workloads (near 60: minutes for seconds?)" in said

    @pytest.mark.parametrize("bad", [1, 3, 6])
    @pytest.mark.parametrize(("ratio", "near"), [(60, "near 60: minutes"), (1e-3, "near 1,000: milliseconds")])
    def test_asks_about_the_unit_of_workloads_few_or_all_by_what_they_were_billed(
        self, store: Path, tmp_path: Path, ratio: float, near: str, bad: int
    ) -> None:
        frame = planted(workloads=6).assign(instance_type="m5.large")
        frame["cost_usd"] = 0.096 * frame["node_count"] * frame["runtime_s"] / 3600
        said, _ = self.report(store, tmp_path, frame)
        assert "billed" not in said
        theirs = frame["workload"] < f"w{bad:03}"
        other = frame.assign(runtime_s=frame["runtime_s"].where(~theirs, frame["runtime_s"] / ratio))
        archive = Archives().add("other", saved(tmp_path / "o.parquet", other), licence="MIT")
        (said,) = [said for said in check(archive).problems if "billed" in said]
        assert said.startswith(f"the runs of {', '.join(f'w{i:03}' for i in range(min(bad, 5)))}")
        assert near in said

    @pytest.mark.parametrize(("factor", "said"), [(1000.0, "the median runtime is"), (1e-3, "the median runtime is")])
    def test_asks_about_an_archive_that_is_in_another_unit_as_a_whole(
        self, store: Path, tmp_path: Path, factor: float, said: str
    ) -> None:
        frame = planted(workloads=20)
        assert said in self.report(store, tmp_path, frame.assign(runtime_s=frame["runtime_s"] * factor))[0]

    def test_what_it_asks_of_units_is_asked_with_every_answer_too(self) -> None:
        frame = planted(workloads=6)
        spread = frame.groupby("workload")["runtime_s"].transform("median") ** 0.75  # sizes less apart
        frame["runtime_s"] /= spread
        minutes = frame.assign(runtime_s=frame["runtime_s"].where(frame["workload"] > "w002", frame["runtime_s"] / 60))
        mine = frame[frame["workload"] == "w004"].head(2).assign(workload="mine")
        for archive, asked in ((frame, False), (minutes, True)):
            problem, runs = build_problem(
                mine, archive=[archive], candidates=POOL, workload="mine", objective="runtime"
            )
            said = strategy("selecta").recommend(problem, runs).warnings
            assert any("near 60: minutes for seconds?" in sentence for sentence in said) == asked

    def test_names_workloads_whose_repetitions_differ(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        same = frame["workload"] == "w003"
        again = pd.concat([frame, frame[same].assign(runtime_s=frame["runtime_s"] * 5)], ignore_index=True)
        said, _ = self.report(store, tmp_path, again)
        assert f"repetitions of w003 on {len(POOL)} configurations differ up to 5.0 x" in said

    def test_knows_a_copy_of_which_a_run_was_corrected(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        twin = frame[frame["workload"] == "w004"].assign(workload="w004-copy").reset_index(drop=True)
        twin.loc[0, "runtime_s"] *= 1.01
        said, _ = self.report(store, tmp_path, pd.concat([frame, twin], ignore_index=True))
        assert f"w004 and w004-copy took the same time on {len(POOL) - 1} of the {len(POOL)}" in said

    def test_knows_a_copy_under_a_constant_factor(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        twin = frame[frame["workload"] == "w004"].assign(workload="copy", runtime_s=lambda t: 1.003 * t["runtime_s"])
        said, _ = self.report(store, tmp_path, pd.concat([frame, twin.iloc[1:]], ignore_index=True))
        both = f"on all {len(POOL) - 1} configurations both ran: one workload?"
        assert said in (f"copy took 1.003 x the time of w004 {both}", f"w004 took 0.99701 x the time of copy {both}")

    def test_names_many_copies_of_one_workload_at_once(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        twins = [frame[frame["workload"] == "w004"].assign(workload=f"copy{i}") for i in range(5)]
        said, _ = self.report(store, tmp_path, pd.concat([frame, *twins], ignore_index=True))
        assert said.count("one workload?") == 1
        assert all(name in said for name in ("w004", *(f"copy{i}" for i in range(5))))

    def test_names_runs_that_were_added_from_two_sources(self, store: Path, tmp_path: Path) -> None:
        frame, archives = planted(workloads=20), Archives()
        archives.add("jobs", saved(tmp_path / "a.parquet", frame), licence="MIT")
        assert check(archives.open("jobs")).problems == ()
        again = saved(tmp_path / "b.parquet", frame[frame["workload"] == "w003"].reset_index(drop=True))
        (said,) = check(archives.add("jobs", again, licence="MIT")).problems
        assert said.startswith(f"{len(POOL)} runs of w003, the same to the last digit, came from several sources (a.p")

    def test_runs_of_two_sources_that_meet_by_chance_are_not_called_copies(self, store: Path, tmp_path: Path) -> None:
        frame, archives = planted(workloads=20), Archives()
        noise = np.exp(np.random.default_rng(0).normal(0, 0.05, len(frame)))
        archives.add(
            "jobs", saved(tmp_path / "a.parquet", frame.assign(runtime_s=frame["runtime_s"].round())), licence="MIT"
        )
        again = frame.assign(runtime_s=(frame["runtime_s"] * noise).round())
        assert (again["runtime_s"] == frame["runtime_s"].round()).sum() > 3
        assert check(archives.add("jobs", saved(tmp_path / "b.parquet", again), licence="MIT")).problems == ()

    def test_names_rows_that_occur_twice_in_one_source(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        said, _ = self.report(store, tmp_path, pd.concat([frame, frame], ignore_index=True))
        assert said.startswith(
            f"{len(frame)} rows of w000, w001, w002, w003, w004 and 15 more repeat another in every column"
        )

    def test_repetitions_noted_coarsely_are_not_called_copies(self, store: Path, tmp_path: Path) -> None:
        frame = pd.concat([planted(workloads=20)] * 3, ignore_index=True)
        noise = np.exp(np.random.default_rng(0).normal(0, 0.1, len(frame)))
        said, _ = self.report(store, tmp_path, frame.assign(runtime_s=(frame["runtime_s"] * noise).round()))
        assert said == ""

    def test_says_that_nothing_is_learnt_where_no_run_completed(self) -> None:
        failed = Runs.from_frame(planted(workloads=3).assign(status="failed"))
        added = pd.Timestamp("2026-01-01", tz="UTC")
        provenance = pd.DataFrame({"source": "a", "licence": "MIT", "added_at": added}, failed.frame.index)
        found = check(Archive("jobs", failed, provenance))
        assert found.problems == ("no run completed: nothing can be learnt from it",)
        assert (found.thin, found.workloads, found.coverage) == (3, 3, 0.0)

    def test_counts_what_is_missing(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20).iloc[::2]
        found = check(Archives().add("jobs", saved(tmp_path / "runs.csv", frame)))
        assert found.coverage == pytest.approx(1.0)  # every other configuration, by every workload
        assert found.configurations == len(POOL) // 2
        assert any("runs that state no licence: 200 (from runs.csv)" in sentence for sentence in found.problems)

    def test_reports_on_an_archive_of_which_nothing_is_believable(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=6)
        both = pd.concat([frame, frame.assign(runtime_s=frame["runtime_s"] / 60)], ignore_index=True)
        with_provenance = both.assign(source="runs.csv", licence="MIT", added_at="2026-01-01T00:00:00Z")
        with_provenance.to_parquet(tmp_path / "old.parquet")
        found = check(read_archive(tmp_path / "old.parquet"))
        assert (found.runs, found.workloads, found.coverage) == (len(both), 6, 1.0)
        assert found.problems[0].startswith("nothing believable is left of the archive")
        assert "recommender archive remove" in found.problems[0]

    def test_an_archive_in_which_nothing_can_be_compared_is_kept_and_said(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=3).iloc[: len(POOL)]
        frame = frame.assign(**{"input.size_gib": np.arange(1.0, len(POOL) + 1)})
        archive = Archives().add("jobs", saved(tmp_path / "runs.csv", frame))
        assert any("cannot be told apart" in sentence for sentence in check(archive).problems)

    @pytest.mark.parametrize("name", ["scout", "c3o", "lynceus"])
    def test_asks_about_no_unit_of_public_tables(self, store: Path, tmp_path: Path, mirror: Path, name: str) -> None:
        found = check(Archives().add(name, fetch_dataset(name, mirror=mirror).files["runs"]))
        assert not [said for said in found.problems if "seconds" in said or "billed" in said]

    def test_lumos_is_what_is_known_of_it(self, store: Path, tmp_path: Path, mirror: Path) -> None:
        data = fetch_dataset("lumos", mirror=mirror)
        found = check(Archives().add("lumos", data.files["runs"]))
        assert (found.workloads, found.configurations) == (92, 55)
        assert found.coverage == pytest.approx(0.98, abs=0.005)
        assert not [said for said in found.problems if "left out" in said or "for seconds" in said]


class TestTheCommandLine:
    def run(self, *words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def test_keeps_shows_and_uses_an_archive(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        path = saved(tmp_path / "runs.csv", frame[frame["workload"] != "w000"])
        POOL.to_csv(tmp_path / "pool.csv", index=False)
        assert "380 runs of 19 workloads" in self.run("archive", "add", "jobs", str(path), "--licence", "MIT")
        assert json.loads(self.run("archive", "list", "--format", "json")) == [
            {"name": "jobs", "runs": 380, "workloads": 19, "sources": 1, "licences": "MIT"}
        ]
        shown = self.run("archive", "show", "jobs", "--format", "csv").splitlines()
        assert shown[0] == "source,licence,added_at,runs,workloads"
        assert shown[1].startswith("runs.csv,MIT,20")
        assert "nothing looks wrong" in self.run("archive", "check", "jobs")
        asked = ("--candidates", str(tmp_path / "pool.csv"), "--strategy", "selecta", "--workload", "new")
        by_name = self.run("suggest", *asked, "--archive", "jobs", "--format", "json")
        by_file = self.run("suggest", *asked, "--archive", str(path), "--format", "json")
        assert by_name == by_file
        assert "reference 1 of 2" in by_name
        self.run("archive", "export", "jobs", str(tmp_path / "out.parquet"))
        assert self.run("suggest", *asked, "--archive", str(tmp_path / "out.parquet"), "--format", "json") == by_name

    def test_suggest_says_what_recommend_would_warn_of(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=20)
        path = saved(tmp_path / "one.csv", frame[frame["workload"] == "w001"])
        POOL.to_csv(tmp_path / "pool.csv", index=False)
        asked = ("--candidates", str(tmp_path / "pool.csv"), "--strategy", "selecta", "--workload", "new")
        done = CliRunner().invoke(app, ["suggest", *asked, "--archive", str(path), "--format", "json"])
        assert done.exit_code == 0, done.output
        assert "note: the archive holds 1 workload:" in done.stderr
        assert {r["why"].split(": ")[1] for r in json.loads(done.stdout)[:2]} == {"the archive's best on average"}

    @pytest.mark.parametrize("name", ["prior", "cloudbandit"])
    def test_suggest_says_that_the_archive_is_of_the_workload_alone_and_that_a_unit_is_another(
        self, store: Path, tmp_path: Path, name: str
    ) -> None:
        frame = planted(workloads=20)
        mine = some(frame, "w001", [2, 11]).assign(workload="new")
        own, minutes = (
            saved(tmp_path / f"own{ratio}.csv", mine.assign(runtime_s=mine["runtime_s"] / ratio)) for ratio in (1, 3600)
        )
        POOL.assign(usd_per_hour=0.1).to_csv(tmp_path / "pool.csv", index=False)
        asked = ("--candidates", str(tmp_path / "pool.csv"), "--strategy", name)
        done = CliRunner().invoke(app, ["suggest", str(own), *asked, "--archive", str(own)])
        assert done.stderr.count("the archive holds runs of new alone") == 1
        archive = str(saved(tmp_path / "others.csv", frame))
        done = CliRunner().invoke(app, ["suggest", str(minutes), *asked, "--archive", archive])
        assert done.stderr.count("not noted in seconds") == 1

    def test_removes_some_runs_and_then_the_rest_and_says_so(self, store: Path, tmp_path: Path) -> None:
        self.run("archive", "add", "jobs", str(saved(tmp_path / "runs.csv", planted(workloads=2))))
        said = self.run("archive", "remove", "jobs", "--workload", "w000")
        assert said == f"jobs: removed {len(POOL)} runs of 1 workload; left: {len(POOL)} runs\n"
        said = self.run("archive", "remove", "jobs")
        assert said == f"jobs: removed {len(POOL)} runs of 1 workload; nothing is left of it\n"

    def test_adding_other_jobs_under_the_same_names_says_so(self, store: Path, tmp_path: Path) -> None:
        frame = planted(workloads=2)
        self.run("archive", "add", "jobs", str(saved(tmp_path / "one.csv", frame)))
        other = saved(tmp_path / "two.csv", frame.assign(runtime_s=frame["runtime_s"] * 6))
        done = CliRunner().invoke(app, ["archive", "add", "jobs", str(other)])
        assert "w000, w001 are in several of the sources given" in done.stderr

    def test_an_archive_that_cannot_be_read_hides_no_other_and_can_be_removed(
        self, store: Path, tmp_path: Path
    ) -> None:
        path = saved(tmp_path / "runs.csv", planted(workloads=2))
        for name in ("bad", "good"):
            self.run("archive", "add", name, str(path))
        (store / "bad.parquet").write_bytes((store / "bad.parquet").read_bytes()[:-100])
        listed = CliRunner().invoke(app, ["archive", "list", "--format", "json"])
        assert listed.exit_code == 0
        assert [row["name"] for row in json.loads(listed.stdout)] == ["good"]
        assert "archive bad cannot be read" in listed.stderr
        for words in (["show"], ["check"], ["remove", "--workload", "w000"]):
            done = CliRunner().invoke(app, ["archive", words[0], "bad", *words[1:]])
            assert isinstance(done.exception, InputError)
            assert "remove it: recommender archive remove bad" in str(done.exception)
        said = self.run("archive", "remove", "bad")
        assert said.startswith("bad: removed; what it held is not known, since its file could not be read: ")
        assert "not a readable Parquet file" in said
        assert Archives().names() == ["good"]

    def test_without_archives_says_how_to_make_one(self, store: Path) -> None:
        done = CliRunner().invoke(app, ["archive", "list"])
        assert done.exit_code == 0
        assert "recommender archive add" in done.stderr


def test_a_name_that_is_neither_file_nor_archive_is_refused_with_those_there_are(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no such file, and no archive of that name.*it holds: none"):
        named_or_table("nowhere")
    Archives().add("spark", saved(tmp_path / "runs.csv", planted(workloads=2)))
    with pytest.raises(UnknownNameError, match=r"did you mean 'spark'.*it holds: spark"):
        named_or_table("sprak")
