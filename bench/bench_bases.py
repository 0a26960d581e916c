"""What scoring flows costs on a base, in the precisions a CPU has: tokens and flows a second, peak memory, and whether verdicts stay.

    python bench/bench_bases.py --base smollm2 --base default [--flows 24] [--threads 1 --threads 2] [--out FILE]

Flows are drawn from the bundled malware captures without their reserved part; the label of each is scored without an adapter. Every form
runs in a process of its own, so that its peak memory is its own. Seconds are the processor's, which other work on the machine changes
little; the wall clock's stand beside, which on several threads say more where nothing else runs. `int8` are the linear layers with
weights of eight bits and activations quantised on the fly.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_engine import TASK, flows
from peak_memory import peak_bytes

from trafficllm.core.files import write_json
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.model.base.load import Base, load_base

FORMS = ("float32", "bfloat16", "int8")
PAIRED = ("verdicts", "margins")
"""Of each flow, compared between forms and not shown."""


def opened(base: str, form: str) -> Base:
    """The base in one form."""
    if form != "int8":
        return load_base(base, dtype="bfloat16" if form == "bfloat16" else "float32")
    whole = load_base(base, dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the call is announced to move to torchao
        small = torch.ao.quantization.quantize_dynamic(whole.model, {torch.nn.Linear}, dtype=torch.qint8)
    return Base(small, whole.tokenizer, whole.path, whole.manifest)


def one(base: str, form: str, count: int, threads: int, place: Path) -> dict[str, Any]:
    """One form: cost, peak memory in bytes before and after scoring, and the verdict on each flow."""
    torch.set_num_threads(threads)
    records = flows(count, place)
    begun = time.process_time()
    scorer = LLMScorer(Engine(opened(base, form)), "", TASK, TASK.labels)
    loading = time.process_time() - begun
    tokens = sum(len(row) for row in scorer.ids(records))
    scorer.score(records[:2])
    processor, wall = time.process_time(), time.perf_counter()
    scores = scorer.score(records)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    best = np.sort(scores.probabilities, axis=1)
    return {
        "loading_seconds": round(loading, 2),
        "tokens_a_flow": round(tokens / len(records), 1),
        "prompt_tokens_shared": scorer.prefix_length,
        "flows_a_second": round(len(records) / processor, 2),
        "tokens_a_second": round(tokens / processor, 1),
        "flows_a_second_wall": round(len(records) / wall, 2),
        "peak_bytes": peak_bytes(),
        "verdicts": scores.probabilities.argmax(axis=1).tolist(),
        "margins": (best[:, -1] - best[:, -2]).tolist(),
    }


def measure(bases: list[str], count: int, threads: list[int]) -> dict[str, Any]:
    """Every base in every form on so many threads, each in a process of its own; `same_verdict` is the share of verdicts that float32 on
    the same threads gives too, `mean_margin_where_not` by how much the likeliest label leads the next where the verdict differs;
    of a base that names one label (`labels_named`) for all, equal verdicts say nothing."""
    out: dict[str, Any] = {"flows": count, "torch": torch.__version__, "bases": {}}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "data"
        flows(1, place)
        for base in bases:
            out["bases"][Path(base).name] = {f"{n} thread{'s' * (n > 1)}": _forms(base, count, n, place) for n in threads}
    return out


def _forms(base: str, count: int, threads: int, place: Path) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for form in FORMS:
        command = [sys.executable, "-W", "ignore", __file__, "--base", base, "--form", form, "--data", str(place)]
        command += ["--flows", str(count), "--threads", str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[form] = json.loads(done.stdout.splitlines()[-1])
        print(base, threads, form, {k: v for k, v in rows[form].items() if k not in PAIRED}, file=sys.stderr, flush=True)
    truth = rows[FORMS[0]]["verdicts"]
    for row in rows.values():
        verdicts, margins = (row.pop(key) for key in PAIRED)
        row["labels_named"] = len(set(verdicts))
        same = [a == b for a, b in zip(truth, verdicts, strict=True)]
        row["same_verdict"] = round(sum(same) / len(same), 3)
        row["mean_margin_where_not"] = round(sum(m for m, s in zip(margins, same, strict=True) if not s) / max(same.count(False), 1), 3)
    return rows


def main() -> None:
    """The table; with --form one row of it, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", action="append", help="default: the embedded base alone")
    parser.add_argument("--json", action="store_true", help="as the other benchmarks take it: what is printed is JSON anyway")
    parser.add_argument("--small", action="store_true", help="a trial, whose figures mean nothing")
    parser.add_argument("--flows", type=int, default=24)
    parser.add_argument("--threads", type=int, action="append", help="default: 1")
    parser.add_argument("--data", type=Path, help="with --form: where the flows are")
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bases, count, threads = options.base or ["default"], 4 if options.small else options.flows, options.threads or [1]
    if options.form:
        print(json.dumps(one(bases[0], options.form, count, threads[0], options.data)))
        return
    table = measure(bases, count, threads)
    if options.out is not None:
        write_json(options.out, table)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
