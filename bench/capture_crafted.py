"""Captures and payloads crafted to make a reader slow: each case has one number that grows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

SOURCE, TARGET = b"\xc0\x00\x02\x01", b"\xc6\x33\x64\x07"
RAW, IPV4, ETHERNET = 101, 228, 1
Work = Callable[[], None]


def pcap(frames: list[bytes], link: int = IPV4) -> bytes:
    """A classic pcap file, one millisecond between frames."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)]
    for i, frame in enumerate(frames):
        out += (struct.pack("<IIII", i // 1000, i % 1000 * 1000, len(frame), len(frame)), frame)
    return b"".join(out)


def ip(proto: int, body: bytes, *, ident: int = 0, frag: int = 0, options: bytes = b"") -> bytes:
    """An IPv4 packet between two documentation addresses."""
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), ident, frag, 64, proto, 0)
    return head + SOURCE + TARGET + options + body


def tcp(seq: int, data: bytes = b"", *, flags: int = 16, options: bytes = b"") -> bytes:
    """A TCP segment of one connection."""
    return struct.pack("!HHIIBBHHH", 1, 2, seq & 0xFFFFFFFF, 0, (5 + len(options) // 4) << 4, flags, 1, 0, 0) + options + data


def fragments_never_whole(n: int) -> bytes:
    """Overlapping pieces of one datagram whose last hole never closes."""
    return pcap([ip(17, bytes(1200), ident=1, frag=0x2000 | (1 + i * 7 % 6000)) for i in range(n)])


def fragments_joined_in_vain(n: int) -> bytes:
    """Pieces that together have enough bytes but leave a hole: every one of them looks like the last."""
    ends = [ip(17, bytes(8), ident=1, frag=0x2000), ip(17, bytes(8), ident=1, frag=200)]
    return pcap((ends + [ip(17, bytes(1200), ident=1, frag=0x2000 | (2 + i % 190)) for i in range(254)]) * (n // 256 + 1))


def fragments_of_many_datagrams(n: int) -> bytes:
    """First fragments whose rest never comes."""
    return pcap([ip(17, bytes(24), ident=i % 65536, frag=0x2000) for i in range(n)])


def ip_options(n: int) -> bytes:
    """The longest IPv4 header, 40 single-byte options."""
    return pcap([ip(17, struct.pack("!HHHH", 1, 2, 8, 0), options=b"\x01" * 40) for _ in range(n)])


def ipv6_extensions(n: int) -> bytes:
    """Forty packets with chains of n destination options headers of 8 bytes."""
    chain = (b"\x3c\x00" + bytes(6)) * (n - 1) + b"\x11\x00" + bytes(6) + struct.pack("!HHHH", 1, 2, 8, 0)
    head = struct.pack("!IHBB", 6 << 28, len(chain), 60, 64) + SOURCE * 4 + TARGET * 4
    return pcap([head + chain] * 40, RAW)


def tunnels_in_tunnels(n: int) -> bytes:
    """Forty packets of IP in IP, n deep."""
    frame = ip(17, struct.pack("!HHHH", 1, 2, 8, 0))
    for _ in range(n):
        frame = ip(4, frame)
    return pcap([frame] * 40)


def tunnels_without_end(n: int) -> bytes:
    """The deepest tunnels that are looked into, each of another kind, and a fragment of one more at the bottom."""
    frame = ip(4, ip(17, bytes(24)), frag=0x2000)
    for wrap in (b"\0\0\x08\0", b"\x30\0\x08\0" + bytes(8)):
        frame = ip(4, ip(47, wrap + frame))
    return pcap([frame] * n)


def tcp_segments_backwards(n: int) -> bytes:
    """Segments with holes between them, from the far end to the near."""
    return pcap([ip(6, tcp(10 + (n - i) * 3, b"ab")) for i in range(n)])


def tcp_segments_overlapping(n: int) -> bytes:
    """Segments that overlap both neighbours and disagree, after a hole at the very start."""
    return pcap([ip(6, tcp(1000 + i * 5 % 60000, bytes([i & 255]) * 1200)) for i in range(n)])


def tcp_options(n: int) -> bytes:
    """The longest TCP header, 40 single-byte options."""
    return pcap([ip(6, tcp(i, options=b"\x01" * 40)) for i in range(n)])


def tcp_reused_ports(n: int) -> bytes:
    """A SYN with a new number each time: n connections on the same five-tuple."""
    return pcap([ip(6, tcp(i * 7919, flags=2)) for i in range(n)])


def vlan_tags(n: int) -> bytes:
    """Forty frames with n VLAN tags each."""
    return pcap([bytes(12) + b"\x81\x00" + b"\x00\x07\x81\x00" * n + b"\x00\x07\x08\x00" + ip(17, bytes(8))] * 40, ETHERNET)


def icmp_quotes(n: int) -> bytes:
    """ICMP errors that quote ICMP errors that quote ..., as deep as the packet is long."""
    inner = b""
    for _ in range(24):
        inner = ip(1, b"\x03\x01" + bytes(6) + inner)
    return pcap([inner] * n)


def pcapng_interfaces(n: int) -> bytes:
    """A section that announces n interfaces."""
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    return section + struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20) * n


def dns_pointers(n: int) -> bytes:
    """A message of answers whose names point at one another, longest chain last."""
    names = b"".join(b"\x01a" + (0xC000 | max(12 + 14 * (i - 1), 12) & 0x3FFF).to_bytes(2, "big") + bytes(10) for i in range(n))
    return struct.pack("!HHHHHH", 1, 0x8000, 1, min(n, 500), 0, 0) + names


def tls_extensions(n: int) -> bytes:
    """A ClientHello with n empty extensions (as many as its 16-bit length holds), spread over records."""
    listed = b"".join(struct.pack("!HH", i & 0xFFFF, 0) for i in range(min(n, 16000)))
    body = b"\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00" + len(listed).to_bytes(2, "big") + listed
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"".join(b"\x16\x03\x01" + len(hello[i : i + 64]).to_bytes(2, "big") + hello[i : i + 64] for i in range(0, len(hello), 64))


def http_headers(n: int) -> bytes:
    """A request line of n broken version marks, then n headers without an end."""
    return b"GET " + b" HTTP/1" * n + b" x\r\n" + b"A: b\r\n" * n


FILES: dict[str, tuple[Callable[[int], bytes], int]] = {
    "IP fragments, never whole": (fragments_never_whole, 2000),
    "IP fragments, joined in vain": (fragments_joined_in_vain, 2048),
    "IP fragments, many datagrams": (fragments_of_many_datagrams, 2000),
    "IPv4 options": (ip_options, 20000),
    "IPv6 extension chains": (ipv6_extensions, 1000),
    "TCP segments, last first": (tcp_segments_backwards, 20000),
    "TCP segments, overlapping": (tcp_segments_overlapping, 5000),
    "TCP options": (tcp_options, 20000),
    "TCP ports reused": (tcp_reused_ports, 5000),
    "tunnels in tunnels": (tunnels_in_tunnels, 400),
    "fragments at the bottom of tunnels": (tunnels_without_end, 5000),
    "VLAN tags": (vlan_tags, 2000),
    "ICMP errors in ICMP errors": (icmp_quotes, 5000),
    "pcapng interfaces": (pcapng_interfaces, 4000),
}
"""Captures: what grows -> (made by, smallest number)."""

PAYLOADS: dict[str, tuple[Callable[[int], bytes], int, tuple[int, int]]] = {
    "DNS compression pointers": (dns_pointers, 500, (17, 53)),
    "TLS hello extensions": (tls_extensions, 2000, (6, 443)),
    "HTTP headers": (http_headers, 2000, (6, 80)),
}
"""Payload prefixes: what grows -> (made by, smallest number, (protocol, port))."""


def work(name: str, n: int, folder: Path) -> Work:
    """What is timed: a whole file to flows, or one payload to facts."""
    from trafficllm.capture.facts.flow_facts import facts_of
    from trafficllm.capture.flows.assembly import read_flows
    from trafficllm.core.settings import FlowOptions

    if name in PAYLOADS:
        make, _, (proto, port) = PAYLOADS[name]
        data = make(n)
        return lambda: [facts_of(proto, 40000, port, data, data) for _ in range(20)] and None
    path = folder / "crafted"
    path.write_bytes(FILES[name][0](n))
    return lambda: list(read_flows([path], options=FlowOptions(table_size=4096))) and None


def smallest(name: str) -> int:
    """The n a case starts with."""
    return (FILES.get(name) or PAYLOADS[name])[1]
