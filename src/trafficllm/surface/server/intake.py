"""Uploads on their way in: admitted before a byte of them is read, and together never more than a bound of disk.

A multipart body lies on disk twice for a moment, as it arrives (the framework's spool) and as it is kept; both are counted here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.settings import Settings


class Place:
    """One upload's place: `reserved` bytes of disk for its body while it arrives."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.reserved = self.read = 0
        self.arriving = True

    def reserve(self, size: int) -> None:
        """Disk for `size` bytes in all; RefusedError (507) where there is none."""
        if size > self.reserved:
            self.intake.take(size - self.reserved)
            self.reserved = size

    def grow(self, size: int) -> None:
        """More of the body came: lengths that were not declared are reserved as they come."""
        self.read += size
        self.reserve(self.read)

    def arrived(self) -> None:
        """The body is in: another upload may begin."""
        if self.arriving:
            self.arriving = False
            self.intake.arriving -= 1

    def release(self) -> None:
        """The body's spool is gone."""
        self.intake.used -= self.reserved
        self.reserved = 0


class Intake:
    """Counts uploads that arrive and the bytes that uploads take on disk (`used`).

    `inside` says how many requests are at work; `evict` removes the oldest kept capture and says whether there was one.
    """

    def __init__(self, settings: Settings, inside: Callable[[], int] = lambda: 0) -> None:
        self.settings = settings
        self.inside = inside
        self.evict: Callable[[], bool] = lambda: False
        self.arriving = self.used = 0

    @contextmanager
    def upload(self, declared: int) -> Iterator[Place]:
        """A place for an upload of `declared` bytes (0: not said). RefusedError: 429 where all are taken, 507 where disk is short."""
        if self.arriving + self.inside() >= self.settings.queue:
            raise RefusedError(429, "request.queue_full", "too many uploads are inside", hint="try again later", retry=2)
        place = Place(self)
        self.arriving += 1
        try:
            place.reserve(max(declared, 1))
            yield place
        finally:
            place.arrived()
            place.release()

    def take(self, size: int) -> None:
        """Count `size` more bytes on disk; kept captures make room, oldest first. RefusedError (507) where they cannot."""
        while self.used + size > self.settings.most_disk or self._short_of(size):
            if not self.evict():
                raise RefusedError(507, "request.disk", "there is no disk left for uploads", hint="try again later", retry=10)
        self.used += size

    def _short_of(self, size: int) -> bool:
        return shutil.disk_usage(tempfile.gettempdir()).free - size < self.settings.spare_disk
