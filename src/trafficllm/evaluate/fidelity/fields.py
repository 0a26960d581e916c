"""Fields that real and generated flows are compared on, and the distances between two sets of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from trafficllm.core.types import F64, Record

Values = Iterable[object]
Extract = Callable[[Record], Values]
Quantity = Callable[[Record], Iterable[float]]


def size_class(size: int) -> int:
    """32-byte steps to 2047, then one class: fine enough to part MTUs, coarse enough for 100 flows."""
    return min(size >> 5, 64) + (size > 0) if size >= 0 else -1


def time_class(ns: int) -> int:
    """Octaves of microseconds; 0 below 1 us, -1 unknown."""
    return -1 if ns < 0 else (ns // 1000).bit_length()


def _gaps(record: Record) -> Sequence[int]:
    return [gap for gap in record.iats[1:] if gap >= 0]


def duration(record: Record) -> int:
    """ns between the first and the last packet shown."""
    return sum(_gaps(record))


def _steps(record: Record) -> Values:
    """Transitions: direction, flags and coarse size of a packet, then of the next; begin and end included."""
    states = [(d, f, min(max(s, -1), 2048) >> 8) for d, f, s in zip(record.dirs, record.flags, record.sizes, strict=True)]
    return pairwise(["begin", *states, "end"])


def _service(record: Record) -> Values:
    return [record.ports[1] if record.ports is not None else record.port_class[1:2]]


def _known(values: Sequence[int]) -> Values:
    return [value for value in values if value >= 0]


FIELDS: Mapping[str, Extract] = {
    "proto": lambda r: [(r.proto, r.ip_version)],
    "port": _service,
    "service": lambda r: [r.facts.service],
    "packets": lambda r: [len(r.dirs)],
    "dir": lambda r: r.dirs,
    "length": lambda r: [(d, size_class(s)) for d, s in zip(r.dirs, r.sizes, strict=True)],
    "flags": lambda r: _known(r.flags),
    "ttl": lambda r: _known(r.ttls),
    "window": lambda r: [min(w, 65535).bit_length() for w in r.windows if w >= 0],
    "iat": lambda r: [time_class(gap) for gap in _gaps(r)],
    "duration": lambda r: [time_class(duration(r))],
    "transitions": _steps,
    "payload": lambda r: [(way, at, byte) for way in (0, 1) for at, byte in enumerate(r.payload[way][:16])],
}
"""Field -> its values in one record; a field no record shows is left out of a report."""

CONTINUOUS: Mapping[str, Quantity] = {
    "size": lambda r: [math.log2(1 + s) for s in r.sizes if s >= 0],
    "iat": lambda r: [math.log2(1 + gap / 1000) for gap in _gaps(r)],
    "duration": lambda r: [math.log2(1 + duration(r) / 1000)],
}
"""Quantities compared by earth mover's distance, in octaves (bytes; microseconds)."""


def summed(counters: Sequence[Counter[object]], picked: Sequence[int]) -> Counter[object]:
    """The counters of the picked records added up."""
    total: Counter[object] = Counter()
    for k in picked:
        total.update(counters[k])
    return total


def jsd(one: Mapping[object, int], other: Mapping[object, int]) -> float:
    """Jensen-Shannon divergence in bits, 0 (equal) to 1 (nothing in common); 0 where both are empty, 1 where one is.

    >>> jsd({"a": 1}, {"a": 2}), jsd({"a": 1}, {"b": 1})
    (0.0, 1.0)
    """
    sums = sum(one.values()), sum(other.values())
    if not all(sums):
        return 0.0 if not any(sums) else 1.0
    keys = list(dict.fromkeys((*one, *other)))
    p = np.array([one.get(key, 0) for key in keys]) / sums[0]
    q = np.array([other.get(key, 0) for key in keys]) / sums[1]
    middle = (p + q) / 2
    return float(max(0.0, (_relative(p, middle) + _relative(q, middle)) / 2))


def _relative(p: F64, q: F64) -> float:
    inside = p > 0
    return float(np.sum(p[inside] * np.log2(p[inside] / q[inside])))


def emd(one: Sequence[float], other: Sequence[float]) -> float:
    """Earth mover's distance of two samples on a line: the area between their distribution functions; NaN-free.

    >>> emd([0.0, 1.0], [1.0, 2.0])
    1.0
    """
    if not one or not other:
        return 0.0
    a, b = np.sort(np.asarray(one, dtype=np.float64)), np.sort(np.asarray(other, dtype=np.float64))
    points = np.sort(np.concatenate([a, b]))
    below_a = np.searchsorted(a, points[:-1], side="right") / a.size
    below_b = np.searchsorted(b, points[:-1], side="right") / b.size
    return float(np.sum(np.abs(below_a - below_b) * np.diff(points)))


def pooled(values: Sequence[Sequence[float]], picked: Sequence[int]) -> list[float]:
    """All values of the picked records."""
    return [value for k in picked for value in values[k]]
