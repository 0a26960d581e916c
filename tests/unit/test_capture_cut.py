"""Cuts of a source are measured, and a whole capture cut alike measures the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.cut import RECORD_HEADER, Cut, cut_flows, cut_frames, measured
from trafficllm.capture.files.write import write_capture
from trafficllm.core.types import Action, FlowPlan

HEADERS = 14 + 20 + 8


@pytest.fixture(name="whole")
def _whole(tmp_path: Path) -> Path:
    """40 flows of 1 to 8 datagrams of 20 to 300 bytes."""
    plans = [
        FlowPlan(17, 4, 4000, tuple(Action("datagram", k % 2, 20 + 7 * n * (k % 3), gap=1000) for k in range(1 + n % 8))) for n in range(40)
    ]
    path = tmp_path / "whole.pcap"
    write_capture(path, [compile_flows(plans, seed=1, start=10**18, spread=10**9)])
    return path


@pytest.mark.parametrize("cut", [Cut(flow=400), Cut(flow=760), Cut(snap=96), Cut()])
def test_a_capture_cut_alike_measures_the_same(whole: Path, tmp_path: Path, cut: Cut) -> None:
    path = tmp_path / "cut.pcap"
    write_capture(path, cut_frames(whole, cut))
    assert measured([whole]) == Cut()
    assert measured([path]) == cut
    direct = [batch.p_payload.tolist() for batch in cut_flows(whole, cut)]
    assert direct == [batch.p_payload.tolist() for batch in cut_flows(path, Cut())]


def test_a_limit_on_a_flow_keeps_its_beginning(whole: Path) -> None:
    limit = 2 * (RECORD_HEADER + HEADERS) + 20 + 10
    flows = list(cut_flows(whole, Cut(flow=limit)))
    assert sum(map(len, flows)) == 40
    assert max((batch.pkt_ptr[1:] - batch.pkt_ptr[:-1]).max() for batch in flows) == 2
    payload = [int(batch.payload_ptr[i, 2] - batch.payload_ptr[i, 0]) for batch in flows for i in range(len(batch))]
    assert max(payload) == 30  # what 146 bytes leave after two packets' headers
