"""Captured flows on their way into a data set: columns, facts and where each came from, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.facts.keys import FactsCache
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.foreign.labels import Labels
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import I64, Facts, FlowBatch, FlowMeta
from trafficllm.records.codec import columns as flow_columns
from trafficllm.records.codec.canonical import MAX_PACKETS
from trafficllm.records.codec.columns import Columns
from trafficllm.records.codec.flows import CHORES, address_spans, address_text, chores, flow_uid
from trafficllm.records.dataset import store
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.sources.captures import PIECE, Gathered, held_flows
from trafficllm.records.sources.folders import LabelledFile, origin_of

Payload = tuple[bytes, bytes]


@dataclass(slots=True)
class FlowRows:
    """Some flows of one capture or of several: `columns`, `facts` and `payload` are the raw records.

    `plain` are the columns of `store.ROWS` that say where each came from; frame numbers lie in
    `frames[edges[i] : edges[i + 1]]`; `rest` is what a split and a manifest ask for.
    """

    columns: Columns
    facts: list[Facts]
    payload: list[Payload]
    plain: dict[str, Any]
    frames: I64
    edges: I64
    rest: Gathered

    def __len__(self) -> int:
        return len(self.columns)

    def meta(self) -> list[FlowMeta]:
        """What splits ask of each flow: no uid, frames or ports."""
        names = ("capture", "origin", "orig_h", "ts", "community_id", "resp_h")
        rows = zip(*(self.plain[name] for name in names), strict=True)
        return [
            FlowMeta(capture=capture, origin=origin, host=orig, ts=ts, community_id=community, orig_h=orig, resp_h=resp)
            for capture, origin, orig, ts, community, resp in rows
        ]

    def table(self) -> pa.Table:
        """The rows as `store.ROWS`."""
        frames = pa.ListArray.from_arrays(pa.array(self.edges.astype(np.int32)), pa.array(self.frames))
        data = {**self.plain, **flow_columns.arrays(self.columns), **store.beginnings_of(self.facts, self.payload), "frames": frames}
        data["host"] = data["orig_h"]
        arrays = [data[e.name] if isinstance(data[e.name], pa.Array) else pa.array(data[e.name], type=e.type) for e in store.ROWS]
        return pa.Table.from_arrays(arrays, schema=store.ROWS)


def joined(pieces: Sequence[FlowRows]) -> FlowRows:
    """Pieces one after the other as one: numpy's price is paid by the call, not by the flow."""
    if len(pieces) == 1:
        return pieces[0]
    rest = Gathered()
    for piece in pieces:
        rest.extend(piece.rest)
    starts = np.cumsum([0, *(len(piece.frames) for piece in pieces)])
    return FlowRows(
        flow_columns.joined([piece.columns for piece in pieces]),
        list(chain.from_iterable(piece.facts for piece in pieces)),
        list(chain.from_iterable(piece.payload for piece in pieces)),
        {name: list(chain.from_iterable(piece.plain[name] for piece in pieces)) for name in pieces[0].plain},
        np.concatenate([piece.frames for piece in pieces]),
        np.concatenate([[0], *(piece.edges[1:] + start for piece, start in zip(pieces, starts, strict=False))]),
        rest,
    )


def flow_pieces(
    file: LabelledFile, root: Path, *, keep_chores: bool, reserved: Reserved | None, options: FlowOptions, labels: Labels | None = None
) -> Iterator[FlowRows]:
    """The records of one capture as `captures.capture_pieces` gives them, in columns.

    With `labels`, flows are labelled by another sensor's logs; those without a label, or with several that disagree, are left out.
    """
    share = reserved.share(file.rel_to(root)) if reserved else 0.0
    held = np.array(held_flows(file, root, reserved, options)) if reserved and 0 < share < 1 else None
    before, cache = 0, FactsCache()
    for batch in read_flows([file.path], options=options):
        chore = chores(batch.proto, batch.orig_p, batch.resp_p, _first_types(batch))
        for start in range(0, len(batch), PIECE):
            part = slice(start, min(start + PIECE, len(batch)))
            idx = np.arange(part.start, part.stop)
            rest = Gathered()
            if not keep_chores:
                for number, count in enumerate(np.bincount(chore[part])):
                    if number and count:
                        rest.dropped[f"housekeeping: {CHORES[number]}"] = int(count)
                idx = idx[chore[part] == 0]
            given = [file.label] * len(idx)
            if labels is not None:
                idx, given = _joined(batch, idx, labels, rest)
            marks = held[before + idx].tolist() if held is not None else [share > 0] * len(idx)
            yield _rows(batch, idx, file, rest, labels=given, marks=marks, cache=cache)
        before += len(batch)


def _first_types(batch: FlowBatch) -> npt.NDArray[Any]:
    """ICMP type and code of each flow's first packet; 0 where it has none."""
    if not len(batch.p_type):
        return np.zeros(len(batch), dtype=np.int64)
    first = np.minimum(batch.pkt_ptr[:-1], len(batch.p_type) - 1)
    return np.where(np.diff(batch.pkt_ptr) > 0, batch.p_type[first].astype(np.int64), 0)


def _joined(batch: FlowBatch, rows: I64, labels: Labels, rest: Gathered) -> tuple[I64, list[str]]:
    """The rows that logs label, and their labels; why the others are left out goes into `rest.dropped`."""
    before = labels.joined()
    given = []
    for i in rows.tolist():
        version = int(batch.ip_version[i])
        given.append(
            labels.of(
                community_id=str(batch.community_id[i]),
                orig_h=address_text(version, batch.orig_h[i].tobytes()),
                orig_p=int(batch.orig_p[i]),
                resp_h=address_text(version, batch.resp_h[i].tobytes()),
                resp_p=int(batch.resp_p[i]),
                proto=int(batch.proto[i]),
                ts=int(batch.ts[i]),
                duration=int(batch.duration[i]),
            )
        )
    after = labels.joined()
    missed = {"no label": after.unlabelled - before.unlabelled, "labels that disagree": after.conflicts - before.conflicts}
    rest.dropped.update({reason: count for reason, count in missed.items() if count})
    there = np.array([label is not None for label in given], dtype=bool)
    return rows[there], [label for label in given if label is not None]


def _rows(
    batch: FlowBatch,
    idx: I64,
    file: LabelledFile,
    rest: Gathered,
    *,
    labels: list[str],
    marks: Sequence[bool],
    cache: FactsCache | None = None,
) -> FlowRows:
    columns = flow_columns.from_batch(batch, idx)
    payload, facts = _beginnings(batch, idx, cache)
    edges = np.concatenate([[0], np.cumsum(columns.length)])
    there = np.arange(MAX_PACKETS) < columns.length[:, None]
    frames = batch.p_frame[(batch.pkt_ptr[idx][:, None] + np.arange(MAX_PACKETS))[there]]
    hosts = [_texts(batch.ip_version[idx], side[idx]) for side in (batch.orig_h, batch.resp_h)]
    community, ts = batch.community_id[idx].tolist(), batch.ts[idx].tolist()
    rest.labels = labels
    rest.given = [file.split] * len(idx)
    rest.reserved = list(marks)
    firsts = np.append(frames, 0)[np.minimum(edges[:-1], len(frames))]
    rest.row = np.where(columns.length > 0, firsts, 0).tolist()
    plain: dict[str, Any] = {
        "uid": [flow_uid(name, start) for name, start in zip(community, ts, strict=True)],
        "capture": [file.rel] * len(idx),
        "origin": [origin_of(file)] * len(idx),
        "orig_h": hosts[0],
        "resp_h": hosts[1],
        "community_id": community,
        "ts": ts,
        "packets": batch.pkts[idx].sum(axis=1).tolist(),
    }
    plain |= {name: getattr(batch, name)[idx].tolist() for name in ("duration", "orig_p", "resp_p", "link")}
    return FlowRows(columns, facts, payload, plain, frames, edges, rest)


def _texts(versions: npt.NDArray[Any], hosts: npt.NDArray[Any]) -> list[str]:
    raw = np.ascontiguousarray(hosts).tobytes()
    return [address_text(version, raw[16 * k : 16 * k + 16]) for k, version in enumerate(versions.tolist())]


def _beginnings(batch: FlowBatch, idx: I64, cache: FactsCache | None) -> tuple[list[Payload], list[Facts]]:
    """Payload prefixes and facts of these flows, their own addresses among the spans."""
    pointers = batch.payload_ptr[idx]
    base = int(pointers[0, 0]) if len(idx) else 0
    raw = batch.payload[base : int(pointers[-1, 2]) if len(idx) else 0].tobytes()
    pointers = pointers - base
    sides = [np.ascontiguousarray(side[idx]).tobytes() for side in (batch.orig_h, batch.resp_h)]
    payload: list[Payload] = []
    facts: list[Facts] = []
    rows = zip(pointers.tolist(), batch.ip_version[idx].tolist(), facts_of_flows(batch, rows=idx, cache=cache), strict=True)
    for k, (edges, version, flow_facts) in enumerate(rows):
        pair = raw[edges[0] : edges[1]], raw[edges[1] : edges[2]]
        payload.append(pair)
        if edges[2] > edges[0]:
            own = address_spans(version, (sides[0][16 * k : 16 * k + 16], sides[1][16 * k : 16 * k + 16]), pair)
            flow_facts = Facts(flow_facts.service, flow_facts.fields, (*flow_facts.spans, *own)) if own else flow_facts
        facts.append(flow_facts)
    return payload, facts
