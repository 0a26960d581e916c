"""Batches for tuning: length-grouped by tokens, left-padded, with losses asked at answer positions only."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trafficllm.model.tuning.trie import Choice


@dataclass(frozen=True, slots=True)
class Sample:
    """One training row: `prompt` ids, `answer` ids (end token included), the answer's trie `choices`, loss `weight`, and for a readout
    the `label`'s index and the prompt's `first` token that it pools."""

    prompt: Sequence[int]
    answer: Sequence[int]
    choices: Sequence[Choice] = ()
    weight: float = 1.0
    label: int = -1
    first: int = 0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer) - 1


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of at most `batch_tokens` padded tokens (or one row), shortest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[index] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def plan_batches(lengths: Sequence[int], batch_tokens: int, seed: int) -> list[list[int]]:
    """Indices of one epoch's batches of about `batch_tokens` padded tokens each; the number depends on the lengths only.

    Rows of like length share a batch, so little is padding; jitter on the length and the order of batches come from `seed`.
    """
    chooser = random.Random(seed)
    order = list(range(len(lengths)))
    chooser.shuffle(order)
    order.sort(key=lambda index: lengths[index] * chooser.uniform(0.9, 1.1))
    total = sum(lengths)
    count = min(len(order), max(1, round(total / batch_tokens)))
    batches: list[list[int]] = [[] for _ in range(count)]
    spent = 0
    for index in order:
        batches[min(count - 1, spent * count // max(total, 1))].append(index)
        spent += lengths[index]
    full = [batch for batch in batches if batch]
    while len(full) < count:  # one row longer than a batch's share skipped a place: split the largest
        largest = max(full, key=len)
        half = len(largest) // 2
        full.append(largest[half:])
        del largest[half:]
    chooser.shuffle(full)
    return full


class StepData:
    """All batches of a run as one map-style data set: item k is the k-th batch, made from (seed, epoch, rows) alone.

    So a resumed run skips to its step without building what came before. `make(row, epoch)` gives a row's sample. Of several
    processes (`part` = rank, world) each makes its rows of the batch; `weigh(row)` is then the row's weight in the loss.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        make: Callable[[int, int], Sample],
        *,
        pad: int,
        batch_tokens: int,
        epochs: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
        weigh: Callable[[int], float] = lambda _: 1.0,
    ) -> None:
        self.part, self.weigh = part, weigh
        self.lengths, self.make, self.pad = lengths, make, pad
        self.batch_tokens, self.epochs, self.seed = batch_tokens, epochs, seed
        self._epoch = -1
        self._plan: list[list[int]] = []
        self.per_epoch = len(plan_batches(lengths, batch_tokens, seed))

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def rows(self, step: int) -> list[int]:
        """Row indices of a step's batch."""
        epoch = step // self.per_epoch
        if epoch != self._epoch:
            self._plan = plan_batches(self.lengths, self.batch_tokens, self.seed + 7919 * epoch)
            self._epoch = epoch
        return self._plan[step % self.per_epoch]

    def __getitem__(self, step: int) -> dict[str, Any]:
        epoch, rows = step // self.per_epoch, self.rows(step)
        rank, world = self.part
        if world == 1:
            return collate([self.make(row, epoch) for row in rows], self.pad)
        # A process without a row of its own runs the first at weight 0: every process must take part in every step.
        mine = [self.make(row, epoch) for row in rows[rank::world]] or [replace(self.make(rows[0], epoch), weight=0.0)]
        batch = collate(mine, self.pad)
        batch["total"] = batch["weight"].new_tensor(sum(self.weigh(row) for row in rows) / world)
        return batch


def first(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The Trainer's collator: an item is a whole batch already."""
    return items[0]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike.

    >>> shared([1, 2, 3], [1, 2, 4]), shared([1, 2], [1, 2, 3])
    (2, 2)
    """
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with, at most all but the shortest row's last.

    >>> common([[1, 2, 3], [1, 2, 4]]), common([[1, 2], [1, 2, 3]])
    (2, 1)
    """
    low, high = min(map(tuple, rows)), max(map(tuple, rows))  # all others lie between the two, beginnings too
    return min(min(len(row) for row in rows) - 1, shared(low, high))


def padded(rows: Sequence[Sequence[int]]) -> Any:
    """Token ids int64 [rows, longest], padded on the right by each row's last token.

    Such padding needs no mask: causal attention never looks ahead, and positions stay true.
    """
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], dtype=torch.long)


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """`input_ids`, `attention_mask`, `position_ids` [rows, longest] of token rows, right-aligned."""
    import numpy as np
    import torch

    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :] = row
        mask[place, width - len(row) :] = 1
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "position_ids": torch.from_numpy(positions)}


def collate(samples: Sequence[Sample], pad: int) -> dict[str, Any]:
    """Tensors of a batch.

    Beside the inputs: `target` int64 [rows, keep] the answers right-aligned (-100 where none), `weight` float32 [rows], and one
    row for each branching node: `node_at` [nodes, 2] (row, column of `target`), `node_children` [nodes, widest] (-1 padded),
    `node_choice` [nodes]. For a readout `label` [rows] and `pool` [rows, width], which averages a prompt's own tokens.
    """
    import torch

    keep = max(len(sample.answer) for sample in samples)
    target = torch.full((len(samples), keep), -100, dtype=torch.int64)
    at: list[tuple[int, int]] = []
    children: list[tuple[int, ...]] = []
    choice: list[int] = []
    for row, sample in enumerate(samples):
        start = keep - len(sample.answer)
        target[row, start:] = torch.tensor(list(sample.answer), dtype=torch.int64)
        for place, ids, taken in sample.choices:
            at.append((row, start + place))
            children.append(ids)
            choice.append(taken)
    widest = max((len(ids) for ids in children), default=1)
    table = torch.full((len(children), widest), -1, dtype=torch.int64)
    for place, row_ids in enumerate(children):
        table[place, : len(row_ids)] = torch.tensor(row_ids)
    inputs = pad_left([[*sample.prompt, *sample.answer[:-1]] for sample in samples], pad)
    return {
        **inputs,
        "label": torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        "pool": _pooling(samples, inputs["input_ids"].shape[1]),
        "target": target,
        "weight": torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
        "node_at": torch.tensor(at, dtype=torch.int64).reshape(-1, 2),
        "node_children": table,
        "node_choice": torch.tensor(choice, dtype=torch.int64),
    }


def _pooling(samples: Sequence[Sample], width: int) -> Any:
    """Weights [rows, width] that average each prompt's tokens from `first` on."""
    import torch

    out = torch.zeros(len(samples), width)
    for row, sample in enumerate(samples):
        begin, size = width - len(sample), len(sample.prompt)
        skip = min(sample.first, size - 1)
        out[row, begin + skip : begin + size] = 1.0 / (size - skip)
    return out


def answer_loss(logits: Any, batch: dict[str, Any], *, full: float, smoothing: float = 0.0) -> Any:
    """Weighted mean over rows of the trie loss, plus `full` times the whole-vocabulary loss a token of the answer.

    `logits` [rows, keep, vocabulary] are those of the last `keep` positions. Rows without a branching node carry the
    whole-vocabulary loss alone, at weight 1 (generation). A batch that is one process's part carries `total`, the whole batch's
    weight over the number of processes: the mean of their losses is then the whole batch's.
    """
    import torch
    from torch.nn import functional

    target, weight = batch["target"], batch["weight"].to(logits.device)
    logits = logits[:, -target.shape[1] :].float()
    tokens = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="none")
    real = target != -100
    rows = tokens.reshape(target.shape).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    at, children = batch["node_at"], batch["node_children"]
    if at.shape[0]:
        picked = logits[at[:, 0], at[:, 1]].gather(1, children.clamp(min=0))
        picked = picked.masked_fill(children < 0, torch.finfo(picked.dtype).min)
        nodes = functional.cross_entropy(picked, batch["node_choice"], reduction="none")
        if smoothing:
            spread = (picked.log_softmax(dim=1).masked_fill(children < 0, 0).sum(dim=1)) / (children >= 0).sum(dim=1)
            nodes = (1 - smoothing) * nodes - smoothing * spread
        rows = (full * rows).index_add(0, at[:, 0], nodes)
    return (rows * weight).sum() / batch.get("total", weight.sum())
