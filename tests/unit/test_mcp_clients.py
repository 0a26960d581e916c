"""Configurations of MCP clients: only our entry changes, the change is shown first, and what cannot be read safely is left alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trafficllm.core.errors import InputError, UsageError
from trafficllm.surface.agent import clients

WORDS = ["/opt/trafficllm", "mcp", "--root", "/captures"]


@pytest.mark.parametrize("one", clients.CLIENTS, ids=lambda one: one.id)
def test_an_entry_is_written_beside_what_is_there(one: clients.Client, tmp_path: Path) -> None:
    path = one.path(tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {"z": [1, "\u00fc"], one.key: {"other": {"command": "x"}}, "a": None}
    path.write_text(json.dumps(before, indent=4))
    path.chmod(0o600)
    done = clients.install([one.id], WORDS, home=tmp_path, dry_run=False)
    after = json.loads(path.read_text())
    own = after[one.key].pop("trafficllm")
    assert (after, list(after)) == (before, list(before))
    assert (own["command"], own["args"]) == (WORDS[0], WORDS[1:])
    assert path.stat().st_mode & 0o777 == 0o600
    assert '\n    "z"' in path.read_text()
    added = [line for line in done.clients[0].diff.splitlines() if line.startswith("+")]
    assert any("/opt/trafficllm" in line for line in added)
    assert clients.install([one.id], WORDS, home=tmp_path, dry_run=False).clients[0].status == "unchanged"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = clients.install(["cursor"], WORDS, home=tmp_path, dry_run=True)
    assert done.clients[0].status == "would be written"
    assert "+++" in done.clients[0].diff
    assert list(tmp_path.rglob("*")) == []


def test_what_a_person_added_to_our_entry_stays(tmp_path: Path) -> None:
    path = clients.client("cursor").path(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps({"mcpServers": {"trafficllm": {"command": "old", "args": [], "env": {"A": "1"}}}}))
    clients.install(["cursor"], WORDS, home=tmp_path, dry_run=False)
    assert json.loads(path.read_text())["mcpServers"]["trafficllm"] == {"env": {"A": "1"}, "command": WORDS[0], "args": WORDS[1:]}


@pytest.mark.parametrize("text", ['{"a": 1, // a comment\n}', "[]", '{"mcpServers": 3}', "\ufeff{", '{"a": NaN}'])
def test_a_file_that_is_no_strict_json_is_left_alone(text: str, tmp_path: Path) -> None:
    path = clients.client("cursor").path(tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError):
        clients.install(["cursor", "vscode"], WORDS, home=tmp_path, dry_run=False)
    assert path.read_text() == text
    assert not clients.client("vscode").path(tmp_path).exists()


def test_without_names_only_clients_that_are_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        clients.install([], WORDS, home=tmp_path, dry_run=False)
    (tmp_path / ".cursor").mkdir()
    assert [row.client for row in clients.install([], WORDS, home=tmp_path, dry_run=False).clients] == ["cursor"]
    with pytest.raises(UsageError, match="no such client"):
        clients.client("cursr")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path = clients.client("cursor").path(tmp_path)
    path.parent.mkdir()
    (tmp_path / "dotfiles.json").write_text("{}")
    path.symlink_to(tmp_path / "dotfiles.json")
    clients.install(["cursor"], WORDS, home=tmp_path, dry_run=False)
    assert path.is_symlink()
    assert "trafficllm" in json.loads((tmp_path / "dotfiles.json").read_text())["mcpServers"]


def test_doctor_starts_what_is_configured(tmp_path: Path) -> None:
    assert {row.status for row in clients.check(tmp_path).findings} == {"not installed"}
    clients.install(["cursor"], ["/missing/program"], home=tmp_path, dry_run=False)
    clients.install(["windsurf"], [sys.executable, "-c", "pass"], home=tmp_path, dry_run=False)
    server = "from mcp.server import MCPServer\ns = MCPServer('x')\n@s.tool()\ndef one() -> int:\n    return 1\ns.run('stdio')"
    clients.install(["gemini"], [sys.executable, "-c", server], home=tmp_path, dry_run=False)
    found = {row.client: row for row in clients.check(tmp_path).findings}
    assert [found[name].status for name in ("cursor", "windsurf", "gemini")] == ["broken", "broken", "ok"]
    assert found["gemini"].detail == "1 tools: one"
    assert all(found[name].hint for name in ("cursor", "windsurf"))
