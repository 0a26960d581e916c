"""One file of a data set at a time: its records masked, encoded and put aside as Arrow, its split keys handed back.

The work of `data build` that needs no other file, so that it runs on every core; what comes back is small.
"""

from __future__ import annotations

import array
import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trafficllm.core.files import hash64
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import F64, I64, FlowMeta, Record
from trafficllm.records import masks
from trafficllm.records.codec import columns as flow_columns
from trafficllm.records.codec.canonical import DEFAULT
from trafficllm.records.codec.codec import END, beginning_units, encode
from trafficllm.records.codec.columns import head_units
from trafficllm.records.dataset import marks, store
from trafficllm.records.dataset.duplicates import sequence_hash
from trafficllm.records.probe import Coded, beginning_values, coded, coded_numbers, values_of
from trafficllm.records.sources.captures import PIECE, Gathered
from trafficllm.records.sources.flow_rows import FlowRows, joined
from trafficllm.records.sources.rows import Reading

_TOGETHER = 1 << 19
"""Bytes of small files that one shard holds."""


@dataclass(frozen=True, slots=True)
class Show:
    """What is shown of a record: mask profile, fields hidden or kept besides, how much the codec takes."""

    profile: str = "strict"
    also: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    codec: CodecOptions = DEFAULT

    @property
    def names(self) -> frozenset[str]:
        """The fields that are hidden."""
        return masks.hidden_fields(self.profile, self.also, self.keep)

    def record(self, record: Record) -> Record:
        """The masked record."""
        return masks.apply(record, self.profile, self.also, self.keep)


@dataclass(slots=True)
class Shown:
    """What a split must know of masked records: content and sequence hashes, and the probes' values, a piece at a time."""

    content: array.array[int] = field(default_factory=lambda: array.array("Q"))
    sequences: list[int | None] = field(default_factory=list)
    probes: list[tuple[int, dict[str, Coded]]] = field(default_factory=list)

    def add(self, units: Sequence[str], sequences: Iterable[int | None], probes: dict[str, Coded]) -> None:
        """More records: their units, sequence hashes and coded probe values."""
        self.content.extend([hash64(text.encode()) for text in units])
        self.sequences.extend(sequences)
        self.probes.append((len(units), probes))


@dataclass(slots=True)
class Shard:
    """The records of some files: `place` holds the rows, `shown` and the lists what the split asks of each.

    `meta` is slim: no frames, no ports. `marks` float64 [n, marks] are the set-up's, None where no capture was read.
    """

    place: Path
    shown: Shown = field(default_factory=Shown)
    meta: list[FlowMeta] = field(default_factory=list)
    rest: Gathered = field(default_factory=Gathered)
    marks: F64 | None = None

    def __len__(self) -> int:
        return len(self.meta)


def runs(sizes: Sequence[int], *, workers: int) -> list[range]:
    """Neighbouring files that one shard holds: small ones together, in pieces of work that keep every worker busy."""
    most = min(sum(sizes) // (8 * max(workers, 1)), _TOGETHER)
    out: list[range] = []
    start = have = 0
    for stop, size in enumerate(sizes, 1):
        have += size
        if have >= most or stop == len(sizes):
            out.append(range(start, stop))
            start, have = stop, 0
    return out


def make(reading: Reading, folder: Path, files: range, show: Show) -> Shard:
    """Read these files of the source, write `folder/<first>.arrow`; strict masks are probed for artefacts."""
    shard = Shard(folder / f"{files.start}.arrow")
    mark_columns: list[F64] = []
    with no_collector(), pa.OSFile(str(shard.place), "wb") as stream, pa.ipc.new_stream(stream, _SCHEMA) as out:
        waiting: list[FlowRows] = []
        held = 0
        for number in files:
            file = reading.source.files[number]
            frames: list[tuple[I64, I64]] = []
            for piece in reading.in_columns(file):
                if isinstance(piece, FlowRows):
                    frames.append((piece.frames, piece.edges))
                    waiting.append(piece)
                    held += len(piece)
                    if held >= PIECE:
                        _write_flows(waiting, show, shard, out)
                        waiting, held = [], 0
                else:
                    _write_others(piece, show, shard, out)
            mark_columns += _marks(file.path, frames)
        _write_flows(waiting, show, shard, out)
    shard.marks = np.concatenate(mark_columns) if mark_columns else None
    return shard


def _write_flows(pieces: Sequence[FlowRows], show: Show, shard: Shard, out: Any) -> None:
    """Captured flows of one file or several, joined: masked, encoded, written."""
    if not pieces:
        return
    piece = joined(pieces)
    shard.rest.extend(piece.rest)
    if len(piece):
        units, heads = _show_flows(piece, show, shard.shown)
        out.write_table(piece.table().append_column("units", pa.array(units)).append_column("head", pa.array(heads, type=pa.int32())))
        shard.meta += piece.meta()


def _write_others(piece: Gathered, show: Show, shard: Shard, out: Any) -> None:
    """Records that are not captured flows, or none: the end of a file."""
    if piece.records:
        table = store.rows_of(piece.records, piece.meta)
        units = _show(piece.records, show, shard.shown, probe=show.profile in masks.PROBED)
        out.write_table(table.append_column("units", pa.array(units)).append_column("head", pa.nulls(len(units), pa.int32())))
        shard.meta += map(_slim, piece.meta)
    piece.records, piece.meta = [], []
    shard.rest.extend(piece)


def _marks(capture: Path, pieces: Sequence[tuple[I64, I64]]) -> list[F64]:
    """Marks of a capture's flows, float64 [n, marks]; pieces are (frame numbers, edges of each flow in them)."""
    if not sum(len(edges) - 1 for _, edges in pieces):
        return []
    starts = np.cumsum([0, *(len(frames) for frames, _ in pieces)])
    edges = np.concatenate([[0], *(rows[1:] + start for (_, rows), start in zip(pieces, starts, strict=False))])
    columns = marks.of_capture(capture, np.concatenate([frames for frames, _ in pieces]), edges)
    return [np.column_stack([columns[name] for name in marks.MARKS])]


def show_again(reading: Reading, folder: Path, files: range, show: Show) -> Shown:
    """Mask and encode the rows of these files anew; the units go to a file of their own."""
    shown = Shown()
    shard_place = folder / f"{files.start}.arrow"
    with no_collector(), pa.memory_map(str(shard_place)) as source, pa.OSFile(str(_units_of(shard_place)), "wb") as stream:
        rows = pa.ipc.open_stream(source)
        with pa.ipc.new_stream(stream, _UNITS) as out:
            for batch in rows:
                table = pa.Table.from_batches([batch])
                captured = reading.source.form == "captures"
                units = _flows_again(table, show, shown) if captured else _show(store.records_from(table), show, shown, probe=False)
                out.write_table(pa.table([pa.array(units, type=pa.string())], schema=_UNITS))
    return shown


def rows(place: Path, show: Show) -> pa.Table:
    """A shard's rows with the units that were shown last, payload as `masks.kept` leaves it under `strict` or `names`; memory-mapped."""
    table = pa.ipc.open_stream(pa.memory_map(str(place))).read_all().drop_columns(["head"])
    if show.profile in masks.PROBED:
        names = Show(show.profile, frozenset(), show.keep, show.codec).names
        with no_collector():
            table = store.with_beginnings(table, [masks.kept(record, names) for record in store.records_from(table)])
    again = _units_of(place)
    if not again.exists():
        return table
    units = pa.ipc.open_stream(pa.memory_map(str(again))).read_all()["units"]
    return table.set_column(table.column_names.index("units"), "units", units)


_SCHEMA = store.ROWS.append(pa.field("units", pa.string())).append(pa.field("head", pa.int32()))
"""`head`: how many units of a captured flow go up to its packets; most artefact masks leave what is behind them as it is."""
_UNITS = pa.schema([("units", pa.string())])


def _show(records: Sequence[Record], show: Show, into: Shown, *, probe: bool) -> list[str]:
    masked = [show.record(record) for record in records]
    units = [encode(record, show.codec) for record in masked]
    into.add(units, map(sequence_hash, masked), {name: coded(column) for name, column in values_of(masked).items()} if probe else {})
    return units


def _show_flows(piece: FlowRows, show: Show, into: Shown) -> tuple[list[str], list[int]]:
    """Units of captured flows, and how many of each go up to its packets; what `_show` gives, by columns."""
    names = show.names
    masked = flow_columns.hide(piece.columns, names)
    begun = [masks.beginning(facts, payload, names) for facts, payload in zip(piece.facts, piece.payload, strict=True)]
    heads = head_units(masked, show.codec.packets)
    units = [head + beginning_units(*left, show.codec) + END for head, left in zip(heads, begun, strict=True)]
    codes: dict[str, Coded] = {}
    if show.profile in masks.PROBED:
        codes = {name: coded_numbers(values) for name, values in flow_columns.probes(masked).items()}
        codes |= {name: coded(column) for name, column in beginning_values(begun).items()}
    into.add(units, flow_columns.sequence_hashes(masked), codes)
    return units, list(map(len, heads))


def _flows_again(table: pa.Table, show: Show, into: Shown) -> list[str]:
    before = Show(show.profile, frozenset(), show.keep, show.codec).names
    masked = flow_columns.hide(flow_columns.from_table(table), show.names)
    if masks.beginning_key(show.names) == masks.beginning_key(before):
        tails = [text[head:] for text, head in zip(table["units"].to_pylist(), table["head"].to_pylist(), strict=True)]
    else:
        begun = (masks.beginning(record.facts, record.payload, show.names) for record in store.records_from(table))
        tails = [beginning_units(*left, show.codec) + END for left in begun]
    units = [head + tail for head, tail in zip(head_units(masked, show.codec.packets), tails, strict=True)]
    into.add(units, flow_columns.sequence_hashes(masked), {})
    return units


def _slim(meta: FlowMeta) -> FlowMeta:
    """What splits and their keys ask for, without frames and ports."""
    return FlowMeta(
        capture=meta.capture,
        origin=meta.origin,
        host=meta.host,
        ts=meta.ts,
        community_id=meta.community_id,
        orig_h=meta.orig_h,
        resp_h=meta.resp_h,
    )


def _units_of(place: Path) -> Path:
    return place.with_suffix(".units")


class no_collector:  # noqa: N801 - reads as the with statement it is
    """Records hold no cycles: the collector would walk millions of live tuples for nothing (60 of 310 us a flow)."""

    def __enter__(self) -> None:
        self._was = gc.isenabled()
        gc.disable()

    def __exit__(self, *error: Any) -> None:
        if self._was:
            gc.enable()
