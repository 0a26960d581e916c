"""Progress of long jobs on stderr: bars with rate and time left on a terminal, a line a stage in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trafficllm.core.escape import for_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


EVERY = 30.0
"""Seconds between two lines of a log."""


class StageLog:
    """What a log shows of a long job: a line when a stage begins, and where it is about every 30 seconds.

    A stage that comes back within that time (reading and scoring in turn) has one line; the line of a new stage says how long the one
    before it took. `write` takes a line, `clock` gives seconds.
    With `stages` off there are only the lines every 30 seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic, *, stages: bool = True) -> None:
        self._write, self._clock, self._stages = write, clock, stages
        self._start = self._last = clock()
        self._begun: dict[str, float] = {}
        self._now: tuple[str, int, int | None] | None = None
        self._since = self._start

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Note `done` of `total` (None: unknown) steps of `stage`."""
        now = self._clock()
        before = self._now[0] if self._now is not None else stage
        took = now - self._since
        if before != stage or self._now is None:
            self._since = now
        changed = self._now is None or before != stage
        self._now = stage, done, total
        if changed and self._stages and now - self._begun.get(stage, -EVERY) >= EVERY:
            self._line(now, f" ({before} took {took:.0f} s)" if before != stage and took >= 1 else "")
        elif now - self._last >= EVERY:
            self._line(now)

    def beat(self) -> None:
        """Say where the job is if nothing was said for a while: a stage that takes minutes calls nobody."""
        now = self._clock()
        if self._now is not None and now - self._last >= EVERY:
            self._line(now)

    def _line(self, now: float, more: str = "") -> None:
        assert self._now is not None
        stage, done, total = self._now
        self._begun[stage] = self._last = now
        whole = "" if total is None else f"/{short(total)}"
        count = f" {short(done)}{whole}" if done or total is not None else ""
        self._write(f"{now - self._start:.0f} s: {stage}{count}{more}")


class Bar:
    """A ProgressSink on stderr: on a terminal a bar a stage, elsewhere the lines of a `StageLog`. Use as a context manager.

    `log`: this job is long, so that a log gets a line a stage; a short one says where it is every 30 seconds only.

    >>> with Bar() as bar:
    ...     bar.update("reading", 10, None)
    """

    def __init__(self, *, quiet: bool = False, log: bool = False) -> None:
        terminal = sys.stderr.isatty()
        self._live = terminal and not quiet
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._log = None if terminal or quiet else StageLog(_to_stderr, stages=log)
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._live:
            self._progress = _bars()
            self._progress.start()
        if self._log is not None:
            threading.Thread(target=self._beats, args=(self._log,), name="progress", daemon=True).start()
        return self

    def _beats(self, log: StageLog) -> None:
        while not self._over.wait(EVERY):
            log.beat()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Show `done` of `total` (None: unknown) steps of `stage`."""
        if self._log is not None:
            self._log.update(stage, done, total)
        if self._progress is None:
            return
        name = for_terminal(stage)
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._bars[name], completed=done, total=total)


def _to_stderr(line: str) -> None:
    print(for_terminal(line), file=sys.stderr, flush=True)


def short(number: float) -> str:
    """A count in five characters or fewer, whatever it counts.

    >>> short(950), short(12_345), short(3_400_000)
    ('950', '12.3k', '3.4M')
    """
    for unit in ("", "k", "M", "G"):
        if abs(number) < 1000:
            return f"{number:.0f}" if not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}T"


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Done(ProgressColumn):
        """What is done, of how much, and how many a second."""

        def render(self, task: Task) -> Text:
            whole = "" if task.total is None else f"/{short(task.total)}"
            rate = task.finished_speed or task.speed
            return Text(f"{short(task.completed)}{whole}" + (f"  {short(rate)}/s" if rate else ""))

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), Done(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=False)
