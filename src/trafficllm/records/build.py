"""Flows -> raw records: what the codec could show of each flow, with where it came from kept apart.

Masks come later; a raw record carries ports, TTLs, exact windows and every fact the parsers found.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from itertools import pairwise

from trafficllm.capture.facts import facts_of
from trafficllm.core.files import hash64
from trafficllm.core.types import Facts, FlowBatch, FlowMeta, Record, Span
from trafficllm.records.canonical import ICMP_PROTOS, TCP

MAX_PACKETS = 32
# Protocols that a host speaks whatever its user does. Ports of either end (IANA), both transports.
_CHORES = {
    53: "dns", 67: "dhcp", 68: "dhcp", 546: "dhcp", 547: "dhcp", 123: "ntp", 137: "netbios", 138: "netbios",
    1900: "ssdp", 5353: "mdns", 5355: "llmnr",
}  # fmt: skip
_NEIGHBOUR = range(133, 138)  # RFC 4861 section 4
IGMP = 2


def records_of(batch: FlowBatch) -> list[tuple[Record, FlowMeta]]:
    """Raw records of a batch, in its order, each with its FlowMeta.

    At most 32 packets a record and the payload prefix as assembled; `facts.spans` hold where identifiers lie,
    the flow's own addresses in binary among them (kind "address").
    """
    rows = _Rows(batch)
    return [(rows.record(i), rows.meta(i)) for i in range(len(batch))]


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
    """Columns of a batch as Python lists: indexing numpy scalars one by one costs ten times as much."""

    def __init__(self, batch: FlowBatch) -> None:
        self.batch = batch
        self.ptr = batch.pkt_ptr.tolist()
        self.dirs = batch.p_dir.tolist()
        self.sizes = batch.p_payload.tolist()
        self.times = batch.p_ts.tolist()
        self.flags = batch.p_flags.tolist()
        self.windows = batch.p_window.tolist()
        self.ttls = batch.p_ttl.tolist()
        self.types = batch.p_type.tolist()
        self.frames = batch.p_frame.tolist()
        self.payload = batch.payload.tobytes()
        self.payload_ptr = batch.payload_ptr.tolist()
        self.ts = batch.ts.tolist()
        self.duration = batch.duration.tolist()
        self.version = batch.ip_version.tolist()
        self.proto = batch.proto.tolist()
        self.ports = list(zip(batch.orig_p.tolist(), batch.resp_p.tolist(), strict=True))
        self.hosts = [(bytes(a), bytes(b)) for a, b in zip(batch.orig_h, batch.resp_h, strict=True)]
        self.packets = batch.pkts.sum(axis=1).tolist()
        self.link = batch.link.tolist()
        self.source = batch.source.tolist()

    def record(self, i: int) -> Record:
        start, end = self.ptr[i], min(self.ptr[i + 1], self.ptr[i] + MAX_PACKETS)
        rows = slice(start, end)
        n = end - start
        times = self.times[rows]
        proto = self.proto[i]
        a, b, c = self.payload_ptr[i]
        payload = (self.payload[a:b], self.payload[b:c])
        icmp = proto in ICMP_PROTOS
        facts = facts_of(proto, *self.ports[i], *payload)
        spans = self._addresses(i, payload)
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

    def _addresses(self, i: int, payload: tuple[bytes, bytes]) -> list[Span]:
        """Where the flow's own addresses stand in its payload as bytes (DNS answers, STUN, P2P handshakes)."""
        out = []
        width = 4 if self.version[i] == 4 else 16
        for host in self.hosts[i]:
            needle = host[:width]
            if not any(needle):
                continue
            for d in (0, 1):
                at = payload[d].find(needle)
                while at >= 0:
                    out.append(Span(d, at, at + width, "address"))
                    at = payload[d].find(needle, at + width)
        return out

    def meta(self, i: int) -> FlowMeta:
        orig, resp = (_address(self.version[i], host) for host in self.hosts[i])
        community = str(self.batch.community_id[i])
        file = self.batch.files[self.source[i]] if self.batch.files else ""
        rows = slice(self.ptr[i], min(self.ptr[i + 1], self.ptr[i] + MAX_PACKETS))
        return FlowMeta(
            uid=_uid(community, self.ts[i]),
            capture=file,
            origin=file.rsplit("/", 1)[-1],
            host=orig,
            ts=self.ts[i],
            duration=self.duration[i],
            community_id=community,
            orig_h=orig,
            orig_p=self.ports[i][0],
            resp_h=resp,
            resp_p=self.ports[i][1],
            proto=self.proto[i],
            packets=self.packets[i],
            frames=tuple(self.frames[rows]),
            link=self.link[i],
        )


@lru_cache(maxsize=1 << 16)
def _address(version: int, host: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, host[:4]) if version == 4 else socket.inet_ntop(socket.AF_INET6, host)


def _uid(community: str, ts: int) -> str:
    """Zeek-like: C and 16 hex digits, the same whenever the same flow is read."""
    return f"C{hash64(f'{community} {ts}'.encode()):016x}"
