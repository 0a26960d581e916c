"""Times as people read them: ISO 8601 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

NS = 1_000_000_000
"""Nanoseconds of a second."""


def iso_time(ns: int, *, digits: int = 0) -> str:
    """A time in nanoseconds since the Unix epoch, with `digits` decimal digits of the second (RFC 3339).

    >>> iso_time(1_700_000_000_250_000_000, digits=3)
    '2023-11-14T22:13:20.250Z'
    """
    seconds, rest = divmod(ns, NS)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):  # beyond the year 9999, or before what the platform can tell
        return f"{ns / NS:.3f} s after 1970"
    return f"{text}{f'.{rest:09d}'[: digits + 1] if digits else ''}Z"


def in_words(seconds: float) -> str:
    """A duration in the two largest units it has.

    >>> in_words(0.25), in_words(75), in_words(7384), in_words(200_000)
    ('0.25 s', '1 min 15 s', '2 h 3 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    for name, size, below, part in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if seconds < {"min": 3600, "h": 86400}.get(name, float("inf")):
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {name}" + (f" {rest // part} {below}" if rest // part else "")
    raise AssertionError(seconds)
