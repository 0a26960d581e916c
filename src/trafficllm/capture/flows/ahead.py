"""One thread ahead of another: what an iterator makes next is made while the last is used.

Kernels give the interpreter's lock away, so reading and decoding of the next frames runs beside the flow table of these. Order, and
so the result, is that of the plain loop; at most `depth` items wait.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

from trafficllm.core.machine import cores

Item = TypeVar("Item")

_PATIENCE = 0.1  # seconds between looks at whether the consumer has gone


def ahead(items: Iterator[Item], *, depth: int = 2) -> Iterator[Item]:
    """The same items, made up to `depth` in advance by a thread; an exception comes where the item would have come.

    With one core the loop stays plain.
    """
    if cores() < 2:
        yield from items
        return
    for item in ticking(items, depth=depth, tick=None):
        assert item is not None
        yield item


def ticking(items: Iterator[Item], *, depth: int = 2, tick: float | None) -> Iterator[Item | None]:
    """The same items, made by a thread on any number of cores; None whenever none has come for `tick` seconds."""
    waiting: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=depth)
    gone = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not gone.is_set():
            try:
                waiting.put((item, error), timeout=_PATIENCE)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if gone.is_set():
                    return
            put(None, None)
        except BaseException as error:  # noqa: BLE001 - the consumer's thread raises it
            put(None, error)

    thread = threading.Thread(target=work, name="capture-ahead", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = waiting.get(timeout=tick)
            except queue.Empty:
                yield None
                continue
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        gone.set()
        thread.join(1.0)  # a reader of standard input may wait for bytes that never come
