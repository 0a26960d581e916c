"""Bytes of a capture file as bounded windows: plain files, streams, gzip, zstd and lz4 told by their magic numbers."""

from __future__ import annotations

import errno
import os
import select
import shlex
import sys
import zlib
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from trafficllm.core.errors import InputError, ResourceError
from trafficllm.core.types import U8

_READ = 1 << 20
_HEADERS = 1 << 16
"""Bytes read at once where a header is asked for: the first whole chunk then begins with the first record."""
_SMALL = 1 << 14  # of a cut zstd or lz4 stream at most this much is lost
_BOMB_AFTER, _BOMB_RATIO = 64 << 20, 200
HEAD = 1 << 16
"""Bytes of a file that are looked at for its compression: skippable frames may stand first (pzstd, metadata of lz4)."""
_SKIPPABLE = b"\x2a\x4d\x18"
_LARGEST_WINDOW = 1 << 27
"""Bytes that a zstd frame may refer back to (RFC 8878 3.1.1.1.2): what the library holds in memory, 128 MiB."""
_CODECS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4"))


class Window(Protocol):
    """A place in a stream of bytes that only moves forward. `step` is how many bytes to ask for where any number will do."""

    step: int

    def peek(self, size: int) -> U8:
        """At least `size` bytes from here, fewer only at the end of the stream; more where they cost nothing."""
        ...

    def skip(self, size: int) -> None:
        """Move forward by bytes that were peeked at."""
        ...

    def told(self) -> int:
        """Bytes of the file that have been used, compressed ones where it is compressed."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class SettledFile:
    """A regular file as it was when it was opened: what is appended meanwhile is left out, any other change is an error.

    Files are read, never mapped: a mapped file that another process cuts short kills this one (SIGBUS).
    """

    closed = False

    def __init__(self, path: Path) -> None:
        self._name, self._stream = str(path), path.open("rb", buffering=0)
        about = os.fstat(self._stream.fileno())
        self.size, self._written = about.st_size, about.st_mtime_ns
        self._place = 0
        self.grew = False
        """Whether more was there by the time the end was reached, as of a capture that still runs."""

    def readinto(self, target: memoryview) -> int:
        """Fill `target` from here, less only at the end.

        Raises InputError where the file became shorter, was written over since it was opened, or cannot be read.
        """
        target = target[: self.size - self._place]
        done = 0
        while done < len(target):
            try:
                count = self._stream.readinto(target[done:])
            except OSError as error:
                why = f"cannot be read: {error.strerror or error}"
                raise InputError("input.unreadable", why, input=self._name, where=f"byte {self._place}", hint="check the disk") from error
            if not count:
                raise self._changed(f"became shorter while it was read: {self._place:,} of {self.size:,} bytes were there")
            done += count
            self._place += count
        if self._place == self.size:
            self._check_end()
        return done

    def read(self, size: int) -> bytes:
        """At most `size` bytes from here, b"" at the end; see `readinto`."""
        block = bytearray(size)
        return bytes(memoryview(block)[: self.readinto(memoryview(block))])

    def tell(self) -> int:
        """Bytes read so far."""
        return self._place

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self.closed = True

    def _check_end(self) -> None:
        about = os.fstat(self._stream.fileno())
        self.grew = about.st_size > self.size
        if about.st_size < self.size:
            raise self._changed(f"became shorter while it was read: {about.st_size:,} of {self.size:,} bytes are left")
        if about.st_mtime_ns != self._written and not self.grew:
            raise self._changed("was written over while it was read")

    def _changed(self, why: str) -> InputError:
        hint = "copy it first, or wait until its writer is done"
        return InputError("input.changed", why, input=self._name, where=f"byte {self._place}", hint=hint)


class FileWindow:
    """A plain file, read one chunk at a time."""

    step = _READ

    def __init__(self, source: SettledFile, chunk: int) -> None:
        self.source, self._chunk = source, chunk
        self._data = np.empty(0, dtype=np.uint8)
        self._at = 0

    def peek(self, size: int) -> U8:
        """See Window."""
        left, beyond = self._data.shape[0] - self._at, self.source.size - self.source.tell()
        if left < size and beyond:
            wanted = max(size, _HEADERS if size <= _HEADERS else self._chunk)
            buffer = np.empty(left + min(wanted - left, beyond), dtype=np.uint8)
            buffer[:left] = self._data[self._at :]
            self.source.readinto(buffer.data[left:])
            self._data, self._at = buffer, 0
        return self._data[self._at :]

    def skip(self, size: int) -> None:
        """See Window."""
        self._at += size

    def told(self) -> int:
        """See Window."""
        return self.source.tell() - (self._data.shape[0] - self._at)

    def close(self) -> None:
        """See Window."""
        self.source.close()


class StreamWindow:
    """A stream read ahead by one chunk at a time; `live`: by what is there when it is asked, so that a slow writer's bytes do not wait for
    its next ones."""

    def __init__(
        self, stream: IO[bytes] | Any, name: str, chunk: int, consumed: Any = None, block: int = _READ, *, live: bool = False
    ) -> None:
        self._stream, self._name, self._chunk, self._live = stream, name, chunk, live
        self.step = 1 if live else _READ
        self._data = np.empty(0, dtype=np.uint8)
        self._at, self._ended, self._total = 0, False, 0
        self._consumed, self._block = consumed, block
        self.damaged = False

    def peek(self, size: int) -> U8:
        """See Window."""
        if self._data.shape[0] - self._at < size and not self._ended:
            self._fill(size)
        return self._data[self._at :]

    def _fill(self, size: int) -> None:
        parts = [self._data[self._at :].tobytes()]
        have, most = len(parts[0]), max(size, self._chunk)
        while not self._ended and (have < size or (have < most and (not self._live or self._more()))):
            block = self._read()
            self._ended = not block
            parts.append(block)
            have += len(block)
        self._data, self._at = np.frombuffer(b"".join(parts), dtype=np.uint8), 0

    def _more(self) -> bool:
        """Whether the next read returns at once."""
        return bool(getattr(self._stream, "more", lambda: True)())

    def _read(self) -> bytes:
        try:
            block = bytes(self._stream.read(self._block))
        except (OSError, EOFError, ValueError, zlib.error):  # a cut or damaged compressed stream ends where it breaks
            self.damaged = True
            return b""
        self._total += len(block)
        if self._consumed is not None and self._total > _BOMB_AFTER and self._total > _BOMB_RATIO * max(self._consumed(), 1):
            raise InputError(
                "input.bomb",
                f"expands more than {_BOMB_RATIO} times: refused after {self._total >> 20} MiB",
                input=self._name,
                hint="decompress it yourself if it is really a capture",
            )
        return block

    def skip(self, size: int) -> None:
        """See Window."""
        self._at += size

    def told(self) -> int:
        """See Window."""
        return int(self._consumed()) if self._consumed is not None else self._total - (self._data.shape[0] - self._at)

    def close(self) -> None:
        """See Window."""
        self._stream.close()


class _Gzip:
    """Members of a gzip file one after the other; a cut file gives what is whole, which pyarrow's reader would lose."""

    closed = False

    def __init__(self, raw: Any) -> None:
        self._raw, self._inflate, self._rest = raw, zlib.decompressobj(31), b""

    def read(self, size: int) -> bytes:
        while True:
            data = self._rest or self._raw.read(_SMALL)
            if not data:
                if not self._inflate.eof:
                    raise EOFError
                return b""
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(31)
            block = self._inflate.decompress(data, size)
            self._rest = self._inflate.unconsumed_tail or self._inflate.unused_data
            if self._inflate.eof and not self._rest.startswith(_CODECS[0][0]):
                self._rest = b"" if self._rest else self._rest  # padding behind the last member
            if block:
                return block

    def close(self) -> None:
        self._raw.close()


def _decompressed(raw: Any, codec: str, name: str, chunk: int) -> StreamWindow:
    if codec == "gzip":
        return StreamWindow(_Gzip(raw), name, chunk, consumed=raw.tell)
    import pyarrow as pa

    stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    return StreamWindow(stream, name, chunk, consumed=raw.tell, block=_SMALL)


class _Joined:
    """The bytes already read from a pipe, then the pipe; knows how far it has been read. Standard input stays open for the caller."""

    closed = False

    def __init__(self, head: bytes, rest: IO[bytes] | Any, *, live: bool) -> None:
        self._head, self._rest, self._told, self._read = head, rest, 0, getattr(rest, "read1", rest.read) if live else rest.read

    def more(self) -> bool:
        """Whether the next read returns at once."""
        try:
            return bool(self._head) or bool(select.select([self._rest], [], [], 0)[0])
        except (OSError, ValueError):  # no file that the kernel knows, as bytes in memory
            return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            size = len(self._head) if size < 0 else size
            block, self._head = self._head[:size], self._head[size:]
        else:
            block = self._read(size)
        self._told += len(block)
        return block

    def tell(self) -> int:
        return self._told

    def close(self) -> None:
        if self._rest is not sys.stdin.buffer:
            self._rest.close()


def codec_of(head: bytes) -> str:
    """The compression that the beginning of a file (`HEAD` bytes, four suffice without skippable frames) announces, "" for none."""
    at = _first_frame(head)
    return next((codec for magic, codec in _CODECS if head.startswith(magic, at)), "")


def _first_frame(head: bytes) -> int:
    """Where the first frame with content begins, behind skippable ones (RFC 8878 3.1.2; lz4 frames have them alike)."""
    at = 0
    while head[at + 1 : at + 4] == _SKIPPABLE and head[at] & 0xF0 == 0x50:
        at += 8 + int.from_bytes(head[at + 4 : at + 8], "little")
    return at


def _zstd_window(head: bytes) -> int:
    """Window size of the first zstd frame in bytes (RFC 8878 3.1.1.1), 0 where the header is cut."""
    at = _first_frame(head) + 4
    if len(head) < at + 10:
        return 0
    descriptor = head[at]
    if not descriptor & 0x20:
        base = 1 << (10 + (head[at + 1] >> 3))
        return base + base // 8 * (head[at + 1] & 7)
    at += 1 + (0, 1, 2, 4)[descriptor & 3]  # a single segment: the window is the content
    size = (1, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(head[at : at + size], "little") + (256 if size == 2 else 0)


def _check_window(head: bytes, codec: str, name: str) -> None:
    if codec == "zstd" and (size := _zstd_window(head)) > _LARGEST_WINDOW:
        command = f"zstd -dc --long={(size - 1).bit_length()}"
        raise InputError(
            "input.window",
            f"needs a zstd window of {size >> 20:,} MiB; up to {_LARGEST_WINDOW >> 20} MiB is read",
            input=name,
            where="the frame header",
            hint=f"`{command} {shlex.quote(name)} | trafficllm capture info -` reads it",
        )


def open_window(path: Path, chunk: int) -> Window:
    """A window on a file, "-" for standard input; raises InputError or ResourceError when there is nothing to read."""
    if str(path) == "-":
        return open_stream(sys.stdin.buffer, "-", chunk)
    try:
        if path.is_dir():
            raise InputError(
                "input.directory", "is a folder", input=str(path), hint="name its captures, or the folder itself to read all of them"
            )
        return _open_file(path, chunk) if path.is_file() else open_stream(path.open("rb"), str(path), chunk)
    except FileNotFoundError as error:
        raise InputError("input.missing", "no such file", input=str(path), hint="check the path") from error
    except PermissionError as error:
        raise ResourceError(
            "resource.permission", "no permission to read", input=str(path), hint="check the file's owner and mode"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOMEM:  # no fault of the file
            raise MemoryError from error
        raise InputError(
            "input.unreadable", f"cannot be read: {error.strerror or error}", input=str(path), hint="check the path"
        ) from error


def _open_file(path: Path, chunk: int) -> Window:
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    codec = codec_of(head)
    _check_window(head, codec, str(path))
    if not head:
        raise InputError("input.empty", "the file is empty", input=str(path), hint="capture again")
    source = SettledFile(path)
    return _decompressed(source, codec, str(path), chunk) if codec else FileWindow(source, chunk)


def open_stream(stream: IO[bytes], name: str, chunk: int) -> Window:
    """A window on a pipe, which can be opened and read only once."""
    head = stream.read(4)
    if head[1:] == _SKIPPABLE or head == _CODECS[1][0]:
        head += stream.read(HEAD)
    codec = codec_of(head)
    joined = _Joined(head, stream, live=not codec)
    _check_window(head, codec, name)
    return _decompressed(joined, codec, name, chunk) if codec else StreamWindow(joined, name, chunk, live=True)
