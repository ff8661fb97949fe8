"""Which of the archive's runs can be compared: those of one workload at one input.

A context is a workload at one input. Configurations are held against each other within contexts, since what an input
costs is not known; so two configurations are comparable where contexts that ran several of them link the two. Where inputs
and configurations went together (each type tried at a size of its own), no context links them, and to take a
workload's runs together would call the type with the small input fast. Where workloads that ran some configurations ran
none of the others, no context links these either: the additive model then holds within each part alone, and what the jobs
of a part take would be laid to its configurations.

Workloads are numbered by what they ran, and never by what they are called: whoever deals them to folds or takes some evenly
does it by these numbers, so that another name changes no answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from recommender.errors import InsufficientEvidenceError
from recommender.models import configuration_rows
from recommender.models.kept import kept
from recommender.problem import Problem
from recommender.runs import Runs
from recommender.units import counted

LIKE = 1.25
"""Inputs of a workload that differ by no more than this factor are one where they hardly recur: measured sizes jitter."""
CONFOUNDED = "the archive's inputs and its configurations cannot be told apart"
UNLINKED = "parts of the archive cannot be compared"

Codes = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


class Contexts(NamedTuple):
    """The archive's comparable runs of candidates."""

    frame: pd.DataFrame
    row: Codes
    """Configuration of each run."""
    context: Codes
    """Context of each run, 0, 1 ... in the order of `by_content` and then of inputs."""
    said: tuple[str, ...]
    """What is not compared, and why."""
    part: Codes
    """Which of the parts that nothing links each candidate is of, (configurations,); -1 without a completed run.

    Part 0 has the most comparisons (cells less contexts), and is the one whose runs these are.
    """
    comparing: int
    """Parts in which a context ran several configurations; they come before the others."""
    by_inputs: bool
    """Whether it is inputs that keep parts apart, and not workloads alone."""


def contexts(problem: Problem) -> Contexts:
    """The comparable runs of candidates; computed once.

    Raises
    ------
    InsufficientEvidenceError
        When no two configurations can be compared, though several were run.
    """
    return kept(problem, "contexts", lambda: _contexts(problem))


def _contexts(problem: Problem) -> Contexts:
    assert problem.archive is not None
    frame, inputs = problem.archive.frame, problem.archive.inputs
    row = configuration_rows(problem, frame)
    at = row >= 0
    frame, row = frame[at], row[at]
    done, workload = (frame["status"] == "completed").to_numpy(), _codes(pd.Series(by_content(problem.archive)[at]))
    context = _codes([pd.Series(workload), *(frame[c] for c in inputs)])
    one = context.max(initial=0) == workload.max(initial=0)
    recurring = one or bool(_several(row, context, done)[done].mean() >= 0.5)
    if not recurring:
        context = _codes([pd.Series(workload), pd.Series(np.where(_jitters(frame, inputs, workload), -1, context))])
    part, comparisons = _parts(row[done], context[done], len(problem.configurations))
    by_inputs = len(comparisons) > components(row[done], workload[done])[1]
    keep, said = np.ones(len(row), dtype=bool), list[str]()
    if len(comparisons) > 1:
        if not comparisons[0]:
            raise InsufficientEvidenceError(_nothing(by_inputs))
        stopped = ~pd.Series(done).groupby(context).transform("any").to_numpy()
        keep = stopped | np.isin(context, context[done & (part[row] == 0)])
        said.append(apart(problem, part, 0, by_inputs=by_inputs))
    if not recurring:  # a level for each would leave nothing for the columns
        several = pd.Series(context).groupby(workload).transform("nunique").gt(1).to_numpy()
        alone = keep & several & ~_several(row, context, done & keep)
        keep = keep & ~alone
        if alone.any():
            said.append(
                f"{counted(int(alone.sum()), 'run')} of the archive, of the only configuration that their workload ran at that "
                "input, say nothing of how configurations differ: not used"
            )
    comparing = int(np.count_nonzero(comparisons))
    return Contexts(frame[keep], row[keep], _codes(pd.Series(context[keep])), tuple(said), part, comparing, by_inputs)


def by_content(runs: Runs) -> Codes:
    """Number of each run's workload, 0, 1 ... in the order of their runs (configuration, input, result), whatever they are called.

    Workloads of the same runs are in the order of their applications' runs; those of which these are the same too are alike
    to every model, so that their order does not matter.
    """
    frame = runs.frame
    what = ["instance_type", "node_count", "vcpus", *runs.params, *runs.inputs, "status", "runtime_s", *runs.metrics]
    run = _codes([frame[c] for c in what])
    return _numbered(frame["workload"], run, _numbered(frame["application"], run, run))


def _numbered(names: pd.Series, run: Codes, then: Codes) -> Codes:
    """Number of each row's name, in the order of what `run`, and `then`, are of its rows."""
    of, _ = pd.factorize(names)
    by = pd.DataFrame({"run": run, "then": then}).sort_values("run", kind="stable").groupby(pd.Series(of))
    held = list(zip(by["run"].agg(list), by["then"].first(), strict=True))
    order = sorted(range(len(held)), key=held.__getitem__)
    return np.asarray(np.argsort(order)[of], dtype=np.intp)


def _codes(keys: pd.Series | list[pd.Series]) -> Codes:
    """0, 1 ... of each row's key, in sorted order; missing is a value."""
    keys = [keys] if isinstance(keys, pd.Series) else keys
    table = pd.DataFrame({i: key.to_numpy() for i, key in enumerate(keys)})
    return np.asarray(table.groupby(list(table), dropna=False, sort=True).ngroup(), dtype=np.intp)


def _several(row: Codes, context: Codes, use: Mask) -> Mask:
    """Whether each run's context ran several configurations, by the runs `use`."""
    found = pd.Series(np.where(use, row, np.nan)).groupby(context).transform("nunique").gt(1)
    return found.to_numpy()


def _jitters(frame: pd.DataFrame, inputs: list[str], workload: Codes) -> Mask:
    """Whether the inputs of each run's workload are all alike."""
    alike = np.ones(len(frame), dtype=bool)
    for column in inputs:
        by = frame[column].groupby(workload)
        low, high, known = (by.transform(how).to_numpy(float) for how in ("min", "max", "count"))
        same = (low == high) | ((low > 0) & (high <= LIKE * low))
        alike &= (known == 0) | (same & (known == by.transform("size").to_numpy()))
    return alike


def _parts(row: Codes, context: Codes, configurations: int) -> tuple[Codes, Codes]:
    """Part of each configuration as `Contexts` numbers them, by completed runs, and the comparisons in each part."""
    cells = pd.DataFrame({"part": components(row, context)[0], "row": row, "context": context}).drop_duplicates()
    by = cells.groupby("part")
    size, columns, first = by.size() - by["context"].nunique(), by["row"].nunique(), by["row"].min()
    order = np.lexsort((first, -columns, -size))
    part = np.full(configurations, -1, dtype=np.intp)
    part[cells["row"]] = np.argsort(order)[np.unique(cells["part"], return_inverse=True)[1]]
    return part, np.asarray(size.to_numpy()[order], dtype=np.intp)


def apart(problem: Problem, part: Codes, kept: int, *, by_inputs: bool) -> str:
    """What is left out beside the part that is kept, why, and what to do, in words."""
    others = np.flatnonzero((part >= 0) & (part != kept))
    first, used = (problem.candidates.configuration(int(i)).label for i in (others[0], np.flatnonzero(part == kept)[0]))
    what, rest = f"{len(others)} configurations ({first}{' ...' if len(others) > 1 else ''})", int((part == kept).sum())
    if by_inputs:
        return (
            f"{CONFOUNDED} throughout: {what} were run only at inputs at which no workload ran any of the other {rest}, so "
            "the archive does not say how they compare"
        )
    return (
        f"{UNLINKED}: {what} were run only by workloads that ran none of the other {rest} ({used} ...), so how these compare is not "
        f"known; only those {rest} are used: to use all, run a workload on both"
    )


def _nothing(by_inputs: bool) -> str:
    """That no two configurations can be compared, why, and what to do, in words."""
    if by_inputs:
        return (
            f"{CONFOUNDED}: no workload ran two candidates at one input, so what is due to the input and what to the machine is "
            "not known, and nothing can be transferred; run several configurations at one input"
        )
    return (
        f"{UNLINKED}: no workload ran two candidates, so what is due to the job and what to the machine is not known, and "
        "nothing can be transferred; run several configurations with one workload"
    )


def components(row: Codes, context: Codes) -> tuple[Codes, int]:
    """Component of each run in the graph of contexts and configurations, and their number."""
    n, m = int(context.max(initial=-1)) + 1, int(row.max(initial=-1)) + 1
    graph = coo_matrix((np.ones(len(row)), (context, row + n)), shape=(n + m, n + m))
    _, label = connected_components(graph, directed=False)
    found = np.asarray(label[context], dtype=np.intp)
    return found, len(np.unique(found))
