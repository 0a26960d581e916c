"""Progress of long jobs: a bar with rate and time left on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from trafficllm.core.escape import for_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar:
    """A ProgressSink on stderr; one line a stage. Use as a context manager.

    >>> with Bar() as bar:
    ...     bar.update("reading", 10, None)
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._progress: Progress | None = None
        self._stages: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._progress = _bars()
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Show `done` of `total` (None: unknown) steps of `stage`."""
        if self._progress is None:
            return
        name = for_terminal(stage)
        if name not in self._stages:
            self._stages[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._stages[name], completed=done, total=total)


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
