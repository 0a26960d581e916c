"""A question's phrases as 32-bit numbers: word n-grams, character n-grams, concepts alone and in pairs (what is to be done with what),
and the English words that a glossary gives for other languages.

Pasted packets and numbers are set aside first: they stand beside questions of every task. Everything is linear in the question's length,
which is bounded; the same text gives the same numbers on every machine.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from trafficllm.records.prompts import QUESTION_LIMIT

WORDS = (1, 2)
CHARACTERS = (1, 5)
KINDS = ("words", "characters", "concepts")
GLOSSARY = "glossary.toml"
CONCEPTS = "concepts.toml"
LONGEST = 4
"""Words of the longest term that names a concept."""
PAIRED = 24
"""Distinct concepts of a question that pairs are made of: a question has a handful, and work stays linear in its length."""
Keys = NDArray[np.uint32]
_U64 = NDArray[np.uint64]
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_SPACE = np.uint64(33)
_SPACED = "\u0530"
"""Below are the scripts (Latin, Greek, Cyrillic) whose terms begin where a word begins."""
_WORD = re.compile(r"\w+")
_HTTP = re.compile(r"\b(?:get|post|put|head|delete) /\S* http/\d(?:\.\d)?(?: host: \S+)?|\{\s*\"method\"[^{}]*\}")
_PAIR = re.compile(r"(?:<pack(?:et)?>:? ?)?\b[a-z]{2,12}(?:\.[a-z_]{1,24}){1,3}: ?[^\s,]+,?")
_HEX = re.compile(r"(?:<flow>:? ?)?(?:<pck>)?(?:0x)?(?:[0-9a-f]{8,}|[0-9a-f]{2}(?:[: ][0-9a-f]{2}){4,})")
MOST_PARTS = 6
_BETWEEN = re.compile(
    r"[;.?!+/]\s|[?;]|, | and (?:also )?| then | also | as well as | besides | plus | und (?:auch )?| et (?:aussi )?| y (?:también )?"
    r"| e (?:anche |também )?| и |[。，、；？]|和|以及|と|\b\d\. ",
    re.IGNORECASE,
)
_TERM = re.compile(r"§?\w+(?:[.&'\-]\w+)*")
_STEM = 3
"""Letters of the shortest beginning that stands for all words that begin so."""
_NUMBER = re.compile(r"\b\d+(?:[.:,]\d+)*")


def parts(text: str) -> list[str]:
    """What stands between the sentence marks and conjunctions of a question, at most `MOST_PARTS`; empty where nothing parts it.

    >>> parts("find the trojan and name the apps")
    ['find the trojan', 'name the apps']
    """
    said = [part.strip() for part in _BETWEEN.split(text[:QUESTION_LIMIT])]
    kept = [part for part in said if len(part) >= _STEM][:MOST_PARTS]
    return kept if len(kept) > 1 else []


def normalised(text: str) -> str:
    """The question in small letters, NFKC, bounded, its pasted parts and numbers each one word.

    >>> normalised("What is THIS? <packet>: ip.ttl: 64, tcp.srcport: 4000")
    'what is this? §pairs'
    """
    plain = unicodedata.normalize("NFKC", text[:QUESTION_LIMIT]).lower()[:QUESTION_LIMIT]
    for pattern, name in ((_HTTP, " §http "), (_PAIR, " §pairs "), (_HEX, " §hex "), (_NUMBER, "0")):
        plain = pattern.sub(name, plain)
    return re.sub(r"(§\w+)(?: \1)+", r"\1", " ".join(plain.split()))


@lru_cache(maxsize=1)
def glossary() -> Mapping[str, Sequence[tuple[str, str]]]:
    """The shipped glossary by the first two characters of a term: (term, English words), longest terms first."""
    import tomllib

    text = resources.files("trafficllm").joinpath("data", "routing", GLOSSARY).read_text(encoding="utf-8")
    terms_by_begin: dict[str, dict[str, str]] = {}
    for table in tomllib.loads(text).values():
        for english, terms in table.items():
            for term in terms.split("|"):
                plain = unicodedata.normalize("NFKC", term).lower()
                terms_by_begin.setdefault(plain[:2], {}).setdefault(plain, english)
    return {begin: sorted(terms.items(), key=lambda pair: (-len(pair[0]), pair)) for begin, terms in terms_by_begin.items()}


def in_english(text: str) -> str:
    """English words for what the glossary knows of `text` (normalised), in order; empty for plain English.

    >>> in_english("gibt es hier bösartige pakete?")
    'is there malicious packet'
    """
    terms, said, at, end = glossary(), [], 0, len(text)
    text += " "
    while at < end:
        inside = at > 0 and text[at] < _SPACED and text[at - 1].isalnum()
        for term, english in () if inside else terms.get(text[at : at + 2], ()):
            if text.startswith(term, at):
                said.append(english)
                at += len(term.rstrip())
                break
        else:
            at += 1
    return " ".join(said)


@lru_cache(maxsize=1)
def concepts() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The shipped concepts: of whole terms, one to `LONGEST` words, and of beginnings of a word."""
    import tomllib

    text = resources.files("trafficllm").joinpath("data", "routing", CONCEPTS).read_text(encoding="utf-8")
    whole: dict[str, str] = {}
    begins: dict[str, str] = {}
    for table in tomllib.loads(text).values():
        for concept, terms in table.items():
            for term in terms.split("|"):
                (begins if term.endswith("*") else whole)[term.removesuffix("*")] = concept
    return whole, begins


def in_concepts(text: str) -> list[str]:
    """Concepts that `text` (normalised) names, in order; the longest term at a word counts.

    >>> in_concepts("behave like skype and write its packets")
    ['be', 'named', 'make', 'traffic']
    """
    whole, begins = concepts()
    words, said, at = _TERM.findall(text), [], 0
    while at < len(words):
        for length in range(min(LONGEST, len(words) - at), 0, -1):
            concept = whole.get(" ".join(words[at : at + length]))
            if concept:
                said.append(concept)
                at += length
                break
        else:
            word = words[at]
            concept = next((begins[word[:end]] for end in range(min(len(word), 16), _STEM - 1, -1) if word[:end] in begins), None)
            said += [concept] if concept else []
            at += 1
    return said


def _rolled(values: _U64, length: int, seed: int) -> _U64:
    """A 64-bit number for each run of `length` values."""
    count = len(values) - length + 1
    out = np.full(count, seed, np.uint64)
    for k in range(length):
        out = (out ^ values[k : k + count]) * _MIX
        out ^= out >> _HALF
    return out


def _words(text: str) -> list[_U64]:
    words = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in _WORD.findall(text)], np.uint64)
    low, high = WORDS
    return [_rolled(words, n, n) for n in range(low, high + 1) if len(words) >= n]


def _characters(text: str) -> list[_U64]:
    """N-grams within words, the spaces around them included."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64) + np.uint64(1)
    before = np.concatenate([[0], np.cumsum(codes == _SPACE)])
    out, (low, high) = [], CHARACTERS
    for n in range(low, high + 1):
        count = len(codes) - n + 1
        if count < 1:
            continue
        crossing = before[n - 1 : n - 1 + count] - before[1 : 1 + count] if n > 2 else np.zeros(count, np.int64)
        if n == 1:
            crossing = (codes == _SPACE).astype(np.int64)
        out.append(_rolled(codes, n, 100 + n)[crossing == 0])
    return out


def _concepts(text: str) -> list[_U64]:
    """Concepts, neighbours in order, and any two in either order."""
    said = np.array([zlib.crc32(concept.encode()) for concept in in_concepts(text)], np.uint64)
    distinct = np.unique(said)[:PAIRED]
    one, other = np.triu_indices(len(distinct), 1)
    pairs = (distinct[one] * _MIX) ^ distinct[other]
    return [*(_rolled(said, n, 200 + n) for n in (1, 2) if len(said) >= n), _rolled(pairs, 1, 203)]


_KINDS: Mapping[str, Callable[[str], list[_U64]]] = {"words": _words, "characters": _characters, "concepts": _concepts}


def phrases(text: str) -> dict[str, tuple[Keys, NDArray[np.int64]]]:
    """Of each kind the question's distinct phrases [m], ascending, and how often each occurs [m]."""
    plain = normalised(text)
    said = in_english(plain)
    whole = f"{plain} | {said}" if said else plain
    out = {}
    for kind in KINDS:
        terms_by_begin = _KINDS[kind](whole)
        keys = np.concatenate(terms_by_begin) if terms_by_begin else np.zeros(0, np.uint64)
        out[kind] = np.unique(((keys * _MIX) >> _HALF).astype(np.uint32), return_counts=True)
    return out
