"""What generated flows are worth to a detector of a rare class: `python recipes/generation/rare.py --data DATA --out runs/rare`.

Of one class only a few training flows are kept (`[rare]` of generation.toml). A joint adapter learns from what is left, and writes as
many flows of the rare class as the others have. LightGBM on strictly masked columns, trained on: the few flows (`few`), the few
repeated (`repeated`), the few weighted up (`weighted`), the few and flows compiled from them as templates, as scenarios do it
(`templates`), the few and generated ones (`generated`), all real ones (`all`, what more
capturing would give). Judged on real flows of the validation part; `--part test` is a scoring. Five draws of the kept flows for the
trees; the adapter sees the first.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trafficllm.capture.compile.plans import compile_flows
from trafficllm.capture.files.cut import cut_flows, measured
from trafficllm.capture.files.write import write_capture
from trafficllm.core.files import write_json
from trafficllm.core.metrics import macro_f1
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import FlowPlan, Record, Silent
from trafficllm.evaluate.baselines.features import everything
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.generator.generator import Generator
from trafficllm.model.base.load import load_base
from trafficllm.model.tuning.job import TuneData, tune_generation
from trafficllm.records import masks, prompts
from trafficllm.records.catalog import get_task
from trafficllm.records.codec import values, view
from trafficllm.records.codec.canonical import canonical
from trafficllm.records.codec.codec import encode
from trafficllm.records.codec.flows import records_of
from trafficllm.records.codec.plan import plan_of
from trafficllm.records.dataset.dataset import Dataset, build_dataset, load

PLAN = tomllib.loads(Path(__file__).with_name("generation.toml").read_text(encoding="utf-8"))
RARE = PLAN["rare"]
TASK = get_task(RARE["task"])
FOLDER = next(entry["folder"] for entry in PLAN["task"] if entry["id"] == RARE["task"])


def rows(data: Dataset, part: str) -> dict[str, list[Record]]:
    """Shown records of a part by label."""
    out: dict[str, list[Record]] = {label: [] for label in RARE["labels"]}
    places = data.indices(part)
    for label, record in zip(data.labels_of(places), data.raw_records(places), strict=True):
        if label in out:
            out[label].append(view.shown(record))
    return out


def made(train: dict[str, list[Record]], n: int, chosen: argparse.Namespace) -> list[Record]:
    """Generated flows of the rare class, through the same observer as the real ones."""
    pairs = [(label, record) for label, records in train.items() for record in records]
    data = TuneData(prompts=[prompts.generation(TASK, label) for label, _ in pairs], answers=[encode(record) for _, record in pairs])
    options = TuneOptions(max_steps=chosen.steps or RARE["steps"], epochs=10_000, learning_rate=PLAN["rate"], looks=0, seed=chosen.seed)
    base = load_base(chosen.base)
    tune_generation(base, data, chosen.out / "adapter", options)
    engine = Engine(base)
    engine.add_adapter(TASK.id, chosen.out / "adapter")
    generator = Generator(engine, TASK.id, values={RARE["rare"]: values.learnt(train[RARE["rare"]])})
    plans = list(generator.plans(TASK, RARE["rare"], n, seed=chosen.seed))
    return _observed(plans, chosen.seed, chosen.data / FOLDER / RARE["rare"])


def templated(few: list[Record], n: int, seed: int, cut: Path) -> list[Record]:
    """Flows compiled from the few as templates, hidden bytes made anew, through the same observer as the real ones."""
    rng = random.Random(seed)
    plans = [plan_of(replace(rng.choice(few), masked=frozenset()), label=RARE["rare"], seed=rng.randrange(1 << 60)) for _ in range(n)]
    return _observed(plans, seed, cut)


def _observed(plans: list[FlowPlan], seed: int, real: Path) -> list[Record]:
    """Plans as a reader sees them, cut like the real captures of the class."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.pcap"
        write_capture(path, [compile_flows(plans, seed=seed, start=10**18, spread=len(plans) * 10**9)])
        return [view.shown(record) for batch in cut_flows(path, measured([real])) for record, _ in records_of(batch)]


def judged(train: dict[str, list[Record]], held: dict[str, list[Record]], *, weigh: bool = False, seed: int = 0) -> dict[str, float]:
    """Macro-F1 and the rare class's own F1 of LightGBM on shown records."""
    from lightgbm import LGBMClassifier

    x, y = _columns(train)
    test_x, test_y = _columns(held)
    model = LGBMClassifier(
        n_estimators=150,
        num_leaves=15,
        min_child_samples=3,
        colsample_bytree=0.5,
        random_state=seed,
        n_jobs=1,
        verbosity=-1,
        class_weight="balanced" if weigh else None,
    ).fit(x, y)
    found = [str(label) for label in model.predict(test_x)]
    hits = Counter(zip(test_y, found, strict=True))
    own = RARE["rare"]
    both = sum(a == own for a in test_y) + sum(b == own for b in found)
    return {"macro_f1": macro_f1(sorted(held), test_y, found), "rare_f1": 2 * hits[own, own] / both if both else 0.0}


def _columns(flows: dict[str, list[Record]]) -> tuple[Any, list[str]]:
    """What a detector may see: strict masks, so that TTL and ports do not give the class away."""
    records = [canonical(masks.apply(record)) for part in flows.values() for record in part]
    return np.asarray(everything(records)), [label for label, part in flows.items() for _ in part]


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """All ways, five draws of the kept flows; generated flows come from an adapter that saw the first draw only."""
    build_dataset(chosen.data / FOLDER, task=TASK, out=chosen.out / "data", progress=Silent())
    data = load(chosen.out / "data")
    train, held = rows(data, "train"), rows(data, chosen.part)
    own, want = RARE["rare"], round(statistics.median(len(part) for part in train.values()))
    draws = [random.Random(f"{chosen.seed} {k}").sample(train[own], RARE["kept"]) for k in range(5)]
    generated = made({**train, own: draws[0]}, want, chosen)
    ways: dict[str, list[dict[str, float]]] = {}
    for k, kept in enumerate(draws):
        few = {**train, own: kept}
        sets = {"few": few, "repeated": {**few, own: (kept * want)[:want]}, "weighted": few}
        sets["templates"] = {**few, own: kept + templated(kept, want, k, chosen.data / FOLDER / own)}
        if k == 0:
            sets |= {"generated": {**few, own: kept + generated}, "all": train}
        for name, flows in sets.items():
            ways.setdefault(name, []).append(judged(flows, held, weigh=name == "weighted", seed=chosen.seed))
    return {
        "rare": own,
        "kept": RARE["kept"],
        "generated": len(generated),
        "others": {label: len(part) for label, part in train.items() if label != own},
        "part": chosen.part,
        "held": {label: len(part) for label, part in held.items()},
        "first_draw": {name: found[0] for name, found in ways.items()},
        "median": {name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in ways.items()},
    }


def main() -> None:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="default")
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(chosen)
    write_json(chosen.out / f"rare_{chosen.part}.json", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
