"""The library as somebody imports it."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

import recommender
from recommender import build_problem, strategy
from recommender.resources import shipped_profiles


def test_every_public_name_can_be_imported() -> None:
    for name in recommender.__all__:
        assert getattr(recommender, name) is not None
    assert sorted(recommender._MODULE_OF) == sorted(recommender.__all__) == sorted(dir(recommender))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = recommender.no_such_name


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = "import sys, recommender; print([m for m in ('numpy', 'pandas', 'scipy', 'matplotlib', 'typer') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", shipped_profiles())
def test_every_shipped_profile_gets_an_answer_that_rests_on_its_runs(name: str) -> None:
    problem, runs = build_problem(shipped_profiles()[name])
    answer = strategy("auto").recommend(problem, runs)
    assert answer.strategy == "ernest"
    assert len(runs) == 18
    assert set(runs.frame["status"]) == {"completed"}
    frame = answer.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["rank"]) == list(range(1, 11))
    assert frame["cost_usd_p50"].is_monotonic_increasing
    assert answer.to_dict()["recommendations"][0]["cost_usd"]["p50"] == frame["cost_usd_p50"].iloc[0]


def test_the_picture_shows_every_row_with_a_runtime() -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    problem, runs = build_problem(next(iter(shipped_profiles().values())))
    axes = recommender.time_against_cost(strategy("ernest").recommend(problem, runs), label=3)
    assert len(axes.containers) == 10
    assert len(axes.texts) == 3
    assert axes.get_xlabel() == "runtime of a run, minutes"
    plt.close("all")
