"""The catalogue's build script: its rules on small cases, its refusals, and that rebuilding gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import urllib.error
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recommender" / "catalogue" / "data"


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import build_catalogue

    return build_catalogue


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import catalogue_sources

    return catalogue_sources


def types_of(*names: str) -> pd.DataFrame:
    """A table of types with what the price rule looks at."""
    parts = [name.split(".") for name in names]
    return pd.DataFrame(
        {"instance_type": names, "family": [family for family, _ in parts], "size": [size for _, size in parts]}
    )


def prices_of(cells: dict[tuple[str, str], float]) -> pd.Series:
    return pd.Series(cells).rename_axis(["instance_type", "region"])


def repaired(builder: ModuleType, old: dict, new: dict, *names: str) -> dict[str, tuple[float, str]]:
    table, _ = builder.price_table(prices_of(old), prices_of(new), types_of(*names))
    return {row.instance_type: (row.usd_per_hour, row.price_quality) for row in table.itertuples()}


def test_a_zero_and_an_uplifted_price_are_repaired_and_a_clean_one_is_not(builder: ModuleType) -> None:
    new = {("m9.large", "r"): 0.1, ("m9.xlarge", "r"): 0.0, ("m9.2xlarge", "r"): 0.44, ("m9.metal-4xl", "r"): 0.8}
    found = repaired(builder, {("x.large", "q"): 1.0}, new, "m9.large", "m9.xlarge", "m9.2xlarge", "m9.metal-4xl")
    assert found == {
        "m9.2xlarge": (0.4, "repaired"),
        "m9.large": (0.1, "listed"),
        "m9.metal-4xl": (0.8, "listed"),
        "m9.xlarge": (0.2, "repaired"),
    }


def test_the_older_clean_list_wins_and_mends_its_siblings(builder: ModuleType) -> None:
    old = {("m9.large", "r"): 0.1}
    new = {("m9.large", "r"): 0.11, ("m9.xlarge", "r"): 0.22}
    assert repaired(builder, old, new, "m9.large", "m9.xlarge") == {
        "m9.large": (0.1, "listed"),
        "m9.xlarge": (0.2, "repaired"),
    }


def test_accelerators_are_left_alone_and_zeros_that_cannot_be_repaired_are_dropped(builder: ModuleType) -> None:
    new = {("g9.large", "r"): 1.0, ("g9.xlarge", "r"): 2.2, ("g9.2xlarge", "r"): 0.0, ("m9.large", "r"): 0.0}
    found = repaired(builder, {("x.large", "q"): 1.0}, new, "g9.large", "g9.xlarge", "g9.2xlarge", "m9.large")
    assert found == {"g9.large": (1.0, "listed"), "g9.xlarge": (2.2, "listed")}


def test_a_price_without_specifications_is_dropped_and_counted(builder: ModuleType) -> None:
    table, notes = builder.price_table(
        prices_of({("zz.large", "r"): 1.0}), prices_of({("zy.large", "r"): 2.0}), types_of("m9.large")
    )
    assert len(table) == 0
    assert [count for what, count in notes.items() if "without specifications" in what] == [2]


def test_size_factors_double_and_a_plain_metal_is_the_largest_size(builder: ModuleType) -> None:
    factors = builder.size_factors(types_of("m9.nano", "m9.micro", "m9.large", "m9.24xlarge", "m9.metal", "n.metal"))
    assert factors.tolist()[:5] == [0.25, 0.5, 4, 192, 192]
    assert np.isnan(factors["n.metal"])


@pytest.mark.parametrize(
    ("family", "expected"), [("m7g", 7), ("u-6tb1", 1), ("u7i-12tb", 7), ("p6-b200", 6), ("x2iedn", 2), ("trn1n", 1)]
)
def test_generation_is_the_family_s_digit(builder: ModuleType, family: str, expected: int) -> None:
    assert builder.generation(family) == expected


def test_a_withdrawn_type_is_read_from_price_list_attributes(builder: ModuleType) -> None:
    extra = {
        "vcpu": "64",
        "gpu": "8",
        "physicalProcessor": "Intel Xeon E5-2686 v4 (Broadwell)",
        "clockSpeed": "2.3 GHz",
        "storage": "2 x 940 NVMe SSD",
        "networkPerformance": "Up to 25 Gigabit",
        "dedicatedEbsThroughput": "14000 Mbps",
    }
    row = builder.withdrawn_row("p3.16xlarge", {"ram": 499712, "extra": extra})
    assert (row["cores"], row["gpus"], row["gpu_model"], row["gpu_memory_gib"]) == (32, 8, "V100", 128.0)
    assert (row["local_disks"], row["local_disk_kind"]) == (2, "nvme-ssd")
    assert row["local_disk_gib"] == pytest.approx(1750.9, abs=0.1)
    assert (row["network_baseline_gbps"], row["network_peak_gbps"], row["ebs_peak_gbps"]) == (None, 25.0, 14.0)


def test_the_spot_band_is_the_median_rounded_up(builder: ModuleType) -> None:
    advisor = {"r": {"Linux": {"m9.large": {"s": 60, "r": 1}, "m9.xlarge": {"s": 70, "r": 2}}, "Windows": {}}}
    row = builder.spot_table(advisor, types_of("m9.large")).iloc[0]
    assert (row["saving"], row["band"], row["interruption_per_month"], row["measurements"]) == (0.65, 2, 0.125, 2)


def test_changed_bytes_are_refused(sources: ModuleType, tmp_path: Path) -> None:
    assert sources.verified(b"x", hashlib.sha256(b"x").hexdigest(), "x") == b"x"
    with pytest.raises(SystemExit, match="refusing"):
        sources.verified(b"x", "0" * 64, "x")
    (tmp_path / sources.MOTO.wheel).write_bytes(b"not the wheel")
    with pytest.raises(SystemExit, match="SHA-256"):
        sources.open_wheel(sources.MOTO, tmp_path)
    path = tmp_path / sources.SPOT.repository / sources.SPOT.commit / sources.SPOT.path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({}))
    with pytest.raises(SystemExit, match="SHA-256"):
        sources.public_json(sources.SPOT, tmp_path)


def test_an_oversized_member_is_refused(sources: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 10)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", b"0" * 11)
    with zipfile.ZipFile(data) as archive, pytest.raises(SystemExit, match="larger than"):
        sources.member(archive, "big")


def test_the_sources_file_agrees_with_the_pins_and_the_tables(sources: ModuleType) -> None:
    text = (DATA / "SOURCES").read_text()
    for pinned in (sources.MOTO, sources.OLD, sources.NEW, sources.COREMARK, sources.SPOT):
        assert pinned.sha256 in text
        assert pinned.licence in text
    assert f"# {len(pd.read_csv(DATA / 'prices.csv'))} prices\n" in text
    assert f"# {len(pd.read_csv(DATA / 'types.csv'))} types\n" in text


@pytest.mark.slow
def test_rebuilding_gives_the_committed_bytes(builder: ModuleType, tmp_path: Path) -> None:
    packages = Path(os.environ.get("CATALOGUE_PACKAGES", tmp_path))
    mirror = Path(os.environ.get("RECOMMENDER_DATASETS_MIRROR", ROOT.parent / "shared" / "datasets"))
    try:
        files = builder.build(packages, mirror)
    except (subprocess.CalledProcessError, urllib.error.URLError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the pinned packages or public files could not be had here: {error}")
    assert {path.name for path in DATA.iterdir()} == set(files)
    for name, data in files.items():
        assert (DATA / name).read_bytes() == data, name
