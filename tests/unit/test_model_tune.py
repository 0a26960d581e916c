"""Two-stage tuning on a tiny base: it learns, repeats, resumes to the same curve, keeps the base untouched."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import LABELS, prompt_of, records
from tune_forks import make_base, rows

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Segment
from trafficllm.model.adapter import lora
from trafficllm.model.adapter.fused import fused
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.callbacks import Clock, cosine
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.eval_step import predict
from trafficllm.model.tuning.job import TuneData, tune_generation, tune_instruct, tune_task
from trafficllm.model.tuning.trie import LabelTrie
from trafficllm.records.codec.codec import encode


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


def _curve(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


QUICK = TuneOptions(epochs=6, batch_tokens=1024, learning_rate=5e-3, r=8, lora_alpha=16, logging_steps=1, looks=4, save_steps=5)


def test_it_learns_and_leaves_the_base_as_it_was(base: Base, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    report = tune_task(base, rows(), tmp_path / "a", QUICK)
    assert report.validation["val_macro_f1"] > 0.7
    assert report.tokens > 0
    assert report.steps == max(_curve(tmp_path / "a"))
    assert base.model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.jsonl",
        "readout.safetensors",
        "tune.json",
    }
    loaded = lora.load_adapter(load_base(base.path, dtype="float32").model, tmp_path / "a").eval()
    encoder = Encoder(base.tokenizer)
    trie = LabelTrie.of(LABELS, [encoder.label(label) for label in LABELS], encoder.eos)
    pad = int(base.tokenizer.pad_token_id)
    named = predict(loaded, encoder.prompts(rows().val_prompts), trie, pad=pad, batch_tokens=2048)
    truth = [LABELS.index(label) for label in rows().val_answers]
    # the file holds the best weights
    assert macro_f1_of_indices(truth, named, len(set(truth))) == pytest.approx(report.validation["val_macro_f1"])
    again = tune_task(base, rows(), tmp_path / "a", QUICK)
    assert again.reused
    assert again.steps == report.steps


def test_same_seed_same_bytes_and_another_seed_differs(base: Base, tmp_path: Path) -> None:
    short = QUICK.model_copy(update={"max_steps": 6})
    for name in ("a", "b"):
        tune_task(base, rows(), tmp_path / name, short)
    tune_task(base, rows(), tmp_path / "c", short.model_copy(update={"seed": 1}))
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert (tmp_path / "a/adapter_config.json").read_bytes() == (tmp_path / "b/adapter_config.json").read_bytes()


class _Killed(BaseException):
    pass


class _Killer:
    """Progress that ends the run at its n-th step, as a kill would, between checkpoints."""

    def __init__(self, step: int) -> None:
        self.left = step

    def update(self, stage: str, done: int, total: int | None) -> None:
        self.left -= 1
        if self.left == 0:
            raise _Killed


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_killed_run_resumes_to_the_same_curve(base: Base, tmp_path: Path, dropout: float) -> None:
    options = QUICK.model_copy(update={"max_steps": 18, "lora_dropout": dropout})
    whole = tune_task(base, rows(), tmp_path / "whole", options)
    for stop in (3, 8, 6):
        with pytest.raises(_Killed):
            tune_task(base, rows(), tmp_path / "cut", options, _Killer(stop))
    done = tune_task(base, rows(), tmp_path / "cut", options)
    assert done.resumed_from == 10
    assert whole.resumed_from is None
    first, second = _curve(tmp_path / "whole"), _curve(tmp_path / "cut")
    assert first.keys() == second.keys() == set(range(1, 19))
    assert all(abs(first[step] - second[step]) <= 1e-6 for step in first)
    same = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert same[0] == same[1]
    assert done.tokens == whole.tokens


def test_saved_reloaded_and_merged_adapters_answer_alike(base: Base, tmp_path: Path) -> None:
    tune_task(base, rows(), tmp_path / "a", QUICK.model_copy(update={"max_steps": 8}))
    ids = torch.tensor([base.tokenizer("the flow", add_special_tokens=False)["input_ids"]])
    loaded = lora.load_adapter(load_base(base.path, dtype="float32").model, tmp_path / "a")
    merged = lora.merge(load_base(base.path, dtype="float32").model, tmp_path / "a")
    with torch.inference_mode():
        one, two = loaded(ids).logits, merged(ids).logits
    assert torch.allclose(one, two, atol=1e-4)
    assert not torch.allclose(one, base.model(ids).logits, atol=1e-3)


def test_the_time_budget_ends_the_run(base: Base, tmp_path: Path) -> None:
    options = QUICK.model_copy(update={"epochs": 10_000, "max_seconds": 1.5, "looks": 0})
    report = tune_task(base, rows(), tmp_path / "a", options)
    assert report.seconds >= 1.5
    assert report.steps < 10_000
    before = time.process_time()
    counted = tune_task(base, rows(), tmp_path / "b", options.model_copy(update={"clock": "processor", "max_seconds": 1.0}))
    assert 1.0 <= counted.seconds <= time.process_time() - before


def test_the_learning_rate_follows_the_clock() -> None:
    now = [100.0]
    clock = Clock(1000, max_seconds=10.0, before=2.0, source=lambda: now[0])
    rate = cosine(clock, warmup=0.1)
    assert clock.share(0) == 0.2  # a resumed run goes on where the time was
    now[0] += 3.5
    assert rate(1) == pytest.approx(rate(550), abs=1e-9)
    now[0] += 4.5
    assert rate(1) == pytest.approx(0.02)
    assert clock.share(1) == 1.0


def test_stage_one_routes_questions(base: Base, tmp_path: Path) -> None:
    asks = {"MTD": "is this malware", "EAC": "which app is it", "none": "write me a poem"}
    asked = [(f"{text} {k}", label) for k in range(40) for label, text in asks.items()]
    prompts = [(Segment("instruction", "request: "), Segment("question", text), Segment("instruction", "\ntask: ")) for text, _ in asked]
    answers = [label for _, label in asked]
    data = TuneData(prompts[:90], answers[:90], tuple(asks), prompts[90:], answers[90:])
    report = tune_instruct(base, data, tmp_path / "router", QUICK)
    assert report.stage == "instruct"
    assert report.validation["val_accuracy"] > 0.9
    second = tune_task(base, rows(), tmp_path / "task", QUICK.model_copy(update={"max_steps": 3}), start_from=tmp_path / "router")
    assert second.steps == 3


def test_generation_learns_records(base: Base, tmp_path: Path) -> None:
    rows, labels = records()
    prompts = [(Segment("instruction", "MTG "), Segment("text", label), Segment("instruction", "\n")) for label in labels]
    units = [encode(row) for row in rows]
    data = TuneData(prompts[:200], units[:200], (), prompts[200:], units[200:])
    report = tune_generation(base, data, tmp_path / "g", QUICK)
    first = next(iter(_curve(tmp_path / "g").values()))
    assert report.validation["val_loss"] < first - 0.05


def test_augmented_rows_are_drawn_anew_each_epoch(base: Base, tmp_path: Path) -> None:
    from trafficllm.model.tuning.augment import augment

    rows, labels = records()
    data = TuneData((), list(labels[:120]), LABELS, records=rows[:120], prompt_of=prompt_of, augment=augment)
    options = QUICK.model_copy(update={"epochs": 2})
    tune_task(base, data, tmp_path / "a", options)
    tune_task(base, data, tmp_path / "b", options)
    assert _curve(tmp_path / "a") == _curve(tmp_path / "b")


def _without(**changes: Any) -> TuneData:
    data = rows()
    values = {name: getattr(data, name) for name in TuneData.__slots__}
    return TuneData(**{**values, **changes})


@pytest.mark.parametrize("changes", [{"prompts": ()}, {"answers": ["Alpha"]}, {"answers": ["Gamma"] * 240}, {"answers": ["Alpha"] * 240}])
def test_rows_that_cannot_be_learnt_from_are_refused(base: Base, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        tune_task(base, _without(**changes), tmp_path / "a", QUICK)
    assert not (tmp_path / "a").exists()


def test_an_adapter_of_another_rank_cannot_be_the_start(base: Base, tmp_path: Path) -> None:
    one = tune_task(base, rows(), tmp_path / "a", QUICK.model_copy(update={"max_steps": 1}))
    assert one.steps == 1
    with pytest.raises(ArtifactError, match="r is 8"):
        tune_task(base, rows(), tmp_path / "b", QUICK.model_copy(update={"r": 4}), start_from=tmp_path / "a")


@pytest.mark.parametrize("method", ["rslora", "dora", "full"])
def test_other_methods_train_and_save(base: Base, tmp_path: Path, method: str) -> None:
    fresh = load_base(base.path, dtype="float32") if method == "full" else base
    options = QUICK.model_copy(update={"method": method, "max_steps": 3})
    tune_task(fresh, rows(), tmp_path / "a", options)
    if method == "full":
        assert load_base(tmp_path / "a", dtype="float32").model is not None
    else:
        lora.load_adapter(load_base(base.path, dtype="float32").model, tmp_path / "a")


def test_fused_steps_equal_pefts_own(base: Base) -> None:
    tuned = lora.attach(base.model, method="lora", r=4, lora_alpha=8, dropout=0.0, seed=0)
    try:
        for name, value in lora.trainable(tuned).items():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.1)
        ids = torch.arange(24).reshape(2, 12)
        found = []
        for block in (contextlib.nullcontext(0), fused(tuned, lora.NAME)):
            tuned.zero_grad()
            with block as count:
                logits = tuned(input_ids=ids).logits
                logits.square().mean().backward()
            found.append((logits.detach(), [value.grad.clone() for value in lora.trainable(tuned).values()]))
        assert count == 14
        assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(found[0][1], found[1][1], strict=True))
    finally:
        lora.detach(tuned)
