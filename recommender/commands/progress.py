"""Progress of what takes longer than a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

QUIET_S = 2.0
"""Work that takes no longer is not worth a progress bar."""


class Bar:
    """A progress bar on stderr, once the work has taken longer than `QUIET_S`."""

    def __init__(self, what: str) -> None:
        self._what, self._started = what, time.monotonic()
        self._drawn: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn is not None:
            self._drawn[0].stop()

    @property
    def progress(self) -> Callable[[int, int], None] | None:
        """What the library is to call: `update` where a person looks at stderr."""
        return self.update if sys.stderr.isatty() else None

    def update(self, done: int, total: int) -> None:
        """Show `done` of `total`."""
        if self._drawn is None and time.monotonic() - self._started > QUIET_S:
            from rich.console import Console
            from rich.progress import MofNCompleteColumn, Progress

            columns = (*Progress.get_default_columns(), MofNCompleteColumn())
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            bar.start()
            self._drawn = bar, bar.add_task(self._what, total=None)
        if self._drawn is not None:
            bar, task = self._drawn
            bar.update(task, completed=done, total=total)
