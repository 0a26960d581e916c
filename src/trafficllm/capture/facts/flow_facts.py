"""What the first payload bytes of a flow say: service, header fields, and where identifiers lie.

Fields carry tshark's names where tshark has one; several values make a tuple of int. The responder's TLS fields are
`tls.server.*`. Parsers read only the prefixes, stop at the first thing that does not fit, and never raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trafficllm.capture.facts.dns import dns_facts, dns_tcp_facts, looks_like_dns
from trafficllm.capture.facts.http import http_facts, looks_like_http
from trafficllm.capture.facts.tls import looks_like_tls, tls_facts
from trafficllm.core.types import ORIG, RESP, Facts, FlowBatch, Span

_TCP, _UDP = 6, 17
_DNS_PORTS = frozenset({53, 5353, 5355})
_QUIC_VERSIONS = frozenset({0x00000001, 0x6B3343CF})
_UDP_SERVICES = (("dhcp", (67, 68, 546, 547)), ("ntp", (123,)), ("netbios", (137, 138)), ("snmp", (161, 162)), ("syslog", (514,)))
_UDP_PORTS = {port: service for service, ports in _UDP_SERVICES for port in ports}

_NOTHING = Facts()

Found = tuple[str, dict[str, int | str | tuple[int, ...]], list[Span]]


def facts_of_flows(batch: FlowBatch) -> Iterator[Facts]:
    """Facts of every flow of a batch, in its order; a list of them all would cost as much in garbage collection as in parsing."""
    raw = batch.payload.tobytes()
    columns = (batch.proto.tolist(), batch.orig_p.tolist(), batch.resp_p.tolist(), batch.payload_ptr.tolist())
    for proto, orig_p, resp_p, (start, middle, end) in zip(*columns, strict=True):
        yield facts_of(proto, orig_p, resp_p, raw[start:middle], raw[middle:end]) if end > start else _NOTHING


def facts_of(proto: int, orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> Facts:
    """Facts of a flow from its payload prefixes (originator's, responder's).

    >>> facts_of(6, 40000, 22, b"SSH-2.0-x", b"SSH-2.0-y").service
    'ssh'
    """
    if not orig and not resp:
        return _NOTHING
    parser = _tcp if proto == _TCP else _udp if proto == _UDP else None
    if parser is None:
        return _NOTHING
    service, fields, spans = parser(orig_p, resp_p, orig, resp)
    return Facts(service=service, fields=fields, spans=tuple(spans))


def _tcp(orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> Found:
    if looks_like_tls(orig) or looks_like_tls(resp):
        return tls_facts(orig, resp)
    if looks_like_http(orig, resp):
        return http_facts(orig, resp)
    if orig_p in _DNS_PORTS or resp_p in _DNS_PORTS:
        return dns_tcp_facts(orig, resp)
    return _banner(orig_p, resp_p, orig, resp), {}, []


def _banner(orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> str:
    """A service by its greeting."""
    for service, from_orig, from_resp, pattern, ports in _BANNERS:
        if ports and orig_p not in ports and resp_p not in ports:
            continue
        if (from_orig and pattern.match(orig)) or (from_resp and pattern.match(resp)):
            return service
    return ""


_BANNERS = tuple(
    (service, "o" in sides, "r" in sides, re.compile(pattern, re.DOTALL), frozenset(ports))
    for service, sides, pattern, ports in (
        ("ssh", "or", rb"SSH-", ()),
        ("smtp", "r", rb"220", (25, 465, 587)),
        ("smtp", "r", rb"220.{0,120}SMTP", ()),
        ("ftp", "r", rb"220", (21, 2121)),
        ("ftp", "r", rb"220.{0,120}FTP", ()),
        ("pop3", "r", rb"\+OK", ()),
        ("imap", "r", rb"\* OK", ()),
        ("irc", "o", rb"(NICK|USER|PASS) ", tuple(range(6660, 6670))),
        ("smb", "or", rb".{4}[\xfe\xff]SMB", ()),
        ("rdp", "o", rb"\x03\x00.{3}\xe0", ()),
        ("bittorrent", "or", rb"\x13BitTorrent", ()),
        ("socks", "o", rb"[\x04\x05]", (1080,)),
        ("mysql", "r", rb".{3}\x00\x0a", (3306,)),
    )
)


def _udp(orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> Found:
    ports = {orig_p, resp_p}
    if ports & _DNS_PORTS and (looks_like_dns(orig) or looks_like_dns(resp)):
        return dns_facts(orig, resp)
    version = _quic_version(orig) or _quic_version(resp)
    if version:
        spans = [Span(d, 5, len(data), "encrypted") for d, data in ((ORIG, orig), (RESP, resp)) if len(data) > 5]
        return "quic", {"quic.version": version}, spans
    if orig[:1] == b"\x16" and orig[1:2] == b"\xfe":
        return "dtls", {}, []
    if orig[4:8] == b"\x21\x12\xa4\x42" or resp[4:8] == b"\x21\x12\xa4\x42":
        return "stun", {}, []
    if orig.startswith((b"M-SEARCH * HTTP/1.1", b"NOTIFY * HTTP/1.1")):
        _, fields, spans = http_facts(orig, resp)
        return "ssdp", fields, spans
    for port in sorted(ports):
        if port in _UDP_PORTS:
            return _UDP_PORTS[port], {}, []
    if orig.startswith((b"INVITE sip:", b"REGISTER sip:", b"OPTIONS sip:")) or resp.startswith(b"SIP/2.0"):
        return "sip", {}, []
    return "", {}, []


def _quic_version(data: bytes) -> int:
    """Version of a QUIC long header (RFC 9000 17.2), 0 if it is none."""
    if len(data) < 7 or data[0] & 0xC0 != 0xC0:
        return 0
    version = int.from_bytes(data[1:5], "big")
    known = version in _QUIC_VERSIONS or version >> 8 == 0xFF0000 or data[1:2] in {b"Q", b"T"}
    return version if known and data[5] <= 20 else 0
