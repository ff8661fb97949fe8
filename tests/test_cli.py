"""The command line through a real process: what is printed where, exit codes, and what is refused in one line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recommender.datasets import fetch_dataset
from recommender.runs import Runs, write_runs

ROOT = Path(__file__).resolve().parents[1]
WORKLOAD = "kmeans_bigdata_spark15"
HEADER = "workload,instance_type,node_count,runtime_s"
QUANTILES = ["p10", "p50", "p90"]
ROW = [
    *("rank", "instance_type", "node_count", "region", "purchase_option", "runtime_s", "cost_usd"),
    *("usd_per_hour", "deadline_probability", "evidence", "price_quality", "reason"),
]


@dataclass(frozen=True)
class Done:
    """What a process left behind."""

    code: int
    out: str
    err: str


def run(*arguments: str, cwd: Path, **environment: str) -> Done:
    """`python -m recommender ARGUMENTS` in an environment of its own, output piped."""
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS", "PY_COLORS")}
    done = subprocess.run(
        [sys.executable, "-m", "recommender", *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert b"\x1b" not in done.stdout + done.stderr, "colour in a pipe"
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


# Runs tables that are refused: content, and what the one line on stderr names (the file is added).
BAD_RUNS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "unbalanced": (f'{HEADER}\ns,m5.large,1,10\n"s,m5.large,1,10\n'.encode(), ("line 3", "quotes")),
    "ragged": (f"{HEADER}\ns,m5.large,1,10\ns,m5.large,1\n".encode(), ("line 3", "'runtime_s'", "3 cells")),
    "empty": (b"", ("line 1", "empty file")),
    "latin1": (f"{HEADER}\ns\xf6rt,m5.large,1,10\n".encode("latin-1"), ("line 2", "'workload'", "UTF-8")),
    "formula": (f"{HEADER}\ns,m5.large,1,9\n=1+2,m5.large,1,9\n".encode(), ("line 3", "'workload'", "'=1+2'")),
    "nan": (f"{HEADER}\ns,m5.large,1,NaN\n".encode(), ("line 2", "'runtime_s'", "'NaN'", "seconds")),
    "negative": (f"{HEADER}\ns,m5.large,1,-5\n".encode(), ("line 2", "'runtime_s'", "'-5'", "above 0")),
    "nodes": (f"{HEADER}\ns,m5.large,1e9,5\n".encode(), ("line 2", "'node_count'", "'1e9'", "1 to 100000")),
    "twice": (f"{HEADER},runtime_s\ns,m5.large,1,5,6\n".encode(), ("line 1", "'runtime_s'", "twice")),
    "path": (f"{HEADER}\n../../etc/passwd,m5.large,1,5\n".encode(), ("line 2", "'workload'", "'../../etc/passwd'")),
}
# Other requests that are refused in one line: arguments, and what the line names.
REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "several workloads": (("recommend", "all.csv"), ("2 workloads", WORKLOAD, "--workload")),
    "unknown strategy": (("recommend", "one.csv", "--strategy", "ernst"), ("'ernst'", "did you mean 'ernest'")),
    "infeasible": (
        ("recommend", "one.csv", "--candidates", "candidates.csv", "--deadline", "1s"),
        ("deadline 64 (", "failed 5 (", "nearest relaxation", "--deadline "),
    ),
    "price table": (
        ("recommend", "one.csv", "--prices", "candidates.csv"),
        ("candidates.csv", "line 1", "'node_count'", "prices table"),
    ),
    "candidate key": (
        ("recommend", "one.csv", "--candidates", "doubled.csv"),
        ("doubled.csv", "line 3", "'c4.large, 4'", "each combination once"),
    ),
}
HELP = {
    "": ("recommend", "suggest", "profile", "catalogue", "datasets", "strategies", "--version"),
    "recommend": (
        *("--workload", "--archive", "--candidates", "--strategy", "--objective", "--deadline", "--budget", "--top"),
        *("--confidence", "--purchase", "--region", "--max-nodes", "--input", "--prices", "--seed", "--format"),
    ),
    "suggest": ("--count", "--workload", "--deadline", "--format", "--seed"),
    "profile": ("--workload", "--out", "--cores", "--scales", "--repeat", "--time-limit", "--resume"),
    "strategies": ("--help",),
    "catalogue list": ("--min-vcpus", "--region", "--format", "--family"),
    "datasets fetch": ("--mirror", "--cache", "--out"),
}
USAGE = {
    "unknown option": ("recommend", "--nope"),
    "unknown command": ("recomend",),
    "not a format": ("recommend", "one.csv", "--format", "xml"),
}
ANSWERS: dict[str, tuple[str, ...]] = {
    "table": ("recommend", "one.csv", "--candidates", "candidates.csv", "--deadline", "2h"),
    "json": ("recommend", "one.csv", "--candidates", "candidates.csv", "--deadline", "2h", "--format", "json"),
    "json again": ("recommend", "one.csv", "--candidates", "candidates.csv", "--deadline", "2h", "--format", "json"),
    "csv": ("recommend", "one.csv", "--candidates", "candidates.csv", "--deadline", "2h", "--format", "csv"),
    "archive": ("recommend", "all.csv", "--workload", WORKLOAD, "--candidates", "candidates.csv", "--format", "json"),
    "measured": ("suggest", "one.csv", "--candidates", "candidates.csv"),
    "suggest": (
        *("suggest", "few.csv", "--candidates", "candidates.csv", "--strategy", "random"),
        *("--count", "3", "--format", "json"),
    ),
    "catalogue": ("catalogue", "list", "--format", "csv", "--region", "us-east-1,eu-west-1"),
    "price only": (
        *("recommend", "--strategy", "price-only", "--vcpus", "8", "--memory", "32"),
        *("--purchase", "on-demand", "--format", "json"),
    ),
    "strategies": ("strategies",),
    "version": ("--version",),
}


class Cli:
    """The commands above, each run once, when a test first asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[tuple[str, str], Done] = {}

    def __call__(self, group: str, name: str) -> Done:
        """The finished process."""
        if (group, name) not in self._done:
            arguments = {
                "answer": lambda: ANSWERS[name],
                "bad": lambda: ("recommend", f"{name}.csv"),
                "refused": lambda: REFUSED[name][0],
                "help": lambda: (*name.split(), "--help"),
                "usage": lambda: USAGE[name],
            }[group]()
            seed = "1" if name.endswith("again") else "0"
            self._done[group, name] = run(*arguments, cwd=self.folder, PYTHONHASHSEED=seed)
        return self._done[group, name]


@pytest.fixture(scope="module")
def cli(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Files of Scout and broken ones in a folder, and the processes that read them."""
    data = fetch_dataset("scout", mirror=mirror, cache=tmp_path_factory.mktemp("cache"))
    assert data.runs is not None
    assert data.candidates is not None
    folder = tmp_path_factory.mktemp("cli")
    frame = data.runs.frame
    one = Runs(frame[frame["workload"] == WORKLOAD].reset_index(drop=True))
    two = Runs(frame[frame["workload"].isin([WORKLOAD, "terasort_huge_hadoop"])].reset_index(drop=True))
    few = Runs(one.frame[one.frame["status"] == "completed"].iloc[[0, 20, 40]].reset_index(drop=True))
    for name, runs in (("one", one), ("all", two), ("few", few)):
        write_runs(runs, folder / f"{name}.csv")
    data.candidates.to_csv(folder / "candidates.csv", index=False)
    doubled = "instance_type,node_count,usd_per_hour\nc4.large,4,0.1\nc4.large,4,0.2\n"
    (folder / "doubled.csv").write_text(doubled, encoding="utf-8")
    for name, (content, _) in BAD_RUNS.items():
        (folder / f"{name}.csv").write_bytes(content)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    yield Cli(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "a command wrote something"


def cells(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def one_line(err: str) -> str:
    """The only line on stderr."""
    (line,) = err.splitlines()
    assert line.startswith("recommender: ")
    assert "Traceback" not in line
    return line


class TestAnswers:
    def test_json_keeps_the_contract_key_by_key(self, cli: Cli) -> None:
        done = cli("answer", "json")
        assert (done.code, done.err) == (0, "")
        answer = json.loads(done.out)
        keys = ["schema", "problem", "strategy", "recommendations", "excluded", "next_run", "warnings"]
        assert [k for k in answer if k in keys] == keys
        assert answer["schema"] == "recommender/recommendation/1"
        problem = answer["problem"]
        asked = {"workload": WORKLOAD, "objective": "cost", "deadline_s": 7200.0, "budget_usd": None, "confidence": 0.9}
        assert problem | asked == problem
        assert problem["candidates"] == 69
        assert set(answer["strategy"]) == {"name", "why"}
        assert answer["strategy"]["name"] == "prior"
        assert answer["strategy"]["why"].startswith("auto chose prior")
        assert len(answer["recommendations"]) == 10
        for rank, row in enumerate(answer["recommendations"], 1):
            assert [k for k in row if k in ROW] == ROW
            assert row["rank"] == rank
            assert row["region"] is None
            assert row["purchase_option"] == "on-demand"
            for name in ("runtime_s", "cost_usd"):
                assert list(row[name]) == QUANTILES
                low, middle, high = row[name].values()
                assert 0 < low < middle < high < math.inf
            assert 0.9 <= row["deadline_probability"] <= 1
            assert row["evidence"] == "measured"
            assert row["price_quality"] == "listed"
            assert row["reason"]
        for excluded in answer["excluded"]:
            assert set(excluded) == {"reason", "count", "sentence"}
        assert answer["next_run"] is None
        assert answer["explanation"]["runner_up"]["role"] == "runner-up"

    def test_the_cheapest_measured_configuration_wins_on_scout(self, cli: Cli) -> None:
        rows = cells(cli.folder / "one.csv")
        price = {r["instance_type"]: float(r["usd_per_hour"]) for r in cells(cli.folder / "candidates.csv")}
        done = [r for r in rows if r["status"] == "completed"]
        best = min(done, key=lambda r: float(r["runtime_s"]) * int(r["node_count"]) * price[r["instance_type"]])
        first = json.loads(cli("answer", "json").out)["recommendations"][0]
        assert (first["instance_type"], first["node_count"]) == (best["instance_type"], int(best["node_count"]))

    def test_the_same_bytes_twice_whatever_the_hash_seed(self, cli: Cli) -> None:
        assert cli("answer", "json") == cli("answer", "json again")

    def test_csv_has_the_same_rows_as_json(self, cli: Cli) -> None:
        done = cli("answer", "csv")
        assert done.code == 0
        answered = json.loads(cli("answer", "json").out)
        assert done.err.splitlines() == [f"note: {warning}" for warning in answered["warnings"]]
        rows = list(csv.DictReader(io.StringIO(done.out)))
        answer = json.loads(cli("answer", "json").out)["recommendations"]
        assert [(r["instance_type"], int(r["node_count"])) for r in rows] == [
            (r["instance_type"], r["node_count"]) for r in answer
        ]
        for row, other in zip(rows, answer, strict=True):
            for name in ("runtime_s", "cost_usd"):
                for q in QUANTILES:
                    assert float(row[f"{name}_{q}"]) == pytest.approx(other[name][q], rel=1e-12)
        assert list(rows[0])[:5] == ["rank", "instance_type", "node_count", "region", "purchase_option"]

    def test_a_table_says_what_each_row_rests_on_and_has_no_colour(self, cli: Cli) -> None:
        done = cli("answer", "table")
        assert (done.code, done.err) == (0, "")
        first = json.loads(cli("answer", "json").out)["recommendations"][0]
        for part in (WORKLOAD, first["instance_type"], "p50", "evidence", "measured", "listed", "Excluded", "Rests on"):
            assert part in done.out
        assert not [line for line in done.out.splitlines() if line != line.rstrip()]

    def test_the_other_workloads_of_the_table_are_the_archive(self, cli: Cli) -> None:
        done = cli("answer", "archive")
        assert done.code == 0
        assert json.loads(done.out)["problem"]["workload"] == WORKLOAD

    def test_nothing_is_worth_measuring_when_the_best_is_measured(self, cli: Cli) -> None:
        assert cli("answer", "measured") == Done(0, "nothing is worth measuring\n", "")

    def test_suggestions_are_different_unmeasured_candidates(self, cli: Cli) -> None:
        done = cli("answer", "suggest")
        assert (done.code, done.err) == (0, "")
        found = [(r["instance_type"], str(r["node_count"])) for r in json.loads(done.out)]
        assert len(found) == len(set(found)) == 3
        few, candidates = (
            {(r["instance_type"], r["node_count"]) for r in cells(cli.folder / f"{name}.csv")}
            for name in ("few", "candidates")
        )
        assert set(found) <= candidates - few

    def test_catalogue_list_as_csv_has_the_columns_of_the_contract(self, cli: Cli) -> None:
        done = cli("answer", "catalogue")
        assert (done.code, done.err) == (0, "")
        rows = list(csv.DictReader(io.StringIO(done.out)))
        columns = ["instance_type", "region", "vcpus", "memory_gib", "usd_per_hour", "price_quality"]
        assert list(rows[0])[:6] == columns
        assert len(rows) > 500
        assert {r["region"] for r in rows} == {"us-east-1", "eu-west-1"}
        assert all(float(r["usd_per_hour"]) > 0 for r in rows)

    def test_without_runs_price_only_ranks_by_price_with_unknown_runtime(self, cli: Cli) -> None:
        done = cli("answer", "price only")
        assert (done.code, done.err) == (0, "")
        answer = json.loads(done.out)
        rows = answer["recommendations"]
        prices = [r["usd_per_hour"] for r in rows]
        assert len(rows) == 10
        assert prices == sorted(prices)
        assert all(r["runtime_s"] is None and r["cost_usd"] is None for r in rows)
        assert all(r["evidence"] == "assumed" and r["region"] == "us-east-1" for r in rows)
        offers = csv.DictReader(io.StringIO(cli("answer", "catalogue").out))
        enough = [
            float(r["usd_per_hour"])
            for r in offers
            if r["region"] == "us-east-1"
            and int(r["vcpus"]) >= 8
            and float(r["memory_gib"]) >= 32
            and r["burstable"] == "False"
            and int(r["accelerators"]) == 0
        ]
        assert prices[0] == pytest.approx(min(enough))
        assert answer["next_run"] is None

    def test_strategies_are_listed_with_what_they_do(self, cli: Cli) -> None:
        done = cli("answer", "strategies")
        assert (done.code, done.err) == (0, "")
        names = [line.split()[0] for line in done.out.splitlines()]
        assert {"auto", "ernest", "price-only", "random", "column-mean", "best-fixed"} <= set(names)
        assert all(len(line.split()) > 3 for line in done.out.splitlines())

    def test_the_version_is_one_line(self, cli: Cli) -> None:
        done = cli("answer", "version")
        assert done.code == 0
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.out)


class TestRefusals:
    @pytest.mark.parametrize("name", BAD_RUNS)
    def test_a_bad_file_is_one_line_that_says_where_and_what(self, cli: Cli, name: str) -> None:
        done = cli("bad", name)
        assert (done.code, done.out) == (1, "")
        line = one_line(done.err)
        for part in (f"{name}.csv", "allowed: ", *BAD_RUNS[name][1]):
            assert part in line

    @pytest.mark.parametrize("name", REFUSED)
    def test_a_request_that_cannot_be_met_is_one_line(self, cli: Cli, name: str) -> None:
        done = cli("refused", name)
        assert (done.code, done.out) == (1, "")
        line = one_line(done.err)
        for part in REFUSED[name][1]:
            assert part in line

    def test_the_nearest_relaxation_admits_a_candidate(self, cli: Cli) -> None:
        found = re.search(r"--deadline (\d+s)", cli("refused", "infeasible").err)
        assert found
        arguments = ("recommend", "one.csv", "--candidates", "candidates.csv", "--deadline")
        assert run(*arguments, found.group(1), cwd=cli.folder).code == 0

    @pytest.mark.parametrize("name", USAGE)
    def test_a_usage_error_exits_2_and_prints_nothing_on_stdout(self, cli: Cli, name: str) -> None:
        done = cli("usage", name)
        assert (done.code, done.out) == (2, "")
        assert "Usage: " in done.err
        assert "Traceback" not in done.err

    def test_a_negative_seed_is_refused_in_one_line(self, cli: Cli) -> None:
        done = run("suggest", "few.csv", "--strategy", "random", "--seed", "-1", cwd=cli.folder)
        assert done.code in (1, 2)
        assert "Traceback" not in done.err

    def test_a_reader_that_goes_away_is_no_traceback(self, cli: Cli) -> None:
        command = f'"{sys.executable}" -m recommender catalogue list --format csv | head -n 1'
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=cli.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.startswith(b"instance_type,")
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", HELP)
def test_help_exits_0_and_names_its_options(cli: Cli, name: str) -> None:
    done = cli("help", name)
    assert (done.code, done.err) == (0, "")
    assert not [option for option in HELP[name] if option not in done.out]


def plain(value: Any) -> bool:
    """Whether a JSON value holds nothing but finite plain values."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


@pytest.mark.parametrize("name", ["json", "archive", "suggest", "price only"])
def test_json_is_one_document_of_finite_plain_values(cli: Cli, name: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    out = cli("answer", name).out
    assert out.endswith("\n")
    assert plain(json.loads(out, parse_constant=refuse))
