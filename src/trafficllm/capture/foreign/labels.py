"""Labels of other sensors joined to flows: by Community ID, else by five-tuple, and by time."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
        self._by_id: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        self._by_tuple: dict[Tuple5, list[tuple[int, int, str]]] = defaultdict(list)
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
        for found in (*self._by_id.values(), *self._by_tuple.values()):
            found.sort()

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
        spans = self._by_id.get(community_id) or self._by_tuple.get(five_tuple(orig_h, orig_p, resp_h, resp_p, proto)) or []
        labels = _within(spans, ts, ts + duration) or _within(spans, ts - SLACK, ts + duration + SLACK)
        kind = "unlabelled" if not labels else "labelled" if len(labels) == 1 else "conflicts"
        self.counts[kind] += 1
        return labels.pop() if len(labels) == 1 else None

    def joined(self) -> Joined:
        """What the look-ups so far gave."""
        return Joined(self.counts["labelled"], self.counts["unlabelled"], self.counts["conflicts"])


def _within(spans: Sequence[tuple[int, int, str]], start: int, end: int) -> set[str]:
    """Labels of the entries, sorted by their beginning, that touch a span of time."""
    last = bisect.bisect_right(spans, (end, 1 << 63, ""))
    return {label for _, stop, label in spans[:last] if stop >= start}


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
