"""Initial designs: distinct, spread, the same when resumed, and away from what is known to fail."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recommender.models.features import features
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.search.designs import QuasiRandom, sobol_order

TYPES = {"c4.large": 0.1, "c4.2xlarge": 0.4, "m4.large": 0.1, "m4.2xlarge": 0.4, "r4.large": 0.13, "r4.2xlarge": 0.53}
NODES = (1, 2, 4, 8, 16, 32)


def ask(mine: pd.DataFrame | None = None, **options: Any) -> tuple[Problem, Runs]:
    """Six types of the catalogue x six cluster sizes."""
    rows = [(t, n, usd) for (t, usd), n in itertools.product(TYPES.items(), NODES)]
    candidates = pd.DataFrame(rows, columns=["instance_type", "node_count", "usd_per_hour"])
    return build_problem(mine, **{"workload": "w", "candidates": candidates, **options})


def run(kind: str, nodes: int, status: str = "completed") -> pd.DataFrame:
    """One run."""
    row = {"workload": "w", "instance_type": kind, "node_count": nodes, "runtime_s": 100.0, "status": status}
    return pd.DataFrame([row])


def starts(problem: Problem, count: int, design: QuasiRandom, status: str = "completed") -> list[tuple[str, int]]:
    """The configurations a design asks for, each told with `status`."""
    frame, found = pd.DataFrame(), []
    for _ in range(count):
        runs = Runs.from_frame(frame) if len(frame) else build_problem(None, candidates=None, workload="w")[1]
        wanted = design.propose(problem, runs, problem.random(runs), None)
        if wanted is None:
            break
        found.append((wanted.instance_type, wanted.node_count))
        frame = pd.concat([frame, run(*found[-1], status)], ignore_index=True)
    return found


class TestSobol:
    @pytest.mark.parametrize("seed", range(5))
    def test_takes_every_candidate_once(self, seed: int) -> None:
        problem, _ = ask()
        order = list(sobol_order(features(problem).x, seed))
        assert sorted(order) == list(range(len(problem.configurations)))

    def test_covers_more_evenly_than_chance(self) -> None:
        x = features(ask()[0]).x

        def emptiness(rows: list[int]) -> float:
            """Largest distance from any candidate to the nearest chosen one."""
            return float(np.sqrt(((x[:, None] - x[rows][None]) ** 2).sum(axis=2)).min(axis=1).max())

        rng = np.random.default_rng(0)
        sobol = [emptiness(list(itertools.islice(sobol_order(x, seed), 6))) for seed in range(30)]
        chance = [emptiness(list(rng.choice(len(x), 6, replace=False))) for _ in range(300)]
        assert np.mean(sobol) < np.mean(chance)

    def test_follows_its_seed(self) -> None:
        x = features(ask()[0]).x
        first = [tuple(itertools.islice(sobol_order(x, seed), 3)) for seed in (0, 0, 1, 2, 3)]
        assert first[0] == first[1]
        assert len(set(first)) > 2


class TestQuasiRandom:
    def test_asks_for_as_many_distinct_starts_as_it_says_and_then_for_none(self) -> None:
        found = starts(ask()[0], 10, QuasiRandom(4))
        assert len(found) == len(set(found)) == 4

    def test_the_sequence_does_not_depend_on_how_many_are_wanted(self) -> None:
        problem, _ = ask()
        assert starts(problem, 10, QuasiRandom(5))[:3] == starts(problem, 10, QuasiRandom(3))

    def test_runs_the_user_made_count(self) -> None:
        mine = pd.concat([run("c4.large", 1), run("m4.large", 2), run("r4.large", 8)], ignore_index=True)
        problem, runs = ask(mine)
        assert QuasiRandom(3).propose(problem, runs, problem.random(runs), None) is None
        assert QuasiRandom(4).propose(problem, runs, problem.random(runs), None) is not None

    def test_a_start_that_failed_is_replaced_and_not_repeated(self) -> None:
        found = starts(ask()[0], 8, QuasiRandom(3), status="failed")
        assert len(found) == len(set(found)) == 8

    def test_it_keeps_away_from_less_memory_than_what_failed(self) -> None:
        mine = pd.concat(
            [run("m4.2xlarge", 8), *(run("c4.large", n, "failed") for n in NODES[:5]), run("m4.large", 16, "failed")],
            ignore_index=True,
        )
        problem, runs = ask(mine)
        wanted = QuasiRandom(30).propose(problem, runs, problem.random(runs), None)
        assert wanted is not None
        memory = problem.configurations.set_index(["instance_type", "node_count"])["memory_gib"]
        node = float(memory[wanted.instance_type, wanted.node_count])
        assert node > 8.0 or wanted.node_count * node > 8.0 * 16

    def test_ends_when_no_candidate_is_left(self) -> None:
        few = pd.DataFrame({"instance_type": ["a", "b"], "node_count": [1, 1], "usd_per_hour": [1.0, 2.0]})
        problem, _ = ask(candidates=few)
        assert sorted(starts(problem, 9, QuasiRandom(5))) == [("a", 1), ("b", 1)]


class TestFeatures:
    def test_are_scaled_to_the_unit_interval_and_prices_are_none_of_them(self) -> None:
        problem, _ = ask()
        space = features(problem)
        assert space.x.shape == (36, len(space.names))
        assert space.x.min() >= 0.0
        assert space.x.max() <= 1.0
        assert {"node_count", "vcpus", "memory per vCPU"} <= set(space.names)
        assert not [n for n in space.names if "usd" in n or "price" in n]

    def test_node_counts_that_double_are_equally_far_apart(self) -> None:
        space = features(ask()[0])
        column = sorted(set(space.x[:, space.names.index("node_count")]))
        assert np.diff(column) == pytest.approx(np.full(5, 0.2))

    def test_types_of_which_only_the_name_is_known_are_equally_far_apart(self) -> None:
        names = pd.DataFrame({"instance_type": ["x", "y", "z"], "node_count": 1, "usd_per_hour": 1.0})
        space = features(ask(candidates=names)[0])
        assert space.x.shape == (3, 3)
        assert len(set(space.group)) == 1, "one length scale for all"
        apart = np.sqrt(((space.x[:, None] - space.x[None]) ** 2).sum(axis=2))
        assert apart[~np.eye(3, dtype=bool)] == pytest.approx(np.ones(6))

    def test_parameters_are_numbers_logarithms_or_one_hot(self) -> None:
        table = pd.DataFrame(
            {
                "instance_type": "m5.large",
                "node_count": 1,
                "usd_per_hour": 1.0,
                "param.batch": [16, 256, 4096],
                "param.share": [0.2, 0.5, 0.8],
                "param.mode": ["sync", "async", "sync"],
            }
        )
        space = features(ask(candidates=table)[0])
        column = dict(zip(space.names, space.x.T, strict=True))
        assert sorted(column["param.batch"]) == pytest.approx([0.0, 0.5, 1.0]), "logarithm"
        assert sorted(column["param.share"]) == pytest.approx([0.0, 0.5, 1.0])
        assert {n for n in column if n.startswith("param.mode")} == {"param.mode=async", "param.mode=sync"}

    def test_a_missing_cell_is_marked_not_zero(self) -> None:
        table = pd.DataFrame(
            {
                "instance_type": list("abc"),
                "node_count": 1,
                "usd_per_hour": 1.0,
                "memory_gib": [4.0, np.nan, 16.0],
                "vcpus": 2.0,
            }
        )
        space = features(ask(candidates=table)[0])
        column = dict(zip(space.names, space.x.T, strict=True))
        assert column["memory per vCPU unknown"].tolist() == [0.0, 1.0, 0.0]
        assert column["memory per vCPU"] == pytest.approx([0.0, 0.5, 1.0])

    def test_a_constant_says_nothing_and_one_candidate_is_no_error(self) -> None:
        one = pd.DataFrame({"instance_type": ["a"], "node_count": [1], "usd_per_hour": [1.0]})
        assert features(ask(candidates=one)[0]).x.tolist() == [[0.0]]
