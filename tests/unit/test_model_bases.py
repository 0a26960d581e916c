"""Any architecture: extend, tune both stages, save, reload, merge; native rows and logits stay."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from model_samples import LABELS, prompt_of, records, save_model, save_tokenizer, traffic_tokens
from safetensors.torch import load_file, save_file

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import read_json, write_json
from trafficllm.core.sealed import sealed
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Segment
from trafficllm.model.adapter import lora
from trafficllm.model.base.extend import load_seen, make_traffic_base, write_manifest
from trafficllm.model.base.folder import weights_sha256
from trafficllm.model.base.load import Base, load_base, resolve
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.eval_step import predict
from trafficllm.model.tuning.job import TuneData, tune_instruct, tune_task
from trafficllm.model.tuning.plan import plan
from trafficllm.model.tuning.trie import LabelTrie

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama3", "LlamaConfig", {"tie_word_embeddings": False}),
    "qwen3": ("qwen", "Qwen3Config", {"head_dim": 8}),
    "mistral": ("mistral", "MistralConfig", {"tie_word_embeddings": False, "head_dim": 8}),
    "gemma": ("gemma", "Gemma2Config", {"head_dim": 8, "final_logit_softcapping": 30.0}),
    "glm4": ("qwen", "Glm4Config", {"head_dim": 8, "tie_word_embeddings": False}),
    "phi3": ("llama2", "Phi3Config", {"tie_word_embeddings": False}),
    "phi": ("gpt2", "PhiConfig", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "gpt2": ("gpt2", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "moe": ("mistral", "MixtralConfig", {"num_local_experts": 4, "tie_word_embeddings": False, "head_dim": 8}),
}
SHORT = TuneOptions(epochs=1, max_steps=3, batch_tokens=512, r=4, lora_alpha=8, looks=0)


def _rows() -> TuneData:
    rows, labels = records()
    return TuneData([prompt_of(row) for row in rows[:60]], list(labels[:60]), LABELS)


def _asks() -> TuneData:
    asks = [("is this malware", "MTD"), ("write a poem", "none")] * 10
    prompts = [(Segment("instruction", "request: "), Segment("question", text), Segment("instruction", "\ntask: ")) for text, _ in asks]
    return TuneData(prompts, [task for _, task in asks], ("MTD", "none"))


def _predicted(base: Base, model: Any) -> list[int]:
    encoder = Encoder(base.tokenizer)
    trie = LabelTrie.of(LABELS, [encoder.label(label) for label in LABELS], encoder.eos)
    prompts = encoder.prompts([prompt_of(row) for row in records()[0][-20:]])
    return predict(model, prompts, trie, pad=base.tokenizer.pad_token_id, batch_tokens=2048)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    kind, config, extra = ARCHITECTURES[name]
    save_tokenizer(kind, tmp_path / "plain", chat=kind == "qwen")
    native = save_model(tmp_path / "plain", config, **extra).eval()
    report = make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    base = load_base(tmp_path / "traffic", dtype="float32")
    assert base.model.get_input_embeddings().weight.shape[0] == report.rows >= len(base.tokenizer)
    ids = torch.tensor([base.tokenizer("the packet of the server")["input_ids"]])
    with torch.inference_mode():
        before, after = native(ids).logits, base.model(ids).logits
    used = report.tokenizer.base_vocab
    assert torch.allclose(before[..., :used], after[..., :used], atol=1e-5)
    tune_instruct(base, _asks(), tmp_path / "router", SHORT)
    tune_task(base, _rows(), tmp_path / "task", SHORT, start_from=tmp_path / "router")
    loaded = lora.load_adapter(load_base(tmp_path / "traffic", dtype="float32").model, tmp_path / "task").eval()
    named = _predicted(base, loaded)
    merged = lora.merge(load_base(tmp_path / "traffic", dtype="float32").model, tmp_path / "task").eval()
    assert _predicted(base, merged) == named
    merged.save_pretrained(tmp_path / "merged")
    shutil.copy(tmp_path / "traffic/tokenizer.json", tmp_path / "merged/tokenizer.json")
    shutil.copy(tmp_path / "traffic/tokenizer_config.json", tmp_path / "merged/tokenizer_config.json")
    if (tmp_path / "traffic/chat_template.jinja").is_file():
        shutil.copy(tmp_path / "traffic/chat_template.jinja", tmp_path / "merged/chat_template.jinja")
    assert _predicted(base, load_base(tmp_path / "merged", dtype="float32").model) == named
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", local_files_only=True).eval()
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged", local_files_only=True)
    reader.pad_token = reader.pad_token or reader.eos_token
    assert _predicted(Base(stock, reader, tmp_path / "merged"), stock) == named


def test_padded_rows_are_used_and_shards_without_vocabulary_are_taken_over(tmp_path: Path) -> None:
    save_tokenizer("qwen", tmp_path / "plain")
    native = save_model(tmp_path / "plain", "Qwen3Config", rows=8192, head_dim=8, tie_word_embeddings=False)
    tensors = load_file(str(tmp_path / "plain/model.safetensors"))
    shards = {"a.safetensors": [k for k in tensors if "embed" in k or "lm_head" in k]}
    shards["b.safetensors"] = [k for k in tensors if k not in shards["a.safetensors"]]
    for file, names in shards.items():
        save_file({k: tensors[k] for k in names}, str(tmp_path / "plain" / file), metadata={"format": "pt"})
    weight_map = {k: file for file, names in shards.items() for k in names}
    write_json(tmp_path / "plain/model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    (tmp_path / "plain/model.safetensors").unlink()
    report = make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    assert (report.rows, report.linked) == (8192, 1)  # real checkpoints are padded: new ids start inside the matrix
    index = read_json(tmp_path / "traffic/model.safetensors.index.json")
    held = [load_file(str(tmp_path / "traffic" / file)) for file in shards]
    assert index["metadata"]["total_size"] == sum(value.nbytes for part in held for value in part.values())
    taken = tmp_path / "traffic/b.safetensors"
    assert taken.read_bytes() == (tmp_path / "plain/b.safetensors").read_bytes()
    assert not taken.samefile(tmp_path / "plain/b.safetensors")  # a write to one must not change the other
    base = load_base(tmp_path / "traffic", dtype="float32")
    first = report.tokenizer.first_id
    new = base.model.get_input_embeddings().weight[first : first + report.tokenizer.tokens_added]
    assert not torch.equal(new[0], new[1])
    assert torch.equal(base.model.lm_head.weight[:first], native.lm_head.weight[:first])


def test_manifest_holds_hashes_and_seen_records(tmp_path: Path) -> None:
    save_tokenizer("gpt2", tmp_path / "plain")
    save_model(tmp_path / "plain")
    make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic", name="nano")
    manifest = write_manifest(tmp_path / "traffic", seen=[2**63 + 5, 7])
    assert manifest["base_sha256"] == weights_sha256(tmp_path / "traffic")
    assert manifest["source"]["name"] == "nano"
    assert load_seen(tmp_path / "traffic").tolist() == [7, 2**63 + 5]
    assert write_manifest(tmp_path / "traffic", seen=[9])["seen"] == 3
    assert np.array_equal(load_seen(tmp_path), np.zeros(0, dtype=np.uint64))
    card = (tmp_path / "traffic/README.md").read_text()
    assert "# nano, extended for network traffic" in card
    assert manifest["base_sha256"] in card
    assert "| traffic records read | 3 " in card
    write_manifest(tmp_path / "traffic", training={"held_out_loss": 1.5, "held_out_loss_before": 9.0, "tokens": 1000})
    assert "1,000 tokens; held-out loss 1.500 nats a token (before 9.000)" in (tmp_path / "traffic/README.md").read_text()
    again = make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "second", name="nano")
    assert again.base_sha256 == manifest["base_sha256"]


def test_folders_that_are_no_base_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for path, message in (
        (tmp_path / "empty", "config.json"),
        (tmp_path / "file.txt", "is a file"),
        (tmp_path / "absent", "no such folder"),
        ("Qwen/Qwen3-8B", "would fetch config.json"),
    ):
        with pytest.raises(ArtifactError, match=message):
            load_base(path)
    save_tokenizer("gpt2", tmp_path / "pickled")
    save_model(tmp_path / "pickled")
    (tmp_path / "pickled/model.safetensors").rename(tmp_path / "pickled/pytorch_model.bin")
    with pytest.raises(ArtifactError, match="pickled"):
        load_base(tmp_path / "pickled")
    with pytest.raises(ArtifactError, match="pickled"):
        make_traffic_base(tmp_path / "pickled", traffic_tokens(), tmp_path / "out")
    write_json(tmp_path / "empty/config.json", {"model_type": "no-such-model"})
    with pytest.raises(ArtifactError):
        make_traffic_base(tmp_path / "empty", traffic_tokens(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert resolve(tmp_path / "pickled") == tmp_path / "pickled"


def test_a_hub_name_is_taken_from_the_cache_or_refused_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ArtifactError, match=r"config.json, tokenizer.json, tokenizer_config.json, model.safetensors \(or its shards"):
        resolve("org/model")
    home = tmp_path / "models--org--model"
    snapshot = home / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs/main").write_text("abc")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).write_text("{}")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    write_json(snapshot / "model.safetensors.index.json", {"weight_map": shards, "metadata": {"total_size": 16_100_000_000}})
    (snapshot / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"model-2.safetensors \(1 of 2 shards; all together 16.1 GB\)"):
        resolve("org/model")
    (snapshot / "model-2.safetensors").write_bytes(b"")
    assert resolve("org/model") == snapshot


def test_a_base_of_another_codec_is_refused(tmp_path: Path) -> None:
    save_tokenizer("gpt2", tmp_path / "plain")
    save_model(tmp_path / "plain")
    make_traffic_base(tmp_path / "plain", traffic_tokens(), tmp_path / "traffic")
    manifest = read_json(tmp_path / "traffic/trafficllm.json")
    (tmp_path / "traffic/trafficllm.json").write_text(sealed({**manifest, "codec_hash": "0"}))
    with pytest.raises(ArtifactError, match="another codec version"):
        load_base(tmp_path / "traffic")


def test_the_forecast_counts_without_weights(tmp_path: Path) -> None:
    save_tokenizer("gpt2", tmp_path / "plain")
    model = save_model(tmp_path / "plain")
    found = plan(tmp_path / "plain", [50] * 40, SHORT)
    assert found.parameters - found.trainable == sum(value.numel() for value in model.parameters())
    assert found.rows == 40
    assert found.steps == 3
    double = plan(tmp_path / "plain", [50] * 40, SHORT.model_copy(update={"batch_tokens": 1024}))
    assert 1.7 < double.memory.activations / found.memory.activations < 2.3
    held = found.memory
    assert held.total == held.weights + held.states + held.activations + held.program
