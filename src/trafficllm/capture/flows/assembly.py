"""Packets to bidirectional flows with Zeek's semantics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trafficllm.capture.files.decompress import HEAD, codec_of
from trafficllm.capture.files.read import CHUNK, Skipped, expand, read_frames, total_bytes
from trafficllm.capture.flows.ahead import ahead
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.flow_table import FlowTable
from trafficllm.capture.flows.fragments import Decoding, Reassembler, segments
from trafficllm.capture.flows.packets import PacketBatch
from trafficllm.capture.kernels.warm import compile_kernels
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch, FrameBatch, ProgressSink, Silent

_SECOND = 1_000_000_000
_MANY = 1 << 40
_AGAIN = _SECOND
"""A file that begins so long before the ones already read have ended is no sequel: its flows begin anew."""
_LEAST_FRAME = 12
"""Bytes of the smallest block of a capture: a pcapng block without a body; a pcap record has 16."""
_WORTH_A_THREAD = 1 << 18
"""Frames (3 MB) below which a thread costs more than it saves."""


def _params(options: FlowOptions) -> npt.NDArray[np.int64]:
    times = (options.tcp_timeout, options.udp_timeout, options.icmp_timeout, options.active_timeout)
    rest = (options.max_packets, options.max_payload, options.flip, 0, options.checksums, options.hello_bytes)
    return np.array([int(value * _SECOND) for value in times] + [int(value) for value in rest], dtype=np.int64)


class Assembly:
    """Flows being put together from the packets of a stream of frames: feed it with `add`, take what has finished with `drain`.

    Flows go on from one file to the next where its time goes on (a ring of files); a file from an earlier time starts anew,
    else its flows would be timed out by a clock that is ahead of them.
    """

    def __init__(self, options: FlowOptions, counts: CountsBuilder, *, most: int = _MANY) -> None:
        """`most` bounds the packets that can come, where that is known."""
        self._counts = counts
        self._table = FlowTable(_params(options), table_size=options.table_size, most=most)
        self._fragments = Reassembler()
        self._files: tuple[str, ...] = ()
        self._last, self._latest = 0, 0
        self.how = Decoding(options.checksums, options.tunnels, options.vxlan_ports)

    @property
    def finished(self) -> int:
        """Flows that the next `drain` hands out."""
        return self._table.finished

    def add(self, packets: PacketBatch) -> Iterator[FlowBatch]:
        """Take packets; yields flows only where there are many, or the table has no room for more."""
        table = self._table
        self._files = packets.frames.files
        if len(packets.frames):
            source, first = int(packets.frames.source[0]), int(packets.frames.ts[0])
            if source != self._last and first < self._latest - _AGAIN:
                table.close()
                yield self.drain()
                self._latest = 0
            self._last, self._latest = source, max(self._latest, int(packets.frames.ts.max()))
        self._counts.decoded(packets)
        for part, start, stop in segments(packets, self._fragments, self._counts, self.how):
            at = start
            while at < stop:
                at = table.add(part, at, stop)
                if at < stop or table.ready():
                    yield self.drain()
        self._counts.evicted = table.evicted

    def expire(self, now: int) -> None:
        """Finish the flows that have timed out by `now` (ns), though no packet has come to say so."""
        self._table.expire(now)

    def drain(self) -> FlowBatch:
        """All finished flows, sorted by first packet."""
        return self._table.drain(self._files, self._counts)

    def close(self) -> FlowBatch:
        """End of the capture: the flows that are left."""
        self._table.close()
        return self.drain()


def assemble(
    frames: Iterator[FrameBatch], *, options: FlowOptions, counts: CountsBuilder, most: int = _MANY, live: bool = False
) -> Iterator[FlowBatch]:
    """Flows of a stream of frames, at most `most` of them; see `read_flows`. `live`: what has finished with a batch of frames is handed out
    before the next one, which may be long in coming."""
    assembly = Assembly(options, counts, most=most)
    decoded = (assembly.how.of(batch) for batch in frames)
    for packets in ahead(decoded) if most > _WORTH_A_THREAD else decoded:
        yield from assembly.add(packets)
        if live and assembly.finished:
            yield assembly.drain()
    if len(rest := assembly.close()):
        yield rest


def read_flows(
    paths: Sequence[str | Path],
    *,
    options: FlowOptions | None = None,
    counts: CountsBuilder | None = None,
    progress: ProgressSink | None = None,
    skipped: Skipped | None = None,
) -> Iterator[FlowBatch]:
    """Flows of all captures as one stream, in batches; each batch is sorted by first packet.

    Flows are handed out when 32,768 have finished, or fewer that keep 262,144 packets, and at the end: a smaller capture is one
    batch. Of a stream (a pipe, standard input) they are handed out as they finish, whenever it has to wait for more.
    Reading and decoding run ahead in a second thread where there is a second core; the result is the same. Memory is
    bounded by `options`. Raises InputError or ResourceError for files that cannot be read, never for what is in them; with
    `skipped` such files among several are left out.
    """
    options = options if options is not None else FlowOptions()
    counts = counts if counts is not None else CountsBuilder()
    sink = progress if progress is not None else Silent()

    if skipped is not None:
        paths = expand(paths, skipped)
    compile_kernels(sink)
    total = None if progress is None else total_bytes(paths)

    def reported() -> Iterator[FrameBatch]:
        for batch in read_frames(paths, chunk_bytes=CHUNK, counts=counts, skipped=skipped):
            sink.update("read", counts.read, total)  # bytes
            yield batch
        sink.update("read", counts.read, total)

    live = any(not Path(path).is_file() and not Path(path).is_dir() for path in paths)
    yield from assemble(reported(), options=options, counts=counts, most=_frames_at_most(paths), live=live)
    if skipped is not None:
        skipped.counts = counts.build()


def _frames_at_most(paths: Sequence[str | Path]) -> int:
    """A bound from the sizes of plain files; no bound for compressed ones, folders and streams."""
    size = 0
    for path in map(Path, paths):
        if not path.is_file():
            return _MANY
        try:
            with path.open("rb") as stream:
                if codec_of(stream.read(HEAD)):
                    return _MANY
            size += path.stat().st_size
        except OSError:  # the reader will say it better
            return _MANY
    return size // _LEAST_FRAME + 1
