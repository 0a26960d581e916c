"""TLS streams of generated flows: record lengths tile the stream, hellos are whole (RFC 5246, RFC 8446).

The plan knows the first bytes only. Everything structural it shows is kept; where it stops, or contradicts
itself, lengths are computed and the rest becomes an extension no parser opens (GREASE, RFC 8701).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from trafficllm.capture.compile.http import filler

CHANGE, ALERT, HANDSHAKE, APPLICATION, HEARTBEAT = range(20, 25)
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_MAX_RECORD = 16_384
_GREASE = 0x0A0A
_OPAQUE = frozenset({21, 22, 23, 35, 0xFF01, *(0x0A0A + 0x1010 * k for k in range(16))})
_DONE = 14
_TICKET = 35
_CUTTABLE = frozenset((4, 11, 12, 13, 16, 22))
"""Messages whose content only their real bytes make sense of: ticket, certificate, key exchanges, request, status."""
_ENDLESS = 0x00FFFF
"""Length of a message no flow of ours completes: parsers wait for the rest and open nothing."""
_HELLO_FIXED = 4 + 2 + 32 + 1


def looks_like(stream: bytes | bytearray) -> bool:
    """Whether `stream` begins with a TLS record's type and version."""
    return len(stream) >= 3 and CHANGE <= stream[0] <= HEARTBEAT and stream[1] == 3 and stream[2] <= 4


def repair(stream: bytearray, known: int, edges: Sequence[int], rng: random.Random) -> None:
    """Rewrite `stream` in place as whole records; its first `known` bytes are the plan's, the rest filler.

    `edges` are the ends of the sends it is made of, rising: records made up here end with their send.
    """
    at = 0
    encrypted = False
    size = len(stream)
    while size - at >= 6:
        kind, length = _record(stream, at, known)
        if kind < 0:
            kind, length = APPLICATION, _up_to_edge(at, edges, size)
        length = _fitting(min(length, _MAX_RECORD + 2048), size - at - 5)
        begin = at + 5
        if kind == CHANGE:
            length, encrypted = 1, True
            stream[begin] = 1
        elif kind == ALERT and length == 2:
            stream[begin : begin + 2] = _alert(stream[begin : begin + 2])
        elif kind == HANDSHAKE and not encrypted:
            length, kind = _handshake(stream, begin, length, known, rng)
        elif kind == HANDSHAKE and stream[begin] <= 24:
            stream[begin] |= 0x80
        elif kind == HEARTBEAT:
            kind = APPLICATION
        version = stream[at + 1 : at + 3] if at + 3 <= known and stream[at + 1] == 3 and stream[at + 2] <= 4 else b"\3\3"
        stream[at:begin] = bytes((kind,)) + version + length.to_bytes(2, "big")
        at = begin + length
    stream[at:] = bytes(size - at)


def _record(stream: bytearray, at: int, known: int) -> tuple[int, int]:
    """Type and length of the record header at `at`, type -1 where the plan shows none."""
    if at + 5 > known or not looks_like(stream[at : at + 6]):
        return -1, 0
    return stream[at], max(int.from_bytes(stream[at + 3 : at + 5], "big"), 1)


def _up_to_edge(at: int, edges: Sequence[int], size: int) -> int:
    edge = next((edge for edge in edges if edge - at >= 6), size)
    return edge - at - 5


def _fitting(length: int, room: int) -> int:
    """`length` cut to `room`, stretched where fewer than six bytes would remain for another record."""
    return room if room - length < 6 and room <= _MAX_RECORD + 2048 else min(length, room)


def _alert(body: bytearray) -> bytes:
    level, description = body
    return bytes((level if level in {1, 2} else 2, description if description in {0, 20, 40, 42, 46, 48, 70, 80, 112} else 40))


def _handshake(stream: bytearray, begin: int, length: int, known: int, rng: random.Random) -> tuple[int, int]:
    """Repair the messages of a plain handshake record; returns (record length, record type).

    A first message that cannot be rebuilt turns the record into application data; a later one ends it.
    """
    at, end = begin, begin + length
    while end - at >= 4:
        kind = stream[at]
        size = int.from_bytes(stream[at + 1 : at + 4], "big")
        fits = at + 4 <= known and at + 4 + size <= end and not 0 < end - at - 4 - size < 4
        if kind in {_CLIENT_HELLO, _SERVER_HELLO} and at < known and end - at >= _HELLO_FIXED + 6:
            size = size if fits and size >= _HELLO_FIXED + 2 else end - at - 4
            stream[at + 1 : at + 4] = size.to_bytes(3, "big")
            _Hello(stream, at, at + 4 + size, known, rng).repair()
        elif kind == _DONE and at + 4 <= known:
            size = 0
            stream[at + 1 : at + 4] = bytes(3)
        elif kind in _CUTTABLE and at + 1 <= known:
            stream[at + 1 : at + 4] = _ENDLESS.to_bytes(3, "big")
            return length, HANDSHAKE
        else:
            break
        at += 4 + size
    if at == begin:
        return length, APPLICATION
    return at - begin if end - at < 6 or at - begin < length else length, HANDSHAKE


class _Hello:
    """One ClientHello or ServerHello in `s[at:end]`, rewritten in place from left to right."""

    def __init__(self, s: bytearray, at: int, end: int, known: int, rng: random.Random) -> None:
        self.s, self.end, self.known, self.rng = s, end, known, rng
        self.client = s[at] == _CLIENT_HELLO
        self.at = at + 4

    def repair(self) -> None:
        """Version, random, session id, cipher suites, compression, extensions."""
        s = self.s
        if self.at + 2 > self.known or s[self.at] != 3 or s[self.at + 1] > 4:
            s[self.at : self.at + 2] = b"\3\3"
        self.at += 34
        self._session()
        if self.client:
            self._vector(2, 2, reserve=2)
            methods = 2 if self.end - self.at == 3 else 1
            s[self.at : self.at + 1 + methods] = bytes((methods, 0, 0))[: 1 + methods]
            self.at += 1 + methods
        else:
            if self.at + 2 > self.known:
                s[self.at : self.at + 2] = b"\x13\x01"
            s[self.at + 2] = 0
            self.at += 3
        if self.end - self.at < 6:
            s[self.at : self.end] = b"\0\0" + bytes(self.end - self.at - 2) if self.end - self.at >= 2 else bytes(self.end - self.at)
            return
        s[self.at : self.at + 2] = (self.end - self.at - 2).to_bytes(2, "big")
        self.at += 2
        self._extensions()

    def _session(self) -> None:
        room = self.end - self.at - 1 - (6 if self.client else 3)
        length = self.s[self.at] if self.at < self.known else 32
        if length > 32 or length > room:
            length = 32 if room >= 32 else 0
        if room - length in {1, 3, 4, 5} and not self.client:
            length = length - 6 + (room - length) if length >= 5 else room
        self.s[self.at] = length
        self.at += 1 + length

    def _vector(self, width: int, element: int, reserve: int) -> None:
        """A length-prefixed list of `element`-byte items that leaves `reserve` bytes and, if it can, an extension list."""
        room = self.end - self.at - width - reserve
        length = int.from_bytes(self.s[self.at : self.at + width], "big") if self.at + width <= self.known else 32
        if length < element or length % element or length > room or 0 < room - length < 6:
            length = min(32, room - 6) if room >= 6 + element else room
            length -= length % element
        self.s[self.at : self.at + width] = length.to_bytes(width, "big")
        if self.at + width + length > self.known:
            begin = max(self.at + width, self.known + (self.known - self.at) % 2)
            for k in range(begin, self.at + width + length - 1, 2):
                self.s[k : k + 2] = b"\xc0\x2f"
        self.at += width + length

    def _extensions(self) -> None:
        """Keep the extensions that are whole and sound; the last one takes what is left."""
        s = self.s
        while self.end - self.at >= 4:
            kind = int.from_bytes(s[self.at : self.at + 2], "big")
            size = int.from_bytes(s[self.at + 2 : self.at + 4], "big")
            rest = self.end - self.at - 4
            whole = self.at + 4 <= self.known and size <= rest and not 0 < rest - size < 4
            if not whole:
                size = rest
            begin = self.at + 4
            body = s[begin : begin + size]
            if kind == 0 and self.client and size >= 6:
                s[begin : begin + size] = self._server_name(body, begin)
            elif not (self._sound(kind, body, begin + size) if whole else kind == _TICKET and self.at + 2 <= self.known):
                s[self.at : self.at + 2] = _GREASE.to_bytes(2, "big")
            s[self.at + 2 : self.at + 4] = size.to_bytes(2, "big")
            self.at = begin + size

    def _server_name(self, body: bytearray, begin: int) -> bytes:
        """RFC 6066 section 3: one host name; bytes the plan does not show become letters."""
        shown = max(0, min(len(body), self.known - begin) - 5)
        name = bytes(body[5 : 5 + shown]) + filler(bytes(body[5 + shown :]))
        name = bytes(sign if 45 <= sign < 127 else filler(bytes((sign,)))[0] for sign in name)
        return (len(body) - 2).to_bytes(2, "big") + b"\0" + (len(body) - 5).to_bytes(2, "big") + name

    def _sound(self, kind: int, body: bytearray, end: int) -> bool:
        """Whether the extension's inner lengths agree; one whose content parsers open must also be wholly shown."""
        if kind in _OPAQUE:
            return kind not in {22, 23} or not body
        if end > self.known:
            return False
        if kind in {10, 13, 50}:
            return self.client and len(body) >= 4 and len(body) % 2 == 0 and _prefix(body, 2)
        if kind in {11, 45}:
            return len(body) >= 2 and _prefix(body, 1)
        if kind == 43:
            return len(body) == 2 if not self.client else len(body) % 2 == 1 and len(body) >= 3 and _prefix(body, 1)
        if kind == 16:
            return _prefix(body, 2) and _list(body[2:])
        if kind == 5:
            return body == b"\1\0\0\0\0" if self.client else not body
        if kind == 51:
            return _shares(body[2:]) and _prefix(body, 2) if self.client else _shares(body)
        return kind in {18, 49} and not body


def _prefix(body: bytearray, width: int) -> bool:
    return len(body) > width and int.from_bytes(body[:width], "big") == len(body) - width


def _list(body: bytearray) -> bool:
    """Whether `body` is a run of non-empty strings with one length byte each."""
    at = 0
    while at < len(body):
        if body[at] == 0:
            return False
        at += 1 + body[at]
    return at == len(body) > 0


def _shares(body: bytearray) -> bool:
    """Whether `body` is a run of key shares: group, length, key (RFC 8446 section 4.2.8)."""
    at = 0
    while at + 4 < len(body):
        at += 4 + int.from_bytes(body[at + 2 : at + 4], "big")
    return at == len(body) > 0
