"""The generator: a label in, flow plans out, written token by token under the codec's grammar.

A token is drawn from the model's whole distribution first; only where it cannot follow is it counted as prevented and
drawn again among those that can. That is exactly sampling from the masked distribution, but the mask is
computed for the few steps that need it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trafficllm.core.errors import UsageError
from trafficllm.core.files import hash64
from trafficllm.core.types import FlowPlan, Record
from trafficllm.infer.engine import Engine
from trafficllm.infer.forward import forward_at
from trafficllm.infer.token_mask import TokenMask
from trafficllm.records import codec, prompts
from trafficllm.records.catalog import Task
from trafficllm.records.grammar import Grammar, State

if TYPE_CHECKING:
    from transformers import DynamicCache

BATCH_FLOWS = 32
MAX_TOKENS = 640
"""Above the longest record of the default codec (385 units), so the grammar ends a record, never this limit."""


@dataclass(slots=True)
class _Row:
    """One flow being written: its grammar state, its tokens and its own random numbers."""

    at: int
    state: State
    draws: Sequence[tuple[float, float]]
    tokens: list[int] = field(default_factory=list)


class Generator:
    """Samples flows of a label with one adapter.

    `prevented` counts, by place in the record, how often the model's own choice was not allowed; `sampled` all choices.
    The same seed gives the same flows; flow i does not depend on how many are asked for.
    """

    def __init__(self, engine: Engine, adapter: str, *, options: codec.CodecOptions = codec.DEFAULT) -> None:
        self.engine = engine
        self.adapter = adapter
        self.mask = TokenMask(engine.base.tokenizer.get_vocab(), Grammar(options))
        self.prevented: Counter[str] = Counter()
        self.sampled = 0

    def plans(self, task: Task, label: str, n: int, *, seed: int = 0, temperature: float = 1.0) -> Iterator[FlowPlan]:
        """`n` flow plans of a label, a batch at a time. UsageError for a negative temperature or count."""
        from trafficllm.records.plan import plan_of

        for i, record in enumerate(self.records(task, label, n, seed=seed, temperature=temperature)):
            # Equal records must not get equal made-up bytes: what hidden runs are filled with differs from flow to flow.
            yield plan_of(record, label=label, seed=hash64(f"{seed}/{i}".encode()) >> 1)

    def records(self, task: Task, label: str, n: int, *, seed: int = 0, temperature: float = 1.0) -> Iterator[Record]:
        """As `plans`, the decoded records themselves. Temperature 0 takes the likeliest allowed token."""
        if temperature < 0 or n < 0:
            raise UsageError("usage.option", "temperature and number of flows must not be negative", input=f"{n}, {temperature}")
        prompt = self.engine.encoder.prompt(prompts.generation(task, label))
        for first in range(0, n, BATCH_FLOWS):
            rows = [self._row(f"{seed}/{task.id}/{label}/{i}", i - first) for i in range(first, min(n, first + BATCH_FLOWS))]
            self._write(prompt, rows, temperature)
            for row in rows:
                yield codec.decode("".join(self.mask.surfaces[token] for token in row.tokens))

    def _row(self, name: str, at: int) -> _Row:
        own = torch.Generator().manual_seed(hash64(name.encode()) >> 1)
        draws = torch.rand(MAX_TOKENS, 2, generator=own, dtype=torch.float64).tolist()
        return _Row(at, self.mask.start(), draws)

    def _write(self, prompt: Sequence[int], rows: list[_Row], temperature: float) -> None:
        """Sample all rows to their end; finished rows leave the batch."""
        cache, logits = self._open(prompt, len(rows))
        live = rows
        while live:
            tokens = self._choose(live, logits, temperature)
            for row, token in zip(live, tokens, strict=True):
                row.tokens.append(token)
            open_rows = [k for k, row in enumerate(live) if not self.mask.grammar.accepts(row.state)]
            if len(open_rows) < len(live):
                live = [live[k] for k in open_rows]
                tokens = [tokens[k] for k in open_rows]
                if live:
                    cache.batch_select_indices(torch.tensor(open_rows, device=self.engine.device))
            if live:
                logits = self._next(tokens, cache)

    def _open(self, prompt: Sequence[int], rows: int) -> tuple[DynamicCache, torch.Tensor]:
        from transformers import DynamicCache

        cache = DynamicCache()
        tokens = torch.tensor([list(prompt)], device=self.engine.device)
        with self.engine.using(self.adapter) as model:
            logits, _ = forward_at(model, tokens, torch.tensor([[len(prompt) - 1]]), cache)
            cache.batch_repeat_interleave(rows)
        return cache, logits[:, 0].expand(rows, -1)

    def _next(self, tokens: list[int], cache: DynamicCache) -> torch.Tensor:
        step = torch.tensor(tokens, device=self.engine.device)[:, None]
        with self.engine.using(self.adapter) as model:
            logits, _ = forward_at(model, step, torch.zeros_like(step), cache)
        return logits[:, 0]

    def _choose(self, live: list[_Row], logits: torch.Tensor, temperature: float) -> list[int]:
        """One allowed token a row, and the rows' new states."""
        values = logits.double().cpu().numpy()
        firsts = [row.draws[len(row.tokens)][0] for row in live]
        chosen = _draw(values, np.asarray(firsts), temperature)
        out: list[int] = []
        for row, token, own in zip(live, chosen.tolist(), values, strict=True):
            state = self.mask.step(row.state, token)
            if state is None:
                self.prevented[str(row.state[0])] += 1
                may = self.mask.allowed(row.state)
                again = _draw(own[None, may], np.asarray([row.draws[len(row.tokens)][1]]), temperature)
                token = int(may[int(again[0])])
                state = self.mask.step(row.state, token)
                assert state is not None
            row.state = state
            out.append(token)
        self.sampled += len(live)
        return out


def _draw(logits: np.ndarray[Any, np.dtype[np.float64]], u: np.ndarray[Any, Any], temperature: float) -> np.ndarray[Any, Any]:
    """A column a row [n] by inverse distribution function from uniform numbers `u` [n] in [0, 1)."""
    if temperature == 0:
        return np.asarray(logits.argmax(axis=1))
    p = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    total = p.cumsum(axis=1)
    return np.asarray(np.minimum((total <= (u * total[:, -1])[:, None]).sum(axis=1), logits.shape[1] - 1))
