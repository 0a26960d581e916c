"""Shipped adapters under the user's registry: read only, used where the registry has none, copied before they change."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_registry_store import MANIFEST, adapter

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.settings import Config
from trafficllm.lifecycle.adapters.upkeep import list_adapters
from trafficllm.lifecycle.analyze.verdicts import detection_versions
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.registry.store import Registry


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(name="shipped")
def _shipped(tmp_path: Path) -> Path:
    made = Registry(tmp_path / "package")
    for task in ("MTD", "EAC"):
        made.register(task, adapter(tmp_path / f"adapter{task}", task), MANIFEST, status="live")
    (made.root / "MTD" / ".lock").unlink()
    return made.root


@pytest.fixture(name="registry")
def _registry(tmp_path: Path, shipped: Path) -> Registry:
    return Registry(tmp_path / "own", shipped=shipped)


def test_a_shipped_version_answers_until_there_is_one_of_ones_own(registry: Registry, tmp_path: Path) -> None:
    assert registry.tasks() == ["EAC", "MTD"]
    assert (registry.live("MTD").source, registry.live("MTD").version) == ("shipped", "v0001")
    assert {row.task: row.source for row in registry.live_versions().values()} == {"EAC": "shipped", "MTD": "shipped"}
    before = registry.revision("MTD")
    own = registry.register("MTD", adapter(tmp_path / "mine", "mine"), MANIFEST)
    assert registry.live("MTD").source == "shipped"  # a candidate answers nothing
    registry.promote("MTD", own.version)
    live = registry.live("MTD")
    assert (live.source, live.content) == ("registry", own.content)
    assert registry.revision("MTD") != before
    rows = [(row.task, row.source, row.status) for row in registry.list()]
    assert rows == [("MTD", "registry", "live"), ("EAC", "shipped", "live"), ("MTD", "shipped", "candidate")]


def test_what_is_shipped_is_never_written(registry: Registry, shipped: Path, tmp_path: Path) -> None:
    before = _bytes(shipped)
    assert registry.verify() == {}
    assert registry.gc() == []
    registry.export("MTD", "v0001", tmp_path / "out")
    for refused in (
        lambda: registry.sign("MTD", "v0001", tmp_path / "key.pem"),
        lambda: registry.rollback("MTD"),
        lambda: registry.gc("MTD"),
    ):
        with pytest.raises(UsageError, match="shipped with the package and read only") as caught:
            refused()
        assert "adapter promote MTD v0001" in caught.value.hint
    copy = registry.promote("EAC", "v0001")
    assert (copy.source, copy.status) == ("registry", "live")
    assert copy.manifest["copied_from"]["source"] == "shipped"
    assert (copy.path / "adapter_model.safetensors").read_text() == "EAC"
    assert _bytes(shipped) == before
    assert registry.verify() == {}


def test_a_damaged_shipped_version_is_named(registry: Registry, shipped: Path) -> None:
    (shipped / "MTD" / "v0001" / "adapter_model.safetensors").write_text("other")
    assert list(registry.verify()) == ["shipped MTD/v0001"]
    with pytest.raises(ArtifactError, match="has changed"):
        registry.live("MTD")
    with pytest.raises(ArtifactError):
        registry.promote("MTD", "v0001")
    assert registry.live("EAC").source == "shipped"


def test_workspaces_see_them_on_the_default_base_only(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAFFICLLM_SHIPPED", str(shipped))
    monkeypatch.delenv("TRAFFICLLM_BASE", raising=False)
    place = str(tmp_path / "own")
    assert [row.source for row in list_adapters(Workspace(registry=place)).adapters] == ["shipped", "shipped"]
    assert list(detection_versions(Workspace(registry=place))) == ["MTD", "EAC"]
    assert not Workspace(registry=place, shipped=False).registry.tasks()
    assert not Workspace(registry=place, base="plain").registry.tasks()
    assert not Workspace(registry=place, config=Config(base="other")).registry.tasks()
    Registry(place).register("EAC", adapter(tmp_path / "mine"), MANIFEST, status="live")
    assert list(detection_versions(Workspace(registry=place))) == ["EAC", "MTD"]  # one's own goes first
