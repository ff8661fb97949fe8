"""Execute the notebooks and keep their outputs: `make notebooks`. `--check` executes without writing.

With RECOMMENDER_NOTEBOOKS=quick in the environment a notebook that takes long does less.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def execute(path: Path) -> nbformat.NotebookNode:
    """Run every cell from the notebook's own directory; an error in a cell raises."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # wall-clock stamps would change the file at every run
    return notebook


def main() -> None:
    """Execute all notebooks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        sys.stderr.write(f"{path.name}\n")
        notebook = execute(path)
        if not check:
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
