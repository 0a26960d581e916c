"""What the size of a traffic vocabulary buys and costs.

    python recipes/tokenizers/sizes.py --trained runs/traffic --plain runs/plain/final --kinds runs/tokenizers --out sizes.json --train 75

`--trained` holds the data sets of recipes/nano/traffic.py: vocabularies are learnt from the very rows the embedded base learns from, flows
are counted on validation parts. `--kinds` holds plain tokenizers (kinds.py). With `--train SECONDS` the plain base extended by each size is
trained on traffic for that many processor seconds and judged: nats a codec unit on validation flows, and a linear probe on frozen states.
What is in `--out` already is kept: the command resumes.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nano"))
import instruct
import traffic

from trafficllm.core.files import read_json, write_json
from trafficllm.core.types import Record
from trafficllm.model.base.extend import make_traffic_base
from trafficllm.model.base.folder import TOKENIZER
from trafficllm.model.tokenizer.compare import plain_text
from trafficllm.model.tokenizer.extend import load_auto
from trafficllm.model.tokenizer.learn import Matcher, learn
from trafficllm.records.codec.codec import encode
from trafficllm.records.codec.units import UNITS
from trafficllm.records.dataset.dataset import Dataset

NANO = tomllib.loads((Path(traffic.__file__).with_name("nano.toml")).read_text(encoding="utf-8"))
SIZES = (1024, 2048, 3072, 4096, 8192, 16384)
TASKS = ("MTD", "EVD", "EAC", "MDD", "WAD", "WF")
RARE = 10
"""A token seen less often in the training records is called rare: its row hardly moves from where it started."""
PROBED = {"MTD": "MTD_ustc2016", "EVD": "EVD_iscxvpn2016"}
"""Task -> the folder whose labels the linear probe reads."""
PROBE_ROWS = {"train": 600, "val": 400}


@dataclass(frozen=True, slots=True)
class Flows:
    """Validation flows of each task: what is counted and judged, never learnt from."""

    records: dict[str, list[Record]]

    @classmethod
    def of(cls, sets: dict[str, Dataset], most: int) -> Flows:
        """At most `most` flows a folder, drawn; a task's folders together, under plain strict masks."""
        found: dict[str, list[Record]] = {task: [] for task in TASKS}
        for folder, data in sets.items():
            if (task := traffic.RECIPE["folders"][folder]) in found:
                found[task] += traffic.strict(data, drawn(data.indices("val"), most))
        return cls({task: records for task, records in found.items() if records})

    def units(self) -> dict[str, list[str]]:
        """Unit strings of each task's flows."""
        return {task: [encode(record) for record in records] for task, records in self.records.items()}


def drawn(rows: list[int], most: int) -> list[int]:
    """At most so many of the rows, the same ones each time."""
    if len(rows) <= most:
        return rows
    return sorted(int(row) for row in np.random.default_rng(0).choice(rows, most, replace=False))


def spread(values: dict[str, float]) -> dict[str, float]:
    """The values and their mean over tasks, rounded."""
    return {**{task: round(value, 2) for task, value in values.items()}, "mean": round(statistics.fmean(values.values()), 2)}


def plain_costs(kinds: Path, flows: Flows) -> dict[str, dict[str, float]]:
    """Tokens a flow of the readable form, for each plain tokenizer `<kind>/plain` in the folder."""
    texts = {task: [plain_text(record) for record in records] for task, records in flows.records.items()}
    found = {}
    for place in sorted(path.parent.parent for path in kinds.glob("*/plain/" + TOKENIZER)):
        tokenizer = load_auto(place / "plain")
        found[place.name] = spread({task: per_flow(tokenizer, rows) for task, rows in texts.items()})
    return found


def per_flow(tokenizer: Any, rows: Sequence[str]) -> float:
    """Mean tokens of the strings."""
    ids = tokenizer(list(rows), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return sum(map(len, ids)) / max(len(rows), 1)


def median_seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Median processor seconds of a few calls."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return statistics.median(found)


def rarity(tokens: Sequence[str], strings: Sequence[str]) -> dict[str, float]:
    """Learnt entries (single units aside) and all entries that occur less than RARE times in the training strings, as shares."""
    matcher, seen = Matcher(tokens), Counter[str]()
    for text in strings:
        seen.update(matcher.segment(text))
    learnt = [token for token in tokens if len(token) > 1]
    return {
        "rare_learnt": round(sum(seen[token] < RARE for token in learnt) / max(len(learnt), 1), 4),
        "rare_all": round(sum(seen[token] < RARE for token in tokens) / len(tokens), 4),
    }


def parameters(size: int) -> tuple[int, float]:
    """(parameters of a vocabulary's rows in `nano`, their share of all its parameters); its embeddings are tied."""
    model, native = NANO["model"], NANO["tokenizer"]["vocab_size"]
    width, inner, layers = model["hidden_size"], model["intermediate_size"], model["num_hidden_layers"]
    body = layers * (4 * width * width + 3 * width * inner + 2 * width) + width
    rows = size * width
    return rows, rows / (rows + native * width + body)


def measure(size: int, strings: list[str], units: dict[str, list[str]], plain: Path, work: Path) -> dict[str, Any]:
    """The row of one size: learn it, extend the plain base by it, count and time."""
    begun = time.process_time()
    tokens = learn(iter(strings), size, seed=traffic.RECIPE["seed"])
    seconds = time.process_time() - begun
    place = work / str(size)
    shutil.rmtree(place, ignore_errors=True)
    make_traffic_base(plain, tokens, place, name=f"size {size}")
    tokenizer = load_auto(place)
    every = [text for rows in units.values() for text in rows]
    rows, share = parameters(len(tokens))
    encoding = median_seconds(lambda: tokenizer(every, add_special_tokens=False))
    return {
        "tokens": len(tokens),
        "learn_s": round(seconds, 1),
        "per_flow": spread({task: per_flow(tokenizer, found) for task, found in units.items()}),
        "load_s": round(median_seconds(lambda: load_auto(place)), 3),
        "file_mb": round((place / TOKENIZER).stat().st_size / 1e6, 2),
        "records_per_s": round(len(every) / encoding),
        "row_parameters": rows,
        "share_of_nano": round(share, 3),
        **rarity(tokens, strings),
    }


def judge(folder: Path, records: list[Record], flows: dict[str, list[str]], sets: dict[str, Dataset], seconds: float) -> dict[str, Any]:
    """Train an extended plain base on traffic for `seconds`; nats a unit on validation flows, probes' macro-F1."""
    import torch

    from trafficllm.model.base.load import load_base
    from trafficllm.model.tuning.pretrain import held_out_loss, pack

    torch.manual_seed(0)
    base = load_base(folder, dtype="float32")
    eos, block = int(base.tokenizer.eos_token_id), traffic.RECIPE["block"]
    texts = list(traffic.passes(records, records, 1, traffic.RECIPE["seed"]))
    blocks = pack(base.tokenizer(texts, add_special_tokens=False)["input_ids"], block=block, eos=eos)
    steps = train(base.model, blocks, seconds)
    asked = [text for rows in flows.values() for text in rows[:50]]
    held = pack(base.tokenizer(asked, add_special_tokens=False)["input_ids"], block=block, eos=eos)
    per_unit = (per_flow(base.tokenizer, asked) + 1) / (statistics.fmean(map(len, asked)) + 1)
    loss = held_out_loss(base.model, held, 8) * per_unit
    probes = {task: probe(base, sets[name]) for task, name in PROBED.items() if name in sets}
    return {"cpu_s": seconds, "steps": steps, "nats_a_unit": round(loss, 4), "probe_f1": spread(probes)}


def train(model: Any, blocks: np.ndarray, seconds: float, batch: int = 8) -> int:
    """Next-token training for that many seconds of the processor, the learning rate on a cosine over them; steps made."""
    import torch

    from trafficllm.model.base.load import faster_precision

    half, rate = faster_precision() == "bfloat16", traffic.RECIPE["learning_rate"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    order = np.random.default_rng(0).permutation(len(blocks))
    model.train()
    begun, steps = time.process_time(), 0
    while (done := (time.process_time() - begun) / seconds) < 1:
        warm = min(1.0, 0.02 + done / 0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        ids = torch.from_numpy(blocks[np.take(order, range(steps * batch, (steps + 1) * batch), mode="wrap")].astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    model.eval()
    return steps


def probe(base: Any, data: Dataset) -> float:
    """Macro-F1 on validation captures of a linear readout of the last layer's mean, fitted on training flows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = {}
    for part, most in PROBE_ROWS.items():
        rows = drawn(data.indices(part), most)
        sides[part] = states(base, data.units(rows)), data.labels_of(rows)
    line = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    line.fit(*sides["train"])
    return float(f1_score(sides["val"][1], line.predict(sides["val"][0]), average="macro"))


def states(base: Any, strings: Sequence[str], most: int = 512) -> np.ndarray:
    """Mean of the last layer's states over each string's first `most` tokens: [strings, width]."""
    import torch

    out = []
    with torch.inference_mode():
        for text in strings:
            ids = base.tokenizer(text, add_special_tokens=False)["input_ids"][:most]
            out.append(base.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).float().numpy())
    return np.stack(out)


def main() -> None:
    """Measure every size, then train those asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--kinds", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/tokenizer-sizes"))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--flows", type=int, default=300, help="validation flows a folder, at most")
    parser.add_argument("--train", type=float, default=0.0, help="processor seconds of training a size; 0: none")
    options = parser.parse_args()
    sets, records, _ = instruct.material(options.trained)
    flows = Flows.of(sets, options.flows)
    strings, units = [encode(record) for record in records], flows.units()
    body = read_json(options.out) if options.out.is_file() else {"sizes": {}}
    body |= {
        "records": len(records),
        "record_units": sum(map(len, strings)),
        "units": len(UNITS),
        "rare_below": RARE,
        "flows": {task: len(rows) for task, rows in units.items()},
        "units_per_flow": spread({task: statistics.fmean(map(len, rows)) for task, rows in units.items()}),
        "plain_per_flow": plain_costs(options.kinds, flows),
    }
    for size in options.sizes:
        row = body["sizes"].setdefault(str(size), {})
        if "per_flow" not in row or not (options.work / str(size)).is_dir():
            row |= measure(size, strings, units, options.plain, options.work)
        if options.train and "training" not in row:
            row["training"] = judge(options.work / str(size), records, units, sets, options.train)
        write_json(options.out, body)
        print(size, row, flush=True)


if __name__ == "__main__":
    main()
