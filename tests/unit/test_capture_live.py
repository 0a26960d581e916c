"""Captures that are still being written: what has come is handed out before more comes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from capture_samples import A, B, enhanced, ethernet, interface, ipv4, pcap, section, tcp

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.types import FlowBatch

SYN, ACK, RST = 2, 16, 4


def _talk(port: int, at: float) -> list[tuple[float, bytes]]:
    """A refused connection: finished with its second packet."""
    there = ethernet(ipv4(6, tcp(port, 80, 1, 0, SYN)))
    back = ethernet(ipv4(6, tcp(80, port, 0, 2, RST | ACK), src=B, dst=A))
    return [(at, there), (at + 0.01, back)]


FRAMES = [frame for k in range(20) for frame in _talk(1000 + k, 10.0 + 20 * k)]


def _pcapng(frames: list[tuple[float, bytes]]) -> bytes:
    return section() + interface() + b"".join(enhanced(round(ts * 1e6), frame) for ts, frame in frames)


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
@pytest.mark.parametrize("cut", [0, 7])
def test_flows_of_a_pipe_come_before_its_end(tmp_path: Path, form: str, cut: int) -> None:
    """The writer holds the rest back, in the middle of a record too, until flows have come of what it wrote."""
    whole = pcap(FRAMES) if form == "pcap" else _pcapng(FRAMES)
    half = len(pcap(FRAMES[:30]) if form == "pcap" else _pcapng(FRAMES[:30])) + cut
    (tmp_path / "file").write_bytes(whole)
    os.mkfifo(tmp_path / "pipe")
    seen, waited = threading.Event(), []

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as stream:
            stream.write(whole[:half])
            waited.append(seen.wait(20))
            stream.write(whole[half:])

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    live: list[FlowBatch] = []
    for batch in read_flows([tmp_path / "pipe"]):
        live.append(batch)
        seen.set()
    writer.join()
    assert waited == [True]
    assert len(live) > 1
    (at_once,) = read_flows([tmp_path / "file"])
    assert sum(map(len, live)) == len(at_once) == 20
    for name in ("ts", "orig_p", "pkts", "conn_state", "p_frame"):
        assert np.array_equal(np.concatenate([getattr(batch, name) for batch in live]), getattr(at_once, name))
