"""The README's tree: every module with the first line of its docstring, written from the sources themselves."""

from __future__ import annotations

import ast
from pathlib import Path

from trafficllm.core.errors import InputError

START, END = "<!-- tree: make docs writes it -->", "<!-- end of tree -->"
ROOMS = ("core", "capture", "records", "model", "evaluate", "registry", "infer", "lifecycle", "surface")


def first_line(path: Path) -> str:
    """First line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n", maxsplit=1)[0].rstrip(".")


def tree(package: Path) -> str:
    """The nine rooms and their modules as a text block, rooms in import order."""
    lines = []
    for room in ROOMS:
        lines.append(f"{room + '/':<28}{first_line(package / room / '__init__.py')}")
        for path in sorted((package / room).glob("*.py")):
            if path.name != "__init__.py":
                lines.append(f"  {path.name:<26}{first_line(path)}")
    return "\n".join(lines)


def with_tree(readme: str, package: Path) -> str:
    """The README with its tree written anew; InputError where the markers are missing."""
    if START not in readme or END not in readme:
        raise InputError("input.readme", "the tree's markers are missing", input="README.md", hint=f"put back {START} and {END}")
    head, rest = readme.split(START, maxsplit=1)
    tail = rest.split(END, maxsplit=1)[1]
    return f"{head}{START}\n```\n{tree(package)}\n```\n{END}{tail}"
