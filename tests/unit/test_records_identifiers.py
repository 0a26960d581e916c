"""Two captures that are equal but for one identifier or set-up mark give one strict record: the list of the protocol, row by row."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from audit_captures import Flow, frames
from capture_samples import ethernet, ipv4, ipv6, pcap, tcp, udp

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import Record
from trafficllm.records import masks
from trafficllm.records.codec.codec import encode
from trafficllm.records.codec.flows import records_of

Timed = list[tuple[float, bytes]]
FLOW = Flow(
    bytes([10, 0, 0, 7]),
    bytes([172, 16, 3, 9]),
    50_000,
    1_700_000_000.0,
    b"",
    b"",
    options=b"\x01\x01\x08\x0a" + (1_000_000).to_bytes(4) + bytes(4),
)
ANSWERS = 40
WHOLE = CodecOptions(payload=(512, 512))
"""More payload than a record shows by default (96 bytes a direction), so that names deep in a handshake count too."""


def _vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size) + data


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + _vector(data, 2)


def _hello(
    name: bytes = b"www.example.org", random: bytes = b"R", session: bytes = b"S", share: bytes = b"K", ticket: bytes = b"T"
) -> bytes:
    extensions = _extension(0, _vector(b"\x00" + _vector(name, 2), 2)) + _extension(43, _vector(b"\x03\x04", 1))
    extensions += _extension(51, _vector(b"\x00\x1d" + _vector(share * 32, 2), 2)) + _extension(35, ticket * 16)
    body = b"\x03\x03" + random * 32 + _vector(session * 32, 1) + _vector(b"\x13\x01\xc0\x2b", 2) + b"\x01\x00" + _vector(extensions, 2)
    return b"\x16\x03\x01" + _vector(b"\x01" + _vector(body, 3), 2)


def _request(host: bytes = b"www.example.org", cookie: bytes = b"sid=abcdef", date: bytes = b"Mon, 01 Jan 2024 00:00:00 GMT") -> bytes:
    return b"GET /index.html HTTP/1.1\r\nHost: " + host + b"\r\nCookie: " + cookie + b"\r\nDate: " + date + b"\r\n\r\n"


def _certificate(name: bytes = b"www.example.org") -> bytes:
    """A TLS 1.2 server flight: hello, and a certificate whose subject is a common name (RFC 5280 section 4.1)."""
    hello = b"\x03\x03" + b"Q" * 32 + _vector(b"S" * 32, 1) + b"\xc0\x2b\x00"

    def der(tag: int, data: bytes) -> bytes:
        size = bytes([len(data)]) if len(data) < 128 else b"\x81" + bytes([len(data)])
        return bytes([tag]) + size + data

    subject = der(0x30, der(0x31, der(0x30, der(6, b"\x55\x04\x03") + der(12, name))))
    whole = der(0x30, der(0x30, der(2, b"\x01") + subject))
    flight = b"\x02" + _vector(hello, 3) + b"\x0b" + _vector(_vector(_vector(whole, 3), 3), 3)
    return b"\x16\x03\x03" + _vector(flight, 2)


def _dns(ident: int = 7, name: bytes = b"\x03www\x07example\x03org\x00", address: bytes = bytes([203, 0, 113, 5])) -> Timed:
    question = struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + name + b"\x00\x01\x00\x01"
    answer = struct.pack("!HHHHHH", ident, 0x8180, 1, 1, 0, 0) + name + b"\x00\x01\x00\x01"
    answer += b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + address
    a, b = FLOW.client, FLOW.server
    return [(1.0, ethernet(ipv4(17, udp(50_000, 53, question), a, b))), (1.02, ethernet(ipv4(17, udp(53, 50_000, answer), b, a)))]


def _tls(**names: bytes) -> Timed:
    return frames(replace(FLOW, request=_hello(**names), answer=_certificate()))


def _http(**values: bytes) -> Timed:
    return frames(replace(FLOW, dport=80, request=_request(**values), answer=b"HTTP/1.1 200 OK\r\n\r\n"))


def _long(extra: int) -> Timed:
    """More packets than a record holds; a source cut later has more of them."""
    out = frames(replace(FLOW, request=_hello(), answer=b"x" * 600))
    seq = FLOW.isn[1] + 601
    for n in range(ANSWERS + extra):
        segment = tcp(443, 50_000, seq + 100 * n, 2000, 0x18, b"y" * 100)
        out.append((FLOW.start + 0.1 + n * 0.01, ethernet(ipv4(6, segment, FLOW.server, FLOW.client))))
    return out


def _v6(label: int) -> Timed:
    out = []
    for k, (when, frame) in enumerate(_tls()):
        ends = (b"\x20\x01" + bytes(14), b"\x20\x02" + bytes(14))
        packet = bytearray(ipv6(6, frame[34:], *(ends if k in (0, 2, 3) else ends[::-1])))
        packet[1:4] = label.to_bytes(3)
        out.append((when, ethernet(bytes(packet), 0x86DD)))
    return out


def _frames_changed(change: Callable[[bytes], bytes]) -> Timed:
    return [(when, change(frame)) for when, frame in _tls()]


def _sums(frame: bytes) -> bytes:
    return frame[:24] + b"\xab\xcd" + frame[26:50] + b"\x12\x34" + frame[52:]


def _vlan(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00\x00\x2a" + frame[12:]


def _marked(**values: object) -> Timed:
    return frames(replace(FLOW, **{"request": _hello(), "answer": _certificate(), **values}))  # type: ignore[arg-type]


BASE = pcap(_tls())
PAIRS: dict[str, tuple[bytes, bytes]] = {
    "mac": (BASE, pcap(_marked(macs=bytes(range(12))))),
    "ip address": (BASE, pcap(_marked(client=bytes([192, 0, 2, 77]), server=bytes([198, 51, 100, 3])))),
    "originator port": (BASE, pcap(_marked(sport=61_234))),
    "responder port": (BASE, pcap(_marked(dport=993))),
    "ip identification": (BASE, pcap(_marked(ident=40_000))),
    "flow label": (pcap(_v6(0)), pcap(_v6(0xABCDE))),
    "checksums": (BASE, pcap(_frames_changed(_sums))),
    "absolute time": (BASE, pcap(_marked(start=1_600_000_123.0))),
    "frame number": (BASE, pcap([(1_699_999_999.0, ethernet(bytes(28), 0x0806))] * 3 + _tls())),
    "stream number": (BASE, pcap([*frames(replace(FLOW, sport=1999, start=FLOW.start - 60)), *_tls()])),
    "seq and ack": (BASE, pcap(_marked(isn=(4_294_967_000, 77)))),
    "tcp timestamps": (BASE, pcap(_marked(options=b"\x01\x01\x08\x0a" + (3_900_000_000).to_bytes(4) + bytes(4)))),
    "ttl": (BASE, pcap(_marked(ttl=(128, 243)))),
    "window": (BASE, pcap(_marked(window=29_200))),
    "link type": (BASE, pcap([(when, frame[14:]) for when, frame in _tls()], link=101)),
    "padding": (BASE, pcap(_marked(padding=6))),
    "vlan tag": (BASE, pcap(_frames_changed(_vlan))),
    "snap length": (BASE, pcap(_tls(), snaplen=65_535)),
    "captured packets and flow totals": (pcap(_long(0)), pcap(_long(17))),
    "sni": (BASE, pcap(_tls(name=b"www.another.com"))),
    "tls random": (BASE, pcap(_tls(random=b"Z"))),
    "tls session id": (BASE, pcap(_tls(session=b"Z"))),
    "tls key share": (BASE, pcap(_tls(share=b"Z"))),
    "tls ticket": (BASE, pcap(_tls(ticket=b"Z"))),
    "certificate name": (BASE, pcap(_marked(answer=_certificate(b"www.another.com")))),
    "host": (pcap(_http()), pcap(_http(host=b"www.another.com"))),
    "cookie": (pcap(_http()), pcap(_http(cookie=b"sid=zyxwvu"))),
    "http date": (pcap(_http()), pcap(_http(date=b"Tue, 02 Jan 2025 11:11:11 GMT"))),
    "dns name": (pcap(_dns()), pcap(_dns(name=b"\x03ftp\x07another\x03com\x00"))),
    "dns id": (pcap(_dns()), pcap(_dns(ident=40_001))),
    "dns address": (pcap(_dns()), pcap(_dns(address=bytes([198, 51, 100, 250])))),
}
CARRIED = {
    "originator port",
    "responder port",
    "ttl",
    "window",
    "sni",
    "tls random",
    "tls session id",
    "tls key share",
    "tls ticket",
    "certificate name",
    "host",
    "cookie",
    "http date",
    "dns name",
    "dns id",
    "dns address",
}
"""What the codec could show: under `raw` these two captures do differ, so that the test can fail."""


def _record(data: bytes, place: Path) -> Record:
    place.write_bytes(data)
    pairs = [pair for batch in read_flows([place]) for pair in records_of(batch)]
    return next(record for record, meta in pairs if meta.orig_p != 1999)


def _same(name: str, tmp_path: Path, profile: str) -> bool:
    shown = [masks.apply(_record(data, tmp_path / f"{k}.pcap"), profile) for k, data in enumerate(PAIRS[name])]
    texts = [encode(record, WHOLE) for record in shown]
    return texts[0] == texts[1]


@pytest.mark.parametrize("name", PAIRS)
def test_an_identifier_leaves_no_trace_in_a_strict_record(name: str, tmp_path: Path) -> None:
    assert PAIRS[name][0] != PAIRS[name][1]
    assert _same(name, tmp_path, "strict")
    wiped = [masks.wiped(masks.apply(_record(data, tmp_path / f"{k}.pcap"))) for k, data in enumerate(PAIRS[name])]
    if name not in {"captured packets and flow totals"}:
        assert wiped[0].payload == wiped[1].payload


@pytest.mark.parametrize("name", sorted(CARRIED))
def test_without_masks_the_same_captures_differ(name: str, tmp_path: Path) -> None:
    assert not _same(name, tmp_path, "raw")
