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
from trafficllm.core.types import Prompt, Segment
from trafficllm.model.tokenizer.extend import forgeable, opening_ids, traffic_ids
from trafficllm.model.tokenizer.template import chat_text
from trafficllm.records.prompts import only_safe, render, safe_text

_SENTINEL = "TRAFFICLLM-CONTENT"
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _is_word(token: Any) -> bool:
    """Whether an added token is vocabulary, not control: Phi's runs of spaces, Gemma's of line breaks, DeepSeek's letters."""
    return not token.special and all(char.isalnum() or char.isspace() or char == "▁" for char in token.content)


def control_surfaces(tokenizer: Any) -> frozenset[str]:
    """Every surface that stands for control in a tokenizer: added tokens other than traffic and words, specials, byte pieces."""
    traffic = traffic_ids(tokenizer)
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if not _is_word(token)}
    special = set(tokenizer.all_special_tokens)
    pieces = {token for token in tokenizer.get_vocab() if _BYTE_PIECE.fullmatch(token)}
    return frozenset((added | special | pieces) - traffic.keys())


class Encoder:
    """Token ids of prompts and labels for one tokenizer.

    `forbidden` are its control surfaces, `control` the ids that act; `bos` the ids put first when it has no chat template;
    `eos` ends an answer. Raises ArtifactError where a control surface could be spelt in the safe alphabet.
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
        self.bos = [] if self.before or self.after else opening_ids(tokenizer)
        # A tokenizer falls back to byte pieces and <unk> for letters it lacks: those two may stand in any text.
        acting = {surface for surface in self.forbidden if not _BYTE_PIECE.fullmatch(surface)} - {tokenizer.unk_token}
        self.control = frozenset(int(tokenizer.convert_tokens_to_ids(surface)) for surface in acting)
        self._own: dict[str, list[int]] = {}
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
        """Ids of many prompts, as `prompt` of each.

        A question that still turned into control, by a normaliser nobody foresaw, keeps its safe alphabet only.
        """
        rows = self._ids([self.text(prompt) for prompt in prompts])
        for place, prompt in enumerate(prompts):
            if any(segment.kind == "question" for segment in prompt) and self._acts(prompt, rows[place]):
                rows[place] = self._ids([self.text(_plain(prompt))])[0]
        return [self.bos + ids for ids in rows]

    def _acts(self, prompt: Prompt, ids: Sequence[int]) -> bool:
        """Whether ids hold other control ids than the same prompt without its questions."""
        if self.control.isdisjoint(ids):
            return False
        text = self.text(tuple(Segment(s.kind, "" if s.kind == "question" else s.value) for s in prompt))
        if text not in self._own:
            self._own[text] = self._control(self._ids([text])[0])
        return self._control(ids) != self._own[text]

    def _control(self, ids: Sequence[int]) -> list[int]:
        return [index for index in ids if index in self.control]

    def label(self, label: str) -> list[int]:
        """Ids of a label as an answer, without the end token; what is not in the safe alphabet becomes byte units."""
        return self._ids([safe_text(label)])[0]

    def units(self, units: str) -> list[int]:
        """Ids of a record's unit string alone."""
        return self._ids([units])[0]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        rows = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [list(ids) for ids in rows]


def _plain(prompt: Prompt) -> Prompt:
    """The prompt with its questions cut down to the safe alphabet."""
    return tuple(Segment(s.kind, only_safe(s.value)) if s.kind == "question" else s for s in prompt)


def _template(tokenizer: Any) -> tuple[str, str]:
    """(text before, text after) a user's message in the chat template, generation prompt included; empty without one."""
    if not getattr(tokenizer, "chat_template", None):
        return "", ""
    whole = chat_text(tokenizer, _SENTINEL)
    before, sentinel, after = whole.partition(_SENTINEL)
    if not sentinel or _SENTINEL in after:
        raise ArtifactError(
            "artifact.chat_template",
            "its chat template does not show the user's message exactly once",
            input=str(getattr(tokenizer, "name_or_path", "")),
            hint="remove chat_template.jinja to use the base without a template",
        )
    return before, after
