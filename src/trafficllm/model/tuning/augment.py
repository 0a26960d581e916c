"""Augmentation of records at tuning time: what a capture could have shown of the same flow.

A row is drawn anew each epoch. Each change keeps the record valid for the codec and never shows what was masked. Pre-training and
augmentation together were what passed the tree models on unseen captures.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from trafficllm.core.types import Facts, Record, Span
from trafficllm.records.codec.canonical import text_bytes

_TCP, _UDP = 6, 17
_SERIES = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
_MOST = 32
"""Packets of a record at most, whatever splitting made of them."""
_WIRE_NS = 12_000
"""What 1,500 bytes take at 1 Gbit/s: the gap between the parts of a segment."""
_CELLS = 5000
"""Cells that are looked at: readers keep no more."""


@dataclass(frozen=True, slots=True)
class Strength:
    """Probabilities of each change, for a record; `iat_octaves` the spread of the time scale, in octaves.

    The second group (from `miss_values`) is what else happens to captures: values that an exporter leaves out, packets lost, other segment
    sizes, IPv6, a capture that shows the first packets only, payload that is encrypted.
    """

    cut_packets: float = 0.3
    drop_ack: float = 0.2
    jitter_iat: float = 0.8
    iat_octaves: float = 0.5
    jitter_size: float = 0.15
    cut_payload: float = 0.3
    drop_payload: float = 0.1
    drop_facts: float = 0.15
    drop_field: float = 0.1
    miss_values: float = 0.2
    lose_packets: float = 0.15
    split_segments: float = 0.1
    other_ip: float = 0.1
    begin_only: float = 0.1
    scramble: float = 0.05
    lose_cells: float = 0.25
    cut_text: float = 0.3


MILD = Strength()


def augment(record: Record, chooser: random.Random, strength: Strength = MILD) -> Record:
    """A changed copy of a flow, cell sequence or HTTP request; a single packet is returned as it is.

    Flows: cuts the packets' tail, drops pure ACKs as capture loss would, scales and jitters times, shifts some sizes by a few bytes,
    cuts or drops payload prefixes, parsed facts and single packet fields; see Strength for what else. Cells: some are lost, times scaled.
    Requests: the end is cut.
    """
    if record.kind == "cells":
        return _cells(record, chooser, strength)
    if record.kind == "http":
        return _cut_text(record, chooser) if chooser.random() < strength.cut_text else record
    if record.kind != "flow" or not record.dirs:
        return record
    changed = _elsewhere(record, chooser, strength)
    if chooser.random() < strength.drop_ack:
        changed = _drop_acks(changed, chooser)
    if chooser.random() < strength.cut_packets and len(changed.dirs) > 3:
        changed = _keep(changed, range(chooser.randint(3, len(changed.dirs) - 1)))
    if chooser.random() < strength.jitter_iat and changed.iats:
        changed = replace(changed, iats=_jitter(changed.iats, chooser, strength.iat_octaves))
    if chooser.random() < strength.jitter_size:
        sizes = tuple(max(1, size + chooser.randint(-4, 4)) if size > 0 else size for size in changed.sizes)
        changed = replace(changed, sizes=sizes)
    if chooser.random() < strength.cut_payload:
        changed = _cut_payload(changed, chooser)
    if chooser.random() < strength.drop_payload:
        changed = replace(changed, payload=(b"", b""), hidden=())
    if chooser.random() < strength.drop_facts:
        changed = replace(changed, facts=Facts(changed.facts.service if chooser.random() < 0.5 else ""))
    if chooser.random() < strength.drop_field:
        changed = _drop_field(changed, chooser)
    if chooser.random() < strength.miss_values:
        changed = _miss_values(changed, chooser)
    return changed


def _elsewhere(record: Record, chooser: random.Random, strength: Strength) -> Record:
    """The flow as another network or capture point would have shown it."""
    changed = record
    if chooser.random() < strength.scramble:
        changed = replace(changed, payload=_random_bytes(changed, chooser), facts=Facts(), hidden=())
    if chooser.random() < strength.split_segments:
        changed = _split(changed, chooser.choice((512, 900, 1000, 1200, 1360, 1400, 1416)))
    if chooser.random() < strength.other_ip and changed.ip_version == 4 and changed.proto in (_TCP, _UDP):
        changed = replace(_split(changed, 1420), ip_version=6)
    if chooser.random() < strength.begin_only and len(changed.dirs) > 1:
        changed = _begin(changed, chooser.randint(1, min(8, len(changed.dirs))))
    elif chooser.random() < strength.lose_packets and len(changed.dirs) > 1:
        changed = _lose(changed, chooser)
    return changed


def _random_bytes(record: Record, chooser: random.Random) -> tuple[bytes, bytes]:
    return chooser.randbytes(len(record.payload[0])), chooser.randbytes(len(record.payload[1]))


def _split(record: Record, most: int) -> Record:
    """TCP segments of more than `most` bytes in several, one behind the other, as a smaller MTU makes them."""
    if record.proto != _TCP or not any(size > most for size in record.sizes):
        return record
    names = [name for name in _SERIES if len(getattr(record, name)) == len(record.dirs)]
    out: dict[str, list[int]] = {name: [] for name in names}
    for place, size in enumerate(record.sizes):
        pieces = [min(most, size - at) for at in range(0, size, most)] if size > most else [size]
        for number, piece in enumerate(pieces):
            for name in names:
                out[name].append(getattr(record, name)[place])
            out["sizes"][-1] = piece
            if number and "iats" in out:
                out["iats"][-1] = _WIRE_NS if record.iats[place] >= 0 else -1
    values: Any = {name: tuple(column[:_MOST]) for name, column in out.items()}
    return replace(record, **values)


def _begin(record: Record, count: int) -> Record:
    """The first `count` packets and the payload they carried, where sizes are known."""
    later = range(count, len(record.dirs))
    return _keep(_payload_until(record, set(later)), range(count))


def _lose(record: Record, chooser: random.Random) -> Record:
    """Some packets lost on the way to the capture point; payload ends at the first hole."""
    rate = 0.1 * chooser.random()
    lost = {place for place in range(len(record.dirs)) if chooser.random() < rate} - {chooser.randrange(len(record.dirs))}
    return _keep(_payload_until(record, lost), [k for k in range(len(record.dirs)) if k not in lost]) if lost else record


def _payload_until(record: Record, lost: set[int]) -> Record:
    """The record with each direction's payload up to its first lost data packet."""
    if len(record.sizes) < len(record.dirs) or -1 in record.sizes:
        return record
    ends, at = [len(record.payload[0]), len(record.payload[1])], [0, 0]
    for place, (direction, size) in enumerate(zip(record.dirs, record.sizes, strict=True)):
        if place in lost and size > 0:
            ends[direction] = min(ends[direction], at[direction])
        at[direction] += max(size, 0)
    return _cut(record, ends)


def _miss_values(record: Record, chooser: random.Random) -> Record:
    """Single values missing: packet fields (-1), facts, and runs of 8 payload bytes, each with one and the same probability."""
    share = 0.3 * chooser.random()
    values: Any = {name: tuple(-1 if chooser.random() < share else value for value in getattr(record, name)) for name in _SERIES[1:]}
    fields = {name: value for name, value in sorted(record.facts.fields.items()) if chooser.random() >= share}
    service = record.facts.service if chooser.random() >= share else ""
    runs = [
        Span(direction, at, min(at + 8, len(data)), "dropout")
        for direction, data in enumerate(record.payload)
        for at in range(0, len(data), 8)
        if chooser.random() < share
    ]
    facts = Facts(service, fields, record.facts.spans)
    return replace(record, **values, facts=facts, hidden=(*record.hidden, *runs))


def _keep(record: Record, kept: range | list[int]) -> Record:
    """The record with some of its packets; the gap before a dropped packet goes to the next kept one."""
    places = list(kept)
    gaps: list[int] = []
    carried = 0
    wanted = set(places)
    for place, gap in enumerate(record.iats):
        carried += max(gap, 0)
        if place in wanted:
            gaps.append(carried if gaps else 0)
            carried = 0

    def pick(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(values[k] for k in places if k < len(values))

    return replace(
        record,
        dirs=pick(record.dirs),
        sizes=pick(record.sizes),
        iats=tuple(gaps) if -1 not in record.iats else pick(record.iats),
        flags=pick(record.flags),
        windows=pick(record.windows),
        ttls=pick(record.ttls),
    )


def _drop_acks(record: Record, chooser: random.Random) -> Record:
    """Drop some packets without payload and flags other than ACK, never the first."""
    if record.proto != _TCP or len(record.sizes) < len(record.dirs) or len(record.flags) < len(record.dirs):
        return record
    bare = [k for k in range(1, len(record.dirs)) if record.sizes[k] == 0 and record.flags[k] == 0x10]
    lost = {k for k in bare if chooser.random() < 0.3}
    return _keep(record, [k for k in range(len(record.dirs)) if k not in lost]) if lost else record


def _jitter(iats: tuple[int, ...], chooser: random.Random, octaves: float) -> tuple[int, ...]:
    scale = chooser.gauss(0.0, octaves)
    return tuple(round(gap * 2 ** (scale + chooser.gauss(0.0, octaves / 3))) if gap > 0 else gap for gap in iats)


def _cut_payload(record: Record, chooser: random.Random) -> Record:
    return _cut(record, [chooser.randint(min(8, len(data)), len(data)) for data in record.payload])


def _cut(record: Record, ends: list[int]) -> Record:
    """The record with that much payload of each direction."""
    hidden = tuple(
        Span(span.dir, span.start, min(span.end, ends[span.dir]), span.kind) for span in record.hidden if span.start < ends[span.dir]
    )
    return replace(record, payload=(record.payload[0][: ends[0]], record.payload[1][: ends[1]]), hidden=hidden)


def _cells(record: Record, chooser: random.Random, strength: Strength) -> Record:
    """A cell sequence as another load of the page could have been seen: up to 3 % of the cells lost, times scaled."""
    changed = replace(record, dirs=record.dirs[:_CELLS], iats=record.iats[:_CELLS], load=())
    if chooser.random() < strength.lose_cells and len(changed.dirs) > 1:
        rate = 0.03 * chooser.random()
        changed = _keep(changed, [0, *(k for k in range(1, len(changed.dirs)) if chooser.random() >= rate)])
    if chooser.random() < strength.jitter_iat and changed.iats:
        changed = replace(changed, iats=_jitter(changed.iats, chooser, strength.iat_octaves))
    return changed


def _cut_text(record: Record, chooser: random.Random) -> Record:
    """An HTTP request whose end a snap length cut off: at least half of its bytes stay."""
    data = text_bytes(record.text)
    end = chooser.randint(len(data) // 2, len(data))
    hidden = tuple(replace(span, end=min(span.end, end)) for span in record.hidden if span.start < end)
    return replace(record, text=data[:end].decode("utf-8", "surrogateescape"), hidden=hidden)


def _drop_field(record: Record, chooser: random.Random) -> Record:
    """Hide one packet field for all packets, as a mask would (-1)."""
    name = chooser.choice(("sizes", "iats", "flags", "windows", "ttls"))
    values: Any = {name: (-1,) * len(getattr(record, name))}
    return replace(record, **values)
