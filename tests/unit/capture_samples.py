"""Captures built in the tests: pcap and pcapng bytes, frames of every layer, TCP conversations."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
A, B = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7])


def pcap(frames: Sequence[tuple[float, bytes]], *, link: int = 1, order: str = "<", nano: bool = False, snaplen: int = 262144) -> bytes:
    """A classic pcap file."""
    out = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, link)
    for when, frame in frames:
        seconds, fraction = divmod(round(when * 1_000_000), 1_000_000)
        kept = frame[:snaplen]
        out += struct.pack(order + "IIII", seconds, fraction * (1000 if nano else 1), len(kept), len(frame)) + kept
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def section(order: str = "<") -> bytes:
    """A pcapng section header."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = 1, *, order: str = "<", resolution: int | None = None, snaplen: int = 0) -> bytes:
    """A pcapng interface description, with if_tsresol where given."""
    options = b"" if resolution is None else struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def enhanced(units: int, frame: bytes, *, face: int = 0, order: str = "<") -> bytes:
    """A pcapng enhanced packet block; `units` of the interface's clock."""
    head = struct.pack(order + "IIIII", face, units >> 32, units & 0xFFFFFFFF, len(frame), len(frame))
    return block(6, head + frame, order)


def ipv4(
    proto: int, payload: bytes, src: bytes = A, dst: bytes = B, *, ttl: int = 64, frag: int = 0, ident: int = 1, options: bytes = b""
) -> bytes:
    """An IPv4 packet; `frag` is the flags and offset word."""
    head = 20 + len(options)
    return struct.pack("!BBHHHBBH4s4s", 0x40 | head // 4, 0, head + len(payload), ident, frag, ttl, proto, 0, src, dst) + options + payload


def ipv6(proto: int, payload: bytes, src: bytes = A * 4, dst: bytes = B * 4) -> bytes:
    """An IPv6 packet."""
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), proto, 64, src, dst) + payload


def tcp(sport: int, dport: int, seq: int, ack: int, flags: int, data: bytes = b"", *, window: int = 8192) -> bytes:
    """A TCP segment without options."""
    return struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 5 << 4, flags, window, 0, 0) + data


def udp(sport: int, dport: int, data: bytes = b"") -> bytes:
    """A UDP datagram."""
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def chunk(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """An SCTP chunk with its padding."""
    return struct.pack("!BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def sctp(*chunks: bytes, sport: int = 36412, dport: int = 36422, tag: int = 7, checksum: int = 0) -> bytes:
    """An SCTP packet; the checksum as it is stored, low byte first."""
    return struct.pack("!HHI", sport, dport, tag) + struct.pack("<I", checksum) + b"".join(chunks)


def authentication(proto: int, *, number: int = 1) -> bytes:
    """An authentication header with a 12-byte check value before what `proto` names."""
    return struct.pack("!BBHII", proto, 4, 0, 0x100, number) + bytes(12)


def ethernet(payload: bytes, kind: int = 0x0800) -> bytes:
    """An Ethernet frame."""
    return bytes(range(12)) + struct.pack("!H", kind) + payload


class Talk:
    """A TCP conversation on Ethernet and IPv4: `segments` grow with every call."""

    def __init__(self, *, sport: int = 40000, dport: int = 80, start: float = 1.0, step: float = 0.01) -> None:
        self.ports, self.at, self.step = (sport, dport), start, step
        self.next = [1000, 5000]
        self.frames: list[tuple[float, bytes]] = []

    def send(self, side: int, flags: int, data: bytes = b"", *, seq: int | None = None, window: int = 8192) -> Talk:
        """One segment of `side` (0 client, 1 server), at the next sequence number unless `seq` says else."""
        number = self.next[side] if seq is None else seq
        ack = self.next[1 - side] if flags & ACK else 0
        segment = tcp(self.ports[side], self.ports[1 - side], number, ack, flags, data, window=window)
        ends = (A, B) if side == 0 else (B, A)
        self.frames.append((self.at, ethernet(ipv4(6, segment, *ends))))
        self.at += self.step
        if seq is None:
            self.next[side] += len(data) + (1 if flags & (SYN | FIN) else 0)
        return self

    def open(self) -> Talk:
        """Three-way handshake."""
        return self.send(0, SYN).send(1, SYN | ACK).send(0, ACK)

    def close(self) -> Talk:
        """Both sides FIN."""
        return self.send(0, FIN | ACK).send(1, FIN | ACK).send(0, ACK)


def write(folder: Path, data: bytes, name: str = "sample.pcap") -> Path:
    """Put bytes into a file."""
    path = folder / name
    path.write_bytes(data)
    return path
