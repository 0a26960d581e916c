"""Bases: a traffic vocabulary for any model, what it saves, and training it on traffic."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.files import atomic_dir
from trafficllm.core.types import ProgressSink, Record
from trafficllm.lifecycle.bases.results import TokenizerCompare, TokenizerExtend, TokenizerRow, Tune
from trafficllm.model.results import Tokens

BLOCK = 256
"""Tokens of a training block, as in the recipe of the shipped base."""
_SECONDS = 600.0


def extend(
    base: str, data: Path | None, out: Path, *, size: int, seed: int, progress: ProgressSink, vocabulary: Path | None = None
) -> TokenizerExtend:
    """Learn traffic tokens from a data set's training part and write the extended base (contract: `tokenizer extend`).

    `vocabulary` is a file of `tokenizer train`, taken instead of learning; without `data` the cost of a flow is not counted.
    """
    from trafficllm.lifecycle.bases.vocabulary import read
    from trafficllm.model.base.extend import make_traffic_base
    from trafficllm.model.base.load import resolve
    from trafficllm.model.tokenizer.learn import learn
    from trafficllm.records.dataset.dataset import load

    source = resolve(base)
    opened = load(data) if data is not None else None
    if vocabulary is not None:
        tokens = read(vocabulary)
    elif opened is not None:
        progress.update("learning tokens", 0, None)
        tokens = learn(opened.units(_some(opened.indices("train"), opened.path)), size, seed=seed)
    else:
        raise UsageError("usage.vocabulary", "nothing to learn from", hint="give --data D, or --vocabulary FILE")
    progress.update("writing the base", 0, None)
    report = make_traffic_base(source, tokens, out, name=source.name)
    held = opened.records(opened.indices("val") or opened.indices("train")) if opened else []
    progress.update("comparing", 0, None)
    return TokenizerExtend(
        out=str(out),
        vocab_size=report.tokenizer.vocab_size,
        tokens_added=report.tokenizer.tokens_added,
        tokens_per_flow=tokens_per_flow(source, out, held) if held else None,
        base_sha256=report.base_sha256,
        rows=report.rows,
        linked=report.linked,
    )


def tokens_per_flow(plain: Path, extended: Path, records: Sequence[Record]) -> Tokens:
    """Mean tokens of a flow under a plain tokenizer (readable text) and its extension, and their ratio."""
    from trafficllm.model.tokenizer.compare import compare as count
    from trafficllm.model.tokenizer.extend import load_auto

    return count(load_auto(plain), load_auto(extended), records)


def compare(data: Path, bases: Sequence[str]) -> TokenizerCompare:
    """What a flow costs under each tokenizer, on held-out records (contract: none; `tokenizer compare`).

    `ratio` is the first tokenizer's cost over this one's. A tokenizer without traffic tokens reads readable text, as it would have to;
    that text and the original system's form are counted for every tokenizer, and whether all records came back.
    """
    from trafficllm.model.base.load import resolve
    from trafficllm.model.tokenizer.compare import original_text, plain_text
    from trafficllm.model.tokenizer.extend import load_auto, record_text, traffic_ids
    from trafficllm.records.codec.codec import encode
    from trafficllm.records.dataset.dataset import load

    opened = load(data)
    part = next((name for name in ("val", "train", "test") if opened.indices(name)), "val")
    records = opened.records(_some(opened.indices(part), data))
    forms = {
        "units": [encode(record) for record in records],
        "readable": [plain_text(record) for record in records],
        "original": [original_text(record) for record in records],
    }
    rows: list[TokenizerRow] = []
    for name in bases:
        tokenizer = load_auto(resolve(name))
        traffic = traffic_ids(tokenizer)
        ids = {form: tokenizer(texts, add_special_tokens=False)["input_ids"] for form, texts in forms.items()}
        cost = {form: sum(map(len, cut)) / len(records) for form, cut in ids.items()}
        mean = cost["units"] if traffic else cost["readable"]
        first = rows[0].tokens_per_flow if rows else mean
        came_back = all(record_text(tokenizer, row) == text for row, text in zip(ids["units"], forms["units"], strict=True))
        rows.append(
            TokenizerRow(
                tokenizer=name,
                vocab_size=len(tokenizer),
                traffic_tokens=len(traffic),
                tokens_per_flow=round(mean, 2),
                ratio=round(first / mean, 3),
                readable=round(cost["readable"], 2),
                native_ratio=round(cost["readable"] / mean, 3),
                original_form=round(cost["original"], 2),
                exact=came_back if traffic else None,
            )
        )
    return TokenizerCompare(part=part, flows=len(records), tokenizers=rows)


def _some(rows: list[int], data: Path) -> list[int]:
    if not rows:
        raise InputError("input.no_records", "the data set has no training records", input=str(data), hint="build it from more captures")
    return rows


def tune_base(data: Path, base: str, out: Path, *, max_seconds: float | None, seed: int, progress: ProgressSink) -> Tune:
    """Train a traffic base on a data set's training records; the same call again goes on from its last checkpoint."""
    from trafficllm.model.base.extend import write_manifest
    from trafficllm.model.base.load import load_base
    from trafficllm.model.tokenizer.extend import opening_ids
    from trafficllm.model.tuning.job import peak_bytes
    from trafficllm.model.tuning.pretrain import PretrainOptions, pack, pretrain
    from trafficllm.records.dataset.dataset import load

    opened = load(data)
    rows = _some(opened.indices("train"), data)
    start = load_base(base, dtype="float32")
    tokenizer = start.tokenizer
    work = out.with_name(f".{out.name}.work")
    resumed = sorted(path.name for path in work.glob("checkpoint-*"))

    def blocks(part: Sequence[int]) -> Any:
        ids = tokenizer(opened.units(part), add_special_tokens=False)["input_ids"]
        return pack(ids, block=BLOCK, eos=tokenizer.eos_token_id, first=opening_ids(tokenizer))

    train = blocks(rows)
    if not len(train):
        raise InputError("input.no_records", "too few records for one training block", input=str(data), hint="build it from more captures")
    held = blocks(opened.indices("val"))
    progress.update("training the base", 0, None)
    begun = time.monotonic()
    start.model.train()
    options = PretrainOptions(seed=seed, max_seconds=max_seconds or _SECONDS, batch_size=min(16, len(train)), save_steps=100)
    with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints its log there: stdout carries data
        figures = pretrain(start.model, train, work, held_out=held if len(held) else train[:1], options=options)
    with atomic_dir(out) as folder:
        shutil.copytree(start.path, folder, dirs_exist_ok=True)
        start.model.save_pretrained(folder)
        write_manifest(folder, seen=opened.hashes(rows), training=figures)
    shutil.rmtree(work, ignore_errors=True)
    return Tune(
        stage="base",
        out=str(out),
        steps=int(figures["steps"]),
        tokens=int(figures["tokens"]),
        tokens_per_second=figures["tokens_per_second"],
        seconds=time.monotonic() - begun,
        peak_bytes=peak_bytes(),
        resumed_from=int(resumed[-1].split("-")[1]) if resumed else None,
        validation={"loss": figures["held_out_loss"]},
        trainable=sum(value.numel() for value in start.model.parameters()),
        best_step=int(figures["steps"]),
        reused=False,
    )
