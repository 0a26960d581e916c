"""Tuning in child processes that share the parent's loaded libraries: to be killed, or to work together over gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from model_samples import LABELS, prompt_of, records, save_model, save_tokenizer, traffic_tokens

from trafficllm.core.settings import TuneOptions
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.job import TuneData

QUICK = TuneOptions(epochs=6, batch_tokens=1024, learning_rate=5e-3, r=8, lora_alpha=16, logging_steps=1, looks=4, save_steps=5)


def make_base(place: Path, kind: str = "gpt2", config: str = "LlamaConfig", **extra: Any) -> Base:
    """A tiny random traffic base below `place`."""
    save_tokenizer(kind, place / "plain")
    save_model(place / "plain", config, **extra)
    make_traffic_base(place / "plain", traffic_tokens(), place / "traffic")
    return load_base(place / "traffic", dtype="float32")


def rows(count: int = 240, val: int = 60) -> TuneData:
    """Three classes that sizes and payload tell apart, with validation rows."""
    made, labels = records()
    return TuneData(
        prompts=[prompt_of(row) for row in made[:count]],
        answers=list(labels[:count]),
        labels=LABELS,
        val_prompts=[prompt_of(row) for row in made[-val:]] if val else (),
        val_answers=list(labels[-val:]) if val else (),
    )


def _enter(work: Callable[..., object], args: tuple[Any, ...], env: dict[str, str], log: Path) -> None:
    from accelerate.state import AcceleratorState

    os.environ.update(env)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        AcceleratorState._reset_state(reset_partial_state=True)  # the parent may have trained alone before
        try:
            work(*args)
        except BaseException:  # noqa: BLE001 - the child's whole fate goes to its log and exit code
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)


def fork(work: Callable[..., object], *args: Any, log: Path, env: dict[str, str] | None = None) -> BaseProcess:
    """Start `work(*args)` in a forked child; its output goes to `log`."""
    child = multiprocessing.get_context("fork").Process(target=_enter, args=(work, args, env or {}, log))
    child.start()
    return child


def together(work: Callable[..., object], *args: Any, folder: Path, world: int = 2) -> None:
    """Run `work(*args)` in `world` processes that find each other as torchrun would have them; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(world)}
    children = [
        fork(work, *args, log=folder / f"{rank}.log", env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world)
    ]
    for child in children:
        child.join(300)
    logs = "\n".join((folder / f"{rank}.log").read_text() for rank in range(world))
    assert [child.exitcode for child in children] == [0] * world, logs
