"""Masks: each planted identifier is gone from what the codec writes, each profile hides what its table says."""

from __future__ import annotations

import pytest

from trafficllm.core.errors import UsageError
from trafficllm.core.types import Facts, Record, Span
from trafficllm.records import masks
from trafficllm.records.codec import units as u
from trafficllm.records.codec.codec import decode, encode, pretty


def _record(orig: bytes = b"", spans: tuple[Span, ...] = (), **more: object) -> Record:
    base: dict[str, object] = {
        "proto": 6,
        "ports": (50123, 443),
        "dirs": (0, 1, 0),
        "sizes": (0, 0, 100),
        "iats": (0, 5000, 7000),
        "flags": (2, 18, 24),
        "windows": (64240, 501, 0),
        "ttls": (128, 57, 128),
        "payload": (orig, b""),
        "facts": Facts("tls", {"tls.handshake.version": 771, "tls.handshake.extensions_server_name": "a.example"}, spans),
    }
    return Record(**(base | more))  # type: ignore[arg-type]


def _units_hold(text: str, needle: bytes) -> bool:
    return u.bytes_units(needle) in text


@pytest.mark.parametrize(
    "kind",
    [
        "tls.sni",
        "tls.random",
        "tls.session_id",
        "tls.key_share",
        "tls.ticket",
        "tls.cert_name",
        "dns.name",
        "dns.id",
        "dns.address",
        "http.host",
        "http.cookie",
        "encrypted",
        "address",
    ],
)
def test_strict_hides_each_kind_of_identifier_inside_payload(kind: str) -> None:
    secret = b"secret-canary-value"
    data = b"head" + secret + b"tail"
    raw = _record(data, (Span(0, 4, 4 + len(secret), kind),))
    assert _units_hold(encode(raw), secret)
    shown = masks.apply(raw)
    assert not _units_hold(encode(shown), b"canary")
    assert _units_hold(encode(shown), b"tail")
    wiped = masks.wiped(shown)
    assert secret not in wiped.payload[0]
    assert encode(wiped) == encode(shown)


@pytest.mark.parametrize("text", [b"x 10.1.2.3 y", b"PORT 192,168,0,7,4,1", b"from=203.0.113.250;"])
def test_strict_hides_addresses_written_in_payload(text: bytes) -> None:
    shown = masks.wiped(masks.apply(_record(text)))
    assert not any(part in shown.payload[0] for part in (b"10.1.2.3", b"192,168,0,7", b"203.0.113.250"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b"GET http://x/?u=https%3A%2F%2Fapps.skype.com%2Fa HTTP/1.1", b"GET http://\0/?u=https%3A%2F%2F" + bytes(14) + b"%2Fa HTTP/1.1"),
        (b"see HTTPS://news.press.example:8080/sun or", b"see HTTPS://" + bytes(23) + b"/sun or"),
        (b"ftp://files.example rest\r\n", b"ftp://" + bytes(13) + b" rest\r\n"),
        (b"crl http://ocsp.ssl.example0\x0c\x06sense", b"crl http://" + bytes(17) + b"\x0c\x06sense"),
        (b"smb://sales\\share\tx", b"smb://" + bytes(5) + b"\\share\tx"),
    ],
)
def test_hosts_of_urls_in_payload_are_hidden_whole_and_nothing_behind_them(text: bytes, left: bytes) -> None:
    assert masks.wiped(masks.apply(_record(text))).payload[0] == left


def test_headers_that_name_hosts_or_moments_lose_their_values_and_others_keep_them() -> None:
    data = b"GET / HTTP/1.1\r\nDate: Mon, 01 Jan\r\nAccept: text/html\r\n\r\n"
    spans = tuple(Span(0, data.index(v), data.index(v) + len(v), "http.header_value") for v in (b"Mon, 01 Jan", b"text/html"))
    shown = masks.wiped(masks.apply(_record(data, spans)))
    assert b"Mon" not in shown.payload[0]
    assert b"text/html" in shown.payload[0]


def test_strict_classes_ports_windows_and_drops_ttls() -> None:
    shown = masks.apply(_record())
    assert (shown.ports, shown.port_class) == (None, "ew")
    assert shown.windows == (65535, 1, 0)
    assert shown.ttls == (-1, -1, -1)
    assert {"ports", "ttl", "window_value", "tls.sni"} <= shown.masked
    assert "tls.handshake.extensions_server_name" not in masks.wiped(shown).facts.fields


def test_services_known_by_port_alone_go_with_the_port() -> None:
    raw = _record(facts=Facts("ntp"), proto=17)
    assert masks.apply(raw).facts.service == ""
    assert masks.apply(raw, "raw").facts.service == "ntp"


def test_profiles() -> None:
    raw = _record(b"hello")
    header, payload = masks.apply(raw, "header"), masks.apply(raw, "payload")
    assert header.payload == (b"", b"")
    assert header.ports == (50123, 443)
    assert payload.payload[0] == b"hello"
    assert payload.dirs == ()
    assert masks.apply(raw, "raw").ttls == raw.ttls


@pytest.mark.parametrize("field", [f for f in masks.FIELDS if f not in {"packets", "payload"}])
def test_every_field_can_be_hidden_and_still_encodes(field: str) -> None:
    raw = _record(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n", (Span(0, 23, 32, field),))
    hidden = masks.apply(raw, "raw", frozenset({field}))
    assert hidden.masked == {field}
    assert decode(encode(hidden)) == decode(encode(masks.wiped(hidden)))
    carries = {"handshake", "flags_first", "size_first", "iat_first", "ports", "ttl", "window", "proto", "service", "payload_head"}
    if field in carries:
        assert encode(hidden) != encode(raw)


def test_handshake_mask_leaves_no_syn_and_no_bare_ack() -> None:
    raw = _record(dirs=(0, 1, 0, 0, 1), sizes=(0, 0, 0, 10, 20), iats=(0, 1, 2, 3, 4), flags=(2, 18, 16, 24, 24), windows=(), ttls=())
    hidden = masks.apply(raw, "raw", frozenset({"handshake"}))
    assert (hidden.dirs, hidden.sizes, hidden.flags, hidden.iats) == ((0, 1), (10, 20), (24, 24), (0, 4))
    assert " S" not in pretty(encode(hidden))


def test_keep_shows_and_single_facts_hide() -> None:
    raw = _record()
    assert masks.apply(raw, "strict", keep=frozenset({"ttl"})).ttls == raw.ttls
    name = "fact:tls.handshake.version"
    assert name not in str(masks.apply(raw, "strict", frozenset({name})).facts.fields)
    assert masks.apply(raw, "strict", frozenset({name})).facts.fields.get("tls.handshake.version") is None


@pytest.mark.parametrize(("call", "hint"), [(("strct",), "strict"), (("strict", frozenset({"tlt"})), "'ttl'")])
def test_unknown_names_are_refused_with_a_suggestion(call: tuple[object, ...], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        masks.hidden_fields(*call)  # type: ignore[arg-type]
    assert hint in caught.value.hint


def test_every_field_says_what_it_hides_and_why() -> None:
    rows = masks.table()
    assert len({row.name for row in rows}) == len(rows) > 40
    assert all(row.hides and row.why for row in rows)
    assert set(masks.PROFILES) >= {profile for row in rows for profile in row.profiles}
