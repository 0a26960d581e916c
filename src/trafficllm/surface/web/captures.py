"""Paths about an uploaded capture: its analysis with hosts and a sentence, one flow of it, exports in every format."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from fastapi import APIRouter, Query, Request, Security
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPBearer

from trafficllm import __version__
from trafficllm.core.errors import TrafficLLMError
from trafficllm.lifecycle.analyze.sentences import counted, most_suspicious, summary
from trafficllm.lifecycle.facts.asking import understood
from trafficllm.surface.server.chat.answer import LONGEST_QUESTION
from trafficllm.surface.server.replies import envelope
from trafficllm.surface.server.routes import FAILURES, Name, answers, as_json, service_of, streamed
from trafficllm.surface.server.service import Ask, Service
from trafficllm.surface.server.uploads import FlowAsk
from trafficllm.surface.terminal.output import json_line
from trafficllm.surface.web import results

if TYPE_CHECKING:
    from trafficllm.core.types import FlowWriter
    from trafficllm.lifecycle.analyze.analysis import Analysis
    from trafficllm.lifecycle.words.results import Words

captures = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])
Export = Literal["jsonl", "csv", "parquet", "zeek", "eve", "ecs", "notice", "intel", "stix"]
"""Formats of an export: those of `analyze -f` but the table."""
MEDIA: dict[str, str] = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "zeek": "text/plain",
    "eve": "application/x-ndjson",
    "ecs": "application/x-ndjson",
    "notice": "text/plain",
    "intel": "text/plain",
    "stix": "application/json",
}
SUFFIXES = {"zeek": "log", "notice": "log", "intel": "dat", "eve": "json", "ecs": "ndjson", "stix": "json"}
_HOSTS = 2000
_FACT_ROWS = 500
_SHOWN_PACKETS = 20
_SHOWN_FIELDS = (
    *("frame.number", "frame.time_epoch", "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "frame.len"),
    *("ip.ttl", "tcp.flags", "tcp.seq_raw", "tcp.len", "udp.length"),
)
_LINES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-ndjson": {}}}}


@captures.get("/v1/limits", responses=answers(results.Limits))
def limits(request: Request) -> Response:
    """What a request may take, and whether this server has a key."""
    own = service_of(request).settings
    return as_json(
        results.Limits(version=__version__, key=bool(own.key_hash), max_body=own.max_body, max_flows=own.max_flows, deadline=own.deadline)
    )


@captures.post("/v1/files/{file_id}/analyze", responses={**_LINES, **FAILURES}, response_class=StreamingResponse)
async def analyze_file(
    request: Request, file_id: str, task: Name = "", question: Annotated[str, Query(max_length=LONGEST_QUESTION)] = ""
) -> StreamingResponse:
    """A kept capture: a line with its counts (`trafficllm.serve.begin/1`), a line a flow, a line with hosts and a sentence (`.../end/1`).

    With neither task nor question two tasks answer, as in `analyze`: what flows are, and whether they are bad; a line a flow and task.
    Hosts, ports and times in the question restrict the flows. A question that the capture alone answers has one line with a table
    (`trafficllm.serve.fact/1`).
    A failure after the first lines is a last line of the form `trafficllm.error/1`.
    """
    service = service_of(request)
    return await streamed(service, _lines(service, file_id, Ask(task, question, both=True)), MEDIA["jsonl"])


async def _lines(service: Service, file_id: str, ask: Ask) -> AsyncIterator[bytes]:
    totals: Counter[tuple[str, str, str]] = Counter()
    analysis: Analysis | None = None
    taken = understood(ask.question)
    with service.jobs.admitted() as until:
        try:
            capture = service.uploads.get(file_id).path
            if not ask.task and (fact := await service.fact(capture, taken, _FACT_ROWS)) is not None:
                yield _line(results.AnalysisFact(schema_="trafficllm.serve.fact/1", fact=fact))
                return
            async with aclosing(service.analysed(capture, ask, until)) as batches:
                async for running, rows in batches:
                    if analysis is None:
                        yield _line(_begin(running))
                    analysis = running
                    totals.update(counted(rows))
                    yield "".join(json_line(row) + "\n" for row in rows).encode()
            assert analysis is not None
            words = await _in_words(service, ask.question, analysis, totals, until) if ask.question else None
        except TrafficLLMError as error:
            if analysis is None:
                raise
            yield (json_line(envelope(error)) + "\n").encode()
            return
        yield _line(_end(analysis, totals, suspicious=bool(taken.hosts), words=words))


async def _in_words(
    service: Service, question: str, analysis: Analysis, totals: Counter[tuple[str, str, str]], until: float
) -> Words | None:
    """The verdicts in words by the service's instruct base, if it has one; the model's thread writes them."""
    from trafficllm.lifecycle.words.words import Told, words_by

    def told() -> Told:
        return Told.of(question, analysis, totals, analysis.notable_hosts(), analysis.counts())

    return await service.jobs.turn(until, lambda: words_by(service.workspace, told))


def _line(result: results.AnalysisBegin | results.AnalysisEnd | results.AnalysisFact) -> bytes:
    return (json_line(result.as_dict()) + "\n").encode()


def _begin(analysis: Analysis) -> results.AnalysisBegin:
    return results.AnalysisBegin(
        schema_="trafficllm.serve.begin/1",
        tasks=list(analysis.tasks),
        route=analysis.route,
        capture=analysis.counts(),
        notable={task: sorted(names) for task, names in analysis.notable.items()},
        filters=analysis.filters,
    )


def _end(analysis: Analysis, counts: Counter[tuple[str, str, str]], *, suspicious: bool, words: Words | None = None) -> results.AnalysisEnd:
    hosts = analysis.hosts.rows()
    events = analysis.notable_hosts(hosts)
    verdicts: dict[str, Counter[str]] = {task: Counter() for task in analysis.tasks}
    above: dict[str, Counter[str]] = {}
    for (task, label, answer), count in counts.items():
        verdicts[task][label] += count
        if answer:
            above.setdefault(task, Counter())[answer] += count
    said = most_suspicious(hosts, analysis.raises_event) if suspicious else " ".join(summary(analysis, counts, events))
    return results.AnalysisEnd(
        schema_="trafficllm.serve.end/1",
        sentence=said,
        flows=sum(verdicts[analysis.tasks[0]].values()),
        verdicts={task: dict(own.most_common()) for task, own in verdicts.items() if own},
        above={task: dict(own.most_common()) for task, own in above.items()},
        hosts=hosts[:_HOSTS],
        hosts_total=len(hosts),
        uncovered=dict(analysis.uncovered()),
        words=words,
    )


@captures.get("/v1/files/{file_id}/flows/{uid}", responses=answers(results.FlowDetail))
async def flow(request: Request, file_id: str, uid: str, task: Annotated[str, Query(min_length=1, max_length=128)]) -> Response:
    """One flow of a kept capture: verdict with evidence, columns in Zeek's words, first packets."""
    from trafficllm.capture.flows.rows import flow_rows

    service = service_of(request)
    with service.jobs.admitted() as until:
        capture = service.uploads.get(file_id).path
        verdict, one = await service.one_flow(capture, task, FlowAsk(uid, _SHOWN_FIELDS, _SHOWN_PACKETS), until)
    columns = next(islice(flow_rows(one.batch), one.at, None))
    return as_json(
        results.FlowDetail(verdict=verdict, flow=columns, fields=list(_SHOWN_FIELDS), packets=[list(row) for row in one.packets])
    )


@captures.get("/v1/files/{file_id}/flows/{uid}/nearest", responses=answers(results.NearestKnown))
async def nearest(request: Request, file_id: str, uid: str, task: Annotated[str, Query(min_length=1, max_length=128)]) -> Response:
    """The flows of the package's labelled captures that are nearest to one flow of a kept capture."""
    service = service_of(request)
    with service.jobs.admitted() as until:
        near, flows = await service.nearest(service.uploads.get(file_id).path, task, uid, until)
    rows = [
        results.KnownFlow(label=one.label, file=Path(one.file).name, uid=one.uid, distance=round(max(0.0, 1 - one.similarity), 4))
        for one in near.nearest
    ]
    return as_json(results.NearestKnown(uid=near.uid, known_flows=flows, nearest=rows))


# Exports


class _Pieces(io.RawIOBase):
    """A stream that is taken from while it is written to; `tell` counts all that was ever written, as Parquet's footer needs."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


@captures.get(
    "/v1/files/{file_id}/export",
    responses={200: {"content": {m: {} for m in sorted(set(MEDIA.values()))}}, **FAILURES},
    response_class=StreamingResponse,
)
async def export(
    request: Request,
    file_id: str,
    task: Annotated[str, Query(min_length=1, max_length=128)],
    format: Export = "jsonl",  # noqa: A002 - the option's name
) -> StreamingResponse:
    """The verdicts of a kept capture in a format of `analyze -f`, judged anew and sent while they are made."""
    service = service_of(request)
    answer = await streamed(service, _exported(service, file_id, task, format), MEDIA[format])
    answer.headers["content-disposition"] = f'attachment; filename="verdicts.{SUFFIXES.get(format, format)}"'
    return answer


async def _exported(service: Service, file_id: str, task: str, form: str) -> AsyncIterator[bytes]:
    pieces = _Pieces()
    writer: FlowWriter | None = None
    with service.jobs.admitted() as until:
        async with aclosing(service.analysed(service.uploads.get(file_id).path, Ask(task), until)) as batches:
            async for analysis, rows in batches:
                if writer is None:
                    writer = _writer(form, pieces, analysis)
                writer.write(rows)
                yield pieces.take()
    assert writer is not None
    writer.close()
    yield pieces.take()


def _writer(form: str, pieces: _Pieces, analysis: Analysis) -> FlowWriter:
    from trafficllm.lifecycle.analyze.alerts import Alerts
    from trafficllm.surface.formats.columns import VERDICT
    from trafficllm.surface.formats.destinations import verdict_forms
    from trafficllm.surface.formats.eve import verdict_event
    from trafficllm.surface.formats.writers import make_writer

    alerts = Alerts(analysis)
    event = partial(verdict_event, alerts=alerts)
    return make_writer(form, cast("Any", pieces), VERDICT, path="trafficllm", eve=event, forms=verdict_forms(alerts))
