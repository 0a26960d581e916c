"""From the plain base to the traffic base: records of every folder, traffic tokens, extension, continued pre-training.

    python recipes/nano/traffic.py --data DATA --plain runs/plain/final --corpus runs/corpus --out runs/traffic

`DATA` holds <task folder>/<label>/*.pcap and RESERVED.csv. Only training parts are read: reserved captures, and every capture that
is validation or test of any folder's own split, are left out of tokenizer and weights alike (same seed, same split as a user's).
"""

from __future__ import annotations

import argparse
import random
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

import trafficllm
from trafficllm.core.files import hash64, read_json, write_json
from trafficllm.core.types import Record
from trafficllm.model.base.extend import make_traffic_base, write_manifest
from trafficllm.model.base.load import faster_precision, load_base
from trafficllm.model.tokenizer.learn import learn
from trafficllm.model.tuning.augment import augment
from trafficllm.model.tuning.pretrain import PretrainOptions, held_out_loss, pack, pretrain
from trafficllm.records import masks
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import view
from trafficllm.records.codec.codec import encode
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load

CAPTURES = Path(trafficllm.__file__).parent / "data" / "captures"
RECIPE = tomllib.loads(Path(__file__).with_name("nano.toml").read_text(encoding="utf-8"))["traffic"]


def bundled_sets(out: Path) -> list[Dataset]:
    """The data sets the quickstart makes of the bundled captures: nothing is learnt from them, all they hold back is held back here."""
    made = []
    for task in ("MTD", "EAC"):
        build_dataset(
            CAPTURES / task,
            task=get_task(task),
            out=out / task,
            options=BuildOptions(reserved=CAPTURES / "reserved.csv", seed=RECIPE["seed"]),
        )
        made.append(load(out / task))
    return made


def data_sets(data: Path, out: Path) -> dict[str, Dataset]:
    """Build (or reuse) a data set of each folder the recipe names."""
    made = {}
    for folder, task in RECIPE["folders"].items():
        build_dataset(
            _without(data / folder, RECIPE["left_out"].get(folder, []), out / "labels" / folder),
            task=get_task(task),
            out=out / folder,
            options=BuildOptions(reserved=data / "RESERVED.csv", cap=RECIPE["cap"], keep=("housekeeping",), seed=RECIPE["seed"]),
        )
        made[folder] = load(out / folder)
    return made


def _without(folder: Path, labels: list[str], copy: Path) -> Path:
    """The folder, or a copy of it without some labels' folders."""
    if not labels:
        return folder
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*labels)))


def held_back(sets: Iterable[Dataset]) -> tuple[set[str], set[int]]:
    """Origins and contents that any set keeps for validation or test: nothing of them is learnt, whatever folder it lies in.

    Contents count twice: as plain strict shows them and as the set's own masks do (an artefact mask makes more records equal).
    """
    origins: set[str] = set()
    contents: set[int] = set()
    for data in sets:
        for part in ("val", "test"):
            rows = data.indices(part)
            origins |= {meta.origin for meta in data.meta(rows)}
            contents |= set(data.hashes(rows)) | {content(record) for record in strict(data, rows)}
    return origins, contents


def strict(data: Dataset, rows: list[int]) -> list[Record]:
    """Rows of a data set under the plain strict profile."""
    return [masks.wiped(masks.apply(record, "strict")) for record in data.raw_records(rows)]


def content(record: Record) -> int:
    """64-bit hash of what a record shows."""
    return hash64(encode(record).encode())


def free_rows(data: Dataset, origins: set[str]) -> list[int]:
    """Training rows of captures that no set holds back. Requests and sequences come as one file a source: there contents alone decide."""
    rows = data.indices("train")
    if rows and data.raw_records(rows[:1])[0].kind in {"http", "cells"}:
        return rows
    return [row for row, meta in zip(rows, data.meta(rows), strict=True) if meta.origin not in origins]


def at_most(rows: list[int], labels: list[str], count: int) -> list[int]:
    """The first `count` rows of each label: one large folder must not drown the others."""
    taken: Counter[str] = Counter()
    kept = []
    for row, label in zip(rows, labels, strict=True):
        taken[label] += 1
        if taken[label] <= count:
            kept.append(row)
    return kept


def training_rows(sets: dict[str, Dataset], bundled: list[Dataset]) -> dict[str, list[int]]:
    """The rows of each folder's data set that may be learnt from."""
    origins, contents = held_back([*sets.values(), *bundled])
    allowed = {}
    for folder, data in sets.items():
        free = free_rows(data, origins)
        free = at_most(free, data.labels_of(free), RECIPE["weights"].get(folder, RECIPE["weight"]))
        shown = zip(free, strict(data, free), data.hashes(free), strict=True)
        allowed[folder] = [row for row, record, own in shown if not {content(record), own} & contents]
    return allowed


def training_records(sets: dict[str, Dataset], bundled: list[Dataset]) -> tuple[list[Record], list[int], dict[str, int]]:
    """Masked training records, the hashes of their contents (plain strict, and their own set's masks), counts."""
    records: list[Record] = []
    seen: list[int] = []
    counts = {}
    for folder, rows in training_rows(sets, bundled).items():
        shown = strict(sets[folder], rows)
        records += shown
        seen += [value for record, own in zip(shown, sets[folder].hashes(rows), strict=True) for value in (content(record), own)]
        counts[folder] = len(rows)
    return records, seen, counts


def validation_strings(sets: dict[str, Dataset]) -> list[str]:
    """Encoded validation records of every folder, for the held-out loss."""
    return [text for data in sets.values() for text in data.units(data.indices("val"))]


def with_headers(sets: dict[str, Dataset], bundled: list[Dataset]) -> list[Record]:
    """The same records with windows, times to live and service ports, as generators learn them: no adapter under strict masks is shown
    these values, but without them their units would stay as they were begun."""
    return [view.shown(raw) for folder, rows in training_rows(sets, bundled).items() for raw in sets[folder].raw_records(rows)]


def passes(records: list[Record], headers: list[Record], count: int, seed: int) -> Iterator[str]:
    """`count` shuffled passes over the records, each time augmented anew; every third as it is, a share with their headers shown."""
    chooser = random.Random(seed)
    for _ in range(count):
        order = list(range(len(records)))
        chooser.shuffle(order)
        for place in order:
            record = (headers if chooser.random() < RECIPE["header_share"] else records)[place]
            yield encode(record if chooser.random() < 1 / 3 else augment(record, chooser))


def blocks_of(base, strings: Iterator[str], english: Path, seed: int) -> np.ndarray:
    """Packed traffic blocks with a share of English ones among them."""
    tokenizer = base.tokenizer
    encoded = tokenizer(list(strings), add_special_tokens=False)["input_ids"]
    traffic = pack(encoded, block=RECIPE["block"], eos=tokenizer.eos_token_id)
    text = [part for part in english.read_text(encoding="utf-8").split("\f") if part.strip()]
    random.Random(seed).shuffle(text)
    wanted = int(traffic.size * RECIPE["english_share"])
    words = tokenizer(text[: max(1, int(len(text) * min(1.0, 2 * wanted / 6e6)))], add_special_tokens=False)["input_ids"]
    natural = pack(words, block=RECIPE["block"], eos=tokenizer.eos_token_id)[: wanted // RECIPE["block"]]
    return np.concatenate([traffic, natural])


def main() -> None:
    """Data sets, tokens, extension, training, manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-seconds", type=float, default=RECIPE["max_seconds"])
    parser.add_argument("--only-tokens", action="store_true", help="stop after the extension")
    options = parser.parse_args()
    torch.manual_seed(RECIPE["seed"])
    sets = data_sets(options.data, options.out / "data")
    bundled = bundled_sets(options.out / "bundled")
    records, seen, counts = training_records(sets, bundled)
    print(f"{len(records):,} training records: {counts}", flush=True)
    vocabulary = learn((encode(record) for record in records), RECIPE["vocab_size"], seed=RECIPE["seed"])
    report = make_traffic_base(options.plain, vocabulary, options.out / "extended", name="nano")
    print(report.rows_before, "->", report.rows, "rows", flush=True)
    if options.only_tokens:
        return
    base = load_base(options.out / "extended", dtype="float32")
    strings = passes(records, with_headers(sets, bundled), RECIPE["passes"], RECIPE["seed"])
    blocks = blocks_of(base, strings, options.corpus / "corpus.txt", RECIPE["seed"])
    eos = base.tokenizer.eos_token_id
    held = pack(base.tokenizer(validation_strings(sets), add_special_tokens=False)["input_ids"], block=RECIPE["block"], eos=eos)[:200]
    before = held_out_loss(base.model, held, RECIPE["batch_size"])
    print(f"{blocks.size:,} tokens; held-out loss before training {before:.3f}", flush=True)
    run = PretrainOptions(
        batch_size=RECIPE["batch_size"],
        learning_rate=RECIPE["learning_rate"],
        max_seconds=options.max_seconds,
        seed=RECIPE["seed"],
        half=faster_precision() == "bfloat16",
        compiled=True,
    )
    base.model.train()
    figures = pretrain(base.model, blocks, options.out / "checkpoints", held_out=held, options=run)
    final = options.out / "final"
    shutil.rmtree(final, ignore_errors=True)
    shutil.copytree(options.out / "extended", final)
    base.model.to(torch.bfloat16).save_pretrained(final)
    write_manifest(
        final,
        seen=seen,
        name="nano",
        training={**figures, "held_out_loss_before": before, "records": counts},
        corpus=read_json(options.corpus / "manifest.json"),
    )
    write_json(options.out / "figures.json", figures)
    print(figures)


if __name__ == "__main__":
    main()
