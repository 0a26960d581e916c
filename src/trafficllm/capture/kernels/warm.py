"""The first call where the shipped code does not fit: the kernels compile in two processes side by side, into numba's cache on disk.

Half of the time goes into `assign`; a second process compiles the others meanwhile. Both call them with no rows at all: only
the types matter. With one core, or no cache to share, everything compiles where it is called.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from trafficllm.capture.flows.community import community_ids
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.flow_table import FlowTable
from trafficllm.capture.flows.packets import PACKET, PacketBatch
from trafficllm.capture.kernels.canonical.keys import write_keys
from trafficllm.capture.kernels.compiling import is_cached, is_compiled
from trafficllm.capture.kernels.decode import decode_frames
from trafficllm.capture.kernels.flow import assign, evict, expire
from trafficllm.capture.kernels.gather import gather, summarize
from trafficllm.capture.kernels.layout import HISTORY, STORED, SUMMARY
from trafficllm.capture.kernels.read import walk_blocks, walk_records
from trafficllm.capture.kernels.sha1 import name_flows
from trafficllm.core.machine import cores
from trafficllm.core.types import FrameBatch, ProgressSink

KERNELS: tuple[Any, ...] = (assign, evict, expire, decode_frames, walk_records, walk_blocks, summarize, gather, name_flows, write_keys)
"""All entry points."""
_LIMIT = 60.0  # seconds the second process may take before this one does its work too


def _frames() -> FrameBatch:
    size, number = np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.int64)
    data = np.frombuffer(b"", dtype=np.uint8)  # read-only, as everything that was read: another type to numba than a writable array
    return FrameBatch(data, number, size, size, number, np.zeros(0, dtype=np.uint16), size, number, ())


def _table() -> FlowTable:
    return FlowTable(np.zeros(10, dtype=np.int64), table_size=16)


def compile_table() -> None:
    """Compile the kernels of the flow table, and the one that names flows."""
    table = _table()
    table.add(PacketBatch(frames=_frames(), rows=np.zeros(0, dtype=PACKET)), 0, 0)
    table.expire(0)
    table.close()
    community_ids(np.zeros(0, dtype=SUMMARY))


def compile_others() -> None:
    """Compile the kernels that read, decode and gather."""
    frames = _frames()
    decode(frames)
    columns = (frames.offset, frames.caplen, frames.origlen, frames.ts)
    walk_records(frames.buffer, False, 1000, 0, 1, *columns)
    walk_blocks(frames.buffer, False, 1, np.zeros((0, 6), dtype=np.int64), *columns, frames.link)
    order, arrays = frames.offset, _table().arrays
    summarize(arrays, order, np.zeros(0, dtype=SUMMARY), np.zeros((0, HISTORY), dtype=np.uint8))
    edges, data = np.zeros((0, 3), dtype=np.int64), np.zeros(0, dtype=np.uint8)
    gather(arrays, order, order, np.zeros(0, dtype=STORED), edges, data, edges, data)
    write_keys(edges, edges, frames.buffer, frames.buffer, edges, data, data, np.full(1, -1, dtype=np.int64), 0)


def compile_kernels(sink: ProgressSink) -> None:
    """Compile what this machine has not compiled yet, and say so: it takes seconds, once."""
    if all(is_compiled(kernel) for kernel in KERNELS):
        return
    sink.update("compile", 0, None)
    if sys.stderr.isatty():
        sys.stderr.write("compiling the packet kernels for this machine, once: some seconds\n")
    if not is_cached(assign) or cores() < 2 or not sys.executable:
        return
    command = [sys.executable, "-P", "-m", "trafficllm.capture.kernels.warm"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as other:  # noqa: S603 - this interpreter, this module
        compile_table()
        try:
            other.wait(_LIMIT)
        except subprocess.TimeoutExpired:
            other.kill()


if __name__ == "__main__":
    compile_others()
