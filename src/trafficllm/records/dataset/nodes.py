"""The first half of `data build` on a cluster: one task a file, shards that outlive the run, files that cannot be read left out.

The shards and the data set are those of one process, byte for byte: only who reads a file differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trafficllm.core.errors import InputError, ResourceError, TrafficLLMError
from trafficllm.core.files import atomic_write, make_folder, remove, sha256_file
from trafficllm.records.dataset import kept_shards, shards

if TYPE_CHECKING:
    from trafficllm.core.types import ProgressSink
    from trafficllm.records.dataset.shards import Shard, Show
    from trafficllm.records.dataset.spread import Each
    from trafficllm.records.sources.folders import LabelledFile
    from trafficllm.records.sources.rows import Reading, Source


class Outcome(Protocol):
    """What became of one task: its `place` in the list, its value or why it has none."""

    @property
    def place(self) -> int: ...
    @property
    def value(self) -> Any: ...
    @property
    def failure(self) -> TrafficLLMError | None: ...


class Nodes(Protocol):
    """Calls a function with each of many argument rows on some cluster; outcomes come as they are there, heavy rows start first."""

    def finished(
        self, work: Callable[..., Any], rows: Sequence[tuple[Any, ...]], *, shared: tuple[Any, ...] = (), weights: Sequence[int] = ()
    ) -> Iterator[Outcome]: ...


@dataclass(slots=True)
class Spread:
    """Work for `nodes`; `tell` hears of every file that is left out, `failed` remembers them."""

    nodes: Nodes
    tell: Callable[[TrafficLLMError], None]
    failed: list[TrafficLLMError] = field(default_factory=list)

    def _leave_out(self, error: TrafficLLMError, file: LabelledFile) -> None:
        error.input = error.input or str(file.path)
        self.failed.append(error)
        self.tell(error)

    def digests(self, source: Source, progress: ProgressSink) -> tuple[Source, list[str]]:
        """SHA-256 of every file that can be read, and the source without the others. InputError where none can."""
        found: dict[int, str] = {}
        rows = [(source.form, file.path) for file in source.files]
        for done, outcome in enumerate(self.nodes.finished(digest, rows, weights=_sizes(source)), 1):
            if outcome.failure is not None:
                self._leave_out(outcome.failure, source.files[outcome.place])
            else:
                found[outcome.place] = outcome.value
            progress.update("hashing", done, len(rows))
        if not found:
            raise InputError(
                "input.none_readable", "none of the files could be read", input=str(source.root), hint="each is named on stderr"
            )
        return _only(source, sorted(found)), [found[k] for k in sorted(found)]

    def read(self, reading: Reading, show: Show, folder: Path, progress: ProgressSink) -> tuple[Source, list[range], list[Shard]]:
        """A shard a file, those in `folder` taken as they are; the source without files that failed now, ranges and shards in its order."""
        files = reading.source.files
        made: set[int] = {k for k in range(len(files)) if kept_shards.is_whole(folder, k)}
        progress.update("reading", len(made), len(files))
        todo = [k for k in range(len(files)) if k not in made]
        left_out = 0
        sizes = _sizes(reading.source)
        rows = [(range(k, k + 1), show) for k in todo]
        for outcome in self.nodes.finished(make, rows, shared=(reading, folder), weights=[sizes[k] for k in todo]):
            place = todo[outcome.place]
            if outcome.failure is not None:
                _require_own_fault(outcome.failure, files[place])
                self._leave_out(outcome.failure, files[place])
                left_out += 1
            else:
                made.add(place)
            progress.update("reading", len(made) + left_out, len(files))
        order = sorted(made)
        return _only(reading.source, order), [range(k, k + 1) for k in order], [kept_shards.load(folder, k) for k in order]

    @contextmanager
    def each(self, shared: tuple[Any, ...]) -> Iterator[Each]:
        """The cluster as `spread` gives this machine's cores: results in the order asked for, a failure raised."""

        def ordered(work: Callable[..., Any], rows: Sequence[tuple[Any, ...]], weights: Sequence[int]) -> Iterator[Any]:
            values: dict[int, Any] = {}
            for outcome in self.nodes.finished(work, rows, shared=shared, weights=weights):
                if outcome.failure is not None:
                    raise outcome.failure
                values[outcome.place] = outcome.value
            return (values[k] for k in range(len(rows)))

        yield ordered


def _require_own_fault(error: TrafficLLMError, file: LabelledFile) -> None:
    """Raise what is not the fault of this one file: a full disk, a missing permission to write."""
    if isinstance(error, ResourceError) and error.code != "resource.worker" and error.input != str(file.path):
        raise error


def _sizes(source: Source) -> list[int]:
    return [file.path.stat().st_size if file.path.is_file() else 0 for file in source.files]


def _only(source: Source, places: Sequence[int]) -> Source:
    return replace(source, files=tuple(source.files[k] for k in places))


def digest(form: str, path: Path) -> str:
    """SHA-256 of a file of the source. Raises InputError for one that cannot be read: of a capture the first frames are asked for."""
    if form == "captures":
        from trafficllm.capture.files.read import read_frames

        next(read_frames([path], chunk_bytes=1 << 16), None)
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError("input.unreadable", error.strerror or str(error), input=str(path), hint="check who may read it") from error


def make(reading: Reading, folder: Path, files: range, show: Show) -> int:
    """`shards.make` whose shard another process can take up; how many records it holds."""
    shard = shards.make(reading, folder, files, show)
    kept_shards.keep(shard, folder, files.start)
    return len(shard)


def scratch(out: Path, key: str) -> Path:
    """The folder beside `out` in which shards of an unfinished build stay; emptied where they belong to another data set."""
    folder = out.parent / f".{out.name}.shards"
    mark = folder / "KEY"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
        remove(folder)
        make_folder(folder, private=True)
        atomic_write(mark, key, private=True)
    return folder


def forget(folder: Path) -> None:
    """Remove a `scratch` folder: its data set is built."""
    remove(folder)
