"""What the first payload bytes of a flow say: service, header fields, and where identifiers lie.

Fields carry tshark's names where tshark has one; several values make a tuple of int. The responder's TLS fields are
`tls.server.*`. Parsers read only the prefixes, stop at the first thing that does not fit, and never raise.
"""

from __future__ import annotations

from collections.abc import Callable

from trafficllm.capture.facts_dns import dns_facts, dns_tcp_facts, looks_like_dns
from trafficllm.capture.facts_http import http_facts, looks_like_http
from trafficllm.capture.facts_tls import looks_like_tls, tls_facts
from trafficllm.core.types import ORIG, RESP, Facts, Span

_TCP, _UDP = 6, 17
_DNS_PORTS = frozenset({53, 5353, 5355})
_QUIC_VERSIONS = frozenset({0x00000001, 0x6B3343CF})
_UDP_PORTS = {67: "dhcp", 68: "dhcp", 546: "dhcp", 547: "dhcp", 123: "ntp", 137: "netbios", 138: "netbios", 161: "snmp", 162: "snmp", 514: "syslog"}

Found = tuple[str, dict[str, int | str | tuple[int, ...]], list[Span]]


def facts_of(proto: int, orig_p: int, resp_p: int, orig: bytes, resp: bytes) -> Facts:
    """Facts of a flow from its payload prefixes (originator's, responder's).

    >>> facts_of(6, 40000, 22, b"SSH-2.0-x", b"SSH-2.0-y").service
    'ssh'
    """
    if not orig and not resp:
        return Facts()
    parser = _tcp if proto == _TCP else _udp if proto == _UDP else None
    if parser is None:
        return Facts()
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
    for service, test in _BANNERS:
        if test(orig, resp, {orig_p, resp_p}):
            return service
    return ""


_BANNERS: tuple[tuple[str, Callable[[bytes, bytes, set[int]], bool]], ...] = (
    ("ssh", lambda orig, resp, ports: orig.startswith(b"SSH-") or resp.startswith(b"SSH-")),
    ("smtp", lambda orig, resp, ports: resp.startswith(b"220") and bool(ports & {25, 465, 587} or b"SMTP" in resp[:128].upper())),
    ("ftp", lambda orig, resp, ports: resp.startswith(b"220") and bool(ports & {21, 2121} or b"FTP" in resp[:128].upper() or orig.startswith(b"USER "))),
    ("pop3", lambda orig, resp, ports: resp.startswith(b"+OK")),
    ("imap", lambda orig, resp, ports: resp.startswith(b"* OK")),
    ("irc", lambda orig, resp, ports: orig[:5] in {b"NICK ", b"USER ", b"PASS "} and bool(ports & set(range(6660, 6670)))),
    ("smb", lambda orig, resp, ports: orig[4:8] in {b"\xffSMB", b"\xfeSMB"} or resp[4:8] in {b"\xffSMB", b"\xfeSMB"}),
    ("rdp", lambda orig, resp, ports: orig[:2] == b"\x03\x00" and orig[5:6] == b"\xe0"),
    ("bittorrent", lambda orig, resp, ports: orig.startswith(b"\x13BitTorrent") or resp.startswith(b"\x13BitTorrent")),
    ("socks", lambda orig, resp, ports: 1080 in ports and orig[:1] in {b"\x04", b"\x05"}),
    ("mysql", lambda orig, resp, ports: resp[3:5] == b"\x00\x0a" and 3306 in ports),
)  # fmt: skip


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
