"""What crosses a room's border has a type: no bare dictionary in the signature of a function that another room calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "trafficllm"
BARE = ("dict[str, Any]", "Mapping[str, Any]")

_MANIFEST = "the manifest of a version or base: an open JSON object on disk, to which later versions add keys"
_OBJECT = "any JSON object on disk, read or written as it is"
_WANTED = "settings that the user gave, and only those: a partial value, by key"
ALLOWED: Mapping[str, str] = {
    "capture.foreign.logs.entries": "lines of other programs' logs, whose keys are theirs",
    "core.results.Result.given": "a result's own fields, for tables that show some of them",
    "core.sealed.opened": _OBJECT,
    "core.sealed.parse_object": _OBJECT,
    "core.sealed.read_sealed": _OBJECT,
    "core.sealed.sealed": _OBJECT,
    "core.types.FlowWriter.write": "rows of flows and verdicts, closed where they are made; a writer takes either",
    "evaluate.quality.validate": "a report of any origin, refused where it lacks what a score needs",
    "infer.router.router.Router.of": _MANIFEST,
    "model.base.extend.write_manifest": _MANIFEST,
    "records.codec.values.learnt": "a table by label, field and bucket that goes into a generator's manifest as it is",
    "records.coverage.Coverage.of_manifest": _MANIFEST,
    "records.record_shape.RecordShape.differences": _WANTED,
    "records.record_shape.RecordShape.of": _MANIFEST,
    "records.record_shape.RecordShape.require": _WANTED,
    "records.record_shape.wanted_of": _WANTED,
    "registry.card.elsewhere": _MANIFEST,
    "registry.fit.check": _MANIFEST,
    "registry.fit.reasons": _MANIFEST,
    "registry.store.Registry.register": _MANIFEST,
    "registry.store.Registry.sign": "what a signature file holds",
}
"""Functions that may pass a bare dictionary over a border, without `trafficllm.`, each with its reason. One that no longer does must be
taken out, so that the list only shrinks."""


def _module(path: Path, top: Path) -> str:
    parts = path.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    return module.partition(".")[0]


def _is_bare(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    parts = [part for part in (*(argument.annotation for argument in arguments), node.returns) if part is not None]
    return any(word in ast.unparse(part) for part in parts for word in BARE)


def _bare_functions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Public functions and methods with a bare dictionary among their parameters or as their result: (what others import, its name).

    `as_dict` is the JSON form itself.
    """
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_") and _is_bare(node):
            yield node.name, node.name
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            for item in methods:
                if not item.name.startswith("_") and item.name != "as_dict" and _is_bare(item):
                    yield node.name, f"{node.name}.{item.name}"


def _used(tree: ast.Module) -> Iterator[str]:
    """Full names that a module takes from others: what it imports, and attributes of modules that it imports."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trafficllm."):
            place = node.module.removeprefix("trafficllm.")
            for alias in node.names:
                modules[alias.asname or alias.name] = f"{place}.{alias.name}"
                yield f"{place}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield f"{modules[node.value.id]}.{node.attr}"


def over_borders(top: Path) -> set[str]:
    """Functions with a bare dictionary in their signature that a module of another room uses, methods by their class."""
    trees = {_module(path, top): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(top.rglob("*.py"))}
    bare: dict[str, set[str]] = {}
    for module, tree in trees.items():
        for owner, name in _bare_functions(tree):
            bare.setdefault(f"{module}.{owner}", set()).add(f"{module}.{name}")
    used = {name for module, tree in trees.items() for name in _used(tree) if _room(name) != _room(module)}
    return {name for owner in used & set(bare) for name in bare[owner]}


def test_no_bare_dictionary_crosses_a_border() -> None:
    crossing = over_borders(PACKAGE)
    assert sorted(crossing - set(ALLOWED)) == []
    assert sorted(set(ALLOWED) - crossing) == [], "these cross no border any more: take them out of ALLOWED"


def test_the_rule_on_borders_can_fail(tmp_path: Path) -> None:
    for room in ("one", "two"):
        (tmp_path / room).mkdir()
    (tmp_path / "one" / "a.py").write_text(
        "def f(x: int) -> dict[str, Any]: ...\ndef g(x: int) -> int: ...\ndef h(*, x: Mapping[str, Any]): ...\n"
    )
    (tmp_path / "one" / "b.py").write_text("from trafficllm.one.a import f\n")
    assert over_borders(tmp_path) == set()
    (tmp_path / "two" / "c.py").write_text("def k():\n    from trafficllm.one import a\n    a.f(1)\n    a.g(1)\n")
    assert over_borders(tmp_path) == {"one.a.f"}
    (tmp_path / "two" / "c.py").write_text("from trafficllm.one.a import h as other\n")
    assert over_borders(tmp_path) == {"one.a.h"}
    (tmp_path / "one" / "a.py").write_text(
        "class K:\n    def m(self) -> dict[str, Any]: ...\n    def as_dict(self) -> dict[str, Any]: ...\n"
    )
    (tmp_path / "two" / "c.py").write_text("from trafficllm.one.a import K\n")
    assert over_borders(tmp_path) == {"one.a.K.m"}
