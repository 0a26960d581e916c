"""Write pcap and pcapng files from frame batches: streamed, whole or not at all, same frames give same bytes."""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from trafficllm.core.errors import InputError, ResourceError, UsageError
from trafficllm.core.files import replacing
from trafficllm.core.types import FrameBatch

CaptureFormat = Literal["pcap", "pcapng"]

SNAPLEN = 262_144
"""Snap length written to file and interface headers: the largest frame Wireshark accepts by default."""

_PCAP_HEADER = struct.Struct("<IHHiIII")
_PCAP_RECORD = struct.Struct("<IIII")
_NANO_MAGIC, _MICRO_MAGIC = 0xA1B23C4D, 0xA1B2C3D4
_SECTION, _INTERFACE, _ENHANCED = 0x0A0D0D0A, 1, 6
_OPT_COMMENT, _OPT_USERAPPL, _OPT_TSRESOL = 1, 4, 9


def write_capture(
    path: str | Path,
    batches: Iterable[FrameBatch],
    *,
    format: CaptureFormat = "pcap",  # noqa: A002 - the command line's word
    nanoseconds: bool = True,
    comment: str = "",
) -> int:
    """Write `batches` to `path` ("-" is standard output) and return the number of packets.

    `nanoseconds` keeps full times, otherwise they are cut to microseconds; `comment` goes into the pcapng section
    header (draft-ietf-opsawg-pcapng section 4.1), classic pcap has no place for it.
    Raises UsageError when pcap is asked to hold two link types or an unknown format is named, InputError for a time
    the format cannot hold, ResourceError on a full disk; the file then keeps its old content.

    >>> from trafficllm.capture.files.read import read_frames
    >>> write_capture("out.pcapng", read_frames(["x.pcap"]), format="pcapng", comment="cut by hand")
    2
    """
    if format not in {"pcap", "pcapng"}:
        raise UsageError("usage.format", f"no capture format is called {format!r}", input=str(path), hint="use pcap or pcapng")
    with _sink(path) as stream:
        if format == "pcap":
            return _write_pcap(stream, batches, nanoseconds, str(path))
        return _write_pcapng(stream, batches, nanoseconds, comment, str(path))


@contextlib.contextmanager
def _sink(path: str | Path) -> Iterator[BinaryIO]:
    """Standard output, or a temporary file beside the target that replaces it only when complete."""
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with replacing(path) as stream:
            yield stream
    except OSError as error:
        raise ResourceError(
            "resource.write",
            f"cannot write: {error.strerror or error}",
            input=str(path),
            hint="check the disk's free space and your permission; nothing was left half-written",
        ) from error


def _write_pcap(stream: BinaryIO, batches: Iterable[FrameBatch], nanoseconds: bool, name: str) -> int:
    unit = 1 if nanoseconds else 1000
    link = -1
    packets = 0
    for batch in batches:
        for frame, ts, original, linktype in frames_of(batch):
            if link != linktype:
                if link >= 0:
                    raise UsageError(
                        "usage.link_types",
                        f"pcap holds one link type, these frames have {link} and {linktype}",
                        input=name,
                        where=f"packet {packets + 1}",
                        hint="write pcapng instead",
                    )
                link = linktype
                stream.write(_pcap_header(nanoseconds, link))
            seconds, rest = divmod(ts, 1_000_000_000)
            if not 0 <= seconds < 1 << 32:
                raise _bad_time(ts, name, packets, "write pcapng instead: pcap holds 1970-2106")
            stream.write(_PCAP_RECORD.pack(seconds, rest // unit, len(frame), original))
            stream.write(frame)
            packets += 1
    if link < 0:
        stream.write(_pcap_header(nanoseconds, 1))
    return packets


def _bad_time(ts: int, name: str, packets: int, hint: str) -> InputError:
    return InputError("input.time", f"the format cannot hold the time {ts} ns", input=name, where=f"packet {packets + 1}", hint=hint)


def _pcap_header(nanoseconds: bool, link: int) -> bytes:
    return _PCAP_HEADER.pack(_NANO_MAGIC if nanoseconds else _MICRO_MAGIC, 2, 4, 0, 0, SNAPLEN, link)


def _write_pcapng(stream: BinaryIO, batches: Iterable[FrameBatch], nanoseconds: bool, comment: str, name: str) -> int:
    writer = PcapngWriter(stream, nanoseconds=nanoseconds, comment=comment, name=name)
    for batch in batches:
        for frame, ts, original, link in frames_of(batch):
            writer.add(frame, ts, original, link)
    writer.close()
    return writer.packets


class PcapngWriter:
    """One section of a pcapng file, packet by packet: the caller owns `stream`.

    An interface is announced just before the first packet of its link type (section 4.2 of the draft). `packets` counts what was written,
    `size` the bytes. `comment` stands in the section header, `name` in errors.
    """

    def __init__(self, stream: BinaryIO, *, nanoseconds: bool = True, comment: str = "", name: str = "") -> None:
        self._stream, self._nanoseconds, self._name = stream, nanoseconds, name
        self._interfaces: dict[int, int] = {}
        self.packets = self.size = 0
        options = [(_OPT_COMMENT, comment.encode())] if comment else []
        options.append((_OPT_USERAPPL, b"trafficllm"))
        self._put(_block(_SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options(options)))

    def _put(self, block: bytes) -> None:
        self._stream.write(block)
        self.size += len(block)

    def add(self, frame: bytes, ts: int, original: int, link: int = 1, *, comment: str = "") -> int:
        """Write a frame; returns its number as Wireshark shows it. `ts` ns, `original` bytes on the wire, `comment` the packet's own.

        Raises InputError for a time before 1970.
        """
        if link not in self._interfaces:
            self._interfaces[link] = len(self._interfaces)
            self._put(_interface(link, self._nanoseconds))
        ticks = ts if self._nanoseconds else ts // 1000
        if not 0 <= ticks < 1 << 64:
            raise _bad_time(ts, self._name, self.packets, "shift the capture's times to after 1970")
        head = struct.pack("<IIIII", self._interfaces[link], ticks >> 32, ticks & 0xFFFFFFFF, len(frame), original)
        options = _options([(_OPT_COMMENT, comment.encode())]) if comment else b""
        self._put(_block(_ENHANCED, head + frame + bytes(-len(frame) % 4) + options))
        self.packets += 1
        return self.packets

    def close(self) -> None:
        """A capture without packets has an interface all the same."""
        if not self._interfaces:
            self._put(_interface(1, self._nanoseconds))


def frames_of(batch: FrameBatch) -> Iterator[tuple[bytes, int, int, int]]:
    """Each frame's bytes, time (ns), length on the wire and link type."""
    view = batch.buffer.data
    columns = zip(batch.offset.tolist(), batch.caplen.tolist(), batch.ts.tolist(), batch.origlen.tolist(), batch.link.tolist(), strict=True)
    for offset, caplen, ts, original, link in columns:
        yield bytes(view[offset : offset + caplen]), ts, original, link


def _interface(link: int, nanoseconds: bool) -> bytes:
    body = struct.pack("<HHI", link, 0, SNAPLEN) + _options([(_OPT_TSRESOL, bytes([9 if nanoseconds else 6]))])
    return _block(_INTERFACE, body)


def _options(options: list[tuple[int, bytes]]) -> bytes:
    """Option list with its end mark; a value longer than 65535 bytes is cut to fit its length field."""
    parts = [struct.pack("<HH", code, len(value[:65535])) + value[:65535] + bytes(-len(value[:65535]) % 4) for code, value in options]
    return b"".join(parts) + bytes(4)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)
