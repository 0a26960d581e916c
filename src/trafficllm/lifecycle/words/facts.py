"""What a verdict table says, a fact at a time: each is one sentence, whose numbers and names belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trafficllm.core.escape import spoken
from trafficllm.lifecycle.analyze.sentences import named

if TYPE_CHECKING:
    from trafficllm.lifecycle.analyze.hosts import HostRow
    from trafficllm.lifecycle.analyze.results import CaptureTotals
    from trafficllm.lifecycle.analyze.sentences import Answers, Judged

_HOSTS, _LABELS = 3, 4
"""Hosts and labels that facts are made of; further ones are counted."""
ALIAS = "name-"
"""What a name that is no plain word goes by while a model sees it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact in a sentence. `lead`: the verdict itself, which every answer gives."""

    sentence: str
    lead: bool = False


@dataclass(slots=True)
class TableFacts:
    """The facts of a table, leads first. `names` are the labels, answers, tasks and hosts in them, `tasks` the tasks alone. `aliases` stand
    for names that are no plain words: a model sees the alias, the reader the name, quoted and marked."""

    facts: list[Fact] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)

    def add(self, sentence: str, *, lead: bool = False) -> None:
        """One more fact."""
        self.facts.append(Fact(sentence, lead))

    def name(self, text: str) -> str:
        """A label, answer or task as a model may see it."""
        marked = named(text)
        word = text if marked == text else next((alias for alias, full in self.aliases.items() if full == marked), "")
        if not word:
            word = f"{ALIAS}{len(self.aliases) + 1}"
            self.aliases[word] = marked
        self.names.add(word)
        return word

    def told(self, text: str) -> str:
        """A text with aliases replaced by what they stand for."""
        for alias in sorted(self.aliases, key=len, reverse=True):
            text = text.replace(alias, self.aliases[alias])
        return text

    def lines(self) -> list[str]:
        """The sentence of each fact."""
        return [fact.sentence for fact in self.facts]


def table_facts(judged: Judged, answers: Answers, hosts: Sequence[HostRow], totals: CaptureTotals | None = None) -> TableFacts:
    """The facts of verdicts by task, label and the answer above it, and of the hosts that raise an event; `totals` of the capture."""
    out = TableFacts()
    for task in judged.tasks:
        own = {(label, above): count for (name, label, above), count in answers.items() if name == task}
        if own:
            _task(out, judged, task, own, [row for row in hosts if row["task"] == task])
    if totals is not None and totals.flows:
        out.add(f"The capture holds {totals.packets:,} packets in {_flows(totals.flows)}.")
    if totals is not None and totals.non_ip:
        out.add(f"{totals.non_ip:,} frames of the capture carry no IP.")
    out.facts.sort(key=lambda fact: not fact.lead)
    return out


def _task(out: TableFacts, judged: Judged, task: str, own: Mapping[tuple[str, str], int], hosts: Sequence[HostRow]) -> None:
    name, total = out.name(task), sum(own.values())
    out.tasks.add(name)
    labels, above = _counted((label, count) for (label, _), count in own.items()), Counter[str]()
    for (label, answer), count in own.items():
        above[answer or label] += count
    noted = judged.notable.get(task, frozenset())
    notable = _counted((label, count) for (label, answer), count in own.items() if noted & {label, answer})
    for row in hosts[:_HOSTS]:
        _host(out, row)
    if len(hosts) > _HOSTS:
        out.add(f"{len(hosts) - _HOSTS:,} more hosts raise an event by {name}.")
    if noted and not notable:
        out.add(f"By {name}, none of the {_flows(total)} is notable.", lead=True)
    elif noted and not hosts:
        out.add(f"{notable.total():,} of {_flows(total)} {_is(notable.total())} notable by {name}.", lead=True)
        out.add(f"No host stands out by {name}.", lead=True)
    shown = above if noted or len(above) < len(labels) else labels
    for place, (label, count) in enumerate(_first(shown)):
        share = f"{count:,} of {_flows(total)} {_is(count)} {out.name(label)}"
        out.add(f"By {name}, {share}.", lead=not noted and not place)
    for label, count in _first(notable):
        if label not in shown:
            out.add(f"{count:,} of {_flows(total)} {_is(count)} named {out.name(label)}.")


def _host(out: TableFacts, row: HostRow) -> None:
    host, chance = spoken(row["host"]), row["umbrella_probability"]
    out.names.add(host)
    answer = out.name(row["umbrella"])
    sure = "" if chance is None else f" with probability {chance:.2f}"
    out.add(f"Host {host} is {answer}{sure}.", lead=True)
    out.add(f"{host} opened {_flows(row['flows'])}.")
    for label, count in _first(Counter(row["labels"]))[:2]:
        out.add(f"Of the {_flows(row['flows'])} that {host} opened, {count:,} {_is(count)} {out.name(label)}.")


def _counted(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    out = Counter[str]()
    for name, count in pairs:
        out[name] += count
    return out


def _first(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_LABELS]


def _flows(count: int) -> str:
    return f"{count:,} flow{'' if count == 1 else 's'}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
