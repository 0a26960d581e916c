"""Flow plans on one timeline, compiled as they come: frames leave in order of time while later flows are still being written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from trafficllm.capture.compile import CompileCounts, compile_flows
from trafficllm.core.types import FlowPlan, FrameBatch

_BATCH = 64
"""Flows compiled between two batches of frames."""


def timeline(
    plans: Iterable[FlowPlan], n: int, *, seed: int, start: int, duration: int, counts: CompileCounts
) -> Iterator[FrameBatch]:
    """Frames of `n` plans in batches, sorted by time over all of them.

    `start` ns since the epoch; flow i begins at a random time of the i-th of `n` equal parts of `duration` (ns), so that what
    comes later can only be later: memory holds the flows that are under way, not the capture. Same arguments, same frames.
    """
    slot = max(duration // max(n, 1), 0)
    waiting: list[FrameBatch] = []
    for index, plan in enumerate(plans):
        begin = start + index * duration // max(n, 1)
        waiting.append(compile_flows([plan], seed=seed, start=begin, spread=slot, first=index, counts=counts))
        if len(waiting) >= _BATCH:
            ready, rest = _cut(waiting, begin)
            waiting = [rest]
            yield ready
    if waiting:
        yield _cut(waiting, None)[0]


def _cut(batches: list[FrameBatch], before: int | None) -> tuple[FrameBatch, FrameBatch]:
    """Frames earlier than `before` (all where it is None) in order of time, and the others."""
    sizes = np.concatenate([batch.caplen for batch in batches]).astype(np.int64)
    ts = np.concatenate([batch.ts for batch in batches])
    joined = b"".join(batch.buffer.tobytes() for batch in batches)
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    order = np.argsort(ts, kind="stable")
    split = len(order) if before is None else int(np.searchsorted(ts[order], before))
    return _pick(joined, offset, sizes, ts, order[:split]), _pick(joined, offset, sizes, ts, order[split:])


def _pick(
    joined: bytes,
    offset: np.ndarray[tuple[int], np.dtype[np.int64]],
    sizes: np.ndarray[tuple[int], np.dtype[np.int64]],
    ts: np.ndarray[tuple[int], np.dtype[np.int64]],
    rows: np.ndarray[tuple[int], np.dtype[np.intp]],
) -> FrameBatch:
    n = len(rows)
    parts = [joined[int(offset[k]) : int(offset[k] + sizes[k])] for k in rows]
    kept = sizes[rows]
    return FrameBatch(
        buffer=np.frombuffer(b"".join(parts), dtype=np.uint8),
        offset=np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[:n].astype(np.int64),
        caplen=kept.astype(np.uint32),
        origlen=kept.astype(np.uint32),
        ts=ts[rows],
        link=np.ones(n, dtype=np.uint16),
        source=np.zeros(n, dtype=np.uint32),
        number=np.arange(1, n + 1, dtype=np.int64),
        files=("compiled",),
    )
