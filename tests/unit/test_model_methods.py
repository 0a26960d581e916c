"""Every tuning method: it learns, its files load again and answer alike; what cannot work is refused before the run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import LABELS, prompt_of, records
from tune_forks import QUICK, make_base, rows

from trafficllm.core.errors import ArtifactError, ResourceError, UsageError
from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.settings import TuneOptions
from trafficllm.model.adapter import lora
from trafficllm.model.adapter.guard import KINDS, check_adapter
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.collate import Sample
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.eval_step import mean_loss, predict
from trafficllm.model.tuning.job import tune_task
from trafficllm.model.tuning.trie import LabelTrie

RATES = {"lora": 5e-3, "rslora": 5e-3, "dora": 5e-3, "qlora": 5e-3, "prefix": 3e-2, "full": 2e-3}
HERE = [name for name in RATES if name != "qlora" or importlib.util.find_spec("bitsandbytes")]


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


def _named(base: Base, model: Any, batch_tokens: int) -> list[int]:
    encoder = Encoder(base.tokenizer)
    trie = LabelTrie.of(LABELS, [encoder.label(label) for label in LABELS], encoder.eos)
    prompts = encoder.prompts(rows().val_prompts)
    return predict(model, prompts, trie, pad=int(base.tokenizer.pad_token_id), batch_tokens=batch_tokens)


def _loss(base: Base, model: Any) -> float:
    """Mean loss of the validation answers at the label tree's branches, in nats: what is tuned for."""
    encoder, data = Encoder(base.tokenizer), rows()
    trie = LabelTrie.of(LABELS, [encoder.label(label) for label in LABELS], encoder.eos)
    places = [LABELS.index(answer) for answer in data.val_answers]
    samples = [Sample(ids, trie.paths[k], trie.choices(k)) for ids, k in zip(encoder.prompts(data.val_prompts), places, strict=True)]
    return mean_loss(model, samples, pad=int(base.tokenizer.pad_token_id), batch_tokens=2048, full=0.0)


def _curve(folder: Path, key: str = "loss") -> list[float]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in found if key in row]


def _options(method: str, **changes: Any) -> TuneOptions:
    return QUICK.model_copy(update={"method": method, "learning_rate": RATES[method], "epochs": 3, **changes})


def _reloaded(base: Base, method: str, folder: Path) -> Any:
    if method == "full":
        return load_base(folder, dtype="float32").model
    fresh = load_base(base.path, dtype="float32").model
    if method == "qlora":
        from trafficllm.model.adapter.quantize import quantize

        quantize(fresh, lora.target_modules(fresh))
    return lora.load_adapter(fresh, folder).eval()


@pytest.mark.parametrize("method", HERE)
def test_a_method_learns_and_answers_alike_when_loaded_again(base: Base, tmp_path: Path, method: str) -> None:
    mine = load_base(base.path, dtype="float32") if method in {"full", "qlora"} else base
    report = tune_task(mine, rows(), tmp_path / "a", _options(method))
    losses = _curve(tmp_path / "a")
    assert sum(losses[-5:]) / 5 < losses[0] - 0.1
    loaded = _reloaded(base, method, tmp_path / "a")
    named = _named(base, loaded, 2048)
    truth = [LABELS.index(label) for label in rows().val_answers]
    assert macro_f1_of_indices(truth, named, len(set(truth))) == pytest.approx(report.validation["val_macro_f1"])
    assert _named(base, loaded, 256) == named  # padding changes no answer
    least = 0.01 if method == "prefix" else 0.1  # eight tokens move a random model little
    assert _loss(base, loaded) < _loss(base, base.model) - least


def test_a_prefix_is_stock_peft(base: Base, tmp_path: Path) -> None:
    from peft import PeftModel

    tune_task(base, rows(), tmp_path / "a", _options("prefix", max_steps=3))
    stock = PeftModel.from_pretrained(load_base(base.path, dtype="float32").model, str(tmp_path / "a"))
    ids = torch.tensor([Encoder(base.tokenizer).prompt(prompt_of(records()[0][0]))])
    with torch.inference_mode():
        own = lora.load_adapter(load_base(base.path, dtype="float32").model, tmp_path / "a")(ids).logits
        assert torch.equal(stock(ids).logits, own)
        assert not torch.allclose(base.model(ids).logits, own, atol=1e-3)
    with pytest.raises(ArtifactError, match="not LORA"):  # the engine serves low-rank adapters only, and says so
        check_adapter(tmp_path / "a", base)
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({**config, "num_virtual_tokens": 5}))
    with pytest.raises(ArtifactError, match="of shape"):
        check_adapter(tmp_path / "a", base, kinds=KINDS)


def test_a_prefix_on_grouped_wide_heads(tmp_path: Path) -> None:
    base = make_base(tmp_path, "qwen", "Qwen3Config", head_dim=16)
    tune_task(base, rows(60, 20), tmp_path / "a", _options("prefix", max_steps=2, looks=1))
    loaded = lora.load_adapter(load_base(base.path, dtype="float32").model, tmp_path / "a").eval()
    assert _named(base, loaded, 256) == _named(base, loaded, 2048)


def test_bfloat16_weights_are_tuned_under_autocast(base: Base, tmp_path: Path) -> None:
    half = load_base(base.path, dtype="bfloat16")
    report = tune_task(half, rows(), tmp_path / "half", _options("lora", max_steps=5))
    tune_task(base, rows(), tmp_path / "whole", _options("lora", max_steps=5))
    assert report.precision == "bfloat16"
    pairs = list(zip(_curve(tmp_path / "half"), _curve(tmp_path / "whole"), strict=True))
    assert all(abs(a - b) < 0.08 for a, b in pairs)
    assert any(a != b for a, b in pairs)
    loaded = lora.load_adapter(load_base(base.path, dtype="bfloat16").model, tmp_path / "half").eval()
    truth = [LABELS.index(label) for label in rows().val_answers]
    assert macro_f1_of_indices(truth, _named(base, loaded, 2048), len(set(truth))) == pytest.approx(report.validation["val_macro_f1"])


def test_gradient_checkpointing_gives_the_same_curve(base: Base, tmp_path: Path) -> None:
    for name, on in (("on", True), ("off", False)):
        options = _options("lora", max_steps=6, looks=0, gradient_checkpointing=on)
        tune_task(load_base(base.path, dtype="float32"), rows(), tmp_path / name, options)
    assert _curve(tmp_path / "on") == pytest.approx(_curve(tmp_path / "off"), abs=1e-6)


def test_early_stopping_ends_a_run_that_no_longer_gains(base: Base, tmp_path: Path) -> None:
    options = _options("lora", max_steps=60, looks=30, first_look=0.0, patience=2, learning_rate=1e-9, val_limit=12)
    report = tune_task(base, rows(), tmp_path / "a", options)
    looks = _curve(tmp_path / "a", "val_loss")
    assert len(looks) < 15
    assert report.steps < 30
    assert report.best_step < report.steps


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is here: see the tests above")
def test_qlora_without_its_package_is_refused_with_the_remedy(base: Base, tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        tune_task(base, rows(), tmp_path / "a", _options("qlora"))
    assert "pip install bitsandbytes" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"method": "prefix", "gradient_checkpointing": True}, "cache"),
        ({"method": "prefix", "shard": True}, "sharded"),
        ({"report_to": ("nowhere",)}, "no reporter"),
    ],
)
def test_settings_that_exclude_each_other(base: Base, tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        tune_task(base, rows(), tmp_path / "a", QUICK.model_copy(update=changes))


def test_a_full_run_cannot_start_from_an_adapter(base: Base, tmp_path: Path) -> None:
    tune_task(base, rows(), tmp_path / "a", _options("lora", max_steps=1, looks=0))
    with pytest.raises(UsageError, match="starts from a base"):
        tune_task(load_base(base.path, dtype="float32"), rows(), tmp_path / "b", _options("full"), start_from=tmp_path / "a")
    with pytest.raises(ArtifactError, match="peft_type is LORA"):
        tune_task(base, rows(), tmp_path / "c", _options("prefix"), start_from=tmp_path / "a")


def test_reporters_get_the_logged_figures(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    seen: list[dict[str, float]] = []

    class Recorder(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append(dict(logs))

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    tune_task(base, rows(), tmp_path / "a", _options("lora", max_steps=2, looks=1, report_to=("recorder",)))
    assert [entry["loss"] for entry in seen if "loss" in entry] == pytest.approx(_curve(tmp_path / "a"), abs=1e-4)
    assert any("val_macro_f1" in entry for entry in seen)
    missing = [name for name in ("comet_ml", "neptune", "wandb", "mlflow") if importlib.util.find_spec(name) is None]
    with pytest.raises(ResourceError, match="cannot report"):
        tune_task(base, rows(), tmp_path / "b", _options("lora", report_to=(missing[0],)))
