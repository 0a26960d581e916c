"""DNS messages (RFC 1035), also mDNS and LLMNR: names, types, codes, and where names and addresses lie."""

from __future__ import annotations

import struct

from trafficllm.capture.facts.spans import span_of
from trafficllm.core.types import ORIG, RESP, Span

Fields = dict[str, int | str | tuple[int, ...]]

_MAX_MESSAGES, _MAX_RECORDS, _MAX_JUMPS, _MAX_NAME = 32, 64, 16, 255
_A, _NS, _CNAME, _SOA, _PTR, _TXT, _AAAA = 1, 2, 5, 6, 12, 16, 28


_HEADER = struct.Struct(">HHHHHH").unpack_from
_RECORD = struct.Struct(">H6xH").unpack_from
"""Type and data length of a resource record, behind its name (RFC 1035 4.1.3)."""
_SHORT = struct.Struct(">H").unpack_from


def looks_like_dns(data: bytes, at: int = 0) -> bool:
    """A header with a known opcode and believable counts."""
    return len(data) - at >= 12 and _believable(_HEADER(data, at))


def _believable(header: tuple[int, ...]) -> bool:
    _, flags, questions, answers, authorities, others = header
    return flags >> 11 & 15 <= 6 and questions <= 64 and 0 < questions + answers + authorities + others <= 512


class _Message:
    """One message inside a prefix: `base` is where it starts, `end` where it must stop, `asked` the name of the flow's first question
    as it stands there, if that is one without a pointer."""

    __slots__ = ("asked", "base", "cut", "data", "dir", "end", "sound", "spans")

    def __init__(self, data: bytes, base: int, end: int, direction: int, spans: list[Span]) -> None:
        self.data, self.base, self.end, self.dir, self.spans = data, base, end, direction, spans
        self.cut, self.asked = False, b""
        self.sound: set[int] = set()  # places of pointers that were followed to their end: most answers point to the question

    def u16(self, at: int) -> int:
        """Big-endian 16 bits, 0 beyond the end (and then cut)."""
        if at + 2 > self.end:
            self.cut = True
            return 0
        return int(_SHORT(self.data, at)[0])

    def name(self, at: int) -> tuple[bytes, int]:
        """(text in bytes, position behind it); its own bytes become a span, those pointed to have theirs already."""
        data, end = self.data, self.end
        labels: list[bytes] = []
        start, after, size, jumps = at, -1, 0, 0
        while at < end and size <= _MAX_NAME and jumps <= _MAX_JUMPS:
            length = data[at]
            if 0 < length < 0x40:
                stop = at + 1 + length
                labels.append(data[at + 1 : stop if stop < end else end])
                size += length + 1
                at = stop
            elif length >= 0xC0:
                after = at + 2 if after < 0 else after
                at = self.base + (self.u16(at) & 0x3FFF)
                jumps += 1
            else:
                at += 1
                break
        behind = after if after >= 0 else at
        if behind > end:
            behind, self.cut = end, True
        own = after - 2 if after >= 0 else behind
        if own > start:
            self.spans.append(span_of(self.dir, start, own, "dns.name"))
        return b".".join(labels), behind

    def skip_name(self, at: int) -> int:
        """Position behind a name whose text does not matter."""
        if at + 2 <= self.end and self.data[at] >= 0xC0:
            pointer = int(_SHORT(self.data, at)[0])
            if pointer not in self.sound:
                self.name(at)
                if not self.cut:
                    self.sound.add(pointer)
            return at + 2
        return self.name(at)[1]


def _parse(message: _Message, header: tuple[int, ...], fields: Fields) -> int:
    """Take one message in; returns the position behind it, or -1 when it is cut or wrong."""
    data, base = message.data, message.base
    message.spans.append(span_of(message.dir, base, base + 2, "dns.id"))
    _, flags, *counts = header
    records, answer = counts[1] + counts[2] + counts[3], flags >> 15
    fields.setdefault("dns.flags.opcode", flags >> 11 & 15)
    if answer and "dns.flags.rcode" not in fields:
        fields["dns.flags.rcode"] = flags & 15
        fields["dns.flags.authoritative"] = flags >> 10 & 1
        fields["dns.count.answers"] = counts[1]
    at, asked = base + 12, message.asked
    for _ in range(min(counts[0], _MAX_RECORDS)):
        begun = at
        if asked and data.startswith(asked, at) and at + len(asked) < message.end:  # nearly every answer repeats its question
            at += len(asked)
            message.spans.append(span_of(message.dir, begun, at, "dns.name"))
        else:
            text, at = message.name(at)
        kind = message.u16(at)
        if message.cut:
            return -1
        if "dns.qry.name" not in fields:
            fields["dns.qry.name"], fields["dns.qry.type"] = _text(text), kind
            fields["dns.qry.class"] = message.u16(at + 2) & 0x7FFF
            fields["dns.qry.name.len"] = len(text)
            fields["dns.count.labels"] = text.count(b".") + 1 if text else 0
            if at - begun == len(text) + 2 and data[at - 1] == 0:
                message.asked = asked = data[begun:at]
        at += 4
    types: list[int] = []
    if records:
        at, types = _records(message, at, min(records, _MAX_RECORDS))
    if types and answer and "dns.resp.type" not in fields:
        fields["dns.resp.type"] = tuple(types)
    return at if not message.cut and at <= message.end and counts[0] + records <= _MAX_RECORDS and len(data) >= at else -1


def _text(name: bytes) -> str:
    """A name as text: UTF-8 as in multicast DNS (RFC 6762 16), each byte a character where it is not."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _records(message: _Message, at: int, count: int) -> tuple[int, list[int]]:
    """Mark the data of resource records; position behind them and their types, as far as they are whole."""
    types: list[int] = []
    data, end, sound, spans, way = message.data, message.end, message.sound, message.spans, message.dir
    for _ in range(count):
        # Nearly every record's name is a pointer to one that was read: no call for those.
        if at + 2 <= end and data[at] >= 0xC0 and data[at] << 8 | data[at + 1] in sound:
            at += 2
        else:
            at = message.skip_name(at)
        if message.cut or at + 10 > end:
            message.cut = True
            break
        kind, size = _RECORD(data, at)
        types.append(kind)
        at += 10
        stop = at + size if at + size < end else end
        if at < stop:
            spans.append(span_of(way, at, stop, "dns.address" if kind in (_A, _AAAA) else "dns.name"))
        at += size
    return at, types


def dns_facts(orig: bytes, resp: bytes) -> tuple[str, Fields, list[Span]]:
    """Facts of a flow of DNS datagrams; messages follow one another in each prefix."""
    fields: Fields = {}
    spans: list[Span] = []
    asked = b""
    for direction, data in ((ORIG, orig), (RESP, resp)):
        at, size = 0, len(data)
        for _ in range(_MAX_MESSAGES):
            if size - at < 12 or not _believable(header := _HEADER(data, at)):
                break
            message = _Message(data, at, size, direction, spans)
            message.asked = asked
            begun, at = at, _parse(message, header, fields)
            asked = message.asked
            if at < 0:
                at = max((span.end for span in spans if span.dir == direction), default=begun)
                break
        if at < size:
            spans.append(span_of(direction, at, size, "content"))
    return "dns", fields, spans


def dns_tcp_facts(orig: bytes, resp: bytes) -> tuple[str, Fields, list[Span]]:
    """The same over TCP, where a length stands before each message (RFC 1035 4.2.2)."""
    fields: Fields = {}
    spans: list[Span] = []
    for direction, data in ((ORIG, orig), (RESP, resp)):
        at = 0
        for _ in range(_MAX_MESSAGES):
            size = int.from_bytes(data[at : at + 2], "big")
            if size < 12 or not looks_like_dns(data, at + 2):
                break
            end = min(at + 2 + size, len(data))
            if _parse(_Message(data, at + 2, end, direction, spans), _HEADER(data, at + 2), fields) < 0:
                read = max((span.end for span in spans if span.dir == direction), default=at + 2)
                spans.append(span_of(direction, read, end, "content"))
            at += 2 + size
        if at < len(data):
            spans.append(span_of(direction, at, len(data), "content"))
    return ("dns" if fields else ""), fields, spans
