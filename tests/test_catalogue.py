"""The bundled catalogue: facts known by hand, regularities with every exception named, filters, neighbours."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from recommender.catalogue import Catalogue, TypeFilter, load_catalogue, offerings, similar
from recommender.errors import InputError, UnknownNameError

KNOWN_PRICES = {
    ("m5.large", "us-east-1"): 0.096,
    ("c5.xlarge", "us-east-1"): 0.17,
    ("r5.large", "us-east-1"): 0.126,
    ("t3.medium", "us-east-1"): 0.0416,
    ("t3.nano", "us-east-1"): 0.0052,
    ("t4g.small", "us-east-1"): 0.0168,
    ("m6g.large", "us-east-1"): 0.077,
    ("c6g.xlarge", "us-east-1"): 0.136,
    ("m7g.large", "us-east-1"): 0.0816,
    ("c7g.large", "us-east-1"): 0.0725,
    ("m6i.xlarge", "us-east-1"): 0.192,
    ("m7i.large", "us-east-1"): 0.1008,
    ("m7a.large", "us-east-1"): 0.11592,
    ("m8g.large", "us-east-1"): 0.08976,
    ("i3.large", "us-east-1"): 0.156,
    ("g4dn.xlarge", "us-east-1"): 0.526,
    ("g5.xlarge", "us-east-1"): 1.006,
    ("p3.2xlarge", "us-east-1"): 3.06,
    ("m5.metal", "us-east-1"): 4.608,
    ("m5.large", "eu-west-1"): 0.107,
    ("m5.large", "eu-central-1"): 0.115,
}
"""On-demand Linux, USD per hour, from memory of the public price pages."""

BURSTABLE = "burstable: small sizes have the same vCPUs and fewer CPU credits"
SIZE_EXCEPTIONS = {
    **dict.fromkeys(("t2", "t3", "t3a", "t4g", "t8i"), BURSTABLE),
    "c4": "8xlarge has 36 vCPUs: all of two 9-core sockets, not 32",
    "d2": "8xlarge has 36 vCPUs: all of two 9-core sockets, not 32",
    "m1": "small has one vCPU, as medium",
}
"""Families whose vCPUs are not proportional to the size's name."""

MEMORY_EXCEPTIONS = {
    **dict.fromkeys(("t2", "t3", "t3a", "t4g", "t8i"), BURSTABLE),
    "c4": "8xlarge has 36 vCPUs",
    "d2": "8xlarge has 36 vCPUs",
    "m1": "small has half the memory of medium and the same vCPU",
    "g7e": "memory follows the GPUs",
    "hpc7a": "smaller sizes are the same machine with cores switched off",
    "hpc7g": "smaller sizes are the same machine with cores switched off",
    "p2": "16xlarge has 732 GiB, 1.5 times 8xlarge",
    "p5": "4xlarge is an eighth in GPUs and memory, a twelfth in vCPUs",
    "u-6tb1": "56xlarge is 112xlarge with half the vCPUs",
}
"""Families whose memory per vCPU is not constant (to 3 %)."""

SPEED_EXCEPTIONS = {
    ("c", "Intel", 5): "c5, c5d and c5n measure 1 to 4 % below c4",
    ("i", "Intel", 3): "i3 and i3en have lower clocks than i2: 13,300 and 14,400 against 15,900",
    ("m", "Intel", 2): "m2 is as old as m1, and within 3 % of it",
    ("m", "Intel", 4): "m4 is within 2 % of m3",
    ("m", "Intel", 5): "m5 is within 2 % of m4",
    ("r", "Intel", 4): "r4 is 5 % below r3",
    ("t", "Intel", 2): "t1's one vCPU, measured in a burst, is a whole core",
    ("t", "Intel", 3): "t3's vCPUs are two to a core, most of t2's were measured in a burst on whole cores",
    ("x", "Intel", 2): "x2idn and x2iedn are within 3 % of x1; x2iezn is 17 % above it",
}
"""(series, CPU maker, generation) whose median CoreMark per vCPU is not above the previous measured generation's."""

PRICE_EXCEPTIONS = {
    **dict.fromkeys(("g4ad", "g4dn", "g5", "g5g", "g6", "g6e", "gr6"), "price follows the GPUs"),
    **dict.fromkeys(("inf1", "inf2"), "price follows the accelerators"),
    **dict.fromkeys(("hpc7a", "hpc7g"), "every size is the whole machine and costs the same"),
    "u-6tb1": "56xlarge has the memory of 112xlarge",
    "i2": "retired: `large` is listed at a price of its own",
}
"""Families whose price is not proportional to size (to 2 %) in some region."""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def size_factor(size: str) -> float:
    """nano .25 ... large 4, Nxlarge and metal-Nxl 8N; NaN for a plain metal."""
    small = {"nano": 0.25, "micro": 0.5, "small": 1.0, "medium": 2.0, "large": 4.0, "xlarge": 8.0}
    match = re.fullmatch(r"(\d+)xlarge|metal-(\d+)xl", size)
    return 8.0 * int(match[1] or match[2]) if match else small.get(size, np.nan)


def test_there_is_enough_of_everything(catalogue: Catalogue) -> None:
    assert catalogue.prices["instance_type"].nunique() >= 800
    assert catalogue.prices["region"].nunique() >= 30
    assert len(catalogue.prices) >= 14_000
    assert len(catalogue.speed) >= 100
    assert len(catalogue.spot) >= 100


def test_prices_known_by_hand(catalogue: Catalogue) -> None:
    found = {key: catalogue.price_of(*key) for key in KNOWN_PRICES}
    assert found == pytest.approx(KNOWN_PRICES)


def test_hardware_known_by_hand(catalogue: Catalogue) -> None:
    columns = ["vcpus", "cores", "memory_gib", "architecture", "gpus", "local_disks", "retired"]
    expected = {
        "m5.xlarge": [4, 2, 16.0, "x86_64", 0, 0, False],
        "m7g.large": [2, 2, 8.0, "arm64", 0, 0, False],
        "c5d.9xlarge": [36, 18, 72.0, "x86_64", 0, 1, False],
        "p4d.24xlarge": [96, 48, 1152.0, "x86_64", 8, 8, False],
        "p3.16xlarge": [64, 32, 488.0, "x86_64", 8, 0, True],
        "d2.8xlarge": [36, 18, 244.0, "x86_64", 0, 24, False],
    }
    found = {name: catalogue.types.loc[name, columns].tolist() for name in expected}
    assert found == expected
    assert catalogue.types.loc["p4d.24xlarge", "gpu_model"] == "A100"
    assert catalogue.types.loc["g6f.large", "gpus"] == 1, "an eighth of a card is one device"
    assert catalogue.types.loc["p4d.24xlarge", "network_peak_gbps"] == 400
    assert catalogue.types.loc["inf1.24xlarge", ["gpus", "accelerators"]].tolist() == [0, 16]


def test_no_key_is_duplicated_and_tables_are_sorted(catalogue: Catalogue) -> None:
    keys = pd.MultiIndex.from_frame(catalogue.prices[["instance_type", "region"]])
    assert keys.is_unique
    assert keys.is_monotonic_increasing
    for table in (catalogue.types, catalogue.offered, catalogue.speed, catalogue.spot, catalogue.places):
        assert table.index.is_unique
        assert table.index.is_monotonic_increasing


def test_every_price_is_positive_and_says_where_it_comes_from(catalogue: Catalogue) -> None:
    prices = catalogue.prices
    assert np.isfinite(prices["usd_per_hour"]).all()
    assert (prices["usd_per_hour"] > 0.002).all()
    assert not prices.isna().any().any()
    assert set(prices["price_quality"]) == {"listed", "repaired"}
    assert set(prices["provider"]) == {"aws"}
    assert prices["date"].str.fullmatch(r"20\d\d-\d\d-\d\d").all()


def test_every_name_refers_to_a_row(catalogue: Catalogue) -> None:
    assert set(catalogue.prices["instance_type"]) <= set(catalogue.types.index)
    assert set(catalogue.prices["region"]) == set(catalogue.places.index) == set(catalogue.offered.columns)
    assert catalogue.offered.index.equals(catalogue.types.index)
    families = set(catalogue.types["family"])
    assert set(catalogue.speed.index) <= families
    assert set(catalogue.spot.index) <= families


def test_sizes_double(catalogue: Catalogue) -> None:
    unit = catalogue.types["vcpus"] / catalogue.types["size"].map(size_factor)
    middle = unit.groupby(catalogue.types["family"]).transform("median")
    odd = set(catalogue.types["family"][(unit / middle - 1).abs() > 0.01])
    assert odd == set(SIZE_EXCEPTIONS)


def test_memory_per_vcpu_is_constant_within_a_family(catalogue: Catalogue) -> None:
    ratio = catalogue.types["memory_gib"] / catalogue.types["vcpus"]
    middle = ratio.groupby(catalogue.types["family"]).transform("median")
    odd = set(catalogue.types["family"][(ratio / middle - 1).abs() > 0.03])
    assert odd == set(MEMORY_EXCEPTIONS)


def test_a_newer_generation_is_faster(catalogue: Catalogue) -> None:
    facts = catalogue.types.groupby("family")[["generation", "cpu_maker"]].first()
    speed = catalogue.speed.join(facts).reset_index()
    speed["series"] = speed["family"].str.extract(r"^([a-z]+)", expand=False)
    speed = speed[speed["series"].isin(list("cdimrtx"))]
    medians = speed.groupby(["series", "cpu_maker", "generation"])["coremark_per_vcpu"].median()
    steps = medians.groupby(["series", "cpu_maker"]).diff()
    assert set(steps.index[steps <= 0]) == set(SPEED_EXCEPTIONS)
    assert (steps > 0).sum() >= 15


def test_price_is_proportional_to_size_but_for_named_families(catalogue: Catalogue) -> None:
    rows = catalogue.prices.join(catalogue.types[["family", "size"]], on="instance_type")
    unit = rows["usd_per_hour"] / rows["size"].map(size_factor)
    lowest = unit.groupby([rows["family"], rows["region"]]).transform("min")
    assert set(rows["family"][unit > 1.02 * lowest]) == set(PRICE_EXCEPTIONS)


def test_baselines_do_not_exceed_peaks_and_threads_per_core_are_one_or_two(catalogue: Catalogue) -> None:
    types = catalogue.types
    assert not (types["network_baseline_gbps"] > types["network_peak_gbps"]).any()
    assert not (types["ebs_baseline_gbps"] > types["ebs_peak_gbps"]).any()
    assert (types["vcpus"] / types["cores"]).isin([1, 2]).all()
    assert set(types["architecture"]) == {"x86_64", "arm64"}


def test_what_is_absent_is_missing_never_zero(catalogue: Catalogue) -> None:
    types = catalogue.types
    assert (types["local_disks"] > 0).equals(types["local_disk_gib"].notna())
    assert (types["local_disks"] > 0).equals(types["local_disk_kind"] != "")
    assert (types["gpus"] > 0).equals(types["gpu_memory_gib"].notna())
    assert (types["gpus"] > 0).equals(types["gpu_model"] != "")
    assert (types["accelerators"] >= types["gpus"]).all()
    numbers = types.select_dtypes("float")
    assert not (numbers == 0).any().any()
    assert set(types["local_disk_kind"]) == {"", "hdd", "ssd", "nvme-ssd"}


def test_retired_types_are_flagged_and_common_ones_are_not(catalogue: Catalogue) -> None:
    families = catalogue.types.groupby("family")["retired"].all()
    assert families[["p2", "p3", "g3", "f1", "m3", "m1", "c1", "t1", "cc2", "i2", "r3"]].all()
    assert not families[["m4", "c4", "r4", "m5", "c5", "r5", "t2", "t3", "m7g", "p3dn", "f2"]].any()
    assert catalogue.offered_in("p3.2xlarge") == []


def test_offered_in_lists_regions(catalogue: Catalogue) -> None:
    assert {"us-east-1", "eu-west-1", "us-gov-west-1"} <= set(catalogue.offered_in("m5.large"))
    assert "mx-central-1" in catalogue.offered_in("m7g.large")
    assert "af-south-1" not in catalogue.offered_in("a1.large")


def test_speed_and_spot_figures_are_plausible(catalogue: Catalogue) -> None:
    assert catalogue.speed["coremark_per_vcpu"].between(9_000, 60_000).all()
    assert (catalogue.speed["measurements"] >= 1).all()
    assert catalogue.spot["saving"].between(-1, 1).all()
    assert catalogue.spot["band"].isin(range(5)).all()
    middles = catalogue.spot["band"].map({0: 0.025, 1: 0.075, 2: 0.125, 3: 0.175, 4: 0.25})
    assert middles.equals(catalogue.spot["interruption_per_month"].rename("band"))
    assert set(catalogue.spot["quality"]) == {"estimated"}


@pytest.mark.parametrize("method", ["check_type", "check_region", "check_family"])
def test_an_unknown_name_is_answered_with_the_nearest(catalogue: Catalogue, method: str) -> None:
    wrong, right = {
        "check_type": ("m5.lrge", "m5.large"),
        "check_region": ("us-east1", "us-east-1"),
        "check_family": ("c6idd", "c6id"),
    }[method]
    with pytest.raises(UnknownNameError, match=f"did you mean '{re.escape(right)}'"):
        getattr(catalogue, method)(wrong)
    assert getattr(catalogue, method)(right) == right


def test_a_price_that_is_not_listed_is_none(catalogue: Catalogue) -> None:
    assert catalogue.price_of("mac2.metal", "us-east-1") is None


def test_a_filter_selects_what_it_says(catalogue: Catalogue) -> None:
    chosen = TypeFilter(families=("c6*", "m7g"), min_vcpus=4, max_vcpus=8, max_memory_gib=16, architecture="arm64")
    types = catalogue.types[chosen.mask(catalogue)]
    assert set(types["family"]) == {"c6g", "c6gd", "c6gn", "m7g"}
    assert types["vcpus"].between(4, 8).all()
    assert (types["memory_gib"] <= 16).all()


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        (TypeFilter(gpu=True), "g5.xlarge", "m5.large"),
        (TypeFilter(gpu=False), "inf2.xlarge", "g5.xlarge"),
        (TypeFilter(accelerator=False), "m5.large", "inf2.xlarge"),
        (TypeFilter(burstable=True), "t3.small", "m5.large"),
        (TypeFilter(bare_metal=False), "m5.large", "m5.metal"),
        (TypeFilter(local_disk=True), "m5d.large", "m5.large"),
        (TypeFilter(), "m5.large", "m3.large"),
        (TypeFilter(retired=True), "m3.large", "m5.large"),
        (TypeFilter(min_generation=7), "m7g.large", "m6g.large"),
        (TypeFilter(max_generation=6), "m6g.large", "m7g.large"),
        (TypeFilter(min_network_gbps=10), "c5n.18xlarge", "m5.large"),
        (TypeFilter(max_usd_per_hour=0.1, regions=("us-east-1",)), "m5.large", "m5.xlarge"),
        (TypeFilter(max_usd_per_hour=100.0), "m5.large", "mac2.metal"),
        (TypeFilter(regions=("af-south-1",)), "m5.large", "a1.large"),
        (TypeFilter(instance_types=("m5.large",)), "m5.large", "m5.xlarge"),
    ],
)
def test_each_condition_keeps_one_and_drops_another(
    catalogue: Catalogue, condition: TypeFilter, yes: str, no: str
) -> None:
    mask = condition.mask(catalogue)
    assert mask[yes]
    assert not mask[no]


@pytest.mark.parametrize(
    "condition",
    [
        TypeFilter(families=("zz*",)),
        TypeFilter(instance_types=("m5.lrge",)),
        TypeFilter(regions=("mars-1",)),
        TypeFilter(architecture="arm"),
    ],
)
def test_a_condition_that_names_nothing_known_is_an_error(catalogue: Catalogue, condition: TypeFilter) -> None:
    with pytest.raises(UnknownNameError):
        condition.mask(catalogue)


def test_a_price_limit_must_be_positive(catalogue: Catalogue) -> None:
    with pytest.raises(InputError, match="above 0"):
        offerings(catalogue, TypeFilter(max_usd_per_hour=0.0))


def test_offerings_are_one_row_a_type_and_region(catalogue: Catalogue) -> None:
    table = offerings(catalogue, TypeFilter(retired=None))
    assert len(table) == len(catalogue.prices)
    assert table["usd_per_hour"].tolist() == catalogue.prices["usd_per_hour"].tolist()
    few = offerings(catalogue, TypeFilter(families=("m5",), regions=("us-east-1", "eu-west-1"), max_vcpus=2))
    assert few[["instance_type", "region"]].to_numpy().tolist() == [
        ["m5.large", "eu-west-1"],
        ["m5.large", "us-east-1"],
    ]


def test_unpriced_offers_have_an_empty_price_never_zero(catalogue: Catalogue) -> None:
    condition = TypeFilter(families=("m9g",), regions=("us-east-1",))
    assert len(offerings(catalogue, condition)) == 0
    table = offerings(catalogue, condition, unpriced=True)
    assert len(table) > 5
    assert table["usd_per_hour"].isna().all()
    assert set(table["price_quality"]) == {""}


def test_similar_types_are_ranked_and_repeatable(catalogue: Catalogue) -> None:
    near = similar(catalogue, "m5.xlarge", count=8)
    assert len(near) == 8
    assert near["distance"].is_monotonic_increasing
    assert "m5.xlarge" not in near.index
    assert {"m4.xlarge", "m5a.xlarge", "m6i.xlarge"} <= set(near.index)
    pd.testing.assert_frame_equal(near, similar(catalogue, "m5.xlarge", count=8))
    assert (similar(catalogue, "g5.xlarge", count=3)["gpus"] == 1).all()
    assert similar(catalogue, "m5.xlarge", count=3, retired=True).shape == (3, 8)


def test_similar_refuses_nonsense(catalogue: Catalogue) -> None:
    with pytest.raises(InputError, match="at least 1"):
        similar(catalogue, "m5.xlarge", count=0)
    with pytest.raises(UnknownNameError):
        similar(catalogue, "m5.xxlarge")


def test_families_and_regions_summarise(catalogue: Catalogue) -> None:
    families = catalogue.families().set_index("family")
    assert families.loc["m7g", "coremark_per_vcpu"] > families.loc["m6g", "coremark_per_vcpu"]
    assert families.loc["m5", "memory_per_vcpu"] == 4
    regions = catalogue.regions().set_index("region")
    assert regions.loc["eu-west-1", "name"] == "Europe (Ireland)"
    assert regions.loc["us-west-2-lax-1", "kind"] == "local zone"
    assert regions["prices"].sum() == len(catalogue.prices)
