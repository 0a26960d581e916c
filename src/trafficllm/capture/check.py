"""Check any capture: headers whole, lengths and checksums right, TCP possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trafficllm.capture.counts import CountsBuilder
from trafficllm.capture.decode import decode
from trafficllm.capture.packets import ERRORS, SUM_WRONG, PacketBatch
from trafficllm.capture.read import read_frames
from trafficllm.capture.tcp_check import TcpCheck

LENGTHS = frozenset(("ip.length", "ip.header", "tcp.header", "udp.length"))
"""Malformations that are a wrong length field."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """`valid` says nothing below was found but `tcp_unseen` and `unchecked`.

    `malformed` counts by kind, `bad_lengths` and `bad_checksums` count packets, `tcp_violations` names the first
    1,000. `tcp_unseen` counts holes a lossy capture explains, `unchecked` packets cut too short for a checksum.
    """

    valid: bool
    packets: int
    malformed: Mapping[str, int] = field(default_factory=dict)
    bad_checksums: int = 0
    bad_lengths: int = 0
    tcp_violations: tuple[str, ...] = ()
    tcp_unseen: int = 0
    unchecked: int = 0


def check(paths: Sequence[str | Path]) -> CheckReport:
    """Validate captures; memory does not grow with their size.

    Raises InputError for what is no capture. Example: `check(["out.pcap"]).valid`.
    """
    counts = CountsBuilder()
    tcp = TcpCheck()
    wrong = short = unchecked = 0
    for frames in read_frames(paths, counts=counts):
        packets = decode(frames, checksums=True)
        counts.decoded(packets)
        bad, cut = _checksums(packets)
        wrong += bad
        unchecked += cut
        short += int(np.isin(packets["error"], _LENGTH_CODES).sum())
        tcp.add(packets)
    found = counts.build()
    valid = not (found.malformed or wrong or short or tcp.found)
    return CheckReport(
        valid=valid, packets=found.packets, malformed=found.malformed, bad_checksums=wrong, bad_lengths=short,
        tcp_violations=tuple(tcp.violations), tcp_unseen=tcp.unseen, unchecked=unchecked,
    )  # fmt: skip


_LENGTH_CODES = np.array([code for code, name in enumerate(ERRORS) if name in LENGTHS], dtype=np.uint8)


def _checksums(packets: PacketBatch) -> tuple[int, int]:
    """(packets with a wrong IP or transport checksum, packets cut before their end)."""
    bad = (packets["ip_sum"] == SUM_WRONG) | (packets["l4_sum"] == SUM_WRONG)
    return int(bad.sum()), int((packets.frames.caplen < packets.frames.origlen).sum())
