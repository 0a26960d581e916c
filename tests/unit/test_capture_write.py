"""What is written is what is read: pcap and pcapng, both resolutions, whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from capture_plans import random_plans

from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import write_capture
from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.types import FrameBatch

START = 1_700_000_000_123_456_789


@pytest.fixture(name="frames", scope="module")
def _frames() -> FrameBatch:
    return compile_flows(random_plans(40, seed=3), seed=1, start=START, spread=10**9)


def _read(path: Path) -> FrameBatch:
    (batch,) = read_frames([path])
    return batch


def _bytes(batch: FrameBatch) -> list[bytes]:
    return [batch.buffer[o : o + n].tobytes() for o, n in zip(batch.offset.tolist(), batch.caplen.tolist(), strict=True)]


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
@pytest.mark.parametrize("nanoseconds", [True, False])
def test_frames_come_back_as_they_went(tmp_path: Path, frames: FrameBatch, kind: str, nanoseconds: bool) -> None:
    path = tmp_path / f"out.{kind}"
    assert write_capture(path, [frames], format=kind, nanoseconds=nanoseconds) == len(frames) > 100  # type: ignore[arg-type]
    back = _read(path)
    unit = 1 if nanoseconds else 1000
    assert _bytes(back) == _bytes(frames)
    assert np.array_equal(back.ts, frames.ts // unit * unit)
    assert np.array_equal(back.origlen, frames.origlen)
    assert set(back.link.tolist()) == {1}


def test_pcapng_keeps_several_link_types_and_the_comment(tmp_path: Path, frames: FrameBatch) -> None:
    raw = replace(frames, link=np.full(len(frames), 101, dtype=np.uint16))
    path = tmp_path / "out.pcapng"
    write_capture(path, [frames, raw], format="pcapng", comment="synthetic: made by a model")
    links = np.concatenate([batch.link for batch in read_frames([path])])
    assert links.tolist() == [1] * len(frames) + [101] * len(frames)
    assert b"synthetic: made by a model" in path.read_bytes()


def test_pcap_refuses_two_link_types_and_leaves_the_old_file(tmp_path: Path, frames: FrameBatch) -> None:
    path = tmp_path / "out.pcap"
    path.write_bytes(b"old")
    raw = replace(frames, link=np.full(len(frames), 101, dtype=np.uint16))
    with pytest.raises(UsageError, match="one link type"):
        write_capture(path, [frames, raw])
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.pcap"]


def test_times_a_format_cannot_hold_are_refused(tmp_path: Path, frames: FrameBatch) -> None:
    with pytest.raises(InputError, match="time"):
        write_capture(tmp_path / "a.pcap", [replace(frames, ts=frames.ts + 10**19 // 2)])
    with pytest.raises(InputError, match="time"):
        write_capture(tmp_path / "b.pcapng", [replace(frames, ts=frames.ts * 0 - 5)], format="pcapng")


def test_an_empty_capture_is_a_capture(tmp_path: Path) -> None:
    for kind in ("pcap", "pcapng"):
        path = tmp_path / f"empty.{kind}"
        assert write_capture(path, [], format=kind) == 0  # type: ignore[arg-type]
        assert list(read_frames([path])) == []


def test_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="erf"):
        write_capture(tmp_path / "x", [], format="erf")  # type: ignore[arg-type]
