"""The client's hello in DTLS 1.0 to 1.3 (RFC 6347 4.2, RFC 9147 5): fragments joined over records and datagrams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trafficllm.capture.facts.tls import Fields, bare_hello

_RECORD, _CLIENT_HELLO, _MAX_FRAGMENTS = 22, 1, 64
_RECORD_HEADER, _MESSAGE_HEADER = 13, 12


class Fragment(NamedTuple):
    """A piece of a ClientHello: `message` its number, `size` of the whole, `offset` of this piece."""

    message: int
    size: int
    offset: int
    data: bytes


def looks_like_dtls(data: bytes) -> bool:
    """A handshake record of DTLS."""
    return data[:1] == b"\x16" and data[1:2] == b"\xfe"


def fragments(datagram: bytes) -> Iterator[Fragment]:
    """The ClientHello pieces of a datagram: a record may hold several messages, a datagram several records."""
    at = 0
    while at + _RECORD_HEADER <= len(datagram) and looks_like_dtls(datagram[at : at + 2]):
        end = min(at + _RECORD_HEADER + int.from_bytes(datagram[at + 11 : at + 13], "big"), len(datagram))
        here = at + _RECORD_HEADER
        while here + _MESSAGE_HEADER <= end and datagram[here] == _CLIENT_HELLO:
            size, offset, length = (int.from_bytes(datagram[here + k : here + k + 3], "big") for k in (1, 6, 9))
            body = here + _MESSAGE_HEADER
            yield Fragment(int.from_bytes(datagram[here + 4 : here + 6], "big"), size, offset, datagram[body : min(body + length, end)])
            here = body + length
        at = end


def dtls_fields(datagrams: Iterable[bytes]) -> Fields:
    """Fields of the first whole ClientHello, or of what there is of the first."""
    messages: dict[int, tuple[int, dict[int, bytes]]] = {}
    for count, piece in enumerate(piece for datagram in datagrams for piece in fragments(datagram)):
        if count >= _MAX_FRAGMENTS:
            break
        _, parts = messages.setdefault(piece.message, (piece.size, {}))
        parts.setdefault(piece.offset, piece.data)
    fields: Fields = {}
    for size, parts in messages.values():
        told = bare_hello(b"\x01" + size.to_bytes(3, "big") + joined(parts)[:size], transport="d", cookie=True)
        fields = fields or told
        if "tls.handshake.ja4" in told:
            return told
    return fields


def joined(parts: dict[int, bytes]) -> bytes:
    """Pieces of a stream by their offsets, from its beginning up to the first hole."""
    out = bytearray()
    for offset, part in sorted(parts.items()):
        if offset > len(out):
            break
        out += part[len(out) - offset :]
    return bytes(out)
