"""Label scoring against generating the answer: same model, adapter, flows, precision and threads; medians of 5 with range.

    python bench/bench_engine.py [--base PATH] [--flows 200] [--threads 2] [--json]

Sides: `score` (the engine), `generate_1` (one prompt at a time, 16 new tokens, adapter resident), `generate_batch` (the same in
padded batches of like length), and apart `reload`, what loading the adapter again at each query would add to each.
A random adapter serves as well as a trained one: neither side's work depends on the weights' values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trafficllm.core.types import Record
from trafficllm.infer.engine import Engine
from trafficllm.infer.forward import batches
from trafficllm.infer.scorer import LLMScorer
from trafficllm.model.load import load_base
from trafficllm.model.lora import attach, detach, save_adapter
from trafficllm.records.catalog import get_task

NEW_TOKENS = 16
RUNS = 5


def flows(n: int) -> list[Record]:
    """Varied TCP records of 1-16 packets with up to 96 payload bytes each way."""
    rng = np.random.default_rng(0)
    return [_flow(rng, int(rng.integers(1, 17))) for _ in range(n)]


def _flow(rng: np.random.Generator, count: int) -> Record:
    return Record(
        proto=6,
        port_class="ew",
        dirs=tuple(rng.integers(0, 2, count).tolist()),
        sizes=tuple(rng.integers(0, 1460, count).tolist()),
        iats=(0, *rng.integers(0, 10**9, count - 1).tolist()),
        flags=tuple(rng.choice([2, 16, 18, 24, 17], count).tolist()),
        windows=(65535,) * count,
        ttls=(-1,) * count,
        payload=(rng.bytes(int(rng.integers(0, 97))), rng.bytes(int(rng.integers(0, 97)))),
    )


def timed(work: Callable[[], Any]) -> list[float]:
    """Seconds of five runs after one that warms up."""
    work()
    out = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        out.append(time.perf_counter() - start)
    return out


def generate(engine: Engine, ids: Sequence[Sequence[int]], rows: int) -> None:
    """Answers as text: `rows` prompts at a time, padded on the left, 16 new tokens each."""
    pad = int(engine.base.tokenizer.pad_token_id)
    for batch in batches([len(row) for row in ids], rows * 10_000, rows):
        width = max(len(ids[i]) for i in batch)
        tokens = torch.tensor([[*[pad] * (width - len(ids[i])), *ids[i]] for i in batch])
        mask = torch.tensor([[*[0] * (width - len(ids[i])), *[1] * len(ids[i])] for i in batch])
        with engine.using("bench") as model:
            model.generate(  # type: ignore[operator]
                input_ids=tokens,
                attention_mask=mask,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=pad,
            )


def measure(base: str, n: int, threads: int) -> dict[str, Any]:
    """All sides on `n` flows; seconds a flow, and the ratios to the engine."""
    torch.set_num_threads(threads)
    opened = load_base(base)
    task = get_task("MTD")
    with tempfile.TemporaryDirectory() as folder:
        tuned = attach(opened.model, method="lora", r=16, lora_alpha=32, dropout=0.0, seed=0)
        save_adapter(tuned, folder, base_name="bench")
        detach(tuned)
        engine = Engine(opened)
        reload = timed(lambda: engine.add_adapter("bench", Path(folder)))
    scorer = LLMScorer(engine, "bench", task, task.labels)
    records = flows(n)
    ids = scorer.ids(records)
    few = ids[: max(8, n // 8)]
    sides = {
        "score": [t / n for t in timed(lambda: scorer.score(records))],
        "generate_1": [t / len(few) for t in timed(lambda: generate(engine, few, 1))],
        "generate_batch": [t / n for t in timed(lambda: generate(engine, ids, 32))],
        "reload": reload,
    }
    mine = statistics.median(sides["score"])
    settings = {"base": opened.path.name, "dtype": str(engine.model.dtype), "threads": threads, "flows": n}
    return {
        "settings": {**settings, "labels": len(task.labels), "new_tokens": NEW_TOKENS},
        "tokens_per_flow": statistics.fmean(len(row) for row in ids),
        "seconds_per_flow": {name: {"median": statistics.median(t), "range": [min(t), max(t)]} for name, t in sides.items()},
        "ratios": {name: statistics.median(sides[name]) / mine for name in ("generate_1", "generate_batch")},
        "flows_per_second": 1 / mine,
    }


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="default")
    parser.add_argument("--flows", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one line instead of indented text")
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.base, chosen.flows, chosen.threads), indent=None if chosen.json else 1))


if __name__ == "__main__":
    main()
