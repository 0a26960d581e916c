"""Language-model training on packed blocks: the plain base from scratch, and its continued training on traffic records.

Runs on `transformers.Trainer`; the learning rate follows the share of the time or step budget that is spent, so that
a run bounded by `max_seconds` still ends at the foot of its cosine. Checkpoints are the Trainer's; the same call resumes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PretrainOptions:
    """One run. `batch_size` blocks a step; `max_seconds` or `max_steps`, whichever comes first; `warmup` a share of the run.

    `half`: bfloat16 autocast, for processors where it is faster (always on a GPU); `compiled`: `torch.compile`, worth its half
    minute where all batches have one shape (measured on one AVX-512 core: 2.1 k tokens/s, 3.1 k half, 5.2 k both).
    """

    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup: float = 0.02
    max_steps: int = 1_000_000
    max_seconds: float = 600.0
    save_steps: int = 500
    log_steps: int = 50
    seed: int = 0
    weight_decay: float = 0.01
    half: bool = False
    compiled: bool = False


def pack(sequences: Iterable[list[int]], *, block: int, eos: int, first: Sequence[int] = ()) -> Blocks:
    """Join token lists with `eos` between them and cut into rows of `block` tokens: int32 [rows, block]; the rest is dropped. Each row
    begins with `first`, where a model looks for its beginning-of-sequence token."""
    stream: list[int] = []
    for ids in sequences:
        stream.extend(ids)
        stream.append(eos)
    own = block - len(first)
    rows = len(stream) // own
    cut = np.asarray(stream[: rows * own], dtype=np.int32).reshape(rows, own)
    return np.hstack([np.tile(np.asarray(first, dtype=np.int32), (rows, 1)), cut])


class _BlockData:
    """A map-style data set over an epoch-shuffled view of the blocks."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return int(self.blocks.shape[0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch

        row = torch.from_numpy(self.blocks[index].astype(np.int64))
        return {"input_ids": row, "labels": row}


def _schedule(options: PretrainOptions, clock: dict[str, float]) -> Any:
    def factor(step: int) -> float:
        spent = time.monotonic() - clock["start"] + clock["before"]
        done = min(1.0, max(step / options.max_steps, spent / options.max_seconds))
        if done < options.warmup:
            return max(0.02, done / options.warmup)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (done - options.warmup) / (1 - options.warmup)))

    return factor


def _optimizers(model: Any, options: PretrainOptions, clock: dict[str, float]) -> tuple[Any, Any]:
    """AdamW and its learning rate by the clock."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(options, clock))


def _arguments(out: Path, options: PretrainOptions, *, batch_size: int, skip: bool = False) -> Any:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=batch_size,
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        seed=options.seed,
        data_seed=options.seed,
        logging_steps=options.log_steps,
        save_steps=options.save_steps,
        save_total_limit=2,  # the one before the newest too, in case that turns out damaged
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=options.half or torch.cuda.is_available(),
        torch_compile=options.compiled,
        max_grad_norm=1.0,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        ignore_data_skip=skip,
    )


def whole_checkpoints(out: Path) -> list[Path]:
    """Checkpoints of the Trainer that can be read, oldest first: it writes them file by file, so a kill leaves half of one."""
    numbered = [path for path in out.glob("checkpoint-*") if path.name.split("-")[1].isdecimal()]
    return sorted((path for path in numbered if _is_whole(path)), key=lambda path: int(path.name.split("-")[1]))


def _is_whole(folder: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    from trafficllm.core.errors import TrafficLLMError
    from trafficllm.core.files import read_json

    try:
        read_json(folder / "trainer_state.json")
        with safe_open(str(folder / "model.safetensors"), framework="pt") as stream:
            return bool(list(stream.keys())) and (folder / "optimizer.pt").stat().st_size > 0 and (folder / "scheduler.pt").is_file()
    except (TrafficLLMError, SafetensorError, OSError):
        return False


def pretrain(model: Any, blocks: Blocks, out: Path, *, held_out: Blocks, options: PretrainOptions, resume: bool = True) -> dict[str, float]:
    """Train `model` in place on next-token prediction and return its figures.

    Returns `{"steps", "tokens", "seconds", "tokens_per_second", "train_loss", "held_out_loss"}`; losses are nats a token.
    """
    from transformers import Trainer, TrainerCallback

    clock = {"start": time.monotonic(), "before": 0.0}

    class Budget(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if time.monotonic() - clock["start"] + clock["before"] >= options.max_seconds:
                control.should_training_stop = True

    trainer = Trainer(
        model=model,
        args=_arguments(out, options, batch_size=options.batch_size),
        train_dataset=_BlockData(blocks),
        optimizers=_optimizers(model, options, clock),
        callbacks=[Budget()],
    )
    last = whole_checkpoints(out)
    result = trainer.train(resume_from_checkpoint=str(last[-1]) if resume and last else None)
    seconds = time.monotonic() - clock["start"]
    steps = int(result.global_step)
    tokens = steps * options.batch_size * blocks.shape[1]
    return {
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "train_loss": float(result.training_loss),
        "held_out_loss": held_out_loss(model, held_out, options.batch_size),
    }


class _Steps:
    """Batches by their number, from `start` on: a resumed run asks for none that came before."""

    def __init__(self, make: Callable[[int], dict[str, Any]], total: int, start: int) -> None:
        self.make, self.total, self.start = make, total, start

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.make(index + self.start)


def continue_on(
    model: Any, make: Callable[[int], dict[str, Any]], out: Path, *, options: PretrainOptions, resume: bool = True
) -> dict[str, float]:
    """Train `model` in place on a mixture: `make(step)` gives a step's batch, as a function of the step alone.

    A batch with `target` is learnt at its answers (model.collate), any other by next-token prediction; these are of one shape, and
    what `compiled` compiles. The same call resumes, its seconds counted on. Returns `{"steps", "seconds", "train_loss"}`.
    """
    import torch
    from transformers import Trainer, TrainerCallback

    from trafficllm.core.files import read_json, write_json
    from trafficllm.model.tuning.collate import answer_loss, first
    from trafficllm.model.tuning.forward import answer_logits

    last = whole_checkpoints(out) if resume else []
    spent = float(read_json(out / "seconds.json")["seconds"]) if last else 0.0
    start = int(last[-1].name.split("-")[1]) if last else 0
    clock = {"start": time.monotonic(), "before": spent}

    def seconds() -> float:
        return time.monotonic() - clock["start"] + clock["before"]

    class Budget(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if seconds() >= options.max_seconds:
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            write_json(out / "seconds.json", {"seconds": seconds()})

    blockwise = torch.compile(model) if options.compiled else model

    class Mixed(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            if "target" not in inputs:
                outputs = blockwise(**inputs)
                return (outputs.loss, outputs) if return_outputs else outputs.loss
            logits = answer_logits(model, inputs)
            loss = answer_loss(logits, inputs, full=1.0)
            return (loss, logits) if return_outputs else loss

    trainer = Mixed(
        model=model,
        args=_arguments(out, replace(options, compiled=False), batch_size=1, skip=True),
        data_collator=first,
        train_dataset=_Steps(make, options.max_steps, start),
        optimizers=_optimizers(model, options, clock),
        callbacks=[Budget()],
    )
    result = trainer.train(resume_from_checkpoint=str(last[-1]) if last else None)
    return {"steps": int(result.global_step), "seconds": seconds(), "train_loss": float(result.training_loss)}


def held_out_loss(model: Any, blocks: Blocks, batch_size: int) -> float:
    """Mean next-token loss in nats over `blocks` [rows, block]."""
    import torch

    device = next(model.parameters()).device
    model.eval()
    total, rows = 0.0, 0
    with torch.inference_mode():
        for start in range(0, blocks.shape[0], batch_size):
            ids = torch.from_numpy(blocks[start : start + batch_size].astype(np.int64)).to(device)
            total += float(model(input_ids=ids, labels=ids).loss) * ids.shape[0]
            rows += ids.shape[0]
    return total / max(rows, 1)
