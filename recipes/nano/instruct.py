"""Third step of the embedded base: questions of the instruction corpus' training authors and field questions, beside
traffic and English it knows.

    python recipes/nano/instruct.py --trained runs/traffic --corpus runs/corpus --out runs/instruct

Questions are in the very words of stage 1's prompt, each alone in its row, the loss at the answer; held-out authors are never
read. Stage 1 still has to be tuned on the user's machine: this gives a base of a few million parameters the words.
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path

import numpy as np
import torch
import traffic
from mixture import Mixture

from trafficllm.core.files import read_json
from trafficllm.core.types import Record
from trafficllm.model.base.extend import write_manifest
from trafficllm.model.base.folder import MANIFEST
from trafficllm.model.base.load import Base, faster_precision, load_base
from trafficllm.model.tuning.pretrain import PretrainOptions, continue_on, held_out_loss, pack
from trafficllm.records import instructions
from trafficllm.records.dataset.dataset import Dataset, load

RECIPE = tomllib.loads(Path(__file__).with_name("nano.toml").read_text(encoding="utf-8"))["instruct"]


def material(trained: Path) -> tuple[dict[str, Dataset], list[Record], list[Record]]:
    """The second step's data sets, its masked training records and the same flows unmasked, as field questions need them."""
    sets = {name: load(trained / "data" / name) for name in traffic.RECIPE["folders"]}
    bundled = [load(trained / "bundled" / task) for task in ("MTD", "EAC")]
    rows = traffic.training_rows(sets, bundled)
    records = [record for name, kept in rows.items() for record in traffic.strict(sets[name], kept)]
    return sets, records, [record for name, kept in rows.items() for record in sets[name].raw_records(kept)]


def english(base: Base, corpus: Path, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of English to replay, at most `limit` tokens, and held-out ones (every 50th document, as in plain.py)."""
    texts = [part for part in (corpus / "corpus.txt").read_text(encoding="utf-8").split("\f") if part.strip()]
    eos, block = base.tokenizer.eos_token_id, traffic.RECIPE["block"]
    held, train = texts[::50], [text for place, text in enumerate(texts) if place % 50]
    chooser = np.random.default_rng(RECIPE["seed"])
    picked = [train[place] for place in chooser.permutation(len(train))[: len(train) // 2]]
    kept = pack(base.tokenizer(picked, add_special_tokens=False)["input_ids"], block=block, eos=eos)[: limit // block]
    return kept, pack(base.tokenizer(held, add_special_tokens=False)["input_ids"], block=block, eos=eos)[:100]


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
    sets, records, raw = material(options.trained)
    natural, held_english = english(base, options.corpus, RECIPE["english_tokens"])
    rows = instructions.load("train")
    recipe = {**RECIPE, "block": traffic.RECIPE["block"], "header_share": traffic.RECIPE["header_share"]}
    mixture = Mixture(base.tokenizer, rows, records, raw, english=natural, recipe=recipe)
    held = pack(
        base.tokenizer(traffic.validation_strings(sets), add_special_tokens=False)["input_ids"],
        block=traffic.RECIPE["block"],
        eos=base.tokenizer.eos_token_id,
    )[:200]
    before = {"traffic": held_out_loss(base.model, held, 16), "english": held_out_loss(base.model, held_english, 16)}
    asked = {view: len(found) for view, found in mixture.views.items()}
    print(f"{len(rows):,} questions, {len(records):,} records, {asked} to ask about; before {before}", flush=True)
    base.model.train()
    run = PretrainOptions(
        learning_rate=RECIPE["learning_rate"],
        max_steps=RECIPE["max_steps"],
        max_seconds=options.max_seconds,
        save_steps=200,
        log_steps=100,
        seed=RECIPE["seed"],
        half=faster_precision() == "bfloat16",
        compiled=True,
    )
    figures = continue_on(base.model, mixture, options.out / "checkpoints", options=run)
    base.model.eval()
    after = {"traffic": held_out_loss(base.model, held, 16), "english": held_out_loss(base.model, held_english, 16)}
    final = options.out / "final"
    shutil.rmtree(final, ignore_errors=True)
    shutil.copytree(options.trained / "final", final)
    base.model.to(torch.bfloat16).save_pretrained(final)
    earlier = read_json(final / MANIFEST)["training"]
    facts = {**figures, "questions": len(rows), "held_out_loss_before": before, "held_out_loss": after}
    write_manifest(final, training={**earlier, "instruct": facts})
    print(facts)


if __name__ == "__main__":
    main()
