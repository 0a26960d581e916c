"""What a tuning run will need, said before it starts: parameters, tokens, steps, memory, time.

Memory is counted, not guessed: one batch runs through the model on the meta device, where tensors have shapes and no storage, and
what autograd would keep is added up. It works for a 70 B model on a laptop.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.settings import TuneOptions
from trafficllm.model.adapter import lora, readout
from trafficllm.model.adapter.fused import fused
from trafficllm.model.base.load import default_base, resolve
from trafficllm.model.results import Forecast, TuneMemory
from trafficllm.model.step_time import TokenTime, measured
from trafficllm.model.tuning.collate import Sample, answer_loss, collate, plan_batches
from trafficllm.model.tuning.forward import answer_logits
from trafficllm.model.tuning.options import TuneData

SLACK = 1.65
"""Resident memory beside what autograd keeps: transients, and blocks the C allocator does not give back. Measured 1.58-1.72 on the
embedded base from 2,048 to 16,384 tokens a batch."""
OVERHEAD = 3.5
"""A step's time against its matrix products at full speed, where no step is measured (`model.step_time`): element-wise work, small shapes.
2.8-4.6 on the embedded base."""
_BYTES = {"float32": 4.0, "bfloat16": 2.0}
NF4_BYTES = 0.53
"""4 bits a weight and an 8-bit scale for each block of 64."""
FIT_PASSES = 120
"""Evaluations of loss and gradient that fitting a readout takes."""
FORWARD = 1.4
"""A forward pass's time against its matrix products at full speed: 2,400 rows of the embedded base take about 12 s of one core."""
STEP_SECONDS = 0.004
"""What a step costs beside its tokens: optimizer, logging, the Trainer's bookkeeping."""


def _meta_model(folder: Path, options: TuneOptions, precision: str = "float32") -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=getattr(torch, precision))
            planned = options.model_copy(update={"method": "lora"}) if options.method == "qlora" else options
            return lora.attach_for(model.requires_grad_(False), planned)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError("artifact.model", f"is no causal language model: {str(error).splitlines()[0]}", input=str(folder)) from error


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
    with torch.autograd.graph.saved_tensors_hooks(keep, back), fused(model, lora.NAME):
        # The whole mask at once: choosing its kind from the padding reads values, which meta tensors do not have.
        rows, width = batch["input_ids"].shape
        seen_back = width + (_prefix(model))
        mask = torch.ones((rows, 1, width, seen_back), dtype=torch.bool, device="meta")
        answer_loss(answer_logits(_inner(model), {**batch, "attention_mask": mask}), batch, full=0.1)
    return round(SLACK * sum(seen.values()))


def _prefix(model: Any) -> int:
    config = getattr(model, "peft_config", {}).get(lora.NAME)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def _inner(model: Any) -> Any:
    """The model whose forward is counted: for a prefix the base with the prefix's cache before it."""
    if not _prefix(model):
        return model
    base = model.get_base_model()

    def forward(input_ids: Any, **kwargs: Any) -> Any:
        kwargs["position_ids"] = kwargs["position_ids"] + _prefix(model)
        return base(input_ids=input_ids, past_key_values=model.get_prompt(len(input_ids)), **kwargs)

    forward.forward = base.forward  # type: ignore[attr-defined]  # what `forward_inputs` asks for its parameters
    return forward


@dataclass(frozen=True, slots=True)
class Speed:
    """Float operations a second of matrix products on this machine when idle, and the share of its processor time that this process
    gets at present beside other programs: 1 where it has its cores to itself."""

    idle: float
    share: float


def measured_speed(precision: str) -> Speed:
    """Products [512, 192] x [192, 512], the embedded base's, for 0.2 s of the wall clock and 0.05 s of the processor's, 2 s at most.

    Products of SmolLM2's width are as fast (97-100 GFLOP/s in float32, 404-435 in bfloat16 on one core). Processor time is what other
    programs do not change: with a load of 12 on two cores a process got 6 % of one.
    """
    import torch

    if torch.cuda.is_available():
        return Speed(_on_cuda(precision), 1.0)
    dtype, threads = getattr(torch, precision), torch.get_num_threads()
    left, right = torch.ones(512, 192, dtype=dtype), torch.ones(192, 512, dtype=dtype)
    left @ right
    wall, processor, done, passed, spent = time.perf_counter(), time.process_time(), 0, 0.0, 0.0
    while passed < 2.0 and (passed < 0.2 or spent < 0.05 * threads):
        left @ right
        done += 1
        passed, spent = time.perf_counter() - wall, time.process_time() - processor
    spent = max(spent / threads, 1e-6)
    return Speed(2.0 * 512 * 192 * 512 * done / spent, min(1.0, spent / passed))


def _on_cuda(precision: str) -> float:
    import torch

    size = 4096
    matrix = torch.ones(size, size, dtype=getattr(torch, precision), device="cuda")
    float((matrix @ matrix)[0, 0])
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        product = matrix @ matrix
        done += 1
    float(product[0, 0])
    return 2.0 * size**3 * done / (time.perf_counter() - start)


def _batch(lengths: Sequence[int], pad: int) -> dict[str, Any]:
    import torch

    samples = [Sample([pad] * length, [pad, pad], [(0, (pad, pad + 1), 0)]) for length in lengths]
    batch = collate(samples, pad)
    return {name: value.to(torch.device("meta")) for name, value in batch.items()}


def _program() -> int:
    """What this process holds already, in bytes; everything a run imports is imported first."""
    import trafficllm.model.tuning.run  # noqa: F401 - for its size

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def _memory(model: Any, largest: list[int], options: TuneOptions, precision: str, world: int) -> TuneMemory:
    size = _BYTES[precision]
    trained = sum(value.numel() for value in lora.trainable(model).values())
    frozen = sum(value.numel() for value in model.parameters()) - trained
    weights = size * frozen
    if options.method == "qlora":
        linear = sum(layer.weight.numel() for layer in _frozen_linears(model))
        weights = size * max(frozen - linear, 0) + NF4_BYTES * linear
    split = world if options.shard else 1
    activations = _kept_bytes(model, _batch(largest, 0)) if largest else 0
    if options.gradient_checkpointing:
        # One layer's activations at a time, and each layer's input.
        layers = model.config.get_text_config().num_hidden_layers
        activations = round(activations / layers + SLACK * size * layers * sum(largest) * model.config.get_text_config().hidden_size)
    program, states = _program(), round(16 * trained / split)
    base = round(weights / split)
    gathered = _gathered(model, size) if split > 1 else 0
    total = base + states + activations + program + gathered
    return TuneMemory(weights=base, states=states, activations=activations, program=program, total=total, gathered=gathered)


def _gathered(model: Any, size: float) -> int:
    """Bytes of parameters that a process of a sharded run holds whole: what lies outside the decoder layers, and two layers, of which the
    second is fetched while the first is computed (FSDP2's implicit prefetch; `processes.shard` makes a unit of each layer)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(inner, "_no_split_modules", None) or ())
    layers = [sum(p.numel() for p in module.parameters()) for module in inner.modules() if type(module).__name__ in names]
    outside = sum(value.numel() for value in inner.parameters()) - sum(layers)
    return int(size * (outside + 2 * max(layers, default=0)))


def _frozen_linears(model: Any) -> list[Any]:
    """What QLoRA stores in 4 bits: the linear layers an adapter touches."""
    import torch

    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return [layer for layer in layers if not layer.weight.requires_grad]


def plan(
    base: str | Path,
    lengths: Sequence[int],
    options: TuneOptions | None = None,
    *,
    precision: str = "float32",
    world: int = 1,
    read: int = 0,
    labels: int = 0,
    speed: float | None = None,
) -> Forecast:
    """Forecast a run of `lengths` (tokens a row, answer included) on a base folder; nothing of the weights is read.

    `precision` of the base's weights; `world` processes share each batch; a readout is fitted on `read` rows for `labels` labels; `speed`,
    float operations a second that a device reaches in training, stands for other devices than this machine, on which nothing is then
    measured. Raises ArtifactError where the folder is no model.
    """
    from trafficllm.model.tuning.run import HEAD_ROWS

    options = options or TuneOptions()
    folder = resolve(base)
    model = _meta_model(folder, options, precision)
    batches = plan_batches(lengths, options.batch_tokens, options.seed)
    widest = max(batches, key=lambda rows: len(rows) * max(lengths[row] for row in rows), default=[])
    steps = min(len(batches) * options.epochs, options.max_steps or 10**9)
    parameters = sum(value.numel() for value in model.parameters())
    trained = sum(value.numel() for value in lora.trainable(model).values())
    tokens = round(sum(lengths) * steps / max(len(batches), 1))
    table = model.get_input_embeddings().weight.numel()
    # Forward and backward through frozen weights: 4 operations a weight and token; through trained ones 6; embedding rows: none.
    work = 4.0 * max(parameters - trained - table, 0) + 6.0 * trained
    memory = _memory(model, [lengths[row] for row in widest][::world], options, precision, world)  # before a measured step takes any
    rate = Speed(speed, 1.0) if speed else measured_speed(precision)
    overhead, forward = (1.0, 1.0) if speed else (OVERHEAD, FORWARD)
    counted = TokenTime(overhead * work / rate.idle, forward * 2.0 * (parameters - table) / rate.idle)
    each = (None if speed else measured(folder, options, precision, lengths)) or counted
    pace = 4 / 3 if options.gradient_checkpointing else 1.0
    mean = sum(lengths) / max(len(lengths), 1)
    # A readout's head is scaled by features of some rows before the first step.
    idle = pace * each.step * tokens / world + STEP_SECONDS * steps + each.forward * mean * min(read, HEAD_ROWS)
    seconds = idle / rate.share
    planned = min(seconds, options.max_seconds or seconds)
    reading = each.forward * mean * read + _fitting(model, read, labels) / rate.idle
    return Forecast(
        parameters=parameters,
        trainable=trained,
        rows=len(lengths),
        tokens_per_epoch=sum(lengths),
        longest=max(lengths, default=0),
        steps=round(steps * planned / seconds) if seconds else steps,
        tokens=round(tokens * planned / seconds) if seconds else tokens,
        memory=memory,
        seconds=round(planned, 1),
        tokens_per_second=round(tokens / max(seconds, 1e-9), 1),
        readout_seconds=round(reading / rate.share, 1),
        idle_seconds=round(min(idle, options.max_seconds or idle), 1),
        share=round(rate.share, 2),
    )


@dataclass(frozen=True, slots=True)
class Rates:
    """What this machine takes with a base, in seconds: a row's forward pass, and a pass of a readout's fit over a row and label."""

    row: float
    fit: float


def rates(base: str | Path, tokens_per_row: float, *, precision: str = "float32") -> Rates:
    """Rates of a base folder, whose weights are not read. Raises ArtifactError where it is no model."""
    model = _meta_model(resolve(base), TuneOptions())
    weights = sum(value.numel() for value in model.parameters()) - model.get_input_embeddings().weight.numel()
    speed = measured_speed(precision).idle
    return Rates(FORWARD * 2.0 * weights * tokens_per_row / speed, 6.0 * _features(model) / speed)


def _features(model: Any) -> int:
    """Pooled states of a row that a readout reads."""
    return 2 * len(readout.layers_of(model)) * int(model.config.get_text_config().hidden_size)


def _fitting(model: Any, rows: int, labels: int) -> float:
    """Operations of the passes that fit a readout of so many rows."""
    return 6.0 * FIT_PASSES * rows * _features(model) * labels


def plan_data(base: str | Path, data: TuneData, options: TuneOptions, *, precision: str = "float32", world: int = 1) -> Forecast:
    """`plan` of a run on rows as they are: encoded with the base's tokenizer, answers included.

    A folder may hold `config.json` alone: the rows are then encoded with the embedded base's tokenizer.
    """
    from trafficllm.model.tokenizer.extend import load_auto
    from trafficllm.model.tuning.encode import Encoder
    from trafficllm.model.tuning.run import COPIES, Rows, readout_rows, reads_out

    folder = resolve(base)
    rows = Rows(data, Encoder(load_auto(folder if any(folder.glob("tokenizer*")) else default_base())), options)
    lengths = [len(rows.answer(answer, ids)) for answer, ids in zip(data.answers, rows.fixed, strict=True)]
    read = readout_rows(len(lengths), sum(lengths), options) if reads_out(data, options) else 0
    read = min(read, len(lengths) * (1 if data.augment is None else 1 + COPIES))
    return plan(base, lengths, options, precision=precision, world=world, read=read, labels=len(data.labels))
