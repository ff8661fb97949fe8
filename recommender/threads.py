"""Linear algebra in one thread: problems here are many and small, so that threads cost more than they save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from threading import Lock
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _controller() -> Any:
    """Looked for once, since it costs as much as a suggestion; the libraries of NumPy and SciPy are loaded by then."""
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


class _Held:
    """The limit is the process's own: the first that comes sets it, and the last that leaves takes it back."""

    def __init__(self) -> None:
        self.lock, self.inside, self.limit = Lock(), 0, None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.limit = _controller().limit(limits=1, user_api="blas")
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if self.inside == 0 and self.limit is not None:
                    self.limit.restore_original_limits()


_held = _Held()


def single_threaded(function: Callable[P, R]) -> Callable[P, R]:
    """The function with BLAS held to one thread while it, or another such function in another thread, runs.

    On a busy machine threads that wait for each other made learning from an archive 8 times as slow, and sums that several
    threads share round differently from run to run.
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with _held():
            return function(*args, **kwargs)

    return alone
