"""`generate scenario`: a scenario file in, a labelled exercise out: capture, answers, logs, briefing, rule test, timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm import __version__
from trafficllm.capture.files.write import PcapngWriter
from trafficllm.core.errors import UsageError
from trafficllm.core.files import atomic_dir, atomic_stream, atomic_write, sha256_file, write_json
from trafficllm.core.types import ProgressSink, Silent
from trafficllm.lifecycle.generate.scenario.file import Background, Event, ScenarioFile, load_scenario
from trafficllm.lifecycle.generate.scenario.network import Network
from trafficllm.lifecycle.generate.scenario.output.answers import AnswerFile, LabelFile, packet_comment
from trafficllm.lifecycle.generate.scenario.output.briefing import briefing
from trafficllm.lifecycle.generate.scenario.output.rules import RuleCaptures, rule_captures, write_tests
from trafficllm.lifecycle.generate.scenario.output.tally import Tally
from trafficllm.lifecycle.generate.scenario.output.timeline_picture import timeline
from trafficllm.lifecycle.generate.scenario.results import GenerateScenario, ScenarioCheck, ScenarioClass, ScenarioEvent
from trafficllm.lifecycle.generate.scenario.schedule import SECOND, Due, Load, classes, due_flows
from trafficllm.lifecycle.generate.scenario.source.open import Opened, open_source
from trafficllm.lifecycle.generate.scenario.traffic import Compiler, Sent, captured, in_order, merged

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace

CAPTURE, EXERCISE, ANSWERS, LABELS = "capture.pcapng", "exercise.pcapng", "answers.json", "labels.csv"
CONN_LOG, BRIEFING, TIMELINE, RULES, RESULT = "conn.log", "briefing.md", "timeline.svg", "rules", "scenario.json"
SOURCE = "scenario.toml"
FILES = frozenset({CAPTURE, EXERCISE, ANSWERS, LABELS, CONN_LOG, BRIEFING, TIMELINE, RULES, RESULT, SOURCE})
"""All that a scenario's folder holds."""

ConnLog = Callable[[Path, Path], None]
"""Writes Zeek's conn.log of a capture (first path) to a file (second)."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a scenario is asked for: `rate` times its pace, `repeat` times in a row, at most `most_bytes` of capture; `merge` is a capture
    that events are laid into; `blind` also writes the capture without comments."""

    seed: int = 0
    rate: float = 1.0
    repeat: int = 1
    most_bytes: int = 1 << 30
    merge: Path | None = None
    blind: bool = False
    verify: bool = False
    tasks: tuple[str, ...] = ()


@dataclass(slots=True)
class _Run:
    """A scenario while it is written."""

    scenario: ScenarioFile
    wish: Wish
    load: Load
    network: Network
    compiler: Compiler
    tally: Tally
    sources: dict[int, Opened]
    numbers: dict[int, int] = field(default_factory=dict)
    bounded: bool = False
    written: int = 0

    @property
    def kinds(self) -> tuple[Background | Event, ...]:
        return classes(self.scenario)


def _require_own(out: Path) -> None:
    """UsageError for a file, and for a folder that holds anything but a scenario: it is replaced as a whole."""
    held = {path.name for path in out.iterdir()} if out.is_dir() else {out.name} if out.exists() else set()
    if held - FILES or (held and RESULT not in held):
        hint = "name a new folder; only one that holds a scenario and nothing else is written over"
        raise UsageError("usage.out", "the folder is not empty", input="--out", where=str(out), hint=hint)


def generate_scenario(
    name: str | Path, *, out: Path, wish: Wish, conn_log: ConnLog, workspace: Workspace | None = None, progress: ProgressSink | None = None
) -> GenerateScenario:
    """Write a scenario file, or a ready scenario by name, to the folder `out` (contract: `generate scenario`).

    The folder appears whole or not at all; the same file, seed and options give the same bytes. Memory holds the flows under way.
    Raises UsageError for a scenario that is wrong or too large, InputError for captures that cannot be read, ArtifactError where a
    generator is not live.
    """
    scenario, path = load_scenario(name)
    _require_own(out)
    run = _prepared(scenario, path, wish, workspace)
    with atomic_dir(out) as folder:
        answered = _write(run, folder, progress or Silent())
        atomic_write(folder / TIMELINE, timeline(scenario.title, run.kinds, run.tally))
        stop = run.tally.start + run.tally.span
        shown = EXERCISE if wish.blind else CAPTURE
        told = briefing(scenario, run.network, start=run.tally.start, stop=stop, capture=shown, merged=str(wish.merge or ""))
        atomic_write(folder / BRIEFING, told)
        atomic_write(folder / SOURCE, path.read_bytes())
        conn_log(folder / CAPTURE, folder / CONN_LOG)
        rules = write_tests(scenario, folder / RULES)
        result = _result(run, folder, answered=answered, rules=rules, workspace=workspace)
        write_json(folder / RESULT, {"synthetic": _mark(run), **result.as_dict()})
    return result


def _prepared(scenario: ScenarioFile, path: Path, wish: Wish, workspace: Workspace | None) -> _Run:
    start = round(scenario.start.timestamp() * SECOND)
    hosts: dict[str, bytes] = {}
    if wish.merge is not None:
        from trafficllm.lifecycle.generate.scenario.merging import look_at, mapped_hosts

        real = look_at(wish.merge)
        start, hosts = real.start, mapped_hosts(scenario, real)
    network = Network(scenario, seed=wish.seed, mapped=hosts)
    load = Load(start, wish.rate, wish.repeat, wish.seed)
    kinds, background = classes(scenario), wish.merge is None
    flows = [0] * len(kinds)
    for due in due_flows(scenario, load, background=background):
        flows[due.kind] += 1
    if not any(flows):
        raise UsageError("usage.scenario", "no flow would begin", input=str(path), hint="a longer span, a higher rate, or an event")
    sources = {
        k: open_source(kind, base=path.parent, workspace=workspace, flows=flows[k], seed=wish.seed)
        for k, kind in enumerate(kinds)
        if flows[k]
    }
    span = round(scenario.span * SECOND) * wish.repeat
    tally = Tally(len(kinds), start=start, span=span)
    return _Run(scenario, wish, load, network, Compiler(network, kinds, sources, seed=wish.seed), tally, sources)


def _mark(run: _Run) -> str:
    """What the capture says of itself."""
    kind = "synthetic events in a capture" if run.wish.merge else "synthetic traffic"
    return f"{kind}: TrafficLLM {__version__}, scenario {run.scenario.title}, seed {run.wish.seed}"


def _write(run: _Run, folder: Path, progress: ProgressSink) -> int:
    """Capture, answers, labels and the captures of the rule test, in one pass; how many answers there are."""
    total = sum(1 for _ in due_flows(run.scenario, run.load, background=run.wish.merge is None))
    with ExitStack() as stack:
        capture = PcapngWriter(stack.enter_context(atomic_stream(folder / CAPTURE)), comment=_mark(run), name=CAPTURE)
        blind = None
        if run.wish.blind:
            blind = PcapngWriter(stack.enter_context(atomic_stream(folder / EXERCISE)), comment=_mark(run), name=EXERCISE)
        answers = AnswerFile(stack.enter_context(atomic_stream(folder / ANSWERS)))
        labels = LabelFile(stack.enter_context(atomic_stream(folder / LABELS)))
        rules = stack.enter_context(rule_captures(run.scenario, folder / RULES))
        for sent in _packets(run, capture, total, progress):
            _sent(run, sent, capture, blind, rules)
            if sent.flow is not None and not sent.flow.left:
                labels.add(sent.flow)
                if sent.flow.event:
                    answers.add(sent.flow)
        answers.close()
        capture.close()
        if blind is not None:
            blind.close()
    run.written = capture.packets
    return answers.count


def _packets(run: _Run, capture: PcapngWriter, total: int, progress: ProgressSink) -> Iterator[Sent]:
    """Packets in order of time; no flow begins once the capture has its largest size."""

    def beginning() -> Iterator[Due]:
        for done, due in enumerate(due_flows(run.scenario, run.load, background=run.wish.merge is None)):
            progress.update("flows", done, total)
            if capture.size > run.wish.most_bytes:
                run.bounded = True
                return
            yield due
        progress.update("flows", total, total)

    packets = in_order(beginning(), run.compiler)
    if run.wish.merge is None:
        return packets
    from trafficllm.capture.files.read import read_frames

    return merged(captured(read_frames([run.wish.merge])), packets)


def _sent(run: _Run, sent: Sent, capture: PcapngWriter, blind: PcapngWriter | None, rules: RuleCaptures) -> None:
    """Write one packet to every capture it belongs to, and count it."""
    flow = sent.flow
    comment = packet_comment(flow) if flow is not None and flow.event else ""
    number = capture.add(sent.frame, sent.ts, sent.original, sent.link, comment=comment)
    if blind is not None:
        blind.add(sent.frame, sent.ts, sent.original, sent.link)
    rules.add(sent)
    if flow is not None:
        if not flow.packets:
            run.tally.begun(flow.kind, flow)
        run.tally.packet(flow.kind, sent.ts)
        flow.written(number, sent.ts)


def _result(run: _Run, folder: Path, *, answered: int, rules: Sequence[str], workspace: Workspace | None) -> GenerateScenario:
    from trafficllm.lifecycle.generate.scenario.checking import checks
    from trafficllm.lifecycle.generate.scenario.scoring import score
    from trafficllm.lifecycle.generate.synthesis import outside_documentation

    capture = folder / CAPTURE
    looks: list[ScenarioCheck] = checks(folder, rules=rules, verify=run.wish.verify, merged=run.wish.merge is not None)
    lanes = list(zip(run.kinds, run.tally.lanes, strict=True))
    return GenerateScenario(
        title=run.scenario.title,
        seed=run.wish.seed,
        capture=CAPTURE,
        answers=ANSWERS,
        labels=LABELS,
        conn_log=CONN_LOG,
        briefing=BRIEFING,
        timeline=TIMELINE,
        rules=[f"{RULES}/{name}" for name in rules],
        exercise=EXERCISE if run.wish.blind else None,
        flows=sum(lane.flows for lane in run.tally.lanes),
        packets=run.written,
        bytes=capture.stat().st_size,
        bounded=run.bounded,
        answered=answered,
        events=[
            ScenarioEvent(
                name=kind.name,
                label=kind.label,
                flows=lane.flows,
                packets=lane.packets,
                first=None if lane.first is None else lane.first / 1e9,
                last=None if lane.first is None else lane.last / 1e9,
                hosts=sorted(lane.senders | lane.receivers),
            )
            for kind, lane in lanes
            if isinstance(kind, Event)
        ],
        background=[
            ScenarioClass(label=kind.label, flows=lane.flows, packets=lane.packets, source=run.sources[k].origin)
            for k, (kind, lane) in enumerate(lanes)
            if isinstance(kind, Background) and k in run.sources
        ],
        repairs=dict(sorted(run.compiler.counts.repairs.items())),
        addresses_outside_documentation=outside_documentation(capture),
        checks=looks,
        scores=[score(workspace, folder, task) for task in run.wish.tasks] if workspace is not None else [],
        sha256=sha256_file(capture),
    )
