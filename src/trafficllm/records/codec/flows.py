"""Flows -> raw records: what the codec could show of each flow, with where it came from kept apart.

Masks come later; a raw record carries ports, TTLs, exact windows and every fact the parsers found.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.facts.keys import FactsCache
from trafficllm.core.files import hash64
from trafficllm.core.types import U8, U16, Facts, FlowBatch, FlowMeta, Record, Span
from trafficllm.records.codec.canonical import ICMP_PROTOS, MAX_PACKETS, TCP

# Protocols that a host speaks whatever its user does. Ports of either end (IANA), both transports.
_CHORES = {
    53: "dns",
    67: "dhcp",
    68: "dhcp",
    546: "dhcp",
    547: "dhcp",
    123: "ntp",
    137: "netbios",
    138: "netbios",
    1900: "ssdp",
    5353: "mdns",
    5355: "llmnr",
}
_NEIGHBOUR = range(133, 138)  # RFC 4861 section 4
IGMP = 2
CHORES = ("", *sorted({*_CHORES.values(), "nd", "igmp"}))
_CHORE_OF = np.array([CHORES.index(_CHORES.get(port, "")) for port in range(1 << 16)], dtype=np.int64)


def records_of(batch: FlowBatch) -> list[tuple[Record, FlowMeta]]:
    """Raw records of a batch, in its order, each with its FlowMeta.

    At most 32 packets a record and the payload prefix as assembled; `facts.spans` hold where identifiers lie,
    the flow's own addresses in binary among them (kind "address").
    """
    return list(records_in(batch, 0, len(batch)))


def records_in(
    batch: FlowBatch, start: int, stop: int, *, capture: str = "", origin: str = "", cache: FactsCache | None = None
) -> Iterator[tuple[Record, FlowMeta]]:
    """Raw records `start` to `stop` of a batch, one at a time.

    `capture` and `origin` stand in for the file's own name in every FlowMeta. With a `cache`, flows like those before are not parsed again.
    """
    rows = _Rows(batch, start, min(stop, len(batch)), capture=capture, origin=origin)
    facts = facts_of_flows(batch, rows=np.arange(start, start + rows.count), cache=cache)
    return ((rows.record(i, own), rows.meta(i)) for i, own in enumerate(facts))


def chores(proto: U8, orig_p: U16, resp_p: U16, icmp: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The number in CHORES of each flow; 0: none, as `housekeeping` finds them."""
    ported = ~np.isin(proto, ICMP_PROTOS)
    chore = np.where(ported, np.where(_CHORE_OF[resp_p] > 0, _CHORE_OF[resp_p], _CHORE_OF[orig_p]), 0)
    chore = np.where((proto == 58) & (icmp >> 8 >= _NEIGHBOUR.start) & (icmp >> 8 < _NEIGHBOUR.stop), CHORES.index("nd"), chore)
    return np.where(proto == IGMP, CHORES.index("igmp"), chore)


def housekeeping(record: Record) -> str:
    """The chore a raw flow is (dns, dhcp, mdns, ntp, ssdp, llmnr, netbios, nd, igmp), or "" where it is none."""
    if record.proto == 58 and record.icmp >> 8 in _NEIGHBOUR:
        return "nd"
    if record.proto == IGMP:
        return "igmp"
    if record.ports is None:
        return ""
    return _CHORES.get(record.ports[1]) or _CHORES.get(record.ports[0], "")


class _Rows:
    """Columns of a part of a batch as Python lists: indexing numpy scalars one by one costs ten times as much."""

    def __init__(self, batch: FlowBatch, start: int, stop: int, *, capture: str, origin: str) -> None:
        flows = slice(start, stop)
        first, last = (int(batch.pkt_ptr[i]) for i in (start, max(stop, start)))
        packets = slice(first, last)
        self.count = max(stop - start, 0)
        self.ptr = (batch.pkt_ptr[start : stop + 1] - first).tolist()
        self.dirs = batch.p_dir[packets].tolist()
        self.sizes = batch.p_payload[packets].tolist()
        self.times = batch.p_ts[packets].tolist()
        self.flags = batch.p_flags[packets].tolist()
        self.windows = batch.p_window[packets].tolist()
        self.ttls = batch.p_ttl[packets].tolist()
        self.types = batch.p_type[packets].tolist()
        self.frames = batch.p_frame[packets].tolist()
        pointers = batch.payload_ptr[flows]
        base, top = (int(pointers[0, 0]), int(pointers[-1, 2])) if self.count else (0, 0)
        self.payload = batch.payload[base:top].tobytes()
        self.payload_ptr = (pointers - base).tolist()
        self.ts = batch.ts[flows].tolist()
        self.duration = batch.duration[flows].tolist()
        self.version = batch.ip_version[flows].tolist()
        self.proto = batch.proto[flows].tolist()
        self.ports = list(zip(batch.orig_p[flows].tolist(), batch.resp_p[flows].tolist(), strict=True))
        orig, resp = batch.orig_h[flows].tobytes(), batch.resp_h[flows].tobytes()
        self.hosts = [(orig[k : k + 16], resp[k : k + 16]) for k in range(0, 16 * self.count, 16)]
        self.packets = batch.pkts[flows].sum(axis=1).tolist()
        self.link = batch.link[flows].tolist()
        self.community = batch.community_id[flows].tolist()
        self.files = [capture or name for name in batch.files] or [capture]
        self.origins = [origin or name.rsplit("/", 1)[-1] for name in self.files]
        self.source = batch.source[flows].tolist() if batch.files else [0] * self.count

    def record(self, i: int, facts: Facts) -> Record:
        start, end = self.ptr[i], min(self.ptr[i + 1], self.ptr[i] + MAX_PACKETS)
        rows = slice(start, end)
        n = end - start
        times = self.times[rows]
        proto = self.proto[i]
        a, b, c = self.payload_ptr[i]
        payload = (self.payload[a:b], self.payload[b:c])
        icmp = proto in ICMP_PROTOS
        spans = address_spans(self.version[i], self.hosts[i], payload)
        return Record(
            kind="flow",
            ip_version=self.version[i],
            proto=proto,
            ports=None if icmp else self.ports[i],
            dirs=tuple(self.dirs[rows]),
            sizes=tuple(self.sizes[rows]),
            iats=(0, *(max(y - x, 0) for x, y in pairwise(times)))[:n],
            flags=tuple(self.flags[rows]) if proto == TCP else (-1,) * n,
            windows=tuple(self.windows[rows]) if proto == TCP else (-1,) * n,
            ttls=tuple(self.ttls[rows]),
            icmp=self.types[start] if icmp and n else -1,
            payload=payload,
            facts=Facts(facts.service, facts.fields, (*facts.spans, *spans)) if spans else facts,
        )

    def meta(self, i: int) -> FlowMeta:
        version, hosts = self.version[i], self.hosts[i]
        orig, resp = address_text(version, hosts[0]), address_text(version, hosts[1])
        community, ports, source = str(self.community[i]), self.ports[i], self.source[i]
        start, end = self.ptr[i], min(self.ptr[i + 1], self.ptr[i] + MAX_PACKETS)
        return FlowMeta(
            uid=flow_uid(community, self.ts[i]),
            capture=self.files[source],
            origin=self.origins[source],
            host=orig,
            ts=self.ts[i],
            duration=self.duration[i],
            community_id=community,
            orig_h=orig,
            orig_p=ports[0],
            resp_h=resp,
            resp_p=ports[1],
            proto=self.proto[i],
            packets=self.packets[i],
            frames=tuple(self.frames[start:end]),
            link=self.link[i],
        )


def address_spans(version: int, hosts: tuple[bytes, bytes], payload: tuple[bytes, bytes]) -> list[Span]:
    """Where a flow's own addresses stand in its payload as bytes (DNS answers, STUN, P2P handshakes)."""
    out = []
    width = 4 if version == 4 else 16
    for host in hosts:
        needle = host[:width]
        if not needle.strip(b"\0"):
            continue
        for d in (0, 1):
            at = payload[d].find(needle)
            while at >= 0:
                out.append(Span(d, at, at + width, "address"))
                at = payload[d].find(needle, at + width)
    return out


@lru_cache(maxsize=1 << 16)
def address_text(version: int, host: bytes) -> str:
    """An address of 16 bytes as text."""
    return socket.inet_ntop(socket.AF_INET, host[:4]) if version == 4 else socket.inet_ntop(socket.AF_INET6, host)


def flow_uid(community: str, ts: int) -> str:
    """Zeek-like: C and 16 hex digits, the same whenever the same flow is read."""
    return f"C{hash64(f'{community} {ts}'.encode()):016x}"
