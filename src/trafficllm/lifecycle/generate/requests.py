"""A generation request in words: which labels it names and how many flows of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trafficllm.core.errors import UsageError

MAX_FLOWS = 100_000
_NUMBER = re.compile(r"(?<![\w.,-])(\d{1,6})(?:\s*(k|thousand))?(?![\w.]*\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """Flows of one label of one generation task."""

    task: str
    label: str
    flows: int


def _spelled(label: str) -> re.Pattern[str]:
    """The label as people write it: any case, and spaces, dashes, dots or nothing where it has one of them."""
    words = [re.escape(word) for word in re.split(r"[\s_.\-/]+", label) if word]
    return re.compile(r"(?<!\w)" + r"[\s_.\-/]*".join(words) + r"(?!\w)", re.IGNORECASE)


def _mentions(question: str, labels: Mapping[str, Sequence[str]]) -> list[tuple[int, int, str, str]]:
    """(start, end, task, label) of the labels a question names, in its order; the longest name wins where two overlap."""
    every = [
        (match.start(), match.end(), task, label)
        for task, names in labels.items()
        for label in names
        for match in _spelled(label).finditer(question)
    ]
    longest: list[tuple[int, int, str, str]] = []
    for item in sorted(every, key=lambda item: (item[0] - item[1], item[0])):
        if all(item[1] <= other[0] or item[0] >= other[1] for other in longest) and item[2:] not in [other[2:] for other in longest]:
            longest.append(item)
    return sorted(longest)


def parts_of(question: str, labels: Mapping[str, Sequence[str]], *, flows: int) -> list[Part]:
    """What a question asks to be written: `labels` are those of the generation tasks it was routed to.

    A label takes the number that stands before it and that no other label took ("50 flows of Neris and 20 of Zeus"), or
    the one behind it ("Neris, 50 flows"), or `flows`. UsageError where no label is named, or a number is out of range.
    """
    mentions = _mentions(question, labels)
    if not mentions:
        listed = ", ".join(f"{task}: {', '.join(names)}" for task, names in labels.items())
        raise UsageError("usage.question", "the question names no label to write", input="--question", hint=f"labels are {listed}")
    taken = [(start, end) for start, end, _, _ in mentions]
    numbers = [
        (match.start(), int(match[1]) * (1000 if match[2] else 1))
        for match in _NUMBER.finditer(question)
        if all(match.start() >= end or match.end() <= start for start, end in taken)
    ]
    out = []
    for at, (start, _, task, label) in enumerate(mentions):
        since = mentions[at - 1][1] if at else 0
        until = mentions[at + 1][0] if at + 1 < len(mentions) else len(question)
        before = [count for place, count in numbers if since <= place < start]
        behind = [count for place, count in numbers if start < place < until] if len(mentions) == 1 else []
        count = before[-1] if before else behind[0] if behind else flows
        if not 1 <= count <= MAX_FLOWS:
            raise UsageError("usage.flows", f"{count:,} flows of {label}", input="--question", hint=f"between 1 and {MAX_FLOWS:,} flows")
        out.append(Part(task, label, count))
    return out


def shares_of(mix: Sequence[str], task: str, *, flows: int) -> list[Part]:
    """`LABEL=SHARE` or `TASK/LABEL=SHARE`, several to an item with commas, as whole flows by largest remainder.

    Shares are positive and need not sum to 1. UsageError names the item that is not of this form.
    """
    shares: list[tuple[str, str, float]] = []
    for item in (word for words in mix for word in words.split(",")):
        name, sign, value = item.rpartition("=")
        own, slash, label = name.strip().rpartition("/")
        try:
            share = float(value)
        except ValueError:
            share = 0.0
        if not sign or not label or not 0 < share < 1e9 or not (task or slash):
            raise UsageError(
                "usage.mix", "not of the form LABEL=SHARE", input="--mix", where=item, hint="Neris=0.2 or MTG/Neris=0.2, each share above 0"
            )
        shares.append((own or task, label, share))
    total = sum(share for _, _, share in shares)
    exact = [share / total * flows for _, _, share in shares]
    whole = [int(value) for value in exact]
    rest = sorted(range(len(shares)), key=lambda k: (whole[k] - exact[k], k))[: flows - sum(whole)]
    for k in rest:
        whole[k] += 1
    return [Part(own, label, count) for (own, label, _), count in zip(shares, whole, strict=True)]
