"""Every link type and tunnel in the table of docs/captures.md: flows, packets and counts of one frame each."""

from __future__ import annotations

from pathlib import Path

import pytest
from capture_samples import A, B, ethernet, ipv4, pcap, tcp, udp, write
from link_frames import AGGREGATE, DATA, FRAME, LINKS, NO_IP, NOT_TUNNELS, TUNNELS, X, gre, over

from trafficllm.capture.check.captures import check
from trafficllm.capture.checksum import internet
from trafficllm.capture.fields.table import FIELDS, FRAME_FIELDS, packet_rows
from trafficllm.capture.flows.assembly import FlowOptions, read_flows
from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.packets import tunnel_names
from trafficllm.core.errors import UsageError
from trafficllm.core.types import CaptureCounts, FlowBatch

ENDS = ("ip.src", "ip.dst", "udp.srcport", "udp.dstport")


def read(folder: Path, frames: list[bytes], link: int = 1, **options: object) -> tuple[list[FlowBatch], CaptureCounts]:
    counts = CountsBuilder()
    path = write(folder, pcap([(1.0 + i, frame) for i, frame in enumerate(frames)], link=link))
    return list(read_flows([path], options=FlowOptions(**options), counts=counts)), counts.build()


def innermost(folder: Path) -> list[str]:
    """The last value of each field of the only packet."""
    (row,) = packet_rows([folder / "sample.pcap"], ENDS)
    return [cell.split(",")[-1] for cell in row]


@pytest.mark.parametrize("name", list(LINKS))
def test_every_link_leads_to_the_flow_inside(tmp_path: Path, name: str) -> None:
    link, frame = LINKS[name]
    (batch,), counts = read(tmp_path, [frame], link)
    assert (batch.orig_p.tolist(), batch.resp_p.tolist(), batch.payload_bytes.tolist()) == ([40000], [9999], [[len(DATA), 0]])
    assert (batch.orig_h[0, :4].tobytes(), batch.resp_h[0, :4].tobytes(), batch.payload.tobytes()) == (A, B, DATA)
    assert (batch.tunnel.tolist(), counts.malformed, counts.not_read) == ([0], {}, {})
    assert innermost(tmp_path) == ["192.0.2.1", "198.51.100.7", "40000", "9999"]


@pytest.mark.parametrize("name", list(TUNNELS))
def test_every_tunnel_leads_to_the_flow_inside(tmp_path: Path, name: str) -> None:
    code, frame = TUNNELS[name]
    (batch,), counts = read(tmp_path, [frame])
    assert (batch.orig_p.tolist(), batch.resp_p.tolist(), batch.payload.tobytes()) == ([40000], [9999], DATA)
    assert (tunnel_names(int(batch.tunnel[0])), counts.malformed) == (code, {})
    assert innermost(tmp_path)[2:] == ["40000", "9999"]
    if batch.ip_version[0] == 4:
        assert innermost(tmp_path)[:2] == ["192.0.2.1", "198.51.100.7"]


@pytest.mark.parametrize("name", list(NOT_TUNNELS))
def test_what_is_no_tunnel_stays_the_outer_flow(tmp_path: Path, name: str) -> None:
    (batch,), counts = read(tmp_path, [NOT_TUNNELS[name]])
    assert (batch.orig_h[0, :4].tobytes(), batch.tunnel.tolist(), counts.malformed) == (X, [0], {})
    assert innermost(tmp_path)[0] == "203.0.113.1"


@pytest.mark.parametrize("name", list(NO_IP))
def test_whole_frames_without_ip_are_not_malformed(tmp_path: Path, name: str) -> None:
    link, frame = NO_IP[name]
    batches, counts = read(tmp_path, [frame], link)
    assert (batches, counts.malformed, counts.non_ip) == ([], {}, 1)


def test_all_packets_of_an_aggregate_count(tmp_path: Path) -> None:
    (batch,), counts = read(tmp_path, [AGGREGATE, AGGREGATE], 105)
    assert (batch.orig_p.tolist(), batch.pkts[:, 0].tolist()) == ([40000, 40001], [2, 2])
    assert (counts.packets, counts.non_flow, counts.malformed) == (4, 0, {})  # flow packets and others are all packets
    rows = list(packet_rows([tmp_path / "sample.pcap"], ("udp.srcport", "arp.hw.type")))
    assert rows == [("40000,40001", "0"), ("40000,40001", "0")]
    (batch,), _ = read(tmp_path, [gre(0x8200, AGGREGATE)])
    assert (batch.orig_p.tolist(), [tunnel_names(int(one)) for one in batch.tunnel]) == ([40000, 40001], ["gre", "gre"])


def test_an_aggregate_whose_first_packet_is_none(tmp_path: Path) -> None:
    at = AGGREGATE.index(b"\x08\0\x45")
    (batch,), counts = read(tmp_path, [AGGREGATE[:at] + b"\x88\xcc" + AGGREGATE[at + 2 :]], 105)
    assert (batch.orig_p.tolist(), counts.non_flow) == ([40001], 0)


def test_vxlan_ports_are_a_setting(tmp_path: Path) -> None:
    frames = [over(port, b"\x08" + bytes(7) + FRAME) for port in (4789, 8472, 9472)]
    (batch,), _ = read(tmp_path, frames)
    assert sorted(batch.resp_p.tolist()) == [9472, 9999]
    (batch,), _ = read(tmp_path, frames, vxlan_ports=(9472,))
    assert sorted(batch.resp_p.tolist()) == [4789, 8472, 9999]
    shown = [row[0] for row in packet_rows([tmp_path / "sample.pcap"], ("udp.dstport",), vxlan_ports=(9472,))]
    assert shown == ["4789", "8472", "9472,9999"]


def test_a_damaged_packet_in_a_tunnel_is_counted(tmp_path: Path) -> None:
    broken = ipv4(17, udp(1, 2, DATA))
    broken = b"\x44" + broken[1:]
    (batch,), counts = read(tmp_path, [ethernet(ipv4(4, broken, X, B)), over(4341, bytes(8) + broken)])
    assert (batch.proto.tolist(), counts.malformed) == ([4, 17], {"ip.header": 1})


def test_the_check_looks_into_tunnels(tmp_path: Path) -> None:
    segment = tcp(40000, 80, 1, 2, 0, b"no flag at all")
    wrong = ipv4(6, segment)  # sums of zero
    inside = [ipv4(4, wrong, X, B), ipv4(17, udp(50000, 9472, b"\x08" + bytes(7) + ethernet(wrong)), X, B)]
    inside = [packet[:10] + internet(packet[:20]).to_bytes(2, "big") + packet[12:] for packet in inside]
    path = write(tmp_path, pcap([(1.0 + i, ethernet(packet)) for i, packet in enumerate(inside)]))
    report = check([path])
    assert (report.bad_checksums, len(report.tcp_violations), report.malformed) == (1, 1, {})
    report = check([path], vxlan_ports=(9472,))
    assert (report.bad_checksums, len(report.tcp_violations)) == (2, 2)
    broken = ipv4(4, b"\x44" + wrong[1:], X, B)
    broken = broken[:10] + internet(broken[:20]).to_bytes(2, "big") + broken[12:]
    report = check([write(tmp_path, pcap([(1.0, ethernet(broken))]))])
    assert (report.malformed, report.bad_lengths, report.valid) == ({"ip.header": 1}, 1, False)


def test_an_unknown_field_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, pcap([(1.0, FRAME)]))
    for name, near in (("udp.sport", "udp.srcport"), ("IP.SRC", "ip.src"), ("sctp.vtag", "sctp.verification_tag")):
        with pytest.raises(UsageError) as caught:
            list(packet_rows([path], ("ip.src", name)))
        assert f"did you mean {near}?" in str(caught.value.hint)
    with pytest.raises(UsageError) as caught:
        list(packet_rows([path], ("zzzzzzzz",)))
    assert "did you mean" not in str(caught.value.hint)
    assert len(list(packet_rows([path], (*FRAME_FIELDS, *FIELDS)))) == 1


@pytest.mark.parametrize("name", [*LINKS, *TUNNELS])
def test_cut_after_every_byte(tmp_path: Path, name: str) -> None:
    link, frame = LINKS[name] if name in LINKS else (1, TUNNELS[name][1])
    frames = [frame[:size] for size in range(len(frame))]
    batches, counts = read(tmp_path, frames, link)
    assert sum(int(batch.pkts.sum()) for batch in batches) + counts.non_flow == len(frames)
    assert len(list(packet_rows([tmp_path / "sample.pcap"], ENDS))) == len(frames)
