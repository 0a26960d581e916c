"""The generator writes only records of the grammar, the same ones for the same seed."""

from __future__ import annotations

import infer_samples as samples
import numpy as np
import pytest
import torch

from trafficllm.core.errors import ArtifactError, UsageError
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.generator.generator import Generator, _draw
from trafficllm.infer.generator.token_mask import TokenMask
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import codec, units
from trafficllm.records.codec.grammar import Grammar

TASK = get_task("MTG")


@pytest.fixture(scope="module", name="engine")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    place = tmp_path_factory.mktemp("generator")
    samples.write_base(place / "base")
    samples.write_adapter(place / "base", place / "adapter", seed=1)
    engine = Engine(load_base(place / "base", dtype="float32"))
    engine.add_adapter("MTG", place / "adapter")
    return engine


def test_even_a_random_model_writes_records(engine: Engine) -> None:
    generator = Generator(engine, "MTG")
    found = list(generator.records(TASK, "Neris", 40, seed=3))
    assert len(found) == 40
    assert all(codec.decode(codec.encode(record)) == record for record in found)
    assert all(record.dirs and record.proto in (1, 6, 17, 58) for record in found)
    assert 0 < sum(generator.prevented.values()) < generator.sampled
    assert len({codec.encode(record) for record in found}) > 30


def test_the_seed_decides_and_the_number_asked_does_not(engine: Engine) -> None:
    generator = Generator(engine, "MTG")
    many = list(generator.records(TASK, "Neris", 33, seed=5))
    assert list(generator.records(TASK, "Neris", 4, seed=6)) != many[:4]
    assert list(generator.records(TASK, "Zeus", 4, seed=5)) != many[:4]
    few = list(generator.records(TASK, "Neris", 4, seed=5))
    assert few == many[:4] == list(generator.records(TASK, "Neris", 4, seed=5))


def test_temperature_zero_is_the_likeliest_record(engine: Engine) -> None:
    generator = Generator(engine, "MTG")
    first, second = generator.records(TASK, "Neris", 2, seed=1, temperature=0)
    assert first == second
    with pytest.raises(UsageError):
        next(generator.records(TASK, "Neris", 1, temperature=-1))


def test_plans_carry_their_label(engine: Engine) -> None:
    plans = list(Generator(engine, "MTG").plans(TASK, "Neris", 3, seed=1))
    assert [plan.label for plan in plans] == ["Neris"] * 3
    assert all(plan.actions for plan in plans)


def test_the_mask_is_the_grammar_token_by_token() -> None:
    vocabulary = samples.tokenizer().get_vocab()
    mask = TokenMask(vocabulary, Grammar())
    known = set(units.UNITS)
    tokens = {i: text for text, i in vocabulary.items() if known.issuperset(text)}
    for record in samples.records(4):
        state = mask.start()
        for char in codec.encode(record):
            allowed = set(mask.allowed(state).tolist())
            assert allowed == {i for i in tokens if mask.step(state, i) is not None}
            token = vocabulary[char]
            assert token in allowed
            after = mask.step(state, token)
            assert after is not None
            state = after
        assert mask.grammar.accepts(state)


def test_tokens_of_words_never_continue_a_record() -> None:
    vocabulary = samples.tokenizer().get_vocab()
    mask = TokenMask(vocabulary, Grammar())
    assert mask.step(mask.start(), vocabulary["a"]) is None
    assert mask.step(mask.start(), len(vocabulary) + 5) is None


def test_a_vocabulary_without_units_is_refused() -> None:
    with pytest.raises(ArtifactError, match="units"):
        TokenMask({"a": 0, units.UNITS[0]: 1}, Grammar())


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    u = np.linspace(0, 1, 1000, endpoint=False) + 0.0005
    found = _draw(logits.repeat(1000, 1), u, 1.0)
    assert np.bincount(found).tolist() == [200, 500, 300]
    assert _draw(logits, np.array([0.99]), 0).tolist() == [1]
