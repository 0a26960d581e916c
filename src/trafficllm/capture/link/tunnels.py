"""Tunnels: what the payload of a packet carries, and where that starts.

Every kernel here returns instead of raising and reads only inside `[pos, end)`. The same source runs with NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.link.words import BY_VERSION, ETHERNET, IPV4, IPV6, LINK, NO_TYPE, PPP, SWAPPED_WLAN, WLAN, be16, be32
from trafficllm.capture.link.wrapped import FRAME_RELAY
from trafficllm.core.types import U8

MAX_TUNNELS = 4
"""Tunnels in each other that are looked into: as many as the four-bit codes of a row's `tunnel` have room for."""
NONE, IPIP, GRE, ERSPAN, PPTP, VXLAN, GENEVE, GTP, TEREDO, L2TP, LISP, CAPWAP, TZSP, ETHERIP, MPLS, AYIYA = range(16)
VXLAN_PORTS = (4789, 8472)
"""RFC 7348's port, and the one that Linux and Flannel had before it."""
_P_IPV4, _P_IPV6, _P_GRE, _P_UDP, _P_ETHERIP, _P_MPLS = 4, 41, 47, 17, 97, 137
_ERSPAN2, _ERSPAN3, _PPP, _WCCP, _EOIP, _ARUBA, _ARUBA_LAST, _CMD = 0x88BE, 0x22EB, 0x880B, 0x883E, 0x6400, 0x8200, 0x8370, 0x8909
_MPLS_TYPE, _NSH_TYPE, _FRAME_RELAY = 0x8847, 0x894F, 0x6559
_LEAST_TYPE = 0x600  # smaller numbers are no EtherTypes
_TEREDO_PREFIX = 0x20010000  # 2001::/32
_MAX_EXTENSIONS = 8  # GTP-U extension headers
_MAX_TAGS = 16  # TZSP fields

_CARRIES = np.zeros(256, dtype=np.uint8)  # protocols that may be a tunnel
_CARRIES[[_P_IPV4, _P_IPV6, _P_GRE, _P_UDP, _P_ETHERIP, _P_MPLS]] = 1

_GPE_PORT, _GTP_OLD_PORT, _GRE_UDP = 16, 17, 18  # codes of ports beside the tunnels' own
_EITHER = 0x80
_PORTS = (
    (6081, GENEVE), (2152, GTP), (3386, _GTP_OLD_PORT), (4754, _GRE_UDP), (4790, _GPE_PORT), (4341, LISP), (37008, TZSP), (6635, MPLS),
    (3544, TEREDO | _EITHER), (1701, L2TP | _EITHER), (5247, CAPWAP | _EITHER), (5072, AYIYA | _EITHER),
)  # fmt: skip
_GPE_KINDS = np.array((NO_TYPE, IPV4, IPV6, ETHERNET, _NSH_TYPE, _MPLS_TYPE), dtype=np.int64)  # draft-ietf-nvo3-vxlan-gpe 3.1

Inside = tuple[Any, Any, Any]
"""tunnel code (NONE: nothing that is looked into), position of what is inside, its kind (`words`)."""


def tunnel_ports(vxlan: Iterable[int] = VXLAN_PORTS) -> npt.NDArray[np.uint8]:
    """uint8 [65536]: which tunnel a UDP port is a sign of, with `vxlan` the ports of VXLAN."""
    table = np.zeros(65536, dtype=np.uint8)
    for port in vxlan:
        table[port] = VXLAN
    for port, code in _PORTS:
        table[port] = code
    return table


@inner
def _gre(buf: U8, pos: Word, end: Word) -> Inside:
    """GRE (RFC 2784, RFC 2890), PPTP's version 1 (RFC 2637), ERSPAN types I to III (draft-foschiano-erspan), vendors' types."""
    if end - pos < 4:
        return NONE, pos, NO_TYPE
    flags, kind = be16(buf, pos), be16(buf, pos + 2)
    if kind == _EOIP:  # MikroTik: length and number where GRE has the key, then Ethernet
        return (GRE if flags == 0x2001 else NONE), pos + 8, ETHERNET
    pos += 4 + (flags >> 15) * 4 + (flags >> 13 & 1) * 4 + (flags >> 12 & 1) * 4
    if flags & 0x4000:  # source routes: nobody has sent them for decades
        return NONE, pos, NO_TYPE
    if flags & 7 == 1 and kind == _PPP:
        return PPTP, pos + (flags >> 7 & 1) * 4, PPP
    if flags & 7:
        return NONE, pos, NO_TYPE
    if kind == _PPP:
        return PPTP, pos, PPP
    if kind == _ERSPAN2:
        return ERSPAN, pos + (flags >> 12 & 1) * 8, ETHERNET  # without sequence numbers: type I, no header at all
    if kind == _ERSPAN3:
        if end - pos < 12:
            return NONE, pos, NO_TYPE
        frame_type = i64(buf[pos + 10]) >> 2 & 31  # 0 Ethernet, 2 an IP packet, others are not defined
        kind = ETHERNET if frame_type == 0 else BY_VERSION
        return (ERSPAN if (frame_type == 0) | (frame_type == 2) else NONE), pos + 12 + (i64(buf[pos + 11]) & 1) * 8, kind
    if kind == _FRAME_RELAY:
        return GRE, pos, LINK + FRAME_RELAY
    if kind == _WCCP:  # version 2 puts four bytes before the packet
        return GRE, pos + (0 if pos < end and buf[pos] >> 4 == 4 else 4), IPV4
    if kind == _CMD and end - pos >= 8:  # Cisco MetaData, here with its type first
        return GRE, pos + 8, be16(buf, pos)
    if kind & 0xF == 0 and kind >= _ARUBA and kind <= _ARUBA_LAST:
        return GRE, pos, WLAN
    return (GRE if kind >= _LEAST_TYPE else NONE), pos, kind


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
    return GTP, pos, BY_VERSION


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
def _l2tp(buf: U8, pos: Word, end: Word) -> Inside:
    """L2TPv2 (RFC 2661 3.1): a data message with PPP; control messages carry none."""
    flags = be16(buf, pos)
    if flags & 0x8000 or flags & 15 != 2:
        return NONE, pos, NO_TYPE
    pos += 2 + (flags >> 14 & 1) * 2 + 4 + (flags >> 11 & 1) * 4
    if flags & 0x0200:
        if end - pos < 2:
            return NONE, pos, NO_TYPE
        pos += 2 + be16(buf, pos)
    return L2TP, pos, PPP


@inner
def _capwap(buf: U8, pos: Word, end: Word) -> Inside:
    """CAPWAP data (RFC 5415 4.3) that is not encrypted: 802.3, or 802.11, whose first two bytes Cisco's boxes swap."""
    size, flags = (i64(buf[pos + 1]) >> 3) * 4, be16(buf, pos + 2)
    if buf[pos] != 0 or size < 8 or size > end - pos or flags & 0x88:  # DTLS, a fragment, a keep-alive
        return NONE, pos, NO_TYPE
    pos += size
    if not flags & 0x100:
        return CAPWAP, pos, ETHERNET
    if end - pos < 2:
        return NONE, pos, NO_TYPE
    return CAPWAP, pos, SWAPPED_WLAN if buf[pos + 1] & 0x0F == 8 and buf[pos] & 0x0F != 8 else WLAN


@inner
def _tzsp(buf: U8, pos: Word, end: Word) -> Inside:
    """TaZmen Sniffer Protocol: what was received, behind tagged fields."""
    kind = be16(buf, pos + 2)
    if buf[pos] != 1 or buf[pos + 1] != 0:
        return NONE, pos, NO_TYPE
    pos += 4
    for _ in range(_MAX_TAGS):
        if pos >= end:
            break
        tag = buf[pos]
        if tag == 1:
            link = 1 if kind == 1 else (105 if kind == 18 else (kind if (kind == 119) | (kind == 127) else 0))
            return (TZSP if link else NONE), pos + 1, LINK + link
        pos += 1 if tag == 0 or pos + 1 >= end else 2 + i64(buf[pos + 1])
    return NONE, pos, NO_TYPE


@inner
def _vxlan(buf: U8, pos: Word, code: Word) -> Inside:
    """VXLAN (RFC 7348) carries Ethernet, its generic extension what the last byte of its first word says."""
    if code == VXLAN:
        return (VXLAN if buf[pos] & 8 else NONE), pos + 8, ETHERNET
    following = i64(buf[pos + 3])
    if not buf[pos] & 4:  # no next protocol: a frame as ever
        return VXLAN, pos + 8, ETHERNET
    if following >= _GPE_KINDS.shape[0] or following == 0:
        return NONE, pos, NO_TYPE
    return VXLAN, pos + 8, _GPE_KINDS[following]


@inner
def _ayiya(buf: U8, pos: Word, end: Word) -> Inside:
    """AYIYA (draft-massar-v6ops-ayiya): an identity and a signature of told sizes, then a packet."""
    head = 8 + (1 << (i64(buf[pos]) >> 4)) + (i64(buf[pos + 1]) >> 4) * 4
    if head > end - pos or buf[pos + 2] & 15 != 1:  # 1: forward
        return NONE, pos, NO_TYPE
    following = i64(buf[pos + 3])
    if (following == _P_IPV6) | (following == _P_IPV4):
        return AYIYA, pos + head, IPV6 if following == _P_IPV6 else IPV4
    return NONE, pos, NO_TYPE


@inner
def _udp(buf: U8, row: Any, pos: Word, end: Word, ports: U8) -> Inside:
    """By the target's port, where servers answer from it by either; Teredo between peers, whose ports are any, by its addresses and
    a length that is right to the byte."""
    code = i64(ports[row["dport"]])
    if code == 0 and ports[row["sport"]] & _EITHER:
        code = i64(ports[row["sport"]])
    code &= 0x7F
    if code == TEREDO:
        return _teredo(buf, pos, end)
    if end - pos < 8:
        return NONE, pos, NO_TYPE
    if buf[pos] >> 4 == 6 and _of_teredo(buf, pos, end, i64(row["payload_len"])):
        return TEREDO, pos, IPV6
    if code == NONE:
        return NONE, pos, NO_TYPE
    if (code == VXLAN) | (code == _GPE_PORT):
        return _vxlan(buf, pos, code)
    if code == _GRE_UDP:
        return GRE, pos, NO_TYPE  # told apart by `inside`
    if code == GENEVE:
        return (GENEVE if buf[pos] >> 6 == 0 else NONE), pos + 8 + (i64(buf[pos]) & 63) * 4, be16(buf, pos + 2)
    if code == GTP:
        return _gtp(buf, pos, end)
    if code == _GTP_OLD_PORT:  # version 0 (TS 09.60): a T-PDU behind 20 bytes; GTP' on the same port is accounting
        return (GTP if buf[pos] & 0xF0 == 0x10 and buf[pos + 1] == 0xFF else NONE), pos + 20, BY_VERSION
    if code == L2TP:
        return _l2tp(buf, pos, end)
    if code == LISP:  # RFC 9300 5.1
        return LISP, pos + 8, BY_VERSION
    if code == CAPWAP:
        return _capwap(buf, pos, end)
    if code == TZSP:
        return _tzsp(buf, pos, end)
    if code == AYIYA:
        return _ayiya(buf, pos, end)
    return MPLS, pos, _MPLS_TYPE  # RFC 7510


@inner
def inside(buf: U8, row: Any, pos: Word, end: Word, ports: U8) -> Inside:
    """What the payload of a decoded packet carries, by its protocol and `ports` (see `tunnel_ports`)."""
    proto = i64(row["proto"])
    if not _CARRIES[proto]:
        return NONE, pos, NO_TYPE
    code, kind = IPIP, IPV4
    if proto == _P_UDP:
        code, pos, kind = _udp(buf, row, pos, end, ports)
    if proto == _P_GRE or (code == GRE and kind == NO_TYPE):
        code, pos, kind = _gre(buf, pos, end)
    elif proto == _P_IPV6:
        kind = IPV6
    elif proto == _P_ETHERIP:  # RFC 3378: four bits of version 3, the rest zero
        code, kind = (ETHERIP if end - pos >= 2 and buf[pos] >> 4 == 3 else NONE), ETHERNET
        pos += 2
    elif proto == _P_MPLS:
        code, kind = MPLS, _MPLS_TYPE
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
