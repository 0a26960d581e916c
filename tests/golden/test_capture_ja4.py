"""Hellos with default settings: published JA4 strings and names of 201 streams (FoxIO-LLC/ja4, BSD-3-Clause), tshark's QUIC names."""

from __future__ import annotations

import csv
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from tshark_oracle import TSHARK

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


_QUIC = (
    "CD_service_after_2015/Streaming/2021_quic_frags_ch_out_of_order_same_packet_craziness.pcap",
    "CD_service_after_2015/Streaming/2016_quic.pcap",
    "EAC_ndpi_app/Facebook/quic-mvfst-22.pcap",
    "EAC_ndpi_app/Facebook/quic-mvfst-27.pcap",
    "EAC_ndpi_app/Google/gquic.pcap",
    "EAC_ndpi_app/Google/quic_t51.pcap",
    "EAC_ndpi_app/QUIC/corelight_gquic-q039.pcap",
    "EAC_ndpi_app/QUIC/quic_interop_V.pcap",
    "EAC_ndpi_app/QUIC/stanford-esrg_quic_retry.pcap",
    "EAC_ndpi_app/YouTube/quic046.pcap",
    "MDD_doh/Benign_DoH/doq.pcap",
)
_COLUMNS = "ip.src ipv6.src udp.srcport udp.dstport tls.handshake.extensions_server_name gquic.tag.sni".split()  # noqa: SIM905


@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
def test_quic_server_names_are_tshark_s(data_dir: Path) -> None:
    seen = 0
    for name in _QUIC:
        told: set[tuple[str, ...]] = set()
        for batch in read_flows([data_dir / name]):
            for row, facts in zip(flow_rows(batch), facts_of_flows(batch), strict=True):
                server = str(facts.fields.get("tls.handshake.extensions_server_name", ""))
                told.add((str(row["orig_h"]), str(row["orig_p"]), str(row["resp_p"]), server))
        filters = ["-Y", "(quic and tls.handshake.type==1) or gquic.tag.sni", "-T", "fields", "-E", "occurrence=f"]
        asked = [str(TSHARK), "-n", "-r", str(data_dir / name), *filters, *(part for column in _COLUMNS for part in ("-e", column))]
        for line in subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines():
            four, six, source, target, server, old = (line.split("\t") + [""] * 6)[:6]
            if server or old:
                assert (four or six, source, target, server or old) in told, (name, line)
                seen += 1
    assert seen > 90
