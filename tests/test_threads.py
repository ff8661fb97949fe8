"""Linear algebra is held to one thread while a strategy thinks, and only then."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_info, threadpool_limits

from recommender.composition import ModelBased
from recommender.models import Prediction, nothing_known
from recommender.problem import Problem, build_problem
from recommender.runs import Runs
from recommender.threads import single_threaded


def threads() -> set[int]:
    """Threads of every BLAS that is loaded."""
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


class Spy:
    """A model that notes how many threads it has."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def predict(self, problem: Problem, runs: Runs) -> Prediction:
        """Believe every candidate takes 100 s."""
        self.seen |= threads()
        n = len(problem.configurations)
        known = nothing_known(problem)
        known.log_runtime[:], known.spread[:] = np.full(n, np.log(100.0)), np.full(n, 0.1)
        return known


def test_a_strategy_thinks_in_one_thread_and_gives_back_what_there_was() -> None:
    pool = pd.DataFrame({"instance_type": ["a", "b"], "node_count": 1, "usd_per_hour": 0.1})
    problem, runs = build_problem(None, workload="job", candidates=pool)
    spy = Spy()
    with threadpool_limits(2, user_api="blas"):
        ModelBased("spy", "notes its threads", spy).recommend(problem, runs)
        assert threads() == {2}
    assert spy.seen == {1}


def test_a_failure_gives_the_threads_back_too() -> None:
    @single_threaded
    def fails() -> None:
        raise ValueError("no")

    with threadpool_limits(2, user_api="blas"):
        try:
            fails()
        except ValueError:
            assert threads() == {2}
        else:
            raise AssertionError("it did not fail")


OVERLAP = """
import threading
import scipy.linalg
from threadpoolctl import threadpool_info
from recommender.threads import single_threaded

def threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

begun, inside, leave, longer = (threading.Event() for _ in range(4))

@single_threaded
def first():
    begun.set()
    leave.wait(60)

@single_threaded
def second():
    inside.set()
    longer.wait(60)

print(threads())
one, two = threading.Thread(target=first), threading.Thread(target=second)
one.start()
begun.wait(60)
two.start()
inside.wait(60)
leave.set()
one.join()
print(threads())
longer.set()
two.join()
print(threads())
"""


def test_calls_that_overlap_in_several_threads_leave_what_there_was() -> None:
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", OVERLAP], env=env, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["{2}", "{1}", "{2}"]
