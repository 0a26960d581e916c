"""What the first payload bytes of a flow say: service, header fields, and where identifiers lie.

Fields carry tshark's names where tshark has one; several values make a tuple of int. The responder's TLS fields are
`tls.server.*`. Parsers read only the prefixes and what the reader kept beyond them (`FlowBatch.beyond`), stop at the first thing
that does not fit, and never raise. Spans lie within the prefixes and cover all that is not a protocol's own words and numbers:
where no parser knows the protocol, one of kind "content" covers everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from trafficllm.capture.facts import ciphertext, logins, services, text
from trafficllm.capture.facts.dns import dns_facts, dns_tcp_facts, looks_like_dns
from trafficllm.capture.facts.dtls import dtls_fields, looks_like_dtls
from trafficllm.capture.facts.gquic import gquic_fields
from trafficllm.capture.facts.http import http_facts, looks_like_http
from trafficllm.capture.facts.http2 import PREFACE, http2_facts
from trafficllm.capture.facts.keys import FactsCache, Ports, keys_of
from trafficllm.capture.facts.quic import quic_fields, quic_version
from trafficllm.capture.facts.spans import span_of
from trafficllm.capture.facts.tls import hello_start, looks_like_tls, server_hello_start, tls_facts
from trafficllm.core.types import I64, ORIG, RESP, Facts, FlowBatch, Span

_TCP, _UDP, _ESP = 6, 17, 50
_DNS_PORTS = frozenset({53, 5353, 5355})
_TELNET = frozenset({23, 2323})
_IKE_PORTS = frozenset({500, 4500})
_SSH_PORT, _QUIC_PORT = 22, 443
_UDP_SERVICES = (("dhcp", (67, 68, 546, 547)), ("ntp", (123,)), ("netbios", (137, 138)), ("snmp", (161, 162)), ("syslog", (514,)))
_UDP_PORTS = {port: service for service, ports in _UDP_SERVICES for port in ports}

_PORTS = Ports(
    tcp={*_DNS_PORTS, *_TELNET, _SSH_PORT, *(port for row in services.TCP for port in row.ports)},
    udp={*_DNS_PORTS, *_IKE_PORTS, _QUIC_PORT, *_UDP_PORTS, *(port for row in services.UDP for port in row.ports)},
    dns=_DNS_PORTS,
)
_PIECE = 8192
"""Flows that are looked at together: a list of the facts of 32,768 costs as much in garbage collection as parsing does."""
_MANY = 8
"""Flows from which it pays to look for those alike: numpy costs as much as parsing five."""
_NOTHING = Facts()
_NO_BYTES = (b"", b"")

Found = tuple[str, dict[str, int | str | tuple[int, ...]], list[Span]]


def facts_of_flows(batch: FlowBatch, *, rows: I64 | None = None, cache: FactsCache | None = None) -> Iterator[Facts]:
    """Facts of every flow of a batch, or of these `rows` of it, in their order.

    Flows that differ only in what no fact depends on (random numbers, identifiers, ciphertext, a client's port) share theirs, and with
    those of earlier batches where a `cache` is given.
    """
    rows = np.arange(len(batch)) if rows is None else rows
    if len(rows) < _MANY:
        return _one_by_one(batch, rows)
    cache = FactsCache() if cache is None else cache
    return chain.from_iterable(_facts_of_some(batch, rows[start : start + _PIECE], cache) for start in range(0, len(rows), _PIECE))


def _one_by_one(batch: FlowBatch, rows: I64) -> Iterator[Facts]:
    columns = (batch.proto[rows].tolist(), batch.orig_p[rows].tolist(), batch.resp_p[rows].tolist(), batch.payload_ptr[rows].tolist())
    for proto, orig_p, resp_p, (a, b, c), beyond in zip(*columns, beyond_of(batch, rows), strict=True):
        yield facts_of(proto, orig_p, resp_p, batch.payload[a:b].tobytes(), batch.payload[b:c].tobytes(), beyond=beyond)


def _facts_of_some(batch: FlowBatch, rows: I64, cache: FactsCache) -> Iterator[Facts]:
    there = batch.payload_ptr[rows, 2] > batch.payload_ptr[rows, 0]
    of_unique = np.zeros(len(rows), dtype=np.int64)  # 0: no payload
    unique, of_unique[there] = _unique(batch, rows[there], cache)
    return map([_NOTHING, *unique].__getitem__, of_unique.tolist())


def _unique(batch: FlowBatch, rows: I64, cache: FactsCache) -> tuple[list[Facts], I64]:
    """Facts of the flows in `rows` whose keys are different, and for each flow its place among them, from 1 on."""
    keys = keys_of(batch, rows, _PORTS, cache.seed)
    new = np.flatnonzero(keys.first == np.arange(len(rows)))
    place = np.zeros(len(rows), dtype=np.int64)
    place[new] = np.arange(1, len(new) + 1)
    payload, beyond = batch.payload.data, batch.beyond.data
    more = batch.beyond_ptr[rows[new]] if len(batch.beyond) else np.zeros((len(new), 3), dtype=np.int64)
    some = rows[new]
    columns = (batch.proto[some], batch.orig_p[some], batch.resp_p[some], *batch.payload_ptr[some].T, *more.T)
    numbers = [column.tolist() for column in columns]  # not a list a flow: garbage collection would look at each
    unique: list[Facts] = []
    lookup, raw = cache.lookup, keys.raw.tobytes()
    for i, (at, end) in enumerate(zip(keys.starts[new].tolist(), keys.ends[new].tolist(), strict=True)):
        key = raw[at:end]
        facts = lookup(key)
        if facts is None and (facts := cache.get(key)) is not None:
            lookup = cache.lookup
        if facts is None:
            proto, orig_p, resp_p, a, b, c, x, y, z = (column[i] for column in numbers)
            rest = (beyond[x:y].tobytes(), beyond[y:z].tobytes()) if z > x else _NO_BYTES
            facts = facts_of(proto, orig_p, resp_p, payload[a:b].tobytes(), payload[b:c].tobytes(), beyond=rest)
            cache.put(key, facts)
            lookup = cache.lookup
        unique.append(facts)
    return unique, place[keys.first]


def beyond_of(batch: FlowBatch, rows: Sequence[int] | I64) -> Sequence[tuple[bytes, bytes]]:
    """What lies beyond both prefixes of these flows of a batch, for `facts_of`."""
    if not len(batch.beyond):
        return [_NO_BYTES] * len(rows)
    edges = batch.beyond_ptr[np.asarray(rows, dtype=np.int64)].tolist()
    raw = batch.beyond
    return [(raw[a:b].tobytes(), raw[b:c].tobytes()) if c > a else _NO_BYTES for a, b, c in edges]


def facts_of(proto: int, orig_p: int, resp_p: int, orig: bytes, resp: bytes, *, beyond: tuple[bytes, bytes] = _NO_BYTES) -> Facts:
    """Facts of a flow from its payload prefixes (originator's, responder's) and what was kept `beyond` them.

    >>> facts_of(6, 40000, 22, b"SSH-2.0-x", b"SSH-2.0-y").service
    'ssh'
    """
    if not orig and not resp:
        return _NOTHING
    if proto == _TCP:
        service, fields, spans = _tcp(orig_p, resp_p, orig + beyond[0], resp + beyond[1])
        if beyond[0] or beyond[1]:
            spans = _within(spans, (len(orig), len(resp)))
    elif proto == _UDP:
        service, fields, spans = _udp(orig_p, resp_p, orig, resp)
        _add_hello(service, fields, beyond, orig, resp)
    else:
        return Facts(spans=tuple(ciphertext.whole(orig, resp, "encrypted" if proto == _ESP else "content")))
    return Facts(service=service, fields=fields, spans=tuple(spans))


def _within(spans: list[Span], ends: tuple[int, int]) -> list[Span]:
    """Spans as far as they lie in the prefixes."""
    return [s if s.end <= ends[s.dir] else span_of(s.dir, s.start, ends[s.dir], s.kind) for s in spans if s.start < ends[s.dir]]


def _add_hello(service: str, fields: dict[str, int | str | tuple[int, ...]], beyond: tuple[bytes, bytes], orig: bytes, resp: bytes) -> None:
    """Fields of a QUIC or DTLS client's hello, from kept datagrams or from a prefix that is a single one."""
    datagrams = _datagrams(beyond[0] or beyond[1]) or [orig or resp]
    if service == "quic":
        fields.update(quic_fields(datagrams) or gquic_fields(datagrams[0]))
    elif service == "dtls" or (beyond != _NO_BYTES and looks_like_dtls(datagrams[0])):
        fields.update(dtls_fields(datagrams))


def _datagrams(kept: bytes) -> list[bytes]:
    """Datagrams that stand behind their lengths."""
    out, at = [], 0
    while at + 2 <= len(kept):
        size = int.from_bytes(kept[at : at + 2], "big")
        out.append(kept[at + 2 : at + 2 + size])
        at += 2 + size
    return out


def _tcp(orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> Found:
    if looks_like_tls(orig) or looks_like_tls(resp):
        return tls_facts(orig, resp)
    start = hello_start(orig)
    if start < 0:
        return _plain(orig_p, resp_p, orig, resp)
    answer = server_hello_start(resp)
    service, fields, spans = _plain(orig_p, resp_p, orig[:start], resp if answer < 0 else resp[:answer])
    _, hello, more = tls_facts(orig, resp, starts=(start, answer))
    return service or "tls", {**fields, **hello}, [*spans, *more]  # STARTTLS, CONNECT, SOCKS...: the service stays what it was


def _plain(orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> Found:
    """A TCP flow, or its part before TLS."""
    if looks_like_http(orig, resp):
        return http_facts(orig, resp)
    if orig.startswith(PREFACE):
        return http2_facts(orig, resp)
    if orig_p in _DNS_PORTS or resp_p in _DNS_PORTS:
        return dns_tcp_facts(orig, resp)
    service, fields = services.recognised(services.TCP, (orig_p, resp_p), orig, resp)
    if service in _SESSIONS:
        return service, fields, _SESSIONS[service](orig, resp)
    if service in _BINARY:
        return service, fields, ciphertext.whole(orig, resp, "content")
    return service, fields, _unnamed(frozenset((orig_p, resp_p)), orig, resp)


_SESSIONS: dict[str, Callable[[bytes, bytes], list[Span]]] = {
    **text.SESSIONS,
    "redis": text.redis,
    "ssh": ciphertext.ssh,
    "mysql": logins.mysql,
}
_BINARY = frozenset({"smb", "rdp", "bittorrent", "socks"})


def _unnamed(ports: frozenset[int], orig: bytes, resp: bytes) -> list[Span]:
    """Spans of protocols over TCP that the codec has no name for."""
    if text.looks_like_inline_redis(orig, resp):
        return text.redis(orig, resp)
    if text.looks_like_xmpp(orig) or text.looks_like_xmpp(resp):
        return text.xmpp(orig, resp)
    if text.looks_like_sip(orig) or text.looks_like_sip(resp):
        return text.sip(orig, resp)
    if ports & _TELNET or text.looks_like_telnet(orig) or text.looks_like_telnet(resp):
        return text.telnet(orig, resp)
    if logins.looks_like_postgresql(orig):
        return logins.postgresql(orig, resp)
    if logins.looks_like_ldap(orig):
        return logins.ldap(orig, resp)
    return ciphertext.whole(orig, resp, "encrypted" if _SSH_PORT in ports else "content")


def _udp(orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> Found:
    ports = {orig_p, resp_p}
    if ports & _DNS_PORTS and (looks_like_dns(orig) or looks_like_dns(resp)):
        return dns_facts(orig, resp)
    version = quic_version(orig) or quic_version(resp)
    if version:
        spans = [span_of(d, 5, len(data), "encrypted") for d, data in ((ORIG, orig), (RESP, resp)) if len(data) > 5]
        return "quic", {"quic.version": version}, spans
    if looks_like_dtls(orig):
        return "dtls", {}, ciphertext.dtls(orig, resp)
    if logins.looks_like_stun(orig) or logins.looks_like_stun(resp):
        return "stun", _stun_fields(orig, resp), logins.stun(orig, resp)
    if orig.startswith((b"M-SEARCH * HTTP/1.1", b"NOTIFY * HTTP/1.1")):
        _, fields, spans = http_facts(orig, resp)
        return "ssdp", fields, spans
    service = next((_UDP_PORTS[port] for port in sorted(ports) if port in _UDP_PORTS), "")
    if not service and (text.looks_like_sip(orig) or text.looks_like_sip(resp)):
        return "sip", {}, text.sip(orig, resp)
    if service:
        return service, {}, ciphertext.whole(orig, resp, "content")
    service, fields = services.recognised(services.UDP, (orig_p, resp_p), orig, resp)
    return service, fields, _unnamed_datagrams(frozenset(ports), orig, resp)


def _stun_fields(orig: bytes, resp: bytes) -> dict[str, int | str | tuple[int, ...]]:
    """Type of the first STUN message (RFC 8489 5)."""
    return {"stun.type": int.from_bytes((orig if logins.looks_like_stun(orig) else resp)[:2], "big")}


def _unnamed_datagrams(ports: frozenset[int], orig: bytes, resp: bytes) -> list[Span]:
    """Spans of datagrams that the codec has no name for, or that the port alone tells."""
    if ciphertext.looks_like_dtls_record(orig) or ciphertext.looks_like_dtls_record(resp):
        return ciphertext.dtls(orig, resp)
    if ciphertext.looks_like_wireguard(orig, resp):
        return ciphertext.whole(orig, resp, skip=4)
    if ports & _IKE_PORTS:
        return ciphertext.ike(orig, resp)
    if _QUIC_PORT in ports and ciphertext.looks_like_short_quic(orig, resp):
        return ciphertext.whole(orig, resp)
    return ciphertext.whole(orig, resp, "content")
