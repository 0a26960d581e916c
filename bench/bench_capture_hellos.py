"""What a client's hello costs the reader: QUIC connections with and without their Initial packets opened, floods of hellos, memory.

    python bench/bench_capture_hellos.py [--flows 400] [--flood 20000 40000 80000 160000] [--json]

Each run is a process of its own; CPU time of reading and facts, and the growth of peak anonymous memory over an empty capture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from capture_crafted import SOURCE, TARGET, ip

CHILD = """
import re, sys, threading, time
from pathlib import Path
from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.settings import FlowOptions
options = FlowOptions(hello_bytes=int(sys.argv[3]))
def run(path):
    flows = named = 0
    for batch in read_flows([path], options=options):
        flows += len(batch)
        named += sum("tls.handshake.ja4" in facts.fields for facts in facts_of_flows(batch))
    return flows, named
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
peak = 0.0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.01)
run(sys.argv[1])
before = anonymous()
threading.Thread(target=watch, daemon=True).start()
start = time.process_time()
flows, named = run(sys.argv[2])
print(time.process_time() - start, peak - before, flows, named)
"""
_CONNECTION = b"\x11" * 8


def vector(data: bytes, size: int) -> bytes:
    """Bytes behind their length."""
    return len(data).to_bytes(size, "big") + data


def client_hello(share: int) -> bytes:
    """A ClientHello with a key share of so many bytes before its server name."""
    parts = ((51, vector(b"\x11\xec" + vector(bytes(share), 2), 2)), (0, vector(b"\x00" + vector(b"www.example.com", 2), 2)))
    listed = b"".join(struct.pack("!H", kind) + vector(data, 2) for kind, data in (*parts, (16, b"\x00\x03\x02h3"), (43, b"\x02\x03\x04")))
    return b"\x01" + vector(b"\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00" + vector(listed, 2), 3)


def initials(hello: bytes) -> list[bytes]:
    """Datagrams of 1,200 bytes with Initial packets that carry a hello."""
    from trafficllm.capture.facts.quic import V1, initial_keys

    keys, out = initial_keys(V1, _CONNECTION), []
    for number, at in enumerate(range(0, len(hello), 1000)):
        part = hello[at : at + 1000]
        frames = b"\x06" + struct.pack("!HH", at | 0x4000, len(part) | 0x4000) + part
        header = b"\xc0" + struct.pack("!I", V1) + vector(_CONNECTION, 1) + b"\x00\x00"
        frames = frames.ljust(1200 - len(header) - 3 - 16, b"\x00")
        header += struct.pack("!H", (1 + len(frames) + 16) | 0x4000) + bytes([number])
        sealed = keys.aead.encrypt((keys.iv ^ number).to_bytes(12, "big"), frames, header)
        mask = keys.mask.update(sealed[3:19])
        out.append(bytes([header[0] ^ mask[0] & 0x0F]) + header[1:-1] + bytes([header[-1] ^ mask[1]]) + sealed)
    return out


def write(path: Path, flow: list[bytes], flows: int) -> None:
    """A capture of `flows` copies of a flow's IPv4 packets; the client's address is the flow's number."""
    records, places = [], []
    size = 0
    for packet in flow:
        records.append(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)
        places.append(size + 16 + packet.index(SOURCE))
        size += len(records[-1])
    block = np.frombuffer(b"".join(records), dtype=np.uint8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 228))
        for first in range(0, flows, 1024):
            numbers = np.arange(first, min(first + 1024, flows), dtype=">u4")
            rows = np.tile(block, (len(numbers), 1))
            for place in places:
                rows[:, place : place + 4] = (numbers + (10 << 24)).astype(">u4").view(np.uint8).reshape(-1, 4)
            rows[:, :4] = (numbers // 1000).astype("<u4").view(np.uint8).reshape(-1, 4)
            stream.write(rows.tobytes())


def udp(data: bytes) -> bytes:
    """A client's datagram in IPv4."""
    return ip(17, struct.pack("!HHHH", 50000, 443, 8 + len(data), 0) + data)


def answer(data: bytes) -> bytes:
    """A server's datagram in IPv4."""
    body = struct.pack("!HHHH", 443, 50000, 8 + len(data), 0) + data
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0) + TARGET + SOURCE + body


def segments(stream: bytes) -> list[bytes]:
    """A client's TCP segments with a stream's bytes."""
    heads = [struct.pack("!HHIIBBHHH", 40000, 443, 999, 0, 80, 2, 1, 0, 0)]
    heads += [
        struct.pack("!HHIIBBHHH", 40000, 443, 1000 + at, 1, 80, 16, 1, 0, 0) + stream[at : at + 1400] for at in range(0, len(stream), 1400)
    ]
    return [ip(6, part) for part in heads]


def measure(folder: Path, capture: Path, hello_bytes: int, runs: int = 3) -> dict[str, Any]:
    """Median CPU seconds and MB of a capture, its flows and how many had a JA4."""
    empty = folder / "empty.pcap"
    write(empty, [udp(b"x")], 1)
    rows = []
    for _ in range(runs):
        command = [sys.executable, "-c", CHILD, str(empty), str(capture), str(hello_bytes)]
        rows.append([float(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()])
    seconds, megabytes, flows, named = (statistics.median(column) for column in zip(*rows, strict=True))
    return {"seconds": round(seconds, 3), "MB": round(megabytes, 1), "flows": int(flows), "ja4": int(named)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flows", type=int, default=400)
    parser.add_argument("--flood", type=int, nargs="*", default=[20000, 40000, 80000, 160000])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.flows, options.flood = 20, [200]
    short, quic = client_hello(32), initials(client_hello(1216))
    talk = [*map(udp, quic), *(answer(b"\x40" + bytes(1199)) for _ in range(60)), *(udp(b"\x40" + bytes(60)) for _ in range(40))]
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, capture = Path(name), Path(name) / "capture.pcap"
        write(capture, talk, options.flows)
        out["QUIC connections of 102 packets"] = [measure(folder, capture, size) for size in (0, 8192)]
        record = b"\x16\x03\x01" + vector(short, 2)
        write(capture, segments(record + b"\x17\x03\x03\x20\x00" + bytes(60000)), options.flows)
        out["TLS, hello within the prefix"] = [measure(folder, capture, size) for size in (0, 8192)]
        for label, flow in (
            ("one Initial a flow", [udp(initials(short)[0])]),
            ("seven Initials a flow that never open", [udp(b"\xc0" + quic[0][1:-1] + b"!")] * 7),
            ("post-quantum hello a flow", segments(b"\x16\x03\x01" + vector(client_hello(1216), 2))),
        ):
            for flows in options.flood:
                write(capture, flow, flows)
                out.setdefault(label, []).append(measure(folder, capture, 8192, runs=1))
    if options.json:
        print(json.dumps(out, indent=1))
        return
    for label, rows in out.items():
        for row in rows:
            print(f"{label:<42}", *(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
