"""A chat about traffic: a question with packets pasted after `<packet>:`, or about a capture uploaded before."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.escape import spoken, visible
from trafficllm.lifecycle.chat.conversation import Conversation, Reply
from trafficllm.surface.server.chat.fields import asked_fields, asked_frame, field_answer
from trafficllm.surface.server.chat.hosted import Hosted
from trafficllm.surface.server.replies import RefusedError
from trafficllm.surface.server.service import BASE, Ask, Service

if TYPE_CHECKING:
    from trafficllm.lifecycle.analyze.verdict_table import VerdictTable
    from trafficllm.surface.server.bodies import ChatRequest

_MARK = re.compile(r"<(?:packet|flow)>:")
LONGEST_QUESTION = 2000
"""Characters, here and at /v1/analyze."""
_PASTED = 1 << 16
_HELP = (
    "There is no traffic to look at. Paste a packet after <packet>:, or upload a capture to /v1/files and attach it as "
    '{"type": "file", "file": {"file_id": ...}}.'
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said, and the same as data."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def pieces(self) -> Iterator[str]:
        """The text in parts for streaming: a word with what follows it."""
        yield from re.findall(r"\S+\s*|\s+", self.text)


async def answer(service: Service, request: ChatRequest, until: float) -> Answer:
    """Answer the last user message. Raises RefusedError: 400 where the client demands a call of its tools, 404 for an unknown model or
    file; InputError for what cannot be read."""
    if request.wants_tools():
        hint = "say `tool_choice` auto or none, or leave `tools` out; for an agent `trafficllm mcp` has these answers as tools of its own"
        raise RefusedError(400, "request.tools", "no tools are called here: adapters score labels, they write no calls", hint=hint)
    await service.jobs.turn(until, lambda: service.model(request.model))
    words = request.question()
    mark = _MARK.search(words)
    question = (words[: mark.start()] if mark else words).strip()
    if len(question) > LONGEST_QUESTION:
        hint = "ask in fewer words; packets follow <packet>:, captures go to /v1/files"
        raise InputError("input.question", f"a question of more than {LONGEST_QUESTION:,} characters", input="messages", hint=hint)
    ask = Ask(task="" if request.model == BASE else request.model, question=question)
    if mark is not None:
        return await _pasted(service, words, ask, until)
    if (capture := request.file()) is not None:
        return await _uploaded(service, capture, ask, until, request.earlier())
    return Answer(_HELP)


async def _pasted(service: Service, words: str, ask: Ask, until: float) -> Answer:
    from trafficllm.records.sources import original

    if len(words) > _PASTED:
        raise InputError("input.pasted", f"more than {_PASTED:,} characters", input="messages", hint="upload a capture")
    pairs = await service.jobs.within(until, asyncio.to_thread(original.packet_fields, words))
    names = await service.jobs.within(until, asyncio.to_thread(asked_fields, ask.question, pairs))
    if names:
        values = {name: visible(pairs[name], limit=200) for name in names}
        return Answer(field_answer(values), {"fields": values})
    try:
        record, meta = await service.jobs.turn(until, lambda: original.parse(words))
    except (ValueError, ArithmeticError, LookupError) as error:
        hint = "comma-separated `field: value` pairs with tshark's names follow <packet>:"
        raise InputError("input.pasted", "the pasted traffic cannot be read", input="messages", hint=hint) from error
    rows = await service.judge([(record, meta)], ask, until)
    return Answer("\n".join(map(_sentence, rows)), {"verdicts": rows})


async def _uploaded(service: Service, mark: str, ask: Ask, until: float, earlier: Sequence[str]) -> Answer:
    from trafficllm.capture.fields.table import FIELDS, FRAME_FIELDS

    capture = service.uploads.get(mark)
    names = await asyncio.to_thread(asked_fields, ask.question, {*FIELDS, *FRAME_FIELDS})
    if names:
        frame = asked_frame(ask.question)
        values = await service.fields(capture.path, names, frame)
        if values is None:
            return Answer(f"The capture has no packet {frame}.", {"frame": frame, "fields": {}})
        return Answer(field_answer(values), {"frame": frame, "fields": values})
    talk = Conversation(Hosted(service, capture, ask.task, until, asyncio.get_running_loop()))

    def converse() -> tuple[Reply, VerdictTable | None]:
        talk.recall(earlier)
        return talk.ask(ask.question), talk.table

    reply, table = await service.jobs.within(until, asyncio.to_thread(converse))
    counts = table.verdicts() if table is not None else {}
    more = {} if reply.words is None else {"words": reply.words.as_dict()}
    return Answer(reply.text, {"taken_as": reply.taken_as, "counts": counts, "verdicts": list(reply.flows), **more})


def _sentence(row: Mapping[str, Any]) -> str:
    return f"{spoken(row['label'])} (task {spoken(row['task'])}, likeliest at {row['confidence']:.2f}, adapter {row['version']})"
