"""Failures over HTTP: the same envelope as the command line's, with the status that a client acts on."""

from __future__ import annotations

from typing import Any

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, TrafficLLMError, UsageError
from trafficllm.surface.terminal.output import json_line

_STATUS: tuple[tuple[type[TrafficLLMError], int], ...] = ((UsageError, 400), (InputError, 422), (ArtifactError, 409), (ResourceError, 503))


class RefusedError(TrafficLLMError):
    """A request that is refused with a status of its own (401, 404, 413, 421, 429, 504...)."""

    def __init__(self, status: int, code: str, message: str, *, hint: str = "", retry: int = 0) -> None:
        super().__init__(code, message, hint=hint)
        self.status = status
        self.retry = retry


def status_of(error: TrafficLLMError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RefusedError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def envelope(error: TrafficLLMError) -> dict[str, Any]:
    """`trafficllm.error/1`; OpenAI clients read its `error.message` and `error.code` too. Paths of this machine stay here."""
    body = error.as_dict()
    if "/" in body["input"]:
        body["input"] = "upload" if isinstance(error, InputError) else ""
    return {"schema": "trafficllm.error/1", "ok": False, "error": body}


def reply(error: TrafficLLMError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an error."""
    body = (json_line(envelope(error)) + "\n").encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, RefusedError) and error.retry:
        headers.append((b"retry-after", str(error.retry).encode()))
    if status_of(error) == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return status_of(error), headers, body
