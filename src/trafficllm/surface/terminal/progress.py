"""Progress of long jobs on stderr: bars with rate and time left on a terminal, a line a stage in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trafficllm.core.escape import for_terminal
from trafficllm.core.types import StageTime

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


EVERY = 30.0
"""Seconds between two lines of a log."""


class StageLog:
    """What a log shows of a long job: a line when a stage begins, and where it is about every 30 seconds.

    A stage that comes back within that time (reading and scoring in turn) has one line; the line of a new stage says how long the one
    before it took, and what is next where `expect` said so. `write` takes a line, `clock` gives seconds.
    With `stages` off there are only the lines every 30 seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic, *, stages: bool = True) -> None:
        self._write, self._clock, self._stages = write, clock, stages
        self._start = self._last = clock()
        self._begun: dict[str, float] = {}
        self._now: tuple[str, int, int | None] | None = None
        self._since = self._start
        self._planned: list[StageTime] = []

    def expect(self, stages: Sequence[StageTime]) -> None:
        """Write a line with the stages to come and how long they are expected to take."""
        self._planned += [each for each in stages if each.stage not in {own.stage for own in self._planned}]
        if self._stages and (line := planned(stages)):
            self._last = self._clock()
            self._write(f"{self._last - self._start:.0f} s: {line}")

    def _next(self, stage: str) -> str:
        """What is expected after a stage; empty where that is not known."""
        names = [each.stage for each in self._planned]
        after = self._planned[names.index(stage) + 1 :] if stage in names else []
        return f"next: {_timed(replace(after[0], note=''))}" if after else ""

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
            said = [f"{before} took {took:.0f} s"] if before != stage and took >= 1 else []
            said += [following] if (following := self._next(stage)) else []
            self._line(now, f" ({'; '.join(said)})" if said else "")
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


def planned(stages: Sequence[StageTime]) -> str:
    """Stages to come in a line; empty where none has an expected time.

    >>> planned([StageTime("tuning", 20.0), StageTime("baselines", 240.0), StageTime("report")])
    'about 4 min 20 s to come: tuning 20 s, baselines 4 min, report'
    """
    known = [each.seconds for each in stages if each.seconds is not None]
    return f"about {lasting(sum(known))} to come: {', '.join(map(_timed, stages))}" if known else ""


def lasting(seconds: float) -> str:
    """Seconds for people, in units that an estimate deserves.

    >>> lasting(0.4), lasting(75), lasting(600), lasting(5400)
    ('1 s', '1 min 15 s', '10 min', '1 h 30 min')
    """
    whole = max(1, round(seconds))
    parts = ((whole // 60, "min"), (whole % 60, "s")) if whole < 3600 else ((whole // 3600, "h"), (whole % 3600 // 60, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _timed(each: StageTime) -> str:
    """A stage with its time and its note."""
    time_of = "" if each.seconds is None else f" {lasting(each.seconds)}"
    return f"{each.stage}{time_of}" + (f" ({each.note})" if each.note else "")


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

    def expect(self, stages: Sequence[StageTime]) -> None:
        """Say which stages are to come and how long they take."""
        if self._log is not None:
            self._log.expect(stages)
        elif self._progress is not None and (line := planned(stages)):
            self._progress.console.print(for_terminal(line), markup=False, highlight=False)

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
