"""Flows of a running capture: packets are read and put together by two threads, so that they never wait for whoever judges the flows."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from trafficllm.capture.files.read import read_stream
from trafficllm.capture.flows.ahead import ticking
from trafficllm.capture.flows.assembly import Assembly
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch

TOGETHER = 256
"""Finished flows that are handed out although nobody waits for any: as many as are judged at once."""
BACKLOG = 20_000
"""Finished flows that may wait to be judged (about 50 MB)."""
LATE = 5.0
"""Seconds that packets may be under way from the kernel to us: a flow is timed out by the machine's clock so much later."""
_TICK = 0.25


@dataclass(slots=True)
class Tally:
    """Flows of a running capture: done with, waiting or in hand, and left out because too many waited."""

    given: int = 0
    waiting: int = 0
    left_out: int = 0


class LiveFlows:
    """Flows of a capture that another process writes, in the order in which they finish.

    The pipe is emptied whether or not anybody takes the flows: where `backlog` of them wait, further ones are counted and left out,
    whole, so that packets are not lost from the midst of others. Once the pipe has ended nothing is left out any more.
    Flows that stay silent time out by this machine's clock.
    """

    def __init__(self, stream: IO[bytes], name: str, options: FlowOptions, *, backlog: int = BACKLOG) -> None:
        """Start to read; `name` stands for the capture's file. It must be pcap or pcapng, and its clock this machine's."""
        self.counts = CountsBuilder()
        self.tally = Tally()
        self._backlog = backlog
        self._held: queue.Queue[FlowBatch | BaseException | None] = queue.Queue()
        self._idle = threading.Event()
        self._lock = threading.Lock()
        self._assembly = Assembly(options, self.counts)
        self._frames = (self._assembly.how.of(batch) for batch in read_stream(stream, name, self.counts))
        self._thread = threading.Thread(target=self._work, name="live-flows", daemon=True)
        self._thread.start()

    def batches(self) -> Iterator[FlowBatch]:
        """What has finished, as soon as somebody asks; ends with the capture. Raises what reading it raises."""
        while True:
            self._idle.set()
            item = self._held.get()
            self._idle.clear()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            with self._lock:  # whoever took them has come back for more
                self.tally.waiting -= len(item)
                self.tally.given += len(item)

    def _work(self) -> None:
        try:
            for packets in ticking(self._frames, tick=_TICK):
                if packets is None:
                    self._assembly.expire(time.time_ns() - round(LATE * 1e9))
                else:
                    for batch in self._assembly.add(packets):
                        self._put(batch)
                finished = self._assembly.finished
                if finished >= TOGETHER or (finished and self._idle.is_set() and self._held.empty()):
                    self._put(self._assembly.drain())
            self._put(self._assembly.close(), last=True)
            self._held.put(None)
        except BaseException as error:  # noqa: BLE001 - whoever takes the flows raises it
            self._held.put(error)

    def _put(self, batch: FlowBatch, *, last: bool = False) -> None:
        with self._lock:
            if not last and self.tally.waiting >= self._backlog:
                self.tally.left_out += len(batch)
                return
            self.tally.waiting += len(batch)
        if len(batch):
            self._held.put(batch)
