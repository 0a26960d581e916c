"""The sample of old records that a version keeps, so that an update can replay them and show that they are still known.

Masked records only, as the codec's units: a bounded number a class and part, chosen by content, in a Parquet file named by
its SHA-256 beside the version's weights. Groups are numbered, so that the file names no host and no capture.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import atomic_write, hash64, sha256_bytes, sha256_file
from trafficllm.core.settings import CodecOptions, FlowOptions
from trafficllm.core.types import FlowMeta, ProgressSink, Record
from trafficllm.records import masks
from trafficllm.records.codec import codec
from trafficllm.records.coverage import Coverage, kind_of
from trafficllm.records.dataset import store
from trafficllm.records.dataset.dataset import PARTS, Dataset
from trafficllm.records.dataset.duplicates import duplicates, twins
from trafficllm.records.record_shape import KEY, RecordShape

if TYPE_CHECKING:
    from trafficllm.records.catalog import Task
    from trafficllm.registry.versions import Version

FOLDER = "sample"
LIMITS: Mapping[str, int] = {"train": 100, "val": 25, "test": 50}
"""Records kept a class: 100 are replayed, 25 calibrate, these and 50 more say whether an update forgot. About 200 bytes each."""
PLAIN = "plain"
"""Column of content hashes under plain `strict`: what a base records of its own training, see scoring.strict_hashes."""
ANSWER = "answer"
"""Column of what the version itself answered to held-out records, so that an update need not ask it again; elsewhere empty."""
_COLUMNS = ("label", "part", "group", "content", "units")
SCHEMA = pa.schema([*(store.SCHEMA.field(name) for name in _COLUMNS), pa.field(PLAIN, pa.uint64()), pa.field(ANSWER, pa.string())])
_NAMES = ("units", "label", "part", "group", "content", PLAIN, ANSWER)


@dataclass(frozen=True, slots=True)
class Rows:
    """Masked records in parallel lists: `units` the codec's string, `content` its hash, `plain` that under plain `strict`, `answers` the
    keeping version's own (empty where it was not asked)."""

    units: Sequence[str]
    labels: Sequence[str]
    parts: Sequence[str]
    groups: Sequence[str]
    content: Sequence[int]
    plain: Sequence[int]
    answers: Sequence[str]

    def __len__(self) -> int:
        return len(self.units)

    def take(self, idx: Sequence[int]) -> Rows:
        """These rows, in this order."""
        return Rows(*([column[k] for k in idx] for column in self._columns()))

    def __add__(self, other: Rows) -> Rows:
        pairs = zip(self._columns(), other._columns(), strict=True)
        return Rows(*([*mine, *theirs] for mine, theirs in pairs))

    def _columns(self) -> tuple[Sequence[Any], ...]:
        return (self.units, self.labels, self.parts, self.groups, self.content, self.plain, self.answers)

    def table(self) -> pa.Table:
        """As Arrow, in the columns of records.parquet that a masked record has."""
        data = dict(zip(_NAMES, self._columns(), strict=True))
        return pa.Table.from_arrays([pa.array(data[entry.name], type=entry.type) for entry in SCHEMA], schema=SCHEMA)


class Replayed(Dataset):
    """A data set of masked records alone: no raw records, no addresses, so no identifier probe."""

    def raw_records(self, idx: Sequence[int]) -> list[Record]:
        """None are kept."""
        return []

    def records(self, idx: Sequence[int]) -> list[Record]:
        """Masked records of these rows: what their units stand for."""
        return [codec.decode(units) for units in self.units(idx)]

    def meta(self, idx: Sequence[int]) -> list[FlowMeta]:
        """None is kept."""
        return []


def keep(dataset: Dataset, folder: Path, answers: Mapping[int, str]) -> dict[str, Any]:
    """Write the sample of a data set into an adapter folder; returns what the manifest says of it.

    `answers`: the adapter's own answers to held-out rows, by row.
    """
    return write(_rows(dataset, sampled(dataset), answers), folder)


def sampled(dataset: Dataset) -> list[int]:
    """The rows of a data set that its sample keeps."""
    labels = dataset.manifest["trainable"]
    idx = [i for part in PARTS for i in dataset.indices(part)]
    idx = [i for i, label in zip(idx, dataset.labels_of(idx), strict=True) if label in labels]
    return [idx[k] for k in choose(_rows(dataset, idx, {}, plain=False))]


def _rows(dataset: Dataset, idx: Sequence[int], answers: Mapping[int, str], *, plain: bool = True) -> Rows:
    from trafficllm.lifecycle.studies.scoring import strict_hashes

    sides = {i: part for part in PARTS for i in dataset.indices(part)}
    own = dataset.hashes(idx)
    hashes = strict_hashes(dataset, idx) if plain else own
    groups = dataset.groups(idx)
    named = groups if isinstance(dataset, Replayed) else numbered(groups, dataset.sha256)
    predicted = [answers.get(i, "") for i in idx]
    return Rows(dataset.units(idx), dataset.labels_of(idx), [sides[i] for i in idx], named, own, hashes, predicted)


def numbered(groups: Sequence[str], sha256: str) -> list[str]:
    """Group names without what they were named after, which may be a host: numbers within a data set."""
    codes = {group: k for k, group in enumerate(sorted(set(groups)))}
    return [f"{sha256[:8]}-{codes[group]}" for group in groups]


def choose(rows: Rows, limits: Mapping[str, int] = LIMITS) -> list[int]:
    """At most `limits[part]` different contents a class and part: one of each group first, then a second of each...

    The choice depends on contents only, not on order, so the sample of a sample and new rows is what one sample of all
    would nearly be.
    """
    picked: list[int] = []
    members: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for i in sorted(range(len(rows)), key=lambda i: (rows.content[i], rows.groups[i])):
        members[rows.parts[i], rows.labels[i]].setdefault(rows.content[i], i)
    for (part, _), contents in sorted(members.items()):
        rank: Counter[str] = Counter()
        ordered = []
        for content, i in sorted(contents.items()):
            ordered.append((rank[rows.groups[i]], content, i))
            rank[rows.groups[i]] += 1
        picked += [i for _, _, i in sorted(ordered)[: limits[part]]]
    return picked


def write(rows: Rows, folder: Path) -> dict[str, Any]:
    """Write rows as `sample/<sha256>.parquet` in an adapter folder, in place of an earlier one; returns its manifest entry."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.table(), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    digest = sha256_bytes(data)
    for old in sorted((folder / FOLDER).glob("*.parquet")):
        old.unlink()
    atomic_write(folder / FOLDER / f"{digest}.parquet", data, private=True)
    return {"sha256": digest, "records": len(rows), "parts": {part: list(rows.parts).count(part) for part in PARTS}}


def read(version: Version) -> Rows:
    """The sample that a version keeps. ArtifactError where it keeps none, or another than its manifest says."""
    digest = str((version.manifest.get("sample") or {}).get("sha256", ""))
    path = version.path / FOLDER / f"{digest}.parquet"
    name = f"{version.task} {version.version}"
    if not digest or not path.is_file():
        hint = "register the task again from its captures: that version will keep a sample"
        reason = "it keeps no sample of its records, so nothing shows what an update forgets"
        raise ArtifactError("artifact.sample", reason, input=name, hint=hint)
    if sha256_file(path) != digest:
        hint = "roll back, or register the task again"
        raise ArtifactError("artifact.sample", "its sample of old records has changed", input=name, hint=hint)
    table = pq.read_table(path, schema=SCHEMA)
    if table[ANSWER].null_count:  # a sample of before answers were kept
        table = table.set_column(table.schema.get_field_index(ANSWER), ANSWER, pa.array([""] * len(table)))
    return Rows(*(list(table[column].to_pylist()) for column in _NAMES))


@dataclass(frozen=True, slots=True)
class View:
    """How a version sees records: masks, flows and codec, as its manifest says."""

    profile: str
    also: frozenset[str]
    keep: frozenset[str]
    shape: RecordShape

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> View:
        """The view of a version's manifest."""
        shown = frozenset(manifest.get("kept_fields", ())) - {"housekeeping"}
        return cls(manifest["profile"], frozenset(manifest.get("also", ())), shown, RecordShape.of(manifest))

    @property
    def options(self) -> CodecOptions:
        """How much of a flow a record shows."""
        return self.shape.codec()

    def masked(self, record: Record) -> Record:
        """A raw record as the version sees it."""
        return masks.wiped(masks.apply(record, self.profile, self.also, self.keep))

    def require_flows(self, manifest: Mapping[str, Any], folder: str) -> None:
        """UsageError for a data set whose flows were cut otherwise than this version's; its masks and units are made anew."""
        cut = RecordShape.of(manifest).as_dict()["capture"]
        wanted = {f"capture.{name}": value for name, value in self.shape.as_dict()["capture"].items()}
        remedy = "build the data set with the [capture] settings of the adapter, or name the captures themselves"
        RecordShape(capture=FlowOptions(**cut)).require(wanted, whose=f"data set {folder}", remedy=remedy)

    def rows(self, raw: Sequence[Record], labels: Sequence[str], parts: Sequence[str], groups: Sequence[str]) -> Rows:
        """Raw records as rows; `groups` are numbered."""
        units = [codec.encode(self.masked(record), self.options) for record in raw]
        strict = (masks.wiped(masks.apply(record, "strict")) for record in raw)
        plain = [hash64(codec.encode(record, self.options).encode()) for record in strict]
        named = numbered(groups, sha256_bytes("\n".join(units).encode()))
        hashes = [hash64(text.encode()) for text in units]
        return Rows(units, labels, parts, named, hashes, plain, [""] * len(units))


def fresh(folder: Path, view: View, task: Task, *, chores: bool, seed: int, progress: ProgressSink) -> tuple[Rows, str, Coverage]:
    """New labelled captures, or a data set of them, under a version's masks; the unit they were split by, and the kinds of their flows.

    One label is enough here: the old ones come from the sample.
    """
    from trafficllm.lifecycle.datasets import is_data_set
    from trafficllm.records.dataset.dataset import load
    from trafficllm.records.dataset.reserved import Reserved
    from trafficllm.records.dataset.splits import split
    from trafficllm.records.sources import rows as sources
    from trafficllm.records.sources.origins import Origins

    if is_data_set(folder):
        data = load(folder)
        view.require_flows(data.manifest, str(folder))
        idx = [i for part in PARTS for i in data.indices(part)]
        sides = [part for part in PARTS for _ in data.indices(part)]
        rows = view.rows(data.raw_records(idx), data.labels_of(idx), sides, data.groups(idx))
        return rows, str(data.manifest["split"]["unit"]), Coverage.of_data(data, task=task)
    source = sources.find(folder)
    held = Reserved.find(folder)
    read = sources.read(source, task, keep_chores=chores, reserved=held, options=view.shape.capture, progress=progress)
    masked = [view.masked(record) for record in read.records]
    hashes = twins(masked, [hash64(codec.encode(record, view.options).encode()) for record in masked])
    result = split(read.meta, read.labels, seed=seed, unit=source.unit, reserved=read.reserved, hashes=hashes, given=read.given)
    rows = view.rows(read.records, read.labels, result.assignment, result.groups)
    train = [i for i, part in enumerate(rows.parts) if part == "train"]
    origins = Origins.find(source.root)
    kinds = ((kind_of(read.records[i], read.meta[i].resp_h), read.labels[i], origins.source_of(read.meta[i].capture)) for i in train)
    coverage = Coverage.counted(kinds, task, keeps_chores=chores)
    return rows.take([i for i, part in enumerate(rows.parts) if part in PARTS]), result.unit, coverage


def fewer(new: Rows) -> Rows:
    """New rows, bounded as a kept sample is, twice as many of those held out: an update has few steps, and each class should have its
    share of them."""
    return new.take(sorted(choose(new, {part: limit * (1 if part == "train" else 2) for part, limit in LIMITS.items()})))


def without_leaks(old: Rows, new: Rows) -> tuple[Rows, int]:
    """New rows less those that equal a kept record, in content or in sequence, of another part; and how many they were."""
    both = old + new
    same = twins([codec.decode(units) for units in both.units], both.content)
    sides: dict[int, set[str]] = defaultdict(set)
    for k in range(len(old)):
        sides[same[k]].add(old.parts[k])
    fine = [k for k in range(len(new)) if sides.get(same[len(old) + k], {new.parts[k]}) == {new.parts[k]}]
    return new.take(fine), len(new) - len(fine)


def joined(old: Rows, new: Rows, live: Version, *, unit: str, leaks: int) -> Replayed:
    """Kept and new rows as one data set, the kept first; what an update learns from and is judged on.

    Its labels are the live version's, then the new ones with training records; rows of other labels are left out.
    """
    learnt = {label for label, part in zip(new.labels, new.parts, strict=True) if part == "train"}
    learnt_before = list(live.manifest["labels"])
    labels = [*learnt_before, *sorted(learnt - set(learnt_before))]
    usable = new.take([k for k, label in enumerate(new.labels) if label in labels])
    both = old + usable
    table = both.table()
    same = ("task_definition", "profile", "masked_fields", "also", "kept_fields", "artefact_masked", "codec", "leaky")
    facts = {key: live.manifest[key] for key in same}
    units = sorted({str(live.manifest["split"]), unit})
    left_out = {"equals a kept record of another part": leaks, "no training records": len(new) - len(usable)}
    manifest = {
        **facts,
        KEY: RecordShape.of(live.manifest).as_dict(),
        "task": facts["task_definition"],
        "labels": labels,
        "trainable": labels,
        "records": len(both),
        "classes": _classes(both, labels),
        "dropped": {why: count for why, count in left_out.items() if count},
        "duplicates": duplicates(both.content, both.labels),
        "split": {"unit": " and ".join(units)},
        "dataset_sha256": sha256_bytes("\n".join(_lines(both)).encode()),
    }
    return Replayed(live.path, manifest, table)


def _classes(rows: Rows, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    counts = Counter(zip(rows.labels, rows.parts, strict=True))
    return {label: {part: counts[label, part] for part in PARTS} for label in labels}


def _lines(rows: Rows) -> Iterator[str]:
    for label, part, content in zip(rows.labels, rows.parts, rows.content, strict=True):
        yield f"{label}\t{part}\t{content}"
