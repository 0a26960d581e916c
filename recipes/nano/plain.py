"""Train the plain embedded base from scratch on English: tokenizer, Llama weights, manifest.

python recipes/nano/plain.py --corpus runs/corpus --out runs/plain [--max-seconds 3000]
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trafficllm.core.files import read_json, sha256_file, write_json
from trafficllm.model.base.load import faster_precision
from trafficllm.model.tuning.pretrain import PretrainOptions, pack, pretrain

RECIPE = tomllib.loads(Path(__file__).with_name("nano.toml").read_text(encoding="utf-8"))
SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>"]
HELD_OUT = 50


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: digits one by one, then GPT-2's pattern."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=RECIPE["tokenizer"]["vocab_size"],
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(documents, trainer=trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2])


def main() -> None:
    """Tokenizer, training, checkpoint folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-seconds", type=float, default=RECIPE["plain"]["max_seconds"])
    options = parser.parse_args()
    settings = RECIPE["plain"]
    torch.manual_seed(settings["seed"])
    documents = [text for text in (options.corpus / "corpus.txt").read_text(encoding="utf-8").split("\f") if text.strip()]
    held, train = documents[::HELD_OUT], [text for index, text in enumerate(documents) if index % HELD_OUT]
    tokenizer = train_tokenizer(train)
    eos = int(tokenizer.eos_token_id)
    encoded = tokenizer(train, add_special_tokens=False)["input_ids"]
    blocks = pack(encoded, block=settings["block"], eos=eos)
    held_blocks = pack(tokenizer(held, add_special_tokens=False)["input_ids"], block=settings["block"], eos=eos)
    print(f"{blocks.size:,} training tokens, {held_blocks.size:,} held out, {len(tokenizer)} entries", flush=True)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=eos,
            pad_token_id=tokenizer.pad_token_id,
            num_key_value_heads=RECIPE["model"]["num_attention_heads"],
            **RECIPE["model"],
        )
    )
    run = PretrainOptions(
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        warmup=settings["warmup"],
        max_seconds=options.max_seconds,
        seed=settings["seed"],
        half=faster_precision() == "bfloat16",
        compiled=True,
    )
    figures = pretrain(model, blocks, options.out / "checkpoints", held_out=np.ascontiguousarray(held_blocks[:200]), options=run)
    final = options.out / "final"
    shutil.rmtree(final, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(final)
    tokenizer.save_pretrained(final)
    corpus = read_json(options.corpus / "manifest.json")
    write_json(
        final / "trafficllm.json",
        {"kind": "plain", "name": "nano", "figures": figures, "corpus": corpus, "weights_sha256": sha256_file(final / "model.safetensors")},
    )
    print(figures)


if __name__ == "__main__":
    main()
