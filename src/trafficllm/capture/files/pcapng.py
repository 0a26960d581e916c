"""pcapng files (draft-ietf-opsawg-pcapng): sections of either byte order, interfaces with their own clocks, all packet blocks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from trafficllm.capture.files.decompress import Window
from trafficllm.capture.files.pcap import Block
from trafficllm.capture.kernels.read import MAX_CAPLEN, walk_blocks
from trafficllm.core.errors import InputError
from trafficllm.core.types import I64

_SHB = 0x0A0D0D0A
_IDB = 1
_MAX_INTERFACES = 65536
_LARGEST = 1 << 27


def is_pcapng(head: bytes) -> bool:
    """Whether the first four bytes are a section header block's type (the same in both byte orders)."""
    return head[:4] == b"\x0a\x0d\x0d\x0a"


class _Interfaces:
    """Link type, snaplen and clock of each interface of a section, as the kernel wants them."""

    def __init__(self) -> None:
        self._rows = np.zeros((16, 6), dtype=np.int64)
        self._count = 0

    @property
    def table(self) -> I64:
        """int64 [interfaces, 6]."""
        return self._rows[: self._count]

    def clear(self) -> None:
        """A new section begins."""
        self._count = 0

    def add(self, body: bytes, order: str) -> bool:
        if len(body) < 8 or self._count >= _MAX_INTERFACES:
            return False
        if self._count == self._rows.shape[0]:  # doubled: 65,536 interfaces cost 65,536 rows, not their square
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        link, _, snaplen = struct.unpack(order + "HHI", body[:8])
        self._rows[self._count] = (link, snaplen, *_clock(body[8:], order))
        self._count += 1
        return True


_DECIMAL, _BINARY = 18, 62  # the finest clocks whose second is still an int64 of units


def _clock(options: bytes, order: str) -> tuple[int, int, int, int]:
    """if_tsresol and if_tsoffset: (units per second, 1 if a power of two, offset in s, how many of the file's units make one)."""
    units, binary, offset, finer, at = 1_000_000, 0, 0, 1, 0
    while at + 4 <= len(options):
        code, size = struct.unpack(order + "HH", options[at : at + 4])
        value = options[at + 4 : at + 4 + size]
        if code == 0:
            break
        if code == 9 and size == 1 and len(value) == 1:
            power = value[0] & 0x7F
            binary = value[0] >> 7
            base, most = (2, _BINARY) if binary else (10, _DECIMAL)
            units, finer = base ** min(power, most), base ** min(max(power - most, 0), most)
        elif code == 14 and size == 8 and len(value) == 8:
            offset = int(struct.unpack(order + "q", value)[0])
        at += 4 + (size + 3) // 4 * 4
    if not -(2**33) < offset < 2**33:
        offset = 0
    return units, binary, offset, finer


def _order(head: bytes) -> str:
    return {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(head[8:12], "")


def _major(head: bytes, order: str) -> int:
    return int(struct.unpack(order + "H", head[12:14])[0]) if len(head) >= 14 else 0


def _columns(size: int) -> tuple[Any, ...]:
    n = size // 16 + 1
    return (np.empty(n, np.int64), np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.int64), np.empty(n, np.uint16))


def read_pcapng(window: Window, name: str, note: list[str]) -> Iterator[Block]:
    """Blocks of frames; what ends a file early goes to `note` as "file.cut" or "file.damaged"."""
    order = _order(window.peek(12)[:12].tobytes())
    if not order:
        raise InputError(
            "input.pcapng", "section header without a byte-order mark", input=name, where="byte 8", hint="the file is damaged at its start"
        )
    interfaces = _Interfaces()
    columns = _columns(0)
    need = window.step
    while True:
        view = window.peek(need)
        if view.shape[0] == 0:
            return
        if view.shape[0] // 16 + 1 > columns[0].shape[0]:
            columns = _columns(view.shape[0])
        count, used, stop = walk_blocks(view, order == ">", MAX_CAPLEN, interfaces.table, *columns)
        if count:
            yield Block(view, *(column[:count].copy() for column in columns))
            need = window.step
        window.skip(int(used))
        if stop == 3:
            note.append("file.damaged")
            return
        if stop == 1 and not count:
            size, order = _special(window, order, interfaces, note)
            if not size:
                return
            need = max(size, window.step)


def _special(window: Window, order: str, interfaces: _Interfaces, note: list[str]) -> tuple[int, str]:
    """The block at the window's start: a section, an interface, or one longer than the window: its size. 0: the file ends here."""
    head = window.peek(12)[:12].tobytes()
    if len(head) < 12:
        if head:
            note.append("file.cut")
        return 0, order
    kind = int(struct.unpack(order + "I", head[:4])[0])
    if kind == _SHB:
        order = _order(head)
        interfaces.clear()
    if not order:
        note.append("file.damaged")
        return 0, order
    size = int(struct.unpack(order + "I", head[4:8])[0])
    if size < 12 or size % 4 or size > _LARGEST:
        note.append("file.damaged")
        return 0, order
    block = window.peek(size)
    if block.shape[0] < size:
        note.append("file.cut")
        return 0, order
    if kind == _SHB and _major(block[:16].tobytes(), order) != 1:
        note.append("file.damaged")  # a section of another major version has another layout (section 4.1 of the draft)
        return 0, order
    if kind == _IDB and not interfaces.add(block[8 : size - 4].tobytes(), order):
        note.append("file.damaged")
        return 0, order
    if kind in (_SHB, _IDB):
        window.skip(size)
    return size, order
