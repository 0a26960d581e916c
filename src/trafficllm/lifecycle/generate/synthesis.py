"""Labels -> one valid capture: sampled plans, compiled on one timeline, written, then checked as any other capture would be."""

from __future__ import annotations

import difflib
import ipaddress
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from trafficllm import __version__
from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.files import atomic_stream, sha256_file, write_json
from trafficllm.core.types import FlowPlan, ProgressSink, Silent
from trafficllm.lifecycle.generate.requests import MAX_FLOWS, Part, parts_of, shares_of
from trafficllm.lifecycle.generate.results import Generate, GeneratedPart
from trafficllm.lifecycle.tasks import route

if TYPE_CHECKING:
    from trafficllm.infer.generator.generator import Generator
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.catalog import Task

START = 1_767_225_600_000_000_000
"""Generated captures begin at 2026-01-01 00:00 UTC: a fixed time, so that equal seeds give equal bytes."""
SPREAD = 1_000_000_000
"""ns of the timeline a flow adds where no duration is asked for: one flow a second on average."""

# RFC 5737, RFC 3849: addresses that belong to nobody.
DOCUMENTATION = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")))
_ADDRESSES = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to write: how many flows of which labels (`parts`), from `start` over `duration` (ns), with which seed."""

    parts: tuple[Part, ...]
    seed: int = 0
    temperature: float = 1.0
    start: int = START
    duration: int | None = None

    @property
    def flows(self) -> int:
        """Flows of all parts."""
        return sum(part.flows for part in self.parts)

    @property
    def mark(self) -> str:
        """What the capture says of itself."""
        what = ", ".join(f"task {part.task}, label {part.label}" for part in self.parts)
        return f"synthetic traffic: TrafficLLM {__version__}, {what}, seed {self.seed}"


def outside_documentation(path: Path) -> int:
    """How many different addresses of a capture lie outside the documentation ranges."""
    from trafficllm.capture.fields.table import packet_rows

    seen = {address for row in packet_rows([path], _ADDRESSES) for cell in row for address in cell.split(",") if address}
    return sum(not any(ipaddress.ip_address(address) in net for net in DOCUMENTATION) for address in seen)


def label_of(task_labels: tuple[str, ...], label: str, task: str) -> str:
    """The label as the adapter knows it; UsageError with a suggestion."""
    if label in task_labels:
        return label
    closest = difflib.get_close_matches(label, task_labels, n=1, cutoff=0.0)
    raise UsageError(
        "usage.label",
        f"task {task} has no label '{label}'",
        input="--label",
        where=label,
        hint=f"did you mean '{closest[0]}'?" if closest else "",
    )


def parts(
    workspace: Workspace, *, task: str = "", label: str = "", mix: Sequence[str] = (), question: str = "", flows: int
) -> tuple[Part, ...]:
    """What a request asks for, by exactly one of: a task and a label, shares (`mix`), or a question that stage 1 routes.

    Raises UsageError where none or several are given, or a task or label is unknown; ArtifactError where no adapter is live.
    """
    if sum(map(bool, (label, mix, question))) != 1:
        raise UsageError(
            "usage.request",
            "say what to write",
            input="generate",
            hint="one of --task ID --label LABEL, --mix LABEL=SHARE, --question TEXT",
        )
    if question:
        return tuple(parts_of(question, _labels_of_question(workspace, question, task), flows=flows))
    wanted = shares_of(mix, task, flows=flows) if mix else [Part(task, label, flows)]
    checked = []
    for part in wanted:
        definition = _generation(workspace, part.task)
        live = workspace.registry.live(definition.id)
        name = label_of(tuple(live.manifest.get("labels", definition.labels)), part.label, definition.id)
        checked.append(Part(definition.id, name, part.flows))
    return tuple(part for part in checked if part.flows)


def _labels_of_question(workspace: Workspace, question: str, task: str) -> dict[str, Sequence[str]]:
    """Labels by live generation task: those that a question was routed to first, the others behind them, since a label that is named
    says more than a route ("50 flows of Neris" is botnet traffic to the router, and a class of the malware generator).

    Raises UsageError for a question that asks for nothing to be written, ArtifactError where no generator is live.
    """
    if task:
        ids = [_generation(workspace, task).id]
    else:
        kinds = {name: definition.kind for name, definition in workspace.tasks().items()}
        routed = [row.id for row in route(workspace, [question])[0].tasks]
        if not any(kinds[name] == "generation" for name in routed):
            raise UsageError(
                "usage.question",
                f"the question asks for {', '.join(routed) or 'none of the tasks'}",
                input="--question",
                hint="ask for traffic to be written, or name --task and --label",
            )
        every = dict.fromkeys([*routed, *kinds])
        ids = [name for name in every if kinds[name] == "generation" and workspace.registry.find_live(name) is not None]
        if not ids:
            hint = "`trafficllm adapter register DIR --task ID` makes one of your captures (see `trafficllm task list`)"
            raise ArtifactError("artifact.no_adapter", "no generator is registered", input=str(workspace.registry_root), hint=hint)
    return {name: workspace.registry.live(name).manifest.get("labels", workspace.task(name).labels) for name in ids}


def _generation(workspace: Workspace, task: str) -> Task:
    definition = workspace.task(task)
    if definition.kind != "generation":
        names = ", ".join(name for name, other in workspace.tasks().items() if other.kind == "generation")
        raise UsageError(
            "usage.task", f"task {definition.id} generates nothing", input="--task", where=task, hint=f"generation tasks are {names}"
        )
    return definition


class _Writers:
    """One generator a task; flows of all parts in one random order that the seed fixes."""

    def __init__(self, workspace: Workspace, scenario: Scenario) -> None:
        from trafficllm.infer.generator.generator import Generator
        from trafficllm.records.record_shape import RecordShape

        self.scenario = scenario
        self.generators: dict[str, Generator] = {}
        self.tasks: dict[str, Task] = {}
        self.versions: dict[str, str] = {}
        for name in dict.fromkeys(part.task for part in scenario.parts):
            version = workspace.load(name)
            self.versions[name] = version.version
            self.tasks[name] = workspace.task(name)
            self.generators[name] = Generator(
                workspace.engine, name, options=RecordShape.of(version.manifest).codec(), values=version.manifest.get("values")
            )

    def plans(self) -> Iterator[tuple[Part, FlowPlan]]:
        """Every flow with the part it belongs to, written when asked for."""
        made = [
            self.generators[part.task].plans(
                self.tasks[part.task], part.label, part.flows, seed=self.scenario.seed, temperature=self.scenario.temperature
            )
            for part in self.scenario.parts
        ]
        order = [k for k, part in enumerate(self.scenario.parts) for _ in range(part.flows)]
        if len(made) > 1:
            random.Random(self.scenario.seed).shuffle(order)
        for k in order:
            yield self.scenario.parts[k], next(made[k])

    def prevented(self) -> dict[str, int]:
        """By place in the record, how often the models' own choice was not allowed."""
        total: Counter[str] = Counter()
        for generator in self.generators.values():
            total.update(generator.prevented)
        return dict(sorted(total.items()))


def action_line(part: Part, plan: FlowPlan) -> dict[str, Any]:
    """A flow as its semantic actions: a line of the JSONL form. Times in ns, payload in hex."""
    actions = [{**asdict(action), "payload": action.payload.hex()} for action in plan.actions]
    return {
        "task": part.task,
        "label": part.label,
        "proto": plan.proto,
        "ip_version": plan.ip_version,
        "resp_p": plan.resp_p,
        "actions": actions,
    }


def _told(flows: Iterable[tuple[Part, FlowPlan]], n: int, lines: BinaryIO | None, progress: ProgressSink) -> Iterator[FlowPlan]:
    """Plans on their way to the compiler, each written down and counted."""
    import json

    for done, (part, plan) in enumerate(flows, 1):
        if lines is not None:
            lines.write(json.dumps(action_line(part, plan), sort_keys=True).encode() + b"\n")
        progress.update("generating", done, n)
        yield plan


def generate(workspace: Workspace, scenario: Scenario, *, out: Path, progress: ProgressSink | None = None) -> Generate:
    """Write a scenario (contract: `generate`): `out` is pcapng, pcap, or with the suffix .jsonl the flows' actions, a line each.

    A capture is marked as synthetic: in its section comment (pcapng) and in `<out>.json` beside it. Streams: memory holds the flows
    under way. Raises UsageError for more than 100,000 flows, ArtifactError where no adapter is live or one does not fit.
    """
    if not 1 <= scenario.flows <= MAX_FLOWS:
        raise UsageError("usage.flows", f"{scenario.flows:,} flows", input="--flows", hint=f"between 1 and {MAX_FLOWS:,}")
    writers, sink = _Writers(workspace, scenario), progress or Silent()
    made = _actions(writers, out, sink) if out.suffix == ".jsonl" else _capture(writers, out, sink)
    result = Generate(
        task=", ".join(writers.tasks),
        label=", ".join(part.label for part in scenario.parts),
        version=", ".join(writers.versions.values()),
        parts=[GeneratedPart(**asdict(part)) for part in scenario.parts],
        file=str(out),
        flows=scenario.flows,
        prevented=writers.prevented(),
        sha256=sha256_file(out),
        seed=scenario.seed,
        **made,
    )
    write_json(out.with_name(f"{out.name}.json"), {"synthetic": scenario.mark, **result.as_dict(), "file": out.name})
    return result


def _actions(writers: _Writers, out: Path, progress: ProgressSink) -> dict[str, Any]:
    with atomic_stream(out) as lines:
        for _ in _told(writers.plans(), writers.scenario.flows, lines, progress):
            pass
    return {"packets": 0, "repairs": {}, "addresses_outside_documentation": 0, "valid": None}


def _capture(writers: _Writers, out: Path, progress: ProgressSink) -> dict[str, Any]:
    from trafficllm.capture.check.captures import check
    from trafficllm.capture.compile.plans import CompileCounts
    from trafficllm.capture.files.write import write_capture
    from trafficllm.lifecycle.generate.timeline import timeline

    scenario = writers.scenario
    counts = CompileCounts()
    duration = SPREAD * scenario.flows if scenario.duration is None else scenario.duration
    plans = _told(writers.plans(), scenario.flows, None, progress)
    frames = timeline(plans, scenario.flows, seed=scenario.seed, start=scenario.start, duration=duration, counts=counts)
    form: Any = "pcapng" if out.suffix == ".pcapng" else "pcap"
    packets = write_capture(out, frames, format=form, comment=scenario.mark)
    return {
        "packets": packets,
        "repairs": dict(sorted(counts.repairs.items())),
        "addresses_outside_documentation": outside_documentation(out),
        "valid": bool(check([out]).valid),
    }
