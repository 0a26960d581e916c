"""Whatever a data folder holds, as rows: labelled captures, the original's JSON files, HTTP text, sequences."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from trafficllm.capture.foreign.labels import Labels
from trafficllm.core.errors import InputError
from trafficllm.core.files import hash64, sha256_file
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowMeta, ProgressSink, Record
from trafficllm.records.catalog import Task
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.sources import cells as sequences
from trafficllm.records.sources import original
from trafficllm.records.sources import requests as texts
from trafficllm.records.sources.captures import PIECE, Gathered, capture_pieces
from trafficllm.records.sources.flow_rows import FlowRows, flow_pieces
from trafficllm.records.sources.folders import LabelledFile, scan, scan_unlabelled

_TEXT = (".txt", ".txt.gz")
_TABLE = (".tsv", ".tsv.gz")


@dataclass(frozen=True, slots=True)
class Source:
    """What was found: its `form`, the `files` that count, and how to read them. `unit` is the split that fits the form."""

    form: str
    root: Path
    files: tuple[LabelledFile, ...]
    unit: str = "auto"


@dataclass(frozen=True, slots=True)
class LabelLogs:
    """Logs of another sensor that label flows, and the column that holds the label ("": the first known one)."""

    paths: tuple[str, ...]
    field: str = ""

    def key(self) -> list[object]:
        """What of them a data set depends on: contents, not names."""
        return [[sha256_file(path) for path in self.paths], self.field]


def labels_of(logs: LabelLogs) -> Labels:
    """The labels of these logs, read once a process for as long as their files stay as they are."""
    return _labels(logs, tuple((about.st_ino, about.st_size, about.st_mtime_ns) for about in _stats(logs.paths)))


def _stats(paths: Sequence[str]) -> Iterator[os.stat_result]:
    for path in paths:
        with contextlib.suppress(OSError):  # the reader of the log names it
            yield Path(path).stat()


@lru_cache(maxsize=1)
def _labels(logs: LabelLogs, _stamps: tuple[tuple[int, int, int], ...]) -> Labels:
    return Labels(logs.paths, field=logs.field)


def find(path: str | Path, *, labelled_elsewhere: bool = False) -> Source:
    """Recognise a data folder, or one file of the original's JSON; captures in any layout where logs label their flows.

    Raises InputError where there is nothing to learn from.
    """
    base = Path(path)
    if labelled_elsewhere:
        loose = scan_unlabelled(base)
        return Source("captures", loose.root, loose.files)
    if base.is_file() and original.is_original(base):
        return Source("original", base.parent, _plain(base.parent, [base]), "flow")
    if base.is_dir():
        here = sorted(entry for entry in base.iterdir() if entry.is_file() and not entry.name.startswith("."))
        for form, match, unit in _FORMS:
            files = [entry for entry in here if match(entry)]
            if files:
                return Source(form, base, _plain(base, files), unit)
    folder = scan(path)
    return Source("captures", folder.root, folder.files)


def _is_requests(path: Path) -> bool:
    return path.name.endswith(_TEXT) and "_" in path.name and ("request" in path.name.lower() or "http" in path.name.lower())


_FORMS: tuple[tuple[str, Callable[[Path], bool], str], ...] = (
    ("original", lambda path: original.kind_of(path) == "detection", "flow"),
    ("original", lambda path: original.kind_of(path) == "generation", "flow"),
    ("requests", _is_requests, "flow"),
    ("sequences", lambda path: path.name.endswith(_TABLE), "capture"),
)


def _plain(root: Path, files: Sequence[Path]) -> tuple[LabelledFile, ...]:
    return tuple(LabelledFile("", file, file.relative_to(root).as_posix(), original.part_of(file)) for file in files)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of a source are read: what is needed beside the file itself."""

    source: Source
    task: Task
    keep_chores: bool = False
    reserved: Reserved | None = None
    options: FlowOptions = field(default_factory=FlowOptions)
    logs: LabelLogs | None = None

    @property
    def folder(self) -> str:
        """The folder's own name, by which lists of reserved files know it."""
        return self.source.root.resolve().name

    def pieces(self, file: LabelledFile) -> Iterator[Gathered]:
        """The records of one file, some thousands at a time; the last piece carries the file's row of the manifest."""
        flows = record_count = 0
        for piece in _READERS[self.source.form](file, self):
            record_count += len(piece.labels)
            flows += len(piece.labels) + piece.dropped.total()
            yield piece
        yield _row_of(file, flows, record_count)

    def in_columns(self, file: LabelledFile) -> Iterator[FlowRows | Gathered]:
        """`pieces`, of captures in columns but for the last."""
        if self.source.form != "captures":
            yield from self.pieces(file)
            return
        flows = record_count = 0
        how = {"keep_chores": self.keep_chores, "reserved": self.reserved, "options": self.options}
        labels = labels_of(self.logs) if self.logs else None
        for piece in flow_pieces(file, self.source.root, labels=labels, **how):  # type: ignore[arg-type]
            record_count += len(piece.rest.labels)
            flows += len(piece.rest.labels) + piece.rest.dropped.total()
            yield piece
        yield _row_of(file, flows, record_count)

    def whole(self, file: LabelledFile) -> Gathered:
        """The records of one file at once."""
        out = Gathered()
        for piece in self.pieces(file):
            out.extend(piece)
        return out


def read(
    source: Source, task: Task, *, keep_chores: bool, reserved: Reserved | None, options: FlowOptions, progress: ProgressSink
) -> Gathered:
    """All rows of a source at once: for folders that fit in memory (`data check`, adapter updates)."""
    reading = Reading(source, task, keep_chores, reserved, options)
    out = Gathered()
    for done, file in enumerate(source.files):
        progress.update("reading", done, len(source.files))
        out.extend(reading.whole(file))
    progress.update("reading", len(source.files), len(source.files))
    if not out.records and source.form != "captures":
        raise nothing(source)
    return out


def _row_of(file: LabelledFile, flows: int, record_count: int) -> Gathered:
    return Gathered(files=[{"file": file.rel, "label": file.label, "sha256": sha256_file(file.path), "flows": flows, "kept": record_count}])


def nothing(source: Source) -> InputError:
    """The error for a source whose files hold no record."""
    return InputError("input.no_records", "no records in these files", input=str(source.root), hint="look at the first lines")


def _cut(rows: Iterable[tuple[Record, FlowMeta, str, int, str, bool]]) -> Iterator[Gathered]:
    """Rows (record, meta, label, row, given, reserved) in pieces."""
    out = Gathered()
    for record, meta, label, row, given, held in rows:
        out.add(record, meta, label, row, given=given, reserved=held)
        if len(out.records) == PIECE:
            yield out
            out = Gathered()
    yield out


def _captures(file: LabelledFile, into: Reading) -> Iterator[Gathered]:
    return capture_pieces(file, into.source.root, keep_chores=into.keep_chores, reserved=into.reserved, options=into.options)


def _original(file: LabelledFile, into: Reading) -> Iterator[Gathered]:
    alone = len({part.split for part in into.source.files}) < 2
    report = Gathered()
    rows = original.rows(file.path, into.task.labels, report)
    yield from _cut((row.record, row.meta, row.label, row.number, "" if alone else file.split, False) for row in rows)
    yield report


def _requests(file: LabelledFile, into: Reading) -> Iterator[Gathered]:
    label = file.path.name.split("_", 1)[0]
    covered = into.reserved is not None and into.reserved.covers_requests(into.folder)

    def rows() -> Iterator[tuple[Record, FlowMeta, str, int, str, bool]]:
        for number, text in enumerate(texts.requests(file.path)):
            plain = texts.canonical_request(text)
            meta = FlowMeta(uid=_uid(file.rel, number), capture=file.rel, community_id=f"{hash64(plain.encode()):016x}")
            yield texts.http_record(text), meta, label, number + 1, "", covered and texts.is_reserved_request(text)

    return _cut(rows())


def _sequences(file: LabelledFile, into: Reading) -> Iterator[Gathered]:
    reserved = into.reserved
    whole = reserved is not None and reserved.share(file.rel_to(into.source.root.resolve())) >= 1
    by_load = reserved is not None and reserved.covers_loads(into.folder)
    last: dict[str, int] = defaultdict(int)
    if by_load:
        for row in sequences.sequences(file.path):
            last[row.label] = max(last[row.label], row.load)
    single = len(into.source.files) == 1

    def rows() -> Iterator[tuple[Record, FlowMeta, str, int, str, bool]]:
        for number, row in enumerate(sequences.sequences(file.path), 1):
            meta = FlowMeta(
                uid=_uid(file.rel, row.label, row.load),
                capture=file.rel,
                origin=f"load {row.load}" if single else file.rel,
                ts=row.load if single else 0,
                community_id=f"{row.label} {row.load}",
                packets=len(row.record.dirs),
            )
            yield row.record, meta, row.label, number, "", whole or (by_load and row.load == last[row.label])

    return _cut(rows())


def _uid(*parts: object) -> str:
    return f"C{hash64(' '.join(map(str, parts)).encode()):016x}"


_READERS: dict[str, Callable[[LabelledFile, Reading], Iterator[Gathered]]] = {
    "captures": _captures,
    "original": _original,
    "requests": _requests,
    "sequences": _sequences,
}
