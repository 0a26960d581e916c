"""Packet header fields under tshark's names and in tshark's formats (`tshark -T fields`), one row a packet.

A field that occurs several times in a packet (stacked tags, the packet quoted by an ICMP error) gives its values joined by commas,
as tshark does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trafficllm.capture.decode import decode
from trafficllm.capture.fragments import Reassembler
from trafficllm.capture.packets import FRAGMENT, PacketBatch
from trafficllm.capture.read import read_frames
from trafficllm.core.errors import UsageError

_NS = 1_000_000_000
_VLAN_TYPES = frozenset({0x8100, 0x88A8, 0x9100})
_ICMP_ERRORS = {1: frozenset({3, 4, 5, 11, 12}), 58: frozenset({1, 2, 3, 4})}
_IP_IN_IP = {4: "ip", 41: "ipv6"}
_EXTENSIONS = frozenset({0, 43, 51, 60, 135})
_MAX_DEPTH = 8
_TCP_SHOWN = 16  # of a header cut before the window tshark shows the ports only


class Layer(NamedTuple):
    """A header inside a frame: its protocol, bytes, and for transports the length the IP header leaves."""

    kind: str
    data: bytes
    length: int = 0


Reader = Callable[[Layer], str]


def _uint(at: int, size: int, *, shift: int = 0, mask: int = -1, need: int = 0) -> Reader:
    def read(layer: Layer) -> str:
        if max(at + size, need) > len(layer.data):
            return ""
        return str(int.from_bytes(layer.data[at : at + size], "big") >> shift & mask)

    return read


def _hex(at: int, size: int, digits: int, *, shift: int = 0, mask: int = -1, need: int = 0) -> Reader:
    def read(layer: Layer) -> str:
        if max(at + size, need) > len(layer.data):
            return ""
        return f"0x{int.from_bytes(layer.data[at : at + size], 'big') >> shift & mask:0{digits}x}"

    return read


def _mac(at: int) -> Reader:
    return lambda layer: layer.data[at : at + 6].hex(":") if at + 6 <= len(layer.data) else ""


def _address(at: int, size: int) -> Reader:
    def read(layer: Layer) -> str:
        raw = layer.data[at : at + size]
        if len(raw) < size:
            return ""
        return str(ipaddress.IPv4Address(raw) if size == 4 else ipaddress.IPv6Address(raw))

    return read


def _tcp_len(layer: Layer) -> str:
    return str(layer.length - (layer.data[12] >> 4) * 4) if len(layer.data) >= 20 and layer.data[12] >> 4 >= 5 else ""


def _frag_offset(layer: Layer) -> str:
    return str((int.from_bytes(layer.data[6:8], "big") & 0x1FFF) * 8) if len(layer.data) >= 8 else ""


def _ip_len(layer: Layer) -> str:
    return str(int.from_bytes(layer.data[2:4], "big") or layer.length) if len(layer.data) >= 4 else ""


def _eth_type(layer: Layer) -> str:
    value = int.from_bytes(layer.data[12:14], "big")
    return f"0x{value:04x}" if len(layer.data) >= 14 and value > 1500 else ""


FIELDS: dict[str, tuple[str, Reader]] = {
    "eth.dst": ("eth", _mac(0)),
    "eth.src": ("eth", _mac(6)),
    "eth.type": ("eth", _eth_type),
    "vlan.id": ("vlan", _uint(0, 2, mask=0xFFF)),
    "vlan.priority": ("vlan", _uint(0, 2, shift=13)),
    "vlan.etype": ("vlan", _hex(2, 2, 4)),
    "ip.version": ("ip ipv6", _uint(0, 1, shift=4)),
    "ip.hdr_len": ("ip", lambda layer: str((layer.data[0] & 15) * 4) if layer.data else ""),
    "ip.dsfield": ("ip", _hex(1, 1, 2)),
    "ip.len": ("ip", _ip_len),
    "ip.id": ("ip", _hex(4, 2, 4)),
    "ip.flags": ("ip", _hex(6, 1, 2, shift=5)),
    "ip.frag_offset": ("ip", _frag_offset),
    "ip.ttl": ("ip", _uint(8, 1)),
    "ip.proto": ("ip", _uint(9, 1)),
    "ip.checksum": ("ip", _hex(10, 2, 4)),
    "ip.src": ("ip", _address(12, 4)),
    "ip.dst": ("ip", _address(16, 4)),
    "ipv6.version": ("ipv6", _uint(0, 1, shift=4)),
    "ipv6.flow": ("ipv6", _hex(1, 3, 6, mask=0xFFFFF)),
    "ipv6.plen": ("ipv6", _uint(4, 2)),
    "ipv6.nxt": ("ipv6", _uint(6, 1)),
    "ipv6.hlim": ("ipv6", _uint(7, 1)),
    "ipv6.src": ("ipv6", _address(8, 16)),
    "ipv6.dst": ("ipv6", _address(24, 16)),
    "tcp.srcport": ("tcp", _uint(0, 2)),
    "tcp.dstport": ("tcp", _uint(2, 2)),
    "tcp.seq_raw": ("tcp", _uint(4, 4, need=_TCP_SHOWN)),
    "tcp.ack_raw": ("tcp", _uint(8, 4, need=_TCP_SHOWN)),
    "tcp.hdr_len": ("tcp", lambda layer: str((layer.data[12] >> 4) * 4) if len(layer.data) >= _TCP_SHOWN else ""),
    "tcp.flags": ("tcp", _hex(12, 2, 4, mask=0xFFF, need=_TCP_SHOWN)),
    "tcp.window_size_value": ("tcp", _uint(14, 2)),
    "tcp.checksum": ("tcp", _hex(16, 2, 4)),
    "tcp.urgent_pointer": ("tcp", _uint(18, 2)),
    "tcp.len": ("tcp", _tcp_len),
    "udp.srcport": ("udp", _uint(0, 2)),
    "udp.dstport": ("udp", _uint(2, 2)),
    "udp.length": ("udp", _uint(4, 2)),
    "udp.checksum": ("udp", _hex(6, 2, 4)),
    "icmp.type": ("icmp", _uint(0, 1)),
    "icmp.code": ("icmp", _uint(1, 1)),
    "icmp.checksum": ("icmp", _hex(2, 2, 4)),
    "icmpv6.type": ("icmpv6", _uint(0, 1)),
    "icmpv6.code": ("icmpv6", _uint(1, 1)),
    "icmpv6.checksum": ("icmpv6", _hex(2, 2, 4)),
    "arp.hw.type": ("arp", _uint(0, 2)),
    "arp.proto.type": ("arp", _hex(2, 2, 4)),
    "arp.opcode": ("arp", _uint(6, 2)),
    "arp.src.hw_mac": ("arp", _mac(8)),
    "arp.src.proto_ipv4": ("arp", _address(14, 4)),
    "arp.dst.hw_mac": ("arp", _mac(18)),
    "arp.dst.proto_ipv4": ("arp", _address(24, 4)),
}
"""Field -> (layer, reader). The frame.* fields are made from the record headers."""

FRAME_FIELDS = ("frame.number", "frame.time_epoch", "frame.time_relative", "frame.len", "frame.cap_len")
_TRANSPORTS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmpv6"}


def _transport(proto: int, data: bytes, length: int, layers: list[Layer]) -> None:
    """A transport header, and what an ICMP error or IP in IP carries; within the length the header above gives."""
    kind = _TRANSPORTS.get(proto, "")
    if proto in _IP_IN_IP:
        _network(_IP_IN_IP[proto], data, layers)
    if not kind or (kind == "tcp" and len(data) < 1):
        return
    layers.append(Layer(kind, data, length))
    if data and proto in _ICMP_ERRORS and data[0] in _ICMP_ERRORS[proto] and len(data) > 8:
        _network("ip" if proto == 1 else "ipv6", data[8:], layers)


def _network(kind: str, data: bytes, layers: list[Layer]) -> None:
    """An IP header that is not the frame's own: quoted or tunnelled."""
    if len(layers) > _MAX_DEPTH or not data:
        return
    if kind == "ip":
        head = (data[0] & 15) * 4
        if data[0] >> 4 != 4 or head < 20:
            return
        layers.append(Layer(kind, data))
        total = int.from_bytes(data[2:4], "big") or len(data)
        if len(data) >= head and not int.from_bytes(data[6:8], "big") & 0x1FFF:
            _transport(data[9], data[head:total], total - head, layers)
        return
    if data[0] >> 4 != 6 or len(data) < 40:
        return
    layers.append(Layer(kind, data))
    length, proto, at = int.from_bytes(data[4:6], "big"), data[6], 40
    while proto in _EXTENSIONS and at + 8 <= len(data):
        size = (data[at + 1] + 2) * 4 if proto == 51 else (data[at + 1] + 1) * 8
        proto, at = data[at], at + size
    _transport(proto, data[at : 40 + length], 40 + length - at, layers)


def _link_layers(frame: bytes, link: int) -> list[Layer]:
    if link != 1:
        return []
    layers, at = [Layer("eth", frame)], 12
    while int.from_bytes(frame[at : at + 2], "big") in _VLAN_TYPES and at + 6 <= len(frame) and len(layers) < _MAX_DEPTH:
        layers.append(Layer("vlan", frame[at + 2 :]))
        at += 4
    return layers


class _Dissector:
    """Layers of each row of a batch; whole datagrams stand with the fragment that completed them."""

    def __init__(self) -> None:
        self._fragments = Reassembler()

    def layers(self, packets: PacketBatch, index: int) -> list[Layer]:
        frames, row = packets.frames, packets.rows[index]
        start = int(frames.offset[index])
        frame = frames.buffer[start : start + int(frames.caplen[index])].tobytes()
        layers = _link_layers(frame, int(frames.link[index]))
        l3, l4, version = int(row["l3"]), int(row["l4"]), int(row["ip_version"])
        if l3 < 0:
            return layers
        if version == 0:
            layers.append(Layer("arp", frame[l3:]))
            return layers
        layers.append(Layer("ip" if version == 4 else "ipv6", frame[l3:], int(row["ip_len"])))
        if int(row["usable"]) == FRAGMENT:
            whole, _ = self._fragments.add(packets, index)
            if whole:
                inner: list[Layer] = []
                _network(layers[-1].kind, whole, inner)
                layers += inner[1:]
        elif l4 >= 0:
            length = int(row["ip_len"]) - (l4 - l3)
            _transport(int(row["proto"]), frame[l4 : l3 + int(row["ip_len"])], length, layers)
        return layers


def packet_rows(paths: Sequence[str | Path], fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Values of `fields`, one tuple of str a packet, in tshark's formats; an absent field is "".

    Raises UsageError for a field that is not known, InputError for files that cannot be read.
    """
    unknown = [name for name in fields if name not in FIELDS and name not in FRAME_FIELDS]
    if unknown:
        known = " ".join((*FRAME_FIELDS, *FIELDS))
        raise UsageError("usage.field", f"unknown field {unknown[0]!r}", input=unknown[0], hint=f"known: {known}")
    dissector = _Dissector()
    began: int | None = None
    for frames in read_frames(paths):
        packets = decode(frames)
        for index in range(len(packets)):
            ts = int(frames.ts[index])
            began = ts if began is None else began
            layers = dissector.layers(packets, index)
            frame = {
                "frame.number": str(int(frames.number[index])),
                "frame.time_epoch": _epoch(ts),
                "frame.time_relative": _epoch(ts - began),
                "frame.len": str(int(frames.origlen[index])),
                "frame.cap_len": str(int(frames.caplen[index])),
            }
            yield tuple(frame[name] if name in frame else _values(layers, name) for name in fields)


def _values(layers: list[Layer], name: str) -> str:
    kind, read = FIELDS[name]
    return ",".join(value for layer in layers if layer.kind in kind.split() and (value := read(layer)))


def _epoch(ns: int) -> str:
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // _NS}.{ns % _NS:09d}"
