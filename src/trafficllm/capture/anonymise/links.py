"""Link headers of frames under other names: each function copies what names nobody and says where the network layer begins.

They take the frame, the new frame (zeros of the same length) and the names, and return position and EtherType; 0 for none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from trafficllm.capture.anonymise.pseudonyms import Pseudonyms

Walk: TypeAlias = Callable[[bytes, bytearray, Pseudonyms], tuple[int, int]]
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
_TAGS = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
_MPLS = frozenset({0x8847, 0x8848})
_PPPOE = 0x8864
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"
_DEPTH = 8
_PPP = {0x21: IPV4, 0x57: IPV6}


def _copy(data: bytes, out: bytearray, start: int, size: int) -> None:
    out[start : start + size] = data[start : start + size]


def _version(data: bytes, at: int) -> tuple[int, int]:
    """What follows where nothing says so: told by the first four bits."""
    return at, {4: IPV4, 6: IPV6}.get(data[at] >> 4, 0) if at < len(data) else 0


def ethernet(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """IEEE 802.3 with VLAN, MPLS and PPPoE tags."""
    if len(data) < 14:
        return len(data), 0
    out[0:6], out[6:12] = names.mac(data[0:6]), names.mac(data[6:12])
    return _types(data, out, 12)


def _types(data: bytes, out: bytearray, at: int) -> tuple[int, int]:
    """EtherType and tags from `at` on."""
    for _ in range(_DEPTH):
        if at + 2 > len(data):
            break
        kind = int.from_bytes(data[at : at + 2], "big")
        _copy(data, out, at, 2)
        at += 2
        if kind in _TAGS:
            _copy(data, out, at, 2)
            at += 2
        elif kind in _MPLS:
            return _labels(data, out, at)
        elif kind == _PPPOE:
            _copy(data, out, at, 8)
            return at + 8, _PPP.get(int.from_bytes(data[at + 6 : at + 8], "big"), 0)
        elif kind > 1500:
            return at, kind
        elif data[at : at + 6] == _SNAP:
            _copy(data, out, at, 6)
            at += 6
        else:
            break
    return at, 0


def _labels(data: bytes, out: bytearray, at: int) -> tuple[int, int]:
    while at + 4 <= len(data):
        _copy(data, out, at, 4)
        at += 4
        if data[at - 2] & 1:
            return _version(data, at)
    return at, 0


def _address(data: bytes, out: bytearray, at: int, size: int, names: Pseudonyms) -> None:
    """A link address in a field of eight bytes; one that is no MAC is left out."""
    if size == 6 and at + 6 <= len(data):
        out[at : at + 6] = names.mac(data[at : at + 6])


def cooked(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """LINUX_SLL: the sender's address in eight bytes, padded."""
    if len(data) < 16:
        return len(data), 0
    _copy(data, out, 0, 6)
    _address(data, out, 6, int.from_bytes(data[4:6], "big"), names)
    return _types(data, out, 14)


def cooked2(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """LINUX_SLL2: EtherType first, the address at the end."""
    if len(data) < 20:
        return len(data), 0
    kind = int.from_bytes(data[0:2], "big")
    _copy(data, out, 0, 2)
    _copy(data, out, 8, 4)
    _address(data, out, 12, data[11], names)
    return 20, kind if kind > 1500 else 0


def raw(data: bytes, _: bytearray, __: Pseudonyms) -> tuple[int, int]:
    """IP from the first byte."""
    return _version(data, 0)


def loopback(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """NULL and LOOP: four bytes of address family."""
    _copy(data, out, 0, 4)
    return _version(data, 4)


def point_to_point(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """PPP, with address and control bytes or without, and its protocol in one or two bytes (RFC 1661, RFC 1662)."""
    at = 2 if data[:2] == b"\xff\x03" else 0
    size = 1 if data[at : at + 1] and data[at] & 1 else 2
    _copy(data, out, 0, at + size)
    return at + size, _PPP.get(int.from_bytes(data[at : at + size], "big"), 0)


def hdlc(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """Cisco HDLC: address, control, EtherType."""
    _copy(data, out, 0, 2)
    return _types(data, out, 2)


LINKS: Mapping[int, Walk] = {
    1: ethernet,
    113: cooked,
    276: cooked2,
    **dict.fromkeys((12, 14, 101, 228, 229), raw),
    **dict.fromkeys((0, 108), loopback),
    **dict.fromkeys((9, 50), point_to_point),
    104: hdlc,
}
"""By LINKTYPE_ number. Wireless frames name networks and stations in many places: they are not among these."""
