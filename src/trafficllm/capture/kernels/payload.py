"""The beginning of each direction's payload: TCP by sequence number, datagrams one after the other.

A pool row holds `max_payload` bytes and behind them one bit a byte, set where bytes lie beyond a hole. The first copy of a byte
wins: a retransmission cannot change what was seen.
"""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.kernels.layout import C_FREE_BUFFERS, C_TOP_BUFFERS
from trafficllm.core.types import I64, U8


@inner
def copy_bytes(target: U8, at: Word, source: U8, start: Word, size: Word) -> None:
    """`target[at:at+size] = source[start:start+size]`; a slice assignment costs 4 s of compilation.

    Unsigned places: a signed one may be counted from the end, and to look at that for each byte keeps LLVM from copying 32 at a time.
    """
    here, there = np.uint64(at), np.uint64(start)
    for k in range(np.uint64(max(size, 0))):
        target[here + k] = source[there + k]


@inner
def _buffer(buffers: U8, buffer_next: Any, control: I64, limit: Word, end: Any) -> Word:
    number = i64(end["buffer"])
    if number < 0:
        number = i64(control[C_FREE_BUFFERS])
        if number >= 0:
            control[C_FREE_BUFFERS] = buffer_next[number]
        elif control[C_TOP_BUFFERS] < buffers.shape[0]:
            number = i64(control[C_TOP_BUFFERS])
            control[C_TOP_BUFFERS] = number + 1
        else:
            return -1
        end["buffer"] = number
        row = buffers[number]
        for k in range(np.uint64(limit), np.uint64(buffers.shape[1])):
            row[k] = 0
    return number


@inner
def append_payload(buffers: U8, buffer_next: Any, control: I64, limit: Word, buf: U8, source: Word, size: Word, end: Any) -> None:
    """Add a datagram's payload behind what is there."""
    size = min(size, limit - end["prefix"])
    if size <= 0:
        return
    number = _buffer(buffers, buffer_next, control, limit, end)
    if number < 0:
        return
    at = i64(end["prefix"])
    copy_bytes(buffers[number], at, buf, source, size)
    end["prefix"] = at + size


@inner
def place_payload(buffers: U8, buffer_next: Any, control: I64, limit: Word, buf: U8, source: Word, size: Word, end: Any, at: Word) -> None:
    """Put a TCP segment's bytes at stream offset `at`; holes are filled later, what is there stays."""
    size = min(size, limit - at)
    known = i64(end["prefix"])
    if size <= 0 or at + size <= known:
        return
    number = _buffer(buffers, buffer_next, control, limit, end)
    if number < 0:
        return
    if at < known:
        source += known - at
        size -= known - at
        at = known
    row = buffers[number]
    if not end["scattered"]:
        copy_bytes(row, at, buf, source, size)
        if at == known:
            end["prefix"] = known + size
            return
        end["scattered"] = 1
        for k in range(at, at + size):
            row[limit + (k >> 3)] |= np.uint8(1 << (k & 7))
        return
    for k in range(size):
        place, bit = limit + ((at + k) >> 3), np.uint8(1 << ((at + k) & 7))
        if not row[place] & bit:
            row[at + k] = buf[source + k]
            row[place] |= bit
    while known < limit and (row[limit + (known >> 3)] >> (known & 7)) & 1:
        known += 1
    end["prefix"] = known
