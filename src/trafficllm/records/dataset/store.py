"""Records as Arrow rows and back: the columns of records.parquet.

Records are stored with their addresses, ports and servers' names, so that the identifier probe and the forge test can see what
masking took away; under `strict` without credentials, people's names, message text and ciphertext (`masks.kept`). What a model may see
is in `units`, and in the records that Dataset masks on the way out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import pyarrow as pa

from trafficllm.core.types import Facts, FlowMeta, Record, Span
from trafficllm.records.codec.canonical import text_bytes

_SPAN = pa.struct([("dir", pa.uint8()), ("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())])
SCHEMA = pa.schema(
    [
        ("label", pa.dictionary(pa.int32(), pa.string())),
        ("part", pa.dictionary(pa.int32(), pa.string())),
        ("group", pa.string()),
        ("content", pa.uint64()),
        ("units", pa.string()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("ip_version", pa.uint8()),
        ("proto", pa.int16()),
        ("ports", pa.list_(pa.uint16())),
        ("port_class", pa.string()),
        ("dirs", pa.list_(pa.uint8())),
        ("sizes", pa.list_(pa.int32())),
        ("iats", pa.list_(pa.int64())),
        ("flags", pa.list_(pa.int16())),
        ("windows", pa.list_(pa.int32())),
        ("ttls", pa.list_(pa.int16())),
        ("icmp", pa.int32()),
        ("payload_orig", pa.binary()),
        ("payload_resp", pa.binary()),
        ("text", pa.binary()),
        ("service", pa.string()),
        ("facts", pa.string()),
        ("spans", pa.list_(_SPAN)),
        ("uid", pa.string()),
        ("capture", pa.string()),
        ("origin", pa.string()),
        ("host", pa.string()),
        ("ts", pa.int64()),
        ("duration", pa.int64()),
        ("community_id", pa.string()),
        ("orig_h", pa.string()),
        ("orig_p", pa.uint16()),
        ("resp_h", pa.string()),
        ("resp_p", pa.uint16()),
        ("packets", pa.int64()),
        ("frames", pa.list_(pa.int64())),
        ("link", pa.uint16()),
    ]
)
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_PACKETS = ("dirs", "sizes", "iats", "flags", "windows", "ttls")
_PLAIN = ("kind", "ip_version", "proto", "ports", "port_class", "icmp")
_META = (
    "uid",
    "capture",
    "origin",
    "host",
    "ts",
    "duration",
    "community_id",
    "orig_h",
    "orig_p",
    "resp_h",
    "resp_p",
    "packets",
    "frames",
    "link",
)
RECORD_COLUMNS = [*_PLAIN, *_PACKETS, "payload_orig", "payload_resp", "text", "service", "facts", "spans"]
META_COLUMNS = [*_META, "proto"]


GIVEN = ("label", "part", "group", "content")
"""Columns that are known only when all records are: the split's."""
ROWS = pa.schema([entry for entry in SCHEMA if entry.name not in GIVEN and entry.name != "units"])
"""What is known of a record by itself: the columns of `rows_of`."""


def rows_of(records: Sequence[Record], meta: Sequence[FlowMeta]) -> pa.Table:
    """Raw records and where they came from, without split, content hash and units."""
    data: dict[str, Sequence[Any]] = {}
    for name in (*_PLAIN, *_PACKETS):
        data[name] = [getattr(record, name) for record in records]
    data["text"] = [text_bytes(record.text) for record in records]
    for name in _META:
        data[name] = [getattr(row, name) for row in meta]
    ready = beginnings_of([record.facts for record in records], [record.payload for record in records])
    columns = [ready[entry.name] if entry.name in ready else _array(entry, data[entry.name]) for entry in ROWS]
    return pa.Table.from_arrays(columns, schema=ROWS)


def beginnings_of(facts: Sequence[Facts], payload: Sequence[tuple[bytes, bytes]]) -> dict[str, pa.Array]:
    """The columns of payload prefixes and what was found in them."""
    return {
        "payload_orig": pa.array([pair[0] for pair in payload], type=pa.binary()),
        "payload_resp": pa.array([pair[1] for pair in payload], type=pa.binary()),
        "service": pa.array([entry.service for entry in facts], type=pa.string()),
        "facts": pa.array([_facts_text(entry) for entry in facts], type=pa.string()),
        "spans": _spans_array([entry.spans for entry in facts]),
    }


def with_beginnings(rows: pa.Table, records: Sequence[Record]) -> pa.Table:
    """Rows with the payload, text and facts of these records in the place of their own."""
    columns = beginnings_of([record.facts for record in records], [record.payload for record in records])
    columns["text"] = pa.array([text_bytes(record.text) for record in records], type=pa.binary())
    for name, column in columns.items():
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    return rows


def whole(rows: pa.Table, **columns: Sequence[Any] | pa.Array) -> pa.Table:
    """Rows with `label`, `part`, `group`, `content` and `units` beside them: the columns of records.parquet."""
    arrays = [columns[entry.name] if entry.name in columns else rows[entry.name] for entry in SCHEMA]
    return pa.Table.from_arrays(
        [a if isinstance(a, pa.Array | pa.ChunkedArray) else pa.array(a, type=e.type) for a, e in zip(arrays, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def _array(entry: pa.Field, values: Sequence[Any]) -> pa.Array:
    """A column; lists are laid flat first, three times as fast as list by list."""
    if not pa.types.is_list(entry.type) or entry.name == "ports":
        return pa.array(values, type=entry.type)
    flat = pa.array(list(chain.from_iterable(values)), type=entry.type.value_type)
    return pa.ListArray.from_arrays(pa.array([0, *accumulate(map(len, values))], type=pa.int32()), flat, type=entry.type)


def _spans_array(rows: Sequence[Sequence[Span]]) -> pa.Array:
    """Built column by column: a list of dicts a span costs four times as much."""
    offsets = pa.array([0, *accumulate(map(len, rows))], type=pa.int32())
    flat = list(chain.from_iterable(rows))
    parts = [pa.array([getattr(span, name) for span in flat], type=_SPAN.field(name).type) for name in ("dir", "start", "end", "kind")]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(parts, fields=list(_SPAN)))


def _facts_text(facts: Facts) -> str:
    return _ENCODE(dict(facts.fields)) if facts.fields else ""


def records_from(table: pa.Table) -> list[Record]:
    """Raw records of a table's rows."""
    columns = {name: _values(table[name].combine_chunks()) for name in RECORD_COLUMNS}
    return [_record(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _values(array: pa.Array) -> list[Any]:
    """Python values of a column; lists are cut from one flat list, six times as fast as row by row."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if not pa.types.is_list(array.type):
        return list(array.to_pylist())
    if pa.types.is_struct(array.type.value_type):
        flat = list(zip(*(_values(part) for part in array.flatten().flatten()), strict=True))
    else:
        flat = array.flatten().to_pylist()
    at = 0
    out: list[Any] = []
    for length in array.value_lengths().to_pylist():
        out.append(None if length is None else tuple(flat[at : at + length]))
        at += length or 0
    return out


def _record(row: dict[str, Any]) -> Record:
    fields = json.loads(row["facts"]) if row["facts"] else {}
    spans = tuple(Span(*span) for span in row["spans"])
    ports = row["ports"]
    return Record(
        kind=row["kind"],
        ip_version=row["ip_version"],
        proto=row["proto"],
        ports=None if ports is None else (ports[0], ports[1]),
        port_class=row["port_class"],
        dirs=row["dirs"],
        sizes=row["sizes"],
        iats=row["iats"],
        flags=row["flags"],
        windows=row["windows"],
        ttls=row["ttls"],
        icmp=row["icmp"],
        payload=(row["payload_orig"], row["payload_resp"]),
        facts=Facts(row["service"], {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}, spans),
        text=row["text"].decode("utf-8", "surrogateescape"),
    )


def meta_from(table: pa.Table) -> list[FlowMeta]:
    """FlowMeta of a table's rows."""
    rows = table.select(META_COLUMNS).to_pylist()
    return [FlowMeta(**{**row, "frames": tuple(row["frames"]), "proto": max(row["proto"], 0)}) for row in rows]
