"""How many threads torch takes: chosen by pace for work in steps, one where the bytes of the result would depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trafficllm.core.machine import Pace, thread_counts

MOST = 16
"""Threads at most that are tried: beyond, the products of small models are not large enough to share."""


def use(threads: int) -> None:
    """Have this thread's products take so many."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@contextmanager
def paced(device: str) -> Iterator[Pace]:
    """A pace for steps on a device, of which only a CPU has threads to choose; the number is as before afterwards.

    60 steps of the embedded base gave the same adapter, byte for byte, with one thread and two: a run's result need not depend on what else
    the machine does. The engine is not paced: its products by oneDNN differ (3e-5 in a probability).
    """
    before = torch.get_num_threads()
    counts = thread_counts(min(MOST, before)) if device == "cpu" else (before,)
    try:
        yield Pace(counts, use=use)
    finally:
        use(before)


@contextmanager
def single() -> Iterator[None]:
    """One thread: sums over many rows are added up in another order by more, and the result would depend on the machine's load."""
    before = torch.get_num_threads()
    use(1)
    try:
        yield
    finally:
        use(before)
