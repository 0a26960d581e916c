"""The shared beginning of a task's prompts, run once: its key-value cache is copied for each batch."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trafficllm.model.base.llama import KeyValues
from trafficllm.model.tuning.collate import common

if TYPE_CHECKING:
    from trafficllm.infer.engine.forward import Cache

MIN_PREFIX = 8
"""Below this many shared tokens copying the cache costs more than it saves."""

Key = tuple[str, tuple[int, ...]]


def shared_prefix(ids: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Longest common beginning that leaves each prompt at least one token of its own; () when too short to pay.

    >>> shared_prefix([[1, 2, 3], [1, 2, 4]])
    ()
    """
    if not ids:
        return ()
    same = common(ids)
    return tuple(ids[0][:same]) if same >= MIN_PREFIX else ()


class PrefixCache:
    """Key-value caches of prefixes by (adapter, tokens), the least recently used dropped first.

    `build(tokens)` runs the model over one prefix. Not thread-safe: the engine calls it under its lock.
    """

    def __init__(self, size: int = 48) -> None:
        self._size = size
        self._held: OrderedDict[Key, Cache] = OrderedDict()

    def batch(self, adapter: str, prefix: tuple[int, ...], rows: int, build: Callable[[tuple[int, ...]], Cache]) -> Cache:
        """A cache of its own for a batch of `rows` prompts that begin with `prefix`."""
        key = (adapter, prefix)
        if key not in self._held:
            self._held[key] = build(prefix)
            while len(self._held) > self._size:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        held = self._held[key]
        if isinstance(held, KeyValues):
            return held.batch(rows)
        cache = copy.deepcopy(held)
        if rows > 1:
            cache.batch_repeat_interleave(rows)
        return cache

    def forget(self, adapter: str) -> None:
        """Drop what was computed with an adapter that is replaced or removed."""
        for key in [key for key in self._held if key[0] == adapter]:
            del self._held[key]
