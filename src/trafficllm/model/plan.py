"""What a tuning run will need, said before it starts: parameters, tokens, steps, memory, time.

Memory is counted, not guessed: one batch runs through the model on the meta device, where tensors have shapes and no storage, and
what autograd would keep is added up. It works for a 70 B model on a laptop.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError
from trafficllm.model import lora
from trafficllm.model.collate import Sample, answer_loss, collate, plan_batches
from trafficllm.model.load import resolve
from trafficllm.model.trainer import answer_logits
from trafficllm.model.tune import TuneOptions

SLACK = 2.3
"""Resident memory beside what autograd keeps: transients, and blocks the C allocator does not give back. Measured 2.2-2.4 on the
embedded base from 1,000 to 16,000 tokens a batch."""


@dataclass(frozen=True, slots=True)
class TunePlan:
    """The forecast. Memory in bytes: `weights` of the base, `states` of the trained part (weights, gradients, two moments),
    `activations` of the largest batch, `program` what the process holds already; `total` their sum."""

    parameters: int
    trainable: int
    rows: int
    tokens_per_epoch: int
    steps: int
    weights: int
    states: int
    activations: int
    program: int
    total: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The forecast as plain JSON values."""
        return asdict(self)


def _meta_model(folder: Path, options: TuneOptions) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=torch.float32)
            return lora.attach(
                model.requires_grad_(False),
                method=options.method,
                r=options.r,
                lora_alpha=options.lora_alpha,
                dropout=options.lora_dropout,
                seed=options.seed,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            "artifact.model", f"is no causal language model: {str(error).splitlines()[0]}", input=str(folder)
        ) from error


def _kept_bytes(model: Any, batch: dict[str, Any]) -> int:
    """Bytes a batch takes: what autograd keeps for the backward pass (shared storage once, no parameters), with SLACK."""
    import torch

    owned = {id(value) for value in model.parameters()}
    seen: dict[tuple[Any, ...], int] = {}
    alive: list[Any] = []

    def keep(tensor: Any) -> Any:
        root = tensor._base if tensor._base is not None else tensor
        if id(root) not in owned and id(tensor) not in owned:
            seen[(id(root),)] = root.numel() * root.element_size()
            alive.append(root)  # an id must not be used again while we count
        return tensor

    def back(tensor: Any) -> Any:
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, back):
        # The whole mask at once: choosing its kind from the padding reads values, which meta tensors do not have.
        rows, width = batch["input_ids"].shape
        mask = torch.ones((rows, 1, width, width), dtype=torch.bool, device="meta")
        answer_loss(answer_logits(model, {**batch, "attention_mask": mask}), batch, full=0.1)
    return round(SLACK * sum(seen.values()))


def _flops_per_second() -> float:
    """Sustained float operations a second of matrix products of the embedded base's width, over about 0.2 s."""
    import torch

    left, right = torch.ones(2048, 192), torch.ones(192, 512)
    left @ right
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        left @ right
        done += 1
    spent = time.perf_counter() - start
    return 2.0 * 2048 * 192 * 512 * done / spent


def _batch(lengths: Sequence[int], pad: int) -> dict[str, Any]:
    import torch

    samples = [Sample([pad] * length, [pad, pad], [(0, (pad, pad + 1), 0)]) for length in lengths]
    batch = collate(samples, pad)
    return {name: value.to(torch.device("meta")) for name, value in batch.items()}


def plan(base: str | Path, lengths: Sequence[int], options: TuneOptions | None = None) -> TunePlan:
    """Forecast a run of `lengths` (tokens a row, answer included) on a base folder; nothing of the weights is read.

    Memory assumes float32 weights. Raises ArtifactError where the folder is no model.
    """
    options = options or TuneOptions()
    model = _meta_model(resolve(base), options)
    batches = plan_batches(lengths, options.batch_tokens, options.seed)
    widest = max(batches, key=lambda rows: len(rows) * max(lengths[row] for row in rows), default=[])
    kept = _kept_bytes(model, _batch([lengths[row] for row in widest], 0)) if widest else 0
    steps = min(len(batches) * options.epochs, options.max_steps or 10**9)
    parameters = sum(value.numel() for value in model.parameters())
    trained = sum(value.numel() for value in lora.trainable(model).values())
    frozen = parameters - trained
    tokens = sum(lengths)
    share = steps / max(len(batches), 1)
    table = model.get_input_embeddings().weight.numel()
    # Forward and backward through frozen weights: 4 operations a weight and token; through trained ones 6; embedding rows: none.
    work = (4.0 * max(frozen - table, 0) + 6.0 * trained) * tokens * share
    # Half of the time goes to products (profile of the embedded base), the rest to element-wise work.
    seconds = 2.0 * work / _flops_per_second()
    program = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
    weights, states = 4 * frozen, 16 * trained
    return TunePlan(
        parameters=parameters,
        trainable=trained,
        rows=len(lengths),
        tokens_per_epoch=tokens,
        steps=steps,
        weights=weights,
        states=states,
        activations=kept,
        program=program,
        total=weights + states + kept + program,
        seconds=round(min(seconds, options.max_seconds or seconds), 1),
    )
