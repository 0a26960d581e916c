"""Prompts and labels to token ids: the one encoder that training and serving share.

Untrusted segments are rendered before the tokenizer sees them (records.prompts); here come the chat template, the
beginning-of-sequence token and the list of surfaces that a question must never spell. The guarantee holds for ids made here:
a third-party call of the bare tokenizer on captured text has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import Prompt
from trafficllm.model.tokenizer import forgeable, traffic_ids
from trafficllm.records.prompts import render, safe_text

_SENTINEL = "TRAFFICLLM-CONTENT"
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_TEMPLATE_DATE = "01 Jan 2025"
"""Some chat templates print today's date; a fixed one keeps ids equal from day to day."""


def control_surfaces(tokenizer: Any) -> frozenset[str]:
    """Every surface that stands for control in a tokenizer: added tokens other than traffic, specials, byte pieces."""
    traffic = traffic_ids(tokenizer)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    special = set(tokenizer.all_special_tokens)
    pieces = {token for token in tokenizer.get_vocab() if _BYTE_PIECE.fullmatch(token)}
    return frozenset((added | special | pieces) - traffic.keys())


class Encoder:
    """Token ids of prompts and labels for one tokenizer.

    `forbidden` are its control surfaces; `bos` the ids put first when it has no chat template; `eos` ends an answer.
    Raises ArtifactError where a control surface could be spelt in the safe alphabet.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.forbidden = control_surfaces(tokenizer)
        loose = forgeable(self.forbidden)
        if loose:
            raise ArtifactError(
                "artifact.tokenizer_control",
                f"control tokens spelt in plain text could be forged: {', '.join(loose[:5])}",
                input=str(getattr(tokenizer, "name_or_path", "")),
                hint="rename them in tokenizer.json, for instance with angle brackets",
            )
        self.before, self.after = _template(tokenizer)
        self.bos = [] if self.before or self.after else _bos(tokenizer)
        eos = tokenizer.eos_token_id
        self.eos = int(eos if eos is not None else tokenizer.pad_token_id or 0)

    def text(self, prompt: Prompt) -> str:
        """The rendered prompt inside the chat template, as the tokenizer will read it."""
        body = render(prompt, self.forbidden)
        return self.before + (body.strip() if self.before or self.after else body) + self.after

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of one prompt, ready for the answer to follow."""
        return self.prompts([prompt])[0]

    def prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Ids of many prompts, as `prompt` of each."""
        return [self.bos + ids for ids in self._ids([self.text(prompt) for prompt in prompts])]

    def label(self, label: str) -> list[int]:
        """Ids of a label as an answer, without the end token; what is not in the safe alphabet becomes byte units."""
        return self._ids([safe_text(label)])[0]

    def units(self, units: str) -> list[int]:
        """Ids of a record's unit string alone."""
        return self._ids([units])[0]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        found = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [list(ids) for ids in found]


def _bos(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text by itself, its beginning-of-sequence token or nothing."""
    first = tokenizer("")["input_ids"][:1]
    return [int(first[0])] if first and first[0] == tokenizer.bos_token_id else []


def _template(tokenizer: Any) -> tuple[str, str]:
    """(text before, text after) a user's message in the chat template, generation prompt included; empty without one."""
    if not getattr(tokenizer, "chat_template", None):
        return "", ""
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": _SENTINEL}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=_TEMPLATE_DATE,
    )
    before, found, after = whole.partition(_SENTINEL)
    if not found or _SENTINEL in after:
        raise ArtifactError(
            "artifact.chat_template",
            "its chat template does not show the user's message exactly once",
            input=str(getattr(tokenizer, "name_or_path", "")),
            hint="remove chat_template.jinja to use the base without a template",
        )
    return before, after
