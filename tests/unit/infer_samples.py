"""A tiny random Llama with a traffic tokenizer, and adapters for it: built in seconds, the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers import decoders as token_decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trafficllm.core.types import Record
from trafficllm.records.codec import codec, units

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def tokenizer() -> Any:
    """Byte-level tokenizer, every codec unit a token, and some tokens of several units."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: k for k, char in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = token_decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    runs = [units.DIR_UNITS[0] + units.FLAG_UNITS[16] + units.SIZE_ZERO, units.bytes_units(b"\x16\x03\x01")]
    runs += [units.DIR_UNITS[1] + units.FLAG_UNITS[24], units.bytes_units(b"GET /")]
    added = [*units.UNITS, *runs]
    fast.add_tokens([AddedToken(unit, normalized=False, special=False) for unit in added])
    return fast


def write_base(folder: Path, *, seed: int = 0, width: int = 32) -> Path:
    """Save a random base as an ordinary checkpoint folder."""
    torch.manual_seed(seed)
    fast = tokenizer()
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """Save a random (not zero) LoRA adapter on the Linear layers of a base."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    for name, value in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.3)
    tuned.save_pretrained(folder)
    return folder


def records(n: int, *, seed: int = 0) -> list[Record]:
    """Varied canonical flow records, some short, some long."""
    rng = np.random.default_rng(seed)
    return [codec.decode(codec.encode(_record(rng))) for _ in range(n)]


def _record(rng: np.random.Generator) -> Record:
    count = int(rng.integers(1, 14))
    return Record(
        proto=6,
        port_class="ew",
        dirs=tuple(int(d) for d in rng.integers(0, 2, count)),
        sizes=tuple(int(s) for s in rng.integers(0, 1460, count)),
        iats=(0, *(int(t) for t in rng.integers(0, 10**9, count - 1))),
        flags=tuple(int(f) for f in rng.choice([2, 16, 18, 24, 17], count)),
        windows=(255,) * count,
        ttls=(-1,) * count,
        payload=(bytes(rng.integers(0, 256, int(rng.integers(0, 40)), dtype=np.uint8)), b""),
    )
