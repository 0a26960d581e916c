"""The detector: flows in, verdicts out, a batch at a time, so that a capture of any length takes the same memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import TypedDict

from trafficllm.capture.facts.keys import FactsCache
from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.results import Captured, closed
from trafficllm.core.types import NOT_COVERED, UNKNOWN, Facts, FlowBatch, FlowMeta, Record, Scorer
from trafficllm.core.umbrella import Umbrella
from trafficllm.infer import calibration as cal
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.infer.evidence import Evidence, EvidenceRow, explain
from trafficllm.infer.two_step import Steps
from trafficllm.records import masks
from trafficllm.records.catalog import Task
from trafficllm.records.codec.flows import records_in, records_of
from trafficllm.records.codec.units import PROTOS
from trafficllm.records.coverage import Coverage, kind_of
from trafficllm.records.record_shape import RecordShape
from trafficllm.records.sources.logs import is_blank

if TYPE_CHECKING:
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.registry.versions import Version

CHUNK = 256
"""Flows scored at once: enough for full batches of like length, small enough for constant memory."""

FRAMES = 8
"""Frame numbers a verdict's row names: enough to open the flow's beginning in Wireshark."""


Seen: TypeAlias = "Callable[[FlowBatch, int, Sequence[Facts]], None]"
"""Takes the facts of some flows of a batch that follow each other, from the flow at a place in it on."""


@closed
class VerdictRow(TypedDict):
    """A line of `analyze -f jsonl`. Times in seconds; probabilities sum to 1."""

    uid: str
    ts: float
    duration: float
    community_id: str
    orig_h: str
    orig_p: int
    resp_h: str
    resp_p: int
    proto: str
    packets: int
    task: Captured
    label: Captured
    confidence: float
    probabilities: dict[str, float]
    unknown_score: float
    evidence: list[EvidenceRow]
    file: Captured
    frames: list[int]
    adapter: Captured
    version: str
    umbrella: str | None
    umbrella_probability: float | None
    malicious: float | None
    labels_90: list[str]
    source: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one flow is, by one task: `label` is from the task's closed set, the umbrella's negative answer, "unknown" or "not covered";
    `confidence` is the calibrated probability of the likeliest label, also where the verdict is unknown. Times in ns.

    `umbrella` answers the task's umbrella question (None where it asks none), `umbrella_probability` is that of its positive answer and
    `odds` its log-odds; `malice` says whether that answer is malice; `likely` are the labels that hold the truth in 90 % of flows.
    """

    meta: FlowMeta
    task: str
    label: str
    confidence: float
    probabilities: Mapping[str, float]
    unknown_score: float
    evidence: tuple[Evidence, ...] = ()
    adapter: str = ""
    version: str = ""
    umbrella: str | None = None
    umbrella_probability: float | None = None
    odds: float | None = None
    malice: bool = False
    likely: tuple[str, ...] = ()
    source: str = "registry"

    def row(self) -> VerdictRow:
        """The line of `analyze -f jsonl`; times in seconds, as Zeek writes them."""
        m = self.meta
        return {
            "uid": m.uid,
            "ts": m.ts / 1e9,
            "duration": m.duration / 1e9,
            "community_id": m.community_id,
            "orig_h": m.orig_h,
            "orig_p": m.orig_p,
            "resp_h": m.resp_h,
            "resp_p": m.resp_p,
            "proto": PROTOS.get(m.proto, str(m.proto)),
            "packets": m.packets,
            "task": self.task,
            "label": self.label,
            "confidence": self.confidence,
            "probabilities": dict(self.probabilities),
            "unknown_score": self.unknown_score,
            "evidence": [e.row() for e in self.evidence],
            "file": m.capture,
            "frames": list(m.frames[:FRAMES]),
            "adapter": self.adapter,
            "version": self.version,
            "umbrella": self.umbrella,
            "umbrella_probability": self.umbrella_probability,
            "malicious": self.umbrella_probability if self.malice else None,
            "labels_90": list(self.likely),
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class TaskModel:
    """All it takes to judge flows by one task: a scorer and the masks its records were trained under."""

    task: str
    scorer: Scorer
    calibration: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "strict"
    also: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    adapter: str = ""
    version: str = ""
    steps: Steps | None = None
    coverage: Coverage = field(default_factory=Coverage)
    source: str = "registry"

    @classmethod
    def of(cls, engine: Engine, task: Task, version: Version) -> TaskModel:
        """A registered version, made resident in the engine; ArtifactError with all reasons where it does not fit.

        Its prompt is that of the task as it was when the adapter learnt; `task` serves versions that do not say.
        """
        from trafficllm.records.codec.units import codec_hash
        from trafficllm.registry.fit import check

        manifest = version.manifest
        check(manifest, engine.base.manifest, codec_hash())
        name = version.resident
        if name not in engine.adapters:
            engine.add_adapter(name, version.path)
        calibration = manifest.get("calibration", {})
        definition = _task_of(version, task)
        return cls(
            task=version.task,
            scorer=LLMScorer(engine, name, definition, manifest["labels"], calibration, codec=RecordShape.of(manifest).codec()),
            calibration=calibration,
            profile=manifest["profile"],
            also=frozenset(manifest.get("also", ())),
            keep=frozenset(manifest.get("kept_fields", ())) - {"housekeeping"},
            adapter=version.task,
            version=version.version,
            steps=Steps(definition, tuple(manifest["labels"]), _first_step(calibration, engine.umbrella(name), version)),
            coverage=Coverage.of_manifest(manifest),
            source=version.provenance,
        )

    def masked(self, record: Record) -> Record:
        """A raw record as the adapter was trained to see it."""
        return masks.wiped(masks.apply(record, self.profile, self.also, self.keep))


def _first_step(calibration: Mapping[str, Any], classes: tuple[str, ...], version: Version) -> Umbrella | None:
    """The first step that a version's calibration states; ArtifactError where it is none, or of other `classes` than its readout's."""
    try:
        step = Umbrella.of(calibration)
        fits = step is None or (step.classes == classes and len(step.members) == len(classes) and 0 < sum(step.members) < len(classes))
    except (AttributeError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        hint = "restore it from a backup, or register the task again"
        raise ArtifactError("artifact.damaged", "its first step does not fit its umbrella readout", input=str(version.path), hint=hint)
    return step


def _task_of(version: Version, task: Task) -> Task:
    """The task as the adapter learnt it; `task` where its manifest does not say."""
    if "task_definition" not in version.manifest:
        return task
    try:
        return Task.model_validate(version.manifest["task_definition"])
    except ValueError as error:
        hint = "restore it from a backup, or register the task again"
        raise ArtifactError("artifact.damaged", "its task definition is none", input=str(version.path), hint=hint) from error


class Detector:
    """Judges flows by any of its tasks.

    `evidence` is how many parts of the record to name for each verdict; 0 (none) is about 25 times faster.
    """

    def __init__(self, models: Sequence[TaskModel], *, evidence: int = 0) -> None:
        self.models = {model.task: model for model in models}
        self.evidence = evidence
        self.blank: Counter[str] = Counter()
        """Flows by task that a log names without saying what they did: their verdict is unknown, whatever the scores."""
        self.uncovered: Counter[str] = Counter()
        """Flows by task of kinds that its adapter has not learnt: their verdict is "not covered", whatever the scores."""

    def questions(self) -> dict[str, tuple[str, Umbrella | None, bool]]:
        """Of each task with an umbrella question its positive answer, its fitted first step, and whether the answer is malice."""
        steps = {name: model.steps for name, model in self.models.items() if model.steps is not None}
        asked = {name: own for name, own in steps.items() if own.task is not None and own.task.positive}
        return {name: (own.task.positive if own.task else "", own.umbrella, own.malice) for name, own in asked.items()}

    def verdicts(self, batch: FlowBatch, task: str) -> list[Verdict]:
        """One verdict a flow, in the batch's order. UsageError for a task this detector does not hold."""
        return self.judge(records_of(batch), task)

    def stream(self, batches: Iterable[FlowBatch], tasks: Sequence[str], seen: Seen | None = None) -> Iterator[Verdict]:
        """Verdicts of a whole capture, each flow by each task, while it is read.

        `seen` is given what the first bytes of flows say, for whoever counts that: parsing them again would cost as much as once.
        """
        cache = FactsCache()
        for batch in batches:
            for at in range(0, len(batch), CHUNK):  # a batch has up to 32,768 flows: not all as records at once
                rows = list(records_in(batch, at, at + CHUNK, cache=cache))
                if seen is not None:
                    seen(batch, at, [record.facts for record, _ in rows])
                judged = [self.judge(rows, task) for task in tasks]
                for same_flow in zip(*judged, strict=True):
                    yield from same_flow

    def stream_records(self, rows: Iterable[tuple[Record, FlowMeta]], tasks: Sequence[str]) -> Iterator[Verdict]:
        """Verdicts of raw records that come one at a time, each by each task."""
        source = iter(rows)
        while part := list(islice(source, CHUNK)):
            for same_flow in zip(*(self.judge(part, task) for task in tasks), strict=True):
                yield from same_flow

    def judge(self, rows: Sequence[tuple[Record, FlowMeta]], task: str) -> list[Verdict]:
        """Verdicts of raw records."""
        model = self.models.get(task)
        if model is None:
            raise UsageError("usage.task", f"no adapter for task {task!r} is loaded", input=task, hint=f"loaded: {', '.join(self.models)}")
        out: list[Verdict] = []
        for at in range(0, len(rows), CHUNK):
            part = rows[at : at + CHUNK]
            records = [model.masked(record) for record, _ in part]
            verdicts = self._verdicts(model, records, [meta for _, meta in part])
            out += [self._held_back(model, v, raw, record) for v, (raw, _), record in zip(verdicts, part, records, strict=True)]
        return out

    def _held_back(self, model: TaskModel, verdict: Verdict, raw: Record, record: Record) -> Verdict:
        """The verdict, or none of a flow of a kind that the adapter has not learnt, or of which a log says nothing.

        A flow of a kind that may not be positive (`Coverage.may_be_positive`) is unknown where the first step says it is, and says
        nothing of its host.
        """
        kind = kind_of(raw, verdict.meta.resp_h)
        if not model.coverage.covers_kind(kind):
            self.uncovered[model.task] += 1
            return replace(verdict, label=NOT_COVERED, umbrella=verdict.umbrella and NOT_COVERED, odds=None)
        if raw.masked and is_blank(record):
            self.blank[model.task] += 1
            return replace(verdict, label=UNKNOWN, umbrella=verdict.umbrella and UNKNOWN, odds=None)
        if verdict.odds is not None and not model.coverage.may_be_positive(kind):
            step = model.steps.umbrella if model.steps is not None else None
            positive = step is not None and verdict.umbrella == step.positive
            if positive:
                verdict = replace(verdict, label=UNKNOWN, umbrella=UNKNOWN)
            return replace(verdict, odds=None)
        return verdict

    def _verdicts(self, model: TaskModel, records: list[Record], metas: list[FlowMeta]) -> list[Verdict]:
        scores = model.scorer.score(records)
        best = scores.probabilities.argmax(axis=1).tolist()
        strange = cal.unknown_score(model.calibration, scores).tolist()
        why: Sequence[tuple[Evidence, ...]] = [()] * len(records)
        if self.evidence:
            why = explain(model.scorer, records, best, metas, top=self.evidence)
        limit = cal.threshold(model.calibration)
        steps = model.steps or Steps(None, tuple(scores.labels), None)
        answers = steps.answers(scores, [value > limit for value in strange])
        likely = cal.likely(model.calibration, scores)
        return [
            Verdict(
                metas[k],
                model.task,
                answers[k].label,
                float(scores.probabilities[k, best[k]]),
                dict(zip(scores.labels, scores.probabilities[k].tolist(), strict=True)),
                strange[k],
                why[k],
                model.adapter,
                model.version,
                answers[k].umbrella,
                answers[k].probability,
                answers[k].odds,
                steps.malice,
                likely[k],
                model.source,
            )
            for k in range(len(records))
        ]
