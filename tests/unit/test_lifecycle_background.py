"""Background on its way into an adapter: which folders, what is left out or refused, and what the manifest says of it."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import infer_samples as samples
import numpy as np
import pytest
from capture_samples import ethernet, ipv4, pcap, udp
from records_samples import malware

from trafficllm.core.errors import ArtifactError, InputError, UsageError
from trafficllm.core.settings import Config, TuneOptions
from trafficllm.core.types import Silent
from trafficllm.core.umbrella import Umbrella
from trafficllm.infer.detector import Detector, TaskModel
from trafficllm.infer.engine.engine import Engine
from trafficllm.lifecycle.adapters import learn, update, upkeep
from trafficllm.lifecycle.adapters.background import NOTHING, Beside, chosen, read_for
from trafficllm.lifecycle.adapters.register import register
from trafficllm.lifecycle.adapters.training import Training
from trafficllm.lifecycle.workspace import Workspace
from trafficllm.model.adapter.readout import BACKGROUND, OTHERS, UMBRELLA
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task
from trafficllm.records.coverage import Coverage
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load
from trafficllm.records.sources.background import packaged, read_background
from trafficllm.registry.store import Registry

TASK = get_task("MTD")
OPTIONS = TuneOptions(max_steps=4, batch_tokens=1024, looks=1, seed=3)


def _queries(place: Path, count: int = 9, port: int = 53, size: int = 20) -> Path:
    """A folder of one capture of name service, or of datagrams to another port."""
    place.mkdir(parents=True)
    frames = [(1e9 + k, ethernet(ipv4(17, udp(40000 + k, port, bytes(size + k))))) for k in range(count)]
    (place / "dns.pcap").write_bytes(pcap(frames))
    return place


def test_folders_are_the_commands_or_the_configurations_beside_the_packages(tmp_path: Path) -> None:
    home, lab = _queries(tmp_path / "home"), _queries(tmp_path / "lab")
    config = Config.model_validate({"learn": {"background": [str(lab)]}})
    bare = Config.model_validate({"learn": {"packaged": False}})
    assert chosen(TASK, Config(), None) == Beside([], packaged=True, others="malware")
    assert chosen(TASK, config, None) == Beside([lab], packaged=True, others="malware")
    assert chosen(TASK, config, [home, lab]) == Beside([home, lab], packaged=True, others="malware")
    assert chosen(get_task("TBD"), Config(), None) == Beside([], packaged=True), "the package has no other Tor captures"
    assert chosen(TASK, config, [home], packaged=False) == Beside([home], packaged=False)
    assert not chosen(TASK, Config(), None, packaged=False)
    assert not chosen(TASK, bare, None)
    assert chosen(get_task("EAC"), Config(), None) == Beside([], packaged=False), "its labels may be what the packaged captures hold"
    assert chosen(get_task("EAC"), config, None) == Beside([lab], packaged=False)
    assert chosen(get_task("EAG"), config, None) == NOTHING
    with pytest.raises(UsageError, match="gives no verdicts"):
        chosen(get_task("EAG"), Config(), [home])


def test_another_background_is_another_working_folder(tmp_path: Path) -> None:
    names = [Beside(folders, packaged).name for folders in ([], [tmp_path], [tmp_path / "x"]) for packaged in (False, True)]
    names += [Beside([], True, [tmp_path]).name, Beside([], True, others="malware").name]
    assert len(set(names)) == len(names)


def test_own_folders_and_the_packages_are_learnt_side_by_side(made: dict[str, Any], tmp_path: Path) -> None:
    """A capture that both hold counts once, as the user's own."""
    whole = read_background([packaged()])
    copied = next(file for file in whole.files if file.flows > 1)
    home = _queries(tmp_path / "home")
    shutil.copy(packaged().parent / copied.name, home / Path(copied.name).name)
    both = read_for(made["data"], (), Beside([home], packaged=True), progress=Silent())
    assert both is not None
    assert Counter(both.sources)["home"] == 9 + copied.flows
    assert sorted(file.sha256 for file in both.files if file.source != "home") == sorted(
        file.sha256 for file in whole.files if file.sha256 != copied.sha256
    )
    assert len(both) == len(whole) + 9
    assert {meta.capture for meta in both.meta} == {file.name for file in both.files}


def test_positives_stand_beside_the_background_and_never_in_it(made: dict[str, Any], tmp_path: Path) -> None:
    home, bad = _queries(tmp_path / "home"), _queries(tmp_path / "bad", port=4444)
    both = read_for(made["data"], (), Beside([home], positives=[bad]), progress=Silent())
    assert both is not None
    assert both.positive is not None
    assert (set(both.sources), set(both.positive.sources), len(both.positive)) == ({"home"}, {"bad"}, 9)
    assert both.as_dict()["positive"] == both.positive.as_dict()
    assert "positive" not in both.positive.as_dict()
    assert both.where(lambda file: False).positive is both.positive
    own = read_for(made["data"], (), chosen(TASK, Config(), None), progress=Silent())
    assert own is not None
    assert own.positive is not None
    assert "corelight/zeek-agenttesla-detector" in own.positive.sources
    with pytest.raises(InputError, match="given for both sides"):
        read_for(made["data"], (), Beside([home], positives=[_queries(tmp_path / "again")]), progress=Silent())
    for task, options in ((get_task("EAC"), {}), (TASK, {"packaged": False})):
        with pytest.raises(UsageError, match="learns no positives"):
            chosen(task, Config(), None, positives=[bad], **options)  # type: ignore[arg-type]


def test_folders_that_hold_nothing_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    workspace = Workspace(registry=str(tmp_path / "r"))
    for name, code in (("empty", "input.background"), ("missing", "input.missing")):
        with pytest.raises(InputError) as error:
            register(workspace, tmp_path / "captures that are never read", "MTD", background=[tmp_path / name])
        assert error.value.code == code
        assert error.value.input == str(tmp_path / name)


@pytest.fixture(scope="module", name="made")
def _made(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("background")
    root = malware(captures, place, ("Zeus", "Gmail", "Virut"))
    build_dataset(root, task=TASK, out=place / "data", options=BuildOptions(cap=15))
    return {"place": place, "data": load(place / "data"), "base": load_base(samples.write_base(place / "base"), dtype="float32")}


def test_none_is_no_background(made: dict[str, Any]) -> None:
    assert read_for(made["data"], (), NOTHING, progress=Silent()) is None


def test_captures_of_ones_own_that_are_labelled_too_are_refused(made: dict[str, Any], captures: Path, tmp_path: Path) -> None:
    (tmp_path / "bg").mkdir()
    shutil.copy(captures / "MTD" / "Zeus" / "Zeus_00.pcap", tmp_path / "bg" / "x.pcap")
    with pytest.raises(InputError, match=r"bg/x.pcap is Zeus/Zeus_00.pcap"):
        read_for(made["data"], (), Beside([tmp_path / "bg"]), progress=Silent())
    home = _queries(tmp_path / "home")
    with pytest.raises(InputError, match=r"home/dns.pcap is "):
        read_for(made["data"], [home / "dns.pcap"], Beside([home]), progress=Silent())


def test_packaged_captures_that_the_data_label_are_left_out(captures: Path, tmp_path: Path, made: dict[str, Any]) -> None:
    """The bundled application captures are cut from the same origins as some of the packaged background."""
    for label in ("TLS", "QUIC", "NetBIOS"):
        shutil.copytree(captures / "EAC" / label, tmp_path / "captures" / label)
    build_dataset(tmp_path / "captures", task=get_task("EAC"), out=tmp_path / "data")
    whole = read_background([packaged()])
    part = read_for(load(tmp_path / "data"), (), Beside(packaged=True), progress=Silent())
    assert part is not None
    missing = {file.name for file in whole.files} - {file.name for file in part.files}
    assert "background/ndpi/netbios.pcap.gz" in missing
    assert {file.source for file in whole.files if file.name in missing} == {"ntop/nDPI"}
    assert len(part) < len(whole)
    other = read_for(made["data"], (), Beside(packaged=True), progress=Silent())
    assert other is not None
    assert other.as_dict() == whole.as_dict()


def test_the_manifest_says_what_was_learnt_beside_the_labels(made: dict[str, Any], tmp_path: Path) -> None:
    data: Dataset = made["data"]
    registry = Registry(tmp_path / "registry")
    background = read_for(data, (), Beside([_queries(tmp_path / "home")]), progress=Silent())
    assert background is not None
    training = Training(made["base"], registry, tmp_path / "w1", OPTIONS, baselines=False)
    learn.register(data, training, task=TASK, background=background)
    manifest = registry.live("MTD").manifest
    assert manifest["background"] == {**background.as_dict(), "sources": {"home": 9}, "captures": 1, "flows": 9}
    coverage = Coverage.of_manifest(manifest)
    assert coverage == Coverage.of_data(data, background)
    assert coverage.learnt is not None
    assert coverage.learnt["dns"].negatives == 9
    assert str(tmp_path) not in (registry.live("MTD").path / "manifest.json").read_text()
    learn.register(data, Training(made["base"], registry, tmp_path / "w1", OPTIONS, baselines=False), task=TASK)
    alone = registry.live("MTD").manifest
    assert alone["background"] is None
    assert alone["umbrella"] is None
    assert "umbrella" not in alone["calibration"]
    assert not (registry.live("MTD").path / UMBRELLA).exists(), "that of the same working folder is gone"
    assert Coverage.of_manifest(alone) == Coverage.of_data(data)


def test_the_first_step_is_fitted_kept_and_served(made: dict[str, Any], tmp_path: Path) -> None:
    """From the background of two sources: an umbrella readout beside the adapter, its operating points, and answers by it."""
    data: Dataset = made["data"]
    folders = [_queries(tmp_path / "home", port=4321), _queries(tmp_path / "lab", 14, port=4321)]
    background = read_for(data, (), Beside(folders), progress=Silent())
    registry = Registry(tmp_path / "registry")
    training = Training(made["base"], registry, tmp_path / "w1", OPTIONS, baselines=False, false_positives=0.1)
    body = learn.register(data, training, task=TASK, background=background).as_dict()
    told = body["umbrella"]
    assert (told["positive"], told["negative"], told["left_out"]["asked"]) == ("malicious", "benign", 0.1)
    assert told["left_out"]["flow"]["sources"] == 2
    assert told["left_out"]["flow"]["rate"] <= told["left_out"]["flow"]["wanted"] <= 0.1
    assert told["n_positive"] + told["n_negative"] == body["quality"]["n_test"]
    assert "umbrella" not in body["calibration"]
    live = registry.live("MTD")
    stated = live.manifest["calibration"]["umbrella"]
    assert stated["classes"] == [*live.manifest["labels"], BACKGROUND]
    assert stated["members"] == [TASK.is_positive(label) is True for label in live.manifest["labels"]] + [False]
    assert live.manifest["umbrella"] == told
    assert (live.path / UMBRELLA).is_file()
    assert UMBRELLA in live.manifest["files"]

    model = TaskModel.of(Engine(made["base"]), TASK, live)
    test = data.indices("test")[:20]
    served = Detector([model]).judge(list(zip(data.raw_records(test), data.meta(test), strict=True)), "MTD")
    step = Umbrella.of(model.calibration)
    assert step is not None
    odds = step.odds(model.scorer.score(data.records(test)).umbrella)
    words = {True: "malicious", False: "benign", None: "unknown"}
    covered = [k for k, verdict in enumerate(served) if verdict.umbrella != "not covered"]
    assert covered
    assert [served[k].umbrella for k in covered] == [words[step.flow(float(odds[k]))] for k in covered]
    assert np.abs(np.array([served[k].odds for k in covered]) - odds[covered]).max() < 1e-4

    app = Workspace(base=str(made["place"] / "base"), registry=str(tmp_path / "registry"))
    assert UMBRELLA in upkeep.export(app, "MTD", tmp_path / "out").files
    assert UMBRELLA in upkeep.export(app, "MTD", tmp_path / "whole", merged=True).files
    apart = Engine(load_base(tmp_path / "whole", dtype="float32"))
    merged = apart.score_ids(model.scorer.ids(data.records(test)), model.scorer.labels).umbrella
    assert merged is not None
    assert np.abs(step.odds(merged) - odds).max() < 1e-2
    for change in ({"classes": stated["classes"][1:]}, {"members": [True]}, {"members": [False] * len(stated["classes"])}, {"flow": 3}):
        bad = {**live.manifest, "calibration": {**live.manifest["calibration"], "umbrella": {**stated, **change}}}
        with pytest.raises(ArtifactError, match="its first step does not fit"):
            TaskModel.of(Engine(made["base"]), TASK, replace(live, manifest=bad))
    content = bytearray((live.path / UMBRELLA).read_bytes())
    content[-1] ^= 1
    (live.path / UMBRELLA).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"umbrella\.safetensors has changed"):
        registry.live("MTD")


def test_the_first_step_of_several_members_is_that_of_their_mean(made: dict[str, Any], tmp_path: Path) -> None:
    data: Dataset = made["data"]
    folders = [_queries(tmp_path / "home", port=4321), _queries(tmp_path / "lab", 14, port=4321)]
    background = read_for(data, (), Beside(folders, positives=[_queries(tmp_path / "bad", 12, port=4444, size=900)]), progress=Silent())
    assert background is not None
    registry = Registry(tmp_path / "registry")
    training = Training(made["base"], registry, tmp_path / "w1", OPTIONS, baselines=False, members=2)
    learn.register(data, training, task=TASK, background=background)
    live, records = registry.live("MTD"), data.records(data.indices("test")[:20])
    assert {UMBRELLA, f"members/2/{UMBRELLA}"} <= set(live.manifest["files"])
    model = TaskModel.of(Engine(made["base"]), TASK, live)
    together = model.scorer.score(records).umbrella
    step = Umbrella.of(model.calibration)
    assert step is not None
    assert (step.classes[-2:], step.members[-2:]) == ((BACKGROUND, OTHERS), (False, True))
    assert background.positive is not None
    bad = step.odds(model.scorer.score([data.mask(record) for record in background.positive.raw]).umbrella)
    harmless = step.odds(model.scorer.score([data.mask(record) for record in background.raw]).umbrella)
    assert bad.min() > harmless.max(), "two sizes of datagrams apart"
    shutil.copytree(live.path / "members" / "2", tmp_path / "second")
    shutil.copytree(live.path, tmp_path / "first", ignore=shutil.ignore_patterns("members"))
    alone = []
    for name in ("first", "second"):
        engine = Engine(made["base"])
        engine.add_adapter("a", tmp_path / name)
        alone.append(engine.score_ids(model.scorer.ids(records), model.scorer.labels, adapter="a").umbrella)
    assert together is not None
    assert np.allclose(together, np.mean(alone, axis=0), atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_an_update_adds_what_it_learns_to_the_coverage(made: dict[str, Any], captures: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    learn.register(made["data"], Training(made["base"], registry, tmp_path / "w1", OPTIONS, baselines=False), task=TASK)
    before = Coverage.of_manifest(registry.live("MTD").manifest)
    new = malware(captures, tmp_path, ("Cridex", "FTP"))
    home = _queries(tmp_path / "home")
    training = Training(made["base"], registry, tmp_path / "w2", OPTIONS, baselines=False)
    answer = update.update(new, training, task=TASK, background=Beside([home]))
    manifest = registry.show("MTD", answer.version).manifest
    assert manifest["background"]["sources"] == {"home": 9}
    after = Coverage.of_manifest(manifest)
    assert before.learnt is not None
    assert after.learnt is not None
    assert after.learnt["tcp"].negatives > before.learnt["tcp"].negatives
    assert after.learnt["tcp"].positives > before.learnt["tcp"].positives
    assert after.learnt["dns"].negatives == before.learnt["dns"].negatives + 9
    assert not before.covers_kind("dns")
    assert after.covers_kind("dns")
    (tmp_path / "twice").mkdir()
    shutil.copy(new / "Cridex" / "Cridex_00.pcap", tmp_path / "twice" / "again.pcap")
    with pytest.raises(InputError, match=r"twice/again.pcap is "):
        update.update(new, training, task=TASK, background=Beside([tmp_path / "twice"]))


def test_python_passes_folders_on(made: dict[str, Any], tmp_path: Path) -> None:
    import trafficllm as tl

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no captures in this background"):
        tl.register(tmp_path, task="MTD", registry=tmp_path / "r", background=[tmp_path / "empty"])
    assert not (tmp_path / "r").exists()
