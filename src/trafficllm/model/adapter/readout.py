"""The readout: a linear second opinion on hidden states pooled over the record, stored beside an adapter.

A causal model names its answer at one position; what it has understood on the way lies in all of them. Mean and maximum of several
layers' states over the record's tokens, under a logistic regression, told malware families of unseen captures apart at .92 macro-F1 where
the answer position said .83 after the same tuning (validation; LightGBM .90). Engine and tuning share this code, so that both pool alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import atomic_write, inside, parse_json
from trafficllm.model.adapter.header import read_header
from trafficllm.model.threads import paced, single

FILE = "readout.safetensors"
UMBRELLA = "umbrella.safetensors"
"""A second readout of the same states: the labels and, as one class more, what other sources' traffic looks like."""
BACKGROUND = "(background)"
"""The umbrella readout's class for flows of the background, which have no label of the task."""
OTHERS = "(others)"
"""The umbrella readout's class for flows of its positive side that other sources have: malware of families that the task does not name."""
WIDTH = 8192
"""Features at most: of a wide model fewer layers are read."""
LAYERS = 5
STRENGTH, WEIGHT = 0.1, 0.8
"""Inverse regularisation as in scikit-learn, and the readout's share of the verdict where no calibration says another: on validation of
malware and apps, 1, .7, .5 and 0 give .952, .926, .920, .831 and .608, .662, .662, .613."""
MAX_BYTES = 64 << 20
MOST_LABELS = 10_000
LARGEST = 1e6
"""Of a weight: standardised columns of small spread give some tens of thousands."""
DROPOUT = 0.2


def layers_of(model: Any) -> tuple[int, ...]:
    """Which hidden states are read, 0 the embeddings: the last one, and others evenly below it as far as WIDTH allows."""
    config = model.config.get_text_config()
    last = int(config.num_hidden_layers)
    count = max(1, min(LAYERS, last + 1, WIDTH // (2 * int(config.hidden_size))))
    return tuple(sorted({round(last - k * last / max(count - 1, 1)) for k in range(count)}))


def pool(states: Sequence[torch.Tensor], layers: Sequence[int], weights: torch.Tensor) -> torch.Tensor:
    """Features float32 [rows, 2 x layers x width]: each layer's mean by `weights` [rows, tokens], then its maximum where they are not 0."""
    inside = (weights > 0)[:, :, None].to(states[0].device)
    parts = []
    for layer in layers:
        state = states[layer].float()
        parts.append(torch.einsum("rlw,rl->rw", state, weights.to(state)))
        parts.append(state.masked_fill(~inside, -torch.inf).amax(1))
    return torch.cat(parts, 1)


def means(lengths: torch.Tensor, width: int, first: int) -> torch.Tensor:
    """Weights [rows, width] that average positions `first` to each row's length; of a shorter row, its last.

    >>> means(torch.tensor([3]), 4, 1).tolist()
    [[0.0, 0.5, 0.5, 0.0]]
    """
    at, ends = torch.arange(width)[None], lengths[:, None]
    mine = ((at >= torch.clamp(ends - 1, max=first)) & (at < ends)).float()
    return mine / mine.sum(1, keepdim=True).clamp(min=1.0)


@dataclass(frozen=True, slots=True)
class Readout:
    """`matrix` float32 [features, labels] and `bias` [labels] over `layers`' states from token `first` of a prompt on; `weight` is its
    share of the verdict, the label trie has the rest."""

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    first: int
    weight: float
    matrix: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits float32 [rows, labels], not normalised: their size tells how far a record lies along the labels' directions."""
        return features @ self.matrix + self.bias

    def of(self, labels: Sequence[str]) -> Readout | None:
        """The same for some of its labels, in another order; None where it does not know one of them."""
        if tuple(labels) == self.labels:
            return self
        places = {label: k for k, label in enumerate(self.labels)}
        if any(label not in places for label in labels):
            return None
        columns = [places[label] for label in labels]
        return replace(self, labels=tuple(labels), matrix=self.matrix[:, columns], bias=self.bias[columns])

    def on(self, device: torch.device) -> Readout:
        """The same with its numbers on a device."""
        return replace(self, matrix=self.matrix.to(device), bias=self.bias.to(device))

    def halved(self) -> Readout:
        """The same with what float16 holds of its numbers, in float32; itself where they are too large for it."""
        largest = torch.finfo(torch.float16).max
        if bool(self.matrix.abs().max() > largest) or bool(self.bias.abs().max() > largest):
            return self
        return replace(self, matrix=self.matrix.half().float(), bias=self.bias.half().float())

    def save(self, folder: Path, name: str = FILE) -> None:
        """Write `readout.safetensors`, or the file named: in float16 where that holds every number exactly. Equal values give equal
        bytes."""
        from safetensors.torch import save

        facts = {"labels": self.labels, "layers": self.layers, "first": self.first, "weight": self.weight}
        tensors = {"matrix": self.matrix.contiguous(), "bias": self.bias.contiguous()}
        short = {key: value.half() for key, value in tensors.items()}
        tensors = short if all(bool((short[key].float() == tensors[key]).all()) for key in tensors) else tensors
        atomic_write(folder / name, save(tensors, metadata={"readout": json.dumps(facts)}))

    @classmethod
    def load(cls, folder: Path, name: str = FILE) -> Readout | None:
        """The readout of an adapter folder, None where it has none. ValueError with the reason for a file that is no readout."""
        from safetensors import SafetensorError, safe_open

        if not (folder / name).is_file():
            return None
        try:
            path = inside(folder, name)
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
            read_header(path)
            with safe_open(str(path), framework="pt") as stream:
                facts = parse_json((stream.metadata() or {})["readout"], name, unique=True)
                loaded = cls(
                    tuple(facts["labels"]),
                    tuple(facts["layers"]),
                    facts["first"],
                    float(facts["weight"]),
                    _whole(stream.get_tensor("matrix")),
                    _whole(stream.get_tensor("bias")),
                )
        except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, TrafficLLMError) as error:
            raise ValueError(f"{name} is no readout: {str(error)[:200]}") from error
        return loaded.checked(name)

    def checked(self, name: str = FILE) -> Readout:
        """Itself where its parts fit each other; ValueError, with the file's name, else."""
        labels, places = self.labels, (*self.layers, self.first)
        words = 1 < len(labels) <= MOST_LABELS and all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels)
        numbers = len(places) <= 65 and all(type(k) is int and 0 <= k < 1 << 20 for k in places) and 0 <= self.weight <= 1
        shapes = self.matrix.shape[1:] == self.bias.shape == (len(self.labels),)
        if not (words and numbers and shapes and self.layers):
            raise ValueError(f"{name} has labels, layers and shapes that do not fit each other")
        if self.matrix.dtype != torch.float32 or self.bias.dtype != torch.float32:
            raise ValueError(f"{name} is not float32")
        if not bool((self.matrix.abs() <= LARGEST).all() and (self.bias.abs() <= LARGEST).all()):
            raise ValueError(f"{name} holds values that are not finite or beyond {LARGEST:g}")
        return self

    def misfits(self, model: Any, name: str = FILE) -> list[str]:
        """Why it cannot be used with a model; nothing where it can."""
        config = model.config.get_text_config()
        want = 2 * len(self.layers) * int(config.hidden_size)
        if max(self.layers) > int(config.num_hidden_layers) or self.matrix.shape[0] != want:
            return [f"{name} reads layers {list(self.layers)} of {self.matrix.shape[0]} features, the base gives {want}"]
        return []


def _whole(stored: torch.Tensor) -> torch.Tensor:
    """A stored tensor as it is computed with: float16 in float32, anything else as it is, to be checked."""
    return stored.float() if stored.dtype == torch.float16 else stored


def reasons(folder: Path, model: Any = None) -> list[str]:
    """Why an adapter folder's readout is refused; nothing where it is sound or there is none."""
    try:
        loaded, umbrella = Readout.load(folder), Readout.load(folder, UMBRELLA)
    except ValueError as error:
        return [str(error)]
    if umbrella is not None and (loaded is None or (umbrella.layers, umbrella.first) != (loaded.layers, loaded.first)):
        return [f"{UMBRELLA} does not read the states that {FILE} reads"]
    if loaded is None or model is None:
        return []
    return [*loaded.misfits(model), *(umbrella.misfits(model, UMBRELLA) if umbrella is not None else [])]


# Fitting


class Head(torch.nn.Module):
    """What pulls the adapter towards states that a readout can use: a linear layer on standardised pooled features, trained with the
    adapter and dropped afterwards, when the readout is fitted on what the states have become.

    `mean` and `spread` are of the features before training.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, layers: Sequence[int], features: torch.Tensor, classes: int) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.register_buffer("mean", features.mean(0), persistent=False)
        self.register_buffer("spread", features.std(0, correction=0).clamp(min=1e-2), persistent=False)
        self.linear = torch.nn.Linear(features.shape[1], classes)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def loss(self, states: Sequence[torch.Tensor], batch: dict[str, Any], *, seed: int) -> torch.Tensor:
        """Weighted mean over the batch's rows of the cross-entropy of their labels. Some features, drawn by `seed`, are left out for all
        rows: several processes leave out the same."""
        features = pool(states, self.layers, batch["pool"])
        features_in = torch.rand(len(self.mean), generator=torch.Generator().manual_seed(seed)) >= DROPOUT
        x = (features - self.mean) / self.spread * (features_in.to(features) / (1.0 - DROPOUT))
        rows = torch.nn.functional.cross_entropy(self.linear(x), batch["label"], reduction="none")
        weight: torch.Tensor = batch["weight"]
        total: torch.Tensor = batch.get("total", weight.sum())
        return (rows * weight).sum() / total


def logistic(
    features: torch.Tensor,
    y: torch.Tensor,
    weights: torch.Tensor,
    strength: float = STRENGTH,
    *,
    steps: int = 200,
    rows: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression by L-BFGS on standardised columns: (matrix [features, classes], bias [classes]), for features
    [n, features] as they are. `y` are class indices [n], `weights` the classes' in the loss, `rows` [n] each row's own besides,
    `strength` is C of scikit-learn's formula. With `offset` logits [n, classes] what is fitted is added to them: a correction."""
    mean, spread = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    x = (features - mean) / spread
    matrix = torch.zeros(x.shape[1], len(weights), requires_grad=True)
    bias = torch.zeros(len(weights), requires_grad=True)
    optimizer = torch.optim.LBFGS([matrix, bias], max_iter=steps, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe")
    each = weights[y] if rows is None else weights[y] * rows
    total = float(each.sum())
    penalty = 1.0 / (2.0 * strength * total)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = x @ matrix + bias if offset is None else x @ matrix + bias + offset
        if rows is None:
            loss = torch.nn.functional.cross_entropy(logits, y, weight=weights)
        else:
            loss = (torch.nn.functional.cross_entropy(logits, y, reduction="none") * each).sum() / total
        loss = loss + penalty * (matrix**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad(), single():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    scaled = matrix.detach() / spread[:, None]
    return scaled, bias.detach() - mean @ scaled


def blended(trie: torch.Tensor, readout: torch.Tensor, weight: float) -> torch.Tensor:
    """Log-linear mix of two log-probabilities [n, labels], normalised."""
    return ((1.0 - weight) * trie + weight * readout).log_softmax(1)


def features_of(
    model: Any, prompts: Sequence[Sequence[int]], layers: Sequence[int], first: int, *, batch_tokens: int = 1024
) -> torch.Tensor:
    """Pooled features [n, features] of prompt ids, on the CPU, in their order."""
    from trafficllm.model.tuning.collate import length_batches, padded

    device = next(model.parameters()).device
    pooled: dict[int, torch.Tensor] = {}
    model.eval()
    with paced(model) as pace, torch.no_grad():  # not inference mode: sharded parameters are written in place afterwards
        for batch in length_batches([len(ids) for ids in prompts], batch_tokens):
            lengths = torch.tensor([len(prompts[k]) for k in batch])
            ids = padded([prompts[k] for k in batch]).to(device)
            with pace.step(ids.numel()):
                states = model(input_ids=ids, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states
            pooled.update(zip(batch, pool(states, layers, means(lengths, ids.shape[1], first)).cpu(), strict=True))
    return torch.stack([pooled[k] for k in range(len(prompts))])
