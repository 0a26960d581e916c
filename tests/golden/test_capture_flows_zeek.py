"""Flows against the conn.log that Zeek itself wrote for each capture."""

from __future__ import annotations

import csv
import io
import tomllib
from collections import defaultdict
from pathlib import Path

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.rows import conn_rows
from trafficllm.core.settings import FlowOptions
from trafficllm.surface.formats.columns import CONN
from trafficllm.surface.formats.eve import flow_event
from trafficllm.surface.formats.writers import make_writer

COMPARED = (
    "id.orig_h",
    "id.orig_p",
    "id.resp_h",
    "id.resp_p",
    "proto",
    "duration",
    "orig_bytes",
    "resp_bytes",
    "conn_state",
    "history",
    "orig_pkts",
    "orig_ip_bytes",
    "resp_pkts",
    "resp_ip_bytes",
    "ip_proto",
)
LISTED = tomllib.loads((Path(__file__).with_name("zeek_differences.toml")).read_text())["difference"]
EXPLAINED = {row["case"]: int(row["rows"]) for row in LISTED}
"""Case -> rows that may differ; the list says which and why."""


def _log(text: str) -> list[dict[str, str]]:
    names: list[str] = []
    rows = []
    for line in text.splitlines():
        if line.startswith(("#fields\t", "uid\t")):
            names = line.removeprefix("#fields\t").split("\t")
        elif names and not line.startswith("#"):
            rows.append(dict(zip(names, line.split("\t"), strict=True)))
    return rows


def _ours(path: Path, *, checksums: bool) -> list[dict[str, str]]:
    """What `capture flows -f zeek` writes, read as any other log."""
    stream = io.BytesIO()
    writer = make_writer("zeek", stream, CONN, path="conn", eve=flow_event)
    for batch in read_flows([path], options=FlowOptions(checksums=checksums)):
        writer.write(list(conn_rows(batch)))
    writer.close()
    return _log(stream.getvalue().decode())


def _ends(row: dict[str, str]) -> tuple[object, ...]:
    return (*sorted([(row["id.orig_h"], row["id.orig_p"]), (row["id.resp_h"], row["id.resp_p"])]), row.get("ip_proto"))


def _without_carriers(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The log without the UDP connections that others went through: here a packet belongs to what it carries."""
    carriers = {uid for row in rows for uid in row.get("tunnel_parents", "").split(",")}
    return [row for row in rows if row.get("uid") not in carriers]


def _unequal(case: dict[str, str], folder: Path) -> tuple[int, int]:
    """(rows of the log, rows that differ from ours)."""
    theirs = _without_carriers(_log((folder / case["conn_log"]).read_text()))
    if not theirs:
        return 0, 0
    keyed = "id.orig_h" in theirs[0]
    pool = defaultdict(list)
    checks = not any(word in {"-C", "-Cr"} for word in case["how the log was made"].split())
    for row in _ours(folder / case["capture"], checksums=checks):
        pool[_ends(row) if keyed else ()].append(row)
    wrong = 0
    for row in theirs:
        candidates = pool[_ends(row) if keyed else ()]
        names = [name for name in COMPARED if name in row]
        best = min(candidates, key=lambda ours: sum(ours[name] != row[name] for name in names), default=None)
        if best is None or any(best[name] != row[name] for name in names):
            wrong += 1
        else:
            candidates.remove(best)
    return len(theirs), wrong


def test_connections_equal_zeeks(data_dir: Path) -> None:
    folder = data_dir / "zeek_conn"
    rows, wrong = {False: 0, True: 0}, {False: 0, True: 0}
    for case in csv.DictReader((folder / "pairs.csv").read_text().splitlines()):
        count, different = _unequal(case, folder)
        tunnels = "tunnel" in case["case"] or "erspan" in case["case"]
        rows[tunnels] += count
        wrong[tunnels] += different
        assert different == EXPLAINED.get(case["case"], 0), case["case"]
    assert (rows[False], rows[True]) == (224, 56)
    assert 1 - wrong[False] / rows[False] >= 0.98
    assert wrong[True] <= 8
    assert all(row["why"] for row in LISTED)
