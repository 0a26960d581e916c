"""pcapng files made to be slow: blocks beyond the read window, interfaces by the ten thousand."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from capture_samples import block, enhanced, ethernet, interface, ipv4, pcap, section, udp, write

from trafficllm.capture.files.read import CHUNK, read_frames
from trafficllm.capture.flows.counts import CountsBuilder

FRAME = ethernet(ipv4(17, udp(1000, 53, b"a")))


def _stamps(path: Path | str, **options: int) -> list[int]:
    return [int(ts) for batch in read_frames([path], **options) for ts in batch.ts]


def test_a_block_longer_than_the_window_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and name blocks may be large: once the mapped window never grew beyond 8 MiB and the reader stood still."""
    data = section() + interface() + enhanced(1, FRAME) + block(0x0BAD, bytes(CHUNK + (1 << 20))) + enhanced(2, FRAME)
    assert _stamps(write(tmp_path, data, "x.pcapng")) == [1000, 2000]

    class Pipe:
        buffer = io.BytesIO(data)

    monkeypatch.setattr(sys, "stdin", Pipe())
    assert _stamps("-", chunk_bytes=4096) == [1000, 2000]


def test_a_packet_block_with_large_options_is_read(tmp_path: Path) -> None:
    body = enhanced(7, FRAME)[8:-4] + bytes(CHUNK)
    assert _stamps(write(tmp_path, section() + interface() + block(6, body) + enhanced(8, FRAME), "x.pcapng")) == [7000, 8000]


def test_many_interfaces_and_sections_cost_linear_time(tmp_path: Path) -> None:
    """A row for each used to be a copy of all rows: 16,000 interfaces took 15 s, these 64,000 a few."""
    assert _stamps(write(tmp_path, section() + interface() + enhanced(1, FRAME), "warm.pcapng")) == [1000]
    for name, data in (("faces", section() + interface() * 64_000), ("sections", (section() + interface()) * 20_000)):
        began = time.process_time()
        assert _stamps(write(tmp_path, data + enhanced(3, FRAME), f"{name}.pcapng")) == [3000]
        assert time.process_time() - began < 10


def test_more_interfaces_than_a_file_may_have_is_damage(tmp_path: Path) -> None:
    counts = CountsBuilder()
    path = write(tmp_path, section() + interface() * 65_537 + enhanced(3, FRAME), "x.pcapng")
    assert sum(len(batch) for batch in read_frames([path], counts=counts)) == 0
    assert counts.build().malformed == {"file.damaged": 1}


@pytest.mark.parametrize("size", [8, 13, 0xFFFFFFFC])
def test_impossible_block_sizes_end_the_file(tmp_path: Path, size: int) -> None:
    counts = CountsBuilder()
    wrong = bytearray(block(0x0BAD, bytes(20)))
    wrong[4:8] = size.to_bytes(4, "little")
    path = write(tmp_path, section() + interface() + enhanced(1, FRAME) + bytes(wrong), "x.pcapng")
    assert sum(len(batch) for batch in read_frames([path], counts=counts)) == 1
    assert counts.build().malformed == {"file.damaged": 1}


def test_a_record_longer_than_the_window_is_read(tmp_path: Path) -> None:
    frames = [(1.0, bytes(200_000)), (2.0, FRAME)]
    assert _stamps(write(tmp_path, pcap(frames)), chunk_bytes=4096) == [1_000_000_000, 2_000_000_000]
