"""Does a text say only what a table says? Every number and name must stand in one of its facts together, and nothing else may claim."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from trafficllm.lifecycle.words.facts import TableFacts

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
_CLAUSE = re.compile(r"[.;:!?,](?:\s|$)|\band\b|\bbut\b|\bwhile\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_WORD = re.compile(r"[\w.:/+@%-]*\w")
DENIALS = frozenset({"no", "not", "none", "nothing", "never", "neither", "nor", "without", "nobody", "isn't", "aren't"})
_PLAIN = (
    "a also an and are as at be been but by capture captures carried found flow flows frames from further has have host hosts "
    "in is it its judged means named network of on one opened packets probability say says seen shows so task "
    "than that the their them there these they this those to total traffic verdict verdicts was were which while with"
)
PLAIN = frozenset(_PLAIN.split())
"""Words that claim nothing: any other one must stand in the table."""
MOST_SENTENCES = 3


def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return [part.strip() for part in _SENTENCE.split(" ".join(text.split())) if part.strip()]


def shortened(text: str) -> str:
    """The first three sentences of a text that ended one; "" where none ends."""
    whole = [part for part in sentences(text)[:MOST_SENTENCES] if part.endswith((".", "!"))]
    return " ".join(whole)


def refusal(text: str, table: TableFacts, *, template: str = "") -> str:
    """Why a text must not stand for the table's answer; "" where it may. `template`: the sentence that it must not simply repeat."""
    if not text:
        return "it ends no sentence"
    if _flat(text) == _flat(template):
        return "it repeats the template's sentence"
    text = _joined(text, table.names)
    facts = [_claims(line) | _denials(line) for line in (_joined(line, table.names) for line in table.lines())]
    stated = frozenset(word for fact in facts for word in fact)
    for word in _words(text):
        if word not in stated and word not in PLAIN:
            return f"'{word}' does not stand in the table"
    for clause in filter(None, (part.strip() for part in _CLAUSE.split(text))):
        if why := _clause(clause, facts):
            return why
    names = frozenset(_joined(name, table.names) for name in table.names)
    leads = [_verdict(words, names, table.tasks) for fact, words in zip(table.facts, facts, strict=True) if fact.lead]
    return "" if any(lead <= _claims(text) for lead in leads) else "it leaves the verdict out"


def _clause(clause: str, facts: Sequence[frozenset[str]]) -> str:
    """Whether one fact has everything that a clause claims, and denies where the clause does."""
    claims, denied = _claims(clause), bool(_denials(clause))
    if not claims:
        return f"'{clause}' denies what nothing in the table denies" if denied else ""
    holding = [fact for fact in facts if claims <= fact]
    if not holding:
        return f"'{' ... '.join(sorted(claims))}' do not stand together in the table"
    if not any(denied == bool(fact & DENIALS) for fact in holding):
        return f"'{clause}' turns round what the table says"
    return ""


def _verdict(lead: frozenset[str], names: frozenset[str], tasks: set[str]) -> frozenset[str]:
    """What a text must have of a lead: its hosts and answers, or all its claims where it has none."""
    return (lead & names) - tasks or lead - tasks - DENIALS


def _joined(text: str, names: Collection[str]) -> str:
    """A text whose names of several words ("not covered") are one word each."""
    for name in names:
        if " " in name:
            text = text.replace(name, name.replace(" ", "_"))
    return text


def _claims(text: str) -> frozenset[str]:
    """The words of a text that claim something: all but plain ones and denials."""
    return frozenset(_words(text)) - PLAIN - DENIALS


def _denials(text: str) -> frozenset[str]:
    return frozenset(_words(text)) & DENIALS


def _words(text: str) -> list[str]:
    """The words of a text in their order, plain ones and denials in small letters."""
    words = _WORD.findall(_THOUSANDS.sub("", text))
    return [word.lower() if word.lower() in PLAIN | DENIALS else word for word in words]


def _flat(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()
