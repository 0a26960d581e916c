"""Frames with every header this reader shows, whole and cut after every byte."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from capture_samples import A, B, authentication, chunk, ethernet, ipv4, ipv6, sctp, tcp, udp

OPTIONS = b"\x02\x04\x05\xb4\x01\x01\x04\x02"
DATA = b"payload-of-a-packet!"


def _tcp(**changes: int) -> bytes:
    segment = bytearray(tcp(40000, 9999, 1000, 2000, 0x18) + OPTIONS + DATA)
    segment[12] = changes.get("offset", 7) << 4
    return bytes(segment)


def _tagged(*tags: tuple[int, int], payload: bytes) -> bytes:
    head = b"".join(struct.pack("!HH", kind, value) for kind, value in tags)
    return bytes(range(12)) + head + b"\x08\x00" + payload


def _ipv4_length(total: int) -> bytes:
    whole = bytearray(ipv4(17, udp(40000, 9999, DATA)))
    whole[2:4] = total.to_bytes(2, "big")
    return ethernet(bytes(whole))


def _first(value: int) -> bytes:
    return ethernet(bytes((value,)) + ipv4(17, udp(40000, 9999, DATA))[1:])


def _icmp(kind: int, code: int, body: bytes) -> bytes:
    return bytes((kind, code)) + bytes(6) + body


ARP = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, bytes(range(6)), A, bytes(6), B)
TEMPLATES = (
    ethernet(ipv4(6, _tcp())),
    ethernet(ipv4(6, _tcp(offset=4))),
    ethernet(ipv4(6, _tcp(offset=15))),
    ethernet(ipv4(17, udp(40000, 9999, DATA))),
    ethernet(ipv4(17, udp(40000, 9999, DATA), options=b"\x94\x04\x00\x00" + b"\x01" * 4)),
    _tagged((0x8100, 0x6007), payload=ipv4(17, udp(40000, 9999, DATA))),
    _tagged((0x88A8, 0x2064), (0x8100, 0x0007), payload=ipv4(6, _tcp())),
    _tagged((0x9100, 0x0064), (0x8100, 0x0007), payload=ipv4(17, udp(40000, 9999, DATA))),
    _first(0x44),
    _first(0x4F),
    _first(0x55),
    _first(0x65),
    _ipv4_length(0),
    _ipv4_length(19),
    _ipv4_length(24),
    _ipv4_length(1500),
    ethernet(ipv4(17, struct.pack("!HHHH", 40000, 9999, 5, 0) + DATA)),
    ethernet(ipv4(17, struct.pack("!HHHH", 40000, 9999, 500, 0) + DATA)),
    ethernet(ipv4(1, _icmp(8, 0, DATA))),
    ethernet(ipv4(1, _icmp(3, 3, ipv4(17, udp(1000, 2000, DATA))))),
    ethernet(ipv4(1, _icmp(11, 0, ipv4(6, _tcp())))),
    ethernet(ipv4(4, ipv4(17, udp(40000, 9999, DATA)))),
    ethernet(ipv4(41, ipv6(17, udp(40000, 9999, DATA)))),
    ethernet(ipv6(6, _tcp()), 0x86DD),
    ethernet(ipv6(0, bytes((60, 0)) + b"\x01\x04\0\0\0\0" + bytes((17, 0)) + b"\x01\x04\0\0\0\0" + udp(40000, 9999, DATA)), 0x86DD),
    ethernet(ipv6(44, struct.pack("!BBHI", 17, 0, 0, 9) + udp(40000, 9999, DATA)), 0x86DD),
    ethernet(ipv6(58, _icmp(1, 4, ipv6(17, udp(1000, 2000, DATA)))), 0x86DD),
    ethernet(ipv6(58, _icmp(128, 0, DATA)), 0x86DD),
    ethernet(ipv6(58, _icmp(135, 0, A * 4)), 0x86DD),
    ethernet(ipv4(1, _icmp(5, 0, ipv4(17, udp(1000, 2000, DATA))))),
    ethernet(ipv4(1, _icmp(13, 0, DATA))),
    ethernet(ipv4(1, _icmp(200, 0, DATA))),
    ethernet(ARP, 0x0806),
    ethernet(ipv4(253, DATA)),
    ethernet(ipv4(17, udp(40000, 9999, DATA)), 0x86DD),
    ethernet(DATA, 0x88B5),
    ethernet(ipv4(132, sctp(chunk(1, struct.pack("!IIHHI", 0xABCD, 65535, 1, 1, 5))))),
    ethernet(ipv6(132, sctp(chunk(0, bytes(12) + DATA))), 0x86DD),
    ethernet(ipv4(136, struct.pack("!HHHH", 40000, 9999, 8, 0x1234) + DATA)),
    ethernet(ipv4(51, authentication(17) + udp(40000, 9999, DATA))),
    ethernet(ipv4(51, authentication(4) + ipv4(17, udp(40000, 9999, DATA)))),
    ethernet(ipv6(51, authentication(17) + udp(40000, 9999, DATA)), 0x86DD),
)


def records() -> list[tuple[bytes, int]]:
    """(captured bytes, length on the wire): each template whole, then cut to every shorter length."""
    return [(frame[:size], len(frame)) for frame in TEMPLATES for size in range(len(frame), 13, -1)]


def crafted() -> bytes:
    """All of them as one pcap file, a second apart so that tshark's conversations do not matter."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)]
    for i, (frame, size) in enumerate(records()):
        out += (struct.pack("<IIII", 1_000_000_000 + i, 0, len(frame), size), frame)
    return b"".join(out)
