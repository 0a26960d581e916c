"""A workbench over a folder of captures, and the SDK's client in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mcp import Client

from trafficllm.lifecycle.workspace import Workspace
from trafficllm.surface.agent.root import Root
from trafficllm.surface.agent.server import create_server
from trafficllm.surface.agent.workbench import Workbench


def bench(place: tuple[Path, Path], root: Path, *, write: Path | None = None) -> Workbench:
    """A workbench of a sample base and registry."""
    base, registry = place
    write_root = Root.of(write) if write else None
    return Workbench(Workspace(base=str(base), registry=str(registry)), Root.of(root), write_root=write_root)


def asked(work: Workbench, question: Callable[[Client], Awaitable[Any]]) -> Any:
    """What a client in memory gets."""

    async def session() -> Any:
        async with Client(create_server(work)) as client:
            return await question(client)

    return asyncio.run(session())


def called(work: Workbench, name: str, **arguments: Any) -> dict[str, Any]:
    """A tool's structured answer, which its text repeats."""
    result = asked(work, lambda client: client.call_tool(name, arguments))
    assert not result.is_error, result.content
    structured: dict[str, Any] = result.structured_content
    assert json.loads(result.content[0].text) == structured
    return structured


def refused(work: Workbench, name: str, **arguments: Any) -> str:
    """The text of a tool's failure."""
    result = asked(work, lambda client: client.call_tool(name, arguments))
    assert result.is_error, result.structured_content
    text: str = result.content[0].text
    return text
