"""IP fragments put together again, within bounds (RFC 791 3.2, RFC 8200 4.5, RFC 5722)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from trafficllm.capture.flows.counts import CountsBuilder
from trafficllm.capture.flows.decode import decode
from trafficllm.capture.flows.packets import FLOW_PACKET, FRAGMENT, PacketBatch
from trafficllm.capture.link.tunnels import MAX_TUNNELS, VXLAN_PORTS
from trafficllm.core.types import FrameBatch

_MAX_DATAGRAMS = 1024  # incomplete datagrams kept at once; the oldest is dropped
_MAX_PIECES = 256  # pieces of one datagram: 64 KiB in the smallest usual fragments of 576 bytes needs 117
_MAX_BYTES = 65535
_TIMEOUT = 30_000_000_000  # ns; RFC 791 suggests 15 s, Linux uses 30
_RAW, _LLC = 101, 100


@dataclass(slots=True)
class _Datagram:
    started: int
    header: bytes = b""
    total: int = -1
    pieces: dict[int, bytes] = field(default_factory=dict)
    have: int = 0


class Reassembler:
    """Collects fragments and gives whole datagrams; bounded in number, pieces and bytes."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, ...], _Datagram] = OrderedDict()

    def add(self, packets: PacketBatch, index: int) -> tuple[bytes, str]:
        """Take one fragment row: (the whole IP packet or b"", malformed kind or "")."""
        row, frames = packets.rows[index], packets.frames
        key = tuple(int(row[name]) for name in ("src_hi", "src_lo", "dst_hi", "dst_lo", "ip_id", "ip_version", "proto", "tunnel"))
        start, now = int(frames.offset[index]), int(frames.ts[index])
        at, more = (int(row["frag"]) >> 1) * 8, int(row["frag"]) & 1
        size, cap = int(row["payload_len"]), int(row["payload_cap"])
        if cap < size or size == 0 or at + size > _MAX_BYTES or (more and size % 8):
            return b"", "fragment.invalid"
        found = self._open.get(key)
        if found is None or now - found.started > _TIMEOUT:
            found = self._open[key] = _Datagram(started=now)
            self._open.move_to_end(key)
            if len(self._open) > _MAX_DATAGRAMS:
                self._open.popitem(last=False)
        body = start + int(row["payload"])
        if at in found.pieces and len(found.pieces[at]) >= size:
            return b"", ""  # a copy: the first one stands
        if len(found.pieces) >= _MAX_PIECES:
            del self._open[key]
            return b"", "fragment.overflow"
        found.have += size - len(found.pieces.get(at, b""))
        found.pieces[at] = frames.buffer[body : body + size].tobytes()
        if at == 0:
            found.header = frames.buffer[start + int(row["l3"]) : body].tobytes()
        if not more:
            found.total = at + size
        if not found.header or found.total < 0 or found.have < found.total:
            return b"", ""
        whole = _join(found)
        if whole:
            del self._open[key]
        return whole, ""


def _join(found: _Datagram) -> bytes:
    """The IP packet without fragmentation, b"" while a hole remains; of overlapping bytes the first in order stand."""
    body = bytearray()
    for at in sorted(found.pieces):
        if at > len(body):
            return b""
        body += found.pieces[at][len(body) - at :]
    head = bytearray(found.header)
    if head[0] >> 4 == 4:
        if len(head) + found.total > _MAX_BYTES:
            return b""
        head[2:4] = (len(head) + found.total).to_bytes(2, "big")
        head[6:8] = bytes(2)
        head[10:12] = bytes(2)
        head[10:12] = _checksum(bytes(head)).to_bytes(2, "big")
        return bytes(head) + bytes(body[: found.total])
    return _without_fragment_header(head, bytes(body[: found.total]))


def _checksum(head: bytes) -> int:
    total = sum(int.from_bytes(head[i : i + 2], "big") for i in range(0, len(head), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _without_fragment_header(head: bytearray, body: bytes) -> bytes:
    """Take the 8-byte fragment header, the last of the unfragmentable part, out of an IPv6 header chain."""
    at, link = 40, 6
    while at + 8 <= len(head) and head[link] != 44:
        size = (head[at + 1] + 1) * 8
        link, at = at, at + size
    if at + 8 > len(head) or len(head) - 48 + len(body) > _MAX_BYTES:
        return b""
    head[link] = head[at]
    del head[at : at + 8]
    head[4:6] = (len(head) - 40 + len(body)).to_bytes(2, "big")
    return bytes(head) + body


def _wrapped(outer: int, within: int) -> int:
    """Tunnels around a packet, as rows have them: those of the datagram and those found in it, the innermost four."""
    return (outer << 4 * len(f"{within:x}") * bool(within) | within) & 0xFFFF


@dataclass(frozen=True, slots=True)
class Decoding:
    """How frames that are put together are decoded: the settings of `decode`."""

    checksums: bool = False
    tunnels: bool = False
    vxlan_ports: tuple[int, ...] = VXLAN_PORTS

    def of(self, frames: FrameBatch) -> PacketBatch:
        """The rows of a batch."""
        return decode(frames, checksums=self.checksums, tunnels=self.tunnels, vxlan_ports=self.vxlan_ports)


def alone(frames: FrameBatch, index: int, raw: bytes, *, link: int) -> FrameBatch:
    """A batch of one made-up frame of link type `link`, with time, number and file of frame `index`."""
    one, size = slice(index, index + 1), np.array([len(raw)], dtype=np.uint32)
    return FrameBatch(
        buffer=np.frombuffer(raw, dtype=np.uint8),
        offset=np.zeros(1, dtype=np.int64),
        caplen=size,
        origlen=size,
        ts=frames.ts[one],
        link=np.array([link], dtype=np.uint16),
        source=frames.source[one],
        number=frames.number[one],
        files=frames.files,
    )


def subframes(frames: FrameBatch, index: int, rest: int) -> Iterator[bytes]:
    """The packets of an 802.11 aggregate from `rest` in frame `index` on, from LLC; each has the addresses and a length before it."""
    start, end = int(frames.offset[index]), int(frames.offset[index]) + int(frames.caplen[index])
    at = start + rest
    while rest > 0 and at + 14 < end:
        size = int(frames.buffer[at + 12]) << 8 | int(frames.buffer[at + 13])
        yield frames.buffer[at + 14 : min(at + 14 + size, end)].tobytes()
        at += (14 + size + 3) // 4 * 4


def _single(packets: PacketBatch, index: int, raw: bytes, how: Decoding, *, link: int = _RAW) -> PacketBatch:
    frame = alone(packets.frames, index, raw, link=link)
    whole = how.of(frame)
    row, before = whole.rows[0], packets.rows[index]
    if row["vlan"] < 0:
        row["vlan"] = before["vlan"]
    row["tunnel"] = _wrapped(int(before["tunnel" if link == _RAW else "around"]), int(row["tunnel"]))
    return PacketBatch(frames=replace(frame, link=packets.frames.link[index : index + 1]), rows=whole.rows)


def segments(
    packets: PacketBatch, fragments: Reassembler, counts: CountsBuilder, how: Decoding | None = None
) -> Iterator[tuple[PacketBatch, int, int]]:
    """A batch as runs for the flow table: (packets, start, stop), whole datagrams between the rows that completed them.

    A datagram's last fragment becomes the flow's packet, the others stay non-flow packets. The packets of an 802.11 aggregate follow
    its first one; a frame is counted once however many it has.
    """
    how = how if how is not None else Decoding()
    start = 0
    rows = packets.rows
    for index in np.flatnonzero((rows["usable"] == FRAGMENT) | (rows["rest"] > 0)).tolist():
        yield packets, start, index + 1
        start = index + 1
        whole = _whole(packets, index, fragments, counts, how) if rows["usable"][index] == FRAGMENT else None
        if whole is not None:
            counts.non_flow -= 1
            yield whole, 0, 1
        flowless = int(rows["usable"][index]) != FLOW_PACKET and whole is None
        for raw in subframes(packets.frames, index, int(rows["rest"][index])):
            one = _single(packets, index, raw, how, link=_LLC)
            piece = int(one.rows["usable"][0]) == FRAGMENT
            found = _whole(one, 0, fragments, counts, how) if piece else (one if int(one.rows["usable"][0]) == FLOW_PACKET else None)
            if found is not None:
                counts.non_flow -= flowless
                counts.aggregated += not flowless
                flowless = False
                yield found, 0, 1
    yield packets, start, len(packets)


def _whole(packets: PacketBatch, index: int, fragments: Reassembler, counts: CountsBuilder, how: Decoding) -> PacketBatch | None:
    """The datagram that fragment `index` completes, if a flow's packet comes of it."""
    for _ in range(MAX_TUNNELS + 1):  # what a datagram carried may be a piece of another one
        raw, problem = fragments.add(packets, index)
        counts.malformed.update([problem] if problem else [])
        if not raw:
            return None
        packets, index = _single(packets, index, raw, how), 0
        if int(packets.rows["usable"][0]) != FRAGMENT:
            return packets if int(packets.rows["usable"][0]) == FLOW_PACKET else None
    return None
