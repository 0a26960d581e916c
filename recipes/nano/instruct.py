"""Third step of the embedded base: it reads the instruction corpus' training authors, beside traffic and English it knows.

    python recipes/nano/instruct.py --trained runs/traffic --corpus runs/corpus --out runs/instruct

Plain next-token training on "request: ... task: ..." lines, in the very words of stage 1's prompt; held-out authors are never
read. Stage 1 still has to be tuned on the user's machine: this only gives a base of a few million parameters the words.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tomllib
from pathlib import Path

import numpy as np
import torch
import traffic

from trafficllm.core.files import read_json
from trafficllm.lifecycle.learn_router import answers
from trafficllm.model.base import MANIFEST, write_manifest
from trafficllm.model.load import load_base
from trafficllm.model.pretrain import PretrainOptions, held_out_loss, pack, pretrain
from trafficllm.records import instructions, prompts
from trafficllm.records.catalog import load_tasks
from trafficllm.records.dataset import load

RECIPE = tomllib.loads(Path(__file__).with_name("nano.toml").read_text(encoding="utf-8"))["instruct"]


def lines(count: int, seed: int) -> list[str]:
    """`count` shuffled passes over the training instructions as stage 1 would show them, answer included."""
    tasks = load_tasks()
    rows = [(row.text, task) for row in instructions.load("train") for task in answers(row.tasks, tasks)]
    chooser = random.Random(seed)
    made = []
    for _ in range(count):
        chooser.shuffle(rows)
        made += [prompts.render(prompts.routing(text)) + task for text, task in rows]
    return made


def main() -> None:
    """Continue the traffic base, keep its list of seen records, write the final folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-seconds", type=float, default=RECIPE["max_seconds"])
    options = parser.parse_args()
    torch.manual_seed(RECIPE["seed"])
    base = load_base(options.trained / "final", dtype="float32")
    tokenizer = base.tokenizer
    eos, block = tokenizer.eos_token_id, traffic.RECIPE["block"]
    asked = pack(tokenizer(lines(RECIPE["passes"], RECIPE["seed"]), add_special_tokens=False)["input_ids"], block=block, eos=eos)
    sets = {name: load(options.trained / "data" / name) for name in traffic.RECIPE["folders"]}
    bundled = [load(options.trained / "bundled" / task) for task in ("MTD", "EAC")]
    records, _, _ = traffic.training_records(sets, bundled)
    known = traffic.blocks_of(base, traffic.passes(records, 1, RECIPE["seed"] + 1), options.corpus / "corpus.txt", RECIPE["seed"] + 1)
    chooser = np.random.default_rng(RECIPE["seed"])
    known = known[chooser.permutation(len(known))[: int(RECIPE["replay"] * len(asked))]]
    blocks = np.concatenate([asked, known])
    held = pack(tokenizer(traffic.validation_strings(sets), add_special_tokens=False)["input_ids"], block=block, eos=eos)[:200]
    print(f"{asked.size:,} tokens of instructions, {known.size:,} of what it knows", flush=True)
    base.model.train()
    run = PretrainOptions(
        batch_size=RECIPE["batch_size"], learning_rate=RECIPE["learning_rate"], max_steps=len(blocks) // RECIPE["batch_size"],
        max_seconds=options.max_seconds, seed=RECIPE["seed"],
    )  # fmt: skip
    figures = pretrain(base.model, blocks, options.out / "checkpoints", held_out=held, options=run)
    final = options.out / "final"
    shutil.rmtree(final, ignore_errors=True)
    shutil.copytree(options.trained / "final", final)
    base.model.eval()
    print("traffic held-out loss", held_out_loss(base.model, held, RECIPE["batch_size"]))
    base.model.to(torch.bfloat16).save_pretrained(final)
    earlier = read_json(final / MANIFEST)["training"]
    write_manifest(final, training={**earlier, "instruct": {**figures, "instruction_tokens": int(asked.size)}})
    print(figures)


if __name__ == "__main__":
    main()
