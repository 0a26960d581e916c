"""Output without an end: one file, or files that follow each other in time, of which the newest are kept."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from trafficllm.core.types import FlowWriter
from trafficllm.surface.formats.writers import Parquet, refused

_GROUP = 1024
"""Rows of one row group in a Parquet file."""


class Pieces:
    """Rows into `out`, or with `seconds` into files `NAME-20260131T120000Z.ENDING`, each for a span of so many seconds since midnight UTC.

    Lines can be read as they come. A Parquet file has its name once it is whole. Of the files at most `keep` stay (0: all), older ones
    with such names, also of former runs, are removed. A new file begins with the first rows of its time.
    """

    def __init__(
        self, make: Callable[[BinaryIO], FlowWriter], out: Path, *, seconds: int = 0, keep: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        """`make` gives the writer of a stream; nothing is opened before there are rows, or the end."""
        self._make, self._out, self._seconds, self._keep, self._clock = make, out, seconds, keep, clock
        self._writer: FlowWriter | None = None
        self._stream: BinaryIO | None = None
        self._place: tuple[Path, Path] | None = None
        self._span = 0
        self._rows: list[Mapping[str, Any]] = []

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a batch into the file of this time. ResourceError where that cannot be written."""
        if not rows:
            return
        try:
            self._turn()
            self._rows += rows
            if not isinstance(self._writer, Parquet) or len(self._rows) >= _GROUP:
                self._flush()
        except OSError as error:
            raise refused(error, self._out) from error

    def close(self) -> None:
        """Finish the last file; where there were no rows, an empty one."""
        try:
            if self._writer is None:
                self._turn()
            self._finish()
        except OSError as error:
            raise refused(error, self._out) from error

    def _turn(self) -> None:
        """Open the file of this time, unless it is open."""
        span = int(self._clock() // self._seconds) if self._seconds else 0
        if self._writer is not None and span == self._span:
            return
        self._finish()
        self._span = span
        target = self._target()
        target.parent.mkdir(parents=True, exist_ok=True)
        place = target.with_name(f".{target.name}.partial")
        self._stream = place.open("wb")
        self._writer = self._make(self._stream)
        if not isinstance(self._writer, Parquet):
            place.replace(target)
            place = target
        self._place = place, target
        self._forget()

    def _target(self) -> Path:
        if not self._seconds:
            return self._out
        begun = datetime.fromtimestamp(self._clock(), tz=UTC).strftime("%Y%m%dT%H%M%SZ")
        return self._out.with_name(f"{self._out.stem}-{begun}{self._out.suffix}")

    def _flush(self) -> None:
        if self._writer is not None and self._rows:
            self._writer.write(self._rows)
            self._rows = []

    def _finish(self) -> None:
        if self._writer is None or self._stream is None or self._place is None:
            return
        self._flush()
        self._writer.close()
        self._stream.close()
        place, target = self._place
        if place != target:
            place.replace(target)
        self._writer = self._stream = self._place = None

    def _forget(self) -> None:
        """Remove the oldest files beyond `keep`, this one counted."""
        if not self._keep or not self._seconds or self._place is None:
            return
        name = re.compile(rf"{re.escape(self._out.stem)}-\d{{8}}T\d{{6}}Z{re.escape(self._out.suffix)}")
        there = {path for path in self._out.parent.iterdir() if name.fullmatch(path.name)} | {self._place[1]}
        for path in sorted(there)[: -self._keep]:
            with suppress(FileNotFoundError):
                path.unlink()
