"""What a verdict rests on: parts of the record are taken away one at a time, and the verdict's probability is asked again.

Occlusion (Zeiler and Fergus, 2014) rather than gradients: it works for any Scorer and its unit is a share of probability.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypedDict

from trafficllm.core.results import closed
from trafficllm.core.types import FlowMeta, Record, Scorer
from trafficllm.records import masks

FIELDS = ("payload", "facts", "service", "iats", "flags", "window", "ttl", "proto", "orig_port_class", "resp_port_class")
"""Whole-record fields that are taken away, by their names in records/masks.toml."""
_COLUMNS = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
_CHUNK = 512


@closed
class EvidenceRow(TypedDict):
    """A part of a flow that a verdict rests on."""

    frame: int
    field: str
    weight: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """One part a verdict rests on: `frame` to open in Wireshark, `field` ("packet", or a field's name), `weight` the
    probability lost without it."""

    frame: int
    field: str
    weight: float

    def row(self) -> EvidenceRow:
        """Plain form."""
        return {"frame": self.frame, "field": self.field, "weight": self.weight}


def without_packet(record: Record, i: int) -> Record:
    """The record as if packet `i` had not been captured; its waiting time is added to the next packet's."""
    columns = {name: list(getattr(record, name)) for name in _COLUMNS}
    gap = columns["iats"][i] if i < len(columns["iats"]) else -1
    if 0 < i + 1 < len(columns["iats"]) and columns["iats"][i + 1] >= 0:
        columns["iats"][i + 1] = 0 if i == 0 else columns["iats"][i + 1] + max(gap, 0)
    fewer: dict[str, Any] = {name: tuple(v[:i] + v[i + 1 :]) for name, v in columns.items()}
    return dataclasses.replace(record, **fewer)


def without_field(record: Record, field: str) -> Record:
    """The record with one more field hidden."""
    return masks.apply(record, "raw", also=frozenset({field}))


@dataclass(frozen=True, slots=True)
class _Part:
    field: str
    packet: int
    record: Record


def _parts(record: Record) -> list[_Part]:
    """All occlusions that change the record: one a packet, one a field."""
    first_payload = next((i for i, size in enumerate(record.sizes) if size > 0), 0)
    parts = [_Part("packet", i, without_packet(record, i)) for i in range(len(record.dirs)) if len(record.dirs) > 1]
    for field in FIELDS:
        less = without_field(record, field)
        if dataclasses.replace(less, masked=record.masked) != record:
            parts.append(_Part(field, first_payload if field in ("payload", "facts", "service") else 0, less))
    return parts


def every_part(record: Record, frames: Sequence[int]) -> list[tuple[int, str]]:
    """(frame, field) of all parts that can be taken away from a record whose packets have these frame numbers."""
    return [(frames[part.packet], part.field) for part in _parts(record)]


def without(record: Record, frames: Sequence[int], parts: Sequence[tuple[int, str]]) -> Record:
    """The record without several parts, as `Evidence` names them; packets go from the last on, so that places stay true."""
    gone = {frame for frame, field in parts if field == "packet"}
    for place in reversed(range(len(record.dirs))):
        if frames[place] in gone and len(record.dirs) > 1:
            record = without_packet(record, place)
    for _, field in parts:
        record = record if field == "packet" else without_field(record, field)
    return record


def explain(
    scorer: Scorer, records: Sequence[Record], verdicts: Sequence[int], metas: Sequence[FlowMeta], *, top: int = 3
) -> list[tuple[Evidence, ...]]:
    """The `top` parts that carry each verdict (index of its label), weightiest first; parts that lower nothing are left out.

    Costs about 25 scorings a record; all records' variants share batches of like length.
    """
    whole = scorer.score(records).probabilities
    jobs = [(k, part) for k, record in enumerate(records) for part in _parts(record)]
    evidence: list[list[Evidence]] = [[] for _ in records]
    for at in range(0, len(jobs), _CHUNK):
        chunk = jobs[at : at + _CHUNK]
        left = scorer.score([part.record for _, part in chunk]).probabilities
        for (k, part), row in zip(chunk, left, strict=True):
            weight = float(whole[k, verdicts[k]] - row[verdicts[k]])
            if weight > 0:
                evidence[k].append(Evidence(_frame(records[k], metas[k], part.packet), part.field, weight))
    return [tuple(sorted(items, key=lambda e: (-e.weight, e.frame, e.field))[:top]) for items in evidence]


def _frame(record: Record, meta: FlowMeta, packet: int) -> int:
    """Frame number of a record's packet; masks that drop the handshake cut packets off the front."""
    dropped = len(meta.frames) - len(record.dirs) if "handshake" in record.masked else 0
    at = packet + (dropped if "packet_count" not in record.masked else 0)
    return meta.frames[at] if 0 <= at < len(meta.frames) else 0
