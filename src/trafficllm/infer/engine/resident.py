"""Adapters in memory on one base, switched without loading: merged copies where they are small, PEFT's own layers else.

A merged copy shares the base's embeddings, norms and head and has linear weights of its own (7 MB for the embedded base); choosing one
is choosing a model, and its forward has no low-rank products left: 36 % less time a flow (bench/bench_engine.py). Above
`MERGE_BYTES` of linear weights an adapter stays a PEFT layer, a few MB whatever the base.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trafficllm.core.errors import ArtifactError
from trafficllm.model.adapter.layers import is_conv1d
from trafficllm.model.adapter.merged import merged_weights
from trafficllm.model.base.llama import LARGEST, Llama

MERGE_BYTES = LARGEST
"""Linear weights of a base up to which each resident adapter gets a merged copy: 16 M parameters in float32."""

LIMIT = 48
"""Adapters held at most, each member of a version counted, the least recently used dropped first: a service that sees an update a day must
not grow. Twelve tasks of three members are 36, 250 MB of merged copies."""


def own(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with modules of its own, to hang adapters on; its weights stay shared where device and dtype are the same."""
    tensors = [*model.parameters(), *model.buffers()]
    same = all(t.device.type == device.type and (t.dtype == dtype or not t.is_floating_point()) for t in model.parameters())
    copied = copy.deepcopy(model, {id(t): t for t in tensors} if same else {})
    return (copied if same else copied.to(device=device, dtype=dtype)).eval()


def _linear(model: Any) -> dict[int, torch.Tensor]:
    """Weights and biases that an adapter may change, by id: those of linear layers other than the head."""
    head = model.get_output_embeddings()
    layers = (m for m in model.modules() if (isinstance(m, nn.Linear) or is_conv1d(m)) and m is not head)
    return {id(tensor): tensor for layer in layers for tensor in layer.parameters(recurse=False)}


class Residents:
    """Named adapters of a model. Not thread-safe: the engine calls it under its lock.

    `merge` None merges where linear weights take at most `MERGE_BYTES`, True and False decide it. `short`: merged copies of a small Llama
    multiply in bfloat16 where the processor is faster at it.
    """

    def __init__(self, model: Any, *, merge: bool | None = None, short: bool = False) -> None:
        self.model, self.short = model, short
        small = isinstance(model, Llama) or sum(t.numel() * t.element_size() for t in _linear(model).values()) <= MERGE_BYTES
        self.merge = small if merge is None else merge
        self._peft: Any = None
        self._names: dict[str, str] = {}
        self._merged: dict[str, Any] = {}
        self._active = ""
        self._count = 0
        self._used: dict[str, None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the resident adapters."""
        return tuple(self._merged if self.merge else self._names)

    def add(self, name: str, folder: str) -> list[str]:
        """Load a checked PEFT folder under a name, replacing what the name stood for; returns the names that had to go for it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.merge:
                self._merged[name] = self._copy(folder)
            else:
                self._count += 1
                inner = f"a{self._count}"  # PEFT's names are module names: a task id with a dot would break them
                self._load(inner, folder)
                old, self._names[name] = self._names.get(name), inner
                self._forget(old)
        self._touch(name)
        gone = list(self._used)[:-LIMIT]
        for other in gone:
            self.remove(other)
        return gone

    def _touch(self, name: str) -> None:
        self._used.pop(name, None)
        self._used[name] = None

    def _copy(self, folder: str) -> Any:
        if isinstance(self.model, Llama):
            return self.model.changed(merged_weights(self.model.linear_weights(), Path(folder)), short=self.short)
        from peft import PeftModel

        changed = _linear(self.model)
        shared = {id(t): t for t in (*self.model.parameters(), *self.model.buffers()) if id(t) not in changed}
        plain = copy.deepcopy(self.model, shared)
        tuned = PeftModel.from_pretrained(plain, folder, local_files_only=True)
        return tuned.merge_and_unload().eval().requires_grad_(False)

    def _load(self, inner: str, folder: str) -> None:
        from peft import PeftModel

        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self.model, folder, adapter_name=inner, local_files_only=True)
        else:
            self._peft.load_adapter(folder, adapter_name=inner, local_files_only=True)
        self._peft.eval()
        self._active = ""

    def remove(self, name: str) -> None:
        """Drop an adapter; unknown names are ignored."""
        self._used.pop(name, None)
        self._merged.pop(name, None)
        self._forget(self._names.pop(name, None))

    def _forget(self, inner: str | None) -> None:
        if inner is None:
            return
        self._activate(next((other for other in self._names if self._names[other] != inner), ""))
        self._peft.delete_adapter(inner)
        self._active = ""

    def _activate(self, name: str) -> None:
        if name and name != self._active:
            self._peft.set_adapter(self._names[name])
        self._active = name

    @contextlib.contextmanager
    def active(self, name: str) -> Iterator[Any]:
        """The model with one adapter active ("" is the bare base); ArtifactError for a name that is not resident."""
        if name and name not in self.names:
            raise ArtifactError(
                "artifact.adapter",
                f"no adapter {name!r} is loaded",
                input=name,
                hint="register the task first: trafficllm adapter register",
            )
        if name:
            self._touch(name)
        if self.merge:
            yield self._merged[name] if name else self.model
            return
        self._activate(name)
        bare = not name and bool(self._names)  # without any adapter PEFT's layers are the base's own
        with self._peft.disable_adapter() if bare else contextlib.nullcontext():
            yield self.model
