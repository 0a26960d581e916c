"""Equal contents: what a split must keep together, and the ceiling that conflicting labels set."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain

from trafficllm.core.files import hash64
from trafficllm.core.types import Record
from trafficllm.records.codec import units as u

LEAST_PACKETS = 6
"""A (direction, size, time) sequence of fewer packets says too little: half of USTC's benign flows have one."""


def sequence_hash(record: Record) -> int | None:
    """Hash of directions, sizes and times in octaves; None for short sequences and for ones without sizes."""
    if len(record.dirs) < LEAST_PACKETS or sum(size > 0 for size in record.sizes) < LEAST_PACKETS // 2:
        return None
    times = [u.iat_bucket(gap) // 3 for gap in record.iats]
    return hash64(array("q", chain.from_iterable(zip(record.dirs, record.sizes, times, strict=True))).tobytes())


def twins(records: Sequence[Record], content: Sequence[int]) -> list[int]:
    """One number for all records that are equal in masked content or in sequence."""
    return joined(content, [sequence_hash(record) for record in records])


def joined(content: Sequence[int], sequences: Sequence[int | None]) -> list[int]:
    """`twins` of records known by their content and sequence hashes."""
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def find(key: tuple[str, int]) -> tuple[str, int]:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for sequence, value in zip(sequences, content, strict=True):
        if sequence is not None:
            a, b = sorted((find(("content", value)), find(("sequence", sequence))))
            parent[b] = a
    return [find(("content", value))[1] for value in content]


def first_of_each(keys: Iterable[Hashable]) -> list[int]:
    """The place of each key's first copy, in order.

    >>> first_of_each(["a", "b", "a"])
    [0, 1]
    """
    first: dict[Hashable, int] = {}
    for k, key in enumerate(keys):
        first.setdefault(key, k)
    return list(first.values())


def duplicates(content: Sequence[int], labels: Sequence[str]) -> dict[str, float]:
    """Share of records that equal another, share that equal one of another label, and the accuracy ceiling.

    The ceiling is what the best possible answer to each content reaches: its commonest label.
    """
    by_content: dict[int, Counter[str]] = defaultdict(Counter)
    for value, label in zip(content, labels, strict=True):
        by_content[value][label] += 1
    n = max(len(content), 1)
    share = sum(sum(c.values()) for c in by_content.values() if sum(c.values()) > 1)
    conflicting = sum(sum(c.values()) for c in by_content.values() if len(c) > 1)
    best = sum(max(c.values()) for c in by_content.values())
    return {"share": round(share / n, 4), "conflicting": round(conflicting / n, 4), "ceiling": round(best / n, 4)}
