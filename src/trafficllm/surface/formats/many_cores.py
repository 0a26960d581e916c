"""Rows of `capture flows` written by all cores: this process reads captures and assembles flows, others make rows and text of them.

Flows are assembled in one place, since a flow may begin in one file and end in the next; of the time that a row takes, assembling is a
seventh. The pieces are written in their order, so the output is that of one process, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from trafficllm.core.errors import InputError
from trafficllm.core.machine import cores
from trafficllm.core.types import FlowBatch

if TYPE_CHECKING:
    from trafficllm.core.settings import Config
    from trafficllm.lifecycle.analyze.captures import FlowReading

WORTH = 4 << 20
"""Bytes of input from which other processes are started: below that, starting them costs more than it saves."""


@runtime_checkable
class Encoder(Protocol):
    """A writer whose bytes for some rows can be made elsewhere."""

    def encoded(self, rows: Sequence[Any]) -> bytes: ...
    def append(self, encoded: bytes) -> None: ...


def pays(files: Sequence[str], reading: FlowReading) -> bool:
    """Whether other processes are worth starting: more than one core, files of some size, and no labels, which are counted in order."""
    from trafficllm.records.dataset.spread import can_fork

    if cores() < 2 or not can_fork() or reading.labels is not None:
        return False
    sizes = [_bytes(file) for file in files]
    return None not in sizes and sum(size or 0 for size in sizes) >= WORTH


def _bytes(file: str) -> int | None:
    """Bytes that an input names; None for a stream, whose flows are written as they end, 0 for what the reader will refuse."""
    from trafficllm.capture.files.read import total_bytes

    try:
        return total_bytes([file])
    except InputError:
        return 0


def write_rows(
    writer: Encoder, files: Sequence[str], config: Config, reading: FlowReading, rows_of: Callable[..., Iterator[Any]], *, workers: int = 0
) -> None:
    """Write a row a flow; `rows_of` makes rows of a batch, as `capture.flows.rows.flow_rows` does. `workers` 0: one a core."""
    from trafficllm.lifecycle.analyze.captures import flow_batches
    from trafficllm.records.dataset.spread import streaming

    with streaming(workers or cores(), (writer, rows_of)) as each:
        for encoded in each(_encoded, _pieces(flow_batches(files, config, reading))):
            writer.append(encoded)


def _pieces(batches: Iterator[FlowBatch]) -> Iterator[tuple[FlowBatch, int]]:
    """Some thousand flows of a batch, and the running number of the first."""
    from trafficllm.capture.flows.rows import without_contents
    from trafficllm.lifecycle.analyze.captures import ROWS

    number = 0
    for batch in batches:
        for start in range(0, len(batch), ROWS):
            yield without_contents(batch, start, min(start + ROWS, len(batch))), number + start
        number += len(batch)


def _encoded(writer: Encoder, rows_of: Callable[..., Iterator[Any]], batch: FlowBatch, number: int) -> bytes:
    return writer.encoded(list(rows_of(batch, number=number)))
