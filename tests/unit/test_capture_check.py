"""The check finds what is wrong, and nothing in what is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from capture_plans import random_plans

from trafficllm.capture.check.captures import CheckReport, check
from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.write import write_capture
from trafficllm.core.types import RESP, Action, FlowPlan, FrameBatch

TALK = (
    Action("open"),
    Action("open", RESP),
    Action("ack"),
    Action("send", size=100),
    Action("ack", RESP),
    Action("close"),
    Action("close", RESP),
    Action("ack"),
)
TCP = 14 + 20


@pytest.fixture(name="frames")
def _frames() -> FrameBatch:
    return compile_flows([FlowPlan(6, 4, 8989, TALK)], seed=1, start=0, spread=0)


def _checked(path: Path, frames: FrameBatch) -> CheckReport:
    write_capture(path / "x.pcap", [frames])
    return check([path / "x.pcap"])


def _changed(frames: FrameBatch, packet: int, at: int, value: int) -> FrameBatch:
    buffer = frames.buffer.copy()
    buffer[int(frames.offset[packet]) + at] = value
    return replace(frames, buffer=buffer)


def test_compiled_plans_are_valid_whatever_they_say(tmp_path: Path) -> None:
    frames = compile_flows(random_plans(300, seed=11, heads=True), seed=4, start=10**18, spread=10**11)
    report = _checked(tmp_path, frames)
    assert report == CheckReport(valid=True, packets=len(frames))
    assert report.packets > 1000


def test_a_flipped_byte_is_a_bad_checksum(tmp_path: Path, frames: FrameBatch) -> None:
    for at in (14 + 8, TCP + 20 + 50):
        report = _checked(tmp_path, _changed(frames, 3, at, 77))
        assert (report.valid, report.bad_checksums, report.bad_lengths) == (False, 1, 0)


def test_a_total_length_beyond_the_frame_is_a_bad_length(tmp_path: Path, frames: FrameBatch) -> None:
    report = _checked(tmp_path, _changed(frames, 3, 14 + 2, 4))
    assert (report.valid, report.bad_lengths, report.malformed) == (False, 1, {"ip.overlong": 1})


def test_a_header_shorter_than_itself_is_malformed(tmp_path: Path, frames: FrameBatch) -> None:
    report = _checked(tmp_path, _changed(frames, 3, TCP + 12, 0x40))
    assert report.malformed == {"tcp.header": 1}
    assert (report.valid, report.bad_lengths) == (False, 1)


def test_a_snap_length_is_no_malformation(tmp_path: Path, frames: FrameBatch) -> None:
    cut = replace(frames, caplen=np.minimum(frames.caplen, 40).astype(np.uint32))
    report = _checked(tmp_path, cut)
    assert (report.valid, report.malformed, report.unchecked) == (True, {}, len(frames))


@pytest.mark.parametrize(("packet", "flags", "what"), [(0, 0x03, "SYN together with FIN"), (3, 0x00, "neither SYN, RST nor ACK")])
def test_impossible_flags(tmp_path: Path, frames: FrameBatch, packet: int, flags: int, what: str) -> None:
    report = _checked(tmp_path, _changed(frames, packet, TCP + 13, flags))
    assert [what in violation for violation in report.tcp_violations] == [True]
    assert f"frame {packet + 1}:" in report.tcp_violations[0]


def test_numbers_far_off_and_data_after_fin(tmp_path: Path, frames: FrameBatch) -> None:
    far = _checked(tmp_path, _changed(frames, 4, TCP + 8, int(frames.buffer[int(frames.offset[4]) + TCP + 8]) ^ 0x60))
    assert "outside every window" in far.tcp_violations[0]
    order = np.array([0, 1, 2, 5, 3, 4, 6, 7])
    moved = replace(frames, offset=frames.offset[order], caplen=frames.caplen[order], origlen=frames.origlen[order])
    assert _checked(tmp_path, moved).tcp_violations == ()  # the FIN only overtook the data
    plan = FlowPlan(6, 4, 8989, (*TALK[:5], Action("send", size=9), Action("close"), Action("ack", RESP)))
    longer = compile_flows([plan], seed=1, start=0, spread=0)
    early = int(longer.offset[6]) + TCP
    buffer = longer.buffer.copy()
    fin_seq = int.from_bytes(buffer[early + 4 : early + 8].tobytes(), "big") - 9
    buffer[early + 4 : early + 8] = np.frombuffer(fin_seq.to_bytes(4, "big"), dtype=np.uint8)
    order = np.array([0, 1, 2, 3, 4, 6, 5, 7])
    bad = replace(longer, buffer=buffer, offset=longer.offset[order], caplen=longer.caplen[order], origlen=longer.origlen[order])
    assert any("data after its sender's FIN" in violation for violation in _checked(tmp_path, bad).tcp_violations)


def test_a_hole_is_counted_not_condemned(tmp_path: Path, frames: FrameBatch) -> None:
    keep = np.array([0, 1, 2, 4, 5, 6, 7])
    columns = {name: getattr(frames, name)[keep] for name in ("offset", "caplen", "origlen", "ts", "link")}
    holed = replace(frames, **columns)
    report = _checked(tmp_path, holed)
    assert (report.valid, report.tcp_unseen) == (True, 1)
