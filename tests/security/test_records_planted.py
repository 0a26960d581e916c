"""Passwords, names, mail addresses and messages planted in every protocol: none is left in what is kept under `strict`."""

from __future__ import annotations

import base64
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from capture_samples import ACK, PSH, SYN, ethernet, ipv4, pcap, tcp, udp

from trafficllm.capture.facts.flow_facts import facts_of
from trafficllm.capture.flows.assembly import FlowOptions, read_flows
from trafficllm.core.types import Record
from trafficllm.records import byte_classes, masks
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import CodecOptions
from trafficllm.records.codec.codec import decode, encode
from trafficllm.records.codec.flows import records_of
from trafficllm.records.sources.requests import http_record

USER, PASSWORD, MAIL, TALK, HOST = (
    b"wilhelmina",
    b"Hunter2Zebra",
    b"wilhelmina.k@corner-shop.example",
    b"Meet Osgood at noon",
    b"files.corner-shop.example",
)
SECRETS = (USER, PASSWORD, MAIL, b"Osgood", b"osgood", b"corner-shop", b"Corner", b"Mathilda", b"zebra")
PLAIN = base64.b64encode(b"\0" + USER + b"\0" + PASSWORD)
WHOLE = CodecOptions(payload=(2048, 2048), text=4096)


def _resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _postgresql() -> bytes:
    body = b"\0\3\0\0user\0" + USER + b"\0database\0zebra\0\0"
    return (len(body) + 4).to_bytes(4) + body + b"p" + (len(PASSWORD) + 5).to_bytes(4) + PASSWORD + b"\0"


def _ldap() -> bytes:
    name = b"cn=" + USER + b",dc=corner-shop,dc=example"
    bind = b"\2\1\3\4" + bytes([len(name)]) + name + b"\x80" + bytes([len(PASSWORD)]) + PASSWORD
    whole = b"\2\1\1\x60" + bytes([len(bind)]) + bind
    return b"\x30" + bytes([len(whole)]) + whole


def _mysql() -> bytes:
    login = b"\x85\xa6\xff\1" + bytes(28) + USER + b"\0\x14" + PASSWORD + b"zebra\0mysql_native_password\0"
    return len(login).to_bytes(3, "little") + b"\1" + login + b"\x20\0\0\0\3select * from people where name='Osgood'"


def _stun() -> bytes:
    name = USER + b":" + USER
    attributes = b"\0\6" + len(name).to_bytes(2) + name + bytes(-len(name) % 4)
    return b"\0\1" + len(attributes).to_bytes(2) + b"\x21\x12\xa4\x42" + PASSWORD + attributes


SESSIONS: dict[str, tuple[int, int, bytes, bytes]] = {
    "ftp": (
        6,
        21,
        b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\nPORT 10,0,0,7,4,1\r\nSTOR letters-to-Osgood.txt\r\n",
        b"220 " + HOST + b" FTP\r\n331 Password required for " + USER + b"\r\n230 Hello Mathilda\r\n",
    ),
    "ftp in small letters": (6, 2121, b"user " + USER + b"\r\npass " + PASSWORD + b"\r\n", b"220 ready\r\n"),
    "smtp": (
        6,
        25,
        b"EHLO "
        + HOST
        + b"\r\nMAIL FROM:<"
        + MAIL
        + b">\r\nRCPT TO:<osgood@corner-shop.example>\r\nDATA\r\nFrom: Mathilda <"
        + MAIL
        + b">\r\nSubject: zebra\r\n\r\nUSER Osgood\r\n"
        + TALK
        + b"\r\n.\r\nQUIT\r\n",
        b"220 " + HOST + b" ESMTP\r\n250-" + HOST + b" Hello\r\n250-STARTTLS\r\n250 OK\r\n",
    ),
    "smtp login": (
        6,
        587,
        b"EHLO x\r\nAUTH LOGIN\r\n" + base64.b64encode(USER) + b"\r\n" + base64.b64encode(PASSWORD) + b"\r\nAUTH PLAIN " + PLAIN + b"\r\n",
        b"220 x ESMTP\r\n334 VXNlcm5hbWU6\r\n",
    ),
    "pop3": (
        6,
        110,
        b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\nRETR 1\r\n",
        b"+OK " + HOST + b"\r\n+OK\r\nFrom: " + MAIL + b"\r\n" + TALK,
    ),
    "imap": (
        6,
        143,
        b"a1 LOGIN " + USER + b" " + PASSWORD + b"\r\na2 SELECT Osgood\r\na3 FETCH 1 BODY[]\r\n",
        b"* OK " + HOST + b" ready\r\n* 1 FETCH (BODY[] {99}\r\nFrom: Mathilda <" + MAIL + b">\r\n\r\n" + TALK + b")\r\n",
    ),
    "irc": (
        6,
        6667,
        b"PASS "
        + PASSWORD
        + b"\r\nNICK "
        + USER
        + b"\r\nUSER "
        + USER
        + b" 0 * :Mathilda\r\nJOIN #zebra\r\nPRIVMSG Osgood :"
        + TALK
        + b"\r\n",
        b":" + HOST + b" 001 " + USER + b" :Welcome Mathilda\r\n:Osgood!osgood@corner-shop.example PRIVMSG #zebra :" + TALK + b"\r\n",
    ),
    "redis": (
        6,
        6379,
        _resp(b"AUTH", PASSWORD) + _resp(b"SET", b"mail:" + USER, MAIL) + _resp(b"GET", USER),
        b"+OK\r\n$32\r\n" + MAIL + b"\r\n",
    ),
    "redis inline": (6, 6379, b"AUTH " + PASSWORD + b"\r\nGET " + USER + b"\r\n", b"+OK\r\n$6\r\nOsgood\r\n"),
    "xmpp": (
        6,
        5222,
        b"<stream:stream to='corner-shop.example' from='"
        + MAIL
        + b"'><auth mechanism='PLAIN'>"
        + PLAIN
        + b"</auth><message to='osgood@corner-shop.example'><body>"
        + TALK
        + b"</body></message>",
        b"<stream:stream from='corner-shop.example'><success/><iq><jid>" + MAIL + b"</jid></iq>",
    ),
    "sip": (
        17,
        5060,
        b"INVITE sip:osgood@corner-shop.example SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.7\r\nFrom: Mathilda <sip:"
        + MAIL
        + b'>\r\nX-Who: Osgood\r\nAuthorization: Digest username="'
        + USER
        + b'"\r\nContent-Type: application/sdp\r\n\r\no='
        + USER
        + b" IN IP4\r\n",
        b"SIP/2.0 200 OK\r\nTo: <sip:osgood@corner-shop.example>\r\n\r\n",
    ),
    "telnet": (6, 23, b"\xff\xfd\x01" + USER + b"\r\n" + PASSWORD + b"\r\nmail Osgood\r\n", b"\xff\xfb\x01login: \r\nWelcome Mathilda\r\n"),
    "http": (
        6,
        80,
        b"GET /find?user="
        + USER
        + b"&pw="
        + PASSWORD
        + b"&m="
        + MAIL.replace(b"@", b"%40")
        + b"&Osgood HTTP/1.1\r\nHost: "
        + HOST
        + b"\r\nUser-Agent: curl/8\r\nX-Api-Key: "
        + PASSWORD
        + b"\r\nAuthorization: Basic "
        + PLAIN
        + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-User: Mathilda\r\nContent-Length: 400\r\n\r\n<p>" + TALK + b"</p>" + MAIL,
    ),
    "http forms and folders": (
        6,
        8080,
        b"POST /users/"
        + USER
        + b"/~osgood/login;who=Mathilda HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 44"
        b"\r\n\r\nuser=" + USER + b"&password=" + PASSWORD + b"&x=" + PLAIN,
        b"HTTP/1.1 302 Hello Mathilda\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n" + TALK + b"\r\n0\r\n\r\n",
    ),
    "http proxied": (6, 3128, b"CONNECT " + HOST + b":443 HTTP/1.1\r\n\r\n" + TALK, b"HTTP/1.1 200 OK\r\n\r\n" + TALK),
    "ssdp": (17, 1900, b"NOTIFY * HTTP/1.1\r\nNT: uuid:zebra\r\nUSN: uuid:zebra\r\nX-Name: Mathilda\r\n\r\n", b""),
    "ldap": (6, 389, _ldap(), b"\x30\x0c\2\1\1\x61\7\x0a\1\0\4\0\4\6Osgood"),
    "mysql": (6, 3306, _mysql(), b"\x4a\0\0\0\x0a8.0.1-Mathilda\0"),
    "postgresql": (6, 5432, _postgresql(), b"R\0\0\0\x0c\0\0\0\5abcdD\0\0\0\x10\0\1\0\0\0\6Osgood"),
    "dns": (17, 53, b"\0\7\1\0\0\1\0\0\0\0\0\0\6Osgood\5zebra\7example\0\0\1\0\1", b""),
    "dns that is none": (17, 53, b"\0\7\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1" + TALK, TALK),
    "stun": (17, 3478, _stun(), b""),
    "netbios": (17, 138, b"\x11\x02" + bytes(10) + TALK, b""),
    "rdp": (6, 3389, b"\3\0\0\x2a\x25\xe0\0\0\0\0\0Cookie: mstshash=" + USER + b"\r\n", b""),
    "smb": (6, 445, b"\0\0\0\x50\xfeSMB" + bytes(12) + USER.decode().encode("utf-16-le") + USER, b""),
    "unknown": (6, 40_001, b"\1\2hello " + USER + b" " + PASSWORD + b"\n", TALK + MAIL),
    "unknown datagrams": (17, 40_001, TALK, MAIL),
    "ping": (1, 0, TALK, TALK),
    "tls hello with rubbish behind": (6, 443, b"\x16\3\1\0\5\1\0\0\1\0" + TALK, b""),
    "ssh": (6, 22, b"SSH-2.0-OpenSSH_9\r\n" + TALK, b"Hello Mathilda\r\nSSH-2.0-x\r\n"),
}
PARAMETERS = pytest.mark.parametrize("name", SESSIONS)
SERVERS = {b"corner-shop", b"Osgood", b"osgood", b"Corner", b"zebra"}
"""Planted in names of hosts and certificates: what the profile `names` is for."""


def _raw(name: str) -> Record:
    proto, port, orig, resp = SESSIONS[name]
    return Record(proto=proto, ports=(50_000, port), payload=(orig, resp), facts=facts_of(proto, 50_000, port, orig, resp))


def _left(data: bytes) -> list[bytes]:
    wide = data.replace(b"\0", b"")
    return [secret for secret in (*SECRETS, PLAIN[:12], base64.b64encode(PASSWORD)[:12]) if secret in data or secret in wide]


def _units_as_bytes(text: str) -> bytes:
    return bytes(ord(char) - u.BYTE0 if u.is_byte(char) else 0x20 for char in text)


@PARAMETERS
def test_nothing_planted_is_left_in_a_strict_record(name: str) -> None:
    raw = _raw(name)
    assert _left(b"".join(raw.payload)), "the sample plants nothing"
    shown = masks.apply(raw)
    wiped = masks.wiped(shown)
    assert not _left(_units_as_bytes(encode(shown, WHOLE)))
    assert not _left(b"\n".join(wiped.payload) + repr(wiped.facts).encode())
    assert decode(encode(shown, WHOLE)) == decode(encode(wiped, WHOLE))


@PARAMETERS
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5, 8, 13])
def test_prefixes_that_begin_or_end_anywhere_show_no_more(name: str, cut: int) -> None:
    proto, port, orig, resp = SESSIONS[name]
    for part in ((orig[cut:], resp[cut:]), (orig[: len(orig) - cut], resp[: len(resp) - cut]), (resp, orig), (orig[len(orig) // 2 :], b"")):
        raw = Record(proto=proto, ports=(50_000, port), payload=part, facts=facts_of(proto, 50_000, port, *part))
        assert not _left(_units_as_bytes(encode(masks.apply(raw), WHOLE)))


@PARAMETERS
def test_raw_profile_shows_what_was_sent(name: str) -> None:
    assert _left(_units_as_bytes(encode(masks.apply(_raw(name), "raw"), WHOLE)))


@PARAMETERS
def test_profile_names_shows_no_secret(name: str) -> None:
    """Names of servers, queries and certificates are shown; what a person is called or types, and what opens an account, never."""
    shown = _left(_units_as_bytes(encode(masks.apply(_raw(name), "names"), WHOLE)))
    assert set(shown) <= SERVERS, shown


@PARAMETERS
def test_a_data_set_keeps_no_secret_and_masks_to_the_same_record(name: str) -> None:
    raw = _raw(name)
    kept = masks.kept(raw, masks.hidden_fields("strict"))
    people = [
        secret
        for secret in _left(b"\n".join(kept.payload) + repr(kept.facts).encode())
        if secret not in {b"corner-shop", b"Osgood", b"zebra"}
    ]
    assert not people
    assert encode(masks.apply(kept), WHOLE) == encode(masks.apply(raw), WHOLE)
    assert masks.kept(kept, masks.hidden_fields("strict")).payload == kept.payload


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ftp", (b"USER ", b"PASS ", b"PORT ", b"220 ")),
        ("smtp", (b"EHLO ", b"MAIL FROM", b"RCPT TO", b"DATA\r\n", b"250-STARTTLS")),
        ("imap", (b" LOGIN", b" FETCH ")),
        ("irc", (b"PRIVMSG", b"NICK")),
        ("redis", (b"*2\r\n", b"AUTH\r\n", b"SET\r\n")),
        ("xmpp", (b"<stream:stream", b"<auth", b"<message")),
        ("sip", (b"INVITE ", b"From:", b"Content-Type: application/sdp")),
        ("http", (b"GET /find?user=", b"&pw=", b"User-Agent: curl/8", b"\r\n\r\n.a.Aaaa Aaaaaa")),
        ("telnet", (b"\xff\xfd\x01",)),
        ("ssh", (b"SSH-2.0-OpenSSH_9",)),
    ],
)
def test_a_protocols_own_words_stay(name: str, words: tuple[bytes, ...]) -> None:
    shown = b"\n".join(masks.wiped(masks.apply(_raw(name))).payload)
    assert not [word for word in words if word not in shown]


def _cipher(seed: int, size: int = 200) -> bytes:
    import random

    return random.Random(seed).randbytes(size)


CIPHERTEXT = {
    "tls from its middle": (6, 443, b"\x17\3\3\0\xc8" + _cipher(1), b"\x17\3\3\1\0" + _cipher(2)),
    "tls whose answer begins inside a record": (6, 443, b"\x17\3\3\0\xc8" + _cipher(1), _cipher(2)),
    "tls that is shut": (6, 443, b"\x15\3\3\0\x1a" + _cipher(3, 26), b"\x17\3\3\0\xc8" + _cipher(4)),
    "tls handshake under keys": (6, 443, b"\x14\3\3\0\1\1\x16\3\3\0\x28" + _cipher(5, 40), b"\x16\3\3\0\x28" + b"\xd7" + _cipher(6, 39)),
    "ssh": (6, 22, b"SSH-2.0-x\r\n" + b"\0\0\0\x0c\x0a\x15" + bytes(10) + _cipher(7), b"SSH-2.0-y\r\n" + _cipher(8)),
    "ssh from its middle": (6, 22, _cipher(9), _cipher(10)),
    "dtls": (17, 5000, b"\x17\xfe\xfd\0\1" + bytes(6) + b"\0\xc8" + _cipher(11), b""),
    "quic": (17, 443, b"\xc3\0\0\0\1\x08" + _cipher(12), b""),
    "quic from its middle": (17, 443, b"\x43" + _cipher(13), b"\x5f" + _cipher(14)),
    "wireguard": (17, 51_820, b"\1\0\0\0" + _cipher(15, 144), b"\2\0\0\0" + _cipher(16, 88)),
    "ike": (17, 500, _cipher(17, 8) + bytes(8) + b"\x21\x20\x22\x08" + bytes(4) + b"\0\0\0\xe4" + _cipher(18), b""),
    "esp in udp": (17, 4500, _cipher(19), _cipher(20)),
    "esp": (50, 0, _cipher(21), b""),
}


@pytest.mark.parametrize("name", CIPHERTEXT)
def test_ciphertext_is_masked_wherever_it_can_be_told(name: str) -> None:
    proto, port, orig, resp = CIPHERTEXT[name]
    raw = Record(proto=proto, ports=(50_000, port), payload=(orig, resp), facts=facts_of(proto, 50_000, port, orig, resp))
    shown = masks.wiped(masks.apply(raw))
    for before, after in zip(raw.payload, shown.payload, strict=True):
        unmasked = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a == b and a]
        assert len(unmasked) <= 18
        assert all(k < 32 for k in unmasked)


def test_requests_lose_what_people_typed_and_keep_what_attacks_are_told_by() -> None:
    text = (
        "POST http://shop.example:8080/members/wilhelmina/pay.jsp?login=wilhelmina&note=1'+OR+7=7-- HTTP/1.1\n"
        "Host: shop.example\nX-Who: Osgood"
        "\n\npwd=Hunter2Zebra&q=<script>alert(document.cookie)</script>&m=wilhelmina.k%40corner-shop.example"
    )
    shown = masks.wiped(masks.apply(http_record(text)))
    assert not _left(shown.text.encode())
    assert "login=aaaaaaaaaa&note=0'+OR+0=0--" in shown.text
    assert "q=<script>alert(document.cookie)</script>" in shown.text
    assert "/pay.jsp?" in shown.text
    kept = masks.kept(http_record(text), masks.hidden_fields("strict"))
    assert not _left(kept.text.encode())
    assert encode(masks.apply(kept), WHOLE) == encode(masks.apply(http_record(text)), WHOLE)


def test_classes_keep_length_and_stand_for_themselves() -> None:
    everything = bytes(range(256))
    shown = byte_classes.classes(everything)
    assert len(shown) == 256
    assert byte_classes.classes(shown) == shown
    assert len(set(shown)) == 11
    for data in (everything, b"a=%C3%A1&b=YWJj==&Osgood&c=d=e&%41=1;select", b"YWJj==", b"&&=", b""):
        once = byte_classes.values(data)
        assert len(once) == len(data)
        assert byte_classes.values(once) == once
    assert byte_classes.values(b"YWxpY2U=") == b"AAaaA0A="


def _capture(name: str) -> bytes:
    proto, port, orig, resp = SESSIONS[name]
    a, b = bytes([10, 0, 0, 7]), bytes([198, 51, 100, 7])
    if proto == 17:
        return pcap(
            [(1.0, ethernet(ipv4(17, udp(50_000, port, orig), a, b)))]
            + [(1.1, ethernet(ipv4(17, udp(port, 50_000, resp), b, a)))] * bool(resp)
        )
    seq = [(a, b, 50_000, port, 1, 0, SYN, b""), (b, a, port, 50_000, 1, 2, SYN | ACK, b""), (a, b, 50_000, port, 2, 2, ACK | PSH, orig)]
    seq += [(b, a, port, 50_000, 2, 2 + len(orig), ACK | PSH, resp)] if resp else []
    return pcap(
        [(1.0 + k / 10, ethernet(ipv4(6, tcp(s, d, n, m, f, data), src, dst))) for k, (src, dst, s, d, n, m, f, data) in enumerate(seq)]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captures of every session in two classes, three files each."""
    root = tmp_path_factory.mktemp("planted") / "captures"
    for k, name in enumerate(name for name in SESSIONS if SESSIONS[name][0] != 1):
        for copy in range(3):
            place = root / ("left", "right")[k % 2] / f"{k}-{copy}.pcap"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(_capture(name))
    return root


def test_captured_sessions_and_columns_hold_nothing_either(folder: Path) -> None:
    for path in sorted(folder.rglob("*.pcap")):
        for batch in read_flows([path], options=FlowOptions(max_payload=2048)):
            for record, _ in records_of(batch):
                shown = masks.apply(record)
                left = masks.beginning(record.facts, record.payload, masks.hidden_fields("strict"))
                assert left[1] == shown.payload
                assert not _left(_units_as_bytes(encode(shown, WHOLE)))


def test_no_column_of_a_data_set_holds_what_was_planted(folder: Path, tmp_path: Path) -> None:
    from trafficllm.lifecycle.datasets import new_task
    from trafficllm.records.dataset.builder import build_dataset
    from trafficllm.records.dataset.dataset import load

    build_dataset(folder, task=new_task("PLANTED"), out=tmp_path / "d")
    table = pq.read_table(tmp_path / "d" / "records.parquet")
    people = (USER, PASSWORD, MAIL, b"Mathilda", b"Meet", PLAIN[:12])
    for name in table.column_names:
        cells = [value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in table[name].to_pylist()]
        if name == "units":
            cells = [_units_as_bytes(text) for text in table[name].to_pylist()]
        for cell in cells:
            data = cell if isinstance(cell, bytes) else repr(cell).encode()
            assert not [secret for secret in people if secret in data], name
    assert not [path for path in (tmp_path / "d").rglob("*") if path.is_file() and any(secret in path.read_bytes() for secret in people)]
    data = load(tmp_path / "d")
    rows = range(len(data))
    assert [encode(record, data.codec) for record in data.records(rows)] == data.units(rows)
    assert len(data) > 20
