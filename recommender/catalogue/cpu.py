"""Which EC2 family has the CPU of a machine outside the catalogue, told by the CPU's name or its CPUID numbers."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuMatch:
    """The EC2 family whose cores are those of a CPU."""

    family: str
    """A family of EC2 instance types, such as `m7a`: general purpose wherever EC2 sells this core as such."""
    microarchitecture: str
    """The core's design, such as `Zen 4`."""
    how: str
    """How the CPU was recognised, as a sentence."""


@dataclass(frozen=True)
class _Core:
    family: str
    note: str = ""


# The CPU of each family: aws.amazon.com/ec2/instance-types, "Processor".
_CORES: Mapping[str, _Core] = {
    "Ivy Bridge": _Core("m3"),
    "Haswell": _Core("m4"),
    "Broadwell": _Core("m4"),
    "Skylake-SP": _Core("m5"),
    "Cascade Lake": _Core("m5"),
    "Cooper Lake": _Core("m5", "no EC2 family has Cooper Lake; its core is that of the Cascade Lake in m5"),
    "Skylake-SP or Cascade Lake": _Core("m5"),
    "Ice Lake": _Core("m6i"),
    "Sapphire Rapids": _Core("m7i"),
    "Emerald Rapids": _Core(
        "m7i", "no m family has Emerald Rapids; its core is nearly that of the Sapphire Rapids in m7i"
    ),
    "Granite Rapids": _Core("m8i"),
    "Zen 1": _Core("m5a"),
    "Zen 2": _Core("c5a", "no m family has Zen 2; the compute-optimised c5a does"),
    "Zen 3": _Core("m6a"),
    "Zen 4": _Core("m7a"),
    "Zen 4c": _Core("m7a", "no EC2 family has Zen 4c; it is the Zen 4 of m7a with less cache and a lower clock"),
    "Zen 5": _Core("m8a"),
    "Zen 5c": _Core("m8a", "no EC2 family has Zen 5c; it is the Zen 5 of m8a with less cache and a lower clock"),
    "Cortex-A72": _Core("a1", "no m family has Cortex-A72; the first Graviton in a1 does"),
    "Neoverse N1": _Core("m6g"),
    "Neoverse V1": _Core("m7g"),
    "Neoverse V2": _Core("m8g"),
    "Neoverse V3": _Core("m9g"),
}

# Cores made for desktops and laptops: their clocks and caches have no counterpart on EC2.
_CLIENT = re.compile(
    r"(?<!-)\b(Core|Ultra|Ryzen|Threadripper|Athlon|FX|Celeron|Pentium|Atom|Apple|Snapdragon|Xeon (E3|E|W|D)-)\b", re.I
)

# Names, the most particular first. The names hypervisors give (`Intel Xeon Processor (Icelake)`) come last.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"\bE[57]-\d{4}\w* ?v2\b", "Ivy Bridge"),
    (r"\bE[57]-\d{4}\w* ?v3\b", "Haswell"),
    (r"\bE[57]-\d{4}\w* ?v4\b", "Broadwell"),
    (r"\b(Platinum|Gold|Silver|Bronze) [3-9]1\d\d", "Skylake-SP"),
    (r"\b(Platinum|Gold|Silver|Bronze) [3-9]2\d\d", "Cascade Lake"),
    (r"\b(Platinum|Gold) [5-8]3\d\dHL?\b", "Cooper Lake"),
    (r"\b(Platinum|Gold|Silver|Bronze) [3-9]3\d\d", "Ice Lake"),
    (r"\b(Platinum|Gold|Silver|Bronze) [3-9]4\d\d", "Sapphire Rapids"),
    (r"\bMax 94\d\d", "Sapphire Rapids"),
    (r"\b(Platinum|Gold|Silver|Bronze) [3-9]5\d\d", "Emerald Rapids"),
    (r"\bXeon(?: 6)? 6[579]\d\dP\b", "Granite Rapids"),
    (r"\bEPYC (7\d\d1P?|3\d\d1)\b", "Zen 1"),
    (r"\bEPYC (7[\dF]\d2P?|7H12|7R32|7B12|7V12)\b", "Zen 2"),
    (r"\bEPYC (7\d[\dF]3[PX]?|7R13|7B13|7V13|7V73X)\b", "Zen 3"),
    (r"\bEPYC (97\d4S?|8\d\d4PN?)\b", "Zen 4c"),
    (r"\bEPYC (9\d\d4[PFX]?|9R14|9B14|9V74|9V33X)\b", "Zen 4"),
    (r"\bEPYC (9[67]45|98[24]5|9965)P?\b", "Zen 5c"),
    (r"\bEPYC (9\d\d5[PF]?|9R45|9R05|9B45|9V45)\b", "Zen 5"),
    (r"\bNeoverse[ -]N1\b|\bGraviton ?2\b|\bAmpere Altra\b", "Neoverse N1"),
    (r"\bNeoverse[ -]V1\b|\bGraviton ?3E?\b", "Neoverse V1"),
    (r"\bNeoverse[ -]V2\b|\bGraviton ?4\b", "Neoverse V2"),
    (r"\bNeoverse[ -]V3\b|\bGraviton ?5\b", "Neoverse V3"),
    (r"\bGraviton\b(?! ?\d)", "Cortex-A72"),
    (r"\bXeon\b.*\bIvy ?Bridge", "Ivy Bridge"),
    (r"\bXeon\b.*\bHaswell", "Haswell"),
    (r"\bXeon\b.*\bBroadwell", "Broadwell"),
    (r"\bXeon\b.*\bSkylake|\bSkylake E5\b", "Skylake-SP"),
    (r"\bXeon\b.*\bCascade ?lake", "Cascade Lake"),
    (r"\bXeon\b.*\bCooper ?lake", "Cooper Lake"),
    (r"\bXeon\b.*\bIce ?lake", "Ice Lake"),
    (r"\bXeon\b.*\bSapphire ?Rapids", "Sapphire Rapids"),
    (r"\bXeon\b.*\bEmerald ?Rapids", "Emerald Rapids"),
    (r"\bXeon\b.*\bGranite ?Rapids", "Granite Rapids"),
    (r"\bEPYC-Rome\b", "Zen 2"),
    (r"\bEPYC-Milan\b", "Zen 3"),
    (r"\bEPYC-Genoa\b", "Zen 4"),
    (r"\bEPYC-Turin\b", "Zen 5"),
)

# (vendor, CPUID family, models) of server parts, display family and model as /proc/cpuinfo prints them.
_CPUID: tuple[tuple[str, int, range, str], ...] = (
    ("Intel", 6, range(62, 63), "Ivy Bridge"),
    ("Intel", 6, range(63, 64), "Haswell"),
    ("Intel", 6, range(79, 80), "Broadwell"),
    ("Intel", 6, range(85, 86), "Skylake-SP or Cascade Lake"),
    ("Intel", 6, range(106, 107), "Ice Lake"),
    ("Intel", 6, range(143, 144), "Sapphire Rapids"),
    ("Intel", 6, range(173, 174), "Granite Rapids"),
    ("Intel", 6, range(207, 208), "Emerald Rapids"),
    ("AMD", 23, range(1, 2), "Zen 1"),
    ("AMD", 23, range(49, 50), "Zen 2"),
    ("AMD", 25, range(8), "Zen 3"),
    ("AMD", 25, range(16, 24), "Zen 4"),
    ("AMD", 25, range(160, 176), "Zen 4c"),
    ("AMD", 26, range(8), "Zen 5"),
    ("AMD", 26, range(16, 24), "Zen 5c"),
)
_CPUID_TEXT = re.compile(r"\bfamily (\d+) model (\d+)\b")

# MIDR part numbers of implementer 0x41, Arm.
_ARM_PARTS: Mapping[int, str] = {
    0xD08: "Cortex-A72",
    0xD0C: "Neoverse-N1",
    0xD40: "Neoverse-V1",
    0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2",
    0xD84: "Neoverse-V3",
}


def identify(cpu_model: str) -> CpuMatch | None:
    """Return the EC2 family with the cores of a CPU, or `None` when it is unknown or not a server's.

    Told by the model name first (`Intel(R) Xeon(R) Platinum 8488C`), then by the CPUID family and model where the
    text ends in them (`AMD EPYC (family 25 model 17 stepping 1)`), as `local_cpu_model` writes it.
    """
    name = re.sub(r"\((?:R|TM)\)", "", cpu_model, flags=re.I)
    name = " ".join(re.sub(r"\b(CPU|Processor)\b", " ", name).split())
    if _CLIENT.search(name):
        return None
    for pattern, core in _NAMES:
        if found := re.search(pattern, name, re.I):
            return _match(core, f"the name says {found.group(0)!r}")
    numbers = _CPUID_TEXT.search(cpu_model)
    vendor = next((vendor for vendor in ("Intel", "AMD") if vendor.lower() in cpu_model.lower()), None)
    if numbers and vendor:
        family, model = int(numbers[1]), int(numbers[2])
        for known_vendor, known_family, models, core in _CPUID:
            if (vendor, family) == (known_vendor, known_family) and model in models:
                return _match(core, f"{vendor} CPUID family {family} model {model}")
    if found := re.search(r"\bCortex-A72\b.*\bimplementer 0x41 part 0xd08\b", cpu_model):
        return _match("Cortex-A72", "Arm part 0xd08")
    return None


def _match(microarchitecture: str, evidence: str) -> CpuMatch:
    core = _CORES[microarchitecture]
    note = f"; {core.note}" if core.note else ""
    return CpuMatch(core.family, microarchitecture, f"{evidence}: {microarchitecture}, as in {core.family}{note}.")


def local_cpu_model() -> str:
    """Return what this machine calls its CPU, with the CPUID (or Arm part) numbers when they are known.

    Never empty: where nothing better is known, the machine's architecture, such as `x86_64`.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return describe_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace")) or platform.machine()
    if sys.platform == "darwin":
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
    return platform.processor() or platform.machine() or "unknown CPU"


def describe_cpuinfo(text: str) -> str:
    """Return the description of the first CPU of a Linux `/proc/cpuinfo`, or an empty string when it holds none."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    if "CPU part" in fields:
        implementer, part = fields.get("CPU implementer", "?"), fields["CPU part"]
        is_arm = implementer.lower() == "0x41"
        known = _ARM_PARTS.get(int(part, 16)) if is_arm and re.fullmatch(r"0x[0-9a-fA-F]+", part) else None
        name = fields.get("model name") or f"ARM {known or 'CPU'}"
        return f"{name} (implementer {implementer} part {part})"
    name, vendor = fields.get("model name", ""), fields.get("vendor_id", "")
    if not {"cpu family", "model"} <= fields.keys():
        return name
    numbers = f"family {fields['cpu family']} model {fields['model']}"
    if fields.get("stepping", "unknown") != "unknown":
        numbers += f" stepping {fields['stepping']}"
    named = any(brand in name for brand in ("Intel", "AMD"))
    return f"{name or 'CPU'} ({numbers if named else f'{vendor} {numbers}'.strip()})"
