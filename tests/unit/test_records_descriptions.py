"""Descriptions of units: whole, weighted, ordered where a unit is a number; rows of a base that begin from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_samples import save_model, save_tokenizer, traffic_tokens

from trafficllm.model.base.extend import _descriptions, make_traffic_base
from trafficllm.model.base.load import load_base
from trafficllm.records.codec.descriptions import described
from trafficllm.records.codec.units import IAT_UNITS, SIZE_HIGH, SIZE_LOW, TTL_UNITS, UNIT_NAMES, UNITS, WINDOW_UNITS, byte_unit, unit


def test_every_unit_has_a_description_of_weight_one_and_no_two_are_alike() -> None:
    texts = {char: described(char) for char in UNITS}
    assert [UNIT_NAMES[char] for char, text in texts.items() if abs(sum(weight for _, weight in text) - 1) > 1e-9] == []
    assert len(set(texts.values())) == len(UNITS) == 656


def test_bytes_are_told_by_hexadecimal_and_name() -> None:
    words = {value: [phrase for phrase, _ in described(byte_unit(value))] for value in (0x2F, 0x41, 0x0A)}
    assert words == {0x2F: ["byte", "0x2f", "/ slash"], 0x41: ["byte", "0x41", "letter A"], 0x0A: ["byte", "0x0a", "newline"]}


@pytest.mark.parametrize("units", [SIZE_HIGH, SIZE_LOW, IAT_UNITS, WINDOW_UNITS, TTL_UNITS])
def test_buckets_move_from_anchor_to_anchor_in_order(units: tuple[str, ...]) -> None:
    """The upper of a unit's anchors never goes back, and between two anchors its weight only grows."""
    order: list[str] = []
    last: dict[str, float] = {}
    for char in units:
        anchors = described(char)[1:-1]
        for phrase, _ in anchors:
            if phrase not in order:
                order.append(phrase)
        upper, weight = anchors[-1]
        assert order.index(upper) >= len(order) - 2
        if len(anchors) == 2:
            assert weight > last.get(upper, 0.0)
            last[upper] = weight
    assert len(order) > 3


def test_flags_are_words() -> None:
    assert described(unit("flags:SA"))[1][0] == "synchronise acknowledge"


def test_rows_are_the_weighted_mean_of_native_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trafficllm.model.base import extend

    monkeypatch.setattr(extend, "NOISE", 0.0)
    save_tokenizer("gpt2", tmp_path / "plain")
    table = save_model(tmp_path / "plain", "LlamaConfig").get_input_embeddings().weight.detach().float()
    report = make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "out", init="description")
    rows = load_base(tmp_path / "out", dtype="float32").model.get_input_embeddings().weight
    first = report.tokenizer.base_vocab
    pieces = _descriptions(traffic_tokens(), tmp_path / "plain", first)
    for place in (0, 300, len(pieces) - 1):
        ids, weights = pieces[place]
        wanted = sum(weight * table[index] for index, weight in zip(ids, weights, strict=True)) / sum(weights)
        assert torch.allclose(rows[first + place], wanted, atol=1e-2)
    merged = next(place for place, token in enumerate(traffic_tokens()) if len(token) == 3)
    single = [pieces[traffic_tokens().index(char)] for char in traffic_tokens()[merged]]
    assert set(pieces[merged][0]) == {index for ids, _ in single for index in ids}
