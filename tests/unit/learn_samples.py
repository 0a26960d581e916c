"""Data sets of short synthetic flows that a tiny random base learns in seconds: four kinds, told apart by protocol and payload."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from trafficllm.core.files import hash64, sha256_file, write_json
from trafficllm.core.types import FlowMeta, Record, Scores
from trafficllm.records import masks
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import codec
from trafficllm.records.codec.canonical import DEFAULT
from trafficllm.records.codec.units import codec_hash
from trafficllm.records.dataset import store
from trafficllm.records.dataset.dataset import SCHEMA, Dataset, load

KINDS = ("DNS", "HTTP", "ICMP", "QUIC")
PARTS = ("train", "train", "train", "val", "test", "test")


def flow(kind: int, chooser: random.Random) -> Record:
    """A flow of a kind with random sizes and times; its ports and one hidden stretch are raw."""
    sizes = tuple(chooser.randrange(20, 900) for _ in range(2))
    iats = (0, int(10 ** chooser.uniform(4, 8)))
    ports = (chooser.randrange(40000, 60000), (53, 80, 0, 443)[kind])
    payload = ((b"\0\1", b""), (b"GET /", b"HTTP/1.1"), (b"", b""), (bytes([0xC3, 0, 0]), b""))[kind]
    proto = (17, 6, 1, 17)[kind]
    flags = (24, 24) if proto == 6 else ()
    return Record(proto=proto, ports=ports, dirs=(0, 1), sizes=sizes, iats=iats, flags=flags, payload=payload)


def data_set(folder: Path, kinds: Sequence[str], *, seed: int, each: int = 8, names: Mapping[str, str] | None = None) -> Dataset:
    """A built data set: six groups a kind, `each` flows a group; `names` says what a kind is called, wrongly perhaps."""
    chooser = random.Random(seed)
    rows = [(kind, part, f"{seed}/{kind}/{g}") for kind in kinds for g, part in enumerate(PARTS) for _ in range(each)]
    raw = [flow(KINDS.index(kind), chooser) for kind, _, _ in rows]
    meta = [FlowMeta(orig_h=f"192.0.2.{k % 200}", host=f"192.0.2.{k % 200}", origin=row[2]) for k, row in enumerate(rows)]
    labels = [(names or {}).get(kind, kind) for kind, _, _ in rows]
    units = [codec.encode(masks.wiped(masks.apply(record, "strict"))) for record in raw]
    table = store.whole(
        store.rows_of(raw, meta),
        label=labels,
        part=[part for _, part, _ in rows],
        group=[group for _, _, group in rows],
        content=[hash64(text.encode()) for text in units],
        units=units,
    )
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "records.parquet")
    known = sorted(set(labels))
    counts = {part: PARTS.count(part) * each for part in ("train", "val", "test")}
    manifest = {
        "schema": SCHEMA,
        "task": get_task("EAC").model_dump(mode="json"),
        "labels": known,
        "trainable": known,
        "profile": "strict",
        "masked_fields": sorted(masks.hidden_fields("strict")),
        "also": [],
        "kept_fields": [],
        "artefact_masked": [],
        "codec": [DEFAULT.packets, *DEFAULT.payload, DEFAULT.text, DEFAULT.bursts],
        "codec_hash": codec_hash(),
        "dataset_sha256": sha256_file(folder / "records.parquet"),
        "records": len(rows),
        "classes": dict.fromkeys(known, counts),
        "dropped": {},
        "duplicates": {"share": 0.0, "conflicting": 0.0, "ceiling": 1.0},
        "split": {"unit": "capture"},
        "leaky": [],
    }
    write_json(folder / "manifest.json", manifest)
    return load(folder)


def scores(labels: Sequence[str]) -> Scores:
    """Scores that name these labels, one a row."""
    known = tuple(sorted(set(labels)))
    p = np.array([[float(name == label) for name in known] for label in labels])
    return Scores(known, p, np.log(np.maximum(p, 1e-9)))
