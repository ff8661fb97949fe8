"""Durations and amounts of money: from what people write, and to what people read."""

from __future__ import annotations

import math
import re

from recommender.errors import InputError

_SECONDS_PER_UNIT = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_PART = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds in a duration such as `90s`, `30m`, `1.5h`, `1h30m`, `2d`; a bare number is seconds.

    Raises
    ------
    InputError
        When the text is not a duration, or is not more than zero.
    """
    parts = []
    position = 0
    lowered = text.lower()
    while position < len(lowered) and (part := _PART.match(lowered, position)):
        parts.append(part.groups())
        position = part.end()
    bare_among_others = len(parts) > 1 and any(not unit for _, unit in parts)
    unknown = any(unit and unit not in _SECONDS_PER_UNIT for _, unit in parts)
    if not parts or position < len(lowered) or bare_among_others or unknown:
        raise InputError(
            f"{text!r} is not a duration; write a number with s, m, h or d, such as 90s, 30m, 1.5h or 1h30m "
            "(a bare number is seconds)"
        )
    seconds = sum(float(number) * _SECONDS_PER_UNIT[unit or "s"] for number, unit in parts)
    if not 0 < seconds < math.inf:
        raise InputError(f"the duration {text!r} is not more than zero and finite; write for example 90s, 30m or 1.5h")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration for reading: `0.125 s`, `12.3 s`, `3 min 05 s`, `2 h 05 min`.

    Raises
    ------
    InputError
        When `seconds` is negative or not a number: an absent duration must be shown as absent by the caller.
    """
    if not 0 <= seconds < math.inf:
        raise InputError(f"{seconds} is not a duration in seconds; it must be finite and not negative")
    if 0 < seconds < 0.9995:
        return f"{_significant(seconds)} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"


def format_usd(usd: float) -> str:
    """Return an amount with at least three significant digits and at least cents: `$1,234.50`, `$0.0123`, `-$1.20`.

    Raises
    ------
    InputError
        When `usd` is not finite: an absent price must be shown as absent by the caller.
    """
    if not math.isfinite(usd):
        raise InputError(f"{usd} is not an amount in USD; it must be finite")
    sign = "-" if usd < 0 else ""
    amount = abs(usd)
    return f"{sign}${_significant(amount) if 0 < amount < 1 else f'{amount:,.2f}'}"


def _significant(value: float) -> str:
    """Return a value in (0, 1) with three significant digits, without an exponent."""
    return f"{value:.{2 - math.floor(math.log10(value))}f}"


def counted(number: int, what: str) -> str:
    """A number of things, in words: 1 run, 2 runs."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
