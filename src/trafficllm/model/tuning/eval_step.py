"""One eval step during tuning: trie loss, predicted labels by walking the trie, macro-F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trafficllm.model.tuning.collate import Sample, answer_loss, collate, length_batches, pad_left
from trafficllm.model.tuning.forward import answer_logits, forward_inputs
from trafficllm.model.tuning.trie import LabelTrie


def mean_loss(model: Any, samples: Sequence[Sample], *, pad: int, batch_tokens: int, full: float) -> float:
    """Mean answer loss of samples, in nats."""
    return loss_and_first(model, samples, None, pad=pad, batch_tokens=batch_tokens, full=full)[0]


def loss_and_first(
    model: Any, samples: Sequence[Sample], trie: LabelTrie | None, *, pad: int, batch_tokens: int, full: float
) -> tuple[float, dict[int, tuple[int, ...]]]:
    """(mean loss, row -> prefix after the best child at the trie's first branching node), in one pass over the samples."""
    import torch

    device = next(model.parameters()).device
    total = weights = 0.0
    taken: dict[int, tuple[int, ...]] = {}
    start = trie.forced(()) if trie else ()
    children = list(trie.children(start)) if trie else []
    model.eval()
    with torch.inference_mode():
        for rows in length_batches([len(sample) for sample in samples], batch_tokens):
            batch = _to(collate([samples[row] for row in rows], pad), device)
            logits = answer_logits(model, batch)
            weight = float(batch["weight"].sum())
            total += float(answer_loss(logits, batch, full=full)) * weight
            weights += weight
            for place, row in enumerate(rows if trie else ()):
                column = len(start) - len(samples[row].answer)
                best = children[int(logits[place, column, children].argmax())]
                taken[row] = trie.forced((*start, best)) if trie else ()
    return total / max(weights, 1e-12), taken


def _to(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    return {name: value.to(device) for name, value in batch.items()}


def predict(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    *,
    pad: int,
    batch_tokens: int,
    begun: dict[int, tuple[int, ...]] | None = None,
) -> list[int]:
    """The label of each prompt, as an index into `trie.labels`, taking the best child at every branching node.

    `begun` holds what `loss_and_first` has decided already.
    """
    import torch

    device = next(model.parameters()).device
    where = {path: index for index, path in enumerate(trie.paths)}
    at = dict(begun) if begun else {row: trie.forced(()) for row in range(len(prompts))}
    model.eval()
    with torch.inference_mode():
        while open_rows := [row for row, prefix in at.items() if prefix not in where]:
            full = [[*prompts[row], *at[row]] for row in open_rows]
            for group in length_batches([len(ids) for ids in full], batch_tokens):
                batch = _to(pad_left([full[k] for k in group], pad), device)
                logits = model(**forward_inputs(model, batch), use_cache=False, logits_to_keep=1).logits[:, -1]
                for place, k in enumerate(group):
                    prefix = at[open_rows[k]]
                    children = list(trie.children(prefix))
                    best = children[int(logits[place, children].argmax())]
                    at[open_rows[k]] = trie.forced((*prefix, best))
    return [where[at[row]] for row in range(len(prompts))]
