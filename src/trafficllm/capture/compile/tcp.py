"""TCP side of the compiler: any list of actions becomes a legal one, then numbered segments (RFC 9293)."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trafficllm.capture.compile.headers import IP_HEADER, MTU, Packet
from trafficllm.core.types import ORIG, RESP, Action

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
KEPT_FLAGS = 0xE0 | PSH
"""Flags a plan may set on any segment: PSH, URG and the ECN bits; the rest belongs to the compiler."""
REPAIR_GAP = 1_000_000
"""ns before a segment the plan forgot (1 ms: a local round trip)."""
SEGMENT_GAP = 12_000
"""ns between segments of one send: 1500 bytes take 12 us at 1 Gbit/s."""
_HEADER = struct.Struct("!HHIIBBHHH")


class Legaliser:
    """Walks actions through the connection's state and keeps, completes or drops each: the result is always legal.

    States: fresh (nothing seen: a capture may begin mid-stream), syn, synack, established, reset, closed.
    `counts` gains one key a kind of repair.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self.out: list[Action] = []
        self._carry = 0
        self._begin()

    def _begin(self) -> None:
        self.state = "fresh"
        self._fin = [False, False]
        self._sent = [False, False]

    def run(self, actions: Sequence[Action]) -> list[Action]:
        """Legal actions of `actions`, never empty.

        An `open` after the connection's end comes out as `reopen`: new numbers, new streams.
        """
        for action in actions:
            self._step(action)
        if not self.out:
            self.counts["plan.empty"] += 1
            self._emit(Action("open"))
        return self.out

    def _step(self, action: Action) -> None:
        act = getattr(self, f"_on_{action.op}", None)
        if act is None:
            self._drop(action, "op.unknown")
        else:
            act(action)

    def _emit(self, action: Action) -> None:
        self.out.append(replace(action, gap=action.gap + self._carry))
        self._carry = 0
        self._sent[action.dir] = self._sent[action.dir] or action.op != "ack"

    def _drop(self, action: Action, why: str) -> None:
        self.counts[why] += 1
        self._carry += action.gap

    def _on_wait(self, action: Action) -> None:
        self._carry += action.gap

    def _on_open(self, action: Action) -> None:
        if action.size:
            self.counts["open.payload"] += 1
            action = replace(action, size=0, payload=b"")
        over = self.state in {"reset", "closed"}
        if self.state == "established" or (over and action.dir == RESP):
            self._drop(action, "open.again")
            return
        if over:
            self._begin()
            action = replace(action, op="reopen")
        self.state = "syn" if action.dir == ORIG and self.state in {"fresh", "syn"} else "synack"
        self._emit(action)

    def _establish(self, way: int) -> None:
        """Complete the handshake as far as a segment from `way` needs it."""
        if self.state == "syn":
            self.counts["handshake.completed"] += 1
            self._emit(Action("open", RESP, gap=REPAIR_GAP))
            self.state = "synack"
        if self.state == "synack" and way == RESP:
            self.counts["handshake.completed"] += 1
            self._emit(Action("ack", ORIG, gap=REPAIR_GAP))
        if self.state in {"fresh", "synack"}:
            self.state = "established"

    def _on_send(self, action: Action) -> None:
        if self.state in {"reset", "closed"} or self._fin[action.dir]:
            self._drop(action, "send.after_close")
            return
        self._establish(action.dir)
        self._emit(action if action.size else replace(action, op="ack"))

    def _on_datagram(self, action: Action) -> None:
        self.counts["op.transport"] += 1
        self._on_send(replace(action, op="send"))

    _on_icmp = _on_datagram

    def _on_ack(self, action: Action) -> None:
        if self.state == "reset":
            self._drop(action, "ack.after_reset")
            return
        self._establish(action.dir)
        self._emit(replace(action, size=0, payload=b""))

    def _on_close(self, action: Action) -> None:
        if self.state == "reset":
            self._drop(action, "close.after_reset")
            return
        if self._fin[action.dir]:
            self._emit(replace(action, op="retransmit"))
            return
        self._establish(action.dir)
        self._fin[action.dir] = True
        if all(self._fin):
            self.state = "closed"
        self._emit(action)

    def _on_reset(self, action: Action) -> None:
        if action.size:
            self.counts["reset.payload"] += 1
        if self.state == "syn":
            flags = action.flags | ACK if action.dir == RESP else action.flags & ~ACK
            action = replace(action, flags=flags)
        self.state = "reset"
        self._emit(replace(action, size=0, payload=b""))

    def _on_retransmit(self, action: Action) -> None:
        if self.state == "reset":
            self._drop(action, "retransmit.after_reset")
        elif self._sent[action.dir]:
            self._emit(replace(action, size=0, payload=b""))
        else:
            self.counts["retransmit.nothing"] += 1
            self._on_send(replace(action, op="send"))


@dataclass(slots=True)
class _End:
    """What one side has sent: next sequence number, last segment that took sequence space (seq, flags, payload),
    window it advertised last."""

    port: int
    isn: int
    nxt: int
    window: int
    ttl: int
    last: tuple[int, int, bytes] = (0, 0, b"")
    shown: int = -1


class Numberer:
    """Turns legal actions and their contents into TCP segments with right sequence and acknowledgement numbers."""

    def __init__(self, version: int, ports: tuple[int, int], rng: random.Random, *, mtu: int = MTU) -> None:
        self.mss = mtu - IP_HEADER[version] - 20
        self._rng = rng
        ttls = (64, rng.randrange(44, 60))
        self._ends = [self._end(port, ttl) for port, ttl in zip(ports, ttls, strict=True)]
        self._now = 0
        self._known = [False, False]
        self.packets: list[Packet] = []

    def _end(self, port: int, ttl: int) -> _End:
        isn = self._rng.randrange(1 << 32)
        return _End(port, isn, isn, self._rng.choice((501, 502, 1024, 2053, 8192, 64240, 65535)), ttl)

    def run(self, actions: Sequence[Action], contents: Sequence[bytes]) -> list[Packet]:
        """Packets of legal `actions`; `contents[i]` holds the payload of action i, of any length."""
        fresh = actions[0].op != "open"
        self._known = [fresh, fresh]
        for action, content in zip(actions, contents, strict=True):
            self._now += action.gap
            if action.op == "reopen":
                self._renumber()
            self._act(action, content)
        return self.packets

    def _renumber(self) -> None:
        """A new connection on the same ports: refused ones repeat their number, others move on (RFC 6191)."""
        answered = self._known[RESP]
        self._known = [False, False]
        for end in self._ends:
            end.isn = (end.nxt + 64_000 + self._rng.randrange(64_000)) & 0xFFFFFFFF if answered else end.isn
            end.nxt, end.last = end.isn, (0, 0, b"")

    def _act(self, action: Action, content: bytes) -> None:
        end = self._ends[action.dir]
        extra = action.flags & KEPT_FLAGS
        if action.op in {"open", "reopen"}:
            self._open(action, end)
        elif action.op == "reset":
            # RFC 9293 section 3.10.7.1: a port that never answered refuses with sequence number 0
            refused = action.dir == RESP and not self._known[RESP]
            self._put(action, 0 if refused else end.nxt, RST | action.flags & ACK, b"")
        elif action.op == "retransmit":
            seq, flags, payload = end.last
            if len(payload) == 1 and self._ends[1 - action.dir].shown == 0:
                # one byte against a closed window is read as a probe, not as a repetition
                seq, flags, payload = end.nxt, ACK, b""
            self._put(action, seq, flags, payload)
        elif action.op == "ack":
            self._put(action, end.nxt, ACK | extra, b"")
        else:
            self._data(action, end, content, extra)

    def _open(self, action: Action, end: _End) -> None:
        flags = SYN | (ACK if action.dir == RESP else 0) | action.flags & 0xC0
        if action.dir == RESP and not self._known[ORIG]:
            self._ends[ORIG].nxt = (self._ends[ORIG].isn + 1) & 0xFFFFFFFF
            self._known[ORIG] = True
        self._known[action.dir] = True
        end.nxt = (end.isn + 1) & 0xFFFFFFFF
        end.last = (end.isn, flags, b"")
        self._put(action, end.isn, flags, b"")

    def _data(self, action: Action, end: _End, content: bytes, extra: int) -> None:
        """One or more segments of at most MSS bytes; PSH and FIN ride on the last one."""
        pieces = [content[at : at + self.mss] for at in range(0, len(content), self.mss)] or [b""]
        for number, piece in enumerate(pieces, 1):
            final = number == len(pieces)
            flags = ACK | (extra if final else extra & 0xC0)
            if final and action.op == "close":
                flags |= FIN
            end.last = (end.nxt, flags, piece)
            self._put(action, end.nxt, flags, piece)
            end.nxt = (end.nxt + len(piece) + bool(flags & FIN)) & 0xFFFFFFFF
            self._now += 0 if final else SEGMENT_GAP

    def _put(self, action: Action, seq: int, flags: int, payload: bytes) -> None:
        end, peer = self._ends[action.dir], self._ends[1 - action.dir]
        ack = peer.nxt if flags & ACK else 0
        options = _syn_options(self.mss) if flags & SYN else b""
        window = action.window if action.window >= 0 else (64240 if flags & SYN else 0 if flags & RST else end.window)
        end.shown = min(window, 65535)
        urgent = len(payload) if flags & URG else 0
        header = _HEADER.pack(end.port, peer.port, seq, ack, (20 + len(options)) << 2, flags, end.shown, 0, urgent)
        self.packets.append(Packet(self._now, action.dir, action.ttl if action.ttl > 0 else end.ttl, header + options + payload))


def _syn_options(mss: int) -> bytes:
    """MSS, SACK permitted, NOP, window scale 7, two NOPs (RFC 9293 section 3.2, RFC 2018, RFC 7323)."""
    return struct.pack("!BBH", 2, 4, mss) + bytes((4, 2, 1, 3, 3, 7, 1, 1))
