"""Batches of the third step, each a function of (seed, step): questions to route, fields to read, traffic, English."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import fields
import numpy as np
import torch

from trafficllm.core.types import Record
from trafficllm.lifecycle.adapters.learn_router import answers
from trafficllm.model.tuning.augment import augment
from trafficllm.model.tuning.collate import Sample, collate
from trafficllm.model.tuning.encode import Encoder
from trafficllm.records import prompts
from trafficllm.records.catalog import get_task, load_tasks
from trafficllm.records.codec import view
from trafficllm.records.codec.codec import encode
from trafficllm.records.instructions import Instruction

NEIGHBOUR = dict(zip("abcdefghijklmnopqrstuvwxyz", "svxsdghgujkkmnbipoeaydviecxz", strict=False))


def slip(word: str, chooser: random.Random) -> str:
    """A word with one slip of the finger: letters swapped, lost, doubled or hit beside."""
    at = chooser.randrange(1, len(word) - 1)
    kind = chooser.randrange(4)
    middle = (word[at + 1] + word[at], word[at + 1], word[at] * 2 + word[at + 1], NEIGHBOUR.get(word[at], word[at]) + word[at + 1])[kind]
    return word[:at] + middle + word[at + 2 :]


def disturbed(text: str, chooser: random.Random, *, words: float, slips: float, order: float) -> str:
    """A question in small letters with some words misspelt, up to `words` of them left out and, in `order` of cases, shuffled.

    So each word has to say by itself what it says, as in the bag of words that generalised better to other people's wording.
    """
    text = re.sub(r"\b[a-z]{4,}\b", lambda found: slip(found[0], chooser) if chooser.random() < slips else found[0], text.lower())
    # Chinese and Japanese have no spaces: there, characters are left out.
    gap = "" if text.count(" ") < 2 and sum(map(ord, text)) > 1000 * len(text) else " "
    parts = text.split(gap) if gap else list(text)
    rate = words * chooser.random() if chooser.random() < 0.7 else 0.0
    if len(parts) > 3:
        kept = [part for part in parts if chooser.random() >= rate]
        parts = kept if len(kept) > 1 else parts
    if gap and chooser.random() < order:
        chooser.shuffle(parts)
    return gap.join(parts)


class Mixture:
    """Callable as `mixture(step)`: a function of the step, but for BPE dropout, which draws from the tokenizer's own generator.
    `shares` maps "route", "field", "traffic", "english" to their part of the steps."""

    def __init__(
        self,
        tokenizer: Any,
        rows: Sequence[Instruction],
        records: Sequence[Record],
        raw: Sequence[Record],
        *,
        english: np.ndarray,
        recipe: dict[str, Any],
    ) -> None:
        self.encoder, self.recipe, self.english = Encoder(tokenizer), recipe, english
        self.splitter = tokenizer.backend_tokenizer.model
        self.pad = int(tokenizer.pad_token_id)
        self.records, self.raw = records, raw
        tasks = load_tasks()
        self.ends = {name: [*self.encoder.label(name), self.encoder.eos] for name in (*tasks, "none")}
        self.questions = [(row.text, answers(row.tasks, tasks)) for row in rows]
        lengths = [len(ids) for ids in self.encoder.prompts([prompts.routing(text) for text, _ in self.questions])]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self.questions = [self.questions[k] for k in order]
        self.lengths = np.cumsum([lengths[k] + 3 for k in order])
        self.views = {name: _askable(raw, name, recipe.get("rarest", 1)) for name in recipe["views"]}
        self.views = {name: found for name, found in self.views.items() if found}
        self.task = get_task("FIELD")

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of a step."""
        chooser = random.Random(f"{self.recipe['seed']}/{step}")
        kinds = self.recipe["shares"]
        kind = chooser.choices(list(kinds), list(kinds.values()))[0]
        return {"route": self.route, "field": self.field, "traffic": self.traffic, "english": self.natural}[kind](chooser)

    def route(self, chooser: random.Random) -> dict[str, Any]:
        """Questions of like length, words left out and misspelt, pieces split by BPE dropout (arXiv 1910.13267)."""
        total, wanted = int(self.lengths[-1]), self.recipe["tokens"]
        start = int(np.searchsorted(self.lengths, chooser.randrange(total)))
        end = int(np.searchsorted(self.lengths, self.lengths[start] + wanted))
        start = max(0, min(start, len(self.questions) - max(end - start, 4)))
        rows = self.questions[start : max(end, start + 4)]
        rows = [self._joined(row, chooser) if chooser.random() < self.recipe["joined"] else row for row in rows]
        noise = {name: self.recipe[key] for name, key in (("words", "word_dropout"), ("slips", "slips"), ("order", "shuffled"))}
        texts = [disturbed(text, chooser, **noise) for text, _ in rows]
        self.splitter.dropout = self.recipe["bpe_dropout"] or None
        try:
            ids = self.encoder.prompts([prompts.routing(text) for text in texts])
        finally:
            self.splitter.dropout = None
        return collate([Sample(row, self.ends[chooser.choice(names)]) for row, (_, names) in zip(ids, rows, strict=True)], self.pad)

    def _joined(self, row: tuple[str, list[str]], chooser: random.Random) -> tuple[str, list[str]]:
        """A question with another one before or after it asks for what both ask for; three tasks at most."""
        other = self.questions[chooser.randrange(len(self.questions))]
        pair = [row, other] if chooser.random() < 0.5 else [other, row]
        names = sorted({name for _, found in pair for name in found} - {"none"})
        return (". ".join(text for text, _ in pair), names or ["none"]) if len(names) <= 3 else row

    def field(self, chooser: random.Random) -> dict[str, Any]:
        """Records in one of the views with one field asked for, rare fields as often as common ones among a record's own; a hidden name
        is asked for in half of the cases where there is one."""
        samples: list[Sample] = []
        while sum(map(len, samples)) < self.recipe["tokens"]:
            name_of_view = chooser.choices(list(self.views), [self.recipe["views"][name] for name in self.views])[0]
            raw, found = self.views[name_of_view][chooser.randrange(len(self.views[name_of_view]))]
            names = [name for name in found if name.startswith("domain of ")]
            name = chooser.choice(names if names and chooser.random() < 0.5 else list(found))
            answer = [*self.encoder.label(found[name]), self.encoder.eos]
            record = fields.VIEWS[name_of_view][0](raw)
            samples.append(Sample(self.encoder.prompt(prompts.understanding(self.task, name, record)), answer))
        return collate(samples, self.pad)

    def traffic(self, chooser: random.Random) -> dict[str, Any]:
        """Blocks of records, a third as they are, the others augmented; a share with their headers shown."""
        block, eos = self.recipe["block"], self.encoder.eos
        stream: list[int] = []
        wanted = block * self.recipe["blocks"]
        while len(stream) < wanted:
            place = chooser.randrange(len(self.records))
            record = view.shown(self.raw[place]) if chooser.random() < self.recipe.get("header_share", 0.0) else self.records[place]
            stream += [*self.encoder.units(encode(record if chooser.random() < 1 / 3 else augment(record, chooser))), eos]
        return _next_token(np.asarray(stream[:wanted]).reshape(-1, block))

    def natural(self, chooser: random.Random) -> dict[str, Any]:
        """Blocks of English."""
        return _next_token(self.english[[chooser.randrange(len(self.english)) for _ in range(self.recipe["blocks"])]])


def _askable(raw: Sequence[Record], view: str, rarest: int) -> list[tuple[Record, dict[str, str]]]:
    """Raw records with the questions of a view; an answer that fewer than `rarest` records have is nothing that can be foretold."""
    every = [(record, dict(fields.VIEWS[view][1](record))) for record in raw]
    counts = Counter(pair for _, found in every for pair in found.items()) if view == "hidden" else None
    if counts is not None:
        every = [(record, {name: value for name, value in found.items() if counts[name, value] >= rarest}) for record, found in every]
    return [(record, found) for record, found in every if found]


def _next_token(rows: np.ndarray) -> dict[str, Any]:
    ids = torch.from_numpy(rows.astype(np.int64))
    return {"input_ids": ids, "labels": ids}
