"""Who is inside, and the one thread that the model works in.

A capture is judged a batch at a time, each batch a turn of its own: long captures and slow readers hold nobody up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from trafficllm.surface.server.metrics import Metrics
from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.settings import Settings

T = TypeVar("T")


class Jobs:
    """Admission, turns and deadlines of one server."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.inside = 0
        self._usual = 1.0  # seconds a request has taken lately
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")

    @contextmanager
    def admitted(self, *, promised: bool = False) -> Iterator[float]:
        """A place inside, with its deadline (monotonic seconds).

        RefusedError (429) where all are taken and none was `promised` at the door.
        """
        if self.inside >= self.settings.queue and not promised:
            wait = min(60, max(1, round(self._usual * self.inside)))
            raise RefusedError(429, "request.queue_full", "too many requests are inside", hint="try again later", retry=wait)
        began = time.monotonic()
        self.inside += 1
        self.metrics.inside.set(self.inside)
        try:
            yield began + self.settings.deadline
        finally:
            self.inside -= 1
            self.metrics.inside.set(self.inside)
            self._usual += 0.2 * (time.monotonic() - began - self._usual)

    async def turn(self, until: float, function: Callable[[], T]) -> T:
        """Run one piece of model work when its turn comes; RefusedError (504) past the deadline."""
        return await self.within(until, asyncio.get_running_loop().run_in_executor(self._worker, function))

    async def within(self, until: float, work: Awaitable[T]) -> T:
        """Await something until the deadline."""
        try:
            async with asyncio.timeout_at(until):
                return await work
        except TimeoutError:
            raise late() from None

    def close(self) -> None:
        """End the thread once its turn is over."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def late() -> RefusedError:
    """The deadline has passed."""
    return RefusedError(504, "request.deadline", "this took longer than a request may take", hint="smaller parts, or --deadline")


class Deadline:
    """A ProgressSink that stops work nobody waits for any more."""

    def __init__(self, until: float) -> None:
        self.until = until

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Raise when it is too late."""
        if time.monotonic() > self.until:
            raise late()
