"""Labelled captures -> raw records with their origin, label and reserved mark: the first half of `data build`."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from trafficllm.capture.flows import FlowOptions, read_flows
from trafficllm.core.errors import InputError
from trafficllm.core.files import sha256_file
from trafficllm.core.types import FlowBatch, FlowMeta, ProgressSink, Record
from trafficllm.records.build import housekeeping, records_of
from trafficllm.records.inputs import LabelledDir, LabelledFile, origin_of
from trafficllm.records.reserved import Reserved

_READ_AHEAD = 2


@dataclass(slots=True)
class Gathered:
    """Parallel lists, a row a record, and what was left out and read."""

    records: list[Record] = field(default_factory=list)
    meta: list[FlowMeta] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    reserved: list[bool] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    normalised: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, object]] = field(default_factory=list)

    def add(self, record: Record, meta: FlowMeta, label: str, *, given: str = "", reserved: bool = False) -> None:
        """One record more."""
        self.records.append(record)
        self.meta.append(meta)
        self.labels.append(label)
        self.given.append(given)
        self.reserved.append(reserved)


def gather(
    folder: LabelledDir, *, keep_chores: bool, reserved: Reserved | None, options: FlowOptions, progress: ProgressSink
) -> Gathered:
    """Read every capture of the folder.

    Reserved shares count over all flows of a file, housekeeping included, before any is dropped.
    """
    out = Gathered()
    for done, (file, batches) in enumerate(_ahead(folder.files, options)):
        progress.update("reading", done, len(folder.files))
        pairs = _pairs(file, batches)
        mark = reserved.mark(file.rel_to(folder.root), [meta.ts for _, meta in pairs]) if reserved else [False] * len(pairs)
        kept = 0
        for (record, meta), held in zip(pairs, mark, strict=True):
            chore = "" if keep_chores else housekeeping(record)
            if chore:
                out.dropped[f"housekeeping: {chore}"] += 1
                continue
            out.add(record, meta, file.label, given=file.split, reserved=held)
            kept += 1
        out.files.append({"file": file.rel, "label": file.label, "sha256": sha256_file(file.path), "flows": len(pairs), "kept": kept})
    progress.update("reading", len(folder.files), len(folder.files))
    return out


def _ahead(files: Sequence[LabelledFile], options: FlowOptions) -> Iterator[tuple[LabelledFile, list[FlowBatch]]]:
    """Each file's flows, two files read ahead in a thread: the reader's kernels run without the interpreter's lock.

    Each file on its own: equal 5-tuples of two files are two flows.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[LabelledFile, Future[list[FlowBatch]]]] = deque()
        try:
            for file in files:
                waiting.append((file, pool.submit(lambda path: list(read_flows([path], options=options)), file.path)))
                if len(waiting) > _READ_AHEAD:
                    first, flows = waiting.popleft()
                    yield first, flows.result()
            while waiting:
                first, flows = waiting.popleft()
                yield first, flows.result()
        finally:
            for _, flows in waiting:
                flows.cancel()


def _pairs(file: LabelledFile, batches: Sequence[FlowBatch]) -> list[tuple[Record, FlowMeta]]:
    origin = origin_of(file)
    pairs = [pair for batch in batches for pair in records_of(batch)]
    return [(record, dataclasses.replace(meta, capture=file.rel, origin=origin)) for record, meta in pairs]


def check_labels(gathered: Gathered, root: Path) -> None:
    """Raise InputError unless there are two labels or more and each has two flows, or only reserved ones."""
    counts = Counter(gathered.labels)
    if len(counts) < 2:
        hint = "put captures into one folder a label, two labels at least"
        raise InputError("input.one_label", f"{len(counts)} label with flows", input=str(root), hint=hint)
    held = Counter(label for label, mark in zip(gathered.labels, gathered.reserved, strict=True) if mark)
    for label, count in sorted(counts.items()):
        if count == 1 and not held[label]:
            hint = "add captures to this label, or take its folder away: one flow cannot be both learnt from and tested on"
            raise InputError("input.label_too_small", f"label {label!r} has one flow", input=str(root), where=label, hint=hint)
