"""TLS records (RFC 8446 5.1): randoms, session identifiers, key shares, tickets, certificates and ciphertext become zero.

Follows `facts.tls` record by record. A byte becomes zero only where that parser takes no more than its place; where a message does not
have the form that is expected here, it stays as it is.
"""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.core.types import U8

_MOST_RECORDS = 64
_LONGEST = (1 << 14) + 2048
_READING, _LOST, _UNREAD = i64(0), i64(-1), i64(-2)
"""What the parser does with the handshake's bytes: positive, so many of them belong to a message whose beginning was seen."""


@inner
def blank(data: U8, start: Word, end: Word) -> None:
    """Zero bytes [start, end); unsigned places as in `payload.copy_bytes`."""
    for k in range(np.uint64(start), np.uint64(max(end, start))):
        data[k] = np.uint8(0)


@inner
def u16(data: U8, at: Word) -> Word:
    """Two bytes, big-endian."""
    return i64(data[at]) << 8 | i64(data[at + 1])


@inner
def is_tls(data: U8, start: Word, end: Word) -> Word:
    """`facts.tls.looks_like_tls`."""
    if end - start < 6 or not 20 <= data[start] <= 23 or data[start + 1] != 3 or data[start + 2] > 4:
        return False
    kind = i64(data[start])
    if kind == 21 or (kind == 22 and data[start + 5] <= 2):
        return True
    size = u16(data, start + 3)
    if size == 0 or size > _LONGEST or (kind == 20 and (size != 1 or data[start + 5] != 1)):
        return False
    behind = start + 5 + size
    if behind >= end:
        return True
    return 20 <= data[behind] <= 23 and (behind + 1 >= end or data[behind + 1] == 3)


@inner
def _extensions(data: U8, at: Word, stop: Word, limit: Word, server: bool, write: bool) -> Word:
    """Check the extensions from `at` on, or zero those of which the parser takes only the type; False where they are not whole."""
    if at + 2 > limit:
        return at >= stop
    end = at + 2 + u16(data, at)
    if end > limit:
        return False
    at += 2
    while at + 4 <= end:
        kind, size = u16(data, at), u16(data, at + 2)
        at += 4
        if at + size > end:
            return False
        if write:
            read = (kind == 16) | (kind == 43)
            if not server:
                read = read | (kind == 0) | (kind == 10) | (kind == 13) | (kind == 57) | (kind == 0xFFA5)
            if not read:
                blank(data, at, at + size)
        at += size
    return True


@inner
def _hello(data: U8, body: Word, stop: Word, limit: Word, server: bool) -> None:
    """Random, session identifier and extensions of a hello whose body ends at `stop`; `limit`: as far as there are bytes."""
    if body + 35 > limit:
        return
    identifier = i64(data[body + 34])
    at = body + 35 + identifier
    if server:
        if at + 3 > limit:
            return
        extensions = at + 3
    else:
        if at + 2 > limit:
            return
        at += 2 + u16(data, at)
        if at + 1 > limit:
            return
        extensions = at + 1 + i64(data[at])
    if extensions > limit or not _extensions(data, extensions, stop, limit, server, False):
        return
    _extensions(data, extensions, stop, limit, server, True)
    blank(data, body + 2, body + 34)
    blank(data, body + 35, body + 35 + identifier)


@inner
def _messages(data: U8, at: Word, stop: Word, last: bool, state: Word) -> Word:
    """Handshake bytes [at, stop) of one record; `last`: nothing follows it. The state behind them."""
    if state == _UNREAD:
        blank(data, at, stop)
        return state
    if state == _LOST:
        return state
    at += state
    while at < stop:
        if at + 4 > stop:
            return _LOST
        kind, size = i64(data[at]), i64(data[at + 1]) << 16 | u16(data, at + 2)
        body, end = at + 4, at + 4 + size
        if (kind == 1) | (kind == 2):
            if end > stop and not last:
                return end - stop
            _hello(data, body, end, min(end, stop), kind == 2)
        elif (kind == 4) | (kind == 11) | (kind == 12) | (kind == 13) | (kind == 15) | (kind == 16) | (kind == 22):
            blank(data, body, min(end, stop))
        elif (kind != 0) & (kind != 3) & (kind != 14):  # a session's middle: the parser reads no further
            blank(data, body, stop)
            return _UNREAD
        at = end
    return at - stop


@inner
def blank_tls(data: U8, start: Word, end: Word) -> None:
    """Canonical form of one direction [start, end) of a TLS flow."""
    at, encrypted, state = start, False, _READING
    for _ in range(_MOST_RECORDS):
        if at + 5 > end or not 20 <= data[at] <= 23 or data[at + 1] != 3:
            return
        kind, size = i64(data[at]), u16(data, at + 3)
        body, stop = at + 5, min(at + 5 + size, end)
        if kind == 23 or (encrypted and kind != 20):
            encrypted = True
            blank(data, body, stop)
        elif kind == 22:
            state = _messages(data, body, stop, stop == end, state)
        elif kind == 20:
            encrypted = True
        at += 5 + size
