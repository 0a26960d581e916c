"""Facts shared by flows with equal keys are those that each flow's own bytes give, whatever the bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trafficllm.capture.facts.flow_facts as parsers
from trafficllm.capture.facts import http, services
from trafficllm.capture.facts.flow_facts import beyond_of, facts_of, facts_of_flows
from trafficllm.capture.facts.http2 import PREFACE
from trafficllm.capture.facts.keys import FactsCache
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.kernels.canonical.content import FIRST_BYTES
from trafficllm.core.types import Facts, FlowBatch

_MALWARE = ("Zeus/Zeus_00.pcap", "BitTorrent/BitTorrent_00.pcap", "Virut/Virut_00.pcap", "Neris/Neris_00.pcap")
_VALUES = np.array([0, 1, 2, 3, 12, 16, 20, 22, 23, 28, 43, 0xC0, 0xC1, 0xFF], dtype=np.uint8)
"""Bytes that mean something to a parser: types of records, messages and extensions, DNS pointers."""


def _own(batch: FlowBatch) -> list[Facts]:
    """Facts parsed flow by flow."""
    raw = batch.payload.tobytes()
    columns = (batch.proto.tolist(), batch.orig_p.tolist(), batch.resp_p.tolist(), batch.payload_ptr.tolist())
    rows = zip(*columns, beyond_of(batch, range(len(batch))), strict=True)
    return [facts_of(proto, one, two, raw[a:b], raw[b:c], beyond=beyond) for proto, one, two, (a, b, c), beyond in rows]


@pytest.fixture(name="batch", scope="module")
def _batch(captures: Path) -> FlowBatch:
    """Flows of several captures as one batch, with no more than facts are made of."""
    paths = [captures / "MTD" / name for name in _MALWARE] + sorted((captures / "EAC").rglob("*.pcap"))[:80:2]
    batches = [batch for path in paths for batch in read_flows([path])]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("ts", "proto", "orig_p", "resp_p", "payload", "beyond")
    }
    for name in ("payload", "beyond"):
        sizes = [len(getattr(batch, name)) for batch in batches]
        pointers = (getattr(batch, f"{name}_ptr") for batch in batches)
        columns[f"{name}_ptr"] = np.concatenate([a + b for a, b in zip(pointers, np.cumsum([0, *sizes]), strict=False)])
    return replace(batches[0], **columns)


@pytest.fixture(name="parsed")
def _parsed(monkeypatch: pytest.MonkeyPatch) -> list[Facts]:
    """What is parsed during a test."""
    parsed: list[Facts] = []

    def noted(*arguments: Any, **more: Any) -> Facts:
        parsed.append(facts_of(*arguments, **more))
        return parsed[-1]

    monkeypatch.setattr(parsers, "facts_of", noted)
    return parsed


def _assert_same(batch: FlowBatch, given: Sequence[Facts]) -> None:
    for facts, own in zip(given, _own(batch), strict=True):
        assert facts == own
        assert list(facts.fields.items()) == list(own.fields.items())  # in the same order too


def test_flows_alike_are_parsed_once(batch: FlowBatch, parsed: list[Facts]) -> None:
    given = list(facts_of_flows(batch))
    _assert_same(batch, given)
    assert len({facts.service for facts in given}) >= 5
    assert len(parsed) < 0.9 * sum(bool(facts.spans) for facts in given)


def test_rows_of_a_batch_come_in_their_order(batch: FlowBatch) -> None:
    rows = np.arange(len(batch))[::-3]
    own = _own(batch)
    assert list(facts_of_flows(batch, rows=rows)) == [own[i] for i in rows.tolist()]


def test_random_numbers_and_ciphertext_do_not_count(batch: FlowBatch, parsed: list[Facts]) -> None:
    """Hellos with other randoms and DNS messages with other identifiers have the same facts: of them only those are parsed that are cut."""
    own, payload, changed = _own(batch), batch.payload.copy(), 0
    for facts, (start, middle, _) in zip(own, batch.payload_ptr.tolist(), strict=True):
        for span in facts.spans:
            if span.kind in {"tls.random", "dns.id"}:
                at = (start, middle)[span.dir]
                payload[at + span.start : at + span.end] ^= 0x5A
                changed += 1
    assert changed > 50
    cache = FactsCache()
    list(facts_of_flows(batch, cache=cache))
    before = len(parsed)
    again = list(facts_of_flows(replace(batch, payload=payload), cache=cache))
    assert len(parsed) - before < 0.1 * changed
    assert again == own


def _mutated(batch: FlowBatch, rng: np.random.Generator) -> FlowBatch:
    """One to three bytes of each flow's prefixes are others, most of them near a beginning."""
    payload, beyond = batch.payload.copy(), batch.beyond.copy()
    for start, middle, end in batch.payload_ptr.tolist():
        for _ in range(int(rng.integers(1, 4)) if end > start else 0):
            low, high = (start, end) if middle in {start, end} or rng.random() < 0.7 else (middle, end)
            at = low + int(rng.integers(min(high - low, int(rng.choice([16, 64, 160, 4096])))))
            payload[at] = rng.choice(_VALUES) if rng.random() < 0.5 else rng.integers(256)
            if at + 1 < end and rng.random() < 0.3:
                payload[at + 1] = rng.choice([0, 1, 2, 4, 12, 20])
    places = rng.integers(max(len(beyond), 1), size=len(beyond) // 500)
    beyond[places] = rng.integers(256, size=len(places))
    return replace(batch, payload=payload, beyond=beyond)


def test_changed_bytes_give_their_own_facts(batch: FlowBatch) -> None:
    """All rounds share one cache, so a key that leaves out a byte that matters gives a flow another's facts."""
    rng, cache = np.random.default_rng(0), FactsCache(most=1 << 20, most_bytes=1 << 30)
    list(facts_of_flows(batch, cache=cache))
    for _ in range(4):
        changed = _mutated(batch, rng)
        _assert_same(changed, list(facts_of_flows(changed, cache=cache)))


def _flows(base: FlowBatch, proto: int, port: int, payloads: Sequence[bytes], *, side: int = 0) -> FlowBatch:
    """Flows with these payloads of the originator (`side` 0) or of the responder, all else from `base`."""
    ends, rows = np.cumsum([0, *map(len, payloads)]), len(payloads)
    pointers = np.stack([ends[:-1], ends[1 - side : rows + 1 - side], ends[1:]], axis=1)
    data = np.frombuffer(b"".join(payloads), dtype=np.uint8)
    ones = {"proto": np.full(rows, proto, dtype=np.uint8), "resp_p": np.full(rows, port, dtype=np.uint16), "ts": np.zeros(rows)}
    empty = {"beyond": np.zeros(0, dtype=np.uint8), "beyond_ptr": np.zeros((0, 3), dtype=np.int64)}
    return replace(base, **ones, **empty, orig_p=np.full(rows, 40000, dtype=np.uint16), payload_ptr=pointers, payload=data)


def test_a_name_that_points_at_the_identifier_is_read_from_it(batch: FlowBatch) -> None:
    """RFC 1035 4.1.4: a pointer may lead anywhere, so identifiers that are read as labels are no longer left out."""
    question = bytes.fromhex("0100 0001 0000 0000 0000 c000 0001 0001".replace(" ", ""))
    flows = _flows(batch, 17, 53, [b"\x00\x01" + question, b"\x01\x61" + question, b"\x01\x62" + question])
    given = list(facts_of_flows(flows))
    _assert_same(flows, given)
    assert len({facts.fields["dns.qry.name"] for facts in given}) == 3


def test_the_cache_is_bounded() -> None:
    facts = Facts("x")
    by_number, by_size = FactsCache(most=4), FactsCache(most_bytes=100)
    for number in range(50):
        for cache in (by_number, by_size):
            cache.put(number.to_bytes(20, "big"), facts)
    assert len(by_number) <= 8
    assert len(by_size) <= 10
    assert by_number.get((49).to_bytes(20, "big")) is facts
    assert by_number.get((1).to_bytes(20, "big")) is None


def test_what_is_asked_for_stays() -> None:
    cache, facts = FactsCache(most=4), Facts("x")
    cache.put(b"often", facts)
    for number in range(40):
        cache.put(bytes([number]), Facts())
        assert cache.get(b"often") is facts


def _first_bytes(parsed: Any) -> Iterator[int]:
    """Bytes with which a match of a parsed pattern may begin; all of them where it may begin with any."""
    from re import _constants as kinds  # type: ignore[attr-defined]  # the parser of `re` says what a pattern begins with

    for kind, value in parsed:
        if kind is kinds.LITERAL:
            yield value
        elif kind is kinds.IN:
            for one, what in value:
                yield from range(what[0], what[1] + 1) if one is kinds.RANGE else (what,)
        elif kind is kinds.SUBPATTERN:
            yield from _first_bytes(value[3])
            if value[3].getwidth()[0] == 0:
                continue
        elif kind is kinds.BRANCH:
            for branch in value[1]:
                yield from _first_bytes(branch)
        elif kind in {kinds.MAX_REPEAT, kinds.MIN_REPEAT}:
            yield from _first_bytes(value[2])
            if value[0] == 0:
                continue
        else:
            yield from range(256)
        return


_BEHIND_ANY = {"smb": (4, b"\xfeSMB"), "mysql": (2, b"\x00\x00\x0a")}
"""Services on any port whose pattern does not say how they begin: what `content.is_content` looks for instead."""


@pytest.mark.parametrize("transport", [0, 1], ids=["tcp", "udp"])
def test_what_any_pattern_may_begin_with_is_left_to_the_parsers(transport: int) -> None:
    from re import _parser  # type: ignore[attr-defined]

    table = (services.TCP, services.UDP)[transport]
    seen = 0
    for row in table:
        if row.ports:
            continue
        parsed = _parser.parse(row.pattern.pattern, re.DOTALL)
        begins = set(_first_bytes(parsed))
        seen += 1
        if begins == set(range(256)):
            assert row.name in _BEHIND_ANY, f"{row.name} may begin with any byte: let content.is_content look for what follows"
            continue
        missing = sorted(byte for byte in begins if not FIRST_BYTES[byte] & 1 << transport)
        assert not missing, f"{row.name} may begin with {missing}: add them to content.FIRST_BYTES"
    assert seen >= (20, 4)[transport]


def _bytes_of(item: Any, rng: np.random.Generator) -> int:
    """A byte that an item of a character class holds."""
    from re import _constants as kinds  # type: ignore[attr-defined]

    kind, value = item
    if kind is kinds.CATEGORY:
        return int(rng.choice(list(b"0123456789" if value is kinds.CATEGORY_DIGIT else b" \t\r\n")))
    return int(rng.integers(value[0], value[1] + 1)) if kind is kinds.RANGE else value


def _matching(parsed: Any, rng: np.random.Generator) -> bytes:
    """Bytes that match a parsed pattern, drawn at random."""
    from re import _constants as kinds  # type: ignore[attr-defined]

    out = b""
    for kind, value in parsed:
        if kind is kinds.LITERAL:
            out += bytes([value])
        elif kind is kinds.ANY:
            out += rng.bytes(1)
        elif kind is kinds.NOT_LITERAL:
            out += bytes([(value + int(rng.integers(1, 256))) % 256])
        elif kind is kinds.IN and value[0][0] is kinds.NEGATE:
            held = {byte for one, what in value[1:] for byte in (range(what[0], what[1] + 1) if one is kinds.RANGE else (what,))}
            out += bytes([int(rng.choice(sorted(set(range(256)) - held)))])
        elif kind is kinds.IN:
            out += bytes([_bytes_of(value[int(rng.integers(len(value)))], rng)])
        elif kind is kinds.SUBPATTERN:
            out += _matching(value[3], rng)
        elif kind is kinds.BRANCH:
            out += _matching(value[1][int(rng.integers(len(value[1])))], rng)
        elif kind in {kinds.MAX_REPEAT, kinds.MIN_REPEAT}:
            for _ in range(int(rng.integers(value[0], min(int(value[1]), value[0] + 8) + 1))):
                out += _matching(value[2], rng)
        else:
            assert kind is kinds.AT, kind
    return out


_OTHERS = {
    6: (
        *http._METHODS, *(name + b"/ HTTP/1.1" for name in http._MORE_METHODS), b"HTTP/1.1 200 OK", PREFACE, b"<stream:stream",
       b"\xff\xfb\x01",        b"INVITE sip:a@b SIP/2.0", b"SIP/2.0 200 OK", b"Get a\r\n",
        b"\x00\x00\x00\x54\x00\x03\x00\x00user", bytes([0x16, 3, 1]),
    ),
    17: (b"M-SEARCH * HTTP/1.1\r\n", b"NOTIFY * HTTP/1.1\r\n", b"SIP/2.0 200 OK", b"ACK sip:a@b SIP/2.0", b"\xc3\x00\x00\x00\x01\x08",
         b"\x0d12345678Q046", b"\x16\xfe\xfd", b"\x04\x00\x00\x00", b"\x00\x01\x00\x00\x21\x12\xa4\x42", b"\x17\xfe\xfd"),
}  # fmt: skip
"""What parsers outside the table of services know by its first bytes."""


@pytest.mark.parametrize("proto", [6, 17])
def test_what_a_parser_recognises_does_not_pass_for_content(batch: FlowBatch, proto: int) -> None:
    """Each beginning beside a flow of the same sizes that is content: were it taken for that too, it would get the same facts."""
    from re import _parser  # type: ignore[attr-defined]

    rng = np.random.default_rng(0)
    beginnings = list(_OTHERS[proto])
    for row in services.TCP if proto == 6 else services.UDP:
        parsed = _parser.parse(row.pattern.pattern, re.DOTALL)
        drawn = [_matching(parsed, rng) for _ in range(20)]
        assert all(row.pattern.match(data) for data in drawn), row.name
        beginnings += drawn if not row.ports else []
    payloads = [data for begin in beginnings for data in (b"\x81" * (len(begin) + 70), begin + b"\xa1" * 70)]
    names: set[str] = set()
    for side in (0, 1):
        flows = _flows(batch, proto, 41000, payloads, side=side)
        given = list(facts_of_flows(flows))
        _assert_same(flows, given)
        assert not any(facts.service for facts in given[::2])
        names.update(facts.service for facts in given)
    assert len(names) >= (20, 8)[proto == 17]


def test_a_magic_number_behind_other_bytes_is_seen(batch: FlowBatch) -> None:
    payloads = [b"\xe0" * at + magic + b"\xe1" * 40 for at, magic in _BEHIND_ANY.values()]
    payloads += [b"\xe0" * 30 + b"\x16\x03\x01" + b"\xe1" * 40, b"\xe0" * 20 + b"<stream:stream>" + b"\xe1" * 40, b"\xe0" * 60]
    flows = _flows(batch, 6, 41000, payloads)
    given = list(facts_of_flows(flows))
    _assert_same(flows, given)
    assert given[0].service == "smb"
    datagrams = _flows(batch, 17, 41000, [b"\x20\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), b"\x20" * 20])
    assert [facts.service for facts in facts_of_flows(datagrams)] == ["stun", ""]
