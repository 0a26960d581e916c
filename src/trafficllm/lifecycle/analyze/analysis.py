"""Verdicts on their way out: the rows, the tasks that gave them, and which rows are to be noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trafficllm.core.errors import UsageError
from trafficllm.core.types import UNKNOWN
from trafficllm.lifecycle.analyze.adapter_facts import AdapterFacts
from trafficllm.lifecycle.analyze.hosts import HostRow, Hosts

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.infer.router.results import TaskRoute
    from trafficllm.lifecycle.analyze.results import CaptureTotals
    from trafficllm.lifecycle.facts.counting import CaptureFacts


def _none() -> CaptureTotals:
    from trafficllm.core.types import CaptureCounts
    from trafficllm.lifecycle.analyze.captures import totals

    return totals(CaptureCounts())


@dataclass(frozen=True, slots=True)
class Analysis:
    """Verdicts on their way: `batches` of rows (contract: `analyze`), the tasks that were chosen and why.

    `notable`: the labels and umbrella answers of each task that raise an event, as its task file says. `blank`: flows by task of
    which a log says too little for a verdict, `uncovered` flows of kinds that an adapter has not learnt. `hosts` fills while batches are
    taken. `filters`: which flows are asked for, in words; empty for all. `asks`: the question that each task answers. `facts`: what the
    captures hold, filled while batches are taken; None where no overview was asked for. `models`: what is behind each task's verdicts.
    """

    tasks: tuple[str, ...]
    route: TaskRoute | None
    batches: Iterator[list[VerdictRow]]
    labels: frozenset[str] = frozenset()
    counts: Callable[[], CaptureTotals] = field(default=_none)
    notable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    blank: Callable[[], Mapping[str, int]] = dict
    hosts: Hosts = field(default_factory=lambda: Hosts({}))
    uncovered: Callable[[], Mapping[str, int]] = dict
    filters: str = ""
    asks: Mapping[str, str] = field(default_factory=dict)
    facts: CaptureFacts | None = None
    models: Mapping[str, AdapterFacts] = field(default_factory=dict)

    def overview(self) -> str:
        """One line of facts once all batches are taken: packets, flows, hosts, time span, protocols, what is not covered."""
        from trafficllm.lifecycle.facts.answers import overview

        return overview(self.facts, self.counts()) if self.facts is not None and self.facts.flows else ""

    def names(self, row: VerdictRow) -> set[str]:
        """What a row can be asked for by: its label and the umbrella answer above it."""
        above = row["umbrella"]
        return {str(row["label"]), *([above] if above else [])}

    def severity(self, row: VerdictRow) -> int:
        """0 where nothing is to be noted, 1 for a notable verdict, 2 for an unknown flow of a task that has notable verdicts."""
        notable = self.notable.get(row["task"], frozenset())
        if self.names(row) & notable:
            return 1
        answer = row["label"] if row["umbrella"] is None else row["umbrella"]
        return 2 if notable and answer == UNKNOWN else 0

    def raises_event(self, host: HostRow) -> bool:
        """Whether a host's answer raises an event, as its task file says."""
        return host["umbrella"] in self.notable.get(host["task"], frozenset())

    def notable_hosts(self, rows: Sequence[HostRow] | None = None) -> list[HostRow]:
        """Hosts whose answer raises an event: of these rows, or of all seen so far."""
        return [row for row in (self.hosts.rows() if rows is None else rows) if self.raises_event(row)]

    def check_hosts(self) -> None:
        """Refuse to count hosts for tasks whose labels have no answer above them: nothing could be said of a host."""
        if not self.hosts.steps:
            message = f"no host answer from {', '.join(self.tasks)}: the labels have no answer above them (malicious or not, VPN or not)"
            raise UsageError("usage.option", message, input="--hosts", hint="leave --hosts out, or name a task such as MTD or EVD")

    def check_labels(self, labels: Sequence[str]) -> None:
        """Refuse a verdict that these tasks can never give: a typo in `--fail-on` must not pass for good news."""
        import difflib

        for label in labels:
            if label not in self.labels:
                closest = difflib.get_close_matches(label, sorted(self.labels), n=1, cutoff=0.0)
                raise UsageError(
                    "usage.label",
                    f"no verdict of {', '.join(self.tasks)} is '{label}'",
                    input=label,
                    hint=f"did you mean '{closest[0]}'?" if closest else "",
                )
