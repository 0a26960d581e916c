"""`transformers.Trainer` with our batches, loss, validation and checkpoints (atomic, safetensors and JSON only)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback, ProgressCallback

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import atomic_dir, atomic_write, inside, read_json, sha256_file
from trafficllm.core.machine import Pace
from trafficllm.core.sealed import current_sha256, read_sealed, sealed
from trafficllm.model.adapter import lora
from trafficllm.model.tuning import processes
from trafficllm.model.tuning.callbacks import Clock, History
from trafficllm.model.tuning.collate import answer_loss, first
from trafficllm.model.tuning.forward import answer_output

STATE = "tune_state.json"
HEAD = "readout_head"
"""The model's submodule that a readout's loss is read from, while it is trained."""


KEPT = 2
"""Checkpoints of a run that are kept: the newest, and the one before it in case the newest turns out damaged."""


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first: a folder has its name only once it is complete, and its files their hashes."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdecimal()]
    return sorted((path for path in numbered if _is_whole(path)), key=lambda path: int(path.name.split("-")[1]))


def _is_whole(folder: Path) -> bool:
    try:
        state = read_sealed(folder / STATE, required=True)
        return all(current_sha256(inside(folder, name)) == digest for name, digest in state["files"].items())
    except (TrafficLLMError, OSError, KeyError, AttributeError):
        return False


class AnswerTrainer(Trainer):  # type: ignore[misc]
    """Trains on answers; its data set's items are whole batches in a fixed order.

    `validate(model)` returns {"val_loss", "val_macro_f1", ..., "score"}; the weights of the best score are kept.
    """

    control: Any

    def __init__(
        self,
        *,
        clock: Clock,
        history: History,
        validate: Any,
        full: float,
        smoothing: float,
        pace: Pace,
        sharded: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_collator=first, **kwargs)
        # The parameters reduce their own gradients then: accelerate must not wrap the model in DDP.
        self.is_distributed_loading_by_transformers = sharded
        self.clock, self.history, self.validate = clock, history, validate
        self.full, self.smoothing, self.pace = full, smoothing, pace
        self.best: dict[str, torch.Tensor] = {}
        self.figures: dict[str, float] = {}
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)

    def get_train_dataloader(self) -> Any:
        """The batches in their order; each process makes its own part, so nothing is dealt out here."""
        pin = self.args.dataloader_pin_memory
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=first, pin_memory=pin)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """One step; dropout, where there is any, is drawn from (seed, step) so that a resumed run draws the same."""
        torch.manual_seed((self.args.seed * 1_000_003 + self.state.global_step) * processes.world() + processes.rank())
        self.history.tokens += int(processes.total(int(inputs["attention_mask"].sum())))
        with self.pace.step(inputs["attention_mask"].numel()):
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(loss).all()):
            raise TrafficLLMError(
                "tune.diverged",
                f"the loss of step {self.state.global_step + 1} is {float(loss.mean())}: training has diverged",
                input=str(self.args.output_dir),
                where=f"step {self.state.global_step + 1}",
                hint="lower the learning rate; the last checkpoint is from before this step",
            )
        return loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Loss at the answer's positions, the head runs on nothing else; with a readout's head also of what it reads."""
        head = getattr(getattr(model, "module", model), HEAD, None)
        out = answer_output(model, inputs, states=head is not None)
        loss = answer_loss(out.logits, inputs, full=self.full, smoothing=self.smoothing)
        if head is not None:
            loss = loss + head.loss(out.hidden_states, inputs, seed=self.args.seed * 1_000_003 + self.state.global_step)
        return (loss, out.logits) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """One eval step; the weights are kept if they are the best so far."""
        mine: dict[str, float] = self.validate(self.model)
        figures = dict(zip(mine, processes.agreed(list(mine.values())), strict=True))
        self.model.train()
        if self.history.note(figures["score"], self.state.global_step):
            self.best, self.figures = lora.snapshot(self.model), figures
        self.log({key: value for key, value in figures.items() if key != "score"})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainable weights, best weights, optimizer and counters in one atomic folder; older ones go afterwards."""
        weights, moments = lora.snapshot(self.model), _optimizer_tensors(self.optimizer)
        with processes.in_turn() as first_process:
            if first_process:
                self._write(Path(self.args.output_dir), weights, moments)

    def _write(self, run: Path, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]) -> None:
        with atomic_dir(run / f"checkpoint-{self.state.global_step}", private=True) as folder:
            save_file(weights, str(folder / "weights.safetensors"))
            if self.best:
                save_file(self.best, str(folder / "best.safetensors"))
            save_file(moments, str(folder / "optimizer.safetensors"))
            self.state.save_to_json(str(folder / "trainer_state.json"))
            history = {**asdict(self.history), "best": self.history.best if self.history.looks else None}
            files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
            state = {"history": history, "seconds": self.clock.seconds(), "figures": self.figures, "files": files}
            atomic_write(folder / STATE, sealed(state))
        # The new one is on disk, its folder's name too: only now may an older one go.
        for path in checkpoints(run)[:-KEPT]:
            shutil.rmtree(path, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        lora.restore(self.model, load_file(str(folder / "weights.safetensors")))
        if (folder / "best.safetensors").is_file():
            self.best = load_file(str(folder / "best.safetensors"))
        saved = read_json(folder / STATE)
        for key, value in saved["history"].items():
            if value is not None:
                setattr(self.history, key, value)
        self.clock.before, self.figures = float(saved["seconds"]), saved["figures"]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors = load_file(str(Path(checkpoint) / "optimizer.safetensors"))
        state = self.optimizer.state_dict()
        state["state"] = {}
        trained = [value for group in self.optimizer.param_groups for value in group["params"]]
        for name, value in tensors.items():
            place, key = name.split(".", 1)
            laid = processes.like(trained[int(place)], value) if value.dim() else value
            state["state"].setdefault(int(place), {})[key] = laid
        self.optimizer.load_state_dict(state)
        step = int(read_json(Path(checkpoint) / "trainer_state.json")["global_step"])
        self.lr_scheduler.last_epoch = step
        rate = [base * scale(step) for base, scale in zip(self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas, strict=True)]
        for group, value in zip(self.optimizer.param_groups, rate, strict=True):
            group["lr"] = value
        self.lr_scheduler._last_lr = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: all randomness follows from the seed and the step."""


def _optimizer_tensors(optimizer: Any) -> dict[str, torch.Tensor]:
    return {
        f"{place}.{key}": processes.whole(value)
        for place, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
        if isinstance(value, torch.Tensor)
    }


def ordered_callbacks(trainer: AnswerTrainer, mine: Sequence[Any]) -> None:
    """Ours decide after the Trainer's own flow: they replace its step counting."""
    trainer.remove_callback(DefaultFlowCallback)
    trainer.add_callback(_Logging())
    for callback in mine:
        trainer.add_callback(callback)


class _Logging(DefaultFlowCallback):  # type: ignore[misc]
    """The Trainer's flow with its saving and evaluating left out; logging every `logging_steps` stays."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """The data set is one long pass: its end is the run's, which the last step has seen to."""
        control.should_evaluate = control.should_save = False
        return control
