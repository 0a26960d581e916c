"""Counting while reading: what was seen, cut, malformed, or not part of a flow."""

from __future__ import annotations

from collections import Counter

import numpy as np

from trafficllm.capture.flows.packets import ERRORS, FLOW_PACKET, PacketBatch
from trafficllm.core.types import CaptureCounts, FrameBatch

LINK_NAMES = {
    0: "NULL",
    1: "ETHERNET",
    9: "PPP",
    12: "RAW",
    14: "RAW",
    50: "PPP_HDLC",
    51: "PPP_ETHER",
    101: "RAW",
    104: "C_HDLC",
    105: "IEEE802_11",
    108: "LOOP",
    113: "LINUX_SLL",
    119: "IEEE802_11_PRISM",
    127: "IEEE802_11_RADIOTAP",
    192: "PPI",
    228: "IPV4",
    229: "IPV6",
    276: "LINUX_SLL2",
}


class CountsBuilder:
    """Mutable counterpart of CaptureCounts, filled by reader, decoder and flow table."""

    def __init__(self) -> None:
        self.read = 0  # bytes of the files that have been used, for progress
        self.packets = 0
        self.bytes = 0
        self.first: int | None = None
        self.last: int | None = None
        self.truncated = 0
        self.non_ip = 0
        self.non_flow = 0
        self.flows = 0
        self.evicted = 0
        self.link_types: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()

    def frames(self, batch: FrameBatch) -> None:
        """Count a batch of frames."""
        if not len(batch):
            return
        self.packets += len(batch)
        self.bytes += int(batch.origlen.sum(dtype=np.int64))
        self.truncated += int(np.count_nonzero(batch.caplen < batch.origlen))
        low, high = int(batch.ts.min()), int(batch.ts.max())
        self.first = low if self.first is None else min(self.first, low)
        self.last = high if self.last is None else max(self.last, high)
        for link, count in zip(*np.unique(batch.link, return_counts=True), strict=True):
            self.link_types[LINK_NAMES.get(int(link), str(int(link)))] += int(count)

    def decoded(self, packets: PacketBatch) -> None:
        """Count what decoding found: malformed by kind, not IP, not part of a flow."""
        rows = packets.rows
        codes = np.bincount(rows["error"], minlength=len(ERRORS))
        for code in np.flatnonzero(codes[1:]) + 1:
            self.malformed[ERRORS[int(code)]] += int(codes[code])
        self.non_ip += int(np.count_nonzero(rows["ip_version"] == 0))
        self.non_flow += int(np.count_nonzero(rows["usable"] != FLOW_PACKET))

    def build(self) -> CaptureCounts:
        """The frozen result."""
        return CaptureCounts(
            packets=self.packets,
            bytes=self.bytes,
            first=self.first or 0,
            last=self.last or 0,
            link_types=dict(sorted(self.link_types.items())),
            truncated=self.truncated,
            malformed=dict(sorted(self.malformed.items())),
            non_ip=self.non_ip,
            non_flow=self.non_flow,
            flows=self.flows,
            evicted=self.evicted,
        )
