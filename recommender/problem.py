"""What is asked: candidates, objective, constraints and archive, as columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from recommender.candidates import Candidates, with_parameters
from recommender.catalogue import Catalogue, TypeFilter, load_catalogue
from recommender.catalogue.cpu import identify
from recommender.enumeration import Machines, catalogue_candidates, table_candidates
from recommender.errors import InputError, UnknownNameError, did_you_mean
from recommender.inputs import target_inputs
from recommender.pricing import BY_NAME, DEFAULT_OPTIONS, OptionPrices, PurchaseOption, Usage, price_option
from recommender.runs import Runs, read_runs, shared_names, some
from recommender.tables import CANDIDATES, PRICES, read_table
from recommender.units import counted, format_usd

if TYPE_CHECKING:
    from pathlib import Path

Objective = Literal["cost", "runtime"]
DEFAULT_REGION = "us-east-1"
MOST_NODES = 128
"""Largest cluster considered unless a larger one is asked for."""


@dataclass(frozen=True)
class Problem:
    """Candidates x objective x constraints x archive. Immutable; build one with `build_problem`."""

    candidates: Candidates
    """Configurations (what models predict) and offers (what pricing prices)."""
    options: tuple[PurchaseOption, ...]
    """Purchase options considered."""
    catalogue: Catalogue
    """Hardware facts and price figures."""
    workload: str | None = None
    """The workload asked about; None when nothing was measured."""
    archive: Runs | None = None
    """Runs of other workloads."""
    only_own: bool = False
    """Whether an archive was given and holds runs of the workload asked about alone, so that there is none."""
    regions: tuple[str, ...] = (DEFAULT_REGION,)
    """Where it is to run; what prices of one's own are looked up by for candidates that came with a price."""
    objective: Objective = "cost"
    """What is minimised: USD per run, or runtime."""
    deadline_s: float | None = None
    """A run must end within this many seconds, with probability `confidence`."""
    budget_usd: float | None = None
    """A run must cost at most this, with probability `confidence`."""
    search_budget_usd: float | None = None
    """What all runs of the workload may cost that are made to find out, those known already included; None: anything."""
    confidence: float = 0.9
    """Probability with which deadline and budget must hold."""
    inputs: Mapping[str, float] = field(default_factory=dict)
    """The job's input to recommend for, by column name (`input.scale`)."""
    usage: Usage = field(default_factory=Usage)
    """How often the workload runs and what an interruption costs."""
    runs_planned: float | None = None
    """Runs of the workload to come, over which a search must pay; None: it ends by the strategy's own rule."""
    local_like: str | None = None
    """Catalogue family the profiling machine's CPU resembles; None: by its CPU model."""
    seed: int = 0
    """Seed of every random choice."""
    top: int = 10
    """How many rows a recommendation ranks."""
    notes: tuple[str, ...] = ()
    """Assumptions made while the problem was built, to be printed with every answer."""

    @property
    def configurations(self) -> pd.DataFrame:
        """One row per configuration: instance_type, node_count, vcpus, memory_gib, family, param.*, feature.*."""
        return self.candidates.configurations

    def rankable(self, prices: OptionPrices) -> npt.NDArray[np.bool_]:
        """Offers that may be ranked, shape (offers,): those with a price.

        When only time counts (objective runtime, no budget) also a candidates table's machines that the catalogue does not
        know and nobody prices, on demand; what a run of them costs stays unknown. A type of the catalogue without a price
        is not sold there.
        """
        offers, priced = self.candidates.offers, ~np.isnan(prices.usd_per_hour)
        if self.objective == "cost" or self.budget_usd is not None or prices.option.name != "on-demand":
            return priced
        result: npt.NDArray[np.bool_] = priced | (offers.family < 0)
        return result

    def random(self, runs: Runs) -> np.random.Generator:
        """A generator derived from (seed, number of runs): asking twice gives the same answer."""
        return np.random.default_rng([self.seed, len(runs)])


def build_problem(
    runs: Runs | pd.DataFrame | str | Path | None,
    *,
    workload: str | None = None,
    archive: Sequence[Runs | pd.DataFrame | str | Path] = (),
    candidates: pd.DataFrame | str | Path | None = None,
    prices: pd.DataFrame | str | Path | None = None,
    catalogue: Catalogue | None = None,
    objective: Objective = "cost",
    deadline_s: float | None = None,
    budget_usd: float | None = None,
    search_budget_usd: float | None = None,
    confidence: float = 0.9,
    purchase: Sequence[PurchaseOption] | None = None,
    regions: Sequence[str] | None = None,
    max_nodes: int | None = None,
    node_counts: Sequence[int] | None = None,
    types: TypeFilter | None = None,
    architecture: str | None = None,
    include_burstable: bool = False,
    include_accelerators: bool = False,
    inputs: Mapping[str, float] | None = None,
    usage: Usage | None = None,
    runs_planned: float | None = None,
    local_like: str | None = None,
    seed: int = 0,
    top: int = 10,
) -> tuple[Problem, Runs]:
    """Read what was measured and enumerate what could be rented.

    Parameters
    ----------
    runs
        Runs table (file, frame or `Runs`). With several workloads, `workload` names the one asked about and the others
        join the archive. None: nothing was measured.
    candidates
        Candidates table. Without it, candidates are the catalogue's types in `regions` (default: the runs' own region,
        else us-east-1) with 1 to `max_nodes` nodes (default: 1 when every run used one node, else the largest measured).
    purchase
        Default: on-demand with a candidates table; with the catalogue also spot and 1-year no-upfront commitments.
    search_budget_usd
        What the search may spend on measuring; what `runs` cost counts as spent.
    architecture
        x86_64, arm64 or any; default: what the runs were measured on.
    runs_planned
        A search ends when its next run is expected to cost more than it saves over this many runs, in the place of the
        strategy's own rule about improvement (`recommender.search.stopping.rule_of`). Objective cost only.

    Returns
    -------
    The problem, and the runs of the workload asked about (empty when there are none).

    Raises
    ------
    RecommenderError
        For unreadable tables, unknown names and values outside their range.
    """
    limits = (
        ("deadline", deadline_s, "seconds"),
        ("budget", budget_usd, "USD"),
        ("search budget", search_budget_usd, "USD"),
    )
    _check(limits, confidence, max_nodes, top, seed)
    check_runs_planned(runs_planned, objective)
    catalogue = catalogue or load_catalogue()
    every = _read(runs)
    workload, mine = _select(every, workload)
    mine = _without_empty(mine)
    others = [every.without(workload)] if workload is not None else []
    given = [_read(source) for source in archive]
    others += [r.without(workload) if workload is not None else r for r in given]
    pool = pd.concat([r.frame for r in others if len(r)], ignore_index=True) if any(len(r) for r in others) else None
    notes = shared_names(others)
    own = sum(len(r.of(workload)) for r in given) if workload is not None and pool is not None else 0
    if own:
        notes.append(
            f"not used: {counted(own, 'run')} of {workload} in the archive, which is runs of other workloads; what is to count goes "
            "into the runs table"
        )
    if local_like is not None and local_like not in set(catalogue.types["family"]):
        raise UnknownNameError(
            f"--local-like {local_like!r} is no family of the catalogue{did_you_mean(local_like, set(catalogue.types['family']))}"
        )
    table = read_table(prices, PRICES) if prices is not None else None
    named = bool(regions)
    regions = _regions(regions, mine, catalogue)
    if candidates is not None:
        options = tuple(dict.fromkeys(purchase or DEFAULT_OPTIONS[:1]))
        known = _architectures(architecture, empty_runs(), catalogue, None)
        wanted = replace(types or TypeFilter(), architecture=known[0] if len(known) == 1 else None)
        enumerated = table_candidates(
            read_table(candidates, CANDIDATES),
            catalogue,
            types=wanted,
            regions=regions,
            options=options,
            prices=table,
            max_nodes=max_nodes,
        )
    else:
        options = tuple(dict.fromkeys(purchase or DEFAULT_OPTIONS))
        counts = node_counts or range(1, (max_nodes or min(_largest_cluster(mine), MOST_NODES)) + 1)
        types = types or TypeFilter()
        enumerated = catalogue_candidates(
            catalogue,
            types=types,
            machines=Machines(
                measured=frozenset(mine.frame["instance_type"]) | frozenset(types.instance_types),
                architectures=_architectures(architecture, mine, catalogue, local_like),
                architecture_asked=architecture is not None,
                burstable=include_burstable,
                accelerators=include_accelerators,
            ),
            regions=regions,
            node_counts=sorted(set(counts)),
            options=options,
            prices=table,
        )
    enumerated = with_parameters(enumerated, mine)
    if not named and any(enumerated.offers.regions):
        notes.append(f"no region was named: prices are those of {', '.join(regions)} (--region R, or --region all)")
    _check_types(mine, enumerated, catalogue, candidates is None, notes)
    problem = Problem(
        candidates=enumerated,
        options=options,
        catalogue=catalogue,
        workload=workload,
        archive=Runs.from_frame(pool.dropna(axis="columns", how="all")) if pool is not None else None,
        regions=tuple(regions),
        only_own=pool is None and any(len(r) for r in given),
        objective=objective,
        deadline_s=deadline_s,
        budget_usd=budget_usd,
        search_budget_usd=search_budget_usd,
        confidence=confidence,
        inputs=target_inputs(mine, inputs or {}, notes),
        usage=usage or Usage(),
        runs_planned=runs_planned,
        local_like=local_like,
        seed=seed,
        top=top,
        notes=tuple(notes),
    )
    _check_search_budget(problem)
    return problem, mine


def _check_search_budget(problem: Problem) -> None:
    """Refuse a search budget that is less than the least that any run is billed."""
    if problem.search_budget_usd is None:
        return
    offers = problem.candidates.offers
    prices = price_option(BY_NAME["on-demand"], offers, problem.catalogue.spot)
    least = prices.cost(np.full(len(problem.configurations), 1e-9)[offers.configuration], offers, problem.usage)
    if np.isfinite(least).any() and np.nanmin(least) > problem.search_budget_usd:
        raise InputError(
            f"a search budget of {format_usd(problem.search_budget_usd)} bears no run: the least that a run of a candidate "
            f"is billed is {format_usd(float(np.nanmin(least)))}; give more, or other candidates"
        )


def empty_runs() -> Runs:
    """Return a runs table without rows."""
    return Runs.from_frame(pd.DataFrame({c: [] for c in ("workload", "instance_type", "node_count", "runtime_s")}))


def _read(source: Runs | pd.DataFrame | str | Path | None) -> Runs:
    if source is None:
        return empty_runs()
    return source if isinstance(source, Runs) else read_runs(source)


def _check(
    limits: Iterable[tuple[str, float | None, str]], confidence: float, max_nodes: int | None, top: int, seed: int
) -> None:
    for name, value, unit in limits:
        if value is not None and not (isinstance(value, int | float) and 0 < value < np.inf):
            raise InputError(f"{name} is {value!r}; a positive finite number of {unit} is needed")
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence is {confidence}; a probability of at least 0.5 and below 1 is needed")
    if max_nodes is not None and not 1 <= max_nodes <= 10_000:
        raise InputError(f"max nodes is {max_nodes}; 1 to 10000 is allowed")
    if seed < 0:
        raise InputError(f"seed is {seed}; a whole number of 0 or more is needed")
    if top < 1:
        raise InputError(f"top is {top}; at least 1 row is needed")


def check_runs_planned(runs_planned: float | None, objective: Objective) -> None:
    """Refuse a number of planned runs that is none, and one over which nothing can be weighed.

    Raises
    ------
    InputError
        When it is not positive and finite, or the objective is runtime: seconds saved have no price.
    """
    if runs_planned is None:
        return
    if not 0 < runs_planned < np.inf:
        raise InputError(f"runs planned is {runs_planned}; a positive finite number is needed")
    if objective != "cost":
        raise InputError(
            "runs planned were given with the objective runtime; seconds saved cannot be weighed against what measuring "
            "costs: take the objective cost, or leave the runs planned out"
        )


def _select(runs: Runs, workload: str | None) -> tuple[str | None, Runs]:
    known = runs.workloads
    if workload is not None:
        if known and workload not in known:
            raise UnknownNameError(
                f"workload {workload!r} is not in the runs table{did_you_mean(workload, known)} (it holds {some(known)}; "
                "to ask about a workload that was never run, give the table as --archive)"
            )
        return workload, runs.of(workload)
    if len(known) > 1:
        raise InputError(
            f"the runs table holds {len(known)} workloads ({some(known)}); name the one asked about with --workload"
        )
    return (known[0], runs) if known else (None, runs)


def _check_types(runs: Runs, candidates: Candidates, catalogue: Catalogue, everything: bool, notes: list[str]) -> None:
    """Refuse runs on a type nobody knows (a typing error, most likely), and name what was assumed about the machines."""
    known = {"local", *catalogue.types.index, *candidates.configurations["instance_type"]}
    for name in runs.frame["instance_type"].unique():
        if name not in known:
            sentence = f"the runs were made on {name!r}, which is neither a type of the catalogue nor a candidate{did_you_mean(name, known)}"
            if everything:
                raise UnknownNameError(
                    f"{sentence} (local is the profiling machine; other machines need a candidates table)"
                )
            notes.append(sentence)
    _check_vcpus(runs, candidates, catalogue)
    if len(runs) and "metric.peak_memory_gib" not in runs.frame:
        notes.append("peak memory was not measured (metric.peak_memory_gib): no machine is excluded for lack of memory")
    if len(runs) and runs.frame["node_count"].max() == 1 and candidates.configurations["node_count"].max() > 1:
        notes.append("no run used more than one node: that the program can use several machines is assumed")


def _check_vcpus(runs: Runs, candidates: Candidates, catalogue: Catalogue) -> None:
    """Refuse runs said to have used more vCPUs than their machines have."""
    own = candidates.configurations.drop_duplicates("instance_type").set_index("instance_type")["vcpus"]
    names = runs.frame["instance_type"]
    each = names.map(own).astype(float).fillna(names.map(catalogue.types["vcpus"]).astype(float))
    over = runs.frame["vcpus"].astype(float) > each * runs.frame["node_count"]
    if over.any():
        i = int(np.flatnonzero(over)[0])
        nodes = int(runs.frame["node_count"][i])
        raise InputError(
            f"a run on {names[i]} x{nodes} is said to have used {runs.frame['vcpus'][i]:g} vCPUs, but {nodes} of them have "
            f"{each[i] * nodes:g}; vcpus is what each node could use, or the total of the cluster"
        )


def _without_empty(runs: Runs) -> Runs:
    """Drop the input, parameter and metric columns that only other workloads fill."""
    frame = runs.frame
    empty = [c for c in (*runs.inputs, *runs.params, *runs.metrics) if frame[c].isna().all()]
    return Runs(frame.drop(columns=empty))


def _regions(regions: Sequence[str] | None, runs: Runs, catalogue: Catalogue) -> list[str]:
    known = list(catalogue.regions()["region"])
    if regions:
        if list(regions) == ["all"]:
            return known
        for region in regions:
            if region not in known:
                raise UnknownNameError(
                    f"region {region!r} is not in the catalogue{did_you_mean(region, known)} (see: recommender catalogue regions)"
                )
        return sorted(set(regions))
    seen = sorted({r for r in runs.frame["region"].dropna() if r in known})
    if seen:
        return seen
    return [DEFAULT_REGION]


def _largest_cluster(runs: Runs) -> int:
    return int(runs.frame["node_count"].max()) if len(runs) else 1


def _architectures(wanted: str | None, runs: Runs, catalogue: Catalogue, local_like: str | None) -> tuple[str, ...]:
    """Architectures to consider: a program measured on one is not assumed to run on another."""
    known = ("arm64", "x86_64")
    if wanted is not None:
        if wanted not in (*known, "any"):
            raise InputError(f"architecture is {wanted!r}; arm64, x86_64 or any is allowed")
        return known if wanted == "any" else (wanted,)
    seen = set(catalogue.types["architecture"].reindex(runs.frame["instance_type"].unique()).dropna())
    by_family = catalogue.types.drop_duplicates("family").set_index("family")["architecture"]
    for cpu in runs.frame.loc[runs.frame["instance_type"] == "local", "cpu_model"].unique():
        text = cpu if isinstance(cpu, str) else ""
        family = local_like or (match.family if (match := identify(text)) else None)
        guess = "arm64" if re.search(r"arm|neoverse|graviton|ampere|apple|cortex", text, re.IGNORECASE) else "x86_64"
        seen.add(str(by_family.get(family, guess)) if family else guess)
    return tuple(sorted(seen)) or known
