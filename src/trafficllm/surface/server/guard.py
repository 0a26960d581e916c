"""The door: who asks (Host, Origin, key), how much they send, how long it takes; and one log line without what was in it.

Pure ASGI, outside the framework, so that nothing is parsed before it is allowed in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect

from trafficllm.core.errors import TrafficLLMError
from trafficllm.surface.server.intake import Intake, Place
from trafficllm.surface.server.metrics import Metrics
from trafficllm.surface.server.replies import RefusedError, reply
from trafficllm.surface.server.settings import Settings

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz"})
"""Answered without a key and by whatever name the server is called: probes have none and go to an address. They say nothing else."""
_PAGE = "/page/"
"""Below this lie the files of the page at `/`: answered without a key, since the page is what asks for it. They are the same for all."""
_SMALL_BODY = 1 << 20
_GONE = 499
"""In the log only: the client went away before its answer."""
_PREFLIGHT_AGE = 600
_SHARED = b"retry-after, content-disposition, x-trafficllm-version, x-trafficllm-flows, x-trafficllm-packets, x-trafficllm-sha256"
log = logging.getLogger("trafficllm.server")


class Guard:
    """Wraps an application; see the module."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics, intake: Intake | None = None) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.intake = intake or Intake(settings)
        self.open = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, or the server's start and end."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        self.open += 1
        try:
            self._check(scope, exchange)
            declared = exchange.check_length()
            if exchange.preflight:
                await exchange.answer_preflight()
                return
            with self.intake.upload(declared) if exchange.form else nullcontext() as exchange.place:
                scope["place"] = exchange.place
                await self.app(scope, exchange.receive, exchange.send)
            if exchange.refused is not None:
                raise exchange.refused
        except ClientDisconnect:
            exchange.status = exchange.status or _GONE
        except TrafficLLMError as error:
            if isinstance(error, RefusedError):
                self.metrics.refused.labels(why=error.code).inc()
            exchange.refused = None
            await exchange.fail(error)
        except Exception as error:  # noqa: BLE001 - the last line of defence: where it happened, not what was in it
            log.error(  # noqa: TRY400 - a trace would carry what was in the request
                "bug kind=%s at=%s", type(error).__name__, _place(error)
            )
            await exchange.fail(TrafficLLMError("internal", "this is a bug of ours", hint="the server's log says where"))
        finally:
            self.open -= 1
            exchange.note()

    def _check(self, scope: Message, exchange: _Exchange) -> None:
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if scope["path"] not in OPEN and (len(hosts) != 1 or not self.settings.accepts_host(hosts[0])):
            raise RefusedError(421, "request.host", "this server has another name", hint="start it with --allow-host NAME")
        for name, value in headers:
            if name == b"origin":
                if not self.settings.accepts_origin(value, hosts[0] if hosts else ""):
                    raise RefusedError(403, "request.origin", "pages of other sites may not ask", hint="--allow-origin lists sites")
                exchange.share(value, headers)
        if exchange.preflight:  # browsers send it without a key
            return
        given = next((value for name, value in headers if name == b"authorization"), "")
        scheme, _, key = given.partition(" ")
        if self.open > self.settings.crowd and scope["path"] not in OPEN:
            raise RefusedError(503, "request.crowd", "too many connections are being answered", hint="try again later", retry=1)
        right = self.settings.accepts_key(key.strip() if scheme.lower() == "bearer" else "")
        if not right and scope["path"] not in OPEN and not _is_page(scope):
            raise RefusedError(401, "request.key", "an API key is needed", hint="Authorization: Bearer KEY")


class _Exchange:
    """One request and its answer: counts bytes, keeps the deadline of the upload, remembers the status."""

    def __init__(self, guard: Guard, scope: Message, receive: Receive, send: Send) -> None:
        self.guard, self.scope = guard, scope
        self._receive, self._send = receive, send
        self.began = self.answering = time.monotonic()
        self.bytes = self.status = 0
        self.refused: RefusedError | None = None  # the framework turns what its reading of the body raises into a 400
        self.form = any(k.lower() == b"content-type" and v.lower().startswith(b"multipart/") for k, v in scope["headers"])
        whole = guard.settings.max_body
        self.limit = whole if self.form else min(whole, _SMALL_BODY)
        self.place: Place | None = None
        self.shared: list[tuple[bytes, bytes]] = []
        self.preflight = False

    def check_length(self) -> int:
        """Bytes that the body is said to have, 0 where nothing is said; RefusedError (413) where they are too many."""
        lengths = [value for name, value in self.scope["headers"] if name.lower() == b"content-length"]
        if lengths and (not lengths[0].isdigit() or int(lengths[0][:20]) > self.limit):
            raise self._too_big()
        return int(lengths[0]) if lengths else 0

    def share(self, origin: str, headers: list[tuple[bytes, str]]) -> None:
        """Let a listed site's pages read the answer (the Fetch standard's CORS protocol), and note whether this only asks leave."""
        if self.guard.settings.shares_with(origin):
            self.shared = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
            self.preflight = self.scope["method"] == "OPTIONS" and any(name == b"access-control-request-method" for name, _ in headers)
            if not self.preflight:
                self.shared.append((b"access-control-expose-headers", _SHARED))

    async def answer_preflight(self) -> None:
        """What a listed site's pages may send."""
        allowed = [(b"methods", b"GET, POST, DELETE"), (b"headers", b"authorization, content-type")]
        headers = [(b"access-control-allow-" + name, value) for name, value in allowed]
        headers.append((b"access-control-max-age", str(_PREFLIGHT_AGE).encode()))
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    def _too_big(self) -> RefusedError:
        return RefusedError(413, "request.too_big", f"more than {self.limit:,} bytes", hint="cut the capture, or raise --max-body")

    async def receive(self) -> Message:
        if self.status:  # the body is in: only a disconnect is still to come
            return await self._receive()
        left = self.began + self.guard.settings.deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.001)):  # not wait_for: it may swallow a cancellation
                message = await self._receive()
        except TimeoutError:
            self.refused = RefusedError(408, "request.slow", "the upload took too long")
            raise self.refused from None
        self.bytes += len(message.get("body", b""))
        if self.bytes > self.limit:
            self.refused = self._too_big()
            raise self.refused
        if self.place is not None:
            self._count(self.place, message)
        return message

    def _count(self, place: Place, message: Message) -> None:
        try:
            place.grow(len(message.get("body", b"")))
        except RefusedError as error:
            self.refused = error
            raise
        if not message.get("more_body", False):
            place.arrived()

    async def send(self, message: Message) -> None:
        if self.refused is not None:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answering = time.monotonic()
            extra = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), *self.shared]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        left = self.answering + 2 * self.guard.settings.deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.001)):
                await self._send(message)
        except TimeoutError:  # work has its own deadline: this is a reader that does not read
            self.refused = RefusedError(504, "request.reader", "the answer was not read in time")
            raise self.refused from None

    async def fail(self, error: TrafficLLMError) -> None:
        if self.status:  # an answer has begun: all that is left is to end it short
            return
        status, headers, body = reply(error)
        if status in {408, 413, 429, 507}:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def note(self) -> None:
        route = getattr(self.scope.get("route"), "path", "other")
        took = time.monotonic() - self.began
        self.guard.metrics.requests.labels(route=route, status=str(self.status)).inc()
        self.guard.metrics.seconds.labels(route=route).observe(took)
        method = self.scope["method"] if self.scope["method"] in {"GET", "POST", "DELETE", "HEAD", "OPTIONS"} else "other"
        log.info("method=%s route=%s status=%d ms=%d bytes=%d", method, route, self.status, took * 1000, self.bytes)


def _is_page(scope: Message) -> bool:
    return scope["method"] in {"GET", "HEAD"} and (scope["path"] == "/" or scope["path"].startswith(_PAGE))


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
