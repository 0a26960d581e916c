"""`trafficllm mcp`: an MCP server on stdio or HTTP; `mcp install` and `mcp doctor` for its clients' configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficllm.surface.terminal.options import Base, Config, Json, Registry

if TYPE_CHECKING:
    from trafficllm.surface.agent.clients import Install, McpDoctor
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
    http: Annotated[bool, typer.Option("--http", help="Over HTTP on loopback at /mcp instead; needs an API key.")] = False,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="With --http: a loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="With --http: TCP port.")] = 8001,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="A file with the API key; default: TRAFFICLLM_API_KEY.")
    ] = None,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
) -> None:
    """Serve captures to the client of a language model over stdin and stdout (MCP): judge, list, explain, compare, audit.

    Read-only unless --allow-write names a folder; `mcp install` writes the configuration of common clients.
    """
    if context.invoked_subcommand is not None:
        return
    from trafficllm.surface.agent import server

    key = os.environ.pop("TRAFFICLLM_API_KEY", "")
    bench = _bench(root, allow_write, seconds=deadline, mib=max_file, base=base, registry=registry, config=config)
    if not http:
        server.run_stdio(bench)
        return
    from trafficllm.surface.server.settings import Settings, read_key

    server.run_http(bench, Settings(host=host, port=port, key_hash=read_key(key, api_key_file), deadline=deadline))


def _bench(root: Path, write: Path | None, *, seconds: float, mib: int, base: str, registry: str, config: Path | None) -> Workbench:
    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.agent.root import Root as Below
    from trafficllm.surface.agent.workbench import Limits, Workbench

    write_root = Below.of(write) if write is not None else None
    workspace = Workspace(base=base, registry=registry, config=config)
    return Workbench(workspace, Below.of(root), write_root=write_root, limits=Limits(seconds, mib << 20))


@app.command()
def install(
    clients: Annotated[
        list[str] | None, typer.Argument(metavar="CLIENT", help="claude-desktop, claude-code, cursor, vscode, windsurf, gemini, zed.")
    ] = None,
    root: Root = Path(),
    allow_write: AllowWrite = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the change and write nothing.")] = False,
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write this server into clients' configurations: the change is shown, all else they hold stays.

    Without CLIENT into those that are on this machine.
    """
    from trafficllm.surface.agent import clients as known
    from trafficllm.surface.agent.root import Root as Below
    from trafficllm.surface.terminal.output import emit

    options = ["--root", str(Below.of(root).folder)]
    options += ["--allow-write", str(Below.of(allow_write).folder)] if allow_write is not None else []
    options += ["--base", base] if base else []
    options += ["--registry", str(Path(registry).expanduser().resolve())] if registry else []
    options += ["--config", str(config.resolve())] if config is not None else []
    done = known.install(clients or (), known.command(options), home=Path.home(), dry_run=dry_run)
    emit("mcp.install", done, as_json=as_json, show=_show_install)


def _show_install(done: Install) -> None:
    from trafficllm.core.escape import for_terminal
    from trafficllm.surface.terminal.output import note

    for row in done.clients:
        print("\n".join(map(for_terminal, row.diff.splitlines())) or f"{for_terminal(row.file)}: as it is")
        note(f"{row.client}: {row.status}: {row.file}")
    if any(row.status == "written" for row in done.clients):
        note("restart the client; `trafficllm mcp doctor` checks the entry")


@app.command()
def doctor(
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=1.0, help="How long a server may take to answer.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Start the server as each client's configuration does and ask it for its tools; exit code 6 where one does not answer."""
    from trafficllm.core.errors import ResourceError
    from trafficllm.surface.agent import clients as known
    from trafficllm.surface.terminal.output import ToldError, emit

    found = known.check(Path.home(), seconds=seconds)
    emit("mcp.doctor", found, as_json=as_json, show=_show_doctor)
    if any(row.status == "broken" for row in found.findings):
        raise ToldError(ResourceError("resource.mcp", "an entry does not work", hint="see the remedies above"))


def _show_doctor(found: McpDoctor) -> None:
    from trafficllm.surface.terminal.output import note, show_table

    show_table(("client", "status", "detail", "remedy"), ([row.client, row.status, row.detail, row.hint] for row in found.findings))
    note("ready" if found.ready else "no client is set up that works: `trafficllm mcp install`")
