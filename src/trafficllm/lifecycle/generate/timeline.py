"""Flow plans on one timeline, compiled as they come: frames leave in order of time while later flows are still being written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trafficllm.capture.compile.plans import CompileCounts, batch_of, compile_flows
from trafficllm.capture.files.write import frames_of
from trafficllm.core.types import FlowPlan, FrameBatch

_BATCH = 64
"""Flows compiled between two batches of frames."""


def timeline(plans: Iterable[FlowPlan], n: int, *, seed: int, start: int, duration: int, counts: CompileCounts) -> Iterator[FrameBatch]:
    """Frames of `n` plans in batches, sorted by time over all of them.

    `start` ns since the epoch; flow i begins at a random time of the i-th of `n` equal parts of `duration` (ns), so that what
    comes later can only be later: memory holds the flows that are under way, not the capture. Same arguments, same frames.
    """
    slot = max(duration // max(n, 1), 0)
    waiting: list[tuple[int, bytes]] = []
    for index, plan in enumerate(plans, 1):
        begin = start + (index - 1) * duration // max(n, 1)
        batch = compile_flows([plan], seed=seed, start=begin, spread=slot, first=index - 1, counts=counts)
        waiting += [(ts, frame) for frame, ts, _, _ in frames_of(batch)]
        if index % _BATCH == 0:
            yield _joined([pair for pair in waiting if pair[0] < begin])
            waiting = [pair for pair in waiting if pair[0] >= begin]
    if waiting:
        yield _joined(waiting)


def _joined(pairs: list[tuple[int, bytes]]) -> FrameBatch:
    return batch_of([ts for ts, _ in pairs], [frame for _, frame in pairs])
