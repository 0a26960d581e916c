"""Frozen representation of records: hidden states of the model, pooled over a record's own tokens or taken at the answer.

The mean of the last layer is short and good for neighbours; mean and maximum of several layers, which readouts use, tell most to a linear
probe; the state at the answer is what a tuned adapter's label trie decides by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trafficllm.core.types import Record
from trafficllm.infer.engine.forward import batches
from trafficllm.model.adapter import readout
from trafficllm.model.tuning.collate import padded

if TYPE_CHECKING:
    from trafficllm.infer.engine.scorer import LLMScorer

Pool = Literal["mean", "answer", "layers"]
POOLS: tuple[Pool, ...] = ("mean", "answer", "layers")
_ROWS = 64


class Pooled:
    """An `Embedder` of masked records, from a scorer's adapter ("" is the bare base)."""

    def __init__(self, scorer: LLMScorer, pool: Pool = "mean") -> None:
        self.scorer = scorer
        self.pool = pool

    def embed(self, records: Sequence[Record]) -> npt.NDArray[np.float32]:
        """Vectors float32 [n, width], in the records' order; equal records have equal vectors within rounding."""
        if not records:
            return np.zeros((0, 0), np.float32)
        if self.pool == "answer":
            return self.scorer.embed(records)
        ids = self.scorer.ids(records)
        return self._means(ids) if self.pool == "mean" else self._layers(ids)

    def _layers(self, ids: list[list[int]]) -> npt.NDArray[np.float32]:
        engine = self.scorer.engine
        with engine.using(self.scorer.adapter) as model:
            layers = readout.layers_of(model)
            features = readout.features_of(model, ids, layers, self.scorer.prefix_length, batch_tokens=engine.batch_tokens)
        return np.asarray(features.numpy(), dtype=np.float32)

    def _means(self, ids: list[list[int]]) -> npt.NDArray[np.float32]:
        engine, skip = self.scorer.engine, self.scorer.prefix_length
        out: dict[int, npt.NDArray[np.float32]] = {}
        for batch in batches([len(row) for row in ids], engine.batch_tokens, _ROWS):
            rows = [ids[i] for i in batch]
            with engine.using(self.scorer.adapter) as model:
                states = last_states(model, padded(rows).to(engine.device)).float()
            for place, i in enumerate(batch):
                own = states[place, min(skip, len(rows[place]) - 1) : len(rows[place])]
                out[i] = own.mean(0).cpu().numpy()
        return np.stack([out[i] for i in range(len(ids))])


def last_states(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What the output matrix would see at every position, [rows, tokens, width]; one position only is multiplied with it."""
    states: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states.append(args[0])
        return (args[0][:, :1], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        model(input_ids=tokens, use_cache=False)
    finally:
        handle.remove()
    return states[0]
