"""The tools of the MCP server: each a few lines over the functions that the commands call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import NOT_COVERED, UNKNOWN
from trafficllm.surface.agent import briefs, marks, pages
from trafficllm.surface.agent import results as answers

if TYPE_CHECKING:
    from trafficllm.core.types import ProgressSink
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.results import Analyze
    from trafficllm.lifecycle.analyze.verdict_table import VerdictTable
    from trafficllm.lifecycle.facts.results import Cell
    from trafficllm.surface.agent.workbench import Workbench

Capture = Annotated[str, Field(max_length=1024, description="A capture below the root: its path relative to it.")]
Task = Annotated[str, Field(max_length=64, description="A task's id (list_tasks); empty: those of the last analyze_capture.")]
Offset = Annotated[int, Field(ge=0, le=10_000_000, description="The first item: next_offset of the page before.")]
Limit = Annotated[int, Field(ge=1, le=100, description="Items a page at most; fewer where 8 KB are full.")]
FlowId = Annotated[str, Field(max_length=64, description="A flow's id, as list_flows gives it.")]
_NOTABLE_HOSTS, _NOTABLE_FLOWS = 5, 10
_VIOLATIONS = 20
_LABELS = 12


class Tools:
    """The tools' functions over one workbench. What goes wrong is a TrafficLLMError."""

    def __init__(self, bench: Workbench, progress: ProgressSink | None = None) -> None:
        self.bench = bench
        self.progress = progress

    def analyze_capture(
        self,
        capture: Capture,
        question: Annotated[str, Field(max_length=2000, description="What you want to know, in plain words.")] = "",
        task: Annotated[str, Field(max_length=64, description="A task's id, where you know it.")] = "",
    ) -> answers.AnalyzeAnswer:
        """Judge every flow of a capture: one sentence first, then hosts, then the most notable flows.

        Name a task, or ask a question, which is routed to tasks; with neither, two tasks say what flows are and whether they are bad.
        A question that the capture alone answers (how many packets, top talkers, TLS versions) is answered in `fact`, without verdicts;
        hosts, ports and times that a question names restrict the flows.
        """
        from trafficllm.lifecycle.analyze.facts import analyze_facts
        from trafficllm.lifecycle.facts.asking import understood

        path = self.bench.capture(capture)
        asked = understood(question)
        with self.bench.turn(self.progress) as sink:
            if not task and asked.fact is not None:
                return _counted(self._name(path), analyze_facts([path], asked, self.bench.workspace.config, progress=sink))
            table = self.bench.table(path, sink, task=task, question=question, both=True)
        return _analyzed(self._name(path), table.only(asked.filters), str(asked.filters))

    def list_flows(
        self,
        capture: Capture,
        *,
        label: Annotated[str, Field(max_length=256, description="Only this label, or this answer above labels (malicious).")] = "",
        host: Annotated[str, Field(max_length=64, description="Only flows from or to this address.")] = "",
        to: Annotated[str, Field(max_length=64, description="Only flows to this address.")] = "",
        proto: Annotated[str, Field(max_length=16, description="tcp, udp, icmp, icmp6.")] = "",
        port: Annotated[int, Field(ge=0, le=65535, description="Only flows from or to this port; 0: any.")] = 0,
        after: Annotated[str, Field(max_length=64, description="Only flows that begin at this time or later (ISO 8601, or 12:03).")] = "",
        before: Annotated[str, Field(max_length=64, description="Only flows that begin before this time.")] = "",
        min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0,
        order: Literal["notable", "time", "confidence", "packets"] = "notable",
        task: Task = "",
        offset: Offset = 0,
        limit: Limit = 20,
    ) -> answers.FlowPage:
        """List a capture's flows with their verdicts, filtered, a page at a time."""
        from trafficllm.lifecycle.analyze.verdict_table import VerdictFilter

        path, table = self._judged(capture, task)
        wanted = VerdictFilter(
            label=label,
            host=host,
            to=to,
            proto=proto,
            port=port,
            after=table.moment(after) if after else None,
            before=table.moment(before) if before else None,
            least=min_confidence,
        )
        _check(table, label)
        rows = table.select(wanted, order)

        def build(part: Sequence[VerdictRow], following: int | None) -> answers.FlowPage:
            return answers.FlowPage(
                capture=self._name(path),
                flows_in_capture=len(table.rows),
                matching=len(rows),
                offset=offset,
                flows=[briefs.flow(row) for row in part],
                next_offset=following,
            )

        return pages.page(build, rows, offset=offset, limit=limit)

    def explain_flow(self, capture: Capture, flow: FlowId, task: Task = "") -> answers.FlowExplanation:
        """Say why a flow has its verdict: likeliest labels, the packets and fields that it rests on, how to open it in Wireshark."""
        from trafficllm.lifecycle.analyze.verdict_table import explained

        path, table = self._judged(capture, task)
        row, *others = table.flow(flow)
        with self.bench.turn(self.progress) as sink:
            why = explained(self.bench.workspace, [path], row, progress=sink)
        laboratory = self.bench.workspace.registry.live(row["task"]).laboratory_only
        return briefs.explanation(self._name(path), why, others, laboratory_only=laboratory)

    def get_packets(
        self,
        capture: Capture,
        *,
        flow: Annotated[str, Field(max_length=64, description="Only this flow's packets; empty: all of the capture.")] = "",
        fields: Annotated[list[str], Field(max_length=24, description="tshark's field names; empty: addresses, ports, flags.")] = [],  # noqa: B006
        offset: Offset = 0,
        limit: Limit = 40,
        task: Task = "",
    ) -> answers.PacketPage:
        """Show packets, header fields only, in tshark's names and formats, a page at a time."""
        from trafficllm.lifecycle.analyze import captures
        from trafficllm.lifecycle.analyze.verdict_table import packets_of

        names = tuple(fields) or captures.PACKET_FIELDS
        config = self.bench.workspace.config
        if flow:
            path, table = self._judged(capture, task)
            rows = packets_of([path], table.flow(flow)[0], names, config=config)
        else:
            path = self.bench.capture(capture)
            rows = captures.packets([path], names, config=config)
        with self.bench.turn(self.progress) as sink:
            taken = list(islice(_watched(rows, sink), offset + limit + 1))
        more = len(taken) > offset + limit
        taken = taken[: offset + limit]

        def build(part: Sequence[tuple[str, ...]], following: int | None) -> answers.PacketPage:
            return answers.PacketPage(
                capture=self._name(path),
                flow=flow,
                fields=list(names),
                packets=[[marks.value(cell) for cell in row] for row in part],
                matching=None if more else len(taken),
                offset=offset,
                next_offset=following,
            )

        return pages.page(build, taken, offset=offset, limit=limit, more=more)

    def capture_info(self, capture: Capture) -> answers.CaptureFacts:
        """Count a capture's packets, bytes, flows, link types, and all that could not be read. No model takes part."""
        from trafficllm.lifecycle.analyze import captures

        path = self.bench.capture(capture)
        with self.bench.turn(self.progress) as sink:
            found = captures.info([path], progress=sink)
        return answers.CaptureFacts(
            capture=self._name(path),
            bytes_of_file=path.stat().st_size,
            packets=found.packets,
            bytes=found.bytes,
            start=marks.instant(found.first),
            end=marks.instant(found.last),
            seconds=round((found.last or 0.0) - (found.first or 0.0), 6),
            flows=found.flows,
            link_types=briefs.counts(found.link_types),
            non_ip=found.non_ip,
            non_flow=found.non_flow,
            truncated=found.truncated,
            malformed=briefs.counts(found.malformed),
            not_read=_reasons(found.not_read),
        )

    def check_capture(self, capture: Capture) -> answers.CaptureValidity:
        """Check that packets are valid: headers whole, lengths and checksums right, TCP possible."""
        from trafficllm.lifecycle.analyze import captures

        path = self.bench.capture(capture)
        with self.bench.turn(self.progress) as sink:
            found = captures.check([path], self.bench.workspace.config, progress=sink)

        def build(part: Sequence[str]) -> answers.CaptureValidity:
            return answers.CaptureValidity(
                capture=self._name(path),
                valid=found.valid,
                packets=found.packets,
                malformed=briefs.counts(found.malformed),
                bad_checksums=found.bad_checksums,
                bad_lengths=found.bad_lengths,
                tcp_violations=[marks.value(line) for line in part],
                tcp_violations_in_all=len(found.tcp_violations),
                tcp_unseen=found.tcp_unseen,
                unchecked=found.unchecked,
            )

        return pages.fitting(build, found.tcp_violations[:_VIOLATIONS])[0]

    def compare_with_known(
        self,
        capture: Capture,
        *,
        known: Annotated[
            str,
            Field(
                max_length=1024,
                description="A file of vectors (`trafficllm embed -o`), a data set, or a folder of labelled captures below the root; "
                "empty: the package's labelled captures.",
            ),
        ] = "",
        flow: Annotated[str, Field(max_length=64, description="Only this flow; empty: all.")] = "",
        task: Annotated[str, Field(max_length=64, description="As this task's live adapter sees flows; empty: the bare base.")] = "",
        neighbours: Annotated[int, Field(ge=1, le=10, description="Known flows named for each.")] = 3,
        offset: Offset = 0,
        limit: Limit = 20,
    ) -> answers.Comparison:
        """Name the known flows that are nearest to each flow of a capture."""
        from trafficllm.lifecycle.analyze.known import compared
        from trafficllm.lifecycle.studies.embed import Representation

        path = self.bench.capture(capture)
        place = self._known(known)
        with self.bench.turn(self.progress) as sink:
            how = Representation.of(self.bench.workspace, task)
            flows = self.bench.known.of(how, place, progress=sink)
            near = compared(flows, how, path, flow=flow, offset=offset, limit=limit, neighbours=neighbours, progress=sink)

        def build(part: Sequence[answers.Compared], following: int | None) -> answers.Comparison:
            return answers.Comparison(
                capture=self._name(path),
                known=marks.name(known) if known else "the package's labelled captures",
                known_flows=near.known_flows,
                flows_in_capture=near.flows_in_capture,
                matching=near.matching,
                offset=offset,
                flows=list(part),
                next_offset=following,
            )

        rows = [briefs.compared(row) for row in near.flows]
        return pages.part(build, rows, offset=offset, total=near.matching)

    def list_tasks(self, offset: Offset = 0, limit: Limit = 20) -> answers.TaskPage:
        """List the tasks: what each asks, its labels, and whether an adapter is live for it."""
        from trafficllm.lifecycle.tasks import task_list
        from trafficllm.records.catalog import load_tasks

        rows, shipped = task_list(self.bench.workspace).tasks, load_tasks()
        lives = self.bench.workspace.registry.live_versions()
        every = [
            answers.TaskBrief(
                id=marks.name(row.id),
                title=row.title if row.id in shipped else marks.name(row.title),
                kind=row.kind,
                granularity=row.granularity,
                live=row.live,
                laboratory_only=row.id in lives and lives[row.id].laboratory_only,
                labels=[marks.name(label) for label in row.labels[:_LABELS]],
                labels_in_all=len(row.labels),
            )
            for row in rows
        ]

        def build(part: Sequence[answers.TaskBrief], following: int | None) -> answers.TaskPage:
            return answers.TaskPage(tasks=list(part), total=len(every), offset=offset, next_offset=following)

        return pages.page(build, every, offset=offset, limit=limit)

    def audit_dataset(
        self,
        dataset: Annotated[str, Field(max_length=1024, description="A data set, or a folder of <label>/*.pcap, below the root; . is it.")],
        task: Annotated[str, Field(max_length=64, description="The task that the labels are of.")] = "MTD",
    ) -> answers.DatasetAudit:
        """Look for shortcuts in a data set, and say which score on it may be believed. Takes about a minute."""
        from trafficllm.evaluate.audit.words import finding_line
        from trafficllm.lifecycle.studies.audit import audit

        place = self.bench.root.place(dataset)
        with self.bench.turn(self.progress) as sink:
            found = audit(place, self.bench.workspace.task(task), progress=sink)
        findings = [answers.AuditedFinding(kind=row.kind, finding=marks.sentence(finding_line(row), [row.field])) for row in found.findings]

        def build(part: Sequence[answers.AuditedFinding]) -> answers.DatasetAudit:
            return answers.DatasetAudit(
                dataset=marks.name(dataset),
                verdict=marks.sentence(found.verdict, [*found.classes, *(row.field for row in found.findings)]),
                honest=found.honest,
                leaky=found.leaky,
                findings=list(part),
                findings_in_all=len(findings),
                not_measurable=[marks.name(name) for name in list(found.not_measurable)[:_LABELS]],
                masked_fields=found.masked_fields[:40],
            )

        return pages.fitting(build, findings)[0]

    def generate_capture(
        self,
        file: Annotated[str, Field(max_length=1024, description="Where it goes: a new .pcap or .pcapng below the write root.")],
        task: Annotated[str, Field(max_length=64, description="A generation task (MTG, ...).")],
        label: Annotated[str, Field(max_length=256, description="The label whose traffic is to be written.")],
        flows: Annotated[int, Field(ge=1, le=1000)] = 10,
        seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
    ) -> answers.Generated:
        """Write a valid synthetic capture of one label: documentation addresses only, marked as synthetic, nothing overwritten."""
        from trafficllm.lifecycle.generate import synthesis

        root = self.bench.write_root
        if root is None:
            raise UsageError("usage.read_only", "this server only reads", input="generate_capture", hint="start it with --allow-write DIR")
        out = root.new(file)
        if out.suffix not in {".pcap", ".pcapng"}:
            raise UsageError("usage.format", "no capture's name", input=file, hint="a name that ends in .pcap or .pcapng")
        root.new(f"{file}.json")
        with self.bench.turn(self.progress) as sink:
            parts = synthesis.parts(self.bench.workspace, task=task, label=label, flows=flows)
            made = synthesis.generate(self.bench.workspace, synthesis.Scenario(parts, seed), out=out, progress=sink)
        return answers.Generated(
            file=marks.name(root.name(out)),
            task=marks.name(made.task),
            label=marks.name(made.label),
            flows=made.flows,
            packets=made.packets,
            valid=made.valid,
            seed=made.seed,
            sha256=made.sha256,
        )

    # What the tools share

    def _name(self, path: Path) -> str:
        return marks.name(self.bench.root.name(path))

    def _judged(self, capture: str, task: str) -> tuple[Path, VerdictTable]:
        path = self.bench.capture(capture)
        with self.bench.turn(self.progress) as sink:
            return path, self.bench.table(path, sink, task=task, latest=True)

    def _known(self, name: str) -> Path | None:
        """A file or folder below the root; None for the package's own captures."""
        if not name:
            return None
        try:
            return self.bench.root.file(name)
        except InputError:
            return self.bench.root.place(name)


def _counted(capture: str, found: Analyze) -> answers.AnalyzeAnswer:
    """A fact about a capture, as many rows of its table as fit."""
    fact, totals = found.fact, found.capture
    assert fact is not None

    def build(part: Sequence[Sequence[Cell]]) -> answers.AnalyzeAnswer:
        rows = [[marks.value(cell) if isinstance(cell, str) else cell for cell in row] for row in part]
        return answers.AnalyzeAnswer(
            capture=capture,
            answer=marks.sentence(fact.sentence, [cell for row in fact.rows for cell in row if isinstance(cell, str)]),
            fact=answers.FactTable(fact=fact.fact, probability=fact.probability, columns=fact.columns, rows=rows, rows_in_all=fact.total),
            filters=fact.filters,
            tasks=[],
            routed_to=[],
            packets=totals.packets,
            flows=totals.flows,
            start=marks.instant(totals.first),
            end=marks.instant(totals.last),
            verdicts={},
            above={},
            hosts={},
            notable_hosts=[],
            notable_flows=[],
            left_out={"rows": fact.total - len(part)},
            not_read=_reasons(totals.not_read),
            next=[f'analyze_capture(capture="{capture}")'],
        )

    return pages.fitting(build, fact.rows)[0]


def _analyzed(capture: str, table: VerdictTable, filters: str) -> answers.AnalyzeAnswer:
    """The summary of a capture's verdicts within 8 KB."""
    chosen = [row for row in table.select() if row["label"] not in {UNKNOWN, NOT_COVERED}][:_NOTABLE_FLOWS]
    hosts = table.notable_hosts[:_NOTABLE_HOSTS]
    totals = table.totals
    call = f'capture="{capture}"'

    def build(part: Sequence[VerdictRow]) -> answers.AnalyzeAnswer:
        return answers.AnalyzeAnswer(
            capture=capture,
            answer=table.sentence(),
            fact=None,
            filters=filters,
            tasks=[marks.name(name) for name in table.tasks],
            routed_to=[answers.RoutedTask(id=marks.name(row.id), probability=round(row.probability, 4)) for row in table.route.tasks]
            if table.route
            else [],
            packets=totals.packets,
            flows=totals.flows,
            start=marks.instant(totals.first),
            end=marks.instant(totals.last),
            verdicts={marks.name(task): briefs.counts(by_label) for task, by_label in table.verdicts().items()},
            above={marks.name(task): briefs.counts(by_answer) for task, by_answer in table.above().items()},
            hosts={marks.name(task): briefs.counts(by_answer) for task, by_answer in table.host_counts.items()},
            notable_hosts=[briefs.host(row) for row in hosts],
            notable_flows=[briefs.flow(row) for row in part],
            left_out={"notable_hosts": len(table.notable_hosts) - len(hosts), "flows": len(table.rows) - len(part) + table.beyond},
            not_read=_reasons(totals.not_read),
            next=[f"list_flows({call})", *(f'explain_flow({call}, flow="{row["uid"]}")' for row in part[:1])],
        )

    return pages.fitting(build, chosen)[0]


def _reasons(counts: Mapping[str, int]) -> dict[str, int]:
    """Frames that are in no flow, by the reason in our own words."""
    return dict(list(counts.items())[: briefs.LABELS])


def _check(table: VerdictTable, label: str) -> None:
    """UsageError for a label that these tasks can never give: an empty list must not pass for good news."""
    if label and label not in table.labels:
        names = ", ".join(marks.name(name) for name in sorted(table.labels)[:40])
        raise UsageError("usage.label", "no verdict of these tasks", input=label, hint=f"verdicts are {names}")


def _watched(rows: Iterable[tuple[str, ...]], sink: ProgressSink) -> Iterator[tuple[str, ...]]:
    """Rows as they come, with an end at the deadline."""
    for number, row in enumerate(rows):
        if number % 4096 == 0:
            sink.update("packets", number, None)
        yield row
