"""Numbers that trees and k-NN see: columns of MASKED records as the codec carries them, so that baselines get
exactly what the model gets.

A value that a mask hid is -1, one that does not exist (past the last packet or byte) is -2. The identifier
columns are the opposite: only what masking took away, to show how much identifiers tell.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import F64, ORIG, RESP, FlowMeta, Record
from trafficllm.evaluate.baselines import cells as features_cells
from trafficllm.evaluate.baselines import requests as features_text
from trafficllm.records.codec.canonical import DEFAULT, canonical

FACT_BUCKETS = 128
HIDDEN, ABSENT = -1.0, -2.0
_ADDRESS = 16
_NAMES = 32
NAME_KINDS = frozenset(
    {"tls.sni", "tls.session_id", "tls.ticket", "tls.cert_name", "dns.name", "dns.address", "http.host", "http.cookie", "http.header_value"}
)
"""Spans that name an endpoint or a session; randoms differ in every flow and name nothing."""


def packet_width(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> int:
    """Columns a packet series gets: the codec's bursts of a cell sequence, its packets otherwise."""
    return codec.bursts if _is(records, "cells") else codec.packets


def _is(records: Sequence[Record], kind: str) -> bool:
    return bool(records) and records[0].kind == kind


def _padded(rows: Iterable[Sequence[float]], width: int, count: int) -> F64:
    out = np.full((count, width), ABSENT)
    for i, row in enumerate(rows):
        part = row[:width]
        out[i, : len(part)] = part
    return out


def _log_iat(gap: int) -> float:
    """log2 of microseconds; 0 for none."""
    return float(np.log2(1.0 + gap / 1000.0)) if gap >= 0 else HIDDEN


def _series(record: Record) -> tuple[list[float], list[float]]:
    """Signed sizes and log gaps a packet; for cells signed run lengths and the gap before each run.

    The sign is the direction (+ originator); an empty packet is +-.5, so that its direction survives.
    """
    if record.kind != "cells":
        pairs = zip(record.dirs, record.sizes, strict=True)
        sizes = [(size or 0.5) * (-1 if d == RESP else 1) if size >= 0 else HIDDEN for d, size in pairs]
        return sizes, [_log_iat(gap) for gap in record.iats]
    runs: list[float] = []
    gaps: list[float] = []
    for i, d in enumerate(record.dirs):
        if i == 0 or d != record.dirs[i - 1]:
            runs.append(0.0)
            gaps.append(_log_iat(record.iats[i]))
        runs[-1] += -1 if d == RESP else 1
    return runs, gaps


def _totals(record: Record) -> list[float]:
    sized = [(max(s, 0) if record.kind != "cells" else 1, d) for s, d in zip(record.sizes, record.dirs, strict=True)]
    up = [s for s, d in sized if d == ORIG]
    down = [s for s, d in sized if d == RESP]
    duration = sum(gap for gap in record.iats if gap > 0)
    return [len(sized), len(up), sum(up), sum(down), max(up, default=0), max(down, default=0), _log_iat(duration)]


def _text_lengths(record: Record) -> list[float]:
    head, _, body = record.text.partition("\r\n\r\n")
    first = head.split("\n", 1)[0]
    path, _, query = first.partition("?")
    marks = (query.count("&"), body.count("&"), first.count("%"))
    return [len(record.text), len(first), len(path), len(query), len(body), *marks]


_TOTALS = ("packets", "orig_packets", "orig_bytes", "resp_bytes", "orig_max", "resp_max", "log_duration")
_TEXT = ("text", "first_line", "path", "query", "body", "query_arguments", "body_arguments", "percent_signs")


def sizes_times_names(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> tuple[str, ...]:
    """Column names of `sizes_times` for records of this kind."""
    width = packet_width(records, codec)
    totals = [f"sum.{n}" for n in _TOTALS]
    if _is(records, "http"):
        return tuple(f"length.{n}" for n in _TEXT)
    if _is(records, "cells"):
        return (*(f"{name}[{i}]" for name in ("size", "log_iat") for i in range(width)), *totals, *features_cells.NAMES)
    series = (f"{name}[{i}]" for name in ("size", "log_iat", "flags") for i in range(width))
    return (*series, *totals, *(f"length.{n}" for n in _TEXT))


def sizes_times(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> F64:
    """Signed sizes, log inter-arrival times and TCP flags of the first packets, and sums over them; of a cell sequence its
    bursts and what `features_cells` counts; of a request the lengths of its parts.

    float64 [n, columns], names in `sizes_times_names`.
    """
    return _sizes_times([canonical(r, codec) for r in records], codec)


def _sizes_times(shown: Sequence[Record], codec: CodecOptions) -> F64:
    """`sizes_times` of canonical records."""
    width, n = packet_width(shown, codec), len(shown)
    if _is(shown, "http"):
        return _stack([_text_lengths(r) for r in shown], len(_TEXT))
    series = [_series(r) for r in shown]
    blocks = [_padded((sizes for sizes, _ in series), width, n), _padded((gaps for _, gaps in series), width, n)]
    totals = _stack([_totals(r) for r in shown], len(_TOTALS))
    if _is(shown, "cells"):
        cells = _stack([features_cells.columns(r, ABSENT) for r in shown], len(features_cells.NAMES))
        return np.hstack([*blocks, totals, cells])
    lengths = _stack([_text_lengths(r) for r in shown], len(_TEXT))
    return np.hstack([*blocks, _padded((r.flags for r in shown), width, n), totals, lengths])


def visible_payload(record: Record, direction: int, width: int) -> F64:
    """Payload bytes of one direction, float64 [width]: 0..255, -1 under a mask, -2 past the end."""
    row = np.full(width, ABSENT)
    raw = np.frombuffer(record.payload[direction][:width], dtype=np.uint8)
    row[: len(raw)] = raw
    for span in record.hidden:
        if span.dir == direction:
            row[span.start : min(span.end, len(raw))] = HIDDEN
    return row


def _hashed(pairs: Iterable[tuple[str, object]], buckets: int, salt: str = "") -> F64:
    """Counts of name=value pairs in buckets by CRC-32 (`hash` differs between processes)."""
    row = np.zeros(buckets)
    for name, value in pairs:
        row[zlib.crc32(f"{salt}{name}={value}".encode("utf-8", "surrogatepass")) % buckets] += 1
    return row


def _fact_pairs(record: Record) -> Iterable[tuple[str, object]]:
    yield "service", record.facts.service
    for name, value in sorted(record.facts.fields.items()):
        yield from ((name, part) for part in value) if isinstance(value, tuple) else [(name, value)]


def _header(record: Record) -> list[float]:
    classes = [float("wre".find(c)) for c in (record.port_class + "  ")[:2]]
    ports = record.ports or (-1, -1)
    return [record.ip_version, record.proto, record.icmp, *classes, *ports]


_HEADER = ("ip_version", "proto", "icmp", "orig_port_class", "resp_port_class", "orig_p", "resp_p")


def headers_payload_names(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> tuple[str, ...]:
    """Column names of `headers_payload` for records of this kind."""
    if _is(records, "cells"):
        return ()
    if _is(records, "http"):
        return features_text.NAMES
    series = [f"{name}[{i}]" for name in ("flags", "window", "ttl") for i in range(codec.packets)]
    payload = [f"payload.{end}[{i}]" for end in ("orig", "resp") for i in range(max(codec.payload))]
    facts = [f"facts[{i}]" for i in range(FACT_BUCKETS)]
    return (*_HEADER, *series, *payload, *facts)


def headers_payload(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> F64:
    """Header fields, flags, windows, TTLs, payload bytes of both directions and parsed facts, as masked; of a request what
    `features_text` counts, of a cell sequence nothing.

    float64 [n, columns], names in `headers_payload_names`.
    """
    return _headers_payload([canonical(r, codec) for r in records], codec)


def _headers_payload(shown: Sequence[Record], codec: CodecOptions) -> F64:
    """`headers_payload` of canonical records."""
    n, width = len(shown), max(codec.payload)
    if _is(shown, "cells"):
        return np.zeros((n, 0))
    if _is(shown, "http"):
        return _stack([features_text.columns(r) for r in shown], len(features_text.NAMES))
    blocks = [_stack([_header(r) for r in shown], len(_HEADER))]
    blocks += [_padded((getattr(r, name) for r in shown), codec.packets, n) for name in ("flags", "windows", "ttls")]
    blocks += [_stack([visible_payload(r, end, width) for r in shown], width) for end in (ORIG, RESP)]
    blocks.append(_stack([_hashed(_fact_pairs(r), FACT_BUCKETS) for r in shown], FACT_BUCKETS))
    return np.hstack(blocks)


def text_grams(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> Any:
    """Character n-grams of requests as the codec carries them, scipy sparse [n, 65536]."""
    return features_text.sparse_grams([canonical(r, codec) for r in records])


def _stack(rows: Sequence[Sequence[float] | F64], width: int) -> F64:
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def everything(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> F64:
    """`sizes_times` and `headers_payload` side by side."""
    shown = [canonical(r, codec) for r in records]
    return np.hstack([_sizes_times(shown, codec), _headers_payload(shown, codec)])


def everything_names(records: Sequence[Record], codec: CodecOptions = DEFAULT) -> tuple[str, ...]:
    """Column names of `everything`."""
    return (*sizes_times_names(records, codec), *headers_payload_names(records, codec))


def _address(text: str) -> list[float]:
    """The bytes of an address, 16 columns; -2 where there is none."""
    try:
        raw = ipaddress.ip_address(text).packed
    except ValueError:
        raw = b""
    return [float(b) for b in raw] + [ABSENT] * (_ADDRESS - len(raw))


def _first(values: Sequence[int], dirs: Sequence[int], direction: int) -> float:
    return next((float(v) for v, d in zip(values, dirs, strict=False) if d == direction), ABSENT)


def _names(raw: Record) -> F64:
    """Names in the clear, hashed: what the spans of identifiers hold."""
    spans = (s for s in raw.facts.spans if s.kind in NAME_KINDS)
    return _hashed(((s.kind, raw.payload[s.dir][s.start : s.end].hex()) for s in spans), _NAMES)


def identifier_names() -> tuple[str, ...]:
    """Column names of `identifiers`; the part before the bracket is the identifier."""
    addresses = [f"{end}[{i}]" for end in ("address.orig_h", "address.resp_h") for i in range(_ADDRESS)]
    marks = [f"{mark}.{end}" for mark in ("ttl", "window") for end in ("orig", "resp")]
    names = [f"name[{i}]" for i in range(_NAMES)]
    return (*addresses, "port.orig_p", "port.resp_p", "time.ts", "link_type", *marks, *names)


def identifiers(raw_records: Sequence[Record], meta: Sequence[FlowMeta]) -> F64:
    """Only what masking hides: addresses, ports, absolute time (s), link type, TTLs, windows, names.

    float64 [n, columns], names in `identifier_names`; from UNMASKED records and their metadata.
    """
    rows = []
    for raw, where in zip(raw_records, meta, strict=True):
        marks = [_first(values, raw.dirs, end) for values in (raw.ttls, raw.windows) for end in (ORIG, RESP)]
        ports = [float(where.orig_p), float(where.resp_p), where.ts / 1e9, float(where.link)]
        rows.append([*_address(where.orig_h), *_address(where.resp_h), *ports, *marks, *_names(raw)])
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(identifier_names()))
