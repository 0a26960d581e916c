"""Link layers down to the network layer: where does IP start, and what was in between.

Every kernel here returns instead of raising and reads only inside `[pos, end)`. The same source runs with NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.link.wireless import radio, wlan
from trafficllm.capture.link.words import (
    BY_VERSION,
    DEPTH,
    ETHERNET,
    IPV4,
    IPV6,
    LINK,
    LLC,
    MET_ETHERNET,
    MET_SERVICE_TAG,
    MET_TAG,
    NO_TYPE,
    OK,
    PADDED_WLAN,
    PPP,
    SWAPPED_WLAN,
    TRUNCATED,
    UNKNOWN,
    WLAN,
    Place,
    be16,
    forget,
    note,
)
from trafficllm.capture.link.wrapped import ENC, ERF, FRAME_RELAY, JUNIPER, NFLOG, PFLOG, PKTAP, PPI, PPPD, TOKEN_RING, loopback, wrapped
from trafficllm.core.types import I64, U8

_MAX_STEPS = 16  # link header, VLAN tags, MPLS, PPPoE, 802.1ah... one inside the other; deeper stacks are attacks
_LINKS = 300  # LINKTYPE_ numbers below this are looked up

_PLAIN = np.full((_LINKS, 3), -1, dtype=np.int64)
"""Link types whose header has one size: size, where its EtherType stands, or (-1) the kind of what follows."""
for _number_of, _size, _type_at, _next in (
    (1, 14, 12, 0),  # Ethernet
    (10, 13, -1, LLC),  # FDDI
    (12, 0, -1, BY_VERSION), (14, 0, -1, BY_VERSION), (101, 0, -1, BY_VERSION), (228, 0, -1, BY_VERSION), (229, 0, -1, BY_VERSION),
    (9, 0, -1, PPP), (50, 0, -1, PPP), (51, 6, -1, PPP),
    (100, 0, -1, LLC), (106, 0, -1, LLC),
    (104, 4, 2, 0),  # Cisco HDLC
    (105, 0, -1, WLAN),
    (113, 16, 14, 0), (276, 20, 0, 0),  # Linux cooked
    (122, 16, -1, LLC),  # IP over Fibre Channel
    (138, 18, 16, 0),  # IP over IEEE 1394
    (204, 1, -1, PPP), (205, 1, -1, LINK + 104), (206, 1, -1, LINK + FRAME_RELAY),  # a byte for the direction
    (240, 4, -1, LINK + 1), (241, 12, -1, LINK + 1),  # netANALYZER, and with the preamble
    (242, 44, 40, 0),  # IP over InfiniBand
    (274, 8, -1, LINK + 1),  # mPackets that are whole: preamble and frame
    (281, 18, 16, 0), (282, 4, -1, LINK + 1), (284, 18, 16, 0), (285, 22, 20, 0),  # Ethernet with a switch's own tag
):  # fmt: skip
    _PLAIN[_number_of] = _size, _type_at, _next
_WRAPPED = np.zeros(_LINKS, dtype=np.uint8)
_WRAPPED[[PKTAP, PPI, ERF, NFLOG, PFLOG, FRAME_RELAY, TOKEN_RING, PPPD, *JUNIPER]] = 1
_HAS_MACS = np.zeros(_LINKS, dtype=np.uint8)
_HAS_MACS[[1, 281, 284, 285]] = 1

_END, _TAG, _SERVICE_TAG, _MPLS, _PPPOE, _BRIDGED, _LLC_FRAME, _FRAME, _NSH, _MACSEC, _SHIM = range(11)
_STEP = np.zeros(0x10000, dtype=np.uint8)
"""What a header of an EtherType is; 0: the walk ends there."""
_STEP[1:1501] = _LLC_FRAME
_STEP[[0x8100, 0x9100, 0x9200]] = _TAG
_STEP[0x88A8] = _SERVICE_TAG
_STEP[[0x8847, 0x8848]] = _MPLS
_STEP[0x8864] = _PPPOE
_STEP[0x8903] = _BRIDGED  # FabricPath's tag: an Ethernet frame inside, the header before it is none
_STEP[ETHERNET] = _FRAME
_STEP[0x894F] = _NSH
_STEP[0x88E5] = _MACSEC
_SHIMS = (
    (0x88E7, 16),  # 802.1ah: the I-TAG and the customer's addresses
    (0x8926, 4),  # VN-Tag
    (0x8909, 6),  # Cisco MetaData: version, length, option, group tag
    (0x8905, 6),  # Cisco TTag: a time
    (0x892F, 4),  # HSR (IEC 62439-3)
    (0xF1C1, 4),  # R-TAG (802.1CB)
    (0x893F, 6),  # E-TAG (802.1BR)
)
"""EtherTypes of headers of one size, which ends with the next EtherType: where that stands."""
_TYPE_AT = np.zeros(_SHIM + len(_SHIMS), dtype=np.int64)
for _number, (_kind, _type_at) in enumerate(_SHIMS):
    _STEP[_kind], _TYPE_AT[_SHIM + _number] = _SHIM + _number, _type_at
_NSH_KINDS = np.array((NO_TYPE, IPV4, IPV6, ETHERNET, 0x894F, 0x8847), dtype=np.int64)  # RFC 8300 2.2


@inner
def _by_version(buf: U8, pos: Word, end: Word) -> Place:
    """What the version of an IP header says it is."""
    if pos >= end:
        return pos, NO_TYPE, TRUNCATED
    version = i64(buf[pos]) >> 4
    if version == 4:
        return pos, IPV4, OK
    return pos, IPV6 if version == 6 else NO_TYPE, OK


@inner
def _ppp(buf: U8, pos: Word, end: Word) -> Place:
    """PPP (RFC 1661): optional address and control, protocol of one or two bytes."""
    if pos + 2 <= end and buf[pos] == 0xFF and buf[pos + 1] == 0x03:
        pos += 2
    if pos >= end:
        return pos, NO_TYPE, TRUNCATED
    proto = i64(buf[pos])
    if proto & 1:
        pos += 1
    else:
        if pos + 2 > end:
            return pos, NO_TYPE, TRUNCATED
        proto = be16(buf, pos)
        pos += 2
    if proto == 0x21:
        return pos, IPV4, OK
    if proto == 0x57:
        return pos, IPV6, OK
    if proto == 0x31 and pos + 2 <= end and buf[pos + 1] == 1:  # bridging (RFC 3518): flags, a MAC type
        return pos + 2, ETHERNET, OK
    return pos, 0x8847 if proto == 0x0281 else NO_TYPE, OK


@inner
def _llc(buf: U8, pos: Word, end: Word) -> Place:
    """IEEE 802.2 LLC, with SNAP when it says so."""
    if pos + 3 > end:
        return pos, NO_TYPE, TRUNCATED
    if buf[pos] == 0xAA and buf[pos + 1] == 0xAA:
        if pos + 8 > end:
            return pos, NO_TYPE, TRUNCATED
        if be16(buf, pos + 3) == 0 and (buf[pos + 5] == 0 or buf[pos + 5] == 0xF8):
            return pos + 8, be16(buf, pos + 6), OK
        if be16(buf, pos + 3) == 0x80 and buf[pos + 5] == 0xC2 and be16(buf, pos + 6) == 7:  # bridged Ethernet (RFC 2684)
            return pos + 10, ETHERNET, OK
        return pos + 8, NO_TYPE, OK
    if buf[pos] == 0x06 and buf[pos + 1] == 0x06:
        return pos + 3, IPV4, OK
    return pos + 3, NO_TYPE, OK


@inner
def _mpls(buf: U8, pos: Word, end: Word) -> Place:
    """Label stack (RFC 3032) to its bottom; what follows is told by its first nibble (RFC 4928)."""
    while pos + 4 <= end:
        bottom = buf[pos + 2] & 1
        pos += 4
        if bottom:
            if pos + 4 < end and buf[pos] >> 4 == 0:  # pseudowire control word, then Ethernet
                return pos + 4, ETHERNET, OK
            return pos, BY_VERSION, OK
    return pos, NO_TYPE, TRUNCATED


@inner
def _nsh(buf: U8, pos: Word, end: Word) -> Place:
    """Network Service Header (RFC 8300): its length in words, its next protocol."""
    if pos + 8 > end:
        return pos, NO_TYPE, TRUNCATED
    size, following = (be16(buf, pos) & 63) * 4, i64(buf[pos + 3])
    if size < 8 or size > end - pos:
        return pos, NO_TYPE, TRUNCATED
    return pos + size, _NSH_KINDS[following] if following < _NSH_KINDS.shape[0] else NO_TYPE, OK


@inner
def _macsec(buf: U8, pos: Word, end: Word) -> Place:
    """MACsec (802.1AE) that only authenticates: the frame's own type follows; anything encrypted ends the walk."""
    if pos + 6 > end:
        return pos, NO_TYPE, TRUNCATED
    control = i64(buf[pos])
    if control & 0x8C:  # a version that is not 0, encrypted, changed
        return pos, 0x88E5, OK
    at = pos + (14 if control & 0x20 else 6)  # with the channel's identifier
    if at + 2 > end:
        return pos, NO_TYPE, TRUNCATED
    return at + 2, be16(buf, at), OK


@inner
def _link(buf: U8, pos: Word, end: Word, link: Word, trail: I64) -> Place:
    """What the header of a frame of link type `link` is followed by."""
    if link >= _LINKS:
        return pos, NO_TYPE, UNKNOWN
    size = _PLAIN[link, 0]
    if size >= 0:
        if pos + size > end:
            return pos, NO_TYPE, TRUNCATED
        if _HAS_MACS[link]:
            note(trail, MET_ETHERNET, pos, end, 0)
        if _PLAIN[link, 1] < 0:
            return pos + size, _PLAIN[link, 2], OK
        return pos + size, be16(buf, pos + _PLAIN[link, 1]), OK
    if _WRAPPED[link]:
        return wrapped(buf, pos, end, link)
    if (link == 0) | (link == 108) | (link == ENC):
        return loopback(buf, pos, end, 12 if link == ENC else 4)
    if (link == 119) | (link == 127) | (link == 163):
        return radio(buf, pos, end, link)
    return pos, NO_TYPE, UNKNOWN


@inner
def _above(buf: U8, pos: Word, end: Word, kind: Word, trail: I64) -> Place:
    """One step from a header that is no EtherType's."""
    if kind == BY_VERSION:
        return _by_version(buf, pos, end)
    if kind == PPP:
        return _ppp(buf, pos, end)
    if kind == LLC:
        return _llc(buf, pos, end)
    if (kind == WLAN) | (kind == PADDED_WLAN) | (kind == SWAPPED_WLAN):
        return wlan(buf, pos, end, kind == PADDED_WLAN, kind == SWAPPED_WLAN, trail)
    return _link(buf, pos, end, kind - LINK, trail)


@inner
def _step(buf: U8, pos: Word, end: Word, step: Word, trail: I64) -> Place:
    """One step from a header of an EtherType; tags are read by `network`."""
    if step == _MPLS:
        return _mpls(buf, pos, end)
    if step == _PPPOE:
        return pos + 6, PPP, OK
    if step == _BRIDGED:
        forget(trail, MET_ETHERNET)
        return pos + 2, ETHERNET, OK
    if step == _LLC_FRAME:
        return pos, LLC, OK
    if step == _FRAME:
        return pos, LINK + 1, OK
    if step == _NSH:
        return _nsh(buf, pos, end)
    if step == _MACSEC:
        return _macsec(buf, pos, end)
    at = pos + _TYPE_AT[step]
    if at + 2 > end:
        return pos, NO_TYPE, TRUNCATED
    return at + 2, be16(buf, at), OK


@inner
def network(buf: U8, pos: Word, end: Word, kind: Word, trail: I64) -> Any:
    """Walk from where a header of `kind` starts to the network layer: (position, EtherType, VLAN id or -1, error code)."""
    vlan, error = i64(-1), i64(OK)
    if kind == LINK + 1 and end - pos >= 14:  # nearly always
        note(trail, MET_ETHERNET, pos, end, 0)
        kind = be16(buf, pos + 12)
        pos += 14
    for _ in range(_MAX_STEPS):
        if (kind == IPV4) | (kind == IPV6):
            return pos, kind, vlan, error
        if kind >= LINK:
            pos, kind, error = _above(buf, pos, end, kind, trail)
        else:
            step = i64(_STEP[kind])
            if step == _END:
                return pos, kind, vlan, error
            if step <= _SERVICE_TAG:
                note(trail, MET_TAG if step == _TAG and kind != 0x9200 else MET_SERVICE_TAG, pos, end, 0)
                if pos + 4 > end:
                    return pos, kind, vlan, TRUNCATED
                if vlan < 0:
                    vlan = be16(buf, pos) & 0xFFF
                kind = be16(buf, pos + 2)
                pos += 4
            else:
                before = kind
                pos, kind, error = _step(buf, pos, end, step, trail)
                if kind == before and step == _MACSEC:
                    return pos, kind, vlan, error
        if error != OK:
            return pos, kind, vlan, error
    return pos, kind if kind < LINK else NO_TYPE, vlan, DEPTH
