"""DNS messages of generated datagrams rebuilt so that counts, names and record lengths agree (RFC 1035 section 4)."""

from __future__ import annotations

import random
import struct

from trafficllm.capture.compile.http import filler

PORTS = frozenset({53, 5353, 5355})
"""Where messages are expected: DNS, mDNS (RFC 6762), LLMNR (RFC 4795)."""
HEADER = 12
_NAME_LIMIT = 255
_ADDRESS_SIZES = {1: 4, 28: 16}
_NAME_TYPES = {2, 5, 12}
_FIXED = struct.Struct("!HHIH")


def message(payload: bytes, size: int, response: bool, rng: random.Random) -> bytes | None:
    """A DNS message of exactly `size` bytes that keeps as much of `payload` as is well-formed.

    None where no message has that size (less than a header and a root question, 17 bytes, except a bare
    header). Records that do not fit are replaced by addresses of documentation ranges and a TXT record.
    """
    if not is_message_size(size):
        return None
    if size == HEADER:
        return _head(payload, response, rng) + bytes(8)
    head = _head(payload, response, rng)
    name = _question_name(payload, size, rng)
    at = HEADER + len(name)
    qtype = payload[at : at + 4] if len(payload) >= at + 4 else b""
    if len(qtype) < 4 or qtype[:2] in {b"\0\0", b"\0\x29", b"\0\xfa"} or qtype[2] & 0x7F or qtype[3] != 1:
        qtype = b"\0\1\0\1"
    body = name + qtype
    wanted = struct.unpack("!HHH", payload[6:12]) if len(payload) >= HEADER else (0, 0, 0)
    records, counts = _kept_records(payload, HEADER + len(body), size, wanted)
    rest = size - HEADER - len(body) - len(records)
    extra, answers, additional = _filler_records(rest, response, rng)
    counts = [counts[0] + answers, counts[1], counts[2] + additional]
    if answers and counts[1] + counts[2] > additional:
        # records are counted in section order: a filler after authority records belongs to the last section
        counts = [counts[0] - answers, counts[1], counts[2] + answers]
    return head + struct.pack("!HHHH", 1, *counts) + body + records + extra


def looks_like(payload: bytes) -> bool:
    """Whether `payload` begins like a DNS header with few records: analysers guess DNS from that on any port."""
    if len(payload) < HEADER or payload[2] & 0x78:
        return False
    counts: tuple[int, ...] = struct.unpack("!4H", payload[4:12])
    return counts[0] <= 1 and 0 < sum(counts) < 256


def is_message_size(size: int) -> bool:
    """Whether a message of `size` bytes exists: a bare header, or one with at least the root question.

    >>> [size for size in range(20) if is_message_size(size)]
    [12, 17, 18, 19]
    """
    return size == HEADER or size >= HEADER + 5


def _head(payload: bytes, response: bool, rng: random.Random) -> bytes:
    """Identifier and flags: standard query or response, the reserved bit clear."""
    ident = payload[:2] if len(payload) >= 2 else rng.randbytes(2)
    flags = int.from_bytes(payload[2:4], "big") if len(payload) >= 4 else (0x8180 if response else 0x0100)
    flags &= 0x87BF
    return ident + struct.pack("!H", flags | 0x8000 if response else flags)


def _name_end(data: bytes, at: int, limit: int) -> int:
    """Offset after the uncompressed name at `at`, or -1 if it does not end before `limit` or is too long."""
    start = at
    while at < min(limit, len(data)):
        length = data[at]
        if length > 63:
            return -1
        at += 1 + length
        if at - start > _NAME_LIMIT:
            return -1
        if length == 0:
            return at
    return -1


def _question_name(payload: bytes, size: int, rng: random.Random) -> bytes:
    """The plan's own name where it is whole, else one that keeps its visible labels and ends in time."""
    end = _name_end(payload, HEADER, size - 4)
    if end > 0:
        return payload[HEADER:end]
    room = size - 4 - HEADER
    first = payload[HEADER] if len(payload) > HEADER and 0 < payload[HEADER] < 64 else 7
    want = min(max(len(payload) - HEADER + 1, first + 2), room, _NAME_LIMIT)
    if room - want < 11:
        want = min(room, _NAME_LIMIT)
    return synthetic_name(want, first, rng)


def synthetic_name(length: int, first: int, rng: random.Random) -> bytes:
    """A wire-format name of exactly `length` >= 1 bytes, root byte included, its first label `first` long if it fits."""
    out = bytearray()
    left = length - 1
    label = first
    while left > 0:
        label = min(label, left - 1, 63)
        if left - 1 - label == 1:
            label = label - 1 if label > 1 else label + 1
        label = max(label, 1) if left > 1 else 0
        if label == 0:
            break
        out += bytes((label,)) + filler(rng.randbytes(label))
        left -= 1 + label
        label = 7
    return bytes(out) + b"\0" if len(out) == length - 1 else b"\0"


def _kept_records(payload: bytes, at: int, size: int, wanted: tuple[int, ...]) -> tuple[bytes, list[int]]:
    """Leading resource records of `payload` that are whole and sound, and how many fall into each section."""
    start = at
    kept = [0, 0, 0]
    for section, count in enumerate(wanted):
        for _ in range(min(count, 64)):
            end = _record_end(payload, at, size)
            if end < 0:
                return payload[start:at], kept
            kept[section] += 1
            at = end
    return payload[start:at], kept


def _record_end(payload: bytes, at: int, size: int) -> int:
    """Offset after the record at `at`, or -1 where it is cut, unsound or of a type whose content is not checked."""
    if payload[at : at + 2] == b"\xc0\x0c":
        owner = at + 2
    else:
        owner = _name_end(payload, at, len(payload))
    if owner < 0 or owner + 10 > len(payload):
        return -1
    kind, _cls, _ttl, length = _FIXED.unpack_from(payload, owner)
    begin, end = owner + 10, owner + 10 + length
    if end > min(size, len(payload)):
        return -1
    if kind in _ADDRESS_SIZES:
        return end if length == _ADDRESS_SIZES[kind] else -1
    if kind in _NAME_TYPES:
        return end if _name_end(payload, begin, end) == end else -1
    return end if kind == 41 and length == 0 else -1


def _filler_records(rest: int, response: bool, rng: random.Random) -> tuple[bytes, int, int]:
    """Records of exactly `rest` bytes where possible (tail bytes otherwise): (bytes, answers, additional)."""
    if rest < 11:
        return bytes(rest), 0, 0
    if rest < 13 or not response:
        return _option(rest), 0, 1
    whole = rest // 16
    tail = rest - 16 * whole
    if 0 < tail < 13:
        whole, tail = whole - 1, tail + 16
    if whole < 0:
        whole, tail = 0, rest
    out = b"".join(b"\xc0\x0c" + _FIXED.pack(1, 1, 300, 4) + bytes((198, 51, 100, rng.randrange(1, 255))) for _ in range(whole))
    if tail:
        out += b"\xc0\x0c" + _FIXED.pack(16, 1, 300, tail - 12) + _strings(tail - 12, rng)
    return out, whole + bool(tail), 0


def _option(rest: int) -> bytes:
    """An EDNS record (RFC 6891) of `rest` >= 11 bytes; what a bare one leaves becomes padding (RFC 7830) or a tail."""
    data = rest - 11
    if data < 4:
        return b"\0" + _FIXED.pack(41, 1232, 0, 0) + bytes(data)
    return b"\0" + _FIXED.pack(41, 1232, 0, data) + struct.pack("!HH", 12, data - 4) + bytes(data - 4)


def _strings(length: int, rng: random.Random) -> bytes:
    """Character strings (RFC 1035 section 3.3.14) of `length` >= 1 bytes in all."""
    out = b""
    while length > 0:
        piece = min(length - 1, 255)
        out += bytes((piece,)) + filler(rng.randbytes(piece))
        length -= 1 + piece
    return out
