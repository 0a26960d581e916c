"""Clients' hellos built in the tests: TLS as browsers speak it, QUIC Initial packets, DTLS."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CONNECTION = bytes.fromhex("8394c8f03e515708")
"""The Destination Connection ID of RFC 9001 A and RFC 9369 A."""
NAME = "www.example.com"


class Secrets(NamedTuple):
    """A client's Initial key, IV and header protection key as the RFCs print them for CONNECTION."""

    key: bytes
    iv: bytes
    mask: bytes


KEYS = {
    1: Secrets(*map(bytes.fromhex, ("1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"))),
    0x6B3343CF: Secrets(
        *map(bytes.fromhex, ("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"))
    ),
}


def vector(data: bytes, size: int) -> bytes:
    """Bytes behind their length."""
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    """A TLS extension."""
    return struct.pack("!H", kind) + vector(data, 2)


def hello(name: str = NAME, *, share: int = 1400, alpn: bytes = b"h2", more: bytes = b"", cookie: bytes | None = None) -> bytes:
    """A ClientHello message whose key share (as long as post-quantum ones by default) stands before the server name."""
    version = b"\xfe\xfd" if cookie is not None else b"\x03\x03"
    newest = b"\xfe\xfc\xfe\xfd" if cookie is not None else b"\x03\x04\x03\x03"
    extensions = extension(0x0A0A, b"") + extension(51, vector(b"\x11\xec" + vector(b"K" * share, 2), 2))
    extensions += extension(10, vector(b"\x11\xec\x00\x1d", 2)) + extension(16, vector(vector(alpn, 1), 2))
    extensions += extension(0, vector(b"\x00" + vector(name.encode(), 2), 2))
    extensions += extension(43, vector(newest, 1)) + extension(13, vector(b"\x04\x03\x08\x04", 2)) + more
    body = version + b"R" * 32 + vector(b"S" * 32, 1) + (b"" if cookie is None else vector(cookie, 1))
    body += vector(b"\x0a\x0a\x13\x01\x13\x02", 2) + b"\x01\x00" + vector(extensions, 2)
    return b"\x01" + vector(body, 3)


def records(message: bytes, *, size: int = 16384) -> bytes:
    """A handshake message in TLS records of at most `size` bytes."""
    return b"".join(b"\x16\x03\x01" + vector(message[at : at + size], 2) for at in range(0, len(message), size))


def server_hello() -> bytes:
    """A TLS 1.3 ServerHello in its record."""
    body = b"\x03\x03" + b"Q" * 32 + vector(b"S" * 32, 1) + b"\x13\x01\x00" + vector(extension(43, b"\x03\x04"), 2)
    return b"\x16\x03\x03" + vector(b"\x02" + vector(body, 3), 2)


def number(value: int) -> bytes:
    """A variable-length integer of two or four bytes (RFC 9000 16)."""
    return struct.pack("!H", value | 0x4000) if value < 1 << 14 else struct.pack("!I", value | 0x80000000)


def crypto(stream: bytes, start: int, stop: int) -> bytes:
    """A CRYPTO frame with bytes [start, stop) of the stream."""
    part = stream[start:stop]
    return b"\x06" + number(start) + number(len(part)) + part


def initial(
    frames: bytes, *, version: int = 1, packet: int = 0, connection: bytes = CONNECTION, token: bytes = b"", size: int = 1200
) -> bytes:
    """A protected client Initial of `size` bytes with the keys of CONNECTION, whatever connection ID it names (RFC 9001 5)."""
    secrets = KEYS[version]
    first = (0xC0 if version == 1 else 0xD0) | 1  # two bytes of packet number
    start = struct.pack("!BI", first, version) + vector(connection, 1) + vector(b"", 1) + number(len(token)) + token
    frames = frames.ljust(size - len(start) - 4 - 16, b"\x00")
    header = start + number(2 + len(frames) + 16) + struct.pack("!H", packet)
    nonce = (int.from_bytes(secrets.iv, "big") ^ packet).to_bytes(12, "big")
    sealed = AESGCM(secrets.key).encrypt(nonce, frames, header)
    mask = Cipher(algorithms.AES128(secrets.mask), modes.ECB()).encryptor().update(sealed[2:18])
    head = bytearray(header)
    head[0] ^= mask[0] & 0x0F
    head[-2] ^= mask[1]
    head[-1] ^= mask[2]
    return bytes(head) + sealed


def long_packet(kind: int, body: bytes, *, version: int = 1) -> bytes:
    """A long header packet of another kind (1: 0-RTT, 2: Handshake), whose content nobody can read."""
    return struct.pack("!BI", 0xC0 | kind << 4, version) + vector(CONNECTION, 1) + vector(b"server", 1) + number(len(body)) + body


def kept(datagrams: Sequence[bytes]) -> bytes:
    """Datagrams as the reader keeps them."""
    return b"".join(vector(datagram, 2) for datagram in datagrams)


def dtls(message: bytes, *, sequence: int = 0, piece: int = 1 << 14) -> list[bytes]:
    """A handshake message as DTLS datagrams, one fragment each (RFC 6347 4.2.3)."""
    out = []
    body = message[4:]
    for at in range(0, len(body), piece):
        part = body[at : at + piece]
        head = message[:1] + message[1:4] + struct.pack("!H", sequence) + at.to_bytes(3, "big") + len(part).to_bytes(3, "big")
        out.append(b"\x16\xfe\xfd" + bytes(8) + vector(head + part, 2))
    return out
