"""Whatever frames are written, the same frames are read: both containers, both resolutions, both byte orders, every link type."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from capture_samples import block, section

from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import write_capture
from trafficllm.core.types import FrameBatch

SECOND = 10**9
Frame = tuple[int, bytes, int, int]
"""ns, captured bytes, length on the wire, link type."""
FRAMES = st.lists(
    st.tuples(
        st.integers(0, 2**32 * SECOND - 1),
        st.binary(max_size=70),
        st.one_of(st.just(0), st.integers(0, 2**31)),
        st.one_of(st.sampled_from((0, 1, 12, 101, 108, 113, 127, 228, 276)), st.integers(0, 65535)),
    ),
    max_size=12,
)
FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _batch(frames: list[Frame]) -> FrameBatch:
    data = [frame for _, frame, _, _ in frames]
    sizes = np.array([len(frame) for frame in data], dtype=np.uint32)
    return FrameBatch(
        buffer=np.frombuffer(b"".join(data), dtype=np.uint8),
        offset=np.cumsum(sizes, dtype=np.int64) - sizes,
        caplen=sizes,
        origlen=np.array([max(more, len(frame)) for _, frame, more, _ in frames], dtype=np.uint32),
        ts=np.array([ts for ts, _, _, _ in frames], dtype=np.int64),
        link=np.array([link for _, _, _, link in frames], dtype=np.uint16),
        source=np.zeros(len(frames), dtype=np.uint32),
        number=np.arange(1, len(frames) + 1, dtype=np.int64),
        files=("made",),
    )


def _read(path: Path, *, chunk: int = 1 << 20) -> list[Frame]:
    found: list[Frame] = []
    for batch in read_frames([path], chunk_bytes=chunk):
        for at, size, ts, more, link in zip(batch.offset, batch.caplen, batch.ts, batch.origlen, batch.link, strict=True):
            found.append((int(ts), batch.buffer[int(at) : int(at) + int(size)].tobytes(), int(more), int(link)))
    return found


def _expected(frames: list[Frame], unit: int) -> list[Frame]:
    return [(ts // unit * unit, data, max(more, len(data)), link) for ts, data, more, link in frames]


@FAST
@given(frames=FRAMES, nanoseconds=st.booleans())
def test_pcapng_holds_every_link_type_at_once(frames: list[Frame], nanoseconds: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.pcapng"
        assert write_capture(path, [_batch(frames)], format="pcapng", nanoseconds=nanoseconds) == len(frames)
        assert _read(path) == _expected(frames, 1 if nanoseconds else 1000)


@FAST
@given(frames=FRAMES, link=st.integers(0, 65535), nanoseconds=st.booleans(), chunk=st.sampled_from((64, 1 << 20)))
def test_pcap_holds_one(frames: list[Frame], link: int, nanoseconds: bool, chunk: int) -> None:
    same = [(ts, data, more, link) for ts, data, more, _ in frames]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.pcap"
        assert write_capture(path, [_batch(same)], nanoseconds=nanoseconds) == len(frames)
        assert _read(path, chunk=chunk) == _expected(same, 1 if nanoseconds else 1000)


def _swapped_pcap(frames: list[Frame], nano: bool, link: int) -> bytes:
    out = struct.pack(">IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)
    for ts, data, more, _ in frames:
        out += struct.pack(">IIII", ts // SECOND, ts % SECOND // (1 if nano else 1000), len(data), max(more, len(data))) + data
    return out


def _swapped_pcapng(frames: list[Frame], resolution: int) -> bytes:
    links = sorted({link for _, _, _, link in frames})
    out = section(">")
    for link in links:
        out += block(1, struct.pack(">HHI", link, 0, 0) + struct.pack(">HHB3xHH", 9, 1, resolution, 0, 0), ">")
    for ts, data, more, link in frames:
        units = ts // 10 ** (9 - resolution)
        head = struct.pack(">IIIII", links.index(link), units >> 32, units & 0xFFFFFFFF, len(data), max(more, len(data)))
        out += block(6, head + data, ">")
    return out


@FAST
@given(frames=FRAMES, nano=st.booleans(), resolution=st.integers(0, 9))
def test_the_other_byte_order_reads_the_same(frames: list[Frame], nano: bool, resolution: int) -> None:
    same = [(ts, data, more, 1) for ts, data, more, _ in frames]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(_swapped_pcap(same, nano, 1))
        assert _read(path) == _expected(same, 1 if nano else 1000)
        path.write_bytes(_swapped_pcapng(frames, resolution))
        assert _read(path) == _expected(frames, 10 ** (9 - resolution))
