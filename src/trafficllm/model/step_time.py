"""What a step of tuning takes on this machine, measured on a few layers of the base's shape: no factor between matrix products and a real
step holds for every width, precision and processor (it is 1.3 for SmolLM2 in float32 and 4.9 in bfloat16)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import F64
from trafficllm.model.adapter import lora

TOKENS = 512
"""Tokens of the measured step at most."""
LAYER = 32_000_000
"""Weights of a layer from which nothing is measured: one step of it would take a second."""
DEEP = 3
"""Layers of the deeper of two models; the shallower has one, and their difference is what a layer takes."""
VOCABULARY = 2048
"""Rows of the measured embedding: the head runs at answers alone, so the whole of it would add memory and little time."""
STEPS = 2
"""Measured runs, whose mean counts. Each has a length of its own, as batches have: kernels are made anew for a new shape."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured: a configuration of transformers, how it is tuned, and the tokens of each row of a step."""

    config: Any
    options: TuneOptions
    precision: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenTime:
    """Processor seconds a token, over the threads in use: of a tuning step, and of the forward pass that a readout's features take."""

    step: float
    forward: float


def measured(folder: Path, options: TuneOptions, precision: str, lengths: Sequence[int]) -> TokenTime | None:
    """What a token takes on a base folder, whose weights are not read; the random numbers of the caller stay. None where nothing is
    measured: on an accelerator, for layers of LAYER weights and more, for QLoRA and full tuning, for shapes that cannot be cut.
    """
    import torch
    from transformers import AutoConfig

    if torch.cuda.is_available() or options.method in ("qlora", "full") or not lengths:
        return None
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    shape = Shape(config, options, precision, _rows(sorted(lengths)[len(lengths) // 2], min(TOKENS, options.batch_tokens)))
    layers = int(config.get_text_config().num_hidden_layers)
    if _layer_weights(config) >= LAYER:
        return None
    with torch.random.fork_rng(devices=[]):
        try:
            one = _seconds(shape, min(layers, DEEP))
            if layers > DEEP:
                deep, one = one, _seconds(shape, 1)
                one += np.maximum(deep - one, 0.0) / (DEEP - 1) * (layers - 1)
        except (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError):
            return None  # a family whose layers depend on each other: planning goes on without
    step, forward = (one / sum(shape.rows)).tolist()
    return TokenTime(step, forward)


def _rows(length: int, tokens: int) -> tuple[int, ...]:
    """Equal rows of a length, in `tokens` tokens."""
    length = max(3, min(length, tokens))
    return (length,) * max(1, tokens // length)


def _layer_weights(config: Any) -> int:
    """Weights of a decoder layer, at most: four square matrices and three of the inner width."""
    text = config.get_text_config()
    width, inner = int(text.hidden_size), int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
    return 4 * width * width + 3 * width * inner


def _cut(config: Any, layers: int) -> Any:
    """The configuration with so many layers and a small vocabulary."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    text.vocab_size = min(VOCABULARY, int(text.vocab_size))
    text.pad_token_id = 0
    return small


def _model(shape: Shape, layers: int) -> Any:
    """A model of random weights with the adapter that would be trained."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(_cut(shape.config, layers), trust_remote_code=False, dtype=getattr(torch, shape.precision))
    return lora.attach_for(model.requires_grad_(False), shape.options)


def _seconds(shape: Shape, layers: int) -> F64:
    """Of a step (forward, backward, clipping, optimizer) and of a forward pass for features [2]: the mean after one not counted."""
    import torch

    model = _model(shape, layers)
    spent = [np.mean(list(_times(run))[1:]) for run in (_step(model, shape), _features(model, shape))]
    return np.array(spent) / torch.get_num_threads()


def _times(run: Callable[[int], object]) -> Iterator[float]:
    """Seconds of runs with rows a token longer each."""
    for more in range(1 + STEPS):
        begun = time.process_time()
        run(more)
        yield time.process_time() - begun


def _features(model: Any, shape: Shape) -> Callable[[int], object]:
    from trafficllm.model.adapter import readout

    layers = readout.layers_of(model)
    return lambda more: readout.features_of(model, [[0] * (n + more) for n in shape.rows], layers, 0)


def _step(model: Any, shape: Shape) -> Callable[[int], object]:
    import torch

    from trafficllm.model.adapter.fused import fused
    from trafficllm.model.tuning.collate import Sample, answer_loss, collate
    from trafficllm.model.tuning.forward import answer_logits

    weights = list(lora.trainable(model).values())
    optimizer, half = torch.optim.AdamW(weights), shape.precision == "bfloat16"

    def step(more: int) -> None:
        batch = collate([Sample([0] * (n - 2 + more), [0, 0], [(0, (0, 1), 0)]) for n in shape.rows], 0)
        with fused(model.train(), lora.NAME):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = answer_loss(answer_logits(model, batch), batch, full=shape.options.full_weight)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, shape.options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step
