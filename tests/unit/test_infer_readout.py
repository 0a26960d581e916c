"""The readout: its fit against scikit-learn's, its share in an engine's answers, and files that are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import infer_samples as samples
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from trafficllm.core.errors import ArtifactError
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.pooling import Pooled
from trafficllm.infer.engine.scorer import WEIGHT, LLMScorer
from trafficllm.model.adapter import readout
from trafficllm.model.adapter.readout import Readout
from trafficllm.model.base.load import load_base
from trafficllm.records import prompts
from trafficllm.records.catalog import get_task

LABELS = ("Neris", "Zeus", "Zeus-2")
TASK = get_task("MTD")
LAYERS = (0, 1, 2)


def _readout(first: int, *, weight: float = 0.8) -> Readout:
    generator = torch.Generator().manual_seed(3)
    return Readout(LABELS, LAYERS, first, weight, torch.randn(2 * 3 * 32, 3, generator=generator) / 10, torch.zeros(3))


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("readout")
    samples.write_base(place / "base")
    samples.write_adapter(place / "base", place / "plain", seed=1)
    shutil.copytree(place / "plain", place / "read")
    engine = Engine(load_base(place / "base", dtype="float32"))
    _readout(LLMScorer(engine, "", TASK, LABELS).prefix_length).save(place / "read")
    return place


@pytest.fixture(scope="module", name="engine")
def _engine(place: Path) -> Engine:
    engine = Engine(load_base(place / "base", dtype="float32"))
    engine.add_adapter("plain", place / "plain")
    engine.add_adapter("read", place / "read")
    return engine


def test_the_fit_is_scikit_learns() -> None:
    """The same problem by another solver, on columns of very different widths."""
    random = np.random.default_rng(0)
    y = random.integers(0, 4, 300)
    raw = (random.normal(size=(300, 12)) + y[:, None] * random.normal(size=12)) * np.logspace(-2, 2, 12) + 7
    weights = np.array([1.0, 2.0, 0.5, 1.5])
    matrix, bias = readout.logistic(torch.tensor(raw, dtype=torch.float32), torch.tensor(y), torch.tensor(weights, dtype=torch.float32))
    found = torch.softmax(torch.tensor(raw, dtype=torch.float32) @ matrix + bias, 1).numpy()
    standard = (raw - raw.mean(0)) / raw.std(0)
    theirs = LogisticRegression(C=readout.STRENGTH, max_iter=1000, tol=1e-8).fit(standard, y, sample_weight=weights[y])
    assert np.abs(found - theirs.predict_proba(standard)).max() < 0.01


def test_rows_have_weights_of_their_own() -> None:
    """A row of weight three counts like three equal rows, and weights of one change nothing."""
    random = np.random.default_rng(1)
    y = torch.tensor(random.integers(0, 2, 60))
    x = torch.tensor(random.normal(size=(60, 3)) + y[:, None].numpy(), dtype=torch.float32)
    x = torch.cat([x, -x])  # weights then leave the mean of a column as it is
    y, even = torch.cat([y, 1 - y]), torch.ones(2)
    often = torch.ones(120)
    often[:20] = often[60:80] = 3.0
    plain, weighted = readout.logistic(x, y, even), readout.logistic(x, y, even, rows=torch.ones(120))
    assert torch.allclose(plain[0], weighted[0], atol=1e-4)
    times = torch.repeat_interleave(torch.arange(120), often.long())
    spread = x.std(0, correction=0) / x[times].std(0, correction=0)
    repeated = readout.logistic(x[times] * spread, y[times], even)
    matrix, _ = readout.logistic(x, y, even, rows=often)
    assert torch.allclose(matrix, repeated[0] * spread[:, None], atol=0.02)
    assert not torch.allclose(matrix, plain[0], atol=0.02)


def test_verdicts_mix_trie_and_readout(engine: Engine, place: Path) -> None:
    """By the definition: pooled hidden states of one prompt at a time, and the log-linear mix."""
    asked = engine.encoder.prompts([prompts.detection(TASK, record) for record in samples.records(12)])
    own = Readout.load(place / "read")
    assert own is not None
    plain = engine.score_ids(asked, LABELS, adapter="plain").logits
    mixed = engine.score_ids(asked, LABELS, adapter="read")
    for k, ids in enumerate(asked):
        with engine.using("read") as model:
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        parts = [f(states[layer][0, own.first :]) for layer in LAYERS for f in (lambda s: s.mean(0), lambda s: s.amax(0))]
        raw = torch.cat(parts) @ own.matrix + own.bias
        assert mixed.readout is not None
        assert np.abs(mixed.readout[k] - raw.numpy()).max() < 1e-4
        second = torch.log_softmax(raw, 0).double().numpy()
        want = 0.2 * plain[k] + 0.8 * second
        want -= np.logaddexp.reduce(want)
        assert np.abs(mixed.logits[k] - want).max() < 1e-4
    assert np.abs(mixed.probabilities.sum(1) - 1).max() < 1e-9
    assert np.abs(mixed.logits - plain).max() > 0.01


def test_batches_prefix_and_weight(engine: Engine) -> None:
    scorer = LLMScorer(engine, "read", TASK, LABELS)
    records = samples.records(24)
    many = scorer.score(records)
    assert many.pooled is not None
    one = np.concatenate([scorer.score([record]).probabilities for record in records])
    assert np.abs(many.probabilities - one).max() < 1e-4
    cold = LLMScorer(engine, "read", TASK, LABELS, {WEIGHT: 0.0}).score(records).probabilities
    assert np.abs(cold - LLMScorer(engine, "plain", TASK, LABELS).score(records).probabilities).max() < 1e-5


def test_other_label_sets(engine: Engine) -> None:
    """Some of its labels in another order are answered with it; labels it does not know by the trie alone."""
    asked = engine.encoder.prompts([prompts.detection(TASK, record) for record in samples.records(6)])
    whole = engine.score_ids(asked, LABELS, adapter="read", readout_weight=1.0).probabilities
    turned = engine.score_ids(asked, LABELS[::-1], adapter="read", readout_weight=1.0).probabilities
    assert np.abs(whole - turned[:, ::-1]).max() < 1e-6
    strange = (*LABELS, "Virut")
    plain = engine.score_ids(asked, strange, adapter="plain").probabilities
    assert np.abs(engine.score_ids(asked, strange, adapter="read").probabilities - plain).max() < 1e-9
    assert not engine.reads_out("read", strange)


def test_embeddings_of_layers_are_what_a_readout_reads(engine: Engine, place: Path) -> None:
    scorer, own = LLMScorer(engine, "read", TASK, LABELS, {WEIGHT: 1.0}), Readout.load(place / "read")
    assert own is not None
    records = samples.records(20)
    vectors = Pooled(scorer, "layers").embed(records)
    assert vectors.shape == (20, 192)
    named = own.logits(torch.from_numpy(vectors)).softmax(1).numpy()
    assert np.abs(named - scorer.score(records).probabilities).max() < 1e-4


def test_an_adapter_that_is_replaced_loses_its_readout(engine: Engine, place: Path) -> None:
    engine.add_adapter("other", place / "read")
    assert engine.reads_out("other", LABELS)
    engine.add_adapter("other", place / "plain")
    assert not engine.reads_out("other", LABELS)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda r: replace(r, matrix=r.matrix * torch.nan), "not finite"),
        (lambda r: replace(r, matrix=r.matrix[:, :2]), "do not fit each other"),
        (lambda r: replace(r, labels=("a", "a", "b")), "do not fit each other"),
        (lambda r: replace(r, weight=2.0), "do not fit each other"),
        (lambda r: replace(r, layers=(0, 1, 9)), "the base gives"),
        (lambda r: replace(r, matrix=r.matrix[:64]), "the base gives 192"),
        (lambda r: replace(r, matrix=r.matrix.double(), bias=r.bias.double()), "not float32"),
    ],
)
def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path, broken: object, why: str) -> None:
    shutil.copytree(place / "plain", tmp_path / "bad")
    broken(_readout(3)).save(tmp_path / "bad")  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=why):
        Engine(load_base(place / "base", dtype="float32")).add_adapter("bad", tmp_path / "bad")


def _umbrella(first: int, *, layers: tuple[int, ...] = LAYERS) -> Readout:
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(2 * len(layers) * 32, 4, generator=generator) / 10
    return Readout((*LABELS, readout.BACKGROUND), layers, first, 0.0, matrix, torch.zeros(4))


def test_an_umbrella_readout_reads_the_same_states_and_changes_no_label(engine: Engine, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "read", tmp_path / "both")
    own = Readout.load(place / "read")
    assert own is not None
    second = _umbrella(own.first)
    second.save(tmp_path / "both", readout.UMBRELLA)
    engine.add_adapter("both", tmp_path / "both")
    assert engine.umbrella("both") == (*LABELS, readout.BACKGROUND)
    assert engine.umbrella("read") == ()
    records = samples.records(12)
    scorer = LLMScorer(engine, "both", TASK, LABELS)
    both, alone = scorer.score(records), LLMScorer(engine, "read", TASK, LABELS).score(records)
    assert alone.umbrella is None
    assert both.umbrella is not None
    assert both.readout is not None
    assert np.abs(both.probabilities - alone.probabilities).max() < 1e-6
    assert np.abs(both.readout - alone.readout).max() < 1e-5
    with engine.using("both") as model:
        features = readout.features_of(model, scorer.ids(records), own.layers, own.first)
    assert np.abs(both.umbrella - second.logits(features).numpy()).max() < 1e-4
    engine.remove_adapter("both")
    assert engine.umbrella("both") == ()


def test_an_umbrella_readout_of_other_states_is_refused(place: Path, tmp_path: Path) -> None:
    own = Readout.load(place / "read")
    assert own is not None
    for name, second in (
        ("layers", _umbrella(own.first, layers=(0, 1))),
        ("first", _umbrella(own.first + 1)),
        ("alone", _umbrella(own.first)),
    ):
        shutil.copytree(place / ("plain" if name == "alone" else "read"), tmp_path / name)
        second.save(tmp_path / name, readout.UMBRELLA)
        with pytest.raises(ArtifactError, match="does not read the states"):
            Engine(load_base(place / "base", dtype="float32")).add_adapter(name, tmp_path / name)
    shutil.copytree(place / "read", tmp_path / "bytes")
    (tmp_path / "bytes" / readout.UMBRELLA).write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=r"umbrella\.safetensors is no readout"):
        Engine(load_base(place / "base", dtype="float32")).add_adapter("bytes", tmp_path / "bytes")


def test_what_is_no_readout_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "plain", tmp_path / "bad")
    for content in (b"", b"\x80\x04.", (place / "plain" / "adapter_model.safetensors").read_bytes()):
        (tmp_path / "bad" / readout.FILE).write_bytes(content)
        with pytest.raises(ArtifactError, match="no readout"):
            Engine(load_base(place / "base", dtype="float32")).add_adapter("bad", tmp_path / "bad")


def test_wide_models_are_read_at_fewer_layers(place: Path) -> None:
    model = load_base(place / "base", dtype="float32").model
    assert readout.layers_of(model) == (0, 1, 2)
    config = model.config.get_text_config()
    before = config.hidden_size, config.num_hidden_layers
    try:
        config.hidden_size, config.num_hidden_layers = 2048, 24
        assert readout.layers_of(model) == (0, 24)
        config.hidden_size = 768
        assert readout.layers_of(model) == (0, 6, 12, 18, 24)
    finally:
        config.hidden_size, config.num_hidden_layers = before
