"""Pages and schemas written from the program itself: `python -m trafficllm.surface.docs.pages REPOSITORY`.

A test regenerates them and compares, so that they cannot go stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WIDTH = 100
_INTRO = """# Command line

Written from the program (`make docs`); a test compares it with what the program says.

stdout carries data, stderr the rest; `-` is stdin or stdout. `--json` prints one object,
`{"schema": "trafficllm.<command>/1", "ok": true, ...}`, or on failure
`{"schema": "trafficllm.error/1", "ok": false, "error": {...}}`; the shapes are in `schemas/`. Progress bars on a
terminal only; `NO_COLOR` is honoured.

| exit code | meaning |
|--:|---|
| 0 | done |
| 1 | a bug of ours |
| 2 | wrong usage, unknown task or config key |
| 3 | an input that cannot be used |
| 4 | an artifact that does not fit |
| 5 | an update that its gate refused |
| 6 | disk, memory, permission, missing extra |
| 7 | `--fail-on` was hit |
| 8 | `--strict`: a link type was not read, or many frames have no flow |
| 130 | interrupted |

| variable | meaning |
|---|---|
| `TRAFFICLLM_REGISTRY` | where adapters live |
| `TRAFFICLLM_BASE` | the base to use |
| `TRAFFICLLM_DEBUG` | set: print the trace of a failure |
"""


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, f"{name} {word}")


def cli_page() -> str:
    """Markdown of every command's help."""
    import typer

    from trafficllm.surface.cli.main import app

    parts = [_INTRO]
    for name, command in _walk(typer.main.get_command(app), "trafficllm"):
        context = command.make_context(name, [], resilient_parsing=True, max_content_width=_WIDTH, terminal_width=_WIDTH)
        parts.append(f"## {name}\n\n```\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """Path in the repository -> text, for everything that is generated."""
    from trafficllm.surface.docs.schemas import all_schemas

    return {"docs/cli.md": cli_page(), **{f"schemas/{name}": text for name, text in all_schemas().items()}}


def main() -> None:
    """Write all pages below the folder named on the command line."""
    from trafficllm.core.files import atomic_write
    from trafficllm.surface.docs.tree import PAGE, with_tree

    home = Path(sys.argv[1])
    for name, text in pages().items():
        atomic_write(home / name, text)
    page = (home / PAGE).read_text(encoding="utf-8")
    atomic_write(home / PAGE, with_tree(page, home / "src" / "trafficllm"))


if __name__ == "__main__":
    main()
