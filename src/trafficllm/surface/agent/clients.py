"""Configuration of MCP clients: where each keeps its servers, what an entry is, the change before it is made, and whether it works."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import atomic_write, parse_json, read_bytes
from trafficllm.core.results import Result

NAME = "trafficllm"
_LARGEST = 4 << 20
_HOMES = {"linux": ".config", "darwin": "Library/Application Support"}


@dataclass(frozen=True, slots=True)
class Client:
    """One program that starts MCP servers: the JSON file with its servers, and the key they stand under.

    `file` is below the home folder; `{config}` is the system's folder for settings. `kind` is set in each entry where the client wants it.
    """

    id: str
    title: str
    file: str
    key: str = "mcpServers"
    kind: Mapping[str, str] | None = None

    def path(self, home: Path) -> Path:
        """Where the file is for a home folder."""
        config = _HOMES["darwin" if sys.platform == "darwin" else "linux"]
        return home / self.file.format(config=config)


CLIENTS = (
    Client("claude-desktop", "Claude Desktop", "{config}/Claude/claude_desktop_config.json"),
    Client("claude-code", "Claude Code", ".claude.json", kind={"type": "stdio"}),
    Client("cursor", "Cursor", ".cursor/mcp.json"),
    Client("vscode", "VS Code", "{config}/Code/User/mcp.json", "servers", {"type": "stdio"}),
    Client("windsurf", "Windsurf", ".codeium/windsurf/mcp_config.json"),
    Client("gemini", "Gemini CLI", ".gemini/settings.json"),
    Client("zed", "Zed", ".config/zed/settings.json", "context_servers", {"source": "custom"}),
)
"""The clients whose configuration is known."""


class Entry(Result):
    """How a client starts the server."""

    command: str
    args: list[str]


class Installed(Result):
    """One client's configuration: the change, and whether it was made."""

    client: str
    file: str
    status: Literal["written", "would be written", "unchanged"]
    diff: str


class Install(Result):
    """Configurations that were written, or would be."""

    entry: Entry
    clients: list[Installed]


class Checked(Result):
    """One client's entry: does it start, and which tools does it offer."""

    client: str
    file: str
    status: Literal["ok", "not installed", "broken"]
    detail: str
    hint: str


class McpDoctor(Result):
    """What `mcp doctor` found; `ready`: no entry is broken, and there is one."""

    ready: bool
    findings: list[Checked]


def client(name: str) -> Client:
    """A client by its id; UsageError with the known ones."""
    for one in CLIENTS:
        if one.id == name.lower():
            return one
    close = difflib.get_close_matches(name, [one.id for one in CLIENTS], n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise UsageError("usage.client", "no such client", input=name, hint=f"{hint}clients are {', '.join(one.id for one in CLIENTS)}")


def command(options: Sequence[str]) -> list[str]:
    """How a client starts this program's server: by absolute paths, because clients have a PATH of their own."""
    program = shutil.which("trafficllm")
    start = [str(Path(program).resolve())] if program else [sys.executable, "-m", "trafficllm"]
    return [*start, "mcp", *options]


def entry(words: Sequence[str], kind: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The object that a client's file holds for a server."""
    return {**(kind or {}), "command": words[0], "args": list(words[1:])}


def install(names: Sequence[str], words: Sequence[str], *, home: Path, dry_run: bool) -> Install:
    """Put this server into clients' configurations; what else they hold stays, in its order. With `dry_run` nothing is written.

    Without names those of the clients that are here (their folder exists). Raises UsageError for an unknown client or where none is here,
    InputError for a file that is no strict JSON, which is then left alone.
    """
    chosen = (
        [client(name) for name in names] if names else [one for one in CLIENTS if one.path(home).parent.is_dir() and _is_here(one, home)]
    )
    if not chosen:
        hint = f"name one: {', '.join(one.id for one in CLIENTS)}"
        raise UsageError("usage.client", "no client's configuration was found", input=str(home), hint=hint)
    planned = [(one, *_planned(one, words, home)) for one in chosen]
    rows = []
    for one, before, after in planned:
        path = one.path(home)
        if before != after and not dry_run:
            _write(path, after)
        status: Literal["written", "would be written", "unchanged"] = "unchanged"
        if before != after:
            status = "would be written" if dry_run else "written"
        rows.append(Installed(client=one.id, file=str(path), status=status, diff=_diff(before, after, path)))
    return Install(entry=Entry(command=words[0], args=list(words[1:])), clients=rows)


def _is_here(one: Client, home: Path) -> bool:
    """Whether a client is on this machine: its folder is there, or its file where that lies in the home folder itself."""
    path = one.path(home)
    return path.parent.is_dir() if path.parent != home else path.is_file()


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """A configuration's text and value; both empty where there is no file."""
    if not path.exists():
        return "", {}
    text = read_bytes(path, largest=_LARGEST).decode("utf-8")
    value = parse_json(text, path) if text.strip() else {}
    if not isinstance(value, dict):
        raise InputError("input.json", "not a JSON object", input=str(path), hint="is it the file you meant?")
    return text, value


def _planned(one: Client, words: Sequence[str], home: Path) -> tuple[str, str]:
    """A configuration's text before and after."""
    path = one.path(home)
    try:
        text, value = _read(path)
    except (InputError, UnicodeDecodeError) as error:
        line = json.dumps({NAME: entry(words, one.kind)})
        hint = f'it may hold comments, which would be lost: add {line} under "{one.key}" by hand'
        raise InputError("input.json", "not strict JSON; it is left as it is", input=str(path), hint=hint) from error
    servers = value.get(one.key, {})
    if not isinstance(servers, dict):
        raise InputError("input.json", f'"{one.key}" is no object', input=str(path), hint="mend it by hand")
    wanted = entry(words, one.kind)
    old = servers.get(NAME)
    if isinstance(old, dict):
        wanted = {**{name: part for name, part in old.items() if name not in wanted}, **wanted}
    if old == wanted:
        return text, text
    indent = next((len(line) - len(line.lstrip(" ")) for line in text.splitlines() if line.startswith(" ")), 2)
    after = {**value, one.key: {**servers, NAME: wanted}}
    return text, json.dumps(after, indent=indent, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    """Replace a file's content whole; a link stays one, and who may read the file stays the same."""
    real = path.resolve()
    mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else None
    real.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(real, text, private=mode is None or not mode & 0o077)
    if mode is not None:
        os.chmod(real, mode)  # noqa: PTH101 - as it was before


def _diff(before: str, after: str, path: Path) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), lineterm="", n=1)
    return "\n".join(lines)


def check(home: Path, *, seconds: float = 60.0) -> McpDoctor:
    """Start every entry of this server that a client's configuration has, and ask it for its tools."""
    rows = [_checked(one, home, seconds) for one in CLIENTS]
    states = {row.status for row in rows}
    return McpDoctor(ready="ok" in states and "broken" not in states, findings=rows)


def _checked(one: Client, home: Path, seconds: float) -> Checked:
    path = one.path(home)
    again = f"`trafficllm mcp install {one.id}`"

    def row(status: Literal["ok", "not installed", "broken"], detail: str, hint: str = "") -> Checked:
        return Checked(client=one.id, file=str(path), status=status, detail=detail, hint=hint)

    try:
        _, value = _read(path)
    except (InputError, UnicodeDecodeError):
        return row("broken", "its configuration is no strict JSON", "mend it by hand; comments are not read here")
    servers = value.get(one.key)
    own = servers.get(NAME) if isinstance(servers, dict) else None
    if own is None:
        return row("not installed", "", again)
    words = [own.get("command"), *own.get("args", [])] if isinstance(own, dict) and isinstance(own.get("args", []), list) else [None]
    if not all(isinstance(word, str) for word in words):
        return row("broken", "its entry has no command", again)
    if shutil.which(str(words[0])) is None:
        return row("broken", f"{words[0]} is not there", again)
    try:
        names = _tools([str(word) for word in words], seconds)
    except Exception as error:  # noqa: BLE001 - whatever keeps the server from answering is the finding
        return row("broken", f"it does not answer: {type(error).__name__}", f"run {' '.join(map(str, words))} and see what it says")
    return row("ok", f"{len(names)} tools: {', '.join(names)}")


def _tools(words: Sequence[str], seconds: float) -> list[str]:
    """Names of the tools that a server started by these words offers."""
    import asyncio

    from mcp import Client as Asking
    from mcp import StdioServerParameters, stdio_client

    async def session() -> list[str]:
        server = StdioServerParameters(command=words[0], args=list(words[1:]))
        with open(os.devnull, "w", encoding="utf-8") as quiet:  # noqa: PTH123 - a device
            async with asyncio.timeout(seconds), Asking(stdio_client(server, errlog=quiet)) as asking:
                return [tool.name for tool in (await asking.list_tools()).tools]

    return asyncio.run(session())
