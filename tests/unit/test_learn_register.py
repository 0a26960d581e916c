"""Registering a task, the whole way on bundled captures with a tiny base: what is trained, scored, kept, and read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import infer_samples as samples
import numpy as np
import pytest

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.settings import Config, FlowOptions, TuneOptions
from trafficllm.evaluate.quality import validate
from trafficllm.infer.detector import Detector, TaskModel
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import WEIGHT
from trafficllm.lifecycle.adapters import learn
from trafficllm.lifecycle.adapters import register as registering
from trafficllm.lifecycle.adapters.training import Training
from trafficllm.lifecycle.analyze import verdicts
from trafficllm.lifecycle.studies import run, scoring
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.base.load import Base, load_base
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import view
from trafficllm.records.codec.codec import decode, encode
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load
from trafficllm.records.record_shape import RecordShape
from trafficllm.registry.store import Registry

TASK = get_task("EAC")
LABELS = ("DNS", "HTTP", "NetBIOS", "QUIC")
OPTIONS = TuneOptions(max_steps=4, batch_tokens=1024, looks=1, seed=3)


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory, captures: Path) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("learn")
    for label in LABELS:
        shutil.copytree(captures / "EAC" / label, place / "captures" / label)
    build_dataset(place / "captures", task=TASK, out=place / "data", options=BuildOptions(cap=15))
    base = load_base(samples.write_base(place / "base"), dtype="float32")
    registry = Registry(place / "registry")
    out = place / "tune"
    body = learn.register(place / "data", Training(base, registry, out, OPTIONS, search_s=0), task=TASK).as_dict()
    return {"place": place, "base": base, "registry": registry, "body": body, "data": load(place / "data")}


def test_the_answer_is_the_contract(made: dict[str, Any]) -> None:
    body = made["body"]
    keys = "task version parent status quality baselines gate calibration unknown seconds peak_bytes replayed"
    assert set(keys.split()) <= set(body)
    assert (body["task"], body["version"], body["status"], body["parent"]) == ("EAC", "v0001", "live", None)
    validate(body)
    names = {"majority", "identifier_probe", "artefact_probe", "knn", "lightgbm", "random_forest"}
    assert set(body["baselines"]) == names
    assert {row["n_test"] for row in body["baselines"].values()} == {body["quality"]["n_test"]}
    assert set(body["unknown"]) == {"method", "auroc", "tpr_at_fpr05"}
    json.dumps(body, allow_nan=False)


def test_the_manifest_says_what_it_was_made_from(made: dict[str, Any]) -> None:
    version = made["registry"].live("EAC")
    manifest = version.manifest
    assert manifest["labels"] == list(scoring.labels_of(made["data"]))
    assert manifest["data_sha256"] == made["data"].sha256
    for key in ("base", "codec_hash", "profile", "split", "seed", "prompt_hash", "versions", "calibration", "quality"):
        assert manifest[key] not in (None, "", {}), key
    assert made["registry"].verify() == {}
    assert str(made["place"]) not in (version.path / "manifest.json").read_text()
    kept = [path.relative_to(version.path).as_posix() for path in version.path.rglob("*.parquet")]
    assert kept == [f"sample/{manifest['sample']['sha256']}.parquet"]


def test_serving_gives_the_scores_of_the_evaluation(made: dict[str, Any]) -> None:
    """Raw flows through the registered version, masks and all, equal masked records through the data set."""
    engine = Engine(made["base"])
    model = TaskModel.of(engine, TASK, made["registry"].live("EAC"))
    data: Dataset = made["data"]
    test = data.indices("test")[:20]
    verdicts = Detector([model]).judge(list(zip(data.raw_records(test), data.meta(test), strict=True)), "EAC")
    scores = model.scorer.score(data.records(test))
    served = np.array([list(v.probabilities.values()) for v in verdicts])
    assert np.abs(served - scores.probabilities).max() < 1e-5
    assert {v.label for v in verdicts} <= {*data.labels, "unknown"}


def test_tuning_and_serving_read_the_same_model(made: dict[str, Any]) -> None:
    """Validation accuracy as the tuner saw it (the trie alone), from another implementation of the same definition."""
    data: Dataset = made["data"]
    model = TaskModel.of(Engine(made["base"]), TASK, made["registry"].live("EAC"))
    model.scorer.calibration |= {WEIGHT: 0.0}
    val, y = scoring.rows(data, "val", scoring.labels_of(data))
    best = model.scorer.score(data.records(val)).logits.argmax(axis=1)
    right = float(np.mean([model.scorer.labels[k] == label for k, label in zip(best, y, strict=True)]))
    assert made["body"]["tuning"]["validation"]["val_accuracy"] == pytest.approx(right)


def test_a_capture_streams_through(made: dict[str, Any], captures: Path) -> None:
    engine = Engine(made["base"])
    detector = Detector([TaskModel.of(engine, TASK, made["registry"].live("EAC"))], evidence=2)
    path = sorted((captures / "EAC" / "NetBIOS").glob("*.pcap"))[0]
    rows = [verdict.row() for verdict in detector.stream(read_flows([path]), ["EAC"])]
    assert rows
    for row in rows:
        assert abs(sum(row["probabilities"].values()) - 1) < 1e-6
        assert all(item["frame"] >= 1 for item in row["evidence"])
        json.dumps(row, allow_nan=False)


def test_serving_follows_the_adapters_own_records(made: dict[str, Any], tmp_path: Path) -> None:
    """A data set of short records gives an adapter that is served with short records, whatever the configuration leaves open."""
    manifest = made["registry"].live("EAC").manifest
    assert manifest["record"] == made["data"].manifest["record"] == RecordShape().as_dict()
    changed = {**manifest, "record": RecordShape(capture=FlowOptions(max_packets=3)).as_dict()}
    registry = Registry(tmp_path / "r")
    registry.register("EAC", made["registry"].live("EAC").path, changed, status="live")
    where = {"base": str(made["place"] / "base"), "registry": str(tmp_path / "r")}
    free = Workspace(**where, config=Config.model_validate({"capture": {"table_size": 4096}}))
    options = verdicts.flow_options(free, ["EAC"])
    assert (options.max_packets, options.table_size) == (3, 4096)
    bound = Workspace(**where, config=Config.model_validate({"capture": {"max_packets": 8}}))
    for ask in (
        lambda: verdicts.start(bound, [made["place"] / "captures"], task="EAC"),
        lambda: run.find_adapter(bound, made["data"], None),
        lambda: run.find_adapter(free, made["data"], None),
        lambda: registering.update(bound, made["place"] / "captures", "EAC"),
        lambda: registering.register(bound, made["place"] / "data", "EAC"),
    ):
        with pytest.raises(UsageError, match=r"max_packets is \d+, not \d+") as caught:
            ask()
        assert caught.value.hint


def test_a_profile_that_is_not_the_data_sets_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    workspace = Workspace(base=str(made["place"] / "base"), registry=str(tmp_path / "r"))
    with pytest.raises(UsageError, match=r'profile is "strict", not "raw"'):
        registering.register(workspace, made["place"] / "data", "EAC", profile="raw")


def test_the_same_call_reuses_what_is_trained_and_adds_a_version(made: dict[str, Any]) -> None:
    training = Training(made["base"], made["registry"], made["place"] / "tune", OPTIONS, baselines=False)
    again = learn.register(made["data"], training, task=TASK, status="candidate")
    assert again.tuning.reused
    assert (again.version, again.parent, again.status) == ("v0002", "v0001", "candidate")
    assert again.quality is not None
    assert again.quality.as_dict() == made["body"]["quality"]


def test_training_never_reads_the_test_part(made: dict[str, Any]) -> None:
    data: Dataset = made["data"]
    seen = learn.tune_data(data)
    units = {segment.value for prompt in (*seen.prompts, *seen.val_prompts) for segment in prompt}
    held = set(data.units(data.indices("test"))) - set(data.units(data.indices("train") + data.indices("val")))
    assert held
    assert not held & units


def test_copies_of_a_request_are_learnt_once_and_flows_always(made: dict[str, Any], tmp_path: Path) -> None:
    data: Dataset = made["data"]
    assert len(learn.tune_data(data).prompts) == len(scoring.rows(data, "train", scoring.labels_of(data))[0])
    for label, path in (("Normal", "index"), ("Anomalous", "%27or1")):
        raw = "".join(f"GET /{path}?id={n % 40} HTTP/1.1\nHost: h.example\n\n###END\n" for n in range(120))
        (tmp_path / "web").mkdir(exist_ok=True)
        (tmp_path / "web" / f"{label}_raw_http.txt").write_text(raw)
    build_dataset(tmp_path / "web", task=get_task("WAD"), out=tmp_path / "ds")
    web = load(tmp_path / "ds")
    rows, y = scoring.rows(web, "train", scoring.labels_of(web))
    found = learn.tune_data(web)
    contents = set(zip(web.hashes(rows), y, strict=True))
    assert len(found.prompts) == len(found.answers) == len(found.records) == len(contents) < len(rows)


def test_a_generation_task_learns_to_write_records(made: dict[str, Any]) -> None:
    data: Dataset = made["data"]
    found = learn.tune_data(data, task=get_task("EAG"))
    assert found.labels == ()
    rows = scoring.rows(data, "train", scoring.labels_of(data))[0]
    raw = data.raw_records(rows)
    assert list(found.answers) == [encode(view.shown(record), data.codec) for record in raw]
    # Headers are shown, identifiers are not: the originator's port is its class only.
    ports = {ports[0] for answer in found.answers if (ports := decode(answer).ports) is not None}
    assert ports
    assert ports <= set(view.STAND_INS.values())


def test_one_label_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    data: Dataset = made["data"]
    thin = Dataset(data.path, {**data.manifest, "trainable": ["DNS"]}, data.table)
    base: Base = made["base"]
    with pytest.raises(InputError, match="labels have training records"):
        learn.register(thin, Training(base, made["registry"], tmp_path / "tune"), task=TASK)
