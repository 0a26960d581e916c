"""Augmentation of records at tuning time: what a capture could have shown of the same flow.

A row is drawn anew each epoch. Each change keeps the record valid for the codec and never shows what was masked. Pre-training and
augmentation together were what passed the tree models on unseen captures.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Any

from trafficllm.core.types import Facts, Record, Span
from trafficllm.records.byte_classes import classes
from trafficllm.records.codec.canonical import text_bytes

_TCP, _UDP = 6, 17
_SERIES = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
_MOST = 32
"""Packets of a record at most, whatever splitting made of them."""
_WIRE_NS = 12_000
"""What 1,500 bytes take at 1 Gbit/s: the gap between the parts of a segment."""
_CELLS = 5000
"""Cells that are looked at: readers keep no more."""
_MASKED_PLACES = {
    "flags_first": ("flags", 0),
    "size_first": ("sizes", 0),
    "size_last": ("sizes", -1),
    "iat_first": ("iats", 1),
    "iat_second": ("iats", 2),
    "iat_third": ("iats", 3),
}
"""Masks of one packet's value, by the mask's name: the packet that stands there is another once packets are missing."""
_HEADER = re.compile(rb"(?<=\n)[A-Za-z-]{2,40}: ?([^\r\n\0]{1,120})")


@dataclass(frozen=True, slots=True)
class Strength:
    """Probabilities of each change, for a record; `iat_octaves` the spread of the time scale, in octaves.

    The second group (from `miss_values`) is what else happens to captures: values that an exporter leaves out, packets lost, other segment
    sizes, IPv6, a capture that shows the first packets only, payload that is encrypted. The third (from `miss_begin`): a flow that began
    before its capture, an address translator's port, other windows, other software's header values, addresses in payload that no mask
    recognises. Chosen on validation of malware families and applications: behind a translator malware loses .03 macro-F1 instead of
    .12. One or two packets from anywhere in a flow, and exact snap lengths, did not pay.
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
    miss_begin: float = 0.05
    translate: float = 0.15
    other_windows: float = 0.1
    other_headers: float = 0.1
    show_address: float = 0.1


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
    changed = _other_host(record, chooser, strength)
    if chooser.random() < strength.scramble:
        changed = replace(changed, payload=_random_bytes(changed, chooser), facts=Facts(), hidden=())
    if chooser.random() < strength.split_segments:
        changed = _split(changed, chooser.choice((512, 900, 1000, 1200, 1360, 1400, 1416)))
    if chooser.random() < strength.other_ip and changed.ip_version == 4 and changed.proto in (_TCP, _UDP):
        changed = replace(_split(changed, 1420), ip_version=6)
    if chooser.random() < strength.begin_only and len(changed.dirs) > 1:
        changed = _begin(changed, chooser.randint(1, min(8, len(changed.dirs))))
    elif chooser.random() < strength.miss_begin and len(changed.dirs) > 1:
        changed = _miss_begin(changed, chooser.randint(1, min(4, len(changed.dirs) - 1)))
    elif chooser.random() < strength.lose_packets and len(changed.dirs) > 1:
        changed = _lose(changed, chooser)
    return changed


def _other_host(record: Record, chooser: random.Random, strength: Strength) -> Record:
    """The flow between hosts whose set-up is another: the originator's port, windows, header values, addresses in payload."""
    changed = record
    if chooser.random() < strength.translate and changed.port_class[:1] in ("r", "e"):
        changed = replace(changed, port_class=chooser.choice("re") + changed.port_class[1:])
    if chooser.random() < strength.other_windows and "window_value" in changed.masked:
        changed = replace(changed, windows=_other_windows(changed, chooser))
    if chooser.random() < strength.other_headers:
        changed = replace(changed, payload=(_other_headers(changed, 0, chooser), _other_headers(changed, 1, chooser)))
    if chooser.random() < strength.show_address and any(span.kind == "address" for span in changed.hidden):
        changed = _show_addresses(changed, chooser)
    return changed


def _other_windows(record: Record, chooser: random.Random) -> tuple[int, ...]:
    """Window classes of one direction as another scale makes them: some small ones full, or some full ones small."""
    direction, wanted, share = chooser.randint(0, 1), chooser.choice((1, 65535)), chooser.random()
    moved = [d == direction and chooser.random() < share for d in record.dirs]
    return tuple(wanted if value > 0 and move else value for value, move in zip(record.windows, moved, strict=False))


def _other_headers(record: Record, end: int, chooser: random.Random) -> bytes:
    """One direction's payload with the values of HTTP headers written by other software: letters of equal length."""
    data = record.payload[end]
    if b"\r\n" not in data:
        return data
    hidden = [(span.start, span.end) for span in record.hidden if span.dir == end]
    out = bytearray(data)
    for header in _HEADER.finditer(data):
        at, to = header.span(1)
        if chooser.random() < 0.7 and all(to <= start or stop <= at for start, stop in hidden):
            out[at:to] = bytes(chooser.randrange(97, 123) for _ in range(to - at))
    return bytes(out)


def _show_addresses(record: Record, chooser: random.Random) -> Record:
    """Addresses in payload replaced by bytes that are nobody's address, so that no mask hides them."""
    parts = [bytearray(part) for part in record.payload]
    for span in record.hidden:
        size = min(span.end, len(parts[span.dir])) - span.start
        if span.kind == "address" and size > 0:
            parts[span.dir][span.start : span.start + size] = classes(chooser.randbytes(size))
    hidden = tuple(span for span in record.hidden if span.kind != "address")
    return replace(record, payload=(bytes(parts[0]), bytes(parts[1])), hidden=hidden)


def _miss_begin(record: Record, count: int) -> Record:
    """A flow whose first `count` packets came before the capture began. What follows in the payload is of no known protocol, so it is
    shown as classes of bytes; where sizes are not known nothing of it is left. Its originator is who is seen first, unless a well-known
    port tells the responder."""
    starts = [0, 0]
    told = len(record.sizes) == len(record.dirs) and -1 not in record.sizes
    for direction, size in zip(record.dirs[:count], record.sizes[:count], strict=False):
        starts[direction] += max(size, 0)
    rest = _keep(record, range(count, len(record.dirs)))
    turn = bool(rest.dirs[0]) and rest.port_class[1:] != "w"
    if told and starts == [0, 0]:
        return _turned(rest) if turn else rest
    parts = [classes(data[start:]) if told else b"" for data, start in zip(record.payload, starts, strict=True)]
    hidden = tuple(
        Span(span.dir, max(span.start - starts[span.dir], 0), span.end - starts[span.dir], span.kind)
        for span in record.hidden
        if told and span.end > starts[span.dir]
    )
    rest = replace(rest, payload=(parts[0], parts[1]), hidden=hidden, facts=Facts())
    return _turned(rest) if turn else rest


def _turned(record: Record) -> Record:
    """The flow with its ends exchanged."""
    return replace(
        record,
        dirs=tuple(1 - direction for direction in record.dirs),
        port_class=record.port_class[::-1],
        payload=record.payload[::-1],
        hidden=tuple(replace(span, dir=1 - span.dir) for span in record.hidden),
        facts=Facts() if record.facts.service else record.facts,
    )


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
    carried, told = 0, True
    wanted = set(places)
    for place, gap in enumerate(record.iats):
        carried, told = carried + max(gap, 0), told and gap >= 0
        if place in wanted:
            gaps.append((carried if told else -1) if gaps else min(record.iats[0], 0))
            carried, told = 0, True

    def pick(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(values[k] for k in places if k < len(values))

    names = ("dirs", "sizes", "flags", "windows", "ttls")
    values: Any = {name: pick(getattr(record, name)) for name in names}
    return _masked_again(replace(record, **values, iats=tuple(gaps)))


def _masked_again(record: Record) -> Record:
    """The record with the values hidden that masks of single packets hide, where other packets stand there now."""
    values: dict[str, list[int]] = {}
    for mask, (name, place) in _MASKED_PLACES.items():
        column = values.setdefault(name, list(getattr(record, name))) if mask in record.masked else []
        if -len(column) <= place < len(column):
            column[place] = -1
    changed: Any = {name: tuple(column) for name, column in values.items()}
    return replace(record, **changed) if changed else record


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
