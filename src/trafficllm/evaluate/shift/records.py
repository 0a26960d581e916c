"""Traffic as it would look elsewhere: functions from a raw Record to a Record, each by itself deterministic.

The random choices for a record follow from its content and the seed, not from its place in a list. Apply to raw
records, then mask: what a mask hides cannot matter then. Where payload changes, its facts are parsed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from trafficllm.capture.facts.flow_facts import facts_of
from trafficllm.core.files import hash64
from trafficllm.core.types import ORIG, RESP, Facts, Record, Span
from trafficllm.records.codec.canonical import filled, port_class
from trafficllm.records.masks import table

Shift: TypeAlias = Callable[[Record], Record]
Change: TypeAlias = Callable[[Record, np.random.Generator], Record]

MOST_PACKETS = 32
_TCP = 6
_COLUMNS = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
_PORT_RANGES = {"w": (1, 1024), "r": (1024, 49152), "e": (49152, 65536)}
_BINARY = frozenset(
    {"tls.random", "tls.session_id", "tls.key_share", "tls.ticket", "dns.id", "dns.address", "encrypted", "address", "key_exchange"}
)
_KEPT_SPANS = frozenset({"encrypted", "http.uri", "query", "content"})


def seeded(change: Change, seed: int) -> Shift:
    """A Record -> Record function whose generator is seeded by the record's content and `seed`."""

    def shifted(record: Record) -> Record:
        key = hash64(repr((seed, record.sizes, record.iats, record.payload, record.text)).encode())
        return change(record, np.random.default_rng(key))

    return shifted


def _columns(record: Record) -> dict[str, list[int]]:
    n = len(record.dirs)
    return {name: list(filled(getattr(record, name), n)) for name in _COLUMNS}


def _with_columns(record: Record, columns: dict[str, list[int]]) -> Record:
    """A flow keeps as many packets as a reader stores; a cell sequence is as long as it is, and of directions and times alone."""
    if record.kind == "cells":
        return dataclasses.replace(record, dirs=tuple(columns["dirs"]), iats=tuple(columns["iats"]), load=())
    cut: dict[str, Any] = {name: tuple(values[:MOST_PACKETS]) for name, values in columns.items()}
    return dataclasses.replace(record, **cut)


def _with_payload(record: Record, payload: tuple[bytes, bytes]) -> Record:
    """New payload, its facts parsed anew; masked spans are cut to what is left."""
    if payload == record.payload:
        return record
    ends = (len(payload[ORIG]), len(payload[RESP]))
    hidden = tuple(dataclasses.replace(s, end=min(s.end, ends[s.dir])) for s in record.hidden if s.start < ends[s.dir])
    facts = facts_of(record.proto, *(record.ports or (0, 0)), *payload)
    own = tuple(s for s in record.facts.spans if s.kind == "address" and s.end <= ends[s.dir])
    return dataclasses.replace(record, payload=payload, hidden=hidden, facts=dataclasses.replace(facts, spans=facts.spans + own))


def _letters(rng: np.random.Generator, size: int) -> bytes:
    return bytes((rng.integers(0, 26, size) + 97).astype(np.uint8))


def _overwrite(record: Record, spans: Sequence[Span], rng: np.random.Generator) -> Record:
    """Spans replaced by random bytes of equal length: letters for names, anything for binary fields."""
    parts = [bytearray(record.payload[ORIG]), bytearray(record.payload[RESP])]
    for span in spans:
        size = min(span.end, len(parts[span.dir])) - span.start
        if size > 0:
            fresh = rng.bytes(size) if span.kind in _BINARY else _letters(rng, size)
            parts[span.dir][span.start : span.start + size] = fresh
    return dataclasses.replace(record, payload=(bytes(parts[0]), bytes(parts[1])))


def _port(port: int, rng: np.random.Generator) -> int:
    return int(rng.integers(*_PORT_RANGES[port_class(port)]))


def _forge(record: Record, rng: np.random.Generator) -> Record:
    names = {"address", *(row.name for row in table() if row.span and "strict" in row.profiles)} - _KEPT_SPANS
    record = _overwrite(record, [s for s in record.facts.spans if s.kind in names], rng)
    ttl, scale = rng.integers(32, 256, 2), rng.uniform(0.25, 4.0)
    return dataclasses.replace(
        record,
        ports=None if record.ports is None else (_port(record.ports[0], rng), _port(record.ports[1], rng)),
        ttls=tuple(int(ttl[d]) if t >= 0 else t for t, d in zip(record.ttls, record.dirs, strict=False)),
        windows=tuple(min(int(w * scale) + 1, 65535) if w > 0 else w for w in record.windows),
    )


def forge(seed: int = 0) -> Shift:
    """Identifiers and set-up marks rewritten: ports within their class, TTLs, window scale, names, ids and randoms.

    Addresses, absolute time, link type and sequence numbers are not part of a record; nothing need be forged there.
    """
    return seeded(_forge, seed)


def random_payload(seed: int = 0, *, everything: bool = False) -> Shift:
    """Encrypted payload, or with `everything` all payload, replaced by random bytes of equal length."""

    def change(record: Record, rng: np.random.Generator) -> Record:
        if not everything:
            return _overwrite(record, [s for s in record.facts.spans if s.kind == "encrypted"], rng)
        fresh = (rng.bytes(len(record.payload[ORIG])), rng.bytes(len(record.payload[RESP])))
        return dataclasses.replace(record, payload=fresh, facts=Facts(), hidden=())

    return seeded(change, seed)


def field_dropout(share: float = 0.15, seed: int = 0) -> Shift:
    """Each value of a record missing with probability `share`: packet fields, facts, and payload in runs of 8 bytes."""

    def change(record: Record, rng: np.random.Generator) -> Record:
        columns = _columns(record)
        for name in _COLUMNS[1:]:
            gone = rng.random(len(record.dirs)) < share
            columns[name] = [-1 if out else v for v, out in zip(columns[name], gone, strict=True)]
        shown = {name: value for name, value in sorted(record.facts.fields.items()) if rng.random() >= share}
        service = record.facts.service if rng.random() >= share else ""
        runs = [
            Span(d, at, at + 8, "dropout")
            for d in (ORIG, RESP)
            for at in range(0, len(record.payload[d]) or len(record.text), 8)
            if (d == ORIG or not record.text) and rng.random() < share
        ]
        facts = Facts(service, shown, record.facts.spans)
        return dataclasses.replace(_with_columns(record, columns), facts=facts, hidden=(*record.hidden, *runs))

    return seeded(change, seed)


def _keep(record: Record, rows: Sequence[int]) -> Record:
    """Some packets; the gaps of those left out go to the next one that stays."""
    columns = _columns(record)
    times = np.cumsum([max(gap, 0) for gap in columns["iats"]])
    out = {name: [values[i] for i in rows] for name, values in columns.items()}
    out["iats"] = [int(times[i] - times[rows[k - 1]]) if k else 0 for k, i in enumerate(rows)]
    return _with_columns(record, out)


def _payload_until(record: Record, lost: Sequence[int]) -> tuple[bytes, bytes]:
    """Payload up to the first lost data packet of each direction: reassembly stops at a hole."""
    reach = [len(record.payload[ORIG]), len(record.payload[RESP])]
    at = [0, 0]
    missing = set(lost)
    for i, (d, size) in enumerate(zip(record.dirs, filled(record.sizes, len(record.dirs)), strict=True)):
        if i in missing and size > 0:
            reach[d] = min(reach[d], at[d])
        at[d] += max(size, 0)
    return record.payload[ORIG][: reach[ORIG]], record.payload[RESP][: reach[RESP]]


def packet_loss(share: float = 0.05, seed: int = 0) -> Shift:
    """Each packet lost on the way to the capture point with probability `share`; one always stays."""

    def change(record: Record, rng: np.random.Generator) -> Record:
        lost = np.flatnonzero(rng.random(len(record.dirs)) < share).tolist()
        rows = [i for i in range(len(record.dirs)) if i not in set(lost)] or [0][: len(record.dirs)]
        return _keep(_with_payload(record, _payload_until(record, lost)), rows)

    return seeded(change, seed)


def reordering(share: float = 0.05, seed: int = 0) -> Shift:
    """Neighbouring packets change places with probability `share`; arrival times stay, reassembly is unharmed."""

    def change(record: Record, rng: np.random.Generator) -> Record:
        columns = _columns(record)
        i = 0
        while i + 1 < len(record.dirs):
            if rng.random() < share:
                for name in _COLUMNS:
                    if name != "iats":
                        columns[name][i], columns[name][i + 1] = columns[name][i + 1], columns[name][i]
                i += 1
            i += 1
        return _with_columns(record, columns)

    return seeded(change, seed)


def delay_jitter(spread: float = 0.5, seed: int = 0) -> Shift:
    """Gaps multiplied by log-normal noise of this spread (natural log)."""

    def change(record: Record, rng: np.random.Generator) -> Record:
        noise = np.exp(rng.normal(0.0, spread, len(record.iats)))
        iats = tuple(int(gap * by) if gap > 0 else gap for gap, by in zip(record.iats, noise, strict=True))
        return dataclasses.replace(record, iats=iats)

    return seeded(change, seed)


def mtu(payload: int = 1000) -> Shift:
    """TCP segments of more than `payload` bytes split into several, 12 us apart (1,500 bytes at 1 Gbit/s)."""

    def shifted(record: Record) -> Record:
        if record.kind != "flow" or record.proto != _TCP:
            return record
        columns = _columns(record)
        out: dict[str, list[int]] = {name: [] for name in _COLUMNS}
        for i, size in enumerate(columns["sizes"]):
            pieces = [payload] * (size // payload) + [size % payload] * (size % payload > 0) if size > payload else [size]
            for k, piece in enumerate(pieces):
                for name in _COLUMNS:
                    out[name].append(columns[name][i])
                out["sizes"][-1] = piece
                out["iats"][-1] = 12_000 if k else columns["iats"][i]
        return _with_columns(record, out)

    return shifted


def first_packets(count: int) -> Shift:
    """Only the first `count` packets, and the payload that they carried."""

    def shifted(record: Record) -> Record:
        later = list(range(count, len(record.dirs)))
        cut = _with_payload(record, _payload_until(record, later))
        return _keep(cut, range(min(count, len(record.dirs))))

    return shifted


def snap_length(size: int = 96) -> Shift:
    """Frames captured to `size` bytes: payload ends at the first packet that does not fit (Ethernet, no options)."""

    def shifted(record: Record) -> Record:
        header = 14 + (40 if record.ip_version == 6 else 20) + (20 if record.proto == 6 else 8)
        room = max(size - header, 0)
        reach, at, open_ = [0, 0], [0, 0], [True, True]
        for d, length in zip(record.dirs, filled(record.sizes, len(record.dirs)), strict=True):
            if open_[d]:
                reach[d] = at[d] + min(max(length, 0), room)
                open_[d] = length <= room
            at[d] += max(length, 0)
        return _with_payload(record, (record.payload[ORIG][: reach[ORIG]], record.payload[RESP][: reach[RESP]]))

    return shifted


def _nat(record: Record, rng: np.random.Generator) -> Record:
    ports = record.ports and (int(rng.integers(1024, 65536)), record.ports[1])
    return dataclasses.replace(record, ports=ports, ttls=tuple(max(t - 1, 1) if t >= 0 else t for t in record.ttls))


def nat(seed: int = 0) -> Shift:
    """Behind a translator: another originator port, one hop more."""
    return seeded(_nat, seed)


def ipv6(record: Record) -> Record:
    """The same conversation over IPv6, where 20 bytes less fit into a packet; ICMP stays as it is."""
    if record.ip_version != 4 or record.proto not in {6, 17}:
        return record
    return dataclasses.replace(mtu(1420)(record), ip_version=6)


def vlan(record: Record) -> Record:
    """Behind a VLAN tag: a record shows nothing of it, lengths are those of the IP packet."""
    return record


def perturbations(seed: int = 0) -> dict[str, Shift]:
    """The shifts that `evaluate robust` reports, by name."""
    return {
        "field_dropout_15": field_dropout(0.15, seed),
        "packet_loss_5": packet_loss(0.05, seed),
        "reordering_5": reordering(0.05, seed),
        "delay_jitter": delay_jitter(0.5, seed),
        "mtu_1000": mtu(1000),
        "snap_96": snap_length(96),
        **{f"first_{count}": first_packets(count) for count in (1, 2, 4, 8)},
        "vlan": vlan,
        "gre": mtu(1416),
        "ipv6": ipv6,
        "nat": nat(seed),
        "forge": forge(seed),
        "random_payload": random_payload(seed),
    }
