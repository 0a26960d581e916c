"""Verdicts of a capture in a sentence a task: whether anything is to be noted, by which hosts, and what the rest is.

The terminal, the page, chats, MCP and notebooks all say these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from trafficllm.core.escape import spoken

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.hosts import HostRow

_HOSTS, _LABELS = 3, 6
"""Hosts and labels that a sentence names; further ones are counted."""
Answers: TypeAlias = "Mapping[tuple[str, str, str], int]"
"""Verdicts by task, label, and the answer above it (empty where there is none)."""
WORDS = {
    "packet": "packet",
    "payload": "first payload bytes",
    "facts": "fields of TLS, DNS or HTTP",
    "service": "the protocol spoken",
    "iats": "times between packets",
    "flags": "TCP flags",
    "window": "TCP window",
    "ttl": "TTL",
    "proto": "transport protocol",
    "orig_port_class": "the client's kind of port",
    "resp_port_class": "the server's kind of port",
}
"""What a part of a record is called for people; names as in `infer.evidence`."""


def named(text: str) -> str:
    """A label or answer within a sentence: as `spoken`, but "not covered" and "not malicious" are words of ours.

    >>> named("not covered"), named("Neris")
    ('not covered', 'Neris')
    """
    rest = text.removeprefix("not ")
    return text if spoken(rest) == rest else spoken(text)


class Judged(Protocol):
    """What was judged: the `tasks` in their order, the question that each `asks`, and the labels and answers of each that are `notable`."""

    @property
    def tasks(self) -> tuple[str, ...]: ...

    @property
    def asks(self) -> Mapping[str, str]: ...

    @property
    def notable(self) -> Mapping[str, frozenset[str]]: ...


def counted(rows: Iterable[VerdictRow]) -> Counter[tuple[str, str, str]]:
    """Verdicts by task, label and the answer above it."""
    return Counter((row["task"], row["label"], row["umbrella"] or "") for row in rows)


def summary(judged: Judged, answers: Answers, hosts: Sequence[HostRow]) -> list[str]:
    """A sentence a task: what the flows are, or whether any is what the task looks for. `hosts` are those that raise an event; they come
    before flows. Captured names are marked unless they are one plain word."""
    if not answers:
        return ["No flow was judged."]
    return [_of_task(judged, task, answers, [row for row in hosts if row["task"] == task]) for task in judged.tasks]


def _of_task(judged: Judged, task: str, answers: Answers, hosts: Sequence[HostRow]) -> str:
    own = {(label, answer): count for (name, label, answer), count in answers.items() if name == task}
    labels, above = Counter[str](), Counter[str]()
    for (label, answer), count in own.items():
        labels[label] += count
        above[answer or label] += count
    asked = f"{judged.asks.get(task) or task} ({spoken(task)})"
    noted = judged.notable.get(task, frozenset())
    if not noted:
        return f"{asked}: {_listed(above if len(above) < len(labels) else labels)}."
    notable = Counter[str]()
    for (label, answer), count in own.items():
        if noted & {label, answer}:
            notable[label] += count
    flows = f"{notable.total():,} of {labels.total():,} flows ({_listed(notable)})" if notable else f"none of {labels.total():,} flows"
    if not hosts:
        return f"{asked}: {'no host stands out, ' if notable else ''}{flows}. In all: {_listed(above)}."
    more = f" and {len(hosts) - _HOSTS:,} more" if len(hosts) > _HOSTS else ""
    return f"{asked}: {'; '.join(map(_host, hosts[:_HOSTS]))}{more}; {flows}. In all: {_listed(above)}."


def _host(row: HostRow) -> str:
    return f"{row['host']}, {_answer(row)}"


def _listed(counts: Mapping[str, int]) -> str:
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{count:,} {named(label)}" for label, count in rows[:_LABELS])
    return text + (f" and {len(rows) - _LABELS} more" if len(rows) > _LABELS else "")


def most_suspicious(rows: Sequence[HostRow], raises_event: Callable[[HostRow], bool]) -> str:
    """Who the most suspicious host is, `rows` being ordered by that, and whether it raises an event."""
    if not rows:
        return "No host was judged."
    first = rows[0]
    said = f"{first['host']} is the most suspicious host: {_answer(first)}, {first['flows']:,} flows."
    return said if raises_event(first) else f"No host raises an event. {said}"


def _answer(row: HostRow) -> str:
    chance = row["umbrella_probability"]
    return named(row["umbrella"]) + ("" if chance is None else f" at {chance:.2f}")
