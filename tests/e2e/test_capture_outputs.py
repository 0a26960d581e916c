"""Every form in which flows leave: read back with the reader its users have, and joined with labels on Community ID."""

from __future__ import annotations

import csv
import io
import ipaddress
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli_runner import Cli

from trafficllm.capture.flows.community import community_id

CAPTURE = "MTD/Neris/Neris_00.pcap"


@pytest.mark.parametrize(
    ("proto", "a", "port_a", "b", "port_b", "expected", "seeded"),
    [
        (6, "128.232.110.120", 34855, "66.35.250.204", 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg=", ""),
        (17, "192.168.1.52", 54585, "8.8.8.8", 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ=", "1:Q9We8WO3piVF8yEQBNJF4uiSVrI="),
        (17, "8.8.8.8", 53, "192.168.1.52", 54585, "1:d/FP5EW3wiY1vCndhwleRRKHowQ=", "1:Q9We8WO3piVF8yEQBNJF4uiSVrI="),
        (132, "192.168.170.8", 7, "192.168.170.56", 80, "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ=", "1:Y1/0jQg6e+I3ZwZZ9LP65DNbTXU="),
        (132, "192.168.170.56", 80, "192.168.170.8", 7, "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ=", "1:Y1/0jQg6e+I3ZwZZ9LP65DNbTXU="),
        (1, "192.168.0.89", 8, "192.168.0.1", 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=", ""),
        (1, "192.168.0.89", 20, "192.168.0.1", 0, "1:3o2RFccXzUgjl7zDpqmY7yJi8rI=", ""),
        (1, "192.168.0.89", 20, "192.168.0.1", 1, "1:tz/fHIDUHs19NkixVVoOZywde+I=", ""),
        (58, "fe80::200:86ff:fe05:80da", 135, "fe80::260:97ff:fe07:69ea", 0, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=", ""),
        (58, "3ffe:507:0:1:200:86ff:fe05:80da", 128, "3ffe:501:0:1001::2", 0, "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=", ""),
        (
            58,
            "3ffe:507:0:1:260:97ff:fe07:69ea",
            3,
            "3ffe:507:0:1:200:86ff:fe05:80da",
            0,
            "1:NdobDX8PQNJbAyfkWxhtL2Pqp5w=",
            "1:OlOWx9psIbBFi7lOCw/4MhlKR9M=",
        ),
        (
            58,
            "3ffe:507:0:1:200:86ff:fe05:80da",
            3,
            "3ffe:507:0:1:260:97ff:fe07:69ea",
            0,
            "1:/OGBt9BN1ofenrmSPWYicpij2Vc=",
            "1:Ij4ZxnC87/MXzhOjvH2vHu7LRmE=",
        ),
        (46, "10.1.24.4", 0, "10.1.12.1", 0, "1:/nQI4Rh/TtY3mf0R2gJFBkVlgS4=", ""),
    ],
)
def test_community_id_baseline(proto: int, a: str, port_a: int, b: str, port_b: int, expected: str, seeded: str) -> None:
    """Values of the specification's baseline (github.com/corelight/community-id-spec), default seed 0 and seed 1."""
    ends = ipaddress.ip_address(a).packed, ipaddress.ip_address(b).packed
    assert community_id(proto, ends[0], port_a, ends[1], port_b) == expected
    assert not seeded or community_id(proto, ends[0], port_a, ends[1], port_b, seed=1) == seeded


def _zeek(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """A Zeek TSV log by its own header: (types, rows)."""
    lines = text.splitlines()
    assert lines[0] == "#separator \\x09"
    head = dict(line[1:].split("\t", 1) for line in lines[1:] if line.startswith("#"))
    assert (head["set_separator"], head["empty_field"], head["unset_field"], head["path"]) == (",", "(empty)", "-", "conn")
    names, types = head["fields"].split("\t"), head["types"].split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=True)) for line in lines if not line.startswith("#")]
    return dict(zip(names, types, strict=True)), rows


ZEEK_TYPES = {
    "time": r"\d+\.\d{6}",
    "interval": r"\d+\.\d{6}",
    "count": r"\d+",
    "port": r"\d{1,5}",
    "addr": r"[0-9a-f.:]+",
    "enum": r"[a-z_]+",
    "bool": r"[TF]",
    "string": r"[^\t]+",
    "set[string]": r"[^\t]+",
    "vector[string]": r"[^\t]+",
    "vector[count]": r"[\d,]+",
    "vector[interval]": r"[-\d.,]+",
    "double": r"-?[\d.e+-]+",
    "int": r"-?\d+",
}


def test_every_form_says_the_same(cli: Cli, captures: Path, tmp_path: Path) -> None:
    def told(form: str) -> str:
        return cli("capture", "flows", captures / CAPTURE, "-f", form).out

    rows = [json.loads(line) for line in told("jsonl").splitlines()]
    assert len(rows) > 20
    types, zeek = _zeek(told("zeek"))
    for row in zeek:
        assert all(value == "-" or re.fullmatch(ZEEK_TYPES[types[name]], value) for name, value in row.items())
    same = {"id.orig_h": "orig_h", "id.resp_p": "resp_p", "orig_pkts": "orig_pkts", "conn_state": "conn_state", "uid": "uid"}
    assert [[row[name] for name in same] for row in zeek] == [[str(row[name]) for name in same.values()] for row in rows]
    table = csv.DictReader(io.StringIO(told("csv")))
    assert [(row["community_id"], row["history"]) for row in table] == [(row["community_id"], row["history"]) for row in rows]
    cli("capture", "flows", captures / CAPTURE, "-f", "parquet", "-o", tmp_path / "flows.parquet")
    parquet = pq.read_table(tmp_path / "flows.parquet")
    assert parquet["orig_bytes"].to_pylist() == [row["orig_bytes"] for row in rows]
    assert parquet["splt"].to_pylist() == [row["splt"] for row in rows]


JOIN = """
import csv, sys
import pyarrow as pa, pyarrow.parquet as pq
flows = pq.read_table(sys.argv[1])
labels = pa.Table.from_pylist(list(csv.DictReader(open(sys.argv[2]))))
for row in flows.join(labels, "community_id", join_type="inner").select(["uid", "label"]).to_pylist():
    print(row["uid"], row["label"])
"""
"""As docs/captures.md shows it: labels of another tool, one a Community ID, onto flows."""


def test_labels_join_on_community_id(cli: Cli, captures: Path, tmp_path: Path, repo: Path) -> None:
    import subprocess
    import sys

    assert JOIN.strip() in (repo / "docs" / "captures.md").read_text()
    rows = [json.loads(line) for line in cli("capture", "flows", captures / CAPTURE, "-f", "jsonl").out.splitlines()]
    cli("capture", "flows", captures / CAPTURE, "-f", "parquet", "-o", tmp_path / "flows.parquet")
    # pyarrow's join takes no list columns along; the per-packet list stays behind
    flat = pq.read_table(tmp_path / "flows.parquet")
    pq.write_table(flat.drop_columns([name for name in flat.column_names if name == "splt"]), tmp_path / "flat.parquet")
    picked = {row["community_id"]: "c2" for row in rows[::2]}
    (tmp_path / "labels.csv").write_text("community_id,label\n" + "".join(f"{name},{label}\n" for name, label in picked.items()))
    command = [sys.executable, "-c", JOIN, str(tmp_path / "flat.parquet"), str(tmp_path / "labels.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    expected = sorted(f"{row['uid']} c2" for row in rows if row["community_id"] in picked)
    assert sorted(done.stdout.splitlines()) == expected
    assert len(expected) >= len(rows) / 2
