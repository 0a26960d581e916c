"""Headers that capturing systems put before a frame or an IP packet: PKTAP, PPI, ERF, NFLOG, PFLOG, ENC, Juniper's, Frame Relay's."""

from __future__ import annotations

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.link.words import (
    BY_VERSION,
    IPV4,
    IPV6,
    LINK,
    LLC,
    NO_TYPE,
    OK,
    PPP,
    TRUNCATED,
    UNKNOWN,
    Place,
    be16,
    be32,
    le16,
    le32,
)
from trafficllm.core.types import U8

PKTAP, PPI, ERF, NFLOG, PFLOG, ENC, FRAME_RELAY, TOKEN_RING, PPPD = 258, 192, 197, 239, 117, 109, 107, 6, 166
JUNIPER = (130, 131, 132, 133, 134, 135, 136, 137, 164, 167, 168, 174, 178, 179, 180, 181, 183, 194, 200, 233, 234, 238)
_JUNIPER_PPPOE, _JUNIPER_ETHERNET, _JUNIPER_PPP, _JUNIPER_FRAME_RELAY, _JUNIPER_HDLC = 167, 178, 179, 180, 181
_MAGIC = 0x4D4743
_MAX_FIELDS, _PAYLOAD = 32, 9  # NFLOG


@inner
def _family(value: Word) -> Word:
    """EtherType of an address family as the BSDs, macOS and Linux number it."""
    if value == 2:
        return IPV4
    return IPV6 if (value == 10) | (value == 24) | (value == 28) | (value == 30) else NO_TYPE


@inner
def loopback(buf: U8, pos: Word, end: Word, size: Word) -> Place:
    """BSD loopback and ENC (109): an address family in the byte order of the machine that wrote it, or network order (LOOP)."""
    if pos + size > end:
        return pos, NO_TYPE, TRUNCATED
    value = le16(buf, pos)
    if value == 0:
        value = be16(buf, pos + 2)
    return pos + size, _family(value), OK


@inner
def _pflog(buf: U8, pos: Word, end: Word) -> Place:
    """OpenBSD's packet filter log: length, address family, and more, padded to four bytes."""
    if pos + 4 > end:
        return pos, NO_TYPE, TRUNCATED
    size = (i64(buf[pos]) + 3) & ~3
    if size < 4 or size > end - pos:
        return pos, NO_TYPE, TRUNCATED
    return pos + size, _family(i64(buf[pos + 1])), OK


@inner
def _nflog(buf: U8, pos: Word, end: Word) -> Place:
    """Linux's netfilter log: fields of length and type in the byte order of the machine, one of them the packet."""
    if pos + 4 > end:
        return pos, NO_TYPE, TRUNCATED
    kind = _family(i64(buf[pos]))
    at = pos + 4
    for _ in range(_MAX_FIELDS):
        if at + 4 > end:
            break
        size, field = le16(buf, at), le16(buf, at + 2) & 0x7FFF
        if size < 4 or size > end - at or field > 255:
            size, field = be16(buf, at), be16(buf, at + 2) & 0x7FFF
        if field == _PAYLOAD:
            return at + 4, kind, OK
        if size < 4:
            break
        at += (size + 3) & ~3
    return pos, NO_TYPE, TRUNCATED


@inner
def _erf(buf: U8, pos: Word, end: Word) -> Place:
    """Endace's record header of 16 bytes and its extensions of 8, then what its type says."""
    if pos + 16 > end:
        return pos, NO_TYPE, TRUNCATED
    kind, more = i64(buf[pos + 8]) & 0x7F, i64(buf[pos + 8]) & 0x80
    pos += 16
    while more:
        if pos + 8 > end:
            return pos, NO_TYPE, TRUNCATED
        more = i64(buf[pos]) & 0x80
        pos += 8
    if (kind == 2) | (kind == 11) | (kind == 16) | (kind == 20):  # Ethernet behind two bytes of offset and padding
        return pos + 2, LINK + 1, OK
    if (kind == 22) | (kind == 23):
        return pos, BY_VERSION, OK
    if (kind == 1) | (kind == 10) | (kind == 15) | (kind == 17):
        if pos + 2 > end:
            return pos, NO_TYPE, TRUNCATED
        return pos, PPP if buf[pos] == 0xFF and buf[pos + 1] == 0x03 else LINK + 104, OK
    return pos, NO_TYPE, UNKNOWN


@inner
def _juniper(buf: U8, pos: Word, end: Word, link: Word) -> Place:
    """Juniper's header (magic, flags, extensions): link layer and packet, or without the link layer a protocol and the packet."""
    if pos + 6 > end:
        return pos, NO_TYPE, TRUNCATED
    flags = i64(buf[pos + 3])
    if be32(buf, pos) >> 8 != _MAGIC:
        return pos, NO_TYPE, UNKNOWN
    pos += 6 + be16(buf, pos + 4) if flags & 0x80 else 4
    if flags & 2:
        return pos + 4, BY_VERSION, OK
    if (link == _JUNIPER_ETHERNET) | (link == _JUNIPER_PPPOE):
        return pos, LINK + 1, OK
    if link == _JUNIPER_PPP:
        return pos, PPP, OK
    if link == _JUNIPER_FRAME_RELAY:
        return pos, LINK + FRAME_RELAY, OK
    if link == _JUNIPER_HDLC:
        return pos, LINK + 104, OK
    return pos, NO_TYPE, UNKNOWN


@inner
def _frame_relay(buf: U8, pos: Word, end: Word) -> Place:
    """An address of two to four bytes (Q.922), then the identifiers of RFC 2427, or an EtherType as Cisco writes it."""
    for _ in range(4):
        if pos >= end or buf[pos] & 1:
            break
        pos += 1
    pos += 1
    if pos + 4 > end:
        return pos, NO_TYPE, TRUNCATED
    if buf[pos] != 0x03:
        return pos + 2, be16(buf, pos), OK
    pos += 1
    if buf[pos] == 0:
        pos += 1
    if buf[pos] == 0xCC:
        return pos + 1, IPV4, OK
    if buf[pos] == 0x8E:
        return pos + 1, IPV6, OK
    if buf[pos] == 0x80 and pos + 6 <= end and be32(buf, pos) & 0xFFFFFF == 0:
        return pos + 6, be16(buf, pos + 4), OK
    return pos, NO_TYPE, OK


@inner
def wrapped(buf: U8, pos: Word, end: Word, link: Word) -> Place:
    """What follows the header of a frame of link type `link`."""
    if (link == PKTAP) | (link == PPI):
        if pos + 12 > end:
            return pos, NO_TYPE, TRUNCATED
        size = le32(buf, pos) if link == PKTAP else le16(buf, pos + 2)
        inner_link = le32(buf, pos + 8 if link == PKTAP else pos + 4)
        if size < 8 or size > end - pos:
            return pos, NO_TYPE, TRUNCATED
        return pos + size, LINK + min(inner_link, 0xFFFF), OK
    if link == ERF:
        return _erf(buf, pos, end)
    if link == NFLOG:
        return _nflog(buf, pos, end)
    if link == PFLOG:
        return _pflog(buf, pos, end)
    if link == FRAME_RELAY:
        return _frame_relay(buf, pos, end)
    if link == PPPD:  # PPP whose address byte tells the direction
        return (pos + 2 if end - pos > 2 and buf[pos + 1] == 0x03 else pos + 1), PPP, OK
    if link == TOKEN_RING:
        if pos + 15 > end:
            return pos, NO_TYPE, TRUNCATED
        return pos + 14 + (i64(buf[pos + 14]) & 31 if buf[pos + 8] & 0x80 else 0), LLC, OK
    return _juniper(buf, pos, end, link)
