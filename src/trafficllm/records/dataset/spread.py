"""Work spread over the cores, results in the order asked for: the same data set whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeAlias

from trafficllm.core.errors import ResourceError

Each: TypeAlias = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]], Sequence[int]], Iterator[Any]]
"""Calls a function with each of many argument rows and gives the results in their order; heavy rows start first."""


def can_fork() -> bool:
    """Whether worker processes may be started as copies of this one: on Linux, from its main thread.

    Elsewhere a worker would import everything anew, two seconds each, and run the caller's script again: work then
    stays in this process.
    """
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread()


@contextmanager
def spread(workers: int, shared: tuple[Any, ...]) -> Iterator[Each]:
    """A way to call `work(*shared, *row)` many times over `workers` processes; 1 or fewer: in this one.

    `shared` is inherited, not sent: pickling 261 paths with each of 261 files took longer than reading them.
    """
    if workers <= 1 or not can_fork():
        yield lambda work, rows, _: (work(*shared, *row) for row in rows)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"), initializer=_adopt, initargs=(shared,))
    try:
        yield lambda work, rows, weights: _ordered(pool, work, rows, weights)
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():  # what they are at may take minutes: a large file, the first compilation
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


Stream: TypeAlias = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with argument rows as they come and gives the results in their order; a few rows are taken ahead."""


@contextmanager
def streaming(workers: int, shared: tuple[Any, ...]) -> Iterator[Stream]:
    """As `spread`, for rows that the caller makes meanwhile. The processes start here, before the caller starts threads of its own."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"), initializer=_adopt, initargs=(shared,))
    try:
        with _uninterrupted():
            pool.submit(int).result()
        yield lambda work, rows: _streamed(pool, 2 * workers, work, rows)
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _streamed(pool: ProcessPoolExecutor, ahead: int, work: Callable[..., Any], rows: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    try:
        for row in rows:
            waiting.append(pool.submit(_call, work, row))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise _ended() from error


def _ended() -> ResourceError:
    hint = "too little memory? try again on fewer cores (`taskset -c 0`)"
    return ResourceError("resource.worker", "a worker process was ended from outside", hint=hint)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGINT waits until the block's end: between the forks of a pool it would leave workers that nobody ends.

    The handler is replaced, not the signal blocked: a mask holds for one thread, and the kernel gives the signal to any other one.
    """
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard and callable(before):
        before(signal.SIGINT, None)


_INHERITED: list[tuple[Any, ...]] = []


def _adopt(shared: tuple[Any, ...]) -> None:
    """What a worker begins with: the shared values, and deaf to SIGINT, for stopping is for its parent to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _INHERITED[:] = [shared]


def _call(work: Callable[..., Any], row: tuple[Any, ...]) -> Any:
    return work(*_INHERITED[0], *row)


def _ordered(pool: ProcessPoolExecutor, work: Callable[..., Any], rows: Sequence[tuple[Any, ...]], weights: Sequence[int]) -> Iterator[Any]:
    waiting: dict[int, Future[Any]] = {}
    with _uninterrupted():
        for k in sorted(range(len(rows)), key=lambda k: -weights[k]):
            waiting[k] = pool.submit(_call, work, rows[k])
    try:
        for k in range(len(rows)):
            yield waiting.pop(k).result()
    except BrokenProcessPool as error:
        hint = "too little memory? try again with --workers 1"
        raise ResourceError("resource.worker", "a worker process was ended from outside", hint=hint) from error
