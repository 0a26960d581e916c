"""What a server holds between calls: the workspace, the root, and the verdicts of the captures that were asked about last."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import ResourceError
from trafficllm.lifecycle.analyze.known import Known
from trafficllm.lifecycle.analyze.verdict_table import VerdictTable, judged
from trafficllm.surface.agent.root import Root

if TYPE_CHECKING:
    from trafficllm.core.types import ProgressSink
    from trafficllm.lifecycle.workspace import Workspace

_KEPT = 4
"""Captures whose verdicts are kept: what a conversation goes back to, in at most half a gigabyte."""
DEADLINE = 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take: seconds, and bytes of the file it reads."""

    seconds: float = DEADLINE
    file_bytes: int = 4 << 30


class _Late:
    """A ProgressSink that ends work at its deadline, and passes on what it is told."""

    def __init__(self, seconds: float, inner: ProgressSink | None) -> None:
        self.until = time.monotonic() + seconds
        self.inner = inner

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Raise ResourceError when it is too late."""
        if time.monotonic() > self.until:
            raise _too_late()
        if self.inner is not None:
            self.inner.update(stage, done, total)


def _too_late() -> ResourceError:
    return ResourceError("resource.deadline", "this took longer than a call may take", hint="a smaller capture, or --deadline")


class Workbench:
    """One server's state. Calls take turns: the model answers one of them at a time."""

    def __init__(self, workspace: Workspace, root: Root, *, write_root: Root | None = None, limits: Limits | None = None) -> None:
        self.workspace = workspace
        self.root = root
        self.write_root = write_root
        self.limits = limits or Limits()
        self._turn = threading.Lock()
        self.known = Known(workspace)
        self._tables: OrderedDict[tuple[Any, ...], VerdictTable] = OrderedDict()

    @contextmanager
    def turn(self, progress: ProgressSink | None = None) -> Iterator[ProgressSink]:
        """The model's one place, and a sink that ends the work at the deadline, the wait for the place counted. Raises ResourceError where
        the wait alone is too long."""
        sink = _Late(self.limits.seconds, progress)
        if not self._turn.acquire(timeout=max(0.0, self.limits.seconds)):
            raise _too_late()
        try:
            yield sink
        finally:
            self._turn.release()

    def capture(self, name: str) -> Path:
        """A file below the root; InputError for one that is outside, missing or too large."""
        path = self.root.file(name)
        if path.stat().st_size > self.limits.file_bytes:
            hint = "cut it with editcap, or raise --max-file"
            raise ResourceError("resource.large", f"larger than {self.limits.file_bytes >> 20:,} MiB", input=name, hint=hint)
        return path

    def table(
        self, path: Path, sink: ProgressSink, *, task: str = "", question: str = "", latest: bool = False, both: bool = False
    ) -> VerdictTable:
        """Verdicts of a capture, judged once for as long as the file and the live adapters stay the same; with how a question was routed.

        `latest`: where no task is named, those of the capture's last question; `both`: where nothing is asked, what flows are and whether
        they are bad.
        """
        from trafficllm.lifecycle.analyze.verdicts import choose

        about = path.stat()
        registry = self.workspace.registry
        lives = tuple((name, registry.revision(name)) for name in registry.tasks())
        state: tuple[Any, ...] = (str(path), about.st_size, about.st_mtime_ns, lives)
        recent = [key[-1] for key in reversed(self._tables) if key[:-1] == state] if latest and not task else []
        tasks, route = (recent[0], None) if recent else choose(self.workspace, task, question, both=both)
        key = (*state, tasks)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = judged(self.workspace, [path], choice=(tasks, None), progress=sink)
            while len(self._tables) > _KEPT:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return table if route is None else replace(table, route=route)
