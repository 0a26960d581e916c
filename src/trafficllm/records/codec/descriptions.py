"""What each unit means, in English phrases with weights: from their native embeddings a pretrained model's new rows begin.

A unit that stands for a number lies between two anchors of its kind ("a millisecond", "a second"), nearer to the one whose value is
nearer, so that neighbouring buckets begin as neighbours and in order. Others are told by the names a protocol's text would use.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

from trafficllm.records.codec.page_load import MOMENTS, PARTS
from trafficllm.records.codec.units import (
    BYTE0,
    CUMUL_UNITS,
    IAT_BOUNDS,
    IAT_UNITS,
    MOMENT_UNITS,
    RUN_BOUNDS,
    RUN_UNITS,
    SIZE_BOUNDS,
    SIZE_HIGH,
    SIZE_LOW,
    SIZE_OVER,
    TTL_UNITS,
    TTL_UPPER,
    UNIT_NAMES,
    WINDOW_UNITS,
    is_byte,
    meaning,
    window_value,
)

Phrases: TypeAlias = tuple[tuple[str, float], ...]
"""(English phrase, weight); weights add up to 1."""

KIND, PLACE, OWN = 0.35, 0.4, 0.25
"""Shares of a numeric unit's description: its kind in words, its place between two anchors, its own value as it is written."""

_FLAGS = {
    "F": "finish", "S": "synchronise", "R": "reset", "P": "push", "A": "acknowledge", "U": "urgent", "E": "congestion echo",
    "C": "congestion window reduced",
}  # fmt: skip
_PUNCTUATION = {
    " ": "space", "!": "exclamation mark", '"': "double quote", "#": "hash", "$": "dollar", "%": "percent", "&": "ampersand",
    "'": "quote", "(": "open bracket", ")": "close bracket", "*": "star", "+": "plus", ",": "comma", "-": "minus", ".": "dot", "/": "slash",
    ":": "colon", ";": "semicolon", "<": "less than", "=": "equals", ">": "greater than", "?": "question mark", "@": "at",
    "[": "open square bracket", "\\": "backslash", "]": "close square bracket", "^": "caret", "_": "underscore", "`": "backquote",
    "{": "open brace", "|": "vertical bar", "}": "close brace", "~": "tilde",
}  # fmt: skip
_CONTROL = {0: "null", 9: "tab", 10: "newline", 13: "carriage return", 27: "escape", 127: "delete", 255: "all ones"}

Anchors: TypeAlias = Sequence[tuple[float, str]]
_SIZE: Anchors = (
    (0, "empty"), (40, "tiny packet"), (100, "small packet"), (300, "medium packet"), (700, "large packet"),
    (1460, "full packet, 1460 bytes"), (4096, "several packets together"), (65536, "huge packet"),
)  # fmt: skip
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = [f"{tens} {digit}".strip() for tens in ("twenty", "thirty") for digit in ("", *_UNITS.split()[1:10])]
_LOW: Anchors = tuple(enumerate([*_UNITS.split(), *_TENS][:32]))
_TIME: Anchors = (
    (1, "at once"), (1e3, "a microsecond later"), (1e6, "a millisecond later"), (1e7, "ten milliseconds later"),
    (1e8, "a tenth of a second later"), (1e9, "a second later"), (1e10, "ten seconds later"), (6e10, "a minute later"),
    (3.6e12, "an hour later"),
)  # fmt: skip
_WINDOW: Anchors = ((0, "closed window"), (1000, "small window"), (8192, "medium window"), (65535, "full window"))
_TTL: Anchors = (
    (1, "the last hop"), (32, "few hops left"), (64, "sixty-four hops"), (128, "a hundred and twenty-eight hops"), (255, "all hops"),
)  # fmt: skip
_RUN: Anchors = ((1, "one byte"), (8, "few bytes"), (64, "some bytes"), (512, "many bytes"))
_PART: Anchors = ((0, "at the beginning"), (0.5, "in the middle"), (1, "at the end"))


def described(char: str) -> Phrases:
    """The English description of a unit.

    >>> from trafficllm.records.codec.units import unit
    >>> [phrase for phrase, _ in described(unit("flags:PA"))]
    ['tcp flags', 'push acknowledge']
    """
    if is_byte(char):
        return _byte(ord(char) - BYTE0)
    found = _numbers().get(char)
    if found is not None:
        kind, value, anchors = found
        return ((kind, KIND), *_between(value, anchors), (meaning(char), OWN))
    name = UNIT_NAMES[char]
    if name.startswith("flags"):
        letters = name.partition(":")[2] or name.partition("+")[2]
        words = "none" if letters == "none" else " ".join(_FLAGS[letter] for letter in letters)
        return (("tcp flags", 0.3), (words, 0.7))
    return ((meaning(char), 1.0),)


def _byte(value: int) -> Phrases:
    char = chr(value)
    if 32 <= value < 127:
        words = f"{char} {_PUNCTUATION[char]}" if char in _PUNCTUATION else ("digit " if char.isdigit() else "letter ") + char
    else:
        words = _CONTROL.get(value) or ("control character" if value < 32 else "high byte")
    return (("byte", 0.15), (f"0x{value:02x}", 0.35), (words, 0.5))


def _between(value: float, anchors: Anchors) -> Phrases:
    """The two anchors around a value, weighted by its distance to each on a logarithmic scale; one where it is outside or on one."""
    places = [_scale(at) for at, _ in anchors]
    here = _scale(value)
    right = bisect.bisect_right(places, here)
    if right == 0 or right == len(places):
        return ((anchors[max(right - 1, 0)][1], PLACE),)
    share = (here - places[right - 1]) / (places[right] - places[right - 1])
    if share == 0:
        return ((anchors[right - 1][1], PLACE),)
    return ((anchors[right - 1][1], PLACE * (1 - share)), (anchors[right][1], PLACE * share))


def _scale(value: float) -> float:
    return math.log1p(value)


@cache
def _numbers() -> dict[str, tuple[str, float, Anchors]]:
    """Unit -> (kind in words, value, anchors) for every unit that is a bucket of numbers."""
    made: dict[str, tuple[str, float, Anchors]] = {}
    made |= {char: ("packet size in bytes", 32.0 * k, _SIZE) for k, char in enumerate(SIZE_HIGH)}
    made |= {char: ("more bytes", float(k), _LOW) for k, char in enumerate(SIZE_LOW)}
    made |= {char: ("packet size in bytes", float(low), _SIZE) for char, low in zip(SIZE_OVER, SIZE_BOUNDS, strict=True)}
    made |= {char: ("time after the last packet", float(low), _TIME) for char, low in zip(IAT_UNITS, IAT_BOUNDS, strict=True)}
    made |= {char: ("receive window", float(window_value(k)), _WINDOW) for k, char in enumerate(WINDOW_UNITS)}
    made |= {char: ("time to live", float(high), _TTL) for char, high in zip(TTL_UNITS, TTL_UPPER, strict=True)}
    made |= {char: ("length", float(low), _RUN) for char, low in zip(RUN_UNITS, RUN_BOUNDS, strict=True)}
    made |= {char: ("cells sent", k / max(PARTS - 1, 1), _PART) for k, char in enumerate(CUMUL_UNITS)}
    made |= {char: ("time of a part", k / max(MOMENTS - 1, 1), _PART) for k, char in enumerate(MOMENT_UNITS)}
    return made
