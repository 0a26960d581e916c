"""Captured packets as they would look elsewhere: each shift acts on the packets of one flow, and the real reader reads the result.

Packets are taken out of the captures that a data set was built from, changed, written into one pcapng file with an hour between
flows, and read again by the flow table. What the reader makes of them is what is judged; a flow it does not give back is lost.
"""

from __future__ import annotations

import dataclasses
import struct
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from trafficllm.capture.checksum import internet
from trafficllm.capture.files.read import read_frames
from trafficllm.capture.files.write import write_capture
from trafficllm.capture.flows.assembly import read_flows
from trafficllm.capture.flows.decode import decode
from trafficllm.core.errors import InputError
from trafficllm.core.files import hash64
from trafficllm.core.settings import FlowOptions
from trafficllm.core.types import ORIG, RESP, FlowMeta, FrameBatch, Record
from trafficllm.records.codec.flows import records_of

HOUR = 3_600_000_000_000
_ETHERNET, _RAW = 1, 101
_MACS = bytes.fromhex("00005e005301"), bytes.fromhex("00005e005302")
"""Documentation addresses (RFC 7042 section 2.1.1)."""
_TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet: captured bytes `ip` (padding gone), `length` by its header, `dir` within its flow, `l4` and `payload` offsets in
    `ip` (-1: none), `proto` as decoded, `ts` ns."""

    ts: int
    ip: bytes
    length: int
    dir: int
    proto: int
    l4: int
    payload: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.ip[0] >> 4

    @property
    def whole(self) -> bool:
        """Whether all of it was captured: only then can a checksum be made."""
        return len(self.ip) >= self.length

    @property
    def data(self) -> int:
        """Transport payload bytes by the headers."""
        return self.length - self.payload if self.payload >= 0 else 0


Flow: TypeAlias = list[Packet]
Change: TypeAlias = Callable[[Flow, np.random.Generator], Flow]
Frame: TypeAlias = Callable[[Packet], tuple[bytes, int, int]]
"""A packet as (captured bytes, length on the wire, link type)."""
Framed: TypeAlias = tuple[bytes, int, int, int]
"""The same with its time in ns."""


# Taking flows out of captures


def flows_of(root: str | Path, meta: Sequence[FlowMeta]) -> list[Flow]:
    """The packets of each flow (as many as its record names), from the captures below `root`.

    Raises InputError where a capture is not there: the folder is not the one the data set was built from.
    """
    out: list[Flow] = [[] for _ in meta]
    by_file: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(meta):
        by_file[row.capture].append(i)
    for name, rows in sorted(by_file.items()):
        path = Path(root) / name
        if not name or not path.is_file():
            hint = "name the folder the data set was built from with --captures"
            raise InputError("input.captures", "no such capture", input=str(root), where=name, hint=hint)
        owner = {number: i for i in rows for number in meta[i].frames}
        for number, packet in _packets(path, owner, meta):
            out[owner[number]].append(packet)
    return out


def _packets(path: Path, owner: dict[int, int], meta: Sequence[FlowMeta]) -> Iterator[tuple[int, Packet]]:
    wanted = np.array(sorted(owner), dtype=np.int64)
    for batch in read_frames([path]):
        packets = decode(batch, tunnels=True)
        src, sport = packets.address("src"), packets["sport"]
        for k in np.flatnonzero(np.isin(batch.number, wanted) & (packets["l3"] >= 0)).tolist():
            number = int(batch.number[k])
            row = packets.rows[k]
            start = int(batch.offset[k]) + int(row["l3"])
            end = min(int(batch.offset[k]) + int(batch.caplen[k]), start + int(row["ip_len"]))
            ip = batch.buffer[start:end].tobytes()
            if len(ip) >= 20:
                side = _direction(meta[owner[number]], src[k].tobytes(), int(sport[k]), ip[0] >> 4)
                at = [int(row[name]) - int(row["l3"]) if int(row[name]) >= 0 else -1 for name in ("l4", "payload")]
                yield number, Packet(int(batch.ts[k]), ip, int(row["ip_len"]), side, int(row["proto"]), at[0], at[1])


def _direction(flow: FlowMeta, src: bytes, port: int, version: int) -> int:
    import socket

    host = socket.inet_ntop(socket.AF_INET if version == 4 else socket.AF_INET6, src[:4] if version == 4 else src)
    if flow.orig_h != flow.resp_h:
        return ORIG if host == flow.orig_h else RESP
    return ORIG if port == flow.orig_p else RESP


# Frames around packets


def ethernet(packet: Packet) -> tuple[bytes, int, int]:
    """An Ethernet frame between documentation addresses."""
    macs = _MACS[1 - packet.dir] + _MACS[packet.dir]
    return macs + _TYPES[packet.version] + packet.ip, 14 + packet.length, _ETHERNET


def vlan(packet: Packet) -> tuple[bytes, int, int]:
    """An Ethernet frame with an IEEE 802.1Q tag."""
    data, length, link = ethernet(packet)
    return data[:12] + b"\x81\x00\x00\x64" + data[12:], length + 4, link


def gre(packet: Packet) -> tuple[bytes, int, int]:
    """Wrapped in IPv4 and GRE (RFC 2784) between two documentation addresses."""
    hosts = bytes([192, 0, 2, 1 + packet.dir]) + bytes([192, 0, 2, 2 - packet.dir])
    outer = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, min(packet.length + 24, 65535), 0, 0, 64, 47, 0) + hosts)
    outer[10:12] = internet(outer).to_bytes(2, "big")
    ip = bytes(outer) + b"\0\0" + _TYPES[packet.version] + packet.ip
    return ethernet(dataclasses.replace(packet, ip=ip, length=packet.length + 24))


def snapped(size: int = 96) -> Frame:
    """Frames captured to `size` bytes."""

    def frame(packet: Packet) -> tuple[bytes, int, int]:
        data, length, link = ethernet(packet)
        return data[:size], length, link

    return frame


def marked(packet: Packet) -> tuple[bytes, int, int]:
    """Other marks of a capture set-up: no link layer, or a VLAN tag and padding to 100 bytes, a packet's direction decides."""
    if packet.dir == ORIG:
        return packet.ip, packet.length, _RAW
    data, length, link = vlan(packet)
    padding = max(100 - length, 0) if packet.whole else 0
    return data + bytes(padding), length + padding, link


# Writing and reading again


def batch_of(frames: Sequence[Framed]) -> FrameBatch:
    """Frames as the reader has them."""
    sizes = np.array([len(data) for data, *_ in frames], dtype=np.uint32)
    return FrameBatch(
        buffer=np.frombuffer(b"".join(data for data, *_ in frames), dtype=np.uint8),
        offset=np.cumsum([0, *sizes[:-1]], dtype=np.int64),
        caplen=sizes,
        origlen=np.array([length for _, length, *_ in frames], dtype=np.uint32),
        ts=np.array([ts for *_, ts in frames], dtype=np.int64),
        link=np.array([link for _, _, link, _ in frames], dtype=np.uint16),
        source=np.zeros(len(frames), dtype=np.uint32),
        number=np.arange(1, len(frames) + 1, dtype=np.int64),
        files=("",),
    )


def shifted(flows: Sequence[Flow], change: Change, frame: Frame, *, seed: int = 0) -> list[list[Framed]]:
    """Frames (bytes, wire length, link, ns) of each flow after a shift; draws follow from the flow's bytes and the seed."""
    out: list[list[Framed]] = []
    for slot, flow in enumerate(flows):
        if not flow:
            out.append([])
            continue
        rng = np.random.default_rng(hash64(b"".join(p.ip for p in flow) + seed.to_bytes(8, "big")))
        changed = change(flow, rng)
        begin, start = changed[0].ts, (slot + 1) * HOUR
        out.append([(*frame(packet), start + max(packet.ts - begin, 0)) for packet in changed])
    return out


def read_again(frames: Sequence[Sequence[Framed]], options: FlowOptions | None = None) -> list[Record | None]:
    """The raw record that the reader makes of each flow's frames, the one of most packets where it makes several; None: lost."""
    owner = [slot for slot, flow in enumerate(frames) for _ in flow]
    out: list[tuple[int, Record] | None] = [None] * len(frames)
    with tempfile.TemporaryDirectory(prefix="trafficllm-wire-") as place:
        path = Path(place) / "shifted.pcapng"
        flat = [frame for flow in frames for frame in flow]
        write_capture(path, [batch_of(flat)] if flat else [], format="pcapng")
        for record, meta in _read(path, options):
            slot = owner[meta.frames[0] - 1]
            best = out[slot]
            if best is None or meta.packets > best[0]:
                out[slot] = (meta.packets, record)
    return [pair and pair[1] for pair in out]


def _read(path: Path, options: FlowOptions | None) -> Iterable[tuple[Record, FlowMeta]]:
    if path.stat().st_size < 64:
        return
    for batch in read_flows([path], options=options):
        yield from records_of(batch)
