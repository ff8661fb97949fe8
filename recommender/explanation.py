"""Why a candidate is predicted as it is: its terms, the runs it rests on, and what would change the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.automatic import Auto
from recommender.candidates import Candidates
from recommender.errors import InfeasibleError, InputError, InsufficientEvidenceError, UnknownNameError, did_you_mean
from recommender.inputs import scale_column
from recommender.models import MEASURED, PerformanceModel, Prediction
from recommender.models.conformal import Progress
from recommender.problem import Problem
from recommender.ranking import rank
from recommender.recommendation import Recommendation, Row
from recommender.runs import Runs
from recommender.strategies import ModelBased, calibrated, strategy
from recommender.threads import single_threaded
from recommender.units import format_duration, format_usd

SCHEMA = "recommender/explanation/1"
LABEL = re.compile(r"(?P<type>\S+) +x(?P<nodes>[1-9]\d{0,8})(?: +(?P<params>\S.*))?")
"""A configuration's label."""
MOST_POINTS = 12
"""Points that are left out in turn: the nearest to what is asked."""


@dataclass(frozen=True)
class Support:
    """One measured point that the prediction rests on."""

    label: str
    """Configuration and input, in words."""
    runs: int
    """Completed runs of it."""
    runtime_s: float
    """Their median."""
    change: float | None
    """Predicted runtime without the point over the one with it, less 1; None where nothing can be predicted without."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Explanation:
    """What one candidate's prediction is made of."""

    strategy: str
    why: str
    row: Row | None
    """The candidate as it would be ranked alone under its cheapest purchase option; None where it is excluded."""
    excluded: str
    """Why it is excluded; empty where it is not."""
    terms: Mapping[str, float]
    """Seconds of the model's median by name, before this configuration's own measurements; empty where it is no sum."""
    spread: float | None
    """Standard deviation of ln(runtime); None where nothing is known."""
    limits: str
    """What limits its runtime, in the model's words."""
    supports: tuple[Support, ...]
    """The points that change the prediction most, first."""
    points: int
    """Distinct points that completed, of which up to MOST_POINTS were left out in turn."""
    changes: tuple[str, ...]
    """What would change the answer."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, no NaN."""
        alone = {k: v for k, v in self.row.to_dict().items() if k != "rank"} if self.row else None  # ranked among none
        return {
            "schema": SCHEMA,
            "strategy": {"name": self.strategy, "why": self.why},
            "candidate": alone,
            "excluded": self.excluded or None,
            "terms_s": dict(self.terms),
            "spread": self.spread,
            "limits": self.limits,
            "rests_on": [s.to_dict() for s in self.supports],
            "points": self.points,
            "changes": list(self.changes),
            "warnings": list(self.warnings),
        }


@single_threaded
def explain(
    problem: Problem,
    runs: Runs,
    *,
    instance_type: str,
    node_count: int | None = None,
    strategy_name: str = "auto",
    calibrate: bool = False,
    progress: Progress | None = None,
) -> Explanation:
    """Explain the prediction of one candidate; its spread is scaled until it holds on the archive's workloads where
    `calibrate`.

    The candidate is named by its type and node count (default: 1), the first of several that differ in parameters alone,
    or by its label, as answers print it (`m5.2xlarge x4`); a node count that is given goes before the label's. `progress` is called
    with how many points, or workloads where `calibrate`, were left out, and of how many.

    Raises
    ------
    UnknownNameError
        When it is no candidate of the problem.
    InputError
        For a strategy that is not one model.
    """
    chosen = strategy(strategy_name)
    if isinstance(chosen, Auto):
        choice = chosen.choose(problem, runs)
        made = chosen.adapting(choice.name)
        chosen = replace(made, why=choice.why) if isinstance(made, ModelBased) else made
    if not isinstance(chosen, ModelBased):
        raise InputError(
            f"strategy {strategy_name!r} is not one model whose prediction could be explained; name another"
        )
    median = chosen.model  # of which the points left out in turn are asked: calibration leaves it alone
    chosen = calibrated(chosen, progress=progress) if calibrate else chosen
    known_of = chosen.evidence(problem, runs)
    problem, runs = known_of.problem, known_of.now
    i = _row_of(problem, instance_type, node_count)
    prediction = chosen.model.predict(problem, runs)
    row, excluded = _ranked_alone(problem, prediction, i, chosen)
    try:
        best = chosen.recommend(problem, runs)
    except InfeasibleError:
        best = None
    known = bool(np.isfinite(prediction.log_runtime[i]))
    at = float(prediction.log_runtime[i])
    supports, points = _supports(problem, runs, median, i, at, progress) if known else ((), 0)
    return Explanation(
        strategy=chosen.name,
        why=chosen.why,
        row=row,
        excluded=excluded,
        terms={k: v for k, v in prediction.terms(i).items() if v > 0} if prediction.terms and known else {},
        spread=float(prediction.spread[i]) if known else None,
        limits=prediction.binding(i),
        supports=supports,
        points=points,
        changes=tuple(_changes(problem, prediction, i, row, excluded, best, supports)),
        warnings=tuple(dict.fromkeys((*problem.notes, *known_of.said, *prediction.warnings))),
    )


def _row_of(problem: Problem, name: str, node_count: int | None) -> int:
    table = problem.configurations
    label = LABEL.fullmatch(name.strip()) if not (table["instance_type"] == name).any() else None
    instance_type, nodes = (label["type"], int(label["nodes"])) if label else (name, 1)
    nodes = nodes if node_count is None else node_count
    named = table["instance_type"] == instance_type
    if not named.any():
        known = sorted(set(table["instance_type"]))
        raise UnknownNameError(
            f"{instance_type!r} is not among the {len(known)} types considered{did_you_mean(instance_type, known)} (the filters "
            "and --candidates say which are)"
        )
    rows = np.flatnonzero(named & (table["node_count"] == nodes))
    if not len(rows):
        counts = ", ".join(map(str, sorted(set(table.loc[named, "node_count"]))))
        raise UnknownNameError(
            f"{instance_type} x{nodes} is not considered; with this type: {counts} nodes (--max-nodes for more)"
        )
    if label and label["params"]:
        labels = [problem.candidates.configuration(int(i)).label for i in rows]
        wanted = f"{instance_type} x{nodes} {label['params']}"
        if wanted not in labels:
            raise UnknownNameError(f"{wanted} is not considered{did_you_mean(wanted, labels)}")
        return int(rows[labels.index(wanted)])
    return int(rows[0])


def _ranked_alone(problem: Problem, prediction: Prediction, i: int, chosen: ModelBased) -> tuple[Row | None, str]:
    """The row of configuration `i` when nothing else is considered; else the sentence of why it is excluded."""
    candidates, offers = problem.candidates, problem.candidates.offers
    mine = offers.configuration == i
    columns = ("region", "usd_per_hour", "quality", "nodes", "minimum_s", "family")
    alone = replace(
        offers,
        configuration=np.zeros(int(mine.sum()), dtype=np.int32),
        **{name: getattr(offers, name)[mine] for name in columns},
        overrides={name: values[mine] for name, values in offers.overrides.items()},
    )
    table = candidates.configurations.iloc[[i]].reset_index(drop=True)
    sliced = replace(
        prediction,
        log_runtime=prediction.log_runtime[[i]],
        spread=prediction.spread[[i]],
        evidence=prediction.evidence[[i]],
        completing=prediction.completing[[i]],
        family_spread=prediction.family_spread[[i]],
        excluded=prediction.excluded[[i]],
        lost=prediction.lost[[i]] if prediction.lost is not None else None,
        preference=prediction.preference[[i]] if prediction.preference is not None else None,
        binding=lambda _: prediction.binding(i),
        draws=None,
        mixture=None,
        longest_s=None,
    )
    one = replace(problem, candidates=Candidates(table, alone, ()), top=1)
    try:
        return rank(one, sliced, strategy=chosen.name, why=chosen.why, measure=False).rows[0], ""
    except InfeasibleError as error:
        return None, str(error)


def _supports(
    problem: Problem, runs: Runs, model: PerformanceModel, i: int, log_runtime: float, progress: Progress | None
) -> tuple[tuple[Support, ...], int]:
    """The points nearest to what is asked, each left out in turn; the most influential first; and how many there are."""
    frame = runs.completed
    if not len(frame):
        return (), 0
    keys = [
        "instance_type",
        "node_count",
        *runs.inputs,
        *runs.params,
        *(["vcpus"] if frame["vcpus"].notna().any() else []),
    ]
    key = frame.groupby(keys, dropna=False, sort=True).ngroup().to_numpy()
    first = np.unique(key, return_index=True)[1]
    far = _distance(problem, runs, frame.iloc[first], i)
    nearest = np.argsort(far, kind="stable")[:MOST_POINTS]
    every = runs.frame.groupby(keys, dropna=False, sort=True).ngroup().to_numpy()
    done = runs.frame["status"].to_numpy(object) == "completed"
    at = dict(zip(key, every[done], strict=True))
    found = []
    for done_points, point in enumerate(nearest):
        if progress is not None:
            progress(done_points, len(nearest))
        mine = key == point
        left = Runs(runs.frame[~((every == at[point]) & done)].reset_index(drop=True))
        try:
            without = float(model.predict(problem, left).log_runtime[i])
            change: float | None = float(np.expm1(without - log_runtime)) if np.isfinite(without) else None
        except InsufficientEvidenceError:
            change = None
        cells = frame.iloc[first[point]]
        said = [f"{k.removeprefix('input.')}={cells[k]:g}" for k in runs.inputs if pd.notna(cells[k])]
        said += [f"{cells['vcpus']:g} vCPUs"] if pd.notna(cells["vcpus"]) else []
        label = f"{cells['instance_type']} x{int(cells['node_count'])}" + (f" at {', '.join(said)}" if said else "")
        found.append(Support(label, int(mine.sum()), float(frame["runtime_s"][mine].median()), change))
    return tuple(sorted(found, key=lambda s: -abs(s.change) if s.change is not None else -np.inf)), len(first)


def _distance(problem: Problem, runs: Runs, points: pd.DataFrame, i: int) -> npt.NDArray[np.float64]:
    """Doublings of scale and of nodes between each point and what is asked, and one for another type."""
    cells = problem.configurations.iloc[i]
    column = scale_column(runs.inputs)
    far = np.abs(np.log2(points["node_count"].to_numpy(float) / float(cells["node_count"])))
    if column is not None and column in problem.inputs:
        scale = np.maximum(points[column].fillna(1e-9).to_numpy(float), 1e-9)
        far = far + np.abs(np.log2(scale / problem.inputs[column]))
    return np.asarray(far + (points["instance_type"] != cells["instance_type"]).to_numpy(float))


def _changes(
    problem: Problem,
    prediction: Prediction,
    i: int,
    row: Row | None,
    excluded: str,
    best: Recommendation | None,
    supports: tuple[Support, ...],
) -> list[str]:
    """What would change the answer, in sentences."""
    said = []
    name = problem.candidates.configuration(i).label
    if excluded:
        said.append(f"it is excluded: {excluded}")
    if row is not None and best is not None:
        said.extend(_against(problem, row, best))
    if prediction.evidence[i] != MEASURED and np.isfinite(prediction.spread[i]):
        now, then = float(prediction.spread[i]), float(np.sqrt(2.0) * max(prediction.noise, 1e-3))
        if then < now:
            said.append(
                f"measuring {name} once would narrow its 80 % interval from {_interval(now)} to about {_interval(then)}"
            )
    if supports:
        s, change = supports[0], supports[0].change
        if change is None:
            said.append("without one of its points nothing could be predicted: every one of them is needed")
        elif abs(change) < 0.01:
            said.append("leaving out any one of the nearest points changes its prediction by less than 1 %")
        else:
            runs = f"{s.runs} runs" if s.runs > 1 else "run"
            said.append(f"without the {runs} of {s.label} it would be predicted {_signed(change)}")
    return said


def _against(problem: Problem, row: Row, best: Recommendation) -> list[str]:
    """What separates the candidate from the first."""
    first = best.rows[0]
    mine, top = _value(problem, row), _value(problem, first)
    said = []
    if (row.label, row.purchase_option) == (first.label, first.purchase_option):
        other = best.rows[1] if len(best.rows) > 1 else None
        rival = _value(problem, other) if other else None
        said.append("it is what is recommended")
        if other is not None and rival is not None and mine is not None and rival > mine:
            word = "price" if problem.objective == "cost" and not _one_price(other, row) else "runtime"
            said.append(
                f"{other.label} {other.purchase_option} would be first if its {word} fell by {1 - mine / rival:.0%}"
            )
    elif mine is not None and top is not None and mine > top:
        show = format_usd if problem.objective == "cost" else format_duration
        word = "an hourly price or a runtime" if show is format_usd and not _one_price(row, first) else "a runtime"
        said.append(
            f"{first.label} {first.purchase_option} is recommended ({show(top)}, this one {show(mine)}): {word} lower by "
            f"{1 - top / mine:.0%} would make them equal"
        )
    if row.deadline_probability is not None and problem.deadline_s is not None and row.runtime_s is not None:
        said.append(
            f"it meets the deadline of {format_duration(problem.deadline_s)} with {row.deadline_probability:.0%}; "
            f"{problem.confidence:.0%} is asked for"
        )
    return said


def _one_price(row: Row, other: Row) -> bool:
    """Whether one price is paid for a node of both."""
    names = ("instance_type", "region", "purchase_option", "usd_per_hour")
    return all(getattr(row, name) == getattr(other, name) for name in names)


def _value(problem: Problem, row: Row) -> float | None:
    """What is minimised: USD of a run, or its seconds; None where it is not known."""
    quantiles = row.cost_usd if problem.objective == "cost" else row.runtime_s
    return quantiles.p50 if quantiles else None


def _interval(spread: float) -> str:
    """Half an 80 % interval as a factor."""
    return f"a factor of {np.exp(1.2816 * spread):.2f} either way"


def _signed(change: float) -> str:
    return f"{abs(change):.0%} {'slower' if change > 0 else 'faster'}"
