"""Counts of a scenario as it is written: by class flows, packets and when, in bins that do not grow with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from trafficllm.lifecycle.generate.scenario.traffic import Flow

BINS = 160
"""Columns of the timeline."""


@dataclass(slots=True)
class Lane:
    """What was written of one class: `bins` count flows by the part of the time span they began in."""

    flows: int = 0
    packets: int = 0
    first: int | None = None
    last: int = 0
    senders: set[str] = field(default_factory=set)
    receivers: set[str] = field(default_factory=set)
    bins: Counter[int] = field(default_factory=Counter)


class Tally:
    """Lanes by class number; `start` and `span` in ns are what the bins part."""

    def __init__(self, kinds: int, *, start: int, span: int) -> None:
        self.lanes = [Lane() for _ in range(kinds)]
        self.start, self.span = start, max(span, 1)

    def begun(self, kind: int, flow: Flow) -> None:
        """A flow's first packet was written."""
        lane = self.lanes[kind]
        lane.flows += 1
        lane.first = flow.begin if lane.first is None else lane.first
        lane.senders.add(flow.sender)
        lane.receivers.add(flow.receiver)
        lane.bins[min((flow.begin - self.start) * BINS // self.span, BINS - 1)] += 1

    def packet(self, kind: int, ts: int) -> None:
        """A packet was written."""
        lane = self.lanes[kind]
        lane.packets += 1
        lane.last = max(lane.last, ts)
