"""Ranked answers: what to rent, how to pay, how sure, what was left out, what to measure next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from recommender.candidates import Configuration, Exclusion
from recommender.units import counted

if TYPE_CHECKING:
    from recommender.models import Prediction
    from recommender.runs import Runs

SCHEMA = "recommender/recommendation/1"


@dataclass(frozen=True)
class Quantiles:
    """10th, 50th and 90th percentile."""

    p10: float
    p50: float
    p90: float

    def to_dict(self) -> dict[str, float]:
        """Return {"p10", "p50", "p90"}."""
        return {"p10": self.p10, "p50": self.p50, "p90": self.p90}


@dataclass(frozen=True, kw_only=True)
class Row(Configuration):
    """One ranked candidate."""

    rank: int
    region: str
    """'' where the price is not tied to a region."""
    purchase_option: str
    runtime_s: Quantiles | None
    """Seconds of a run that is not interrupted; None when nothing is known."""
    cost_usd: Quantiles | None
    """USD of one run, expected interruptions and idle commitments included; None when runtime or price is not known."""
    usd_per_hour: float | None
    """Effective price of one node; None when it is not known."""
    deadline_probability: float | None
    """P(the run ends within the deadline); None without a deadline or a known runtime."""
    evidence: str
    """measured, modelled, transferred or assumed: what the runtime rests on."""
    price_quality: str | None
    """listed, repaired or estimated; None without a price."""
    reason: str
    """What binds it, and what separates it from its neighbour."""

    def to_dict(self) -> dict[str, Any]:
        """Return the row in the JSON contract's shape."""
        return {
            "rank": self.rank,
            "instance_type": self.instance_type,
            "node_count": self.node_count,
            "region": self.region or None,
            "purchase_option": self.purchase_option,
            "runtime_s": self.runtime_s.to_dict() if self.runtime_s else None,
            "cost_usd": self.cost_usd.to_dict() if self.cost_usd else None,
            "usd_per_hour": self.usd_per_hour,
            "deadline_probability": self.deadline_probability,
            "evidence": self.evidence,
            "price_quality": self.price_quality,
            "reason": self.reason,
            **({"params": dict(self.params)} if self.params else {}),
        }


@dataclass(frozen=True)
class WayToPay:
    """One purchase option of the first-ranked machine."""

    purchase_option: str
    usd_per_hour: float
    """Effective price of one node."""
    cost_usd: float | None
    """Median USD of one run; None when the runtime is not known, or when it would practically never finish."""
    usd_per_month: float | None
    """USD of all runs of a month, idle hours of a commitment included; None when the runtime is not known."""
    machines_committed: int
    """Nodes paid for around the clock; 0 without a commitment."""
    upfront_usd: float
    """USD due at the start of a commitment, for all of its machines; part of the costs above, not on top."""
    price_quality: str
    """listed, repaired or estimated."""


@dataclass(frozen=True, kw_only=True)
class NextRun(Configuration):
    """The configuration worth measuring next."""

    why: str
    expected_runtime_s: float | None = None
    """Median seconds it is expected to take; None when nothing is known."""
    expected_cost_usd: float | None = None
    """On-demand USD it is expected to cost; None when nothing is known."""
    saves_usd: float | None = field(default=None, compare=False)
    """USD by which it is expected to make the run that will be recommended cheaper; None when that is not known."""

    def to_dict(self) -> dict[str, Any]:
        """Return the run in the JSON contract's shape."""
        return {
            "instance_type": self.instance_type,
            "node_count": self.node_count,
            "expected_runtime_s": self.expected_runtime_s,
            "expected_cost_usd": self.expected_cost_usd,
            "why": self.why,
            **({"params": dict(self.params)} if self.params else {}),
        }


@dataclass(frozen=True)
class Guarantee:
    """What the model promises of the recommended configuration, given the runs so far."""

    probability: float
    at_most_cheaper: float
    """Share of the recommended one's objective that no candidate undercuts it by, with `probability`; 0 to below 1."""
    sentence: str
    """The same in words, and how far such promises were kept where that could be checked."""


@dataclass(frozen=True)
class Flip:
    """Where a rival would come first, everything else being equal; None where nothing of that kind would make it so."""

    rival: str
    role: str
    """runner-up (another configuration) or way to pay (the first's machine)."""
    first_usd_per_hour: float | None
    """Price of one node of the first above which the rival is better; None where it is the rival's price too."""
    rival_usd_per_hour: float | None
    """Price of one node of the rival below which it is better."""
    first_runtime_s: float | None
    rival_runtime_s: float | None
    runs_per_month: float | None
    """The nearest number of runs a month at which the order of the two changes."""
    sentence: str


@dataclass(frozen=True)
class Basis:
    """What the runtime of a ranked row rests on."""

    rank: int
    configuration: str
    evidence: str
    runs: int
    """Completed runs of the very configuration at the input asked about."""
    runs_of_workload: int
    """Completed runs of the workload, wherever."""
    other_workloads: int
    """Of the archive, that completed the very configuration."""

    @property
    def sentence(self) -> str:
        """The same in words."""
        of = f"{self.runs} of the workload's {self.runs_of_workload} completed runs"
        others = f", {counted(self.other_workloads, 'other workload')}" if self.other_workloads else ""
        return f"{self.configuration} is {self.evidence} ({of}{others})"


@dataclass(frozen=True)
class Explanation:
    """Why this answer, and what would change it."""

    binding: str
    """What limits the first's runtime, in words; '' where the model does not say."""
    evidence: tuple[Basis, ...]
    """Of the first three rows."""
    flips: tuple[Flip, ...]
    """The runner-up first, then other ways to pay for the first's machine."""

    @property
    def runner_up(self) -> Flip | None:
        """Where the best other configuration would come first; None where there is none or no runtime is known."""
        return next((flip for flip in self.flips if flip.role == "runner-up"), None)


@dataclass(frozen=True)
class Considered:
    """A strategy that `auto` weighed on the archive."""

    strategy: str
    held_out_regret: float
    """Recommended / optimum - 1, geometric mean over the workloads held out."""
    workloads: int
    chosen: bool


@dataclass(frozen=True)
class Recommendation:
    """What a strategy answers."""

    problem: Mapping[str, Any]
    """What was asked, in plain values."""
    strategy: str
    why: str
    """Why this strategy answered."""
    rows: tuple[Row, ...]
    """Best first."""
    excluded: tuple[Exclusion, ...]
    next_run: NextRun | None
    warnings: tuple[str, ...]
    ways_to_pay: tuple[WayToPay, ...] = ()
    """The first row's machine under every purchase option considered, cheapest first."""
    candidates: int = 0
    """Candidates that were ranked, of which `rows` are the first."""
    considered: tuple[Considered, ...] = ()
    """What `auto` weighed, least regret first; empty where it weighed nothing or was not asked."""
    what_if: Mapping[str, Any] | None = None
    """Of an answer at other prices: the changes, the first before, whether another came first, and that in words."""
    prediction: Prediction | None = field(default=None, repr=False, compare=False)
    """What the order rests on, kept so that other prices need no new fit; None for strategies that keep none."""
    runs: Runs | None = field(default=None, repr=False, compare=False)
    """The workload's runs, where they were given to the ranking."""
    explain: Callable[[], Explanation | None] = field(default=lambda: None, repr=False, compare=False)
    """What `explanation` is computed by, where it is asked for."""
    promise: Callable[[], Guarantee | None] = field(default=lambda: None, repr=False, compare=False)
    """What `guarantee` is computed by, where it is asked for: it takes longer than all the rest."""
    saves_usd: Callable[[int], float | None] = field(default=lambda _: None, repr=False, compare=False)
    """Row of a configuration -> USD a run that measuring it is expected to save on what is recommended."""

    @cached_property
    def guarantee(self) -> Guarantee | None:
        """How much cheaper another candidate may be; None where the model cannot say how candidates vary together."""
        return self.promise()

    @cached_property
    def explanation(self) -> Explanation | None:
        """Why this answer and what would change it; None for strategies that do not say."""
        return self.explain()

    @property
    def next_run_worth(self) -> dict[str, float | None] | None:
        """What one more run is expected to save: USD per run, over the planned runs, and what it costs; None unknown."""
        run, planned = self.next_run, self.problem.get("runs_planned")
        if run is None or run.saves_usd is None:
            return None
        total = run.saves_usd * planned if planned is not None else None
        return {
            "saves_usd_per_run": run.saves_usd,
            "runs_planned": planned,
            "saves_usd": total,
            "costs_usd": run.expected_cost_usd,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract's object; plain Python values, no NaN."""
        why = self.explanation
        explained = {
            "binding": why.binding if why else "",
            "evidence": [asdict(b) for b in why.evidence] if why else [],
            "runner_up": asdict(why.runner_up) if why and why.runner_up else None,
            "next_run": self.next_run_worth,
        }
        return {
            "schema": SCHEMA,
            "problem": dict(self.problem),
            "strategy": {"name": self.strategy, "why": self.why},
            "recommendations": [row.to_dict() for row in self.rows],
            "ways_to_pay": [asdict(way) for way in self.ways_to_pay],
            "excluded": [{"reason": e.reason, "count": e.count, "sentence": e.sentence} for e in self.excluded],
            "considered": [asdict(c) for c in self.considered],
            "next_run": self.next_run.to_dict() if self.next_run else None,
            "guarantee": asdict(self.guarantee) if self.guarantee else None,
            "explanation": explained,
            **({"what_if": dict(self.what_if)} if self.what_if else {}),
            "warnings": list(self.warnings),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a ranked candidate; quantiles as `runtime_s_p10` ..., missing values empty (NaN or None)."""
        flat = []
        for row in self.rows:
            cells = row.to_dict()
            params = cells.pop("params", {})
            for name in ("runtime_s", "cost_usd"):
                quantiles = cells.pop(name) or {}
                cells |= {f"{name}_{q}": quantiles.get(q) for q in ("p10", "p50", "p90")}
            flat.append({**cells, **params})
        order = ["rank", "instance_type", "node_count", "region", "purchase_option"]
        order += [f"{name}_{q}" for name in ("runtime_s", "cost_usd") for q in ("p10", "p50", "p90")]
        order += ["usd_per_hour", "deadline_probability", "evidence", "price_quality", "reason"]
        extra = sorted({c for cells in flat for c in cells} - set(order))
        return pd.DataFrame(flat, columns=[*order, *extra])
