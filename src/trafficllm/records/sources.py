"""Whatever a data folder holds, as rows: labelled captures, the original's JSON files, HTTP text, sequences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trafficllm.capture.flows import FlowOptions
from trafficllm.core.errors import InputError
from trafficllm.core.files import hash64, sha256_file
from trafficllm.core.types import FlowMeta, ProgressSink
from trafficllm.records import original, sequences, texts
from trafficllm.records.catalog import Task
from trafficllm.records.gather import Gathered, gather
from trafficllm.records.inputs import LabelledFile, scan
from trafficllm.records.reserved import Reserved

_TEXT = (".txt", ".txt.gz")
_TABLE = (".tsv", ".tsv.gz")


@dataclass(frozen=True, slots=True)
class _Into:
    """What a reader of one file needs beside the file."""

    source: Source
    task: Task
    reserved: Reserved | None
    out: Gathered

    @property
    def folder(self) -> str:
        return self.source.root.resolve().name


@dataclass(frozen=True, slots=True)
class Source:
    """What was found: its `form`, the `files` that count, and how to read them. `unit` is the split that fits the form."""

    form: str
    root: Path
    files: tuple[LabelledFile, ...]
    unit: str = "auto"


def find(path: str | Path) -> Source:
    """Recognise a data folder, or one file of the original's JSON.

    Raises InputError where there is nothing to learn from.
    """
    base = Path(path)
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
    ("original", lambda path: original.is_original(path) and "_detection_" in path.name, "flow"),
    ("requests", _is_requests, "flow"),
    ("sequences", lambda path: path.name.endswith(_TABLE), "capture"),
)


def _plain(root: Path, files: Sequence[Path]) -> tuple[LabelledFile, ...]:
    return tuple(LabelledFile("", file, file.relative_to(root).as_posix(), original.part_of(file)) for file in files)


def read(
    source: Source, task: Task, *, keep_chores: bool, reserved: Reserved | None, options: FlowOptions, progress: ProgressSink
) -> Gathered:
    """All rows of a source."""
    if source.form == "captures":
        folder = scan(source.root)
        return gather(folder, keep_chores=keep_chores, reserved=reserved, options=options, progress=progress)
    out = Gathered()
    for done, file in enumerate(source.files):
        progress.update("reading", done, len(source.files))
        before = len(out.records)
        _READERS[source.form](file, _Into(source, task, reserved, out))
        kept = len(out.records) - before
        out.files.append({"file": file.rel, "label": "", "sha256": sha256_file(file.path), "flows": kept, "kept": kept})
    if not out.records:
        raise InputError("input.no_records", "no records in these files", input=str(source.root), hint="look at the first lines")
    return out


def _original(file: LabelledFile, into: _Into) -> None:
    alone = len({part.split for part in into.source.files}) < 2
    for row in original.rows(file.path, into.task.labels):
        into.out.add(row.record, row.meta, row.label, given="" if alone else file.split)
        if row.changed:
            into.out.normalised[row.label] += 1


def _requests(file: LabelledFile, into: _Into) -> None:
    label = file.path.name.split("_", 1)[0]
    held = into.reserved is not None and into.reserved.covers_requests(into.folder)
    for number, text in enumerate(texts.requests(file.path)):
        same = f"{hash64(texts.canonical_request(text).encode()):016x}"
        meta = FlowMeta(uid=_uid(file.rel, number), capture=file.rel, community_id=same)
        into.out.add(texts.http_record(text), meta, label, reserved=held and texts.is_reserved_request(text))


def _sequences(file: LabelledFile, into: _Into) -> None:
    rows = list(sequences.sequences(file.path))
    last: dict[str, int] = defaultdict(int)
    for row in rows:
        last[row.label] = max(last[row.label], row.load)
    reserved = into.reserved
    whole = reserved is not None and reserved.share(file.rel_to(into.source.root.resolve())) >= 1
    by_load = reserved is not None and reserved.covers_loads(into.folder)
    single = len(into.source.files) == 1
    for row in rows:
        meta = FlowMeta(
            uid=_uid(file.rel, row.label, row.load), capture=file.rel, origin=f"load {row.load}" if single else file.rel,
            ts=row.load if single else 0, community_id=f"{row.label} {row.load}", packets=len(row.record.dirs),
        )  # fmt: skip
        into.out.add(row.record, meta, row.label, reserved=whole or (by_load and row.load == last[row.label]))


def _uid(*parts: object) -> str:
    return f"C{hash64(' '.join(map(str, parts)).encode()):016x}"


_READERS: dict[str, Callable[[LabelledFile, _Into], None]] = {
    "original": _original,
    "requests": _requests,
    "sequences": _sequences,
}
