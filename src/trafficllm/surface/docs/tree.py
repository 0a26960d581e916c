"""The tree in docs/architecture.md: every module with the first line of its docstring, written from the sources themselves."""

from __future__ import annotations

import ast
from pathlib import Path

from trafficllm.core.errors import InputError

START, END = "<!-- tree: make docs writes it -->", "<!-- end of tree -->"
PAGE = "docs/architecture.md"
ROOMS = ("core", "capture", "records", "model", "evaluate", "registry", "infer", "lifecycle", "surface")


def first_line(path: Path) -> str:
    """First line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n", maxsplit=1)[0].rstrip(".")


def tree(package: Path) -> str:
    """The nine rooms, their folders and modules as a text block, rooms in import order."""
    lines = []
    for room in ROOMS:
        for folder in [package / room, *sorted(path for path in (package / room).rglob("*") if (path / "__init__.py").is_file())]:
            depth = len(folder.relative_to(package).parts) - 1
            lines.append(_line(f"{'  ' * depth}{folder.name}/", first_line(folder / "__init__.py")))
            modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
            lines += [_line(f"{'  ' * (depth + 1)}{path.name}", first_line(path)) for path in modules]
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"{name:<32}{text}"


def with_tree(page: str, package: Path) -> str:
    """A page with its tree written anew; InputError where the markers are missing."""
    if START not in page or END not in page:
        raise InputError("input.page", "the tree's markers are missing", input=PAGE, hint=f"put back {START} and {END}")
    head, rest = page.split(START, maxsplit=1)
    tail = rest.split(END, maxsplit=1)[1]
    return f"{head}{START}\n```\n{tree(package)}\n```\n{END}{tail}"
