"""DNS messages (RFC 1035 4.1): identifiers, times to live and addresses become zero.

Follows `facts.dns` record by record. That parser reads such bytes only where a name's pointer leads there, so a pointer that leads to one
of them, or forward, leaves the direction as it is.
"""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

import numpy as np

from trafficllm.capture.kernels.canonical.tls import blank, u16
from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.core.types import U8

_MOST_MESSAGES, _MOST_RECORDS, _MOST_JUMPS, _LONGEST_NAME = 32, 64, 16, 255
_ODD, _CUT = i64(-1), i64(-2)
"""In place of a position: the message is not as expected; or it is cut, and the parser stops there too."""


@inner
def is_dns(data: U8, at: Word, end: Word) -> Word:
    """`facts.dns.looks_like_dns`."""
    if end - at < 12:
        return False
    questions = u16(data, at + 4)
    records = u16(data, at + 6) + u16(data, at + 8) + u16(data, at + 10)
    return ((data[at + 2] >> 3) & 15) <= 6 and questions <= 64 and 0 < questions + records <= 512


@inner
def _blank(data: U8, zeroed: U8, start: Word, end: Word) -> None:
    blank(data, start, end)
    for k in range(start, end):
        zeroed[k] = np.uint8(1)


@inner
def _behind_name(data: U8, zeroed: U8, base: Word, at: Word, end: Word) -> Word:
    """The position behind a name, `_ODD` where reading it needs a byte that has become zero, or one that comes later."""
    behind, size, jumps, top = i64(-1), i64(0), i64(0), end
    while True:
        if at >= top or zeroed[at] != 0:
            return _ODD
        length = i64(data[at])
        if length >= 0xC0:
            if at + 2 > top or zeroed[at + 1] != 0:
                return _ODD
            if behind < 0:
                behind, top = at + 2, at
            at = base + (u16(data, at) & 0x3FFF)
            jumps += 1
            if jumps > _MOST_JUMPS or at >= top:
                return _ODD
            continue
        if length >= 0x40:
            return _ODD
        if length == 0:
            return behind if behind >= 0 else at + 1
        if at + 1 + length > top:
            return _ODD
        for k in range(at + 1, at + 1 + length):
            if zeroed[k] != 0:
                return _ODD
        size += length + 1
        if size > _LONGEST_NAME:
            return _ODD
        at += 1 + length


@inner
def _message(data: U8, zeroed: U8, base: Word, end: Word) -> Word:
    """Canonical form of the message at `base`; the position behind it, `_ODD` or `_CUT`."""
    questions, records = u16(data, base + 4), u16(data, base + 6) + u16(data, base + 8) + u16(data, base + 10)
    if questions + records > _MOST_RECORDS:
        return _ODD
    _blank(data, zeroed, base, base + 2)
    at = base + 12
    for _ in range(questions):
        at = _behind_name(data, zeroed, base, at, end)
        if at < 0 or at + 4 > end:
            return _ODD
        at += 4
    for _ in range(records):
        if at >= end:
            return _CUT
        at = _behind_name(data, zeroed, base, at, end)
        if at < 0:
            return _ODD
        if at + 10 > end:
            return _CUT
        kind, size = u16(data, at), u16(data, at + 8)
        _blank(data, zeroed, at + 2, at + 8)
        at += 10
        if (kind == 1) | (kind == 28):
            _blank(data, zeroed, at, min(at + size, end))
        at += size
    return at if at <= end else _CUT


@inner
def blank_dns(data: U8, zeroed: U8, start: Word, end: Word, source: U8, place: Word) -> None:
    """Canonical form of one direction [start, end) of DNS datagrams, a copy of `source` from `place` on."""
    at = start
    for _ in range(_MOST_MESSAGES):
        if at < 0 or not is_dns(data, at, end):
            return
        at = _message(data, zeroed, at, end)
        if at == _ODD:
            for k in range(start, end):
                data[k] = source[place + k - start]
            return
