"""Replay strategies and peers on recorded tables: runs and USD until within 5 % of the optimum, and how far off before.

    python tools/bench_peers.py                                       the public tables, as docs/benchmarks.md states them
    python tools/bench_peers.py --table scout-cost                    one of them
    python tools/bench_peers.py --runs R --candidates C               your own tables (also --objective, --group-by)
    python tools/bench_peers.py --strategies prior --peers none       some of it; without peers nothing else is needed
    python tools/bench_peers.py --only-print                          tables from the results kept

Peers (tools/peers.py) are measured in an environment of their own: `make bench-peers`. Results are kept as they come, a
row a step, in OUT/TABLE.csv.gz; what is there is not measured again. Every optimum, cost and failure is counted by
`recommender.replay`, for peers too.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
from peers import PEERS, Peer

from recommender.candidates import Configuration
from recommender.catalogue.cpu import local_cpu_model
from recommender.datasets import fetch_dataset
from recommender.evaluation import Evaluation, plan
from recommender.models import Array
from recommender.problem import Problem
from recommender.recommendation import Recommendation
from recommender.replay import COLUMNS, episode
from recommender.runs import Runs, read_runs
from recommender.search.stopping import Never
from recommender.strategies import ModelBased, Strategy, strategy
from recommender.summary import checked, optimum_cost_usd, quantile, standing_still

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("prior", "auto", "cherrypick", "trees", "arrow", "lynceus", "column-mean", "best-fixed", "random")
ONE_PASS = ("prior", "prior, never stopping", "auto", "column-mean", "best-fixed")
"""Deterministic: another seed changes nothing but which repetition of a configuration is found."""
NEVER = ", never stopping"
AFTER = (3, 4, 6, 10)
NEAR = 1.05
RESAMPLES = 1000
PACKAGES = ("numpy", "scipy", "scikit-learn", "scikit-optimize", "optuna", "torch", "smac")


@dataclass(frozen=True)
class Table:
    """What is replayed."""

    dataset: str
    objective: str
    group_by: str
    only: str = ""
    """Value of `feature.provider` that is kept."""


TABLES = {
    "scout-cost": Table("scout", "cost", "application"),
    "scout-cost-by-workload": Table("scout", "cost", "workload"),
    "lynceus-cost": Table("lynceus", "cost", "application"),
    "lumos-aws-runtime": Table("lumos", "runtime", "application", "aws"),
}
"""Each job of `lynceus` is an application of its own, so that either grouping is the same."""


def read(table: Table) -> tuple[Runs, pd.DataFrame]:
    """Runs and candidates of a public table."""
    data = fetch_dataset(table.dataset)
    runs, candidates = data.runs, data.candidates
    assert runs is not None
    assert candidates is not None
    if table.only:
        candidates = candidates[candidates["feature.provider"] == table.only].drop(columns="feature.provider")
        kept = runs.frame["instance_type"].isin(candidates["instance_type"])
        runs = Runs(runs.frame[kept].reset_index(drop=True))
    return runs, candidates.reset_index(drop=True)


@dataclass
class Once:
    """A search, asked once a step: what `recommend` says to run next is what `suggest` would say."""

    search: ModelBased
    answer: Recommendation | None = None

    def recommend(self, problem: Problem, runs: Runs) -> Recommendation:
        """What the search recommends."""
        self.answer = None
        self.answer = self.search.recommend(problem, runs)
        return self.answer

    def suggest(self, problem: Problem, runs: Runs, *, rng: object = None) -> Configuration | None:
        """What it said beside that; asked alone where it could not recommend."""
        return self.search.suggest(problem, runs) if self.answer is None else self.answer.next_run


def contenders(names: list[str], peers: list[str], steps: int) -> dict[str, Strategy]:
    """Strategies by the name they have in the results."""
    found: dict[str, Strategy] = {}
    for name in names:
        one = strategy(name.removesuffix(NEVER))
        if name.endswith(NEVER):
            assert isinstance(one, ModelBased)
            one = replace(one, stop=Never())
        found[name] = Once(one) if isinstance(one, ModelBased) and one.acquisition is not None else one
    return found | {name: Peer(PEERS[name], steps) for name in peers}


def measure(
    planned: Evaluation, wanted: Mapping[str, Strategy], seeds: Mapping[str, int], out: Path, *, minutes: float
) -> pd.DataFrame:
    """Results kept in `out` and those still missing, a strategy and seed at a time until `minutes` are over."""
    kept = pd.read_csv(out, low_memory=False) if out.exists() else pd.DataFrame(columns=list(COLUMNS))
    began = time.monotonic()
    turns = sorted((seed, i, name) for i, name in enumerate(wanted) for seed in range(seeds[name]))
    for seed, _, name in turns:
        if ((kept["strategy"] == name) & (kept["seed"] == seed)).any():
            continue
        if time.monotonic() - began > 60 * minutes:
            sys.stderr.write(f"{minutes:g} minutes are over: {name} seed {seed} and what follows was not measured\n")
            break
        started = time.monotonic()
        one = replace(planned, strategies={name: wanted[name]}, seeds=1)
        found = run_seed(one, seed)
        kept = found if kept.empty else pd.concat([kept, found], ignore_index=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(out.name + ".new")
        kept.to_csv(
            temporary, index=False, float_format="%.8g", compression={"method": "gzip", "mtime": 0}, lineterminator="\n"
        )
        temporary.replace(out)
        sys.stderr.write(f"{out.name}: {name}, seed {seed}: {time.monotonic() - started:.0f} s\n")
    return kept


def run_seed(planned: Evaluation, seed: int) -> pd.DataFrame:
    """Every workload with one seed."""
    rows = [
        row
        for name, one in planned.strategies.items()
        for world in planned.worlds
        for row in episode(name, one, world, seed=seed, steps=planned.steps)
    ]
    return pd.DataFrame(rows).assign(ask_seconds=np.nan)  # not measured here: the machine may be busy, and see `Once`


@dataclass(frozen=True)
class Cells:
    """One strategy: a number an episode, (workloads, seeds)."""

    after: dict[int, Array]
    """Best measured over the optimum after n runs; of a strategy that measures nothing, what it recommends."""
    to_near: Array
    """Runs until within 5 %, infinite where never."""
    usd: Array
    """Search cost to that point, infinite where never."""
    usd_of_optimum: Array
    """The same over the cost of the workload's best run."""
    made: Array
    """Runs made."""


def cells(results: pd.DataFrame, optimum: Mapping[str, float]) -> Cells:
    """Statistics of the episodes of one strategy."""
    results = checked(results)
    steps = int(results["step"].max())
    episodes = results.drop_duplicates(["workload", "seed"])
    shape = (episodes["workload"].nunique(), -1)
    column = "normalised_incumbent" if steps else "normalised_recommendation"
    wide = standing_still(results, [column, "search_cost_usd"], steps)
    best = np.where(np.isnan(wide[column]), np.inf, wide[column])
    near = best <= NEAR
    first = near.argmax(axis=1)
    found = near.any(axis=1)
    usd = np.where(found, wide["search_cost_usd"][np.arange(len(best)), first], np.inf)
    least = episodes["workload"].map(dict(optimum)).to_numpy(float)
    last = results.drop_duplicates(["workload", "seed"], keep="last")
    return Cells(
        {n: best[:, min(n, steps)].reshape(shape) for n in AFTER},
        np.where(found, first, np.inf).reshape(shape),
        usd.reshape(shape),
        (usd / least).reshape(shape),
        last["step"].to_numpy(float).reshape(shape),
    )


def interval(values: Array, q: float) -> tuple[float, float, float]:
    """Quantile over episodes with its 95 % bootstrap interval over workloads."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    many = quantile(values[drawn].reshape(RESAMPLES, -1), q)
    return float(quantile(values.ravel(), q)), *(float(quantile(many, p)) for p in (0.025, 0.975))


def said(number: float, digits: int, beyond: str = "-") -> str:
    """A number, or what stands for one that is not finite."""
    return f"{number:.{digits}f}" if np.isfinite(number) else beyond


def with_interval(values: Array, q: float, digits: int, beyond: str = "-") -> str:
    """`interval` for a table."""
    middle, low, high = (said(v, digits, beyond) for v in interval(values, q))
    return f"{middle} ({low} to {high})"


def tables(results: pd.DataFrame) -> tuple[str, str]:
    """Markdown: one row a strategy; and median regret after 6 runs, one row a workload."""
    optimum, made = optimum_cost_usd(checked(results)), dict[str, Cells]()
    for name in dict.fromkeys(results["strategy"]):
        made[name] = cells(results[results["strategy"] == name], optimum)
    steps = int(results["step"].max())
    beyond = f"> {steps}"
    head = ["strategy", "seeds", "runs to 5 %", "USD to 5 %", "the same / optimum"]
    head += [f"after {n}: median, p90" for n in AFTER]
    head += ["runs made"]
    order = sorted(
        made, key=lambda n: (quantile(made[n].to_near.ravel(), 0.5), quantile(made[n].after[6].ravel(), 0.5))
    )
    lines = []
    for name in order:
        one = made[name]
        line = [name, str(one.to_near.shape[1])]
        line += [with_interval(one.to_near, 0.5, 0, beyond), with_interval(one.usd, 0.5, 2)]
        line += [with_interval(one.usd_of_optimum, 0.5, 1)]
        for n in AFTER:
            line.append(", ".join(said(float(quantile(one.after[n].ravel(), q)), 2) for q in (0.5, 0.9)))
        line.append(f"{one.made.mean():.1f}")
        lines.append(line)
    workloads = sorted(results["workload"].unique())
    regret = [
        [w, *(said(float(quantile(made[n].after[6][i], 0.5)) * 100 - 100, 0) for n in order)]
        for i, w in enumerate(workloads)
    ]
    return markdown(head, lines), markdown(["workload", *order], regret)


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table."""
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


def versions() -> str:
    """Of what takes part, as far as it is installed here."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return f"{os.cpu_count()} cores of {local_cpu_model()}, Python {platform.python_version()}, {', '.join(found)}"


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, action="append")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--candidates", type=Path)
    parser.add_argument("--objective", choices=("cost", "runtime"), default="cost")
    parser.add_argument("--group-by", choices=("application", "workload"), default="application")
    parser.add_argument("--deadline-quantile", type=float)
    parser.add_argument("--strategies", default=",".join(["prior", "prior; never stopping", *NAMES[1:]]))
    parser.add_argument("--peers", default=";".join(PEERS), help=f"separated by ; of: {'; '.join(PEERS)}; or none")
    for name, value in {"seeds": 5, "random-seeds": 20, "steps": 15}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing more after so many")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "peers")
    parser.add_argument("--plots", action="store_true", help="write OUT/TABLE/*.png too")
    parser.add_argument("--only-print", action="store_true")
    given = parser.parse_args()
    names = [n.replace(";", ",") for n in given.strategies.split(",") if n and n != "none"]
    peers = [n.strip() for n in given.peers.split(";") if n.strip() and n != "none"]
    wanted = contenders(names, peers, given.steps)
    seeds = {n: 1 if n in ONE_PASS else given.random_seeds if n == "random" else given.seeds for n in wanted}
    own = {} if given.runs is None else {given.runs.stem: None}
    for name, table in (own or {n: TABLES[n] for n in given.table or TABLES}).items():
        out = given.out / f"{name}.csv.gz"
        if given.only_print:
            results = pd.read_csv(out, low_memory=False)
        else:
            if table is None:
                runs, candidates = read_runs(given.runs), given.candidates
                table = Table(name, given.objective, given.group_by)
            else:
                runs, candidates = read(table)
            planned = plan(
                runs,
                candidates=candidates,
                objective="cost" if table.objective == "cost" else "runtime",
                group_by="application" if table.group_by == "application" else "workload",
                deadline_quantile=given.deadline_quantile,
                steps=given.steps,
            )
            for note in planned.notes:
                sys.stderr.write(f"note: {note}\n")
            results = measure(planned, wanted, seeds, out, minutes=given.minutes)
        whole, parts = tables(results)
        print(f"### {name}\n\n{whole}\n\nRegret after 6 runs, %, median over seeds:\n\n{parts}\n")
        if given.plots:
            from recommender.report.regret_plots import write_plots

            for path in write_plots(results, given.out / name):
                sys.stderr.write(f"wrote {path}\n")
    print(versions())


if __name__ == "__main__":
    main()
