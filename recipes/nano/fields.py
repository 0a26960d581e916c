"""Field questions: what a record's header fields say, as tshark prints it, from decoded truth."""

from __future__ import annotations

from collections.abc import Iterator

from trafficllm.core.types import Record
from trafficllm.records import masks
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import ICMP_PROTOS, TCP, fact_value

PACKETS = 3
"""Packets asked about one by one."""
FACTS = (
    "dns.qry.type",
    "dns.flags.rcode",
    "dns.count.answers",
    "http.request.method",
    "http.response.code",
    "tls.handshake.version",
    "tls.handshake.extensions_alpn_str",
)
_PORTS = {6: "tcp", 17: "udp"}


def shown(raw: Record) -> Record:
    """The record a field question is asked about: ports and time to live as they were, names and secrets still hidden."""
    return masks.wiped(masks.apply(raw, "strict", keep=frozenset({"ports", "ttl"})))


def questions(record: Record) -> Iterator[tuple[str, str]]:
    """(field, value as tshark prints it) of everything that can be asked of a record."""
    if record.kind != "flow" or record.proto < 0:
        return
    yield "ip.version", str(record.ip_version)
    yield "ip.proto", str(record.proto)
    if record.ports is not None and record.proto in _PORTS:
        for side, port in zip(("srcport", "dstport"), record.ports, strict=True):
            yield f"{_PORTS[record.proto]}.{side}", str(port)
    if record.ttls and record.ttls[0] >= 0:
        yield "ip.ttl", str(record.ttls[0])
    if record.proto in ICMP_PROTOS and record.icmp >= 0:
        yield "icmp.type", str(record.icmp >> 8)
    yield from _packets(record)
    for name in FACTS:
        value = fact_value(record.facts.fields, name, u.FACTS[name][0])
        if value is not None:
            yield name, f"0x{value:04x}" if name == "tls.handshake.version" and isinstance(value, int) else str(value)


def _packets(record: Record) -> Iterator[tuple[str, str]]:
    """Size, flags and direction of the first packets."""
    for k in range(min(PACKETS, len(record.dirs))):
        place = f" of packet {k + 1}"
        if k < len(record.sizes) and record.sizes[k] >= 0:
            yield f"{'tcp.len' if record.proto == TCP else 'data.len'}{place}", str(record.sizes[k])
        if record.proto == TCP and k < len(record.flags) and record.flags[k] >= 0:
            yield f"tcp.flags{place}", f"0x{record.flags[k]:04x}"
