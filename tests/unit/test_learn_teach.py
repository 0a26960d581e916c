"""A new task's instructions reach the live router; an adapter trained elsewhere is taken as it is, or refused with all reasons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import infer_samples as samples
import learn_samples as made_of
import numpy as np
import pytest

from trafficllm.core.errors import ArtifactError
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import ROUTER
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.router.router import Router
from trafficllm.infer.router.wording import of_version
from trafficllm.lifecycle.adapters import learn, teach
from trafficllm.lifecycle.adapters.learn_router import base_facts
from trafficllm.lifecycle.adapters.results import AdapterRegister, RouterGate
from trafficllm.lifecycle.adapters.training import Training
from trafficllm.lifecycle.tasks import route
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base.load import Base, load_base
from trafficllm.records.catalog import Task, get_task
from trafficllm.registry.store import Registry

MINE = Task(id="MINE", title="printer models", kind="detection", instruction="printer model")
LABELS = ("LaserJet_9", "größe ü")


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(samples.write_base(tmp_path_factory.mktemp("teach") / "base"), dtype="float32")


def _with_router(base: Base, place: Path) -> Registry:
    registry = Registry(place / "registry")
    manifest = {**base_facts(base), "labels": ["EAC", "MTD", "none"], "profile": "strict", "temperature": 1.5}
    registry.register(ROUTER, samples.write_adapter(base.path, place / "router", seed=5), manifest, status="live")
    return registry


def test_instructions_come_from_the_task_and_its_labels() -> None:
    train, held = (teach.instructions(MINE, LABELS, held=side) for side in (False, True))
    assert not set(train) & set(held)
    assert "does this traffic look like LaserJet 9?" in {*train, *held}
    assert any("größe ü" in text for text in train)
    assert len(train) > 2 * len(held) > 8


def _teach(base: Base, registry: Registry, place: Path) -> RouterGate | None:
    return teach.teach(MINE, LABELS, Training(base, registry, place / "out"))


def test_the_router_learns_a_new_task(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router of random weights has little to forget: what it learns goes live, with the old settings."""
    for name, value in {"STEPS": 12, "REPLAYED": 40, "WORDED": 300, "HELD_OUT": 30, "RATE": 1e-2, "MARGIN": 1.0}.items():
        monkeypatch.setattr(teach, name, value)
    registry = _with_router(base, tmp_path)
    row = _teach(base, registry, tmp_path)
    assert row is not None
    assert (row.n, row.live) == (30, 1.0)
    live = registry.live(ROUTER)
    assert live.manifest["labels"] == ["EAC", "MTD", "MINE", "none"]
    assert (live.parent, live.manifest["temperature"], live.manifest["learnt_task"]) == ("v0001", 1.5, "MINE")
    engine = Engine(base)
    engine.add_adapter("r", live.path)
    assert set(Router(engine, "r", ["EAC", "MTD", "MINE"]).route("run MINE").row()) == {"tasks", "none"}
    heard = of_version(live.path)
    assert [model.columns for model in heard[1:]] == [("MINE",)]
    undecided = np.full((1, 4), 0.25)
    router = Router.of(engine, "r", live.manifest, wording=heard)
    for question, task in (("which printer model is it?", "MINE"), ("is it malware?", "MTD"), ("hello, how are you?", None)):
        assert [name for name, _ in router.combined(undecided, [question])[0].tasks] == ([task] if task else [])
    assert _teach(base, registry, tmp_path) is None


def test_a_question_goes_to_both_or_the_model_alone(base: Base, tmp_path: Path) -> None:
    registry = _with_router(base, tmp_path)
    workspace = Workspace(base=str(base.path), registry=str(tmp_path / "registry"))
    asked = ["is it malware, and which family?", "what is the weather tomorrow?", "which app is this traffic from?"]
    heard = [[task.id for task in row.tasks] for row in route(workspace, asked)]
    assert heard == [["MTD"], [], ["EAC"]]
    live = registry.live(ROUTER)
    engine = Engine(base)
    engine.add_adapter("r", live.path)
    bare = Router.of(engine, "r", live.manifest)
    alone = route(workspace, asked, wording=False)
    assert [row.tasks[0].id if row.tasks else None for row in alone] == [
        route.tasks[0][0] if route.tasks else None for route in bare.stream(asked)
    ]
    assert all(sum(task.probability for task in row.tasks) + row.none <= 1 + 1e-9 for row in alone)


def test_a_router_that_forgets_stays_out(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 1, "REPLAYED": 10, "WORDED": 100, "HELD_OUT": 10, "MARGIN": -2.0}.items():
        monkeypatch.setattr(teach, name, value)
    registry = _with_router(base, tmp_path)
    row = _teach(base, registry, tmp_path)
    assert row is not None
    assert row.live == 0.0
    assert registry.live(ROUTER).version == "v0001"
    assert [v.status for v in registry.list(ROUTER)] == ["live", "rejected"]


def test_without_a_router_there_is_nothing_to_teach(base: Base, tmp_path: Path) -> None:
    assert _teach(base, Registry(tmp_path / "none"), tmp_path) is None


def test_a_base_that_routes_by_itself_is_taught(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 2, "REPLAYED": 20, "WORDED": 100, "HELD_OUT": 10, "MARGIN": 1.0, "LEAST": 0.0}.items():
        monkeypatch.setattr(teach, name, value)
    registry = Registry(tmp_path / "none")
    row = _teach(base, registry, tmp_path)
    assert row is not None
    live = registry.live(ROUTER)
    assert {"MINE", "MTD", "none"} <= set(live.manifest["labels"])
    assert live.parent is None


def test_an_adapter_trained_elsewhere(base: Base, tmp_path: Path) -> None:
    data = made_of.data_set(tmp_path / "data", ("DNS", "HTTP"), seed=2)
    foreign = samples.write_adapter(base.path, tmp_path / "foreign", seed=7)
    registry, options = Registry(tmp_path / "r"), TuneOptions(max_steps=1)

    def take(place: str) -> AdapterRegister:
        training = Training(base, registry, tmp_path / place, options, baselines=False)
        return learn.register(data, training, task=get_task("EAC"), trained=[foreign])

    body = take("w")
    assert (body.status, body.tuning.steps) == ("live", 0)
    live = registry.live("EAC")
    weights = "adapter_model.safetensors"
    assert (live.path / weights).read_bytes() == (foreign / weights).read_bytes()
    assert live.manifest["calibration"]["n"] > 0
    (foreign / "tune.json").write_text(json.dumps({"labels": ["DNS", "SSH"], "codec_hash": "other"}))
    shutil.copyfile(foreign / weights, foreign / "more.bin")
    with pytest.raises(ArtifactError) as refused:
        take("w2")
    for reason in ("codec_hash", "only in the adapter: SSH", "never learnt: HTTP", "more.bin may hold a pickle"):
        assert reason in refused.value.message
    assert len(registry.list("EAC")) == 1
