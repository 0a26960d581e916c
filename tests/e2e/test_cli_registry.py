"""A damaged task on the command line: named on stderr and in `failed`, the others listed, exit code 4 where it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_runner import Cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from test_registry_store import MANIFEST, adapter

from trafficllm.registry.store import Registry


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    registry = Registry(tmp_path / "two")
    for task in ("MTD", "EAC"):
        registry.register(task, adapter(tmp_path / "adapter"), MANIFEST, status="live")
    pointer = registry.root / "MTD" / "pointer.json"
    pointer.write_bytes(pointer.read_bytes()[:50])
    return registry.root


@pytest.mark.parametrize(("noun", "rows"), [("adapter", "adapters"), ("task", "tasks")])
def test_listings_name_the_damaged_task_and_go_on(cli: Cli, root: Path, noun: str, rows: str) -> None:
    done = cli(noun, "list", "--registry", root, "--json")
    body = done.body(f"{noun}.list")
    assert done.code == 0
    assert [row["task"] for row in body["failed"]] == ["MTD"]
    assert "left out: MTD" in done.err
    assert any("EAC" in (row.get("task"), row.get("id")) for row in body[rows])
    shown = cli(noun, "list", "--registry", root)
    assert (shown.code, "EAC" in shown.out, "left out: MTD" in shown.err) == (0, True, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("adapter", "show", "MTD"),
        ("adapter", "verify"),
        ("adapter", "promote", "MTD", "v0001"),
        ("adapter", "rollback", "MTD"),
        ("adapter", "gc", "--task", "MTD"),
        ("task", "show", "MTD"),
    ],
)
def test_the_damaged_task_itself_ends_with_exit_code_4(cli: Cli, root: Path, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, "--registry", root)
    assert done.code == 4
    assert "pointer" in done.err
    assert "Traceback" not in done.err


def test_sign_and_verify(cli: Cli, root: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = tmp_path / "key.pem"
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    checked = ("adapter", "verify", "--task", "EAC", "--key", key, "--registry", root, "--json")
    assert cli(*checked).code == 4
    assert cli("adapter", "sign", "EAC", "--key", key, "--registry", root, "--json").body("adapter.sign")["version"] == "v0001"
    assert cli(*checked).body("adapter.verify")["versions"] == 1
