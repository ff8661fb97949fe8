"""The notebooks run, and were committed with their outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_was_committed_with_its_outputs_and_without_errors(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(cell.outputs for cell in code)
    outputs = json.dumps([cell.outputs for cell in code])
    assert '"output_type": "error"' not in outputs
    assert "image/png" in outputs


def test_every_notebook_runs_from_top_to_bottom(mirror: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "run_notebooks.py", "--check"],
        env={**os.environ, "RECOMMENDER_NOTEBOOKS": "quick", "RECOMMENDER_DATASETS_MIRROR": str(mirror)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
