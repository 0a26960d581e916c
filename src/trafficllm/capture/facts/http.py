"""HTTP/1 first lines and headers (RFC 9112), bounded, with every header value marked."""

from __future__ import annotations

import re
from http import HTTPStatus

from trafficllm.capture.facts.spans import span_of
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
_WEBDAV = (
    "PROPPATCH MKCOL COPY MOVE LOCK UNLOCK ACL BIND REBIND UNBIND LINK UNLINK ORDERPATCH MKCALENDAR MKWORKSPACE MKACTIVITY CHECKIN "
    "CHECKOUT UNCHECKOUT VERSION-CONTROL BASELINE-CONTROL UPDATE UPDATEREDIRECTREF MKREDIRECTREF LABEL MERGE QUERY UNSUBSCRIBE"
)
_MORE_METHODS = tuple(name.encode() + b" " for name in _WEBDAV.split())
"""WebDAV (RFC 4918) and the registry's others: words that other protocols begin with too, so a version must end the line."""
_SPANS = {b"host": "http.host", b"cookie": "http.cookie", b"set-cookie": "http.cookie"}
_REQUEST_FIELDS = {b"host": "http.host", b"user-agent": "http.user_agent", b"content-type": "http.content_type", b"referer": "http.referer"}
_RESPONSE_FIELDS = {b"server": "http.server", b"content-type": "http.response.content_type"}
_ABOUT_BODY = frozenset((b"content-length", b"transfer-encoding", b"content-type"))
_REASONS = frozenset((b"", *(status.phrase.encode() for status in HTTPStatus), b"Moved Temporarily", b"Ok"))
_MAX_MESSAGES, _MAX_HEADERS = 16, 100


def looks_like_http(orig: bytes, resp: bytes) -> bool:
    """A request line with a known method, or a status line."""
    if orig.startswith(_MORE_METHODS) and b" HTTP/1." in orig.split(b"\n", 1)[0]:
        return True
    return orig.startswith(_METHODS) or resp.startswith(b"HTTP/1.") or orig.startswith(b"HTTP/1.") or resp.startswith(_METHODS)


def http_facts(orig: bytes, resp: bytes) -> tuple[str, Fields, list[Span]]:
    """Facts of an HTTP flow; all messages that begin within a prefix are marked, the first gives the fields."""
    fields: Fields = {}
    spans: list[Span] = []
    for direction, data in ((ORIG, orig), (RESP, resp)):
        at = 0
        for _ in range(_MAX_MESSAGES):
            if at >= len(data):
                break
            at = _message(data, at, direction, fields, spans)
        if at < len(data):
            spans.append(span_of(direction, at, len(data), "content"))
    return "http", fields, spans


def _message(data: bytes, at: int, direction: int, fields: Fields, spans: list[Span]) -> int:
    """One message from `at`; the position behind its body, the prefix's end where there is none or it goes beyond."""
    if (data.startswith(_METHODS, at) or data.startswith(_MORE_METHODS, at)) and (request := _REQUEST.match(data, at)):
        spans.append(span_of(direction, request.start(2), request.end(2), "http.uri"))
        spans.extend(
            span_of(direction, *part) for part in target_parts(data, request.start(2), request.end(2), authority=request[1] == b"CONNECT")
        )
        if "http.request.method" not in fields:
            fields["http.request.method"] = request[1].decode("ascii")
            fields["http.request.uri"] = request[2].decode("latin-1")
            fields["http.request.version"] = f"HTTP/{request[3].decode('ascii')}" if request[3] else ""
        return _headers(data, request.end(), direction, fields, spans, _REQUEST_FIELDS, "http.request.header_count")
    status = _RESPONSE.match(data, at)
    if status is None:
        spans.append(span_of(direction, at, len(data), "content"))
        return len(data)
    if status[3].strip() not in _REASONS:
        spans.append(span_of(direction, status.start(3), status.end(3), "content"))
    if "http.response.code" not in fields:
        fields["http.response.code"] = int(status[2])
        fields["http.response.version"] = f"HTTP/{status[1].decode('ascii')}"
    return _headers(data, status.end(), direction, fields, spans, _RESPONSE_FIELDS, "http.response.header_count")


_PEOPLE = re.compile(rb"(?i)/(?:users?|u|members?|profiles?|people|accounts?|customers?|owners?|authors?|contacts?|home|in)/([^/?;#&\s]+)")
_TILDE = re.compile(rb"/(?:~|%7[Ee]|@|%40)([^/?;#\s]+)")
_TOKEN = re.compile(rb"[A-Za-z0-9_%:.=+-]{16,}")
_DIGITS = b"0123456789"
_PARAMETER = re.compile(rb";([^/?#\s]*)")


def target_parts(data: bytes, start: int, end: int, *, authority: bool = False) -> list[tuple[int, int, str]]:
    """Of a request target: (start, end, kind) of who is asked for and with what.

    The query and path parameters are "query", segments behind `/users/` and its like "name", long ones of letters and digits
    "credential", the host of CONNECT (`authority`) "http.host".
    """
    if authority:
        return [(start, end, "http.host")]
    query = data.find(b"?", start, end)
    stop = end if query < 0 else query
    out = [(query + 1, end, "query")] if 0 <= query < end - 1 else []
    for pattern in (_PEOPLE, _TILDE):
        out += [(*match.span(1), "name") for match in pattern.finditer(data, start, stop)]
    out += [(*match.span(1), "query") for match in _PARAMETER.finditer(data, start, stop) if match[1]]
    for match in _TOKEN.finditer(data, start, stop):
        token = match[0]
        digits = len(token) - len(token.translate(None, _DIGITS))
        if digits >= 4 and digits < len(token):
            out.append((*match.span(), "credential"))
    return out


def _headers(  # noqa: PLR0917 - one call, all from _message
    data: bytes, at: int, direction: int, fields: Fields, spans: list[Span], names: dict[bytes, str], counter: str
) -> int:
    length, chunked, form, count, size = 0, False, False, 0, len(data)
    while at < size and count <= _MAX_HEADERS:
        stop = data.find(b"\n", at)
        line_end = size if stop < 0 else stop
        line = data[at:line_end]
        name, colon, value = line.partition(b":")
        if colon:
            count += 1
            key, text = name.strip().lower(), value.strip()
            if text:
                start = line_end - len(value.lstrip())
                spans.append(span_of(direction, start, start + len(text), _SPANS.get(key, "http.header_value")))
            if key in names:
                fields.setdefault(names[key], text.decode("latin-1"))
            if key in _ABOUT_BODY:
                chunked = chunked or key == b"transfer-encoding"
                form = form or (key == b"content-type" and b"urlencoded" in text.lower())
                if key == b"content-length" and text.isdigit() and len(text) < 12:
                    length = int(text)
                    fields.setdefault("http.content_length" if direction == ORIG else "http.response.content_length", length)
        elif not line.strip(b"\r") and stop >= 0:
            fields.setdefault(counter, count)
            end = size if chunked else min(line_end + 1 + length, size)
            if line_end + 1 < end:
                spans.append(span_of(direction, line_end + 1, end, "query" if form else "content"))
            return end
        else:
            count += 1
            if line:
                spans.append(span_of(direction, at, line_end, "http.header_value"))
        at = line_end + 1
    fields.setdefault(counter, count)
    return min(at, size)
