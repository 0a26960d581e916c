"""Packet header fields under tshark's names and in tshark's formats (`tshark -T fields`), one row a packet.

A field that occurs several times in a packet (stacked tags, the packet quoted by an ICMP error) gives its values joined by commas,
as tshark does. Formats are those of tshark 4.0.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trafficllm.capture.fields.headers import Dissector, Layer, frame_sizes
from trafficllm.capture.files.read import Skipped, read_frames
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.link.tunnels import VXLAN_PORTS
from trafficllm.core.errors import UsageError

_NS = 1_000_000_000
_ICMP_SHOWN = 6  # tshark reads the identifier before it shows the type
_MAC_HARDWARE = (b"\0\1", b"\0\6")  # Ethernet, IEEE 802
_MAX_LENGTH = 1500  # of an 802.3 frame; greater numbers are EtherTypes
_SCTP_SHOWN = 12  # nothing of a common header that is cut
_TCP_SHOWN = 16  # of a header cut before the window tshark shows the ports only

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


def _tcp(read: Reader, *, hidden: frozenset[str] = frozenset(), bogus: bool = False) -> Reader:
    """A TCP field, `hidden` where one of these quotes it; of a header that calls itself shorter than 20 bytes only `bogus` fields show."""

    def shown(layer: Layer) -> str:
        data = layer.data
        if len(data) < _TCP_SHOWN or layer.quoted in hidden or (data[12] < 0x50 and not bogus):
            return ""
        return read(layer)

    return shown


def _tcp_len(layer: Layer) -> str:
    left = layer.length - (layer.data[12] >> 4) * 4
    return str(left) if left >= 0 else ""


def _arp(side: int, *, hardware: bool) -> Reader:
    """An address of ARP, which says how long its addresses are (RFC 826); shown when all four are there."""

    def read(layer: Layer) -> str:
        data = layer.data
        if len(data) < 8 or len(data) < 8 + 2 * (data[4] + data[5]):
            return ""
        at = 8 + side * (data[4] + data[5])
        if hardware:
            return _mac(at)(layer) if data[:2] in _MAC_HARDWARE and data[4] == 6 else ""
        return _address(at + data[4], 4)(layer) if data[2:4] == b"\x08\x00" and data[5] == 4 else ""

    return read


def _ip(read: Reader, *, total_matters: bool = True, options: bool = False) -> Reader:
    """An IPv4 field: an impossible header length or total hides what follows it, options that are cut hide the target."""

    def shown(layer: Layer) -> str:
        data = layer.data
        head, total = (data[0] & 15) * 4 if data else 0, int.from_bytes(data[2:4], "big")
        if head < 20 or data[0] >> 4 != 4 or (total_matters and 0 < total < head) or (options and len(data) < head):
            return ""
        return read(layer)

    return shown


def _ip6(read: Reader) -> Reader:
    """An IPv6 field behind the version, if that is 6."""
    return lambda layer: read(layer) if layer.data and layer.data[0] >> 4 == 6 else ""


def _udp(read: Reader) -> Reader:
    """A UDP field behind the length, which hides it when it is shorter than the header."""
    return lambda layer: "" if 0 < int.from_bytes(layer.data[4:6], "big") < 8 else read(layer)


def _udp_length(layer: Layer) -> str:
    """UDP's own field; UDP-Lite has none there, its length is what the IP header leaves (RFC 3828 3.1)."""
    return _uint(4, 2)(layer) if layer.kind == "udp" or len(layer.data) < 6 else str(layer.length)


def _ip_len(layer: Layer) -> str:
    return str(int.from_bytes(layer.data[2:4], "big") or layer.length) if len(layer.data) >= 4 else ""


def _tag_type(layer: Layer) -> str:
    """The EtherType behind a tag; a length is none."""
    return _hex(2, 2, 4)(layer) if int.from_bytes(layer.data[2:4], "big") > _MAX_LENGTH else ""


def _eth_type(layer: Layer) -> str:
    value = int.from_bytes(layer.data[12:14], "big")
    return f"0x{value:04x}" if len(layer.data) >= 14 and value > _MAX_LENGTH else ""


FIELDS: dict[str, tuple[str, Reader]] = {
    "eth.dst": ("eth", _mac(0)),
    "eth.src": ("eth", _mac(6)),
    "eth.type": ("eth", _eth_type),
    "vlan.id": ("vlan", _uint(0, 2, mask=0xFFF)),
    "vlan.priority": ("vlan", _uint(0, 2, shift=13)),
    "vlan.etype": ("vlan", _tag_type),
    "ieee8021ad.id": ("8021ad", _uint(0, 2, mask=0xFFF, need=4)),
    "ieee8021ad.priority": ("8021ad", _uint(0, 2, shift=13, need=4)),
    "ip.version": ("ip ipv6", _uint(0, 1, shift=4)),
    "ip.hdr_len": ("ip", lambda layer: str((layer.data[0] & 15) * 4) if layer.data and layer.data[0] >> 4 == 4 else ""),
    "ip.dsfield": ("ip", _ip(_hex(1, 1, 2), total_matters=False)),
    "ip.len": ("ip", _ip(_ip_len, total_matters=False)),
    "ip.id": ("ip", _ip(_hex(4, 2, 4))),
    "ip.flags": ("ip", _ip(_hex(6, 1, 2, shift=5, need=8))),
    "ip.frag_offset": ("ip", _ip(_uint(6, 2, mask=0x1FFF))),
    "ip.ttl": ("ip", _ip(_uint(8, 1))),
    "ip.proto": ("ip", _ip(_uint(9, 1))),
    "ip.checksum": ("ip", _ip(_hex(10, 2, 4))),
    "ip.src": ("ip", _ip(_address(12, 4))),
    "ip.dst": ("ip", _ip(_address(16, 4), options=True)),
    "ipv6.version": ("ipv6", _uint(0, 1, shift=4)),
    "ipv6.flow": ("ipv6", _ip6(_hex(1, 3, 6, mask=0xFFFFF))),
    "ipv6.plen": ("ipv6", _ip6(_uint(4, 2, need=7))),
    "ipv6.nxt": ("ipv6", _ip6(_uint(6, 1))),
    "ipv6.hlim": ("ipv6", _ip6(_uint(7, 1))),
    "ipv6.src": ("ipv6", _ip6(_address(8, 16))),
    "ipv6.dst": ("ipv6", _ip6(_address(24, 16))),
    "tcp.srcport": ("tcp", _uint(0, 2, need=4)),
    "tcp.dstport": ("tcp", _uint(2, 2)),
    "tcp.seq_raw": ("tcp", _tcp(_uint(4, 4), hidden=frozenset({"icmp"}), bogus=True)),
    "tcp.ack_raw": ("tcp", _tcp(_uint(8, 4))),
    "tcp.hdr_len": ("tcp", _tcp(lambda layer: str((layer.data[12] >> 4) * 4), bogus=True)),
    "tcp.flags": ("tcp", _tcp(_hex(12, 2, 4, mask=0xFFF))),
    "tcp.window_size_value": ("tcp", _tcp(_uint(14, 2))),
    "tcp.checksum": ("tcp", _tcp(_hex(16, 2, 4))),
    "tcp.urgent_pointer": ("tcp", _tcp(_uint(18, 2))),
    "tcp.len": ("tcp", _tcp(_tcp_len, hidden=frozenset({"icmp", "icmpv6"}), bogus=True)),
    "udp.srcport": ("udp udplite", _uint(0, 2, need=4)),
    "udp.dstport": ("udp udplite", _uint(2, 2)),
    "udp.length": ("udp udplite", _udp_length),
    "udp.checksum": ("udp udplite", _udp(_hex(6, 2, 4))),
    "udp.checksum_coverage": ("udplite", _uint(4, 2)),
    "sctp.srcport": ("sctp", _uint(0, 2, need=_SCTP_SHOWN)),
    "sctp.dstport": ("sctp", _uint(2, 2, need=_SCTP_SHOWN)),
    "sctp.verification_tag": ("sctp", _hex(4, 4, 8, need=_SCTP_SHOWN)),
    "sctp.checksum": ("sctp", _hex(8, 4, 8)),
    "icmp.type": ("icmp", _uint(0, 1, need=_ICMP_SHOWN)),
    "icmp.code": ("icmp", _uint(1, 1, need=_ICMP_SHOWN)),
    "icmp.checksum": ("icmp", _hex(2, 2, 4, need=_ICMP_SHOWN)),
    "icmpv6.type": ("icmpv6", _uint(0, 1)),
    "icmpv6.code": ("icmpv6", _uint(1, 1)),
    "icmpv6.checksum": ("icmpv6", _hex(2, 2, 4)),
    "arp.hw.type": ("arp", _uint(0, 2)),
    "arp.proto.type": ("arp", _hex(2, 2, 4)),
    "arp.opcode": ("arp", _uint(6, 2)),
    "arp.src.hw_mac": ("arp", _arp(0, hardware=True)),
    "arp.src.proto_ipv4": ("arp", _arp(0, hardware=False)),
    "arp.dst.hw_mac": ("arp", _arp(1, hardware=True)),
    "arp.dst.proto_ipv4": ("arp", _arp(1, hardware=False)),
}
"""Field -> (layer, reader). The frame.* fields are made from the record headers."""

FRAME_FIELDS = ("frame.number", "frame.time_epoch", "frame.time_relative", "frame.len", "frame.cap_len")


def packet_rows(
    paths: Sequence[str | Path], fields: Sequence[str], *, skipped: Skipped | None = None, vxlan_ports: Sequence[int] = VXLAN_PORTS
) -> Iterator[tuple[str, ...]]:
    """Values of `fields`, one tuple of str a packet, in tshark's formats; an absent field is "".

    Raises UsageError for a field that is not known, InputError for files that cannot be read; with `skipped` such files
    among several are left out.
    """
    unknown = [name for name in fields if name not in FIELDS and name not in FRAME_FIELDS]
    if unknown:
        names = (*FRAME_FIELDS, *FIELDS)
        near = difflib.get_close_matches(unknown[0].lower(), names, n=1, cutoff=0.5)
        hint = (f"did you mean {near[0]}? " if near else "") + f"fields are: {' '.join(names)}"
        raise UsageError("usage.field", f"unknown field {unknown[0]!r}", input=unknown[0], hint=hint)
    dissector = Dissector(vxlan_ports=vxlan_ports)
    began: int | None = None
    counts = CountsBuilder()
    for frames in read_frames(paths, counts=counts, skipped=skipped):
        packets, trails = dissector.trace(frames)
        counts.decoded(packets)
        for index in range(len(packets)):
            ts = int(frames.ts[index])
            began = ts if began is None else began
            layers = dissector.layers(packets, trails, index)
            whole, captured = frame_sizes(frames, index)
            frame = {
                "frame.number": str(int(frames.number[index])),
                "frame.time_epoch": _epoch(ts),
                "frame.time_relative": _epoch(ts - began),
                "frame.len": str(whole),
                "frame.cap_len": str(captured),
            }
            yield tuple(frame[name] if name in frame else _values(layers, name) for name in fields)
    if skipped is not None:
        skipped.counts = counts.build()


def _values(layers: list[Layer], name: str) -> str:
    kind, read = FIELDS[name]
    return ",".join(value for layer in layers if layer.kind in kind.split() and (value := read(layer)))


def _epoch(ns: int) -> str:
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // _NS}.{ns % _NS:09d}"
