"""Containers beside plain pcap and pcapng: longer record headers, lcap, skippable frames, large windows, and what is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa
import pytest

from trafficllm.capture.files.read import read_frames
from trafficllm.capture.flows.counts import notices
from trafficllm.capture.flows.info import capture_info
from trafficllm.core.errors import InputError
from trafficllm.core.types import CaptureCounts

FRAME = (
    bytes.fromhex("ffffffffffff0000000000010800")
    + bytes.fromhex("4500001c000100004011b6c9c0000201c6336402")
    + struct.pack(">HHHH", 40000, 9999, 8, 0)
)
START = 1_700_000_000


def pcap(order: str = "<", *, magic: int = 0xA1B2C3D4, more: bytes = b"", behind: bytes = b"", link: int = 1, count: int = 3) -> bytes:
    """`count` frames; `more` bytes behind each record header, `behind` the file header."""
    head = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, link) + behind
    return head + b"".join(struct.pack(order + "IIII", START + k, 500_000 + k, len(FRAME), len(FRAME)) + more + FRAME for k in range(count))


def check_frames(path: Path, count: int = 3) -> None:
    batch = next(iter(read_frames([path])))
    assert [int(value) for value in batch.caplen] == [len(FRAME)] * count
    assert [int(value) for value in batch.ts] == [(START + k) * 10**9 + (500_000 + k) * 1000 for k in range(count)]
    assert all(batch.buffer[at : at + len(FRAME)].tobytes() == FRAME for at in batch.offset)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "more"),
    [(0xA1B2C3D4, 0), (0xA1B2C3D4, 4), (0xA1B2C3D4, 8), (0xA1B2CD34, 8), (0xA1B2CD34, 12)],
    ids=["plain", "nokia", "redhat", "modified", "suse"],
)
@pytest.mark.parametrize("count", [1, 3, 20])
def test_longer_record_headers(tmp_path: Path, order: str, magic: int, more: int, count: int) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(order, magic=magic, more=b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"[:more], count=count))
    check_frames(path, count)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0x1C0001AC, 0x1C0001AB], ids=["hardware", "software"])
def test_lcap_of_ixia(tmp_path: Path, order: str, magic: int) -> None:
    path = tmp_path / "x.lcap"
    path.write_bytes(pcap(order, magic=magic, behind=struct.pack(order + "I", 3 * (16 + len(FRAME)))))
    check_frames(path)


def test_a_cut_plain_file_is_not_taken_for_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap()[:-5])
    counts = capture_info([path])
    assert (counts.packets, dict(counts.malformed)) == (2, {"file.cut": 1})


def _skippable(size: int, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, size) + bytes(size)


@pytest.mark.parametrize("sizes", [(4,), (0, 9), (60_000,)])
def test_skippable_frames_before_the_content(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """RFC 8878 3.1.2; pzstd writes one of four bytes before each frame."""
    front = b"".join(_skippable(size, kind) for kind, size in enumerate(sizes))
    compressed = bytes(pa.Codec("zstd").compress(pcap(), asbytes=True))
    path = tmp_path / "x.pcap.zst"
    path.write_bytes(front + compressed)
    check_frames(path)


def _zstd_header(window_log: int) -> bytes:
    """A frame that declares a window of 2 ** `window_log` bytes, then one raw, last block."""
    return struct.pack("<IBB", 0xFD2FB528, 0, (window_log - 10) << 3) + b"\xa1\x00\x00" + b"A" * 20


def test_a_window_beyond_the_bound_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x y.zst"
    path.write_bytes(_zstd_header(30))
    with pytest.raises(InputError, match=r"window of 1,024 MiB; up to 128 MiB is read") as caught:
        list(read_frames([path]))
    assert "zstd -dc --long=30" in caught.value.hint
    assert f"'{path}'" in caught.value.hint  # quoted for the shell
    path.write_bytes(_zstd_header(27))
    with pytest.raises(InputError, match="not a capture"):
        list(read_frames([path]))


@pytest.mark.parametrize(
    ("head", "words", "remedy"),
    [
        (b"\xfd7zXZ\x00", "compressed with xz", "xz -dc"),
        (b"BZh91AY&SY", "compressed with bzip2", "bzip2 -dc"),
        (b"PK\x03\x04\x14\x00", "compressed with zip", "unzip -p"),
        (b"7z\xbc\xaf\x27\x1c", "compressed with 7z", "7z x -so"),
        (b"\x02\x21\x4c\x18", "lz4 of the legacy format", "lz4 -dc"),
        (b"snoop\x00\x00\x00\x00\x00\x00\x02", "snoop (RFC 1761)", "editcap -F pcapng"),
        (b"GMBU\x00\x02\x01\x00", "Network Monitor 2", "editcap -F pcapng"),
        (b"\x00" * 257 + b"ustar", "a tar archive", "tar -xf"),
        (b"hello world", "neither pcap nor pcapng", "editcap -F pcapng"),
    ],
)
def test_other_containers_are_named_with_what_helps(tmp_path: Path, head: bytes, words: str, remedy: str) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(head + bytes(600))
    with pytest.raises(InputError) as caught:
        list(read_frames([path]))
    assert words in str(caught.value)
    assert remedy in caught.value.hint
    assert caught.value.input == str(path)


def test_unread_link_types_are_counted_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(pcap(link=253))
    (tmp_path / "b.pcap").write_bytes(pcap(link=1, count=1))
    counts = capture_info([tmp_path / "a.pcap", tmp_path / "b.pcap"])
    assert counts.not_read == {"NETLINK": 3}
    assert counts.link_types == {"ETHERNET": 1, "NETLINK": 3}
    assert notices(counts)[0].startswith("NETLINK, not read: 3 of 4 packets; convert with")


@pytest.mark.parametrize(("others", "said"), [(98, True), (200, False)])
def test_a_reason_is_said_above_one_percent(tmp_path: Path, others: int, said: bool) -> None:
    arp = FRAME[:12] + b"\x08\x06" + bytes(28)
    data = pcap(count=others) + struct.pack("<IIII", START, 0, len(arp), len(arp)) + arp
    (tmp_path / "x.pcap").write_bytes(data + data[-16 - len(arp) :])
    counts = capture_info([tmp_path / "x.pcap"])
    assert counts.non_flow == 2
    assert counts.not_read == ({"ARP": 2} if said else {})
    assert notices(counts) == ([f"ARP, without a flow: 2 of {others + 2} packets"] if said else [])


def test_nothing_is_said_of_a_capture_that_is_read() -> None:
    assert notices(CaptureCounts(packets=3, link_types={"ETHERNET": 3})) == []
