"""A built data set as the audit sees it; where a part is reserved for scoring, without that part."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from trafficllm.core.files import hash64
from trafficllm.core.types import FlowMeta
from trafficllm.evaluate.audit.leaks import AuditRows
from trafficllm.records.dataset import marks
from trafficllm.records.dataset.dataset import PARTS, Dataset
from trafficllm.records.dataset.duplicates import twins
from trafficllm.records.dataset.splits import split

_COPIES = ("copy_of_test", "copy_of_val", "copy_of_train", "test_copy_of_template")


def rows_of(dataset: Dataset, captures: str | Path | None = None, *, spare_test: bool = False, seed: int = 0) -> AuditRows:
    """Every flow of a data set; with `spare_test` only those outside its test part, split anew by the same unit.

    `captures`: the folder it was built from, where the data set keeps no marks of its own.
    """
    idx = [i for part in PARTS if part != "test" or not spare_test for i in dataset.indices(part)]
    idx.sort()
    place = {i: part for part in PARTS for i in dataset.indices(part)}
    meta, raw = dataset.meta(idx), dataset.raw_records(idx)
    stored = {name: column[idx] for name, column in marks.read(dataset.path).items()}
    dropped = dataset.manifest["dropped"]
    rows = AuditRows(
        y=dataset.labels_of(idx),
        part=[place[i] for i in idx],
        raw=raw,
        masked=[dataset.mask(record) for record in raw],
        meta=meta,
        groups=dataset.groups(idx),
        content=dataset.hashes(idx),
        umbrella=dataset.task.umbrella_of,
        marks=stored or (marks.marks_of(captures, meta) if captures else {}),
        masked_fields=frozenset(dataset.masked_fields),
        codec=dataset.codec,
        copies=sum(dropped.get(reason, 0) for reason in _COPIES),
    )
    return _resplit(rows, str(dataset.manifest["split"]["unit"]), seed) if spare_test else rows


def _resplit(rows: AuditRows, unit: str, seed: int) -> AuditRows:
    equal = twins(rows.masked, rows.content)
    result = split(rows.meta, rows.y, seed=seed, unit="capture" if unit == "given" else unit, hashes=equal)
    left_out = sum(count for reason, count in result.dropped.items() if reason in _COPIES)
    return dataclasses.replace(rows, part=result.assignment, groups=result.groups, copies=rows.copies + left_out)


def capped(rows: AuditRows, idx: Sequence[int], most: int, *, per_class: bool) -> tuple[list[int], int | None]:
    """At most `most` of these rows, drawn by hash, and the cap a class that it took; evenly, or from the commonest classes.

    Training rows are capped a class, one of each masked content before any copy; a test part keeps its natural distribution
    and is only thinned.
    """
    if len(idx) <= most:
        return list(idx), None
    order = sorted(idx, key=lambda i: (hash64(f"{rows.meta[i].uid} {rows.content[i]}".encode()), i))
    if not per_class:
        return sorted(order[:most]), None
    copies: Counter[int] = Counter()
    number = {}
    for i in order:
        number[i] = copies[rows.content[i]]
        copies[rows.content[i]] += 1
    order.sort(key=lambda i: number[i])
    cap = _cap(Counter(rows.y[i] for i in idx), most)
    drawn: list[int] = []
    taken: Counter[str] = Counter()
    for i in order:
        if taken[rows.y[i]] < cap:
            taken[rows.y[i]] += 1
            drawn.append(i)
    return sorted(drawn), cap


def _cap(counts: Counter[str], most: int) -> int:
    """The largest cap a class that keeps the sum within `most`; at least 10."""
    return max(10, *(c for c in range(1, max(counts.values()) + 1) if sum(min(n, c) for n in counts.values()) <= most), 1)


def class_table(rows: AuditRows) -> dict[str, dict[str, int]]:
    """Flows, captures, split groups and unique masked contents of each label, and its flows in each part."""
    out: dict[str, dict[str, int]] = {}
    members: dict[str, list[int]] = defaultdict(list)
    for i, label in enumerate(rows.y):
        members[label].append(i)
    for label, own in sorted(members.items()):
        parts = Counter(rows.part[i] for i in own)
        out[label] = {
            "flows": len(own),
            "captures": len({rows.meta[i].origin for i in own}),
            "groups": len({rows.groups[i] for i in own}),
            "unique": len({rows.content[i] for i in own}),
            **{part: parts[part] for part in PARTS},
        }
    return out


def shared_units(rows: AuditRows) -> dict[str, int]:
    """How many captures, client hosts, host pairs and 5-tuples have flows in more than one part."""
    units: dict[str, Callable[[FlowMeta], str]] = {
        "capture": lambda m: m.origin,
        "host": lambda m: m.host and f"{m.origin} {m.host}",
        "session": lambda m: m.host and f"{m.origin} {min(m.orig_h, m.resp_h)} {max(m.orig_h, m.resp_h)}",
        "flow": lambda m: m.community_id and f"{m.origin} {m.community_id}",
    }
    return {name: _crossing([key(m) for m in rows.meta], rows.part) for name, key in units.items()}


def shared_groups(rows: AuditRows) -> int:
    """Split groups with flows in more than one part."""
    return _crossing(rows.groups, rows.part)


def _crossing(keys: Sequence[str], parts: Sequence[str]) -> int:
    sides: dict[str, set[str]] = defaultdict(set)
    for key, part in zip(keys, parts, strict=True):
        if key and part != "dropped":
            sides[key].add(part)
    return sum(len(sides_of_key) > 1 for sides_of_key in sides.values())
