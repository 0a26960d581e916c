"""A conversation about an uploaded capture: what it asks is answered by the service, in its turns and its readers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from trafficllm.lifecycle.analyze.verdict_table import Explained, VerdictTable, tabled
from trafficllm.surface.server.service import Ask, Service
from trafficllm.surface.server.uploads import FlowAsk, OneFlow, Upload

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.facts.asking import Understood
    from trafficllm.lifecycle.facts.results import FactAnswer
    from trafficllm.lifecycle.words.results import Words

T = TypeVar("T")
MOST = 20_000
"""Verdicts kept of a capture that a chat is about; later ones are only counted."""
_TABLES = 8


@dataclass
class Hosted:
    """The source of a conversation that runs in a thread of its own, while `loop` does the service's work."""

    service: Service
    upload: Upload
    task: str
    until: float
    loop: asyncio.AbstractEventLoop

    def table(self, question: str) -> VerdictTable:
        """Verdicts by the tasks that a question asks for, judged at the first such question of any chat."""
        return self._wait(self._table(question))

    def fact(self, question: Understood) -> FactAnswer | None:
        """The answer to a question that the capture alone answers."""
        return self._wait(self.service.fact(self.upload.path, question))

    def asks(self) -> list[str]:
        """Questions for verdicts that the service's adapters answer."""
        from trafficllm.lifecycle.analyze.verdicts import askable

        return self._wait(self.service.jobs.turn(self.until, lambda: askable(self.service.workspace)))

    def words(self, question: str, table: VerdictTable) -> Words | None:
        """The answer in words by the service's instruct base, if it has one; the model's thread writes it."""
        from trafficllm.lifecycle.words.words import Told, words_by

        workspace = self.service.workspace
        return self._wait(self.service.jobs.turn(self.until, lambda: words_by(workspace, lambda: Told.of_table(question, table))))

    def explain(self, row: VerdictRow) -> Explained:
        """A flow's verdict with its evidence."""
        from trafficllm.records.codec.flows import records_in

        again, flow = self._flow(row, (), 0)
        record, _ = next(iter(records_in(flow.batch, flow.at, flow.at + 1)))
        return Explained.of(again, record)

    def packets(self, row: VerdictRow, fields: Sequence[str], most: int) -> list[tuple[str, ...]]:
        """The first packets of a flow."""
        return list(self._flow(row, tuple(fields), most)[1].packets)

    def _flow(self, row: VerdictRow, fields: tuple[str, ...], most: int) -> tuple[VerdictRow, OneFlow]:
        return self._wait(self.service.one_flow(self.upload.path, row["task"], FlowAsk(row["uid"], fields, most), self.until))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _table(self, question: str) -> VerdictTable:
        from trafficllm.lifecycle.analyze.verdicts import choose

        service, workspace = self.service, self.service.workspace
        tasks, route = await service.jobs.turn(self.until, lambda: choose(workspace, self.task, question))
        key = (self.upload.id, *tasks, *(workspace.registry.live(name).content for name in tasks))
        kept = {upload.id for upload in service.uploads.list()}
        for gone in [name for name in service.tables if name[0] not in kept]:
            del service.tables[gone]
        table = service.tables.get(key)
        if table is None:
            table = service.tables[key] = await self._judged(tasks)
            while len(service.tables) > _TABLES:
                service.tables.popitem(last=False)
        service.tables.move_to_end(key)
        return replace(table, route=route)

    async def _judged(self, tasks: tuple[str, ...]) -> VerdictTable:
        rows: list[VerdictRow] = []
        analysis: Analysis | None = None
        beyond = 0
        async with aclosing(self.service.analysed(self.upload.path, Ask(), self.until, choice=(tasks, None))) as batches:
            async for each, batch in batches:
                analysis = each
                room = max(0, MOST - len(rows))
                rows += batch[:room]
                beyond += max(0, len(batch) - room)
        assert analysis is not None  # there is at least one batch
        return tabled(analysis, rows, beyond)
