"""HTTP/1 first lines and headers (RFC 9112), bounded, with every header value marked."""

from __future__ import annotations

import re

from trafficllm.core.types import ORIG, RESP, Span

Fields = dict[str, int | str | tuple[int, ...]]

_REQUEST = re.compile(rb"([A-Z][A-Z-]{1,19}) ([^\r\n]*?)(?: HTTP/(\d(?:\.\d)?))?(?:\r?\n|$)")
_RESPONSE = re.compile(rb"HTTP/(\d(?:\.\d)?) (\d{3})([^\r\n]*)(?:\r?\n|$)")
_METHODS = (
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"PATCH ",
    b"TRACE ",
    b"PROPFIND ",
    b"SEARCH ",
    b"REPORT ",
    b"M-SEARCH ",
    b"NOTIFY ",
    b"SUBSCRIBE ",
    b"BITS_POST ",
    b"RPC_IN_DATA ",
    b"RPC_OUT_DATA ",
    b"CCM_POST ",
)
_SPANS = {b"host": "http.host", b"cookie": "http.cookie", b"set-cookie": "http.cookie"}
_REQUEST_FIELDS = {b"host": "http.host", b"user-agent": "http.user_agent", b"content-type": "http.content_type", b"referer": "http.referer"}
_RESPONSE_FIELDS = {b"server": "http.server", b"content-type": "http.response.content_type"}
_MAX_MESSAGES, _MAX_HEADERS = 16, 100


def looks_like_http(orig: bytes, resp: bytes) -> bool:
    """A request line with a known method, or a status line."""
    return orig.startswith(_METHODS) or resp.startswith(b"HTTP/1.") or orig.startswith(b"HTTP/1.") or resp.startswith(_METHODS)


def http_facts(orig: bytes, resp: bytes) -> tuple[str, Fields, list[Span]]:
    """Facts of an HTTP flow; all messages that begin within a prefix are marked, the first gives the fields."""
    fields: Fields = {}
    spans: list[Span] = []
    for direction, data in ((ORIG, orig), (RESP, resp)):
        at = 0
        for _ in range(_MAX_MESSAGES):
            at = _message(data, at, direction, fields, spans)
            if at <= 0 or at >= len(data):
                break
    return "http", fields, spans


def _message(data: bytes, at: int, direction: int, fields: Fields, spans: list[Span]) -> int:
    """One message from `at`; the position behind its body, or -1 when there is none or it goes beyond the prefix."""
    if data.startswith(_METHODS, at):
        found = _REQUEST.match(data, at)
        if found is None:
            return -1
        spans.append(Span(direction, found.start(2), found.end(2), "http.uri"))
        if "http.request.method" not in fields:
            fields["http.request.method"] = found[1].decode("ascii")
            fields["http.request.uri"] = found[2].decode("latin-1")
            fields["http.request.version"] = f"HTTP/{found[3].decode('ascii')}" if found[3] else ""
        return _headers(data, found.end(), direction, fields, spans, _REQUEST_FIELDS, "http.request.header_count")
    found = _RESPONSE.match(data, at)
    if found is None:
        return -1
    if "http.response.code" not in fields:
        fields["http.response.code"] = int(found[2])
        fields["http.response.version"] = f"HTTP/{found[1].decode('ascii')}"
    return _headers(data, found.end(), direction, fields, spans, _RESPONSE_FIELDS, "http.response.header_count")


def _headers(  # noqa: PLR0917 - one call, all from _message
    data: bytes, at: int, direction: int, fields: Fields, spans: list[Span], names: dict[bytes, str], counter: str
) -> int:
    length, chunked, count = 0, False, 0
    while at < len(data) and count <= _MAX_HEADERS:
        stop = data.find(b"\n", at)
        line_end = len(data) if stop < 0 else stop
        line = data[at:line_end]
        if not line.strip(b"\r") and stop >= 0:
            fields.setdefault(counter, count)
            return -1 if chunked else line_end + 1 + length
        name, colon, value = line.partition(b":")
        count += 1
        if colon:
            key, text = name.strip().lower(), value.strip()
            start = at + len(name) + 1 + len(value) - len(value.lstrip())
            if text:
                spans.append(Span(direction, start, start + len(text), _SPANS.get(key, "http.header_value")))
            if key in names:
                fields.setdefault(names[key], text.decode("latin-1"))
            if key == b"content-length" and text.isdigit() and len(text) < 12:
                length = int(text)
                fields.setdefault("http.content_length" if direction == ORIG else "http.response.content_length", length)
            chunked = chunked or key == b"transfer-encoding"
        elif line:
            spans.append(Span(direction, at, line_end, "http.header_value"))
        at = line_end + 1
    fields.setdefault(counter, count)
    return -1
