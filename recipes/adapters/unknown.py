"""Which flows belong to no class of the task? Five draws of four left-out MTD classes, beside LightGBM's max-probability.

    python recipes/adapters/unknown.py --out runs/unknown [--steps 400] [--only DRAW] [--json docs/results/unknown.json]

Bundled captures without their reserved part. The split's validation groups are this test; a fifth of the training groups of each class
(single flows where it has one group) are this validation, which alone fits the score. A draw's classes are in neither training nor
validation. The kind of score was chosen elsewhere (`trafficllm.evaluate.unknown`); all are shown. A finished draw is kept in `--out`, so
the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

import trafficllm
from trafficllm.core import calibration as formulas
from trafficllm.core import metrics
from trafficllm.core.files import hash64, read_json, write_json
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import Scores, Silent
from trafficllm.evaluate import calibrate, unknown
from trafficllm.evaluate.baselines import table as baselines
from trafficllm.evaluate.baselines.learners import Data, Part
from trafficllm.infer.engine.engine import Engine
from trafficllm.infer.engine.scorer import LLMScorer
from trafficllm.lifecycle.studies.scoring import BANK
from trafficllm.model.base.load import Base, load_base
from trafficllm.model.tuning import job as tune
from trafficllm.model.tuning.augment import augment
from trafficllm.records import prompts
from trafficllm.records.catalog import get_task
from trafficllm.records.dataset.dataset import BuildOptions, Dataset, build_dataset, load

CAPTURES = Path(trafficllm.__file__).parent / "data" / "captures"
DRAWS, LEFT_OUT, CAP, SEED = 5, 4, 300, 0
SHOWN = ("auroc", "found_at_5", "macro_f1")
STATES = ("hidden", "pooled", "readout")
BUDGET_S = 30.0
"""Estimated search seconds of LightGBM: one point for each of its three sets of columns."""


def data_set(out: Path) -> Dataset:
    """MTD from the bundled captures, as the quickstart builds it."""
    if not (out / "manifest.json").is_file():
        build_dataset(
            CAPTURES / "MTD", task=get_task("MTD"), out=out, options=BuildOptions(seed=SEED, reserved=CAPTURES / "reserved.csv", cap=CAP)
        )
    return load(out)


def sides(data: Dataset) -> dict[str, list[int]]:
    """Row indices of train, val and test; no reserved row is in any."""
    idx = data.indices("train")
    labels, groups, hashes = data.labels_of(idx), data.groups(idx), data.hashes(idx)
    names: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        names.setdefault(label, set()).add(group)

    def held(k: int) -> bool:
        mine = sorted(names[labels[k]])
        return groups[k] in mine[:: max(2, min(5, len(mine)))] if len(mine) > 1 else hashes[k] % 5 == 0

    val = [idx[k] for k in range(len(idx)) if held(k)]
    return {"train": sorted(set(idx) - set(val)), "val": val, "test": data.indices("val")}


def left_out(labels: Sequence[str], draw: int) -> tuple[str, ...]:
    """Four classes a draw; five draws leave out each of twenty classes once."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    return tuple(sorted(labels[k] for k in order[draw * LEFT_OUT : (draw + 1) * LEFT_OUT]))


def known_rows(data: Dataset, rows: Mapping[str, list[int]], out: Sequence[str]) -> dict[str, list[int]]:
    """Rows without the left-out classes; these apart, as `strange`, from the test side."""
    kept = {name: [i for i, y in zip(idx, data.labels_of(idx), strict=True) if y not in out] for name, idx in rows.items()}
    return {**kept, "strange": sorted(set(rows["test"]) - set(kept["test"]))}


def tune_draw(
    base: Base, data: Dataset, rows: Mapping[str, list[int]], labels: tuple[str, ...], *, out: Path, steps: int
) -> tune.TuneReport:
    """The draw's adapter and readout, records changed as in `adapter register`; a fixed number of steps, so that a busy machine changes
    nothing."""

    def asked(idx: Sequence[int]) -> list[Any]:
        return [prompts.traffic_prompt(data.task, units) for units in data.units(idx)]

    train, val = rows["train"], rows["val"]
    answers, seen = data.labels_of(train), data.labels_of(val)
    table = tune.TuneData(
        asked(train),
        answers,
        labels,
        asked(val),
        seen,
        records=data.records(train),
        prompt_of=lambda record: prompts.detection(data.task, record, data.codec),
        augment=augment,
    )
    options = TuneOptions(max_steps=steps, epochs=100, looks=3, first_look=0.5, seed=SEED)
    return tune.tune_task(base, table, out, options, Silent())


def scored(base: Base, data: Dataset, rows: Mapping[str, list[int]], labels: tuple[str, ...], adapter: Path) -> dict[str, Scores]:
    """Scores, hidden states and readout logits of every side; of the training rows, BANK spread over the classes."""
    engine = Engine(base)
    engine.add_adapter("draw", adapter)
    scorer = LLMScorer(engine, "draw", data.task, labels, codec=data.codec)
    return {name: scorer.score(data.records(idx)) for name, idx in rows.items()}


def trees(data: Dataset, rows: Mapping[str, list[int]], labels: tuple[str, ...]) -> dict[str, Any]:
    """LightGBM on the same masked records: 1 - max probability of test and left-out rows."""
    parts = {name: Part(data.records(idx), data.labels_of(idx), codec=data.codec) for name, idx in rows.items()}
    fitted = baselines.fit("lightgbm", Data(labels, parts["train"], parts["val"], SEED, 1, BUDGET_S))
    p = {name: fitted.probabilities(parts[name]) for name in ("test", "strange")}
    strange, known = 1 - p["strange"].max(axis=1), 1 - p["test"].max(axis=1)
    guess = [labels[k] for k in p["test"].argmax(axis=1)]
    return {**figures(strange, known), "macro_f1": metrics.macro_f1(labels, parts["test"].y, guess), "params": dict(fitted.params)}


def figures(strange: Any, known: Any) -> dict[str, float]:
    """AUROC, and the share of strangers found where 5 % of known test flows are falsely called unknown."""
    return {"auroc": metrics.auroc(strange, known), "found_at_5": metrics.tpr_at_fpr(strange, known, unknown.FALSE_ALARMS)}


def spread(rows: Sequence[int], size: int) -> list[int]:
    """At most `size` rows, evenly over their order, which is by class."""
    return list(rows[:: -(-len(rows) // size)])


def one(base: Base, data: Dataset, draw: int, *, out: Path, steps: int) -> dict[str, Any]:
    """One draw: tuned, scored, the score chosen on validation, tested once."""
    strangers = left_out(data.labels, draw)
    labels = tuple(name for name in data.labels if name not in strangers)
    rows = known_rows(data, sides(data), strangers)
    start = time.process_time()
    report = tune_draw(base, data, rows, labels, out=out / "adapter", steps=steps)
    spent = time.process_time() - start
    by_class = sorted(rows["train"], key=lambda i: hash64(str(i).encode()))
    some = {**rows, "train": sorted(spread(by_class, BANK))}
    found = scored(base, data, some, labels, out / "adapter")
    facts = {name: (data.labels_of(idx), data.groups(idx)) for name, idx in some.items()}
    keep(found, facts, labels, out / "scores.safetensors")
    return {
        "draw": draw,
        "left_out": list(strangers),
        "rows": {name: len(idx) for name, idx in rows.items()},
        "tuning": {"steps": report.steps, "cpu_seconds": round(spent, 1), "validation": report.validation},
        "lightgbm": trees(data, rows, labels),
    }


def keep(found: Mapping[str, Scores], facts: Mapping[str, tuple[Sequence[str], Sequence[str]]], labels: Sequence[str], path: Path) -> None:
    """Log-probabilities, hidden states, readout logits, truths and captures of every side, to judge scores again without tuning."""
    tensors = {}
    for name, scores in found.items():
        tensors[f"{name}.logits"] = scores.logits
        for key in STATES:
            tensors[f"{name}.{key}"] = np.ascontiguousarray(getattr(scores, key))
        y, groups = facts[name]
        tensors[f"{name}.y"] = metrics.indices(labels, y)
        tensors[f"{name}.groups"] = np.unique(list(groups), return_inverse=True)[1].astype(np.int64)
    save_file(tensors, path)


def judged(path: Path, labels: Sequence[str]) -> dict[str, Any]:
    """The unknown scores of one draw from its kept rows, all of them shown on test: AUROC, found at 5 % false alarms there, and at the
    threshold that validation sets the share of strangers found and of known flows called unknown, by flow and by capture."""
    kept = load_file(path)

    def part(name: str) -> unknown.Rows:
        states = (kept[f"{name}.{key}"].astype(np.float64) for key in STATES)
        return unknown.Rows(kept[f"{name}.logits"], kept[f"{name}.y"], *states, groups=kept[f"{name}.groups"])

    side = {name: part(name) for name in ("train", "val", "test", "strange")}
    val = side["val"]
    temperature = calibrate.fit_temperature(val.logits, val.y)
    chosen = unknown.choose(side["train"], val, temperature=temperature, seed=SEED)

    def on_test(method: str) -> dict[str, float]:
        params = unknown.fit(method, side["train"], SEED, val=val, temperature=temperature)
        strange, known, seen = (formulas.unknown_score(method, params, side[name], temperature) for name in ("strange", "test", "val"))
        above = unknown.threshold(seen, val.groups)
        groups = side["test"].groups
        by_capture = [float((known[groups == k] > above).mean()) for k in np.unique(groups)]
        return {
            **figures(strange, known),
            "found": float((strange > above).mean()),
            "false": float((known > above).mean()),
            "false_by_capture": statistics.fmean(by_capture),
        }

    shown = {method: on_test(method) for method in unknown.METHODS}
    guess = [labels[k] for k in side["test"].logits.argmax(axis=1)]
    truth = [labels[k] for k in side["test"].y]
    return {
        "chosen": chosen["method"],
        **shown[chosen["method"]],
        "macro_f1": metrics.macro_f1(labels, truth, guess),
        "test": shown,
        "validation": chosen["trials"],
    }


def main() -> None:
    """Run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", type=int, action="append", help="these draws alone, in processes of their own")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = data_set(chosen.out / "data")
    found = []
    for draw in chosen.only or range(DRAWS):
        place = chosen.out / f"draw{draw}-{chosen.steps}"
        if not (place / "draw.json").is_file():
            write_json(place / "draw.json", one(load_base("default", dtype="float32"), data, draw, out=place, steps=chosen.steps))
        facts = read_json(place / "draw.json")
        labels = [name for name in data.labels if name not in facts["left_out"]]
        found.append({**facts, "adapter": judged(place / "scores.safetensors", labels)})
        print(json.dumps({"draw": draw, "adapter": found[-1]["adapter"], "lightgbm": facts["lightgbm"]}), flush=True)
    table = {
        "command": f"python recipes/adapters/unknown.py --out OUT --steps {chosen.steps}",
        "data": {"sha256": data.sha256, "mask": data.profile, "split": "capture groups, reserved captures left out", "cap": CAP},
        "mean": {
            side: {key: statistics.fmean(row[side][key] for row in found) for key in keys}
            for side, keys in {"adapter": (*SHOWN, "found", "false", "false_by_capture"), "lightgbm": SHOWN}.items()
        },
        "draws": found,
    }
    print(json.dumps(table["mean"], indent=1))
    if chosen.json:
        write_json(chosen.json, table)


if __name__ == "__main__":
    main()
