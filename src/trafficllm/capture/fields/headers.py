"""The headers inside one frame, outermost first, as the field table wants them.

They are those that the decoder met (`flows.decode.trace`), the one that flows come from: links, tags and tunnels are known in one
place. Here they get their bytes, and what only tshark shows is added: packets quoted by ICMP errors, whole datagrams with the
fragment that completed them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from trafficllm.capture.flows.decode import trace
from trafficllm.capture.flows.fragments import Reassembler, alone, subframes
from trafficllm.capture.flows.packets import FRAGMENT, PacketBatch
from trafficllm.capture.link.tunnels import VXLAN_PORTS
from trafficllm.capture.link.words import (
    MET_ARP,
    MET_ETHERNET,
    MET_IPV4,
    MET_IPV6,
    MET_PIECE,
    MET_SERVICE_TAG,
    MET_TAG,
    MET_TRANSPORT,
    TRAIL_ENTRY,
    TRAIL_START,
)
from trafficllm.capture.link.wrapped import ERF
from trafficllm.core.types import I64, FrameBatch

_KINDS = {MET_ETHERNET: "eth", MET_TAG: "vlan", MET_SERVICE_TAG: "8021ad", MET_ARP: "arp", MET_IPV4: "ip", MET_IPV6: "ipv6"}
_TRANSPORTS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_ICMP = 1
_ICMP_ERRORS = {_ICMP: frozenset({3, 4, 5, 11, 12}), 58: frozenset({1, 2, 3, 4})}
_IPV4_LINK, _IPV6_LINK, _LLC_LINK = 228, 229, 100
_MAX_LAYERS = 40
_PPP_WITH_DIRECTION, _ERF_HEADER = 204, 16
_ERF_ETHERNET = frozenset({2, 11, 16, 20})
_MAX_QUOTES = 4  # errors about errors


class Layer(NamedTuple):
    """A header inside a frame: protocol, bytes; for transports the length the IP header leaves and, in an ICMP error, who quotes it."""

    kind: str
    data: bytes
    length: int = 0
    quoted: str = ""


class _Within(NamedTuple):
    """Who quotes the packet, and how many quotes it is in."""

    quoted: str = ""
    depth: int = 0


class Dissector:
    """Layers of each row of a batch; whole datagrams stand with the fragment that completed them."""

    def __init__(self, *, vxlan_ports: Iterable[int] = VXLAN_PORTS) -> None:
        self._fragments = Reassembler()
        self._vxlan = tuple(vxlan_ports)

    def trace(self, frames: FrameBatch) -> tuple[PacketBatch, I64]:
        """What `layers` takes: rows and trails of a batch of frames."""
        return trace(frames, vxlan_ports=self._vxlan)

    def layers(self, packets: PacketBatch, trails: I64, index: int) -> list[Layer]:
        """Headers of one frame, outermost first."""
        layers = self._met(packets, trails, index, _Within())
        for raw in subframes(packets.frames, index, int(packets.rows["rest"][index])):
            layers += self._alone(packets.frames, index, raw, _LLC_LINK, _Within())
        return layers[:_MAX_LAYERS]

    def _alone(self, frames: FrameBatch, index: int, raw: bytes, link: int, within: _Within) -> list[Layer]:
        packets, trails = self.trace(alone(frames, index, raw, link=link))
        return self._met(packets, trails, 0, within)

    def _met(self, packets: PacketBatch, trails: I64, index: int, within: _Within) -> list[Layer]:
        frames, row = packets.frames, packets.rows[index]
        start, wire = int(frames.offset[index]), max(int(frames.origlen[index]), int(frames.caplen[index]))
        frame = frames.buffer[start : start + int(frames.caplen[index])].tobytes()
        trail = trails[index]
        layers: list[Layer] = []
        stop = 0
        for entry in range(int(trail[0])):
            at = TRAIL_START + TRAIL_ENTRY * entry
            what, pos, one, two = (int(value) for value in trail[at : at + TRAIL_ENTRY])
            place = pos - start
            if what in {MET_IPV4, MET_IPV6}:
                layers.append(Layer(_KINDS[what], frame[place : one - start], one + two - pos))
                stop = place + layers[-1].length
                if what == MET_IPV4 and frame[place : place + 1] and frame[place] >> 4 == 6:  # tshark trusts the version
                    layers += self._alone(frames, index, frame[place : one - start], _IPV6_LINK, within)
            elif what == MET_TRANSPORT or (what == MET_PIECE and _first_but_cut(row)):
                layer = _transport(one, frame[place:], min(two, wire - place, stop - place), within)
                layers += layer
                if layer and within.depth < _MAX_QUOTES and _is_error(one, layer[0].data):
                    link = _IPV4_LINK if one == _ICMP else _IPV6_LINK
                    layers += self._alone(frames, index, layer[0].data[8:], link, _Within(layer[0].kind, within.depth + 1))
            elif what in _KINDS:
                layers.append(Layer(_KINDS[what], frame[place : one - start]))
        if int(row["usable"]) == FRAGMENT and not _first_but_cut(row):
            raw, _ = self._fragments.add(packets, index)
            if raw:
                layers += self._alone(frames, index, raw, _IPV4_LINK if int(row["ip_version"]) == 4 else _IPV6_LINK, within)[1:]
        return layers


def _transport(proto: int, data: bytes, length: int, within: _Within) -> list[Layer]:
    """A transport header within the length that the header above gives."""
    kind, data = _TRANSPORTS.get(proto, ""), data[: max(length, 0)]
    return [Layer(kind, data, length, within.quoted)] if kind and (kind != "tcp" or data) else []


def _is_error(proto: int, data: bytes) -> bool:
    """An ICMP message that quotes a packet."""
    return len(data) > 8 and data[0] in _ICMP_ERRORS.get(proto, ())


def _first_but_cut(row: Any) -> bool:
    """A first fragment that was not captured whole: tshark does not wait for the rest but shows what stands in it."""
    return int(row["frag"]) >> 1 == 0 and int(row["payload_cap"]) < int(row["payload_len"])


def frame_sizes(frames: FrameBatch, index: int) -> tuple[int, int]:
    """Bytes of a frame on the wire and captured; the direction before PPP and ERF's record header are none of it, as in tshark."""
    whole, captured, link = int(frames.origlen[index]), int(frames.caplen[index]), int(frames.link[index])
    if link == _PPP_WITH_DIRECTION:
        return max(whole - 1, 0), max(captured - 1, 0)
    start = int(frames.offset[index])
    record = frames.buffer[start : start + captured].tobytes()
    if link != ERF or captured < _ERF_HEADER:
        return whole, captured
    head, more = _ERF_HEADER, record[8] & 0x80
    while more and head + 8 <= captured:
        more, head = record[head] & 0x80, head + 8
    padding = 2 if record[8] & 0x7F in _ERF_ETHERNET else 0
    return int.from_bytes(record[14:16], "big"), max(captured - head - padding, 0)
