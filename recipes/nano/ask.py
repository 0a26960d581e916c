"""What a base answers by itself, no adapter: field questions on validation records, exact match a field.

    python recipes/nano/ask.py --trained runs/traffic --base src/trafficllm/data/base/traffic --out docs/results/fields.json

The truth is the decoded value as tshark prints it. Beside it the commonest answer among the training records.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fields
import instruct
import torch

from trafficllm.core.files import write_json
from trafficllm.core.types import Record
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.collate import pad_left
from trafficllm.model.tuning.encode import Encoder
from trafficllm.records import prompts
from trafficllm.records.catalog import get_task

A_FIELD = 100
LONGEST = 20
"""Tokens of the longest answer, a domain."""


def named(base: Base, asked: list[Any]) -> list[str]:
    """Greedy answers to prompts, at most LONGEST tokens each."""
    encoder = Encoder(base.tokenizer)
    rows = [list(ids) for ids in encoder.prompts(asked)]
    starts = [len(row) for row in rows]
    going = set(range(len(rows)))
    for _ in range(LONGEST):
        order = sorted(going)
        inputs = pad_left([rows[k] for k in order], int(base.tokenizer.pad_token_id))
        with torch.inference_mode():
            best = base.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(dim=1).tolist()
        for k, token in zip(order, best, strict=True):
            if token == encoder.eos:
                going.discard(k)
            else:
                rows[k].append(token)
        if not going:
            break
    return [base.tokenizer.decode(row[start:]) for row, start in zip(rows, starts, strict=True)]


def every(raw: Record) -> Iterator[tuple[str, str]]:
    """("view: field", value) of every question about a raw record."""
    for view, (_, asked) in fields.VIEWS.items():
        yield from ((f"{view}: {name}", value) for name, value in asked(raw))


def main() -> None:
    """Ask, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    base = load_base(options.base, dtype="float32")
    sets, _, raw = instruct.material(options.trained)
    common: dict[str, Counter[str]] = defaultdict(Counter)
    for record in raw:
        for name, value in every(record):
            common[name][value] += 1
    held: dict[str, list[tuple[Any, str]]] = defaultdict(list)
    for data in sets.values():
        for record in data.raw_records(data.indices("val")):
            for name, value in every(record):
                held[name].append((record, value))
    task, chooser, found = get_task("FIELD"), random.Random(0), {}
    for name, pairs in sorted(held.items()):
        rows = chooser.sample(pairs, min(A_FIELD, len(pairs)))
        view, field = name.split(": ")
        said = named(base, [prompts.understanding(task, field, fields.VIEWS[view][0](record)) for record, _ in rows])
        usual = common[name].most_common(1)[0][0] if common[name] else ""
        found[name] = {
            "n": len(rows),
            "exact": sum(a == b for a, (_, b) in zip(said, rows, strict=True)) / len(rows),
            "commonest": sum(b == usual for _, b in rows) / len(rows),
            "values": len({b for _, b in rows}),
        }
        print(name, found[name], flush=True)
    mean = sum(row["exact"] for row in found.values()) / max(len(found), 1)
    split = "validation parts of the recipe's data sets; strict masks; read: ports and time to live shown; named: names shown"
    write_json(options.out, {"split": split, "mean_exact": mean, "fields": found})


if __name__ == "__main__":
    main()
