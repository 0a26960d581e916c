"""How many threads torch takes: chosen by pace for work in steps, one where the bytes of the result would depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trafficllm.core.machine import Pace, stated_threads, thread_counts

MOST = 16
"""Threads up to which each doubling is tried; beyond, only as many as torch would take."""
LARGE = 200_000_000
"""Weights from which nothing is tried: a step of such a model on one thread takes minutes, and its products are large enough to share."""


def use(threads: int) -> None:
    """Have this thread's products take so many."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@contextmanager
def paced(model: torch.nn.Module) -> Iterator[Pace]:
    """A pace for steps of a model: of a small one on a CPU the threads are chosen, else they stay. The number is as before afterwards.

    60 steps of the embedded base gave the same adapter, byte for byte, with one thread and two: a run's result need not depend on what else
    the machine does. The engine is not paced: its products by oneDNN differ (3e-5 in a probability).
    """
    before = torch.get_num_threads()
    weights = list(model.parameters())
    small = all(each.device.type == "cpu" for each in weights) and sum(each.numel() for each in weights) < LARGE
    counts = (*thread_counts(min(MOST, before)), *(() if stated_threads() else (before,))) if small else (before,)
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
