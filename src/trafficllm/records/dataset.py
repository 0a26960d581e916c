"""A labelled directory becomes a data set on disk: records.parquet, manifest.json, card.md; and back.

Same input, options and seed give the same bytes. What was dropped, masked and split, and why, is in the manifest.
"""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trafficllm import __version__
from trafficllm.capture.flows import FlowOptions
from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import atomic_dir, hash64, json_text, read_json, sha256_bytes, sha256_file
from trafficllm.core.types import FlowMeta, ProgressSink, Record, Silent
from trafficllm.records import masks, sources, store
from trafficllm.records.canonical import DEFAULT, CodecOptions
from trafficllm.records.card import data_card
from trafficllm.records.catalog import Task
from trafficllm.records.codec import encode
from trafficllm.records.duplicates import duplicates, twins
from trafficllm.records.gather import Gathered, check_labels
from trafficllm.records.probe import FieldScore, artefact_probe, artefacts
from trafficllm.records.reserved import Reserved
from trafficllm.records.splits import UNITS, SplitResult, split
from trafficllm.records.units import codec_hash

SCHEMA = "trafficllm.dataset/1"
PARTS = ("train", "val", "test")
REVISION = 4
"""Raised when the same input would give other rows: older data sets are then built again, not reused."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What `data build` says; `reused` when the folder held this very data set already."""

    out: Path
    manifest: dict[str, Any]
    reused: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The keys of the `data build --json` contract."""
        m = self.manifest
        return {
            "records": m["records"],
            "classes": m["classes"],
            "dropped": m["dropped"],
            "groups": m["split"]["groups"],
            "split": m["split"],
            "mask": m["profile"],
            "masked_fields": m["masked_fields"],
            "artefact_masked": m["artefact_masked"],
            "leaky": m["leaky"],
            "duplicates": m["duplicates"],
            "dataset_sha256": m["dataset_sha256"],
            "out": str(self.out),
            "reused": self.reused,
        }


@dataclass(slots=True)
class _Shown:
    """What the masks leave: one encoded string and content hash a record, and the split that follows."""

    also: frozenset[str]
    units: list[str]
    content: list[int]
    result: SplitResult


def build_dataset(
    directory: str | Path,
    *,
    task: Task,
    out: str | Path,
    profile: str = "strict",
    seed: int = 0,
    split: str = "auto",
    keep: Collection[str] = (),
    reserved: str | Path | None = None,
    progress: ProgressSink | None = None,
    cap: int | None = None,
    unknown: Collection[str] = (),
    codec: CodecOptions = DEFAULT,
    flows: FlowOptions | None = None,
) -> BuildReport:
    """Read `<label>/*.pcap`, mask, split, probe for artefacts, and write the data set to `out` (all or nothing).

    `keep` shows fields that would be masked ("housekeeping" keeps chores) and makes the data set LEAKY; `reserved` is
    a list of captures kept for scoring (default: the one in or beside the folder); `cap` bounds training flows a class;
    labels in `unknown` are only tested, to measure how what was never learnt is told.
    Raises InputError for unusable folders and labels, UsageError for unknown profiles, fields and units.
    """
    sink = progress or Silent()
    source = sources.find(directory)
    held = Reserved.load(reserved) if reserved else Reserved.find(directory)
    shown_fields = frozenset(keep) - {"housekeeping"}
    masks.hidden_fields(profile, frozenset(), shown_fields)
    options = {
        "profile": profile, "seed": seed, "split": split, "keep": sorted(keep), "cap": cap,
        "unknown": sorted(unknown), "task": task.model_dump(mode="json"),
        "codec": [codec.packets, *codec.payload, codec.text, codec.bursts], "codec_hash": codec_hash(),
        "version": __version__, "revision": REVISION, "masks": masks.table_hash(),
        "reserved": sorted(f"{a}/{b} {s}" for (a, b), s in held.shares.items()) if held else [],
        "files": [(file.rel, sha256_file(file.path)) for file in source.files],
    }  # fmt: skip
    key = sha256_bytes(json_text(options).encode())
    again = _reuse(Path(out), key)
    if again is not None:
        return BuildReport(Path(out), again, reused=True)
    keep_chores = task.housekeeping or "housekeeping" in keep
    with _no_collector():
        rows = sources.read(
            source, task, keep_chores=keep_chores, reserved=held, options=flows or FlowOptions(), progress=sink
        )
        check_labels(rows, source.root)
        unit = source.unit if split == "auto" else split
        shown, scores, found = _mask(rows, task, profile, shown_fields, seed=seed, unit=unit, codec=codec, progress=sink)
        sides, left_out = _cap(shown, rows.labels, cap, frozenset(unknown), seed)
        rows.dropped.update({**shown.result.dropped, **left_out})
        manifest = _manifest(rows, shown, sides, scores, found, folder_name=source.root.resolve().name, options=options, key=key)
        manifest["leaky"] = _leaky(manifest, options)
        with atomic_dir(out) as temporary:
            sink.update("writing", 0, None)
            _write(temporary, rows, shown, sides, manifest)
    return BuildReport(Path(out), manifest)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Records hold no cycles: the collector would walk millions of live tuples for nothing (60 of 310 us a flow)."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _reuse(out: Path, key: str) -> dict[str, Any] | None:
    if not (out / "manifest.json").is_file() or not (out / "records.parquet").is_file():
        return None
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    whole = manifest.get("key") == key and sha256_file(out / "records.parquet") == manifest.get("dataset_sha256")
    return manifest if whole else None


def _mask(
    rows: Gathered, task: Task, profile: str, keep: frozenset[str], *, seed: int, unit: str, codec: CodecOptions, progress: ProgressSink
) -> tuple[_Shown, dict[str, FieldScore], dict[str, float]]:
    """Mask by profile, split, probe on train and validation; mask what the probe found and split again."""
    also: frozenset[str] = frozenset()
    scores: dict[str, FieldScore] = {}
    found: dict[str, float] = {}
    masked = [masks.apply(record, profile, also, keep) for record in rows.records]
    for attempt in range(2):
        progress.update("masking", attempt, 2)
        if also:
            masked = [masks.apply(record, "raw", also) for record in masked]
        units = [encode(record, codec) for record in masked]
        content = [hash64(text.encode()) for text in units]
        result = split(
            rows.meta, rows.labels, seed=seed, unit=unit, reserved=rows.reserved, hashes=twins(masked, content), given=rows.given
        )
        shown = _Shown(also, units, content, result)
        if attempt or profile != "strict":
            break
        parts = [result.indices("train"), result.indices("val")]
        scores = artefact_probe(masked, rows.labels, task.umbrella_of, *parts)
        found = {k: v for k, v in artefacts(scores, task.causal, classes=len(set(rows.labels))).items() if k not in keep}
        also = frozenset(found)
        if not also:
            break
    return shown, scores, found


def _cap(
    shown: _Shown, labels: Sequence[str], cap: int | None, unknown: frozenset[str], seed: int
) -> tuple[list[str], Counter[str]]:
    """At most `cap` training flows a class, chosen by content, not by order; none of an unknown one."""
    sides = list(shown.result.assignment)
    left_out: Counter[str] = Counter()
    by_label: dict[str, list[int]] = {}
    for i, side in enumerate(sides):
        if labels[i] in unknown and side in ("train", "val"):
            sides[i] = "dropped"
            left_out["unknown class"] += 1
        elif side == "train":
            by_label.setdefault(labels[i], []).append(i)
    for members in by_label.values():
        members.sort(key=lambda i: (hash64(f"{seed} {shown.content[i]}".encode()), i))
        for i in members[cap:] if cap is not None else ():
            sides[i] = "dropped"
            left_out["cap"] += 1
    return sides, left_out


def _manifest(
    rows: Gathered, shown: _Shown, sides: Sequence[str], scores: dict[str, FieldScore], found: dict[str, float],
    *, folder_name: str, options: dict[str, Any], key: str,
) -> dict[str, Any]:  # fmt: skip
    kept = [i for i, side in enumerate(sides) if side != "dropped"]
    counts = Counter((rows.labels[i], sides[i]) for i in kept)
    hidden = masks.hidden_fields(options["profile"], shown.also, frozenset(options["keep"]) - {"housekeeping"})
    labels = sorted(set(rows.labels))
    return {
        "schema": SCHEMA,
        "key": key,
        "source": folder_name,
        "task": options["task"],
        "labels": labels,
        "trainable": [label for label in labels if counts[label, "train"]],
        "profile": options["profile"],
        "masked_fields": sorted(hidden),
        "also": sorted(shown.also),
        "kept_fields": sorted(options["keep"]),
        "artefact_masked": [{"field": name, "score": score} for name, score in found.items()],
        "artefact_probe": [{"field": name, "label": round(s.label, 4), "umbrella": _rounded(s.umbrella)} for name, s in scores.items()],
        "unknown": options["unknown"],
        "records": len(kept),
        "classes": {label: {part: counts[label, part] for part in PARTS} for label in labels},
        "dropped": dict(sorted(rows.dropped.items())),
        "normalised": dict(sorted(rows.normalised.items())),
        "split": {
            "unit": shown.result.unit,
            "why": shown.result.why,
            "groups": len({shown.result.groups[i] for i in kept}),
            "parts": {part: sum(sides[i] == part for i in kept) for part in PARTS},
            "reserved": sum(rows.reserved),
            "notes": list(shown.result.notes),
        },
        "duplicates": duplicates(shown.content, rows.labels),
        "seed": options["seed"],
        "codec": options["codec"],
        "codec_hash": options["codec_hash"],
        "version": options["version"],
        "files": rows.files,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _leaky(manifest: dict[str, Any], options: dict[str, Any]) -> list[str]:
    out = []
    if manifest["profile"] != "strict":
        out.append(f"mask profile {manifest['profile']}")
    out += [f"{name} kept" for name in manifest["kept_fields"]]
    asked = options["split"]
    if asked in UNITS and UNITS.index(asked) > UNITS.index("host"):
        out.append(f"split by {asked} as asked")
    return out


def _write(folder: Path, rows: Gathered, shown: _Shown, sides: Sequence[str], manifest: dict[str, Any]) -> None:
    kept = [i for i, side in enumerate(sides) if side != "dropped"]

    def pick(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in kept]

    table = store.table_of(
        pick(rows.records), pick(rows.meta), label=pick(rows.labels), part=pick(sides), group=pick(shown.result.groups),
        content=pick(shown.content), units=pick(shown.units),
    )  # fmt: skip
    pq.write_table(table, folder / "records.parquet", compression="zstd", row_group_size=1 << 16)
    manifest["dataset_sha256"] = sha256_file(folder / "records.parquet")
    (folder / "manifest.json").write_text(json_text(manifest), encoding="utf-8")
    (folder / "card.md").write_text(data_card(manifest), encoding="utf-8")


class Dataset:
    """A data set on disk. Records come masked and with hidden bytes zeroed; `raw_records` is for probes only."""

    def __init__(self, path: Path, manifest: dict[str, Any], table: pa.Table) -> None:
        self.path = path
        self.manifest = manifest
        self.table = table
        self.task = Task.model_validate(manifest["task"])
        self.labels: tuple[str, ...] = tuple(manifest["labels"])
        self.profile: str = manifest["profile"]
        self.masked_fields: tuple[str, ...] = tuple(manifest["masked_fields"])
        self.codec = _codec(manifest["codec"])
        self.sha256: str = manifest["dataset_sha256"]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _parts(self) -> list[str]:
        return list(self.table["part"].to_pylist())

    def indices(self, part: str) -> list[int]:
        """Rows of "train", "val" or "test"."""
        return [i for i, side in enumerate(self._parts) if side == part]

    @property
    def mask(self) -> Callable[[Record], Record]:
        """The masks of this data set, artefacts included: what serving must apply to a raw record."""
        also = frozenset(self.manifest["also"])
        keep = frozenset(self.manifest["kept_fields"]) - {"housekeeping"}
        return lambda record: masks.wiped(masks.apply(record, self.profile, also, keep))

    def raw_records(self, idx: Sequence[int]) -> list[Record]:
        """Unmasked records: for the identifier probe and the forge test, never for a model."""
        with _no_collector():
            return store.records_from(self.table.take(pa.array(idx, type=pa.int64())))

    def records(self, idx: Sequence[int]) -> list[Record]:
        """Masked records of these rows."""
        return [self.mask(record) for record in self.raw_records(idx)]

    def record(self, i: int) -> Record:
        """One masked record."""
        return self.records([i])[0]

    def units(self, idx: Sequence[int]) -> list[str]:
        """Encoded masked records of these rows."""
        return self._column("units", idx)

    def labels_of(self, idx: Sequence[int]) -> list[str]:
        """Labels of these rows."""
        return self._column("label", idx)

    def groups(self, idx: Sequence[int]) -> list[str]:
        """Split groups of these rows: what a bootstrap resamples."""
        return self._column("group", idx)

    def hashes(self, idx: Sequence[int]) -> list[int]:
        """64-bit hashes of the masked contents of these rows."""
        return self._column("content", idx)

    def meta(self, idx: Sequence[int]) -> list[FlowMeta]:
        """Where these rows came from."""
        return store.meta_from(self.table.take(pa.array(idx, type=pa.int64())))

    def _column(self, name: str, idx: Sequence[int]) -> list[Any]:
        values = self.table[name].take(pa.array(idx, type=pa.int64())).to_pylist()
        return list(values)


def _codec(values: Sequence[int]) -> CodecOptions:
    packets, orig, resp, text, bursts = values
    return CodecOptions(packets=packets, payload=(orig, resp), text=text, bursts=bursts)


def load(out: str | Path) -> Dataset:
    """Open a data set. Raises ArtifactError where the folder is none, or was written by another codec."""
    path = Path(out)
    if not (path / "manifest.json").is_file() or not (path / "records.parquet").is_file():
        raise ArtifactError("artifact.dataset", "no data set here", input=str(out), hint="make one with `trafficllm data build`")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ArtifactError("artifact.dataset", "not a data set manifest", input=str(out), hint="build the data set again")
    if manifest["codec_hash"] != codec_hash():
        hint = "build the data set again with this version"
        raise ArtifactError("artifact.codec", "the data set was written by another codec", input=str(out), hint=hint)
    if sha256_file(path / "records.parquet") != manifest["dataset_sha256"]:
        hint = "build the data set again"
        raise ArtifactError("artifact.dataset", "records.parquet does not match its manifest", input=str(out), hint=hint)
    return Dataset(path, manifest, pq.read_table(path / "records.parquet", schema=store.SCHEMA))
