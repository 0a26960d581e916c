from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from capture_samples import ACK, FIN, PSH, RST, SYN, A, B, Talk, ethernet, ipv4, ipv6, pcap, tcp, udp, write

from trafficllm.capture.flows.ahead import ahead
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.community import community_id
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.rows import conn_rows, flow_rows
from trafficllm.core.errors import InputError
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch


def flows(folder: Path, frames: list[tuple[float, bytes]], *, link: int = 1, **options: float) -> FlowBatch:
    batches = list(read_flows([write(folder, pcap(frames, link=link))], options=FlowOptions(**options)))
    assert len(batches) == 1
    return batches[0]


def prefix(batch: FlowBatch, i: int, d: int) -> bytes:
    return batch.payload[batch.payload_ptr[i, d] : batch.payload_ptr[i, d + 1]].tobytes()


def _syn_late(early: bytes = b"") -> Talk:
    """The SYN behind the SYN-ACK, and behind `early` data of the server."""
    talk = Talk()
    talk.next[0] += 1
    talk.send(1, SYN | ACK)
    if early:
        talk.send(1, ACK, early)
    return talk.send(0, SYN, seq=1000)


CONVERSATIONS = {
    "SF ShADadFf": Talk().open().send(0, PSH | ACK, b"hello").send(1, ACK).send(1, PSH | ACK, b"world!").close(),
    "S0 S": Talk().send(0, SYN),
    "S1 ShA": Talk().open(),
    "REJ Sr": Talk().send(0, SYN).send(1, RST | ACK),
    "RSTO ShAR": Talk().open().send(0, RST),
    "RSTR ShAr": Talk().open().send(1, RST),
    "S2 ShAF": Talk().open().send(0, FIN | ACK),
    "S3 ShAf": Talk().open().send(1, FIN | ACK),
    "RSTOS0 SR": Talk().send(0, SYN).send(0, RST),
    "SH SF": Talk().send(0, SYN).send(0, FIN | ACK),
    "SHR ^hf": Talk().send(1, SYN | ACK).send(1, FIN | ACK),
    "RSTRH ^hr": Talk().send(1, SYN | ACK).send(1, RST),
    "S1 HDs^A": _syn_late(b"early").send(0, ACK),
    "S1 Hs^AD": _syn_late().send(0, ACK).send(0, PSH | ACK, b"x"),
    "OTH DA": Talk(dport=9999).send(0, PSH | ACK, b"x").send(0, ACK),
    "S1 ShAW": Talk().open().send(0, ACK, window=0),
    "S1 ShADT": Talk().open().send(0, ACK, b"abc").send(0, ACK, b"abc", seq=1001),
}


@pytest.mark.parametrize("expected", list(CONVERSATIONS))
def test_conn_state_and_history(tmp_path: Path, expected: str) -> None:
    batch = flows(tmp_path, CONVERSATIONS[expected].frames)
    assert len(batch) == 1
    assert f"{batch.conn_state[0]} {batch.history[0]}" == expected


def test_a_whole_conversation(tmp_path: Path) -> None:
    batch = flows(tmp_path, CONVERSATIONS["SF ShADadFf"].frames)
    assert (batch.orig_p.tolist(), batch.resp_p.tolist()) == ([40000], [80])
    assert batch.orig_h[0, :4].tobytes() == A
    assert batch.pkts.tolist() == [[5, 4]]
    assert batch.payload_bytes.tolist() == [[5, 6]]
    assert batch.ip_bytes.tolist() == [[5 * 40 + 5, 4 * 40 + 6]]
    assert batch.end_reason.tolist() == ["fin"]
    assert (prefix(batch, 0, 0), prefix(batch, 0, 1)) == (b"hello", b"world!")
    assert batch.p_dir.tolist() == [0, 1, 0, 0, 1, 1, 0, 1, 0]
    assert batch.p_payload.tolist() == [0, 0, 0, 5, 0, 6, 0, 0, 0]
    assert batch.p_flags.tolist() == [2, 18, 16, 24, 16, 24, 17, 17, 16]
    assert batch.p_frame.tolist() == list(range(1, 10))
    assert batch.duration.tolist() == [70_000_000]  # without the acknowledgement after both FINs, as Zeek measures


def test_the_beginning_is_reassembled(tmp_path: Path) -> None:
    talk = Talk().open()
    for seq, data in ((1011, b"klmno"), (1001, b"abcde"), (1001, b"ABCDE"), (1004, b"defghij"), (1016, b"p")):
        talk.send(0, ACK, data, seq=seq)
    assert prefix(flows(tmp_path, talk.frames), 0, 0) == b"abcdefghijklmnop"


def test_a_hole_ends_the_prefix_and_a_limit_too(tmp_path: Path) -> None:
    talk = Talk().open().send(0, ACK, b"abc", seq=1001).send(0, ACK, b"xyz", seq=1010)
    assert prefix(flows(tmp_path, talk.frames), 0, 0) == b"abc"
    talk = Talk().open().send(0, ACK, b"a" * 700).send(0, ACK, b"b" * 700)
    assert prefix(flows(tmp_path, talk.frames, max_payload=1000), 0, 0) == b"a" * 700 + b"b" * 300
    assert prefix(flows(tmp_path, talk.frames, max_payload=0), 0, 0) == b""


def test_sequence_numbers_wrap(tmp_path: Path) -> None:
    talk = Talk()
    talk.next[0] = 0xFFFFFFFE
    talk.open().send(0, ACK, b"abcdef").send(1, ACK).close()
    batch = flows(tmp_path, talk.frames)
    assert batch.payload_bytes.tolist() == [[6, 0]]
    assert prefix(batch, 0, 0) == b"abcdef"


def test_stored_packets_are_bounded_but_counted(tmp_path: Path) -> None:
    talk = Talk().open()
    for _ in range(50):
        talk.send(0, ACK, b"z" * 10)
    batch = flows(tmp_path, talk.frames, max_packets=8)
    assert len(batch.p_dir) == 8
    assert batch.pkts.sum() == 53


def test_udp_request_and_reply_are_one_flow_until_the_timeout(tmp_path: Path) -> None:
    ask, answer = ethernet(ipv4(17, udp(5000, 53, b"q"))), ethernet(ipv4(17, udp(53, 5000, b"rr"), B, A))
    batch = flows(tmp_path, [(1, ask), (2, answer), (50, ask), (111, ask)])
    assert batch.conn_state.tolist() == ["SF", "S0"]
    assert batch.payload_bytes.tolist() == [[2, 2], [1, 0]]
    assert batch.end_reason.tolist() == ["idle", "eof"]
    assert prefix(batch, 0, 0) == b"qq"


def test_a_reply_alone_is_turned_by_its_port(tmp_path: Path) -> None:
    answer = ethernet(ipv4(17, udp(53, 5000, b"r"), B, A))
    batch = flows(tmp_path, [(1, answer)])
    assert (batch.orig_p[0], batch.resp_p[0], batch.history[0], batch.conn_state[0]) == (5000, 53, "^d", "SHR")
    assert batch.p_dir.tolist() == [1]
    assert flows(tmp_path, [(1, answer)], flip=False).orig_p[0] == 53


def test_active_timeout_and_syn_reuse_cut_flows(tmp_path: Path) -> None:
    ask = ethernet(ipv4(17, udp(5000, 4444, b"q")))
    assert flows(tmp_path, [(float(i), ask) for i in range(10)], active_timeout=4.0).end_reason.tolist() == ["active", "active", "eof"]
    again = Talk(start=2.0)
    again.next = [77, 88]
    batch = flows(tmp_path, Talk().open().close().frames + again.open().frames)
    assert batch.conn_state.tolist() == ["SF", "S1"]


def test_icmp_requests_and_replies_are_one_flow(tmp_path: Path) -> None:
    ping, pong = bytes([8, 0, 0, 0, 1, 2, 3, 4]) + b"x", bytes([0, 0, 0, 0, 1, 2, 3, 4]) + b"x"
    error = bytes([3, 1, 0, 0, 0, 0, 0, 0]) + ipv4(17, udp(1, 2))
    batch = flows(tmp_path, [(1, ethernet(ipv4(1, ping))), (2, ethernet(ipv4(1, pong, B, A))), (3, ethernet(ipv4(1, error)))])
    assert batch.pkts.tolist() == [[1, 1], [1, 0]]
    assert list(zip(batch.orig_p.tolist(), batch.resp_p.tolist(), strict=True)) == [(8, 0), (3, 1)]
    assert batch.p_type.tolist() == [8 << 8, 0, 3 << 8 | 1]


@pytest.mark.parametrize(
    ("link", "head"),
    [
        (1, bytes(12) + b"\x81\x00\x00\x07\x08\x00"),
        (1, bytes(12) + b"\x88\xa8\x00\x07\x81\x00\x00\x08\x08\x00"),
        (1, bytes(12) + b"\x88\x47\x00\x01\x01\x40"),
        (1, bytes(12) + b"\x88\x64\x11\x00\x00\x01\x00\x30\x00\x21"),
        (1, bytes(12) + b"\x00\x40\xaa\xaa\x03\x00\x00\x00\x08\x00"),
        (113, bytes(14) + b"\x08\x00"),
        (276, b"\x08\x00" + bytes(18)),
        (101, b""),
        (12, b""),
        (228, b""),
        (0, b"\x02\x00\x00\x00"),
        (0, b"\x00\x00\x00\x02"),
        (108, b"\x00\x00\x00\x02"),
        (9, b"\xff\x03\x00\x21"),
        (104, b"\x0f\x00\x08\x00"),
        (127, b"\x00\x00\x08\x00" + bytes(4) + b"\x08\x02" + bytes(22) + b"\xaa\xaa\x03\x00\x00\x00\x08\x00"),
    ],
)
def test_every_link_layer_leads_to_the_same_flow(tmp_path: Path, link: int, head: bytes) -> None:
    batch = flows(tmp_path, [(1, head + ipv4(17, udp(1234, 53, b"payload")))], link=link)
    assert (batch.orig_p[0], batch.resp_p[0], prefix(batch, 0, 0)) == (1234, 53, b"payload")
    assert batch.link[0] == link


def test_ipv6_extension_headers(tmp_path: Path) -> None:
    chain = bytes([60]) + bytes(7) + bytes([43]) + bytes(7) + bytes([17]) + bytes(7)
    batch = flows(tmp_path, [(1, ethernet(ipv6(0, chain + udp(1234, 53, b"six")), 0x86DD))])
    assert (batch.ip_version[0], batch.proto[0], prefix(batch, 0, 0)) == (6, 17, b"six")


def fragments(data: bytes, size: int, *, version: int = 4) -> list[bytes]:
    whole, out = udp(1234, 53, data), []
    for at in range(0, len(whole), size):
        more, part = at + size < len(whole), whole[at : at + size]
        if version == 4:
            out.append(ethernet(ipv4(17, part, frag=(0x2000 if more else 0) | at // 8, ident=9)))
        else:
            head = struct.pack("!BBHI", 17, 0, at | more, 9)
            out.append(ethernet(ipv6(44, head + part), 0x86DD))
    return out


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 2, 0]])
def test_fragments_become_one_packet(tmp_path: Path, version: int, order: list[int]) -> None:
    parts, counts = fragments(b"0123456789" * 4, 16, version=version), CountsBuilder()
    path = write(tmp_path, pcap([(float(i), parts[i]) for i in order]))
    batch = next(iter(read_flows([path], counts=counts)))
    assert prefix(batch, 0, 0) == b"0123456789" * 4
    assert batch.pkts.tolist() == [[1, 0]]
    assert counts.build().non_flow == len(order) - 1


def test_flow_and_other_packets_make_all_packets(tmp_path: Path) -> None:
    frames = [*Talk().open().frames, (5, ethernet(bytes(46), 0x0806)), (6, b"\x00" * 10), (7, fragments(b"x" * 30, 16)[0])]
    counts = CountsBuilder()
    total = sum(int(batch.pkts.sum()) for batch in read_flows([write(tmp_path, pcap(frames))], counts=counts))
    result = counts.build()
    assert total + result.non_flow == result.packets == 6
    assert result.malformed == {"link.truncated": 1}


def test_a_short_control_frame_of_wifi_is_whole(tmp_path: Path) -> None:
    counts, frames = CountsBuilder(), [(1.0, bytes.fromhex("d4000000a1b2c3d4e5f6")), (2.0, b"\x08\x00\x00\x00" + bytes(8))]
    assert list(read_flows([write(tmp_path, pcap(frames, link=105))], counts=counts)) == []
    assert counts.build().malformed == {"link.truncated": 1}, "the data frame alone"


def test_wrong_checksums_are_left_out_only_when_asked(tmp_path: Path) -> None:
    frames = Talk().open().frames
    assert flows(tmp_path, frames).pkts.sum() == 3
    assert list(read_flows([write(tmp_path, pcap(frames))], options=FlowOptions(checksums=True))) == []


def test_a_flood_stays_within_the_table(tmp_path: Path) -> None:
    segments = [ipv4(6, tcp(i + 1, 80, i, 0, ACK)) for i in range(5000)]
    frames = [(i / 1e5, ethernet(segment)) for i, segment in enumerate(segments)]
    counts = CountsBuilder()
    path = write(tmp_path, pcap(frames))
    batches = list(read_flows([path], options=FlowOptions(table_size=256), counts=counts))
    assert sum(len(batch) for batch in batches) == counts.flows == 5000
    assert counts.evicted >= 5000 - 256
    assert {"evicted", "eof"} == {reason for batch in batches for reason in batch.end_reason}


def test_the_same_bytes_give_the_same_flows(captures: Path) -> None:
    runs = [list(read_flows([captures])) for _ in range(2)]
    for one, two in zip(*runs, strict=True):
        for name in FlowBatch.__slots__:
            left, right = getattr(one, name), getattr(two, name)
            assert np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right, name
        assert np.all(np.diff(one.pkt_ptr) >= 1)


def test_two_threads_give_what_one_gives(captures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number in (1, 2):
        monkeypatch.setattr("trafficllm.capture.flows.ahead.cores", lambda number=number: number)
        counts = CountsBuilder()
        batches = list(read_flows([captures], counts=counts))
        found.append((counts.build(), [getattr(batch, name) for batch in batches for name in FlowBatch.__slots__]))
    assert found[0][0] == found[1][0]
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two


def test_an_error_ahead_comes_where_its_item_would_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trafficllm.capture.flows.ahead.cores", lambda: 2)

    def numbers() -> Iterator[int]:
        yield from range(5)
        raise InputError("input.cut", "no more", input="x", hint="none")

    seen = []
    with pytest.raises(InputError):
        seen.extend(ahead(numbers()))
    before = threading.active_count()
    endless = ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()
    assert threading.active_count() == before


def test_community_ids_of_a_batch_are_those_of_each_flow(captures: Path) -> None:
    checked = 0
    for batch in read_flows([captures]):
        for i in range(len(batch)):
            size = 4 if batch.ip_version[i] == 4 else 16
            proto = int(batch.proto[i])
            if proto in {1, 58}:
                continue  # ports of ICMP are type and counterpart in the table; the vectors below hold them
            ends = [row[i, :size].tobytes() for row in (batch.orig_h, batch.resp_h)]
            assert batch.community_id[i] == community_id(proto, ends[0], int(batch.orig_p[i]), ends[1], int(batch.resp_p[i]))
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("proto", "a", "pa_", "b", "pb", "expected"),
    [
        (6, "128.232.110.120", 34855, "66.35.250.204", 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        (6, "66.35.250.204", 80, "128.232.110.120", 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        (17, "192.168.1.52", 54585, "8.8.8.8", 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        (1, "192.168.0.89", 8, "192.168.0.1", 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    ],
)
def test_community_id_vectors_of_the_specification(proto: int, a: str, pa_: int, b: str, pb: int, expected: str) -> None:
    pack = [bytes(int(part) for part in text.split(".")) for text in (a, b)]
    assert community_id(proto, pack[0], pa_, pack[1], pb) == expected


def test_rows_and_conn_log_agree(tmp_path: Path) -> None:
    batch = flows(tmp_path, CONVERSATIONS["SF ShADadFf"].frames)
    row = next(flow_rows(batch))
    assert (row["orig_h"], row["resp_p"], row["conn_state"], len(row["splt"])) == ("192.0.2.1", 80, "SF", 9)
    assert row["splt"][3] == {"dir": 0, "size": 5, "iat": 0.01}
    log = next(conn_rows(batch))
    assert (log["ts"], log["duration"], log["history"], log["uid"]) == (1.0, 0.07, "ShADadFf", row["uid"])


def test_a_conn_log_leaves_unset_what_zeek_does(tmp_path: Path) -> None:
    one = flows(tmp_path, [(1.000001, ethernet(ipv4(47, b"x" * 20)))])
    row, log = next(flow_rows(one)), next(conn_rows(one))
    assert (row["duration"], row["orig_bytes"], row["history"]) == (0.0, 0, "")
    assert (log["duration"], log["orig_bytes"], log["resp_bytes"], log["history"], log["service"]) == (None,) * 5
    assert (log["ts"], log["orig_p"], log["resp_p"], log["proto"], log["missed_bytes"]) == (1.000001, 0, 0, "unknown_transport", 0)


def test_files_from_an_earlier_time_keep_their_flows(tmp_path: Path) -> None:
    """Whatever the order of the files, each gives what it gives alone; a sequel goes on with open flows."""
    slow = [(at, ethernet(ipv4(17, udp(40000, 53, b"x")))) for at in (1000.0, 1030.0, 1045.0)]
    early, late = write(tmp_path, pcap(slow), "b.pcap"), write(tmp_path, pcap([(at + 9000, frame) for at, frame in slow]), "a.pcap")
    for paths in ([late, early], [early, late]):
        batches = list(read_flows(paths))
        assert sorted(int(n) for batch in batches for n in batch.pkts[:, 0]) == [3, 3]
        assert [Path(batch.files[int(batch.source[0])]) for batch in batches][-1] == paths[-1 if len(batches) > 1 else 0]
    sequel = write(tmp_path, pcap([(at + 50, frame) for at, frame in slow]), "c.pcap")
    assert [batch.pkts[:, 0].tolist() for batch in read_flows([early, sequel])] == [[6]]
