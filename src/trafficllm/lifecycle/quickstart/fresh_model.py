"""A small fresh model of another family, made on the spot: shows that the extension works on more than the shipped base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trafficllm.core.files import atomic_dir

VOCABULARY = 2048


def _sentences() -> Iterator[str]:
    """English at hand in the package: the instruction corpus."""
    from trafficllm.records.instructions import load

    for row in load("train"):
        yield row.text


def write_gpt2(out: Path, *, seed: int) -> Path:
    """Write a random-weight GPT-2 (2 layers, width 64) with a byte-level BPE of 2,048 entries trained on the instructions."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(_sentences(), vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end, unk_token=end)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=512,
            n_embd=64,
            n_layer=2,
            n_head=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = GPT2LMHeadModel(config)
    with atomic_dir(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out
