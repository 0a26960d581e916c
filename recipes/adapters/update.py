"""What an update costs and keeps, beside training again on everything: bundled malware captures without their reserved part.

    python recipes/adapters/update.py --out runs/update [--steps 800] [--json docs/results/update.json]

Eighteen classes are registered; the new data are two further classes and one more capture of each of three old ones. The update starts from
the live version and takes its usual fifth of the steps; the full retraining on old + new takes the steps of the first registration.
Both are scored on the same test rows, those of old + new. Each phase is a process of its own, so its peak memory is its own; a finished
phase is not run again, so the whole can be cut off anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trafficllm
from trafficllm.core.files import read_json, write_json
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import BuildOptions, build_dataset, load
from trafficllm.records.dataset.reserved import Reserved

CAPTURES = Path(trafficllm.__file__).parent / "data" / "captures"
ADDED, MORE = ("Weibo", "Zeus"), ("Gmail", "Neris", "Virut")
FULL_STEPS, CAP, SEED = 800, 300, 0
STEPS = "UPDATE_FULL_STEPS"
"""Environment variable that hands `--steps` to the data phase."""
PHASES = ("data", "register", "update", "full", "compare")


def captures(out: Path) -> None:
    """Folders `old`, `new` and `both` of links to captures that the reserved list does not name."""
    held = Reserved.load(CAPTURES / "reserved.csv")
    for folder in sorted(path for path in (CAPTURES / "MTD").iterdir() if path.is_dir()):
        files = [file for file in sorted(folder.glob("*.pcap*")) if not held.share(f"{folder.name}/{file.name}")]
        fresh = files if folder.name in ADDED else files[-1:] if folder.name in MORE else []
        for side in ("old", "new", "both"):
            mine = [file for file in files if side == "both" or (file in fresh) == (side == "new")]
            for file in mine:
                link = out / side / folder.name / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(file)


def data(out: Path) -> dict[str, Any]:
    """Three data sets of the three folders."""
    captures(out / "captures")
    rows = {}
    for side in ("old", "new", "both"):
        build_dataset(out / "captures" / side, task=get_task("MTD"), out=out / "data" / side, options=BuildOptions(seed=SEED, cap=CAP))
        made = load(out / "data" / side)
        rows[side] = {part: len(made.indices(part)) for part in ("train", "val", "test")}
    return {"rows": rows, "steps": int(os.environ.get(STEPS, FULL_STEPS))}


def steps_of(out: Path) -> int:
    """The full trainings' steps, as the data phase wrote them down."""
    return int(read_json(out / "data.json")["steps"])


def _learn(out: Path, side: str, registry: str) -> dict[str, Any]:
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.adapters.learn import register
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.model.base.load import load_base
    from trafficllm.registry.store import Registry

    options = TuneOptions(max_steps=steps_of(out), epochs=100, looks=3, first_look=0.5, seed=SEED)
    training = Training(load_base("default"), Registry(out / registry), out / f"work-{side}", options, baselines=False)
    return register(out / "data" / side, training, task=get_task("MTD"), augment=False).as_dict()


def register(out: Path) -> dict[str, Any]:
    """The first version, on the old data."""
    return _learn(out, "old", "registry")


def full(out: Path) -> dict[str, Any]:
    """Training again on old + new, in a registry of its own."""
    return _learn(out, "both", "registry-full")


def update(out: Path) -> dict[str, Any]:
    """The update: live weights, replayed sample and new data, gate."""
    from trafficllm.core.settings import TuneOptions
    from trafficllm.lifecycle.adapters.training import Training
    from trafficllm.lifecycle.adapters.update import update as learn_more
    from trafficllm.model.base.load import load_base
    from trafficllm.registry.store import Registry

    options = TuneOptions(epochs=100, seed=SEED)  # an update's steps follow from the registration's
    training = Training(load_base("default"), Registry(out / "registry"), out / "work-update", options, baselines=False)
    return learn_more(out / "data" / "new", training, task=get_task("MTD")).as_dict()


def compare(out: Path) -> dict[str, Any]:
    """All three versions on the test rows of old + new that none of them was tuned on: macro-F1 over all classes and over the old ones."""
    from trafficllm.core.metrics import macro_f1
    from trafficllm.infer.detector import TaskModel
    from trafficllm.infer.engine.engine import Engine
    from trafficllm.model.base.load import load_base
    from trafficllm.registry.store import Registry

    both, engine = load(out / "data" / "both"), Engine(load_base("default"))
    learnt = {h for side in ("old", "new", "both") for h in hashes(out, side)}
    rows = [i for side in ("old", "new") for i in _unseen(out / "data" / side, learnt)]
    updated = read_json(out / "update.json")["version"]
    made = {"before": (out / "registry", "v0001"), "update": (out / "registry", updated), "full": (out / "registry-full", "v0001")}
    result: dict[str, Any] = {"rows": len(rows)}
    labels = list(both.manifest["trainable"])
    truth = [label for label, _ in rows]
    old = [k for k, label in enumerate(truth) if label not in ADDED]
    for name, (registry, version) in made.items():
        model = TaskModel.of(engine, get_task("MTD"), Registry(registry).show("MTD", version))
        scores = model.scorer.score([model.masked(record) for _, record in rows])
        guess = [scores.labels[k] for k in scores.probabilities.argmax(axis=1)]
        result[name] = {
            "macro_f1": macro_f1(labels, truth, guess),
            "old_classes": macro_f1([y for y in labels if y not in ADDED], [truth[k] for k in old], [guess[k] for k in old]),
        }
        engine.remove_adapter(f"MTD/{version}")  # versions of two registries share their names
    return result


def hashes(out: Path, side: str) -> list[int]:
    """Content hashes of the rows that tuning or validation read."""
    made = load(out / "data" / side)
    return made.hashes([*made.indices("train"), *made.indices("val")])


def _unseen(folder: Path, learnt: set[int]) -> list[tuple[str, Any]]:
    made = load(folder)
    idx = made.indices("test")
    kept = [i for i, h in zip(idx, made.hashes(idx), strict=True) if h not in learnt]
    return list(zip(made.labels_of(kept), made.raw_records(kept), strict=True))


def run(phase: str, out: Path) -> None:
    """One phase, with its processor seconds and peak memory."""
    import torch

    from trafficllm.model.tuning.job import peak_bytes

    torch.set_num_threads(1)
    start = time.process_time()
    work: Callable[[Path], dict[str, Any]] = globals()[phase]
    body = work(out)
    write_json(out / f"{phase}.json", {**body, "cpu_seconds": round(time.process_time() - start, 1), "peak_bytes": peak_bytes()})


def table(out: Path) -> dict[str, Any]:
    """The figures of all phases side by side."""
    found = {phase: read_json(out / f"{phase}.json") for phase in PHASES}
    more, again, update_ = found["update"], found["full"], found["compare"]
    return {
        "command": "python recipes/adapters/update.py --out OUT",
        "data": {"rows": found["data"]["rows"], "added": ADDED, "more": MORE, "split": "capture groups", "mask": "strict", "cap": CAP},
        "steps": {"update": more["tuning"]["steps"], "full": found["data"]["steps"]},
        "cpu_seconds": {"update": more["cpu_seconds"], "full": again["cpu_seconds"], "ratio": more["cpu_seconds"] / again["cpu_seconds"]},
        "tuning_seconds": {"update": more["tuning"]["seconds"], "full": again["tuning"]["seconds"]},
        "peak_bytes": {"update": more["peak_bytes"], "full": again["peak_bytes"]},
        "macro_f1": update_,
        **{key: more[key] for key in ("status", "why", "gate", "transfer", "replayed", "added_labels")},
    }


def main() -> None:
    """Run the phases that are missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", choices=PHASES)
    parser.add_argument("--steps", type=int, default=FULL_STEPS, help="of both full trainings")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.phase:
        run(chosen.phase, chosen.out)
        return
    for phase in PHASES:
        if not (chosen.out / f"{phase}.json").is_file():
            command = [sys.executable, __file__, "--out", str(chosen.out), "--phase", phase]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", STEPS: str(chosen.steps)})
    found = table(chosen.out)
    print(json.dumps(found, indent=1))
    if chosen.json:
        write_json(chosen.json, found)


if __name__ == "__main__":
    main()
