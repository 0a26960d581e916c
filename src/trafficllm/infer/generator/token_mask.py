"""Which tokens may follow while a record is written: the codec's grammar lifted from units to tokens of several units."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.core.errors import ArtifactError
from trafficllm.records.codec import codec, units
from trafficllm.records.codec.grammar import Grammar, State

TokenIds = npt.NDArray[np.int64]

_HEAD = frozenset({"proto", "ip", "ports", "port", "octets", "body"})
_LATE = frozenset([*codec.SERVICE_UNITS.values(), *codec.FACT_UNITS.values(), *codec.PAYLOAD_UNITS, codec.END, codec.PROTO])
_PROTOS = frozenset(codec.PROTO_UNITS.values())
_FLAGS, _, _SIZE, _, _, _, _DONE = range(7)
"""Stages of a packet in the grammar: what may still follow (flags, extra flags, size, window, TTL, time)."""
_NEXT = _LATE | frozenset(units.DIR_UNITS)
_PAUSES, _TTLS, _WINDOWS, _FLAG = (frozenset(row) for row in (units.IAT_UNITS, units.TTL_UNITS, units.WINDOW_UNITS, units.FLAG_UNITS))
_OPENED = frozenset(char for bits, char in enumerate(units.FLAG_UNITS) if not bits & 2)
"""Flags without SYN."""
_RESETS = frozenset(char for bits, char in enumerate(units.FLAG_UNITS) if bits & 4)
_TIMEOUT = {"tcp": 300_000_000_000, "other": 60_000_000_000}
"""ns after which readers take the next packet for another flow (Zeek's defaults, ours too)."""
_LONG = {
    kind: frozenset(char for k, char in enumerate(units.IAT_UNITS) if (*units.IAT_BOUNDS, 1 << 62)[k + 1] > limit)
    for kind, limit in _TIMEOUT.items()
}


class TokenMask:
    """Steps and masks over token ids, for flows that can be compiled: a known transport and at least one packet.

    `vocabulary` maps token surfaces to ids, as `tokenizer.get_vocab()` gives it; only tokens made of codec units count.
    Raises ArtifactError where a unit has no token of its own, since then some records could not be written.
    """

    def __init__(self, vocabulary: Mapping[str, int], grammar: Grammar) -> None:
        units_of_codec = frozenset(units.UNITS)
        self.surfaces = {token: text for text, token in vocabulary.items() if text and units_of_codec.issuperset(text)}
        missing = len(units_of_codec - set(self.surfaces.values()))
        if missing:
            raise ArtifactError(
                "artifact.tokenizer",
                f"{missing} codec units have no token of their own",
                hint="make a traffic base first: trafficllm tokenizer extend",
            )
        self.grammar = grammar
        self._trie: dict[Any, Any] = {}
        for token, text in sorted(self.surfaces.items()):
            node = self._trie
            for char in text:
                node = node.setdefault(char, {})
            node[""] = token
        self.least, self.begun = 0, False
        self.allowed = lru_cache(maxsize=4096)(self._allowed)
        self._exact: dict[tuple[int, bool], TokenMask] = {}

    def exactly(self, packets: int, *, begun: bool = False) -> TokenMask:
        """The same for whole records of so many packets, no fewer and no more; 0 is any number.

        Whole: every packet says its flags, size and time, the first of each direction its window and TTL, as every record does that
        a generator learns from; and nothing would make readers see two flows: no long pause, no SYN once a packet had none (`begun`).
        """
        if not packets:
            return self
        if (packets, begun) not in self._exact:
            other = copy.copy(self)
            other.grammar, other.least, other.begun = Grammar(self.grammar.options.model_copy(update={"packets": packets})), packets, begun
            other.allowed = lru_cache(maxsize=4096)(other._allowed)
            self._exact[packets, begun] = other
        return self._exact[packets, begun]

    def after(self, token: int) -> TokenMask:
        """The mask that holds once a token is written: see `exactly`."""
        if self.least and not self.begun and not _OPENED.isdisjoint(self.surfaces[token]):
            return self.exactly(self.least, begun=True)
        return self

    def start(self) -> State:
        """The state before the first token."""
        return self.grammar.start()

    def step(self, state: State, token: int) -> State | None:
        """The state after a token, or None where it cannot follow."""
        now: State | None = state
        for char in self.surfaces.get(token, "\0"):
            now = self._move(now, char) if now is not None else None
        return now

    def _move(self, state: State, char: str) -> State | None:
        """One unit of the grammar, less what no flow can be compiled from."""
        if state[0] == "proto" and char not in _PROTOS:
            return None
        if state[0] in _HEAD and char in _LATE:
            return None
        if self.least and state[0] == "packet" and not self._whole(char, *state[1:]):
            return None
        return self.grammar.step(state, char)

    def _whole(self, char: str, n: Any, kind: Any, stage: Any, at: Any) -> bool:
        """Whether a unit leaves nothing out of the packet under way, nor ends the packets too early."""
        if char in _NEXT:
            timed = stage == _DONE if n > 1 else stage > _SIZE
            return bool(timed and self._headed(kind, at) and (char not in _LATE or n >= self.least))
        if char in _PAUSES:
            return char not in _LONG["tcp" if kind == "tcp" else "other"] and stage > _SIZE and self._headed(kind, at)
        if char in _TTLS:
            return bool(stage > _SIZE and (kind != "tcp" or at[1][at[0]] >= 0))
        if char in _WINDOWS:
            return bool(stage > _SIZE)
        if kind == "tcp" and stage == _FLAGS:
            # Nothing but a second RST follows a RST: so in 1,060 of the 1,068 training flows that have one (USTC-TFC 2016).
            return char in (_OPENED if self.begun else _FLAG) and (char not in _RESETS or n >= self.least - 1)
        return True

    @staticmethod
    def _headed(kind: str, at: Any) -> bool:
        way, windows, ttls = at
        return bool(ttls[way] >= 0 and (kind != "tcp" or windows[way] >= 0))

    def _allowed(self, state: State) -> TokenIds:
        """Sorted ids of the tokens that may follow; never empty before the record has ended."""
        out: list[int] = []
        stack: list[tuple[State, dict[Any, Any]]] = [(state, self._trie)]
        while stack:
            now, node = stack.pop()
            moves = self.grammar.allowed(now)
            small = node.keys() & moves if len(node) > len(moves) else [char for char in node if char in moves]
            for char in small:
                after = self._move(now, char)
                if after is None:
                    continue
                child = node[char]
                if "" in child:
                    out.append(child[""])
                if len(child) > ("" in child):
                    stack.append((after, child))
        return np.asarray(sorted(out), np.int64)
