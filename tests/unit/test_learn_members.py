"""Versions of several members, with a tiny base: how they answer together, what is stored, and what becomes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import infer_samples as samples
import learn_samples as made_of
import numpy as np
import pytest
from safetensors.torch import load_file

from trafficllm.core.calibration import log_softmax
from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.sealed import sealed
from trafficllm.core.settings import TuneOptions
from trafficllm.infer.detector import TaskModel
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import WEIGHT, LLMScorer
from trafficllm.lifecycle.adapters import learn, update, upkeep
from trafficllm.lifecycle.adapters import register as registering
from trafficllm.lifecycle.adapters.training import Training
from trafficllm.lifecycle.members import tuned
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.adapter.readout import Readout
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task
from trafficllm.registry import members
from trafficllm.registry.store import Registry
from trafficllm.surface.cli.main import run

TASK = get_task("EAC")
OPTIONS = TuneOptions(max_steps=12, batch_tokens=1024, looks=0, seed=3, learning_rate=5e-3)


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("members")
    data = made_of.data_set(place / "data", ("DNS", "HTTP", "ICMP"), seed=1)
    base = load_base(samples.write_base(place / "base"), dtype="float32")
    registry = Registry(place / "registry")
    training = Training(base, registry, place / "work", OPTIONS, baselines=False, members=2)
    body = learn.register(data, training, task=TASK)
    return {"place": place, "base": base, "registry": registry, "data": data, "body": body, "training": training}


def _workspace(made: dict[str, Any], registry: Path | None = None) -> Workspace:
    return Workspace(base=str(made["place"] / "base"), registry=str(registry or made["place"] / "registry"), shipped=False)


def test_a_version_holds_its_members_from_one_seed_each(made: dict[str, Any]) -> None:
    version = made["registry"].live("EAC")
    rows = version.manifest["members"]
    assert [(row["folder"], row["seed"], row["steps"]) for row in rows] == [("", 3, 12), ("members/2", 4, 12)]
    assert {"adapter_model.safetensors", "members/2/adapter_model.safetensors", "members/2/readout.safetensors"} <= set(
        version.manifest["files"]
    )
    first, second = (load_file(str(folder / "adapter_model.safetensors")) for folder in members.folders(version.path))
    assert {str(value.dtype) for value in first.values()} == {"torch.float16"}
    assert any(not bool((first[name] == second[name]).all()) for name in first)
    assert "2 members" in (version.path / "README.md").read_text(encoding="utf-8")
    assert made["registry"].verify() == {}


def _alone(member: Path, to: Path) -> Path:
    """A copy of one member's folder, without the others."""
    return Path(shutil.copytree(member, to, ignore=shutil.ignore_patterns("members")))


def test_scores_are_the_mean_of_log_probabilities(made: dict[str, Any], tmp_path: Path) -> None:
    version, data = made["registry"].live("EAC"), made["data"]
    model = TaskModel.of(Engine(made["base"]), TASK, version)
    records = data.records(data.indices("test"))
    together = model.scorer.score(records, features=True)
    alone = []
    for folder in members.folders(version.path):
        engine = Engine(made["base"])
        engine.add_adapter("a", _alone(folder, tmp_path / folder.name))
        alone.append(LLMScorer(engine, "a", TASK, model.scorer.labels, model.calibration).score(records, features=True))
    assert np.allclose(together.logits, log_softmax(np.mean([one.logits for one in alone], axis=0)), atol=1e-5)
    assert np.abs(alone[0].logits - alone[1].logits).max() > 1e-2
    assert together.probabilities.sum(axis=1) == pytest.approx(1)
    for name in ("hidden", "pooled", "features"):
        assert np.allclose(getattr(together, name), np.concatenate([getattr(one, name) for one in alone], axis=1), atol=1e-5)
    assert np.allclose(together.readout, np.mean([one.readout for one in alone], axis=0), atol=1e-5)


def test_the_calibration_is_fitted_on_the_scores_that_are_served(made: dict[str, Any]) -> None:
    version, data = made["registry"].live("EAC"), made["data"]
    calibration = version.manifest["calibration"]
    assert calibration["unknown"]["method"] == "nearest_energy"
    assert len(calibration["unknown"]["params"]["mean"]) == 2 * 32, "the states of both members side by side"
    assert 0 <= calibration[WEIGHT] <= 1
    scorer = TaskModel.of(Engine(made["base"]), TASK, version).scorer
    best = scoring.score_rows(scorer, data, data.indices("test")).probabilities.argmax(axis=1)
    right = np.mean([scorer.labels[k] == label for k, label in zip(best, data.labels_of(data.indices("test")), strict=True)])
    assert version.manifest["quality"]["accuracy"] == pytest.approx(float(right))


def test_kept_answers_are_those_of_all_members_and_go_with_the_version(made: dict[str, Any]) -> None:
    version, data = made["registry"].live("EAC"), made["data"]
    engine = Engine(made["base"], remember=100)
    model = TaskModel.of(engine, TASK, version)
    records = data.records(data.indices("test"))
    first = model.scorer.score(records)
    called: list[str] = []
    plain = engine.using
    engine.using = lambda name: called.append(name) or plain(name)  # type: ignore[method-assign,assignment,func-returns-value]
    assert np.array_equal(model.scorer.score(records).logits, first.logits)
    assert called == []
    engine.add_adapter(version.resident, members.place(version.path, 2))
    assert np.abs(model.scorer.score(records).logits - first.logits).max() > 1e-3
    assert called
    assert engine.members(version.resident) == (version.resident,)
    engine.remove_adapter(version.resident)
    assert engine.adapters == ()


def test_the_least_used_adapter_goes_with_all_its_members(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trafficllm.infer.engine.resident.LIMIT", 3)
    path, engine = made["registry"].live("EAC").path, Engine(made["base"])
    engine.add_adapter("one", path)
    engine.add_adapter("two", path)
    assert engine.adapters == ("two",)
    assert len(engine._residents.names) == 2


def test_tuned_folders_become_a_version_and_so_does_one_that_was_exported(made: dict[str, Any], tmp_path: Path) -> None:
    workspace = _workspace(made)
    sent = upkeep.export(workspace, "EAC", tmp_path / "out")
    assert sent.members == 2
    assert {"adapter_config.json", "members/2/adapter_config.json"} <= set(sent.files)
    parts = [_alone(folder, tmp_path / f"part{k}") for k, folder in enumerate(members.folders(tmp_path / "out"))]
    for name, trained in (("parts", parts), ("whole", [tmp_path / "out"])):
        training = Training(made["base"], Registry(tmp_path / name), tmp_path / f"{name}.work", OPTIONS, baselines=False)
        body = learn.register(made["data"], training, task=TASK, trained=trained, refit=True)
        assert body.quality is not None
        assert body.quality.as_dict() == made["body"].quality.as_dict()
        assert len(training.registry.live("EAC").manifest["members"]) == 2


def test_more_adapters_than_a_version_may_have_are_refused(made: dict[str, Any], tmp_path: Path) -> None:
    path = made["registry"].live("EAC").path
    with pytest.raises(UsageError, match="10 members"):
        tuned.taken([path] * 5, made["base"], ("DNS", "HTTP", "ICMP"), tmp_path / "work")
    tuned.taken([path], made["base"], ("DNS", "HTTP", "ICMP"), tmp_path / "work")
    tuned.taken([path / "members" / "2"], made["base"], ("DNS", "HTTP", "ICMP"), tmp_path / "work")
    assert members.folders(tmp_path / "work") == (tmp_path / "work",), "members of an earlier call are gone"


def test_several_members_are_not_merged_into_one_checkpoint(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 members") as caught:
        upkeep.export(_workspace(made), "EAC", tmp_path / "out", merged=True)
    assert "--members 1" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_members_are_shown_with_their_cost(made: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--registry", str(made["place"] / "registry")]
    assert run(["adapter", "show", "EAC", *where]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 adapters tuned from seeds 3, 4" in shown
    assert "MB of weights" in shown
    assert run(["adapter", "export", "EAC", "-o", str(tmp_path / "out"), "--base", str(made["place"] / "base"), *where]) == 0
    assert "members/2" in capsys.readouterr().err


def test_a_shipped_version_is_copied_with_its_members_and_the_copy_is_signed_whole(made: dict[str, Any], tmp_path: Path) -> None:
    registry = Registry(tmp_path / "own", shipped=made["place"] / "registry")
    copied = registry.promote("EAC", "v0001")
    assert copied.manifest["members"] == made["registry"].live("EAC").manifest["members"]
    assert len(members.folders(copied.path)) == 2
    weights = copied.path / "members" / "2" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match=r"members/2/adapter_model\.safetensors has changed"):
        registry.live("EAC")


def test_every_member_goes_on_in_an_update(made: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(made["place"] / "registry", tmp_path / "registry")
    made_of.data_set(tmp_path / "new", ("DNS", "QUIC"), seed=2)
    training = Training(made["base"], Registry(tmp_path / "registry"), tmp_path / "work", OPTIONS, baselines=False)
    body = update.update(tmp_path / "new", training, task=TASK)
    version = training.registry.show("EAC", body.version)
    assert len(version.manifest["members"]) == 2
    assert "QUIC" in version.manifest["labels"]
    old = members.folders(made["registry"].live("EAC").path)
    for before, after in zip(old, members.folders(version.path), strict=True):
        one, two = (load_file(str(folder / "adapter_model.safetensors")) for folder in (before, after))
        assert max(float((one[name].float() - two[name].float()).abs().max()) for name in one) > 1e-4
        assert max(float((one[name].float() - two[name].float()).abs().mean()) for name in one) < 0.05, "it goes on, it does not start"
        readout = Readout.load(after)
        assert readout is not None
        assert "QUIC" in readout.labels


def test_members_that_do_not_answer_alike_are_refused(made: dict[str, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(made["registry"].live("EAC").path, tmp_path / "a")
    readout = Readout.load(folder / "members" / "2")
    assert readout is not None
    fewer = readout.of(readout.labels[:2])
    assert fewer is not None
    fewer.save(folder / "members" / "2")
    with pytest.raises(ArtifactError, match="not those of the other members"):
        Engine(made["base"]).add_adapter("a", folder)


@pytest.mark.parametrize("change", ["rename", "link", "file", "empty"])
def test_a_folder_that_does_not_hold_members_in_order_is_refused(tmp_path: Path, change: str) -> None:
    inside = tmp_path / "members"
    (inside / "2").mkdir(parents=True)
    assert len(members.folders(tmp_path)) == 2
    if change == "rename":
        (inside / "2").rename(inside / "3")
    elif change == "link":
        (inside / "3").symlink_to(inside / "2")
    elif change == "file":
        (inside / "x").write_text("")
    else:
        (inside / "2").rmdir()
    with pytest.raises(ArtifactError, match="members"):
        members.folders(tmp_path)


def test_a_manifest_names_the_members_that_lie_in_its_folder(made: dict[str, Any], tmp_path: Path) -> None:
    live = made["registry"].live("EAC")
    body = {key: value for key, value in live.manifest.items() if key != "sha256"}
    for changed in ([], body["members"][:1], [*body["members"], {"folder": "members/3"}], [1, 2]):
        shutil.rmtree(tmp_path / "registry", ignore_errors=True)
        shutil.copytree(made["place"] / "registry", tmp_path / "registry")
        path = tmp_path / "registry" / "eac" / "v0001" / "manifest.json"
        path = path if path.exists() else next((tmp_path / "registry").glob("*/v0001/manifest.json"))
        path.write_text(sealed({**body, "members": changed}))
        with pytest.raises(ArtifactError, match="members"):
            Registry(tmp_path / "registry").live("EAC")


def test_how_many_members_are_wanted_is_checked(made: dict[str, Any], tmp_path: Path) -> None:
    workspace = _workspace(made, tmp_path / "registry")
    with pytest.raises(UsageError, match="10 members"):
        registering.register(workspace, made["place"] / "data", "EAC", members=10)
    with pytest.raises(UsageError, match="3 members, but 2 adapters"):
        registering.register(workspace, made["place"] / "data", "EAC", members=3, trained=[tmp_path, tmp_path])
    assert json.loads(json.dumps(made["body"].as_dict()))["status"] == "live"
