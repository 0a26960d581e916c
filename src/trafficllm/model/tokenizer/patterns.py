"""Patterns that a tokenizer brings: those that can take exponential time are refused before anything is encoded.

The library matches by Oniguruma, which backtracks. It gives up after ten million steps (.2 s) by a panic of its own, and a pattern that
stays just below that at every character takes minutes for one question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trafficllm.core.errors import ArtifactError

_MANY = 3
"""Times that a part of varying length may follow itself: `(a+){3}` is cubic at most."""
_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_COUNTS = re.compile(r"\{(\d*)(,?)(\d*)\}")
_OPENING = re.compile(r"\(\?(?:#|>|[imsxa-]*:|<?[=!]|<\w+>|P<\w+>)?")
_LONGEST = 10_000


@dataclass(slots=True)
class _Group:
    """A group that is being read: whether what it matches can have several lengths."""

    varies: bool = False
    atomic: bool = False


def check_patterns(tokenizer: Any, name: str) -> None:
    """Raise ArtifactError where a pattern of a tokenizer, the library's own or in transformers' wrapping, may take exponential time."""
    raw = getattr(tokenizer, "backend_tokenizer", tokenizer)
    for part in _PARTS:
        component = getattr(raw, part, None)
        if component is None:
            continue
        for pattern in _patterns(json.loads(component.__getstate__())):
            if reason := backtracks(pattern):
                why = f"a pattern of its {part} {reason}: {pattern[:80]!r}"
                hint = "take the tokenizer from a source you trust"
                raise ArtifactError("artifact.tokenizer", why, input=name, hint=hint)


def _patterns(state: Any) -> Iterator[str]:
    """Every regular expression in the state of a part."""
    if isinstance(state, dict):
        if isinstance(state.get("Regex"), str):
            yield state["Regex"]
        state = list(state.values())
    for item in state if isinstance(state, list) else ():
        yield from _patterns(item)


def backtracks(pattern: str) -> str:
    r"""Why a pattern may take exponential time: a part of varying length repeats, or refers back to itself; "" where none does.

    >>> backtracks(r" ?\p{L}+|\s+(?!\S)"), backtracks(r"(a+)+$")
    ('', 'repeats a part of varying length')
    """
    groups, last, at = [_Group()], _Group(), 0
    if len(pattern) > _LONGEST:
        return f"has more than {_LONGEST:,} characters"
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            if pattern[at + 1 : at + 2] in set("123456789kg"):
                return "refers back to what it matched"
            at, last = _escaped(pattern, at), _Group()
        elif char == "[":
            at, last = _class(pattern, at), _Group()
        elif char == "(":
            opening = _OPENING.match(pattern, at)
            groups.append(_Group(atomic=pattern.startswith("(?>", at)))
            at = opening.end() if opening else at + 1
        elif char == ")" and len(groups) > 1:
            last = groups.pop()
            last.varies &= not last.atomic
            groups[-1].varies |= last.varies
            at += 1
        elif (times := _times(pattern, at)) is not None:
            least, most, at = times
            if last.varies and most > _MANY:
                return "repeats a part of varying length"
            groups[-1].varies |= least != most
            last = _Group(varies=last.varies or least != most)
            at += pattern[at : at + 1] in {"?", "+"}  # lazy or possessive
        else:
            groups[-1].varies |= char == "|"
            at, last = at + 1, _Group()
    return ""


def _times(pattern: str, at: int) -> tuple[float, float, int] | None:
    """(Fewest, most repetitions, where the quantifier ends) of a quantifier that stands here; None where none does."""
    simple = {"*": (0.0, float("inf")), "+": (1.0, float("inf")), "?": (0.0, 1.0)}.get(pattern[at])
    if simple is not None:
        return *simple, at + 1
    counts = _COUNTS.match(pattern, at)
    if counts is None or counts[0] == "{}":
        return None
    least = float(counts[1] or 0)
    return least, float(counts[3]) if counts[3] else (float("inf") if counts[2] else least), counts.end()


def _escaped(pattern: str, at: int) -> int:
    r"""Behind `\d`, `\p{L}`, `\x{1F600}`."""
    if pattern[at + 1 : at + 2] in {"p", "P", "x"} and pattern[at + 2 : at + 3] == "{":
        return pattern.find("}", at) + 1 or len(pattern)
    return at + 2


def _class(pattern: str, at: int) -> int:
    """Behind a class in brackets, classes within it included."""
    depth, at = 1, at + 1
    at += pattern[at : at + 1] == "^"
    at += pattern[at : at + 1] == "]"  # a bracket that stands first is meant
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at = _escaped(pattern, at)
            continue
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 1
    return at
