"""A base of 27 M parameters: English from scratch, traffic tokens, mixed training; one call, resumable at every step.

    python recipes/small/small.py --runs runs --out runs/small

`runs` holds what the nano recipe made: corpus, traffic/data, traffic/bundled. The same exclusions hold: reserved, validation and
test captures are never read. Sizes and seconds are in small.toml.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nano"))

import instruct
import plain as nano_plain
import traffic as nano_traffic
from mixture import Mixture

from trafficllm.core.files import read_json, sha256_file, write_json
from trafficllm.model.base.extend import make_traffic_base, write_manifest
from trafficllm.model.base.load import load_base
from trafficllm.model.tokenizer.learn import learn
from trafficllm.model.tuning.pretrain import PretrainOptions, continue_on, held_out_loss, pack, pretrain
from trafficllm.records import instructions
from trafficllm.records.codec.codec import encode

RECIPE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("small.toml").read_text(encoding="utf-8"))


def plain(corpus: Path, out: Path, recipe: dict[str, Any]) -> None:
    """Tokenizer and weights on English, into `out/plain`."""
    settings, seed = recipe["plain"], recipe["traffic"]["seed"]
    torch.manual_seed(seed)
    texts = [part for part in (corpus / "corpus.txt").read_text(encoding="utf-8").split("\f") if part.strip()]
    held, train = texts[:: nano_plain.HELD_OUT], [text for k, text in enumerate(texts) if k % nano_plain.HELD_OUT]
    nano_plain.RECIPE["tokenizer"] = recipe["tokenizer"]
    tokenizer = nano_plain.train_tokenizer(train)
    eos = int(tokenizer.eos_token_id)
    blocks, kept = (
        pack(tokenizer(part, add_special_tokens=False)["input_ids"], block=settings["block"], eos=eos) for part in (train, held)
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            num_key_value_heads=recipe["model"]["num_attention_heads"],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=eos,
            pad_token_id=tokenizer.pad_token_id,
            **recipe["model"],
        )
    )
    run = PretrainOptions(
        batch_size=settings["batch_size"], learning_rate=settings["learning_rate"], max_seconds=settings["max_seconds"], seed=seed
    )
    figures = pretrain(model, blocks, out / "plain-checkpoints", held_out=np.ascontiguousarray(kept[:200]), options=run)
    folder = out / "plain"
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {"kind": "plain", "name": "small", "figures": figures, "weights_sha256": sha256_file(folder / "model.safetensors")}
    write_json(folder / "trafficllm.json", facts)


def extended(runs: Path, out: Path, recipe: dict[str, Any]) -> None:
    """Traffic tokens learnt over the training records and put into the plain base, into `out/extended`."""
    _, records, _ = instruct.material(runs / "traffic")
    vocabulary = learn((encode(record) for record in records), recipe["traffic"]["vocab_size"], seed=recipe["traffic"]["seed"])
    make_traffic_base(out / "plain", vocabulary, out / "extended", name="small")


def trained(runs: Path, out: Path, recipe: dict[str, Any]) -> None:
    """Mixed training of the extended base, into `out/final`, with the list of what it has seen."""
    settings = recipe["traffic"]
    base = load_base(out / "extended", dtype="float32")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base.model.to(device)
    sets, records, raw = instruct.material(runs / "traffic")
    natural, _ = instruct.english(base, runs / "corpus", settings["english_tokens"])
    mixture = Mixture(base.tokenizer, instructions.load("train"), records, raw, english=natural, recipe=settings)
    strings = base.tokenizer(nano_traffic.validation_strings(sets), add_special_tokens=False)["input_ids"]
    held = pack(strings, block=settings["block"], eos=base.tokenizer.eos_token_id)[:200]
    run = PretrainOptions(
        learning_rate=settings["learning_rate"],
        max_steps=settings["max_steps"],
        max_seconds=settings["max_seconds"],
        save_steps=500,
        log_steps=50,
        seed=settings["seed"],
    )
    base.model.train()
    figures = continue_on(base.model, mixture, out / "checkpoints", options=run)
    figures["held_out_loss"] = held_out_loss(base.model, held, 16)
    shutil.copytree(out / "extended", out / "final", dirs_exist_ok=True)
    base.model.to("cpu", torch.bfloat16).save_pretrained(out / "final")
    bundled = [nano_traffic.load(runs / "traffic" / "bundled" / task) for task in ("MTD", "EAC")]
    _, seen, counts = nano_traffic.training_records(sets, bundled)
    corpus = read_json(runs / "corpus" / "manifest.json")
    write_manifest(out / "final", seen=seen, name="small", training={**figures, "records": counts}, corpus=corpus)


def main(arguments: list[str] | None = None, recipe: dict[str, Any] = RECIPE) -> None:
    """Each step that has not left its folder yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not (options.out / "plain" / "trafficllm.json").is_file():
        plain(options.runs / "corpus", options.out, recipe)
    if not (options.out / "extended" / "trafficllm.json").is_file():
        extended(options.runs, options.out, recipe)
    if not (options.out / "final" / "trafficllm.json").is_file():
        trained(options.runs, options.out, recipe)
    print(read_json(options.out / "final" / "trafficllm.json")["training"])


if __name__ == "__main__":
    main()
