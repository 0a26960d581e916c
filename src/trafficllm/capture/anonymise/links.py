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
_SHIMS = {0x8926: 4, 0x8909: 6, 0x8905: 6, 0x892F: 4, 0xF1C1: 4, 0x893F: 6}
"""VN-Tag, Cisco CMD and TTag, HSR, R-TAG, E-TAG: bytes before the next EtherType; they number ports and times, no host."""
_PPPOE = 0x8864
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"
_DEPTH = 8
_PPP = {0x21: IPV4, 0x57: IPV6}


def copied(data: bytes, out: bytearray, start: int, size: int) -> None:
    """Copy what is there of `size` bytes."""
    out[start : start + size] = data[start : start + size]


def by_version(data: bytes, at: int) -> tuple[int, int]:
    """What follows where nothing says so: told by the first four bits."""
    return at, {4: IPV4, 6: IPV6}.get(data[at] >> 4, 0) if at < len(data) else 0


def ethernet(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """IEEE 802.3 with VLAN, MPLS and PPPoE tags."""
    if len(data) < 14:
        return len(data), 0
    out[0:6], out[6:12] = names.mac(data[0:6]), names.mac(data[6:12])
    return by_types(data, out, 12)


def by_types(data: bytes, out: bytearray, at: int) -> tuple[int, int]:
    """EtherType and tags from `at` on."""
    for _ in range(_DEPTH):
        if at + 2 > len(data):
            break
        kind = int.from_bytes(data[at : at + 2], "big")
        copied(data, out, at, 2)
        at += 2
        if kind in _TAGS:
            copied(data, out, at, 2)
            at += 2
        elif kind in _SHIMS:
            copied(data, out, at, _SHIMS[kind])
            at += _SHIMS[kind]
        elif kind in _MPLS:
            return _labels(data, out, at)
        elif kind == _PPPOE:
            copied(data, out, at, 8)
            return at + 8, _PPP.get(int.from_bytes(data[at + 6 : at + 8], "big"), 0)
        elif kind > 1500:
            return at, kind
        elif data[at : at + 6] == _SNAP:
            copied(data, out, at, 6)
            at += 6
        else:
            break
    return at, 0


def _labels(data: bytes, out: bytearray, at: int) -> tuple[int, int]:
    while at + 4 <= len(data):
        copied(data, out, at, 4)
        at += 4
        if data[at - 2] & 1:
            return by_version(data, at)
    return at, 0


def _address(data: bytes, out: bytearray, at: int, size: int, names: Pseudonyms) -> None:
    """A link address in a field of eight bytes; one that is no MAC is left out."""
    if size == 6 and at + 6 <= len(data):
        out[at : at + 6] = names.mac(data[at : at + 6])


def cooked(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """LINUX_SLL: the sender's address in eight bytes, padded."""
    if len(data) < 16:
        return len(data), 0
    copied(data, out, 0, 6)
    _address(data, out, 6, int.from_bytes(data[4:6], "big"), names)
    return by_types(data, out, 14)


def cooked2(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """LINUX_SLL2: EtherType first, the address at the end."""
    if len(data) < 20:
        return len(data), 0
    kind = int.from_bytes(data[0:2], "big")
    copied(data, out, 0, 2)
    copied(data, out, 8, 4)
    _address(data, out, 12, data[11], names)
    return 20, kind if kind > 1500 else 0


def raw(data: bytes, _: bytearray, __: Pseudonyms) -> tuple[int, int]:
    """IP from the first byte."""
    return by_version(data, 0)


def loopback(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """NULL and LOOP: four bytes of address family."""
    copied(data, out, 0, 4)
    return by_version(data, 4)


def point_to_point(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """PPP, with address and control bytes or without, and its protocol in one or two bytes (RFC 1661, RFC 1662)."""
    return _ppp(data, out, 0)


def _ppp(data: bytes, out: bytearray, at: int) -> tuple[int, int]:
    at += 2 if data[at : at + 2] == b"\xff\x03" else 0
    size = 1 if data[at : at + 1] and data[at] & 1 else 2
    copied(data, out, 0, at + size)
    return at + size, _PPP.get(int.from_bytes(data[at : at + size], "big"), 0)


def pppd(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """PPP of pppd: the direction stands in the place of the address byte."""
    return _ppp(data, out, 2 if data[1:2] == b"\x03" else 1)


def hdlc(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """Cisco HDLC: address, control, EtherType."""
    copied(data, out, 0, 2)
    return by_types(data, out, 2)


def llc(data: bytes, out: bytearray, at: int) -> tuple[int, int]:
    """IEEE 802.2, with SNAP when it says so."""
    if data[at : at + 6] == _SNAP:
        copied(data, out, at, 6)
        return by_types(data, out, at + 6)
    if data[at : at + 3] == b"\x06\x06\x03":
        copied(data, out, at, 3)
        return at + 3, IPV4
    return at, 0


def frame_relay(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """An address of two to four bytes (Q.922), then the identifiers of RFC 2427, or an EtherType as Cisco writes it."""
    at = next((k + 1 for k in range(min(4, len(data))) if data[k] & 1), 5)
    copied(data, out, 0, at)
    if data[at : at + 1] != b"\x03":
        return by_types(data, out, at)
    size = 3 if data[at + 1 : at + 2] == b"\0" else 2
    copied(data, out, at, size)
    at += size
    kind = data[at - 1 : at]
    if kind == b"\x80" and data[at : at + 3] == bytes(3):
        copied(data, out, at, 3)
        return by_types(data, out, at + 3)
    return at, {b"\xcc": IPV4, b"\x8e": IPV6}.get(kind, 0)


def fddi(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """A control byte, two addresses, LLC."""
    if len(data) < 13:
        return len(data), 0
    copied(data, out, 0, 1)
    out[1:7], out[7:13] = names.mac(data[1:7]), names.mac(data[7:13])
    return llc(data, out, 13)


def token_ring(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """Two control bytes, two addresses, the second of which tells by its first bit whether a route follows, LLC."""
    if len(data) < 15:
        return len(data), 0
    copied(data, out, 0, 2)
    source = bytes([data[8] & 0x7F]) + data[9:14]
    out[2:8], out[8:14] = names.mac(data[2:8]), names.mac(source)
    out[8] |= data[8] & 0x80
    if not data[8] & 0x80:
        return llc(data, out, 14)
    copied(data, out, 14, 2)  # length and direction; ring and bridge numbers are left out
    return llc(data, out, 14 + (data[14] & 31))


def _plain(size: int, type_at: int) -> Walk:
    """A header of one size that is only addresses, which are left out, but for an EtherType."""

    def walk(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
        if len(data) < size:
            return len(data), 0
        if type_at < 0:
            return llc(data, out, size)
        copied(data, out, type_at, 2)
        kind = int.from_bytes(data[type_at : type_at + 2], "big")
        return size, kind if kind > 1500 else 0

    return walk


def _switch_tag(size: int) -> Walk:
    """Ethernet with a switch's own tag of `size` bytes between the addresses and the EtherType."""

    def walk(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
        if len(data) < 14 + size:
            return len(data), 0
        out[0:6], out[6:12] = names.mac(data[0:6]), names.mac(data[6:12])
        copied(data, out, 12, size)
        return by_types(data, out, 12 + size)

    return walk


LINKS: Mapping[int, Walk] = {
    1: ethernet,
    113: cooked,
    276: cooked2,
    **dict.fromkeys((12, 14, 101, 228, 229), raw),
    **dict.fromkeys((0, 108), loopback),
    **dict.fromkeys((9, 50), point_to_point),
    104: hdlc,
    107: frame_relay,
    10: fddi,
    6: token_ring,
    166: pppd,
    **dict.fromkeys((100, 106), _plain(0, -1)),  # LLC alone, of ATM
    122: _plain(16, -1),
    138: _plain(18, 16),
    242: _plain(44, 40),
    **dict.fromkeys((281, 284), _switch_tag(4)),
    285: _switch_tag(8),
}
"""By LINKTYPE_ number. Wireless frames name networks and stations in many places: they are not among these."""
