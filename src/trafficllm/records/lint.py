"""`data check`: what will go wrong with a labelled folder, said before anything is trained.

Each finding is `{"kind", "level", "where", "message"}`; level "error" stops `data build`, "warning" does not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trafficllm.capture.flows import FlowOptions
from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import hash64
from trafficllm.core.types import Record, Silent
from trafficllm.records import masks, sources
from trafficllm.records.catalog import Task
from trafficllm.records.codec import encode, pretty
from trafficllm.records.duplicates import duplicates
from trafficllm.records.gather import Gathered
from trafficllm.records.reserved import Reserved

SMALL = 20
SYN = 0x02


@dataclass(slots=True)
class Lint:
    """The findings so far."""

    findings: list[dict[str, str]] = field(default_factory=list)

    def add(self, kind: str, where: str, message: str, *, level: str = "warning") -> None:
        """One finding more."""
        self.findings.append({"kind": kind, "level": level, "where": where, "message": message})


def check_data(directory: str | Path, *, task: Task, profile: str = "strict", samples: int = 3) -> dict[str, Any]:
    """Read a folder and say what is wrong with it: `findings`, `classes` (flows and captures each), `duplicates`, `samples`.

    A folder that cannot be read at all is one finding of level error, not an exception.
    """
    lint = Lint()
    try:
        source = sources.find(directory)
        rows = sources.read(
            source, task, keep_chores=task.housekeeping, reserved=Reserved.find(directory), options=FlowOptions(), progress=Silent()
        )
    except TrafficLLMError as error:
        lint.add(error.code, f"{error.input} {error.where}".strip(), f"{error.message}; {error.hint}", level="error")
        return {"findings": lint.findings, "classes": {}, "duplicates": {}, "samples": []}
    masked = [masks.apply(record, profile) for record in rows.records]
    units = [encode(record) for record in masked]
    _sizes(rows, lint)
    _captures(rows, lint)
    _set_up(rows, lint)
    twice = duplicates([hash64(text.encode()) for text in units], rows.labels)
    if twice["conflicting"]:
        lint.add("conflict", "", f"{twice['conflicting']:.1%} of the records equal one of another label: ceiling {twice['ceiling']}")
    return {
        "findings": lint.findings,
        "classes": _classes(rows),
        "duplicates": twice,
        "samples": [{"label": rows.labels[i], "record": pretty(units[i])} for i in _spread(rows.labels, samples)],
    }


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


def _set_up(rows: Gathered, lint: Lint) -> None:
    """Marks of the capture set-up: link types that differ, payload cut short, handshakes missing, labels in conflict."""
    links: dict[str, set[int]] = defaultdict(set)
    cut: Counter[str] = Counter()
    tcp: Counter[str] = Counter()
    opened: Counter[str] = Counter()
    where: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for record, meta, label in zip(rows.records, rows.meta, rows.labels, strict=True):
        links[label].add(meta.link)
        cut[label] += _is_cut(record)
        if record.proto == 6:
            tcp[label] += 1
            opened[label] += any(f >= 0 and f & SYN for f in record.flags)
        where[meta.origin, meta.ts, meta.community_id].add(label)
    if len({tuple(sorted(kinds)) for kinds in links.values()}) > 1:
        lint.add("link_type", "", "link types differ between labels: the capture set-up tells the class")
    counts = Counter(rows.labels)
    for label in sorted(counts):
        if cut[label] * 2 > counts[label]:
            lint.add("truncated", label, f"payload is cut in {cut[label]} of {counts[label]} flows")
        if tcp[label] >= SMALL and opened[label] * 2 < tcp[label]:
            lint.add("no_handshake", label, f"{tcp[label] - opened[label]} of {tcp[label]} TCP flows start in the middle")
    both = sum(len(labels) > 1 for labels in where.values())
    if both:
        lint.add("same_flow", "", f"{both} flows stand under more than one label", level="warning")


def _is_cut(record: Record) -> bool:
    """Whether the headers declare more payload at the flow's beginning than was captured."""
    for d in (0, 1):
        declared = sum(s for s, to in zip(record.sizes, record.dirs, strict=True) if to == d and s > 0)
        if len(record.payload[d]) < min(declared, 512):
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
