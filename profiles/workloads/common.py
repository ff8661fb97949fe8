"""What the workloads share: their scale, how many processes to use, and input data made once."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def scale() -> float:
    """Return the share of the full input, the script's only argument."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SCALE   (the share of the full input; 1 is all of it)")
    value = float(sys.argv[1])
    if not value > 0:
        sys.exit(f"the scale must be more than 0, found {value}")
    return value


def workers() -> int:
    """Return how many CPUs this process may use: its affinity, where the system has such a thing."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def data_directory() -> Path:
    """Return the directory of generated inputs: `RECOMMENDER_PROFILE_DATA`, else one in the temporary directory."""
    default = Path(tempfile.gettempdir()) / "recommender-profile-data"
    directory = Path(os.environ.get("RECOMMENDER_PROFILE_DATA", default))
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the file `name` in the data directory, made by `make(path)` when it is not there; never half a file."""
    path = data_directory() / name
    if not path.exists():
        partial = path.with_name(f"{os.getpid()}-{path.name}")
        make(partial)
        partial.replace(path)
    return path
