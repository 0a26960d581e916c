"""A conversation about captures: questions in sequence, each with what the one before was about."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trafficllm.core.errors import TrafficLLMError, UsageError
from trafficllm.lifecycle.analyze.sentences import named
from trafficllm.lifecycle.analyze.verdict_table import VerdictFilter
from trafficllm.lifecycle.chat import wording
from trafficllm.lifecycle.chat.follow_ups import FollowUp, follow_up
from trafficllm.lifecycle.facts.asking import Understood, understood
from trafficllm.lifecycle.facts.filters import Filters
from trafficllm.lifecycle.facts.wording import asks_verdict, lists_flows

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.hosts import HostRow
    from trafficllm.lifecycle.analyze.verdict_table import VerdictTable
    from trafficllm.lifecycle.chat.sources import Source
    from trafficllm.lifecycle.words.results import Words

SHOWN = 8
"""Flows, hosts or rows that an answer lists."""
_PACKETS = 20
_FIELDS = ("frame.number", "frame.time_epoch", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "frame.len", "tcp.flags")
_REPORTED = 3
_AT_ONCE = frozenset({"report", "hosts", "flows", "what", "help"})
"""What can be asked first: it is about the whole capture then."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: what the question was taken for, the text, the flows that the text lists, where a report wants to be written, and the
    answer in words that the text ends in."""

    taken_as: str
    text: str
    flows: tuple[VerdictRow, ...] = ()
    file: str = ""
    words: Words | None = None


_NOTHING = Reply("", "")


@dataclass
class _Subject:
    """What was talked about last: a question for verdicts or for a fact, its filters, the list and the place in it."""

    question: Understood
    table: VerdictTable | None = None
    flows: list[VerdictRow] = field(default_factory=list)
    hosts: list[HostRow] = field(default_factory=list)
    label: str = ""
    place: int = 0
    shown: int = 0

    @property
    def length(self) -> int:
        return len(self.hosts) or len(self.flows)


class Conversation:
    """Questions in sequence about one source.

    >>> talk = Conversation(source)  # doctest: +SKIP
    >>> talk.ask("how many packets are there?").text  # doctest: +SKIP
    '2 packets.'
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._about: _Subject | None = None
        self._recalling = False
        self._list: Reply | None = None

    def recall(self, questions: Sequence[str]) -> None:
        """Be where a conversation is after these questions, without answering them; those that failed changed nothing."""
        self._recalling = True
        try:
            for question in questions:
                with contextlib.suppress(TrafficLLMError):
                    self.ask(question)
        finally:
            self._recalling = False

    @property
    def table(self) -> VerdictTable | None:
        """The verdicts that the last answer is about; None where no verdict was asked for yet."""
        return self._about.table.only(self._about.question.filters) if self._about and self._about.table else None

    def names(self) -> list[str]:
        """Hosts and labels of the verdicts that are at hand, for completion."""
        table = self._about.table if self._about else None
        if table is None:
            return []
        hosts = {host for row in table.rows for host in (row["orig_h"], row["resp_h"])}
        return [*sorted(table.labels), *sorted(hosts)]

    def ask(self, question: str) -> Reply:
        """Answer one question. Raises UsageError for one that nothing answers, and what reading and judging raise."""
        reply = self._answer(question)
        return self._worded(question, reply) if reply is self._list and not self._recalling else reply

    def _answer(self, question: str) -> Reply:
        wanted = follow_up(question)
        if wanted is not None and (self._about is not None or wanted.kind in _AT_ONCE):
            return self._follow(wanted)
        taken = understood(question)
        if taken.filters and not taken.asks and self._about is not None:
            return self._filtered(taken.filters, anew=lists_flows(taken.rest))
        if taken.fact is not None:
            return self._fact(taken)
        if (reply := self._labelled(question, taken)) is not None:
            return reply
        table = self.source.table(question)
        self._about = _Subject(taken, table)
        return self._listed(wording.routed(table))

    def _worded(self, question: str, reply: Reply) -> Reply:
        """A list of verdicts with what an instruct base makes of them at its end."""
        table = self.table
        words = self.source.words(question, table) if table is not None else None
        return reply if words is None else replace(reply, text=f"{reply.text}\n{wording.in_words(words)}", words=words)

    # Questions of their own

    def _fact(self, taken: Understood) -> Reply:
        self._about = _Subject(taken, self._about.table if self._about else None)
        if self._recalling:
            return _NOTHING
        answer = self.source.fact(taken)
        assert answer is not None
        counted = f", flows {answer.filters}" if answer.filters else ""
        return Reply(f"{answer.asked} (probability {answer.probability:.2f}{counted}); counted, no model", wording.fact(answer, SHOWN))

    def _labelled(self, question: str, taken: Understood) -> Reply | None:
        """A question that names a label of the verdicts at hand: its flows."""
        table = self._about.table if self._about else None
        if table is None:
            return None
        words = {word.strip("?!.,:;\"'").lower() for word in question.split()}
        labels = [label for label in sorted(table.labels) if label.lower() in words]
        if len(labels) != 1 or len(words) > 6 or asks_verdict(" ".join(words - {labels[0].lower()})):
            return None
        self._about = _Subject(replace(taken, hosts=0), replace(table, route=None), label=labels[0])
        return self._listed(f"flows that are {named(labels[0])}, {wording.routed(table)}")

    def _listed(self, taken_as: str) -> Reply:
        """The list that the subject's question, label and filters give."""
        self._list = self._new_list(taken_as)
        return self._list

    def _new_list(self, taken_as: str) -> Reply:
        about = self._subject()
        table = (about.table or self.source.table("")).only(about.question.filters)
        flows = table.select(VerdictFilter(label=about.label))
        about.flows, about.hosts, about.place = flows, [], 0
        filters = str(about.question.filters)
        said = f"{taken_as}; flows {filters}" if filters else taken_as
        if about.question.hosts:
            about.hosts = list(table.hosts[: max(about.question.hosts, 1)])
            about.shown = min(SHOWN, len(about.hosts))
            return Reply(said, wording.numbered([wording.host(row) for row in about.hosts[:SHOWN]]) or "No host was judged.")
        if not flows:
            return Reply(said, "No flow is like that.")
        about.shown = min(SHOWN, len(flows))
        head = f"{len(flows):,} flows are {named(about.label)}." if about.label else table.sentence()
        text = wording.numbered([wording.flow(row) for row in flows[:SHOWN]])
        more = f"\nthe first {SHOWN} of {len(flows):,}" if len(flows) > SHOWN else ""
        return Reply(said, f"{head}\n{text}{more}", tuple(flows[:SHOWN]))

    # Follow-ups

    def _follow(self, wanted: FollowUp) -> Reply:
        if wanted.kind == "help":
            return Reply("", wording.help_text(self.source.asks()))
        if self._about is None:
            self._about = _Subject(understood(""))
        if wanted.kind in {"hosts", "flows", "all"}:
            return self._again(wanted)
        if wanted.kind == "report":
            return _NOTHING if self._recalling else Reply("a report on what is at hand", self._report(), file=wanted.file)
        about = self._subject()
        if not about.length:
            listed = self._listed(wording.routed(about.table) if about.table else "")
            if wanted.kind == "what":
                return listed
        if wanted.kind == "more":
            return self._more(about)
        self._go(about, wanted)
        row = self._row(about)
        if self._recalling:
            return _NOTHING
        if wanted.kind == "explain":
            return Reply(f"the evidence of flow {about.place + 1}", wording.evidence(self.source.explain(row)), (row,))
        if wanted.kind == "packets":
            return Reply(f"the packets of flow {about.place + 1}", self._packets(row), (row,))
        if about.hosts:
            return Reply(f"host {about.place + 1} of {len(about.hosts):,}", wording.host(about.hosts[about.place]))
        return Reply(f"flow {about.place + 1} of {len(about.flows):,}", wording.flow(row), (row,))

    def _subject(self) -> _Subject:
        assert self._about is not None
        if self._about.table is None:
            self._about.table = self.source.table("")
        return self._about

    def _go(self, about: _Subject, wanted: FollowUp) -> None:
        place = about.place + {"next": 1, "back": -1}.get(wanted.kind, 0)
        if wanted.number:
            place = about.length - 1 if wanted.number < 0 else wanted.number - 1
        if not 0 <= place < about.length:
            hint = f"the list has {about.length:,}" if about.length else "ask for flows first"
            raise UsageError("usage.question", "there is no such one", input=f"number {place + 1}", hint=hint)
        about.place = place

    def _row(self, about: _Subject) -> VerdictRow:
        """The flow at hand; of a host its most notable one."""
        if not about.hosts:
            return about.flows[about.place]
        host = about.hosts[about.place]
        flows = [row for row in about.flows if row["orig_h"] == host["host"] and row["task"] == host["task"]]
        if not flows:
            hint = "ask for all of them"
            raise UsageError("usage.question", "no flow of this host is among those at hand", input=host["host"], hint=hint)
        return flows[0]

    def _again(self, wanted: FollowUp) -> Reply:
        about = self._subject()
        question = about.question
        if wanted.kind == "all":
            about.question, about.label = replace(question, filters=Filters()), ""
        elif wanted.kind == "hosts":
            about.question = replace(question, hosts=20)
        else:
            about.question = replace(question, hosts=0)
        return self._listed(f"{wanted.kind}, {wording.routed(self._subject_table())}")

    def _more(self, about: _Subject) -> Reply:
        if about.hosts:
            rows = about.hosts[about.shown : about.shown + SHOWN]
            lines = [wording.host(row) for row in rows]
        else:
            lines = [wording.flow(row) for row in about.flows[about.shown : about.shown + SHOWN]]
        text = wording.numbered(lines, about.shown + 1) or "That was all."
        about.shown += len(lines)
        return Reply("more of the same list", text)

    def _filtered(self, filters: Filters, *, anew: bool) -> Reply:
        """The last question again, of fewer flows; `anew` of all flows that pass these filters. Where none does, what was at hand stays."""
        assert self._about is not None
        before = self._about.question
        joined = replace(
            before.filters,
            hosts=(*before.filters.hosts, *filters.hosts),
            ports=filters.ports or before.filters.ports,
            protos=filters.protos or before.filters.protos,
            after=filters.after or before.filters.after,
            before=filters.before or before.filters.before,
            first=filters.first if filters.first is not None else before.filters.first,
        )
        asked = replace(before, filters=filters, fact=None, hosts=0) if anew else replace(before, filters=joined)
        if asked.fact is not None:
            return self._fact(asked)
        held, self._about = self._about, replace(self._about, question=asked, label="" if anew else self._about.label)
        reply = self._listed(wording.routed(self._subject_table()) if anew else "the same question")
        if self._about.length:
            return reply
        self._about = held
        return replace(reply, text="No flow is like that; what was listed before stays at hand.")

    def _subject_table(self) -> VerdictTable:
        """The verdicts that the subject is about, all of them."""
        about = self._subject()
        assert about.table is not None
        return about.table

    def _packets(self, row: VerdictRow) -> str:
        rows = self.source.packets(row, _FIELDS, _PACKETS)
        used = [k for k in range(len(_FIELDS)) if any(values[k] for values in rows)]
        lines = ["  ".join(_FIELDS[k] for k in used), *("  ".join(values[k] or "-" for k in used) for values in rows)]
        more = [f"the first {_PACKETS} of {row['packets']:,}"] if row["packets"] > len(rows) else []
        return "\n".join([*lines, *more])

    def _report(self) -> str:
        """What is at hand in Markdown, each claim with its evidence."""
        about = self._subject()
        if not about.length:
            self._listed("")
        table = self._subject_table().only(about.question.filters)
        filters = str(about.question.filters)
        parts = ["# Report", "", table.sentence()]
        parts += [f"Only flows {filters}."] if filters else []
        parts += ["", "## Hosts", "", *_bullets([wording.host(row) for row in table.hosts[:SHOWN]])]
        parts += ["", "## Flows", "", *_bullets([wording.flow(row) for row in about.flows[:SHOWN]]), "", "## Evidence"]
        for row in about.flows[:_REPORTED]:
            parts += ["", f"### {row['uid']}", "", *_bullets(wording.evidence(self.source.explain(row)).splitlines())]
        totals = table.totals
        parts += ["", "## Not judged", "", *_bullets([f"{reason}: {count:,} frames" for reason, count in totals.not_read.items()])]
        parts += _bullets([f"{totals.non_ip:,} frames without IP", f"{table.beyond:,} verdicts beyond those kept"])
        return "\n".join(parts)


def _bullets(lines: Sequence[str]) -> list[str]:
    return [f"- {line}" for line in lines] or ["- none"]
