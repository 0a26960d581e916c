"""What a shift does to the packets of one flow: loss, order, times, segments, addresses, protocol version, identifiers."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

import numpy as np

from trafficllm.capture.checksum import internet, transport
from trafficllm.capture.flows.conn import likely_servers
from trafficllm.core.types import ORIG, RESP, U8
from trafficllm.evaluate.shift.wire import Change, Flow, Frame, Packet, ethernet, gre, marked, snapped, vlan
from trafficllm.records.codec.canonical import port_class

_TCP, _UDP = 6, 17
_SUM = {_TCP: 16, _UDP: 6}
_RANGES = {"w": (1, 1024), "r": (1024, 49152), "e": (49152, 65536)}
_GAP = 12_000
"""Nanoseconds between two segments that one became: 1,500 bytes at 1 Gbit/s."""


def _word(ip: bytes, at: int) -> int:
    return int.from_bytes(ip[at : at + 2], "big")


def _put(ip: bytearray, at: int, value: bytes) -> None:
    if at >= 0 and at + len(value) <= len(ip):
        ip[at : at + len(value)] = value


def _hosts(ip: bytes) -> tuple[slice, slice]:
    return (slice(12, 16), slice(16, 20)) if ip[0] >> 4 == 4 else (slice(8, 24), slice(24, 40))


def sealed(packet: Packet, ip: bytearray) -> Packet:
    """The packet with these bytes, its checksums made anew where all of it was captured."""
    version = ip[0] >> 4
    if version == 4:
        header = 4 * (ip[0] & 15)
        ip[10:12] = b"\0\0"
        ip[10:12] = internet(ip[:header]).to_bytes(2, "big")
    at = packet.l4 + _SUM.get(packet.proto, 0)
    fragment = version == 4 and _word(bytes(ip), 6) & 0x3FFF
    if packet.l4 >= 0 and packet.proto in _SUM and len(ip) >= packet.length and not fragment and at + 2 <= len(ip):
        source, target = _hosts(bytes(ip))
        ip[at : at + 2] = b"\0\0"
        value = transport(version, ip[source], ip[target], packet.proto, ip[packet.l4 : packet.length])
        ip[at : at + 2] = value.to_bytes(2, "big")
    return dataclasses.replace(packet, ip=bytes(ip))


def same(flow: Flow, _: np.random.Generator) -> Flow:
    """Nothing changed: what taking flows out and reading them again does by itself."""
    return flow


def loss(share: float = 0.05) -> Change:
    """Each packet lost before the capture point with probability `share`; one always stays."""

    def change(flow: Flow, rng: np.random.Generator) -> Flow:
        left = [packet for packet, gone in zip(flow, rng.random(len(flow)) < share, strict=True) if not gone]
        return left or flow[:1]

    return change


def reordering(share: float = 0.05) -> Change:
    """Neighbouring packets change places with probability `share`; the times of arrival stay."""

    def change(flow: Flow, rng: np.random.Generator) -> Flow:
        order, i = list(range(len(flow))), 0
        while i + 1 < len(order):
            if rng.random() < share:
                order[i], order[i + 1] = order[i + 1], order[i]
                i += 1
            i += 1
        return [dataclasses.replace(flow[k], ts=flow[place].ts) for place, k in enumerate(order)]

    return change


def jitter(spread: float = 0.5) -> Change:
    """Gaps multiplied by log-normal noise of this spread (natural log)."""

    def change(flow: Flow, rng: np.random.Generator) -> Flow:
        out, ts = flow[:1], flow[0].ts
        for before, packet, by in zip(flow, flow[1:], np.exp(rng.normal(0.0, spread, len(flow) - 1)), strict=False):
            ts += int(max(packet.ts - before.ts, 0) * by)
            out.append(dataclasses.replace(packet, ts=ts))
        return out

    return change


def first(count: int) -> Change:
    """Only the first packets of a flow."""
    return lambda flow, _: flow[:count]


def segmented(size: int = 1000) -> Change:
    """TCP segments of more than `size` payload bytes split into several, as a smaller MTU would."""

    def change(flow: Flow, _: np.random.Generator) -> Flow:
        return [piece for packet in flow for piece in _pieces(packet, size)]

    return change


def _pieces(packet: Packet, size: int) -> Iterator[Packet]:
    if packet.proto != _TCP or packet.data <= size or packet.l4 < 0 or packet.payload > len(packet.ip):
        yield packet
        return
    head, body = packet.ip[: packet.payload], packet.ip[packet.payload :]
    seq = int.from_bytes(head[packet.l4 + 4 : packet.l4 + 8], "big")
    for number, at in enumerate(range(0, packet.data, size)):
        part = min(size, packet.data - at)
        ip = bytearray(head + body[at : at + part])
        _put(ip, packet.l4 + 4, ((seq + at) & 0xFFFFFFFF).to_bytes(4, "big"))
        if at + part < packet.data:
            ip[packet.l4 + 13] &= ~0x09  # FIN and PSH belong to the last one
        length = packet.payload + part
        _put(ip, 2 if packet.version == 4 else 4, (length if packet.version == 4 else length - 40).to_bytes(2, "big"))
        yield sealed(dataclasses.replace(packet, ts=packet.ts + number * _GAP, length=length), ip)


def nat(flow: Flow, rng: np.random.Generator) -> Flow:
    """Behind a translator: another originator address (RFC 5737) and port, one hop more."""
    host, port = bytes([203, 0, 113, int(rng.integers(1, 255))]), int(rng.integers(1024, 65536)).to_bytes(2, "big")
    out = []
    for packet in flow:
        ip = bytearray(packet.ip)
        if packet.version == 4:
            _put(ip, 12 if packet.dir == ORIG else 16, host)
            ip[8] = max(ip[8] - 1, 1)
        if packet.l4 >= 0 and packet.proto in _SUM:
            _put(ip, packet.l4 + (0 if packet.dir == ORIG else 2), port)
        out.append(sealed(packet, ip))
    return out


def ipv6(flow: Flow, rng: np.random.Generator) -> Flow:
    """The same conversation over IPv6 (2001:db8::/96), where 20 bytes less fit; ICMP and fragments stay as they are."""
    if any(p.version != 4 or p.proto not in _SUM or p.l4 < 0 or _word(p.ip, 6) & 0x3FFF for p in flow):
        return flow
    return [_as_ipv6(packet) for packet in segmented(1420)(flow, rng)]


def _as_ipv6(packet: Packet) -> Packet:
    prefix, cut = bytes.fromhex("20010db8") + bytes(8), packet.l4
    length = packet.length - cut
    head = struct.pack("!IHBB", 6 << 28, length, packet.proto, packet.ip[8])
    ip = bytearray(head + prefix + packet.ip[12:16] + prefix + packet.ip[16:20] + packet.ip[cut:])
    moved = dataclasses.replace(packet, length=length + 40, l4=40, payload=packet.payload - cut + 40 if packet.payload >= 0 else -1)
    return sealed(moved, ip)


def forged(flow: Flow, rng: np.random.Generator) -> Flow:
    """Identifiers rewritten: addresses, ports within their class, SEQ/ACK base, TCP timestamps, IP identification, TTL, window scale.

    Ports by which the reader tells the responder where a handshake is missing stay; a record's own forge rewrites them.
    """
    hosts = [bytes([198, 18, *rng.integers(1, 255, 2).tolist()]) for _ in (ORIG, RESP)]
    ports: dict[tuple[int, int], int] = {}
    servers = likely_servers()
    seq, stamp = rng.integers(0, 1 << 32, 2).tolist(), rng.integers(0, 1 << 32, 2).tolist()
    ttl, scale, move = rng.integers(32, 256, 2).tolist(), float(rng.uniform(0.25, 4.0)), int(rng.integers(0, 20)) * 60_000_000_000
    out = []
    for packet in flow:
        ip = bytearray(packet.ip)
        own, other = packet.dir, 1 - packet.dir
        if packet.version == 4:
            _put(ip, 12, hosts[own] + hosts[other])
            _put(ip, 4, rng.bytes(2))
        ip[8 if packet.version == 4 else 7] = ttl[own]
        if packet.l4 >= 0 and packet.proto in _SUM:
            for side, at in ((own, packet.l4), (other, packet.l4 + 2)):
                old = _word(packet.ip, at)
                if (side, old) not in ports:
                    left = old if servers[int(packet.proto == _UDP), old] else 0
                    ports[side, old] = left or _port(old, servers[int(packet.proto == _UDP)], rng)
                _put(ip, at, ports[side, old].to_bytes(2, "big"))
        if packet.proto == _TCP and packet.l4 >= 0:
            _forge_tcp(ip, packet, (seq[own], seq[other]), (stamp[own], stamp[other]), scale)
        out.append(sealed(dataclasses.replace(packet, ts=packet.ts + move), ip))
    return out


def _port(old: int, servers: U8, rng: np.random.Generator) -> int:
    """Another port of the same class that is no likely server's either."""
    while True:
        port = int(rng.integers(*_RANGES[port_class(old)]))
        if not servers[port]:
            return port


def _forge_tcp(ip: bytearray, packet: Packet, seq: tuple[int, int], stamp: tuple[int, int], scale: float) -> None:
    at = packet.l4
    if at + 20 > len(ip):
        return
    for place, by in ((at + 4, seq[0]), (at + 8, seq[1])):
        if place == at + 4 or ip[at + 13] & 0x10:
            _shift(ip, place, by)
    window = _word(packet.ip, at + 14)
    _put(ip, at + 14, (min(int(window * scale) + 1, 65535) if window else 0).to_bytes(2, "big"))
    place, end = at + 20, min(at + 4 * (ip[at + 12] >> 4), len(ip))
    while place < end and ip[place]:
        size = 1 if ip[place] == 1 or place + 1 >= end else max(ip[place + 1], 2)
        if ip[place] == 8 and place + 10 <= end:
            _shift(ip, place + 2, stamp[0])
            _shift(ip, place + 6, stamp[1])
        place += size


def _shift(ip: bytearray, at: int, by: int) -> None:
    value = int.from_bytes(ip[at : at + 4], "big")
    ip[at : at + 4] = ((value + by) & 0xFFFFFFFF).to_bytes(4, "big")


WIRE: dict[str, tuple[Change, Frame]] = {
    "read_again": (same, ethernet),
    "packet_loss_5": (loss(), ethernet),
    "reordering_5": (reordering(), ethernet),
    "delay_jitter": (jitter(), ethernet),
    "mtu_1000": (segmented(), ethernet),
    "snap_96": (same, snapped()),
    **{f"first_{count}": (first(count), ethernet) for count in (1, 2, 4, 8)},
    "vlan": (same, vlan),
    "gre": (same, gre),
    "ipv6": (ipv6, ethernet),
    "nat": (nat, ethernet),
    "forge": (forged, marked),
}
"""What a shift does to a flow's packets, and what frames are put around them."""
