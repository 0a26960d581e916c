"""Generators any model has to beat: independent fields, a Bayesian network over packets, resampled training flows."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from trafficllm.core.types import Record

Sampler = Callable[[Sequence[Record], int, int], list[Record]]
_T = TypeVar("_T")


def _column(values: Sequence[int], i: int) -> int:
    return values[i] if i < len(values) else -1


def independent(train: Sequence[Record], n: int, seed: int) -> list[Record]:
    """`n` records whose every field is drawn from its own marginal, packets included: no field knows another."""
    rng = random.Random(seed)
    names = ("dirs", "sizes", "flags", "windows", "ttls")
    pools = {name: [value for record in train for value in getattr(record, name)] or [-1] for name in names}
    gaps = [gap for record in train for gap in record.iats[1:]] or [0]

    def column(name: str, count: int) -> tuple[int, ...]:
        return tuple(rng.choice(pools[name]) for _ in range(count))

    out = []
    for _ in range(n):
        host, ports, orig, resp, long = (rng.choice(train) for _ in range(5))
        count = len(long.dirs)
        out.append(
            replace(
                host,
                ports=ports.ports,
                port_class=ports.port_class,
                facts=rng.choice(train).facts,
                dirs=column("dirs", count),
                sizes=column("sizes", count),
                flags=column("flags", count),
                windows=column("windows", count),
                ttls=column("ttls", count),
                iats=tuple(rng.choice(gaps) if i else 0 for i in range(count)),
                payload=(orig.payload[0], resp.payload[1]),
                hidden=(),
            )
        )
    return out


class _Table:
    """Conditional draws: values seen under a context, all values where the context is new."""

    def __init__(self) -> None:
        self._seen: dict[object, list[int]] = defaultdict(list)
        self._all: list[int] = []

    def see(self, context: object, value: int) -> None:
        self._seen[context].append(value)
        self._all.append(value)

    def draw(self, context: object, rng: random.Random) -> int:
        return rng.choice(self._seen.get(context) or self._all)


def bayes(train: Sequence[Record], n: int, seed: int) -> list[Record]:
    """`n` records from a dynamic Bayesian network fitted by counting.

    All given the protocol: direction given the last direction and flags, flags given both, size given flags and
    direction, gap given the two directions, window and ttl given the direction, end given the number of packets so
    far; headers and payload stay together.
    """
    rng = random.Random(seed)
    tables = {name: _Table() for name in ("dirs", "flags", "sizes", "iats", "windows", "ttls", "more")}
    for record in train:
        _learn(record, tables)
    return [_draw(rng.choice(train), tables, rng) for _ in range(n)]


_BEFORE = (-1, -1)


def _learn(record: Record, tables: dict[str, _Table]) -> None:
    last, root = _BEFORE, record.proto
    for i, way in enumerate(record.dirs):
        flags = _column(record.flags, i)
        tables["dirs"].see((root, last), way)
        tables["flags"].see((root, way, last), flags)
        tables["sizes"].see((root, way, flags), _column(record.sizes, i))
        tables["iats"].see((root, way, last[0]), _column(record.iats, i))
        tables["windows"].see((root, way), _column(record.windows, i))
        tables["ttls"].see((root, way), _column(record.ttls, i))
        tables["more"].see((root, i), int(i + 1 < len(record.dirs)))
        last = (way, flags)


def _draw(host: Record, tables: dict[str, _Table], rng: random.Random) -> Record:
    rows: list[tuple[int, ...]] = []
    last, root = _BEFORE, host.proto
    more = bool(host.dirs)
    limit = 4 * max(len(host.dirs), 32)
    while more and len(rows) < limit:
        way = tables["dirs"].draw((root, last), rng)
        flags = tables["flags"].draw((root, way, last), rng)
        size, gap = tables["sizes"].draw((root, way, flags), rng), tables["iats"].draw((root, way, last[0]), rng)
        window, ttl = tables["windows"].draw((root, way), rng), tables["ttls"].draw((root, way), rng)
        rows.append((way, size, gap if rows else 0, flags, window, ttl))
        more = bool(tables["more"].draw((root, len(rows) - 1), rng))
        last = (way, flags)
    dirs, sizes, iats, flags_column, windows, ttls = (tuple(row[k] for row in rows) for k in range(6))
    return replace(host, dirs=dirs, sizes=sizes, iats=iats, flags=flags_column, windows=windows, ttls=ttls)


def resample(train: Sequence[Record], n: int, seed: int) -> list[Record]:
    """`n` training records with replacement: faithful, and nothing but copies."""
    rng = random.Random(seed)
    return [rng.choice(train) for _ in range(n)]


SAMPLERS: dict[str, Sampler] = {"independent": independent, "bayes": bayes, "resample": resample}


def sample(items: Sequence[_T], n: int, rng: random.Random) -> list[_T]:
    """`n` different items, or all of them shuffled."""
    return rng.sample(list(items), min(n, len(items)))
