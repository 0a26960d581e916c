"""Questions that only make sense after another one: "and the second one?", "explain it", "show its packets", "write a report"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["place", "next", "back", "explain", "packets", "report", "hosts", "flows", "all", "more", "what", "help"]

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBER = re.compile(r"\b(?:(" + "|".join(_ORDINALS) + r"|last)|(?:number|no\.?|#|flow|host)\s*(\d{1,4})|(\d{1,4})(?:st|nd|rd|th))\b")
_PLACE = re.compile(r"^(?:and|what about|how about|now|show|show me|then)?\s*(?:the\s+)?(?:§)\s*(?:one|flow|host|entry|row)?$")
_IT = r"(?:it|this|that|them|this one|that one|this flow|that flow|the flow|the verdict|this host|that host|§|the § (?:one|flow|host))"
_PATTERNS: tuple[tuple[Kind, str], ...] = (
    (
        "help",
        r"help|\?|/help|commands|what (?:can|could|may|should) (?:you|i|one|we) (?:do|ask|say|tell me|answer)(?: (?:you|me|here|now))?",
    ),
    ("what", rf"what(?:'s| is| are| was) (?:{_IT}|in (?:it|here|there)|this capture|the capture|this traffic|going on(?: here)?)"),
    ("explain", rf"(?:explain|why|how so|how come|what is the evidence|evidence)(?: (?:is )?{_IT})?(?: .{{0,40}})?"),
    ("packets", rf"(?:show|list|print|give|see)?(?: me)?\s*(?:its|his|their|the|this flow's) (?:packets|frames)(?: of {_IT})?"),
    ("packets", r"packets|frames"),
    ("report", r"(?:write|make|give me|print|save)?\s*(?:me )?(?:a |the )?report(?: (?:on|about|of) .{1,40}?)?(?: (?:to|as|into) \S+)?"),
    ("next", r"(?:and )?(?:the )?next(?: one| flow| host)?|and then"),
    ("back", r"(?:and )?(?:the )?(?:previous|one before)(?: one| flow| host)?|back"),
    ("hosts", r"(?:and )?(?:show |list )?(?:me )?(?:the |its |all )?hosts|by hosts?|which hosts"),
    ("flows", r"(?:and )?(?:show |list )?(?:me )?(?:the |its |their |all )?flows|by flows?|which flows"),
    ("all", r"(?:show )?(?:all of them|everything|all again|without (?:the )?filters?|clear(?: the)? filters?|no filters?)"),
    ("more", r"(?:show )?more|go on|continue"),
)
_KINDS = tuple((kind, re.compile(rf"(?:please |can you |could you )?{pattern}(?: please)?", re.IGNORECASE)) for kind, pattern in _PATTERNS)
_FILE = re.compile(r"\b(?:to|as|into)\s+(\S+)\s*$")


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What is wanted of an answer given before; `number` is a place in its list (1 the first, -1 the last, 0 the one at hand), `file`
    where a report goes."""

    kind: Kind
    number: int = 0
    file: str = ""


def follow_up(question: str) -> FollowUp | None:
    """The follow-up that a question is, None for one that stands for itself.

    >>> follow_up("and the second one?"), follow_up("Explain it.").kind, follow_up("how many packets are there?")
    (FollowUp(kind='place', number=2, file=''), 'explain', None)
    """
    text = " ".join(question[:200].split()).rstrip("?!. ")
    lower = text.lower()
    number, named = _number(lower)
    if _PLACE.fullmatch(named):
        return FollowUp("place", number)
    for kind, pattern in _KINDS:
        if pattern.fullmatch(named):
            file = _FILE.search(text) if kind == "report" else None
            return FollowUp(kind, number, file[1] if file else "")
    return None


def _number(text: str) -> tuple[int, str]:
    """The one place that a text names, and the text with § in its stead; 0 and the text where it names none or several."""
    found = list(_NUMBER.finditer(text))
    if len(found) != 1:
        return 0, text
    word, *digits = found[0].groups()
    number = -1 if word == "last" else _ORDINALS.index(word) + 1 if word else int(digits[0] or digits[1])
    return number, f"{text[: found[0].start()]}§{text[found[0].end() :]}"
