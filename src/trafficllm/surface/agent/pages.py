"""Answers of at most 8 KB: as many items of a list as fit, and where the next page begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trafficllm.core.errors import UsageError
from trafficllm.core.results import Result
from trafficllm.surface.terminal.output import plain

LARGEST = 8192
"""Bytes of an answer's JSON: some thousands of tokens, so that a few calls leave room in a model's context."""
Item = TypeVar("Item")
Answer = TypeVar("Answer", bound=Result)


def body(result: Result) -> dict[str, Any]:
    """The JSON form of an answer, every string printable."""
    value: dict[str, Any] = plain(result.model_dump(mode="json", by_alias=True))
    return value


def text(value: dict[str, Any]) -> str:
    """The same as JSON text without spaces."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def size(result: Result) -> int:
    """Bytes of an answer's JSON."""
    return len(text(body(result)).encode())


def fitting(build: Callable[[Sequence[Item]], Answer], items: Sequence[Item], *, largest: int = LARGEST) -> tuple[Answer, int]:
    """The answer with as many of `items`, from the first on, as fit into `largest` bytes, and how many those are."""
    low, high = 0, len(items)
    answer = build(items[:high])
    if size(answer) <= largest:
        return answer, high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(build(items[:middle])) <= largest else (low, middle)
    return build(items[:low]), low


def page(
    build: Callable[[Sequence[Item], int | None], Answer], items: Sequence[Item], *, offset: int, limit: int, more: bool = False
) -> Answer:
    """A page of a list: `build` gets the items and the offset of the next page, None on the last one.

    `more`: items lie behind those of the list. Raises UsageError for an offset behind the last item.
    """
    return part(build, items[offset : offset + limit], offset=offset, total=len(items), more=more)


def part(
    build: Callable[[Sequence[Item], int | None], Answer], items: Sequence[Item], *, offset: int, total: int, more: bool = False
) -> Answer:
    """A page of a list of `total` items of which `items`, from `offset` on, are at hand; see `page`.

    At least one item is on a page, so that paging always ends.
    """
    if offset and offset >= total:
        raise UsageError("usage.offset", f"the list has {total:,} items", input="offset", where=str(offset), hint="use next_offset")

    def following(count: int) -> int | None:
        end = offset + count
        return end if end < total or more else None

    answer, count = fitting(lambda some: build(some, following(len(some))), items)
    return answer if count or not items else build(items[:1], following(1))
