"""Flows whose facts are the same: their keys, and the facts kept by key."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from trafficllm.capture.kernels.canonical.keys import HEAD, write_keys
from trafficllm.core.types import I64, U8, Facts, FlowBatch

_UDP = 17


class Keys(NamedTuple):
    """Keys of some flows: the bytes of flow i's are `raw[starts[i] : ends[i]]`, and `first[i]` is the first flow that has it."""

    raw: U8
    starts: I64
    ends: I64
    first: I64


class FactsCache:
    """Facts by the key of their flow, bounded: when `most` keys or `most_bytes` of them are new, what was not asked for since then goes.

    Facts are shared between flows, so nobody may change their fields.
    """

    def __init__(self, *, most: int = 1 << 14, most_bytes: int = 8 << 20) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._new: dict[bytes, Facts] = {}
        self._old: dict[bytes, Facts] = {}
        self._bytes = 0
        self.seed = secrets.randbits(31)
        """Of the hash that finds equal keys within a batch: crafted collisions must not be possible."""

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    @property
    def lookup(self) -> Callable[[bytes], Facts | None]:
        """A faster `get` until the next `put` or `get`: it gives None for more of the keys."""
        return self._new.get

    def get(self, key: bytes) -> Facts | None:
        """The facts of a key, None where they are not kept."""
        facts = self._new.get(key)
        if facts is None and (facts := self._old.pop(key, None)) is not None:
            self.put(key, facts)
        return facts

    def put(self, key: bytes, facts: Facts) -> None:
        """Keep the facts of a key."""
        if len(self._new) >= self._most or self._bytes + len(key) > self._most_bytes:
            self._old, self._new, self._bytes = self._new, {}, 0
        self._new[key] = facts
        self._bytes += len(key)


class Ports:
    """Ports that some parser of TCP or of UDP asks for; to the facts of a flow all others are alike. `dns`: those of DNS."""

    def __init__(self, tcp: Iterable[int], udp: Iterable[int], dns: Iterable[int]) -> None:
        self._asked, self._dns = np.zeros((2, 1 << 16), dtype=np.int64), np.zeros(1 << 16, dtype=bool)
        for asked, ports in zip(self._asked, (tcp, udp), strict=True):
            for port in ports:
                asked[port] = port
        self._dns[list(dns)] = True

    def numbers(self, batch: FlowBatch, rows: I64) -> I64:
        """Transport, both ports and whether one is DNS's, [n, 4], as `write_keys` takes them."""
        proto, orig, resp = batch.proto[rows].astype(np.int64), batch.orig_p[rows], batch.resp_p[rows]
        udp, dns = (proto == _UDP).astype(np.int64), self._dns[orig] | self._dns[resp]
        return np.stack([proto, self._asked[udp, orig], self._asked[udp, resp], dns.astype(np.int64)], axis=1)


def keys_of(batch: FlowBatch, rows: I64, ports: Ports, seed: int) -> Keys:
    """Keys of these flows of a batch."""
    edges = np.zeros((len(rows), 6), dtype=np.int64)
    edges[:, :3] = batch.payload_ptr[rows]
    if len(batch.beyond):
        edges[:, 3:] = batch.beyond_ptr[rows]
    sizes = edges[:, 2] - edges[:, 0] + edges[:, 5] - edges[:, 3]
    room = np.cumsum((sizes + HEAD + 7) >> 3 << 3)
    places = np.zeros((len(rows), 4), dtype=np.int64)
    places[1:, 0] = room[:-1]
    raw, zeroed = (np.empty(int(room[-1]) if len(rows) else 0, dtype=np.uint8) for _ in range(2))
    slots = np.full(1 << (2 * len(rows)).bit_length(), -1, dtype=np.int64)
    write_keys(ports.numbers(batch, rows), edges, _bytes(batch.payload), _bytes(batch.beyond), places, raw, zeroed, slots, seed)
    return Keys(raw, places[:, 0], places[:, 1], places[:, 2])


def _bytes(data: U8) -> U8:
    """As the kernel was compiled for: another type would be compiled anew."""
    view = np.ascontiguousarray(data).view()
    view.flags.writeable = False
    return view
