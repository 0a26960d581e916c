"""What stands behind a bucket: the windows, TTLs and gaps that training flows of a label really had.

The codec keeps windows in octaves, TTLs in classes and gaps in thirds of an octave. A capture of bucket middles is told from a real
one at a glance (every third gap 80.635 us), so generated flows draw from these small tables, which name no endpoint.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trafficllm.core.types import Record
from trafficllm.records import units as u
from trafficllm.records.canonical import filled

MOST = 12
"""Values kept a bucket: the commonest."""
Table = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]
"""Field ("windows", "ttls", "gaps") -> bucket number as text -> [value, count] pairs; gaps in nanoseconds."""


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
    return {
        name: {str(bucket): [list(pair) for pair in _even(counts, name)] for bucket, counts in sorted(buckets.items())}
        for name, buckets in seen.items()
    }


def _even(counts: Counter[int], name: str) -> list[tuple[int, int]]:
    """The commonest values; of gaps, which rarely repeat, evenly spaced ones."""
    if name != "gaps" or len(counts) <= MOST:
        return sorted(counts.most_common(MOST))
    values = sorted(counts.elements())
    return sorted(Counter(values[(2 * k + 1) * len(values) // (2 * MOST)] for k in range(MOST)).items())


def drawn(record: Record, table: Table, rng: random.Random) -> Record:
    """A decoded record with buckets' values replaced by real ones; where the table has none, by any of the bucket (gaps) or kept.

    A direction's window and TTL stay what they are for as long as their bucket does.
    """
    n = len(record.dirs)
    return replace(
        record,
        windows=_carried(record, filled(record.windows, n), u.window_bucket, table.get("windows", {}), rng),
        ttls=_carried(record, filled(record.ttls, n), u.ttl_bucket, table.get("ttls", {}), rng),
        iats=tuple(_gap(gap, table.get("gaps", {}), rng) if i else gap for i, gap in enumerate(filled(record.iats, n))),
    )


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
