"""Counting while reading: what was seen, cut, malformed, or not part of a flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from trafficllm.capture.flows.packets import ERRORS, FLOW_PACKET, FRAGMENT, PacketBatch
from trafficllm.capture.link.names import carried_name, link_name
from trafficllm.core.types import CaptureCounts, FrameBatch

_SAID_FROM = 0.01
"""Share of the frames from which one reason for having no flow is said."""
HELLOS = "clients' hellos"
"""In `not_read`: hellos longer than the prefix that found the pool for the rest of them full."""
_LINK_UNKNOWN = ERRORS.index("link.unknown")


def notices(counts: CaptureCounts) -> list[str]:
    """A line for every entry of `not_read`: what was not read, how much of it, and the remedy.

    >>> notices(CaptureCounts(packets=4, link_types={"PKTAP": 2, "ETHERNET": 2}, not_read={"PKTAP": 2}))
    ['PKTAP, not read: 2 of 4 packets; convert with `editcap -C HEADER_BYTES -T ether IN OUT` where Ethernet follows']
    """
    return [_notice(name, frames, counts) for name, frames in counts.not_read.items()]


def _notice(name: str, frames: int, counts: CaptureCounts) -> str:
    if name == HELLOS:
        return f"{name}, not kept whole: {frames:,}, as the pool for them was full; their flows may lack server name and JA4"
    share = f"{frames:,} of {counts.packets:,} packets"
    if name in counts.link_types:
        return f"{name}, not read: {share}; convert with `editcap -C HEADER_BYTES -T ether IN OUT` where Ethernet follows"
    if name in ERRORS:
        return f"{name}, without a flow: {share}; `trafficllm capture check` says where"
    return f"{name}, without a flow: {share}"


def added(counts: Iterable[CaptureCounts]) -> CaptureCounts:
    """What was seen of several captures that were read one by one.

    >>> added([CaptureCounts(packets=2, first=5, last=9), CaptureCounts(packets=1, first=3, last=4)]).first
    3
    """
    rows = list(counts)
    seen = [row for row in rows if row.packets]

    def together(maps: Iterable[Mapping[str, int]]) -> dict[str, int]:
        return dict(sorted(sum(map(Counter, maps), Counter[str]()).items()))

    return CaptureCounts(
        packets=sum(row.packets for row in rows),
        bytes=sum(row.bytes for row in rows),
        first=min((row.first for row in seen), default=0),
        last=max((row.last for row in seen), default=0),
        link_types=together(row.link_types for row in rows),
        truncated=sum(row.truncated for row in rows),
        malformed=together(row.malformed for row in rows),
        non_ip=sum(row.non_ip for row in rows),
        non_flow=sum(row.non_flow for row in rows),
        flows=sum(row.flows for row in rows),
        evicted=sum(row.evicted for row in rows),
        not_read=together(row.not_read for row in rows),
    )


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
        self.aggregated = 0  # packets of flows that shared a frame with another one (802.11 aggregates)
        self.flows = 0
        self.evicted = 0
        self.hellos_lost = 0
        self.link_types: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self.unread_links: Counter[str] = Counter()
        self.flowless: Counter[str] = Counter()

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
            self.link_types[link_name(int(link))] += int(count)

    def decoded(self, packets: PacketBatch) -> None:
        """Count what decoding found: malformed by kind, not IP, not part of a flow."""
        rows = packets.rows
        codes = np.bincount(rows["error"], minlength=len(ERRORS))
        for code in np.flatnonzero(codes[1:]) + 1:
            self.malformed[ERRORS[int(code)]] += int(codes[code])
        self.non_ip += int(np.count_nonzero(rows["ip_version"] == 0))
        outside = np.flatnonzero(rows["usable"] != FLOW_PACKET)
        self.non_flow += outside.shape[0]
        if outside.shape[0]:
            self._why(packets, outside)

    def _why(self, packets: PacketBatch, outside: npt.NDArray[np.intp]) -> None:
        """Count the frames of no flow by link type, kind of malformation, or what they carry."""
        rows, links = packets.rows[outside], packets.frames.link[outside]
        unread = rows["error"] == _LINK_UNKNOWN
        for link, count in zip(*np.unique(links[unread], return_counts=True), strict=True):
            self.unread_links[link_name(int(link))] += int(count)
        damaged = (rows["error"] != 0) & ~unread
        for code, count in zip(*np.unique(rows["error"][damaged], return_counts=True), strict=True):
            self.flowless[ERRORS[int(code)]] += int(count)
        other = (rows["error"] == 0) & (rows["ip_version"] == 0)
        for kind, count in zip(*np.unique(rows["ethertype"][other], return_counts=True), strict=True):
            self.flowless[carried_name(int(kind))] += int(count)
        rest = int(np.count_nonzero((rows["error"] == 0) & (rows["ip_version"] != 0) & (rows["usable"] != FRAGMENT)))
        if rest:
            self.flowless["IP without a flow"] += rest

    def not_read(self) -> dict[str, int]:
        """Frames by link type that is not read, and by every other reason that leaves more than 1 % of all frames without a flow; hellos
        of which only the prefix was kept."""
        often = {reason: count for reason, count in self.flowless.items() if count > _SAID_FROM * self.packets}
        lost = {HELLOS: self.hellos_lost} if self.hellos_lost else {}
        return {**dict(sorted(self.unread_links.items())), **dict(sorted(often.items())), **lost}

    def build(self) -> CaptureCounts:
        """The frozen result."""
        return CaptureCounts(
            packets=self.packets + self.aggregated,
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
            not_read=self.not_read(),
        )
