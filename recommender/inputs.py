"""The job's input: which column is the amount of work, and what is asked about when nobody says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.runs import Runs

FARTHEST = 1e6
"""Inputs beyond this many times the largest measured are refused."""
SIZES = {"size", "bytes", "kb", "mb", "gb", "tb", "kib", "mib", "gib", "tib"}
COUNTS = {"rows", "records", "lines", "items"}


def scale_column(columns: Sequence[str]) -> str | None:
    """The input column that measures how much work there is, whatever the order of `columns`; None without any.

    `input.scale`; else one with a word for a size in its name (size, gib ...; but not a batch size); else one that
    counts rows, records, lines or items; else any. The first by name among equals.
    """

    def rank(column: str) -> tuple[int, str]:
        words = set(re.split(r"[^a-z]+", column.removeprefix("input.").lower()))
        large = words & SIZES and "batch" not in words
        return 0 if column == "input.scale" else 1 if large else 2 if words & COUNTS else 3, column

    return min(columns, key=rank, default=None)


def at_inputs(frame: pd.DataFrame, inputs: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    """Whether each run is at exactly these inputs, (runs,); none is at an input that the table does not have."""
    at = np.ones(len(frame), dtype=bool)
    for column, value in inputs.items():
        at &= np.isclose(frame[column].to_numpy(float), value, rtol=1e-9) if column in frame else False
    return at


def target_inputs(runs: Runs, wanted: Mapping[str, float], notes: list[str]) -> dict[str, float]:
    """The input to recommend for: as asked; else scale 1 (full scale); else that of the largest run.

    Raises
    ------
    UnknownNameError
        For an input that the runs never had.
    """
    columns = runs.inputs
    asked = {name if name.startswith("input.") else f"input.{name}": float(value) for name, value in wanted.items()}
    for name, value in asked.items():
        if name not in columns:
            have = ", ".join(c.removeprefix("input.") for c in columns) or "none"
            raise UnknownNameError(
                f"the runs have no input {name.removeprefix('input.')!r}{did_you_mean(name, columns)} (they have: {have})"
            )
        if not np.isfinite(value):
            raise InputError(f"{name} is {value}; a finite number is needed")
    scale = scale_column(columns)
    if scale in asked and len(runs):
        most = FARTHEST * float(runs.frame[scale].max())
        if not 0 < asked[scale] <= most:
            short = scale.removeprefix("input.")
            raise InputError(
                f"--input {short}={asked[scale]:g}: above 0 and at most {most:g} is allowed, a million times what was measured"
            )
    if not columns or not len(runs) or scale is None:
        return asked
    frame = runs.completed if len(runs.completed) else runs.frame
    if len(columns) > 1 and scale != "input.scale":
        others = ", ".join(c.removeprefix("input.") for c in columns if c != scale)
        notes.append(
            f"{scale.removeprefix('input.')} is taken for the amount of work, rather than {others} (call the column "
            "input.scale to choose)"
        )
    if scale not in asked:
        largest = float(frame[scale].max())
        full = scale == "input.scale" and largest <= 1.0
        asked[scale] = 1.0 if full else largest
        short = scale.removeprefix("input.")
        why = "full scale" if full else "the largest measured"
        notes.append(f"recommending for {short} = {asked[scale]:g}, {why} (--input {short}=VALUE for another)")
    distance = (frame[scale] - asked[scale]).abs()
    nearest = frame.assign(_distance=distance).sort_values(["_distance", *columns], kind="stable")
    for column in columns:
        if column not in asked and nearest[column].notna().any():
            asked[column] = float(nearest[column].dropna().iloc[0])
            if frame[column].nunique() > 1:
                notes.append(
                    f"recommending for {column.removeprefix('input.')} = {asked[column]:g}, as in the run nearest in size"
                )
    return {name: asked[name] for name in columns if name in asked}
