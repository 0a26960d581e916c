"""The generator: a label in, flow plans out, written token by token under the codec's grammar.

A token is drawn from the model's distribution over all codec tokens first; only where it cannot follow is it counted as
prevented and drawn again among those that can. That is exactly sampling from the masked distribution, but the mask is
computed for the few steps that need it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from trafficllm.core.errors import UsageError
from trafficllm.core.files import hash64
from trafficllm.core.types import FlowPlan, Record
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.forward import forward_at, new_cache
from trafficllm.infer.generator.token_mask import TokenMask
from trafficllm.records import prompts
from trafficllm.records.catalog import Task
from trafficllm.records.codec import codec, values
from trafficllm.records.codec.grammar import Grammar, State

if TYPE_CHECKING:
    from trafficllm.infer.engine.forward import Cache

BATCH_FLOWS = 128
"""Flows written side by side: a step's fixed cost (Python, small matrices) is shared by so many."""
_COMPACT = 0.25
"""Share of finished rows at which the batch is made smaller: every time costs a copy of the cache."""
_CROP = 64
"""Columns of the cache that no row looks at any more before they are dropped."""


@dataclass(slots=True)
class _Row:
    """One flow being written: its number, grammar state, own random numbers and tokens; `start` is where its prompt lies in the cache."""

    at: int
    mask: TokenMask
    state: State
    chance: random.Random
    head: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    start: int = 0
    done: bool = False


class Generator:
    """Samples flows of a label with one adapter.

    `values` are tables of `records.values` by label: heads that flows begin with, and what windows, TTLs and gaps of a bucket really
    are. `prevented` counts, by place in the record, how often the model's own choice was not allowed ("whole": a record, but not one
    of the head's number of packets with every field); `sampled` all choices. The same arguments give the same flows; flow i does not
    depend on how many are asked for, but for what rounding in batches of other sizes may tip.
    """

    def __init__(
        self, engine: Engine, adapter: str, *, options: codec.CodecOptions = codec.DEFAULT, values: Mapping[str, values.Table] | None = None
    ) -> None:
        self.engine = engine
        self.adapter = adapter
        self.values = values or {}
        self.mask = TokenMask(engine.base.tokenizer.get_vocab(), Grammar(options))
        self.columns = np.asarray(sorted(self.mask.surfaces), np.int64)
        self._tokens = torch.from_numpy(self.columns).to(engine.device)
        self.prevented: Counter[str] = Counter()
        self.sampled = 0

    def plans(self, task: Task, label: str, n: int, *, seed: int = 0, temperature: float = 1.0) -> Iterator[FlowPlan]:
        """`n` flow plans of a label, a batch at a time. UsageError for a negative temperature or count."""
        from trafficllm.records.codec.plan import plan_of

        table = self.values.get(label, {})
        for i, record in enumerate(self.records(task, label, n, seed=seed, temperature=temperature)):
            # Equal records must not get equal made-up bytes: what hidden runs are filled with differs from flow to flow.
            own = hash64(f"{seed}/{i}".encode()) >> 1
            yield plan_of(values.drawn(record, table, random.Random(own)), label=label, seed=own)

    def records(self, task: Task, label: str, n: int, *, seed: int = 0, temperature: float = 1.0) -> Iterator[Record]:
        """As `plans`, the decoded records themselves. Temperature 0 takes the likeliest allowed token."""
        if temperature < 0 or n < 0:
            raise UsageError("usage.option", "temperature and number of flows must not be negative", input=f"{n}, {temperature}")
        prompt = self.engine.encoder.prompt(prompts.generation(task, label))
        rows = (self._row(i, label, random.Random(hash64(f"{seed}/{task.id}/{label}/{i}".encode()))) for i in range(n))
        waiting: dict[int, Record] = {}
        due = 0
        for row in self._written(prompt, rows, temperature):
            waiting[row.at] = codec.decode("".join(self.mask.surfaces[token] for token in row.tokens))
            while due in waiting:
                yield waiting.pop(due)
                due += 1

    def _row(self, at: int, label: str, chance: random.Random) -> _Row:
        """A flow to write: its head is drawn from what the label's training flows had, the model goes on from there."""
        units, packets = values.head(self.values.get(label, {}), chance)
        head = self.engine.encoder.units(units)[::-1] if units else []
        return _Row(at, self.mask.exactly(packets), self.mask.start(), chance, list(head))

    def _written(self, prompt: Sequence[int], rows: Iterator[_Row], temperature: float) -> Iterator[_Row]:
        """Rows as they end. The place of one that ended is taken by the next, which begins where the others are: behind its own
        copy of the prompt's keys and values, blind to all before. Flows of 20 and of 200 tokens then share every step."""
        batch = list(islice(rows, BATCH_FLOWS))
        if not batch:
            return
        cache, first = self._open(prompt)
        refill = not any(layer.is_sliding for layer in cache.layers)
        head = [(layer.keys, layer.values) for layer in cache.layers]
        cache.batch_repeat_interleave(len(batch))
        tokens = self._choose(batch, first.expand(len(batch), -1), temperature)
        while batch:
            logits = self._next(tokens, batch, cache)
            tokens = self._choose(batch, logits, temperature)
            for k, row in enumerate(batch):
                if not row.done or row.start < 0:
                    continue
                yield row
                row.start = -1
                for new in islice(rows, 1) if refill else ():
                    batch[k], tokens[k] = new, self._choose([new], first, temperature)[0]
                    new.start = cache.get_seq_length() - len(prompt)
                    _put(cache, head, k)
            batch, tokens = self._smaller(batch, tokens, cache)
            if not batch and not refill:
                yield from self._written(prompt, rows, temperature)

    def _open(self, prompt: Sequence[int]) -> tuple[Cache, torch.Tensor]:
        """The prompt's keys and values, and the logits [1, columns] behind it."""
        cache = new_cache(self.engine.model, sliding=True)
        tokens = torch.tensor([list(prompt)], device=self.engine.device)
        with self.engine.using(self.adapter) as model:
            logits = forward_at(model, tokens, torch.tensor([[len(prompt) - 1]]), cache, columns=self._tokens).logits
        return cache, logits[:, 0]

    def _next(self, tokens: list[int], batch: list[_Row], cache: Cache) -> torch.Tensor:
        step = torch.tensor(tokens, device=self.engine.device)[:, None]
        starts = torch.tensor([max(row.start, 0) for row in batch], device=self.engine.device)[:, None]
        held = cache.get_seq_length()
        sees = torch.arange(held + 1, device=self.engine.device) >= starts
        plain = not bool(starts.any())
        with self.engine.using(self.adapter) as model:
            seen = forward_at(
                model,
                step,
                torch.zeros_like(step),
                cache,
                columns=self._tokens,
                mask=None if plain else sees[:, None, None, :],
                positions=held - starts,
            )
        return seen.logits[:, 0]

    def _smaller(self, batch: list[_Row], tokens: list[int], cache: Cache) -> tuple[list[_Row], list[int]]:
        """The batch without finished rows where they are many, and the cache without what no row sees."""
        keep = [k for k, row in enumerate(batch) if not row.done]
        if len(keep) <= (1 - _COMPACT) * len(batch):
            batch, tokens = [batch[k] for k in keep], [tokens[k] for k in keep]
            if keep:
                cache.batch_select_indices(torch.tensor(keep, device=self.engine.device))
        unseen = min((row.start for row in batch if not row.done), default=0)
        if unseen >= _CROP:
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unseen:].clone(), layer.values[:, :, unseen:].clone()
            for row in batch:
                row.start -= unseen if not row.done else 0
        return batch, tokens

    def _choose(self, batch: list[_Row], logits: torch.Tensor, temperature: float) -> list[int]:
        """One allowed token a row, and the rows' new states; a finished row repeats its last token."""
        chances = np.asarray([0.0 if row.done else row.chance.random() for row in batch])
        next_tokens: list[int] = self.columns[_draw(logits, chances, temperature)].tolist()
        for k, row in enumerate(batch):
            if row.done:
                next_tokens[k] = row.tokens[-1]
                continue
            if row.head:
                next_tokens[k] = row.head.pop()
            state = row.mask.step(row.state, next_tokens[k])
            if state is None:
                steered = self.mask.step(row.state, next_tokens[k]) is not None
                self.prevented["whole" if steered else str(row.state[0])] += 1
                next_tokens[k], state = self._again(row, logits[k], temperature)
            row.state, row.mask = state, row.mask.after(next_tokens[k])
            row.tokens.append(next_tokens[k])
            row.done = row.mask.grammar.accepts(state)
            self.sampled += 1
        return next_tokens

    def _again(self, row: _Row, logits: torch.Tensor, temperature: float) -> tuple[int, State]:
        """A token among those that may follow."""
        may = row.mask.allowed(row.state)
        own = logits[torch.from_numpy(np.searchsorted(self.columns, may))][None]
        token = int(may[_draw(own, np.asarray([row.chance.random()]), temperature)[0]])
        state = row.mask.step(row.state, token)
        assert state is not None
        return token, state


def _put(cache: Cache, head: Sequence[tuple[torch.Tensor, torch.Tensor]], row: int) -> None:
    """A prompt's keys and values [1, heads, length, width] a layer, at the end of one row of the cache."""
    with torch.inference_mode():
        for layer, (keys, values) in zip(cache.layers, head, strict=True):
            layer.keys[row, :, -keys.shape[2] :] = keys[0]
            layer.values[row, :, -values.shape[2] :] = values[0]


def _draw(logits: torch.Tensor, u: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.int64]:
    """A column a row [n] by inverse distribution function from uniform numbers `u` [n] in [0, 1)."""
    if temperature == 0:
        return np.asarray(logits.argmax(dim=1).cpu().numpy())
    total = torch.softmax(logits.float() / temperature, dim=1).double().cumsum(dim=1)
    wanted = torch.from_numpy(u).to(total.device)[:, None] * total[:, -1:]
    return np.asarray(torch.searchsorted(total, wanted, right=True)[:, 0].clamp_max(logits.shape[1] - 1).cpu().numpy())
