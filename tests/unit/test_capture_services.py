"""Services by their first bytes, and TLS that begins after plain text."""

from __future__ import annotations

import re
import struct

import pytest
from hello_samples import NAME, hello, records, server_hello, vector

from trafficllm.capture.facts import services
from trafficllm.capture.facts.flow_facts import facts_of
from trafficllm.capture.facts.http2 import PREFACE
from trafficllm.core.types import Facts, Record
from trafficllm.records.codec import units
from trafficllm.records.codec.canonical import canonical
from trafficllm.records.codec.codec import decode, encode

SNI, JA4 = "tls.handshake.extensions_server_name", "tls.handshake.ja4"
LDAP_STARTTLS = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"
TPKT = b"\x03\x00\x00\x2b\x26\xe0\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("port", "orig", "resp", "service"),
    [
        (25, b"EHLO me\r\nSTARTTLS\r\n", b"220 mx ESMTP\r\n250-mx\r\n250 STARTTLS\r\n220 go ahead\r\n", "smtp"),
        (143, b"a1 CAPABILITY\r\na2 STARTTLS\r\n", b"* OK ready\r\na1 OK\r\na2 OK begin\r\n", "imap"),
        (110, b"STLS\r\n", b"+OK ready\r\n+OK begin\r\n", "pop3"),
        (21, b"AUTH TLS\r\n", b"220 FTP\r\n234 go\r\n", "ftp"),
        (389, LDAP_STARTTLS, b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00", "ldap"),
        (5222, b"<?xml version='1.0'?><stream:stream to='x'><starttls/>", b"<stream:stream><proceed/>", "xmpp"),
        (5432, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"S", "postgresql"),
        (3306, b"\x20\x00\x00\x01" + bytes(32), b"J\x00\x00\x00\x0a8.0.36\x00rest", "mysql"),
        (3389, TPKT + b"Cookie: mstshash=x\r\n\x01\x00\x08\x00\x03\x00\x00\x00", b"\x03\x00\x00\x13\x0e\xd0" + bytes(13), "rdp"),
        (8080, b"CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", "http"),
        (9050, b"\x05\x01\x00\x05\x01\x00\x03\x0fwww.example.com\x01\xbb", b"\x05\x00\x05\x00\x00\x01" + bytes(6), "socks"),
        (9050, b"\x04\x01\x01\xbb\xc0\x00\x02\x01user\x00", b"\x00\x5a" + bytes(6), "socks"),
        (6667, b"CAP LS\r\nSTARTTLS\r\n", b":srv 670 me :STARTTLS successful\r\n", "irc"),
        (4190, b"STARTTLS\r\n", b"OK\r\n", "tls"),
    ],
)
def test_tls_after_plain_text(port: int, orig: bytes, resp: bytes, service: str) -> None:
    stream, answer = orig + records(hello()), resp + server_hello()
    facts = facts_of(6, 40000, port, stream, answer)
    assert facts.service == service
    assert facts.fields[SNI] == NAME
    assert str(facts.fields[JA4]).startswith("t13d")
    assert facts.fields["tls.server.supported_version"] == 0x0304
    marked = {stream[s.start : s.end] for s in facts.spans if s.dir == 0}
    assert NAME.encode() in marked
    assert b"R" * 32 in marked
    cut = facts_of(6, 40000, port, stream[:512], answer, beyond=(stream[512:], b""))
    assert cut.fields == facts.fields
    assert SNI not in facts_of(6, 40000, port, orig, resp).fields


def test_bytes_that_only_resemble_a_hello_are_none() -> None:
    body = b"POST / HTTP/1.1\r\n\r\n" + b"\x16\x03\x01\x00\x03\x01\x00\x00\x30\x03\x03" + b"\x16\x03\x01\x02\x00\x02" + bytes(99)
    assert facts_of(6, 1, 80, body, b"").service == "http"
    assert "tls.handshake.version" not in facts_of(6, 1, 80, body, b"").fields


KERBEROS = b"\x6a\x81\x9d\x30\x81\x9a\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\x0a"


@pytest.mark.parametrize(
    ("proto", "port", "orig", "resp", "service", "fields"),
    [
        (6, 22, b"SSH-2.0-OpenSSH_9.7\r\n", b"SSH-2.0-x\r\n", "ssh", {"ssh.protocol": "2.0-OpenSSH_9.7", "ssh.server.protocol": "2.0-x"}),
        (6, 445, b"\x00\x00\x00\x45\xfeSMB", b"", "smb", {"smb.first_byte": 0xFE}),
        (6, 3389, TPKT + b"\x01\x00\x08\x00\x0b\x00\x00\x00", b"", "rdp", {"rdp.negReq.requestedProtocols": 11}),
        (6, 3389, b"\x03\x00\x00\x06\x01\xe0", b"", "rdp", {}),
        (6, 102, b"\x03\x00\x00\x16\x11\xe0\x00\x00\x00\x01\x00", b"", "cotp", {}),
        (6, 88, b"\x00\x00\x00\xa0" + KERBEROS, b"", "kerberos", {"kerberos.msg_type": 10}),
        (17, 88, KERBEROS, b"", "kerberos", {"kerberos.msg_type": 10}),
        (6, 389, b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", b"", "ldap", {"ldap.protocolOp": 0}),
        (6, 1883, b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c", b"", "mqtt", {"mqtt.ver": 5}),
        (6, 502, b"\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\x00\x0a", b"", "modbus", {"modbus.func_code": 3}),
        (6, 6379, b"*1\r\n$4\r\nPING\r\n", b"+OK\r\n", "redis", {}),
        (6, 5900, b"", b"RFB 003.008\n", "rfb", {"vnc.server_proto_ver": "003.008"}),
        (6, 179, b"\xff" * 16 + b"\x00\x1d\x01\x04", b"", "bgp", {"bgp.type": 1}),
        (6, 1194, b"\x00\x0e\x38" + b"sessionI" + bytes(5), b"", "openvpn", {"openvpn.opcode": 7}),
        (17, 1194, b"\x38" + b"sessionI" + bytes(5), b"", "openvpn", {"openvpn.opcode": 7}),
        (17, 1194, b"\x38" + b"sessionI" + b"h" * 20 + b"\x00\x00\x00\x01time" + bytes(5), b"", "openvpn", {"openvpn.opcode": 7}),
        (17, 1194, b"\x38" + b"sessionI" + b"\x00\x00\x00\x01" + b"t" * 41, b"", "openvpn", {"openvpn.opcode": 7}),
        (17, 51820, b"\x01\x00\x00\x00" + b"i" * 144, b"", "wireguard", {"wg.type": 1}),
        (17, 51820, b"\x01\x00\x00\x00" + b"i" * 144 + b"\x04\x00\x00\x00" + b"d" * 60, b"", "wireguard", {"wg.type": 1}),
        (17, 51820, b"\x01\x00\x00\x00" + b"i" * 100, b"", "", {}),
        (17, 3478, b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"t" * 12, b"", "stun", {"stun.type": 1}),
        (17, 69, b"\x00\x01boot.img\x00octet\x00", b"", "tftp", {"tftp.opcode": 1}),
        (17, 1812, b"\x01\x07\x00\x40" + b"a" * 60, b"", "radius", {"radius.code": 1}),
    ],
)
def test_services_and_the_facts_of_their_first_bytes(
    proto: int, port: int, orig: bytes, resp: bytes, service: str, fields: dict[str, int | str]
) -> None:
    facts = facts_of(proto, 40000, port, orig, resp)
    assert (facts.service, dict(facts.fields)) == (service, fields)


@pytest.mark.parametrize(
    "method",
    "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK".split(),  # noqa: SIM905
)
def test_http_methods(method: str) -> None:
    facts = facts_of(6, 40000, 8081, f"{method} /x HTTP/1.1\r\nHost: a\r\n\r\n".encode(), b"")
    assert (facts.service, facts.fields["http.request.method"]) == ("http", method)
    assert facts_of(6, 40000, 8081, b"MOVE the cursor\r\n", b"").service == ""


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack("!I", stream) + body


REQUEST = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")
"""RFC 7541 C.4.1: GET http://www.example.com/ with Huffman coding."""


def test_http2_with_prior_knowledge() -> None:
    settings = frame(4, 0, 0, b"")
    answer = settings + frame(1, 4, 1, b"\x88")  # RFC 7541 A: index 8 is :status 200
    wholes = [
        frame(1, 5, 1, REQUEST),
        frame(1, 0, 1, REQUEST[:7]) + frame(9, 4, 1, REQUEST[7:]),
        frame(1, 0x2D, 1, b"\x02\x00\x00\x00\x00\x10" + REQUEST + b"\x00\x00"),
    ]
    for request in wholes:
        orig = PREFACE + settings + request
        facts = facts_of(6, 40000, 8080, orig, answer)
        assert facts.service == "http"
        assert facts.fields["http.request.method"] == "GET"
        assert facts.fields["http.request.uri"] == "/"
        assert facts.fields["http.host"] == "www.example.com"
        assert facts.fields["http.request.version"] == "HTTP/2"
        assert (facts.fields["http.response.code"], facts.fields["http.request.header_count"]) == (200, 0)
        assert b"".join(orig[s.start : s.end] for s in facts.spans if s.dir == 0) == REQUEST
    assert "http.request.method" not in facts_of(6, 40000, 8080, PREFACE + settings + wholes[0][:-1], b"").fields
    assert facts_of(6, 40000, 8080, PREFACE + frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff"), b"").service == "http"


def test_dns_over_tcp_and_names_in_utf8() -> None:
    labels = b"".join(vector(part.encode(), 1) for part in ("Zoé’s Mac", "_tcp", "local")) + b"\x00"
    message = struct.pack("!HHHHHH", 0, 0, 1, 0, 0, 0) + labels + b"\x00\x0c\x00\x01"
    facts = facts_of(17, 5353, 5353, message, b"")
    assert facts.fields["dns.qry.name"] == "Zoé’s Mac._tcp.local"
    assert facts.fields["dns.qry.name.len"] == len("Zoé’s Mac._tcp.local".encode())
    assert facts_of(6, 40000, 53, vector(message, 2), b"").fields["dns.qry.name"] == "Zoé’s Mac._tcp.local"
    other = message.replace("é".encode(), b"\xe9\x20")
    assert facts_of(17, 5353, 5353, other, b"").fields["dns.qry.name"] == "Zo\xe9 â\x80\x99s Mac._tcp.local"


def test_every_service_that_bytes_tell_has_a_unit_and_others_are_other() -> None:
    assert set(units.SERVICES) >= services.NAMED_BY_BYTES  # a new one raises the codec's version: bases read what they were trained on
    named = Record(
        proto=17, dirs=(0,), sizes=(148,), iats=(0,), payload=(b"\x01\x00\x00\x00", b""), facts=Facts("wireguard", {"wg.type": 1})
    )
    assert decode(encode(named)).facts == canonical(named).facts == Facts("wireguard")
    other = Record(proto=17, dirs=(0,), sizes=(148,), iats=(0,), facts=Facts("dhcp"))
    assert decode(encode(other)).facts.service == canonical(other).facts.service == "other"


def test_the_page_has_the_table_of_services(repo) -> None:  # type: ignore[no-untyped-def]
    page = (repo / "docs" / "captures.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9, ]+) \| ([a-z0-9_, -]+) \|", page.split("## Services")[1].split("\n## ")[0], re.MULTILINE)
    told = dict(rows)
    for row in (*services.TCP, *services.UDP):
        assert row.zeek in told[row.name].split(", ") or (not row.zeek and told[row.name] == "-"), row.name
    for name, zeek, _, _ in services.BY_OTHER_MEANS:
        assert told[name] == (zeek or "-")
