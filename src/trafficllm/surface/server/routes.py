"""The paths of the server: thin, each a few lines over `Service`."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, Security, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.results import ErrorEnvelope, Result
from trafficllm.lifecycle import tasks as lifecycle_tasks
from trafficllm.lifecycle.facts.asking import understood
from trafficllm.surface.server import bodies
from trafficllm.surface.server.chat.answer import LONGEST_QUESTION, Answer, answer
from trafficllm.surface.server.intake import Place
from trafficllm.surface.server.replies import RefusedError, envelope
from trafficllm.surface.server.service import Ask, Service
from trafficllm.surface.server.uploads import Upload
from trafficllm.surface.terminal.answer import ALL
from trafficllm.surface.terminal.output import Said, json_line

health = APIRouter()
"""Paths that need no key."""
router = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))])  # names the scheme; the guard is what checks
_ERROR = {"description": "`trafficllm.error/1`", "model": ErrorEnvelope}
FAILURES: dict[int | str, dict[str, Any]] = {**dict.fromkeys((400, 401, 403, 404, 408, 409, 413, 421, 422, 429, 503, 504, 507), _ERROR)}
"""What any path may answer instead."""


def answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a path answers, for its page in /openapi.json."""
    return {200: {"model": model}, **FAILURES}


Name = Annotated[str, Query(max_length=128)]
"""A task's id in a query."""


def service_of(request: Request) -> Service:
    """The server's one service."""
    service: Service = request.app.state.service
    return service


def as_json(body: Result | Mapping[str, Any]) -> Response:
    """A JSON answer, captured text escaped."""
    return Response(json_line(body if isinstance(body, Mapping) else body.as_dict()), media_type="application/json")


class Stream(StreamingResponse):
    """A stream that ends at its deadline, whether or not its reader reads, and then frees what it holds."""

    until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        import asyncio

        body: Any = self.body_iterator
        try:
            async with asyncio.timeout_at(self.until):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            return
        finally:
            await body.aclose()


# State


@health.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """The process answers."""
    return "ok"


@health.get("/readyz", response_class=PlainTextResponse, responses={503: {"description": "not yet"}})
async def readyz(request: Request) -> PlainTextResponse:
    """The base is loaded."""
    service = service_of(request)
    return PlainTextResponse("ready" if service.ready else service.reason, status_code=200 if service.ready else 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **FAILURES})
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


# Verdicts and captures


@router.get("/v1/tasks", responses=answers(lifecycle_tasks.TaskList))
def tasks(request: Request) -> Response:
    """The catalogue, with the live version of each task."""
    return as_json(lifecycle_tasks.task_list(service_of(request).workspace))


@router.post("/v1/analyze", responses={200: {"content": {"application/x-ndjson": {}}}, **FAILURES}, response_class=StreamingResponse)
async def analyze(
    request: Request,
    file: Annotated[UploadFile, File(description="A capture: pcap or pcapng; gz, zst, lz4.")],
    task: Name = "",
    question: Annotated[str, Query(max_length=LONGEST_QUESTION)] = "",
    explain: bool = False,
) -> StreamingResponse:
    """A JSON line a flow (`schemas/trafficllm.analyze.line.1.json`), while the capture is judged; hosts, ports and times in the question
    restrict the flows. A question that the capture alone answers ("top talkers") has its answer as the one line.

    A failure after the first lines is a last line of the form `trafficllm.error/1`.
    """
    lines = _lines(service_of(request), file, Ask(task, question, explain), request.scope.get("place"))
    return await streamed(service_of(request), lines, "application/x-ndjson")


async def streamed(service: Service, parts: AsyncIterator[bytes], media: str) -> Stream:
    """An answer in parts, at least one; what fails before the first part is an error of its own status."""
    first = await anext(parts)
    stream = Stream(_chained(first, parts), media_type=media)
    stream.until = time.monotonic() + service.settings.deadline
    return stream


async def _lines(service: Service, file: UploadFile, ask: Ask, place: Place | None) -> AsyncIterator[bytes]:
    with service.jobs.admitted(promised=place is not None) as until:
        upload = await service.uploads.store(file, "", keep=False, place=place)
        begun = False
        taken = understood(ask.question)
        try:
            if not ask.task and (fact := await service.fact(upload.path, taken, ALL)) is not None:
                yield (json_line(fact.as_dict()) + "\n").encode()
                return
            async for rows in service.verdicts(upload.path, ask, until):
                yield "".join(json_line(row) + "\n" for row in rows).encode()
                begun = True
        except TrafficLLMError as error:
            if not begun:
                raise
            yield (json_line(envelope(error)) + "\n").encode()
        finally:
            service.uploads.remove(upload)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for part in rest:
            yield part
    finally:
        await rest.aclose()  # type: ignore[attr-defined]


@router.post("/v1/generate", responses={200: {"content": {"application/vnd.tcpdump.pcap": {}}}, **FAILURES}, response_class=FileResponse)
async def generate(request: Request, body: bodies.GenerateRequest) -> FileResponse:
    """A valid synthetic capture: documentation addresses only."""
    service = service_of(request)
    folder = Path(tempfile.mkdtemp(dir=service.uploads.folder))
    out = folder / "generated.pcap"
    try:
        with service.jobs.admitted() as until:
            made = await service.generate(body.model_dump(), out, until)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    facts = {f"x-trafficllm-{name}": str(getattr(made, name)) for name in ("version", "flows", "packets", "sha256")}
    return FileResponse(
        out,
        media_type="application/vnd.tcpdump.pcap",
        filename="generated.pcap",
        headers=facts,
        background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
    )


# OpenAI's interface


@router.get("/v1/models", responses=answers(bodies.ModelList))
def models(request: Request) -> Response:
    """The base and the live adapters."""
    return as_json(bodies.ModelList(object="list", data=service_of(request).models()))


@router.get("/v1/models/{model}", responses=answers(bodies.Model))
def model(request: Request, model: str) -> Response:
    """One of them."""
    return as_json(service_of(request).model(model))


@router.post("/v1/files", responses=answers(bodies.File))
async def upload_file(
    request: Request,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[str, Form(max_length=32)] = "user_data",  # noqa: ARG001 - OpenAI's clients send it
) -> Response:
    """Keep a capture to ask about; the oldest are forgotten first."""
    service = service_of(request)
    name = (file.filename or "capture")[:200]
    return as_json(_file(await service.uploads.store(file, name, keep=True, place=request.scope.get("place"))))


@router.get("/v1/files", responses=answers(bodies.FileList))
async def files(request: Request) -> Response:
    """The captures that are kept."""
    return as_json(bodies.FileList(object="list", data=[_file(upload) for upload in service_of(request).uploads.list()]))


@router.get("/v1/files/{file_id}", responses=answers(bodies.File))
async def file(request: Request, file_id: str) -> Response:
    """One of them."""
    return as_json(_file(service_of(request).uploads.get(file_id)))


@router.delete("/v1/files/{file_id}", responses=answers(bodies.FileGone))
async def delete_file(request: Request, file_id: str) -> Response:
    """Forget one."""
    uploads = service_of(request).uploads
    uploads.forget(uploads.get(file_id).id)
    return as_json(bodies.FileGone(id=file_id, object="file", deleted=True))


def _file(upload: Upload) -> bodies.File:
    return bodies.File(
        id=upload.id,
        object="file",
        bytes=upload.bytes,
        created_at=upload.created,
        filename=upload.name,
        purpose="user_data",
        status="processed",
    )


@router.post("/v1/chat/completions", responses={200: {"model": bodies.Completion, "content": {"text/event-stream": {}}}, **FAILURES})
async def chat(request: Request, body: bodies.ChatRequest) -> Any:
    """Answer the last user message: about pasted packets, or a capture of /v1/files."""
    service = service_of(request)
    async with inside(service) as until:
        said = await answer(service, body, until)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": body.model}
    if body.stream:
        return StreamingResponse(_events(said, head), media_type="text/event-stream")
    message = {"role": "assistant", "content": Said(said.text)}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return as_json({**head, "object": "chat.completion", "choices": [choice], "trafficllm": said.data})


@asynccontextmanager
async def inside(service: Service) -> AsyncIterator[float]:
    """A place inside, with its deadline (monotonic seconds)."""
    with service.jobs.admitted() as until:
        yield until


def _events(said: Answer, head: dict[str, Any]) -> Iterator[str]:
    """Server-sent events as OpenAI's clients read them."""

    def event(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return f"data: {json_line({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

    yield event({"role": "assistant", "content": ""})
    for piece in said.pieces():
        yield event({"content": Said(piece)})
    yield event({}, "stop")
    yield "data: [DONE]\n\n"


def unknown_path() -> RefusedError:
    """There is nothing here."""
    return RefusedError(404, "request.path", "no such path", hint="GET /openapi.json lists them")


def methods_of(scope: Scope, routes: Iterable[BaseRoute]) -> list[str]:
    """Methods that a path has, over all its routes: what `Allow` must name (RFC 9110 15.5.6)."""
    return sorted({name for route in routes if route.matches(scope)[0] != Match.NONE for name in getattr(route, "methods", ())})
