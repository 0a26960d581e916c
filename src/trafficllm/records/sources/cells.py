"""Cell and packet sequences from TSV files: website fingerprinting without captures.

Cells: `page <tab> n <tab> +1 -1 +83 ...`, sign the direction, value milliseconds since the first cell plus one.
Packets: `domain <tab> load <tab> seen <tab> 0:-1514 0:+66 ...`, milliseconds and signed frame length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from trafficllm.core.errors import InputError
from trafficllm.core.types import Record
from trafficllm.records.sources.requests import read_text

MS = 1_000_000
FRAME_OVERHEAD = 66
"""Ethernet, IPv4 and TCP headers with timestamps: a frame of 66 bytes is a bare ACK."""
LIMIT = 5000


@dataclass(frozen=True, slots=True)
class Sequence:
    """One load of a page: its label, which load it is, and the record."""

    label: str
    load: int
    record: Record


def sequences(path: Path) -> Iterator[Sequence]:
    """All loads of a file. Raises InputError with the line at fault."""
    lines = read_text(path).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines[1:], 2):
        columns = line.split("\t")
        if len(columns) < 3:
            continue
        try:
            if ":" in columns[-1]:
                yield Sequence(columns[0], int(columns[1]), _packets(columns[-1]))
            else:
                yield Sequence(columns[0], number - 2, cells(columns[-1]))
        except ValueError as error:
            hint = "cells are +ms or -ms, packets ms:+bytes or ms:-bytes"
            raise InputError("input.sequence", f"not a sequence: {error}", input=str(path), where=f"line {number}", hint=hint) from error


def cells(text: str) -> Record:
    """A cell sequence: signs are directions (+ client to server), values milliseconds plus one; "0" and "1" directions only.

    >>> cells("+1 -1 +84").iats
    (0, 0, 83000000)
    """
    words = text.split()[:LIMIT]
    dirs = tuple(0 if word[0] == "+" else 1 for word in words)
    times = [abs(int(word)) * MS for word in words]
    return Record(kind="cells", ip_version=0, proto=-1, dirs=dirs, iats=_gaps(times))


def bits(text: str) -> Record:
    """A direction string of 0 and 1, times unknown."""
    dirs = tuple(int(char) for char in text if char in "01")[:LIMIT]
    return Record(kind="cells", ip_version=0, proto=-1, dirs=dirs, iats=(-1,) * len(dirs))


def _packets(text: str) -> Record:
    pairs = [word.split(":") for word in text.split()[:LIMIT]]
    times = [int(time) * MS for time, _ in pairs]
    frames = [int(size) for _, size in pairs]
    n = len(frames)
    return Record(
        kind="flow",
        ip_version=4,
        proto=6,
        dirs=tuple(int(size < 0) for size in frames),
        sizes=tuple(max(abs(size) - FRAME_OVERHEAD, 0) for size in frames),
        iats=_gaps(times),
        flags=(-1,) * n,
        windows=(-1,) * n,
        ttls=(-1,) * n,
    )


def _gaps(times: list[int]) -> tuple[int, ...]:
    return (0, *(max(b - a, 0) for a, b in pairwise(times)))[: len(times)]
