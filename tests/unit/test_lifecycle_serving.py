"""`adapter export --for vllm`: what it writes is what a client and a server score with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from completions_server import serving
from typer.testing import CliRunner

from trafficllm.capture.flows.assembly import read_flows
from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.core.metrics import indices
from trafficllm.core.types import Scores, Silent
from trafficllm.evaluate.calibrate import temperature_near
from trafficllm.infer import calibration as cal
from trafficllm.infer.detector import Detector, TaskModel
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import WEIGHT, LLMScorer
from trafficllm.infer.remote import client as remote
from trafficllm.infer.remote.served import served_task
from trafficllm.lifecycle.serving.export import export_for_vllm, without_states
from trafficllm.lifecycle.studies import scoring
from trafficllm.lifecycle.workspace import SHIPPED, Workspace
from trafficllm.records.codec.flows import records_of
from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load
from trafficllm.surface.cli import adapter as commands


@pytest.fixture(name="workspace")
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("TRAFFICLLM_SHIPPED", str(SHIPPED))
    return Workspace(registry=str(tmp_path / "registry"))


def test_verdicts_by_a_server_are_those_of_the_trie(
    workspace: Workspace, captures: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exported folders themselves are what the server holds; a capture goes through client and detector, also as the guide has it."""
    answer = export_for_vllm(workspace, "MTD", tmp_path / "out")
    assert answer.files == sorted(
        [f"{name}/{file}" for name in ("MTD", "MTD.2", "MTD.3") for file in ("adapter_config.json", "adapter_model.safetensors")]
        + ["serving.json"]
    )
    served = Engine(workspace.served)
    for name in ("MTD", "MTD.2", "MTD.3"):
        served.add_adapter(name, tmp_path / "out" / name)
        weights = (tmp_path / "out" / name / "adapter_model.safetensors").read_bytes()
        assert any(path.read_bytes() == weights for path in (SHIPPED / "MTD").rglob("adapter_model.safetensors"))
    capture = min((captures / "MTD").rglob("*.pcap"), key=lambda path: path.stat().st_size)
    (batch,) = read_flows([capture])
    rows = records_of(batch)[:6]
    live = workspace.load("MTD")
    with serving(served) as server, remote.Completions(remote.Server(server.url)) as client:
        model = served_task(tmp_path / "out", client, workspace.served)
        verdicts = Detector([model]).judge(rows, "MTD")
        assert {body["model"] for body in server.bodies} == {"MTD", "MTD.2", "MTD.3"}
        (tmp_path / "vllm").mkdir()
        shutil.copytree(tmp_path / "out", tmp_path / "vllm" / "MTD")
        shutil.copyfile(capture, tmp_path / "new.pcap")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("VLLM", server.url.removesuffix("/v1"))
        (script,) = re.findall(r"```python\n(.*?)```", (repo / "docs" / "guides" / "vllm.md").read_text(), flags=re.DOTALL)
        exec(compile(script, "guide", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(batch)
    assert printed[0].startswith(f"{batch.community_id[0]} {verdicts[0].label} ")
    here = LLMScorer(workspace.engine, "MTD", model.scorer.task, live.manifest["labels"], {WEIGHT: 0.0}, codec=model.scorer.codec)
    own = live.manifest["calibration"]
    assert model.calibration == {"temperature": own["temperature"], "unknown": own["unknown"]["bare"]}
    want = cal.apply(model.calibration, here.score([model.masked(record) for record, _ in rows]).logits)
    told = np.array([list(verdict.probabilities.values()) for verdict in verdicts])
    assert np.abs(told - want).max() < 1e-4
    assert [verdict.version for verdict in verdicts] == [live.version] * len(rows)


def test_answers_alone_are_calibrated_on_captures_of_a_data_set(workspace: Workspace, captures: Path, tmp_path: Path) -> None:
    """`--data`: near the version's own temperature, by validation rows scored without the readout."""
    for label in ("Cridex", "Htbot", "Virut"):
        (tmp_path / "captures" / label).mkdir(parents=True)
        for path in (captures / "MTD" / label).glob("*.pcap"):
            (tmp_path / "captures" / label / path.name).symlink_to(path)
    data, task = tmp_path / "data", workspace.task("MTD")
    options = BuildOptions(cap=12, split="flow", workers=1)
    build_dataset(tmp_path / "captures", task=task, out=data, options=options, progress=Silent())
    built = load(data)
    export_for_vllm(workspace, "MTD", tmp_path / "out", data=data)
    body = json.loads((tmp_path / "out" / "serving.json").read_text())["calibration"]
    scorer, own = TaskModel.of(workspace.engine, task, live := workspace.registry.live("MTD")).scorer, live.manifest["calibration"]
    rows, y = scoring.rows(built, "val", scorer.labels)
    assert body["n"] == len(rows) > 10
    trie = LLMScorer(workspace.engine, scorer.adapter, task, scorer.labels, {WEIGHT: 0.0}, codec=built.codec)
    logits = scoring.score_rows(trie, built, rows).logits
    assert body["temperature"] == pytest.approx(temperature_near(own["temperature"], logits, indices(scorer.labels, y), built.groups(rows)))
    assert body["unknown"]["method"] in {"max_probability", "energy"}
    flagged = cal.unknown_score(body, Scores(scorer.labels, cal.apply(body, logits), logits)) > cal.threshold(body)
    assert flagged.mean() <= 0.15
    assert 0 < body["set_90"] < 1


def test_a_calibration_with_states_serves_without_them() -> None:
    bare = {"method": "energy", "threshold": 1.0, "params": {"temperature": 2.0}}
    assert without_states({"unknown": {"method": "nearest_energy", "threshold": 3.0, "bare": bare}}) == {
        "temperature": 1.0,
        "unknown": bare,
    }
    assert without_states({"temperature": 2, "unknown": bare, "set_90": 0.2}) == {"temperature": 2.0, "unknown": bare}
    assert without_states({"unknown": {"method": "knn", "threshold": 3.0}}) == {"temperature": 1.0}


def test_what_vllm_cannot_serve_is_refused(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    shutil.copytree(SHIPPED / "AAD", shipped / "AAD")
    path = shipped / "AAD" / "v0001" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    monkeypatch.setenv("TRAFFICLLM_SHIPPED", str(shipped))
    changed = Workspace(registry=str(tmp_path / "registry"))
    with pytest.raises(ArtifactError, match="use_dora"):
        export_for_vllm(changed, "AAD", tmp_path / "out", version="v0001")
    with pytest.raises(ArtifactError, match="no verdicts"):
        export_for_vllm(workspace, "MTG", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists"):
        export_for_vllm(workspace, "MTD", tmp_path / "there")
    assert not (tmp_path / "out").exists()


def test_a_changed_export_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    export_for_vllm(workspace, "MTD", tmp_path / "out")
    path = tmp_path / "out" / "serving.json"
    with remote.Completions(remote.Server("http://127.0.0.1:9/v1")) as client:
        for change in ({"labels": ["a", "b"]}, {"base_sha256": "0" * 64}):
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
            with pytest.raises(ArtifactError):
                served_task(tmp_path / "out", client, workspace.served)


@pytest.mark.parametrize("words", [["--for", "tgi"], ["--for", "vllm", "--merged"], ["--data", "x"]])
def test_options_that_do_not_go_together(words: list[str], tmp_path: Path) -> None:
    answer = CliRunner().invoke(commands.app, ["export", "MTD", "-o", str(tmp_path / "out"), *words])
    assert isinstance(answer.exception, UsageError)
