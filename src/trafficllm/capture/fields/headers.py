"""The headers inside one frame, outermost first, as the field table wants them."""

from __future__ import annotations

from typing import Any, NamedTuple

from trafficllm.capture.fields import tunnels
from trafficllm.capture.flows.fragments import Reassembler
from trafficllm.capture.flows.packets import FRAGMENT, PacketBatch

_VLAN_TYPES = {0x8100: "vlan", 0x9100: "vlan", 0x88A8: "8021ad"}
_ICMP_ERRORS = {1: frozenset({3, 4, 5, 11, 12}), 58: frozenset({1, 2, 3, 4})}
_ETHERNET, _FDDI, _GRE, _AH = 1, 10, 47, 51
_SNAP = b"\xaa\xaa\x03"
_IP_IN_IP = {4: "ip", 41: "ipv6"}
_EXTENSIONS = frozenset({0, 43, 51, 60, 135})
_MAX_DEPTH = 24  # layers of one frame; real tunnels in tunnels have about 12
_ARP, _VN_TAG = 0x0806, 0x8926


class Layer(NamedTuple):
    """A header inside a frame: protocol, bytes; for transports the length the IP header leaves and, in an ICMP error, who quotes it."""

    kind: str
    data: bytes
    length: int = 0
    quoted: str = ""


_TRANSPORTS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmpv6", 132: "sctp", 136: "udplite"}


def _transport(proto: int, data: bytes, length: int, layers: list[Layer], *, quoted: str = "") -> None:
    """A transport header, and what an ICMP error or IP in IP carries; within the length the header above gives."""
    kind = _TRANSPORTS.get(proto, "")
    if proto in _IP_IN_IP:
        _network(_IP_IN_IP[proto], data, layers, quoted=quoted)
    elif proto == _GRE:
        _inside(tunnels.gre(data), data, layers, quoted=quoted)
    if not kind or (kind == "tcp" and len(data) < 1):
        return
    layers.append(Layer(kind, data, length, quoted))
    if kind == "udp" and len(data) > 8:
        ports = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
        _inside(tunnels.udp(*ports, data[8:]), data[8:], layers, quoted=quoted)
    if data and proto in _ICMP_ERRORS and data[0] in _ICMP_ERRORS[proto] and len(data) > 8:
        _network("ip" if proto == 1 else "ipv6", data[8:], layers, quoted=kind)


def _inside(found: tunnels.Inside, data: bytes, layers: list[Layer], *, quoted: str) -> None:
    """The packet a tunnel header announces."""
    kind, at = found
    if len(layers) > _MAX_DEPTH or not kind or at >= len(data):
        return
    if kind == "mpls":
        while at + 4 <= len(data) and not data[at + 2] & 1:
            at += 4
        kind, at = {4: "ip", 6: "ipv6"}.get(data[at + 4] >> 4 if at + 4 < len(data) else 0, ""), at + 4
        _inside((kind, at), data, layers, quoted=quoted)
    elif kind == tunnels.ETHERNET:
        frame = data[at:]
        tagged, behind = _link_layers(frame)
        layers += tagged
        following = int.from_bytes(frame[behind : behind + 2], "big")
        if following == _ARP and len(frame) > behind + 2:
            layers.append(Layer("arp", frame[behind + 2 :]))
        else:
            _inside((tunnels.ethertype(following), behind + 2), frame, layers, quoted=quoted)
    else:
        _network(kind, data[at:], layers, quoted=quoted)


def _network(kind: str, data: bytes, layers: list[Layer], *, quoted: str = "") -> None:
    """An IP header that is not the frame's own: quoted or tunnelled."""
    if len(layers) > _MAX_DEPTH or not data:
        return
    if kind == "ip":
        head = (data[0] & 15) * 4
        layers.append(Layer(kind, data))
        if data[0] >> 4 != 4 or head < 20:
            return
        total = int.from_bytes(data[2:4], "big") or len(data)
        if len(data) >= head and not int.from_bytes(data[6:8], "big") & 0x1FFF:
            proto = data[9]
            while proto == _AH and head + 12 <= len(data):
                proto, head = data[head], head + (data[head + 1] + 2) * 4
            _transport(proto, data[head:total], total - head, layers, quoted=quoted)
        return
    layers.append(Layer(kind, data))
    if data[0] >> 4 != 6 or len(data) < 40:
        return
    length, proto, at = int.from_bytes(data[4:6], "big"), data[6], 40
    while proto in _EXTENSIONS and at + 8 <= len(data):
        size = (data[at + 1] + 2) * 4 if proto == 51 else (data[at + 1] + 1) * 8
        proto, at = data[at], at + size
    _transport(proto, data[at : 40 + length], 40 + length - at, layers, quoted=quoted)


def _link_layers(frame: bytes) -> tuple[list[Layer], int]:
    """Ethernet and its tags, and where the last EtherType stands."""
    layers, at = [Layer("eth", frame)], 12
    while at + 4 <= len(frame) and len(layers) < _MAX_DEPTH:
        following = int.from_bytes(frame[at : at + 2], "big")
        if following == _VN_TAG:
            at += 6
            continue
        kind = _VLAN_TYPES.get(following)
        if kind is None:
            break
        layers.append(Layer(kind, frame[at + 2 :]))
        at += 4
    return layers, at


class Dissector:
    """Layers of each row of a batch; whole datagrams stand with the fragment that completed them."""

    def __init__(self) -> None:
        self._fragments = Reassembler()

    def layers(self, packets: PacketBatch, index: int) -> list[Layer]:
        """Headers of one frame, outermost first."""
        frames, row = packets.frames, packets.rows[index]
        start = int(frames.offset[index])
        frame = frames.buffer[start : start + int(frames.caplen[index])].tobytes()
        layers = _link_layers(frame)[0] if frames.link[index] == _ETHERNET else []
        l3, l4, version = int(row["l3"]), int(row["l4"]), int(row["ip_version"])
        if l3 < 0:
            if frames.link[index] == _FDDI and frame[13:16] == _SNAP:
                _inside((tunnels.ethertype(int.from_bytes(frame[19:21], "big")), 21), frame, layers, quoted="")
            return layers
        if version == 0:
            layers.append(Layer("arp", frame[l3:]))
            return layers
        size = int(row["ip_len"]) or int(frames.origlen[index]) - l3
        layers.append(Layer("ip" if version == 4 else "ipv6", frame[l3:], size))
        if version == 4 and frame[l3 : l3 + 1] and frame[l3] >> 4 == 6:  # EtherType and version disagree: tshark trusts the version
            _network("ipv6", frame[l3:], layers)
            return layers
        if int(row["usable"]) == FRAGMENT and not _first_but_cut(row):
            whole, _ = self._fragments.add(packets, index)
            if whole:
                inner: list[Layer] = []
                _network(layers[-1].kind, whole, inner)
                layers += inner[1:]
        elif l4 >= 0:
            length = min(size, int(frames.origlen[index]) - l3) - (l4 - l3)
            _transport(int(row["proto"]), frame[l4 : l3 + size], length, layers)
        return layers


def _first_but_cut(row: Any) -> bool:
    """A first fragment that was not captured whole: tshark does not wait for the rest but shows what stands in it."""
    return int(row["frag"]) >> 1 == 0 and int(row["payload_cap"]) < int(row["payload_len"])
