"""Tunnels: what a packet of IP in IP, GRE, VXLAN, Geneve, GTP-U or Teredo carries, and where that starts.

Every kernel here returns instead of raising and reads only inside `[pos, end)`. The same source runs with NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.link.layers import IPV4, IPV6, NO_TYPE, OK, be16, be32, nibble, ppp
from trafficllm.core.types import U8

MAX_TUNNELS = 4
"""Tunnels in each other that are looked into: as many as the four-bit codes of a row's `tunnel` have room for."""
NONE, IPIP, GRE, ERSPAN, PPTP, VXLAN, GENEVE, GTP, TEREDO = range(9)
ETHERNET = 0x6558  # Transparent Ethernet Bridging (RFC 1701): a whole frame
_P_IPV4, _P_IPV6, _P_GRE, _P_UDP = 4, 41, 47, 17
_ERSPAN2, _ERSPAN3, _PPP = 0x88BE, 0x22EB, 0x880B
_VXLAN_PORT, _GENEVE_PORT, _GTP_PORT, _GRE_PORT, _TEREDO_PORT = 4789, 6081, 2152, 4754, 3544
_TEREDO_PREFIX = 0x20010000  # 2001::/32
_MAX_EXTENSIONS = 8  # GTP-U extension headers

_CARRIES = np.zeros(256, dtype=np.uint8)  # protocols that may be a tunnel
_CARRIES[[_P_IPV4, _P_IPV6, _P_GRE, _P_UDP]] = 1

Inside = tuple[Any, Any, Any]
"""tunnel code (NONE: nothing that is looked into), position of what is inside, its EtherType (ETHERNET: a frame)."""


@inner
def _after_ppp(buf: U8, pos: Word, end: Word) -> Inside:
    pos, kind, _vlan, error = ppp(buf, pos, end)
    return (PPTP if error == OK else NONE), pos, kind


@inner
def _erspan3(buf: U8, pos: Word, end: Word) -> Inside:
    """ERSPAN type III (draft-foschiano-erspan 4.3): frame type 0 is Ethernet, 2 an IP packet, others are not defined."""
    if end - pos < 12:
        return NONE, pos, NO_TYPE
    frame_type = i64(buf[pos + 10]) >> 2 & 31
    pos += 12 + (i64(buf[pos + 11]) & 1) * 8
    if frame_type == 0:
        return ERSPAN, pos, ETHERNET
    if frame_type != 2:
        return NONE, pos, NO_TYPE
    pos, kind, _vlan, _error = nibble(buf, pos, end)
    return ERSPAN, pos, kind


@inner
def _gre(buf: U8, pos: Word, end: Word) -> Inside:
    """GRE (RFC 2784, RFC 2890), PPTP's version 1 (RFC 2637), ERSPAN types I to III (draft-foschiano-erspan)."""
    if end - pos < 4:
        return NONE, pos, NO_TYPE
    flags, kind = be16(buf, pos), be16(buf, pos + 2)
    pos += 4 + (flags >> 15) * 4 + (flags >> 13 & 1) * 4 + (flags >> 12 & 1) * 4
    if flags & 0x4000:  # source routes: nobody has sent them for decades
        return NONE, pos, NO_TYPE
    if flags & 7 == 1:
        if kind != _PPP:
            return NONE, pos, NO_TYPE
        return _after_ppp(buf, pos + (flags >> 7 & 1) * 4, end)
    if flags & 7:
        return NONE, pos, NO_TYPE
    if kind == _PPP:
        return _after_ppp(buf, pos, end)
    if kind == _ERSPAN2:
        return ERSPAN, pos + (flags >> 12 & 1) * 8, ETHERNET  # without sequence numbers: type I, no header at all
    if kind == _ERSPAN3:
        return _erspan3(buf, pos, end)
    return GRE, pos, kind


@inner
def _gtp(buf: U8, pos: Word, end: Word) -> Inside:
    """GTP-U (3GPP TS 29.281): a G-PDU of version 1 with its extension headers."""
    if end - pos < 12 or buf[pos] >> 4 != 3 or buf[pos + 1] != 0xFF:
        return NONE, pos, NO_TYPE
    flags, following = i64(buf[pos]) & 7, i64(buf[pos + 11])
    pos += 8
    if flags:
        pos += 4
    if flags & 4:
        for _ in range(_MAX_EXTENSIONS):
            if following == 0:
                break
            size = i64(buf[pos]) * 4 if pos < end else i64(0)
            if size == 0 or size > end - pos:
                return NONE, pos, NO_TYPE
            pos += size
            following = i64(buf[pos - 1])
    pos, kind, _vlan, _error = nibble(buf, pos, end)
    return GTP, pos, kind


@inner
def _teredo(buf: U8, pos: Word, end: Word) -> Inside:
    """IPv6 behind Teredo's authentication and origin headers (RFC 4380 5.1.1)."""
    if end - pos >= 4 and be16(buf, pos) == 1:
        pos += 13 + i64(buf[pos + 2]) + i64(buf[pos + 3])
    if end - pos >= 2 and be16(buf, pos) == 0:
        pos += 8
    return TEREDO, pos, IPV6


@inner
def _of_teredo(buf: U8, pos: Word, end: Word, length: Word) -> Word:
    """A whole IPv6 packet of `length` bytes from or to an address of Teredo."""
    if end - pos < 40 or be16(buf, pos + 4) + 40 != length:
        return False
    return be32(buf, pos + 8) == _TEREDO_PREFIX or be32(buf, pos + 24) == _TEREDO_PREFIX


@inner
def _udp(buf: U8, row: Any, pos: Word, end: Word) -> Inside:
    """VXLAN (RFC 7348), Geneve (RFC 8926), GTP-U and GRE (RFC 8086) by the target's port; Teredo by its servers' port, or between
    peers, whose ports are any, by its addresses and a length that is right to the byte."""
    port = i64(row["dport"])
    if port == _TEREDO_PORT or row["sport"] == _TEREDO_PORT:
        return _teredo(buf, pos, end)
    if end - pos < 8:
        return NONE, pos, NO_TYPE
    if buf[pos] >> 4 == 6 and _of_teredo(buf, pos, end, i64(row["payload_len"])):
        return TEREDO, pos, IPV6
    if port == _GRE_PORT:
        return _gre(buf, pos, end)
    if port == _VXLAN_PORT and buf[pos] & 8:
        return VXLAN, pos + 8, ETHERNET
    if port == _GENEVE_PORT and buf[pos] >> 6 == 0:
        return GENEVE, pos + 8 + (i64(buf[pos]) & 63) * 4, be16(buf, pos + 2)
    if port == _GTP_PORT:
        return _gtp(buf, pos, end)
    return NONE, pos, NO_TYPE


@inner
def inside(buf: U8, row: Any, pos: Word, end: Word) -> Inside:
    """What the payload of a decoded packet carries; the EtherType is that of a header which starts at the position."""
    proto = i64(row["proto"])
    if not _CARRIES[proto]:
        return NONE, pos, NO_TYPE
    code, kind = IPIP, IPV4
    if proto == _P_UDP:
        code, pos, kind = _udp(buf, row, pos, end)
    elif proto == _P_GRE:
        code, pos, kind = _gre(buf, pos, end)
    elif proto == _P_IPV6:
        kind = IPV6
    if kind == ETHERNET:
        if end - pos < 14:
            return NONE, pos, NO_TYPE
        kind = be16(buf, pos + 12)
        pos += 14
    if pos >= end:
        return NONE, pos, NO_TYPE
    return code, pos, kind


@inner
def believable(row: Any, over_udp: bool, room: Word) -> Word:
    """Whether the packet found inside is one: it makes a flow or a fragment.

    A port is only a hint: over UDP the headers must be without fault and fit into the `room` bytes that the tunnel has from the
    inner IP header on. A packet with nothing behind IPv6 (59) keeps a tunnel open and says nothing.
    """
    if row["usable"] == 0 or row["proto"] == 59:
        return False
    return not over_udp or (row["error"] == 0 and i64(row["ip_len"]) <= room)
