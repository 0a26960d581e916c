"""Captures that are still being written: what has come is handed out before more comes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from capture_samples import A, B, enhanced, ethernet, interface, ipv4, pcap, section, tcp, udp

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.live.stream import LiveFlows, Tally
from trafficllm.core.errors import InputError
from trafficllm.core.settings import FlowOptions
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


def _stream() -> tuple[LiveFlows, IO[bytes]]:
    """Flows of a pipe that the test writes, and the pipe's other end."""
    there, here = os.pipe()
    return LiveFlows(os.fdopen(there, "rb"), "lo", FlowOptions(), backlog=100), os.fdopen(here, "wb", buffering=0)


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(24_000):  # the kernels may have to be compiled first
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError("not within two minutes")


def test_a_live_capture_gives_the_flows_of_its_file(tmp_path: Path) -> None:
    now = time.time()
    frames = [(now - 500 + ts, frame) for ts, frame in FRAMES]
    (tmp_path / "file").write_bytes(pcap(frames))
    flows, writer = _stream()
    with writer:
        writer.write(pcap(frames))
    live = list(flows.batches())
    (at_once,) = read_flows([tmp_path / "file"])
    assert flows.tally == Tally(given=20)
    assert {name for batch in live for name in batch.files} == {"lo"}
    for name in ("ts", "orig_p", "pkts", "conn_state", "p_frame", "p_ts"):
        assert np.array_equal(np.concatenate([getattr(batch, name) for batch in live]), getattr(at_once, name))


def test_a_silent_flow_times_out_by_the_clock() -> None:
    """No packet comes after it, and the pipe stays open."""
    flows, writer = _stream()
    asked = ethernet(ipv4(17, udp(5353, 53, b"abc")))
    writer.write(pcap([(time.time() - 70, asked)]))
    batch = next(flows.batches())
    assert (batch.end_reason.tolist(), batch.orig_p.tolist()) == (["idle"], [5353])
    writer.write(pcap([(time.time(), asked)])[24:])
    writer.close()
    assert [batch.end_reason.tolist() for batch in flows.batches()] == [["eof"]]


def test_flows_that_wait_too_many_are_counted_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes them: after the first part more than 100 wait, the second goes, what is there at the end stays."""
    monkeypatch.setattr("trafficllm.capture.live.stream.LATE", 1e6)  # the packets' clock alone counts
    flows, writer = _stream()
    going_on = ethernet(ipv4(17, udp(5353, 53, b"abc")))

    def part(first: int, count: int, at: float) -> bytes:
        """Refused connections, then packets of another flow that show that five seconds have gone by (Zeek's tcp_close_delay)."""
        talks = [frame for k in range(count) for frame in _talk(first + k, at)]
        return pcap([*talks, *[(at + 20, going_on)] * 200])[24:]

    writer.write(pcap([]))
    for n in (1, 2):
        writer.write(part(1000 * n, 256, 30.0 * n))
        _until(lambda n=n: flows.tally.waiting + flows.tally.left_out == 256 * n)  # type: ignore[misc]
    assert (flows.tally.waiting, flows.tally.left_out) == (256, 256)
    writer.write(part(3000, 10, 90.0))
    writer.close()
    ports = [port for batch in flows.batches() for port in batch.orig_p.tolist()]
    assert sorted(ports) == [*range(1000, 1256), *range(3000, 3010), 5353]
    assert flows.tally == Tally(given=267, left_out=256)


def test_what_cannot_be_read_is_raised_where_flows_are_taken() -> None:
    flows, writer = _stream()
    with writer:
        writer.write(b"no capture at all, whatever program wrote it")
    with pytest.raises(InputError, match="neither pcap nor pcapng"):
        list(flows.batches())
