"""A checkpoint from a stranger: names that leave its folder, files that are not what they were, malformed contents."""

from __future__ import annotations

import json
import random
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from model_samples import save_model, save_tokenizer, traffic_tokens

from trafficllm.core.errors import ArtifactError, TrafficLLMError
from trafficllm.core.files import read_json, write_json
from trafficllm.core.sealed import sealed
from trafficllm.model.base import extend as extending
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.folder import INDEX, MANIFEST, check_folder, checked_manifest, weight_files
from trafficllm.model.base.load import load_base
from trafficllm.model.tokenizer.extend import load_auto


@pytest.fixture(scope="module", name="places")
def _places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bases")
    save_tokenizer("gpt2", place / "plain")
    save_model(place / "plain")
    make_traffic_base(place / "plain", traffic_tokens(), place / "traffic")
    return place


@pytest.fixture(name="plain")
def _plain(places: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(places / "plain", tmp_path / "in" / "plain"))


@pytest.fixture(name="traffic")
def _traffic(places: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(places / "traffic", tmp_path / "in" / "traffic"))


NAMES = (
    "../escaped.safetensors",
    "../../escaped.safetensors",
    "/tmp/absolute.safetensors",
    "sub/../../x.safetensors",
    "a/b.safetensors",
    "..",
    "",
    ".",
    "a\\..\\b.safetensors",
    "C:x.safetensors",
    "x\0.safetensors",
    "config.json",
    "x" * 300 + ".safetensors",
    "pytorch_model.bin",
    3,
    None,
    ["model.safetensors"],
    {"a": "b"},
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("held", [True, False])
def test_names_of_an_index_never_leave_the_folder(plain: Path, tmp_path: Path, name: Any, held: bool) -> None:
    """Whether the tensors there would be rewritten (`held`) or taken over: nothing outside is read, written or linked."""
    place = plain / str(name) if isinstance(name, str) and "\0" not in name and len(name) < 255 else None
    if place is not None and not place.is_dir() and place.resolve().is_relative_to(tmp_path) and place.resolve().parent.is_dir():
        save_file({"embed.weight" if held else "other.weight": torch.zeros(4, 2)}, str(place.resolve()))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != INDEX}
    (plain / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"x": name}}))
    out = tmp_path / "out" / "deep" / "new"
    with pytest.raises(ArtifactError):
        make_traffic_base(plain, traffic_tokens(), out)
    for use in (load_base, weight_files):
        with pytest.raises(ArtifactError):
            use(plain)
    out.mkdir(parents=True)
    with pytest.raises(ArtifactError):
        extending._write_weights(plain, out, ["embed.weight"], extending._Plan(4, 8, [[0], [1]], "mean"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != INDEX} == before


def test_a_link_out_is_no_file_of_the_folder(plain: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.safetensors"
    shutil.copyfile(plain / "model.safetensors", outside)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        kept = (plain / name).read_bytes() if (plain / name).exists() else b"{}"
        (tmp_path / f"outside-{name}").write_bytes(kept)
        (plain / name).unlink(missing_ok=True)
        (plain / name).symlink_to(tmp_path / f"outside-{name}")
        for use in (load_base, lambda folder: make_traffic_base(folder, traffic_tokens(), tmp_path / "out")):
            with pytest.raises(ArtifactError, match="link that leads out"):
                use(plain)
        (plain / name).unlink()
        (plain / name).write_bytes(kept)


def test_an_existing_file_is_never_written_into(plain: Path, tmp_path: Path) -> None:
    """Two spellings of one file, or a shard that is there already: each is written once."""
    write_json(plain / INDEX, {"metadata": {}, "weight_map": {"x": "model.safetensors"}})
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="there already"):
        extending._write_weights(plain, out, ["embed.weight"], extending._Plan(4, 8, [[0], [1]], "mean"))
    assert (out / "model.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("key", ["vocab_file", "tokenizer_file", "merges_file", "spm_file"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../other/tokenizer.json", "a/b", 3])
def test_files_that_a_tokenizer_configuration_names_lie_beside_it(plain: Path, key: str, name: Any) -> None:
    config = read_json(plain / "tokenizer_config.json")
    write_json(plain / "tokenizer_config.json", {**config, key: name})
    with pytest.raises(ArtifactError, match="no plain file name"):
        load_auto(plain)
    write_json(plain / "tokenizer_config.json", {**config, key: None})
    load_auto(plain)


def test_an_adapter_in_the_folder_does_not_name_another_base(plain: Path, tmp_path: Path) -> None:
    write_json(plain / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "other"), "peft_type": "LORA"})
    with pytest.raises(ArtifactError, match="is an adapter"):
        load_base(plain)


def flips(traffic: Path, count: int) -> int:
    """Single-bit flips over a base's weights, configuration, tokenizer and manifest, each refused by name; returns how many were."""
    rng, refused = random.Random(5), 0
    names = sorted(name for name in {*checked_manifest(traffic)["files"], MANIFEST} if (traffic / name).stat().st_size)
    assert {"model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"} <= set(names)
    for _ in range(count):
        path = traffic / rng.choice(names)
        good = bytearray(path.read_bytes())
        bad = bytearray(good)
        bit = rng.randrange(8 * len(bad))
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(TrafficLLMError) as caught:
            checked_manifest(traffic)
        refused += path.name in str(caught.value)
        path.write_bytes(good)
    return refused


def test_every_flipped_bit_of_a_base_is_refused_by_name(traffic: Path) -> None:
    assert flips(traffic, 120) == 120
    load_base(traffic)


@pytest.mark.soak
def test_a_thousand_flipped_bits_of_a_base(traffic: Path) -> None:
    assert flips(traffic, 1000) == 1000


def test_loading_compares_and_names_file_expected_and_found(traffic: Path) -> None:
    expected = checked_manifest(traffic)["files"]["tokenizer.json"]
    text = (traffic / "tokenizer.json").read_text()
    (traffic / "tokenizer.json").write_text(text.replace('"version"', ' "version"', 1))
    with pytest.raises(ArtifactError, match=rf"tokenizer\.json: expected {expected}, found [0-9a-f]{{64}}"):
        load_base(traffic)
    (traffic / "tokenizer.json").write_text(text)
    (traffic / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ArtifactError, match=r"chat_template\.jinja was added"):
        load_base(traffic)


def test_manifests_of_format_1_are_compared_by_their_two_hashes(traffic: Path) -> None:
    body = {key: value for key, value in read_json(traffic / MANIFEST).items() if key not in {"files", "own_sha256"}}
    write_json(traffic / MANIFEST, {**body, "format": 1})
    load_base(traffic)
    write_json(traffic / MANIFEST, {**body, "format": 1, "base_sha256": "0" * 64})
    with pytest.raises(ArtifactError, match=r"config\.json and weights: expected 0{64}"):
        load_base(traffic)
    write_json(traffic / MANIFEST, {**body, "format": 1, "tokenizer_sha256": "0" * 64})
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: expected 0{64}"):
        load_base(traffic)


@pytest.mark.parametrize("written", [3, 99, 0, -1, "2", None, True, 2.0])
def test_a_newer_or_senseless_format_is_refused(traffic: Path, written: Any) -> None:
    (traffic / MANIFEST).write_text(sealed({**read_json(traffic / MANIFEST), "format": written}))
    with pytest.raises(ArtifactError, match="this version reads up to 2"):
        load_base(traffic)


def test_a_base_without_a_manifest_is_known_by_its_files(plain: Path) -> None:
    first = load_base(plain).manifest
    assert {len(first[key]) for key in ("base_sha256", "tokenizer_sha256")} == {64}
    data = bytearray((plain / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (plain / "model.safetensors").write_bytes(data)
    assert load_base(plain).manifest["base_sha256"] != first["base_sha256"]


CONFIGS: tuple[Any, ...] = (
    {},
    [],
    3,
    {"model_type": "llama"},
    {"model_type": 3},
    {"model_type": "gpt2", "n_layer": "x"},
    {"model_type": "gpt2", "n_layer": 10**9},
    {"model_type": "llama", "vocab_size": 10**15, "hidden_size": 10**9},
    {"model_type": "llama", "intermediate_size": 1 << 24},
    {"model_type": "no such"},
    {"model_type": "bert"},
)
INDICES: tuple[Any, ...] = ([], {}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": "model.safetensors"}, "metadata": 3})
TEXTS = {
    "weights empty": ("model.safetensors", b""),
    "weights random": ("model.safetensors", random.Random(0).randbytes(5000)),
    "weights with a cut header": ("model.safetensors", struct.pack("<Q", 20) + b'{"a": {"dtype": "F3'),
    "weights with a huge header": ("model.safetensors", b"\xff" * 8 + b"{}"),
    "tokenizer nested": ("tokenizer.json", b"[" * 100_000),
    "tokenizer empty": ("tokenizer.json", b"{}"),
    "tokenizer configuration a list": ("tokenizer_config.json", b"[]"),
    "tokenizer configuration infinite": ("tokenizer_config.json", b'{"a": Infinity}'),
    "configuration nested": ("config.json", b'{"a":' * 50_000),
    **{f"configuration {place}": ("config.json", json.dumps(body).encode()) for place, body in enumerate(CONFIGS)},
    **{f"index {place}": (INDEX, json.dumps(body).encode()) for place, body in enumerate(INDICES)},
}


@pytest.mark.parametrize("damage", TEXTS)
def test_malformed_folders_end_in_refusals_of_ours(plain: Path, tmp_path: Path, damage: str) -> None:
    name, data = TEXTS[damage]
    (plain / name).write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        load_base(plain)
    assert caught.value.hint
    with pytest.raises(ArtifactError):
        make_traffic_base(plain, traffic_tokens(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_would_be_random_are_refused(plain: Path) -> None:
    tensors = load_file(str(plain / "model.safetensors"))
    gone = next(name for name in sorted(tensors) if "q_proj" in name or "c_attn" in name)
    save_file({name: value for name, value in tensors.items() if name != gone}, str(plain / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="missing or of another shape"):
        load_base(plain)


def test_the_check_reads_no_weights(plain: Path) -> None:
    (plain / "model.safetensors").write_bytes(b"")
    check_folder(plain)
