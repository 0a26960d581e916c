"""A chat about traffic: a question with packets pasted after `<packet>:`, or about a capture uploaded before."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trafficllm.core.errors import InputError
from trafficllm.core.escape import spoken, visible
from trafficllm.surface.server.fields import asked_fields, asked_frame, field_answer
from trafficllm.surface.server.service import BASE, Ask, Service

if TYPE_CHECKING:
    from trafficllm.infer.detector import VerdictRow
    from trafficllm.surface.server.bodies import ChatRequest

_MARK = re.compile(r"<(?:packet|flow)>:")
LONGEST_QUESTION = 2000
"""Characters, here and at /v1/analyze."""
_PASTED = 1 << 16
_NOTABLE = 5
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
    """Answer the last user message. Raises RefusedError (404) for an unknown model or file, InputError for what cannot be read."""
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
        return await _uploaded(service, capture, ask, until)
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


async def _uploaded(service: Service, mark: str, ask: Ask, until: float) -> Answer:
    from trafficllm.capture.fields.table import FIELDS, FRAME_FIELDS

    capture = service.uploads.get(mark)
    names = await asyncio.to_thread(asked_fields, ask.question, {*FIELDS, *FRAME_FIELDS})
    if names:
        frame = asked_frame(ask.question)
        values = await service.fields(capture.path, names, frame)
        if values is None:
            return Answer(f"The capture has no packet {frame}.", {"frame": frame, "fields": {}})
        return Answer(field_answer(values), {"frame": frame, "fields": values})
    counts: Counter[tuple[str, str]] = Counter()
    surest: list[VerdictRow] = []
    async for rows in service.verdicts(capture.path, ask, until):
        counts.update((row["task"], row["label"]) for row in rows)
        surest = sorted([*surest, *rows], key=lambda row: -row["confidence"])[:_NOTABLE]
    return Answer(_summary(counts, surest), {"counts": _nested(counts), "verdicts": surest})


def _sentence(row: Mapping[str, Any]) -> str:
    return f"{spoken(row['label'])} (task {spoken(row['task'])}, likeliest at {row['confidence']:.2f}, adapter {row['version']})"


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for (task, label), count in counts.items():
        out.setdefault(task, {})[label] = count
    return out


def _summary(counts: Counter[tuple[str, str]], surest: Sequence[Mapping[str, Any]]) -> str:
    if not counts:
        return "The capture has no flows."
    lines = []
    for task, labels in _nested(counts).items():
        shown = ", ".join(f"{spoken(label)} {count:,}" for label, count in Counter(labels).most_common(20))
        lines.append(f"{spoken(task)}: {sum(labels.values()):,} flows: {shown}")
    lines += [f"{row['orig_h']}:{row['orig_p']} -> {row['resp_h']}:{row['resp_p']} {row['proto']}: {_sentence(row)}" for row in surest]
    return "\n".join(lines)
