"""`data check`: what will go wrong with a labelled folder, said before anything is trained.

A finding of level "error" stops `data build`, one of level "warning" does not.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from trafficllm.core.errors import InputError
from trafficllm.core.files import hash64
from trafficllm.core.types import F64, Record
from trafficllm.records import masks
from trafficllm.records.catalog import Task
from trafficllm.records.codec.codec import encode, pretty
from trafficllm.records.dataset import marks
from trafficllm.records.dataset.duplicates import duplicates
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.record_shape import RecordShape
from trafficllm.records.results import DataCheck, DataFinding, Sample, State, TokenState
from trafficllm.records.sources import rows as sources
from trafficllm.records.sources.captures import Gathered

SMALL = 20
FEW_TCP = 5
"""TCP flows of a label from which a lack of handshakes says something."""
SYN = 0x02
_PAYLOAD_KEPT = 512


@dataclass(slots=True)
class Lint:
    """The findings so far."""

    findings: list[DataFinding] = field(default_factory=list)

    def add(self, kind: str, where: str, message: str, *, level: Literal["error", "warning"] = "warning") -> None:
        """One finding more."""
        self.findings.append(DataFinding(kind=kind, level=level, where=where, message=message))

    def result(self, classes: dict[str, dict[str, int]], duplicates: dict[str, float], samples: list[Sample]) -> DataCheck:
        """All findings; ready where none is an error."""
        ready = all(row.level != "error" for row in self.findings)
        return DataCheck(ready=ready, findings=self.findings, classes=classes, duplicates=duplicates, samples=samples, parts={})


def check_data(directory: str | Path, *, task: Task, shape: RecordShape | None = None, samples: int = 3) -> DataCheck:
    """Read a folder and say what is wrong with it; classes with their flows and captures. `shape`: how flows are cut and shown.

    Files that cannot be read are findings, one each, and the rest is checked all the same. Raises InputError where there
    is no folder, or nothing in it that is labelled.
    """
    lint = Lint()
    source = sources.find(directory)
    shape = shape if shape is not None else RecordShape()
    rows = _read(source, task, lint, shape)
    if not rows.records:
        lint.add("no_records", str(source.root), "nothing in this folder can be read", level="error")
        return lint.result({}, {}, [])
    codec = shape.codec()
    masked = [masks.apply(record, shape.records.profile) for record in rows.records]
    units = [encode(record, codec) for record in masked]
    _sizes(rows, lint)
    _captures(rows, lint)
    _set_up(rows, lint, marks.marks_of(source.root, rows.meta)["cut_at"])
    twice = duplicates([hash64(text.encode()) for text in units], rows.labels)
    if twice["conflicting"]:
        lint.add("conflict", "", f"{twice['conflicting']:.1%} of the records equal one of another label: ceiling {twice['ceiling']}")
    shown = [_sample(rows.labels[i], encode(rows.records[i], codec), units[i], masked[i]) for i in _spread(rows.labels, samples)]
    return lint.result(_classes(rows), twice, shown)


def _read(source: sources.Source, task: Task, lint: Lint, shape: RecordShape) -> Gathered:
    """The rows of every file that can be read; the others are findings."""
    reading = sources.Reading(source, task, task.housekeeping, Reserved.find(source.root), shape.capture)
    rows = Gathered()
    for file in source.files:
        try:
            rows.extend(reading.whole(file))
        except InputError as error:
            where = file.rel if source.form == "captures" else f"{error.input} {error.where}".strip()
            lint.add("unreadable", where, f"{error.message}; {error.hint}", level="error")
        except OSError as error:
            lint.add("unreadable", file.rel, str(error.strerror), level="error")
    return rows


def _sample(label: str, raw: str, units: str, masked: Record) -> Sample:
    """A record as a model sees it, and token by token what the masks took away and put in its place."""
    return Sample(label=label, record=pretty(units), tokens=token_states(raw, units), masked=sorted(masked.masked))


def token_states(raw: str, shown: str) -> list[TokenState]:
    """Tokens of a raw and of the masked record in one row: `{"token", "state"}`, state "shown", "hidden" or "instead".

    >>> token_states(encode(Record(proto=17, ports=(53, 53))), encode(masks.apply(Record(proto=17, ports=(53, 53)))))[2:4]
    [{'token': 'ip4', 'state': 'shown'}, {'token': 'ports', 'state': 'hidden'}]
    """
    before, after = pretty(raw).split(), pretty(shown).split()
    out: list[tuple[str, State]] = []
    for what, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what == "equal":
            out += [(word, "shown") for word in after[c:d]]
        else:
            out += [(word, "hidden") for word in before[a:b]] + [(word, "instead") for word in after[c:d]]
    return [{"token": token, "state": state} for token, state in out]


def _classes(rows: Gathered) -> dict[str, dict[str, int]]:
    captures: dict[str, set[str]] = defaultdict(set)
    for meta, label in zip(rows.meta, rows.labels, strict=True):
        captures[label].add(meta.origin)
    counts = Counter(rows.labels)
    return {label: {"flows": counts[label], "captures": len(captures[label])} for label in sorted(counts)}


def _sizes(rows: Gathered, lint: Lint) -> None:
    counts = _classes(rows)
    if len(counts) < 2:
        lint.add("one_label", "", "at least two labels are needed", level="error")
    for file in rows.files:
        if not file["flows"]:
            lint.add("empty_file", str(file["file"]), "no flows in this file")
    for label, row in counts.items():
        if row["flows"] == 1:
            lint.add("label_too_small", label, "one flow: it cannot be both learnt from and tested on", level="error")
        elif row["flows"] < SMALL:
            lint.add("label_small", label, f"{row['flows']} flows: too few to measure")


def _captures(rows: Gathered, lint: Lint) -> None:
    for label, row in _classes(rows).items():
        if row["captures"] == 1 and row["flows"] > 1:
            lint.add("one_capture", label, "all flows come from one capture: host and day cannot be told from the class")


def _set_up(rows: Gathered, lint: Lint, cut_at: F64) -> None:
    """Marks of the capture set-up: link types that differ, payload cut short, handshakes missing, labels in conflict."""
    links: dict[str, set[int]] = defaultdict(set)
    cut: Counter[str] = Counter()
    tcp: Counter[str] = Counter()
    opened: Counter[str] = Counter()
    where: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for record, meta, label, snapped in zip(rows.records, rows.meta, rows.labels, np.nan_to_num(cut_at) > 0, strict=True):
        links[label].add(meta.link)
        cut[label] += bool(snapped) or _is_cut(record)
        if record.proto == 6:
            tcp[label] += 1
            opened[label] += any(f >= 0 and f & SYN for f in record.flags)
        where[meta.origin, meta.ts, meta.community_id].add(label)
    every = ", ".join(map(str, sorted(set().union(*links.values()))))
    if len({tuple(sorted(kinds)) for kinds in links.values()}) > 1:
        lint.add("link_type", "", f"link types {every} differ between labels: the capture set-up tells the class")
    elif "," in every:
        lint.add("link_type", "", f"link types {every} are mixed within each label")
    counts = Counter(rows.labels)
    for label in sorted(counts):
        if cut[label] * 2 > counts[label]:
            lint.add("truncated", label, f"payload is cut in {cut[label]} of {counts[label]} flows")
        if tcp[label] >= FEW_TCP and opened[label] * 2 < tcp[label]:
            lint.add("no_handshake", label, f"{tcp[label] - opened[label]} of {tcp[label]} TCP flows start in the middle")
    both = sum(len(labels) > 1 for labels in where.values())
    if both:
        lint.add("same_flow", "", f"{both} flows stand under more than one label", level="warning")


def _is_cut(record: Record) -> bool:
    """Whether the headers declare more payload at the flow's beginning than was captured."""
    for d in (0, 1):
        declared = sum(s for s, to in zip(record.sizes, record.dirs, strict=True) if to == d and s > 0)
        if len(record.payload[d]) < min(declared, _PAYLOAD_KEPT):
            return True
    return False


def _spread(labels: Sequence[str], count: int) -> list[int]:
    """The first record of each of `count` labels, evenly over the names."""
    first: dict[str, int] = {}
    for i, label in enumerate(labels):
        first.setdefault(label, i)
    names = sorted(first)
    step = max(len(names) // max(count, 1), 1)
    return [first[name] for name in names[::step][:count]]
