"""Prompts are segments: ours are trusted, everything captured or typed is rendered so that it cannot act.

Short on purpose: with the embedded base each static token costs as much as a packet.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

from trafficllm.core.errors import InputError
from trafficllm.core.settings import CodecOptions
from trafficllm.core.types import Prompt, Record, Segment
from trafficllm.records.catalog import Task
from trafficllm.records.codec import units as u
from trafficllm.records.codec.canonical import DEFAULT, text_bytes
from trafficllm.records.codec.codec import encode

QUESTION_LIMIT = 2000
_UNITS = frozenset(u.UNITS)
_SAFE = re.compile(r"[^A-Za-z0-9 .\-_/:=]+")
_PLANE16 = re.compile("[\U00100000-\U0010ffff]")
_BREAK = " "


def detection(task: Task, record: Record, options: CodecOptions = DEFAULT) -> Prompt:
    """ "<id> <instruction>", the record, then where the label is to be named."""
    return traffic_prompt(task, encode(record, options))


def traffic_prompt(task: Task, units: str) -> Prompt:
    """`detection` for a record that is encoded already."""
    return (Segment("instruction", f"{task.id} {task.instruction}\n"), Segment("traffic", units), Segment("instruction", "\nanswer: "))


def routing(question: str) -> Prompt:
    """A person's question in small letters, then where the task is to be named: case says nothing of the task, and a small
    vocabulary would spend three entries on "Malware", "malware" and "MALWARE"."""
    return (Segment("instruction", "request: "), Segment("question", question.lower()), Segment("instruction", "\ntask: "))


def generation(task: Task, label: str) -> Prompt:
    """The label to generate; the record's units follow."""
    return (Segment("instruction", f"{task.id} {task.instruction} "), Segment("text", label), Segment("instruction", "\n"))


def understanding(task: Task, field: str, record: Record, options: CodecOptions = DEFAULT) -> Prompt:
    """A record and the field asked for ("ttl of the first packet")."""
    return (
        Segment("instruction", f"{task.id} {task.instruction} "),
        Segment("text", field),
        Segment("instruction", "\n"),
        Segment("traffic", encode(record, options)),
        Segment("instruction", "\nanswer: "),
    )


def render(prompt: Prompt, forbidden: Collection[str] = ()) -> str:
    """The prompt as one string. `forbidden` are the control surfaces of the tokenizer in use ("<|im_end|>").

    Questions keep their words, but private-use units are spelled out, line breaks become spaces and control surfaces
    are broken up; captured text outside [A-Za-z0-9 .-_/:=] becomes byte units; traffic must be units.
    Raises InputError for a traffic segment that is not.
    """
    return "".join(_render(segment, frozenset(forbidden)) for segment in prompt)


def _render(segment: Segment, forbidden: frozenset[str]) -> str:
    if segment.kind == "instruction":
        return segment.value
    if segment.kind == "question":
        return question_text(segment.value, forbidden)
    if segment.kind == "text":
        return safe_text(segment.value)
    if not _UNITS.issuperset(segment.value):
        at = next(k for k, char in enumerate(segment.value) if char not in _UNITS)
        hint = "traffic is written by the codec, never by hand"
        raise InputError("input.prompt", "a traffic segment holds something that is no unit", where=f"unit {at}", hint=hint)
    return segment.value


def safe_text(text: str) -> str:
    """Captured text: the safe alphabet as it is, all else as byte units of its UTF-8 (injective).

    >>> safe_text("a.b") + safe_text("|") == "a.b" + u.byte_unit(0x7c)
    True
    """
    return _SAFE.sub(lambda match: u.bytes_units(text_bytes(match.group())), text)


def question_text(text: str, forbidden: frozenset[str] = frozenset()) -> str:
    """A person's words with nothing in them that a tokenizer takes for control."""
    flat = "".join(" " if _is_space(char) else char for char in text[:QUESTION_LIMIT] if not _is_noise(char))
    flat = _PLANE16.sub(lambda match: f"U+{ord(match.group()):X}", re.sub(" +", " ", flat).strip())
    finder = _finder(forbidden)
    for _ in range(4):
        inside = finder.within(flat)
        folded = unicodedata.normalize("NFKC", flat)
        if not inside and not finder.within(folded) and not finder.within(folded.lower()):
            return flat
        for surface in inside:
            flat = flat.replace(surface, _BREAK.join(surface) if len(surface) > 1 else _BREAK)
        folded = unicodedata.normalize("NFKC", flat)
        if finder.within(folded) or finder.within(folded.lower()):
            flat = folded
    return only_safe(flat)


def only_safe(text: str) -> str:
    """The text with everything outside the safe alphabet as spaces: what no tokenizer can take for control.

    >>> only_safe("is <s> bad?")
    'is  s  bad '
    """
    return _SAFE.sub(" ", text)


class _Finder:
    """Which control surfaces a text holds, in time linear in the text: a look-up a length, not a search a surface.

    Gemma lists 6,400 of them: searched one by one, in three forms of the text, each question would cost 19,000 searches.
    """

    def __init__(self, forbidden: frozenset[str]) -> None:
        self._surfaces = frozenset(surface for surface in forbidden if surface.strip())
        self._lengths: dict[str, tuple[int, ...]] = {}
        for first in {surface[0] for surface in self._surfaces}:
            sizes = {len(surface) for surface in self._surfaces if surface[0] == first}
            self._lengths[first] = tuple(sorted(sizes, reverse=True))

    def within(self, text: str) -> list[str]:
        """The surfaces in the text, longest first."""
        present = set()
        for at, char in enumerate(text):
            for size in self._lengths.get(char, ()):
                if text[at : at + size] in self._surfaces:
                    present.add(text[at : at + size])
        return sorted(present, key=lambda surface: (-len(surface), surface))


@lru_cache(maxsize=64)
def _finder(forbidden: frozenset[str]) -> _Finder:
    return _Finder(forbidden)


def _is_space(char: str) -> bool:
    """Spaces of every kind; U+2581 is how SentencePiece writes one, so typed it would be one."""
    return char in "\t\n\r\v\f▁" or unicodedata.category(char) in {"Zs", "Zl", "Zp"}


def _is_noise(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cf", "Cs"} and not _is_space(char)
