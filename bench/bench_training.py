"""Training tokens/s of stage 2 against a plain Trainer loop with full logits and random batches; medians of 5, alternating.

    python bench/bench_training.py [--base PATH] [--data D] [--rows 100] [--threads 1] [--json]

Same base, rows, LoRA settings, precision, epochs, threads and number of rows a step. Both sides are timed from prompts to the
adapter's folder, encoding and writing included, and both count the tokens that are no padding. The plain side is what the
documentation of transformers and PEFT shows: `Trainer`, `get_peft_model`, the model's own loss over the whole sequence's logits
with the prompt masked out of the labels, rows in random order, padded to the longest of a batch. Ratios are by the process's
CPU clock (one thread: what the machine's other work does not change) and by the wall.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Silent
from trafficllm.lifecycle.adapters.learn import tune_data
from trafficllm.model.adapter import lora
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning.collate import plan_batches
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.job import TuneData, tune_task
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load

RUNS = 5
CAPTURES = Path(__file__).resolve().parents[1] / "src" / "trafficllm" / "data" / "captures" / "MTD"
Figures = dict[str, float]


def rows(count: int, data: Path | None, folder: Path) -> tuple[TuneData, str]:
    """Prompts and labels of a data set's training part, or of the bundled malware captures, repeated up to `count` rows; its hash."""
    if data is None:
        data = folder / "data"
        build_dataset(CAPTURES, task=get_task("MTD"), out=data, options=BuildOptions(profile="strict", seed=0), progress=Silent())
    opened = load(data)
    made = tune_data(opened, augment=False)
    pairs = list(zip(made.prompts, made.answers, strict=True))
    random.Random(0).shuffle(pairs)
    chosen = (pairs * -(-count // len(pairs)))[:count]
    return TuneData([prompt for prompt, _ in chosen], [answer for _, answer in chosen], made.labels), opened.sha256


class _Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Token ids and labels of whole rows, prompt masked out."""

    def __init__(self, base: Base, data: TuneData) -> None:
        encoder = Encoder(base.tokenizer)
        self.rows = []
        for prompt, answer in zip(encoder.prompts(data.prompts), data.answers, strict=True):
            ends = [*encoder.label(answer), encoder.eos]
            self.rows.append({"input_ids": [*prompt, *ends], "labels": [*[-100] * len(prompt), *ends]})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def plain(base: Base, data: TuneData, options: TuneOptions, rows_a_step: int, out: Path) -> int:
    """The plain loop; returns the tokens it saw."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    made = _Rows(base, data)
    tuned = lora.attach(base.model, method="lora", r=options.r, lora_alpha=options.lora_alpha, dropout=0.0, seed=0)
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=rows_a_step,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        report_to=[],
        save_strategy="no",
        logging_steps=options.logging_steps,
        use_cpu=True,
        bf16=base.model.dtype == torch.bfloat16,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=tuned, args=arguments, train_dataset=made, data_collator=DataCollatorForSeq2Seq(base.tokenizer, padding=True))
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
        lora.save_adapter(tuned, out, base_name="bench")
    finally:
        lora.detach(tuned)
    return sum(len(row["input_ids"]) for row in made.rows) * options.epochs


def ours(base: Base, data: TuneData, options: TuneOptions, out: Path) -> int:
    """Stage 2 as `tune task` runs it, without looks at validation; returns the tokens it saw."""
    return tune_task(base, data, out, options).tokens


def timed(work: Callable[[], int]) -> Figures:
    """Tokens, wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    return {"tokens": tokens, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 3), "range": [round(min(values), 3), round(max(values), 3)]}


def measure(base: Base, data: TuneData, epochs: int, folder: Path, runs: int = RUNS) -> dict[str, Any]:
    """Both sides in turn, `runs` times each after one that warms up."""
    encoder = Encoder(base.tokenizer)
    options = TuneOptions(epochs=epochs, looks=0, learning_rate=1e-3)
    lengths = [len(ids) + 2 for ids in encoder.prompts(data.prompts)]
    steps = len(plan_batches(lengths, options.batch_tokens, 0))
    rows_a_step = max(1, round(len(lengths) / steps))
    found: dict[str, list[Figures]] = {"ours": [], "plain": []}
    for run in range(runs + 1):
        mine = timed(lambda: ours(base, data, options, folder / f"ours{run}"))  # noqa: B023 - called at once
        theirs = timed(lambda: plain(base, data, options, rows_a_step, folder / f"plain{run}"))  # noqa: B023
        if run:
            found["ours"].append(mine)
            found["plain"].append(theirs)
    pairs = list(zip(found["ours"], found["plain"], strict=True))
    ratios = {clock: [(a["tokens"] / a[clock]) / (b["tokens"] / b[clock]) for a, b in pairs] for clock in ("cpu", "wall")}
    return {
        "steps": steps * epochs,
        "rows_a_step": rows_a_step,
        "tokens": {side: runs[0]["tokens"] for side, runs in found.items()},
        "tokens_per_second": {
            side: {clock: _spread([run["tokens"] / run[clock] for run in runs]) for clock in ("cpu", "wall")}
            for side, runs in found.items()
        },
        "ratio": {clock: _spread(values) for clock, values in ratios.items()},
        "asked": 1.5,
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="default")
    parser.add_argument("--data", type=Path, help="a data set made by `data build`; default: built from the bundled captures")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line instead of indented text")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.rows = 2
    runs = 1 if options.small else RUNS
    torch.set_num_threads(options.threads)
    base = load_base(options.base, dtype="float32")
    with tempfile.TemporaryDirectory() as name:
        data, sha256 = rows(options.rows, options.data, Path(name))
        found = measure(base, data, options.epochs, Path(name), runs)
    settings = {
        "base": base.path.name,
        "dtype": "float32",
        "threads": options.threads,
        "rows": options.rows,
        "runs": runs,
        "method": "lora",
        "dataset_sha256": sha256,
    }
    print(json.dumps({"settings": settings, **found}, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
