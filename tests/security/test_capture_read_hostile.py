from __future__ import annotations

import struct
import time
from pathlib import Path

from trafficllm.capture.facts.flow_facts import facts_of
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.rows import flow_rows
from trafficllm.core.errors import TrafficLLMError

ERRORS_EXPECTED = 40


def _read(path: Path) -> str:
    counts, packets = CountsBuilder(), 0
    try:
        for batch in read_flows([path], counts=counts):
            for row in flow_rows(batch):
                assert row["orig_pkts"] + row["resp_pkts"] > 0
                packets += row["orig_pkts"] + row["resp_pkts"]
            for i in range(len(batch)):
                low, middle, high = batch.payload_ptr[i].tolist()
                sides = batch.payload[low:middle].tobytes(), batch.payload[middle:high].tobytes()
                facts_of(int(batch.proto[i]), int(batch.orig_p[i]), int(batch.resp_p[i]), *sides)
    except TrafficLLMError as error:
        return f"{error.code} {error.hint}"
    result = counts.build()
    assert packets + result.non_flow == result.packets, "every packet is in a flow or counted as one without"
    return ""


def test_every_hostile_file_ends_in_records_or_one_error(data_dir: Path) -> None:
    files = [path for path in sorted((data_dir / "hostile").rglob("*")) if path.is_file()]
    codes = [_read(path) for path in files]
    assert len(files) >= 900
    assert all(code.startswith("input.") and len(code.split()) > 1 for code in codes if code)
    assert sum(bool(code) for code in codes) <= ERRORS_EXPECTED


def _pcap(frames: list[bytes], link: int) -> bytes:
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)
    return out + b"".join(struct.pack("<IIII", i // 1000, i % 1000, len(frame), len(frame)) + frame for i, frame in enumerate(frames))


def _seconds(tmp_path: Path, frames: list[bytes], link: int = 228) -> float:
    path = tmp_path / "x.pcap"
    path.write_bytes(_pcap(frames, link))
    _read(path)  # compiled by now
    began = time.process_time()
    _read(path)
    return time.process_time() - began


def _ip(proto: int, body: bytes, *, ident: int = 0, frag: int = 0) -> bytes:
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), ident, frag, 64, proto, 0, b"\xc0\x00\x02\x01", b"\xc6\x33\x64\x07") + body


def test_crafted_fragments_and_segments_cost_linear_time(tmp_path: Path) -> None:
    def pieces(n: int) -> list[bytes]:  # many datagrams that never end, one of them in overlapping pieces
        return [_ip(17, bytes(8), ident=i % 5000, frag=0x2000 | (i * 7 % 4096)) for i in range(n)]

    def segments(n: int) -> list[bytes]:  # holes everywhere, from the far end to the near
        return [_ip(6, struct.pack("!HHIIBBHHH", 1, 2, (n - i) * 3, 0, 0x50, 16, 1, 0, 0) + b"ab") for i in range(n)]

    for crafted in (pieces, segments):
        small, large = _seconds(tmp_path, crafted(4000)), _seconds(tmp_path, crafted(16000))
        assert large < 12 * max(small, 0.01)
