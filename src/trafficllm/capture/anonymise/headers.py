"""Network and transport headers of frames under other names: fields that name nobody are copied, checksums made anew."""

from __future__ import annotations

from typing import NamedTuple

from trafficllm.capture.anonymise.links import ARP, IPV4, IPV6
from trafficllm.capture.anonymise.pseudonyms import Pseudonyms
from trafficllm.capture.checksum import crc32c, internet, pseudo_header

_TCP, _UDP, _ICMP, _ICMP6, _IGMP, _SCTP, _UDP_LITE = 6, 17, 1, 58, 2, 132, 136
_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS = frozenset({_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION})
_ROUTES, _SEGMENTS = frozenset({0, 2, 4}), 4
_DATA_CHUNKS = frozenset({0, 64})
_MOST_EXTENSIONS = 8
_NOP = 1
_KEPT_OPTIONS = frozenset({2, 3, 4, 5, 8})
"""TCP options without a cookie or an address: MSS, window scale, SACK permitted, SACK, timestamps."""
_ARP_IP = b"\x00\x01\x08\x00\x06\x04"
_ERRORS = frozenset({3, 4, 5, 11, 12})
_ERRORS6 = frozenset({1, 2, 3, 4})
_ECHOES = frozenset({0, 8, 128, 129})
_TARGETS = {135: 1, 136: 1, 137: 2}
"""Neighbour discovery (RFC 4861 4): addresses behind the first eight bytes."""


class _Packet(NamedTuple):
    """Where an IP packet's contents lie, and what its checksums cover."""

    version: int
    proto: int
    at: int  # of the transport header
    size: int  # transport header and contents, by the headers
    src: bytes
    dst: bytes
    first: bool  # not a later fragment
    whole: bool  # not a fragment


class Headers:
    """Writes headers into new frames. `keep` copies contents too."""

    def __init__(self, names: Pseudonyms, *, keep: bool = False) -> None:
        self.names = names
        self._keep = keep

    def network(self, data: bytes, out: bytearray, at: int, kind: int) -> int:
        """The network layer at `at` of a frame and all above it; returns where the headers end."""
        if kind == IPV4:
            return self._packet(data, out, self._ip4(data, out, at), at)
        if kind == IPV6:
            return self._packet(data, out, self._ip6(data, out, at), at)
        if kind == ARP:
            return self._arp(data, out, at)
        return at

    def _arp(self, data: bytes, out: bytearray, at: int) -> int:
        if data[at : at + 6] != _ARP_IP or at + 28 > len(data):
            return at
        out[at : at + 8] = data[at : at + 8]
        for place in (at + 8, at + 18):
            out[place : place + 6] = self.names.mac(data[place : place + 6])
            out[place + 6 : place + 10] = self.names.ip(data[place + 6 : place + 10])
        return at + 28

    # Internet protocols

    def _ip4(self, data: bytes, out: bytearray, at: int) -> _Packet | None:
        length = 4 * (data[at] & 15) if at < len(data) else 0
        if length < 20 or at + length > len(data):
            return None
        out[at : at + 12] = data[at : at + 12]
        out[at + 10 : at + 12] = b"\0\0"
        src, dst = self.names.ip(data[at + 12 : at + 16]), self.names.ip(data[at + 16 : at + 20])
        out[at + 12 : at + 20] = src + dst
        out[at + 20 : at + length] = bytes([_NOP]) * (length - 20)  # options record routes
        out[at + 10 : at + 12] = internet(out[at : at + length]).to_bytes(2, "big")
        total = int.from_bytes(data[at + 2 : at + 4], "big") or len(data) - at  # 0: segmentation was left to the card
        offset = int.from_bytes(data[at + 6 : at + 8], "big") & 0x3FFF
        proto, place = data[at + 9], at + length
        while proto == _AH and not offset & 0x1FFF and place + 12 <= len(data):
            size = _authentication(data, out, place)
            proto, place = data[place], place + size
        return _Packet(4, proto, place, at + total - place, src, dst, not offset & 0x1FFF, not offset)

    def _ip6(self, data: bytes, out: bytearray, at: int) -> _Packet | None:
        if at + 40 > len(data):
            return None
        out[at : at + 8] = data[at : at + 8]
        src, dst = self.names.ip(data[at + 8 : at + 24]), self.names.ip(data[at + 24 : at + 40])
        out[at + 8 : at + 40] = src + dst
        stop = at + 40 + (int.from_bytes(data[at + 4 : at + 6], "big") or len(data) - at - 40)
        proto, place, first, whole = data[at + 6], at + 40, True, True
        for _ in range(_MOST_EXTENSIONS):
            if proto not in _EXTENSIONS or place + 8 > len(data):
                break
            if proto == _FRAGMENT:
                out[place : place + 8] = data[place : place + 8]
                offset = int.from_bytes(data[place + 2 : place + 4], "big")
                first, whole = first and offset >> 3 == 0, whole and not offset & 0xFFF9
                size = 8
            elif proto == _AH:
                size = _authentication(data, out, place)
            elif proto == _ROUTING:
                size, final = self._routing(data, out, place)
                dst = final or dst
            else:
                size = _extension(data, out, place)
            proto, place = data[place], place + size
        return _Packet(6, proto, place, stop - place, src, dst, first, whole)

    def _routing(self, data: bytes, out: bytearray, at: int) -> tuple[int, bytes]:
        """A routing header with its addresses under their names; its size, and where the packet ends up if there is still a way to go.

        Types 0 (RFC 2460 4.4), 2 (RFC 6275 6.4) and 4 (RFC 8754 2) have whole addresses; of others only the first four bytes stay.
        """
        size = 8 * (data[at + 1] + 1)
        copied = 8 if data[at + 2] in _ROUTES else 4
        out[at : at + copied] = data[at : at + copied]
        if copied < 8:
            return size, b""
        count = data[at + 4] + 1 if data[at + 2] == _SEGMENTS else (size - 8) // 16
        places = [place for place in range(at + 8, at + 8 + 16 * count, 16) if place + 16 <= min(at + size, len(data))]
        for place in places:
            out[place : place + 16] = self.names.ip(data[place : place + 16])
        if not places or not data[at + 3]:
            return size, b""
        last = places[-1] if data[at + 2] == 0 else places[0]
        return size, bytes(out[last : last + 16])

    # Transport protocols

    def _packet(self, data: bytes, out: bytearray, packet: _Packet | None, at: int) -> int:
        if packet is None:
            return at
        start, stop = packet.at, min(len(data), packet.at + max(packet.size, 0))
        if not packet.first:
            return self._contents(data, out, start, stop)
        if packet.proto == _TCP:
            end, place = _tcp(data, out, start, stop), 16
        elif packet.proto in {_UDP, _UDP_LITE}:
            end, place = _copied(data, out, start, stop, 8), 6
        elif packet.proto == _SCTP:
            return self._sctp(data, out, packet, stop)
        elif packet.proto in {_ICMP, _ICMP6}:
            end, place = self._icmp(data, out, packet, stop), 2
        elif packet.proto == _IGMP:
            end, place = _copied(data, out, start, stop, 2), 2
        else:
            return self._contents(data, out, start, stop)
        if end < start + place + 2 and packet.proto != _IGMP:  # cut inside the header
            return end
        if packet.proto in {_TCP, _UDP, _UDP_LITE}:
            self._contents(data, out, end, stop)
        _sum(data, out, packet, place, stop)
        return end

    def _contents(self, data: bytes, out: bytearray, start: int, stop: int) -> int:
        if self._keep:
            out[start:stop] = data[start:stop]
        return start

    def _sctp(self, data: bytes, out: bytearray, packet: _Packet, stop: int) -> int:
        """Common header and chunk headers; parameters name a host's other addresses (RFC 9260 3.3.2) and are contents here."""
        at = packet.at
        end = place = _copied(data, out, at, stop, 12)
        self._contents(data, out, place, stop)
        while place + 4 <= stop:
            size = int.from_bytes(data[place + 2 : place + 4], "big")
            end = _copied(data, out, place, min(stop, place + max(size, 4)), 16 if data[place] in _DATA_CHUNKS else 4)
            if size < 4:
                break
            place += size + 3 & ~3
        if packet.whole and at + 12 <= stop and any(data[at + 8 : at + 12]):
            out[at + 8 : at + 12] = bytes(4)
            out[at + 8 : at + 12] = crc32c(bytes(out[at : min(stop, at + packet.size)])).to_bytes(4, "little")
        return end

    def _icmp(self, data: bytes, out: bytearray, packet: _Packet, stop: int) -> int:
        at = packet.at
        if at + 8 > stop:
            return _copied(data, out, at, stop, 2)
        kind = data[at]
        _copied(data, out, at, stop, 4)
        if packet.proto == _ICMP and kind == 5:
            out[at + 4 : at + 8] = self.names.ip(data[at + 4 : at + 8])
        elif kind in _ECHOES or kind in (_ERRORS if packet.proto == _ICMP else _ERRORS6):
            out[at + 4 : at + 8] = data[at + 4 : at + 8]
        if kind in _ECHOES:
            return self._contents(data, out, at + 8, stop)
        if kind in (_ERRORS if packet.proto == _ICMP else _ERRORS6):
            return self._quoted(data, out, at + 8, stop)
        if packet.proto == _ICMP6 and kind in {133, 134, *_TARGETS}:
            return self._discovery(data, out, at, stop)
        return at + 8

    def _quoted(self, data: bytes, out: bytearray, at: int, stop: int) -> int:
        """The beginning of the packet that an error is about (RFC 792, RFC 4443 2.4): its checksum would tell its contents."""
        inside = data[:stop]
        read = self._ip4 if inside[at : at + 1] and inside[at] >> 4 == 4 else self._ip6
        packet = read(inside, out, at)
        if packet is None or not packet.first:
            return at
        end = _copied(inside, out, packet.at, stop, 8)
        for proto, place in ((_TCP, 16), (_UDP, 6), (_UDP_LITE, 6), (_ICMP, 2), (_ICMP6, 2)):
            if packet.proto == proto and packet.at + place + 2 <= end:
                out[packet.at + place : packet.at + place + 2] = b"\0\0"
        if packet.proto not in {_TCP, _UDP, _UDP_LITE, _ICMP, _ICMP6, _SCTP}:
            out[packet.at : end] = bytes(end - packet.at)
        return end

    def _discovery(self, data: bytes, out: bytearray, at: int, stop: int) -> int:
        """Neighbour and router discovery: targets under their names, options with type and length only."""
        out[at + 4 : at + 8] = data[at + 4 : at + 8]
        place = at + 8
        if data[at] == 134:
            place = _copied(data, out, place, stop, 8)
        for _ in range(_TARGETS.get(data[at], 0)):
            if place + 16 > stop:
                return place
            out[place : place + 16] = self.names.ip(data[place : place + 16])
            place += 16
        while place + 2 <= stop and data[place + 1]:
            out[place : place + 2] = data[place : place + 2]
            place += 8 * data[place + 1]
        return min(place, stop)


def _copied(data: bytes, out: bytearray, start: int, stop: int, size: int) -> int:
    """Copy at most `size` bytes that are there; where the copy ends."""
    end = min(start + size, stop)
    out[start:end] = data[start:end]
    return max(end, start)


def _authentication(data: bytes, out: bytearray, at: int) -> int:
    """An authentication header (RFC 4302) without its check value, which tells the contents; its size."""
    _copied(data, out, at, len(data), 12)
    return max(4 * (data[at + 1] + 2), 12)


def _extension(data: bytes, out: bytearray, at: int) -> int:
    """An IPv6 extension header with its options replaced by padding (RFC 8200 4.2); its size."""
    size = 8 * (data[at + 1] + 1)
    out[at : at + 2] = data[at : at + 2]
    left, place = size - 2, at + 2
    while left > 0 and place + 2 <= len(out):  # PadN holds at most 255 bytes
        pad = min(left, 257)
        pad -= left - pad == 1  # one byte would be left over
        out[place : place + 2] = bytes([1, pad - 2])
        place, left = place + pad, left - pad
    return size


def _tcp(data: bytes, out: bytearray, at: int, stop: int) -> int:
    """A TCP header; options that may carry a cookie or an address become NOPs."""
    end = _copied(data, out, at, stop, 20)
    if end < at + 20:
        return end
    end = min(at + 4 * (data[at + 12] >> 4), stop)
    place = at + 20
    while place < end:
        kind = data[place]
        size = data[place + 1] if kind > 1 and place + 1 < end else 1
        size = min(max(size, 1), end - place)
        kept = kind in _KEPT_OPTIONS or kind <= 1
        out[place : place + size] = data[place : place + size] if kept else bytes([_NOP]) * size
        if kind == 0:
            break
        place += size
    return max(end, at + 20)


def _sum(data: bytes, out: bytearray, packet: _Packet, place: int, stop: int) -> None:
    """The transport checksum at `place`; a UDP packet over IPv4 that had none, or is a part of one, has none (RFC 768)."""
    at = packet.at
    if packet.proto == _UDP and packet.version == 4 and (not packet.whole or data[at + 6 : at + 8] == b"\0\0"):
        out[at + 6 : at + 8] = b"\0\0"
        return
    out[at + place : at + place + 2] = b"\0\0"
    size = packet.size
    covered = size
    if packet.proto == _UDP_LITE and 8 <= (told := int.from_bytes(data[at + 4 : at + 6], "big")) < size:
        covered = told
    if packet.proto == _UDP and 8 <= (told := int.from_bytes(data[at + 4 : at + 6], "big")) < size:
        size = covered = told  # what lies behind it is padding
    bare = packet.proto in {_ICMP, _IGMP}
    ahead = b"" if bare else pseudo_header(packet.version, packet.src, packet.dst, packet.proto, size)
    value = internet(ahead + bytes(out[at : min(stop, at + covered)]))  # what was not captured counts as zeros
    if packet.proto in {_UDP, _UDP_LITE} and value == 0:
        value = 0xFFFF
    out[at + place : at + place + 2] = value.to_bytes(2, "big")
