"""What lies behind a tunnel header: where the inner packet starts and what it is.

For the field table, which shows every layer; flows look inside by `kernels_tunnel`, whose rules for UDP ports are stricter.
"""

from __future__ import annotations

ETHERNET, NOTHING = "eth", ""
Inside = tuple[str, int]
"""(kind of the inner packet: "eth", "ip", "ipv6", "mpls" or "", offset where it starts)."""

_NONE: Inside = (NOTHING, 0)
_KINDS = {0x0800: "ip", 0x86DD: "ipv6", 0x6558: ETHERNET, 0x8847: "mpls", 0x88BE: ETHERNET}
_PPP_KINDS = {0x21: "ip", 0x57: "ipv6"}


def ethertype(value: int) -> str:
    """Kind of packet an EtherType announces, "" if none that is looked into."""
    return _KINDS.get(value, NOTHING)


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _version(data: bytes, at: int) -> Inside:
    nibble = data[at] >> 4 if at < len(data) else 0
    return ({4: "ip", 6: "ipv6"}.get(nibble, NOTHING), at)


def gre(data: bytes) -> Inside:
    """GRE (RFC 2784, RFC 2890), PPTP's version 1 with PPP (RFC 2637), ERSPAN types I to III (draft-foschiano-erspan)."""
    if len(data) < 4:
        return _NONE
    flags, kind = _u16(data, 0), _u16(data, 2)
    at = 4 + 4 * bool(flags & 0xC000) + 4 * bool(flags & 0x2000) + 4 * bool(flags & 0x1000)
    if flags & 7 == 1:
        return _ppp(data, at + 4 * bool(flags & 0x80)) if kind == 0x880B else _NONE
    if kind == 0x880B:
        return _ppp(data, at)
    if kind == 0x88BE and flags & 0x1000:
        at += 8
    elif kind == 0x22EB:
        return _erspan3(data, at)
    return ethertype(kind), at


def _erspan3(data: bytes, at: int) -> Inside:
    """ERSPAN type III (draft-foschiano-erspan 4.3): frame type 0 is Ethernet, 2 an IP packet, others are not defined."""
    if at + 12 > len(data):
        return _NONE
    frame_type, inner = data[at + 10] >> 2 & 31, at + 12 + 8 * (data[at + 11] & 1)
    return (ETHERNET, inner) if frame_type == 0 else _version(data, inner) if frame_type == 2 else _NONE


def _ppp(data: bytes, at: int) -> Inside:
    """PPP behind GRE: address and control may be left out, the protocol may have one byte (RFC 1661)."""
    if data[at : at + 2] == b"\xff\x03":
        at += 2
    if at >= len(data):
        return _NONE
    size = 1 if data[at] & 1 else 2
    return _PPP_KINDS.get(int.from_bytes(data[at : at + size], "big"), NOTHING), at + size


def udp(source: int, target: int, data: bytes) -> Inside:
    """VXLAN (RFC 7348), Geneve (RFC 8926), GTP-U (3GPP TS 29.281), Teredo (RFC 4380) by their ports; `data` is the UDP payload."""
    for port, look in _BY_PORT.items():
        if port in (source, target):
            return look(data)
    return _NONE


def _vxlan(data: bytes) -> Inside:
    return (ETHERNET, 8) if len(data) > 8 else _NONE


def _geneve(data: bytes) -> Inside:
    if len(data) < 8 or data[0] >> 6:
        return _NONE
    return ethertype(_u16(data, 2)), 8 + 4 * (data[0] & 63)


def _gtp(data: bytes) -> Inside:
    if len(data) < 8 or data[0] >> 5 != 1 or data[1] != 0xFF:
        return _NONE
    at = 8
    if data[0] & 7:
        following, at = data[11:12], 12
        for _ in range(8):
            if following in {b"", b"\0"} or not data[at : at + 1] or not data[at]:
                break
            size = data[at] * 4
            following, at = data[at + size - 1 : at + size], at + size
    return _version(data, at)


def _teredo(data: bytes) -> Inside:
    at = 0
    if data[:2] == b"\0\1" and len(data) > 4:
        at = 13 + data[2] + data[3]
    if data[at : at + 2] == b"\0\0":
        at += 8
    kind, at = _version(data, at)
    return (kind, at) if kind == "ipv6" else _NONE


_BY_PORT = {4789: _vxlan, 6081: _geneve, 2152: _gtp, 3544: _teredo}
