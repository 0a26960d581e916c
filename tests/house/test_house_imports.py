"""No import circles, no crowded folders. Imports inside functions and those for type checkers alone count as any other."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
MOST_FILES = 15


def _module(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.AST, modules: Iterable[str]) -> set[str]:
    """Modules that a file names in any import statement; `from package import module` names the module."""
    known, out = set(modules), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            out |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module for alias in node.names}
    return out & known


def imports(files: Sequence[Path]) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    trees = {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    return {name: _imported(tree, trees) - {name} for name, tree in trees.items()}


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: set[frozenset[str]] = set()

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            component = frozenset(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(component) > 1:
                out.add(component)

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return out


def test_no_import_circles() -> None:
    assert sorted(map(sorted, circles(imports(sorted((SOURCE / "trafficllm").rglob("*.py")))))) == []


@pytest.mark.parametrize(
    "code",
    [
        "from trafficllm import b",
        "def f():\n    from trafficllm.b import c",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trafficllm.b",
    ],
)
def test_the_rule_on_circles_can_fail(code: str) -> None:
    modules = ("trafficllm.a", "trafficllm.b", "trafficllm.d")
    graph = {"trafficllm.a": _imported(ast.parse(code), modules), "trafficllm.b": {"trafficllm.d"}, "trafficllm.d": {"trafficllm.a"}}
    assert circles(graph) == {frozenset(modules)}
    assert circles({**graph, "trafficllm.d": set()}) == set()


def test_no_folder_is_crowded() -> None:
    sizes = Counter(path.parent for path in (SOURCE / "trafficllm").rglob("*.py"))
    assert {str(folder.relative_to(SOURCE)): size for folder, size in sizes.items() if size > MOST_FILES} == {}
