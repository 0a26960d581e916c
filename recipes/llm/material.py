"""What the extension learns from: traffic blocks, English to stay close to the plain model on, and the blocks that are held out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trafficllm.core.files import read_json, write_json
from trafficllm.model.base.load import DATA
from trafficllm.model.tuning.pretrain import pack

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nano"))
import traffic

QUESTIONS = DATA.parent / "instructions" / "train.jsonl"


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


def documents(corpus: Path) -> dict[str, list[str]]:
    """The documents of each part of recipes/nano/corpus.py's corpus, by its file or package."""
    texts = [part for part in (corpus / "corpus.txt").read_text(encoding="utf-8").split("\f") if part.strip()]
    parts, first = {}, 0
    for part in read_json(corpus / "manifest.json")["parts"]:
        parts[part.get("file") or part["package"]] = texts[first : first + part["documents"]]
        first += part["documents"]
    return parts


def english_blocks(corpus: Path, out: Path, tokenizer: Any, recipe: dict[str, Any]) -> None:
    """Write docs.npy (parts of the corpus that nothing here is trained on, to see what is forgotten) and keep.npy: excerpts of the other
    parts, and the router's training questions in the chat's form."""
    english, chooser = recipe["english"], np.random.default_rng(recipe["seed"])
    parts = documents(corpus)
    held = [text for name in english["held_parts"] for text in parts.pop(name)]
    rest = [text for texts in parts.values() for text in texts]

    def excerpts(texts: list[str], count: int) -> list[str]:
        return [texts[k][: english["excerpt"]] for k in chooser.permutation(len(texts))[:count]]

    questions = [json.loads(line)["text"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    chats = [[{"role": "user", "content": text}] for text in excerpts(questions, english["questions"])]
    formed = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    kept = [*excerpts(rest, english["documents"]), *formed]
    kept = [kept[k] for k in chooser.permutation(len(kept))]
    for name, texts in (("docs", excerpts(held, 400)), ("keep", kept)):
        blocks = pack(tokenizer(texts, add_special_tokens=False)["input_ids"], block=recipe["block"], eos=tokenizer.eos_token_id)
        blocks = blocks[chooser.permutation(len(blocks))]
        np.save(out / f"{name}.npy", blocks[: recipe["held_blocks"]] if name == "docs" else blocks)


def own_text(model: Any, tokenizer: Any, out: Path, recipe: dict[str, Any]) -> None:
    """Write own.npy: texts that the model samples from its own distribution, from the start token on. They are held out."""
    torch.manual_seed(recipe["seed"])
    english = recipe["english"]
    texts: list[list[int]] = []
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    device = next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for _ in range(0, english["own_texts"], 32):
            written = model.generate(
                input_ids=torch.full((32, 1), start, device=device),
                attention_mask=torch.ones((32, 1), dtype=torch.long, device=device),
                do_sample=True,
                temperature=english["temperature"],
                top_k=0,
                max_new_tokens=english["own_tokens"],
                pad_token_id=tokenizer.eos_token_id,
            )
            texts += [row[1:].tolist() for row in written]
    ends = tokenizer.eos_token_id
    cut = [row[: row.index(ends)] if ends in row else row for row in texts]
    np.save(out / "own.npy", pack(cut, block=recipe["block"], eos=ends))
