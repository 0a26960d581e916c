"""The language `encode` writes for flows, as an automaton: the generator samples under it, unit by unit.

States are small hashable tuples, so what is allowed next is computed once a state. The automaton accepts
exactly the strings s with `encode(decode(s)) == s` within the codec's limits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from trafficllm.core.settings import CodecOptions
from trafficllm.records.codec import codec as c
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import DEFAULT

State: TypeAlias = tuple[object, ...]
Moves: TypeAlias = dict[str, State]

_FACT_ROWS = [(c.FACT_UNITS[name], form) for name, (form, _) in u.FACTS.items()]
_WIDTH = {**u.FACT_WIDTH, "str": u.FACT_TEXT, "set": u.FACT_SET}
_PLAIN = range(128)
_FLAGS, _EXTRA, _SIZE, _WINDOW, _TTL, _IAT, _DONE = range(7)


class Grammar:
    """Walks records of kind "flow" with at most `options.packets` packets and `options.payload` units.

    >>> g = Grammar()
    >>> state = g.start()
    >>> for char in c.encode(c.decode(c.KIND_UNITS["flow"] + c.END)):
    ...     state = g.step(state, char)
    >>> g.accepts(state)
    True
    """

    def __init__(self, options: CodecOptions = DEFAULT) -> None:
        self.options = options
        self._moves = lru_cache(maxsize=8192)(self._compute)
        self._allowed = lru_cache(maxsize=8192)(lambda state: frozenset(self._moves(state)))

    def start(self) -> State:
        """The state before the first unit."""
        return ("start",)

    def step(self, state: State, unit: str) -> State | None:
        """The state after `unit`, or None where no record goes on so."""
        return self._moves(state).get(unit)

    def run(self, state: State, units: str) -> State | None:
        """The state after a token of several units, or None."""
        now: State | None = state
        for char in units:
            if now is None:
                return None
            now = self._moves(now).get(char)
        return now

    def allowed(self, state: State) -> frozenset[str]:
        """The units that may follow."""
        return self._allowed(state)

    def accepts(self, state: State | None) -> bool:
        """Whether a record may end here (after the unit "end")."""
        return state == ("done",)

    def _compute(self, state: State) -> Moves:
        handler = getattr(self, f"_on_{state[0]}")
        moves: Moves = handler(*state[1:])
        return moves

    # Head: protocol, IP version, ports or ICMP type, each optional, in this order.

    def _on_start(self) -> Moves:
        return {c.KIND_UNITS["flow"]: ("proto",)}

    def _on_proto(self) -> Moves:
        moves: Moves = {}
        for number, char in c.PROTO_UNITS.items():
            moves[char] = ("ip", "tcp" if number == 6 else "icmp" if number in (1, 58) else "other")
        moves[c.PROTO] = ("number",)
        return moves | self._on_ip("hidden")

    def _on_number(self) -> Moves:
        return {u.BYTE_UNITS[n]: ("ip", "other") for n in range(256) if n not in c.PROTO_UNITS}

    def _on_ip(self, kind: str) -> Moves:
        return dict.fromkeys(c.IP_UNITS.values(), ("ports", kind)) | self._on_ports(kind)

    def _on_ports(self, kind: str) -> Moves:
        if kind == "icmp":
            return {c.ICMP_MARK: ("octets", 2, kind)} | self._packet(0, kind, (), ())
        moves: Moves = {c.PORTS: ("octets", 4, kind)}
        moves |= dict.fromkeys(c.PORT_UNITS[0].values(), ("port", kind))
        return moves | self._on_port(kind)

    def _on_port(self, kind: str) -> Moves:
        return dict.fromkeys(c.PORT_UNITS[1].values(), ("body", kind)) | self._on_body(kind)

    def _on_octets(self, left: int, kind: str) -> Moves:
        after: State = ("octets", left - 1, kind) if left > 1 else ("body", kind)
        return dict.fromkeys(u.BYTE_UNITS, after)

    def _on_body(self, kind: str) -> Moves:
        return self._packet(0, kind, (-1, -1), (-1, -1))

    # Packets: `n` written, windows and ttls last seen each way.

    def _packet(self, n: int, kind: str, windows: tuple[int, ...], ttls: tuple[int, ...]) -> Moves:
        moves = self._facts(-1)
        if n < self.options.packets:
            windows, ttls = windows or (-1, -1), ttls or (-1, -1)
            for d, char in enumerate(u.DIR_UNITS):
                moves[char] = ("packet", n + 1, kind, _FLAGS, (d, windows, ttls))
        return moves

    def _on_packet(self, n: int, kind: str, stage: int, at: tuple[int, tuple[int, int], tuple[int, int]]) -> Moves:
        d, windows, ttls = at
        moves = self._packet(n, kind, windows, ttls)

        def to(after: int, w: tuple[int, int] = windows, t: tuple[int, int] = ttls) -> State:
            return ("packet", n, kind, after, (d, w, t))

        tcp = kind in ("tcp", "hidden")
        if stage == _FLAGS and tcp:
            moves |= dict.fromkeys(u.FLAG_UNITS, to(_EXTRA))
        if stage == _EXTRA:
            moves |= dict.fromkeys(u.EXTRA_UNITS.values(), to(_SIZE))
        if stage <= _SIZE:
            moves[u.SIZE_ZERO] = to(_WINDOW)
            moves |= dict.fromkeys(u.SIZE_OVER, to(_WINDOW))
            for high, char in enumerate(u.SIZE_HIGH):
                moves[char] = ("low", high == 0, to(_WINDOW))
        if stage <= _WINDOW and tcp:
            for k, char in enumerate(u.WINDOW_UNITS):
                if k != windows[d]:
                    moves[char] = to(_TTL, w=_put(windows, d, k))
        if stage <= _TTL:
            for k, char in enumerate(u.TTL_UNITS):
                if k != ttls[d]:
                    moves[char] = to(_IAT, t=_put(ttls, d, k))
        if stage <= _IAT and n > 1:
            moves |= dict.fromkeys(u.IAT_UNITS, to(_DONE))
        return moves

    def _on_low(self, zero: bool, after: State) -> Moves:
        return dict.fromkeys(u.SIZE_LOW[1:] if zero else u.SIZE_LOW, after)

    # Facts: -1 the service, then units.FACTS in order.

    def _facts(self, k: int) -> Moves:
        moves = self._payload(0)
        if k < 0:
            moves |= dict.fromkeys(c.SERVICE_UNITS.values(), ("facts", 0))
        for at in range(max(k, 0), len(_FACT_ROWS)):
            char, form = _FACT_ROWS[at]
            moves[char] = ("value", at, _WIDTH[form], -1)
        return moves

    def _on_facts(self, k: int) -> Moves:
        return self._facts(k)

    def _on_value(self, k: int, left: int, last: int) -> Moves:
        """`last` is the byte before: -1 at the start, 0 where it does not matter; numbers of a set do not fall."""
        form = _FACT_ROWS[k][1]
        moves: Moves = {}
        for b in _PLAIN if form == "str" else range(max(last, 0) if form == "set" else 0, 256):
            moves[u.BYTE_UNITS[b]] = ("value", k, left - 1, b if form == "set" else 0) if left > 1 else ("facts", k + 1)
        return moves | self._facts(k + 1) if form in {"str", "set"} and last >= 0 else moves

    # Payload: `left` units of a direction; a run never follows a run.

    def _payload(self, direction: int) -> Moves:
        moves: Moves = {c.END: ("done",)}
        for d in range(direction, 2):
            if self.options.payload[d] > 0:
                moves[c.PAYLOAD_UNITS[d]] = ("bytes", d, self.options.payload[d], True, False)
        return moves

    def _on_bytes(self, d: int, left: int, first: bool, after_run: bool) -> Moves:
        moves: Moves = {} if first else self._payload(d + 1)
        if left > 0:
            moves |= dict.fromkeys(u.BYTE_UNITS, ("bytes", d, left - 1, False, False))
        if left > 1 and not after_run:
            moves[c.MASK] = ("run", d, left - 2)
        return moves

    def _on_run(self, d: int, left: int) -> Moves:
        return dict.fromkeys(u.RUN_UNITS, ("bytes", d, left, False, True))

    def _on_done(self) -> Moves:
        return {}


def _put(pair: tuple[int, int], at: int, value: int) -> tuple[int, int]:
    return (value, pair[1]) if at == 0 else (pair[0], value)
