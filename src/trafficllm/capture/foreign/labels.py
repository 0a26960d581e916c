"""Labels of other sensors joined to flows: by Community ID, else by five-tuple, and by time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.capture.foreign.columns import Entry
from trafficllm.capture.foreign.logs import entries
from trafficllm.core.errors import InputError

SLACK = 1_000_000_000
"""Nanoseconds by which a log's time may miss the flow's: sensors write an alert when they see it, some logs have whole seconds."""
_DEFAULTS = ("label", "class", "category", "attack", "attack_cat", "traffic_category", "alert.category", "note", "name", "service")
"""Columns that hold a label, the first that a row has: CSV tables, Suricata alerts, Zeek's notice.log, weird.log, conn.log."""

Tuple5 = tuple[str, int, str, int, int]
_Span = tuple[int, int, str]
"""Beginning and end of a log's entry in ns, its label."""
_FEW = 16
"""Entries of one flow that are looked through one by one."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What a join gave: flows labelled, without a label, and with several that disagree."""

    labelled: int
    unlabelled: int
    conflicts: int

    def line(self) -> str:
        """One line for stderr."""
        total = self.labelled + self.unlabelled + self.conflicts
        share = self.unlabelled / total if total else 0.0
        return (
            f"{self.labelled:,} of {total:,} flows labelled, {self.unlabelled:,} without a label ({share:.1%}), "
            f"{self.conflicts:,} with labels that disagree, left out"
        )


class Labels:
    """Labels of log files, looked up flow by flow; memory grows with the logs, not with the captures.

    `field` names the column that holds the label (dotted for nested JSON); by default the first known one of each row. A flow
    with several different labels is a conflict and gets none. Raises InputError where no row has a label.
    """

    def __init__(self, paths: Sequence[str | Path], *, field: str = "") -> None:
        self._by_id: dict[str, list[_Span]] = defaultdict(list)
        self._by_tuple: dict[Tuple5, list[_Span]] = defaultdict(list)
        self._trees: dict[str | Tuple5, _Tree] = {}
        self.counts: Counter[str] = Counter()
        rows = 0
        for path in paths:
            for entry, values in entries(path):
                rows += 1
                if label := _label(values, field):
                    self._add(entry, label)
        if not rows or not (self._by_id or self._by_tuple):
            named = f"column '{field}'" if field else f"one of {', '.join(_DEFAULTS)}"
            raise InputError(
                "input.labels", f"no label in {rows:,} rows", input=", ".join(map(str, paths)), hint=f"labels are looked for in {named}"
            )
        for spans in (*self._by_id.values(), *self._by_tuple.values()):
            spans.sort()

    def _add(self, entry: Entry, label: str) -> None:
        start = -(1 << 62) if entry.ts is None else entry.ts
        end = 1 << 62 if entry.ts is None else entry.ts + entry.duration
        if entry.community_id:
            self._by_id[entry.community_id].append((start, end, label))
        if entry.has_tuple:
            self._by_tuple[five_tuple(entry.orig_h, entry.orig_p, entry.resp_h, entry.resp_p, entry.proto)].append((start, end, label))

    def of(
        self, *, community_id: str, orig_h: str, orig_p: int, resp_h: str, resp_p: int, proto: int, ts: int, duration: int
    ) -> str | None:
        """The label of a flow, None where there is none or several disagree; times in ns. `counts` says how often which was the case."""
        key: str | Tuple5 = community_id
        spans = self._by_id.get(community_id, [])
        if not spans:
            key = five_tuple(orig_h, orig_p, resp_h, resp_p, proto)
            spans = self._by_tuple.get(key, [])
        touching = self._touching(key, spans)
        labels = touching(ts, ts + duration) or touching(ts - SLACK, ts + duration + SLACK)
        kind = "unlabelled" if not labels else "labelled" if len(labels) == 1 else "conflicts"
        self.counts[kind] += 1
        return labels.pop() if len(labels) == 1 else None

    def _touching(self, key: str | Tuple5, spans: Sequence[_Span]) -> Callable[[int, int], set[str]]:
        if len(spans) <= _FEW:
            return lambda start, end: {label for first, last, label in spans if first <= end and last >= start}
        if key not in self._trees:
            self._trees[key] = _Tree(spans)
        return self._trees[key].touching

    def joined(self) -> Joined:
        """What the look-ups so far gave."""
        return Joined(self.counts["labelled"], self.counts["unlabelled"], self.counts["conflicts"])


class _Tree:
    """An interval tree in an array: of the entries, sorted by their beginning, the middle one is the root of those around it.

    Thousands of alerts on one flow are then not walked through for each part of that flow, also where one entry spans them all.
    """

    def __init__(self, spans: Sequence[_Span]) -> None:
        self._spans = spans
        self._latest = [0] * len(spans)
        self._fill(0, len(spans))

    def _fill(self, low: int, high: int) -> int:
        """The latest end among entries low to high - 1, noted at the middle one."""
        if low >= high:
            return -(1 << 63)
        middle = (low + high) // 2
        self._latest[middle] = max(self._spans[middle][1], self._fill(low, middle), self._fill(middle + 1, high))
        return self._latest[middle]

    def touching(self, start: int, end: int) -> set[str]:
        """Labels of the entries that touch a span of time."""
        labels = set()
        parts = [(0, len(self._spans))]
        while parts:
            low, high = parts.pop()
            middle = (low + high) // 2
            if low >= high or self._latest[middle] < start:
                continue
            first, last, label = self._spans[middle]
            parts.append((low, middle))
            if first <= end:
                parts.append((middle + 1, high))
                if last >= start:
                    labels.add(label)
        return labels


def five_tuple(orig_h: str, orig_p: int, resp_h: str, resp_p: int, proto: int) -> Tuple5:
    """The same value for both directions; without ports for ICMP, whose types tools write in different places."""
    if proto in {1, 58}:
        orig_p = resp_p = 0
    a, b = (orig_h, orig_p), (resp_h, resp_p)
    (low_h, low_p), (high_h, high_p) = (a, b) if a <= b else (b, a)
    return low_h, low_p, high_h, high_p, proto


def _label(values: Mapping[str, Any], field: str) -> str:
    if field:
        return _text(values.get(field))
    lower = {name.lower(): value for name, value in values.items()}
    return next((text for name in _DEFAULTS if (text := _text(lower.get(name)))), "")


def _text(value: Any) -> str:
    text = str(value).strip() if value is not None else ""
    return "" if text in {"-", "(empty)"} else text
