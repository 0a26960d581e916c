"""Question -> tasks -> verdicts for every flow, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.types import NOT_COVERED, UNKNOWN, FlowMeta, FlowStream, ProgressSink, Record, Silent
from trafficllm.infer.router.results import TaskRoute
from trafficllm.lifecycle.analyze.adapter_facts import AdapterFacts
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.lifecycle.analyze.captures import totals
from trafficllm.lifecycle.analyze.hosts import Hosts
from trafficllm.lifecycle.facts.asking import SUSPICIOUS, Understood, understood
from trafficllm.lifecycle.facts.counting import CaptureFacts
from trafficllm.lifecycle.facts.filters import Filters, ends_of
from trafficllm.lifecycle.facts.wording import nearest

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.capture.flows.counts import CountsBuilder
    from trafficllm.core.settings import FlowOptions
    from trafficllm.infer.detector import Detector, Verdict, VerdictRow
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.registry.versions import Version

EVIDENCE = 3
"""Parts of a record that `--explain` names."""
_ROWS = 256
_DRIFT = "CD"
"""Names no kind of traffic of its own: it is the services of EVD seen later."""


def detection_versions(workspace: Workspace) -> dict[str, Version]:
    """Live versions of detection tasks by task, one's own before shipped ones, then by priority, then in the catalogue's order."""
    tasks = [task for task in workspace.tasks().values() if task.kind == "detection"]
    lives = workspace.registry.live_versions()
    live = [task for task in tasks if task.id in lives]
    return {task.id: lives[task.id] for task in sorted(live, key=lambda task: (lives[task.id].source == "shipped", -task.priority))}


Choice: TypeAlias = "tuple[tuple[str, ...], TaskRoute | None]"
"""The tasks to judge by, and how the question was routed (None where it took no part)."""


def choose(workspace: Workspace, task: str, question: str, *, both: bool = False) -> Choice:
    """The tasks to judge by, and how the question was routed (None where it took no part).

    An adapter that is laboratory only answers where it is named, never else. A question for the most suspicious hosts goes to the first
    task that asks for malice; one that only names hosts and times to the first task. Where nothing is asked and `both` is set, two tasks
    answer: one says what flows are, the other whether they are bad.

    Raises UsageError for an unknown task or a question that asks for no detection task, with the nearest questions that have an answer,
    ArtifactError where no adapter is live.
    """
    if task:
        return (_detection(workspace, task),), None
    versions = detection_versions(workspace)
    if not versions:
        hint = "`trafficllm quickstart` makes two; `trafficllm adapter register DIR --task ID` makes yours"
        raise ArtifactError("artifact.no_adapter", "no detection adapter is registered", input=str(workspace.registry_root), hint=hint)
    held_back = [name for name, version in versions.items() if version.laboratory_only]
    live = [name for name in versions if name not in held_back]
    if not live:
        raise UsageError(
            "usage.laboratory_only",
            f"{', '.join(held_back)}: laboratory only, nothing bounds its false alarms on other networks",
            input="--task",
            hint=f"name it to have its answer all the same: --task {held_back[0]}; or learn background: `trafficllm adapter register`",
        )
    taken = understood(question)
    if taken.hosts and (judging := [name for name in live if workspace.task(name).asks_malice]):
        return (judging[0],), None
    if not taken.asks:
        return (_what_and_whether(workspace, [versions[name] for name in live]) if both else (live[0],)), None
    from trafficllm.lifecycle.tasks import route as routed_to

    route = routed_to(workspace, [question])[0]
    routed = tuple(row.id for row in route.tasks if row.id in live)
    if not routed:
        raise _no_answer(workspace, route, live, held_back, taken)
    return routed, route


def _what_and_whether(workspace: Workspace, live: Sequence[Version]) -> tuple[str, ...]:
    """The first task that names what flows are, and the first that says whether they are bad, where both read captures alike."""
    from trafficllm.records.record_shape import RecordShape

    catalogue = workspace.tasks()
    whether = [version for version in live if catalogue[version.task].asks_malice]
    what = [version for version in live if not catalogue[version.task].positive and version.task != _DRIFT]
    pair = [*what[:1], *whether[:1]]
    cuts = [RecordShape.of(version.manifest).as_dict()["capture"] for version in pair]
    return tuple(version.task for version in pair) if len(pair) == 2 and cuts[0] == cuts[1] else (live[0].task,)


def _no_answer(workspace: Workspace, route: TaskRoute, live: Sequence[str], held_back: Sequence[str], taken: Understood) -> UsageError:
    """What the question was routed to, and the three nearest questions that have an answer here."""
    asked = [(row.id, f"{row.id} ({'laboratory only, ' if row.id in held_back else ''}{row.probability:.2f})") for row in route.tasks]
    facts = route.facts is not None and route.facts >= 0.5
    nothing = (
        f"facts of the capture ({route.facts:.2f}), in other words than are understood"
        if facts
        else f"none of the tasks ({route.none:.2f})"
    )
    names = ", ".join(name for _, name in asked) or nothing
    named = ", ".join([*live, *(name for name, _ in asked if name in held_back)])
    missing = [name for name, _ in asked if name not in held_back]
    catalogue = workspace.tasks()
    kin = [
        catalogue[name].umbrella_question for name in live if catalogue[name].asks_malice and any(catalogue[m].asks_malice for m in missing)
    ]
    near = "; ".join([*kin, *(ask for ask in nearest(taken.rest, _asks(workspace, live)) if ask not in kin)][:3])
    make = f"`trafficllm adapter register DIR --task {missing[0]}` makes an adapter of labelled captures; " if missing else ""
    hint = f"{make}nearest that can be asked: {near}; or name a task with --task: {named}"
    without = ", for which there is no adapter here" if missing else ""
    return UsageError("usage.question", f"the question asks for {names}{without}", input="--question", hint=hint)


def askable(workspace: Workspace) -> list[str]:
    """Questions for verdicts that have an answer here; none where no adapter is live."""
    return _asks(workspace, [name for name, version in detection_versions(workspace).items() if not version.laboratory_only])


def _asks(workspace: Workspace, live: Sequence[str]) -> list[str]:
    catalogue = workspace.tasks()
    tasks = sorted((catalogue[name] for name in live), key=lambda task: not task.asks_malice)
    return [task.umbrella_question or task.title for task in tasks] + [SUSPICIOUS] * any(task.asks_malice for task in tasks)


def _detection(workspace: Workspace, name: str) -> str:
    task = workspace.task(name)
    if task.kind != "detection":
        raise UsageError(
            "usage.task", f"task {task.id} gives no verdicts ({task.kind})", input="--task", where=name, hint="see `trafficllm task list`"
        )
    return task.id


def open_detector(workspace: Workspace, tasks: Sequence[str], *, evidence: int) -> Detector:
    """A detector with these tasks' live adapters."""
    from trafficllm.infer.detector import Detector, TaskModel

    catalogue = workspace.tasks()
    versions = [workspace.registry.live(name) for name in tasks]
    models = [TaskModel.of(workspace.engine, catalogue[version.task], version) for version in versions]
    return Detector(models, evidence=evidence)


def flow_options(workspace: Workspace, tasks: Sequence[str]) -> FlowOptions:
    """How captures are read for these tasks: as their live adapters learnt them, in a table of the configuration's size.

    Raises UsageError, with both values, where the configuration states another setting than an adapter's, or two adapters differ.
    """
    from trafficllm.records.record_shape import RecordShape, wanted_of

    versions = [workspace.registry.live(name) for name in tasks]
    shapes = [RecordShape.of(version.manifest) for version in versions]
    wanted = wanted_of(workspace.config)
    for version, shape in zip(versions, shapes, strict=True):
        whose = f"adapter {version.task} {version.version}"
        shape.require(wanted, whose=whose, remedy="leave the setting out of the configuration, or register the adapter again with it")
        cut = {f"capture.{name}": value for name, value in shapes[0].as_dict()["capture"].items()}
        shape.require(cut, whose=whose, remedy=f"name one task with --task: {', '.join(tasks)}")
    return shapes[0].flows(workspace.config.capture.table_size)


def start(
    workspace: Workspace,
    paths: Sequence[str | Path],
    *,
    task: str = "",
    question: str = "",
    explain: bool = False,
    progress: ProgressSink | None = None,
    choice: Choice | None = None,
    flows: FlowStream | None = None,
    skipped: Skipped | None = None,
    filters: Filters | None = None,
    both: bool = False,
    overview: bool = False,
    lean: bool = False,
) -> Analysis:
    """Verdicts for every flow of the captures, by the task that was named or that the question asks for; of the flows that pass `filters`,
    by default the hosts and times that the question names.

    What can be wrong is checked first, the verdicts are made as they are asked for. `flows` stand for captures that were read
    elsewhere, by `flow_options` of the tasks in `choice` (the server reads uploads in another process). With `skipped`, files among
    several that cannot be read are left out instead of raised. With `overview` flows are counted too, for `Analysis.overview`. `lean`:
    hosts are not counted, whose table grows with what a capture without end holds.
    """
    from trafficllm.capture.files.read import expand, total_bytes
    from trafficllm.capture.flows.counts import CountsBuilder
    from trafficllm.records.sources.logs import part_logs

    restricted = understood(question).filters if filters is None else filters
    files, sink = expand(paths, skipped) if flows is None else [], progress or Silent()
    tasks, route = choice or choose(workspace, task, question, both=both)
    options = flow_options(workspace, tasks)
    catalogue = workspace.tasks()
    live = [workspace.registry.live(name) for name in tasks]
    labels = {UNKNOWN, NOT_COVERED, *(label for version in live for label in version.manifest["labels"])}
    judging = [catalogue[version.task] for version in live]
    above = {answer for task in judging for answer in (task.positive, task.negative, *map(task.umbrella_of, labels))}
    detector = open_detector(workspace, tasks, evidence=EVIDENCE if explain else 0)
    counts, hosts = CountsBuilder(), Hosts({} if lean else detector.questions())
    captures, logs = part_logs(files)
    read = flows if flows is not None else _read(captures, options, counts=counts, progress=sink, skipped=skipped)
    facts = CaptureFacts(restricted) if overview else None
    seen = None if facts is None else facts.add_part
    ends = (detector.stream([batch], tasks, seen) for batch in read)
    holds = _holding(restricted)
    verdicts = (filter(holds, part) for part in chain(ends, [detector.stream_records(_logged(logs, counts), tasks)]))
    whole = total_bytes(files) if files else None
    return Analysis(
        tasks,
        route,
        _batches(verdicts, tasks, hosts=hosts, counts=counts, whole=whole, progress=sink),
        frozenset({*labels, *(name for name in above if name)}),
        lambda: totals(counts.build()),
        {version.task: catalogue[version.task].notable_among(version.manifest["labels"]) for version in live},
        lambda: dict(detector.blank),
        hosts,
        lambda: dict(detector.uncovered),
        str(restricted),
        {task.id: task.umbrella_question or task.title for task in judging},
        facts,
        {version.task: AdapterFacts.of(version.manifest) for version in live},
    )


def _holding(filters: Filters) -> Callable[[Verdict], bool]:
    """A test of the verdicts of a whole capture, in its order: on flows that pass the filters."""
    if not filters:
        return lambda _: True
    holds = filters.passing()
    return lambda verdict: holds(ends_of(verdict.meta))


def judge(
    workspace: Workspace, rows: Sequence[tuple[Record, FlowMeta]], *, task: str = "", question: str = "", explain: bool = False
) -> list[VerdictRow]:
    """Verdicts of raw records that came without a capture: each by each task that was named or asked for."""
    tasks, _ = choose(workspace, task, question)
    detector = open_detector(workspace, tasks, evidence=EVIDENCE if explain else 0)
    return [verdict.row() for name in tasks for verdict in detector.judge(rows, name)]


def _read(
    files: Sequence[Path], options: FlowOptions, *, counts: CountsBuilder, progress: ProgressSink, skipped: Skipped | None
) -> FlowStream:
    from trafficllm.capture.flows.assembly import read_flows

    if not files:
        return iter(())
    return read_flows(files, options=options, counts=counts, progress=progress, skipped=skipped)


def _logged(logs: Sequence[Path], counts: CountsBuilder) -> Iterator[tuple[Record, FlowMeta]]:
    """Flows of other sensors' logs, counted as they come."""
    from trafficllm.records.sources.logs import log_records

    for path in logs:
        for row in log_records(path):
            counts.flows += 1
            yield row


def _batches(
    parts: Iterable[Iterator[Verdict]],
    tasks: Sequence[str],
    *,
    hosts: Hosts,
    counts: CountsBuilder,
    whole: int | None,
    progress: ProgressSink,
) -> Iterator[list[VerdictRow]]:
    """Rows in batches of at most `_ROWS`; at least one batch, which may be empty.

    Those of a part (flows that finished together) do not wait for the next part, which of a live capture may be long in coming.
    """
    done = 0
    for part in parts:
        while verdicts := list(islice(part, _ROWS)):
            for verdict in verdicts:
                hosts.add(verdict)
            done += len(verdicts)
            progress.update("verdicts", done, _expected(counts, whole, len(tasks)))
            yield [verdict.row() for verdict in verdicts]
    progress.update("verdicts", done, done)
    if not done:
        yield []


def _expected(counts: CountsBuilder, whole: int | None, tasks: int) -> int | None:
    """How many verdicts there will be, by the share of the files' bytes that has been read; None where nothing tells."""
    if whole is None or not counts.read or not counts.flows:
        return None
    return round(counts.flows * tasks * max(1.0, whole / counts.read))
