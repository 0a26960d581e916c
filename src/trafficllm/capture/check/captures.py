"""Check any capture: headers whole, lengths and checksums right, TCP possible.

Link, network and transport layers are judged; what an application's own parser thinks of its bytes is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trafficllm.capture.check.tcp import TcpCheck
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import ERRORS, SUM_WRONG, PacketBatch
from trafficllm.capture.link.tunnels import VXLAN_PORTS
from trafficllm.core.types import ProgressSink

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


def check(paths: Sequence[str | Path], *, vxlan_ports: Sequence[int] = VXLAN_PORTS, progress: ProgressSink | None = None) -> CheckReport:
    """Validate captures; memory does not grow with their size.

    In a tunnel both packets are judged, the outermost and the one that flows come from (UDP ports `vxlan_ports` may be VXLAN); a
    frame with a fault in either counts once for each kind of fault. Raises InputError for what is no capture.
    Example: `check(["out.pcap"]).valid`.
    """
    counts = CountsBuilder()
    kinds: Counter[str] = Counter()
    tcp = TcpCheck()
    wrong = short = unchecked = 0
    for frames in read_frames(paths, counts=counts):
        if progress is not None:
            progress.update("checking", counts.read, None)  # bytes
        outer = decode(frames, checksums=True)
        inner = decode(frames, checksums=True, tunnels=True, vxlan_ports=vxlan_ports)
        cut = frames.caplen < frames.origlen
        changed = (inner["tunnel"] != 0) | (inner["error"] != outer["error"])
        overlong = _overlong(outer, cut)
        kinds.update(_malformed(outer["error"], cut))
        kinds.update(_malformed(np.where(changed, inner["error"], 0), cut))
        kinds.update({"ip.overlong": overlong} if overlong else {})
        wrong += int((_wrong(outer) | _wrong(inner)).sum())
        short += overlong + int((np.isin(outer["error"], _LENGTH_CODES) | np.isin(inner["error"], _LENGTH_CODES)).sum())
        unchecked += int(cut.sum())
        tcp.add(inner)
    found = counts.build()
    kinds.update(found.malformed)
    return CheckReport(
        valid=not (kinds or wrong or tcp.found),
        packets=found.packets,
        malformed=dict(sorted(kinds.items())),
        bad_checksums=wrong,
        bad_lengths=short,
        tcp_violations=tuple(tcp.violations),
        tcp_unseen=tcp.unseen,
        unchecked=unchecked,
    )


_LENGTH_CODES = np.array([code for code, name in enumerate(ERRORS) if name in LENGTHS], dtype=np.uint8)


_CUT_CODES = np.array([code for code, name in enumerate(ERRORS) if name.endswith(".truncated")], dtype=np.uint8)
_UNKNOWN_LINK = ERRORS.index("link.unknown")


def _overlong(packets: PacketBatch, cut: npt.NDArray[np.bool_]) -> int:
    """Packets, otherwise whole, whose IP header claims more bytes than the frame had on the wire."""
    end = packets["l3"].astype(np.int64) + packets["ip_len"]
    return int(((packets["error"] == 0) & (packets["l3"] >= 0) & ~cut & (end > packets.frames.origlen)).sum())


def _wrong(packets: PacketBatch) -> npt.NDArray[np.bool_]:
    """Packets with a wrong checksum."""
    wrong: npt.NDArray[np.bool_] = (packets["ip_sum"] == SUM_WRONG) | (packets["l4_sum"] == SUM_WRONG)
    return wrong


def _malformed(errors: npt.NDArray[np.uint8], cut: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Malformations by kind; what the snap length cut off or an unknown link type hides is not judged."""
    unjudged = (cut & np.isin(errors, _CUT_CODES)) | (errors == _UNKNOWN_LINK)
    counted = np.bincount(errors[~unjudged], minlength=len(ERRORS))
    return {ERRORS[code]: int(counted[code]) for code in range(1, len(ERRORS)) if counted[code]}
