"""Build the bundled catalogue (`recommender/catalogue/data/`) from pinned public packages and two public data files.

    python tools/build_catalogue.py [--packages DIR] [--mirror DIR] [--out DIR]

The wheels are downloaded (or taken from `--packages`), verified by SHA-256 and read as zip files
(`catalogue_sources.py`); only facts derived from them are written. Running it again writes the same bytes. The files:

- `types.csv`    hardware of one type a row (sources: moto's copy of DescribeInstanceTypes; libcloud for types AWS has
  withdrawn)
- `prices.csv`   on-demand Linux, USD per hour, one type in one region a row (libcloud; see `price_table` for the
  repair)
- `offered.csv`  types x regions: 1 offered, 0 not, empty unknown (moto's copy of DescribeInstanceTypeOfferings)
- `regions.csv`  code, human name, kind
- `speed.csv`    CoreMark per vCPU of a family, median over its measured sizes
- `spot.csv`     spot saving and interruption band of a family, medians over regions and sizes, Linux
- `SOURCES`      where it all comes from, and what was dropped
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from catalogue_sources import COREMARK, MOTO, NEW, OLD, REGIONS, SPOT, member, open_wheel, public_json

ROOT = Path(__file__).resolve().parents[1]
SPOT_PER_MONTH = (0.025, 0.075, 0.125, 0.175, 0.25)
"""Probability of interruption in a month at the middle of bands 0 to 4 (<5, 5-10, 10-15, 15-20, >20 %; the last is
open)."""
GIB_PER_GB = 1e9 / 2**30


NOT_PROPORTIONAL = re.compile(r"(g\d|gr\d|p\d|inf|trn|dl|vt|f\d|u-|u7|hpc|mac|i2$)")
"""Families whose price is not proportional to size: accelerators and u- machines (sizes differ in devices), hpc (all
sizes cost the same), mac (hosts), i2 (its `large` is listed too cheap where others are dearer). They are never
repaired: a zero is dropped, and a price that only 3.9.1 lists may carry the uplift (SOURCES counts those)."""

RETIRED_FAMILIES = frozenset((
    "t1", "m1", "m2", "m3", "c1", "c3", "cc1", "cc2", "cg1", "cr1", "hi1", "hs1", "g2", "g3", "g3s", "p2", "p3", "f1",
    "i2", "i3p", "r3",
))  # fmt: skip
"""Families AWS calls previous generation and no longer recommends or has closed."""

WITHDRAWN_GPUS = {
    "p2": ("K80", 12.0), "p3": ("V100", 16.0), "g2": ("GRID K520", 4.0), "g3": ("M60", 8.0),
    "g3s": ("M60", 8.0), "g4ad": ("Radeon Pro V520", 8.0),
}  # fmt: skip
"""GPU of families known from libcloud only: model and memory per GPU (GiB), as in AWS's documentation."""
WITHDRAWN_OTHER_DEVICES = {"f1.2xlarge": 1, "f1.4xlarge": 2, "f1.16xlarge": 8, "dl1.24xlarge": 8}
"""FPGAs and Gaudi cards of withdrawn types (AWS documentation)."""


# specifications


def generation(family: str) -> int:
    """Return the generation digit of a family: m7g 7, u-6tb1 1, u7i-12tb 7, p6-b200 6."""
    match = re.match(r"u-\d+tb(\d+)", family) or re.search(r"(\d+)", family)
    return int(match[1]) if match else 0


def moto_row(spec: dict[str, Any]) -> dict[str, Any]:
    """One row of `types.csv` from a DescribeInstanceTypes record."""
    cpu, cores, ebs = spec["ProcessorInfo"], spec["VCpuInfo"], spec["EbsInfo"].get("EbsOptimizedInfo", {})
    cards = spec["NetworkInfo"]["NetworkCards"]
    gpus = spec.get("GpuInfo", {}).get("Gpus", [])
    neuron = sum(d["Count"] for d in spec.get("NeuronInfo", {}).get("NeuronDevices", []))
    inference = sum(d["Count"] for d in spec.get("InferenceAcceleratorInfo", {}).get("Accelerators", []))
    media = sum(d["Count"] for d in spec.get("MediaAcceleratorInfo", {}).get("Accelerators", []))
    fpgas = sum(d["Count"] for d in spec.get("FpgaInfo", {}).get("Fpgas", []))
    gpu_count = sum(g["LogicalGpuCount"] for g in gpus)
    store = spec.get("InstanceStorageInfo", {})
    disks = store.get("Disks", [])
    nvme = "nvme-" if store.get("NvmeSupport") == "required" else ""
    kind = disks[0]["Type"] if disks else ""
    return {
        "instance_type": spec["InstanceType"],
        "vcpus": cores["DefaultVCpus"],
        "cores": cores["DefaultCores"],
        "memory_gib": spec["MemoryInfo"]["SizeInMiB"] / 1024,
        "architecture": "arm64" if cpu["SupportedArchitectures"][0].startswith("arm64") else "x86_64",
        "cpu_maker": cpu["Manufacturer"],
        "clock_ghz": cpu.get("SustainedClockSpeedInGhz"),
        "gpus": gpu_count,
        "gpu_model": gpus[0]["Name"] if gpus else "",
        "gpu_memory_gib": spec["GpuInfo"]["TotalGpuMemoryInMiB"] / 1024 if gpus else None,
        "accelerators": gpu_count + max(neuron, inference) + media + fpgas,
        "local_disks": sum(d["Count"] for d in disks),
        "local_disk_gib": round(store["TotalSizeInGB"] * GIB_PER_GB, 1) if disks else None,
        "local_disk_kind": nvme + kind if kind == "ssd" else kind,
        "network_baseline_gbps": sum(c["BaselineBandwidthInGbps"] for c in cards),
        "network_peak_gbps": sum(c["PeakBandwidthInGbps"] for c in cards),
        "ebs_baseline_gbps": ebs["BaselineBandwidthInMbps"] / 1000 if ebs else None,
        "ebs_peak_gbps": ebs["MaximumBandwidthInMbps"] / 1000 if ebs else None,
        "burstable": spec["BurstablePerformanceSupported"],
        "bare_metal": spec["BareMetal"],
        "current_generation": spec["CurrentGeneration"],
        "source": MOTO.label,
    }


def number(text: str | None) -> float | None:
    """Return the first number in a text such as `Up to 3.7 GHz`, or None."""
    match = re.search(r"\d+(?:\.\d+)?", text or "")
    return float(match[0]) if match else None


def withdrawn_row(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """One row of `types.csv` for a type that only libcloud still describes, from its price-list attributes.

    All of these run two threads a core (Xeon E5 and later, EPYC 7R32), hence cores = vCPUs / 2. A baseline is stated
    only where the text gives a firm figure ("10 Gigabit"); "Up to" is a peak; "Moderate" is neither.
    """
    extra = spec["extra"]
    family = name.split(".")[0]
    gpus = int(extra.get("gpu") or 0)
    model, each = WITHDRAWN_GPUS.get(family, ("", math.nan))
    storage = re.fullmatch(r"(?:(\d+) x )?(\d+)(?: GB)? ((?:NVMe )?SSD|HDD)", extra["storage"])
    count = int(storage[1] or 1) if storage else 0
    network, ebs = extra["networkPerformance"], extra.get("dedicatedEbsThroughput")
    peak, ebs_peak = number(network), number(ebs)
    return {
        "instance_type": name,
        "vcpus": int(extra["vcpu"]),
        "cores": int(extra["vcpu"]) // 2,
        "memory_gib": spec["ram"] / 1024,
        "architecture": "x86_64",
        "cpu_maker": extra["physicalProcessor"].split()[0],
        "clock_ghz": number(extra.get("clockSpeed")),
        "gpus": gpus,
        "gpu_model": model,
        "gpu_memory_gib": gpus * each if gpus else None,
        "accelerators": gpus + WITHDRAWN_OTHER_DEVICES.get(name, 0),
        "local_disks": count,
        "local_disk_gib": round(count * int(storage[2]) * GIB_PER_GB, 1) if storage else None,
        "local_disk_kind": storage[3].lower().replace(" ", "-") if storage else "",
        "network_baseline_gbps": None if network.startswith("Up to") else peak,
        "network_peak_gbps": peak,
        "ebs_baseline_gbps": None if not ebs_peak or ebs.startswith("Up to") else ebs_peak / 1000,
        "ebs_peak_gbps": ebs_peak / 1000 if ebs_peak else None,
        "burstable": False,
        "bare_metal": False,
        "current_generation": False,
        "source": NEW.label,
    }


def cpu_models(listed: dict[str, Any], measured: dict[str, Any]) -> dict[str, str]:
    """CPU model per type: AWS's own text where libcloud has it, else the model the benchmarked machine reported."""
    models = {}
    for name, entry in measured.items():
        text = (entry.get("cpu") or {}).get("model") or ""
        models[name] = re.sub(r"\s+(CPU|Processor)?\s*@.*$", "", re.sub(r"\((R|TM)\)", "", text)).strip()
    for name, spec in listed.items():
        text = spec["extra"]["physicalProcessor"]
        if text not in ("Variable", "Intel Xeon Family") or not models.get(name):
            models[name] = "" if text == "Variable" else text
    return models


def type_table(moto: dict[str, Any], listed: dict[str, Any], measured: dict[str, Any]) -> pd.DataFrame:
    """Assemble `types.csv` (without `retired`), sorted by type."""
    rows = [moto_row({"InstanceType": name, **spec}) for name, spec in moto.items()]
    rows += [withdrawn_row(name, spec) for name, spec in listed.items() if name not in moto]
    types = pd.DataFrame(rows).sort_values("instance_type", ignore_index=True)
    name = types["instance_type"].str.split(".", n=1, expand=True)
    types.insert(0, "provider", "aws")
    types.insert(2, "family", name[0])
    types.insert(3, "size", name[1])
    types.insert(4, "generation", types["family"].map(generation))
    models = types["instance_type"].map(cpu_models(listed, measured))
    types.insert(list(types.columns).index("cpu_maker") + 1, "cpu_model", models)
    clocks = {name: number(spec["extra"].get("clockSpeed")) for name, spec in listed.items()}
    types["clock_ghz"] = types["clock_ghz"].fillna(types["instance_type"].map(clocks))
    return types


# prices and offerings


def listed_prices(wheel: zipfile.ZipFile) -> pd.Series[float]:
    """On-demand Linux prices of one libcloud release, indexed by (instance_type, region); 0 stays 0 here."""
    table = json.loads(member(wheel, "libcloud/data/pricing.json"))["compute"]["ec2_linux"]
    cells = {(name, region): float(usd) for name, row in table.items() if "." in name for region, usd in row.items()}
    return pd.Series(cells).rename_axis(["instance_type", "region"])


def size_factors(types: pd.DataFrame) -> pd.Series[float]:
    """Size factor per type: nano .25, micro .5, small 1, medium 2, large 4, xlarge 8, Nxlarge and metal-Nxl 8N.

    A plain `metal` counts as the largest size of its family: in libcloud 3.6.0 the two prices are equal to 0.15 % in
    all 466 cases (34 families, 20 regions) where both are listed, accelerators apart.
    """
    small = {"nano": 0.25, "micro": 0.5, "small": 1, "medium": 2, "large": 4, "xlarge": 8}
    multiple = types["size"].str.extract(r"^(?:(\d+)xlarge|metal-(\d+)xl)$").astype(float)
    factor = types["size"].map(small).fillna(8 * multiple[0].fillna(multiple[1]))
    return factor.fillna(factor.groupby(types["family"]).transform("max")).set_axis(types["instance_type"])


def price_table(
    old: pd.Series[float], new: pd.Series[float], types: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, int]]:
    """On-demand prices with quality, source and date, and counts of what was dropped or is doubtful.

    3.6.0 is clean and wins wherever it has a value. In 3.9.1 a sixth of the prices are 0 and a third carry the uplift
    of dedicated tenancy (6 or 10 %). Within a family and region price is proportional to the size factor, so unit =
    min(price / factor) over the non-zero prices, and an entry of 3.9.1 that is 0 or 4.5 to 30 % dearer than unit x
    factor becomes unit x factor (`repaired`). Families matching `NOT_PROPORTIONAL` are left as listed. What is still 0
    has no price; it is dropped.
    """
    table = pd.DataFrame({"old": old, "new": new}).reset_index()
    known = table["instance_type"].isin(types["instance_type"])
    family = table["instance_type"].str.split(".").str[0]
    factor = table["instance_type"].map(size_factors(types))
    price = table["old"].where(table["old"] > 0, table["new"])
    unit = (price / factor).where(price > 0).groupby([family, table["region"]]).transform("min")
    ratio = price / (unit * factor)
    suspect = ~(table["old"] > 0) & ((price == 0) | ratio.between(1.045, 1.30))
    repaired = suspect & unit.notna() & factor.notna() & ~family.str.match(NOT_PROPORTIONAL)
    from_old = table["old"] > 0
    prices = pd.DataFrame({
        "provider": "aws",
        "instance_type": table["instance_type"],
        "region": table["region"],
        "usd_per_hour": price.where(~repaired, (unit * factor).round(5)),
        "price_quality": np.where(repaired, "repaired", "listed"),
        "source": np.where(from_old, OLD.label, NEW.label),
        "date": np.where(from_old, OLD.date, NEW.date),
    })  # fmt: skip
    priced = prices["usd_per_hour"] > 0
    unrepairable = priced & known & ~from_old & family.str.match(NOT_PROPORTIONAL)
    notes = {
        "prices only 3.9.1 lists, of families the repair leaves alone (some 6 or 10 % too dear)": int(
            unrepairable.sum()
        ),
        "prices of 0 that no other size of the family could repair (dropped)": int((known & ~priced).sum()),
        "prices of types without specifications (dropped)": int((~known & priced).sum()),
    }
    kept = prices[priced & known].sort_values(["instance_type", "region"], ignore_index=True)
    return kept, notes


def offer_table(wheel: zipfile.ZipFile, types: pd.DataFrame, prices: pd.DataFrame) -> pd.DataFrame:
    """Types x regions: 1 offered, 0 not, empty unknown. Regions moto does not cover offer what has a price there."""
    folder = "moto/ec2/resources/instance_type_offerings/region/"
    names = pd.Index(types["instance_type"])
    withdrawn = (types["source"] != MOTO.label).to_numpy()
    columns: dict[str, Any] = {}
    for region in sorted(REGIONS):
        listing = f"{folder}{region}.json.gz"
        if listing in wheel.namelist():
            known = names.isin({entry["InstanceType"] for entry in json.loads(member(wheel, listing))})
            columns[region] = pd.array(known.astype(int), dtype="Int64")
        else:
            sold = names.isin(prices["instance_type"][prices["region"] == region])
            columns[region] = pd.array(np.where(withdrawn, 0, np.where(sold, 1, np.nan)), dtype="Int64")
    return pd.DataFrame(columns, index=names).reset_index()


def mark_retired(types: pd.DataFrame, prices: pd.DataFrame) -> pd.Series[bool]:
    """A type is retired when AWS no longer describes it (it is not in moto's copy), or its family is in
    `RETIRED_FAMILIES`, or AWS flags it as previous generation and it has no price anywhere.

    The flag alone is not enough: it covers m5 and c5, still sold everywhere."""
    unpriced = ~types["instance_type"].isin(prices["instance_type"])
    gone = (types["source"] != MOTO.label) | types["family"].isin(RETIRED_FAMILIES)
    return gone | (~types["current_generation"] & unpriced)


# figures per family


def speed_table(measured: dict[str, Any], types: pd.DataFrame) -> pd.DataFrame:
    """CoreMark iterations per second per vCPU (whole-machine score / vCPUs), median over a family's measured sizes."""
    rows = [
        (name, m["coremark"]["iterations_second"], m["ran_at"][:10])
        for name, m in measured.items()
        if m.get("coremark")
    ]
    runs = pd.DataFrame(rows, columns=["instance_type", "score", "date"])
    runs = runs.merge(types[["instance_type", "family", "vcpus"]], on="instance_type")
    runs["per_vcpu"] = runs["score"] / runs["vcpus"]
    table = runs.groupby("family").agg(
        coremark_per_vcpu=("per_vcpu", "median"), measurements=("per_vcpu", "size"), date=("date", "max")
    )
    table["coremark_per_vcpu"] = table["coremark_per_vcpu"].round(1)
    return table.assign(source=COREMARK.label, quality="measured").reset_index()


def spot_table(advisor: dict[str, Any], types: pd.DataFrame) -> pd.DataFrame:
    """Spot saving (fraction of on-demand) and interruption band per family: medians over regions and sizes, Linux.

    The median band is rounded up. `interruption_per_month` is the middle of that band.
    """
    cells = [(name, c["s"] / 100, c["r"]) for region in advisor.values() for name, c in region.get("Linux", {}).items()]
    rows = pd.DataFrame(cells, columns=["instance_type", "saving", "band"])
    rows["family"] = rows["instance_type"].str.split(".").str[0]
    rows = rows[rows["family"].isin(types["family"])]
    table = rows.groupby("family").agg(
        saving=("saving", "median"), band=("band", "median"), measurements=("saving", "size")
    )
    table["saving"] = table["saving"].round(4)
    table["band"] = np.ceil(table["band"]).astype(int)
    table.insert(2, "interruption_per_month", table["band"].map(dict(enumerate(SPOT_PER_MONTH))))
    return table.assign(source=SPOT.label, quality="estimated").reset_index()


# writing


def region_table() -> pd.DataFrame:
    """Code, human name and kind (`commercial`, `government`, `local zone`) of every region."""
    table = pd.DataFrame(sorted(REGIONS.items()), columns=["region", "name"])
    parts = table["region"].str.count("-")
    table["kind"] = np.select(
        [table["region"].str.contains("-gov-"), parts > 2], ["government", "local zone"], "commercial"
    )
    return table


def sources_text(counts: dict[str, int]) -> str:
    """Return the SOURCES file: a tab-separated table, then counts."""
    lines = ["name\tversion\tlicence\tdate\tsha256\tused for"]
    lines += ["\t".join((p.name, p.version, p.licence, p.date, p.sha256, p.used_for)) for p in (MOTO, OLD, NEW)]
    lines += [
        "\t".join((f"{f.name} ({f.repository}/{f.path})", f.commit, f.licence, "", f.sha256, f.used_for))
        for f in (COREMARK, SPOT)
    ]
    return "\n".join([*lines, "", *(f"# {count} {what}" for what, count in counts.items()), ""])


def build(packages: Path, mirror: Path) -> dict[str, bytes]:
    """Return every output file's name and bytes."""
    moto, old, new = (open_wheel(package, packages) for package in (MOTO, OLD, NEW))
    text = member(new, "libcloud/compute/constants/ec2_instance_types.py").decode()
    listed = ast.literal_eval(text.partition("INSTANCE_TYPES = ")[2])
    measured = public_json(COREMARK, mirror)
    types = type_table(json.loads(member(moto, "moto/ec2/resources/instance_types.json.gz")), listed, measured)
    prices, notes = price_table(listed_prices(old), listed_prices(new), types)
    types.insert(list(types.columns).index("bare_metal") + 1, "retired", mark_retired(types, prices))
    tables = {
        "types.csv": types,
        "prices.csv": prices,
        "offered.csv": offer_table(moto, types, prices),
        "regions.csv": region_table(),
        "speed.csv": speed_table(measured, types),
        "spot.csv": spot_table(public_json(SPOT, mirror)["spot_advisor"], types),
    }
    counts = {
        "types": len(types),
        "of them retired": int(types["retired"].sum()),
        "of them with a price": prices["instance_type"].nunique(),
        "prices": len(prices),
        "of them repaired": int((prices["price_quality"] == "repaired").sum()),
        "regions": prices["region"].nunique(),
        "families with a speed figure": len(tables["speed.csv"]),
        "families with a spot figure": len(tables["spot.csv"]),
        **notes,
    }
    files = {
        name: t.to_csv(index=False, lineterminator="\n", float_format="%.10g").encode() for name, t in tables.items()
    }
    return {**files, "SOURCES": sources_text(counts).encode()}


def main() -> None:
    """Parse arguments, build, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_mirror = os.environ.get("RECOMMENDER_DATASETS_MIRROR", str(ROOT.parent / "shared" / "datasets"))
    parser.add_argument(
        "--packages", type=Path, help="directory that has the wheels, or receives them (default: temporary)"
    )
    parser.add_argument(
        "--mirror", type=Path, default=Path(default_mirror), help="OWNER/REPO/COMMIT/PATH (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "recommender" / "catalogue" / "data")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = build(options.packages or Path(scratch), options.mirror)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (options.out / name).write_bytes(data)
    sys.stderr.write(files["SOURCES"].decode())


if __name__ == "__main__":
    main()
