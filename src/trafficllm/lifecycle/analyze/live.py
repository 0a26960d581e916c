"""Verdicts on the flows of a network interface, while it is captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trafficllm.core.types import Silent
from trafficllm.lifecycle.analyze.verdicts import choose, flow_options, start

if TYPE_CHECKING:
    from trafficllm.capture.live.process import Capturing
    from trafficllm.capture.live.stream import LiveFlows
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.workspace import Workspace


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """Where a capture stands: packets read, packets the kernel dropped (None: not told yet), flows by what became of them; once it has
    ended, packets that the kernel still held then and nobody fetched (`unfetched`)."""

    packets: int
    dropped: int | None
    judged: int
    waiting: int
    left_out: int
    evicted: int
    unfetched: int = 0

    def in_words(self) -> str:
        """One line.

        >>> LiveCounts(1200, 0, 30, 2, 0, 0).in_words()
        '1,200 packets, 0 dropped by the kernel; 30 flows judged, 2 waiting'
        """
        dropped = "drops told at the end" if self.dropped is None else f"{self.dropped:,} dropped by the kernel"
        dropped += f", {self.unfetched:,} not fetched from it before the end" if self.unfetched else ""
        more = f", {self.left_out:,} left out because too many waited" if self.left_out else ""
        more += f", {self.evicted:,} cut short because the table was full" if self.evicted else ""
        return f"{self.packets:,} packets, {dropped}; {self.judged:,} flows judged, {self.waiting:,} waiting{more}"


@dataclass(frozen=True, slots=True)
class Live:
    """A running capture with its verdicts on their way: taking `analysis.batches` judges, and ends with the capture."""

    analysis: Analysis
    flows: LiveFlows
    capturing: Capturing

    def counts(self) -> LiveCounts:
        """Where it stands."""
        counts, tally, capturing = self.flows.counts, self.flows.tally, self.capturing
        ended = capturing.received is not None and capturing.over
        unfetched = max(0, (capturing.received or 0) - (capturing.dropped or 0) - counts.packets) if ended else 0
        return LiveCounts(counts.packets, capturing.dropped, tally.given, tally.waiting, tally.left_out, counts.evicted, unfetched)

    def silences(self) -> list[str]:
        """A line for every link type that was not read and every common reason for frames without a flow."""
        from trafficllm.capture.flows.counts import notices

        return notices(self.flows.counts.build())


def watch(
    workspace: Workspace, capturing: Capturing, *, task: str = "", question: str = "", explain: bool = False, backlog: int = 0
) -> Live:
    """Judge the flows of a running capture by the task that is named or asked for.

    What can be wrong is checked first; packets are read from then on, also while the model is loaded. `backlog` bounds the flows that
    wait (0: as `capture.live.stream` has it). Errors: see `choose` and `flow_options`.
    """
    from trafficllm.capture.kernels.warm import compile_kernels
    from trafficllm.capture.live.stream import BACKLOG, LiveFlows

    choice = choose(workspace, task, question)
    options = flow_options(workspace, choice[0])
    compile_kernels(Silent())
    flows = LiveFlows(capturing.stdout, capturing.source.interface, options, backlog=backlog or BACKLOG)
    analysis = start(workspace, [], question=question, explain=explain, choice=choice, flows=flows.batches(), lean=True)
    return Live(analysis, flows, capturing)
