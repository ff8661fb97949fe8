"""A CPU's name or numbers lead to the EC2 family with the same cores, or to nothing."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from recommender.catalogue import cpu
from recommender.catalogue.cpu import describe_cpuinfo, identify, local_cpu_model

TYPES = Path(cpu.__file__).parent / "data" / "types.csv"


@pytest.mark.parametrize(
    ("cpu_model", "family", "microarchitecture"),
    [
        ("Intel(R) Xeon(R) Platinum 8488C", "m7i", "Sapphire Rapids"),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "m6i", "Ice Lake"),
        ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", "m5", "Cascade Lake"),
        ("Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz", "m5", "Skylake-SP"),
        ("Intel(R) Xeon(R) 6975P-C", "m8i", "Granite Rapids"),
        ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", "m4", "Broadwell"),
        ("Intel(R) Xeon(R) CPU E5-2676 v3 @ 2.40GHz", "m4", "Haswell"),
        ("Intel(R) Xeon(R) Gold 6338N CPU @ 2.20GHz", "m6i", "Ice Lake"),
        ("Intel(R) Xeon(R) Platinum 8376H CPU @ 2.60GHz", "m5", "Cooper Lake"),
        ("INTEL(R) XEON(R) PLATINUM 8592+", "m7i", "Emerald Rapids"),
        ("AMD EPYC 9R14", "m7a", "Zen 4"),
        ("AMD EPYC 9R14 96-Core Processor", "m7a", "Zen 4"),
        ("AMD EPYC 7R13 Processor", "m6a", "Zen 3"),
        ("AMD EPYC 7571", "m5a", "Zen 1"),
        ("AMD EPYC 9R45", "m8a", "Zen 5"),
        ("AMD EPYC 7742 64-Core Processor", "c5a", "Zen 2"),
        ("AMD EPYC 73F3 16-Core Processor", "m6a", "Zen 3"),
        ("AMD EPYC 9754 128-Core Processor", "m7a", "Zen 4c"),
        ("AMD EPYC 9965 192-Core Processor", "m8a", "Zen 5c"),
        ("AMD EPYC-Milan Processor", "m6a", "Zen 3"),
        ("Intel Xeon Processor (Icelake)", "m6i", "Ice Lake"),
        ("ARM Neoverse-N1 (implementer 0x41 part 0xd0c)", "m6g", "Neoverse N1"),
        ("Neoverse-V1", "m7g", "Neoverse V1"),
        ("AWS Graviton4 Processor", "m8g", "Neoverse V2"),
        ("AMD EPYC (family 25 model 17 stepping 1)", "m7a", "Zen 4"),
        ("AMD EPYC (family 25 model 160 stepping 2)", "m7a", "Zen 4c"),
        ("AMD EPYC (family 25 model 1 stepping 1)", "m6a", "Zen 3"),
        ("AMD EPYC (family 23 model 49 stepping 0)", "c5a", "Zen 2"),
        ("AMD EPYC (family 23 model 1 stepping 2)", "m5a", "Zen 1"),
        ("AMD EPYC (family 26 model 2 stepping 1)", "m8a", "Zen 5"),
        ("Intel(R) Xeon(R) Processor @ 2.50GHz (family 6 model 143 stepping 8)", "m7i", "Sapphire Rapids"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz (family 6 model 79 stepping 0)", "m4", "Broadwell"),
        ("Common KVM processor (GenuineIntel family 6 model 173 stepping 1)", "m8i", "Granite Rapids"),
    ],
)
def test_a_known_cpu_leads_to_the_family_with_its_cores(cpu_model: str, family: str, microarchitecture: str) -> None:
    match = identify(cpu_model)
    assert match is not None
    assert (match.family, match.microarchitecture) == (family, microarchitecture)
    assert family in match.how
    assert microarchitecture in match.how


@pytest.mark.parametrize(
    "cpu_model",
    [
        "",
        "x86_64",
        "Apple M2 Pro",
        "Intel(R) Core(TM) i9-7980XE CPU @ 2.60GHz (family 6 model 85 stepping 4)",
        "13th Gen Intel(R) Core(TM) i7-1355U (family 6 model 186 stepping 3)",
        "AMD Ryzen 9 5950X 16-Core Processor (family 25 model 33 stepping 0)",
        "AMD Ryzen 7 1700 Eight-Core Processor (family 23 model 1 stepping 1)",
        "AMD Ryzen Threadripper 3970X 32-Core Processor (family 23 model 49 stepping 0)",
        "Intel(R) Xeon(R) E-2288G CPU @ 3.70GHz (family 6 model 158 stepping 13)",
        "ARM Neoverse-N2 (implementer 0x41 part 0xd49)",
        "AMD EPYC (family 99 model 1 stepping 0)",
        "QEMU Virtual CPU version 2.5+",
    ],
)
def test_a_cpu_that_ec2_does_not_have_leads_nowhere(cpu_model: str) -> None:
    assert identify(cpu_model) is None


def test_a_family_with_other_cores_than_the_cpu_says_so() -> None:
    match = identify("Intel(R) Xeon(R) Platinum 8573C (family 6 model 207 stepping 2)")
    assert match is not None
    assert match.family == "m7i"
    assert "no m family has Emerald Rapids" in match.how


def _types() -> list[dict[str, str]]:
    with TYPES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_family_named_exists_in_the_catalogue() -> None:
    assert {core.family for core in cpu._CORES.values()} <= {row["family"] for row in _types()}


def test_the_catalogue_names_for_the_cpus_of_these_families_lead_back_to_them() -> None:
    families = {core.family for core in cpu._CORES.values()}
    names = {(row["cpu_model"], row["family"]) for row in _types() if row["family"] in families and row["cpu_model"]}
    assert len({family for _, family in names}) > 12
    for name, family in sorted(names):
        match = identify(name)
        assert match is not None, name
        assert match.family == family, name


def test_every_core_is_reached_by_a_name_or_a_number() -> None:
    reached = {core for _, core in cpu._NAMES} | {core for *_, core in cpu._CPUID}
    assert reached == set(cpu._CORES)


def test_cpuinfo_of_x86_gives_the_name_and_the_numbers() -> None:
    text = (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
        "stepping\t: 1\n\nprocessor\t: 1\nmodel\t\t: 99\n"
    )
    assert describe_cpuinfo(text) == "AMD EPYC (family 25 model 17 stepping 1)"


def test_cpuinfo_without_a_brand_gives_the_vendor() -> None:
    text = (
        "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t: 143\nmodel name\t: Common KVM processor\n"
        "stepping\t: unknown\n"
    )
    assert describe_cpuinfo(text) == "Common KVM processor (GenuineIntel family 6 model 143)"


def test_cpuinfo_of_arm_gives_the_core_of_the_part_number() -> None:
    text = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd40\n"
    described = describe_cpuinfo(text)
    assert described == "ARM Neoverse-V1 (implementer 0x41 part 0xd40)"
    match = identify(described)
    assert match is not None
    assert match.family == "m7g"


def test_cpuinfo_of_the_first_graviton_leads_to_a1() -> None:
    match = identify(describe_cpuinfo("CPU implementer\t: 0x41\nCPU part\t: 0xd08\n"))
    assert match is not None
    assert match.family == "a1"


def test_cpuinfo_of_another_maker_of_arm_cores_is_unknown() -> None:
    described = describe_cpuinfo("CPU implementer\t: 0xc0\nCPU part\t: 0xd40\n")
    assert identify(described) is None


def test_the_cpu_of_this_machine_has_a_name_of_one_line() -> None:
    assert re.fullmatch(r"\S.*\S", local_cpu_model())
