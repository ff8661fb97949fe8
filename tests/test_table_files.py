"""Tables as files: a malformed file is refused in one line, and a file is replaced whole or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tables import GOOD, HEADER, frame_of, refused, relaxed, write

from recommender import table_files
from recommender.errors import InputError, RecommenderError
from recommender.tables import RUNS, read_table, write_table

# CSV


def test_both_csv_readers_agree(tmp_path: Path) -> None:
    plain = read_table(write(tmp_path / "plain.csv", GOOD), RUNS)
    quoted = read_table(write(tmp_path / "quoted.csv", GOOD.replace("sort", '"sort"')), RUNS)
    mac = read_table(write(tmp_path / "mac.csv", GOOD.replace("\n", "\r")), RUNS)
    pd.testing.assert_frame_equal(plain, quoted)
    pd.testing.assert_frame_equal(plain, mac)


def test_the_line_counts_blank_lines_and_quoted_newlines(tmp_path: Path) -> None:
    content = f'{HEADER},cpu_model\n\nsort,m5.large,2,9,"two\nlines"\n\nsort,m5.large,0,9,\n'
    assert "runs.csv, line 6, column 'node_count': found '0'" in refused(write(tmp_path / "runs.csv", content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: found an empty file"),
        ("\n \n", "line 1: found an empty file"),
        (GOOD + "sort,m5.large,2\n", "line 4, column 'runtime_s': found 3 cells; allowed: 4 cells"),
        (GOOD + "sort,m5.large,2,93,5\n", "line 4, column 5: found 5 cells, the first too many being '5'"),
        (GOOD + 'sort,"m5.large,2,9\n', "line 4: unbalanced quotes"),
        (GOOD.replace(",", ";"), "looks separated by ';'"),
        (GOOD.replace(",", "\t"), "looks separated by '\\t'"),
        (GOOD.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (GOOD.encode("utf-16-le"), "line 1, column 1: found 'w\\x00"),
        (GOOD.replace("sort,m5.x", "caf\xe9,m5.x").encode("latin-1"), "line 3, column 'workload': found 'caf\\xe9'"),
        (b"PK\x03\x04" + bytes(100), "looks like a spreadsheet"),
        (b"\x1f\x8b" + bytes(100), "is gzip compressed"),
        (b"PAR1" + bytes(100), "not a readable Parquet file"),
        (bytes(range(256)), "line 1, column 1: found '\\x00\\x01\\x02"),
        (HEADER.replace("workload", "instance_type") + "\n", "'instance_type': the column appears twice"),
        ("workload,node_count,runtime_s\n", "column 'instance_type': missing from the header"),
        (HEADER + ",\n", "line 1, column 5: found no column name"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in refused(write(tmp_path / "runs.csv", content))


# Files that are none


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing.csv")
    assert "found a directory" in refused(tmp_path)
    assert "found a special file" in refused(Path("/dev/null"))
    for name in ("", "nul\0byte.csv", "x" * 5000, "two\nlines.csv", "\udc80.csv"):
        with pytest.raises(InputError) as caught:
            read_table(name, RUNS)
        assert str(caught.value).isprintable()


def test_a_path_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "two\nlines.csv", HEADER + "\nsort,m5.large,0,1\n")
    with pytest.raises(InputError, match=r"two\\nlines\.csv, line 2, column 'node_count': found '0'") as caught:
        read_table(path, RUNS)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pipe_is_read(tmp_path: Path) -> None:
    read, written = os.pipe()
    os.write(written, GOOD.encode())
    os.close(written)
    try:
        assert len(read_table(f"/dev/fd/{read}", RUNS)) == 2
    finally:
        os.close(read)


def test_a_file_beyond_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "runs.csv", GOOD)
    write_table(read_table(path, RUNS), tmp_path / "runs.parquet")
    monkeypatch.setattr(table_files, "MAX_ROWS", 1)
    assert "found 2 rows; allowed: at most 1" in refused(path)
    assert "found 2 rows; allowed: at most 1" in refused(tmp_path / "runs.parquet")
    monkeypatch.setattr(table_files, "MAX_BYTES", 10)
    assert "more than 10 bytes" in refused(path)


# Parquet


def test_the_index_pandas_adds_to_parquet_is_ignored(tmp_path: Path) -> None:
    frame_of().iloc[[1]].to_parquet(tmp_path / "runs.parquet")
    assert len(read_table(tmp_path / "runs.parquet", RUNS)) == 1


def test_a_parquet_row_is_named(tmp_path: Path) -> None:
    frame_of(runtime_s=[1.0, -1.0]).to_parquet(tmp_path / "runs.pq")
    assert "runs.pq, row 2, column 'runtime_s': found '-1.0'" in refused(tmp_path / "runs.pq")


# Writing


def test_writing_keeps_permissions_and_symbolic_links_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = write(tmp_path / "real.csv", GOOD)
    target.chmod(0o640)
    link = tmp_path / "link.csv"
    link.symlink_to(target)
    write_table(frame_of(), link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert len(read_table(target, RUNS)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "real.csv"]


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "runs.csv", GOOD)
    for bad in (tmp_path / "missing" / "runs.csv", tmp_path / "runs.txt", tmp_path, tmp_path / "nul\0.csv"):
        with pytest.raises(InputError, match="cannot be written") as caught:
            write_table(frame_of(), bad)
        assert str(caught.value).isprintable()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_table(frame_of(), path)
    assert path.read_text() == GOOD
    assert [item.name for item in tmp_path.iterdir()] == ["runs.csv"]


def test_a_second_writer_waits_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "LOCK_TIMEOUT_S", 0.05)
    with table_files.locked(tmp_path / "runs.csv"), pytest.raises(InputError, match="one writer at a time"):
        write_table(frame_of(), tmp_path / "runs.csv")
    write_table(frame_of(), tmp_path / "runs.csv")


# Properties


@relaxed
@given(st.binary(max_size=300), st.booleans(), st.sampled_from(["runs.csv", "runs.parquet"]))
def test_random_bytes_raise_nothing_but_an_error_of_the_library(
    tmp_path: Path, noise: bytes, headed: bool, name: str
) -> None:
    path = write(tmp_path / name, HEADER.encode() + b",input.a\n" + noise if headed else noise)
    with suppress(RecommenderError):
        read_table(path, RUNS)


@relaxed
@given(st.data())
def test_a_damaged_file_raises_nothing_but_an_error_of_the_library(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / data.draw(st.sampled_from(["runs.csv", "runs.parquet"]))
    write_table(frame_of(cpu_model=["a", "b"], **{"input.a": [1.5, np.nan]}), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    write(
        path, bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else bytes(content)
    )
    with suppress(RecommenderError):
        read_table(path, RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_million_rows_are_read_and_a_bad_last_one_is_found(tmp_path: Path, quote: str) -> None:
    path = tmp_path / "runs.csv"
    with path.open("w") as file:
        file.write(f"{HEADER},input.size_gib,metric.cpu\n")
        file.writelines(
            f"{quote}sort{quote},m5.large,{i % 9 + 1},{i + 0.5},{i / 7!r},{i % 100}\n" for i in range(1_000_000)
        )
    frame = read_table(path, RUNS)
    assert len(frame) == 1_000_000
    assert frame["input.size_gib"].iloc[-1] == 999_999 / 7
    with path.open("a") as file:
        file.write("sort,m5.large,0,1,1,1\n")
    assert "line 1000002, column 'node_count': found '0'" in refused(path)
