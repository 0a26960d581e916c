"""Contents that would pass for a protocol they cannot keep up: made whole (STUN) or unlike it by one byte.

Analysers guess protocols from the first bytes on any port. A plan that shows the first bytes of a DTLS record or
a bencoded query does not know the rest; what cannot be completed must not be taken for it, or it is malformed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from trafficllm.capture.compile import dns as wellformed_dns
from trafficllm.capture.compile.http import filler, looks_like

_COOKIE = b"\x21\x12\xa4\x42"
_SOFTWARE = 0x8022
_UNIT_DATA = 4
_SOUND_ATTRIBUTES = {0x0020: {8, 20}, 0x0024: {4}, 0x0025: {0}, 0x8028: {4}, 0x0008: {20}, 0x8029: {8}, 0x802A: {8}, 0x000D: {4}}
"""STUN attributes (RFC 8489 section 14, RFC 8445 section 16) kept when their length is one of these."""


def stun(data: bytearray, known: int) -> bool:
    """Rewrite a datagram that carries STUN's magic cookie so that its length and attributes agree; False if it cannot."""
    if len(data) < 20 or data[4:8] != _COOKIE or len(data) % 4:
        return False
    data[0] &= 0x3F
    data[2:4] = (len(data) - 20).to_bytes(2, "big")
    at = 20
    while at < len(data):
        kind, length = struct.unpack_from("!HH", data, at)
        step = 4 + (length + 3 & ~3)
        shown = at + 4 + length <= known and at + step <= len(data)
        if not shown or length not in _SOUND_ATTRIBUTES.get(kind, ()):
            step = step if shown else len(data) - at
            data[at + 4 : at + step] = filler(bytes(data[at + 4 : at + step]))
            kind, length = _SOFTWARE, step - 4
        elif kind == 0x0020:
            data[at + 4 : at + 6] = bytes((0, 1 if length == 8 else 2))
        struct.pack_into("!HH", data, at, kind, length)
        at += step
    return True


MIN_QUIC = 25
"""Bytes of the shortest datagram a QUIC endpoint answers (RFC 9000 section 10.3: 21 and a connection id)."""


def quic_flow(datagrams: list[bytearray]) -> None:
    """Make every datagram of a flow in which a QUIC long header occurs one of QUIC, or take the long headers away.

    Analysers read a whole conversation as QUIC once one datagram looked like it.
    """
    long = [data for data in datagrams if len(data) > 4 and data[0] & 0x80 and _quic_version(bytes(data[1:5]))]
    if not long:
        return
    whole = min(map(len, datagrams)) >= MIN_QUIC
    kept = {id(data) for data in long if whole and _quic_length(data)}
    for data in datagrams:
        if data and id(data) not in kept:
            data[0] = data[0] & 0x7F | 0x40


def _quic_length(data: bytearray) -> bool:
    """Make the long header's length reach the datagram's end (RFC 9000 section 17.2); False if it cannot."""
    at = 6 + data[5]
    if data[5] > 20 or at >= len(data) or data[at] > 20 or data[0] & 0x30 == 0x30:
        return False
    at += 1 + data[at]
    if data[0] & 0x30 == 0 and at < len(data):
        token, at = _varint(data, at)
        at += token
    rest = len(data) - at - 2
    if not 20 <= rest < 1 << 14:
        return False
    data[at : at + 2] = (0x4000 | rest).to_bytes(2, "big")
    return True


def _quic_version(version: bytes) -> bool:
    return version in {b"\0\0\0\1", b"\x6b\x33\x43\xcf"} or version[:3] in {b"\xff\0\0", b"\xfa\xce\xb0"} or version[:1] == b"Q"


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    """Value and end of the variable-length integer at `at` (RFC 9000 section 16)."""
    width = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + width], "big") & (1 << 8 * width - 2) - 1, at + width


def _rtcp(data: bytearray) -> int:
    return 1 if len(data) > 1 and data[0] >> 6 == 2 and 192 <= data[1] <= 223 else -1


def _dtls(data: bytearray) -> int:
    return 1 if len(data) > 2 and 20 <= data[0] <= 26 and data[1] in {0xFE, 1} else -1


def _bencode(data: bytearray) -> int:
    return 0 if data[:1] == b"d" and data[1:2].isdigit() else -1


def _gquic(data: bytearray) -> int:
    for at in (1, 5, 9):
        if data[at : at + 1] == b"Q" and data[at + 1 : at + 4].isdigit():
            return at
    return -1


def _classic_stun(data: bytearray) -> int:
    told = len(data) >= 20 and int.from_bytes(data[2:4], "big") == len(data) - 20
    return 3 if told and data[0] in {0, 1} and data[1] & 0xEC == 0 else -1


def _cookie(data: bytearray) -> int:
    """STUN's cookie, in a datagram or behind the length that frames it on TCP (RFC 4571)."""
    return next((at for at in (4, 6) if data[at : at + 4] == _COOKIE), -1)


def _fix(data: bytearray) -> int:
    return 0 if data[:5] == b"8=FIX" else -1


def _dcerpc(data: bytearray) -> int:
    return 0 if len(data) > 2 and data[0] in {4, 5} and data[1] <= 1 else -1


def _thrift(data: bytearray) -> int:
    compact = len(data) > 1 and data[0] == 0x82 and data[1] & 0x1F == 1
    return 0 if compact or data[:2] == b"\x80\x01" else -1


def _image(data: bytearray) -> int:
    return 0 if bytes(data[:4]) in {b"\x89PNG", b"GIF8", b"PRI "} or data[:2] == b"\xff\xd8" else -1


def _http_line(data: bytearray) -> int:
    """The slash of a version in what is no head: letters are compared without case."""
    at = bytes(data).upper().find(b"HTTP/")
    return -1 if at < 0 or looks_like(data) else at + 4


def _cltp(data: bytearray) -> int:
    """A unit data TPDU (ISO 8602 section 7.2) whose parameters do not end with its header: the kind becomes none that is known."""
    if len(data) < 3 or data[1] >> 4 != _UNIT_DATA or not 1 < data[0] < len(data):
        return -1
    at, end = 2, 1 + data[0]
    while at < end and at + 1 < len(data):
        at += 2 + data[at + 1]
    return 1 if at != end else -1


def _dns(data: bytearray) -> int:
    """A DNS header before fewer bytes than any message has: the count of questions becomes impossible."""
    return 4 if wellformed_dns.looks_like(bytes(data)) else -1


Signature = Callable[[bytearray], int]
DATAGRAM: tuple[Signature, ...] = (_rtcp, _dtls, _bencode, _gquic, _classic_stun, _cookie, _dcerpc, _thrift, _cltp, _dns)
"""Protocols guessed from a datagram: each gives the offset of the byte to change, -1 where it does not match."""
STREAM: tuple[Signature, ...] = (_fix, _dcerpc, _image, _http_line, _cookie, _thrift)
_EXECUTABLES = (b"This program", b"PE\0\0", b"\x7fELF")


def disguise(data: bytearray, signatures: tuple[Signature, ...]) -> bool:
    """Change one byte of each signature found at the start of `data`; returns whether any was."""
    changed = False
    for signature in signatures:
        at = signature(data)
        if at >= 0:
            data[at] = (data[at] ^ 0x20) & 0x7F | 0x40
            changed = True
    return changed


def disarm(data: bytearray, rng: random.Random) -> bool:
    """Overwrite the marks of an executable file: generated malware traffic never carries one."""
    found = False
    for mark in _EXECUTABLES:
        at = data.find(mark)
        while at >= 0:
            data[at : at + len(mark)] = filler(rng.randbytes(len(mark)))
            found = True
            at = data.find(mark)
    return found
