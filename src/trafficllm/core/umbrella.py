"""The first step of a verdict: the umbrella question of a task (malicious or not, VPN or not), answered before any label.

An umbrella readout gives logits for each label of the task and for the class of background flows. With P the labels whose umbrella answer
is positive and N all other classes, the background among them, a flow's log-odds are logsumexp(P) - logsumexp(N). Above `threshold` the
answer is positive, at or below `clear` negative, between the two unknown; both were chosen on sources that the readout had not learnt
(`evaluate.openworld`). `slope` and `intercept` make a probability of the log-odds (Platt 1999), at equal odds of both sides.

A host is judged by the mean log-odds of its HOST_FLOWS most positive flows: single flows of a beacon say little, and one false alarm
among a hundred flows should not name a host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trafficllm.core.calibration import Params, logsumexp
from trafficllm.core.types import F64

HOST_FLOWS = 3
"""Flows of a host that its score is the mean of: the most positive ones, or all where there are fewer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where an answer turns: positive above `threshold`, negative at or below `clear`, unknown between."""

    threshold: float
    clear: float

    def __call__(self, score: float) -> bool | None:
        """True for the positive answer, False for the negative one, None where it is unknown.

        >>> [Cut(2.0, -1.0)(score) for score in (2.5, 2.0, -1.0)]
        [True, None, False]
        """
        return True if score > self.threshold else None if score > self.clear else False


@dataclass(frozen=True, slots=True)
class AlertPoint:
    """Where a positive answer may be an alert: above `probability`, `precision` of the alerts were true where one flow in `1 / prevalence`
    is positive, by flows of sources left out; `recall` of the positive validation flows lie above it."""

    probability: float
    precision: float
    recall: float
    prevalence: float


@dataclass(frozen=True, slots=True)
class Umbrella:
    """The fitted first step of one adapter: `classes` are the umbrella readout's, `members` says which of them are positive; `alert` is
    None where no threshold was precise enough, and for adapters of earlier versions."""

    positive: str
    negative: str
    classes: tuple[str, ...]
    members: tuple[bool, ...]
    slope: float
    intercept: float
    flow: Cut
    host: Cut | None
    alert: AlertPoint | None = None

    @classmethod
    def of(cls, calibration: Params) -> Umbrella | None:
        """What a calibration states as `umbrella`; None where it states none."""
        facts = calibration.get("umbrella")
        if not facts:
            return None
        host, alert = facts.get("host"), facts.get("alert")
        return cls(
            str(facts["positive"]),
            str(facts["negative"]),
            tuple(facts["classes"]),
            tuple(bool(member) for member in facts["members"]),
            float(facts["slope"]),
            float(facts["intercept"]),
            Cut(float(facts["flow"]["threshold"]), float(facts["flow"]["clear"])),
            Cut(float(host["threshold"]), float(host["clear"])) if host else None,
            AlertPoint(*(float(alert[name]) for name in AlertPoint.__slots__)) if alert else None,
        )

    def odds(self, logits: Any) -> F64:
        """Log-odds [n] of the positive answer from an umbrella readout's logits [n, classes]."""
        return log_odds(np.asarray(logits, dtype=np.float64), np.asarray(self.members))

    def probability(self, odds: F64) -> F64:
        """Calibrated probability [n] of the positive answer, at equal odds of both sides."""
        return sigmoid(self.slope * odds + self.intercept)


def log_odds(logits: F64, members: Any) -> F64:
    """logsumexp of the member columns less that of the others [n].

    >>> log_odds(np.log([[0.5, 0.25, 0.25]]), np.array([True, False, False])).round(6).tolist()
    [0.0]
    """
    if not len(logits):
        return np.zeros(0)
    return logsumexp(logits[:, members]) - logsumexp(logits[:, ~np.asarray(members)])


def sigmoid(x: F64) -> F64:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, dtype=np.float64))))


def host_score(odds: F64) -> float:
    """A host's score: the mean of its HOST_FLOWS highest log-odds, of all where it has fewer flows.

    >>> host_score(np.array([5.0, 1.0, -9.0, 3.0])), host_score(np.array([2.0]))
    (3.0, 2.0)
    """
    return float(np.sort(np.asarray(odds, dtype=np.float64))[-HOST_FLOWS:].mean())
