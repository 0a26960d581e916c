"""Stream formats: the same rows come back from each of them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from trafficllm.capture.flows.rows import ConnRow, FlowRow
from trafficllm.core.errors import ResourceError, UsageError
from trafficllm.infer.detector import VerdictRow
from trafficllm.lifecycle.analyze.alerts import Alerts
from trafficllm.lifecycle.analyze.analysis import Analysis
from trafficllm.lifecycle.analyze.hosts import HostRow
from trafficllm.surface.formats.columns import CONN, FLOW, HOST, LABEL, VERDICT
from trafficllm.surface.formats.eve import EveEvent, EveHostEvent, flow_event, host_event, verdict_event
from trafficllm.surface.formats.writers import FORMATS, format_for, make_writer, writing

ROW: dict[str, Any] = {
    "uid": "CHhAvVGS1DHFjwGM9",
    "ts": 1338265177.25,
    "duration": 0.5,
    "community_id": "1:wCb3OG7yAFWelaUydu0D+125CLM=",
    "orig_h": "192.0.2.1",
    "orig_p": 49152,
    "resp_h": "2001:db8::1",
    "resp_p": 443,
    "proto": "tcp",
    "packets": 12,
    "task": "MTD",
    "label": "Zeus",
    "confidence": 0.75,
    "probabilities": {"Zeus": 0.75, "Neris": 0.25},
    "unknown_score": -1.5,
    "evidence": [{"frame": 4, "field": "packet", "weight": 0.25}],
    "file": "a.pcap",
    "frames": [4, 6],
    "adapter": "MTD",
    "version": "v0001",
    "umbrella": "malicious",
    "umbrella_probability": 0.875,
    "malicious": 0.875,
    "labels_90": ["Zeus", "Neris"],
    "source": "registry",
}
HOST_ROW: dict[str, Any] = {
    "file": "x.pcap",
    "host": "10.0.0.5",
    "task": "MTD",
    "umbrella": "malicious",
    "umbrella_probability": 0.875,
    "malicious": 0.875,
    "score": 4.5,
    "flows": 4,
    "labels": {"Zeus": 3, "unknown": 1},
    "first": 1.25,
    "last": 9.5,
    "frames": [7],
}
FLOW_ROW: dict[str, Any] = {
    "ts": 1.25,
    "uid": "C1",
    "orig_h": "192.0.2.1",
    "orig_p": 1,
    "resp_h": "192.0.2.2",
    "resp_p": 53,
    "proto": "udp",
    "ip_proto": 17,
    "duration": None,
    "orig_bytes": None,
    "resp_bytes": 0,
    "conn_state": "S0",
    "history": "D",
    "orig_pkts": 1,
    "orig_ip_bytes": 60,
    "resp_pkts": 0,
    "resp_ip_bytes": 0,
    "community_id": "1:x",
    "end_reason": "eof",
    "tunnel": "gre",
    "splt": [{"dir": 0, "size": 32, "iat": 0.0}],
}


CONN_ROW = {**FLOW_ROW, **dict.fromkeys(("service", "local_orig", "local_resp", "tunnel_parents")), "missed_bytes": 0}


def _alerts(*notable: str, always: bool = True) -> Alerts:
    """Alerts of an analysis by MTD, whose `notable` verdicts are alerts where `always` is set."""
    return Alerts(Analysis(("MTD",), None, iter(()), notable={"MTD": frozenset(notable or ("malicious",))}), always=always)


def _write(form: str, rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    columns = VERDICT if "label" in rows[0] else CONN if form == "zeek" else FLOW
    event = (lambda row: verdict_event(row, _alerts())) if columns is VERDICT else flow_event
    writer = make_writer(form, stream, columns, path="trafficllm", eve=event)
    writer.write(rows[:1])
    writer.write(rows[1:])
    writer.close()
    return stream.getvalue()


def test_shapes_columns_and_rows_agree() -> None:
    assert [column.name for column in VERDICT] == list(get_type_hints(VerdictRow)) == list(ROW)
    assert {column.name for column in (*FLOW, LABEL)} == set(get_type_hints(FlowRow)) == {*FLOW_ROW, "label"}
    assert {column.name for column in (*CONN, LABEL)} == set(get_type_hints(ConnRow)) == {*CONN_ROW, "label"}


def test_jsonl() -> None:
    assert [json.loads(line) for line in _write("jsonl", [ROW, ROW]).splitlines()] == [ROW, ROW]


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(_write("csv", [ROW, ROW]).decode())))
    assert len(rows) == 2
    assert rows[0]["resp_h"] == ROW["resp_h"]
    assert json.loads(rows[0]["probabilities"]) == ROW["probabilities"]
    assert rows[0]["unknown_score"] == "-1.5"


def test_parquet() -> None:
    table = pq.read_table(io.BytesIO(_write("parquet", [ROW, ROW])))
    kept = table.to_pylist()[1]
    assert {**kept, "probabilities": dict(kept["probabilities"])} == ROW
    assert pq.read_table(io.BytesIO(_write("parquet", [FLOW_ROW]))).to_pylist() == [FLOW_ROW]


def test_zeek() -> None:
    lines = _write("zeek", [CONN_ROW]).decode().splitlines()
    assert lines[0] == "#separator \\x09"
    names, types, row = lines[5].split("\t")[1:], lines[6].split("\t")[1:], lines[7].split("\t")
    assert len(names) == len(types) == len(row) == len(CONN)
    told = dict(zip(names, row, strict=True))
    assert told["id.orig_h"] == "192.0.2.1"
    assert told["ts"] == "1.250000"
    assert told["duration"] == told["orig_bytes"] == told["service"] == told["tunnel_parents"] == "-"


SURICATA = {
    **dict.fromkeys(("timestamp", "event_type", "src_ip", "dest_ip", "proto", "community_id", "pcap_filename"), str),
    **dict.fromkeys(("flow_id", "src_port", "dest_port", "pcap_cnt"), int),
}
SURICATA_ALERT = {
    **dict.fromkeys(("action", "category", "signature"), str),
    **dict.fromkeys(("gid", "rev", "severity", "signature_id"), int),
}
"""What our alerts share with Suricata's, as its etc/schema.json types them; that schema allows no other key in an `alert`. Suricata writes
`pcap_filename` where it reads files."""


def test_an_alert_is_suricatas_beside_our_own_object() -> None:
    event = verdict_event(ROW, _alerts())
    own, alert = event.pop("trafficllm"), event.pop("alert")
    assert own["schema"] == "trafficllm.eve/2"
    assert {name: type(value) for name, value in event.items()} == SURICATA
    assert {name: type(value) for name, value in alert.items()} == SURICATA_ALERT
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d+[+\-]\d+", event["timestamp"])


def test_eve() -> None:
    event = json.loads(_write("eve", [ROW]))
    TypeAdapter(EveEvent).validate_python(event)
    assert event["timestamp"] == "2012-05-29T04:19:37.250000+0000"
    assert event["event_type"] == "alert"
    assert event["alert"]["signature"] == "TrafficLLM MTD: Zeus (malicious)"
    assert 1_000_000 <= event["alert"]["signature_id"] < 2_000_000
    assert (event["alert"]["gid"], event["alert"]["severity"]) == (21580, 3)
    assert verdict_event(ROW, _alerts(always=False))["event_type"] == "trafficllm"
    TypeAdapter(EveEvent).validate_python(flow_event(FLOW_ROW))


def _alert(label: str, answer: str | None) -> tuple[str, int, str]:
    alert = verdict_event({**ROW, "label": label, "umbrella": answer}, _alerts(label, answer or ""))["alert"]
    return alert["signature"].removeprefix("TrafficLLM MTD: "), alert["signature_id"], alert["category"]


def test_an_alert_says_both_steps() -> None:
    assert _alert("Zeus", "malicious")[1] == _alert("Zeus", None)[1], "a label keeps its signature id"
    stranger = _alert("unknown", "malicious")
    assert (stranger[0], stranger[2]) == ("unknown (malicious)", "traffic classification")
    assert stranger[1] != _alert("Zeus", "malicious")[1]
    assert _alert("benign", "benign")[0] == "benign"


def _hosts(form: str) -> bytes:
    stream = io.BytesIO()
    writer = make_writer(form, stream, HOST, path="trafficllm_hosts", eve=lambda row: host_event(row, _alerts()))
    writer.write([HOST_ROW])
    writer.close()
    return stream.getvalue()


def test_hosts_in_every_form() -> None:
    assert [column.name for column in HOST] == list(get_type_hints(HostRow)) == list(HOST_ROW)
    assert json.loads(_hosts("jsonl")) == HOST_ROW
    (row,) = csv.DictReader(io.StringIO(_hosts("csv").decode()))
    assert (row["host"], json.loads(row["labels"])) == ("10.0.0.5", HOST_ROW["labels"])
    (kept,) = pq.read_table(io.BytesIO(_hosts("parquet"))).to_pylist()
    assert {**kept, "labels": dict(kept["labels"])} == HOST_ROW
    lines = _hosts("zeek").decode().splitlines()
    told = dict(zip(lines[5].split("\t")[1:], lines[7].split("\t"), strict=True))
    assert len(lines[6].split("\t")) == 1 + len(HOST)
    assert (told["host"], told["labels"], told["score"]) == ("10.0.0.5", "Zeus=3,unknown=1", "4.500000")
    event = json.loads(_hosts("eve"))
    TypeAdapter(EveHostEvent).validate_python(event)
    assert (event["src_ip"], event["event_type"], event["pcap_cnt"]) == ("10.0.0.5", "alert", 7)
    assert event["alert"]["signature"] == "TrafficLLM MTD: host malicious"
    quiet = host_event(HOST_ROW, _alerts(always=False))
    assert quiet["event_type"] == "trafficllm"
    assert "alert" not in quiet


def test_formats_are_refused_before_any_work() -> None:
    assert len(FORMATS) == 7
    with pytest.raises(UsageError, match="yaml"):
        format_for("yaml", "-")
    with pytest.raises(UsageError, match="table"):
        format_for("table", "x.txt")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out.jsonl"

    def write(fail: bool) -> None:
        with writing("jsonl", str(target), VERDICT, path="x", eve=flow_event) as writer:
            writer.write([ROW])
            if fail:
                raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write(fail=True)
    assert list(target.parent.iterdir()) == []
    write(fail=False)
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]
    assert target.read_text().count("\n") == 1


def test_where_nothing_can_be_written() -> None:
    with pytest.raises(ResourceError), writing("jsonl", "/proc/nowhere/x", VERDICT, path="x", eve=flow_event):
        raise AssertionError("must not get here")


def test_csv_has_the_three_likeliest_labels_as_columns() -> None:
    shares = {"Zeus": 0.2, "FTP": 0.5, "=cmd": 0.25, "IRC": 0.05}
    stream = io.BytesIO()
    writer = make_writer("csv", stream, VERDICT, path="x", eve=dict)
    writer.write([{**ROW, "probabilities": shares}, {**ROW, "probabilities": {"FTP": 1.0}}])
    rows = list(csv.DictReader(io.StringIO(stream.getvalue().decode())))
    names = ("label_1", "probability_1", "label_2", "probability_2", "label_3", "probability_3")
    assert [rows[0][name] for name in names] == ["FTP", "0.5", "'=cmd", "0.25", "Zeus", "0.2"]
    assert [rows[1][name] for name in names] == ["FTP", "1.0", "", "", "", ""]
