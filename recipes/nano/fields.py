"""Field questions: what a record's header fields and names say, as tshark prints them, from decoded truth.

Three views of a record are asked about. `read`: ports and time to live are shown, and what is shown is asked for. `hidden`: the plain
strict record, asked for what its masks hide and the rest of it lets guess: exact windows, times to live, the service's port, the domain
behind the server's name. `named`: names are shown, and their domain is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from trafficllm.core.types import Record
from trafficllm.records import masks
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import ICMP_PROTOS, TCP, fact_value, load_of
from trafficllm.records.codec.page_load import PARTS

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
    "quic.version",
)
NAMES = ("tls.handshake.extensions_server_name", "dns.qry.name", "http.host")
"""Facts whose domain is asked for."""
PASSING = 32768
"""Ports from here on are drawn by the client's system for one connection (Linux's range): nothing foretells them."""
LONGEST = 32
"""Characters of a domain that is asked for: longer ones are made up by machines."""
_PORTS = {6: "tcp", 17: "udp"}
_HEX = {"tls.handshake.version": 4, "quic.version": 8}
_SHARED = frozenset({"ac", "co", "com", "edu", "gob", "gov", "net", "or", "org"})
"""Second-level labels under which countries register names (co.uk, com.br)."""
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z][a-z0-9-]*")


def shown(raw: Record) -> Record:
    """Ports and time to live as they were, names and secrets still hidden."""
    return masks.wiped(masks.apply(raw, "strict", keep=frozenset({"ports", "ttl"})))


def hidden(raw: Record) -> Record:
    """The plain strict record."""
    return masks.wiped(masks.apply(raw, "strict"))


def named(raw: Record) -> Record:
    """The strict record with the names of servers and queries."""
    keep = frozenset({"tls.sni", "dns.name", "http.host", "payload_name"})
    return masks.wiped(masks.apply(raw, "strict", keep=keep))


def questions(record: Record) -> Iterator[tuple[str, str]]:
    """(field, value as tshark prints it) of everything that a record shows; of a cell sequence what its load adds up to."""
    if record.kind == "cells":
        yield from _cells(record)
    if record.kind != "flow" or record.proto < 0:
        return
    yield "ip.version", str(record.ip_version)
    yield "ip.proto", str(record.proto)
    if record.ports is not None and record.proto in _PORTS:
        for side, port in zip(("srcport", "dstport"), record.ports, strict=True):
            if port < PASSING:
                yield f"{_PORTS[record.proto]}.{side}", str(port)
    if record.ttls and record.ttls[0] >= 0:
        yield "ip.ttl", str(record.ttls[0])
    if record.proto in ICMP_PROTOS and record.icmp >= 0:
        yield "icmp.type", str(record.icmp >> 8)
    yield from _packets(record)
    for name in FACTS:
        value = fact_value(record.facts.fields, name, u.FACTS[name][0])
        if value is not None:
            yield name, f"0x{value:0{_HEX[name]}x}" if name in _HEX and isinstance(value, int) else str(value)


def _packets(record: Record) -> Iterator[tuple[str, str]]:
    """Size, flags and direction of the first packets."""
    for k in range(min(PACKETS, len(record.dirs))):
        place = f" of packet {k + 1}"
        if k < len(record.sizes) and record.sizes[k] >= 0:
            yield f"{'tcp.len' if record.proto == TCP else 'data.len'}{place}", str(record.sizes[k])
        if record.proto == TCP and k < len(record.flags) and record.flags[k] >= 0:
            yield f"tcp.flags{place}", f"0x{record.flags[k]:04x}"


def _cells(record: Record) -> Iterator[tuple[str, str]]:
    load = load_of(record)
    names = ("cells sent", "cells received", *(f"cells sent up to part {part}" for part in range(1, PARTS + 1)))
    yield from ((name, str(value)) for name, value in zip(names, load, strict=False))


def guesses(raw: Record) -> Iterator[tuple[str, str]]:
    """(field, value) of what the strict masks hide of a raw flow and the rest of it lets guess: of the first packet each way its window
    and time to live, ports that name a service, domains."""
    if raw.kind != "flow" or raw.proto < 0:
        return
    for end in (0, 1):
        k = raw.dirs.index(end) if end in raw.dirs else len(raw.dirs)
        place = f" of the {('client', 'server')[end]}"
        if k < len(raw.windows) and raw.windows[k] >= 0:
            yield f"tcp.window_size_value{place}", str(raw.windows[k])
        if k < len(raw.ttls) and raw.ttls[k] >= 0:
            yield f"ip.ttl{place}", str(raw.ttls[k])
    if raw.ports is not None and raw.proto in _PORTS and raw.ports[1] < PASSING:
        yield f"{_PORTS[raw.proto]}.dstport", str(raw.ports[1])
    yield from domains(raw)


def domains(raw: Record) -> Iterator[tuple[str, str]]:
    """(field, registrable domain) of the names that a raw record's facts hold."""
    for name in NAMES:
        domain = registrable(str(raw.facts.fields.get(name, "")))
        if domain and len(domain) <= LONGEST:
            yield f"domain of {name}", domain


def registrable(name: str) -> str:
    """The part of a host name that somebody registered, "" where there is none: two labels, three below a country's shared ones.

    >>> registrable("www.Example.co.uk:8080"), registrable("10.0.0.1")
    ('example.co.uk', '')
    """
    host = name.lower().rstrip(".").split(":", 1)[0]
    if not _HOST.fullmatch(host):
        return ""
    labels = host.split(".")
    return ".".join(labels[-3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SHARED else -2 :])


VIEWS: dict[str, tuple[Callable[[Record], Record], Callable[[Record], Iterator[tuple[str, str]]]]] = {
    "read": (shown, lambda raw: questions(shown(raw))),
    "hidden": (hidden, guesses),
    "named": (named, domains),
}
"""View -> what shows a raw record, and what of the raw record is asked then."""
