"""Labelled captures -> raw records with their origin, label and reserved mark: the first half of `data build`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trafficllm.capture.facts.keys import FactsCache
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import InputError
from trafficllm.core.files import slug
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowMeta, Record
from trafficllm.records.codec.flows import housekeeping, records_in
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.sources.folders import LabelledFile, origin_of, refuse_reserved

PIECE = 4096
"""Records held at a time while a file is read: about 20 MB."""


@dataclass(slots=True)
class Gathered:
    """Parallel lists, a row a record, and what was left out and read.

    `row` is a record's place in its file, whatever the masks or options: the first frame of a flow, the number of a
    request or a sequence (1-based). With the file's hash it names the record in a split file.
    """

    records: list[Record] = field(default_factory=list)
    meta: list[FlowMeta] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    reserved: list[bool] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    normalised: Counter[str] = field(default_factory=Counter)
    malformed: list[str] = field(default_factory=list)
    files: list[dict[str, object]] = field(default_factory=list)

    def add(self, record: Record, meta: FlowMeta, label: str, row: int, *, given: str = "", reserved: bool = False) -> None:
        """One record more."""
        self.records.append(record)
        self.meta.append(meta)
        self.labels.append(label)
        self.given.append(given)
        self.reserved.append(reserved)
        self.row.append(row)

    def extend(self, other: Gathered) -> None:
        """All of another piece."""
        for name in ("records", "meta", "labels", "given", "reserved", "row", "malformed", "files"):
            getattr(self, name).extend(getattr(other, name))
        self.dropped.update(other.dropped)
        self.normalised.update(other.normalised)


def capture_pieces(
    file: LabelledFile, root: Path, *, keep_chores: bool, reserved: Reserved | None, options: FlowOptions
) -> Iterator[Gathered]:
    """The records of one capture, a piece at a time; the file stands alone: equal 5-tuples of two files are two flows.

    Reserved shares count over all flows of the file, housekeeping included, before any is dropped.
    """
    origin = origin_of(file)
    share = reserved.share(file.rel_to(root)) if reserved else 0.0
    held = held_flows(file, root, reserved, options) if reserved and 0 < share < 1 else None
    at, cache = 0, FactsCache()
    for batch in read_flows([file.path], options=options):
        for start in range(0, len(batch), PIECE):
            out = Gathered()
            for record, meta in records_in(batch, start, start + PIECE, capture=file.rel, origin=origin, cache=cache):
                mark = held[at] if held is not None else share > 0
                at += 1
                chore = "" if keep_chores else housekeeping(record)
                if chore:
                    out.dropped[f"housekeeping: {chore}"] += 1
                    continue
                out.add(record, meta, file.label, meta.frames[0] if meta.frames else 0, given=file.split, reserved=mark)
            yield out


def held_flows(file: LabelledFile, root: Path, reserved: Reserved, options: FlowOptions) -> Sequence[bool]:
    """Reserved marks of a capture whose last part is kept: its start times are read first."""
    starts = [ts for batch in read_flows([file.path], options=options) for ts in batch.ts.tolist()]
    return reserved.mark(file.rel_to(root), starts)


def check_labels(labels: Sequence[str], reserved: Sequence[bool], root: Path) -> None:
    """Raise InputError unless there are two labels or more, fit to be shown, and each has two flows or only reserved ones."""
    counts = Counter(labels)
    refuse_reserved(counts, root)
    for label in sorted(counts):
        slug(label)
    if len(counts) < 2:
        hint = "put captures into one folder a label, two labels at least"
        raise InputError("input.one_label", f"{len(counts)} label with flows", input=str(root), hint=hint)
    held = Counter(label for label, mark in zip(labels, reserved, strict=True) if mark)
    for label, count in sorted(counts.items()):
        if count == 1 and not held[label]:
            hint = "add captures to this label, or take its folder away: one flow cannot be both learnt from and tested on"
            raise InputError("input.label_too_small", f"label {label!r} has one flow", input=str(root), where=label, hint=hint)
