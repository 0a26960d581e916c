"""What training flows of a label had, as small tables that name no endpoint: heads, and the values behind the codec's buckets.

A head is protocol, IP version, service port and number of packets: few values, which counting knows better than a model that has
seen a label a few hundred times. The codec keeps windows in octaves, TTLs in classes and gaps in thirds of an octave; a capture of
bucket middles is told from a real one at a glance (every third gap 80.635 us).
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trafficllm.core.types import Facts, Record
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import DEFAULT, TCP, filled
from trafficllm.records.codec.codec import END, PROTO_UNITS, encode

_SYN = 0x02
ATTEMPT = 4_900_000_000
"""ns after which a connection attempt without answer ends for readers (5 s, Zeek's tcp_attempt_delay)."""
MOST = 12
"""Values kept a bucket: the commonest."""
Table = Mapping[str, Any]
"""Field ("windows", "ttls", "gaps") -> bucket number as text -> [value, count] pairs, gaps in nanoseconds;
"heads" -> [units up to the first packet, packets, count]; "next" -> context -> [window, count]."""


def learnt(records: Sequence[Record]) -> dict[str, Any]:
    """The table of one label's training records, with exact windows and TTLs (`records.view`)."""
    seen: dict[str, dict[int, Counter[int]]] = {name: defaultdict(Counter) for name in ("windows", "ttls", "gaps")}
    for record in records:
        for window in record.windows:
            if window >= 0:
                seen["windows"][u.window_bucket(min(window, 65535))][min(window, 65535)] += 1
        for ttl in record.ttls:
            if ttl >= 0:
                seen["ttls"][u.ttl_bucket(min(ttl, 255))][min(ttl, 255)] += 1
        for gap in record.iats[1:]:
            if gap >= 0:
                seen["gaps"][u.iat_bucket(gap)][gap] += 1
    tables: dict[str, Any] = {
        name: {str(bucket): [list(pair) for pair in _even(counts, name)] for bucket, counts in sorted(buckets.items())}
        for name, buckets in seen.items()
    }
    return {**tables, "heads": _heads(records), "next": _chain(records)}


def _contexts(way: int, flags: int, before: int) -> tuple[str, str]:
    """What a window depends on, exact and coarse: direction, SYN or not, the window before (-1: none)."""
    kind = f"{way}{'s' if flags >= 0 and flags & _SYN else 'd'}"
    return f"{kind}{before}", f"{kind}b{u.window_bucket(before) if before >= 0 else -1}"


def _chain(records: Sequence[Record]) -> dict[str, list[list[int]]]:
    """Context -> [window, count]: how windows go on from packet to packet."""
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    for record in records:
        last = [-1, -1]
        for way, flags, window in zip(record.dirs, record.flags, record.windows, strict=True):
            if window < 0:
                continue
            for context in _contexts(way, flags, last[way]):
                seen[context][window] += 1
            last[way] = window
    often = (item for item in sorted(seen.items()) if item[1].total() > 1)
    return {context: [list(pair) for pair in sorted(counts.most_common(MOST))] for context, counts in often}


def _heads(records: Sequence[Record]) -> list[list[Any]]:
    counts: Counter[tuple[str, int]] = Counter()
    for record in records:
        if record.dirs and record.proto in PROTO_UNITS:
            bare = replace(record, dirs=(), facts=Facts(), payload=(b"", b""), hidden=())
            counts[encode(bare).removesuffix(END), min(len(record.dirs), DEFAULT.packets)] += 1
    return [[units, packets, count] for (units, packets), count in sorted(counts.items())]


def head(table: Table, rng: random.Random) -> tuple[str, int]:
    """A head as often as it was seen: its units, and how many packets follow; ("", 0) where the table has none."""
    rows = table.get("heads")
    if not rows:
        return "", 0
    units, packets, _ = rng.choices(rows, [row[2] for row in rows])[0]
    return str(units), int(packets)


def _even(counts: Counter[int], name: str) -> list[tuple[int, int]]:
    """The commonest values; of gaps, which rarely repeat, evenly spaced ones."""
    if name != "gaps" or len(counts) <= MOST:
        return sorted(counts.most_common(MOST))
    values = sorted(counts.elements())
    return sorted(Counter(values[(2 * k + 1) * len(values) // (2 * MOST)] for k in range(MOST)).items())


def drawn(record: Record, table: Table, rng: random.Random) -> Record:
    """A decoded record with buckets' values replaced by real ones; where the table has none, by any of the bucket (gaps) or kept.

    A direction's TTL stays what it is for as long as its bucket does. Windows follow the label's counts from packet to packet: window
    units beyond the three that `strict` shows were never trained in the embedded base, and their frozen embeddings differ too little
    for an adapter to part them (JSD .63 to .75 on World of Warcraft, whatever the training).
    """
    n = len(record.dirs)
    return replace(
        record,
        windows=_windows(record, n, table, rng),
        ttls=_carried(record, filled(record.ttls, n), u.ttl_bucket, table.get("ttls", {}), rng),
        iats=_answered(record, [_gap(gap, table.get("gaps", {}), rng) if i else gap for i, gap in enumerate(filled(record.iats, n))]),
    )


def _answered(record: Record, gaps: list[int]) -> tuple[int, ...]:
    """Gaps, shortened where a SYN is repeated for so long without an answer that readers would give the attempt up."""
    left = ATTEMPT
    for i, way in enumerate(record.dirs):
        if way or record.proto != TCP:
            break
        gaps[i] = min(gaps[i], max(left // 2, 0)) if gaps[i] >= left else gaps[i]
        left -= max(gaps[i], 0)
    return tuple(gaps)


def _windows(record: Record, n: int, table: Table, rng: random.Random) -> tuple[int, ...]:
    told = _carried(record, filled(record.windows, n), u.window_bucket, table.get("windows", {}), rng)
    chain: Mapping[str, Sequence[Sequence[int]]] = table.get("next", {})
    last = [-1, -1]
    out = []
    for way, flags, window in zip(record.dirs, filled(record.flags, n), told, strict=True):
        rows = next((chain[context] for context in _contexts(way, flags, last[way]) if context in chain), None)
        last[way] = _one(rows, rng, window) if window >= 0 else last[way]
        out.append(last[way] if window >= 0 else -1)
    return tuple(out)


def _carried(record: Record, values: Sequence[int], bucket_of: Any, table: Mapping[str, Any], rng: random.Random) -> tuple[int, ...]:
    now: list[tuple[int, int]] = [(-1, -1), (-1, -1)]
    out = []
    for way, value in zip(record.dirs, values, strict=True):
        if value >= 0 and now[way][0] != value:
            now[way] = value, _one(table.get(str(bucket_of(value))), rng, value)
        out.append(now[way][1] if value >= 0 else -1)
    return tuple(out)


def _gap(gap: int, table: Mapping[str, Any], rng: random.Random) -> int:
    """A real gap of the bucket, moved a little: 5 % either way, within the bucket."""
    if gap < 0:
        return gap
    bucket = u.iat_bucket(gap)
    low = u.IAT_BOUNDS[bucket]
    high = u.IAT_BOUNDS[bucket + 1] - 1 if bucket + 1 < len(u.IAT_BOUNDS) else low
    anywhere = round(math.exp(rng.uniform(math.log(max(low, 1)), math.log(max(high, 1)))))
    value = _one(table.get(str(bucket)), rng, anywhere)
    return min(max(round(value * rng.uniform(0.95, 1.05)), low), high)


def _one(pairs: Sequence[Sequence[int]] | None, rng: random.Random, otherwise: int) -> int:
    if not pairs:
        return otherwise
    return int(rng.choices([pair[0] for pair in pairs], [pair[1] for pair in pairs])[0])
