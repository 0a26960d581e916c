"""One forward over a batch of prompts: only the positions and output columns that are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import nn

from trafficllm.infer.engine.label_tree import LabelTree
from trafficllm.model.adapter import readout
from trafficllm.model.base.llama import KeyValues, Llama

if TYPE_CHECKING:
    from transformers import DynamicCache

    Cache: TypeAlias = KeyValues | DynamicCache


class Seen(NamedTuple):
    """What a forward showed: `logits` [rows, k, vocabulary or columns], `hidden` [rows, k, width] (one more with pooling), and `features`
    [rows, 2 x layers x width] of a readout, or None."""

    logits: torch.Tensor
    hidden: torch.Tensor
    features: torch.Tensor | None = None


def new_cache(model: Any, *, sliding: bool = False) -> Cache:
    """An empty key-value cache for a model; with `sliding`, layers that look back only so far keep no more."""
    if isinstance(model, Llama):
        return model.new_cache()
    from transformers import DynamicCache

    return DynamicCache(config=model.config) if sliding else DynamicCache()


def forward_at(
    model: Any,
    tokens: torch.Tensor,
    at: torch.Tensor,
    cache: Cache | None = None,
    *,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
    pool: torch.Tensor | None = None,
    layers: Sequence[int] = (),
) -> Seen:
    """Logits [rows, k, vocabulary or columns] and hidden states [rows, k, width] at positions `at` [rows, k] only.

    The gathering sits before the output matrix, so whatever scaling or capping a model applies to its logits
    still happens, and the vocabulary is never multiplied with positions nobody asks for, nor, with `columns`, with tokens
    nobody asks for. `mask` is boolean, True where a token may look. With `pool` [rows, length], the sum of all positions' hidden states
    weighted by it stands behind the k hidden states; with `layers` too, their states are pooled by it for a readout.
    """
    states: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []

    def gather(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        index = at.to(args[0].device)[:, :, None].expand(-1, -1, args[0].shape[-1])
        states.append(args[0].gather(1, index))
        if pool is not None:
            sums.append(torch.einsum("rlw,rl->rw", args[0], pool.to(args[0]))[:, None])
        return (states[-1], *args[1:])

    extra: dict[str, Any] = {}
    if mask is not None:
        lowest = torch.finfo(model.dtype).min
        extra["attention_mask"] = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
    if positions is not None:
        extra["position_ids"] = positions
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(gather)
    try:
        with _narrowed(head, columns):
            out = model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None, output_hidden_states=bool(layers), **extra)
    finally:
        handle.remove()
    hidden = torch.cat([states[0], *sums], 1)
    features = readout.pool(out.hidden_states, layers, pool.to(hidden)) if layers and pool is not None else None
    if columns is not None and out.logits.shape[-1] != len(columns):
        return Seen(out.logits[..., columns], hidden, features)
    return Seen(out.logits, hidden, features)


@contextlib.contextmanager
def _narrowed(head: nn.Module, columns: torch.Tensor | None) -> Iterator[None]:
    """Within the block, a plain linear head computes these columns alone; any other head is left as it is."""
    if columns is None or type(head) is not nn.Linear:
        yield
        return
    part: Any = slice(int(columns[0]), int(columns[-1]) + 1) if _adjacent(columns) else columns
    weight, bias = head.weight[part], None if head.bias is None else head.bias[part]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, weight, bias)

    head.forward = forward  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del head.forward


def _adjacent(columns: torch.Tensor) -> bool:
    """Whether the columns are one piece, which needs no copy (1.5 ms a step for 3,072 rows of the embedded base's head)."""
    return len(columns) > 0 and bool((columns[1:] - columns[:-1] == 1).all())


def batches(lengths: Sequence[int], batch_tokens: int, rows: int) -> Iterator[list[int]]:
    """Indices in batches of like length: at most `batch_tokens` padded tokens and `rows` rows, longest first.

    >>> [sorted(b) for b in batches([3, 9, 4], 9, 8)]
    [[1], [0, 2]]
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) >= rows or (len(batch) + 1) * lengths[batch[0]] > batch_tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def packed(tree: LabelTree, lengths: torch.Tensor, held: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What lets one forward read prompts and, behind each, all inner tokens of the label tree.

    `lengths` [rows] are prompt tokens beyond the `held` ones in the cache. Returns the positions to read [rows, 1 + inner],
    the mask [rows, 1, width, held + width] (an inner token sees the prompt, its ancestors and itself) and position ids [rows, width].
    """
    rows, inner = len(lengths), len(tree.tokens)
    width = int(lengths.max()) + inner
    mask = torch.ones(width, held + width, dtype=torch.bool).tril(held).repeat(rows, 1, 1, 1)
    places = lengths[:, None] + torch.arange(inner)
    which = torch.arange(rows)[:, None, None]
    mask[which, 0, places[:, :, None], held + places[:, None, :]] = torch.from_numpy(tree.sees)
    positions = torch.arange(held, held + width).repeat(rows, 1)
    depth = torch.from_numpy(np.asarray(tree.depth))
    positions.scatter_(1, places, held + lengths[:, None] - 1 + depth)
    return torch.cat([lengths[:, None] - 1, places], 1), mask, positions
