"""One file of a data set at a time: its records masked, encoded and put aside as Arrow, its split keys handed back.

The work of `data build` that needs no other file, so that it runs on every core; what comes back is small.
"""

from __future__ import annotations

import array
import gc
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trafficllm.core.files import hash64
from trafficllm.core.types import FlowMeta, Record
from trafficllm.records import marks, masks, store
from trafficllm.records.canonical import DEFAULT, CodecOptions
from trafficllm.records.codec import encode
from trafficllm.records.duplicates import sequence_hash
from trafficllm.records.gather import Gathered
from trafficllm.records.probe import values_of
from trafficllm.records.sources import Reading

_MARKED = 1 << 17
"""Flows whose marks are looked up in one reading of their capture."""


@dataclass(frozen=True, slots=True)
class Show:
    """What is shown of a record: mask profile, fields hidden or kept besides, how much the codec takes."""

    profile: str = "strict"
    also: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    codec: CodecOptions = DEFAULT

    def record(self, record: Record) -> Record:
        """The masked record."""
        return masks.apply(record, self.profile, self.also, self.keep)


@dataclass(slots=True)
class Column:
    """Values that repeat: `names` in order of appearance and a number a row."""

    names: list[Hashable] = field(default_factory=list)
    codes: array.array[int] = field(default_factory=lambda: array.array("i"))
    _number: dict[Hashable, int] = field(default_factory=dict, repr=False)

    def extend(self, values: Sequence[Hashable]) -> None:
        """More rows."""
        number, names = self._number, self.names
        for value in values:
            code = number.get(value)
            if code is None:
                code = number[value] = len(names)
                names.append(value)
            self.codes.append(code)

    def __len__(self) -> int:
        return len(self.codes)

    def values(self) -> list[Hashable]:
        """The value of each row."""
        names = self.names
        return [names[code] for code in self.codes]


@dataclass(slots=True)
class Shown:
    """What a split must know of masked records: content and sequence hashes, and the probes' values."""

    content: array.array[int] = field(default_factory=lambda: array.array("Q"))
    sequences: list[int | None] = field(default_factory=list)
    probes: dict[str, Column] = field(default_factory=dict)

    def add(self, masked: Sequence[Record], units: Sequence[str], *, probe: bool) -> None:
        """More records, masked, and their units."""
        before = len(self.content)
        self.content.extend(hash64(text.encode()) for text in units)
        self.sequences.extend(map(sequence_hash, masked))
        if not probe:
            return
        found = values_of(masked)
        for name in sorted(self.probes.keys() | found.keys()):
            column = self.probes.setdefault(name, Column())
            column.extend([None] * (before - len(column)))
            column.extend(found[name] if name in found else [None] * len(masked))


@dataclass(slots=True)
class Shard:
    """A file's records: `place` holds the rows, `shown` and the lists what the split asks of each.

    `meta` is slim: no frames, no ports. `malformed` names lines left out, `counts` what was dropped and why.
    """

    place: Path
    shown: Shown = field(default_factory=Shown)
    meta: list[FlowMeta] = field(default_factory=list)
    rest: Gathered = field(default_factory=Gathered)

    def __len__(self) -> int:
        return len(self.meta)

    @property
    def file(self) -> dict[str, object]:
        """The file's row of the manifest."""
        return self.rest.files[0]


def make(reading: Reading, folder: Path, number: int, show: Show) -> Shard:
    """Read file `number` of the source, write `folder/<number>.arrow`; strict masks are probed for artefacts."""
    file = reading.source.files[number]
    shard = Shard(folder / f"{number}.arrow")
    probe = show.profile == "strict"
    frames: list[FlowMeta] = []
    with no_collector(), pa.OSFile(str(shard.place), "wb") as stream, pa.ipc.new_file(stream, _SCHEMA) as out:
        for piece in reading.pieces(file):
            if piece.records:
                units = _show(piece.records, show, shard.shown, probe=probe)
                out.write_table(store.rows_of(piece.records, piece.meta).append_column("units", pa.array(units)))
                frames += [FlowMeta(capture=row.capture, frames=row.frames) for row in piece.meta if row.frames]
                shard.meta += map(_slim, piece.meta)
            _keep_rest(shard.rest, piece)
    if frames:
        _mark(shard.place, reading.source.root, frames)
    return shard


def show_again(_: Reading, folder: Path, number: int, show: Show) -> Shown:
    """Mask and encode the rows of file `number` anew; the units go to a file of their own."""
    shown = Shown()
    shard_place = folder / f"{number}.arrow"
    with no_collector(), pa.memory_map(str(shard_place)) as source, pa.OSFile(str(_units_of(shard_place)), "wb") as stream:
        rows = pa.ipc.open_file(source)
        with pa.ipc.new_file(stream, _UNITS) as out:
            for k in range(rows.num_record_batches):
                records = store.records_from(pa.Table.from_batches([rows.get_batch(k)]))
                out.write_table(pa.table([pa.array(_show(records, show, shown, probe=False), type=pa.string())], schema=_UNITS))
    return shown


def rows(place: Path) -> pa.Table:
    """A shard's rows with the units that were shown last; memory-mapped."""
    table = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
    again = _units_of(place)
    if not again.exists():
        return table
    units = pa.ipc.open_file(pa.memory_map(str(again))).read_all()["units"]
    return table.set_column(table.column_names.index("units"), "units", units)


def marks_at(place: Path, count: int) -> dict[str, npt.NDArray[np.float64]]:
    """The set-up marks of a shard's rows; NaN where it has none."""
    path = _marks_of(place)
    if not path.exists():
        return {name: np.full(count, np.nan) for name in marks.MARKS}
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return {name: table[name].to_numpy() for name in marks.MARKS}


_SCHEMA = store.ROWS.append(pa.field("units", pa.string()))
_UNITS = pa.schema([("units", pa.string())])


def _show(records: Sequence[Record], show: Show, into: Shown, *, probe: bool) -> list[str]:
    masked = [show.record(record) for record in records]
    units = [encode(record, show.codec) for record in masked]
    into.add(masked, units, probe=probe)
    return units


def _slim(meta: FlowMeta) -> FlowMeta:
    """What splits and their keys ask for, without frames and ports."""
    return FlowMeta(
        capture=meta.capture, origin=meta.origin, host=meta.host, ts=meta.ts, community_id=meta.community_id,
        orig_h=meta.orig_h, resp_h=meta.resp_h,
    )  # fmt: skip


def _keep_rest(rest: Gathered, piece: Gathered) -> None:
    """Everything of a piece but its records."""
    piece.records, piece.meta = [], []
    rest.extend(piece)


def _mark(place: Path, root: Path, flows: Sequence[FlowMeta]) -> None:
    parts = [marks.marks_of(root, flows[at : at + _MARKED]) for at in range(0, len(flows), _MARKED)]
    table = pa.table({name: np.concatenate([part[name] for part in parts]) for name in marks.MARKS})
    with pa.OSFile(str(_marks_of(place)), "wb") as stream, pa.ipc.new_file(stream, table.schema) as out:
        out.write_table(table)


def _units_of(place: Path) -> Path:
    return place.with_suffix(".units")


def _marks_of(place: Path) -> Path:
    return place.with_suffix(".marks")


class no_collector:  # noqa: N801 - reads as the with statement it is
    """Records hold no cycles: the collector would walk millions of live tuples for nothing (60 of 310 us a flow)."""

    def __enter__(self) -> None:
        self._was = gc.isenabled()
        gc.disable()

    def __exit__(self, *error: Any) -> None:
        if self._was:
            gc.enable()
