"""QUIC Initial packets of the client: opened (RFC 9001 5), CRYPTO frames put together, the ClientHello read.

Initial keys come from the client's first Destination Connection ID and a salt that the RFCs publish, so anyone on the path can open
these packets. Bounded a flow: 8 kB of datagrams (the reader), 16 packets, 3 connection IDs, 512 frames, 16 kB of CRYPTO bytes.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from trafficllm.capture.facts.dtls import joined
from trafficllm.capture.facts.gquic import chlo_fields, gquic_version
from trafficllm.capture.facts.tls import Fields, bare_hello, varint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

V1, V2 = 0x00000001, 0x6B3343CF
_Q050, _T051 = 0x51303530, 0x54303531
_SALTS = {
    name: bytes.fromhex(salt)
    for name, salt in (
        ("21", "7fbcdb0e7c66bbe9193a96cd21519ebd7a02644a"),  # draft-ietf-quic-tls-21 5.2
        ("23", "c3eef712c72ebb5a11a7d2432bb46365bef9f502"),  # draft-ietf-quic-tls-23 5.2
        ("29", "afbfec289993d24c9e9786f19c6111e04390a899"),  # draft-ietf-quic-tls-29 5.2
        ("1", "38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),  # RFC 9001 5.2
        ("2", "0dede3def700a6db819381be6e269dcbf9bd2ed9"),  # RFC 9369 3.3.1
        ("Q050", "504574efd066fe2f9d945cfcdbd3a7f0d3b56b45"),  # Google's, as deployed in 2019 and 2020
        ("T051", "7a4edef4e7ccee5fa4506c19124fc8ccda6e033d"),
    )
}
_VERSIONS = {V1: "1", V2: "2", _Q050: "Q050", _T051: "T051", 0xFACEB001: "21", 0xFACEB002: "23"}
"""Version -> whose salt it takes; Facebook's two are draft-22 and draft-27."""
_VERSIONS |= {0xFF000000 + draft: "21" if draft < 23 else "23" if draft < 29 else "29" if draft < 33 else "1" for draft in range(21, 35)}
_MAX_PACKETS, _MAX_IDS, _MAX_FRAMES, _MAX_CRYPTO = 16, 3, 512, 1 << 14
_SAMPLE, _TAG = 16, 16
_PADDING, _PING, _ACK, _ACK_ECN, _CRYPTO, _CRYPTO_Q050 = 0x00, 0x01, 0x02, 0x03, 0x06, 0x08


class Packet(NamedTuple):
    """An Initial packet inside a datagram: bytes [start, end), the packet number at `number`, its Destination Connection ID."""

    version: int
    connection: bytes
    start: int
    number: int
    end: int


class Keys(NamedTuple):
    """What opens a client's Initial packets: AEAD, its IV, and header protection (AES-ECB)."""

    aead: AESGCM
    iv: int
    mask: CipherContext


def quic_version(data: bytes) -> int:
    """Version in a QUIC long header (RFC 9000 17.2) or in gQUIC's public header, 0 if it is neither."""
    if len(data) < 7 or data[0] & 0xC0 != 0xC0:
        return gquic_version(data)
    version = int.from_bytes(data[1:5], "big")
    known = version in _VERSIONS or version >> 8 == 0xFF0000 or data[1:2] in {b"Q", b"T"}
    if known or (_reserved(version) and data[5] >= 8):
        return version if data[5] <= 20 or data[1:2] == b"Q" else 0
    return 0


def _reserved(version: int) -> bool:
    """A version that clients name to make servers negotiate (RFC 9000 15)."""
    return version & 0x0F0F0F0F == 0x0A0A0A0A


def _salt(version: int) -> bytes:
    """The salt of a version's Initial keys, b"" where it is not known; who asks for a reserved version takes draft-29's."""
    return _SALTS["29"] if _reserved(version) else _SALTS.get(_VERSIONS.get(version, ""), b"")


def quic_fields(datagrams: Iterable[bytes]) -> Fields:
    """Fields of the ClientHello in a client's datagrams, in whatever order they and their CRYPTO frames come."""
    keys: dict[tuple[int, bytes], Keys] = {}
    streams: dict[bytes, dict[int, bytes]] = {}
    best, packets = b"", 0
    for datagram in datagrams:
        for packet in initials(datagram):
            packets += 1
            if packets > _MAX_PACKETS:
                return _hello_fields(best)
            identity = packet.connection
            if identity not in streams and len(streams) < _MAX_IDS:
                streams[identity] = {}
            for connection, parts in streams.items():
                pair = packet.version, connection
                if pair not in keys:
                    keys[pair] = initial_keys(*pair)
                payload = opened(datagram, packet, keys[pair])
                if payload:
                    _crypto(payload, parts)
                    hello = joined(parts)
                    best = max(best, hello, key=len)
                    if len(hello) > 3 and hello[0] == 1 and len(hello) >= 4 + int.from_bytes(hello[1:4], "big"):
                        return _hello_fields(hello)
                    break
    return _hello_fields(best)


def _hello_fields(message: bytes) -> Fields:
    return chlo_fields(message) if message.startswith(b"CHLO") else bare_hello(message, transport="q")


def initials(data: bytes) -> Iterator[Packet]:
    """The Initial packets of a datagram; 0-RTT and Handshake packets beside them are passed over (RFC 9000 12.2)."""
    at, size = 0, len(data)
    while at + 7 < size and data[at] & 0xC0 == 0xC0:
        version, kind = int.from_bytes(data[at + 1 : at + 5], "big"), data[at] >> 4 & 3
        if not _salt(version):
            return
        kind = kind - 1 & 3 if version == V2 else kind  # RFC 9369 3.2: Initial, 0-RTT, Handshake and Retry are numbered from 1
        start, here = at, at + 5
        connection = data[here + 1 : here + 1 + data[here]]
        here += 1 + data[here]
        if here >= size or kind == 3:
            return
        here += 1 + data[here]
        if kind == 0:
            token, here = varint(data, here, size)
            here += token
            if token < 0:
                return
        length, here = varint(data, here, size)
        at = here + length
        if length < 4 + _SAMPLE or at > size:
            return
        if kind == 0 and len(connection) <= 20:
            yield Packet(version, connection, start, here, at)


class _Library(NamedTuple):
    aead: Any
    cipher: Any
    aes: Any
    ecb: Any
    refusal: type[Exception]


@cache
def _library() -> _Library:
    """What is used of `cryptography`: looked up once, when there is a QUIC flow, since an import a flow costs as much as its keys."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return _Library(AESGCM, Cipher, algorithms.AES128, modes.ECB(), InvalidTag)  # noqa: S305 - RFC 9001 5.4.3 asks for ECB


def _label(text: bytes, size: int) -> tuple[bytes, int]:
    """What HKDF-Expand-Label hashes for a label with an empty context, for at most 32 bytes, and how many (RFC 8446 7.1)."""
    return size.to_bytes(2, "big") + bytes([6 + len(text)]) + b"tls13 " + text + b"\x00\x01", size


_CLIENT = _label(b"client in", 32)
_LABELS = {
    prefix: tuple(_label(prefix + name, size) for name, size in ((b"key", 16), (b"iv", 12), (b"hp", 16)))
    for prefix in (b"quic ", b"quicv2 ")
}


def _expand(secret: bytes, label: tuple[bytes, int]) -> bytes:
    return hmac.digest(secret, label[0], "sha256")[: label[1]]


def initial_keys(version: int, connection: bytes) -> Keys:
    """The client's Initial keys of a connection ID (RFC 9001 5.2, RFC 9369 3.3)."""
    library = _library()
    key, iv, mask = _LABELS[b"quicv2 " if version == V2 else b"quic "]
    secret = _expand(hmac.digest(_salt(version), connection, "sha256"), _CLIENT)
    protection = library.cipher(library.aes(_expand(secret, mask)), library.ecb).encryptor()
    return Keys(library.aead(_expand(secret, key)), int.from_bytes(_expand(secret, iv), "big"), protection)


def opened(data: bytes, packet: Packet, keys: Keys) -> bytes:
    """The frames of an Initial packet, b"" where these keys do not open it (RFC 9001 5.3, 5.4)."""
    at = packet.number
    mask = keys.mask.update(data[at + 4 : at + 4 + _SAMPLE])
    first = data[packet.start] ^ (mask[0] & 0x0F)
    size = (first & 3) + 1
    number = int.from_bytes(data[at : at + size], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
    header = bytes([first]) + data[packet.start + 1 : at] + number.to_bytes(size, "big")
    nonce = (keys.iv ^ number).to_bytes(12, "big")
    try:
        return keys.aead.decrypt(nonce, data[at + size : packet.end], header)
    except _library().refusal:
        return b""


def _crypto(payload: bytes, parts: dict[int, bytes]) -> None:
    """Take in the CRYPTO frames of an opened packet (RFC 9000 19); anything that an Initial may not hold ends it."""
    at, end = 0, len(payload)
    for _ in range(_MAX_FRAMES):
        if at < end and payload[at] == _PADDING:
            at = end - len(payload[at:].lstrip(b"\x00"))
        if at >= end:
            return
        kind = payload[at]
        at += 1
        if kind in (_CRYPTO, _CRYPTO_Q050):  # version Q050 has another number; in an Initial both are unmistakable
            offset, at = varint(payload, at, end)
            size, at = varint(payload, at, end)
            if offset < 0 or size < 0 or offset + size > _MAX_CRYPTO:
                return
            if size > len(parts.get(offset, b"")):
                parts[offset] = payload[at : at + size]
            at += size
        elif kind in (_ACK, _ACK_ECN):
            at = _behind_ack(payload, at, end, ecn=kind == _ACK_ECN)
        elif kind != _PING:
            return


def _behind_ack(payload: bytes, at: int, end: int, *, ecn: bool) -> int:
    """The position behind an ACK frame (RFC 9000 19.3)."""
    _, at = varint(payload, at, end)
    _, at = varint(payload, at, end)
    ranges, at = varint(payload, at, end)
    for _ in range(min(1 + 2 * ranges + 3 * ecn, end - at)):
        _, at = varint(payload, at, end)
    return at
