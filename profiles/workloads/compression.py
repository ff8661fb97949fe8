"""Compressing log-like text with LZMA, 256 KiB blocks over a pool of processes, one a CPU.

The full input is 200 MiB, each block made from its own seed by the worker that compresses it; memory depends on the
number of workers and not on the scale.
"""

import lzma
import multiprocessing
import random

from common import scale, workers

FULL_BLOCKS = 800
BLOCK_BYTES = 1 << 18
WORDS = [
    f"{verb}-{noun}" for verb in ("get", "put", "list", "copy", "sync") for noun in ("user", "order", "file", "key")
]


def compress(block: int) -> tuple[int, int]:
    """Return the sizes of one block, before and after."""
    rng = random.Random(block)
    lines = []
    size = 0
    while size < BLOCK_BYTES:
        day, word, key = rng.randrange(1, 29), rng.choice(WORDS), rng.randrange(10**7)
        line = f"2024-05-{day:02} {word} id={key} ms={rng.expovariate(0.02):.1f}\n"
        lines.append(line)
        size += len(line)
    return size, len(lzma.compress("".join(lines).encode(), preset=6))


def main() -> None:
    """Compress every block."""
    blocks = range(max(1, round(FULL_BLOCKS * scale())))
    with multiprocessing.Pool(workers()) as pool:
        sizes = list(pool.imap_unordered(compress, blocks))
    before, after = (sum(column) for column in zip(*sizes, strict=True))
    print(f"{len(blocks)} blocks, {before} bytes to {after}")


if __name__ == "__main__":
    main()
