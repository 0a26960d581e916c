"""A labelled directory becomes a data set on disk: records.parquet, manifest.json, card.md, split.json.

Files are read, masked and encoded one by one on every core; the split is made from their keys alone; the rows then pass
from the shards into Parquet. Same input, options and seed give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trafficllm import __version__
from trafficllm.core.errors import InputError
from trafficllm.core.files import atomic_dir, json_text, read_json, recover, sha256_bytes, sha256_file
from trafficllm.core.machine import cores
from trafficllm.core.settings import CodecOptions, Config, FlowOptions, RecordOptions
from trafficllm.core.types import ProgressSink, Silent, announce
from trafficllm.records import masks
from trafficllm.records.catalog import SERVING, Task
from trafficllm.records.codec.canonical import DEFAULT
from trafficllm.records.codec.units import codec_hash
from trafficllm.records.dataset import marks, nodes, shards, store
from trafficllm.records.dataset import split_files as fixed
from trafficllm.records.dataset.duplicates import joined
from trafficllm.records.dataset.manifest import BuildReport, Facts, data_card, manifest_of
from trafficllm.records.dataset.nodes import Spread
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.dataset.shards import Shard, Show, Shown
from trafficllm.records.dataset.split_files import Shots, folds, shots
from trafficllm.records.dataset.splits import split
from trafficllm.records.dataset.spread import Each, spread
from trafficllm.records.probe import artefacts, merged, probe_codes
from trafficllm.records.record_shape import KEY, RecordShape
from trafficllm.records.sources import rows as sources
from trafficllm.records.sources.captures import check_labels
from trafficllm.records.sources.origins import Origins

REVISION = 9
"""Raised when the same input would give other rows or files: older data sets are then built again, not reused."""
ROW_GROUP = 1 << 14
HOUSEKEEPING = "housekeeping"
"""In `keep`: flows that every host has (DHCP, mDNS...) stay, whatever the task says."""
_WORTH = 1 << 20
"""Bytes of input for each worker: below that a second process costs more than it saves."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a data set is made of a folder.

    `profile`, `codec` and `flows` shape the records. `keep` shows fields that would be masked ("housekeeping" keeps chores) and makes
    the data set LEAKY. `split` is the unit that no part shares with another, `reserved` a list of captures kept for scoring (default:
    the one in or beside the folder). `cap` bounds training flows a class; labels in `unknown` are only tested, to measure how flows of
    classes that were never learnt are told. `few_shot`: training and validation flows a class, the largest for the data set itself,
    each size as a split file; `folds`: as many split files beside it; `split_from` takes the parts from such a file. `workers` 0: one
    a core. `labels`: logs of another sensor that label the flows; folders then name no label.
    """

    profile: str = "strict"
    codec: CodecOptions = DEFAULT
    flows: FlowOptions = field(default_factory=FlowOptions)
    seed: int = 0
    split: str = "auto"
    keep: Collection[str] = ()
    reserved: str | Path | None = None
    cap: int | None = None
    unknown: Collection[str] = ()
    few_shot: Sequence[int] = ()
    folds: int = 0
    split_from: str | Path | None = None
    workers: int = 0
    labels: sources.LabelLogs | None = None

    @classmethod
    def of(cls, config: Config, **changes: Any) -> BuildOptions:
        """The configuration's records, flows and seed, with some options changed; an empty `profile` or seed None changes nothing."""
        if changes.get("seed", 0) is None:
            changes["seed"] = config.tune.seed
        stated = {"codec": config.records.codec(), "flows": config.capture, "seed": config.tune.seed, **changes}
        return cls(**{**stated, "profile": stated.get("profile") or config.records.profile})

    @property
    def shown_fields(self) -> frozenset[str]:
        """Fields of `keep` that masks would hide."""
        return frozenset(self.keep) - {HOUSEKEEPING}

    def shape(self) -> RecordShape:
        """What shapes the records."""
        return RecordShape(capture=self.flows, records=RecordOptions(profile=self.profile, **self.codec.model_dump()))


def build_dataset(
    directory: str | Path,
    *,
    task: Task,
    out: str | Path,
    options: BuildOptions | None = None,
    progress: ProgressSink | None = None,
    on: Spread | None = None,
) -> BuildReport:
    """Read `<label>/*.pcap`, mask, split, probe for artefacts, and write the data set to `out` (all or nothing).

    A folder that holds this very data set already is taken as it is. With `on` a cluster reads the files: those that cannot be read are
    left out, as if they were not in the folder, and a build that was ended goes on where it stood. Raises InputError for unusable folders
    and labels, UsageError for unknown profiles, fields, units and labels.
    """
    settings = options or BuildOptions()
    if settings.labels is not None:
        sources.labels_of(settings.labels)  # what is wrong with the logs is said before any work
    source = sources.find(directory, labelled_elsewhere=settings.labels is not None)
    reserved = Reserved.load(settings.reserved) if settings.reserved else Reserved.find(directory)
    masks.hidden_fields(settings.profile, frozenset(), settings.shown_fields)
    given = fixed.load(settings.split_from) if settings.split_from else None
    sink = progress or Silent()
    source, digests = on.digests(source, sink) if on else (source, [sha256_file(file.path) for file in source.files])
    facts = _facts(settings, task, source, digests=digests, reserved=reserved, given=given)
    key = _key(facts, task)
    manifest = _reuse(Path(out), key)
    if manifest is not None:
        return BuildReport(Path(out), manifest, reused=True)
    reading = sources.Reading(source, task, task.housekeeping or HOUSEKEEPING in settings.keep, reserved, settings.flows, settings.labels)
    show = Show(settings.profile, frozenset(), settings.shown_fields, settings.codec)
    announce(sink, "reading", "masking", "writing")
    with atomic_dir(out, private=True) as temporary:
        scratch = nodes.scratch(Path(out), key) if on else temporary / "shards"
        job = _Job(reading, show, facts, temporary, scratch=scratch, progress=sink)
        if on:
            job.read_on(on)
            key = _key(job.options, task)
            with on.each((reading, job.scratch)) as each:
                job.show(each, given)
        else:
            workers = _workers(settings.workers, source)
            with spread(workers, (reading, job.scratch)) as each:
                job.read(each, workers)
                job.show(each, given)
        manifest = job.write(key, given, settings.shape())
        if not on:
            shutil.rmtree(scratch)
    if on:
        nodes.forget(scratch)  # only now does the data set stand in its place
    return BuildReport(Path(out), manifest)


def _key(facts: dict[str, Any], task: Task) -> str:
    return sha256_bytes(json_text({**facts, "task": task.model_dump(mode="json", exclude=set(SERVING))}).encode())


def _facts(
    options: BuildOptions,
    task: Task,
    source: sources.Source,
    *,
    digests: Sequence[str],
    reserved: Reserved | None,
    given: fixed.Fixed | None,
) -> dict[str, Any]:
    """All that the rows depend on: the data set's key is their hash. Flow options stand there where they are not the default, so that
    data sets of earlier versions keep their keys."""
    codec, flows = options.codec, options.shape().as_dict()["capture"]
    return {
        "profile": options.profile,
        "seed": options.seed,
        "split": options.split,
        "keep": sorted(options.keep),
        "cap": options.cap,
        "unknown": sorted(options.unknown),
        "task": task.model_dump(mode="json"),
        "few_shot": sorted(set(options.few_shot)),
        "folds": options.folds,
        "split_from": given.key if given else "",
        "codec": [codec.packets, *codec.payload, codec.text, codec.bursts],
        "codec_hash": codec_hash(),
        "version": __version__,
        "revision": REVISION,
        "masks": masks.table_hash(),
        "reserved": sorted(f"{a}/{b} {s}" for (a, b), s in reserved.shares.items()) if reserved else [],
        "files": [(file.rel, file.label, digest) for file, digest in zip(source.files, digests, strict=True)],
        **({"flows": flows} if flows != RecordShape().as_dict()["capture"] else {}),
        **({"labels": options.labels.key()} if options.labels else {}),
        **({"copies": "kept"} if task.kind == "generation" else {}),
    }


def _workers(workers: int, source: sources.Source) -> int:
    if workers:
        return workers
    size = sum(file.path.stat().st_size for file in source.files)
    return max(min(cores(), len(source.files), size // _WORTH), 1)


def _reuse(out: Path, key: str) -> dict[str, Any] | None:
    recover(out)
    if not (out / "manifest.json").is_file() or not (out / "records.parquet").is_file():
        return None
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    whole = manifest.get("key") == key and sha256_file(out / "records.parquet") == manifest.get("dataset_sha256")
    return manifest if whole else None


class _Job:
    """One build: what was read, how it is shown, and the split that follows."""

    def __init__(
        self, reading: sources.Reading, show: Show, options: dict[str, Any], folder: Path, *, scratch: Path, progress: ProgressSink
    ) -> None:
        self.reading, self.now, self.options, self.folder, self.progress = reading, show, options, folder, progress
        self.scratch = scratch
        self.scratch.mkdir(exist_ok=True)
        self.shards: list[Shard] = []
        self.shown: list[Shown] = []
        self.runs: list[range] = []
        self.scores: dict[str, Any] = {}
        self.artefacts: dict[str, float] = {}

    def read(self, each: Each, workers: int) -> None:
        """Every file into a shard; then the lists that the split works on."""
        files = self.reading.source.files
        sizes = [file.path.stat().st_size for file in files]
        self.runs = shards.runs(sizes, workers=workers)
        weights = [sum(sizes[k] for k in run) for run in self.runs]
        made = each(shards.make, [(run, self.now) for run in self.runs], weights)
        for run, shard in zip(self.runs, made, strict=True):
            self.progress.update("reading", run.start, len(files))
            self.shards.append(shard)
        self.progress.update("reading", len(files), len(files))
        self._gather()

    def read_on(self, on: Spread) -> None:
        """`read` by the nodes of a cluster; what they could not read is as if it had not been there."""
        source, self.runs, self.shards = on.read(self.reading, self.now, self.scratch, self.progress)
        here = {file.rel for file in source.files}
        self.options = {**self.options, "files": [row for row in self.options["files"] if row[0] in here]}
        self._gather()

    def _gather(self) -> None:
        self._raise_if_changed()
        self.shown = [shard.shown for shard in self.shards]
        self.meta = [row for shard in self.shards for row in shard.meta]
        self.labels = [label for shard in self.shards for label in shard.rest.labels]
        self.given = [part for shard in self.shards for part in shard.rest.given]
        self.reserved = [mark for shard in self.shards for mark in shard.rest.reserved]
        if not self.meta and self.reading.source.form != "captures":
            raise sources.nothing(self.reading.source)
        check_labels(self.labels, self.reserved, self.reading.source.root)
        fixed.require_labels(self.options["unknown"], self.labels)

    def _raise_if_changed(self) -> None:
        """Raise InputError for an input whose hash after it was read is not the one that the data set's key holds."""
        before = {name: digest for name, _, digest in self.options["files"]}
        now = [(str(file["file"]), str(file["sha256"])) for shard in self.shards for file in shard.rest.files]
        hint = "wait until its writer is done, then build again"
        for name, digest in now:
            if before[name] != digest:
                why = f"changed while the data set was built: {before[name]} before, {digest} after"
                raise InputError("input.changed", why, input=str(self.reading.source.root / name), hint=hint)
        logs = self.reading.logs
        if logs is not None and logs.key() != self.options["labels"]:
            raise InputError("input.changed", "changed while the data set was built", input=", ".join(logs.paths), hint=hint)

    def show(self, each: Each, given: fixed.Fixed | None) -> None:
        """Split; probe strict masks on train and validation; hide what the probe found and split again."""
        self._split(given)
        if self.now.profile not in masks.PROBED:
            return
        self.progress.update("masking", 1, 2)
        parts = [self.result.indices("train"), self.result.indices("val")]
        task = self.reading.task
        codes = merged([piece for shown in self.shown for piece in shown.probes])
        self.scores = probe_codes(codes, self.labels, task.umbrella_of, *parts)
        scores = artefacts(self.scores, task.causal, classes=len(set(self.labels)))
        self.artefacts = {name: score for name, score in scores.items() if name not in self.now.keep}
        if self.artefacts:
            self.now = Show(self.now.profile, frozenset(self.artefacts), self.now.keep, self.now.codec)
            rows = [(run, self.now) for run in self.runs]
            self.shown = list(each(shards.show_again, rows, [len(shard) for shard in self.shards]))
            self._split(given)

    def _split(self, given: fixed.Fixed | None) -> None:
        self.content = [value for shown in self.shown for value in shown.content]
        self.hashes = joined(self.content, [value for shown in self.shown for value in shown.sequences])
        unit = self.options["split"]
        # How often a flow repeats is part of what a generator must learn: there equal contents stay where they were captured.
        hashes = self.hashes if self.reading.task.kind != "generation" else None
        if given is not None:
            self.result = given.apply(self._keys(), self.meta, self.labels, self.hashes, self.reserved)
            return
        self.result = split(
            self.meta,
            self.labels,
            seed=self.options["seed"],
            unit=self.reading.source.unit if unit == "auto" else unit,
            reserved=self.reserved,
            hashes=hashes,
            given=self.given,
        )

    def _keys(self) -> list[fixed.Key]:
        files = [file for shard in self.shards for file in shard.rest.files for _ in range(int(str(file["kept"])))]
        rows = (row for shard in self.shards for row in shard.rest.row)
        return [(str(file["sha256"]), file["file"], row) for file, row in zip(files, rows, strict=True)]

    def write(self, key: str, given: fixed.Fixed | None, shape: RecordShape) -> dict[str, Any]:
        """Rows, marks, manifest, card and split files."""
        self.progress.update("writing", 0, None)
        rows = Shots(self.labels, self.content, self.options["seed"])
        sides, left_out = shots(self.result.assignment, rows, self.options)
        dropped: Counter[str] = Counter()
        for shard in self.shards:
            dropped.update(shard.rest.dropped)
        dropped.update({**self.result.dropped, **left_out})
        facts = Facts(
            self.labels,
            self.reserved,
            sides,
            self.content,
            self.result,
            dropped,
            sum((shard.rest.normalised for shard in self.shards), Counter()),
            [line for shard in self.shards for line in shard.rest.malformed],
            self._files(),
            self.now.also,
            self.scores,
            self.artefacts,
        )
        manifest = manifest_of(facts, folder_name=self.reading.source.root.resolve().name, options=self.options, key=key)
        manifest[KEY] = shape.as_dict()
        self._write_rows(sides)
        manifest["dataset_sha256"] = sha256_file(self.folder / "records.parquet")
        manifest["split_files"] = self._write_splits(sides, rows)
        (self.folder / "manifest.json").write_text(json_text(manifest), encoding="utf-8")
        (self.folder / "card.md").write_text(data_card(manifest), encoding="utf-8")
        return manifest

    def _files(self) -> list[dict[str, object]]:
        """Every file that was read, with the repository or laboratory it comes from."""
        origins = Origins.find(self.reading.source.root)
        files = [file for shard in self.shards for file in shard.rest.files]
        return [{**file, "source": origins.source_of(str(file["file"]))} for file in files]

    def _write_rows(self, sides: Sequence[str]) -> None:
        """Shard by shard into row groups of ROW_GROUP: no more than those and one shard's pages are in memory."""
        with pq.ParquetWriter(self.folder / "records.parquet", store.SCHEMA, compression="zstd") as out:
            for table in _regrouped(self._tables(sides), ROW_GROUP):
                out.write_table(table, row_group_size=ROW_GROUP)
        mark_columns = [np.full((len(s), len(marks.MARKS)), np.nan) if s.marks is None else s.marks for s in self.shards]
        used = np.array([side != "dropped" for side in sides])
        marks.write(self.folder, dict(zip(marks.MARKS, np.concatenate(mark_columns)[used].T, strict=True)))

    def _tables(self, sides: Sequence[str]) -> Iterator[pa.Table]:
        at = 0
        for shard in self.shards:
            span = slice(at, at + len(shard))
            at += len(shard)
            used = [k for k, side in enumerate(sides[span]) if side != "dropped"]
            if not used:
                continue
            rows = shards.rows(shard.place, self.now)
            pick = pa.array(used, type=pa.int64())

            def column(values: Sequence[Any], used: Sequence[int] = used, span: slice = span) -> list[Any]:
                part = values[span]
                return [part[k] for k in used]

            yield store.whole(
                rows if len(used) == len(shard) else rows.take(pick),
                label=column(self.labels),
                part=column(sides),
                group=column(self.result.groups),
                content=column(self.content),
            )

    def _write_splits(self, sides: Sequence[str], rows: Shots) -> list[str]:
        """The split as a file that others can build from, one more a fold and a few-shot size."""
        keys = self._keys()
        said = {"task": self.reading.task.id, "unit": self.result.unit, "seed": self.options["seed"]}
        written = [fixed.write(self.folder, "split.json", keys, sides, said)]
        if self.options["folds"]:
            many = folds(
                self.labels,
                self.options["folds"],
                unit=self.result.unit,
                groups=self.result.groups,
                seed=self.options["seed"],
                reserved=self.reserved,
                hashes=self.hashes,
            )
            written += [
                fixed.write(self.folder, f"splits/fold-{k}.json", keys, fold, {**said, "fold": k}) for k, fold in enumerate(many, 1)
            ]
        for size in self.options["few_shot"]:
            few, _ = shots(self.result.assignment, rows, {**self.options, "few_shot": [size]})
            written.append(fixed.write(self.folder, f"splits/shots-{size}.json", keys, few, {**said, "few_shot": size}))
        return written


def _regrouped(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables joined and cut to `rows` rows each, the last one shorter."""
    waiting: list[pa.Table] = []
    have = 0
    for table in tables:
        waiting.append(table)
        have += table.num_rows
        if have >= rows:
            joint = pa.concat_tables(waiting)
            whole = joint.num_rows // rows * rows
            for at in range(0, whole, rows):
                yield joint.slice(at, rows).combine_chunks().unify_dictionaries()
            waiting, have = [joint.slice(whole)], joint.num_rows - whole
    if have:
        yield pa.concat_tables(waiting).combine_chunks().unify_dictionaries()
