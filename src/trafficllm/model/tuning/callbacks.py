"""Callbacks of a tuning run: time budget, eval steps, early stopping, `metrics.jsonl`, progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trafficllm.core.files import atomic_write
from trafficllm.core.types import ProgressSink


@dataclass
class Clock:
    """Time and steps spent of a run's budget, over all its resumed parts. `before` seconds were spent by earlier parts; `agree`
    gives the first process's time in all of them; `source` is the clock that is read: wall time, or `time.process_time`."""

    total_steps: int
    max_seconds: float | None = None
    before: float = 0.0
    source: Callable[[], float] = time.monotonic
    started: float = math.nan
    agree: Callable[[float], float] | None = None
    now: float = 0.0

    def __post_init__(self) -> None:
        """The part begins now, unless it is said to have begun before."""
        if math.isnan(self.started):
            self.started = self.source()

    def tick(self) -> None:
        """With a time budget and several processes (`agree`): take the first one's time until the next tick."""
        if self.agree is not None:
            self.now = self.agree(self.seconds())

    def seconds(self) -> float:
        """Seconds spent so far."""
        return self.before + self.source() - self.started

    def share(self, step: int) -> float:
        """Share of the budget that is spent: by steps, or by time where that is further on."""
        by_step = step / max(self.total_steps, 1)
        spent = self.seconds() if self.agree is None else self.now
        by_time = spent / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(by_step, by_time))


def cosine(clock: Clock, warmup: float, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor of a step: linear warm-up over a share of the budget, then a cosine down to `floor`."""

    def factor(step: int) -> float:
        done = clock.share(step)
        if done < warmup:
            return max(0.02, done / warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))

    return factor


@dataclass
class History:
    """What a run must remember across a kill: tokens seen, best validation result, how long it has not improved."""

    tokens: int = 0
    best: float = -math.inf
    best_step: int = 0
    since_best: int = 0
    looks: int = 0

    def note(self, score: float, step: int) -> bool:
        """Record one eval step; whether it is the best so far."""
        self.looks += 1
        if score > self.best:
            self.best, self.best_step, self.since_best = score, step, 0
            return True
        self.since_best += 1
        return False


class MetricsFile:
    """`metrics.jsonl`: a line a logged step or eval step; a resumed run cuts what lies beyond its checkpoint.

    Of several processes the first writes (`path` is None in the others).
    """

    def __init__(self, path: Path | None, resume_step: int) -> None:
        self.path = path
        if path is None:
            return
        lines_before = []
        if resume_step and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [(_row(line), line) for line in lines]
            lines_before = [line for row, line in rows if row is not None and row["step"] <= resume_step]
        atomic_write(path, "".join(f"{line}\n" for line in lines_before))  # a kill while rewriting must not lose the lines before it

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; floats are rounded to 8 significant digits."""
        if self.path is None:
            return
        clean = {key: float(f"{value:.8g}") if isinstance(value, float) else value for key, value in row.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(clean, sort_keys=True) + "\n")


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # a line cut by a kill
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


class Watch(TrainerCallback):  # type: ignore[misc]
    """Stops at the end of the budget, asks for eval steps at even shares of it, saves, reports progress."""

    def __init__(self, clock: Clock, history: History, metrics: MetricsFile, progress: ProgressSink, *, stage: str, options: Any) -> None:
        self.clock, self.history, self.metrics = clock, history, metrics
        self.progress, self.stage, self.options = progress, stage, options
        # A logged loss is a mean since the last logged step: a checkpoint between two would cut that mean in half.
        self.save_every = math.ceil(options.save_steps / options.logging_steps) * options.logging_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a step: is it time to evaluate, save or stop?"""
        step = int(state.global_step)
        self.clock.tick()
        share = self.clock.share(step)
        last = share >= 1.0
        self.progress.update(self.stage, int(1000 * share), 1000)
        looks = self.options.looks
        due = int(share * looks) if share * looks >= self.options.first_look * looks else 0
        control.should_evaluate = bool(looks) and (due > self.history.looks or last)
        control.should_save = not last and step % self.save_every == 0
        control.should_training_stop = control.should_training_stop or last

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """A logged loss or eval step becomes a line of metrics.jsonl."""
        names = ("loss", "grad_norm", "learning_rate", "val_loss", "val_macro_f1", "val_accuracy")
        row = {key: value for key, value in (logs or {}).items() if key in names}
        if row:
            spent = round(self.clock.seconds(), 3)
            self.metrics.add({"step": int(state.global_step), "tokens": self.history.tokens, "seconds": spent, **row})

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop early where validation has not improved for `patience` eval steps."""
        if self.options.patience and self.history.since_best >= self.options.patience:
            control.should_training_stop = True
