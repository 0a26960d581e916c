"""Messages that patterns are made of, whole as they stand: TLS, DNS, HTTP, WireGuard."""

from __future__ import annotations

import base64
import random
import struct

_A = 1
TYPES = {"CNAME": 5, "NULL": 10, "MX": 15, "TXT": 16}
"""Record types that tunnels carry data in."""
_IN_A_NAME = 228
"""Letters of data that a name holds: four labels of 57."""
_SUITES = (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0x009C, 0x009D)
_WORDS = (
    "account", "archive", "article", "basket", "calendar", "catalogue", "comment", "contact", "delivery", "document",
    "edition", "folder", "garden", "harbour", "history", "invoice", "journal", "kitchen", "library", "market",
    "meeting", "message", "morning", "notebook", "number", "office", "order", "package", "paper", "picture",
    "price", "product", "profile", "project", "question", "report", "review", "schedule", "season", "service",
    "station", "story", "street", "summer", "table", "ticket", "travel", "update", "visitor", "weather",
    "window", "winter",
)  # fmt: skip


def text(rng: random.Random, size: int) -> bytes:
    """Plain words of exactly `size` bytes."""
    out = bytearray()
    while len(out) < size:
        out += rng.choice(_WORDS).encode() + b" "
    return bytes(out[:size])


# TLS (RFC 8446, RFC 5246)


def client_hello(rng: random.Random, name: str) -> bytes:
    """A record with a TLS 1.3 ClientHello for a server name, padded to a usual length."""
    host = name.encode()
    key = rng.randbytes(32)
    extensions = b"".join(
        struct.pack("!HH", kind, len(body)) + body
        for kind, body in (
            (0, struct.pack("!HBH", len(host) + 3, 0, len(host)) + host),
            (11, b"\1\0"),
            (10, struct.pack("!4H", 6, 0x001D, 0x0017, 0x0018)),
            (16, b"\0\x0c\x02h2\x08http/1.1"),
            (13, struct.pack("!7H", 12, 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501)),
            (43, b"\4\3\4\3\3"),
            (45, b"\1\1"),
            (51, struct.pack("!HHH", 36, 0x001D, 32) + key),
        )
    )
    suites = struct.pack(f"!H{len(_SUITES)}H", 2 * len(_SUITES), *_SUITES)
    body = b"\3\3" + rng.randbytes(32) + b"\x20" + rng.randbytes(32) + suites + b"\1\0" + struct.pack("!H", len(extensions)) + extensions
    return _record(22, b"\1" + len(body).to_bytes(3, "big") + body, version=b"\3\1")


def server_hello(rng: random.Random) -> bytes:
    """Records with a TLS 1.3 ServerHello, the compatibility ChangeCipherSpec, and an encrypted certificate of usual length."""
    extensions = struct.pack("!HHH", 43, 2, 0x0304) + struct.pack("!HHHH", 51, 36, 0x001D, 32) + rng.randbytes(32)
    body = b"\3\3" + rng.randbytes(32) + b"\x20" + rng.randbytes(32) + b"\x13\1\0" + struct.pack("!H", len(extensions)) + extensions
    hello = _record(22, b"\2" + len(body).to_bytes(3, "big") + body)
    return hello + _record(20, b"\1") + application_data(rng, rng.randrange(2200, 4200))


def client_finished(rng: random.Random) -> bytes:
    """ChangeCipherSpec and the encrypted Finished message."""
    return _record(20, b"\1") + application_data(rng, 53)


def application_data(rng: random.Random, size: int) -> bytes:
    """Encrypted records with `size` bytes of ciphertext in all, at least one byte."""
    largest, out, left = 1 << 14, bytearray(), max(size, 1)
    while left:
        part = min(left, largest)
        out += _record(23, rng.randbytes(part))
        left -= part
    return bytes(out)


def _record(kind: int, body: bytes, *, version: bytes = b"\3\3") -> bytes:
    return bytes((kind,)) + version + struct.pack("!H", len(body)) + body


# DNS (RFC 1035)


def dns_query(ident: int, name: str, *, kind: int = _A) -> bytes:
    """A standard query with recursion desired."""
    return struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + _name(name) + struct.pack("!HH", kind, 1)


def dns_address(ident: int, name: str, address: bytes) -> bytes:
    """The answer with one IPv4 address."""
    head = struct.pack("!6H", ident, 0x8180, 1, 1, 0, 0) + _name(name) + struct.pack("!HH", _A, 1)
    return head + b"\xc0\x0c" + struct.pack("!HHIH", _A, 1, 300, 4) + address


def dns_carried(ident: int, name: str, kind: int, data: bytes) -> bytes:
    """The answer with one record that carries `data`, letters and digits, as its type does: TXT, NULL, CNAME or MX."""
    head = struct.pack("!6H", ident, 0x8180, 1, 1, 0, 0) + _name(name) + struct.pack("!HH", kind, 1)
    body = _carried(kind, data)
    return head + b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 5, len(body)) + body


def _carried(kind: int, data: bytes) -> bytes:
    if kind == TYPES["NULL"]:
        return data
    if kind == TYPES["TXT"]:
        return b"".join(bytes((len(part),)) + part for part in (data[at : at + 255] for at in range(0, len(data), 255)))
    name = _name(".".join(data[at : at + 57].decode() for at in range(0, min(len(data), _IN_A_NAME), 57)))
    return name if kind == TYPES["CNAME"] else b"\0\x0a" + name


def _name(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"


def encoded(rng: random.Random, size: int) -> str:
    """`size` characters as a tunnel encodes its data: base 32 without padding, lower case."""
    return base64.b32encode(rng.randbytes(size * 5 // 8 + 1)).decode().rstrip("=").lower()[:size]


# HTTP/1.1 (RFC 9112)


def http_request(method: str, path: str, host: str, agent: str, body: bytes = b"") -> bytes:
    """A request; a body is a form's."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"User-Agent: {agent}", "Accept: */*", "Connection: keep-alive"]
    if body:
        lines += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


def http_answer(status: str, body: bytes) -> bytes:
    """An answer with a plain text body."""
    lines = [f"HTTP/1.1 {status}", "Server: shop", "Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


# WireGuard (white paper, section 5.4)


def wireguard_initiation(rng: random.Random, index: int) -> bytes:
    """The first message of a handshake: 148 bytes, the second mac empty."""
    return struct.pack("<II", 1, index) + rng.randbytes(124) + bytes(16)


def wireguard_response(rng: random.Random, index: int, peer: int) -> bytes:
    """The answer: 92 bytes."""
    return struct.pack("<III", 2, index, peer) + rng.randbytes(64) + bytes(16)


def wireguard_data(rng: random.Random, peer: int, counter: int, size: int) -> bytes:
    """A transport message around an IP packet of `size` bytes; 0 is a keepalive."""
    return struct.pack("<IIQ", 4, peer, counter) + rng.randbytes(-(-size // 16) * 16 + 16)
