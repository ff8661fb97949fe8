"""A small real job with two knobs, to try `recommender tune` on without a cloud account.

It compresses some megabytes of synthetic sensor readings, in batches, on several threads (zlib lets go of Python's lock
while it compresses). More threads help up to the cores there are; small batches cost overhead, large ones leave threads
without work at the end. Standard library and numpy only.

    recommender tune --study local --candidates examples/tune_local.csv --strategy random --objective runtime \\
        --max-runs 8 --run 'python examples/tune_local.py --threads {param.threads} --batch-kib {param.batch_kib}'
    recommender study recommend local
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def readings(mib: float) -> bytes:
    """Return `mib` MiB of readings: a slow wave, noise, and the rounding of a real sensor."""
    count = int(mib * 2**20) // 2
    rng = np.random.default_rng(0)
    wave = 2000.0 * np.sin(np.arange(count) / 500.0) + rng.normal(0.0, 20.0, count)
    return (wave.round(-1)).astype(np.int16).tobytes()


def compressed_bytes(data: bytes, *, threads: int, batch_kib: int) -> int:
    """Compress `data` in batches on some threads, and return how many bytes are left of it."""
    size = batch_kib * 1024
    batches = [data[start : start + size] for start in range(0, len(data), size)]
    with ThreadPoolExecutor(threads) as pool:
        return sum(len(part) for part in pool.map(lambda batch: zlib.compress(batch, 6), batches))


def main() -> None:
    """Do the job once and say what it took as the last line, which is what `recommender tune` reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-kib", type=int, required=True)
    parser.add_argument("--mib", type=float, default=24.0, help="how much to compress")
    asked = parser.parse_args()
    data = readings(asked.mib)
    start = time.perf_counter()
    left = compressed_bytes(data, threads=asked.threads, batch_kib=asked.batch_kib)
    result = {"runtime_s": time.perf_counter() - start, "metric.compression_ratio": len(data) / left}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
