"""The process in which a chat template is rendered: jinja's sandbox, little memory, little time, nothing of this package.

Reads {"template", "variables", "date"} as JSON on stdin and writes {"text"} or {"error"} on stdout. The environment is that of
transformers' chat templates (loop controls, `generation` blocks, `tojson`, `raise_exception`, `strftime_now`), with one fixed date.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 512 << 20
SECONDS = 2
LONGEST = 1 << 20


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` blocks mark an assistant's words for training; here they are rendered as they are."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own form

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(template: str, variables: dict[str, Any], date: str) -> str:
    """The rendered text; ValueError where it is longer than 1 MiB. `date` is ISO 8601: what `strftime_now` formats."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.fromisoformat(date).strftime}
    pieces, size = [], 0
    for piece in environment.from_string(template).generate(**variables):
        size += len(piece)
        if size > LONGEST:
            raise ValueError("it is longer than 1 MiB")
        pieces.append(piece)
    return "".join(pieces)


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    request = json.loads(sys.stdin.read())
    try:
        answer = {"text": render(request["template"], request["variables"], request["date"])}
    except Exception as error:  # noqa: BLE001 - whatever a stranger's template raises is the answer
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
