"""Record headers of classic pcap files, a block at a time."""

# ruff: noqa: PLR0917 - kernels take their arrays by position
from __future__ import annotations

from typing import Any

import numpy as np

from trafficllm.capture.kernels.compiling import Word, entry, i64, inner
from trafficllm.core.types import I64, U8, U32

MAX_CAPLEN = 262144
"""libpcap's MAXIMUM_SNAPLEN: a longer record means the file is damaged there."""


@inner
def _u32(buf: U8, pos: Word, swapped: bool) -> Word:
    if swapped:
        return i64(buf[pos]) << 24 | i64(buf[pos + 1]) << 16 | i64(buf[pos + 2]) << 8 | i64(buf[pos + 3])
    return i64(buf[pos + 3]) << 24 | i64(buf[pos + 2]) << 16 | i64(buf[pos + 1]) << 8 | i64(buf[pos])


@entry
def walk_records(buf: U8, swapped: bool, scale: Word, extra: Word, limit: Word, offset: I64, caplen: U32, origlen: U32, ts: I64) -> Word:
    """Records in `buf` from its start: (records, bytes used, damaged).

    `scale` ns per unit of the fraction, `extra` bytes behind the usual 16 of a header, `limit` the longest record that is believed.
    """
    end, pos, n = buf.shape[0], i64(0), 0
    room, head = offset.shape[0], 16 + extra
    while n < room and pos + head <= end:
        size = _u32(buf, pos + 8, swapped)
        if size > limit:
            return n, pos, True
        if pos + head + size > end:
            break
        offset[n] = pos + head
        caplen[n] = size
        origlen[n] = max(_u32(buf, pos + 12, swapped), 0)
        ts[n] = _u32(buf, pos, swapped) * 1000000000 + _u32(buf, pos + 4, swapped) * scale
        pos += head + size
        n += 1
    return n, pos, False


@inner
def _nanoseconds(value_high: Word, value_low: Word, face: Any) -> Word:
    """Interface clock to ns: `face` = link, snaplen, units per second, power of two, offset in s, file's units in one."""
    units = face[2]
    value, low_bit = value_high << 31 | value_low >> 1, value_low & 1  # halved: 64 bits without a sign
    if face[5] > 1:
        value, low_bit = value // face[5], (value % face[5] * 2 + low_bit) // face[5]
    seconds, rest = value // units * 2, value % units * 2 + low_bit
    seconds, rest = seconds + rest // units, rest % units
    if units <= 1000000000:
        fraction = rest * 1000000000 // units
    else:
        fraction = i64(np.float64(rest) / np.float64(units) * 1e9) if face[3] else rest // (units // 1000000000)
    seconds += face[4]
    if seconds > 9000000000 or seconds < -9000000000:
        return i64(0)
    return seconds * 1000000000 + fraction


@inner
def _packet_block(buf: U8, swapped: bool, kind: Word, pos: Word, size: Word, faces: I64, limit: Word) -> Word:
    """(data offset, captured, original, ns, link) of an enhanced (6), obsolete (2) or simple (3) packet block; captured -1: damaged."""
    if kind == 3:
        if size < 16 or faces.shape[0] == 0:
            return 0, i64(-1), 0, i64(0), 0
        original = _u32(buf, pos + 8, swapped)
        captured = min(original, size - 16)
        if faces[0, 1] > 0:
            captured = min(captured, faces[0, 1])
        return pos + 12, captured, original, i64(0), faces[0, 0]
    if size < 32:
        return 0, i64(-1), 0, i64(0), 0
    face = _u32(buf, pos + 8, swapped)
    if kind == 2:
        face = (i64(buf[pos + 8]) << 8 | i64(buf[pos + 9])) if swapped else (i64(buf[pos + 9]) << 8 | i64(buf[pos + 8]))
    captured, original = _u32(buf, pos + 20, swapped), _u32(buf, pos + 24, swapped)
    if face >= faces.shape[0] or captured > size - 32 or captured > limit:
        return 0, i64(-1), 0, i64(0), 0
    ts = _nanoseconds(_u32(buf, pos + 12, swapped), _u32(buf, pos + 16, swapped), faces[face])
    return pos + 28, captured, original, ts, faces[face, 0]


@entry
def walk_blocks(buf: U8, swapped: bool, limit: Word, faces: I64, offset: I64, caplen: U32, origlen: U32, ts: I64, link: Any) -> Word:
    """pcapng packet blocks from the start of `buf`: (packets, bytes used, why it stopped).

    1: a section or interface header, or a block that does not fit; 3: damaged. `faces` int64 [interfaces, 6].
    """
    end, pos, n = buf.shape[0], i64(0), 0
    while pos + 12 <= end:
        kind, size = _u32(buf, pos, swapped), _u32(buf, pos + 4, swapped)
        if (kind == 1) | (kind == 0x0A0D0D0A) | (n >= offset.shape[0]):
            return n, pos, 1
        if size < 12 or size & 3 or size > 1 << 27:
            return n, pos, 3
        if pos + size > end:
            return n, pos, 1
        if _u32(buf, pos + size - 4, swapped) != size:
            return n, pos, 3
        if (kind == 2) | (kind == 3) | (kind == 6):
            at, captured, original, when, face_link = _packet_block(buf, swapped, kind, pos, size, faces, limit)
            if captured < 0:
                return n, pos, 3
            offset[n] = at
            caplen[n] = captured
            origlen[n] = original
            ts[n] = when
            link[n] = face_link
            n += 1
        pos += size
    return n, pos, 1
