"""A base opened for serving alone gives what transformers and PEFT give; whatever it cannot compute is left to them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import infer_samples as samples
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from trafficllm.core.errors import ArtifactError
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.infer.generator.generator import Generator
from trafficllm.model.adapter.merged import merged_weights
from trafficllm.model.base.llama import Llama, LlamaSizes
from trafficllm.model.base.load import load_base
from trafficllm.model.base.served import load_served
from trafficllm.model.tokenizer.plain import PlainTokenizer
from trafficllm.model.tuning.encode import Encoder
from trafficllm.records.catalog import get_task

TASK = get_task("MTD")


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    samples.write_base(place / "base")
    samples.write_adapter(place / "base", place / "adapter", seed=1)
    return place


def test_the_embedded_base_gives_what_transformers_gives(tmp_path: Path) -> None:
    general, small = load_base(), load_served()
    assert isinstance(small.model, Llama)
    assert isinstance(small.tokenizer, PlainTokenizer)
    assert small.manifest == general.manifest
    samples.write_adapter(general.path, tmp_path, seed=1)
    layered, served = Engine(general, merge=False), Engine(small)
    for engine in (layered, served):
        engine.add_adapter("MTD", tmp_path)
    records = samples.records(40)
    for adapter in ("", "MTD"):
        theirs, ours = (LLMScorer(engine, adapter, TASK, TASK.labels).score(records) for engine in (layered, served))
        assert np.abs(theirs.probabilities - ours.probabilities).max() < 1e-5
        assert np.array_equal(theirs.probabilities.argmax(1), ours.probabilities.argmax(1))
        assert theirs.hidden is not None
        assert ours.hidden is not None
        assert np.abs(theirs.hidden - ours.hidden).max() < 1e-3 * np.abs(theirs.hidden).max()


def test_hidden_states_masks_and_caches_are_those_of_transformers(place: Path) -> None:
    general, small = load_base(place / "base", dtype="float32").model, load_served(place / "base").model
    assert isinstance(small, Llama)  # two key-value heads for four heads of queries
    ids = torch.randint(0, small.config.vocab_size, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(17, 17, dtype=torch.bool).tril() & (torch.arange(17) > 2)[None] | torch.eye(17, dtype=torch.bool)
    positions = torch.arange(17).flip(0)[None].repeat(3, 1)
    mask = mask[None, None].repeat(3, 1, 1, 1)
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        for extra in ({}, {"attention_mask": added, "position_ids": positions}):
            theirs, ours = (model(input_ids=ids, output_hidden_states=True, use_cache=False, **extra) for model in (general, small))
            assert len(theirs.hidden_states) == len(ours.hidden_states) == 3
            for one, other in zip((theirs.logits, *theirs.hidden_states), (ours.logits, *ours.hidden_states), strict=True):
                assert (one - other).abs().max() < 1e-4
        cache = small.new_cache()
        parts = [small(input_ids=part, past_key_values=cache, use_cache=True).logits for part in ids.split([5, 1, 11], 1)]
        assert (torch.cat(parts, 1) - general(input_ids=ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
        {"rank_pattern": {"down_proj": 2}, "use_rslora": True, "use_dora": True},
    ],
)
def test_adapters_are_merged_as_peft_merges_them(place: Path, tmp_path: Path, options: dict[str, object]) -> None:
    torch.manual_seed(3)
    base = LlamaForCausalLM.from_pretrained(place / "base")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM", **options)
    tuned = get_peft_model(base, config)
    for name, value in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.uniform_(value, 0.1, 0.5)
    tuned.save_pretrained(tmp_path)
    fresh = LlamaForCausalLM.from_pretrained(place / "base")
    before = load_served(place / "base").model.linear_weights()
    changed = merged_weights(before, tmp_path)
    theirs = dict(PeftModel.from_pretrained(fresh, tmp_path).merge_and_unload().named_parameters())
    assert len(changed) == 6
    for name, value in changed.items():
        assert (value - theirs[name]).abs().max() < 1e-5
        assert (value - before[name]).abs().max() > 1e-2


def test_the_generator_writes_the_same_flows(place: Path) -> None:
    engines = (Engine(load_base(place / "base", dtype="float32"), merge=False), Engine(load_served(place / "base")))
    for engine in engines:
        engine.add_adapter("MTG", place / "adapter")
    theirs, ours = (list(Generator(engine, "MTG").records(get_task("MTG"), "Neris", 3, seed=2)) for engine in engines)
    assert theirs == ours


def test_the_plain_tokenizer_is_that_of_transformers() -> None:
    general, plain = load_base().tokenizer, PlainTokenizer.of(load_base().path)
    assert plain is not None
    texts = ["what is this? <|eos|> <|bos|>", "größe ü 日本 \n\t1234", "\U00100003\U00100013 and words", ""]
    for text in texts:
        for special in (True, False):
            assert plain(text, add_special_tokens=special)["input_ids"] == general(text, add_special_tokens=special)["input_ids"]
    assert plain(texts)["input_ids"] == general(texts)["input_ids"]
    assert plain.get_vocab() == general.get_vocab()
    assert len(plain) == len(general)
    one, other = Encoder(general), Encoder(plain)
    assert vars(one).keys() == vars(other).keys()
    for name in ("forbidden", "before", "after", "bos", "control", "eos"):
        assert getattr(one, name) == getattr(other, name)
    ids = general(texts[1])["input_ids"]
    assert plain.decode(ids) == general.decode(ids)
    assert plain.convert_ids_to_tokens(ids) == general.convert_ids_to_tokens(ids)


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"num_attention_heads": 2},
    ],
)
def test_what_is_not_computed_here_is_left_to_transformers(place: Path, changes: dict[str, object]) -> None:
    config = json.loads((place / "base" / "config.json").read_text())
    assert LlamaSizes.of(config) is not None
    sizes = LlamaSizes.of({**config, **changes})
    assert sizes is None or sizes.tensors() != LlamaSizes.of(config).tensors()  # type: ignore[union-attr]


def test_other_folders_are_opened_by_transformers(place: Path, tmp_path: Path) -> None:
    fast = samples.tokenizer()
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(fast), n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    fast.save_pretrained(tmp_path / "gpt2")
    assert isinstance(load_served(tmp_path / "gpt2").model, GPT2LMHeadModel)
    shutil.copytree(place / "base", tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    opened = load_served(tmp_path / "chat")
    assert isinstance(opened.model, LlamaForCausalLM)
    assert opened.tokenizer.chat_template
    assert isinstance(Engine(opened).model, Llama)  # the tokenizer needed transformers, the model does not


def test_a_damaged_folder_is_refused_with_the_same_words(place: Path, tmp_path: Path) -> None:
    for name, break_it in {
        "weights": lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-64]),
        "config": lambda folder: _edit(folder / "config.json", hidden_size=64),
        "tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    }.items():
        shutil.copytree(place / "base", tmp_path / name)
        break_it(tmp_path / name)
        said = []
        for opener in (load_base, load_served):
            with pytest.raises(ArtifactError) as refused:
                opener(tmp_path / name)
            said.append(str(refused.value))
        assert said[0] == said[1]


def test_serving_imports_neither_transformers_nor_peft(place: Path) -> None:
    program = (
        "import sys\n"
        "from trafficllm.infer.engine.engine import Engine\n"
        "from trafficllm.infer.detector import Detector\n"
        "from trafficllm.infer.generator.generator import Generator\n"
        "from trafficllm.model.base.served import load_served\n"
        "engine = Engine(load_served(sys.argv[1]))\n"
        "engine.add_adapter('a', sys.argv[2])\n"
        "print(engine.score([], ('x', 'y'), adapter='a').labels, sorted({'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(place / "base"), str(place / "adapter")], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "('x', 'y') []\n"


def test_other_devices_and_precisions_take_the_general_path(place: Path) -> None:
    opened = load_served(place / "base")
    assert isinstance(Engine(opened).model, Llama)
    assert isinstance(Engine(opened, dtype="bfloat16").model, LlamaForCausalLM)
    layered = Engine(opened, merge=False)
    layered.add_adapter("MTD", place / "adapter")
    assert isinstance(layered.model, LlamaForCausalLM)
