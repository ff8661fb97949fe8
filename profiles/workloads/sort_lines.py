"""Sorting lines of text with GNU sort, one thread a CPU, all in memory.

The full input is 160 million lines of 40 bytes, made from a fixed seed once for each scale and kept; memory grows with
it. What is timed is reading, sorting and writing the lines.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from common import cached, data_directory, scale, workers

FULL_LINES = 160_000_000
WIDTH = 39


def make(path: Path, lines: int) -> None:
    """Write `lines` lines of random lower-case letters."""
    rng = np.random.default_rng(3)
    with path.open("wb") as file:
        for start in range(0, lines, 100_000):
            letters = rng.integers(97, 123, size=(min(100_000, lines - start), WIDTH + 1), dtype=np.uint8)
            letters[:, WIDTH] = 10
            file.write(letters.tobytes())


def main() -> None:
    """Sort the file of this scale."""
    lines = round(FULL_LINES * scale())
    source = cached(f"lines-{lines}.txt", lambda path: make(path, lines))
    with tempfile.NamedTemporaryFile(dir=data_directory()) as target:
        threads = workers()
        arguments = ["sort", f"--parallel={threads}", "--buffer-size=4G", f"--output={target.name}", str(source)]
        subprocess.run(arguments, check=True, env={**os.environ, "LC_ALL": "C"})
        print(f"{lines} lines, {threads} threads, {Path(target.name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
