"""The flows of `evaluate openworld`: data sets and background as one list, each flow with its side, source, capture and host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import hash64, json_text, sha256_bytes
from trafficllm.core.sampling import evenly_spaced, fair_shares
from trafficllm.core.types import I64, FlowMeta, ProgressSink, Record
from trafficllm.lifecycle.datasets import is_data_set, task_of_folder

if TYPE_CHECKING:
    from trafficllm.core.settings import CodecOptions
    from trafficllm.evaluate.by_source.folds import OpenRows
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.records.catalog import Task
    from trafficllm.records.dataset.dataset import Dataset
    from trafficllm.records.dataset.reserved import Reserved
    from trafficllm.records.sources.background import Background

PARTS = ("all", "test")
"""What is judged: every flow that is not kept for scoring, or the kept ones."""


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Which flows count. `sources` is a table (file, source) and `level` a folder level that say where captures come from; `part` is
    what is judged. A capture gives at most `per_capture` flows to learn from, a side of a source `per_source` to learn from and `most`
    to judge (0: all)."""

    sources: Path | None = None
    level: int = 0
    part: str = "all"
    per_capture: int = 60
    per_source: int = 1000
    most: int = 2000


@dataclass(slots=True)
class Flows:
    """Parallel lists, a row a flow: raw records and where they come from, side, source, whether the flow is kept for scoring."""

    raw: list[Record] = field(default_factory=list)
    meta: list[FlowMeta] = field(default_factory=list)
    positive: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    captures: list[str] = field(default_factory=list)
    reserved: list[bool] = field(default_factory=list)

    def add(self, raw: Record, meta: FlowMeta, source: str, capture: str, *, positive: bool, reserved: bool = False) -> None:
        """One flow more."""
        self.raw.append(raw)
        self.meta.append(meta)
        self.positive.append(int(positive))
        self.sources.append(source)
        self.captures.append(capture)
        self.reserved.append(reserved)


@dataclass(frozen=True)
class OpenData:
    """The rows of a study and what it says of them: the data sets, tasks, what was left out and why, masks and their hash."""

    rows: OpenRows
    tasks: tuple[Task, ...]
    datasets: tuple[Dataset, ...]
    background: Background
    dropped: dict[str, int]
    codec: CodecOptions
    profile: str
    content: tuple[int, ...]
    strict: tuple[int, ...]

    @property
    def key(self) -> str:
        """What scores depend on beside the learner: contents, sides, sources."""
        rows = self.rows
        facts = [
            [dataset.sha256 for dataset in self.datasets],
            self.background.as_dict()["sha256"] if len(self.background) else "",
            self.profile,
            list(self.content),
            list(rows.sources),
            list(rows.captures),
            rows.positive.tolist(),
        ]
        return sha256_bytes(json_text(facts).encode())


def open_data(
    workspace: Workspace,
    data: Sequence[Path],
    background: Sequence[Path],
    work: Path,
    *,
    task: str = "",
    profile: str = "",
    options: RowOptions,
    progress: ProgressSink,
) -> OpenData:
    """Read data sets (folders of captures are built below `work`) and background, and put their flows side by side.

    A single folder is read as `task`; of several each as the task that its name begins with, and as `task` where that asks nothing.

    Raises UsageError for a task without an umbrella question, for data sets of other records or another kind, and for a part that is
    none; InputError where there are fewer than two sources or one side only.
    """
    if options.part not in PARTS:
        raise UsageError("usage.part", f"no part '{options.part}' to judge", input="--part", hint=" or ".join(PARTS))
    every = [
        _opened(workspace, path, work / f"data{k}", task=task, alone=len(data) == 1, profile=profile, progress=progress)
        for k, path in enumerate(data)
    ]
    datasets = tuple(opened.dataset for opened in every)
    _alike(datasets)
    flows, dropped = Flows(), Counter[str]()
    for opened in every:
        _add_dataset(flows, dropped, opened, options)
    more = _background(background, datasets, workspace.config.capture.table_size, dropped, progress)
    for record, meta, source in zip(more.raw, more.meta, more.sources, strict=True):
        flows.add(record, meta, source, f"background {meta.capture}", positive=False)
    return _joined(flows, every, more, dropped, options)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A data set, its task as the catalogue has it now, and the folder of captures it was built from; None where it was built before."""

    dataset: Dataset
    task: Task
    folder: Path | None


def _opened(workspace: Workspace, path: Path, work: Path, *, task: str, alone: bool, profile: str, progress: ProgressSink) -> _Opened:
    from trafficllm.lifecycle import datasets
    from trafficllm.records.dataset.dataset import BuildOptions, load

    if is_data_set(path):
        dataset = load(path)
        if profile and dataset.profile != profile:
            hint = "build the data set again with this profile, or leave --profile away"
            raise UsageError("usage.record", f"a data set under {dataset.profile}", input=str(path), where=profile, hint=hint)
        return _Opened(dataset, _asking(workspace, dataset.task, path), None)
    own = task_of_folder(path, workspace.tasks())
    if task and (alone or not own.positive):
        own = workspace.task(task)
    own = _asking(workspace, own, path)
    options = BuildOptions.of(workspace.config, profile=profile)
    return _Opened(load(datasets.build(path, work, task=own, options=options, progress=progress).out), own, path)


def _asking(workspace: Workspace, task: Task, path: Path) -> Task:
    """The task as the catalogue has it now; UsageError where it has no umbrella question."""
    own = workspace.tasks().get(task.id, task)
    if not own.positive:
        hint = "give data of a task with an umbrella question (see `task list`), or name the task with --task"
        raise UsageError("usage.task", f"task {own.id} asks no umbrella question", input=str(path), where=own.id, hint=hint)
    return own


def _alike(datasets: Sequence[Dataset]) -> None:
    """UsageError unless all data sets have the same records."""
    first = datasets[0]
    remedy = "build the data sets with the same settings"
    for dataset in datasets[1:]:
        wanted = {f"{section}.{name}": value for section, values in first.shape.as_dict().items() for name, value in values.items()}
        dataset.shape.require(wanted, whose=f"data set {dataset.path}", remedy=remedy)
    kinds = sorted({dataset.kind for dataset in datasets})
    if len(kinds) > 1:
        raise UsageError("usage.record", f"records of several kinds: {', '.join(kinds)}", input=str(first.path), hint=remedy)


def _add_dataset(flows: Flows, dropped: Counter[str], opened: _Opened, options: RowOptions) -> None:
    from trafficllm.records.dataset.reserved import Reserved
    from trafficllm.records.sources.origins import Origins

    dataset, task, folder = opened.dataset, opened.task, opened.folder
    name = str(dataset.manifest.get("source") or dataset.path.name)
    stated = {} if options.sources or options.level else dataset.sources
    if folder is None and not stated and not options.sources and not options.level:
        hint = "build it again: data sets of this version name the sources of their captures; or say them with --sources or --source-level"
        raise InputError("input.source", "the data set does not say where its captures come from", input=str(dataset.path), hint=hint)
    origins = Origins.find(folder or Path(name), table=options.sources, level=options.level)
    everything = list(range(len(dataset)))
    held = _reserved(dataset, Reserved.find(folder) if folder else None, name)
    labels = dataset.labels_of(everything)
    for k, raw, meta, label in zip(everything, dataset.raw_records(everything), dataset.meta(everything), labels, strict=True):
        positive = task.is_positive(label)
        if positive is None:
            dropped[f"{label}: no answer to '{task.umbrella_question}'"] += 1
            continue
        source = stated.get(meta.capture) or origins.source_of(meta.capture)
        flows.add(raw, meta, source, f"{name}/{meta.capture}", positive=positive, reserved=held[k])


def _reserved(dataset: Dataset, listed: Reserved | None, name: str) -> list[bool]:
    """Which rows are kept for scoring. Without the list they cannot be told from other test rows: all of these then count as kept."""
    parts = dataset.table["part"].to_pylist()
    if not dataset.manifest["split"].get("reserved"):
        return [False] * len(parts)
    if listed is None or listed.covers_requests(name) or listed.covers_loads(name):
        return [part == "test" for part in parts]
    shares = [listed.share(f"{name}/{capture}") for capture in dataset.table["capture"].to_pylist()]
    return [share >= 1.0 or (share > 0 and part == "test") for share, part in zip(shares, parts, strict=True)]


def _background(
    folders: Sequence[Path], datasets: Sequence[Dataset], table_size: int, dropped: Counter[str], progress: ProgressSink
) -> Background:
    """Background flows; captures that a data set holds too are left out and counted."""
    from trafficllm.records.sources.background import NO_BACKGROUND, read_background, shared_captures

    if not folders:
        return NO_BACKGROUND
    if datasets[0].kind != "flow":
        hint = "leave --background away"
        raise UsageError("usage.record", f"background is flows, the data are {datasets[0].kind}", input="--background", hint=hint)
    every = read_background(folders, options=datasets[0].shape.flows(table_size), progress=progress)
    shared = {row.name for dataset in datasets for row in shared_captures(every, dataset)}
    if shared:
        dropped["background captures that a data set labels"] += len(shared)
    return every.where(lambda file: file.name not in shared) if shared else every


def _joined(flows: Flows, every: Sequence[_Opened], background: Background, dropped: Counter[str], options: RowOptions) -> OpenData:
    """Masked alike, capped alike, in one list."""
    from trafficllm.evaluate.baselines.learners import Part
    from trafficllm.evaluate.by_source.folds import OpenRows
    from trafficllm.records import masks
    from trafficllm.records.codec.codec import encode

    datasets = tuple(opened.dataset for opened in every)
    first = datasets[0]
    held = np.array(flows.reserved, dtype=bool)
    learnt = _capped(flows, np.flatnonzero(~held), options.per_capture, options.per_source)
    judged = _capped(flows, np.flatnonzero(held if options.part == "test" else ~held), 0, options.most)
    used = np.union1d(learnt, judged)
    _enough(flows, learnt, judged, str(first.path))
    place = np.full(len(held), -1, dtype=np.int64)
    place[used] = np.arange(len(used))
    rows = used.tolist()
    also = frozenset(name for dataset in datasets for name in dataset.manifest["also"])
    keep = frozenset(name for dataset in datasets for name in dataset.manifest["kept_fields"]) - {"housekeeping"}
    raw = [flows.raw[k] for k in rows]
    masked = [masks.wiped(masks.apply(record, first.profile, also, keep)) for record in raw]
    plain = masked if first.profile == "strict" and not also and not keep else [masks.wiped(masks.apply(record)) for record in raw]
    meta = [flows.meta[k] for k in rows]
    positive = np.array(flows.positive, dtype=np.int64)[used]
    captures = [flows.captures[k] for k in rows]
    part = Part(masked, [str(side) for side in positive.tolist()], raw, meta, first.codec)
    hosts = [f"{capture} {m.orig_h}" for capture, m in zip(captures, meta, strict=True)]
    open_rows = OpenRows(part, positive, [flows.sources[k] for k in rows], captures, hosts, place[learnt], place[judged])
    content = tuple(hash64(encode(record, first.codec).encode()) for record in masked)
    strict = content if plain is masked else tuple(hash64(encode(record, first.codec).encode()) for record in plain)
    return OpenData(
        rows=open_rows,
        tasks=tuple(opened.task for opened in every),
        datasets=datasets,
        background=background,
        dropped=dict(sorted(dropped.items())),
        codec=first.codec,
        profile=first.profile,
        content=content,
        strict=strict,
    )


def _capped(flows: Flows, rows: I64, per_capture: int, per_source: int) -> I64:
    """At most so many of these rows of a capture, and of each side of a source; 0: all. A source's captures give alike."""
    by_side: dict[tuple[str, int], dict[str, list[int]]] = {}
    for k in rows.tolist():
        by_side.setdefault((flows.sources[k], flows.positive[k]), {}).setdefault(flows.captures[k], []).append(k)
    out: list[int] = []
    for captures in by_side.values():
        own = [evenly_spaced(members, per_capture) if per_capture else members for members in captures.values()]
        shares = fair_shares([len(members) for members in own], per_source) if per_source else [len(members) for members in own]
        out += [k for members, share in zip(own, shares, strict=True) for k in evenly_spaced(members, share)]
    return np.array(sorted(out), dtype=np.int64)


def _enough(flows: Flows, learnt: I64, judged: I64, place: str) -> None:
    """InputError unless two sources or more, and both sides, can be learnt from."""
    names = sorted({flows.sources[k] for k in learnt.tolist()})
    sides = {flows.positive[k] for k in learnt.tolist()}
    if not len(judged):
        raise InputError("input.no_test", "no flows to judge", input=place, hint="judge --part all, or add captures")
    if len(names) < 2:
        hint = "give data of two sources or more, add --background, or say with --sources where each capture comes from"
        raise InputError("input.one_source", "all captures come from one source", input=place, where=", ".join(names), hint=hint)
    if len(sides) < 2:
        missing = "positive" if 1 not in sides else "negative"
        hint = "add data of both sides; --background DIR adds harmless captures"
        raise InputError("input.one_side", f"no {missing} flows to learn from", input=place, hint=hint)
