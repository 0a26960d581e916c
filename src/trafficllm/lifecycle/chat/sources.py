"""Where a conversation's answers come from: captures, each judged once by the tasks that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trafficllm.core.types import ProgressSink, Silent
from trafficllm.lifecycle.analyze.verdict_table import Explained, VerdictTable, explained, judged, packets_of
from trafficllm.lifecycle.analyze.verdicts import askable, choose
from trafficllm.lifecycle.facts.asking import answer_fact
from trafficllm.lifecycle.words.words import Told, words_by

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.facts.asking import Understood
    from trafficllm.lifecycle.facts.results import FactAnswer
    from trafficllm.lifecycle.words.results import Words
    from trafficllm.lifecycle.workspace import Workspace


class Source(Protocol):
    """What a conversation asks."""

    def table(self, question: str) -> VerdictTable:
        """Verdicts by the tasks that a question asks for; raises what `choose` raises."""
        ...

    def fact(self, question: Understood) -> FactAnswer | None:
        """The answer to a question that the captures alone answer."""
        ...

    def asks(self) -> list[str]:
        """Questions for verdicts that have an answer here."""
        ...

    def words(self, question: str, table: VerdictTable) -> Words | None:
        """The answer in words; None where nobody gives one."""
        ...

    def explain(self, row: VerdictRow) -> Explained:
        """A flow's verdict with its evidence."""
        ...

    def packets(self, row: VerdictRow, fields: Sequence[str], most: int) -> list[tuple[str, ...]]:
        """The first packets of a flow."""
        ...


@dataclass
class Captures:
    """Files on this machine; verdicts are kept by the tasks that gave them."""

    workspace: Workspace
    paths: Sequence[str | Path]
    task: str = ""
    progress: ProgressSink = field(default_factory=Silent)
    tables: dict[tuple[str, ...], VerdictTable] = field(default_factory=dict)

    def table(self, question: str) -> VerdictTable:
        """Verdicts by the tasks that a question asks for, judged at the first such question."""
        tasks, route = choose(self.workspace, self.task, question)
        if tasks not in self.tables:
            self.tables[tasks] = judged(self.workspace, self.paths, choice=(tasks, None), progress=self.progress)
        return replace(self.tables[tasks], route=route)

    def fact(self, question: Understood) -> FactAnswer | None:
        """The answer to a question that the captures alone answer."""
        return answer_fact(self.paths, question, self.workspace.config, progress=self.progress)

    def asks(self) -> list[str]:
        """Questions for verdicts that the workspace's adapters answer."""
        return askable(self.workspace)

    def words(self, question: str, table: VerdictTable) -> Words | None:
        """The answer in words by the workspace's instruct base, if it has one."""
        return words_by(self.workspace, lambda: Told.of_table(question, table))

    def explain(self, row: VerdictRow) -> Explained:
        """A flow's verdict with its evidence."""
        return explained(self.workspace, self.paths, row, progress=self.progress)

    def packets(self, row: VerdictRow, fields: Sequence[str], most: int) -> list[tuple[str, ...]]:
        """The first `most` packets of a flow."""
        return list(islice(packets_of(self.paths, row, fields, config=self.workspace.config), most))
