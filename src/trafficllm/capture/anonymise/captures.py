"""Captures without the people in them: addresses under other names, contents gone, lengths, times and checksums as they must be.

A frame is written anew from nothing: only fields that are understood and name nobody are copied, everything else is zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trafficllm.capture.anonymise.headers import Headers
from trafficllm.capture.anonymise.pseudonyms import Pseudonyms
from trafficllm.capture.anonymise.wrapped import WALKS
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import CaptureFormat, frames_of, write_capture
from trafficllm.core.types import FrameBatch

Payload = Literal["zero", "cut", "keep"]
"""What becomes of contents: zeros of the same length, nothing (frames end with their headers), or left as they are."""


@dataclass(frozen=True, slots=True)
class AnonymiseReport:
    """What was written: `packets`, `hosts` different IP addresses, `dropped` frames by the reason."""

    packets: int
    hosts: int
    dropped: dict[str, int]


def anonymise(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    key: bytes,
    payload: Payload = "zero",
    format: CaptureFormat = "pcap",  # noqa: A002 - the command line's word
) -> AnonymiseReport:
    """Write captures with every host under another name; see the module.

    `key` 32 bytes: the same key gives the same names in other captures. Frames of link types whose headers are not
    understood (wireless ones carry network names) are dropped and counted. Comments, interface names, name tables and
    secrets of pcapng files are not copied. Errors are those of `read_frames` and `write_capture`.

    >>> anonymise(["x.pcap"], "anonymous.pcap", key=bytes(32)).packets
    2
    """
    names = Pseudonyms(key)
    dropped: Counter[str] = Counter()
    batches = _renamed(read_frames(paths), Headers(names, keep=payload == "keep"), dropped, cut=payload == "cut")
    packets = write_capture(out, batches, format=format)
    return AnonymiseReport(packets, names.ip.cache_info().misses, dict(sorted(dropped.items())))


def _renamed(batches: Iterator[FrameBatch], headers: Headers, dropped: Counter[str], *, cut: bool) -> Iterator[FrameBatch]:
    for batch in batches:
        frames: list[bytes] = []
        rows: list[int] = []
        for k, (data, _, _, link) in enumerate(frames_of(batch)):
            walk = WALKS.get(link)
            out = bytearray(len(data))
            at, kind = walk(data, out, headers.names) if walk is not None else (-1, 0)
            if at < 0:
                dropped[f"link type {link}"] += 1
                continue
            end = headers.network(data, out, at, kind)
            frames.append(bytes(out[:end]) if cut else bytes(out))
            rows.append(k)
        yield _batch(batch, frames, rows)


def _batch(batch: FrameBatch, frames: Sequence[bytes], rows: Sequence[int]) -> FrameBatch:
    """The frames in one buffer, with the times, lengths and numbers of theirs."""
    sizes = np.fromiter(map(len, frames), dtype=np.int64, count=len(frames))
    return FrameBatch(
        buffer=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=np.cumsum(sizes) - sizes,
        caplen=sizes.astype(np.uint32),
        origlen=batch.origlen[rows],
        ts=batch.ts[rows],
        link=batch.link[rows],
        source=batch.source[rows],
        number=batch.number[rows],
        files=batch.files,
    )
