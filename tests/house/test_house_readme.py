"""The README and the architecture page are true: the tree is the package's, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

from trafficllm.surface.docs.tree import PAGE, with_tree

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text(encoding="utf-8")


def test_the_tree_is_the_package() -> None:
    page = (REPO / PAGE).read_text(encoding="utf-8")
    assert with_tree(page, REPO / "src" / "trafficllm") == page, "run `make docs`"


def test_links_lead_somewhere() -> None:
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert len(links) >= 6
    assert [target for target in links if not (REPO / target).exists()] == []


def test_commands_exist() -> None:
    import typer

    from trafficllm.surface.cli.main import app

    root = typer.main.get_command(app)
    named = re.findall(r"^trafficllm ([a-z]+)(?: ([a-z]+))?", README, flags=re.MULTILINE)
    assert len(named) >= 6
    for noun, verb in named:
        command = root.commands.get(noun)  # type: ignore[attr-defined]
        assert command is not None, noun
        if hasattr(command, "commands") and (verb or not command.invoke_without_command):
            assert verb in command.commands, f"{noun} {verb}"
