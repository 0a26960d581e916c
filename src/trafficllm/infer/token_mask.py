"""Which tokens may follow while a record is written: the codec's grammar lifted from units to tokens of several units."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trafficllm.core.errors import ArtifactError
from trafficllm.records import codec, units
from trafficllm.records.grammar import Grammar, State

TokenIds = npt.NDArray[np.int64]

_HEAD = frozenset({"proto", "ip", "ports", "port", "octets", "body"})
_LATE = frozenset(
    [*codec.SERVICE_UNITS.values(), *codec.FACT_UNITS.values(), *codec.PAYLOAD_UNITS, codec.END, codec.PROTO]
)
_PROTOS = frozenset(codec.PROTO_UNITS.values())


class TokenMask:
    """Steps and masks over token ids, for flows that can be compiled: a known transport and at least one packet.

    `vocabulary` maps token surfaces to ids, as `tokenizer.get_vocab()` gives it; only tokens made of codec units count.
    Raises ArtifactError where a unit has no token of its own, since then some records could not be written.
    """

    def __init__(self, vocabulary: Mapping[str, int], grammar: Grammar) -> None:
        known = frozenset(units.UNITS)
        self.surfaces = {token: text for text, token in vocabulary.items() if text and known.issuperset(text)}
        missing = len(known - set(self.surfaces.values()))
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
        self.allowed = lru_cache(maxsize=4096)(self._allowed)

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
        return self.grammar.step(state, char)

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
