"""Headers of one frame into one PACKET row: IPv4, IPv6 with extensions, TCP, UDP, ICMP, ARP.

Nothing here raises: what is cut or wrong sets the row's `error` and leaves the rest as far as it was understood.
The same source runs with NUMBA_DISABLE_JIT=1.
"""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, entry, i64, inner
from trafficllm.capture.kernels.connection.sctp import chunk_bits, crc32c
from trafficllm.capture.link.layers import network
from trafficllm.capture.link.tunnels import MAX_TUNNELS, NONE, believable, inside
from trafficllm.capture.link.words import ARP, IPV4, IPV6, LINK, MET_ARP, MET_IPV4, MET_IPV6, MET_PIECE, MET_TRANSPORT, OK, be16, be32, note
from trafficllm.core.types import I64, U8, U16, U32

E_IP_CUT, E_IP_VERSION, E_IP_HEADER, E_IP_LENGTH, E_EXTENSION = 4, 5, 6, 7, 8
E_TCP_CUT, E_TCP_HEADER, E_UDP_CUT, E_UDP_LENGTH, E_ICMP_CUT, E_ARP_CUT, E_SCTP_CUT = 9, 10, 11, 12, 13, 14, 17
TCP, UDP, ICMP, ICMP6, AH, SCTP, UDP_LITE = 6, 17, 1, 58, 51, 132, 136
LOOK_INSIDE, LOOK_EVERYWHERE = 1, 2
_IS_EXTENSION = np.zeros(256, dtype=np.uint8)
_IS_EXTENSION[[0, 43, 44, 51, 60, 135, 139, 140]] = 1
_MAX_EXTENSIONS = 16  # RFC 8200 needs about six; a longer chain is an attack on the parser
_MAX_AH = 4  # authentication headers in a row


@inner
def half(buf: U8, pos: Word) -> Word:
    """Eight bytes as a signed 64-bit number, big-endian."""
    return be32(buf, pos) << 32 | be32(buf, pos + 4)


@inner
def ones_sum(buf: U8, pos: Word, end: Word) -> Word:
    """Sum of big-endian 16-bit words, the odd byte padded with zero (RFC 1071), not folded."""
    total = i64(0)
    stop = end - ((end - pos) & 1)
    for place in range(pos, stop, 2):
        total += i64(buf[place]) << 8 | i64(buf[place + 1])
    if stop != end:
        total += i64(buf[stop]) << 8
    return total


@inner
def fold(total: Word) -> Word:
    """Fold a one's complement sum to 16 bits."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@inner
def _address_sum(buf: U8, row: Any, pos: Word) -> Word:
    """Both addresses of the pseudo header before the transport header at `pos`.

    IPv6 headers may name others than the packet's ends: on its way it has the final destination in a routing header (RFC 8200 8.1; types 0,
    2 and 4), and a mobile node's own address stands in an option (RFC 6275 6.3).
    """
    l3 = pos - row["l4"] + row["l3"]
    if row["ip_version"] == 4:
        return ones_sum(buf, l3 + 12, l3 + 20)
    src, dst, at, proto = l3 + 8, l3 + 24, l3 + 40, i64(buf[l3 + 6])
    while at + 8 <= pos:
        size = 8 if proto == 44 else ((i64(buf[at + 1]) + 2) * 4 if proto == AH else (i64(buf[at + 1]) + 1) * 8)
        if proto == 43 and buf[at + 3] > 0 and size >= 24:
            if buf[at + 2] == 0:
                dst = at + size - 16
            elif (buf[at + 2] == 2) | (buf[at + 2] == 4):
                dst = at + 8
        elif proto == 60:
            option = at + 2
            while option + 2 <= at + size:
                if buf[option] == 201 and buf[option + 1] == 16 and option + 18 <= at + size:
                    src = option + 2
                option += 1 if buf[option] == 0 else i64(buf[option + 1]) + 2
        proto = i64(buf[at])
        at += size
    return ones_sum(buf, src, src + 16) + ones_sum(buf, dst, dst + 16)


@inner
def _l4_checksum(buf: U8, row: Any, pos: Word, length: Word, covered: Word) -> Word:
    """1 right, 2 wrong: TCP, UDP, ICMPv6 with the pseudo header of RFC 9293 3.1 and RFC 8200 8.1, ICMP without."""
    proto = i64(row["proto"])
    total = ones_sum(buf, pos, pos + covered)
    if proto != ICMP:
        total += _address_sum(buf, row, pos) + proto + (length & 0xFFFF) + (length >> 16)
    return 1 if fold(total) == 0xFFFF else 2


@inner
def _l4_verdict(buf: U8, row: Any, pos: Word, length: Word) -> Word:
    """Whether the checksum of a whole transport packet is right: 0 it has none, 1 yes, 2 no."""
    proto = i64(row["proto"])
    if proto == SCTP:  # zero: left to the card, or agreed on (RFC 9653)
        return 0 if be32(buf, pos + 8) == 0 else (1 if crc32c(buf, pos, pos + length) else 2)
    covered = length
    if proto == UDP:
        length = i64(row["payload_len"]) + 8
        covered = length
        if be16(buf, pos + 6) == 0 and row["ip_version"] == 4:
            return 0
    elif proto == UDP_LITE and be16(buf, pos + 4) > 0:
        covered = be16(buf, pos + 4)
    return _l4_checksum(buf, row, pos, length, covered)


@inner
def _tcp(buf: U8, row: Any, start: Word, pos: Word, end: Word, length: Word) -> None:
    if end - pos < 20:
        row["error"] = E_TCP_CUT
        if end - pos >= 4:
            row["sport"] = be16(buf, pos)
            row["dport"] = be16(buf, pos + 2)
        return
    row["sport"] = be16(buf, pos)
    row["dport"] = be16(buf, pos + 2)
    row["seq"] = be32(buf, pos + 4)
    row["ack"] = be32(buf, pos + 8)
    row["flags"] = be16(buf, pos + 12) & 0x1FF
    row["window"] = be16(buf, pos + 14)
    head = (i64(buf[pos + 12]) >> 4) * 4
    if head < 20 or head > length:
        row["error"] = E_TCP_HEADER
        return
    if head > end - pos:
        row["error"] = E_TCP_CUT
        return
    row["payload"] = pos + head - start
    row["payload_len"] = length - head
    row["payload_cap"] = min(length - head, end - pos - head)
    row["usable"] = 1


@inner
def _udp(buf: U8, row: Any, start: Word, pos: Word, end: Word, length: Word) -> None:
    if end - pos < 8:
        row["error"] = E_UDP_CUT
        if end - pos >= 4:
            row["sport"] = be16(buf, pos)
            row["dport"] = be16(buf, pos + 2)
        return
    row["sport"] = be16(buf, pos)
    row["dport"] = be16(buf, pos + 2)
    said = be16(buf, pos + 4)
    if said < 8 or said > length:
        if said != 0 or length < 8:  # zero: jumbogram or segmentation offload (RFC 2675 4)
            row["error"] = E_UDP_LENGTH
        said = max(length, 8)
    row["payload"] = pos + 8 - start
    row["payload_len"] = said - 8
    row["payload_cap"] = min(said - 8, end - pos - 8)
    row["usable"] = 1


@inner
def _udp_lite(buf: U8, row: Any, start: Word, pos: Word, end: Word, length: Word) -> None:
    """UDP-Lite (RFC 3828): the IP header gives the length, the header how much of it the checksum covers (0: all)."""
    if end - pos < 8:
        row["error"] = E_UDP_CUT
        if end - pos < 4:
            return
    row["sport"] = be16(buf, pos)
    row["dport"] = be16(buf, pos + 2)
    if end - pos < 8:
        return
    covered = be16(buf, pos + 4)
    if length < 8 or covered > length or (covered > 0 and covered < 8):
        row["error"] = E_UDP_LENGTH
    row["payload"] = pos + 8 - start
    row["payload_len"] = max(length - 8, 0)
    row["payload_cap"] = max(min(length, end - pos) - 8, 0)
    row["usable"] = 1


@inner
def _sctp(buf: U8, row: Any, start: Word, pos: Word, end: Word, length: Word) -> None:
    """SCTP (RFC 9260 3): what follows the common header of 12 bytes, chunks and their padding, counts as payload."""
    if end - pos >= 4:
        row["sport"] = be16(buf, pos)
        row["dport"] = be16(buf, pos + 2)
    if end - pos < 12 or length < 12:
        row["error"] = E_SCTP_CUT
        return
    row["seq"] = be32(buf, pos + 4)
    row["payload"] = pos + 12 - start
    row["payload_len"] = length - 12
    row["payload_cap"] = min(length, end - pos) - 12
    row["chunks"], row["ack"] = chunk_bits(buf, pos + 12, pos + min(length, end - pos))
    row["usable"] = 1


@inner
def _icmp(buf: U8, row: Any, start: Word, pos: Word, end: Word, length: Word) -> None:
    if end - pos >= 2:
        row["icmp"] = be16(buf, pos)
    if end - pos < 8:
        row["error"] = E_ICMP_CUT
        return
    row["payload"] = pos + 8 - start
    row["payload_len"] = max(length - 8, 0)
    row["payload_cap"] = max(min(length, end - pos) - 8, 0)
    row["usable"] = 1


@inner
def _transport(buf: U8, row: Any, start: Word, pos: Word, end: Word, length: Word, sums: bool) -> None:
    """`length` is what the IP header leaves for the transport, `end` where the captured part of it stops."""
    proto = i64(row["proto"])
    row["l4"] = pos - start
    if proto == TCP:
        _tcp(buf, row, start, pos, end, length)
    elif proto == UDP:
        _udp(buf, row, start, pos, end, length)
    elif (proto == ICMP and row["ip_version"] == 4) or (proto == ICMP6 and row["ip_version"] == 6):
        _icmp(buf, row, start, pos, end, length)
    elif proto == SCTP:
        _sctp(buf, row, start, pos, end, length)
    elif proto == UDP_LITE:
        _udp_lite(buf, row, start, pos, end, length)
    else:
        row["payload"] = pos - start
        row["payload_len"] = length
        row["payload_cap"] = min(length, end - pos)
        row["usable"] = 1
        return
    if sums and row["error"] == 0 and end - pos >= length:
        row["l4_sum"] = _l4_verdict(buf, row, pos, length)


@inner
def _authenticated(buf: U8, row: Any, pos: Word, end: Word) -> Word:
    """Behind IPv4's authentication headers (RFC 4302); sets proto. One that is cut off stays what the packet carries."""
    for _ in range(_MAX_AH):
        if row["proto"] != AH or end - pos < 12:
            break
        size = (i64(buf[pos + 1]) + 2) * 4
        if size < 12 or size > end - pos:
            break
        row["proto"] = buf[pos]
        pos += size
    return pos


@inner
def _ipv4(buf: U8, row: Any, start: Word, pos: Word, end: Word, cut: Word, sums: bool) -> None:
    row["l3"] = pos - start
    row["ip_version"] = 4
    if end - pos < 20:
        row["error"] = E_IP_CUT
        return
    first = i64(buf[pos])
    head = (first & 15) * 4
    row["tos"] = buf[pos + 1]
    total = be16(buf, pos + 2)
    row["ip_id"] = be16(buf, pos + 4)
    word = be16(buf, pos + 6)
    row["frag"] = (word & 0x1FFF) << 1 | (word >> 13 & 1)
    row["ttl"] = buf[pos + 8]
    row["proto"] = buf[pos + 9]
    row["src_hi"] = be32(buf, pos + 12) << 32
    row["dst_hi"] = be32(buf, pos + 16) << 32
    if first >> 4 != 4:
        row["error"] = E_IP_VERSION
        return
    if head < 20:
        row["error"] = E_IP_HEADER
        return
    if total == 0:  # segmentation offload leaves it empty
        total = end + cut - pos
    row["ip_len"] = total
    if total < head:
        row["error"] = E_IP_LENGTH
        return
    if head > end - pos:
        row["error"] = E_IP_CUT
        return
    if sums:
        row["ip_sum"] = 1 if fold(ones_sum(buf, pos, pos + head)) == 0xFFFF else 2
    end = min(end, pos + total)
    if row["frag"]:
        row["usable"] = 2
        row["l4"] = pos + head - start
        row["payload"] = pos + head - start
        row["payload_len"] = total - head
        row["payload_cap"] = end - pos - head
        return
    body = pos + head
    if row["proto"] == AH:
        body = _authenticated(buf, row, body, end)
    _transport(buf, row, start, body, end, total - (body - pos), sums)


@inner
def _extensions(buf: U8, row: Any, pos: Word, end: Word) -> Word:
    """Position of the transport header, or -1; sets proto, and for a fragment frag and ip_id (RFC 8200 4)."""
    proto = i64(row["proto"])
    for _ in range(_MAX_EXTENSIONS):
        if not _IS_EXTENSION[proto]:
            row["proto"] = proto
            return pos
        if end - pos < 8:
            row["error"] = E_EXTENSION
            return -1
        if proto == 44:
            word = be16(buf, pos + 2)
            row["frag"] = word >> 3 << 1 | (word & 1)
            row["ip_id"] = be32(buf, pos + 4)
            size = 8
        elif proto == 51:
            size = (i64(buf[pos + 1]) + 2) * 4
        else:
            size = (i64(buf[pos + 1]) + 1) * 8
        if size > end - pos:
            row["error"] = E_EXTENSION
            return -1
        proto = i64(buf[pos])
        pos += size
        if row["frag"]:
            row["proto"] = proto
            return pos
    row["error"] = E_EXTENSION
    return -1


@inner
def _ipv6(buf: U8, row: Any, start: Word, pos: Word, end: Word, cut: Word, sums: bool) -> None:
    row["l3"] = pos - start
    row["ip_version"] = 6
    if end - pos < 40:
        row["error"] = E_IP_CUT
        return
    row["tos"] = be16(buf, pos) >> 4 & 0xFF
    row["proto"] = buf[pos + 6]
    row["ttl"] = buf[pos + 7]
    row["src_hi"] = half(buf, pos + 8)
    row["src_lo"] = half(buf, pos + 16)
    row["dst_hi"] = half(buf, pos + 24)
    row["dst_lo"] = half(buf, pos + 32)
    if buf[pos] >> 4 != 6:
        row["error"] = E_IP_VERSION
        return
    total = be16(buf, pos + 4) + 40
    if total == 40 and end - pos > 65575:  # jumbogram or segmentation offload; less is padding
        total = end + cut - pos
    row["ip_len"] = total
    end = min(end, pos + total)
    body = _extensions(buf, row, pos + 40, end)
    if body < 0:
        return
    length = total - (body - pos)
    if row["frag"]:
        row["usable"] = 2
        row["l4"] = body - start
        row["payload"] = body - start
        row["payload_len"] = max(length, 0)
        row["payload_cap"] = max(end - body, 0)
        return
    _transport(buf, row, start, body, end, length, sums)


@inner
def _network(buf: U8, row: Any, start: Word, pos: Word, end: Word, cut: Word, kind: Word, sums: bool, trail: I64) -> None:
    if kind == IPV4:
        note(trail, MET_IPV4, pos, end, cut)
        _ipv4(buf, row, start, pos, end, cut, sums)
    elif kind == IPV6:
        note(trail, MET_IPV6, pos, end, cut)
        _ipv6(buf, row, start, pos, end, cut, sums)
    elif kind == ARP:
        note(trail, MET_ARP, pos, end, cut)
        row["l3"] = pos - start
        if end - pos < 28:
            row["error"] = E_ARP_CUT
    if row["l4"] >= 0:
        note(
            trail,
            MET_TRANSPORT if row["usable"] != 2 else MET_PIECE,
            start + i64(row["l4"]),
            i64(row["proto"]),
            i64(row["ip_len"]) - (start + i64(row["l4"]) - pos),
        )


@inner
def _aggregated(buf: U8, row: Any, trail: I64, start: Word, chain: Word) -> None:
    """Where the packet behind the first of an A-MSDU begins (IEEE 802.11 9.3.2.2.2), and the tunnels around both."""
    behind = trail[1] + ((14 + be16(buf, trail[1] + 12) + 3) & ~3)
    row["rest"] = behind - start if behind + 14 < trail[2] else 0
    row["around"] = chain
    trail[1] = 0  # what is met behind another tunnel is another one


@inner
def _decode_one(
    buf: U8,
    rows: Any,
    index: Word,
    spare: Any,
    start: Word,
    end: Word,
    cut: Word,
    link: Word,
    sums: bool,
    tunnels: Word,
    ports: U8,
    trail: I64,
) -> None:
    """Link layer, then what its type names; then again for what a tunnel carries, into `spare`, which replaces the row if it is a
    packet. Offsets count from `start` at every depth. Where checksums count, a packet with a wrong one is no tunnel."""
    row, vlan, chain = rows[index], i64(-1), i64(0)
    pos, kind = start, LINK + link
    for depth in range(MAX_TUNNELS + 1):
        over_udp = depth > 0 and rows[index]["proto"] == UDP
        pos, kind, tag, error = network(buf, pos, end, kind, trail)
        row["vlan"] = tag if tag >= 0 else vlan
        row["ethertype"], row["tunnel"] = kind, chain
        if error == OK:
            _network(buf, row, start, pos, end, cut, kind, sums, trail)
        elif depth == 0:
            row["error"] = error
        if trail[1] > 0:
            _aggregated(buf, row, trail, start, chain)
        if depth > 0:
            if tunnels == LOOK_INSIDE and not believable(row, over_udp, end + cut - pos):
                if not over_udp and rows[index]["error"] == 0:  # by its protocol number it is a packet, and a damaged one
                    rows[index]["error"] = row["error"]
                return
            rows[index] = row
            row = rows[index]
        if tunnels == 0 or depth == MAX_TUNNELS or row["usable"] != 1 or row["ip_sum"] == 2 or row["l4_sum"] == 2:
            return
        pos = start + i64(row["payload"])
        end = pos + i64(row["payload_cap"])
        code, pos, kind = inside(buf, row, pos, end, ports)
        if code == NONE:
            return
        cut = i64(row["payload_len"]) - i64(row["payload_cap"])
        vlan, chain = i64(row["vlan"]), i64(row["tunnel"]) << 4 | code
        rest, around = i64(row["rest"]), i64(row["around"])
        spare[0] = spare[1]
        row = spare[0]
        row["rest"], row["around"] = rest, around


@entry
def decode_frames(
    buf: U8, offset: I64, caplen: U32, origlen: U32, link: U16, rows: Any, spare: Any, sums: bool, tunnels: Word, ports: U8, trails: I64
) -> None:
    """Fill zeroed `rows` (PACKET [n]) from n frames; checksums are verified where `sums` is set.

    `tunnels` 0: a row is the outermost packet; LOOK_INSIDE: what a tunnel carries, where that is believable; LOOK_EVERYWHERE: the
    last header that was met. `ports` as `tunnel_ports` gives them. `trails` [n, TRAIL] takes the headers of each frame, or is
    [1, TRAIL_START]; `spare` (PACKET [2], zeroed) is memory to work in.
    """
    limit = buf.shape[0]
    blank = spare[1]
    blank["l3"], blank["l4"], blank["payload"], blank["vlan"] = -1, -1, -1, -1
    for index in range(offset.shape[0]):
        row = rows[index]
        row["l3"] = -1
        row["l4"] = -1
        row["payload"] = -1
        trail = trails[index if trails.shape[0] > 1 else 0]
        trail[0], trail[1] = 0, 0
        start = i64(offset[index])
        end = start + i64(caplen[index])
        if start < 0 or end > limit or end < start:
            row["error"] = 1
            continue
        cut = max(i64(origlen[index]) - i64(caplen[index]), 0)
        _decode_one(buf, rows, index, spare, start, end, cut, i64(link[index]), sums, tunnels, ports, trail)
