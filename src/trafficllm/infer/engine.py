"""The engine: prompts in, label probabilities out, with many adapters resident on one base.

A batch costs one forward over the prompts (the labels' first tokens), and one short forward over the label tree's
inner tokens where first tokens do not tell labels apart. Nothing is generated, so nothing can be malformed.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import F64, Prompt, Scores
from trafficllm.infer.label_tree import LabelTree
from trafficllm.infer.prefix import PrefixCache, shared_prefix
from trafficllm.model.encode import Encoder
from trafficllm.model.trie import LabelTrie

if TYPE_CHECKING:
    from trafficllm.model.load import Base

BATCH_TOKENS = 2048
"""Prompt tokens of a batch, padding included. One core, 2 M parameters, 174 tokens a flow: 1024 and 2048 19 ms a flow, 4096 22,
8192 25: larger batches leave the cache."""
LOGIT_VALUES = 1 << 26
"""At most this many logits at once (256 MiB in float32): 500 labels over a 150 k vocabulary split their batch."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """A closed set of answers, tokenized once."""

    labels: tuple[str, ...]
    tree: LabelTree


class Engine:
    """One base model with its adapters.

    Safe to share between threads: a lock is held for each batch, in which exactly one adapter is active. The base's own
    model is left as it is (weights are shared, modules are not), so it can be tuned further beside an engine.

    >>> engine = Engine(load_base(default_base()))                 # doctest: +SKIP
    >>> engine.add_adapter("MTD", "registry/MTD/1")                # doctest: +SKIP
    >>> engine.score(prompts, ("Neris", "Zeus"), adapter="MTD")    # doctest: +SKIP
    """

    def __init__(self, base: Base, *, device: str = "cpu", dtype: str = "auto") -> None:
        self.base = base
        self.device = torch.device(device)
        self.encoder = Encoder(base.tokenizer)
        target = base.model.dtype if dtype == "auto" else getattr(torch, dtype)
        self.model = _own(base.model, self.device, target)
        self.lock = threading.RLock()
        self._peft: Any = None
        self._names: dict[str, str] = {}
        self._active = ""
        self._count = 0
        self._prefixes = PrefixCache()
        self._sets: dict[tuple[str, ...], LabelSet] = {}

    # Adapters

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the resident adapters."""
        return tuple(self._names)

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Load a PEFT adapter folder under a name, replacing what the name stood for.

        Raises ArtifactError with all reasons where it does not fit the base; nothing is unpickled.
        """
        from trafficllm.model.guard import check_adapter

        check_adapter(Path(folder), self.base)
        with self.lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._count += 1
            inner = f"a{self._count}"  # PEFT's names are module names: a task id with a dot would break them
            self._load(inner, str(folder))
            old, self._names[name] = self._names.get(name), inner
            self._forget(name, old)

    def _load(self, inner: str, folder: str) -> None:
        from peft import PeftModel

        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self.model, folder, adapter_name=inner, local_files_only=True)
        else:
            self._peft.load_adapter(folder, adapter_name=inner, local_files_only=True)
        self._peft.eval()
        self._active = ""

    def remove_adapter(self, name: str) -> None:
        """Drop a resident adapter; unknown names are ignored."""
        with self.lock:
            self._forget(name, self._names.pop(name, None))

    def _forget(self, name: str, inner: str | None) -> None:
        self._prefixes.forget(name)
        if inner is None:
            return
        self._activate(next((other for other in self._names if self._names[other] != inner), ""))
        self._peft.delete_adapter(inner)
        self._active = ""

    def _activate(self, name: str) -> None:
        if name == self._active and name:
            return
        if name and name not in self._names:
            raise ArtifactError(
                "artifact.adapter",
                f"no adapter {name!r} is loaded",
                input=name,
                hint="register the task first: trafficllm adapter register",
            )
        if name:
            self._peft.set_adapter(self._names[name])
        self._active = name

    @contextlib.contextmanager
    def using(self, adapter: str) -> Iterator[nn.Module]:
        """The model with one adapter active ("" is the bare base), alone, in inference mode."""
        with self.lock, torch.inference_mode():
            self._activate(adapter)
            bare = not adapter and self._peft is not None
            with self._peft.disable_adapter() if bare else contextlib.nullcontext():
                yield self.model

    # Scoring

    def label_set(self, labels: Sequence[str]) -> LabelSet:
        """Tokenize a closed set of answers (kept: a service asks for the same few sets again and again)."""
        key = tuple(labels)
        if key not in self._sets:
            trie = LabelTrie.of(key, [self.encoder.label(label) for label in key], self.encoder.eos)
            self._sets[key] = LabelSet(key, LabelTree.of(trie))
        return self._sets[key]

    def score(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[str],
        *,
        adapter: str = "",
        batch_tokens: int = BATCH_TOKENS,
    ) -> Scores:
        """Probability of each label as the answer to each prompt; rows sum to 1.

        Prompts are encoded, sorted by length and run in batches of at most `batch_tokens` tokens; the result
        does not depend on the batching (within 1e-4 in float32, 1e-2 in bfloat16).
        """
        ids = self.encoder.prompts(prompts) if prompts else []
        return self.score_ids(ids, labels, adapter=adapter, batch_tokens=batch_tokens)

    def score_ids(
        self,
        ids: Sequence[Sequence[int]],
        labels: Sequence[str],
        *,
        adapter: str = "",
        batch_tokens: int = BATCH_TOKENS,
        prefix: tuple[int, ...] | None = None,
    ) -> Scores:
        """As `score`, for prompts that are token ids already; `prefix` is their known common beginning."""
        answer = self.label_set(labels)
        shared = shared_prefix(ids) if prefix is None else prefix
        same, rows_of = _distinct(ids)
        limit = max(1, LOGIT_VALUES // (self._vocabulary * (len(answer.tree.tokens) + 1)))
        flat = np.zeros((len(same), answer.tree.columns))
        hidden: dict[int, Any] = {}
        for batch in batches([len(row) - len(shared) for row in same], batch_tokens, limit):
            flat[batch], vectors = self._batch([same[i] for i in batch], answer.tree, adapter, shared)
            hidden.update(zip(batch, vectors, strict=True))
        log_p = answer.tree.log_probabilities(flat)[rows_of]
        states = np.stack([hidden[i] for i in rows_of]) if len(rows_of) else None
        return Scores(answer.labels, _normalised(log_p), log_p, states)

    @property
    def _vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    def _batch(
        self, ids: list[Sequence[int]], tree: LabelTree, adapter: str, prefix: tuple[int, ...]
    ) -> tuple[F64, np.ndarray[Any, np.dtype[np.float32]]]:
        """Raw logits of the tree's columns [rows, columns] and hidden states [rows, width] of one batch."""
        with self.using(adapter) as model:
            cache = None
            if prefix:
                cache = self._prefixes.batch(adapter, prefix, len(ids), lambda head: self._prefill(model, head))
            elif tree.tokens:
                cache = DynamicCache()
            lengths = torch.tensor([len(row) - len(prefix) for row in ids], device=self.device)
            # Padding on the right needs no mask: causal attention never looks ahead, and positions stay true.
            tokens = _padded([row[len(prefix) :] for row in ids]).to(self.device)
            logits, hidden = forward_at(model, tokens, (lengths - 1)[:, None], cache)
            parts = [logits[:, 0]]
            if tree.tokens and self._narrow(max(len(row) for row in ids) + int(tree.depth.max())):
                parts += self._branch_by_branch(model, tree, ids)
            elif tree.tokens:
                parts += list(self._branch(model, tree, cache, lengths + len(prefix)).unbind(1))
            columns = [parts[node + 1][:, list(children)] for node, children in tree.choices]
            flat = torch.cat(columns, 1) if columns else logits[:, 0, :0]
            return flat.double().cpu().numpy(), hidden[:, 0].float().cpu().numpy()

    def _prefill(self, model: nn.Module, prefix: tuple[int, ...]) -> DynamicCache:
        cache = DynamicCache()
        forward_at(model, torch.tensor([prefix], device=self.device), torch.zeros((1, 1), dtype=torch.long), cache)
        return cache

    def _branch(
        self, model: nn.Module, tree: LabelTree, cache: DynamicCache | None, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Logits after each inner token of the label tree, all in one forward under a tree-shaped mask."""
        assert cache is not None
        rows, inner = len(lengths), len(tree.tokens)
        tokens = torch.tensor([tree.tokens], device=self.device).expand(rows, -1)
        depth = torch.from_numpy(tree.depth).to(self.device)
        held = int(cache.get_seq_length())
        before = torch.arange(held, device=self.device)[None, :] < lengths[:, None]
        sees = torch.zeros(rows, 1, inner, held + inner, dtype=torch.bool, device=self.device)
        sees[..., :held] = before[:, None, None, :]
        sees[..., held:] = torch.from_numpy(tree.sees).to(self.device)
        at = torch.arange(inner, device=self.device).expand(rows, -1)
        positions = lengths[:, None] - 1 + depth[None, :]
        logits, _ = forward_at(model, tokens, at, cache, mask=sees, positions=positions)
        return logits

    def _narrow(self, length: int) -> bool:
        """Whether some layer sees less than `length` tokens back: a mask of our own would widen its window."""
        config = self.model.config.get_text_config()
        return length > (getattr(config, "sliding_window", None) or length)

    def _branch_by_branch(
        self, model: nn.Module, tree: LabelTree, ids: list[Sequence[int]]
    ) -> list[torch.Tensor]:
        """As `_branch`, one plain forward over prompt and path for each inner token."""
        out = []
        for k in range(len(tree.tokens)):
            path = tree.path(k)
            tokens = _padded([[*row, *path] for row in ids]).to(self.device)
            at = torch.tensor([[len(row) + len(path) - 1] for row in ids])
            out.append(forward_at(model, tokens, at)[0][:, 0])
        return out


def _own(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with modules of its own, to hang adapters on; its weights stay shared where device and dtype are the same."""
    tensors = [*model.parameters(), *model.buffers()]
    same = all(t.device.type == device.type and (t.dtype == dtype or not t.is_floating_point()) for t in model.parameters())
    copied = copy.deepcopy(model, {id(t): t for t in tensors} if same else {})
    return (copied if same else copied.to(device=device, dtype=dtype)).eval()


def forward_at(
    model: Any,
    tokens: torch.Tensor,
    at: torch.Tensor,
    cache: DynamicCache | None = None,
    *,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [rows, k, vocabulary] and hidden states [rows, k, width] at positions `at` [rows, k] only.

    The gathering sits before the output matrix, so whatever scaling or capping a model applies to its logits
    still happens, and the vocabulary is never multiplied with positions nobody asks for. `mask` is boolean,
    True where a token may look.
    """
    kept: list[torch.Tensor] = []

    def gather(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        index = at.to(args[0].device)[:, :, None].expand(-1, -1, args[0].shape[-1])
        kept.append(args[0].gather(1, index))
        return (kept[-1], *args[1:])

    extra: dict[str, Any] = {}
    if mask is not None:
        lowest = torch.finfo(model.dtype).min
        extra["attention_mask"] = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
    if positions is not None:
        extra["position_ids"] = positions
    handle = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        out = model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None, **extra)
    finally:
        handle.remove()
    return out.logits, kept[0]


def batches(lengths: Sequence[int], batch_tokens: int, rows: int) -> Iterator[list[int]]:
    """Indices in batches of like length: at most `batch_tokens` padded tokens and `rows` rows, longest first.

    >>> [sorted(b) for b in batches([3, 9, 4], 9, 8)]
    [[1], [0, 2]]
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) >= rows or (len(batch) + 1) * lengths[batch[0]] > batch_tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _distinct(ids: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[int]]:
    """Different prompts, and for each prompt which of them it is: scanners and beacons repeat themselves."""
    place: dict[tuple[int, ...], int] = {}
    rows = [place.setdefault(tuple(row), len(place)) for row in ids]
    return [list(row) for row in place], rows


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], dtype=torch.long)


def _normalised(log_p: F64) -> F64:
    if not log_p.size:
        return log_p
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))
