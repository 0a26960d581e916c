"""What `analyze` shows a person: counts by verdict, the notable flows first, who talked to whom, frames to open."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trafficllm.lifecycle.application import Analysis

_SHOWN = 20


class Summary:
    """Counts of verdicts and the most notable flows; memory does not grow with the capture."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.flows = 0
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.sureness: Counter[tuple[str, str]] = Counter()
        self.found: Counter[str] = Counter()
        self._notable: list[tuple[tuple[float, float], int, dict[str, Any]]] = []
        self._seen = 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count a batch of verdicts."""
        self.flows += len(rows)
        for row in rows:
            verdict = (str(row["task"]), str(row["label"]))
            self.verdicts[verdict] += 1
            self.sureness[verdict] += row["confidence"]
            self.found.update(self.analysis.names(row))

    def keep(self, rows: Sequence[dict[str, Any]]) -> None:
        """Remember the notable flows among these: by severity, then confidence, then order."""
        for row in rows:
            self._seen += 1
            severity = self.analysis.severity(row)
            item = ((-float(severity or 9), float(row["confidence"])), -self._seen, row)
            if len(self._notable) < _SHOWN:
                heapq.heappush(self._notable, item)
            else:
                heapq.heappushpop(self._notable, item)

    def body(self) -> dict[str, Any]:
        """The object of `analyze --json`."""
        verdicts: dict[str, dict[str, int]] = {}
        for (task, label), count in sorted(
            self.verdicts.items(), key=lambda item: (item[0][0], -item[1], item[0][1])
        ):
            verdicts.setdefault(task, {})[label] = count
        return {
            "flows": self.flows,
            "tasks": list(self.analysis.tasks),
            "route": self.analysis.route,
            "verdicts": verdicts,
            "notable": self.notable(),
            "capture": self.analysis.counts(),
        }

    def notable(self) -> list[dict[str, Any]]:
        """The kept flows, the most notable first."""
        return [row for _, _, row in sorted(self._notable, key=lambda item: item[:2], reverse=True)]

    def show(self, *, as_json: bool) -> None:
        """Print the summary: two tables, or one JSON object."""
        from trafficllm.surface.output import emit

        emit("analyze", self.body(), as_json=as_json, show=lambda _: self._show())

    def _show(self) -> None:
        from trafficllm.surface.output import note, show_table

        rows = [
            [task, label, count, self.sureness[task, label] / count]
            for (task, label), count in self._ordered()
        ]
        show_table(("task", "verdict", "flows", "mean confidence"), rows, right=("flows", "mean confidence"))
        show_table(
            ("verdict", "confidence", "from", "to", "proto", "packets", "frames"),
            map(_line, self.notable()),
            right=("confidence", "packets"),
        )
        if self._seen > _SHOWN:
            note(
                f"the {_SHOWN} most notable of {self._seen:,} flows: choose -f jsonl, csv, parquet, zeek or eve for all of them"
            )

    def _ordered(self) -> list[tuple[tuple[str, str], int]]:
        return sorted(self.verdicts.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))


def _line(row: Mapping[str, Any]) -> list[Any]:
    frames = sorted({item["frame"] for item in row["evidence"]}) or row["frames"]
    who, whom = f"{row['orig_h']}:{row['orig_p']}", f"{row['resp_h']}:{row['resp_p']}"
    return [row["label"], row["confidence"], who, whom, row["proto"], row["packets"], frames[:6]]
