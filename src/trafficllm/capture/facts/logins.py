"""Binary protocols that begin with a login: where user names and passwords lie. All that is not a length, a number or a type is marked.

MySQL and PostgreSQL (their manuals' chapters on the protocol), LDAP (RFC 4511), STUN (RFC 8489).
"""

from __future__ import annotations

from trafficllm.capture.facts.spans import span_of
from trafficllm.core.types import ORIG, RESP, Span

_STUN_HEADER, _STUN_COOKIE = 20, b"\x21\x12\xa4\x42"
_MOST = 64


def mysql(orig: bytes, resp: bytes) -> list[Span]:
    """The client's login behind its 32 fixed bytes (packet header: 4) and all after it; the server's greeting behind its version."""
    out = [span_of(ORIG, 36, len(orig), "credential")] if len(orig) > 36 else []
    return [*out, *([span_of(RESP, 5, len(resp), "content")] if len(resp) > 5 else [])]


def looks_like_postgresql(orig: bytes) -> bool:
    """A startup message of version 3, or a request for TLS before it."""
    return orig[4:8] in {b"\0\3\0\0", b"\x04\xd2\x16\x2f"} and int.from_bytes(orig[:4], "big") < 1 << 16


def postgresql(orig: bytes, resp: bytes) -> list[Span]:
    """Type and length of every message are left; parameters of the startup and passwords are credentials, the rest content."""
    out: list[Span] = []
    at = 0
    while at + 8 <= len(orig) and orig[at] == 0:
        size = int.from_bytes(orig[at : at + 4], "big")
        if size > 8:
            out.append(span_of(ORIG, at + 8, min(at + size, len(orig)), "credential"))
        at += max(size, 8)
    for way, data, start in ((ORIG, orig, at), (RESP, resp, 0)):
        at = start
        for _ in range(_MOST):
            if at + 5 > len(data):
                break
            size = int.from_bytes(data[at + 1 : at + 5], "big")
            stop = min(at + 1 + size, len(data))
            if size < 4 or not chr(data[at]).isalnum():
                break
            if at + 5 < stop:
                out.append(span_of(way, at + 5, stop, "credential" if way == ORIG and data[at] == 0x70 else "content"))
            at += 1 + size
        if at < len(data):
            out.append(span_of(way, at, len(data), "content"))
    return out


def looks_like_ldap(orig: bytes) -> bool:
    """A bind request: a sequence, a message number, application tag 0 with version 2 or 3."""
    at = _ber(orig, 0, 0x30)
    if at < 0 or orig[at : at + 1] != b"\x02":
        return False
    at = _ber(orig, at + 2 + orig[at + 1], 0x60) if at + 1 < len(orig) else -1
    return at > 0 and orig[at : at + 2] == b"\x02\x01" and orig[at + 2 : at + 3] in {b"\2", b"\3"}


def ldap(orig: bytes, resp: bytes) -> list[Span]:
    """Everything behind the bind's version is a credential; answers are content behind their first bytes."""
    at = orig.find(b"\x02\x01", 5)
    at = at + 3 if at > 0 else 5
    out = [span_of(ORIG, at, len(orig), "credential")] if len(orig) > at else []
    return [*out, *([span_of(RESP, 10, len(resp), "content")] if len(resp) > 10 else [])]


def _ber(data: bytes, at: int, tag: int) -> int:
    """Position of the contents of a BER element with this tag (X.690 section 8.1), -1 if there is none."""
    if at + 2 > len(data) or data[at] != tag:
        return -1
    return at + 2 + (data[at + 1] & 0x7F if data[at + 1] & 0x80 else 0)


def looks_like_stun(data: bytes) -> bool:
    """The magic cookie where it must stand."""
    return data[4:8] == _STUN_COOKIE and data[:1] < b"\x40"


def stun(orig: bytes, resp: bytes) -> list[Span]:
    """Transaction numbers and the values of attributes (addresses, user names, nonces); types and lengths are left."""
    out: list[Span] = []
    for way, data in ((ORIG, orig), (RESP, resp)):
        at = 0
        while looks_like_stun(data[at : at + 8]):
            stop = min(at + _STUN_HEADER + int.from_bytes(data[at + 2 : at + 4], "big"), len(data))
            out.append(span_of(way, at + 8, min(at + _STUN_HEADER, len(data)), "key_exchange"))
            at += _STUN_HEADER
            while at + 4 <= stop:
                size = int.from_bytes(data[at + 2 : at + 4], "big")
                if size:
                    out.append(span_of(way, at + 4, min(at + 4 + size, stop), "credential"))
                at += 4 + size + -size % 4
            at = max(at, stop)
        if at < len(data):
            out.append(span_of(way, at, len(data), "content"))
    return out
