"""Is a capture's TCP possible? An independent look at flags, sequence and acknowledgement numbers (RFC 9293 section 3).

What a lossy capture explains (a hole, an acknowledgement of data not captured) is counted as unseen, not held against it;
a violation is what no sender does: impossible flags, data after FIN or RST, numbers outside every window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trafficllm.capture.flows.packets import FLOW_PACKET, PacketBatch

FIN, SYN, RST, ACK = 1, 2, 4, 16
MAX_CONNECTIONS = 1 << 17
"""Connections remembered at once; the one longest known goes first."""
MAX_LISTED = 1000
"""Violations listed; further ones are only counted."""
_FAR = 1 << 30
"""The largest window, 2**30 bytes (RFC 7323 section 2.3): no honest number is further off."""
_COLUMNS = ("src_hi", "src_lo", "dst_hi", "dst_lo", "sport", "dport", "seq", "ack", "flags", "payload_len", "ip_version", "tunnel")


@dataclass(slots=True)
class _Side:
    """One sender: next expected number (-1: nothing seen), its SYN's number, where its FIN ended, whether it reset."""

    nxt: int = -1
    isn: int = -1
    fin: int = -1
    reset: bool = False


@dataclass(slots=True)
class _Segment:
    seq: int
    ack: int
    flags: int
    size: int

    @property
    def end(self) -> int:
        """Number after the segment: SYN and FIN count one each."""
        return (self.seq + self.size + bool(self.flags & SYN) + bool(self.flags & FIN)) & 0xFFFFFFFF


@dataclass(slots=True)
class TcpCheck:
    """Feed decoded batches in file order; read `violations` ("FILE frame N: what"), `found` and `unseen`."""

    violations: list[str] = field(default_factory=list)
    found: int = 0
    unseen: int = 0
    _open: dict[tuple[int, ...], tuple[_Side, _Side]] = field(default_factory=dict)

    def add(self, packets: PacketBatch) -> None:
        """Check the TCP segments of one batch; fragments and broken headers are left out."""
        rows, frames = packets.rows, packets.frames
        picked = np.flatnonzero((rows["proto"] == 6) & (rows["usable"] == FLOW_PACKET) & (rows["error"] == 0))
        columns = [rows[name][picked].tolist() for name in _COLUMNS]
        places = zip(frames.source[picked].tolist(), frames.number[picked].tolist(), strict=True)
        for place, values in zip(places, zip(*columns, strict=True), strict=True):
            *ends, seq, ack, flags, size, version, chain = values
            one, other = (ends[0], ends[1], ends[4]), (ends[2], ends[3], ends[5])
            turned = one > other
            key = (place[0], version, chain, *(other + one if turned else one + other))
            sides = self._sides(key)
            for what in self._segment(sides[turned], sides[not turned], _Segment(seq, ack, flags, size)):
                self._report(frames.files, place, what)

    def _sides(self, key: tuple[int, ...]) -> tuple[_Side, _Side]:
        found = self._open.get(key)
        if found is None:
            found = self._open[key] = (_Side(), _Side())
            if len(self._open) > MAX_CONNECTIONS:
                del self._open[next(iter(self._open))]
        return found

    def _report(self, files: tuple[str, ...], place: tuple[int, int], what: str) -> None:
        self.found += 1
        if len(self.violations) < MAX_LISTED:
            name = f"{files[place[0]]} " if place[0] < len(files) else ""
            self.violations.append(f"{name}frame {place[1]}: {what}")

    def _segment(self, own: _Side, peer: _Side, segment: _Segment) -> list[str]:
        flags = segment.flags
        if flags & SYN and flags & (FIN | RST):
            return ["SYN together with FIN or RST"]
        if not flags & (SYN | RST | ACK):
            return ["neither SYN, RST nor ACK is set"]
        if flags & SYN:
            self._begin(own, peer, segment)
        problems = [] if flags & RST else self._sequence(own, segment)
        if flags & ACK and not flags & RST:
            problems += self._acknowledgement(peer, segment)
        if flags & RST:
            own.reset = True
        return problems

    def _begin(self, own: _Side, peer: _Side, segment: _Segment) -> None:
        """A SYN with a new number starts another connection on the same ports."""
        if own.isn == segment.seq:
            own.reset = False
            return
        if not segment.flags & ACK:
            peer.nxt, peer.isn, peer.fin, peer.reset = -1, -1, -1, False
        own.nxt, own.isn, own.fin, own.reset = segment.seq, segment.seq, -1, False

    def _sequence(self, own: _Side, segment: _Segment) -> list[str]:
        if own.nxt < 0:
            own.nxt = segment.seq
        ahead = _distance(own.nxt, segment.seq)
        new = _distance(own.nxt, segment.end)
        problems = []
        if abs(ahead) > _FAR:
            return ["sequence number outside every window"]
        if segment.size and own.reset and new > 0:
            problems.append("data after its sender's RST")
        if segment.size and own.fin >= 0 and _distance(own.fin, segment.end) > 0:
            problems.append("data after its sender's FIN")
        self.unseen += ahead > 0
        if new > 0:
            own.nxt = segment.end
        if segment.flags & FIN and own.fin < 0:
            own.fin = segment.end
        return problems

    def _acknowledgement(self, peer: _Side, segment: _Segment) -> list[str]:
        if peer.nxt < 0:
            peer.nxt = segment.ack
        over = _distance(peer.nxt, segment.ack)
        if segment.flags & SYN and peer.isn >= 0 and over > 0:
            return ["SYN-ACK acknowledges what was not sent"]
        if abs(over) > _FAR:
            return ["acknowledgement outside every window"]
        if over > 0:
            self.unseen += 1
            peer.nxt = segment.ack
        return []


def _distance(start: int, end: int) -> int:
    """`end - start` on the 32-bit circle, in [-2**31, 2**31)."""
    return (end - start + 0x80000000 & 0xFFFFFFFF) - 0x80000000
