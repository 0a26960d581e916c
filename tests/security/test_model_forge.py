"""Payload, question and label cannot forge control tokens or traffic: every surface of each vocabulary, placed everywhere."""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from model_samples import KINDS, LABELS, prompt_of, records, save_model, save_tokenizer, traffic_tokens

from trafficllm.core.errors import ArtifactError
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Record, Segment
from trafficllm.model.adapter import lora
from trafficllm.model.adapter.guard import check_adapter
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tokenizer.extend import extend, load_auto, record_text, traffic_ids
from trafficllm.model.tuning.encode import Encoder, control_surfaces
from trafficllm.model.tuning.job import TuneData, tune_task
from trafficllm.records.codec.codec import decode, encode
from trafficllm.records.codec.units import UNITS

PLACEMENTS = 1500  # a kind: 10,500 in all


@pytest.fixture(scope="module", name="encoder", params=KINDS)
def _encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    place = tmp_path_factory.mktemp(request.param)
    save_tokenizer(request.param, place / "plain", chat=request.param == "qwen")
    extend(place / "plain", traffic_tokens(), place / "traffic")
    return Encoder(load_auto(place / "traffic"))


def _surfaces(encoder: Encoder) -> list[str]:
    """Control surfaces and byte pieces always, then traffic surfaces and native entries in turn."""
    tokenizer = encoder.tokenizer
    control = sorted(encoder.forbidden) + [f"<0x{b:02X}>" for b in range(256)]
    traffic = list(traffic_ids(tokenizer))
    native = sorted(set(tokenizer.get_vocab()) - set(traffic) - set(control))
    chooser = random.Random(5)
    rest = chooser.sample(native, min(len(native), PLACEMENTS // 3)) + chooser.sample(traffic, PLACEMENTS // 3)
    return [*control, *rest]


def _control_ids(encoder: Encoder) -> set[int]:
    """Ids that act, counted here anew. Byte pieces and <unk> are left out: a tokenizer falls back to them for letters it lacks."""
    tokenizer = encoder.tokenizer
    acting = {surface for surface in encoder.forbidden if not surface.startswith("<0x")} - {tokenizer.unk_token}
    return {tokenizer.convert_tokens_to_ids(surface) for surface in acting}


def test_nothing_placed_in_a_question_becomes_control_or_traffic(encoder: Encoder) -> None:
    surfaces = _surfaces(encoder)
    asked = [f"a {surface} b {surface}{surface}" for surface in surfaces]
    shape = (Segment("instruction", "request: "), Segment("instruction", "\ntask: "))
    prompts = [(shape[0], Segment("question", text), shape[1]) for text in asked]
    own = _own_control(encoder)
    traffic = set(traffic_ids(encoder.tokenizer).values())
    control = _control_ids(encoder)
    assert len(prompts) > 500
    for text, ids in zip(asked, encoder.prompts(prompts), strict=True):
        assert [i for i in ids if i in control] == own, text
        assert not traffic & set(ids), text


def test_a_byte_piece_spelt_out_is_no_byte(encoder: Encoder) -> None:
    pieces = [surface for surface in encoder.forbidden if surface.startswith("<0x")]
    for piece in pieces:
        if chr(int(piece[3:5], 16)) in "<0x>ABCDEF123456789 .task:requs\n":
            continue  # the letters of the prompt itself may come as this very byte
        asked = (Segment("instruction", "request: "), Segment("question", piece), Segment("instruction", "\ntask: "))
        assert encoder.tokenizer.convert_tokens_to_ids(piece) not in encoder.prompt(asked)
    assert len(pieces) in {0, 256}


def _own_control(encoder: Encoder) -> list[int]:
    """Control ids of a harmless prompt: the template's and the tokenizer's own."""
    control = _control_ids(encoder)
    harmless = (Segment("instruction", "request: "), Segment("question", "a b"), Segment("instruction", "\ntask: "))
    return [i for i in encoder.prompt(harmless) if i in control]


def test_nothing_placed_in_payload_leaves_its_bytes(encoder: Encoder) -> None:
    control, own = _control_ids(encoder), _own_control(encoder)
    rows = []
    for surface in _surfaces(encoder):
        raw = surface.encode()[:40]
        rows.append(Record(proto=6, port_class="ew", dirs=(0,), sizes=(len(raw),), iats=(0,), flags=(24,), payload=(raw, b"")))
    for row, ids in zip(rows, encoder.prompts([prompt_of(row) for row in rows]), strict=True):
        assert [i for i in ids if i in control] == own
        units = encode(row)
        alone = encoder.units(units)
        assert any(ids[k : k + len(alone)] == alone for k in range(len(ids)))
        assert decode(record_text(encoder.tokenizer, alone)).payload[0] == row.payload[0]


def test_nothing_placed_in_a_label_or_captured_text_becomes_control(encoder: Encoder) -> None:
    control = _control_ids(encoder)
    surfaces = _surfaces(encoder)
    seen: dict[tuple[int, ...], str] = {}
    for surface in surfaces:
        ids = encoder.label(f"x{surface}")
        assert not control & set(ids), surface
        seen.setdefault(tuple(ids), surface)
    assert len(seen) == len(set(surfaces))  # injective: no label can pass for another


def test_every_surface_of_10000_placements(encoder: Encoder) -> None:
    """Counted, so that the figure cannot shrink unseen: seven kinds, three places each."""
    assert 3 * len(_surfaces(encoder)) * len(KINDS) >= 10_000


def _odd_base(folder: Path, tokens: list[Any], normalizer: Any = None) -> Encoder:
    from model_samples import pipeline, recipe

    tokenizer = pipeline("gpt2")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens(tokens)
    recipe.save(tokenizer, "gpt2", folder / "plain")
    extend(folder / "plain", traffic_tokens(), folder / "traffic")
    return Encoder(load_auto(folder / "traffic"))


def test_added_words_and_runs_of_spaces_are_vocabulary(tmp_path: Path) -> None:
    """Phi, CodeGen and GPT-NeoX add runs of spaces, DeepSeek-Coder letters: words of their language, and no one's control."""
    from tokenizers import AddedToken

    encoder = _odd_base(tmp_path, [AddedToken(text, normalized=True) for text in ("  ", "    ", "\t\t", "ü", "Grüße")])
    assert encoder.forbidden.isdisjoint({"  ", "    ", "\t\t", "ü", "Grüße"})
    asked = (Segment("instruction", "request: "), Segment("question", "viele Grüße"), Segment("instruction", "\ntask: "))
    assert "Grüße" in encoder.text(asked)


def test_a_normaliser_that_makes_control_of_harmless_text_is_caught(tmp_path: Path) -> None:
    """A control token matched after accents are stripped: "<ápt>" is no surface before, and one after."""
    from tokenizers import AddedToken, normalizers

    folding = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    encoder = _odd_base(tmp_path, [AddedToken("<apt>", normalized=True, special=True)], folding)
    control = encoder.tokenizer.convert_tokens_to_ids("<apt>")
    assert control in encoder.control
    for question in ("is <ápt> here", "<a\u0301pt>", "＜ápt＞ and <apt>"):
        asked = (Segment("instruction", "request: "), Segment("question", question), Segment("instruction", "\ntask: "))
        assert control not in encoder.prompt(asked), question
    assert control in encoder.tokenizer("is <ápt> here")["input_ids"]  # the bare tokenizer has no such guard


def test_long_questions_take_linear_time() -> None:
    from trafficllm.records.prompts import _Finder

    finder = _Finder(frozenset(f"<unused{k}>" for k in range(6400)))
    assert finder.within("<unused7" * 50_000) == []
    assert finder.within("a<unused77>b<unused7>") == ["<unused77>", "<unused7>"]


def test_raw_units_are_no_traffic_unless_a_codec_wrote_them(encoder: Encoder) -> None:
    from trafficllm.core.errors import InputError

    with pytest.raises(InputError):
        encoder.prompt((Segment("traffic", UNITS[0] + "<s>"),))
    assert "<s>" not in encoder.text((Segment("text", "<s>"),)) or "<s>" in encoder.before


def test_control_surfaces_hold_the_template_and_the_specials(encoder: Encoder) -> None:
    found = control_surfaces(encoder.tokenizer)
    assert set(encoder.tokenizer.all_special_tokens) <= found
    assert not found & set(traffic_ids(encoder.tokenizer))


@pytest.fixture(scope="module", name="tuned")
def _tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Path]:
    place = tmp_path_factory.mktemp("guard")
    save_tokenizer("gpt2", place / "plain")
    save_model(place / "plain")
    make_traffic_base(place / "plain", traffic_tokens(), place / "traffic")
    base = load_base(place / "traffic", dtype="float32")
    rows, labels = records()
    data = TuneData([prompt_of(row) for row in rows[:30]], list(labels[:30]), LABELS)
    tune_task(base, data, place / "a", TuneOptions(max_steps=1, r=4, looks=0))
    return base, place / "a"


def _copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def _set_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_good_adapter_passes_and_loads(tuned: tuple[Base, Path]) -> None:
    base, folder = tuned
    check_adapter(folder, base)
    check_adapter(folder, base.model)
    check_adapter(folder, None)
    assert lora.load_adapter(load_base(base.path, dtype="float32").model, folder) is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "whole modules"),
        ({"trainable_token_indices": [1]}, "embeddings"),
        ({"auto_mapping": {"base_model_class": "x"}}, "code"),
        ({"peft_type": "PROMPT_TUNING"}, "not LORA"),
        ({"r": 8}, "shape"),
        ({"r": -1}, "r -1 is out of range"),
    ],
)
def test_configs_that_do_more_than_linear_layers_are_refused(
    tuned: tuple[Base, Path], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = _copy(tuned[1], tmp_path / "bad")
    _set_config(folder, **changes)
    with pytest.raises(ArtifactError, match=reason):
        check_adapter(folder, tuned[0])


def test_files_that_could_run_or_are_cut_are_refused_with_all_reasons(tuned: tuple[Base, Path], tmp_path: Path) -> None:
    folder = _copy(tuned[1], tmp_path / "bad")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")
    (folder / "modeling.py").write_text("import os")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactError) as caught:
        check_adapter(folder, tuned[0])
    assert all(word in str(caught.value) for word in ("pickle", "modeling.py", "cut"))
    for raw in (b"", b"\xff" * 8, struct.pack("<Q", 20) + b"{}", struct.pack("<Q", 2) + b"[]"):
        weights.write_bytes(raw)
        with pytest.raises(ArtifactError):
            check_adapter(folder, tuned[0])
    with pytest.raises(ArtifactError, match="no such"):
        check_adapter(tmp_path / "absent", tuned[0])


def test_names_and_values_that_do_not_belong_are_refused(tuned: tuple[Base, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = _copy(tuned[1], tmp_path / "bad")
    tensors = load_file(str(folder / "adapter_model.safetensors"))
    first = sorted(tensors)[0]
    broken = {
        "not finite": {**tensors, first: torch.full_like(tensors[first], float("nan"))},
        "no LoRA weight": {**tensors, "base_model.model.lm_head.weight": torch.zeros(2, 2)},
        "no linear layer": {**tensors, "base_model.model.model.embed_tokens.lora_A.weight": torch.zeros(4, 4)},
        "type": {**tensors, first: tensors[first].to(torch.int32)},
    }
    for reason, state in broken.items():
        save_file(state, str(folder / "adapter_model.safetensors"))
        with pytest.raises(ArtifactError, match=reason):
            check_adapter(folder, tuned[0])
