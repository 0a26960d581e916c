"""A shard's lists on disk beside its rows, so that a build that was ended goes on without reading its file again.

One Arrow file a shard, written last and whole: a column a list, the rest as JSON in the schema's metadata. Nothing is pickled.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trafficllm.core.files import atomic_stream
from trafficllm.core.types import FlowMeta
from trafficllm.records.dataset.marks import MARKS
from trafficllm.records.dataset.shards import Shard, Shown
from trafficllm.records.probe import Coded
from trafficllm.records.sources.captures import Gathered

_META = {"capture": pa.string(), "origin": pa.string(), "host": pa.string(), "ts": pa.int64(), "community_id": pa.string()} | {
    "orig_h": pa.string(),
    "resp_h": pa.string(),
}
_REST = {"labels": pa.string(), "given": pa.string(), "reserved": pa.bool_(), "row": pa.int64()}
_SHOWN = {"content": pa.uint64(), "sequences": pa.uint64()}
_FACTS = b"trafficllm.shard"


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number}.lists"


def is_whole(folder: Path, number: int) -> bool:
    """Whether the shard of file `number` was written to its end: its lists come after its rows."""
    return _place(folder, number).is_file() and (folder / f"{number}.arrow").is_file()


def keep(shard: Shard, folder: Path, number: int) -> None:
    """Write the lists of a shard whose rows lie in `folder` already."""
    with shard.place.open("rb") as rows:
        os.fsync(rows.fileno())
    columns: dict[str, Any] = {name: pa.array([getattr(row, name) for row in shard.meta], kind) for name, kind in _META.items()}
    columns |= {name: pa.array(getattr(shard.rest, name), kind) for name, kind in _REST.items()}
    columns |= {name: pa.array(list(getattr(shard.shown, name)), kind) for name, kind in _SHOWN.items()}
    if shard.marks is not None:
        columns |= {f"mark:{name}": pa.array(shard.marks[:, k]) for k, name in enumerate(MARKS)}
    facts = {
        "dropped": shard.rest.dropped,
        "normalised": shard.rest.normalised,
        "malformed": shard.rest.malformed,
        "files": shard.rest.files,
        "probes": [[count, {name: _plain(probe) for name, probe in probes.items()}] for count, probes in shard.shown.probes],
    }
    table = pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(facts).encode()})
    with atomic_stream(_place(folder, number), private=True) as stream, pa.ipc.new_file(stream, table.schema) as out:
        out.write_table(table)


def load(folder: Path, number: int) -> Shard:
    """The shard of file `number` as it was made."""
    with pa.OSFile(str(_place(folder, number)), "rb") as stream:
        table = pa.ipc.open_file(stream).read_all()
    facts = json.loads(table.schema.metadata[_FACTS])
    lists = {name: table[name].to_pylist() for name in (*_META, *_REST, *_SHOWN)}
    shown = Shown()
    shown.content.extend(lists["content"])
    shown.sequences.extend(lists["sequences"])
    shown.probes.extend((count, {name: _probe(told) for name, told in probes.items()}) for count, probes in facts["probes"])
    rest = Gathered(
        **{name: lists[name] for name in _REST},
        dropped=Counter(facts["dropped"]),
        normalised=Counter(facts["normalised"]),
        malformed=facts["malformed"],
        files=facts["files"],
    )
    meta = [FlowMeta(**dict(zip(_META, row, strict=True))) for row in zip(*(lists[name] for name in _META), strict=True)]
    marked = [name for name in MARKS if f"mark:{name}" in table.column_names]
    marks = np.column_stack([table[f"mark:{name}"].to_numpy() for name in marked]) if marked else None
    return Shard(folder / f"{number}.arrow", shown, meta, rest, marks)


def _plain(probe: Coded) -> dict[str, Any]:
    return {"values": [_tagged(value) for value in probe.values], "codes": base64.b64encode(probe.codes.astype("<i4").tobytes()).decode()}


def _probe(told: dict[str, Any]) -> Coded:
    codes = np.frombuffer(base64.b64decode(told["codes"]), dtype="<i4").astype(np.int32)
    return Coded([_untagged(value) for value in told["values"]], codes)


def _tagged(value: Hashable) -> Any:
    """A probe's value as JSON; bytes and tuples, which JSON lacks, as an object of one key."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, tuple):
        return {"tuple": [_tagged(item) for item in value]}
    return value


def _untagged(value: Any) -> Hashable:
    """What `_tagged` was given.

    >>> _untagged(_tagged((1, b"\\x16\\x03", None, "h2")))
    (1, b'\\x16\\x03', None, 'h2')
    """
    if isinstance(value, dict):
        return bytes.fromhex(value["bytes"]) if "bytes" in value else tuple(map(_untagged, value["tuple"]))
    return value  # type: ignore[no-any-return]
