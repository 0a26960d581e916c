"""Which verdicts may leave as alerts, and how severe: a probability is not the hit of a signature.

By default a verdict is an event. It is an alert where alerts are wanted (`--alert`), or where it lies above the operating point at which
its adapter's precision was measured on sources left out (`core.umbrella.AlertPoint`). An alert has severity 3, the lowest, unless a
signature fired on the same flow: then it has that signature's severity. Unknown flows are never alerts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trafficllm.core.types import UNKNOWN
from trafficllm.lifecycle.analyze.adapter_facts import AdapterFacts

if TYPE_CHECKING:
    from trafficllm.capture.foreign.signatures import Signature, Signatures
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.analyze.hosts import HostRow

LOWEST = 3
"""Suricata's severities go from 1 (high) to 3 (low)."""


@dataclass(slots=True)
class Alerts:
    """Severity of the rows of an analysis. `always`: notable verdicts are alerts, whatever was measured; `signatures`: what may
    corroborate them; `held_back` counts notable verdicts that were no alerts. Hosts have the signatures of the flows that were asked for
    before them."""

    analysis: Analysis
    always: bool = False
    signatures: Signatures | None = None
    held_back: int = 0
    _hosts: dict[tuple[str, str], set[Signature]] = field(default_factory=dict)

    def facts(self, task: str) -> AdapterFacts:
        """What is behind a task's verdicts."""
        return self.analysis.models.get(task, AdapterFacts())

    def corroborating(self, row: VerdictRow) -> list[Signature]:
        """The signatures that fired on a row's flow, the most severe first; kept for its host too."""
        fired = self.signatures.on(row["community_id"], row["ts"], row["duration"]) if self.signatures is not None else []
        if fired:
            self._hosts.setdefault((row["file"], row["orig_h"]), set()).update(fired)
        return fired

    def severity(self, row: VerdictRow) -> int:
        """0 where the verdict is no alert, else 1 to 3."""
        fired = self.corroborating(row)
        if self.analysis.severity(row) != 1:
            return 0
        if not (self.always or self._measured(row)):
            self.held_back += 1
            return 0
        return _severity(fired)

    def of_host(self, host: HostRow) -> list[Signature]:
        """The signatures that fired on a host's flows, the most severe first."""
        return sorted(self._hosts.get((host["file"], host["host"]), ()))

    def host_severity(self, host: HostRow) -> int:
        """0 where the host's answer is no alert, else 1 to 3: precision is measured of flows, so hosts are alerts only where wanted."""
        return _severity(self.of_host(host)) if self.always and self.analysis.raises_event(host) else 0

    def _measured(self, row: VerdictRow) -> bool:
        point, chance = self.facts(row["task"]).alert, row["umbrella_probability"]
        return point is not None and chance is not None and row["umbrella"] not in (None, UNKNOWN) and chance > point.probability


def _severity(fired: list[Signature]) -> int:
    return min([LOWEST, *(each.severity for each in fired)])


def probability(row: VerdictRow) -> float | None:
    """The probability of what a verdict says: of its label, else of the answer above it; None where it says neither (unknown)."""
    if row["label"] in row["probabilities"]:
        return row["probabilities"][row["label"]]
    chance, above = row["umbrella_probability"], row["umbrella"]
    if chance is None or above in (None, UNKNOWN, "not covered"):
        return None
    return 1.0 - chance if row["label"] == above else chance
