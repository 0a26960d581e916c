"""A data set on disk, opened: masked records, their units, labels, parts and groups. `builder` makes one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import read_json, recover
from trafficllm.core.types import FlowMeta, Record, RecordKind
from trafficllm.records import masks
from trafficllm.records.catalog import Task
from trafficllm.records.codec.units import codec_hash
from trafficllm.records.dataset import store
from trafficllm.records.dataset.builder import REVISION, BuildOptions, build_dataset
from trafficllm.records.dataset.manifest import PARTS, SCHEMA, BuildReport
from trafficllm.records.dataset.shards import no_collector
from trafficllm.records.record_shape import RecordShape

__all__ = ["PARTS", "REVISION", "SCHEMA", "BuildOptions", "BuildReport", "Dataset", "build_dataset", "load"]


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
        self.shape = RecordShape.of(manifest)
        self.codec = self.shape.codec()
        self.sha256: str = manifest["dataset_sha256"]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def kind(self) -> RecordKind:
        """What its records are: flows, requests, cell sequences ("flow" where it has none)."""
        return self.records([0])[0].kind if len(self) else "flow"

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
        """Records before masks, as `masks.kept` left them: for the identifier probe and the forge test, never for a model."""
        with no_collector():
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

    @property
    def sources(self) -> dict[str, str]:
        """The repository or laboratory that each capture comes from, by `FlowMeta.capture`; none of a data set of an earlier version."""
        return {str(file["file"]): str(file["source"]) for file in self.manifest.get("files", ()) if "source" in file}

    def meta(self, idx: Sequence[int]) -> list[FlowMeta]:
        """Where these rows came from."""
        return store.meta_from(self.table.take(pa.array(idx, type=pa.int64())))

    def _column(self, name: str, idx: Sequence[int]) -> list[Any]:
        values = self.table[name].take(pa.array(idx, type=pa.int64())).to_pylist()
        return list(values)


def load(out: str | Path) -> Dataset:
    """Open a data set; one that a killed `data build` had moved aside is put back first.

    Raises ArtifactError where the folder is none, was written by another codec, or is not as its manifest says.
    """
    path = Path(out)
    recover(path)
    if not (path / "manifest.json").is_file() or not (path / "records.parquet").is_file():
        raise ArtifactError("artifact.dataset", "no data set here", input=str(out), hint="make one with `trafficllm data build`")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ArtifactError("artifact.dataset", "not a data set manifest", input=str(out), hint="build the data set again")
    if manifest["codec_hash"] != codec_hash():
        hint = "build the data set again with this version"
        raise ArtifactError("artifact.codec", "the data set was written by another codec", input=str(out), hint=hint)
    return Dataset(path, manifest, _rows(path / "records.parquet", manifest["dataset_sha256"]))


def _rows(path: Path, expected: str) -> pa.Table:
    """The rows of a data set, as they were hashed: another process may write over the file between the two."""
    hint = "build the data set again"
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != expected:
            why = f"{path.name} does not match its manifest: expected {expected}, found {digest}"
            raise ArtifactError("artifact.dataset", why, input=str(path.parent), hint=hint)
        table = pq.read_table(stream, schema=store.SCHEMA)
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ArtifactError("artifact.dataset", f"{path.name} changed while it was read", input=str(path.parent), hint=hint)
    return table
