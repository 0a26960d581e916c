"""Answers in words: one sentence, then numbered lines that a follow-up can point at. Captured text is quoted and marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trafficllm.capture.flows.rows import endpoint
from trafficllm.core.escape import spoken
from trafficllm.core.times import NS, iso_time
from trafficllm.lifecycle.analyze.sentences import WORDS, named
from trafficllm.lifecycle.facts.answers import COUNTED
from trafficllm.lifecycle.facts.wording import asked_as, fact_ids

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.hosts import HostRow
    from trafficllm.lifecycle.analyze.verdict_table import Explained, VerdictTable
    from trafficllm.lifecycle.facts.results import Cell, FactAnswer
    from trafficllm.lifecycle.words.results import Words

_FIELDS_SHOWN = 6


def flow(row: VerdictRow) -> str:
    """A flow in a line."""
    above = f", {named(row['umbrella'])}" if row["umbrella"] and row["umbrella"] != row["label"] else ""
    chance = "" if row["umbrella_probability"] is None else f" ({row['umbrella_probability']:.2f})"
    ends = f"{endpoint(row['orig_h'], row['orig_p'])} -> {endpoint(row['resp_h'], row['resp_p'])} {row['proto']}"
    begin = iso_time(round(row["ts"] * NS))
    return f"{ends}, {row['packets']:,} packets from {begin}: {named(row['label'])} {row['confidence']:.2f}{above}{chance}"


def host(row: HostRow) -> str:
    """A host in a line."""
    chance = "" if row["umbrella_probability"] is None else f" ({row['umbrella_probability']:.2f})"
    labels = ", ".join(f"{named(name)} {count:,}" for name, count in list(row["labels"].items())[:3])
    return f"{row['host']}: {named(row['umbrella'])}{chance} by {spoken(row['task'])}, {row['flows']:,} flows opened: {labels}"


def in_words(words: Words) -> str:
    """An answer in words, and who gives it."""
    by = {"model": f"{words.base}, its own words", "choice": f"chosen by {words.base}", "template": "template"}[words.by]
    return f"In words ({by}): {words.text}"


def numbered(lines: Sequence[str], first: int = 1) -> str:
    """Lines with the numbers by which they can be asked for."""
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, first))


def evidence(why: Explained) -> str:
    """Why a flow has its verdict."""
    row = why.row
    likeliest = sorted(row["probabilities"].items(), key=lambda item: (-item[1], item[0]))[:3]
    lines = [flow(row), "likeliest: " + ", ".join(f"{named(label)} {p:.2f}" for label, p in likeliest)]
    for part in row["evidence"]:
        lines.append(
            f"rests on {WORDS.get(part['field']) or spoken(part['field'])} (frame {part['frame']}): without it {part['weight']:.2f} less"
        )
    if why.service:
        fields = ", ".join(f"{name} {spoken(value)}" for name, value in why.facts[:_FIELDS_SHOWN])
        lines.append(f"spoken: {spoken(why.service)}" + (f"; {fields}" if fields else ""))
    lines.append(
        f"Community ID {row['community_id']}; frames {', '.join(map(str, row['frames']))}; by {spoken(row['adapter'])} {row['version']}"
    )
    return "\n".join(lines)


def routed(table: VerdictTable) -> str:
    """What a question was routed to, and how likely it asks for that."""
    if table.route is None:
        return f"answered by {', '.join(map(spoken, table.tasks))}"
    chances = {row.id: row.probability for row in table.route.tasks}
    return "routed to " + ", ".join(f"{spoken(name)} (probability {chances.get(name, 0.0):.2f})" for name in table.tasks)


def help_text(asks: Sequence[str]) -> str:
    """What can be asked: for verdicts, of the capture itself, and after an answer."""
    facts = [asked_as(name) for name in fact_ids()]
    return "\n".join(
        [
            f"Verdicts: {' '.join(asks) or 'no adapter is registered.'}",
            f"The capture itself, without a model: {' '.join(facts)}",
            f"After an answer: {_AFTER}",
        ]
    )


_AFTER = (
    'only to 10.0.0.5, port 443, after 12:03, "clear filters", "and the second one?", "explain it", "show its packets", "hosts", '
    '"write a report to out.md"'
)


def fact(answer: FactAnswer, most: int) -> str:
    """A fact: its sentence, and as much of its table."""
    lines = [answer.sentence]
    if answer.rows and answer.total > 1:
        lines.append("  ".join(answer.columns))
        ours = [column in COUNTED for column in answer.columns]
        lines += ["  ".join(_cell(cell, own) for cell, own in zip(row, ours, strict=True)) for row in answer.rows[:most]]
    if answer.total > most:
        lines.append(f"the first {min(most, len(answer.rows)):,} of {answer.total:,}")
    return "\n".join(lines)


def _cell(cell: Cell, own: bool) -> str:
    """A cell of a fact's table; what is not the reader's `own` word is marked where it is more than a plain word."""
    if cell is None:
        return "-"
    return str(cell) if own else spoken(str(cell))
