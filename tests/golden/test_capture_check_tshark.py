"""`capture check` against tshark's own verdicts: wrong checksums and malformed lower layers, frame by frame."""

from __future__ import annotations

import struct
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from check_oracle import ours, theirs
from tshark_oracle import TSHARK, capture_files, sampled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from capture_samples import A, B, ethernet, ipv4, ipv6, pcap, tcp, udp, write

from trafficllm.capture.check.captures import check
from trafficllm.capture.checksum import internet, transport

pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
LISTED = tomllib.loads(Path(__file__).with_name("check_differences.toml").read_text())["difference"]
SHARE, LARGEST = 0.03, 20_000
"""About forty files of at most this many bytes; `make soak` takes all of them."""


def _right_ip(packet: bytes) -> bytes:
    head = bytearray(packet)
    size = (head[0] & 15) * 4
    head[10:12] = internet(bytes(head[:size])).to_bytes(2, "big")
    return bytes(head)


def _summed(proto: int, segment: bytes, at: int) -> bytes:
    data = bytearray(segment)
    value = internet(segment) if proto == 1 else transport(4, A, B, proto, segment)
    data[at : at + 2] = value.to_bytes(2, "big")
    return bytes(data)


def _flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :]


TCP = ethernet(_right_ip(ipv4(6, _summed(6, tcp(40000, 9999, 1, 2, 0x18, b"data"), 16))))
UDP = ethernet(_right_ip(ipv4(17, _summed(17, udp(40000, 9999, b"data!"), 6))))
ICMP = ethernet(_right_ip(ipv4(1, _summed(1, bytes((8, 0)) + bytes(6) + b"ping", 2))))
FRAMES = [
    (frame, wrong)
    for whole in (TCP, UDP, ICMP)
    for frame, wrong in ((whole, False), (_flipped(whole, 22), True), (_flipped(whole, len(whole) - 1), True))
] + [
    (ethernet(_right_ip(ipv4(17, udp(40000, 9999, b"no sum")))), False),
    (ethernet(_right_ip(ipv4(6, tcp(40000, 9999, 1, 2, 0x18, b"zero is wrong")))), True),
    (ethernet(ipv6(17, struct.pack("!HHHH", 40000, 9999, 12, 0x1234) + b"data"), 0x86DD), True),
]
"""(frame, whether a checksum in it is wrong)."""


def test_crafted_checksums(tmp_path: Path) -> None:
    path = write(tmp_path, pcap([(float(i), frame) for i, (frame, _) in enumerate(FRAMES)]))
    wrong = frozenset(i for i, (_, bad) in enumerate(FRAMES, 1) if bad)
    assert theirs(path)[1] == ours(path)[1] == wrong
    assert check([path]).bad_checksums == len(wrong)


def _different(data_dir: Path, share: float) -> tuple[int, dict[str, tuple[list[int], list[int]]]]:
    """Packets compared; of each file judged differently, the frames with a wrong checksum and the malformed ones on one side only."""
    small = [path for path in capture_files(data_dir) if 100 < path.stat().st_size <= LARGEST]
    files = sampled(small, data_dir, share)
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(zip(files, pool.map(theirs, files), pool.map(ours, files), strict=True))
    frames = {path.relative_to(data_dir).as_posix(): (sorted(one[1] ^ two[1]), sorted(one[2] ^ two[2])) for path, one, two in verdicts}
    return sum(one[0] for _, one, _ in verdicts), {name: sides for name, sides in frames.items() if any(sides)}


def test_files_of_the_larger_data(data_dir: Path) -> None:
    packets, different = _different(data_dir, SHARE)
    explained = {row["file"] for row in LISTED}
    assert packets > 300
    assert {name: sides for name, sides in different.items() if name not in explained} == {}


@pytest.mark.soak
def test_every_small_file_of_the_larger_data(data_dir: Path) -> None:
    packets, different = _different(data_dir, 1.0)
    assert packets > 10_000
    assert sorted(set(different) - {row["file"] for row in LISTED}) == []
    assert len({row["file"] for row in LISTED}) == len(LISTED)
    assert all(row["why"].strip() for row in LISTED)
