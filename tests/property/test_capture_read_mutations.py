"""Mutated frames and files: nothing but records and clear errors may come out."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.flows.assembly import assemble, read_flows
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.packets import TUNNELS
from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch, FrameBatch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from capture_samples import ethernet, ipv4, tcp, udp
from hello_samples import crypto, dtls, hello, initial, records

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "captures"
LINKS = np.array([*range(300), 65535], dtype=np.uint16)


def seeds() -> list[tuple[bytes, int]]:
    found = []
    for path in sorted(GOLDEN.rglob("*.pcap")):
        for batch in read_frames([path]):
            for i in range(min(len(batch), 20)):
                start = int(batch.offset[i])
                found.append((batch.buffer[start : start + int(batch.caplen[i])].tobytes(), int(batch.link[i])))
    found += hello_frames() * 15
    assert len(found) > 800
    plain = [frame for frame, link in found if link == 1]
    found += [(tunnelled(frame, number), 1) for number, frame in enumerate(plain)]
    return found + [linked(frame, number) for number, frame in enumerate(plain)]


def aggregate(ip: bytes) -> bytes:
    """An 802.11 frame with two packets."""
    one = bytes(12) + struct.pack("!H", (8 + len(ip)) & 0xFFFF) + b"\xaa\xaa\3\0\0\0\x08\0" + ip
    return b"\x88\1" + bytes(22) + b"\x80\0" + one + bytes(-len(one) % 4) + one


def linked(frame: bytes, number: int) -> tuple[bytes, int]:
    """The same on other link types, by turns."""
    ip = frame[14:]
    ways = (
        (258, struct.pack("<III", 108, 1, 1) + bytes(96) + frame),
        (239, b"\2\0\0\0\x08\0\1\0\x08\0\0\0" + struct.pack("<HH", (4 + len(ip)) & 0xFFFF, 9) + ip),
        (117, b"\x3d\2" + bytes(62) + ip),
        (109, b"\2\0\0\0" + bytes(8) + ip),
        (204, b"\0\xff\3\0\x21" + ip),
        (192, b"\0\0\x08\0\1\0\0\0" + frame),
        (178, b"MGC\x81\0\6\1\2\1\2\1\2" + frame),
        (180, b"MGC\1\x18\x41\3\xcc" + ip),
        (197, bytes(8) + b"\x82" + bytes(7) + bytes(8) + bytes(2) + frame),
        (105, aggregate(ip)),
        (127, b"\0\0\x09\0\2\0\0\0\x20" + b"\x88\1" + bytes(24) + bytes(2) + b"\xaa\xaa\3\0\0\0\x08\0" + ip),
        (105, b"\x88\3" + bytes(28) + b"\0\1" + bytes(6) + b"\xaa\xaa\3\0\0\0\x08\0" + ip),
        (1, frame[:12] + b"\x89\x09\1\1\0\1\0\x64\x08\0" + ip),
        (1, frame[:12] + b"\x88\xe5\x20" + bytes(13) + b"\x08\0" + ip),
        (1, frame[:12] + b"\x89\x03\0\0" + frame),
        (6, bytes(14) + b"\xaa\xaa\3\0\0\0\x08\0" + ip),
    )
    link, body = ways[number % len(ways)]
    return body, link


def hello_frames() -> list[tuple[bytes, int]]:
    """Clients' hellos that go on beyond the prefix: TLS in two segments, QUIC in two datagrams, DTLS in fragments, HTTP/2."""
    message = hello()
    stream = records(message)
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x01\x01\x05\x00\x00\x00\x01\x82"
    parts = [(6, tcp(40000, 443, 1000 + at, 1, 16, stream[at : at + 1000])) for at in (0, 1000)]
    parts += [(6, tcp(40001, 8080, 1000, 1, 16, http2)), (6, tcp(40002, 25, 1000, 1, 16, b"STARTTLS\r\n" + stream))]
    parts += [(17, udp(50000, 443, initial(crypto(message, at, at + 900), packet=at & 1))) for at in (0, 900)]
    parts += [(17, udp(50001, 443, part)) for part in dtls(hello(share=300, cookie=b"c"), piece=200)]
    return [(ethernet(ipv4(proto, body)), 1) for proto, body in parts]


def tunnelled(frame: bytes, number: int) -> bytes:
    """An Ethernet frame, or the IP packet in it, in a tunnel of each kind by turns, every seventh in two."""
    ip = frame[14:]
    ways = (
        (4, ip),
        (41, ip),
        (47, b"\0\0\x65\x58" + frame),
        (47, b"\x30\0" + frame[12:14] + bytes(8) + ip),
        (47, b"\x10\0\x88\xbe" + bytes(12) + frame),
        (47, b"\x30\x81\x88\x0b" + bytes(12) + b"\x21" + ip),
        (17, (4789, b"\x08" + bytes(7) + frame)),
        (17, (6081, b"\1\0\x65\x58" + bytes(8) + frame)),
        (17, (2152, b"\x34\xff" + bytes(9) + b"\x85\1\0\0\0" + ip)),
        (17, (3544, b"\0\0" + bytes(6) + ip)),
        (17, (4790, b"\x0c\0\0\1" + bytes(4) + ip)),
        (17, (8472, b"\x08" + bytes(7) + frame)),
        (17, (1701, b"\x02\x02" + bytes(6) + b"\xff\x03\0\x21" + ip)),
        (17, (4341, bytes(8) + ip)),
        (17, (5247, b"\0\x10\0\0" + bytes(4) + frame)),
        (17, (5247, b"\0\x10\2\0\3\0\0\0" if number % 2 else b"\0\x10\3\0" + bytes(4) + aggregate(ip))),
        (17, (37008, b"\1\0\0\1\x0d\1\5\1" + frame)),
        (17, (6635, bytes.fromhex("00010140") + ip)),
        (17, (5072, b"\x44\x52\x21\x29" + bytes(4 + 16 + 20) + ip)),
        (97, b"\x30\0" + frame),
        (137, bytes.fromhex("00010140") + ip),
        (51, b"\4\4\0\0" + bytes(20) + ip),
        (47, b"\x20\1\x64\0" + struct.pack("!HH", len(frame) & 0xFFFF, 7) + frame),
        (47, b"\0\0\x82\x10" + aggregate(ip)),
        (47, b"\0\0\x88\x3e" + bytes(4) + ip),
        (47, b"\0\0\x89\x4f\0\2\1\1" + bytes(4) + ip),
    )
    proto, body = ways[number % len(ways)]
    if isinstance(body, tuple):
        body = struct.pack("!HHHH", 9, body[0], 8 + len(body[1]), 0) + body[1]
    size = min(20 + len(body), 65535)
    outer = bytes(12) + b"\x08\0" + struct.pack("!BBHHHBBHII", 0x45, 0, size, 0, 0, 64, proto, 0, 1, 2) + body
    return tunnelled(outer, number // 7) if number % 7 == 1 else outer


def mutate(frame: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(frame)
    for _ in range(int(rng.integers(0, 6))):
        if not data:
            break
        at = int(rng.integers(0, min(len(data), 120)))
        kind = int(rng.integers(0, 5))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            data[at : at + 8] = data[:8]
    return bytes(data)


def batches(count: int, seed: int, size: int = 5000) -> Iterator[FrameBatch]:
    rng, originals = np.random.default_rng(seed), seeds()
    for first in range(0, count, size):
        picks = rng.integers(0, len(originals), size)
        frames = [mutate(originals[pick][0], rng) for pick in picks]
        lengths = np.array([len(frame) for frame in frames], dtype=np.uint32)
        links = np.array([originals[pick][1] for pick in picks], dtype=np.uint16)
        strange = rng.random(size) < 0.1
        links[strange] = rng.choice(LINKS, int(strange.sum()))
        yield FrameBatch(
            buffer=np.frombuffer(b"".join(frames), dtype=np.uint8),
            offset=np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]),
            caplen=lengths,
            origlen=np.where(rng.random(size) < 0.1, rng.integers(0, 2**32, size, dtype=np.uint32), lengths),
            ts=rng.integers(0, 2**62, size) if first % (4 * size) == 0 else np.arange(size, dtype=np.int64) * 1_000_000,
            link=links,
            source=np.zeros(size, dtype=np.uint32),
            number=np.arange(first + 1, first + size + 1, dtype=np.int64),
            files=("mutated",),
        )


def sound(batch: FlowBatch) -> int:
    assert np.all(np.diff(batch.pkt_ptr) >= 0)
    assert batch.pkt_ptr[-1] == len(batch.p_dir)
    assert np.all(batch.duration >= 0)
    assert np.all(batch.payload_bytes >= 0)
    for i, facts in enumerate(facts_of_flows(batch)):
        low, middle, high = batch.payload_ptr[i].tolist()
        sides = batch.payload[low:middle].tobytes(), batch.payload[middle:high].tobytes()
        assert all(0 <= span.start <= span.end <= len(sides[span.dir]) for span in facts.spans)
    return int(batch.pkts.sum())


def run(count: int, seed: int) -> None:
    counts = CountsBuilder()

    def counted() -> Iterator[FrameBatch]:
        for batch in batches(count, seed):
            counts.frames(batch)
            yield batch

    packets, beyond, tunnels = 0, 0, set()
    for batch in assemble(counted(), options=FlowOptions(table_size=4096, max_packets=8), counts=counts):
        packets += sound(batch)
        beyond += len(batch.beyond)
        tunnels |= {TUNNELS[code & 15] for code in batch.tunnel.tolist()}
    assert tunnels == set(TUNNELS)
    result = counts.build()
    assert result.packets == count + counts.aggregated
    assert packets + result.non_flow == result.packets
    assert result.malformed
    assert beyond > 0


def test_a_hundred_thousand_mutated_frames() -> None:
    run(100_000, seed=1)


@pytest.mark.soak
def test_a_million_mutated_frames() -> None:
    run(1_000_000, seed=2)


def refused(path: Path) -> bool:
    try:
        for batch in read_flows([path]):
            sound(batch)
    except TrafficLLMError as error:
        return bool(error.hint)
    return False


def test_mutated_files_end_in_records_or_one_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    files = [path for path in sorted(GOLDEN.rglob("*.pcap*")) if path.stat().st_size < 6000]
    ended = {"records": 0, "error": 0}
    for number in range(400):
        data = bytearray(files[number % len(files)].read_bytes())
        for _ in range(int(rng.integers(1, 8))):
            data[int(rng.integers(0, min(len(data), 200 if number % 2 else len(data))))] = int(rng.integers(0, 256))
        path = tmp_path / "x.pcap"
        path.write_bytes(data[: int(rng.integers(1, len(data) + 1))] if number % 3 == 0 else data)
        ended["error" if refused(path) else "records"] += 1
    assert ended["records"] > 200
    assert ended["error"] > 5
