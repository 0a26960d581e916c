"""`trafficllm capture`: bodies and streams against the committed schemas, on bundled captures."""

from __future__ import annotations

import csv
import io
import json
import shutil
import struct
import subprocess
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
from cli_runner import Cli, schema

FILES = ("MTD/Neris/Neris_00.pcap", "EAC/QUIC/quic.pcap", "EAC/ICMP/viber.pcap")


@pytest.fixture(name="capture")
def _capture(captures: Path) -> Path:
    return captures / FILES[0]


@pytest.mark.parametrize("name", FILES)
def test_info_counts_what_flows_hold(cli: Cli, captures: Path, name: str) -> None:
    info = cli("capture", "info", captures / name, "--json").body("capture.info")
    rows = [json.loads(line) for line in cli("capture", "flows", captures / name, "-f", "jsonl").out.splitlines()]
    assert info["flows"] == len(rows)
    assert info["packets"] == sum(row["orig_pkts"] + row["resp_pkts"] for row in rows) + info["non_flow"]
    assert info["first"] <= info["last"]


def test_flows_inside_tunnels_and_outside(cli: Cli, repo: Path, tmp_path: Path) -> None:
    capture = repo / "tests" / "golden" / "captures" / "zeek" / "core.tunnels.gre.pcap"
    settings = tmp_path / "outside.toml"
    settings.write_text("[capture]\ntunnels = false\n")

    def told(*more: object) -> list[tuple[str, str]]:
        out = cli("capture", "flows", capture, "-f", "jsonl", *more).out
        return [(row["tunnel"], row["proto"]) for row in map(json.loads, out.splitlines())]

    assert len(told()) == 7
    assert {tunnel for tunnel, _ in told()} == {"gre"}
    assert told("--no-tunnels") == told("--config", settings) == [("", "unknown_transport")]


def test_info_of_a_folder_is_the_sum(cli: Cli, captures: Path) -> None:
    parts = [cli("capture", "info", path, "--json").body("capture.info") for path in sorted((captures / "EAC" / "MDNS").glob("*.pcap"))]
    whole = cli("capture", "info", captures / "EAC" / "MDNS", "--json").body("capture.info")
    assert len(parts) == 9
    assert whole["packets"] == sum(part["packets"] for part in parts)


def test_info_for_people(cli: Cli, capture: Path) -> None:
    done = cli("capture", "info", capture)
    assert done.code == 0
    assert "2011-08-1" in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize("name", FILES)
def test_flow_lines_fit_their_schema(cli: Cli, captures: Path, name: str) -> None:
    lines = cli("capture", "flows", captures / name, "-f", "jsonl").out.splitlines()
    assert lines
    for line in lines:
        jsonschema.validate(json.loads(line), schema("capture.flows.line"))


def test_every_format_has_the_same_flows(cli: Cli, capture: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in cli("capture", "flows", capture, "-f", "jsonl").out.splitlines()]
    uids = [row["uid"] for row in rows]
    assert len(set(uids)) == len(uids) > 20
    assert [row["uid"] for row in csv.DictReader(io.StringIO(cli("capture", "flows", capture, "-f", "csv").out))] == uids
    cli("capture", "flows", capture, "-f", "parquet", "-o", tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["uid"].to_pylist() == uids
    assert table["splt"].to_pylist() == [row["splt"] for row in rows]
    zeek = [line for line in cli("capture", "flows", capture, "-f", "zeek").out.splitlines() if not line.startswith("#")]
    assert [line.split("\t")[1] for line in zeek] == uids
    events = [json.loads(line) for line in cli("capture", "flows", capture, "-f", "eve").out.splitlines()]
    assert [event["community_id"] for event in events] == [row["community_id"] for row in rows]
    for event in events:
        jsonschema.validate(event, schema("eve.line"))


def test_flows_table(cli: Cli, capture: Path) -> None:
    done = cli("capture", "flows", capture)
    assert done.code == 0
    assert done.out.split()[:4] == ["begin", "proto", "from", "to"]
    assert "2011-" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert "more flows" in done.err


def test_packets_are_tsharks(cli: Cli, capture: Path) -> None:
    fields = "frame.number,frame.len,ip.src,ip.dst,ip.ttl,tcp.srcport,tcp.flags,udp.srcport"
    tool = shutil.which("tshark")
    if tool is None:
        pytest.skip("tshark is not installed")
    words = [tool, "-r", str(capture), "-T", "fields", *(word for field in fields.split(",") for word in ("-e", field))]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
    assert cli("capture", "packets", capture, "-f", "tsv", "--fields", fields, "--no-header").out == told


def test_packets_header_and_csv(cli: Cli, capture: Path) -> None:
    rows = list(csv.reader(io.StringIO(cli("capture", "packets", capture, "-f", "csv").out)))
    assert rows[0][0] == "frame.number"
    info = cli("capture", "info", capture, "--json").body("capture.info")
    assert len(rows) == 1 + info["packets"]


def test_unknown_field_is_refused(cli: Cli, capture: Path) -> None:
    done = cli("capture", "packets", capture, "--fields", "ip.srk")
    assert done.code == 2
    assert "ip.src" in done.err


def test_check(cli: Cli, capture: Path, captures: Path) -> None:
    body = cli("capture", "check", capture, "--json").body("capture.check")
    info = cli("capture", "info", capture, "--json").body("capture.info")
    assert body["packets"] == info["packets"]
    cut = cli("capture", "check", captures / FILES[1], "--json").body("capture.check")
    if not cut["valid"]:
        cli("capture", "check", captures / FILES[1], "--strict").refused(3, "invalid packets")


def test_stdin(capture: Path) -> None:
    import os
    import sys

    with capture.open("rb") as stream:
        words = [sys.executable, "-m", "trafficllm", "capture", "info", "-", "--json"]
        done = subprocess.run(words, stdin=stream, capture_output=True, text=True, check=False, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["packets"] > 100


def test_a_reader_that_goes_away_is_no_error(capture: Path) -> None:
    import sys

    for reader in ("head -n 1", "true"):  # one that has read something, and one that is gone before the first line
        command = f"{sys.executable} -m trafficllm capture flows {capture} -f jsonl | {reader}; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=True, timeout=300)
        assert done.stdout.splitlines()[-1] == "0"
        notice = "tcp.truncated, without a flow: 15 of 753 packets; `trafficllm capture check` says where"
        said = done.stderr.splitlines()
        assert said in ([notice], [])  # nothing where a line met nobody: `head` may be gone before the last one


@pytest.fixture(name="netlink")
def _netlink(tmp_path: Path) -> Path:
    """Two frames of a link type that is not read (253, NETLINK)."""
    path = tmp_path / "netlink.pcap"
    record = struct.pack("<IIII", 1_700_000_000, 0, 20, 20) + bytes(20)
    path.write_bytes(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 253) + 2 * record)
    return path


@pytest.mark.parametrize("command", [("info",), ("flows", "-f", "jsonl"), ("packets",)])
def test_a_link_type_that_is_not_read_is_said(cli: Cli, netlink: Path, command: tuple[str, ...]) -> None:
    done = cli("capture", command[0], netlink, *command[1:])
    assert done.code == 0
    assert done.err.startswith("NETLINK, not read: 2 of 2 packets; convert with ")
    strict = cli("capture", command[0], netlink, *command[1:], "--strict")
    assert strict.code == 8
    assert strict.out == done.out
    assert "not everything was read: NETLINK" in strict.err


def test_info_names_what_is_not_read(cli: Cli, netlink: Path, capture: Path) -> None:
    assert cli("capture", "info", netlink, "--json").body("capture.info")["not_read"] == {"NETLINK": 2}
    assert cli("capture", "info", capture, "--json").body("capture.info")["not_read"] == {"tcp.truncated": 15}


def _events(cli: Cli, folder: Path, path: Path, *, conflict: bool = False) -> int:
    """Suricata alerts for six of seven flows of a folder, by the parity of their target port; how many."""
    lines = []
    for k, line in enumerate(cli("capture", "flows", folder, "-f", "eve").out.splitlines()):
        event = json.loads(line) | {"event_type": "alert"}
        if k % 7:
            lines.append(json.dumps(event | {"alert": {"category": "odd" if event["dest_port"] % 2 else "even"}}))
            lines += [json.dumps(event | {"alert": {"category": "other"}})] if conflict and k == 1 else []
    path.write_text("\n".join(lines) + "\n")
    return len(lines)


def test_flows_get_the_labels_of_a_sensor(cli: Cli, capture: Path, tmp_path: Path) -> None:
    events = tmp_path / "eve.json"
    _events(cli, capture, events, conflict=True)
    done = cli("capture", "flows", capture, "--label", events, "-f", "jsonl")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {row["label"] for row in rows} == {"odd", "even", None}
    assert all(row["label"] in {None, "odd" if row["resp_p"] % 2 else "even"} for row in rows)
    jsonschema.validate(rows[0], schema("capture.flows.line"))
    assert "with labels that disagree, left out" in done.err
    table = tmp_path / "flows.parquet"
    assert cli("capture", "flows", capture, "--label", events, "-f", "parquet", "-o", table).code == 0
    again = cli("capture", "flows", capture, "--label", table, "-f", "jsonl")
    assert [json.loads(line)["label"] for line in again.out.splitlines()] == [row["label"] for row in rows]


def test_a_data_set_of_a_sensors_labels(cli: Cli, captures: Path, tmp_path: Path) -> None:
    folder, events = tmp_path / "captures", tmp_path / "eve.json"
    folder.mkdir()
    for k, path in enumerate(sorted((captures / "MTD" / "Neris").glob("*.pcap"))[:4]):
        shutil.copy(path, folder / f"day{k}.pcap")
    _events(cli, folder, events)
    one = cli("data", "build", folder, "-o", tmp_path / "one", "--task", "OWN", "--labels", events, "--workers", 1, "--json")
    body = one.body("data.build")
    assert set(body["classes"]) == {"odd", "even"}
    assert body["dropped"]["no label"] > 0
    assert "flows have no label in the logs" in one.err
    two = cli("data", "build", folder, "-o", tmp_path / "two", "--task", "OWN", "--labels", events, "--workers", 2, "--json")
    assert two.body("data.build")["dataset_sha256"] == body["dataset_sha256"]
    missing = cli("data", "build", folder, "-o", tmp_path / "three", "--task", "OWN", "--labels", tmp_path / "no.json")
    missing.refused(3, "no.json")
    assert not (tmp_path / "three").exists()
