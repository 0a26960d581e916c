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


def evenly_spaced(rows: Sequence[T], most: int) -> list[T]:
    """Exactly `most` rows at even distances, the first one among them; all where there are no more.

    >>> evenly_spaced([1, 2, 3, 4, 5], 3)
    [1, 2, 4]
    """
    return [rows[k * len(rows) // most] for k in range(most)] if len(rows) > most else list(rows)


def fair_shares(sizes: Sequence[int], most: int) -> list[int]:
    """How many rows each group gives so that all give `most` together: small groups all they have, the others alike.

    >>> fair_shares([2, 10, 10], 12)
    [2, 5, 5]
    """
    shares, left = [0] * len(sizes), most
    for rank, group in enumerate(sorted(range(len(sizes)), key=lambda k: (sizes[k], k))):
        shares[group] = min(sizes[group], left // (len(sizes) - rank))
        left -= shares[group]
    return shares
