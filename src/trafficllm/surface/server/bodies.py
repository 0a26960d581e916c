"""Bodies that the server accepts and answers. OpenAI's clients send more than is used here: unknown keys are ignored in chats."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trafficllm.core.results import Captured, Result

_TEXT = 1 << 18


class GenerateRequest(BaseModel):
    """What to write: a generation task, its label, how many flows."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(min_length=1, max_length=128, examples=["MTG"])
    label: str = Field(min_length=1, max_length=256, examples=["Neris"])
    flows: int = Field(10, ge=1, le=200)
    seed: int = Field(0, ge=0, lt=1 << 32)
    temperature: float = Field(1.0, ge=0.05, le=2.0)


class FileReference(BaseModel):
    """A capture uploaded to /v1/files."""

    file_id: str = Field(max_length=64)


class ContentPart(BaseModel):
    """A part of a message: text, or a file."""

    type: Literal["text", "file"]
    text: str = Field("", max_length=_TEXT)
    file: FileReference | None = None


class ChatMessage(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None

    def text(self) -> str:
        """The words."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""

    def files(self) -> list[str]:
        """Ids of attached captures."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.file.file_id for part in parts if part.file is not None]


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`: the last user message is answered, with what the ones before it were about."""

    model: str = Field(max_length=128, examples=["trafficllm"])
    messages: list[ChatMessage] = Field(
        min_length=1,
        max_length=256,
        examples=[[{"role": "user", "content": "What is the TTL? <packet>: ip.ttl: 57, ip.proto: 6, tcp.dstport: 443"}]],
    )
    stream: bool = False
    tools: list[Any] | None = Field(
        None, max_length=128, description="none is called here: answers are text; refused where `tool_choice` demands a call"
    )
    functions: list[Any] | None = Field(None, max_length=128, description="as `tools`")
    tool_choice: Any = None
    function_call: Any = None

    def wants_tools(self) -> bool:
        """Whether the client demands that one of its tools is called; where it only offers them, no call is an answer too."""
        choice = self.tool_choice if self.tools else self.function_call
        return bool(self.tools or self.functions) and choice not in (None, "auto", "none")

    def question(self) -> str:
        """The last thing the user said."""
        return next((message.text() for message in reversed(self.messages) if message.role == "user"), "")

    def earlier(self) -> list[str]:
        """What the user asked of the last attached capture before: what the last question may refer to."""
        users = [message for message in self.messages if message.role == "user"]
        first = max((k for k, message in enumerate(users) if message.files()), default=0)
        return [words for message in users[first:-1] if (words := message.text().strip())]

    def file(self) -> str | None:
        """The capture that was attached last."""
        named = [mark for message in self.messages if message.role == "user" for mark in message.files()]
        return named[-1] if named else None


class Model(Result):
    """OpenAI's model object: the base (`parent` null) or the live adapter of a task; `created` in seconds."""

    id: str
    object: Literal["model"]
    owned_by: str
    parent: str | None
    root: str
    created: int
    version: str | None


class ModelList(Result):
    """The base and the live adapters."""

    object: Literal["list"]
    data: list[Model]


class File(Result):
    """OpenAI's file object: a capture that was uploaded to be asked about."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: Captured
    purpose: str
    status: str


class FileList(Result):
    """The captures that are kept."""

    object: Literal["list"]
    data: list[File]


class FileGone(Result):
    """A capture that was forgotten."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class Message(Result):
    """What is said."""

    role: Literal["assistant"]
    content: str


class Choice(Result):
    """The one answer."""

    index: int
    message: Message
    finish_reason: Literal["stop"]
    logprobs: None


class Completion(Result):
    """OpenAI's completion object; `trafficllm` has the answer as data: `fields`, `verdicts`, `counts`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    trafficllm: dict[str, Any]
