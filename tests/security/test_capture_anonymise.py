"""Anonymised means anonymised: Crypto-PAn's own vectors, 0 of the planted identifiers left, checksums right, flows as they were."""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))  # the sample frames live there

from capture_samples import A, B, block, enhanced, ethernet, ipv4, ipv6, pcap, tcp, udp, write
from link_frames import LINKS

from trafficllm.capture.anonymise.captures import anonymise
from trafficllm.capture.anonymise.pseudonyms import CryptoPan, Pseudonyms
from trafficllm.capture.check.captures import check
from trafficllm.capture.checksum import transport
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import frames_of
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.rows import flow_rows
from trafficllm.surface.cli.main import run

KEY = bytes(range(7, 39))
# The key and addresses of sample.cpp and sample_trace in the authors' distribution (Crypto-PAn 1.0, Georgia Tech).
AUTHORS_KEY = bytes(
    [21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131, 121, 121, 101, 39, 98, 87, 76, 45,
     42, 132, 34, 2]
)  # fmt: skip
VECTORS = {
    "128.11.68.132": "135.242.180.132", "129.118.74.4": "134.136.186.123", "130.132.252.244": "133.68.164.234",
    "141.223.7.43": "141.167.8.160", "141.233.145.108": "141.129.237.235", "152.163.225.39": "151.140.114.167",
    "156.29.3.236": "147.225.12.42", "165.247.96.84": "162.9.99.234", "166.107.77.190": "160.132.178.185",
    "192.102.249.13": "252.138.62.131", "192.215.32.125": "252.43.47.189", "192.233.80.103": "252.25.108.8",
    "192.41.57.43": "252.222.221.184", "193.150.244.223": "253.169.52.216", "195.205.63.100": "255.186.223.5",
    "198.200.171.101": "249.199.68.213", "198.26.132.101": "249.36.123.202", "198.36.213.5": "249.7.21.132",
    "198.51.77.238": "249.18.186.254", "199.217.79.101": "248.38.184.213", "202.49.198.20": "245.206.7.234",
    "203.12.160.252": "244.248.163.4", "204.184.162.189": "243.192.77.90", "204.202.136.230": "243.178.4.198",
    "205.178.38.67": "242.108.198.51", "205.245.121.43": "242.21.121.163", "207.105.49.5": "241.118.205.138",
    "208.147.89.59": "227.237.98.191", "209.12.231.7": "226.243.167.8", "212.120.124.31": "228.135.163.231",
    "216.148.237.145": "235.84.194.111", "24.0.250.221": "100.15.198.226", "38.15.67.68": "64.3.66.187",
    "4.3.88.225": "124.60.155.63", "63.14.55.111": "95.9.215.7", "64.14.118.196": "0.255.183.58",
    "::1": "78ff:f001:9fc0:20df:8380:b1f1:704:ed", "::2": "78ff:f001:9fc0:20df:8380:b1f1:704:ef",
    "::ffff": "78ff:f001:9fc0:20df:8380:b1f1:704:f838", "2001:db8::1": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e",
    "2001:db8::2": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1c",
}  # fmt: skip


@pytest.mark.parametrize(("address", "name"), VECTORS.items())
def test_the_vectors_of_crypto_pan(address: str, name: str) -> None:
    made = CryptoPan(AUTHORS_KEY)(ipaddress.ip_address(address).packed)
    assert str(ipaddress.ip_address(made)) == name


def _shared(a: bytes, b: bytes) -> int:
    return 8 * len(a) - (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_length()


def test_prefixes_are_kept_and_unicast_stays_unicast() -> None:
    names = Pseudonyms(KEY)
    hosts = [bytes([first, 7, 9, k]) for first in (10, 77, 192, 193, 203) for k in (1, 2, 130)]
    made = [names.ip(host) for host in hosts]
    assert len(set(made)) == len(hosts)
    for i, a in enumerate(hosts):
        assert made[i][0] not in {0, 127} | set(range(224, 256))
        for j, b in enumerate(hosts):
            if _shared(a, b) >= 8:
                assert _shared(made[i], made[j]) == _shared(a, b)
    for kept in ("255.255.255.255", "224.0.0.251", "127.0.0.1", "0.0.0.0", "::", "::1", "ff02::fb"):
        packed = ipaddress.ip_address(kept).packed
        assert names.ip(packed) == packed
    assert names.ip(ipaddress.ip_address("fe80::1").packed)[:8] == b"\xfe\x80" + bytes(6)
    assert names.mac(b"\xff" * 6) == b"\xff" * 6
    assert names.mac(bytes.fromhex("3c22fb010203"))[0] & 3 == 2


# Planted identifiers


def _ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


TEXTS = [
    "intranet.acme-corp.example", "/payroll/jane.doe", "AcmeBrowser/7.7 (jane)", "session=5ecr3tc00kie", "Basic amFuZTpodW50ZXIy",
    "http://wiki.acme-corp.example/", "password=hunter2xyz", "jdoe-laptop", "printer-4th-floor", "mail.acme-corp.example",
    "CN=jane.doe@acme", "USER janedoe77", "PASS s3same-open", "MAIL FROM:<jane@acme>", "ACMEDC01WKSTN", "sip:jane@pbx.acme",
    "203,0,113,77,4,1", "X-Forwarded-For: 203.0.113.78", "ssh-jane@bastion", "guest-of-room-12", "imei-356938035643809",
    "IBAN DE02120300000000202051", "+49-170-5550123", "patient-4711",
]  # fmt: skip
MACS = {name: bytes.fromhex(text) for name, text in {
    "client": "3c22fb0a0b0c", "server": "a4c3f01a2b3c", "arp sender": "f0def1445566", "arp target": "001122998877",
    "neighbour option": "b827eb123456", "dhcp": "dca632abcdef",
}.items()}  # fmt: skip
HOSTS = {
    "client": "198.51.100.23", "server": "203.0.113.5", "arp sender": "198.51.100.77", "arp target": "198.51.100.78",
    "record route": "198.51.100.141", "quoted source": "203.0.113.61", "quoted target": "203.0.113.62", "gateway": "198.51.100.254",
    "inside GRE, source": "192.0.2.161", "inside GRE, target": "192.0.2.162", "DNS answer": "192.0.2.201", "inside VXLAN": "192.0.2.211",
    "client6": "2001:db8:aa:bb::c0de", "server6": "2001:db8:cc:dd::beef", "target6": "2001:db8:aa:bb::feed",
    "route6": "2001:db8:77:88::99aa", "home6": "2001:db8:55:66::7788", "prefix6": "2001:db8:1234:5678::",
}  # fmt: skip
_NAMES = {"comment": b"captured at Jane's desk", "interface": b"eth0-floor4-acme", "name table": b"nas.acme-corp.example"}


def _frames() -> list[bytes]:
    """Each identifier at the place where captures have it."""
    macs = MACS["client"] + MACS["server"]
    a, b, a6, b6 = (_ip(HOSTS[name]) for name in ("client", "server", "client6", "server6"))

    def eth(packet: bytes, kind: int = 0x0800) -> bytes:
        return macs + struct.pack("!H", kind) + packet

    out = [eth(ipv4(6, tcp(40000, 80, 1, 1, 0x18, text.encode()), a, b)) for text in TEXTS[:8]]
    out += [eth(ipv4(17, udp(40000, 53, text.encode()), a, b)) for text in TEXTS[8:12]]
    out += [eth(ipv6(6, tcp(40000, 443, 1, 1, 0x18, text.encode("utf-16-le")), a6, b6), 0x86DD) for text in TEXTS[12:14]]
    out += [eth(ipv4(1, b"\x08\0\0\0\0\1\0\1" + TEXTS[14].encode(), a, b)), eth(ipv4(6, tcp(1, 2, 1, 1, 16), a, b)) + TEXTS[15].encode()]
    option = b"\x22\x12" + TEXTS[16].encode() + b"\1\1"  # TCP fast open cookie, 18 bytes in all
    segment = bytearray(tcp(40000, 80, 5, 0, 2))
    segment[12] = (20 + len(option)) // 4 << 4
    out.append(eth(ipv4(6, bytes(segment) + option, a, b)))
    out += [eth(b"\x0a\x20" + TEXTS[17].encode(), 0x88CC), eth(b"\x11\x07\0\0\0\x20" + TEXTS[18].encode(), 0x8863)]
    others = ((17, 64), (50, 0), (132, 0))  # a later fragment, ESP, SCTP
    out += [eth(ipv4(proto, text.encode(), a, b, frag=frag)) for text, (proto, frag) in zip(TEXTS[19:22], others, strict=True)]
    out.append(eth(b"\xaa\xaa\x03\0\0\0\x08\x00" + ipv4(17, udp(1, 2, TEXTS[22].encode()), a, b), 100))
    out.append(macs + b"\x81\x00\x00\x07\x08\x00" + ipv4(17, udp(5000, 5001, TEXTS[23].encode()), a, b))
    arp = b"".join(MACS[name] + _ip(HOSTS[name]) for name in ("arp sender", "arp target"))
    out.append(eth(b"\x00\x01\x08\x00\x06\x04\x00\x02" + arp, 0x0806))
    route = b"\x07\x07\x08" + _ip(HOSTS["record route"]) + b"\0"
    out.append(eth(ipv4(17, udp(9, 9, b""), a, b, options=route)))
    quoted = ipv4(6, tcp(1, 2, 3, 4, 16)[:8], _ip(HOSTS["quoted source"]), _ip(HOSTS["quoted target"]))
    out += [eth(ipv4(1, b"\3\1\0\0\0\0\0\0" + quoted, a, b)), eth(ipv4(1, b"\5\1\0\0" + _ip(HOSTS["gateway"]) + quoted, a, b))]
    inner = ipv4(17, udp(1, 2, b"x"), _ip(HOSTS["inside GRE, source"]), _ip(HOSTS["inside GRE, target"]))
    out.append(eth(ipv4(47, b"\0\0\x08\0" + inner, a, b)))
    out.append(eth(ipv4(17, udp(53, 40000, b"\0\1\x81\x80" + _ip(HOSTS["DNS answer"])), b, a)))
    inside = ethernet(ipv4(17, udp(1, 2, b"x"), _ip(HOSTS["inside VXLAN"]), b))
    out.append(eth(ipv4(17, udp(40000, 4789, b"\x08\0\0\0\0\0\7\0" + inside), a, b)))
    out.append(eth(ipv4(17, udp(68, 67, bytes(28) + MACS["dhcp"] + bytes(10)), _ip("0.0.0.0"), b"\xff" * 4)))
    local = _ip("fe80::be24:11ff:fe77:8899")
    solicited = b"\x87\0\0\0\0\0\0\0" + _ip(HOSTS["target6"]) + b"\1\1" + MACS["neighbour option"]
    out.append(b"\x33\x33\xff\x00\xfe\xed" + MACS["client"] + b"\x86\xdd" + ipv6(58, solicited, local, _ip("ff02::1:ff00:feed")))
    prefix = b"\x86\0\0\0\x40\0\7\x08" + bytes(8) + b"\3\4\x40\xc0" + bytes(12) + _ip(HOSTS["prefix6"])
    out.append(eth(ipv6(58, prefix, local, _ip("ff02::1")), 0x86DD))
    routing = b"\x11\x02\x00\x01" + bytes(4) + _ip(HOSTS["route6"]) + udp(1, 2)
    home = b"\x11\x02\x01\x02\0\0\xc9\x10" + _ip(HOSTS["home6"]) + udp(1, 2)
    out += [eth(ipv6(43, routing, a6, b6), 0x86DD), eth(ipv6(60, home, a6, b6), 0x86DD)]
    return out


def _needles() -> dict[str, bytes]:
    texts = {text: text.encode() for text in TEXTS}
    wide = {f"{text} (UTF-16)": text.encode("utf-16-le") for text in TEXTS[12:14]}
    hosts = {f"host {name}": _ip(text).rstrip(b"\0") for name, text in HOSTS.items()}
    identifiers = {"interface identifier": bytes.fromhex("be2411fffe778899"), "solicited node": b"\xff\x00\xfe\xed"}
    return texts | wide | hosts | {f"mac {name}": mac for name, mac in MACS.items()} | identifiers | _NAMES


def _planted(folder: Path) -> Path:
    """A pcapng with a comment, a named interface, a table of names, and the frames; one of a wireless interface."""
    faces = b"".join(
        block(1, struct.pack("<HHI", link, 0, 0) + struct.pack("<HH", 2, len(name)) + name + bytes(-len(name) % 4) + bytes(4))
        for link, name in ((1, _NAMES["interface"]), (105, b"wlan0"))
    )
    note = _NAMES["comment"]
    option = struct.pack("<HH", 1, len(note)) + note + bytes(-len(note) % 4) + bytes(4)
    head = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + option)
    record = _ip(HOSTS["server"]) + _NAMES["name table"] + b"\0"
    table = block(4, struct.pack("<HH", 1, len(record)) + record + bytes(-len(record) % 4) + bytes(4))
    beacon = b"\x80\0\0\0" + b"\xff" * 6 + MACS["client"] * 2 + bytes(14) + b"\0\x09acme-wlan"
    frames = b"".join(enhanced(10**12 + k, frame) for k, frame in enumerate(_frames()))
    return write(folder, head + faces + table + frames + enhanced(10**13, beacon, face=1), "planted.pcapng")


@pytest.mark.parametrize("way", ["zero", "cut"])
@pytest.mark.parametrize("name", ["out.pcap", "out.pcapng"])
def test_none_of_the_planted_identifiers_is_left(way: str, name: str, tmp_path: Path) -> None:
    planted, needles = _planted(tmp_path), _needles()
    before = planted.read_bytes()
    missing = [what for what, needle in needles.items() if needle not in before and what not in {TEXTS[12], TEXTS[13]}]
    assert missing == []
    assert len(needles) >= 50
    out = tmp_path / name
    made = anonymise([planted], out, key=KEY, payload=way, format="pcapng" if name.endswith("ng") else "pcap")
    after = out.read_bytes()
    left = [what for what, needle in needles.items() if needle in after or needle.hex().encode() in after]
    assert left == []
    assert b"acme" not in after
    assert made.dropped == {"link type 105": 1}
    assert made.packets == len(_frames())
    report = check([out])
    assert (report.packets, report.bad_checksums, report.bad_lengths) == (made.packets, 0, 0)
    assert "".join(report.malformed) == ""


def test_kept_contents_keep_what_is_in_them(tmp_path: Path) -> None:
    made = tmp_path / "out.pcap"
    anonymise([_planted(tmp_path)], made, key=KEY, payload="keep")
    after = made.read_bytes()
    assert TEXTS[0].encode() in after
    assert _ip(HOSTS["client"]) not in after
    assert check([made]).bad_checksums == 2  # inside GRE and VXLAN: contents, kept as the sample has them, whose sums are zero there


def _rows(path: Path) -> list[dict[str, object]]:
    """Flows without what anonymising changes: addresses, and what is made of them."""
    left_out = {"orig_h", "resp_h", "community_id", "uid"}
    rows = [row for batch in read_flows([path]) for row in flow_rows(batch, number=0)]
    return sorted(({k: v for k, v in row.items() if k not in left_out} for row in rows), key=repr)


@pytest.mark.parametrize("label", ["MTD/Neris", "EAC/QUIC", "EAC/DNS", "EAC/SSDP"])
def test_flows_of_real_captures_stay_what_they_were(label: str, captures: Path, tmp_path: Path) -> None:
    checked = 0
    for path in sorted((captures / label).glob("*.pcap"))[:2]:
        out = tmp_path / "out.pcapng"
        made = anonymise([path], out, key=KEY, format="pcapng")
        if not made.packets:
            continue
        assert _rows(out) == _rows(path)
        assert check([out]).bad_checksums == 0
        old, new = ({ip for row in _ends(name) for ip in row} for name in (path, out))
        assert len(new) == len(old)
        assert {ip for ip in old & new if not ipaddress.ip_address(ip).is_multicast} <= {"255.255.255.255", "0.0.0.0"}
        checked += 1
    assert checked


def _ends(path: Path) -> list[tuple[str, str]]:
    return [(row["orig_h"], row["resp_h"]) for batch in read_flows([path]) for row in flow_rows(batch, number=0)]


def test_damaged_frames_are_no_failure(tmp_path: Path) -> None:
    """Every frame cut at every length, on every link type that is known."""
    frames = _frames()
    for link in (0, 1, 9, 101, 104, 113, 276):
        cut = [(1.0, frame[:size]) for frame in frames for size in range(0, len(frame), 7)]
        source = write(tmp_path, pcap(cut, link=link), f"{link}.pcap")
        made = anonymise([source], tmp_path / "out.pcap", key=KEY)
        assert made.packets == len(cut)
        sizes = Counter(len(data) for batch in read_frames([tmp_path / "out.pcap"]) for data, *_ in frames_of(batch))
        assert sizes == Counter(len(frame) for _, frame in cut)


WIRELESS = {"802.11", "Radiotap", "Prism", "AVS"}
INSIDE = {"MPLS pseudowire", "FabricPath", "NSH", "NSH and Ethernet", "802.1ah", "MACsec clear text", "PPP bridging"}
"""Frames within frames behind these headers are contents: they are kept as bytes without meaning, zeros of the same length."""


@pytest.mark.parametrize("name", list(LINKS))
def test_every_link_type_is_anonymised_or_named(name: str, tmp_path: Path) -> None:
    """The flow inside stays what it was under other names; wireless frames are left out and counted."""
    link, frame = LINKS[name]
    out = tmp_path / "out.pcap"
    made = anonymise([write(tmp_path, pcap([(1.0, frame)], link=link))], out, key=KEY)
    if any(word in name for word in WIRELESS):
        assert (made.packets, made.dropped) == (0, {f"link type {link}": 1})
        return
    assert (made.packets, made.dropped) == (1, {})
    ((after, *_),) = [row for batch in read_frames([out]) for row in frames_of(batch)]
    assert len(after) == len(frame)
    for secret in (A, B, b"sixteen bytes of", b"en0", b"prefix", b"em0", frame[:6] if link == 1 else A):
        assert secret not in after
    if any(name.startswith(word) for word in INSIDE):
        return
    (row,) = [row for batch in read_flows([out]) for row in flow_rows(batch, number=0)]
    assert (row["orig_p"], row["resp_p"], row["orig_bytes"]) == (40000, 9999, 16)
    assert row["orig_h"] != "192.0.2.1"
    assert check([out]).bad_checksums == 0


def test_wrapped_frames_cut_anywhere_are_no_failure(tmp_path: Path) -> None:
    for name, (link, frame) in LINKS.items():
        cut = [(1.0, frame[:size]) for size in range(len(frame))]
        made = anonymise([write(tmp_path, pcap(cut, link=link))], tmp_path / "out.pcap", key=KEY)
        assert made.packets + sum(made.dropped.values()) == len(cut), name


@pytest.mark.parametrize("kind", [0, 2, 4])
def test_routing_headers_lead_to_the_same_place(kind: int, tmp_path: Path) -> None:
    """Addresses in them under their names, the checksum that of the last one."""
    way = [_ip(f"2001:db8:77::{k}") for k in ((1,) if kind == 2 else (1, 2, 3))]
    final = way[-1] if kind == 0 else way[0]
    body = udp(40000, 9999, b"on its way")
    head = bytes((17, 2 * len(way), kind, 1, len(way) - 1 if kind == 4 else 0, 0, 0, 0)) + b"".join(way)
    source = _ip("2001:db8::5")
    value = transport(6, source, final, 17, body)
    packet = ipv6(43, head + body[:6] + value.to_bytes(2, "big") + body[8:], source, _ip("2001:db8::6"))
    frame = ethernet(packet, 0x86DD)
    assert check([write(tmp_path, pcap([(1.0, frame), (2.0, frame[:-1] + b"Y")]))]).bad_checksums == 1
    out = tmp_path / "out.pcap"
    anonymise([write(tmp_path, pcap([(1.0, frame)]))], out, key=KEY)
    ((after, *_),) = [row for batch in read_frames([out]) for row in frames_of(batch)]
    assert check([out]).bad_checksums == 0
    names = Pseudonyms(KEY)
    assert all(names.ip(one) in after and one not in after for one in way)


def test_the_commands(tmp_path: Path, captures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = sorted((captures / "EAC" / "DNS").glob("*.pcap"))[2]
    (tmp_path / "key").write_text(KEY.hex())
    out = [str(tmp_path / name) for name in ("a.pcap", "b.pcap", "c.pcapng")]
    assert run(["capture", "anonymize", str(source), "-o", out[0], "--key-file", str(tmp_path / "key")]) == 0
    assert run(["capture", "anonymize", str(source), "-o", out[1], "--key-file", str(tmp_path / "key"), "--json"]) == 0
    assert Path(out[0]).read_bytes() == Path(out[1]).read_bytes()
    assert run(["capture", "anonymize", str(source), "-o", out[1]]) == 0
    assert Path(out[0]).read_bytes() != Path(out[1]).read_bytes(), "another key, other names"
    assert run(["capture", "convert", str(source), out[0], "-o", out[2], "--json"]) == 0
    assert check([out[2]]).packets == 2 * check([source]).packets
    for wrong in (["--payload", "some"], ["--key-file", str(source)], ["-f", "cap"]):
        assert run(["capture", "anonymize", str(source), "-o", out[0], *wrong]) in {2, 3}
    assert run(["capture", "convert", str(source), "-o", "-", "--json"]) == 2
    assert capfd.readouterr().err.count("\n") == 3
    radio = write(tmp_path, pcap([(1.0, b"\x80" + bytes(40))], link=105))
    assert run(["capture", "anonymize", str(radio), "-o", out[0]]) == 0
    assert "IEEE802_11 (link type 105), left out: 1 frames" in capfd.readouterr().err
