"""One sentence about a capture, before any table: who is it, or what is it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trafficllm.core.escape import spoken
from trafficllm.core.types import NOT_COVERED, UNKNOWN

if TYPE_CHECKING:
    from trafficllm.lifecycle.analyze.hosts import HostRow

_NAMED = 3


def sentence(verdicts: Mapping[str, Mapping[str, int]], hosts: Sequence[HostRow], notable: Mapping[str, Sequence[str]]) -> str:
    """What the first task says of the capture: its notable hosts, else that there is none, else the commonest labels.

    `verdicts` counts flows by task and label, `notable` has the labels and answers of each task that raise an event.

    >>> sentence({"EAC": {"DNS": 3, "unknown": 1}}, [], {})
    'DNS (3 of 4 flows); 1 flow is unknown.'
    """
    if not verdicts:
        return "The capture has no flows."
    task = next(iter(verdicts))
    own = [host for host in hosts if host["task"] == task]
    if not own:
        return _labels(verdicts[task])
    alarming = [host for host in own if host["umbrella"] in notable.get(task, ())]
    open_hosts = sum(host["umbrella"] in {UNKNOWN, NOT_COVERED} for host in own)
    if alarming:
        return _alarm(alarming, own)
    rest = f" {open_hosts:,} of them cannot be judged." if open_hosts else ""
    words = {host["umbrella"] for host in own} - {UNKNOWN, NOT_COVERED}
    if not words:
        return f"None of the {_count(len(own), 'host')} can be judged."
    return f"No notable host among {len(own):,}: {', '.join(sorted(map(spoken, words)))}.{rest}"


def _alarm(alarming: Sequence[HostRow], own: Sequence[HostRow]) -> str:
    names = ", ".join(host["host"] for host in alarming[:_NAMED])
    more = f" and {len(alarming) - _NAMED:,} more" if len(alarming) > _NAMED else ""
    chance = alarming[0]["umbrella_probability"]
    sure = f" (probability {min(chance, 0.99):.2f})" if chance is not None else ""
    verb = "is" if len(alarming) == 1 else "are"
    return f"{names}{more} {verb} {spoken(alarming[0]['umbrella'])}{sure}: {len(alarming):,} of {_count(len(own), 'host')}."


def _labels(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    told = sorted(((n, label) for label, n in counts.items() if label not in {UNKNOWN, NOT_COVERED}), key=lambda item: (-item[0], item[1]))
    head = ", ".join(
        f"{spoken(label)} ({n:,} of {total:,} flows)" if not at else f"{spoken(label)} ({n:,})"
        for at, (n, label) in enumerate(told[:_NAMED])
    )
    rest = [
        f"{_count(counts[name], 'flow')} {'is' if counts[name] == 1 else 'are'} {name}"
        for name in (UNKNOWN, NOT_COVERED)
        if counts.get(name)
    ]
    if not total:
        return "The capture has no flows."
    return "; ".join([*([head] if head else []), *rest]) + "."


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
