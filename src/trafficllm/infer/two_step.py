"""Verdicts in two steps: first the umbrella question (malicious or not, VPN or not), then, inside its answer, the label.

The first step is an adapter's own (`core.umbrella`) where one was fitted with background; of an adapter without one it is read off the
label. Either step may end as unknown: a malicious flow of no known family is `malicious`, label `unknown`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from trafficllm.core.types import F64, UNKNOWN, Scores
from trafficllm.core.umbrella import Umbrella

Flags: TypeAlias = npt.NDArray[np.bool_]

if TYPE_CHECKING:
    from trafficllm.records.catalog import Task


@dataclass(frozen=True, slots=True)
class Answer:
    """Both steps for one flow. `umbrella` is the first step's answer, `unknown`, or None where the task asks no such question;
    `probability` is that of the positive answer, `odds` its log-odds by the umbrella readout (None without one)."""

    label: str
    umbrella: str | None
    probability: float | None
    odds: float | None


@dataclass(frozen=True, slots=True)
class Steps:
    """How one adapter's scores become answers: its task, its labels' sides, and its umbrella step where it has one."""

    task: Task | None
    labels: tuple[str, ...]
    umbrella: Umbrella | None

    @property
    def malice(self) -> bool:
        """Whether the positive answer is malice."""
        return self.task is not None and self.task.asks_malice

    def answers(self, scores: Scores, strange: Sequence[bool]) -> list[Answer]:
        """One answer a row; `strange` says which rows look like no label of the task."""
        p = scores.probabilities
        best = p.argmax(axis=1).tolist() if p.size else []
        if self.task is None or not self.task.positive:
            stranger = Answer(UNKNOWN, UNKNOWN if self.task is not None and self.task.umbrella else None, None, None)
            return [stranger if odd else Answer(self.labels[k], self._above(k), None, None) for k, odd in zip(best, strange, strict=True)]
        task = self.task
        sides = np.array([task.is_positive(label) is True for label in self.labels])
        if self.umbrella is None or scores.umbrella is None:
            total = p[:, sides].sum(axis=1)
            return [self._read_off(int(k), bool(odd), float(t)) for k, odd, t in zip(best, strange, total, strict=True)]
        odds = self.umbrella.odds(scores.umbrella)
        chance = self.umbrella.probability(odds)
        outside = {side: self._outside(scores, positive=side) for side in (False, True)}
        return [
            self._inside(
                p[k],
                sides,
                {side: bool(rows[k]) for side, rows in outside.items()},
                odds=float(odds[k]),
                chance=float(chance[k]),
                strange=bool(strange[k]),
            )
            for k in range(len(p))
        ]

    def _above(self, label: int) -> str | None:
        return self.task.umbrella_of(self.labels[label]) if self.task is not None and self.task.umbrella else None

    def _read_off(self, best: int, strange: bool, total: float) -> Answer:
        if strange:
            return Answer(UNKNOWN, UNKNOWN, total, None)
        return Answer(self.labels[best], self._above(best) or UNKNOWN, total, None)

    def _inside(self, p: F64, sides: Flags, outside: dict[bool, bool], *, odds: float, chance: float, strange: bool) -> Answer:
        """One flow's answer; `outside` says of each side whether the flow is more like what other sources have there than like a label."""
        assert self.umbrella is not None
        positive = self.umbrella.flow(odds)
        if positive is None:
            return Answer(UNKNOWN, UNKNOWN, chance, odds)
        name = self.umbrella.positive if positive else self.umbrella.negative
        inside = np.flatnonzero(sides == positive)
        if strange or outside[positive] or not len(inside):
            return Answer(UNKNOWN if positive else name, name, chance, odds)
        return Answer(self.labels[int(inside[p[inside].argmax()])], name, chance, odds)

    def _outside(self, scores: Scores, *, positive: bool) -> Flags:
        """Whether the umbrella readout takes a row for what other sources have on this side (background, malware of families that the task
        does not name) rather than for any label of the task there."""
        assert self.umbrella is not None
        assert scores.umbrella is not None
        mine = [k for k, member in enumerate(self.umbrella.members) if member == positive]
        named = [k for k in mine if self.umbrella.classes[k] in self.labels]
        rest = [k for k in mine if k not in named]
        if not rest:
            return np.zeros(len(scores.umbrella), dtype=bool)
        if not named:
            return np.ones(len(scores.umbrella), dtype=bool)
        return np.asarray(scores.umbrella[:, rest].max(axis=1) > scores.umbrella[:, named].max(axis=1))
