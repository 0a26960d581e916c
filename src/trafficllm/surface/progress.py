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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=False)
