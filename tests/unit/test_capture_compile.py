"""Plans become the packets they describe; what they have wrong is repaired and counted."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter

import numpy as np
from capture_plans import HEADS, random_plans

from trafficllm.capture import checksum
from trafficllm.capture.compile import contents as wellformed
from trafficllm.capture.compile import dns as wellformed_dns
from trafficllm.capture.compile import http as wellformed_http
from trafficllm.capture.compile import lookalikes
from trafficllm.capture.compile.plans import CompileCounts, compile_flows
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import PacketBatch
from trafficllm.core.types import ORIG, RESP, Action, FlowPlan, FrameBatch

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HANDSHAKE = (Action("open"), Action("open", RESP, gap=1000), Action("ack", gap=1000))


def _compile(*actions: Action, proto: int = 6, version: int = 4, port: int = 443) -> tuple[PacketBatch, CompileCounts]:
    counts = CompileCounts()
    frames = compile_flows([FlowPlan(proto, version, port, actions)], seed=1, start=0, spread=0, counts=counts)
    return decode(frames, checksums=True), counts


def _payload(packets: PacketBatch, i: int) -> bytes:
    start = int(packets.frames.offset[i] + packets["payload"][i])
    return packets.frames.buffer[start : start + int(packets["payload_len"][i])].tobytes()


def test_checksum_of_the_rfc() -> None:
    """RFC 1071 section 3 sums these eight octets to ddf2."""
    assert checksum.fold(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    assert checksum.fold(bytes(4)) == 0
    assert checksum.fold(b"\xff\xff") == 0xFFFF
    assert checksum.fold(b"\x12") == 0x1200


def test_a_whole_connection() -> None:
    packets, counts = _compile(
        *HANDSHAKE,
        Action("send", size=300, payload=b"hello", flags=PSH, gap=5000),
        Action("ack", RESP),
        Action("send", RESP, size=10),
        Action("close"),
        Action("close", RESP),
        Action("ack"),
    )
    assert packets["flags"].tolist() == [SYN, SYN | ACK, ACK, PSH | ACK, ACK, ACK, FIN | ACK, FIN | ACK, ACK]
    assert packets["payload_len"].tolist() == [0, 0, 0, 300, 0, 10, 0, 0, 0]
    seq, ack = packets["seq"].astype(np.int64), packets["ack"].astype(np.int64)
    assert (seq[3] - seq[0], ack[1] - seq[0], ack[4] - seq[0]) == (1, 1, 301)
    assert (ack[2] - seq[1], ack[6] - seq[1], seq[6] - seq[0], ack[8] - seq[1], ack[7] - seq[0]) == (1, 11, 301, 12, 302)
    assert packets.frames.ts.tolist() == [0, 1000, 2000, *[7000] * 6]
    assert _payload(packets, 3).startswith(b"hello")
    assert counts.repairs == {}
    assert set(packets["ip_sum"].tolist()) == set(packets["l4_sum"].tolist()) == {1}


def test_a_flow_may_begin_in_the_middle_and_never_end() -> None:
    packets, counts = _compile(Action("send", size=50), Action("ack", RESP), Action("send", RESP, size=60))
    assert packets["flags"].tolist() == [ACK] * 3
    assert int(packets["ack"][1]) == int(packets["seq"][0]) + 50
    assert int(packets["ack"][2]) == int(packets["seq"][0]) + 50
    assert counts.repairs == {}


def test_big_sends_are_cut_at_the_mss_and_push_comes_last() -> None:
    packets, _ = _compile(Action("send", size=65535, flags=PSH))
    sizes = packets["payload_len"].tolist()
    assert sum(sizes) == 65535
    assert max(sizes) == 1460
    assert packets["flags"].tolist() == [ACK] * (len(sizes) - 1) + [ACK | PSH]
    assert (np.diff(packets["seq"].astype(np.int64)) == sizes[:-1]).all()
    version6, _ = _compile(Action("send", size=5000), version=6)
    assert max(version6["payload_len"].tolist()) == 1440


def test_data_before_the_handshake_is_over_completes_it() -> None:
    packets, counts = _compile(Action("open"), Action("send", RESP, size=9))
    assert packets["flags"].tolist() == [SYN, SYN | ACK, ACK, ACK]
    assert counts.repairs["handshake.completed"] == 2


def test_what_cannot_follow_is_dropped_and_leaves_its_gap() -> None:
    packets, counts = _compile(
        *HANDSHAKE,
        Action("close"),
        Action("send", size=5, gap=70),
        Action("close", RESP, gap=1),
        Action("open", RESP),
        Action("icmp"),
        Action("nonsense"),
    )
    assert packets["flags"].tolist() == [SYN, SYN | ACK, ACK, FIN | ACK, FIN | ACK]
    assert packets.frames.ts.tolist()[-1] == 2071
    assert counts.repairs == {"send.after_close": 2, "open.again": 1, "op.transport": 1, "op.unknown": 1}


def test_a_closed_end_closing_again_repeats_its_fin() -> None:
    packets, _ = _compile(*HANDSHAKE, Action("close"), Action("close"), Action("retransmit"))
    assert packets["flags"].tolist()[3:] == [FIN | ACK] * 3
    assert len(set(packets["seq"].tolist()[3:])) == 1


def test_retransmission_has_the_same_number_and_bytes() -> None:
    packets, _ = _compile(Action("send", size=40), Action("send", size=60), Action("retransmit"))
    assert packets["seq"][2] == packets["seq"][1]
    assert _payload(packets, 2) == _payload(packets, 1)


def test_refused_connection_tries_again_with_its_number() -> None:
    packets, _ = _compile(Action("open"), Action("reset", RESP), Action("open"), Action("reset", RESP))
    assert packets["flags"].tolist() == [SYN, RST | ACK] * 2
    assert packets["seq"].tolist() == [packets["seq"][0], 0] * 2
    assert int(packets["ack"][1]) == int(packets["seq"][0]) + 1


def test_after_its_end_a_connection_starts_with_new_numbers() -> None:
    packets, _ = _compile(*HANDSHAKE, Action("reset", flags=ACK), Action("open"), Action("open", RESP))
    assert packets["flags"].tolist()[3:] == [RST | ACK, SYN, SYN | ACK]
    assert packets["seq"][4] != packets["seq"][0]


def test_udp_is_one_datagram_an_action_and_clipped_to_the_mtu() -> None:
    packets, counts = _compile(Action("datagram", size=33), Action("send", RESP, size=4000), Action("close"), proto=17, port=9998)
    assert packets["payload_len"].tolist() == [33, 1472]
    assert counts.repairs == {"datagram.clipped": 1, "op.transport": 1}


def test_icmp_has_the_body_of_its_type() -> None:
    packets, counts = _compile(
        Action("icmp", size=56, icmp=0x0800), Action("icmp", RESP, size=56, icmp=0), Action("icmp", RESP, size=28, icmp=0x0303), proto=1
    )
    assert packets["icmp"].tolist() == [0x0800, 0, 0x0303]
    assert packets["payload_len"].tolist() == [56, 56, 28]
    assert counts.repairs == {}
    solicit, _ = _compile(Action("icmp", size=24, icmp=135 << 8), proto=58, version=6)
    assert (solicit["ttl"].tolist(), solicit["payload_len"].tolist()) == ([255], [24])


def test_every_plan_gives_a_flow() -> None:
    for proto in (6, 17, 1, 58, 0):
        packets, counts = _compile(proto=proto)
        assert len(packets) == 1
        assert counts.repairs["plan.empty"] == 1


def test_addresses_are_documentation_only_and_no_two_flows_share_both() -> None:
    frames = compile_flows(random_plans(300, seed=5), seed=9, start=0, spread=10**9)
    packets = decode(frames)
    nets = [ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]
    pairs = set()
    for version, *sides in zip(packets["ip_version"].tolist(), packets.address("src"), packets.address("dst"), strict=True):
        width = 4 if version == 4 else 16
        ends = [ipaddress.ip_address(side[:width].tobytes()) for side in sides]
        assert all(any(end.version == net.version and end in net for net in nets) for end in ends)
        pairs.add(frozenset(ends))
    assert len(pairs) == 300
    macs = {frames.buffer[o : o + 12].tobytes() for o in frames.offset.tolist()}
    assert all(mac[:5] == mac[6:11] == bytes.fromhex("00005e0053") for mac in macs)


def _same(one: FrameBatch, other: FrameBatch) -> bool:
    return one.buffer.tobytes() == other.buffer.tobytes() and one.ts.tolist() == other.ts.tolist()


def test_same_seed_same_bytes_another_seed_others() -> None:
    plans = random_plans(50, seed=2, heads=True)
    one, again, other = (compile_flows(plans, seed=seed, start=7, spread=10**9) for seed in (1, 1, 2))
    assert _same(one, again)
    assert not _same(one, other)


def test_plans_compiled_in_parts_stay_the_flows_they_are() -> None:
    plans = random_plans(20, seed=4)
    whole = compile_flows(plans, seed=1, start=0, spread=0)
    parts = [compile_flows(plans[:10], seed=1, start=0, spread=0), compile_flows(plans[10:], seed=1, start=0, spread=0, first=10)]
    frames = sorted(_frames(whole))
    assert sorted([*_frames(parts[0]), *_frames(parts[1])]) == frames


def _frames(batch: FrameBatch) -> list[bytes]:
    return [batch.buffer[o : o + n].tobytes() for o, n in zip(batch.offset.tolist(), batch.caplen.tolist(), strict=True)]


def test_lengths_in_a_payload_are_made_to_agree() -> None:
    hello = next(head for head in HEADS if head.startswith(bytes.fromhex("1603010200")))
    packets, _ = _compile(Action("send", size=300, payload=hello))
    record = _payload(packets, 0)
    assert int.from_bytes(record[3:5], "big") == 295
    assert int.from_bytes(record[6:9], "big") == 291
    query, _ = _compile(Action("datagram", size=80, payload=HEADS[15]), proto=17, port=53)
    assert query["dport"].tolist() == [53]
    assert len(_payload(query, 0)) == 80
    assert _payload(query, 0)[12:25] == b"\x07example\x03com\x00"
    assert _payload(query, 0)[10:12] == b"\x00\x01"  # the rest is one EDNS record


def test_a_port_whose_parser_would_stumble_is_left() -> None:
    packets, counts = _compile(Action("send", size=40), port=3306)
    assert packets["dport"].tolist() == [8989]
    assert counts.repairs == {"port.moved": 1}
    short, _ = _compile(Action("datagram", size=14), proto=17, port=53)
    assert short["dport"].tolist() == [1012]


def test_no_executable_travels() -> None:
    packets, counts = _compile(Action("send", size=200, payload=b"MZ\x90\x00This program cannot be run in DOS mode"))
    assert b"This program" not in _payload(packets, 0)
    assert counts.repairs["payload.executable"] == 1


def test_directions_and_ports() -> None:
    packets, _ = _compile(Action("send", ORIG, 5), Action("send", RESP, 5), port=8080)
    assert packets["dport"][0] == packets["sport"][1] == 8080
    assert packets["sport"][0] == packets["dport"][1] > 60000


def test_an_http_head_is_text() -> None:
    """Found by tshark in one of 400 generated flows: bytes of a binary name in a request line."""
    stream = bytearray(b"GET /19/items/\xff\xd7=M\x7f\xfe application" + b"z" * 40)
    wellformed_http.repair(stream, 32, [len(stream)])
    head, _, body = bytes(stream).partition(b"\r\n\r\n")
    assert head.isascii()
    assert head.decode().isprintable()
    assert head.startswith(b"GET /19/items/")
    assert body == b""


def test_a_datagram_too_short_for_a_dns_message_is_not_taken_for_one() -> None:
    head = bytes.fromhex("978801000001000000000000077370")
    sizes = set()
    for size in range(12, 40):
        action = Action("datagram", size=size, payload=head[:size])
        data = wellformed.udp_contents([action], 1012, random.Random(size), Counter())[0]
        assert len(data) == size
        whole = wellformed_dns.is_message_size(size)
        assert wellformed_dns.looks_like(data) == (whole and size > 12)
        sizes.add(whole)
    assert sizes == {True, False}


def test_datagrams_that_look_like_cltp_are_disguised() -> None:
    """ISO 8602: a header of 0xbb bytes and kind 4; its parameters run past it, so Wireshark would call the datagram malformed."""
    head = bytes.fromhex("bb4b566e8f785ff1d096a024c80936af31eeb4e501350cfb1dbdbf7eb14b")
    data = bytearray(head + b"\xff" * 400)
    assert lookalikes.disguise(data, lookalikes.DATAGRAM)
    assert (data[0], data[1] >> 4) == (0xBB, 6)
    whole = bytearray(bytes.fromhex("0440c10101") + b"text")
    assert not lookalikes.disguise(whole, (lookalikes.DATAGRAM[-2],))
