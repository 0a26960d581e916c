"""HTTP requests as records: raw requests, one-line requests, and which of them are reserved."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

from trafficllm.capture.facts.http import target_parts
from trafficllm.core.errors import InputError
from trafficllm.core.files import sha256_bytes
from trafficllm.core.types import Facts, Record, Span
from trafficllm.records.codec.canonical import text_bytes

END = b"###END"
LIMIT = 256 << 20
_HEADER = re.compile(rb"(?im)^(host|cookie|set-cookie|[a-z][a-z0-9-]*)[ \t]*:[ \t]*([^\r\n]*)")
_AUTHORITY = re.compile(rb"\A[A-Za-z]+[ \t]+https?://([^/?#\s]+)")
_TARGET = re.compile(rb"\A[A-Za-z]+[ \t]+([^\r\n]*?)(?:[ \t]+HTTP/[\d.]+)?[ \t]*(?=\r?\n|\Z)")
_SESSION = re.compile(rb"(?i)(?:jsessionid|phpsessid|sessionid|sid)=([^&;\s]+)")
_KINDS = {b"host": "http.host", b"cookie": "http.cookie", b"set-cookie": "http.cookie"}
RESERVED_SHARE = 5
"""One canonical request in five is kept for scoring, by hash."""


def read_text(path: Path) -> bytes:
    """A text file, gzip or plain, at most 256 MiB of text. Raises InputError for one that is longer or broken."""
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path) as stream:
                data = stream.read(LIMIT + 1)
        else:
            data = path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError("input.text", f"cannot be read: {error}", input=str(path), hint="the file may be cut") from error
    if len(data) > LIMIT:
        raise InputError("input.bomb", "more than 256 MiB of text", input=str(path), hint="split the file")
    return data


def requests(path: Path) -> Iterator[str]:
    """Requests of a file: raw ones parted by a line ###END, or one a line."""
    data = read_text(path)
    parts = data.split(END) if END in data else data.split(b"\n")
    for part in parts:
        text = part.strip(b"\r\n")
        if text:
            yield text.decode("utf-8", "surrogateescape")


def http_record(text: str) -> Record:
    """One request; spans mark the host, cookies, session parameters and header values."""
    data = text_bytes(text)
    spans = [Span(0, match.start(1), match.end(1), "http.host") for match in _AUTHORITY.finditer(data)]
    spans += [Span(0, match.start(1), match.end(1), "http.cookie") for match in _SESSION.finditer(data)]
    first = _TARGET.match(data)
    spans += [Span(0, *part) for part in target_parts(data, *first.span(1))] if first else []
    head = data.find(b"\n") + 1
    body = re.search(rb"\r?\n\r?\n", data)
    stop = body.start() if body else len(data)
    if head:
        for match in _HEADER.finditer(data, head, stop):
            kind = _KINDS.get(match.group(1).lower(), "http.header_value")
            spans.append(Span(0, match.start(2), match.end(2), kind))
    if body:
        spans.append(Span(0, body.end(), len(data), "query"))
    return Record(kind="http", ip_version=0, proto=-1, text=text, facts=Facts(service="http", spans=tuple(spans)))


def canonical_request(text: str) -> str:
    """Method, target and body in lower case and URL-decoded: equal for the raw and the one-line form of a request."""
    data = text_bytes(text).replace(b"\r", b"")
    head, _, body = data.partition(b"\n\n")
    words = head.split(b"\n", 1)[0].split(b" ")
    if len(words) > 2 and words[-1].startswith(b"HTTP/"):
        words = words[:-1]
    line = b" ".join(words)
    if body.strip():
        line += (b"&" if b"?" in line else b"?") + body.strip()
    return unquote_to_bytes(line).decode("utf-8", "replace").lower()


def is_reserved_request(text: str) -> bool:
    """Whether sha256(canonical request) mod 5 is 0."""
    return int(sha256_bytes(canonical_request(text).encode()), 16) % RESERVED_SHARE == 0
