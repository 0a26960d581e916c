"""`trafficllm serve`: the commands over HTTP (extra `serve`)."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from trafficllm import __version__
from trafficllm.core.errors import TrafficLLMError
from trafficllm.surface.server.guard import Guard
from trafficllm.surface.server.intake import Intake
from trafficllm.surface.server.jobs import Jobs
from trafficllm.surface.server.metrics import Metrics
from trafficllm.surface.server.replies import RefusedError, reply
from trafficllm.surface.server.routes import health, methods_of, router, unknown_path
from trafficllm.surface.server.service import Service
from trafficllm.surface.server.settings import Settings
from trafficllm.surface.web.adapters import adapters
from trafficllm.surface.web.captures import captures
from trafficllm.surface.web.corrections import corrections
from trafficllm.surface.web.page import page

if TYPE_CHECKING:
    from trafficllm.lifecycle.workspace import Workspace

_KEEP_ALIVE = 15
_FILES = 8192
_ROUTERS = (health, router, page, captures, corrections, adapters)


def create_app(workspace: Workspace, settings: Settings | None = None) -> Guard:
    """The ASGI application: page and routes behind their guard. UsageError for settings that would leave it open.

    >>> from trafficllm.lifecycle.workspace import Workspace
    >>> create_app(Workspace(), Settings(port=9000)).settings.port
    9000
    """
    options = settings or Settings()
    options.check()
    metrics = Metrics()
    jobs = Jobs(options, metrics)
    intake = Intake(options, lambda: jobs.inside)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(workspace, options, metrics, jobs, intake)
        app.state.service = service
        warming = asyncio.create_task(service.warm())
        try:
            yield
        finally:
            warming.cancel()
            with suppress(asyncio.CancelledError):
                await warming
            await service.close()

    app = FastAPI(title="TrafficLLM", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    for part in _ROUTERS:
        app.include_router(part)
    app.add_exception_handler(TrafficLLMError, _failed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)
    return Guard(app, options, metrics, intake)


def _respond(error: TrafficLLMError) -> Response:
    status, headers, body = reply(error)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, TrafficLLMError)
    return _respond(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _respond(unknown_path())
    response = _respond(RefusedError(error.status_code, "request.http", str(error.detail)))
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(methods_of(request.scope, [route for part in _ROUTERS for route in part.routes]))
    return response


async def _invalid(_: Request, error: Exception) -> Response:
    """The first thing that is wrong with a request; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    failure = RefusedError(422, "request.invalid", str(first["msg"]), hint="GET /openapi.json describes requests")
    failure.where = ".".join(str(part) for part in first["loc"])
    return _respond(failure)


async def _bug(_: Request, __: Exception) -> Response:
    return _respond(TrafficLLMError("internal", "this is a bug of ours", hint="the server's log says where"))


class _Server(uvicorn.Server):
    """Calls `began` once connections are accepted."""

    def __init__(self, config: uvicorn.Config, began: Callable[[], object] | None) -> None:
        super().__init__(config)
        self._began = began

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._began is not None and self.started:
            await asyncio.to_thread(self._began)


def serve(workspace: Workspace, settings: Settings, *, began: Callable[[], object] | None = None) -> None:
    """Listen until SIGTERM or Ctrl-C; requests inside are finished first, at most `drain` seconds. `began` is called when it listens."""
    _open_files()
    app = create_app(workspace, settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    own = logging.getLogger("trafficllm.server")
    own.setLevel(logging.INFO)
    own.handlers, own.propagate = [handler], False
    own.info("listening host=%s port=%d key=%s", settings.host, settings.port, "yes" if settings.key_hash else "no")
    _Server(configuration(app, settings), began).run()


def configuration(app: Guard, settings: Settings) -> uvicorn.Config:
    """How the web server runs the application."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=_protocol(settings.head),
        log_config=None,
        log_level="critical",  # its messages would carry addresses and traces: the guard writes the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.drain),
    )


def _protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 whose connections bring a whole request head in time or are closed: silent ones must not fill the server."""

    class Impatient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:  # else what is closed stays in memory for as long as it may be silent
                self._timer.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(seconds, self._close_if_idle, self.cycle)

        def _close_if_idle(self, last: object) -> None:
            if self.cycle is last and not self.transport.is_closing():
                self.transport.close()

    return Impatient


def _open_files() -> None:
    """As many connections as this machine gives a process: each is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
