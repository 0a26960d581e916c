"""Columns give what records give one by one: rows, units, hashes and probe values, under every mask."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pytest

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.settings import CodecOptions, FlowOptions
from trafficllm.core.types import FlowBatch, Record
from trafficllm.records import masks, probe
from trafficllm.records.codec import columns
from trafficllm.records.codec.codec import encode
from trafficllm.records.codec.flows import CHORES, chores, housekeeping, records_of
from trafficllm.records.dataset import shards, store
from trafficllm.records.dataset.duplicates import sequence_hash
from trafficllm.records.dataset.reserved import Reserved
from trafficllm.records.sources.captures import Gathered, capture_pieces
from trafficllm.records.sources.flow_rows import FlowRows, _rows, flow_pieces, joined
from trafficllm.records.sources.folders import LabelledFile, scan

ALSO = ((), *((name,) for name in masks.FIELDS), ("handshake", "size_first", "iats"), ("fact:dns.qry.type", "fact:tls.server.version"))
FILE = LabelledFile("a", Path("a/x.pcap"), "a/x.pcap")


def strange(flows: int, seed: int) -> FlowBatch:
    """Flows with anything in their columns: no packets, too many, times that go back, flags of every kind, any protocol."""
    rng = np.random.default_rng(seed)
    count = rng.choice((0, 1, 2, 3, 7, 16, 17, 32, 40), flows)
    m = int(count.sum())
    proto = rng.choice((1, 6, 6, 6, 17, 58, 2, 47), flows).astype(np.uint8)
    text = np.array(["x"] * flows, dtype=object)
    host = rng.integers(0, 256, (2, flows, 16), dtype=np.uint8)
    sizes = rng.choice((0, 0, 1, 40, 300), 2 * flows)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    payload = rng.integers(0, 256, int(edges[-1]), dtype=np.uint8)
    for k in rng.choice(flows, flows // 4):  # a flow's own address somewhere in its payload
        if sizes[2 * k] >= 40:
            payload[edges[2 * k] + 9 : edges[2 * k] + 13] = host[0, k, :4]
    opening = rng.random(m) < 0.4
    return FlowBatch(
        ts=rng.integers(0, 1 << 60, flows),
        duration=rng.integers(0, 1 << 40, flows),
        ip_version=rng.choice((0, 4, 4, 6), flows).astype(np.uint8),
        proto=proto,
        orig_h=host[0],
        resp_h=host[1],
        orig_p=rng.choice((0, 53, 1023, 1024, 5353, 49151, 49152, 65535), flows).astype(np.uint16),
        resp_p=rng.choice((22, 53, 80, 123, 443, 1900, 8080), flows).astype(np.uint16),
        pkts=np.stack([count, count], axis=1),
        payload_bytes=np.zeros((flows, 2), np.int64),
        ip_bytes=np.zeros((flows, 2), np.int64),
        conn_state=text,
        history=text,
        end_reason=text,
        community_id=np.array([f"1:{k % 50}" for k in range(flows)], dtype=object),
        link=np.ones(flows, np.uint16),
        source=np.zeros(flows, np.uint32),
        vlan=np.full(flows, -1, np.int32),
        tunnel=np.zeros(flows, np.uint16),
        pkt_ptr=np.concatenate([[0], np.cumsum(count)]),
        p_dir=rng.integers(0, 2, m).astype(np.uint8),
        p_ts=rng.choice((0, 999, 1000, 64_000, 10**9, 4 * 10**12), m),
        p_ip_len=np.zeros(m, np.uint32),
        p_payload=np.where(opening, 0, rng.choice((0, 1, 31, 32, 2047, 2048, 65535), m)).astype(np.uint32),
        p_flags=np.where(opening, rng.choice((2, 18, 16), m), rng.integers(0, 256, m)).astype(np.uint8),
        p_window=rng.choice((0, 1, 1023, 1024, 65535), m).astype(np.uint16),
        p_ttl=rng.choice((0, 1, 32, 64, 255), m).astype(np.uint8),
        p_frame=np.arange(1, m + 1),
        p_frame_len=np.zeros(m, np.uint32),
        p_type=rng.choice((0x0800, 0x8700, 0x0303), m).astype(np.uint16),
        payload_ptr=np.stack([edges[0:-1:2], edges[1::2], edges[2::2]], axis=1),
        payload=payload,
        files=("x.pcap",),
    )


def batches(captures: Path) -> list[FlowBatch]:
    """Strange flows, and those of bundled captures for the facts that real payload holds."""
    real = [batch for path in sorted(captures.rglob("*.pcap"))[::16] for batch in read_flows([path])]
    assert sum(len(batch) for batch in real) > 30
    return [strange(150, 1), *real]


def _values(coded: probe.Coded) -> list[Hashable]:
    return [coded.values[code] for code in coded.codes.tolist()]


def _same_answers(fast: dict[str, probe.Coded], slow: dict[str, list[Hashable]]) -> None:
    """Equal partitions with equal absences: names of classes may differ."""
    assert fast.keys() == slow.keys()
    for name, column in slow.items():
        pairs = set(zip(_values(fast[name]), column, strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), name
        assert all((a is None) == (b is None) for a, b in pairs), name


@pytest.fixture(scope="module")
def rows(captures: Path) -> tuple[FlowRows, list[Record]]:
    """The same flows as columns, joined from many pieces, and as records."""
    found = batches(captures)
    pieces = [
        _rows(batch, np.arange(len(batch)), FILE, Gathered(), labels=[FILE.label] * len(batch), marks=[False] * len(batch))
        for batch in found
    ]
    return joined(pieces), [record for batch in found for record, _ in records_of(batch)]


def test_rows_are_those_of_the_records(rows: tuple[FlowRows, list[Record]], captures: Path) -> None:
    piece, records = rows
    metas = [meta for batch in batches(captures) for _, meta in records_of(batch)]
    slow = store.rows_of(records, metas)
    fast = piece.table()
    told = [name for name in slow.column_names if name not in {"capture", "origin"}]  # those come from the file's place
    assert fast.select(told).equals(slow.select(told))
    again = columns.from_table(fast)
    for name in ("length", *columns.PACKETS, "proto", "icmp", "ports", "ip_version"):
        assert np.array_equal(getattr(again, name), getattr(piece.columns, name)), name


@pytest.mark.parametrize("profile", masks.PROFILES)
def test_units_hashes_and_probes_are_those_of_the_records(profile: str, rows: tuple[FlowRows, list[Record]]) -> None:
    piece, records = rows
    seen = 0
    for k, also in enumerate(ALSO if profile == "strict" else ALSO[::6]):
        codec = CodecOptions() if k % 2 else CodecOptions(packets=5, payload=(0, 20))
        show = shards.Show(profile, frozenset(also), frozenset({"dns.name"}) if k % 3 else frozenset(), codec)
        masked = [show.record(record) for record in records]
        into = shards.Shown()
        units, heads = shards._show_flows(piece, show, into)
        assert units == [encode(record, codec) for record in masked], also
        assert into.sequences == [sequence_hash(record) for record in masked]
        assert all(0 < head < len(text) for head, text in zip(heads, units, strict=True))
        if profile == "strict":
            _same_answers(into.probes[0][1], probe.values_of(masked))
        seen += len(set(units))
    assert seen > 500


@pytest.mark.parametrize("also", [("handshake",), ("resp_port_class",), ("service",), ("fact:dns.qry.type", "payload_head")])
def test_artefact_masks_reach_rows_that_were_written(also: Sequence[str], rows: tuple[FlowRows, list[Record]]) -> None:
    piece, records = rows
    units, heads = shards._show_flows(piece, shards.Show(), shards.Shown())
    import pyarrow as pa

    table = piece.table().append_column("units", pa.array(units)).append_column("head", pa.array(heads, type=pa.int32()))
    show = shards.Show(also=frozenset(also))
    assert shards._flows_again(table, show, shards.Shown()) == [encode(show.record(record)) for record in records]


def test_chores_are_those_of_the_records() -> None:
    batch = strange(900, 3)
    first = np.where(np.diff(batch.pkt_ptr) > 0, batch.p_type[np.minimum(batch.pkt_ptr[:-1], len(batch.p_type) - 1)], 0)
    found = [CHORES[k] for k in chores(batch.proto, batch.orig_p, batch.resp_p, first)]
    assert found == [housekeeping(record) for record, _ in records_of(batch)]
    assert {"dns", "nd", "igmp", "ntp", ""} <= set(found)


def test_pieces_of_a_capture_agree_on_labels_reserved_flows_and_counts(captures: Path) -> None:
    folder = scan(captures / "MTD")
    reserved = Reserved({(file.label, file.path.name): 0.3 for file in folder.files})
    flows = 0
    for file in folder.files[::5]:
        given = {"keep_chores": False, "reserved": reserved, "options": FlowOptions()}
        slow, fast = Gathered(), Gathered()
        for piece in capture_pieces(file, folder.root, **given):
            slow.extend(piece)
        for part in flow_pieces(file, folder.root, **given):
            fast.extend(part.rest)
        names = ("labels", "given", "reserved", "row", "dropped")
        assert [getattr(fast, name) for name in names] == [getattr(slow, name) for name in names]
        flows += len(slow.labels)
    assert flows > 50


def test_one_shard_holds_neighbours_and_every_file_is_in_one() -> None:
    sizes = [10, 10, 10, 5_000_000, 3, 3, 600_000, 1]
    found = shards.runs(sizes, workers=2)
    assert [k for run in found for k in run] == list(range(8))
    assert found == [range(4), range(4, 7), range(7, 8)]
