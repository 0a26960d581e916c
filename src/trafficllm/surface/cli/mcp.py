"""`trafficllm mcp`: an MCP server on stdio or HTTP; `mcp install` and `mcp doctor` for its clients' configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficllm.surface.terminal.options import Base, Config, Registry

if TYPE_CHECKING:
    from trafficllm.surface.agent.workbench import Workbench

app = typer.Typer(rich_markup_mode=None)
Root = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="The one folder that clients may read from, after symlinks; default: this one.")
]
AllowWrite = Annotated[
    Path | None, typer.Option("--allow-write", metavar="DIR", help="Offer generate_capture, which writes new captures below this folder.")
]


@app.callback(invoke_without_command=True)
def mcp(
    context: typer.Context,
    root: Root = Path(),
    allow_write: AllowWrite = None,
    deadline: Annotated[float, typer.Option("--deadline", metavar="S", min=1.0, help="Seconds a call may take.")] = 600.0,
    max_file: Annotated[int, typer.Option("--max-file", metavar="MIB", min=1, help="Largest file that is read, MiB.")] = 4096,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
) -> None:
    """Serve captures to the client of a language model over stdin and stdout (MCP): judge, list, explain, compare, audit.

    Read-only unless --allow-write names a folder; `mcp install` writes the configuration of common clients.
    """
    if context.invoked_subcommand is None:
        from trafficllm.surface.agent import server

        server.run_stdio(_bench(root, allow_write, seconds=deadline, mib=max_file, base=base, registry=registry, config=config))


def _bench(root: Path, write: Path | None, *, seconds: float, mib: int, base: str, registry: str, config: Path | None) -> Workbench:
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.agent.root import Root as Below
    from trafficllm.surface.agent.workbench import Limits, Workbench

    write_root = Below.of(write) if write is not None else None
    workspace = Workspace(base=base, registry=registry, config=config)
    return Workbench(workspace, Below.of(root), write_root=write_root, limits=Limits(seconds, mib << 20))
