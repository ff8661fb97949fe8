"""The README's commands and code are run, and what it prints is what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(m.group(1), m.group(2)) for m in BLOCK.finditer(README)]
CONSOLE = [text for language, text in BLOCKS if language == "console"]
PYTHON = [text for language, text in BLOCKS if language == "python"]


def transcripts() -> list[tuple[str, str]]:
    """(command, expected output) of every `$ recommender ...` in the console blocks."""
    found = []
    for block in CONSOLE:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.rstrip("\n")))
    return found


def environment() -> dict[str, str]:
    """The environment of a user who has the tool on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "200"}


@pytest.mark.parametrize(("command", "expected"), transcripts(), ids=[c for c, _ in transcripts()])
def test_a_command_of_the_readme_prints_what_the_readme_shows(command: str, expected: str, tmp_path: Path) -> None:
    for name in ("profiles", "datasets"):
        (tmp_path / name).symlink_to(ROOT / name)
    words = shlex.split(command)
    assert words[0] == "recommender"
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = [line.rstrip() for line in expected.splitlines()]
    if not any(shown):
        return
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    position = 0
    for line in shown:
        if line in ("…", "..."):
            continue
        assert line in lines[position:], f"README shows a line that is not printed: {line!r}"
        position += lines[position:].index(line) + 1


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    assert PYTHON
    for code in PYTHON:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**environment(), "MPLBACKEND": "agg"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_every_command_named_in_the_documents_exists() -> None:
    from typer.main import get_command

    from recommender.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "profiles").glob("*.md")):
        for word in re.findall(r"`recommender ([a-z][a-z-]*)", page.read_text(encoding="utf-8")):
            assert word in known, f"{page.name} names `recommender {word}`, which does not exist"


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "profiles").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_documents_name_no_package_registry_and_no_path_of_this_machine() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    for name in done.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.suffix in {".md", ".py", ".toml", ".yaml", ".ipynb", ""}:
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not re.search(r"https?://[\w.-]*(pypi|pythonhosted|npmjs)\b", text), name
            assert str(ROOT.parent) + "/" not in text or ROOT.parent == Path("/"), name
