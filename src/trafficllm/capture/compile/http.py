"""HTTP/1 heads of generated streams made whole: a head always ends, and says nothing of the body that is not so."""

from __future__ import annotations

import re
from collections.abc import Sequence

_REQUEST = re.compile(rb"(?:GET|POST|HEAD|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT) ")
_SENSITIVE = re.compile(
    rb"(?im)^(content-type|content-encoding|transfer-encoding|content-length|upgrade|content-disposition|"
    rb"authorization|www-authenticate|proxy-authorization|proxy-authenticate|sec-websocket-[a-z]+):[ \t]*([^\r\n]*)"
)
TEXT = b"abcdefghijklmnopqrstuvwxyz012345"
"""Filler alphabet: 32 signs, so that five bits of a random byte choose one."""


def looks_like(stream: bytes | bytearray) -> bool:
    """Whether `stream` begins like an HTTP/1 request or status line."""
    return bool(_REQUEST.match(stream)) or stream.startswith(b"HTTP/1.")


def filler(raw: bytes) -> bytes:
    """Letters and digits from random bytes.

    >>> filler(bytes((0, 1, 255)))
    b'ab5'
    """
    return raw.translate(_TABLE)


_LEGIBLE = bytes(value if 0x20 <= value < 0x7F or value in b"\t\r\n" else TEXT[value & 31] for value in range(256))
"""Heads are text (RFC 9112 section 2.2); Wireshark calls some with other bytes malformed (one in 400 generated flows of Neris)."""
_TABLE = bytes(TEXT[value & 31] for value in range(256))


def repair(stream: bytearray, known: int, edges: Sequence[int]) -> None:
    """Make every head of `stream` that begins with a send end and fit what follows, in place.

    The first `known` bytes come from the plan and stay as far as they can; the rest is filler. `edges` are the ends
    of the sends: a request's head that is not shown whole ends with its send, a response's as soon as it fits.
    """
    stream[known:] = filler(bytes(stream[known:]))
    for begin in (0, *edges):
        if begin < known and looks_like(stream[begin:known]):
            message = stream[begin:]
            _repair_message(message, known - begin, next(edge for edge in edges if edge >= known) - begin)
            stream[begin:] = message


def _repair_message(stream: bytearray, known: int, edge: int) -> None:
    head_end = stream.find(b"\r\n\r\n", 0, known)
    if head_end < 0:
        head_end = _finish(stream, known, edge) - 4
    if head_end >= 0:
        stream[:head_end] = stream[:head_end].translate(_LEGIBLE)
        _neutralise(stream, head_end, len(stream) - head_end - 4)


def _finish(stream: bytearray, known: int, edge: int) -> int:
    """End the head within [known, edge); returns where the body begins, or 0 where there is no room."""
    limit = edge if edge - known >= 4 else len(stream)
    room = limit - known
    if room < 4:
        return 0
    version = b"" if b"\r\n" in stream[:known] or stream.startswith(b"HTTP") else b" HTTP/1.1"
    response = stream.startswith(b"HTTP")
    closing = version + b"\r\n\r\n"
    if response:
        closing = b"\r\nContent-Length: %d\r\n\r\n" % max(0, len(stream) - known - 30)
        closing = b"\r\nContent-Length: %d\r\n\r\n" % max(0, len(stream) - known - len(closing))
    if len(closing) > room:
        closing = b"\r\n\r\n"
    end = known + len(closing) if response else limit
    stream[end - len(closing) : end] = closing
    return end


def _neutralise(stream: bytearray, head_end: int, body: int) -> None:
    """Overwrite, same length, what would make a parser open a body that is only filler: values, or the header's name."""
    for match in _SENSITIVE.finditer(bytes(stream[:head_end])):
        name, value = match.group(1).lower(), match.group(2)
        if name == b"content-length":
            if not value.isdigit() or int(value[:18]) > body:
                stream[match.start(2) : match.end(2)] = str(min(body, 10 ** len(value) - 1)).encode().rjust(len(value), b"0")
        elif name == b"content-type" and len(value) >= 10:
            stream[match.start(2) : match.end(2)] = b"text/plain".ljust(len(value))
        else:
            stream[match.start(1) : match.start(1) + 2] = b"X-"
