"""What was fitted to an archive, kept as long as the archive is."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import pandas as pd

from recommender.problem import Problem
from recommender.runs import Runs

Kept = TypeVar("Kept")
_SHELVES: weakref.WeakKeyDictionary[Runs, dict[Hashable, tuple[weakref.ref[pd.DataFrame], object]]] = (
    weakref.WeakKeyDictionary()
)


def kept(problem: Problem, key: Hashable, make: Callable[[], Kept]) -> Kept:
    """What `make` returns, computed once for each archive, candidates and `key`; forgotten with the archive.

    Strategies are pure functions of the evidence: without this every ask would fit the archive again. `make` may depend
    on nothing but the archive, the configurations and the key.
    """
    if problem.archive is None:
        return make()
    shelf, table = _SHELVES.setdefault(problem.archive, {}), problem.configurations
    place = (id(table), key)
    found = shelf.get(place)
    if found is None or found[0]() is not table:
        for old in [key for key, (held, _) in shelf.items() if held() is None]:  # nobody asks about those any more
            del shelf[old]
        found = shelf[place] = (weakref.ref(table), make())
    return cast("Kept", found[1])
