"""What there is to know of an archive before trusting it: coverage, units, outliers, contradictions, what occurs twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recommender.archives import Archive, looked_through, of_all
from recommender.models import configuration_rows
from recommender.models.archive import CONTRADICTION, listed
from recommender.models.noted import archive_units
from recommender.models.unusual import FEWEST
from recommender.runs import Runs, shared_names
from recommender.units import counted

SAME = 3
"""Cells that two workloads must share, to the last digit, to be one workload under two names; one more up to a factor."""
SAME_SHARE = 0.8
"""Share of the cells both ran that must be the same for that."""
LAST_DIGIT = 1e-9
"""Difference of ln(runtime) up to which two are the same."""
MOST_COPIES = 50
"""Workloads with the same step between two cells from which on it is no sign of a copy, but of a default value."""
AGREEING = float(np.log(2.0))
"""Difference of ln(runtime) between repetitions from which on they are named."""


@dataclass(frozen=True)
class Report:
    """What there is to know before trusting an archive."""

    runs: int
    incomplete: int
    """Runs that failed or were stopped."""
    workloads: int
    configurations: int
    coverage: float
    """Share of (workload at one input, configuration) cells with a completed run."""
    thin: int
    """Workloads, each at one input, that completed on fewer than two configurations: nothing can be learnt from them."""
    problems: tuple[str, ...]
    """Sentences: other units, outliers, contradictions, one workload under two names, no licence."""


def check(archive: Archive) -> Report:
    """Look an archive through, on all configurations that were ever run."""
    frame, problem = archive.runs.frame, of_all(archive.runs)
    configurations = len(problem.configurations)
    problems, units = list[str](), _here(archive_units(problem))
    looked, unusable = looked_through(problem)
    if looked is not None:
        y = looked.cells.log_runtime
        problems += [*_here(looked.warnings), *looked.cells.said]
        if frame["workload"].nunique() < FEWEST:
            problems.append(
                f"fewer than {FEWEST} workloads: other units and outliers cannot be told from real differences"
            )
        names = looked.cells.names[looked.cells.workload]
        problems += [*units, *_repetitions(archive.runs)]
    elif unusable:
        done = archive.runs.completed
        row, log_t = configuration_rows(problem, done), np.log(done["runtime_s"])
        table = pd.pivot_table(done.assign(row=row, log_t=log_t), "log_t", "workload", "row")
        y, names = table.reindex(columns=range(configurations)).to_numpy(float), table.index.to_numpy(object)
        problems += [f"{unusable}; recommender archive remove takes runs out", *units]
    else:
        names = frame["workload"].unique()
        y = np.full((len(names), configurations), np.nan)
        problems.append("no run completed: nothing can be learnt from it")
    filled = np.isfinite(y)
    problems += [*_copies(y, names), *_added_twice(archive)]
    of = archive.provenance["source"].to_numpy()
    problems += shared_names([Runs(frame[of == source].reset_index(drop=True)) for source in dict.fromkeys(of)])
    unlicensed = archive.provenance["licence"].isna()
    if unlicensed.any():
        sources = ", ".join(map(str, archive.provenance.loc[unlicensed, "source"].unique()))
        problems.append(f"runs that state no licence: {int(unlicensed.sum())} (from {sources})")
    return Report(
        runs=len(frame),
        incomplete=int((frame["status"] != "completed").sum()),
        workloads=frame["workload"].nunique(),
        configurations=configurations,
        coverage=float(filled.mean()),
        thin=int((filled.sum(axis=1) < 2).sum()),
        problems=tuple(problems),
    )


def _here(sentences: tuple[str, ...]) -> list[str]:
    """Sentences about the only archive there is."""
    return [sentence.replace("of the archive ", "") for sentence in sentences]


def _copies(y: npt.NDArray[np.float64], names: npt.NDArray[np.object_]) -> list[str]:
    """Workloads that took the same time, or a constant factor of it, to the last digit nearly wherever both ran."""
    u, i = np.nonzero(np.isfinite(y))
    step = pd.DataFrame({"u": u, "i": i, "value": y[u, i]})
    step = step.assign(on=step["i"].shift(-1), rise=(step["value"].shift(-1) - step["value"]).round(9))
    step = step[step["u"] == step["u"].shift(-1)]
    often = step.groupby(["i", "on", "rise"])["u"].transform("size")
    both = step[(often > 1) & (often <= MOST_COPIES)].merge(step, on=["i", "on", "rise"])
    pairs = both.loc[both["u_x"] < both["u_y"], ["u_x", "u_y"]].drop_duplicates().to_numpy()
    found = list[tuple[int, int, str]]()
    for a, b in pairs:
        apart = y[b] - y[a]
        apart = apart[np.isfinite(apart)]
        factor, common = float(np.median(apart)), len(apart)
        same = int((np.abs(apart - factor) < LAST_DIGIT).sum())
        level = abs(factor) < LAST_DIGIT
        if names[a] == names[b] or same < max(SAME if level else SAME + 1, SAME_SHARE * common):
            continue
        how = f"{names[a]} and {names[b]} took the same time"
        if not level:
            how = f"{names[b]} took {np.exp(factor):.5g} x the time of {names[a]}"
        where = f"all {common}" if same == common else f"{same} of the {common}"
        found.append((a, b, f"{how} on {where} configurations both ran: one workload?"))
    if not found:
        return []
    start, end = np.array([(a, b) for a, b, _ in found]).T
    group = connected_components(coo_array((np.ones(len(found)), (start, end)), shape=(len(y), len(y))))[1]
    said = []
    for number in dict.fromkeys(group[start]):
        inside = np.flatnonzero(group == number)
        if len(inside) == 2:
            said += [sentence for a, _, sentence in found if group[a] == number]
        else:
            said.append(
                f"{listed(names[inside], 10)} took the same times, or a constant factor of them, on most configurations they "
                "share: one workload?"
            )
    return said


def _added_twice(archive: Archive) -> list[str]:
    """Runs that several sources hold alike, where that is so of most of what they share: some runtimes meet by chance."""
    frame = archive.runs.frame.assign(source=archive.provenance["source"])
    frame = frame[frame["status"] == "completed"]
    cell = ["workload", "instance_type", "node_count", *archive.runs.inputs, *archive.runs.params]

    def shared(keys: list[str]) -> tuple[pd.DataFrame, int]:
        found = frame[frame.groupby(keys, dropna=False)["source"].transform("nunique") > 1]
        return found, len(found.drop_duplicates(keys))

    again, count = shared([*cell, "runtime_s"])
    if count < SAME or 2 * count < shared(cell)[1]:
        return _occurring_twice(archive.runs.frame, cell)
    runs, names = counted(count, "run"), listed(again["workload"].to_numpy(object))
    said = (
        f"{runs} of {names}, the same to the last digit, came from several sources "
        f"({listed(again['source'].to_numpy(object))}): repetitions that are none make runtimes look steadier than they are; "
        "recommender archive remove NAME --source S takes one out"
    )
    return [said]


def _occurring_twice(frame: pd.DataFrame, cell: list[str]) -> list[str]:
    """Rows that are others anew, where most repetitions are such: runtimes noted coarsely may repeat by themselves."""
    again = frame.duplicated()
    if int(again.sum()) < SAME or 2 * int(again.sum()) < int(frame.duplicated(cell).sum()):
        return []
    names = listed(frame.loc[again, "workload"].to_numpy(object))
    said = (
        f"{counted(int(again.sum()), 'row')} of {names} repeat another in every column: repetitions that are none make runtimes "
        "look steadier than they are; were they joined twice?"
    )
    return [said]


def _repetitions(runs: Runs) -> list[str]:
    """Workloads with repetitions that differ more than twofold, and not so much that they are left out."""
    frame = runs.completed
    keys = ["workload", "instance_type", "node_count", "vcpus", *runs.inputs, *runs.params]
    log_t = pd.Series(np.log(frame["runtime_s"].to_numpy(float)), index=frame.index)
    groups = log_t.groupby([frame[k] for k in keys], dropna=False)
    apart = groups.max() - groups.min()
    apart = apart[(apart > AGREEING) & (apart <= CONTRADICTION)]
    if not len(apart):
        return []
    names = listed(apart.index.get_level_values(0).to_numpy(object))
    how = f"differ up to {np.exp(apart.max()):.1f} x: their mean is used; is an input missing that tells them apart?"
    return [f"repetitions of {names} on {counted(len(apart), 'configuration')} {how}"]
