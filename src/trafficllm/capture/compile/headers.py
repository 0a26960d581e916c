"""Frame bytes of compiled packets: Ethernet, IPv4 or IPv6, documentation addresses only, lengths and checksums right."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from trafficllm.capture import checksum
from trafficllm.core.types import ORIG

MTU = 1500
"""Ethernet payload in bytes: no compiled packet is larger."""
IP_HEADER = {4: 20, 6: 40}
_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_CHECKSUM_AT = {6: 16, 17: 6, 1: 2, 58: 2}
_CLIENTS, _SERVERS = 254, 508
_PAIRS = _CLIENTS * _SERVERS
_STRIDE = 50_021
"""Prime to 254 * 508: `index * _STRIDE` walks through all host pairs before one comes again."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A compiled packet before its lower headers: `ts` ns since the flow's start, transport bytes with a zero checksum."""

    ts: int
    dir: int
    ttl: int
    transport: bytes


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a compiled flow; `hosts` and `macs` are (originator, responder) and packed bytes."""

    version: int
    hosts: tuple[bytes, bytes]
    macs: tuple[bytes, bytes]


def ends_of(version: int, index: int, seed: int) -> Ends:
    """Documentation addresses (RFC 5737, RFC 3849) and MACs (RFC 7042) of flow `index`.

    Two flows of one seed share no host pair within 129,032 consecutive indexes, so they never merge into one
    connection, whatever their ports; the same seed and index give the same ends.
    """
    pair = (index * _STRIDE + seed * 7919) % _PAIRS
    client, server = pair % _CLIENTS, pair // _CLIENTS
    macs = (bytes((0, 0, 0x5E, 0, 0x53, 2 + client % 250)), bytes((0, 0, 0x5E, 0, 0x53, 1)))
    if version == 4:
        net = (198, 51, 100) if server < 254 else (203, 0, 113)
        return Ends(4, (bytes((192, 0, 2, client + 1)), bytes((*net, server % 254 + 1))), macs)
    prefix = bytes.fromhex("20010db8")
    hosts = tuple(prefix + struct.pack("!HHQ", site, 0, number + 1) for site, number in ((1, client), (2, server)))
    return Ends(6, (hosts[0], hosts[1]), macs)


class Framer:
    """Puts IP and Ethernet around the packets of one flow; IPv4 identification counts up per sender (RFC 6864)."""

    def __init__(self, ends: Ends, proto: int, rng: random.Random) -> None:
        self.ends = ends
        self.proto = proto
        self._id = [rng.randrange(65536), rng.randrange(65536)]
        self._label = rng.randrange(1 << 20)

    def frame(self, packet: Packet) -> bytes:
        """The whole frame of `packet`, Ethernet header first, no trailer."""
        ends, way = self.ends, packet.dir
        source, target = ends.hosts[way], ends.hosts[1 - way]
        segment = bytearray(packet.transport)
        struct.pack_into("!H", segment, _CHECKSUM_AT[self.proto], self._checksum(source, target, segment))
        ether = _ETHERNET.pack(ends.macs[1 - way], ends.macs[way], 0x0800 if ends.version == 4 else 0x86DD)
        return ether + self._ip(packet, source, target, len(segment)) + bytes(segment)

    def _checksum(self, source: bytes, target: bytes, segment: bytearray) -> int:
        if self.proto == 1:
            return checksum.internet(segment)
        return checksum.transport(self.ends.version, source, target, self.proto, segment)

    def _ip(self, packet: Packet, source: bytes, target: bytes, length: int) -> bytes:
        if self.ends.version == 6:
            label = self._label if packet.dir == ORIG else self._label ^ 0x5A5A5
            return _IPV6.pack(6 << 28 | label, length, self.proto, packet.ttl, source, target)
        self._id[packet.dir] = (self._id[packet.dir] + 1) & 0xFFFF
        fields = (0x45, 0, 20 + length, self._id[packet.dir], 0x4000, packet.ttl, self.proto)
        value = checksum.internet(_IPV4.pack(*fields, 0, source, target))
        return _IPV4.pack(*fields, value, source, target)
