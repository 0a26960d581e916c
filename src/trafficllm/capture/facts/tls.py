"""TLS hellos (RFC 8446 4.1, RFC 5246 7.4): versions, ciphers, extensions, ALPN, SNI and the JA4 fingerprint of the client.

JA4 after its public specification (FoxIO, BSD-3-Clause part of the JA4 family).
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from trafficllm.capture.facts.spans import span_of
from trafficllm.core.types import ORIG, RESP, Span

Fields = dict[str, int | str | tuple[int, ...]]

_HANDSHAKE, _CHANGE_CIPHER, _APPLICATION, _ALERT = 22, 20, 23, 21
_CLIENT_HELLO, _SERVER_HELLO, _NEW_TICKET, _CERTIFICATE = 1, 2, 4, 11
_SERVER_KEYS, _REQUEST, _VERIFY, _CLIENT_KEYS, _STATUS = 12, 13, 15, 16, 22
_SNI, _GROUPS, _SIGNATURES, _ALPN, _TICKET, _PRE_SHARED, _VERSIONS, _KEY_SHARE = 0, 10, 13, 16, 35, 41, 43, 51
_JA4_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}
_JA4_DTLS = {0xFEFF: "d1", 0xFEFD: "d2", 0xFEFC: "d3"}
_PARAMETERS = (0x39, 0xFFA5)
"""Extensions with QUIC transport parameters: RFC 9001 8.2, and the drafts before it."""
_READ = frozenset({_SNI, _GROUPS, _SIGNATURES, _ALPN, _TICKET, _PRE_SHARED, _VERSIONS, _KEY_SHARE, *_PARAMETERS})
_KINDS = frozenset({_HANDSHAKE, _CHANGE_CIPHER, _APPLICATION, _ALERT})
_CLEAR = {_SERVER_KEYS: "tls.key_share", _CLIENT_KEYS: "tls.key_share", _VERIFY: "tls.key_share"}
_CLEAR |= {_CERTIFICATE: "tls.cert_name", _REQUEST: "tls.cert_name", _STATUS: "tls.cert_name", _NEW_TICKET: "tls.ticket"}
"""What the body of a handshake message is that names or identifies somebody (RFC 5246 7.4, RFC 6066 8)."""
_PAIR = struct.Struct(">HH").unpack_from
_GREASE, _ALERT_SIZE = 0x0A0A, 2
_BARE = frozenset({0, 3, 14})
_LONGEST = (1 << 14) + 2048
_MAX_RECORDS = 64
_SHORTEST_HELLO = 38  # bytes: version, random, an empty session id, one suite
_HELLO, _ANSWER = (re.compile(rb"\x16\x03[\x00-\x04](..)" + kind + rb"\x00(..)\x03[\x00-\x03]", re.DOTALL) for kind in (b"\x01", b"\x02"))


def looks_like_tls(data: bytes) -> bool:
    """A record of SSL 3 to TLS 1.3: a hello, an alert, or one from the middle of a session with a length that can be."""
    if len(data) < 6 or data[0] not in _KINDS or data[1] != 3 or data[2] > 4:
        return False
    return data[0] == _ALERT or (data[0] == _HANDSHAKE and data[5] in {0, 1, 2}) or _continues(data)


def _continues(data: bytes) -> bool:
    """A record of a session whose beginning was not captured: whole, or followed by another as far as bytes go."""
    size = int.from_bytes(data[3:5], "big")
    behind = data[5 + size : 7 + size]
    if data[0] == _CHANGE_CIPHER and (size != 1 or data[5] != 1):
        return False
    return 0 < size <= _LONGEST and (not behind or (behind[0] in _KINDS and behind[1:] in {b"", b"\x03"}))


def hello_start(data: bytes) -> int:
    """Where a ClientHello's record begins behind plain text, -1 where none does."""
    return _start(_HELLO, data)


def server_hello_start(data: bytes) -> int:
    """Where a ServerHello's record begins behind plain text, -1 where none does."""
    return _start(_ANSWER, data)


def _start(pattern: re.Pattern[bytes], data: bytes) -> int:
    if b"\x16\x03" not in data:
        return -1
    for match in pattern.finditer(data):
        record, message = (int.from_bytes(match[k], "big") for k in (1, 2))
        if 4 < record <= _LONGEST and message >= _SHORTEST_HELLO:
            return match.start()
    return -1


@dataclass(slots=True)
class _Stream:
    """Handshake bytes of one direction joined over records, with the way back to the prefix."""

    dir: int
    data: bytearray = field(default_factory=bytearray)
    runs: list[tuple[int, int]] = field(default_factory=list)  # (start in data, start in prefix) of each record's body
    spans: list[Span] = field(default_factory=list)
    version: int = 0
    cut: bool = False

    def mark(self, start: int, end: int, kind: str) -> None:
        """Span over handshake bytes [start, end), split where records part them."""
        if not self.runs:  # a hello without records: nothing of it lies in the prefix
            return
        end = min(end, len(self.data))
        for i, (at, place) in enumerate(self.runs):
            stop = self.runs[i + 1][0] if i + 1 < len(self.runs) else len(self.data)
            low, high = max(start, at), min(end, stop)
            if low < high:
                self.spans.append(span_of(self.dir, place + low - at, place + high - at, kind))


def _records(data: bytes, direction: int, start: int) -> _Stream:
    stream, at, encrypted = _Stream(direction), start, False
    for _ in range(_MAX_RECORDS):
        if at + 5 > len(data) or data[at] not in _KINDS or data[at + 1] != 3:
            break
        kind, size = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
        body, stop = at + 5, min(at + 5 + size, len(data))
        if at == start:
            stream.version = int.from_bytes(data[at + 1 : at + 3], "big")
        if kind == _APPLICATION or (encrypted and kind in {_HANDSHAKE, _ALERT}):
            encrypted = True
            if body < stop:
                stream.spans.append(span_of(direction, body, stop, "encrypted"))
        elif kind == _HANDSHAKE:
            stream.runs.append((len(stream.data), body))
            stream.data += data[body:stop]
            stream.cut = at + 5 + size > len(data)
        elif kind == _CHANGE_CIPHER:
            encrypted = True
        elif size > _ALERT_SIZE and body < stop:
            stream.spans.append(span_of(direction, body, stop, "encrypted"))
        at += 5 + size
    if at < len(data) and (at + 5 <= len(data) or data[at] not in _KINDS):
        stream.spans.append(span_of(direction, at, len(data), "encrypted"))
    return stream


def tls_facts(orig: bytes, resp: bytes, *, starts: tuple[int, int] = (0, 0)) -> tuple[str, Fields, list[Span]]:
    """Facts of a TLS flow from the beginnings of both directions; `starts`: where TLS begins in each, -1: not there."""
    fields: Fields = {}
    spans: list[Span] = []
    for direction, data in ((ORIG, orig), (RESP, resp)):
        if starts[direction] < 0:
            continue
        stream = _records(data, direction, starts[direction])
        if stream.version and "tls.record.version" not in fields:
            fields["tls.record.version"] = stream.version
        _messages(stream, fields)
        spans += stream.spans
    return "tls", fields, spans


def bare_hello(message: bytes, *, transport: str, cookie: bool = False) -> Fields:
    """Fields of a ClientHello that came without TLS records, its four header bytes included; one that is cut gives what there is.

    `transport`: JA4's letter, "q" for QUIC and "d" for DTLS; `cookie`: as in DTLS, one follows the session id (RFC 6347 4.2.1).
    """
    fields: Fields = {}
    stream = _Stream(ORIG, bytearray(message))
    if len(message) >= 6 and message[0] == _CLIENT_HELLO:
        end = 4 + int.from_bytes(message[1:4], "big")
        _client_hello(stream, fields, 4, end, transport=transport, cookie=cookie)
    return fields


def _messages(stream: _Stream, fields: Fields) -> None:
    at, data = 0, stream.data
    for _ in range(_MAX_RECORDS):
        if at + 4 > len(data):
            return
        kind, size = data[at], int.from_bytes(data[at + 1 : at + 4], "big")
        body, end = at + 4, at + 4 + size
        if kind == _CLIENT_HELLO:
            _client_hello(stream, fields, body, end)
        elif kind == _SERVER_HELLO:
            _server_hello(stream, fields, body, end)
        elif kind in _CLEAR:
            if kind == _CERTIFICATE:
                fields.setdefault("tls.handshake.certificates_length", size)
            stream.mark(body, end, _CLEAR[kind])
        elif kind not in _BARE:  # a session's middle: these are no message's first bytes
            stream.mark(at, len(data), "encrypted")
            return
        at = end


def _u16(data: bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _list16(data: bytearray, at: int, size: int) -> tuple[int, ...]:
    count = (min(at + size, len(data)) - at) // 2
    return struct.unpack_from(f">{count}H", data, at) if count > 0 else ()


def _greeting(stream: _Stream, body: int) -> int:
    """Mark random and session id; position behind them, -1 when cut."""
    stream.mark(body + 2, body + 34, "tls.random")
    if body + 35 > len(stream.data):
        return -1
    size = stream.data[body + 34]
    stream.mark(body + 35, body + 35 + size, "tls.session_id")
    return body + 35 + size


def _extensions(stream: _Stream, at: int, end: int) -> tuple[list[tuple[int, int, int]], bool]:
    """(type, start, stop) of each extension seen, and whether all of them were."""
    data = stream.data
    found: list[tuple[int, int, int]] = []
    if at + 2 > min(end, len(data)):
        return found, at >= end and end <= len(data)
    stop = min(at + 2 + _u16(data, at), end)
    at, last = at + 2, min(stop, len(data)) - 4
    while at <= last:
        kind, size = _PAIR(data, at)
        at += 4
        found.append((kind, at, at + size if at + size < stop else stop))
        at += size
    return found, at >= stop


def _client_hello(stream: _Stream, fields: Fields, body: int, end: int, *, transport: str = "t", cookie: bool = False) -> None:
    data = stream.data
    fields["tls.handshake.version"] = _u16(data, body)
    at = _greeting(stream, body)
    if cookie and 0 <= at < len(data):
        at += 1 + data[at]
    if at < 0 or at + 2 > len(data):
        return
    size = _u16(data, at)
    ciphers = _list16(data, at + 2, size)
    fields["tls.handshake.ciphersuite"] = ciphers
    at += 2 + size
    if at + 1 > len(data):
        return
    found, complete = _extensions(stream, at + 1 + data[at], end)
    fields["tls.handshake.extension.type"] = tuple(kind for kind, _, _ in found)
    for kind, start, stop in found:
        if kind in _READ:  # half of a browser's extensions say nothing that is kept
            _client_extension(stream, fields, kind, start, stop)
    if complete:
        fields["tls.handshake.ja4"] = ja4(fields, transport=transport)


def _client_extension(stream: _Stream, fields: Fields, kind: int, start: int, stop: int) -> None:
    data = stream.data
    if kind == _SNI and stop - start > 5:
        stop = min(stop, start + 5 + _u16(data, start + 3))
        stream.mark(start + 5, stop, "tls.sni")
        fields["tls.handshake.extensions_server_name"] = data[start + 5 : stop].decode("ascii", "backslashreplace")
    elif kind == _GROUPS:
        fields["tls.handshake.extensions_supported_group"] = _list16(data, start + 2, stop - start - 2)
    elif kind == _SIGNATURES:
        fields["tls.handshake.sig_hash_alg"] = _list16(data, start + 2, stop - start - 2)
    elif kind == _ALPN:
        fields["tls.handshake.extensions_alpn_str"] = ",".join(_alpn(data, start + 2, stop))
    elif kind == _VERSIONS:
        fields["tls.handshake.extensions.supported_version"] = _list16(data, start + 1, stop - start - 1)
    elif kind == _KEY_SHARE:
        stream.mark(start, stop, "tls.key_share")
    elif kind in (_TICKET, _PRE_SHARED):
        stream.mark(start, stop, "tls.ticket")
    elif kind in _PARAMETERS:
        _parameters(data, fields, start, stop)


def varint(data: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000 16) and the position behind it; (-1, end) where it is cut."""
    if at >= end:
        return -1, end
    size = 1 << (data[at] >> 6)
    if at + size > end:
        return -1, end
    return int.from_bytes(data[at : at + size], "big") & (1 << 8 * size - 2) - 1, at + size


def _parameters(data: bytearray, fields: Fields, at: int, stop: int) -> None:
    """Kinds and lengths of QUIC transport parameters (RFC 9000 18)."""
    stop = min(stop, len(data))
    kinds: list[int] = []
    sizes: list[int] = []
    while at < stop and len(kinds) < _MAX_RECORDS:
        kind, at = varint(data, at, stop)
        size, at = varint(data, at, stop)
        if size < 0:
            break
        kinds.append(kind)
        sizes.append(size)
        at += size
    fields["tls.quic.parameter.type"], fields["tls.quic.parameter.length"] = tuple(kinds), tuple(sizes)


def _alpn(data: bytearray, at: int, stop: int) -> list[str]:
    names, stop = [], min(stop, len(data))
    while at < stop:
        size = data[at]
        names.append(data[at + 1 : min(at + 1 + size, stop)].decode("latin-1"))
        at += 1 + size
    return names


def _server_hello(stream: _Stream, fields: Fields, body: int, end: int) -> None:
    data = stream.data
    fields["tls.server.version"] = _u16(data, body)
    at = _greeting(stream, body)
    if at < 0 or at + 3 > len(data):
        return
    fields["tls.server.ciphersuite"] = _u16(data, at)
    found, _ = _extensions(stream, at + 3, end)
    fields["tls.server.extension.type"] = tuple(kind for kind, _, _ in found)
    for kind, start, stop in found:
        if kind == _VERSIONS and stop - start == 2:
            fields["tls.server.supported_version"] = _u16(data, start)
        elif kind == _ALPN:
            fields["tls.server.alpn_str"] = ",".join(_alpn(data, start + 2, stop))
        elif kind == _KEY_SHARE:
            stream.mark(start, stop, "tls.key_share")


def _grease(value: int) -> bool:
    """Reserved values that clients send at random (RFC 8701)."""
    return value & 0x0F0F == _GREASE and value >> 8 == value & 0xFF


def _listed(numbers: Iterable[int]) -> str:
    return ",".join([f"{number:04x}" for number in numbers])


@lru_cache(maxsize=1024)
def _digest(numbers: tuple[int, ...], signatures: tuple[int, ...] = ()) -> str:
    """Twelve digits of a SHA-256, kept for the lists that every hello of a client repeats."""
    text = _listed(numbers)
    text = f"{text}_{_listed(signatures)}" if signatures else text
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:12] if text else "0" * 12


def _numbers(fields: Fields, name: str) -> list[int]:
    value = fields.get(name, ())
    return [item for item in value if item & 0x0F0F != _GREASE or not _grease(item)] if isinstance(value, tuple) else []


def ja4(fields: Fields, *, transport: str = "t") -> str:
    """JA4 of a complete ClientHello, from its fields; `transport`: "t" TCP, "q" QUIC, "d" DTLS."""
    legacy = fields["tls.handshake.version"]
    versions = _numbers(fields, "tls.handshake.extensions.supported_version") or [legacy if isinstance(legacy, int) else 0]
    names, version = (_JA4_DTLS, min(versions)) if transport == "d" else (_JA4_VERSIONS, max(versions))
    ciphers = _numbers(fields, "tls.handshake.ciphersuite")
    extensions = _numbers(fields, "tls.handshake.extension.type")
    alpn = str(fields.get("tls.handshake.extensions_alpn_str", "")).split(",")[0]
    counts = f"{min(len(ciphers), 99):02d}{min(len(extensions), 99):02d}"
    head = f"{transport}{names.get(version, '00')}{'d' if _SNI in extensions else 'i'}{counts}{_ja4_alpn(alpn)}"
    others = sorted(item for item in extensions if item not in (_SNI, _ALPN))
    signatures = tuple(_numbers(fields, "tls.handshake.sig_hash_alg"))
    return f"{head}_{_digest(tuple(sorted(ciphers)))}_{_digest(tuple(others), signatures)}"


def _ja4_alpn(name: str) -> str:
    """First and last character of the first ALPN value; hex digits of them where they are not alphanumeric."""
    if not name:
        return "00"
    ends = name[0] + name[-1]
    if ends.isascii() and ends.isalnum():
        return ends
    raw = name.encode("latin-1", "replace").hex()
    return raw[0] + raw[-1]
