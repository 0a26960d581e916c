"""ICMP and ICMPv6 side of the compiler: every message has the body its type demands (RFC 792, 4443, 4861, 2710)."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trafficllm.capture import checksum
from trafficllm.capture.compile.headers import IP_HEADER, MTU, Ends, Packet
from trafficllm.core.types import ORIG, Action

ECHO, ERROR, STAMP, MASK, SOLICIT, ADVERTISE, NEIGHBOUR, GROUP = range(8)
_FORMS: dict[int, dict[int, int]] = {
    1: {8: ECHO, 0: ECHO, 3: ERROR, 4: ERROR, 5: ERROR, 11: ERROR, 12: ERROR, 13: STAMP, 14: STAMP, 17: MASK, 18: MASK},
    58: {
        128: ECHO,
        129: ECHO,
        1: ERROR,
        2: ERROR,
        3: ERROR,
        4: ERROR,
        133: SOLICIT,
        134: ADVERTISE,
        135: NEIGHBOUR,
        136: NEIGHBOUR,
        130: GROUP,
        131: GROUP,
        132: GROUP,
    },
}
_FIXED = {STAMP: 12, MASK: 4, GROUP: 16, SOLICIT: 0, ADVERTISE: 8, NEIGHBOUR: 16}
_MAX_CODE = {(1, 3): 15, (1, 5): 3, (1, 11): 1, (1, 12): 2, (58, 1): 7, (58, 3): 1, (58, 4): 3}
REPLY_OF = {8: 0, 13: 14, 17: 18, 128: 129, 133: 134, 135: 136}
"""Type of the answer to each request type; the numbers of ICMP and ICMPv6 do not clash here."""
_LEGAL_OPS = {"icmp", "datagram", "send"}


@dataclass(slots=True)
class _Talk:
    """State of one ICMP flow: identifier, sequence of the last request, ICMP payload bytes at most."""

    ends: Ends
    proto: int
    ident: int
    limit: int
    counts: Counter[str]
    sequence: int = 0


def icmp_packets(
    actions: Sequence[Action], ends: Ends, proto: int, rng: random.Random, counts: Counter[str], *, mtu: int = MTU
) -> list[Packet]:
    """Packets of `actions`; an action of another transport is dropped, an unknown type becomes an echo, both counted."""
    talk = _Talk(ends, proto, rng.randrange(1, 65536), mtu - IP_HEADER[ends.version] - 8, counts)
    ttls = (64, rng.randrange(44, 60))
    packets: list[Packet] = []
    now = 0
    for action in _oriented(actions, counts):
        now += action.gap
        if action.op not in _LEGAL_OPS:
            counts["op.transport"] += action.op != "wait"
            continue
        kind, code = _kind(talk, action)
        body = _message(talk, action, kind, code, rng)
        neighbour = proto == 58 and 133 <= kind <= 136
        ttl = 255 if neighbour else action.ttl if action.ttl > 0 else ttls[action.dir]
        packets.append(Packet(now, action.dir, ttl, body))
    if not packets:
        counts["plan.empty"] += 1
        return icmp_packets([Action("icmp", size=56)], ends, proto, rng, Counter())
    return packets


def _oriented(actions: Sequence[Action], counts: Counter[str]) -> Sequence[Action]:
    """Turned around if the responder would speak first: readers call the first sender the originator."""
    first = next((action for action in actions if action.op in _LEGAL_OPS), None)
    if first is None or first.dir == ORIG:
        return actions
    counts["dir.flipped"] += 1
    return [replace(action, dir=1 - action.dir) for action in actions]


def _kind(talk: _Talk, action: Action) -> tuple[int, int]:
    """Type and code of `action`, or an echo request or reply where the plan names none that exists."""
    kind, code = action.icmp >> 8, action.icmp & 0xFF
    if action.icmp < 0 or kind not in _FORMS[talk.proto]:
        talk.counts["icmp.type"] += action.icmp >= 0 or action.op != "icmp"
        return (8 if action.dir == ORIG else 0) if talk.proto == 1 else 128 + action.dir, 0
    limit = _MAX_CODE.get((talk.proto, kind), 0)
    talk.counts["icmp.code"] += code > limit
    return kind, min(code, limit)


def _message(talk: _Talk, action: Action, kind: int, code: int, rng: random.Random) -> bytes:
    form = _FORMS[talk.proto][kind]
    size = min(action.size, talk.limit)
    if form in {ECHO, STAMP, MASK}:
        talk.sequence += kind in REPLY_OF
        rest = struct.pack("!HH", talk.ident, talk.sequence & 0xFFFF)
    else:
        rest = bytes((64, 0, 7, 8)) if form == ADVERTISE else bytes(4)
    if form == ECHO:
        body = action.payload[:size] + rng.randbytes(max(0, size - len(action.payload)))
    elif form == ERROR:
        body = _quoted(talk.ends, 1 - action.dir, size)
        rest = _error_rest(talk, kind, code)
    else:
        body = _fixed_body(talk, form, action.dir, size, rng)
    talk.counts["icmp.size"] += len(body) != action.size
    return struct.pack("!BBH", kind, code, 0) + rest + body


def _error_rest(talk: _Talk, kind: int, code: int) -> bytes:
    """Second word of an error: next-hop MTU, gateway or zero."""
    if (talk.proto, kind, code) in {(1, 3, 4), (58, 2, 0)}:
        return struct.pack("!I", 1280)
    return talk.ends.hosts[1] if (talk.proto, kind) == (1, 5) else bytes(4)


def _quoted(ends: Ends, way: int, size: int) -> bytes:
    """The datagram an error answers: its IP header and at least 8 bytes (RFC 792), a UDP datagram to a closed port."""
    header = IP_HEADER[ends.version]
    payload = bytes(max(size - header - 8, 0))
    length = 8 + len(payload)
    source, target = ends.hosts[way], ends.hosts[1 - way]
    udp = struct.pack("!HHHH", 61_000, 33_434, length, 0) + payload
    udp = udp[:6] + struct.pack("!H", checksum.transport(ends.version, source, target, 17, udp)) + udp[8:]
    if ends.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, 17, 1) + source + target + udp
    bare = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 1, 17, 0) + source + target
    return bare[:10] + struct.pack("!H", checksum.internet(bare)) + bare[12:] + udp


def _fixed_body(talk: _Talk, form: int, way: int, size: int, rng: random.Random) -> bytes:
    """Body of a message whose length its type sets; neighbour discovery takes options of 8-byte units up to `size`."""
    fixed = _FIXED[form]
    if form == STAMP:
        return struct.pack("!III", *(rng.randrange(86_400_000),) * 3)
    if form == MASK:
        return bytes((255, 255, 255, 0))
    body = talk.ends.hosts[1 - way][:16].ljust(fixed, b"\0") if form == NEIGHBOUR else bytes(fixed)
    units = min(max(size - fixed, 0) // 8, 255)
    if form == GROUP or not units:
        return body
    if units == 1:
        return body + bytes((1, 1)) + talk.ends.macs[way]
    return body + bytes((14, units)) + rng.randbytes(units * 8 - 2)
