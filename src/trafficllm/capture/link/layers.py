"""Link layers down to the network layer: where does IP start, and what was in between.

Every kernel here returns instead of raising and reads only inside `[pos, end)`. The same source runs with NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.core.types import U8

OK, TRUNCATED, UNKNOWN, DEPTH = 0, 1, 2, 3
NO_TYPE = 0
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
_MAX_TAGS = 12  # VLAN, MPLS, PPPoE, 802.1ah... one inside the other; deeper stacks are attacks

_ETHERNET, _RAW, _COOKED, _LOOPBACK, _POINT, _HDLC, _WIRELESS, _LLC = range(1, 9)
_FAMILIES = (
    (_ETHERNET, (1,)),
    (_RAW, (12, 14, 101, 228, 229)),
    (_COOKED, (113, 276)),
    (_LOOPBACK, (0, 108)),
    (_POINT, (9, 50, 51)),
    (_HDLC, (104,)),
    (_WIRELESS, (105, 119, 127, 163, 192)),
    (_LLC, (100, 106)),
)
_FAMILY = np.zeros(300, dtype=np.uint8)  # by LINKTYPE_ number; 0: no IP is looked for
for _family, _links in _FAMILIES:
    _FAMILY[list(_links)] = _family

Place = tuple[Any, Any, Any, Any]
"""position of the network layer, EtherType, VLAN id (-1: none), error code."""


@inner
def be16(buf: U8, pos: Word) -> Word:
    """Big-endian 16 bits."""
    return i64(buf[pos]) << 8 | i64(buf[pos + 1])


@inner
def be32(buf: U8, pos: Word) -> Word:
    """Big-endian 32 bits."""
    return be16(buf, pos) << 16 | be16(buf, pos + 2)


@inner
def nibble(buf: U8, pos: Word, end: Word) -> Place:
    """What the version of an IP header says it is."""
    if pos >= end:
        return pos, NO_TYPE, -1, TRUNCATED
    version = i64(buf[pos]) >> 4
    if version == 4:
        return pos, IPV4, -1, OK
    if version == 6:
        return pos, IPV6, -1, OK
    return pos, NO_TYPE, -1, OK


@inner
def ppp(buf: U8, pos: Word, end: Word) -> Place:
    """PPP (RFC 1661): optional address and control, protocol of one or two bytes."""
    if pos + 2 <= end and buf[pos] == 0xFF and buf[pos + 1] == 0x03:
        pos += 2
    if pos >= end:
        return pos, NO_TYPE, -1, TRUNCATED
    proto = i64(buf[pos])
    if proto & 1:
        pos += 1
    else:
        if pos + 2 > end:
            return pos, NO_TYPE, -1, TRUNCATED
        proto = be16(buf, pos)
        pos += 2
    if proto == 0x21:
        return pos, IPV4, -1, OK
    if proto == 0x57:
        return pos, IPV6, -1, OK
    if proto == 0x0281:
        return pos, 0x8847, -1, OK
    return pos, NO_TYPE, -1, OK


@inner
def _loopback(buf: U8, pos: Word, end: Word) -> Place:
    """BSD loopback: an address family in the byte order of the machine that wrote it, or network order (LOOP)."""
    if pos + 4 > end:
        return pos, NO_TYPE, -1, TRUNCATED
    family = i64(buf[pos]) | i64(buf[pos + 1]) << 8
    if family == 0:
        family = be16(buf, pos + 2)
    pos += 4
    if family == 2:
        return pos, IPV4, -1, OK
    if (family == 24) | (family == 28) | (family == 30) | (family == 10):
        return pos, IPV6, -1, OK
    return pos, NO_TYPE, -1, OK


@inner
def _llc(buf: U8, pos: Word, end: Word) -> Place:
    """IEEE 802.2 LLC, with SNAP when it says so."""
    if pos + 3 > end:
        return pos, NO_TYPE, -1, TRUNCATED
    if buf[pos] == 0xAA and buf[pos + 1] == 0xAA:
        if pos + 8 > end:
            return pos, NO_TYPE, -1, TRUNCATED
        if be16(buf, pos + 3) == 0 and (buf[pos + 5] == 0 or buf[pos + 5] == 0xF8):
            return pos + 8, be16(buf, pos + 6), -1, OK
        return pos + 8, NO_TYPE, -1, OK
    if buf[pos] == 0x06 and buf[pos + 1] == 0x06:
        return pos + 3, IPV4, -1, OK
    return pos + 3, NO_TYPE, -1, OK


@inner
def _wlan(buf: U8, pos: Word, end: Word) -> Place:
    """IEEE 802.11 data frames that are not encrypted; anything else carries no IP."""
    if pos + 24 > end:
        return pos, NO_TYPE, -1, TRUNCATED
    control, flags = i64(buf[pos]), i64(buf[pos + 1])
    if (control >> 2) & 3 != 2 or flags & 0x40 or control & 0x40:
        return pos, NO_TYPE, -1, OK
    head = 24
    if flags & 3 == 3:
        head += 6
    if control & 0x80:
        head += 2
        if flags & 0x80:
            head += 4  # HT control
        if pos + head <= end and buf[pos + head - (6 if flags & 0x80 else 2)] & 0x80:
            head += 14  # A-MSDU: the first subframe
    return _llc(buf, pos + head, end)


@inner
def _radio(buf: U8, pos: Word, end: Word, link: Word) -> Place:
    """802.11 itself (105), or behind Radiotap (127), Prism (119), AVS (163) and PPI (192)."""
    if link == 105:
        return _wlan(buf, pos, end)
    if pos + 8 > end:
        return pos, NO_TYPE, -1, TRUNCATED
    skip = i64(buf[pos + 2]) | i64(buf[pos + 3]) << 8
    if (link == 119) | (link == 163):
        skip = be32(buf, pos + 4)
        if link == 119 and be32(buf, pos) < 0x80211000:
            skip = 144
    if link == 192 and (buf[pos + 4] != 105 or be16(buf, pos + 5) != 0):
        return pos, NO_TYPE, -1, OK
    if skip < 8 or skip > end - pos:
        return pos, NO_TYPE, -1, TRUNCATED
    return _wlan(buf, pos + skip, end)


@inner
def _cooked(buf: U8, pos: Word, end: Word, link: Word) -> Place:
    """Linux cooked v1 (113) and v2 (276)."""
    head = 16 if link == 113 else 20
    if pos + head > end:
        return pos, NO_TYPE, -1, TRUNCATED
    kind = be16(buf, pos + 14) if link == 113 else be16(buf, pos)
    if kind == 4:
        return _llc(buf, pos + head, end)
    return pos + head, kind, -1, OK


@inner
def outermost(buf: U8, pos: Word, end: Word, link: Word) -> Place:
    """What the header of a frame of link type `link` is followed by."""
    family = i64(_FAMILY[link]) if link < _FAMILY.shape[0] else 0
    if family == _ETHERNET:
        if pos + 14 > end:
            return pos, NO_TYPE, -1, TRUNCATED
        return pos + 14, be16(buf, pos + 12), -1, OK
    if family == _RAW:
        return nibble(buf, pos, end)
    if family == _COOKED:
        return _cooked(buf, pos, end, link)
    if family == _LOOPBACK:
        return _loopback(buf, pos, end)
    if family == _POINT:
        return ppp(buf, pos + 6 if link == 51 else pos, end)
    if family == _HDLC:
        if pos + 4 > end:
            return pos, NO_TYPE, -1, TRUNCATED
        return pos + 4, be16(buf, pos + 2), -1, OK
    if family == _WIRELESS:
        return _radio(buf, pos, end, link)
    if family == _LLC:
        return _llc(buf, pos, end)
    return pos, NO_TYPE, -1, UNKNOWN


@inner
def _mpls(buf: U8, pos: Word, end: Word) -> Place:
    """Label stack (RFC 3032) to its bottom; what follows is told by its first nibble (RFC 4928)."""
    while pos + 4 <= end:
        bottom = buf[pos + 2] & 1
        pos += 4
        if bottom:
            if pos + 4 < end and buf[pos] >> 4 == 0:  # pseudowire control word, then Ethernet
                if pos + 18 > end:
                    return pos, NO_TYPE, -1, TRUNCATED
                return pos + 18, be16(buf, pos + 16), -1, OK
            return nibble(buf, pos, end)
    return pos, NO_TYPE, -1, TRUNCATED


@inner
def network(buf: U8, pos: Word, end: Word, kind: Word, error: Word) -> Place:
    """Walk from where a header of EtherType `kind` starts, found with `error`, to the network layer."""
    vlan = i64(-1)
    for _ in range(_MAX_TAGS):
        if (error != OK) | (kind == IPV4) | (kind == IPV6) | (kind == NO_TYPE):
            return pos, kind, vlan, error
        if (kind == 0x8100) | (kind == 0x88A8) | (kind == 0x9100) | (kind == 0x9200):
            if pos + 4 > end:
                return pos, kind, vlan, TRUNCATED
            if vlan < 0:
                vlan = be16(buf, pos) & 0xFFF
            kind = be16(buf, pos + 2)
            pos += 4
        elif (kind == 0x8847) | (kind == 0x8848):
            pos, kind, _tag, error = _mpls(buf, pos, end)
        elif kind == 0x8864:
            pos, kind, _tag, error = ppp(buf, pos + 6, end)
        elif kind == 0x8926:  # VN-Tag: four bytes and the next type
            if pos + 6 > end:
                return pos, kind, vlan, TRUNCATED
            kind = be16(buf, pos + 4)
            pos += 6
        elif (kind == 0x88E7) | (kind == 0x8903):  # 802.1ah I-TAG, FabricPath tag: an Ethernet frame inside
            skip = 4 if kind == 0x88E7 else 2
            if pos + skip + 14 > end:
                return pos, kind, vlan, TRUNCATED
            kind = be16(buf, pos + skip + 12)
            pos += skip + 14
        elif kind <= 1500:
            if kind == NO_TYPE:
                return pos, kind, vlan, OK
            pos, kind, _tag, error = _llc(buf, pos, end)
        else:
            return pos, kind, vlan, OK
    return pos, kind, vlan, DEPTH
