"""Capture files to frames: one stream of FrameBatch over many files, whatever their container."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trafficllm.capture.counts import CountsBuilder
from trafficllm.capture.decompress import StreamWindow, Window, codec_of, open_window
from trafficllm.capture.pcap import Block, is_pcap, read_pcap
from trafficllm.capture.pcapng import is_pcapng, read_pcapng
from trafficllm.core.errors import InputError, TrafficLLMError
from trafficllm.core.types import FrameBatch

CHUNK = 8 << 20
_BATCH = 1 << 16
_SUFFIXES = frozenset({".pcap", ".pcapng", ".cap", ".ntar", ".dmp", ".gz", ".zst", ".lz4"})


def _is_capture(path: Path) -> bool:
    """Whether a folder's file is read: by its first bytes, which of a compressed file are those inside (a .csv.gz is none)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
        if codec_of(head) and path.suffix.lower() in _SUFFIXES:
            window = open_window(path, 64)
            head = window.peek(4)[:4].tobytes()
            window.close()
    except (OSError, TrafficLLMError):
        return False
    return is_pcap(head) or is_pcapng(head)


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """Files named by `paths`: a file itself, a folder's captures at any depth, a glob's matches, "-" standard input.

    Raises InputError for a path that does not exist, a folder without captures, a glob without matches.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if str(given) == "-" or path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = sorted(item for item in path.rglob("*") if item.is_file() and _is_capture(item))
            if not inside:
                hint = "captures are pcap or pcapng files, also .gz, .zst, .lz4"
                raise InputError("input.no_captures", "no capture in this folder", input=str(given), hint=hint)
            found += inside
        elif path.exists():
            found.append(path)
        elif matches := sorted(glob.glob(str(given), recursive=True)):  # noqa: PTH207 - patterns may be absolute
            found += [Path(match) for match in matches if Path(match).is_file()]
        else:
            raise InputError("input.missing", "no such file or folder", input=str(given), hint="check the path")
    if not found:
        raise InputError("input.no_captures", "nothing to read", hint="name at least one capture file or folder")
    return found


def total_bytes(paths: Sequence[str | Path]) -> int | None:
    """Bytes of the files that `paths` name as they lie on disk; None where one of them is a stream."""
    files = expand(paths)
    return sum(path.stat().st_size for path in files) if all(path.is_file() for path in files) else None


def _blocks(window: Window, name: str, note: list[str]) -> Iterator[Block]:
    head = window.peek(4)[:4].tobytes()
    if is_pcap(head):
        yield from read_pcap(window, name, note)
    elif is_pcapng(head):
        yield from read_pcapng(window, name, note)
    elif not head:
        raise InputError(
            "input.empty", "nothing to read", input=name, hint="the file is empty, or its compression is damaged at the start",
        )
    else:
        raise InputError(
            "input.format", "not a capture: neither pcap nor pcapng", input=name, where="byte 0",
            hint="convert other formats with editcap or tshark -w"
        )


def _batches(block: Block, source: int, first: int, files: tuple[str, ...]) -> Iterator[FrameBatch]:
    count = block.offset.shape[0]
    for at in range(0, count, _BATCH):
        part = slice(at, min(at + _BATCH, count))
        size = part.stop - part.start
        yield FrameBatch(
            buffer=block.buffer,
            offset=block.offset[part],
            caplen=block.caplen[part],
            origlen=block.origlen[part],
            ts=block.ts[part],
            link=block.link[part],
            source=np.full(size, source, dtype=np.uint32),
            number=np.arange(first + at + 1, first + at + size + 1, dtype=np.int64),
            files=files,
        )


def read_frames(
    paths: Sequence[str | Path], *, chunk_bytes: int = CHUNK, counts: CountsBuilder | None = None
) -> Iterator[FrameBatch]:
    """Frames of all files in order, in batches of at most 65,536; memory does not depend on file size.

    A damaged or cut file gives what is readable and counts `malformed["file.cut"]` or `["file.damaged"]`.
    Raises InputError for a path that is no capture, ResourceError for one that may not be read.
    """
    counts = counts if counts is not None else CountsBuilder()
    files = tuple(str(path) for path in expand(paths))
    for source, name in enumerate(files):
        window = open_window(Path(name), chunk_bytes)
        note: list[str] = []
        first, before = 0, counts.read
        try:
            for block in _blocks(window, name, note):
                counts.read = before + window.told()
                for batch in _batches(block, source, first, files):
                    counts.frames(batch)
                    yield batch
                first += block.offset.shape[0]
            counts.read = before + window.told()
        finally:
            window.close()
        if isinstance(window, StreamWindow) and window.damaged and not note:
            note.append("file.cut")
        for kind in note:
            counts.malformed[kind] += 1
