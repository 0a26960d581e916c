from __future__ import annotations

import json
from pathlib import Path

import pytest

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, UsageError
from trafficllm.core.files import sha256_bytes
from trafficllm.registry import fit
from trafficllm.registry.card import model_card
from trafficllm.registry.store import Registry
from trafficllm.registry.versions import Pointer, version_number

MANIFEST = {
    "base": "traffic",
    "base_sha256": "b" * 64,
    "tokenizer_sha256": "t" * 64,
    "codec_hash": "c1",
    "profile": "strict",
    "labels": ["Zeus", "be|nign"],
    "data_sha256": "d" * 64,
    "seed": 0,
    "parent": None,
    "quality": {
        "macro_f1": 0.8,
        "accuracy": 0.9,
        "ci95": [0.7, 0.9],
        "per_class": {"Zeus": {"precision": 0.5, "recall": 0.6, "f1": 0.55, "support": 12}},
        "n_test": 20,
        "n_test_unique": 19,
        "split": "capture",
        "mask": "strict",
        "leaky": [],
        "seen_by_base": "0/20",
        "seeds": [0],
    },
    "baselines": {"lightgbm": {"macro_f1": 0.85, "accuracy": 0.9, "ci95": [0.8, 0.9]}},
    "calibration": {"temperature": 1.2, "ece": 0.03, "unknown": {"method": "knn", "threshold": 1.0, "params": {}}},
}


def adapter(folder: Path, content: str = "weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text(content)
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", lock_timeout=5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return adapter(tmp_path / "adapter")


def test_register_promote_rollback(registry: Registry, source: Path) -> None:
    first = registry.register("MTD", source, MANIFEST, status="live")
    second = registry.register("MTD", source, MANIFEST | {"parent": "v0001"})
    assert (first.version, first.status, second.version, second.status) == ("v0001", "live", "v0002", "candidate")
    assert registry.live("MTD").version == "v0001"
    before = registry.revision("MTD")
    assert registry.promote("MTD", "v0002").status == "live"
    assert registry.revision("MTD") != before
    assert registry.show("MTD", "v0001").status == "candidate"
    assert registry.live("MTD").parent == "v0001"
    assert registry.rollback("MTD").version == "v0001"
    with pytest.raises(ArtifactError, match="no earlier live version"):
        registry.rollback("MTD")


def test_a_version_is_a_stock_peft_folder_with_card_and_hashes(registry: Registry, source: Path, tmp_path: Path) -> None:
    (source / "checkpoint-5").mkdir()
    (source / "checkpoint-5" / "optimizer.pt").write_text("x")
    (source / "metrics.jsonl").write_text("{}\n")
    version = registry.register("MTD", source, MANIFEST)
    names = sorted(p.name for p in version.path.iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json", "metrics.jsonl"]
    assert set(version.manifest["files"]) == {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"}
    assert registry.verify() == {}
    out = registry.export("MTD", "v0001", tmp_path / "out")
    assert (out / "adapter_model.safetensors").read_text() == "weights"


def test_changes_of_a_version_are_found(registry: Registry, source: Path, tmp_path: Path) -> None:
    version = registry.register("MTD", source, MANIFEST)
    (version.path / "adapter_model.safetensors").write_text("tampered")
    (version.path / "adapter_config.json").unlink()
    (version.path / "evil.py").write_text("")
    expected, actual = sha256_bytes(b"weights"), sha256_bytes(b"tampered")
    changed = f"adapter_model.safetensors has changed: expected {expected}, found {actual}"
    assert registry.verify() == {"MTD/v0001": ["adapter_config.json is missing", changed, "evil.py was added"]}
    with pytest.raises(ArtifactError, match="has changed"):
        registry.export("MTD", "v0001", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_formats_that_hold_code_links_and_strangers_are_refused_together(registry: Registry, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "adapter_model.bin").write_text("")
    (bad / "run.py").write_text("")
    (bad / "link.json").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match=r"link.*\.bin.*run\.py.*adapter_config"):
        registry.register("MTD", bad, MANIFEST)
    with pytest.raises(ArtifactError, match="no such adapter"):
        registry.register("MTD", tmp_path / "nowhere", MANIFEST)
    assert registry.list() == []


def test_task_names_never_become_unsafe_paths(registry: Registry, source: Path) -> None:
    for name in ("../x", "a/../../b", "", "x\n", "/abs"):
        with pytest.raises(InputError):
            registry.register(name, source, MANIFEST)
    version = registry.register("Größe & mehr", source, MANIFEST, status="live")
    assert version.path.resolve().is_relative_to(registry.root.resolve())
    assert version.path.parent.name.isascii()
    assert registry.tasks() == ["Größe & mehr"]
    for name in ("../v0001", "v1", "v0001/..", "live"):
        with pytest.raises(UsageError):
            registry.show("Größe & mehr", name)


def test_what_does_not_exist_is_said_in_one_line(registry: Registry, source: Path) -> None:
    with pytest.raises(ArtifactError, match="no live adapter"):
        registry.live("MTD")
    with pytest.raises(UsageError, match="no adapter of task"):
        registry.rollback("MTD")
    registry.register("MTD", source, MANIFEST, status="live")
    with pytest.raises(UsageError, match="no version v0009"):
        registry.promote("MTD", "v0009")
    (registry.root / "MTD" / "pointer.json").write_text('{"schema": "other"}')
    with pytest.raises(ArtifactError, match="no pointer file"):
        registry.live("MTD")


def test_gc_keeps_what_rollback_needs_and_never_reuses_a_number(registry: Registry, source: Path) -> None:
    for _ in range(3):
        registry.register("MTD", source, MANIFEST, status="live")
    for _ in range(4):
        registry.register("MTD", source, MANIFEST, status="rejected")
    (registry.root / "MTD" / ".v0099.half").mkdir()
    assert registry.gc(keep=1) == ["MTD/v0001", "MTD/v0004", "MTD/v0005", "MTD/v0006"]
    assert not (registry.root / "MTD" / ".v0099.half").exists()
    assert registry.rollback("MTD").version == "v0002"
    registry.gc(keep=0)
    assert [v.version for v in registry.list()] == ["v0002"]
    assert registry.register("MTD", source, MANIFEST).version == "v0008"


def test_a_held_lock_ends_in_a_clear_error(registry: Registry, source: Path) -> None:
    from filelock import FileLock

    registry.register("MTD", source, MANIFEST)
    impatient = Registry(registry.root, lock_timeout=0.1)
    with FileLock(registry.root / "MTD" / ".lock"), pytest.raises(ResourceError, match="another process"):
        impatient.promote("MTD", "v0001")


def test_a_full_disk_leaves_nothing(registry: Registry, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.register("MTD", source, MANIFEST, status="live")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trafficllm.registry.folder.os.fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        registry.register("MTD", source, MANIFEST, status="live")
    assert sorted(p.name for p in (registry.root / "MTD").iterdir()) == [".lock", "pointer.json", "v0001"]
    assert registry.live("MTD").version == "v0001"


def test_same_registration_same_bytes(tmp_path: Path, source: Path) -> None:
    one = Registry(tmp_path / "a").register("MTD", source, MANIFEST)
    two = Registry(tmp_path / "b").register("MTD", source, dict(reversed(MANIFEST.items())))
    for name in ("manifest.json", "README.md"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_pointer_transitions() -> None:
    p = Pointer("T").promoted("v0001").promoted("v0002").promoted("v0003").refused("v0001")
    assert p.status("v0001") == "rejected"
    assert p.rolled_back(frozenset({"v0001", "v0003"})).live == "v0001"
    assert p.promoted("v0003") is p
    assert version_number("v0012") == 12


def test_fit_tells_all_reasons_at_once() -> None:
    base = {"base_sha256": "b" * 64, "tokenizer_sha256": "t" * 64}
    fit.check(MANIFEST, base, "c1", ["Zeus", "be|nign"], "strict")
    fit.check(MANIFEST, base, "c1")
    with pytest.raises(ArtifactError) as caught:
        fit.check(MANIFEST, base | {"base_sha256": "x" * 64}, "c2", ["Zeus", "new"], "raw")
    for word in ("base_sha256", "codec_hash", "be|nign", "never learnt: new", "mask profile"):
        assert word in caught.value.message
    with pytest.raises(ArtifactError, match="labels is missing"):
        fit.check({k: v for k, v in MANIFEST.items() if k != "labels"}, base, "c1", ["Zeus"])


def test_the_card_is_filled_and_escaped() -> None:
    card = model_card(json.loads(json.dumps(MANIFEST | {"task": "MTD", "version": "v0001"})))
    assert "be\\|nign" in card
    assert "0.700 to 0.900" in card
    assert "below the best baseline (0.850)" in card
    assert "None" not in card
    assert "No test score" in model_card({"task": "x"})
    empty = dict.fromkeys(("quality", "baselines", "calibration", "labels", "parent"), None)
    assert "No test score" in model_card({"task": "x", **empty})
