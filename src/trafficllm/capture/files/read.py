"""Capture files to frames: one stream of FrameBatch over many files, whatever their container."""

from __future__ import annotations

import glob
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import IO

import numpy as np

from trafficllm.capture.files.decompress import HEAD, FileWindow, StreamWindow, Window, codec_of, open_stream, open_window
from trafficllm.capture.files.pcap import Block, is_pcap, read_pcap
from trafficllm.capture.files.pcapng import is_pcapng, read_pcapng
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.core.errors import InputError, ResourceError, TrafficLLMError
from trafficllm.core.types import CaptureCounts, FrameBatch

CHUNK = 8 << 20
_BATCH = 1 << 16
_NAMED = frozenset({".pcap", ".pcapng"})
_SUFFIXES = frozenset({".pcap", ".pcapng", ".cap", ".ntar", ".dmp", ".gz", ".zst", ".lz4"})
_MAGICS_WITHIN = 512
_CONTAINERS = tomllib.loads(resources.files("trafficllm.capture.files").joinpath("containers.toml").read_text(encoding="utf-8"))[
    "container"
]
"""Other containers by their first bytes: what they are, and which command makes a capture of them."""


class Skipped:
    """Inputs among several that cannot be read: each is told at once and remembered, the others are read on.

    One input alone, and several of which none can be read, raise as ever.

    >>> skipped = Skipped(print)
    >>> [path.name for path in expand(["x.pcap", "missing.pcap"], skipped)]
    missing.pcap: no such file or folder
    ['x.pcap']
    """

    def __init__(self, tell: Callable[[TrafficLLMError], None]) -> None:
        self._tell = tell
        self.errors: list[TrafficLLMError] = []
        self.counts: CaptureCounts | None = None
        """What was seen of the inputs that could be read, once all of them have been."""

    def add(self, error: TrafficLLMError) -> None:
        """Go on without the input that this error names."""
        self.errors.append(error)
        self._tell(error)


def none_readable(skipped: Skipped) -> InputError:
    """None of several inputs could be read."""
    return InputError("input.none_readable", f"none of the {len(skipped.errors):,} inputs could be read", hint="each is named on stderr")


def _is_capture(path: Path) -> bool:
    """Whether a folder's file is read: by its first bytes, which of a compressed file are those inside (a .csv.gz is none)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
        if codec_of(head) and path.suffix.lower() in _SUFFIXES:
            window = open_window(path, 64)
            head = window.peek(4)[:4].tobytes()
            window.close()
    except (OSError, TrafficLLMError):
        return False
    return is_pcap(head) or is_pcapng(head)


def _inside(folder: Path, *, named: bool) -> list[Path]:
    """A folder's captures at any depth; `named`: also files that are only called captures."""
    files = sorted(item for item in folder.rglob("*") if item.is_file())
    captures = {item for item in files if _is_capture(item)}
    if not captures:
        hint = "captures are pcap or pcapng files, also .gz, .zst, .lz4"
        raise InputError("input.no_captures", "no capture in this folder", input=str(folder), hint=hint)
    return [item for item in files if item in captures or (named and _NAMED & {part.lower() for part in item.suffixes[-2:]})]


def _named(given: str | Path, *, several: bool) -> list[Path]:
    path = Path(given)
    if str(given) == "-" or path.is_file():
        return [path]
    if path.is_dir():
        return _inside(path, named=several)
    if path.exists():
        return [path]
    if matches := sorted(glob.glob(str(given), recursive=True)):  # noqa: PTH207 - patterns may be absolute
        return [Path(match) for match in matches if Path(match).is_file()]
    raise InputError("input.missing", "no such file or folder", input=str(given), hint="check the path")


def expand(paths: Sequence[str | Path], skipped: Skipped | None = None) -> list[Path]:
    """Files named by `paths`: a file itself, a folder's captures at any depth, a glob's matches, "-" standard input.

    Raises InputError for a path that does not exist, a folder without captures, a glob without matches; with `skipped`
    only where no path is left. Files of a folder that are called captures and are none then come too, to be named.
    """
    found: list[Path] = []
    for given in paths:
        try:
            found += _named(given, several=skipped is not None)
        except InputError as error:
            if skipped is None or len(paths) == 1:
                raise
            skipped.add(error)
    if not found and skipped is not None and skipped.errors:
        raise none_readable(skipped)
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
        raise InputError("input.empty", "nothing to read", input=name, hint="the file is empty, or its compression is damaged at the start")
    else:
        raise _foreign(window.peek(_MAGICS_WITHIN)[:_MAGICS_WITHIN].tobytes(), name)


def _foreign(head: bytes, name: str) -> InputError:
    """What a file is that is no capture of ours, and which command makes one of it."""
    file = shlex.quote(name)
    for row in _CONTAINERS:
        if head.startswith(bytes.fromhex(row["magic"]), row.get("at", 0)):
            message, hint = row["message"].format(kind=row["kind"]), row["remedy"].format(file=file)
            return InputError("input.format", message, input=name, where="byte 0", hint=hint)
    hint = f"convert other formats with `editcap -F pcapng {file} OUT.pcapng` or `tshark -r {file} -w OUT.pcapng`"
    return InputError("input.format", "not a capture: neither pcap nor pcapng", input=name, where="byte 0", hint=hint)


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
    paths: Sequence[str | Path], *, chunk_bytes: int = CHUNK, counts: CountsBuilder | None = None, skipped: Skipped | None = None
) -> Iterator[FrameBatch]:
    """Frames of all files in order, in batches of at most 65,536; memory does not depend on file size.

    A damaged or cut file gives what is readable and counts `malformed["file.cut"]` or `["file.damaged"]`; of a file that grows, as of
    a capture that still runs, what was there at the beginning is read, and `["file.growing"]` counted.
    Raises InputError for a path that is no capture or that changes otherwise while it is read, ResourceError for one that may not be
    read; with `skipped` such files among several are left out.
    """
    counts = counts if counts is not None else CountsBuilder()
    files = tuple(str(path) for path in expand(paths, skipped))
    unread = 0
    for source, name in enumerate(files):
        before = counts.read
        try:
            yield from _frames(files, source, chunk_bytes, counts)
        except (InputError, ResourceError) as error:
            if skipped is None or (len(files) == 1 and not skipped.errors):
                raise
            skipped.add(error)
            unread += 1
            counts.read = before + _size(Path(name))
    if skipped is not None and unread == len(files):
        raise none_readable(skipped)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def read_stream(stream: IO[bytes], name: str, counts: CountsBuilder) -> Iterator[FrameBatch]:
    """Frames of a capture that another process writes, as they come; `name` stands for its file. See `read_frames`."""
    yield from _framed(open_stream(stream, name, CHUNK), (name,), 0, counts)


def _frames(files: tuple[str, ...], source: int, chunk_bytes: int, counts: CountsBuilder) -> Iterator[FrameBatch]:
    """Frames of one of the files."""
    yield from _framed(open_window(Path(files[source]), chunk_bytes), files, source, counts)


def _framed(window: Window, files: tuple[str, ...], source: int, counts: CountsBuilder) -> Iterator[FrameBatch]:
    name = files[source]
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
    if isinstance(window, FileWindow) and window.source.grew:
        note.append("file.growing")
    for kind in note:
        counts.malformed[kind] += 1
