"""Label scoring against generating the answer: same model, adapter, real flows, precision and threads; medians of 5 with range.

    python bench/bench_engine.py [--base PATH] [--adapter FOLDER] [--flows 192] [--threads 1] [--json] [--out FILE]

Flows are drawn from the bundled malware captures without their reserved part, no two alike. All times are processor time. Sides, run in
turn so that a noisy moment meets all:

- `score`: the adapter's first member with its readouts, as the engine serves it: the model that all other sides run. `score_members`: all
  members. `score_unmerged`: the first one as PEFT's own layers.
- `cascade`: LightGBM first, fitted on the training part, with the threshold that validation gives; `score` for the rest. `trees`: LightGBM
  alone.
- `generate_1`: one prompt at a time, 16 new tokens, adapter resident in PEFT, key-value cache on.
- `generate_batch`: plain batched generate, 32 flows at a time in the order they come, padded on the left.
- `generate_sorted`: the same in batches of like length. `generate_sorted_merged`: and with the adapter merged into the weights.

Apart stand `serving_peak_bytes` (a process that only scores, with all members), `cascade` (what the trees settle), `reload` (what
loading base and adapter, or the adapter alone, adds to each query) and `agree` (verdicts merged against unmerged, and at batch 1
against 64). Without `--adapter` a random one serves: no side's work depends on the weights' values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trafficllm
from trafficllm.core.files import write_json
from trafficllm.core.types import Record, Scores
from trafficllm.evaluate.baselines.learners import Data, Part
from trafficllm.evaluate.baselines.table import fit
from trafficllm.evaluate.cascade import fit as fit_threshold
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.forward import batches
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.lifecycle.studies.cascade import Cascade
from trafficllm.model.adapter.lora import attach, detach, save_adapter
from trafficllm.model.base.load import load_base
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load
from trafficllm.registry.members import folders

CAPTURES = Path(trafficllm.__file__).parent / "data" / "captures"
TASK = get_task("MTD")
NEW_TOKENS, RUNS, ROWS = 16, 5, 32


def flows(n: int, folder: Path) -> list[Record]:
    """`n` masked training records, no two alike: the engine scores equal prompts once, which should not flatter it here. Their data set
    is built in `folder` where it is not there."""
    return different(built(folder), n)


def built(folder: Path) -> Dataset:
    """The data set in `folder`, built where it is not there."""
    if not folder.is_dir():
        build_dataset(CAPTURES / "MTD", task=TASK, out=folder, options=BuildOptions(reserved=CAPTURES / "reserved.csv", cap=60, seed=0))
    return load(folder)


def different(data: Dataset, n: int) -> list[Record]:
    """`n` training records of a built data set, no two alike."""
    idx = np.random.default_rng(0).permutation(data.indices("train")).tolist()
    first = dict(zip(data.units(idx), idx, strict=True))
    return data.records(list(first.values())[:n])


def cascade(data: Dataset, rest: LLMScorer) -> Cascade:
    """LightGBM on the training part, one point of its search, and the threshold from which on it answers alone, from validation."""
    parts = [Part.of(data, data.indices(name)) for name in ("train", "val")]
    trees = fit("lightgbm", Data(rest.labels, *parts, threads=torch.get_num_threads(), budget_s=1.0))
    p = trees.probabilities(parts[1], held_out=True)
    right = [rest.labels[k] == y for k, y in zip(p.argmax(axis=1), parts[1].y, strict=True)]
    return Cascade(trees, rest, fit_threshold(p.max(axis=1), right, data.hashes(data.indices("val"))).threshold)


_SERVING = """
import json, sys
from pathlib import Path
import torch
from trafficllm.infer.engine.engine import Engine
from trafficllm.model.base.served import load_served

sys.path.insert(0, sys.argv[5])
from peak_memory import peak_bytes

torch.set_num_threads(int(sys.argv[4]))
asked = json.loads(Path(sys.argv[3]).read_text())
engine = Engine(load_served(sys.argv[1]))
engine.add_adapter("bench", sys.argv[2])
engine.score_ids(asked["ids"], asked["labels"], adapter="bench")
print(peak_bytes())
"""


def serving(base: str, folder: Path, asked: Path) -> int:
    """Peak memory of a process of its own that opens base and adapter for serving and scores what the file asks, in bytes."""
    command = [sys.executable, "-c", _SERVING, base, str(folder), str(asked), str(torch.get_num_threads()), str(Path(__file__).parent)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def random_adapter(model: Any, folder: Path) -> Path:
    """A LoRA of the default rank whose weights are not zero."""
    tuned = attach(model, method="lora", r=16, lora_alpha=32, dropout=0.0, seed=0)
    for name, value in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02)
    save_adapter(tuned, folder, base_name="bench")
    detach(tuned)
    return folder


def rounds(sides: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Processor seconds of each side, `runs` times in turn after one round that warms up."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for k in range(runs + 1):
        for name, work in sides.items():
            start = time.process_time()
            work()
            if k:
                spent[name].append(time.process_time() - start)
    return spent


class Texts:
    """An adapter merged into transformers' own model, which writes text; what the engine serves with does not."""

    def __init__(self, base: str, folder: Path) -> None:
        from peft import PeftModel

        self.base = load_base(base)
        self.model = PeftModel.from_pretrained(self.base.model, str(folder)).merge_and_unload().eval()

    @contextmanager
    def using(self, _: str) -> Iterator[Any]:
        """The model, as `Engine.using` gives it."""
        with torch.inference_mode():
            yield self.model


def generate(engine: Engine | Texts, ids: Sequence[Sequence[int]], parts: Sequence[Sequence[int]]) -> None:
    """Answers as text: each part's prompts at once, padded on the left, 16 new tokens each."""
    pad = int(engine.base.tokenizer.pad_token_id)
    for part in parts:
        width = max(len(ids[i]) for i in part)
        tokens = torch.tensor([[*[pad] * (width - len(ids[i])), *ids[i]] for i in part])
        mask = torch.tensor([[*[0] * (width - len(ids[i])), *[1] * len(ids[i])] for i in part])
        with engine.using("bench") as model:
            model.generate(  # type: ignore[operator, unused-ignore]
                input_ids=tokens,
                attention_mask=mask,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                use_cache=True,
                pad_token_id=pad,
            )


def agree(one: Scores, other: Scores) -> dict[str, float]:
    """Share of equal verdicts, and the largest difference of a probability."""
    same = one.probabilities.argmax(axis=1) == other.probabilities.argmax(axis=1)
    return {"same_verdict": float(same.mean()), "largest_difference": float(np.abs(one.probabilities - other.probabilities).max())}


def switching(engine: Engine, folder: Path) -> float:
    """Median seconds to make another resident adapter the active one."""
    engine.add_adapter("other", folder)
    spent = []
    for k in range(200):
        start = time.process_time()
        with engine.using(("bench", "other")[k % 2]):
            spent.append(time.process_time() - start)
    engine.remove_adapter("other")
    return statistics.median(spent)


def median(values: Sequence[float], scale: float) -> dict[str, Any]:
    """Median and range, scaled."""
    return {"median": statistics.median(values) * scale, "range": [min(values) * scale, max(values) * scale]}


def measure(base: str, n: int, threads: int, adapter: Path | None, runs: int = RUNS) -> dict[str, Any]:
    """All sides on `n` flows; seconds a flow, and the ratios to the engine."""
    torch.set_num_threads(threads)
    opened = load_base(base)
    with tempfile.TemporaryDirectory() as place:
        data = built(Path(place) / "data")
        records = different(data, n)
        folder = adapter or random_adapter(opened.model, Path(place) / "adapter")
        served, plain = Engine(opened), Engine(opened, merge=False)
        for engine in (served, plain):
            engine.add_members("bench", folders(folder)[:1])
        served.add_adapter("members", folder)
        reload = reloading(base, folder, plain, runs)
        texts = Texts(base, folder)
        switch = {"merged": switching(served, folder), "unmerged": switching(plain, folder)}
        mine, theirs = (LLMScorer(engine, "bench", TASK, TASK.labels) for engine in (served, plain))
        ids = mine.ids(records)
        write_json(Path(place) / "asked.json", {"ids": ids, "labels": TASK.labels})
        peak = serving(base, folder, Path(place) / "asked.json")
        joint = cascade(data, mine)
    few, lengths = range(0, n, 12), [len(row) for row in ids]
    plainly, alike = [range(k, min(k + ROWS, n)) for k in range(0, n, ROWS)], list(batches(lengths, ROWS * max(lengths), ROWS))
    members = LLMScorer(served, "members", TASK, TASK.labels)
    spent = rounds(
        {
            "score": lambda: mine.score(records),
            "score_members": lambda: members.score(records),
            "score_unmerged": lambda: theirs.score(records),
            "cascade": lambda: joint.score(records),
            "trees": lambda: joint.first.score(records),
            "generate_1": lambda: generate(plain, ids, [[i] for i in few]),
            "generate_batch": lambda: generate(plain, ids, plainly),
            "generate_sorted": lambda: generate(plain, ids, alike),
            "generate_sorted_merged": lambda: generate(texts, ids, alike),
        },
        runs,
    )
    flow = {name: median(t, 1 / (len(few) if name == "generate_1" else n)) for name, t in spent.items()}
    single, many = (served.score_ids(ids, TASK.labels, adapter="bench", batch_tokens=size) for size in (1, 64 * max(lengths)))
    return {
        "settings": {
            "base": opened.path.name,
            "dtype": str(served.model.dtype),
            "adapter": "trained" if adapter else "random",
            "members": len(served.members("members")),
            "threads": threads,
            "flows": n,
            "runs": runs,
            "labels": len(TASK.labels),
            "new_tokens": NEW_TOKENS,
            "rows": ROWS,
            "engine_batch_tokens": served.batch_tokens,
        },
        "tokens_per_flow": statistics.fmean(lengths),
        "different_flows": len({tuple(row) for row in ids}),
        "seconds_per_flow": flow,
        "ratios": {name: row["median"] / flow["score"]["median"] for name, row in flow.items() if name != "score"},
        "flows_per_second": {name: 1 / flow[name]["median"] for name in ("score", "score_members", "cascade", "trees")},
        "cascade": {"threshold": joint.threshold, "settled": float(joint.sure(joint.first.score(records)).mean())},
        "serving_peak_bytes": peak,
        "reload_seconds_per_query": {name: median(t, 1.0) for name, t in reload.items()},
        "switch_seconds": switch,
        "agree": {"merged_unmerged": agree(mine.score(records), theirs.score(records)), "batch_1_and_64": agree(single, many)},
    }


def reloading(base: str, folder: Path, plain: Engine, runs: int) -> dict[str, list[float]]:
    """Seconds that loading base and adapter, or the adapter alone, adds to a query."""
    return rounds(
        {
            "base_and_adapter": lambda: Engine(load_base(base), merge=False).add_members("bench", folders(folder)[:1]),
            "adapter": lambda: plain.add_members("bench", folders(folder)[:1]),
        },
        runs,
    )


def table(doc: str | None, name: str, measure: Callable[..., dict[str, Any]], flows: int, small: int) -> None:
    """The command of a bench: its table as JSON, from `measure(base, flows, threads, adapter, runs)`; `small` flows where asked for."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--base", default="default")
    parser.add_argument("--adapter", type=Path, help="a trained PEFT folder of the task's base")
    parser.add_argument("--flows", type=int, default=flows)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true", help="one line instead of indented text")
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--small", action="store_true", help="a trial of seconds: its figures mean nothing")
    options = parser.parse_args()
    if options.small:
        options.flows, options.runs = small, 1
    result = measure(options.base, options.flows, options.threads, options.adapter, options.runs)
    if options.out:
        write_json(options.out, {"command": f"python bench/{name}", **result})
    print(json.dumps(result, indent=None if options.json else 1))


if __name__ == "__main__":
    table(__doc__, "bench_engine.py", measure, 192, 12)
