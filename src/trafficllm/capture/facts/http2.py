"""The first request and answer of HTTP/2 without TLS (RFC 9113): by prior knowledge, so the preface comes first.

Header blocks are compressed (RFC 7541); `hpack` reads them. Only a whole block within the bytes at hand is read.
"""

from __future__ import annotations

from trafficllm.capture.facts.spans import span_of
from trafficllm.core.types import ORIG, RESP, Span

Fields = dict[str, int | str | tuple[int, ...]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _CONTINUATION = 1, 9
_CONTROL = frozenset({2, 3, 4, 8})
"""PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE: the protocol's own numbers."""
_END_HEADERS, _PADDED, _PRIORITY = 0x04, 0x08, 0x20
_MAX_FRAMES, _MAX_BLOCK, _MAX_LIST = 32, 8192, 16384
_REQUEST_FIELDS = {
    b":method": "http.request.method",
    b":path": "http.request.uri",
    b":authority": "http.host",
    b"host": "http.host",
    b"user-agent": "http.user_agent",
    b"content-type": "http.content_type",
    b"referer": "http.referer",
}
_RESPONSE_FIELDS = {b"server": "http.server", b"content-type": "http.response.content_type"}


def http2_facts(orig: bytes, resp: bytes) -> tuple[str, Fields, list[Span]]:
    """Facts of a connection that begins with HTTP/2's preface; header blocks are marked whole: they name the host."""
    fields: Fields = {"http.request.version": "HTTP/2"}
    spans: list[Span] = []
    names = dict.fromkeys((ORIG, RESP), _REQUEST_FIELDS) | {RESP: _RESPONSE_FIELDS}
    for direction, data, start in ((ORIG, orig, len(PREFACE)), (RESP, resp, 0)):
        counter = "http.request.header_count" if direction == ORIG else "http.response.header_count"
        block, end = _first_block(data, start, direction, spans)
        if end < len(data):
            spans.append(span_of(direction, end, len(data), "content"))
        headers = _headers(block)
        for name, value in headers:
            if name == b":status" and value.isdigit() and len(value) == 3:
                fields["http.response.code"], fields["http.response.version"] = int(value), "HTTP/2"
            elif name in names[direction]:
                fields.setdefault(names[direction][name], value.decode("latin-1"))
        if headers:
            fields[counter] = sum(not name.startswith(b":") for name, _ in headers)
    return "http", fields, spans


def _first_block(data: bytes, at: int, direction: int, spans: list[Span]) -> tuple[bytes, int]:
    """The first header block, put together from HEADERS and CONTINUATION frames (b"" where it is cut), and where that ended."""
    block, stream = b"", 0
    for _ in range(_MAX_FRAMES):
        if at + 9 > len(data):
            return b"", at
        size, kind, flags = int.from_bytes(data[at : at + 3], "big"), data[at + 3], data[at + 4]
        number = int.from_bytes(data[at + 5 : at + 9], "big")
        start, end = at + 9, at + 9 + size
        if kind == _HEADERS and not stream:
            skip = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
            stop = end - (data[start] if flags & _PADDED and start < len(data) else 0)
            start, stream = start + skip, number
        elif kind == _CONTINUATION and stream and number == stream:
            stop = end
        elif stream:
            return b"", at
        else:
            if kind not in _CONTROL and start < min(end, len(data)):
                spans.append(span_of(direction, start, min(end, len(data)), "content"))
            at = min(end, len(data))
            continue
        if start < min(stop, len(data)):
            spans.append(span_of(direction, start, min(stop, len(data)), "http.host"))
        block += data[start:stop]
        if end > len(data) or len(block) > _MAX_BLOCK:
            return b"", at
        if flags & _END_HEADERS:
            return block, end
        at = end
    return b"", at


def _headers(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a connection's first header block; none where it is empty or wrong."""
    if not block:
        return []
    from hpack import Decoder, HPACKError

    try:
        return [(bytes(name), bytes(value)) for name, value in Decoder(max_header_list_size=_MAX_LIST).decode(block, raw=True)]
    except HPACKError:
        return []
