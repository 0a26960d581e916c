"""`trafficllm serve` and `web`: verdicts, captures and chats over HTTP, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficllm.surface.terminal.options import Base, Config, Registry, Words


def serve(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; others than loopback need an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="A file with the API key; default: TRAFFICLLM_API_KEY.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A name clients may call this server by; may be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow-origin", metavar="ORIGIN", help="A site whose pages may ask; may be repeated.")
    ] = None,
    max_body: Annotated[int, typer.Option("--max-body", metavar="MIB", min=1, help="Largest upload, MiB.")] = 256,
    max_disk: Annotated[int, typer.Option("--max-disk", metavar="MIB", min=1, help="Disk that all uploads may take, MiB.")] = 2048,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Requests inside at once; more get 429.")] = 16,
    deadline: Annotated[float, typer.Option("--deadline", metavar="S", min=1.0, help="Seconds a request may take; then 504.")] = 120.0,
    words: Words = "",
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
) -> None:
    """Answer over HTTP on this machine: a page at /, /v1/analyze, /v1/generate, /v1/tasks, OpenAI's /v1/models and /v1/chat/completions."""
    import os

    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.server import app as server
    from trafficllm.surface.server.settings import Settings, read_key

    settings = Settings(
        host=host,
        port=port,
        key_hash=read_key(os.environ.pop("TRAFFICLLM_API_KEY", ""), api_key_file),
        hosts=tuple(allow_host or ()),
        origins=tuple(allow_origin or ()),
        max_body=max_body << 20,
        disk=max_disk << 20,
        queue=queue,
        deadline=deadline,
    )
    settings.check()
    server.serve(Workspace(base=base, registry=registry, config=config, words=words), settings)


def web(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; 0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")] = False,
    words: Words = "",
    base: Base = "",
    registry: Registry = "",
    config: Config = None,
) -> None:
    """Open the page in a browser: drop a capture, read one sentence, then hosts and flows. Ctrl-C ends it.

    The same server as `serve`, on loopback. With TRAFFICLLM_API_KEY in the environment the page asks for the key, and models can be
    promoted.
    """
    import os
    import webbrowser

    from trafficllm.lifecycle.workspace import Workspace
    from trafficllm.surface.server import app as server
    from trafficllm.surface.server.settings import Settings, free_port, read_key
    from trafficllm.surface.terminal.output import note

    settings = Settings(port=port or free_port(), key_hash=read_key(os.environ.pop("TRAFFICLLM_API_KEY", ""), None))
    address = f"http://localhost:{settings.port}/"
    note(f"{address} (Ctrl-C ends it)")
    began = None if no_browser else lambda: webbrowser.open(address)
    server.serve(Workspace(base=base, registry=registry, config=config, words=words), settings, began=began)
