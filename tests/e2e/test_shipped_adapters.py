"""The adapters that come with the package: whole, small, told what they are from, and a first verdict without any training."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from cli_runner import Cli

import trafficllm
from trafficllm.core.files import read_json
from trafficllm.core.types import ROUTER
from trafficllm.registry.store import Registry

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(trafficllm.__file__).parent / "data" / "adapters"
PLAN = tomllib.loads((ROOT / "recipes" / "shipped" / "shipped.toml").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAFFICLLM_SHIPPED")


def test_they_are_whole_and_say_what_they_are_from() -> None:
    registry = Registry(PACKAGE)
    assert registry.verify() == {}
    live = registry.live_versions()
    router = live.pop(ROUTER)
    assert router.manifest["origins"]
    assert router.manifest["routing"]["accuracy"] > 0.9, "of questions by authors that it never read"
    assert set(live) == set(PLAN["task"])
    base = read_json(PACKAGE.parent / "base" / "traffic" / "trafficllm.json")["base_sha256"]
    for task, version in live.items():
        facts = version.manifest
        assert facts["base_sha256"] == base, task
        assert facts["origins"], task
        assert set(facts["origins"].items()) <= set(PLAN["licence"].items()), task
        assert version.experimental == PLAN["task"][task].get("experimental", "")
        assert not version.laboratory_only, task
        if facts["stage"] == "task":
            assert [row["seed"] for row in facts["members"]] == PLAN["members"], task
    assert sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file()) <= PLAN["limit_mb"] * 1_000_000


def test_a_first_verdict_without_training(cli: Cli, captures: Path, tmp_path: Path) -> None:
    capture = captures / "unseen" / "asyncrat-2024-02-28.pcap"
    done = cli("analyze", capture, "--registry", tmp_path / "none")
    assert done.code == 0, done.err
    assert "shipped" in done.out
    body = cli("analyze", capture, "--registry", tmp_path / "none", "--json", "--task", "MTD").body("analyze")
    assert body["capture"]["flows"] == 77
    listed = cli("adapter", "list", "--registry", tmp_path / "none", "--json").body("adapter.list")
    assert {row["task"] for row in listed["adapters"]} == {*PLAN["task"], ROUTER}
    assert {row["source"] for row in listed["adapters"]} == {"shipped"}
    assert not (tmp_path / "none" / "MTD").exists()
    asked = cli("analyze", capture, "--registry", tmp_path / "none", "--json", "-q", "is there malware in here?").body("analyze")
    assert [row["id"] for row in asked["route"]["tasks"]] == ["MTD"]
