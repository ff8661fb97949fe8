"""Fetching data sets: mirror, cache, concurrency, refusal of what cannot be trusted, the command line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recommender import datasets
from recommender.commands.datasets import app
from recommender.datasets import Dataset, UnsafeArchiveError, archive_members, descriptor, fetch_dataset
from recommender.errors import InputError, MissingDataError, UnknownNameError

pytestmark = pytest.mark.usefixtures("offline")

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("c3o", "coremark", "lumos", "lynceus", "scout", "spot-advisor")
MEMBERS = "data/*/report.json"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def scout(mirror: Path, cache: Path) -> Dataset:
    return fetch_dataset("scout", mirror=mirror, cache=cache)


# The mechanism


def test_mirror_and_cache_from_the_environment(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOMMENDER_DATASETS_MIRROR", str(mirror))
    monkeypatch.setenv("RECOMMENDER_CACHE", str(tmp_path))
    assert fetch_dataset("coremark").files["figures"].is_relative_to(tmp_path)


def test_a_cached_set_needs_no_source(scout: Dataset, cache: Path) -> None:
    assert fetch_dataset("scout", cache=cache).files == scout.files


def test_a_damaged_cache_is_replaced(mirror: Path, tmp_path: Path) -> None:
    first = fetch_dataset("coremark", mirror=mirror, cache=tmp_path)
    whole = first.files["figures"].read_bytes()
    first.files["figures"].write_bytes(whole[:1000])
    assert fetch_dataset("coremark", mirror=mirror, cache=tmp_path).files["figures"].read_bytes() == whole


def test_fetches_at_the_same_time_leave_whole_tables_and_nothing_else(mirror: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        fetched = list(pool.map(lambda _: fetch_dataset("scout", mirror=mirror, cache=tmp_path), range(4)))
    assert all(dataset.files == fetched[0].files for dataset in fetched)
    assert sorted(path.name for path in fetched[0].files["runs"].parent.iterdir()) == ["candidates.csv", "runs.csv"]


def test_without_mirror_the_public_address_is_used(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    asked: list[tuple[str, str | None]] = []

    def retrieve(url: str, known_hash: str | None, *, fname: str, path: Path, downloader: object) -> str:
        asked.append((url, known_hash))
        path.mkdir(parents=True, exist_ok=True)
        (relative,) = (relative for relative, address in descriptor("c3o").urls.items() if address == url)
        return str(shutil.copy(mirror / relative, path / fname))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    fetch_dataset("c3o", cache=tmp_path)
    assert [url for url, _ in asked] == list(descriptor("c3o").urls.values())
    assert {known_hash for _, known_hash in asked} == set(descriptor("c3o").files.values())


def test_no_network_is_an_error_that_names_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch
    import requests

    def retrieve(*_: object, **__: object) -> str:
        raise requests.ConnectionError("unreachable")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(MissingDataError, match="--mirror"):
        fetch_dataset("coremark", cache=tmp_path)


def test_a_refused_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def retrieve(url: str, known_hash: str | None, *, fname: str, path: Path, downloader: object) -> str:
        assert known_hash is None
        path.mkdir(parents=True)
        (path / fname).write_bytes(b"not an archive")
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(MissingDataError, match="not a whole archive"):
        fetch_dataset("scout", cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_missing_mirrors_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="is not a directory"):
        fetch_dataset("scout", mirror=tmp_path / "none", cache=tmp_path)
    with pytest.raises(MissingDataError, match="is not there"):
        fetch_dataset("scout", mirror=tmp_path, cache=tmp_path)


def test_a_changed_file_is_refused_by_its_hash(mirror: Path, tmp_path: Path) -> None:
    for relative in descriptor("c3o").urls:
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / relative).write_bytes((mirror / relative).read_bytes().replace(b"340", b"34"))
    with pytest.raises(MissingDataError, match="SHA-256"):
        fetch_dataset("c3o", mirror=tmp_path, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.csv"))


def scout_mirror(folder: Path, content: bytes) -> Path:
    (relative,) = descriptor("scout").urls
    (folder / relative).parent.mkdir(parents=True)
    (folder / relative).write_bytes(content)
    return folder


def test_a_truncated_archive_is_refused(mirror: Path, tmp_path: Path) -> None:
    (relative,) = descriptor("scout").urls
    whole = (mirror / relative).read_bytes()
    with pytest.raises(MissingDataError, match="not a whole archive"):
        fetch_dataset("scout", mirror=scout_mirror(tmp_path, whole[: len(whole) // 2]), cache=tmp_path / "cache")


def test_a_recompressed_archive_is_accepted_and_one_run_less_refused(mirror: Path, tmp_path: Path) -> None:
    (relative,) = descriptor("scout").urls
    tar = gzip.decompress((mirror / relative).read_bytes())
    fetch_dataset("scout", mirror=scout_mirror(tmp_path / "a", gzip.compress(tar, 1)), cache=tmp_path / "cache_a")
    fewer = tar.replace(b'"completed": false', b'"completed": true ', 1)
    assert fewer != tar
    with pytest.raises(MissingDataError, match="table 'runs' has SHA-256"):
        fetch_dataset("scout", mirror=scout_mirror(tmp_path / "b", gzip.compress(fewer, 1)), cache=tmp_path / "cache_b")


# Archives that must be refused


def tar_of(*members: tarfile.TarInfo, content: bytes = b"{}") -> bytes:
    """Return a tar of headers; each regular member of size 2 is followed by `content`."""
    buffer = io.BytesIO()
    for member in members:
        buffer.write(member.tobuf(tarfile.PAX_FORMAT))
        if member.isreg() and member.size == len(content):
            buffer.write(content.ljust(tarfile.BLOCKSIZE, b"\0"))
    buffer.write(b"\0" * 2 * tarfile.BLOCKSIZE)
    return buffer.getvalue()


def entry(name: str, *, kind: bytes = tarfile.REGTYPE, size: int = 2, **pax: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size if kind == tarfile.REGTYPE else 0
    member.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    member.pax_headers = {key.replace("_", "."): value for key, value in pax.items()}
    return member


def test_members_that_match_are_read_without_the_top_directory() -> None:
    tar = tar_of(entry("top", kind=tarfile.DIRTYPE), entry("top/data/a/report.json"), entry("top/data/a/b/report.json"))
    assert list(archive_members(io.BytesIO(tar), MEMBERS)) == [("data/a/report.json", b"{}")]


def test_members_may_match_any_of_several_patterns_each_of_its_own_depth() -> None:
    paths = ("top/a/report.json", "top/a/b/report.json", "top/a/b/c/report.json", "top/a/b/sar.csv")
    tar = tar_of(*(entry(path) for path in paths))
    found = [path for path, _ in archive_members(io.BytesIO(tar), "*/report.json", "a/*/sar.csv", "*/*/*/report.json")]
    assert found == ["a/report.json", "a/b/c/report.json", "a/b/sar.csv"]


@pytest.mark.parametrize(
    "member",
    [
        entry("/etc/data/a/report.json"),
        entry("top/../../data/a/report.json"),
        entry("top\\..\\..\\report.json"),
        entry("C:/data/a/report.json"),
        entry("top/data/a/report.json", kind=tarfile.SYMTYPE),
        entry("top/data/a/report.json", kind=tarfile.LNKTYPE),
        entry("top/data/a/report.json", kind=tarfile.CHRTYPE),
        entry("top/data/a/report.json", kind=tarfile.BLKTYPE),
        entry("top/data/a/report.json", kind=tarfile.FIFOTYPE),
        entry("top/data/a/report.json", size=2**30 + 1),
        entry("top/data/a/report.json", GNU_sparse_map="0,2", GNU_sparse_size=str(2**31)),
        entry("top/data/a/report.json", GNU_sparse_map="0,2", GNU_sparse_size="2"),
    ],
    ids=[
        "absolute",
        "parent",
        "backslash",
        "drive",
        "symlink",
        "hardlink",
        "char",
        "block",
        "fifo",
        "large",
        "sparse_large",
        "sparse",
    ],
)
def test_unsafe_entries_are_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    tar = tar_of(entry("top/data/first/report.json"), member)
    with pytest.raises(UnsafeArchiveError):
        list(archive_members(io.BytesIO(tar), MEMBERS))
    with pytest.raises(MissingDataError, match="was refused"):
        fetch_dataset("scout", mirror=scout_mirror(tmp_path, gzip.compress(tar)), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_sizes_add_up_and_headers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_ARCHIVE_BYTES", 20_000)
    many = tar_of(*(entry(f"top/{number}", kind=tarfile.DIRTYPE) for number in range(100)))
    header = tar_of(entry("top/data/a/report.json", comment="x" * 50_000))
    for tar in (many, header):
        with pytest.raises(UnsafeArchiveError, match="more than 1 GiB"):
            list(archive_members(io.BytesIO(tar), MEMBERS))


# The command line


def run(*arguments: str) -> tuple[list[str], str]:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines(), result.stderr


def test_list_in_each_form() -> None:
    table, _ = run("list")
    assert [line.split()[0] for line in table] == ["name", *NAMES]
    as_json, _ = run("list", "--format", "json")
    as_csv, _ = run("list", "--format", "csv")
    assert json.loads("\n".join(as_json)) == list(csv.DictReader(as_csv))


def test_show_has_licence_citation_and_what_to_watch() -> None:
    table, _ = run("show", "scout")
    assert any(line.startswith("licence") and "MIT" in line for line in table)
    as_json, _ = run("show", "scout", "--format", "json")
    facts = json.loads("\n".join(as_json))
    assert facts["notes"] == list(descriptor("scout").notes)
    as_csv, _ = run("show", "scout", "--format", "csv")
    assert {row["value"] for row in csv.DictReader(as_csv) if row["field"] == "notes"} == set(facts["notes"])
    with pytest.raises(UnknownNameError, match="did you mean 'c3o'"):
        run("show", "c30")


def test_fetch_prints_paths_and_the_next_command(mirror: Path, cache: Path, tmp_path: Path) -> None:
    arguments = ("fetch", "scout", "--mirror", str(mirror), "--cache", str(cache))
    paths, hint = run(*arguments)
    assert [Path(path).name for path in paths] == ["runs.csv", "candidates.csv"]
    assert hint.startswith("next: recommender recommend ")
    assert "--candidates" in hint
    copies, _ = run(*arguments, "--out", str(tmp_path / "out"))
    assert [Path(path).read_bytes() for path in copies] == [Path(path).read_bytes() for path in paths]
    assert all(Path(path).is_relative_to(tmp_path) for path in copies)
    figures, silent = run("fetch", "coremark", "--mirror", str(mirror), "--cache", str(cache))
    assert [Path(path).name for path in figures] == ["figures.csv"]
    assert silent == ""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="could not be written"):
        run(*arguments, "--out", str(tmp_path / "file"))


def test_the_command_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, recommender.commands.datasets; print({'numpy', 'pandas', 'pooch', 'requests'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "set()"
