"""What can go wrong, as sentences: what was asked, what was found, what is allowed, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecommenderError(Exception):
    """Every error of this library that its user can mend. The message is one line."""


class InputError(RecommenderError):
    """A file, a table cell or an argument is not what its contract says."""


class UnknownNameError(RecommenderError):
    """A name (column, instance type, region, strategy, data set ...) is not among the known ones."""


class InfeasibleError(RecommenderError):
    """No candidate satisfies the constraints."""


class InsufficientEvidenceError(RecommenderError):
    """The runs do not determine the model that was asked for."""


class MissingDataError(RecommenderError):
    """A data set could not be found, fetched or verified."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
