"""Flows inside tunnels: every kind, nested, cut, fragmented, mistaken; and what the outermost view says of the same frames."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from capture_samples import ACK, PSH, A, B, Talk, ethernet, ipv4, ipv6, pcap, udp, write

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import TUNNELS, tunnel_names
from trafficllm.capture.flows.rows import flow_rows
from trafficllm.capture.link.tunnels import MAX_TUNNELS
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import FlowBatch
from trafficllm.evaluate.shift.wire import Framed, batch_of

Wrap = Callable[[bytes], bytes]
"""An IP packet (version 4) to the IP packet of a tunnel that carries it."""

X, Y = bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])
TALK = Talk().open().send(0, PSH | ACK, b"hello").send(1, ACK).send(1, PSH | ACK, b"world!").close()
TEREDO = bytes.fromhex("20010000") + bytes(12)


def gre(kind: int, body: bytes, *, flags: int = 0) -> bytes:
    options = bytes(4 * bin(flags & 0xB000).count("1"))
    return ipv4(47, struct.pack("!HH", flags, kind) + options + body, X, Y)


def pptp(ip: bytes, *, acknowledged: bool = True, short: bool = False) -> bytes:
    ppp = (b"\x21" if short else b"\xff\x03\x00\x21") + ip
    flags = 0x3081 if acknowledged else 0x3001
    return ipv4(47, struct.pack("!HHHHI", flags, 0x880B, len(ppp), 1, 7) + (bytes(4) if acknowledged else b"") + ppp, X, Y)


def over(port: int, head: bytes, body: bytes) -> bytes:
    return ipv4(17, udp(50000, port, head + body), X, Y)


def vxlan(ip: bytes) -> bytes:
    return over(4789, b"\x08" + bytes(7), ethernet(ip))


def gtp(ip: bytes, *, flags: int = 0x30, more: bytes = b"") -> bytes:
    return over(2152, struct.pack("!BBHI", flags, 0xFF, len(more + ip), 1) + more, ip)


WRAPS: dict[str, tuple[str, Wrap]] = {
    "IP in IP": ("ipip", lambda ip: ipv4(4, ip, X, Y)),
    "IP in IPv6": ("ipip", lambda ip: ipv6(4, ip)),
    "GRE": ("gre", lambda ip: gre(0x0800, ip)),
    "GRE with checksum, key and number": ("gre", lambda ip: gre(0x0800, ip, flags=0xB000)),
    "GRE over IPv6": ("gre", lambda ip: ipv6(47, struct.pack("!HH", 0, 0x0800) + ip)),
    "GRE and Ethernet": ("gre", lambda ip: gre(0x6558, ethernet(ip), flags=0x2000)),
    "GRE, Ethernet and a tag": ("gre", lambda ip: gre(0x6558, ethernet(b"\0\x64\x08\0" + ip, 0x8100))),
    "GRE and MPLS": ("gre", lambda ip: gre(0x8847, bytes.fromhex("00010140") + ip)),
    "ERSPAN I": ("erspan", lambda ip: gre(0x88BE, ethernet(ip))),
    "ERSPAN II": ("erspan", lambda ip: gre(0x88BE, b"\x10" + bytes(7) + ethernet(ip), flags=0x1000)),
    "ERSPAN III": ("erspan", lambda ip: gre(0x22EB, b"\x20" + bytes(11) + ethernet(ip), flags=0x1000)),
    "ERSPAN III with a platform": ("erspan", lambda ip: gre(0x22EB, b"\x20" + bytes(10) + b"\1" + bytes(8) + ethernet(ip), flags=0x1000)),
    "ERSPAN III of IP": ("erspan", lambda ip: gre(0x22EB, b"\x20" + bytes(9) + b"\x08\0" + ip, flags=0x1000)),
    "PPTP": ("pptp", pptp),
    "PPTP without acknowledgement": ("pptp", lambda ip: pptp(ip, acknowledged=False, short=True)),
    "VXLAN": ("vxlan", vxlan),
    "Geneve": ("geneve", lambda ip: over(6081, b"\x01\0\x65\x58" + bytes(8), ethernet(ip))),
    "Geneve and IP": ("geneve", lambda ip: over(6081, b"\0\0\x08\0" + bytes(4), ip)),
    "GTP-U": ("gtp", gtp),
    "GTP-U with number and extension": ("gtp", lambda ip: gtp(ip, flags=0x36, more=b"\0\1\0\x85" + b"\1\x10\1\0")),
    "GRE over UDP": ("gre", lambda ip: over(4754, b"\0\0\x08\0", ip)),
    "VXLAN, GRE, IP in IP": ("vxlan:gre:ipip", lambda ip: vxlan(gre(0x0800, ipv4(4, ip, X, Y)))),
}


def flows(folder: Path, frames: list[tuple[float, bytes]], **options: bool) -> FlowBatch:
    (batch,) = read_flows([write(folder, pcap(frames))], options=FlowOptions(**options))
    return batch


def wrapped(wrap: Wrap) -> list[tuple[float, bytes]]:
    return [(ts, _framed(wrap(frame[14:]))) for ts, frame in TALK.frames]


def _framed(ip: bytes) -> bytes:
    return ethernet(ip, 0x0800 if ip[0] >> 4 == 4 else 0x86DD)


def _seen(batch: FlowBatch) -> list[dict[str, object]]:
    rows = [dict(row) for row in flow_rows(batch)]
    return [{**row, "payload": batch.payload.tobytes(), "ttl": batch.p_ttl.tolist()} for row in rows]


@pytest.mark.parametrize("name", list(WRAPS))
def test_a_conversation_in_a_tunnel_is_the_conversation(tmp_path: Path, name: str) -> None:
    tunnel, wrap = WRAPS[name]
    (plain,) = _seen(flows(tmp_path, TALK.frames))
    inside = flows(tmp_path, wrapped(wrap))
    assert _seen(inside) == [{**plain, "tunnel": tunnel}]
    outside = flows(tmp_path, wrapped(wrap), tunnels=False)
    assert {int(proto) for proto in outside.proto} <= {4, 17, 47}
    assert set(outside.tunnel.tolist()) == {0}


def test_the_tag_inside_counts_and_that_outside_where_there_is_none(tmp_path: Path) -> None:
    tagged = flows(tmp_path, wrapped(WRAPS["GRE, Ethernet and a tag"][1]))
    assert tagged.vlan.tolist() == [100]
    frames = [(ts, ethernet(b"\0\7\x08\0" + gre(0x0800, frame[14:]), 0x8100)) for ts, frame in TALK.frames]
    assert flows(tmp_path, frames).vlan.tolist() == [7]


def test_teredo_by_port_and_between_peers(tmp_path: Path) -> None:
    inner = ipv6(17, udp(5000, 53, b"query"), src=TEREDO)
    for port, head in ((3544, b""), (3544, b"\0\0" + bytes(6)), (3544, b"\0\1\4\2" + bytes(15)), (61000, b"")):
        batch = flows(tmp_path, [(1.0, ethernet(over(port, head, inner)))])
        assert [tunnel_names(int(code)) for code in batch.tunnel] == ["teredo"], port
        assert batch.resp_p.tolist() == [53]
    bubble = flows(tmp_path, [(1.0, ethernet(over(3544, b"", ipv6(59, b"", src=TEREDO))))])
    assert bubble.resp_p.tolist() == [3544]


NOT_INSIDE: dict[str, bytes] = {
    "an unknown type": gre(0x9000, bytes(40)),
    "source routes": gre(0x0800, ipv4(17, udp(1, 2)), flags=0x4000),
    "version 2": gre(0x0800, ipv4(17, udp(1, 2)), flags=2),
    "ERSPAN III of an undefined frame type": gre(0x22EB, b"\x20" + bytes(9) + b"\x1c\0" + ethernet(ipv4(17, udp(1, 2))), flags=0x1000),
    "the wrong version of IP": gre(0x86DD, ipv4(17, udp(1, 2))),
    "a header cut off": gre(0x0800, ipv4(17, udp(1, 2))[:19]),
    "a transport cut off": gre(0x0800, ipv4(6, bytes(40))[:30]),
    "encrypted PPP": ipv4(47, struct.pack("!HHHHI", 0x3001, 0x880B, 4, 1, 7) + b"\x00\xfd\1\2", X, Y),
    "ARP": gre(0x6558, ethernet(bytes(28), 0x0806)),
    "no header at all": ipv4(47, b"\0", X, Y),
    "VXLAN without its flag": over(4789, bytes(8), ethernet(ipv4(17, udp(1, 2)))),
    "VXLAN answered to its port": ipv4(17, udp(4789, 50000, b"\x08" + bytes(7) + ethernet(ipv4(17, udp(1, 2)))), X, Y),
    "a length beyond the datagram": over(6081, b"\0\0\x08\0" + bytes(4), ipv4(17, udp(1, 2, b"abcdef"))[:-3]),
    "control messages of GTP": over(2152, struct.pack("!BBHI", 0x30, 1, 0, 1), ipv4(17, udp(1, 2))),
    "GTP extensions without end": over(2152, b"\x34\xff" + bytes(9) + b"\x85" + b"\1\0\0\x85" * 20, b""),
    "a domain name server's port": over(53, b"\x08" + bytes(7), ethernet(ipv4(17, udp(1, 2)))),
}


@pytest.mark.parametrize("name", list(NOT_INSIDE))
def test_what_cannot_be_read_stays_the_outer_flow(tmp_path: Path, name: str) -> None:
    frames = [(1.0, ethernet(NOT_INSIDE[name]))]
    inside, outside = flows(tmp_path, frames), flows(tmp_path, frames, tunnels=False)
    assert _seen(inside) == _seen(outside)
    assert {inside.orig_h[0, :4].tobytes(), inside.resp_h[0, :4].tobytes()} == {X, Y}


def test_four_tunnels_are_looked_into_and_no_fifth(tmp_path: Path) -> None:
    ip = ipv4(17, udp(1000, 2000))
    for depth in range(1, MAX_TUNNELS + 3):
        ip = ipv4(4, ip, X, Y)
        batch = flows(tmp_path, [(1.0, ethernet(ip))])
        assert batch.proto.tolist() == [17 if depth <= MAX_TUNNELS else 4]
        assert tunnel_names(int(batch.tunnel[0])).split(":") == ["ipip"] * min(depth, MAX_TUNNELS)


def test_a_mirrored_copy_is_another_flow_than_the_original(tmp_path: Path) -> None:
    both = sorted([*TALK.frames, *wrapped(WRAPS["ERSPAN II"][1])], key=lambda frame: frame[0])
    rows = _seen(flows(tmp_path, both))
    (plain,) = _seen(flows(tmp_path, TALK.frames))
    assert sorted(str(row["tunnel"]) for row in rows) == ["", "erspan"]
    told = ("history", "conn_state", "orig_pkts", "resp_pkts", "orig_bytes", "resp_bytes", "community_id", "splt")
    for row in rows:
        assert [row[name] for name in told] == [plain[name] for name in told]


def _pieces(ip: bytes, size: int, ident: int) -> list[bytes]:
    body, out = ip[20:], []
    for at in range(0, len(body), size):
        more = 0x2000 if at + size < len(body) else 0
        out.append(ipv4(ip[9], body[at : at + size], ip[12:16], ip[16:20], frag=more | at // 8, ident=ident))
    return out


def test_fragments_inside_and_outside_and_both(tmp_path: Path) -> None:
    datagram = ipv4(17, udp(1000, 2000, bytes(600)))
    inside = [gre(0x0800, piece) for piece in _pieces(datagram, 256, 9)]
    outside = _pieces(gre(0x0800, datagram), 256, 9)
    both = [piece for n, ip in enumerate(inside) for piece in _pieces(ip, 128, 20 + n)]
    for packets in (inside, outside, both):
        batch = flows(tmp_path, [(1.0 + n, ethernet(ip)) for n, ip in enumerate(packets)])
        assert (batch.proto.tolist(), batch.resp_p.tolist(), batch.payload_bytes.tolist()) == ([17], [2000], [[600, 0]])
        assert [tunnel_names(int(code)) for code in batch.tunnel] == ["gre"]


def test_a_wrong_checksum_outside_is_no_tunnel_where_checksums_count() -> None:
    good = wrapped(WRAPS["GRE"][1])[0][1]
    frames: list[Framed] = [(good, len(good), 1, 0)]
    assert decode(batch_of(frames), tunnels=True)["proto"].tolist() == [6]
    rows = decode(batch_of(frames), checksums=True, tunnels=True)
    assert (rows["proto"].tolist(), rows["ip_sum"].tolist()) == ([47], [2])


def test_offsets_count_from_the_frame() -> None:
    data = wrapped(WRAPS["VXLAN"][1])[3][1]
    rows = decode(batch_of([(data, len(data), 1, 0)]), tunnels=True)
    l3, payload = int(rows["l3"][0]), int(rows["payload"][0])
    assert data[l3 : l3 + 1] == b"\x45"
    assert data[l3 + 12 : l3 + 20] == A + B
    assert data[payload:] == b"hello"


def test_the_defaults() -> None:
    assert FlowOptions().tunnels
    assert not FlowOptions(tunnels=False).tunnels
    assert len(TUNNELS) <= 16
