"""Internet checksums (RFC 1071) over headers, segments and pseudo-headers."""

from __future__ import annotations

import struct

Buffer = bytes | bytearray | memoryview

_V4_PSEUDO = struct.Struct("!4s4sBBH")
_V6_PSEUDO = struct.Struct("!16s16sI3xB")


def fold(data: Buffer) -> int:
    """Ones' complement sum of the big-endian 16-bit words of `data` (odd tail padded with zero), 0..0xFFFF.

    2**16 is 1 modulo 0xFFFF, so the remainder of the whole number is the folded sum (RFC 1071 section 2);
    a non-zero number divisible by 0xFFFF folds to 0xFFFF, never to zero.
    """
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    return (number % 0xFFFF or 0xFFFF) if number else 0


def internet(data: Buffer) -> int:
    """The checksum field of `data` whose own checksum bytes are zero.

    >>> hex(internet(bytes.fromhex("0001f203f4f5f6f7")))
    '0x220d'
    """
    return 0xFFFF - fold(data)


def pseudo_header(version: int, source: Buffer, target: Buffer, proto: int, length: int) -> bytes:
    """Pseudo-header of TCP, UDP and ICMPv6: RFC 9293 section 3.1 (IPv4), RFC 8200 section 8.1 (IPv6).

    `source` and `target` are 4 or 16 bytes, `length` the transport header and payload in bytes.
    """
    if version == 4:
        return _V4_PSEUDO.pack(bytes(source), bytes(target), 0, proto, length & 0xFFFF)
    return _V6_PSEUDO.pack(bytes(source), bytes(target), length, proto)


def transport(version: int, source: Buffer, target: Buffer, proto: int, segment: Buffer) -> int:
    """The checksum field of a TCP, UDP or ICMPv6 `segment` whose checksum bytes are zero.

    A UDP result of zero is sent as 0xFFFF (RFC 768: zero means "no checksum").
    """
    value = internet(pseudo_header(version, source, target, proto, len(segment)) + bytes(segment))
    return 0xFFFF if proto == 17 and value == 0 else value


def sound(version: int, source: Buffer, target: Buffer, proto: int, segment: Buffer) -> bool:
    """Whether a received `segment`, checksum included, sums to all ones."""
    return fold(pseudo_header(version, source, target, proto, len(segment)) + bytes(segment)) == 0xFFFF


def _crc_table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_CRC = _crc_table()


def crc32c(data: Buffer) -> int:
    """CRC32c (RFC 9260 appendix A), which SCTP stores with its low byte first.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF
