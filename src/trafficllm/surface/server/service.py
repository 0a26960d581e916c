"""What the routes ask for: the commands behind admission, deadlines and bounded reading."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import TrafficLLMError
from trafficllm.lifecycle.analyze.known import Known
from trafficllm.lifecycle.facts.answers import SHOWN
from trafficllm.surface.server.bodies import Model
from trafficllm.surface.server.intake import Intake
from trafficllm.surface.server.jobs import Deadline, Jobs
from trafficllm.surface.server.metrics import Metrics
from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.settings import Settings
from trafficllm.surface.server.uploads import FlowAsk, OneFlow, Uploads, counts_of, totals_of

if TYPE_CHECKING:
    from trafficllm.core.types import FlowMeta, FlowStream, Record
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.analyze.known import ComparedFlow
    from trafficllm.lifecycle.analyze.verdict_table import VerdictTable
    from trafficllm.lifecycle.analyze.verdicts import Choice
    from trafficllm.lifecycle.facts.asking import Understood
    from trafficllm.lifecycle.facts.results import FactAnswer
    from trafficllm.lifecycle.generate.results import Generate
    from trafficllm.lifecycle.workspace import Workspace

BASE = "trafficllm"
"""What the base is called among the models; adapters go by their task's id."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Ask:
    """What to judge by; `both`: where nothing is asked, one task says what flows are and another whether they are bad."""

    task: str = ""
    question: str = ""
    explain: bool = False
    both: bool = False


class Service:
    """One server's workspace, its limits and what it holds."""

    def __init__(self, workspace: Workspace, settings: Settings, metrics: Metrics, jobs: Jobs, intake: Intake) -> None:
        self.workspace = workspace
        self.settings = settings
        self.metrics = metrics
        self.jobs = jobs
        self.uploads = Uploads(settings, intake)
        self.ready = False
        self.reason = "starting"
        self.tables: OrderedDict[tuple[str, ...], VerdictTable] = OrderedDict()
        """Verdicts of captures that chats are about, by the upload's id and the adapters that gave them."""
        self._revisions: dict[str, str] = {}
        self._known = Known(workspace)

    async def warm(self) -> None:
        """Load the base before the first request does; what stops it is what /readyz says."""
        try:
            await self.jobs.turn(time.monotonic() + 3600, lambda: self.workspace.engine)
            await self.uploads.warm()
            self.ready, self.reason = True, ""
        except TrafficLLMError as error:
            self.reason = error.code

    async def close(self) -> None:
        """End work and forget uploads."""
        self.jobs.close()
        await self.uploads.close()

    # Adapters

    def models(self) -> list[Model]:
        """OpenAI's model objects: the base, and the live adapter of each task with `parent`."""
        catalogue = self.workspace.tasks()
        rows = [_model(BASE, parent=None, created=0, version=None)]
        for task, live in self.workspace.registry.live_versions().items():
            if task in catalogue:
                created = int((live.path / "manifest.json").stat().st_mtime)
                rows.append(_model(task, parent=BASE, created=created, version=live.version))
        return rows

    def model(self, name: str) -> Model:
        """One of them; RefusedError (404) for a name that is none."""
        for row in self.models():
            if row.id == name:
                return row
        raise RefusedError(404, "model_not_found", "no such model", hint="GET /v1/models lists them")

    def _refresh(self) -> None:
        """Drop adapters that are live no more, once nobody else can still be using them.

        New versions need nothing: every request opens what the registry says is live.
        """
        registry = self.workspace.registry
        now = {task: registry.revision(task) for task in registry.tasks()}
        if now == self._revisions or self.jobs.inside > 1:
            return
        self._revisions = now
        live = {version.resident for version in registry.live_versions().values()}
        for name in self.workspace.engine.adapters:
            if "/" in name and name not in live:
                self.workspace.engine.remove_adapter(name)

    # Verdicts

    async def analysed(
        self, capture: Path, ask: Ask, until: float, choice: Choice | None = None
    ) -> AsyncGenerator[tuple[Analysis, list[VerdictRow]], None]:
        """An uploaded capture's analysis with each batch of its verdict rows, at least one, which may be empty; by the tasks of `choice`
        where they are known already, of the flows that the question restricts it to.

        Once a reader is ready for the capture, its deadline begins anew. The analysis counts the whole capture from the start.
        """
        from trafficllm.lifecycle.analyze.verdicts import flow_options

        tasks = choice if choice is not None else await self.jobs.turn(until, lambda: self._choose(ask))
        async with self.uploads.reader() as reader:
            until = time.monotonic() + self.settings.deadline
            flows, folder = await self.jobs.within(until, self.uploads.flows(reader, capture, flow_options(self.workspace, tasks[0])))
        try:
            totals = totals_of(folder)
            analysis = replace(await self.jobs.turn(until, lambda: self._start(flows, ask, tasks)), counts=lambda: totals)
            while (rows := await self.jobs.turn(until, lambda: next(analysis.batches, None))) is not None:
                for name in analysis.tasks:
                    self.metrics.flows.labels(task=name).inc(sum(row["task"] == name for row in rows))
                yield analysis, rows
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def verdicts(self, capture: Path, ask: Ask, until: float) -> AsyncIterator[list[VerdictRow]]:
        """Batches of verdict rows of an uploaded capture (see `analysed`)."""
        async with aclosing(self.analysed(capture, ask, until)) as batches:
            async for _, rows in batches:
                yield rows

    async def one_flow(self, capture: Path, task: str, wanted: FlowAsk, until: float) -> tuple[VerdictRow, OneFlow]:
        """One flow of an uploaded capture and its verdict with evidence. RefusedError (404) where it has no such flow."""
        from trafficllm.lifecycle.analyze import verdicts

        flow, rows, until = await self._one(capture, task, wanted, until)
        judged = await self.jobs.turn(until, lambda: verdicts.judge(self.workspace, rows, task=task, explain=True))
        return judged[0], flow

    async def nearest(self, capture: Path, task: str, uid: str, until: float) -> tuple[ComparedFlow, int]:
        """One flow of an uploaded capture with the nearest flows of the package's captures, as the bare base sees them, and how many those
        are in all. RefusedError (404) where it has no such flow."""
        from trafficllm.lifecycle.analyze.known import compared_flows
        from trafficllm.lifecycle.studies.embed import Representation

        _, rows, until = await self._one(capture, task, FlowAsk(uid, (), 0), until)

        def work() -> tuple[ComparedFlow, int]:
            how = Representation.of(self.workspace)
            known = self._known.of(how, None, progress=Deadline(until))
            return compared_flows(known, how, rows)[0], len(known.names)

        return await self.jobs.turn(until, work)

    async def _one(self, capture: Path, task: str, wanted: FlowAsk, until: float) -> tuple[OneFlow, list[tuple[Record, FlowMeta]], float]:
        """One flow, cut as the task's live adapter reads captures, its raw record, and the deadline of what follows."""
        from trafficllm.lifecycle.analyze import verdicts
        from trafficllm.records.codec.flows import records_in

        tasks, _ = await self.jobs.turn(until, lambda: self._choose(Ask(task)))
        async with self.uploads.reader() as reader:
            until = time.monotonic() + self.settings.deadline
            options = verdicts.flow_options(self.workspace, tasks)
            flow = await self.jobs.within(until, self.uploads.flow(reader, capture, options, wanted))
        if flow is None:
            raise RefusedError(404, "request.flow", "the capture has no such flow", hint="take `uid` from a line of its verdicts")
        return flow, list(records_in(flow.batch, flow.at, flow.at + 1)), until

    async def cut(self, capture: Path, task: str, flows: Mapping[str, int], until: float) -> tuple[Path, dict[str, str]]:
        """Captures of named flows (see `Uploads.cut`), cut as the task's live adapter reads them."""
        from trafficllm.lifecycle.analyze import verdicts

        tasks, _ = await self.jobs.turn(until, lambda: self._choose(Ask(task)))
        async with self.uploads.reader() as reader:
            until = time.monotonic() + self.settings.deadline
            options = verdicts.flow_options(self.workspace, tasks)
            return await self.jobs.within(until, self.uploads.cut(reader, capture, options, flows))

    def _choose(self, ask: Ask) -> Choice:
        from trafficllm.lifecycle.analyze.verdicts import choose

        return choose(self.workspace, ask.task, ask.question, both=ask.both)

    def _start(self, flows: FlowStream, ask: Ask, choice: Choice) -> Analysis:
        from trafficllm.lifecycle.analyze.verdicts import start

        self._refresh()
        return start(self.workspace, [], question=ask.question, explain=ask.explain, choice=choice, flows=flows)

    async def judge(self, rows: Sequence[tuple[Record, FlowMeta]], ask: Ask, until: float) -> list[VerdictRow]:
        """Verdicts of pasted traffic."""

        from trafficllm.lifecycle.analyze import verdicts

        def work() -> list[VerdictRow]:
            self._refresh()
            return verdicts.judge(self.workspace, rows, task=ask.task, question=ask.question)

        return await self.jobs.turn(until, work)

    # Captures

    async def fact(self, capture: Path, question: Understood, most: int = SHOWN) -> FactAnswer | None:
        """The answer to a question that an uploaded capture alone answers, its table cut to `most` rows; None for another question. No
        model takes part."""
        from trafficllm.lifecycle.facts.answers import answer
        from trafficllm.lifecycle.facts.counting import CaptureFacts

        wanted = question.fact
        if wanted is None:
            return None
        async with self.uploads.reader() as reader:
            until = time.monotonic() + self.settings.deadline
            flows, folder = await self.jobs.within(until, self.uploads.flows(reader, capture, self.workspace.config.capture))

        def count() -> FactAnswer:
            facts = CaptureFacts(question.filters, counts_of(folder))
            for batch in flows:
                facts.add(batch)
            return answer(facts, wanted, most=most)

        try:
            return await self.jobs.within(until, asyncio.to_thread(count))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def fields(self, capture: Path, names: Sequence[str], frame: int) -> dict[str, str] | None:
        """Values of fields of one frame of an uploaded capture; None where there is no such frame."""
        async with self.uploads.reader() as reader:
            until = time.monotonic() + self.settings.deadline
            return await self.jobs.within(until, self.uploads.fields(reader, capture, names, frame))

    async def generate(self, body: Mapping[str, Any], out: Path, until: float) -> Generate:
        """Write a synthetic capture."""
        from trafficllm.lifecycle.generate import synthesis

        def work() -> Generate:
            parts = synthesis.parts(self.workspace, task=body["task"], label=body["label"], flows=body["flows"])
            scenario = synthesis.Scenario(parts, body["seed"], body["temperature"])
            return synthesis.generate(self.workspace, scenario, out=out, progress=Deadline(until))

        return await self.jobs.turn(until, work)


def _model(name: str, *, parent: str | None, created: int, version: str | None) -> Model:
    return Model(id=name, object="model", owned_by="trafficllm", parent=parent, root=BASE, created=created, version=version)
