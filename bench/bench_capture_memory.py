"""Peak anonymous memory of capture to flows: over the size of the file, and under a flood of flows that never end.

    python bench/bench_capture_memory.py [--sizes 100 300 1000] [--flood 10000000] [--json]

Files are made in a temporary folder from one conversation of 20 packets repeated with other addresses, ten times a second of
capture time, so that flows come and go; the flood is one UDP packet a flow. A child process reads, this one samples its RssAnon.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CHILD = """
import sys
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.assembly import read_flows
counts, flows = CountsBuilder(), 0
for batch in read_flows([sys.argv[1]], counts=counts):
    flows += len(batch)
print(counts.packets, flows, counts.evicted)
"""
_HEAD = np.array([0xA1B2C3D4, 0x00040002, 0, 0, 262144, 1], dtype="<u4").tobytes()
_BLOCK = 4096  # flows written at once
_TALK = tuple((k & 1, 24, 1400 if k & 1 else 200) for k in range(14))
_SEGMENTS = ((0, 2, 0), (1, 18, 0), (0, 16, 0), *_TALK, (0, 17, 0), (1, 17, 0), (0, 16, 0))  # side, flags, payload bytes


def _frame(proto: int, side: int, flags: int, size: int, seq: tuple[int, int]) -> bytes:
    head = (8 if proto == 17 else 20) + size
    ip = bytes([0x45, 0]) + (20 + head).to_bytes(2, "big") + bytes([0, 0, 0x40, 0, 64, proto, 0, 0])
    ends = (b"\x0a\x00\x00\x00", b"\xc0\xa8\x00\x01")
    ports = (b"\x9c\x40", b"\x01\xbb")
    both = ports[side] + ports[1 - side]
    if proto == 17:
        transport = both + head.to_bytes(2, "big") + bytes(2)
    else:
        transport = both + seq[side].to_bytes(4, "big") + seq[1 - side].to_bytes(4, "big") + bytes([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0])
    return bytes(12) + b"\x08\x00" + ip + ends[side] + ends[1 - side] + transport + b"\x17" * size


def _conversation(flood: bool) -> tuple[bytes, list[int], list[int]]:
    """Records of one flow, the place of each record and of its client address."""
    seq, body, records, clients = [1000, 2000], b"", [], []
    for side, flags, size in ((0, 0, 32),) if flood else _SEGMENTS:
        frame = _frame(17 if flood else 6, side, flags, size, (seq[0], seq[1]))
        seq[side] += size + (1 if flags & 3 else 0)
        records.append(len(body))
        clients.append(len(body) + 16 + 14 + (12 if side == 0 else 16))
        body += np.array([0, 0, len(frame), len(frame)], dtype="<u4").tobytes() + frame
    return body, records, clients


def _write(target: Path, flows: int, *, flood: bool, a_second: int) -> None:
    body, records, clients = _conversation(flood)
    one = np.frombuffer(body, dtype=np.uint8)
    with target.open("wb") as out:
        out.write(_HEAD)
        for first in range(0, flows, _BLOCK):
            number = np.arange(first, min(first + _BLOCK, flows))
            block = np.repeat(one[None], number.shape[0], axis=0)
            address = (0x0A000000 + number).astype(">u4").view(np.uint8).reshape(-1, 4)
            seconds = (1_700_000_000 + number // a_second).astype("<u4").view(np.uint8).reshape(-1, 4)
            for at in clients:
                block[:, at : at + 4] = address
            for at in records:
                block[:, at : at + 4] = seconds
            out.write(block.tobytes())


def _anonymous(pid: int) -> int:
    """RssAnon in kB, 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def _read(path: Path) -> dict[str, Any]:
    peak, began = 0, time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            peak = max(peak, _anonymous(child.pid))
            time.sleep(0.005)
        text = child.stdout.read() if child.stdout is not None else ""
    if child.returncode:
        raise SystemExit(f"reading {path} failed with {child.returncode}")
    packets, flows, evicted = (int(word) for word in text.split())
    size = round(path.stat().st_size / 1e6)
    row = {"megabytes": size, "packets": packets, "flows": flows, "evicted": evicted, "peak_anonymous_mb": round(peak / 1024, 1)}
    return row | {"seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    """Make the files one after the other, read each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 300, 1000], help="MB")
    parser.add_argument("--flood", type=int, default=10_000_000, help="flows")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.sizes, options.flood = [1], 10_000
    each = len(_conversation(False)[0])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.pcap"
        for size in options.sizes:
            _write(path, size * 1_000_000 // each + 1, flood=False, a_second=10)
            rows.append({"kind": "conversations"} | _read(path))
        if options.flood:
            _write(path, options.flood, flood=True, a_second=1_000_000)
            rows.append({"kind": "flood"} | _read(path))
    if options.json:
        print(json.dumps({"schema": "trafficllm.bench_capture_memory/1", "rows": rows}, indent=1, sort_keys=True))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
