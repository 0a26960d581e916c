"""An answer in words from a verdict table: the model's own sentences where they hold, else those facts of the table that it
chose, else the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trafficllm.core.types import Prompt, Segment
from trafficllm.lifecycle.analyze.sentences import counted, summary
from trafficllm.lifecycle.words.facts import TableFacts, table_facts
from trafficllm.lifecycle.words.grounds import refusal, sentences, shortened
from trafficllm.lifecycle.words.results import Words

if TYPE_CHECKING:
    from trafficllm.infer.writer import Writer
    from trafficllm.lifecycle.analyze.hosts import HostRow
    from trafficllm.lifecycle.analyze.results import CaptureTotals
    from trafficllm.lifecycle.analyze.sentences import Answers, Judged
    from trafficllm.lifecycle.analyze.verdict_table import VerdictTable
    from trafficllm.lifecycle.workspace import Workspace

SENTENCES = 3
_LEADS = 2
_ASKED = "Answer the question about network traffic in two short sentences. Use only these facts, copy numbers and names exactly.\n"


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer is made of: the question, the facts, and the template's sentence."""

    question: str
    table: TableFacts
    template: str

    @classmethod
    def of(cls, question: str, judged: Judged, answers: Answers, hosts: Sequence[HostRow], totals: CaptureTotals | None = None) -> Told:
        """Of verdicts counted by task, label and answer, and the hosts that raise an event."""
        return cls(question, table_facts(judged, answers, hosts, totals), " ".join(summary(judged, answers, hosts)))

    @classmethod
    def of_table(cls, question: str, table: VerdictTable) -> Told:
        """Of a table of verdicts."""
        return cls.of(question, table, counted(table.rows), table.notable_hosts, table.totals)


def words_by(workspace: Workspace, told: Callable[[], Told]) -> Words | None:
    """The answer in words by a workspace's instruct base; None where it has none, and nothing is gathered for it then."""
    writer = workspace.writer
    return None if writer is None else in_words(writer, told())


def in_words(writer: Writer, told: Told) -> Words:
    """The answer to a question. Never raises for what the model writes: that is checked, and the template stands behind it."""
    if not any(fact.lead for fact in told.table.facts):
        return Words(text=told.template, by="template", why="no flow was judged", base=writer.name)
    own = shortened(writer.write(_prompt(told)))
    why = refusal(own, told.table, template=told.template)
    if not why and set(sentences(own)) <= set(told.table.lines()):
        return Words(text=told.table.told(own), by="choice", why="it copied sentences of the table", base=writer.name)
    if not why:
        return Words(text=told.table.told(own), by="model", why="every number and name stands in the table", base=writer.name)
    text = chosen(writer, told)
    if again := refusal(text, told.table):
        return Words(text=told.template, by="template", why=f"its words: {why}; its choice: {again}", base=writer.name)
    return Words(text=told.table.told(text), by="choice", why=f"its own words were refused: {why}", base=writer.name)


def chosen(writer: Writer, told: Told) -> str:
    """The verdict and further facts, as many as make three sentences: those that the model finds the question likeliest to ask for.

    A fact is asked about by how likely the question is behind it (query likelihood: Ponte, Croft, SIGIR 1998). On ten questions about one
    table SmolLM2 put a right fact among its first two for 8; by the likelihood of the fact behind the question for hardly any.
    """
    leads = [fact for fact in told.table.facts if fact.lead][:_LEADS]
    rest = [fact.sentence for fact in told.table.facts if fact not in leads]
    asked = {line: writer.likelihoods(_asked_by(line), [told.question])[0] for line in rest}
    best = sorted(rest, key=lambda line: -asked[line])[: SENTENCES - len(leads)]
    return " ".join([*(fact.sentence for fact in leads), *best])


def _asked_by(line: str) -> Prompt:
    return (Segment("instruction", "Write a question that this sentence answers: "), Segment("question", line))


def _prompt(told: Told) -> Prompt:
    """Facts and question as data: nothing of either can become a control token, and names that are no plain words are not in it."""
    lines = [part for line in told.table.lines() for part in (Segment("question", line), Segment("instruction", "\n"))]
    return (Segment("instruction", _ASKED), *lines, Segment("instruction", "Question: "), Segment("question", told.question))
