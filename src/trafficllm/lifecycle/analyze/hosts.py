"""Hosts of a capture, judged by all their flows: single flows of a beacon say little, and one false alarm should not name a host."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import TypedDict

from trafficllm.core.results import Captured, Counts, closed
from trafficllm.core.types import NOT_COVERED, UNKNOWN
from trafficllm.core.umbrella import HOST_FLOWS, Umbrella, host_score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trafficllm.infer.detector import Verdict

MOST = 1 << 16
"""Hosts kept apart, of each task: a scan of a whole network would else fill the memory. Later ones are only counted."""


@closed
class HostRow(TypedDict):
    """A client of a capture and what its flows say together; `score` is the mean log-odds of its most positive flows, null without a
    fitted first step. `flows` counts all, `labels` those of each verdict."""

    file: Captured
    host: str
    task: Captured
    umbrella: str
    umbrella_probability: float | None
    malicious: float | None
    score: float | None
    flows: int
    labels: Counts
    first: float
    last: float
    frames: list[int]


@dataclass(slots=True)
class _Host:
    """One host's flows so far: the highest log-odds, counts by verdict, times in ns, and the frames its most positive flow begins with."""

    top: list[float] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    first: int = 0
    last: int = 0
    highest: float = float("-inf")
    frames: tuple[int, ...] = ()


class Hosts:
    """The hosts of an analysis, for tasks with an umbrella question; memory is bounded by MOST hosts a task."""

    def __init__(self, steps: Mapping[str, tuple[str, Umbrella | None, bool]]) -> None:
        """`steps` has for each task its positive answer, its fitted first step or None, and whether the answer is malice."""
        self.steps = steps
        self.beyond = 0
        """Flows of hosts that were not kept apart."""
        self._hosts: dict[tuple[str, str, str], _Host] = {}

    def add(self, verdict: Verdict) -> None:
        """Count a flow for the host that opened it."""
        if verdict.umbrella is None or verdict.task not in self.steps:
            return
        meta = verdict.meta
        key = (verdict.task, meta.capture, meta.orig_h)
        host = self._hosts.get(key)
        if host is None:
            if len(self._hosts) >= MOST * len(self.steps):
                self.beyond += 1
                return
            host = self._hosts[key] = _Host(first=meta.ts)
        host.labels[verdict.label] += 1
        host.answers[verdict.umbrella] += 1
        host.first, host.last = min(host.first, meta.ts), max(host.last, meta.ts + meta.duration)
        value = verdict.odds if verdict.odds is not None else verdict.umbrella_probability or 0.0
        if verdict.umbrella != NOT_COVERED and value > host.highest:
            host.highest, host.frames = value, tuple(meta.frames[:1])
        if verdict.odds is not None:
            (heapq.heappush if len(host.top) < HOST_FLOWS else heapq.heappushpop)(host.top, verdict.odds)

    def rows(self) -> list[HostRow]:
        """A row a host: positive ones first, then by score, then by flows."""
        order = {answer: place for place, answer in enumerate((True, None, False))}
        judged = [(self._judged(key[0], host), key, host) for key, host in self._hosts.items()]
        judged.sort(key=lambda item: (item[1][0], order[item[0][0]], -(item[0][1] or 0.0), -item[2].labels.total(), item[1]))
        return [self._row(key, host, answer, score) for (answer, score), key, host in judged]

    def counts(self) -> dict[str, dict[str, int]]:
        """Hosts by answer, for each task."""
        out: dict[str, Counter[str]] = {}
        for key, host in self._hosts.items():
            answer, _ = self._judged(key[0], host)
            out.setdefault(key[0], Counter())[self._word(key[0], answer)] += 1
        return {task: dict(sorted(counts.items(), key=lambda item: -item[1])) for task, counts in sorted(out.items())}

    def _judged(self, task: str, host: _Host) -> tuple[bool | None, float | None]:
        """The host's answer and score. Without a fitted step it is positive where as many of its flows are as a score would look at."""
        positive, umbrella, _ = self.steps[task]
        if umbrella is not None and umbrella.host is not None and host.top:
            score = host_score(np.array(host.top))
            return umbrella.host(score), score
        sure = host.labels.total() - host.answers[UNKNOWN] - host.answers[NOT_COVERED]
        if host.answers[positive] >= min(HOST_FLOWS, host.labels.total()):
            return True, None
        return (False if sure and not host.answers[positive] else None), None

    def _word(self, task: str, answer: bool | None) -> str:
        positive, umbrella, _ = self.steps[task]
        negative = umbrella.negative if umbrella is not None else f"not {positive}"
        return UNKNOWN if answer is None else positive if answer else negative

    def _row(self, key: tuple[str, str, str], host: _Host, answer: bool | None, score: float | None) -> HostRow:
        task, file, address = key
        _, umbrella, malice = self.steps[task]
        chance = None
        if umbrella is not None and score is not None:
            chance = float(umbrella.probability(np.array([score]))[0])
        return {
            "file": file,
            "host": address,
            "task": task,
            "umbrella": self._word(task, answer),
            "umbrella_probability": chance,
            "malicious": chance if malice else None,
            "score": score,
            "flows": host.labels.total(),
            "labels": dict(host.labels.most_common()),
            "first": host.first / 1e9,
            "last": host.last / 1e9,
            "frames": list(host.frames),
        }
