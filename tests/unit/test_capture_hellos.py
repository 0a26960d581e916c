"""Hellos that the payload prefix does not hold: long TLS ones, QUIC Initial packets, DTLS; and what the reader keeps for them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from capture_samples import ACK, PSH, SYN, A, B, Talk, ethernet, ipv4, pcap, tcp, udp, write
from hello_samples import CONNECTION, KEYS, NAME, crypto, dtls, extension, hello, initial, kept, long_packet, number, records, server_hello

from trafficllm.capture.facts.flow_facts import facts_of, facts_of_flows
from trafficllm.capture.facts.quic import quic_fields
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.counts import CountsBuilder, notices
from trafficllm.capture.kernels.flow import P_FACTS
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import Facts, FlowBatch

SNI, JA4 = "tls.handshake.extensions_server_name", "tls.handshake.ja4"


def batch_of(tmp_path: Path, frames: list[bytes], **options: int) -> FlowBatch:
    path = write(tmp_path, pcap([(1.0 + 0.01 * k, frame) for k, frame in enumerate(frames)]))
    (batch,) = read_flows([path], options=FlowOptions(**options))  # type: ignore[arg-type]
    return batch


def facts_in(tmp_path: Path, frames: list[bytes]) -> Facts:
    (facts,) = facts_of_flows(batch_of(tmp_path, frames))
    return facts


def segment(data: bytes, at: int, *, flags: int = ACK | PSH, sport: int = 40000) -> bytes:
    return ethernet(ipv4(6, tcp(sport, 443, 1000 + at, 1, flags, data)))


def datagram(data: bytes, *, back: bool = False) -> bytes:
    ends = (443, 50000) if back else (50000, 443)
    return ethernet(ipv4(17, udp(*ends, data), *((B, A) if back else (A, B))))


def segments(stream: bytes, size: int) -> list[bytes]:
    return [segment(b"", -1, flags=SYN), *(segment(stream[at : at + size], at) for at in range(0, len(stream), size))]


@pytest.mark.parametrize("size", [1460, 700, 300])
def test_a_post_quantum_hello_is_whole_at_default_settings(tmp_path: Path, size: int) -> None:
    stream = records(hello())
    assert len(stream) > 1400
    frames = segments(stream, size)
    whole = facts_of(6, 40000, 443, stream, b"")
    assert whole.fields[SNI] == NAME
    assert str(whole.fields[JA4]).startswith("t13d0206h2_")
    for order in (frames, [frames[0], *reversed(frames[1:])], [frames[0], *frames[2:], frames[1]]):
        batch = batch_of(tmp_path, order)
        assert int(batch.payload_ptr[0, 1]) == 512
        assert int(batch.beyond_ptr[0, 1]) == len(stream) - 512
        (facts,) = facts_of_flows(batch)
        assert dict(facts.fields) == dict(whole.fields)
        assert facts.spans
        assert all(span.end <= 512 for span in facts.spans)


def test_the_prefix_alone_has_the_same_places(tmp_path: Path) -> None:
    stream = records(hello(), size=600)
    (facts,) = facts_of_flows(batch_of(tmp_path, segments(stream, 1460)))
    assert facts.spans == facts_of(6, 40000, 443, stream[:512], b"").spans


def test_what_is_kept_ends_with_the_hello(tmp_path: Path) -> None:
    stream = records(hello(), size=1000) + b"\x17\x03\x03\x40\x00" + b"x" * 4000
    batch = batch_of(tmp_path, segments(stream, 1460))
    assert int(batch.beyond_ptr[0, 1]) == len(records(hello(), size=1000)) - 512


@pytest.mark.parametrize("before", [0, 1, 61, 62, 63, 64, 65, 127, 128, 129, 300, 440, 503])
@pytest.mark.parametrize("filler", [b"x", b"\x16", b"\x16\x03\x09\x00\x07"])
def test_a_hello_is_found_wherever_in_the_prefix_it_begins(tmp_path: Path, before: int, filler: bytes) -> None:
    """What comes before it may look like the beginning of a handshake, at the border of what is looked at together too."""
    stream = (filler * before)[:before] + records(hello(), size=1000)
    batch = batch_of(tmp_path, segments(stream + b"\x17\x03\x03\x40\x00" + b"x" * 4000, 1460))
    assert int(batch.beyond_ptr[0, 1]) == len(stream) - 512


@pytest.mark.parametrize("stream", [b"GET / HTTP/1.1\r\n" + b"x" * 3000, records(hello(share=32)), b"\x17\x03\x03\x40\x00" + b"y" * 3000])
def test_nothing_is_kept_where_the_prefix_says_all(tmp_path: Path, stream: bytes) -> None:
    frames = segments(stream, 1400)
    assert not len(batch_of(tmp_path, frames).beyond)
    assert not len(batch_of(tmp_path, [frames[0], *reversed(frames[1:])]).beyond)


def test_a_prefix_of_another_size_and_no_hello_bytes(tmp_path: Path) -> None:
    stream = records(hello())
    for size in (16, 100, 512, 1000, 4096):
        batch = batch_of(tmp_path, segments(stream, 1460), max_payload=size)
        assert next(facts_of_flows(batch)).fields[SNI] == NAME
    off = batch_of(tmp_path, segments(stream, 1460), hello_bytes=0)
    assert not len(off.beyond)
    assert SNI not in next(facts_of_flows(off)).fields


def test_the_first_copy_of_a_byte_stands_beyond_the_prefix_too(tmp_path: Path) -> None:
    stream = records(hello())
    forged = segment(bytes(600), 800)
    assert facts_in(tmp_path, [*segments(stream, 1460), forged]).fields[SNI] == NAME


def test_a_used_up_pool_costs_hellos_and_no_flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trafficllm.capture.flows import flow_table

    monkeypatch.setattr(flow_table, "_CHUNK_BYTES", 576 * 40)
    frames = []
    for k in range(60):
        stream = records(hello(f"h{k}.example.com"))
        frames += [segment(b"", -1, flags=SYN, sport=40000 + k)]
        frames += [segment(stream[at : at + 1000], at, sport=40000 + k) for at in range(0, len(stream), 1000)]
    path = write(tmp_path, pcap([(1.0 + 0.001 * k, frame) for k, frame in enumerate(frames)]))
    counts = CountsBuilder()
    rows = [facts for batch in read_flows([path], counts=counts) for facts in facts_of_flows(batch)]
    assert len(rows) == 60
    assert sum(SNI in facts.fields for facts in rows) == 40 // 3
    assert counts.build().not_read == {"clients' hellos": 60 - 40 // 3}
    assert "47, as the pool for them was full" in notices(counts.build())[0]
    later = [(1.0 + 200.0 * k, frame) for k in range(60) for frame in frames[3 * k : 3 * k + 3]]
    counts = CountsBuilder()
    rows = [facts for batch in read_flows([write(tmp_path, pcap(later))], counts=counts) for facts in facts_of_flows(batch)]
    assert not counts.build().not_read
    assert sum(SNI in facts.fields for facts in rows) == 60  # finished flows give their chunks back


def test_datagrams_that_find_the_pool_full_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trafficllm.capture.flows import flow_table

    monkeypatch.setattr(flow_table, "_CHUNK_BYTES", 576 * 8)
    frames = [ethernet(ipv4(17, udp(40000 + k, 443, initial(crypto(quic_hello(), 0, 900))))) for k in range(6)]
    counts = CountsBuilder()
    path = write(tmp_path, pcap([(1.0 + 0.001 * k, frame) for k, frame in enumerate(frames)]))
    assert sum(len(batch) for batch in read_flows([path], counts=counts)) == 6
    assert counts.build().not_read == {"clients' hellos": 4}


def test_no_prefix_no_pool() -> None:
    from trafficllm.capture.flows.flow_table import FlowTable

    params = np.zeros(10, dtype=np.int64)
    params[P_FACTS] = 8192
    assert len(FlowTable(params, table_size=16).arrays.chunks) == 0


def quic_hello() -> bytes:
    parameters = b"\x01\x02\x67\x10" + b"\x0f\x00" + b"\x04\x04\x80\x10\x00\x00"
    return hello("quic.example.com", alpn=b"h3", more=extension(0x39, parameters))


@pytest.mark.parametrize("version", sorted(KEYS))
def test_initial_packets_of_both_versions_open(version: int) -> None:
    stream = quic_hello()
    datagrams = [initial(crypto(stream, 0, 900), version=version), initial(crypto(stream, 900, 9999), version=version, packet=1)]
    facts = facts_of(17, 50000, 443, datagrams[0][:512], b"", beyond=(kept(datagrams), b""))
    assert facts.service == "quic"
    assert facts.fields["quic.version"] == version
    assert facts.fields[SNI] == "quic.example.com"
    assert facts.fields["tls.handshake.extensions_alpn_str"] == "h3"
    assert facts.fields["tls.quic.parameter.type"] == (1, 15, 4)
    assert facts.fields["tls.quic.parameter.length"] == (2, 0, 4)
    assert str(facts.fields[JA4]).startswith("q13d0207h3_")


def test_crypto_frames_come_in_any_order_over_datagrams() -> None:
    stream = quic_hello()
    cuts = [0, 200, 700, 1100, len(stream)]
    pieces = [crypto(stream, cuts[k], cuts[k + 1]) for k in range(4)]
    for a, b, c, d in permutations(pieces):
        ping, ack = b"\x01", b"\x02" + number(3) + number(0) + number(1) + number(1) + number(0) + number(0)
        first = initial(ping + a + b"\x00" * 40 + b, packet=7, size=1450)
        second = initial(c + ack + ping + d + crypto(stream, 0, 100), packet=300, size=1450)
        assert quic_fields([first, second])[SNI] == "quic.example.com"
        assert quic_fields([second, first])[SNI] == "quic.example.com"


def test_coalesced_packets_and_0rtt_are_passed_over() -> None:
    stream = quic_hello()
    one = initial(crypto(stream, 0, 700), size=900) + long_packet(1, b"z" * 200) + initial(crypto(stream, 700, 9999), packet=1, size=1000)
    assert quic_fields([long_packet(1, b"z" * 1100), one])[SNI] == "quic.example.com"
    assert quic_fields([long_packet(2, b"z" * 1100)]) == {}


def test_after_a_retry_the_keys_change_and_later_packets_name_the_server_s_id() -> None:
    stream = quic_hello()
    before = bytearray(initial(crypto(stream, 0, 900), connection=b"original"))  # keys of another connection ID: does not open
    retried = initial(crypto(stream, 0, 900), token=b"token" * 9)
    later = initial(crypto(stream, 900, 9999), packet=2, connection=b"", token=b"token" * 9)
    assert quic_fields([bytes(before), retried, later])[SNI] == "quic.example.com"
    damaged = retried[:-1] + bytes([retried[-1] ^ 1])
    assert quic_fields([damaged]) == {}


def test_a_part_of_the_hello_gives_a_part_of_the_facts() -> None:
    fields = quic_fields([initial(crypto(quic_hello(), 0, 900))])
    assert fields["tls.handshake.ciphersuite"] == (0x0A0A, 0x1301, 0x1302)
    assert JA4 not in fields


def test_a_flow_opens_at_most_sixteen_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    from trafficllm.capture.facts import quic

    calls = []
    real = quic.opened
    monkeypatch.setattr(quic, "opened", lambda *args: calls.append(1) or real(*args))  # type: ignore[func-returns-value]
    quic_fields([initial(b"\x01", size=60, connection=bytes([k]) * 8) for k in range(180)])
    assert len(calls) <= 16 * 3
    calls.clear()
    stream = quic_hello()
    quic_fields([initial(crypto(stream, 0, 900)), initial(crypto(stream, 900, 9999), packet=1), initial(b"\x01", packet=2)])
    assert len(calls) == 2  # the hello is whole: nothing is opened any more


def chlo(name: bytes = b"old.example.com") -> bytes:
    tags = ((b"PAD\x00", b"-" * 700), (b"SNI\x00", name), (b"VER\x00", b"Q043"))
    ends = np.cumsum([len(value) for _, value in tags]).tolist()
    index = b"".join(tag + end.to_bytes(4, "little") for (tag, _), end in zip(tags, ends, strict=True))
    return b"CHLO" + len(tags).to_bytes(2, "little") + bytes(2) + index + b"".join(value for _, value in tags)


def test_google_s_quic_before_the_ietf_s_names_its_server_in_clear_text(tmp_path: Path) -> None:
    head = b"\x09" + b"C" * 8 + b"Q043" + b"\x01" + b"hash" * 3 + b"\xa0\x01\x00\x00"
    facts = facts_in(tmp_path, [datagram(head + chlo())])
    assert (facts.service, facts.fields["quic.version"], facts.fields[SNI]) == ("quic", 0x51303433, "old.example.com")
    later = b"\xc3Q046\x50" + b"C" * 8 + b"\x00\x00\x00\x01" + b"hash" * 3 + b"\x08\x01\x00\x00"
    assert facts_in(tmp_path, [datagram(later + chlo())]).fields[SNI] == "old.example.com"
    assert SNI not in facts_of(17, 50000, 443, head + chlo()[:300], b"").fields
    assert facts_of(17, 50000, 443, head.replace(b"Q0", b"R0") + chlo(), b"").service == ""


def test_a_reserved_version_asks_for_negotiation_and_is_quic_none_the_less() -> None:
    stream = quic_hello()
    asked = b"\xc3\x1a\x2a\x3a\x4a" + initial(crypto(stream, 0, 900))[5:]
    facts = facts_of(17, 50000, 443, asked[:512], b"", beyond=(kept([asked, initial(crypto(stream, 0, 900))]), b""))
    assert (facts.service, facts.fields["quic.version"]) == ("quic", 0x1A2A3A4A)
    assert facts.fields["tls.handshake.version"] == 0x0303


def test_the_reader_keeps_the_client_s_initials_alone(tmp_path: Path) -> None:
    stream = quic_hello()
    first, second = initial(crypto(stream, 0, 900)), initial(crypto(stream, 900, 9999), packet=1)
    answer = initial(b"\x01", connection=b"")
    frames = [datagram(second), datagram(long_packet(1, b"z" * 900)), datagram(answer, back=True), datagram(first)]
    frames += [datagram(b"\x40" + b"s" * 100), datagram(first)]
    batch = batch_of(tmp_path, frames)
    assert batch.beyond.tobytes() == kept([second, first])
    assert next(facts_of_flows(batch)).fields[SNI] == "quic.example.com"
    flood = batch_of(tmp_path, [datagram(initial(b"\x01", packet=k)) for k in range(40)])
    assert len(flood.beyond) == 6 * 1202


def test_dtls_hellos_whole_and_in_fragments(tmp_path: Path) -> None:
    message = hello("rtc.example.com", share=700, cookie=b"C" * 20)
    for piece in (1 << 14, 300):
        facts = facts_in(tmp_path, [datagram(part) for part in dtls(message, sequence=1, piece=piece)])
        assert facts.service == "dtls"
        assert facts.fields[SNI] == "rtc.example.com"
        assert str(facts.fields[JA4]).startswith("dd3d0206h2_")
    stun = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"t" * 12
    facts = facts_in(tmp_path, [datagram(stun), *(datagram(part) for part in dtls(message))])
    assert (facts.service, facts.fields[SNI]) == ("stun", "rtc.example.com")


def test_records_carry_a_quic_hello_as_they_carry_tls(tmp_path: Path) -> None:
    from trafficllm.records import masks
    from trafficllm.records.codec.codec import encode
    from trafficllm.records.codec.flows import records_of
    from trafficllm.records.codec.units import unit

    stream = quic_hello()
    frames = [datagram(initial(crypto(stream, 0, 900))), datagram(initial(crypto(stream, 900, 9999), packet=1))]
    ((record, _),) = records_of(batch_of(tmp_path, frames))
    assert len(record.payload[0]) == 512
    shown = masks.wiped(masks.apply(record))
    assert shown.facts.fields["tls.handshake.extensions_alpn_str"] == "h3"
    assert SNI not in shown.facts.fields
    assert unit("fact:tls.handshake.extension.type") in encode(shown)
    assert "quic.example.com" not in repr(shown)
    assert CONNECTION not in shown.payload[0]


def test_a_server_hello_beside_a_long_client_hello(tmp_path: Path) -> None:
    talk = Talk(dport=443)
    talk.open()
    stream = records(hello())
    talk.send(0, ACK, stream[:1000]).send(0, ACK, stream[1000:]).send(1, ACK, server_hello())
    path = write(tmp_path, pcap(talk.frames))
    (batch,) = read_flows([path])
    (facts,) = facts_of_flows(batch)
    assert (facts.fields["tls.server.supported_version"], facts.fields[SNI]) == (0x0304, NAME)
