"""Classic pcap files: both byte orders, micro- and nanoseconds, the longer record headers of some systems, Ixia's lcap."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trafficllm.capture.files.decompress import Window
from trafficllm.capture.kernels.read import MAX_CAPLEN, walk_records
from trafficllm.core.errors import InputError
from trafficllm.core.types import I64, U8, U16, U32

_MAGIC = {0xA1B2C3D4: (1000, 0), 0xA1B23C4D: (1, 0), 0xA1B2CD34: (1000, 8), 0x1C0001AC: (1000, 0), 0x1C0001AB: (1000, 0)}
"""Magic number -> nanoseconds a unit of the fraction, bytes of a record header behind the usual 16."""
_IXIA = frozenset({0x1C0001AC, 0x1C0001AB})
"""Hardware and software captures of Ixia: the size of all records, four bytes, follows the file header."""
_LONGER = {0: (4, 8), 8: (12,)}
"""Longer headers under the same magic number: of Nokia and RedHat 6.1 beside the usual ones, of SuSE 6.3 beside the modified ones."""
_LOOKED_AT = 8
_SHORTEST = 16


class Block(NamedTuple):
    """Frames found in one window: like FrameBatch without the file."""

    buffer: U8
    offset: I64
    caplen: U32
    origlen: U32
    ts: I64
    link: U16


def is_pcap(head: bytes) -> bool:
    """Whether the first four bytes are a pcap magic number."""
    return len(head) >= 4 and any(int.from_bytes(head[:4], order) in _MAGIC for order in ("little", "big"))


def read_pcap(window: Window, name: str, note: list[str]) -> Iterator[Block]:
    """Blocks of frames; what ends a file early goes to `note` as "file.cut" or "file.damaged"."""
    head = window.peek(24)[:24].tobytes()
    order = "<" if int.from_bytes(head[:4], "little") in _MAGIC else ">"
    magic = struct.unpack(order + "I", head[:4])[0]
    scale, extra = _MAGIC[magic]
    if len(head) < 24:
        raise InputError(
            "input.cut", "ends within the file header", input=name, where="byte 24", hint="the file was cut while it was copied or written"
        )
    major, minor = struct.unpack(order + "HH", head[4:8])
    if major != 2:
        raise InputError(
            "input.version",
            f"pcap version {major}.{minor} is unknown",
            input=name,
            where="byte 4",
            hint="the file is damaged or not a capture",
        )
    snaplen, link = struct.unpack(order + "II", head[16:24])
    limit = MAX_CAPLEN if snaplen <= MAX_CAPLEN else min(snaplen, 1 << 27)
    window.skip(28 if magic in _IXIA else 24)
    if magic not in _IXIA:
        extra = _header(window, order, extra, limit, 1_000_000_000 // scale)
    while True:
        view = window.peek(window.step)
        if view.shape[0] == 0:
            return
        n = view.shape[0] // _SHORTEST + 1
        columns = (np.empty(n, np.int64), np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.int64))
        count, used, damaged = walk_records(view, order == ">", scale, extra, limit, *columns)
        if count:
            offset, caplen, origlen, ts = (column[:count].copy() for column in columns)
            if minor < 3 or (minor == 3 and np.any(caplen > origlen)):
                caplen, origlen = _old_order(caplen, origlen, minor)
            yield Block(view, offset, caplen, origlen, ts, np.full(count, link & 0xFFFF, np.uint16))
        window.skip(int(used))
        if damaged:
            note.append("file.damaged")
            return
        if not count and not _larger(window, order, extra):
            note.append("file.cut")
            return


def _header(window: Window, order: str, extra: int, limit: int, units: int) -> int:
    """Bytes of a record header behind the usual 16: other than the magic number says only where the first records chain with no other."""
    data = window.peek(window.step)[: 1 << 20].tobytes()
    while _chains(data, order, 16 + extra, limit, units) is None and len(data) < 1 << 20:  # a live stream has not said enough
        whole = window.peek(len(data) + 1)[: 1 << 20].tobytes()
        if len(whole) == len(data):
            break
        data = whole
    if _chains(data, order, 16 + extra, limit, units):
        return extra
    return next((more for more in _LONGER.get(extra, ()) if _chains(data, order, 16 + more, limit, units)), extra)


def _chains(data: bytes, order: str, head: int, limit: int, units: int) -> bool | None:
    """Whether the first records are plausible: the fraction below a second, captured bytes within the original ones, the end in place.
    None where they are, and the data ends within one."""
    at = 0
    for _ in range(_LOOKED_AT):
        if at + head > len(data):
            return at == len(data) or None
        _, fraction, captured, original = struct.unpack_from(order + "IIII", data, at)
        if fraction >= units or captured > min(original, limit):
            return False
        at += head + captured
    return True


def _old_order(caplen: U32, origlen: U32, minor: int) -> tuple[U32, U32]:
    """Before 2.3 the two lengths stood the other way round; 2.3 had writers of both kinds."""
    swap = np.full(caplen.shape, minor < 3) | (caplen > origlen)
    return np.where(swap, np.minimum(caplen, origlen), caplen), np.where(swap, np.maximum(caplen, origlen), origlen)


def _larger(window: Window, order: str, extra: int) -> bool:
    """A record longer than the window: look far enough to hold it. False at the end of a cut file."""
    head = window.peek(16 + extra)[:16].tobytes()
    if len(head) < 16:
        return False
    need = 16 + extra + int(struct.unpack(order + "I", head[8:12])[0])
    return bool(window.peek(need).shape[0] >= need)
