"""What the extension learns from: traffic blocks, text that the model wrote itself, and the blocks that are held out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trafficllm.core.files import read_json, write_json
from trafficllm.model.tuning.pretrain import pack

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nano"))
import traffic


def traffic_blocks(data: Path, out: Path, tokenizer: Any, recipe: dict[str, Any]) -> None:
    """Write traffic.npy (the records that the embedded base learns from), held.npy (validation records) and seen.npy."""
    sets = traffic.data_sets(data, out / "data")
    bundled = traffic.bundled_sets(out / "bundled")
    records, seen, counts = traffic.training_records(sets, bundled)
    strings = traffic.passes(records, traffic.with_headers(sets, bundled), recipe["passes"], recipe["seed"])
    eos = tokenizer.eos_token_id
    blocks = pack(tokenizer(list(strings), add_special_tokens=False)["input_ids"], block=recipe["block"], eos=eos)
    held = pack(tokenizer(traffic.validation_strings(sets), add_special_tokens=False)["input_ids"], block=recipe["block"], eos=eos)
    chooser = np.random.default_rng(recipe["seed"])
    np.save(out / "held.npy", held[chooser.permutation(len(held))[: recipe["held_blocks"]]])
    np.save(out / "seen.npy", np.asarray(sorted(set(seen)), dtype=np.uint64))
    np.save(out / "traffic.npy", blocks[chooser.permutation(len(blocks))])
    write_json(out / "counts.json", {"records": counts, "tokens": int(blocks.size)})


def english_blocks(corpus: Path, out: Path, tokenizer: Any, recipe: dict[str, Any]) -> None:
    """Write english.npy: English that nothing here is trained on, to see what is forgotten."""
    texts = [part for part in (corpus / "corpus.txt").read_text(encoding="utf-8").split("\f") if part.strip()]
    order = np.random.default_rng(recipe["seed"]).permutation(len(texts))[:400]
    ids = tokenizer([texts[k][:4000] for k in order], add_special_tokens=False)["input_ids"]
    np.save(out / "english.npy", pack(ids, block=recipe["block"], eos=tokenizer.eos_token_id)[: recipe["held_blocks"]])


def own_text(model: Any, tokenizer: Any, out: Path, recipe: dict[str, Any]) -> None:
    """Write replay.npy: texts that the model samples from its own distribution, from the start token on."""
    torch.manual_seed(recipe["seed"])
    texts: list[list[int]] = []
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(0, recipe["replay_texts"], 32):
            written = model.generate(
                input_ids=torch.full((32, 1), start),
                do_sample=True,
                temperature=recipe["temperature"],
                top_k=0,
                max_new_tokens=recipe["replay_tokens"],
                pad_token_id=tokenizer.eos_token_id,
            )
            texts += [row[1:].tolist() for row in written]
    ends = tokenizer.eos_token_id
    cut = [row[: row.index(ends)] if ends in row else row for row in texts]
    np.save(out / "replay.npy", pack(cut, block=recipe["block"], eos=ends))


def corpus_facts(corpus: Path) -> Any:
    """What the English corpus is, for the manifest."""
    return read_json(corpus / "manifest.json")
