"""Updating a live task with a tiny base: a new class learnt while old ones keep, a poisoned update refused, and the way back."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import infer_samples as samples
import jsonschema
import learn_samples as made_of
import pyarrow.parquet as pq
import pytest

from trafficllm.core.errors import ArtifactError, InputError, UsageError
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Silent
from trafficllm.evaluate.quality import validate
from trafficllm.infer.detector import TaskModel
from trafficllm.infer.engine.engine import Engine
from trafficllm.lifecycle.adapters import learn, replay, update, upkeep
from trafficllm.lifecycle.adapters.training import Training
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import codec
from trafficllm.records.dataset.splits import UNITS
from trafficllm.registry.store import Registry
from trafficllm.surface.cli.main import run

TASK = get_task("EAC")
OPTIONS = TuneOptions(max_steps=40, batch_tokens=1024, looks=2, seed=3, learning_rate=5e-3)
OLD = ("DNS", "HTTP", "ICMP")
SWAPPED = {"DNS": "HTTP", "HTTP": "ICMP", "ICMP": "DNS"}


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A live task of three classes, then an update that brings a fourth; the registry as it was between is kept."""
    place = tmp_path_factory.mktemp("update")
    old = made_of.data_set(place / "old", OLD, seed=1)
    made_of.data_set(place / "new", ("DNS", "QUIC"), seed=2)
    base = load_base(samples.write_base(place / "base"), dtype="float32")
    registry = Registry(place / "registry")
    first = learn.register(old, Training(base, registry, place / "w1", OPTIONS, baselines=False), task=TASK).as_dict()
    shutil.copytree(place / "registry", place / "between")
    body = update.update(place / "new", Training(base, registry, place / "w2", OPTIONS, search_s=0), task=TASK).as_dict()
    return {"place": place, "base": base, "registry": registry, "old": old, "first": first, "body": body}


def between(made: dict[str, Any], to: Path) -> Registry:
    """A copy of the registry before the update."""
    shutil.copytree(made["place"] / "between", to)
    return Registry(to)


def test_a_new_class_is_learnt_and_old_ones_keep(made: dict[str, Any]) -> None:
    body, live = made["body"], made["registry"].live("EAC")
    assert (body["version"], body["parent"], body["status"]) == ("v0002", "v0001", "live"), body["why"]
    assert live.version == "v0002"
    assert live.manifest["labels"] == ["DNS", "HTTP", "ICMP", "QUIC"]
    assert body["added_labels"] == ["QUIC"]
    old, new = body["gate"]["old"], body["gate"]["new"]
    assert old["after"] >= old["before"] - 0.01
    assert old["lower"] >= -0.01
    assert new["after"] > new["before"] + 0.3
    assert body["quality"]["per_class"]["QUIC"]["f1"] > 0.8
    assert body["transfer"]["backward"] == pytest.approx(old["after"] - old["before"])
    assert body["replayed"] == 3 * 24
    assert body["gate"]["router"] is None


def test_the_answer_is_the_contract(made: dict[str, Any], repo: Path) -> None:
    schema = json.loads((repo / "schemas" / "trafficllm.adapter.update.1.json").read_text(encoding="utf-8"))
    body = {"schema": "trafficllm.adapter.update/1", "ok": True, **made["body"]}
    jsonschema.validate(json.loads(json.dumps(body, allow_nan=False)), schema)
    validate(made["body"])
    names = {"majority", "artefact_probe", "knn", "lightgbm", "random_forest"}
    assert set(made["body"]["baselines"]) == names


def test_the_sample_is_bounded_masked_and_named_by_its_content(made: dict[str, Any]) -> None:
    version = made["registry"].show("EAC", "v0001")
    entry = version.manifest["sample"]
    path = version.path / "sample" / f"{entry['sha256']}.parquet"
    assert f"sample/{entry['sha256']}.parquet" in version.manifest["files"]
    table = pq.read_table(path)
    assert table.column_names == ["label", "part", "group", "content", "units", "plain", "answer"]
    assert not any("192.0.2." in str(value) for row in table.to_pylist() for value in row.values())
    rows = replay.read(version)
    assert entry["parts"] == {"train": 72, "val": 24, "test": 48}
    assert [codec.encode(codec.decode(units)) for units in rows.units] == list(rows.units)
    data = made["old"]
    assert set(rows.units) <= set(data.units(range(len(data))))
    assert not set(rows.groups) & set(data.groups(range(len(data))))


def test_the_next_sample_holds_old_and_new(made: dict[str, Any]) -> None:
    before, after = (replay.read(made["registry"].show("EAC", name)) for name in ("v0001", "v0002"))
    assert set(after.labels) == {"DNS", "HTTP", "ICMP", "QUIC"}
    counts = Counter(zip(after.labels, after.parts, strict=True))
    assert counts["DNS", "train"] == 2 * 24
    assert max(counts.values()) <= max(replay.LIMITS.values())
    http = {units for units, label in zip(before.units, before.labels, strict=True) if label == "HTTP"}
    assert http <= set(after.units)


def test_rollback_restores(made: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(made["place"] / "registry", tmp_path / "r")
    registry, data = Registry(tmp_path / "r"), made["old"]
    records = data.records(data.indices("test")[:12])

    def served(place: Registry) -> list[list[float]]:
        model = TaskModel.of(Engine(made["base"]), TASK, place.live("EAC"))
        return model.scorer.score(records).probabilities.tolist()

    now = served(registry)
    assert registry.rollback("EAC").version == "v0001"
    assert registry.live("EAC").manifest["labels"] == list(OLD)
    assert served(registry) == served(Registry(made["place"] / "between"))
    assert served(registry) != now


def test_a_poisoned_update_is_refused(made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line: exit code 5, the live version untouched, the refused one kept for a look."""
    registry = between(made, tmp_path / "r")
    made_of.data_set(tmp_path / "bad", OLD, seed=3, names=SWAPPED)
    (tmp_path / "c.toml").write_text("[tune]\nlearning_rate = 5e-3\nepochs = 12\n")
    words = ("adapter", "update", tmp_path / "bad", "--task", "EAC", "--registry", tmp_path / "r", "--json", "--quiet")
    more = ("--base", made["place"] / "base", "--config", tmp_path / "c.toml")
    assert run([str(word) for word in (*words, *more)]) == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "gate.refused"
    assert "v0001 stays live" in error["message"]
    assert registry.live("EAC").version == "v0001"
    refused = registry.show("EAC", "v0002")
    assert refused.status == "rejected"
    assert refused.manifest["gate"]["old"]["after"] < refused.manifest["gate"]["old"]["before"] - 0.05
    assert registry.verify() == {}
    assert not any((tmp_path / "r" / ".work").iterdir())


def test_too_few_records_stay_a_candidate(made: dict[str, Any], tmp_path: Path) -> None:
    registry = between(made, tmp_path / "r")
    made_of.data_set(tmp_path / "few", ("QUIC",), seed=4, each=1)
    options = OPTIONS.model_copy(update={"max_steps": 1, "learning_rate": 1e-6})
    answer = update.update(tmp_path / "few", Training(made["base"], registry, tmp_path / "w", options, baselines=False), task=TASK)
    assert answer.status == "candidate"
    assert "too few new test records" in answer.why
    assert registry.live("EAC").version == "v0001"
    assert registry.promote("EAC", answer.version).status == "live"


def test_a_version_without_its_sample_is_not_updated(made: dict[str, Any], tmp_path: Path) -> None:
    registry = between(made, tmp_path / "r")
    live = registry.live("EAC")
    place = live.path / "sample" / f"{live.manifest['sample']['sha256']}.parquet"
    place.write_bytes(b"other")
    with pytest.raises(ArtifactError, match="changed"):
        replay.read(live)
    without = {key: value for key, value in live.manifest.items() if key != "sample"}
    with pytest.raises(ArtifactError, match="keeps no sample"):
        replay.read(replace(live, manifest=without))


def test_records_that_were_learnt_are_not_tested_again(made: dict[str, Any]) -> None:
    kept = replay.read(made["registry"].show("EAC", "v0001"))
    swap = {"train": "test", "test": "train", "val": "val"}
    turned = replay.Rows(kept.units, kept.labels, [swap[p] for p in kept.parts], kept.groups, kept.content, kept.plain, kept.answers)
    left, leaks = replay.without_leaks(kept, turned)
    assert set(left.parts) == {"val"}
    assert leaks == 72 + 48
    same, none = replay.without_leaks(kept, kept)
    assert (len(same), none) == (len(kept), 0)


def test_nothing_new_is_said(made: dict[str, Any], tmp_path: Path) -> None:
    registry = between(made, tmp_path / "r")
    data = made_of.data_set(tmp_path / "test", ("QUIC",), seed=5)
    live = registry.live("EAC")
    only = replay.View.of(live.manifest).rows(data.raw_records([0]), ["QUIC"], ["test"], ["g"])
    joined = replay.joined(replay.read(live), only, live, unit="flow", leaks=0)
    assert joined.labels == OLD
    assert joined.manifest["dropped"] == {"no training records": 1}
    assert joined.manifest["split"]["unit"] == "capture and flow"
    with pytest.raises(InputError):
        update._data(tmp_path / "nothing", live, replay.read(live), TASK, seed=0, progress=Silent())


def test_captures_of_one_new_class_are_enough(made: dict[str, Any], tmp_path: Path, captures: Path) -> None:
    shutil.copytree(captures / "EAC" / "ICMP", tmp_path / "in" / "ICMP")
    view = replay.View.of(made["registry"].live("EAC").manifest)
    rows, unit, _ = replay.fresh(tmp_path / "in", view, TASK, chores=True, seed=0, progress=Silent())
    assert set(rows.labels) == {"ICMP"}
    assert set(rows.parts) == {"train", "val", "test"}
    assert unit in UNITS
    again, _, _ = replay.fresh(tmp_path / "in", view, TASK, chores=True, seed=0, progress=Silent())
    assert again == rows


def test_the_choice_is_spread_over_groups_and_free_of_order() -> None:
    chooser = random.Random(0)
    n = 400
    units = [chr(0x100000 + k) for k in range(n)]
    rows = replay.Rows(units, ["a"] * n, ["train"] * n, [f"g{min(k, 4)}" for k in range(n)], list(range(n)), [0] * n, [""] * n)
    picked = rows.take(replay.choose(rows))
    assert len(picked) == replay.LIMITS["train"]
    assert set(picked.groups) == {f"g{k}" for k in range(5)}
    order = list(range(n))
    chooser.shuffle(order)
    mixed = rows.take(order)
    assert sorted(mixed.take(replay.choose(mixed)).units) == sorted(picked.units)
    twice = rows + rows
    assert sorted(twice.take(replay.choose(twice)).units) == sorted(picked.units)


def test_new_rows_are_bounded_as_kept_ones_are() -> None:
    n = 600
    labels = ["a", "b"] * (n // 2)
    parts = ["train"] * 300 + ["val"] * 200 + ["test"] * 100
    rows = replay.Rows(["u"] * n, labels, parts, ["g"] * n, list(range(n)), [0] * n, [""] * n)
    left = replay.fewer(rows)
    counts = Counter(zip(left.labels, left.parts, strict=True))
    assert (counts["a", "train"], counts["b", "val"], counts["b", "test"]) == (100, 50, 50)


def test_an_update_takes_a_share_of_the_full_trainings_steps(made: dict[str, Any]) -> None:
    live = made["registry"].show("EAC", "v0001")
    assert live.manifest["full_steps"] == OPTIONS.max_steps
    assert made["registry"].show("EAC", "v0002").manifest["full_steps"] == OPTIONS.max_steps
    free = update.short(TuneOptions(), live)
    assert (free.max_steps, free.looks) == (update.LEAST_STEPS, 0)
    live.manifest["full_steps"] = 1000
    assert update.short(TuneOptions(), live).max_steps == 1000 * update.SHARE
    assert update.short(TuneOptions(max_steps=7), live).max_steps == 7
    assert update.short(TuneOptions(max_seconds=9), live).max_steps is None


def test_the_gate_asks_the_live_version_only_what_it_has_not_answered_yet(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = replay.read(made["registry"].show("EAC", "v0001"))
    tested = [k for k, part in enumerate(kept.parts) if part != "train"]
    assert all((kept.answers[k] != "") == (k in tested) for k in range(len(kept)))
    asked: list[int] = []

    def score_rows(_: Any, __: Any, rows: list[int]) -> Any:
        asked.extend(rows)
        return made_of.scores(["QUIC"] * len(rows))

    monkeypatch.setattr(update.scoring, "score_rows", score_rows)
    said = update._past(None, None, kept, [*tested, len(kept), len(kept) + 1])
    assert asked == [len(kept), len(kept) + 1]
    assert said == {k: kept.answers[k] for k in tested} | {len(kept): "QUIC", len(kept) + 1: "QUIC"}


def test_export_verify_and_gc(made: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(made["place"] / "registry", tmp_path / "r")
    app = Workspace(base=str(made["place"] / "base"), registry=str(tmp_path / "r"))
    assert upkeep.verify(app).as_dict() == {"registry": str(tmp_path / "r"), "versions": 2, "tasks": ["EAC"]}
    body = upkeep.export(app, "EAC", tmp_path / "out")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(body.files)
    assert not any(name.endswith(".parquet") for name in body.files)
    with pytest.raises(UsageError, match="exists"):
        upkeep.export(app, "EAC", tmp_path / "out")
    whole = upkeep.export(app, "EAC", tmp_path / "whole", version="v0001", merged=True)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(whole.files)
    data = made["old"]
    records = data.records(data.indices("test")[:8])
    merged = TaskModel.of(Engine(made["base"]), TASK, made["registry"].show("EAC", "v0001")).scorer
    apart = Engine(load_base(tmp_path / "whole", dtype="float32"))
    scored = apart.score_ids(merged.ids(records), merged.labels).logits
    assert abs(scored - merged.score(records).logits).max() < 1e-3
    assert upkeep.gc(app, keep=0).removed == ["EAC/v0001"]
    (tmp_path / "r" / "EAC" / "v0002" / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="has changed"):
        upkeep.verify(app)
