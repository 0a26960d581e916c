"""tshark's verdict on each packet beside this reader's: wrong checksums and malformed headers of the lower layers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from tshark_oracle import TSHARK

from trafficllm.capture.files.read import read_frames
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import ERRORS, SUM_WRONG
from trafficllm.core.errors import TrafficLLMError

SUMS = ("ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status")
LOW = ("Ethernet", "VLAN", "IPv4", "IPv6", "TCP", "UDP", "ICMP", "ICMPv6", "ARP", "SLL", "LLC")
"""Malformed-packet marks of tshark that are about the layers this reader judges."""
CUT = frozenset(code for code, name in enumerate(ERRORS) if name.endswith(".truncated"))
Verdicts = tuple[int, frozenset[int], frozenset[int]]
"""Packets, frame numbers with a wrong checksum, frame numbers with a malformed lower layer."""


def theirs(path: Path) -> Verdicts:
    """tshark with all checksum checks on."""
    options = [arg for proto in ("ip", "tcp", "udp") for arg in ("-o", f"{proto}.check_checksum:TRUE")]
    names = ("frame.number", "_ws.malformed", *SUMS)
    command = [str(TSHARK), "-n", "-r", str(path), *options, "-T", "fields", "-E", "separator=|", *(a for n in names for a in ("-e", n))]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace", timeout=600)
    wrong, malformed, packets = set(), set(), 0
    for line in done.stdout.splitlines():
        number, marks, *sums = line.split("|")
        packets += 1
        if any("0" in states.split(",") for states in sums):
            wrong.add(int(number))
        if any(mark.split("[Malformed Packet: ")[-1].rstrip("]") in LOW for mark in marks.split(",")):
            malformed.add(int(number))
    return packets, frozenset(wrong), frozenset(malformed)


def ours(path: Path) -> Verdicts:
    """What `capture check` counts, frame by frame."""
    wrong: set[int] = set()
    malformed: set[int] = set()
    packets = 0
    try:
        for frames in read_frames([path]):
            packets += len(frames)
            for tunnels in (False, True):
                rows = decode(frames, checksums=True, tunnels=tunnels).rows
                bad = (rows["ip_sum"] == SUM_WRONG) | (rows["l4_sum"] == SUM_WRONG)
                wrong.update(frames.number[bad].tolist())
                judged = (rows["error"] > 2) | (rows["error"] == 1)
                cut = (frames.caplen < frames.origlen) & np.isin(rows["error"], list(CUT))
                malformed.update(frames.number[judged & ~cut].tolist())
    except TrafficLLMError:
        pass
    return packets, frozenset(wrong), frozenset(malformed)
