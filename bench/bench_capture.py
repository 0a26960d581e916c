"""Packets per second from capture to flows, against dpkt, scapy, tshark, tcpdump and NFStream where they are installed.

    python bench/bench_capture.py [DIR_OR_FILE...] [--megabytes 200] [--runs 5] [--nfstream-python PATH] [--cpu] [--json]

One file is made of the given captures, repeated on later days until it has the size asked for; every reader runs in a process of
its own on one core, in turn, and the medians are compared. scapy, tshark and NFStream read the beginning of the file, told below.
Facts of flows alike are parsed once, so repetition helps: the rows "once" are of a file that holds each capture a single time.
NFStream (LGPL) is a tool beside, in an environment of its own that --nfstream-python names.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CAPTURES = Path(__file__).resolve().parents[1] / "src" / "trafficllm" / "data" / "captures"
OURS = """
import sys, time, os
clock = getattr(time, os.environ["BENCH_CLOCK"])
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.settings import FlowOptions
from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.facts.keys import FactsCache
facts, services = sys.argv[2] == "facts", set()
def run(path):
    flows = packets = 0
    cache = FactsCache()
    for b in read_flows([path]):
        flows += len(b); packets += int(b.pkts.sum())
        if facts: services.update(f.service for f in facts_of_flows(b, cache=cache))
    return flows, packets
run(sys.argv[3])
t = clock(); flows, packets = run(sys.argv[1]); print(clock() - t, flows, packets)
"""
DPKT = """
import sys, time, os, dpkt
clock = getattr(time, os.environ["BENCH_CLOCK"])
t = clock(); n = 0
with open(sys.argv[1], "rb") as f:
    for ts, buf in dpkt.pcap.Reader(f):
        try: dpkt.ethernet.Ethernet(buf)
        except Exception: pass
        n += 1
print(clock() - t, 0, n)
"""
SCAPY = """
import sys, time, os, logging
clock = getattr(time, os.environ["BENCH_CLOCK"]); logging.disable(50)
from scapy.all import PcapReader
t = clock(); n = 0
for packet in PcapReader(sys.argv[1]): n += 1
print(clock() - t, 0, n)
"""
NFSTREAM = """
import sys, time, os, resource
clock = getattr(time, os.environ["BENCH_CLOCK"])
from nfstream import NFStreamer
def spent():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock() + (u.ru_utime + u.ru_stime if clock is time.process_time else 0)
t = spent(); n = p = 0
for flow in NFStreamer(source=sys.argv[1], n_meters=1, statistical_analysis=False, n_dissections=int(sys.argv[2])):
    n += 1; p += flow.bidirectional_packets
print(spent() - t, n, p)
"""

_PART, _SOME = 4, 50  # MB that scapy and tshark read, and NFStream
_FIELDS = ("frame.time_epoch", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport", "frame.len", "tcp.flags")


def _frames(paths: Sequence[str]) -> tuple[bytes, int]:
    """Records (pcap, microseconds, Ethernet) of all Ethernet captures, one after the other."""
    from trafficllm.capture.files.read import read_frames

    parts, packets = [], 0
    for batch in read_frames(paths):
        for i in np.flatnonzero(batch.link == 1).tolist():
            start, size = int(batch.offset[i]), int(batch.caplen[i])
            ts = int(batch.ts[i])
            head = np.array([ts // 10**9 & 0xFFFFFFFF, ts % 10**9 // 1000, size, max(int(batch.origlen[i]), size)], dtype="<u4").tobytes()
            parts.append(head + batch.buffer[start : start + size].tobytes())
            packets += 1
    return b"".join(parts), packets


def _make(paths: Sequence[str], target: Path, megabytes: int) -> int:
    """Write the test file; returns its packets. Each repetition is another day, so that flows are new ones."""
    body, packets = _frames(paths)
    records = np.frombuffer(body, dtype=np.uint8)
    starts, at = [], 0
    while at < len(body):
        starts.append(at)
        at += 16 + int.from_bytes(body[at + 8 : at + 12], "little")
    places = np.array(starts)
    total = 0
    with target.open("wb") as out:
        out.write(np.array([0xA1B2C3D4, 0x00040002, 0, 0, 262144, 1], dtype="<u4").tobytes())
        day = 0
        while total < megabytes << 20:
            copy = records.copy()
            seconds = copy[places[:, None] + np.arange(4)].copy().view("<u4").reshape(-1) + np.uint32(day)
            copy[places[:, None] + np.arange(4)] = seconds.astype("<u4").view(np.uint8).reshape(-1, 4)
            out.write(copy.tobytes())
            total += len(body)
            day += 86400
    return packets * (total // max(len(body), 1))


def _cut(source: Path, target: Path, megabytes: int) -> None:
    """The whole records within the first `megabytes`: tshark fails on a file that ends inside one."""
    with source.open("rb") as stream:
        data = stream.read(megabytes << 20)
    at = 24
    while at + 16 <= len(data) and (after := at + 16 + int.from_bytes(data[at + 8 : at + 12], "little")) <= len(data):
        at = after
    target.write_bytes(data[:at])


def _python(code: str, *arguments: str, python: str = sys.executable) -> tuple[float, int]:
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, check=True)
    seconds, _, packets = done.stdout.splitlines()[-1].split()  # NFStream prints advice before
    return float(seconds), int(packets)


def _tool(command: list[str], packets: int) -> tuple[float, int]:
    began, cpu = time.perf_counter(), _children()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return (_children() - cpu if os.environ["BENCH_CLOCK"] == "process_time" else time.perf_counter() - began), packets


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _measure(paths: Sequence[str], megabytes: int, runs: int, nfstream: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        whole, once, some, part = (Path(folder) / f"{name}.pcap" for name in ("whole", "once", "some", "part"))
        packets = _make(paths, whole, megabytes)
        _make(paths, once, 1)
        _cut(whole, part, _PART)
        _cut(whole, some, _SOME)
        few = _python(DPKT, str(part))[1]
        readers: dict[str, Any] = {
            "trafficllm": lambda: _python(OURS, str(whole), "plain", str(part)),
            "trafficllm with facts": lambda: _python(OURS, str(whole), "facts", str(part)),
            "trafficllm, once": lambda: _python(OURS, str(once), "plain", str(part)),
            "trafficllm with facts, once": lambda: _python(OURS, str(once), "facts", str(part)),
            "dpkt": lambda: _python(DPKT, str(whole)),
            "scapy": lambda: _python(SCAPY, str(part)),
        }
        if shutil.which("tcpdump"):
            readers["tcpdump"] = lambda: _tool(["tcpdump", "-nr", str(whole), "-w", os.devnull], packets)
        if shutil.which("tshark"):
            fields = [word for name in _FIELDS for word in ("-e", name)]
            readers["tshark"] = lambda: _tool(["tshark", "-nr", str(part), "-T", "fields", *fields], few)
        if nfstream:
            readers["nfstream"] = lambda: _python(NFSTREAM, str(some), "0", python=nfstream)
            readers["nfstream with protocols"] = lambda: _python(NFSTREAM, str(some), "20", python=nfstream)
        speeds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(runs):
            for name, reader in readers.items():
                seconds, count = reader()
                speeds[name].append(count / seconds)
    return _report(speeds, packets, megabytes)


def _report(speeds: dict[str, list[float]], packets: int, megabytes: int) -> dict[str, Any]:
    rows = {name: {"median": statistics.median(values), "range": [min(values), max(values)]} for name, values in speeds.items()}
    pairs = [(ours, other) for ours in rows if ours.startswith("trafficllm") for other in rows if not other.startswith("trafficllm")]
    pairs += [(f"trafficllm with facts{once}", f"trafficllm{once}") for once in ("", ", once")]
    ratios = {}
    for ours, other in pairs:
        values = [a / b for a, b in zip(speeds[ours], speeds[other], strict=True)]
        ratios[f"{ours} / {other}"] = {"median": statistics.median(values), "range": [min(values), max(values)]}
    settings = {"packets": packets, "megabytes": megabytes, "cores": 1, "clock": os.environ["BENCH_CLOCK"]}
    settings |= {"max_packets": 32, "max_payload": 512, "part_mb": _PART, "nfstream_mb": _SOME}
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    return {
        "schema": "trafficllm.bench_capture/1",
        "settings": settings,
        "packets_per_second": rows,
        "ratios": ratios,
        "peak_rss_mb": memory,
    }


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=[str(CAPTURES / name) for name in ("MTD", "EAC")], help="default: the bundled captures")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds: for machines that others use too")
    parser.add_argument("--nfstream-python", default="", metavar="PATH", help="an interpreter that can import nfstream")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.megabytes, options.runs = 1, 1
    os.environ["BENCH_CLOCK"] = "process_time" if options.cpu else "perf_counter"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result = _measure(options.paths, options.megabytes, options.runs, options.nfstream_python)
    if options.json:
        print(json.dumps(result, indent=1, sort_keys=True))
        return
    for name, row in result["packets_per_second"].items():
        print(f"{name:28s} {row['median']:12,.0f} packets/s")
    for name, row in result["ratios"].items():
        print(f"{name:52s} {row['median']:8.2f} x  ({row['range'][0]:.2f} - {row['range'][1]:.2f})")


if __name__ == "__main__":
    main()
