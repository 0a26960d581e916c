"""The codec keeps what it says it keeps, and the grammar is its language, on 10,000 seeded records."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from trafficllm.core.errors import InputError
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import Facts, Record, Span
from trafficllm.records import masks
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import canonical
from trafficllm.records.codec.codec import decode, encode, pretty
from trafficllm.records.codec.grammar import Grammar

CASES = 10_000


def _column(rng: random.Random, n: int, top: int) -> tuple[int, ...]:
    if rng.random() < 0.1:
        return ()
    return tuple(-1 if rng.random() < 0.1 else rng.choice((0, 1, top, rng.randrange(top + 1))) for _ in range(n))


def _spans(rng: random.Random, size: int) -> list[Span]:
    spans = []
    for _ in range(rng.randrange(4)):
        start = rng.randrange(-2, size + 3)
        spans.append(Span(rng.randrange(2), start, start + rng.randrange(0, 60), "x"))
    return spans


def _facts(rng: random.Random) -> Facts:
    fields: dict[str, int | str | tuple[int, ...]] = {"unknown.field": 3}
    for name in u.FACTS:
        if rng.random() < 0.1:
            many = tuple(rng.randrange(65536) for _ in range(rng.choice((0, 3, 3, 300))))
            fields[name] = rng.choice(("h2,http/1.1é", rng.randrange(100_000), (*many, 0x1A1A)))
    return Facts(service=rng.choice(["", "tls", "dns", "gopher"]), fields=fields)


def make(rng: random.Random) -> Record:
    """A record with anything in it: hidden values, other protocols, odd spans, too much of everything."""
    n = rng.choice((0, 1, 2, 5, 20))
    kind = rng.choice(("flow",) * 6 + ("packet", "http", "cells"))
    payload = tuple(rng.randbytes(rng.choice((0, 1, 40, 300))) for _ in range(2))
    dirs = tuple(rng.randrange(2) for _ in range(n))
    runs = tuple(d for d in dirs for _ in range(rng.choice((1, 3, 2100 if n < 3 else 2))))
    return Record(
        kind=kind,
        ip_version=rng.choice((0, 4, 6)),
        proto=rng.choice((-1, 1, 6, 6, 6, 17, 58, 47)),
        ports=rng.choice((None, None, (rng.randrange(65536), 443))),
        port_class=rng.choice(("", "ew", "e", "-w", "rr")),
        dirs=runs if kind == "cells" else dirs,
        sizes=_column(rng, n, 65535),
        iats=_column(rng, n, 4_000_000_000_000),
        flags=_column(rng, n, 255),
        windows=_column(rng, n, 65535),
        ttls=_column(rng, n, 255),
        icmp=rng.choice((-1, 0x0800, 0x0301)),
        payload=(payload[0], payload[1]),
        hidden=tuple(_spans(rng, 300)),
        facts=_facts(rng),
        text=rng.choice(("", "GET /?q=é\udcff HTTP/1.1\r\nHost: a\r\n\r\n" * 20)) if kind == "http" else "",
    )


def test_decode_gives_back_what_the_codec_keeps() -> None:
    rng = random.Random(4)
    grammar = Grammar()
    walked = 0
    kinds: Counter[str] = Counter()
    for case in range(CASES):
        record = make(rng)
        kinds[record.kind] += 1
        units = encode(record)
        kept = canonical(record)
        assert decode(units) == kept
        assert canonical(kept) == kept
        assert encode(kept) == units
        if case % 20 == 0:
            state = grammar.run(grammar.start(), units)
            assert grammar.accepts(state) is (record.kind == "flow")
            walked += record.kind == "flow"
    assert walked > CASES // 40
    assert kinds.total() == CASES == 10_000
    assert min(kinds[kind] for kind in ("flow", "packet", "http", "cells")) > 900


def test_a_set_of_numbers_is_written_in_rising_order() -> None:
    record = Record(proto=17, facts=Facts("quic", {"tls.quic.parameter.type": (3, 1, 70_000, 2), "quic.version": 1}))
    units = encode(record)
    assert pretty(units) == "flow udp ip4 | service quic | fact quic.version 00 00 00 01 | fact tls.quic.parameter.type 01 02 03 ff | end"
    falling = units.replace(u.bytes_units(bytes((1, 2, 3))), u.bytes_units(bytes((2, 1, 3))))
    assert not Grammar().accepts(Grammar().run(Grammar().start(), falling))
    assert encode(decode(falling)) == units


def test_the_whole_of_a_page_load_comes_before_its_bursts() -> None:
    record = Record(kind="cells", proto=-1, ip_version=0, dirs=(0, 1, 1) * 400, iats=(0, 1_000_000, 0) * 400)
    shown = pretty(encode(record, CodecOptions(bursts=2)))
    begin = "cells | total orig 400 | total resp 800 | cumul 1 17 | cumul 2 34 |"
    assert shown.startswith(begin)
    assert "| cumul 24 400 | moment 1 32.8ms | moment 2 65.5ms |" in shown
    assert shown.endswith("| moment 12 330ms | > 1 | < 2 813us | end")
    cut = canonical(record, CodecOptions(bursts=2))
    assert (cut.dirs, cut.load[:2]) == ((0, 1, 1), (400, 800))
    assert pretty(encode(cut)) == shown
    blind = pretty(encode(masks.apply(cut, also=frozenset({"iats"}))))
    assert blind.startswith(begin)
    assert "moment" not in blind
    one = pretty(encode(masks.apply(cut, also=frozenset({"packet_count"}))))
    assert one.startswith("cells | total orig 1 | total resp 0 |")


@pytest.mark.parametrize("missing", ["total:resp", "cumul:7", "moment:2"])
def test_half_of_a_page_load_is_refused(missing: str) -> None:
    units = encode(Record(kind="cells", proto=-1, dirs=(0, 1), iats=(0, 5)))
    with pytest.raises(InputError, match="out of place"):
        decode(units.replace(u.unit(missing), ""))


@pytest.mark.parametrize("options", [CodecOptions(packets=3, payload=(5, 0)), CodecOptions(packets=0, payload=(1, 2))])
def test_every_walk_of_the_grammar_is_a_record(options: CodecOptions) -> None:
    rng = random.Random(1)
    grammar = Grammar(options)
    for _ in range(400):
        state, text = grammar.start(), ""
        while not grammar.accepts(state):
            char = rng.choice(sorted(grammar.allowed(state)))
            following = grammar.step(state, char)
            assert following is not None
            state, text = following, text + char
        record = decode(text)
        assert encode(record, options) == text
        assert canonical(record, options) == record
        assert pretty(text).startswith("flow")


def test_mutated_strings_are_refused_by_both_or_by_neither() -> None:
    rng = random.Random(9)
    grammar = Grammar()
    refused = 0
    for _ in range(300):
        units = list(encode(make(rng)))
        units[rng.randrange(len(units))] = rng.choice(u.UNITS)
        text = "".join(units)
        accepted = grammar.accepts(grammar.run(grammar.start(), text))
        try:
            same = encode(decode(text)) == text
        except InputError:
            same = False
        refused += not same
        if text.startswith(u.unit("kind:flow")):
            assert accepted == same
    assert refused > 75
