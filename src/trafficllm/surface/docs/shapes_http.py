"""The closed shape of what the server answers, beside the lines and envelopes that the command line shares with it."""

from __future__ import annotations

from typing import Any, Literal

from trafficllm.core.results import Captured
from trafficllm.surface.docs.shapes_lines import Closed


class Model(Closed):
    """OpenAI's model object: the base (`parent` null) or the live adapter of a task; `created` in seconds."""

    id: str
    object: Literal["model"]
    owned_by: str
    parent: str | None
    root: str
    created: int
    version: str | None


class ModelList(Closed):
    """The base and the live adapters."""

    object: Literal["list"]
    data: list[Model]


class File(Closed):
    """OpenAI's file object: a capture that was uploaded to be asked about."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: Captured
    purpose: str
    status: str


class FileList(Closed):
    """The captures that are kept."""

    object: Literal["list"]
    data: list[File]


class FileGone(Closed):
    """A capture that was forgotten."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class Message(Closed):
    """What is said."""

    role: Literal["assistant"]
    content: str


class Choice(Closed):
    """The one answer."""

    index: int
    message: Message
    finish_reason: Literal["stop"]
    logprobs: None


class Completion(Closed):
    """OpenAI's completion object; `trafficllm` has the answer as data: `fields`, `verdicts`, `counts`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    trafficllm: dict[str, Any]
