"""The built wheel carries everything the main job needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without anything of the checkout in its environment; return its standard output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RECOMMENDER", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_catalogue_descriptors_and_profiles_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "recommender/catalogue/data/types.csv",
        "recommender/bundled/datasets/scout.toml",
        "recommender/bundled/profiles/sql_analytics.csv",
        "recommender/py.typed",
    ):
        assert wanted in names
    assert not [n for n in names if n.startswith(("tests/", "tools/", "notebooks/"))]


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment_does_the_main_job_from_another_directory(
    wheel: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    bin_dir = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    run(bin_dir / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    answer = json.loads(
        run(bin_dir / "recommender", "recommend", "profile:sql_analytics", "--format", "json", cwd=elsewhere)
    )
    assert answer["strategy"]["name"] == "ernest"
    assert len(answer["recommendations"]) == 10
    assert "scout" in run(bin_dir / "recommender", "datasets", "list", cwd=elsewhere)
    assert "m7a.large" in run(bin_dir / "recommender", "catalogue", "show", "m7a.large", cwd=elsewhere)
    assert not list(elsewhere.iterdir())
