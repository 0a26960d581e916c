"""Fewer rows, evenly: over their order, or over their labels too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def every_nth(rows: Sequence[T], most: int | None) -> list[T]:
    """Every n-th row, with the least n that leaves at most `most`; all rows where `most` is 0 or None.

    >>> every_nth([1, 2, 3, 4, 5], 2)
    [1, 4]
    """
    return list(rows[:: -(-len(rows) // most)] if most and rows else rows)


def evenly_over_labels(labels: Sequence[str], most: int) -> list[int]:
    """At most `most` row numbers, or one a label: as many of each label as can be, every n-th of a label's rows.

    >>> evenly_over_labels(["a", "a", "b", "a", "a"], 4)
    [0, 2, 3]
    """
    by_label: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        by_label.setdefault(label, []).append(row)
    share = max(1, most // max(len(by_label), 1))
    return sorted(row for members in by_label.values() for row in every_nth(members, share))
