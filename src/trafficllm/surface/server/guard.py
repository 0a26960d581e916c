"""The door: who asks (Host, Origin, key), how much they send, how long it takes; and one log line without what was in it.

Pure ASGI, outside the framework, so that nothing is parsed before it is allowed in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from trafficllm.core.errors import TrafficLLMError
from trafficllm.surface.server.metrics import Metrics
from trafficllm.surface.server.replies import RefusedError, reply
from trafficllm.surface.server.settings import Settings

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz"})
"""Answered without a key: a load balancer has none, and they say nothing else."""
_SMALL_BODY = 4 << 20
log = logging.getLogger("trafficllm.server")


class Guard:
    """Wraps an application; see the module."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
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
            self._check(scope)
            exchange.check_length()
            await self.app(scope, exchange.receive, exchange.send)
            if exchange.refused is not None:
                raise exchange.refused
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

    def _check(self, scope: Message) -> None:
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self.settings.accepts_host(hosts[0]):
            raise RefusedError(421, "request.host", "this server has another name", hint="start it with --allow-host NAME")
        for name, value in headers:
            if name == b"origin" and not self.settings.accepts_origin(value, hosts[0]):
                raise RefusedError(403, "request.origin", "pages of other sites may not ask", hint="--allow-origin lists sites")
        given = next((value for name, value in headers if name == b"authorization"), "")
        scheme, _, key = given.partition(" ")
        if self.open > self.settings.crowd and scope["path"] not in OPEN:
            raise RefusedError(503, "request.crowd", "too many connections are being answered", hint="try again later", retry=1)
        right = self.settings.accepts_key(key.strip() if scheme.lower() == "bearer" else "")
        if not right and scope["path"] not in OPEN:
            raise RefusedError(401, "request.key", "an API key is needed", hint="Authorization: Bearer KEY")


class _Exchange:
    """One request and its answer: counts bytes, keeps the deadline of the upload, remembers the status."""

    def __init__(self, guard: Guard, scope: Message, receive: Receive, send: Send) -> None:
        self.guard, self.scope = guard, scope
        self._receive, self._send = receive, send
        self.began = time.monotonic()
        self.bytes = self.status = 0
        self.refused: RefusedError | None = None  # the framework turns what its reading of the body raises into a 400
        form = any(k.lower() == b"content-type" and v.startswith(b"multipart/") for k, v in scope["headers"])
        whole = guard.settings.max_body
        self.limit = whole if form else min(whole, _SMALL_BODY)

    def check_length(self) -> None:
        lengths = [value for name, value in self.scope["headers"] if name.lower() == b"content-length"]
        if lengths and (not lengths[0].isdigit() or int(lengths[0][:20]) > self.limit):
            raise self._too_big()

    def _too_big(self) -> RefusedError:
        return RefusedError(413, "request.too_big", f"more than {self.limit:,} bytes", hint="cut the capture, or raise --max-body")

    async def receive(self) -> Message:
        if self.status:  # the body is in: only a disconnect is still to come
            return await self._receive()
        left = self.began + self.guard.settings.deadline - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError:
            self.refused = RefusedError(408, "request.slow", "the upload took too long")
            raise self.refused from None
        self.bytes += len(message.get("body", b""))
        if self.bytes > self.limit:
            self.refused = self._too_big()
            raise self.refused
        return message

    async def send(self, message: Message) -> None:
        if self.refused is not None:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        left = self.began + 2 * self.guard.settings.deadline - time.monotonic()
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
        if status in {408, 413}:
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


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
