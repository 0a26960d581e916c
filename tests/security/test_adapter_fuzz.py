"""The guard against 100,000 mutated adapters (a few hundred here): each is refused by an error of ours, or loads and does no harm."""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from adapter_mutations import CONFIG, READOUT, VALUES, WEIGHTS, Files, mutated
from model_samples import LABELS, prompt_of, records, save_model, save_tokenizer, traffic_tokens

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import parse_json
from trafficllm.model.adapter.guard import check_adapter
from trafficllm.model.adapter.lora import load_adapter
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.job import TuneData, TuneOptions, tune_task

SECONDS = 1.0
OPENED: list[str] = []
_ACTIVE = [False]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _ACTIVE[0] and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        OPENED.append(str(arguments[0]))
    elif _ACTIVE[0] and event in {"os.rename", "os.remove", "os.mkdir", "subprocess.Popen", "os.system", "socket.connect"}:
        OPENED.append(event)


@pytest.fixture(scope="module", name="tuned")
def _tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Files]:
    place = tmp_path_factory.mktemp("fuzz")
    save_tokenizer("gpt2", place / "plain")
    save_model(place / "plain")
    make_traffic_base(place / "plain", traffic_tokens(), place / "traffic")
    base = load_base(place / "traffic", dtype="float32")
    rows, labels = records()
    data = TuneData([prompt_of(row) for row in rows[:30]], list(labels[:30]), LABELS)
    tune_task(base, data, place / "a", TuneOptions(max_steps=1, r=4, looks=0))
    return base, {name: (place / "a" / name).read_bytes() for name in (CONFIG, WEIGHTS, READOUT)}


@pytest.fixture(name="watched")
def _watched() -> Iterator[None]:
    sys.addaudithook(_watch)
    yield
    _ACTIVE[0] = False


def judge(base: Base, folder: Path, files: Files) -> bool:
    """Write a folder and open it as a service would; whether it was accepted. Anything but a refusal of ours is raised."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    OPENED.clear()
    begun = time.process_time()
    _ACTIVE[0] = True
    try:
        check_adapter(folder, base)
        accepted = True
    except ArtifactError:
        accepted = False
    finally:
        _ACTIVE[0] = False
    if accepted:
        tuned = load_adapter(copy.deepcopy(base.model), folder)
        with torch.no_grad():
            assert torch.isfinite(tuned(input_ids=torch.tensor([[1, 2, 3]])).logits).all()
    assert time.process_time() - begun < SECONDS, files[CONFIG][:2000]
    assert OPENED == []
    return accepted


def fuzz(base: Base, sound: Files, folder: Path, count: int, seed: int) -> tuple[int, int]:
    """(refused, accepted) of `count` mutated folders."""
    rng, accepted = random.Random(seed), 0
    folder.mkdir()
    for _ in range(count):
        accepted += judge(base, folder, mutated(sound, rng))
    assert {path.name for path in folder.iterdir()} == set(sound)
    return count - accepted, accepted


def test_mutated_adapters_are_refused_or_harmless(tuned: tuple[Base, Files], tmp_path: Path, watched: None) -> None:
    base, sound = tuned
    refused, accepted = fuzz(base, sound, tmp_path / "x", 400, 1)
    assert refused > 250
    assert accepted > 5  # the mutations are no mere noise: some keep the folder sound


@pytest.mark.soak
def test_a_hundred_thousand_mutated_adapters(tuned: tuple[Base, Files], tmp_path: Path, watched: None) -> None:
    base, sound = tuned
    begun = time.monotonic()
    refused, accepted = fuzz(base, sound, tmp_path / "x", 100_000, 2)
    print(f"{refused} refused, {accepted} accepted and harmless, 0 other, {time.monotonic() - begun:.0f} s")


REFUSED: tuple[tuple[str, Any], ...] = (
    ("target_modules", "(a+)+$"), ("target_modules", ".*"), ("target_modules", "all-linear"), ("target_modules", ["(a+)+$"]),
    ("target_modules", ["lm_head"]), ("target_modules", ["embed_tokens"]), ("target_modules", ["no_such"]), ("target_modules", []),
    ("target_modules", [""]), ("target_modules", ["model.layers.0"]), ("exclude_modules", "(a+)+$"), ("exclude_modules", ["x"]),
    ("layer_replication", [[0, 2], [0, 2]]), ("init_lora_weights", "pissa"), ("init_lora_weights", "pissa_niter_4"),
    ("init_lora_weights", "olora"), ("init_lora_weights", "loftq"), ("init_lora_weights", "eva"), ("init_lora_weights", "corda"),
    ("loftq_config", {"loftq_bits": 4}), ("megatron_core", "os"), ("megatron_config", {"a": 1}), ("r", 4096), ("r", 0), ("r", True),
    ("r", 4.0), ("r", "4"), ("lora_alpha", 0), ("lora_alpha", -1), ("lora_alpha", 10**9), ("lora_alpha", True), ("lora_alpha", None),
    ("lora_dropout", 1), ("lora_dropout", -0.1), ("rank_pattern", ["q_proj"]), ("rank_pattern", {"(a+)+": 4}),
    ("rank_pattern", {"q_proj": 4096}), ("alpha_pattern", {"q_proj": 1e30}), ("alpha_pattern", 3), ("bias", "all"), ("lora_bias", True),
    ("use_qalora", True), ("layers_to_transform", [0]), ("layers_pattern", "(a+)+"), ("target_parameters", ["x"]), ("eva_config", {"a": 1}),
    ("corda_config", {"a": 1}), ("arrow_config", {"a": 1}), ("trainable_token_indices", [1]), ("modules_to_save", ["lm_head"]),
    ("auto_mapping", {"base_model_class": "x", "parent_library": "os"}), ("runtime_config", {"ephemeral_gpu_offload": True}),
    ("task_type", "SEQ_CLS"), ("peft_type", "PREFIX_TUNING"), ("peft_type", ["LORA"]), ("peft_type", {}), ("no_such_key", 1),
    ("base_model_name_or_path", ["x"]), ("base_model_name_or_path", "\x1b[2J"), ("use_dora", "yes"), ("fan_in_fan_out", 3),
)  # fmt: skip


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_what_an_adapter_need_not_ask_for_is_refused(tuned: tuple[Base, Files], tmp_path: Path, key: str, value: Any) -> None:
    import json

    base, sound = tuned
    body = parse_json(sound[CONFIG], CONFIG)
    files = {**sound, CONFIG: json.dumps({**body, key: value}).encode()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="adapter is refused"):
        check_adapter(tmp_path, base)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 20_000])
def test_numbers_that_are_none_are_refused(tuned: tuple[Base, Files], tmp_path: Path, text: str) -> None:
    base, sound = tuned
    config = sound[CONFIG].decode().rstrip().removesuffix("}") + f', "lora_alpha": {text}}}'
    for name, data in {**sound, CONFIG: config.encode()}.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="is not JSON"):
        check_adapter(tmp_path, base)


def _header(text: str, body: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + body


_A = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HEADERS = (
    b"",
    b"\xff" * 8,
    _header("[]"),
    _header("3"),
    _header("null"),
    _header("{}"),
    _header("[" * 5000),
    _header('{"a": 3}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":[1]}}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":[1],"data_offsets":["0",4]}}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":1,"data_offsets":[0,4]}}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', b"\0" * 4),
    _header('{"a": {"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"\0" * 4),
    _header('{"a": {"dtype":"F32","shape":[9007199254740993,9007199254740993],"data_offsets":[0,4]}}', b"\0" * 4),
    _header('{"a": ' + _A + ', "a": ' + _A + "}", b"\0" * 4),
    _header('{"a": ' + _A + ', "b": ' + _A + "}", b"\0" * 4),
    _header('{"a": ' + _A + ', "b": {"dtype":"F32","shape":[1],"data_offsets":[8,12]}}', b"\0" * 12),
    _header('{"a": ' + _A + "}", b"\0" * 8),
    _header('{"a": ' + _A + ', "__metadata__": []}', b"\0" * 4),
    _header('{"a": ' + _A + ', "__metadata__": {"x": 3}}', b"\0" * 4),
)


@pytest.mark.parametrize("data", HEADERS)
@pytest.mark.parametrize("name", [WEIGHTS, READOUT])
def test_malformed_headers_are_refused(tuned: tuple[Base, Files], tmp_path: Path, name: str, data: bytes) -> None:
    base, sound = tuned
    for file, content in {**sound, name: data}.items():
        (tmp_path / file).write_bytes(content)
    for model in (base, None):
        with pytest.raises(ArtifactError, match="adapter is refused"):
            check_adapter(tmp_path, model)


def test_links_out_of_the_folder_are_refused(tuned: tuple[Base, Files], tmp_path: Path) -> None:
    base, sound = tuned
    (tmp_path / "a").mkdir()
    for name in (CONFIG, WEIGHTS, READOUT):
        for file, content in sound.items():
            (tmp_path / "a" / file).unlink(missing_ok=True)
            (tmp_path / "a" / file).write_bytes(content)
        (tmp_path / "outside").write_bytes(sound[name])
        (tmp_path / "a" / name).unlink()
        (tmp_path / "a" / name).symlink_to(tmp_path / "outside")
        with pytest.raises(ArtifactError, match="link that leads out"):
            check_adapter(tmp_path / "a", base)


def test_a_shared_base_is_the_same_after_adapters_come_and_go(tuned: tuple[Base, Files], tmp_path: Path) -> None:
    from trafficllm.infer.engine.engine import Engine

    base, sound = tuned
    for name, data in sound.items():
        (tmp_path / name).write_bytes(data)
    ids = torch.tensor([[1, 5, 9, 3]])
    with torch.no_grad():
        before = base.model(input_ids=ids).logits.clone()
    for merge in (True, False):
        engine = Engine(base, merge=merge)
        with engine.using("") as bare:
            own = bare(input_ids=ids).logits.clone()
        for turn in range(3):
            engine.add_adapter(f"t{turn}", tmp_path)
            with engine.using(f"t{turn}") as model:
                model(input_ids=ids)
        for turn in range(3):
            engine.remove_adapter(f"t{turn}")
        with engine.using("") as bare:
            assert torch.equal(bare(input_ids=ids).logits, own)
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, before)


def test_the_mutations_try_every_kind_of_value() -> None:
    assert len(VALUES) > 60
