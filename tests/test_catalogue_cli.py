"""`recommender catalogue`: contracts of stdout, stderr, columns and exit."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from recommender.commands.catalogue import TABLE_LIMIT, app
from recommender.errors import InputError, UnknownNameError

FIRST_COLUMNS = ["instance_type", "region", "vcpus", "memory_gib", "usd_per_hour", "price_quality"]


def run(*arguments: str) -> Result:
    """Invoke the commands and require success."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def rows_of(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_list_as_csv_begins_with_the_contract_columns_and_is_complete() -> None:
    result = run("list", "--format", "csv")
    assert result.stdout.splitlines()[0].split(",")[: len(FIRST_COLUMNS)] == FIRST_COLUMNS
    assert len(rows_of(result)) > 14_000
    assert result.stderr == ""


def test_list_as_a_table_is_cut_short_and_says_so_on_stderr() -> None:
    result = run("list")
    assert len(result.stdout.splitlines()) == TABLE_LIMIT + 1
    assert "more rows; --limit" in result.stderr
    assert "\x1b" not in result.stdout
    assert len(run("list", "--limit", "7").stdout.splitlines()) == 8


def test_filters_are_combined() -> None:
    result = run(
        *("list", "--family", "c6*,m7g", "--region", "us-east-1,eu-west-1", "--region", "us-west-2", "--format", "csv"),
        *("--min-vcpus", "2", "--max-vcpus", "8", "--min-memory", "8", "--max-memory", "32", "--max-price", "0.3"),
        *("--architecture", "arm64", "--no-gpu", "--no-burstable", "--no-bare-metal", "--min-generation", "6"),
    )
    rows = rows_of(result)
    assert {row["region"] for row in rows} == {"us-east-1", "eu-west-1", "us-west-2"}
    assert {row["family"] for row in rows} == {"c6g", "c6gd", "c6gn", "m7g"}
    assert all(float(row["usd_per_hour"]) <= 0.3 and row["price_quality"] in ("listed", "repaired") for row in rows)
    assert all(8 <= float(row["memory_gib"]) <= 32 and 2 <= int(row["vcpus"]) <= 8 for row in rows)


@pytest.mark.parametrize(
    ("option", "there", "absent"),
    [
        ("--gpu", "g5.xlarge", "m5.large"),
        ("--accelerator", "inf1.xlarge", "m5.large"),
        ("--burstable", "t3.small", "m5.large"),
        ("--bare-metal", "m5.metal", "m5.large"),
        ("--local-disk", "m5d.large", "m5.large"),
        ("--no-local-disk", "m5.large", "m5d.large"),
        ("--retired", "m3.large", "none"),
        ("--no-gpu", "m5.large", "m3.large"),
    ],
)
def test_each_switch_selects(option: str, there: str, absent: str) -> None:
    names = {row["instance_type"] for row in rows_of(run("list", option, "--region", "us-east-1", "--format", "csv"))}
    assert there in names
    assert absent not in names


def test_unpriced_offers_are_listed_only_on_request_with_an_empty_price() -> None:
    arguments = ("list", "--family", "m9g", "--region", "us-east-1", "--format", "csv")
    result = run(*arguments)
    assert rows_of(result) == []
    assert "no offer" in result.stderr
    rows = rows_of(run(*arguments, "--unpriced"))
    assert rows
    assert {row["usd_per_hour"] for row in rows} == {""}
    records = json.loads(run(*arguments[:-1], "json", "--unpriced").stdout)
    assert records[0]["usd_per_hour"] is None


def test_show_gives_everything_with_sources() -> None:
    facts: dict[str, Any] = json.loads(run("show", "m7g.large", "--format", "json").stdout)
    assert facts["vcpus"] == 2
    assert facts["memory_gib"] == 8
    assert facts["on_demand"]["regions"] >= 15
    assert facts["on_demand"]["min_usd_per_hour"] <= 0.0816
    assert "us-east-1" in facts["offered_in"]
    assert facts["speed"]["coremark_per_vcpu"] > 20_000
    assert 0 < facts["spot"]["saving"] < 1
    assert all(facts[part]["source"] for part in ("on_demand", "speed", "spot"))
    assert "speed.coremark_per_vcpu" in run("show", "m7g.large").stdout
    assert {row["field"] for row in rows_of(run("show", "m7g.large", "--format", "csv"))} >= {"vcpus", "spot.band"}


def test_show_of_what_is_unknown_is_null_not_zero() -> None:
    facts = json.loads(run("show", "m9g.large", "--format", "json").stdout)
    assert facts["on_demand"] is None
    assert facts["local_disk_gib"] is None
    assert json.loads(run("show", "p2.xlarge", "--format", "json").stdout)["speed"] is None


def test_families_regions_and_similar_in_every_form() -> None:
    for command in (("families", "--family", "m*"), ("regions",), ("similar", "m5.xlarge", "--count", "3")):
        records = json.loads(run(*command, "--format", "json").stdout)
        rows = rows_of(run(*command, "--format", "csv"))
        lines = run(*command).stdout.splitlines()
        assert len(records) == len(rows) == len(lines) - 1 > 0
        assert list(records[0]) == list(rows[0]) == lines[0].split()
    assert all(row["family"].startswith("m") for row in rows_of(run("families", "--family", "m*", "--format", "csv")))
    everything = {row["family"] for row in rows_of(run("families", "--retired", "--format", "csv"))}
    assert "p3" in everything - {row["family"] for row in rows_of(run("families", "--format", "csv"))}


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (("show", "m5.lrge"), "m5.large"),
        (("similar", "m5.xlargee"), "m5.xlarge"),
        (("list", "--region", "us-east1"), "us-east-1"),
        (("list", "--family", "c6idd"), "c6id"),
        (("list", "--type", "m5.larg"), "m5.large"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(arguments: tuple[str, ...], right: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, UnknownNameError)
    assert f"did you mean '{right}'" in str(result.exception)
    assert result.stdout == ""


def test_an_empty_part_of_a_list_is_an_error() -> None:
    result = CliRunner().invoke(app, ["list", "--region", "us-east-1,,eu-west-1"])
    assert isinstance(result.exception, InputError)


def test_importing_the_commands_imports_no_heavy_library() -> None:
    code = "import sys, recommender.commands.catalogue; sys.exit(not {'pandas', 'numpy'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
