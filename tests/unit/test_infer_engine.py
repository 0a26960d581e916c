"""The engine: closed probabilities, the same at any batch size, adapters that never mix."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import infer_samples as samples
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trafficllm.core.errors import ArtifactError
from trafficllm.infer.engine import resident
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.forward import batches
from trafficllm.infer.engine.prefix import shared_prefix
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.model.adapter.lora import merge
from trafficllm.model.base.load import Base, load_base
from trafficllm.records import prompts
from trafficllm.records.catalog import get_task

LABELS = ("Zeus", "Neris", "Zeus-2", "Zeu", "größe ü", "World of Warcraft")
TASK = get_task("MTD")


@pytest.fixture(scope="module", name="folders")
def _folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("engine")
    samples.write_base(place / "base")
    for seed in (1, 2):
        samples.write_adapter(place / "base", place / f"adapter{seed}", seed=seed)
    return place


@pytest.fixture(scope="module", name="engine")
def _engine(folders: Path) -> Engine:
    engine = Engine(load_base(folders / "base", dtype="float32"))
    engine.add_adapter("MTD", folders / "adapter1")
    engine.add_adapter("EAC/v0001.x", folders / "adapter2")
    return engine


@pytest.fixture(scope="module", name="asked")
def _asked(engine: Engine) -> list[list[int]]:
    return [engine.encoder.prompt(prompts.detection(TASK, record)) for record in samples.records(64)]


def test_probabilities_are_closed(engine: Engine, asked: list[list[int]]) -> None:
    scores = engine.score_ids(asked, LABELS, adapter="MTD")
    assert scores.probabilities.shape == (64, len(LABELS))
    assert np.abs(scores.probabilities.sum(axis=1) - 1).max() < 1e-9
    assert np.allclose(np.exp(scores.logits), scores.probabilities)
    assert scores.hidden is not None
    assert scores.hidden.shape == (64, 32)


@pytest.mark.parametrize("adapter", ["", "MTD", "EAC/v0001.x"])
def test_batch_size_and_prefix_change_nothing(engine: Engine, asked: list[list[int]], adapter: str) -> None:
    many = engine.score_ids(asked, LABELS, adapter=adapter, batch_tokens=1 << 16)
    single = engine.score_ids(asked, LABELS, adapter=adapter, batch_tokens=1)
    plain = engine.score_ids(asked, LABELS, adapter=adapter, prefix=())
    assert np.abs(many.probabilities - single.probabilities).max() < 1e-4
    assert np.abs(many.probabilities - plain.probabilities).max() < 1e-4
    assert many.hidden is not None
    assert single.hidden is not None
    assert np.abs(many.hidden - single.hidden).max() < 1e-3


def test_pooled_states_are_means_over_the_record(engine: Engine, asked: list[list[int]]) -> None:
    """The definition, one prompt at a time; neither batches nor the cached prefix change them, nor inner tokens of the label tree."""
    start = len(shared_prefix(asked))
    assert start > 0
    cached = engine.score_ids(asked, LABELS, adapter="MTD", pool_from=start).pooled
    plain = engine.score_ids(asked, LABELS, adapter="MTD", prefix=(), batch_tokens=1, pool_from=start).pooled
    assert cached is not None
    assert plain is not None
    assert np.abs(cached - plain).max() < 1e-3
    for k in (0, 31, 63):
        with engine.using("MTD") as model:
            hidden = model(input_ids=torch.tensor([asked[k]]), output_hidden_states=True).hidden_states[-1][0, start:]
        assert np.abs(hidden.mean(0).numpy() - cached[k]).max() < 1e-3
    assert engine.score_ids(asked, LABELS, adapter="MTD").pooled is None


def _one_by_one(engine: Engine, ids: Sequence[int], adapter: str) -> list[float]:
    """Log-probability of each label by plain forwards over prompt and label: the definition."""
    eos = int(engine.base.tokenizer.eos_token_id)
    names = [tuple(engine.encoder.label(label)) for label in LABELS]
    paths = [(*n, eos) if any(m != n and m[: len(n)] == n for m in names) else n for n in names]
    out = []
    for path in paths:
        with engine.using(adapter) as model:
            logits = model(input_ids=torch.tensor([[*ids, *path]])).logits[0].double()
        total = 0.0
        for k, token in enumerate(path):
            children = sorted({other[k] for other in paths if other[:k] == path[:k] and len(other) > k})
            row = logits[len(ids) - 1 + k]
            total += float(row[token] - torch.logsumexp(row[children], 0)) if len(children) > 1 else 0.0
        out.append(total)
    return out


def test_scores_are_products_over_the_labels_tree(engine: Engine, asked: list[list[int]]) -> None:
    scores = engine.score_ids(asked[:6], LABELS, adapter="MTD")
    expected = [_one_by_one(engine, ids, "MTD") for ids in asked[:6]]
    assert np.abs(scores.logits - np.array(expected)).max() < 1e-4


def test_hundreds_of_labels(engine: Engine, asked: list[list[int]]) -> None:
    labels = [f"class {k} of {k % 7} ü" for k in range(500)]
    scores = engine.score_ids(asked[:3], labels, adapter="MTD")
    assert np.abs(scores.probabilities.sum(axis=1) - 1).max() < 1e-5
    one = engine.score_ids(asked[1:2], labels, adapter="MTD")
    assert np.abs(one.probabilities - scores.probabilities[1]).max() < 1e-4


def test_one_label_is_certain_and_no_prompt_is_fine(engine: Engine, asked: list[list[int]]) -> None:
    assert engine.score_ids(asked[:2], ("only",)).probabilities.tolist() == [[1.0], [1.0]]
    assert engine.score_ids([], LABELS).probabilities.shape == (0, len(LABELS))


def test_adapters_differ_and_come_back(engine: Engine, asked: list[list[int]]) -> None:
    first = engine.score_ids(asked[:4], LABELS, adapter="MTD").logits
    bare = engine.score_ids(asked[:4], LABELS).logits
    second = engine.score_ids(asked[:4], LABELS, adapter="EAC/v0001.x").logits
    assert np.abs(first - second).max() > 0.05
    assert np.abs(first - bare).max() > 0.05
    assert np.array_equal(first, engine.score_ids(asked[:4], LABELS, adapter="MTD").logits)


def test_an_adapter_can_be_replaced_while_serving(engine: Engine, folders: Path, asked: list[list[int]]) -> None:
    engine.add_adapter("swap", folders / "adapter1")
    before = engine.score_ids(asked[:4], LABELS, adapter="swap").logits
    engine.add_adapter("swap", folders / "adapter2")
    after = engine.score_ids(asked[:4], LABELS, adapter="swap").logits
    assert np.allclose(after, engine.score_ids(asked[:4], LABELS, adapter="EAC/v0001.x").logits, atol=1e-5)
    assert np.abs(before - after).max() > 0.05
    engine.remove_adapter("swap")
    with pytest.raises(ArtifactError, match="swap"):
        engine.score_ids(asked[:1], LABELS, adapter="swap")
    assert np.isfinite(engine.score_ids(asked[:1], LABELS, adapter="MTD").logits).all()


def test_a_fresh_engine_answers_the_same(engine: Engine, folders: Path, asked: list[list[int]]) -> None:
    other = Engine(load_base(folders / "base", dtype="float32"))
    other.add_adapter("one", folders / "adapter1")
    assert np.array_equal(other.score_ids(asked, LABELS, adapter="one").logits, engine.score_ids(asked, LABELS, adapter="MTD").logits)


def test_threads_never_see_each_others_adapter(engine: Engine, asked: list[list[int]]) -> None:
    sets = {"MTD": LABELS, "EAC/v0001.x": ("DNS", "TLS", "QUIC")}
    expected = {name: engine.score_ids(asked[:16], labels, adapter=name).logits for name, labels in sets.items()}
    wrong: list[str] = []

    def ask(name: str) -> None:
        for k in range(40):
            row = engine.score_ids([asked[k % 16]], sets[name], adapter=name)
            if row.labels != sets[name] or np.abs(row.logits[0] - expected[name][k % 16]).max() > 1e-4:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in (*sets, *sets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scorer_speaks_the_protocol(engine: Engine) -> None:
    scorer = LLMScorer(engine, "MTD", TASK, LABELS, {"temperature": 2.0})
    scores = scorer.score(samples.records(5))
    assert scorer.labels == LABELS
    assert np.allclose(scores.probabilities.sum(axis=1), 1)
    assert scorer.embed(samples.records(5)).dtype == np.float32
    flat = LLMScorer(engine, "MTD", TASK, LABELS, {"temperature": 1e6}).score(samples.records(5))
    assert np.allclose(flat.probabilities, 1 / len(LABELS), atol=1e-4)


def test_batches_hold_all_rows_once_within_their_budget() -> None:
    lengths = [5, 90, 7, 7, 300, 1, 44] * 9
    found = list(batches(lengths, 256, 16))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(len(b) <= 16 and (len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 256) for b in found)


def test_the_base_stays_as_it_was(engine: Engine) -> None:
    base = engine.base.model
    assert not any("lora" in name for name, _ in base.named_parameters())
    mine = engine.model.get_input_embeddings().weight
    assert mine.data_ptr() == base.get_input_embeddings().weight.data_ptr()


FAMILIES: dict[str, dict[str, object]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024},
    "gemma2": {**samples.SMALL, "head_dim": 8, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**samples.SMALL, "head_dim": 8, "sliding_window": 48},
    "qwen2_moe": {**samples.SMALL, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "granite": {**samples.SMALL, "logits_scaling": 4.0},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_keep_the_definition(family: str) -> None:
    """Learned positions, capped logits, sliding windows, experts, scaled logits: what a hand-made head would miss."""
    torch.manual_seed(0)
    fast = samples.tokenizer()
    config = AutoConfig.for_model(
        family, **FAMILIES[family], vocab_size=len(fast), initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    engine = Engine(Base(AutoModelForCausalLM.from_config(config).eval(), fast, Path()))
    ids = [engine.encoder.prompt(prompts.detection(TASK, record)) for record in samples.records(6)]
    scores = engine.score_ids(ids, LABELS)
    single = engine.score_ids(ids, LABELS, batch_tokens=1, prefix=())
    assert np.abs(scores.probabilities - single.probabilities).max() < 1e-4
    assert np.abs(scores.logits[:2] - np.array([_one_by_one(engine, row, "") for row in ids[:2]])).max() < 1e-4


def test_merged_and_resident_adapters_agree(engine: Engine, folders: Path, asked: list[list[int]]) -> None:
    merged = Engine(Base(merge(load_base(folders / "base", dtype="float32").model, folders / "adapter1"), engine.base.tokenizer, Path()))
    ours = engine.score_ids(asked, LABELS, adapter="MTD").probabilities
    theirs = merged.score_ids(asked, LABELS).probabilities
    assert np.abs(ours - theirs).max() < 1e-4


def test_resident_copies_and_peft_layers_give_the_same_verdicts(engine: Engine, folders: Path, asked: list[list[int]]) -> None:
    layered = Engine(engine.base, merge=False)
    for name, folder in (("MTD", "adapter1"), ("EAC/v0001.x", "adapter2")):
        layered.add_adapter(name, folders / folder)
        ours, theirs = (e.score_ids(asked, LABELS, adapter=name).probabilities for e in (engine, layered))
        assert np.abs(ours - theirs).max() < 1e-4
        assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.995
    bare = [e.score_ids(asked[:4], LABELS).logits for e in (engine, layered)]
    assert np.allclose(*bare, atol=1e-5)
    layered.add_adapter("MTD", folders / "adapter2")
    again, other = (layered.score_ids(asked[:4], LABELS, adapter=name).logits for name in ("MTD", "EAC/v0001.x"))
    assert np.allclose(again, other, atol=1e-5)


@pytest.mark.parametrize("merge", [True, False])
def test_old_adapters_leave_when_too_many_came(folders: Path, merge: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "LIMIT", 2)
    engine = Engine(load_base(folders / "base", dtype="float32"), merge=merge)
    for name in ("a", "b"):
        engine.add_adapter(name, folders / "adapter1")
    with engine.using("a"):
        pass
    engine.add_adapter("c", folders / "adapter2")
    assert set(engine.adapters) == {"a", "c"}


def _interleaved(engine: Engine, asked: list[list[int]], *, requests: int, threads: int) -> list[str]:
    """Two tasks' requests from many threads at once; what was answered from the wrong label set or adapter."""
    sets = {"MTD": LABELS, "EAC/v0001.x": ("DNS", "TLS", "QUIC")}
    expected = {name: engine.score_ids(asked, labels, adapter=name).logits for name, labels in sets.items()}
    wrong: list[str] = []

    def ask(first: int) -> None:
        for k in range(first, 2 * requests, threads):
            name, row = tuple(sets)[k % 2], k // 2 % len(asked)
            scores = engine.score_ids([asked[row]], sets[name], adapter=name)
            if scores.labels != sets[name] or np.abs(scores.logits[0] - expected[name][row]).max() > 1e-3:
                wrong.append(name)

    workers = [threading.Thread(target=ask, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong


def test_interleaved_requests_never_mix(engine: Engine, asked: list[list[int]]) -> None:
    assert _interleaved(engine, asked, requests=60, threads=4) == []


@pytest.mark.soak
@pytest.mark.parametrize("merge", [True, False])
def test_a_thousand_interleaved_requests_a_task(folders: Path, asked: list[list[int]], merge: bool) -> None:
    engine = Engine(load_base(folders / "base", dtype="float32"), merge=merge)
    engine.add_adapter("MTD", folders / "adapter1")
    engine.add_adapter("EAC/v0001.x", folders / "adapter2")
    wrong = _interleaved(engine, asked, requests=1000, threads=8)
    print(f"2 tasks x 1,000 requests, {len(wrong)} from the wrong label set")
    assert wrong == []


def test_answers_are_given_again_until_the_adapter_changes(engine: Engine, folders: Path, asked: list[list[int]]) -> None:
    remembering = Engine(engine.base, remember=100)
    forwards: list[int] = []
    batch = remembering._batch
    remembering._batch = lambda ids, *args, **options: forwards.append(len(ids)) or batch(ids, *args, **options)  # type: ignore[method-assign,func-returns-value]
    remembering.add_adapter("MTD", folders / "adapter1")
    fresh = engine.score_ids(asked, LABELS, adapter="MTD", pool_from=5)
    for _ in range(2):
        again = remembering.score_ids([*asked, *asked[:3]], LABELS, adapter="MTD", pool_from=5)
        assert np.abs(again.probabilities[:64] - fresh.probabilities).max() < 1e-5
        assert np.array_equal(again.probabilities[64:], again.probabilities[:3])
        assert again.pooled is not None
        assert fresh.pooled is not None
        assert np.abs(again.pooled[:64] - fresh.pooled).max() < 1e-3
    assert sum(forwards) == 64
    remembering.score_ids(asked, LABELS[:2], adapter="MTD", pool_from=5)
    remembering.score_ids(asked, LABELS, adapter="", pool_from=5)
    assert sum(forwards) == 3 * 64
    assert len(remembering._answers) == 100
    remembering.add_adapter("MTD", folders / "adapter2")
    other = remembering.score_ids(asked, LABELS, adapter="MTD", pool_from=5)
    assert sum(forwards) == 4 * 64
    assert np.abs(other.probabilities - fresh.probabilities).max() > 1e-3
