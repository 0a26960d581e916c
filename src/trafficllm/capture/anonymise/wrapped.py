"""Headers that capturing systems put before a frame, under other names: lengths and types stay; process, interface and rule names go.

The functions are as those of `anonymise.links`; a position of -1 says that the frame within is of a link type that is not understood.
"""

from __future__ import annotations

from collections.abc import Mapping

from trafficllm.capture.anonymise.links import IPV4, IPV6, LINKS, Walk, by_version, copied
from trafficllm.capture.anonymise.pseudonyms import Pseudonyms

_FAMILIES = {2: IPV4, 10: IPV6, 24: IPV6, 28: IPV6, 30: IPV6}
"""Numbers of address families in the BSDs, macOS and Linux."""
_NOT_UNDERSTOOD = (-1, 0)
_MAGIC = b"MGC"
_MAX_FIELDS, _PACKET = 32, 9  # NFLOG
_ETHERNET, _HDLC, _PPP, _FRAME_RELAY = 1, 104, 9, 107


def _within(data: bytes, out: bytearray, names: Pseudonyms, at: int, link: int) -> tuple[int, int]:
    """A frame of link type `link` that begins at `at`."""
    walk = LINKS.get(link)
    if walk is None:
        return _NOT_UNDERSTOOD
    if at >= len(data):
        return len(data), 0
    part = bytearray(len(data) - at)
    place, kind = walk(data[at:], part, names)
    out[at:] = part
    return at + place, kind


def _before(size: int, link: int) -> Walk:
    """A header of one size that names nobody, before a frame."""

    def walk(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
        copied(data, out, 0, size)
        return _within(data, out, names, size, link)

    return walk


def pktap(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """Apple's PKTAP: length, type and link type of twelve bytes; what follows names interface and process."""
    size = int.from_bytes(data[0:4], "little")
    if len(data) < 12 or size < 12:
        return _NOT_UNDERSTOOD
    copied(data, out, 0, 12)
    return _within(data, out, names, size, int.from_bytes(data[8:12], "little"))


def ppi(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """PPI: version, flags, length and link type; its fields tell places and radios and are left out."""
    size = int.from_bytes(data[2:4], "little")
    if len(data) < 8 or size < 8:
        return _NOT_UNDERSTOOD
    copied(data, out, 0, 8)
    return _within(data, out, names, size, int.from_bytes(data[4:8], "little"))


def pflog(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """OpenBSD's packet filter log: length, family, action and reason; interface, rule set and user are left out."""
    size = data[0] + 3 & ~3 if data else 0
    if size < 4 or size > len(data):
        return len(data), 0
    copied(data, out, 0, 4)
    return size, _FAMILIES.get(data[1], 0)


def enc(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """OpenBSD's ENC: an address family in either byte order, an SPI, flags."""
    copied(data, out, 0, 4)
    copied(data, out, 8, 4)
    family = int.from_bytes(data[0:4], "little") if data[0:1] != b"\0" else int.from_bytes(data[0:4], "big")
    return min(12, len(data)), _FAMILIES.get(family, 0)


def nflog(data: bytes, out: bytearray, _: Pseudonyms) -> tuple[int, int]:
    """Linux's netfilter log: fields of length and type in either byte order; all but the packet are emptied."""
    copied(data, out, 0, 4)
    at = 4
    for _field in range(_MAX_FIELDS):
        if at + 4 > len(data):
            break
        size, kind = (int.from_bytes(data[k : k + 2], "little") for k in (at, at + 2))
        if not 4 <= size <= len(data) - at or kind & 0x7FFF > 255:
            size, kind = (int.from_bytes(data[k : k + 2], "big") for k in (at, at + 2))
        copied(data, out, at, 4)
        if kind & 0x7FFF == _PACKET:
            return at + 4, _FAMILIES.get(data[0], 0)
        if size < 4:
            break
        at += size + 3 & ~3
    return len(data), 0


def juniper(link: int) -> Walk:
    """Juniper's header: magic, flags, extensions, which are emptied; a link layer or the packet alone."""

    def walk(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
        if len(data) < 6 or data[:3] != _MAGIC:
            return _NOT_UNDERSTOOD
        size = 6 + int.from_bytes(data[4:6], "big") if data[3] & 0x80 else 4
        copied(data, out, 0, 6 if data[3] & 0x80 else 4)
        if data[3] & 2:
            copied(data, out, size, 4)
            return by_version(data, size + 4)
        return _within(data, out, names, size, link) if link else _NOT_UNDERSTOOD

    return walk


def erf(data: bytes, out: bytearray, names: Pseudonyms) -> tuple[int, int]:
    """Endace's record header of sixteen bytes, its extensions emptied but for their types, then what its type says."""
    if len(data) < 16:
        return len(data), 0
    copied(data, out, 0, 16)
    kind, more, at = data[8] & 0x7F, data[8] & 0x80, 16
    while more and at < len(data):
        copied(data, out, at, 1)
        more, at = data[at] & 0x80, at + 8
    if kind in {2, 11, 16, 20}:  # Ethernet behind two bytes of offset and padding
        return _within(data, out, names, at + 2, _ETHERNET)
    if kind in {22, 23}:
        return by_version(data, at)
    if kind in {1, 10, 15, 17}:
        return _within(data, out, names, at, _PPP if data[at : at + 2] == b"\xff\x03" else _HDLC)
    return _NOT_UNDERSTOOD


WALKS: Mapping[int, Walk] = {
    **LINKS,
    258: pktap,
    192: ppi,
    197: erf,
    239: nflog,
    117: pflog,
    109: enc,
    51: _before(6, _PPP),  # PPPoE's header alone
    204: _before(1, _PPP),
    205: _before(1, _HDLC),
    206: _before(1, _FRAME_RELAY),
    240: _before(4, _ETHERNET),
    241: _before(12, _ETHERNET),
    274: _before(8, _ETHERNET),
    282: _before(4, _ETHERNET),
    **dict.fromkeys((130, 131, 132, 133, 134, 135, 136, 137, 164, 168, 174, 183, 194, 200, 233, 234, 238), juniper(0)),
    **dict.fromkeys((167, 178), juniper(_ETHERNET)),
    179: juniper(_PPP),
    180: juniper(_FRAME_RELAY),
    181: juniper(_HDLC),
}
"""Every link type that is understood, by LINKTYPE_ number; wireless ones name stations and networks in many places and are not."""
