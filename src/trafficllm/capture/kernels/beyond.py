"""Payload beyond the prefix that facts need: the rest of a long TLS ClientHello, and datagrams with a QUIC or DTLS client's hello.

An endpoint has a chain of chunks from one bounded pool, each with one bit a byte behind it, set where a byte is known. TCP bytes lie
at their stream offset less the prefix; datagrams lie one after the other, each behind its length in two bytes. A flow whose hello
fits into the prefix, or that has none, keeps nothing here.
"""

# ruff: noqa: PLR0917, PLR1714 - kernels take their arrays by position, and a tuple to search in costs numba half a second
from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, i64, inner
from trafficllm.capture.kernels.layout import C_CHUNKS_DONE, C_FREE_CHUNKS, C_HELLOS_LOST, C_TOP_CHUNKS, CHUNK
from trafficllm.core.types import I64, U8

_RECORD, _CLIENT_HELLO, _CONNECT = i64(22), i64(1), i64(67)
_BLOCK = 64
_SHORTEST_INITIAL = i64(40)  # bytes: long header, packet number, and a sample for header protection (RFC 9001 5.4.2)


@inner
def _chunk(chunks: U8, chunk_next: Any, control: I64, end: Any, number: Word) -> Word:
    """The row of an endpoint's chunk; chunks up to it are made where they are missing. -1: the pool is used up."""
    here, before = i64(end["chunk"]), i64(-1)
    for _ in range(number + 1):
        if here < 0:
            here = i64(control[C_FREE_CHUNKS])
            if here >= 0:
                control[C_FREE_CHUNKS] = chunk_next[here]
            elif control[C_TOP_CHUNKS] < chunks.shape[0]:
                here = i64(control[C_TOP_CHUNKS])
                control[C_TOP_CHUNKS] = here + 1
            else:
                return i64(-1)
            for k in range(CHUNK, chunks.shape[1]):
                chunks[here, k] = 0
            chunk_next[here] = -1
            end["chunks"] = i64(end["chunks"]) + 1
            if before < 0:
                end["chunk"] = here
            else:
                chunk_next[before] = here
        before = here
        here = i64(chunk_next[here])
    return before


@inner
def _write(chunks: U8, chunk_next: Any, control: I64, end: Any, at: Word, buf: U8, source: Word, size: Word) -> Word:
    """Put bytes at `at`; the first copy of a byte wins. False when the pool is used up."""
    while size > 0:
        number = _chunk(chunks, chunk_next, control, end, at // CHUNK)
        if number < 0:
            return False
        row, first = chunks[number], at % CHUNK
        part = min(size, CHUNK - first)
        for k in range(first, first + part):
            place, bit = CHUNK + (k >> 3), np.uint8(1 << (k & 7))
            if not row[place] & bit:
                row[k] = buf[source + k - first]
                row[place] |= bit
        at += part
        source += part
        size -= part
    return True


@inner
def release(chunk_next: Any, control: I64, end: Any) -> None:
    """Give an endpoint's chunks back."""
    here = i64(end["chunk"])
    if here < 0:
        return
    tail = here
    while chunk_next[tail] >= 0:
        tail = i64(chunk_next[tail])
    chunk_next[tail] = control[C_FREE_CHUNKS]
    control[C_FREE_CHUNKS] = here
    end["chunk"], end["chunks"] = -1, 0


@inner
def count_finished(control: I64, end: Any) -> None:
    """The flow is over: its chunks come back with the next batch."""
    control[C_CHUNKS_DONE] += i64(end["chunks"])


@inner
def _next_handshake(row: U8, start: Word, known: Word) -> Word:
    """The first place from `start` on where a TLS record of a handshake may begin, before the last of `known` bytes; `known`: none does.

    Blocks are looked at as a whole first, without leaving one early, which vector instructions can do.
    """
    place, last = np.uint64(start), np.uint64(max(known - 1, 0))
    while place + np.uint64(_BLOCK) <= last:
        here = np.uint8(0)
        for k in range(np.uint64(_BLOCK)):
            here |= np.uint8(row[place + k] == _RECORD) & np.uint8(row[place + k + np.uint64(1)] == 3)
        if here:
            break
        place += np.uint64(_BLOCK)
    while place < last:
        if row[place] == _RECORD and row[place + np.uint64(1)] == 3:
            return i64(place)
        place += np.uint64(1)
    return known


@inner
def _hello_end(row: U8, known: Word, limit: Word, most: Word) -> Word:
    """Stream offset behind the ClientHello that begins in the prefix (RFC 8446 4, 5.1); 0: none yet, -1: none will come."""
    p = _next_handshake(row, i64(0), known)
    while p < known:
        if p + 9 > known:
            return most if known == limit else i64(0)
        record = i64(row[p + 3]) << 8 | i64(row[p + 4])
        if row[p + 2] > 4 or row[p + 5] != _CLIENT_HELLO or row[p + 6] != 0 or record < 4:
            p = _next_handshake(row, p + 1, known)
            continue
        size = 4 + (i64(row[p + 7]) << 8 | i64(row[p + 8]))
        stop = min(p + size + 5 * ((size + record - 1) // record), most)
        return stop if stop > limit else i64(-1)
    if known < limit:
        return i64(0)
    return most // 2 if limit > 4 and row[0] == _CONNECT and row[1] == 79 and row[2] == 78 and row[3] == 78 else i64(-1)


@inner
def keep_stream(
    chunks: U8, chunk_next: Any, control: I64, buffers: U8, limit: Word, most: Word, buf: U8, source: Word, size: Word, end: Any, at: Word
) -> None:
    """Keep what a TCP segment at stream offset `at` has of a ClientHello beyond the prefix of `limit` bytes, up to `most`.

    While the beginning of the stream is missing, half of `most` is kept until it says what this is.
    """
    wanted = i64(end["wanted"])
    if at >= most or at + size <= limit:
        return
    if wanted == 0:
        wanted = most // 2
        if end["prefix"] > 0:
            told = _hello_end(buffers[i64(end["buffer"])], i64(end["prefix"]), limit, most)
            end["wanted"] = told
            if told < 0:
                release(chunk_next, control, end)
                return
            wanted = told if told > 0 else wanted
    start, stop = max(at, limit), min(at + size, wanted)
    if start < stop and not _write(chunks, chunk_next, control, end, start - limit, buf, source + start - at, stop - start):
        end["wanted"] = -1
        control[C_HELLOS_LOST] += 1
        release(chunk_next, control, end)


@inner
def _carries_hello(buf: U8, source: Word, size: Word) -> Word:
    """1: an Initial packet (RFC 9000 17.2.2, 9369 3.2) or a DTLS ClientHello (RFC 6347 4.2); -1: QUIC's handshake is over; 0: neither."""
    first = i64(buf[source])
    if first == _RECORD:
        return 1 if size > 25 and buf[source + 1] == 254 and buf[source + 13] == _CLIENT_HELLO else 0
    if first & 0x89 == 9 and size > _SHORTEST_INITIAL and buf[source + 9] == 81 and buf[source + 10] == 48:
        return 1  # gQUIC's public header with a version, "Q0.."
    if first & 0xC0 != 0xC0:
        return -1 if first & 0xC0 == 0x40 else 0
    if size < _SHORTEST_INITIAL:
        return 0
    high, low = i64(buf[source + 1]) << 8 | i64(buf[source + 2]), i64(buf[source + 3]) << 8 | i64(buf[source + 4])
    kind = first >> 4 & 3
    if high == 0x6B33 and low == 0x43CF:
        return 1 if kind == 1 else 0
    if high == 0x5130 or high == 0x5430:  # "Q0..", "T0.."
        return 1
    known = (
        (high == 0 and low == 1) or (high == 0xFF00 and low < 256) or high == 0xFACE or (high & 0x0F0F == 0x0A0A and low & 0x0F0F == 0x0A0A)
    )
    return 1 if known and kind == 0 else 0


@inner
def keep_datagram(chunks: U8, chunk_next: Any, control: I64, most: Word, buf: U8, source: Word, size: Word, end: Any, peer: Any) -> None:
    """Keep a datagram of the side that said hello first, up to `most` bytes in all."""
    if size < 1 or peer["chunk"] >= 0:
        return
    told = _carries_hello(buf, source, size)
    if told == 0 or (told < 0 and end["chunk"] < 0):
        return
    at = i64(end["wanted"])
    if told < 0 or at + 2 + size > most:
        end["closed_hello"] = 1
        return
    number = _chunk(chunks, chunk_next, control, end, (at + 1) // CHUNK)
    if number < 0 or not _write(chunks, chunk_next, control, end, at + 2, buf, source, size):
        end["closed_hello"] = 1
        control[C_HELLOS_LOST] += 1
        return
    for k in range(at, at + 2):
        row = chunks[_chunk(chunks, chunk_next, control, end, k // CHUNK)]
        row[k % CHUNK] = size >> 8 if k == at else size & 255
    end["wanted"] = at + 2 + size


@inner
def beyond_size(chunks: U8, chunk_next: Any, end: Any, limit: Word, tcp: Word) -> Word:
    """Bytes kept beyond the prefix: of a stream those that follow it without a hole."""
    here, size = i64(end["chunk"]), i64(0)
    if here < 0:
        return size
    if not tcp:
        return i64(end["wanted"])
    if end["prefix"] < limit:
        return size
    while here >= 0:
        for k in range(CHUNK):
            if not (chunks[here, CHUNK + (k >> 3)] >> (k & 7)) & 1:
                return size
            size += 1
        here = i64(chunk_next[here])
    return size


@inner
def copy_beyond(chunks: U8, chunk_next: Any, end: Any, out: U8, at: Word, size: Word) -> None:
    """The first `size` bytes of an endpoint's chunks."""
    here = i64(end["chunk"])
    while size > 0 and here >= 0:
        part = min(size, CHUNK)
        for k in range(part):
            out[at + k] = chunks[here, k]
        at += part
        size -= part
        here = i64(chunk_next[here])
