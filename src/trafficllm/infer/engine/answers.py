"""What an adapter said of prompts that were asked before: scanners and beacons repeat themselves over a whole capture."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from trafficllm.core.types import F64

MOST = 4096
"""Answers a service or a run over captures keeps: 2 to 4 KB each on the embedded base. The 12,094 flows of the bundled malware captures are
5,334 records to score where equal ones count once in 256 flows, and 4,566 where they count once."""


class Answer(NamedTuple):
    """What one member says to a prompt: the label tree's logits [columns], hidden states [1 or 2, width], the readouts' logits [labels]."""

    flat: F64
    states: npt.NDArray[np.float32]
    said: torch.Tensor


class Answers:
    """At most `most` answers by who was asked what, the least recently used dropped first. Not thread-safe: the engine calls it under its
    lock."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[tuple[str, Any, tuple[int, ...]], tuple[Answer, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, adapter: str, how: Any, ids: tuple[int, ...]) -> tuple[Answer, ...] | None:
        """What an adapter's members said to a prompt, asked in this way."""
        key = (adapter, how, ids)
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, adapter: str, how: Any, ids: tuple[int, ...], answers: tuple[Answer, ...]) -> None:
        """Keep what the members say, and as many of the others as there is room for."""
        if not self.most:
            return
        own = tuple(Answer(one.flat.copy(), one.states.copy(), one.said.clone()) for one in answers)  # not their batch's rows
        self._held[(adapter, how, ids)] = own
        while len(self._held) > self.most:
            self._held.popitem(last=False)

    def forget(self, adapter: str) -> None:
        """Drop what an adapter said that is replaced or removed."""
        for key in [key for key in self._held if key[0] == adapter]:
            del self._held[key]
