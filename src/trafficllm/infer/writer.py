"""An instruct model that writes: its own words token by token, or how likely each of given sentences is to it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from trafficllm.core.errors import UsageError
from trafficllm.core.types import Prompt
from trafficllm.infer.engine.forward import new_cache
from trafficllm.model.tokenizer.extend import traffic_ids
from trafficllm.model.tuning.encode import Encoder

if TYPE_CHECKING:
    from trafficllm.model.base.load import Base

MOST = 96
"""Tokens that a text of its own may have: three short sentences."""


class Writer:
    """A base with a chat template, without any adapter. It writes no traffic token, and nothing that acts in a prompt.

    Raises UsageError for a base without a chat template.
    """

    def __init__(self, base: Base, name: str = "") -> None:
        self.name = name
        self.model: Any = base.model
        self.encoder = Encoder(base.tokenizer)
        self._tokenizer = base.tokenizer
        if not self.encoder.before and not self.encoder.after:
            hint = "name an instruct base (`trafficllm base get smollm2`), or --words off"
            raise UsageError("usage.words", "has no chat template: it has not learnt to answer", input=name, hint=hint)
        self._never = sorted(set(traffic_ids(base.tokenizer).values()))

    def write(self, prompt: Prompt, *, most: int = MOST, until: float = float("inf")) -> str:
        """The likeliest next token, again and again, up to the end of the turn, `most` tokens or `until` (monotonic seconds)."""
        ids = self.encoder.prompt(prompt)
        written: list[int] = []
        with torch.inference_mode():
            cache = new_cache(self.model)
            logits = self._last(ids, cache)
            while len(written) < most and time.monotonic() < until:
                logits[self._never] = float("-inf")
                token = int(logits.argmax())
                if token in self.encoder.control:
                    break
                written.append(token)
                logits = self._last([token], cache)
        return str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()

    def likelihoods(self, prompt: Prompt, texts: Sequence[str]) -> list[float]:
        """For each text the mean log-probability of its tokens behind the prompt, in nats; the prompt is computed once."""
        ids = self.encoder.prompt(prompt)
        rows = [self._text(text) for text in texts]
        with torch.inference_mode():
            cache = new_cache(self.model)
            first = torch.log_softmax(self._last(ids, cache), -1)
            return [self._mean(row, first, cache) for row in rows]

    def _mean(self, row: Sequence[int], first: torch.Tensor, cache: Any) -> float:
        total = float(first[row[0]])
        if len(row) > 1:
            logits = self.model(input_ids=torch.tensor([row[:-1]]), past_key_values=cache, use_cache=True).logits[0].float()
            chances = torch.log_softmax(logits, -1)
            total += float(chances.gather(1, torch.tensor(row[1:])[:, None]).sum())
            cache.crop(1 - len(row))  # negative: so many tokens are taken off again
        return total / len(row)

    def _text(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _last(self, ids: Sequence[int], cache: Any) -> torch.Tensor:
        """Logits [vocabulary] behind the last of these tokens, which follow what the cache holds."""
        out = self.model(input_ids=torch.tensor([list(ids)]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        last: torch.Tensor = out.logits[0, -1].float()
        return last
