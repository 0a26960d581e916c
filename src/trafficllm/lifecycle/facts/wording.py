"""Which fact a question asks for: patterns over its words, and how many of its words they explain."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

_LEAST = 0.65
"""Share of a question's words that a fact must explain to be its answer. Of 4,380 questions in `instructions/heldout.jsonl`, see
`tests/unit/test_lifecycle_facts.py`, none that asks for a task reaches it."""
_ALIKE = 0.83
"""Similarity (difflib) from which a word of five letters or more is a misspelt one of the table: `pakcets` has .86."""
_LONGEST, _MOST_WORDS = 2000, 60
_ALONE = frozenset({"only", "just", "flows", "flow", "packets", "connections", "verdicts", "verdict", "hosts", "host"})
"""Words that restrict what is shown and ask for nothing themselves."""
_LISTS = re.compile(r"^(?!.*\b(?:only|just|of (?:them|these|those))\b).*\b(?:flows?|connections?|verdicts?|hosts?|packets)\b")
_FILE = re.compile(r"\S+\.(?:pcap(?:ng)?|cap|log|gz|zst|lz4|csv|parquet)\S*")
_PASTED = re.compile(r"<(?:packet|flow|pck)>")
_WORD = re.compile(r"[\w.]*[^\W\d_][\w.]*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The fact that a question asks for, and the share of its words (without those that carry no meaning) that the fact explains."""

    fact: str
    probability: float


@dataclass(frozen=True, slots=True)
class _Fact:
    id: str
    ask: str
    needs: tuple[re.Pattern[str], ...]
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Table:
    facts: tuple[_Fact, ...]
    stop: frozenset[str]
    verdict: re.Pattern[str]
    vocabulary: frozenset[str]


def _pattern(alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{alternatives})(?![a-z0-9])")


@lru_cache(maxsize=1)
def _table() -> _Table:
    raw: dict[str, Any] = tomllib.loads(resources.files("trafficllm.lifecycle.facts").joinpath("facts.toml").read_text(encoding="utf-8"))
    facts = tuple(
        _Fact(row["id"], row["ask"], tuple(_pattern(need) for need in row["needs"]), frozenset(row.get("words", "").split()))
        for row in raw["fact"]
    )
    verdict = "".join(raw["words"]["verdict"].split("\n"))
    said = " ".join([*(need for row in raw["fact"] for need in row["needs"]), *(row.get("words", "") for row in raw["fact"]), verdict])
    vocabulary = frozenset(word for word in re.findall(r"[a-z]{5,}", re.sub(r"\\\w\*?|\?", " ", said)))
    return _Table(facts, frozenset(raw["words"]["stop"].split()), _pattern(verdict), vocabulary)


def fact_ids() -> tuple[str, ...]:
    """Ids of all facts, as the table has them."""
    return tuple(fact.id for fact in _table().facts)


def asked_as(fact: str) -> str:
    """The plain question that a fact answers."""
    return next(row.ask for row in _table().facts if row.id == fact)


def wanted_fact(question: str) -> Wanted | None:
    """The fact that a question asks for; None for a question that asks for a verdict or for nothing a capture tells.

    >>> wanted_fact("How many packets are in lunch.pcap?")
    Wanted(fact='packets', probability=1.0)
    >>> wanted_fact("How many packets are malicious?") is None
    True
    """
    table = _table()
    if _PASTED.search(question):
        return None
    text = _corrected(_FILE.sub(" ", question[:_LONGEST].lower().replace("\u2019", "'")), table)
    if table.verdict.search(text):
        return None
    words = _meaning(text)
    scored = [(share, -place, fact.id) for place, fact in enumerate(table.facts) if (share := _explained(fact, text, words))]
    share, _, name = max(scored, default=(0.0, 0, ""))
    return Wanted(name, round(share, 3)) if share >= _LEAST else None


def _meaning(text: str) -> list[re.Match[str]]:
    """Words that carry a meaning, in order."""
    return [match for match in _WORD.finditer(text) if match[0].strip(".") not in _table().stop][:_MOST_WORDS]


def asks_verdict(question: str) -> bool:
    """Whether a question has a word that asks for a verdict, or for something to be done.

    >>> asks_verdict("is there DNS tunnelling?"), asks_verdict("which of them are DNS?")
    (True, False)
    """
    return bool(_table().verdict.search(question[:_LONGEST].lower()))


def lists_flows(question: str) -> bool:
    """Whether a question without its filters wants flows listed ("show me flows"), and is no mere "only those".

    >>> lists_flows("show me flows"), lists_flows("only"), lists_flows("only the flows")
    (True, False, False)
    """
    return _LISTS.search(question[:_LONGEST].lower()) is not None


def has_content(question: str) -> bool:
    """Whether a question has a word with a meaning of its own: "only those, please" has none."""
    words = _WORD.findall(_FILE.sub(" ", question[:_LONGEST].lower()))
    return any(word.strip(".") not in _table().stop | _ALONE for word in words)


def _corrected(text: str, table: _Table) -> str:
    """Misspelt words as the table spells them."""

    def right(match: re.Match[str]) -> str:
        word = match[0]
        if len(word) < 5 or {word, f"{word}s", word.removesuffix("s")} & (table.vocabulary | table.stop):
            return word
        near = [name for name in table.vocabulary if name[0] == word[0] and abs(len(name) - len(word)) < 3]
        return next(iter(difflib.get_close_matches(word, sorted(near), n=1, cutoff=_ALIKE)), word)

    return re.sub(r"[a-z]+", right, " ".join(text.split()[: 4 * _MOST_WORDS]))


def _explained(fact: _Fact, text: str, words: Sequence[re.Match[str]]) -> float:
    """Share of the words that a fact whose every pattern occurs explains; 0 where one does not occur."""
    spans = [[match.span() for match in need.finditer(text)] for need in fact.needs]
    if not all(spans):
        return 0.0
    inside = [span for each in spans for span in each]
    told = sum(
        match[0].strip(".") in fact.words or any(start <= match.start() and match.end() <= stop for start, stop in inside)
        for match in words
    )
    return told / len(words) if words else 1.0


_LIKE = 0.2
"""Share of letters in common below which a question is like none: what fits every capture is then named."""
_ALWAYS = ("overview", "talkers", "protocols")


def nearest(question: str, asks: Sequence[str], *, count: int = 3) -> list[str]:
    """The `count` questions among `asks` and the facts' own that are most like this one: by the letters that their words with a meaning
    share, and by the words that a fact explains. Where few are like it the first of `asks` and what can be asked of every capture.

    >>> nearest("are there retransmissions?", ["Is it malware?"])
    ['Is it malware?', 'what is in the capture?', 'who are the top talkers?']
    """
    text, parts = question[:_LONGEST].lower(), _trigrams(question)
    words = _meaning(text)
    like = {ask: _alike(parts, _trigrams(ask)) for ask in asks}
    for fact in _table().facts:
        like[fact.ask] = _alike(parts, _trigrams(fact.ask)) + _explained(fact, text, words)
    every = list(like)
    order = sorted(range(len(every)), key=lambda k: (-like[every[k]], k))
    near = [every[k] for k in order[:count] if like[every[k]] >= _LIKE]
    return list(dict.fromkeys([*near, *asks[:1], *map(asked_as, _ALWAYS)]))[:count]


def _trigrams(text: str) -> frozenset[str]:
    """Three letters at a time of each word, without words that carry no meaning."""
    words = [word for word in re.findall(r"[a-z0-9]+", text[:_LONGEST].lower()) if word not in _table().stop]
    return frozenset(f" {word} "[k : k + 3] for word in words for k in range(len(word)))


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(len(one | other), 1)
