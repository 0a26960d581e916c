"""Published JA4 strings and server names of 201 TLS and QUIC streams (FoxIO-LLC/ja4, BSD-3-Clause), with default settings."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.rows import flow_rows

_AGAINST_THE_RULE = {"tls-non-ascii-alpn.pcapng"}
"""Its expectation writes an ALPN that is not ASCII as "99"; the written rule takes the hex digits of its first and last byte."""


def test_ja4_and_server_names_are_the_published_ones(data_dir: Path) -> None:
    folder = data_dir / "ja4"
    with (folder / "expected.csv").open() as stream:
        expected = list(csv.DictReader(stream))
    assert len(expected) == 201
    told: dict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)
    for name in sorted({row["file"] for row in expected}):
        for batch in read_flows([folder / name]):
            for row, facts in zip(flow_rows(batch), facts_of_flows(batch), strict=True):
                ends = (str(row[key]) for key in ("proto", "orig_h", "orig_p", "resp_h", "resp_p"))
                values = (facts.fields.get(key, "") for key in ("tls.handshake.extensions_server_name", "tls.handshake.ja4"))
                told[name, *ends].add(tuple(map(str, values)))  # type: ignore[arg-type]
    ends = ("file", "transport", "src", "src_port", "dst", "dst_port")
    wrong = [row for row in expected if (row["sni"], row["ja4"]) not in told[tuple(row[key] for key in ends)]]
    assert {row["file"] for row in wrong} <= _AGAINST_THE_RULE, wrong
