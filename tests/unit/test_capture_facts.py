from __future__ import annotations

import struct
from pathlib import Path

import pytest

from trafficllm.capture.facts.flow_facts import beyond_of, facts_of, facts_of_flows
from trafficllm.capture.facts.tls import ja4
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.types import Facts


def vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(data, 2)


def client_hello(*, ciphers: tuple[int, ...] = (0x0A0A, 0x1301, 0xC02B), session: bytes = b"S" * 32) -> bytes:
    extensions = extension(0x1A1A, b"") + extension(0, vector(b"\x00" + vector(b"www.example.org", 2), 2))
    extensions += extension(16, vector(vector(b"h2", 1) + vector(b"http/1.1", 1), 2))
    extensions += extension(43, vector(b"\x2a\x2a\x03\x04\x03\x03", 1)) + extension(13, vector(b"\x04\x03\x08\x04", 2))
    extensions += extension(51, vector(b"\x00\x1d" + vector(b"K" * 32, 2), 2)) + extension(35, b"ticket")
    suites = vector(b"".join(cipher.to_bytes(2, "big") for cipher in ciphers), 2)
    body = b"\x03\x03" + b"R" * 32 + vector(session, 1) + suites + b"\x01\x00" + vector(extensions, 2)
    return b"\x16\x03\x01" + vector(b"\x01" + vector(body, 3), 2)


def server_hello() -> bytes:
    body = b"\x03\x03" + b"Q" * 32 + vector(b"S" * 32, 1) + b"\x13\x01\x00" + vector(extension(43, b"\x03\x04"), 2)
    return b"\x16\x03\x03" + vector(b"\x02" + vector(body, 3), 2)


def held(facts: Facts, kind: str, orig: bytes, resp: bytes) -> list[bytes]:
    return [(orig, resp)[span.dir][span.start : span.end] for span in facts.spans if span.kind == kind]


def test_a_client_hello_and_its_identifiers() -> None:
    orig, resp = client_hello(), server_hello() + b"\x17\x03\x03\x00\x05hello"
    facts = facts_of(6, 40000, 443, orig, resp)
    assert facts.service == "tls"
    assert facts.fields["tls.handshake.version"] == 0x0303
    assert facts.fields["tls.handshake.ciphersuite"] == (0x0A0A, 0x1301, 0xC02B)
    assert facts.fields["tls.handshake.extensions_server_name"] == "www.example.org"
    assert facts.fields["tls.handshake.extensions_alpn_str"] == "h2,http/1.1"
    assert facts.fields["tls.server.ciphersuite"] == 0x1301
    assert facts.fields["tls.server.supported_version"] == 0x0304
    for kind, expected in {
        "tls.random": [b"R" * 32, b"Q" * 32],
        "tls.session_id": [b"S" * 32, b"S" * 32],
        "tls.sni": [b"www.example.org"],
        "tls.ticket": [b"ticket"],
        "encrypted": [b"hello"],
    }.items():
        assert held(facts, kind, orig, resp) == expected
    assert b"K" * 32 in held(facts, "tls.key_share", orig, resp)[0]


def test_ja4_counts_without_grease_and_needs_the_whole_hello() -> None:
    name = str(facts_of(6, 1, 443, client_hello(), b"").fields["tls.handshake.ja4"])
    assert name.startswith("t13d0206h2_")
    assert [len(part) for part in name.split("_")] == [10, 12, 12]
    assert "tls.handshake.ja4" not in facts_of(6, 1, 443, client_hello()[:120], b"").fields


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(item, 16) for item in text.split())


def test_ja4_of_the_published_example() -> None:
    fields: dict[str, int | str | tuple[int, ...]] = {
        "tls.handshake.version": 0x0303,
        "tls.handshake.extensions.supported_version": (0x0304, 0x0303),
        "tls.handshake.ciphersuite": numbers("002f 0035 009c 009d 1301 1302 1303 c013 c014 c02b c02c c02f c030 cca8 cca9"),
        "tls.handshake.extension.type": numbers("0000 0010 0005 000a 000b 000d 0012 0015 0017 001b 0023 002b 002d 0033 4469 ff01"),
        "tls.handshake.sig_hash_alg": (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601),
        "tls.handshake.extensions_alpn_str": "h2,http/1.1",
    }
    assert ja4(fields) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_a_hello_split_over_records_keeps_its_places() -> None:
    whole = client_hello()
    body = whole[5:]
    orig = b"\x16\x03\x01" + vector(body[:100], 2) + b"\x16\x03\x01" + vector(body[100:], 2)
    facts = facts_of(6, 1, 443, orig, b"")
    assert b"".join(held(facts, "tls.sni", orig, b"")) == b"www.example.org"
    assert "tls.handshake.ja4" in facts.fields


def dns(ident: int, flags: int, name: bytes, *, answers: bytes = b"", count: int = 0) -> bytes:
    labels = b"".join(vector(label, 1) for label in name.split(b".")) + b"\x00"
    return struct.pack("!HHHHHH", ident, flags, 1, count, 0, 0) + labels + b"\x00\x10\x00\x01" + answers


def test_dns_questions_answers_and_their_identifiers() -> None:
    answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\x01\x02\x03\x04"
    orig = dns(7, 0x0100, b"t.example.org") + dns(8, 0x0100, b"two.org")
    resp = dns(7, 0x8183, b"t.example.org", answers=answer, count=1)
    facts = facts_of(17, 5000, 53, orig, resp)
    assert facts.service == "dns"
    assert (facts.fields["dns.qry.name"], facts.fields["dns.qry.type"], facts.fields["dns.flags.rcode"]) == ("t.example.org", 16, 3)
    assert (facts.fields["dns.qry.name.len"], facts.fields["dns.count.labels"], facts.fields["dns.resp.type"]) == (13, 3, (1,))
    assert held(facts, "dns.address", orig, resp) == [b"\x01\x02\x03\x04"]
    assert held(facts, "dns.id", orig, resp) == [b"\x00\x07", b"\x00\x08", b"\x00\x07"]
    assert [name.count(b"org") for name in held(facts, "dns.name", orig, resp)] == [1, 1, 1]
    framed = facts_of(6, 5000, 53, vector(orig[: len(dns(7, 0, b"t.example.org"))], 2), b"")
    assert framed.fields["dns.qry.name"] == "t.example.org"


def test_dns_loops_and_nonsense_end() -> None:
    loop = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c" + b"\x00\x01\x00\x01"
    assert facts_of(17, 1, 53, loop, b"").service == "dns"
    assert facts_of(17, 1, 53, b"\xff" * 40, b"").service == ""


def test_http_requests_and_responses() -> None:
    orig = b"GET /secret?id=1 HTTP/1.1\r\nHost: example.org\r\nCookie: sid=42\r\nX-Token:  abc \r\n\r\nPOST /b HTTP/1.1\r\nHost: b.org\r\n"
    resp = b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok"
    facts = facts_of(6, 40000, 8080, orig, resp)
    assert facts.service == "http"
    assert facts.fields["http.request.method"] == "GET"
    assert facts.fields["http.request.uri"] == "/secret?id=1"
    assert facts.fields["http.host"] == "example.org"
    assert facts.fields["http.response.code"] == 404
    assert facts.fields["http.request.header_count"] == 3
    assert held(facts, "http.uri", orig, resp) == [b"/secret?id=1", b"/b"]
    assert held(facts, "http.host", orig, resp) == [b"example.org", b"b.org"]
    assert held(facts, "http.cookie", orig, resp) == [b"sid=42", b"a=b"]
    assert held(facts, "http.header_value", orig, resp) == [b"abc", b"nginx", b"2"]


@pytest.mark.parametrize(
    ("proto", "ports", "orig", "resp", "service"),
    [
        (6, (1, 22), b"SSH-2.0-OpenSSH", b"", "ssh"),
        (6, (1, 25), b"", b"220 mail", "smtp"),
        (6, (1, 21), b"", b"220 ready", "ftp"),
        (6, (1, 110), b"", b"+OK", "pop3"),
        (17, (1, 443), b"\xc3\x00\x00\x00\x01\x08abcdefgh", b"", "quic"),
        (17, (68, 67), b"\x01\x01", b"", "dhcp"),
        (17, (1, 2), b"", b"", ""),
        (1, (8, 0), b"ping", b"ping", ""),
    ],
)
def test_services(proto: int, ports: tuple[int, int], orig: bytes, resp: bytes, service: str) -> None:
    assert facts_of(proto, *ports, orig, resp).service == service


def test_spans_lie_within_the_prefixes_of_real_flows(captures: Path) -> None:
    seen = 0
    for batch in read_flows([captures]):
        for i in range(len(batch)):
            low, middle, high = batch.payload_ptr[i].tolist()
            sides = batch.payload[low:middle].tobytes(), batch.payload[middle:high].tobytes()
            facts = facts_of(int(batch.proto[i]), int(batch.orig_p[i]), int(batch.resp_p[i]), *sides)
            for span in facts.spans:
                assert 0 <= span.start < span.end <= len(sides[span.dir]) or span.start == span.end
                seen += 1
    assert seen > 100


def test_facts_of_a_batch_are_those_of_each_flow(captures: Path) -> None:
    found = 0
    for batch in read_flows([captures]):
        beyond = beyond_of(batch, range(len(batch)))
        for i, facts in enumerate(facts_of_flows(batch)):
            both = [batch.payload[batch.payload_ptr[i, d] : batch.payload_ptr[i, d + 1]].tobytes() for d in range(2)]
            assert facts == facts_of(int(batch.proto[i]), int(batch.orig_p[i]), int(batch.resp_p[i]), *both, beyond=beyond[i])
            found += bool(facts.service)
    assert found > 5
