"""A running application serves what the registry holds now: after a task is removed and registered again, the new weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from model_samples import LABELS
from tune_forks import QUICK, make_base, rows

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.infer.detector import TaskModel
from trafficllm.lifecycle.adapters.learn_router import base_facts
from trafficllm.lifecycle.adapters.upkeep import show_adapter, sign
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.tuning.job import tune_task
from trafficllm.records.catalog import get_task


def test_what_is_served_is_known_by_content(tmp_path: Path) -> None:
    base, data = make_base(tmp_path), rows()
    manifest = {**base_facts(base), "labels": list(LABELS), "profile": "strict"}
    for name, rate in (("first", 1e-3), ("second", 2e-2)):
        tune_task(base, data, tmp_path / name, QUICK.model_copy(update={"max_steps": 6, "looks": 0, "learning_rate": rate}))
    workspace = Workspace(base=str(tmp_path / "traffic"), registry=str(tmp_path / "registry"))
    registry, prompts = workspace.registry, data.prompts[:5]

    def scores(name: str) -> np.ndarray:
        return workspace.engine.score(prompts, LABELS, adapter=name).probabilities

    registry.register("MTD", tmp_path / "first", manifest, status="live")
    before = workspace.load("MTD")
    first = scores("MTD")
    model = TaskModel.of(workspace.engine, get_task("MTD"), before)
    revision = registry.revision("MTD")
    shutil.rmtree(registry.root)  # the numbers go too: the worst case, where the name is used again
    registry.register("MTD", tmp_path / "second", manifest, status="live")
    after = workspace.load("MTD")
    assert (before.version, after.version) == ("v0001", "v0001")
    assert registry.revision("MTD") != revision
    assert np.abs(scores("MTD") - first).max() > 1e-3
    again = TaskModel.of(workspace.engine, get_task("MTD"), after)
    assert model.scorer.adapter != again.scorer.adapter  # type: ignore[attr-defined]
    assert {before.resident, after.resident} <= set(workspace.engine.adapters)


def test_a_flipped_bit_is_not_served(tmp_path: Path) -> None:
    base, data = make_base(tmp_path), rows()
    tune_task(base, data, tmp_path / "a", QUICK.model_copy(update={"max_steps": 2, "looks": 0}))
    workspace = Workspace(base=str(tmp_path / "traffic"), registry=str(tmp_path / "registry"))
    manifest = {**base_facts(base), "labels": list(LABELS), "profile": "strict"}
    version = workspace.registry.register("MTD", tmp_path / "a", manifest, status="live")
    workspace.load("MTD")
    for name in ("adapter_model.safetensors", "readout.safetensors"):
        path = version.path / name
        good = bytearray(path.read_bytes())
        path.write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        with pytest.raises(ArtifactError, match=f"{name} has changed"):
            workspace.load("MTD")
        path.write_bytes(good)
    workspace.load("MTD")


def _key(place: Path, name: str) -> Path:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    (place / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (place / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return place / f"{name}.pem"


def test_only_what_the_trusted_key_signed_is_loaded(tmp_path: Path) -> None:
    base, data = make_base(tmp_path), rows()
    tune_task(base, data, tmp_path / "a", QUICK.model_copy(update={"max_steps": 2, "looks": 0}))
    mine, other = _key(tmp_path, "mine"), _key(tmp_path, "other")
    manifest = {**base_facts(base), "labels": list(LABELS), "profile": "strict"}

    def workspace(key: str) -> Workspace:
        (tmp_path / "settings.toml").write_text(f'trusted_key = "{key}"\n')
        return Workspace(base=str(tmp_path / "traffic"), registry=str(tmp_path / "registry"), config=tmp_path / "settings.toml")

    def refusal(key: str) -> str:
        with pytest.raises(ArtifactError) as caught:
            workspace(key).load("MTD")
        assert caught.value.code == "artifact.signature"
        assert caught.value.input == str(version.path)
        return caught.value.message

    public = str(mine.with_suffix(".pub"))
    version = workspace("").registry.register("MTD", tmp_path / "a", manifest, status="live")
    workspace("").load("MTD")
    assert "it is not signed" in refusal(public)
    assert show_adapter(workspace(public), "MTD").version == sign(workspace(public), "MTD", other).version == "v0001"
    assert "its signature is not by" in refusal(public)
    workspace("").load("MTD")  # signed by whoever it names, and no key is asked for
    sign(workspace(public), "MTD", mine)
    workspace(public).load("MTD")
    assert workspace(public).registry.verify() == {}
    again = workspace("").registry.register("MTD", tmp_path / "a", {**manifest, "seed": 1}, status="live")
    shutil.copyfile(version.path / "signature.json", again.path / "signature.json")
    version = again
    assert "the manifest has changed" in refusal("")
    assert set(workspace("").registry.verify()) == {"MTD/v0002"}
    with pytest.raises(InputError, match="no such file"):
        workspace(str(tmp_path / "absent.pub")).load("MTD")
