"""Flows of other sensors' logs as records: what is there is kept, what is not is masked as missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.rows import flow_rows
from trafficllm.core.errors import InputError
from trafficllm.records import masks
from trafficllm.records.codec.codec import encode
from trafficllm.records.codec.flows import records_of
from trafficllm.records.sources.logs import is_blank, log_records, part_logs

EVE = {
    "timestamp": "2023-11-14T22:13:22.000000+0000",
    "event_type": "flow",
    "src_ip": "192.0.2.1",
    "src_port": 40000,
    "dest_ip": "198.51.100.2",
    "dest_port": 443,
    "proto": "TCP",
    "app_proto": "tls",
    "flow": {"pkts_toserver": 5, "pkts_toclient": 4, "start": "2023-11-14T22:13:20.000000+0000", "end": "2023-11-14T22:13:21.500000+0000"},
}


def _eve(tmp_path: Path, *rows: dict[str, object]) -> Path:
    path = tmp_path / "eve.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_flow_event_of_suricata(tmp_path: Path) -> None:
    ((record, meta),) = log_records(_eve(tmp_path, EVE))
    assert (record.proto, record.ports, record.dirs, record.facts.service) == (6, (40000, 443), (), "tls")
    assert record.masked >= {"packets", "payload", "facts"}
    assert (meta.ts, meta.duration, meta.packets) == (1_700_000_000 * 10**9, 1_500_000_000, 9)
    assert meta.community_id.startswith("1:")
    shown = masks.apply(record, "strict")
    assert shown.masked >= record.masked
    assert not is_blank(shown)
    assert encode(shown)


def test_a_log_that_says_nothing_of_what_a_flow_did_is_blank(tmp_path: Path) -> None:
    ((record, _),) = log_records(_eve(tmp_path, {**EVE, "app_proto": "failed"}))
    assert is_blank(masks.apply(record, "strict"))


def test_flows_written_by_us_come_back_with_their_packets(tmp_path: Path, captures: Path) -> None:
    capture = captures / "MTD" / "Neris" / "Neris_00.pcap"
    (batch,) = read_flows([capture])
    path = tmp_path / "flows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in flow_rows(batch)), encoding="utf-8")
    read, ours = list(log_records(path)), records_of(batch)
    assert len(read) == len(ours) == 160
    for (record, meta), (known, of_capture) in zip(read, ours, strict=True):
        assert (record.dirs, record.sizes, record.ports) == (known.dirs, known.sizes, known.ports)
        assert all(abs(a - b) <= 1000 for a, b in zip(record.iats, known.iats, strict=True))
        assert (meta.community_id, meta.orig_h, meta.packets) == (of_capture.community_id, of_capture.orig_h, of_capture.packets)
        assert record.masked == {"payload", "facts", "ttl", "window", "flags"}


def test_logs_are_told_from_captures() -> None:
    names = ["a.pcap", "conn.log", "eve.json.gz", "b.pcap.gz", "x.parquet", "-"]
    captures, logs = part_logs([Path(name) for name in names])
    assert [path.name for path in captures] == ["a.pcap", "b.pcap.gz", "-"]
    assert [path.name for path in logs] == ["conn.log", "eve.json.gz", "x.parquet"]


def test_a_log_without_connections_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("community_id,label\n1:abc,web\n", encoding="utf-8")
    with pytest.raises(InputError, match="no line names a connection"):
        list(log_records(path))
