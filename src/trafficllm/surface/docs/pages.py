"""Pages and schemas written from the program itself: `python -m trafficllm.surface.docs.pages REPOSITORY`.

A test regenerates them and compares, so that they cannot go stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WIDTH = 100
_INTRO = """# Command line

Written from the program (`make docs`); a test compares it with what the program says.

stdout carries data, stderr the rest; `-` is stdin or stdout. `--json` prints one object,
`{"schema": "trafficllm.<command>/1", "ok": true, ...}`, or on failure
`{"schema": "trafficllm.error/1", "ok": false, "error": {...}}`; the shapes are in `schemas/`. Progress on stderr:
bars on a terminal, elsewhere a line a stage and one about every 30 seconds (`--quiet`: neither). `NO_COLOR` is honoured.

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


_SETTINGS = """# Settings

Written from the definitions (`make docs`); a test compares the page with them.

A TOML file given with `--config` states settings; what it leaves out has its default, and `trafficllm config show` prints what is in
force. An unknown key or a value out of range is refused. Command options go before the file.

What shapes a record (sections `capture`, without `table_size`, and `records`) is written into the manifest of a data set and of an
adapter as `record`. `analyze`, `serve`, `embed --task`, `evaluate` and `adapter update` follow that manifest. Where a configuration
or an option states another value, the command stops and names both values and the remedy.
"""


def settings_page() -> str:
    """Markdown of every setting: type, default, range, meaning, and the commands that read it."""
    from trafficllm.core.settings import Config, every_key

    parts, last = [_SETTINGS], None
    for name, field in sorted(every_key(), key=lambda item: "." in item[0]):
        section = name.rpartition(".")[0]
        if section != last:
            model: Any = Config.model_fields[section].annotation if section else Config
            about = (model.__doc__ or "").strip().splitlines()[0] if section else "Keys outside any section."
            parts.append(f"\n## {f'[{section}]' if section else 'Whole file'}\n\n{about}\n")
            parts.append("| key | type | default | range | meaning | read by |\n|---|---|---|---|---|---|")
            last = section
        parts.append(_setting_row(name.rpartition(".")[2], field))
    return "\n".join(parts) + "\n"


def _setting_row(key: str, field: Any) -> str:
    kind = getattr(field.annotation, "__name__", "") if not getattr(field.annotation, "__args__", ()) else str(field.annotation)
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    choices = getattr(field.annotation, "__args__", ())
    if str(field.annotation).startswith("typing.Literal"):
        kind = " ".join(f"`{choice}`" for choice in choices)
    elif choices and type(None) in choices:
        kind = words[choices[0].__name__]
    elif choices:
        kind = "list of texts" if choices[0] is str else "whole number, or two"
    bounds = [f"{sign} {bound:g}" for rule in field.metadata for sign, bound in _bounds(rule)]
    default = "none" if field.default is None else f"`{json.dumps(field.default)}`"
    commands = ", ".join(field.json_schema_extra["commands"])
    return f"| `{key}` | {words.get(kind, kind)} | {default} | {', '.join(bounds)} | {field.description} | {commands} |"


def _bounds(rule: Any) -> Iterator[tuple[str, float]]:
    for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if getattr(rule, name, None) is not None:
            yield sign, getattr(rule, name)


def pages() -> dict[str, str]:
    """Path in the repository -> text, for everything that is generated."""
    from trafficllm.surface.docs.schemas import all_schemas

    return {
        "docs/cli.md": cli_page(),
        "docs/settings.md": settings_page(),
        **{f"schemas/{name}": text for name, text in all_schemas().items()},
    }


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
