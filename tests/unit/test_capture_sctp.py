"""SCTP associations, UDP-Lite and authentication headers: ports, states, sums, names; and the same under other names."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from capture_samples import A, B, authentication, chunk, ethernet, ipv4, ipv6, pcap, sctp, udp, write

from trafficllm.capture.anonymise.captures import anonymise
from trafficllm.capture.check.captures import check
from trafficllm.capture.checksum import crc32c, pseudo_header
from trafficllm.capture.checksum import fold as folded
from trafficllm.capture.flows.assembly import FlowOptions, read_flows
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.rows import conn_rows, flow_rows
from trafficllm.core.types import FlowBatch

INIT, INIT_ACK, SACK, HEARTBEAT, ABORT, SHUTDOWN, SHUTDOWN_ACK, COOKIE, COOKIE_ACK, COMPLETE = 1, 2, 3, 4, 6, 7, 8, 10, 11, 14


def opening(tag: int) -> bytes:
    return struct.pack("!IIHHI", tag, 65535, 1, 1, 5)


class Association:
    """Packets of one association; `send` takes the side (0 client, 1 server) and chunk types or chunks."""

    def __init__(self, *, sport: int = 36412, tags: tuple[int, int] = (11, 22), start: float = 1.0) -> None:
        self.frames: list[tuple[float, bytes]] = []
        self.sport, self.tags, self.at = sport, tags, start

    def send(self, side: int, *chunks: int | bytes, after: float = 0.01) -> Association:
        bodies = [
            one if isinstance(one, bytes) else chunk(one, opening(self.tags[side]) if one in {INIT, INIT_ACK} else b"") for one in chunks
        ]
        ports = (self.sport, 38412) if side == 0 else (38412, self.sport)
        packet = sctp(*bodies, sport=ports[0], dport=ports[1], tag=0 if INIT in chunks else self.tags[1 - side])
        ends = (A, B) if side == 0 else (B, A)
        self.frames.append((self.at, ethernet(ipv4(132, packet, *ends))))
        self.at += after
        return self

    def open(self) -> Association:
        return self.send(0, INIT).send(1, INIT_ACK).send(0, COOKIE).send(1, COOKIE_ACK)

    def close(self) -> Association:
        return self.send(0, SHUTDOWN).send(1, SHUTDOWN_ACK).send(0, COMPLETE)


DATA = chunk(0, struct.pack("!IHHI", 5, 0, 0, 18) + b"S1AP")


def flows(folder: Path, frames: list[tuple[float, bytes]], **options: bool) -> FlowBatch:
    (batch,) = read_flows([write(folder, pcap(frames))], options=FlowOptions(**options))
    return batch


ASSOCIATIONS = {
    "SF ShAaDFf": Association().open().send(0, DATA).send(1, SACK).close(),
    "S0 S": Association().send(0, INIT),
    "S1 Sh": Association().send(0, INIT).send(1, INIT_ACK),
    "S1 ShDa": Association().send(0, INIT).send(1, INIT_ACK).send(0, chunk(COOKIE), DATA).send(1, COOKIE_ACK),
    "REJ Sr": Association().send(0, INIT).send(1, ABORT),
    "RSTO ShAaR": Association().open().send(0, ABORT),
    "RSTR ShAar": Association().open().send(1, ABORT),
    "S2 ShAaF": Association().open().send(0, SHUTDOWN),
    "SHR ^hf": Association().send(1, INIT_ACK).send(1, SHUTDOWN),
    "S1 ^hS": Association().send(1, INIT_ACK).send(0, INIT),
    "S1 ^a": Association().send(1, COOKIE_ACK).send(0, SACK),
    "OTH Aa": Association().send(0, HEARTBEAT).send(1, HEARTBEAT),
}


@pytest.mark.parametrize("expected", [name for name in ASSOCIATIONS if name != "S1 ^a"])
def test_state_and_history_of_an_association(tmp_path: Path, expected: str) -> None:
    batch = flows(tmp_path, ASSOCIATIONS[expected].frames)
    assert f"{batch.conn_state[0]} {batch.history[0]}" == expected
    assert (batch.proto.tolist(), batch.orig_p.tolist(), batch.resp_p.tolist()) == ([132], [36412], [38412])


def test_an_association_that_was_open_already(tmp_path: Path) -> None:
    batch = flows(tmp_path, ASSOCIATIONS["S1 ^a"].frames)
    assert (batch.conn_state.tolist(), batch.history.tolist()) == (["S1"], ["^aA"])


def test_associations_are_flows_of_their_own(tmp_path: Path) -> None:
    both = Association().open().frames + Association(sport=36413, start=1.005).open().frames
    batch = flows(tmp_path, sorted(both))
    assert batch.orig_p.tolist() == [36412, 36413]
    assert batch.pkts.tolist() == [[2, 2], [2, 2]]
    restarted = Association().open().send(0, DATA, after=1.0).frames
    restarted += Association(tags=(33, 44), start=3.0).open().frames
    assert flows(tmp_path, restarted).pkts.tolist() == [[3, 2], [2, 2]]
    again = Association().open().close()
    again.tags = (55, 66)
    assert len(flows(tmp_path, again.open().frames)) == 2
    repeated = Association().send(0, INIT, after=3.0).send(0, INIT).send(1, INIT_ACK)
    assert len(flows(tmp_path, repeated.frames)) == 1


def test_sizes_ports_and_names(tmp_path: Path) -> None:
    batch = flows(tmp_path, Association().send(0, DATA).frames)
    (row,) = flow_rows(batch)
    assert (row["proto"], row["orig_p"], row["orig_bytes"], row["orig_ip_bytes"]) == ("sctp", 36412, 20, 52)
    assert row["splt"][0]["size"] == 20
    assert batch.payload.tobytes() == DATA
    assert batch.p_flags.tolist() == [0]
    (zeek,) = conn_rows(flows(tmp_path, Association().open().frames))
    assert (zeek["orig_p"], zeek["resp_p"], zeek["proto"], zeek["ip_proto"]) == (0, 0, "unknown_transport", 132)
    assert (zeek["orig_bytes"], zeek["resp_bytes"], zeek["conn_state"], zeek["history"]) == (0, 0, "OTH", None)


def summed(packet: bytes) -> bytes:
    return packet[:8] + crc32c(packet[:8] + bytes(4) + packet[12:]).to_bytes(4, "little") + packet[12:]


def test_sums_of_sctp(tmp_path: Path) -> None:
    right = summed(sctp(DATA))
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    frames = [(1.0 + i, ethernet(ipv6(132, packet), 0x86DD)) for i, packet in enumerate((right, wrong, sctp(DATA)))]
    path = write(tmp_path, pcap(frames))
    assert check([path]).bad_checksums == 1
    (batch,) = read_flows([path], options=FlowOptions(checksums=True))
    assert (batch.pkts.tolist(), batch.history.tolist()) == ([[2, 0]], ["DC"])


def lite(covered: int, data: bytes) -> bytes:
    bare = struct.pack("!HHHH", 40000, 9999, covered, 0) + data
    value = 0xFFFF - folded(pseudo_header(6, A * 4, B * 4, 136, len(bare)) + bare[: covered or len(bare)])
    return bare[:6] + struct.pack("!H", value) + data


def test_udp_lite(tmp_path: Path) -> None:
    packets = [lite(0, b"all of it"), lite(8, b"header"), lite(8, b"header")[:-1] + b"?", lite(0, b"all")[:-1] + b"?"]
    path = write(tmp_path, pcap([(1.0 + i, ethernet(ipv6(136, packet), 0x86DD)) for i, packet in enumerate(packets)]))
    assert check([path]).bad_checksums == 1
    (batch,) = read_flows([path])
    assert (batch.conn_state.tolist(), batch.history.tolist(), batch.orig_p.tolist()) == (["S0"], ["D"], [40000])
    assert batch.payload_bytes.tolist() == [[9 + 6 + 6 + 3, 0]]
    counts = CountsBuilder()
    odd = struct.pack("!HHHH", 1, 2, 3, 0) + b"a coverage of three"
    assert len(list(read_flows([write(tmp_path, pcap([(1.0, ethernet(ipv4(136, odd)))]))], counts=counts))) == 1
    assert counts.malformed == {"udp.length": 1}


def test_what_is_cut_is_said(tmp_path: Path) -> None:
    frame = ethernet(ipv4(132, sctp(DATA)))
    for size in range(34, len(frame)):
        counts = CountsBuilder()
        path = write(tmp_path, pcap([(1.0, frame)], snaplen=size))
        found = sum(len(batch) for batch in read_flows([path], counts=counts))
        assert (found, dict(counts.malformed)) == ((0, {"sctp.truncated": 1}) if size < 46 else (1, {}))


def test_authentication_headers_are_passed(tmp_path: Path) -> None:
    datagram = udp(40000, 9999, b"data")
    inside = ipv4(17, datagram, bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2]))
    frames = [
        ethernet(ipv4(51, authentication(17) + datagram)),
        ethernet(ipv4(51, authentication(51) + authentication(17) + datagram)),
        ethernet(ipv4(51, authentication(4) + inside)),
        ethernet(ipv6(51, authentication(17) + datagram), 0x86DD),
        ethernet(ipv4(51, authentication(17)[:20])),
    ]
    batch = flows(tmp_path, [(1.0 + i, frame) for i, frame in enumerate(frames)])
    assert batch.proto.tolist() == [17, 17, 17, 51]
    assert batch.pkts[:, 0].tolist() == [2, 1, 1, 1]
    assert batch.tunnel.tolist() == [0, 1, 0, 0]
    assert batch.payload_bytes[:3].tolist() == [[8, 0], [4, 0], [4, 0]]


def test_under_other_names(tmp_path: Path) -> None:
    secret = bytes([198, 51, 100, 99])
    parameter = struct.pack("!HH", 5, 8) + secret  # another address of the host (RFC 9260 3.3.2.1)
    packets = [
        ipv4(132, summed(sctp(chunk(INIT, opening(1) + parameter)))),
        ipv4(132, summed(sctp(DATA))),
        ipv4(136, lite(8, b"who I am")),
        ipv4(51, authentication(17) + udp(40000, 9999, b"who I am")),
    ]
    out = tmp_path / "out.pcap"
    source = write(tmp_path, pcap([(1.0 + i, ethernet(packet)) for i, packet in enumerate(packets)]))
    made = anonymise([source], out, key=bytes(32))
    data = out.read_bytes()
    assert made.packets == 4
    assert not any(word in data for word in (secret, b"S1AP", b"who I am", A, B))
    assert check([out]).bad_checksums == 0
    (before,), (after,) = read_flows([source]), read_flows([out])
    for column in ("proto", "orig_p", "resp_p", "payload_bytes", "history"):
        assert getattr(before, column).tolist() == getattr(after, column).tolist()
