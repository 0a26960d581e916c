"""What a capture holds, counted flow by flow: hosts, pairs, services, ports, names, times. Memory is bounded whatever the capture."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficllm.capture.facts.flow_facts import facts_of_flows
from trafficllm.capture.facts.keys import FactsCache
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.rows import address_text, proto_name
from trafficllm.core.types import CaptureCounts, Facts, FlowBatch, ProgressSink
from trafficllm.lifecycle.facts.filters import Ends, Filters

if TYPE_CHECKING:
    from trafficllm.capture.files.read import Skipped
    from trafficllm.core.settings import FlowOptions

MOST = 1 << 16
"""Hosts, pairs or names kept apart; further ones are only counted."""
KEPT = 20
"""Largest and longest flows that are kept."""
_VERSIONS = {0x0304: "TLS 1.3", 0x0303: "TLS 1.2", 0x0302: "TLS 1.1", 0x0301: "TLS 1.0", 0x0300: "SSL 3.0", 0x0002: "SSL 2.0"}
_VERSIONS |= {0xFEFF: "DTLS 1.0", 0xFEFD: "DTLS 1.2", 0xFEFC: "DTLS 1.3"}
_DNS = 53
"""Where resolvers answer; names asked on the local link (mDNS, LLMNR) have other ports."""
_SAFE = frozenset({"tls", "quic", "dtls", "ssh"})
_CLEAR = frozenset(
    {"dns", "http", "http2", "ssdp", "dhcp", "ntp", "netbios", "snmp", "syslog", "ftp", "smtp", "pop3", "imap", "telnet", "sip"}
)
_FIELDS = {
    "server_names": "tls.handshake.extensions_server_name",
    "ja4": "tls.handshake.ja4",
    "dns_names": "dns.qry.name",
    "http_hosts": "http.host",
    "user_agents": "http.user_agent",
    "ssh": "ssh.protocol",
    "ssh_servers": "ssh.server.protocol",
}


@dataclass(slots=True)
class HostCount:
    """One host's share: bytes are those of IP packets; `opened` and `answered` count flows."""

    sent: int = 0
    received: int = 0
    packets: int = 0
    opened: int = 0
    answered: int = 0

    @property
    def bytes(self) -> int:
        """Both directions."""
        return self.sent + self.received


@dataclass(slots=True)
class Counted:
    """Flows and bytes of one service, port or pair."""

    flows: int = 0
    bytes: int = 0
    packets: int = 0


@dataclass(frozen=True, slots=True)
class FlowSeen:
    """One of the largest or longest flows; `frame` is the first frame of it, 0 where packets were not kept."""

    ends: Ends
    bytes: int
    packets: int
    duration: int
    service: str
    community_id: str


@dataclass(slots=True)
class CaptureFacts:
    """Counts over the flows of a capture that pass `filters`. Feed it batches with `add`, or parts of them with
    `add_part` where their facts are known."""

    filters: Filters = field(default_factory=Filters)
    counts: CaptureCounts = field(default_factory=CaptureCounts)
    flows: int = 0
    packets: int = 0
    bytes: int = 0
    first: int | None = None
    last: int | None = None
    beyond: int = 0
    hosts: dict[str, HostCount] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Counted] = field(default_factory=dict)
    services: dict[str, Counted] = field(default_factory=dict)
    resolvers: dict[str, Counted] = field(default_factory=dict)
    transports: dict[str, Counted] = field(default_factory=dict)
    ports: dict[tuple[int, str], Counted] = field(default_factory=dict)
    secrecy: dict[str, Counted] = field(default_factory=dict)
    versions: Counter[int] = field(default_factory=Counter)
    failed: Counter[tuple[str, str, int, str]] = field(default_factory=Counter)
    words: dict[str, Counter[Any]] = field(default_factory=dict)
    _holds: Any = None
    _largest: list[tuple[int, int, FlowSeen]] = field(default_factory=list)
    _longest: list[tuple[int, int, FlowSeen]] = field(default_factory=list)

    def add(self, batch: FlowBatch, cache: FactsCache | None = None) -> None:
        """Count a batch of flows; with a `cache`, those like flows of earlier batches are not parsed again."""
        self._add_rows(_rows(batch, 0, len(batch), facts_of_flows(batch, cache=cache)))

    def add_part(self, batch: FlowBatch, start: int, facts: Sequence[Facts]) -> None:
        """Count the flows of a batch from `start` on that these facts are of."""
        self._add_rows(_rows(batch, start, start + len(facts), facts))

    def _add_rows(self, rows: Iterator[_Row]) -> None:
        if self._holds is None:
            self._holds = self.filters.passing()
        for row in rows:
            if self._holds(row.seen.ends):
                self._add(row)

    def largest(self) -> list[FlowSeen]:
        """Flows by bytes, the largest first."""
        return [flow for _, _, flow in sorted(self._largest, key=lambda item: item[:2], reverse=True)]

    def longest(self) -> list[FlowSeen]:
        """Flows by duration, the longest first."""
        return [flow for _, _, flow in sorted(self._longest, key=lambda item: item[:2], reverse=True)]

    def _add(self, row: _Row) -> None:
        seen = row.seen
        ends, size, packets = seen.ends, seen.bytes, seen.packets
        self.flows += 1
        self.packets += packets
        self.bytes += size
        self.first = ends.ts if self.first is None else min(self.first, ends.ts)
        self.last = max(self.last or 0, ends.ts + seen.duration)
        self.versions[row.ip_version] += 1
        self._add_hosts(row)
        service = seen.service or f"other {proto_name(ends.proto)}"
        secret = "encrypted" if seen.service in _SAFE or ends.proto == 50 else "in the clear" if seen.service in _CLEAR else "not told"
        port = (ends.resp_p, proto_name(ends.proto))
        has_ports = ends.proto in {6, 17, 132, 136}
        tables: tuple[tuple[dict[Any, Counted], Any], ...] = (
            (self.pairs, (ends.orig_h, ends.resp_h)),
            (self.services, service),
            (self.transports, proto_name(ends.proto)),
            (self.secrecy, secret),
            *(((self.ports, port),) if has_ports else ()),
            *(((self.resolvers, ends.resp_h),) if seen.service == "dns" and ends.resp_p == _DNS else ()),
        )
        for table, key in tables:
            self._count(table, key, size, packets)
        for order, heap in ((size, self._largest), (seen.duration, self._longest)):
            (heapq.heappush if len(heap) < KEPT else heapq.heappushpop)(heap, (order, -self.flows, seen))
        if ends.proto == 6 and row.state in {"S0", "REJ", "RSTOS0", "RSTRH", "SH"}:
            self._word_in(self.failed, (ends.orig_h, ends.resp_h, ends.resp_p, row.state))
        for name, value in _words(row.facts):
            self._word_in(self.words.setdefault(name, Counter()), value)

    def _add_hosts(self, row: _Row) -> None:
        ends, packets = row.seen.ends, row.seen.packets
        for host, sent, received, opened in ((ends.orig_h, row.sent, row.received, 1), (ends.resp_h, row.received, row.sent, 0)):
            count = self.hosts.get(host)
            if count is None:
                if len(self.hosts) >= MOST:
                    self.beyond += 1
                    continue
                count = self.hosts[host] = HostCount()
            count.sent += sent
            count.received += received
            count.packets += packets
            count.opened += opened
            count.answered += 1 - opened

    def _count(self, table: dict[Any, Counted], key: Any, size: int, packets: int) -> None:
        count = table.get(key)
        if count is None:
            if len(table) >= MOST:
                self.beyond += 1
                return
            count = table[key] = Counted()
        count.flows += 1
        count.bytes += size
        count.packets += packets

    def _word_in(self, table: Counter[Any], value: Any) -> None:
        if value in table or len(table) < MOST:
            table[value] += 1
        else:
            self.beyond += 1


@dataclass(frozen=True, slots=True)
class _Row:
    """A flow as the counters read it; `sent` and `received` are the opener's IP bytes."""

    seen: FlowSeen
    ip_version: int
    sent: int
    received: int
    state: str
    facts: Facts


def _rows(batch: FlowBatch, start: int, stop: int, facts: Iterable[Facts]) -> Iterator[_Row]:
    part = slice(start, stop)
    columns = (batch.ts, batch.duration, batch.ip_version, batch.proto, batch.orig_p, batch.resp_p, batch.pkts.sum(axis=1))
    names: dict[tuple[bytes, int], str] = {}

    def text(raw: bytes, version: int) -> str:
        key = (raw, version)
        if key not in names:
            names[key] = address_text(raw, version)
        return names[key]

    rows = zip(*(np.asarray(column[part]).tolist() for column in columns), batch.ip_bytes[part].tolist(), facts, strict=True)
    for i, (ts, duration, version, proto, orig_p, resp_p, packets, (sent, received), own) in enumerate(rows, start):
        orig, resp = (text(side[i].tobytes(), version) for side in (batch.orig_h, batch.resp_h))
        ends = Ends(orig, resp, orig_p, resp_p, proto, ts)
        community = str(batch.community_id[i])
        seen = FlowSeen(ends, sent + received, packets, duration, own.service, community)
        yield _Row(seen, version, sent, received, str(batch.conn_state[i]), own)


def _words(facts: Facts) -> Iterator[tuple[str, Any]]:
    """Names and versions that a flow's first bytes tell, by the table they are counted in."""
    fields = facts.fields
    for name, key in _FIELDS.items():
        if value := fields.get(key):
            yield name, value
    if facts.service in {"tls", "dtls", "quic"} or "tls.handshake.version" in fields:
        yield "tls_versions", _version(facts)
    if (suite := fields.get("tls.server.ciphersuite")) is not None:
        yield "tls_ciphers", suite
    if facts.service == "dns" and (code := fields.get("dns.flags.rcode")):
        yield "dns_errors", (code, fields.get("dns.qry.name", ""))
    if (method := fields.get("http.request.method")) is not None:
        yield "http_methods", method
        yield "http_urls", f"{fields.get('http.host', '')}{fields.get('http.request.uri', '')}"
    if (status := fields.get("http.response.code")) is not None:
        yield "http_status", str(status)


def _version(facts: Facts) -> tuple[str, str]:
    """TLS version of a flow and how it is known: negotiated by the server, or only offered by the client (RFC 8446 4.2.1)."""
    fields = facts.fields
    if facts.service == "quic":
        return "TLS 1.3", "in QUIC"
    for name, how in (("tls.server.supported_version", "negotiated"), ("tls.server.version", "negotiated")):
        if isinstance(number := fields.get(name), int):
            return _VERSIONS.get(number, f"0x{number:04x}"), how
    offered = fields.get("tls.handshake.extensions.supported_version", ())
    real = [number for number in ((offered,) if isinstance(offered, int) else offered) if isinstance(number, int) and number in _VERSIONS]
    number = max(real, default=fields.get("tls.handshake.version"))
    return (_VERSIONS.get(number, f"0x{number:04x}"), "offered") if isinstance(number, int) else ("unknown", "hello not seen")


def collect(
    paths: Sequence[str | Path],
    options: FlowOptions,
    *,
    filters: Filters | None = None,
    progress: ProgressSink | None = None,
    skipped: Skipped | None = None,
) -> CaptureFacts:
    """Read captures and count; no model takes part. Raises InputError for files that cannot be read, as `read_flows`."""
    from trafficllm.capture.flows.assembly import read_flows

    counts, facts, cache = CountsBuilder(), CaptureFacts(filters or Filters()), FactsCache()
    for batch in read_flows(paths, options=options, counts=counts, progress=progress, skipped=skipped):
        facts.add(batch, cache)
    facts.counts = counts.build()
    return facts
