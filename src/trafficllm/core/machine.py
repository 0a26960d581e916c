"""What this machine gives this process: cores it may run on, cores that nobody else uses, and the threads that a kind of work takes."""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_CHUNK = bytes(1 << 16)
_WINDOW = 0.03
_KEPT = 30.0
"""Seconds for which a probe of the machine stands."""
_ROUNDING = 0.3
_probed: tuple[float, int] | None = None


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stated_threads() -> int | None:
    """Threads that OMP_NUM_THREADS states; None where it states none: then they are chosen."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() and int(setting) else None


def free_cores() -> int:
    """Cores that threads which wait for each other may count on, between 1 and `cores`; a probe of .2 s at most that stands for 30 s.

    As many threads as cores hash for a moment, then one alone. Together they do as much more as there are cores without other work; half a
    core is none, for the thread on it would keep the others waiting.
    """
    global _probed  # noqa: PLW0603 - one machine, one answer
    now = time.monotonic()
    if _probed is None or now - _probed[0] > _KEPT:
        _probed = now, _probe(cores())
    return _probed[1]


def work_threads(most: int = 1 << 10) -> int:
    """Threads for work that waits for all of them: those stated, else one for each free core, `most` at most."""
    return max(1, min(most, stated_threads() or free_cores()))


def _probe(count: int) -> int:
    if count < 2:
        return 1
    shares = [_hashed(count) / max(_hashed(1), 1) for _ in range(3)]
    return max(1, min(count, int(statistics.median(shares) + _ROUNDING)))


def _hashed(count: int) -> int:
    """Chunks that so many threads hash together in a moment; hashing gives the interpreter's lock away."""
    until = time.perf_counter() + _WINDOW
    done = [0] * count

    def work(place: int) -> None:
        while not done[place] or time.perf_counter() < until:
            hashlib.sha256(_CHUNK)
            done[place] += 1

    helpers = [threading.Thread(target=work, args=(place,)) for place in range(1, count)]
    for helper in helpers:
        helper.start()
    work(0)
    for helper in helpers:
        helper.join()
    return sum(done)


class Pace:
    """Chooses the threads of work that comes in steps, by the pace of the steps themselves.

    A few steps run with each number of threads in turn; then the smallest number stays whose pace is within a tenth of the best. Where the
    pace later falls or rises by half (another program came or went), and now and then in any case, it is looked at again.

    >>> pace = Pace((1, 2), use=lambda threads: None, each=2)
    >>> for _ in range(5):
    ...     with pace.step(100):
    ...         pass
    """

    AGAIN = 2000
    """Steps after which it is looked at again although the pace is the same."""

    def __init__(
        self, counts: Sequence[int], *, use: Callable[[int], None], each: int = 4, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`counts` are the numbers of threads to choose among, `use` makes one of them take effect; of one number nothing is measured."""
        self.counts = tuple(sorted(set(counts)))
        self.threads = self.counts[0]
        self.trials = 0
        self._use, self._each, self._clock = use, each, clock
        self._paces: dict[int, list[float]] = {}
        self._latest: list[float] = []
        self._reference, self._steps, self._pause = 0.0, 0, 0
        self._begin()

    @contextmanager
    def step(self, units: float) -> Iterator[None]:
        """One step, of so many units of work."""
        if len(self.counts) < 2:
            yield
            return
        self._use(self.threads)
        start = self._clock()
        yield
        self._note(units / max(self._clock() - start, 1e-9))

    def _begin(self) -> None:
        self._paces = {count: [] for count in self.counts}
        self._latest.clear()
        self._steps = 0
        self.threads = self.counts[0]
        self.trials += 1

    def _note(self, pace: float) -> None:
        self._steps += 1
        if self._paces:
            self._try(pace)
            return
        self._latest = [*self._latest[1 - 2 * self._each :], pace]
        if self._steps < self._pause or len(self._latest) < 2 * self._each:
            return
        now = statistics.median(self._latest)
        if not 0.67 < now / self._reference < 1.5 or self._steps >= self.AGAIN:
            self._begin()

    def _try(self, pace: float) -> None:
        """A step of a trial: the counts take turns, so that what other programs do meanwhile meets all of them alike."""
        if self._steps > 1:  # the first step pays for what is made once
            hopeless = pace < max((statistics.median(each) for each in self._paces.values() if each), default=0.0) / 3
            self._paces[self.threads] += [pace] * (self._each if hopeless else 1)  # beside other programs such a step may take minutes
        shortest = min(self.counts, key=lambda count: len(self._paces[count]))
        self.threads = shortest
        if len(self._paces[shortest]) < self._each:
            return
        medians = {count: statistics.median(paces) for count, paces in self._paces.items()}
        self.threads = min(count for count, median in medians.items() if median >= 0.9 * max(medians.values()))
        self._reference = medians[self.threads]
        self._paces = {}
        self._steps, self._pause = 0, 8 * self._each * len(self.counts)


def thread_counts(most: int) -> tuple[int, ...]:
    """Numbers of threads worth a try: the stated one alone, else 1, 2, 4 ... and `most`."""
    if (stated := stated_threads()) is not None:
        return (stated,)
    most = max(1, min(most, cores()))
    return tuple(sorted({*(1 << k for k in range(most.bit_length()) if 1 << k <= most), most}))
