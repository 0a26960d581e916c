"""Prompts are segments: ours are trusted, everything captured or typed is rendered so that it cannot act.

Short on purpose: with the embedded base each static token costs as much as a packet.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

from trafficllm.core.errors import InputError
from trafficllm.core.types import Prompt, Record, Segment
from trafficllm.records import units as u
from trafficllm.records.canonical import DEFAULT, CodecOptions, text_bytes
from trafficllm.records.catalog import Task
from trafficllm.records.codec import encode

QUESTION_LIMIT = 2000
_UNITS = frozenset(u.UNITS)
_SAFE = re.compile(r"[^A-Za-z0-9 .\-_/:=]+")
_PLANE16 = re.compile("[\U00100000-\U0010ffff]")
_BREAK = " "


def detection(task: Task, record: Record, options: CodecOptions = DEFAULT) -> Prompt:
    """"<id> <instruction>", the record, then where the label is to be named."""
    return traffic_prompt(task, encode(record, options))


def traffic_prompt(task: Task, units: str) -> Prompt:
    """`detection` for a record that is encoded already."""
    return (
        Segment("instruction", f"{task.id} {task.instruction}\n"),
        Segment("traffic", units),
        Segment("instruction", "\nanswer: "),
    )


def routing(question: str) -> Prompt:
    """A person's question, then where the task is to be named."""
    return (Segment("instruction", "request: "), Segment("question", question), Segment("instruction", "\ntask: "))


def generation(task: Task, label: str) -> Prompt:
    """The label to generate; the record's units follow."""
    return (
        Segment("instruction", f"{task.id} {task.instruction} "),
        Segment("text", label),
        Segment("instruction", "\n"),
    )


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
    surfaces = _surfaces(forbidden)
    for _ in range(4):
        if not _holds(flat, surfaces):
            return flat
        for surface in surfaces:
            flat = flat.replace(surface, _BREAK.join(surface) if len(surface) > 1 else _BREAK)
        folded = unicodedata.normalize("NFKC", flat)
        if _holds(folded, surfaces):
            flat = folded
    return _SAFE.sub(" ", flat)


@lru_cache(maxsize=64)
def _surfaces(forbidden: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted((surface for surface in forbidden if surface.strip()), key=lambda surface: (-len(surface), surface)))


def _holds(text: str, surfaces: tuple[str, ...]) -> bool:
    """Whether a surface occurs in the text as it is, or as a normalising tokenizer would see it."""
    seen = (text, unicodedata.normalize("NFKC", text), unicodedata.normalize("NFKC", text).lower())
    return any(surface in form for surface in surfaces for form in seen)


def _is_space(char: str) -> bool:
    return char in "\t\n\r\v\f" or unicodedata.category(char) in {"Zs", "Zl", "Zp"}


def _is_noise(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cf", "Cs"} and not _is_space(char)
