"""Made-up tables unlike the public ones, on which nothing was ever fitted: clusters of one cloud, their truth known.

A job divides `work` over vCPUs, and adds a serial part and one for each node. `cliff`: where 80 % of the memory does not hold
what it needs it is e to e³ times as long; `noisy`: a cliff, every cell run three times at 30 % noise; `disk`: two kinds of
disk, a feature, matter to each job in its own way, and spilling is gradual; `half`: 40 workloads, every second of which has its
configurations exchanged; `two`: two applications at ten inputs each.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

KINDS = ("disk", "half", "cliff", "two", "noisy")
NODES = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_VCPUS = 128
FAMILIES = (("c", 2, 1.15, 0.85), ("m", 4, 1.0, 1.0), ("r", 8, 1.0, 1.3))
"""Name, GiB a vCPU, speed, price of a vCPU."""


def made(kind: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and candidates of one of KINDS."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    rows = [
        {
            "instance_type": f"{name}.{v}{disk}",
            "node_count": n,
            "vcpus": v,
            "memory_gib": v * per,
            "usd_per_hour": 0.048 * v * price * (1.1 if disk == "-nvme" else 1.0),
            "speed": speed,
            "feature.disk": disk[1:],
        }
        for name, per, speed, price in FAMILIES
        for v in (2, 4, 8, 16, 32)
        for disk in (("-hdd", "-nvme") if kind == "disk" else ("",))
        for n in NODES
        if n * v <= MOST_VCPUS
    ]
    pool = pd.DataFrame(rows)
    runs = [job(kind, w, pool, rng) for w in range({"half": 40, "two": 20}.get(kind, 12))]
    return pd.concat(runs, ignore_index=True), pool.drop(columns=["speed"] + ["feature.disk"] * (kind != "disk"))


def job(kind: str, number: int, pool: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The runs of one workload on the whole pool."""
    nodes, power = (
        pool["node_count"].to_numpy(float),
        (pool["vcpus"] * pool["node_count"] * pool["speed"]).to_numpy(float),
    )
    work, slow, knee = np.exp(rng.normal(8.0, 1.2)), rng.uniform(1.0, 3.0), rng.integers(2, 15)
    serial, each = np.exp(rng.uniform(*np.log([0.002, 0.08]))), np.exp(rng.uniform(*np.log([0.0005, 0.02])))
    need, size = np.exp(rng.uniform(*np.log([8.0, 300.0]))), np.exp(rng.uniform(0.0, 2.0))
    if kind == "two":
        scale = size * (1 + number % 2)
        work, need, serial, each, slow = 3000.0 * scale, 40.0 * scale, 0.02, 0.003, 2.0
    time = work * (1.0 / power + serial + each * (nodes - 1.0)) * (1.0 + 0.08 * np.maximum(nodes - knee, 0.0))
    short = np.log(need / (0.8 * pool["memory_gib"].to_numpy(float) * nodes))
    spill = slow if kind in ("cliff", "noisy") else np.minimum(slow * short, 2.0)
    time = time * np.exp(np.where(short > 0.0, spill, 0.0))
    time = time * np.exp(np.where(pool["feature.disk"] == "hdd", rng.uniform(0.15, 1.5), 0.0))
    if kind == "half" and number % 2:
        time = rng.permutation(time)
    repeats, noise = (3, 0.3) if kind == "noisy" else (1, 0.04)
    runs = pool[["instance_type", "node_count"]].loc[np.repeat(np.arange(len(pool)), repeats)].reset_index(drop=True)
    runs["runtime_s"] = np.repeat(time, repeats) * np.exp(noise * rng.standard_normal(len(runs)))
    application = f"a{number % 2 if kind == 'two' else number}"
    runs = runs.assign(workload=f"w{number:02d}", application=application)
    return runs.assign(**{"input.size_gib": round(float(size), 3)}) if kind == "two" else runs
