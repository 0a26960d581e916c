"""Verdicts of a capture, kept: judged once, then filtered, ordered and explained as often as somebody asks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import FlowMeta, ProgressSink, Record, Silent
from trafficllm.lifecycle.analyze.sentences import counted, summary
from trafficllm.lifecycle.facts.filters import Ends
from trafficllm.records.codec.units import PROTOS

if TYPE_CHECKING:
    from trafficllm.core.settings import Config
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.infer.router.results import TaskRoute
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.analyze.hosts import HostRow
    from trafficllm.lifecycle.analyze.results import CaptureTotals
    from trafficllm.lifecycle.analyze.verdicts import Choice
    from trafficllm.lifecycle.facts.filters import Filters
    from trafficllm.lifecycle.workspace import Workspace

MOST = 100_000
"""Verdicts kept of one capture, about 1.5 KB each; later ones are counted and in no list."""
Order = Literal["notable", "time", "confidence", "packets"]
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?")
_PART = 512
_NUMBERS = {name: number for number, name in PROTOS.items()} | {"132": 132}
_PORTED = frozenset({"tcp", "udp"})
_ADDRESSES = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst")
_CLOSE = 1e-5
"""Seconds by which a packet may lie outside its flow: times in seconds since 1970 are floats."""


@dataclass(frozen=True, slots=True)
class VerdictFilter:
    """Which flows are asked for; what is left empty does not filter. `host` matches either end, `to` the responder, `label` a label or
    the answer above it; `after` and `before` are seconds since the Unix epoch and bound the flow's first packet."""

    label: str = ""
    host: str = ""
    to: str = ""
    proto: str = ""
    port: int = 0
    after: float | None = None
    before: float | None = None
    least: float = 0.0
    task: str = ""

    def takes(self, row: VerdictRow) -> bool:
        """Whether a flow is asked for."""
        return (
            (not self.label or self.label in {row["label"], row["umbrella"]})
            and (not self.host or self.host in {row["orig_h"], row["resp_h"]})
            and (not self.to or self.to == row["resp_h"])
            and (not self.proto or self.proto == row["proto"])
            and (not self.port or self.port in {row["orig_p"], row["resp_p"]})
            and (self.after is None or row["ts"] >= self.after)
            and (self.before is None or row["ts"] < self.before)
            and row["confidence"] >= self.least
            and (not self.task or self.task == row["task"])
        )


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """The verdicts of captures by the tasks that were chosen. `severities` goes with `rows`: 1 notable, 2 unknown where a task has
    notable verdicts, 0 else; `beyond` counts the verdicts that were not kept; `asks` and `notable` are those of the analysis."""

    tasks: tuple[str, ...]
    route: TaskRoute | None
    rows: tuple[VerdictRow, ...]
    severities: tuple[int, ...]
    hosts: tuple[HostRow, ...]
    notable_hosts: tuple[HostRow, ...]
    host_counts: dict[str, dict[str, int]]
    totals: CaptureTotals
    beyond: int = 0
    labels: frozenset[str] = frozenset()
    asks: Mapping[str, str] = field(default_factory=dict)
    notable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    _places: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def select(self, wanted: VerdictFilter | None = None, order: Order = "notable") -> list[VerdictRow]:
        """Flows that a filter takes: notable ones first and the surest of them first, or by time, confidence or packets."""
        chosen = [k for k, row in enumerate(self.rows) if wanted is None or wanted.takes(row)]
        keys: dict[str, Callable[[int], tuple[float, ...]]] = {
            "notable": lambda k: (self.severities[k] or 9, -self.rows[k]["confidence"], k),
            "time": lambda k: (self.rows[k]["ts"], k),
            "confidence": lambda k: (-self.rows[k]["confidence"], k),
            "packets": lambda k: (-self.rows[k]["packets"], k),
        }
        return [self.rows[k] for k in sorted(chosen, key=keys[order])]

    def only(self, filters: Filters) -> VerdictTable:
        """The same verdicts of the flows that pass; hosts stay as they were judged, by all their flows."""
        if not filters:
            return self
        holds = filters.passing()
        passing = [k for k, row in enumerate(self.rows) if holds(_ends(row))]
        named = {self.rows[k]["orig_h"] for k in passing}
        return replace(
            self,
            rows=tuple(self.rows[k] for k in passing),
            severities=tuple(self.severities[k] for k in passing),
            hosts=tuple(row for row in self.hosts if row["host"] in named),
            notable_hosts=tuple(row for row in self.notable_hosts if row["host"] in named),
            beyond=0,
            _places={},
        )

    def flow(self, uid: str) -> list[VerdictRow]:
        """A flow's verdicts, one a task; InputError where no flow has this id."""
        if not self._places:
            for k, row in enumerate(self.rows):
                self._places.setdefault(row["uid"], []).append(k)
        places = self._places.get(uid)
        if places is None:
            raise InputError("input.flow", "no flow of this capture has this id", input=uid[:64], hint="ids are the `uid` of a flow")
        return [self.rows[k] for k in places]

    def verdicts(self) -> dict[str, dict[str, int]]:
        """Flows by label, for each task, most first."""
        return _counted((row["task"], row["label"]) for row in self.rows)

    def above(self) -> dict[str, dict[str, int]]:
        """Flows by the answer above their labels, for the tasks that have one."""
        return _counted((row["task"], row["umbrella"]) for row in self.rows if row["umbrella"])

    def sentence(self) -> str:
        """A sentence a task, hosts before flows."""
        return " ".join(summary(self, counted(self.rows), self.notable_hosts))

    def moment(self, text: str) -> float:
        """Seconds since the epoch of an ISO 8601 time, or of a time of day (12:03, 12:03:07) on the capture's first day that has it.

        UTC where no zone is given. Raises UsageError for anything else.
        """
        return moment(text, self.totals.first)


def _ends(row: VerdictRow) -> Ends:
    return Ends(row["orig_h"], row["resp_h"], row["orig_p"], row["resp_p"], _NUMBERS.get(row["proto"], 0), round(row["ts"] * 1e9))


def moment(text: str, first: float | None) -> float:
    """Seconds since the epoch of a time in words; a time of day is the first such moment not before `first`'s day (UTC).

    >>> moment("1970-01-01T00:01:00", None), moment("00:02", 0.0)
    (60.0, 120.0)
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock and first is not None:
        day = datetime.fromtimestamp(first, tz=UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        hours, minutes, seconds = clock.groups()
        return (day + timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds or 0))).timestamp()
    try:
        given = datetime.fromisoformat(text.strip())
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        hint = "2026-01-31T12:03:07 or 12:03, UTC"
        raise UsageError("usage.time", "no time that can be read", input=text[:64], hint=hint) from error


def _counted(pairs: Iterator[tuple[str, str | None]]) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for (task, name), count in sorted(Counter(pairs).items(), key=lambda item: (item[0][0], -item[1], str(item[0][1]))):
        out.setdefault(task, {})[str(name)] = count
    return out


def judged(
    workspace: Workspace,
    paths: Sequence[str | Path],
    *,
    task: str = "",
    choice: Choice | None = None,
    progress: ProgressSink | None = None,
    most: int = MOST,
) -> VerdictTable:
    """Judge every flow of captures as `start` does, whatever hosts and times a question names, and keep the first `most` verdicts.

    `choice` is what `choose` made of a question. Raises what `start` raises.
    """
    from trafficllm.lifecycle.analyze.verdicts import start

    analysis = start(workspace, paths, task=task, choice=choice, progress=progress)
    rows: list[VerdictRow] = []
    beyond = 0
    for batch in analysis.batches:
        room = max(0, most - len(rows))
        rows += batch[:room]
        beyond += max(0, len(batch) - room)
    return tabled(analysis, rows, beyond)


def tabled(analysis: Analysis, rows: Sequence[VerdictRow], beyond: int = 0) -> VerdictTable:
    """The table of an analysis whose batches have been taken: `rows` of them, and how many were not kept."""
    hosts = analysis.hosts.rows()
    return VerdictTable(
        analysis.tasks,
        analysis.route,
        tuple(rows),
        tuple(map(analysis.severity, rows)),
        tuple(hosts),
        tuple(analysis.notable_hosts(hosts)),
        analysis.hosts.counts(),
        analysis.counts(),
        beyond,
        analysis.labels,
        analysis.asks,
        analysis.notable,
    )


@dataclass(frozen=True, slots=True)
class Explained:
    """A verdict with its evidence, and what parsers read in the flow: its service and header fields (captured text)."""

    row: VerdictRow
    service: str
    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, row: VerdictRow, record: Record) -> Explained:
        """A verdict with evidence, and the raw record that it is of."""
        return cls(row, record.facts.service, tuple((name, _words(value)) for name, value in record.facts.fields.items()))


def explained(workspace: Workspace, paths: Sequence[str | Path], row: VerdictRow, *, progress: ProgressSink | None = None) -> Explained:
    """One flow's verdict again, with the parts of its record that it rests on: the same flow, read and judged alone.

    Raises InputError where the captures no longer hold the flow.
    """
    from trafficllm.lifecycle.analyze.verdicts import EVIDENCE, open_detector

    for record, meta in _records(workspace, paths, row["task"], progress or Silent()):
        if meta.uid == row["uid"]:
            detector = open_detector(workspace, (row["task"],), evidence=EVIDENCE)
            again = detector.judge([(record, meta)], row["task"])[0].row()
            return Explained.of(again, record)
    raise InputError("input.flow", "the capture no longer holds this flow", input=row["uid"], hint="was the file changed meanwhile?")


def _words(value: int | str | tuple[int, ...]) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _records(workspace: Workspace, paths: Sequence[str | Path], task: str, progress: ProgressSink) -> Iterator[tuple[Record, FlowMeta]]:
    """Raw records of captures and logs, read as the task's adapter learnt; the batch's records are made one at a time."""
    from trafficllm.capture.files.read import expand
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.lifecycle.analyze.verdicts import flow_options
    from trafficllm.records.codec.flows import records_in
    from trafficllm.records.sources.logs import log_records, part_logs

    captures, logs = part_logs(expand(paths))
    if captures:
        for batch in read_flows(captures, options=flow_options(workspace, (task,)), progress=progress):
            for at in range(0, len(batch), _PART):
                yield from records_in(batch, at, at + _PART)
    for path in logs:
        yield from log_records(path)


def packets_of(
    paths: Sequence[str | Path], row: VerdictRow, fields: Sequence[str], *, config: Config | None = None
) -> Iterator[tuple[str, ...]]:
    """All packets of a flow, a row a packet of tshark's fields: those between its two ends, from its first packet to its last."""
    from trafficllm.lifecycle.analyze.captures import packets

    ends, ports = {row["orig_h"], row["resp_h"]}, {str(row["orig_p"]), str(row["resp_p"])}
    proto = row["proto"] if row["proto"] in _PORTED else ""
    asked = (*fields, "frame.time_epoch", *_ADDRESSES, *((f"{proto}.srcport", f"{proto}.dstport") if proto else ()))
    begin, end = row["ts"] - _CLOSE, row["ts"] + row["duration"] + _CLOSE
    for values in packets(paths, asked, config=config):
        time, *places = values[len(fields) :]
        seen = {part for cell in places[: len(_ADDRESSES)] for part in cell.split(",")}
        seen_ports = {part for cell in places[len(_ADDRESSES) :] for part in cell.split(",")}
        if begin <= float(time) <= end and ends <= seen and (not proto or ports <= seen_ports):
            yield values[: len(fields)]
