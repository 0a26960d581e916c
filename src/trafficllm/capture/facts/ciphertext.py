"""Ciphertext that can be told from its framing: SSH after its key exchange, DTLS, QUIC, WireGuard, IKE and ESP.

Record headers are left unmarked; what is random or encrypted is a span, so that no mask profile has to guess.
"""

from __future__ import annotations

from trafficllm.capture.facts.spans import span_of
from trafficllm.core.types import ORIG, RESP, Span

_KEXINIT, _NEWKEYS, _LAST_CLEAR = 20, 21, 49
_SSH_LONGEST = 35000
_DTLS_HEADER, _DTLS_HANDSHAKE, _DTLS_KINDS = 13, 12, frozenset({20, 21, 22, 23, 24, 25})
_MOST = 64


def ssh(orig: bytes, resp: bytes) -> list[Span]:
    """Of an SSH session (RFC 4253): cookies, key exchange, padding, and all behind NEWKEYS; banner and lists of names are left."""
    return [span for way, data in ((ORIG, orig), (RESP, resp)) for span in _ssh(way, data)]


def _ssh(way: int, data: bytes) -> list[Span]:
    out: list[Span] = []
    at = data.find(b"\n") + 1
    if not data.startswith(b"SSH-") or not at:
        return [span_of(way, 0, len(data), "encrypted")] if data and not data.startswith(b"SSH-") else []
    for _ in range(_MOST):
        if at + 6 > len(data):
            break
        size, padding, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4], data[at + 5]
        end = at + 4 + size
        if not 8 <= size <= _SSH_LONGEST or not 0 < kind <= _LAST_CLEAR:
            break
        if kind == _KEXINIT:
            out += [span_of(way, at + 6, at + 22, "key_exchange"), span_of(way, max(end - padding, at + 22), end, "key_exchange")]
        else:
            out.append(span_of(way, at + 6, end, "key_exchange"))
        at = end
        if kind == _NEWKEYS:
            break
    out = [span_of(s.dir, s.start, min(s.end, len(data)), s.kind) for s in out if s.start < min(s.end, len(data))]
    return [*out, span_of(way, at, len(data), "encrypted")] if at < len(data) else out


def looks_like_dtls_record(data: bytes) -> bool:
    """A record header of DTLS 1.0 or 1.2 (RFC 6347 section 4.1)."""
    return len(data) >= _DTLS_HEADER and data[0] in _DTLS_KINDS and data[1] == 0xFE and data[2] in {0xFD, 0xFF}


def dtls(orig: bytes, resp: bytes) -> list[Span]:
    """Of DTLS records: everything of later epochs, of handshake messages what is behind their header and version, hellos' ciphers aside."""
    out: list[Span] = []
    for way, data in ((ORIG, orig), (RESP, resp)):
        at = 0
        while looks_like_dtls_record(data[at : at + _DTLS_HEADER]):
            body, end = at + _DTLS_HEADER, at + _DTLS_HEADER + int.from_bytes(data[at + 11 : at + 13], "big")
            if data[at] == 22 and data[at + 3 : at + 5] == b"\0\0":
                out += _dtls_handshake(way, data, body + _DTLS_HANDSHAKE, min(end, len(data)), data[body : body + 1])
            elif body < min(end, len(data)):
                out.append(span_of(way, body, min(end, len(data)), "encrypted"))
            at = end
        if at < len(data):
            out.append(span_of(way, at, len(data), "encrypted"))
    return out


def _dtls_handshake(way: int, data: bytes, at: int, end: int, kind: bytes) -> list[Span]:
    """Random, session, cookie and extensions of a hello; the whole of any other message."""
    if kind not in {b"\1", b"\2"}:
        return [span_of(way, at, end, "key_exchange")] if at < end else []
    out = [span_of(way, at + 2, min(at + 34, end), "tls.random")]
    at += 34
    for name in ("tls.session_id", "tls.ticket")[: 2 if kind == b"\1" else 1]:
        size = data[at] if at < end else 0
        out.append(span_of(way, at + 1, min(at + 1 + size, end), name))
        at += 1 + size
    at += 3 if kind == b"\2" else 2 + int.from_bytes(data[at : at + 2], "big")
    at += 1 + data[at] if kind == b"\1" and at < end else 0
    return [span for span in (*out, span_of(way, at, end, "tls.sni")) if span.start < span.end]


def looks_like_wireguard(orig: bytes, resp: bytes) -> bool:
    """Type 1 to 4 and three zero bytes both ways, with lengths that the type has (the WireGuard paper, section 5.4)."""
    return _wireguard(orig) and (not resp or _wireguard(resp)) and len(orig) + len(resp) >= 64


def _wireguard(data: bytes) -> bool:
    least = {b"\1\0\0\0": 148, b"\2\0\0\0": 92, b"\3\0\0\0": 64, b"\4\0\0\0": 32}
    return len(data) >= least.get(data[:4], 1 << 30)


def looks_like_ike(data: bytes) -> bool:
    """An IKE header (RFC 7296 section 3.1), maybe behind the non-ESP marker: version, a known exchange and a length that fits."""
    at = 4 if data[:4] == bytes(4) else 0
    return len(data) >= at + 28 and data[at + 17] in {0x10, 0x20} and data[at + 18] in _EXCHANGES and data[at + 24 : at + 26] == b"\0\0"


_EXCHANGES = frozenset({2, 4, 5, 6, 32, *range(34, 45)})


def ike(orig: bytes, resp: bytes) -> list[Span]:
    """Security parameter indexes and everything behind the header."""
    out: list[Span] = []
    for way, data in ((ORIG, orig), (RESP, resp)):
        at = 4 if data[:4] == bytes(4) else 0
        if looks_like_ike(data):
            out += [span_of(way, at, at + 16, "key_exchange"), span_of(way, at + 28, len(data), "encrypted")]
        elif data:
            out.append(span_of(way, 0, len(data), "encrypted"))
    return out


def whole(orig: bytes, resp: bytes, kind: str = "encrypted", skip: int = 0) -> list[Span]:
    """Everything of both directions behind `skip` bytes."""
    return [span_of(way, skip, len(data), kind) for way, data in ((ORIG, orig), (RESP, resp)) if len(data) > skip]


def looks_like_short_quic(orig: bytes, resp: bytes) -> bool:
    """Short headers both ways (RFC 9000 section 17.3): the fixed bit, and room for an identifier, a packet number and a tag."""
    return all(not data or (data[0] & 0xC0 == 0x40 and len(data) >= _QUIC_LEAST) for data in (orig, resp)) and bool(orig or resp)


_QUIC_LEAST = 21
