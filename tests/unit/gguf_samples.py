"""A tiny random Llama as a GGUF file, written by the `gguf` package, with a byte-level tokenizer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

WIDTH, LAYERS, HEADS, KEYS, INNER = 32, 2, 4, 2, 64
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def vocabulary() -> tuple[list[str], list[str]]:
    """(pieces, merges) of a byte-level BPE that joins two spaces, and a few words."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["Ġ Ġ", "t h", "th e", "Ġ the", "i n"]
    return [*CONTROL, *letters, *("".join(merge.split()) for merge in merges)], merges


def write_gguf(path: Path, *, pre: str = "smollm", theta: float = 100_000.0, architecture: str = "llama", tied: bool = True) -> Path:
    """Write the model; the same arguments give the same bytes."""
    import gguf

    pieces, merges = vocabulary()
    chooser = np.random.default_rng(0)
    writer: Any = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(len(pieces))
    writer.add_license("apache-2.0")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_merges(merges)
    writer.add_token_types([3 if piece in CONTROL else 1 for piece in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)

    def add(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else chooser.normal(0, 0.05, shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(pieces), WIDTH)
    for layer in range(LAYERS):
        narrow = KEYS * WIDTH // HEADS
        sizes = {
            "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (narrow, WIDTH), "attn_v": (narrow, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,), "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }  # fmt: skip
        for name, shape in sizes.items():
            add(f"blk.{layer}.{name}.weight", *shape)
    add("output_norm.weight", WIDTH)
    if not tied:
        add("output.weight", len(pieces), WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
